"""Matrix products as calls of BLAS on pointers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinygrad_mm.compiler.loops.native import blas
from tinygrad_mm.compiler.loops.nests import Single
from tinygrad_mm.compiler.statements import Array, Statement

__all__ = ["Product", "product_of"]


@dataclass
class Product(Single):
    """`out = a @ b`.

    `sides` say for each matrix whether BLAS reads it transposed, and the distance between the rows it then sees.
    `stack` is the shape of a stack of products, `steps` the strides from one to the next.
    """

    sizes: tuple[int, int, int]
    sides: tuple[tuple[bool, int], tuple[bool, int], tuple[bool, int]]
    stack: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]

    def lines(self, a: str, b: str, c: str) -> list[str]:
        """The calls of BLAS, given the names of pointers to the beginning of the arrays."""
        (m, n, k), (left, right, (turned, leading)) = self.sizes, self.sides
        letter, real = ("s", "float32") if self.statement.out.dtype == np.float32 else ("d", "float64")
        lines, indent = [], ""
        for d, length in enumerate(self.stack):
            lines.append(f"{indent}for i{d} in range({length}):")
            indent += "    "

        def at(name: str, steps: tuple[int, ...]) -> str:
            terms = [f"i{d} * {s}" for d, s in enumerate(steps) if s]
            return f"shifted({name}, {' + '.join(terms)})" if terms else name

        a, b, c = (at(name, steps) for name, steps in zip((a, b, c), self.steps, strict=True))
        if turned:  # the transpose of the product is the product of the transposes, in the other order
            m, n, a, b = n, m, b, a
            left, right = ((not side[0], side[1]) for side in (right, left))
        ta, tb = (112 if side[0] else 111 for side in (left, right))
        matrices = f"{real}(1), {a}, {left[1]}, {b}, {right[1]}, {real}(0), {c}, {leading}"
        return [*lines, f"{indent}{letter}gemm(101, {ta}, {tb}, {m}, {n}, {k}, {matrices})"]


def product_of(statement: Statement) -> Product | None:
    """How a product is called; None for what BLAS does not know, or cannot read as it lies in memory."""
    if statement.fun not in (np.dot, np.matmul):
        return None
    a, b = statement.operands
    out = statement.out
    if a.dtype not in blas() or not a.dtype == b.dtype == out.dtype:
        return None
    x, y, z = a.ghost, b.ghost, out.ghost
    if x.ndim == 1:
        x, z = x[None], z[..., None, :] if y.ndim > 1 else z[..., None]
    if y.ndim == 1:
        y, z = y[:, None], z[..., None]
    stack = z.shape[:-2]
    x, y = (np.broadcast_to(s, stack + s.shape[-2:]) for s in (x, y))
    sides = [_side(*s.shape[-2:], *(step // s.itemsize for step in s.strides[-2:])) for s in (x, y, z)]
    first, second, third = sides
    if first is None or second is None or third is None:
        return None
    long = [axis for axis, n in enumerate(stack) if n > 1]
    steps = tuple(tuple(s.strides[axis] // s.itemsize for axis in long) for s in (x, y, z))
    sizes = (z.shape[-2], z.shape[-1], x.shape[-1])
    return Product(statement, sizes, (first, second, third), tuple(stack[axis] for axis in long), steps)


def _side(rows: int, columns: int, down: int, right: int) -> tuple[bool, int] | None:
    """How BLAS is told to read a matrix with these strides; None where it lies otherwise."""
    if (right == 1 or columns == 1) and (down >= columns or rows == 1):
        return False, max(down if rows > 1 else columns, 1)
    if (down == 1 or rows == 1) and (right >= rows or columns == 1):
        return True, max(right if columns > 1 else rows, 1)
    return None


def is_outer(statement: Statement) -> bool:
    """Whether a product has one term for each element: a column times a row."""
    if statement.fun not in (np.dot, np.matmul):
        return False
    a, b = statement.operands
    return isinstance(a, Array) and bool(a.ndim == b.ndim == 2 and a.shape[1] == 1 and a.dtype == b.dtype)
