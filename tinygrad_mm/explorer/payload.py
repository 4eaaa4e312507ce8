"""The data of the page, for JSON: texts, and the numbers of arrays in one store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.explorer.calls import Call
from tinygrad_mm.explorer.checks import TOLERANCES, Check
from tinygrad_mm.explorer.learning import Learning
from tinygrad_mm.explorer.program import program
from tinygrad_mm.explorer.quiz import questions
from tinygrad_mm.explorer.store import Store, number
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.explorer.tape import Contribution, Value

__all__ = ["payload"]

MOST_IN_STEPS = 1024  # elements of a weight at each of several training steps
MOST_RATES = 80  # elements of an argument, and of a result, between which all rates are on the page
MOST_PULLS = 4000  # runs of rules for these rates


def payload(
    story: Story,
    nodes: Mapping[int, Sequence[str]],
    layers: Mapping[str, Any],
    image: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Everything that the page's program reads.

    `nodes` are the graph's nodes for each value, `layers` its frames; axes of height times width elements of `image`
    are shown as images.

    Raises ValueError where no array has such an axis.
    """
    arrays = Store(image)
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
        "learning": _learning(story.learning, arrays),
        "quiz": {
            str(value): [{"name": name, "array": arrays.add(wrong)} for name, wrong in mistakes.items()]
            for value, mistakes in questions(story).items()
        },
        "program": program(story),
        "arrays": arrays.stored(),
    }


def _value(value: Value, arrays: Store) -> dict[str, Any]:
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


def _entry(sent: Contribution, arrays: Store, rates: Any) -> dict[str, Any]:
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
        "error": number(check.error),
        "tolerance": tolerance,
        "places": check.places,
        "engine": [number(x) for x in check.engine],
        "numeric": [number(x) for x in check.numeric],
        "left": [number(x) for x in check.left],
        "right": [number(x) for x in check.right],
        "kinks": check.kinks,
        "sampled": check.sampled,
    }


def _wrong(story: Story, arrays: Store) -> dict[str, Any]:
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
        "errors": {str(value): number(error) for value, error in wrong.errors.items()},
        "wrong": wrong.wrong,
        "visits": f"{wrong.visits:,}"
        if wrong.visits < 10**12
        else f"about 10 to the power {len(str(wrong.visits)) - 1}",
    }


def _learning(learning: Learning | None, arrays: Store) -> dict[str, Any] | None:
    if learning is None:
        return None

    def of_parameters(found: Mapping[int, Any]) -> dict[str, Any]:
        return {str(value): arrays.add(array, MOST_IN_STEPS) for value, array in found.items()}

    return {
        "optimizer": learning.optimizer,
        "problem": learning.problem,
        "loss": None if learning.loss is None else number(learning.loss),
        "updates": [
            {
                "value": one.value,
                "formula": one.formula,
                "where": one.where,
                "source": one.source,
                "numbers": one.numbers,
                "place": one.place,
                "options": one.options,
                "states": [
                    {"name": name, "before": arrays.add(before), "after": arrays.add(after)}
                    for name, before, after in one.states
                ],
                "before": arrays.add(one.before),
                "after": arrays.add(one.after),
                "ratio": number(learning.steps[0].ratios[one.value]),
            }
            for one in learning.updates
        ],
        "steps": [
            {
                "loss": number(step.loss),
                "weights": of_parameters(step.weights),
                "gradients": of_parameters(step.gradients),
                "ratios": {str(value): number(ratio) for value, ratio in step.ratios.items()},
            }
            for step in learning.steps
        ],
    }


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
