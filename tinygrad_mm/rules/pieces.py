"""Functions called on parts of an array, arrays repeated or moved around, and functions that would write into one."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_mm.graph import defcomposite, defvjp
from tinygrad_mm.rules.axes import one_axis
from tinygrad_mm.rules.indexing import Slot, index_set
from tinygrad_mm.rules.operands import as_arrays


def _piecewise(x, condlist, funclist, *args, **options):
    """Each function of the elements where its condition holds, of the last one that does."""
    (x,) = as_arrays([x])
    conditions = condlist
    if np.ndim(condlist) == 0 and x.ndim and hasattr(condlist, "dtype") and not isinstance(condlist, np.generic):
        raise IndexError("piecewise: a condition has the shape of the elements; this one has no axes")
    if np.ndim(condlist) == 0 or (x.ndim and np.ndim(condlist[0]) == 0):
        conditions = [condlist]
    elif not isinstance(condlist, (list, tuple)):
        conditions = [condlist[i] for i in range(np.shape(condlist)[0])]
    conditions = [as_arrays([c])[0].astype(bool) for c in conditions]
    if len(funclist) == len(conditions) + 1:
        taken = conditions[0]
        for c in conditions[1:]:
            taken = taken | c
        conditions.append(~taken)
    elif len(funclist) != len(conditions):
        n = len(conditions)
        raise ValueError(f"piecewise: {n} conditions need {n} or {n + 1} functions; {len(funclist)} were given")
    y = np.zeros_like(x)
    for condition, function in zip(conditions, funclist, strict=True):
        value = function(x[condition], *args, **options) if callable(function) else function
        value = as_arrays([value, x])[0]
        y = index_set(y, value, Slot(0), condition).astype(x.dtype)
    return y


def _apply_along_axis(func1d, axis, arr, *args, **options):
    """A function of a list called on each list along an axis. Shape: (..., n, ...) -> (..., m..., ...)"""
    (arr,) = as_arrays([arr])
    axis = one_axis(arr, axis)
    rows = np.moveaxis(arr, axis, -1)
    outside = rows.shape[:-1]
    if 0 in outside:
        raise ValueError("apply_along_axis: there is no list to call the function on: an axis has length 0")
    rows = rows.reshape(math.prod(outside), arr.shape[axis])
    results = np.stack([as_arrays([func1d(rows[i], *args, **options)])[0] for i in range(rows.shape[0])])
    inside = results.shape[1:]
    results = results.reshape(outside + inside)
    order = tuple(range(axis)) + tuple(range(len(outside), results.ndim)) + tuple(range(axis, len(outside)))
    return np.transpose(results, order)


def _resize(a, new_shape):
    """The elements again and again, as many as there are places."""
    (a,) = as_arrays([a])
    shape = (new_shape,) if np.ndim(new_shape) == 0 else tuple(new_shape)
    if any(n < 0 for n in shape):
        raise ValueError(f"resize: no length in {shape} may be negative")
    places, size = math.prod(shape), math.prod(a.shape)
    if size == 0:
        return np.zeros_like(a, shape=shape)
    return a.reshape(-1)[np.arange(places) % size].reshape(shape)


def _ix_(*args):
    results = []
    for i, part in enumerate(as_arrays(args)):
        if part.ndim != 1:
            raise ValueError(f"ix_: lists are needed; argument {i} has {part.ndim} axes")
        part = np.flatnonzero(part) if part.dtype == bool else part
        results.append(part.reshape(tuple(-1 if i == j else 1 for j in range(len(args)))))
    return tuple(results)


def _shifted(sign):
    def shift(x, axes=None):
        (x,) = as_arrays([x])
        axes = tuple(range(x.ndim)) if axes is None else (axes,) if np.ndim(axes) == 0 else tuple(axes)
        halves = tuple(sign * (x.shape[a] // 2) for a in axes)
        return np.roll(x, halves, axes)

    return shift


def _full_like(a, fill_value, dtype=None, order="K", subok=True, shape=None, *, device=None):
    like, fill = as_arrays([a])[0], as_arrays([fill_value])[0]
    shape = like.shape if shape is None else (shape,) if np.ndim(shape) == 0 else tuple(shape)
    dtype = like.dtype if dtype is None else dtype
    return np.where(np.zeros_like(like, dtype=bool, order=order, shape=shape), np.zeros((), dtype), fill.astype(dtype))


# fmt: off
defvjp(np.unwrap,                 lambda g, y, p, discont=None, axis=-1, *, period=2 * math.pi: g,  signature="(..., n, ...) -> (..., n, ...)")
defcomposite(np.piecewise,        _piecewise,         signature="(...), [(...), ...] -> (...)")
defcomposite(np.apply_along_axis, _apply_along_axis,  signature="(..., n, ...) -> (..., m..., ...)")
defcomposite(np.resize,           _resize,            signature="(...) -> new_shape")
defcomposite(np.ix_,              _ix_,               signature="(n,), (m,), ... -> (n, 1, ...), (1, m, ...), ...")
defcomposite(np.fft.fftshift,     _shifted(1),        signature="(...) -> (...)")
defcomposite(np.fft.ifftshift,    _shifted(-1),       signature="(...) -> (...)")
defcomposite(np.full_like,        _full_like,         signature="(...), (...) -> (...)")
# fmt: on

# What to use in place of functions that write into an array, which the graph could not differentiate.
WRITING = {
    np.put_along_axis: "np.take_along_axis's index: x.at[tuple of indices].set(values)",
    np.copyto: "np.broadcast_to(value, shape) in place of np.full, np.where(mask, values, x) otherwise",
    np.put: "x.reshape(-1).at[indices].set(values)",
    np.place: "x.at[mask].set(values)",
    np.putmask: "np.where(mask, values, x)",
    np.fill_diagonal: "x.at[i, i].set(value) with i = np.arange(n)",
}
