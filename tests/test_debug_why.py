"""`why`: the reason for a gradient that is None, zero, NaN, huge or tiny; and nothing of it when the aids are off."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from debugged import BACKWARD, FORWARD, caught, leaf
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.debug import AnomalyError, detect_anomaly, why
from tinygrad_mm.debug.diagnosis import HUGE, TINY
from tinygrad_mm.graph import state

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
    assert "test_debug_why.py:" in str(why(x, loss))


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
