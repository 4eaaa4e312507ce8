"""Whether the examples of a batch know nothing of each other: then parts of it can be worked on apart.

A function is traced twice, with a whole batch and with a part of it, and both traces are gone through side by side.
Where an array is longer along an axis in the one than in the other, the examples lie along that axis; everything else
must be the same in both. An operation keeps it so if it treats each example by itself: the rules below say when, and
what no rule knows is taken to mix examples. In the end the loss is a mean, or a sum, over the examples; so it is the
mean, or the sum, of the losses of the parts, and its gradient is that of theirs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tinygrad_mm.compiler.program import Op, Value
from tinygrad_mm.compiler.tracing import Trace
from tinygrad_mm.functional import activations, error_function, losses, normalization, pooling, sequences, sliding
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.graph import select
from tinygrad_mm.rules import elementwise, indexing, shape

__all__ = ["over_parts"]

_SEVERAL = object()  # where the examples are in several results at once: each has its own shape


class _MixedError(Exception):
    """Examples may know of each other, or the traces are not alike."""


def over_parts(whole: Trace, part: Trace, parts: int) -> str | None:
    """How the loss of a batch follows from those of its equal parts, in order: "mean", "sum", or None for neither.

    `whole` and `part` are traces of one function, which returns the loss; what else it returns (predictions) has the
    examples along the first axis.
    """
    if whole.buffers or whole.captured.places or whole.program.effects or len(whole.forward) != len(part.forward):
        return None
    try:
        return _Comparison(whole, part, parts).result
    except (_MixedError, TypeError, ValueError):  # the latter two: arguments that a rule does not know
        return None


class _Comparison:
    """Both traces, side by side.

    `where` tells of each Value of the whole trace which axis the examples lie along, None where it is the same for all
    parts, or how it follows from those of the parts: "mean" or "sum".
    """

    def __init__(self, whole: Trace, part: Trace, parts: int) -> None:
        self.parts = parts
        self.where: dict[int, Any] = {}
        self.twins: dict[int, Value] = {}
        for a, b in zip(whole.program.inputs, part.program.inputs, strict=True):
            self._note(a, b, self._axis(a.shape, b.shape))
            if self.where[id(a)] != 0:
                raise _MixedError
        for op, other in zip(whole.forward, part.forward, strict=True):
            self._op(op, other)
        found, *others = (self.where.get(id(value)) for value in whole.program.outputs)
        self.result: str | None = found if isinstance(found, str) and all(w == 0 for w in others) else None

    def _note(self, a: Value, b: Value, where: Any) -> None:
        self.twins[id(a)], self.where[id(a)] = b, where

    def _axis(self, shape: Any, part: Any) -> int | None:
        """The axis along which a shape is that of a part several times."""
        if shape == part:
            return None
        longer = [i for i, (n, m) in enumerate(zip(shape, part, strict=False)) if n != m]
        if len(shape) != len(part) or len(longer) != 1 or shape[longer[0]] != self.parts * part[longer[0]]:
            raise _MixedError
        return longer[0]

    def _operand(self, a: Any, b: Any, is_shape: bool = False) -> Any:
        """Where the examples are in an argument."""
        if not isinstance(a, Value) or not isinstance(b, Value):
            if not (is_shape or _same(a, b)):
                raise _MixedError
            return None
        if id(a) not in self.twins:
            if a.kind != b.kind or a.kind not in ("constant", "leaf"):
                raise _MixedError
            if a.kind == "leaf":
                if a.leaf is None or b.leaf is None or a.leaf.value is not b.leaf.value:
                    raise _MixedError
                self._note(a, b, None)
            else:
                axis = self._axis(a.shape, b.shape)
                again = b.example if axis is None else np.concatenate([b.example] * self.parts, axis)
                if not _same(a.example, again):
                    raise _MixedError
                self._note(a, b, axis)
        if self.twins[id(a)] is not b:
            raise _MixedError
        return self.where[id(a)]

    def _op(self, op: Op, other: Op) -> None:
        if op.fun is not other.fun or op.fun is uniform_like or len(op.args) != len(other.args):
            raise _MixedError
        shaped = op.fun in _SHAPED
        pairs = zip(op.args, other.args, strict=True)
        where = [self._operand(a, b, shaped and i == 1) for i, (a, b) in enumerate(pairs)]
        options = [{k: v for k, v in call.kwargs.items() if k != "shape" or not shaped} for call in (op, other)]
        if not _same(*options):
            raise _MixedError
        several = type(op.result.example) is tuple
        out = None if several else self._axis(op.result.shape, other.result.shape)
        of_parts = {w for w in where if isinstance(w, str)}
        if of_parts:
            found = of_parts.pop()
            if of_parts or several or out is not None or not _is_linear(op, where, found):
                raise _MixedError
            self._note(op.result, other.result, found)
            return
        if all(w is None for w in where) and (out is None or not shaped):
            if out is not None:
                raise _MixedError
            self._note(op.result, other.result, None)
            return
        rule = _elementwise if isinstance(op.fun, np.ufunc) and op.fun.signature is None else _RULES.get(op.fun)
        verdict = False if rule is None else rule(op, where, out)
        if not verdict or (verdict is True and out is None and not several):
            raise _MixedError
        self._note(op.result, other.result, verdict if isinstance(verdict, str) else _SEVERAL if several else out)


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments that are no Values are the same."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        if type(a) is not type(b) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return a is b or np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, indexing.Slot):
        return bool(a.number == b.number)
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


# ---------------------------------------------------------------------------------------------------------------------
# Rules: whether an operation treats each example by itself. `where` has the axis of the examples for each argument,
# `out` is that of the result. A string says that the result is a sum, or a mean, over all examples.
# ---------------------------------------------------------------------------------------------------------------------


def _is_linear(op: Op, where: list[Any], what: str) -> bool:
    """Whether an operation on means (sums) over the parts makes a mean (sum) over the parts."""
    others = [w for w in where if w != what]
    if any(w is not None for w in others):
        return False
    if op.fun in (np.add, np.subtract):
        return what == "mean" or not others
    if op.fun is np.multiply:
        return len(others) == 1
    if op.fun is np.divide:
        return where[0] == what and where[1] is None
    return op.fun in _LINEAR


def _elementwise(op: Op, where: list[Any], out: int | None) -> bool:
    """The examples are at the same axis everywhere, counted from the last."""
    if out is None:
        return False
    return all(w is None or w - op.args[i].ndim == out - op.result.ndim for i, w in enumerate(where))


def _moved(op: Op, where: list[Any], out: int | None) -> bool:
    """Axes change places, or such of length 1 come and go: the shapes have shown where the examples are."""
    return True


def _reshaped(op: Op, where: list[Any], out: int | None) -> bool:
    """Elements of one example stay together, in order."""
    order = op.kwargs.get("order", op.args[2] if len(op.args) > 2 else "C")  # its signature differs between versions
    if where[0] is None or out is None or order != "C":
        return False
    return math.prod(op.args[0].shape[: where[0]]) == math.prod(op.result.shape[:out])


def _axes(op: Op, name: str = "axis") -> tuple[int, ...] | None:
    """The axes that an operation works along, as numbers that are not negative; None for all."""
    axis = _argument(op, name, None)
    return None if axis is None else normalize_axis_tuple(axis, op.args[0].ndim)


def _argument(op: Op, name: str, default: Any) -> Any:
    """An argument of a call, wherever it stands."""
    signature = inspect.signature(op.fun)
    given = signature.bind(*op.args, **op.kwargs).arguments
    if name in given:
        return given[name]
    known = signature.parameters.get(name)
    return default if known is None or known.default is known.empty else known.default


def _along(name: str) -> Callable[..., bool]:
    """A rule: it works along axes that are not the examples'."""

    def rule(op: Op, where: list[Any], out: int | None) -> bool:
        axes = _axes(op, name)
        return where[0] is not None and set(where[1:]) <= {None} and axes is not None and where[0] not in axes

    return rule


def _reduced(op: Op, where: list[Any], out: int | None) -> bool | str:
    """Along other axes, or, for a sum and a mean, over the examples as well."""
    given = inspect.signature(op.fun).bind(*op.args, **op.kwargs).arguments
    if where[0] is None or given.keys() - {"a", "axis", "keepdims"}:
        return False
    axes = _axes(op)
    if axes is not None and where[0] not in axes:
        return True
    return "sum" if op.fun is np.sum else "mean" if op.fun is np.mean else False


def _joined(op: Op, where: list[Any], out: int | None) -> bool:
    return len(set(where)) == 1 and where[0] not in (_axes(op) or ())


def _product(op: Op, where: list[Any], out: int | None) -> bool:
    """Rows, columns, or whole matrices belong to examples; the axis that is summed over does not."""
    a, b = (x.ndim for x in op.args[:2])
    if out is None or op.kwargs or len(op.args) != 2 or min(a, b) < 2:
        return False
    if where[0] is not None and (where[0] == a - 1 or where[0] - a != out - op.result.ndim):
        return False
    return where[1] is None or (where[1] != b - 2 and where[1] - b == out - op.result.ndim)


def _picked(op: Op, where: list[Any], out: int | None) -> bool:
    """Rows of a table for each example, or, of each example, always the same part."""
    key = op.args[1]
    if where[0] is None:
        alone = key[0] if type(key) is tuple and len(key) == 1 else key
        return isinstance(alone, indexing.Slot) and len(where) == 3 and where[2] == out
    if len(where) != 2:
        return False
    parts = key if type(key) is tuple else (key,)
    if not all(p is None or p is Ellipsis or type(p) in (slice, int) for p in parts):
        return False
    if Ellipsis not in parts:
        parts = (*parts, Ellipsis)
    others = [p for p in parts if p is not None]  # one for each axis; the ellipsis for all that are left
    left = others.index(Ellipsis)
    spread = [*others[:left], *[slice(None)] * (op.args[0].ndim - len(others) + 1), *others[left + 1 :]]
    return bool(spread[where[0]] == slice(None))


def _of_images(op: Op, where: list[Any], out: int | None) -> bool:
    """The images are the examples."""
    return where[0] == 0 and set(where[1:]) <= {None}


def _entropy(op: Op, where: list[Any], out: int | None) -> bool | str:
    """The cross entropy of logits (..., classes) with labels (...)."""
    logits, labels = where[:2]
    if logits is None or labels != logits or logits == op.args[0].ndim - 1:
        return False
    return True if (how := str(_argument(op, "reduction", "mean"))) == "none" else how


_LINEAR = frozenset({np.negative, np.positive, np.sum, np.mean, np.reshape, np.squeeze, np.expand_dims})
_SHAPED = frozenset({np.reshape, np.broadcast_to})  # given a shape after the array, which the result tells as well

_RULES: dict[Any, Callable[..., bool | str]] = {
    np.reshape: _reshaped,
    np.broadcast_to: _elementwise,
    np.matmul: _product,
    shape.join: _joined,
    indexing.getitem: _picked,
    losses._cross_entropy: _entropy,
    sequences.unstack: _along("axis"),
    normalization.standardize: _along("axes"),
}
_RULES |= dict.fromkeys(
    [
        *(np.where, np.clip, np.nan_to_num, np.zeros_like, np.ones_like, np.real),
        *(shape.astype, elementwise.stop_gradient, indexing.checked, error_function.erf),
        *(activations.relu, activations.leaky_relu, activations.elu, activations.sigmoid, activations.gelu),
    ],
    _elementwise,
)
_RULES |= dict.fromkeys([np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze, select], _moved)
_RULES |= dict.fromkeys([np.sum, np.mean, np.max, np.min, np.prod, np.var, np.std], _reduced)
_ALONG: tuple[Any, ...] = (activations.softmax, activations.log_softmax, activations.logsumexp, np.cumsum, np.flip)
_WINDOWS: tuple[Any, ...] = (sliding.windows, pooling._max_pool)
_RULES |= dict.fromkeys(_ALONG, _along("axis")) | dict.fromkeys(_WINDOWS, _of_images)
