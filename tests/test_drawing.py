"""Drawings: what they show is read from the picture itself, from their DOT text and from what a layout program makes
of it (by the program's own parser and an XML parser), never compared as text.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import sysconfig
import weakref
import xml.etree.ElementTree as ET
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing import Drawing, Picture, PictureNode
from tinygrad_mm.drawing.layout import docked, sequence
from tinygrad_mm.drawing.renderer import find_program, resolution
from tinygrad_mm.drawing.text import printable
from tinygrad_mm.drawing.theme import INK, LOOKS
from tinygrad_mm.graph import defvjp, primitive

SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


def tensor(*shape: int, name: str | None = None, grad: bool = True) -> tg.Tensor:
    t = tg.Tensor(np.ones(shape, np.float32), requires_grad=grad)
    t.name = name
    return t


def by_title(picture: Picture, title: str) -> PictureNode:
    (node,) = (n for n in picture.nodes if n.title == title)
    return node


def titles_into(picture: Picture, node: PictureNode) -> list[str]:
    """What goes into a node, in the order of its operands."""
    titles = {n.id: n.title for n in picture.nodes}
    edges = list(picture.into(node))
    assert [e.operand for e in edges] == list(range(len(edges)))
    return [titles[e.tail] for e in edges]


def parsed(drawing: Drawing) -> dict[str, Any]:
    """The DOT text as a layout program reads it."""
    done = subprocess.run([find_program().path, "-Tdot_json"], input=drawing.source.encode(), capture_output=True)
    assert done.returncode == 0, done.stderr
    graph: dict[str, Any] = json.loads(done.stdout)
    return graph


def nodes_of(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {o["name"]: o for o in graph["objects"] if not o.get("nodes") and not o.get("subgraphs") and "shape" in o}


def edges_of(graph: dict[str, Any]) -> list[dict[str, Any]]:
    """The visible edges, in no particular order, with names in place of numbers."""
    names = {o["_gvid"]: o["name"] for o in graph["objects"]}
    edges = graph.get("edges", [])
    return [{**e, "tail": names[e["tail"]], "head": names[e["head"]]} for e in edges if e.get("style") != "invis"]


def svg_of(drawing: Drawing) -> ET.Element:
    return ET.fromstring(drawing._repr_svg_())


def two_layers() -> tuple[tg.Tensor, nn.Sequential]:
    model = nn.Sequential(nn.Dense(6, 4, "relu", rng=0), nn.Dense(4, 3, rng=1))
    images = tensor(5, 6, name="images", grad=False)
    loss = tg.cross_entropy(model(images), np.array([0, 1, 2, 0, 1]))
    loss.name = "loss"
    return loss, model


# ---------------------------------------------------------------------------------------------------------------------
# What a picture shows
# ---------------------------------------------------------------------------------------------------------------------


def test_two_layer_network() -> None:
    loss, model = two_layers()
    picture = tg.draw(loss, model=model).picture

    shown = [(n.kind, n.title, n.shape, n.dtype) for n in picture.nodes if n.kind != "operation"]
    assert sorted(shown) == sorted(
        [
            ("input", "images", (5, 6), "float32"),
            *(("parameter", path, p.shape, "float32") for path, p in model.named_parameters()),
            ("constant", "constant", (5,), "int64"),
            ("output", "loss", (), "float32"),
        ]
    )
    operations = [n for n in picture.nodes if n.kind == "operation"]
    assert [(n.title, n.shape) for n in operations][:5] == [
        ("matmul", (5, 4)),
        ("add", (5, 4)),
        ("relu", (5, 4)),
        ("matmul", (5, 3)),
        ("add", (5, 3)),
    ]
    assert titles_into(picture, operations[0]) == ["images", "layers.0.weight"]
    assert titles_into(picture, operations[3]) == ["relu", "layers.1.weight"]
    assert titles_into(picture, by_title(picture, "cross_entropy")) == ["add", "constant"]

    frames = {c.id: c for c in picture.clusters}
    assert [(c.label, c.path, frames[c.parent].label if c.parent else None) for c in picture.clusters] == [
        ("Sequential", "", None),
        ("Dense", "layers.0", "Sequential"),
        ("Dense", "layers.1", "Sequential"),
    ]
    layer = {n.title: n.cluster and frames[n.cluster].path for n in picture.nodes}
    assert layer["layers.0.weight"] == layer["layers.0.bias"] == layer["relu"] == "layers.0"
    assert layer["layers.1.weight"] == "layers.1"
    assert layer["images"] is layer["constant"] is layer["loss"] is layer["cross_entropy"] is None


def test_without_a_model_layers_are_called_by_class() -> None:
    loss, _ = two_layers()
    picture = tg.draw(loss).picture
    assert [(c.label, c.path) for c in picture.clusters] == [("Sequential", ""), ("Dense", ""), ("Dense", "")]
    assert [n.title for n in picture.nodes if n.kind == "parameter"] == [f"parameter {i}" for i in (1, 2, 3, 4)]


def test_the_dot_text_has_the_same_structure() -> None:
    loss, model = two_layers()
    drawing = tg.draw(loss, model=model)
    graph = parsed(drawing)
    nodes = nodes_of(graph)
    assert set(nodes) == {n.id for n in drawing.picture.nodes}
    edges = [(e.tail, e.head) for e in drawing.picture.edges]
    assert sorted((e["tail"], e["head"]) for e in edges_of(graph)) == sorted(edges)
    written = re.findall(r"^\s*(n\d+) -> (n\d+)(?!.*style=invis)", drawing.source, re.MULTILINE)
    assert written == edges  # operands in order
    members = {o["name"]: {graph["objects"][i]["name"] for i in o.get("nodes", ())} for o in graph["objects"]}
    for node in drawing.picture.nodes:
        if node.cluster is not None:
            assert node.id in members[f"cluster_{node.cluster}"]
    for cluster in drawing.picture.clusters:
        if cluster.parent is not None:
            assert members[f"cluster_{cluster.id}"] < members[f"cluster_{cluster.parent}"]


def test_duplicate_edges_and_operand_order() -> None:
    a, b = tensor(2, name="a"), tensor(2, name="b")
    drawing = tg.draw(a * a - b / a)
    assert titles_into(drawing.picture, by_title(drawing.picture, "multiply")) == ["a", "a"]
    assert titles_into(drawing.picture, by_title(drawing.picture, "divide")) == ["b", "a"]
    assert titles_into(drawing.picture, by_title(drawing.picture, "subtract")) == ["multiply", "divide"]
    square, start = by_title(drawing.picture, "multiply").id, by_title(drawing.picture, "a").id
    assert [(e["tail"], e["head"]) for e in edges_of(parsed(drawing))].count((start, square)) == 2


def test_operands_are_named_where_their_order_matters() -> None:
    a, b = tensor(2, 2, name="a"), tensor(2, 2, name="b")
    drawing = tg.draw((a + b) @ b)
    titles = {n.id: n.title for n in drawing.picture.nodes}
    marked = [(titles[e["tail"]], titles[e["head"]], e.get("headlabel")) for e in edges_of(parsed(drawing))]
    assert sorted(marked, key=str) == [
        ("a", "add", None),
        ("add", "matmul", "a"),
        ("b", "add", None),
        ("b", "matmul", "b"),
        ("matmul", "output", None),
    ]


@st.composite
def programs(draw: st.DrawFn) -> tuple[tg.Tensor, list[tuple[str, tuple[int, ...]]], list[int]]:
    """A random program, and an account of it kept beside: for each value its name and the numbers of its operands."""
    leaves = draw(st.integers(1, 3))
    values: list[Any] = [tensor(2, name=f"leaf {i}") for i in range(leaves)]
    account: list[tuple[str, tuple[int, ...]]] = [(f"leaf {i}", ()) for i in range(leaves)]
    for _ in range(draw(st.integers(1, 12))):
        fun = draw(st.sampled_from([np.add, np.multiply, np.subtract, np.tanh, np.sin, np.maximum]))
        operands = tuple(draw(st.lists(st.integers(0, len(values) - 1), min_size=fun.nin, max_size=fun.nin)))
        values.append(fun(*(values[i] for i in operands)))
        account.append((fun.__name__, operands))
    needed, stack = set(), [len(values) - 1]
    while stack:
        i = stack.pop()
        if i not in needed:
            needed.add(i)
            stack.extend(account[i][1])
    return values[-1], account, sorted(needed)


@given(programs())
def test_any_program_is_drawn_as_it_was_written(program: Any) -> None:
    result, account, needed = program
    picture = tg.draw(result).picture
    operations = [n for n in picture.nodes if n.kind == "operation"]
    written = [i for i in needed if account[i][1]]
    assert [n.title for n in operations] == [account[i][0] for i in written]
    name = {n.id: i for n, i in zip(operations, written, strict=True)}
    name |= {n.id: int(n.title.split()[1]) for n in picture.nodes if n.kind == "input"}
    for node, i in zip(operations, written, strict=True):
        assert [name[e.tail] for e in picture.into(node)] == list(account[i][1])
    whole = [n for n in picture.nodes if n.kind == "input" and not n.chip]
    assert len(whole) == len({account[i][0] for i in needed if not account[i][1]})
    assert [name[e.tail] for e in picture.into(picture.nodes[-1])] == [len(account) - 1]


def test_constants_are_arrays_and_numbers() -> None:
    x, mask = tensor(3, name="x"), np.array([True, False, True])
    picture = tg.draw(np.where(mask, x, 0.0) * 2 + np.where(mask, 1.5, x)).picture
    constants = [(n.title, n.shape) for n in picture.nodes if n.kind == "constant"]
    assert sorted(constants, key=str) == [("0.0", None), ("1.5", None), ("2", None), ("constant", (3,))]
    where = [n for n in picture.nodes if n.title == "where"]
    assert [titles_into(picture, n) for n in where] == [["constant", "x", "0.0"], ["constant", "1.5", "x"]]


def test_options_are_written_on_the_operation() -> None:
    x = tensor(4, 6, name="x")
    picture = tg.draw(np.sum(np.mean(x[:, 1:3], axis=0, keepdims=True).reshape(2))).picture
    options = {n.title: set(n.options) for n in picture.nodes}
    assert options["getitem"] == {"[:, 1:3]"}
    assert options["mean"] == {"axis=0", "keepdims=True"}
    assert options["reshape"] == {"shape=2"} or options["reshape"] == {"shape=(2,)"}
    assert options["sum"] == set()
    node = by_title(picture := tg.draw(x * np.round(x, 1)).picture, "round")
    assert titles_into(picture, node) == ["x"]  # 1 says how to round; it is not computed with
    assert node.options == ("1",)


def test_tensors_in_an_index_are_operands() -> None:
    x, rows = tensor(4, 6, name="x"), tg.Tensor(np.array([0, 2]))
    rows.name = "rows"
    node = by_title(picture := tg.draw(x[rows, :2]).picture, "getitem")
    assert titles_into(picture, node) == ["x", "rows"]
    assert node.operands == ("x", "#0")
    assert node.options == ("[#0, :2]",)


def test_concatenate_and_split() -> None:
    a, b = tensor(2, 3, name="a"), tensor(2, 3, name="b")
    left, right = np.split(np.concatenate([a, np.zeros((2, 2), np.float32), b], axis=1), 2, axis=1)
    picture = tg.draw([left, right]).picture
    joined = by_title(picture, "concatenate")
    assert titles_into(picture, joined) == ["a", "constant", "b"]
    assert joined.options == ("axis=1",)
    assert [n.options for n in picture.nodes if n.title == "getitem"] == [("[:, 0:4]",), ("[:, 4:8]",)]
    assert [n.title for n in picture.nodes if n.kind == "output"] == ["output 1", "output 2"]


def test_names_of_tensors() -> None:
    x = tensor(3, name="x")
    hidden = np.tanh(x)
    hidden.name = "hidden"
    picture = tg.draw(np.sum(hidden)).picture
    assert by_title(picture, "tanh").name == "hidden"
    assert by_title(picture, "x").kind == "input"
    assert {"hidden", "x", "sum"} <= set(names_shown(svg_of(tg.draw(np.sum(hidden)))))


def test_what_no_gradient_passes_is_dashed() -> None:
    x, data = tensor(3, name="x"), tensor(3, name="data", grad=False)
    drawing = tg.draw(x * (x > 0) + data)
    mask = by_title(drawing.picture, "greater")
    assert not mask.gradient
    assert by_title(drawing.picture, "multiply").gradient
    graph = parsed(drawing)
    assert "dashed" in nodes_of(graph)[mask.id]["style"]
    assert "dashed" not in nodes_of(graph)[by_title(drawing.picture, "multiply").id]["style"]
    titles = {n.id: n.title for n in drawing.picture.nodes}
    dashed = {(titles[e["tail"]], titles[e["head"]]): e.get("style") == "dashed" for e in edges_of(graph)}
    assert dashed == {
        ("x", "greater"): True,
        ("0", "greater"): True,
        ("x", "multiply"): False,
        ("greater", "multiply"): True,
        ("multiply", "add"): False,
        ("data", "add"): True,
        ("add", "output"): False,
    }


def test_a_rule_without_a_gradient_for_one_argument() -> None:
    @primitive
    def straight_through(x: Any, threshold: Any) -> Any:
        return np.where(x > threshold, x, 0)

    defvjp(straight_through, lambda g, y, x, threshold: g, None)
    picture = tg.draw(straight_through(tensor(2, name="x"), tensor(2, name="t"))).picture
    node = by_title(picture, "straight_through")
    assert [e.gradient for e in picture.into(node)] == [True, False]
    assert node.operands == ("x", "threshold")


@primitive
def extremes(x: Any) -> Any:
    return np.min(x), np.max(x)


defvjp(extremes, lambda g, y, x: g[0] * (x == y[0]) + g[1] * (x == y[1]))


def test_several_results_are_told_apart_on_the_edges() -> None:
    lowest, highest = extremes(tensor(3, name="x"))
    highest.name = "highest"
    drawing = tg.draw(highest - lowest)
    node = by_title(drawing.picture, "extremes")
    assert node.results == 2
    assert not [n for n in drawing.picture.nodes if n.title == "select"]
    assert [e.label for e in drawing.picture.edges if e.tail == node.id] == ["highest ()", "[0] ()"]
    text = {"".join(t.itertext()) for t in svg_of(drawing).iter(SVG + "text")}
    assert {"highest ()", "[0] ()", "2 results"} <= text


def test_a_leaf_alone() -> None:
    picture = tg.draw(tensor(2, name="w")).picture
    assert [(n.kind, n.title) for n in picture.nodes] == [("input", "w"), ("output", "w")]
    assert len(picture.edges) == 1
    assert svg_of(tg.draw(tg.Parameter([1.0]))).tag == SVG + "svg"


def test_second_order_graphs_are_drawn_too() -> None:
    x = tensor(name="x")
    y = np.sin(x)
    slope = tg.gradients(y, x, create_graph=True)
    assert "cos" in {n.title for n in tg.draw([y, slope]).picture.nodes}


class Cell(nn.Module):
    def __init__(self, size: int) -> None:
        self.weight = nn.Parameter(np.eye(size, dtype=np.float32))
        self.scale = nn.Buffer(np.ones(size, np.float32))

    def forward(self, h: Any) -> Any:
        return np.tanh(h @ self.weight) * self.scale


class Recurrent(nn.Module):
    def __init__(self, size: int) -> None:
        self.cell = Cell(size)

    def forward(self, h: Any, steps: int) -> Any:
        for _ in range(steps):
            h = self.cell(h)
        return h


def test_each_call_of_a_module_has_its_own_cluster() -> None:
    model = Recurrent(2)
    picture = tg.draw(model(tensor(1, 2), 3), model=model).picture
    assert [(c.path, c.call, c.calls) for c in picture.clusters] == [("", 1, 1), *(("cell", i, 3) for i in (1, 2, 3))]
    tanhs = [n.cluster for n in picture.nodes if n.title == "tanh"]
    assert tanhs == [c.id for c in picture.clusters[1:]]


def test_what_module_calls_share_is_drawn_in_full_once() -> None:
    model = Recurrent(2)
    picture = tg.draw(model(tensor(1, 2), 4), model=model).picture
    for title, kind in (("cell.weight", "parameter"), ("cell.scale", "buffer")):
        drawn = [n for n in picture.nodes if n.title == title]
        assert {n.kind for n in drawn} == {kind}
        assert [n.chip for n in drawn] == [False, True, True, True]
        assert drawn[0].uses == 4
        assert all(sum(e.tail == n.id for e in picture.edges) == 1 for n in drawn)


def test_a_leaf_with_very_many_uses_is_no_hub() -> None:
    x = tensor(2, name="x")
    picture = tg.draw(sum((x * i for i in range(30)), start=x)).picture
    drawn = [n for n in picture.nodes if n.title == "x"]
    assert sum(not n.chip for n in drawn) == 1
    assert max(sum(e.tail == n.id for e in picture.edges) for n in drawn) <= 2


# ---------------------------------------------------------------------------------------------------------------------
# How it looks
# ---------------------------------------------------------------------------------------------------------------------


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
    for group in svg_of(tg.draw(model(tensor(2, 1)), model=model)).iter(SVG + "g"):
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
        before[edge.head].add(edge.tail)
    beside = docked(picture)
    for tail, head in sequence(picture, beside):
        assert head not in beside
        before[head].add(tail)
    assert len(list(TopologicalSorter(before).static_order())) == len(picture.nodes)  # raises CycleError
    for leaf, operation in beside.items():
        assert [e.head for e in picture.edges if e.tail == leaf] == [operation]
    assert len(set(beside.values())) == len(beside)


# ---------------------------------------------------------------------------------------------------------------------
# Any text
# ---------------------------------------------------------------------------------------------------------------------

NASTY = ["<script>alert(1)</script>", 'a"b', "a\\N", "\\", "&amp;", "<b>", "two\nlines", "  two  spaces  ", "∂L/∂x", "日本語", "\ud800", "\x00", "-->", "]]>", "%", "\\G\\E\\T\\H\\l\\r", "<>", "a>b", "x:p0:w", "\N{NO-BREAK SPACE}", "名" * 60, "\u202e"]  # fmt: skip


def plain(text: str) -> str:
    """As a reader sees it: no-break spaces are spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def names_shown(svg: ET.Element) -> list[str]:
    """The bold text of each node: what stands in a <text> of its own."""
    return [plain("".join(t.itertext())) for t in svg.iter(SVG + "text") if t.get("font-weight") == "bold"]


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
        *("svg", "g", "title", "polygon", "path", "ellipse", "polyline", "text", "a"),
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


# ---------------------------------------------------------------------------------------------------------------------
# What drawing leaves alone
# ---------------------------------------------------------------------------------------------------------------------


def test_a_released_graph_cannot_be_drawn() -> None:
    x = tensor(2)
    loss = np.sum(x * x)
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        tg.draw(loss)
    kept = np.sum(x * x)
    kept.backward(retain_graph=True)
    assert len(tg.draw(kept).picture.nodes) == 4


def test_drawing_changes_no_result() -> None:
    def gradients(drawn: bool) -> list[np.ndarray]:
        loss, model = two_layers()
        parameters = model.parameters()
        versions = [p.version for p in parameters]
        if drawn:
            assert tg.draw(loss, model=model).source
        assert [p.version for p in parameters] == versions
        assert all(p.grad is None for p in parameters)
        loss.backward()
        return [p.grad for p in parameters]

    for with_picture, without in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_array_equal(with_picture, without)


def test_a_drawing_keeps_no_tensor_alive() -> None:
    gc.disable()
    try:
        loss, model = two_layers()
        seen = [weakref.ref(loss), weakref.ref(model.layers[0].weight)]
        drawing = tg.draw(loss, model=model)
        assert drawing.source
        del loss, model
        assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()
    assert pickle.loads(pickle.dumps(drawing)).source == drawing.source


def test_ten_thousand_operations_need_no_recursion() -> None:
    x = tensor(name="x")
    y = x
    for _ in range(10_000):
        y = np.sin(y)
    depth, limit = len(_frames()), sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 60)
    try:
        drawing = tg.draw(y)
        source = drawing.source
    finally:
        sys.setrecursionlimit(limit)
    assert len(drawing.picture.nodes) == 10_002
    assert source.count(" -> ") == 10_001


def _frames() -> list[Any]:
    frame, found = sys._getframe(), []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def test_modules_nested_deeply() -> None:
    class Nest(nn.Module):
        def __init__(self, depth: int) -> None:
            self.inner = Nest(depth - 1) if depth else np.sin

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    model = Nest(60)
    drawing = tg.draw(model(tensor(2)), model=model)
    assert drawing.picture.clusters[-1].path == ".".join(["inner"] * 60)
    assert svg_of(drawing).tag == SVG + "svg"


PROGRAM = """
import numpy as np, sys, tinygrad_mm as tg
from tinygrad_mm import nn
model = nn.Sequential(nn.Dense(3, 4, "relu", rng=0), nn.Dense(4, 2, rng=1))
[object() for _ in range(int(sys.argv[1]))]
loss = tg.cross_entropy(model(np.ones((5, 3), np.float32)), np.zeros(5, int)) + np.sum(model.layers[0].weight[:2] * 2.0)
sys.stdout.write(tg.draw(loss, model=model).source)
"""


def test_the_same_program_gives_the_same_bytes() -> None:
    sources = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(objects)],
            env={**os.environ, "PYTHONHASHSEED": str(objects)},
            capture_output=True,
            check=True,
        ).stdout
        for objects in (1, 2000)
    }
    assert len(sources) == 1
    assert b"0x" not in sources.pop()


def test_objects_among_the_options_are_written_without_their_address() -> None:
    @primitive
    def scaled(x: Any, how: Any) -> Any:
        return x * 2

    defvjp(scaled, lambda g, y, x, how: g * 2)
    node = by_title(tg.draw(scaled(tensor(2), object())).picture, "scaled")
    assert node.options == ("how=<object object>",)


# ---------------------------------------------------------------------------------------------------------------------
# Files and notebooks
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawing() -> Drawing:
    return tg.draw(np.sum(tensor(2, name="x") * 2))


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_save(drawing: Drawing, tmp_path: Path) -> None:
    assert drawing.save(tmp_path / "graph.svg") == tmp_path / "graph.svg"
    assert ET.parse(tmp_path / "graph.svg").getroot().tag == SVG + "svg"
    drawing.save(str(tmp_path / "graph.PNG"))
    assert min(png_size(tmp_path / "graph.PNG")) > 50
    drawing.save(tmp_path / "graph.dot")
    assert (tmp_path / "graph.dot").read_text(encoding="utf-8") == drawing.source == drawing.graph.source
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph.PNG", "graph.dot", "graph.svg"]


def test_the_graphviz_object_can_be_changed_without_changing_the_drawing(drawing: Drawing) -> None:
    before = drawing.source
    graph = drawing.graph
    graph.node("mine")
    assert "mine" in graph.source
    assert drawing.source == before


@given(st.floats(1, 1e6), st.floats(1, 1e6))
def test_the_resolution_of_a_png_keeps_it_within_bounds(width: float, height: float) -> None:
    dots = resolution(width, height)
    pixels = width / 72 * dots, height / 72 * dots
    assert max(pixels) <= 32_000.1
    assert pixels[0] * pixels[1] <= 48_000_100
    assert dots == 144 or max(pixels) >= 31_999 or pixels[0] * pixels[1] >= 47_999_000


def test_a_large_png_is_bounded(tmp_path: Path) -> None:
    y = tensor(2)
    for _ in range(300):
        y = np.sin(y)
    width, _ = png_size(tg.draw(y).save(tmp_path / "long.png"))
    assert 30_000 < width <= 32_100


@pytest.mark.parametrize("name", ["graph", "graph.jpeg", "svg", "graph.svg.gz"])
def test_an_unknown_ending_names_the_known_ones(drawing: Drawing, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.svg, \.png, \.pdf, \.dot"):
        drawing.save(tmp_path / name)


def test_a_file_that_cannot_be_written(drawing: Drawing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder.svg").mkdir()
    for path in (tmp_path / "missing" / "a.svg", tmp_path / "file" / "a.svg", tmp_path / "folder.svg"):
        with pytest.raises(OSError, match=r"cannot write .*folder that exists"):
            drawing.save(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.svg"]
    assert list((tmp_path / "folder.svg").iterdir()) == []


def only_these_programs(monkeypatch: pytest.MonkeyPatch, folder: Path, **scripts: str) -> None:
    """No layout program but these shell scripts, on the PATH and nowhere else."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder / "nowhere"))


def test_without_a_layout_program(drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin")
    with pytest.raises(RuntimeError, match="apt install graphviz") as error:
        drawing.save(tmp_path / "graph.svg")
    assert "pip install 'tinygrad_mm[pictures]'" in str(error.value)
    assert not (tmp_path / "graph.svg").exists()
    assert drawing.save(tmp_path / "graph.dot").read_text(encoding="utf-8") == drawing.source
    shown = drawing._repr_mimebundle_()
    assert set(shown) == {"text/plain"}
    assert "apt install graphviz" in shown["text/plain"]


posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in programs are shell scripts")


@posix
def test_a_real_dot_is_preferred_and_writes_pdf(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin", dot='echo "%PDF from dot $1"', **{"graphviz-pure": "echo pure"})
    assert drawing.save(tmp_path / "graph.pdf").read_text() == "%PDF from dot -Tpdf\n"


@posix
def test_graphviz_pure_is_used_where_there_is_no_dot_and_writes_no_pdf(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin", **{"graphviz-pure": "echo pure $1"})
    assert drawing.save(tmp_path / "graph.svg").read_text() == "pure -Tsvg\n"
    with pytest.raises(RuntimeError, match=r"cannot write PDF.*apt install graphviz"):
        drawing.save(tmp_path / "graph.pdf")


@posix
def test_graphviz_pure_is_found_among_the_scripts_of_this_python(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these_programs(monkeypatch, tmp_path / "bin", **{"graphviz-pure": "echo scripts"})
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "bin"))
    assert find_program() == (str(tmp_path / "bin" / "graphviz-pure"), True)


@posix
def test_a_layout_program_that_fails_leaves_the_old_file(
    drawing: Drawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graph.svg").write_text("old")
    only_these_programs(monkeypatch, tmp_path / "bin", dot="echo half; echo the reason >&2; exit 3")
    with pytest.raises(RuntimeError, match="status 3: the reason"):
        drawing.save(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "graph.svg"]


def test_notebooks_show_svg(drawing: Drawing) -> None:
    shown = drawing._repr_mimebundle_()
    assert ET.fromstring(shown["image/svg+xml"]).tag == SVG + "svg"
    assert shown["text/plain"] == repr(drawing)


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [np.ones(2), 3.0, None, "loss", [1.0]])
def test_only_tensors_can_be_drawn(outputs: Any) -> None:
    with pytest.raises(TypeError, match="only Tensors have a graph"):
        tg.draw(outputs)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="no outputs"):
        tg.draw([])
    with pytest.raises(ValueError, match="LR, RL, TB, BT"):
        tg.draw(tensor(2), direction="left")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"list.*named_parameters"):
        tg.draw(tensor(2), model=[])
