"""Recording: the one way from a call to its record.

Floor 2. Operators, NumPy's functions and our own all end in `apply`, which calls the function on plain arrays and
leaves a Node behind where a gradient will be wanted. `call` brings what NumPy's dispatch hands over into normal form
first.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.arrays import array_of, as_array, is_foreign_array, operand_array
from tinygrad_mm.errors import caller, explained, qualified
from tinygrad_mm.graph import NO_KWARGS, RULES, Node, Rule, Vertex, primitives_go_to, select, state, thread, tick
from tinygrad_mm.rules.indexing import Slot

__all__ = [
    "applied",
    "apply",
    "as_it_is",
    "binary",
    "call",
    "index",
    "operand",
    "recorded",
    "refuse_while_tracing",
    "result",
    "results_are",
]

ndarray = np.ndarray  # found sooner than in its module, where each operation asks

# Types that an operation takes as they are. Python numbers among them are weak: they never change a Tensor's dtype.
_AS_THEY_ARE = frozenset({float, int, bool, np.ndarray, type(None), tuple, str, type})
_UFUNCS_TAKE = _AS_THEY_ARE - {tuple}  # a tuple may be a shape elsewhere, beside an operator it is a sequence

# Answers about arrays that depend on what these hold.
_LOOK_AT_VALUES = frozenset({np.array_equal, np.array_equiv, np.allclose, np.min_scalar_type})

_new_node = Node.__new__
_new_tensor = Vertex.__new__
_kind: type[Vertex] = Vertex


def results_are(kind: type[Vertex]) -> None:
    """Say which class of Vertex a result is: `Tensor`, which stands one floor up."""
    global _kind
    _kind = kind


def as_it_is(a: Any) -> bool:
    """Whether an operand of a ufunc is in normal form already."""
    return isinstance(a, Vertex) or type(a) in _UFUNCS_TAKE


def binary(fun: np.ufunc) -> tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]:
    """The operator `a fun b` and its reflection: the fast door, one call between the operator and the record."""
    rule = RULES[fun]

    def operator(self: Any, other: Any) -> Any:
        needed = self.requires_grad
        if isinstance(other, Vertex):
            needed = needed or other.requires_grad
            b = other.value
        elif type(other) in _UFUNCS_TAKE:
            b = other
        elif _foreign(other):
            return NotImplemented
        else:
            b = other = operand(other, (list, tuple))
        try:
            value = rule.forward(self.value, b)
        except Exception as error:
            raise explained(error, fun, (self.value, b), NO_KWARGS) from error
        return recorded(rule, (self, other), NO_KWARGS, value, needed)

    def reflected(self: Any, other: Any) -> Any:
        return NotImplemented if _foreign(other) else apply(fun, (operand(other, (list, tuple)), self))

    return operator, reflected


def apply(fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] = NO_KWARGS) -> Any:
    """Call `fun` on the arrays behind the arguments and record the call: the heart of the engine.

    Arguments are in normal form: Tensors, arrays, and Python values, no Tensor hidden in a container.
    """
    return applied(RULES[fun], args, kwargs)


def applied(rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """`apply`, where the rule is at hand."""
    values = []
    needed = False
    for a in args:
        if isinstance(a, Vertex):
            values.append(a.value)
            if a.requires_grad:
                needed = True
        else:
            values.append(a)
    # A rule of `defkept` is for a first-order pass that nobody watches: tracers and monitors see the plain call.
    keeps = needed and rule.keeping is not None and thread.now.recording and not thread.now.watched
    forward: Any = rule.keeping if keeps else rule.forward
    try:
        value = forward(*values) if kwargs is NO_KWARGS else forward(*values, **kwargs)
    except Exception as error:
        fun = rule.fun  # a local variable, as in `apply`: this is where `draw_error` finds it
        raise explained(error, fun, values, kwargs) from error
    if keeps:
        value, kept = value
    tensor = recorded(rule, args, kwargs, value, needed)
    if keeps:
        tensor.node.kept = kept
    if type(value) is not ndarray and type(tensor.value) is tuple:
        outputs = [apply(select, (tensor, i)) for i in range(len(tensor.value))]
        return type(value)(*outputs) if hasattr(value, "_fields") else type(value)(outputs)
    return tensor


def recorded(rule: Rule, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any, needed: bool) -> Any:
    """The result of a call as a Tensor, with the record of the call where one is needed."""
    if type(value) is not ndarray:
        value = tuple(value) if isinstance(value, (tuple, list)) else np.asarray(value)
    now = thread.now
    tensor = _new_tensor(_kind)  # as in `result`: written out, for this is what every operation passes through
    tensor.value = value
    tensor.grad = tensor.extra = None
    tensor.version = tick()
    if needed and now.recording:
        tensor.node = node = _new_node(Node)
        node.fun = rule.fun
        node.args = args
        node.kwargs = kwargs
        node.scope = now.scope
        node.line = node.kept = None
        tensor.requires_grad = rule.differentiable and (type(value) is tuple or value.dtype.kind == "f")
    else:
        tensor.node = None
        tensor.requires_grad = False
    if now.watched:
        _watched(tensor, rule.fun, args, kwargs)
    return tensor


def _watched(tensor: Any, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """What tracing, source lines and monitors add to a record."""
    if state.tracing:
        if state.assigned:  # what a buffer was assigned is what later calls read
            args = tuple(state.assigned[id(a)][1] if id(a) in state.assigned else a for a in args)
        tensor.node = Node(fun, args, kwargs, state.scope)
    if state.lines and tensor.node is not None:
        tensor.node.line = caller()
    if state.monitor is not None:
        state.monitor.result(tensor, fun, args, kwargs)


def result(value: Any) -> Any:
    """An array as a Tensor outside any graph."""
    tensor = _new_tensor(_kind)
    if type(value) is not ndarray:
        value = tuple(value) if isinstance(value, (tuple, list)) else np.asarray(value)
    tensor.value = value
    tensor.requires_grad = False
    tensor.node = tensor.grad = tensor.extra = None
    tensor.version = tick()
    return tensor


def call(fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """NumPy's door: bring a call into normal form, then apply it."""
    rule = RULES.get(fun)
    if not kwargs and rule is not None and len(args) <= len(rule.vjps) and type(fun) is not np.ufunc:
        for a in args:
            if not isinstance(a, Vertex) and type(a) not in _AS_THEY_ARE:
                break
        else:  # in normal form already, as most calls are
            return applied(rule, tuple(args), NO_KWARGS)
    if rule is None:
        raise TypeError(
            f"{qualified(fun)} has no derivative rule. Register one with tg.defvjp or write it as an expression of "
            "functions that have rules with tg.defcomposite; or pass t.detach().data if no gradient is needed"
        )
    if kwargs.get("out") is not None or _positional_out(fun, args):
        raise TypeError(f"{qualified(fun)}: out= would write into an array outside the graph; use the returned Tensor")
    if rule.metadata:
        if fun in _LOOK_AT_VALUES:
            refuse_while_tracing(qualified(fun))
        return fun(*_plain(args), **_plain(kwargs))
    args = [_given(a) for a in args]
    kwargs = {name: _given(a) for name, a in kwargs.items()}
    if isinstance(fun, np.ufunc):
        args = [operand(a, (list, tuple)) for a in args]
    if not rule.differentiable:
        if state.tracing and _hidden(args, kwargs):
            raise TypeError(f"{qualified(fun)}: a Tensor inside a container or keyword cannot be traced")
        return apply(fun, tuple(map(_top, args)), _plain(kwargs))
    if rule.each is None and not rule.vjps:
        assert rule.composite is not None
        return rule.composite(*args, **kwargs)
    if rule.each is not None:
        return apply(fun, tuple(map(operand, args)), kwargs)
    arity = len(rule.vjps)
    if len(args) > len(rule.names):  # more than the rule names: its expression's business, or its own *args
        if rule.composite is not None:
            return rule.composite(*args, **kwargs)
        if not rule.more:
            raise TypeError(
                f"{qualified(fun)} was given {len(args)} arguments, but its rule knows {', '.join(rule.names)} only; "
                "give every function of the rule the parameters of the operation"
            )
        return apply(fun, tuple(map(operand, args)), kwargs)
    if len(args) > arity or kwargs:
        kwargs = {**dict(zip(rule.names[arity:], args[arity:], strict=False)), **kwargs}
        args = list(args[:arity])
        while len(args) < arity and len(args) < len(rule.names) and rule.names[len(args)] in kwargs:
            args.append(kwargs.pop(rule.names[len(args)]))
        for name, value in kwargs.items():
            if name in rule.names[arity:] and isinstance(value, Vertex):
                raise TypeError(f"{qualified(fun)}: {name}= takes a plain value, not a Tensor")
        unknown = [name for name in kwargs if name not in rule.names]
        if unknown or any(isinstance(v, Vertex) for v in kwargs.values()):
            if rule.composite is not None:
                return rule.composite(*args, **kwargs)
            raise TypeError(
                f"{qualified(fun)}: the option {(unknown or list(kwargs))[0]}= is not supported on Tensors; "
                f"supported are {', '.join(rule.names)}"
            )
    return apply(fun, tuple(map(operand, args)), kwargs)


primitives_go_to(call)


@functools.cache
def _place_of_out(fun: Callable[..., Any]) -> int | None:
    """Where `out` stands among a function's positional parameters, if it does."""
    try:
        parameters = inspect.signature(fun).parameters.values()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except ValueError:  # in some versions of NumPy, functions written in C say nothing
        names = {np.dot: ["a", "b", "out"], np.concatenate: ["arrays", "axis", "out"]}.get(fun, [])
    return names.index("out") if "out" in names else None


def _positional_out(fun: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether a call gives `out` without naming it."""
    place = _place_of_out(fun) if len(args) > 1 and not isinstance(fun, np.ufunc) else None
    return place is not None and len(args) > place and args[place] is not None


def _top(a: Any) -> Any:
    """Arguments of a function without gradient: Tensors stay, Tensors inside containers become arrays."""
    return a if isinstance(a, Vertex) else _plain(a)


def operand(a: Any, sequences: Any = list) -> Any:
    """An operand in normal form: NumPy scalars become Python scalars (weak), sequences and others' arrays ours."""
    return as_array(a) if isinstance(a, sequences) else _given(a)


def _given(a: Any) -> Any:
    """An argument with NumPy scalars as Python scalars (weak), and with arrays of other libraries as NumPy's."""
    if type(a) in _UFUNCS_TAKE or isinstance(a, Vertex):
        return a
    if isinstance(a, np.generic):
        return a.item()
    if type(a) in (list, tuple) and any(map(is_foreign_array, a)):
        return type(a)(map(_given, a))
    return operand_array(a) if is_foreign_array(a) else a


def _plain(a: Any) -> Any:
    """The same structure with arrays in place of Tensors."""
    if isinstance(a, Vertex):
        return a.value
    if isinstance(a, (list, tuple)) and not hasattr(a, "_fields"):
        return type(a)(map(_plain, a))
    return {k: _plain(v) for k, v in a.items()} if isinstance(a, dict) else a


def _hidden(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return any(isinstance(v, Vertex) for v in kwargs.values()) or any(
        isinstance(a, (list, tuple)) and any(isinstance(x, Vertex) for x in a) for a in args
    )


def _foreign(other: Any) -> bool:
    """Whether an operand should be given the chance to handle the operation itself."""
    known = isinstance(other, (Vertex, np.ndarray, np.generic, float, int, list, tuple))
    return not known and not is_foreign_array(other)


def index(key: Any) -> tuple[Any, tuple[Vertex, ...]]:
    """An index in normal form: Tensors taken out, a numbered Slot left in each one's place."""
    tensors: list[Vertex] = []

    def replace(part: Any) -> Any:
        if isinstance(part, Vertex):
            tensors.append(part)
            return Slot(len(tensors) - 1)
        return array_of(part) if is_foreign_array(part) else part

    key = tuple(map(replace, key)) if isinstance(key, tuple) else replace(key)
    return key, tuple(tensors)


def refuse_while_tracing(what: str) -> None:
    if state.tracing:
        raise TypeError(
            f"{what} would bake one value into a function that is being traced; "
            "keep the computation in Tensors (np.where instead of if), or move it outside the traced function"
        )
