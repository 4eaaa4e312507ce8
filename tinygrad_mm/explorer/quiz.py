"""Questions: what would each likely mistake give in place of a gradient?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.explorer.tape import Tape
from tinygrad_mm.mistakes import likely_mistakes

__all__ = ["questions"]

MOST_ASKED = 80  # elements of a gradient that can be asked for: those that are shown as numbers
MOST_EXAMPLES = 16  # in a batch
MOST_PATHS = 6
MOST_QUESTIONS = 200  # on one page


def questions(tape: Tape) -> dict[int, dict[str, Any]]:
    """For the id of each value whose gradient is small: what likely mistakes give, by their names."""
    found: dict[int, dict[str, Any]] = {}
    for step in sorted(tape.backward, key=lambda step: bool(step.sent)):  # leaves first
        right = step.gradient
        if (
            len(found) < MOST_QUESTIONS
            and isinstance(right, np.ndarray)
            and right.size <= MOST_ASKED
            and step.value != tape.loss
        ):
            entries = [entry.array for entry in step.ledger if entry.output is None]
            paths = entries if 1 < len(entries) <= MOST_PATHS else []
            examples = _examples(tape, step.value)
            count = None if examples is None else len(examples)
            found[step.value] = likely_mistakes(right, batch=count, parts=paths, examples=examples)
    return found


def _examples(tape: Tape, value: int) -> Any:
    """What each example of the batch adds to the gradient of a parameter; None where its gradient is no sum over one.

    A rule is linear in the gradient that it is given, so one with a single row says what that row is for.
    """
    ledger = tape.ledger(value)
    (entry,) = ledger if len(ledger) == 1 else (None,)
    if entry is None or entry.consumer is None or not tape.values[value].is_leaf:
        return None
    call, y = tape.calls[entry.consumer], tape.values[entry.consumer].array
    gradient = tape.gradient(entry.consumer)
    if not isinstance(y, np.ndarray) or y.ndim < 2 or not 1 < len(y) <= MOST_EXAMPLES:
        return None
    arrays = [one.array for one in tape.values]
    parts = []
    for n in range(len(y)):
        row = np.zeros_like(gradient)
        row[n] = gradient[n]
        with np.errstate(all="ignore"):
            sent = dict(call.pull(arrays, y, row))
        if entry.argument not in sent:
            return None
        parts.append(sent[entry.argument])
    examples = np.stack(parts)
    spread = examples.ndim > 1 and examples.shape[1] == len(y) and not np.any(examples[~np.eye(len(y), dtype=bool)])
    return None if spread else examples
