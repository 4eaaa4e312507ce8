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
    axes = tuple(range(lead)) + tuple(
        lead + i for i, n in enumerate(shape) if n == 1 and gradient.shape[lead + i] != 1
    )
    if axes:
        gradient = gradient.sum(axis=axes)
    return gradient if gradient.shape == shape else gradient.reshape(shape)


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

    while order:
        vertex = order.pop()
        g = pending.pop(id(vertex), None)
        if g is None:
            if release and vertex.node is not None:
                vertex.node.args = None
            continue
        node = vertex.node
        if vertex.extra is not None:
            g = _run_hooks(vertex, g)
        if node is None if wanted is None else id(vertex) in wanted:
            arrive(vertex, g, id(vertex) in owned)
        if node is None:
            continue

        fun, args, version = node.fun, node.args, vertex.version
        assert args is not None
        if type(g) is list:  # a call that returned several arrays: outputs nobody used have gradient zero
            g = [np.zeros_like(v) if one is None else one for one, v in zip(g, vertex.value, strict=True)]
        if recorded:
            values: Sequence[Any] = args
            y = vertex if type(g) is not list else tuple(select(vertex, i) for i in range(len(g)))
            state.scope = node.scope
        else:
            values = [a.value if isinstance(a, Vertex) else a for a in args]
            y = vertex.value
        rule = RULES[fun]
        for i, a in enumerate(args):
            if not isinstance(a, Vertex):
                continue
            if a.version > version:
                raise RuntimeError(
                    f"a tensor of shape {a.value.shape} was changed after {name_of(fun)} had read it, so this gradient "
                    "would be wrong; call backward() before the update, or run the forward pass again"
                )
            if not a.requires_grad or (on_path is not None and id(a) not in on_path):
                continue
            if fun is select:
                slots = pending.setdefault(id(a), [None] * len(a.value))
                slots[args[1]] = g if slots[args[1]] is None else slots[args[1]] + g
                continue
            if rule.each is not None:
                c = rule.each(i, g, y, *values, **node.kwargs)
            else:
                vjp = rule.vjps[i] if i < len(rule.vjps) else None
                if vjp is None:
                    continue
                c = vjp(g, y, *values, **node.kwargs)
            if state.monitor is not None:
                state.monitor.contribution(vertex, i, c)
            if type(a.value) is not tuple:
                c = _fit(c, a.value, node, i)
            before = pending.get(id(a))
            if before is None:
                pending[id(a)] = c
                if not recorded and c is not g and getattr(c, "base", c) is None and not any(c is v for v in values):
                    owned.add(id(a))
            elif id(a) in owned:
                np.add(before, c, out=before)
            else:
                pending[id(a)] = before + c
                if not recorded and pending[id(a)].ndim:
                    owned.add(id(a))
        if release:
            node.args = None


def _on_path(order: Sequence[Vertex], targets: Collection[Vertex] | None) -> set[int] | None:
    """The ids of the vertices that a target was used for: the only ones the pass has to visit."""
    if targets is None:
        return None
    on_path = {id(t) for t in targets}
    for vertex in order:
        if vertex.node is not None and vertex.node.args is not None:
            if any(id(a) in on_path for a in vertex.node.args):
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
    for hook in list((vertex.extra or {}).get("hooks", {}).values()):
        replaced = hook(g)
        g = g if replaced is None else replaced
    return g
