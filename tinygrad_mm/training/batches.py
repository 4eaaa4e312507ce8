"""What is input and what is target in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.data import DataLoader
from tinygrad_mm.data.structures import mapped
from tinygrad_mm.tensor import Tensor

__all__ = ["arrays_in", "as_loader", "examples_in", "joined", "parted"]

TARGET = "target"


def as_loader(data: Any, batch_size: int, shuffle: bool, rng: Any) -> Any:
    """Data that come in batches already as they are; anything else in a DataLoader."""
    if isinstance(data, DataLoader) or (hasattr(data, "__iter__") and hasattr(data, "state_dict")):
        return data
    return DataLoader(data, batch_size, shuffle, rng)


def parted(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """(positional inputs, named inputs, target) of a batch.

    >>> parted(("x", "y"))
    (('x',), {}, 'y')
    >>> parted({"words": "x", "target": "y"})
    ((), {'words': 'x'}, 'y')
    """
    if isinstance(batch, tuple) and len(batch) > 1:
        return tuple(batch[:-1]), {}, batch[-1]
    if isinstance(batch, dict) and TARGET in batch and len(batch) > 1:
        return (), {name: value for name, value in batch.items() if name != TARGET}, batch[TARGET]
    found = f"a dict of {', '.join(map(repr, batch))}" if isinstance(batch, dict) else f"a {type(batch).__name__}"
    raise TypeError(
        f"fit: a batch is a tuple (input, ..., target) or a dict with {TARGET!r} and the names of forward's arguments; "
        f"this one is {found}. Give the data as (inputs, targets), or wrap the model"
    )


def examples_in(target: Any) -> int:
    """The number of examples in a batch, by its target."""
    while isinstance(target, (tuple, list, dict)) and target:
        target = next(iter(target.values() if isinstance(target, dict) else target))
    shape = np.shape(target)
    return shape[0] if shape else 1


def joined(parts: list[Any]) -> Any:
    """Batches of predictions or targets as one, along the first axis.

    >>> joined([np.array([1, 2]), np.array([3])])
    array([1, 2, 3])
    """
    first = parts[0]
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, (tuple, list)):
        return tuple(joined(list(column)) for column in zip(*parts, strict=True))
    return np.concatenate([np.atleast_1d(part) for part in parts])


def arrays_in(prediction: Any) -> Any:
    """What a model returned, with arrays in place of Tensors."""
    return mapped(lambda part: part.data if isinstance(part, Tensor) else part, prediction)
