"""PyTorch on the CPU as a peer: `pytorch.py THREADS`. The protocol is that of protocol.ts. `pytorch.py version` says what it is."""

import sys

import numpy as np
import torch
import torch.nn.functional as F

import protocol
from protocol import REFERENCE_BLAS, probe


def blas():
    """Debian's PyTorch takes what is installed as libblas.so.3."""
    if torch.backends.mkl.is_available():
        return "MKL"
    torch.ones(2, 2) @ torch.ones(2, 2)
    return protocol.blas_of_process()


def pattern(size, seed, dtype=torch.float32):
    return torch.from_numpy(protocol.pattern(size, seed)).to(dtype)


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


if sys.argv[1] == "version":
    print(f"PyTorch {torch.__version__} with {blas()}")
else:
    torch.set_num_threads(int(sys.argv[1]))
    protocol.serve(prepare)
