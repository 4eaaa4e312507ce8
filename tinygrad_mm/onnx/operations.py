"""What each function is in ONNX: one row of `OPERATIONS` for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.functional.activations import elu, gelu, leaky_relu, log_softmax, relu, sigmoid, softmax
from tinygrad_mm.functional.error_function import erf
from tinygrad_mm.functional.normalization import standardize
from tinygrad_mm.functional.pooling import _max_pool
from tinygrad_mm.functional.sequences import unstack
from tinygrad_mm.graph import Vertex, select
from tinygrad_mm.onnx.writing import Call, pads
from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.rules.indexing import Slot, checked, getitem
from tinygrad_mm.rules.shape import astype, join

__all__ = ["OPERATIONS"]


def _as(operation: str, **usual: Any) -> Callable[[Call], str]:
    """The operation on the same arguments; `usual` are its attributes where the call does not give them."""
    return lambda call: call.add(operation, *call.inputs(), **{k: call.kwargs.get(k, v) for k, v in usual.items()})


def _reduction(operation: str) -> Callable[[Call], str]:
    def write(call: Call) -> str:
        if call.kwargs.keys() - {"axis", "keepdims"}:
            raise call.unsupported(", ".join(call.kwargs))
        axis = call.kwargs.get("axis")
        axes = [] if axis is None else [call.graph.integers(np.atleast_1d(axis))]
        return call.add(operation, call.input(0), *axes, keepdims=int(call.kwargs.get("keepdims", False)))

    return write


def _reshaped(call: Call) -> str:
    if call.kwargs.get("order", "C") != "C":
        raise call.unsupported(f"order={call.kwargs['order']!r}")
    return _with_shape(call, call.input(0))


def _with_shape(call: Call, name: str) -> str:
    """In the shape of the result; what differs between the runs is the number of examples, or a multiple of it."""
    shape = [n if n == m else -1 for n, m in zip(call.value.shape, call.other_value.shape, strict=True)]
    if shape.count(-1) > 1:
        raise call.unsupported(f"the result's shape {call.value.shape}")
    return call.add("Reshape", name, call.graph.integers(shape))


def _broadcast(call: Call) -> str:
    """To the shape of the result; a length that depends on the number of examples is there already."""
    shape = [n if n == m else 1 for n, m in zip(call.value.shape, call.other_value.shape, strict=True)]
    varies = [n != m for n, m in zip(call.value.shape, call.other_value.shape, strict=True)]
    if call.varying != varies[len(varies) - call.x.ndim :] or any(varies[: len(varies) - call.x.ndim]):
        raise call.unsupported(f"the result's shape {call.value.shape}")
    return call.add("Expand", call.input(0), call.graph.integers(shape))


def _transposed(call: Call) -> str:
    """The order of the axes, found by what the function does to an array whose sizes are all different."""
    sizes = tuple(range(2, 2 + call.x.ndim))
    moved = call.node.fun(np.broadcast_to(np.float32(0), sizes), *call.args[1:], **call.kwargs)
    return call.add("Transpose", call.input(0), perm=[n - 2 for n in moved.shape])


def _is_whole(key: Any) -> bool:
    return isinstance(key, slice) and key == slice(None)


def _indexed(call: Call) -> str:
    """Integers and slices cut, None adds an axis, one list of indices gathers along its axis."""
    keys = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    used = sum(key is not None and key is not Ellipsis for key in keys)
    keys = sum(((slice(None),) * (call.x.ndim - used) if key is Ellipsis else (key,) for key in keys), ())
    keys += (slice(None),) * (call.x.ndim - sum(key is not None for key in keys))
    along = [(axis, key) for axis, key in enumerate(key for key in keys if key is not None)]
    chosen = [(axis, key) for axis, key in along if not _is_whole(key)]
    if any(call.varying[axis] for axis, _ in chosen):
        raise call.unsupported("some of the examples")
    gathered = [(axis, key) for axis, key in chosen if isinstance(key, (Slot, np.ndarray, list))]
    if gathered:
        axis, key = gathered[0]
        name = call.input(2 + key.number) if isinstance(key, Slot) else call.graph.integers(key)
        indices = np.asarray(key) if not isinstance(key, Slot) else call.args[2 + key.number]
        indices = getattr(indices, "value", indices)
        if len(chosen) > 1 or any(key is None for key in keys) or indices.dtype.kind not in "iu":
            raise call.unsupported(f"the index {call.args[1]!r}")
        return call.add("Gather", call.input(0), name, axis=axis)
    if not all(isinstance(key, (slice, int, np.integer)) for _, key in along):
        raise call.unsupported(f"the index {call.args[1]!r}")
    name = call.input(0)
    cuts = []
    for axis, key in chosen:
        length = call.x.shape[axis]
        start, stop, step = key.indices(length) if isinstance(key, slice) else (key % length, key % length + 1, 1)
        cuts.append((axis, start, stop if stop >= 0 else -length - 1, step))
    if cuts:
        axes, starts, stops, steps = zip(*cuts, strict=True)
        name = call.add("Slice", name, *map(call.graph.integers, (starts, stops, axes, steps)))
    if any(key is None for key in keys) or any(not isinstance(key, slice) for _, key in chosen):
        return _with_shape(call, name)
    return name if cuts else call.add("Identity", name)


def _log_add_exp(call: Call) -> str:
    """max(a, b) + log(1 + exp(-|a - b|))"""
    if not isinstance(call.args[1], Vertex) and np.ndim(call.args[1]) == 0 and call.args[1] == 0:
        return call.add("Softplus", call.input(0))
    a, b = call.inputs()
    distance = call.add("Abs", call.add("Sub", a, b))
    return call.add("Add", call.add("Max", a, b), call.add("Softplus", call.add("Neg", distance)))


def _standardized(call: Call) -> str:
    axes, ndim = call.kwargs["axes"], call.x.ndim
    if tuple(sorted(a % ndim for a in axes)) != tuple(range(ndim - len(axes), ndim)) or 0 in axes:
        raise call.unsupported(f"axes={axes}")
    ones = call.graph.constant(np.ones([call.x.shape[a] for a in sorted(a % ndim for a in axes)], call.x.dtype))
    return call.add(
        "LayerNormalization", call.input(0), ones, axis=-len(axes), epsilon=call.kwargs.get("epsilon", 1e-5)
    )


def _selected(call: Call) -> str:
    """One part of an array that was taken apart; of other calls with several results, the first one."""
    maker = call.args[0].node
    if maker is not None and maker.fun is unstack:
        axis = maker.kwargs.get("axis", (*maker.args, 0)[1])
        return call.add("Gather", call.input(0), call.graph.constant(np.int64(call.args[1])), axis=axis)
    if call.args[1] != 0:
        raise call.unsupported("more than its first result")
    return call.input(0)


def _summed(call: Call) -> str:
    axis = call.kwargs.get("axis", (*call.args, None)[1])
    if axis is None or call.kwargs.keys() - {"axis"}:
        raise call.unsupported("these options")
    return call.add("CumSum", call.input(0), call.graph.constant(np.int64(axis)))


def _place(operation: str) -> Callable[[Call], str]:
    """Where the largest or smallest number is."""

    def write(call: Call) -> str:
        axis = call.kwargs.get("axis")
        if axis is None:
            raise call.unsupported("no axis")
        return call.add(operation, call.input(0), axis=axis, keepdims=int(call.kwargs.get("keepdims", False)))

    return write


def _cast(call: Call) -> str:
    from onnx import helper

    return call.add("Cast", call.input(0), to=helper.np_dtype_to_tensor_dtype(call.value.dtype))


def _logical(operation: str) -> Callable[[Call], str]:
    """An operation on booleans."""

    def write(call: Call) -> str:
        if call.x.dtype != bool:
            raise call.unsupported(f"{call.x.dtype}")
        return call.add(operation, *call.inputs())

    return write


def _same(call: Call) -> str:
    """The array itself: what is recorded about it means nothing in a file."""
    return call.input(0)


def _largest_under_windows(call: Call) -> str:
    options = call.kwargs
    return call.add(
        *("MaxPool", call.input(0)),
        kernel_shape=options["size"],
        strides=options["stride"],
        dilations=options["dilation"],
        pads=pads(options["padding"]),
    )


OPERATIONS: dict[Callable[..., Any], Callable[[Call], str]] = {
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
    np.tan: _as("Tan"),
    np.arcsin: _as("Asin"),
    np.arccos: _as("Acos"),
    np.arctan: _as("Atan"),
    np.sinh: _as("Sinh"),
    np.cosh: _as("Cosh"),
    np.tanh: _as("Tanh"),
    np.arcsinh: _as("Asinh"),
    np.arccosh: _as("Acosh"),
    np.arctanh: _as("Atanh"),
    np.logaddexp: _log_add_exp,
    np.clip: _as("Clip"),
    np.where: _as("Where"),
    np.floor: _as("Floor"),
    np.ceil: _as("Ceil"),
    np.rint: _as("Round"),
    np.sign: _as("Sign"),
    np.isnan: _as("IsNaN"),
    np.isinf: _as("IsInf"),
    np.bitwise_and: _logical("And"),
    np.bitwise_or: _logical("Or"),
    np.invert: _logical("Not"),
    np.logical_and: _logical("And"),
    np.logical_or: _logical("Or"),
    np.logical_not: _logical("Not"),
    np.equal: _as("Equal"),
    np.not_equal: lambda call: call.add("Not", call.add("Equal", *call.inputs())),
    np.greater: _as("Greater"),
    np.greater_equal: _as("GreaterOrEqual"),
    np.less: _as("Less"),
    np.less_equal: _as("LessOrEqual"),
    np.mean: _reduction("ReduceMean"),
    np.sum: _reduction("ReduceSum"),
    np.max: _reduction("ReduceMax"),
    np.min: _reduction("ReduceMin"),
    np.prod: _reduction("ReduceProd"),
    np.argmax: _place("ArgMax"),
    np.argmin: _place("ArgMin"),
    np.cumsum: _summed,
    np.reshape: _reshaped,
    np.ravel: _reshaped,
    np.squeeze: _reshaped,
    np.expand_dims: _reshaped,
    np.transpose: _transposed,
    np.moveaxis: _transposed,
    np.swapaxes: _transposed,
    getitem: _indexed,
    unstack: _same,
    join: lambda call: call.add("Concat", *call.inputs(), axis=call.kwargs.get("axis", 0)),
    np.broadcast_to: _broadcast,
    astype: _cast,
    checked: _same,
    stop_gradient: _same,
    np.copy: _same,
    np.positive: _same,
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
