"""What tests of drawings share: small networks, and pictures read back by the layout program and an XML parser."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.drawing import Drawing, Picture, PictureNode
from tinygrad_mm.drawing.renderer import find_program

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


def plain(text: str) -> str:
    """As a reader sees it: no-break spaces are spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def names_shown(svg: ET.Element) -> list[str]:
    """The bold text of each node: what stands in a <text> of its own."""
    return [plain("".join(t.itertext())) for t in svg.iter(SVG + "text") if t.get("font-weight") == "bold"]
