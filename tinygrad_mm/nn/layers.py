"""Layers made of one matrix: dense (fully connected) layers, and embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm.nn import init
from tinygrad_mm.nn.activations import RECTIFIERS, Activation, activation_function
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.rules.indexing import checked
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["Dense", "Embedding", "Linear", "positive_integers"]


def positive_integers(owner: object, **sizes: Any) -> None:
    """Raise ValueError for a size that is no positive integer."""
    for name, value in sizes.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{type(owner).__name__}: {name}={value!r} must be a positive integer")


class Dense(Module):
    """`activation(x @ weight + bias)`: a fully connected layer, in which every input feeds every output.

    `activation` is a name ("relu", "sigmoid", "tanh", ...), any callable, or None. `rng` is a NumPy generator or a
    seed. The weight, of shape (in_features, out_features), starts with the variance of He et al. 2015 before a ReLU
    or one like it (leaky_relu, elu, gelu, silu) and of Glorot and Bengio 2010 otherwise; the bias starts at 0.

    Shape: (..., in_features) -> (..., out_features)

    Raises ValueError for sizes that are not positive and inputs with another number of features, TypeError for inputs
    of another dtype.

    >>> Dense(3, 2, activation="relu", rng=0)(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    torch_names: ClassVar[Mapping[str, str]] = {"weight": "weight.T"}

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
        positive_integers(self, in_features=in_features, out_features=out_features)
        self.in_features = int(in_features)
        self.out_features = int(out_features)
        self.activation = activation_function(activation)
        rectified = self.activation in RECTIFIERS or type(self.activation) in RECTIFIERS
        draw = init.he_normal if rectified else init.glorot_uniform
        self.weight = Parameter(draw((self.in_features, self.out_features), rng, dtype))
        self.bias = Parameter(np.zeros(self.out_features, dtype)) if bias else None

    def forward(self, x: Any) -> Tensor:
        """activation(x @ weight + bias)"""
        x = as_tensor(x)
        self._check(x)
        y = x @ self.weight
        if self.bias is not None:
            y = y + self.bias
        return y if self.activation is None else self.activation(y)

    def _check(self, x: Tensor) -> None:
        """Raise an error that names the fix where the input does not fit."""
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

    Raises as `Dense` does.

    >>> Linear(3, 2, rng=0)
    Linear(3, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rng: init.Rng = None, dtype: Any = np.float32
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, rng=rng, dtype=dtype)


class Embedding(Module):
    """`weight[codes]`: a learned row of features for each code, an integer that stands for a word, a user, ...

    The weight, of shape (num_embeddings, features), starts normal with variance 1, as in PyTorch. The row of
    `padding_idx`, a code that stands for nothing, starts at 0 and gets no gradient.

    Shape: (...) -> (..., features)

    Raises TypeError for codes that are no integers, IndexError for codes out of range.

    >>> Embedding(10, 4, rng=0)([[1, 2, 3]]).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        padding_idx: int | None = None,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        positive_integers(self, num_embeddings=num_embeddings, features=features)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx={padding_idx} is none of the rows 0..{num_embeddings - 1}")
        self.num_embeddings, self.features = int(num_embeddings), int(features)
        self.padding_idx = None if padding_idx is None else int(padding_idx) % num_embeddings
        self.weight = Parameter(init.generator(rng).standard_normal((num_embeddings, features)).astype(dtype))
        if self.padding_idx is not None:
            self.weight.value[self.padding_idx] = 0

    def forward(self, codes: Any) -> Tensor:
        """weight[codes]"""
        codes = as_tensor(codes)
        if codes.dtype.kind not in "iu":
            raise TypeError(f"Embedding: codes are {codes.dtype}; write codes.astype(np.int64)")
        rows = self.weight[checked(codes, self._check_range)]
        if self.padding_idx is None:
            return rows
        return np.where(np.expand_dims(codes == self.padding_idx, -1), rows.detach(), rows)  # type: ignore[return-value]

    def _check_range(self, values: Any) -> None:
        """Raise IndexError where a code has no row."""
        if values.size and not 0 <= values.min() <= values.max() < self.num_embeddings:
            fix = "; codes count from 0, and none may be negative"
            if values.min() >= 0:
                fix = f"; did you mean Embedding({values.max() + 1}, {self.features})?"
            raise IndexError(
                f"Embedding: codes lie in {values.min()}..{values.max()}, but there are rows "
                f"0..{self.num_embeddings - 1} only{fix}"
            )

    def describe(self) -> str:
        """Sizes, and the code of padding."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.features}{padding}"
