"""Calls that are quicker in another form: relu's way back, a mean of losses, products of stacks, small factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import mean_loss, one_hot_columns, pick_columns, transposed_copy, where_positive
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["flatten_products", "fuse", "fuse_losses", "turn_factors"]


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


ONE_HOT_UP_TO = 4096  # elements: beyond, products with mostly zeros take longer than picking what is wanted


def fuse_losses(program: Program) -> None:
    """The mean of a cross entropy from the labels as a matrix of zeros and ones, which its gradient needs anyway."""
    makers, uses = program.makers(), program.uses()
    hots = {id(op.args[0]): op for op in program.ops if op.fun is one_hot_columns}
    moved: list[Op] = []
    for op in program.ops:
        if op.fun is not np.mean or len(op.args) != 1 or any(v is not None for v in op.kwargs.values()):
            continue
        difference = makers.get(id(op.args[0]))
        if difference is None or difference.fun is not np.subtract or len(uses[id(op.args[0])]) != 1:
            continue
        logs, picked = difference.args
        pick = makers.get(id(picked)) if isinstance(picked, Value) else None
        if pick is None or pick.fun is not pick_columns or not isinstance(logs, Value) or logs.shape != picked.shape:
            continue
        z, labels = pick.args
        hot = hots.get(id(labels))
        if hot is None or hot.result.shape != z.shape or z.size > ONE_HOT_UP_TO or hot.result.dtype != z.dtype:
            continue
        op.fun, op.args, op.kwargs = mean_loss, [logs, z, labels, hot.result], {}
        moved.append(hot)
    for hot in moved:  # in front of all that reads it
        program.ops.remove(hot)
        first = next(i for i, op in enumerate(program.ops) if any(a is hot.result for a in op.operands()))
        hot.backward = False
        program.ops.insert(first, hot)


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


def turn_factors(program: Program) -> None:
    """A product with a transposed matrix, where BLAS is quicker with a copy of it, reads a copy."""
    makers = program.makers()
    copies: dict[int, Value] = {}
    ops: list[Op] = []
    for op in program.ops:
        turned = makers.get(id(op.args[1])) if op.fun in (np.dot, np.matmul) and len(op.args) == 2 else None
        if turned is not None and turned.fun is np.transpose and _pays(op, makers):
            b = op.args[1]
            if id(b) not in copies:
                copies[id(b)] = Value(np.empty(b.shape, b.dtype))
                ops.append(Op(transposed_copy, [turned.args[0]], {}, copies[id(b)], op.scope, op.backward))
            op.args = [op.args[0], copies[id(b)]]
        ops.append(op)
    program.ops = ops


# Multiply-adds of a product of matrices: for less, OpenBLAS has a way of its own.
LARGE = 1_000_000


def turning_pays(rows: int, columns: int, summed: int) -> bool:
    """Whether a product (rows, summed) @ (summed, columns) is quicker with a copy of the second factor.

    That is for factors that both have the summed axis innermost in memory: OpenBLAS 0.3.31 takes a fifth longer for
    small matrices that lie so.
    """
    few = columns * summed <= 8192 and rows * columns * summed <= LARGE
    return few and rows >= 32 and summed >= 2 and rows * columns >= 1280


def _pays(op: Op, makers: dict[int, Op]) -> bool:
    """Whether a copy of the second factor, which is transposed, saves more time than it takes."""
    a, b = op.args
    if not (isinstance(a, Value) and a.ndim == b.ndim == 2 and a.dtype == b.dtype and a.dtype.kind == "f"):
        return False
    across = makers.get(id(a))
    if across is not None and across.fun is np.transpose:
        return False
    return turning_pays(a.shape[0], b.shape[1], b.shape[0])


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
