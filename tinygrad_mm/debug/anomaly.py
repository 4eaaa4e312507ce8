"""`detect_anomaly`: stop at the first operation that produces NaN or Inf, and at arrays changed behind the graph's back."""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_mm.backprop import backpropagate
from tinygrad_mm.debug.reasons import Reason, backward_reason, forward_reason, holds
from tinygrad_mm.debug.wording import (
    Names,
    arguments_text,
    array_text,
    count_text,
    line_text,
    names_in,
    place_text,
    scope_text,
    title,
)
from tinygrad_mm.errors import caller
from tinygrad_mm.graph import RULES, Vertex, entered, name_of, state

__all__ = ["AnomalyError", "detect_anomaly"]


class AnomalyError(FloatingPointError):
    """What `detect_anomaly` raises.

    `operation` is the name of the operation, `phase` one of "forward", "backward", "input" (the data were not finite to
    begin with) and "mutation" (an array was changed between the two passes), `reason` the likely cause in words.
    """

    def __init__(self, message: str, operation: str, phase: str, reason: str) -> None:
        super().__init__(message)
        self.operation = operation
        self.phase = phase
        self.reason = reason


@contextmanager
def detect_anomaly(model: Any = None) -> Iterator[None]:
    """Raise AnomalyError at the operation that first produces NaN or Inf; a `with` block or a decorator.

    It watches forward passes, by their results, and backward passes, by the contributions of each rule; put both inside.
    Inf is let through where an argument already held it (a mask of -inf, say): only an operation that makes a new one is
    named, with its module and source line, the ranges of its arguments, the likely reason and the fix. NaN in data or
    parameters is named as such. An array that is changed in place after an operation has read it raises, too, where
    the operation's rule reads it again in the backward pass.

    With `model`, modules and parameters are called by their paths in it. Every array is looked at, so expect a few
    times the usual cost; NumPy's own floating point warnings are off inside.

    >>> from tinygrad_mm.tensor import Tensor
    >>> x = Tensor([1.0, 0.0], requires_grad=True)
    >>> with detect_anomaly():  # doctest: +IGNORE_EXCEPTION_DETAIL
    ...     loss = np.sum(np.log(x))
    Traceback (most recent call last):
    AnomalyError: log produced -inf (1 of 2 elements, the first at [1]) in the forward pass
    """
    with entered(monitor=_Watch(names_in(model)), lines=True), np.errstate(all="ignore"):
        yield


class _Watch:
    """The monitor that recording and the backward pass report to."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.incoming: Any = None  # the gradient of the vertex whose rules are being run
        self.reached: set[int] = set()  # ids of computed vertices that a contribution was sent to
        self.excused: set[int] = set()  # those among them that were sent an Inf which an argument already held

    # -- forward

    def result(self, tensor: Any, fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at the result of a call."""
        if not args:  # a tensor made of an array, not by a call
            return
        if tensor.node is not None:
            tensor.extra = {**(tensor.extra or {}), "contents": _contents(args, tensor.value)}
        if not holds(tensor.value, _not_finite) or name_of(fun) == "empty_like" or _in_recorded_pass():
            return
        values = [_value(a) for a in args]
        for i, a in enumerate(args):
            self._look_at_data(tensor, fun, args, i, a)
        if _is_new(fun, [*values, *kwargs.values()], tensor.value):
            self._raise_forward(tensor, fun, args, values)

    def _look_at_data(self, tensor: Any, fun: Callable[..., Any], args: Sequence[Any], i: int, a: Any) -> None:
        """Raise where argument i brought the NaN along, or is a parameter that holds Inf."""
        value = _value(a)
        leaf = not isinstance(a, Vertex) or a.node is None
        kind = "NaN" if holds(value, np.isnan) and holds(tensor.value, np.isnan) else ""
        if not kind and leaf and getattr(a, "requires_grad", False) and holds(value, np.isinf):
            kind = "inf"
        if not kind:
            return
        where = f" ({count_text(_not_finite(value))})" if isinstance(value, np.ndarray) else ""
        name = name_of(fun)
        words = f"{title(a, self.names)}, argument {i} of {name}, holds {kind} already{where}"
        if leaf:
            fix = "clean the data (np.nan_to_num, or leave these rows out)"
            if getattr(a, "requires_grad", False):
                fix = "look at the update before: an earlier gradient was not finite, or the learning rate is too large"
        else:
            fix = "put the code that computed it inside `with tg.detect_anomaly():` as well"
        raise AnomalyError(
            self._message(
                f"the data were not finite before {name} was called: {words}", tensor, args, Reason(words, fix)
            ),
            name,
            "input",
            words,
        )

    def _raise_forward(self, tensor: Any, fun: Callable[..., Any], args: Sequence[Any], values: list[Any]) -> None:
        parts = tensor.value if isinstance(tensor.value, tuple) else (tensor.value,)
        y = next(part for part in parts if holds(part, _not_finite))
        reason = forward_reason(fun, values, y)
        head = f"{name_of(fun)} produced {_kinds(y)} ({count_text(_not_finite(y))}) in the forward pass"
        raise AnomalyError(self._message(head, tensor, args, reason), name_of(fun), "forward", reason.words)

    # -- backward

    def visit(self, vertex: Vertex, g: Any) -> None:
        """Look at a vertex whose gradient is complete, before its rules are run."""
        self.incoming = g
        known = id(vertex) in self.excused
        first = id(vertex) not in self.reached
        self.excused.discard(id(vertex))
        self.reached.discard(id(vertex))
        if holds(_values(g), np.isnan) or (holds(_values(g), np.isinf) and not known):
            self._raise_arrived(vertex, g, first)
        if vertex.node is not None and vertex.extra is not None and "contents" in vertex.extra:
            self._compare(vertex, vertex.extra["contents"])

    def contribution(self, vertex: Vertex, i: int, c: Any) -> None:
        """Look at what a rule sends to argument i."""
        node = vertex.node
        assert node is not None and node.args is not None
        a, c = node.args[i], _value(c)
        if a.node is not None:
            self.reached.add(id(a))
        if not holds(c, _not_finite):
            return
        values = [_value(v) for v in node.args]
        if not holds(c, np.isnan) and any(holds(v, np.isinf) for v in [*values, *_values(self.incoming)]):
            self.excused.add(id(a))
            return
        name = name_of(node.fun)
        reason = backward_reason(node.fun, i, values, vertex.value, _value(self.incoming), c)
        where = count_text(_not_finite(c)) if isinstance(c, np.ndarray) else "one of its arrays"
        head = f"{name} produced {_kinds(c)} ({where}) in the backward pass, as the gradient of its argument {i}"
        arrived = f"gradient that arrives: {array_text(_value(self.incoming))}"
        message = self._message(head, vertex, node.args, reason, arrived)
        raise AnomalyError(message, name, "backward", reason.words)

    def _raise_arrived(self, vertex: Vertex, g: Any, first: bool) -> None:
        """The gradient is not finite although each contribution was."""
        if (vertex.extra or {}).get("hooks"):
            reason = Reason("a hook registered on this tensor returned it", "correct the hook, or remove it")
        elif first and vertex.node is not None:
            reason = Reason("the backward pass was started with it", "look at what you pass as backward(gradient=...)")
        else:
            reason = Reason(
                "every contribution is finite, but their sum overflows", "scale the loss down, or use float64"
            )
        name = name_of(vertex.node.fun) if vertex.node is not None else title(vertex, self.names)
        head = f"the gradient of {title(vertex, self.names)} is not finite: {array_text(_value(g))}"
        args = vertex.node.args if vertex.node is not None else ()
        raise AnomalyError(self._message(head, vertex, args, reason), name, "backward", reason.words)

    def _compare(self, vertex: Vertex, contents: Mapping[int, int]) -> None:
        """Raise where an array that a rule is about to read is not what it was in the forward pass."""
        node = vertex.node
        assert node is not None and node.args is not None
        if any(isinstance(a, Vertex) and a.version > vertex.version for a in node.args):
            return  # changed by way of the tensor: the backward pass says so itself
        for i, now in _contents(node.args, vertex.value).items():
            if now != contents[i] and _reads(vertex, self.incoming, i):
                name = name_of(node.fun)
                what = "the result" if i == RESULT else f"argument {i}"
                value = vertex.value if i == RESULT else _value(node.args[i])
                reason = Reason(
                    f"the backward pass of {name} reads this array again, and would compute a wrong gradient",
                    "write into a copy (x = x.copy()), write after backward(), or use x = x.at[index].set(value)",
                )
                head = (
                    f"an array was changed in place between the forward and the backward pass: {what} of {name} "
                    f"(now {array_text(value)})"
                )
                message = self._message(head, vertex, node.args, reason)
                raise AnomalyError(message, name, "mutation", reason.words)

    # -- words

    def _message(self, head: str, tensor: Any, args: Any, reason: Reason, *more: str) -> str:
        node = tensor.node
        place = place_text(node, self.names) if node is not None and node.line is not None else ""
        if not place:
            place = ", ".join(part for part in (scope_text(state.scope, self.names), line_text(caller())) if part)
        lines = [f"called in: {place}", *arguments_text(args or (), self.names), *more]
        return "\n  ".join([head, *lines, f"reason: {reason.words}", f"fix: {reason.fix}"])


# ---------------------------------------------------------------------------------------------------------------------
# What is not finite
# ---------------------------------------------------------------------------------------------------------------------


def _not_finite(a: Any) -> Any:
    return ~np.isfinite(a)


def _kinds(a: Any) -> str:
    """Which of NaN, inf and -inf an array holds."""
    tests = (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf))
    return " and ".join(kind for kind, test in tests if holds(a, test))


def _value(a: Any) -> Any:
    """The array behind a Tensor; of several, a tuple."""
    if isinstance(a, (list, tuple)):
        return tuple(_value(part) for part in a)
    return a.value if isinstance(a, Vertex) else a


def _values(a: Any) -> tuple[Any, ...]:
    value = _value(a)
    return value if isinstance(value, tuple) else (value,)


def _is_new(fun: Callable[..., Any], values: Sequence[Any], y: Any) -> bool:
    """Whether a result y holds a NaN or Inf that no argument brought along.

    An elementwise function is judged element by element. Of others an Inf is taken for new only where no argument
    holds one; a NaN is always new, since arguments with NaN have been dealt with before.
    """
    if isinstance(fun, np.ufunc) and not isinstance(y, tuple):
        finite = np.ones((), bool)
        for v in values:
            if isinstance(v, (np.ndarray, float)):
                finite = finite & np.isfinite(v)
        if np.any(_not_finite(y) & finite):
            return True
    return holds(y, np.isnan) or not any(holds(v, _not_finite) for v in values)


def _in_recorded_pass() -> bool:
    """Whether a rule is being run on Tensors: what it sends back is looked at as a whole, when it is complete."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is backpropagate.__code__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


# ---------------------------------------------------------------------------------------------------------------------
# What was changed
# ---------------------------------------------------------------------------------------------------------------------

RESULT = -1  # stands for the result of a call among the numbers of its arguments


def _contents(args: Sequence[Any], y: Any) -> dict[int, int]:
    """A checksum for each argument of a call that holds arrays, and for its result."""
    return {i: _checksum(a) for i, a in [*enumerate(args), (RESULT, y)] if not isinstance(a, (float, int, str))}


def _checksum(a: Any, start: int = 0) -> int:
    """CRC-32 of the elements of an array, or of all arrays in a tuple (an index, say)."""
    a = _value(a)
    if isinstance(a, tuple):
        for part in a:
            start = _checksum(part, start)
    elif isinstance(a, np.ndarray) and not a.dtype.hasobject:
        return zlib.crc32(np.ascontiguousarray(a).reshape(-1).view(np.uint8), start)
    return start


def _reads(vertex: Vertex, incoming: Any, index: int) -> bool:
    """Whether a rule looks at the elements of argument number `index` (or of the result), not only at its shape.

    The rules are tried with an outline in place of the array.
    """
    node = vertex.node
    assert node is not None and node.args is not None
    values = [_value(a) for a in node.args]
    y = vertex.value
    if index == RESULT:
        y = tuple(map(_Outline, y)) if isinstance(y, tuple) else _Outline(y)
    elif isinstance(values[index], np.ndarray):
        values[index] = _Outline(values[index])
    else:  # arrays within an index: they say which elements are meant
        return True
    rule, g = RULES[node.fun], _value(incoming)
    for i, a in enumerate(node.args):
        vjp = rule.each and functools.partial(rule.each, i)
        vjp = vjp or (rule.vjps[i] if i < len(rule.vjps) else None)
        if vjp is not None and isinstance(a, Vertex) and a.requires_grad:
            try:
                vjp(g, y, *values, **node.kwargs)
            except Exception:
                return True
    return False


class _Outline:
    """The shape and dtype of an array without its elements: whoever asks for these gets an exception."""

    __array_ufunc__ = None

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("an outline has no elements")

    def __array_function__(self, *args: Any) -> Any:
        raise TypeError("an outline has no elements")
