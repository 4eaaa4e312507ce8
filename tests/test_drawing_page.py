"""Pictures that fit a page: rows, folding by itself and on request, functions as one box, names of what was given."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from drawn import SVG, by_title, names_shown, tensor
from gallery import models
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing.layout import _arranged, drawn
from tinygrad_mm.drawing.rows import Plan, wrapped

A4 = 794  # pixels across, at 96 to an inch
Box = tuple[float, float, float, float]


def svg(drawing: tg.Drawing) -> ET.Element:
    return ET.fromstring(drawn(drawing.picture, drawing.direction, "svg"))


def size(root: ET.Element) -> tuple[float, float]:
    """In points, as the picture is when it is not scaled."""
    return float(root.attrib["width"].removesuffix("pt")), float(root.attrib["height"].removesuffix("pt"))


def points(path: ET.Element) -> list[tuple[float, float]]:
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", path.get("d") or path.get("points") or "")]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def groups(root: ET.Element, kind: str) -> dict[str, ET.Element]:
    return {g.attrib["id"]: g for g in root.iter(SVG + "g") if g.get("class") == kind}


def extent(group: ET.Element) -> Box:
    corners = [p for shape in group.iter() if shape.tag in (SVG + "path", SVG + "polygon") for p in points(shape)]
    for e in group.iter(SVG + "ellipse"):
        x, y, rx, ry = (float(e.attrib[a]) for a in ("cx", "cy", "rx", "ry"))
        corners += [(x - rx, y - ry), (x + rx, y + ry)]
    return (
        min(x for x, _ in corners),
        min(y for _, y in corners),
        max(x for x, _ in corners),
        max(y for _, y in corners),
    )


def text_box(text: ET.Element) -> Box:
    x, y, letters = float(text.attrib["x"]), float(text.attrib["y"]), float(text.attrib["font-size"])
    wide = 0.43 * letters * len("".join(text.itertext()))
    left = x - {"middle": wide / 2, "end": wide}.get(text.get("text-anchor", "start"), 0)
    return left, y - 0.7 * letters, left + wide, y


def curve(group: ET.Element) -> list[tuple[float, float]]:
    """Points along an edge."""
    found: list[tuple[float, float]] = []
    for path in group.iter(SVG + "path"):
        control = points(path)
        for a, b, c, d in zip(control[0::3], control[1::3], control[2::3], control[3::3], strict=False):
            for t in np.linspace(0, 1, 30):
                weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
                found.append(
                    tuple(float(sum(w * p[k] for w, p in zip(weights, (a, b, c, d), strict=True))) for k in (0, 1))
                )  # type: ignore[arg-type]
    return found


def inside(point: tuple[float, float], box: Box, margin: float = 0.0) -> bool:
    (x, y), (left, top, right, bottom) = point, box
    return left - margin <= x <= right + margin and top - margin <= y <= bottom + margin


# ---------------------------------------------------------------------------------------------------------------------
# A page
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.MODELS)
def test_default_pictures_fit_a_page(name: str) -> None:
    root = svg(models.MODELS[name]())
    width, height = size(root)
    letters = min(float(text.attrib["font-size"]) for text in root.iter(SVG + "text"))
    assert letters * min(1.0, A4 / width) >= 9  # pixels, in a picture as wide as the page
    assert width / height <= 2
    assert height / width <= 1.5 or height <= 1123  # A4 is 1.41


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("direction", ["LR", "TB"])
def test_nothing_is_cut_off_and_no_edge_runs_through_a_title(name: str, direction: Any) -> None:
    root = svg(models.MODELS[name](direction=direction))
    left, top, width, height = (float(n) for n in root.attrib["viewBox"].split())
    shift = [
        float(n)
        for n in re.findall(r"translate\(([-\d.]+)[ ,]([-\d.]+)\)", next(root.iter(SVG + "g")).attrib["transform"])[0]
    ]
    page = left - shift[0], top - shift[1], left - shift[0] + width, top - shift[1] + height
    for text in root.iter(SVG + "text"):
        a, b, c, d = text_box(text)
        assert inside((a, b), page, 1)
        assert inside((c, d), page, 1)
    titles = [text_box(t) for frame in groups(root, "cluster").values() for t in frame.iter(SVG + "text")]
    labels = [text_box(t) for node in groups(root, "node").values() for t in node.iter(SVG + "text")]
    for edge in groups(root, "edge").values():
        crossed = [box for point in curve(edge) for box in (*titles, *labels) if inside(point, box, -1.5)]
        assert not crossed


class Net(nn.Module):
    def __init__(self, widths: list[int], skips: list[bool]) -> None:
        self.layers = [nn.Dense(a, b, "tanh", rng=0) for a, b in zip([3, *widths], widths, strict=False)]
        self.skips = skips

    def forward(self, x: Any) -> Any:
        first = None
        for layer, skip in zip(self.layers, self.skips, strict=False):
            y = layer(x)
            first = y if first is None else first
            x = y + np.sum(first) if skip else y
        return x


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=8), st.data(), st.sampled_from(["LR", "TB", "RL", "BT"]))
def test_rows_draw_everything_once_and_join_what_belongs_together(widths: list[int], data: Any, direction: Any) -> None:
    skips = data.draw(st.lists(st.booleans(), min_size=len(widths), max_size=len(widths)))
    model = Net(widths, skips)
    loss = np.sum(model(tensor(2, 3, name="x")))
    drawing = tg.draw(loss, model=model, show="everything", direction=direction)
    picture = wrapped(drawing.picture, direction in ("LR", "RL"))
    assert [n.id for n in picture.nodes if not n.chip] == [n.id for n in drawing.picture.nodes if not n.chip]
    assert len(picture.edges) == len(drawing.picture.edges)
    root = ET.fromstring(drawn(drawing.picture, direction, "svg"))
    boxes = {name: extent(group) for name, group in groups(root, "node").items()}
    assert {n.id for n in drawing.picture.nodes} <= boxes.keys()
    edges = groups(root, "edge")
    assert {f"e{i}" for i in range(len(picture.edges))} <= edges.keys()
    for group in edges.values():
        title = group.find(SVG + "title")
        assert title is not None
        tail, _, head = (title.text or "").partition("->")
        way = curve(group)
        assert inside(way[0], boxes[tail], 12)
        assert inside(way[-1], boxes[head], 12)
    for name, box in boxes.items():  # no two nodes lie on each other
        for other, (a, b, c, d) in boxes.items():
            assert name == other or box[2] <= a + 1 or c <= box[0] + 1 or box[3] <= b + 1 or d <= box[1] + 1


@pytest.mark.parametrize("steps", [20, 100])
def test_a_long_chain_is_wrapped_and_stays_as_wide_as_a_page(steps: int) -> None:
    x = tensor(2, 3, name="x")
    for _ in range(steps):
        x = np.sin(x)
    root = svg(tg.draw(x, show="everything"))
    assert size(root)[0] <= A4 + 5
    assert len(groups(root, "node")) == steps + 2


@given(st.integers(1, 5), st.integers(2, 30))
def test_the_estimate_is_about_what_the_layout_needs(layers: int, features: int) -> None:
    model = nn.Sequential(*(nn.Dense(features, features, "relu", rng=i) for i in range(layers)))
    drawing = tg.draw(np.sum(model(tensor(2, features, name="x"))), model=model, show="everything")
    width, height = size(svg(drawing))
    planned = Plan(drawing.picture).size()
    assert 0.75 < planned[0] / width < 1.35
    assert 0.7 < planned[1] / height < 1.4


# ---------------------------------------------------------------------------------------------------------------------
# Folding
# ---------------------------------------------------------------------------------------------------------------------


def test_equal_blocks_are_drawn_once_to_fit_a_page_and_the_picture_says_so() -> None:
    picture = models.gpt().picture
    (block,) = (c for c in picture.clusters if c.repeats > 1)
    assert (block.label, block.repeats, block.path) == ("Block", 2, "blocks.0 ... blocks.1")
    assert "65 operations" in picture.notes[0]
    assert "show='everything'" in picture.notes[0]
    (cell,) = (c for c in models.lstm().picture.clusters if c.repeats > 1)
    assert (cell.label, cell.repeats) == ("LSTMCell", 5)
    assert sum(n.computed for n in models.gpt(show="everything").picture.nodes) == 65


def test_gates_of_a_cell_are_not_taken_for_a_loop() -> None:
    """Four slices in a row do the same to the same array, but one after the other is not how they depend."""
    slices = [n for n in models.lstm().picture.nodes if n.title == "getitem"]
    assert [n.options for n in slices] == [("[:, 0:8]",), ("[:, 8:16]",), ("[:, 16:24]",), ("[:, 24:32]",)]


def test_functions_of_several_operations_are_one_box() -> None:
    picture = models.cnn().picture
    boxes = [(n.title, n.inside) for n in picture.nodes if n.kind == "function"]
    assert boxes == [("conv2d", 7), ("conv2d", 7)]
    (loss,) = (n for n in models.autoencoder().picture.nodes if n.kind == "function")
    assert (loss.title, loss.shape, loss.notes) == ("mse_loss", (), ("3 operations",))
    titles = [n.title for n in models.autoencoder(fold=()).picture.nodes]
    assert {"subtract", "square", "mean"} <= set(titles)
    assert "mse_loss" in [c.label for c in models.autoencoder(fold=()).picture.clusters]


def test_a_function_of_one_operation_is_that_operation() -> None:
    (node,) = (n for n in models.cnn().picture.nodes if n.title == "cross_entropy")
    assert node.kind == "operation"


def test_fold_takes_paths_classes_functions_patterns_and_predicates() -> None:
    def drawn_as(fold: Any) -> tuple[set[str | None], set[str]]:
        picture = models.autoencoder(fold=fold).picture
        return (
            {n.name for n in picture.nodes if n.kind == "module"},
            {n.title for n in picture.nodes if n.kind == "function"},
        )

    assert drawn_as(()) == (set(), set())
    assert drawn_as("layers.1") == ({"layers.1"}, set())
    assert drawn_as(["layers.[02]", "mse_loss"]) == ({"layers.0", "layers.2"}, {"mse_loss"})
    assert drawn_as("Dense") == ({f"layers.{i}" for i in range(4)}, set())
    assert drawn_as(lambda cluster: cluster.path.endswith("3")) == ({"layers.3"}, set())
    with pytest.raises(ValueError, match=r"fold='layer\.0' is the path or class of no module.*layers\.0, Dense"):
        models.autoencoder(fold="layer.0")
    with pytest.raises(ValueError, match="no module or function was called"):
        models.neuron(fold="x")


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.sampled_from(["norm1", "norm2", "attention", "up", "down", "blocks.?", "LayerNorm", "cross_entropy"]))
)
def test_what_is_folded_says_how_much_it_stands_for(words: set[str]) -> None:
    patterns = [word if word[0].isupper() or "_" in word or "?" in word else f"*.{word}" for word in words]
    patterns = [p for p in patterns if p != "cross_entropy"]  # one operation: there is no such frame
    picture = models.gpt(fold=patterns).picture
    assert sum(max(n.inside, 1) * n.repeats for n in picture.nodes if n.computed) == 65


# ---------------------------------------------------------------------------------------------------------------------
# Names, options
# ---------------------------------------------------------------------------------------------------------------------


def test_what_the_caller_gave_is_drawn_once_under_its_name() -> None:
    drawing = models.cnn(fold=())
    image = by_title(drawing.picture, "image")
    assert (image.kind, image.shape) == ("input", (16, 1, 28, 28))
    (edge,) = (e for e in drawing.picture.edges if e.tail == image.id)
    (windows,) = (n for n in drawing.picture.nodes if n.id == edge.head)
    assert windows.title == "windows"
    assert not windows.gradient
    assert [n.title for n in drawing.picture.nodes if n.kind == "input"] == ["image"]
    assert by_title(models.autoencoder().picture, "images").shape == (64, 784)
    for t in range(5):
        assert by_title(models.lstm(fold=()).picture, f"sequence[{t}]").shape == (4, 3)


def test_data_under_layers_without_a_gradient_keeps_its_name() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for layer in (nn.LayerNorm(3), nn.BatchNorm1d(3)):
        picture = tg.draw(np.sum(layer(x)), model=layer, fold=()).picture
        assert [n.title for n in picture.nodes if n.kind == "input"] == ["x"]


def test_recording_data_changes_no_gradient_and_needs_a_parameter() -> None:
    x = np.random.default_rng(0).normal(size=(2, 1, 5, 5))
    weight = tg.Tensor(np.ones((1, 1, 3, 3)), requires_grad=True)
    y = tg.functional.conv2d(tg.Tensor(x), weight)
    np.sum(y * y).backward()
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, 0]
    np.testing.assert_allclose(weight.grad[0, 0], np.einsum("nij,nijkl->kl", 2 * windows.sum((-1, -2)), windows))
    assert tg.functional.conv2d(tg.Tensor(x), tg.Tensor(weight.data)).node is None
    with tg.no_grad():
        assert tg.functional.conv2d(tg.Tensor(x), weight).node is None


def test_options_that_nobody_wrote_are_not_shown() -> None:
    x = tensor(2, 3, name="x")
    assert by_title(tg.draw(np.einsum("ij,kj->ik", x, x), fold=()).picture, "einsum").options == (
        "subscripts='ij,kj->ik'",
    )
    assert by_title(tg.draw(tg.softmax(x), fold=()).picture, "softmax").options == ()
    assert by_title(tg.draw(tg.softmax(x, axis=0), fold=()).picture, "softmax").options == ("axis=0",)
    images = tensor(1, 1, 8, 8, name="images")
    pooled = by_title(tg.draw(tg.functional.max_pool2d(images, 2)).picture, "max_pool")
    assert pooled.options == ("size=(2, 2)",)
    pooled = by_title(tg.draw(tg.functional.max_pool2d(images, 3, stride=2, padding=1)).picture, "max_pool")
    assert pooled.options == ("size=(3, 3)", "stride=(2, 2)", "padding=((1, 1), (1, 1))")


# ---------------------------------------------------------------------------------------------------------------------
# Size
# ---------------------------------------------------------------------------------------------------------------------


def test_two_thousand_nodes_are_folded_and_drawn(tmp_path: Any) -> None:
    started = time.process_time()
    drawing = models.lstm(120)
    root = svg(drawing)
    assert "2,045 operations" in drawing.picture.notes[0]
    assert time.process_time() - started < 10
    assert size(root)[0] <= A4 + 5
    assert any("×120" in name for name in names_shown(root))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=2, max_size=6), st.data(), st.sampled_from(["LR", "TB"]))
def test_the_way_back_leads_from_row_to_row(widths: list[int], data: Any, direction: Any) -> None:
    skips = data.draw(st.lists(st.booleans(), min_size=len(widths), max_size=len(widths)))
    model = Net(widths, skips)
    drawing = tg.draw(
        np.sum(model(tensor(2, 3, name="x"))), model=model, show=("values", "backward"), direction=direction, fold=()
    )
    picture, _ = _arranged(drawing.picture, direction)
    back = [(i, e) for i, e in enumerate(picture.edges) if e.kind == "backward"]
    assert len(back) == sum(e.kind == "backward" for e in drawing.picture.edges)
    root = ET.fromstring(drawn(drawing.picture, direction, "svg"))
    boxes = {name: extent(group) for name, group in groups(root, "node").items() if not name.endswith("_text")}
    edges = groups(root, "edge")
    words = {"".join(t.itertext()) for t in root.iter(SVG + "text")}
    for number, edge in back:  # from the operation, by way of the label, to the operand
        assert edge.label in words or not edge.label
        assert inside(curve(edges[f"e{number}"])[0], boxes[edge.head], 14)
        start = curve(edges[f"e{number}_start" if edge.label else f"e{number}"])[-1]
        assert inside(start, boxes[edge.tail], 14)
