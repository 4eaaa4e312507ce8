"""Where in a sequence something stands, added to what it is: attention by itself knows no order."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["LearnedPositions", "SinusoidalPositions"]


class SinusoidalPositions(Module):
    """x plus the sines and cosines of its positions (Vaswani et al. 2017): nothing is learned, any length will do.

    `layer(x, start=5)` counts positions from 5. For positions that turn queries and keys instead of being added, see
    `MultiHeadAttention(rotary=True)`.

    Shape: (..., positions, features) -> (..., positions, features)

    Raises ValueError for another number of features.

    >>> SinusoidalPositions(4)(np.zeros((2, 4), np.float32)).data.round(2)
    array([[0.  , 1.  , 0.  , 1.  ],
           [0.84, 0.54, 0.01, 1.  ]], dtype=float32)
    """

    def __init__(self, features: int, base: float = 10000.0) -> None:
        positive_integers(self, features=features)
        self.features, self.base = int(features), base

    def forward(self, x: Any, start: int = 0) -> Tensor:
        """X + sinusoids(positions, features)"""
        x = as_tensor(x)
        _check(self, x, self.features)
        return x + functional.sinusoids(x.shape[-2], self.features, start, self.base).astype(x.dtype)

    def describe(self) -> str:
        """Number of features, and the base where it is not the usual one."""
        return f"{self.features}{'' if self.base == 10000.0 else f', base={self.base:g}'}"


class LearnedPositions(Module):
    """x plus a row of features for each position, which is learned (Gehring et al. 2017).

    The weight, of shape (positions, features), starts normal with deviation 0.02 (Devlin et al. 2019).
    `layer(x, start=5)` counts positions from 5.

    Shape: (..., positions, features) -> (..., positions, features)

    Raises ValueError for another number of features and for positions beyond the last row, TypeError for another dtype.

    >>> LearnedPositions(16, 4, rng=0)(np.zeros((3, 10, 4), np.float32)).shape
    (3, 10, 4)
    """

    def __init__(self, positions: int, features: int, *, rng: init.Rng = None, dtype: Any = np.float32) -> None:
        positive_integers(self, positions=positions, features=features)
        self.positions, self.features = int(positions), int(features)
        self.weight = Parameter((0.02 * init.generator(rng).standard_normal((positions, features))).astype(dtype))

    def forward(self, x: Any, start: int = 0) -> Tensor:
        """X + weight[start : start + positions]"""
        x = as_tensor(x)
        _check(self, x, self.features)
        stop = start + x.shape[-2]
        if start < 0 or stop > self.positions:
            raise ValueError(
                f"{self!r} was asked for positions {start}..{stop - 1}, but has rows 0..{self.positions - 1} only; "
                f"did you mean LearnedPositions({stop}, {self.features})?"
            )
        if x.dtype != self.weight.dtype:
            raise TypeError(
                f"LearnedPositions: the input is {x.dtype}, the weight {self.weight.dtype}; "
                f"write x.astype(np.{self.weight.dtype})"
            )
        return x + self.weight[start:stop]

    def describe(self) -> str:
        """Sizes."""
        return f"{self.positions}, {self.features}"


def _check(layer: Module, x: Tensor, features: int) -> None:
    if x.ndim < 2 or x.shape[-1] != features:
        raise ValueError(f"{layer!r} was given {x.shape}; it needs (..., positions, {features})")
