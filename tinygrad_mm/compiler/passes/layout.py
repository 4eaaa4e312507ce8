"""Matrices of activations kept with features along the first axis, where they come from products with weights.

The rows of a batch then lie side by side: sums and maxima over the features of an example run along whole rows of
memory, which NumPy does several times faster than along short ones, and a bias is one more column of a weight (see
`biases`). The program computes the same: a product is computed as the transpose of the product of the transposes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import one_hot_columns, one_hot_rows, pick_columns, pick_rows, where_positive
from tinygrad_mm.compiler.passes.biases import COPY_UP_TO
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["features_first"]

_REDUCTIONS = (np.sum, np.max, np.min, np.mean)


def features_first(program: Program) -> None:
    """Keep the results of products with weights, and what is computed from them element by element, transposed."""
    _Layout(program).run()


class _Layout:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.turned: dict[int, Value] = {}  # id of a Value -> the Value that holds its transpose
        self.makers = program.makers()
        self.uses = program.uses()
        self.plain: set[int] = set()  # ids of matrices that were computed, and stay as they are
        self.ops: list[Op] = []
        self.keep: list[Value] = []

    def run(self) -> None:
        for op in self.program.ops:
            if not self._rewritten(op):
                self.ops.append(op)
                if type(op.result.example) is not tuple and op.fun is not one_hot_rows:
                    self.plain.add(id(op.result))
        self.program.ops = self.ops

    def _rewritten(self, op: Op) -> bool:
        result, args = op.result, op.args
        if type(result.example) is tuple or any(type(a.example) is tuple for a in op.operands()):
            return False
        values = [a for a in args if isinstance(a, Value)]
        if op.fun in (np.matmul, np.dot) and len(values) == 2 and result.ndim == 2:
            a, b = values
            if a.ndim == b.ndim == 2 and self._is_weight(b) and not self._is_large_input(a):
                return self._replaced(op, np.dot, [self._transposed(b, op), self._transposed(a, op)])
            return False
        if not any(id(a) in self.turned for a in values):
            return False
        arrays = [a for a in values if a.ndim == 2 and 1 not in a.shape]
        if arrays and all(id(a) in self.plain for a in arrays):  # another call looks at one of them transposed
            return False
        if op.fun is np.transpose and result.ndim == 2:
            self.ops.append(Op(np.positive, [self.turned[id(values[0])]], {}, result, op.scope, op.backward))
            return True
        if self._is_elementwise(op) and result.ndim == 2:
            return self._replaced(op, op.fun, [self._beside(a, op) for a in args])
        if op.fun is where_positive:
            return self._replaced(op, op.fun, [self._transposed(a, op) for a in values])
        if op.fun in _REDUCTIONS and values[0].ndim == 2:
            return self._reduction(op)
        if op.fun is pick_rows:
            self.ops.append(Op(pick_columns, [self.turned[id(args[0])], args[1]], {}, result, op.scope, op.backward))
            return True
        return False

    def _is_elementwise(self, op: Op) -> bool:
        return isinstance(op.fun, np.ufunc) and op.fun.signature is None and not op.kwargs and op.fun.nout == 1

    def _is_weight(self, value: Value) -> bool:
        """Whether a Value is a captured tensor, or one transposed."""
        while value.kind == "result":
            op = self.makers.get(id(value))
            if op is None or op.fun is not np.transpose or not isinstance(op.args[0], Value):
                return False
            value = op.args[0]
        return value.kind == "leaf"

    def _is_large_input(self, value: Value) -> bool:
        """Whether a Value is an argument that is better not copied; its products are quicker as they are."""
        return value.kind == "input" and value.size > COPY_UP_TO

    def _replaced(self, op: Op, fun: Any, args: list[Any]) -> bool:
        """The transpose of an op's result is computed, and the result is a view of it."""
        turned = Value(_turn(op.result.example))
        self.ops.append(Op(fun, args, op.kwargs, turned, op.scope, op.backward))
        self.turned[id(op.result)] = turned
        self.keep.append(op.result)
        self.ops.append(Op(np.transpose, [turned], {}, op.result, op.scope, op.backward))
        return True

    def _transposed(self, value: Value, op: Op) -> Value:
        """The Value that holds the transpose of a matrix."""
        if id(value) not in self.turned:
            maker = self.makers.get(id(value))
            if maker is not None and maker.fun is one_hot_rows:
                turned = Value(_turn(value.example))
                self.ops.append(Op(one_hot_columns, maker.args, {}, turned, maker.scope, maker.backward))
            elif maker is not None and maker.fun is np.transpose and maker.args[0].ndim == 2:
                turned = maker.args[0]
            elif value.kind == "constant":
                turned = Value(np.ascontiguousarray(value.example.T), "constant")
            else:
                turned = Value(_turn(value.example))
                backward = op.backward and (maker is None or maker.backward)
                self.ops.append(Op(np.transpose, [value], {}, turned, op.scope, backward))
            self.turned[id(value)] = turned
            self.keep.append(value)
        return self.turned[id(value)]

    def _beside(self, a: Any, op: Op) -> Any:
        """An operand of an elementwise call, as it stands beside transposed matrices."""
        if not isinstance(a, Value) or a.ndim == 0:
            return a
        if a.ndim == 2:
            return self._transposed(a, op)
        shape = (a.shape[0], 1)  # a row becomes a column
        if a.kind == "constant":
            return Value(np.ascontiguousarray(a.example.reshape(shape)), "constant")
        column = Value(np.asarray(a.example).reshape(shape))
        self.ops.append(Op(np.reshape, [a, shape], {}, column, op.scope, op.backward))
        return column

    def _reduction(self, op: Op) -> bool:
        """Over the other axis."""
        options = dict(zip(("axis", "dtype", "out", "keepdims"), op.args[1:], strict=False)) | op.kwargs
        axis, keepdims = options.pop("axis", None), options.pop("keepdims", False)
        if any(v is not None for v in options.values()):
            return False
        if isinstance(axis, tuple) and len(axis) == 1:
            axis = axis[0]
        if not isinstance(axis, int):
            return False
        turned = self.turned[id(op.args[0])]
        kwargs = {"axis": 1 - axis % 2, "keepdims": keepdims}
        if keepdims:
            op = Op(op.fun, op.args, kwargs, op.result, op.scope, op.backward)
            return self._replaced(op, op.fun, [turned])
        self.ops.append(Op(op.fun, [turned], kwargs, op.result, op.scope, op.backward))
        return True


def _turn(example: Any) -> Any:
    return example.T
