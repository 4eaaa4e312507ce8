"""Cuts edges that would run past most of a picture: what is used far away is drawn there once more, as a chip.

Layout programs route an edge through every column that it crosses, and need minutes where hundreds of edges cross
hundreds of columns: the steps of a loop whose results are all used at its end.
"""

from __future__ import annotations

from dataclasses import replace

from tinygrad_mm.drawing.picture import Picture, PictureNode

__all__ = ["with_references"]

MOST_CROSSED = 1000  # columns that all edges together may cross
FAR = 12  # columns that one edge crosses before it is cut


def with_references(picture: Picture) -> Picture:
    """The picture without edges between operations far from each other, if there are many of them.

    Each ends at a chip instead, which has the id of the operation as its name; a note on the operation says so.
    """
    columns = _columns(picture)
    nodes = {node.id: node for node in picture.nodes}
    spans = [
        columns[e.head] - columns[e.tail] if e.kind == "forward" and _same_side(nodes[e.tail], nodes[e.head]) else 0
        for e in picture.edges
    ]
    if sum(span for span in spans if span > 1) <= MOST_CROSSED:
        return picture
    chips: dict[tuple[str, str], PictureNode] = {}  # by what it refers to and where it is used
    edges = []
    for edge, span in zip(picture.edges, spans, strict=True):
        origin, user = nodes[edge.tail], nodes[edge.head]
        if span > FAR and origin.computed:
            chip = PictureNode(
                *(f"{edge.tail}_{edge.head}", origin.kind, f"{origin.name or origin.title} {edge.tail}"),
                gradient=origin.gradient,
                cluster=user.cluster,
                chip=True,
                backward=origin.backward,
            )
            chip = chips.setdefault((edge.tail, edge.head), chip)
            edge = replace(edge, tail=chip.id)
        edges.append(edge)
    before: dict[str, list[PictureNode]] = {}
    for (_, head), chip in chips.items():
        before.setdefault(head, []).append(chip)
    referred = {tail for tail, _ in chips}
    drawn = []
    for node in picture.nodes:
        note = (f"further on: {node.id}",) if node.id in referred else ()
        drawn += [*before.get(node.id, ()), replace(node, notes=(*node.notes, *note))]
    return replace(picture, nodes=tuple(drawn), edges=tuple(edges))


def _columns(picture: Picture) -> dict[str, int]:
    """About where each node will stand: after everything it was computed from."""
    columns: dict[str, int] = {node.id: 0 for node in picture.nodes}
    incoming: dict[str, list[str]] = {}
    for edge in picture.edges:
        if edge.kind in ("forward", "detached"):
            incoming.setdefault(edge.head, []).append(edge.tail)
    for node in picture.nodes:
        columns[node.id] = 1 + max((columns[tail] for tail in incoming.get(node.id, ())), default=-1)
    leaves = {node.id for node in picture.nodes if not node.computed and node.id not in incoming}
    for edge in reversed(picture.edges):  # a leaf stands beside what uses it first
        if edge.tail in leaves:
            columns[edge.tail] = columns[edge.head] - 1
    return columns


def _same_side(tail: PictureNode, head: PictureNode) -> bool:
    return tail.backward is head.backward
