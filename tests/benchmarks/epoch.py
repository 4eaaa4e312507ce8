"""Seconds for an epoch of MNIST (60,000 images, 784-128-10, batches of 64, Adam), data handling included.

    python tests/benchmarks/epoch.py [--rounds 5] [--threads 2]

Once with each library's own loader, once with batches cut from a permutation by hand. Every process trains one epoch
before it is timed; the images wrong on the test set after both show that they learn the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from interleaved import installed, keep_to_cores, machine, measure, table

DATA = Path(__file__).parents[2] / "examples" / "data" / "mnist"
BATCH, RATE = 64, 1e-3


def mnist():
    """((images, labels), (images, labels)): training and test, flat float32 images from 0 to 1."""
    import numpy as np

    from tinygrad_mm.data import read_idx_folder

    return [(x.reshape(len(x), -1) / np.float32(255), y.astype(np.int64)) for x, y in read_idx_folder(DATA)]


def by_hand(data, rng):
    """Batches cut from a permutation."""
    x, y = data
    order = rng.permutation(len(x))
    for i in range(0, len(x), BATCH):
        chosen = order[i : i + BATCH]
        yield x[chosen], y[chosen]


def timed(epoch, wrong):
    """Seconds of the second of two epochs, and what share of the test images is wrong after it."""
    epoch()
    start = time.perf_counter()
    epoch()
    return {"seconds": time.perf_counter() - start, "% wrong": 100 * wrong()}


def ours(loader, compiled=None):
    import numpy as np

    import tinygrad_mm as tg

    training, (x_test, y_test) = mnist()
    model = tg.nn.Sequential(tg.nn.Dense(784, 128, "relu", rng=0), tg.nn.Dense(128, 10, rng=1))
    opt = tg.optim.Adam(model.parameters(), RATE)
    rng = np.random.default_rng(0)
    batches = tg.data.DataLoader(training, BATCH, shuffle=True, rng=rng) if loader else None
    if compiled:
        step = tg.compile_step(model, tg.cross_entropy, opt, backend=compiled)
    else:

        def step(x, y):
            opt.zero_grad()
            tg.cross_entropy(model(x), y).backward()
            opt.step()

    def epoch():
        for x, y in batches if loader else by_hand(training, rng):
            step(x, y)

    return timed(epoch, lambda: float((model(x_test).data.argmax(1) != y_test).mean()))


def pytorch(loader, fused=None):
    import os

    import numpy as np
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    training, test = mnist()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    opt = torch.optim.Adam(model.parameters(), RATE, fused=fused)
    tensors = [torch.from_numpy(a) for a in training]
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), BATCH, shuffle=True)

    def by_permutation():
        order = torch.randperm(len(tensors[0]))
        for i in range(0, len(order), BATCH):
            chosen = order[i : i + BATCH]
            yield tensors[0][chosen], tensors[1][chosen]

    def epoch():
        for x, y in batches if loader else by_permutation():
            opt.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            opt.step()

    def wrong():
        with torch.no_grad():
            return float(np.mean(model(torch.from_numpy(test[0])).argmax(1).numpy() != test[1]))

    return timed(epoch, wrong)


CONTENDERS = {
    "tinygrad_mm eager, its loader": lambda: ours(True),
    "tinygrad_mm eager, by hand": lambda: ours(False),
    "tinygrad_mm compiled, its loader": lambda: ours(True, "numpy"),
    "tinygrad_mm compiled, by hand": lambda: ours(False, "numpy"),
}
if installed("numba"):
    CONTENDERS["tinygrad_mm Numba, by hand"] = lambda: ours(False, "numba")
if installed("torch"):
    CONTENDERS["PyTorch, its loader"] = lambda: pytorch(True)
    CONTENDERS["PyTorch, by hand"] = lambda: pytorch(False)
    CONTENDERS["PyTorch fused, by hand"] = lambda: pytorch(False, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        keep_to_cores(options.threads)
        print(json.dumps(CONTENDERS[options.contender]()))
        return
    found = measure(sys.argv[0], list(CONTENDERS), options.rounds, options.threads, ["--threads", str(options.threads)])
    print(f"best (median) of {options.rounds} rounds, threads: {options.threads}; {machine()}\n")
    print(table(found, "PyTorch, its loader"))


if __name__ == "__main__":
    main()
