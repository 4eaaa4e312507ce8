"""A check of placed programs: nothing is written to memory that is read later as what it was before.

It follows arrays, not the plan that put them there: views, and whatever a plain call may return of its arguments, are
in the memory that they look at.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinygrad_mm.compiler.placement import Placement, Step
from tinygrad_mm.compiler.program import Value
from tinygrad_mm.compiler.statements import Array, Lowering, Memory

__all__ = ["validate"]


@dataclass
class _Life:
    """A Value in one piece of memory, from the step that makes it to the last one that reads it."""

    value: Value
    array: Array | None  # None: it may be anywhere in the memory
    made: int
    last: int


def validate(placement: Placement) -> None:
    """Raise RuntimeError where a step writes to what a later one reads, or to what it reads itself in another order."""
    coming = {memory: sorted(found, key=lambda life: -life.made) for memory, found in _lives(placement).items()}
    alive: dict[Memory, list[_Life]] = {}
    for number, step in enumerate(placement.steps):
        for array in dict.fromkeys((step.out, step.result, *step.scratch)):
            lives, rest = alive.setdefault(array.memory, []), coming.get(array.memory, [])
            while rest and rest[-1].made < number:
                lives.append(rest.pop())
            lives[:] = [life for life in lives if life.last >= number]
            for life in lives:
                inside = life.array is None or life.array.overlaps(array)
                if inside and not (life.last == number and array is step.out and _in_place(step, life)):
                    _refuse(step, array, repr(life.value))
            if any(array is not other and array.overlaps(other) for other in (step.out, *step.scratch)):
                _refuse(step, array, "another array that it writes")


def _in_place(step: Step, life: _Life) -> bool:
    """Whether it is an argument that a step may write over, element by element."""
    if life.array is None or life.array.place != step.out.place or not isinstance(step.lowering, Lowering):
        return False
    return any(step.operands[i].place == step.out.place for i in step.lowering.inplace)


def _refuse(step: Step, array: Array, what: str) -> None:
    raise RuntimeError(f"{step.op!r} writes to {array!r}, where {what} is read; this is a fault of the compiler")


def _lives(placement: Placement) -> dict[Memory, list[_Life]]:
    """Who is where in each piece of memory, and how long."""
    program, end = placement.program, len(placement.steps)
    made = {id(step.op.result): number for number, step in enumerate(placement.steps)}
    values: dict[int, Value] = {}
    last: dict[int, int] = {}
    position = -1
    for op in program.ops:
        position = made.get(id(op.result), position)
        for a in op.operands():
            values[id(a)] = a
            last[id(a)] = position if id(op.result) in made else last.get(id(a), position)
        if id(op.result) not in made:  # a view, made as soon as it can be
            made[id(op.result)] = max((made.get(id(a), -1) for a in op.operands()), default=-1)
    for value in program.wanted():
        values[id(value)], last[id(value)] = value, end
    given = [(placement.arrays[key], made[key]) for key in program.places if key in made]
    lives: dict[Memory, list[_Life]] = {}
    for key, value in values.items():
        array, start = placement.arrays[key], made.get(key, -1)
        if start < 0 and array.memory.kind == "fixed":  # a constant around a place is what is written there
            start = max((number for place, number in given if place.overlaps(array)), default=-1)
        for memory in array.memory.all_seen():
            life = _Life(value, array if memory is array.memory and array.ghost is not None else None, start, last[key])
            lives.setdefault(memory, []).append(life)
    return lives
