"""This library: eager, with its default optimizer and the fused one, and the whole step compiled to NumPy or Numba."""

from __future__ import annotations

from functools import partial
from inspect import signature
from itertools import pairwise

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import nn

CONTENDERS = {
    "tinygrad_mm eager": {},
    "tinygrad_mm eager, fused optimizer": {"fused": True},
    "tinygrad_mm compiled": {"backend": "numpy"},
    "tinygrad_mm compiled, fused optimizer": {"backend": "numpy", "fused": True},
    "tinygrad_mm compiled, Numba": {"backend": "numba"},
}


def make(problem, optimizer, rate, backend=None, fused=None):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    compile_step = tg.compile_step
    if fused and "fused" not in signature(tg.optim.SGD).parameters:
        return "this version has no fused optimizers"
    if backend == "numba":
        if "backend" not in signature(compile_step).parameters:
            return "this version has no Numba backend"
        compile_step = partial(compile_step, backend=backend)
    model = MODELS[problem.kind](problem)
    by_name = dict(model.named_parameters())
    for name, array in problem.weights().items():
        by_name.pop(names_here(problem.kind, name)).data = array
    assert not by_name, f"parameters without first weights: {list(by_name)}"
    opt = getattr(tg.optim, optimizer)(model.parameters(), rate, **({"fused": True} if fused else {}))
    if problem.kind == "update":
        return update_alone(model, opt, compile_step if backend else None)
    if backend:
        return compile_step(model, tg.cross_entropy, opt)

    def step(x, y):
        opt.zero_grad()
        loss = tg.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return step


def update_alone(model, opt, compile_step):
    """The optimizer without a network. Compiled, the gradient comes from a dot product, which is timed with it."""
    parameter = model.parameter
    if compile_step:
        compiled = compile_step(model, lambda product, y: product, opt)

        def step(x, y):
            compiled(x, y)
            return parameter.data
    else:

        def step(x, y):
            parameter.grad = x
            opt.step()
            return parameter.data

    return step


# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


def mlp(problem):
    pairs = list(pairwise(problem.sizes))
    return nn.Sequential(*(nn.Dense(a, b, "relu" if i < len(pairs) - 1 else None) for i, (a, b) in enumerate(pairs)))


class LeNet(nn.Module):
    def __init__(self, problem):
        first, second, *features = problem.sizes
        self.first, self.second = nn.Conv2d(1, first, 5, padding=2), nn.Conv2d(first, second, 5)
        self.pool = nn.MaxPool2d(2)
        self.dense = [nn.Dense(a, b) for a, b in pairwise(features)]

    def forward(self, x):
        x = self.pool(tg.relu(self.first(x)))
        x = self.pool(tg.relu(self.second(x)))
        x = x.reshape(x.shape[0], -1)
        for layer in self.dense[:-1]:
            x = tg.relu(layer(x))
        return self.dense[-1](x)


class Block(nn.Module):
    def __init__(self, d, heads):
        self.before_attention, self.attention = nn.LayerNorm(d), nn.MultiHeadAttention(d, heads)
        self.before_mixing, self.up, self.down = nn.LayerNorm(d), nn.Dense(d, 4 * d), nn.Dense(4 * d, d)

    def forward(self, x):
        x = x + self.attention(self.before_attention(x), causal=True)
        return x + self.down(tg.gelu(self.up(self.before_mixing(x)), "tanh"))


class Transformer(nn.Module):
    def __init__(self, problem):
        layers, d, heads, length, codes = problem.sizes
        self.codes = nn.Embedding(codes, d)
        self.positions = nn.Parameter(np.zeros((length, d), np.float32))
        self.blocks = [Block(d, heads) for _ in range(layers)]
        self.last, self.head = nn.LayerNorm(d), nn.Dense(d, codes)

    def forward(self, x):
        x = self.codes(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


class Rows(nn.Module):
    """A GRU over the rows of an image; its last state is classified."""

    def __init__(self, problem):
        _, features, state, classes = problem.sizes
        self.gru, self.head = nn.GRU(features, state), nn.Dense(state, classes)

    def forward(self, x):
        _, state = self.gru(x)
        return self.head(state[-1])


class Product(nn.Module):
    """`x @ parameter`: its gradient is x."""

    def __init__(self, problem):
        self.parameter = nn.Parameter(np.zeros(problem.sizes, np.float32))

    def forward(self, x):
        return x @ self.parameter


MODELS = {"mlp": mlp, "lenet": LeNet, "transformer": Transformer, "gru": Rows, "update": Product}


def names_here(kind, name):
    """A weight's path in the model."""
    if kind == "mlp":
        return f"layers.{name}"
    if kind == "lenet" and name.startswith("dense"):
        return f"dense.{name.removeprefix('dense')}"
    if kind == "gru" and not name.startswith("head"):
        return f"gru.cells.0.{name.replace('.', '_')}"
    if kind == "transformer" and name[0].isdigit():
        layer, part, end = name.split(".")
        part = {"in": f"attention.in_{end}", "output": f"attention.output.{end}"}.get(part, f"{part}.{end}")
        return f"blocks.{layer}.{part}"
    return name
