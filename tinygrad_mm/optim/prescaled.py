"""A formula for gradients that come multiplied by a number already: one or two passes over all parameters less.

A compiled training step may begin its backward pass with any number instead of 1, at no cost. Plain gradient descent
multiplies its gradients by the learning rate and does nothing else with them; the optimizers with a mean of squares
compute `c * gradient * gradient`, which is the square of a gradient that comes multiplied by the root of c.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tinygrad_mm.optim.formula import Program

__all__ = ["Prescaled", "prescaled"]


@dataclass(frozen=True)
class Prescaled:
    """The statements of `update` for gradients multiplied by `factor`; None stands for the learning rate."""

    factor: float | None
    body: tuple[str, ...]
    constants: tuple[float, ...]


def prescaled(program: Program) -> Prescaled | None:
    """The formula for gradients that are multiplied already, where it is shorter; else None.

    >>> from tinygrad_mm.optim import Adam
    >>> from tinygrad_mm.tensor import Tensor
    >>> adam = Adam([Tensor([1.0], requires_grad=True)], 0.1, betas=(0.9, 0.75))
    >>> short = prescaled(adam._looked_at(adam.groups[0]).program)
    >>> short.factor, len(short.body)
    (0.5, 11)
    """
    _, _, rest = program.source.partition("def update(")
    body = [line.strip() for line in rest.splitlines()[1:]]
    if body == ["multiply(learning_rate, gradient, t0)", "subtract(parameter, t0, parameter)"]:
        return Prescaled(None, ("subtract(parameter, gradient, parameter)",), program.constants)
    numbers = {f"c{i}": c for i, c in enumerate(program.constants)}
    text = "\n".join(body)
    squared = re.search(r"^multiply\(gradient, gradient, (t\d+)\)\nmultiply\((c\d+), \1, \1\)\n", text, re.MULTILINE)
    if squared is None or numbers[squared[2]] <= 0:
        return None
    factor = math.sqrt(numbers[squared[2]])
    text = text.replace(squared[0], f"multiply(gradient, gradient, {squared[1]})\n")
    elsewhere = re.findall(r"^.*\bgradient\b.*$", text.replace(f"multiply(gradient, gradient, {squared[1]})", ""), re.M)
    scalings = [re.fullmatch(r"multiply\((c\d+), gradient, t\d+\)", line) for line in elsewhere]
    for scaling in scalings:
        if scaling is None or len(re.findall(rf"\b{scaling[1]}\b", text)) > 1:
            return None
        numbers[scaling[1]] /= factor
    return Prescaled(factor, tuple(text.splitlines()), tuple(numbers.values()))
