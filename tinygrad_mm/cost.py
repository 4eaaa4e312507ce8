"""What an operation costs: the bytes it keeps for the backward pass, and its multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.graph import Vertex

__all__ = ["Memory", "bytes_text", "count_text", "multiply_adds", "multiply_adds_of", "owner_of"]

Shape: TypeAlias = "tuple[int, ...]"

ALONG_LAST_AXIS = {getattr(np, name) for name in ("matmul", "dot", "inner", "vecdot", "matvec") if hasattr(np, name)}


def multiply_adds(fun: Callable[..., Any], operands: Sequence[Shape], result: Shape) -> int:
    """The multiply-adds of a matrix product by the shapes of its operands and its result; 0 for any other function.

    >>> multiply_adds(np.matmul, [(64, 784), (784, 10)], (64, 10))
    501760
    >>> multiply_adds(np.tensordot, [(5, 3, 4), (4, 3, 2)], (5, 2)), multiply_adds(np.add, [(3,), (3,)], (3,))
    (120, 0)
    """
    if len(operands) != 2:
        return 0
    a, b = operands
    size = math.prod(result)
    if fun in ALONG_LAST_AXIS:
        return size * a[-1] if a and b else 0
    if fun is np.vdot:
        return math.prod(a)
    if fun is np.outer:
        return size
    if fun is np.tensordot:  # every index is in two of the three arrays
        return math.isqrt(math.prod(a) * math.prod(b) * size)
    return 0


def multiply_adds_of(fun: Callable[..., Any], args: Sequence[Any], value: Any) -> int:
    """The multiply-adds of a call with this result.

    >>> a, b = np.ones((64, 784)), np.ones((784, 10))
    >>> multiply_adds_of(np.matmul, (a, b), a @ b)
    501760
    """
    arrays = [_value(a) for a in args]  # of a call with several results it is a tuple of arrays
    operands = [a.shape for a in arrays if isinstance(a, np.ndarray)]
    result = _value(value)
    return multiply_adds(fun, operands, result.shape) if isinstance(result, np.ndarray) else 0


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
