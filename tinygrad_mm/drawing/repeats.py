"""Equal blocks in a row are drawn once: the time steps of a loop, the layers of a deep network."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from tinygrad_mm.drawing.picture import Picture, PictureCluster, PictureEdge, PictureNode

__all__ = ["rolled"]

LONGEST_PERIOD = 200  # operations and modules in one turn of a loop

Item: TypeAlias = "PictureNode | PictureCluster"  # what follows each other in a frame: an operation, or a module call


def rolled(picture: Picture, least: int, modules: int | None = None) -> Picture:
    """The picture with every row of `least` or more equal blocks as one block that says how many it stands for.

    Where `modules` is given, so many are enough of blocks with modules in them, and single operations are left alone.

    Blocks are equal if they do the same to operands of the same shapes: same operations, same places in the block that
    operands come from, or the same place in the block before. Numbers in names and options may differ: each turn of a
    loop takes another row, each layer its own weights. Values shown are those of the first block.
    """
    rolling = _Rolling(picture, least, modules)
    for frame in [None, *(cluster.id for cluster in picture.clusters)]:
        if frame not in rolling.dropped:
            rolling.roll(frame)
    return rolling.picture()


@dataclass(frozen=True)
class _Run:
    """`count` blocks of `period` items each, from item number `start` of a frame on."""

    start: int
    period: int
    count: int


class _Rolling:
    def __init__(self, picture: Picture, least: int, modules: int | None) -> None:
        self.whole = picture
        self.least, self.modules = least, modules
        self.nodes = {node.id: node for node in picture.nodes}
        self.clusters = {cluster.id: cluster for cluster in picture.clusters}
        self.incoming: dict[str, list[PictureEdge]] = {}
        self.users: dict[str, set[str]] = {}
        for edge in picture.edges:
            self.incoming.setdefault(edge.head, []).append(edge)
            self.users.setdefault(edge.tail, set()).add(edge.head)
        self.items = self._items()
        self.operations: dict[str, list[str]] = {}  # id of an item -> its operations, in order
        self.looks = self._looks()
        self.dropped: set[str | None] = set()
        self.kept: dict[str, str] = {}  # id of a dropped node -> the node that stands for it
        self.loops: list[PictureEdge] = []
        self.made = 0

    def _items(self) -> dict[str | None, list[str]]:
        """What each frame holds, in the order of computation; leaves are left out."""
        found: dict[str | None, list[str]] = {frame: [] for frame in (None, *self.clusters)}
        seen: set[str] = set()
        for node in self.whole.nodes:
            if not node.computed:
                continue
            item, frame = node.id, node.cluster
            while item not in seen:
                seen.add(item)
                found[frame].append(item)
                if frame is None:
                    break
                item, frame = frame, self.clusters[frame].parent
        return found

    def _looks(self) -> dict[str, int]:
        """A number for each item; equal ones have the same. Inner frames come first."""
        numbers: dict[Hashable, int] = {}
        found: dict[str, int] = {}
        for node in self.whole.nodes:
            if node.computed:
                look = (
                    *(node.kind, node.title, node.shape, node.dtype, node.results, node.gradient, node.backward),
                    tuple(map(_masked, node.options)),
                )
                found[node.id] = numbers.setdefault(look, len(numbers))
                self.operations[node.id] = [node.id]
        for cluster in reversed(self.whole.clusters):
            inside = self.items[cluster.id]
            label = cluster.label, cluster.backward, tuple(found[item] for item in inside)
            found[cluster.id] = numbers.setdefault(label, len(numbers))
            self.operations[cluster.id] = [o for item in inside for o in self.operations[item]]
        return found

    # -- one frame

    def roll(self, frame: str | None) -> None:
        """Roll up what a frame holds, as far as it repeats."""
        items = self.items[frame]
        start = 0
        while start < len(items):
            run = self._run(items, start)
            if run is None:
                start += 1
            else:
                self._apply(frame, items, run)
                start = run.start + run.period * run.count

    def _run(self, items: list[str], start: int) -> _Run | None:
        """The longest row of equal blocks that begins at an item."""
        looks = [self.looks[item] for item in items]
        found: _Run | None = None
        fewest = min(self.least, self.modules or self.least)
        for period in range(1, min(LONGEST_PERIOD, (len(items) - start) // fewest) + 1):
            same = start
            while same + period < len(items) and looks[same] == looks[same + period]:
                same += 1
            count = (same - start) // period + 1
            longer = found is None or count * period > found.count * found.period
            if longer and count >= self.needed(items[start : start + period]):
                found = _Run(start, period, count)
        return None if found is None else self._wired(items, found)

    def needed(self, block: list[str]) -> float:
        """How many blocks in a row are drawn as one."""
        if self.modules is None:
            return self.least
        if any(item in self.clusters or self.nodes[item].kind == "module" for item in block):
            return self.modules
        return self.least if len(block) > 1 else math.inf

    def _wired(self, items: list[str], run: _Run) -> _Run | None:
        """As much of a row of blocks as takes its operands from the same places."""
        blocks = self._blocks(items, run)
        wiring = self._wiring(blocks)
        least = self.needed(items[run.start : run.start + run.period])
        for first in (0, 1):  # often the first turn of a loop differs a little
            if run.count - first < least:
                break
            typical = wiring[first + 1]
            alike = len(wiring[first]) == len(typical)
            starts = alike and all(a == b or b[0] == "before" for a, b in zip(wiring[first], typical, strict=True))
            end = first + 1
            while end < run.count and wiring[end] == typical:
                end += 1
            if starts and end - first >= least:
                return _Run(run.start + first * run.period, run.period, end - first)
        return None

    def _blocks(self, items: list[str], run: _Run) -> list[list[str]]:
        """The operations of each block."""
        starts = range(run.start, run.start + run.period * run.count, run.period)
        return [[o for item in items[s : s + run.period] for o in self.operations[item]] for s in starts]

    def _wiring(self, blocks: list[list[str]]) -> list[list[tuple[Hashable, ...]]]:
        """Where the operands of each block come from, as seen from the block."""
        place = {o: (b, i) for b, block in enumerate(blocks) for i, o in enumerate(block)}
        wiring = []
        for b, block in enumerate(blocks):
            inside = set(block)
            sources: list[tuple[Hashable, ...]] = []
            for o in block:
                for edge in self.incoming.get(o, ()):
                    at, i = place.get(edge.tail, (None, 0))
                    tail = self.nodes[edge.tail]
                    if at is not None:
                        where: tuple[Hashable, ...] = ("here" if at == b else "before" if at == b - 1 else edge.tail, i)
                    elif not tail.computed and self.users[tail.id] <= inside:
                        where = ("own", tail.kind, _masked(tail.title))
                    else:
                        where = ("outside", self.stand_in(tail.id))
                    sources.append((*where, edge.label))
            wiring.append(sources)
        return wiring

    def _apply(self, frame: str | None, items: list[str], run: _Run) -> None:
        """Keep the first block, and let it stand for all."""
        blocks = self._blocks(items, run)
        first, second = blocks[:2]
        kept = items[run.start : run.start + run.period]
        others = items[run.start + run.period : run.start + run.period * run.count]
        last = self.clusters.get(items[run.start + run.period * run.count - 1])
        place = {o: i for i, o in enumerate(first)}
        for i, o in enumerate(second):
            self.loops += [
                PictureEdge(edge.tail, first[i], edge.operand, edge.label, edge.gradient, "repeat")
                for edge in self.incoming.get(o, ())
                if edge.tail in place
            ]
        for block in blocks[1:]:
            self.kept.update(zip(block, first, strict=True))
            self.dropped.update(block)
        inside = set(others)
        for cluster in self.whole.clusters:
            if cluster.id in inside or cluster.parent in inside:
                inside.add(cluster.id)
                self.dropped.add(cluster.id)
        if run.period > 1:
            self._frame(frame, kept, set(first), run.count)
        elif kept[0] in self.clusters:
            cluster = self.clusters[kept[0]]
            path = f"{cluster.path} ... {last.path}" if last is not None and last.path != cluster.path else cluster.path
            self.clusters[cluster.id] = replace(cluster, repeats=run.count, path=path, call=1, calls=1)
        else:
            self.nodes[kept[0]] = replace(self.nodes[kept[0]], repeats=run.count)

    def _frame(self, parent: str | None, items: list[str], operations: set[str], count: int) -> None:
        """A new frame around several items that repeat together, and around the leaves that are theirs alone."""
        self.made += 1
        new = PictureCluster(f"r{self.made}", "", parent=parent, repeats=count)
        for item in items:
            if item in self.clusters:
                self.clusters[item] = replace(self.clusters[item], parent=new.id, call=1, calls=1)
            else:
                self.nodes[item] = replace(self.nodes[item], cluster=new.id)
        for node in self.whole.nodes:
            users = self.users.get(node.id)
            own = not node.computed and users is not None and users <= operations
            if own and node.cluster == parent and node.kind not in ("input", "detached"):
                self.nodes[node.id] = replace(self.nodes[node.id], cluster=new.id)
        self.clusters[new.id] = replace(new, backward=self.nodes[next(iter(operations))].backward)

    # -- the result

    def picture(self) -> Picture:
        """What was kept, with edges from whatever was dropped coming from what stands for it."""
        if not self.dropped:
            return self.whole
        gone = {
            node.id
            for node in self.whole.nodes
            if node.id in self.dropped or (not node.computed and self._only_dropped_use(node.id))
        }
        nodes = tuple(self.nodes[node.id] for node in self.whole.nodes if node.id not in gone)
        clusters = [cluster for cluster in self.clusters.values() if cluster.id not in self.dropped]
        edges = list(self._edges(gone))
        return replace(self.whole, nodes=nodes, edges=tuple(edges), clusters=tuple(_outer_first(clusters)))

    def _only_dropped_use(self, node: str) -> bool:
        users = self.users.get(node)
        return users is not None and all(user in self.dropped or self._is_dropped_leaf(user) for user in users)

    def _is_dropped_leaf(self, node: str) -> bool:
        """A detached copy that only dropped operations use."""
        users = self.users.get(node, set())
        return self.nodes[node].kind == "detached" and bool(users) and all(user in self.dropped for user in users)

    def _edges(self, gone: set[str]) -> Iterator[PictureEdge]:
        """The edges that are left; what came from several blocks alike comes from the one that is drawn, once."""
        left = [edge for edge in self.whole.edges if edge.head not in gone]
        origins: dict[tuple[str, str], dict[str, None]] = {}
        for edge in left:
            origins.setdefault((self.stand_in(edge.tail), edge.head), {})[edge.tail] = None
        for edge in left:
            tail = self.stand_in(edge.tail)
            from_blocks = origins[tail, edge.head]
            if edge.tail == next(iter(from_blocks)):
                label = f"{edge.label} ×{len(from_blocks)}".strip() if len(from_blocks) > 1 else edge.label
                yield replace(edge, tail=tail, label=label)
        yield from dict.fromkeys(
            replace(loop, tail=self.stand_in(loop.tail), head=self.stand_in(loop.head)) for loop in self.loops
        )

    def stand_in(self, node: str) -> str:
        """The node that is drawn for a node: itself, unless it was dropped."""
        while node in self.kept:
            node = self.kept[node]
        return node


def _masked(text: str) -> str:
    """A text in which numbers do not count."""
    return re.sub(r"\d+", "#", text)


def _outer_first(clusters: list[PictureCluster]) -> list[PictureCluster]:
    """Clusters in an order in which each comes after the one around it."""
    parent = {cluster.id: cluster.parent for cluster in clusters}

    def depth(cluster: str | None) -> int:
        steps = 0
        while cluster is not None:
            cluster, steps = parent[cluster], steps + 1
        return steps

    return sorted(clusters, key=lambda cluster: depth(cluster.id))
