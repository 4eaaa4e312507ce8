"""A recorded computation as plain data: the values, the steps forward, and the steps backward with their ledgers.

Whatever shows backpropagation (text, a page) is written from this alone. Values are NumPy arrays, everything else is
text and numbers; ids are small integers in the order of computation, the same on every run of the same program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tinygrad_mm.explorer.calls import Call

__all__ = ["Argument", "Contribution", "Kind", "Operand", "Step", "Tape", "Value"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Kind: TypeAlias = Literal["input", "parameter", "buffer", "constant", "operation", "output", "detached"]


@dataclass(frozen=True)
class Argument:
    """One argument of a call: the id of a value, or None and the text of a literal such as `2.0` or `axis=0`.

    `name` is what the rule calls it ("" where it has no name), `text` what a reader calls it.
    """

    value: int | None
    text: str
    name: str = ""


@dataclass(frozen=True)
class Value:
    """One array of the computation, or the tuple of arrays that a call with several results returned.

    `label` is unique and never empty: the name, or `v3` for the third result, or `input` for a leaf. `name` is the
    path in the model, the tensor's own name or the caller's variable, else None. A value of kind "detached" stands
    in the graph without a gradient: a mask, an argmax, or a tensor that was cut off. `operation`, `expression` (`x
    @ w`), `arguments`, `modules` (outermost first, `layers.0 (Dense)`), `line` and `code` say how it was computed;
    for leaves they are empty. `shape` is None for a tuple, whose shapes are those of its `array`s.
    """

    id: int
    label: str
    name: str | None
    kind: Kind
    shape: tuple[int, ...] | None
    dtype: str
    requires_grad: bool
    array: Array | tuple[Array, ...]
    operation: str = ""
    expression: str = ""
    arguments: tuple[Argument, ...] = ()
    modules: tuple[str, ...] = ()
    line: tuple[str, int] | None = None
    code: str = ""

    @property
    def is_leaf(self) -> bool:
        """Whether the value was given rather than computed."""
        return not self.operation


class Operand(NamedTuple):
    """An array that a rule computes with, as its formula writes it: `∂L/∂y`, or `softmax(logits)`."""

    text: str
    array: Any


@dataclass
class Contribution:
    """What one rule sent to one argument: an entry of the sender's step, and of the receiver's ledger.

    `consumer` is the value whose call was differentiated (None: the seed, dL/dL = 1), `argument` the position in that
    call, `target` the value there, and `output` which of its results, where the target is a tuple. `before` is what the
    rule returned; `array` is the same summed over the axes that broadcasting had added or stretched (`summed`, counted
    in `before`) and cast from dtype `cast` (None: none was needed).

    `source` is the rule as it was written, with the helpers that it calls. `formula` is it as mathematics, `where`
    what it computes before ("s = …"), `numbers` the formula with the numbers put in (None where that says nothing),
    `places` the same at each place of a small array that is computed element by element, in C order. `operands` are
    the arrays that the formula computes with. `shapes` is what the shapes have to do with it.
    """

    consumer: int | None
    argument: int
    target: int
    output: int | None
    before: Any
    array: Any
    summed: tuple[int, ...] = ()
    cast: str | None = None
    source: str = ""
    formula: str = ""
    where: tuple[str, ...] = ()
    numbers: str | None = None
    places: tuple[str, ...] = ()
    operands: tuple[Operand, ...] = ()
    shapes: str = ""


@dataclass
class Step:
    """One step of the backward pass: the gradient of `value` is complete, and the rules of its call run.

    `gradient` is an array; for a call with several results a list, None for results nobody used. `ledger` is what it is
    the sum of, in the order of arrival; `sent` is what the rules gave, empty at a leaf; `stopped` are the positions of
    arguments that got nothing, with the reason.
    """

    value: int
    gradient: Any
    ledger: list[Contribution] = field(default_factory=list)
    sent: list[Contribution] = field(default_factory=list)
    stopped: list[tuple[int, str]] = field(default_factory=list)

    def running_sums(self) -> Iterator[Any]:
        """The gradient after each entry of the ledger; for a call with several results what each entry itself gave."""
        total: Any = None
        for entry in self.ledger:
            total = entry.array if total is None or entry.output is not None else total + entry.array
            yield total


@dataclass
class Tape:
    """A computation from its leaves to the loss and back, as it was recorded.

    `values[i].id == i`. `forward` are the ids of the computed values in order; `backward` are the steps in the order of
    the engine. `loss` is the id of the output, `notes` is what a reader should know beforehand.
    """

    values: list[Value]
    forward: list[int]
    backward: list[Step]
    loss: int
    notes: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict, repr=False)
    _steps: dict[int, Step] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._steps = {step.value: step for step in self.backward}

    def step(self, value: int) -> Step | None:
        """The backward step of a value, or None where no gradient arrived."""
        return self._steps.get(value)

    def gradient(self, value: int) -> Any:
        """The gradient of the loss with respect to a value, or None."""
        step = self.step(value)
        return None if step is None else step.gradient

    def ledger(self, value: int) -> list[Contribution]:
        """What the gradient of a value is the sum of; empty where no gradient arrived."""
        step = self.step(value)
        return [] if step is None else step.ledger

    def named(self, name: str) -> Value:
        """The value with this name or label.

        Raises KeyError where there is none.
        """
        for value in self.values:
            if name in (value.name, value.label):
                return value
        raise KeyError(f"no value is called {name!r}; there are {', '.join(v.label for v in self.values[:20])}")
