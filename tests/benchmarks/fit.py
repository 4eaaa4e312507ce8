"""Seconds for an epoch of `fit`: eager, compiled, by Numba, beside loops written by hand and PyTorch's.

    python tests/benchmarks/fit.py [--rounds 5] [--threads 2] [--examples 12800]

Three networks on MNIST: 784-128-10 (batches of 64), a LeNet (64) and a GRU that reads the rows of an image (32), each by
Adam. Every contender trains two epochs in a process of its own, and the second one is timed: compiling and checking
programs is in the first. All take the same batches from a DataLoader, PyTorch from its own tensors by a permutation.
The last lines say how much slower compiled `fit` is than a loop over `compile_step`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from interleaved import installed, keep_to_cores, machine, measure, table

DATA = Path(__file__).parents[2] / "examples" / "data" / "mnist"
RATE = 1e-3
CASES = {"MNIST": 64, "LeNet": 64, "GRU": 32}  # sizes of batches


def images(case, examples):
    """(images, labels) in the shape that a network reads."""
    import numpy as np

    from tinygrad_mm.data import read_idx_folder

    (x, y), _ = read_idx_folder(DATA)
    shape = {"MNIST": (-1, 784), "LeNet": (-1, 1, 28, 28), "GRU": (-1, 28, 28)}[case]
    return (x[:examples] / np.float32(255)).reshape(shape), y[:examples].astype(np.int64)


# ---------------------------------------------------------------------------------------------------------------------
# Ours
# ---------------------------------------------------------------------------------------------------------------------


def ours(case):
    """A model and its optimizer."""
    import tinygrad_mm as tg
    from tinygrad_mm import nn

    class Rows(nn.Module):
        def __init__(self):
            self.gru, self.head = nn.GRU(28, 128, rng=0), nn.Dense(128, 10, rng=1)

        def forward(self, x):
            return self.head(self.gru(x)[1][-1])

    if case == "MNIST":
        model = nn.Sequential(nn.Dense(784, 128, "relu", rng=0), nn.Dense(128, 10, rng=1))
    elif case == "LeNet":
        model = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2, rng=0), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5, rng=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Dense(400, 120, "relu", rng=2), nn.Dense(120, 84, "relu", rng=3), nn.Dense(84, 10, rng=4)),
        )
    else:
        model = Rows()
    return model, tg.optim.Adam(model.parameters(), RATE)


def by_fit(case, examples, **options):
    """Seconds of the second epoch of `fit`."""
    import tinygrad_mm as tg

    model, optimizer = ours(case)
    ends = []
    loader = tg.data.DataLoader(images(case, examples), CASES[case], shuffle=True, rng=0)
    tg.fit(
        model, loader, tg.cross_entropy, optimizer, 2, progress=False, callbacks=[lambda run: ends.append(time.perf_counter())],
        **options,
    )  # fmt: skip
    return ends[1] - ends[0]


def by_hand(case, examples, compiled=None):
    """The same of a loop: over a compiled step, or as one writes it."""
    import tinygrad_mm as tg

    model, optimizer = ours(case)
    loader = tg.data.DataLoader(images(case, examples), CASES[case], shuffle=True, rng=0)
    if compiled:
        step = tg.compile_step(model, tg.cross_entropy, optimizer, backend=compiled)
    else:

        def step(x, y):
            tg.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

    for _ in range(2):
        start = time.perf_counter()
        for x, y in loader:
            step(x, y)
    return time.perf_counter() - start


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch's
# ---------------------------------------------------------------------------------------------------------------------


def pytorch(case, examples, fused=None):
    """The same of a loop over PyTorch's modules."""
    import os

    import torch
    from torch import nn

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.head = nn.GRU(28, 128, batch_first=True), nn.Linear(128, 10)

        def forward(self, x):
            return self.head(self.gru(x)[1][-1])

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    if case == "MNIST":
        model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    elif case == "LeNet":
        model = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )
    else:
        model = Rows()
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=fused)
    x, y = map(torch.from_numpy, images(case, examples))
    for _ in range(2):
        start = time.perf_counter()
        order = torch.randperm(len(x))
        for chosen in order.split(CASES[case]):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return time.perf_counter() - start


HAND, FIT = "loop over compile_step", "fit, compiled"
CONTENDERS = {
    "fit, eager": lambda *case: by_fit(*case, compile=False),
    "loop, eager": by_hand,
    FIT: lambda *case: by_fit(*case, compile=True),
    HAND: lambda *case: by_hand(*case, compiled="numpy"),
}
PAIRS = {FIT: HAND}
if installed("numba"):
    CONTENDERS["fit, Numba"] = lambda *case: by_fit(*case, compile=True, backend="numba")
    CONTENDERS["loop over compile_step, Numba"] = lambda *case: by_hand(*case, compiled="numba")
    PAIRS["fit, Numba"] = "loop over compile_step, Numba"
if installed("torch"):
    CONTENDERS["loop, PyTorch"] = pytorch
    CONTENDERS["loop, PyTorch, fused optimizer"] = lambda *case: pytorch(*case, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=int, default=12_800, help="images in an epoch; MNIST has 60,000")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        keep_to_cores(options.threads)
        print(json.dumps({case: CONTENDERS[options.contender](case, options.examples) for case in CASES}))
        return
    extra = ["--threads", str(options.threads), "--examples", str(options.examples)]
    found = measure(sys.argv[0], list(CONTENDERS), options.rounds, options.threads, extra)
    print(f"seconds for an epoch of {options.examples:,} images, best (median) of {options.rounds} rounds, ")
    print(f"threads: {options.threads}; {machine()}\n")
    print(table(found, HAND))
    print()
    for one, other in PAIRS.items():
        ratios = ", ".join(
            f"{case} {100 * (min(found[one][case]) / min(found[other][case]) - 1):+.1f} %" for case in CASES
        )
        print(f"{one} beside {other}: {ratios}")


if __name__ == "__main__":
    main()
