"""Activations as layers, those whose functions are expressions of others (`functional/activations_composed.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = [
    "CELU",
    "GLU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "ReLU6",
    "SELU",
    "Softmin",
    "Softsign",
    "SwiGLU",
]


class _Activation(Module):
    """A function of single numbers without options."""

    function: ClassVar[Callable[..., Any]]

    def forward(self, x: Any) -> Tensor:
        """function(x)"""
        return type(self).function(as_tensor(x))


class SELU(_Activation):
    """Scaled exponential linear unit: `1.0507 * elu(x, 1.6733)`, which keeps mean and variance (Klambauer et al. 2017).

    Shape: (...) -> (...)

    >>> SELU()([0.0, 1.0]).data.round(4)
    array([0.    , 1.0507], dtype=float32)
    """

    function = functional.selu


class CELU(Module):
    """Continuously differentiable ELU: `x` where positive, `alpha * (exp(x / alpha) - 1)` elsewhere (Barron 2017).

    Shape: (...) -> (...)

    >>> CELU()([0.0, 2.0])
    Tensor([0., 2.], dtype=float32)
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Any) -> Tensor:
        """celu(x)"""
        return functional.celu(as_tensor(x), self.alpha)

    def describe(self) -> str:
        """Alpha."""
        return f"{self.alpha}"


class PReLU(Module):
    """`x` where it is positive, `weight * x` elsewhere, with a learned weight (He et al. 2015).

    One weight, or `channels` of them, one for each channel (axis 1); they start at `start`.

    Shape: (N, channels, ...) -> (N, channels, ...)

    Raises ValueError for shapes that do not fit.

    >>> PReLU()([-1.0, 2.0]).data
    array([-0.25,  2.  ], dtype=float32)
    """

    def __init__(self, channels: int = 1, start: float = 0.25, *, dtype: Any = np.float32) -> None:
        positive_integers(self, channels=channels)
        self.weight = Parameter(np.full(channels, start, dtype))

    def forward(self, x: Any) -> Tensor:
        """prelu(x, weight)"""
        return functional.prelu(as_tensor(x), self.weight)

    def describe(self) -> str:
        """How many weights there are."""
        return "" if self.weight.size == 1 else f"{self.weight.size}"


class ReLU6(_Activation):
    """`min(max(x, 0), 6)` (Krizhevsky 2010).

    Shape: (...) -> (...)

    >>> ReLU6()([-1.0, 9.0])
    Tensor([0., 6.], dtype=float32)
    """

    function = functional.relu6


class Mish(_Activation):
    """`x * tanh(softplus(x))` (Misra 2020).

    Shape: (...) -> (...)

    >>> Mish()([0.0])
    Tensor([0.], dtype=float32)
    """

    function = functional.mish


class Hardsigmoid(_Activation):
    """`min(max(x / 6 + 1 / 2, 0), 1)` (Howard et al. 2019).

    Shape: (...) -> (...)

    >>> Hardsigmoid()([-4.0, 0.0])
    Tensor([0. , 0.5], dtype=float32)
    """

    function = functional.hard_sigmoid


class Hardswish(_Activation):
    """`x * hard_sigmoid(x)` (Howard et al. 2019).

    Shape: (...) -> (...)

    >>> Hardswish()([0.0, 4.0])
    Tensor([0., 4.], dtype=float32)
    """

    function = functional.hard_swish


class Hardtanh(Module):
    """`min(max(x, minimum), maximum)` (Collobert 2004).

    Shape: (...) -> (...)

    >>> Hardtanh()([-2.0, 0.5])
    Tensor([-1. ,  0.5], dtype=float32)
    """

    def __init__(self, minimum: float = -1.0, maximum: float = 1.0) -> None:
        if not minimum < maximum:
            raise ValueError(f"Hardtanh: minimum={minimum} must be less than maximum={maximum}")
        self.minimum, self.maximum = minimum, maximum

    def forward(self, x: Any) -> Tensor:
        """hard_tanh(x)"""
        return functional.hard_tanh(as_tensor(x), self.minimum, self.maximum)

    def describe(self) -> str:
        """Both ends."""
        return "" if (self.minimum, self.maximum) == (-1, 1) else f"{self.minimum}, {self.maximum}"


class LogSigmoid(_Activation):
    """`log(sigmoid(x))`, without overflow.

    Shape: (...) -> (...)

    >>> LogSigmoid()([-1e4])
    Tensor([-10000.], dtype=float32)
    """

    function = functional.log_sigmoid


class Softsign(_Activation):
    """`x / (1 + |x|)` (Bergstra et al. 2009).

    Shape: (...) -> (...)

    >>> Softsign()([-1.0, 3.0])
    Tensor([-0.5 ,  0.75], dtype=float32)
    """

    function = functional.softsign


class _AlongAxis(Module):
    """A function along an axis."""

    function: ClassVar[Callable[..., Any]]

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Any) -> Tensor:
        """function(x, axis)"""
        return type(self).function(as_tensor(x), self.axis)

    def describe(self) -> str:
        """The axis."""
        return "" if self.axis == -1 else f"axis={self.axis}"


class Softmin(_AlongAxis):
    """`softmax(-x)` along an axis: the smallest number gets the largest share.

    Shape: (..., n) -> (..., n)

    >>> Softmin()([0.0, 1e4])
    Tensor([1., 0.], dtype=float32)
    """

    function = functional.softmin


class GLU(_AlongAxis):
    """Gated linear unit: the first half of an axis times the sigmoid of the second (Dauphin et al. 2017).

    Shape: (..., 2 n) -> (..., n)

    Raises ValueError for an odd length.

    >>> GLU()([1.0, 2.0, 0.0, 1e4])
    Tensor([0.5, 2. ], dtype=float32)
    """

    function = functional.glu


class SwiGLU(_AlongAxis):
    """The silu of the first half of an axis times the second half (Shazeer 2020).

    Shape: (..., 2 n) -> (..., n)

    Raises ValueError for an odd length.

    >>> SwiGLU()([0.0, 1e4, 2.0, 0.5])
    Tensor([   0., 5000.], dtype=float32)
    """

    function = functional.swiglu
