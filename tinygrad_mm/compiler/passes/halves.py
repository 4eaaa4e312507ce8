"""Large products in several threads of Python's, for programs that are followed by something else in these threads.

After a large product that BLAS makes with threads of its own, nothing else can use the cores for a while: its workers
wait for the next one in busy loops, for a tenth of a second. Where an update of many passes follows, BLAS has one
thread instead, and threads of Python's make both: each some rows or columns of a product, and blocks of the update.
"""

from __future__ import annotations

from collections.abc import Iterable

from tinygrad_mm.compiler import together
from tinygrad_mm.compiler.program import Op, Program

__all__ = ["share_products"]

# Microseconds, measured with two threads.
FORK = 80.0  # until threads have begun with calls, and the last one has said that it is done
PASS = 1.4e-4  # an element in one pass of an update
MULTIPLY_ADD = 2.2e-5  # in a product made by one thread
LEAST = 1 << 23  # multiply-adds for each thread; with less, one thread makes the product
FEW = 1 << 18  # multiply-adds that BLAS has no second thread for


def share_products(program: Program, updates: Iterable[tuple[int, int]]) -> int:
    """Let threads make the large products of a program, if the update in threads gains more than is lost by that.

    `updates` are (elements, passes). Returns how many threads: 1 if it does not pay.
    """
    parts = together.threads()
    idle = 1 - 1 / parts
    saved = sum(elements * passes for elements, passes in updates) * PASS * idle
    products = [op for op in program.ops if op.multiply_adds >= FEW]
    large = [op for op in products if op.multiply_adds >= LEAST * parts and _of_matrices(op)]
    alone = sum(op.multiply_adds for op in products) - sum(op.multiply_adds for op in large)
    lost = FORK * (parts - 1) * (len(large) + 1) + MULTIPLY_ADD * alone * idle
    if not large or saved <= lost:
        return 1
    for op in large:
        op.fun = together.product_in_threads
    return parts


def _of_matrices(op: Op) -> bool:
    values = [*op.operands(), op.result]
    return len(values) == 3 and not op.kwargs and all(v.ndim == 2 and v.dtype == op.result.dtype for v in values)
