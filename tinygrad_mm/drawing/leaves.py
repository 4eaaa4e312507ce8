"""The leaves of a graph: what each is called, what kind it is of, and who uses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_mm.cost import Memory, owner_of
from tinygrad_mm.drawing.call import given_arrays
from tinygrad_mm.drawing.picture import Kind, PictureNode
from tinygrad_mm.drawing.text import number_text
from tinygrad_mm.graph import Scope, Vertex
from tinygrad_mm.names import Names, Place, is_made_on_the_way, place_of
from tinygrad_mm.tensor import Buffer, Parameter

__all__ = ["Leaf", "Leaves"]

# A leaf that more operations use than this is drawn once in full and as a small chip at each further use: a hub with
# hundreds of edges hides the graph, and layout programs need ages for it. So is what several calls of modules share,
# such as a recurrent weight.
MOST_EDGES = 4


@dataclass
class Leaf:
    """What is known of a leaf before it is drawn: how many operations use it, and in which module calls."""

    array: Any
    kind: Kind
    title: str | None
    made: bool  # in the function or module that uses it: nobody calls it by a name
    scope: Scope | None  # of the first use
    backward: bool  # of the first use
    uses: int = 0
    shared: bool = False  # between module calls, or between forward and backward
    node: PictureNode | None = None
    chips: dict[int, str] = field(default_factory=dict)  # id of a user -> id of the node it takes the leaf from

    @property
    def chipped(self) -> bool:
        """Whether further uses have chips of it."""
        return self.uses > MOST_EDGES or self.shared


class Leaves:
    """All leaves `found`, by the id of their tensor or array; their bytes are noted in `memory`."""

    def __init__(self, names: Names, memory: Memory) -> None:
        self.names, self.memory = names, memory
        self.found: dict[int, Leaf] = {}
        self.owners: dict[int, Vertex] = {}  # id of an array -> the vertex with a gradient that holds it
        self.same: dict[Place, Any] = {}  # what is met first of the Tensors and arrays that are one array
        self.given: dict[int, dict[Any, str]] = {}  # id of a scope -> the parameters of what its call was given

    def one(self, a: Any) -> Any:
        """The Tensor or array that stands for all that are the same array in memory."""
        place = place_of(a)
        return a if place is None else self.same.setdefault(place, a)

    def meet(self, a: Any, scope: Scope | None, backward: bool, beside: Sequence[Any] = ()) -> None:
        """Note one more use of a leaf, made in a scope, together with what stands `beside` it in the call."""
        if isinstance(a, Vertex) and a.node is not None:
            return
        leaf = self.found.get(id(a))
        if leaf is None:
            title = self._title(a)
            made = title is None and scope is not None and (is_made_on_the_way(a, beside) or self._is_made_in(a, scope))
            kind: Kind = "constant" if made else self._kind(a)
            leaf = self.found[id(a)] = Leaf(a, kind, title, title is None, scope, backward)
            self.memory.new(a.value if isinstance(a, Vertex) else a)
            if isinstance(a, Vertex) and a.requires_grad:
                self.owners.setdefault(id(a.value), a)
        leaf.uses += 1
        elsewhere = scope is not leaf.scope and leaf.kind not in ("input", "detached")
        leaf.shared = leaf.shared or elsewhere or backward is not leaf.backward

    def _is_made_in(self, a: Any, scope: Scope) -> bool:
        """Whether a call made a Tensor of an array of its own: one younger than itself that it was not given."""
        if not isinstance(a, Vertex) or a.requires_grad or a.version < scope.start:
            return False
        given = self._given(scope)
        return bool(given) and not given.keys() & {id(a), place_of(a), id(owner_of(a))}

    def _given(self, scope: Scope) -> dict[Any, str]:
        """What the outermost call around was given: its parameters by the ids and places of the arrays."""
        while scope.parent is not None:
            scope = scope.parent
        if id(scope) not in self.given:
            found = ((key, name) for name, a in given_arrays(scope) for key in (id(a), place_of(a), id(owner_of(a))))
            self.given[id(scope)] = {key: name for key, name in found if key is not None}
        return self.given[id(scope)]

    def _kind(self, a: Any) -> Kind:
        if not isinstance(a, Vertex):
            return "constant"
        if isinstance(a, Parameter) or (id(a) in self.names.tensors and a.requires_grad):
            return "parameter"
        if isinstance(a, Buffer):
            return "buffer"
        # detach() leaves no record, but its result holds the very array of the tensor it was called on before.
        owner = None if a.requires_grad else self.owners.get(id(a.value))
        return "detached" if owner is not None and owner.version < a.version else "input"

    def _title(self, a: Any) -> str | None:
        name = self.names.of(a)
        if name is None and not isinstance(a, Vertex) and a.ndim == 0:
            return number_text(a.item())
        return name

    def entitle(self) -> None:
        """Give leaves without a name one: "view of x", or "input"; of several, the parameter, or else a number."""
        titles = dict(self.names.memory)
        titles |= {id(owner_of(leaf.array)): leaf.title for leaf in self.found.values() if leaf.title is not None}
        for leaf in self.found.values():
            origin = titles.get(id(owner_of(leaf.array)))
            if leaf.title is None and origin is not None:
                leaf.title = self._part_text(leaf.array, origin)
                leaf.made = False
        untitled = [leaf for leaf in self.found.values() if leaf.title is None]
        kinds = Counter(leaf.kind for leaf in untitled)
        called = [self._parameter(leaf) or leaf.kind if kinds[leaf.kind] > 1 else leaf.kind for leaf in untitled]
        total, met = Counter(called), Counter[str]()
        for leaf, name in zip(untitled, called, strict=True):
            met[name] += 1
            leaf.title = f"{name} {met[name]}" if total[name] > 1 else name

    def _parameter(self, leaf: Leaf) -> str | None:
        """What the call that was given an array calls it."""
        given = self._given(leaf.scope) if leaf.scope is not None else {}
        a = leaf.array
        return next((given[key] for key in (id(a), place_of(a), id(owner_of(a))) if key in given), None)

    def _part_text(self, a: Any, origin: str) -> str:
        """What a view of an array is called: `x[2]` if it is one of the parts along the first axis."""
        part, whole = a.value if isinstance(a, Vertex) else a, owner_of(a)
        named = self.names.variables.get(id(whole)) == origin and isinstance(whole, np.ndarray) and whole.ndim > 0
        if named and part.size and (part.shape, part.strides) == (whole.shape[1:], whole.strides[1:]):
            start = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            if start % whole.strides[0] == 0:
                return f"{origin}[{start // whole.strides[0]}]"
        return f"view of {origin}"
