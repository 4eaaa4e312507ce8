"""Convolution of images, (N, channels, height, width), and of sequences, (N, channels, length).

A convolution is one matrix product between a weight and the windows on the images; a transposed one is the same product
the other way round, whose results are added up where the windows lie.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.sliding import (
    KINDS,
    Sizes,
    check_images,
    fit,
    one,
    overlap_add,
    padding_pairs,
    two,
    windows,
)
from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import named_call

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]


@of_arrays
@named_call
def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Sizes = 1,
    padding: int | Sizes | str = 0,
    dilation: int | Sizes = 1,
    groups: int = 1,
) -> Any:
    """2-D convolution: at each place of a sliding window, the products of the weight with what lies under it, summed.

    To be exact, it is the cross-correlation that networks call convolution. `padding` zeros go to both ends, or as many
    as keep the size with "same", or none with "valid". With `groups`, channels and filters are split into parts,
    and each part of the filters sees its part of the channels only.

    Shape: (N, C, height, width), (filters, C / groups, size, size), (filters,) -> (N, filters, height', width') with
    height' = (height + 2 padding - dilation (size - 1) - 1) // stride + 1

    Raises ValueError for shapes and options that do not fit, TypeError for different dtypes.

    >>> conv2d(np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    stride, dilation = two("conv2d", "stride", stride), two("conv2d", "dilation", dilation)
    _check("conv2d", 2, x, weight, bias, groups)
    filters, size = weight.shape[0], weight.shape[2:]
    pairs = padding_pairs("conv2d", padding, size, stride, dilation)
    n, height, width = x.shape[0], *fit("conv2d", x, size, stride, pairs, dilation)

    products = math.prod(weight.shape[1:])  # for one number of the result
    patches = windows(x, size, stride, pairs, dilation).reshape(n, groups, products, height * width)
    kernels = weight.reshape(groups, filters // groups, products)
    y = np.matmul(kernels, patches).reshape(n, filters, height, width)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


@of_arrays
@named_call
def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Any:
    """1-D convolution of sequences: `conv2d` of images of height 1; the options are those of `conv2d`.

    Shape: (N, C, length), (filters, C / groups, size), (filters,) -> (N, filters, length') with
    length' = (length + 2 padding - dilation (size - 1) - 1) // stride + 1

    Raises ValueError for shapes and options that do not fit, TypeError for different dtypes.

    >>> conv1d(np.arange(4.0).reshape(1, 1, 4), np.ones((1, 1, 2)))
    array([[[1., 3., 5.]]])
    """
    steps, gaps = (one("conv1d", "stride", stride),), (one("conv1d", "dilation", dilation),)
    _check("conv1d", 1, x, weight, bias, groups)
    pairs = padding_pairs("conv1d", padding, weight.shape[2:], steps, gaps)
    fit("conv1d", x, weight.shape[2:], steps, pairs, gaps)
    pad: int | Sizes | str = padding if isinstance(padding, str) else (0, *pairs[0][:1])
    images, filters = np.expand_dims(x, 2), np.expand_dims(weight, 2)
    return np.squeeze(conv2d(images, filters, bias, (1, *steps), pad, (1, *gaps), groups), 2)


@of_arrays
@named_call
def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int | Sizes = 1,
    padding: int | Sizes = 0,
    output_padding: int | Sizes = 0,
    groups: int = 1,
    dilation: int | Sizes = 1,
) -> Any:
    """Transposed 2-D convolution: each number spreads the weight around it, and overlaps are added up.

    It is the transpose of `conv2d` as a linear map: the output has the shape of the images of which `conv2d`, with the
    same options, makes the shape of x. Where a stride leaves several such shapes possible, `output_padding` adds to the
    smallest (Zeiler et al. 2010; Dumoulin and Visin 2016).

    Shape: (N, C, height, width), (C, filters / groups, size, size), (filters,) -> (N, filters, height', width') with
    height' = (height - 1) stride - 2 padding + dilation (size - 1) + output_padding + 1

    Raises ValueError for shapes and options that do not fit, TypeError for different dtypes.

    >>> conv_transpose2d(np.ones((1, 1, 1, 2)), np.ones((1, 1, 1, 3)))
    array([[[[1., 2., 2., 1.]]]])
    """
    name = "conv_transpose2d"
    stride, dilation = two(name, "stride", stride), two(name, "dilation", dilation)
    more = two(name, "output_padding", output_padding, least=0)
    _check(name, 2, x, weight, bias, groups, transposed=True)
    n, channels, *places = x.shape
    size, filters = weight.shape[2:], weight.shape[1] * groups
    pairs = padding_pairs(name, padding, size, stride, dilation)
    if isinstance(padding, str):
        raise ValueError(f"{name}: padding={padding!r} goes with conv2d only; give a number of rows to cut off")
    if any(m >= s for m, s in zip(more, stride, strict=True)):
        raise ValueError(f"{name}: output_padding={output_padding} must be smaller than stride={stride}")
    height, width = (
        (p - 1) * s - sum(pair) + d * (k - 1) + m + 1
        for p, s, pair, d, k, m in zip(places, stride, pairs, dilation, size, more, strict=True)
    )
    if min(height, width) < 1:
        raise ValueError(f"{name}: x of shape {x.shape} becomes images of {height} x {width}; use less padding")
    kernels = weight.reshape(groups, channels // groups, filters // groups * math.prod(size)).swapaxes(-1, -2)
    patches = np.matmul(kernels, x.reshape(n, groups, channels // groups, math.prod(places)))
    patches = patches.reshape(n, filters * math.prod(size), math.prod(places))
    y = overlap_add(patches, (n, filters, height, width), size, stride, pairs, dilation)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


@of_arrays
@named_call
def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
) -> Any:
    """Transposed 1-D convolution of sequences: `conv_transpose2d` of images of height 1.

    Shape: (N, C, length), (C, filters / groups, size), (filters,) -> (N, filters, length') with
    length' = (length - 1) stride - 2 padding + dilation (size - 1) + output_padding + 1

    Raises ValueError for shapes and options that do not fit, TypeError for different dtypes.

    >>> conv_transpose1d(np.ones((1, 1, 2)), np.ones((1, 1, 3)))
    array([[[1., 2., 2., 1.]]])
    """
    name = "conv_transpose1d"
    numbers = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    s, p, m, d = (one(name, what, value, least=int("padding" not in what)) for what, value in numbers.items())
    _check(name, 1, x, weight, bias, groups, transposed=True)
    images, filters = np.expand_dims(x, 2), np.expand_dims(weight, 2)
    y = conv_transpose2d(images, filters, bias, (1, s), (0, p), (0, m), groups, (1, d))
    return np.squeeze(y, 2)


def _check(name: str, axes: int, x: Any, weight: Any, bias: Any, groups: int, transposed: bool = False) -> None:
    check_images(name, x, axes)
    kinds = KINDS[axes][0]
    window = "(filters, channels, length)" if axes == 1 else "(filters, channels, height, width)"
    if weight.ndim != axes + 2:
        wanted = window.replace("filters, channels", "channels, filters") if transposed else window
        raise ValueError(f"{name}: weight has shape {weight.shape}; it needs {wanted}")
    sizes = ", ".join(map(str, weight.shape[2:]))
    if transposed:
        if groups < 1 or weight.shape[0] % groups:
            raise ValueError(f"{name}: {weight.shape[0]} channels do not divide into groups={groups}")
        if x.shape[1] != weight.shape[0]:
            raise ValueError(
                f"{name}: {kinds} of {x.shape[1]} channels, but weight {weight.shape} is for {weight.shape[0]} "
                f"channels; a weight for these {kinds} has shape ({x.shape[1]}, {weight.shape[1]}, {sizes})"
            )
    else:
        if groups < 1 or weight.shape[0] % groups:
            raise ValueError(f"{name}: {weight.shape[0]} filters do not divide into groups={groups}")
        if x.shape[1] != weight.shape[1] * groups:
            raise ValueError(
                f"{name}: {kinds} of {x.shape[1]} channels, but weight {weight.shape} with groups={groups} filters "
                f"{weight.shape[1] * groups} channels; a weight for these {kinds} has shape "
                f"({weight.shape[0]}, {x.shape[1]} / groups, {sizes})"
            )
    filters = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None and bias.shape != (filters,):
        raise ValueError(f"{name}: bias has shape {bias.shape}; {filters} filters need {(filters,)}")
    for what, other in (("weight", weight), ("bias", bias)):
        if other is not None and x.dtype != other.dtype:
            raise TypeError(
                f"{name}: the {kinds} are {x.dtype}, the {what} {other.dtype}; write x.astype(np.{other.dtype})"
            )
