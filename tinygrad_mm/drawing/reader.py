"""Reads a graph, and nothing else of it than names, shapes and dtypes, into a `Picture`.

Nodes are numbered in the order of computation, leaves where they are used first, so the same program gives the same
picture. There is no recursion: a graph may be as deep as memory allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinygrad_mm.drawing.call import is_array, is_commutative, lets_through, operands_and_options, title_of
from tinygrad_mm.drawing.picture import Kind, Picture, PictureCluster, PictureEdge, PictureNode
from tinygrad_mm.drawing.text import number_text
from tinygrad_mm.graph import Scope, Vertex, select, topological
from tinygrad_mm.tensor import Buffer, Parameter

__all__ = ["Names", "names_in", "read"]

# A leaf that more operations use than this is drawn once in full and as a small chip at each further use: a hub with
# hundreds of edges hides the graph, and layout programs need ages for it. So is what several calls of modules share,
# such as a recurrent weight.
MOST_EDGES = 8


@dataclass(frozen=True)
class Names:
    """What a model calls its tensors (by id) and its modules (by token)."""

    tensors: Mapping[int, str]
    modules: Mapping[object, str]


def names_in(model: Any) -> Names:
    """The attribute paths in a model; without a model, none.

    Raises TypeError for something that has no `named_parameters()` and `named_modules()`.

    >>> names_in(None)
    Names(tensors={}, modules={})
    """
    if model is None:
        return Names({}, {})
    if not hasattr(model, "named_parameters") or not hasattr(model, "named_modules"):
        raise TypeError(
            f"draw: model= is a {type(model).__name__}, which has no named_parameters() and named_modules(); "
            "pass the Module that computed the outputs, or leave model= out"
        )
    buffers = model.named_buffers() if hasattr(model, "named_buffers") else ()
    return Names(
        tensors={id(tensor): path for path, tensor in (*model.named_parameters(), *buffers)},
        modules={getattr(module, "token", None): path for path, module in model.named_modules()},
    )


def read(outputs: Sequence[Vertex], names: Names) -> Picture:
    """The picture of everything that the outputs were computed from.

    Raises RuntimeError, which names `retain_graph=True`, where a backward pass has released the graph.
    """
    computed = [vertex for vertex in topological(outputs, everything=True) if vertex.node is not None]
    reader = _Reader(names, outputs)
    for vertex in computed:
        reader.meet(vertex)
    for output in outputs:
        reader.meet_leaf(output, None)
    reader.entitle()
    for vertex in computed:
        reader.draw(vertex)
    for number, output in enumerate(outputs, 1):
        reader.draw_output(output, f"output {number}" if len(outputs) > 1 else "output")
    return reader.picture()


@dataclass
class _Leaf:
    """What is known of a leaf before it is drawn: how many operations use it, and in which module calls."""

    array: Any
    kind: Kind
    title: str | None
    scope: Scope | None  # of the first use
    uses: int = 0
    shared: bool = False  # between module calls
    node: PictureNode | None = None
    chips: dict[int, str] = field(default_factory=dict)  # id of a user -> id of the node it takes the leaf from

    @property
    def chipped(self) -> bool:
        return self.uses > MOST_EDGES or (self.shared and self.kind != "input")


@dataclass(frozen=True)
class _Source:
    """Where an array comes from: a node of the picture, and what to write on the edge."""

    node: str
    label: str = ""


class _Reader:
    """Two rounds over the computed vertices: `meet` them all, then `draw` them all."""

    def __init__(self, names: Names, outputs: Sequence[Vertex]) -> None:
        self.names = names
        self.outputs = {id(output) for output in outputs}  # named at their own nodes, not also at their operations
        self.nodes: list[PictureNode] = []
        self.edges: list[PictureEdge] = []
        self.leaves: dict[int, _Leaf] = {}  # id of a tensor or array -> what is known of it
        self.sources: dict[int, _Source] = {}  # id of a computed vertex -> where it comes from
        self.clusters: dict[int, PictureCluster] = {}  # id of a scope -> its frame
        self.tokens: dict[str, object] = {}  # id of a cluster -> token of its module
        self.calls: Counter[object] = Counter()  # token of a module -> how often it was called

    # -- first round: what there is

    def meet(self, vertex: Vertex) -> None:
        """Note the leaves of a call and the module it was made in."""
        node = vertex.node
        assert node is not None
        assert node.args is not None
        self.cluster(node.scope)
        for leaf in {id(a): a for a in node.args if is_array(a)}.values():
            self.meet_leaf(leaf, node.scope)

    def meet_leaf(self, a: Any, scope: Scope | None) -> None:
        """Note one more use of a leaf, made in a scope."""
        if isinstance(a, Vertex) and a.node is not None:
            return
        leaf = self.leaves.get(id(a))
        if leaf is None:
            leaf = self.leaves[id(a)] = _Leaf(a, self.kind(a), self.title(a), scope)
        leaf.uses += 1
        leaf.shared = leaf.shared or scope is not leaf.scope

    def kind(self, a: Any) -> Kind:
        if not isinstance(a, Vertex):
            return "constant"
        if isinstance(a, Parameter) or (id(a) in self.names.tensors and a.requires_grad):
            return "parameter"
        return "buffer" if isinstance(a, Buffer) else "input"

    def title(self, a: Any) -> str | None:
        if isinstance(a, Vertex):
            return self.names.tensors.get(id(a)) or _given_name(a)
        return number_text(a.item()) if a.ndim == 0 else None

    def entitle(self) -> None:
        """Give leaves without a name one: "input", or "input 1", "input 2" where there are several."""
        untitled = [leaf for leaf in self.leaves.values() if leaf.title is None]
        total, met = Counter(leaf.kind for leaf in untitled), Counter[Kind]()
        for leaf in untitled:
            met[leaf.kind] += 1
            leaf.title = f"{leaf.kind} {met[leaf.kind]}" if total[leaf.kind] > 1 else leaf.kind

    # -- second round: nodes and edges

    def draw(self, vertex: Vertex) -> None:
        """A call: its node, and an edge for each operand. Selections from several results become edge labels."""
        node = vertex.node
        assert node is not None
        assert node.args is not None
        if node.fun is select:
            producer, index = node.args
            label = f"{_given_name(vertex) or f'[{index}]'} {vertex.value.shape}"
            self.sources[id(vertex)] = _Source(self.sources[id(producer)].node, label)
            return
        cluster = self.cluster(node.scope)
        operands, options = operands_and_options(node)
        tails = [self.source(node.args[i], vertex, cluster) for i, _ in operands]
        several = type(vertex.value) is tuple
        head = self.add(
            "operation",
            title_of(node),
            shape=None if several else vertex.value.shape,
            dtype="" if several else str(vertex.value.dtype),
            name=None if id(vertex) in self.outputs else _given_name(vertex),
            operands=tuple(name for _, name in operands),
            commutative=is_commutative(node),
            options=options,
            gradient=vertex.requires_grad,
            cluster=cluster,
            results=len(vertex.value) if several else 1,
        )
        self.sources[id(vertex)] = _Source(head.id)
        for number, ((i, _), tail) in enumerate(zip(operands, tails, strict=True)):
            a = node.args[i]
            gradient = vertex.requires_grad and getattr(a, "requires_grad", False) and lets_through(node, i)
            self.edges.append(PictureEdge(tail.node, head.id, number, tail.label, gradient))

    def draw_output(self, tensor: Vertex, title: str) -> None:
        """What the picture was asked for."""
        tail = self.source(tensor, None, None)
        head = self.add(
            "output",
            _given_name(tensor) or title,
            shape=tensor.value.shape,
            dtype=str(tensor.value.dtype),
            gradient=tensor.requires_grad,
        )
        self.edges.append(PictureEdge(tail.node, head.id, 0, tail.label, tensor.requires_grad))

    def source(self, a: Any, user: Vertex | None, cluster: str | None) -> _Source:
        """Where an operand comes from: a computed node, a number drawn for this use, or a leaf."""
        if id(a) in self.sources:
            return self.sources[id(a)]
        leaf = self.leaves.get(id(a))
        if leaf is None:
            return _Source(self.add("constant", number_text(a), gradient=False, cluster=cluster).id)
        if leaf.node is None:
            leaf.node = self.draw_leaf(leaf)
            leaf.chips[id(user)] = leaf.node.id
        if not leaf.chipped:
            return _Source(leaf.node.id)
        if id(user) not in leaf.chips:
            chip = self.add(leaf.kind, leaf.node.title, gradient=leaf.node.gradient, cluster=cluster, chip=True)
            leaf.chips[id(user)] = chip.id
        return _Source(leaf.chips[id(user)])

    def draw_leaf(self, leaf: _Leaf) -> PictureNode:
        """A leaf in full. What a layer owns stands in the layer; what comes in from outside stands outside."""
        array = leaf.array
        value = array.value if isinstance(array, Vertex) else array
        return self.add(
            leaf.kind,
            leaf.title or leaf.kind,
            shape=value.shape,
            dtype=str(value.dtype),
            gradient=getattr(array, "requires_grad", False),
            cluster=None if leaf.kind == "input" else self.cluster(leaf.scope),
            uses=leaf.uses if leaf.chipped else 1,
        )

    def add(self, kind: Kind, title: str, **details: Any) -> PictureNode:
        node = PictureNode(f"n{len(self.nodes)}", kind, title, **details)
        self.nodes.append(node)
        return node

    # -- modules

    def cluster(self, scope: Scope | None) -> str | None:
        """The frame of a module call, made together with the frames around it when it is first needed."""
        new = []
        while scope is not None and id(scope) not in self.clusters:
            new.append(scope)
            scope = scope.parent
        parent = None if scope is None else self.clusters[id(scope)].id
        for inner in reversed(new):
            self.calls[inner.token] += 1
            path = self.names.modules.get(inner.token, "")
            frame = PictureCluster(
                f"c{len(self.clusters)}", inner.label, path, call=self.calls[inner.token], parent=parent
            )
            self.clusters[id(inner)] = frame
            self.tokens[frame.id] = inner.token
            parent = frame.id
        return parent

    def picture(self) -> Picture:
        """All that was drawn; only now it is known how often each module was called."""
        clusters = (replace(c, calls=self.calls[self.tokens[c.id]]) for c in self.clusters.values())
        return Picture(tuple(self.nodes), tuple(self.edges), tuple(clusters))


def _given_name(a: Any) -> str | None:
    """The name that the user gave to a tensor, if any."""
    name = (a.extra or {}).get("name") if isinstance(a, Vertex) else None
    return None if name is None or not str(name).strip() else str(name)
