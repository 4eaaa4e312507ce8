"""The rows of rules/quantiles.py."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from table.row import Row
from tinygrad_mm.rules.quantiles import quantile_place

INTERPOLATING = ["interpolated_inverted_cdf", "hazen", "weibull", "median_unbiased", "normal_unbiased", "linear"]
PICKING = ["inverted_cdf", "averaged_inverted_cdf", "closest_observation", "lower", "higher", "midpoint", "nearest"]
HOLES = np.array([[False, True, False, False], [False, False, False, False], [True, False, True, False]])


def with_holes(x):
    return np.where(HOLES, math.nan, x)


def place_of_five(q):
    """Weibull's place among the ranks 0 to 4."""
    place = q * 6 - 1
    return np.floor(place).astype(np.intp), np.ceil(place).astype(np.intp), place - np.floor(place)


# fmt: off
ROWS = [
    Row(np.quantile,      "4 n", options={"method": st.sampled_from(INTERPOLATING + PICKING)}, call=lambda x, method: np.quantile(x, 0.37, axis=0, method=method), ulps=2, cancels=True, zero_d=AxisError, note="every method"),
    Row(np.quantile,      "4 n", "2", domain=[(-3, 3), (0.42, 0.48)], options={"method": st.sampled_from(INTERPOLATING)}, call=lambda x, q, method: np.quantile(x, q, axis=0, method=method), ulps=2, cancels=True, zero_d=AxisError, note="q too", tolerance=1e-4),
    Row(np.quantile,      "n 4", call=lambda x: np.quantile(x, 0.6, axis=1, weights=np.array([1.0, 2.0, 1.0, 3.0]), method="inverted_cdf"), zero_d=AxisError, note="weights"),
    Row(np.percentile,    "4 n", "", domain=[(-3, 3), (42.0, 48.0)], call=lambda x, q: np.percentile(x, q, axis=0, keepdims=True), ulps=2, cancels=True, zero_d=AxisError, note="q too", tolerance=1e-4),
    Row(np.nanquantile,   "3 4", domain=[(0.5, 3)], options={"axis": st.sampled_from([None, 0, 1])}, call=lambda x, axis: np.nanquantile(with_holes(x), 0.3, axis=axis, keepdims=True), ulps=2, cancels=True),
    Row(np.nanquantile,   "n 4", domain=[(0.5, 3)], call=lambda x: np.nanquantile(x, np.array([0.1, 0.9], x.dtype), axis=-1, method="hazen"), ulps=2, cancels=True, zero_d=AxisError, note="two"),
    Row(np.nanpercentile, "3 4", domain=[(0.5, 3)], options={"axis": st.sampled_from([None, 0, 1])}, call=lambda x, axis: np.nanpercentile(with_holes(x), 30.0, axis=axis), ulps=2, cancels=True),
    Row(np.nanmedian,     "3 4", options={"axis": st.sampled_from([None, 0, 1, (0, 1)])}, call=lambda x, axis: np.nanmedian(with_holes(x), axis=axis), ulps=4),
    Row(np.nanpercentile, "n m", domain=[(0.5, 3)], call=lambda x: np.nanpercentile(x, 30.0), ulps=2, cancels=True, note="without NaN"),
    Row(np.nanmedian,     "n m", call=lambda x: np.nanmedian(x, axis=0), ulps=4, note="without NaN", zero_d=AxisError),
    Row(quantile_place,   "n", domain=(0.3, 0.7), call=lambda q: quantile_place(np.arange(5.0, dtype=q.dtype), q, None, "weibull", False, q.dtype), oracle=place_of_five, ulps=64, zero_d=None),
]
# fmt: on
