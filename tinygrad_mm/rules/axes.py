"""Axes as rules need them: counted from the front, with NumPy's own exceptions for those that do not exist."""

from __future__ import annotations

import math

from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple


def one_axis(a, axis):
    """An axis of an array as a number that is not negative."""
    return normalize_axis_index(axis, a.ndim)


def all_axes(a, axis):
    """The axes of a reduction as a tuple of numbers that are not negative; None stands for all."""
    return tuple(range(a.ndim)) if axis is None else normalize_axis_tuple(axis, a.ndim)


def axis_or_flat(a, axis):
    """An array and one of its axes; without an axis, all elements as the only axis."""
    return (a.reshape(-1), 0) if axis is None else (a, one_axis(a, axis))


def at_least_one(a):
    """The array, a 0-d one as an array of one element: some functions of NumPy give those an axis."""
    return a if a.ndim else a.reshape(1)


def along(a, axis, part):
    """`a[..., part, ...]`, with `part` at a place of the index counted from the front."""
    return a[(slice(None),) * axis + (part,)]


def rows(a):
    """All rows of a stack of matrices, one below the other in one matrix."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
