"""Plain gradient descent, which multiplies its gradients by the learning rate and subtracts them."""

from __future__ import annotations

import numpy as np

from tinygrad_mm.compiler.program import Program

__all__ = ["is_descent"]


def is_descent(update: Program) -> bool:
    """Whether an update is `parameter - learning_rate * gradient` and nothing else, whatever it is called."""
    named = {v.name: v for v in update.inputs}
    if [op.fun for op in update.ops] != [np.multiply, np.subtract] or len(update.outputs) != 1:
        return False
    product, difference = update.ops
    factors = {id(named.get("gradient")), id(named.get("learning_rate"))}
    return {id(a) for a in product.args} == factors and difference.args == [named["parameter"], product.result]
