"""The reverse pass: one loop, from the outputs back to the leaves.

Floor 1. The same loop runs on plain arrays (a fast first-order pass) and on Tensors (a pass that is itself recorded, so
that it can be differentiated again): only what is handed to the rules differs.
"""

from __future__ import annotations

import functools
import operator
from bisect import insort
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.constants import ones
from tinygrad_mm.graph import (
    NO_KWARGS,
    RULES,
    Joint,
    Node,
    Rule,
    Vertex,
    name_of,
    released,
    select,
    thread,
    topological,
)
from tinygrad_mm.memory import keep_freed_memory

__all__ = ["backpropagate", "unbroadcast"]


Arrive: TypeAlias = Callable[[Vertex, Any, bool], None]

_time = operator.attrgetter("version")
ndarray = np.ndarray  # found sooner than in its module, where each contribution asks


def unbroadcast(gradient: Any, shape: tuple[int, ...]) -> Any:
    """Sum a gradient over the axes that broadcasting added or stretched.

    Shape: whatever `shape` broadcasts to -> `shape`

    >>> unbroadcast(np.ones((5, 3)), (3,))
    array([5., 5., 5.])
    """
    given = gradient.shape
    if len(shape) == 1 and len(given) == 2 and given[1] == shape[0]:  # the usual case: a bias, added to a batch's rows
        dtype = gradient.dtype
        if type(gradient) is ndarray and dtype.kind == "f":
            return ones(given[0], dtype).dot(gradient)  # in BLAS, a third of np.add.reduce's time
        return np.add.reduce(gradient, axis=0)
    if given == shape:
        return gradient
    lead = len(given) - len(shape)
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
    if not recorded:
        keep_freed_memory()
    wanted = None if targets is None else set(targets)
    on_path = None if wanted is None else _on_path(topological(roots), wanted)  # ids, which keep nothing alive
    pending: dict[Vertex, Any] = {}  # computed vertices and their gradients so far
    leaves: dict[Vertex, Any] = {}  # leaves and their gradients so far
    shared: set[Vertex] = set()  # leaves whose gradient so far is an array that someone else may hold
    summed: set[Vertex] = set()  # vertices whose gradient so far is a sum made here: more is added to it in place
    for root, gradient in zip(roots, gradients, strict=True):
        if root.requires_grad:
            found = leaves if root.node is None else pending
            found[root] = found[root] + gradient if root in found else gradient
    shared.update(leaves)
    ready = sorted(pending, key=_time)  # the computed vertices, in order of the time at which they were made

    monitor = thread.now.monitor
    watched = monitor is not None or wanted is not None
    by_rules = watched or recorded  # each call by the rule of its own
    while ready:
        vertex = ready.pop()
        g = pending.pop(vertex)
        if watched or vertex.extra is not None:
            g = _complete(vertex, g, arrive, shared, wanted)
        if summed:
            summed.discard(vertex)
        node = vertex.node
        assert node is not None

        if not by_rules and isinstance(node, Joint):
            at_once = node.back(g, vertex)
            if at_once is not None:
                for a, c in at_once:
                    found = leaves if a.node is None else pending
                    if a in found:
                        _add(found, a, c, summed, shared)
                        continue
                    found[a] = c
                    if found is pending:
                        if ready and ready[-1].version > a.version:
                            insort(ready, a, key=_time)
                        else:
                            ready.append(a)
                if release:
                    looked_at = node.folded is None  # by another thread, meanwhile
                    node.folded = None
                    if looked_at:
                        node.args = None
                continue

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
        rule, y = RULES[fun], vertex.value
        operands: Sequence[Any] = values
        if type(g) is list:  # a call that returned several arrays: outputs nobody used have gradient zero
            g = [np.zeros_like(v) if one is None else one for one, v in zip(g, y, strict=True)]
        vjps = rule.vjps or _each(rule, args)
        if recorded:
            operands = args
            y = tuple(select(vertex, i) for i in range(len(y))) if type(g) is list else vertex
            thread.now.scope = node.scope
        elif node.kept is not None:
            y, vjps = node.kept, rule.from_kept

        i, count = -1, len(args)
        for vjp in vjps:  # counted by hand: a `zip` of all three takes twice the time on two arguments
            i += 1
            if i == count:
                break
            a, value = args[i], values[i]
            if value is a or vjp is None or not a.requires_grad:
                continue
            if on_path is not None and id(a) not in on_path:
                continue
            c = vjp(g, y, *operands) if kwargs is NO_KWARGS else vjp(g, y, *operands, **kwargs)
            if c is None:  # nothing that this argument was used for has a gradient
                continue
            if monitor is not None:
                monitor.contribution(vertex, i, c)
            if type(c) is not ndarray or c.shape != value.shape or c.dtype is not value.dtype:
                c = _fit(c, value, node, i)
            found = leaves if a.node is None else pending
            if a in found:
                _add(found, a, c, summed, shared)
                continue
            found[a] = c
            if found is leaves:  # a new array that nobody else holds may become `.grad` without a copy
                if not rule.fresh or c is g or c is y or type(c) is not ndarray or c.base is not None:
                    shared.add(a)
                else:
                    for v in values:
                        if v is c:
                            shared.add(a)
            elif ready and ready[-1].version > a.version:
                insort(ready, a, key=_time)
            else:
                ready.append(a)
        if release:
            node.args = node.kept = None

    for leaf, g in leaves.items():
        if watched or leaf.extra is not None:
            g = _complete(leaf, g, arrive, shared, wanted)
        if wanted is None:
            arrive(leaf, g, leaf not in shared)


def _add(found: dict[Vertex, Any], vertex: Vertex, contribution: Any, summed: set[Vertex], shared: set[Vertex]) -> None:
    """One more contribution to a gradient: in place where the sum so far was made here."""
    if vertex in summed:
        np.add(found[vertex], contribution, out=found[vertex])
        return
    found[vertex] = total = found[vertex] + contribution
    if type(total) is ndarray:
        summed.add(vertex)
        shared.discard(vertex)


def _complete(vertex: Vertex, g: Any, arrive: Arrive, shared: set[Vertex], wanted: set[Vertex] | None) -> Any:
    """What a complete gradient goes through besides the rules: hooks, the monitor, and whoever asked to see it."""
    extra = vertex.extra or {}
    if extra.get("hooks"):
        g = _run_hooks(vertex, g)
        if vertex.node is None:
            shared.add(vertex)  # a hook may have kept the array
    if thread.now.monitor is not None:
        thread.now.monitor.visit(vertex, g)
    if vertex in wanted if wanted is not None else extra.get("retain_grad") and vertex.node is not None:
        arrive(vertex, g, vertex.node is None and vertex not in shared)
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
