"""From the recorded graph to a `Picture`, with those details that were asked for.

Nodes are numbered in the order of computation, leaves where they are used first, so the same program gives the same
picture. There is no recursion: a graph may be as deep as memory allows.
"""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from tinygrad_mm.cost import Memory, bytes_text, count_text, multiply_adds_of
from tinygrad_mm.drawing.arrays import ArrayView, view_of
from tinygrad_mm.drawing.backward import BackwardPass
from tinygrad_mm.drawing.call import (
    given_arrays,
    is_array,
    is_commutative,
    lets_through,
    operands_and_options,
    options_of,
    title_of,
)
from tinygrad_mm.drawing.leaves import Leaf, Leaves
from tinygrad_mm.drawing.picture import Kind, Picture, PictureCluster, PictureEdge, PictureNode
from tinygrad_mm.drawing.text import number_text, shortened
from tinygrad_mm.graph import Scope, Vertex, select, topological
from tinygrad_mm.names import Names, names_in

__all__ = ["Failure", "Names", "Reading", "names_in", "read", "reading"]

LONGEST_LINE = 60  # characters of a line of source


@dataclass(frozen=True)
class Failure:
    """A call that raised: what is drawn in its place."""

    title: str
    operands: tuple[tuple[str, Any], ...]  # name and array (or number) of each
    reason: str
    scope: Scope | None = None


@dataclass(frozen=True)
class Reading:
    """A picture, and which of its nodes each vertex of the graph became (by id of the vertex)."""

    picture: Picture
    nodes: Mapping[int, str]


def read(outputs: Sequence[Vertex], names: Names) -> Picture:
    """The picture of everything that the outputs were computed from.

    Raises RuntimeError, which names `retain_graph=True`, where a backward pass has released the graph.
    """
    return reading(outputs, names).picture


def reading(
    outputs: Sequence[Vertex],
    names: Names,
    show: Collection[str] = (),
    *,
    focus: Vertex | None = None,
    backward: BackwardPass | None = None,
    forward: Iterable[Vertex] = (),
    failure: Failure | None = None,
) -> Reading:
    """The picture of what the outputs were computed from, with the details that `show` asks for.

    With a `focus`, only what that vertex was computed from is drawn. What a `backward` pass sent is written on the
    edges. Where a backward pass was recorded, `forward` are the vertices that were there before it. A `failure` is
    drawn last.

    Raises RuntimeError, which names `retain_graph=True`, where a backward pass has released the graph.
    """
    roots: list[Vertex] = list(outputs) if focus is None else [focus]
    if failure is not None:
        roots += [a for _, a in failure.operands if isinstance(a, Vertex)]
    computed = [vertex for vertex in topological(roots, everything=True) if vertex.node is not None]
    drawn = list(outputs) if focus is None else [focus]
    reader = _Reader(names, drawn, frozenset(show), backward or BackwardPass({}, {}), frozenset(map(id, forward)))
    for vertex in computed:
        reader.meet(vertex)
    for output in drawn:
        reader.leaves.meet(output, None, False)
    if failure is not None:
        reader.meet_failure(failure)
    reader.leaves.entitle()
    for vertex in computed:
        reader.draw(vertex)
    if failure is not None:
        reader.draw_failure(failure)
    for number, output in enumerate(drawn, 1):
        reader.draw_output(output, f"output {number}" if len(drawn) > 1 else "output")
    return Reading(reader.picture(), {key: source.node for key, source in reader.sources.items()})


@dataclass(frozen=True)
class _Source:
    """Where an array comes from: a node of the picture, and what to write on the edge."""

    node: str
    label: str = ""


class _Reader:
    """Two rounds over the computed vertices: `meet` them all, then `draw` them all."""

    def __init__(
        self,
        names: Names,
        outputs: Sequence[Vertex],
        show: frozenset[str],
        backward: BackwardPass,
        forward: frozenset[int],
    ) -> None:
        self.names = names
        self.show = show
        self.backward = backward
        self.forward = forward
        self.outputs = {id(output) for output in outputs}  # named at their own nodes, not also at their operations
        self.nodes: list[PictureNode] = []
        self.edges: list[PictureEdge] = []
        self.memory = Memory()
        self.leaves = Leaves(names, self.memory)
        self.sources: dict[int, _Source] = {}  # id of a vertex -> where it comes from
        self.clusters: dict[tuple[int, bool], PictureCluster] = {}  # id of a scope, and pass -> its frame
        self.passes: dict[bool, PictureCluster] = {}  # the frames around a whole forward and a whole backward pass
        self.tokens: dict[str, tuple[object, bool]] = {}  # id of a cluster -> token of its module, and pass
        self.calls: Counter[tuple[object, bool]] = Counter()  # token of a module, and pass -> how often it was called
        self.functions: dict[str, Scope] = {}  # id of a cluster -> the call of a function
        self.kept = 0  # bytes, for the backward pass

    # -- first round: what there is

    def meet(self, vertex: Vertex) -> None:
        """Note the leaves of a call and the module it was made in."""
        node = vertex.node
        assert node is not None
        assert node.args is not None
        self.cluster(node.scope, self.is_backward(vertex))
        self.leaves.owners.setdefault(id(vertex.value), vertex)
        for leaf in {id(a): a for a in map(self.leaves.one, node.args) if is_array(a)}.values():
            self.leaves.meet(leaf, node.scope, self.is_backward(vertex), node.args)

    def meet_failure(self, failure: Failure) -> None:
        self.cluster(failure.scope, False)
        for leaf in {id(a): a for a in (self.leaves.one(a) for _, a in failure.operands) if is_array(a)}.values():
            self.leaves.meet(leaf, failure.scope, False)

    def is_backward(self, vertex: Vertex) -> bool:
        """Whether a vertex belongs to a recorded backward pass."""
        return bool(self.forward) and id(vertex) not in self.forward

    # -- second round: nodes and edges

    def draw(self, vertex: Vertex) -> None:
        """A call: its node, and an edge for each operand. Selections from several results become edge labels."""
        node = vertex.node
        assert node is not None
        assert node.args is not None
        if node.fun is select:
            producer, *rest = node.args
            index = rest[0] if rest else node.kwargs["index"]  # as a recorded backward pass writes it
            label = f"{self.names.of(vertex) or f'[{index}]'} {vertex.value.shape}"
            self.sources[id(vertex)] = _Source(self.sources[id(producer)].node, label)
            return
        backward = self.is_backward(vertex)
        cluster = self.cluster(node.scope, backward)
        operands, options = operands_and_options(node)
        tails = [self.source(node.args[i], vertex, cluster, backward) for i, _ in operands]
        several = type(vertex.value) is tuple
        head = self.add(
            "operation",
            title_of(node),
            shape=None if several else vertex.value.shape,
            dtype="" if several else str(vertex.value.dtype),
            name=None if id(vertex) in self.outputs else self.names.of(vertex),
            operands=tuple(name for _, name in operands),
            commutative=is_commutative(node),
            options=options,
            gradient=vertex.requires_grad,
            cluster=cluster,
            results=len(vertex.value) if several else 1,
            notes=self.notes(vertex),
            views=() if several else self.views(vertex),
            backward=backward,
        )
        self.sources[id(vertex)] = _Source(head.id)
        for number, ((i, _), tail) in enumerate(zip(operands, tails, strict=True)):
            a = node.args[i]
            gradient = vertex.requires_grad and getattr(a, "requires_grad", False) and lets_through(node, i)
            edge = PictureEdge(tail.node, head.id, number, tail.label, gradient)
            flow = self.backward.contributions.get((id(vertex), i)) if "backward" in self.show else None
            self.edges.append(edge if flow is None else replace(edge, norm=flow.norm, axes=flow.axes, sent=flow.text))

    def draw_failure(self, failure: Failure) -> None:
        """The call that raised, and its operands."""
        cluster = self.cluster(failure.scope, False)
        tails = [self.source(a, None, cluster, False) for _, a in failure.operands]
        head = self.add(
            "error",
            failure.title,
            operands=tuple(name for name, _ in failure.operands),
            gradient=False,
            cluster=cluster,
            notes=(failure.reason,),
        )
        for number, tail in enumerate(tails):
            self.edges.append(PictureEdge(tail.node, head.id, number, tail.label, gradient=False))

    def draw_output(self, tensor: Vertex, title: str) -> None:
        """What the picture was asked for."""
        tail = self.source(tensor, None, None, False)
        number = ("values" in self.show or "numbers" in self.show) and tensor.value.size == 1
        head = self.add(
            "output",
            self.names.of(tensor) or title,
            shape=tensor.value.shape,
            dtype=str(tensor.value.dtype),
            gradient=tensor.requires_grad,
            views=(("value", view_of(tensor.value)),) if number else (),
            backward=self.is_backward(tensor) and tensor.node is not None,
        )
        self.edges.append(PictureEdge(tail.node, head.id, 0, tail.label, tensor.requires_grad))

    def source(self, a: Any, user: Vertex | None, cluster: str | None, backward: bool) -> _Source:
        """Where an operand comes from: a computed node, a number drawn for this use, or a leaf."""
        a = self.leaves.one(a)
        leaf = self.leaves.found.get(id(a))
        if leaf is None and id(a) in self.sources:
            return self.sources[id(a)]
        if leaf is None:
            return _Source(self.add("constant", number_text(a), gradient=False, cluster=cluster, backward=backward).id)
        if leaf.node is None:
            leaf.node = self.draw_leaf(leaf)
            leaf.chips[id(user)] = leaf.node.id
            self.sources[id(a)] = _Source(leaf.node.id)
        if not leaf.chipped:
            return _Source(leaf.node.id)
        if id(user) not in leaf.chips:
            chip = self.add(
                leaf.kind, leaf.node.title, gradient=leaf.node.gradient, cluster=cluster, chip=True, backward=backward
            )
            leaf.chips[id(user)] = chip.id
        return _Source(leaf.chips[id(user)])

    def draw_leaf(self, leaf: Leaf) -> PictureNode:
        """A leaf in full. What a layer owns stands in the layer; what comes in from outside stands outside."""
        array = leaf.array
        value = array.value if isinstance(array, Vertex) else array
        origin = None
        if leaf.kind == "detached":
            origin = self.source(self.leaves.owners[id(value)], None, None, False)
        node = self.add(
            leaf.kind,
            leaf.title or leaf.kind,
            shape=value.shape,
            dtype=str(value.dtype),
            gradient=getattr(array, "requires_grad", False),
            cluster=self.home(leaf),
            uses=leaf.uses if leaf.chipped else 1,
            views=self.views(array),
            backward=leaf.backward,
        )
        if origin is not None:
            self.edges.append(PictureEdge(origin.node, node.id, 0, origin.label, gradient=False, kind="detached"))
        return node

    def home(self, leaf: Leaf) -> str | None:
        """The frame around a leaf: what comes from outside stands outside, also of a function that is given it."""
        if leaf.kind in ("input", "detached"):
            return None
        made_there = leaf.kind == "constant" and leaf.made
        scope = leaf.scope if made_there or leaf.scope is None else leaf.scope.module
        return self.cluster(scope, leaf.backward)

    def add(self, kind: Kind, title: str, **details: Any) -> PictureNode:
        node = PictureNode(f"n{len(self.nodes)}", kind, title, **details)
        self.nodes.append(node)
        return node

    # -- details on request

    def views(self, a: Any) -> tuple[tuple[str, ArrayView], ...]:
        """The arrays to show: the value, and the gradient where there is one to expect."""
        found = []
        if "values" in self.show or "numbers" in self.show:
            found.append(("value", view_of(a.value if isinstance(a, Vertex) else a)))
        if not isinstance(a, Vertex) or not a.requires_grad:
            return tuple(found)
        passing = self.backward.gradients.get(id(a))
        if "numbers" in self.show:
            shown = ArrayView(missing="none arrives") if passing is None else view_of(passing)
            found.append(("gradient", shown))
        elif "gradients" in self.show:
            retained = a.node is None or bool((a.extra or {}).get("retain_grad"))
            if a.grad is None and passing is not None:
                found.append(("gradient", view_of(passing)))
            elif a.grad is not None:
                found.append(("gradient", view_of(a.grad)))
            elif retained:
                found.append(("gradient", ArrayView(missing="backward not run")))
        return tuple(found)

    def notes(self, vertex: Vertex) -> tuple[str, ...]:
        """What an operation keeps and costs, and where it stands in the program."""
        node = vertex.node
        assert node is not None
        notes = []
        if "memory" in self.show:
            kept = self.memory.new(vertex.value)
            self.kept += kept
            notes.append(f"keeps {bytes_text(kept)}" if kept else "keeps nothing new")
        if "work" in self.show and (count := multiply_adds_of(node.fun, node.args or (), vertex.value)):
            notes.append(f"{count_text(count)} multiply-adds")
        if "lines" in self.show and node.line is not None:
            path, line = node.line
            notes.append(f"{PurePath(path).name}:{line}")
            text = linecache.getline(path, line).strip()
            if text:
                notes.append(shortened(text, LONGEST_LINE))
        return tuple(notes)

    # -- modules

    def cluster(self, scope: Scope | None, backward: bool) -> str | None:
        """The frame of a module call, made together with the frames around it when it is first needed."""
        new = []
        while scope is not None and (id(scope), backward) not in self.clusters:
            new.append(scope)
            scope = scope.parent
        parent = self.frame_of_pass(backward) if scope is None else self.clusters[id(scope), backward].id
        for inner in reversed(new):
            key = inner.token, backward
            self.calls[key] += 1
            path = self.names.modules.get(inner.token, "")
            function = inner.module is not inner
            frame = PictureCluster("", inner.label, path, self.calls[key], 1, parent, 1, backward, function)
            frame = self.add_frame(frame)
            self.clusters[id(inner), backward] = frame
            self.tokens[frame.id] = key
            if function:
                self.functions[frame.id] = inner
            parent = frame.id
        return parent

    def arguments(self, frame: PictureCluster) -> tuple[tuple[str, str, str], ...]:
        """What a function was given: the node and the result of it that an edge comes from, and the parameter."""
        found = []
        for name, a in given_arrays(self.functions[frame.id]):
            leaf = self.leaves.found.get(id(self.leaves.one(a)))
            source = self.sources.get(id(a))
            nodes = [] if source is None else [source]
            if leaf is not None and leaf.node is not None:
                nodes = [_Source(node) for node in {leaf.node.id: 0, **dict.fromkeys(leaf.chips.values())}]
            found += [(one.node, one.label, str(name)) for one in nodes]
        return tuple(found)

    def frame_of_pass(self, backward: bool) -> str | None:
        """The frame around the forward pass, or around the backward pass, where both are drawn."""
        if not self.forward:
            return None
        if backward not in self.passes:
            label = "backward pass" if backward else "forward pass"
            self.passes[backward] = self.add_frame(PictureCluster("", label, backward=backward))
        return self.passes[backward].id

    def add_frame(self, frame: PictureCluster) -> PictureCluster:
        return replace(frame, id=f"c{len(self.clusters) + len(self.passes)}")

    def picture(self) -> Picture:
        """All that was drawn; only now it is known how often each module was called."""
        frames = sorted((*self.passes.values(), *self.clusters.values()), key=lambda frame: int(frame.id[1:]))
        clusters = [replace(c, calls=self.calls[self.tokens[c.id]]) if c.id in self.tokens else c for c in frames]
        clusters = [
            replace(c, call=1, calls=1, arguments=self.arguments(c), options=options_of(self.functions[c.id]))
            if c.function
            else c
            for c in clusters
        ]
        notes = [f"kept for the backward pass: {bytes_text(self.kept)}"] if "memory" in self.show else []
        return _without_small_frames(Picture(tuple(self.nodes), tuple(self.edges), tuple(clusters), tuple(notes)))


def _without_small_frames(picture: Picture) -> Picture:
    """The picture without the frames of functions that made a single call: the call stands for the function."""
    inside = Counter(node.cluster for node in picture.nodes if node.computed)
    outer = {cluster.parent for cluster in picture.clusters}
    gone = {c.id: c.parent for c in picture.clusters if c.function and c.id not in outer and inside[c.id] < 2}
    if not gone:
        return picture
    nodes = tuple(replace(n, cluster=gone[n.cluster]) if n.cluster in gone else n for n in picture.nodes)
    return replace(picture, nodes=nodes, clusters=tuple(c for c in picture.clusters if c.id not in gone))
