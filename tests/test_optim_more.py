"""Relatives of Adam, and optimizers that need parameters whole, against their papers and PyTorch; L-BFGS."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from update_rules import parameters

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.optim import flat as runner
from tinygrad_mm.optim.whole import orthogonalized

# -- the papers' updates, in float64


def adadelta(w, g, s, t, learning_rate=1.0, smoothing=0.9, epsilon=1e-6, weight_decay=0.0):
    """Algorithm 1 of Zeiler 2012."""
    g = g + weight_decay * w
    s["g"] = smoothing * s.get("g", 0) + (1 - smoothing) * g**2
    d = np.sqrt(s.get("d", 0) + epsilon) / np.sqrt(s["g"] + epsilon) * g
    s["d"] = smoothing * s.get("d", 0) + (1 - smoothing) * d**2
    return w - learning_rate * d


def adamax(w, g, s, t, learning_rate=2e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0):
    """Algorithm 2 of Kingma and Ba 2015."""
    g = g + weight_decay * w
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["u"] = np.maximum(betas[1] * s.get("u", 0), np.abs(g) + epsilon)
    return w - learning_rate / (1 - betas[0] ** t) * s["m"] / s["u"]


def amsgrad(w, g, s, t, learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0):
    """Algorithm 2 of Reddi et al. 2018, with Adam's corrections."""
    g = g + weight_decay * w
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    s["top"] = np.maximum(s.get("top", 0), s["v"])
    return w - learning_rate * (s["m"] / (1 - betas[0] ** t)) / (np.sqrt(s["top"] / (1 - betas[1] ** t)) + epsilon)


def radam(w, g, s, t, learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0):
    """Algorithm 2 of Liu et al. 2020, with rho > 5."""
    g = g + weight_decay * w
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    m = s["m"] / (1 - betas[0] ** t)
    most = 2 / (1 - betas[1]) - 1
    rho = most - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
    if rho <= 5:
        return w - learning_rate * m
    r = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return w - learning_rate * m * r * math.sqrt(1 - betas[1] ** t) / (np.sqrt(s["v"]) + epsilon)


def nadam(w, g, s, t, learning_rate=2e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0, momentum_decay=4e-3):
    """Algorithm 2 of Dozat 2016."""
    g = g + weight_decay * w
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    mu = [betas[0] * (1 - 0.5 * 0.96 ** (momentum_decay * i)) for i in range(1, t + 2)]
    ahead = mu[-1] * s["m"] / (1 - np.prod(mu)) + (1 - mu[-2]) * g / (1 - np.prod(mu[:-1]))
    return w - learning_rate * ahead / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + epsilon)


def lamb(w, g, s, t, learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-6, weight_decay=1e-2):
    """Algorithm 2 of You et al. 2020, with phi(z) = z."""
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    r = s["m"] / (1 - betas[0] ** t) / (np.sqrt(s["v"] / (1 - betas[1] ** t)) + epsilon) + weight_decay * w
    lengths = np.linalg.norm(w), np.linalg.norm(r)
    return w - learning_rate * (lengths[0] / lengths[1] if min(lengths) > 0 else 1) * r


def muon(w, g, s, t, learning_rate=1e-3, momentum=0.95, nesterov=True, weight_decay=1e-2, steps=5, match_adam=True):
    """Jordan et al. 2024, by singular values: those of Newton-Schulz's polynomial, applied to them `steps` times."""
    if w.ndim < 2:
        s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
        s["v"] = 0.95 * s.get("v", 0) + 0.05 * g**2
        step = s["m"] / (1 - 0.9**t) / (np.sqrt(s["v"] / (1 - 0.95**t)) + 1e-8)
        return (1 - learning_rate * weight_decay) * w - learning_rate * step
    s["b"] = momentum * s.get("b", 0) + g
    direction = (g + momentum * s["b"] if nesterov else s["b"]).reshape(w.shape[0], math.prod(w.shape[1:]))
    rows, columns = direction.shape
    outputs, inputs = (columns, rows) if w.ndim == 2 else (rows, columns)
    if direction.size:
        left, values, right = np.linalg.svd(direction, full_matrices=False)
        values = values / (np.linalg.norm(values) + 1e-7)
        for _ in range(steps):
            values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
        direction = (left * values) @ right
    scale = 0.2 * math.sqrt(max(rows, columns)) if match_adam else math.sqrt(max(1, outputs / max(inputs, 1)))
    return (1 - learning_rate * weight_decay) * w - learning_rate * scale * direction.reshape(w.shape)


ELEMENTWISE = [
    (optim.Adadelta, adadelta, {}),
    (optim.Adadelta, adadelta, {"learning_rate": 0.5, "smoothing": 0.8, "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.Adamax, adamax, {}),
    (optim.Adamax, adamax, {"learning_rate": 0.02, "betas": (0.8, 0.9), "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.AMSGrad, amsgrad, {}),
    (optim.AMSGrad, amsgrad, {"learning_rate": 0.02, "betas": (0.8, 0.5), "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.RAdam, radam, {}),
    (optim.RAdam, radam, {"learning_rate": 0.02, "betas": (0.8, 0.9), "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.NAdam, nadam, {}),
    (optim.NAdam, nadam, {"learning_rate": 0.02, "betas": (0.8, 0.9), "momentum_decay": 0.1, "weight_decay": 0.1}),
]
WHOLE = [
    (optim.LAMB, lamb, {}),
    (optim.LAMB, lamb, {"learning_rate": 0.02, "betas": (0.8, 0.9), "epsilon": 1e-3, "weight_decay": 0.0}),
    (optim.Muon, muon, {}),
    (optim.Muon, muon, {"learning_rate": 0.02, "momentum": 0.5, "nesterov": False, "steps": 3, "match_adam": False}),
    (optim.Muon, muon, {"weight_decay": 0.0, "match_adam": False}),
]
SHAPES = [(3, 4), (), (5,), (0, 2), (7, 1), (2, 3, 2)]


def followed(kind, formula, options, ps, steps):
    """Train with the optimizer and with the formula, side by side."""
    expected = [p.data.astype(np.float64) for p in ps]
    states = [{} for _ in ps]
    optimizer = kind(ps, **options)
    r = np.random.default_rng(1)
    for t in range(1, steps + 1):
        for i, p in enumerate(ps):
            p.grad = r.standard_normal(p.shape).astype(p.dtype)
            expected[i] = formula(expected[i], p.grad.astype(np.float64), states[i], t, **options)
        optimizer.step()
    return expected


@pytest.mark.parametrize(("kind", "formula", "options"), [*ELEMENTWISE, *WHOLE])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-11), (np.float32, 5e-5), (np.float16, 1e-2)])
@pytest.mark.parametrize("block", [4, 1 << 15])
def test_optimizers_follow_their_papers(kind, formula, options, dtype, tolerance, block, monkeypatch):
    monkeypatch.setattr(runner, "EAGER_BLOCK", block)
    ps = parameters(SHAPES, dtype)
    expected = followed(kind, formula, options, ps, steps=9)
    for p, e in zip(ps, expected, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p.data, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("kind", "formula", "options"), ELEMENTWISE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_updates_are_the_same(kind, formula, options, dtype):
    pytest.importorskip("numba", reason="Numba is not installed: pip install 'tinygrad_mm[numba]'")
    ps, qs = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    followed(kind, formula, options, ps, 6)
    followed(lambda ps, **options: kind(ps, **options, fused=True), formula, options, qs, 6)
    eps = np.finfo(dtype).eps
    for p, q in zip(ps, qs, strict=True):
        np.testing.assert_allclose(q.data, p.data, rtol=32 * eps, atol=32 * eps)


THEIRS = {
    "Adadelta": ({"weight_decay": 0.1}, {"weight_decay": 0.1, "lr": 1.0}),
    "Adamax": ({"betas": (0.8, 0.9)}, {"betas": (0.8, 0.9)}),
    "RAdam": ({"betas": (0.8, 0.9)}, {"betas": (0.8, 0.9)}),
    "NAdam": ({"momentum_decay": 0.01}, {"momentum_decay": 0.01}),
    "AMSGrad": ({"betas": (0.8, 0.5)}, {"betas": (0.8, 0.5), "amsgrad": True}),
}


@pytest.mark.parametrize("name", THEIRS)
def test_updates_are_pytorchs(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    options, options_there = THEIRS[name]
    ps = parameters([(3, 4), (5,)])
    ts = [torch.nn.Parameter(torch.tensor(p.data)) for p in ps]
    ours = getattr(optim, name)(ps, learning_rate=0.05, **options)
    theirs = getattr(torch.optim, name if name != "AMSGrad" else "Adam")(ts, **{**options_there, "lr": 0.05})
    for step in range(20):
        for i, (p, t) in enumerate(zip(ps, ts, strict=True)):
            p.grad = np.random.default_rng([step, i]).standard_normal(p.shape)
            t.grad = torch.tensor(p.grad)
        ours.step()
        theirs.step()
    for p, t in zip(ps, ts, strict=True):
        np.testing.assert_allclose(p.data, t.detach().numpy(), rtol=1e-7, atol=1e-9)


# -- Muon


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99))
def test_orthogonalized(rows, columns, seed):
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    found = orthogonalized(matrix, steps=8)
    middle = left.T @ found @ right.T
    assert np.allclose(middle, np.diag(np.diagonal(middle)), atol=1e-8)  # the singular vectors stay
    apart = values > 1e-2 * values[0]
    assert np.all(np.abs(np.diagonal(middle)[apart] - 0.95) < 0.3)


def test_muon_is_the_same_for_a_weight_and_its_transpose():
    g = np.random.default_rng(0).standard_normal((4, 9))
    assert np.allclose(orthogonalized(g), orthogonalized(g.T).T)


def test_groups_of_muon():
    model = nn.Sequential(nn.Embedding(5, 4, rng=0), nn.Dense(4, 4, "relu", rng=1), nn.Linear(4, 3, rng=2))
    embedding, hidden, output = model.layers
    optimizer = optim.Muon(
        [
            {"parameters": hidden.parameters()},
            {"parameters": [*embedding.parameters(), *output.parameters()], "orthogonal": False, "learning_rate": 0.1},
        ]
    )
    assert [(g["orthogonal"], len(g["parameters"])) for g in optimizer.groups] == [(True, 1), (False, 1), (False, 3)]
    assert optimizer.state_names(optimizer.groups[0]) == ("velocity",)
    assert optimizer.state_names(optimizer.groups[2]) == ("mean", "mean_square")
    with pytest.raises(ValueError, match="fewer than two axes"):
        optim.Muon([{"parameters": [hidden.bias], "orthogonal": True}])
    with pytest.raises(ValueError, match="steps=0 must be a positive integer"):
        optim.Muon(model.parameters(), steps=0)
    with pytest.raises(ValueError, match="no parameters to optimize"):
        optim.Muon([])


# -- compiled steps, saving


class Net(nn.Module):
    def __init__(self):
        self.first = nn.Dense(5, 6, "tanh", rng=0)
        self.norm = nn.LayerNorm(6)
        self.last = nn.Linear(6, 3, rng=1)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("kind", "formula", "options"), [*ELEMENTWISE[1::2], *WHOLE])
def test_compiled_steps_are_eager_ones(kind, formula, options, backend):
    if backend == "numba":
        pytest.importorskip("numba", reason="Numba is not installed: pip install 'tinygrad_mm[numba]'")
    eager, compiled = Net().to(np.float64), Net().to(np.float64)
    schedule = optim.linear({0: 0.01, 4: 0.002})
    theirs = kind(eager.parameters(), **{**options, "learning_rate": schedule})
    ours = kind(compiled.parameters(), **{**options, "learning_rate": schedule})
    step = tg.compile_step(compiled, tg.cross_entropy, ours, backend=backend)
    for turn in range(5):
        r = np.random.default_rng(turn)
        x, y = r.standard_normal((8, 5)), r.integers(0, 3, 8)
        loss = tg.cross_entropy(eager(x), y)
        loss.backward()
        theirs.step()
        theirs.zero_grad()
        assert abs(step(x, y) - loss.item()) < 1e-10
        for (path, p), (_, q) in zip(eager.named_parameters(), compiled.named_parameters(), strict=True):
            np.testing.assert_allclose(q.data, p.data, rtol=1e-7, atol=1e-9, err_msg=path)
    one, other = ours.state_dict(), theirs.state_dict()
    assert one["options"] == other["options"]
    for name, value in other["state"].items():
        np.testing.assert_allclose(one["state"][name], value, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize(("kind", "formula", "options"), [*ELEMENTWISE[1::2], *WHOLE])
def test_resumed_training_is_the_same(kind, formula, options):
    def trained(ps, optimizer, start, stop):
        for t in range(start, stop):
            for i, p in enumerate(ps):
                p.grad = np.random.default_rng([t, i]).standard_normal(p.shape).astype(p.dtype)
            optimizer.step()

    ps = parameters(SHAPES, np.float32)
    optimizer = kind(ps, **options)
    trained(ps, optimizer, 0, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    qs = [tg.Parameter(p.data.copy()) for p in ps]
    other = kind(qs, **options)
    other.load_state_dict(saved)
    trained(ps, optimizer, 4, 8)
    trained(qs, other, 4, 8)
    for p, q in zip(ps, qs, strict=True):
        assert np.array_equal(p.data, q.data)


def test_saved_programs_have_no_formulas_of_whole_parameters(tmp_path):
    model = Net()
    step = tg.compile_step(model, tg.cross_entropy, optim.LAMB(model.parameters()))
    step(np.ones((4, 5), np.float32), np.array([0, 1, 2, 0]))
    assert "update_all(parameters, gradients, mean, mean_square)" in step.source
    with pytest.raises(TypeError, match="the update of LAMB is a call of its formula"):
        step.save(tmp_path / "step.py")


def test_sources():
    p = [tg.Parameter([1.0])]
    assert "trust" in optim.LAMB(p).source
    assert "def update(" in optim.NAdam(p).source


def test_threads_share_a_batch_with_formulas_that_need_parameters_whole():
    from compared_steps import with_threads

    eager, compiled = Net().to(np.float64), Net().to(np.float64)
    theirs, ours = optim.LAMB(eager.parameters(), 0.01), optim.LAMB(compiled.parameters(), 0.01)
    with with_threads(2):
        step = tg.compile_step(compiled, tg.cross_entropy, ours)
        for turn in range(3):
            r = np.random.default_rng(turn)
            x, y = r.standard_normal((16, 5)), r.integers(0, 3, 16)
            tg.cross_entropy(eager(x), y).backward()
            theirs.step()
            theirs.zero_grad()
            step(x, y)
    for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
        np.testing.assert_allclose(q.data, p.data, rtol=1e-9, atol=1e-10)


# -- L-BFGS


def rosenbrock(w):
    return np.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


@pytest.mark.parametrize("n", [2, 10])
def test_lbfgs_finds_the_minimum(n):
    w = tg.Parameter(np.full(n, -1.2), dtype=np.float64)
    optimizer = optim.LBFGS([w], iterations=200, change_tolerance=1e-14)
    asked = []

    def loss():
        asked.append(1)
        return rosenbrock(w)

    first = optimizer.step(closure_of(optimizer, loss))
    assert first == pytest.approx(float(rosenbrock(np.full(n, -1.2))))
    assert np.allclose(w.data, 1, atol=1e-5)
    assert len(asked) < 40 * math.sqrt(n)


def test_lbfgs_is_exact_on_a_quadratic_after_as_many_steps_as_there_are_directions():
    r = np.random.default_rng(0)
    a = r.standard_normal((6, 6))
    a, b = a @ a.T + np.eye(6), r.standard_normal(6)
    w = tg.Parameter(np.zeros(6), dtype=np.float64)
    optimizer = optim.LBFGS([w], iterations=60, gradient_tolerance=1e-11, change_tolerance=0.0)
    optimizer.step(closure_of(optimizer, lambda: 0.5 * (w @ a @ w) - b @ w))
    assert np.allclose(w.data, np.linalg.solve(a, b), atol=1e-9)


@given(seed=st.integers(0, 50))
def test_each_move_satisfies_wolfes_conditions(seed):
    """Sufficient decrease and a flatter slope, for smooth losses of any make."""
    r = np.random.default_rng(seed)
    a, b = r.standard_normal((5, 3)), r.standard_normal(5)
    w = tg.Parameter(3 * r.standard_normal(3), dtype=np.float64)
    optimizer = optim.LBFGS([w], iterations=1)
    loss = lambda v: np.sum(np.cos(a @ v - b)) + 0.1 * np.sum(v * v)
    for _ in range(6):
        start = w.data.copy()
        before, slope = tg.value_and_grad(loss)(start)
        optimizer.step(closure_of(optimizer, lambda: loss(w)))
        after, there = tg.value_and_grad(loss)(w.data)
        move = w.data - start
        if not move.any():
            break
        down = float(np.asarray(slope) @ move)
        assert down < 0
        assert float(after) <= float(before) + 1e-4 * down + 1e-12
        assert abs(float(np.asarray(there) @ move)) <= 0.9 * abs(down) + 1e-12


@pytest.mark.parametrize("history", [2, 10])
def test_lbfgs_without_a_search_is_pytorchs(history):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    r = np.random.default_rng(0)
    x, y = r.standard_normal((30, 4)), r.integers(0, 3, 30)
    start = r.standard_normal((4, 3))
    w, t = tg.Parameter(start.copy(), dtype=np.float64), torch.nn.Parameter(torch.tensor(start))
    ours = optim.LBFGS([w], 0.5, iterations=4, history=history, line_search=False)
    theirs = torch.optim.LBFGS([t], lr=0.5, max_iter=4, history_size=history)

    def closure():
        theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.tensor(x) @ t, torch.tensor(y))
        loss.backward()
        return loss

    for _ in range(4):
        one = ours.step(closure_of(ours, lambda: tg.cross_entropy(x @ w, y)))
        other = theirs.step(closure)
        assert one == pytest.approx(other.item(), rel=1e-9)
        np.testing.assert_allclose(w.data, t.detach().numpy(), rtol=1e-7, atol=1e-9)


def test_lbfgs_trains_a_network_and_resumes():
    def make():
        return Net(), np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)

    model, x = make()
    y = np.random.default_rng(1).integers(0, 3, 40)
    optimizer = optim.LBFGS(model.parameters(), iterations=5)
    losses = [optimizer.step(closure_of(optimizer, lambda: tg.cross_entropy(model(x), y))) for _ in range(6)]
    assert losses[-1] < 0.3 * losses[0]
    other, _ = make()
    other.load_state_dict(model.state_dict())
    resumed = optim.LBFGS(other.parameters(), iterations=5)
    resumed.load_state_dict(optimizer.state_dict())
    for _ in range(2):
        one = optimizer.step(closure_of(optimizer, lambda: tg.cross_entropy(model(x), y)))
        assert one == resumed.step(closure_of(resumed, lambda: tg.cross_entropy(other(x), y)))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert np.array_equal(p.data, q.data)


def test_lbfgs_leaves_frozen_parameters_alone():
    model, x, y = Net(), np.ones((4, 5), np.float32), np.array([0, 1, 2, 0])
    optimizer = optim.LBFGS(model.parameters(), iterations=2)
    optimizer.step(closure_of(optimizer, lambda: tg.cross_entropy(model(x), y)))
    model.first.freeze()
    before = model.first.weight.data.copy()
    optimizer.step(closure_of(optimizer, lambda: tg.cross_entropy(model(x), y)))
    assert np.array_equal(model.first.weight.data, before)


def test_lbfgs_goes_on_where_a_loss_is_infinite():
    w = tg.Parameter(np.array([3.0]), dtype=np.float64)
    optimizer = optim.LBFGS([w], learning_rate=1000.0, iterations=30)
    with np.errstate(all="ignore"):
        optimizer.step(closure_of(optimizer, lambda: np.sum(w - np.log(w))))  # NaN below 0
    assert np.allclose(w.data, 1, atol=1e-4)


def test_lbfgs_refuses():
    model, data = Net(), (np.ones((4, 5), np.float32), np.array([0, 1, 2, 0]))
    with pytest.raises(TypeError, match=r"compile_step: LBFGS asks for the loss several times.*step\(closure\)"):
        tg.compile_step(model, tg.cross_entropy, optim.LBFGS(model.parameters()))(*data)
    with pytest.raises(TypeError, match="fit: LBFGS asks"):
        tg.fit(model, data, tg.cross_entropy, optim.LBFGS(model.parameters()), epochs=1)
    w = tg.Parameter([1.0])
    for options, message in (
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive"),
        ({"iterations": 0}, "iterations=0 must be a positive integer"),
        ({"history": 0}, "history=0 must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            optim.LBFGS([w], **options)
    with pytest.raises(ValueError, match="no parameters"):
        optim.LBFGS([])
    with pytest.raises(TypeError, match="floating leaf Tensors"):
        optim.LBFGS([np.ones(2)])
    with pytest.raises(TypeError, match="the closure returned NoneType"):
        optim.LBFGS([w]).step(lambda: None)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optim.LBFGS([w]).step(lambda: 1.0)
    optimizer = optim.LBFGS([w])
    for saved in ({}, {"state": {}, "options": {"optimizer": "SGD", "steps": 0, "moves": 0}}):
        with pytest.raises(ValueError, match="LBFGS"):
            optimizer.load_state_dict(saved)


# -- schedules

SCHEDULES = {
    "polynomial": (
        lambda: optim.polynomial(0.1, steps=7, power=2.5),
        lambda s, o: s.PolynomialLR(o, total_iters=7, power=2.5),
    ),
    "several steps": (
        lambda: optim.step_decay(0.1, at=[2, 5, 6], factor=0.3),
        lambda s, o: s.MultiStepLR(o, [2, 5, 6], gamma=0.3),
    ),
    "restarts": (
        lambda: optim.cosine_with_restarts(0.1, 3, growth=2, minimum=0.01),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, T_mult=2, eta_min=0.01),
    ),
    "one cycle": (
        lambda: optim.linear({0: 0.004, 5: 0.1, 10: 0.004, 19: 4e-7}),
        lambda s, o: s.OneCycleLR(
            o, 0.1, total_steps=20, pct_start=0.3, anneal_strategy="linear", three_phase=True, final_div_factor=1e4
        ),
    ),
    "warm-up, then restarts": (
        lambda: optim.joined({0: optim.linear({0: 0.02, 4: 0.1}), 4: optim.cosine_with_restarts(0.1, 3)}),
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o, 0.2, total_iters=4), s.CosineAnnealingWarmRestarts(o, 3)], milestones=[4]
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_schedules_are_pytorchs(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    ours, theirs = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule, there = ours(), theirs(torch.optim.lr_scheduler, optimizer)
    for step in range(20):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12), step
        optimizer.step()
        if step < 19:
            there.step()


def test_polynomial_refuses():
    with pytest.raises(ValueError, match="steps=0 must be a whole number"):
        optim.polynomial(0.1, 0)
    with pytest.raises(ValueError, match="power=-1"):
        optim.polynomial(0.1, 3, power=-1)
