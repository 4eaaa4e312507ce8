"""What an operation costs: the bytes it keeps for the backward pass, and its multiply-adds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.graph import Node, Vertex

__all__ = ["Memory", "bytes_text", "count_text", "multiply_adds", "owner_of"]

ALONG_LAST_AXIS = {getattr(np, name) for name in ("matmul", "dot", "inner", "vecdot", "matvec") if hasattr(np, name)}


def multiply_adds(node: Node, value: Any) -> int:
    """The multiply-adds of a matrix product; 0 for any other call, whose cost is that of reading its arrays.

    >>> a, b = np.ones((64, 784)), np.ones((784, 10))
    >>> multiply_adds(Node(np.matmul, (a, b), {}), a @ b)
    501760
    """
    shapes = [np.shape(_value(a)) for a in node.args or () if isinstance(a, (Vertex, np.ndarray))]
    if len(shapes) != 2 or type(value) is tuple:
        return 0
    a, b = shapes
    size = math.prod(np.shape(value))
    if node.fun in ALONG_LAST_AXIS:
        return size * a[-1] if a and b else 0
    if node.fun is np.vdot:
        return math.prod(a)
    if node.fun is np.outer:
        return size
    if node.fun is np.tensordot:  # every index is in two of the three arrays
        return math.isqrt(math.prod(a) * math.prod(b) * size)
    return 0


class Memory:
    """Counts the bytes of arrays, each owner of memory once.

    >>> memory, x = Memory(), np.ones((4, 5), np.float32)
    >>> memory.new(x), memory.new(x.reshape(5, 4)), memory.new(x * 2)
    (80, 0, 80)
    """

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}  # holds the owners, so that no id is given out twice
        self.total = 0

    def new(self, value: Any) -> int:
        """The bytes of an array (or of a tuple of them) that nobody counted before."""
        found = 0
        for array in value if isinstance(value, tuple) else (value,):
            array = owner_of(array)
            if isinstance(array, np.ndarray) and id(array) not in self.seen:
                self.seen[id(array)] = array
                found += array.nbytes
        self.total += found
        return found


def owner_of(a: Any) -> Any:
    """The array that owns the memory of a tensor, an array or a view.

    >>> x = np.ones((2, 3))
    >>> owner_of(x[0].reshape(3, 1)) is x
    True
    """
    array = _value(a)
    while isinstance(getattr(array, "base", None), np.ndarray):
        array = array.base
    return array


def bytes_text(count: int) -> str:
    """A number of bytes in the unit that keeps it short.

    >>> bytes_text(640), bytes_text(200_704), bytes_text(12_600_000)
    ('640 B', '201 kB', '12.6 MB')
    """
    return f"{_short(count)}B" if count >= 1000 else f"{count} B"


def count_text(count: int) -> str:
    """A large number, rounded to three digits.

    >>> count_text(720), count_text(501_760), count_text(6_504_448)
    ('720', '502 k', '6.5 M')
    """
    return _short(count).rstrip() if count >= 1000 else str(count)


def _short(count: int) -> str:
    power = 1
    while power < 4 and count / 1000**power >= 999.5:
        power += 1
    return f"{count / 1000**power:.3g} {'kMGT'[power - 1]}"


def _value(a: Any) -> Any:
    return a.value if isinstance(a, Vertex) else a
