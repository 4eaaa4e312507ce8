"""The picture of a graph as plain data: nodes, edges and clusters made of text and numbers.

Whatever shows a graph (DOT, a page, text) is written from this alone; nothing in it refers to a tensor, so a picture
keeps no array alive and can be compared, pickled and sent elsewhere.

Ids are stable: the same program gives the same ids, and they are the ids of the elements in the SVG too. Nodes are n0,
n1, ... in the order of computation, edges e0, e1, ... in the order of `Picture.edges`, clusters c0, c1, ...
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from tinygrad_mm.drawing.arrays import ArrayView

__all__ = [
    "KINDS",
    "LEAVES",
    "EdgeKind",
    "Kind",
    "Picture",
    "PictureCluster",
    "PictureEdge",
    "PictureNode",
    "as_json",
    "finite",
]

Kind: TypeAlias = Literal[
    "input", "parameter", "buffer", "constant", "detached", "operation", "function", "module", "sum", "output", "error"
]

KINDS: tuple[Kind, ...] = (
    *("input", "parameter", "buffer", "constant", "detached"),
    *("operation", "function", "module", "sum", "output", "error"),
)
LEAVES: frozenset[Kind] = frozenset({"input", "parameter", "buffer", "constant"})  # what depends on nothing else

EdgeKind: TypeAlias = Literal["forward", "detached", "repeat", "backward"]


@dataclass(frozen=True)
class PictureNode:
    """One box of the picture.

    `title` is the name of the tensor, the function of an operation, or of several folded ones (a `function`), the value
    of a number or the class of a folded `module`; `name` the name that the user gave to an operation's result, and the
    path of a folded module. `shape` is None for a number and for an operation with several `results`. A `detached`
    tensor is the copy outside the graph that `detach()` gives. A `sum` stands where contributions to one gradient meet.
    An `error` is the call that failed.

    `operands` names what goes into an operation, in order, one for each incoming edge; their order makes no difference
    to a `commutative` one. `options` are its other arguments, written out. `gradient` says whether a backward pass
    comes through. `cluster` is the innermost cluster around the node. `notes` are further lines, `views` the arrays
    to show, each with what it is ("value", "gradient"). `inside` counts the operations folded into the node, `repeats`
    the equal ones it stands for. `backward` says that the node belongs to a recorded backward pass. `row` counts the
    rows of a picture that is wrapped, from 0 on.

    A leaf that more than a few operations use, or several calls of modules, says how many in `uses`. Then only the
    first of them has its edge from the full node; the others each have a `chip`, a small node with the same title.
    """

    id: str
    kind: Kind
    title: str
    shape: tuple[int, ...] | None = None
    dtype: str = ""
    name: str | None = None
    operands: tuple[str, ...] = ()
    commutative: bool = False
    options: tuple[str, ...] = ()
    gradient: bool = True
    cluster: str | None = None
    results: int = 1
    uses: int = 1
    chip: bool = False
    notes: tuple[str, ...] = ()
    views: tuple[tuple[str, ArrayView], ...] = ()
    inside: int = 0
    repeats: int = 1
    backward: bool = False
    row: int = 0

    @property
    def computed(self) -> bool:
        """Whether it stands for operations."""
        return self.kind in ("operation", "function", "module", "error")

    @property
    def alarm(self) -> bool:
        """Whether an array to show holds NaN or Inf."""
        return any(view.alarm for _, view in self.views)


@dataclass(frozen=True)
class PictureEdge:
    """An array on its way: from the node `tail` to the operand number `operand` of the node `head`.

    `label` tells the results of a call with several results apart. `gradient` says whether a gradient comes back.

    `norm` is the size of the contribution to a gradient that comes back along the edge, where it was asked for, `sent`
    what is written of it, and `axes` those that it is summed over because broadcasting had stretched them. An edge of
    the kind "backward" draws it, from an operation to its operand or to the sum before it. One of the kind "detached"
    leads from a tensor to its copy outside the graph; "repeat" from the end of a repeated block to the beginning of the
    next one, which is drawn as the same.
    """

    tail: str
    head: str
    operand: int = 0
    label: str = ""
    gradient: bool = True
    kind: EdgeKind = "forward"
    norm: float | None = None
    axes: tuple[int, ...] = ()
    sent: str = ""


@dataclass(frozen=True)
class PictureCluster:
    """One call of a module, or of a `function` of several operations: the frame around everything computed in it.

    `path` is the attribute path of the module in the model ("" where it is not known), `label` its class, `call` and
    `calls` say which of how many calls of this module it is. `parent` is the cluster around it. `repeats` counts the
    equal ones in a row that it stands for. The part of a recorded backward pass says `backward`.

    Of a function, `arguments` are what it was given: the node and the label of an edge that brings it, and the
    parameter; `options` its other arguments, written out.
    """

    id: str
    label: str
    path: str = ""
    call: int = 1
    calls: int = 1
    parent: str | None = None
    repeats: int = 1
    backward: bool = False
    function: bool = False
    arguments: tuple[tuple[str, str, str], ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Nodes in the order of computation, edges in the order of use, clusters with the outer before the inner.

    `notes` are lines to show below.
    """

    nodes: tuple[PictureNode, ...]
    edges: tuple[PictureEdge, ...]
    clusters: tuple[PictureCluster, ...] = ()
    notes: tuple[str, ...] = ()

    def into(self, node: PictureNode) -> Iterator[PictureEdge]:
        """The edges that bring a node its operands, in order."""
        return (edge for edge in self.edges if edge.head == node.id and edge.kind == "forward")


def as_json(picture: Picture) -> str:
    """A picture as JSON: an object with the attributes of `Picture`, null where a number is not finite.

    >>> as_json(Picture((), (), notes=("none",)))
    '{"nodes": [], "edges": [], "clusters": [], "notes": ["none"]}'
    """
    return json.dumps(finite(asdict(picture)), allow_nan=False)


def finite(value: Any) -> Any:
    """Nested containers with null in the place of every number that is not finite.

    >>> finite({"a": (1.0, math.inf)})
    {'a': [1.0, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, (list, tuple)) else value
