"""LAPACK through numpy as a peer: `lapack.py THREADS`. The protocol is that of protocol.ts. `lapack.py version` says what it is."""

import functools
import sys

import numpy as np

import protocol
from protocol import REFERENCE_BLAS, pattern, probe


def blas():
    np.ones((2, 2)) @ np.ones((2, 2))
    return protocol.blas_of_process()


# What is timed, and the evidence in its result.
FACTORIZATIONS = {
    "eigh": (np.linalg.eigh, lambda result: result[0]),
    "svd": (lambda a: np.linalg.svd(a, full_matrices=False), lambda result: result[1]),
    "qr": (np.linalg.qr, lambda result: np.abs(np.diag(result[1]))),
    "cholesky": (np.linalg.cholesky, np.diag),
}


def operand(kind, n):
    square = pattern(n * n, 1).reshape(n, n)
    if kind in ("qr", "svd"):
        return square
    symmetric = (square + square.T) / 2
    return symmetric + n * np.eye(n) if kind == "cholesky" else symmetric


@functools.lru_cache(maxsize=1)
def drifting_factor(n, decay=0.95, batches=40, batch=128):
    """The matrix that kfacet's processes average from `driftingBatch` of protocol.ts."""
    half = n // 2
    deviations = np.arange(1, n + 1) ** -0.75
    factor = None
    for t in range(batches):
        rows = pattern(batch * n, t + 1).reshape(batch, n) * deviations
        x, y = rows[:, :half], rows[:, half:]
        c, s = np.cos(0.02 * t), np.sin(0.02 * t)
        rows = np.concatenate([c * x - s * y, s * x + c * y], axis=1).astype("float32")
        gram = rows.T @ rows / np.float32(batch)
        factor = gram if factor is None else np.float32(decay) * factor + np.float32(1 - decay) * gram
    return factor


def sre(x, panel, rank):
    for _ in range(5):
        panel = np.linalg.qr(x @ panel)[0]
    values, vectors = np.linalg.eigh(panel.T @ (x @ panel))
    return values[-rank:], panel @ vectors[:, -rank:]


def rsvd(x, panel, rank):
    q = np.linalg.qr(x @ panel)[0]
    for _ in range(4):
        q = np.linalg.qr(x.T @ q)[0]
        q = np.linalg.qr(x @ q)[0]
    u, values, vt = np.linalg.svd(q.T @ x, full_matrices=False)
    return values[:rank][::-1], q @ u[:, :rank], vt[:rank]


def nystrom(x, basis, rank):
    y = (x @ basis).astype("float64")
    w = basis.astype("float64")
    shift = np.sqrt(len(x)) * np.finfo(x.dtype).eps * np.linalg.norm(y)
    y += shift * w
    c = w.T @ y
    b = y @ np.linalg.inv(np.linalg.cholesky((c + c.T) / 2)).T
    squares, vectors = np.linalg.eigh(b.T @ b)
    u = (b @ (vectors / np.sqrt(squares))).astype(x.dtype)
    return np.maximum(squares[-rank:] - shift, 0), u[:, -rank:], u


def prepare_randomized(work):
    n, rank = work["n"], work["rank"]
    x = drifting_factor(n)
    s = rank + work["oversampling"]
    panel = pattern(n * s, 1000).reshape(n, s).astype("float32")
    method = {"sre": sre, "rsvd": rsvd, "nystrom": nystrom}[work["method"]]
    if work["method"] == "nystrom":
        for _ in range(3):
            panel = np.linalg.qr(x @ panel)[0]
    return probe(method(x, panel, rank)[0]), lambda: method(x, panel, rank)


def prepare(work):
    if blas() == REFERENCE_BLAS:  # it would look slower than it is
        raise RuntimeError("numpy finds only the reference BLAS and LAPACK here; install libopenblas0-pthread")
    if work["kind"] == "randomized":
        return prepare_randomized(work)
    if work["kind"] not in FACTORIZATIONS:
        raise RuntimeError("only factorizations and randomized methods are timed")
    factorize, evidence = FACTORIZATIONS[work["kind"]]
    a = operand(work["kind"], work["n"]).astype(work["dtype"])
    return probe(evidence(factorize(a))), lambda: factorize(a)


if sys.argv[1] == "version":
    print(f"numpy {np.__version__} with {blas()}")
else:
    protocol.serve(prepare)
