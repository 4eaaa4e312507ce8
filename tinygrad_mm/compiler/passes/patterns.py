"""Calls that are quicker in another form: relu's backward pass, products of stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import prediction_error, where_positive
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.functional.activations import one_hot, softmax

__all__ = ["flatten_products", "fuse", "fuse_errors", "read_results"]


def fuse(program: Program) -> None:
    """Relu's gradient, `where(y <= 0, 0, g)` for a y that is max(x, 0), is a product with the bits of y."""
    read_results(program)
    makers = program.makers()
    for op in program.ops:
        if op.fun is np.where and len(op.args) == 3 and _is_zero(op.args[1]):
            y, g = _rectified(op.args[0], makers), op.args[2]
            if y is not None and isinstance(g, Value) and g.shape == y.shape == op.result.shape and g.dtype == y.dtype:
                op.fun, op.args = where_positive, [g, y]


def read_results(program: Program) -> None:
    """`x <= 0` becomes `y <= 0` where y is max(x, 0), which is kept anyway: both say the same, of NaN as well."""
    rectified: dict[int, Value] = {}
    for op in program.ops:
        if op.fun is np.maximum and len(op.args) == 2:
            for x, zero in (op.args, op.args[::-1]):
                if isinstance(x, Value) and _is_zero(zero) and x.shape == op.result.shape:
                    rectified[id(x)] = op.result
        elif op.fun is np.less_equal and _is_zero(op.args[1]) and id(op.args[0]) in rectified:
            op.args = [rectified[id(op.args[0])], op.args[1]]


def fuse_errors(program: Program) -> None:
    """`softmax(logits) - one_hot(labels)` is one operation, which loops compute beside the loss."""
    makers = program.makers()
    for op in program.ops:
        if op.fun is not np.subtract:
            continue
        left, right = (makers.get(id(a)) for a in op.args)
        if left is None or right is None or left.fun is not softmax or right.fun is not one_hot:
            continue
        logits, labels = left.args[0], right.args[0]
        last = left.kwargs.get("axis", -1) in (-1, logits.ndim - 1) and len(left.args) == 1
        if last and op.result.shape == logits.shape == (*labels.shape, logits.shape[-1]):
            op.fun, op.args = prediction_error, [logits, labels]


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


def _rectified(mask: Any, makers: dict[int, Op]) -> Value | None:
    """The y of a mask `y <= 0`, where y is max(x, 0)."""
    op = makers.get(id(mask)) if isinstance(mask, Value) else None
    if op is None or op.fun is not np.less_equal or not _is_zero(op.args[1]):
        return None
    y = op.args[0]
    maker = makers.get(id(y)) if isinstance(y, Value) else None
    if maker is None or maker.fun is not np.maximum or not any(map(_is_zero, maker.args)):
        return None
    return y


def _is_zero(a: Any) -> bool:
    if isinstance(a, Value):
        return a.kind == "constant" and a.size > 0 and not a.example.any()
    return type(a) in (int, float, bool) and a == 0
