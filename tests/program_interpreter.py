"""What a program computes, plainly: one call after the other, each result a new array. All else is held to this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_mm.compiler.program import Program, Value
from tinygrad_mm.graph import RULES

__all__ = ["interpret"]


def interpret(program: Program, inputs: Sequence[Any], seeds: Sequence[Any] = ()) -> list[Any]:
    """The outputs of a program, its gradients, what buffers get, and the gradients of a training step.

    Places are written to as well: later calls may look at the arrays that they are parts of.
    """
    known = {id(v): a for v, a in zip([*program.inputs, *program.seeds], [*inputs, *seeds], strict=True)}
    known |= {id(v): v.leaf.value for v in program.leaves if v.leaf is not None}

    def value(a: Any) -> Any:
        return (a.example if a.kind == "constant" else known[id(a)]) if isinstance(a, Value) else a

    for op in program.ops:
        rule = RULES.get(op.fun)
        call: Any = op.fun if rule is None else rule.forward
        result = call(*map(value, op.args), **op.kwargs)
        if (place := program.places.get(id(op.result))) is not None:
            place.array[...] = result
            result = place.array
        known[id(op.result)] = result
    placed = {id(op.result) for op in program.ops} & program.places.keys()
    gradients = [v for v in program.gradient_of.values() if id(v) in placed]
    wanted = [*program.wanted(), *gradients]
    return [value(v) for v in wanted]
