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
    "Joint",
    "Monitor",
    "Node",
    "Scope",
    "Vertex",
    "entered",
    "name_of",
    "released",
    "state",
    "thread",
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
    cycles, freed by reference counting alone. `args` is None once a backward pass has released the graph. `kept` is
    what the call has put aside for the backward pass, where it has a rule of `defkept`.
    """

    __slots__ = ("args", "fun", "kept", "kwargs", "line", "scope")

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
        self.kept: Any = None

    def __repr__(self) -> str:
        return f"<Node {name_of(self.fun)}{' (released)' if self.args is None else ''}>"


_args_of_node: Any = Node.__dict__["args"]
_unfolding = threading.Lock()


class Joint(Node):
    """The record of the last of several calls made at once. Those before it have records once someone asks for `args`.

    `folded` is the tensor that the calls began with, and what is known of them; None once there are records, or the
    graph was released. Until then nobody can hold a result between, and a backward pass may take all calls at once.
    """

    __slots__ = ("folded",)

    folded: tuple[Any, Any] | None

    @property
    def args(self) -> tuple[Any, ...] | None:
        """The arguments of the last call."""
        if self.folded is not None:
            with _unfolding:  # one thread makes the records
                if (folded := self.folded) is not None:
                    args = self.unfolded(*folded)
                    if self.folded is not None:  # not released meanwhile
                        self.args = args
        try:
            found: tuple[Any, ...] | None = _args_of_node.__get__(self)
        except AttributeError:  # released before anybody looked
            found = None
        return found

    @args.setter
    def args(self, args: tuple[Any, ...] | None) -> None:
        _args_of_node.__set__(self, args)
        self.folded = None

    def unfolded(self, first: Any, calls: Any) -> tuple[Any, ...]:
        """The arguments of the last call, with the records of the calls before it."""
        raise NotImplementedError

    def back(self, gradient: Any, result: Any) -> list[tuple[Any, Any]] | None:
        """Each tensor that was given to the calls and requires a gradient, with that: an array that nobody else holds.

        None where that is not what the rules of all calls would do, or where there are records.
        """
        raise NotImplementedError


class Vertex:
    """A value in a graph: `value` is the array (or a tuple of arrays), `node` the call that made it or None.

    `version` is the tick of the clock at which the value was last written.
    """

    __slots__ = ("__weakref__", "extra", "grad", "node", "requires_grad", "value", "version")

    value: Any
    node: Node | None
    requires_grad: bool
    grad: Any
    version: int
    extra: dict[str, Any] | None


class Scope:
    """Where a call was made: one entry of a module's `__call__`, inside another one.

    `token` identifies the module without holding it (a graph must not keep a model alive); `label` is its class name.
    """

    __slots__ = ("label", "parent", "token")

    def __init__(self, token: object, label: str, parent: Scope | None) -> None:
        self.token = token
        self.label = label
        self.parent = parent

    def __repr__(self) -> str:
        return f"{self.parent!r}.{self.label}" if self.parent else self.label


class Monitor:
    """Told of every call and every step of a backward pass while it is `state.monitor`; does nothing by itself."""

    def result(self, vertex: Vertex, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """`vertex` was computed as `fun(*args, **kwargs)`."""

    def visit(self, vertex: Vertex, gradient: Any) -> None:
        """The gradient of `vertex` is complete, and its rules run next."""

    def contribution(self, vertex: Vertex, i: int, gradient: Any) -> None:
        """The rule of the call behind `vertex` gave this for its i-th argument, not yet summed back or cast."""


class State:
    """What a thread is doing.

    `recording`: results that need a gradient remember how they were made (`no_grad` turns it off).
    `tracing`: every call is recorded, and no value may leave the graph.
    `scope`: the innermost module being called. `lines`: record source lines too. `monitor`: told of every result.
    `watched`: any of tracing, lines and monitor, kept up to date by `entered`, so that the usual call looks once.
    `replaying`: inside a `checkpoint` replay, where side effects must not happen twice.
    `generators`: the random generators drawn from so far, with their states before, where someone asks.
    `assigned`: while tracing, for each buffer that was assigned, by its id: the buffer, the Tensor that it stands for
    since then, and its array before.
    """

    __slots__ = (
        *("assigned", "generators", "lines", "monitor", "recording", "replaying", "scope", "tracing", "watched"),
    )

    def __init__(self) -> None:
        self.recording: bool = True
        self.tracing: bool = False
        self.scope: Scope | None = None
        self.lines: bool = False
        self.monitor: Monitor | None = None
        self.watched: bool = False
        self.replaying: bool = False
        self.generators: dict[int, tuple[Any, Any]] | None = None
        self.assigned: dict[int, tuple[Vertex, Vertex, Any]] | None = None


class _Thread(threading.local):
    """`now` is the State of the thread that asks. Each look costs more than what is done with it, so look once."""

    def __init__(self) -> None:
        self.now = State()


class _Current:
    """Stands for the State of the current thread, for code that seldom asks: `state.scope` is `thread.now.scope`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(thread.now, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(thread.now, name, value)


thread = _Thread()
state: State = _Current()  # type: ignore[assignment]  # it has the attributes of one


class entered(ContextDecorator):  # noqa: N801 (used like a function)
    """Change attributes of the thread's state for the length of a `with` block (or of a decorated function)."""

    def __init__(self, **changes: Any) -> None:
        self._changes = changes

    def __enter__(self) -> None:
        now = thread.now
        self._before = {name: getattr(now, name) for name in [*self._changes, "watched"]}
        for name, value in self._changes.items():
            setattr(now, name, value)
        now.watched = now.tracing or now.lines or now.monitor is not None

    def __exit__(self, *error: object) -> None:
        for name, value in self._before.items():
            setattr(thread.now, name, value)

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
