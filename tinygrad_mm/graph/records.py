"""The records that a computation graph is made of, and the state of each thread.

A graph alternates between two kinds of record: a `Vertex` is a value (`Tensor` is its subclass), a `Node` the call that
computed it. A vertex refers to its node, a node to its arguments, which are vertices again; leaves have no node.
"""

from __future__ import annotations

import itertools
import operator
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ContextDecorator
from types import MappingProxyType
from typing import Any

import numpy as np

__all__ = [
    "NO_KWARGS",
    "Monitor",
    "Node",
    "Scope",
    "Vertex",
    "entered",
    "module_of",
    "name_of",
    "released",
    "state",
    "tick",
    "topological",
]

NO_KWARGS: Mapping[str, Any] = MappingProxyType({})

# One counter for the whole process, from which every value gets its `version` when it is made or written. A result has
# a larger version than its arguments: so sorting by version gives a topological order, and an argument with a larger
# version than the result has been changed since.
tick = itertools.count(1).__next__


class Node:
    """The record of one call: `fun(*args, **kwargs)`.

    It holds no reference to its output, so a graph is a chain of references from results to arguments, without
    cycles, freed by reference counting alone. `args` is None once a backward pass has released the graph. `scope` is
    the module that made the call, `line` its source line (file, number), where those are recorded.
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
    """A value in a graph: `value` is the array (or a tuple of arrays), `node` the call that computed it or None.

    `version` is the tick at which the value was last written.
    """

    __slots__ = ("__weakref__", "extra", "grad", "node", "requires_grad", "value", "version")

    __array_function__: Callable[..., Any]  # what NumPy's functions and `primitive` ones call (NEP 18)

    def __init__(self, value: Any, node: Node | None = None, requires_grad: bool = False) -> None:
        self.value = value
        self.node = node
        self.requires_grad = requires_grad
        self.grad: Any = None
        self.version: int = tick()
        self.extra: dict[str, Any] | None = None  # a name, hooks, ...: few vertices have any


class Scope:
    """One call of a module or of a `named_call` function, which operations are recorded in; `parent` is the one around.

    `token` identifies the module without holding it (a graph must not keep a model alive); `label` is its class name.
    For a function `token` is the function itself. `given` is what it was called with, by name: arrays by weak
    references, other values that are as small as a number; nothing else. `start` is the time at which the outermost of
    the calls around began.
    """

    __slots__ = ("given", "label", "parent", "start", "token")

    def __init__(self, token: object, label: str, parent: Scope | None, given: Mapping[str, Any] = NO_KWARGS) -> None:
        self.token = token
        self.label = label
        self.parent = parent
        self.start: int = tick() if parent is None else parent.start
        self.given = {name: noted for name, a in given.items() if (noted := _noted(a)) is not None}

    def __repr__(self) -> str:
        return f"{self.parent!r}.{self.label}" if self.parent else self.label

    @property
    def module(self) -> Scope | None:
        """The innermost call of a module."""
        scope: Scope | None = self
        while scope is not None and callable(scope.token):  # a function
            scope = scope.parent
        return scope


def _noted(a: Any) -> Any:
    """What a scope notes of an argument; None where that is nothing."""
    if isinstance(a, (bool, int, float, str)):
        return a
    if isinstance(a, tuple):
        return a if all(isinstance(one, (int, float)) for one in a) else None
    return weakref.ref(a) if isinstance(a, (Vertex, np.ndarray)) else None


class Monitor:
    """Told of every call and every step of a backward pass while it is `state.monitor`; does nothing by itself."""

    def result(self, vertex: Vertex, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`vertex` was computed as `fun(*args, **kwargs)`."""

    def visit(self, vertex: Vertex, gradient: Any) -> None:
        """The gradient of `vertex` is complete, and its rules run next."""

    def contribution(self, vertex: Vertex, i: int, gradient: Any) -> None:
        """The rule of the call behind `vertex` gave this for its i-th argument; it is un-broadcast and cast next."""


class State(threading.local):
    """What a thread is doing; each thread has its own."""

    def __init__(self) -> None:
        self.recording: bool = True  # results that need a gradient remember how they were made (`no_grad`: they don't)
        self.complete: bool = False  # calls on data that needs no gradient are recorded too, as in a `named_call`
        self.tracing: bool = False  # every call is recorded, and no value may leave the graph
        self.transforming: bool = False  # a transform (`grad(f)`, ...) is calling its function
        self.scope: Scope | None = None  # the innermost module being called
        self.lines: bool = False  # record source lines too
        self.monitor: Monitor | None = None  # told of every result
        self.replaying: bool = False  # inside a `checkpoint` replay, where side effects must not happen twice
        # By id, each random generator drawn from and its state before; None where nobody asks (`checkpoint` does).
        self.generators: dict[int, tuple[Any, Any]] | None = None
        # While tracing, by the id of a Buffer that was assigned: the buffer, its new value as a Tensor, and its array
        # before.
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


def module_of(fun: Callable[..., Any]) -> str:
    """The module that a function is known by, "" where none is: ufuncs do not say which of NumPy or SciPy has them.

    >>> import numpy as np
    >>> module_of(np.exp), module_of(np.linalg.inv)
    ('numpy', 'numpy.linalg')
    """
    named = getattr(fun, "__module__", None)
    if named:
        return str(named)
    name = getattr(fun, "__name__", "")
    homes = ("numpy", "scipy.special", "scipy.special._ufuncs")
    return next((home for home in homes if getattr(sys.modules.get(home), name, None) is fun), "")


def released(node: Node) -> RuntimeError:
    """What to raise for a node whose arguments are gone."""
    return RuntimeError(
        f"the graph behind this {name_of(node.fun)} was released by an earlier backward pass. Of several losses, take "
        "the backward pass of their sum; detach a state that one pass hands to the next, as h.detach(); make "
        "pictures and explanations before backward(); or keep the graph, with backward(retain_graph=True)"
    )


def topological(roots: Iterable[Vertex], everything: bool = False) -> list[Vertex]:
    """The roots and all vertices that they were computed from, arguments before results.

    By default only those that require a gradient; with `everything` constants and masks too. The search needs no
    recursion, which would limit the depth of a graph, and sorting by `version` gives the order: arguments are older.

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
