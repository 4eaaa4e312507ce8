"""The rows of `tinygrad_mm.rules.reduction`. The form of a row is described in `table/row.py`."""

from __future__ import annotations

import math

import numpy as np
import strategies as my
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from table.row import Row
from tinygrad_mm.rules.reduction import linear_recurrence

POSITIVE = (0.3, 2.0)
AXES = {"axis": my.any_axes, "keepdims": st.booleans()}
ONE = {"axis": my.one_axis}
WIDE = {"axis": lambda shape: st.sampled_from([None, (0, 1), 0, 1, -1] if shape else [None]), "keepdims": st.booleans()}
FULL = {"axis": my.full_axes, "keepdims": st.booleans()}
SOME = {"where": my.some_mask, **FULL}


def with_holes(fun):
    """A reduction of x with NaN in some places."""
    return lambda x, hole, **options: fun(np.where(hole, math.nan, x), **options)


def holes(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy[np.ndarray]:
    """Where NaN stands: not at the first place of any axis, so that no mean is one of nothing."""
    return my.some_mask(shape).map(np.logical_not)


def recurrence_by_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """y[i] = sum over j <= i of b[j] * a[j + 1] * ... * a[i]."""
    a, b = np.broadcast_arrays(a, b)
    n = a.shape[-1]
    rows = [
        sum((b[..., j] * np.prod(a[..., j + 1 : i + 1], axis=-1) for j in range(i + 1)), 0 * b[..., 0])
        for i in range(n)
    ]
    return np.stack(rows, axis=-1) if n else np.zeros(a.shape, a.dtype)


# fmt: off
ROWS = [
    # sums and means
    Row(np.sum),
    Row(np.sum,        options=AXES),
    Row(np.sum,        "n ...", options={"axis": 0}),
    Row(np.sum,        options=AXES, call=lambda x, **options: x.sum(**options), note="method"),
    Row(np.sum,        options=SOME, ulps=8, domain=POSITIVE, note="where"),
    Row(np.sum,        options=AXES, call=lambda x, **options: np.sum(x, initial=1.5, **options), ulps=8, domain=POSITIVE, note="initial"),
    Row(np.sum,        options=AXES, call=lambda x, **options: np.sum(x, dtype=np.float64, **options), promotes=True, note="dtype"),
    Row(np.mean),
    Row(np.mean,       options=AXES),
    Row(np.mean,       options=AXES, call=lambda x, **options: x.mean(**options), note="method"),
    Row(np.mean,       options=SOME, ulps=8, domain=POSITIVE, note="where"),
    Row(np.mean,       options=AXES, call=lambda x, **options: np.mean(x, dtype=np.float64, **options), promotes=True, note="dtype"),
    Row(np.average,    ulps=8, domain=POSITIVE),
    Row(np.average,    options=AXES, ulps=8, domain=POSITIVE, empty=ZeroDivisionError),
    Row(np.average,    "... n", "n", call=lambda x, w: np.average(x, axis=-1, weights=w), ulps=8, domain=POSITIVE, note="weights of one axis", zero_d=AxisError, empty=ZeroDivisionError),
    Row(np.average,    "s...", "s...", call=lambda x, w: np.average(x, weights=w, returned=True), ulps=8, domain=POSITIVE, note="weights of all", empty=ZeroDivisionError),
    Row(np.average,    "... n m", "n m", call=lambda x, w: np.average(x, axis=(-2, -1), weights=w, keepdims=True), ulps=16, domain=POSITIVE, note="weights of two axes", zero_d=AxisError, empty=ZeroDivisionError),
    Row(np.sum,        "... n", call=lambda x: np.sum(x, axis=-1, where=x > -1), ulps=8, domain=(-0.9, 2), note="where is a Tensor"),
    Row(np.mean,       "n 3", call=lambda x: np.mean(x, axis=-1, where=np.array([True, False, True])), ulps=8, domain=POSITIVE, note="where broadcast", zero_d=ValueError),
    Row(np.median,     options=FULL, ulps=2),
    Row(np.median,     ulps=2),
    Row(np.quantile,   options={**FULL, "q": st.sampled_from([0, 0.25, 0.4, 0.9, 1])}, ulps=8, domain=POSITIVE, empty=IndexError),
    Row(np.quantile,   "... n", call=lambda x: np.quantile(x, np.array([0.1, 0.5], x.dtype), axis=-1), ulps=16, domain=POSITIVE, note="several", zero_d=AxisError, empty=IndexError),
    Row(np.quantile,   "... n", options={"q": st.sampled_from([[0.2, 0.7], (0.0, 1.0), [[0.5]]])}, call=lambda x, q: np.quantile(x, np.array(q, x.dtype), axis=-1, keepdims=True), ulps=16, domain=POSITIVE, note="of several orders", zero_d=AxisError, empty=IndexError),
    Row(np.percentile, options={**FULL, "q": st.sampled_from([0, 25, 40.0, 90, 100])}, ulps=8, domain=POSITIVE, empty=IndexError),

    # products
    Row(np.prod,       domain=POSITIVE),
    Row(np.prod,       options=AXES),
    Row(np.prod,       options=AXES, call=lambda x, **options: x.prod(**options), note="method"),
    Row(np.prod,       options=SOME, ulps=8, note="where"),
    Row(np.prod,       options=AXES, call=lambda x, **options: np.prod(x, initial=1.5, **options), ulps=8, note="initial"),
    Row(np.cumprod,    options=ONE),
    Row(np.cumprod,    call=lambda x: np.cumprod(x)),
    Row(np.cumprod,    "n ...", call=lambda x: x.cumprod(axis=0), note="method"),
    Row(np.cumprod,    "n ...", call=lambda x: np.cumprod(x, axis=0, dtype=np.float64), promotes=True, note="dtype"),
    Row(np.prod,       options=AXES, call=lambda x, **options: np.prod(x, dtype=np.float64, **options), promotes=True, note="dtype"),
    Row(np.cumsum,     "n ...", call=lambda x: np.cumsum(x, axis=0, dtype=np.float64), promotes=True, note="dtype"),
    Row(np.cumsum,     options=ONE),
    Row(np.cumsum,     call=lambda x: np.cumsum(x)),
    Row(np.cumsum,     "n ...", call=lambda x: x.cumsum(axis=0), note="method"),
    Row(linear_recurrence, "... n", "... n", oracle=recurrence_by_matrix, ulps=64, domain=POSITIVE, zero_d=IndexError),

    # spread
    Row(np.var,        options=AXES),
    Row(np.var,        options={"ddof": 0.5}),
    Row(np.var,        "2 n", call=lambda x: x.var(axis=0, ddof=1), note="method, ddof", zero_d=AxisError),
    Row(np.var,        options=SOME, ulps=64, note="where"),
    Row(np.var,        "2 n", call=lambda x: np.var(x, axis=0, correction=1), ulps=64, note="correction", zero_d=AxisError),
    Row(np.var,        "2 n", call=lambda x: np.var(x, axis=0, mean=np.mean(x, axis=0, keepdims=True)), ulps=64, note="mean", zero_d=AxisError),
    Row(np.std,        "2 3", options=WIDE),
    Row(np.std,        "2 n", call=lambda x: x.std(axis=0, ddof=1), note="method, ddof", zero_d=AxisError),
    Row(np.std,        "2 3", call=lambda x: np.std(x, axis=1, where=np.array([True, True, False])), ulps=64, note="where", zero_d=ValueError),

    # extremes
    Row(np.max,        options=AXES, empty=ValueError),
    Row(np.max,        options=AXES, call=lambda x, **options: x.max(**options), note="method", empty=ValueError),
    Row(np.max,        options=AXES, call=lambda x, **options: np.max(x, initial=-1.0, **options), note="initial"),
    Row(np.max,        options=SOME, call=lambda x, **options: np.max(x, initial=-4.0, **options), note="where"),
    Row(np.min,        options=AXES, empty=ValueError),
    Row(np.min,        options=AXES, call=lambda x, **options: x.min(**options), note="method", empty=ValueError),
    Row(np.min,        options=SOME, call=lambda x, **options: np.min(x, initial=4.0, **options), note="where"),
    Row(np.amax,       options=AXES, empty=ValueError),
    Row(np.amin,       options=AXES, empty=ValueError),
    Row(np.ptp,        options=AXES, empty=ValueError),

    # the same, without regard to NaN
    Row(np.nansum,     options={"hole": my.mask, **AXES}, call=with_holes(np.nansum)),
    Row(np.nanprod,    options={"hole": my.mask, **AXES}, call=with_holes(np.nanprod)),
    Row(np.nanmean,    options={"hole": holes, **FULL}, call=with_holes(np.nanmean), ulps=8, domain=POSITIVE),
    Row(np.nanvar,     options={"hole": holes, **FULL}, call=with_holes(np.nanvar), ulps=64),
    Row(np.nanstd,     "2 3", options=WIDE, ulps=64),
    Row(np.nanstd,     "2 n", call=lambda x: np.nanstd(x, axis=0, ddof=0.5), ulps=64),
    Row(np.nanmax,     options={"hole": holes, **FULL}, call=with_holes(np.nanmax), empty=ValueError),
    Row(np.nanmin,     options={"hole": holes, **FULL}, call=with_holes(np.nanmin), empty=ValueError),
    Row(np.nancumsum,  options={"hole": my.mask, **ONE}, call=with_holes(np.nancumsum)),
    Row(np.nancumprod, options={"hole": my.mask, **ONE}, call=with_holes(np.nancumprod)),

    # differences and integrals
    Row(np.diff,       options=ONE, zero_d=ValueError),
    Row(np.diff,       "... 3", options={"n": st.integers(1, 3)}, zero_d=ValueError),
    Row(np.diff,       options={"n": 0}),
    Row(np.diff,       "s... n", "s... 2", call=lambda a, b: np.diff(a, prepend=np.array(0.5, a.dtype), append=b), zero_d=ValueError),
    Row(np.ediff1d),
    Row(np.ediff1d,    "...", "2", call=lambda a, b: np.ediff1d(a, to_end=b, to_begin=-1.0)),
    Row(np.gradient,   "3 ...", call=lambda f: np.gradient(f, 0.5, axis=0), zero_d=AxisError),
    Row(np.gradient,   "3 2"),
    Row(np.gradient,   "3 2", options={"axis": st.sampled_from([0, 1, (0, 1), (1, 0)])}, zero_d=AxisError),
    Row(np.gradient,   "3 2", call=lambda f: np.gradient(f, 0.5, 2.0), note="two distances", zero_d=TypeError),
    Row(np.convolve,   "n", "m", options={"mode": st.sampled_from(["full", "same", "valid"])}, empty=ValueError, ulps=16, domain=POSITIVE),
    Row(np.trapezoid,  options=ONE, ulps=16, domain=POSITIVE, zero_d=IndexError),
    Row(np.trapezoid,  "... n", "n", call=lambda y, x: np.trapezoid(y, x * x), ulps=16, domain=POSITIVE, zero_d=ValueError),
    Row(np.trapezoid,  "n m", "n m", call=lambda y, x: np.trapezoid(y, x, axis=0), ulps=16, domain=POSITIVE, zero_d=ValueError),
    Row(np.trapezoid,  "... n", call=lambda y: np.trapezoid(y, dx=0.25), ulps=16, domain=POSITIVE, zero_d=IndexError),
]
# fmt: on
if hasattr(np, "cumulative_sum"):  # NumPy 2.1
    ROWS += [
        Row(np.cumulative_sum, "n"),
        Row(np.cumulative_sum, options={**ONE, "include_initial": st.booleans()}),
        Row(np.cumulative_prod, options={**ONE, "include_initial": st.booleans()}),
    ]
