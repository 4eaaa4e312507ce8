"""Layers that give what they are given another shape or size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Tensor

__all__ = [
    "ConstantPad1d",
    "ConstantPad2d",
    "Identity",
    "PixelShuffle",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Unflatten",
    "Upsample",
    "ZeroPad1d",
    "ZeroPad2d",
]


class Identity(Module):
    """The input, unchanged: a placeholder where a layer is expected.

    Shape: (...) -> (...)

    >>> Identity()([1.0, 2.0])
    Tensor([1., 2.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """The input."""
        return as_tensor(x)


class Unflatten(Module):
    """One axis becomes several; one of their lengths may be -1, to be worked out: the inverse of `Flatten`.

    Shape: (..., n, ...) -> (..., *shape, ...)

    Raises ValueError for a shape of another size.

    >>> Unflatten(1, (3, 4, 4))(np.ones((2, 48), np.float32)).shape
    (2, 3, 4, 4)
    """

    def __init__(self, axis: int, shape: Sequence[int]) -> None:
        self.axis, self.shape = axis, tuple(shape)

    def forward(self, x: Any) -> Tensor:
        """x.reshape(..., *shape, ...)"""
        x = as_tensor(x)
        if not -x.ndim <= self.axis < x.ndim:
            raise ValueError(f"{self!r} was given {x.shape}, which has no axis {self.axis}")
        axis = self.axis % x.ndim
        known = math.prod(n for n in self.shape if n != -1)
        free = self.shape.count(-1)
        if free > 1 or known < 1 or (x.shape[axis] % known if free else x.shape[axis] != known):
            raise ValueError(f"{self!r} was given {x.shape}; axis {axis} of length {x.shape[axis]} has another size")
        return x.reshape(*x.shape[:axis], *self.shape, *x.shape[axis + 1 :])

    def describe(self) -> str:
        """Axis and shape."""
        return f"{self.axis}, {self.shape}"


class Upsample(Module):
    """Images or sequences of another size; the options are those of `functional.interpolate`.

    Shape: (N, C, *lengths) -> (N, C, *size)

    Raises ValueError for shapes and options that do not fit.

    >>> Upsample(scale_factor=2)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 8, 8)
    """

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool = False
    ) -> None:
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, x: Any) -> Tensor:
        """interpolate(x, size)"""
        return functional.interpolate(as_tensor(x), self.size, self.scale_factor, self.mode, self.align_corners)

    def describe(self) -> str:
        """Size or factor, and options that differ from the usual ones."""
        size = f"scale_factor={self.scale_factor}" if self.size is None else f"{self.size}"
        mode = "" if self.mode == "nearest" else f", mode={self.mode!r}"
        return f"{size}{mode}{', align_corners=True' if self.align_corners else ''}"


class PixelShuffle(Module):
    """Channels become pixels: each `factor`^2 channels are a square of that side in one image (Shi et al. 2016).

    Shape: (N, C * factor^2, height, width) -> (N, C, height * factor, width * factor)

    Raises ValueError for shapes that do not fit.

    >>> PixelShuffle(2)(np.ones((2, 12, 4, 4), np.float32)).shape
    (2, 3, 8, 8)
    """

    def __init__(self, factor: int) -> None:
        positive_integers(self, factor=factor)
        self.factor = int(factor)

    def forward(self, x: Any) -> Tensor:
        """pixel_shuffle(x, factor)"""
        return functional.pixel_shuffle(as_tensor(x), self.factor)

    def describe(self) -> str:
        """The factor."""
        return f"{self.factor}"


class _Pad(Module):
    """`padding` is a number for all sides, or the pairs (before, after) of the last axis, then of the one before."""

    mode: ClassVar[str]
    axes: ClassVar[int]

    def __init__(self, padding: Any) -> None:
        sides = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * 2 * self.axes
        if len(sides) != 2 * self.axes or not all(isinstance(n, (int, np.integer)) and n >= 0 for n in sides):
            what = "left and right" if self.axes == 1 else "left, right, top and bottom"
            raise ValueError(f"{type(self).__name__}: padding={padding!r} must be a number, or those of {what}")
        self.padding = tuple(map(int, sides))

    def options(self) -> dict[str, Any]:
        """What `np.pad` is told besides the mode."""
        return {}

    def forward(self, x: Any) -> Tensor:
        """pad(x)"""
        x = as_tensor(x)
        if x.ndim != 2 + self.axes:
            wanted = "(N, channels, length)" if self.axes == 1 else "(N, channels, height, width)"
            raise ValueError(f"{self!r} was given {x.shape}; it needs {wanted}")
        pairs = [(self.padding[i], self.padding[i + 1]) for i in range(0, 2 * self.axes, 2)]
        options: dict[str, Any] = self.options()
        return np.pad(x, ((0, 0), (0, 0), *reversed(pairs)), self.mode, **options)  # type: ignore[call-overload]

    def describe(self) -> str:
        """The sides."""
        return f"{self.padding[0] if len(set(self.padding)) == 1 else self.padding}"


class ZeroPad1d(_Pad):
    """Zero padding: zeros on both sides of sequences; `padding` is one number or (left, right).

    Shape: (N, C, length) -> (N, C, length')

    Raises ValueError for shapes that do not fit.

    >>> ZeroPad1d((0, 2))([[[1.0]]])
    Tensor([[[1., 0., 0.]]], dtype=float32)
    """

    mode = "constant"
    axes = 1


class ZeroPad2d(_Pad):
    """Zero padding: zeros on all sides of images; `padding` is one number or (left, right, top, bottom).

    Shape: (N, C, height, width) -> (N, C, height', width')

    Raises ValueError for shapes that do not fit.

    >>> ZeroPad2d((1, 1, 0, 2))(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 6, 6)
    """

    mode = "constant"
    axes = 2


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def options(self) -> dict[str, Any]:
        """The constant."""
        return {"constant_values": self.value}

    def describe(self) -> str:
        """The sides and the constant."""
        return f"{super().describe()}, {self.value}"


class ConstantPad1d(_ConstantPad):
    """Constant padding: the same number on both sides of sequences; `padding` is one number or (left, right).

    Shape: (N, C, length) -> (N, C, length')

    Raises ValueError for shapes that do not fit.

    >>> ConstantPad1d((0, 2), 5.0)([[[1.0]]])
    Tensor([[[1., 5., 5.]]], dtype=float32)
    """

    axes = 1


class ConstantPad2d(_ConstantPad):
    """Constant padding: the same number on all sides of images; `padding` is one number or (left, right, top, bottom).

    Shape: (N, C, height, width) -> (N, C, height', width')

    Raises ValueError for shapes that do not fit.

    >>> ConstantPad2d(1, 0.5)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 6, 6)
    """

    axes = 2


class ReflectionPad1d(_Pad):
    """Reflection padding: sequences mirrored at both ends; `padding` is one number or (left, right).

    Shape: (N, C, length) -> (N, C, length')

    Raises ValueError for shapes that do not fit.

    >>> ReflectionPad1d((2, 1))([[[1.0, 2.0, 3.0]]]).data[0, 0]
    array([3., 2., 1., 2., 3., 2.], dtype=float32)
    """

    mode = "reflect"
    axes = 1


class ReflectionPad2d(_Pad):
    """Reflection padding: images mirrored at their edges; `padding` is one number or (left, right, top, bottom).

    Shape: (N, C, height, width) -> (N, C, height', width')

    Raises ValueError for shapes that do not fit.

    >>> ReflectionPad2d(1)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 6, 6)
    """

    mode = "reflect"
    axes = 2


class ReplicationPad1d(_Pad):
    """Replication padding: the outermost numbers repeated at both ends; `padding` is one number or (left, right).

    Shape: (N, C, length) -> (N, C, length')

    Raises ValueError for shapes that do not fit.

    >>> ReplicationPad1d((2, 1))([[[1.0, 2.0, 3.0]]]).data[0, 0]
    array([1., 1., 1., 2., 3., 3.], dtype=float32)
    """

    mode = "edge"
    axes = 1


class ReplicationPad2d(_Pad):
    """Replication padding: edges of images repeated outwards; `padding` is one number or (left, right, top, bottom).

    Shape: (N, C, height, width) -> (N, C, height', width')

    Raises ValueError for shapes that do not fit.

    >>> ReplicationPad2d(1)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 6, 6)
    """

    mode = "edge"
    axes = 2
