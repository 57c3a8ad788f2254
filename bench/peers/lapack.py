"""LAPACK through numpy as a peer: `lapack.py THREADS`. The protocol is that of protocol.ts. `lapack.py version` says what it is."""

import sys

import numpy as np

import protocol
from protocol import REFERENCE_BLAS, pattern, probe


def blas():
    np.ones((2, 2)) @ np.ones((2, 2))
    return protocol.blas_of_process()


def prepare(work):
    if work["kind"] != "eigh":
        raise RuntimeError("only factorizations are timed")
    if blas() == REFERENCE_BLAS:  # it would look slower than it is
        raise RuntimeError("numpy finds only the reference BLAS and LAPACK here; install libopenblas0-pthread")
    n = work["n"]
    square = pattern(n * n, 1).reshape(n, n)
    a = ((square + square.T) / 2).astype(work["dtype"])
    return probe(np.linalg.eigh(a)[0]), lambda: np.linalg.eigh(a)


if sys.argv[1] == "version":
    print(f"numpy {np.__version__} with {blas()}")
else:
    protocol.serve(prepare)
