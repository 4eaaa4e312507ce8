"""The reverse pass: one loop, from the outputs back to the leaves.

Floor 1. The same loop runs on plain arrays (a fast first-order pass) and on Tensors (a pass that is itself recorded, so
that it can be differentiated again): only what is handed to the rules differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.graph import RULES, Node, Vertex, name_of, select, state, topological

__all__ = ["backpropagate", "unbroadcast"]


def unbroadcast(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Sum a gradient over the axes that broadcasting added or stretched.

    Shape: whatever `shape` broadcasts to -> `shape`

    >>> unbroadcast(np.ones((5, 3)), (3,))
    array([5., 5., 5.])
    """
    lead = gradient.ndim - len(shape)
    if lead == 1 and gradient.shape[1:] == shape:  # the usual case: a bias, added to every row of a batch
        return np.add.reduce(gradient, axis=0)
    stretched = (lead + i for i, n in enumerate(shape) if n == 1 and gradient.shape[lead + i] != 1)
    axes = (*range(lead), *stretched)
    if axes:
        gradient = np.add.reduce(gradient, axis=axes)
    if gradient.shape == shape:
        return gradient
    if lead < 0 or gradient.shape != tuple(n for i, n in enumerate(shape) if lead + i not in axes):
        raise ValueError(f"a gradient of shape {gradient.shape} cannot be summed to {shape}")
    return gradient.reshape(shape)


def backpropagate(
    roots: Sequence[Vertex],
    gradients: Sequence[Any],
    arrive: Callable[[Vertex, Any, bool], None],
    targets: Collection[Vertex] | None = None,
    recorded: bool = False,
    release: bool = True,
) -> None:
    """Send gradients from the roots to the targets (by default: to every leaf that requires one).

    `arrive(vertex, gradient, owned)` is called once for each target, with its complete gradient; `owned` says that no
    one else holds that array. With `recorded`, gradients are Tensors and the pass is recorded. With `release`, the
    graph is taken apart on the way, so that activations are freed as early as they can be.

    Raises RuntimeError where the graph was released before, or where a leaf has been changed since the forward pass.
    """
    order = topological(roots)
    on_path = _on_path(order, targets)
    wanted = None if targets is None else {id(t) for t in targets}
    pending: dict[int, Any] = {}  # id of a vertex -> its gradient so far
    owned: set[int] = set()  # ids of vertices whose pending array was made here, and may be added to in place
    for root, gradient in zip(roots, gradients, strict=True):
        if root.requires_grad:
            pending[id(root)] = pending[id(root)] + gradient if id(root) in pending else gradient

    monitor = state.monitor
    while order:
        vertex = order.pop()
        g = pending.pop(id(vertex), None)
        node = vertex.node
        if g is None:
            if release and node is not None:
                node.args = None
            continue
        if vertex.extra is not None and vertex.extra.get("hooks"):
            g = _run_hooks(vertex, g)
            owned.discard(id(vertex))  # a hook may have kept the array
        if monitor is not None:
            monitor.visit(vertex, g)
        if (node is None or _is_retained(vertex)) if wanted is None else id(vertex) in wanted:
            arrive(vertex, g, id(vertex) in owned)
        if node is None:
            continue

        fun, args, kwargs, version = node.fun, node.args, node.kwargs, vertex.version
        assert args is not None
        y = vertex.value
        if type(g) is list:  # a call that returned several arrays: outputs nobody used have gradient zero
            g = [np.zeros_like(v) if one is None else one for one, v in zip(g, y, strict=True)]
        if recorded:
            values: Sequence[Any] = args
            y = tuple(select(vertex, i) for i in range(len(y))) if type(g) is list else vertex
            state.scope = node.scope
        else:
            values = []
            for a in args:
                values.append(a.value if isinstance(a, Vertex) else a)
        rule = RULES[fun]
        vjps, each = rule.vjps, rule.each
        for i, a in enumerate(args):
            if not isinstance(a, Vertex):
                continue
            if a.version > version:
                raise RuntimeError(
                    f"a tensor of shape {a.value.shape} was changed after {name_of(fun)} had read it, so this gradient "
                    "would be wrong; call backward() before the update, or run the forward pass again"
                )
            key = id(a)
            if not a.requires_grad or (on_path is not None and key not in on_path):
                continue
            if fun is select:
                slots = pending.setdefault(key, [None] * len(a.value))
                slot = args[1] if len(args) > 1 else kwargs["index"]
                slots[slot] = g if slots[slot] is None else slots[slot] + g
                if monitor is not None:
                    monitor.contribution(vertex, i, g)
                continue
            vjp = each if each is not None else vjps[i] if i < len(vjps) else None
            if vjp is None:
                continue
            c = vjp(g, y, *values, **kwargs) if each is None else vjp(i, g, y, *values, **kwargs)
            if monitor is not None:
                monitor.contribution(vertex, i, c)
            value = a.value
            if type(value) is not tuple and (getattr(c, "shape", None) != value.shape or c.dtype is not value.dtype):
                c = _fit(c, value, node, i)
            before = pending.get(key)
            if before is None:
                pending[key] = c
                if a.node is None and rule.fresh and _is_fresh(c, g, values):
                    owned.add(key)
            elif key in owned:
                np.add(before, c, out=before)
            else:
                pending[key] = total = before + c
                if not recorded and total.ndim:
                    owned.add(key)
        if release:
            node.args = None


def _is_retained(vertex: Vertex) -> bool:
    """Whether a computed vertex was asked to keep its gradient."""
    return vertex.extra is not None and bool(vertex.extra.get("retain_grad"))


def _is_fresh(c: Any, g: Any, values: Sequence[Any]) -> bool:
    """Whether a contribution is an array that nobody else holds: it may become a leaf's `.grad` without a copy.

    Rules of this package return a new array, or a view or one of their arguments; rules of a user may return anything.
    """
    return type(c) is np.ndarray and c is not g and c.base is None and not any(c is v for v in values)


def _on_path(order: Sequence[Vertex], targets: Collection[Vertex] | None) -> set[int] | None:
    """The ids of the vertices that a target was used for: the only ones the pass has to visit."""
    if targets is None:
        return None
    on_path = {id(t) for t in targets}
    for vertex in order:
        node = vertex.node
        if node is not None and any(id(a) in on_path for a in node.args or ()):
            on_path.add(id(vertex))
    return on_path


def _fit(c: Any, value: Any, node: Node, i: int) -> Any:
    """The one place where a contribution takes the shape and dtype of its argument."""
    try:
        if c.shape != value.shape:
            c = unbroadcast(c, value.shape)
        return c if c.dtype == value.dtype else c.astype(value.dtype)
    except (AttributeError, ValueError, IndexError) as error:
        raise RuntimeError(
            f"the rule of {name_of(node.fun)} for argument {i} returned {type(c).__name__} of shape "
            f"{getattr(c, 'shape', None)}, which is not a gradient for an argument of shape {value.shape}"
        ) from error


def _run_hooks(vertex: Vertex, g: Any) -> Any:
    """The gradient after each hook has seen it; what a hook returns takes its place."""
    for hook in list((vertex.extra or {}).get("hooks", {}).values()):
        replaced = hook(g)
        if replaced is None:
            continue
        if isinstance(replaced, Vertex) and not isinstance(g, Vertex):
            replaced = replaced.value
        if getattr(replaced, "shape", None) != vertex.value.shape:
            raise RuntimeError(
                f"the hook {name_of(hook)} returned {type(replaced).__name__} of shape "
                f"{getattr(replaced, 'shape', None)} for a gradient of shape {vertex.value.shape}; "
                "return an array of that shape, or None to leave the gradient as it is"
            )
        g = replaced if replaced.dtype == vertex.value.dtype else replaced.astype(vertex.value.dtype)
    return g
