"""The rows of `tinygrad_mm.rules.elementwise`. The form of a row is described in `table/row.py`."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import strategies as my
from hypothesis import strategies as st

from table.row import Row
from tinygrad_mm.rules.elementwise import sinc_derivative

POSITIVE = (0.2, 3.0)
BETWEEN = [(5.6, 6.9), (3.6, 4.9)]  # quotients between two integers
NEGATIVE_BETWEEN = [(-6.9, -5.6), (3.6, 4.9)]


def sinc_derivative_by_series(x: np.ndarray, order: int) -> np.ndarray:
    """The Taylor series of sin(pi x) / (pi x), differentiated term by term in exact rational arithmetic."""

    def at(number: float) -> float:
        z = Fraction(number) * Fraction(math.pi)
        total = sum(
            Fraction((-1) ** k, (2 * k + 1) * math.factorial(2 * k - order)) * z ** (2 * k - order)
            for k in range((order + 1) // 2, 40)
        )
        return float(total * Fraction(math.pi) ** order)

    return np.array([at(float(v)) for v in x.ravel()], x.dtype).reshape(x.shape)


def choices(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy[np.ndarray]:
    """Integers 0 and 1, of the shape of the first argument."""
    return my.mask(shape).map(lambda m: m.astype(np.int64))


# fmt: off
ROWS = [
    # arithmetic
    Row(np.add,          "...", "..."),
    Row(np.add,          "...", "...", call=lambda a, b: a + b, note="operator"),
    Row(np.add,          "...", call=lambda a: a + a, note="of itself"),
    Row(np.subtract,     "...", "..."),
    Row(np.subtract,     "...", "...", call=lambda a, b: a - b, note="operator"),
    Row(np.multiply,     "...", "..."),
    Row(np.multiply,     "...", "...", call=lambda a, b: a * b, note="operator"),
    Row(np.multiply,     "...", call=lambda a: a * a * a, note="of itself"),
    Row(np.divide,       "...", "...", domain=[(-3, 3), POSITIVE]),
    Row(np.divide,       "...", "...", domain=[(-3, 3), (-3, -0.2)], call=lambda a, b: a / b, note="operator"),
    Row(np.power,        "...", "...", domain=[POSITIVE, (-2, 2)]),
    Row(np.power,        "...", "...", domain=[POSITIVE, (-2, 2)], call=lambda a, b: a**b, note="operator"),
    Row(np.power,        "...", domain=(-3, 3), options={"n": st.sampled_from([0, 1, 2, 3, 4, -1, -2, 2.0, 3.0, -1.0])},
                         call=lambda a, n: a**n, note="whole exponent, negative base"),
    Row(np.power,        "...", domain=POSITIVE, options={"n": st.sampled_from([0.5, -0.5, 1.5, np.float64(2.5), np.float32(0.5)])},
                         call=lambda a, n: a ** getattr(n, "item", lambda: n)(), note="broken exponent"),
    Row(np.power,        "...", domain=(-3, 3), call=lambda a: np.power(a, np.array([2.0, 3.0, -2.0], a.dtype).reshape(3, *[1] * a.ndim)),
                         note="array of whole exponents, negative base"),
    Row(np.power,        "3", domain=(-3, 3), call=lambda a: a ** np.array([2, 3, 4]), promotes=True, note="integer array as exponent"),
    Row(np.power,        "3", domain=POSITIVE, call=lambda a: a ** np.arange(3.0).astype(a.dtype), note="exponents 0, 1 and 2"),
    Row(np.power,        "...", domain=(-2, 2), options={"base": st.sampled_from([2, 2.0, 0.5, 3])}, call=lambda b, base: base**b, note="number as base"),
    Row(np.float_power,  "...", "...", domain=[POSITIVE, (-2, 2)], promotes=True),
    Row(np.remainder,    "...", "...", domain=BETWEEN),
    Row(np.remainder,    "...", "...", domain=NEGATIVE_BETWEEN, call=lambda a, b: a % b, note="operator"),
    Row(np.fmod,         "...", "...", domain=BETWEEN),
    Row(np.fmod,         "...", "...", domain=NEGATIVE_BETWEEN),
    Row(np.divmod,       "...", "...", domain=BETWEEN),
    Row(np.divmod,       "...", "...", domain=NEGATIVE_BETWEEN, call=divmod, note="operator"),
    Row(np.negative),
    Row(np.negative,     call=lambda x: -x, note="operator"),
    Row(np.positive),
    Row(np.conjugate),
    Row(np.absolute),
    Row(np.absolute,     call=abs, note="operator"),
    Row(np.fabs),
    Row(np.square),
    Row(np.sqrt,         domain=POSITIVE),
    Row(np.cbrt,         domain=POSITIVE),
    Row(np.cbrt,         domain=(-3, -0.2)),
    Row(np.reciprocal,   domain=POSITIVE),
    Row(np.modf,         domain=(1.1, 1.9)),
    Row(np.modf,         domain=(-1.9, -1.1)),
    Row(np.frexp,        domain=(1.1, 1.9)),

    # exponentials and logarithms
    Row(np.exp),
    Row(np.exp2),
    Row(np.expm1),
    Row(np.log,          domain=POSITIVE),
    Row(np.log2,         domain=POSITIVE),
    Row(np.log10,        domain=POSITIVE),
    Row(np.log1p,        domain=(-0.8, 3)),
    Row(np.logaddexp,    "...", "..."),
    Row(np.logaddexp2,   "...", "..."),
    Row(np.ldexp,        options={"i": st.integers(-3, 3)}, call=lambda x, i: np.ldexp(x, i)),
    Row(np.ldexp,        options={"i": choices}, call=lambda x, i: np.ldexp(x, i), note="array of exponents"),

    # trigonometric and hyperbolic functions
    Row(np.sin),
    Row(np.cos),
    Row(np.tan,          domain=(-1.2, 1.2)),
    Row(np.arcsin,       domain=(-0.9, 0.9)),
    Row(np.arccos,       domain=(-0.9, 0.9)),
    Row(np.arctan),
    Row(np.sinh),
    Row(np.cosh),
    Row(np.tanh),
    Row(np.arcsinh),
    Row(np.arccosh,      domain=(1.2, 4)),
    Row(np.arctanh,      domain=(-0.9, 0.9)),
    Row(np.arctan2,      "...", "...", domain=[POSITIVE, (-3, 3)]),
    Row(np.arctan2,      "...", "...", domain=[(-3, 3), POSITIVE]),
    Row(np.arctan2,      "...", "...", domain=[(-3, -0.2), (-3, -0.2)]),
    Row(np.hypot,        "...", "...", domain=[(-3, 3), POSITIVE]),
    Row(np.degrees),
    Row(np.rad2deg),
    Row(np.radians),
    Row(np.deg2rad),
    Row(np.sinc),
    Row(np.sinc,         domain=(-0.02, 0.02)),
    Row(sinc_derivative, "n", options={"order": st.integers(1, 4)}, oracle=sinc_derivative_by_series, ulps=128, cancels=True),
    Row(sinc_derivative, "n", options={"order": st.integers(1, 4)}, oracle=sinc_derivative_by_series, ulps=400, domain=(-0.3, 0.3)),

    # choices
    Row(np.maximum,      "...", "..."),
    Row(np.minimum,      "...", "..."),
    Row(np.fmax,         "...", "..."),
    Row(np.fmin,         "...", "..."),
    Row(np.copysign,     "...", call=lambda a: np.copysign(a, -1.5)),
    Row(np.copysign,     "...", "...", call=lambda a, b: np.copysign(a, b)),
    Row(np.nextafter,    "...", call=lambda a: np.nextafter(a, a + 1)),
    Row(np.where,        "...", "...", call=lambda a, b: np.where(a > b, a * a, b)),
    Row(np.where,        "...", "...", options={"condition": my.mask}, call=lambda a, b, condition: np.where(condition, a, b), note="mask array"),
    Row(np.where,        "...", options={"condition": st.booleans()}, call=lambda a, condition: np.where(condition, a, 0.0), note="number as choice"),
    Row(np.clip,         "...", options={"low": -1.0, "high": 1.0}, call=lambda a, low, high: np.clip(a, low, high)),
    Row(np.clip,         "...", call=lambda a: np.clip(a, -1, None), note="below only"),
    Row(np.clip,         "...", call=lambda a: np.clip(a, None, 1), note="above only"),
    Row(np.clip,         "...", call=lambda a: a.clip(-1, 1), note="method"),
    Row(np.clip,         "...", "...", "...", call=lambda a, b, c: np.clip(a, np.minimum(b, c), np.maximum(b, c)), note="bounds are arrays"),
    Row(np.copy),
    Row(np._core.umath.clip, "...", "...", "...", call=lambda a, b, c: np._core.umath.clip(a, np.minimum(b, c), np.maximum(b, c)), note="the ufunc"),
    Row(np.copy,         call=lambda x: x.copy(), note="method"),
    Row(np.nan_to_num),
    Row(np.nan_to_num,   call=lambda x: np.nan_to_num(x, copy=True), note="a copy"),
    Row(np.nan_to_num,   options={"hole": my.mask}, call=lambda x, hole: np.nan_to_num(np.where(hole, math.nan, x), nan=2.0), note="with NaN"),
    Row(np.nan_to_num,   options={"hole": my.mask}, call=lambda x, hole: np.nan_to_num(np.where(hole, math.nan, x), True, 2.0), note="by position"),
    Row(np.nan_to_num,   options={"hole": my.mask}, call=lambda x, hole: np.nan_to_num(np.where(hole, math.inf, x), posinf=5.0, neginf=-5.0), note="with infinity"),
    Row(np.select,       "...", "...", call=lambda a, b: np.select([a > 1, b > 1], [a * b, b])),
    Row(np.select,       "...", "...", call=lambda a, b: np.select([a > 1, b > 1], [a, b], default=-1.0), note="number as default"),
    Row(np.choose,       "s...", "s...", options={"index": choices}, call=lambda a, b, index: np.choose(index, [a, b])),
    Row(np.choose,       "s...", "s...", options={"index": choices}, call=lambda a, b, index: np.choose(index + 3, (a, b), mode="wrap"), note="wrap"),
    Row(np.choose,       "s...", "s...", options={"index": choices}, call=lambda a, b, index: np.choose(index * 7 - 3, (a, b), mode="clip"), note="clip"),
    Row(np.interp,       "s... n", "4", domain=[(-0.9, 3.9), (1, 3)], call=lambda x, fp: np.interp(x, np.array([-0.95, 0.7, 2.3, 3.95], x.dtype), fp), promotes=True, ulps=16, zero_d=ValueError),
    Row(np.interp,       "s... n", "3", domain=[(5.1, 7), (1, 3)], call=lambda x, fp: np.interp(x, np.array([0, 1, 2.0], x.dtype), fp, right=1.0), promotes=True, ulps=16, note="outside", zero_d=ValueError),
    Row(np.interp,       "n", "4", "4", domain=[(1.2, 1.7), (0.9, 1.1), (1, 3)], call=lambda x, steps, fp: np.interp(x, np.cumsum(steps), fp), promotes=True, ulps=64, zero_d=ValueError, note="knots too"),
    Row(np.interp,       "n", "3", "3", domain=[(4.1, 4.9), (1, 1.2), (1, 3)], call=lambda x, steps, fp: np.interp(x, np.cumsum(steps)[::-1] - 4, fp, period=-4.0), promotes=True, ulps=64, zero_d=ValueError, note="period"),
    Row(np.choose,       "n 2", "2", call=lambda a, b: np.choose(np.array([1, 0]), [a, b]), note="broadcast"),
    Row(np.real),
    Row(np.real,         call=lambda x: x.real, note="attribute"),
    Row(np.real_if_close),
]
# fmt: on
if hasattr(np, "unstack"):  # NumPy 2.1
    ROWS += [Row(np.clip, call=lambda a: np.clip(a, min=-1.0, max=1.0), note="array API names")]
