"""The data of the page, for JSON: texts, and arrays in one store of bounded size.

Every array is stored once, however many steps show it, in base64, so that the page's numbers are the engine's, bit for
bit. What is too large for a page is sampled at even distances; its least, largest and mean elements and its norm are
those of the whole array.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.explorer.calls import Call
from tinygrad_mm.explorer.checks import TOLERANCES, Check
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.explorer.tape import Contribution, Value

__all__ = ["payload"]

MOST_SHOWN = 4096  # elements of one array
MOST_BYTES = 4_000_000  # of all arrays together
MOST_RATES = 80  # elements of an argument, and of a result, between which all rates are on the page
MOST_PULLS = 4000  # runs of rules for these rates


def payload(story: Story, nodes: Mapping[int, Sequence[str]], layers: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page's program reads. `nodes` are the graph's nodes for each value, `layers` its frames."""
    arrays = _Arrays()
    entries: list[dict[str, Any]] = []
    numbers: dict[int, int] = {}  # id() of a contribution -> its place among the entries
    rates = _Rates(story)
    steps = []
    for step in story.backward:
        found = rates.of(step.value)
        for sent in step.sent:
            numbers[id(sent)] = len(entries)
            entries.append(_entry(sent, arrays, found.get(sent.argument)))
        for seed in step.ledger:
            if seed.consumer is None:
                numbers[id(seed)] = len(entries)
                entries.append(_entry(seed, arrays, None))
        ledger = [
            {"entry": numbers[id(one)], "consumer": one.consumer, "sum": arrays.add(total)}
            for one, total in zip(step.ledger, step.running_sums(), strict=True)
        ]
        steps.append(
            {
                "value": step.value,
                "gradient": arrays.add(step.gradient),
                "ledger": ledger,
                "sent": [numbers[id(sent)] for sent in step.sent],
                "stopped": step.stopped,
            }
        )
    place = {step.value: i for i, step in enumerate(story.backward)}
    checks = story.checks()
    tolerance = max((TOLERANCES.get(value.dtype, 0.0) for value in story.values), default=0.0)
    values = []
    for value in story.values:
        check = checks.get(value.id)
        values.append(
            {
                **_value(value, arrays),
                "nodes": list(nodes.get(value.id, ())),
                "step": place.get(value.id),
                "gradient": arrays.add(story.gradient(value.id)),
                "check": None if check is None else _check(check, tolerance),
            }
        )
    return {
        "values": values,
        "forward": story.forward,
        "steps": steps,
        "entries": entries,
        "loss": story.loss,
        "notes": story.notes,
        "layers": layers,
        "wrong": _wrong(story, arrays),
        "arrays": arrays.stored(),
    }


def _value(value: Value, arrays: _Arrays) -> dict[str, Any]:
    return {
        "id": value.id,
        "label": value.label,
        "kind": value.kind,
        "dtype": value.dtype,
        "requires": value.requires_grad,
        "array": arrays.add(value.array),
        "operation": value.operation,
        "expression": value.expression,
        "arguments": [{"value": a.value, "text": a.text, "name": a.name} for a in value.arguments],
        "modules": value.modules,
        # The folder is of no use to a reader, and differs from machine to machine.
        "line": f"{value.line[0].replace(chr(92), '/').rsplit('/', 1)[-1]}:{value.line[1]}" if value.line else "",
        "code": value.code,
    }


def _entry(sent: Contribution, arrays: _Arrays, rates: Any) -> dict[str, Any]:
    return {
        "consumer": sent.consumer,
        "argument": sent.argument,
        "target": sent.target,
        "before": arrays.add(sent.before),
        "array": arrays.add(sent.array),
        "summed": sent.summed,
        "cast": sent.cast,
        "source": sent.source,
        "formula": sent.formula,
        "where": sent.where,
        "numbers": sent.numbers,
        "places": sent.places,
        "operands": [{"text": one.text, "array": arrays.add(one.array)} for one in sent.operands],
        "shapes": sent.shapes,
        "rates": None if rates is None else arrays.add(rates),
    }


def _check(check: Check, tolerance: float) -> dict[str, Any]:
    return {
        "status": check.status,
        "reason": check.reason,
        "error": _number(check.error),
        "tolerance": tolerance,
        "places": check.places,
        "engine": [_number(x) for x in check.engine],
        "numeric": [_number(x) for x in check.numeric],
        "left": [_number(x) for x in check.left],
        "right": [_number(x) for x in check.right],
        "kinks": check.kinks,
        "sampled": check.sampled,
    }


def _wrong(story: Story, arrays: _Arrays) -> dict[str, Any]:
    wrong = story.wrong_order()
    return {
        "steps": [
            {"value": step.value, "gradient": arrays.add(step.gradient), "missing": step.missing}
            for step in wrong.steps
        ],
        "late": [
            {"consumer": one.consumer, "target": one.target, "after": one.after, "array": arrays.add(one.array)}
            for one in wrong.late
        ],
        "gradients": {str(value): arrays.add(gradient) for value, gradient in wrong.gradients.items()},
        "errors": {str(value): _number(error) for value, error in wrong.errors.items()},
        "wrong": wrong.wrong,
        "visits": f"{wrong.visits:,}"
        if wrong.visits < 10**12
        else f"about 10 to the power {len(str(wrong.visits)) - 1}",
    }


def _number(x: float) -> float | str:
    """A number for JSON, which knows neither NaN nor infinity."""
    return x if math.isfinite(x) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(x, "NaN")


class _Rates:
    """How much each element of a result changes for each element of an argument, for calls small enough.

    The engine's own rule is run once for each element of the result, with a gradient that is 1 there and 0 elsewhere.
    """

    def __init__(self, story: Story) -> None:
        self.story = story
        self.arrays = [value.array for value in story.values]
        self.left = MOST_PULLS

    def of(self, value: int) -> dict[int, Any]:
        """{position of an argument: rates of shape (its elements, elements of the result)}, those that are small."""
        call, y = self.story.calls.get(value), self.arrays[value]
        if call is None or isinstance(y, tuple) or not self._small(y) or y.size > self.left:
            return {}
        wanted = {i for i in call.needed if self._small(self._argument(call, i))}
        if not wanted:
            return {}
        self.left -= y.size
        columns: dict[int, list[Any]] = {i: [] for i in wanted}
        for place in range(y.size):
            one = np.zeros_like(y)
            one.reshape(-1)[place] = 1
            with np.errstate(all="ignore"):
                found = dict(call.pull(self.arrays, y, one))
            for i in wanted:
                if i in found:
                    columns[i].append(np.ravel(found[i]))
        return {i: np.stack(column, axis=1) for i, column in columns.items() if len(column) == y.size}

    def _argument(self, call: Call, i: int) -> Any:
        return self.arrays[call.args[i].value]

    def _small(self, array: Any) -> bool:
        return not isinstance(array, tuple) and 0 < array.size <= MOST_RATES


class _Arrays:
    """A store of arrays, each once."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self.numbers: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def add(self, array: Any) -> Any:
        """The array's number in the store; for several arrays a list of numbers, None where there is none."""
        if array is None:
            return None
        if isinstance(array, (list, tuple)):
            return [self.add(one) for one in array]
        array = np.asarray(array)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self.numbers:
            self.numbers[key] = len(self.arrays)
            self.arrays.append(array)
        return self.numbers[key]

    def stored(self) -> list[dict[str, Any]]:
        """All arrays, sampled so far that they fit on one page."""
        most = MOST_SHOWN
        while most > 16 and sum(min(a.size, most) * a.itemsize for a in self.arrays) > MOST_BYTES:
            most //= 2
        return [_stored(array, most) for array in self.arrays]


def _stored(array: Any, most: int) -> dict[str, Any]:
    every = _strides(array.shape, most)
    shown = array[tuple(slice(None, None, step) for step in every)]
    kind = {"float32": "f4", "float16": "f4", "bool": "u1"}.get(str(array.dtype), "f8")
    numbers = array.astype(np.float64).reshape(-1)
    finite = numbers[np.isfinite(numbers)]
    return {
        "shape": array.shape,
        "dtype": str(array.dtype),
        "grid": shown.shape,
        "every": every,
        "type": kind,
        "data": base64.b64encode(np.ascontiguousarray(shown, dtype=f"<{kind}").tobytes()).decode(),
        "size": array.size,
        "least": float(finite.min()) if finite.size else 0.0,
        "most": float(finite.max()) if finite.size else 0.0,
        "mean": float(finite.mean()) if finite.size else 0.0,
        "norm": _number(float(np.sqrt(np.sum(finite * finite)))),
        "odd": int(numbers.size - finite.size),
    }


def _strides(shape: tuple[int, ...], most: int) -> list[int]:
    """At which distances to take the elements along each axis so that there are at most so many.

    >>> _strides((784, 128), 4096), _strides((3, 4), 4096)
    ([16, 2], [1, 1])
    """
    every = [1] * len(shape)
    grid = list(shape)
    while math.prod(grid) > most:
        axis = grid.index(max(grid))
        every[axis] *= 2
        grid[axis] = -(-shape[axis] // every[axis])
    return every
