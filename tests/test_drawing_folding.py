"""Large graphs drawn small: folded modules, equal blocks drawn once, groups, references to what is far away."""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import pytest
from drawn import SVG, Cell, Recurrent, by_title, nodes_of, parsed, svg_of, tensor, two_layers
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing import Picture, folding
from tinygrad_mm.drawing.folding import LIMIT


def check(picture: Picture) -> None:
    """Every edge has its ends, data flow in one direction, every cluster is there after the one around it."""
    ids = [n.id for n in picture.nodes]
    assert len(set(ids)) == len(ids)
    before: dict[str, set[str]] = {i: set() for i in ids}
    for edge in picture.edges:
        assert {edge.tail, edge.head} <= before.keys()
        if edge.kind == "forward":
            before[edge.head].add(edge.tail)
    assert len(list(TopologicalSorter(before).static_order())) == len(ids)  # raises CycleError
    place = {i: number for number, i in enumerate(ids)}
    assert all(place[e.tail] < place[e.head] for e in picture.edges if e.kind == "forward")
    known: set[str | None] = {None}
    for cluster in picture.clusters:
        assert cluster.parent in known
        known.add(cluster.id)
    assert {n.cluster for n in picture.nodes} <= known
    for node in picture.nodes:
        operands = [e.operand for e in picture.into(node)]
        assert operands == sorted(operands)


class Block(nn.Module):
    def __init__(self, rng: int) -> None:
        self.inner = nn.Dense(3, 3, "relu", rng=rng)

    def forward(self, x: Any) -> Any:
        return x + self.inner(x)


class Deep(nn.Module):
    def __init__(self, layers: int) -> None:
        self.first = nn.Dense(3, 3, rng=9)
        self.blocks = [Block(i) for i in range(layers)]

    def forward(self, x: Any) -> Any:
        x = np.tanh(self.first(x))
        for block in self.blocks:
            x = block(x)
        return x


# -- depth


def test_depth_0_draws_a_model_as_one_node() -> None:
    loss, model = two_layers()
    picture = tg.draw(loss, model=model, depth=0).picture
    check(picture)
    assert [(n.kind, n.title) for n in picture.nodes] == [
        ("input", "images"),
        ("module", "Sequential"),
        ("constant", "constant"),
        ("operation", "cross_entropy"),
        ("output", "loss"),
    ]
    module = picture.nodes[1]
    assert (module.shape, module.dtype, module.inside) == ((5, 3), "float32", 5)
    assert module.notes == ("5 operations", f"{6 * 4 + 4 + 4 * 3 + 3} parameters")
    assert picture.clusters == ()


def test_depth_1_draws_the_layers_of_a_model() -> None:
    loss, model = two_layers()
    drawing = tg.draw(loss, model=model, depth=1)
    check(drawing.picture)
    modules = [(n.name, n.title, n.shape) for n in drawing.picture.nodes if n.kind == "module"]
    assert modules == [("layers.0", "Dense", (5, 4)), ("layers.1", "Dense", (5, 3))]
    assert [c.label for c in drawing.picture.clusters] == ["Sequential"]
    shapes = {nodes_of(parsed(drawing))[n.id]["shape"] for n in drawing.picture.nodes if n.kind == "module"}
    assert shapes == {"tab"}


@pytest.mark.parametrize("depth", [2, 7])
def test_a_depth_past_the_deepest_folds_nothing(depth: int) -> None:
    loss, model = two_layers()
    assert tg.draw(loss, model=model, depth=depth).picture == tg.draw(loss, model=model).picture


@pytest.mark.parametrize("depth", [-1, 1.5, "1"])
def test_a_depth_is_a_number_from_0_on(depth: Any) -> None:
    with pytest.raises(ValueError, match="depth="):
        tg.draw(tensor(2), depth=depth)


def test_a_module_with_several_results() -> None:
    class Split(nn.Module):
        def forward(self, x: Any) -> Any:
            return np.sin(x), np.cos(x)[:1]

    x = tensor(2, name="x")
    a, b = Split()(x)
    picture = tg.draw(a * 2 + b, depth=0).picture
    check(picture)
    module = by_title(picture, "Split")
    assert module.results == 2
    assert sorted(e.label for e in picture.edges if e.tail == module.id) == ["(1,)", "(2,)"]
    assert len(list(picture.into(module))) == 1


# -- equal blocks


def test_layers_that_are_alike_are_drawn_once() -> None:
    model = Deep(5)
    output = model(tensor(2, 3, name="x"))
    picture = tg.draw(output, model=model, depth=9).picture
    check(picture)
    (block,) = (c for c in picture.clusters if c.repeats > 1)
    assert (block.label, block.repeats, block.path) == ("Block", 5, "blocks.0 ... blocks.4")
    assert sorted(n.title for n in picture.nodes if n.kind == "parameter") == [
        *("blocks.0.inner.bias", "blocks.0.inner.weight", "first.bias", "first.weight"),
    ]
    titles = {n.id: n.title for n in picture.nodes}
    assert {(titles[e.tail], titles[e.head]) for e in picture.edges if e.kind == "repeat"} == {
        ("add", "matmul"),
        ("add", "add"),
    }
    (end,) = (titles[e.tail] for e in picture.edges if titles[e.head] == "output")
    assert end == "add"
    assert "×5" in tg.draw(output, model=model, depth=9).source


def test_folded_layers_that_are_alike_are_drawn_once() -> None:
    picture = tg.draw(Deep(4)(tensor(2, 3)), depth=1).picture
    check(picture)
    assert by_title(picture, "Block").repeats == 4


def test_blocks_that_differ_are_all_drawn() -> None:
    x = tensor(2, 3)
    layers = [nn.Dense(3, 3, rng=i) if i % 2 else nn.LayerNorm(3) for i in range(5)]
    picture = tg.draw(nn.Sequential(*layers)(x), depth=1).picture
    assert [n.title for n in picture.nodes if n.kind == "module"] == [type(layer).__name__ for layer in layers]


def test_blocks_need_not_begin_where_the_loop_begins() -> None:
    """A turn (add, sin) takes an operand from two turns before, but a block (sin, add) only from the one before."""
    a, b = tensor(name="x"), tensor(name="y")
    for _ in range(8):
        a, b = b, np.sin(a + b)
    picture = tg.draw(b, depth=0).picture
    check(picture)
    assert [c.repeats for c in picture.clusters] == [7]
    assert [n.title for n in picture.nodes if n.computed] == ["add", "sin", "add", "sin"]


def test_a_loop_that_looks_ever_further_back_is_drawn_in_full() -> None:
    values = [tensor(name="x"), tensor(name="y")]
    for i in range(8):
        values.append(np.sin(values[-1] + values[i // 2]))
    picture = tg.draw(values[-1], depth=0).picture
    check(picture)
    assert sum(n.computed for n in picture.nodes) == 16


def test_few_nodes_are_never_folded_unasked() -> None:
    model = Recurrent(2)
    picture = tg.draw(model(tensor(1, 2), 8), model=model).picture
    assert len(picture.clusters) == 9
    assert picture.notes == ()


@given(st.integers(1, 3), st.integers(3, 30), st.booleans(), st.booleans())
def test_a_loop_of_any_body_is_drawn_once(body: int, turns: int, again: bool, outputs: bool) -> None:
    x, h = tensor(2, name="x"), tensor(2, name="h")
    states = []
    for _ in range(turns):
        for _ in range(body):
            h = np.sin(h)
        h = h * (x if again else 2.0)
        states.append(h)
    result = np.concatenate(states) if outputs else h
    picture = tg.draw(result, depth=0).picture
    check(picture)
    drawn = [n for n in picture.nodes if n.computed]
    assert sum(n.title == "multiply" for n in drawn) == 1
    frames = [c.repeats for c in picture.clusters] or [n.repeats for n in drawn if n.repeats > 1]
    assert turns in frames
    whole = tg.draw(result, show="everything").picture
    check(whole)
    assert sum(n.title == "sin" for n in whole.nodes) == body * turns


def test_a_recurrent_network_of_two_thousand_nodes_folds_by_itself_and_says_so() -> None:
    model = Recurrent(2)
    output = model(tensor(1, 2, name="start"), 400)
    drawing = tg.draw(output, model=model)
    check(drawing.picture)
    assert len(drawing.picture.nodes) < 20
    assert [c.repeats for c in drawing.picture.clusters] == [1, 400]
    (note,) = drawing.picture.notes
    assert "everything" in note
    whole = tg.draw(output, model=model, show="everything").picture
    assert f"{sum(n.computed for n in whole.nodes):,} operations" in note
    assert len(whole.nodes) > 2000
    assert whole.notes == ()
    words = " ".join("".join(t.itertext()) for t in svg_of(drawing).iter(SVG + "text"))
    assert "show='everything'" in words
    assert "×400" in words


# -- groups


@given(st.integers(0, 2**32 - 1))
def test_any_large_graph_is_folded_until_it_can_be_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [tensor(2, name="x"), tensor(2, name="y")]
    for _ in range(500):
        a, b = (values[i] for i in rng.integers(max(0, len(values) - 20), len(values), 2))
        values.append(np.sin(a) if rng.random() < 0.4 else a * b if rng.random() < 0.5 else a - b)
    result = sum(values[-20:], start=values[0])
    picture = tg.draw(result).picture
    check(picture)
    assert len(picture.nodes) <= LIMIT
    assert "operations in groups" in picture.notes[0]
    whole = tg.draw(result, show="everything").picture
    drawn = sum(max(n.inside, 1) * n.repeats for n in picture.nodes if n.computed)
    assert drawn == sum(n.computed for n in whole.nodes)


def test_a_deep_model_is_folded_from_the_innermost_on() -> None:
    def stage(width: int) -> nn.Module:  # no two are alike
        return nn.Sequential(nn.Dense(width, width, "relu", rng=0), nn.LayerNorm(width), nn.Dense(width, width + 1))

    model = nn.Sequential(*map(stage, range(2, 25)))
    output = model(np.ones((1, 2), np.float32))
    picture = tg.draw(output, model=model).picture
    check(picture)
    assert len(picture.nodes) <= LIMIT < len(tg.draw(output, model=model, show="everything").picture.nodes)
    assert "folded to depth=" in picture.notes[0]


# -- focus


def test_focus_shows_ancestors_only() -> None:
    x, w = tensor(2, name="x"), tensor(2, name="w")
    h = np.tanh(x * w)
    loss = np.sum(h * tensor(2, name="other"))
    picture = tg.draw(loss, focus=h).picture
    assert {n.title for n in picture.nodes} == {"x", "w", "multiply", "tanh", "h"}
    assert [(n.title, n.shape) for n in picture.nodes if n.kind == "output"] == [("h", (2,))]
    with pytest.raises(ValueError, match="focus="):
        tg.draw(h, focus=loss)


def test_the_way_back_to_a_focus_is_that_from_the_outputs() -> None:
    x = tensor(name="x")
    h = x * 2
    loss = h * 5
    picture = tg.draw(loss, focus=h, show="backward").picture
    assert [e.label for e in picture.edges if e.kind == "backward"] == ["10"]


# -- what is far away


def test_edges_past_most_of_the_picture_end_at_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "MOST_CROSSED", 100)
    h, states = tensor(2, name="x"), []
    for _ in range(25):
        h = np.sin(h)
        states.append(h)
    picture = tg.draw(np.concatenate(states), show="everything").picture
    check(picture)
    joined = by_title(picture, "concatenate")
    nodes = {n.id: n for n in picture.nodes}
    tails = [nodes[e.tail] for e in picture.into(joined)]
    assert len(tails) == 25
    sines = [n for n in picture.nodes if n.title == "sin"]
    for tail, sine in zip(tails, sines, strict=True):
        assert tail is sine or (
            tail.chip and tail.title == f"sin {sine.id}" and sine.notes == (f"further on: {sine.id}",)
        )
    assert sum(t.chip for t in tails) > 5


def test_what_calls_of_a_cell_share_stays_named_when_folded() -> None:
    cell = Cell(2)
    h = tensor(1, 2, name="h")
    for _ in range(3):
        h = cell(h)
    picture = tg.draw(h, model=cell, depth=0).picture
    check(picture)
    (node,) = (n for n in picture.nodes if n.kind == "module")
    assert node.repeats == 3
