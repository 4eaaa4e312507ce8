"""Writes a picture in DOT, the language of Graphviz, by way of the `graphviz` package.

A layout program left to itself puts a weight, which depends on nothing, far to the front, beside the layer before it;
`order` says where it belongs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from tinygrad_mm.drawing.backward import width
from tinygrad_mm.drawing.labels import (
    LEAST_WIDTH,
    Images,
    cluster_label,
    description,
    edge_label,
    least_width,
    legend,
    node_label,
    operand_label,
    tooltip,
)
from tinygrad_mm.drawing.order import docked, innermost_around, sequence
from tinygrad_mm.drawing.picture import KINDS, LEAVES, Kind, Picture, PictureEdge, PictureNode
from tinygrad_mm.drawing.rows import reaching
from tinygrad_mm.drawing.theme import (
    ALARM,
    BACKWARD,
    BACKWARD_FILL,
    CLUSTER,
    EDGE,
    FONT,
    INK,
    LOOKS,
    QUIET,
    REPEAT,
    STOPPED,
)

if TYPE_CHECKING:
    import graphviz

__all__ = ["DIRECTIONS", "MOST_RANKED", "Direction", "Places", "Row", "digraph", "rows_of"]

Direction: TypeAlias = Literal["LR", "RL", "TB", "BT"]
DIRECTIONS: tuple[Direction, ...] = ("LR", "RL", "TB", "BT")

MOST_RANKED = 400  # nodes
LONGEST_BESIDE = 3  # letters of the name of an operand that fit between a node and the frame around it

# How much a layout program tries to keep an edge short and straight: the way of the data is to be the spine.
STRAIGHTNESS: dict[Kind, str] = {"operation": "8", "function": "8", "module": "8", "input": "3"}


@dataclass(frozen=True)
class Places:
    """Where a layout has put nodes (by name), edges (by id), frames (by id) and the whole: attributes in DOT.

    `length` is that of the longest row, in points.
    """

    nodes: Mapping[str, Mapping[str, str]]
    edges: Mapping[str, Mapping[str, str]]
    frames: Mapping[str, Mapping[str, str]]
    graph: Mapping[str, str]
    length: float


def digraph(
    picture: Picture,
    direction: Direction = "LR",
    images: Images = None,
    *,
    row: Row | None = None,
    places: Places | None = None,
) -> graphviz.Digraph:
    """The picture as a `graphviz.Digraph`, drawn from left to right ("LR") or in another of the four directions.

    Heat-maps are tables of coloured cells; with `images`, a dict, they are image files instead, which are put there
    by name. Of a wrapped picture one `row` is drawn by itself, with points where lines from and to the rows beside it
    leave and come in; or all of it, with everything in its place.
    """
    import graphviz

    graph = graphviz.Digraph(
        "computation graph",
        graph_attr={
            "rankdir": direction,
            # One ranking for all: inside frames too, an operand stands before its operation. In a large graph that
            # takes a layout program minutes, as curved edges do.
            "newrank": "true" if len(picture.nodes) <= MOST_RANKED else "false",
            "splines": "true" if len(picture.nodes) <= MOST_RANKED else "line",
            "fontname": FONT,
            "fontsize": "10",
            "fontcolor": INK,
            "nodesep": "0.22" if direction in ("LR", "RL") else "0.45",  # room for a name at the edge of a docked leaf
            "ranksep": "0.35",
            "pad": "0.15",
            "labelloc": "b",
            "labeljust": "l",
            "label": _legend(picture),
        },
        node_attr={"fontname": FONT, "fontsize": "11", "fontcolor": INK, "height": "0.3", "width": str(LEAST_WIDTH)},
        edge_attr={"fontname": FONT, "fontsize": "9", "fontcolor": QUIET, "color": EDGE, "arrowsize": "0.6"},
    )
    # With contributions on their way back, a leaf beside its operation would leave no room between the two.
    large = len(picture.nodes) > MOST_RANKED
    beside = {} if large or any(edge.kind == "backward" for edge in picture.edges) else docked(picture)
    canvas = _Canvas(graph, picture, row, places)
    if row is None:
        _draw_nodes(canvas, picture, {} if places else beside, images, {}, direction)
    else:
        _draw_nodes(canvas, _row(picture, row.number), beside, images, row.gates, direction)
    nodes = {node.id: node for node in picture.nodes}
    largest = max((e.norm for e in picture.edges if e.norm is not None and math.isfinite(e.norm)), default=0.0)
    for number, edge in enumerate(picture.edges):
        tail, head = nodes[edge.tail], nodes[edge.head]
        if not canvas.shows(edge.tail) and not canvas.shows(edge.head):
            continue
        if edge.kind == "forward":
            _draw_edge(canvas, number, edge, tail, head, direction, across=edge.tail in beside)
        else:
            _draw_special_edge(canvas, number, edge, tail, head, largest)
    for above, below in () if large or places else sequence(picture, beside):
        if not nodes[above].backward and not nodes[below].backward and canvas.shows(above) and canvas.shows(below):
            graph.edge(above, below, style="invis", weight="0")
    gate = next((name for name, (_, rank) in row.gates.items() if rank == "source"), None) if row else None
    if gate is not None:  # no leaf stands where a line comes in, which would run through it
        for node in picture.nodes:
            if node.kind in LEAVES and canvas.shows(node.id) and node.id not in beside:
                graph.edge(gate, node.id, style="invis", weight="0")
    return graph


Gates: TypeAlias = "Mapping[str, tuple[str | None, str]]"  # by name: the frame around it, and the rank


class Row(NamedTuple):
    """A row of a wrapped picture, and where lines leave it and come in."""

    number: int
    gates: Gates


def _row(picture: Picture, row: int) -> Picture:
    """The nodes of one row, and the frames around them."""
    nodes = tuple(node for node in picture.nodes if node.row == row)
    parent = {cluster.id: cluster.parent for cluster in picture.clusters}
    frames: set[str | None] = set()
    for node in nodes:
        cluster = node.cluster
        while cluster is not None:
            frames.add(cluster)
            cluster = parent[cluster]
    return replace(picture, nodes=nodes, clusters=tuple(c for c in picture.clusters if c.id in frames))


def rows_of(picture: Picture) -> list[Row]:
    """The rows of a wrapped picture. Its lines pass through the frames around their ends, but for those far inside."""
    parent = {cluster.id: cluster.parent for cluster in picture.clusters}
    nodes = {node.id: node for node in picture.nodes}
    at_an_end = reaching(picture)
    count = 1 + max((node.row for node in picture.nodes), default=0)
    gates: list[dict[str, tuple[str | None, str]]] = [{} for _ in range(count)]
    for number, edge in enumerate(picture.edges):
        way_back = edge.kind == "backward"
        tail, head = (nodes[edge.head], nodes[edge.tail]) if way_back else (nodes[edge.tail], nodes[edge.head])
        if tail.row == head.row:
            continue
        name = _place_of_label(number) if way_back and edge.label else tail.id
        for gate, end, node in ((f"{name}_out", "sink", tail), (f"{name}_in", "source", head)):
            found = gates[node.row]
            frame = innermost_around(found.get(gate, (node.cluster, end))[0], node.cluster, parent)
            while frame is not None and (frame, node.row, end) not in at_an_end:
                frame = parent[frame]
            found[gate] = frame, end
    return [Row(number, found) for number, found in enumerate(gates)]


class _Canvas:
    """A graph being written: all of a picture, one row of it, or all of it in given places."""

    def __init__(self, graph: graphviz.Digraph, picture: Picture, row: Row | None, places: Places | None) -> None:
        self.graph = graph
        self.row = row
        self.places = places
        self.rows = {node.id: node.row for node in picture.nodes}
        self.rows |= {_place_of_label(i): self.rows[edge.head] for i, edge in enumerate(picture.edges)}
        self.left: set[str] = set()  # nodes with a line that leaves the row
        if places is not None:
            graph.graph_attr.update(places.graph)

    def shows(self, node: str) -> bool:
        """Whether a node is drawn."""
        return self.row is None or self.rows[node] == self.row.number

    def node(self, graph: graphviz.Digraph, name: str, label: str, **attributes: str) -> None:
        """A node in one of the frames."""
        if self.shows(name):
            place = self.places.nodes.get(name, {}) if self.places else {}
            graph.node(name, label, **attributes, **place)

    def edge(self, tail: str, head: str, **attributes: str) -> None:
        """An edge, or the end of it that lies in the row."""
        if self.places is not None:
            attributes |= self.places.edges.get(attributes["id"], {})
        if self.shows(tail) and self.shows(head):
            self.graph.edge(tail, head, **attributes)
        elif self.shows(tail):
            if tail not in self.left:  # one line for all that it leads to
                self.left.add(tail)
                kept = {name: attributes[name] for name in ("weight", "dir") if name in attributes}
                self.graph.edge(tail, f"{tail}_out", **kept, id=f"{tail}_out", arrowhead="none")
        elif self.shows(head):
            self.graph.edge(f"{tail}_in", head, **attributes)


def _legend(picture: Picture) -> str:
    kinds = {node.kind for node in picture.nodes}
    stopped = any(not node.gradient for node in picture.nodes if node.kind == "operation")
    stopped = stopped or any(not edge.gradient for edge in picture.edges)
    repeats = any(edge.kind == "repeat" for edge in picture.edges)
    return legend([k for k in KINDS if k in kinds], stopped, repeats, picture.notes)


def _draw_nodes(
    canvas: _Canvas,
    picture: Picture,
    beside: Mapping[str, str],
    images: Images,
    gates: Gates,
    direction: Direction,
) -> None:
    """All nodes, each in the frame of its cluster, leaves together with the operation they are docked `beside`.

    `gates` are points, each in a frame and at an end of the row, for the lines from and to other rows.
    """
    import graphviz

    frames: dict[str | None, graphviz.Digraph] = {None: canvas.graph}
    parent = {cluster.id: cluster.parent for cluster in picture.clusters}
    depth: dict[str | None, int] = {None: 0}
    inside: dict[str | None, list[str]] = {None: []}
    for cluster in picture.clusters:
        depth[cluster.id] = depth[cluster.parent] + 1
        inside[cluster.id] = []
        inside[cluster.parent].append(cluster.id)
        fill, border = CLUSTER[depth[cluster.id] % 2], CLUSTER[2]
        frames[cluster.id] = graphviz.Digraph(
            f"cluster_{cluster.id}",
            graph_attr={
                "id": cluster.id,
                "label": cluster_label(cluster, twice=canvas.row is not None and direction in ("TB", "BT")),
                "tooltip": graphviz.nohtml(tooltip(f"{cluster.path} {cluster.label}".strip())),
                "labelloc": "t",
                "style": "rounded,filled",
                "fillcolor": fill,
                "color": border if cluster.repeats == 1 else REPEAT,
                "margin": "8",
                **(canvas.places.frames.get(cluster.id, {}) if canvas.places else {}),
            },
        )
    leaves: dict[str, list[PictureNode]] = {}
    for node in picture.nodes:
        if node.id in beside:
            leaves.setdefault(beside[node.id], []).append(node)
        elif node.id in leaves:
            _draw_dock(canvas, frames[node.cluster], node, leaves[node.id], images)
        else:
            _draw_node(canvas, frames[node.cluster], node, images)
    cluster_of = {node.id: node.cluster for node in picture.nodes}
    for number, edge in enumerate(picture.edges):
        if edge.kind == "backward" and edge.label and edge.head in cluster_of:
            frame = innermost_around(cluster_of.get(edge.tail), cluster_of[edge.head], parent)
            look = {"shape": "plain", "fontsize": "9", "fontcolor": BACKWARD, "width": "0", "height": "0"}
            canvas.node(frames[frame], _place_of_label(number), edge_label(edge.label), id=f"e{number}_text", **look)
    for rank in ("source", "sink"):
        with canvas.graph.subgraph(graph_attr={"rank": rank}) as end:
            for name, (place, side) in gates.items():
                if side == rank:
                    frames[place].node(name, "", shape="point", width="0.01", height="0.01", style="invis")
                    end.node(name)
    # A subgraph is copied when it is put into another one: so the inner ones first.
    for outer in [*(cluster.id for cluster in reversed(picture.clusters)), None]:
        for inner in inside[outer]:
            frames[outer].subgraph(frames[inner])


def _place_of_label(number: int) -> str:
    """The node that holds the label of a contribution."""
    return f"e{number}_label"


def _draw_dock(
    canvas: _Canvas, graph: graphviz.Digraph, operation: PictureNode, leaves: list[PictureNode], images: Images
) -> None:
    """An operation with its own leaves beside it; an invisible frame keeps them together."""
    import graphviz

    frame = graphviz.Digraph(f"cluster_{operation.id}", graph_attr={"style": "invis", "margin": "0", "label": ""})
    row = graphviz.Digraph(graph_attr={"rank": "same"})
    for node in (*leaves, operation):
        _draw_node(canvas, row, node, images)
    frame.subgraph(row)
    graph.subgraph(frame)


def _draw_node(canvas: _Canvas, graph: graphviz.Digraph, node: PictureNode, images: Images) -> None:
    import graphviz

    look = LOOKS[node.kind]
    passes = node.gradient or not node.computed or node.kind == "error"
    fill, border = look.fill, look.border
    if node.backward and node.kind == "operation":
        fill, border = BACKWARD_FILL, BACKWARD
    attributes = {
        "id": node.id,
        "shape": look.shape,
        "style": look.style if passes else f"{look.style},dashed",
        "fillcolor": fill,
        "color": ALARM if node.alarm else border if passes else STOPPED,
        "margin": "0.04,0.01" if node.chip or node.kind == "sum" else "0.08,0.04",
        "tooltip": graphviz.nohtml(tooltip(description(node))),
    }
    if node.alarm:
        attributes["penwidth"] = "2.5"
    if look.lines > 1:
        attributes["peripheries"] = str(look.lines)
    if node.chip or node.kind == "sum":
        attributes["height"] = "0.2"
    if least_width(node) > LEAST_WIDTH:
        attributes["width"] = str(least_width(node))
    canvas.node(graph, node.id, node_label(node, images), **attributes)


def _draw_edge(
    canvas: _Canvas,
    number: int,
    edge: PictureEdge,
    tail: PictureNode,
    head: PictureNode,
    direction: Direction,
    across: bool,
) -> None:
    """An edge; `across` says that it runs across the direction of the picture, from a docked leaf.

    A recorded backward pass runs against the direction of the picture, below the forward pass.
    """
    import graphviz

    attributes = {
        "id": f"e{number}",
        "weight": STRAIGHTNESS.get(tail.kind, "1"),
        "tooltip": graphviz.nohtml(tooltip(f"{tail.title} → {head.title}")),
    }
    if head.kind == "error":
        attributes |= {"color": ALARM, "penwidth": "1.5"}
    elif not edge.gradient:
        attributes |= {"style": "dashed", "color": STOPPED}
    elif head.backward and tail.backward:
        attributes |= {"color": BACKWARD}
    if edge.label:
        attributes["label"] = edge_label(edge.label)
    back = head.backward and tail.backward
    if head.backward and not tail.backward:
        attributes["constraint"] = "false"
    name = head.operands[edge.operand] if not head.commutative and len(head.operands) > 1 else ""
    if name and not (tail.kind in LEAVES and tail.title.split(".")[-1] == name):  # which says it already
        horizontal = (direction in ("LR", "RL")) != across
        tight = horizontal or tail.cluster != head.cluster  # with a node or the border of a frame right behind
        if tight and len(name) > LONGEST_BESIDE and not back and "label" not in attributes:
            attributes["label"] = operand_label(name)  # which has room of its own
        else:
            attributes |= {"taillabel" if back else "headlabel": operand_label(name)}
            attributes |= _beside_head(len(name), horizontal)
    if back:
        canvas.edge(edge.head, edge.tail, dir="back", **attributes)
    else:
        canvas.edge(edge.tail, edge.head, **attributes)


def _draw_special_edge(
    canvas: _Canvas, number: int, edge: PictureEdge, tail: PictureNode, head: PictureNode, largest: float
) -> None:
    """A contribution on its way back, the way to a detached copy, or from one of several equal blocks to the next."""
    import graphviz

    attributes = {"id": f"e{number}", "tooltip": graphviz.nohtml(tooltip(f"{tail.title} → {head.title}"))}
    if edge.label:
        attributes["label"] = edge_label(edge.label)
    if edge.kind == "backward":  # written the other way round: it is to follow the layout, not to turn it over
        pen = f"{width(edge.norm, largest):.2f}"
        color = ALARM if edge.norm is not None and not math.isfinite(edge.norm) else BACKWARD
        attributes |= {"dir": "back", "color": color, "penwidth": pen}
        if attributes.pop("label", None) is None:
            canvas.edge(edge.head, edge.tail, **attributes)
        else:  # a label of its own place keeps the way back clear of the way there
            between = _place_of_label(number)
            canvas.edge(edge.head, between, **attributes)
            canvas.edge(between, edge.tail, **{**attributes, "id": f"e{number}_start", "dir": "none"})
    elif edge.kind == "detached":
        canvas.edge(edge.tail, edge.head, **attributes, style="dotted", color=STOPPED, arrowhead="tee")
    else:
        look = {"style": "dashed", "color": REPEAT, "fontcolor": REPEAT, "constraint": "false"}
        canvas.edge(edge.tail, edge.head, **attributes, **look)


def _beside_head(letters: int, horizontal: bool) -> dict[str, str]:
    """Where the name of an operand stands: beside the line, clear of the node. Measures are in points."""
    half_width, half_height = 2.2 * letters, 4.5
    along, aside = (half_width + 4.5, half_height + 3) if horizontal else (half_height + 5, half_width + 3)
    return {
        "labeldistance": f"{math.hypot(along, aside) / 10:.2f}",
        "labelangle": f"{-math.degrees(math.atan2(aside, along)):.0f}",
    }
