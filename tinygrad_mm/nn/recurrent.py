"""Layers that go through a sequence and keep a state: cells make one step, layers go through whole sequences."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.activations import Activation, activation_function
from tinygrad_mm.nn.layers import positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.nn.normalization import Dropout
from tinygrad_mm.rules.indexing import checked
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["GRU", "GRUCell", "LSTM", "LSTMCell", "RNN", "RNNCell"]

State: TypeAlias = "Tensor | tuple[Tensor, ...]"  # an LSTM's is a pair


class _Cell(Module):
    """One step of a recurrent network.

    The gates' weights for the input lie side by side in `input_weight`, (in_features, gates * hidden_features), those
    for the state in `hidden_weight`.
    """

    torch_names: ClassVar[Mapping[str, str]] = {
        "input_weight": "weight_ih.T",
        "hidden_weight": "weight_hh.T",
        "input_bias": "bias_ih",
        "hidden_bias": "bias_hh",
    }
    gates: ClassVar[int]
    states: ClassVar[int] = 1
    sums: ClassVar[bool] = True  # the gates see what comes from input and state as a sum only
    layer: ClassVar[str]  # what goes through whole sequences

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
        n, gates = hidden_features, self.gates
        self.in_features, self.hidden_features = int(in_features), int(hidden_features)
        inputs = [init.glorot_uniform((in_features, n), rng, dtype) for _ in range(gates)]
        hidden = [init.orthogonal((n, n), rng, dtype) for _ in range(gates)]
        self.input_weight = Parameter(np.concatenate(inputs, axis=1))
        self.hidden_weight = Parameter(np.concatenate(hidden, axis=1))
        self.input_bias = Parameter(init.zeros((gates * n,), dtype)) if bias else None
        self.hidden_bias = Parameter(init.zeros((gates * n,), dtype)) if bias else None

    def forward(self, x: Any, state: Any = None) -> Any:
        """The next state, from an input and the state (by default 0)."""
        x = as_tensor(x)
        if x.ndim != 2 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"{self!r} was given inputs of shape {x.shape}; it needs (N, {self.in_features}), one step of each "
                f"sequence ({self.layer} goes through whole ones)"
            )
        state = _checked_state(self, self.states, state, (x.shape[0], self.hidden_features), x.dtype)
        return self.step(self.from_input(x), state)

    def from_input(self, x: Tensor) -> Tensor:
        """What the gates get from inputs, and from both biases where these add up: one product for any number of steps.

        Shape: (..., in_features) -> (..., gates * hidden_features)
        """
        if x.dtype != self.input_weight.dtype:
            raise TypeError(
                f"{type(self).__name__}: the input is {x.dtype}, the weights {self.input_weight.dtype}; "
                f"write x.astype(np.{self.input_weight.dtype})"
            )
        y = x @ self.input_weight
        if self.input_bias is None or self.hidden_bias is None:
            return y
        return y + (self.input_bias + self.hidden_bias if self.sums else self.input_bias)  # once for all steps

    def from_state(self, h: Tensor) -> Tensor:
        """What the gates get from the state.

        Shape: (N, hidden_features) -> (N, gates * hidden_features)
        """
        y = h @ self.hidden_weight
        return y if self.sums or self.hidden_bias is None else y + self.hidden_bias

    def step(self, from_input: Tensor, state: Any) -> Any:
        """The next state, from what the gates get from the input, and the state."""
        raise NotImplementedError

    def split(self, gates: Tensor) -> Any:
        """The gates, one by one: (N, gates * hidden_features) -> gates times (N, hidden_features)."""
        return functional.unstack(gates.reshape(gates.shape[0], self.gates, self.hidden_features), axis=1)

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        return f"{self.in_features}, {self.hidden_features}{'' if self.input_bias is not None else ', bias=False'}"


class RNNCell(_Cell):
    """One step of a recurrent network without gates (Elman 1990).

        h' = activation(x @ W + b + h @ U + c)

    W, `input_weight` of shape (in_features, hidden_features), starts with the variance of Glorot and Bengio 2010, U,
    `hidden_weight`, orthogonal (Saxe et al. 2014), the biases at 0. `activation` is a name, "tanh" or "relu", or any
    callable.

    Shape: (N, in_features), (N, hidden_features) -> (N, hidden_features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> RNNCell(3, 4, rng=0)(np.ones((2, 3), np.float32)).shape
    (2, 4)
    """

    gates = 1
    layer = "an RNN"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        bias: bool = True,
        activation: Activation = "tanh",
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(in_features, hidden_features, bias, rng=rng, dtype=dtype)
        self.activation = activation_function(activation) or as_tensor

    def step(self, from_input: Tensor, state: Tensor) -> Tensor:
        """activation(from_input + from_state(h))"""
        return self.activation(from_input + self.from_state(state))

    def describe(self) -> str:
        """Sizes, and options that differ from the usual ones."""
        usual = self.activation is np.tanh
        return super().describe() + (
            "" if usual else f", activation={getattr(self.activation, '__name__', self.activation)}"
        )


class LSTMCell(_Cell):
    """One step of long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000), in PyTorch's order.

        i = sigmoid(x @ Wi + bi + h @ Ui + ci)           how much of the candidate is written
        f = sigmoid(x @ Wf + bf + h @ Uf + cf)           how much of the memory stays
        g = tanh(x @ Wg + bg + h @ Ug + cg)              the candidate
        o = sigmoid(x @ Wo + bo + h @ Uo + co)           how much of the memory shows
        c' = f * c + i * g
        h' = o * tanh(c')

    The four W lie side by side in `input_weight`, (in_features, 4 * hidden_features), the U in `hidden_weight`. Each W
    starts with the variance of Glorot and Bengio 2010, each U orthogonal (Saxe et al. 2014), the biases at 0, but bf
    at 1, so that memory stays at first (Jozefowicz et al. 2015). The state is the pair (h, c).

    Shape: (N, in_features), ((N, hidden_features), (N, hidden_features)) -> (N, hidden_features), (N, hidden_features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> h, c = LSTMCell(3, 4, rng=0)(np.ones((2, 3), np.float32))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    gates = 4
    states = 2
    layer = "an LSTM"

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(in_features, hidden_features, bias, rng=rng, dtype=dtype)
        if self.input_bias is not None:
            self.input_bias.value[hidden_features : 2 * hidden_features] = 1

    def step(self, from_input: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """C = sigmoid(f) * c + sigmoid(i) * tanh(g); h = sigmoid(o) * tanh(c)"""
        h, c = state
        i, f, g, o = self.split(from_input + self.from_state(h))
        c = functional.sigmoid(f) * c + functional.sigmoid(i) * np.tanh(g)
        return functional.sigmoid(o) * np.tanh(c), c


class GRUCell(_Cell):
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

    gates = 3
    sums = False
    layer = "a GRU"

    def step(self, from_input: Tensor, state: Tensor) -> Tensor:
        """r, z = sigmoid(...); n = tanh(xn + r * hn); h = (1 - z) * n + z * h"""
        xr, xz, xn = self.split(from_input)
        hr, hz, hn = self.split(self.from_state(state))
        r = functional.sigmoid(xr + hr)
        z = functional.sigmoid(xz + hz)
        n = np.tanh(xn + r * hn)
        return n + z * (state - n)


# ---------------------------------------------------------------------------------------------------------------------
# Whole sequences
# ---------------------------------------------------------------------------------------------------------------------


class _Recurrent(Module):
    """Cells that go through sequences, in layers on top of each other, from the front and, if wanted, from the back."""

    cell: ClassVar[type[_Cell]]

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
        **options: Any,
    ) -> None:
        positive_integers(self, in_features=in_features, hidden_features=hidden_features, layers=layers)
        rng = init.generator(rng)
        self.in_features, self.hidden_features = int(in_features), int(hidden_features)
        directions = 2 if bidirectional else 1
        sizes = [in_features] + [directions * hidden_features] * (layers - 1)
        options = {"bias": bias, "rng": rng, "dtype": dtype, **options}
        self.cells = [self.cell(n, hidden_features, **options) for n in sizes]
        self.backward_cells = [self.cell(n, hidden_features, **options) for n in sizes] if bidirectional else []
        self.dropout = Dropout(dropout, rng) if dropout else None

    def forward(self, x: Any, state: Any = None, lengths: Any = None, mask: Any = None) -> tuple[Tensor, State]:
        """The states at each step of the last layer, and at the last step of each layer."""
        x = as_tensor(x)
        if x.ndim != 3 or x.shape[-1] != self.in_features or not x.shape[1]:
            raise ValueError(
                f"{self!r} was given {x.shape}; it needs (N, steps, {self.in_features}), one step at least"
            )
        present = self._present(x.shape[:2], lengths, mask)
        layers = [*zip(*filter(None, (self.cells, self.backward_cells)), strict=True)]
        shape = (len(layers) * len(layers[0]), x.shape[0], self.hidden_features)
        state = _checked_state(self, self.cell.states, state, shape, x.dtype)
        parts = _each(functional.unstack, state)
        starts = iter(zip(*parts, strict=True) if isinstance(state, tuple) else parts)
        last: list[State] = []
        for number, cells in enumerate(layers):
            if number and self.dropout is not None:
                x = self.dropout(x)
            found = [_through(cell, x, next(starts), present, backward=i == 1) for i, cell in enumerate(cells)]
            x = found[0][0] if len(found) == 1 else np.concatenate([outputs for outputs, _ in found], axis=-1)
            last += [end for _, end in found]
        return x, _each(lambda *ends: np.stack(ends), *last)

    def _present(self, shape: tuple[int, ...], lengths: Any, mask: Any) -> Tensor | None:
        """Where there are steps, (N, steps), or None where all of them are."""
        if lengths is None and mask is None:
            return None
        if lengths is not None and mask is not None:
            raise ValueError(f"{self!r} was given lengths and a mask; give one of them")
        n, steps = shape
        if mask is not None:
            mask = as_tensor(mask)
            if mask.dtype != bool:
                raise TypeError(f"{self!r}: the mask is {mask.dtype}; it needs booleans, True where there is a step")
            if mask.shape != (n, steps):
                raise ValueError(f"{self!r}: the mask has shape {mask.shape}; for this input it needs {(n, steps)}")
            return mask
        lengths = as_tensor(lengths)
        if lengths.dtype.kind not in "iu":
            raise TypeError(f"{self!r}: the lengths are {lengths.dtype}; write lengths.astype(np.int64)")
        if lengths.shape != (n,):
            raise ValueError(f"{self!r}: the lengths have shape {lengths.shape}; for this input they need {(n,)}")
        lengths = checked(lengths, partial(_check_lengths, repr(self), steps))
        return functional.sequence_mask(lengths, steps)

    def torch_name(self, path: str) -> str:
        """PyTorch counts the layers behind the name: "weight_ih_l0" for the first cell's "weight_ih"."""
        path = re.sub(r"^cells\.(\d+)\.(\w+)", r"\2_l\1", path)
        return re.sub(r"^backward_cells\.(\d+)\.(\w+)", r"\2_l\1_reverse", path)

    def __repr__(self) -> str:
        first = self.cells[0]
        layers = f", layers={len(self.cells)}" if len(self.cells) > 1 else ""
        backward = ", bidirectional=True" if self.backward_cells else ""
        dropout = "" if self.dropout is None else f", dropout={self.dropout.rate}"
        options = first.describe().removeprefix(f"{first.in_features}, {first.hidden_features}")
        return f"{type(self).__name__}({self.in_features}, {self.hidden_features}{layers}{backward}{dropout}{options})"


class RNN(_Recurrent):
    """Recurrent networks without gates that go through sequences, in layers on top of each other (Elman 1990).

    `layer(x)` starts from zeros, `layer(x, state)` from a state of shape (layers, N, hidden_features). It returns the
    last layer's state at each step, and all layers' states at the end. Equation and initial weights: `RNNCell`.

    With `bidirectional`, each layer also goes from the back to the front: features of both directions lie side by side,
    and states count layer by layer, forward before backward. `dropout` falls on what one layer gives to the next.
    Sequences of different `lengths`, (N,), or with steps where a `mask`, (N, steps), is True: a step beyond keeps the
    state as it is, and its output is 0.

    Shape: (N, steps, in_features) -> (N, steps, hidden_features), (layers, N, hidden_features)

    Raises ValueError for shapes and lengths that do not fit, TypeError for another dtype.

    >>> outputs, state = RNN(3, 4, bidirectional=True, rng=0)(np.ones((2, 7, 3), np.float32), lengths=[7, 4])
    >>> outputs.shape, state.shape
    ((2, 7, 8), (2, 2, 4))
    """

    cell = RNNCell

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        layers: int = 1,
        bias: bool = True,
        bidirectional: bool = False,
        dropout: float = 0.0,
        activation: Activation = "tanh",
        *,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        sizes = in_features, hidden_features, layers
        super().__init__(*sizes, bias, bidirectional, dropout, rng=rng, dtype=dtype, activation=activation)


class LSTM(_Recurrent):
    """Long short-term memory that goes through sequences, in layers (Hochreiter and Schmidhuber 1997).

    `layer(x)` starts from zeros, `layer(x, (h, c))` from a state, two arrays of shape (layers, N, hidden_features). It
    returns the last layer's h at each step, and all layers' (h, c) at the end. Equations and initial weights:
    `LSTMCell`; `bidirectional`, `dropout`, `lengths` and `mask`: `RNN`.

    Shape: (N, steps, in_features) -> (N, steps, hidden_features), ((layers, N, hidden_features), twice)

    Raises ValueError for shapes and lengths that do not fit, TypeError for another dtype.

    >>> outputs, (h, c) = LSTM(3, 4, layers=2, rng=0)(np.ones((2, 7, 3), np.float32))
    >>> outputs.shape, h.shape, c.shape
    ((2, 7, 4), (2, 2, 4), (2, 2, 4))
    """

    cell = LSTMCell


class GRU(_Recurrent):
    """Gated recurrent units that go through sequences, in layers on top of each other (Cho et al. 2014).

    `layer(x)` starts from zeros, `layer(x, state)` from a state of shape (layers, N, hidden_features). It returns the
    last layer's state at each step, and all layers' states at the end. Equations and initial weights: `GRUCell`;
    `bidirectional`, `dropout`, `lengths` and `mask`: `RNN`.

    Shape: (N, steps, in_features) -> (N, steps, hidden_features), (layers, N, hidden_features)

    Raises ValueError for shapes and lengths that do not fit, TypeError for another dtype.

    >>> outputs, state = GRU(3, 4, layers=2, rng=0)(np.ones((2, 7, 3), np.float32))
    >>> outputs.shape, state.shape
    ((2, 7, 4), (2, 2, 4))
    """

    cell = GRUCell


def _through(
    cell: _Cell, x: Tensor, state: State, present: Tensor | None, backward: bool = False
) -> tuple[Tensor, State]:
    """The outputs of a cell at each step, and its last state; a step that is not `present` keeps the state."""
    inputs = functional.unstack(cell.from_input(x), axis=1)
    steps = [None] * len(inputs) if present is None else functional.unstack(present[..., None], axis=1)
    turns = [*zip(inputs, steps, strict=True)]
    outputs = []
    for from_input, here in reversed(turns) if backward else turns:
        new = cell.step(from_input, state)
        state = new if here is None else _each(partial(np.where, here), new, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    y: Any = np.stack(outputs[::-1] if backward else outputs, axis=1)
    return y if present is None else np.where(present[..., None], y, 0), state  # type: ignore[return-value]


def _each(f: Callable[..., Any], *states: State) -> Any:
    """A function of states, or of each part of pairs."""
    if isinstance(states[0], tuple):
        return tuple(f(*parts) for parts in zip(*states, strict=True))
    return f(*states)


def _checked_state(owner: Module, parts: int, state: Any, shape: tuple[int, ...], dtype: Any) -> State:
    """A state as it was given, checked; zeros where there is none."""
    if state is None:
        zeros = tuple(Tensor(np.zeros(shape, dtype)) for _ in range(parts))
        return zeros if parts > 1 else zeros[0]
    if parts > 1 and not (isinstance(state, Sequence) and len(state) == parts):
        raise ValueError(f"{owner!r}: its state is a pair (h, c); give two arrays of shape {shape}")
    given = tuple(map(as_tensor, state)) if parts > 1 else (as_tensor(state),)
    for part in given:
        if part.shape != shape:
            raise ValueError(f"{owner!r}: the state has shape {part.shape}; for this input it needs {shape}")
        if part.dtype != dtype:
            raise TypeError(f"{owner!r}: the state is {part.dtype}, the input {dtype}; write state.astype(np.{dtype})")
    return given if parts > 1 else given[0]


def _check_lengths(owner: str, steps: int, lengths: Any) -> None:
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= steps:
        raise ValueError(
            f"{owner}: the lengths lie in {lengths.min()}..{lengths.max()}, but the input has {steps} steps"
        )
