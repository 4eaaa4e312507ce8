"""Sets of elements: each is picked where it stands first, and that place is where its gradient goes."""

from __future__ import annotations

import numpy as np

from tinygrad_mm.graph import defcomposite, defstopped, primitive
from tinygrad_mm.rules.axes import one_axis
from tinygrad_mm.rules.operands import as_arrays


@primitive
def distinct(ar, axis=None, equal_nan=True):
    """Where each distinct element (or slice) of an array stands first, in ascending order; where it is in that order; how often.

    Shape: (...) -> (k,), (...), (k,)
    """
    return np.unique(ar, True, True, True, axis=axis, equal_nan=equal_nan)[1:]


@primitive
def in_both(ar1, ar2, assume_unique=False):
    """Where the elements common to two arrays stand first in each of them."""
    return np.intersect1d(ar1, ar2, assume_unique, return_indices=True)[1:]


def _unique(
    ar, return_index=False, return_inverse=False, return_counts=False, axis=None, *, equal_nan=True, sorted=True
):
    (ar,) = as_arrays([ar])
    first, back, often = distinct(ar, axis, equal_nan)
    values = ar.reshape(-1)[first] if axis is None else np.take(ar, first, one_axis(ar, axis))
    more = [a for a, wanted in ((first, return_index), (back, return_inverse), (often, return_counts)) if wanted]
    return (values, *more) if more else values


def _intersect1d(ar1, ar2, assume_unique=False, return_indices=False):
    ar1, ar2 = as_arrays([ar1, ar2])
    i, j = in_both(ar1, ar2, assume_unique)
    values = ar1.reshape(-1)[i].astype(np.result_type(ar1.dtype, ar2.dtype))
    return (values, i, j) if return_indices else values


def _union1d(ar1, ar2):
    ar1, ar2 = as_arrays([ar1, ar2])
    return np.unique(np.concatenate([ar1.reshape(-1), ar2.reshape(-1)]))


def _setdiff1d(ar1, ar2, assume_unique=False):
    ar1, ar2 = as_arrays([ar1, ar2])
    ar1 = ar1.reshape(-1) if assume_unique else np.unique(ar1)
    return ar1[np.isin(ar1, ar2, assume_unique=assume_unique, invert=True)]


# fmt: off
defcomposite(np.unique,      _unique,      signature="(...) -> (k,)")
defcomposite(np.intersect1d, _intersect1d, signature="(...), (...) -> (k,)")
defcomposite(np.union1d,     _union1d,     signature="(...), (...) -> (k,)")
defcomposite(np.setdiff1d,   _setdiff1d,   signature="(...), (...) -> (k,)")
# fmt: on
defstopped(distinct, in_both)
