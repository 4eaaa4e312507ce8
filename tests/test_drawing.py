"""What a picture shows, read from the picture itself and from its DOT text by the layout program's own parser."""

from __future__ import annotations

import gc
import os
import pickle
import re
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
from drawn import (
    SVG,
    Recurrent,
    by_title,
    edges_of,
    names_shown,
    nodes_of,
    parsed,
    svg_of,
    tensor,
    titles_into,
    two_layers,
)
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.graph import defvjp, primitive


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
    left, right = tensor(2, 2, name="left"), tensor(2, 2, name="right")
    drawing = tg.draw((left + right) @ right)
    titles = {n.id: n.title for n in drawing.picture.nodes}
    marked = [(titles[e["tail"]], titles[e["head"]], e.get("headlabel")) for e in edges_of(parsed(drawing))]
    assert sorted(marked, key=str) == [
        ("add", "matmul", "a"),
        ("left", "add", None),
        ("matmul", "output", None),
        ("right", "add", None),
        ("right", "matmul", "b"),
    ]


def test_a_leaf_that_is_called_as_the_parameter_says_so_once() -> None:
    a, b = tensor(2, 2, name="a"), tensor(2, 2, name="model.b")
    assert all("headlabel" not in e for e in edges_of(parsed(tg.draw(a @ b))))


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
    assert sorted(constants, key=str) == [("0.0", None), ("1.5", None), ("2", None), ("mask", (3,))]
    where = [n for n in picture.nodes if n.title == "where"]
    assert [titles_into(picture, n) for n in where] == [["mask", "x", "0.0"], ["mask", "1.5", "x"]]


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
    assert [n.title for n in picture.nodes if n.kind == "output"] == ["left", "right"]


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
    assert [e.label for e in drawing.picture.edges if e.tail == node.id] == ["highest ()", "lowest ()"]
    text = {"".join(t.itertext()) for t in svg_of(drawing).iter(SVG + "text")}
    assert {"highest ()", "lowest ()", "2 results"} <= text


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
        drawing = tg.draw(y, show="everything")
        source = drawing.source
        folded = tg.draw(y)
    finally:
        sys.setrecursionlimit(limit)
    assert len(drawing.picture.nodes) == 10_002
    assert source.count(" -> ") == 10_001
    assert [n.repeats for n in folded.picture.nodes] == [1, 10_000, 1]


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
    drawing = tg.draw(model(tensor(2)), model=model, show="everything")
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
