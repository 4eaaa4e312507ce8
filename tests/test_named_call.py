"""Functions of several operations are known as one call: to pictures, not to whoever asks for modules."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from drawn import by_title, tensor

import tinygrad_mm as tg
from tinygrad_mm import functional, nn
from tinygrad_mm.graph import Scope, named_call, state, topological


class Layer(nn.Module):
    def __init__(self) -> None:
        self.weight = nn.Parameter(np.ones((2, 3), np.float32))

    def forward(self, x: Any) -> Any:
        return tg.mse_loss(x @ self.weight, np.zeros((4, 3), np.float32))


def test_calls_know_the_function_and_the_module_around_it() -> None:
    model = Layer()
    loss = model(np.ones((4, 2), np.float32))
    scopes = {v.node.fun: v.node.scope for v in topological([loss]) if v.node is not None}
    inner = scopes[np.square]
    assert isinstance(inner, Scope)
    assert (inner.label, inner.parent.label) == ("mse_loss", "Layer")
    assert inner.module is inner.parent is scopes[np.matmul].module
    assert repr(inner) == "Layer.mse_loss"
    assert state.scope is None
    assert not state.complete


def test_the_state_is_restored_after_an_error() -> None:
    with pytest.raises(ValueError, match="mse_loss"):
        tg.mse_loss(tensor(2), np.zeros(3, np.float32))
    assert state.scope is None
    assert not state.complete


def test_a_function_stays_what_it_was() -> None:
    assert functional.conv2d.__name__ == "conv2d"
    assert "Shape:" in (functional.conv2d.__doc__ or "")
    x = np.arange(4.0)
    assert tg.mse_loss(x, x + 1) == 1.0  # plain arrays
    assert isinstance(tg.mse_loss(x, x + 1), np.floating)


def test_modules_are_told_of_without_functions() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0))
    x = np.ones((1, 1, 5, 5), np.float32)
    (row,) = (line for line in nn.summary(model, x).splitlines() if line.startswith("layers.0"))
    assert str(9 * 2 * 9) in row.split()  # places, filters, products of each
    step = tg.compile(lambda: model(x))
    step()
    assert re.search(r"# .*Conv2d", step.source)
    assert not re.search(r"# .*conv2d", step.source)
    with pytest.raises(tg.AnomalyError, match=r"layers\.0 \(Conv2d\)"), tg.detect_anomaly(model):
        model(np.full((1, 1, 5, 5), np.nan, np.float32))


def test_nested_functions_are_boxes_in_boxes() -> None:
    @named_call
    def inner(x: Any) -> Any:
        return np.sin(x) * 2

    @named_call
    def outer(x: Any) -> Any:
        return inner(x) + inner(np.cos(x))

    picture = tg.draw(outer(tensor(3, name="x")), fold=()).picture
    assert [c.label for c in picture.clusters] == ["outer", "inner", "inner"]
    folded = tg.draw(outer(tensor(3, name="x"))).picture
    box = by_title(folded, "outer")
    assert (box.kind, box.inside) == ("function", 6)
    half = tg.draw(outer(tensor(3, name="x")), fold="inner").picture
    assert sorted(n.title for n in half.nodes if n.computed) == ["add", "cos", "inner", "inner"]


@pytest.mark.parametrize(
    "function", [tg.mse_loss, tg.l1_loss, tg.huber_loss, tg.smooth_l1_loss, tg.binary_cross_entropy_with_logits]
)
def test_every_loss_is_one_box(function: Any) -> None:
    predictions = tensor(4, name="predictions")
    picture = tg.draw(function(predictions, np.zeros(4, np.float32))).picture
    assert [n.title for n in picture.nodes if n.computed] == [function.__name__]
