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
from tinygrad_mm.explorer.tape import Tape
from tinygrad_mm.functional.activations import leaky_relu, log_softmax, relu, sigmoid, softmax
from tinygrad_mm.functional.losses import _cross_entropy as cross_entropy
from tinygrad_mm.graph import RULES
from tinygrad_mm.rules.indexing import getitem
from tinygrad_mm.rules.shape import join

__all__ = ["program"]

MOST_WORK = 2_000_000  # multiplications and elements of one pass: a browser takes some milliseconds
# fmt: off
ELEMENTWISE: dict[Callable[..., Any], str] = {
    np.negative: "negative", np.exp: "exp", np.log: "log", np.log1p: "log1p", np.expm1: "expm1", np.sqrt: "sqrt",
    np.square: "square", np.tanh: "tanh", np.sin: "sin", np.cos: "cos", np.absolute: "absolute", relu: "relu",
    sigmoid: "sigmoid", np.add: "add", np.subtract: "subtract", np.multiply: "multiply", np.divide: "divide",
    np.power: "power", np.maximum: "maximum", np.minimum: "minimum", np.logaddexp: "logaddexp",
    np.greater: "greater", np.less: "less", np.greater_equal: "greater_equal", np.less_equal: "less_equal",
    np.equal: "equal", np.not_equal: "not_equal", np.sign: "sign", np.where: "where", leaky_relu: "leaky_relu",
}
# fmt: on
MOVING = (
    np.reshape,
    np.expand_dims,
    np.squeeze,
    np.broadcast_to,
    np.transpose,
    np.swapaxes,
    np.moveaxis,
    getitem,
    join,
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
    for source in (i, *call.sources):
        if isinstance(tape.values[source].array, tuple):
            raise _UnknownError(f"it does not know {name}, which has several results")
    op, options, work = _operation(tape, call, name, value.array)
    return {
        "value": i,
        "op": op,
        "inputs": [
            {"position": k, "value": a.value} if isinstance(a, Ref) else {"position": k, "number": float(a)}
            for k, a in _operands(call)
        ],
        "needed": sorted(call.needed),
        "options": options,
        "shape": value.shape,
        "work": work,
    }


def _operands(call: Call) -> list[tuple[int, Any]]:
    """The arrays and numbers that a call computes with, each with its position among the arguments."""
    plain = call.fun in ELEMENTWISE and call.fun is not leaky_relu
    kinds = (Ref, int, float, np.generic) if plain else Ref
    return [(k, a) for k, a in enumerate(call.args) if isinstance(a, kinds)]


def _operation(tape: Tape, call: Call, name: str, value: Any) -> tuple[str, dict[str, Any], int]:
    """What the page calls an operation, its options and its work."""
    shapes = [np.shape(tape.values[i].array) for i in call.sources]
    size = sum(math.prod(shape) for shape in shapes)
    if call.fun in ELEMENTWISE:
        if call.fun is leaky_relu:
            slope = call.args[1] if len(call.args) > 1 else call.kwargs.get("negative_slope", 0.01)
            return "leaky_relu", {"slope": float(slope)}, size
        if call.kwargs or len(_operands(call)) != len(call.args):
            raise _UnknownError(f"it does not know {name} with these options")
        return ELEMENTWISE[call.fun], {}, size
    if call.fun in MOVING:
        return "take", {"from": _origins(call, shapes)}, size
    if call.fun is np.matmul and min(map(len, shapes)) > 1:
        return "matmul", {}, math.prod(np.shape(value)) * shapes[0][-1]
    if call.fun in (np.sum, np.mean) and len(call.args) == 1 and call.kwargs.keys() <= {"axis", "keepdims"}:
        kept = np.sum(np.zeros(shapes[0]), axis=call.kwargs.get("axis"), keepdims=True).shape
        return ("sum" if call.fun is np.sum else "mean"), {"kept": kept}, size
    if call.fun in (softmax, log_softmax):
        axis = call.args[1] if len(call.args) > 1 else call.kwargs.get("axis", -1)
        if len(shapes) == 1 and axis in (-1, len(shapes[0]) - 1):
            return ("softmax" if call.fun is softmax else "log_softmax"), {}, size
    if call.fun is cross_entropy and len(shapes[0]) == 2:
        reduction = call.args[2] if len(call.args) > 2 else call.kwargs.get("reduction", "mean")
        if reduction in ("mean", "sum"):
            return "cross_entropy", {"mean": reduction == "mean"}, size
    raise _UnknownError(f"it does not know {name}")


def _origins(call: Call, shapes: list[tuple[int, ...]]) -> list[int]:
    """Where each element of the result comes from, counted through all operands one after the other."""
    places, start = [], 0
    for shape in shapes:
        places.append(np.arange(start, start + math.prod(shape)).reshape(shape))
        start += math.prod(shape)
    waiting = iter(places)
    args = [next(waiting) if isinstance(a, Ref) else a for a in call.args]
    found: list[int] = np.ravel(RULES[call.fun].forward(*args, **call.kwargs)).tolist()
    return found
