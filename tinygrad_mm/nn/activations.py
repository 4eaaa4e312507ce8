"""Activations as layers, and by name; the functions themselves are in `tinygrad_mm.functional`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Tensor

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "ELU",
    "GELU",
    "LeakyReLU",
    "LogSoftmax",
    "ReLU",
    "RECTIFIERS",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "activation_function",
]

Activation: TypeAlias = "str | Callable[[Any], Any] | None"

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": functional.relu,
    "sigmoid": functional.sigmoid,
    "tanh": np.tanh,
    "softmax": functional.softmax,
    "log_softmax": functional.log_softmax,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "selu": functional.selu,
    "celu": functional.celu,
    "mish": functional.mish,
    "relu6": functional.relu6,
    "hard_sigmoid": functional.hard_sigmoid,
    "hard_swish": functional.hard_swish,
    "hard_tanh": functional.hard_tanh,
    "log_sigmoid": functional.log_sigmoid,
    "softsign": functional.softsign,
    "softmin": functional.softmin,
}


def activation_function(activation: Activation) -> Callable[[Any], Any] | None:
    """The function behind an activation given by name, as a callable, or None.

    Raises ValueError for a name that is not known, TypeError for anything else.

    >>> activation_function("relu") is functional.relu
    True
    """
    if isinstance(activation, type) and issubclass(activation, Module):
        raise TypeError(f"activation={activation.__name__} is a class; write {activation.__name__}(), with brackets")
    if activation is None or callable(activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"activation must be a name, a callable or None, not {type(activation).__name__}")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"unknown activation {activation!r}; known names are {', '.join(ACTIVATIONS)}, "
            "and any callable will do: activation=np.sin"
        )
    return ACTIVATIONS[activation]


class ReLU(Module):
    """Rectified linear unit: `max(x, 0)` (Nair and Hinton 2010).

    Shape: (...) -> (...)

    >>> ReLU()([-1.0, 2.0])
    Tensor([0., 2.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """relu(x)"""
        return functional.relu(as_tensor(x))


class LeakyReLU(Module):
    """`x` where it is positive, `negative_slope * x` elsewhere (Maas et al. 2013).

    Shape: (...) -> (...)

    >>> LeakyReLU(0.5)([-1.0, 2.0])
    Tensor([-0.5,  2. ], dtype=float32)
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Tensor:
        """leaky_relu(x)"""
        return functional.leaky_relu(as_tensor(x), self.negative_slope)

    def describe(self) -> str:
        """The slope."""
        return f"{self.negative_slope}"


class ELU(Module):
    """Exponential linear unit: `x` where it is positive, `alpha * (exp(x) - 1)` elsewhere (Clevert et al. 2016).

    Shape: (...) -> (...)

    >>> ELU()([0.0, 2.0])
    Tensor([0., 2.], dtype=float32)
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Any) -> Tensor:
        """elu(x)"""
        return functional.elu(as_tensor(x), self.alpha)

    def describe(self) -> str:
        """Alpha."""
        return f"{self.alpha}"


class GELU(Module):
    """Gaussian error linear unit: `x` times the probability that a standard normal number is below it.

    Hendrycks and Gimpel 2016; `approximate` is "none" or "tanh".

    Shape: (...) -> (...)

    Raises ValueError for another `approximate`.

    >>> GELU("tanh")([0.0])
    Tensor([0.], dtype=float32)
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate={approximate!r}; use 'none' or 'tanh'")
        self.approximate = approximate

    def forward(self, x: Any) -> Tensor:
        """gelu(x)"""
        return functional.gelu(as_tensor(x), self.approximate)

    def describe(self) -> str:
        """Which form."""
        return "" if self.approximate == "none" else f"{self.approximate!r}"


class SiLU(Module):
    """`x * sigmoid(x)`, also called swish (Elfwing et al. 2018).

    Shape: (...) -> (...)

    >>> SiLU()([0.0])
    Tensor([0.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """silu(x)"""
        return functional.silu(as_tensor(x))


class Softplus(Module):
    """`log(1 + exp(beta * x)) / beta`, a smooth ReLU (Dugas et al. 2001).

    Shape: (...) -> (...)

    >>> Softplus()([1e4])
    Tensor([10000.], dtype=float32)
    """

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def forward(self, x: Any) -> Tensor:
        """softplus(x)"""
        return functional.softplus(as_tensor(x), self.beta)

    def describe(self) -> str:
        """Beta."""
        return "" if self.beta == 1 else f"{self.beta}"


class Sigmoid(Module):
    """`1 / (1 + exp(-x))`, without overflow.

    Shape: (...) -> (...)

    >>> Sigmoid()([0.0])
    Tensor([0.5], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """sigmoid(x)"""
        return functional.sigmoid(as_tensor(x))


class Tanh(Module):
    """Hyperbolic tangent, `np.tanh(x)`.

    Shape: (...) -> (...)

    >>> Tanh()([0.0])
    Tensor([0.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """tanh(x)"""
        return functional.tanh(as_tensor(x))


class Softmax(Module):
    """`exp(x) / sum(exp(x))` along an axis: positive numbers that sum to 1.

    Shape: (..., n) -> (..., n)

    >>> Softmax()([0.0, 0.0])
    Tensor([0.5, 0.5], dtype=float32)
    """

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Any) -> Tensor:
        """softmax(x)"""
        return functional.softmax(as_tensor(x), self.axis)

    def describe(self) -> str:
        """The axis."""
        return "" if self.axis == -1 else f"axis={self.axis}"


class LogSoftmax(Softmax):
    """`log(softmax(x))` along an axis, without overflow.

    Shape: (..., n) -> (..., n)

    >>> LogSoftmax()([0.0, 1e4])
    Tensor([-10000.,      0.], dtype=float32)
    """

    def forward(self, x: Any) -> Tensor:
        """log_softmax(x)"""
        return functional.log_softmax(as_tensor(x), self.axis)


# Those that pass about half of what they get: a layer before one starts with twice the variance (He et al. 2015).
RECTIFIERS = (
    functional.relu,
    functional.leaky_relu,
    functional.elu,
    functional.gelu,
    functional.silu,
    functional.celu,
    functional.mish,
    functional.relu6,
    functional.hard_swish,
    ReLU,
    LeakyReLU,
    ELU,
    GELU,
    SiLU,
)
