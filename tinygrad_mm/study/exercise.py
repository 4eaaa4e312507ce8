"""What an exercise is: a question, its right answer, and the mistakes that are made most often."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.numeric import numeric_gradient
from tinygrad_mm.transforms import grad

__all__ = ["EXERCISES", "Array", "Exercise", "Gradient", "exercise"]

Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Exercise:
    """A question, its right answer, and what is said of wrong ones.

    `right` is an answer: a number, an array, a word, a tuple of these, or a function that returns one of them. A
    function is called with each of `cases`, tuples of arguments, and so is the reader's. `results` are the names of
    what it returns. `mistakes` maps what is said of a wrong answer to that answer, which has the form of `right`.
    `batch` and `parts` are functions of the arguments: the number of examples, and the contributions that add up to
    the right answer. `judge`, where several answers are right, is a function of the answer and the arguments that
    says what is wrong with it, or None.

    >>> EXERCISES["4.2"].results
    ('dW',)
    """

    question: str
    right: Any
    cases: Sequence[tuple[Any, ...]] = ((),)
    results: tuple[str, ...] = ()
    mistakes: Mapping[str, Any] = field(default_factory=dict)
    batch: Callable[..., int] | None = None
    parts: Callable[..., Sequence[Any]] | None = None
    judge: Callable[..., str | None] | None = None


class Gradient:
    """The gradient of a loss with respect to the arguments at `argnums`, as the engine has it: a right answer.

    `nudge` is one entry of it by a finite difference, which needs no rule.

    >>> right = Gradient(lambda x: np.sum(x**3), 0)
    >>> right(np.array([1.0, 2.0])), round(right.nudge((np.array([1.0, 2.0]),), 0, (1,)), 6)
    (array([ 3., 12.]), 12.0)
    """

    def __init__(self, loss: Callable[..., Any], *argnums: int) -> None:
        self.loss, self.argnums = loss, argnums

    def __call__(self, *args: Any) -> Any:
        found = grad(self.loss, self.argnums)(*args)
        plain = tuple(np.asarray(g) for g in found)
        return plain[0] if len(plain) == 1 else plain

    def nudge(self, args: tuple[Any, ...], result: int, index: tuple[int, ...]) -> float:
        """How fast the loss changes when one entry of an argument does."""
        return float(numeric_gradient(self.loss, args, self.argnums[result])[index])


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, question: str, right: Any, results: str = "", **others: Any) -> None:
    """Add an exercise under a name of its own."""
    if name in EXERCISES:
        raise ValueError(f"exercise {name} stands there twice")
    EXERCISES[name] = Exercise(question, right, results=tuple(results.split()), **others)
