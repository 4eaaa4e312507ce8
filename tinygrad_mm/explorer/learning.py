"""After the backward pass: the optimizer's update in formulas and numbers, and the training steps after it.

The steps are taken on the recorded computation: the same calls on the same data, with the new weights in place of the
old ones. Random draws stay the recorded ones. Neither the parameters nor the optimizer change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_mm.explorer.formula import Formula, formula_of
from tinygrad_mm.explorer.mathematics import at_place, number_text, of_elements
from tinygrad_mm.explorer.replay import Replay, refusal
from tinygrad_mm.explorer.tape import Tape
from tinygrad_mm.explorer.terms import Term, constant, several_of, write
from tinygrad_mm.rules.shown import text_of
from tinygrad_mm.tensor import Tensor

__all__ = ["Learning", "TrainingStep", "Update", "learn"]


@dataclass(frozen=True)
class Update:
    """The update of one parameter, the value with the id `value`.

    `formula` is the optimizer's formula as mathematics, `where` what it computes before, `source` its Python. `numbers`
    are both with the numbers at `place`, that of the gradient's largest element. `options` are those of its group, as
    they are at this step; `states` are what the optimizer keeps for the parameter, before and after.
    """

    value: int
    formula: str
    where: tuple[str, ...]
    source: str
    numbers: tuple[str, ...]
    place: tuple[int, ...]
    options: tuple[str, ...]
    states: tuple[tuple[str, Any, Any], ...]
    before: Any
    after: Any


@dataclass(frozen=True)
class TrainingStep:
    """One training step: the loss before its update, and by the ids of the parameters weights, gradients and ratios.

    A ratio is the norm of the update over the norm of the weights before it.
    """

    loss: float
    weights: Mapping[int, Any]
    gradients: Mapping[int, Any]
    ratios: Mapping[int, float]


@dataclass
class Learning:
    """The `updates` after the recorded backward pass, the training `steps` from there on, and what is left of the loss.

    `loss` is that after the last step, None where the computation cannot be made again (`problem` says why).
    """

    optimizer: str
    updates: list[Update] = field(default_factory=list)
    steps: list[TrainingStep] = field(default_factory=list)
    loss: float | None = None
    problem: str = ""


def learn(tape: Tape, optimizer: Any, ids: Mapping[int, int], steps: int) -> Learning:
    """What `optimizer` makes of the gradients of a recorded pass, and of those of the steps after it.

    `ids` are the ids of the values of tensors, by `id(tensor)`. With `steps`, so many training steps are taken.

    Raises TypeError for what is no optimizer with a formula, ValueError where none of its parameters is in the graph,
    RuntimeError where several steps are asked for and the computation cannot be made again.
    """
    name = type(optimizer).__name__
    if not all(hasattr(optimizer, attribute) for attribute in ("groups", "options_at", "formula")):
        raise TypeError(f"an optimizer is wanted, whose formula can be shown, such as tg.optim.SGD; this is a {name}")
    problem = refusal(tape)
    if problem and steps > 1:
        raise RuntimeError(f"the training steps cannot be replayed: {problem}")
    states = [_State(optimizer, group, p, ids[id(p)]) for group, p in _members(optimizer, ids, tape)]
    if not states:
        raise ValueError(f"no parameter of this {name} is in the graph with a gradient; is it another model's?")
    found = Learning(name, problem=problem)
    weights = {state.value: tape.values[state.value].array for state in states}
    gradients: Mapping[int, Any] = {state.value: tape.gradient(state.value) for state in states}
    loss = _number(tape.values[tape.loss].array)
    for number in range(max(steps, 1)):
        new, ratios = {}, {}
        for state in states:
            before = weights[state.value]
            new[state.value] = state.step(before, gradients[state.value], optimizer.steps + number)
            ratios[state.value] = _ratio(before, new[state.value])
            if not number:
                label = tape.values[state.value].label
                found.updates.append(state.told(label, before, gradients[state.value], new[state.value]))
        found.steps.append(TrainingStep(loss, weights, {i: gradients[i] for i in weights}, ratios))
        weights = new
        if not problem:
            again = Replay(tape, weights)
            gradients, loss = again.gradients, _number(again.arrays[tape.loss])
            found.loss = loss
    return found


def _members(optimizer: Any, ids: Mapping[int, int], tape: Tape) -> Iterable[tuple[Mapping[str, Any], Tensor]]:
    """The parameters that a step would update: those with a gradient."""
    for group in optimizer.groups:
        for p in group["parameters"]:
            if p.requires_grad and id(p) in ids and tape.step(ids[id(p)]) is not None:
                yield group, p


class _State:
    """What an optimizer keeps for one parameter, and its formula."""

    def __init__(self, optimizer: Any, group: Mapping[str, Any], parameter: Tensor, value: int) -> None:
        self.optimizer, self.group, self.value = optimizer, group, value
        self.names = tuple(optimizer.state_names(group))
        precision = np.result_type(parameter.value.dtype, np.float32)  # as the optimizer itself: at least single
        kept = optimizer.state_of(parameter) if optimizer.steps else {}
        self.arrays = [np.array(kept[n]) if n in kept else np.zeros(parameter.shape, precision) for n in self.names]
        self.count = int(kept.get("step", 0))
        self.before: tuple[list[Any], int, dict[str, Any]] = (self.arrays, self.count, {})

    def step(self, weight: Any, gradient: Any, done: int) -> Any:
        """The new weight; the states move on. `done` are the optimizer's steps so far."""
        options, _ = self.optimizer.options_at(done, self.group)
        self.before = self.arrays, self.count + 1, options
        self.count += 1
        told = dict(options)
        rate = told.pop("learning_rate")
        precision = np.result_type(weight.dtype, np.float32)
        given = weight.astype(precision), gradient.astype(precision), *self.arrays
        with np.errstate(all="ignore"):
            found = type(self.optimizer).formula(*given, rate, self.count, **told)
        new, *arrays = found if isinstance(found, (tuple, list)) else (found,)
        self.arrays = [np.asarray(a, s.dtype) for a, s in zip(arrays, self.arrays, strict=True)]
        return np.asarray(new).astype(weight.dtype)

    def told(self, label: str, weight: Any, gradient: Any, new: Any) -> Update:
        """The last step in formulas and numbers."""
        arrays, count, options = self.before
        told = {name: _option(name, value) for name, value in options.items()}
        rate = told.pop("learning_rate")
        given = [_array(label, weight), _array(f"∂L/∂{label}", gradient), *map(_array, self.names, arrays)]
        rule = type(self.optimizer).formula
        formula = formula_of(rule, *given, rate, _option("step", count), **told)
        place = tuple(int(i) for i in np.unravel_index(int(np.argmax(np.abs(gradient))), gradient.shape))
        lines = list(_lines(formula, label, self.names))
        return Update(
            self.value,
            f"{label} ← {write(lines[-1][1])}",
            tuple(f"{name} = {write(term)}" for name, term in lines[:-1]),
            text_of(rule),
            tuple(filter(None, (_at(term, name, place, weight.shape) for name, term in lines))),
            place,
            tuple(f"{name} = {_value_text(options[name])}" for name in options) + (f"step = {count}",),
            tuple(zip(self.names, arrays, self.arrays, strict=True)),
            weight,
            new,
        )


def _lines(formula: Formula, label: str, states: Iterable[str]) -> Iterable[tuple[str, Term]]:
    """What is computed, in order, the new parameter last; states that no name stands for yet get theirs."""
    several = formula.term.kind == "several"
    new, *kept = formula.term.parts if several else (formula.term,)
    yield from formula.where
    known = {name for name, _ in formula.where}
    for name, term in zip(states, kept, strict=False):
        if not (term.kind == "name" and term.text in known):
            yield f"{name}′", term
    yield label, new


def _array(name: str, array: Any) -> Term:
    return Term("name", array, text=name)


def _option(name: str, value: Any) -> Term:
    """A number by its name; the members of a tuple by theirs: `betas` are `beta1` and `beta2`."""
    if isinstance(value, (tuple, list)):
        return several_of([_option(f"{name.removesuffix('s')}{i}", one) for i, one in enumerate(value, 1)])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Term("constant", value, text=name)
    return constant(value)


def _at(term: Term, name: str, place: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """One line with the numbers at one place; "" where it has no element there."""
    if np.shape(term.value) not in ((), shape):
        return ""
    result = number_text(np.broadcast_to(term.value, shape)[place])
    return f"{name} = {at_place(of_elements(term), place, shape)} = {result}"


def _value_text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_value_text, value))})"
    return number_text(value)


def _number(array: Any) -> float:
    return float(np.sum(array))


def _ratio(before: Any, after: Any) -> float:
    """The norm of an update over that of the weights; infinite where these are all zero."""
    with np.errstate(all="ignore"):
        moved = float(np.linalg.norm((after.astype(np.float64) - before).ravel()))
        size = float(np.linalg.norm(before.astype(np.float64).ravel()))
    return moved / size if size else float("inf") if moved else 0.0
