"""Transforms: each takes a function and gives back its derivative, a function again.

Floor 5. `grad(f)` differentiates as `f` is written, so transforms compose to any order: `grad(grad(f))`,
`jacobian(grad(f))`, a `grad` of a function that calls `jvp`. Three things hold for all of them.

**Arguments** may be arrays, numbers, Tensors, and nested lists, tuples and dicts of these. A `Module` counts as a dict
of its parameters: `f` receives the module itself, and a gradient is a dict from path to gradient. The parameters are
differentiated as the objects they are (those that do not require a gradient are constants), on every way by which f
reaches them.

**Results** are arrays where all arguments are arrays, numbers and modules. Where a Tensor is among the arguments, or
inside a function that is being transformed itself, they are Tensors, and recorded: whatever f closes over that requires
a gradient can be reached by `backward()` from them (not under `no_grad`).

**Nothing else** is touched: no `.grad` changes, neither that of the arguments nor of what f closes over; and only the
dependence on f's own arguments counts, not that of closed-over values on the same variables (no perturbation confusion).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import (
    Node,
    Scope,
    Vertex,
    defvjp,
    defvjp_each,
    entered,
    name_of,
    primitive,
    state,
    tick,
    topological,
)
from tinygrad_mm.recording import apply, as_array
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = ["checkpoint", "grad", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]

Function = Callable[..., Any]
Argnums = int | tuple[int, ...]


# ---------------------------------------------------------------------------------------------------------------------
# Trees: nested containers of arrays
# ---------------------------------------------------------------------------------------------------------------------


class Leaf(NamedTuple):
    """What stands at the end of a path: an array, a number, a Tensor; or a parameter of a module."""

    path: str
    value: Any
    parameter: bool = False


def _is_module(tree: Any) -> bool:
    return hasattr(type(tree), "named_parameters")


def _items(tree: Any) -> list[tuple[Any, Any]] | None:
    """What a container holds, by key, in its own order; None for a leaf. None itself is an empty container."""
    if isinstance(tree, dict):
        return list(tree.items())
    if isinstance(tree, (list, tuple)):
        return list(enumerate(tree))
    if _is_module(tree):
        return [(path, p) for path, p in tree.named_parameters() if p.requires_grad]
    return [] if tree is None else None


def flatten(tree: Any, path: str = "", modules: bool = True) -> list[Leaf]:
    """The leaves of a tree, with their paths; without `modules`, a module is a leaf.

    >>> [(leaf.path, leaf.value) for leaf in flatten({"b": [1.0, 2.0], "a": (3.0, None)}, "x")]
    [("x['b'][0]", 1.0), ("x['b'][1]", 2.0), ("x['a'][0]", 3.0)]
    """
    items = None if _is_module(tree) and not modules else _items(tree)
    if items is None:
        return [Leaf(path, tree)]
    if _is_module(tree):
        return [Leaf(f"{path}.{name}" if path else name, p, parameter=True) for name, p in items]
    return [leaf for key, item in items for leaf in flatten(item, f"{path}[{key!r}]", modules)]


def unflatten(tree: Any, leaves: Iterator[Any], modules: bool = True) -> Any:
    """A tree like `tree` with other leaves; a module becomes a dict of its parameters, or, without `modules`, stays.

    >>> unflatten({"b": [1.0, 2.0], "a": (3.0, None)}, iter("xyz"))
    {'b': ['x', 'y'], 'a': ('z', None)}
    """
    if _is_module(tree) and not modules:
        return next(leaves)
    items = _items(tree)
    if items is None:
        return next(leaves)
    if tree is None:
        return None
    if _is_module(tree):
        return {name: next(leaves) for name, _ in items}
    built = {key: unflatten(item, leaves, modules) for key, item in items}
    if isinstance(tree, dict):
        return built
    if hasattr(tree, "_fields"):
        return type(tree)(*built.values())
    return list(built.values()) if isinstance(tree, list) else tuple(built.values())


def flatten_like(tree: Any, other: Any, what: str) -> list[Any]:
    """The leaves of `other`, which is built like `tree`, in the order of those of `tree`.

    Raises ValueError where the two are built differently.

    >>> flatten_like({"b": 1.0, "a": 2.0}, {"a": "x", "b": "y"}, "other")
    ['y', 'x']
    """
    items = _items(tree)
    if items is None:
        return [other]
    named = isinstance(tree, dict) or _is_module(tree)
    kinds: Any = dict if named else type(None) if tree is None else (list, tuple)
    found = dict(_items(other) or []) if isinstance(other, kinds) else None
    if found is None or set(found) != {key for key, _ in items}:
        wanted = f"a dict of {', '.join(str(k) for k, _ in items)}" if named else f"a sequence of {len(items)}"
        given = f"a dict of {', '.join(map(str, other))}" if isinstance(other, dict) else f"{type(other).__name__}"
        if isinstance(other, (list, tuple)):
            given += f" of {len(other)}"
        raise ValueError(f"{what}: {wanted if tree is not None else 'None'} is needed, as in the arguments, not {given}")
    return [leaf for key, item in items for leaf in flatten_like(item, found[key], f"{what}[{key!r}]")]


# ---------------------------------------------------------------------------------------------------------------------
# One call of f
# ---------------------------------------------------------------------------------------------------------------------

# Whether f is being called by a transform: one that is called inside must give Tensors for the outer one to follow.
_inside: ContextVar[bool] = ContextVar("inside a transformed function", default=False)


@contextmanager
def _being_transformed(inside: bool = True) -> Iterator[None]:
    token = _inside.set(inside)
    try:
        yield
    finally:
        _inside.reset(token)


def _frontier(roots: Sequence[Vertex], start: int) -> list[Vertex]:
    """Where the graph behind the roots ends, as seen from the time `start`: leaves, and results that are older."""
    found: list[Vertex] = []
    seen: set[int] = set()
    stack = [root for root in roots if root.requires_grad]
    while stack:
        vertex = stack.pop()
        if id(vertex) in seen:
            continue
        seen.add(id(vertex))
        if vertex.node is None or vertex.version < start:
            found.append(vertex)
        else:
            stack.extend(a for a in vertex.node.args or () if isinstance(a, Vertex) and a.requires_grad)
    return found


@contextmanager
def _as_leaves(vertices: Sequence[Vertex]) -> Iterator[None]:
    """Let computed vertices be leaves for the length of a `with` block.

    So a pass over a call of f ends at what existed before the call: it stays short, and what reaches an argument by
    another way than through f does not count.
    """
    nodes = [vertex.node for vertex in vertices]
    for vertex in vertices:
        vertex.node = None
    try:
        yield
    finally:
        for vertex, node in zip(vertices, nodes, strict=True):
            vertex.node = node


class _Call:
    """A call of f, recorded, on fresh Tensors in place of the arguments that are differentiated.

    `inputs` are these Tensors (and the modules' parameters), `outputs` the Tensors that f returned.
    """

    def __init__(
        self,
        what: str,
        f: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: Sequence[int],
        has_aux: bool = False,
        beside: Any = None,
    ) -> None:
        self.what, self.f = what, f
        self.trees = [args[i] for i in argnums]
        everything = flatten([args, kwargs, beside], modules=False)
        self.tensors = _inside.get() or state.tracing or any(isinstance(leaf.value, Tensor) for leaf in everything)
        self.own: set[int] = set()  # ids of leaves that exist for this call only
        leaves = [leaf for i in argnums for leaf in flatten(args[i], f"argument {i}")]
        self.inputs = [self._input(leaf) for leaf in leaves]

        given, fresh = list(args), iter(self.inputs)
        for i in argnums:
            given[i] = _with_modules(args[i], fresh)
        start = tick()
        with entered(recording=True), _being_transformed():
            result = f(*given, **kwargs)
        self.aux: Any = None
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(f"{what}: with has_aux=True the function must return a pair (result, aux)")
            result, self.aux = result
        self.tree = result
        self.outputs = [self._output(leaf) for leaf in flatten(result, modules=False)]
        frontier = _frontier(self.outputs, start)
        self.older = [vertex for vertex in frontier if vertex.node is not None]
        self.open = any(id(vertex) not in self.own for vertex in frontier)

    def _input(self, leaf: Leaf) -> Tensor:
        """The Tensor that stands for one array among the arguments."""
        value = leaf.value
        if leaf.parameter:
            return value
        if not isinstance(value, Tensor):
            value = Tensor(_array(value))
        if value.dtype.kind != "f":
            raise TypeError(
                f"{self.what}: {leaf.path} is {value.dtype}; derivatives need floating numbers: "
                "write 3.0 for 3, x.astype(np.float32) for an array, or leave the argument out of argnums"
            )
        # A Tensor gets a stand-in, linked to it: what f closes over is not what f is given.
        fresh = apply(np.positive, (value,)) if isinstance(leaf.value, Tensor) else value
        if not fresh.requires_grad:
            self.own.add(id(fresh))
            fresh.requires_grad = True
        return fresh

    def _output(self, leaf: Leaf) -> Tensor:
        """One of the results of f, as a Tensor."""
        value = leaf.value
        if isinstance(value, (bool, int)):
            value = float(value)
        if not isinstance(value, (Tensor, np.ndarray, np.generic, float)):
            raise TypeError(
                f"{self.what}: the function returned a {type(value).__name__}{leaf.path and f' at {leaf.path}'}; "
                "return Tensors to be differentiated, and anything else as aux, with has_aux=True"
            )
        tensor = value if isinstance(value, Tensor) else Tensor(_array(value))
        if tensor.dtype.kind != "f":
            raise TypeError(
                f"{self.what}: the function returned {tensor.dtype}{leaf.path and f' at {leaf.path}'}, which has no "
                "derivative; return floating numbers, and anything else as aux, with has_aux=True"
            )
        return tensor

    def scalar(self) -> Tensor:
        """The one number that f returned."""
        if isinstance(self.tree, (list, tuple, dict)) or self.tree is None:
            returned = f"a {type(self.tree).__name__}" if self.tree is not None else "None"
            hint = "; for (loss, aux) pass has_aux=True" if isinstance(self.tree, tuple) and len(self.tree) == 2 else ""
        elif self.outputs[0].size == 1:
            return self.outputs[0]
        else:
            returned, hint = f"shape {self.outputs[0].shape}", ""
        raise TypeError(
            f"{self.what} needs a function that returns one number; {name_of(self.f)} returned {returned}. "
            f"Reduce it (np.sum, np.mean), or take tg.jacobian{hint}"
        )

    def is_recorded(self, *beside: Any) -> bool:
        """Whether passes over this call are recorded: where someone outside may want to differentiate the results."""
        others = [leaf.value for leaf in flatten(beside, modules=False) if isinstance(leaf.value, Tensor)]
        wanted = self.tensors or bool(others)
        return state.tracing or (
            state.recording and wanted and (self.open or any(other.requires_grad for other in others))
        )

    def backward(
        self,
        ys: Sequence[Tensor],
        seeds: Sequence[Any],
        xs: Sequence[Tensor],
        recorded: bool = False,
        release: bool = False,
    ) -> list[Tensor]:
        """One reverse pass over this call: the gradients of sum(seed * y) with respect to each x."""
        with _as_leaves(self.older):
            found = gradients(ys, xs, seeds, create_graph=recorded, retain_graph=not release, allow_unused=True)
        return [Tensor(np.zeros_like(x.value)) if g is None else g for g, x in zip(found, xs, strict=True)]

    def transposed(self) -> tuple[list[Tensor], list[Tensor]]:
        """The reverse pass as a recorded linear function of its seeds: (the seeds, the gradients of the inputs).

        Its own reverse pass is the forward derivative of f: J v is the VJP of u -> J^T u.
        """
        seeds = [Tensor(np.ones_like(y.value), requires_grad=True) for y in self.outputs]
        self.own.update(map(id, seeds))
        return seeds, self.backward(self.outputs, seeds, self.inputs, recorded=True)

    def like_inputs(self, leaves: Sequence[Any]) -> list[Any]:
        """Results, one for each input, in containers like the arguments."""
        remaining = iter(leaves)
        return [unflatten(tree, remaining) for tree in self.trees]

    def vectors(self, trees: Any, role: str) -> list[Any]:
        """Directions, one for each input: checked, and of the inputs' dtypes."""
        leaves = flatten_like(self.trees, trees, f"{self.what}: the {role}s")
        return [_vector(v, x, f"{self.what}: a {role}") for v, x in zip(leaves, self.inputs, strict=True)]

    def handed_out(self, results: Sequence[Tensor], recorded: bool, tensors: bool = False) -> list[Any]:
        """Results as the caller gets them: arrays of his own, or Tensors without a trace of what is ours alone."""
        if not (self.tensors or tensors):
            return [np.array(t.value) for t in results]
        if not recorded:
            return [t.detach() for t in results]
        with _as_leaves(self.older):
            order = topological(results)
            theirs = {id(v) for v in order if v.node is None and id(v) not in self.own}
            for v in order:
                if v.node is not None and any(id(a) in theirs for a in v.node.args or ()):
                    theirs.add(id(v))
        return [t if id(t) in theirs or state.tracing else t.detach() for t in results]

    def aux_out(self, recorded: bool) -> Any:
        """The auxiliary result, with its Tensors handed out like the others."""
        leaves = [leaf.value for leaf in flatten(self.aux, modules=False)]
        kept = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for i, given in zip(kept, self.handed_out([leaves[i] for i in kept], recorded), strict=True):
            leaves[i] = given
        return unflatten(self.aux, iter(leaves), modules=False)


def _with_modules(tree: Any, fresh: Iterator[Any]) -> Any:
    """The tree with fresh Tensors; a module stays, and so do its parameters."""
    if _is_module(tree):
        for _ in _items(tree) or ():
            next(fresh)
        return tree
    items = _items(tree)
    if items is None:
        return next(fresh)
    parts = iter([_with_modules(item, fresh) for _, item in items])
    shallow = {key: 0 for key, _ in items}
    if isinstance(tree, dict):
        return dict(zip(shallow, parts, strict=True))
    if tree is None:
        return None
    return type(tree)(*parts) if hasattr(tree, "_fields") else list(parts) if isinstance(tree, list) else tuple(parts)
