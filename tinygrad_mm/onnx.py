"""ONNX: a network's forward pass as a file that other programs run (extra `onnx`).

Floor 8. The graph that the network records is written down call by call: a row of `OPERATIONS` for each function. A
convolution, which is a product of matrices in the graph, becomes ONNX's own operation. What does not depend on the
input is a constant of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.functional.activations import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, softmax
from tinygrad_mm.functional.error_function import erf
from tinygrad_mm.functional.normalization import standardize
from tinygrad_mm.functional.pooling import _max_pool
from tinygrad_mm.functional.sliding import padding_pairs
from tinygrad_mm.graph import Node, Vertex, name_of, select, topological
from tinygrad_mm.nn import Conv1d, Conv2d, Module
from tinygrad_mm.rules.indexing import getitem
from tinygrad_mm.tensor import Tensor

__all__ = ["export"]

OPSET = 20  # the first one that has Gelu
IR_VERSION = 9  # its file format


def export(model: Module, path: str | os.PathLike[str], input: Any) -> Path:
    """Write a network's forward pass, in evaluation mode, into an ONNX file; returns its path.

    `input` is one batch: an array of floating numbers whose first axis counts the examples. The file takes any number
    of them, of the same shape.

    Shape: input (n, ...)

    Raises TypeError for a function that has no form in ONNX here, or where the result is not one array; ValueError
    where the program that the network records depends on the number of examples; ImportError without the extra.

    >>> import tempfile
    >>> from tinygrad_mm import nn
    >>> model = nn.Sequential(nn.Dense(4, 8, activation="relu", rng=0), nn.Dense(8, 3, rng=1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(model, Path(folder, "model.onnx"), np.zeros((1, 4), np.float32)).stat().st_size > 0
    True
    """
    try:
        from onnx import checker, helper, save_model
    except ImportError as error:
        raise ImportError("tg.onnx.export needs the package onnx: pip install 'tinygrad_mm[onnx]'") from error
    x = as_array(input)
    if x.dtype.kind != "f" or x.ndim == 0 or len(x) == 0:
        raise TypeError(
            f"onnx.export: the input is {x.dtype} of shape {x.shape}; give a batch of floating numbers, (n, ...)"
        )
    first, more = _Run(model, np.resize(x, (2, *x.shape[1:]))), _Run(model, np.resize(x, (3, *x.shape[1:])))
    graph = _Graph()
    result = _written(graph, model, first, more)
    result = graph.add("Identity", result)
    graph.nodes[-1].output[:] = ["output"]
    values = [("input", x), ("output", first.output.value)]
    ends = [
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), ["n", *a.shape[1:]])]
        for name, a in values
    ]
    body = helper.make_graph(graph.nodes, type(model).__name__, *ends, graph.constants)
    opset = helper.make_opsetid("", OPSET)
    made = helper.make_model(body, producer_name="tinygrad_mm", ir_version=IR_VERSION, opset_imports=[opset])
    checker.check_model(made, full_check=True)
    save_model(made, os.fspath(path))
    return Path(path)


class _Run:
    """One forward pass: its input, its output, all calls in order, and the convolutions among them by their outputs."""

    def __init__(self, model: Module, x: Any) -> None:
        self.input = Tensor(x, requires_grad=True)
        self.convolutions: dict[int, tuple[Any, Vertex]] = {}
        modules = [module for _, module in model.named_modules()]
        modes = [module.training for module in modules]
        removers = [m.register_forward_hook(self._note) for m in modules if isinstance(m, (Conv1d, Conv2d))]
        try:
            self.output = model.eval()(self.input)
        finally:
            for remove in removers:
                remove()
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
        if not isinstance(self.output, Tensor):
            raise TypeError(
                f"onnx.export: {type(model).__name__} returned a {type(self.output).__name__}, not one Tensor"
            )
        self.calls = topological([self.output], everything=True)

    def _note(self, module: Any, args: Any, output: Any) -> None:
        if isinstance(args[0], Vertex):
            self.convolutions[id(output)] = module, args[0]


class _Graph:
    """The nodes and constants of a file under way."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """One more node; returns the name of its output."""
        from onnx import helper

        name = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str | None = None) -> str:
        """One more constant; returns its name."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def integers(self, values: Any) -> str:
        """A constant list of whole numbers: shapes, axes."""
        return self.constant(np.array(values, np.int64))


def _written(graph: _Graph, model: Module, first: _Run, more: _Run) -> str:
    """Write down the calls of one run; returns the name of the result.

    The other run, of another number of examples, tells which sizes in shapes are that number.
    """
    if [v.node and v.node.fun for v in first.calls] != [v.node and v.node.fun for v in more.calls]:
        raise ValueError("onnx.export: the network makes other calls for another number of examples")
    names = _Names(graph, first.input, [*model.named_parameters(), *model.named_buffers()])
    inner = _inside_convolutions(first)
    for vertex, other in zip(first.calls, more.calls, strict=True):
        if id(vertex) in first.convolutions:
            module, x = first.convolutions[id(vertex)]
            parameters = [names.of(p, p) for p in (module.weight, module.bias) if p is not None]
            names.given[id(vertex)] = graph.add("Conv", names.of(x, x), *parameters, **_options(module))
        elif vertex.node is not None and id(vertex) not in inner and names.any_of(vertex.node.args or ()):
            if vertex.node.fun not in OPERATIONS:
                raise TypeError(
                    f"onnx.export: {name_of(vertex.node.fun)} has no form in ONNX here; write the network with "
                    + ", ".join(sorted({name_of(fun) for fun in OPERATIONS} | {"Conv1d", "Conv2d"}))
                )
            names.given[id(vertex)] = OPERATIONS[vertex.node.fun](_Call(graph, names, vertex, other))
    if id(first.output) not in names.given:
        raise TypeError("onnx.export: the result does not depend on the input")
    return names.given[id(first.output)]


def _inside_convolutions(run: _Run) -> set[int]:
    """The calls that a convolution is made of: those between its input and its output."""
    found: set[int] = set()
    for vertex in run.calls:
        if id(vertex) in run.convolutions:
            waiting = [vertex]
            while waiting:
                for a in (waiting.pop().node or _NOTHING).args or ():
                    if isinstance(a, Vertex) and a is not run.convolutions[id(vertex)][1] and id(a) not in found:
                        found.add(id(a))
                        waiting.append(a)
    return found


_NOTHING = Node(None, (), {})  # type: ignore[arg-type]


class _Names:
    """What values are called in the file: those computed from the input, and constants when they are first used."""

    def __init__(self, graph: _Graph, x: Tensor, parameters: list[tuple[str, Tensor]]) -> None:
        self.graph, self.given = graph, {id(x): "input"}
        self.parameters = {id(p): name for name, p in parameters}
        self.constants: dict[int, str] = {}

    def any_of(self, arguments: Any) -> bool:
        """Whether something among the arguments was computed from the input."""
        return any(id(a) in self.given for a in arguments)

    def of(self, argument: Any, other: Any, dtype: Any = None) -> str:
        """The name of an argument, which is `other` in the other run; plain numbers are of the dtype."""
        if argument is None:
            return ""
        if id(argument) in self.given:
            return self.given[id(argument)]
        if not isinstance(argument, (Vertex, np.ndarray)):
            return self.graph.constant(np.asarray(argument, dtype))
        value, again = (a.value if isinstance(a, Vertex) else a for a in (argument, other))
        if not np.array_equal(value, again):
            raise ValueError(f"onnx.export: a constant of shape {value.shape} depends on the number of examples")
        if id(argument) not in self.constants:
            self.constants[id(argument)] = self.graph.constant(value, self.parameters.get(id(argument)))
        return self.constants[id(argument)]


class _Call:
    """One recorded call, as a row of `OPERATIONS` sees it."""

    def __init__(self, graph: _Graph, names: _Names, vertex: Vertex, other: Vertex) -> None:
        assert vertex.node is not None
        assert other.node is not None
        self.graph, self.names, self.node, self.again = graph, names, vertex.node, other.node
        self.value, self.other_value = vertex.value, other.value
        self.args, self.kwargs = self.node.args or (), self.node.kwargs
        floats = [
            a.value.dtype
            for a in self.args
            if isinstance(a, Vertex)
            and a.value is not None
            and not isinstance(a.value, tuple)
            and a.value.dtype.kind == "f"
        ]
        self.dtype = floats[0] if floats else None

    @property
    def x(self) -> Any:
        """The array that is the first argument."""
        return getattr(self.args[0], "value", self.args[0])

    def input(self, i: int) -> str:
        """The name of an argument."""
        return self.names.of(self.args[i], (self.again.args or ())[i], self.dtype)

    def inputs(self) -> list[str]:
        """The names of all arguments."""
        return [self.input(i) for i in range(len(self.args))]

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """One more node; returns its name."""
        return self.graph.add(operation, *inputs, **attributes)

    def unsupported(self, what: str) -> TypeError:
        """The error of a call that has no form in ONNX here."""
        return TypeError(f"onnx.export: {name_of(self.node.fun)} with {what} has no form in ONNX here")


def _options(module: Any) -> dict[str, Any]:
    """A convolution's attributes in ONNX."""
    size, axes = module.kernel_size, len(module.kernel_size)
    stride, dilation = ((n,) * axes if isinstance(n, int) else tuple(n) for n in (module.stride, module.dilation))
    pairs = padding_pairs(type(module).__name__, module.padding, size, stride, dilation)
    return {
        "kernel_shape": size,
        "strides": stride,
        "dilations": dilation,
        "pads": _pads(pairs),
        "group": module.groups,
    }


def _pads(pairs: Any) -> list[int]:
    """All paddings before the axes, then all after: ONNX's order."""
    return [before for before, _ in pairs] + [after for _, after in pairs]


# ---------------------------------------------------------------------------------------------------------------------
# One function for each kind of call
# ---------------------------------------------------------------------------------------------------------------------


def _as(operation: str, **usual: Any) -> Callable[[_Call], str]:
    """The operation on the same arguments; `usual` are its attributes where the call does not give them."""
    return lambda call: call.add(operation, *call.inputs(), **{k: call.kwargs.get(k, v) for k, v in usual.items()})


def _reduction(operation: str) -> Callable[[_Call], str]:
    def write(call: _Call) -> str:
        if call.kwargs.keys() - {"axis", "keepdims"}:
            raise call.unsupported(", ".join(call.kwargs))
        axis = call.kwargs.get("axis")
        axes = [] if axis is None else [call.graph.integers(np.atleast_1d(axis))]
        return call.add(operation, call.input(0), *axes, keepdims=int(call.kwargs.get("keepdims", False)))

    return write


def _reshaped(call: _Call) -> str:
    """The shape of the result; what differs between the runs is the number of examples, or a multiple of it."""
    shape = [n if n == m else -1 for n, m in zip(call.value.shape, call.other_value.shape, strict=True)]
    if shape.count(-1) > 1 or call.kwargs.get("order", "C") != "C":
        raise call.unsupported(f"the result's shape {call.value.shape}")
    return call.add("Reshape", call.input(0), call.graph.integers(shape))


def _transposed(call: _Call) -> str:
    """The order of the axes, found by what the function does to an array whose sizes are all different."""
    sizes = tuple(range(2, 2 + call.x.ndim))
    moved = call.node.fun(np.broadcast_to(np.float32(0), sizes), *call.args[1:], **call.kwargs)
    return call.add("Transpose", call.input(0), perm=[n - 2 for n in moved.shape])


def _sliced(call: _Call) -> str:
    keys = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if len(call.args) > 2 or not all(isinstance(key, slice) and (key.step or 1) > 0 for key in keys):
        raise call.unsupported(f"the index {call.args[1]!r}")
    chosen = [(axis, key.indices(call.x.shape[axis])) for axis, key in enumerate(keys) if key != slice(None)]
    if any(axis == 0 for axis, _ in chosen):
        raise call.unsupported("some of the examples")
    starts, stops, steps = ([each[1][i] for each in chosen] for i in range(3))
    axes = [axis for axis, _ in chosen]
    return call.add("Slice", call.input(0), *map(call.graph.integers, (starts, stops, axes, steps)))


def _log_add_exp(call: _Call) -> str:
    """max(a, b) + log(1 + exp(-|a - b|))"""
    if not isinstance(call.args[1], Vertex) and np.ndim(call.args[1]) == 0 and call.args[1] == 0:
        return call.add("Softplus", call.input(0))
    a, b = call.inputs()
    distance = call.add("Abs", call.add("Sub", a, b))
    return call.add("Add", call.add("Max", a, b), call.add("Softplus", call.add("Neg", distance)))


def _standardized(call: _Call) -> str:
    axes, ndim = call.kwargs["axes"], call.x.ndim
    if tuple(sorted(a % ndim for a in axes)) != tuple(range(ndim - len(axes), ndim)) or 0 in axes:
        raise call.unsupported(f"axes={axes}")
    ones = call.graph.constant(np.ones([call.x.shape[a] for a in sorted(a % ndim for a in axes)], call.x.dtype))
    return call.add(
        "LayerNormalization", call.input(0), ones, axis=-len(axes), epsilon=call.kwargs.get("epsilon", 1e-5)
    )


def _selected(call: _Call) -> str:
    if call.args[1] != 0:
        raise call.unsupported("more than its first result")
    return call.input(0)


def _largest_under_windows(call: _Call) -> str:
    options = call.kwargs
    return call.add(
        *("MaxPool", call.input(0)),
        kernel_shape=options["size"],
        strides=options["stride"],
        dilations=options["dilation"],
        pads=_pads(options["padding"]),
    )


OPERATIONS: dict[Callable[..., Any], Callable[[_Call], str]] = {
    np.add: _as("Add"),
    np.subtract: _as("Sub"),
    np.multiply: _as("Mul"),
    np.divide: _as("Div"),
    np.power: _as("Pow"),
    np.matmul: _as("MatMul"),
    np.maximum: _as("Max"),
    np.minimum: _as("Min"),
    np.negative: _as("Neg"),
    np.absolute: _as("Abs"),
    np.exp: _as("Exp"),
    np.log: _as("Log"),
    np.sqrt: _as("Sqrt"),
    np.square: lambda call: call.add("Mul", call.input(0), call.input(0)),
    np.reciprocal: _as("Reciprocal"),
    np.sin: _as("Sin"),
    np.cos: _as("Cos"),
    np.tanh: _as("Tanh"),
    np.logaddexp: _log_add_exp,
    np.clip: _as("Clip"),
    np.where: _as("Where"),
    np.greater: _as("Greater"),
    np.greater_equal: _as("GreaterOrEqual"),
    np.less: _as("Less"),
    np.less_equal: _as("LessOrEqual"),
    np.mean: _reduction("ReduceMean"),
    np.sum: _reduction("ReduceSum"),
    np.max: _reduction("ReduceMax"),
    np.min: _reduction("ReduceMin"),
    np.reshape: _reshaped,
    np.ravel: _reshaped,
    np.squeeze: _reshaped,
    np.expand_dims: _reshaped,
    np.transpose: _transposed,
    np.moveaxis: _transposed,
    np.swapaxes: _transposed,
    getitem: _sliced,
    select: _selected,
    relu: _as("Relu"),
    leaky_relu: lambda call: call.add("LeakyRelu", call.input(0), alpha=call.kwargs.get("negative_slope", 0.01)),
    elu: _as("Elu", alpha=1.0),
    gelu: _as("Gelu", approximate="none"),
    sigmoid: _as("Sigmoid"),
    softmax: _as("Softmax", axis=-1),
    log_softmax: _as("LogSoftmax", axis=-1),
    erf: _as("Erf"),
    standardize: _standardized,
    _max_pool: _largest_under_windows,
}
