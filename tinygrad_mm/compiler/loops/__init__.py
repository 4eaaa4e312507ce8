"""The Numba backend: the same optimized program, its elementwise chains and reductions fused into compiled loops.

`accesses` finds where each Value's elements lie, `schedule` puts operations into `nests` of loops, matrix `products`
and cross `entropy`, `memory` gives results their places, `nest_text` and `writer` write the parts, with the `updates`,
and `emitter` the whole. `native` holds what the emitted loops call. Operations that are none of these stay NumPy calls
between compiled pieces.
"""

from __future__ import annotations

import numpy as np

from tinygrad_mm.compiler.kernels import WHOLE
from tinygrad_mm.compiler.loops.emitter import Emitted, emit
from tinygrad_mm.compiler.loops.entropy import WHOLE_HERE
from tinygrad_mm.compiler.loops.native import require_numba
from tinygrad_mm.compiler.loops.updates import Update
from tinygrad_mm.compiler.passes import CLEAN, EXAMPLES_LAST, JOIN_PRODUCTS, Pass
from tinygrad_mm.compiler.passes.inlining import inline
from tinygrad_mm.compiler.passes.patterns import fuse_errors, read_results
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["PASSES", "Emitted", "Update", "emit", "require_numba"]


def multiply_outer_products(program: Program) -> None:
    """Write a product that has one term for each element, a column times a row, as a multiplication: a loop."""
    for op in program.ops:
        if is_outer(op):
            op.fun = np.multiply


# Those that pay for loops too; combinations that spare NumPy calls are none of them.
PASSES = (
    Pass("fuse_errors", fuse_errors),
    Pass("inline", lambda program: inline(program, WHOLE | WHOLE_HERE)),
    CLEAN,
    Pass("read_results", read_results),
    EXAMPLES_LAST,
    CLEAN,
    JOIN_PRODUCTS,
    Pass("multiply_outer_products", multiply_outer_products),
)


def is_outer(op: Op) -> bool:
    """Whether a product has one term for each element: a column times a row."""
    if op.fun not in (np.matmul, np.dot) or op.kwargs or not all(isinstance(a, Value) for a in op.args):
        return False
    a, b = op.args
    return bool(a.ndim == b.ndim == 2 and a.shape[1] == 1 and a.dtype == b.dtype)
