"""Three networks on all of MNIST, trained to the results that papers report for networks of their size.

    python examples/mnist.py wide
    python examples/mnist.py dropout
    python examples/mnist.py lenet

`wide` has one hidden layer of 800 units (Simard, Steinkraus and Platt 2003: 1.6 % of the test images wrong); `dropout`
has three of 1024 ReLU units, a third of them silent in each step, at random (Srivastava et al. 2014: 1.25 %), and
standardized over the batch; `lenet` looks through small sliding windows first (LeCun et al. 1998: 0.95 % for their
LeNet-5).

Every choice (the options' defaults) was made with `--choose`, which trains on 50,000 of the training images and tests
on the other 10,000. Without it, all 60,000 are trained on for the same fixed number of epochs, and the 10,000 test
images are looked at once, at the end. No image is distorted or shifted; each seed is one run.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a second thread helps where it has a core for itself: set it then

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.training import evaluate, fit

MNIST = Path(__file__).parent / "data" / "mnist"


def wide(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dense(784, 800, "relu", rng=rng), nn.Dense(800, 10, rng=rng))


def dropout(rng: np.random.Generator) -> nn.Module:
    layers = [nn.Flatten(), nn.Dropout(0.2, rng=rng)]
    for inputs, outputs in pairwise([784, 1024, 1024, 1024]):
        layers += [nn.Dense(inputs, outputs, rng=rng), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.35, rng=rng)]
    return nn.Sequential(*layers, nn.Dense(1024, 10, rng=rng))


def lenet(rng: np.random.Generator) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5, rng=rng),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 50, 5, rng=rng),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dense(800, 500, "relu", rng=rng),
        nn.Dropout(0.5, rng=rng),
        nn.Dense(500, 10, rng=rng),
    )


class Recipe(NamedTuple):
    """How a network is trained; the learning rate falls along a cosine."""

    build: Callable[[np.random.Generator], nn.Module]
    optimizer: str
    epochs: int
    learning_rate: float
    weight_decay: float


RECIPES = {
    "wide": Recipe(wide, "adamw", epochs=30, learning_rate=1e-3, weight_decay=0.1),
    "dropout": Recipe(dropout, "adamw", epochs=30, learning_rate=2e-3, weight_decay=0.0),
    "lenet": Recipe(lenet, "sgd", epochs=12, learning_rate=0.05, weight_decay=5e-4),
}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    recipe = RECIPES[options.network]
    training, test = [
        ((images[:, None] / np.float32(255)), labels) for images, labels in tg.data.read_idx_folder(options.data)
    ]
    if options.choose:
        images, labels = training
        training, test = (images[:-10_000], labels[:-10_000]), (images[-10_000:], labels[-10_000:])

    rng = np.random.default_rng(options.seed)
    model = recipe.build(rng)
    steps = options.epochs * -(-len(training[1]) // 100)
    schedule = tg.optim.cosine(options.learning_rate, steps)
    optimizer: tg.optim.Optimizer
    if options.optimizer == "sgd":
        optimizer = tg.optim.SGD(model.parameters(), schedule, momentum=0.9, weight_decay=options.weight_decay)
    else:
        optimizer = tg.optim.AdamW(model.parameters(), schedule, weight_decay=options.weight_decay)
    start = time.perf_counter()

    def report(run: Any) -> None:
        done = f"{options.network} seed {options.seed} epoch {run.epoch:2}/{run.epochs}"
        line = f"{done}  {time.perf_counter() - start:6.0f} s  training loss {run.history['loss'][-1]:.5f}"
        if options.choose:
            line += f"  held back: {100 * run.history['validation_error'][-1]:.2f} % wrong"
        print(line, flush=True)

    def error(logits: Any, labels: Any) -> float:
        return np.mean(logits.argmax(axis=-1) != labels)

    fit(
        model,
        training,
        tg.cross_entropy,
        optimizer,
        options.epochs,
        batch_size=100,
        rng=rng,
        validation=test if options.choose else None,
        metrics={"error": error} if options.choose else None,
        callbacks=[report],
        progress=False,
    )
    which = "held-back" if options.choose else "test"
    wrong = evaluate(model, test, tg.cross_entropy, {"error": error})["error"]
    print(f"{options.network} seed {options.seed}: {100 * wrong:.2f} % of {len(test[1]):,} {which} images wrong")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network on all of MNIST to a published result.")
    parser.add_argument("network", choices=RECIPES, help="which of the three networks")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, shuffling and dropout (0)")
    parser.add_argument("--choose", action="store_true", help="hold 10,000 training images back and test on these")
    parser.add_argument("--data", type=Path, default=MNIST, metavar="DIR", help="folder with four IDX files")
    parser.add_argument("--epochs", type=int, metavar="N", help="how often to go through the images")
    parser.add_argument("--optimizer", choices=["sgd", "adamw"], help="SGD with momentum 0.9, or AdamW")
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="at the start")
    parser.add_argument("--weight-decay", type=float, metavar="RATE", help="pull of the weights to 0")
    options = parser.parse_args(arguments)
    for name in ("epochs", "optimizer", "learning_rate", "weight_decay"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(RECIPES[options.network], name))
    return options


if __name__ == "__main__":
    main()
