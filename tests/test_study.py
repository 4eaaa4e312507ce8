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
