"""Makes linalg_hard.json: eigenvalues and singular values of named matrices by LAPACK in float64, through numpy.

The matrices are given by formulas, which test/linalg/hardList.ts repeats. Run once: python3 make_linalg_hard.py
"""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def build(rows, columns, entry):
    return np.array([[entry(i, j) for j in range(columns)] for i in range(rows)], dtype=np.float64).reshape(rows, columns)


def tridiagonal(n, d, e):
    return build(n, n, lambda i, j: d(i) if i == j else e(min(i, j)) if abs(i - j) == 1 else 0.0)


def kahan(n, theta):
    s, c = np.sin(theta), np.cos(theta)
    return build(n, n, lambda i, j: s**i * (1.0 if i == j else -c) if j >= i else 0.0)


symmetric = {
    "hilbert 12": build(12, 12, lambda i, j: 1.0 / (i + j + 1)),
    "wilkinson 21": tridiagonal(21, lambda i: float(abs(i - 10)), lambda i: 1.0),
    "glued wilkinson 105": tridiagonal(105, lambda i: float(abs(i % 21 - 10)), lambda i: 1e-8 if i % 21 == 20 else 1.0),
    "graded 17": build(17, 17, lambda i, j: 10.0 ** -max(i, j)),
    "0.95 I plus rank 3, 40": build(40, 40, lambda i, j: 0.95 * (i == j) + 0.01 * sum(np.cos(i * k + k) * np.cos(j * k + k) for k in (1, 2, 3))),
    "all equal 12": np.ones((12, 12)),
    "reversal 10": build(10, 10, lambda i, j: float(i + j == 9)),
    "second differences 200": tridiagonal(200, lambda i: 2.0, lambda i: -1.0),
    "graded 200": build(200, 200, lambda i, j: 10.0 ** (-0.08 * max(i, j)) * np.cos(i * j)),
    "clustered 150": build(150, 150, lambda i, j: 1 + 1e-10 * np.sin(i) if i == j else 1e-12 * np.cos(i + j)),
    "near denormal 30": 2.0**-1000 * build(30, 30, lambda i, j: 1.0 / (1 + abs(i - j))),
}
general = {
    "kahan 30": kahan(30, 1.2),
    "laeuchli 10": build(11, 10, lambda i, j: 1.0 if i == 0 else 1e-8 * (i == j + 1)),
    "hilbert 20 by 12": build(20, 12, lambda i, j: 1.0 / (i + j + 1)),
    "reversal 10": symmetric["reversal 10"],
    "graded 200 by 180": build(200, 180, lambda i, j: 10.0 ** (-0.04 * (i + j)) * np.cos(i * j + i)),
    "rank 3, 120 by 80": build(120, 80, lambda i, j: sum(np.sin(k * (i + 1)) * np.cos(k * (j + 1)) / k for k in (1, 2, 3))),
    "wide 30 by 160": build(30, 160, lambda i, j: np.sin(i * j + j) + 2 * (i == j)),
    "wilkinson 21": symmetric["wilkinson 21"],
    "clustered 150": symmetric["clustered 150"],
}

golden = {
    "numpy": np.__version__,
    "eigenvalues": {name: np.linalg.eigvalsh(a / np.abs(a).max()).tolist() for name, a in symmetric.items()},
    "singularValues": {name: np.linalg.svd(a / np.abs(a).max(), compute_uv=False).tolist() for name, a in general.items()},
}
(HERE / "linalg_hard.json").write_text(json.dumps(golden, indent=1) + "\n")
