"""Causes of NaN, Inf and zero gradients: where functions have no value, no finite slope, or slope 0.

Functions are known by their names, so that those of other rooms on this floor need not be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.debug.messages import count_text
from tinygrad_mm.graph import name_of

__all__ = ["Reason", "backward_reason", "dead_reason", "forward_reason", "holds", "not_finite", "zero_reason"]


class Reason(NamedTuple):
    """What probably happened, what to do about it, and one word for programs."""

    words: str
    fix: str
    cause: str = "undefined"


class Case(NamedTuple):
    """A line of a table: for these functions, `where(*arguments)` marks the elements at which `words` holds."""

    functions: str
    where: Callable[..., Any]
    words: str
    fix: str


LOG = (
    "keep the argument positive, as in np.log(np.maximum(x, 1e-12)); "
    "for probabilities use tg.log_softmax or tg.cross_entropy on the logits"
)
ROOT = "keep the argument positive, as in np.sqrt(np.maximum(x, 0) + 1e-12)"
DIVIDE = "keep the divisor away from 0: a / (b + 1e-12), or np.where(b == 0, 0, a / np.where(b == 0, 1, b))"
POWER = "use np.square for squares, np.abs(x) for a negative base, and keep the base away from 0"
OVERFLOW = "scale the numbers down first (normalise the inputs, lower the learning rate, clip), or compute in float64"
EXP = "use a form that does not overflow (tg.softmax, tg.logsumexp, np.logaddexp, np.expm1), or clip the argument"
DOMAIN = "keep the argument inside, with np.clip"
MASKED = "leave at least one entry of each row unmasked, or mask with a large negative number such as -1e9"
EMPTY = "check the batch or the selection: it is empty"
RANGES = "look at the ranges of the arguments above"
ZEROS = "start with other values than zeros (see tg.nn.init)"

# Where a function has no finite value.
UNDEFINED = (
    Case("log log2 log10", lambda x: x < 0, "the logarithm of a negative number is not a number", LOG),
    Case("log log2 log10", lambda x: x == 0, "the logarithm of 0 is -inf", LOG),
    Case("log1p", lambda x: x <= -1, "log1p has no finite value at -1 and below", "keep the argument above -1"),
    Case("sqrt", lambda x: x < 0, "the square root of a negative number is not a number", ROOT),
    Case("divide", lambda a, b: (a == 0) & (b == 0), "0 / 0 is not a number", DIVIDE),
    Case("divide remainder fmod floor_divide", lambda a, b: (a == a) & (b == 0), "division by 0", DIVIDE),
    Case("reciprocal", lambda x: x == 0, "division by 0", DIVIDE),
    Case("power float_power", lambda a, b: (a == 0) & (b < 0), "0 to a negative power divides by 0", POWER),
    Case("power float_power", lambda a, b: (a < 0) & (b != np.floor(b)), "a root of a negative number", POWER),
    Case("arcsin arccos", lambda x: np.abs(x) > 1, "the argument lies outside [-1, 1]", DOMAIN),
    Case("arccosh", lambda x: x < 1, "the argument lies below 1", DOMAIN),
    Case("arctanh", lambda x: np.abs(x) >= 1, "the argument lies outside (-1, 1)", DOMAIN),
    Case("softmax log_softmax", lambda x: np.all(x == -np.inf, axis=-1), "all entries of a row are -inf", MASKED),
    Case("mean var std", lambda x: np.asarray(x.size == 0), "there are no elements to average", EMPTY),
)

# Where the slope of a function is not finite, by function and argument.
STEEP = (
    Case("log:0 log2:0 log10:0", lambda x: x == 0, "the slope of a logarithm at 0 is infinite", LOG),
    Case("log1p:0", lambda x: x == -1, "the slope of log1p at -1 is infinite", "keep the argument above -1"),
    Case("sqrt:0", lambda x: x == 0, "the slope of sqrt at 0 is infinite", ROOT),
    Case("cbrt:0", lambda x: x == 0, "the slope of cbrt at 0 is infinite", "keep the argument away from 0"),
    Case("divide:0 divide:1", lambda a, b: (a == a) & (b == 0), "division by 0", DIVIDE),
    Case("reciprocal:0", lambda x: x == 0, "division by 0", DIVIDE),
    Case("power:0 float_power:0", lambda a, b: (a == 0) & (b < 1) & (b != 0), "a power below 1 is steep at 0", POWER),
    Case("power:1 float_power:1", lambda a, b: (a < 0) & (b == b), "the logarithm of a negative base", POWER),
    Case("arcsin:0 arccos:0 arctanh:0", lambda x: np.abs(x) == 1, "the slope at -1 and 1 is infinite", DOMAIN),
    Case("arccosh:0", lambda x: x == 1, "the slope of arccosh at 1 is infinite", DOMAIN),
)

EXPONENTIALS = frozenset({"exp", "exp2", "expm1", "sinh", "cosh"})
PRODUCTS = frozenset({"multiply", "matmul", "dot", "vdot", "inner", "outer", "tensordot", "einsum", "vecdot"})
CHOICES = frozenset({"maximum", "minimum", "fmax", "fmin"})
FLAT_AT_ZERO = frozenset({"square", "power", "float_power", "absolute", "norm"})


def not_finite(a: Any) -> Any:
    """Which elements are NaN or Inf."""
    return ~np.isfinite(a)


def holds(a: Any, test: Callable[[Any], Any]) -> bool:
    """Whether a test such as `np.isnan` is true of any number in an argument.

    >>> holds(np.array([1.0, np.nan]), np.isnan), holds(2, np.isnan), holds("no number", np.isnan)
    (True, False, False)
    """
    if isinstance(a, (tuple, list)):
        return any(holds(part, test) for part in a)
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype.kind == "f" and bool(np.any(test(a)))
    return isinstance(a, float) and bool(test(a))


# ---------------------------------------------------------------------------------------------------------------------
# NaN and Inf
# ---------------------------------------------------------------------------------------------------------------------


def forward_reason(fun: Callable[..., Any], values: Sequence[Any], y: Any) -> Reason:
    """Why `fun(*values)` gave a result `y` that is not finite.

    >>> forward_reason(np.log, [np.array([1.0, 0.0])], np.array([0.0, -np.inf])).words
    'the logarithm of 0 is -inf (1 of 2 elements, the first at [1])'
    """
    name = name_of(fun)
    for case, mask in _matching(UNDEFINED, name, values):
        return _counted(case, mask)
    for i, v in enumerate(values):
        if holds(v, np.isinf) and holds(y, np.isnan):
            return Reason(
                f"argument {i} holds inf, and inf - inf, inf / inf and 0 * inf are not numbers",
                "use a large finite number in place of inf, or leave those elements out with np.where before",
            )
    if holds(y, np.isinf):
        return _overflow(name, y.dtype)
    return Reason(f"{name} has no value for these arguments", RANGES)


def backward_reason(fun: Callable[..., Any], i: int, values: Sequence[Any], y: Any, incoming: Any, sent: Any) -> Reason:
    """Why the rule of `fun` for argument i sent something that is not finite, for a finite gradient `incoming`."""
    name = name_of(fun)
    for case, mask in _matching(STEEP, f"{name}:{i}", values):
        reason = _counted(case, mask)
        if holds(sent, np.isnan) and np.any((np.asarray(incoming) == 0) & mask):
            return Reason(
                f"{reason.words}; the gradient that arrives there is 0, and 0 * inf is not a number: a mask behind an "
                "operation (np.where, a product with 0) does not undo its slope",
                f"mask its argument as well, as in np.where(ok, {name}(np.where(ok, x, 1)), 0)",
                "zero_times_inf",
            )
        return reason
    for what, v in [*((f"argument {k}", v) for k, v in enumerate(values)), ("the result of the forward pass", y)]:
        if holds(v, not_finite):
            return Reason(
                f"{what} is not finite itself, and the rule multiplies with it",
                "run the forward pass inside detect_anomaly() too, to see where that came from",
            )
    if holds(sent, np.isinf):
        return _overflow(f"the rule of {name}", np.asarray(sent).dtype)
    return Reason(f"the rule of {name} has no value for these arguments", RANGES)


def _matching(cases: Iterable[Case], key: str, values: Sequence[Any]) -> Iterable[tuple[Case, Any]]:
    """The cases for a function that hold for some element of its arguments, with the elements for which they do."""
    for case in cases:
        if key in case.functions.split():
            needed = case.where.__code__.co_argcount
            mask = np.asarray(case.where(*(np.asarray(v) for v in values[:needed])))
            if mask.any():
                yield case, mask


def _counted(case: Case, mask: Any) -> Reason:
    return Reason(f"{case.words} ({count_text(mask)})" if mask.ndim else case.words, case.fix)


def _overflow(name: str, dtype: Any) -> Reason:
    largest = np.finfo(dtype).max
    if name in EXPONENTIALS:
        return Reason(f"{name} overflows: {dtype} ends at exponentials of about {np.log(largest):.0f}", EXP, "overflow")
    return Reason(f"{name} overflows: it exceeds {largest:.2g}, the largest {dtype}", OVERFLOW, "overflow")


# ---------------------------------------------------------------------------------------------------------------------
# Zeros
# ---------------------------------------------------------------------------------------------------------------------


def zero_reason(fun: Callable[..., Any], i: int, values: Sequence[Any], y: Any) -> Reason:
    """Why the rule of `fun` for argument i sent nothing but zeros, for a gradient that was not all zero.

    >>> zero_reason(np.multiply, 0, [np.ones(3), np.zeros(3)], np.zeros(3)).words
    'argument 1, which it multiplies with, is all zeros'
    """
    name, x = name_of(fun), np.asarray(values[i])
    spread = f"{x.min():.4g} .. {x.max():.4g}" if x.size and x.dtype.kind in "fiu" else "nothing"
    others = {k: v for k, v in enumerate(values) if k != i and isinstance(v, (np.ndarray, float, int))}
    if name == "relu" or (name in ("maximum", "fmax") and not any(np.any(v) for v in others.values())):
        return dead_reason(y)
    if name in ("sigmoid", "tanh"):
        return Reason(
            f"{name} is saturated: for arguments in {spread} its slope is 0",
            "start with smaller weights, normalise the inputs of the layer, or use relu",
            "saturated",
        )
    if name in ("softmax", "log_softmax", "cross_entropy"):
        near = x > np.max(x, axis=-1, keepdims=True) - 10 if x.ndim and x.shape[-1] else np.zeros((1, 1), bool)
        if name != "cross_entropy" and np.any(np.sum(near, axis=-1) > 1):
            return Reason(
                f"the same gradient arrives for every element of a row, and {name} ignores what moves them together",
                "look at what the loss does with the result: the sum of a softmax, say, is always 1",
                "constant",
            )
        return Reason(
            f"{name} is saturated: among arguments in {spread} one of each row is so far ahead that moving it changes "
            "nothing",
            "scale the logits down; where the loss is 0 there is nothing left to learn from these examples",
            "saturated",
        )
    if name in PRODUCTS and others:
        for k, v in others.items():
            if not np.any(v):
                return Reason(f"argument {k}, which it multiplies with, is all zeros", ZEROS, "multiplied_by_zero")
        share = _percent(np.asarray(next(iter(others.values()))) == 0)
        return Reason(
            f"it multiplies with 0 wherever a gradient arrives ({share} of the other argument are 0)",
            "look at the mask, or the dead units, that the other argument holds",
            "multiplied_by_zero",
        )
    if name == "where":
        return Reason("the condition takes none of its elements where a gradient arrives", RANGES, "masked")
    if name in CHOICES:
        return Reason("the other argument is taken wherever a gradient arrives", RANGES, "masked")
    if name == "clip":
        return Reason(
            f"every element is cut off: they lie in {spread}, outside the bounds",
            "widen the bounds, or clip gradients rather than values",
            "masked",
        )
    if name in ("exp", "exp2") and not np.any(y):
        return Reason(f"{name} of {spread} is 0 in {x.dtype}", "keep logarithms (tg.log_softmax)", "underflow")
    if name in FLAT_AT_ZERO and not np.any(x):
        return Reason(f"{name} is flat at 0, and the argument is all zeros", ZEROS, "flat")
    return Reason(f"the slope of {name} is 0 for these arguments", RANGES, "flat")


def dead_reason(y: Any) -> Reason:
    """A ReLU with result y that lets nothing through: how much of it is dead.

    >>> dead_reason(np.zeros((4, 2))).words
    'the ReLU is dead: 100 % of its elements are 0, and 2 of 2 units are active for no input'
    """
    words = f"the ReLU is dead: {_percent(y <= 0)} of its elements are 0"
    if y.ndim in (2, 3):  # (examples, units) or (examples, time, units)
        dead = ~np.any(y > 0, axis=tuple(range(y.ndim - 1)))
        words += f", and {int(dead.sum())} of {dead.size} units are active for no input"
    fix = "lower the learning rate, start with He initialisation and a small positive bias, or use gelu or a leaky ReLU"
    return Reason(words, fix, "dead_relu")


def _percent(mask: Any) -> str:
    return f"{100 * float(np.mean(mask)):.4g} %"
