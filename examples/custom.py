"""A layer, an activation and an optimizer of your own, five lines each, trained on handwritten digits.

    python examples/custom.py

Nothing here is registered anywhere: a layer is a class with a `forward`, an activation is a NumPy function with the
line of calculus that goes with it, and an optimizer is its formula. All three work with everything else: pictures,
checkpoints, `tg.testing.check_grads`, second derivatives.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices as small as these gain nothing from a second thread

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm.training import evaluate, fit

MNIST = Path(__file__).parent / "data" / "mnist"


# A layer: the part of x that lies along `rank` directions, which are learned; with one matrix for both ways.
class Projection(tg.Module):
    def __init__(self, features, rank, rng):
        self.weight = tg.Parameter(tg.nn.init.orthogonal((features, rank), rng))

    def forward(self, x):
        return x @ self.weight @ self.weight.T


# An activation: max(x, 0)² (So et al. 2021); its derivative is 2 max(x, 0), times the gradient g of what comes after.
@tg.primitive
def squared_relu(x):
    return np.maximum(x, 0) ** 2


tg.defvjp(squared_relu, lambda g, y, x: g * 2 * np.maximum(x, 0))


# An optimizer: steps of one size along the sign of the momentum m (Bernstein et al. 2018).
class Signum(tg.optim.Optimizer):
    states = ("momentum",)

    @staticmethod
    def formula(parameter, gradient, momentum, learning_rate, step):
        return parameter - learning_rate * np.sign(m := 0.9 * momentum + 0.1 * gradient), m


def accuracy(logits, labels):
    return 100 * np.mean(logits.argmax(axis=-1) == labels)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Train a network made of a layer, an activation and an optimizer defined in this file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="how often to go through the images")
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="how many training images to use")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the starting weights and the shuffling")
    parser.add_argument("--data", type=Path, default=MNIST, metavar="DIR", help="folder with four IDX files")
    options = parser.parse_args(arguments)
    if options.epochs < 1 or options.images < 1:
        parser.error("--epochs and --images must be at least 1")
    try:
        data = tg.data.read_idx_folder(options.data)
    except (OSError, ValueError) as error:
        parser.error(f"{error} (--data names the folder)")
    (x, y), (x_test, y_test) = [(images.reshape(len(images), -1) / np.float32(255), labels) for images, labels in data]

    tg.testing.check_grads(squared_relu, [np.linspace(-2.0, 2.0, 8)])  # is the derivative right?
    rng = np.random.default_rng(options.seed)
    model = tg.nn.Sequential(
        tg.nn.Dense(x.shape[1], 128, squared_relu, rng=rng),
        Projection(128, 32, rng),
        tg.nn.BatchNorm1d(128),
        tg.nn.Dense(128, int(y.max()) + 1, rng=rng),
    )
    steps = options.epochs * -(-len(x[: options.images]) // 64)
    optimizer = Signum(model.parameters(), tg.optim.cosine(1e-3, steps))
    some = x[: options.images], y[: options.images]
    fit(
        model, some, tg.cross_entropy, optimizer, options.epochs, batch_size=64, rng=rng, metrics={"accuracy": accuracy}
    )

    found = evaluate(model, (x_test, y_test), tg.cross_entropy, {"accuracy": accuracy})
    print(f"test accuracy: {found['accuracy']:.2f} %")


if __name__ == "__main__":
    main()
