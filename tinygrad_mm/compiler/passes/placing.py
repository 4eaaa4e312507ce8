"""Results that have to be in a certain place: gradients where the optimizer reads them, and what is handed out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.kernels import Kernel, View, kernel_of
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["copy_what_is_updated", "place_gradient"]


def place_gradient(program: Program, parameter: Any, value: Value, name: str, array: Any) -> None:
    """Have the gradient of a parameter written to an array.

    A gradient that is the result of a call which can be told where to write is written there by that call; for any
    other one, and for one that has a place already, a copy is added at the end.
    """
    maker = program.makers().get(id(value))
    if maker is None or id(value) in program.places or not isinstance(kernel_of(maker), Kernel):
        value = _copy(program, value)
    program.gradient_of[id(parameter)] = value
    program.place(value, name, array)


def copy_what_is_updated(program: Program, updated: Iterable[Any]) -> None:
    """Hand out copies.

    Looks for: outputs and values of buffers that lie in memory which the update writes to: a parameter, or a view.
    Puts there: a copy, made before the update.
    The same, because without an update nothing would have changed them.
    """
    makers, arrays = program.makers(), list(updated)

    def is_updated(value: Value) -> bool:
        op = makers.get(id(value))
        if op is not None:
            lowering = kernel_of(op)
            if lowering is None and not isinstance(op.fun, np.ufunc):  # a plain call may return what it was given
                return any(map(is_updated, op.operands()))
            return isinstance(lowering, View) and is_updated(lowering.base)
        array = value.leaf.value if value.leaf is not None else value.example if value.kind == "constant" else None
        return array is not None and any(np.may_share_memory(array, one) for one in arrays)

    program.outputs = [_copy(program, v) if is_updated(v) else v for v in program.outputs]
    for effect in program.effects:
        effect.value = _copy(program, effect.value) if is_updated(effect.value) else effect.value


def _copy(program: Program, value: Value) -> Value:
    copy = Value(np.empty(value.shape, value.dtype))
    program.ops.append(Op(np.positive, [value], {}, copy, None, True))  # with the last ones
    return copy
