"""Arrays that never change, kept because making them takes longer than using them.

Floor 0. All are read-only. On small arrays NumPy spends most of its time on the way to the arithmetic, and these take
shorter ways: rows are summed by a product with ones (BLAS) in a third of the time of `np.add.reduce`, and elements are
compared with zeros in a third of the time that it takes with one zero.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

__all__ = ["ones", "row_starts", "zeros_beside"]

Array = np.ndarray[Any, Any]

ndarray = np.ndarray  # found sooner than in its module
LARGEST = 2**16  # elements: what is larger is made anew, and is no longer dominated by the way to the arithmetic
MANY = 32  # arrays of a kind

# Plain dicts: looking into one takes two thirds of a call of `functools.lru_cache`.
_ONES: dict[Hashable, Array] = {}
_ROW_STARTS: dict[Hashable, Array] = {}
_ZEROS: dict[Hashable, Array] = {}


def ones(n: int, dtype: np.dtype[Any]) -> Array:
    """A vector of n ones.

    >>> ones(2, np.dtype(np.float32))
    array([1., 1.], dtype=float32)
    """
    try:
        return _ONES[n, dtype.char]
    except KeyError:
        return _kept(_ONES, (n, dtype.char), np.ones(n, dtype.char))


def row_starts(n: int, width: int) -> Array:
    """Where each of n rows begins in the flattened array.

    >>> row_starts(3, 10)
    array([ 0, 10, 20])
    """
    try:
        return _ROW_STARTS[n, width]
    except KeyError:
        return _kept(_ROW_STARTS, (n, width), np.arange(n) * width)


def zeros_beside(x: Any) -> Any:
    """Zeros of the shape and dtype of x; for large arrays, and for anything but an array, the number 0 does as well.

    >>> zeros_beside(np.array([1.0, 2.0]))
    array([0., 0.])
    """
    if type(x) is not ndarray:
        return 0
    try:
        return _ZEROS[x.shape, x.dtype.char]
    except KeyError:
        return 0 if x.size > LARGEST else _kept(_ZEROS, (x.shape, x.dtype.char), np.zeros(x.shape, x.dtype.char))


def _kept(table: dict[Hashable, Array], key: Hashable, array: Array) -> Array:
    """The array, read-only, and in the table unless it is too large; a table that is full starts anew."""
    array.flags.writeable = False
    if array.size <= LARGEST:
        if len(table) >= MANY:
            table.clear()
        table[key] = array
    return array
