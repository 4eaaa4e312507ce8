"""Memory: where arrays begin in it, and what is asked of the C library's allocator, where NumPy gets it from.

Floor 0.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["aligned", "keep_freed_memory"]

LINE = 64  # bytes of a cache line

_M_TRIM_THRESHOLD = -1  # glibc's malloc.h
KEPT = 1 << 30  # bytes that may stay free at the end of the heap


@functools.cache
def keep_freed_memory() -> None:
    """Tell the allocator of this process, once, that the memory of one training step is wanted again in the next.

    glibc's malloc hands larger pieces back to the system, and gets them again page by page. How large, it learns from
    what is freed, up to 32 MB (mallopt(3), M_MMAP_THRESHOLD): so an array of that size is freed here, to which nothing
    is written, and which takes no memory itself. What is free at the end of the heap goes back from twice that size
    on; here only beyond 1 GB. Nothing is changed where the environment sets MALLOC_TRIM_THRESHOLD_ (131072 is glibc's
    own), nor for other allocators.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    np.empty((32 << 20) - (64 << 10), np.uint8)
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
