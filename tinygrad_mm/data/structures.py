"""Structures of arrays: tuples and dicts of them, nested in any way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.tensor import Tensor

__all__ = ["Array", "Rng", "mapped", "plain_array", "stacked"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Rng: TypeAlias = "np.random.Generator | int | None"


def plain_array(data: Any) -> Array:
    """An array of anything that is one, or a Tensor without a gradient."""
    return data.numpy() if isinstance(data, Tensor) else as_array(data)


def mapped(function: Callable[[Any], Any], data: Any) -> Any:
    """`function` of every array in a structure of tuples and dicts.

    >>> mapped(len, {"x": ([1, 2], [3])})
    {'x': (2, 1)}
    """
    if isinstance(data, dict):
        return {name: mapped(function, value) for name, value in data.items()}
    if isinstance(data, tuple):
        return _rebuilt(data, [mapped(function, value) for value in data])
    return function(data)


def stacked(examples: list[Any]) -> Any:
    """Examples of equal structure as one structure of arrays with one axis more.

    >>> stacked([(1, 0.5), (2, 1.5)])
    (array([1, 2]), array([0.5, 1.5], dtype=float32))
    """
    first = examples[0]
    if len({_structure(example) for example in examples}) > 1:
        raise ValueError(f"DataLoader: examples differ in structure, such as {first!r:.60}; make them alike")
    if isinstance(first, dict):
        return {name: stacked([example[name] for example in examples]) for name in first}
    if isinstance(first, tuple):
        return _rebuilt(first, [stacked(list(column)) for column in zip(*examples, strict=True)])
    arrays = [plain_array(example) for example in examples]
    if len({array.shape for array in arrays}) > 1:
        shapes = sorted({array.shape for array in arrays})
        raise ValueError(
            f"DataLoader: examples of shapes {shapes} do not stack to a batch; pad or crop them to one shape"
        )
    return np.stack(arrays)


def _rebuilt(like: tuple[Any, ...], values: Sequence[Any]) -> Any:
    """A tuple of the same kind; named tuples take their values one by one."""
    return type(like)(*values) if hasattr(like, "_fields") else tuple(values)


def _structure(example: Any) -> Any:
    """What examples need to have in common: the names of a dict, the length of a tuple."""
    return frozenset(example) if isinstance(example, dict) else len(example) if isinstance(example, tuple) else None
