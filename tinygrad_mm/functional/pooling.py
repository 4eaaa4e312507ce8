"""Pooling of images, (N, channels, height, width), and of sequences, (N, channels, length): one number a window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.sliding import (
    Pairs,
    Sizes,
    check_images,
    cropped,
    fit,
    offsets,
    one,
    padded,
    padding_pairs,
    places_of,
    two,
    windows,
)
from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import defvjp, named_call, primitive

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "max_pool1d",
    "max_pool2d",
]


@of_arrays
def max_pool2d(
    x: Any,
    kernel_size: int | Sizes,
    stride: int | Sizes | None = None,
    padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
) -> Any:
    """Max pooling: the largest number under a window that slides by `stride` (by default its own size).

    Padding counts as -inf. Where several are largest they share the gradient.

    Shape: (N, C, height, width) -> (N, C, height', width'), as for `conv2d`

    Raises ValueError for shapes and options that do not fit.

    >>> max_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """
    check_images("max_pool2d", x)
    size, stride, pairs = _pooling("max_pool2d", kernel_size, stride, padding)
    dilation = two("max_pool2d", "dilation", dilation)
    fit("max_pool2d", x, size, stride, pairs, dilation)
    return _max_pool(x, size, stride, pairs, dilation)


@of_arrays
@named_call
def avg_pool2d(
    x: Any,
    kernel_size: int | Sizes,
    stride: int | Sizes | None = None,
    padding: int | Sizes = 0,
    count_include_pad: bool = True,
) -> Any:
    """Average pooling: the mean under a window that slides by `stride` (by default its own size).

    Padding counts as zeros, or with `count_include_pad=False` not at all.

    Shape: (N, C, height, width) -> (N, C, height', width'), as for `conv2d`

    Raises ValueError for shapes and options that do not fit.

    >>> avg_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), 2)
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """
    check_images("avg_pool2d", x)
    size, stride, pairs = _pooling("avg_pool2d", kernel_size, stride, padding)
    places = fit("avg_pool2d", x, size, stride, pairs, (1, 1))
    if stride == size and tuple(p * k for p, k in zip(places, size, strict=True)) == x.shape[2:]:
        tiles = x.reshape(*x.shape[:2], places[0], size[0], places[1], size[1])  # windows that tile need no copy
        return np.mean(tiles, axis=(3, 5))
    patches = windows(x, size, stride, pairs, (1, 1)).reshape(*x.shape[:2], math.prod(size), *places)
    if count_include_pad:
        return np.mean(patches, axis=2)
    inside = windows(np.ones((1, 1, *x.shape[2:]), x.dtype), size, stride, pairs, (1, 1))
    return np.sum(patches, axis=2) / np.sum(inside, axis=1).reshape(places)


@of_arrays
def max_pool1d(x: Any, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1) -> Any:
    """Max pooling of sequences: the largest number under a sliding window; the options are those of `max_pool2d`.

    Shape: (N, C, length) -> (N, C, length'), as for `conv1d`

    Raises ValueError for shapes and options that do not fit.

    >>> max_pool1d(np.arange(4.0).reshape(1, 1, 4), 2)
    array([[[1., 3.]]])
    """
    size, steps, pad = _pooling1d("max_pool1d", x, kernel_size, stride, padding)
    gap = one("max_pool1d", "dilation", dilation)
    fit("max_pool1d", x, (size,), (steps,), ((pad, pad),), (gap,))
    return np.squeeze(max_pool2d(np.expand_dims(x, 2), (1, size), (1, steps), (0, pad), (1, gap)), 2)


@of_arrays
@named_call
def avg_pool1d(
    x: Any, kernel_size: int, stride: int | None = None, padding: int = 0, count_include_pad: bool = True
) -> Any:
    """Average pooling of sequences: the mean under a sliding window; the options are those of `avg_pool2d`.

    Shape: (N, C, length) -> (N, C, length'), as for `conv1d`

    Raises ValueError for shapes and options that do not fit.

    >>> avg_pool1d(np.arange(4.0).reshape(1, 1, 4), 2)
    array([[[0.5, 2.5]]])
    """
    size, steps, pad = _pooling1d("avg_pool1d", x, kernel_size, stride, padding)
    fit("avg_pool1d", x, (size,), (steps,), ((pad, pad),), (1,))
    return np.squeeze(avg_pool2d(np.expand_dims(x, 2), (1, size), (1, steps), (0, pad), count_include_pad), 2)


@of_arrays
@named_call
def adaptive_avg_pool2d(x: Any, output_size: int | tuple[int | None, int | None]) -> Any:
    """Adaptive average pooling: the means of `output_size` windows of nearly the same size; None keeps an axis.

    Window i begins at floor(i height / height') and ends before ceil((i + 1) height / height'), as in PyTorch. A mean
    is a product with a matrix for each axis.

    Shape: (N, C, height, width) -> (N, C, *output_size)

    Raises ValueError for shapes that do not fit.

    >>> adaptive_avg_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), (1, 2))
    array([[[[3.5, 4.5]]]])
    """
    return _adaptive_avg("adaptive_avg_pool2d", x, output_size, 2)


@of_arrays
@named_call
def adaptive_avg_pool1d(x: Any, output_size: int) -> Any:
    """`adaptive_avg_pool2d` for sequences.

    Shape: (N, C, length) -> (N, C, output_size)

    Raises ValueError for shapes that do not fit.

    >>> adaptive_avg_pool1d(np.arange(3.0).reshape(1, 1, 3), 2)
    array([[[0.5, 1.5]]])
    """
    return _adaptive_avg("adaptive_avg_pool1d", x, output_size, 1)


@of_arrays
@named_call
def adaptive_max_pool2d(x: Any, output_size: int | tuple[int | None, int | None]) -> Any:
    """Adaptive max pooling: the largest numbers in the windows of `adaptive_avg_pool2d`; ties share the gradient.

    Shape: (N, C, height, width) -> (N, C, *output_size)

    Raises ValueError for shapes that do not fit.

    >>> adaptive_max_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), (1, 2))
    array([[[[7., 8.]]]])
    """
    return _adaptive_max("adaptive_max_pool2d", x, output_size, 2)


@of_arrays
@named_call
def adaptive_max_pool1d(x: Any, output_size: int) -> Any:
    """`adaptive_max_pool2d` for sequences.

    Shape: (N, C, length) -> (N, C, output_size)

    Raises ValueError for shapes that do not fit.

    >>> adaptive_max_pool1d(np.arange(3.0).reshape(1, 1, 3), 2)
    array([[[1., 2.]]])
    """
    return _adaptive_max("adaptive_max_pool1d", x, output_size, 1)


def _adaptive_avg(name: str, x: Any, output_size: Any, axes: int) -> Any:
    for axis, ends in zip(range(2, 2 + axes), _adaptive(name, x, output_size, axes), strict=True):
        length = x.shape[axis]
        if len(ends) == 1:
            x = np.mean(x, axis=axis, keepdims=True)
        elif ends != [(i, i + 1) for i in range(length)]:
            places = np.arange(length)
            starts, stops = np.array(ends).T[..., None]
            matrix = ((places >= starts) & (places < stops)) / (stops - starts)  # (length', length)
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T.astype(x.dtype), -1, axis)
    return x


def _adaptive_max(name: str, x: Any, output_size: Any, axes: int) -> Any:
    for axis, ends in zip(range(2, 2 + axes), _adaptive(name, x, output_size, axes), strict=True):
        indices = [(slice(None),) * axis + (slice(start, stop),) for start, stop in ends]
        parts = [x[index] for index in indices]
        x = np.concatenate([np.max(part, axis=axis, keepdims=True) for part in parts], axis=axis)
    return x


def _adaptive(name: str, x: Any, output_size: Any, axes: int) -> list[list[tuple[int, int]]]:
    """(start, stop) of each window, for each axis."""
    check_images(name, x, axes)
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    if len(sizes) != axes or not all(n is None or (isinstance(n, (int, np.integer)) and n > 0) for n in sizes):
        raise ValueError(f"{name}: output_size={output_size!r} must be a positive integer, or {axes} of them or None")
    if 0 in x.shape[2:]:
        raise ValueError(f"{name}: x of shape {x.shape} has nothing to pool")
    found = []
    for length, size in zip(x.shape[2:], sizes, strict=True):
        n = length if size is None else int(size)
        found.append([(i * length // n, -(-(i + 1) * length // n)) for i in range(n)])
    return found


@primitive
def _max_pool(x: Any, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """The largest under each place of the window."""
    x = padded(x, padding, -math.inf)
    places = places_of(x.shape[2:], size, stride, dilation)
    (_, first), *others = offsets(size, stride, dilation, places)
    y = x[first].copy()
    for _, under in others:
        np.maximum(y, x[under], out=y)
    return y


@primitive
def _to_maxima(g: Any, y: Any, x: Any, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """Numbers, one for each place of the window, sent to where the maxima were: equal parts where there are several."""
    x = padded(x, padding, -math.inf)
    under, largest = _maxima(y, x, size, stride, dilation)
    part = g / _count(largest, g.dtype)
    out = np.zeros(x.shape, part.dtype)
    for place, here in zip(under, largest, strict=True):
        out[place] += part * here
    return cropped(out, padding)


@primitive
def _at_maxima(v: Any, y: Any, x: Any, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """The mean of v over the maxima under each place of the window: the transpose of `_to_maxima`."""
    x, v = padded(x, padding, -math.inf), padded(v, padding, 0.0)
    under, largest = _maxima(y, x, size, stride, dilation)
    out = np.zeros(y.shape, v.dtype)
    for place, here in zip(under, largest, strict=True):
        out += v[place] * here
    return out / _count(largest, v.dtype)


def _maxima(y: Any, x: Any, size: Sizes, stride: Sizes, dilation: Sizes) -> tuple[list[Any], list[Any]]:
    """For each offset in the window, the index of what lies under it, and where that is the maximum."""
    under = [index for _, index in offsets(size, stride, dilation, y.shape[2:])]
    return under, [x[index] == y for index in under]


def _count(largest: list[Any], dtype: Any) -> Any:
    count = np.zeros(largest[0].shape, dtype)
    for here in largest:
        count += here
    return np.maximum(count, 1)  # a maximum of NaN equals nothing


defvjp(
    _max_pool,
    lambda g, y, x, size, stride, padding, dilation: _to_maxima(g, y, x, size, stride, padding, dilation),
    signature="(N, C, h, w) -> (N, C, h', w')",
)
defvjp(
    _to_maxima,
    lambda g, out, v, y, x, size, stride, padding, dilation: _at_maxima(g, y, x, size, stride, padding, dilation),
    None,
    None,
    signature="(N, C, h', w'), (N, C, h', w'), (N, C, h, w) -> (N, C, h, w)",
)
defvjp(
    _at_maxima,
    lambda g, out, v, y, x, size, stride, padding, dilation: _to_maxima(g, y, x, size, stride, padding, dilation),
    None,
    None,
    signature="(N, C, h, w), (N, C, h', w'), (N, C, h, w) -> (N, C, h', w')",
)


def _pooling(name: str, kernel_size: Any, stride: Any, padding: Any) -> tuple[tuple[int, int], tuple[int, int], Pairs]:
    size = two(name, "kernel_size", kernel_size)
    step = size if stride is None else two(name, "stride", stride)
    pairs = padding_pairs(name, padding, size, step, (1, 1))
    if any(2 * p[0] > k for p, k in zip(pairs, size, strict=True)):
        raise ValueError(
            f"{name}: padding={padding} is more than half of the window {size}; use at most {min(size) // 2}"
        )
    return size, step, pairs


def _pooling1d(name: str, x: Any, kernel_size: Any, stride: Any, padding: Any) -> tuple[int, int, int]:
    check_images(name, x, 1)
    size, pad = one(name, "kernel_size", kernel_size), one(name, "padding", padding, least=0)
    if 2 * pad > size:
        raise ValueError(f"{name}: padding={padding} is more than half of the window {size}; use at most {size // 2}")
    return size, size if stride is None else one(name, "stride", stride), pad
