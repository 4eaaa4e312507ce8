"""Modules, dense layers, initialisation, network functions, losses."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn


def rng(seed=0):
    return np.random.default_rng(seed)


# -- Dense


@given(
    lead=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    activation=st.sampled_from([None, "relu", "sigmoid", "tanh", np.sin]),
    bias=st.booleans(),
)
def test_dense_is_its_formula(lead, n, m, activation, bias):
    layer = nn.Dense(n, m, activation, bias=bias, rng=0)
    x = rng().standard_normal((*lead, n)).astype(np.float32)
    y = layer(x)
    z = x @ layer.weight.data + (layer.bias.data if bias else 0)
    known = {
        None: lambda z: z,
        "relu": lambda z: z * (z > 0),
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
        np.sin: np.sin,
    }
    assert y.shape == (*lead, m)
    assert y.dtype == np.float32
    assert np.allclose(y.data, known[activation](z), atol=1e-6)


def test_dense_refuses_what_it_cannot_multiply():
    layer = nn.Dense(100, 10, rng=0)
    with pytest.raises(ValueError, match=r"\(64, 784\) @ \(100, 10\): the inner sizes 784 and 100 differ") as error:
        layer(np.zeros((64, 784), np.float32))
    assert "did you mean Dense(784, 10)?" in str(error.value)
    with pytest.raises(ValueError, match="0 features"):
        layer(tg.Tensor(1.0))
    for dtype in (np.float64, np.uint8, np.int64):
        with pytest.raises(TypeError, match=r"astype\(np.float32\)"):
            layer(np.zeros((2, 100), dtype))


def test_bad_constructions():
    with pytest.raises(ValueError, match="unknown activation 'rleu'; known names are relu, sigmoid, tanh"):
        nn.Dense(2, 2, "rleu")
    with pytest.raises(TypeError, match="a name, a callable or None"):
        nn.Dense(2, 2, 3)
    for size in (0, -1, 2.5, "4"):
        with pytest.raises(ValueError, match="must be a positive integer"):
            nn.Dense(size, 2)
    with pytest.raises(TypeError, match="layer 1 is a int"):
        nn.Sequential(nn.Dense(2, 2), 3)
    with pytest.raises(NotImplementedError, match=r"define forward\(self, x\)"):
        nn.Module()(1)


# -- initialisation


@pytest.mark.parametrize(
    ("draw", "variance"),
    [
        (nn.init.glorot_uniform, 2 / 700),
        (nn.init.glorot_normal, 2 / 700),
        (nn.init.he_uniform, 2 / 400),
        (nn.init.he_normal, 2 / 400),
    ],
)
def test_initial_variance(draw, variance):
    w = draw((400, 300), rng=0)
    assert w.dtype == np.float32
    assert abs(w.mean()) < 4 * math.sqrt(variance / w.size)
    assert abs(w.var() / variance - 1) < 0.02
    assert np.array_equal(w, draw((400, 300), rng=0))
    generator = rng(1)
    assert not np.array_equal(draw((4, 3), generator), draw((4, 3), generator))
    assert draw((4, 3), rng=0, dtype=np.float64).dtype == np.float64


def test_fans_of_windows():
    assert nn.init.fans((16, 3, 5, 5)) == (75, 400)
    with pytest.raises(ValueError, match="two axes"):
        nn.init.fans((3,))


# -- modules


class Tied(nn.Module):
    """A layer used twice, parameters in a dict, a plain Tensor as a parameter, a buffer."""

    def __init__(self):
        self.first = nn.Dense(3, 3, "tanh", rng=0)
        self.again = self.first
        self.more = {"a": nn.Linear(3, 2, rng=1), "b": [tg.Parameter([1.0, 2.0]), 5]}
        self.scale = tg.Tensor(2.0, requires_grad=True)
        self.mean = tg.Buffer([0.0, 0.0])
        self.not_a_parameter = tg.Tensor([1.0])

    def forward(self, x):
        return self.more["a"](self.again(self.first(x))) * self.more["b"][0] * self.scale


def test_walking():
    model = Tied()
    assert [n for n, _ in model.named_parameters()] == [
        "first.weight", "first.bias", "more.a.weight", "more.a.bias", "more.b.0", "scale",
    ]  # fmt: skip
    assert [n for n, _ in model.named_buffers()] == ["mean"]
    assert [n for n, _ in model.named_modules()] == ["", "first", "more.a"]
    assert [n for n, _ in model.named_children()] == ["first", "more.a"]
    assert len(model.parameters()) == 6


def test_a_cycle_of_modules_ends():
    parent, child = nn.Module(), nn.Dense(2, 2, rng=0)
    parent.child, child.parent = child, parent
    assert [n for n, _ in parent.named_parameters()] == ["child.weight", "child.bias"]


def test_modes_and_zero_grad():
    model = Tied()
    assert model.training
    assert model.eval() is model
    assert not model.more["a"].training
    assert model.train().more["a"].training
    model(np.ones((2, 3), np.float32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_subclass_needs_no_super_init_and_may_be_copied():
    model = Tied()
    other = copy.deepcopy(model)
    assert other.token is not model.token
    assert other.again is other.first
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(other(x).data, model(x).data)
    other.first.weight.data = np.zeros((3, 3), np.float32)
    assert not np.array_equal(other(x).data, model(x).data)


def test_calls_are_recorded_with_their_module_and_do_not_hold_it():
    model = nn.Sequential(nn.Dense(2, 2, "relu", rng=0), nn.Linear(2, 1, rng=1))
    y = model(np.ones((1, 2), np.float32))
    scope = y.node.scope
    assert scope.label == "Linear"
    assert scope.token is model.layers[1].token
    assert scope.parent.label == "Sequential"
    held = weakref.ref(model)
    del model, scope
    gc.collect()
    assert held() is None
    assert y.node.scope.label == "Linear"


def test_scope_is_restored_after_an_error():
    from tinygrad_mm.graph import state

    layer = nn.Dense(2, 2, rng=0)
    with pytest.raises(ValueError, match="inner sizes"):
        layer(np.ones((1, 3), np.float32))
    assert state.scope is None


def test_sequential():
    model = nn.Sequential(nn.Dense(2, 3, rng=0), np.tanh, nn.Linear(3, 1, rng=1))
    assert len(model) == 3
    assert model[1] is np.tanh
    assert list(model)[0] is model[0]
    assert model(np.ones((4, 2), np.float32)).shape == (4, 1)
    assert "layers.0: Dense(2, 3)" in repr(model)


def test_summary_counts_shared_parameters_once():
    text = nn.summary(Tied())
    assert "first" in text
    assert "(3, 3)" in text
    assert text.splitlines()[-1].split()[-1] == str(12 + 8 + 2 + 1)
    shared = nn.Sequential(nn.Linear(2, 2, rng=0), nn.Linear(2, 2, rng=1))
    shared.layers[1].weight = shared.layers[0].weight
    assert "2 shared" in nn.summary(shared)
    assert nn.summary(shared).splitlines()[-1].split()[-1] == "8"
    with pytest.raises(TypeError, match="a Module is needed"):
        nn.summary(3)


# -- functions


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_are_stable_at_large_logits(dtype):
    x = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype)
    t = tg.Tensor(x, requires_grad=True)
    for f in (tg.sigmoid, tg.softmax, tg.log_softmax, tg.logsumexp, tg.tanh, tg.relu):
        y = f(t)
        assert np.isfinite(y.data).all()
        assert y.dtype == dtype
        assert np.array_equal(y.data, f(x))
        t.grad = None
        y.sum().backward()
        assert np.isfinite(t.grad).all()
    assert np.allclose(tg.softmax(x).sum(-1), 1)
    loss = tg.cross_entropy(t, [1, 0])
    assert np.isclose(loss.item(), (2e4 + math.log(3)) / 2)
    t.grad = None
    loss.backward()
    assert np.allclose(t.grad, [[0.5, -0.5, 0], [-1 / 3, 1 / 6, 1 / 6]])


@given(n=st.integers(1, 6), classes=st.integers(1, 5), seed=st.integers(0, 1000))
def test_cross_entropy_of_labels_and_of_probabilities(n, classes, seed):
    r = rng(seed)
    logits = r.standard_normal((n, classes))
    labels = r.integers(0, classes, n)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(p[np.arange(n), labels])
    assert np.allclose(tg.cross_entropy(logits, labels, reduction="none"), expected)
    assert np.allclose(tg.cross_entropy(logits, labels), expected.mean())
    assert np.allclose(tg.cross_entropy(tg.Tensor(logits), tg.Tensor(labels), reduction="sum").item(), expected.sum())
    q = r.dirichlet(np.ones(classes), n)
    assert np.allclose(tg.cross_entropy(logits, q, reduction="none"), -(q * np.log(p)).sum(1))
    x = tg.Tensor(logits, requires_grad=True)
    tg.cross_entropy(x, labels).backward()
    assert np.allclose(x.grad, (p - np.eye(classes)[labels]) / n)


def test_cross_entropy_refuses():
    logits = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"labels lie in 0..3, but logits of 3 classes allow 0..2"):
        tg.cross_entropy(logits, [0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"-1..2"):
        tg.cross_entropy(logits, [0, 1, 2, -1])
    with pytest.raises(ValueError, match=r"need integer labels of shape \(4,\)"):
        tg.cross_entropy(logits, [0, 1, 2])
    with pytest.raises(TypeError, match=r"labels.astype\(np.int64\)"):
        tg.cross_entropy(logits, np.zeros(4))
    with pytest.raises(ValueError, match="use 'mean', 'sum' or 'none'"):
        tg.cross_entropy(logits, [0, 1, 2, 0], reduction="average")


def test_two_layer_network_by_hand():
    """The whole story: loss and gradients equal to those written out by hand."""
    r = rng()
    x, labels = r.random((5, 4)), r.integers(0, 3, 5)
    model = nn.Sequential(nn.Dense(4, 6, "relu", rng=0, dtype=np.float64), nn.Dense(6, 3, rng=1, dtype=np.float64))
    loss = tg.cross_entropy(model(x), labels)
    loss.backward()
    (W1, b1), (W2, b2) = ((layer.weight.data, layer.bias.data) for layer in model)
    h = np.maximum(x @ W1 + b1, 0)
    z = h @ W2 + b2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dz = (p - np.eye(3)[labels]) / 5
    dh = dz @ W2.T * (h > 0)
    assert np.isclose(loss.item(), -np.log(p[np.arange(5), labels]).mean())
    for got, expected in zip(
        (p.grad for p in model.parameters()), (x.T @ dh, dh.sum(0), h.T @ dz, dz.sum(0)), strict=True
    ):
        assert np.allclose(got, expected)
