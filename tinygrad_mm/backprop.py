"""The reverse pass: one loop, from the outputs back to the leaves.

Floor 1. The same loop runs on plain arrays (a fast first-order pass) and on Tensors (a pass that is itself recorded, so
that it can be differentiated again): only what is handed to the rules differs.
"""

from __future__ import annotations

import functools
import operator
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.constants import ones
from tinygrad_mm.graph import RULES, Node, Rule, Vertex, name_of, released, select, state, topological

__all__ = ["backpropagate", "unbroadcast"]


Arrive: TypeAlias = Callable[[Vertex, Any, bool], None]

_time = operator.attrgetter("version")
_PLACES = range(2**62)


def unbroadcast(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Sum a gradient over the axes that broadcasting added or stretched.

    Shape: whatever `shape` broadcasts to -> `shape`

    >>> unbroadcast(np.ones((5, 3)), (3,))
    array([5., 5., 5.])
    """
    lead = gradient.ndim - len(shape)
    if lead == 1 and gradient.shape[1:] == shape:  # the usual case: a bias, added to every row of a batch
        if type(gradient) is np.ndarray and len(shape) == 1 and gradient.dtype.kind == "f":
            return ones(len(gradient), gradient.dtype).dot(gradient)  # in BLAS, a third of np.add.reduce's time
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
    arrive: Arrive,
    targets: Collection[Vertex] | None = None,
    recorded: bool = False,
    release: bool = True,
) -> None:
    """Send gradients from the roots to the targets (by default: to every leaf that requires one).

    `arrive(vertex, gradient, owned)` is called once for each target, with its complete gradient; `owned` says that no
    one else holds that array. With `recorded`, gradients are Tensors and the pass is recorded. With `release`, the
    graph is taken apart on the way, so that activations are freed as early as they can be.

    The vertex made last comes first: everything it was used for was made later still, so that its gradient is complete.
    Leaves come at the end, so that a pass that fails has left none with half of its gradient.

    Raises RuntimeError where the graph was released before, or where a leaf has been changed since the forward pass.
    """
    wanted = None if targets is None else set(targets)
    on_path = None if wanted is None else _on_path(topological(roots), wanted)  # ids, which keep nothing alive
    pending: dict[Vertex, Any] = {}  # computed vertices and their gradients so far
    ready: list[Vertex] = []  # the same vertices, in order of the time at which they were made
    leaves: dict[Vertex, Any] = {}  # leaves and their gradients so far
    owned: set[Vertex] = set()  # vertices whose gradient so far is an array made here, which may be added to in place
    for root, gradient in zip(roots, gradients, strict=True):
        if root.requires_grad:
            found = leaves if root.node is None else pending
            if root in found:
                found[root] = found[root] + gradient
            else:
                found[root] = gradient
                if root.node is not None:
                    insort(ready, root, key=_time)

    monitor = state.monitor
    watched = monitor is not None or wanted is not None
    while ready:
        vertex = ready.pop()
        g = pending.pop(vertex)
        if watched or vertex.extra is not None:
            g = _complete(vertex, g, arrive, owned, wanted)
        owned.discard(vertex)
        node = vertex.node
        assert node is not None
        fun, args, kwargs, version = node.fun, node.args, node.kwargs, vertex.version
        if args is None:
            raise released(node)

        if fun is select:  # what reads one output of a call adds to that output's place among the call's gradients
            a = args[0]
            if a.requires_grad and (on_path is None or id(a) in on_path):
                found = leaves if a.node is None else pending
                slots = found.get(a)
                if slots is None:
                    slots = found[a] = [None] * len(a.value)
                    if found is pending:
                        insort(ready, a, key=_time)
                slot = args[1] if len(args) > 1 else kwargs["index"]
                slots[slot] = g if slots[slot] is None else slots[slot] + g
                if monitor is not None:
                    monitor.contribution(vertex, 0, g)
            if release:
                node.args = None
            continue

        rule = RULES[fun]
        vjps: Iterable[Callable[..., Any] | None] = rule.vjps or _each(rule, args)
        values: list[Any] = []
        for a in args:
            if isinstance(a, Vertex):
                if a.version > version:
                    raise RuntimeError(
                        f"a tensor of shape {a.value.shape} was changed after {name_of(fun)} had read it, so this "
                        "gradient would be wrong; call backward() before the update, or run the forward pass again"
                    )
                values.append(a.value)
            else:
                values.append(a)
        y = vertex.value
        if type(g) is list:  # a call that returned several arrays: outputs nobody used have gradient zero
            g = [np.zeros_like(v) if one is None else one for one, v in zip(g, y, strict=True)]
        if recorded:
            values = list(args)
            y = tuple(select(vertex, i) for i in range(len(y))) if type(g) is list else vertex
            state.scope = node.scope

        for i, a, vjp in zip(_PLACES, args, vjps, strict=False):
            if vjp is None or not isinstance(a, Vertex) or not a.requires_grad:
                continue
            if on_path is not None and id(a) not in on_path:
                continue
            c = vjp(g, y, *values, **kwargs) if kwargs else vjp(g, y, *values)
            if c is None:  # nothing that this argument was used for has a gradient
                continue
            if monitor is not None:
                monitor.contribution(vertex, i, c)
            value = a.value
            if type(c) is not np.ndarray or c.shape != value.shape or c.dtype is not value.dtype:
                c = _fit(c, value, node, i)
            found = leaves if a.node is None else pending
            before = found.get(a)
            if before is None:
                found[a] = c
                if found is leaves:
                    if rule.fresh and c is not g and type(c) is np.ndarray and c.base is None:
                        for v in values:
                            if v is c:
                                break
                        else:  # a new array, which nobody else holds: it may become `.grad` without a copy
                            owned.add(a)
                elif ready and ready[-1].version > a.version:
                    insort(ready, a, key=_time)
                else:
                    ready.append(a)
            elif a in owned:
                np.add(before, c, out=before)
            else:
                found[a] = total = before + c
                if not recorded and total.ndim:
                    owned.add(a)
        if release:
            node.args = None

    for leaf, g in leaves.items():
        if watched or leaf.extra is not None:
            g = _complete(leaf, g, arrive, owned, wanted)
        if wanted is None:
            arrive(leaf, g, leaf in owned)


def _complete(vertex: Vertex, g: Any, arrive: Arrive, owned: set[Vertex], wanted: set[Vertex] | None) -> Any:
    """What a complete gradient goes through besides the rules: hooks, the monitor, and whoever asked to see it."""
    extra = vertex.extra or {}
    if extra.get("hooks"):
        g = _run_hooks(vertex, g)
        owned.discard(vertex)  # a hook may have kept the array
    if state.monitor is not None:
        state.monitor.visit(vertex, g)
    if vertex in wanted if wanted is not None else extra.get("retain_grad") and vertex.node is not None:
        arrive(vertex, g, vertex in owned)
    return g


def _each(rule: Rule, args: Sequence[Any]) -> list[Callable[..., Any]]:
    """The rule of a function of any number of arguments, once for each of them."""
    return [functools.partial(rule.each, i) for i in range(len(args))] if rule.each is not None else []


def _on_path(order: Sequence[Vertex], targets: Collection[Vertex]) -> set[int]:
    """The ids of the vertices that a target was used for: the only ones the pass has to visit."""
    on_path = {id(t) for t in targets}
    for vertex in order:
        node = vertex.node
        if node is not None and any(id(a) in on_path for a in node.args or ()):
            on_path.add(id(vertex))
    return on_path


def _fit(c: Any, value: Any, node: Node, i: int) -> Any:
    """The one place where a contribution takes the shape and dtype of its argument."""
    try:
        if type(value) is tuple:
            return c
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
