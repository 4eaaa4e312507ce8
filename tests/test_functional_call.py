"""A module as a function of its parameters, and trees as vectors, against PyTorch, SciPy and the module itself."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn, optim

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((6, 3)), RNG.standard_normal((6, 2))
Pair = namedtuple("Pair", "left right")


class Nested(nn.Module):
    """Parameters in lists, tuples and dicts, one of them in two places; and a buffer that is assigned."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        shared = tg.Parameter(rng.standard_normal((3, 3)))
        self.layers = [nn.Dense(3, 3, "tanh", rng=rng).to(np.float64), {"last": nn.Dense(3, 2, rng=rng).to(np.float64)}]
        self.pair = Pair(shared, tg.Parameter(rng.standard_normal(3)))
        self.table = {"again": (shared, [tg.Parameter(rng.standard_normal(3))])}
        self.calls = nn.Buffer(np.zeros(1))

    def forward(self, x):
        self.calls.assign(self.calls + 1)
        y = self.layers[0](x @ self.pair.left + self.pair.right)
        y = np.tanh(y @ self.table["again"][0] * self.table["again"][1][0])
        return self.layers[1]["last"](y) + self.calls


def state(model):
    return {path: (id(t), t.value.copy()) for path, t in [*model.named_parameters(), *model.named_buffers()]}


def assert_unchanged(model, before):
    now = state(model)
    assert {path: key for path, (key, _) in now.items()} == {path: key for path, (key, _) in before.items()}
    for path, (_, array) in before.items():
        np.testing.assert_array_equal(now[path][1], array)


def others(model, seed=5):
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal(p.shape) for path, p in model.named_parameters()}


@settings(max_examples=30, deadline=None)
@given(chosen=st.sets(st.sampled_from(sorted(others(Nested())))), buffer=st.booleans())
def test_it_is_the_model_with_these_parameters(chosen, buffer):
    model, loaded = Nested(), Nested()
    given_ = {path: array for path, array in others(model).items() if path in chosen}
    if buffer:
        given_["calls"] = np.array([7.0])
    loaded.load_state_dict({**loaded.state_dict(), **given_})
    before = state(model)
    tensors = {path: tg.Tensor(a, requires_grad=path != "calls") for path, a in given_.items()}
    y = tg.functional_call(model, tensors, X)
    np.testing.assert_array_equal(y.data, loaded(X).data)
    if not buffer:
        before["calls"] = (before["calls"][0], before["calls"][1] + 1)
    assert_unchanged(model, before)

    loss = tg.mse_loss(y, Y)
    loss.backward()
    loaded.calls.data = np.array([7.0 if buffer else 0.0])
    tg.mse_loss(loaded(X), Y).backward()
    for path, p in loaded.named_parameters():
        own = dict(model.named_parameters())[path]
        found = tensors[path].grad if path in given_ else own.grad
        np.testing.assert_allclose(found, p.grad, rtol=1e-12)
        assert path not in given_ or own.grad is None


def test_the_model_is_as_it_was_after_an_error():
    model = Nested()
    before = state(model)
    with pytest.raises(ValueError, match="matmul"):
        tg.functional_call(model, others(model), X[:, :2])
    before["calls"] = (before["calls"][0], before["calls"][1] + 1)
    assert_unchanged(model, before)
    with pytest.raises(ValueError, match=r"Nested has no nothing; it has layers\.0\.weight"):
        tg.functional_call(model, {"nothing": X}, X)
    with pytest.raises(ValueError, match=r"pair\.1 has shape \(3,\), what is given \(3, 1\)"):
        tg.functional_call(model, {"pair.1": np.zeros((3, 1))}, X)


def test_a_step_of_gradient_descent_inside_the_loss_is_pytorchs():
    """MAML: second derivatives, by way of two calls."""
    torch = pytest.importorskip("torch")
    net = nn.Sequential(nn.Dense(3, 4, "tanh", rng=0), nn.Dense(4, 2, rng=1)).to(np.float64)
    there = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    names = {
        "layers.0.weight": "0.weight",
        "layers.0.bias": "0.bias",
        "layers.1.weight": "2.weight",
        "layers.1.bias": "2.bias",
    }
    with torch.no_grad():
        for own, name in names.items():
            array = dict(net.named_parameters())[own].data
            dict(there.named_parameters())[name].copy_(torch.from_numpy(array.T.copy() if array.ndim == 2 else array))

    def inner(parameters):
        return tg.mse_loss(tg.functional_call(net, parameters, X[:3]), Y[:3])

    def outer(parameters):
        gradient = tg.grad(inner)(parameters)
        adapted = {path: p - 0.1 * gradient[path] for path, p in parameters.items()}
        return tg.mse_loss(tg.functional_call(net, adapted, X[3:]), Y[3:])

    found = tg.grad(outer)({path: p.data.copy() for path, p in net.named_parameters()})

    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    own = dict(there.named_parameters())
    loss = torch.nn.functional.mse_loss(torch.func.functional_call(there, own, (x[:3],)), y[:3])
    gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True)
    adapted = {name: p - 0.1 * g for (name, p), g in zip(own.items(), gradients, strict=True)}
    torch.nn.functional.mse_loss(torch.func.functional_call(there, adapted, (x[3:],)), y[3:]).backward()
    for path, name in names.items():
        expected = own[name].grad.numpy()
        np.testing.assert_allclose(found[path], expected.T if expected.ndim == 2 else expected, rtol=1e-9, atol=1e-12)


def test_a_network_makes_the_weights_of_another():
    """A hypernetwork learns; the network that it makes has no part in it but its form. Compiled as well."""
    target, hyper = nn.Dense(3, 2, rng=0).to(np.float64), nn.Dense(4, 8, rng=1).to(np.float64)
    codes = RNG.standard_normal((1, 4))

    def loss(x, y):
        weights = tg.unflatten(hyper(codes)[0], like=target)
        return tg.mse_loss(tg.functional_call(target, weights, x), y)

    optimizer = optim.Adam(hyper.parameters(), 0.05)
    before = target.state_dict()
    compiled = tg.compile(loss)
    losses = []
    for i in range(60):
        value = (compiled if i % 2 else loss)(X, Y)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(np.array_equal(array, before[path]) for path, array in target.state_dict().items())


# ---------------------------------------------------------------------------------------------------------------------
# Vectors
# ---------------------------------------------------------------------------------------------------------------------

arrays = st.builds(
    lambda shape, kind, seed: np.asarray(10 * np.random.default_rng(seed).standard_normal(shape), kind),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from([np.float32, np.float64, np.int64]),
    st.integers(0, 99),
)
trees = st.recursive(
    arrays,
    lambda part: (
        st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab", max_size=2), part, max_size=3)
        | st.builds(Pair, part, part)
    ),
    max_leaves=6,
)


@given(tree=trees)
def test_any_tree_comes_back_from_its_vector(tree):
    leaves = tg.pytree.flatten(tree)
    if not leaves:
        with pytest.raises(ValueError, match="no leaves"):
            tg.flatten(tree)
        return
    vector = tg.flatten(tree)
    np.testing.assert_array_equal(vector, np.concatenate([leaf.value.reshape(-1) for leaf in leaves]))
    again = tg.unflatten(vector, tree)
    assert type(again) is type(tree)
    for one, other in zip(tg.pytree.flatten(again), leaves, strict=True):
        assert one.path == other.path
        assert one.value.dtype == other.value.dtype
        np.testing.assert_array_equal(one.value, other.value)
    with pytest.raises(ValueError, match=f"a vector of shape .* for a tree of {len(vector)} numbers"):
        tg.unflatten(np.append(vector, 0), tree)


def test_gradients_go_both_ways():
    tree = {"a": X, "b": [Y[0]]}

    def f(tree):
        return np.sum(np.sin(tree["a"])) + np.sum(tree["b"][0] ** 3)

    vector = tg.flatten(tree)
    expected = tg.grad(f)(tree)
    np.testing.assert_allclose(tg.grad(lambda v: f(tg.unflatten(v, tree)))(vector), tg.flatten(expected))
    squares = tg.grad(lambda tree: np.sum(tg.flatten(tree) ** 2))(tree)
    np.testing.assert_allclose(tg.flatten(squares), 2 * vector)
    model = nn.Dense(3, 2, rng=0)
    np.sum(tg.flatten(model) ** 2).backward()
    np.testing.assert_allclose(model.weight.grad, 2 * model.weight.data)
    with pytest.raises(TypeError, match="a leaf has dtype"):
        tg.flatten(["text"])


def test_scipy_minimizes_over_a_module():
    optimize = pytest.importorskip("scipy.optimize")
    model = nn.Dense(3, 2, rng=0).to(np.float64)

    def loss(vector):
        return tg.mse_loss(tg.functional_call(model, tg.unflatten(vector, model), X), Y)

    start = tg.flatten(model).detach().numpy()
    found = optimize.minimize(tg.value_and_grad(loss), start, jac=True, method="L-BFGS-B", tol=1e-12)
    design = np.hstack([X, np.ones((6, 1))])
    expected = np.linalg.lstsq(design, Y, rcond=None)[0]
    best = tg.unflatten(found.x, model)
    np.testing.assert_allclose(best["weight"], expected[:3], atol=1e-4)
    np.testing.assert_allclose(best["bias"], expected[3], atol=1e-4)
