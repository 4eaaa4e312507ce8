"""Why an operation gave a number that is none: a table of the places where functions have no value or no slope.

Functions are known by their names, so that those of other rooms on this floor need not be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.debug.wording import count_text
from tinygrad_mm.graph import name_of

__all__ = ["Reason", "backward_reason", "dead_reason", "forward_reason", "holds", "zero_reason"]


class Reason(NamedTuple):
    """What probably happened, what to do about it, and one word for programs."""

    words: str
    fix: str
    cause: str = "undefined"


class Case(NamedTuple):
    """`where(*arguments)` marks the elements at which `words` holds."""

    where: Callable[..., Any]
    words: str
    fix: str


LOG = "keep the argument positive, as in np.log(np.maximum(x, 1e-12)); for probabilities use tg.log_softmax or tg.cross_entropy on the logits"
ROOT = "keep the argument positive, as in np.sqrt(np.maximum(x, 0) + 1e-12)"
DIVIDE = "keep the divisor away from 0, as in a / (b + 1e-12), or choose with a safe divisor: np.where(b == 0, 0, a / np.where(b == 0, 1, b))"
OVERFLOW = "scale the numbers down first (normalise the inputs, lower the learning rate, clip), or compute in float64"
EXP = "use a form that does not overflow (tg.softmax, tg.logsumexp, np.logaddexp, np.expm1), or clip the argument"
DOMAIN = "clip the argument into the domain with np.clip"
POWER = "use x * x or np.square for even powers, np.abs(x) for a negative base, and keep a base with a negative exponent away from 0"
MASKED = "leave at least one entry per row unmasked, or use a large negative number such as -1e9 in place of -inf"

# Where a function has no finite value, by its arguments.
UNDEFINED: dict[str, list[Case]] = {
    **dict.fromkeys(
        ("log", "log2", "log10"),
        [
            Case(lambda x: x < 0, "the logarithm of a negative number is not a number", LOG),
            Case(lambda x: x == 0, "the logarithm of 0 is -inf", LOG),
        ],
    ),
    "log1p": [Case(lambda x: x <= -1, "log1p has no finite value at -1 and below", "keep the argument above -1")],
    "sqrt": [Case(lambda x: x < 0, "the square root of a negative number is not a number", ROOT)],
    "divide": [
        Case(lambda a, b: (a == 0) & (b == 0), "0 / 0 is not a number", DIVIDE),
        Case(lambda a, b: (a == a) & (b == 0), "division by 0", DIVIDE),
    ],
    "reciprocal": [Case(lambda x: x == 0, "division by 0", DIVIDE)],
    **dict.fromkeys(
        ("remainder", "fmod", "floor_divide"), [Case(lambda a, b: (a == a) & (b == 0), "division by 0", DIVIDE)]
    ),
    **dict.fromkeys(
        ("power", "float_power"),
        [
            Case(lambda a, b: (a == 0) & (b < 0), "0 to a negative power divides by 0", POWER),
            Case(lambda a, b: (a < 0) & (b != np.floor(b)), "a negative number has no fractional power", POWER),
        ],
    ),
    **dict.fromkeys(
        ("arcsin", "arccos"), [Case(lambda x: np.abs(x) > 1, "the argument lies outside [-1, 1]", DOMAIN)]
    ),
    "arccosh": [Case(lambda x: x < 1, "the argument lies below 1", DOMAIN)],
    "arctanh": [Case(lambda x: np.abs(x) >= 1, "the argument lies outside (-1, 1)", DOMAIN)],
    **dict.fromkeys(
        ("softmax", "log_softmax", "logsumexp", "_cross_entropy"),
        [
            Case(lambda x, *_: np.all(x == -np.inf, axis=-1), "every entry of a row is -inf: nothing is left to choose", MASKED),
            Case(lambda x, *_: x == np.inf, "an entry is inf, so the differences to the largest are inf - inf", OVERFLOW),
        ],
    ),
    **dict.fromkeys(
        ("mean", "var", "std"),
        [Case(lambda x: np.asarray(x.size == 0), "the array has no elements, so there is nothing to average", "check the batch or the selection: it is empty")],
    ),
}  # fmt: skip

EXPONENTIALS = frozenset({"exp", "exp2", "expm1", "sinh", "cosh"})

# Where the slope of a function with respect to one of its arguments is not finite: (function, argument) -> case.
STEEP: dict[tuple[str, int], Case] = {
    ("sqrt", 0): Case(lambda x: x == 0, "the slope of sqrt at 0 is infinite", "keep the argument above 0: np.sqrt(x + 1e-12)"),
    ("cbrt", 0): Case(lambda x: x == 0, "the slope of cbrt at 0 is infinite", "keep the argument away from 0"),
    **dict.fromkeys(
        (("log", 0), ("log2", 0), ("log10", 0)), Case(lambda x: x == 0, "the slope of a logarithm at 0 is infinite", LOG)
    ),
    ("log1p", 0): Case(lambda x: x == -1, "the slope of log1p at -1 is infinite", "keep the argument above -1"),
    ("reciprocal", 0): Case(lambda x: x == 0, "division by 0", DIVIDE),
    **dict.fromkeys((("divide", 0), ("divide", 1)), Case(lambda a, b: (a == a) & (b == 0), "division by 0", DIVIDE)),
    ("power", 0): Case(lambda a, b: (a == 0) & (b < 1) & (b != 0), "the slope of a power below 1 is infinite at 0", POWER),
    ("power", 1): Case(lambda a, b: (a < 0) & (b == b), "the slope in the exponent is a logarithm of the base, which is negative", POWER),
    **dict.fromkeys(
        (("arcsin", 0), ("arccos", 0)),
        Case(lambda x: np.abs(x) == 1, "the slope at -1 and 1 is infinite", DOMAIN + ", to just inside [-1, 1]"),
    ),
    ("arccosh", 0): Case(lambda x: x == 1, "the slope at 1 is infinite", "keep the argument above 1"),
    ("arctanh", 0): Case(lambda x: np.abs(x) == 1, "the slope at -1 and 1 is infinite", DOMAIN + ", to just inside (-1, 1)"),
}  # fmt: skip


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


def forward_reason(fun: Callable[..., Any], values: Sequence[Any], y: Any) -> Reason:
    """Why `fun(*values)` gave a result `y` that is not finite."""
    name = name_of(fun)
    found = _first(UNDEFINED.get(name, []), values)
    if found is not None:
        return found
    for i, v in enumerate(values):
        if holds(v, np.isinf) and holds(y, np.isnan):
            return Reason(
                f"argument {i} holds inf, and inf - inf, inf / inf and 0 * inf are not numbers",
                "use a large finite number in place of inf, or leave those elements out with np.where before this operation",
            )
    dtype = getattr(y, "dtype", np.dtype(np.float64))
    if name in EXPONENTIALS:
        limit = np.log(np.finfo(dtype).max)
        return Reason(f"{name} overflows: in {dtype} an exponential is inf above about {limit:.0f}", EXP)
    if holds(y, np.isinf):
        return Reason(f"overflow: the result is larger than {np.finfo(dtype).max:.2g}, the largest {dtype}", OVERFLOW)
    return Reason(f"{name} has no value for these arguments", "look at the ranges of the arguments above")


def backward_reason(
    fun: Callable[..., Any], i: int, values: Sequence[Any], y: Any, incoming: Any, contribution: Any
) -> Reason:
    """Why the rule of `fun` for argument i gave a contribution that is not finite, for a finite gradient `incoming`."""
    case = STEEP.get((name_of(fun), i))
    found = _first([case] if case else [], values)
    if case is not None and found is not None:
        if holds(contribution, np.isnan) and np.any((np.asarray(incoming) == 0) & case.where(*values)):
            return Reason(
                f"{found.words}; the gradient that arrives there is 0, and 0 * inf is not a number. A mask behind an "
                f"operation (np.where, a product with 0) does not undo its slope",
                f"mask the argument as well, as in np.where(ok, {name_of(fun)}(np.where(ok, x, 1)), 0)",
            )
        return found
    for what, v in [*((f"argument {k}", v) for k, v in enumerate(values)), ("the result of the forward pass", y)]:
        for kind, test in (("NaN", np.isnan), ("inf", np.isinf)):
            if holds(v, test):
                return Reason(
                    f"{what} holds {kind} already, and the rule multiplies with it",
                    "put the forward pass inside `with tg.detect_anomaly():` too, to see where that came from",
                )
    if holds(contribution, np.isinf):
        dtype = getattr(contribution, "dtype", np.dtype(np.float64))
        return Reason(f"overflow: larger than {np.finfo(dtype).max:.2g}, the largest {dtype}", OVERFLOW)
    return Reason("the rule has no value for these arguments", "look at the ranges of the arguments above")


def zero_reason(fun: Callable[..., Any], i: int, values: Sequence[Any], y: Any, incoming: Any) -> Reason:
    """Why the rule of `fun` for argument i gave nothing but zeros, for a gradient `incoming` that was not all zero."""
    name = name_of(fun)
    x = values[i]
    others = [v for k, v in enumerate(values) if k != i and isinstance(v, (np.ndarray, float, int))]
    if name == "relu":
        return dead_reason(y)
    if name in ("sigmoid", "tanh"):
        return Reason(
            f"{name} is saturated: its argument lies in {x.min():.4g} .. {x.max():.4g}, where the slope is 0 "
            f"({_share(y * (1 - y) if name == 'sigmoid' else 1 - y * y, lambda slope: slope == 0)} of the elements)",
            "start with smaller weights, normalise the inputs of the layer, or use relu",
            "saturated",
        )
    if name in ("softmax", "log_softmax", "_cross_entropy"):
        return Reason(
            f"{name} is saturated: one entry of each row is ahead by so much (arguments {x.min():.4g} .. {x.max():.4g}) "
            "that nothing changes by moving it",
            "scale the logits down; with a loss of 0 on these examples there is nothing left to learn from them",
            "saturated",
        )
    if name in ("multiply", "matmul", "dot", "vdot", "inner", "outer", "tensordot", "einsum", "vecdot"):
        for k, v in enumerate(values):
            if k != i and isinstance(v, (np.ndarray, float, int)) and not np.any(v):
                return Reason(f"{name} multiplies by argument {k}, which is all zeros", ZEROS, "multiplied_by_zero")
        if others:
            return Reason(
                f"{name} multiplies by 0 wherever a gradient arrives ({_share(others[0], lambda v: v == 0)} of the other "
                "argument are 0)",
                "look at the mask, or at the dead units, that the other argument holds",
                "multiplied_by_zero",
            )
    if name == "where":
        return Reason(
            f"where takes nothing of argument {i} wherever a gradient arrives", "look at the condition", "masked"
        )
    if name in ("maximum", "minimum", "fmax", "fmin"):
        if others and not np.any(others[0]) and name in ("maximum", "fmax"):
            return dead_reason(y)
        return Reason(f"{name} takes the other argument everywhere", "look at the ranges of the two", "masked")
    if name == "clip":
        return Reason(
            f"clip cuts every element off: they lie in {x.min():.4g} .. {x.max():.4g}, outside the bounds",
            "widen the bounds, or clip gradients rather than values",
            "masked",
        )
    if name in ("exp", "exp2") and not np.any(y):
        return Reason(f"{name} underflows to 0", "work with logarithms (tg.log_softmax, tg.logsumexp)", "underflow")
    if name in ("square", "power", "float_power", "absolute", "norm") and isinstance(x, np.ndarray) and not np.any(x):
        return Reason(f"the slope of {name} at 0 is 0, and the argument is all zeros", ZEROS, "flat")
    if np.any(np.abs(np.asarray(incoming)) < np.finfo(np.float32).tiny):
        return Reason(
            f"the product in the rule of {name} underflows to 0", "scale the loss up, or use float64", "underflow"
        )
    return Reason(f"the slope of {name} is 0 for these arguments", "look at the ranges of its arguments", "flat")


ZEROS = "give it other values than zeros to start with (see tg.nn.init)"


def dead_reason(y: Any) -> Reason:
    """A ReLU with result y that lets nothing through: how much of it is dead.

    >>> dead_reason(np.zeros((4, 2))).words
    'the ReLU is dead: 100 % of the elements are 0, and 2 of 2 units are active for none of the inputs'
    """
    words = f"the ReLU is dead: {_share(y, lambda v: v <= 0)} of the elements are 0"
    if y.ndim in (2, 3):  # (examples, units) or (examples, time, units)
        dead = ~np.any(y > 0, axis=tuple(range(y.ndim - 1)))
        words += f", and {int(dead.sum())} of {dead.size} units are active for none of the inputs"
    fix = "lower the learning rate, start with a small positive bias or He initialisation, or use a leaky ReLU or gelu"
    return Reason(words, fix, "dead_relu")


def _share(values: Any, test: Callable[[Any], Any]) -> str:
    return f"{100 * float(np.mean(test(np.asarray(values)))):.4g} %"


def _first(cases: Sequence[Case], values: Sequence[Any]) -> Reason | None:
    """The first case that holds for some element of the arguments, with these elements counted."""
    for case in cases:
        needed = case.where.__code__.co_argcount
        mask = np.asarray(case.where(*(np.asarray(v) for v in values[:needed])))
        if mask.any():
            return Reason(f"{case.words} ({count_text(mask)})" if mask.ndim else case.words, case.fix)
    return None
