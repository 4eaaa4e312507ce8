"""A placed program as items in order: loop nests, reductions, products, picks by label, and else calls of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.compiler.loops.nests import Nest, Reduction, Single, element_of, in_elements, reduction_of
from tinygrad_mm.compiler.loops.products import Product, is_outer, product_of
from tinygrad_mm.compiler.placement import Step
from tinygrad_mm.compiler.statements import Array, Statement, copy, ufunc
from tinygrad_mm.functional.activations import pick

__all__ = ["Call", "Item", "Pick", "items_of"]


@dataclass
class Pick(Single):
    """The element of each row at its label is picked, after a check that all labels are in range."""

    @property
    def classes(self) -> int:
        """The number of them."""
        return int(self.statement.operands[0].shape[1])

    def text(self) -> str:
        """The body of a function of pointers to the rows `z`, the `labels` and `out`: 1 for a label out of range."""
        z, labels = self.statement.operands
        (step, down), (of_labels,), (of_out,) = map(_steps, (z, labels, self.statement.out))
        return (
            f"for i in range({labels.size}):\n"
            f"    label = labels[i * {of_labels}]\n"
            f"    if label < 0 or label >= {self.classes}:\n"
            f"        return 1\n"
            f"    out[i * {of_out}] = z[i * {step} + label * {down}]\n"
            f"return 0"
        )


def _steps(array: Array) -> tuple[int, ...]:
    return tuple(s // array.dtype.itemsize for s in array.ghost.strides)


@dataclass
class Call:
    """A statement of Python between compiled pieces; without one, the call that makes an array."""

    step: Step
    statement: Statement | None

    @property
    def statements(self) -> list[Statement]:
        """The one that it does."""
        return [] if self.statement is None else [self.statement]


Loop: TypeAlias = "Nest | Reduction | Product | Pick"


@dataclass
class Item:
    """A loop or a call, and for each of its statements (a call: at least once) the step that it is of."""

    what: Loop | Call
    steps: list[Step]
    number: int = 0


def items_of(steps: Sequence[Step]) -> list[Item]:
    """Steps as loops and calls; neighbouring elementwise statements are one nest."""
    items: list[Item] = []
    for step in steps:
        if step.is_call:
            items.append(Item(Call(step, None), [step]))
        for statement in (one for s in step.statements for one in _in_parts(s)):
            loop: Any = None
            if all(in_elements(a) for a in [*statement.reads(), statement.out]):
                picks = statement.fun is pick and [a.ndim for a in statement.operands] == [2, 1]
                loop = Pick(statement) if picks else product_of(statement) or reduction_of(statement)
                element = None if loop else element_of(statement)
                if element is not None:
                    last = items[-1] if items else None
                    if last is not None and isinstance(last.what, Nest) and last.what.add(element):
                        last.steps.append(step)
                        continue
                    loop = Nest(element)
            items.append(Item(loop or Call(step, statement), [step]))
    return items


def _in_parts(statement: Statement) -> list[Statement]:
    """A concatenation as copies, the product of a column and a row as a multiplication; others as they are."""
    if is_outer(statement):
        return [ufunc(np.multiply, *statement.operands, out=statement.out)]
    if statement.fun is not np.concatenate:
        return [statement]
    parts, start, axis = [], 0, statement.options["axis"]
    for a in statement.operands:
        stop = start + a.shape[axis]
        key = (*(slice(None),) * axis, slice(start, stop))
        if a.size:
            parts.append(copy(a, statement.out.at(key)))
        start = stop
    return parts
