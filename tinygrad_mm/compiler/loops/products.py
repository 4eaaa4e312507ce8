"""Matrix products as calls of BLAS on pointers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinygrad_mm.compiler.loops.accesses import Accesses, contiguous, spread
from tinygrad_mm.compiler.loops.native import blas
from tinygrad_mm.compiler.program import Op, Value

__all__ = ["Product", "product_of"]


@dataclass
class Side:
    """A factor: whether BLAS has to transpose it, and the distance between the rows it then sees."""

    transposed: bool
    leading: int


@dataclass
class Product:
    """`result = a @ b`: M, N, K as BLAS names them, and for a stack of products the strides from one to the next."""

    op: Op
    sizes: tuple[int, int, int]
    a: Side
    b: Side
    stack: tuple[int, ...]
    steps: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    def call(self, a: str, b: str, c: str, rate: str = "") -> str:
        """The call of BLAS, given the names of pointers: c = a @ b, or, with a learning rate, c -= rate * a @ b."""
        m, n, k = self.sizes
        letter, real = ("s", "float32") if self.op.result.dtype == np.float32 else ("d", "float64")
        ta, tb = (112 if side.transposed else 111 for side in (self.a, self.b))
        factor, kept = (f"-{rate}[0]", f"{real}(1)") if rate else (f"{real}(1)", f"{real}(0)")
        return (
            f"{letter}gemm(101, {ta}, {tb}, {m}, {n}, {k}, {factor}, {a}, {self.a.leading}, "
            f"{b}, {self.b.leading}, {kept}, {c}, {max(n, 1)})"
        )

    def lines(self, a: str, b: str, c: str) -> list[str]:
        """The statements, given the names of pointers to the beginning of the arrays."""
        if not self.stack:
            return [self.call(a, b, c)]
        lines, indent = [], ""
        for d, n in enumerate(self.stack):
            lines.append(f"{indent}for i{d} in range({n}):")
            indent += "    "

        def at(name: str, steps: tuple[int, ...]) -> str:
            terms = [f"i{d} * {s}" for d, s in enumerate(steps) if s]
            return f"shifted({name}, {' + '.join(terms)})" if terms else name

        names = (at(name, steps) for name, steps in zip((a, b, c), self.steps, strict=True))
        return [*lines, indent + self.call(*names)]


def product_of(op: Op, accesses: Accesses) -> Product | None:
    """How a product is called; None for what BLAS does not know, or cannot read as it lies in memory."""
    if op.fun not in (np.matmul, np.dot) or op.kwargs or len(op.args) != 2:
        return None
    a, b = op.args
    if not (isinstance(a, Value) and isinstance(b, Value)) or not (a.ndim and b.ndim):
        return None
    if a.dtype != b.dtype or a.dtype not in blas() or op.result.dtype != a.dtype or not (a.size and b.size):
        return None
    if op.fun is np.dot and (a.ndim > 2 or b.ndim > 2):
        return None
    a_shape = a.shape if a.ndim > 1 else (1, *a.shape)
    b_shape = b.shape if b.ndim > 1 else (*b.shape, 1)
    a_strides = accesses[a].strides if a.ndim > 1 else (0, *accesses[a].strides)
    b_strides = accesses[b].strides if b.ndim > 1 else (*accesses[b].strides, 0)
    (m, k), n = a_shape[-2:], b_shape[-1]
    stack = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    a_steps = spread(accesses[a]._replace(strides=a_strides[:-2]), a_shape[:-2], stack)
    b_steps = spread(accesses[b]._replace(strides=b_strides[:-2]), b_shape[:-2], stack)
    c_steps = contiguous((*stack, m, n))[:-2]
    # Rows of a stack that lie evenly, times one matrix: a single product.
    while stack and (stack[-1] == 1 or (not b_steps[-1] and (a_steps[-1] == a_strides[-2] * m or m == 1))):
        if stack[-1] > 1 and m == 1:
            a_strides = (*a_strides[:-2], a_steps[-1], a_strides[-1])
        m *= stack[-1]
        stack, a_steps, b_steps, c_steps = stack[:-1], a_steps[:-1], b_steps[:-1], c_steps[:-1]
    a_side, b_side = _side(m, k, *a_strides[-2:]), _side(k, n, *b_strides[-2:])
    if a_side is None or b_side is None:
        return None
    return Product(op, (m, n, k), a_side, b_side, stack, (a_steps, b_steps, c_steps))


def _side(rows: int, columns: int, down: int, right: int) -> Side | None:
    """How BLAS is told to read a matrix with these strides; None where it lies otherwise."""
    if (right == 1 or columns == 1) and (down >= columns or rows == 1):
        return Side(False, down if rows > 1 else columns)
    if (down == 1 or rows == 1) and (right >= rows or columns == 1):
        return Side(True, right if columns > 1 else rows)
    return None
