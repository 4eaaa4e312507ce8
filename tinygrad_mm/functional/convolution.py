"""Convolution of images, (N, channels, height, width): one matrix product between a weight and the windows on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.sliding import Sizes, check_images, fit, padding_pairs, two, windows
from tinygrad_mm.graph import named_call

__all__ = ["conv2d"]


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
    """Images filtered: at each place of a sliding window, the products of the weight with what lies under it, summed.

    That is the cross-correlation which networks call convolution. `padding` zeros go to both ends, or as many as keep
    the size with "same", or none with "valid". With `groups`, channels and filters are split into as many parts, and
    each part of the filters sees its part of the channels only.

    Shape: (N, C, height, width), (filters, C / groups, size, size), (filters,) -> (N, filters, height', width') with
    height' = (height + 2 padding - dilation (size - 1) - 1) // stride + 1

    Raises ValueError for shapes and options that do not fit, TypeError for different dtypes.

    >>> conv2d(np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    stride, dilation = two("conv2d", "stride", stride), two("conv2d", "dilation", dilation)
    _check_conv2d(x, weight, bias, groups)
    filters, size = weight.shape[0], weight.shape[2:]
    pairs = padding_pairs("conv2d", padding, size, stride, dilation)
    n, height, width = x.shape[0], *fit("conv2d", x, size, stride, pairs, dilation)

    products = math.prod(weight.shape[1:])  # for one number of the result
    patches = windows(x, size, stride, pairs, dilation).reshape(n, groups, products, height * width)
    kernels = weight.reshape(groups, filters // groups, products)
    y = np.matmul(kernels, patches).reshape(n, filters, height, width)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _check_conv2d(x: Any, weight: Any, bias: Any, groups: int) -> None:
    check_images("conv2d", x)
    if weight.ndim != 4:
        raise ValueError(f"conv2d: weight has shape {weight.shape}; it needs (filters, channels, height, width)")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"conv2d: {weight.shape[0]} filters do not divide into groups={groups}")
    if x.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"conv2d: images of {x.shape[1]} channels, but weight {weight.shape} with groups={groups} filters "
            f"{weight.shape[1] * groups} channels; a weight for these images has shape "
            f"({weight.shape[0]}, {x.shape[1]} / groups, {weight.shape[2]}, {weight.shape[3]})"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"conv2d: bias has shape {bias.shape}; {weight.shape[0]} filters need {weight.shape[:1]}")
    for what, other in (("weight", weight), ("bias", bias)):
        if other is not None and x.dtype != other.dtype:
            raise TypeError(
                f"conv2d: the images are {x.dtype}, the {what} {other.dtype}; write x.astype(np.{other.dtype})"
            )
