"""Quantiles: between which two of the sorted elements one lies is NumPy's own answer, asked about their ranks.

So every method of `np.quantile`, weights, and rows of different length (without their NaN) are one expression: the
quantile of the ranks 0, 1, 2, ... is a place between two ranks, and that of the elements lies between these two. It moves
with q as the place does, except where a method picks an element.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_mm.graph import defcomposite, defvjp, primitive
from tinygrad_mm.rules.axes import all_axes, flat_last

# By how much each of the methods (Hyndman and Fan 1996) that interpolate moves along n elements as q goes from 0 to 1.
WIDTH = {
    "linear": -1.0,
    "interpolated_inverted_cdf": 0.0,
    "hazen": 0.0,
    "weibull": 1.0,
    "median_unbiased": 1 / 3,
    "normal_unbiased": 1 / 4,
}


@primitive
def quantile_place(a, q, weights, method, ignore_nan, dtype):
    """The ranks between which quantiles along the last axis lie, and how far between them: NaN where one is NaN.

    Shape: (..., n), (m...) -> three times (m..., ...)
    """
    order = np.argsort(a, axis=-1, kind="stable")
    ranks = np.empty(a.shape, np.float64)
    np.put_along_axis(ranks, order, np.arange(a.shape[-1], dtype=np.float64), axis=-1)
    ranks[np.isnan(a)] = math.nan
    options = {} if weights is None else {"weights": weights}
    whole = np.nanquantile if ignore_nan else np.quantile
    place = np.asarray(whole(ranks, q, axis=-1, method=method, **options))
    if a.dtype == bool:
        whole(a, q, axis=-1, method=method, **options)  # refuses what would lie between False and True
    low = np.floor(np.nan_to_num(place)).astype(np.intp)
    part = place - low
    return low, low + (part > 0), part.astype(dtype)


def _place_back(g, a, q, method, part):
    """The place moves with q unless the method picks an element, or the place is one end."""
    n = np.sum((~np.isnan(a)).astype(g[2].dtype), axis=-1)
    return g[2] * ((part > 0).astype(g[2].dtype) * (n + WIDTH[method])) if method in WIDTH else g[2] * 0


def _sum_over_rows(c, q):
    """What all rows give to each quantile asked for."""
    return np.sum(c, axis=tuple(range(np.ndim(q), c.ndim))) if c.ndim > np.ndim(q) else c


defvjp(
    quantile_place,
    None,
    lambda g, y, a, q, weights, method, ignore_nan, dtype: _sum_over_rows(_place_back(g, a, q, method, y[2]), q),
    None,
    signature="(..., n), (m...) -> three times (m..., ...)",
)


def _as_heavy(weights, a, axis):
    """Weights of the shape of the array, from one for each place along an axis."""
    if np.shape(weights) == a.shape or axis is None:
        return weights
    places = dict(zip(all_axes(a, axis), np.shape(weights), strict=True))
    return np.broadcast_to(np.reshape(weights, tuple(places.get(i, 1) for i in range(a.ndim))), a.shape)


def _quantile_of(ignore_nan):
    def quantile(a, q, axis=None, out=None, overwrite_input=False, method="linear", keepdims=False, *, weights=None):
        if ignore_nan and 0 in a.shape:  # so does NumPy, after a look at the other arguments
            options = {} if weights is None else {"weights": np.ones(1), "method": method}
            np.quantile(np.zeros(1), 0.5 if hasattr(q, "requires_grad") else q, **options)
            return np.nanmean(a, axis=axis, keepdims=keepdims)
        flat = flat_last(a, axis)
        if weights is not None:
            weights = flat_last(_as_heavy(weights, a, axis), axis)
        dtype = flat.dtype if flat.dtype.kind == "f" else np.float64
        dtype = np.result_type(dtype, q.dtype) if hasattr(q, "dtype") else dtype
        # Numbers of Python are weak, but exact; of booleans, NumPy takes whole numbers alone.
        q = q if hasattr(q, "dtype") else np.asarray(q, None if flat.dtype == bool else np.float64)
        low, high, part = quantile_place(flat, q, weights, method, ignore_nan, dtype)
        bad = np.isnan(part)
        part = np.where(bad, 0, part)
        ordered = np.sort(flat.astype(dtype) if flat.dtype == bool else flat, axis=-1)
        below, above = (_picked(ordered, i, math.prod(np.shape(q))) for i in (low, high))
        result = np.where(part > 0, below * (1 - part) + above * part, below + (above - below) * part)
        result = np.where(bad, math.nan, np.where(low == high, below, result))
        kept = tuple(
            1 if i in all_axes(a, axis) else n for i, n in enumerate(a.shape) if keepdims or i not in all_axes(a, axis)
        )
        return result.reshape(np.shape(q) + kept)

    return quantile


def _picked(ordered, ranks, many):
    """The elements with these ranks, for each quantile asked for. Shape: (..., n), (m..., ...) -> (m..., ...)"""
    places = ranks.reshape((many, *ordered.shape[:-1]))
    picked = np.take_along_axis(ordered, np.moveaxis(places, 0, -1), axis=-1)
    return np.moveaxis(picked, -1, 0).reshape(ranks.shape)


def _nanmedian(a, axis=None, out=None, overwrite_input=False, keepdims=False):
    """A median is a mean, where a quantile lies between two elements: there are medians of booleans."""
    whole = a.dtype.kind != "f"
    return np.median(a, axis=axis, keepdims=keepdims) if whole else np.nanquantile(a, 0.5, axis=axis, keepdims=keepdims)


def _hundredths(q):
    return q / 100 if hasattr(q, "dtype") else np.true_divide(q, 100).tolist()


LAW = "(..., n, ...), (q...) -> (q..., ..., ...)"

# fmt: off
defcomposite(np.quantile,      _quantile_of(ignore_nan=False),                                                               signature=LAW)
defcomposite(np.nanquantile,   _quantile_of(ignore_nan=True),                                                                signature=LAW)
defcomposite(np.percentile,    lambda a, q, *args, **options: np.quantile(a, _hundredths(q), *args, **options),              signature=LAW)
defcomposite(np.nanpercentile, lambda a, q, *args, **options: np.nanquantile(a, _hundredths(q), *args, **options),           signature=LAW)
defcomposite(np.nanmedian,     _nanmedian,                                                                                   signature="(..., n, ...) -> (..., ...)")
# fmt: on
