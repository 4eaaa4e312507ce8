"""Two half moons that no straight line separates, and a small network that learns to: the boundary as it moves.

    python examples/moons.py

The network is given the two coordinates of a point and says how probable it is that the point is from the upper moon.
The hidden units are tanh(x @ W + b): each looks along one direction and switches along a line. The output weighs these
lines and bends them into one curve. `moons.gif` shows that curve after each few steps.
"""

from __future__ import annotations

from pathlib import Path

import command_line
import numpy as np
from command_line import COUNT, SEED
from course.style import BLUE, GREY, ORANGE, figure

import tinygrad_mm as tg


def moons(n, rng, noise=0.12):
    """(n, 2) points of two interleaved half circles, and (n,) whether each is from the upper one."""
    angle = rng.uniform(0, np.pi, n)
    upper = rng.integers(0, 2, n).astype(bool)
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + rng.normal(scale=noise, size=(n, 2))
    return points.astype(np.float32), upper


def train(model, points, upper, steps, every):
    """Train with all points at once; returns what the model says on a grid, after each `every` steps."""
    target = upper[:, None].astype(np.float32)
    step = tg.compile_step(model, tg.binary_cross_entropy_with_logits, tg.optim.Adam(model.parameters(), 0.02))
    frames = []
    for i in range(steps):
        loss = step(points, target)
        if i % every == 0 or i == steps - 1:
            frames.append((i, loss, probabilities(model)))
    return frames


def grid():
    return np.meshgrid(np.linspace(-1.6, 2.6, 100, dtype=np.float32), np.linspace(-1.2, 1.7, 70, dtype=np.float32))


def probabilities(model):
    """How probable the upper moon is, at each point of the grid."""
    xs, ys = grid()
    with tg.no_grad():
        return tg.sigmoid(model(np.stack([xs.ravel(), ys.ravel()], axis=1))).data.reshape(xs.shape)


def draw(frames, points, upper, path):
    """The frames as an animated GIF."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    fig = figure(5, 3.6)
    ax = fig.add_subplot()

    def frame(number):
        step, loss, chances = frames[number]
        ax.clear()
        ax.contourf(*grid(), chances, levels=np.linspace(0, 1, 11), cmap="RdBu", alpha=0.6)
        ax.contour(*grid(), chances, levels=[0.5], colors=[GREY])
        ax.scatter(*points[upper].T, color=BLUE, s=8)
        ax.scatter(*points[~upper].T, color=ORANGE, s=8)
        ax.set(title=f"step {step}, loss {loss:.3f}", xticks=[], yticks=[])

    FuncAnimation(fig, frame, frames=len(frames)).save(path, PillowWriter(fps=10), dpi=80)


def main(arguments=None):
    parser = command_line.parser("Learn to tell two half moons apart, and animate the boundary.")
    add = parser.add_argument
    add("--points", type=COUNT, default=300, metavar="N", help="points to learn from")
    add("--hidden", type=COUNT, default=16, metavar="N", help="units of each of the two hidden layers")
    add("--steps", type=COUNT, default=400, metavar="N", help="training steps")
    add("--frames", type=COUNT, default=50, metavar="N", help="pictures in the animation")
    add("--seed", type=SEED, default=0, metavar="N", help="of the points and the starting weights")
    add("--out", type=Path, default=Path("moons-out"), metavar="DIR", help="folder for the picture")
    options = parser.parse_args(arguments)

    rng = np.random.default_rng(options.seed)
    points, upper = moons(options.points, rng)
    model = tg.nn.Sequential(
        tg.nn.Dense(2, options.hidden, "tanh", rng=rng),
        tg.nn.Dense(options.hidden, options.hidden, "tanh", rng=rng),
        tg.nn.Dense(options.hidden, 1, rng=rng),
    )
    frames = train(model, points, upper, options.steps, every=max(1, options.steps // options.frames))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(frames, points, upper, options.out / "moons.gif")
    print(f"written: {options.out / 'moons.gif'}")

    fresh, truth = moons(2000, rng)
    print(
        f"loss {frames[-1][1]:.4f}; {100 * np.mean((model(fresh).data[:, 0] > 0) == truth):.1f} % of new points right"
    )


if __name__ == "__main__":
    command_line.run(main)
