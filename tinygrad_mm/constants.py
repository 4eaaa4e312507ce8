"""Arrays that never change, kept because making them takes longer than using them.

Floor 0. All are read-only. On small arrays NumPy spends most of its time on the way to the arithmetic, and these take
shorter ways: rows are summed by a product with ones (BLAS) in a third of the time of `np.add.reduce`, and elements are
compared with zeros in a third of the time that it takes with one zero.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

__all__ = ["ones", "row_starts", "zeros_beside"]

Array = np.ndarray[Any, Any]

LARGEST = 2**16  # elements: what is larger is made anew, and is no longer dominated by the way to the arithmetic


def ones(n: int, dtype: np.dtype[Any]) -> Array:
    """A vector of n ones.

    >>> ones(2, np.dtype(np.float32))
    array([1., 1.], dtype=float32)
    """
    return _ones(n, dtype.char) if n <= LARGEST else np.ones(n, dtype)


def row_starts(n: int, width: int) -> Array:
    """Where each of n rows begins in the flattened array.

    >>> row_starts(3, 10)
    array([ 0, 10, 20])
    """
    return _row_starts(n, width) if n <= LARGEST else np.arange(n) * width


def zeros_beside(x: Any) -> Any:
    """Zeros of the shape and dtype of x; for large arrays, and for anything but an array, the number 0 does as well.

    >>> zeros_beside(np.array([1.0, 2.0]))
    array([0., 0.])
    """
    return _zeros(x.shape, x.dtype.char) if type(x) is np.ndarray and x.size <= LARGEST else 0


@functools.lru_cache(maxsize=32)
def _ones(n: int, kind: str) -> Array:
    return _kept(np.ones(n, kind))


@functools.lru_cache(maxsize=32)
def _row_starts(n: int, width: int) -> Array:
    return _kept(np.arange(n) * width)


@functools.lru_cache(maxsize=32)
def _zeros(shape: tuple[int, ...], kind: str) -> Array:
    return _kept(np.zeros(shape, kind))


def _kept(array: Array) -> Array:
    array.flags.writeable = False
    return array
