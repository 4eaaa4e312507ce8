"""The graph: what a computation leaves behind, and the table that says how to differentiate it.

Floor 0. Nothing here knows what a Tensor is. A `Vertex` is any value that can stand in a graph; a `Node` is the
record of the one call that made it; a `Rule` says how to send a gradient back through such a call.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ContextDecorator
from types import MappingProxyType
from typing import Any, TypeVar

__all__ = [
    "Joint",
    "Monitor",
    "Node",
    "RULES",
    "Rule",
    "Scope",
    "Vertex",
    "defcomposite",
    "defkept",
    "defmetadata",
    "defstopped",
    "defvjp",
    "defvjp_each",
    "entered",
    "name_of",
    "primitive",
    "primitives_go_to",
    "released",
    "select",
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


class Joint(Node):
    """The record of the last of several calls made at once. Those before it have records once someone asks for `args`.

    `ends` are the tensors that the calls began with, those of the last call first, and `between` what is known of the
    results between; both are None once there are records, or the graph was released. Until then nobody can hold such a
    result, and a backward pass may take all calls at once.
    """

    __slots__ = ("between", "ends")

    between: Any
    ends: tuple[Any, ...] | None

    @property
    def args(self) -> tuple[Any, ...] | None:
        """The arguments of the last call."""
        if self.ends is not None:
            self.args = self.unfolded(self.ends)
        found: tuple[Any, ...] | None = _args_of_node.__get__(self)
        return found

    @args.setter
    def args(self, args: tuple[Any, ...] | None) -> None:
        _args_of_node.__set__(self, args)
        self.ends = self.between = None

    def unfolded(self, ends: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the last call, with the records of the calls before it."""
        raise NotImplementedError

    def way_back(self, version: int) -> tuple[Any, ...] | None:
        """The ends, where `back` does what the rules of all calls would do for a result of this version; else None."""
        raise NotImplementedError

    def back(self, gradient: Any, result: Any, ends: tuple[Any, ...]) -> Sequence[Any]:
        """The gradients of the ends, new arrays; None for one that requires none."""
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


# ---------------------------------------------------------------------------------------------------------------------
# The rule table
# ---------------------------------------------------------------------------------------------------------------------


class Rule:
    """What is known about one function.

    `forward`: what to call on plain arrays. `vjps`: one function per array argument, called as
    `vjp(g, y, *args, **kwargs)`. `each`: one function for any number of arguments, called as
    `each(i, g, y, *args, **kwargs)`. `composite`: an expression in functions that have rules. `names`: the parameters
    a rule understands, in order; `more` where it takes any number. A rule with none of the three stops the gradient.
    `fresh`: the rule is one of this package, whose results nobody else holds. `keeping` and `from_kept`: the short way
    through both passes that `defkept` gives.
    """

    __slots__ = (
        *("composite", "differentiable", "each", "forward", "fresh", "from_kept", "fun", "keeping", "law", "metadata"),
        *("more", "names", "vjps"),
    )

    def __init__(self, fun: Callable[..., Any]) -> None:
        self.fun = fun
        self.forward: Callable[..., Any] = getattr(fun, "forward", fun)
        self.vjps: tuple[Callable[..., Any] | None, ...] = ()
        self.each: Callable[..., Any] | None = None
        self.composite: Callable[..., Any] | None = None
        self.keeping: Callable[..., Any] | None = None
        self.from_kept: tuple[Callable[..., Any] | None, ...] = ()
        self.differentiable = False
        self.metadata = False
        self.names: tuple[str, ...] = ()
        self.more = False
        self.fresh = False
        self.law = ""


RULES: dict[Callable[..., Any], Rule] = {}

Function = TypeVar("Function", bound=Callable[..., Any])


def _rule(fun: Callable[..., Any]) -> Rule:
    return RULES.setdefault(fun, Rule(fun))


def _describe(rule: Rule, vjps: Iterable[Callable[..., Any] | None], skip: int) -> None:
    """Read off the functions of a rule which parameters it understands, and whether it is one of this package."""
    given = [vjp for vjp in vjps if vjp is not None]
    code = getattr(given[0], "__code__", None) if given else None
    rule.names = tuple(code.co_varnames[skip : code.co_argcount + code.co_kwonlyargcount]) if code else ()
    rule.more = code is None or bool(code.co_flags & inspect.CO_VARARGS)
    rule.fresh = all((getattr(vjp, "__module__", None) or "").startswith("tinygrad_mm.") for vjp in given)


def _check_operation(fun: Callable[..., Any]) -> None:
    """Refuse a rule for a function that Tensors would simply run through."""
    if not hasattr(fun, "forward") and not (getattr(fun, "__module__", None) or "numpy").startswith("numpy"):
        raise TypeError(
            f"defvjp: {name_of(fun)} is a plain function, so calls of it are not recorded and its rule would never be "
            "used; decorate it with @primitive first"
        )


def defvjp(fun: Callable[..., Any], *vjps: Callable[..., Any] | None, law: str = "") -> None:
    """Give `fun` its derivative: one function per array argument, `vjp(g, y, *args, **kwargs)`.

    Each returns the gradient of that argument, given the gradient `g` of the output `y` and the call's own arguments.
    It may be left at the shape that broadcasting gave it, and must be written in NumPy functions that have rules
    themselves; None stops the gradient of that argument. `law` is the shape law shown in the catalogue.

    Raises TypeError for a plain function, which needs `@primitive` first.

    >>> cube = primitive(lambda x: x * x * x)
    >>> defvjp(cube, lambda g, y, x: g * 3 * x * x, law="(...) -> (...)")
    >>> RULES[cube].vjps[0](1.0, 8.0, 2.0)
    12.0
    """
    _check_operation(fun)
    rule = _rule(fun)
    rule.vjps = vjps
    rule.differentiable = True
    rule.keeping = None  # a short way would be that of another rule
    _describe(rule, vjps, skip=2)
    rule.law = law or ("(...) -> (...)" if len(vjps) == 1 else "(...), (...) -> (...) broadcast")


def defkept(fun: Callable[..., Any], forward: Callable[..., Any], *vjps: Callable[..., Any] | None) -> None:
    """Let calls of `fun`, which has a rule, keep what its backward pass would otherwise compute a second time.

    `forward(*args, **kwargs)` returns what `fun` does, and what to keep; `vjp(g, kept, *args, **kwargs)`, one for each
    argument, returns what the rule does. This is a short way for plain arrays. The rule stays the only thing to know
    about `fun`: passes that are recorded, traced, watched or compiled take it.

    >>> import math
    >>> logistic = primitive(lambda x: 1 / (1 + math.exp(-x)))
    >>> defvjp(logistic, lambda g, y, x: g * y * (1 - y))
    >>> def keeping(x):
    ...     e = math.exp(-x)
    ...     return 1 / (1 + e), e
    >>> defkept(logistic, keeping, lambda g, e, x: g * e / (1 + e) ** 2)
    >>> RULES[logistic].keeping(0.0)
    (0.5, 1.0)
    """
    rule = RULES[fun]
    rule.keeping = forward
    rule.from_kept = vjps


def defvjp_each(fun: Callable[..., Any], each: Callable[..., Any], law: str = "") -> None:
    """Give `fun`, a function of any number of arrays, its derivative: `each(i, g, y, *args, **kwargs)`.

    >>> total = primitive(lambda *xs: sum(xs))
    >>> defvjp_each(total, lambda i, g, y, *xs: g, law="(...), ... -> (...)")
    >>> RULES[total].each(1, 5.0, 3.0, 1.0, 2.0)
    5.0
    """
    _check_operation(fun)
    rule = _rule(fun)
    rule.each = each
    rule.differentiable = True
    _describe(rule, [each], skip=3)
    rule.law = law


def defcomposite(fun: Callable[..., Any], expression: Callable[..., Any], law: str = "") -> None:
    """Say what `fun` is in terms of functions that have rules; `expression` has the signature of `fun`.

    Where `fun` also has a rule of its own, the expression serves the keywords which that rule does not know.

    >>> def double(x): return 2 * x
    >>> defcomposite(double, lambda x: x + x)
    >>> RULES[double].composite(3)
    6
    """
    rule = _rule(fun)
    rule.composite = expression
    rule.differentiable = True
    rule.law = rule.law or law


def defstopped(*funs: Callable[..., Any]) -> None:
    """Register functions whose derivative is zero or undefined: recorded, and the gradient stops there.

    >>> import numpy as np
    >>> defstopped(np.heaviside)
    >>> RULES[np.heaviside].differentiable
    False
    """
    for fun in funs:
        _rule(fun).law = "gradient stops"


def defmetadata(*funs: Callable[..., Any]) -> None:
    """Register functions that look at shapes and dtypes only, such as `np.ndim`: called on the arrays, not recorded."""
    for fun in funs:
        _rule(fun).metadata = True
        _rule(fun).law = "shape or dtype only"


_record: Callable[..., Any]


def primitives_go_to(call: Callable[..., Any]) -> None:
    """Say what records a call of a primitive, as `call(fun, args, kwargs)`: `recording.call`, two floors up."""
    global _record
    _record = call


def primitive(fun: Function) -> Function:
    """Make a function of arrays an operation of the graph; give it a rule with `defvjp`.

    On plain arrays it stays what it was. On Tensors it goes where NumPy's own functions go by way of NEP 18
    (`__array_function__`), so that the call is recorded.

    >>> import numpy as np
    >>> @primitive
    ... def cube(x):
    ...     return x ** 3
    >>> defvjp(cube, lambda g, y, x: g * 3 * x ** 2)
    >>> cube(np.array([1.0, 2.0]))
    array([1., 8.])
    """

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        for a in args:
            if isinstance(a, Vertex):
                return _record(call, args, kwargs)
        for a in kwargs.values():
            if isinstance(a, Vertex):
                return _record(call, args, kwargs)
        return fun(*args, **kwargs)

    call.forward = fun  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


@primitive
def select(outputs: Any, index: int) -> Any:
    """One output of a call that returned several.

    The backward pass knows this function by name: the gradients of all selections together are the gradient of the
    call.
    """
    return outputs[index]


defvjp(select, lambda g, y, outputs, index: g, law="((...), (...), ...) -> (...)")


def name_of(fun: Callable[..., Any]) -> str:
    """The name a reader knows a function by.

    >>> import numpy as np
    >>> name_of(np.add), name_of(np.linalg.inv)
    ('add', 'inv')
    """
    return (getattr(fun, "__name__", None) or type(fun).__name__).lstrip("_")


# ---------------------------------------------------------------------------------------------------------------------
# Order
# ---------------------------------------------------------------------------------------------------------------------


def released(node: Node) -> RuntimeError:
    """What to raise for a node whose arguments are gone."""
    return RuntimeError(
        f"the graph behind this {name_of(node.fun)} was released by an earlier backward pass; "
        "call that one as backward(retain_graph=True) to use the graph again"
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
