"""Layers for images, (N, channels, height, width)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["AvgPool2d", "Conv2d", "MaxPool2d"]

Sizes: TypeAlias = "int | tuple[int, int]"


class Conv2d(Module):
    """Filters that slide over images: at each place, the products of a filter with what lies under it, summed.

    `padding` is a number of zeros for both ends, "same" or "valid"; with `groups`, each part of the filters sees its
    part of the channels only. The weight, of shape (out_channels, in_channels / groups, *kernel_size), starts with the
    variance of He et al. 2015, since a ReLU usually follows; the bias starts at 0.

    Shape: (N, in_channels, height, width) -> (N, out_channels, height', width') with
    height' = (height + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1

    Raises ValueError for shapes and options that do not fit, TypeError for another dtype.

    >>> Conv2d(3, 8, 5, padding=2, rng=0)(np.ones((2, 3, 16, 16), np.float32)).shape
    (2, 8, 16, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        size = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
        positive_integers(self, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if len(size) != 2:
            raise ValueError(f"Conv2d: kernel_size={kernel_size!r} must be one number or two")
        positive_integers(self, kernel_size=size[0])
        positive_integers(self, kernel_size=size[1])
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: groups={groups} must divide both in_channels={in_channels} and out_channels={out_channels}"
            )
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, (int(size[0]), int(size[1]))
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = Parameter(init.he_normal((out_channels, in_channels // groups, *self.kernel_size), rng, dtype))
        self.bias = Parameter(init.zeros((out_channels,), dtype)) if bias else None

    def forward(self, x: Any) -> Tensor:
        """conv2d(x, weight, bias)"""
        return functional.conv2d(
            as_tensor(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        options = [f", {name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value]
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_channels}, {self.out_channels}, {_short(self.kernel_size)}{''.join(options)}{bias}"


class MaxPool2d(Module):
    """The largest number under a window that slides by `stride` (by default its own size).

    Shape: (N, C, height, width) -> (N, C, height', width'), as for `Conv2d`

    Raises ValueError for shapes and options that do not fit.

    >>> MaxPool2d(2)(np.ones((2, 3, 16, 16), np.float32)).shape
    (2, 3, 8, 8)
    """

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1
    ) -> None:
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation

    def forward(self, x: Any) -> Tensor:
        """max_pool2d(x)"""
        return functional.max_pool2d(as_tensor(x), self.kernel_size, self.stride, self.padding, self.dilation)

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        return _pooling(self, {"stride": None, "padding": 0, "dilation": 1})


class AvgPool2d(Module):
    """The mean of the numbers under a window that slides by `stride` (by default its own size).

    Padding counts as zeros, or with `count_include_pad=False` not at all.

    Shape: (N, C, height, width) -> (N, C, height', width'), as for `Conv2d`

    Raises ValueError for shapes and options that do not fit.

    >>> AvgPool2d(2)(np.ones((2, 3, 16, 16), np.float32)).shape
    (2, 3, 8, 8)
    """

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, count_include_pad: bool = True
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Tensor:
        """avg_pool2d(x)"""
        return functional.avg_pool2d(as_tensor(x), self.kernel_size, self.stride, self.padding, self.count_include_pad)

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        return _pooling(self, {"stride": None, "padding": 0, "count_include_pad": True})


def _pooling(layer: Any, usual: dict[str, Any]) -> str:
    options = [f", {name}={getattr(layer, name)!r}" for name, value in usual.items() if getattr(layer, name) != value]
    return f"{_short(layer.kernel_size)}{''.join(options)}"


def _short(size: Any) -> str:
    return f"{size[0]}" if isinstance(size, tuple) and size[0] == size[1] else f"{size}"
