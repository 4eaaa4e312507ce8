"""`tg.study`: right answers pass, and each likely mistake is called by its name."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm.mistakes import likely_mistakes
from tinygrad_mm.study import EXERCISES, Gradient, check, examine

MISTAKES = [(name, said) for name, exercise in EXERCISES.items() for said in exercise.mistakes]
COURSE = Path(__file__).parents[1] / "examples" / "course"


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_answer_passes(name):
    assert examine(name, EXERCISES[name].right) == (True, f"{name}: right.")


@pytest.mark.parametrize(("name", "said"), MISTAKES)
def test_a_likely_mistake_is_named(name, said):
    verdict = examine(name, EXERCISES[name].mistakes[said])
    assert not verdict.right
    assert said[1:] in verdict.message


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_knows_three_mistakes(name):
    exercise = EXERCISES[name]
    assert len(exercise.mistakes) >= 3
    assert exercise.question
    assert exercise.right is not ...


GRADIENTS = [name for name, exercise in EXERCISES.items() if isinstance(exercise.right, Gradient)]


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_right_gradient_is_that_of_finite_differences(name):
    right = EXERCISES[name].right
    for args in EXERCISES[name].cases:
        found = right(*args)
        for i, gradient in enumerate(found if isinstance(found, tuple) else (found,)):
            for index in np.ndindex(gradient.shape):
                assert right.nudge(args, i, index) == pytest.approx(gradient[index], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_mistakes_that_every_gradient_knows_are_named(name):
    """The mistakes of `tinygrad_mm.mistakes`, made with the right answer to each exercise about a gradient."""
    exercise = EXERCISES[name]
    results = max(1, len(exercise.results))
    batch = exercise.batch(*exercise.cases[-1]) if exercise.batch else None
    for i in range(results):

        def first(value, i=i):
            return value[i] if results > 1 else value

        for what in likely_mistakes(first(exercise.right(*exercise.cases[-1])), batch=batch):

            def answer(*args, i=i, what=what):
                right = exercise.right(*args)
                made = likely_mistakes(first(right), batch=exercise.batch(*args) if exercise.batch else None)
                wrong = made.get(what, first(right))
                return tuple(wrong if j == i else r for j, r in enumerate(right)) if results > 1 else wrong

            verdict = examine(name, answer)
            assert not verdict.right
            kind = what.removeprefix("the ").split(" with")[0].replace("right gradient", "right answer")
            assert kind in verdict.message


def test_lost_paths_and_missing_sums_are_named():
    assert "path 2 of 3 is lost" in examine("4.2", lambda x, W, dy: x.T @ dy - np.outer(x[1], dy[1])).message
    assert "the sum over the batch is missing" in examine("4.3", lambda x, W, dy: dy).message
    assert "the mean over the batch instead of the sum" in examine("4.3", lambda x, W, dy: dy.mean(0)).message
    assert "overwrites" in examine("4.3", lambda x, W, dy: dy[-1]).message


def test_a_mistake_without_a_name_is_the_worst_entry_beside_its_nudge():
    def answer(x, W, dy):
        wrong = x.T @ dy
        wrong[1, 0] += 1
        return wrong

    args = EXERCISES["4.2"].cases[0]
    right = (args[0].T @ args[2])[1, 0]
    message = examine("4.2", answer).message
    said = re.fullmatch(
        r"4\.2: not yet\. dW is (\S+) at \(1, 0\); a nudge of that entry changes the loss (\S+) times as much\.",
        message,
    )
    assert float(said[1]) == pytest.approx(right + 1, abs=1e-4)
    assert float(said[2]) == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("4.2", ..., "not answered yet. dW(x, W, dy)"),
        ("4.2", lambda x, W, dy: ..., "not answered yet"),
        ("10.2", lambda *args: (..., ...), "not answered yet"),
        ("4.2", lambda x, W, dy: None, "is a `return` missing?"),
        ("4.2", np.ones((3, 2)), "It asks for a function"),
        (
            "4.2",
            lambda x, W, dy: x if len(x) == 5 else x.T @ dy,
            "shape (5, 3) instead of (3, 2); a gradient has the shape",
        ),
        ("4.2", lambda x, W: x, "raised TypeError"),
        ("4.2", lambda x, W, dy: {"dW": 1}, "dict"),
        ("4.2", lambda x, W, dy: "dW", "not numbers"),
        ("4.2", lambda x, W, dy: x.T @ dy * np.nan, "nan"),
        ("4.2", lambda x, W, dy: np.add(x, 1, out=x), "writes into its argument 0"),
        ("10.2", lambda *args: args[0], "2 results, w, v"),
        ("1.3", "four", "not numbers"),
        ("2.2", lambda contributions: {name: "1" for name, _ in contributions}, "not what is asked for"),
        ("2.2", lambda contributions: [1.0], "a dictionary with the keys a, b"),
        ("7.1", lambda made_from, last: [[last]], "not what is asked for"),
        ("5.1", 3, "Not 3"),
    ],
)
def test_what_else_can_be_wrong(name, answer, said):
    verdict = examine(name, answer)
    assert not verdict.right
    assert said in verdict.message


def test_an_answer_may_be_a_tensor_a_list_or_single_precision():
    assert examine("4.2", lambda x, W, dy: tg.Tensor(x.T @ dy, requires_grad=True)).right
    assert examine("4.2", lambda x, W, dy: (x.T @ dy).astype(np.float32)).right
    assert examine("4.2", lambda x, W, dy: (x.T @ dy).tolist()).right
    assert examine("5.1", " Factor ").right


def test_check_prints_and_unknown_names_raise(capsys):
    assert check("1.3", 4) is None
    assert capsys.readouterr().out == "1.3: right.\n"
    with pytest.raises(KeyError, match=r"no exercise '4\.22'; there are 4\.2"):
        check("4.22", 1)


def test_examining_changes_no_example():
    before = copy.deepcopy(EXERCISES["4.2"].cases)
    examine("4.2", lambda x, W, dy: np.multiply(x, 0, out=x))
    assert all(
        np.array_equal(a, b)
        for one, other in zip(before, EXERCISES["4.2"].cases, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_every_exercise_stands_in_its_chapter_with_its_solution():
    for name in EXERCISES:
        (chapter,) = COURSE.glob(f"{int(name.split('.')[0]):02d}_*.py")
        _, exercises, solutions = re.split(
            "^# ## (?:Exercises|Solutions)$", chapter.read_text("utf-8"), flags=re.MULTILINE
        )
        for part in (exercises, solutions):
            assert len(re.findall(rf'check\(\s*"{re.escape(name)}"', part)) == 1, f"{name}: once to do, once solved"


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_for_a_function_has_two_examples_at_least(name):
    """So that a mistake is not taken for another one, or for the answer, because the numbers of one example agree."""
    if callable(EXERCISES[name].right):
        assert len(EXERCISES[name].cases) >= 2


@pytest.mark.parametrize(
    ("name", "answer", "said", "unsaid"),
    [
        ("4.2", lambda x, W, dy: x.T @ dy / x.shape[1], "a nudge of that entry", "batch"),  # in a square one, as many
        ("4.2", lambda x, W, dy: (x.T @ dy).ravel(), "the right numbers in the shape (9,)", "nudge"),
        ("4.1", lambda x, W, dy: dy @ W.T / len(x), "Here dx is 0.3333 times the right answer, in another example 0.2", "batch"),
        ("13.2", lambda g, most: g, "2.5 times the right answer, in another example right", "longer"),
        ("9.4", lambda h: np.mean(np.any(h != 0, axis=0)), "the share of those that live", "zeros"),
        ("10.1", lambda H: 2 / np.linalg.det(H), "it should be", "sum of the eigenvalues"),
        ("7.1", lambda made_from, last: [*made_from][::-1], "stands before", "right"),
        ("7.2", lambda g, shape: g.sum(axis=tuple(i - len(shape) for i, n in enumerate(shape) if n == 1), keepdims=True), "added in front", "batch"),
        ("10.2", lambda w, g, v, rate, beta: (beta * v + g, w - rate * (beta * v + g)), "in the order v, w; it asks for w, v", "should"),
        ("14.2", lambda q, k, v, dy: [EXERCISES["14.2"].right(q, k, v, dy)[i] for i in (1, 0, 2)], "in the order dk, dq, dv", "nudge"),
        ("14.1", lambda q, k, v: tg.softmax(q @ k.T / 4).data @ v, "divides by d, not by its root", "should"),
        ("15.2", lambda n, k, m, first: (3 if first else 2) * n * k * m, "the other way round", "nobody"),
        ("5.1", "constant", "one of transpose, sum, sign, factor, path", "bug in rule 2"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_only_if_it_explains_every_example(name, answer, said, unsaid):
    verdict = examine(name, answer)
    assert not verdict.right
    assert said in verdict.message
    assert unsaid not in verdict.message.removeprefix(EXERCISES[name].question)


@pytest.mark.parametrize("name", [name for name, exercise in EXERCISES.items() if isinstance(exercise.right, float)])
def test_a_wrong_number_is_not_told_the_right_one(name):
    right = EXERCISES[name].right
    for wrong, size in ((right * 7, "large"), (right / 7, "small"), (right + 0.5, "large")):
        assert examine(name, wrong).message == f"{name}: not yet. It is {wrong:.6g}, which is too {size}."
