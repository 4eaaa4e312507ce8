"""What `show` adds to a picture: arrays, contributions on their way back, costs, source lines, the backward pass."""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from drawn import SVG, Recurrent, by_title, edges_of, nodes_of, parsed, svg_of, tensor, titles_into, two_layers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing.arrays import CELLS, colour, heat_map, view_of

# ---------------------------------------------------------------------------------------------------------------------
# Values and gradients
# ---------------------------------------------------------------------------------------------------------------------


def views(drawing: tg.Drawing, title: str) -> dict[str, Any]:
    return dict(by_title(drawing.picture, title).views)


def test_nothing_is_shown_unasked() -> None:
    loss, model = two_layers()
    assert all(n.views == n.notes == () for n in tg.draw(loss, model=model).picture.nodes)


def test_small_arrays_are_written_out() -> None:
    x = tg.Tensor([[1.0, -2.5], [0.0, 1e-9]], requires_grad=True)
    drawing = tg.draw(np.sum(x * 2), show="values")
    assert views(drawing, "x")["value"].numbers == (("1", "-2.5"), ("0", "1e-09"))
    assert views(drawing, "multiply")["value"].numbers == (("2", "-5"), ("0", "2e-09"))
    words = {"".join(t.itertext()) for t in svg_of(drawing).iter(SVG + "text")}
    assert {"-2.5", "2e-09", "value"} <= words


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=4, max_side=60), elements=st.floats(-1e3, 1e3)))
def test_statistics_are_those_of_the_array(array: Any) -> None:
    view = view_of(array)
    scale = max(1.0, float(np.abs(array).max()))
    np.testing.assert_allclose(view.mean, array.mean(), rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(view.std, array.std(), rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(view.norm, np.sqrt((array**2).sum()), rtol=1e-9, atol=1e-9 * scale)
    assert view.alarm == ""
    assert bool(view.numbers) is not bool(view.cells)
    if view.cells:
        assert 1 <= len(view.cells) <= CELLS + 1
        assert max(len(row) for row in view.cells) <= 2 * CELLS
        assert max(abs(c) for row in view.cells for c in row) in (0.0, 1.0)


def test_cells_are_means_over_blocks() -> None:
    matrix = np.arange(48.0 * 72).reshape(48, 72) - 100
    view = view_of(matrix)
    expected = matrix.reshape(24, 2, 24, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(np.array(view.cells) * view.scale, expected, atol=view.scale * 1e-3)


def test_matrices_of_a_larger_array_stand_side_by_side() -> None:
    kernels = np.zeros((4, 1, 3, 3))
    kernels[1] = 1.0
    cells = np.array(view_of(kernels).cells)
    assert cells.shape == (7, 7)
    np.testing.assert_array_equal(cells[:3, 4:], 1.0)
    assert cells.sum() == 9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_flagged(bad: float) -> None:
    small, large = tg.Tensor(np.ones(3), requires_grad=True), tg.Tensor(np.ones((50, 50)), requires_grad=True)
    small.data[1] = large.data[10, 20] = bad
    what = "1 NaN" if math.isnan(bad) else "1 Inf"
    drawing = tg.draw([small, large], show="values")
    for title in ("small", "large"):
        node = next(n for n in drawing.picture.nodes if n.title == title and n.kind == "input")
        (_, view) = node.views[0]
        assert view.alarm == what
        assert view.mean == 1.0  # of the others
        assert nodes_of(parsed(drawing))[node.id]["color"] == "#c8102e"
    red = [t for t in svg_of(drawing).iter(SVG + "text") if t.get("fill") == "#c8102e"]
    assert sum("".join(t.itertext()) == what for t in red) == 2
    assert sum(math.isnan(c) for row in view_of(large.data).cells for c in row) == 1
    assert "!! " + what in str(drawing)


def test_gradients_are_those_retained() -> None:
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    hidden = (x * x).retain_grad()
    loss = np.sum(hidden * 3)
    before = tg.draw(loss, show="gradients")
    assert {views(before, t)["gradient"].missing for t in ("x",)} == {"backward not run"}
    assert "backward not run" in {"".join(t.itertext()).split(": ")[-1] for t in svg_of(before).iter(SVG + "text")}
    loss.backward(retain_graph=True)
    after = tg.draw(loss, show="gradients")
    shown = {n.name or n.title: dict(n.views)["gradient"].numbers for n in after.picture.nodes if n.views}
    assert shown == {"x": (("6", "12"),), "hidden": (("3", "3"),)}


def test_an_empty_array() -> None:
    assert "no elements" in str(tg.draw(np.sum(tensor(0, name="x")), show="values"))


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1, 1)))
def test_a_heat_map_is_a_png_with_the_colours_of_its_cells(cells: Any) -> None:
    content = heat_map(cells.tolist(), size=2)
    at, chunks = 8, {}
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack(">I", content[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind], at = data, at + 12 + length
    width, height, depth, palette = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (width, height, depth, palette) == (2 * cells.shape[1], 2 * cells.shape[0], 8, 3)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()  # no filters
    colours = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)[rows[:, 1:]]
    for i, j in np.ndindex(cells.shape):
        expected = [int(colour(cells[i, j])[k : k + 2], 16) for k in (1, 3, 5)]
        assert (colours[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] == expected).all()


def test_zero_is_the_middle_of_the_colours() -> None:
    def channels(cell: float) -> list[int]:
        return [int(colour(cell)[i : i + 2], 16) for i in (1, 3, 5)]

    assert min(channels(0.0)) > 240
    for strength in (0.25, 0.5, 1.0):
        assert channels(strength)[0] > channels(strength)[2]  # orange
        assert channels(-strength)[0] < channels(-strength)[2]  # blue


def test_heat_maps_travel_inside_svg_and_dot() -> None:
    drawing = tg.draw(np.sum(tensor(40, 40, name="x")), show="values")
    images = svg_of(drawing).iter(SVG + "image")
    hrefs = {e.get("{http://www.w3.org/1999/xlink}href", "")[:22] for e in images}
    assert hrefs == {"data:image/png;base64,"}
    assert "<img" not in drawing.source
    assert drawing.source.count("bgcolor") >= CELLS


# ---------------------------------------------------------------------------------------------------------------------
# The way back
# ---------------------------------------------------------------------------------------------------------------------


def sent_back(drawing: tg.Drawing) -> list[tuple[str, str, str]]:
    titles = {n.id: n.title for n in drawing.picture.nodes}
    return [(titles[e.tail], titles[e.head], e.label) for e in drawing.picture.edges if e.kind == "backward"]


def test_contributions_meet_at_a_sum() -> None:
    a = tg.Tensor(3.0, requires_grad=True)
    drawing = tg.draw(a * a + a, show="backward")
    assert sorted(sent_back(drawing)) == sorted(
        [("Σ", "a", ""), ("multiply", "Σ", "3"), ("multiply", "Σ", "3"), ("add", "Σ", "1"), ("add", "multiply", "1")]
    )
    assert a.grad is None


def test_axes_that_broadcasting_sums_are_named() -> None:
    x, row, column = tensor(4, 3, name="x"), tensor(3, name="row"), tensor(4, 1, name="column")
    labels = {(tail, head): label for tail, head, label in sent_back(tg.draw(x * row + column, show="backward"))}
    assert labels["multiply", "row"] == f"{4 * 3**0.5:.3g} Σ axis 0"
    assert labels["add", "column"] == f"{3 * 4**0.5:.3g} Σ axis 1"
    assert labels["multiply", "x"] == f"{12**0.5:.3g}"


def test_norms_are_those_of_the_engine_and_width_follows_them() -> None:
    x, w = tg.Tensor([[3.0, 4.0]]), tensor(2, 1, name="w")
    b = tg.Tensor([[1e-3]], requires_grad=True)
    drawing = tg.draw(np.sum(x @ w + b * 0.01), show="backward")
    norm = {(t, h): float(label) for t, h, label in sent_back(drawing)}
    assert norm["matmul", "w"] == 5.0
    assert norm["multiply", "b"] == 0.01
    titles = {n.id: n.title for n in drawing.picture.nodes}
    pens = {(e["tail"], e["head"]): float(e["penwidth"]) for e in edges_of(parsed(drawing)) if e.get("dir") == "back"}
    wide = next(pen for (tail, _), pen in pens.items() if titles.get(tail) == "w")
    thin = next(pen for (tail, _), pen in pens.items() if titles.get(tail) == "b")
    assert wide > thin > 0


def test_no_contribution_where_no_gradient_goes() -> None:
    x = tensor(3, name="x")
    back = sent_back(tg.draw(np.sum(x * (x > 0)), show="backward"))
    assert ("greater", "x", "") not in [(t, h, "") for t, h, _ in back]
    with pytest.raises(RuntimeError, match="requires a gradient"):
        tg.draw(tensor(3, grad=False), show="backward")


def test_the_own_pass_leaves_everything_alone() -> None:
    loss, model = two_layers()
    tg.draw(loss, model=model, show=("values", "gradients", "backward", "memory", "work", "joint"))
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    with_picture = [p.grad for p in model.parameters()]
    loss, model = two_layers()
    loss.backward()
    for a, b in zip(with_picture, model.parameters(), strict=True):
        np.testing.assert_array_equal(a, b.grad)


def test_labels_of_contributions_stay_clear_of_the_way_there() -> None:
    """Each way back has a label of its own place, inside the frame around both ends."""
    loss, model = two_layers()
    drawing = tg.draw(loss, model=model, show="backward")
    texts = {"".join(t.itertext()) for t in svg_of(drawing).iter(SVG + "text")}
    assert {label for _, _, label in sent_back(drawing) if label} <= texts


# ---------------------------------------------------------------------------------------------------------------------
# Costs and source lines
# ---------------------------------------------------------------------------------------------------------------------


def test_memory_counts_each_array_once() -> None:
    x = tensor(10, 100, name="x")
    drawing = tg.draw(np.sum(np.exp(x).reshape(1000)), show="memory")
    notes = {n.title: n.notes for n in drawing.picture.nodes if n.kind == "operation"}
    assert notes == {"exp": ("keeps 4 kB",), "reshape": ("keeps nothing new",), "sum": ("keeps 4 B",)}
    assert drawing.picture.notes == ("kept for the backward pass: 4 kB",)


@pytest.mark.parametrize(
    ("product", "expected"),
    [
        (lambda: tensor(8, 50, name="x") @ tensor(50, 25), "10 k multiply-adds"),
        (lambda: tensor(2, 8, 50, name="x") @ tensor(50, 25), "20 k multiply-adds"),
        (lambda: tensor(50, name="x") @ tensor(50), "50 multiply-adds"),
        (lambda: np.tensordot(tensor(8, 50), tensor(50, 25), 1), "10 k multiply-adds"),
    ],
)
def test_multiply_adds(product: Any, expected: str) -> None:
    assert expected in [note for n in tg.draw(product(), show="work").picture.nodes for note in n.notes]


def test_source_lines() -> None:
    with tg.record_lines():
        y = np.sin(tensor(2))  # here
    (node,) = (n for n in tg.draw(y, show="lines").picture.nodes if n.kind == "operation")
    assert node.notes[0].startswith("test_drawing_details.py:")
    assert node.notes[1] == "y = np.sin(tensor(2))  # here"
    with pytest.raises(ValueError, match="record_lines"):
        tg.draw(np.sin(tensor(2)), show="lines")


def test_words_that_show_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"'value'.*values, gradients"):
        tg.draw(tensor(2), show="value")


# ---------------------------------------------------------------------------------------------------------------------
# Names, detached tensors
# ---------------------------------------------------------------------------------------------------------------------

SCALE = tg.Tensor([2.0])


def test_names_of_variables() -> None:
    weights = tg.Tensor(np.ones((2, 2)), requires_grad=True)
    data, _hidden = np.ones((3, 2)), tensor(2, name="given")
    scores = data @ weights
    total = np.sum(scores * SCALE + _hidden)
    picture = tg.draw(total).picture
    assert {n.title for n in picture.nodes if not n.computed} == {"data", "weights", "SCALE", "given", "total"}
    assert [n.name for n in picture.nodes if n.title == "matmul"] == ["scores"]


def test_modules_among_the_variables_give_names() -> None:
    network = nn.Sequential(nn.Dense(2, 2, rng=0))
    picture = tg.draw(network(np.ones((1, 2), np.float32))).picture
    assert [n.title for n in picture.nodes if n.kind == "parameter"] == [
        "network.layers.0.weight",
        "network.layers.0.bias",
    ]
    assert [c.path for c in picture.clusters] == ["network", "network.layers.0"]


def test_looking_at_variables_changes_none_of_them() -> None:
    x = tg.Tensor([1.0], requires_grad=True)
    mine = locals()
    tg.draw(x * 2)
    assert mine["x"] is x
    assert locals()["x"] is x


def test_a_view_is_called_by_what_it_is_a_view_of() -> None:
    sequence = tg.Tensor(np.ones((4, 2)))
    weight = tensor(2, name="weight")
    picture = tg.draw(sequence[1] * weight).picture
    assert "view of sequence" in {n.title for n in picture.nodes}


def test_detached_tensors_are_told_apart() -> None:
    x = tensor(3, name="x")
    y = np.exp(x)
    target = y.detach()
    picture = tg.draw(np.sum((y - target) ** 2)).picture
    node = by_title(picture, "target")
    assert node.kind == "detached"
    assert [(e.tail, e.kind) for e in picture.edges if e.head == node.id] == [(by_title(picture, "exp").id, "detached")]
    assert titles_into(picture, by_title(picture, "subtract")) == ["exp", "target"]


# ---------------------------------------------------------------------------------------------------------------------
# Both passes
# ---------------------------------------------------------------------------------------------------------------------


def test_the_joint_picture_has_both_passes() -> None:
    loss, model = two_layers()
    drawing = tg.draw(loss, model=model, show="joint")
    picture = drawing.picture
    outermost = [(c.label, c.backward) for c in picture.clusters if c.parent is None]
    assert outermost == [("forward pass", False), ("backward pass", True)]
    outputs = {n.title: n.shape for n in picture.nodes if n.kind == "output"}
    expected = {f"∂loss/∂{path}": p.shape for path, p in model.named_parameters()}
    assert outputs == {"loss": (), **expected}
    alone = [n.title for n in tg.draw(loss, model=model).picture.nodes if n.kind == "operation"]
    assert [n.title for n in picture.nodes if n.kind == "operation" and not n.backward] == alone
    assert all(p.grad is None for p in model.parameters())


def test_the_joint_picture_runs_there_and_back() -> None:
    x = tensor(2, name="x")
    y = np.sin(np.cos(x))
    svg = svg_of(tg.draw(np.sum(y), show="joint"))
    places = {
        g.get("id"): float(next(iter(g.iter(SVG + "text"))).get("x", 0))
        for g in svg.iter(SVG + "g")
        if g.get("class") == "node"
    }
    picture = tg.draw(np.sum(y), show="joint").picture
    nodes = {n.id: n for n in picture.nodes}
    there = [(e.tail, e.head) for e in picture.edges if not nodes[e.head].backward]
    back = [(e.tail, e.head) for e in picture.edges if nodes[e.tail].backward and nodes[e.head].computed]
    assert there
    assert back
    assert all(places[tail] < places[head] for tail, head in there)
    flat = [(t, h) for t, h in back if nodes[t].kind != "constant" and not nodes[t].chip]
    assert all(places[tail] > places[head] for tail, head in flat)


def test_gradients_of_the_user_can_be_drawn_jointly() -> None:
    x = tensor(name="x")
    y = np.sin(x)
    slope = tg.gradients(y, x, create_graph=True)
    picture = tg.draw([y, slope], show="joint").picture
    assert {n.title: n.backward for n in picture.nodes if n.kind == "operation"}["cos"]
    assert not by_title(picture, "sin").backward


def test_a_recurrent_network_on_both_ways() -> None:
    model = Recurrent(2)
    loss = np.sum(model(tensor(1, 2, name="h"), 3))
    picture = tg.draw(loss, model=model, show="joint").picture
    assert {(c.path, c.backward) for c in picture.clusters if c.path} == {("cell", False), ("cell", True)}
