"""Pictures longer than a page in rows, one below the other, as text is broken into lines.

How much room a layout program will need is estimated from letters and cells, so that a picture is the same whichever
program draws it, and whether there is one or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from tinygrad_mm.drawing.labels import size_of
from tinygrad_mm.drawing.order import columns
from tinygrad_mm.drawing.picture import LEAVES, Picture, PictureCluster, PictureEdge, PictureNode

__all__ = ["PAGE", "WIDEST", "Plan", "reaching", "referring", "wrapped"]

# A page is A4. A picture that is shown as wide as one, 794 pixels, is as many points wide at most, so that its
# letters of 9 points are 9 pixels high.
PAGE = (770.0, 1080.0)  # points
NARROW = 560.0  # points; a picture that is no longer than this is left in one row
WIDEST = 1.9  # width to height

GAP = 27.0  # points between two columns
BESIDE = 20.0  # between two nodes of a column
FRAME = 10.0  # at each side of a frame
TITLE = 22.0  # of a frame
BETWEEN_ROWS = 28.0  # for the lines that lead from one row to the next
LEGEND = 45.0


def wrapped(picture: Picture, horizontal: bool = True, longest: float | None = None, widest: float = WIDEST) -> Picture:
    """The picture with a row for each node, so that no row is longer than a page and the whole not too wide.

    `longest` is the length of a row, in points, where that is not to be a page's, and `widest` width to height.

    Frames that lie in several rows are drawn in pieces. What is used further on than the next row, and every leaf that
    is used in another row, has a chip there. A picture that is not `horizontal` goes from the top down, and its rows
    stand side by side.
    """
    rows = Plan(picture, horizontal, longest, widest).rows()
    if not any(rows.values()):
        return picture
    picture = replace(picture, nodes=tuple(replace(node, row=rows[node.id]) for node in picture.nodes))
    nodes = {node.id: node for node in picture.nodes}

    at_an_end = reaching(picture)
    parent = {cluster.id: cluster.parent for cluster in picture.clusters}

    def inside(node: PictureNode) -> bool:
        """Whether it lies in a frame that begins in the middle of its row, so that a line would run through a title."""
        frame = node.cluster
        while frame is not None and (frame, node.row, "source") in at_an_end:
            frame = parent[frame]
        return frame is not None

    def far(edge: PictureEdge) -> bool:
        tail, head = nodes[edge.tail], nodes[edge.head]
        apart = abs(head.row - tail.row)
        later = tail if edge.kind == "backward" else head
        return apart > 1 or (apart == 1 and (edge.kind == "repeat" or tail.kind in LEAVES or inside(later)))

    return _frames_in_pieces(referring(picture, {i for i, edge in enumerate(picture.edges) if far(edge)}))


def reaching(picture: Picture) -> set[tuple[str, int, str]]:
    """Which frames reach the beginning ("source") or the end ("sink") of which rows of a wrapped picture."""
    place = columns(picture)
    parent = {cluster.id: cluster.parent for cluster in picture.clusters}
    inside: dict[int, list[PictureNode]] = {}
    for node in picture.nodes:
        inside.setdefault(node.row, []).append(node)
    found: set[tuple[str, int, str]] = set()
    for row, nodes in inside.items():
        ends = {"source": min(place[n.id] for n in nodes), "sink": max(place[n.id] for n in nodes)}
        for node in nodes:
            for end, column in ends.items():
                frame = node.cluster if place[node.id] == column else None
                while frame is not None:
                    found.add((frame, row, end))
                    frame = parent[frame]
    return found


def referring(picture: Picture, cut: set[int]) -> Picture:
    """The picture with some edges (by number) cut: a chip stands for the node at the far end.

    What is on its way from an array has a chip of it beside the operation that it leads to, what is on its way back, or
    to the next of several equal blocks, one of where it goes. The chip of an operation has its id as a name, and a note
    on the operation says so.
    """
    nodes = {node.id: node for node in picture.nodes}
    chips: dict[tuple[str, str], PictureNode] = {}  # by what it refers to, and by what it stands beside
    edges = []
    for number, edge in enumerate(picture.edges):
        if number in cut:
            there = edge.kind in ("forward", "detached")
            origin, user = (nodes[edge.tail], nodes[edge.head]) if there else (nodes[edge.head], nodes[edge.tail])
            title = f"{origin.name or origin.title} {origin.id}" if origin.computed else origin.title
            if origin.kind == "sum":
                title = " ".join((origin.title, *origin.notes))
            chip = PictureNode(
                f"{origin.id}_{user.id}",
                origin.kind,
                title,
                gradient=origin.gradient,
                cluster=user.cluster,
                chip=True,
                backward=origin.backward,
                row=user.row,
            )
            chip = chips.setdefault((origin.id, user.id), chip)
            edge = replace(edge, tail=chip.id) if there else replace(edge, head=chip.id)
        edges.append(edge)
    beside: dict[str, list[PictureNode]] = {}
    for (_, beside_what), chip in chips.items():
        beside.setdefault(beside_what, []).append(chip)
    referred = {origin for origin, _ in chips if nodes[origin].computed}
    drawn: list[PictureNode] = []
    for node in picture.nodes:
        note = (f"further on: {node.id}",) if node.id in referred else ()
        drawn += [*beside.get(node.id, ()), replace(node, notes=(*node.notes, *note))]
    return replace(picture, nodes=tuple(drawn), edges=tuple(edges))


@dataclass(frozen=True)
class Plan:
    """Where the nodes of a picture will stand, and how large it will be, estimated."""

    picture: Picture
    horizontal: bool = True
    longest: float | None = None  # of a row; by default that of a page
    widest: float = WIDEST  # width to height

    @cached_property
    def columns(self) -> dict[str, int]:
        """The column of each node."""
        return columns(self.picture)

    @cached_property
    def lengths(self) -> list[float]:
        """Of each column, with the gap behind it."""
        return [column[0] for column in self._columns]

    @cached_property
    def heights(self) -> list[float]:
        """Of each column, across the direction of the picture."""
        return [column[1] for column in self._columns]

    @cached_property
    def _columns(self) -> list[tuple[float, float]]:
        count = 1 + max(self.columns.values(), default=0)
        lengths, heights = [0.0] * count, [0.0] * count
        deepest = [0] * count
        depth: dict[str | None, int] = {None: 0}
        for cluster in self.picture.clusters:
            depth[cluster.id] = depth[cluster.parent] + 1
        for node in self.picture.nodes:
            size = size_of(node)
            along, across = size if self.horizontal else size[::-1]
            column = self.columns[node.id]
            lengths[column] = max(lengths[column], along)
            heights[column] += across + BESIDE
            deepest[column] = max(deepest[column], depth[node.cluster])
        borders = [0] * (count + 1)
        for first, last in self._reach().values():
            borders[first] += 1
            borders[last + 1] += 1
        way_back = 35.0 if any(edge.kind == "backward" and edge.label for edge in self.picture.edges) else 0.0
        return [
            (
                lengths[i] + (GAP + way_back if lengths[i] else 0) + FRAME * borders[i],
                heights[i] + deepest[i] * (TITLE + FRAME),
            )
            for i in range(count)
        ]

    def _reach(self) -> dict[str, tuple[int, int]]:
        """The first and the last column of each frame."""
        parent = {cluster.id: cluster.parent for cluster in self.picture.clusters}
        found: dict[str, tuple[int, int]] = {}
        for node in self.picture.nodes:
            column, cluster = self.columns[node.id], node.cluster
            while cluster is not None:
                first, last = found.get(cluster, (column, column))
                found[cluster] = min(first, column), max(last, column)
                cluster = parent[cluster]
        return found

    def size(self) -> tuple[float, float]:
        """Width and height of the wrapped picture, in points."""
        extents = list(self._extents(self.cuts()))
        along = max((length for length, _ in extents), default=0.0)
        across = sum(height + BETWEEN_ROWS for _, height in extents)
        width, height = (along, across) if self.horizontal else (across, along)
        return width, height + LEGEND

    def fits(self) -> bool:
        """Whether it will fit a page."""
        width, height = self.size()
        return width <= PAGE[0] and height <= PAGE[1]

    def _extents(self, cuts: list[int]) -> Iterator[tuple[float, float]]:
        """Length and height of each row."""
        for first, last in zip([0, *cuts], [*cuts, len(self.lengths)], strict=True):
            yield sum(self.lengths[first:last]), max(self.heights[first:last], default=0.0)

    def rows(self) -> dict[str, int]:
        """The row of each node; a leaf is in that of its first user."""
        cuts = self.cuts()
        found = {node: sum(cut <= column for cut in cuts) for node, column in self.columns.items()}
        used: set[str] = set()
        for edge in self.picture.edges:
            if edge.kind == "forward" and edge.tail not in used:
                used.add(edge.tail)
                if self._nodes[edge.tail].kind in LEAVES:
                    found[edge.tail] = found[edge.head]
        numbers = {row: number for number, row in enumerate(sorted(set(found.values())))}  # none is empty
        return {node: numbers[row] for node, row in found.items()}

    @cached_property
    def _nodes(self) -> dict[str, PictureNode]:
        return {node.id: node for node in self.picture.nodes}

    def cuts(self) -> list[int]:
        """The columns before which a new row begins: as few as will do, where little is cut apart."""
        total = sum(self.lengths)
        page = PAGE[0 if self.horizontal else 1]
        longest = min(total, self.longest or page)
        if total <= NARROW or any(node.backward for node in self.picture.nodes):
            return []
        while True:
            cuts = self._cuts(longest)
            extents = list(self._extents(cuts))
            length, height = max(e[0] for e in extents), sum(e[1] + BETWEEN_ROWS for e in extents) + LEGEND
            if not self.horizontal or length <= self.widest * height or longest <= NARROW:
                outputs = {self.columns[node.id] for node in self.picture.nodes if node.kind == "output"}
                alone = len(cuts) == 1 and set(range(cuts[0], len(self.lengths))) <= outputs
                return [] if alone and total <= page else cuts
            longest = max(NARROW, min(longest, length) * 0.9)

    def _cuts(self, longest: float) -> list[int]:
        """The cheapest cuts (by dynamic programming over the columns) that leave no row longer than this."""
        count = len(self.lengths)
        if sum(self.lengths) <= longest:
            return []
        costs = self._costs
        best: list[tuple[float, int]] = [(0.0, 0)]  # up to each column: the cost, and where its row begins
        for end in range(1, count + 1):
            length, found = 0.0, (math.inf, end - 1)
            for start in range(end - 1, -1, -1):
                length += self.lengths[start]
                if length > longest and start < end - 1:
                    break
                ragged = 0.0 if end == count else 4.0 * (1 - length / longest) ** 2
                found = min(found, (best[start][0] + (costs[start] if start else 0.0) + ragged, start))
            best.append(found)
        cuts = []
        end = count
        while end:
            end = best[end][1]
            cuts.append(end)
        return [cut for cut in reversed(cuts) if cut]

    @cached_property
    def _costs(self) -> list[float]:
        """What it costs to begin a row at each column: lines that are cut, and frames (the inner ones count more)."""
        costs = [4.0] * len(self.lengths)
        used: set[str] = set()
        for edge in self.picture.edges:
            leaf = self._nodes[edge.tail].kind in LEAVES
            if not leaf or edge.tail not in used:  # further on, a leaf has chips
                used.add(edge.tail)
                ends = sorted((self.columns[edge.tail], self.columns[edge.head]))
                to_output = self._nodes[edge.head].kind == "output"  # which would stand alone in its row
                for column in range(ends[0] + 1, ends[1] + 1):
                    costs[column] += 1.0 if edge.kind == "forward" and not to_output and not leaf else 10.0
        depth: dict[str | None, int] = {None: 0}
        for cluster in self.picture.clusters:
            depth[cluster.id] = depth[cluster.parent] + 1
        for frame, (first, last) in self._reach().items():
            for column in range(first + 1, last + 1):
                costs[column] += depth[frame]
        return costs


def _frames_in_pieces(picture: Picture) -> Picture:
    """The picture with a frame of its own in each row for every module call that lies in several."""
    frames = {cluster.id: cluster for cluster in picture.clusters}
    pieces: dict[tuple[str, int], PictureCluster] = {}
    first_row: dict[str, int] = {}

    def piece(cluster: str | None, row: int) -> str | None:
        if cluster is None:
            return None
        if (cluster, row) not in pieces:
            frame = frames[cluster]
            parent = piece(frame.parent, row)
            if first_row.setdefault(cluster, row) == row:
                pieces[cluster, row] = replace(frame, parent=parent)
            else:
                label = f"{frame.label}, continued" if frame.label else "continued"
                pieces[cluster, row] = replace(frame, id=f"{cluster}_{row}", parent=parent, label=label)
        return pieces[cluster, row].id

    ordered = sorted(range(len(picture.nodes)), key=lambda i: picture.nodes[i].row)
    clusters = {i: piece(picture.nodes[i].cluster, picture.nodes[i].row) for i in ordered}
    nodes = tuple(replace(node, cluster=clusters[i]) for i, node in enumerate(picture.nodes))
    return replace(picture, nodes=nodes, clusters=tuple(_outer_first(pieces)))


def _outer_first(pieces: Mapping[tuple[str, int], PictureCluster]) -> Iterator[PictureCluster]:
    """`piece` makes the outer frame before the inner one, as it needs its id."""
    yield from pieces.values()
