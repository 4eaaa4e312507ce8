"""Formulas of one's own: what they may say, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import optim
from tinygrad_mm.optim.formula import trace_formula


def test_an_optimizer_of_ones_own():
    class Signed(optim.Optimizer):
        states = ("average",)

        @staticmethod
        def formula(parameter, gradient, average, learning_rate, step, *, decay):
            average = decay * average + (1 - decay) * gradient
            return parameter - learning_rate * np.sign(average), average

    p = tg.Parameter([1.0, -1.0])
    optimizer = Signed([p], learning_rate=0.25, decay=0.5)
    for g in ([1.0, -1.0], [-3.0, -1.0]):
        p.grad = np.array(g, np.float32)
        optimizer.step()
    assert p.data.tolist() == [1.0, -0.5]
    assert optimizer.state_of(p)["average"].tolist() == [-1.25, -0.75]
    assert "sign(average" in optimizer.source


def test_a_formula_that_returns_too_little_is_named():
    class Broken(optim.Optimizer):
        states = ("average",)

        @staticmethod
        def formula(parameter, gradient, average, learning_rate, step):
            return (parameter - learning_rate * gradient,)

    p = tg.Parameter([1.0])
    p.grad = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="new parameter and the new 1 states"):
        Broken([p], 0.1).step()


def program(formula, states=(), **options):
    return trace_formula(formula, states, ["learning_rate", "step"], options)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (lambda p, g, learning_rate, step: p - g * np.sum(g), "multiply|sum in a formula"),
        (lambda p, g, learning_rate, step: np.cumsum(p), "cumsum in a formula"),
        (lambda p, g, learning_rate, step: learning_rate, "returned one number as the new parameter"),
        (lambda p, g, learning_rate, step: 0.5, "0.5|float"),
        (lambda p, g, learning_rate, step: p - g * np.ones(3), r"shape \(3,\)|as the new parameter"),
    ],
)
def test_a_formula_that_is_not_elementwise_is_refused(formula, message):
    with pytest.raises((ValueError, TypeError), match=message):
        program(formula)


def test_states_are_not_named_like_what_the_update_uses():
    for name in ("t0", "s1", "c12", "add", "learning_rate", "a b", "lambda"):
        with pytest.raises(ValueError, match="cannot be called"):
            program(lambda p, g, s, learning_rate, step: (p - learning_rate * g, s + g), [name])


def test_states_that_trade_places():
    class Delayed(optim.Optimizer):
        states = ("newest", "older", "oldest", "total")

        @staticmethod
        def formula(parameter, gradient, newest, older, oldest, total, learning_rate, step):
            total = total + newest
            return parameter - learning_rate * oldest, gradient, newest, older, total

    class Swapped(optim.Optimizer):
        states = ("a", "b")

        @staticmethod
        def formula(parameter, gradient, a, b, learning_rate, step):
            return parameter, b, a + gradient

    p = tg.Parameter([0.0])
    optimizer = Delayed([p], learning_rate=1.0)
    for i, expected in enumerate([0, 0, 0, -1, -3, -6], start=1):
        p.grad = np.array([i], np.float32)
        optimizer.step()
        assert p.item() == expected
    assert optimizer.state_of(p)["total"].item() == 15
    q = tg.Parameter([7.0])
    swapped = Swapped([q], learning_rate=1.0)
    for g, pair in ((1, (0, 1)), (2, (1, 2)), (5, (2, 6)), (1, (6, 3))):
        q.grad = np.array([g], np.float32)
        swapped.step()
        state = swapped.state_of(q)
        assert (state["a"].item(), state["b"].item()) == pair
    assert q.item() == 7.0


@given(st.data())
def test_emitted_code_computes_what_the_formula_says(data):
    """Random formulas over three arrays and two numbers: the in-place program against NumPy on the same formula."""
    operations = st.sampled_from(["+", "-", "*", "/", "n*", "/n", "sqrt", "max", "pow", "where"])
    recipe = data.draw(st.lists(st.tuples(operations, st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
    picks = data.draw(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)))

    def formula(parameter, gradient, first, second, learning_rate, step):
        pool = [parameter, gradient, first, second]
        numbers = [learning_rate, 0.5, 1 - 0.5**step, learning_rate / step, -0.25]
        for operation, i, j in recipe:
            a, b, n = pool[i % len(pool)], pool[j % len(pool)], numbers[j % len(numbers)]
            pool.append(
                {
                    "+": lambda a=a, b=b: a + b,
                    "-": lambda a=a, b=b: a - b,
                    "*": lambda a=a, b=b: a * b,
                    "/": lambda a=a, b=b: a / (1 + abs(b)),
                    "n*": lambda a=a, n=n: n * a,
                    "/n": lambda a=a, n=n: a / n,
                    "sqrt": lambda a=a: np.sqrt(abs(a)),
                    "max": lambda a=a, b=b: np.maximum(a, b),
                    "pow": lambda a=a: a**2,
                    "where": lambda a=a, b=b: np.where((a > b) & ~(b > 0.5), a, b),
                }[operation]()
            )
        return tuple(pool[-1 - i % len(pool)] for i in picks)

    made = program(formula, ["first", "second"])
    r = np.random.default_rng(0)
    parameter, gradient, first, second = r.standard_normal((4, 5))
    given_gradient = gradient.copy()
    with np.errstate(all="ignore"):
        expected = [np.array(x) for x in formula(parameter, gradient, first, second, 0.3, 2)]
        numbers = [np.asarray(x) for x in made.scalars(0.3, 2)]
        buffers = [np.empty(5, dtype) for dtype in made.code.temporaries.values()]
        made.update(
            parameter, gradient, first, second, *numbers, *map(np.asarray, made.code.constants.values()), *buffers
        )
    for got, wanted in zip((parameter, first, second), expected, strict=True):
        assert np.allclose(got, wanted, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert np.array_equal(gradient, given_gradient)


def test_where_is_allowed_in_a_formula():
    class Clipped(optim.Optimizer):
        @staticmethod
        def formula(parameter, gradient, learning_rate, step):
            return (np.where(gradient > 0, parameter - learning_rate * gradient, parameter),)

    p = tg.Parameter([1.0, 1.0])
    p.grad = np.array([1.0, -1.0], np.float32)
    Clipped([p], 0.5).step()
    assert p.data.tolist() == [0.5, 1.0]
