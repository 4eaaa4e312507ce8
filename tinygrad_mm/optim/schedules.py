"""Schedules: plain functions from the number of steps taken so far to a learning rate (or to any other option).

Give one to an optimizer in place of a number, and it is asked before each step; or ask it yourself:

>>> from tinygrad_mm.optim import SGD
>>> from tinygrad_mm.tensor import Tensor
>>> w = Tensor([1.0], requires_grad=True)
>>> schedule = warm_up(10, then=cosine(0.1, steps=90))
>>> optimizer = SGD([w], learning_rate=schedule)
>>> for step in range(100):
...     (w * w).backward()
...     optimizer.step()
>>> optimizer.learning_rate  # of the next step
0.0
>>> optimizer.learning_rate = schedule(50)  # by hand: a number from here on

Where a schedule is wanted, a number is one that stays constant. As they are functions, they combine in any way that
functions do: `lambda step: 0.5 * schedule(step)` is a schedule too. Steps are updates, not epochs: an epoch has
`len(loader)` of them. Nothing here has a state but `ReduceOnPlateau`, so that resuming needs the step number alone.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, TypeAlias

from tinygrad_mm.optim.saving import check_names, whole_number

__all__ = [
    "ReduceOnPlateau",
    "cosine",
    "cosine_with_restarts",
    "exponential",
    "joined",
    "linear",
    "one_cycle",
    "polynomial",
    "step_decay",
    "warm_up",
]

Schedule: TypeAlias = Callable[[int], float]


def step_decay(
    learning_rate: float, *, every: int | None = None, at: Sequence[int] | None = None, factor: float = 0.1
) -> Schedule:
    """`learning_rate`, multiplied by `factor` after each `every` steps, or `at` each of the given step numbers.

    Raises ValueError for numbers out of range, for an `at` that does not ascend, and where not one of the two is given.

    >>> schedule = step_decay(1.0, every=2, factor=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    >>> schedule = step_decay(1.0, at=[1, 4], factor=0.5)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.5, 0.5, 0.25]
    """
    if (every is None) == (at is None):
        raise ValueError("step_decay: give either every=, a number of steps, or at=, a list of step numbers")
    _finite("step_decay", learning_rate=learning_rate, factor=factor)
    if every is not None:
        period = _steps("step_decay", every=every)
        return lambda step: _decayed(learning_rate, factor, step // period)
    places = list(at or ())
    if places != sorted(places):
        raise ValueError(f"step_decay: at={places} must be in ascending order")
    return lambda step: _decayed(learning_rate, factor, bisect_right(places, step))


def exponential(learning_rate: float, factor: float, every: int = 1) -> Schedule:
    """`learning_rate` times a power of `factor` that grows by 1 in each `every` steps, smoothly.

    Raises ValueError for numbers that are negative or not finite, and for an `every` that is no positive integer.

    >>> schedule = exponential(1.0, factor=0.25, every=2)
    >>> [schedule(step) for step in range(5)]
    [1.0, 0.5, 0.25, 0.125, 0.0625]
    """
    _finite("exponential", learning_rate=learning_rate, factor=factor)
    _steps("exponential", every=every)
    return lambda step: _decayed(learning_rate, factor, min(step, _FAR * every) / every)


def linear(points: Mapping[float, float]) -> Schedule:
    """Straight lines between points, step number to value; constant before the first and after the last.

    Raises ValueError for no points, steps that do not ascend, and values that are negative or not finite.

    >>> schedule = linear({0: 1.0, 4: 0.0})
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    steps, values = list(points), list(points.values())
    if not steps or any(b <= a for a, b in pairwise(steps)):
        raise ValueError(f"linear: the step numbers {steps} must be at least one, in ascending order")
    _finite("linear", **{f"points[{step}]": value for step, value in points.items()})

    def schedule(step: int) -> float:
        i = bisect_right(steps, step)
        if i in (0, len(steps)):
            return values[max(i - 1, 0)]
        way = (step - steps[i - 1]) / (steps[i] - steps[i - 1])
        return values[i - 1] + way * (values[i] - values[i - 1])

    return schedule


def cosine(learning_rate: float, steps: int, minimum: float = 0.0) -> Schedule:
    """From `learning_rate` to `minimum` along half a cosine (Loshchilov and Hutter 2017), and then at `minimum`.

    Raises ValueError for numbers that are negative or not finite, and for `steps` that are no positive integer.

    >>> schedule = cosine(1.0, steps=4)
    >>> [round(schedule(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    _finite("cosine", learning_rate=learning_rate, minimum=minimum)
    _steps("cosine", steps=steps)
    return lambda step: _half_cosine(learning_rate, minimum, min(step, steps) / steps)


def cosine_with_restarts(learning_rate: float, steps: int, growth: int = 1, minimum: float = 0.0) -> Schedule:
    """Half cosines one after another (SGDR, Loshchilov and Hutter 2017), each `growth` times as long as the last.

    `steps` is the length of the first: the paper's T_0, and `growth` its T_mult.

    Raises ValueError for numbers that are negative or not finite, and `steps` or `growth` that are no positive integer.

    >>> schedule = cosine_with_restarts(1.0, steps=2, growth=2)
    >>> [round(schedule(step), 3) for step in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    _finite("cosine_with_restarts", learning_rate=learning_rate, minimum=minimum)
    _steps("cosine_with_restarts", steps=steps, growth=growth)

    def schedule(step: int) -> float:
        if growth == 1:
            return _half_cosine(learning_rate, minimum, step % steps / steps)
        length = steps
        while step >= length:
            step, length = step - length, length * growth
        return _half_cosine(learning_rate, minimum, step / length)

    return schedule


def polynomial(learning_rate: float, steps: int, power: float = 1.0, minimum: float = 0.0) -> Schedule:
    """From `learning_rate` to `minimum` as a power of the way that is left, and then at `minimum`.

    >>> schedule = polynomial(1.0, steps=4, power=2)
    >>> [schedule(step) for step in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    _finite("polynomial", learning_rate=learning_rate, minimum=minimum, power=power)
    _steps("polynomial", steps=steps)
    return lambda step: minimum + (learning_rate - minimum) * (1 - min(step, steps) / steps) ** power


def one_cycle(
    learning_rate: float,
    steps: int,
    start: float | None = None,
    end: float | None = None,
    tail: float = 0.1,
) -> Schedule:
    """Up to `learning_rate` and back in straight lines, then on down to `end` (Smith and Topin 2018).

    The cycle begins and ends at `start`, a tenth of the peak unless given; the last `tail` (a fraction) of the steps
    goes down from there to `end`, by default a thousandth of `start`. Raises ValueError for numbers out of range, and
    for a `tail` that leaves no steps for the cycle. The paper moves momentum the other way:

    >>> rate, momentum = one_cycle(1.0, steps=100), one_cycle(0.85, steps=100, start=0.95, end=0.95)
    >>> [round(rate(step), 4) for step in (0, 45, 90, 100)]
    [0.1, 1.0, 0.1, 0.0001]
    >>> [round(momentum(step), 4) for step in (0, 45, 90, 100)]
    [0.95, 0.85, 0.95, 0.95]
    >>> from tinygrad_mm.optim import SGD
    >>> from tinygrad_mm.tensor import Tensor
    >>> SGD([Tensor([1.0], requires_grad=True)], learning_rate=rate, momentum=momentum)
    SGD(1 parameters, learning_rate=0.1 (scheduled), momentum=0.95 (scheduled), weight_decay=0.0, nesterov=False)
    """
    _steps("one_cycle", steps=steps)
    if not 0 <= tail < 1:
        raise ValueError(f"one_cycle: tail={tail} is the fraction of the steps after the cycle; it must lie in [0, 1)")
    _finite("one_cycle", learning_rate=learning_rate)
    start = learning_rate / 10 if start is None else start
    end = start / 1000 if end is None else end
    _finite("one_cycle", start=start, end=end)
    back = round(steps * (1 - tail))
    if back < 1:
        raise ValueError(f"one_cycle: tail={tail} of {steps} steps leaves none for the cycle; choose a smaller tail")
    return linear({0: start, back / 2: learning_rate, back: start, **({steps: end} if back < steps else {})})


def warm_up(steps: int, then: Schedule | float) -> Schedule:
    """Linear warm-up: in equal rises over `steps` steps up to where `then` begins; then `then`, from its own step 0.

    The gradual warm-up of Goyal et al. 2017, except that the first step is one rise above zero, so as not to be wasted.

    Raises ValueError for numbers that are negative or not finite, and for `steps` that are no positive integer.

    >>> schedule = warm_up(3, then=step_decay(1.0, every=2, factor=0.5))
    >>> [schedule(step) for step in range(7)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.5]
    """
    _steps("warm_up", steps=steps)
    after = _schedule("warm_up", then)
    return lambda step: after(0) * (step + 1) / (steps + 1) if step < steps else after(step - steps)


def joined(schedules: Mapping[int, Schedule | float]) -> Schedule:
    """One schedule after another: each from the step number it stands at, where its own step 0 is.

    Raises ValueError where the first schedule does not start at step 0, or starts do not ascend.

    >>> schedule = joined({0: 0.1, 2: linear({0: 1.0, 2: 0.0})})
    >>> [schedule(step) for step in range(5)]
    [0.1, 0.1, 1.0, 0.5, 0.0]
    """
    starts = list(schedules)
    if not starts or starts[0] != 0 or any(b <= a for a, b in pairwise(starts)):
        raise ValueError(f"joined: the schedules start at {starts}; the first must start at 0, the others in order")
    parts = [_schedule("joined", s) for s in schedules.values()]

    def schedule(step: int) -> float:
        i = max(bisect_right(starts, step) - 1, 0)
        return parts[i](step - starts[i])

    return schedule


class ReduceOnPlateau:
    """A learning rate that is multiplied by `factor` whenever a metric has not become better `patience` times in a row.

    Call it with the metric after each evaluation: it returns the learning rate to go on with. Better is lower, unless
    `higher_is_better`, by more than `threshold` (a fraction of the best value so far, or with `absolute` a difference).
    After a reduction, `cooldown` evaluations are not counted. A metric that is NaN is not better.

    Raises ValueError for a `factor` outside (0, 1) and for negative numbers.

    >>> plateau = ReduceOnPlateau(0.1, factor=0.5, patience=2)
    >>> [plateau(loss) for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 1.0)]
    [0.1, 0.1, 0.1, 0.1, 0.05, 0.05]

    In a loop: `optimizer.learning_rate = plateau(validation_loss)`.
    """

    def __init__(
        self,
        learning_rate: float,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        absolute: bool = False,
        cooldown: int = 0,
        minimum: float = 0.0,
        higher_is_better: bool = False,
    ) -> None:
        _finite("ReduceOnPlateau", learning_rate=learning_rate, threshold=threshold, minimum=minimum)
        if not 0 < factor < 1:
            raise ValueError(f"ReduceOnPlateau: factor={factor} must lie between 0 and 1, such as 0.1")
        for name, value in (("patience", patience), ("cooldown", cooldown)):
            if value < 0:
                raise ValueError(f"ReduceOnPlateau: {name}={value} must not be negative")
        self.learning_rate = learning_rate
        self.factor, self.patience, self.cooldown, self.minimum = factor, patience, cooldown, minimum
        self.threshold, self.absolute, self.higher_is_better = threshold, absolute, higher_is_better
        self.best = -math.inf if higher_is_better else math.inf
        self.waited = self.resting = 0

    def __call__(self, metric: Any) -> float:
        """Take note of the metric's newest value; returns the learning rate from here on."""
        metric = float(metric)
        if self._is_better(metric):
            self.best, self.waited = metric, 0
        else:
            self.waited += 1
        if self.resting > 0:
            self.resting, self.waited = self.resting - 1, 0
        if self.waited > self.patience:
            self.learning_rate = min(self.learning_rate, max(self.learning_rate * self.factor, self.minimum))
            self.resting, self.waited = self.cooldown, 0
        return self.learning_rate

    def _is_better(self, metric: float) -> bool:
        sign = -1 if self.higher_is_better else 1
        if math.isinf(self.best):
            return sign * metric < sign * self.best
        margin = self.threshold if self.absolute else self.threshold * abs(self.best)
        return sign * metric < sign * self.best - margin

    def state_dict(self) -> dict[str, float | str | None]:
        """What the next call depends on besides the options, in what JSON knows (no best value yet is None)."""
        nothing = -math.inf if self.higher_is_better else math.inf
        best = None if self.best == nothing else "infinite" if math.isinf(self.best) else self.best
        return {"learning_rate": self.learning_rate, "best": best, "waited": self.waited, "resting": self.resting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called. Raises ValueError, and changes nothing, for anything else."""
        fix = "pass what state_dict() returned"
        check_names("ReduceOnPlateau: the saved dict", state, self.state_dict(), fix)
        waited, resting = (whole_number(f"ReduceOnPlateau: {name}", state[name]) for name in ("waited", "resting"))
        rate, best = state["learning_rate"], state["best"]
        if not _is_number(rate) or not (best in (None, "infinite") or _is_number(best)):
            raise ValueError(f"ReduceOnPlateau: learning_rate={rate!r}, best={best!r} are no numbers; {fix}")
        self.learning_rate, self.waited, self.resting = float(rate), waited, resting
        nothing = -math.inf if self.higher_is_better else math.inf
        self.best = nothing if best is None else -nothing if best == "infinite" else float(best)


_FAR = 2**53  # beyond this, whole numbers of Python may be too large for a float


def _decayed(learning_rate: float, factor: float, times: float) -> float:
    """learning_rate * factor ** times, also where the power is too large for a float: then inf, or 0 of rate 0."""
    try:
        return learning_rate * factor ** min(times, _FAR)
    except OverflowError:
        return math.inf if learning_rate else 0.0


def _half_cosine(high: float, low: float, way: float) -> float:
    return low + (high - low) * (1 + math.cos(math.pi * way)) / 2


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _finite(what: str, **values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
            raise ValueError(f"{what}: {name}={value!r} must be a finite number that is not negative")


def _steps(what: str, **values: Any) -> int:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
            raise ValueError(f"{what}: {name}={value!r} must be a whole number of steps, at least 1")
    return int(value)


def _schedule(what: str, given: Any) -> Schedule:
    """A schedule of a schedule or of a number."""
    if callable(given):
        return given
    _finite(what, learning_rate=given)
    return lambda step: given
