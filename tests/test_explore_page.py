"""The page of `explore`, without a browser: what is in the file, read by an HTML parser and decoded independently."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing.reader import read
from tinygrad_mm.drawing.text import printable
from tinygrad_mm.explorer import record, store
from tinygrad_mm.explorer.scene import scene, shades
from tinygrad_mm.names import names_in

NAMESPACE = "http://www.w3.org/2000/svg"
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Parsed(HTMLParser):
    """A page as a browser's first pass sees it: tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        (text,) = [t for t, a in zip(self.text["script"], self.named("script"), strict=True) if a.get("id") == "data"]
        found: dict[str, Any] = json.loads(text, parse_constant=refuse)
        return found


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def parsed(loss: tg.Tensor, folder: Path, model: Any = None) -> Parsed:
    return Parsed(tg.explore(loss, model, path=folder / "page.html").html)


def decoded(entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    """An array of the page, from its base64."""
    kind = {"f4": "<f4", "f8": "<f8", "u1": "u1"}[entry["type"]]
    return np.frombuffer(base64.b64decode(entry["data"]), kind).reshape(entry["grid"])


def value(data: dict[str, Any], label: str) -> dict[str, Any]:
    (found,) = [v for v in data["values"] if v["label"] == label]
    return found


def array(data: dict[str, Any], label: str, what: str = "array") -> np.ndarray[Any, Any]:
    return decoded(data["arrays"][value(data, label)[what]])


def network() -> tuple[Any, tg.Tensor, Any, tg.Tensor]:
    """Two layers, ReLU, cross entropy: model, input, labels, loss."""
    model = nn.Sequential(nn.Dense(3, 4, activation="relu", rng=0), nn.Dense(4, 2, rng=1))
    x = tg.Tensor(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    y = np.array([0, 1, 1, 0, 1])
    x.name = "x"
    return model, x, y, tg.cross_entropy(model(x), y)


def diamond(name: str | None = "a") -> tuple[tg.Tensor, tg.Tensor]:
    """h = a², loss = h² + h: dloss/da = (2h + 1) · 2a."""
    a = tg.Tensor(3.0, requires_grad=True)
    a.name = name
    h = a * a
    return a, h * h + h


# ---------------------------------------------------------------------------------------------------------------------
# One file, nothing else
# ---------------------------------------------------------------------------------------------------------------------


def test_the_page_refers_to_nothing_outside(tmp_path):
    model, _, _, loss = network()
    path = Path(tg.explore(loss, model, path=tmp_path / "page.html"))
    text = path.read_text("utf-8")
    page = Parsed(text)
    for _tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster", "background"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")], "no handlers in markup"
    assert {found.group() for found in re.finditer(r"\w+://[^\s\"'<>)]*", text)} == {NAMESPACE}
    for style in page.text["style"]:
        assert "url(" not in style
        assert "@import" not in style
    for word in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "eval(", "innerHTML", "document.write"):
        assert word not in text


def test_the_policy_allows_the_pages_own_script_and_nothing_else(tmp_path):
    page = parsed(diamond()[1], tmp_path)
    (policy,) = [m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (script,) = [t for t, a in zip(page.text["script"], page.named("script"), strict=True) if "id" not in a]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_the_same_program_gives_the_same_bytes(tmp_path):
    code = """
import sys, numpy as np, tinygrad_mm as tg
model = tg.nn.Sequential(tg.nn.Dense(3, 4, activation="relu", rng=0), tg.nn.Dense(4, 2, rng=1))
loss = tg.cross_entropy(model(np.ones((5, 3), np.float32)), np.array([0, 1, 1, 0, 1]))
sys.stdout.write(tg.explore(loss, model, path=None).html)
"""
    pages = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(pages[0]) > 10_000
    assert pages[0] == pages[1]


def test_it_returns_the_path_and_writes_whole_files_only(tmp_path, monkeypatch):
    loss = diamond()[1]
    target = tmp_path / "page.html"
    assert tg.explore(loss, path=str(target)).path == target
    before = target.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space left"):
            tg.explore(loss, path=target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target], "nothing is left behind"
    with pytest.raises(FileNotFoundError, match="folder that exists"):
        tg.explore(loss, path=tmp_path / "nowhere" / "page.html")


def test_the_default_path_is_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tg.explore(diamond()[1]).path == Path("backprop.html")
    assert (tmp_path / "backprop.html").stat().st_size > 10_000


def test_what_cannot_be_explored_is_refused_and_no_file_appears(tmp_path):
    target = tmp_path / "page.html"
    a, loss = diamond()
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        tg.explore(loss, path=target)
    with pytest.raises(TypeError):
        tg.explore(3.0, path=target)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="requires_grad=True"):
        tg.explore(tg.Tensor(1.0) * 2, path=target)
    with pytest.raises(ValueError, match="one number"):
        tg.explore(a * tg.Tensor([1.0, 2.0]), path=target)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------------
# The numbers
# ---------------------------------------------------------------------------------------------------------------------


def test_gradients_on_the_page_are_the_engines_and_grad_is_left_alone(tmp_path):
    model, x, _, loss = network()
    sentinels = {}
    for path, parameter in model.named_parameters():
        parameter.grad = sentinels[path] = np.full(parameter.shape, 7.0, np.float32)
    data = parsed(loss, tmp_path, model).data
    for path, parameter in model.named_parameters():
        assert parameter.grad is sentinels[path]
        assert (parameter.grad == 7).all()
        parameter.grad = None
    assert x.grad is None
    loss.backward()  # the graph is still whole
    for path, parameter in model.named_parameters():
        assert array(data, path).tobytes() == parameter.value.tobytes()
        assert array(data, path, "gradient").tobytes() == parameter.grad.tobytes()


def test_gradients_on_the_page_are_those_of_the_mathematics(tmp_path):
    model, x, y, loss = network()
    data = parsed(loss, tmp_path, model).data
    w1, b1, w2, b2 = (p.value.astype(np.float64) for p in model.parameters())
    h = np.maximum(x.value @ w1 + b1, 0)
    logits = h @ w2 + b2
    e = np.exp(logits - logits.max(1, keepdims=True))
    probability = e / e.sum(1, keepdims=True)
    assert array(data, "loss") == pytest.approx(-np.log(probability[np.arange(5), y]).mean(), rel=1e-5)
    d = (probability - np.eye(2)[y]) / 5
    dh = (d @ w2.T) * (h > 0)
    expected = {"layers.1.weight": h.T @ d, "layers.1.bias": d.sum(0), "layers.0.weight": x.value.T @ dh}
    for label, gradient in {**expected, "layers.0.bias": dh.sum(0)}.items():
        np.testing.assert_allclose(array(data, label, "gradient"), gradient, atol=1e-6)


def test_ledgers_add_up_and_show_their_running_sums(tmp_path):
    data = parsed(diamond()[1], tmp_path).data
    a = value(data, "a")
    ledger = data["steps"][a["step"]]["ledger"]
    parts = [float(decoded(data["arrays"][data["entries"][one["entry"]]["array"]])) for one in ledger]
    sums = [float(decoded(data["arrays"][one["sum"]])) for one in ledger]
    assert parts == [57.0, 57.0]
    assert sums == [57.0, 114.0]
    h = next(v for v in data["values"] if v["operation"] == "multiply")
    assert len(data["steps"][h["step"]]["ledger"]) == 3


def test_the_rates_of_a_rule_times_the_gradient_are_its_contribution(tmp_path):
    model, _, _, loss = network()
    data = parsed(loss, tmp_path, model).data
    seen = 0
    for step in data["steps"]:
        g = decoded(data["arrays"][step["gradient"]]).reshape(-1).astype(np.float64)
        for number in step["sent"]:
            entry = data["entries"][number]
            if entry["rates"] is not None:
                rates = decoded(data["arrays"][entry["rates"]]).astype(np.float64)
                contribution = decoded(data["arrays"][entry["array"]]).reshape(-1)
                np.testing.assert_allclose(rates @ g, contribution, atol=1e-6)
                seen += 1
    assert seen >= 8


def test_the_rates_of_a_matrix_product_are_its_other_factor(tmp_path):
    a = tg.Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True, dtype=np.float64)
    b = tg.Tensor(np.arange(12.0).reshape(3, 4) - 5, requires_grad=True, dtype=np.float64)
    data = parsed(np.sum(a @ b), tmp_path).data
    product = next(v for v in data["values"] if v["operation"] == "matmul")
    left, right = (data["entries"][n] for n in data["steps"][product["step"]]["sent"])
    rates = decoded(data["arrays"][right["rates"]]).reshape(3, 4, 2, 4)  # d y[n, j] / d b[i, k]
    np.testing.assert_array_equal(rates, np.einsum("ni,jk->iknj", a.value, np.eye(4)))
    rates = decoded(data["arrays"][left["rates"]]).reshape(2, 3, 2, 4)
    np.testing.assert_array_equal(rates, np.einsum("ij,mn->minj", b.value, np.eye(2)))


def test_every_gradient_stands_beside_its_finite_difference(tmp_path):
    model, _, _, loss = network()
    data = parsed(loss, tmp_path, model).data
    for label in ("layers.0.weight", "layers.1.bias"):
        check = value(data, label)["check"]
        gradient = array(data, label, "gradient")
        assert check["status"] == "agrees"
        assert len(check["places"]) == gradient.size
        for place, engine, numeric in zip(check["places"], check["engine"], check["numeric"], strict=True):
            assert engine == gradient[tuple(place)]
            assert numeric == pytest.approx(engine, abs=1e-5)


def test_rules_stand_there_as_mathematics_and_as_written(tmp_path):
    model, _, _, loss = network()
    data = parsed(loss, tmp_path, model).data
    (entry,) = [e for e in data["entries"] if data["values"][e["target"]]["label"] == "layers.1.weight"]
    assert "ᵀ" in entry["formula"]
    assert entry["formula"].startswith("∂L/∂layers.1.weight = ")
    assert entry["source"].startswith("a.mT @ g")
    assert "(4, 5) @ (5, 2)" in entry["shapes"]


def test_the_wrong_order_has_its_wrong_numbers(tmp_path):
    data = parsed(diamond()[1], tmp_path).data
    a = value(data, "a")
    wrong = data["wrong"]
    assert wrong["wrong"] == [a["id"]]
    # depth first, h hands on the first contribution alone, 2h or 1 instead of 2h + h·… + 1
    got = float(decoded(data["arrays"][wrong["gradients"][str(a["id"])]]))
    assert got in {9 * 6.0, 1 * 6.0}
    assert float(array(data, "a", "gradient")) == 114.0
    assert any(step["missing"] for step in wrong["steps"])


def test_numbers_that_are_not_finite_are_kept(tmp_path):
    x = tg.Tensor([0.0, 1.0, -1.0], requires_grad=True)
    with np.errstate(all="ignore"):
        loss = np.sum(np.log(x))
        data = parsed(loss, tmp_path).data
    log = next(v for v in data["values"] if v["operation"] == "log")
    np.testing.assert_array_equal(decoded(data["arrays"][log["array"]]), np.array([-np.inf, 0, np.nan], np.float32))
    assert data["arrays"][log["array"]]["odd"] == 2


# ---------------------------------------------------------------------------------------------------------------------
# Large things
# ---------------------------------------------------------------------------------------------------------------------


def test_large_arrays_are_sampled_and_say_so(tmp_path):
    w = tg.Tensor(np.random.default_rng(0).normal(size=(1000, 700)), requires_grad=True, dtype=np.float64)
    w.name = "w"
    path = Path(tg.explore(np.sum(w * w), path=tmp_path / "page.html"))
    data = Parsed(path.read_text("utf-8")).data
    entry = data["arrays"][value(data, "w")["array"]]
    rows, columns = entry["every"]
    assert rows * columns > 1
    shown = decoded(entry)
    assert shown.size <= store.MOST_SHOWN
    np.testing.assert_array_equal(shown, w.value[::rows, ::columns])
    assert entry["shape"] == [1000, 700]
    assert entry["norm"] == pytest.approx(np.linalg.norm(w.value))
    assert (entry["least"], entry["most"]) == (w.value.min(), w.value.max())
    assert path.stat().st_size < 1_000_000


def test_all_arrays_together_fit_on_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MOST_BYTES", 20_000)
    arrays = [tg.Tensor(np.full((40, 40), float(i)), requires_grad=True) for i in range(12)]
    data = parsed(np.sum(sum(arrays[1:], arrays[0])), tmp_path).data
    assert sum(decoded(entry).nbytes for entry in data["arrays"]) <= 20_000


@given(st.lists(st.integers(1, 50), max_size=4), st.integers(1, 200))
def test_samples_are_even_and_bounded(shape, most):
    every = store.strides(tuple(shape), most)
    assert math.prod(len(range(0, n, step)) for n, step in zip(shape, every, strict=True)) <= most
    if math.prod(shape) <= most:
        assert every == [1] * len(shape)


def test_a_very_large_graph_is_folded_in_the_picture_and_whole_in_the_steps(tmp_path):
    x = tg.Tensor([0.5, 0.25], requires_grad=True)
    x.name = "x"
    y = x
    for i in range(120):
        y = np.tanh(y) * (1.0 + i / 1000) + x
    page = parsed(np.sum(y), tmp_path)
    assert len(page.data["forward"]) == 361
    nodes = [a for a in page.named("g") if "data-node" in a]
    assert 0 < len(nodes) <= 400


def test_without_a_layout_program_the_steps_are_there_and_the_page_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    page = parsed(diamond()[1], tmp_path)
    assert not [a for a in page.named("g") if "data-node" in a]
    assert any("graphviz" in text for text in page.text["p"])
    assert len(page.data["steps"]) == 4


# ---------------------------------------------------------------------------------------------------------------------
# The picture
# ---------------------------------------------------------------------------------------------------------------------


def shape_of(data: dict[str, Any], one: dict[str, Any]) -> list[int]:
    shape: list[int] = data["arrays"][one["array"]]["shape"]
    return shape


def test_every_value_has_its_nodes_and_every_node_a_value(tmp_path):
    model, _, _, loss = network()
    page = parsed(loss, tmp_path, model)
    drawn = {a["data-node"]: a for a in page.named("g") if "data-node" in a}
    for one in page.data["values"]:
        assert one["nodes"], one["label"]
        for node in one["nodes"]:
            tip = drawn[node]["aria-label"]
            assert tip is not None
            assert (one["operation"] or one["kind"]) in tip or tip.startswith("loss: output")
            assert str(tuple(shape_of(page.data, one))) in tip
    assert {node for one in page.data["values"] for node in one["nodes"]} == set(drawn)
    for attributes in drawn.values():
        assert attributes["role"] == "button"
        assert attributes["tabindex"] == "0"


def test_leaves_drawn_at_each_use_and_results_of_one_call_are_found(tmp_path):
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    w.name = "w"
    y = w
    for _ in range(10):
        y = y * w
    parts = np.split(y, 2)
    page = parsed(np.sum(parts[0] * parts[1]), tmp_path)
    drawn = {a["data-node"] for a in page.named("g") if "data-node" in a}
    assert len(value(page.data, "w")["nodes"]) >= 9
    assert all(set(one["nodes"]) <= drawn for one in page.data["values"])
    assert all(one["nodes"] for one in page.data["values"])


def test_layers_can_be_folded(tmp_path):
    model, _, _, loss = network()
    page = parsed(loss, tmp_path, model)
    layers = page.data["layers"]
    titles = {layer["title"]: layer["operations"] for layer in layers.values()}
    assert titles == {"Sequential": 5, "layers.0 Dense": 3, "layers.1 Dense": 2}
    buttons = [a for a in page.named("g") if a.get("data-fold") in layers]
    assert len(buttons) == len(layers)
    assert all(a["role"] == "button" and a["tabindex"] == "0" for a in buttons)


def test_colours_have_a_dark_side():
    def lightness(colour: str) -> float:
        return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) / 765

    css = shades(["#ffffff", "#1f2933", "#fbebc8"])
    pairs = re.findall(r"fill:light-dark\((#\w{6}),(#\w{6})\)", css)
    assert len(pairs) == 3
    for light, dark in pairs:
        assert (lightness(light) > 0.5) != (lightness(dark) > 0.5)


# ---------------------------------------------------------------------------------------------------------------------
# Hostile names
# ---------------------------------------------------------------------------------------------------------------------

HOSTILE = "</script><script>alert(1)</script>"


@given(st.text(min_size=1, max_size=30))
@example(HOSTILE)
@example('"><img src=x onerror=alert(1)>')
@example("<!--<script>")
@example("a\nb\r\n\u2028c")
@example("]]>&lt;\\u003c")
@example("\ud800 日本 🙂")
@example("@DATA@ @SCRIPT@")
@example("\U00010800 \u05d0\u05d1")  # from right to left
def test_names_are_text_and_nothing_else(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp()
    plain = parsed(diamond("plain")[1], folder)
    _, loss = diamond(name)
    loss.name = name + "!"
    page = parsed(loss, folder)
    assert len(page.named("script")) == len(plain.named("script")) == 2
    drawn = {
        "g",
        "path",
        "polygon",
        "polyline",
        "ellipse",
        "text",
        "title",
    }  # more of them where a long name takes a row
    assert [tag for tag, _ in page.tags if tag not in drawn] == [tag for tag, _ in plain.tags if tag not in drawn]
    if name.strip():  # else it is no name
        assert page.data["values"][0]["label"].strip("\u2068\u2069") == printable(name)
    assert page.data["values"][-1]["label"].strip("\u2068\u2069") == printable(name + "!")
    assert page.text["title"][0] == page.text["h1"][0]
    assert re.sub("[\u2068\u2069]", "", page.text["h1"][0]) == f"Backpropagation from {printable(name)}!"


@pytest.mark.parametrize(
    "several",
    [
        lambda x: nn.LayerNorm(3)(x),
        lambda x: nn.BatchNorm1d(3)(x),
        lambda x: np.linalg.svd(x, full_matrices=False)[1],
        lambda x: np.linalg.qr(x)[0] * np.linalg.qr(x)[1][0],
    ],
)
def test_calls_with_several_results_are_told_and_shown(tmp_path, several):
    x = tg.Tensor(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), requires_grad=True)
    loss = np.sum(several(x * 2) ** 2 * np.arange(1.0, 4.0).astype(np.float32))
    assert "BACKWARD" in str(tg.explain(loss))
    assert tg.explore(loss, path=tmp_path / "several.html").path.exists()


def test_nodes_have_the_labels_that_the_cards_use(tmp_path):
    model = nn.Sequential(nn.Dense(3, 4, "relu", rng=0), nn.Dense(4, 2, rng=1))
    images = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    loss = tg.cross_entropy(model(images), np.array([0, 1, 0, 1, 1]))
    story = record(loss, model)
    labels = [story.values[i].label for i in story.forward]
    assert labels[:-1] == [f"v{k}" for k in range(1, len(labels))]  # no number is skipped
    picture = re.sub(r"<[^>]+>", " ", scene(story, read([loss], names_in(model))).svg)
    assert all(re.search(rf"\b{label}\b", picture) for label in labels)
