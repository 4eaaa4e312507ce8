"""From an answer to what is to be said of it."""

from __future__ import annotations

import copy
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.graph import Vertex
from tinygrad_mm.mistakes import name_mistake
from tinygrad_mm.study.exercise import EXERCISES, Array, Exercise, Gradient

__all__ = ["Verdict", "check", "examine"]

WIDTH = 96  # columns of what is printed
TIMES = " times the right gradient"  # how `name_mistake` ends the name of a factor
CLOSE = 1e-4  # relative to the largest element: an answer may be computed in float32, and in any order


class Verdict(NamedTuple):
    """Whether an answer is right, and what is said of it."""

    right: bool
    message: str


def check(name: str, answer: Any) -> None:
    """Print whether `answer` is right in the exercise of that name, and if it is not, which mistake it is.

    An answer is what the exercise asks for: a number, an array, a word, a tuple, or a function, which is called with
    several examples. `...` stands for one that is still to be written.

    Raises KeyError for an exercise that does not exist.

    >>> check("4.3", ...)
    4.3: not answered yet. db(x, W, dy): the gradient of b in y = x @ W + b, from dy, that of y
    >>> check("4.3", lambda x, W, dy: dy)
    4.3: not yet. In db the sum over the batch is missing.
    """
    print(textwrap.fill(examine(name, answer).message, WIDTH, subsequent_indent="    "))


def examine(name: str, answer: Any) -> Verdict:
    """What `check` prints, for programs.

    Raises KeyError for an exercise that does not exist.

    >>> examine("4.3", lambda x, W, dy: np.sum(dy, axis=0)).right
    True
    """
    if name not in EXERCISES:
        near = difflib.get_close_matches(name, EXERCISES, 3, 0) or list(EXERCISES)[:3]
        raise KeyError(f"there is no exercise {name!r}; there are {', '.join(near)} and others: tg.study.EXERCISES")
    exercise = EXERCISES[name]
    if answer is ...:
        return Verdict(False, f"{name}: not answered yet. {exercise.question}")
    if callable(exercise.right) and not callable(answer):
        return Verdict(False, f"{name}: not yet. It asks for a function: {exercise.question}")
    cases = [_Case(exercise, args) for args in exercise.cases]
    for case in cases:
        try:
            wrong = case.wrong(answer, [other for other in cases if other is not case])
        except _Unanswered:
            return Verdict(False, f"{name}: not answered yet. {exercise.question}")
        if wrong is not None:
            return Verdict(False, f"{name}: not yet. {wrong}")
    return Verdict(True, f"{name}: right.")


class _Unanswered(Exception):  # noqa: N818 (no error)
    """The answer is, or returned, `...`."""


class _Case:
    """An exercise with one example of its arguments."""

    def __init__(self, exercise: Exercise, args: tuple[Any, ...]) -> None:
        self.exercise, self.args = exercise, args
        self.right = None if exercise.judge else self.called(exercise.right)
        self.names = exercise.results or ("it",)

    def called(self, answer: Any) -> Any:
        """An answer as a value: that of a function, on arguments that it may write into."""
        return answer(*copy.deepcopy(self.args)) if callable(answer) else answer

    def results(self, answer: Any) -> list[Any] | None:
        """The results of an answer or of a mistake; None where it cannot be made from these arguments."""
        try:
            with np.errstate(all="ignore"):
                found = _parts(self.called(answer), len(self.names))
            return [one if isinstance(one, str) else _array(one) for one in found]
        except Exception:  # whatever the reader's code does
            return None

    def wrong(self, answer: Any, others: Sequence[_Case] = ()) -> str | None:
        """What is wrong with an answer; None where it is right.

        A mistake is named only if it also explains what the answer is for the `others`.
        """
        args = copy.deepcopy(self.args)
        if callable(answer):
            try:
                with np.errstate(all="ignore"):  # what overflows is seen in the result
                    value = answer(*args)
            except Exception as error:  # whatever the reader's code does
                return f"It raised {type(error).__name__} for arguments of {_shapes(args)}: {error}"
            if value is None:
                return "It returned None; is a `return` missing?"
            changed = [i for i, (a, b) in enumerate(zip(args, self.args, strict=True)) if _differ(a, b)]
            if changed:
                return f"It writes into its argument {changed[0]}, which others still need; make a new array."
        else:
            value = answer
        if value is ...:
            raise _Unanswered
        if self.exercise.judge is not None:
            try:
                return self.exercise.judge(value, *self.args)
            except (AttributeError, TypeError, ValueError):  # nothing that can be judged
                return f"It is {type(value).__name__} {value!r:.60}, not what is asked for."
        given, right = _parts(value, len(self.names)), _parts(self.right, len(self.names))
        if len(given) != len(right):
            return f"It asks for {len(right)} results, {', '.join(self.exercise.results)}; there are {len(given)}."
        if any(one is ... for one in given):
            raise _Unanswered
        if order := self.order(given, right):
            return f"The results are there in the order {order}; it asks for {', '.join(self.names)}."
        told = (self.compared(i, given[i], right[i], answer, others) for i in range(len(right)))
        return next((said for said in told if said), None)

    def order(self, given: Sequence[Any], right: Sequence[Any]) -> str | None:
        """The names of the results in the order in which they were given; None where that is not all there is wrong."""
        try:
            answers, truths = [_array(one) for one in given], [_array(one) for one in right]
        except (TypeError, ValueError):
            return None
        fits = [[j for j, truth in enumerate(truths) if _agree(one, truth)] for one in answers]
        if any(len(js) != 1 for js in fits) or len({js[0] for js in fits}) < len(fits):
            return None
        found = [self.names[js[0]] for js in fits]
        return None if tuple(found) == tuple(self.names) else ", ".join(found)

    def compared(self, i: int, given: Any, right: Any, answer: Any, others: Sequence[_Case]) -> str | None:
        """What is wrong with the i-th result; None where it is right."""
        if isinstance(right, str):
            if _word(given) == _word(right):
                return None
            return self.listed(i, given, answer, others) or f"Not {given!r}; it asks for {self.exercise.question}."
        try:
            found, truth = _array(given), _array(right)
        except (TypeError, ValueError):
            return f"{_begun(self.names[i])} is {type(given).__name__} {given!r:.60}, not numbers."
        if _agree(found, truth):
            return None
        return (
            self.listed(i, found, answer, others)
            or self.named(i, found, truth, answer, others)
            or self.worst(i, found, truth)
        )

    def listed(self, i: int, found: Any, answer: Any, others: Sequence[_Case]) -> str | None:
        """A mistake that belongs to this exercise."""
        for said, wrong in self.exercise.mistakes.items():
            made = self.results(wrong)
            if made is not None and _same(found, made[i]) and all(one.explained(i, answer, wrong) for one in others):
                return f"{said[0].upper()}{said[1:]}."
        return None

    def explained(self, i: int, answer: Any, mistake: Any) -> bool:
        """Whether the answer here is what the mistake makes of it, as far as both can be made."""
        found, made = self.results(answer), self.results(mistake)
        return found is None or made is None or (len(found) == len(made) and _same(found[i], made[i]))

    def named(self, i: int, found: Array, truth: Array, answer: Any, others: Sequence[_Case]) -> str | None:
        """A mistake that can be made with any gradient."""
        what = self.mistake(i, found, truth)
        if what is None:
            return None
        subject = self.names[i]
        for other in others:
            results, right = other.results(answer), other.results(self.exercise.right)
            if results is None or right is None or len(results) != len(right):
                continue
            elsewhere = other.mistake(i, results[i], right[i])
            if what.endswith(TIMES) and elsewhere != what:
                if elsewhere is not None and not elsewhere.endswith(TIMES):
                    return None
                if elsewhere is None and not _agree(results[i], right[i]):
                    return None
                there = "right" if elsewhere is None else elsewhere.removesuffix(TIMES) + " times"
                return (
                    f"Here {subject} is {what.removesuffix(TIMES)} times the right answer, in another example {there}."
                )
            if not _agree(results[i], right[i]) and _kind(elsewhere) != _kind(what):
                return None
        if what.endswith("is missing") and self.exercise.batch is None:
            what = what.replace("over the batch", "over the first axis")
        if what.endswith(("is missing", "is lost")) or what.startswith("the last contribution"):
            return f"{_begun(what)}." if subject == "it" else f"In {subject} {what}."
        if what == "the wrong sign":
            return f"{_begun(subject)} has {what}."
        square = ", which no shape tells in a square matrix" if found.shape == truth.shape else ""
        what = what.replace("the transpose", f"the transpose of the right answer{square}", 1)
        return f"{_begun(subject)} is {what.replace('the right gradient', 'the right answer')}."

    def mistake(self, i: int, found: Any, truth: Any) -> str | None:
        """The name of the mistake that makes this of the right result; None for a right one, or another mistake."""
        if isinstance(found, str) or isinstance(truth, str):
            return None
        batch = self.exercise.batch(*self.args) if self.exercise.batch else None
        parts = self.exercise.parts(*self.args) if self.exercise.parts else ()
        what = name_mistake(found, truth, batch=batch, parts=parts)
        # The factor between two numbers tells the answer, where the question is for a number.
        return None if what and what.endswith(TIMES) and not callable(self.exercise.right) else what

    def worst(self, i: int, answer: Array, truth: Array) -> str:
        """The shape, or the entry that is off most; of a gradient beside the nudge of that entry."""
        if answer.shape != truth.shape:
            why = (
                "; a gradient has the shape of what it belongs to" if isinstance(self.exercise.right, Gradient) else ""
            )
            return f"{_begun(self.names[i])} has shape {answer.shape} instead of {truth.shape}{why}."
        error = np.where(np.isfinite(answer), np.abs(answer - np.where(np.isfinite(truth), truth, 0)), np.inf)
        index = tuple(int(n) for n in np.unravel_index(int(np.argmax(error)), truth.shape))
        where = f" at {index if len(index) > 1 else index[0]}" if index else ""
        if isinstance(self.exercise.right, Gradient):
            slope = self.exercise.right.nudge(self.args, i, index)
            return (
                f"{_begun(self.names[i])} is {answer[index]:.6g}{where}; a nudge of that entry changes the loss "
                f"{slope:.6g} times as much."
            )
        if not callable(self.exercise.right):  # the answer itself would be told
            return f"{_begun(self.names[i])} is {answer[index]:.6g}{where}, which is too {_size(answer, truth, index)}."
        return f"{_begun(self.names[i])} is {answer[index]:.6g}{where}; it should be {truth[index]:.6g}."


def _begun(name: str) -> str:
    """A name, or a phrase of several words, at the beginning of a sentence."""
    return f"{name[0].upper()}{name[1:]}" if name == "it" or " " in name else name


def _kind(mistake: str | None) -> str | None:
    """The name of a mistake, without the numbers that are of one example only."""
    return mistake and re.sub(r"\d+", "", mistake)


def _size(answer: Array, truth: Array, index: tuple[int, ...]) -> str:
    return "small" if answer[index] < truth[index] else "large"


def _same(found: Any, made: Any) -> bool:
    """Whether two results are the same, words or numbers."""
    if isinstance(made, str) or isinstance(found, str):
        return _word(found) == _word(made)
    return _agree(found, made)


def _parts(value: Any, results: int) -> list[Any]:
    """The results one by one."""
    return list(value) if results > 1 and isinstance(value, (tuple, list)) else [value]


def _array(value: Any) -> Array:
    """Numbers, of a Tensor too, as an array."""
    if isinstance(value, Vertex):
        value = value.value
    if isinstance(value, (list, tuple)):
        value = [_array(one) for one in value]
    return np.asarray(value, np.float64)


def _agree(one: Any, other: Array) -> bool:
    """Whether two arrays have one shape and, but for rounding, the same numbers."""
    if not isinstance(one, np.ndarray) or one.shape != other.shape:
        return False
    size = float(np.max(np.abs(other[np.isfinite(other)]), initial=0.0))
    return bool(np.allclose(one, other, rtol=0, atol=CLOSE * size, equal_nan=True))


def _word(value: Any) -> str:
    return str(value).strip().casefold()


def _differ(one: Any, other: Any) -> bool:
    """Whether an array among the arguments has been changed."""
    return isinstance(other, np.ndarray) and not np.array_equal(one, other, equal_nan=other.dtype.kind == "f")


def _shapes(args: tuple[Any, ...]) -> str:
    return ", ".join(f"shape {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__ for a in args) or "none"
