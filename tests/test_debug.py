"""Hooks and retained gradients, and the first operation whose result or gradient is not finite."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from debugged import BACKWARD, FORWARD, INF, caught, leaf
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.debug import AnomalyError, detect_anomaly
from tinygrad_mm.transforms import checkpoint


def here():
    """The line that the caller stands on."""
    return inspect.currentframe().f_back.f_lineno


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


@pytest.mark.parametrize(("name", "compute", "words"), BACKWARD, ids=[f"{row[0]}-{row[2]}" for row in BACKWARD])
def test_the_rule_that_first_fails_is_named(name, compute, words):
    x = leaf(0.5, 1.0)
    error = caught(lambda: (compute(x) * 2 + 1).sum().backward())
    assert (error.operation, error.phase) == (name, "backward")
    assert words in error.reason
    assert "in the backward pass, as the gradient of argument 0" in str(error)
    assert "called in: debugged.py:" in str(error)


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
