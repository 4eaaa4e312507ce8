"""Layers in one table: each against PyTorch's layer of the same weights, against numeric derivatives, and compiled.

A row is the layer here, the layer there, and what both are given. PyTorch is needed for the comparison with it only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from architectures import Architecture, Optimization
from compared_steps import compare
from oracles import first_derivative, leaves

import tinygrad_mm as tg
from tinygrad_mm import nn

try:
    import torch
except ImportError:
    torch = None


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(np.float32)


def called(layer: Any, *inputs: Any) -> Any:
    return layer(*inputs)


@dataclass
class Row:
    """A layer here and there, its inputs (a shape stands for normal numbers), and how it is called with them."""

    ours: Callable[[], nn.Module]
    theirs: Callable[[], Any] | None
    inputs: list[Any]
    call: Callable[..., Any] = called
    call_theirs: Callable[..., Any] = called

    def arrays(self, seed: int = 0, batch: int = 0) -> list[np.ndarray]:
        return [normal(*a, seed=seed + i) if isinstance(a, tuple) else a for i, a in enumerate(self.inputs)]


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------

LENGTHS = np.array([6, 1, 4])
STEPS = np.arange(6) < LENGTHS[:, None]


def packed(layer, x, lengths, *state):
    """PyTorch's layer over sequences of different lengths, which it wants packed."""
    from torch.nn.utils import rnn

    sequences = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    outputs, last = layer(sequences, *state)
    return rnn.pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])[0], last


def with_pair(layer, x, h, c):
    return layer(x, (h, c))


def with_lengths(layer, x, lengths, *state):
    return layer(x, *state, lengths=lengths)


RECURRENT = {
    "RNN": Row(lambda: nn.RNN(5, 4), lambda: torch.nn.RNN(5, 4, batch_first=True), [(3, 6, 5)]),
    "RNN, relu, a state": Row(
        lambda: nn.RNN(5, 4, 2, activation="relu"),
        lambda: torch.nn.RNN(5, 4, 2, "relu", batch_first=True),
        [(3, 6, 5), (2, 3, 4)],
    ),
    "RNN, both directions, lengths": Row(
        lambda: nn.RNN(5, 4, 2, bidirectional=True),
        lambda: torch.nn.RNN(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5), LENGTHS, (4, 3, 4)],
        with_lengths,
        packed,
    ),
    "RNNCell": Row(lambda: nn.RNNCell(5, 4), lambda: torch.nn.RNNCell(5, 4), [(3, 5), (3, 4)]),
    "LSTM": Row(lambda: nn.LSTM(5, 4), lambda: torch.nn.LSTM(5, 4, batch_first=True), [(3, 6, 5)]),
    "LSTM, three layers, a state, no bias": Row(
        lambda: nn.LSTM(5, 4, 3, bias=False),
        lambda: torch.nn.LSTM(5, 4, 3, bias=False, batch_first=True),
        [(3, 6, 5), (3, 3, 4), (3, 3, 4)],
        with_pair,
        with_pair,
    ),
    "LSTM, both directions": Row(
        lambda: nn.LSTM(5, 4, 2, bidirectional=True),
        lambda: torch.nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5)],
    ),
    "LSTM, both directions, lengths": Row(
        lambda: nn.LSTM(5, 4, 2, bidirectional=True),
        lambda: torch.nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5), LENGTHS],
        with_lengths,
        packed,
    ),
    "LSTMCell": Row(
        lambda: nn.LSTMCell(5, 4), lambda: torch.nn.LSTMCell(5, 4), [(3, 5), (3, 4), (3, 4)], with_pair, with_pair
    ),
    "GRU, both directions, a state": Row(
        lambda: nn.GRU(5, 4, 2, bidirectional=True),
        lambda: torch.nn.GRU(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5), (4, 3, 4)],
    ),
    "GRU, a mask": Row(
        lambda: nn.GRU(5, 4, 2),
        lambda: torch.nn.GRU(5, 4, 2, batch_first=True),
        [(3, 6, 5), STEPS],
        lambda layer, x, mask: layer(x, mask=mask),
        lambda layer, x, mask: packed(layer, x, mask.sum(1)),
    ),
}

ROWS: dict[str, Row] = {**RECURRENT}

# ---------------------------------------------------------------------------------------------------------------------
# What is true of every row
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.theirs])
def test_pytorch(name):
    """Outputs, gradients and buffers are PyTorch's to 1e-5; weights go there and come back."""
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    from test_torch_parity import compare_layers

    row = ROWS[name]
    compare_layers(
        row.ours(),
        row.theirs(),
        row.arrays(),
        lambda layer, *xs: leaves(row.call(layer, *xs)),
        lambda layer, *ts: leaves(row.call_theirs(layer, *ts)),
    )


def weighted(outputs: Any, xp: Any = np) -> Any:
    """One number of all outputs."""
    return sum(
        (t * rng(i).uniform(0.5, 1.5, t.shape).astype(t.dtype)).sum() + 0.5 * (t * t).sum()
        for i, t in enumerate(o for o in leaves(outputs) if o.dtype.kind == "f")
    )


@pytest.mark.parametrize("name", ROWS)
def test_numeric(name):
    """Gradients of all inputs and parameters, along random directions, against central differences in float64."""
    row = ROWS[name]
    layer = row.ours().to(np.float64)
    for i, p in enumerate(layer.parameters()):
        p.data = p.data + 0.1 * rng(50 + i).standard_normal(p.shape)
    floats = [a.dtype.kind == "f" for a in row.arrays()]
    xs = [
        tg.Tensor(a.astype(np.float64) if f else a, requires_grad=f) for a, f in zip(row.arrays(), floats, strict=True)
    ]
    targets = [x for x in xs if x.requires_grad] + layer.parameters()
    values = [t.data.copy() for t in targets]
    weighted(row.call(layer, *xs)).backward()

    def f(*changed):
        for t, a in zip(targets, changed, strict=True):
            t.data = a
        with tg.no_grad():
            return weighted(row.call(layer, *xs)).item()

    directions = [rng(99 + i).uniform(-1, 1, t.shape) for i, t in enumerate(targets)]
    for i, t in enumerate(targets):
        alone = [d * (k == i) for k, d in enumerate(directions)]
        numeric, terms = first_derivative(f, values, alone, 1e-4), t.grad * directions[i]
        assert abs(numeric - terms.sum()) <= 1e-6 * (np.abs(terms).sum() + abs(numeric)) + 1e-9, f"target {i}"


class Fed(nn.Module):
    """A layer behind a factor for each input, so that a step also needs the gradients of inputs."""

    def __init__(self, row: Row) -> None:
        self.call = row.call
        self.factors = [nn.Parameter(np.ones(1)) if a.dtype.kind == "f" else None for a in row.arrays()]
        self.layer = row.ours()
        for p in self.factors:
            if p is not None:
                p.data = p.data.astype(np.float32)

    def forward(self, *inputs: Any) -> Any:
        given = [x if p is None else x * p for x, p in zip(inputs, self.factors, strict=True)]
        return self.call(self.layer, *given)


@pytest.mark.parametrize("name", ROWS)
def test_compiled(name):
    """A compiled training step is the eager one: loss, gradients, update, buffers and generators, step by step."""
    row = ROWS[name]
    batches = [(*row.arrays(10 * step), np.ones((), np.float32)) for step in range(3)]
    optimization = Optimization(
        tg.optim.SGD, {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}, [[]]
    )
    model = Fed(row)
    optimization.groups = [list(range(len(model.parameters())))]
    made = Architecture(model, lambda outputs, target: weighted(outputs) * target, [optimization], batches, [], [], 1)
    assert not compare(made)


@pytest.mark.parametrize("name", ROWS)
def test_names(name):
    """A layer shows itself by its class and sizes: in `repr`, in the summary and in pictures."""
    row = ROWS[name]
    layer = row.ours()
    xs = [tg.Tensor(a, requires_grad=a.dtype.kind == "f") for a in row.arrays()]
    assert repr(layer).startswith(f"{type(layer).__name__}(")
    assert type(layer).__name__ in nn.summary(layer)
    picture = tg.draw(weighted(row.call(layer, *xs)), model=layer).source
    assert type(layer).__name__ in picture
