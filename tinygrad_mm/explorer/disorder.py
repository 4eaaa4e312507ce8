"""The backward pass in the wrong order: depth first, each rule run at the first contribution.

Why does an engine sort the graph first? A value that is used twice gets two contributions. Whoever walks back along the
first path at once hands on the first contribution alone; when the second one arrives, the rules below have run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.explorer.replay import added
from tinygrad_mm.explorer.tape import Tape

__all__ = ["Late", "WrongOrder", "WrongStep", "wrong_order"]


@dataclass(frozen=True)
class WrongStep:
    """A value handled too early or not: its `gradient` at that moment, and the `missing` consumers still to come.

    A consumer stands once for each argument at which it uses the value.
    """

    value: int
    gradient: Any
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Late:
    """A contribution that arrived when the rules of its target had run already: after step number `after` (from 0)."""

    consumer: int
    argument: int
    target: int
    array: Any
    after: int


@dataclass(frozen=True)
class WrongOrder:
    """What depth-first propagation does.

    `steps` in its order; `late` are the contributions that were never handed on; `gradients` is what each value has
    been given in the end; `errors` is how far that is from the true gradient, relative to its largest element.
    Handing on every single contribution by itself would give the right sums, but take `visits` steps, along `paths`
    different ways from the loss to the leaves.
    """

    steps: list[WrongStep]
    late: list[Late]
    gradients: dict[int, Any]
    errors: dict[int, float]
    paths: int
    visits: int

    @property
    def wrong(self) -> list[int]:
        """The ids of the values whose gradient is wrong in the end, in the order of computation."""
        return sorted(value for value, error in self.errors.items() if not error <= 1e-6)


def wrong_order(tape: Tape) -> WrongOrder:
    """Walk back from the loss depth first, with the engine's own rules."""
    arrays = [value.array for value in tape.values]
    expected = {step.value: [entry.consumer for entry in step.ledger] for step in tape.backward}
    received: dict[int, Any] = {}
    arrived: dict[int, list[int | None]] = {value: [] for value in expected}
    steps: list[WrongStep] = []
    late: list[Late] = []
    done: set[int] = set()

    def handle(value: int) -> Iterator[tuple[int, int, Any]]:
        """Run the rules of a value with what it has received; its contributions are handed out one at a time."""
        done.add(value)
        g = received[value]
        steps.append(WrongStep(value, list(g) if type(g) is list else g, _missing(expected[value], arrived[value])))
        call = tape.calls.get(value)
        if call is None:
            return iter(())
        sent = call.pull(arrays, arrays[value], g)
        return iter([(i, call.args[i].value, c) for i, c in sent])

    received[tape.loss] = np.ones_like(arrays[tape.loss])
    arrived[tape.loss].append(None)
    path = [(tape.loss, handle(tape.loss))]
    while path:
        consumer, sent = path[-1]
        one = next(sent, None)
        if one is None:
            path.pop()
            continue
        argument, target, c = one
        received[target] = c if target not in received else added(received[target], c)
        arrived[target].append(consumer)
        if target in done:
            late.append(Late(consumer, argument, target, c, len(steps) - 1))
        else:
            path.append((target, handle(target)))
    errors = {step.value: _error(received[step.value], step.gradient) for step in tape.backward}
    return WrongOrder(steps, late, received, errors, *_ways(tape))


def _missing(expected: list[int | None], arrived: list[int | None]) -> tuple[int, ...]:
    left = list(expected)
    for consumer in arrived:
        left.remove(consumer)
    return tuple(consumer for consumer in left if consumer is not None)


def _error(wrong: Any, right: Any) -> float:
    """The largest difference, relative to the largest element of the true gradient."""
    if type(right) is list:
        pairs = [
            (w if w is not None else np.zeros_like(r), r) for w, r in zip(wrong, right, strict=True) if r is not None
        ]
        return max((_error(w, r) for w, r in pairs), default=0.0)
    right = np.asarray(right, np.float64)
    with np.errstate(all="ignore"):
        difference = float(np.max(np.abs(np.asarray(wrong, np.float64) - right), initial=0.0))
        largest = float(np.max(np.abs(right), initial=0.0))
    return difference / largest if largest else (float("inf") if difference else 0.0)


def _ways(tape: Tape) -> tuple[int, int]:
    """How many ways lead from the loss to the leaves, and to all values together."""
    ways = {tape.loss: 1}
    for step in tape.backward:
        for entry in step.sent:
            ways[entry.target] = ways.get(entry.target, 0) + ways[step.value]
    return sum(ways[step.value] for step in tape.backward if not step.sent), sum(ways.values())
