"""Images of a batch kept with the examples along the last axis, from the first window that slides over them.

A convolution then is one long product of matrices instead of one for each example, and whatever looks at neighbouring
pixels moves runs of memory as long as the batch. The program computes the same. Where a call is not known here, it is
given the images as they were: a view of them, which takes longer to read and is right.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import where_positive
from tinygrad_mm.compiler.images import (
    examples_last,
    max_pool_last,
    overlap_add_last,
    pieces,
    short_product,
    to_maxima_last,
    windows_last,
)
from tinygrad_mm.compiler.kernels import reduced
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.functional.pooling import _max_pool, _to_maxima
from tinygrad_mm.functional.sliding import overlap_add, windows

__all__ = ["examples_last_in"]

EXAMPLES_FROM = 16  # with fewer, the runs of memory are as short as they were

_REDUCTIONS = (np.sum, np.max, np.min, np.mean)


def examples_last_in(program: Program) -> None:
    """Rewrite what happens to images between windows, products, pooling and elementwise calls."""
    if any(op.fun is windows for op in program.ops):
        _Images(program).run()


class _Images:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.last: dict[int, Value] = {}  # id of a Value -> the Value that holds it with its first axis last
        self.swapped: dict[int, Value] = {}  # id of a Value -> the one that it is with its last two axes swapped
        self.sums: dict[int, Value] = {}  # id of a stack of products -> the Value that is the sum of the stack
        self.makers, self.uses = program.makers(), program.uses()
        self.ops: list[Op] = []
        self.keep: list[Value] = []

    def run(self) -> None:
        for op in self.program.ops:
            if (
                type(op.result.example) is tuple
                or any(type(a.example) is tuple for a in op.operands())
                or not self._rewritten(op)
            ):
                self.ops.append(op)
        self.program.ops = self.ops

    def _rewritten(self, op: Op) -> bool:
        """Write an op in the other layout; False to leave it as it is."""
        first = op.args[0] if op.args and isinstance(op.args[0], Value) else None
        if first is None:
            return False
        if op.fun is windows:
            return self._windows(op, first)
        if op.fun is np.sum and id(first) in self.sums:
            self._call(np.reshape, [self.sums[id(first)], op.result.shape], op, op.result)
            return True
        if not any(id(a) in self.last or id(a) in self.swapped for a in op.operands()):
            return False
        n = op.result.shape[0] if op.result.ndim else 0
        if op.fun is np.reshape and id(first) in self.last and n == first.shape[0] and op.result.ndim > 1:
            return self._moved(op, np.reshape, [self.last[id(first)], (*op.result.shape[1:], n)])
        if op.fun is np.swapaxes and id(first) in self.last and _swaps_last(op):
            self.swapped[id(op.result)] = first
            return False  # as a view, in case somebody else reads it
        if op.fun is np.matmul and len(op.args) == 2 and isinstance(op.args[1], Value):
            return self._product(op) or self._weight_gradient(op)
        if op.fun in (_max_pool, _to_maxima, overlap_add):
            return self._sliding(op)
        if self._is_elementwise(op):
            return self._moved(op, op.fun, [self._beside(a, op) for a in op.args])
        if op.fun in _REDUCTIONS and id(first) in self.last:
            return self._reduction(op, first)
        return False

    # -- writing

    def _call(self, fun: Any, args: list[Any], op: Op, result: Value | None = None, shape: Any = None) -> Value:
        """Append a call, made for `op`, with a given result or a new one of a shape and the dtype of the operands."""
        if result is None:
            dtype = np.result_type(*(a.dtype for a in args if isinstance(a, Value)))
            result = Value(np.broadcast_to(np.zeros((), dtype), shape))
        self.ops.append(Op(fun, args, {}, result, op.scope, op.backward))
        return result

    def _moved(self, op: Op, fun: Any, args: list[Any]) -> bool:
        """The result of an op is computed with its first axis last, and what it was is a view of that."""
        value = Value(np.moveaxis(op.result.example, 0, -1))
        self.ops.append(Op(fun, args, {}, value, op.scope, op.backward))
        self._is(op.result, value, op)
        return True

    def _is(self, result: Value, value: Value, op: Op) -> None:
        """A Value is kept as another one, with its first axis last."""
        self.last[id(result)] = value
        self.keep.append(result)
        self._call(np.transpose, [value, (value.ndim - 1, *range(value.ndim - 1))], op, result)

    def _last(self, value: Value, op: Op) -> Value:
        """The Value that holds another one with its first axis last."""
        if id(value) not in self.last:
            maker = self.makers.get(id(value))
            moved = (*value.shape[1:], value.shape[0])
            self.keep.append(value)
            if value.ndim == 2:
                self.last[id(value)] = self._call(np.transpose, [value], op, shape=moved)
            elif maker is not None and maker.fun is np.reshape and maker.args[0].shape[:1] == value.shape[:1]:
                flat = self._last(maker.args[0], op)
                self.last[id(value)] = self._call(np.reshape, [flat, moved], op, shape=moved)
            else:
                self.last[id(value)] = self._call(examples_last, [value], op, shape=moved)
        return self.last[id(value)]

    # -- what is known

    def _windows(self, op: Op, x: Value) -> bool:
        _, size, stride, padding, dilation, *fill = _arguments(op)
        if x.ndim != 4 or x.shape[0] < EXAMPLES_FROM or fill not in ([], [0]):
            return False
        return self._moved(op, windows_last, [self._last(x, op), size, stride, padding, dilation])

    def _sliding(self, op: Op) -> bool:
        fun = {_max_pool: max_pool_last, _to_maxima: to_maxima_last, overlap_add: overlap_add_last}[op.fun]
        arguments = _arguments(op)
        if op.result.ndim != 4:
            return False
        return self._moved(op, fun, [self._last(a, op) if isinstance(a, Value) else a for a in arguments])

    def _product(self, op: Op) -> bool:
        """One matrix times a matrix for each example: their columns side by side."""
        a, b = op.args
        if id(b) not in self.last or a.shape[:-2] != (1,) or b.ndim != 4 or b.shape[1] != 1 or a.dtype != b.dtype:
            return False
        (_, f, k), (n, _, _, p) = a.shape, b.shape
        matrix = self._call(np.reshape, [a, (f, k)], op, shape=(f, k))
        columns = self._call(np.reshape, [self.last[id(b)], (k, p * n)], op, shape=(k, p * n))
        product = self._call(short_product, [matrix, columns], op, shape=(f, p * n))
        self._is(op.result, self._call(np.reshape, [product, (1, f, p, n)], op, shape=(1, f, p, n)), op)
        return True

    def _weight_gradient(self, op: Op) -> bool:
        """The sum over the examples of a product for each: one product over all of their places."""
        g, turned = op.args
        patches = self.swapped.get(id(turned))
        users = self.uses.get(id(op.result), [])
        if patches is None or id(g) not in self.last or g.ndim != 4 or not (g.shape[1] == patches.shape[1] == 1):
            return False
        if not users or not all(_sums_first(user) for user in users) or op.result in self.program.wanted():
            return False
        (n, _, f, p), k = g.shape, patches.shape[2]
        rows = self._call(np.reshape, [self.last[id(g)], (f, p * n)], op, shape=(f, p * n))
        columns = self._call(np.reshape, [self.last[id(patches)], (k, p * n)], op, shape=(k, p * n))
        # As patches times gradients: where the summed axis is innermost in both, BLAS wants the longer matrix first.
        count, length = pieces(f * k, p * n), p * n
        if count == 1:
            across = self._call(np.transpose, [rows], op, shape=(length, f))
            total = self._call(np.dot, [columns, across], op, shape=(k, f))
        else:
            size = length // count
            left = self._call(np.reshape, [columns, (k, count, size)], op, shape=(k, count, size))
            left = self._call(np.transpose, [left, (1, 0, 2)], op, shape=(count, k, size))
            right = self._call(np.reshape, [rows, (f, count, size)], op, shape=(f, count, size))
            right = self._call(np.transpose, [right, (1, 2, 0)], op, shape=(count, size, f))
            stack = self._call(np.matmul, [left, right], op, shape=(count, k, f))
            total = self._call(np.sum, [stack, 0], op, shape=(k, f))
        self.sums[id(op.result)] = self._call(np.transpose, [total], op, shape=(f, k))
        return True

    def _is_elementwise(self, op: Op) -> bool:
        if op.kwargs or op.result.ndim < 3 or op.result.shape[0] < EXAMPLES_FROM:
            return False
        simple = isinstance(op.fun, np.ufunc) and op.fun.signature is None and op.fun.nout == 1
        return (simple or op.fun is where_positive) and all(
            a.ndim < op.result.ndim or a.shape[0] in (1, op.result.shape[0]) for a in op.operands()
        )

    def _beside(self, a: Any, op: Op) -> Any:
        """An operand of an elementwise call, as it stands beside images with the examples last."""
        if not isinstance(a, Value) or a.ndim == 0:
            return a
        d = op.result.ndim
        if a.ndim == d and a.shape[0] == op.result.shape[0]:
            return self._last(a, op)
        shape = (*(1,) * (d - 1 - a.ndim), *(a.shape[1:] if a.ndim == d else a.shape), 1)
        return self._call(np.reshape, [a, shape], op, shape=shape)

    def _reduction(self, op: Op, x: Value) -> bool:
        _, axis, keepdims, rest = reduced(op)
        if axis is None or rest:
            return False
        axes = {a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
        moved = self.last[id(x)]
        if 0 not in axes:
            result = Value(np.moveaxis(op.result.example, 0, -1))
            options = {"axis": tuple(sorted(a - 1 for a in axes)), "keepdims": keepdims}
            self.ops.append(Op(op.fun, [moved], options, result, op.scope, op.backward))
            self._is(op.result, result, op)
            return True
        if {*range(x.ndim)} - axes != {1}:  # over all but the channels, as biases and normalization do
            return False
        shape = (x.shape[1], x.size // x.shape[1])
        total = Value(op.result.example.reshape(shape[:1])) if keepdims else op.result
        self._call(op.fun, [self._call(np.reshape, [moved, shape], op, shape=shape), 1], op, total)
        if keepdims:
            self._call(np.reshape, [total, op.result.shape], op, op.result)
        return True


_WINDOW = ("size", "stride", "padding", "dilation")
_NAMES: dict[Any, tuple[str, ...]] = {
    windows: ("x", *_WINDOW, "fill"),
    overlap_add: ("patches", "shape", *_WINDOW),
    _max_pool: ("x", *_WINDOW),
    _to_maxima: ("g", "y", "x", *_WINDOW),
}


def _arguments(op: Op) -> list[Any]:
    """The arguments of one of these by position, also those that were given by name."""
    return [*op.args, *(op.kwargs[name] for name in _NAMES[op.fun][len(op.args) :] if name in op.kwargs)]


def _swaps_last(op: Op) -> bool:
    axes = [a % op.result.ndim for a in [*op.args[1:], *op.kwargs.values()] if isinstance(a, int)]
    return sorted(axes) == [op.result.ndim - 2, op.result.ndim - 1]


def _sums_first(op: Op) -> bool:
    """Whether an op is the sum over the first axis."""
    if op.fun is not np.sum:
        return False
    _, axis, keepdims, rest = reduced(op)
    return axis in (0, (0,)) and not keepdims and not rest
