"""Microseconds per recorded operation on tiny arrays, forward and backward, over NumPy's own call.

    python tests/benchmarks/nodes.py [--rounds 9]

A chain of 1,000 operations on 8 floats. "over NumPy" subtracts what the same NumPy calls cost on plain arrays: the
operation itself in the forward pass, the calls of its derivative in the backward pass.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from interleaved import best_of, installed, machine, measure, table

N = 1000
x = np.linspace(0.1, 0.8, 8, dtype=np.float32)
FORWARD = {"add": lambda y: np.add(y, x), "multiply": lambda y: np.multiply(y, x), "tanh": np.tanh}


def chain(function, start):
    y = start
    for _ in range(N):
        y = function(y)
    return y


def plain():
    """What NumPy itself takes: the operation, and the calls that its derivative consists of."""
    backward = {
        "add": lambda g: g,
        "multiply": lambda g: np.multiply(g, x),
        "tanh": lambda g: np.multiply(g, np.subtract(1, np.multiply(x, x))),
    }
    out = {}
    for name, f in FORWARD.items():
        out[f"{name} forward"] = best_of(lambda f=f: chain(f, x)) / N
        out[f"{name} backward"] = best_of(lambda f=backward[name]: chain(f, x)) / N if name != "add" else 0.0
    return out


def forward_backward(operations, leaf, backward):
    out = {}
    for name, f in operations.items():
        forward = best_of(lambda f=f: chain(f, leaf()))
        both = best_of(lambda f=f: backward(chain(f, leaf())))
        out[f"{name} forward"], out[f"{name} backward"] = forward / N, (both - forward) / N
    return out


def ours():
    import tinygrad_mm as tg

    ones = np.ones_like(x)
    operations = {"add": lambda y: y + x, "multiply": lambda y: y * x, "tanh": np.tanh}
    return forward_backward(operations, lambda: tg.Tensor(x, requires_grad=True), lambda y: y.backward(ones))


def pytorch():
    import torch

    c, ones = torch.from_numpy(x), torch.ones(8)
    operations = {"add": lambda y: y + c, "multiply": lambda y: y * c, "tanh": torch.tanh}
    return forward_backward(operations, lambda: torch.tensor(x, requires_grad=True), lambda y: y.backward(ones))


def hips():
    import autograd.numpy as anp
    from autograd import grad

    operations = {"add": lambda y: y + x, "multiply": lambda y: y * x, "tanh": anp.tanh}
    out = {}
    for name, f in operations.items():
        # HIPS autograd has no forward pass of its own to time: forward and backward together.
        both = best_of(lambda f=f: grad(lambda s: anp.sum(chain(f, s)))(x))
        out[f"{name} backward"] = both / N
    return out


CONTENDERS = {"NumPy alone": plain, "tinygrad_mm": ours}
if installed("torch"):
    CONTENDERS["PyTorch"] = pytorch
if installed("autograd"):
    CONTENDERS["HIPS autograd (forward + backward)"] = hips


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(CONTENDERS[options.contender]()))
        return
    found = measure(__file__, list(CONTENDERS), options.rounds, 1, [])
    print(f"microseconds an operation, best (median) of {options.rounds} rounds, one thread; {machine()}\n")
    print(table(found, None))
    print("\ntinygrad_mm over NumPy's own calls:")
    for case in found["NumPy alone"]:
        print(f"  {case:20} {min(found['tinygrad_mm'][case]) - min(found['NumPy alone'][case]):.2f} µs")


if __name__ == "__main__":
    main()
