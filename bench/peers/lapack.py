"""LAPACK through numpy as a peer: `lapack.py THREADS`. The protocol is that of protocol.ts. `lapack.py version` says what it is."""

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


def prepare(work):
    if work["kind"] not in FACTORIZATIONS:
        raise RuntimeError("only factorizations are timed")
    if blas() == REFERENCE_BLAS:  # it would look slower than it is
        raise RuntimeError("numpy finds only the reference BLAS and LAPACK here; install libopenblas0-pthread")
    factorize, evidence = FACTORIZATIONS[work["kind"]]
    a = operand(work["kind"], work["n"]).astype(work["dtype"])
    return probe(evidence(factorize(a))), lambda: factorize(a)


if sys.argv[1] == "version":
    print(f"numpy {np.__version__} with {blas()}")
else:
    protocol.serve(prepare)
