"""Functions that choose among elements."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["topk"]


def topk(x: Any, k: int, axis: int = -1, largest: bool = True) -> tuple[Any, Any]:
    """The k largest elements along an axis, largest first (or the smallest, smallest first), and their indices.

    The gradient goes to the elements that were chosen.

    Shape: (..., n) -> (..., k), (..., k)

    Raises ValueError for a k that is larger than the axis, or negative, and for an axis that x lacks.

    >>> topk(np.array([3.0, 9.0, 5.0]), 2)
    (array([9., 5.]), array([1, 2]))
    """
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"topk: x of shape {x.shape} has no axis {axis}")
    axis %= x.ndim
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"topk: k={k} of an axis of length {x.shape[axis]}; x has shape {x.shape}")
    order = np.argsort(x, axis=axis, kind="stable")
    if largest:
        order = np.flip(order, axis)
    places = order[(slice(None),) * axis + (slice(k),)]
    return np.take_along_axis(x, places, axis=axis), places
