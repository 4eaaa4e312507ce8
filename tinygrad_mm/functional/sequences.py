"""Functions of sequences."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import defvjp, primitive

__all__ = ["rotary", "sequence_mask", "sinusoids", "unstack"]


@primitive
def unstack(x: Any, axis: int = 0) -> Any:
    """All x[..., i, ...] along an axis: one call for a loop over time, whose gradient is put together once.

    Shape: (..., n, ...) -> n times (..., ...)

    >>> unstack(np.eye(2))
    (array([1., 0.]), array([0., 1.]))
    """
    return tuple(np.moveaxis(x, axis, 0))


defvjp(unstack, lambda g, y, x, axis=0: np.stack(g, axis=axis), signature="(..., n, ...) -> (..., ...), ...")


@of_arrays
def sequence_mask(lengths: Any, steps: int) -> Any:
    """The mask of sequences of different lengths: True for the first `length` of `steps` steps, False for padding.

    Shape: (...) -> (..., steps)

    >>> sequence_mask(np.array([2, 0]), 3)
    array([[ True,  True, False],
           [False, False, False]])
    """
    return np.arange(steps) < lengths[..., None]


@functools.lru_cache(32)
def sinusoids(positions: int, features: int, start: int = 0, base: float = 10000.0) -> np.ndarray[Any, Any]:
    """The sine and the cosine of each position times each of falling frequencies, in turns (Vaswani et al. 2017).

    Feature 2 i is sin(position / base^(2 i / features)), feature 2 i + 1 the cosine of the same; positions count from
    `start`. In float64, and not to be written to.

    Shape: -> (positions, features)

    >>> sinusoids(2, 4).round(2)
    array([[0.  , 1.  , 0.  , 1.  ],
           [0.84, 0.54, 0.01, 1.  ]])
    """
    angles = np.arange(start, start + positions)[:, None] * base ** (-np.arange(0, features, 2) / features)
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(positions, -1)[:, :features]
    table.flags.writeable = False
    return table


@of_arrays
def rotary(x: Any, start: int = 0, base: float = 10000.0) -> Any:
    """Rotary position embedding: neighbouring features turned in pairs, by the position (RoPE, Su et al. 2021).

    The dot product of two rotated vectors depends on the distance of their positions only. Features 2 i and 2 i + 1
    are turned by the angle position / base^(2 i / features); positions count from `start`.

    Shape: (..., positions, features) -> (..., positions, features)

    Raises ValueError for an odd number of features.

    >>> rotary(np.ones((2, 2))).round(2)
    array([[ 1.  ,  1.  ],
           [-0.3 ,  1.38]])
    """
    *_, positions, features = x.shape
    if features % 2:
        raise ValueError(f"rotary: x of shape {x.shape} has {features} features, which do not make pairs")
    table = sinusoids(positions, features, start, base).astype(x.dtype)
    sin, cos = table[:, 0::2, None], table[:, 1::2, None]
    pairs = x.reshape(*x.shape[:-1], features // 2, 2)
    turned = np.concatenate([-pairs[..., 1:], pairs[..., :1]], axis=-1)
    return (pairs * cos + turned * sin).reshape(x.shape)
