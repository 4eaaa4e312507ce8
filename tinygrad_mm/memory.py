"""What is asked of the C library's allocator, where NumPy gets its memory from.

Floor 0.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["Place", "aligned", "keep_freed_memory"]

LINE = 64  # bytes of a cache line

_M_TRIM_THRESHOLD = -1  # glibc's malloc.h
KEPT = 1 << 30  # bytes that may stay free at the end of the heap


@functools.cache
def keep_freed_memory() -> None:
    """Tell the allocator, once, that the memory of one backward pass is wanted again in the next.

    glibc's malloc hands larger pieces back to the system, and gets them again page by page. How large, it learns from
    what is freed, up to 32 MB (mallopt(3), M_MMAP_THRESHOLD): so an array of that size is freed here, to which nothing
    is written, and which takes no memory itself. What is free at the end of the heap goes back from twice that size
    on; here only beyond 1 GB, unless MALLOC_TRIM_THRESHOLD_ says otherwise. Other allocators are left alone.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        with contextlib.suppress(ImportError, AttributeError, OSError, TypeError):  # no glibc
            import ctypes

            ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, KEPT)


def aligned(shape: int | tuple[int, ...], dtype: Any, make: Callable[..., Any] = np.empty) -> Any:
    """An array that begins with a cache line; `make` makes its memory, `np.zeros` as zeros.

    malloc begins anywhere in one. Then many of the vectors that a call reads or writes lie in two lines, and a pass
    over an array takes longer.

    >>> aligned((2, 3), np.float32).ctypes.data % 64
    0
    """
    count = int(np.prod(shape))
    memory = make(np.dtype(dtype).itemsize * count + LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % LINE
    return np.frombuffer(memoryview(memory), dtype, count, start).reshape(shape)  # no view of what lies around it


class Place:
    """Where the gradient of a parameter may be left: a part of a one-dimensional array, beside those of others.

    It is free while nobody holds it. Whoever does has a reference: to `array`, or to a view, which refers to that.

    >>> weights, memory = np.ones(3), np.zeros(4)
    >>> place = Place(weights, memory, 1)
    >>> held = place.free(weights)
    >>> held[...] = 5; memory, place.free(weights)
    (array([0., 5., 5., 5.]), None)
    """

    __slots__ = ("array", "value")

    def __init__(self, value: Any, memory: Any, start: int) -> None:
        part = memory[start : start + value.size]
        interface = {**part.__array_interface__, "shape": value.shape}
        self.value = value
        self.array = np.asarray(SimpleNamespace(__array_interface__=interface, memory=memory))  # no view of an array

    def free(self, value: Any) -> Any:
        """The array, where nobody holds it, for the gradient of this very value; else None."""
        array = self.array
        return array if _references(array) == _FREE and value is self.value else None


_references: Callable[[Any], int] = getattr(sys, "getrefcount", lambda array: -1)  # CPython has it
_FREE = 0  # what `free` counts where nobody else does: its own references, which Python versions count differently
_probe = np.empty(1)
_place = Place(_probe, _probe, 0)
while _place.free(_probe) is None and _FREE < 3:  # a debugger may hold one more, now
    _FREE += 1
