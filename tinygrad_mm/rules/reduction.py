"""Reductions: functions that combine the elements along some axes.

Conventions: `max` and `min` share the gradient between equal elements; `std` and `norm` have gradient 0 where they are
0, so that second derivatives of their squares are 0 there (write `var` and `np.sum(x * x)` instead); `prod` and
`cumprod` are exact at zeros.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_mm.graph import defcomposite, defstopped, defvjp, primitive
from tinygrad_mm.rules.axes import all_axes, along, at_least_one, axis_or_flat, count, flat_last, kept, one_axis
from tinygrad_mm.rules.elementwise import quotient
from tinygrad_mm.rules.indexing import checked
from tinygrad_mm.rules.operands import as_arrays


def _freedom(a, axis, ddof):
    """The degrees of freedom, which a variance is divided by; NaN where there are none, as the gradient is NaN then."""
    return max(count(a, axis) - ddof, 0) or math.nan


def _centred(x, axis):
    return x - np.mean(x, axis=axis, keepdims=True)


def _share(g, y, x, axis):
    """The gradient of the largest (or smallest) elements: equal parts where several are equal."""
    taken = (x == kept(y, x, axis)).astype(g.dtype)
    return kept(g, x, axis) * (taken / np.sum(taken, axis=axis, keepdims=True))


def _others(x, axis):
    """The product of all the other elements along the axes, for each element: exact where elements are 0."""
    axes = all_axes(x, axis if x.ndim else None)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    order = rest + axes
    back = tuple(order.index(a) for a in range(x.ndim))
    moved = np.transpose(x, order)
    flat = moved.reshape(tuple(x.shape[a] for a in rest) + (math.prod(x.shape[a] for a in axes),))
    one = np.ones_like(flat[..., :1])
    before = np.cumprod(np.concatenate([one, flat[..., :-1]], axis=-1), axis=-1)
    after = np.cumprod(np.concatenate([one, flat[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    return np.transpose((before * after).reshape(moved.shape), back)


@primitive
def linear_recurrence(a, b):
    """y[i] = a[i] * y[i - 1] + b[i] along the last axis, starting from 0."""
    y = np.empty(np.broadcast_shapes(a.shape, b.shape), np.result_type(a, b))
    last = np.zeros(y.shape[:-1], y.dtype)
    for i in range(y.shape[-1]):
        last = y[..., i] = a[..., i] * last + b[..., i]
    return y


def _recurrence_back(g, a):
    """The gradient of b: the recurrence run backwards, s[i] = a[i + 1] * s[i + 1] + g[i]."""
    shifted = np.concatenate([np.zeros_like(a[..., :1]), a[..., :0:-1]], axis=-1)
    return linear_recurrence(shifted, g[..., ::-1])[..., ::-1]


def _previous(y):
    return np.concatenate([np.zeros_like(y[..., :1]), y[..., :-1]], axis=-1)


def _cumprod_back(g, a, axis):
    """For element i: the product of those before it, times a recurrence over those after it. Exact at zeros."""
    x, axis = axis_or_flat(at_least_one(a), axis)
    g, x = np.moveaxis(g, axis, -1), np.moveaxis(x, axis, -1)
    before = np.cumprod(np.concatenate([np.ones_like(x[..., :1]), x[..., :-1]], axis=-1), axis=-1)
    return np.moveaxis(before * _recurrence_back(g, x), -1, axis).reshape(a.shape)


# fmt: off
defvjp(np.sum,     lambda g, y, a, axis=None, dtype=None, out=None, keepdims=False: np.broadcast_to(kept(g, a, axis), a.shape),                        signature="(..., n, ...) -> (..., ...)")
defvjp(np.mean,    lambda g, y, a, axis=None, dtype=None, out=None, keepdims=False: np.broadcast_to(kept(g * (1 / max(count(a, axis), 1)), a, axis), a.shape), signature="(..., n, ...) -> (..., ...)")
defvjp(np.prod,    lambda g, y, a, axis=None, dtype=None, out=None, keepdims=False: kept(g, a, axis) * _others(a, axis),       signature="(..., n, ...) -> (..., ...)")
defvjp(np.var,     lambda g, y, a, axis=None, dtype=None, out=None, ddof=0, keepdims=False: kept(g * (2 / _freedom(a, axis, ddof)), a, axis) * _centred(a, axis),
                   signature="(..., n, ...) -> (..., ...)")
defvjp(np.std,     lambda g, y, a, axis=None, dtype=None, out=None, ddof=0, keepdims=False: kept(g, a, axis) * quotient(_centred(a, axis), kept(y, a, axis)) * (1 / _freedom(a, axis, ddof)),
                   signature="(..., n, ...) -> (..., ...)")
defvjp(np.max,     lambda g, y, a, axis=None, out=None, keepdims=False: _share(g, y, a, axis),                                  signature="(..., n, ...) -> (..., ...)")
defvjp(np.min,     lambda g, y, a, axis=None, out=None, keepdims=False: _share(g, y, a, axis),                                  signature="(..., n, ...) -> (..., ...)")
defvjp(np.cumsum,  lambda g, y, a, axis=None, dtype=None, out=None: np.flip(np.cumsum(np.flip(g, axis), axis=axis), axis).reshape(a.shape),                                 signature="(..., n, ...) -> (..., n, ...)")
defvjp(np.cumprod, lambda g, y, a, axis=None, dtype=None, out=None: _cumprod_back(g, a, axis),                                  signature="(..., n, ...) -> (..., n, ...)")
defvjp(linear_recurrence,
                   lambda g, y, a, b: _recurrence_back(g, a) * _previous(y),
                   lambda g, y, a, b: _recurrence_back(g, a),                                                                   signature="(..., n), (..., n) -> (..., n)")
# fmt: on


# ---------------------------------------------------------------------------------------------------------------------
# Derived functions, and options that the rules above leave to an expression
# ---------------------------------------------------------------------------------------------------------------------

NOT_GIVEN = object()


def _options(x, dtype=None, where=True, fill=0):
    """The array after the options `dtype=` and `where=` were applied to it, so that a plain reduction is left."""
    x = x if dtype is None else x.astype(dtype)
    return x if where is True else np.where(np.broadcast_to(where, x.shape), x, fill)


def _sum(a, axis=None, dtype=None, out=None, keepdims=False, initial=0, where=True):
    return np.sum(_options(a, dtype, where), axis=axis, keepdims=keepdims) + initial


def _prod(a, axis=None, dtype=None, out=None, keepdims=False, initial=1, where=True):
    return np.prod(_options(a, dtype, where, 1), axis=axis, keepdims=keepdims) * initial


def _number(a, axis, where, keepdims):
    """How many elements `where=` selects, as a number or an array of a's dtype."""
    if where is True:
        return count(a, axis)
    return np.sum(np.broadcast_to(where, a.shape), axis=axis, keepdims=keepdims).astype(
        a.dtype if a.dtype.kind == "f" else np.float64
    )


def _mean(a, axis=None, dtype=None, out=None, keepdims=False, where=True):
    total = np.sum(_options(a, dtype, where), axis=axis, keepdims=keepdims)
    mean = total / _number(a, axis, where, keepdims)
    return mean if dtype is None else mean.astype(dtype)


def _var(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, where=True, mean=NOT_GIVEN, correction=NOT_GIVEN):
    ddof = ddof if correction is NOT_GIVEN else correction
    centre = _mean(a, axis, keepdims=True, where=where) if mean is NOT_GIVEN else mean
    squares = np.square(_options(a, dtype) - centre)
    freedom = _number(a, axis, where, keepdims) - ddof
    freedom = max(freedom, 0) if where is True else np.maximum(freedom, 0)  # NumPy divides by 0 there
    return np.sum(_options(squares, None, where), axis=axis, keepdims=keepdims) / freedom


def _std(*args, **options):
    variance = _var(*args, **options)
    zero = variance == 0
    return np.where(zero, 0, np.sqrt(np.where(zero, 1, variance)))


def _extreme(whole, pair):
    """`np.max` or `np.min` (`whole`) with all options; `pair` is `np.maximum` or `np.minimum`."""

    def extreme(a, axis=None, out=None, keepdims=False, initial=NOT_GIVEN, where=True):
        if where is not True and initial is NOT_GIVEN:
            raise ValueError(f"{whole.__name__}: where= needs initial=, the value of a selection of nothing")
        if initial is not NOT_GIVEN and count(a, axis) == 0:
            return np.sum(a, axis=axis, keepdims=keepdims) + initial  # a sum of nothing is 0
        result = whole(_options(a, None, where, initial), axis=axis, keepdims=keepdims)
        return result if initial is NOT_GIVEN else pair(result, initial)

    return extreme


def _nan_reduction(whole, fill):
    """The reduction `whole` with NaN replaced by `fill`."""

    def reduction(a, axis=None, dtype=None, out=None, keepdims=False, **options):
        options = options if dtype is None else {"dtype": dtype, **options}
        return whole(np.where(np.isnan(a), fill, a), axis=axis, keepdims=keepdims, **options)

    return reduction


def _nan_extreme(whole, fill):
    """`np.max` or `np.min` with NaN replaced by an infinity; NaN where there is no number."""

    def extreme(a, axis=None, out=None, keepdims=False, **options):
        result = whole(np.where(np.isnan(a), fill, a), axis=axis, keepdims=keepdims, **options)
        if "initial" in options:
            return result
        return np.where(np.all(np.isnan(a), axis=axis, keepdims=keepdims), math.nan, result)

    return extreme


def _known(a, where, dtype):
    """Which elements are not NaN, and selected by `where=`."""
    if dtype is not None and a.dtype.kind == "f" and np.dtype(dtype).kind not in "fc":
        raise TypeError(f"nanmean: a mean of {a.dtype} is no {dtype}; leave dtype= out, or take a floating one")
    return ~np.isnan(a) if where is True else ~np.isnan(a) & np.broadcast_to(where, a.shape)


def _nanmean(a, axis=None, dtype=None, out=None, keepdims=False, where=True):
    if a.dtype.kind != "f":
        return np.mean(a, axis=axis, dtype=dtype, keepdims=keepdims, where=where)
    known = _known(a, where, dtype)
    return _mean(np.where(known, a, 0), axis, dtype, keepdims=keepdims, where=known)


def _nan_moment(whole, moment):
    def reduction(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, where=True, **options):
        if a.dtype.kind != "f":
            options = options if where is True else {"where": where, **options}
            return whole(a, axis=axis, dtype=dtype, ddof=ddof, keepdims=keepdims, **options)
        known = _known(a, where, dtype)
        result = moment(np.where(known, a, 0), axis, dtype, None, ddof, keepdims, known, **options)
        return np.where(_number(a, axis, known, keepdims) <= options.get("correction", ddof), math.nan, result)

    return reduction


def _not_zero(total):
    """Raise where a sum of weights is 0."""
    if np.any(total == 0):
        raise ZeroDivisionError("average: the weights sum to 0, so there is no average")


def _average(a, axis=None, weights=None, returned=False, *, keepdims=False):
    axes = all_axes(a, axis)
    if weights is None:
        result = np.mean(a, axis=axes, keepdims=keepdims)
        total = np.full_like(result, math.prod(a.shape) / math.prod(result.shape))
    else:
        weights = as_arrays([weights, a])[0]
        if weights.shape != a.shape:
            places = dict(zip(axes, weights.shape, strict=True))
            weights = np.reshape(weights, tuple(places.get(i, 1) for i in range(a.ndim)))
        total = checked(np.sum(np.broadcast_to(weights, a.shape), axis=axes, keepdims=keepdims), _not_zero)
        if count(a, axis) == 0 and 0 not in total.shape:
            raise ZeroDivisionError("average: there is nothing to take an average of")
        result = np.sum(a * weights, axis=axes, keepdims=keepdims) / total
    return (result, np.broadcast_to(total, result.shape).astype(result.dtype)) if returned else result


def _median(a, axis=None, out=None, overwrite_input=False, keepdims=False):
    ordered = np.sort(flat_last(a, axis), axis=-1)
    n = ordered.shape[-1]
    middle = np.mean(ordered[..., (n - 1) // 2 : n // 2 + 1], axis=-1)
    if n:
        middle = np.where(np.isnan(ordered[..., -1]), math.nan, middle)
    return kept(middle, a, axis) if keepdims else middle


def _diff(a, n=1, axis=-1, prepend=NOT_GIVEN, append=NOT_GIVEN):
    if n < 0:
        raise ValueError(f"diff: order n={n} must not be negative")
    if n == 0:
        return a
    if a.ndim == 0:
        raise ValueError("diff: an array with at least 1 axis is needed, this one has 0")
    axis = one_axis(a, axis)
    edge = a.shape[:axis] + (1,) + a.shape[axis + 1 :]

    def end(p):
        p = as_arrays([p, a])[0]
        return p if p.ndim else np.broadcast_to(p, edge)

    before, after = ([] if p is NOT_GIVEN else [end(p)] for p in (prepend, append))
    a = np.concatenate([*before, a, *after], axis=axis)
    minus = np.not_equal if a.dtype == bool else np.subtract
    for _ in range(n):
        a = minus(along(a, axis, slice(1, None)), along(a, axis, slice(None, -1)))
    return a


def _ediff1d(ary, to_end=None, to_begin=None):
    ends = [p if p is None else as_arrays([p, ary])[0] for p in (to_begin, to_end)]
    if not all(p is None or np.can_cast(p.dtype, ary.dtype, "same_kind") for p in ends):
        raise TypeError(f"ediff1d: to_begin and to_end must fit the dtype of the array, {ary.dtype}")
    flat = ary.reshape(-1)
    parts = (ends[0], flat[1:] - flat[:-1], ends[1])
    return np.concatenate([p.reshape(-1).astype(ary.dtype) for p in parts if p is not None])


def _trapezoid(y, x=None, dx=1.0, axis=-1):
    given, axis = axis, one_axis(y, axis)
    if x is None:
        step = dx
    elif np.ndim(x) == 1:
        step = np.diff(x).reshape((-1,) + (1,) * (y.ndim - 1 - axis))
    else:
        step = np.diff(x, axis=given)
    return np.sum(step * (along(y, axis, slice(1, None)) + along(y, axis, slice(None, -1))) / 2.0, axis=given)


def _cumulative(whole, first):
    """`np.cumulative_sum` by `np.cumsum`, or the same of products; `first` is the value before the first element."""

    def cumulative(x, /, *, axis=None, dtype=None, out=None, include_initial=False):
        x = at_least_one(x)
        if axis is None and x.ndim > 1:
            raise ValueError(f"cumulative_{whole.__name__[3:]}: an array with {x.ndim} axes needs axis=")
        axis = one_axis(x, 0 if axis is None else axis)
        y = whole(_options(x, dtype), axis=axis)
        edge = np.broadcast_to(np.asarray(first, y.dtype), y.shape[:axis] + (1,) + y.shape[axis + 1 :])
        return np.concatenate([edge, y], axis=axis) if include_initial else y

    return cumulative


def _convolve(a, v, mode="full"):
    """Each output is the sum over a window of the zero-padded a, times v reversed."""
    a, v = sorted(map(at_least_one, as_arrays([a, v])), key=lambda x: -x.shape[0])
    if a.ndim > 1 or v.ndim > 1 or v.shape[0] == 0:
        raise ValueError(
            f"convolve: two lists that are not empty are needed; these have the shapes {a.shape} and {v.shape}"
        )
    n = v.shape[0] - 1
    around = {"full": (n, n), "same": (n // 2 + n % 2, n // 2), "valid": (0, 0)}
    if mode not in around:
        raise ValueError(f"convolve: mode={mode!r}; use 'full', 'same' or 'valid'")
    before, after = around[mode]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(a, (before, after)), v.shape[0])
    return np.sum(windows * v[::-1], axis=-1)


REDUCED = "(..., n, ...) -> (..., ...)"

# fmt: off
defcomposite(np.sum,            _sum)
defcomposite(np.prod,           _prod)
defcomposite(np.mean,           _mean)
defcomposite(np.var,            _var)
defcomposite(np.std,            _std)
defcomposite(np.max,            _extreme(np.max, np.maximum))
defcomposite(np.min,            _extreme(np.min, np.minimum))
defcomposite(np.amax,           lambda a, *args, **options: np.max(a, *args, **options),                                        signature=REDUCED)
defcomposite(np.amin,           lambda a, *args, **options: np.min(a, *args, **options),                                        signature=REDUCED)
defcomposite(np.ptp,            lambda a, axis=None, out=None, keepdims=False: np.max(a, axis=axis, keepdims=keepdims) - np.min(a, axis=axis, keepdims=keepdims), signature=REDUCED)
defcomposite(np.average,        _average,                                                                                       signature=REDUCED)
defcomposite(np.median,         _median,                                                                                        signature=REDUCED)
defcomposite(np.nansum,         _nan_reduction(np.sum, 0),                                                                      signature=REDUCED)
defcomposite(np.nanprod,        _nan_reduction(np.prod, 1),                                                                     signature=REDUCED)
defcomposite(np.nanmax,         _nan_extreme(np.max, -math.inf),                                                                signature=REDUCED)
defcomposite(np.nanmin,         _nan_extreme(np.min, math.inf),                                                                 signature=REDUCED)
defcomposite(np.nanmean,        _nanmean,                                                                             signature=REDUCED)
defcomposite(np.nanvar,         _nan_moment(np.var, _var),                                                                              signature=REDUCED)
defcomposite(np.nanstd,         _nan_moment(np.std, _std),                                                                              signature=REDUCED)
defcomposite(np.nancumsum,      lambda a, axis=None, dtype=None, out=None: np.cumsum(np.where(np.isnan(a), 0, a), axis=axis, dtype=dtype),                         signature="(..., n, ...) -> (..., n, ...)")
defcomposite(np.nancumprod,     lambda a, axis=None, dtype=None, out=None: np.cumprod(np.where(np.isnan(a), 1, a), axis=axis, dtype=dtype),                        signature="(..., n, ...) -> (..., n, ...)")
defcomposite(np.diff,           _diff,                                                                                          signature="(..., n, ...) -> (..., n - 1, ...)")
defcomposite(np.ediff1d,        _ediff1d,                                                                                       signature="(...) -> (n - 1)")
defcomposite(np.trapezoid,      _trapezoid,                                                                                     signature=REDUCED)
defcomposite(np.convolve,       _convolve,                                                                                      signature="(n,), (m,) -> (n + m - 1,)")
# fmt: on
if hasattr(np, "cumulative_sum"):  # NumPy 2.1
    defcomposite(np.cumulative_sum, _cumulative(np.cumsum, 0), signature="(..., n, ...) -> (..., n, ...)")
    defcomposite(np.cumulative_prod, _cumulative(np.cumprod, 1), signature="(..., n, ...) -> (..., n, ...)")

defstopped(np.all, np.any, np.argmax, np.argmin, np.nanargmax, np.nanargmin, np.count_nonzero)
