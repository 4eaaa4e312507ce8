"""The reverse pass: one loop, from the outputs back to the leaves.

Floor 2 (it imports floors 0 and 1 only). For a call `y = fun(a, b)` and g, the gradient of the loss with respect to y,
the rules of `fun` give what this call contributes to the gradients of a and of b: by the chain rule, g times the
derivative of y. A value that was used several times gets the sum of its contributions. Calls are visited from the
last one made to the first, so that a gradient is complete before it is passed on.

The same loop runs on plain arrays (a first-order pass) and on Tensors (a pass that is itself recorded, so that it can
be differentiated again): only what is handed to the rules differs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.graph import RULES, Node, Vertex, name_of, select, state, topological

__all__ = ["accumulate", "backpropagate", "seed", "unbroadcast"]


def backpropagate(
    roots: Sequence[Vertex],
    gradients: Sequence[Any],
    targets: Collection[Vertex] | None = None,
    recorded: bool = False,
    release: bool = True,
) -> dict[Vertex, Any]:
    """The gradients of the targets (by default: of every leaf that requires one, and wherever `retain_grad` asked).

    `gradients` are those of the roots, from which the pass starts. With `recorded`, gradients are Tensors and the pass
    is recorded. With `release`, nodes drop their arguments on the way, so that activations are freed early.

    Raises RuntimeError where the graph was released before, or where a tensor has been changed since the forward pass.
    """
    targets = None if targets is None else set(targets)
    order = topological(roots)
    needed = {id(vertex) for vertex in order} if targets is None else _descendants(targets, order)
    sums: dict[Vertex, Any] = {}  # by vertex, the sum of the contributions so far
    found: dict[Vertex, Any] = {}  # the complete gradients that were asked for
    for root, g in zip(roots, gradients, strict=True):
        if root.requires_grad:
            sums[root] = sums[root] + g if root in sums else g
    monitor = state.monitor
    while order:  # from the last result to the first: whatever used this one was made later, and has been visited
        vertex = order.pop()
        node = vertex.node
        if node is None or vertex not in sums:
            continue
        g = sums.pop(vertex)
        if vertex.extra or monitor is not None or targets is not None:
            g = _complete(vertex, g, targets, found)
        g, y, args = _call_behind(vertex, node, g, recorded)
        rule = RULES[node.fun]
        vjps = [functools.partial(rule.each, i) for i in range(len(args))] if rule.each else rule.vjps
        for i, (a, vjp) in enumerate(zip(node.args or (), vjps, strict=False)):
            if vjp is None or not isinstance(a, Vertex) or id(a) not in needed:
                continue
            contribution = vjp(g, y, *args, **node.kwargs)
            if contribution is None:  # no gradient for this argument
                continue
            if monitor is not None:
                monitor.contribution(vertex, i, contribution)
            contribution = _fit(contribution, a.value, node, i)
            sums[a] = _added(sums[a], contribution) if a in sums else contribution
        if release:
            node.args = None
    for leaf, g in sums.items():  # last, so that no hook of a leaf runs in a pass that fails
        if leaf.extra or monitor is not None or targets is not None:
            _complete(leaf, g, targets, found)
        else:
            found[leaf] = g
    return found


def seed(y: Vertex, gradient: Any = None, unused: bool = False) -> Any:
    """The gradient that a backward pass from `y` starts with: the given one, or 1 where y is a single number.

    Raises RuntimeError where y has no graph (allowed with `unused`) or needs a `gradient`, ValueError for its shape.
    """
    if not y.requires_grad and not unused:
        raise RuntimeError(
            "backward: this tensor has no graph behind it. None of its inputs has requires_grad=True, or it was "
            "computed under no_grad(), or a function without gradient (a comparison, argmax, detach) cut it off; or "
            "it is itself a gradient, which has a graph only from gradients(..., create_graph=True)"
        )
    if gradient is None:
        if y.value.size != 1:
            raise RuntimeError(
                f"backward: the output has shape {y.value.shape}; reduce it to one number (np.sum, np.mean), "
                "or pass gradient= of that shape"
            )
        gradient = np.ones_like(y.value)
    given: Any = gradient if isinstance(gradient, Vertex) else np.array(as_array(gradient))
    if given.shape != y.value.shape:
        raise ValueError(f"backward: gradient has shape {given.shape}, the output {y.value.shape}; they must be equal")
    return given if given.dtype == y.value.dtype else given.astype(y.value.dtype)


def accumulate(leaf: Vertex, g: Any) -> None:
    """Add a gradient to `leaf.grad`."""
    if leaf.grad is None:
        leaf.grad = np.array(g)  # a copy: what a rule returned may be an array that someone else holds
        return
    if not isinstance(leaf.grad, np.ndarray) or leaf.grad.shape != g.shape:
        raise TypeError(
            f".grad of a tensor of shape {leaf.value.shape} was set to {type(leaf.grad).__name__} of shape "
            f"{np.shape(leaf.grad)}; it is an array of the tensor's shape, or None"
        )
    leaf.grad += g


def unbroadcast(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Sum a gradient over the axes that broadcasting added or stretched.

    Shape: whatever `shape` broadcasts to -> `shape`

    >>> unbroadcast(np.ones((5, 3)), (3,))
    array([5., 5., 5.])
    """
    if gradient.shape == shape:
        return gradient
    added = gradient.ndim - len(shape)
    stretched = [i for i, n in enumerate(shape) if n == 1 and gradient.shape[added + i] != 1]
    total = np.sum(gradient, axis=(*range(added), *(added + i for i in stretched)))
    return np.expand_dims(total, tuple(stretched)) if stretched else total


def _descendants(targets: Collection[Vertex], order: Sequence[Vertex]) -> set[int]:
    """The ids of the targets and of all that was computed from them: a pass to the targets needs no other gradients."""
    found = {id(t) for t in targets}
    for vertex in order:
        if vertex.node is not None and any(id(a) in found for a in vertex.node.args or ()):
            found.add(id(vertex))
    return found


def _call_behind(vertex: Vertex, node: Node, g: Any, recorded: bool) -> tuple[Any, Any, Sequence[Any]]:
    """The gradient, result and arguments of a call as its rule gets them: arrays, or Tensors in a recorded pass."""
    args = node.args or ()
    for a in args:
        if isinstance(a, Vertex) and a.version > vertex.version:
            raise RuntimeError(
                f"a tensor of shape {a.value.shape} was changed after {name_of(node.fun)} had read it, so this "
                "gradient would be wrong; call backward() before the update, or run the forward pass again"
            )
    y = vertex.value
    if isinstance(g, list):  # of several results, those that nobody used have gradient zero
        g = [np.zeros_like(v) if one is None else one for one, v in zip(g, y, strict=True)]
    if not recorded:
        return g, y, [a.value if isinstance(a, Vertex) else a for a in args]
    state.scope = node.scope  # the rule's operations belong to the module that made the call
    return g, tuple(select(vertex, i) for i in range(len(y))) if isinstance(y, tuple) else vertex, args


def _added(total: Any, c: Any) -> Any:
    """The sum of two gradients; the gradient of a call with several results is a list, in which None means zero."""
    if isinstance(c, list):
        return [
            one if other is None else other if one is None else one + other for one, other in zip(total, c, strict=True)
        ]
    return total + c


def _fit(c: Any, value: Any, node: Node, i: int) -> Any:
    """A contribution in the shape and dtype of its argument: the one place where broadcasting is undone."""
    if isinstance(value, tuple):
        return c
    try:
        fitting = unbroadcast(c, value.shape)
        if fitting.shape == value.shape:
            return fitting if fitting.dtype == value.dtype else fitting.astype(value.dtype)
    except (AttributeError, ValueError, IndexError):
        pass
    raise RuntimeError(
        f"the rule of {name_of(node.fun)} for argument {i} returned {type(c).__name__} of shape "
        f"{getattr(c, 'shape', None)}, which is not a gradient for an argument of shape {value.shape}"
    )


def _complete(vertex: Vertex, g: Any, targets: Collection[Vertex] | None, found: dict[Vertex, Any]) -> Any:
    """Run the hooks on a complete gradient, keep it in `found` where it was asked for, and return it."""
    extra = vertex.extra or {}
    for hook in list(extra.get("hooks", {}).values()):
        g = _hooked(vertex, g, hook)
    if state.monitor is not None:
        state.monitor.visit(vertex, g)
    asked = vertex in targets if targets is not None else vertex.node is None or extra.get("retain_grad")
    if asked:
        found[vertex] = g
    return g


def _hooked(vertex: Vertex, g: Any, hook: Callable[[Any], Any]) -> Any:
    """The gradient after a hook has seen it; what the hook returns takes its place."""
    replaced = hook(g)
    if replaced is None:
        return g
    if isinstance(replaced, Vertex) and not isinstance(g, Vertex):
        replaced = replaced.value
    if getattr(replaced, "shape", None) != vertex.value.shape:
        raise RuntimeError(
            f"the hook {name_of(hook)} returned {type(replaced).__name__} of shape "
            f"{getattr(replaced, 'shape', None)} for a gradient of shape {vertex.value.shape}; "
            "return an array of that shape, or None to leave the gradient as it is"
        )
    return replaced if replaced.dtype == vertex.value.dtype else replaced.astype(vertex.value.dtype)
