"""`detect_anomaly`: stop where NaN or Inf first appears, or where an array was changed behind the graph's back."""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from tinygrad_mm.backprop import backpropagate
from tinygrad_mm.debug.causes import Reason, backward_reason, forward_reason, holds, not_finite
from tinygrad_mm.debug.messages import (
    arguments_text,
    array_text,
    call_of,
    count_text,
    place_text,
    title,
    value_of,
)
from tinygrad_mm.errors import caller
from tinygrad_mm.graph import RULES, Monitor, Vertex, entered, name_of, state
from tinygrad_mm.names import Names, names_in

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

    It watches forward passes by their results and backward passes by what each rule sends on; put both inside. Inf is
    let through where an argument already held it (a mask of -inf, say): only an operation that makes a new one is
    named, with its module and source line, the ranges of its arguments, the likely reason and the fix. NaN in data or
    parameters is named as such. Where a rule of the backward pass reads an array that has been changed in place since
    the forward pass, that raises, too.

    With `model`, modules and parameters are called by their paths in it. Every array is looked at, so expect a few
    times the usual cost. NumPy's own floating point warnings are off inside.

    >>> from tinygrad_mm.tensor import Tensor
    >>> x = Tensor([1.0, 0.0], requires_grad=True)
    >>> with detect_anomaly():  # doctest: +IGNORE_EXCEPTION_DETAIL
    ...     loss = np.sum(np.log(x))
    Traceback (most recent call last):
    AnomalyError: log produced -inf (1 of 2 elements, the first at [1]) in the forward pass
    """
    with entered(monitor=_Watch(names_in(model)), lines=True), np.errstate(all="ignore"):
        yield


class _Watch(Monitor):
    """Looks at every result and every contribution."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.incoming: Any = None  # the gradient of the vertex whose rules are being run
        self.reached: set[int] = set()  # ids of computed vertices that a contribution was sent to
        self.excused: set[int] = set()  # ids of vertices that were sent an Inf which an argument already held

    # -- forward

    def result(self, tensor: Vertex, fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Look at the result of a call."""
        if not args:  # a tensor made of an array, not by a call
            return
        if tensor.node is not None:
            tensor.extra = {**(tensor.extra or {}), "contents": _contents(args, tensor.value)}
        # What a rule computes on Tensors is looked at as a whole, when it is complete. empty_like holds garbage.
        if not holds(tensor.value, not_finite) or _inside_backward() or name_of(fun) == "empty_like":
            return
        for i in range(len(args)):
            self._check_input(tensor, fun, args, i)
        values = value_of(tuple(args))
        if _is_new(fun, [*values, *kwargs.values()], tensor.value):
            y = next(part for part in _parts(tensor.value) if holds(part, not_finite))
            head = f"{name_of(fun)} produced {_kinds(y)} ({count_text(not_finite(y))}) in the forward pass"
            self._raise("forward", fun, head, tensor, args, forward_reason(fun, values, y))

    def _check_input(self, tensor: Vertex, fun: Callable[..., Any], args: Sequence[Any], i: int) -> None:
        """Raise where argument i brought a NaN along, or is a parameter that holds Inf."""
        a, value = args[i], value_of(args[i])
        given = not isinstance(a, Vertex) or a.node is None
        learned = given and isinstance(a, Vertex) and a.requires_grad
        has_nan = holds(value, np.isnan) and holds(tensor.value, np.isnan)
        if not has_nan and not (learned and holds(value, np.isinf)):
            return
        count = f" ({count_text(not_finite(value))})" if isinstance(value, np.ndarray) else ""
        words = f"argument {i}, {title(a, self.names)}, holds {_kinds(value)} already{count}"
        if learned:
            fix = "look at the update before: its gradient was not finite, or the learning rate is too large"
        elif given:
            fix = "clean the data (np.nan_to_num, or leave those rows out)"
        else:
            fix = "put the code that computed it inside detect_anomaly() as well"
        head = f"{name_of(fun)} was given data that are not finite"
        self._raise("input", fun, head, tensor, args, Reason(words, fix))

    # -- backward

    def visit(self, vertex: Vertex, g: Any) -> None:
        """Look at a vertex whose gradient is complete, before its rules are run."""
        self.incoming = value_of(g)
        excused, reached = id(vertex) in self.excused, id(vertex) in self.reached
        self.excused.discard(id(vertex))
        self.reached.discard(id(vertex))
        if holds(self.incoming, np.isnan) or (holds(self.incoming, np.isinf) and not excused):
            self._raise_arrived(vertex, reached)
        if vertex.node is not None and vertex.extra is not None and "contents" in vertex.extra:
            self._compare(vertex, vertex.extra["contents"])

    def contribution(self, vertex: Vertex, i: int, c: Any) -> None:
        """Look at what a rule sends to argument i."""
        node, args = call_of(vertex)
        c = value_of(c)
        if args[i].node is not None:
            self.reached.add(id(args[i]))
        if not holds(c, not_finite):
            return
        values = value_of(args)
        if not holds(c, np.isnan) and holds((values, self.incoming), np.isinf):
            self.excused.add(id(args[i]))
            return
        count = f" ({count_text(not_finite(c))})" if isinstance(c, np.ndarray) else ""
        head = f"{name_of(node.fun)} produced {_kinds(c)}{count} in the backward pass, as the gradient of argument {i}"
        reason = backward_reason(node.fun, i, values, vertex.value, self.incoming, c)
        arrived = f"gradient that arrives: {array_text(self.incoming)}"
        self._raise("backward", node.fun, head, vertex, args, reason, arrived)

    def _raise_arrived(self, vertex: Vertex, reached: bool) -> None:
        """The gradient is not finite although each contribution was."""
        if (vertex.extra or {}).get("hooks"):
            reason = Reason("a hook registered on this tensor returned it", "correct the hook, or remove it")
        elif vertex.node is not None and not reached:
            reason = Reason("the backward pass was started with it", "look at what you pass as gradient=")
        else:
            reason = Reason(
                "the contributions are finite, but their sum overflows", "scale the loss down, or use float64"
            )
        fun, args = (vertex.node.fun, call_of(vertex)[1]) if vertex.node is not None else (np.add, ())
        head = f"the gradient of {title(vertex, self.names)} is not finite: {array_text(self.incoming)}"
        self._raise("backward", fun, head, vertex, args, reason)

    def _compare(self, vertex: Vertex, contents: Mapping[int, int]) -> None:
        """Raise where an array that a rule is about to read is not what it was in the forward pass."""
        node, args = call_of(vertex)
        if any(isinstance(a, Vertex) and a.version > vertex.version for a in args):
            return  # changed by way of the tensor: the backward pass says so itself
        for i, now in _contents(args, vertex.value).items():
            if now != contents[i] and _reads(vertex, self.incoming, i):
                what, value = ("the result", vertex.value) if i == RESULT else (f"argument {i}", value_of(args[i]))
                head = (
                    f"an array was changed in place between the forward and the backward pass: {what} of "
                    f"{name_of(node.fun)}, now {array_text(value)}"
                )
                reason = Reason(
                    f"the rule of {name_of(node.fun)} reads this array again, so the gradient would be wrong",
                    "write into a copy (x = x.copy()), write after backward(), or use x = x.at[index].set(value)",
                )
                self._raise("mutation", node.fun, head, vertex, args, reason)

    def _raise(
        self,
        phase: str,
        fun: Callable[..., Any],
        head: str,
        tensor: Vertex,
        args: Sequence[Any],
        reason: Reason,
        *more: str,
    ) -> None:
        node = tensor.node
        scope, line = (node.scope, node.line) if node is not None else (state.scope, caller())
        place = place_text(scope, line, self.names)
        lines = [f"called in: {place}"] if place else []
        lines += [*arguments_text(args, self.names), *more, f"reason: {reason.words}", f"fix: {reason.fix}"]
        raise AnomalyError("\n  ".join([head, *lines]), name_of(fun), phase, reason.words)


# ---------------------------------------------------------------------------------------------------------------------
# What is not finite
# ---------------------------------------------------------------------------------------------------------------------


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _kinds(a: Any) -> str:
    """Which of NaN, inf and -inf an array holds."""
    tests = (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf))
    return " and ".join(kind for kind, test in tests if holds(a, test))


def _is_new(fun: Callable[..., Any], values: Sequence[Any], y: Any) -> bool:
    """Whether a result y holds a NaN or Inf that no argument brought along.

    An elementwise function is judged element by element. Of others an Inf is taken for new only where no argument
    holds one; a NaN is always new, since arguments with NaN have been dealt with before.
    """
    if isinstance(fun, np.ufunc) and fun.signature is None and not isinstance(y, tuple):
        finite: Any = np.True_
        for v in values:
            if isinstance(v, (np.ndarray, float)):
                finite = finite & np.isfinite(v)
        if np.any(not_finite(y) & finite):
            return True
    return holds(y, np.isnan) or not any(holds(v, not_finite) for v in values)


def _inside_backward() -> bool:
    """Whether a backward pass has called for this result."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not backpropagate.__code__:
        frame = frame.f_back
    return frame is not None


# ---------------------------------------------------------------------------------------------------------------------
# What was changed
# ---------------------------------------------------------------------------------------------------------------------

RESULT = -1  # stands for the result of a call among the numbers of its arguments


def _contents(args: Sequence[Any], y: Any) -> dict[int, int]:
    """A checksum for each argument of a call that may hold arrays, and for its result."""
    return {i: _checksum(a) for i, a in [*enumerate(args), (RESULT, y)] if not isinstance(a, (float, int, str))}


def _checksum(a: Any, start: int = 0) -> int:
    """CRC-32 of the elements of an array, or of all arrays in a tuple (an index, say)."""
    a = value_of(a)
    if isinstance(a, tuple):
        return functools.reduce(lambda total, part: _checksum(part, total), a, start)
    if not isinstance(a, np.ndarray) or a.dtype.hasobject:
        return start
    return zlib.crc32(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data, start)


def _reads(vertex: Vertex, incoming: Any, index: int) -> bool:
    """Whether a rule looks at the elements of argument number `index` (or of the result), not only at its shape.

    The rules are tried with an outline in place of the array.
    """
    node, args = call_of(vertex)
    values, y = list(value_of(args)), vertex.value
    if index == RESULT:
        y = tuple(map(_Outline, y)) if isinstance(y, tuple) else _Outline(y)
    elif isinstance(values[index], np.ndarray):
        values[index] = _Outline(values[index])
    else:  # arrays within an index: they say which elements are meant
        return True
    rule = RULES[node.fun]
    for i, a in enumerate(args):
        if not isinstance(a, Vertex) or not a.requires_grad:
            continue
        vjp: Callable[..., Any] | None = rule.vjps[i] if i < len(rule.vjps) else None
        if rule.each is not None:
            vjp = functools.partial(rule.each, i)
        if vjp is not None:
            try:
                vjp(incoming, y, *values, **node.kwargs)
            except Exception:
                return True
    return False


class _Outline:
    """The shape and dtype of an array without its elements: whoever asks for these gets an exception."""

    __array_ufunc__ = None

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("an outline has no elements")

    __array__ = __array_function__ = __eq__ = __ne__ = __bool__ = __iter__ = __getitem__ = _refuse
    __hash__ = None  # type: ignore[assignment]
