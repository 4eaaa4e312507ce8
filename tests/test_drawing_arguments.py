"""What calls of modules and functions were given, and what they make of their own, in pictures."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import numpy as np
import pytest
from drawn import by_title

import tinygrad_mm as tg
from tinygrad_mm import nn


def test_an_array_of_the_modules_own_is_no_input() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            self.tokens, self.places = nn.Embedding(7, 4, rng=0), nn.Embedding(6, 4, rng=1)

        def forward(self, tokens: Any) -> tg.Tensor:
            return self.tokens(tokens) + self.places(np.arange(tokens.shape[1]))

    model = Places()
    tokens = np.zeros((2, 6), np.int64)
    picture = tg.draw(np.sum(model(tokens)), model=model).whole
    assert by_title(picture, "tokens").kind == "input"
    (own,) = [n for n in picture.nodes if n.shape == (6,)]
    assert own.kind == "constant"
    assert own.cluster is not None
    unnamed = tg.draw(np.sum(model(np.ones((2, 6), np.int64)))).whole
    assert [(n.kind, n.shape) for n in unnamed.nodes if n.title.startswith("input")] == [("input", (2, 6))]


def test_a_frozen_network_keeps_none_of_its_results() -> None:
    kept = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            self.layers = [nn.Dense(8, 8, "tanh", rng=i) for i in range(3)]
            for p in self.parameters():
                p.requires_grad_(False)
            self.head = nn.Dense(8, 2, rng=9)

        def forward(self, x: Any) -> tg.Tensor:
            for layer in self.layers:
                x = layer(x)
                kept.append(weakref.ref(x))
            return self.head(x)

    loss = np.sum(Watched()(tg.Tensor(np.ones((4, 8), np.float32))))
    assert loss.requires_grad
    assert sum(one() is not None for one in kept) == 1  # which the gradient of the head needs


def test_a_mask_keeps_none_of_the_numbers_that_were_drawn_for_it() -> None:
    x = tg.Tensor(np.ones((50, 20), np.float32), requires_grad=True)
    model = nn.Sequential(nn.Dense(20, 20, rng=0), nn.Dropout(0.5, rng=0))
    picture = tg.draw(np.sum(model(x)), model=model).whole
    assert not [n for n in picture.nodes if n.title in ("uniform_like", "greater_equal")]


X, W, B = (np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(2, 3, 6, 6), (4, 3, 3, 3), (4,)]))
QUERY, KEY, VALUE = (np.random.default_rng(i).normal(size=(2, 5, 4)) for i in range(3))
BOXES: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "conv2d": (lambda x, w, b: tg.conv2d(x, w, b, padding=1), (X, W, B), ("padding=1",)),
    "conv_transpose2d": (lambda x, w: tg.conv_transpose2d(x, w, stride=2), (X, np.swapaxes(W, 0, 1)), ("stride=2",)),
    "scaled_dot_product_attention": (tg.scaled_dot_product_attention, (QUERY, KEY, VALUE), ()),
    "mse_loss": (tg.mse_loss, (QUERY, KEY), ()),
    "huber_loss": (lambda a, b: tg.huber_loss(a, b, reduction="sum"), (QUERY, KEY), ("reduction='sum'",)),
}


@pytest.mark.parametrize("name", BOXES)
def test_the_box_of_a_function_names_its_arguments_and_options(name: str) -> None:
    fun, arrays, options = BOXES[name]
    inputs = [tg.Tensor(a, requires_grad=True) for a in arrays]
    for i, x in enumerate(inputs):
        x.name = f"tensor {i}"
    y = np.sum(fun(*inputs))
    picture = tg.draw(y, fold=name).picture
    (box,) = [n for n in picture.nodes if n.kind == "function"]
    assert box.title == name
    assert box.options == options
    titles = {n.id: n.title for n in picture.nodes}
    given = {box.operands[e.operand]: titles[e.tail] for e in picture.into(box)}
    parameters = list(inspect.signature(getattr(tg, name)).parameters)[: len(arrays)]
    assert given == {parameter: f"tensor {i}" for i, parameter in enumerate(parameters)}


def test_arguments_that_are_results_and_that_many_use_are_named_too() -> None:
    w = tg.Tensor(W, requires_grad=True)
    w.name = "shared"
    y: Any = tg.Tensor(X[:, :, :, :], requires_grad=True)
    for _ in range(6):  # more than a leaf has edges
        y = tg.conv2d(np.tanh(y), w[:3], padding=1)
    picture = tg.draw(np.sum(y), fold="conv2d").picture
    for box in (n for n in picture.nodes if n.kind == "function"):
        assert box.operands == ("x", "weight")


def test_of_several_inputs_without_a_name_each_is_called_as_the_parameter() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            self.one, self.other = nn.Dense(3, 2, rng=0), nn.Dense(4, 2, rng=1)

        def forward(self, query: Any, memory: Any) -> tg.Tensor:
            return self.one(query) + self.other(memory)

    picture = tg.draw(np.sum(Two()(np.ones((5, 3), np.float32), memory=np.ones((5, 4), np.float32)))).picture
    assert [n.title for n in picture.nodes if n.kind == "input"] == ["query", "memory"]
    shapes = [(5, 3), (5, 4)]
    assert [n.title for n in tg.draw(Two(), input_size=shapes).picture.nodes if n.kind == "input"] == [
        "query",
        "memory",
    ]
    encoder = nn.Dense(3, 2, rng=0)
    loss = np.sum(encoder(np.ones((5, 3), np.float32)) * encoder(np.zeros((5, 3), np.float32)))
    assert [n.title for n in tg.draw(loss).picture.nodes if n.kind == "input"] == ["x 1", "x 2"]
