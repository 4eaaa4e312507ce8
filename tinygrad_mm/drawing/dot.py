"""Writes a picture in DOT, the language of Graphviz, by way of the `graphviz` package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from tinygrad_mm.drawing.labels import (
    LEAST_WIDTH,
    cluster_label,
    description,
    edge_label,
    least_width,
    legend,
    node_label,
    operand_label,
    tooltip,
)
from tinygrad_mm.drawing.layout import docked, sequence
from tinygrad_mm.drawing.picture import KINDS, Kind, Picture, PictureEdge, PictureNode
from tinygrad_mm.drawing.theme import CLUSTER, EDGE, FONT, INK, LOOKS, QUIET, STOPPED

if TYPE_CHECKING:
    import graphviz

__all__ = ["DIRECTIONS", "Direction", "digraph"]

Direction: TypeAlias = Literal["LR", "RL", "TB", "BT"]
DIRECTIONS: tuple[Direction, ...] = ("LR", "RL", "TB", "BT")

# How much a layout program tries to keep an edge short and straight: the way of the data is to be the spine.
STRAIGHTNESS: dict[Kind, str] = {"operation": "8", "input": "3"}


def digraph(picture: Picture, direction: Direction = "LR") -> graphviz.Digraph:
    """The picture as a `graphviz.Digraph`, drawn from left to right ("LR") or in another of the four directions."""
    import graphviz

    graph = graphviz.Digraph(
        "computation graph",
        graph_attr={
            "rankdir": direction,
            "newrank": "true",  # one ranking for all: inside frames too, an operand stands before its operation
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
        edge_attr={"fontname": FONT, "fontsize": "8", "fontcolor": QUIET, "color": EDGE, "arrowsize": "0.6"},
    )
    beside = docked(picture)
    _draw_nodes(graph, picture, beside)
    nodes = {node.id: node for node in picture.nodes}
    for edge in picture.edges:
        _draw_edge(graph, edge, nodes[edge.tail], nodes[edge.head], direction, across=edge.tail in beside)
    for tail, head in sequence(picture, beside):
        graph.edge(tail, head, style="invis", weight="0")
    return graph


def _legend(picture: Picture) -> str:
    kinds = {node.kind for node in picture.nodes}
    stopped = any(not node.gradient for node in picture.nodes if node.kind == "operation")
    return legend([k for k in KINDS if k in kinds], stopped or any(not edge.gradient for edge in picture.edges))


def _draw_nodes(graph: graphviz.Digraph, picture: Picture, beside: Mapping[str, str]) -> None:
    """All nodes, each in the frame of its cluster, leaves together with the operation they are docked `beside`."""
    import graphviz

    frames: dict[str | None, graphviz.Digraph] = {None: graph}
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
                "label": cluster_label(cluster),
                "tooltip": graphviz.nohtml(tooltip(f"{cluster.path} {cluster.label}".strip())),
                "labelloc": "t",
                "style": "rounded,filled",
                "fillcolor": fill,
                "color": border,
                "margin": "8",
            },
        )
    leaves: dict[str, list[PictureNode]] = {}
    for node in picture.nodes:
        if node.id in beside:
            leaves.setdefault(beside[node.id], []).append(node)
        elif node.id in leaves:
            _draw_dock(frames[node.cluster], node, leaves[node.id])
        else:
            _draw_node(frames[node.cluster], node)
    # A subgraph is copied when it is put into another one: so the inner ones first.
    for outer in [*(cluster.id for cluster in reversed(picture.clusters)), None]:
        for inner in inside[outer]:
            frames[outer].subgraph(frames[inner])


def _draw_dock(graph: graphviz.Digraph, operation: PictureNode, leaves: list[PictureNode]) -> None:
    """An operation with its own leaves beside it; an invisible frame keeps them together."""
    import graphviz

    frame = graphviz.Digraph(f"cluster_{operation.id}", graph_attr={"style": "invis", "margin": "0", "label": ""})
    row = graphviz.Digraph(graph_attr={"rank": "same"})
    for node in (*leaves, operation):
        _draw_node(row, node)
    frame.subgraph(row)
    graph.subgraph(frame)


def _draw_node(graph: graphviz.Digraph, node: PictureNode) -> None:
    import graphviz

    look = LOOKS[node.kind]
    attributes = {
        "shape": look.shape,
        "style": look.style if node.gradient or node.kind != "operation" else f"{look.style},dashed",
        "fillcolor": look.fill,
        "color": look.border if node.gradient or node.kind != "operation" else STOPPED,
        "margin": "0.04,0.01" if node.chip else "0.08,0.04",
        "tooltip": graphviz.nohtml(tooltip(description(node))),
    }
    if look.lines > 1:
        attributes["peripheries"] = str(look.lines)
    if node.chip:
        attributes["height"] = "0.2"
    if least_width(node) > LEAST_WIDTH:
        attributes["width"] = str(least_width(node))
    graph.node(node.id, node_label(node), **attributes)


def _draw_edge(
    graph: graphviz.Digraph, edge: PictureEdge, tail: PictureNode, head: PictureNode, direction: Direction, across: bool
) -> None:
    """An edge; `across` says that it runs across the direction of the picture, from a docked leaf."""
    import graphviz

    attributes = {
        "weight": STRAIGHTNESS.get(tail.kind, "1"),
        "tooltip": graphviz.nohtml(tooltip(f"{tail.title} → {head.title}")),
    }
    if not edge.gradient:
        attributes |= {"style": "dashed", "color": STOPPED}
    if edge.label:
        attributes["label"] = edge_label(edge.label)
    if not head.commutative and len(head.operands) > 1:
        name = head.operands[edge.operand]
        horizontal = (direction in ("LR", "RL")) != across
        attributes |= {"headlabel": operand_label(name), **_beside_head(len(name), horizontal)}
    graph.edge(edge.tail, edge.head, **attributes)


def _beside_head(letters: int, horizontal: bool) -> dict[str, str]:
    """Where the name of an operand stands: beside the line, clear of the node. Measures are in points."""
    half_width, half_height = 1.9 * letters, 4.0
    along, aside = (half_width + 4.5, half_height + 3) if horizontal else (half_height + 5, half_width + 3)
    return {
        "labeldistance": f"{math.hypot(along, aside) / 10:.2f}",
        "labelangle": f"{-math.degrees(math.atan2(aside, along)):.0f}",
    }
