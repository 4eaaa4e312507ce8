"""Draws a backward pass into the picture of the forward pass: contributions on their way back, and where they meet."""

from __future__ import annotations

import math
from dataclasses import replace

from tinygrad_mm.drawing.picture import Picture, PictureEdge, PictureNode

__all__ = ["NOTE", "width", "with_backward"]

NOTE = "backward: each edge is labelled with its contribution's norm and the axes that broadcasting sums; Σ adds up"


def with_backward(picture: Picture) -> Picture:
    """The picture with an edge back for every edge whose contribution is known.

    Where several contributions to the gradient of one array meet, they go by way of a Σ.
    """
    carrying = [e for e in picture.edges if e.kind == "forward" and e.norm is not None]
    into: dict[tuple[str, str], list[PictureEdge]] = {}  # by the node and which of its results
    for edge in carrying:
        into.setdefault((edge.tail, edge.label), []).append(edge)
    nodes = {node.id: node for node in picture.nodes}
    sums: dict[str, list[PictureNode]] = {}
    back: list[PictureEdge] = []
    for (tail, _), edges in into.items():
        target = tail
        if len(edges) > 1:
            target = f"s{sum(map(len, sums.values()))}"
            origin = nodes[tail]
            node = PictureNode(target, "sum", "Σ", cluster=origin.cluster, notes=(f"gradient of {_name(origin)}",))
            sums.setdefault(tail, []).append(node)
            back.append(PictureEdge(target, tail, kind="backward", label=""))
        for edge in edges:
            axes = f"Σ axis {','.join(map(str, edge.axes))}" if edge.axes else ""
            words = " ".join(part for part in (f"{edge.norm:.3g}", axes) if part)
            back.append(PictureEdge(edge.head, target, kind="backward", label=words, norm=edge.norm))
    ordered = [n for node in picture.nodes for n in (node, *sums.get(node.id, ()))]
    notes = (*picture.notes, NOTE) if back else picture.notes
    return replace(picture, nodes=tuple(ordered), edges=(*picture.edges, *back), notes=notes)


def width(norm: float | None, largest: float) -> float:
    """The width of an edge by the norm of what it carries, in points: half a point less for each factor of ten.

    >>> width(5.0, 5.0), round(width(0.005, 5.0), 6), width(0.0, 5.0)
    (3.0, 1.5, 0.5)
    """
    if norm is None or not math.isfinite(norm):
        return 3.0
    if norm <= 0 or largest <= 0:
        return 0.5
    return max(0.5, 3.0 + 0.5 * math.log10(norm / largest))


def _name(node: PictureNode) -> str:
    return node.name or node.title
