"""A curve through noisy points, and how sure of it to be: twenty networks that agree only where there are points.

    python examples/regression.py

Each network of the ensemble starts from weights of its own and sees points drawn anew with replacement (bagging,
Breiman 1996). Where the data say what the curve is, they agree; in the gap and beyond the ends, they go different ways,
and how far they differ is a measure of what is not known. All of them are one model: their weight matrices lie in one
array of shape (networks, inputs, outputs), and a matrix product does them all at once.
"""

from __future__ import annotations

from pathlib import Path

import command_line
import numpy as np
from command_line import COUNT, SEED
from course.style import BLUE, GREY, INK, ORANGE, figure

import tinygrad_mm as tg


class Ensemble(tg.Module):
    """Networks 1-h-h-1 side by side: (networks, points, 1) -> (networks, points, 1)."""

    def __init__(self, networks, hidden, rng):
        sizes = [(1, hidden), (hidden, hidden), (hidden, 1)]
        spread = [4.0, hidden**-0.5, hidden**-0.5]  # the first layer has one input, and is to bend within [-1, 1]
        self.weights = [
            tg.Parameter(rng.normal(scale=s, size=(networks, *size)).astype(np.float32))
            for s, size in zip(spread, sizes, strict=True)
        ]
        self.biases = [
            tg.Parameter(rng.normal(scale=s, size=(networks, 1, size[1])).astype(np.float32))
            for s, size in zip([2.0, 0.0, 0.0], sizes, strict=True)
        ]

    def forward(self, x):
        for W, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.tanh(x @ W + b)
        return x @ self.weights[-1] + self.biases[-1]


def truth(x):
    return np.sin(5 * x) + 0.5 * x


def points(n, rng):
    """n points of the curve with noise, none of them in the middle."""
    x = rng.uniform(-1, 1, n)
    x = np.where(np.abs(x) < 0.25, np.sign(x) * rng.uniform(0.25, 1, n), x)
    return x.astype(np.float32), (truth(x) + rng.normal(scale=0.15, size=n)).astype(np.float32)


def draw(x, y, at, curves, path):
    """Points, the truth, each network, and the mean with two standard deviations."""
    mean, deviation = curves.mean(axis=0), curves.std(axis=0)
    fig = figure(8, 4)
    ax = fig.add_subplot()
    ax.fill_between(at, mean - 2 * deviation, mean + 2 * deviation, color=BLUE, alpha=0.2, label="± 2 deviations")
    ax.plot(at, curves.T, color=BLUE, linewidth=0.4, alpha=0.5)
    ax.plot(at, mean, color=BLUE, label=f"mean of {len(curves)} networks")
    ax.plot(at, truth(at), "--", color=GREY, label="the curve behind the points")
    ax.plot(x, y, ".", color=ORANGE, label="points")
    ax.set(xlabel="x", ylim=(-3, 3))
    ax.tick_params(colors=INK)
    ax.legend(ncols=2, loc="upper left", fontsize=9)
    fig.savefig(path)


def main(arguments=None):
    parser = command_line.parser("Fit a curve with an ensemble of networks, and see where they differ.")
    add = parser.add_argument
    add("--points", type=COUNT, default=80, metavar="N", help="points to learn from")
    add("--networks", type=COUNT, default=20, metavar="N", help="networks in the ensemble")
    add("--hidden", type=COUNT, default=32, metavar="N", help="units of each of the two hidden layers")
    add("--steps", type=COUNT, default=2000, metavar="N", help="training steps")
    add("--seed", type=SEED, default=0, metavar="N", help="of the points and the starting weights")
    add("--out", type=Path, default=Path("regression-out"), metavar="DIR", help="folder for the picture")
    options = parser.parse_args(arguments)

    rng = np.random.default_rng(options.seed)
    x, y = points(options.points, rng)
    drawn = rng.integers(0, len(x), (options.networks, len(x)))  # for each network its own points
    model = Ensemble(options.networks, options.hidden, rng)
    step = tg.compile_step(model, tg.mse_loss, tg.optim.Adam(model.parameters(), 3e-3))
    for i in range(options.steps):
        loss = step(x[drawn][..., None], y[drawn][..., None])
        if i % max(1, options.steps // 5) == 0:
            print(f"step {i:5}: loss {loss:.4f}", flush=True)

    at = np.linspace(-1.3, 1.3, 261, dtype=np.float32)
    with tg.no_grad():
        curves = model(np.broadcast_to(at[:, None], (options.networks, len(at), 1))).data[..., 0]
    options.out.mkdir(parents=True, exist_ok=True)
    draw(x, y, at, curves, options.out / "regression.png")
    print(f"written: {options.out / 'regression.png'}")
    deviation = curves.std(axis=0)
    known, gap = np.abs(np.abs(at) - 0.6) < 0.3, np.abs(at) < 0.15
    print(
        f"the networks differ by {deviation[known].mean():.3f} among the points, {deviation[gap].mean():.3f} in the gap"
    )


if __name__ == "__main__":
    command_line.run(main)
