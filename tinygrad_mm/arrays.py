"""Floor 1. From what a user gives to an array: Python numbers get our dtypes, arrays of any library keep their own."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.graph import Vertex

__all__ = ["array_of", "as_array", "index_arrays", "is_foreign_array", "operand_array"]

Array: TypeAlias = "np.ndarray[Any, Any]"

_PYTHON_NUMBERS = frozenset({float, int, bool})


def is_foreign_array(a: Any) -> bool:
    """Whether this is an array of another library (pandas, PyTorch, JAX, ...) or a subclass of NumPy's.

    >>> is_foreign_array(np.zeros(2)), is_foreign_array(np.float64(0)), is_foreign_array([0.0])
    (False, False, False)
    >>> is_foreign_array(np.ma.array([0.0]))
    True
    """
    return _foreign(type(a))


def _foreign(kind: type) -> bool:
    known = kind is np.ndarray or issubclass(kind, (Vertex, np.generic))
    return not known and (hasattr(kind, "__array__") or hasattr(kind, "__dlpack__"))


def array_of(a: Any) -> Array:
    """The elements of an array of any library as a plain NumPy array of the same dtype, by position, not by label.

    Memory is shared where the other library allows it. Raises TypeError for a masked array, which would lose its mask.
    """
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError("a masked array would lose its mask; say a.filled(value) to put a value into the gaps")
    return np.asarray(a) if hasattr(type(a), "__array__") else np.from_dlpack(a)


def operand_array(a: Any) -> Array:
    """`array_of` beside a Tensor, where a subclass of `ndarray` could be meant to compute by rules of its own.

    Raises TypeError for such a subclass (`np.matrix`, whose `*` is a matrix product, or one that carries units).
    """
    if isinstance(a, np.ndarray) and not isinstance(a, (np.memmap, np.ma.MaskedArray)):
        raise TypeError(
            f"{type(a).__name__} computes by rules of its own, which a Tensor does not know; say np.asarray(a)"
        )
    return array_of(a)


def index_arrays(key: Any) -> Any:
    """An index with the arrays of other libraries in it as NumPy's."""
    if type(key) is tuple:
        return tuple(array_of(part) if is_foreign_array(part) else part for part in key)
    return array_of(key) if is_foreign_array(key) else key


def as_array(data: Any, dtype: Any = None) -> Array:
    """An array of `data`: arrays keep their dtype, Python floats become float32, ints int64, bools bool.

    NumPy's scalars are typed as arrays are, and Python numbers in a list with them are weak.

    Raises TypeError for a Tensor and a masked array, ValueError for lists of no rectangular shape.

    >>> as_array([1.0, 2.0]).dtype, as_array(np.array([1.0])).dtype, as_array(3).dtype
    (dtype('float32'), dtype('float64'), dtype('int64'))
    >>> as_array([0.5, np.float16(1)]).dtype
    dtype('float16')
    """
    if isinstance(data, Vertex):
        raise TypeError("this is a Tensor already; use it as it is, or t.detach() to cut it from its graph")
    if type(data) is np.ndarray or is_foreign_array(data):
        found = array_of(data)
        return found if dtype is None else found.astype(dtype, copy=False)
    if isinstance(data, (list, tuple)) and any(map(_foreign, set(map(type, data)))):
        data = [array_of(part) if is_foreign_array(part) else part for part in data]
    try:
        found = np.asarray(data, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"the data have no rectangular shape: {error}") from error
    if dtype is not None or found.dtype.kind not in "fi":
        return found
    typed: set[Any] = set()
    weak: set[Any] = set()
    for kind in _kinds(data):
        (weak if isinstance(kind, type) else typed).add(kind)
    if not typed:
        return found.astype(np.float32 if found.dtype.kind == "f" else np.int64, copy=False)
    if found.dtype.kind == "f":
        found = found.astype(np.result_type(*typed, *([0.0] if float in weak else [])), copy=False)
    return found


def _kinds(data: Any) -> Iterator[Any]:
    """The dtypes of the arrays and NumPy scalars in nested sequences, and the classes of the Python numbers."""
    if isinstance(data, (np.ndarray, np.generic)):
        yield data.dtype
    elif is_foreign_array(data) or isinstance(data, (memoryview, array.array)):
        yield np.asarray(data).dtype
    elif type(data) in _PYTHON_NUMBERS:
        yield type(data)
    elif hasattr(data, "__iter__"):
        kinds = set(map(type, data))
        if kinds <= _PYTHON_NUMBERS:
            yield from kinds
        else:
            for part in data:
                yield from _kinds(part)
    else:
        yield next((kind for kind in (bool, int, float) if isinstance(data, kind)), float)
