"""Softmax, cross entropy and its gradient in a compiled training step."""

from __future__ import annotations

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import tinygrad_mm as tg


def classifier(classes: int, dtype: type = np.float32) -> tg.nn.Module:
    return tg.nn.Dense(3, classes, rng=0).to(dtype)


def one_step(model, x, y, optimizer, rate):
    """The loss before, and the parameters after a compiled step, and by formulas in double precision (of descent)."""
    weight, bias = (p.data.astype(np.float64) for p in model.parameters())
    step = tg.compile_step(model, tg.cross_entropy, optimizer)
    loss = step(x, y)
    z = x.astype(np.float64) @ weight + bias
    z -= z.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    rows = np.arange(len(y))
    expected = -np.log(p[rows, y.astype(int)]).mean()
    p[rows, y.astype(int)] -= 1
    p *= rate / len(y)
    return loss, expected, (weight - x.T @ p, bias - p.sum(0))


@given(
    classes=st.integers(1, 18),
    n=st.integers(1, 40),
    dtype=st.sampled_from([np.float32, np.float64]),
    labels=st.sampled_from([np.int64, np.int32, np.uint8, np.int8]),
    rate=st.sampled_from([0.5, 1e-3, 1e-12]),
    spread=st.sampled_from([1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_a_step_of_descent_is_what_the_formulas_say(classes, n, dtype, labels, rate, spread, seed):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, 3)) * spread).astype(dtype)
    y = rng.integers(0, classes, n).astype(labels)
    model = classifier(classes, dtype)
    loss, expected, after = one_step(model, x, y, tg.optim.SGD(model.parameters(), rate), rate)
    rounding = 1e-4 if dtype == np.float32 else 1e-10
    assert loss == pytest.approx(expected, rel=rounding, abs=rounding)
    for parameter, wanted in zip(model.parameters(), after, strict=True):
        np.testing.assert_allclose(parameter.data, wanted, rtol=rounding, atol=rounding * spread)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_many_compiled_steps_are_eager_steps(name, classes):
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((8, 3), np.float32), rng.integers(0, classes, 8)) for _ in range(5)]
    compiled = classifier(classes)
    eager = copy.deepcopy(compiled)
    step = tg.compile_step(compiled, tg.cross_entropy, getattr(tg.optim, name)(compiled.parameters(), 0.05))
    optimizer = getattr(tg.optim, name)(eager.parameters(), 0.05)
    for x, y in batches * 4:
        loss = tg.cross_entropy(eager(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert step(x, y) == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(compiled.parameters(), eager.parameters(), strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", range(1, 6))
def test_labels_are_what_is_read_as_labels(layers):
    """Cross entropy is taken apart, then the calls inside it: what was replaced lends its id to no other Value."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4), np.float32), rng.integers(0, 3, 8)
    for _ in range(5):
        hidden = [tg.nn.Dense(4, 4, activation, rng=0) for activation in ["tanh", "relu"] * layers]
        model = tg.nn.Sequential(*hidden[:layers], tg.nn.Dense(4, 3, rng=1))
        step = tg.compile_step(model, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1))
        step(x, y)
        assert "equal(y_view, " in step.source
        assert "ravel_multi_index((y, " in step.source


OUTSIDE = {
    np.int64: [-1, 3, -(2**63), 2**63 - 1, -(2**62), 2**40],
    np.int32: [-1, 3, -(2**31), 2**31 - 1],
    np.int8: [-128, -3, 4, 127],
    np.uint8: [3, 255],
}


@pytest.mark.parametrize(("dtype", "label"), [(d, label) for d, labels in OUTSIDE.items() for label in labels])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_label_out_of_range_raises_and_changes_nothing(name, dtype, label):
    model = classifier(3)
    step = tg.compile_step(model, tg.cross_entropy, getattr(tg.optim, name)(model.parameters(), 0.1))
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 2, 0], dtype)
    step(x, y)
    before = [p.data.copy() for p in model.parameters()]
    y[2] = label
    with pytest.raises(ValueError, match=r"label is out of range; for n classes labels lie between 0 and n - 1"):
        step(x, y)
    for p, was in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, was)


def test_labels_may_be_a_column_of_something():
    model = classifier(3)
    twin = copy.deepcopy(model)
    x, table = np.ones((4, 3), np.float32), np.array([[0, 7], [1, 7], [2, 7], [1, 7]])
    for one, y in ((model, table[:, 0]), (twin, table[:, 0].copy())):
        tg.compile_step(one, tg.cross_entropy, tg.optim.SGD(one.parameters(), 0.1))(x, y)
    np.testing.assert_array_equal(model.weight.data, twin.weight.data)


def test_an_infinite_logit_elsewhere_leaves_the_loss_finite():
    model = classifier(3)
    model.bias.data[:] = [0, -np.inf, 0]
    step = tg.compile_step(model, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1))
    model.weight.data[:] = 0
    with np.errstate(invalid="ignore"):  # infinity is multiplied by 0 before it is noticed
        assert step(np.ones((2, 3), np.float32), np.array([0, 2])) == pytest.approx(np.log(2))


@pytest.mark.parametrize("rates", [(0.0, 0.1), (0.1, 0.0, 0.1), (0.1, 1e-30, 0.2)])
def test_a_learning_rate_of_zero_changes_nothing(rates):
    """A warm-up begins with it, and nothing may be divided by it: no warnings, and bits as they are."""
    model = classifier(3)
    model.weight.data[0] = 0
    optimizer = tg.optim.SGD(model.parameters(), 1.0)
    step = tg.compile_step(model, tg.cross_entropy, optimizer)
    x, y = np.ones((4, 3), np.float32) * 200, np.array([0, 1, 2, 0])  # some exponentials are 0
    for rate in rates:
        optimizer.learning_rate = rate
        before = [p.data.copy() for p in model.parameters()]
        assert np.isfinite(step(x, y))
        for p, was in zip(model.parameters(), before, strict=True):
            assert np.isfinite(p.data).all()
            assert np.array_equal(p.data, was) == (rate < 1e-20)


def test_the_gradient_of_a_scaled_loss_is_scaled_too():
    model = classifier(3)
    twin = copy.deepcopy(model)
    x, y = np.ones((4, 3), np.float32), np.array([0, 1, 2, 0])
    step = tg.compile_step(model, lambda z, y: 3 * tg.cross_entropy(z, y), tg.optim.SGD(model.parameters(), 0.1))
    loss = step(x, y)
    other = tg.compile_step(twin, tg.cross_entropy, tg.optim.SGD(twin.parameters(), 0.3))
    assert loss == pytest.approx(3 * other(x, y), rel=1e-6)
    np.testing.assert_allclose(model.weight.data, twin.weight.data, rtol=1e-5, atol=1e-6)
