"""Pooling of images, (N, channels, height, width), and of sequences, (N, channels, length)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn.convolution import Sizes
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Tensor

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "MaxPool1d",
    "MaxPool2d",
]


class _MaxPool(Module):
    function: ClassVar[Callable[..., Any]]

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> None:
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation

    def forward(self, x: Any) -> Tensor:
        """The largest number under each place of a window."""
        return type(self).function(as_tensor(x), self.kernel_size, self.stride, self.padding, self.dilation)

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        return _described(self, {"stride": None, "padding": 0, "dilation": 1})


class MaxPool1d(_MaxPool):
    """Max pooling: the largest number under a window that slides along sequences by `stride` (by default its own size).

    Shape: (N, C, length) -> (N, C, length'), as for `Conv1d`

    Raises ValueError for shapes and options that do not fit.

    >>> MaxPool1d(2)(np.ones((2, 3, 16), np.float32)).shape
    (2, 3, 8)
    """

    function = functional.max_pool1d


class MaxPool2d(_MaxPool):
    """Max pooling: the largest number under a window that slides by `stride` (by default its own size).

    Shape: (N, C, height, width) -> (N, C, height', width'), as for `Conv2d`

    Raises ValueError for shapes and options that do not fit.

    >>> MaxPool2d(2)(np.ones((2, 3, 16, 16), np.float32)).shape
    (2, 3, 8, 8)
    """

    function = functional.max_pool2d


class _AvgPool(Module):
    function: ClassVar[Callable[..., Any]]

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Tensor:
        """The mean of the numbers under each place of a window."""
        return type(self).function(as_tensor(x), self.kernel_size, self.stride, self.padding, self.count_include_pad)

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        return _described(self, {"stride": None, "padding": 0, "count_include_pad": True})


class AvgPool1d(_AvgPool):
    """Average pooling: the mean under a window that slides along sequences by `stride` (by default its own size).

    Padding counts as zeros, or with `count_include_pad=False` not at all.

    Shape: (N, C, length) -> (N, C, length'), as for `Conv1d`

    Raises ValueError for shapes and options that do not fit.

    >>> AvgPool1d(2)(np.ones((2, 3, 16), np.float32)).shape
    (2, 3, 8)
    """

    function = functional.avg_pool1d


class AvgPool2d(_AvgPool):
    """Average pooling: the mean under a window that slides by `stride` (by default its own size).

    Padding counts as zeros, or with `count_include_pad=False` not at all.

    Shape: (N, C, height, width) -> (N, C, height', width'), as for `Conv2d`

    Raises ValueError for shapes and options that do not fit.

    >>> AvgPool2d(2)(np.ones((2, 3, 16, 16), np.float32)).shape
    (2, 3, 8, 8)
    """

    function = functional.avg_pool2d


class _AdaptivePool(Module):
    function: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: Any) -> None:
        self.output_size = output_size

    def forward(self, x: Any) -> Tensor:
        """One number for each of as many windows as are wanted."""
        return type(self).function(as_tensor(x), self.output_size)

    def describe(self) -> str:
        """The size of the result."""
        return f"{self.output_size}"


class AdaptiveAvgPool1d(_AdaptivePool):
    """Adaptive average pooling: the means of `output_size` windows of sequences of any length.

    Shape: (N, C, length) -> (N, C, output_size)

    Raises ValueError for shapes that do not fit.

    >>> AdaptiveAvgPool1d(4)(np.ones((2, 3, 7), np.float32)).shape
    (2, 3, 4)
    """

    function = functional.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptivePool):
    """Adaptive average pooling: the means of `output_size` windows of images of any size; None keeps an axis.

    Shape: (N, C, height, width) -> (N, C, *output_size)

    Raises ValueError for shapes that do not fit.

    >>> AdaptiveAvgPool2d((1, 2))(np.ones((2, 3, 7, 5), np.float32)).shape
    (2, 3, 1, 2)
    """

    function = functional.adaptive_avg_pool2d


class AdaptiveMaxPool1d(_AdaptivePool):
    """Adaptive max pooling: the largest numbers of `output_size` windows of sequences of any length.

    Shape: (N, C, length) -> (N, C, output_size)

    Raises ValueError for shapes that do not fit.

    >>> AdaptiveMaxPool1d(4)(np.ones((2, 3, 7), np.float32)).shape
    (2, 3, 4)
    """

    function = functional.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptivePool):
    """Adaptive max pooling: the largest numbers of `output_size` windows of images of any size; None keeps an axis.

    Shape: (N, C, height, width) -> (N, C, *output_size)

    Raises ValueError for shapes that do not fit.

    >>> AdaptiveMaxPool2d((1, 2))(np.ones((2, 3, 7, 5), np.float32)).shape
    (2, 3, 1, 2)
    """

    function = functional.adaptive_max_pool2d


class _GlobalPool(Module):
    function: ClassVar[Callable[..., Any]]

    def forward(self, x: Any) -> Tensor:
        """One number for each channel."""
        x = as_tensor(x)
        if x.ndim < 3:
            raise ValueError(f"{self!r} was given {x.shape}; it needs (N, channels, length, ...)")
        return type(self).function(x, axis=tuple(range(2, x.ndim)))


class GlobalAvgPool(_GlobalPool):
    """Global average pooling: the mean of each channel, images or sequences become vectors (Lin et al. 2014).

    Shape: (N, C, ...) -> (N, C)

    Raises ValueError for shapes that do not fit.

    >>> GlobalAvgPool()(np.ones((2, 3, 7, 5), np.float32)).shape
    (2, 3)
    """

    function = np.mean


class GlobalMaxPool(_GlobalPool):
    """Global max pooling: the largest number of each channel, images or sequences become vectors.

    Where several are largest they share the gradient.

    Shape: (N, C, ...) -> (N, C)

    Raises ValueError for shapes that do not fit.

    >>> GlobalMaxPool()(np.ones((2, 3, 7, 5), np.float32)).shape
    (2, 3)
    """

    function = np.max


def _described(layer: Any, usual: dict[str, Any]) -> str:
    options = [f", {name}={getattr(layer, name)!r}" for name, value in usual.items() if getattr(layer, name) != value]
    size: Sizes = layer.kernel_size
    return f"{size[0] if isinstance(size, tuple) and size[0] == size[-1] else size}{''.join(options)}"
