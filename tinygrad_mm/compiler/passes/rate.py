"""Plain gradient descent multiplies its gradients by the learning rate: the backward pass may begin with it instead."""

from __future__ import annotations

import numpy as np

from tinygrad_mm.compiler.program import Program

__all__ = ["takes_scaled_gradients"]


def takes_scaled_gradients(update: Program, gradient: str = "gradient", rate: str = "learning_rate") -> Program | None:
    """An update for gradients that are multiplied by the learning rate already; None for one that has none.

    Looks for: an update in which the gradient is read by one call, which multiplies it by the learning rate.
    Puts there: the gradient in the place of that product.
    Precondition: the backward pass begins with the learning rate where it began with 1, for all parameters.
    The same, because gradients are linear in what the backward pass begins with; the rounding is another one.
    """
    inputs = {v.name: v for v in update.inputs}
    if gradient not in inputs:  # of a formula that has no program
        return None
    readers = [op for op in update.ops if any(a is inputs[gradient] for a in op.operands())]
    if len(readers) != 1 or readers[0].fun is not np.multiply or inputs[gradient] in update.outputs:
        return None
    (product,) = readers
    if rate not in inputs or {id(a) for a in product.args} != {id(inputs[gradient]), id(inputs[rate])}:
        return None
    found = Program()
    found.inputs, found.outputs = list(update.inputs), list(update.outputs)
    found.ops = [op.copy() for op in update.ops if op is not product]
    found.substitute({id(product.result): inputs[gradient]})
    return found
