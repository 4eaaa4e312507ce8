"""Convolutions of images, (N, channels, height, width), and of sequences, (N, channels, length)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]

Sizes: TypeAlias = "int | tuple[int, int]"


class _Convolution(Module):
    """A weight for each filter, a bias, and the options of the function that applies them."""

    function: ClassVar[Callable[..., Any]]
    axes: ClassVar[int]
    usual: ClassVar[dict[str, Any]] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        name = type(self).__name__
        size = kernel_size if isinstance(kernel_size, (tuple, list)) else (kernel_size,) * self.axes
        positive_integers(self, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if len(size) != self.axes:
            raise ValueError(f"{name}: kernel_size={kernel_size!r} must be one number{' or two' * (self.axes == 2)}")
        for n in size:
            positive_integers(self, kernel_size=n)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups={groups} must divide both in_channels={in_channels} and out_channels={out_channels}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = tuple(map(int, size))
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = Parameter(init.he_normal((out_channels, in_channels // groups, *self.kernel_size), rng, dtype))
        self.bias = Parameter(init.zeros((out_channels,), dtype)) if bias else None

    def forward(self, x: Any) -> Tensor:
        """function(x, weight, bias)"""
        options = {name: getattr(self, name) for name in self.usual}
        return type(self).function(as_tensor(x), self.weight, self.bias, **options)

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        given = {name: getattr(self, name) for name in self.usual}
        options = [f", {name}={given[name]!r}" for name, value in self.usual.items() if given[name] != value]
        bias = "" if self.bias is not None else ", bias=False"
        size = self.kernel_size[0] if len(set(self.kernel_size)) == 1 else self.kernel_size
        return f"{self.in_channels}, {self.out_channels}, {size}{''.join(options)}{bias}"


class Conv1d(_Convolution):
    """1-D convolution: filters that slide along sequences; options and initial weights are those of `Conv2d`.

    Shape: (N, in_channels, length) -> (N, out_channels, length') with
    length' = (length + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1

    Raises ValueError for shapes and options that do not fit, TypeError for another dtype.

    >>> Conv1d(3, 8, 5, padding=2, rng=0)(np.ones((2, 3, 16), np.float32)).shape
    (2, 8, 16)
    """

    function = functional.conv1d
    axes = 1

    def forward(self, x: Any) -> Tensor:
        """conv1d(x, weight, bias)"""
        return super().forward(x)


class Conv2d(_Convolution):
    """2-D convolution: at each place of an image, the products of a filter with what lies under it, summed.

    `padding` is a number of zeros for both ends, "same" or "valid"; with `groups`, each part of the filters sees its
    part of the channels only. The weight, of shape (out_channels, in_channels / groups, *kernel_size), starts with the
    variance of He et al. 2015, since a ReLU usually follows; the bias starts at 0.

    Shape: (N, in_channels, height, width) -> (N, out_channels, height', width') with
    height' = (height + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1

    Raises ValueError for shapes and options that do not fit, TypeError for another dtype.

    >>> Conv2d(3, 8, 5, padding=2, rng=0)(np.ones((2, 3, 16, 16), np.float32)).shape
    (2, 8, 16, 16)
    """

    function = functional.conv2d
    axes = 2

    def forward(self, x: Any) -> Tensor:
        """conv2d(x, weight, bias)"""
        return super().forward(x)


class _TransposedConvolution(_Convolution):
    """The weight has the channels first, of shape (in_channels, out_channels / groups, *kernel_size)."""

    usual: ClassVar[dict[str, Any]] = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        sizes = in_channels, out_channels, kernel_size
        super().__init__(*sizes, stride, padding, dilation, groups, bias, rng=rng, dtype=dtype)
        self.output_padding = output_padding
        shape = in_channels, out_channels // groups, *self.kernel_size
        self.weight.data = self.weight.value.reshape(shape)  # drawn for what flows into a number of the result


class ConvTranspose1d(_TransposedConvolution):
    """Transposed 1-D convolution: each number of a sequence spreads a filter, the transpose of `Conv1d`.

    The options are those of `ConvTranspose2d`.

    Shape: (N, in_channels, length) -> (N, out_channels, length') with
    length' = (length - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1

    Raises ValueError for shapes and options that do not fit, TypeError for another dtype.

    >>> ConvTranspose1d(3, 8, 4, stride=2, padding=1, rng=0)(np.ones((2, 3, 16), np.float32)).shape
    (2, 8, 32)
    """

    function = functional.conv_transpose1d
    axes = 1

    def forward(self, x: Any) -> Tensor:
        """conv_transpose1d(x, weight, bias)"""
        return super().forward(x)


class ConvTranspose2d(_TransposedConvolution):
    """Transposed 2-D convolution: each number spreads a filter around it, and overlaps are added up.

    It is the transpose of `Conv2d` as a linear map, and makes images larger by `stride` (Zeiler et al. 2010).
    `output_padding` adds to the smallest of the sizes that a convolution of that stride would turn into this one. The
    weight, of shape (in_channels, out_channels / groups, *kernel_size), starts with the variance of He et al. 2015, the
    bias at 0.

    Shape: (N, in_channels, height, width) -> (N, out_channels, height', width') with
    height' = (height - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1

    Raises ValueError for shapes and options that do not fit, TypeError for another dtype.

    >>> ConvTranspose2d(3, 8, 4, stride=2, padding=1, rng=0)(np.ones((2, 3, 16, 16), np.float32)).shape
    (2, 8, 32, 32)
    """

    function = functional.conv_transpose2d
    axes = 2

    def forward(self, x: Any) -> Tensor:
        """conv_transpose2d(x, weight, bias)"""
        return super().forward(x)
