"""Pooling of images, (N, channels, height, width): one number for what lies under a sliding window."""

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
    padded,
    padding_pairs,
    places_of,
    two,
    windows,
)
from tinygrad_mm.graph import defvjp, named_call, primitive

__all__ = ["avg_pool2d", "max_pool2d"]


def max_pool2d(
    x: Any,
    kernel_size: int | Sizes,
    stride: int | Sizes | None = None,
    padding: int | Sizes = 0,
    dilation: int | Sizes = 1,
) -> Any:
    """The largest number under a window that slides by `stride` (by default its own size).

    Padding never wins. Where several are largest they share the gradient.

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


@named_call
def avg_pool2d(
    x: Any,
    kernel_size: int | Sizes,
    stride: int | Sizes | None = None,
    padding: int | Sizes = 0,
    count_include_pad: bool = True,
) -> Any:
    """The mean of the numbers under a window that slides by `stride` (by default its own size).

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
