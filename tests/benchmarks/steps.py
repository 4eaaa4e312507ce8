"""One training step (forward, softmax cross-entropy, backward, update) of small and middle networks.

    python tests/benchmarks/steps.py [--rounds 9] [--threads 2] [--networks mnist]

Every contender gets the same float32 images and integer labels, and ends each step with updated weights.
"""

from __future__ import annotations

import argparse
import itertools
import json

import numpy as np
from interleaved import best_of, installed, machine, measure, table

NETWORKS = {
    "tiny": ([2, 16, 16, 2], 32),
    "small": ([64, 64, 10], 32),
    "mnist": ([784, 128, 10], 64),
    "mnist2": ([784, 512, 512, 10], 128),
    "deep": ([64] * 21, 32),
}
OPTIMIZERS = ("SGD", "Adam")


def batch(sizes, n):
    r = np.random.default_rng(0)
    return r.random((n, sizes[0]), np.float32), r.integers(0, sizes[-1], n)


def ours(name, optimizer):
    import tinygrad_mm as tg

    sizes, n = NETWORKS[name]
    x, y = batch(sizes, n)
    model = tg.nn.Sequential(
        *(
            tg.nn.Dense(a, b, "relu" if i < len(sizes) - 2 else None, rng=i)
            for i, (a, b) in enumerate(itertools.pairwise(sizes))
        )
    )
    opt = getattr(tg.optim, optimizer)(model.parameters(), 1e-3)

    def step():
        opt.zero_grad()
        tg.cross_entropy(model(x), y).backward()
        opt.step()

    return step


def torch_eager(name, optimizer, **options):
    import torch

    sizes, n = NETWORKS[name]
    x, y = (torch.from_numpy(a) for a in batch(sizes, n))
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [torch.nn.Linear(a, b)] + ([torch.nn.ReLU()] if i < len(sizes) - 2 else [])
    model = torch.nn.Sequential(*layers)
    opt = getattr(torch.optim, optimizer)(model.parameters(), 1e-3, **options)
    loss = torch.nn.functional.cross_entropy

    def step():
        opt.zero_grad()
        loss(model(x), y).backward()
        opt.step()

    return step


def numpy_by_hand(name, optimizer):
    """The textbook: forward and backward written out, new arrays everywhere."""
    sizes, n = NETWORKS[name]
    x, y = batch(sizes, n)
    r = np.random.default_rng(0)
    Ws = [(r.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32) for a, b in itertools.pairwise(sizes)]
    bs = [np.zeros(b, np.float32) for b in sizes[1:]]
    parameters = Ws + bs
    m, v, t = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters], 0

    def step():
        nonlocal t
        hs = [x]
        for i, (W, b) in enumerate(zip(Ws, bs, strict=True)):
            z = hs[-1] @ W + b
            hs.append(np.maximum(z, 0) if i < len(Ws) - 1 else z)
        e = np.exp(hs[-1] - hs[-1].max(1, keepdims=True))
        d = e / e.sum(1, keepdims=True)
        d[np.arange(n), y] -= 1
        d /= n
        dWs, dbs = [], []
        for i in reversed(range(len(Ws))):
            dWs.insert(0, hs[i].T @ d)
            dbs.insert(0, d.sum(0))
            if i:
                d = (d @ Ws[i].T) * (hs[i] > 0)
        t += 1
        for i, (p, g) in enumerate(zip(parameters, dWs + dbs, strict=True)):
            if optimizer == "SGD":
                p -= 1e-3 * g
            else:
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * g * g
                p -= 1e-3 * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)

    return step


CONTENDERS = {"tinygrad_mm eager": ours, "NumPy by hand, naive": numpy_by_hand}
if installed("torch"):
    CONTENDERS["PyTorch eager"] = torch_eager
    CONTENDERS["PyTorch eager, fused optimizer"] = lambda name, optimizer: torch_eager(name, optimizer, fused=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        make = CONTENDERS[options.contender]
        print(json.dumps({f"{n} {o}": best_of(make(n, o)) for n in options.networks for o in OPTIMIZERS}))
        return
    found = measure(__file__, list(CONTENDERS), options.rounds, options.threads, ["--networks", *options.networks])
    print(f"microseconds a step, best (median) of {options.rounds} rounds, {options.threads} threads; {machine()}")
    reference = "PyTorch eager" if "PyTorch eager" in CONTENDERS else None
    for network in options.networks:
        part = {c: {k: v for k, v in values.items() if k.split()[0] == network} for c, values in found.items()}
        print("\n" + table(part, reference))


if __name__ == "__main__":
    main()
