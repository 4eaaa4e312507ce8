"""Names that try to harm, in every form that a drawing can be saved in: they arrive as text, and as nothing else."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import SVG

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing.drawing import FORMATS
from tinygrad_mm.drawing.renderer import laid_out
from tinygrad_mm.drawing.text import printable

NAMES = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "\"'`); alert(1) //",
    "<img src=x onerror=alert(1)>",
    "two\nlines\r\nand\ttabs",
    "\u202eright to left\u202c \u2066isolated",
    "שלום עולם",
    "x" * 10_000,
    '"]; evil [label="',
    "]]><!--",
    "%%{init: {}}%%",
    "\\N\\G\\l",
    "@DATA@ @SCRIPT@",
    "\x00\x07\ud800",
]


def hostile() -> tg.Drawing:
    parts: list[Any] = []
    for i, name in enumerate(NAMES):
        w = nn.Parameter(np.ones((2, 2), np.float32))
        w.name = name
        layer = type(
            re.sub(r"[\x00\ud800]", "", name) or "M", (nn.Module,), {"forward": lambda self, x: np.tanh(x @ self.w)}
        )()
        layer.w = w
        y = layer(np.full((1, 2), i, np.float32))
        y.name = name
        parts.append(y)
    del w, layer, y  # the names of these variables are better ones
    return tg.draw(np.sum(np.concatenate(parts)), show=("numbers", "backward"), fold=())


DRAWING = hostile()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_names_were_drawn() -> None:
    titles = {n.title for n in DRAWING.picture.nodes}
    assert set(NAMES) <= titles


@pytest.mark.parametrize("form", [form for form in FORMATS if form != ".pdf"])
def test_it_can_be_saved(form: str, tmp_path: Path) -> None:
    content = DRAWING.save(tmp_path / f"graph{form}").read_bytes()
    assert len(content) > 1000
    if form == ".png":
        assert content.startswith(b"\x89PNG")
        return
    text = content.decode("utf-8")  # no lone surrogate
    unprintable = {c for c in text if not c.isprintable()} - {"\n", "\t", "\r", "\N{NO-BREAK SPACE}"}
    assert not unprintable


def test_svg_holds_text_and_no_script(tmp_path: Path) -> None:
    root = ET.parse(DRAWING.save(tmp_path / "graph.svg")).getroot()
    known = {"svg", "g", "title", "polygon", "path", "ellipse", "polyline", "text", "a", "style", "image"}
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= known
    for element in root.iter():
        assert not [name for name in element.attrib if name.lower().startswith("on")]
        link = element.get("{http://www.w3.org/1999/xlink}href")
        assert link is None or link.startswith("data:image/png")
    words = " ".join("".join(t.itertext()) for t in root.iter(SVG + "text")).replace("\N{NO-BREAK SPACE}", " ")
    for name in NAMES:
        if len(printable(name)) <= 40:
            assert printable(name) in words


def test_html_holds_its_own_scripts_only(tmp_path: Path) -> None:
    text = DRAWING.save(tmp_path / "graph.html").read_text()
    parser = Tags()
    parser.feed(text)
    scripts = [attributes for tag, attributes in parser.tags if tag == "script"]
    assert scripts == [{"id": "data", "type": "application/json"}, {}]
    assert not [name for _, attributes in parser.tags for name in attributes if name.startswith("on")]
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert {printable(name) for name in NAMES} <= {node["title"] for node in json.loads(data)["nodes"]}


def test_dot_is_one_graph_of_these_nodes() -> None:
    (graph,) = laid_out([DRAWING.source])
    names = {o["name"] for o in graph["objects"]}
    assert "evil" not in names
    assert {n.id for n in DRAWING.picture.nodes} <= names


def test_json_and_text_and_mermaid(tmp_path: Path) -> None:
    titles = [node["title"] for node in json.loads(DRAWING.save(tmp_path / "graph.json").read_text())["nodes"]]
    assert set(NAMES) <= set(titles)  # data, as they are
    lines = DRAWING.save(tmp_path / "graph.txt").read_text().splitlines()
    for name in NAMES:
        assert any(line.strip().startswith(f"{printable(name)}: parameter") for line in lines)
    for label in re.findall(r'"([^"]*)"', DRAWING.save(tmp_path / "graph.mmd").read_text()):
        assert not set(label.replace("<br/>", "")) & set('<>"`[]{}|&%\\\n')


def test_ten_kilobytes_of_name_take_no_more_room_than_forty_letters() -> None:
    root = ET.fromstring(DRAWING._content(".svg"))
    assert float(root.attrib["width"].removesuffix("pt")) < 1300  # a parameter and its product, each with such a name
