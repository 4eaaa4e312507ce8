"""Indexing: functions that pick elements, and those that write elements into a new array.

An index may name an element twice; then its gradients are added up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.graph import Vertex, defcomposite, defstopped, defvjp, primitive
from tinygrad_mm.rules.axes import along, at_least_one, axis_or_flat


class Slot:
    """Stands in an index for a Tensor, which is an argument of its own in the call, so that the graph shows it."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"#{self.number}"


def without_tensors(key: Any) -> tuple[Any, tuple[Vertex, ...]]:
    """(index, Tensors): an index in normal form, a numbered Slot in place of each Tensor, and the Tensors in order.

    >>> without_tensors((slice(3), Vertex(np.array([0, 1]))))[0]
    (slice(None, 3, None), #0)
    """
    tensors: list[Vertex] = []

    def replaced(part: Any) -> Any:
        if isinstance(part, Vertex):
            tensors.append(part)
            return Slot(len(tensors) - 1)
        return part

    key = tuple(map(replaced, key)) if isinstance(key, tuple) else replaced(key)
    return key, tuple(tensors)


def _filled(key, arrays):
    """The index with the arrays put back in place of the slots."""
    if not arrays:
        return key
    if isinstance(key, tuple):
        return tuple(arrays[part.number] if isinstance(part, Slot) else part for part in key)
    return arrays[key.number] if isinstance(key, Slot) else key


def _may_repeat(key):
    """Whether an index can name one element twice: any sequence of integers inside it can."""

    def cannot(part):
        simple = part is None or part is Ellipsis or isinstance(part, (slice, int, np.integer, np.bool_))
        return simple or (isinstance(part, np.ndarray) and (part.dtype.kind == "b" or part.ndim == 0))

    return not all(map(cannot, key if isinstance(key, tuple) else (key,)))


def add_rows(table: Any, rows: Any, values: Any) -> None:
    """Add values to the rows of a table; a row that is named several times gets the sum.

    The same as `np.add.at(table, rows, values)`, but faster: values of the same row are sorted together and summed.

    Shape: (n, ...), (...), (..., ...)
    """
    if values.size < 8192:  # elements: too few to pay for sorting
        np.add.at(table, rows, values)
        return
    rows = rows.reshape(-1).astype(np.intp)
    rows = np.where(rows < 0, rows + len(table), rows)
    order = rows.argsort(kind="stable")
    rows = rows[order]
    if rows[0] < 0:
        raise IndexError(f"index {rows[0] - len(table)} is out of bounds for {len(table)} rows")
    starts = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
    table[rows[starts]] += np.add.reduceat(values.reshape(len(rows), *table.shape[1:])[order], starts, 0)


def _add_at(out, key, value):
    """`np.add.at`."""
    rows = key[0] if type(key) is tuple and len(key) == 1 else key
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and out.ndim > 1 and rows.ndim:
        add_rows(out, rows, np.broadcast_to(value, rows.shape + out.shape[1:]))
    else:
        np.add.at(out, key, value)


@primitive
def getitem(x, key, *arrays):
    """`x[key]`."""
    return x[_filled(key, arrays)]


def at_places(x: Any, places: Any) -> Any:
    """`x[places]` also where x is an array and `places` a Tensor, which the array could not read while tracing."""
    return getitem(x, Slot(0), places)


@primitive
def checked(x: Any, check: Callable[[Any], Any]) -> Any:
    """The array itself, after `check(x)`, which may raise; recorded, so that a compiled function checks in every call."""
    check(x)
    return x


@primitive
def scatter(g, shape, key, *arrays):
    """Zeros of a shape with g added at an index; elements named twice get the sum."""
    key = _filled(key, arrays)
    out = np.zeros(shape, g.dtype)
    if _may_repeat(key):
        _add_at(out, key, g)
    else:
        out[key] = g
    return out


@primitive
def index_set(x: Any, value: Any, key: Any, *arrays: Any) -> Any:
    """The array with `value` at an index; where an element is named twice the last one stays."""
    out = np.array(x, dtype=np.result_type(x, value))
    out[_filled(key, arrays)] = value
    return out


@primitive
def index_add(x: Any, value: Any, key: Any, *arrays: Any) -> Any:
    """The array with `value` added at an index; where an element is named twice both are added."""
    out = np.array(x, dtype=np.result_type(x, value))
    _add_at(out, _filled(key, arrays), value)
    return out


@primitive
def index_multiply(x: Any, value: Any, key: Any, *arrays: Any) -> Any:
    """The array with the elements at an index multiplied by `value`; where one is named twice both factors count."""
    out = np.array(x, dtype=np.result_type(x, value))
    np.multiply.at(out, _filled(key, arrays), value)
    return out


@primitive
def last_writes(x, key, *arrays):
    """1 for each place of an index whose value stays when `x[key] = value`, 0 where a later one replaces it."""
    key = _filled(key, arrays)
    numbers = np.arange(x[key].size).reshape(x[key].shape)
    written = np.full(x.shape, -1)
    written[key] = numbers
    return (written[key] == numbers).astype(x.dtype)


defvjp(checked, lambda g, y, x, check: g)
defstopped(last_writes)


def _index_extreme(extreme):
    def index_extreme(x, value, key, *arrays):
        out = np.array(x, dtype=np.result_type(x, value))
        extreme.at(out, _filled(key, arrays), value)
        return out

    return index_extreme


@primitive
def index_max(x: Any, value: Any, key: Any, *arrays: Any) -> Any:
    """The array with the larger of element and `value` at an index; where an element is named twice all values count."""
    return _index_extreme(np.maximum)(x, value, key, *arrays)


@primitive
def index_min(x: Any, value: Any, key: Any, *arrays: Any) -> Any:
    """The array with the smaller of element and `value` at an index; where an element is named twice all values count."""
    return _index_extreme(np.minimum)(x, value, key, *arrays)


def _winners(y, x, value, key, arrays):
    """For `index_max` and `index_min`: 1 where x was chosen, 1 where `value` was, and how many candidates tied for each
    element of the result, which share its gradient.
    """
    chosen = (getitem(y, key, *arrays) == value).astype(y.dtype)
    return (x == y).astype(y.dtype), chosen, index_add((x == y).astype(y.dtype), chosen, key, *arrays)


def _kept_share(g, y, x, value, key, arrays):
    own, _, number = _winners(y, x, value, key, arrays)
    return g * own / np.where(number == 0, 1, number)


def _written_share(g, y, x, value, key, arrays):
    _, chosen, number = _winners(y, x, value, key, arrays)
    return getitem(g / np.where(number == 0, 1, number), key, *arrays) * chosen


def _set_back(g, key, arrays):
    """The gradient of the values of `index_set`: 0 for those that a later one replaced."""
    back = getitem(g, key, *arrays)
    return back * last_writes(g, key, *arrays) if arrays or _may_repeat(key) else back


def _multiply_back(g, x, value, key, arrays):
    """The gradient of the factors of `index_multiply`: where an element gets several, the product of all the others."""
    back = getitem(g * x, key, *arrays)
    if not arrays and not _may_repeat(key):
        return back
    places = getitem(np.arange(math.prod(x.shape)).reshape(x.shape), key, *arrays)
    factors, numbers = np.broadcast_to(value, places.shape).reshape(-1), places.reshape(-1)
    others = (np.expand_dims(numbers, 1) == numbers) & ~np.eye(numbers.shape[0], dtype=bool)
    return back * np.prod(np.where(others, factors, 1), axis=1).reshape(places.shape)


# fmt: off
defvjp(getitem,        lambda g, y, x, key, *arrays: scatter(g, x.shape, key, *arrays),                        signature="(...)[key] -> (...)")
defvjp(scatter,        lambda g, y, x, shape, key, *arrays: getitem(g, key, *arrays),                          signature="(...) -> shape")
defvjp(index_set,      lambda g, y, x, value, key, *arrays: index_set(g, 0, key, *arrays),
                       lambda g, y, x, value, key, *arrays: _set_back(g, key, arrays),                              signature="(...), (...) -> (...)")
defvjp(index_add,      lambda g, y, x, value, key, *arrays: g,
                       lambda g, y, x, value, key, *arrays: getitem(g, key, *arrays),                          signature="(...), (...) -> (...)")
defvjp(index_multiply, lambda g, y, x, value, key, *arrays: index_multiply(g, value, key, *arrays),
                       lambda g, y, x, value, key, *arrays: _multiply_back(g, x, value, key, arrays),          signature="(...), (...) -> (...)")
for extreme in (index_max, index_min):
    defvjp(extreme,    lambda g, y, x, value, key, *arrays: _kept_share(g, y, x, value, key, arrays),
                       lambda g, y, x, value, key, *arrays: _written_share(g, y, x, value, key, arrays),       signature="(...), (...) -> (...)")
# fmt: on


# ---------------------------------------------------------------------------------------------------------------------
# NumPy's functions, in terms of x[index]
# ---------------------------------------------------------------------------------------------------------------------


def _take(a, indices, axis=None, out=None, mode="raise"):
    a, axis = axis_or_flat(at_least_one(a), axis)
    n = a.shape[axis]
    if mode == "wrap":
        indices = np.remainder(indices, n)
    elif mode == "clip":
        indices = np.clip(indices, 0, n - 1)
    if mode not in ("raise", "wrap", "clip"):
        raise ValueError(f"take: mode={mode!r}; use 'raise', 'wrap' or 'clip'")
    if not hasattr(indices, "requires_grad"):
        indices = np.asarray(indices)
    if indices.dtype == bool or 0 in indices.shape:  # np.take reads booleans as the numbers 0 and 1, not as a mask
        indices = indices.astype(np.intp)
    return getitem(a, (slice(None),) * axis + (Slot(0),), indices)


def _take_along_axis(arr, indices, axis=-1):
    arr, axis = axis_or_flat(arr, axis)
    if indices.ndim != arr.ndim:
        raise ValueError(f"take_along_axis: indices of shape {indices.shape} need as many axes as {arr.shape} has")
    if indices.dtype.kind not in "iu":
        raise IndexError(f"take_along_axis: indices are integers; these are {indices.dtype}")
    places = [np.arange(n).reshape((-1,) + (1,) * (arr.ndim - i - 1)) for i, n in enumerate(arr.shape)]
    places[axis] = Slot(0)
    return getitem(arr, tuple(places), indices)


def _sort(a, axis=-1, kind=None, order=None, *, stable=None):
    a, axis = axis_or_flat(a, axis)
    options = {"kind": kind, "order": order} if stable is None else {"stable": stable, "order": order}
    return _take_along_axis(a, np.argsort(a, axis=axis, **options), axis)


def _partition(a, kth, axis=-1, kind="introselect", order=None):
    a, axis = axis_or_flat(a, axis)
    return _take_along_axis(a, np.argpartition(a, kth, axis=axis, kind=kind, order=order), axis)


def _compress(condition, a, axis=None, out=None):
    if np.ndim(condition) != 1:
        raise ValueError(f"compress: the condition is a list; this one has {np.ndim(condition)} axes")
    a, axis = axis_or_flat(at_least_one(a), axis)
    return along(a, axis, np.flatnonzero(condition))


SAME_SHAPE = "(...) -> (...)"

# fmt: off
defcomposite(np.take,            _take,                                                                        signature="(..., n, ...), (m...) -> (..., m..., ...)")
defcomposite(np.take_along_axis, _take_along_axis,                                                             signature="(..., n, ...), (..., m, ...) -> (..., m, ...)")
defcomposite(np.sort,            _sort,                                                                        signature=SAME_SHAPE)
defcomposite(np.partition,       _partition,                                                                   signature=SAME_SHAPE)
defcomposite(np.compress,        _compress,                                                                    signature="(m,), (..., n, ...) -> (..., k, ...)")
defcomposite(np.extract,         lambda condition, arr: arr.reshape(-1)[np.flatnonzero(condition)],            signature="(...), (...) -> (k,)")
# fmt: on

defstopped(
    *(np.argsort, np.argpartition, np.lexsort, np.searchsorted, np.digitize, np.nonzero, np.flatnonzero, np.argwhere),
    *(np.unravel_index, np.ravel_multi_index),
)
