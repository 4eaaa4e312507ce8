"""Layers that go through a sequence and keep a state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["GRU", "GRUCell"]


class GRUCell(Module):
    """One step of a gated recurrent unit (Cho et al. 2014), with PyTorch's equations and order of gates (r, z, n).

        r = sigmoid(x @ Wr + br + h @ Ur + cr)           how much of the state the candidate sees
        z = sigmoid(x @ Wz + bz + h @ Uz + cz)           how much of the state stays
        n = tanh(x @ Wn + bn + r * (h @ Un + cn))        the candidate
        h' = (1 - z) * n + z * h

    The three W lie side by side in `input_weight`, (in_features, 3 * hidden_features), the U in `hidden_weight`. Each W
    starts with the variance of Glorot and Bengio 2010, each U orthogonal (Saxe et al. 2014), the biases at 0.

    Shape: (N, in_features), (N, hidden_features) -> (N, hidden_features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> GRUCell(3, 4, rng=0)(np.ones((2, 3), np.float32)).shape
    (2, 4)
    """

    torch_names: ClassVar[Mapping[str, str]] = {
        "input_weight": "weight_ih.T",
        "hidden_weight": "weight_hh.T",
        "input_bias": "bias_ih",
        "hidden_bias": "bias_hh",
    }

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        positive_integers(self, in_features=in_features, hidden_features=hidden_features)
        rng = init.generator(rng)
        n = hidden_features
        self.in_features, self.hidden_features = int(in_features), int(hidden_features)
        inputs = [init.glorot_uniform((in_features, n), rng, dtype) for _ in range(3)]
        hidden = [init.orthogonal((n, n), rng, dtype) for _ in range(3)]
        self.input_weight = Parameter(np.concatenate(inputs, axis=1))
        self.hidden_weight = Parameter(np.concatenate(hidden, axis=1))
        self.input_bias = Parameter(init.zeros((3 * n,), dtype)) if bias else None
        self.hidden_bias = Parameter(init.zeros((3 * n,), dtype)) if bias else None

    def forward(self, x: Any, h: Any = None) -> Tensor:
        """The next state, from an input and the state (by default 0)."""
        x = as_tensor(x)
        if x.ndim != 2 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"{self!r} was given inputs of shape {x.shape}; it needs (N, {self.in_features}), one step of each "
                "sequence (a GRU goes through whole ones)"
            )
        shape = (x.shape[0], self.hidden_features)
        h = Tensor(np.zeros(shape, x.dtype)) if h is None else as_tensor(h)
        if h.shape != shape:
            raise ValueError(f"{self!r}: the state has shape {h.shape}; for this input it needs {shape}")
        return self.step(self.from_input(x), h)

    def from_input(self, x: Tensor) -> Tensor:
        """What the gates get from inputs: one product for any number of steps.

        Shape: (..., in_features) -> (..., 3 * hidden_features)
        """
        if x.dtype != self.input_weight.dtype:
            raise TypeError(
                f"{type(self).__name__}: the input is {x.dtype}, the weights {self.input_weight.dtype}; "
                f"write x.astype(np.{self.input_weight.dtype})"
            )
        y = x @ self.input_weight
        return y if self.input_bias is None else y + self.input_bias

    def step(self, from_input: Tensor, h: Tensor) -> Tensor:
        """The next state, from what the gates get from the input and the state."""
        from_hidden = h @ self.hidden_weight
        if self.hidden_bias is not None:
            from_hidden = from_hidden + self.hidden_bias
        gates = (h.shape[0], 3, self.hidden_features)
        xr, xz, xn = functional.unstack(from_input.reshape(gates), axis=1)
        hr, hz, hn = functional.unstack(from_hidden.reshape(gates), axis=1)
        r = functional.sigmoid(xr + hr)
        z = functional.sigmoid(xz + hz)
        n = np.tanh(xn + r * hn)
        return n + z * (h - n)

    def describe(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.hidden_features}{'' if self.input_bias is not None else ', bias=False'}"


class GRU(Module):
    """Gated recurrent units that go through sequences, in layers on top of each other (Cho et al. 2014).

    `layer(x)` starts from zeros, `layer(x, state)` from a state of shape (layers, N, hidden_features). It returns the
    last layer's state at each step, and all layers' states at the end. Equations and initial weights: `GRUCell`.

    Shape: (N, steps, in_features) -> (N, steps, hidden_features), (layers, N, hidden_features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> outputs, state = GRU(3, 4, layers=2, rng=0)(np.ones((2, 7, 3), np.float32))
    >>> outputs.shape, state.shape
    ((2, 7, 4), (2, 2, 4))
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        layers: int = 1,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        positive_integers(self, in_features=in_features, hidden_features=hidden_features, layers=layers)
        rng = init.generator(rng)
        self.in_features, self.hidden_features = int(in_features), int(hidden_features)
        sizes = [in_features] + [hidden_features] * (layers - 1)
        self.cells = [GRUCell(n, hidden_features, bias, rng=rng, dtype=dtype) for n in sizes]

    def forward(self, x: Any, state: Any = None) -> tuple[Tensor, Tensor]:
        """The states at each step of the last layer, and at the last step of each layer."""
        x = as_tensor(x)
        if x.ndim != 3 or x.shape[-1] != self.in_features or not x.shape[1]:
            raise ValueError(
                f"{self!r} was given {x.shape}; it needs (N, steps, {self.in_features}), one step at least"
            )
        shape = (len(self.cells), x.shape[0], self.hidden_features)
        state = Tensor(np.zeros(shape, x.dtype)) if state is None else as_tensor(state)
        if state.shape != shape:
            raise ValueError(f"{self!r}: the state has shape {state.shape}; for this input it needs {shape}")
        last = []
        for cell, h in zip(self.cells, functional.unstack(state), strict=True):
            steps = []
            for from_input in functional.unstack(cell.from_input(x), axis=1):
                h = cell.step(from_input, h)
                steps.append(h)
            x = np.stack(steps, axis=1)
            last.append(h)
        return x, np.stack(last)  # type: ignore[return-value]

    def torch_name(self, path: str) -> str:
        """PyTorch counts the layers behind the name: "weight_ih_l0" for the first cell's "weight_ih"."""
        return re.sub(r"^cells\.(\d+)\.(\w+)", r"\2_l\1", path)

    def __repr__(self) -> str:
        layers = f", layers={len(self.cells)}" if len(self.cells) > 1 else ""
        bias = "" if self.cells[0].input_bias is not None else ", bias=False"
        return f"GRU({self.in_features}, {self.hidden_features}{layers}{bias})"
