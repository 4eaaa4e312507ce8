"""A bias as one more column of its weight: `(W | b) (h, 1)` is one product where `W h + b` is a product and a sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import transposed_copy
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["fold_biases"]

COPY_UP_TO = 1 << 13  # elements of an input: a larger one takes longer to copy than a bias to add


def fold_biases(program: Program) -> None:
    """One product for a weight and its bias, and one for both gradients.

    Looks for: `weight.T @ h + bias` with h of shape (features, batch), where `weight` (k, m) and `bias` (m,) are
    captured parameters; and the gradients of these two parameters, `h @ g.T` and the sums of g along its rows.
    Puts there: products with the matrix (k + 1, m) that both parameters are in memory, and with h kept in an array that
    has a row of ones below it.
    Precondition: the parameters lie one after the other in one piece of memory, and for the gradients their places do,
    too; nothing else reads the product; each gradient is found as that of its parameter, made from this very h and from
    one and the same g, and read by nothing else.
    The same, because the row of ones multiplies the bias, and sums g.
    """
    _Folding(program).run()


class _Folding:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.makers, self.uses = program.makers(), program.uses()
        self.wanted = {id(v) for v in program.wanted()}
        self.with_ones: dict[int, Value] = {}  # id of h -> the array that it is kept in, with a row of ones below it
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
        read = {id(a) for op in ops for a in op.operands()} | self.wanted
        self.program.ops = [op for op in ops if op.fun is not np.transpose or id(op.result) in read]

    def _fold(self, op: Op, product: Value, bias: Value) -> bool:
        dot, b = self.makers.get(id(product)), self._parameter(bias)
        if dot is None or dot.fun not in (np.dot, np.matmul) or b is None or dot.kwargs or len(dot.args) != 2:
            return False
        w, h = self._parameter(dot.args[0]), dot.args[1]
        if w is None or w.ndim != 2 or b.shape != w.shape[1:] or not isinstance(h, Value) or h.ndim != 2:
            return False
        if dot.args[0].shape != w.shape[::-1] or bias.shape != (b.shape[0], 1) or product.shape != op.result.shape:
            return False  # the weight is transposed, the bias is a column
        both = _as_one(w.example, b.example)
        if both is None or len(self.uses[id(product)]) != 1 or id(product) in self.wanted | self.program.places.keys():
            return False
        rows = self._kept_with_ones(h, op)
        if rows is None:
            return False
        self.removed.add(id(dot))
        name = w.name.removesuffix("weight").rstrip("._")
        op.fun, op.args = np.dot, [Value(both.T, "constant", f"{name}_weight_and_bias_T"), rows]
        self._fold_gradients(w, b, h, rows)
        return True

    def _kept_with_ones(self, h: Value, op: Op) -> Value | None:
        """The array that h is kept in, with a row of ones below it; None where h cannot be told where to be."""
        if id(h) in self.with_ones:
            return self.with_ones[id(h)]
        maker, result = self.makers.get(id(h)), h
        if maker is None or id(h) in self.program.places:
            return None
        if maker.fun is np.transpose and maker.args[0].kind == "input" and h.size <= COPY_UP_TO:
            result = Value(np.empty(h.shape, h.dtype))
            self.before[id(op)] = Op(transposed_copy, [maker.args[0]], {}, result, op.scope, op.backward)
        elif not isinstance(maker.fun, np.ufunc) or maker.fun.signature is not None:
            return None
        array = np.ones((h.shape[0] + 1, h.shape[1]), h.dtype)
        self.program.place(result, "rows", array[:-1])
        self.with_ones[id(h)] = rows = Value(array, "constant", "with_ones")
        return rows

    def _fold_gradients(self, w: Value, b: Value, h: Value, rows: Value) -> None:
        of, places = self.program.gradient_of, self.program.places
        found = [of.get(id(v.leaf)) for v in (w, b)]
        if any(v is None or id(v) not in places or id(v) in self.uses or id(v) in self.wanted for v in found):
            return
        of_w, of_b = found
        assert of_w is not None
        assert of_b is not None
        dot, total = self.makers[id(of_w)], self.makers[id(of_b)]
        turned = self.makers.get(id(dot.args[1])) if dot.fun in (np.dot, np.matmul) and dot.args[0] is h else None
        if turned is None or turned.fun is not np.transpose or turned.kwargs or len(turned.args) != 1:
            return
        if total.fun is not np.sum or total.args[0] is not turned.args[0] or of_b.shape != b.shape:
            return
        both = _as_one(places[id(of_w)].array, places[id(of_b)].array)
        if both is None:
            return
        together = Value(np.empty(both.shape, both.dtype))
        dot.args[0], dot.result = rows, together
        weight = places.pop(id(of_w)).name
        del places[id(of_b)]
        self.program.place(together, f"{weight}_and_bias", both)
        self.removed.add(id(total))

    def _parameter(self, value: Any) -> Value | None:
        """The captured parameter that a Value is, transposed or reshaped."""
        while isinstance(value, Value) and value.kind == "result":
            op = self.makers.get(id(value))
            if op is None or op.fun not in (np.transpose, np.reshape):
                return None
            value = op.args[0]
        return value if isinstance(value, Value) and value.kind == "leaf" else None


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
