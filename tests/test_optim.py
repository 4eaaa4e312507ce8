"""Optimizers: each against its paper's update, computed independently in float64; and how they hold parameters."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import optim
from tinygrad_mm.optim import clipping
from tinygrad_mm.optim import flat as runner
from tinygrad_mm.optim.formula import trace_formula
from tinygrad_mm.weights import load, save


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


def adagrad(w, g, state, t, learning_rate=1e-2, epsilon=1e-10, weight_decay=0.0):
    """Duchi et al. 2011, diagonal form."""
    g = g + weight_decay * w
    total = state["total"] = state.get("total", 0.0) + g**2
    return w - learning_rate * g / (np.sqrt(total) + epsilon)


def rmsprop(
    w, g, state, t, learning_rate=1e-2, smoothing=0.99, epsilon=1e-8, weight_decay=0.0, momentum=0.0, centered=False
):
    """Tieleman and Hinton 2012; centered as in Graves 2013, momentum and the place of epsilon as in PyTorch."""
    g = g + weight_decay * w
    square = state["square"] = smoothing * state.get("square", 0.0) + (1 - smoothing) * g**2
    mean = state["mean"] = smoothing * state.get("mean", 0.0) + (1 - smoothing) * g
    variance = np.maximum(square - mean**2, 0) if centered else square
    v = state["v"] = momentum * state.get("v", 0.0) + g / (np.sqrt(variance) + epsilon)
    return w - learning_rate * v


def adamw(w, g, state, t, learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=1e-2):
    """Algorithm 2 of Loshchilov and Hutter 2019, with eta = 1 and lambda = learning_rate * weight_decay."""
    m = state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return w - (learning_rate * m_hat / (np.sqrt(v_hat) + epsilon) + learning_rate * weight_decay * w)


def lion(w, g, state, t, learning_rate=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    """Algorithm 2 of Chen et al. 2023."""
    m = state.get("m", 0.0)
    c = betas[0] * m + (1 - betas[0]) * g
    state["m"] = betas[1] * m + (1 - betas[1]) * g
    return w - learning_rate * (np.sign(c) + weight_decay * w)


CASES = [
    (optim.SGD, sgd, {"learning_rate": 0.1}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "weight_decay": 0.1}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"learning_rate": 0.02, "betas": (0.8, 0.95), "epsilon": 1e-4}),
    (optim.Adam, adam, {"weight_decay": 0.1}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"learning_rate": 0.5, "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.RMSprop, rmsprop, {}),
    (optim.RMSprop, rmsprop, {"smoothing": 0.8, "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.RMSprop, rmsprop, {"momentum": 0.9}),
    (optim.RMSprop, rmsprop, {"smoothing": 0.8, "epsilon": 1e-2, "centered": True}),
    (optim.RMSprop, rmsprop, {"smoothing": 0.8, "epsilon": 1e-2, "centered": True, "momentum": 0.5}),
    (optim.AdamW, adamw, {}),
    (optim.AdamW, adamw, {"learning_rate": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.5}),
    (optim.AdamW, adamw, {"weight_decay": 0.0}),
    (optim.Lion, lion, {"learning_rate": 0.02}),
    (optim.Lion, lion, {"learning_rate": 0.02, "betas": (0.5, 0.75), "weight_decay": 0.5}),
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


# -- state


def rotated(kind, options, ps, schedule=None):
    """An optimizer with two groups, the second with a learning rate of its own."""
    groups = [{"parameters": ps[:2]}, {"parameters": ps[2:], "learning_rate": schedule or 0.05}]
    return kind(groups, **options)


def train(optimizer, ps, start, stop, skipped=()):
    for t in range(start, stop):
        r = np.random.default_rng(t)
        for i, p in enumerate(ps):
            p.grad = None if i in skipped and t % 3 else r.standard_normal(p.shape).astype(p.dtype)
        optimizer.step()


def through_a_file(state):
    """What a checkpoint does: arrays into safetensors, the rest into JSON."""
    arrays = {k: v for k, v in state["state"].items() if isinstance(v, np.ndarray)}
    rest = {k: v for k, v in state["state"].items() if k not in arrays}
    text = json.dumps([rest, state["options"]])
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/optimizer.safetensors", arrays)
        arrays = load(f"{folder}/optimizer.safetensors")
    rest, options = json.loads(text)
    return {"state": {**arrays, **rest}, "options": options}


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
@pytest.mark.parametrize("converted", [False, True])
def test_resuming_is_exact(kind, formula, options, converted):
    schedule = optim.cosine(0.1, steps=30)
    ps = parameters(dtype=np.float32)
    optimizer = rotated(kind, options, ps, schedule)
    train(optimizer, ps, 0, 10, skipped=(1, 2))
    if converted:  # another dtype in the middle: the arrays are not the optimizer's any more
        ps[0].data = ps[0].data.astype(np.float64)
        ps[3].data = ps[3].data.astype(np.float64)
    values, state = [p.data.copy() for p in ps], through_a_file(optimizer.state_dict())
    train(optimizer, ps, 10, 20, skipped=(1, 2))
    again = [tg.Parameter(v, dtype=v.dtype) for v in values]
    fresh = rotated(kind, options, again, schedule)
    train(fresh, again, 3, 5)  # whatever it did before is forgotten
    for p, v in zip(again, values, strict=True):
        p.data = v
    fresh.load_state_dict(state)
    train(fresh, again, 10, 20, skipped=(1, 2))
    assert fresh.steps == optimizer.steps == 20
    for p, q in zip(ps, again, strict=True):
        assert p.dtype == q.dtype
        assert p.data.tobytes() == q.data.tobytes()
        for name, value in optimizer.state_of(p).items():
            assert np.array_equal(value, fresh.state_of(q)[name])


def test_a_saved_state_is_a_copy_with_flat_names():
    ps = parameters([(2,), ()])
    optimizer = optim.Adam(ps, 0.1)
    train(optimizer, ps, 0, 2, skipped=(1,))
    state = optimizer.state_dict()
    assert list(state["state"]) == [f"{i}.{n}" for i in (0, 1) for n in ("step", "mean", "mean_square")]
    assert (state["state"]["0.step"], state["state"]["1.step"]) == (2, 1)
    assert state["options"] == {
        "optimizer": "Adam",
        "steps": 2,
        "groups": [
            {"parameters": 2, "learning_rate": 0.1, "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.0}
        ],
    }
    before = state["state"]["0.mean"].copy()
    train(optimizer, ps, 2, 4)
    assert np.array_equal(state["state"]["0.mean"], before)
    optimizer.load_state_dict(state)
    train(optimizer, ps, 2, 4)
    assert np.array_equal(state["state"]["0.mean"], before)


def test_loading_restores_options_but_not_schedules():
    ps = parameters([(2,)])
    first = optim.SGD(ps, 0.1, momentum=0.9)
    first.learning_rate = 0.025
    second = optim.SGD(ps, 0.1, momentum=0.5)
    second.load_state_dict(first.state_dict())
    assert (second.learning_rate, second.groups[0]["momentum"]) == (0.025, 0.9)
    scheduled = optim.SGD(ps, lambda step: 1.0 / (step + 1), momentum=0.9)
    for one, other in ((first, scheduled), (scheduled, first)):
        with pytest.raises(ValueError, match=r"'learning_rate'.*followed a schedule"):
            other.load_state_dict(one.state_dict())
    train(scheduled, ps, 0, 3)
    another = optim.SGD(ps, lambda step: 1.0 / (step + 1), momentum=0.9)
    another.load_state_dict(scheduled.state_dict())
    assert another.learning_rate == 0.25


def bad_states():
    def change(path, value):
        def apply(state):
            *way, last = path
            for key in way:
                state = state[key]
            if value is KeyError:
                del state[last]
            else:
                state[last] = value

        return apply

    return [
        (change(["state", "1.mean"], KeyError), "lacks '1.mean'"),
        (change(["state", "9.mean"], np.ones(2)), "has '9.mean' too"),
        (change(["state", "1.mean"], np.ones(7)), r"1.mean has shape \(7,\)"),
        (change(["state", "1.mean"], np.ones((2, 2), np.float32)), "dtype float32"),
        (change(["state", "1.mean"], [1.0]), "1.mean is a list"),
        (change(["state", "1.step"], -1), "1.step is -1"),
        (change(["state", "1.step"], 1.5), "1.step is 1.5"),
        (change(["state", "1.step"], True), "1.step is True"),
        (change(["state"], None), "state is a NoneType"),
        (change(["options"], KeyError), "lacks 'options'"),
        (change(["options", "optimizer"], "SGD"), "saved from 'SGD'"),
        (change(["options", "steps"], "3"), "steps is '3'"),
        (change(["options", "groups"], []), "are not 1"),
        (change(["options", "groups"], 5), "are not 1"),
        (change(["options", "groups", 0], []), "is a list"),
        (change(["options", "groups", 0, "parameters"], 3), "saved with 3 parameters and has 2"),
        (change(["options", "groups", 0, "epsilon"], KeyError), "lacks 'epsilon'"),
        (change(["options", "groups", 0, "epsilon"], -1.0), "epsilon=-1.0"),
        (change(["options", "groups", 0, "epsilon"], "1"), "no value like"),
        (change(["options", "groups", 0, "betas"], [0.9]), "no value like"),
        (change(["options", "groups", 0, "betas"], [0.9, 2.0]), "betas"),
        (change(["options", "groups", 0, "nesterov"], True), "has 'nesterov' too"),
    ]


@pytest.mark.parametrize(("change", "message"), bad_states())
def test_a_bad_state_changes_nothing(change, message):
    ps = parameters([(3,), (2, 2)])
    optimizer = optim.Adam(ps, 0.1)
    train(optimizer, ps, 0, 3)
    state = optimizer.state_dict()
    state["options"]["steps"], state["state"]["0.step"] = 8, 8
    state["options"]["groups"][0]["learning_rate"] = 0.5
    before = json.dumps(optimizer.state_dict(), default=lambda a: a.tolist())
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert json.dumps(optimizer.state_dict(), default=lambda a: a.tolist()) == before


# -- clipping


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    limit=st.floats(0.01, 20),
    block=st.integers(1, 7),
)
def test_clip_grad_norm(shapes, dtype, limit, block):
    ps = parameters(shapes, dtype)
    r = np.random.default_rng(0)
    for p in ps:
        p.grad = r.standard_normal(p.shape).astype(dtype)
    before = [p.grad.copy() for p in ps]
    arrays = [p.grad for p in ps]
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in before))
    old, clipping.BLOCK = clipping.BLOCK, block
    try:
        assert np.isclose(optim.clip_grad_norm(ps, limit), norm, rtol=1e-12)
    finally:
        clipping.BLOCK = old
    for p, g, array in zip(ps, before, arrays, strict=True):
        assert p.grad is array
        assert p.grad.dtype == dtype
        assert np.allclose(p.grad, g * min(1, limit / norm) if norm else g, rtol=2e-3 if dtype == np.float16 else 1e-6)


def test_clip_grad_norm_where_squares_are_too_large_for_float32():
    p = tg.Parameter(np.zeros(2, np.float32))
    p.grad = np.array([3e25, 4e25], np.float32)
    assert np.isclose(optim.clip_grad_norm([p], 1.0), 5e25)
    assert np.allclose(p.grad, [0.6, 0.8])


def test_clip_grad_norm_where_it_is_not_finite():
    p, q = tg.Parameter([1.0]), tg.Parameter([1.0, 1.0])
    p.grad, q.grad = np.ones(1, np.float32), np.array([1.0, np.nan], np.float32)
    assert np.isnan(optim.clip_grad_norm([p, q], 0.5))
    assert p.grad.item() == 1.0
    q.name = "weight"
    with pytest.raises(RuntimeError, match=r"gradient of weight \(shape \(2,\)\) has 1 elements"):
        optim.clip_grad_norm([p, q], 0.5, error_if_nonfinite=True)
    q.grad[1] = np.inf
    assert optim.clip_grad_norm([p, q], 0.5) == np.inf


def test_clip_grad_value():
    ps = parameters([(4,), ()], np.float16)
    ps[0].grad, ps[1].grad = np.array([-3, -0.5, np.nan, np.inf], np.float16), np.float16(7)
    optim.clip_grad_value(ps, 1e6)  # more than a float16 can be
    optim.clip_grad_value(ps, 2.0)
    assert np.array_equal(ps[0].grad, np.array([-2, -0.5, np.nan, 2], np.float16), equal_nan=True)
    assert ps[1].grad == 2
    assert ps[0].grad.dtype == ps[1].grad.dtype == np.float16


def test_clipping_shared_read_only_and_missing_gradients():
    p, q, r, s = (tg.Parameter([0.0, 0.0]) for _ in range(4))
    p.grad = q.grad = np.array([3.0, 4.0], np.float32)
    r.grad = np.broadcast_to(np.float32(0.0), (2,))
    assert np.isclose(optim.clip_grad_norm([p, q, r, s, p], np.sqrt(50) / 2), np.sqrt(50))
    assert np.allclose(p.grad, [1.5, 2.0])  # once, though two parameters hold it
    assert s.grad is None
    model = tg.nn.Dense(2, 2, rng=0)
    for whole in (model, optim.SGD(model.parameters(), 0.1), model.weight):
        assert optim.clip_grad_norm(whole, 1.0) == 0.0
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be a positive number"):
            optim.clip_grad_norm([p], wrong)
        with pytest.raises(ValueError, match="must be a positive number"):
            optim.clip_grad_value([p], wrong)
    with pytest.raises(TypeError, match="hold a int"):
        optim.clip_grad_norm([1], 1.0)


# -- averages of weights


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_exponential_moving_average(dtype):
    ps = parameters(dtype=dtype)
    expected = [p.data.astype(np.float64) for p in ps]
    average = optim.ExponentialMovingAverage(ps, decay=lambda n: min(0.9, (1 + n) / (10 + n)))
    for t in range(5):
        for i, p in enumerate(ps):
            p.data = np.asarray(p.data + (i + t), dtype)
            decay = min(0.9, (1 + t) / (10 + t))
            expected[i] = decay * expected[i] + (1 - decay) * p.data
        average.update()
    weights = [p.data.copy() for p in ps]
    with average.swapped():
        for p, e in zip(ps, expected, strict=True):
            assert p.dtype == dtype
            assert np.allclose(p.data, e, rtol={2: 2e-3, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize])
    assert all(np.array_equal(p.data, w) for p, w in zip(ps, weights, strict=True))


def test_swapped_gives_the_weights_back_whatever_happens():
    model = tg.nn.Dense(3, 2, rng=0)
    optimizer = optim.SGD(model.parameters(), 0.1)
    average = optim.ExponentialMovingAverage(model, decay=0.5)
    train(optimizer, model.parameters(), 0, 2)
    average.update()
    before = [p.data.copy() for p in model.parameters()]
    arrays = [p.value for p in model.parameters()]

    def spoil():
        with average.swapped():
            with pytest.raises(RuntimeError, match="leave that block first"), average.swapped():
                pass
            with pytest.raises(RuntimeError, match="call it outside"):
                average.update()
            train(optimizer, model.parameters(), 0, 1)
            model.weight.data = np.zeros(5)
            raise KeyError("oops")

    averages = average.state_dict()
    with pytest.raises(KeyError, match="oops"):
        spoil()
    for p, b in zip(model.parameters(), before, strict=True):
        assert p.data.tobytes() == b.tobytes()
        assert p.dtype == b.dtype
    assert all(np.array_equal(a, averages["state"][k]) for k, a in average.state_dict()["state"].items())
    with average.swapped():
        pass
    assert model.bias.value is arrays[1]  # still the optimizer's own
    train(optimizer, model.parameters(), 0, 1)
    assert not np.array_equal(model.weight.data, before[0])


def test_swapping_counts_as_a_change():
    p = tg.Parameter([1.0, 2.0])
    average = optim.ExponentialMovingAverage([p])
    loss = np.sum(p * p)
    with average.swapped(), pytest.raises(RuntimeError, match="was changed after"):
        loss.backward()
    with average.swapped():
        inside = np.sum(p * p)
    with pytest.raises(RuntimeError, match="was changed after"):
        inside.backward()


def test_averages_are_saved_and_follow_conversions():
    ps = parameters([(2,), (3,)], np.float32)
    average = optim.ExponentialMovingAverage(ps, decay=0.5)
    ps[0].data = ps[0].data.astype(np.float64) + 1
    average.update()
    state = average.state_dict()
    assert [a.dtype for a in state["state"].values()] == [np.float64, np.float32]
    other = optim.ExponentialMovingAverage(ps, decay=0.5)
    other.load_state_dict(state)
    for one in (average, other):
        ps[0].data = np.ones(2)
        one.update()
    assert other.updates == 2
    for key, a in average.state_dict()["state"].items():
        assert np.array_equal(other.state_dict()["state"][key], a)
    good = other.state_dict()
    for bad in (
        {},
        {**state, "state": {}},
        {**state, "options": {"updates": -1}},
        {**state, "state": {"0": np.ones(2), "1": np.ones(3)}},
    ):
        with pytest.raises(ValueError, match="ExponentialMovingAverage"):
            other.load_state_dict(bad)
    assert all(np.array_equal(good["state"][k], a) for k, a in other.state_dict()["state"].items())
    ps[1].data = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=r"now has shape \(4,\)"):
        average.update()
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            optim.ExponentialMovingAverage(ps, decay=wrong)
    with pytest.raises(ValueError, match="no parameters"):
        optim.ExponentialMovingAverage([])


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


def test_loaded_numbers_of_steps_count_at_once():
    ps = parameters([(2,), (2,)])
    first = optim.Adam(ps, 0.1)
    train(first, ps, 0, 3, skipped=(1,))
    state = first.state_dict()
    values = [p.data.copy() for p in ps]
    train(first, ps, 3, 4)
    others = parameters([(2,), (2,)])
    second = optim.Adam(others, 0.1)
    train(second, others, 0, 2)  # both parameters have a gradient now, as after loading
    for p, v in zip(others, values, strict=True):
        p.data = v
    second.load_state_dict(state)
    train(second, others, 3, 4)
    assert all(p.data.tobytes() == q.data.tobytes() for p, q in zip(ps, others, strict=True))


def test_clipping_float16_by_a_factor_that_float16_cannot_hold():
    p = tg.Parameter(np.zeros(2, np.float16))
    p.grad = np.array([3e4, 4e4], np.float16)
    optim.clip_grad_norm([p], 1e-4)
    assert np.allclose(p.grad, [6e-5, 8e-5], rtol=1e-2)


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
    with np.errstate(all="raise"):
        for gradient in (1e-30, 1e-38, 0, 1e-44):
            p.grad = np.full(3, gradient, np.float32)
            optimizer.step()
    assert optimizer.state_of(p)["step"] == 4
