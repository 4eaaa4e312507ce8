"""Gradients as Tensors, of any order, and computing without them.

Floor 4 (it imports lower floors only).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from typing import Any, TypeVar

import numpy as np

from tinygrad_mm.backprop import backpropagate, seed
from tinygrad_mm.dispatch import plain
from tinygrad_mm.graph import Vertex, entered, state
from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.tensor import apply, result

__all__ = ["gradients", "no_grad"]

Function = TypeVar("Function", bound=Callable[..., Any])


class no_grad(ContextDecorator):  # noqa: N801 (used like a function)
    """Compute without recording, in this thread; as a `with` block or a decorator of a function.

    Raises TypeError as a decorator of a generator function, whose body runs after the decorator is done.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0], requires_grad=True)
    >>> with no_grad():
    ...     y = w * 2
    >>> y.requires_grad
    False
    """

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(state.recording)
        state.recording = False

    def __exit__(self, *error: object) -> None:
        state.recording = self._before.pop()

    def __call__(self, function: Function) -> Function:
        if inspect.isgeneratorfunction(function):
            raise TypeError("no_grad: a generator's body runs later; write `with tg.no_grad():` inside it")
        return super().__call__(function)

    def _recreate_cm(self) -> no_grad:
        return no_grad()  # each call, and so each thread, has one of its own


def gradients(
    y: Vertex | Sequence[Vertex],
    xs: Vertex | Sequence[Vertex],
    gradient: Any = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """The gradients of `y` with respect to each of `xs`, as Tensors; `.grad` is left alone.

    `xs` is one tensor (the result is its gradient) or a sequence of leaves or computed tensors (the result is a tuple).
    `gradient`, needed where `y` is not a single number, is what the pass starts from: the vector of the vector-Jacobian
    product, of the shape of y. `y` may be a sequence, and `gradient` then is one too. With `create_graph` the backward
    pass is recorded, so that its result can be differentiated again. The graph is released unless `retain_graph` (by
    default the same as `create_graph`). An `x` that `y` does not use raises RuntimeError, or gives None with
    `allow_unused`.

    Raises TypeError for anything but Tensors, ValueError where `gradient` does not fit `y`, RuntimeError where there is
    no graph or it was released.

    >>> from tinygrad_mm.tensor import Tensor
    >>> x = Tensor(3.0, requires_grad=True)
    >>> first = gradients(x * x * x, x, create_graph=True)
    >>> gradients(first, x)
    Tensor(18., dtype=float32)
    """
    many = isinstance(y, (list, tuple))
    ys: list[Vertex] = list(y) if many else [y]  # type: ignore[list-item, arg-type]
    weights = [None] * len(ys) if gradient is None else list(gradient) if many else [gradient]
    if len(weights) != len(ys):
        raise ValueError(f"gradients: {len(ys)} outputs were given {len(weights)} gradients; one each is needed")
    for i, one in enumerate(ys):
        if not isinstance(one, Vertex):
            raise TypeError(f"gradients: y{f'[{i}]' if many else ''} is a {type(one).__name__}, not a Tensor")
    targets: list[Vertex] = [xs] if isinstance(xs, Vertex) else list(xs)
    for i, x in enumerate(targets):
        if not isinstance(x, Vertex):
            raise TypeError(f"gradients: xs[{i}] is a {type(x).__name__}; gradients are taken with respect to Tensors")
        if not x.requires_grad and not allow_unused:
            raise RuntimeError(f"gradients: xs[{i}] requires no gradient; set requires_grad=True before using it")
    retain = create_graph if retain_graph is None else retain_graph
    cut = state.tracing and not create_graph  # then the gradients are constants for what follows
    if state.tracing:  # the pass itself is part of the trace
        create_graph = retain = True
    with entered(recording=create_graph, scope=state.scope):
        seeds = [seed(one, weight, allow_unused) for one, weight in zip(ys, weights, strict=True)]
        seeds = [g if isinstance(g, Vertex) else result(g) for g in seeds] if create_graph else plain(seeds)
        found = backpropagate(ys, seeds, targets, recorded=create_graph, release=not retain)
    results = []
    for i, x in enumerate(targets):
        g = found.get(x)
        if g is None and not allow_unused:
            raise RuntimeError(
                f"gradients: y does not depend on xs[{i}] (shape {x.value.shape}); "
                "pass allow_unused=True to get None for it"
            )
        g = g if g is None or isinstance(g, Vertex) else result(np.array(g))
        results.append(apply(stop_gradient, (g,)) if cut and g is not None else g)
    return results[0] if isinstance(xs, Vertex) else tuple(results)
