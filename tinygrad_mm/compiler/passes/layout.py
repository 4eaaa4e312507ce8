"""In which order the axes of results lie in memory; the calls, and what they compute, stay the same.

Matrices of activations that come from products with weights are kept with features along the first axis: the rows of a
batch then lie side by side, sums and maxima over the features of an example run along whole rows of memory, which NumPy
does several times faster than along short ones, and a bias is one more row of a weight (see `biases`).
"""

from __future__ import annotations

import numpy as np

from tinygrad_mm.compiler.fused import where_positive
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["COPY_UP_TO", "features_first", "is_elementwise"]

COPY_UP_TO = 1 << 13  # elements of an argument: it takes longer to copy a larger one than is gained
TURNED = (1, 0)


def features_first(program: Program) -> None:
    """Matrices with their columns side by side in memory.

    Looks for: products of matrices of which the second is a captured tensor, or one transposed, and the first is no
    large argument, which is better not copied; and what is computed of these element by element.
    Puts there: the order of axes. The product is then made as that of the transposes.
    The same, because it is only said where results lie.
    """
    makers = program.makers()
    for op in program.ops:
        if op.result.shape is None or op.result.ndim != 2:
            continue
        values = list(op.operands())
        if op.fun in (np.matmul, np.dot) and len(values) == 2 and values[0].ndim == values[1].ndim == 2:
            is_large = values[0].kind == "input" and values[0].size > COPY_UP_TO
            op.result.order = TURNED if _is_weight(values[1], makers) and not is_large else op.result.order
        elif is_elementwise(op) and any(a.order == TURNED for a in values if a.shape == op.result.shape):
            op.result.order = TURNED
            for a in values:
                if a.kind == "constant" and a.ndim == 2:
                    a.example = np.asfortranarray(a.example)


def is_elementwise(op: Op) -> bool:
    """Whether each element of the result is made of one of each operand."""
    simple = isinstance(op.fun, np.ufunc) and op.fun.signature is None and op.fun.nout == 1 and not op.kwargs
    return simple or op.fun is where_positive


def _is_weight(value: Value, makers: dict[int, Op]) -> bool:
    """Whether a Value is a captured tensor, or one transposed."""
    op = makers.get(id(value))
    return value.kind == "leaf" if op is None else op.fun is np.transpose and _is_weight(op.args[0], makers)
