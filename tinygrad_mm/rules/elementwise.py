"""Elementwise functions, with broadcasting.

Conventions: `maximum`, `minimum`, `fmax`, `fmin` share the gradient between equal arguments; `absolute` and `hypot`
have gradient 0 at 0, so that second derivatives of their squares are 0 there (write `x * x` and `a * a + b * b`); `clip`
passes the gradient at its bounds; `power` has gradient 0 with respect to the exponent at base 0.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_mm.graph import RULES, defcomposite, defmetadata, defstopped, defvjp, primitive
from tinygrad_mm.rules.indexing import at_places
from tinygrad_mm.rules.operands import as_arrays, like

# An argument may be a Python number, and np.f(2.0) is a float64, which would turn a float32 gradient into one. So rules
# call NumPy's functions on g, y and arrays only; beside Python numbers they use operators and `math`.


def _power_growth(y, a):
    """d(a ** b)/db = a ** b * log(a), and 0 where a is 0, also where a negative b makes the power infinite."""
    if isinstance(a, (int, float)):
        return y * math.log(a) if a > 0 else np.full_like(y, 0 if a == 0 else math.nan)
    return np.where(a == 0, 0, y) * np.log(np.where(a == 0, 1, a))


def _power_slope(a, b):
    """d(a ** b)/da = b * a ** (b - 1), and 0 where b is 0, also at a = 0."""
    if isinstance(b, (int, float)):
        return b * a if b == 2 else b * a ** (b - 1) if b not in (0, 1) else np.full_like(a, b)
    return b * np.where(b == 0, 1, a) ** np.where(b == 0, 1, b - 1)


def _difference(a, b, y):
    """The difference a - b, 0 where both are the same infinity: the slope of b is 1 / (1 + e^(a - b))."""
    a, b = like(a, y), like(b, y)
    same = np.isinf(a) & (a == b)
    return np.where(same, 0, a) - np.where(same, 0, b)


def quotient(a, b):
    """The quotient a / b, and 0 where b is 0."""
    zero = b == 0
    return np.where(zero, 0, a / np.where(zero, 1, b))


# fmt: off
# arithmetic
defvjp(np.add,           lambda g, y, a, b: g,
                         lambda g, y, a, b: g)
defvjp(np.subtract,      lambda g, y, a, b: g,
                         lambda g, y, a, b: -g)
defvjp(np.multiply,      lambda g, y, a, b: g * b,
                         lambda g, y, a, b: g * a)
defvjp(np.divide,        lambda g, y, a, b: g / b,
                         lambda g, y, a, b: -g * y / b)
defvjp(np.power,         lambda g, y, a, b: g * _power_slope(a, b),
                         lambda g, y, a, b: g * _power_growth(y, a))
defvjp(np.float_power,   lambda g, y, a, b: g * _power_slope(a, b),
                         lambda g, y, a, b: g * _power_growth(y, a))
defvjp(np.remainder,     lambda g, y, a, b: g,
                         lambda g, y, a, b: g * ((y - a) / b))
defvjp(np.fmod,          lambda g, y, a, b: g,
                         lambda g, y, a, b: g * ((y - a) / b))
defvjp(np.negative,      lambda g, y, x: -g)
defvjp(np.positive,      lambda g, y, x: g)
defvjp(np.conjugate,     lambda g, y, x: g)
defvjp(np.absolute,      lambda g, y, x: g * np.sign(x))
defvjp(np.fabs,          lambda g, y, x: g * np.sign(x))
defvjp(np.square,        lambda g, y, x: g * 2 * x)
defvjp(np.sqrt,          lambda g, y, x: g * 0.5 / y)
defvjp(np.cbrt,          lambda g, y, x: g / (3 * y * y))
defvjp(np.reciprocal,    lambda g, y, x: -g * y * y)

# exponentials and logarithms
defvjp(np.exp,           lambda g, y, x: g * y)
defvjp(np.exp2,          lambda g, y, x: g * y * math.log(2))
defvjp(np.expm1,         lambda g, y, x: g * (y + 1))
defvjp(np.log,           lambda g, y, x: g / x)
defvjp(np.log2,          lambda g, y, x: g / x / math.log(2))
defvjp(np.log10,         lambda g, y, x: g / x / math.log(10))
defvjp(np.log1p,         lambda g, y, x: g / (x + 1))
defvjp(np.logaddexp,     lambda g, y, a, b: g * np.exp(-np.logaddexp(0, _difference(b, a, y))),
                         lambda g, y, a, b: g * np.exp(-np.logaddexp(0, _difference(a, b, y))))
defvjp(np.logaddexp2,    lambda g, y, a, b: g * np.exp2(-np.logaddexp2(0, _difference(b, a, y))),
                         lambda g, y, a, b: g * np.exp2(-np.logaddexp2(0, _difference(a, b, y))))
defvjp(np.ldexp,         lambda g, y, x, i: np.ldexp(g, i), None)

# trigonometric and hyperbolic functions
defvjp(np.sin,           lambda g, y, x: g * np.cos(x))
defvjp(np.cos,           lambda g, y, x: -g * np.sin(x))
defvjp(np.tan,           lambda g, y, x: g * (1 + y * y))
defvjp(np.arcsin,        lambda g, y, x: g / np.sqrt(1 - x * x))
defvjp(np.arccos,        lambda g, y, x: -g / np.sqrt(1 - x * x))
defvjp(np.arctan,        lambda g, y, x: g / (1 + x * x))
defvjp(np.sinh,          lambda g, y, x: g * np.cosh(x))
defvjp(np.cosh,          lambda g, y, x: g * np.sinh(x))
defvjp(np.tanh,          lambda g, y, x: g * (1 - y * y))
defvjp(np.arcsinh,       lambda g, y, x: g / np.sqrt(x * x + 1))
defvjp(np.arccosh,       lambda g, y, x: g / np.sqrt(x * x - 1))
defvjp(np.arctanh,       lambda g, y, x: g / (1 - x * x))
defvjp(np.arctan2,       lambda g, y, a, b: g * (b / (a * a + b * b)),
                         lambda g, y, a, b: -g * (a / (a * a + b * b)))
defvjp(np.hypot,         lambda g, y, a, b: g * quotient(a, y),
                         lambda g, y, a, b: g * quotient(b, y))
defvjp(np.degrees,       lambda g, y, x: g * (180 / math.pi))
defvjp(np.rad2deg,       lambda g, y, x: g * (180 / math.pi))
defvjp(np.radians,       lambda g, y, x: g * (math.pi / 180))
defvjp(np.deg2rad,       lambda g, y, x: g * (math.pi / 180))

# choices
defvjp(np.maximum,       lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(a == y, g, 0)),
                         lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(b == y, g, 0)))
defvjp(np.minimum,       lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(a == y, g, 0)),
                         lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(b == y, g, 0)))
defvjp(np.fmax,          lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(a == y, g, 0)),
                         lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(b == y, g, 0)))
defvjp(np.fmin,          lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(a == y, g, 0)),
                         lambda g, y, a, b: np.where(a == b, g * 0.5, np.where(b == y, g, 0)))
defvjp(np.copysign,      lambda g, y, a, b: g * np.sign(y) * np.sign(a), None)
defvjp(np.nextafter,     lambda g, y, a, b: g, None)
defvjp(np.where,         None,
                         lambda g, y, condition, a, b: np.where(condition, g, 0),
                         lambda g, y, condition, a, b: np.where(condition, 0, g), signature="(...), (...), (...) -> (...) broadcast")
defvjp(np.clip,          lambda g, y, a, a_min=None, a_max=None: np.where(y == a, g, 0),
                         lambda g, y, a, a_min=None, a_max=None: np.where((y == a_min) & (y != a), g, 0),
                         lambda g, y, a, a_min=None, a_max=None: np.where((y == a_max) & (y != a), g, 0), signature="(...), (...), (...) -> (...) broadcast")
defvjp(np.copy,          lambda g, y, a, order="K", subok=False: g)
# fmt: on

RULES[np.power].forward = lambda a, b: a**b  # the operator is faster than np.power for squares and roots
# `array.clip(low, high)` with Tensors as bounds is a call of this ufunc, not of np.clip.
_clip = np._core.umath.clip  # type: ignore[attr-defined]
defcomposite(
    _clip, lambda a, a_min, a_max: np.clip(a, a_min, a_max), signature="(...), (...), (...) -> (...) broadcast"
)
RULES[np.clip].forward = lambda a, *bounds: np.clip(as_arrays([a, *(b for b in bounds if b is not None)])[0], *bounds)


@primitive
def sinc_derivative(x, order=0):
    """The derivative of `np.sinc` of a given order: a power series near 0, a recurrence in the order elsewhere."""
    if order == 0:
        return np.sinc(x)
    near = np.abs(x) < 0.5 + order / 4
    z = np.where(near, x, 0.0).astype(x.dtype)
    terms = range((order + 1) // 2, (order + 1) // 2 + 14 + order)
    series = sum(
        (-1) ** k * math.pi ** (2 * k) / ((2 * k + 1) * math.factorial(2 * k - order)) * z ** (2 * k - order)
        for k in terms
    )
    far = np.where(near, 1.0, x).astype(x.dtype)
    wave = math.pi ** (order - 1) * np.sin(math.pi * far + order * math.pi / 2)
    return np.where(near, series, (wave - order * sinc_derivative(far, order - 1)) / far)


defvjp(np.sinc, lambda g, y, x: g * sinc_derivative(x, 1))
defvjp(sinc_derivative, lambda g, y, x, order=0: g * sinc_derivative(x, order + 1))


@primitive
def exponent(x):
    """The binary exponent of each element, as `np.frexp` gives it."""
    return np.frexp(x)[1]


defstopped(exponent)


@primitive
def stop_gradient(x):
    """The array itself, through which no gradient passes: what `detach()` records while tracing."""
    return x


def _modf(x):
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    return x - np.trunc(x), np.trunc(x)


def _select(condlist, choicelist, default=0):
    *choices, result = as_arrays([*choicelist, default])
    if any(c.dtype != bool for c in as_arrays(condlist)):
        raise TypeError("select: conditions are boolean arrays")
    for condition, choice in zip(reversed(condlist), reversed(choices), strict=True):
        result = np.where(condition, choice, result)
    return result


def _choose(a, choices, out=None, mode="raise"):
    n = len(choices)  # negative choices are replaced by n, which raises; as indices they would count from the end
    which = {"wrap": lambda: a % n, "clip": lambda: np.clip(a, 0, n - 1), "raise": lambda: np.where(a < 0, n, a)}
    index = which[mode]()
    index = index if hasattr(index, "requires_grad") else np.asarray(index)
    index, *choices = np.broadcast_arrays(index, *choices)
    return np.take_along_axis(np.stack(choices), np.expand_dims(index, 0), axis=0)[0]


def _nan_to_num(x, copy=True, nan=0.0, posinf=None, neginf=None):
    if not copy:
        raise TypeError("nan_to_num: copy=False would write into a Tensor that the graph may need; leave it out")
    if not np.issubdtype(x.dtype, np.floating):
        return np.copy(x)
    high = np.finfo(x.dtype).max if posinf is None else posinf
    low = np.finfo(x.dtype).min if neginf is None else neginf
    return np.where(np.isnan(x), nan, np.where(x == math.inf, high, np.where(x == -math.inf, low, x)))


def _one_period(xp, fp, period):
    """Places in one period in order, with the last one before it and the first one after it, and the values there."""
    xp = np.mod(xp, period)
    order = np.argsort(xp)
    xp, fp = at_places(xp, order), at_places(fp, order)
    return np.concatenate([xp[-1:] - period, xp, xp[:1] + period]), np.concatenate([fp[-1:], fp, fp[:1]])


def _interp(x, xp, fp, left=None, right=None, period=None):
    """In float64 throughout, as NumPy computes it."""
    if period == 0:
        raise ValueError("interp: period=0; a period is another number")
    x, xp, fp = (v.astype(np.float64) if hasattr(v, "dtype") else np.asarray(v, np.float64) for v in (x, xp, fp))
    if xp.ndim != 1 or xp.shape != fp.shape or xp.shape[0] < (2 if period is None else 1):
        raise ValueError(
            f"interp: xp and fp must be two lists of one length, at least 2; they have {xp.shape} and {fp.shape}"
        )
    if period is not None:
        x, xp, fp, left, right = np.mod(x, abs(period)), *_one_period(xp, fp, abs(period)), None, None
    i = np.clip(np.searchsorted(xp, x, side="right") - 1, 0, xp.shape[0] - 2)
    x0, x1, y0, y1 = at_places(xp, i), at_places(xp, i + 1), at_places(fp, i), at_places(fp, i + 1)
    inside = y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
    low, high = fp[0] if left is None else left, fp[-1] if right is None else right
    return np.where(x < xp[0], low, np.where(x > xp[-1], high, inside))


# fmt: off
defcomposite(np.nan_to_num,   _nan_to_num, signature="(...) -> (...)")
defcomposite(np.divmod,       lambda a, b: (a // b, a % b), signature="(...), (...) -> (...), (...) broadcast")
defcomposite(np.modf,         _modf, signature="(...) -> (...), (...)")
defcomposite(np.frexp,        lambda x: (np.ldexp(x, -exponent(x)), exponent(x)), signature="(...) -> (...), (...)")
defcomposite(np.select,       _select, signature="[(...), ...], [(...), ...] -> (...) broadcast")
defcomposite(np.choose,       _choose, signature="(...), [(...), ...] -> (...) broadcast")
defcomposite(np.interp,       _interp, signature="(...), (n,), (n,) -> (...)")
defcomposite(np.real,         lambda val: val, signature="(...) -> (...)")
defcomposite(np.real_if_close, lambda a, tol=100: a, signature="(...) -> (...)")
# fmt: on
if hasattr(np, "unstack"):  # NumPy 2.1 knows the array API's names too
    defcomposite(np.clip, lambda a, a_min=None, a_max=None, *, min=None, max=None: np.clip(a, min if a_min is None else a_min, max if a_max is None else a_max))  # fmt: skip

defstopped(
    stop_gradient,
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal),
    *(np.logical_and, np.logical_or, np.logical_xor, np.logical_not),
    *(np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert, np.left_shift, np.right_shift, np.bitwise_count),
    *(np.sign, np.signbit, np.heaviside, np.floor, np.ceil, np.trunc, np.rint, np.round, np.around, np.fix),
    *(np.floor_divide, np.spacing, np.gcd, np.lcm, np.imag, np.angle),
    *(np.isnan, np.isinf, np.isfinite, np.isposinf, np.isneginf, np.isclose, np.isreal, np.iscomplex, np.isin),
    *(np.zeros_like, np.ones_like, np.empty_like),
)
defmetadata(
    *(np.shape, np.ndim, np.size, np.result_type, np.can_cast, np.common_type, np.iscomplexobj, np.isrealobj),
    *(np.array_equal, np.array_equiv, np.allclose, np.may_share_memory, np.shares_memory, np.min_scalar_type),
    *(np.array2string, np.array_repr, np.array_str, np.broadcast_shapes),
)
