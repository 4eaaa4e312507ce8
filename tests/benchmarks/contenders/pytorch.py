"""PyTorch: eager with its default optimizer and with the fused one, and torch.compile."""

from __future__ import annotations

import os
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
torch.set_num_interop_threads(1)

CONTENDERS = {
    "PyTorch eager": {},
    "PyTorch eager, fused optimizer": {"fused": True},
    "torch.compile": {"fused": True, "compiled": True},
}


def make(problem, optimizer, rate, fused=None, compiled=False):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    if problem.kind == "update" and compiled:
        return "there is no network to compile"
    model = MODELS[problem.kind](problem)
    by_name = dict(model.named_parameters())
    for name, array in problem.weights().items():
        parameter = by_name.pop(names_there(problem.kind, name))
        array = torch.from_numpy(array)
        transposed = array.ndim == 2 and name not in ("codes.weight", "positions")
        parameter.data.copy_(array.T if transposed else array)
    assert not by_name, f"parameters without first weights: {list(by_name)}"
    opt = getattr(torch.optim, optimizer)(model.parameters(), rate, fused=fused)
    if problem.kind == "update":
        return update_alone(model, opt)

    def loss_of(x, y):
        logits = model(x)
        if y.ndim > 1:
            logits, y = logits.flatten(0, 1), y.flatten()
        return functional.cross_entropy(logits, y)

    if compiled:
        torch._dynamo.reset()  # or after a few networks it would give up on this function, and on fixed shapes
        loss_of = torch.compile(loss_of, fullgraph=True)

    def step(x, y):
        opt.zero_grad()
        loss = loss_of(torch.from_numpy(x), torch.from_numpy(y))
        loss.backward()
        opt.step()
        return loss.detach()

    return step


def update_alone(model, opt):
    parameter = model.parameter

    def step(x, y):
        parameter.grad = torch.from_numpy(x)
        opt.step()
        return parameter.detach()

    return step


# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


def mlp(problem):
    layers = []
    for a, b in pairwise(problem.sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class LeNet(nn.Module):
    def __init__(self, problem):
        super().__init__()
        first, second, *features = problem.sizes
        self.first, self.second = nn.Conv2d(1, first, 5, padding=2), nn.Conv2d(first, second, 5)
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(features))

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        x = functional.max_pool2d(functional.relu(self.second(x)), 2)
        x = x.flatten(1)
        for layer in self.dense[:-1]:
            x = functional.relu(layer(x))
        return self.dense[-1](x)


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.before_attention, self.in_ = nn.LayerNorm(d), nn.Linear(d, 3 * d)
        self.output = nn.Linear(d, d)
        self.before_mixing, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        n, length, d = x.shape
        y = self.in_(self.before_attention(x)).view(n, length, 3, self.heads, d // self.heads)
        q, k, v = y.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(n, length, d))
        return x + self.down(functional.gelu(self.up(self.before_mixing(x)), approximate="tanh"))


class Transformer(nn.Module):
    def __init__(self, problem):
        super().__init__()
        layers, d, heads, length, codes = problem.sizes
        self.codes = nn.Embedding(codes, d)
        self.positions = nn.Parameter(torch.zeros(length, d))
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(layers))
        self.last, self.head = nn.LayerNorm(d), nn.Linear(d, codes)

    def forward(self, x):
        x = self.codes(x) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


class Rows(nn.Module):
    def __init__(self, problem):
        super().__init__()
        _, features, state, classes = problem.sizes
        self.gru, self.head = nn.GRU(features, state, batch_first=True), nn.Linear(state, classes)

    def forward(self, x):
        _, state = self.gru(x)
        return self.head(state[-1])


class Parameter(nn.Module):
    def __init__(self, problem):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(problem.sizes))


MODELS = {"mlp": mlp, "lenet": LeNet, "transformer": Transformer, "gru": Rows, "update": Parameter}


def names_there(kind, name):
    """A weight's path in the model."""
    if kind == "mlp":
        layer, end = name.split(".")
        return f"{2 * int(layer)}.{end}"  # a ReLU after each layer
    if kind == "lenet" and name.startswith("dense"):
        return f"dense.{name.removeprefix('dense')}"
    if kind == "gru" and not name.startswith("head"):
        which, end = name.split(".")
        return f"gru.{end}_{which[0]}h_l0"
    if kind == "transformer" and name[0].isdigit():
        layer, part, end = name.split(".")
        return f"blocks.{layer}.{'in_' if part == 'in' else part}.{end}"
    return name
