"""Layers that normalise, and the one that drops: both behave differently in training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Buffer, Parameter, Tensor

__all__ = ["BatchNorm1d", "BatchNorm2d", "Dropout", "LayerNorm"]


class _BatchNorm(Module):
    """Each channel standardized over the batch in training, with running statistics otherwise; scaled and shifted."""

    torch_names: ClassVar[Mapping[str, str]] = {"running_variance": "running_var"}
    torch_extras = ("num_batches_tracked",)
    axes: tuple[int, ...] = ()

    def __init__(
        self,
        features: int,
        epsilon: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        positive_integers(self, features=features)
        self.features, self.epsilon, self.momentum = int(features), epsilon, momentum
        self.weight = Parameter(init.ones((features,), dtype)) if affine else None
        self.bias = Parameter(init.zeros((features,), dtype)) if affine else None
        self.running_mean = Buffer(init.zeros((features,), dtype)) if track_running_stats else None
        self.running_variance = Buffer(init.ones((features,), dtype)) if track_running_stats else None

    def forward(self, x: Any) -> Tensor:
        """batch_norm(x)"""
        x = as_tensor(x)
        if x.ndim not in self.axes or x.shape[1] != self.features:
            wanted = " or ".join(
                f"(N, {self.features}{', length' * (n == 3)}{', height, width' * (n == 4)})" for n in self.axes
            )
            raise ValueError(f"{self!r} was given {x.shape}; it needs {wanted}")
        return functional.batch_norm(
            x,
            self.running_mean,
            self.running_variance,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            self.momentum,
            self.epsilon,
        )

    def describe(self) -> str:
        """Number of features."""
        return f"{self.features}"


class BatchNorm1d(_BatchNorm):
    """Each feature standardized over the batch, then scaled and shifted (Ioffe and Szegedy 2015).

    In training with the batch's own mean and variance, which move the running ones a share `momentum` of the way;
    in evaluation with the running ones. The scale starts at 1, the shift at 0.

    Shape: (N, features) -> (N, features), (N, features, length) -> (N, features, length)

    Raises ValueError for shapes that do not fit and for a batch of one in training, TypeError for another dtype.

    >>> BatchNorm1d(2)([[1.0, 2.0], [3.0, 6.0]]).data.round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    """

    axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Each channel standardized over the batch and all places, then scaled and shifted (Ioffe and Szegedy 2015).

    In training with the batch's own mean and variance, which move the running ones a share `momentum` of the way;
    in evaluation with the running ones. The scale starts at 1, the shift at 0.

    Shape: (N, features, height, width) -> (N, features, height, width)

    Raises ValueError for shapes that do not fit and for a single place in training, TypeError for another dtype.

    >>> BatchNorm2d(3)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    axes = (4,)


class LayerNorm(Module):
    """Each example standardized over its last axes, then scaled and shifted elementwise (Ba et al. 2016).

    `normalized_shape` is the shape of those axes. The scale starts at 1, the shift at 0.

    Shape: (..., *normalized_shape) -> (..., *normalized_shape)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> LayerNorm(2)([[1.0, 3.0]]).data.round(3)
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        epsilon: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        shape = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        for n in shape:
            positive_integers(self, normalized_shape=n)
        self.normalized_shape, self.epsilon = tuple(int(n) for n in shape), epsilon
        self.weight = Parameter(init.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(init.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Tensor:
        """layer_norm(x)"""
        return functional.layer_norm(as_tensor(x), self.normalized_shape, self.weight, self.bias, self.epsilon)

    def describe(self) -> str:
        """The shape."""
        return f"{self.normalized_shape[0] if len(self.normalized_shape) == 1 else self.normalized_shape}"


class Dropout(Module):
    """In training, each number becomes 0 with probability `rate`, the others grow to make up (Srivastava et al. 2014).

    `rng` is a generator, which several layers may share, or a seed.

    Shape: (...) -> (...)

    Raises ValueError for a rate outside [0, 1].

    >>> Dropout(0.5, rng=0)([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    Tensor([2., 2., 2., 0., 0., 0.], dtype=float32)
    """

    def __init__(self, rate: float = 0.5, rng: init.Rng = None) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"Dropout: rate={rate} is a probability; it lies between 0 and 1")
        self.rate = rate
        self.rng = init.generator(rng)

    def forward(self, x: Any) -> Tensor:
        """dropout(x)"""
        return functional.dropout(as_tensor(x), self.rate, self.rng, self.training)

    def describe(self) -> str:
        """The rate."""
        return f"{self.rate}"
