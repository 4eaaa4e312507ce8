"""A recorded computation made again: from other leaves, in double precision, or with every result a little off.

It runs the recorded calls and their own rules; nothing of the graph, its tensors or its gradients is touched. Random
draws stay the recorded ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from tinygrad_mm.explorer.calls import widened
from tinygrad_mm.explorer.tape import Tape

__all__ = ["Replay", "Rounding", "added", "refusal"]

ROUNDINGS = (2, 4, 8, 4)  # units in the last place by which results are off, in each run
SPREAD = 16  # how far correct gradients may be apart, in what random rounding has moved them


def refusal(tape: Tape) -> str:
    """Why a computation cannot be made again from other leaves ("" where it can)."""
    found = (tape.calls[i].unplayable for i in tape.forward)
    return next((reason for reason in found if reason), "")


class Replay:
    """One run forward and back: `arrays[i]` is value number i, `gradients[i]` its gradient where one arrives.

    `leaves` are arrays in place of recorded leaves. `wide`: in float64. `rounding`: a generator and by how many units
    in the last place every result is off, at random (Parker, Monte Carlo Arithmetic, 1997).

    Raises whatever the calls raise on these arrays.
    """

    def __init__(
        self,
        tape: Tape,
        leaves: Mapping[int, Any] | None = None,
        *,
        wide: bool = False,
        rounding: tuple[np.random.Generator, int] | None = None,
    ) -> None:
        self.tape, self.wide, self.rounding = tape, wide, rounding
        recorded = [value.array for value in tape.values]
        self.arrays = [widened(array) for array in recorded] if wide else recorded
        for i, array in (leaves or {}).items():
            self.arrays[i] = array
        with np.errstate(all="ignore"):
            for i in tape.forward:
                call = tape.calls[i]
                if not call.draws:
                    result = call.forward(self.arrays, wide)
                    many = isinstance(result, (tuple, list))
                    self.arrays[i] = self._off(tuple(map(np.asarray, result)) if many else np.asarray(result))
            self.gradients = self._back()

    def _back(self) -> dict[int, Any]:
        loss = self.arrays[self.tape.loss]
        found: dict[int, Any] = {self.tape.loss: np.ones_like(loss)}
        for step in self.tape.backward:
            call = self.tape.calls.get(step.value)
            if call is None or step.value not in found:
                continue
            for i, part in call.pull(self.arrays, self.arrays[step.value], found[step.value], self.wide):
                target = call.args[i].value
                found[target] = added(found[target], self._off(part)) if target in found else self._off(part)
        return found

    def _off(self, result: Any) -> Any:
        """A result as another order of its sums might have rounded it."""
        if self.rounding is None or result is None:
            return result
        if isinstance(result, (tuple, list)):
            return type(result)(map(self._off, result))
        if result.dtype.kind != "f":
            return result
        rng, units = self.rounding
        eps = float(np.finfo(result.dtype).eps)
        return np.asarray(result * (1 + units * eps * (2 * rng.random(result.shape) - 1))).astype(result.dtype)


class Rounding:
    """How far rounding may put the gradients of a recorded pass off; computed when first asked."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    @cached_property
    def wide(self) -> dict[int, Any]:
        """The gradients by the same rules in float64; none where the calls know no float64."""
        try:
            return {} if refusal(self.tape) else Replay(self.tape, wide=True).gradients
        except Exception:  # a function of the user's
            return {}

    @cached_property
    def _runs(self) -> list[dict[int, Any]]:
        pairs = ((np.random.default_rng(i), units) for i, units in enumerate(ROUNDINGS))
        return [Replay(self.tape, rounding=pair).gradients for pair in pairs]

    def hides(self, value: int) -> float | None:
        """How far rounding moves the gradient of a value, if that explains how far it is from float64's, else None."""
        right, found = self.wide.get(value), self.tape.gradient(value)
        if not isinstance(right, np.ndarray) or not isinstance(found, np.ndarray) or found.dtype == np.float64:
            return None
        engine = found.astype(np.float64)
        with np.errstate(all="ignore"):
            off = float(np.max(np.abs(engine - right), initial=0.0))
            moved = max(float(np.max(np.abs(run[value] - engine), initial=0.0)) for run in self._runs)
        return moved if off <= SPREAD * moved else None


def added(a: Any, b: Any) -> Any:
    """The sum of two gradients; where a call had several results, of two lists with None for those not used."""
    if type(a) is list:
        return [x if y is None else y if x is None else x + y for x, y in zip(a, b, strict=True)]
    return a + b
