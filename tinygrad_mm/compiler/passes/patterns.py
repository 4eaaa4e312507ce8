"""Calls that are quicker in another form: relu's backward pass, products of stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import where_positive
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["flatten_products", "fuse"]


def fuse(program: Program) -> None:
    """Replace known combinations of calls by operations of the compiler's own."""
    makers = program.makers()
    for op in program.ops:
        if op.fun is np.multiply and len(op.args) == 2:
            for g, mask in (op.args, op.args[::-1]):
                y = _positive_where(mask, makers)
                if (
                    y is not None
                    and isinstance(g, Value)
                    and g.shape == y.shape == op.result.shape
                    and g.dtype == y.dtype
                ):
                    op.fun, op.args = where_positive, [g, y]
                    break


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


def _positive_where(mask: Any, makers: dict[int, Op]) -> Value | None:
    """Y where a mask is `y > 0` or `sign(y)`, for a y that is max(x, 0)."""
    op = makers.get(id(mask)) if isinstance(mask, Value) else None
    if op is None or not (op.fun is np.sign or (op.fun is np.greater and _is_zero(op.args[1]))):
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
