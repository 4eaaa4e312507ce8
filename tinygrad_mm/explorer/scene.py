"""The graph's picture on the page: the SVG of `drawing`, taken apart by an XML parser and made ready for stepping.

Nodes, edges and frames get `data-` attributes with their names, tooltips become titles, and the colours of the theme
become classes, so that the page can turn dark.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tinygrad_mm.drawing.call import operands_and_options
from tinygrad_mm.drawing.folding import fitted, with_references
from tinygrad_mm.drawing.labels import width_of
from tinygrad_mm.drawing.layout import in_rows
from tinygrad_mm.drawing.picture import Picture, PictureCluster, PictureNode
from tinygrad_mm.drawing.theme import in_the_dark
from tinygrad_mm.explorer.calls import Ref
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.graph import Node, select

__all__ = ["Scene", "scene"]

SVG = "{http://www.w3.org/2000/svg}"
TOOLTIP = "{http://www.w3.org/1999/xlink}title"
HEX = re.compile(r"#[0-9a-f]{6}")
NAMED = {"white": "#ffffff", "black": "#000000"}
# A bound in nodes, not in seconds, so that the same program gives the same page.
MOST_NODES = 400
ROW = 1200.0  # points: as long as a page of 1280 pixels has room for


@dataclass(frozen=True)
class Scene:
    """The picture as a page needs it: the SVG's text, the CSS of its colours, the `nodes` of each value, the `layers`.

    Without a layout program `svg` is "" and `problem` says how to get one.
    """

    svg: str
    style: str
    nodes: Mapping[int, tuple[str, ...]]
    layers: Mapping[str, Mapping[str, Any]]
    problem: str = ""


def scene(story: Story, picture: Picture) -> Scene:
    """Lay the picture out and make it ready."""
    nodes = nodes_of(story, picture)
    picture = with_references(fitted(picture, None))  # a large one folds by itself, and its legend says so
    drawn = {node.id for node in picture.nodes}
    nodes = {value: tuple(node for node in own if node in drawn) for value, own in nodes.items()}
    if len(drawn) > MOST_NODES:
        return Scene("", "", {}, {}, f"A graph of {len(drawn)} nodes is too large to be drawn here; see tg.draw.")
    try:
        picture, svg = in_rows(_with_names(story, picture, nodes), ROW)
    except RuntimeError as error:  # there is no layout program: the steps can do without the picture
        return Scene("", "", {}, {}, f"The graph is not drawn: {error}.")
    root = ET.fromstring(svg)
    layers = layers_of(picture)
    colours = _prepare(root, picture, layers)
    nodes = _with_chips(picture, nodes)
    return Scene(ET.tostring(root, encoding="unicode"), shades(colours), nodes, layers)


# ---------------------------------------------------------------------------------------------------------------------
# Which node is which value
# ---------------------------------------------------------------------------------------------------------------------


def nodes_of(story: Story, picture: Picture) -> dict[int, tuple[str, ...]]:
    """The picture's nodes for each value of the story.

    Both have the calls in the order of computation. A value may have several nodes, where it is drawn at each use; a
    result of a call with several shares the node of that call.
    """
    found: dict[int, list[str]] = {}
    calls = [i for i in story.forward if story.calls[i].fun is not select]
    operations = [node for node in picture.nodes if node.kind == "operation"]
    if len(calls) != len(operations):
        return {}
    into: dict[str, dict[int, str]] = {}
    for edge in (edge for edge in picture.edges if edge.kind == "forward"):
        into.setdefault(edge.head, {})[edge.operand] = edge.tail
    for i, node in zip(calls, operations, strict=True):
        found[i] = [node.id]
        call = story.calls[i]
        args = tuple(story.values[a.value].array if isinstance(a, Ref) else a for a in call.args)
        for number, (position, _) in enumerate(operands_and_options(Node(call.fun, args, call.kwargs))[0]):
            a = call.args[position]
            if isinstance(a, Ref) and story.values[a.value].is_leaf:
                tail = into.get(node.id, {}).get(number)
                known = found.setdefault(a.value, [])
                if tail is not None and tail not in known:
                    known.append(tail)
    for i in story.forward:
        if story.calls[i].fun is select:
            found[i] = found[story.calls[i].sources[0]]
    outputs = [node.id for node in picture.nodes if node.kind == "output"]
    found.setdefault(story.loss, []).extend(outputs)
    return {value: tuple(nodes) for value, nodes in found.items()}


def _with_names(story: Story, picture: Picture, nodes: Mapping[int, tuple[str, ...]]) -> Picture:
    """The picture with the story's labels: what a card calls `v3` is called so in the picture."""
    labels: dict[str, str] = {}
    for value in sorted(nodes):  # a call with several results comes before them, and the node is its own
        for node in nodes[value]:
            labels.setdefault(node, story.values[value].label)

    def named(node: PictureNode) -> PictureNode:
        label = labels.get(node.id)
        if label is None or (node.kind == "constant" and node.shape is None):  # a number stands for itself
            return node
        if node.kind == "operation":  # the loss has its name at the output
            return node if node.id in nodes[story.loss] else replace(node, name=label)
        return replace(node, title=label)

    return replace(picture, nodes=tuple(map(named, picture.nodes)))


def _with_chips(picture: Picture, nodes: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    """The nodes of each value, with the chips that stand for them in other rows."""
    chips: dict[str, list[str]] = {}
    for node in picture.nodes:
        if node.chip and "_" in node.id:  # as `referring` calls them: by what they stand for and where
            chips.setdefault(node.id.partition("_")[0], []).append(node.id)
    return {value: (*own, *(chip for node in own for chip in chips.get(node, ()))) for value, own in nodes.items()}


def layers_of(picture: Picture) -> dict[str, dict[str, Any]]:
    """The frames of the picture: the frame around each, its title, its operations, and whether it has none inside."""
    parents = {cluster.id: cluster.parent for cluster in picture.clusters}
    operations: Counter[str] = Counter()
    for node in picture.nodes:
        cluster = node.cluster if node.kind == "operation" else None
        while cluster is not None:
            operations[cluster] += 1
            cluster = parents[cluster]
    return {
        cluster.id: {
            "parent": cluster.parent,
            "title": f"{cluster.path} {cluster.label}".strip()
            + (f" · call {cluster.call}" if cluster.calls > 1 else ""),
            "operations": operations[cluster.id],
            "inner": cluster.id not in parents.values(),
        }
        for cluster in picture.clusters
    }


def _call(cluster: PictureCluster) -> str:
    return f"· call {cluster.call}" if cluster.calls > 1 else ""


# ---------------------------------------------------------------------------------------------------------------------
# The SVG
# ---------------------------------------------------------------------------------------------------------------------


def _prepare(root: ET.Element, picture: Picture, layers: Mapping[str, Any]) -> set[str]:
    """Change the SVG in place; returns the colours in it."""
    cluster_of = {node.id: node.cluster or "" for node in picture.nodes}
    _flatten(root)
    graph = root.find("g")
    assert graph is not None
    background = graph.find("polygon")
    if background is not None:
        graph.remove(background)
    for group in graph.findall("g"):
        title = group.find("title")
        name = (title.text or "") if title is not None else ""
        if title is not None:
            group.remove(title)
        tip = group.attrib.pop("tip", "")
        if group.get("class") == "node":
            group.attrib |= {"data-node": name, "data-layer": cluster_of.get(name, "")}
            group.attrib |= {"role": "button", "tabindex": "0", "aria-label": tip}
        elif group.get("class") == "edge":
            tail, _, head = name.partition("->")
            tail, head = tail.partition(":")[0], head.partition(":")[0]
            group.attrib |= {"data-tail": tail, "data-head": head}
            group.attrib |= {"data-from": cluster_of.get(tail, ""), "data-to": cluster_of.get(head, "")}
        elif name.removeprefix("cluster_") in layers:
            _make_foldable(group, name.removeprefix("cluster_"), layers)
        if tip:
            ET.SubElement(group, "title").text = tip
    title = graph.find("title")
    if title is not None:
        graph.remove(title)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.attrib |= {"role": "group", "aria-label": "nodes of the computation graph, in the order of the picture"}
    return set(_classes(root))


def _flatten(root: ET.Element) -> None:
    """Names without namespaces, as HTML wants them; links, which lead nowhere, give way to what is in them."""
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        element.attrib.pop("{http://www.w3.org/XML/1998/namespace}space", None)
        if element.tag == "g":
            element.attrib.pop("id", None)  # the page has ids of its own
    for group in list(root.iter("g")):
        children: list[ET.Element] = []
        for child in group:
            link = child.find("a") if child.tag == "g" else None
            if link is None:
                children.append(child)
            else:
                group.set("tip", link.get(TOOLTIP, ""))
                children.extend(link)
        if "tip" in group.attrib:
            group[:] = children


def _make_foldable(group: ET.Element, layer: str, layers: Mapping[str, Any]) -> None:
    """The label of a frame becomes a button."""
    group.attrib |= {"data-layer": layer}
    label = ET.Element("g", {"data-fold": layer, "role": "button", "tabindex": "0", "aria-expanded": "true"})
    label.set("aria-label", f"fold {layers[layer]['title']}")
    texts = group.findall("text")
    for text in texts:
        group.remove(text)
        label.append(text)
    if texts:
        marker = ET.Element("text", {**texts[-1].attrib, "x": _after(texts), "text-anchor": "start"})
        marker.text = "▾"
        label.append(marker)
    group.append(label)


def _after(texts: Iterable[ET.Element]) -> str:
    """Where the text after these begins."""
    ends = [
        float(text.get("x", "0")) + 1.1 * width_of(text.text or "", float(text.get("font-size", "10")))
        for text in texts
    ]
    return f"{max(ends) + 3:.2f}"


# ---------------------------------------------------------------------------------------------------------------------
# Colours
# ---------------------------------------------------------------------------------------------------------------------


def _classes(root: ET.Element) -> Iterator[str]:
    """Put classes in place of colours, and give the colours."""
    for element in root.iter():
        for attribute, letter in (("fill", "f"), ("stroke", "s")):
            colour = element.get(attribute, "")
            colour = NAMED.get(colour, colour)
            if HEX.fullmatch(colour):
                yield colour
                del element.attrib[attribute]
                element.set("class", f"{element.get('class', '')} {letter}-{colour[1:]}".strip())


def shades(colours: Iterable[str]) -> str:
    """The CSS of these colours, each with what it is on a dark page: as far from the background as in the light.

    >>> print(shades(["#ffffff"]))
    .f-ffffff{fill:light-dark(#ffffff,#182029)}.s-ffffff{stroke:light-dark(#ffffff,#182029)}
    """
    rules = []
    for colour in sorted(set(colours)):
        pair = f"light-dark({colour},{in_the_dark(colour)})"
        rules.append(f".f-{colour[1:]}{{fill:{pair}}}.s-{colour[1:]}{{stroke:{pair}}}")
    return "".join(rules)
