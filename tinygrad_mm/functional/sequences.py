"""Functions of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.graph import defvjp, primitive

__all__ = ["unstack"]


@primitive
def unstack(x: Any, axis: int = 0) -> Any:
    """All x[..., i, ...] along an axis: one call for a loop over time, whose gradient is put together once.

    Shape: (..., n, ...) -> n times (..., ...)

    >>> unstack(np.eye(2))
    (array([1., 0.]), array([0., 1.]))
    """
    return tuple(np.moveaxis(x, axis, 0))


defvjp(unstack, lambda g, y, x, axis=0: np.stack(g, axis=axis), signature="(..., n, ...) -> (..., ...), ...")
