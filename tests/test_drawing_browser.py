"""The page of a drawing in a real browser: folding, details, search, ancestors and descendants, looks, safety."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import DESKTOP, PHONE, Page, needs_browser
from gallery import models

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing import Picture

pytestmark = needs_browser

NODE, FRAME = "#content .node", "#content .frame"


def saved(drawing: tg.Drawing, folder: Path) -> tuple[tg.Drawing, Path]:
    return drawing, drawing.save(folder / "graph.html")


def ids(page: Page, selector: str) -> list[str]:
    found: list[str] = page.run(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.dataset.id)", selector
    )
    return found


def click(page: Page, identity: str, inside: str = "") -> None:
    """A click in the middle of a part, wherever it is now."""
    page.run(
        "const e = document.querySelector(arguments[0]); e.dispatchEvent(new MouseEvent('click', {bubbles: true}))",
        f'#content [data-id="{identity}"] {inside}'.strip(),
    )


def hover(page: Page, identity: str) -> None:
    page.run(
        "document.querySelector(arguments[0]).dispatchEvent(new PointerEvent('pointerenter'))",
        f'[data-id="{identity}"]',
    )


def boxes(page: Page) -> dict[str, tuple[float, float, float, float]]:
    script = """return [...document.querySelectorAll("#content .node, #content .frame")].map((e) => {
        const r = e.querySelector(".shape"), n = (a) => Number(r.getAttribute(a));
        return [e.dataset.id, n("x"), n("y"), n("x") + n("width"), n("y") + n("height")]; })"""
    return {name: tuple(box) for name, *box in page.run(script)}


def check_layout(page: Page, whole: Picture) -> None:
    """What is seen lies in the module around it, beside everything else there; lines lead from edge to edge."""
    places, nodes, frames = boxes(page), ids(page, NODE), set(ids(page, FRAME))
    parent: dict[str, str | None] = {c.id: c.parent for c in whole.clusters} | {n.id: n.cluster for n in whole.nodes}
    for name, (left, top, right, bottom) in places.items():
        around = parent[name]
        if around is not None:
            assert around in frames
            a, b, c, d = places[around]
            assert a <= left
            assert b + 20 <= top  # below the title
            assert right <= c
            assert bottom <= d
    for (one, p), (other, q) in itertools.combinations(places.items(), 2):
        if parent[one] == parent[other]:
            assert p[2] <= q[0] or q[2] <= p[0] or p[3] <= q[1] or q[3] <= p[1], (one, other)
    script = """return [...document.querySelectorAll("#content [data-tail]")].map((e) => {
        const p = e.querySelector("path"), l = p.getTotalLength(), a = p.getPointAtLength(0), b = p.getPointAtLength(l);
        return [e.dataset.tail, e.dataset.head, a.x, a.y, b.x, b.y]; })"""
    lines = page.run(script)
    for tail, head, x, y, u, v in lines:
        left, _, right, bottom = places[tail]
        assert left <= x <= right
        assert y == pytest.approx(bottom, abs=0.2)
        left, top, right, _ = places[head]
        assert left <= u <= right
        assert v == pytest.approx(top, abs=0.2)
    script = """const titles = [...document.querySelectorAll("#content .header text")].map((e) => [e.textContent, e.getBBox()]);
        return [...document.querySelectorAll("#content [data-tail] path")].flatMap((p) => {
            const l = p.getTotalLength(), at = Array.from({length: 200}, (_, i) => p.getPointAtLength(l * i / 199));
            return titles.filter(([, b]) => at.some(({x, y}) => b.x < x && x < b.x + b.width && b.y + 2 < y && y < b.y + b.height - 2))
                .map(([title]) => title); })"""
    assert page.run(script) == []  # no line runs through a title
    shown = {node: node for node in nodes}
    for node in whole.nodes:  # each line of the graph is seen, or lies in a module that is folded
        at: str | None = node.id
        while at is not None and at not in nodes:
            at = parent[at]
        assert at is not None
        shown[node.id] = at
    expected = {(shown[e.tail], shown[e.head]) for e in whole.edges if shown[e.tail] != shown[e.head]}
    assert {(tail, head) for tail, head, *_ in lines} == expected


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_folded_and_unfolded(page: Page, name: str, tmp_path: Path) -> None:
    drawing, path = saved(models.MODELS[name](), tmp_path)
    page.open(path)
    check_layout(page, drawing.whole)
    page.click("#unfold")
    check_layout(page, drawing.whole)
    assert set(ids(page, NODE)) == {n.id for n in drawing.whole.nodes}
    page.click("#fold")
    check_layout(page, drawing.whole)
    assert ids(page, FRAME) == []
    rng = np.random.default_rng(0)
    for _ in range(8):  # any state of folding
        closed = [i for i in ids(page, NODE) if i.startswith("c")]
        opened = ids(page, FRAME)
        if closed and (not opened or rng.random() < 0.7):
            click(page, str(rng.choice(closed)))
        elif opened:
            click(page, str(rng.choice(opened)), ".header")
        check_layout(page, drawing.whole)


def test_a_click_folds_and_unfolds(page: Page, tmp_path: Path) -> None:
    drawing, path = saved(models.autoencoder(), tmp_path)
    page.open(path)
    page.click("#fold")
    (model,) = [c.id for c in drawing.whole.clusters if c.label == "Sequential"]
    place = page.find(f'[data-id="{model}"]').rect
    click(page, model)
    assert page.find(f'[data-id="{model}"] .header').get_attribute("aria-expanded") == "true"
    assert abs(page.find(f'[data-id="{model}"]').rect["y"] - place["y"]) < 2  # what was clicked stays
    layer = next(c.id for c in drawing.whole.clusters if c.path == "layers.0")
    assert "100,480 parameters" in page.find(f'[data-id="{layer}"]').text
    page.run("arguments[0].focus()", page.find(f'[data-id="{layer}"]'))
    page.press("\ue007")  # Enter
    assert {"matmul", "add", "relu"} <= {page.find(f'[data-id="{i}"] text').text for i in ids(page, NODE)}
    click(page, layer, ".header")
    assert layer in ids(page, NODE)


def test_details_of_a_node(page: Page, tmp_path: Path) -> None:
    with tg.record_lines():
        w = tg.Tensor([[1.0, -2.0], [0.5, 4.0]], requires_grad=True)
        y = np.sum(np.tanh(w) * 3.0)
    drawing, path = saved(tg.draw(y, show=("numbers", "lines")), tmp_path)
    page.open(path)
    node = {n.title: n.id for n in drawing.whole.nodes}
    hover(page, node["w"])
    assert page.text("#details h2") == "w"
    cells = page.run(
        "return [...document.querySelectorAll('#details table')].map((t) => [...t.querySelectorAll('td')].map((d) => Number(d.textContent)))"
    )
    np.testing.assert_allclose(cells[0], [1, -2, 0.5, 4])
    np.testing.assert_allclose(cells[1], (3 * (1 - np.tanh(w.data) ** 2)).ravel(), rtol=6e-3)
    hover(page, node["tanh"])
    words = page.text("#details")
    assert "(2, 2) float32" in words
    assert re.search(r"test_drawing_browser\.py:\d+", words)
    assert "np.tanh(w) * 3.0" in words
    assert page.run("return document.querySelectorAll('.edge.lit').length") == 2


def test_search_finds_what_is_folded(page: Page, tmp_path: Path) -> None:
    drawing, path = saved(models.gpt(), tmp_path)
    page.open(path)
    page.click("#fold")
    page.find("#search").send_keys("blocks.1.attention.in_weight")
    assert page.text("#count") == "1 found"
    assert len(page.all(".node.found")) == 1  # the module that it is in
    page.press("\ue007")
    (weight,) = (n.id for n in drawing.whole.nodes if n.title == "blocks.1.attention.in_weight")
    assert weight in ids(page, NODE)
    assert page.text("#details h2") == "blocks.1.attention.in_weight"
    x, y = page.run(
        "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]",
        f'[data-id="{weight}"]',
    )
    assert 0 < x < DESKTOP[0]
    assert 0 < y < DESKTOP[1]
    page.find("#search").clear()
    page.find("#search").send_keys("(4, 8, 64)")
    assert page.text("#count") == f"{sum(n.shape == (4, 8, 64) for n in drawing.whole.nodes)} found"
    page.press("\ue00c")  # Escape
    assert page.text("#count") == ""


@pytest.mark.parametrize("way", ["ancestors", "descendants", "both"])
def test_ancestors_and_descendants(page: Page, way: str, tmp_path: Path) -> None:
    drawing, path = saved(models.autoencoder(), tmp_path)
    page.open(path)
    page.click("#unfold")
    start = next(n.id for n in drawing.whole.nodes if n.title == "relu")

    def reached(step: Any) -> set[str]:
        found, waiting = {start}, [start]
        while waiting:
            at = waiting.pop()
            for other in step(at):
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return found

    up = reached(lambda at: [e.tail for e in drawing.whole.edges if e.head == at])
    down = reached(lambda at: [e.head for e in drawing.whole.edges if e.tail == at])
    click(page, start)
    next(b for b in page.all("#details button") if b.text == way).click()
    assert set(ids(page, NODE)) == {"ancestors": up, "descendants": down, "both": up | down}[way]
    assert "relu" in page.text("#focused")
    page.click("#everything")
    assert set(ids(page, NODE)) == {n.id for n in drawing.whole.nodes}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(page: Page, scheme: str, tmp_path: Path) -> None:
    _, path = saved(models.cnn(), tmp_path)
    page.prefer(scheme)
    page.open(path)

    def contrast() -> list[float]:
        """Of every text with what is behind it, by WCAG 2."""
        script = """const lum = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(Number).map((n) => c.startsWith("color(") ? n : n / 255)
              .map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
            return [...document.querySelectorAll("#content .node")].flatMap((g) => [...g.querySelectorAll("text")].map((t) => {
              const a = lum(getComputedStyle(t).fill), b = lum(getComputedStyle(g.querySelector(".shape")).fill);
              return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }))"""
        found: list[float] = page.run(script)
        return found

    assert min(contrast()) >= 4.5
    paper = page.run("return getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.run("return getComputedStyle(document.body).backgroundColor") != paper
    assert min(contrast()) >= 4.5


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("size", [PHONE, (390, 844), DESKTOP])
def test_nothing_scrolls_sideways(page: Page, name: str, size: tuple[int, int], tmp_path: Path) -> None:
    _, path = saved(models.MODELS[name](), tmp_path)
    page.open(path, size)
    assert page.run("return document.documentElement.scrollWidth") <= size[0]
    hover(page, ids(page, NODE)[0])
    box = page.find("#details").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size[0]
    assert page.run("return document.documentElement.scrollWidth") <= size[0]


def test_moving_and_zooming(page: Page, tmp_path: Path) -> None:
    _, path = saved(models.neuron(), tmp_path)
    page.open(path)

    def now() -> tuple[float, float, float]:
        x, y, scale = map(float, re.findall(r"-?[\d.]+", page.find("#content").get_attribute("transform")))
        return x, y, scale

    first = now()
    page.press("+")
    assert now()[2] == pytest.approx(first[2] * 1.25, rel=1e-3)
    page.press("0")
    assert now() == pytest.approx(first)
    page.press("\ue014")  # to the right
    assert now()[0] == pytest.approx(first[0] - 60)
    page.click("#fit")
    assert now() == pytest.approx(first)


NAMES = ["<script>window.harmed = 1</script>", "\"'`</script>", "<img src=x onerror=window.harmed=1>", "two\nlines", "\u202ereversed", "a" * 10_000, "שלום", "@DATA@"]  # fmt: skip


def test_names_are_text_and_nothing_else(page: Page, tmp_path: Path) -> None:
    parts = []
    for name in NAMES:
        x = tg.Tensor(np.ones(2), requires_grad=True)
        x.name = name
        parts.append(x * 2)
    _, path = saved(tg.draw(np.sum(np.stack(parts)), show="numbers"), tmp_path)
    page.open(path)
    assert page.run("return window.harmed") is None
    text = page.run("return document.getElementById('content').textContent")
    for name in NAMES[:3]:
        assert name[:18] in text
    assert "\u202e" not in text
    assert "\n" not in text
    for node in ids(page, NODE):
        hover(page, node)
    assert page.run("return window.harmed") is None
    assert page.run("return getComputedStyle(document.querySelector('#details h2')).unicodeBidi") == "isolate"


def test_two_thousand_nodes(page: Page, tmp_path: Path) -> None:
    drawing, path = saved(models.lstm(120), tmp_path)
    assert len(drawing.whole.nodes) > 2_000
    assert path.stat().st_size < 10_000_000
    page.open(path)
    assert 20 < len(ids(page, NODE)) < 200
    page.click("#unfold")
    assert len(ids(page, NODE)) == len(drawing.whole.nodes)


def test_printed_it_is_the_picture(page: Page, tmp_path: Path) -> None:
    _, path = saved(models.cnn(), tmp_path)
    page.open(path)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert page.run("return getComputedStyle(document.querySelector('main')).display") == "none"
    printed = page.find("#print svg").rect
    assert printed["width"] > 300
    assert printed["width"] <= DESKTOP[0]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_page_needs_no_layout_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    text = models.cnn().save(tmp_path / "graph.html").read_text()
    assert "<svg" in text
    (content,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert len(json.loads(content)["nodes"]) > 20


class Again(nn.Module):
    """Called from the recorded backward pass once more."""

    def forward(self, x: Any) -> Any:
        return np.tanh(x) * x


def test_a_recorded_backward_pass(page: Page, tmp_path: Path) -> None:
    x = tg.Tensor(np.ones(3), requires_grad=True)
    model = Again()
    drawing, path = saved(tg.draw(np.sum(model(x)), model=model, show="joint"), tmp_path)
    page.open(path)
    page.click("#unfold")
    assert set(ids(page, NODE)) == {n.id for n in drawing.whole.nodes}
    page.click("#fold")
    assert ids(page, FRAME) == []


@pytest.mark.parametrize("name", models.MODELS)
def test_a_picture_turns_dark_with_its_reader(page: Page, name: str, tmp_path: Path) -> None:
    """Every text of the SVG can be read on what is behind it, in the light and in the dark."""
    models.MODELS[name]().save(tmp_path / "graph.svg")
    script = """const lum = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map((n) => n / 255)
          .map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
        const filled = (g) => [...g.querySelectorAll("path, polygon, ellipse")].map((s) => getComputedStyle(s).fill).filter((f) => f.startsWith("rgb("));
        return [...document.querySelectorAll("g.node, g.cluster")].filter((g) => filled(g).length).flatMap((g) => [...g.querySelectorAll("text")].map((t) => {
          const a = lum(getComputedStyle(t).fill), b = lum(filled(g)[0]); return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }))"""
    papers = []
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        page.open(tmp_path / "graph.svg")
        assert min(page.run(script)) >= 4.5
        papers.append(page.run("return getComputedStyle(document.querySelector('g.graph > polygon')).fill"))
    assert papers == ["rgb(255, 255, 255)", "rgb(24, 32, 41)"]
