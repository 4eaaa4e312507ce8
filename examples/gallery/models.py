"""Five networks that people know, each drawn by `tg.draw` with the options given: `models.cnn(direction="TB")`."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import nn


def cnn(**options: Any) -> tg.Drawing:
    """Two convolutions, each with pooling behind it, and a layer that reads the classes (LeCun et al. 1998)."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, rng=0),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, rng=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dense(16 * 7 * 7, 10, rng=2),
    )
    rng = np.random.default_rng(0)
    image = rng.normal(size=(16, 1, 28, 28)).astype(np.float32)
    labels = rng.integers(0, 10, 16)
    loss = tg.cross_entropy(model(image), labels)
    return tg.draw(loss, model=model, **options)


class LSTMCell(nn.Module):
    """One step of a long short-term memory (Hochreiter and Schmidhuber 1997): the next output and state."""

    def __init__(self, inputs: int, states: int) -> None:
        rng = np.random.default_rng(0)
        self.W = nn.Parameter(rng.normal(size=(inputs, 4 * states)).astype(np.float32) / inputs**0.5)
        self.U = nn.Parameter(rng.normal(size=(states, 4 * states)).astype(np.float32) / states**0.5)
        self.b = nn.Parameter(np.zeros(4 * states, np.float32))

    def forward(self, x: Any, h: Any, c: Any) -> tuple[tg.Tensor, tg.Tensor]:
        i, f, g, o = np.split(x @ self.W + h @ self.U + self.b, 4, axis=1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * np.tanh(g)
        return tg.sigmoid(o) * np.tanh(c), c


class LSTM(nn.Module):
    """A cell that walks along a sequence, and a layer that reads its last output."""

    def __init__(self, inputs: int, states: int, outputs: int) -> None:
        self.cell = LSTMCell(inputs, states)
        self.read = nn.Dense(states, outputs, rng=1)
        self.states = states

    def forward(self, sequence: Any) -> tg.Tensor:
        h = c = np.zeros((sequence.shape[1], self.states), np.float32)
        for x in sequence:
            h, c = self.cell(x, h, c)
        return self.read(h)


def lstm(steps: int = 5, **options: Any) -> tg.Drawing:
    """A long short-term memory over some steps, five by default."""
    model = LSTM(3, 8, 2)
    sequence = np.random.default_rng(1).normal(size=(steps, 4, 3)).astype(np.float32)
    target = np.zeros((4, 2), np.float32)
    loss = tg.mse_loss(model(sequence), target)
    return tg.draw(loss, model=model, **options)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), as in GPT-2 (Radford et al. 2019)."""

    def __init__(self, features: int, heads: int) -> None:
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attention = nn.MultiHeadAttention(features, heads, rng=0)
        self.up = nn.Dense(features, 4 * features, "gelu", rng=1)
        self.down = nn.Dense(4 * features, features, rng=2)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        x = x + self.attention(self.norm1(x), causal=True)
        return x + self.down(self.up(self.norm2(x)))


class GPT(nn.Module):
    """Embeddings of tokens and places, some blocks, and a layer that reads the next token."""

    def __init__(self, vocabulary: int, features: int, heads: int, blocks: int, length: int) -> None:
        self.tokens = nn.Embedding(vocabulary, features, rng=0)
        self.places = nn.Embedding(length, features, rng=1)
        self.blocks = [Block(features, heads) for _ in range(blocks)]
        self.norm = nn.LayerNorm(features)
        self.head = nn.Dense(features, vocabulary, rng=2)

    def forward(self, tokens: Any) -> tg.Tensor:
        x = self.tokens(tokens) + self.places(np.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt(blocks: int = 2, **options: Any) -> tg.Drawing:
    """A language model of 65 operations."""
    model = GPT(20, 16, 2, blocks, 8)
    rng = np.random.default_rng(0)
    tokens, following = rng.integers(0, 20, (4, 8)), rng.integers(0, 20, (4, 8))
    loss = tg.cross_entropy(model(tokens), following)
    return tg.draw(loss, model=model, **options)


def autoencoder(**options: Any) -> tg.Drawing:
    """Four layers that make images small and large again; the images are input and target (Hinton et al. 2006)."""
    model = nn.Sequential(
        nn.Dense(784, 128, "relu", rng=0),
        nn.Dense(128, 32, "relu", rng=1),
        nn.Dense(32, 128, "relu", rng=2),
        nn.Dense(128, 784, "sigmoid", rng=3),
    )
    images = np.random.default_rng(0).random((64, 784)).astype(np.float32)
    loss = tg.mse_loss(model(images), images)
    return tg.draw(loss, model=model, **options)


def neuron(show: Any = "numbers", **options: Any) -> tg.Drawing:
    """A neuron with two inputs, with the numbers of micrograd's introduction (Karpathy 2020)."""
    x1, x2 = tg.Tensor(2.0, requires_grad=True), tg.Tensor(0.0, requires_grad=True)
    w1, w2 = tg.Tensor(-3.0, requires_grad=True), tg.Tensor(1.0, requires_grad=True)
    b = tg.Tensor(6.8813735870195432, requires_grad=True)
    n = x1 * w1 + x2 * w2 + b
    o = np.tanh(n)
    return tg.draw(o, show=show, **options)


MODELS = {"cnn": cnn, "lstm": lstm, "gpt": gpt, "autoencoder": autoencoder, "neuron": neuron}
