"""Optimizers: each against its paper's update, computed independently in float64; and how they hold parameters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import optim
from tinygrad_mm.optim import optimizer as runner


def sgd(w, g, state, t, learning_rate=1e-3, momentum=0.0, weight_decay=0.0, nesterov=False):
    g = g + weight_decay * w
    v = state["v"] = momentum * state.get("v", 0.0) + g
    return w - learning_rate * (g + momentum * v if nesterov else v)


def adam(w, g, state, t, learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0):
    """Algorithm 1 of Kingma and Ba 2015, to the letter."""
    g = g + weight_decay * w
    m = state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return w - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)


CASES = [
    (optim.SGD, sgd, {"learning_rate": 0.1}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "weight_decay": 0.1}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"learning_rate": 0.02, "betas": (0.8, 0.95), "epsilon": 1e-4}),
    (optim.Adam, adam, {"weight_decay": 0.1}),
]
SHAPES = [(3, 4), (), (5,), (0, 2), (7, 1)]


def parameters(shapes=SHAPES, dtype=np.float64, seed=0):
    r = np.random.default_rng(seed)
    return [tg.Parameter(r.standard_normal(s).astype(dtype), dtype=dtype) for s in shapes]


def follow(kind, formula, options, ps, steps, block=None):
    """Train with the optimizer and with the formula, side by side."""
    expected = [p.data.copy().astype(np.float64) for p in ps]
    states = [{} for _ in ps]
    optimizer = kind(ps, **options)
    r = np.random.default_rng(1)
    for t in range(1, steps + 1):
        for i, p in enumerate(ps):
            g = r.standard_normal(p.shape)
            p.grad = g.astype(p.dtype)
            expected[i] = formula(expected[i], p.grad.astype(np.float64), states[i], t, **options)
        optimizer.step()
    return expected


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
@pytest.mark.parametrize("block", [4, 1 << 15])
def test_optimizer_follows_its_paper(kind, formula, options, dtype, tolerance, block, monkeypatch):
    monkeypatch.setattr(runner, "BLOCK", block)
    ps = parameters(dtype=dtype)
    expected = follow(kind, formula, options, ps, steps=7)
    for p, e in zip(ps, expected, strict=True):
        assert p.dtype == dtype
        assert np.allclose(p.data, e, rtol=tolerance, atol=tolerance)


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    block=st.integers(1, 40),
    skipped=st.sets(st.integers(0, 5)),
    case=st.sampled_from(CASES),
)
def test_any_shapes_any_blocks_and_skipped_parameters(shapes, block, skipped, case):
    kind, formula, options = case
    before = runner.BLOCK
    runner.BLOCK = block
    try:
        ps = parameters(shapes)
        expected = [p.data.copy() for p in ps]
        states, counts = [{} for _ in ps], [0] * len(ps)
        optimizer = kind(ps, **options)
        r = np.random.default_rng(1)
        for step in range(4):
            for i, p in enumerate(ps):
                p.grad = None
                if i in skipped and step % 2:
                    continue
                p.grad = r.standard_normal(p.shape)
                counts[i] += 1
                expected[i] = formula(expected[i], p.grad, states[i], counts[i], **options)
            optimizer.step()
        for p, e in zip(ps, expected, strict=True):
            assert np.allclose(p.data, e, rtol=1e-12, atol=1e-12)
    finally:
        runner.BLOCK = before


def test_learning_rate_may_change_between_steps():
    p, q = tg.Parameter([1.0]), tg.Parameter([1.0])
    optimizer = optim.SGD([{"parameters": [p]}, {"parameters": [q], "learning_rate": 0.5}], learning_rate=0.1)
    p.grad = q.grad = np.ones(1, np.float32)
    optimizer.step()
    assert np.allclose([p.item(), q.item()], [0.9, 0.5])
    optimizer.learning_rate = 0.2
    optimizer.step()
    assert np.allclose([p.item(), q.item()], [0.7, 0.3])
    optimizer.groups[1]["learning_rate"] = 0.0
    optimizer.step()
    assert np.allclose([p.item(), q.item()], [0.5, 0.3])
    optimizer.groups[0]["weight_decay"] = 1.0
    optimizer.step()
    assert np.allclose(p.item(), 0.5 - 0.2 * (1 + 0.5))


def test_parameters_without_gradient_are_skipped_whole():
    p, q = tg.Parameter([1.0]), tg.Parameter([1.0])
    optimizer = optim.Adam([p, q], learning_rate=0.1, weight_decay=0.5)
    p.grad = np.ones(1, np.float32)
    optimizer.step()
    assert q.item() == 1.0
    assert optimizer.state_of(q)["step"] == 0
    assert optimizer.state_of(p)["step"] == 1
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.step()
    assert optimizer.state_of(p)["step"] == 1


def test_data_set_in_place_and_anew():
    p = tg.Parameter([1.0, 2.0])
    optimizer = optim.SGD([p], learning_rate=1.0, momentum=0.5)
    p.grad = np.ones(2, np.float32)
    optimizer.step()
    p.data = np.array([5.0, 6.0], np.float32)
    optimizer.step()
    assert np.allclose(p.data, [3.5, 4.5])
    p.value = np.array([1.0, 1.0], np.float32)  # another array altogether
    optimizer.step()
    assert np.allclose(p.data, 1 - 1.75)
    p.data = np.array([1.0, 1.0], np.float64)  # another dtype: adopted again, the state follows
    p.grad = np.ones(2)
    optimizer.step()
    assert p.dtype == np.float64
    assert np.allclose(p.data, 1 - 1.875)


def test_two_optimizers_over_one_parameter():
    p = tg.Parameter([1.0, 1.0])
    first, second = optim.SGD([p], 0.1), optim.SGD([p], 0.2)
    for _ in range(3):
        p.grad = np.ones(2, np.float32)
        first.step()
        second.step()
    assert np.allclose(p.data, 1 - 3 * 0.3)


def test_gradients_of_other_kinds():
    p = tg.Parameter(np.ones((2, 3), np.float32))
    optimizer = optim.SGD([p], 1.0)
    p.grad = np.arange(6.0).reshape(3, 2).T  # float64, not contiguous
    optimizer.step()
    assert np.allclose(p.data, 1 - np.arange(6.0).reshape(3, 2).T)
    p.grad = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) has shape \(3,\)"):
        optimizer.step()


def test_gradient_arrays_are_left_alone():
    p = tg.Parameter(np.ones(5, np.float32))
    p.grad = g = np.ones(5, np.float32)
    for kind in (optim.SGD, optim.Adam):
        kind([p], 0.1).step()
        assert g.tolist() == [1] * 5
        assert p.grad is g


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD([], 0.1), "no parameters"),
        (lambda p: optim.SGD([p, p], 0.1), "given to the optimizer twice"),
        (lambda p: optim.SGD([p], -0.1), "must not be negative"),
        (lambda p: optim.SGD([p], float("nan")), "must not be negative"),
        (lambda p: optim.SGD([p], 0.1, momentum=1.0), "momentum=1.0"),
        (lambda p: optim.SGD([p], 0.1, weight_decay=-1), "weight_decay"),
        (lambda p: optim.SGD([p], 0.1, nesterov=True), "needs a momentum"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), "betas"),
        (lambda p: optim.Adam([p], epsilon=-1), "epsilon"),
        (lambda p: optim.Adam([p], weight_decay=-1), "weight_decay"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make(tg.Parameter([1.0]))


def test_bad_parameters():
    p = tg.Parameter([1.0])
    with pytest.raises(TypeError, match="tensor that was computed"):
        optim.SGD([p * 2], 0.1)
    with pytest.raises(TypeError, match="a float"):
        optim.SGD([1.0], 0.1)
    with pytest.raises(TypeError, match="int64"):
        optim.SGD([tg.Tensor([1])], 0.1)
    with pytest.raises(KeyError, match="not a parameter of this optimizer"):
        optim.SGD([p], 0.1).state_of(tg.Parameter([1.0]))


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
    assert p.tolist() == [1.0, -0.5]
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


def test_where_is_allowed_in_a_formula():
    class Clipped(optim.Optimizer):
        @staticmethod
        def formula(parameter, gradient, learning_rate, step):
            return (np.where(gradient > 0, parameter - learning_rate * gradient, parameter),)

    p = tg.Parameter([1.0, 1.0])
    p.grad = np.array([1.0, -1.0], np.float32)
    Clipped([p], 0.5).step()
    assert p.tolist() == [0.5, 1.0]


def test_training_lowers_the_loss():
    r = np.random.default_rng(0)
    x = r.standard_normal((64, 5)).astype(np.float32)
    y = x[:, :3].argmax(1)
    for kind, rate in ((optim.SGD, 0.5), (optim.Adam, 0.05)):
        model = tg.nn.Sequential(tg.nn.Dense(5, 16, "tanh", rng=1), tg.nn.Dense(16, 3, rng=2))
        optimizer = kind(model.parameters(), rate)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = tg.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0]
