"""Makes large pictures small: module calls as single nodes, operations in groups, long edges as references."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TypeAlias

from tinygrad_mm.drawing.order import columns
from tinygrad_mm.drawing.picture import LEAVES, Picture, PictureCluster, PictureEdge, PictureNode
from tinygrad_mm.drawing.repeats import rolled
from tinygrad_mm.drawing.rows import Plan, referring
from tinygrad_mm.graph import name_of
from tinygrad_mm.rules.indexing import checked

__all__ = [
    "LIMIT",
    "Fold",
    "without_checks",
    "fitted",
    "fitted_to_page",
    "folded",
    "grouped",
    "with_chosen_folded",
    "with_references",
]

LIMIT = 200  # nodes of a picture that can still be read; a larger one is folded by itself
ALIKE = 3  # so many equal blocks in a row are drawn as one
ALL = "show='everything' draws all of it"

Fold: TypeAlias = "str | Callable[[PictureCluster], bool] | Iterable[str | Callable[[PictureCluster], bool]]"


def fitted_to_page(picture: Picture, horizontal: bool) -> Picture:
    """The picture with functions of several operations as one box each, and folded further until it fits a page.

    Equal modules in a row are drawn once; where that is not enough, modules are folded, from the innermost on.
    """
    whole = sum(node.computed for node in picture.nodes)
    plain = folded(picture, {cluster.id for cluster in picture.clusters if cluster.function})
    if not picture.clusters or Plan(plain, horizontal).fits():
        return fitted(plain)
    level = levels(plain)
    deepest = max(level.values(), default=0)
    for depth in range(deepest + 1, 0, -1):
        smaller = rolled(to_depth(plain, depth), ALIKE, modules=2)
        if len(smaller.nodes) <= LIMIT and Plan(smaller, horizontal).fits():
            did = ["equal blocks in a row are drawn once"] if any(c.repeats > 1 for c in smaller.clusters) else []
            did += ["equal modules in a row are drawn once"] if any(n.repeats > 1 for n in smaller.nodes) else []
            did += [f"modules are folded to depth={depth}"] if depth <= deepest else []
            return _noted(smaller, f"to fit a page, as it has {whole:,} operations: {' and '.join(did)}")
    return fitted(plain)


def without_checks(picture: Picture) -> Picture:
    """The picture without calls that look at an array and pass it on."""
    source = {
        edge.head: edge
        for node in picture.nodes
        if node.title == name_of(checked) and node.kind == "operation"
        for edge in picture.into(node)
    }

    def origin(edge: PictureEdge) -> PictureEdge:
        while edge.tail in source:
            before = source[edge.tail]
            edge = replace(edge, tail=before.tail, label=before.label or edge.label)
        return edge

    def given(frame: PictureCluster) -> PictureCluster:
        edges = [(origin(PictureEdge(tail, "", label=label)), name) for tail, label, name in frame.arguments]
        return replace(frame, arguments=tuple((edge.tail, edge.label, name) for edge, name in edges))

    nodes = tuple(node for node in picture.nodes if node.id not in source)
    edges = tuple(origin(e) for e in picture.edges if e.head not in source)
    return replace(picture, nodes=nodes, edges=edges, clusters=tuple(map(given, picture.clusters)))


def _noted(picture: Picture, what: str) -> Picture:
    return replace(picture, notes=(*picture.notes, f"{what}; {ALL}"))


def fitted(picture: Picture, depth: int | None = None) -> Picture:
    """The picture folded to `depth`, and one past LIMIT folded further, which its notes say.

    Equal blocks in a row are drawn once; where that is not enough, modules are folded, from the innermost on; where
    there are none, operations that follow each other are drawn in groups.
    """
    whole = len(picture.nodes)
    if depth is None and whole <= LIMIT:
        return picture
    if depth is not None:
        picture = to_depth(picture, depth)
    smaller = rolled(picture, ALIKE)
    did = ["equal blocks in a row are drawn once"] if len(smaller.nodes) < len(picture.nodes) else []
    if depth is None:
        deepest = max(levels(picture).values(), default=-1)
        for depth in range(deepest, -1, -1):
            if len(smaller.nodes) <= LIMIT:
                break
            smaller = rolled(to_depth(picture, depth), ALIKE)
            did = ["equal blocks in a row are drawn once", f"modules folded to depth={depth}"]
    if len(smaller.nodes) > LIMIT:
        smaller = grouped(smaller, LIMIT // 2)
        did.append("operations in groups")
    if len(smaller.nodes) == len(picture.nodes) or whole <= LIMIT:
        return smaller
    return _noted(smaller, f"folded, as it has {whole:,} nodes: {', '.join(did)}")


def levels(picture: Picture) -> dict[str, int]:
    """How deep each module is: 0 for the outermost. The frames around whole passes do not count, nor do functions."""
    found: dict[str | None, int] = {None: -1}
    for cluster in picture.clusters:
        frame = cluster.parent is None and cluster.label in ("forward pass", "backward pass") and not cluster.path
        found[cluster.id] = found[cluster.parent] + (0 if frame or cluster.function else 1)
    return {cluster: level for cluster, level in found.items() if cluster is not None}


def to_depth(picture: Picture, depth: int) -> Picture:
    """The picture with every module call at that depth as one node; depth 0 folds the outermost."""
    level = levels(picture)
    return folded(picture, {cluster.id for cluster in picture.clusters if level[cluster.id] >= depth})


def with_chosen_folded(picture: Picture, fold: Fold) -> Picture:
    """The picture with those modules and functions folded that are named: by path, class or function, with wildcards.

    A predicate is called with each cluster.

    Raises ValueError for a pattern that nothing is called by, which says what there is.
    """
    wanted = [fold] if isinstance(fold, str) or callable(fold) else list(fold)
    chosen: set[str] = set()
    for one in wanted:
        found = {cluster.id for cluster in picture.clusters if _matches(cluster, one)}
        if isinstance(one, str) and not found:
            known = dict.fromkeys(name for c in picture.clusters for name in (c.path, c.label) if name)
            there = f"there are {', '.join(known)}" if known else "no module or function was called"
            raise ValueError(f"draw: fold={one!r} is the path or class of no module, nor a function; {there}")
        chosen |= found
    return folded(picture, chosen)


def _matches(cluster: PictureCluster, wanted: str | Callable[[PictureCluster], bool]) -> bool:
    if callable(wanted):
        return bool(wanted(cluster))
    return any(fnmatchcase(name, wanted) for name in (cluster.path, cluster.label) if name)


def folded(picture: Picture, chosen: set[str]) -> Picture:
    """The picture with each of these frames (by id) as one node."""
    into: dict[str | None, str] = {}  # id of a cluster -> the folded one around it (or itself)
    for cluster in picture.clusters:
        if cluster.parent in into:
            into[cluster.id] = into[cluster.parent]
        elif cluster.id in chosen:
            into[cluster.id] = cluster.id
    if not into:
        return picture
    groups, frames = _in_pieces(picture, into)

    def module(group: _Group) -> PictureNode:
        frame = frames[group.id]
        parameters = sum(math.prod(n.shape or ()) for n in group.members if n.kind == "parameter" and not n.chip)
        notes = [f"call {frame.call} of {frame.calls}"] if frame.calls > 1 and not frame.function else []
        notes += [f"{group.operations} operation{'s' if group.operations > 1 else ''}"]
        notes += [f"{parameters:,} parameters"] if parameters else []
        node = group.node(frame.label, frame.path or None, frame.parent, tuple(notes))
        return replace(node, kind="function", options=frame.options, commutative=False) if frame.function else node

    left = tuple(cluster for cluster in picture.clusters if cluster.id not in into)
    names = {(id, *argument[:2]): argument[2] for id, frame in frames.items() for argument in frame.arguments}
    return _merged(picture, groups, left, module, names)


def _in_pieces(picture: Picture, into: Mapping[str | None, str]) -> tuple[dict[str, str], dict[str, PictureCluster]]:
    """The group of each node to be folded, and the module call that each group is.

    A recorded backward pass comes back into calls that were over: what happens in a call then is a piece of its own,
    as nodes that stand for both would be before and after what came between.
    """
    frames = {cluster.id: cluster for cluster in picture.clusters}
    groups: dict[str, str] = {}
    found: dict[str, PictureCluster] = {}
    pieces: Counter[str] = Counter()
    before: str | None = None
    for node in picture.nodes:
        if not node.computed:
            continue
        cluster = into.get(node.cluster)
        if cluster is not None:
            if cluster != before:
                pieces[cluster] += 1
            group = cluster if pieces[cluster] == 1 else f"{cluster}_{pieces[cluster]}"
            groups[node.id] = group
            found[group] = frames[cluster]
        before = cluster
    users: dict[str, str] = {}
    for edge in picture.edges:
        users.setdefault(edge.tail, edge.head)
    for node in picture.nodes:
        if node.kind in LEAVES and node.cluster in into and users.get(node.id) in groups:
            groups[node.id] = groups[users[node.id]]
    return groups, found


def grouped(picture: Picture, most: int) -> Picture:
    """The picture with operations that follow each other in groups, so many that about `most` nodes are left."""
    computed = [node for node in picture.nodes if node.computed]
    size = max(2, math.ceil(2 * len(computed) / most))
    groups: dict[str, str] = {}
    count = number = 0
    before: PictureNode | None = None
    for node in computed:
        if node.kind == "error":
            before = None
            continue
        if before is None or before.cluster != node.cluster or before.backward != node.backward or count == size:
            count, number = 0, number + 1
        groups[node.id] = f"g{number}"
        count, before = count + 1, node
    members = Counter(groups.values())
    groups = {node: group for node, group in groups.items() if members[group] > 1}
    heads: dict[str, set[str]] = {}
    for edge in picture.edges:
        heads.setdefault(edge.tail, set()).add(groups.get(edge.head, edge.head))
    for node in picture.nodes:  # leaves that nothing outside a group uses are drawn with it
        users = heads.get(node.id, set())
        if node.kind in LEAVES and len(users) == 1 and users <= members.keys():
            groups[node.id] = next(iter(users))

    def run(group: _Group) -> PictureNode:
        titles = Counter(n.title for n in group.members if n.computed)
        common = ", ".join(f"{title} ×{times}" for title, times in titles.most_common(4))
        notes = (common + (", …" if len(titles) > 4 else ""),)
        return group.node(f"{group.operations} operations", None, group.members[-1].cluster, notes)

    return _merged(picture, groups, picture.clusters, run)


@dataclass
class _Group:
    """Nodes to be drawn as one, and those of them that something outside uses."""

    id: str
    members: list[PictureNode]
    results: list[PictureNode]

    @property
    def operations(self) -> int:
        return sum(max(node.inside, 1) * node.repeats for node in self.members if node.computed)

    def node(self, title: str, name: str | None, cluster: str | None, notes: tuple[str, ...]) -> PictureNode:
        one = self.results[0] if len(self.results) == 1 else None
        computed = [node for node in self.members if node.computed]
        return PictureNode(
            self.id,
            "module",
            title,
            shape=None if one is None else one.shape,
            dtype="" if one is None else one.dtype,
            name=name,
            commutative=True,
            gradient=any(node.gradient for node in computed),
            cluster=cluster,
            results=max(1, len(self.results)) if one is None else one.results,
            notes=notes,
            views=() if one is None else one.views,
            inside=self.operations,
            backward=computed[0].backward,
        )


def _merged(
    picture: Picture,
    groups: Mapping[str, str],
    clusters: Sequence[PictureCluster],
    draw: Callable[[_Group], PictureNode],
    names: Mapping[tuple[str, str, str], str] = MappingProxyType({}),
) -> Picture:
    """The picture with the nodes of each group (given by node id) as one node, which `draw` makes.

    `names` are those of operands, by the group and the tail and label of an edge that leads there. The operations of a
    group follow each other in time, so no circle can arise. The node stands where the last of them stood; a group
    without any is left as it is.
    """
    computed = {groups[node.id] for node in picture.nodes if node.computed and node.id in groups}
    groups = {node: group for node, group in groups.items() if group in computed}
    found = {group: _Group(group, [], []) for group in groups.values()}
    last = {}
    for node in picture.nodes:
        if node.id in groups:
            found[groups[node.id]].members.append(node)
            if node.computed:
                last[groups[node.id]] = node.id
    nodes = {node.id: node for node in picture.nodes}
    leaving = dict.fromkeys(
        edge.tail for edge in picture.edges if edge.tail in groups and groups.get(edge.head) != groups[edge.tail]
    )
    for tail in leaving:
        found[groups[tail]].results.append(nodes[tail])
    drawn = [
        draw(found[groups[node.id]]) if node.id in groups else node
        for node in picture.nodes
        if node.id not in groups or last[groups[node.id]] == node.id
    ]
    edges: list[PictureEdge] = []
    met: dict[tuple[str, str, str, str], int] = {}  # what leads into a group, by its ends -> place among the edges
    operands: dict[str, list[str]] = {group: [] for group in found}
    for edge in picture.edges:
        tail, head = groups.get(edge.tail, edge.tail), groups.get(edge.head, edge.head)
        if tail == head and edge.tail in groups:
            continue
        name, label = names.get((head, edge.tail, edge.label), ""), edge.label
        if edge.tail in groups and len(found[tail].results) > 1 and not label:
            label = str(nodes[edge.tail].shape)
        edge = replace(edge, tail=tail, head=head, label=label)
        if head in found:
            key = (tail, head, label, edge.kind)
            if key in met:
                edges[met[key]] = replace(edges[met[key]], norm=None, axes=())
                continue
            met[key] = len(edges)
            edge = replace(edge, operand=len(operands[head]))
            operands[head].append(name)
        edges.append(edge)
    drawn = [replace(n, operands=tuple(operands[n.id])) if n.id in found else n for n in drawn]
    return replace(picture, nodes=tuple(drawn), edges=tuple(edges), clusters=tuple(clusters))


MOST_CROSSED = 1000  # columns that all edges together may cross
FAR = 12  # columns that one edge crosses before it is cut


def with_references(picture: Picture) -> Picture:
    """The picture without edges between operations far from each other, if there are many of them.

    Each ends at a chip instead, which has the id of the operation as its name; a note on the operation says so.
    """
    place = columns(picture)
    nodes = {node.id: node for node in picture.nodes}
    spans = [
        place[e.head] - place[e.tail] if e.kind == "forward" and _same_side(nodes[e.tail], nodes[e.head]) else 0
        for e in picture.edges
    ]
    if sum(span for span in spans if span > 1) <= MOST_CROSSED:
        return picture
    return referring(
        picture,
        {
            i
            for i, (e, span) in enumerate(zip(picture.edges, spans, strict=True))
            if span > FAR and nodes[e.tail].computed
        },
    )


def _same_side(tail: PictureNode, head: PictureNode) -> bool:
    return tail.backward is head.backward
