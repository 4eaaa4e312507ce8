"""Normalization: numbers shifted and scaled to mean 0 and variance 1 along some axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import defvjp, named_call, primitive

__all__ = ["batch_norm", "group_norm", "layer_norm", "rms_norm", "standardize"]


@primitive
def standardize(x: Any, axes: tuple[int, ...], epsilon: float = 1e-5) -> Any:
    """(x - mean) / sqrt(variance + epsilon) along some axes, and the mean and the variance (axes kept, length 1).

    Shape: (..., n, ...) -> (..., n, ...), (..., 1, ...), (..., 1, ...)

    >>> y, mean, variance = standardize(np.array([1.0, 3.0]), (0,), 0.0)
    >>> y, mean, variance
    (array([-1.,  1.]), array([2.]), array([1.]))
    """
    mean = np.mean(x, axis=axes, keepdims=True)
    y = x - mean
    variance = np.mean(y * y, axis=axes, keepdims=True)
    y /= np.sqrt(variance + epsilon)
    return y, mean, variance


def _standardize_back(g: Any, y: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    """(g - mean(g) - y mean(g y)) / deviation; what the mean and the variance receive joins the two small means."""
    (g, to_mean, to_variance), (y, _, variance) = g, y
    n = max(math.prod(y.shape[a] for a in axes), 1)
    deviation = np.sqrt(variance + epsilon)
    shift = np.mean(g, axis=axes, keepdims=True) - to_mean * deviation / n
    scale = np.mean(g * y, axis=axes, keepdims=True) - to_variance * deviation * deviation * (2 / n)
    return (g - shift - y * scale) / deviation


defvjp(
    standardize,
    lambda g, y, x, axes, epsilon=1e-5: _standardize_back(g, y, axes, epsilon),
    signature="(..., n, ...) -> (..., n, ...), (..., 1, ...), (..., 1, ...)",
)


@of_arrays
@named_call
def layer_norm(
    x: Any, normalized_shape: int | tuple[int, ...], weight: Any = None, bias: Any = None, epsilon: float = 1e-5
) -> Any:
    """Layer normalization: each example standardized over its last axes, then scaled and shifted (Ba et al. 2016).

    `normalized_shape` is the shape of those last axes, and of `weight` and `bias`.

    Shape: (..., *normalized_shape) -> (..., *normalized_shape)

    Raises ValueError for shapes that do not fit, TypeError for different dtypes.

    >>> layer_norm(np.array([[1.0, 3.0]]), 2, epsilon=0.0)
    array([[-1.,  1.]])
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"layer_norm: the last axes of {x.shape} are not normalized_shape={shape}")
    for what, other in (("weight", weight), ("bias", bias)):
        _check("layer_norm", what, other, shape, x)
    y, _, _ = standardize(x, tuple(range(x.ndim - len(shape), x.ndim)), epsilon)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


@of_arrays
@named_call
def rms_norm(x: Any, normalized_shape: int | tuple[int, ...], weight: Any = None, epsilon: float | None = None) -> Any:
    """Root mean square normalization: x / sqrt(mean(x^2) + epsilon), then scaled (Zhang and Sennrich 2019).

    The mean is over the last axes, the scale elementwise.

    `normalized_shape` is the shape of those last axes, and of `weight`; `epsilon` is the dtype's machine epsilon unless
    given, as in PyTorch.

    Shape: (..., *normalized_shape) -> (..., *normalized_shape)

    Raises ValueError for shapes that do not fit, TypeError for different dtypes.

    >>> rms_norm(np.array([[3.0, 4.0]]), 2, epsilon=0.0).round(4)
    array([[0.8485, 1.1314]])
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"rms_norm: the last axes of {x.shape} are not normalized_shape={shape}")
    _check("rms_norm", "weight", weight, shape, x)
    epsilon = float(np.finfo(x.dtype).eps) if epsilon is None else epsilon
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    y = x / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + epsilon)
    return y if weight is None else y * weight


@of_arrays
@named_call
def group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, epsilon: float = 1e-5) -> Any:
    """Group normalization: each group of channels of each example standardized (Wu and He 2018).

    Then each channel is scaled and shifted. With as many groups as channels this is instance normalization (Ulyanov et
    al. 2016).

    Shape: (N, channels, ...) -> (N, channels, ...)

    Raises ValueError for shapes that do not fit, TypeError for different dtypes.

    >>> group_norm(np.array([[1.0, 3.0, 5.0, 5.0]]), 2, epsilon=1e-9).round(3)
    array([[-1.,  1.,  0.,  0.]])
    """
    if x.ndim < 2:
        raise ValueError(f"group_norm: x has shape {x.shape}; it needs (N, channels, ...)")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"group_norm: {channels} channels do not divide into groups={groups}")
    for what, other in (("weight", weight), ("bias", bias)):
        _check("group_norm", what, other, (channels,), x)
    over = (-1, *(1,) * (x.ndim - 2))  # the shape in which channels meet x
    size = channels // groups * math.prod(x.shape[2:])
    y, _, _ = standardize(x.reshape(x.shape[0], groups, size), (2,), epsilon)
    y = y.reshape(x.shape)
    if weight is not None:
        y = y * weight.reshape(over)
    return y if bias is None else y + bias.reshape(over)


@of_arrays
@named_call
def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_variance: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    epsilon: float = 1e-5,
) -> Any:
    """Batch normalization: each channel standardized over the batch, then scaled and shifted (Ioffe and Szegedy 2015).

    In training, the mean and the variance are those of this batch, and the running ones (Buffers) become
    (1 - momentum) running + momentum batch (with the unbiased variance, as in PyTorch). Otherwise the running ones are
    used.

    Shape: (N, channels) -> (N, channels), (N, channels, ...) -> (N, channels, ...)

    Raises ValueError for shapes that do not fit, for a batch with one number a channel in training and for missing
    statistics otherwise, TypeError for different dtypes.

    >>> batch_norm(np.array([[1.0], [3.0]]), training=True, epsilon=0.0)
    array([[-1.],
           [ 1.]])
    """
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x has shape {x.shape}; it needs (N, channels) or (N, channels, ...)")
    channels = x.shape[1:2]
    named = {"running_mean": running_mean, "running_variance": running_variance, "weight": weight, "bias": bias}
    for what, other in named.items():
        _check("batch_norm", what, other, channels, x)
    axes = (0, *range(2, x.ndim))
    over = (-1, *(1,) * (x.ndim - 2))  # the shape in which channels meet x
    if training:
        n = math.prod(x.shape[a] for a in axes)
        if n < 2:
            raise ValueError(
                f"batch_norm: x of shape {x.shape} has {n} value for each channel, which has no variance; "
                "train on larger batches, or call model.eval() first"
            )
        y, mean, variance = standardize(x, axes, epsilon)
        if running_mean is not None:
            running_mean.assign(running_mean * (1 - momentum) + mean.reshape(-1) * momentum)
        if running_variance is not None:
            unbiased = variance.reshape(-1) * (n / (n - 1))
            running_variance.assign(running_variance * (1 - momentum) + unbiased * momentum)
    elif running_mean is None or running_variance is None:
        raise ValueError("batch_norm: without running statistics it works in training only; pass training=True")
    else:
        deviation = np.sqrt(running_variance + epsilon)
        y = (x - running_mean.reshape(over)) / deviation.reshape(over)
    if weight is not None:
        y = y * weight.reshape(over)
    return y if bias is None else y + bias.reshape(over)


def _check(name: str, what: str, other: Any, shape: tuple[int, ...], x: Any) -> None:
    if other is None:
        return
    if other.shape != shape:
        raise ValueError(f"{name}: {what} has shape {other.shape}; x of shape {x.shape} needs {shape}")
    if other.dtype != x.dtype:
        raise TypeError(f"{name}: x is {x.dtype}, {what} {other.dtype}; write x.astype(np.{other.dtype})")
