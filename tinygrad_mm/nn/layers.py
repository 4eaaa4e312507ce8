"""Layers: a weight matrix, a product, an activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.module import Module
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["ACTIVATIONS", "Dense", "Linear", "Sequential", "activation_function"]

Activation: TypeAlias = "str | Callable[[Any], Any] | None"

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": functional.relu,
    "sigmoid": functional.sigmoid,
    "tanh": functional.tanh,
    "softmax": functional.softmax,
    "log_softmax": functional.log_softmax,
}


def activation_function(activation: Activation) -> Callable[[Any], Any] | None:
    """The function behind an activation given by name, as a callable, or None.

    Raises ValueError for a name that is not known, TypeError for anything else.

    >>> activation_function("relu") is functional.relu
    True
    """
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


class Dense(Module):
    """`activation(x @ weight + bias)`: every input feeds every output.

    `activation` is a name ("relu", "sigmoid", "tanh", ...), any callable, or None. `rng` is a NumPy generator or a
    seed. The weight, of shape (in_features, out_features), starts with the variance of He et al. 2015 before a ReLU
    and of Glorot and Bengio 2010 otherwise; the bias starts at 0.

    Shape: (..., in_features) -> (..., out_features)

    Raises ValueError for inputs with another number of features, TypeError for another dtype.

    >>> Dense(3, 2, activation="relu", rng=0)(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: Activation = None,
        *,
        bias: bool = True,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{type(self).__name__}: {name}={value!r} must be a positive integer")
        self.in_features = int(in_features)
        self.out_features = int(out_features)
        self.activation = activation_function(activation)
        draw = init.he_normal if self.activation is functional.relu else init.glorot_uniform
        self.weight = Parameter(draw((self.in_features, self.out_features), rng, dtype))
        self.bias = Parameter(np.zeros(self.out_features, dtype)) if bias else None

    def forward(self, x: Any) -> Tensor:
        """activation(x @ weight + bias)"""
        x = x if isinstance(x, Tensor) else Tensor(x)
        self._check(x)
        y = x @ self.weight
        if self.bias is not None:
            y = y + self.bias
        return y if self.activation is None else self.activation(y)

    def _check(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            features = x.shape[-1] if x.ndim else 0
            raise ValueError(
                f"matmul: {x.shape} @ {self.weight.shape}: the inner sizes {features} and {self.in_features} differ.\n"
                f"{type(self).__name__}({self.in_features}, {self.out_features}) was given {features} features; "
                f"did you mean {type(self).__name__}({features}, {self.out_features})?"
            )
        if x.dtype != self.weight.dtype:
            raise TypeError(
                f"{type(self).__name__}: the input is {x.dtype}, the weight {self.weight.dtype}; "
                f"write x.astype(np.{self.weight.dtype})"
            )

    def describe(self) -> str:
        """Sizes and activation."""
        name = f", activation={getattr(self.activation, '__name__', self.activation)}" if self.activation else ""
        return f"{self.in_features}, {self.out_features}{name}{'' if self.bias is not None else ', bias=False'}"


class Linear(Dense):
    """`x @ weight + bias`: a Dense layer without activation.

    Shape: (..., in_features) -> (..., out_features)

    >>> Linear(3, 2, rng=0)
    Linear(3, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rng: init.Rng = None, dtype: Any = np.float32
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, rng=rng, dtype=dtype)


class Sequential(Module):
    """One layer after another; layers are modules or plain functions.

    Shape: that of the first layer's input -> that of the last layer's output

    >>> Sequential(Dense(4, 3, "relu", rng=0), Dense(3, 2, rng=1))
    Sequential(
      layers.0: Dense(4, 3, activation=relu)
      layers.1: Dense(3, 2)
    )
    """

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"Sequential: layer {i} is a {type(layer).__name__}, which cannot be called")
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        """Each layer's output is the next one's input."""
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        return iter(self.layers)

    def __getitem__(self, i: int) -> Callable[[Any], Any]:
        return self.layers[i]
