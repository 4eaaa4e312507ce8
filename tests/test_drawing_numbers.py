"""show="numbers": the value and the gradient in every node, as micrograd draws them; numbers on the way back."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from drawn import SVG, by_title, tensor
from gallery import models
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm.drawing import PictureNode
from tinygrad_mm.drawing.layout import drawn

torch = pytest.importorskip("torch")

UNARY = {"tanh": np.tanh, "sin": np.sin, "exp": np.exp, "square": np.square, "negative": np.negative}
BINARY = {"add": np.add, "multiply": np.multiply, "subtract": np.subtract}


def shown(node: PictureNode) -> dict[str, str]:
    return {what: view.missing or view.numbers[0][0] for what, view in node.views}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_node_shows_its_value_and_its_gradient(data: Any) -> None:
    """The same expression in PyTorch, which keeps the gradient of what lies between too."""
    leaves = data.draw(st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=3))
    ours: list[Any] = [tg.Tensor(v, requires_grad=True, dtype=np.float64) for v in leaves]
    theirs: list[Any] = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in leaves]
    for _ in range(data.draw(st.integers(1, 6))):
        name = data.draw(st.sampled_from([*UNARY, *BINARY]))
        a = data.draw(st.integers(0, len(ours) - 1))
        b = data.draw(st.integers(0, len(ours) - 1))
        one, other = ((ours[a],), (theirs[a],)) if name in UNARY else ((ours[a], ours[b]), (theirs[a], theirs[b]))
        ours.append({**UNARY, **BINARY}[name](*one))
        theirs.append(getattr(torch, name)(*other))
        theirs[-1].retain_grad()
    for i, t in enumerate(ours):
        t.name = f"v{i}"
    theirs[-1].backward()
    picture = tg.draw(ours[-1], show="numbers").picture
    nodes = {n.name or n.title: n for n in picture.nodes if n.kind != "output"}
    last = next(n for n in picture.nodes if n.kind == "operation" and n.name is None)
    nodes[f"v{len(ours) - 1}"] = last  # which has its name at the output
    met = 0
    for i, t in enumerate(theirs):
        node = nodes.get(f"v{i}")
        if node is None:  # the output does not depend on it
            assert t.grad is None
            continue
        met += 1
        numbers = shown(node)
        assert float(numbers["value"]) == pytest.approx(t.item(), rel=6e-3, abs=1e-12)
        assert float(numbers["gradient"]) == pytest.approx(t.grad.item(), rel=6e-3, abs=1e-12)
    assert met >= 2
    assert all(t.grad is None for t in ours)


def test_the_neuron_of_micrograd() -> None:
    picture = models.neuron().picture
    found = {n.name or n.title: tuple(shown(n).values()) for n in picture.nodes if n.kind != "output"}
    assert found["x1"] == ("2", "-1.5")
    assert found["w1"] == ("-3", "1")
    assert found["x2"] == ("0", "0.5")
    assert found["w2"] == ("1", "0")
    assert found["b"] == ("6.88", "0.5")
    assert found["n"] == ("0.881", "0.5")
    assert found["tanh"] == ("0.707", "1")
    words = {"".join(t.itertext()).strip() for t in ET.fromstring(drawn(picture, "LR", "svg")).iter(SVG + "text")}
    assert {"-1.5", "value", "gradient"} <= words
    assert "() float32" not in words


def test_an_edge_of_the_way_back_says_the_number_and_not_its_norm() -> None:
    picture = models.neuron(show=("numbers", "backward")).picture
    titles = {n.id: n.title for n in picture.nodes}
    back = {(titles[e.tail], titles[e.head]): e.label for e in picture.edges if e.kind == "backward"}
    assert back["multiply", "x1"] == "-1.5"
    assert back["multiply", "w2"] == "0"
    of_three = tg.draw(np.sum(-tensor(3, name="x")), show="backward").picture
    edge = next(e for e in of_three.edges if e.kind == "backward" and e.head == by_title(of_three, "x").id)
    assert edge.label == "1.73"
    assert edge.norm == pytest.approx(3**0.5)


def test_gradients_between_are_shown_with_the_way_back() -> None:
    x = tg.Tensor(2.0, requires_grad=True)
    y = np.square(np.sin(x))
    between = by_title(tg.draw(y, show=("gradients", "backward")).picture, "sin")
    assert float(shown(between)["gradient"]) == pytest.approx(2 * np.sin(2.0), rel=6e-3)
    assert by_title(tg.draw(y, show="gradients").picture, "sin").views == ()
    x.grad = np.float32(7) * np.ones((), np.float32)
    both = by_title(tg.draw(y, show=("gradients", "backward")).picture, "x")
    assert shown(both)["gradient"] == "7"  # what .grad holds


def test_calls_with_several_results_and_branches_without_a_gradient() -> None:
    x = tensor(4, name="x")
    a, b = np.split(x, 2)
    picture = tg.draw(np.sum(a) + np.sum(b.detach()), show="numbers").picture
    assert dict(by_title(picture, "x").views)["gradient"].numbers == (("1", "1", "0", "0"),)
    with pytest.raises(RuntimeError, match="requires a gradient"):
        tg.draw(tensor(2, grad=False), show="numbers")


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("show", ["joint", "backward"])
def test_both_ways_back_are_drawn_for_every_model(name: str, show: str) -> None:
    """With normalisation and splits in them, which give several results."""
    picture = models.MODELS[name](show=show).picture
    if show == "joint":
        assert any(n.backward for n in picture.nodes)
        assert sum(n.kind == "output" for n in picture.nodes) > 1
    else:
        assert sum(e.kind == "backward" for e in picture.edges) > 3
