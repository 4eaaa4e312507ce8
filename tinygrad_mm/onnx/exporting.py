"""`export`: two runs of a network, and the file that they are written down to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.graph import Vertex, entered, name_of, topological
from tinygrad_mm.nn import Module
from tinygrad_mm.onnx.layers import LAYERS, LayerCall
from tinygrad_mm.onnx.operations import OPERATIONS
from tinygrad_mm.onnx.writing import Call, Graph, Names
from tinygrad_mm.tensor import Tensor

__all__ = ["export"]

OPSET = 20  # the first one that has Gelu
IR_VERSION = 9  # its file format


def export(model: Module, path: str | os.PathLike[str], input: Any) -> Path:
    """Write a network's forward pass, in evaluation mode, into an ONNX file; returns its path.

    `input` is one batch: an array whose first axis counts the examples, or a tuple of those for a network of several
    inputs. The file takes any number of examples, of the same shape. Its inputs are called "input", or "input_0", ...,
    its results "output", or "output_0", ...; parameters keep their names.

    Shape: input (n, ...)

    Raises TypeError for a function that has no form in ONNX here, or a result that is no array; ValueError where the
    program that the network records depends on the number of examples; ImportError without the extra.

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
    xs = [as_array(x) for x in (input if isinstance(input, tuple) else (input,))]
    for x in xs:
        if x.dtype.kind not in "fiub" or x.ndim == 0 or len(x) == 0:
            raise TypeError(
                f"onnx.export: the input is {x.dtype} of shape {x.shape}; give a batch of numbers, (n, ...)"
            )
    runs = [_Run(model, [np.resize(x, (n, *x.shape[1:])) for x in xs]) for n in (2, 3)]
    graph = Graph()
    results = _written(graph, model, *runs)
    for name, result in zip(_numbered("output", len(results)), results, strict=True):
        graph.add("Identity", result)
        graph.nodes[-1].output[:] = [name]
    ends = [
        [_described(name, *pair) for name, *pair in zip(_numbered(what, len(of[0])), *of, strict=True)]
        for what, of in (("input", [run.inputs for run in runs]), ("output", [run.outputs for run in runs]))
    ]
    body = helper.make_graph(graph.nodes, type(model).__name__, *ends, graph.constants)
    opset = helper.make_opsetid("", OPSET)
    made = helper.make_model(body, producer_name="tinygrad_mm", ir_version=IR_VERSION, opset_imports=[opset])
    checker.check_model(made, full_check=True)
    save_model(made, os.fspath(path))
    return Path(path)


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def _described(name: str, one: Tensor, other: Tensor) -> Any:
    """An input or a result as the file says it: the length that depends on the number of examples is called n."""
    from onnx import helper

    shape = [n if n == m else "n" if n == 2 else f"n{n // 2}" for n, m in zip(one.shape, other.shape, strict=True)]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.value.dtype), shape)


class _Run:
    """One forward pass: its inputs, its results, all calls in order, and the calls of layers in `LAYERS`."""

    def __init__(self, model: Module, xs: list[Any]) -> None:
        self.inputs = [Tensor(x) for x in xs]
        self.layers: list[tuple[Any, tuple[Any, ...], list[Any]]] = []  # module, arguments, results
        modules = [module for _, module in model.named_modules()]
        modes = [module.training for module in modules]
        removers = [m.register_forward_hook(self._note) for m in modules if isinstance(m, tuple(LAYERS))]
        try:
            with entered(complete=True):
                found = model.eval()(*self.inputs)
        finally:
            for remove in removers:
                remove()
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
        self.outputs = _flat(found)
        for output in self.outputs:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"onnx.export: {type(model).__name__} returned a {type(output).__name__}, not Tensors alone"
                )
        self.calls = topological(self.outputs, everything=True)

    def _note(self, module: Any, args: Any, output: Any) -> None:
        self.layers.append((module, tuple(a for a in _flat(args) if a is not None), _flat(output)))


def _flat(values: Any) -> list[Any]:
    """The values in a structure of tuples and lists, in order."""
    return [leaf for v in values for leaf in _flat(v)] if isinstance(values, (tuple, list)) else [values]


def _written(graph: Graph, model: Module, first: _Run, more: _Run) -> list[str]:
    """Write down the calls of one run; returns the names of the results.

    The other run, of another number of examples, tells which sizes in shapes are that number.
    """
    if [v.node and v.node.fun for v in first.calls] != [v.node and v.node.fun for v in more.calls]:
        raise ValueError("onnx.export: the network makes other calls for another number of examples")
    given = dict(zip(map(id, first.inputs), _numbered("input", len(first.inputs)), strict=True))
    names = Names(graph, given, [*model.named_parameters(), *model.named_buffers()])
    results: dict[int, tuple[int, int]] = {}  # by the id of a value: which layer's, and which of its results
    inner: set[int] = set()
    parts: list[tuple[list[Vertex], list[Vertex]]] = []
    for number, (module, args, outputs) in enumerate(first.layers):
        results.update({id(y): (number, i) for i, y in enumerate(outputs)})
        parts.append(_inside(module, args, outputs))
        inner.update(map(id, parts[-1][0]))
    inner -= results.keys()
    written: dict[int, Any] = {}
    for vertex, other in zip(first.calls, more.calls, strict=True):
        if id(vertex) in results:
            number, i = results[id(vertex)]
            module, args, _ = first.layers[number]
            if number not in written:
                inside, outside = parts[number]
                call = LayerCall(module, args, more.layers[number][1], inside, graph, names)
                if names.any_of(outside):
                    raise call.unsupported("inputs by name")
                if not names.any_of(args):
                    continue  # it is a constant
                written[number] = next(LAYERS[kind] for kind in LAYERS if isinstance(module, kind))(call)
            names.given[id(vertex)] = written[number](i)
        elif vertex.node is not None and id(vertex) not in inner and names.any_of(vertex.node.args or ()):
            if vertex.node.fun not in OPERATIONS:
                raise TypeError(
                    f"onnx.export: {name_of(vertex.node.fun)} has no form in ONNX here; write the network with "
                    + ", ".join(sorted({name_of(fun) for fun in OPERATIONS} | {kind.__name__ for kind in LAYERS}))
                )
            names.given[id(vertex)] = OPERATIONS[vertex.node.fun](Call(graph, names, vertex, other))
    if not names.any_of(first.outputs):
        raise TypeError("onnx.export: the result does not depend on the input")
    return [names.of(y, again) for y, again in zip(first.outputs, more.outputs, strict=True)]


def _inside(module: Any, args: tuple[Any, ...], outputs: list[Any]) -> tuple[list[Vertex], list[Vertex]]:
    """The calls that a layer is made of, between its arguments and its results; and what else these were given."""
    found: dict[int, Vertex] = {}
    outside: list[Vertex] = []
    waiting = [y for y in outputs if isinstance(y, Vertex)]
    while waiting:
        node = waiting.pop().node
        for a in () if node is None else node.args or ():
            if not isinstance(a, Vertex) or any(a is given for given in args) or id(a) in found:
                continue
            if a.node is None or not _made_by(module, a):
                outside.append(a)
            else:
                found[id(a)] = a
                waiting.append(a)
    return list(found.values()), outside


def _made_by(module: Any, vertex: Vertex) -> bool:
    """Whether a value was computed in a call of a module."""
    scope = vertex.node.scope if vertex.node is not None else None
    while scope is not None and scope.token is not module.token:
        scope = scope.parent
    return scope is not None
