"""One call of the function that a transform is given: its inputs, its outputs, and passes over the graph between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.arrays import as_array, is_foreign_array
from tinygrad_mm.boundary import as_leaves, boundary
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import entered, name_of, state, tick, topological
from tinygrad_mm.pytree import Leaf, flatten, flatten_like, unflatten
from tinygrad_mm.tensor import Tensor, apply

__all__ = ["Call"]


class Call:
    """A recorded call of `f`, with fresh Tensors in place of the arguments that are differentiated.

    `inputs` are these Tensors (and the parameters of modules), `outputs` those that f returned, in the containers
    `trees` and `tree`. `beside` are directions given along with the arguments. Inside another transform, and with
    `create_graph`, results are Tensors, which that one, or whoever differentiates what f closed over, can follow.
    """

    def __init__(
        self,
        what: str,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: Sequence[int],
        has_aux: bool = False,
        beside: Any = None,
        create_graph: bool = False,
    ) -> None:
        self.what, self.f = what, f
        self.trees = [args[i] for i in argnums]
        self.tensors = create_graph or state.transforming or state.tracing or bool(_tensors([args, kwargs, beside]))
        self.own: set[int] = set()  # ids of the leaves that exist for this call alone
        self.inputs = [self._input(leaf) for i in argnums for leaf in flatten(args[i], f"argument {i}")]
        fresh = iter(self.inputs)
        replaced = {i: unflatten(args[i], fresh, keep_modules=True) for i in argnums}

        start = tick()
        with entered(recording=True, transforming=True):
            result = f(*(replaced.get(i, a) for i, a in enumerate(args)), **kwargs)
        self.aux: Any = None
        if has_aux:
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(
                    f"{what}: with has_aux=True, {name_of(f)} must return a pair (result, aux), "
                    f"not a {type(result).__name__}"
                )
            result, self.aux = result
        self.tree = result
        self.outputs = [self._output(leaf) for leaf in flatten(result)]
        ends = boundary([*self.outputs, *_tensors(self.aux)], start)
        self.older = [vertex for vertex in ends if vertex.node is not None]
        self.is_open = any(id(vertex) not in self.own for vertex in ends)  # f also reads what others differentiate

    def _input(self, leaf: Leaf) -> Tensor:
        """The Tensor that f gets in place of one of the arrays among its arguments."""
        given = leaf.value
        if leaf.parameter:
            return given
        tensor = given if isinstance(given, Tensor) else _as_tensor(given)
        if tensor is None or tensor.dtype.kind != "f":
            kind = type(given).__name__ if tensor is None else str(tensor.dtype)
            raise TypeError(
                f"{self.what}: {leaf.path} is {kind}; a derivative needs floating numbers: write 3.0 for 3, "
                "x.astype(np.float32) for x; or leave the argument out of argnums"
            )
        if tensor is given:
            # A stand-in, linked to the Tensor given: f may close over that one, too, and must be told the two apart.
            tensor = apply(np.positive, (tensor,))
        if not tensor.requires_grad:
            tensor.requires_grad = True
            self.own.add(id(tensor))
        return tensor

    def _output(self, leaf: Leaf) -> Tensor:
        """One of the results of f as a Tensor; a number that f returned is a constant."""
        given = leaf.value
        where = f" at {leaf.path}" if leaf.path else ""
        tensor = given if isinstance(given, Tensor) else _as_tensor(float(given) if type(given) is int else given)
        if tensor is None or tensor.dtype.kind != "f":
            kind = f"a {type(given).__name__}" if tensor is None else str(tensor.dtype)
            raise TypeError(
                f"{self.what}: {name_of(self.f)} returned {kind}{where}, which has no derivative; "
                "return floating numbers, and anything else as aux, with has_aux=True"
            )
        return tensor

    def scalar(self) -> Tensor:
        """The one number that f returned.

        Raises TypeError where it is anything else.
        """
        if len(self.outputs) == 1 and self.outputs[0].size == 1 and not isinstance(self.tree, (list, tuple, dict)):
            return self.outputs[0]
        shape = isinstance(self.tree, (Tensor, np.ndarray))
        returned = f"shape {self.tree.shape}" if shape else "None" if self.tree is None else type(self.tree).__name__
        hint = "; for a pair (result, aux) pass has_aux=True" if isinstance(self.tree, tuple) else ""
        raise TypeError(
            f"{self.what} needs a function that returns one number, but {name_of(self.f)} returned {returned}: "
            f"reduce it (np.sum, np.mean), or take tg.jacobian{hint}"
        )

    # -- passes

    def is_recorded(self, beside: Any = None) -> bool:
        """Whether a pass is to be recorded: somebody outside may want to differentiate what comes out."""
        others = _tensors(beside)
        is_open = self.is_open or any(tensor.requires_grad for tensor in others)
        return state.tracing or (state.recording and is_open and (self.tensors or bool(others)))

    def backward(
        self,
        ys: Sequence[Tensor],
        seeds: Sequence[Any],
        xs: Sequence[Tensor],
        recorded: bool = False,
        release: bool = False,
    ) -> list[Tensor]:
        """One reverse pass: the gradient of sum(seed * y) with respect to each x, zeros where nothing depends on it."""
        with as_leaves(self.older):
            found = gradients(ys, xs, seeds, create_graph=recorded, retain_graph=not release, allow_unused=True)
        return [Tensor(np.zeros_like(x.value)) if g is None else g for g, x in zip(found, xs, strict=True)]

    def transposed(self) -> tuple[list[Tensor], list[Tensor]]:
        """A recorded reverse pass from seeds that are variables: (the seeds, the gradients of the inputs).

        The gradients are a linear function of the seeds, u -> J^T u. A reverse pass over that one gives J v: the
        derivative forward is the VJP of the VJP.
        """
        seeds = [Tensor(np.ones_like(y.value), requires_grad=True) for y in self.outputs]
        return seeds, self.backward(self.outputs, seeds, self.inputs, recorded=True)

    # -- in and out

    def directions(self, trees: Any, role: str) -> list[Any]:
        """One direction for each input, of its shape and dtype.

        Raises ValueError for other containers or shapes than the arguments'.
        """
        leaves = flatten_like(self.trees, trees, f"{self.what}: {role}s")
        return [fitted(v, x, f"{self.what}: a {role}") for v, x in zip(leaves, self.inputs, strict=True)]

    def like_inputs(self, leaves: Sequence[Any]) -> list[Any]:
        """One leaf for each input, in the arguments' containers."""
        remaining = iter(leaves)
        return [unflatten(tree, remaining) for tree in self.trees]

    def handed_out(self, results: Sequence[Tensor], recorded: bool, beside: Any = None) -> list[Any]:
        """Results as the caller gets them: arrays of his own, or Tensors that require a gradient only if others do."""
        if not self.tensors and not _tensors(beside):
            return [np.array(t.value) for t in results]
        if not recorded:
            return [t.detach() for t in results]
        with as_leaves(self.older):
            order = topological(results)
            reached = {id(v) for v in order if v.node is None and id(v) not in self.own}
            for v in order:
                if v.node is not None and any(id(a) in reached for a in v.node.args or ()):
                    reached.add(id(v))
        return [t if id(t) in reached or state.tracing else t.detach() for t in results]

    def aux_out(self, recorded: bool) -> Any:
        """The auxiliary result, its Tensors handed out like the others."""
        leaves = [leaf.value for leaf in flatten(self.aux)]
        kept = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        for i, result in zip(kept, self.handed_out([leaves[i] for i in kept], recorded), strict=True):
            leaves[i] = result
        return unflatten(self.aux, iter(leaves), keep_modules=True)


def fitted(v: Any, x: Tensor, what: str) -> Any:
    """A direction at x: an array or Tensor of x's shape and dtype.

    Raises ValueError for another shape.
    """
    v = v if isinstance(v, Tensor) else as_array(v)
    if v.shape != x.shape:
        raise ValueError(f"{what} has shape {v.shape}, where {x.shape} is needed")
    return v if v.dtype == x.dtype else v.astype(x.dtype)


def _tensors(tree: Any) -> list[Tensor]:
    """The Tensors in a tree, other than the parameters of modules."""
    return [leaf.value for leaf in flatten(tree) if isinstance(leaf.value, Tensor) and not leaf.parameter]


def _as_tensor(value: Any) -> Tensor | None:
    """An array (of any library) or a number as a Tensor, NumPy's scalars with their dtype; None for anything else."""
    if not isinstance(value, (float, int, np.ndarray, np.generic)) and not is_foreign_array(value):
        return None
    array = as_array(value)
    return Tensor(array) if array.dtype.kind in "fiub" else None
