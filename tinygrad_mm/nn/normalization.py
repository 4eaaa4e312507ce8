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

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "LayerNorm",
    "RMSNorm",
]


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
    """Batch normalization: each feature standardized over the batch, scaled and shifted (Ioffe and Szegedy 2015).

    In training with the batch's own mean and variance, and the running ones become (1 - momentum) running + momentum
    batch; in evaluation with the running ones. The scale starts at 1, the shift at 0.

    Shape: (N, features) -> (N, features), (N, features, length) -> (N, features, length)

    Raises ValueError for shapes that do not fit and for a batch of one in training, TypeError for another dtype.

    >>> BatchNorm1d(2)([[1.0, 2.0], [3.0, 6.0]]).data.round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    """

    axes = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalization: each channel standardized over batch and places, scaled, shifted (Ioffe and Szegedy 2015).

    In training with the batch's own mean and variance, and the running ones become (1 - momentum) running + momentum
    batch; in evaluation with the running ones. The scale starts at 1, the shift at 0.

    Shape: (N, features, height, width) -> (N, features, height, width)

    Raises ValueError for shapes that do not fit and for a single place in training, TypeError for another dtype.

    >>> BatchNorm2d(3)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    axes = (4,)


class LayerNorm(Module):
    """Layer normalization: each example standardized over its last axes, then scaled and shifted (Ba et al. 2016).

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
        self.normalized_shape, self.epsilon = _shape(self, normalized_shape), epsilon
        self.weight = Parameter(init.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(init.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Tensor:
        """layer_norm(x)"""
        return functional.layer_norm(as_tensor(x), self.normalized_shape, self.weight, self.bias, self.epsilon)

    def describe(self) -> str:
        """The shape."""
        return _described(self.normalized_shape)


class RMSNorm(Module):
    """RMS normalization: each example divided by its root mean square, then scaled (Zhang and Sennrich 2019).

    `normalized_shape` is the shape of the last axes, over which the mean is taken; `epsilon` is the dtype's machine
    epsilon unless given, as in PyTorch. The scale starts at 1.

    Shape: (..., *normalized_shape) -> (..., *normalized_shape)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> RMSNorm(2)([[3.0, 4.0]]).data.round(3)
    array([[0.849, 1.131]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        epsilon: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.normalized_shape, self.epsilon = _shape(self, normalized_shape), epsilon
        self.weight = Parameter(init.ones(self.normalized_shape, dtype)) if elementwise_affine else None

    def forward(self, x: Any) -> Tensor:
        """rms_norm(x)"""
        return functional.rms_norm(as_tensor(x), self.normalized_shape, self.weight, self.epsilon)

    def describe(self) -> str:
        """The shape."""
        return _described(self.normalized_shape)


class GroupNorm(Module):
    """Group normalization: each group of channels of each example standardized (Wu and He 2018).

    Then each channel is scaled (from 1) and shifted (from 0).

    Shape: (N, channels, ...) -> (N, channels, ...)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> GroupNorm(2, 6)(np.ones((3, 6, 4, 4), np.float32)).shape
    (3, 6, 4, 4)
    """

    def __init__(
        self, groups: int, channels: int, epsilon: float = 1e-5, affine: bool = True, *, dtype: Any = np.float32
    ) -> None:
        positive_integers(self, groups=groups, channels=channels)
        if channels % groups:
            raise ValueError(f"{type(self).__name__}: {channels} channels do not divide into groups={groups}")
        self.groups, self.channels, self.epsilon = int(groups), int(channels), epsilon
        self.weight = Parameter(init.ones((channels,), dtype)) if affine else None
        self.bias = Parameter(init.zeros((channels,), dtype)) if affine else None

    def forward(self, x: Any) -> Tensor:
        """group_norm(x, groups)"""
        x = as_tensor(x)
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ValueError(f"{self!r} was given {x.shape}; it needs (N, {self.channels}, ...)")
        return functional.group_norm(x, self.groups, self.weight, self.bias, self.epsilon)

    def describe(self) -> str:
        """Sizes."""
        return f"{self.groups}, {self.channels}"


class _InstanceNorm(GroupNorm):
    """A group for each channel."""

    axes: ClassVar[int]

    def __init__(self, features: int, epsilon: float = 1e-5, affine: bool = False, *, dtype: Any = np.float32) -> None:
        positive_integers(self, features=features)
        super().__init__(features, features, epsilon, affine, dtype=dtype)

    def forward(self, x: Any) -> Tensor:
        """group_norm(x, channels)"""
        x = as_tensor(x)
        if x.ndim != 2 + self.axes:
            wanted = f"(N, {self.channels}, {'length' if self.axes == 1 else 'height, width'})"
            raise ValueError(f"{self!r} was given {x.shape}; it needs {wanted}")
        return super().forward(x)

    def describe(self) -> str:
        """Number of features."""
        return f"{self.channels}"


class InstanceNorm1d(_InstanceNorm):
    """Instance normalization: each channel of each sequence standardized (Ulyanov et al. 2016).

    With `affine`, channels are then scaled (from 1) and shifted (from 0).

    Shape: (N, features, length) -> (N, features, length)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> InstanceNorm1d(1)([[[1.0, 3.0]]]).data.round(3)
    array([[[-1.,  1.]]], dtype=float32)
    """

    axes = 1


class InstanceNorm2d(_InstanceNorm):
    """Instance normalization: each channel of each image standardized (Ulyanov et al. 2016).

    With `affine`, channels are then scaled (from 1) and shifted (from 0).

    Shape: (N, features, height, width) -> (N, features, height, width)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> InstanceNorm2d(3)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    axes = 2


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
            raise ValueError(f"{type(self).__name__}: rate={rate} is a probability; it lies between 0 and 1")
        self.rate = rate
        self.rng = init.generator(rng)

    def forward(self, x: Any) -> Tensor:
        """dropout(x)"""
        return functional.dropout(as_tensor(x), self.rate, self.rng, self.training)

    def describe(self) -> str:
        """The rate."""
        return f"{self.rate}"


class _FeatureDropout(Dropout):
    axes: ClassVar[int]

    def forward(self, x: Any) -> Tensor:
        """feature_dropout(x)"""
        x = as_tensor(x)
        if x.ndim != 2 + self.axes:
            wanted = f"(N, channels, {'length' if self.axes == 1 else 'height, width'})"
            raise ValueError(f"{self!r} was given {x.shape}; it needs {wanted}")
        return functional.feature_dropout(x, self.rate, self.rng, self.training)


class Dropout1d(_FeatureDropout):
    """In training, each channel of a sequence as a whole becomes 0 with probability `rate` (Tompson et al. 2015).

    Shape: (N, channels, length) -> (N, channels, length)

    Raises ValueError for a rate outside [0, 1] and shapes that do not fit.

    >>> Dropout1d(0.5, rng=0)(np.ones((1, 2, 3), np.float32)).data
    array([[[2., 2., 2.],
            [2., 2., 2.]]], dtype=float32)
    """

    axes = 1


class Dropout2d(_FeatureDropout):
    """In training, each channel of an image as a whole becomes 0 with probability `rate` (Tompson et al. 2015).

    Shape: (N, channels, height, width) -> (N, channels, height, width)

    Raises ValueError for a rate outside [0, 1] and shapes that do not fit.

    >>> Dropout2d(0.5, rng=0)(np.ones((1, 4, 1, 2), np.float32)).data[0, :, 0]
    array([[2., 2.],
           [2., 2.],
           [2., 2.],
           [0., 0.]], dtype=float32)
    """

    axes = 2


def _shape(layer: Module, normalized_shape: Any) -> tuple[int, ...]:
    shape = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    for n in shape:
        positive_integers(layer, normalized_shape=n)
    return tuple(int(n) for n in shape)


def _described(shape: tuple[int, ...]) -> str:
    return f"{shape[0] if len(shape) == 1 else shape}"
