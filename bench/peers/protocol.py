"""What the peers in Python share: the protocol of protocol.ts, its numbers, and the clock."""

import json
import resource
import sys
import time

import numpy as np

MARK = "kfacet-bench: "
LONG_ENOUGH = 0.050


def blas_of_process():
    """Who multiplies matrices here, by the libraries that are loaded."""
    try:
        with open("/proc/self/maps") as file:
            libraries = {line.split()[-1] for line in file if "blas" in line or "blis" in line or "atlas" in line}
    except OSError:
        return "unknown BLAS"
    for mark, name in (("openblas", "OpenBLAS"), ("blis", "BLIS"), ("atlas", "ATLAS"), ("blas", REFERENCE_BLAS)):
        if any(mark in library for library in libraries):
            return name
    return "unknown BLAS"


REFERENCE_BLAS = "reference BLAS"


def pattern(size, seed):
    mask = np.uint64(0xFFFFFFFF)
    mixed = ((np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B1)) & mask) ^ np.uint64((seed * 0x85EBCA6B) & 0xFFFFFFFF)
    word = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(0xC2B2AE35)) & mask
    return ((word ^ (word >> np.uint64(13))) >> np.uint64(8)) / 2.0**23 - 1


def probe(result):
    flat = result.reshape(-1)
    size = int(np.prod(flat.shape))
    return [float(flat[int((i + 0.5) * size / 8)]) for i in range(8)]


def sampler(f):
    """The mean of enough calls to be timed, in milliseconds."""
    calls = 1

    def sample():
        nonlocal calls
        while True:
            start = time.perf_counter()
            for _ in range(calls):
                f()
            took = time.perf_counter() - start
            if took >= LONG_ENOUGH or calls >= 1e6:
                return 1000 * took / calls
            calls = int(calls * 1.2 * LONG_ENOUGH / max(took, LONG_ENOUGH / 10)) + 1

    return sample


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def serve(prepare):
    """Answers requests until standard input ends. `prepare` gives a probe and what is to be timed."""
    works = {}

    def answer(request):
        if request["do"] == "memory":
            return {"memory": {"maxRss": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "rss": resident()}}
        if request["do"] == "prepare":
            evidence, f = prepare(request["work"])
            works[request["key"]] = sampler(f)
            return {"probe": evidence}
        if request["do"] == "sample":
            return {"ms": works[request["key"]]()}
        del works[request["key"]]
        return {}

    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:  # told to whoever asked
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(f"{MARK}{json.dumps(reply)}", flush=True)
