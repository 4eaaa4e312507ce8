"""Where nodes belong, whatever a layout program would do: beside their operations, behind what comes before them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter

from tinygrad_mm.drawing.picture import Picture, PictureEdge, PictureNode

__all__ = ["columns", "docked", "innermost_around", "sequence"]


def columns(picture: Picture) -> dict[str, int]:
    """About where each node will stand: behind everything it was computed from, a leaf before what uses it first.

    What is computed from leaves alone stands there too, and a leaf that is docked beside its operation.
    """
    beside = {} if any(edge.kind == "backward" for edge in picture.edges) else docked(picture)
    after: dict[str, set[str]] = {}
    for edge in picture.edges:
        if edge.kind in ("forward", "detached"):
            after.setdefault(edge.head, set()).add(edge.tail)
        elif edge.kind == "backward":  # so that a sum stands behind the array whose gradient it is
            after.setdefault(edge.tail, set()).add(edge.head)
    leaves = {node.id for node in picture.nodes if not node.computed and node.id not in after}
    late = {node.id for node in picture.nodes if after.get(node.id, set()) <= leaves}
    for above, below in sequence(picture, beside):
        after.setdefault(below, set()).add(above)
    # A leaf is listed before what uses it, but may have to stand behind something that is listed later.
    waiting = TopologicalSorter({node.id: after.get(node.id, ()) for node in picture.nodes})
    found: dict[str, int] = {}
    order = list(waiting.static_order())
    for node in order:
        found[node] = 1 + max((found[other] for other in after.get(node, ()) if other not in beside), default=-1)
    first: dict[str, int] = {}  # of those that use a node
    for node in reversed(order):
        if node in late and node in first:
            found[node] = max(found[node], first[node] - 1)
        for other in after.get(node, ()):
            first[other] = min(first.get(other, found[node]), found[node])
    return {node.id: found[beside.get(node.id, node.id)] for node in picture.nodes}


def docked(picture: Picture) -> dict[str, str]:
    """Leaves that stand directly beside the one operation that uses them, as {leaf: operation}.

    Weights, buffers, constants and chips of any kind can be docked; inputs only beside an operation in the same frame
    with an operand that was computed, as labels beside a loss. Each operation has room for one, and one of its operands
    always stays on the way that data take.
    """
    nodes = {node.id: node for node in picture.nodes}
    edges = [edge for edge in picture.edges if edge.kind != "backward"]
    uses = Counter(edge.tail for edge in edges)
    into: dict[str, list[PictureNode]] = {}
    for edge in edges:
        into.setdefault(edge.head, []).append(nodes[edge.tail])
    found = {}
    for head, tails in into.items():
        if not nodes[head].computed:
            continue
        on_the_way = any(tail.computed for tail in tails)
        leaves = [leaf for leaf in tails if _can_dock(leaf, nodes[head], on_the_way) and uses[leaf.id] == 1]
        if len(leaves) == len(tails):  # then rather a constant than a weight
            leaves = [leaf for leaf in leaves if leaf.kind == "constant"] or leaves
        if leaves and len(tails) > 1:
            found[leaves[-1].id] = head
    return found


def _can_dock(node: PictureNode, operation: PictureNode, on_the_way: bool) -> bool:
    late = node.kind == "input" and on_the_way and not node.gradient and node.cluster == operation.cluster
    return node.chip or late or node.kind in ("parameter", "buffer", "constant")


def sequence(picture: Picture, beside: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Invisible edges, as (tail, head), which put one layer after the other instead of below it.

    They lead from the array that enters a layer to the leaves inside, but for those docked `beside` an operation.
    That array was there before the layer's first operation, so no such edge can close a circle.
    """
    place = {node.id: number for number, node in enumerate(picture.nodes)}
    cluster_of = {node.id: node.cluster for node in picture.nodes}
    parent = {cluster.id: cluster.parent for cluster in picture.clusters}
    operations = {node.id for node in picture.nodes if node.computed}

    def around(cluster: str | None) -> Iterator[str]:
        while cluster is not None:
            yield cluster
            cluster = parent[cluster]

    def latest(one: str, other: str) -> str:
        """Of two arrays the one computed last; what was computed comes before what was given."""
        return max(one, other, key=lambda node: (node in operations, place[node]))

    begins: dict[str, int] = {}  # where the first operation of a cluster stands
    for node in picture.nodes:
        for cluster in around(node.cluster) if node.id in operations else ():
            begins.setdefault(cluster, place[node.id])
    enters: dict[str, str] = {}  # the array that enters a cluster
    for edge in picture.edges:
        if edge.kind != "forward":
            continue
        for cluster in _entered(edge, cluster_of, around):
            if place[edge.tail] < begins.get(cluster, 0):
                enters[cluster] = latest(edge.tail, enters.get(cluster, edge.tail))
    for node in picture.nodes:
        if node.id not in operations and node.id not in beside and node.kind != "sum":
            entering = next((enters[cluster] for cluster in around(node.cluster) if cluster in enters), None)
            if entering is not None:
                yield entering, node.id


def _entered(
    edge: PictureEdge, cluster_of: dict[str, str | None], around: Callable[[str | None], Iterator[str]]
) -> Iterator[str]:
    """The clusters that an edge leads into, the inner before the outer."""
    outside = set(around(cluster_of[edge.tail]))
    return itertools.takewhile(lambda cluster: cluster not in outside, around(cluster_of[edge.head]))


def innermost_around(one: str | None, other: str | None, parent: Mapping[str, str | None]) -> str | None:
    """The innermost cluster around two clusters."""
    around: list[str | None] = []
    while one is not None:
        around.append(one)
        one = parent[one]
    while other is not None and other not in around:
        other = parent[other]
    return other
