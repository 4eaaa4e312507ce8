"""Random functions: each draws from an explicit generator, and the draw is a recorded call."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import defstopped, primitive, state

__all__ = ["dropout", "feature_dropout", "uniform_like"]


@of_arrays
@primitive
def uniform_like(x: Any, rng: np.random.Generator) -> Any:
    """Numbers drawn evenly from [0, 1), as many as x has, of its dtype; the gradient stops here.

    Shape: (...) -> (...)

    >>> uniform_like(np.zeros(2), np.random.default_rng(0)).round(4)
    array([0.637 , 0.2698])
    """
    if state.generators is not None:  # so that a checkpoint can draw the same numbers again
        state.generators.setdefault(id(rng), (rng, rng.bit_generator.state))
    if x.dtype == np.float64:
        return rng.random(x.shape)
    return rng.random(x.shape, np.float32).astype(x.dtype, copy=False)


defstopped(uniform_like)


@of_arrays
def dropout(x: Any, rate: float = 0.5, rng: np.random.Generator | None = None, training: bool = True) -> Any:
    """In training, 0 with probability `rate` and x / (1 - rate) otherwise (Srivastava et al. 2014); else x itself.

    Shape: (...) -> (...)

    Raises ValueError for a rate outside [0, 1], TypeError where no generator is given in training.

    >>> dropout(np.ones(6), 0.5, np.random.default_rng(0))
    array([2., 0., 0., 0., 2., 2.])
    """
    return _dropped("dropout", x, x, rate, rng, training)


@of_arrays
def feature_dropout(x: Any, rate: float = 0.5, rng: np.random.Generator | None = None, training: bool = True) -> Any:
    """In training, each channel of each example as a whole 0 with probability `rate` (Tompson et al. 2015).

    Shape: (N, channels, ...) -> (N, channels, ...)

    Raises ValueError for shapes that do not fit and for a rate outside [0, 1], TypeError where no generator is given in
    training.

    >>> feature_dropout(np.ones((1, 4, 2)), 0.5, np.random.default_rng(0))[:, :, 0]
    array([[2., 0., 0., 0.]])
    """
    if x.ndim < 2:
        raise ValueError(f"feature_dropout: x has shape {x.shape}; it needs (N, channels, ...)")
    one_of_each = x[(slice(None),) * 2 + (slice(1),) * (x.ndim - 2)]
    return _dropped("feature_dropout", x, one_of_each, rate, rng, training)


def _dropped(name: str, x: Any, like: Any, rate: float, rng: Any, training: bool) -> Any:
    """Dropout of x with one draw for each element of `like`, which is broadcast to x."""
    if not 0 <= rate <= 1:
        raise ValueError(f"{name}: rate={rate} is a probability; it lies between 0 and 1")
    if not training or rate == 0:
        return x
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"{name}: it draws from a generator of yours; pass rng=np.random.default_rng(seed)")
    if rate == 1:
        return x * 0
    return x * (uniform_like(like, rng) >= rate) * (1 / (1 - rate))
