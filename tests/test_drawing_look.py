"""How pictures look: shapes, colours, places, and any text, read from what the layout program makes of them."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import pytest
from drawn import (
    SVG,
    XLINK,
    Cell,
    by_title,
    names_shown,
    nodes_of,
    parsed,
    plain,
    svg_of,
    tensor,
    two_layers,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing import Drawing
from tinygrad_mm.drawing.order import docked, sequence
from tinygrad_mm.drawing.renderer import render
from tinygrad_mm.drawing.text import printable
from tinygrad_mm.drawing.theme import INK, LOOKS


def test_kinds_differ_in_shape_and_in_colour() -> None:
    assert len({(look.shape, look.lines) for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.fill for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.border for look in LOOKS.values()}) == len(LOOKS)
    loss, model = two_layers()
    drawing = tg.draw(loss, model=model)
    drawn = nodes_of(parsed(drawing))
    for node in drawing.picture.nodes:
        assert (drawn[node.id]["shape"], drawn[node.id]["fillcolor"]) == (LOOKS[node.kind].shape, LOOKS[node.kind].fill)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("kind", LOOKS)
def test_titles_have_the_contrast_that_wcag_asks_for(kind: Any) -> None:
    assert (luminance(LOOKS[kind].fill) + 0.05) / (luminance(INK) + 0.05) >= 7


def test_the_legend_explains_what_is_there_and_nothing_else() -> None:
    def words(drawing: Drawing) -> set[str]:
        return {"".join(cell.itertext()) for cell in ET.fromstring(parsed(drawing)["label"]).iter("font")}

    x = tensor(3)
    assert words(tg.draw(np.sin(x))) == {"input", "operation", "output"}
    assert words(tg.draw(x * 2)) == {"input", "constant", "operation", "output", "dashed: no gradient"}


def box(element: ET.Element) -> tuple[float, float, float, float]:
    """The bounding box of a node's outline."""
    numbers: list[tuple[float, float]] = []
    for shape in element.iter():
        if shape.tag == SVG + "ellipse":
            cx, cy, rx, ry = (float(shape.get(k, 0)) for k in ("cx", "cy", "rx", "ry"))
            numbers += [(cx - rx, cy - ry), (cx + rx, cy + ry)]
        for text in (shape.get("points"), (shape.get("d") or "").replace("M", " ").replace("C", " ")):
            numbers += [tuple(map(float, pair.split(","))) for pair in (text or "").split()]  # type: ignore[misc]
    xs, ys = zip(*numbers, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


@pytest.mark.parametrize("direction", ["LR", "RL", "TB", "BT"])
def test_nodes_do_not_overlap_and_hold_their_text(direction: Any) -> None:
    loss, model = two_layers()
    svg = svg_of(tg.draw(loss, model=model, direction=direction))
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    boxes = []
    for group in svg.iter(SVG + "g"):
        if group.get("class") == "node":
            left, top, right, bottom = box(group)
            boxes.append((left, top, right, bottom))
            assert right - left < width
            assert bottom - top < height
            for text in group.iter(SVG + "text"):
                assert left < float(text.get("x", 0)) < right
                assert top < float(text.get("y", 0)) < bottom
    assert len(boxes) == len(tg.draw(loss, model=model).picture.nodes)
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("direction", ["LR", "RL", "TB", "BT"])
def test_data_flow_in_the_direction_asked_for(direction: Any) -> None:
    svg = svg_of(tg.draw(np.sin(np.cos(tensor(2))), direction=direction))
    boxes = [box(g) for g in svg.iter(SVG + "g") if g.get("class") == "node"]
    axis = 0 if direction in ("LR", "RL") else 1
    places = [b[axis] for b in boxes]
    assert places == sorted(places, reverse=direction in ("RL", "BT"))


class Twice(nn.Module):
    """A layer whose weight goes two ways."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(np.ones((1, 1), np.float32))

    def forward(self, h: Any) -> Any:
        return np.tanh(h @ self.weight) * np.exp(self.weight)


@pytest.mark.parametrize("layer", [lambda: nn.Dense(1, 1, rng=0), Twice])
def test_layers_follow_each_other(layer: Any) -> None:
    """In a picture from left to right, the frame of the second layer begins where that of the first has ended."""
    model = nn.Sequential(layer(), layer())
    frames = {}
    one_row = render(tg.draw(model(tensor(2, 1)), model=model).source, "svg")
    for group in ET.fromstring(one_row).iter(SVG + "g"):
        if group.get("class") == "cluster":
            title = next((a.get(XLINK + "title") for a in group.iter(SVG + "a")), None)
            if group.find(f".//{SVG}path") is not None and next(group.iter(SVG + "text"), None) is not None:
                frames[title] = box(group)
    kind = type(model.layers[0]).__name__
    assert frames[f"layers.0 {kind}"][2] <= frames[f"layers.1 {kind}"][0]
    assert frames["Sequential"][0] < frames[f"layers.0 {kind}"][0]


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
def test_what_the_layout_is_told_contradicts_nothing(layers: int, steps: int, residual: bool, backward: bool) -> None:
    model = nn.Sequential(*(nn.Dense(2, 2, "relu", rng=i) for i in range(layers)))
    cell, twice = Cell(2), Twice()
    x = h = tensor(3, 2, name="x")
    for _ in range(steps):
        h = twice(np.sum(model(cell(h)), axis=1, keepdims=True)) + (x * 2 if residual else h)
    outputs = [h]
    if backward:  # a backward pass comes back into the layers
        outputs += tg.gradients(np.sum(h * h), [twice.weight, *model.parameters()], create_graph=True)
    picture = tg.draw(outputs, model=model).picture
    before: dict[str, set[str]] = {n.id: set() for n in picture.nodes}
    for edge in picture.edges:
        if edge.kind == "forward":
            before[edge.head].add(edge.tail)
    beside = docked(picture)
    for tail, head in sequence(picture, beside):
        assert head not in beside
        before[head].add(tail)
    assert len(list(TopologicalSorter(before).static_order())) == len(picture.nodes)  # raises CycleError
    for leaf, operation in beside.items():
        assert [e.head for e in picture.edges if e.tail == leaf] == [operation]
    assert len(set(beside.values())) == len(beside)


NASTY = ["<script>alert(1)</script>", 'a"b', "a\\N", "\\", "&amp;", "<b>", "two\nlines", "  two  spaces  ", "∂L/∂x", "日本語", "\ud800", "\x00", "-->", "]]>", "%", "\\G\\E\\T\\H\\l\\r", "<>", "a>b", "x:p0:w", "\N{NO-BREAK SPACE}", "名" * 60, "\u202e"]  # fmt: skip


@given(st.text(max_size=30), st.text(max_size=30), st.text(min_size=1, max_size=30))
@example(*NASTY[:3])
@example(*NASTY[3:6])
@example(*NASTY[6:9])
@example(*NASTY[9:12])
@example(*NASTY[12:15])
@example(*NASTY[15:18])
@example(*NASTY[18:21])
@example(NASTY[21], "x", "y")
@settings(max_examples=40)
def test_any_name_arrives_as_it_is(leaf: str, hidden: str, layer: str) -> None:
    x = tensor(2, name=leaf)
    y = np.tanh(x)
    y.name = hidden
    module = type(layer.replace("\x00", "").encode(errors="ignore").decode() or "M", (Cell,), {})(2)
    drawing = tg.draw(np.sum(module(y.reshape(1, 2))), model=module)
    svg = svg_of(drawing)

    assert {e.tag.removeprefix(SVG) for e in svg.iter()} <= {
        *("svg", "g", "title", "polygon", "path", "ellipse", "polyline", "text", "a", "style"),
    }
    hints = [plain(a.get(XLINK + "title", "")) for a in svg.iter(SVG + "a")]
    assert not any(a.get(XLINK + "href") for a in svg.iter(SVG + "a"))
    shown = names_shown(svg)
    for given_name, rest in ((leaf, ": input (2,) float32"), (hidden, " = tanh: operation (2,) float32")):
        if given_name.strip():
            assert printable(given_name) + rest in hints
            if len(printable(given_name)) <= 40:
                assert printable(given_name) in shown
    if type(module).__name__.strip():
        assert printable(type(module).__name__.strip()) in hints


@given(st.text())
def test_whatever_is_not_printed_is_escaped(text: str) -> None:
    line = printable(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    line.encode()
    if text.isprintable():
        assert line == text


@pytest.mark.parametrize("name", ["名" * 20, "é" * 30, "Ж" * 30])
def test_boxes_are_wide_enough_for_letters_that_layout_programs_do_not_know(name: str) -> None:
    y = np.sin(tensor(2))
    y.name = name
    node = by_title((drawing := tg.draw(y * y)).picture, "sin").id
    svg = svg_of(drawing)
    group = next(g for g in svg.iter(SVG + "g") if g.get("class") == "node" and g.findtext(SVG + "title") == node)
    left, _, right, _ = box(group)
    (text,) = (t for t in group.iter(SVG + "text") if t.text == name)
    width = 11 * len(name) * (1.0 if name[0] == "名" else 0.62)
    assert left < float(text.get("x", 0))
    assert float(text.get("x", 0)) + width < right


def test_long_names_and_options_are_shortened_where_they_are_drawn_and_whole_in_the_tooltip() -> None:
    name = "a" * 100 + "z"
    x = tensor(300, name=name)
    svg = svg_of(tg.draw(np.sum(x[list(range(200))])))
    assert max(len("".join(t.itertext())) for t in svg.iter(SVG + "text")) <= 40
    assert any(name in a.get(XLINK + "title", "") for a in svg.iter(SVG + "a"))
