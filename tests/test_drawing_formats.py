"""Pictures as text, as Mermaid and as a page: what they say, and that any text is escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from drawn import SVG, svg_of, tensor, two_layers
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm.drawing.mermaid import mermaid
from tinygrad_mm.drawing.text import printable

HOSTILE = ["<script>alert(1)</script>", '"]; evil["', "</svg><script>", "`#quot;`", "end", "%% x", "a\nb", "--> b", "]]>", "日本語 ∂", "|x|", "\u202e", "@SVG@", "{{x}}", "&lt;"]  # fmt: skip


def named(name: str) -> tg.Drawing:
    x = tensor(2, name=name)
    y = np.tanh(x)
    y.name = name
    return tg.draw(np.sum(y * 2.0), show=("values", "backward"))


# -- text


def test_text_lists_operations_in_order_with_their_operands() -> None:
    loss, model = two_layers()
    lines = str(tg.draw(loss, model=model)).splitlines()
    assert lines[0] == "computation graph: 6 operations, 12 edges, 4 parameters (43 numbers)"
    assert lines[2:] == [
        "images: input (5, 6) float32",
        "[Sequential]",
        "  [layers.0 Dense]",
        "    layers.0.weight: parameter (6, 4) float32",
        "    n2 = matmul(images, layers.0.weight)  (5, 4) float32",
        "    layers.0.bias: parameter (4,) float32",
        "    n4 = add(n2, layers.0.bias)  (5, 4) float32",
        "    n5 = relu(n4)  (5, 4) float32",
        "  [layers.1 Dense]",
        "    layers.1.weight: parameter (4, 3) float32",
        "    n7 = matmul(n5, layers.1.weight)  (5, 3) float32",
        "    layers.1.bias: parameter (3,) float32",
        "    n9 = add(n7, layers.1.bias)  (5, 3) float32",
        "constant: constant (5,) int64",
        "n11 = cross_entropy(n9, constant)  () float32",
        "loss: output n11 () float32",
    ]


def test_text_shows_values_and_the_way_back() -> None:
    a = tg.Tensor([3.0, 4.0], requires_grad=True)
    text = str(tg.draw(np.sum(a * 2), show=("values", "gradients", "backward")))
    assert "value: mean 3.5, std 0.5, norm 5" in text
    assert "gradient: mean 2, std 0, norm 2.83" in text  # that of the pass which is drawn
    assert f"sends back {8**0.5:.3g} to a" in text


# -- mermaid


def labels(text: str) -> list[str]:
    """Everything between quotes, with entities put back."""
    found = re.findall(r'"([^"]*)"', text)
    return [re.sub(r"#(\d+);", lambda m: chr(int(m[1])), label.replace("<br/>", "\n")) for label in found]


def test_mermaid_has_the_nodes_and_edges_of_the_picture() -> None:
    loss, model = two_layers()
    drawing = tg.draw(loss, model=model)
    text = mermaid(drawing.picture, "TB")
    assert text.startswith("flowchart TB\n")
    edges = re.findall(r"^  (n\d+) (?:-->|-\.->)(?:\|[^|]*\|)? (n\d+)$", text, re.MULTILINE)
    assert edges == [(e.tail, e.head) for e in drawing.picture.edges]
    nodes = re.findall(r'^ *(n\d+)\W+"', text, re.MULTILINE)
    assert sorted(nodes) == sorted(n.id for n in drawing.picture.nodes)
    assert text.count("subgraph ") == len(drawing.picture.clusters) == len(re.findall(r"^  end$", text, re.MULTILINE))
    shapes = {re.search(rf"{n.id}(\W+)\"", text)[1]: n.kind for n in drawing.picture.nodes}  # type: ignore[index]
    assert len(shapes) == len({n.kind for n in drawing.picture.nodes})


@given(st.text(min_size=1, max_size=40))
@example(HOSTILE[0])
@example(HOSTILE[1])
@example(HOSTILE[3])
@example(HOSTILE[5])
@example(HOSTILE[10])
def test_mermaid_escapes_any_name(name: str) -> None:
    drawing = named(name)
    text = mermaid(drawing.picture)
    lines = text.splitlines()
    assert all(line.count('"') % 2 == 0 for line in lines)
    for label in re.findall(r'"([^"]*)"', text):
        assert not set(label.replace("<br/>", "")) & set('<>"`[]{}|&%\\\n')
    if name.strip() and len(printable(name)) <= 40:
        assert any(label.splitlines()[:1] == [printable(name)] for label in labels(text))


# -- pages


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]


def read(path: Path) -> Page:
    parser = Page()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    return parser


@given(st.text(min_size=1, max_size=30))
@example(HOSTILE[0])
@example(HOSTILE[2])
@example(HOSTILE[8])
@example(HOSTILE[12])
@example(HOSTILE[14])
@settings(max_examples=10)
def test_a_page_holds_its_data_one_script_the_picture_to_print_and_no_link(tmp_path_factory: object, name: str) -> None:
    folder = tmp_path_factory.mktemp("page")  # type: ignore[attr-defined]
    drawing = named(name)
    page = read(drawing.save(folder / "graph.html"))
    assert page.tags.count("html") == 1
    assert page.tags.count("script") == page.tags.count("svg") == 2
    assert all(link.startswith("data:image/png") for link in page.links)
    text = (folder / "graph.html").read_text(encoding="utf-8")
    printed = text.index("<svg", text.index('<div id="print">'))
    inside = text[printed : text.index("</svg>", printed) + 6]
    shown = {"".join(t.itertext()).replace("\N{NO-BREAK SPACE}", " ") for t in ET.fromstring(inside).iter(f"{SVG}text")}
    if name.strip() and len(printable(name)) <= 40:
        assert printable(name) in shown


def test_every_format_can_be_saved_and_is_the_same_each_time(tmp_path: Path) -> None:
    for form in ("svg", "png", "dot", "html", "txt", "mmd", "json"):
        once, again = (named("x").save(tmp_path / f"{i}.{form}").read_bytes() for i in (1, 2))
        assert once == again
        assert len(once) > 100


def test_elements_of_the_svg_have_the_ids_of_the_picture() -> None:
    loss, model = two_layers()
    drawing = tg.draw(loss, model=model)
    ids = {g.get("class"): set() for g in svg_of(drawing).iter(SVG + "g")}
    for g in svg_of(drawing).iter(SVG + "g"):
        ids[g.get("class")].add(g.get("id"))
    assert ids["node"] == {n.id for n in drawing.picture.nodes}
    assert {f"e{i}" for i in range(len(drawing.picture.edges))} <= ids["edge"]
    assert {c.id for c in drawing.picture.clusters} <= ids["cluster"]


def test_notebooks_show_a_picture_that_fits() -> None:
    svg = svg_of(named("x"))
    assert "max-width:100%" in svg.get("style", "")
    _, _, width, height = map(float, svg.get("viewBox", "").split())
    assert (svg.get("width"), svg.get("height")) == (f"{width:.0f}pt", f"{height:.0f}pt")
