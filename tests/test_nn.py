"""Modules, dense layers, initialisation, network functions, losses."""

from __future__ import annotations

import copy
import gc
import math
import pickle
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
    assert next(iter(model)) is model[0]
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


# -- the life of a module


def test_state_is_saved_by_path_once_and_copied():
    model = Tied()
    state = model.state_dict()
    assert list(state) == ["first.weight", "first.bias", "more.a.weight", "more.a.bias", "more.b.0", "scale", "mean"]
    model.first.weight.data = np.zeros((3, 3), np.float32)
    assert state["first.weight"].any()
    other = Tied()
    for p in other.parameters():
        p.data = p.data * 0
    assert other.load_state_dict({**state, "mean": np.array([1.0, 2.0], np.float32)}) == ([], [])
    assert other.again is other.first
    assert np.array_equal(other.first.weight.data, state["first.weight"])
    assert np.array_equal(other.mean.data, [1, 2])
    state["scale"] += 1
    assert other.scale.item() == 2


def test_loading_keeps_the_optimizers_arrays():
    """Optimizers hold parameters as views of flat buffers: loading writes into them."""
    model = nn.Linear(3, 2, rng=0)
    optimizer = tg.optim.SGD(model.parameters(), 0.1)
    x = np.ones((4, 3), np.float32)
    model(x).sum().backward()
    optimizer.step()
    model.load_state_dict(nn.Linear(3, 2, rng=1).state_dict())
    optimizer.zero_grad()
    model(x).sum().backward()
    before = model.weight.data.copy()
    optimizer.step()
    assert np.allclose(model.weight.data, before - 0.1 * 4)


def test_loading_between_forward_and_backward_is_noticed():
    model = nn.Linear(3, 2, rng=0)
    loss = (model(tg.Tensor(np.ones((4, 3), np.float32), requires_grad=True)) ** 2).sum()
    model.load_state_dict(nn.Linear(3, 2, rng=1).state_dict())
    with pytest.raises(RuntimeError, match="was changed after add had read it"):
        loss.backward()


def test_loading_names_every_fault_and_changes_nothing():
    model = Tied()
    before = model.state_dict()
    state = model.state_dict()
    state["more.c"] = state.pop("more.b.0")
    state["first.bias"] = np.zeros(4, np.float32)
    state["scale"] = np.array(1.0)
    with pytest.raises(ValueError, match="nothing was changed") as error:
        model.load_state_dict(state)
    for part in ("first.bias has shape (4,), not (3,)", "scale is float64, not float32", "missing: more.b.0",
                 "unexpected: more.c", "strict=False", "model.to(np.float64)"):  # fmt: skip
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"first.bias has shape \(4,\)") as error:
        model.load_state_dict(state, strict=False)
    assert "missing" not in str(error.value)
    with pytest.raises(TypeError, match="dict of arrays by name, not list"):
        model.load_state_dict([1])
    with pytest.raises(TypeError, match="no array of numbers"):
        model.load_state_dict({**before, "scale": "text"})
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    del state["first.bias"], state["scale"]
    state["mean"] = np.array([5.0, 5.0], np.float32)
    assert model.load_state_dict(state, strict=False) == (["first.bias", "more.b.0", "scale"], ["more.c"])
    assert model.mean.data[0] == 5


def test_frozen_parameters_do_not_learn():
    model = Tied()
    names = [path for path, _ in model.named_parameters()]
    assert model.first.freeze() is model.first
    optimizer = tg.optim.SGD(model.parameters(), 0.1, weight_decay=0.5)
    before = model.state_dict()
    model(np.ones((2, 3), np.float32)).sum().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        assert np.array_equal(value, before[name]) == (name.startswith("first") or name == "mean"), name
    model.freeze()
    assert [path for path, _ in model.named_parameters()] == names  # `scale` is a plain Tensor, and still known
    assert not model(np.ones((2, 3), np.float32)).requires_grad
    model.unfreeze()
    assert all(p.requires_grad for p in model.parameters())
    model(np.ones((2, 3), np.float32)).sum().backward()


def test_forward_hooks():
    layer, seen = nn.Linear(3, 2, rng=0), []
    x = np.ones((4, 3), np.float32)
    plain = layer(x).data
    remove = [
        layer.register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].copy())),
        layer.register_forward_hook(lambda module, args, output: seen.append(module)),
        layer.register_forward_hook(lambda module, args, output: output + 1),
    ]
    assert np.allclose(layer(x).data, 2 * plain + 1)
    assert np.array_equal(seen[0], 2 * x)
    assert seen[1] is layer
    assert "_after" not in vars(copy.deepcopy(layer))
    assert [path for path, _ in layer.named_parameters()] == ["weight", "bias"]
    for undo in remove:
        undo()
        undo()
    assert np.array_equal(layer(x).data, plain)
    assert set(vars(layer)) == set(vars(nn.Linear(3, 2)))


def test_to_another_dtype():
    model = nn.Sequential(nn.Linear(3, 3, rng=0), nn.BatchNorm1d(3), nn.Embedding(2, 3, rng=0))
    model.counts = tg.Buffer([1, 2])
    model[0](np.ones((2, 3), np.float32)).sum().backward()
    assert model.to(np.float64) is model
    assert {a.dtype.name for name, a in model.state_dict().items() if name != "counts"} == {"float64"}
    assert model.counts.dtype == np.int64
    assert model[0].weight.grad.dtype == np.float64
    assert model[1](model[0](np.ones((2, 3)))).dtype == np.float64
    with pytest.raises(TypeError, match="floating numbers"):
        model.to(int)


def test_copies_and_pickles_work():
    model = nn.Sequential(
        nn.Dense(3, 3, "relu", rng=0), nn.BatchNorm1d(3), nn.ModuleDict({"a": nn.Linear(3, 2, rng=1)})
    )
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [path for path, _ in other.named_parameters()] == [path for path, _ in model.named_parameters()]
        assert other.token is not model.token
        x = np.ones((2, 3), np.float32)
        assert np.array_equal(other[0](x).data, model[0](x).data)


# -- summary of a forward pass


def test_summary_of_a_forward_pass_leaves_the_model_alone():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=0), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5, 0), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dense(36, 10, rng=1),
    )  # fmt: skip
    x = rng().standard_normal((5, 1, 8, 8)).astype(np.float32)
    before, draws = model.state_dict(), model[3].rng.bit_generator.state
    text = nn.summary(model, x)
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "(5, 4, 6, 6)" in lines["layers.0"]
    assert f"{5 * 4 * 36 * 9:,}" in lines["layers.0"]
    assert "(5, 4, 3, 3)" in lines["layers.4"]
    assert f"{5 * 36 * 10:,}" in lines["layers.6"]
    assert f"{5 * 4 * 36 * 9 + 5 * 36 * 10:,}" in lines["total"]
    assert all(np.array_equal(before[name], value) for name, value in model.state_dict().items())
    assert model[3].rng.bit_generator.state == draws
    assert model.training
    assert not any("_after" in vars(module) for _, module in model.named_modules())
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="images of 3 channels"):
        nn.summary(model, np.zeros((1, 3, 8, 8), np.float32))
    assert not any("_after" in vars(module) for _, module in model.named_modules())


def test_summary_counts_what_the_graph_keeps():
    """Two layers of x @ W + b and a relu: results of the product and of the sum, and of the relu; the input is ours."""
    model = nn.Sequential(nn.Dense(10, 20, "relu", rng=0), nn.Linear(20, 5, rng=0))
    x = np.zeros((1000, 10), np.float32)
    kept = 4 * 1000 * (3 * 20 + 2 * 5)
    assert nn.summary(model, x).splitlines()[-1].endswith(f"{kept / 1e6:.2f} MB")
    assert nn.summary(model.freeze(), x).splitlines()[-1].endswith("0.00 MB")


def test_summary_of_a_layer_used_twice_and_of_work_outside_layers():
    class Twice(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(4, 4, rng=0)

        def forward(self, x, times=1):
            y = self.layer(self.layer(x))
            return {"scores": (y @ y.T) * times, "y": [y]}

    lines = nn.summary(Twice(), np.ones((3, 4), np.float32), times=2).splitlines()
    assert lines[2].split()[:2] == ["(model)", "Twice"]
    assert "(3, 3), (3, 4)" in lines[2]
    assert f" {3 * 3 * 4} " in lines[2]
    assert f" {2 * 3 * 4 * 4} " in lines[3]


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
