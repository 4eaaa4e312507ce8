"""Debug aids: hooks and retained gradients, the first operation that goes wrong, and why a gradient is what it is."""

from __future__ import annotations

import inspect
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.debug import AnomalyError, detect_anomaly, why
from tinygrad_mm.debug.diagnosis import HUGE, TINY
from tinygrad_mm.graph import state
from tinygrad_mm.transforms import checkpoint

INF = np.float32(np.inf)


def leaf(*numbers, dtype=np.float32):
    return tg.Tensor(np.array(numbers, dtype), requires_grad=True)


def here():
    """The line that the caller stands on."""
    return inspect.currentframe().f_back.f_lineno


def caught(f, model=None):
    """What `f()` raises inside detect_anomaly."""
    with pytest.raises(AnomalyError) as info, detect_anomaly(model):
        f()
    return info.value


# ---------------------------------------------------------------------------------------------------------------------
# Hooks
# ---------------------------------------------------------------------------------------------------------------------


def test_a_hook_sees_the_complete_gradient_once():
    x, seen = leaf(1, 2), []
    y = x * 3
    y.register_hook(lambda g: seen.append(g.copy()))
    (y * y + y * 5).sum().backward()
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], [2 * 3 + 5, 2 * 6 + 5])


def test_a_hook_on_a_leaf_sees_the_complete_gradient():
    x, seen = leaf(1, 2), []
    x.register_hook(lambda g: seen.append(g.copy()))
    (x * x + x * 5).sum().backward()
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], [7, 9])
    np.testing.assert_array_equal(x.grad, [7, 9])


def test_what_a_hook_returns_takes_the_place_of_the_gradient():
    x = leaf(1, 2)
    y = x * 3
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: g + 1)  # hooks run in the order in which they were registered
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [33, 33])


def test_a_hook_may_return_a_tensor_and_another_dtype():
    x = leaf(1, 2)
    x.register_hook(lambda g: tg.Tensor(g.astype(np.float64) * 2))
    x.sum().backward()
    assert type(x.grad) is np.ndarray
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad, [2, 2])


@pytest.mark.parametrize("wrong", [np.ones(3), 1.0, "text"])
def test_a_hook_that_returns_no_such_gradient_raises(wrong):
    x = leaf(1, 2)
    x.register_hook(lambda g: wrong)
    with pytest.raises(RuntimeError, match=r"hook .*lambda.* returned .* for a gradient of shape \(2,\)"):
        x.sum().backward()


def test_a_removed_hook_is_not_called():
    x, seen = leaf(1), []
    remove = x.register_hook(lambda g: seen.append("first"))
    x.register_hook(lambda g: seen.append("second"))
    remove()
    remove()  # twice does no harm
    x.sum().backward()
    assert seen == ["second"]


def test_a_hook_may_remove_itself():
    x, seen = leaf(1), []

    def once(g):
        seen.append(g)
        remove()

    remove = x.register_hook(once)
    x.sum().backward()
    x.sum().backward()
    assert len(seen) == 1


def test_an_array_that_a_hook_kept_is_not_written_to_later():
    x, kept = leaf(1, 2), []
    x.register_hook(kept.append)
    for _ in range(3):
        (x * x).sum().backward()
    for g in kept:
        np.testing.assert_array_equal(g, [2, 4])
    np.testing.assert_array_equal(x.grad, [6, 12])


def test_hooks_of_a_recorded_pass_get_tensors_and_stay_differentiable():
    x, kinds = leaf(3), []

    def double(g):
        kinds.append(type(g))
        return g * 2

    y = x * x
    y.register_hook(double)
    first = tg.gradients((y * y).sum(), x, create_graph=True)  # 2 * 2 y * 2 x = 8 x**3
    assert kinds == [tg.Tensor]
    np.testing.assert_array_equal(first.data, [8 * 27])
    second = tg.gradients(first.sum(), x)  # the hook runs again, on the gradient of y
    assert second.requires_grad is False
    # d/dx of 8 x**3 is 24 x**2; of it the part by way of y (16 x**2) passes the hook once more and counts twice
    np.testing.assert_array_equal(second.data, [8 * 9 + 2 * 16 * 9])


def test_a_hook_on_a_tensor_without_gradient_raises():
    with pytest.raises(RuntimeError, match="never be called"):
        tg.Tensor([1.0]).register_hook(print)


# -- retain_grad


def test_retain_grad_keeps_the_gradient_of_a_computed_tensor():
    x = leaf(1, 2)
    y = (x * 3).retain_grad()
    (y * y).sum().backward()
    np.testing.assert_array_equal(y.grad, [6, 12])
    np.testing.assert_array_equal(x.grad, [18, 36])
    assert (x * 3).grad is None


def test_retained_gradients_accumulate_like_those_of_leaves():
    x = leaf(1, 2)
    y = (x * 3).retain_grad()
    loss = (y * y).sum()
    loss.backward(retain_graph=True)
    first = y.grad.copy()
    loss.backward()
    np.testing.assert_array_equal(y.grad, 2 * first)
    np.testing.assert_array_equal(x.grad, [36, 72])


@pytest.mark.parametrize("use", [lambda y: y.sum(), lambda y: (y + 1).sum(), lambda y: (y * 2 + y).sum(), np.sum])
def test_a_retained_gradient_is_an_array_of_its_own(use):
    x = leaf(1, 2)
    y = (x + 0).retain_grad()
    z = (y + 0).retain_grad()
    use(z).backward()
    expected = x.grad.copy()
    z.grad[:] = 100
    np.testing.assert_array_equal(y.grad, expected)
    np.testing.assert_array_equal(x.grad, expected)


def test_the_retained_gradient_is_what_the_hooks_left():
    x = leaf(1, 2)
    y = (x * 3).retain_grad()
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    np.testing.assert_array_equal(y.grad, [10, 10])


def test_gradients_leaves_retained_gradients_alone():
    x = leaf(1, 2)
    y = (x * 3).retain_grad()
    tg.gradients((y * y).sum(), x)
    assert y.grad is None
    assert x.grad is None


def test_retain_grad_of_a_leaf_changes_nothing():
    x = leaf(1, 2)
    assert x.retain_grad() is x
    x.sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1])


def test_retain_grad_without_gradient_raises():
    with pytest.raises(RuntimeError, match="none to retain"):
        (tg.Tensor([1.0]) * 2).retain_grad()


# ---------------------------------------------------------------------------------------------------------------------
# The first NaN or Inf of a forward pass
# ---------------------------------------------------------------------------------------------------------------------

# name, what to compute of positive numbers around 1, words of the reason
FORWARD = [
    ("log", lambda x: np.log(x - x), "logarithm of 0"),
    ("log", lambda x: np.log(-x), "logarithm of a negative"),
    ("log2", lambda x: np.log2(x * 0), "logarithm of 0"),
    ("log1p", lambda x: np.log1p(-2 - x), "-1 and below"),
    ("sqrt", lambda x: np.sqrt(-x), "square root of a negative"),
    ("divide", lambda x: x / (x - x), "division by 0"),
    ("divide", lambda x: (x - x) / (x - x), "0 / 0"),
    ("divide", lambda x: 1 / (x * 0), "division by 0"),
    ("remainder", lambda x: x % (x * 0), "division by 0"),
    ("reciprocal", lambda x: np.reciprocal(x * 0), "division by 0"),
    ("power", lambda x: (x * 0) ** -1, "negative power"),
    ("power", lambda x: (-x) ** 0.5, "root of a negative"),
    ("arcsin", lambda x: np.arcsin(x + 10), "outside [-1, 1]"),
    ("arccosh", lambda x: np.arccosh(x * 0), "below 1"),
    ("arctanh", lambda x: np.arctanh(x * 0 + 1), "outside (-1, 1)"),
    ("exp", lambda x: np.exp(x * 1000), "about 89"),
    ("cosh", lambda x: np.cosh(x * 1000), "overflow"),
    ("multiply", lambda x: (x + 1e30) * 1e30, "3.4e+38"),
    ("matmul", lambda x: (x + 1e30)[None] @ (x + 1e30)[:, None], "3.4e+38"),
    ("sum", lambda x: np.sum(x + 3e38), "3.4e+38"),
    ("square", lambda x: np.square(x + 1e30), "3.4e+38"),
    ("subtract", lambda x: (x + np.full(3, INF)) - np.full(3, INF), "inf - inf"),
    ("multiply", lambda x: (x - x) * np.full(3, INF), "0 * inf"),
    ("matmul", lambda x: (x + np.array([[-INF], [0]])) @ (x - x)[:, None], "0 * inf"),
    ("softmax", lambda x: tg.softmax((x + np.full(3, -INF))[None]), "all entries of a row are -inf"),
    ("mean", lambda x: np.mean(x[:0]), "no elements"),
]


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize(("name", "compute", "words"), FORWARD, ids=[f"{row[0]}-{row[2]}" for row in FORWARD])
@pytest.mark.parametrize("recording", [True, False])
def test_the_operation_and_the_reason_are_named(name, compute, words, recording):
    x = tg.Tensor(np.array([0.5, 1.0, 1.5], np.float32), requires_grad=recording)
    error = caught(lambda: compute(x))
    assert (error.operation, error.phase) == (name, "forward")
    assert words in error.reason
    assert words in str(error)
    assert "fix: " in str(error)


SAFE = [
    lambda x: np.tanh(x) + 2,
    lambda x: x * 0.5 + 1,
    lambda x: np.sqrt(x * x + 1),
    lambda x: np.exp(-x * x) + 1,
    lambda x: np.where(x > 1, x, 1 / (x + 1)),
    lambda x: x + np.array([-INF, 0, 0]) > 0,
    lambda x: np.maximum(x, 0.25),
    lambda x: np.concatenate([x[1:], x[:1]]),
]


@given(st.lists(st.sampled_from(SAFE), max_size=6), st.lists(st.sampled_from(SAFE), max_size=6))
def test_the_first_operation_is_named_wherever_it_stands(before, after):
    def network(poisoned):
        y = leaf(0.5, 1.0, 1.5)
        for f in before:
            y = f(y) * 1.0
        if poisoned:
            y = y / (y * 0)
        for f in after:
            y = f(y) * 1.0
        return y.sum()

    with detect_anomaly():
        loss = network(poisoned=False)
        if loss.requires_grad:
            loss.backward()
    error = caught(lambda: network(poisoned=True))
    assert (error.operation, error.phase) == ("divide", "forward")


def test_the_message_tells_the_module_the_line_and_the_ranges():
    class Log(nn.Module):
        def forward(self, x):
            return np.log(x)

    class Net(nn.Module):
        def __init__(self):
            self.head = Log()

        def forward(self, x):
            return self.head(x)

    net, x = Net(), leaf(-1.0, 0.0, 2.0)
    text = str(caught(lambda: net(x)))
    assert text.startswith("log produced NaN and -inf (2 of 3 elements, the first at [0]) in the forward pass")
    assert "called in: Net > Log, test_debug.py:" in text
    assert ": return np.log(x)" in text
    assert "argument 0: a leaf that requires grad, (3,) float32 from -1 to 2" in text
    assert "called in: head (Log), test_debug.py:" in str(caught(lambda: net(x), model=net))


def test_the_source_line_is_that_of_the_user_behind_composites_too():
    x = leaf(0.0, 1.0)
    line = here() + 1
    error = caught(lambda: np.corrcoef(x * 0))
    assert f"test_debug.py:{line}: " in str(error)
    assert error.operation == "divide"


# ---------------------------------------------------------------------------------------------------------------------
# What must pass, and whose fault it is
# ---------------------------------------------------------------------------------------------------------------------

MASK = np.array([[0, -INF, 0], [0, 0, -INF]])
LEGITIMATE = [
    lambda x: np.exp(x + MASK),
    lambda x: tg.softmax(x + MASK),
    lambda x: tg.softmax(np.where(MASK == 0, x, -np.inf)),
    lambda x: tg.log_softmax(x + MASK)[:, 0],
    lambda x: tg.logsumexp(x + MASK),
    lambda x: np.maximum(x, -np.inf),
    lambda x: np.minimum(np.full(3, INF), x),
    lambda x: np.max(np.concatenate([x, np.full((2, 1), -INF)], axis=1), axis=1),
    lambda x: np.clip(x, -np.inf, np.inf),
    lambda x: x / np.array([np.inf, 1, 2], np.float32),
    lambda x: np.nan_to_num(np.where(MASK == 0, x, np.inf), posinf=0),
    lambda x: np.arctan(x + MASK),
    lambda x: np.exp((x + MASK) @ np.ones((3, 4), np.float32)),
    lambda x: tg.sigmoid(x + MASK),
    lambda x: np.where(x > 0, np.sqrt(np.where(x > 0, x, 1)), 0),
    lambda x: np.linalg.norm(x * 0),
    lambda x: np.zeros_like(x) * x,
]


@pytest.mark.parametrize("compute", LEGITIMATE)
def test_an_inf_that_was_there_before_is_nobodys_fault(compute):
    x = leaf([0.5, -1.0, 2.0], [1.0, 0.0, -2.0])
    with detect_anomaly():
        np.sum(compute(x)).backward()
    assert np.isfinite(x.grad).all()


def test_an_inf_that_was_there_before_may_pass_the_backward_pass():
    x = leaf(0.5, 1.0)
    with detect_anomaly():
        (x * 2 * np.array([INF, 1])).sum().backward()
    np.testing.assert_array_equal(x.grad, [INF, 2])


def test_a_new_inf_is_found_beside_one_that_was_there():
    x = leaf(0.0, 1.0, 2.0)
    masked = x + np.array([0, 0, -INF])
    assert caught(lambda: 1 / masked).operation == "divide"


@pytest.mark.parametrize("data", [np.nan, np.array([1, np.nan], np.float32)])
def test_nan_in_the_data_is_named_as_such(data):
    error = caught(lambda: leaf(1, 2) * data)
    assert (error.operation, error.phase) == ("multiply", "input")
    assert "argument 1" in error.reason
    assert "holds NaN already" in error.reason
    assert "clean the data" in str(error)


def test_a_parameter_that_is_not_finite_is_named_by_its_path():
    model = nn.Sequential(nn.Dense(2, 3, rng=0), nn.Dense(3, 1, rng=1))
    x = np.ones((4, 2), np.float32)
    for bad in (np.nan, np.inf):
        model.layers[1].weight.data = np.full((3, 1), bad, np.float32)
        error = caught(lambda: model(x), model)
        assert (error.operation, error.phase) == ("matmul", "input")
        assert "layers.1.weight" in error.reason
        assert "(3 of 3 elements, the first at [0, 0])" in error.reason
        assert "learning rate" in str(error)


def test_a_nan_from_before_is_not_blamed_on_the_operation_that_met_it():
    with np.errstate(all="ignore"):
        y = np.log(leaf(-1.0))
    error = caught(lambda: y * 2)
    assert (error.operation, error.phase) == ("multiply", "input")
    assert "the result of log" in error.reason


# ---------------------------------------------------------------------------------------------------------------------
# The backward pass
# ---------------------------------------------------------------------------------------------------------------------

BACKWARD = [
    ("sqrt", lambda x: np.sqrt(x - x), "slope of sqrt at 0"),
    ("cbrt", lambda x: np.cbrt(x - x), "slope of cbrt at 0"),
    ("power", lambda x: (x - x) ** 0.5, "steep at 0"),
    ("arcsin", lambda x: np.arcsin(x - x + 1), "-1 and 1"),
    ("arccosh", lambda x: np.arccosh(x - x + 1), "at 1"),
    ("multiply", lambda x: (x * 1e-30) * 1e38 * 1e30, "3.4e+38"),
    ("sqrt", lambda x: np.where(x > 5, np.sqrt(x - x), 1), "0 * inf"),
    ("sqrt", lambda x: np.sqrt(x - x) * 0, "0 * inf"),
]


@pytest.mark.parametrize(("name", "compute", "words"), BACKWARD, ids=[f"{row[0]}-{row[2]}" for row in BACKWARD])
def test_the_rule_that_first_fails_is_named(name, compute, words):
    x = leaf(0.5, 1.0)
    error = caught(lambda: (compute(x) * 2 + 1).sum().backward())
    assert (error.operation, error.phase) == (name, "backward")
    assert words in error.reason
    assert "in the backward pass, as the gradient of argument 0" in str(error)
    assert "called in: test_debug.py:" in str(error)


@given(st.lists(st.sampled_from(SAFE[:5]), max_size=5), st.lists(st.sampled_from(SAFE[:4]), max_size=5))
def test_the_last_rule_of_the_chain_that_fails_is_named_wherever_it_stands(before, after):
    def run():
        y = leaf(0.5, 1.0, 1.5)
        for f in before:
            y = f(y)
        y = np.sqrt(y * 0)
        for f in after:
            y = f(y)
        y.sum().backward()

    error = caught(run)
    assert (error.operation, error.phase) == ("sqrt", "backward")


def test_a_recorded_backward_pass_names_the_same_rule():
    x = leaf(0.0, 1.0)
    error = caught(lambda: tg.gradients(np.sqrt(x * 1).sum(), x, create_graph=True))
    assert (error.operation, error.phase) == ("sqrt", "backward")


def test_the_second_order_is_watched_too():
    x = leaf(0.0, 1.0)  # x ** 1.5 has a first derivative at 0, but no second one

    def run():
        first = tg.gradients((x**1.5).sum(), x, create_graph=True)
        first.sum().backward()

    error = caught(run)
    assert (error.operation, error.phase) == ("power", "backward")


def test_the_backward_pass_alone_can_be_watched():
    with np.errstate(all="ignore"):
        loss = np.sum(np.exp(leaf(1.0, 100.0)))
    error = caught(loss.backward)
    assert (error.operation, error.phase) == ("exp", "backward")
    assert "the result of the forward pass is not finite itself" in error.reason


def test_a_gradient_that_came_from_outside_is_not_blamed_on_a_rule():
    y = leaf(1.0, 2.0) * 2
    error = caught(lambda: y.backward(np.array([1, np.nan], np.float32)))
    assert "started with it" in error.reason
    z = leaf(1.0, 2.0) * 2
    z.register_hook(lambda g: g * np.nan)
    error = caught(z.sum().backward)
    assert "hook" in error.reason
    x = leaf(0.0)
    error = caught(lambda: (x * 3e38 + x * 3e38).sum().backward())
    assert "sum overflows" in error.reason


def test_functions_with_several_results_are_watched():
    a = tg.Tensor(np.zeros((2, 2)), requires_grad=True)
    error = caught(lambda: np.linalg.slogdet(a))
    assert (error.operation, error.phase) == ("slogdet", "forward")
    with detect_anomaly():
        sign, logdet = np.linalg.slogdet(a + np.eye(2))
        (sign + logdet).backward()
    assert np.isfinite(a.grad).all()


def test_a_checkpoint_is_watched_through_its_replay():
    x = leaf(0.0, 1.0)
    error = caught(lambda: checkpoint(lambda x: np.sqrt(x))(x).sum().backward())
    assert error.phase == "backward"


# ---------------------------------------------------------------------------------------------------------------------
# Arrays changed in place
# ---------------------------------------------------------------------------------------------------------------------

# what to compute of a tensor and an array, and whether some rule reads the array's elements again
MUTATED = [
    (lambda x, a: x * a, True),
    (lambda x, a: x / a, True),
    (lambda x, a: a**x, True),
    (lambda x, a: x @ a, True),
    (lambda x, a: np.maximum(x, a), True),
    (lambda x, a: np.where(a > 0, x, 0), False),  # the mask is an array of its own
    (lambda x, a: np.einsum("ij,jk->ik", x, a), True),
    (lambda x, a: x + a, False),
    (lambda x, a: x - a, False),
    (lambda x, a: np.concatenate([x, a]), False),
    (lambda x, a: np.stack([a, x]), False),
    (lambda x, a: np.copysign(x, 1) + np.reshape(a, (2, 2)), False),
]


@pytest.mark.parametrize(("compute", "read"), MUTATED)
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray, lambda a: np.repeat(a, 2, 0)[::2]])
def test_an_array_changed_in_place_is_found_where_it_matters(compute, read, layout):
    def gradient(change, watched):
        x = leaf([0.5, 1.0], [1.5, 2.0])
        a = layout(np.array([[1.0, 0.25], [3.0, 1.75]], np.float32))
        with detect_anomaly() if watched else np.errstate():
            loss = compute(x, a).sum()
            if change:
                a[1, 0] = 1.5
            loss.backward()
        return x.grad

    true = gradient(change=False, watched=True)
    if read:
        assert not np.array_equal(gradient(change=True, watched=False), true)  # a silent wrong answer
        with pytest.raises(AnomalyError, match="changed in place between the forward and the backward pass"):
            gradient(change=True, watched=True)
    else:
        np.testing.assert_array_equal(gradient(change=True, watched=True), true)


def test_a_changed_result_is_found():
    x = leaf(1.0, 2.0)

    def run():
        y = np.exp(x)
        y.data[0] = 7
        y.sum().backward()

    error = caught(run)
    assert (error.operation, error.phase) == ("exp", "mutation")
    assert "the result of exp" in str(error)
    assert "copy" in str(error)


def test_a_changed_index_is_found():
    x, index = leaf(1.0, 2.0, 3.0), np.array([0, 1])

    def run():
        y = x[index,] * 2
        index[0] = 2
        y.sum().backward()

    error = caught(run)
    assert (error.operation, error.phase) == ("getitem", "mutation")


def test_a_change_after_the_last_use_is_nobodys_business():
    x, a = leaf(1.0, 2.0), np.ones(2, np.float32)
    with detect_anomaly():
        (x * a).sum().backward()
        a[0] = 5
        (x * a).sum().backward()
    np.testing.assert_array_equal(x.grad, [6, 2])


def test_a_parameter_that_was_updated_keeps_the_engines_own_message():
    w = leaf(1.0, 2.0)
    with detect_anomaly():
        loss = (w * w).sum()
        w.data = np.zeros(2, np.float32)
        with pytest.raises(RuntimeError, match="was changed after multiply had read it"):
            loss.backward()


# ---------------------------------------------------------------------------------------------------------------------
# Being off
# ---------------------------------------------------------------------------------------------------------------------


def test_nothing_is_left_behind():
    for f in (lambda: None, lambda: caught(lambda: np.log(leaf(0.0)))):
        f()
        assert state.monitor is None
        assert state.lines is False
        assert state.watched is False
        with pytest.warns(RuntimeWarning, match="divide by zero"):  # NumPy warns again
            assert np.isneginf(np.log(leaf(0.0)).data)


def test_other_threads_are_not_watched():
    results = []

    def work():
        with np.errstate(all="ignore"):
            results.append(np.log(leaf(0.0)).data)

    with detect_anomaly():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert np.isneginf(results[0])


def test_it_decorates_functions():
    @detect_anomaly()
    def f(x):
        return np.log(x)

    for _ in range(2):
        with pytest.raises(AnomalyError):
            f(leaf(0.0))


def test_results_are_the_same_inside():
    def run():
        model = nn.Sequential(nn.Dense(4, 8, "relu", rng=0), nn.Dense(8, 3, rng=1))
        x = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)
        loss = tg.cross_entropy(model(x), np.array([0, 1, 2, 0, 1]))
        loss.backward()
        return [loss.data, *(p.grad for p in model.parameters())]

    plain = run()
    with detect_anomaly():
        watched = run()
    for a, b in zip(plain, watched, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------------------------------------
# why: None
# ---------------------------------------------------------------------------------------------------------------------


def facts(tensor, loss=None, model=None):
    diagnosis = why(tensor, loss, model)
    assert str(diagnosis) == repr(diagnosis) == diagnosis.text
    return diagnosis.facts


def test_a_leaf_that_nothing_has_reached():
    x = leaf(1.0)
    assert facts(x)["cause"] == "not_run"
    assert "backward() has not been run" in str(why(x))


def test_a_leaf_that_requires_nothing():
    assert facts(tg.Tensor([1.0]))["cause"] == "no_requires_grad"
    assert facts(tg.Tensor([1]))["cause"] == "dtype"
    x = leaf(1.0)
    with tg.no_grad():
        assert "inside no_grad()" in str(why(x * 2))
    assert "inside no_grad()" not in str(why(tg.Tensor([1.0])))


def test_a_computed_tensor_keeps_no_gradient():
    y = leaf(1.0) * 2
    found = facts(y)
    assert (found["verdict"], found["cause"], found["operation"]) == ("none", "not_leaf", "multiply")
    assert "retain_grad()" in str(why(y))
    y.sum().backward()
    assert "released the graph" in str(why(y))


def test_a_result_whose_gradient_stops():
    x = leaf(1.0, 2.0)
    for y, name in ((x > 1, "greater"), (np.argmax(x), "argmax"), (np.floor(x), "floor"), (x.astype(int), "astype")):
        for loss in (None, (x * x).sum()):
            found = facts(y, loss)
            assert (found["verdict"], found["cause"], found["operation"]) == ("none", "stopped", name)


def test_a_loss_without_a_graph():
    x = leaf(1.0)
    with tg.no_grad():
        loss = (x * x).sum()
    assert facts(x, loss)["cause"] == "loss_without_graph"
    assert "argmax" in str(why(x, np.argmax(x * 2)))


def test_a_tensor_that_the_loss_does_not_use():
    x, w = leaf(1.0), leaf(2.0)
    found = facts(x, (w * w).sum())
    assert (found["verdict"], found["cause"]) == ("none", "unused")


@pytest.mark.parametrize("cut", [lambda x: x.detach(), lambda x: x.data, lambda x: x[:1].detach()])
def test_a_detached_tensor(cut):
    x, w = leaf(1.0, 2.0), leaf(3.0)
    found = facts(x, (np.tanh(w) * cut(x)).sum())
    assert (found["verdict"], found["cause"], found["operation"]) == ("none", "detached", "multiply")


def test_a_path_that_was_cut_further_on_shows_the_younger_constants():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    hidden = np.tanh(x).detach()
    text = str(why(x, (w * hidden).sum()))
    assert "younger than the tensor: argument 1 of multiply, (2,) float32 from 0.7616 to 0.964" in text


def test_a_use_by_way_of_a_function_without_gradient():
    x, w = leaf(1.0, -1.0), leaf(3.0, 4.0)
    for loss, name in (
        (np.where(x > 0, w, 0).sum(), "greater"),
        ((w * np.sign(x)).sum(), "sign"),
        (np.copysign(w, x).sum(), "copysign"),
        (np.copysign(w, x * 2).sum(), "copysign"),
    ):
        found = facts(x, loss)
        assert (found["verdict"], found["cause"], found["operation"]) == ("none", "stopped", name)


def test_a_released_graph():
    x = leaf(1.0, 0.0)
    loss = (x * x).sum()
    loss.backward()
    found = facts(x, loss)
    assert (found["verdict"], found["cause"]) == ("fine", "released")
    assert "retain_graph=True" in str(why(x, loss))


def test_a_parameter_changed_since():
    x = leaf(1.0, 2.0)
    loss = (x * x).sum()
    x.data = np.zeros(2, np.float32)
    assert "was changed after multiply" in facts(x, loss)["reason"]


# ---------------------------------------------------------------------------------------------------------------------
# why: zero
# ---------------------------------------------------------------------------------------------------------------------


def mlp(activation, scale=1.0, bias=0.0):
    model = nn.Sequential(nn.Dense(3, 4, activation, rng=0), nn.Dense(4, 2, rng=1))
    model.layers[0].weight.data = model.layers[0].weight.data * np.float32(scale)
    model.layers[0].bias.data = np.full(4, bias, np.float32)
    x = np.random.default_rng(2).standard_normal((6, 3)).astype(np.float32)
    return model, tg.cross_entropy(model(x), np.array([0, 1, 0, 0, 0, 1]))


def test_dead_relu():
    model, loss = mlp("relu", bias=-100)
    found = facts(model.layers[0].weight, loss, model)
    assert (found["verdict"], found["cause"], found["operation"]) == ("zero", "dead_relu", "relu")
    assert found["module"] == "layers.0 (Dense)"
    assert found["path"][-5:] == ("add", "matmul", "relu", "add", "matmul")
    text = str(why(model.layers[0].weight, loss, model))
    assert "The gradient of layers.0.weight, (3, 4) float32, is zero." in text
    assert "100 % of its elements are 0, and 4 of 4 units are active for no input" in text
    # The layer above gets nothing either, since it multiplies with what the dead one gives.
    above = facts(model.layers[1].weight, loss, model)
    assert (above["verdict"], above["cause"], above["operation"]) == ("zero", "dead_relu", "matmul")
    assert facts(model.layers[1].bias, loss, model)["verdict"] == "fine"


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_saturated_activation(activation):
    model, loss = mlp(activation, scale=1e-3, bias=1000)
    found = facts(model.layers[0].weight, loss, model)
    assert (found["verdict"], found["cause"], found["operation"]) == ("zero", "saturated", activation)
    assert "for arguments in 1000 .. 1000 its slope is 0" in found["reason"]


def test_zero_weights():
    model, _ = mlp("relu")
    model.layers[1].weight.data = np.zeros((4, 2), np.float32)
    loss = tg.cross_entropy(model(np.ones((2, 3), np.float32)), np.array([0, 1]))
    found = facts(model.layers[0].bias, loss, model)
    assert (found["verdict"], found["cause"], found["operation"]) == ("zero", "multiplied_by_zero", "matmul")
    assert "argument 1: layers.1.weight, (4, 2) float32, all 0" in str(why(model.layers[0].bias, loss, model))


X = (0.5, 1.0, 2.0)
ZERO = [
    ("multiplied_by_zero", "multiply", lambda x: x * 0),
    ("multiplied_by_zero", "multiply", lambda x: x * np.zeros(3, np.float32)),
    ("multiplied_by_zero", "multiply", lambda x: x * np.float32([1, 0, 1]) * np.float32([0, 1, 0])),
    ("dead_relu", "maximum", lambda x: np.maximum(-x, 0)),
    ("dead_relu", "multiply", lambda x: tg.relu(-leaf(*X)) * x),
    ("masked", "maximum", lambda x: np.maximum(x, 10)),
    ("masked", "minimum", lambda x: np.minimum(x, -10)),
    ("masked", "clip", lambda x: np.clip(x, 5, 10)),
    ("masked", "where", lambda x: np.where(x > 10, x, 1)),
    ("saturated", "softmax", lambda x: tg.softmax(x * 1000)[0]),
    ("underflow", "exp", lambda x: np.exp(-x * 1000)),
    ("underflow", "multiply", lambda x: x * 1e-30 * 1e-30),
    ("flat", "square", lambda x: np.square(x - x)),
    ("flat", "absolute", lambda x: np.abs(x - x)),
    ("cancelled", None, lambda x: x - x),
]


@pytest.mark.parametrize(("cause", "name", "compute"), ZERO, ids=[f"{row[1]}-{row[0]}" for row in ZERO])
def test_where_a_gradient_became_zero(cause, name, compute):
    x = leaf(*X)
    found = facts(x * 1 if cause is None else x, compute(x).sum())
    assert (found["verdict"], found["cause"], found.get("operation")) == ("zero", cause, name)
    assert found["norm"] == found["largest"] == 0


def test_many_paths_are_walked_once():
    x = leaf(*X)
    y = x
    for _ in range(100):  # 2**100 paths
        y = y * 1 + y * 1
    assert facts(x, (y * 0).sum())["cause"] == "multiplied_by_zero"


@pytest.mark.parametrize("first", [0, 1])
def test_several_dead_ends_are_all_named(first):
    x = leaf(*X)
    parts = [np.maximum(-x, 0), np.clip(x, 5, 10)]
    text = str(why(x, (parts[first] + parts[1 - first]).sum()))
    assert "maximum" in text
    assert "clip" in text
    assert "likewise" in text


# ---------------------------------------------------------------------------------------------------------------------
# why: NaN, huge, tiny, fine
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "compute", "words"), BACKWARD, ids=[f"{row[0]}-{row[2]}" for row in BACKWARD])
def test_the_rule_that_made_a_gradient_infinite(name, compute, words):
    x = leaf(0.5, 1.0)
    found = facts(x, (np.tanh(compute(x)) * 2 + compute(x)).sum())
    assert (found["verdict"], found["operation"]) == ("nan", name)
    assert words in found["reason"]
    assert found["path"][0] == "sum"
    assert name in found["path"]


@pytest.mark.parametrize(("name", "compute", "words"), FORWARD[:16], ids=[f"{row[0]}-{row[2]}" for row in FORWARD[:16]])
def test_a_forward_pass_that_went_wrong_already(name, compute, words):
    x = leaf(0.5, 1.0, 1.5)
    with np.errstate(all="ignore"):
        loss = (compute(x) * x).sum()
    found = facts(x, loss)
    assert (found["verdict"], found["cause"], found["operation"]) == ("nan", "forward", name)
    assert words in found["reason"]


def test_nan_in_the_data():
    x = leaf(1.0, 2.0)
    found = facts(x, (x * np.array([1, np.nan], np.float32)).sum())
    assert (found["verdict"], found["operation"]) == ("nan", "multiply")
    assert "holds NaN from the start" in found["reason"]


def test_a_sum_that_overflows():
    x = leaf(0.0)
    with np.errstate(all="ignore"):
        loss = (x * 3e38 + x * 3e38).sum()
        assert tg.gradients(loss, x, retain_graph=True).data == np.inf
    found = facts(x, loss)
    assert (found["verdict"], found["cause"]) == ("nan", "sum")


def test_the_operation_that_made_a_gradient_huge():
    x = leaf(1.0, 2.0)
    found = facts(x, np.exp(x * 10).sum())
    assert (found["verdict"], found["operation"]) == ("huge", "exp")
    assert found["path"] == ("sum", "exp", "multiply")
    assert found["largest"] == pytest.approx(10 * np.exp(20), rel=1e-5)


def test_the_operation_that_made_a_gradient_tiny():
    x = leaf(1.0, 2.0)
    found = facts(x, (np.tanh(x) * 1e-12).sum())
    assert (found["verdict"], found["operation"]) == ("tiny", "multiply")
    y = x
    for _ in range(12):
        y = tg.sigmoid(y * 0.1)
    text = str(why(x, y.sum()))
    assert "tiny" in text
    assert "more ..." in text


def test_a_gradient_there_is_judged_without_a_loss():
    x = leaf(1.0, 2.0)
    for value, verdict in (
        (0, "zero"),
        (np.nan, "nan"),
        (np.inf, "nan"),
        (2 * HUGE, "huge"),
        (TINY / 2, "tiny"),
        (1, "fine"),
    ):
        x.grad = np.full(2, value, np.float32)
        assert facts(x)["verdict"] == verdict
        assert ("loss=loss" in str(why(x))) == (verdict != "fine")


UNARY = [np.tanh, tg.relu, lambda x: x * 0, lambda x: x * 1e6, lambda x: x * 1e-6, lambda x: np.maximum(x, 50), lambda x: x.detach(), lambda x: np.sign(x) * 1.0, np.exp, lambda x: x[1:], lambda x: x + leaf(0.5)]  # fmt: skip


@given(st.lists(st.sampled_from(UNARY), max_size=8), st.lists(st.sampled_from(UNARY), max_size=4))
def test_the_verdict_is_that_of_the_gradient(first, second):
    x, w = leaf(0.3, -0.7, 1.2, 0.1, 0.9, -2.0, 0.4, 1.1, 0.6, -0.2, 1.0, 0.8, 0.2), leaf(1.0)
    with np.errstate(all="ignore"):
        y = x
        for f in first:
            y = f(y)
        z = x * 1
        for f in second:
            z = f(z)
        loss = y.sum() * w + z.sum()
        true = tg.gradients(loss.sum(), x, retain_graph=True, allow_unused=True)
    found = facts(x, loss)
    assert (found["verdict"] == "none") == (true is None)
    if true is not None:
        largest = float(np.abs(true.data).max())
        assert found["largest"] == largest or (np.isnan(found["largest"]) and np.isnan(largest))
        assert (found["verdict"] == "zero") == (largest == 0)
        assert (found["verdict"] == "nan") == (not np.isfinite(largest))
        assert (found["verdict"] == "huge") == (HUGE < largest < np.inf)
        if found["verdict"] != "nan":
            assert found["norm"] == pytest.approx(float(np.sqrt(np.sum(np.square(true.data.astype(np.float64))))))


def test_asking_changes_nothing():
    model, loss = mlp("relu")
    w = model.layers[0].weight
    hidden = tg.relu(model.layers[0](np.ones((2, 3), np.float32))).retain_grad()
    total = loss + hidden.sum()
    for t in (w, hidden, total):
        why(t, total)
    assert w.grad is None
    assert hidden.grad is None
    assert state.monitor is None
    total.backward()  # the graph is there still
    np.testing.assert_array_equal(hidden.grad, np.ones((2, 4)))
    assert why(w).facts["verdict"] == "fine"


def test_it_can_be_asked_while_anomalies_are_watched_for():
    with detect_anomaly():
        x = leaf(0.0, 1.0)
        loss = np.sqrt(x).sum()
        found = facts(x, loss)
    assert (found["verdict"], found["operation"]) == ("nan", "sqrt")
    assert found["line"][0] == __file__
    assert "test_debug.py:" in str(why(x, loss))


def test_the_middle_of_the_graph_can_be_asked_about():
    x = leaf(1.0, 2.0)
    y = x * 3
    assert facts(y, (y * 0).sum())["cause"] == "multiplied_by_zero"
    assert facts(y, (y * y).sum())["verdict"] == "fine"
    loss = y.sum()
    assert facts(loss, loss)["largest"] == 1


def test_functions_with_several_results_are_seen_through():
    a = tg.Tensor(np.eye(2) * 2, requires_grad=True)
    _, logdet = np.linalg.slogdet(a)
    found = facts(a, logdet)
    assert found["path"] == ("select", "slogdet")
    assert found["largest"] == pytest.approx(0.5)


@pytest.mark.parametrize(("tensor", "loss"), [(np.ones(2), None), (None, None), (leaf(1.0), np.ones(2))])
def test_only_tensors_can_be_asked_about(tensor, loss):
    with pytest.raises(TypeError, match="not a Tensor"):
        why(tensor, loss)


def test_a_model_must_be_one():
    with pytest.raises(TypeError, match="not a Module"):
        why(leaf(1.0), model=3)


def test_a_softmax_that_is_summed_is_not_called_saturated():
    for values in ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]):
        p = tg.Parameter(values)
        assert "moves them together" in str(tg.why(p, np.sum(tg.softmax(p)) * 1.0))
    p = tg.Parameter([1.0, 200.0, 3.0])
    assert "softmax is saturated" in str(tg.why(p, tg.softmax(p)[1]))
    p = tg.Parameter([[1.0, 200.0, 3.0]])
    assert "cross_entropy is saturated" in str(tg.why(p, tg.cross_entropy(p, [1])))
