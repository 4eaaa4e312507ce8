"""Layers that are one operation in ONNX, though several in the recorded graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.functional.sliding import padding_pairs
from tinygrad_mm.graph import Vertex
from tinygrad_mm.nn import (
    GRU,
    LSTM,
    RNN,
    AvgPool1d,
    AvgPool2d,
    ConstantPad1d,
    ConstantPad2d,
    Conv1d,
    Conv2d,
    ConvTranspose1d,
    ConvTranspose2d,
    Embedding,
    ReflectionPad1d,
    ReflectionPad2d,
    ReplicationPad1d,
    ReplicationPad2d,
    ZeroPad1d,
    ZeroPad2d,
)
from tinygrad_mm.onnx.writing import Graph, Names, pads

__all__ = ["LAYERS", "LayerCall"]


class LayerCall(NamedTuple):
    """One call of a layer: what it was given, in this run and in the other, and all between there and its results."""

    module: Any
    given: tuple[Any, ...]
    again: tuple[Any, ...]
    inner: list[Vertex]
    graph: Graph
    names: Names

    def input(self, i: int) -> str:
        """The name of an argument."""
        return self.names.of(self.given[i], self.again[i])

    def parameter(self, p: Any) -> str:
        """The name of a parameter."""
        return self.names.of(p, p)

    def unsupported(self, what: str) -> TypeError:
        """The error of a call that has no form in ONNX here."""
        return TypeError(f"onnx.export: {type(self.module).__name__} with {what} has no form in ONNX here")


Results = Callable[[int], str]  # the name of each result


def _tuples(module: Any, names: str, axes: int) -> dict[str, tuple[int, ...]]:
    """A layer's options, each as a tuple with one number for each axis."""
    found = {name: getattr(module, name) for name in names.split()}
    return {name: tuple(map(int, np.broadcast_to(n, axes))) for name, n in found.items()}


def _convolution(call: LayerCall) -> Results:
    module, size = call.module, call.module.kernel_size
    options = _tuples(module, "stride dilation", len(size))
    pairs = padding_pairs(type(module).__name__, module.padding, size, options["stride"], options["dilation"])
    parameters = [call.parameter(p) for p in (module.weight, module.bias) if p is not None]
    name = call.graph.add(
        *("Conv", call.input(0), *parameters),
        kernel_shape=size,
        strides=options["stride"],
        dilations=options["dilation"],
        pads=pads(pairs),
        group=module.groups,
    )
    return lambda i: name


def _transposed_convolution(call: LayerCall) -> Results:
    module, size = call.module, call.module.kernel_size
    options = _tuples(module, "stride dilation padding output_padding", len(size))
    parameters = [call.parameter(p) for p in (module.weight, module.bias) if p is not None]
    name = call.graph.add(
        *("ConvTranspose", call.input(0), *parameters),
        kernel_shape=size,
        strides=options["stride"],
        dilations=options["dilation"],
        pads=pads([(n, n) for n in options["padding"]]),
        output_padding=options["output_padding"],
        group=module.groups,
    )
    return lambda i: name


def _average_pooling(call: LayerCall) -> Results:
    module, axes = call.module, call.given[0].ndim - 2
    options = _tuples(module, "kernel_size padding", axes)
    stride = options["kernel_size"] if module.stride is None else _tuples(module, "stride", axes)["stride"]
    name = call.graph.add(
        *("AveragePool", call.input(0)),
        kernel_shape=options["kernel_size"],
        strides=stride,
        pads=pads([(n, n) for n in options["padding"]]),
        count_include_pad=int(module.count_include_pad),
    )
    return lambda i: name


def _padding(call: LayerCall) -> Results:
    module = call.module
    sides = module.padding  # before and after the last axis, then the one before
    pairs = [(0, 0), (0, 0), *((sides[i], sides[i + 1]) for i in range(len(sides) - 2, -1, -2))]
    value = np.asarray(module.options().get("constant_values", 0), call.given[0].dtype)
    filled = [call.graph.constant(value)] if module.mode == "constant" else []
    name = call.graph.add("Pad", call.input(0), call.graph.integers(pads(pairs)), *filled, mode=module.mode)
    return lambda i: name


def _embedding(call: LayerCall) -> Results:
    name = call.graph.add("Gather", call.parameter(call.module.weight), call.input(0), axis=0)
    return lambda i: name


# For each recurrent layer the order of its gates in ONNX, by their places here.
GATES = {RNN: (0,), LSTM: (0, 3, 1, 2), GRU: (1, 0, 2)}
ACTIVATIONS = {np.tanh: "Tanh", functional.relu: "Relu"}


def _recurrent(call: LayerCall) -> Results:
    """Each layer is an operation; the result is that of the last one, and the states of all of them."""
    module, graph = call.module, call.graph
    kind = next(kind for kind in GATES if isinstance(module, kind))
    if any(v.node is not None and v.node.fun is np.where for v in call.inner):
        raise call.unsupported("lengths or a mask")
    directions = 2 if module.backward_cells else 1
    options: dict[str, Any] = {"hidden_size": module.hidden_features}
    options |= {"direction": "bidirectional"} if directions == 2 else {}
    options |= {"linear_before_reset": 1} if kind is GRU else {}
    if kind is RNN:
        if module.cells[0].activation not in ACTIVATIONS:
            raise call.unsupported("its activation")
        options["activations"] = [ACTIVATIONS[module.cells[0].activation]] * directions
    x = graph.add("Transpose", call.input(0), perm=[1, 0, 2])  # (steps, N, features)
    starts = [call.input(i) for i in range(1, len(call.given))]
    ends: list[list[str]] = []
    for number, cell in enumerate(module.cells):
        cells = [cell, *module.backward_cells[number : number + 1]]
        weights = _weights(call, cells, GATES[kind])
        first, last = (graph.integers([directions * k]) for k in (number, number + 1))
        states = [graph.add("Slice", start, first, last, graph.integers([0])) for start in starts]
        inputs = [x, *weights, *([""] if states and len(weights) == 2 else []), *([""] if states else []), *states]
        y, *state = graph.add_several(kind.__name__, inputs, 1 + module.cell.states, **options)
        ends.append(state)
        y = graph.add("Transpose", y, perm=[0, 2, 1, 3])  # (steps, N, directions, features)
        x = graph.add("Reshape", y, graph.integers([0, 0, directions * module.hidden_features]))

    def result(i: int) -> str:
        if i == 0:
            return graph.add("Transpose", x, perm=[1, 0, 2])
        return graph.add("Concat", *(state[i - 1] for state in ends), axis=0)

    return result


def _weights(call: LayerCall, cells: list[Any], gates: tuple[int, ...]) -> list[str]:
    """The weights of a layer, a direction after the other, in ONNX's layout and under names of their own."""

    def arranged(p: Any) -> Any:
        parts = np.split(p.value, len(gates), axis=-1)
        return np.concatenate([parts[i] for i in gates], axis=-1).T

    found = {"W": [arranged(c.input_weight) for c in cells], "R": [arranged(c.hidden_weight) for c in cells]}
    if cells[0].input_bias is not None:
        found["B"] = [np.concatenate([arranged(c.input_bias), arranged(c.hidden_bias)]) for c in cells]
    home = call.names.parameters[id(cells[0].input_weight)].rpartition(".")[0]
    made = []
    for name, parts in found.items():
        key = id(cells[0].input_weight), name
        if key not in call.names.arranged:  # a layer that is called twice
            call.names.arranged[key] = call.graph.constant(np.stack(parts), f"{home}.{name}".lstrip("."))
        made.append(call.names.arranged[key])
    return made


PADDINGS = (
    *(ZeroPad1d, ZeroPad2d, ConstantPad1d, ConstantPad2d),
    *(ReflectionPad1d, ReflectionPad2d, ReplicationPad1d, ReplicationPad2d),
)
LAYERS: dict[type, Callable[[LayerCall], Results]] = {
    Conv1d: _convolution,
    Conv2d: _convolution,
    ConvTranspose1d: _transposed_convolution,
    ConvTranspose2d: _transposed_convolution,
    AvgPool1d: _average_pooling,
    AvgPool2d: _average_pooling,
    Embedding: _embedding,
    **dict.fromkeys(PADDINGS, _padding),
    RNN: _recurrent,
    LSTM: _recurrent,
    GRU: _recurrent,
}
