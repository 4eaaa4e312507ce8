"""The computation as the page's own program can run it: after an edit, forward and backward again, in the browser.

It knows the commonest operations, written in JavaScript (compute.js); whatever moves elements about is one of them, a
list of where each element comes from. What it does not know it says, and then the page cannot be edited.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.explorer.calls import Call, Ref
from tinygrad_mm.explorer.mathematics import operation_name
from tinygrad_mm.explorer.store import number
from tinygrad_mm.explorer.tape import Tape
from tinygrad_mm.functional.activations import gelu, leaky_relu, log_softmax, relu, sigmoid, softmax
from tinygrad_mm.functional.losses import _cross_entropy as cross_entropy
from tinygrad_mm.functional.normalization import standardize
from tinygrad_mm.functional.pooling import _max_pool as max_pool
from tinygrad_mm.functional.sequences import unstack
from tinygrad_mm.functional.sliding import windows
from tinygrad_mm.graph import RULES, select
from tinygrad_mm.rules.indexing import getitem
from tinygrad_mm.rules.shape import join

__all__ = ["program"]

MOST_WORK = 2_000_000  # multiplications and elements of one pass: a browser takes some milliseconds
MOST_PLACES = 100_000  # in the lists of where elements come from
# fmt: off
ELEMENTWISE: dict[Callable[..., Any], str] = {
    np.negative: "negative", np.exp: "exp", np.log: "log", np.log1p: "log1p", np.expm1: "expm1", np.sqrt: "sqrt",
    np.square: "square", np.tanh: "tanh", np.sin: "sin", np.cos: "cos", np.absolute: "absolute", relu: "relu",
    sigmoid: "sigmoid", gelu: "gelu", np.add: "add", np.subtract: "subtract", np.multiply: "multiply",
    np.divide: "divide",
    np.power: "power", np.maximum: "maximum", np.minimum: "minimum", np.logaddexp: "logaddexp",
    np.greater: "greater", np.less: "less", np.greater_equal: "greater_equal", np.less_equal: "less_equal",
    np.equal: "equal", np.not_equal: "not_equal", np.sign: "sign", np.where: "where", leaky_relu: "leaky_relu",
}
# fmt: on
MOVING = (
    *(np.reshape, np.expand_dims, np.squeeze, np.broadcast_to, np.transpose, np.swapaxes, np.moveaxis),
    *(getitem, join, windows),
)


class _UnknownError(Exception):
    """What the page's program cannot do."""


def program(tape: Tape) -> dict[str, Any]:
    """The calls for the page: `calls`, or the `problem` that stands in the way."""
    try:
        calls = [_call(tape, i) for i in tape.forward]
        work = sum(call["work"] for call in calls)
        if work > MOST_WORK:
            raise _UnknownError(f"one pass takes about {work:,} multiplications, and a page may take {MOST_WORK:,}")
    except _UnknownError as error:
        return {"calls": [], "problem": str(error)}
    return {"calls": calls, "problem": ""}


def _call(tape: Tape, i: int) -> dict[str, Any]:
    call, value = tape.calls[i], tape.values[i]
    name = f"{operation_name(call.fun)} ({value.label})"
    if call.draws:  # random numbers stay what they were
        return {"value": i, "op": "kept", "inputs": [], "needed": [], "options": {}, "shape": value.shape, "work": 0}
    op, options, work = _operation(tape, call, name, value.array)
    return {
        "value": i,
        "op": op,
        "inputs": [
            {"position": k, "value": a.value} if isinstance(a, Ref) else {"position": k, "number": number(float(a))}
            for k, a in _operands(tape, call)
        ],
        "needed": sorted(call.needed),
        "options": options,
        "shape": value.shape,
        "work": work,
    }


def _operands(tape: Tape, call: Call) -> list[tuple[int, Any]]:
    """The arrays and numbers that a call computes with, each with its position among the arguments."""
    plain = call.fun in ELEMENTWISE and call.fun is not leaky_relu
    kinds = (Ref, int, float, np.generic) if plain else Ref
    found = [(k, a) for k, a in enumerate(call.args) if isinstance(a, kinds)]
    return [(k, a) for k, a in found if not (call.fun in MOVING and _is_index(tape, a))]


def _is_index(tape: Tape, a: Any) -> bool:
    """Whether an argument is an array of whole numbers or masks, which says where elements come from."""
    return isinstance(a, Ref) and tape.values[a.value].array.dtype.kind != "f"  # type: ignore[union-attr]


def _operation(tape: Tape, call: Call, name: str, value: Any) -> tuple[str, dict[str, Any], int]:
    """What the page calls an operation, its options and its work."""
    given: tuple[Any, ...] = call.args
    arrays = [tape.values[i].array for i in call.sources]
    shapes: list[tuple[int, ...]] = [() if isinstance(array, tuple) else array.shape for array in arrays]
    size = sum(math.prod(shape) for shape in shapes)
    if call.fun in ELEMENTWISE:
        if call.fun is leaky_relu:
            slope = call.args[1] if len(call.args) > 1 else call.kwargs.get("negative_slope", 0.01)
            return "leaky_relu", {"slope": float(slope)}, size
        if call.kwargs or len(_operands(tape, call)) != len(call.args):
            raise _UnknownError(f"it does not know {name} with these options")
        return ELEMENTWISE[call.fun], {}, size
    if call.fun in MOVING:
        fill = call.kwargs.get("fill", 0.0) if call.fun is windows else 0.0
        return "take", {"from": _origins(tape, call, name), "fill": number(float(fill))}, size
    extreme = call.fun in (np.max, np.min) and call.kwargs.keys() <= {"axis", "keepdims"}
    if (extreme or call.fun is max_pool) and shapes[0] and size:
        places, width = _groups(call, shapes[0])
        return "largest", {"from": places, "width": width, "sign": -1 if call.fun is np.min else 1}, size
    if call.fun is np.matmul and min(map(len, shapes)) > 1:
        return "matmul", {}, math.prod(np.shape(value)) * shapes[0][-1]
    if call.fun in (np.sum, np.mean) and len(call.args) == 1 and call.kwargs.keys() <= {"axis", "keepdims"}:
        kept = np.sum(np.zeros(shapes[0]), axis=call.kwargs.get("axis"), keepdims=True).shape
        return ("sum" if call.fun is np.sum else "mean"), {"kept": kept}, size
    if call.fun in (softmax, log_softmax):
        axis = call.args[1] if len(call.args) > 1 else call.kwargs.get("axis", -1)
        if len(shapes) == 1 and axis in (-1, len(shapes[0]) - 1):
            return ("softmax" if call.fun is softmax else "log_softmax"), {}, size
    if call.fun is select:
        index = given[1] if len(given) > 1 else call.kwargs["index"]
        return "select", {"index": int(index)}, 0
    if call.fun is unstack:
        axis = given[1] if len(given) > 1 else call.kwargs.get("axis", 0)
        parts = np.moveaxis(_numbered(shapes[0], 1), axis, 0)
        return "unstack", {"from": [_listed(part) for part in parts], "shape": parts.shape[1:]}, size
    if call.fun is standardize:
        axes, epsilon = (*given[1:], *call.kwargs.values())
        kept = [1 if axis in axes else n for axis, n in enumerate(shapes[0])]
        return "standardize", {"kept": kept, "epsilon": float(epsilon)}, size
    if isinstance(value, tuple):
        raise _UnknownError(f"it does not know {name}, which has several results")
    if call.fun is cross_entropy and len(shapes[0]) > 1:
        reduction = call.args[2] if len(call.args) > 2 else call.kwargs.get("reduction", "mean")
        if reduction in ("mean", "sum"):
            return "cross_entropy", {"mean": reduction == "mean"}, size
    raise _UnknownError(f"it does not know {name}")


def _origins(tape: Tape, call: Call, name: str) -> list[int]:
    """Where each element of the result comes from, counted through all operands one after the other; -1 for a fill."""
    args, start = [], 1
    for a in call.args:
        if not isinstance(a, Ref):
            args.append(a)
        elif _is_index(tape, a):
            if not tape.values[a.value].is_leaf:
                raise _UnknownError(f"the places that {name} takes are computed, too")
            args.append(tape.values[a.value].array)
        else:
            args.append(_numbered(np.shape(tape.values[a.value].array), start))
            start += args[-1].size
    return _listed(RULES[call.fun].forward(*args, **{**call.kwargs, **({"fill": 0} if call.fun is windows else {})}))


def _groups(call: Call, shape: tuple[int, ...]) -> tuple[list[int], int]:
    """The places among which a maximum or minimum chooses, one group after the other, and the size of a group."""
    numbers = _numbered(shape, 1)
    if call.fun is max_pool:
        size, stride, padding, dilation = (*call.args[1:], *call.kwargs.values())
        patches = windows(numbers, size, stride, padding, dilation, 0)
        width = math.prod(size)
        return _listed(np.swapaxes(patches.reshape(*shape[:2], width, -1), 2, 3)), width
    axis = call.kwargs.get("axis")
    axes = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    moved = np.moveaxis(numbers, [a % len(shape) for a in axes], range(-len(axes), 0))
    return _listed(moved), math.prod(moved.shape[len(shape) - len(axes) :])


def _numbered(shape: tuple[int, ...], start: int) -> Any:
    """An array of numbers from `start` on: 0 is for what is filled in."""
    return np.arange(start, start + math.prod(shape)).reshape(shape)


def _listed(numbers: Any) -> list[int]:
    if numbers.size > MOST_PLACES:
        raise _UnknownError(f"more than {MOST_PLACES:,} numbers are moved about")
    found: list[int] = (np.ravel(numbers) - 1).tolist()
    return found
