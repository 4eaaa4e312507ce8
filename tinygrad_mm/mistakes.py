"""Wrong gradients and what made them: what the likely mistakes give, and which of them gave an answer.

Floor 1: plain arrays. The page of `explore` and the exercises name mistakes by these functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["likely_mistakes", "name_mistake"]

Array: TypeAlias = "np.ndarray[Any, Any]"

CLOSE = 1e-4  # relative to the largest element: what rounding to float32 and the order of a sum may change
SIMPLE_FACTORS = (2.0, 0.5, -2.0, -0.5)  # told of a single number, where any other factor would explain any answer


def name_mistake(answer: Any, right: Any, *, batch: int | None = None, parts: Sequence[Any] = ()) -> str | None:
    """Which likely mistake gives this answer in place of the right gradient; None for a right answer or an unknown one.

    `batch` is the number of examples in the batch. `parts` are the contributions whose sum the right gradient is: one
    for each path, each place that an index names twice, or each example. What is told: a transpose, also of a square
    matrix; a sum over the batch that is missing; a mean in place of a sum and the other way round; the wrong sign; a
    lost path; a contribution that overwrites where gradients add; the right numbers in another shape; a constant
    factor.

    Shape: any, any -> none

    >>> right = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> name_mistake(right.T, right), name_mistake(-right, right), name_mistake(right / 64, right, batch=64)
    ('the transpose', 'the wrong sign', 'the mean over the batch instead of the sum')
    >>> name_mistake([[1.0, 2.0], [3.0, 4.0]], [4.0, 6.0]), name_mistake(right, right)
    ('the sum over the batch is missing', None)
    """
    answer, right = np.asarray(answer, np.float64), np.asarray(right, np.float64)
    if _close(answer, right):
        return None
    for name, wrong in likely_mistakes(right, batch=batch, parts=parts).items():
        if _close(answer, wrong):
            return name
    if answer.shape != right.shape:
        if answer.size == right.size and _close(answer.reshape(right.shape), right):
            return f"the right numbers in the shape {answer.shape} instead of {right.shape}"
        extra = answer.ndim - right.ndim
        summed = answer.sum(tuple(range(extra))) if extra > 0 else answer
        return "the sum over the batch is missing" if _close(summed, right) else None
    factor = _factor(answer, right)
    return None if factor is None else f"{factor:.4g} times the right gradient"


def likely_mistakes(
    right: Any, *, batch: int | None = None, parts: Sequence[Any] = (), examples: Any = None
) -> dict[str, Array]:
    """What each likely mistake would give in place of the right gradient, by the mistake's name.

    `batch` and `parts` are those of `name_mistake`; `examples` are what each example of the batch adds to the gradient,
    along a first axis. Mistakes that would give the right gradient here are left out.

    Shape: that of `right` (the transpose: its axes the other way round) for each

    >>> likely_mistakes([1.0, 2.0])
    {'the wrong sign': array([-1., -2.])}
    >>> list(likely_mistakes([5.0, 5.0], parts=[[2.0, 3.0], [3.0, 2.0]]))[1:]
    ['path 1 of 2 is lost', 'path 2 of 2 is lost', 'the last contribution overwrites the others instead of adding']
    """
    right = np.asarray(right, np.float64)
    return {name: wrong for name, wrong in _candidates(right, batch, parts, examples) if not _close(wrong, right)}


def _candidates(right: Array, batch: int | None, parts: Sequence[Any], examples: Any) -> Iterator[tuple[str, Array]]:
    """Each mistake and its result, the likelier first."""
    if right.ndim > 1:
        yield "the transpose", np.swapaxes(right, -1, -2)
    yield "the wrong sign", -right
    if right.ndim > 1:
        yield "the transpose with the wrong sign", -np.swapaxes(right, -1, -2)
    if batch is not None:
        yield "the mean over the batch instead of the sum", right / batch
        yield "the sum over the batch instead of the mean", right * batch
    if examples is not None:
        for i, one in enumerate(np.asarray(examples, np.float64)):
            yield f"what example {i} alone adds: the sum over the batch is missing", one
    contributions = [np.broadcast_to(np.asarray(part, np.float64), right.shape) for part in parts]
    if len(contributions) > 1:
        for i, part in enumerate(contributions):
            yield f"path {i + 1} of {len(contributions)} is lost", right - part
        yield "the last contribution overwrites the others instead of adding", _overwritten(contributions)
    if right.ndim == 0:
        yield from ((f"{factor:g} times the right gradient", right * factor) for factor in SIMPLE_FACTORS)


def _overwritten(parts: Sequence[Array]) -> Array:
    """At each place the last contribution that is not zero: what assigning in turn would leave."""
    last = np.zeros_like(parts[0])
    for part in parts:
        last = np.where(part != 0, part, last)
    return last


def _factor(answer: Array, right: Array) -> float | None:
    """The one factor between two arrays of several elements; None where there is none."""
    if np.count_nonzero(right) < 2 or not np.isfinite(answer).all():
        return None
    factor = float(np.sum(answer * right) / np.sum(right * right))
    return factor if math.isfinite(factor) and factor and _close(answer, factor * right) else None


def _close(one: Array, other: Array) -> bool:
    """Whether two arrays have one shape and, but for rounding, the same numbers."""
    if one.shape != other.shape:
        return False
    finite = np.isfinite(other)
    largest = max((float(np.max(np.abs(a[finite]), initial=0.0)) for a in (one, other)), default=0.0)
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= CLOSE * largest
    return bool(np.all(np.where(finite, near, (one == other) | (np.isnan(one) & np.isnan(other)))))
