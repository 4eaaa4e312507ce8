"""Optimizers: each against its paper's update; and how they hold parameters."""

from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from update_rules import CASES, adamw, parameters

import tinygrad_mm as tg
from tinygrad_mm import optim
from tinygrad_mm.optim import flat as runner


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
    monkeypatch.setattr(runner, "EAGER_BLOCK", block)
    ps = parameters(dtype=dtype)
    expected = follow(kind, formula, options, ps, steps=7)
    for p, e in zip(ps, expected, strict=True):
        assert p.dtype == dtype
        assert np.allclose(p.data, e, rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:.* nothing was changed")
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    block=st.integers(1, 40),
    skipped=st.sets(st.integers(0, 5)),
    case=st.sampled_from(CASES),
)
def test_any_shapes_any_blocks_and_skipped_parameters(shapes, block, skipped, case):
    kind, formula, options = case
    before = runner.EAGER_BLOCK
    runner.EAGER_BLOCK = block
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
        runner.EAGER_BLOCK = before


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
    with pytest.warns(UserWarning, match="nothing was changed"):
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
    for kind in (optim.SGD, optim.Adagrad, optim.RMSprop, optim.Adam, optim.AdamW, optim.Lion):
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
        (lambda p: optim.Adam([p], betas=0.9), r"betas=0.9 .* 2 numbers"),
        (lambda p: optim.Adam([p], learning_rate="fast"), "learning_rate=fast"),
        (lambda p: optim.AdamW([p], weight_decay=-1), "AdamW: weight_decay"),
        (lambda p: optim.Lion([p], betas=(0.9, 0.9, 0.9)), r"betas=.* 2 numbers"),
        (lambda p: optim.RMSprop([p], smoothing=1.0), "smoothing"),
        (lambda p: optim.RMSprop([p], momentum=-0.1), "momentum"),
        (lambda p: optim.Adagrad([p], epsilon=float("inf")), "epsilon"),
        (lambda p: optim.SGD([p], learning_rate=lambda step: -1.0), "learning_rate=-1.0"),
        (lambda p: optim.SGD([{"learning_rate": 0.1}]), "a group is a dict"),
        (lambda p: optim.SGD([{"parameters": []}]), "no parameters"),
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


def test_training_lowers_the_loss():
    r = np.random.default_rng(0)
    x = r.standard_normal((64, 5)).astype(np.float32)
    y = x[:, :3].argmax(1)
    for kind, rate in (
        (optim.SGD, 0.5),
        (optim.Adagrad, 0.2),
        (optim.RMSprop, 0.02),
        (optim.Adam, 0.05),
        (optim.AdamW, 0.05),
        (optim.Lion, 0.02),
    ):
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


# -- groups, frozen parameters, options


def test_groups_have_options_of_their_own():
    r = np.random.default_rng(2)
    ps = parameters([(3,), (2, 2), (4,)])
    rates, decays = [0.1, 0.01, 0.001], [0.0, 0.5, 0.25]
    optimizer = optim.AdamW(
        [{"parameters": [ps[0]]}, {"parameters": ps[1], "learning_rate": 0.01, "weight_decay": 0.5}],
        0.1,
        weight_decay=0.0,
    )
    optimizer.add_group({"parameters": iter([ps[2]]), "learning_rate": 0.001, "weight_decay": 0.25})
    expected, states = [p.data.copy() for p in ps], [{} for _ in ps]
    for t in range(1, 5):
        for i, p in enumerate(ps):
            p.grad = r.standard_normal(p.shape)
            expected[i] = adamw(expected[i], p.grad, states[i], t, learning_rate=rates[i], weight_decay=decays[i])
        optimizer.step()
    for p, e in zip(ps, expected, strict=True):
        assert np.allclose(p.data, e, rtol=1e-12)
    assert optimizer.groups[2]["betas"] == (0.9, 0.999)
    assert [id(p) for p in optimizer.parameters] == [id(p) for p in ps]


def test_a_group_may_join_later_and_a_bad_one_changes_nothing():
    p, q = parameters([(2,), (2,)])
    optimizer = optim.Adam([p], 0.1)
    p.grad = q.grad = np.ones(2)
    optimizer.step()
    for bad, error, message in (
        ({"parameters": [p]}, ValueError, "twice"),
        ({"parameters": [q], "lr": 0.1}, TypeError, "no option 'lr'; its options are learning_rate, betas"),
        ({"parameters": [q], "epsilon": -1}, ValueError, "epsilon"),
        ({"parameters": [q, q]}, ValueError, "twice"),
    ):
        with pytest.raises(error, match=message):
            optimizer.add_group(bad)
    assert len(optimizer.groups) == 1
    optimizer.add_group({"parameters": [q]})
    before = q.data.copy()
    optimizer.step()
    assert np.allclose(q.data, before - 0.1)  # Adam's first step is the learning rate
    assert (optimizer.state_of(p)["step"], optimizer.state_of(q)["step"]) == (2, 1)


def test_frozen_parameters_are_skipped_whole():
    p, q = parameters([(2,), (3,)])
    optimizer = optim.Adam([p, q], 0.1, weight_decay=0.5)
    p.grad, q.grad = np.ones(2), np.ones(3)
    q.requires_grad_(False)
    before = q.data.copy()
    optimizer.step()
    assert np.array_equal(q.data, before)
    assert optimizer.state_of(q)["step"] == 0
    q.requires_grad_(True)
    optimizer.step()
    assert not np.array_equal(q.data, before)
    assert optimizer.state_of(q)["step"] == 1


def test_momentum_may_be_switched_on_and_options_may_be_numpy_numbers():
    p = tg.Parameter(np.ones(2))
    optimizer = optim.SGD([p], np.float32(0.5), weight_decay=np.float64(0.0))
    p.grad = np.ones(2)
    optimizer.step()
    optimizer.groups[0]["momentum"] = 0.5
    optimizer.step()
    optimizer.step()
    assert np.allclose(p.data, 1 - 0.5 * (1 + 1 + 1.5))
    assert type(optimizer.learning_rate) is float


def test_a_step_that_cannot_be_taken_changes_nothing():
    p, q = parameters([(2,), (3,)])
    optimizer = optim.SGD([{"parameters": [p]}, {"parameters": [q]}], 0.1)
    p.grad, q.grad = np.ones(2), np.ones(2)
    before = p.data.copy()
    with pytest.raises(ValueError, match=r"shape \(3,\) has shape \(2,\); set \.grad"):
        optimizer.step()
    q.grad = np.ones(3)
    optimizer.groups[1]["learning_rate"] = -1.0
    with pytest.raises(ValueError, match=r"learning_rate=-1\.0"):
        optimizer.step()
    assert np.array_equal(p.data, before)
    assert (optimizer.steps, optimizer.state_of(p)["step"]) == (0, 0)


def test_a_step_that_failed_while_it_was_planned(monkeypatch):
    p = tg.Parameter([1.0])
    optimizer = optim.SGD([p], 0.5)
    p.grad = np.ones(1, np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Run", None)
        with pytest.raises(TypeError):
            optimizer.step()
    optimizer.step()
    assert p.data.tolist() == [0.5]


def test_backward_through_a_graph_from_before_a_step_is_refused():
    p = tg.Parameter([1.0, 2.0])
    optimizer = optim.SGD([p], 0.1)
    loss = np.sum(p * p * p)
    p.grad = np.ones(2, np.float32)
    optimizer.step()
    with pytest.raises(RuntimeError, match="was changed after"):
        loss.backward()


def test_any_option_may_follow_a_schedule():
    p = tg.Parameter(np.ones(3))
    rate, beta = (lambda step: 0.1 / (step + 1)), (lambda step: 0.5 + 0.1 * step)
    optimizer = optim.AdamW([p], rate, betas=(beta, 0.99), weight_decay=lambda step: 0.1 * step)
    expected, m, v = p.data.copy(), 0.0, 0.0
    r = np.random.default_rng(0)
    for t in range(4):
        assert optimizer.learning_rate == rate(t)
        p.grad = g = r.standard_normal(3)
        m, v = beta(t) * m + (1 - beta(t)) * g, 0.99 * v + 0.01 * g**2
        m_hat, v_hat = m / (1 - beta(t) ** (t + 1)), v / (1 - 0.99 ** (t + 1))
        expected = expected - rate(t) * (m_hat / (np.sqrt(v_hat) + 1e-8) + 0.1 * t * expected)
        optimizer.step()
    assert np.allclose(p.data, expected, rtol=1e-12)
    assert "learning_rate=0.02 (scheduled)" in repr(optimizer)
    wrong = optim.SGD([p], 0.1, momentum=lambda step: 0.5 + step)
    wrong.step()
    with pytest.raises(ValueError, match=r"momentum=1.5 must lie in \[0, 1\)"):
        wrong.step()


def test_copies_train_on_their_own():
    p = tg.Parameter([1.0])
    optimizer = optim.Adam([p], 0.1)
    p.grad = np.ones(1, np.float32)
    optimizer.step()
    for other, q in (copy.deepcopy((optimizer, p)), pickle.loads(pickle.dumps((optimizer, p)))):
        assert other.parameters[0] is q
        value = q.item()
        q.grad = np.ones(1, np.float32)
        other.step()
        assert q.item() < value
        assert other.state_of(q)["step"] == 2
    assert optimizer.state_of(p)["step"] == 1
    assert np.isclose(p.item(), 0.9)


def test_gradients_and_groups_that_cannot_be_used_are_named():
    p, q = parameters([(2,), (2,)])
    optimizer = optim.SGD([p], 0.1)
    p.grad = tg.Tensor(np.ones(2))
    with pytest.raises(TypeError, match=r"is a Tensor; set \.grad to a NumPy array"):
        optimizer.step()
    p.grad = None
    optimizer.groups[0]["parameters"] = (q,)
    with pytest.raises(ValueError, match=r"optimizer\.add_group"):
        optimizer.step()


def test_centered_rmsprop_where_rounding_makes_the_variance_negative():
    p = tg.Parameter(np.zeros(1000, np.float32))
    optimizer = optim.RMSprop([p], smoothing=0.7, centered=True)
    p.grad = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    for _ in range(60):
        optimizer.step()
    assert np.all(np.isfinite(p.data))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["Adam", "RMSprop", "SGD"])
def test_states_do_not_become_denormal(name, fused, dtype):
    """A parameter whose gradient has become zero: its running means fall by a factor at each step."""
    if fused:
        pytest.importorskip("numba")
    p = tg.Parameter(np.ones(3, dtype))
    options = {"Adam": {}, "RMSprop": {"smoothing": 0.9, "momentum": 0.9}, "SGD": {"momentum": 0.9}}[name]
    optimizer = getattr(optim, name)([p], 1e-3, fused=fused, **options)
    tiny, seen = np.finfo(dtype).tiny, []
    for step in range(1200 if dtype == np.float32 else 8000):
        p.grad = np.full(3, 1e-6 if step == 0 else 0, dtype)
        optimizer.step()
        for state, values in optimizer.state_of(p).items():
            if state != "step":
                seen.append(np.any((values != 0) & (np.abs(values) < tiny)))
    assert not any(seen)
    decayed = optimizer.state_of(p)[{"Adam": "mean"}.get(name, "velocity")]
    assert not decayed.any()


HALF = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Lion"]


@pytest.mark.parametrize("compiled", ["", "numpy", "numba"])
@pytest.mark.parametrize("name", HALF)
def test_half_precision_follows_single_precision(name, compiled):
    """An epsilon of 1e-8, and the square of a gradient of 1e-4, are 0 in half precision: formulas have single precision."""
    if compiled == "numba":
        pytest.importorskip("numba")
    layers = [tg.nn.Linear(3, 2, rng=0).to(dtype) for dtype in (np.float16, np.float32)]
    x, y = np.random.default_rng(0).standard_normal((2, 4, 3))
    y = y[:, :2]
    steps = []
    for layer in layers:
        dtype = layer.weight.dtype
        optimizer = getattr(optim, name)(layer.parameters(), 1e-2)

        def loss(output, target):
            return np.mean((output - target) ** 2) * 1e-3

        compile_step = functools.partial(tg.compile_step, backend=compiled)
        step = compile_step(layer, loss, optimizer) if compiled else eager(layer, loss, optimizer)
        steps.append((step, x.astype(dtype), y.astype(dtype), optimizer))
    for _ in range(5):
        for step, a, b, _ in steps:
            step(a, b)
    for half, single in zip(*(layer.parameters() for layer in layers), strict=True):
        np.testing.assert_allclose(half.data, single.data, atol=6e-3)
    state = steps[0][-1].state_dict()
    assert {a.dtype for key, a in state["state"].items() if "step" not in key} <= {np.dtype(np.float32)}
    steps[0][-1].load_state_dict(state)


def eager(layer, loss, optimizer):
    def step(x, y):
        loss(layer(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("name", HALF)
def test_an_underflow_in_an_update_is_no_error(name):
    p = tg.Parameter(np.ones(3, np.float32))
    optimizer = getattr(optim, name)([p], 1e-3)
    gradients = np.array([1e-30, 1e-38, 0, 1e-44]).astype(np.float32)
    with np.errstate(all="raise"):
        for gradient in gradients:
            p.grad = np.repeat(gradient, 3)
            optimizer.step()
    assert optimizer.state_of(p)["step"] == 4
