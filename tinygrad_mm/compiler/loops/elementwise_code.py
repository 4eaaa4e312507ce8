"""Elementwise operations as expressions of single numbers, and which of them are better left to NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.rules.shape import astype

__all__ = ["Scalar", "cast", "number", "scalar_of", "typename"]

KNOWN = frozenset(np.dtype(d) for d in "?bhilqBHILQfd")
# Above so many elements NumPy's own loop, with SIMD, is faster than a call of the C library for each element.
SLOW_UP_TO = 256


@dataclass
class Scalar:
    """An elementwise operation: `text(operands)` is its expression, given operands of the dtypes `takes`."""

    text: Callable[[Sequence[str]], str]
    takes: Sequence[Any]
    operands: Sequence[Any]


# Templates: {0}, {1} are operands, {t} the name of their dtype.
_BOTH: dict[Any, str] = {
    np.add: "({0} + {1})",
    np.subtract: "({0} - {1})",
    np.multiply: "({0} * {1})",
    np.negative: "(-{0})",
    np.positive: "{0}",
    np.square: "({0} * {0})",
    np.absolute: "abs({0})",
    np.maximum: "maximum({0}, {1})",
    np.minimum: "minimum({0}, {1})",
    np.sign: "({0} if {0} != {0} else {t}({0} > {t}(0)) - {t}({0} < {t}(0)))",
}
_FLOATS: dict[Any, str] = {
    np.divide: "({0} / {1})",
    np.reciprocal: "({t}(1) / {0})",
    np.sqrt: "math.sqrt({0})",
    np.fabs: "abs({0})",
    np.floor: "np.floor({0})",
    np.ceil: "np.ceil({0})",
    np.trunc: "np.trunc({0})",
}
_ANY: dict[Any, str] = {
    np.greater: "({0} > {1})",
    np.greater_equal: "({0} >= {1})",
    np.less: "({0} < {1})",
    np.less_equal: "({0} <= {1})",
    np.equal: "({0} == {1})",
    np.not_equal: "({0} != {1})",
}
_BOOLS: dict[Any, str] = {
    np.logical_and: "({0} & {1})",
    np.logical_or: "({0} | {1})",
    np.logical_xor: "({0} ^ {1})",
    np.logical_not: "(not {0})",
    np.bitwise_and: "({0} & {1})",
    np.bitwise_or: "({0} | {1})",
    np.invert: "(not {0})",
    np.add: "({0} | {1})",
    np.multiply: "({0} & {1})",
    np.maximum: "({0} | {1})",
    np.minimum: "({0} & {1})",
    np.positive: "{0}",
}
_TESTS: dict[Any, str] = {
    np.isnan: "({0} != {0})",
    np.isinf: "(abs({0}) == {t}(inf))",
    np.isfinite: "(abs({0}) < {t}(inf))",
    np.signbit: "(math.copysign({t}(1), {0}) < {t}(0))",
}
_SINGLE: dict[Any, str] = {np.exp: "exp32({0})", np.tanh: "tanh32({0})"}
_SLOW: dict[Any, str] = {
    np.exp: "math.exp({0})",
    np.expm1: "math.expm1({0})",
    np.log: "np.log({0})",
    np.log1p: "np.log1p({0})",
    np.sin: "math.sin({0})",
    np.cos: "math.cos({0})",
    np.tanh: "math.tanh({0})",
    np.sinh: "math.sinh({0})",
    np.cosh: "math.cosh({0})",
    np.arctan: "math.atan({0})",
}


def typename(dtype: Any) -> str:
    """The name of a dtype in emitted code; bools are kept as uint8."""
    return "uint8" if dtype == np.bool_ else f"{np.dtype(dtype).name}"


def cast(text: str, given: Any, wanted: Any) -> str:
    """An expression of one dtype as one of another."""
    if given == wanted:
        return text
    return f"({text} != 0)" if wanted == np.bool_ else f"{typename(wanted)}({text})"


def number(value: Any, dtype: Any) -> str:
    """A Python number as it is written."""
    if dtype == np.bool_:
        return repr(bool(value))
    text = repr(float(value) if np.dtype(dtype).kind == "f" else int(value))
    return f"{typename(dtype)}({text})"


def scalar_of(fun: Any, args: Sequence[Any], dtype: Any, size: int) -> Scalar | None:
    """How an elementwise operation is written, with a result of a dtype and a size; None for what is better called.

    `args` are Python numbers and whatever has a dtype.
    """
    kinds = [getattr(a, "dtype", type(a)) for a in args]
    if dtype not in KNOWN or not size or any(k not in KNOWN and k not in (int, float, bool) for k in kinds):
        return None
    if fun in (astype, np.copyto, np.copy, stop_gradient):
        return Scalar(lambda a: cast(a[0], kinds[0], dtype), kinds[:1], args[:1])
    if fun is np.where and len(args) == 3:
        return Scalar(lambda a: f"({a[1]} if {a[0]} else {a[2]})", [np.dtype(np.bool_), dtype, dtype], args)
    if not isinstance(fun, np.ufunc) or fun.signature is not None or fun.nout != 1 or len(args) != fun.nin:
        return None
    given = [np.dtype(bool) if kind is bool else kind for kind in kinds]
    try:
        *takes, gives = fun.resolve_dtypes((*given, None))
    except TypeError:
        return None
    if gives != dtype or any(d not in KNOWN for d in takes):
        return None
    template = None
    loop = takes[0]
    if fun in _ANY and len(set(takes)) == 1:
        template = _ANY[fun]
    elif loop == np.bool_ or fun in (np.logical_and, np.logical_or, np.logical_xor, np.logical_not):
        template = _BOOLS.get(fun)
        takes = [np.dtype(np.bool_)] * len(takes)
    elif len(set(takes)) > 1:
        return None
    elif fun in _BOTH and loop == gives:
        if fun in (np.negative, np.absolute, np.sign) and loop.kind == "u":
            return None
        template = _BOTH[fun]
        if loop.itemsize < 8 and loop.kind in "iu":
            template = f"{{t}}({template})"  # Numba computes small integers as large ones
    elif loop.kind == "f":
        template = _FLOATS.get(fun) or _TESTS.get(fun)
        if template is None and loop == np.float32:
            template = _SINGLE.get(fun)
        if template is None and size <= SLOW_UP_TO:
            template = _SLOW.get(fun)
    form, name = template or "", typename(loop)
    return Scalar(lambda a: form.format(*a, t=name), takes, args) if form else None
