"""A bias as one more column of its weight: `(W | b) (h, 1)` is one product where `W h + b` is a product and a sum.

Parameters that lie one after the other in memory, a weight (k, m) and then its bias (m,), are a matrix (k + 1, m)
already. What is missing is a row of ones below the activations, which are kept in arrays that have one. On the way back
the gradients of both are one product, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import transposed_copy
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["fold_biases"]

COPY_UP_TO = 1 << 13  # elements of an input: a larger one takes longer to copy than a bias to add


def fold_biases(
    program: Program, pairs: dict[tuple[int, int], tuple[Any, Any]], given: dict[int, str], arrays: list[Any]
) -> None:
    """Fold the biases of `pairs`, by the ids of the two parameters: (both as one array, their gradients as one).

    `given` and `arrays` are what the program's results are written to: gradients that are known there, and, from here
    on, activations.
    """
    makers, uses = program.makers(), program.uses()
    tall: dict[int, Value] = {}  # id of activations -> the Value with the row of ones
    before: dict[int, list[Op]] = {}  # ops to put in front of another one

    def with_ones(h: Value, op: Op) -> Value | None:
        """The array that h is kept in, with a row of ones below it."""
        if id(h) in tall:
            return tall[id(h)]
        maker = makers.get(id(h))
        array = np.ones((h.shape[0] + 1, h.shape[1]), h.dtype)
        place = Value(array, "constant", "with_ones")
        if maker is None or id(h) in given:
            return None
        if maker.fun is np.transpose and maker.args[0].kind == "input" and h.size <= COPY_UP_TO:
            copy = Value(np.empty(h.shape, h.dtype))
            before.setdefault(id(op), []).append(Op(transposed_copy, [maker.args[0]], {}, copy, op.scope, op.backward))
            given[id(copy)] = f"rows_{len(tall)}"
        elif isinstance(maker.fun, np.ufunc) and maker.fun.signature is None:
            given[id(h)] = f"rows_{len(tall)}"
        else:
            return None
        arrays.append(array[:-1])
        tall[id(h)] = place
        return place

    removed: set[int] = set()
    for op in program.ops:
        if op.fun is not np.add or op.result.ndim != 2:
            continue
        for product, bias in (op.args, op.args[::-1]):
            dot = makers.get(id(product)) if isinstance(product, Value) else None
            b = _leaf(bias, makers)
            if dot is None or dot.fun not in (np.dot, np.matmul) or b is None or len(uses[id(product)]) != 1:
                continue
            if product.shape != op.result.shape or bias.shape != (product.shape[0], 1):
                continue
            w = _leaf(dot.args[0], makers)
            if w is None or (id(w.leaf), id(b.leaf)) not in pairs or dot.args[0].shape != w.shape[::-1]:
                continue
            both, gradients = pairs[id(w.leaf), id(b.leaf)]
            h = dot.args[1]
            rows = with_ones(h, op)
            if rows is None:
                continue
            removed.add(id(dot))
            name = w.name.removesuffix("weight").rstrip("._")
            op.fun, op.args = np.dot, [Value(both.T, "constant", f"{name}_weight_and_bias_T"), rows]
            _fold_gradients(program, w, b, h, rows, gradients, given, arrays, removed)
            break
    ops = []
    for op in program.ops:
        if id(op) not in removed:
            ops.extend(before.get(id(op), []))
            ops.append(op)
    program.ops = ops
    read = {id(a) for op in ops for a in op.operands()}
    program.ops = [op for op in ops if op.fun is not np.transpose or id(op.result) in read]


def _leaf(value: Any, makers: dict[int, Op]) -> Value | None:
    """The captured tensor that a Value is, transposed or reshaped."""
    while isinstance(value, Value) and value.kind == "result":
        op = makers.get(id(value))
        if op is None or op.fun not in (np.transpose, np.reshape):
            return None
        value = op.args[0]
    return value if isinstance(value, Value) and value.kind == "leaf" else None


def _fold_gradients(
    program: Program,
    w: Value,
    b: Value,
    h: Value,
    rows: Value,
    gradients: Any,
    given: dict[int, str],
    arrays: list[Any],
    removed: set[int],
) -> None:
    """Both gradients as one product, where they are `h gᵀ` and the sums of g along its rows."""
    dots = [op for op in program.ops if op.fun in (np.dot, np.matmul) and op.args[0] is h and id(op.result) in given]
    makers = program.makers()
    read = {id(a) for op in program.ops for a in op.operands()}  # another parameter may have the same gradient
    for dot in dots:
        turned = makers.get(id(dot.args[1]))
        if dot.result.shape != w.shape or id(dot.result) in read or turned is None:
            continue
        if turned.fun not in (np.transpose, transposed_copy):
            continue
        g = turned.args[0]
        for op in program.ops:
            alone = id(op.result) in given and id(op.result) not in read
            if op.fun is np.sum and op.args[0] is g and op.result.shape == b.shape and alone:
                together = Value(np.empty(gradients.shape, gradients.dtype))
                dot.args[0], dot.result = rows, together
                given[id(together)] = f"gradient_of_both_{len(arrays)}"
                arrays.append(gradients)
                removed.add(id(op))
                return
