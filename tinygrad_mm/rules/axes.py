"""Axes as rules need them: counted from the front, with NumPy's own exceptions for those that do not exist."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple


def one_axis(a, axis):
    """An axis of an array as a number that is not negative."""
    return normalize_axis_index(axis, a.ndim)


def all_axes(a, axis):
    """The axes of a reduction as a tuple of numbers that are not negative; None stands for all."""
    return tuple(range(a.ndim)) if axis is None else normalize_axis_tuple(axis, a.ndim)


def flat_last(a, axis):
    """The axes of a reduction moved to the end and flattened to one."""
    axes = all_axes(a, axis)
    rest = tuple(i for i in range(a.ndim) if i not in axes)
    length = math.prod(a.shape[i] for i in axes)
    return np.transpose(a, rest + axes).reshape(tuple(a.shape[i] for i in rest) + (length,))


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


def count(a, axis):
    """How many elements a reduction takes together."""
    return math.prod(a.shape[i] for i in all_axes(a, axis))


def kept(v: Any, a: Any, axis: Any) -> Any:
    """A result of reducing a, with the reduced axes back in place, of length 1."""
    return v if v.ndim == a.ndim else np.expand_dims(v, all_axes(a, axis))


def inverse(axes, ndim):
    """The permutation of axes that undoes another one; None, which reverses them, undoes itself."""
    if axes is None:
        return None
    axes = numbered(axes, ndim)
    return tuple(axes.index(i) for i in range(ndim))


def numbered(axes, ndim):
    """One axis or several as a list of numbers that are not negative."""
    return [axis % ndim for axis in ([axes] if np.ndim(axes) == 0 else axes)]


def rest(axes, ndim):
    """The axes that are not among some."""
    return [axis for axis in range(ndim) if axis not in axes]


def reordered(a, axes):
    """An array whose axes are those that `axes` names, with them in ascending order."""
    return np.transpose(a, tuple(axes.index(i) for i in range(len(axes))))


def pairs(a, axes):
    """The axes of `tensordot` as a pair: a number n means the last n of a and the first n of b."""
    return (list(range(np.ndim(a) - axes, np.ndim(a))), list(range(axes))) if np.ndim(axes) == 0 else axes


def last_to(axis, a, vectors):
    """Vectors on the last axis, that axis moved to where it is in a; axes that broadcasting added stay in front."""
    return np.moveaxis(vectors, -1, axis % a.ndim - a.ndim)
