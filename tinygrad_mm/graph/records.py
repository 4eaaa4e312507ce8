"""Records: what a computation leaves behind, and what a thread is doing meanwhile.

Nothing here knows what a Tensor is. A `Vertex` is any value that can stand in a graph; a `Node` is the record of the
one call that made it.
"""

from __future__ import annotations

import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ContextDecorator
from types import MappingProxyType
from typing import Any

__all__ = [
    "NO_KWARGS",
    "Monitor",
    "Node",
    "Scope",
    "Vertex",
    "entered",
    "name_of",
    "released",
    "state",
    "tick",
    "topological",
]

NO_KWARGS: Mapping[str, Any] = MappingProxyType({})

# One clock for the whole process. Every result is stamped when it is made, every leaf when it is written:
# a result's stamp is larger than that of everything it was made from, unless something was changed since.
tick = itertools.count(1).__next__


class Node:
    """The record of one call: `fun(*args, **kwargs)`.

    It holds no reference to its output, so a graph is a chain of references from results to arguments, without
    cycles, freed by reference counting alone. `args` is None once a backward pass has released the graph.
    """

    __slots__ = ("args", "fun", "kwargs", "line", "scope")

    def __init__(
        self,
        fun: Callable[..., Any],
        args: tuple[Any, ...] | None,
        kwargs: Mapping[str, Any],
        scope: Scope | None = None,
        line: tuple[str, int] | None = None,
    ) -> None:
        self.fun = fun
        self.args = args
        self.kwargs = kwargs
        self.scope = scope
        self.line = line

    def __repr__(self) -> str:
        return f"<Node {name_of(self.fun)}{' (released)' if self.args is None else ''}>"


class Vertex:
    """A value in a graph: `value` is the array (or a tuple of arrays), `node` the call that made it or None.

    `version` is the tick of the clock at which the value was last written.
    """

    __slots__ = ("__weakref__", "extra", "grad", "node", "requires_grad", "value", "version")

    __array_function__: Callable[..., Any]  # where NumPy's functions, and our own, go with it (NEP 18)

    def __init__(self, value: Any, node: Node | None = None, requires_grad: bool = False) -> None:
        self.value = value
        self.node = node
        self.requires_grad = requires_grad
        self.grad: Any = None
        self.version: int = tick()
        self.extra: dict[str, Any] | None = None  # what few have: a name, hooks


class Scope:
    """Where a call was made: one entry of a module's `__call__`, or one call of a `named_call`, inside another one.

    `token` identifies the module without holding it (a graph must not keep a model alive); `label` is its class name.
    For a function `token` is the function itself.
    """

    __slots__ = ("label", "parent", "token")

    def __init__(self, token: object, label: str, parent: Scope | None) -> None:
        self.token = token
        self.label = label
        self.parent = parent

    def __repr__(self) -> str:
        return f"{self.parent!r}.{self.label}" if self.parent else self.label

    @property
    def module(self) -> Scope | None:
        """The innermost call of a module."""
        scope: Scope | None = self
        while scope is not None and callable(scope.token):
            scope = scope.parent
        return scope


class Monitor:
    """Told of every call and every step of a backward pass while it is `state.monitor`; does nothing by itself."""

    def result(self, vertex: Vertex, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`vertex` was computed as `fun(*args, **kwargs)`."""

    def visit(self, vertex: Vertex, gradient: Any) -> None:
        """The gradient of `vertex` is complete, and its rules run next."""

    def contribution(self, vertex: Vertex, i: int, gradient: Any) -> None:
        """The rule of the call behind `vertex` gave this for its i-th argument, not yet summed back or cast."""


class State(threading.local):
    """What a thread is doing; each thread has its own."""

    def __init__(self) -> None:
        self.recording: bool = True  # results that need a gradient remember how they were made (`no_grad`: they don't)
        self.complete: bool = False  # inside a `named_call`: calls on data that needs no gradient are recorded too
        self.tracing: bool = False  # every call is recorded, and no value may leave the graph
        self.transforming: bool = False  # a transform (`grad(f)`, ...) is calling its function
        self.scope: Scope | None = None  # the innermost module being called
        self.lines: bool = False  # record source lines too
        self.monitor: Monitor | None = None  # told of every result
        self.replaying: bool = False  # inside a `checkpoint` replay, where side effects must not happen twice
        # The random generators drawn from so far, with their states before, where someone asks.
        self.generators: dict[int, tuple[Any, Any]] | None = None
        # While tracing: by the id of a buffer that was assigned, the buffer, the Tensor that it stands for since, and
        # its array before.
        self.assigned: dict[int, tuple[Vertex, Vertex, Any]] | None = None

    @property
    def watched(self) -> bool:
        """Whether someone wants to see each call."""
        return self.tracing or self.lines or self.monitor is not None


state = State()


class entered(ContextDecorator):  # noqa: N801 (used like a function)
    """Change attributes of the thread's state for the length of a `with` block (or of a decorated function)."""

    def __init__(self, **changes: Any) -> None:
        self._changes = changes

    def __enter__(self) -> None:
        self._before = {name: getattr(state, name) for name in self._changes}
        vars(state).update(self._changes)

    def __exit__(self, *error: object) -> None:
        vars(state).update(self._before)

    def _recreate_cm(self) -> entered:
        return entered(**self._changes)  # each call of a decorated function has one of its own


def name_of(fun: Callable[..., Any]) -> str:
    """The name a reader knows a function by.

    >>> import numpy as np
    >>> name_of(np.add), name_of(np.linalg.inv)
    ('add', 'inv')
    """
    return (getattr(fun, "__name__", None) or type(fun).__name__).lstrip("_")


def released(node: Node) -> RuntimeError:
    """What to raise for a node whose arguments are gone."""
    return RuntimeError(
        f"the graph behind this {name_of(node.fun)} was released by an earlier backward pass. Of several losses, take "
        "the backward pass of their sum; cut a state that is carried on loose with h.detach(); make pictures and "
        "explanations before backward(); or call that one as backward(retain_graph=True) to use the graph again"
    )


def topological(roots: Iterable[Vertex], everything: bool = False) -> list[Vertex]:
    """All vertices that the roots were made from, arguments before results, without recursion.

    By default only those on the way of a gradient (`requires_grad`); with `everything` constants and masks too.
    Vertices are sorted by the time at which they were made, which is an order that dependencies respect.

    Raises RuntimeError where a backward pass has released the graph.
    """
    found: list[Vertex] = []
    seen: set[int] = set()
    stack = [r for r in roots if everything or r.requires_grad]
    while stack:
        vertex = stack.pop()
        if id(vertex) in seen:
            continue
        seen.add(id(vertex))
        found.append(vertex)
        if vertex.node is not None:
            if vertex.node.args is None:
                raise released(vertex.node)
            for a in vertex.node.args:
                if isinstance(a, Vertex) and (everything or a.requires_grad):
                    stack.append(a)
    found.sort(key=operator.attrgetter("version"))
    return found
