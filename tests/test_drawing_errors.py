"""`draw_error`: the graph behind a call that failed."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from drawn import SVG, nodes_of, parsed, svg_of, tensor

import tinygrad_mm as tg
from tinygrad_mm import nn


def culprit(drawing: tg.Drawing) -> tuple[str, list[str], str]:
    """The title of the failed call, the titles of its operands in order, and its reason."""
    (node,) = (n for n in drawing.picture.nodes if n.kind == "error")
    titles = {n.id: n.name or n.title for n in drawing.picture.nodes}
    return node.title, [titles[e.tail] for e in drawing.picture.into(node)], " ".join(node.notes)


def test_an_operator() -> None:
    x, w = tg.Tensor(np.ones((2, 3))), tensor(4, 5, name="w")
    h = np.tanh(w)
    try:
        x @ h
    except ValueError as error:
        drawing = tg.draw_error()
        assert culprit(drawing) == ("matmul", ["x", "h"], f"ValueError: {error}")  # noqa: PT017
    assert [n.title for n in drawing.picture.nodes if n.kind == "operation"] == ["tanh"]
    (node,) = (n for n in drawing.picture.nodes if n.kind == "error")
    drawn = nodes_of(parsed(drawing))[node.id]
    assert (drawn["shape"], drawn["color"]) == ("octagon", "#c8102e")
    words = " ".join("".join(t.itertext()) for t in svg_of(drawing).iter(SVG + "text"))
    assert "the inner sizes 3 and 4 differ" in words


@pytest.mark.parametrize(
    ("fail", "title"),
    [
        (lambda a: np.ones(3) + a, "add"),
        (lambda a: np.concatenate([a, a], axis=5), "concatenate"),
        (lambda a: np.reshape(a, (7,)), "reshape"),
        (lambda a: a[10], "getitem"),
        (lambda a: tg.cross_entropy(a, np.zeros(3, int)), "cross_entropy"),
        (lambda a: np.einsum("ij->i", a), "einsum"),
    ],
)
def test_whatever_fails_is_named(fail: Any, title: str) -> None:
    a = tensor(2, name="a")
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each function has its own)
        fail(a)
    assert "a" in culprit(tg.draw_error(caught.value))[1]
    assert culprit(tg.draw_error(caught.value))[0] == title


def test_a_layer_stands_in_the_module_that_called_it() -> None:
    model = nn.Sequential(nn.Dense(4, 3, "relu", rng=0), nn.Dense(5, 2, rng=1))
    images = tg.Tensor(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model(images)
    drawing = tg.draw_error(caught.value, model=model)
    paths = {c.id: c.path for c in drawing.picture.clusters}
    frames = {(n.kind, n.title): n.cluster and paths[n.cluster] for n in drawing.picture.nodes}
    assert frames["operation", "relu"] == "layers.0"
    (place,) = (where for (kind, _), where in frames.items() if kind == "error")
    assert place == "layers.1"
    assert [c.path for c in drawing.picture.clusters] == ["", "layers.0", "layers.1"]
    assert "images" in {n.title for n in drawing.picture.nodes}


def test_an_error_raised_again_as_another() -> None:
    a = tensor(2, name="a")
    try:
        try:
            a + np.ones(3)
        except ValueError as error:
            raise RuntimeError("no luck") from error
    except RuntimeError as error:
        assert culprit(tg.draw_error(error))[0] == "add"  # noqa: PT017


def test_the_last_error_of_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="broadcast") as caught:
        tensor(2) + tensor(3)
    for name in ("last_exc", "last_value"):
        monkeypatch.setattr(sys, name, None, raising=False)
    with pytest.raises(ValueError, match="there is no error"):
        tg.draw_error()
    monkeypatch.setattr(sys, "last_value", caught.value, raising=False)
    assert culprit(tg.draw_error())[0] == "add"


def test_errors_of_something_else() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    with pytest.raises(ValueError, match="no operation on Tensors failed in this ZeroDivisionError"):
        tg.draw_error(caught.value)
    with pytest.raises(ValueError, match="LR, RL, TB, BT"):
        tg.draw_error(caught.value, direction="up")  # type: ignore[arg-type]
