"""PyTorch on the CPU as a peer: `pytorch.py THREADS`. The protocol is that of protocol.ts. `pytorch.py version` says what it is."""

import json
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

MARK = "kfacet-bench: "
LONG_ENOUGH = 0.050
REFERENCE_BLAS = "reference BLAS"


def blas():
    """Who multiplies matrices here. Debian's PyTorch takes what is installed as libblas.so.3."""
    if torch.backends.mkl.is_available():
        return "MKL"
    torch.ones(2, 2) @ torch.ones(2, 2)
    try:
        with open("/proc/self/maps") as file:
            libraries = {line.split()[-1] for line in file if "blas" in line or "blis" in line or "atlas" in line}
    except OSError:
        return "unknown BLAS"
    for mark, name in (("openblas", "OpenBLAS"), ("blis", "BLIS"), ("atlas", "ATLAS"), ("blas", REFERENCE_BLAS)):
        if any(mark in library for library in libraries):
            return name
    return "unknown BLAS"


def pattern(size, seed, dtype=torch.float32):
    mask = np.uint64(0xFFFFFFFF)
    mixed = ((np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B1)) & mask) ^ np.uint64((seed * 0x85EBCA6B) & 0xFFFFFFFF)
    word = ((mixed ^ (mixed >> np.uint64(15))) * np.uint64(0xC2B2AE35)) & mask
    values = ((word ^ (word >> np.uint64(13))) >> np.uint64(8)) / 2.0**23 - 1
    return torch.from_numpy(values).to(dtype)


def probe(result):
    flat = result.reshape(-1)
    return [float(flat[int((i + 0.5) * flat.numel() / 8)]) for i in range(8)]


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


def gemm(n, dtype):
    dtype = getattr(torch, dtype)
    a, b = pattern(n * n, 1, dtype).reshape(n, n), pattern(n * n, 2, dtype).reshape(n, n)
    return probe(a @ b), lambda: a @ b


def images(seed, shape, layout):
    """From [n, height, width, channels] to PyTorch's shape, in either order of the elements."""
    tensor = pattern(int(np.prod(shape)), seed).reshape(shape).permute(0, 3, 1, 2)
    return tensor.contiguous(memory_format=torch.channels_last if layout == "nhwc" else torch.contiguous_format)


def conv(which, batch, channels, size, layout):
    x = images(1, (batch, size, size, channels), layout)
    weight = images(2, (channels, 3, 3, channels), layout)
    gradient = images(3, (batch, size, size, channels), layout)

    def backward(mask):
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
        )

    f = {
        "forward": lambda: F.conv2d(x, weight, padding=1),
        "input gradient": lambda: backward([True, False, False])[0],
        "weight gradient": lambda: backward([False, True, False])[1],
    }[which]
    return probe(f().permute(0, 2, 3, 1)), f


def network(features, kernel, fc, classes, channels, size, batch, which, layout):
    modules, depth = [], channels
    for item in features:
        if item == "M":
            modules.append(torch.nn.MaxPool2d(2))
            size //= 2
        else:
            modules += [torch.nn.Conv2d(depth, item, kernel, padding=kernel // 2), torch.nn.BatchNorm2d(item), torch.nn.ReLU(inplace=True)]
            depth = item
    modules.append(torch.nn.Flatten())
    width = depth * size * size
    for hidden in fc:
        modules += [torch.nn.Linear(width, hidden), torch.nn.ReLU(inplace=True)]
        width = hidden
    model = torch.nn.Sequential(*modules, torch.nn.Linear(width, classes))
    if layout == "nhwc":
        model = model.to(memory_format=torch.channels_last)
    size = size * 2 ** features.count("M")
    x = images(1, (batch, size, size, channels), layout)
    parameters = [float(sum(p.numel() for p in model.parameters()))]

    if which == "forward":
        model.eval()

        def forward():
            with torch.inference_mode():
                model(x)

        return parameters, forward

    labels = torch.arange(batch) % classes
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return parameters, step


def prepare(work):
    if work["kind"] == "conv":
        return conv(work["pass"], work["batch"], work["channels"], work["size"], work["layout"])
    if blas() == REFERENCE_BLAS:  # it would look slower than it is
        raise RuntimeError("PyTorch finds only the reference BLAS here, thirty times slower than others; install libopenblas0-pthread")
    if work["kind"] == "gemm":
        return gemm(work["n"], work["dtype"])
    names = ("features", "kernel", "fc", "classes", "channels", "size", "batch", "pass", "layout")
    return network(*(work[name] for name in names))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main():
    torch.set_num_threads(int(sys.argv[1]))
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


if sys.argv[1] == "version":
    print(f"PyTorch {torch.__version__} with {blas()}")
else:
    main()
