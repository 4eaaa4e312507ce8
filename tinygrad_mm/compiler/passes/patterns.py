"""Calls that are quicker in another form: relu's backward pass, products of stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import prediction_error, where_positive
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.functional.activations import one_hot, softmax

__all__ = ["flatten_products", "fuse", "fuse_errors", "read_results"]


def fuse(program: Program) -> None:
    """The backward pass of relu from its result.

    Looks for: `where(x <= 0, 0, g)`, where the program has computed `y = maximum(x, 0)` from this very x before.
    Puts there: `where_positive(g, y)`, which reads y instead of x, and needs no array of booleans.
    Precondition: g has the shape and the dtype of y.
    The same, because y <= 0 just where x <= 0: y is x where that is positive or NaN, else 0.
    """
    makers = program.makers()
    relus: dict[int, Value] = {}
    for op in program.ops:
        if (x := _rectified(op)) is not None:
            relus.setdefault(id(x), op.result)
        if op.fun is np.where and len(op.args) == 3 and _is_zero(op.args[1]):
            mask = makers.get(id(op.args[0]))
            if mask is None or mask.fun is not np.less_equal or not _is_zero(mask.args[1]):
                continue
            y, g = relus.get(id(mask.args[0])), op.args[2]
            if y is not None and isinstance(g, Value) and g.shape == y.shape == op.result.shape and g.dtype == y.dtype:
                op.fun, op.args = where_positive, [g, y]


def read_results(program: Program) -> None:
    """Relu's backward pass from its result, for loops.

    Looks for: `x <= 0`, where the program has computed `y = maximum(x, 0)` from this very x before.
    Puts there: `y <= 0`. Precondition: none.
    The same, because y <= 0 just where x <= 0 (see `fuse`); and y is kept anyway, for what reads it next.
    """
    relus: dict[int, Value] = {}
    for op in program.ops:
        if (x := _rectified(op)) is not None:
            relus.setdefault(id(x), op.result)
        elif op.fun is np.less_equal and _is_zero(op.args[1]) and id(op.args[0]) in relus:
            op.args = [relus[id(op.args[0])], op.args[1]]


def fuse_errors(program: Program) -> None:
    """The gradient of cross entropy as one operation, which loops compute beside the loss.

    Looks for: `softmax(logits) - one_hot(labels, classes, dtype)`, the softmax along the last axis.
    Puts there: `prediction_error(logits, labels)`.
    Precondition: labels has the shape of logits without the last axis, whose length is the number of classes.
    The same, because that is how `prediction_error` is written.
    """
    makers = program.makers()
    for op in program.ops:
        if op.fun is not np.subtract or not all(isinstance(a, Value) for a in op.args):
            continue
        left, right = (makers.get(id(a)) for a in op.args)
        if left is None or right is None or left.fun is not softmax or right.fun is not one_hot:
            continue
        logits, labels = left.args[0], right.args[0]
        last = len(left.args) == 1 and left.kwargs.get("axis", -1) in (-1, logits.ndim - 1)
        if last and isinstance(labels, Value) and op.result.shape == logits.shape == (*labels.shape, logits.shape[-1]):
            op.fun, op.args = prediction_error, [logits, labels]


def _rectified(op: Op) -> Value | None:
    """The x of `maximum(x, 0)`."""
    if op.fun is not np.maximum or len(op.args) != 2 or op.kwargs:
        return None
    x, zero = op.args if _is_zero(op.args[1]) else op.args[::-1]
    return x if _is_zero(zero) and isinstance(x, Value) and x.shape == op.result.shape else None


def flatten_products(program: Program) -> None:
    """A stack of matrices times one matrix is one product of matrices: one call of BLAS instead of one for each."""
    ops: list[Op] = []
    for op in program.ops:
        if op.fun is np.matmul and len(op.args) == 2 and all(isinstance(a, Value) for a in op.args):
            a, b = op.args
            if a.ndim > 2 and b.ndim == 2 and a.dtype == b.dtype and a.size:
                flat = Value(np.empty((a.size // a.shape[-1], a.shape[-1]), a.dtype))
                product = Value(np.empty((flat.shape[0], b.shape[1]), a.dtype))
                ops.append(Op(np.reshape, [a, flat.shape], {}, flat, op.scope, op.backward))
                ops.append(Op(np.dot, [flat, b], {}, product, op.scope, op.backward))
                ops.append(Op(np.reshape, [product, op.result.shape], {}, op.result, op.scope, op.backward))
                continue
        ops.append(op)
    program.ops = ops


def _is_zero(a: Any) -> bool:
    if isinstance(a, Value):
        return a.kind == "constant" and a.size > 0 and not a.example.any()
    return type(a) in (int, float, bool) and a == 0
