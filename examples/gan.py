"""Two networks that train each other: one makes points, the other tells them from real ones.

    python examples/gan.py

The generator turns random numbers into points of the plane. The discriminator is shown real points, of two half moons,
and points that were made, and says how probable it is that a point is real. Each step trains both (Goodfellow et al.
2014):

1. The discriminator learns to say "real" to real points and "made" to made ones. Only it should learn from that, so
   the made points are handed over as `fake.detach()`: the same numbers, but the record of how they were made is cut off
   there. Nothing goes back into the generator, and nothing is spent on it.
2. The generator learns to make points to which the discriminator says "real". Here the record must *not* be cut: the
   gradient goes back through the discriminator, to the points, and on into the generator. It says in which direction
   each point should move to look more real. The discriminator's weights get gradients on the way, which are not used:
   `zero_grad()` forgets them.
"""

from __future__ import annotations

from pathlib import Path

import command_line
import numpy as np
from command_line import COUNT, SEED
from course.style import BLUE, ORANGE, figure
from moons import moons

import tinygrad_mm as tg

NOISE = 4  # random numbers that a point is made from


def network(inputs, hidden, outputs, rng):
    dense = tg.nn.Dense
    return tg.nn.Sequential(
        dense(inputs, hidden, "leaky_relu", rng=rng),
        dense(hidden, hidden, "leaky_relu", rng=rng),
        dense(hidden, outputs, rng=rng),
    )


class Game:
    """The two networks and their optimizers."""

    def __init__(self, hidden, rng):
        self.rng = rng
        self.generator, self.discriminator = network(NOISE, hidden, 2, rng), network(2, hidden, 1, rng)
        self.makes = tg.optim.Adam(self.generator.parameters(), 1e-3, betas=(0.5, 0.9))
        self.tells = tg.optim.Adam(self.discriminator.parameters(), 2e-3, betas=(0.5, 0.9))

    def made(self, n):
        """n points from the generator."""
        return self.generator(self.rng.normal(size=(n, NOISE)).astype(np.float32))

    def step(self, real):
        """Train both networks once; returns their losses."""
        loss = tg.binary_cross_entropy_with_logits
        ones, zeros = np.ones((len(real), 1), np.float32), np.zeros((len(real), 1), np.float32)
        fake = self.made(len(real))

        telling = loss(self.discriminator(real), ones) + loss(self.discriminator(fake.detach()), zeros)
        telling.backward()
        self.tells.step()
        self.tells.zero_grad()

        making = loss(self.discriminator(fake), ones)
        making.backward()
        self.makes.step()
        self.makes.zero_grad()
        self.tells.zero_grad()
        return telling.item(), making.item()


def distance(one, other):
    """The energy distance between two sets of points, 0 for the same distribution (Székely and Rizzo 2013)."""

    def mean(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=-1).mean()

    return 2 * mean(one, other) - mean(one, one) - mean(other, other)


def draw(stages, real, path):
    """Made points among real ones, at several times."""
    fig = figure(3 * len(stages), 2.8)
    axes = np.atleast_1d(fig.subplots(1, len(stages), sharex=True, sharey=True))
    for ax, (step, made) in zip(axes, stages, strict=True):
        ax.plot(*real.T, ".", color=BLUE, markersize=2, alpha=0.5, label="real")
        ax.plot(*made.T, ".", color=ORANGE, markersize=2, label="made")
        ax.set(title=f"step {step:,}", xticks=[], yticks=[], xlim=(-1.8, 2.8), ylim=(-1.4, 1.9))
    axes[0].legend(markerscale=4, loc="upper right", fontsize=8)
    fig.savefig(path)


def main(arguments=None):
    parser = command_line.parser("Train a generator and a discriminator on two half moons.")
    add = parser.add_argument
    add("--steps", type=COUNT, default=6000, metavar="N", help="training steps")
    add("--batch-size", type=COUNT, default=128, metavar="N", help="real and made points in each step")
    add("--hidden", type=COUNT, default=64, metavar="N", help="units of each hidden layer")
    add("--seed", type=SEED, default=0, metavar="N", help="of the points and the starting weights")
    add("--out", type=Path, default=Path("gan-out"), metavar="DIR", help="folder for the picture")
    options = parser.parse_args(arguments)

    rng = np.random.default_rng(options.seed)
    game, (shown, _) = Game(options.hidden, rng), moons(500, rng, noise=0.05)
    stages = []
    for i in range(options.steps + 1):
        if i % max(1, options.steps // 4) == 0:
            with tg.no_grad():
                stages.append((i, game.made(500).data))
            print(f"step {i:5}: energy distance {distance(stages[-1][1], shown):.4f}", flush=True)
        game.step(moons(options.batch_size, rng, noise=0.05)[0])
    options.out.mkdir(parents=True, exist_ok=True)
    draw(stages, shown, options.out / "gan.png")
    print(f"written: {options.out / 'gan.png'}")


if __name__ == "__main__":
    command_line.run(main)
