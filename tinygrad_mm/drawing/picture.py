"""The picture of a graph as plain data: nodes, edges and clusters made of text and numbers.

Whatever shows a graph (DOT, a page, text) is written from this alone; nothing in it refers to a tensor, so a picture
keeps no array alive and can be compared, pickled and sent elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["KINDS", "Kind", "Picture", "PictureCluster", "PictureEdge", "PictureNode"]

Kind: TypeAlias = Literal["input", "parameter", "buffer", "constant", "operation", "output"]

KINDS: tuple[Kind, ...] = ("input", "parameter", "buffer", "constant", "operation", "output")


@dataclass(frozen=True)
class PictureNode:
    """One box of the picture.

    `title` is the name of the tensor, the function of an operation, or the value of a number; `name` the name that the
    user gave to an operation's result. `shape` is None for a number and for an operation with several `results`.

    `operands` names what goes into an operation, in order, one for each incoming edge; their order makes no difference
    to a `commutative` one. `options` are its other arguments, written out. `gradient` says whether a backward pass
    comes through. `cluster` is the innermost cluster around the node.

    A leaf that very many operations use, or several calls of modules, says how many in `uses`. Then only the first of
    them has its edge from the full node; the others each have a `chip`, a small node with the same title.
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


@dataclass(frozen=True)
class PictureEdge:
    """An array on its way: from the node `tail` to the operand number `operand` of the node `head`.

    `label` tells the results of a call with several results apart. `gradient` says whether a gradient comes back.
    """

    tail: str
    head: str
    operand: int = 0
    label: str = ""
    gradient: bool = True


@dataclass(frozen=True)
class PictureCluster:
    """One call of a module: the frame around everything computed in it.

    `path` is the attribute path of the module in the model ("" where it is not known), `label` its class, `call` and
    `calls` say which of how many calls of this module it is. `parent` is the cluster around it.
    """

    id: str
    label: str
    path: str = ""
    call: int = 1
    calls: int = 1
    parent: str | None = None


@dataclass(frozen=True)
class Picture:
    """Nodes in the order of computation, edges in the order of use, clusters with the outer before the inner."""

    nodes: tuple[PictureNode, ...]
    edges: tuple[PictureEdge, ...]
    clusters: tuple[PictureCluster, ...] = ()

    def into(self, node: PictureNode) -> Iterator[PictureEdge]:
        """The edges that end in a node, in the order of its operands."""
        return (edge for edge in self.edges if edge.head == node.id)
