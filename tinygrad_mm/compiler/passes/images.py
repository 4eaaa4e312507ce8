"""Images of a batch kept with the examples along the innermost axis, from the first window that slides over them.

A convolution then is one long product of matrices instead of one for each example, and whatever looks at neighbouring
pixels moves runs of memory as long as the batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.images import examples_last
from tinygrad_mm.compiler.lowerings import reduced
from tinygrad_mm.compiler.passes.layout import is_elementwise
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.functional.pooling import _max_pool, _to_maxima
from tinygrad_mm.functional.sliding import overlap_add, windows

__all__ = ["examples_last_in"]

EXAMPLES_FROM = 16  # with fewer, the runs of memory are as short as they were

_REDUCTIONS = (np.sum, np.max, np.min, np.mean)


def examples_last_in(program: Program) -> None:
    """Images with their examples innermost in memory, and one product for all of them.

    Looks for: windows over images; what is computed of these by windows, by pooling, element by element and by sums;
    products of one matrix with a matrix for each example; and the sum over the examples of products.
    Puts there: the order of axes; products of matrices that have the examples side by side.
    Precondition of the latter: there is one group of channels.
    The same, because it is only said where results lie, and a product of matrices side by side is their products side
    by side; in a sum, the order of additions is another one.
    """
    if any(op.fun is windows for op in program.ops):
        _Images(program).run()


class _Images:
    def __init__(self, program: Program) -> None:
        self.program, self.makers = program, program.makers()
        self.last: set[int] = set()  # ids of Values that lie with their first axis innermost
        self.ops: list[Op] = []

    def run(self) -> None:
        for op in self.program.ops:
            if op.result.shape is None or not op.result.ndim or not self._rewritten(op):
                self.ops.append(op)
        self.program.ops = self.ops

    def _rewritten(self, op: Op) -> bool:
        """Say how the result of an op lies; True where other calls have been put in its place."""
        first: Any = op.args[0] if op.args else None
        result = op.result
        if op.fun is np.matmul and len(op.args) == 2:
            return self._product(op)
        if op.fun is np.sum and isinstance(first, Value) and self._weight_gradient(op):
            return True
        known = [a for a in op.operands() if id(a) in self.last and a.shape[0] == result.shape[0]]
        if op.fun is windows and first.ndim == 4 and result.shape[0] >= EXAMPLES_FROM:
            if id(first) not in self.last:
                op.args[0] = self._call(np.positive, [first], op, first.shape, examples_last(first.ndim))
        elif not known or not (
            op.fun in (_max_pool, _to_maxima, overlap_add)
            or (is_elementwise(op) and any(a.ndim == result.ndim for a in known))
            or (op.fun in _REDUCTIONS and self._keeps_first(op))
        ):
            if op.fun is np.reshape and known:
                self.last.add(id(result))  # another way to look at it
            return False
        result.order = examples_last(result.ndim)
        self.last.add(id(result))
        return False

    def _keeps_first(self, op: Op) -> bool:
        x, axis, _, _ = reduced(op)
        return axis is not None and 0 not in {a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}

    def _call(self, fun: Any, args: list[Any], op: Op, shape: Any, order: Any = None, result: Any = None) -> Value:
        """Append a call, made for `op`."""
        if result is None:
            result = Value(np.broadcast_to(np.ones((), op.result.dtype), shape))
            result.order = order
        self.ops.append(Op(fun, args, {}, result, op.scope, op.backward))
        return result

    def _columns(self, x: Value, op: Op) -> Value:
        """A matrix for each example (n, 1, k, p) as one matrix (k, p * n), which it is in memory."""
        n, _, k, p = x.shape
        inside = self._call(np.transpose, [x, (1, 2, 3, 0)], op, (1, k, p, n))
        return self._call(np.reshape, [inside, (k, p * n)], op, (k, p * n))

    def _product(self, op: Op) -> bool:
        """One matrix times a matrix for each example: their columns side by side."""
        a, b = op.args
        if not isinstance(b, Value) or id(b) not in self.last or b.ndim != 4 or b.shape[1] != 1:
            return False
        if a.ndim < 2 or a.size != a.shape[-1] * a.shape[-2] or a.dtype != b.dtype:
            return False
        (f, k), (n, _, _, p) = a.shape[-2:], b.shape
        matrix, columns = self._call(np.reshape, [a, (f, k)], op, (f, k)), self._columns(b, op)
        product = self._call(np.dot, [matrix, columns], op, (f, p * n))
        there = self._call(np.reshape, [product, (1, f, p, n)], op, (1, f, p, n))
        self._call(np.transpose, [there, (3, 0, 1, 2)], op, op.result.shape, result=op.result)
        self.last.add(id(op.result))
        return True

    def _weight_gradient(self, op: Op) -> bool:
        """The sum over the examples of a product for each: one product over all of their places."""
        product, axis, keepdims, rest = reduced(op)
        maker = self.makers.get(id(product))
        if maker is None or maker.fun is not np.matmul or axis not in (0, (0,)) or keepdims or rest:
            return False
        g, turned = maker.args
        swap = self.makers.get(id(turned))
        if swap is None or swap.fun is not np.swapaxes or not _swaps_last(swap):
            return False
        patches = swap.args[0]
        if not {id(g), id(patches)} <= self.last or g.ndim != 4 or not (g.shape[1] == patches.shape[1] == 1):
            return False
        rows, columns = self._columns(g, op), self._columns(patches, op)
        (f, length), k = rows.shape, columns.shape[0]
        # As patches times gradients: where the summed axis is innermost in both, BLAS wants the longer matrix first.
        across = self._call(np.transpose, [rows], op, (length, f))
        total = self._call(np.dot, [columns, across], op, (k, f))
        total = self._call(np.transpose, [total], op, (f, k))
        self._call(np.reshape, [total, op.result.shape], op, op.result.shape, result=op.result)
        return True


def _swaps_last(op: Op) -> bool:
    axes = [a % op.result.ndim for a in [*op.args[1:], *op.kwargs.values()] if isinstance(a, int)]
    return sorted(axes) == [op.result.ndim - 2, op.result.ndim - 1]
