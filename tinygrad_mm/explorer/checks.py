"""The numeric check: each gradient beside a finite difference of the loss.

The recorded calls are made again, in float64, from the value in question up to the loss; everything else keeps what was
recorded, and so do random draws. At a kink (`relu` at 0, a tie of `max`) there is no one slope: the slopes on both
sides are given, and a gradient between them counts as right.

A gradient in single precision may be a sum that cancels, and hold little else than rounding. Where one differs, the
same rules are run in float64: if that gradient agrees, and the recorded one is no further from it than random rounding
of every result moves it, the rules are right, and it is said that rounding hides the number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from tinygrad_mm.explorer.calls import Ref, widened
from tinygrad_mm.explorer.replay import Rounding
from tinygrad_mm.explorer.tape import Tape
from tinygrad_mm.numeric import step_for

__all__ = ["WORK", "Check", "call_work", "check", "check_work"]

Array: TypeAlias = "np.ndarray[Any, Any]"

ALL_UP_TO = 16  # elements: an array of so many is checked at each one
SAMPLE = 8  # elements of a larger one
WORK = 1_000_000_000  # for all checks together, in units of about a nanosecond
PER_CALL = 3000  # units of a call, however small; an element of its arrays counts one, a product of a matmul a quarter
TOLERANCES = {"float16": 5e-2, "float32": 2e-3, "float64": 1e-5}
SMALLER, SHRINKINGS = 8, 3  # how the step shrinks at what may be a kink


@dataclass(frozen=True)
class Check:
    """Some elements of a gradient beside finite differences.

    `status` is "agrees", "kink" (there is no derivative at some of the elements, and the gradient lies between the
    slopes on both sides there), "rounding" (in float64 the gradient agrees; in the recorded precision it is off by as
    much as rounding moves it), "differs", or "not checked" with the `reason`. `places` are the indices of the elements
    (`sampled`: not all of them), `engine` their gradients, `numeric` the central differences, `left` and `right` those
    to one side, `kinks` where these differ. `error` is the largest difference (at a kink: to the nearer slope),
    relative to the largest of the gradients (or to what rounding lets finite differences see, where that is more).
    """

    value: int
    status: Literal["agrees", "kink", "rounding", "differs", "not checked"]
    reason: str = ""
    places: tuple[tuple[int, ...], ...] = ()
    engine: tuple[float, ...] = ()
    numeric: tuple[float, ...] = ()
    left: tuple[float, ...] = ()
    right: tuple[float, ...] = ()
    kinks: tuple[bool, ...] = ()
    error: float = float("nan")
    sampled: bool = False


def check(tape: Tape, value: int, rounding: Rounding) -> Check:
    """Compare the gradient of a value with finite differences; `rounding` is that of the same tape."""
    replay = _Replay(tape, value)
    refusal = replay.refusal()
    if refusal:
        return Check(value, "not checked", refusal)
    with np.errstate(all="ignore"):
        try:
            return _compare(tape, value, replay, rounding)
        except Exception as error:  # a function of the user's, which knows no float64
            return Check(value, "not checked", f"the computation could not be repeated in float64: {error}")


def call_work(tape: Tape, value: int) -> int:
    """How much it takes to make a call again."""
    call = tape.calls[value]
    sizes = [_size(tape.values[i].array) for i in (value, *call.sources)]
    inner = np.shape(tape.values[call.sources[0]].array)[-1:] if call.fun in (np.matmul, np.dot) else ()
    return PER_CALL + sum(sizes) + sizes[0] * sum(inner) // 4


def check_work(tape: Tape, value: int, above: int) -> int:
    """About how much a check takes; at kinks it may be four times that."""
    array = tape.values[value].array
    if isinstance(array, tuple):
        return 0
    return 2 * (above + PER_CALL) * (array.size if array.size <= ALL_UP_TO else SAMPLE)


class _Replay:
    """The loss as a function of one value: the calls between the two, and what they read from elsewhere."""

    def __init__(self, tape: Tape, value: int) -> None:
        self.tape, self.value = tape, value
        depends = {value}
        leads = {tape.loss}
        self.missed: list[str] = []  # why calls that a gradient comes back through cannot be made again
        calls = []
        for i in tape.forward:
            if i <= value or not any(source in depends for source in tape.calls[i].sources):
                continue
            reason = tape.calls[i].unrepeatable
            if reason:  # keep its value; if a gradient comes back through it, differences would miss that way
                self.missed += [reason] if tape.values[i].requires_grad else []
            else:
                depends.add(i)
                calls.append(i)
        for i in reversed(calls):
            if i in leads:
                leads.update(tape.calls[i].sources)
        self.order = [i for i in calls if i in leads]
        self.beside = {
            a.value: widened(tape.values[a.value].array)
            for i in self.order
            for a in tape.calls[i].args
            if isinstance(a, Ref) and a.value not in depends
        }

    def refusal(self) -> str:
        """Why this value cannot be checked ("" where it can)."""
        found = self.tape.values[self.value]
        if isinstance(found.array, tuple):
            return "a call with several results; each of them has a check of its own"
        if self.tape.gradient(self.value) is None:
            return "no gradient arrives here"
        return self.missed[0] if self.missed else ""

    def loss(self, moved: Array) -> float:
        """The loss with another array in the value's place."""
        arrays = {**self.beside, self.value: moved}
        for i in self.order:
            arrays[i] = self.tape.calls[i].forward(arrays, wide=True)
        return float(np.sum(arrays[self.tape.loss]))


def _compare(tape: Tape, value: int, replay: _Replay, rounding: Rounding) -> Check:
    centre = widened(tape.values[value].array)
    gradient = np.asarray(tape.gradient(value), np.float64)
    at_centre = replay.loss(centre)
    recorded = float(np.sum(np.asarray(tape.values[tape.loss].array, np.float64)))
    tolerance = max(TOLERANCES.get(v.dtype, 0.0) for v in tape.values if v.dtype in TOLERANCES)
    if not np.isfinite(at_centre):
        return Check(value, "not checked", "the loss is not finite")
    if abs(at_centre - recorded) > max(10 * tolerance, 1e-3) * max(abs(recorded), 1.0):
        return Check(
            value,
            "not checked",
            f"computed again the loss is {at_centre:.6g}, not {recorded:.6g}: some operation does not repeat itself",
        )
    places = _places(centre.shape, value)
    engine = [float(gradient[place]) for place in places]
    visible = 0.1 * tolerance * max(map(abs, engine), default=0.0)
    rows = [_slopes(replay, centre, place, at_centre, visible) for place in places]
    kinks = [row.kink for row in rows]
    error = _error(engine, rows, tolerance)
    status: Literal["agrees", "kink", "rounding", "differs"] = "kink" if any(kinks) else "agrees"
    if not error <= tolerance:
        status = "differs"
        moved = rounding.hides(value)
        if moved is not None:  # what is much less than this rounding cannot be told from it
            precise = [float(rounding.wide[value][place]) for place in places]
            status = "rounding" if _error(precise, rows, tolerance, 0.1 * moved) <= tolerance else "differs"
    return Check(
        value,
        status,
        places=tuple(places),
        engine=tuple(engine),
        numeric=tuple(row.central for row in rows),
        left=tuple(row.left for row in rows),
        right=tuple(row.right for row in rows),
        kinks=tuple(kinks),
        error=error,
        sampled=len(places) < centre.size,
    )


def _error(gradient: Sequence[float], rows: Sequence[_Slopes], tolerance: float, least: float = 0.0) -> float:
    """The largest difference between a gradient and the slopes, relative to the largest of all of them.

    Differences of up to `least` count as no more than the tolerance, and so do those that rounding leaves.
    """
    scale = max([abs(x) for x in gradient] + [abs(row.central) for row in rows], default=0.0)
    error = 0.0
    for got, row in zip(gradient, rows, strict=True):
        low, high = sorted((row.left, row.right)) if row.kink else (row.central, row.central)
        difference = max(low - got, got - high, 0.0) if np.isfinite(got) else float("inf")
        if difference:
            error = max(error, difference / max(scale, row.noise / tolerance, least / tolerance))
    return error


@dataclass(frozen=True)
class _Slopes:
    central: float
    left: float
    right: float
    kink: bool
    noise: float  # how far rounding may put the slopes off


def _slopes(replay: _Replay, centre: Array, place: tuple[int, ...], at_centre: float, visible: float) -> _Slopes:
    """The slopes of the loss at one element, to both sides.

    Where they differ by more than `visible`, the step shrinks: a curve's slopes, and those beside a kink nearby, come
    together, those at a kink do not. It shrinks no further than rounding allows.
    """
    h = step_for(np.float64) * max(1.0, abs(float(centre[place])))
    rounding = 8 * float(np.finfo(np.float64).eps) * max(abs(at_centre), 1e-3) * max(len(replay.order), 1) ** 0.5

    def sides(h: float) -> tuple[float, float]:
        moved = centre.copy()
        moved[place] = centre[place] + h
        above, step_above = replay.loss(moved), float(moved[place] - centre[place])
        moved[place] = centre[place] - h
        below, step_below = replay.loss(moved), float(centre[place] - moved[place])
        return (at_centre - below) / step_below, (above - at_centre) / step_above

    left, right = sides(h)
    kink = False
    for _ in range(SHRINKINGS):
        jump = abs(right - left)
        if not jump > max(visible, 10 * SMALLER * rounding / h):
            kink = False
            break
        h /= SMALLER
        left, right = sides(h)
        kink = abs(right - left) > 0.5 * jump
    return _Slopes((left + right) / 2, left, right, kink, rounding / h)


def _places(shape: tuple[int, ...], seed: int) -> list[tuple[int, ...]]:
    """All elements of a small array, of a larger one a few drawn once and for all."""
    size = int(np.prod(shape, dtype=np.int64))
    flat = range(size) if size <= ALL_UP_TO else sorted(np.random.default_rng(seed).choice(size, SAMPLE, replace=False))
    return [tuple(int(i) for i in np.unravel_index(i, shape)) for i in flat]


def _size(array: Any) -> int:
    return sum(map(_size, array)) if isinstance(array, tuple) else int(array.size)
