"""Makes the pictures of this folder: `python examples/gallery/make.py`.

Each is written as SVG and as PNG, the same bytes on every run; the five networks of models.py also as pages, in which
modules fold and unfold. `--out DIR` writes them elsewhere, `--only NAME` makes one of them. (graph.svg and
first-layer.png come from examples/digits.py; explore.png shows a page that `tg.explore` wrote, in a browser.)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import nn


def two_layers() -> tg.Drawing:
    """A network with two layers: values, gradients, and the way back."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Dense(64, 16, "relu", rng=0), nn.Dense(16, 4, rng=1))
    images = tg.Tensor(rng.normal(size=(24, 64)).astype(np.float32))
    labels = rng.integers(0, 4, 24)
    loss = tg.cross_entropy(model(images), labels)
    loss.backward(retain_graph=True)
    return tg.draw(loss, model=model, show=("values", "gradients", "backward"))


def two_passes() -> tg.Drawing:
    """The same network's backward pass as a graph of its own, below the forward pass."""
    model = nn.Sequential(nn.Dense(64, 16, "relu", rng=0), nn.Dense(16, 4, rng=1))
    images = tg.Tensor(np.ones((24, 64), np.float32))
    labels = np.zeros(24, np.int64)
    loss = tg.cross_entropy(model(images), labels)
    return tg.draw(loss, model=model, show="joint")


def diamond() -> tg.Drawing:
    """One number that goes three ways: its gradient is the sum of three contributions."""
    a = tg.Tensor(3.0, requires_grad=True)
    y = a * a + a
    y.backward(retain_graph=True)
    return tg.draw(y, show=("values", "gradients", "backward"))


class Attention(nn.Module):
    """Half a transformer layer: x + attention(norm(x))."""

    def __init__(self, features: int, heads: int) -> None:
        self.norm = nn.LayerNorm(features)
        self.attention = nn.MultiHeadAttention(features, heads, rng=0)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        return x + self.attention(self.norm(x), causal=True)


def attention() -> tg.Drawing:
    """An attention block, with what it costs."""
    model = Attention(32, 4)
    tokens = tg.Tensor(np.ones((2, 10, 32), np.float32), requires_grad=True)  # from an embedding, say
    attended = model(tokens)
    return tg.draw(attended, model=model, show=("memory", "work"), direction="TB")


class Block(nn.Module):
    """relu(x + f(x)), where f is two convolutions, each with batch normalisation (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        self.first = nn.Conv2d(channels, channels, 3, padding=1, rng=0)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, rng=1)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        h = tg.relu(self.first_norm(self.first(x)))
        return tg.relu(x + self.second_norm(self.second(h)))


class ResidualNetwork(nn.Module):
    """A convolution, some residual blocks, and a layer that reads the means of small windows."""

    def __init__(self, channels: int, blocks: int) -> None:
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1, rng=2), nn.ReLU())
        self.blocks = [Block(channels) for _ in range(blocks)]
        self.head = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Dense(channels * 7 * 7, 10, rng=3))

    def forward(self, images: tg.Tensor) -> tg.Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def residual_cnn() -> tg.Drawing:
    """A convolutional network with three residual blocks, drawn as one, and its layers folded."""
    model = ResidualNetwork(8, 3)
    images = np.ones((4, 1, 28, 28), np.float32)
    labels = np.zeros(4, np.int64)
    loss = tg.cross_entropy(model(images), labels)
    return tg.draw(loss, model=model, depth=2, direction="TB")


class Cell(nn.Module):
    """tanh(x W + h U + b), a step of a recurrent network (Elman 1990)."""

    def __init__(self, inputs: int, states: int) -> None:
        rng = np.random.default_rng(0)
        self.W = nn.Parameter(rng.normal(size=(inputs, states)).astype(np.float32) / inputs**0.5)
        self.U = nn.Parameter(rng.normal(size=(states, states)).astype(np.float32) / states**0.5)
        self.b = nn.Parameter(np.zeros(states, np.float32))

    def forward(self, x: tg.Tensor, h: tg.Tensor) -> tg.Tensor:
        return np.tanh(x @ self.W + h @ self.U + self.b)


class Recurrent(nn.Module):
    """A cell that walks along a sequence, and a layer that reads its last state."""

    def __init__(self, inputs: int, states: int, outputs: int) -> None:
        self.cell = Cell(inputs, states)
        self.read = nn.Dense(states, outputs, rng=1)
        self.start = nn.Parameter(np.zeros((1, states), np.float32))

    def forward(self, sequence: tg.Tensor) -> tg.Tensor:
        h = self.start
        for x in sequence:
            h = self.cell(x, h)
        return self.read(h)


def recurrent() -> tg.Drawing:
    """A recurrent network over 230 steps, more than 2,000 nodes, which folds by itself."""
    model = Recurrent(3, 8, 2)
    sequence = tg.Tensor(np.ones((230, 5, 3), np.float32), requires_grad=True)
    target = np.zeros((5, 2), np.float32)
    loss = tg.mse_loss(model(sequence), target)
    return tg.draw(loss, model=model)


def shape_error() -> tg.Drawing:
    """What was there when a layer was given the wrong number of features."""
    model = nn.Sequential(nn.Dense(64, 16, "relu", rng=0), nn.Dense(16, 4, rng=1))
    images = tg.Tensor(np.ones((24, 64), np.float32))
    targets = np.zeros((24, 10), np.float32)
    try:
        mistake = model(images) - targets
        return tg.draw(np.mean(mistake**2), model=model)
    except ValueError as error:
        return tg.draw_error(error, model=model)


PICTURES: dict[str, Callable[[], tg.Drawing]] = {
    "two-layers": two_layers,
    "two-passes": two_passes,
    "diamond": diamond,
    "attention": attention,
    "residual-cnn": residual_cnn,
    "recurrent": recurrent,
    "shape-error": shape_error,
    **models.MODELS,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of the gallery.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the folder to write them into")
    parser.add_argument("--only", choices=PICTURES, help="make this one only")
    options: Any = parser.parse_args(arguments)
    for name in [options.only] if options.only else PICTURES:
        drawing = PICTURES[name]()
        for form in ("svg", "png", "html") if name in models.MODELS else ("svg", "png"):
            path = drawing.save(options.out / f"{name}.{form}")
            print(f"{path.name}: {len(drawing.picture.nodes)} nodes, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
