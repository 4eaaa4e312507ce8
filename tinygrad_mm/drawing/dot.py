"""Writes a picture in DOT, the language of Graphviz, by way of the `graphviz` package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from tinygrad_mm.drawing.labels import cluster_label, edge_label, legend, node_label, tooltip
from tinygrad_mm.drawing.picture import KINDS, Kind, Picture, PictureEdge, PictureNode
from tinygrad_mm.drawing.theme import CLUSTER, EDGE, FONT, INK, LOOKS, QUIET, STOPPED

if TYPE_CHECKING:
    import graphviz

__all__ = ["DIRECTIONS", "Direction", "digraph"]

Direction: TypeAlias = Literal["LR", "RL", "TB", "BT"]

# The side of an operation where its operands come in, as a point of the compass.
DIRECTIONS: dict[Direction, str] = {"LR": "w", "RL": "e", "TB": "n", "BT": "s"}


# How much a layout program tries to keep an edge short and straight: the way of the data is to be the spine.
STRAIGHTNESS: dict[Kind, str] = {"operation": "8", "input": "3"}


def digraph(picture: Picture, direction: Direction = "LR") -> graphviz.Digraph:
    """The picture as a `graphviz.Digraph`, drawn from left to right ("LR") or in another of the four directions."""
    import graphviz

    graph = graphviz.Digraph(
        graph_attr={
            "rankdir": direction,
            "newrank": "true",  # one ranking for all: inside frames too, an operand stands before its operation
            "fontname": FONT,
            "fontsize": "10",
            "fontcolor": INK,
            "nodesep": "0.18",
            "ranksep": "0.35",
            "pad": "0.15",
            "labelloc": "b",
            "labeljust": "l",
            "label": _legend(picture),
        },
        node_attr={"fontname": FONT, "fontsize": "11", "fontcolor": INK, "height": "0.3", "width": "0.3"},
        edge_attr={"fontname": FONT, "fontsize": "8", "fontcolor": QUIET, "color": EDGE, "arrowsize": "0.6"},
    )
    frames = {cluster.id: _frame(cluster.id) for cluster in picture.clusters}
    depth = {None: 0}
    for cluster in picture.clusters:
        depth[cluster.id] = depth[cluster.parent] + 1
        frames[cluster.id].attr(label=cluster_label(cluster), fillcolor=CLUSTER[depth[cluster.id] % 2])
    for node in picture.nodes:
        if node.cluster is not None:
            _draw_node(frames[node.cluster], node, direction)
    inside: dict[str | None, list[str]] = {}
    for cluster in picture.clusters:
        inside.setdefault(cluster.parent, []).append(cluster.id)
    for outer in reversed(picture.clusters):  # a subgraph is copied when it is put in, so inner frames come first
        for inner in inside.get(outer.id, ()):
            frames[outer.id].subgraph(frames[inner])
    for outermost in inside.get(None, ()):
        graph.subgraph(frames[outermost])
    for node in picture.nodes:
        if node.cluster is None:
            _draw_node(graph, node, direction)
    nodes = {node.id: node for node in picture.nodes}
    for edge in picture.edges:
        _draw_edge(graph, edge, nodes[edge.tail], nodes[edge.head], direction)
    for tail, head in sequence(picture):
        graph.edge(tail, head, style="invis", weight="0")
    return graph


def sequence(picture: Picture) -> Iterator[tuple[str, str]]:
    """Invisible edges that put one layer after the other instead of below it.

    A weight needs nothing, so a layout program would put it, and with it the frame of its layer, beside the layer
    before. These edges, as (tail, head), lead from the array that enters a layer to the leaves drawn inside. That
    array was there before the layer's first operation, so no edge can close a circle.
    """
    place = {node.id: number for number, node in enumerate(picture.nodes)}
    cluster_of = {node.id: node.cluster for node in picture.nodes}
    parent = {cluster.id: cluster.parent for cluster in picture.clusters}
    operations = {node.id for node in picture.nodes if node.kind == "operation"}

    def around(cluster: str | None) -> Iterator[str]:
        while cluster is not None:
            yield cluster
            cluster = parent[cluster]

    begins: dict[str, int] = {}  # where the first operation of a cluster stands
    for node in picture.nodes:
        for cluster in around(node.cluster) if node.id in operations else ():
            begins.setdefault(cluster, place[node.id])
    enters: dict[str, str] = {}  # the array that enters a cluster: the last one computed, else the last one given
    for edge in picture.edges:
        outside = set(around(cluster_of[edge.tail]))
        for cluster in around(cluster_of[edge.head]):
            if cluster in outside:
                break
            if place[edge.tail] < begins[cluster]:
                enters[cluster] = max(
                    edge.tail, enters.get(cluster, edge.tail), key=lambda n: (n in operations, place[n])
                )
    for node in picture.nodes:
        if node.id not in operations:
            entering = next((enters[cluster] for cluster in around(node.cluster) if cluster in enters), None)
            if entering is not None:
                yield entering, node.id


def _legend(picture: Picture) -> str:
    kinds = {node.kind for node in picture.nodes}
    stopped = any(not node.gradient for node in picture.nodes if node.kind == "operation")
    return legend([k for k in KINDS if k in kinds], stopped or any(not edge.gradient for edge in picture.edges))


def _frame(name: str) -> graphviz.Digraph:
    import graphviz

    return graphviz.Digraph(
        f"cluster_{name}",
        graph_attr={"style": "rounded,filled", "color": CLUSTER[2], "labeljust": "l", "labelloc": "t", "margin": "8"},
    )


def _draw_node(graph: graphviz.Digraph, node: PictureNode, direction: Direction) -> None:
    import graphviz

    look = LOOKS[node.kind]
    attributes = {"shape": look.shape, "tooltip": graphviz.nohtml(tooltip(node))}
    if node.kind != "operation":
        attributes |= {"style": "filled", "fillcolor": look.fill, "color": look.border, "margin": "0.08,0.04"}
    if look.lines > 1:
        attributes["peripheries"] = str(look.lines)
    if node.chip:
        attributes |= {"margin": "0.04,0.01", "height": "0.2"}
    graph.node(node.id, node_label(node, sideways=direction in ("LR", "RL")), **attributes)


def _draw_edge(
    graph: graphviz.Digraph, edge: PictureEdge, tail: PictureNode, head: PictureNode, direction: Direction
) -> None:
    port = f":p{edge.operand}:{DIRECTIONS[direction]}" if len(head.operands) > 1 else ""
    attributes = {"weight": STRAIGHTNESS.get(tail.kind, "1")}
    if not edge.gradient:
        attributes |= {"style": "dashed", "color": STOPPED}
    graph.edge(edge.tail, edge.head + port, edge_label(edge.label) if edge.label else None, **attributes)
