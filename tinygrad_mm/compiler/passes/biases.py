"""A bias as one more row of its weight: `(h | 1) (W; b)` is one product where `h W + b` is a product and a sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.lowerings import reduced
from tinygrad_mm.compiler.passes.layout import COPY_UP_TO, is_elementwise
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["fold_biases"]


def fold_biases(program: Program) -> None:
    """One product for a weight and its bias, and one for both gradients.

    Looks for: `h @ weight + bias`, kept with features first, where `weight` (k, m) and `bias` (m,) are captured
    parameters; and the gradients of these two parameters, `h.T @ g` and the sums of g over the batch.
    Puts there: products with the matrix (k + 1, m) that both parameters are in memory, and with h kept in an array that
    has a column of ones beside it.
    Precondition: the parameters lie one after the other in one piece of memory, and for the gradients their places do,
    too; nothing else reads the product; each gradient is found as that of its parameter, made from this very h and from
    one and the same g, and read by nothing else.
    The same, because the column of ones multiplies the bias, and sums g.
    """
    _Folding(program).run()


class _Folding:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.makers, self.uses = program.makers(), program.uses()
        self.wanted = {id(v) for v in program.wanted()}
        self.with_ones: dict[int, Any] = {}  # id of h -> (features + 1, batch): h as columns, and a row of ones below
        self.before: dict[int, Op] = {}  # ops to put in front of another one
        self.removed: set[int] = set()

    def run(self) -> None:
        for op in self.program.ops:
            if op.fun is np.add and op.result.ndim == 2:
                for product, bias in (op.args, op.args[::-1]):
                    if isinstance(product, Value) and isinstance(bias, Value) and self._fold(op, product, bias):
                        break
        ops = []
        for op in self.program.ops:
            if id(op) not in self.removed:
                ops.extend([self.before[id(op)]] if id(op) in self.before else [])
                ops.append(op)
        self.program.ops = ops

    def _fold(self, op: Op, product: Value, b: Value) -> bool:
        dot = self.makers.get(id(product))
        if dot is None or dot.fun not in (np.dot, np.matmul) or b.kind != "leaf" or product.order is None:
            return False
        h, w = dot.args
        if w.kind != "leaf" or b.shape != w.shape[1:] or product.shape != op.result.shape:
            return False
        both = _as_one(w.example, b.example)
        if both is None or len(self.uses[id(product)]) != 1 or id(product) in self.wanted | self.program.places.keys():
            return False
        rows = self._kept_with_ones(h, op)
        if rows is None:
            return False
        self.removed.add(id(dot))
        name = w.name.removesuffix("weight").rstrip("._")
        weights = Value(both, "constant", f"{name}_weight_and_bias")
        op.fun, op.args = np.dot, [Value(rows.T, "constant", "with_ones"), weights]
        self._fold_gradients(w, b, h, rows)
        return True

    def _kept_with_ones(self, h: Value, op: Op) -> Any:
        """The array that h is kept in, with a row of ones below it; None where h cannot be told where to be."""
        if id(h) not in self.with_ones:
            maker, result, taken = self.makers.get(id(h)), h, self.wanted | self.program.places.keys()
            if h.kind == "input" and h.size <= COPY_UP_TO:
                result = Value(np.empty(h.shape, h.dtype))
                self.before[id(op)] = Op(np.positive, [h], {}, result, op.scope, op.backward)
            elif maker is None or not is_elementwise(maker) or h.order is None or id(h) in taken:
                return None
            self.with_ones[id(h)] = array = np.ones((h.shape[1] + 1, h.shape[0]), h.dtype)
            self.program.place(result, "rows", array[:-1].T)
        return self.with_ones[id(h)]

    def _fold_gradients(self, w: Value, b: Value, h: Value, rows: Any) -> None:
        of, places = self.program.gradient_of, self.program.places
        found = [of.get(id(v.leaf)) for v in (w, b)]
        if any(v is None or id(v) not in places or id(v) in self.uses or id(v) in self.wanted for v in found):
            return
        of_w, of_b = found
        assert of_w is not None
        assert of_b is not None
        dot, total = self.makers[id(of_w)], self.makers[id(of_b)]
        turned = self.makers.get(id(dot.args[0])) if dot.fun in (np.dot, np.matmul) else None
        if turned is None or turned.fun is not np.transpose or turned.args != [h]:
            return
        g, axis, keepdims, rest = reduced(total) if total.fun is np.sum else (None, None, False, {})
        if g is not dot.args[1] or axis not in (0, (0,)) or keepdims or rest:
            return
        both = _as_one(places[id(of_w)].array, places[id(of_b)].array)
        if both is None:
            return
        together = Value(np.empty(both.shape, both.dtype))
        dot.args[0], dot.result = Value(rows, "constant", "with_ones"), together
        weight = places.pop(id(of_w)).name
        del places[id(of_b)]
        self.program.place(together, f"{weight}_and_bias", both)
        self.removed.add(id(total))


def _as_one(above: Any, below: Any) -> Any:
    """A matrix and the vector that follows it in the same memory as one matrix; None where they are not that."""
    owner = above
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    root = below
    while isinstance(root.base, np.ndarray):
        root = root.base
    start, end, first = (a.__array_interface__["data"][0] for a in (above, below, owner))
    alike = above.dtype == below.dtype and above.flags.c_contiguous and below.flags.c_contiguous
    if root is not owner or not owner.flags.c_contiguous or not alike or end != start + above.nbytes:
        return None
    return np.ndarray((above.shape[0] + 1, above.shape[1]), above.dtype, owner, start - first)
