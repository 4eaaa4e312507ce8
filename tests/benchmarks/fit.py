"""Seconds for an epoch of `fit`: eager, compiled, by Numba, beside loops written by hand and PyTorch's.

    python tests/benchmarks/fit.py [--rounds 5] [--threads 2] [--examples 12800] [--only PART_OF_A_NAME]

Three networks on MNIST: 784-128-10 (batches of 64), a LeNet (64) and a GRU that reads the rows of an image (32), each by
Adam. Every contender trains two epochs in a process of its own, and the second one is timed: compiling and checking
programs is in the first. All shuffle in each epoch: ours and the loops over `compile_step` by a DataLoader, PyTorch by
a permutation of its own tensors, Keras and scikit-learn in their own ways. The loops keep their losses.

- `Keras fit, on JAX`: the same networks in Keras's own layers and layout, the step compiled by XLA.
- `loop, PyTorch, as Keras fit`: what one adds to the loop to know how it goes: the loss and the accuracy of each batch,
  averaged over the epoch. `fit, compiled, with accuracy` does as much.
- `scikit-learn, partial_fit`: an MLPClassifier, which has 784-128-10 only; a loop over batches of 64.

The last lines say how many percent slower `fit` is than a loop over `compile_step`: both in one process, an epoch of the
one after an epoch of the other, the least of ten each; then the least and the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
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


def loop(case, examples, compiled=None):
    """A function that trains an epoch by hand, over a compiled step or as one writes it, and returns the seconds."""
    import tinygrad_mm as tg

    model, optimizer = ours(case)
    loader = tg.data.DataLoader(images(case, examples), CASES[case], shuffle=True, rng=0)
    if compiled:
        step = tg.compile_step(model, tg.cross_entropy, optimizer, backend=compiled)
    else:

        def step(x, y):
            loss = tg.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

    def epoch():
        start = time.perf_counter()
        losses = []
        for x, y in loader:
            losses.append(step(x, y))
        return time.perf_counter() - start

    return epoch


def by_hand(case, examples, compiled=None):
    """Seconds of the second epoch of a loop by hand."""
    epoch = loop(case, examples, compiled)
    epoch()
    return epoch()


def slower(case, examples, backend):
    """By how many percent `fit` is slower than a loop over `compile_step`, in one process, taking turns."""
    import tinygrad_mm as tg

    model, optimizer = ours(case)
    loader = tg.data.DataLoader(images(case, examples), CASES[case], shuffle=True, rng=0)
    by_loop, found = loop(case, examples, backend), []
    start = 0.0

    def after(run):
        nonlocal start
        found.append((time.perf_counter() - start, by_loop()))
        start = time.perf_counter()

    start = time.perf_counter()
    tg.fit(
        model, loader, tg.cross_entropy, optimizer, 11, compile=True, backend=backend, progress=False, callbacks=[after]
    )
    own, others = zip(*found[1:], strict=True)
    return 100 * (min(own) / min(others) - 1)


# ---------------------------------------------------------------------------------------------------------------------
# Others
# ---------------------------------------------------------------------------------------------------------------------


def pytorch(case, examples, fused=None, watched=False):
    """Seconds of the second epoch of a loop over PyTorch's modules; `watched`, with the epoch's loss and accuracy."""
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
        losses, total, right = [], 0.0, 0
        for chosen in order.split(CASES[case]):
            optimizer.zero_grad()
            prediction, truth = model(x[chosen]), y[chosen]
            loss = torch.nn.functional.cross_entropy(prediction, truth)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if watched:
                total += losses[-1] * len(chosen)
                right += (prediction.detach().argmax(1) == truth).sum().item()
        assert not watched or (total / len(x) < 3 and right)
    return time.perf_counter() - start


def keras(case, examples):
    """The same of Keras's own loop."""
    import os

    os.environ["KERAS_BACKEND"] = "jax"
    from keras import Input, Sequential, callbacks, layers, losses, optimizers

    x, y = images(case, examples)
    if case == "LeNet":
        x = x.reshape(-1, 28, 28, 1)  # channels last, as Keras has them
    parts = {
        "MNIST": [layers.Dense(128, "relu"), layers.Dense(10)],
        "LeNet": [
            *(layers.Conv2D(6, 5, padding="same", activation="relu"), layers.MaxPooling2D()),
            *(layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(), layers.Flatten()),
            *(layers.Dense(120, "relu"), layers.Dense(84, "relu"), layers.Dense(10)),
        ],
        "GRU": [layers.GRU(128), layers.Dense(10)],
    }[case]
    model = Sequential([Input(x.shape[1:]), *parts])
    model.compile(optimizers.Adam(RATE), losses.SparseCategoricalCrossentropy(from_logits=True))
    times = []
    mark = callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: times.append(time.perf_counter()),
        on_epoch_end=lambda *_: times.append(time.perf_counter()),
    )
    model.fit(x, y, CASES[case], epochs=2, verbose=0, callbacks=[mark])
    return times[3] - times[2]


def scikit_learn(case, examples):
    """The same of a loop over the batches of scikit-learn's network, which has dense layers only."""
    import numpy as np
    from sklearn.neural_network import MLPClassifier

    if case != "MNIST":
        return None
    x, y = images(case, examples)
    model = MLPClassifier(128, alpha=0, batch_size=CASES[case], learning_rate_init=RATE)
    rng = np.random.default_rng(0)
    for _ in range(2):
        start = time.perf_counter()
        order = rng.permutation(len(x))
        for i in range(0, len(x), CASES[case]):
            chosen = order[i : i + CASES[case]]
            model.partial_fit(x[chosen], y[chosen], classes=range(10))
    return time.perf_counter() - start


HAND, FIT = "loop over compile_step", "fit, compiled"
CONTENDERS = {
    "fit, eager": lambda *case: by_fit(*case, compile=False),
    "loop, eager": by_hand,
    FIT: lambda *case: by_fit(*case, compile=True),
    HAND: lambda *case: by_hand(*case, compiled="numpy"),
    "fit, compiled, with accuracy": lambda *case: by_fit(*case, compile=True, metrics=["accuracy"]),
}
SLOWER = {"fit, compiled": lambda *case: slower(*case, "numpy")}  # than a loop over compile_step
if installed("numba"):
    CONTENDERS["fit, Numba"] = lambda *case: by_fit(*case, compile=True, backend="numba")
    CONTENDERS["loop over compile_step, Numba"] = lambda *case: by_hand(*case, compiled="numba")
    SLOWER["fit, Numba"] = lambda *case: slower(*case, "numba")
if installed("torch"):
    CONTENDERS["loop, PyTorch"] = pytorch
    CONTENDERS["loop, PyTorch, fused optimizer"] = lambda *case: pytorch(*case, fused=True)
    CONTENDERS["loop, PyTorch, as Keras fit"] = lambda *case: pytorch(*case, fused=True, watched=True)
if installed("keras") and installed("jax"):
    CONTENDERS["Keras fit, on JAX"] = keras
if installed("sklearn"):
    CONTENDERS["scikit-learn, partial_fit"] = scikit_learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=int, default=12_800, help="images in an epoch; MNIST has 60,000")
    parser.add_argument("--only", default="", help="contenders with this in their names; 'slower' for the last lines")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    pairs = {f"{name}, slower": run for name, run in SLOWER.items()}
    if options.contender:
        keep_to_cores(options.threads)
        run = (CONTENDERS | pairs)[options.contender]
        found = {case: run(case, options.examples) for case in CASES}
        print(json.dumps({case: value for case, value in found.items() if value is not None}))
        return
    extra = ["--threads", str(options.threads), "--examples", str(options.examples)]
    print(f"threads: {options.threads}; {machine()}\n")
    if names := [name for name in CONTENDERS if options.only in name]:
        found = measure(sys.argv[0], names, options.rounds, options.threads, extra)
        print(f"seconds for an epoch of {options.examples:,} images, best (median) of {options.rounds} rounds,")
        print(f"and the ratio of the best to that of the {HAND}\n")
        print(table(found, HAND), end="\n\n")
    names = [name for name in pairs if options.only in name]
    for name, cases in measure(sys.argv[0], names, options.rounds, options.threads, extra).items():
        percent = (f"{case} {min(v):+.1f} % ({statistics.median(v):+.1f} %)" for case, v in cases.items())
        print(f"{name} than a {HAND}, least (median) of {options.rounds} rounds: {', '.join(percent)}")


if __name__ == "__main__":
    main()
