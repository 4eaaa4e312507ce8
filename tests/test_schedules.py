"""Schedules: against closed forms and recurrences written out here, and how they combine and resume."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import optim

rates = st.floats(1e-6, 10)
factors = st.floats(0.01, 1)
lengths = st.integers(1, 40)
steps = st.integers(0, 200)


@given(rates, factors, lengths, steps)
def test_step_decay(rate, factor, every, step):
    expected = rate
    for t in range(1, step + 1):
        if t % every == 0:
            expected *= factor
    assert math.isclose(optim.step_decay(rate, every=every, factor=factor)(step), expected, rel_tol=1e-9)


@given(rates, factors, st.lists(st.integers(0, 60), max_size=5), steps)
def test_step_decay_at_milestones(rate, factor, places, step):
    expected = rate * factor ** sum(place <= step for place in places)
    assert math.isclose(optim.step_decay(rate, at=sorted(places), factor=factor)(step), expected)


@given(rates, factors, lengths, steps)
def test_exponential(rate, factor, every, step):
    schedule = optim.exponential(rate, factor, every)
    assert schedule(0) == rate
    assert math.isclose(schedule(step + every), factor * schedule(step), rel_tol=1e-9)
    assert math.isclose(schedule(step + 1) ** every, factor * schedule(step) ** every, rel_tol=1e-6, abs_tol=1e-280)


@given(st.dictionaries(st.integers(0, 50), rates, min_size=1, max_size=6), st.floats(-5, 60))
def test_linear(points, step):
    points = dict(sorted(points.items()))
    expected = np.interp(step, list(points), list(points.values()))
    assert math.isclose(optim.linear(points)(step), expected, rel_tol=1e-9)


@given(rates, factors, lengths, steps)
def test_cosine(rate, fraction, length, step):
    low = rate * fraction
    schedule = optim.cosine(rate, length, minimum=low)
    expected = low + (rate - low) * math.cos(math.pi / 2 * min(step, length) / length) ** 2
    assert math.isclose(schedule(step), expected, rel_tol=1e-9)


@given(rates, factors, lengths, st.integers(1, 3), steps)
def test_cosine_with_restarts(rate, fraction, length, growth, step):
    """Equation 5 of Loshchilov and Hutter 2017, with T_cur counted step by step."""
    low, T_cur, T_i = rate * fraction, 0, length
    for _ in range(step):
        T_cur += 1
        if T_cur == T_i:
            T_cur, T_i = 0, T_i * growth
    expected = low + 0.5 * (rate - low) * (1 + math.cos(math.pi * T_cur / T_i))
    assert math.isclose(optim.cosine_with_restarts(rate, length, growth, minimum=low)(step), expected, rel_tol=1e-9)


@given(rates, st.integers(20, 200), st.floats(0, 0.5))
def test_one_cycle(rate, length, tail):
    schedule = optim.one_cycle(rate, length, tail=tail)
    values = [schedule(step) for step in range(length + 1)]
    back = round(length * (1 - tail))
    assert max(values) <= rate
    assert values[0] == rate / 10
    assert math.isclose(values[back], rate / 10)
    assert math.isclose(values[-1], rate / 10_000 if back < length else rate / 10)
    top = back // 2
    assert math.isclose(values[top], rate, rel_tol=0.1)
    rises, falls = np.diff(values[: top + 1]), np.diff(values[top + 1 : back + 1])
    assert np.allclose(rises, rises[0])  # straight lines
    assert np.allclose(falls, falls[0])
    assert np.all(rises > 0)
    assert np.all(np.diff(values[top + 1 :]) < 0)
    assert schedule(length + 5) == values[-1]


@given(lengths, steps, rates)
def test_warm_up(length, step, rate):
    after = optim.exponential(rate, 0.5, every=7)
    schedule = optim.warm_up(length, then=after)
    if step >= length:
        assert schedule(step) == after(step - length)
    else:
        assert 0 < schedule(step) < schedule(step + 1)
        assert math.isclose(schedule(step), rate * (step + 1) / (length + 1))
    assert optim.warm_up(length, then=rate)(length + step) == rate


@given(st.lists(st.integers(1, 9), max_size=4), steps)
def test_joined(gaps, step):
    starts = [0, *np.cumsum(gaps).tolist()]
    parts = {start: (lambda s, i=i: 100.0 * i + s) for i, start in enumerate(starts)}
    i = max(k for k, start in enumerate(starts) if start <= step)
    assert optim.joined(parts)(step) == 100.0 * i + step - starts[i]


def test_schedules_combine():
    schedule = optim.warm_up(2, then=optim.joined({0: 1.0, 3: optim.cosine(1.0, 2)}))
    assert np.allclose([schedule(s) for s in range(9)], [1 / 3, 2 / 3, 1, 1, 1, 1, 0.5, 0, 0])
    halved = lambda step: 0.5 * schedule(step)
    p, q = tg.Parameter([1.0]), tg.Parameter([1.0])
    optimizer = optim.SGD([{"parameters": [p]}, {"parameters": [q], "learning_rate": halved}], schedule)
    for step in range(9):
        assert optimizer.learning_rate == schedule(step)
        p.grad = q.grad = np.ones(1, np.float32)
        optimizer.step()
    total = sum(schedule(s) for s in range(9))
    assert np.allclose([p.item(), q.item()], [1 - total, 1 - total / 2], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.step_decay(0.1), "either every="),
        (lambda: optim.step_decay(0.1, every=2, at=[1]), "either every="),
        (lambda: optim.step_decay(0.1, at=[3, 1]), "ascending"),
        (lambda: optim.step_decay(-0.1, every=3), "learning_rate=-0.1"),
        (lambda: optim.step_decay(0.1, every=0), "every=0"),
        (lambda: optim.exponential(0.1, float("nan")), "factor=nan"),
        (lambda: optim.linear({}), "at least one"),
        (lambda: optim.linear({3: 1.0, 1: 2.0}), "ascending"),
        (lambda: optim.cosine(0.1, 2.5), "steps=2.5"),
        (lambda: optim.cosine("0.1", 2), "learning_rate='0.1'"),
        (lambda: optim.cosine_with_restarts(0.1, 5, growth=0), "growth=0"),
        (lambda: optim.one_cycle(0.1, 10, tail=1.0), "tail=1.0"),
        (lambda: optim.one_cycle(0.1, 1, tail=0.9), "smaller tail"),
        (lambda: optim.warm_up(0, then=0.1), "steps=0"),
        (lambda: optim.warm_up(5, then="cosine"), "learning_rate='cosine'"),
        (lambda: optim.joined({1: 0.1}), "first must start at 0"),
        (lambda: optim.ReduceOnPlateau(0.1, factor=1.0), "factor=1.0"),
        (lambda: optim.ReduceOnPlateau(0.1, patience=-1), "patience=-1"),
        (lambda: optim.ReduceOnPlateau(-0.1), "learning_rate=-0.1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


FOREVER = {
    "step_decay": optim.step_decay(0.1, every=3),
    "growing step_decay": optim.step_decay(0.1, every=3, factor=2.0),
    "places": optim.step_decay(0.1, at=[1, 2], factor=1e300),
    "exponential": optim.exponential(0.1, 0.9),
    "growing exponential": optim.exponential(0.1, 1.1, every=2),
    "zero": optim.exponential(0.0, 1.1),
    "linear": optim.linear({0: 1.0, 10: 0.5}),
    "cosine": optim.cosine(0.1, 10),
    "restarts": optim.cosine_with_restarts(0.1, 10),
    "growing restarts": optim.cosine_with_restarts(0.1, 10, growth=2),
    "one_cycle": optim.one_cycle(0.1, 10),
    "warm_up": optim.warm_up(5, optim.cosine(0.1, 10)),
    "joined": optim.joined({0: 0.1, 5: optim.exponential(0.1, 2.0)}),
}


@pytest.mark.parametrize("name", FOREVER)
@pytest.mark.parametrize("step", [10**4, 10**9, 2**53, 10**400], ids=lambda n: f"1e{len(str(n)) - 1}")
def test_a_schedule_has_a_value_at_every_step(name, step):
    value = FOREVER[name](step)
    assert value >= 0  # no NaN, no OverflowError; what grows without bound may be inf, which optimizers refuse


# -- reduce on plateau


def by_the_book(metrics, rate, factor, patience, cooldown, minimum):
    """What the docstring says, told with lists: the evaluations since the last improvement or end of a rest."""
    result, best, row, rest = [], math.inf, [], 0
    for m in metrics:
        better = m < best - 0.1 * abs(best) if math.isfinite(best) else m < best
        row = [] if better else [*row, m]
        best = m if better else best
        if rest:
            rest, row = rest - 1, []
        if len(row) > patience:
            rate, row, rest = (max(rate * factor, minimum) if rate > minimum else rate), [], cooldown
        result.append(rate)
    return result


metrics = st.lists(
    st.floats(-3, 3).map(lambda x: round(x, 1)) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=40
)


@given(metrics, st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 0.2]), st.booleans())
def test_reduce_on_plateau(metrics, patience, cooldown, minimum, higher):
    options = {"factor": 0.5, "patience": patience, "cooldown": cooldown, "minimum": minimum}
    plateau = optim.ReduceOnPlateau(1.0, **options, threshold=0.1, higher_is_better=higher)
    got = [plateau(-m if higher else m) for m in metrics]
    assert got == by_the_book(metrics, 1.0, **options)
    assert plateau.learning_rate == (got or [1.0])[-1]


@given(metrics, metrics, st.booleans())
def test_reduce_on_plateau_resumes(before, after, higher):
    make = lambda: optim.ReduceOnPlateau(1.0, factor=0.5, patience=1, cooldown=1, higher_is_better=higher)
    one, other = make(), make()
    for m in before:
        one(m)
    for m in after[:2]:
        other(m)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert [one(m) for m in after] == [other(m) for m in after]


def test_reduce_on_plateau_by_absolute_difference_and_bad_states():
    plateau = optim.ReduceOnPlateau(1.0, factor=0.5, patience=0, threshold=0.25, absolute=True)
    assert [plateau(tg.Tensor(m)) for m in (1.0, 0.75, 0.5, 0.25)] == [1.0, 0.5, 0.5, 0.25]
    before = plateau.state_dict()
    for key, value in (("best", "low"), ("waited", -1), ("resting", 0.5), ("learning_rate", None), ("extra", 1)):
        with pytest.raises(ValueError, match="ReduceOnPlateau"):
            plateau.load_state_dict({**before, key: value})
    with pytest.raises(ValueError, match="lacks 'best'"):
        plateau.load_state_dict({k: v for k, v in before.items() if k != "best"})
    assert plateau.state_dict() == before
    p = tg.Parameter([1.0])
    optimizer = optim.SGD([p], 1.0)
    optimizer.learning_rate = plateau(9.0)
    assert optimizer.learning_rate == 0.125
