"""`compile` keeps the meaning of a function: arguments and results, layers and losses, randomness, buffers.

Eager is the oracle: each test runs the same program with and without `compile`. `test_compile_properties.py` does so for
every operation, `test_compile_misuse.py` has what is refused.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import pytest
from agreement import assert_agree, assert_close
from compiled_calls import leaf, normal, rng

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim


def agree(f, *args, calls=2, **kwargs):
    """The compiled function returns what f returns, call after call."""
    compiled = tg.compile(f)
    for _ in range(calls):
        assert_agree(compiled(*args, **kwargs), f(*args, **kwargs))
    assert len(compiled.plans) == 1
    return compiled


class Pair(NamedTuple):
    one: Any
    other: Any


# ---------------------------------------------------------------------------------------------------------------------
# Arguments and results
# ---------------------------------------------------------------------------------------------------------------------


def test_containers_in_and_out():
    def f(batch, scale=1.0, *, pair, flags=()):
        x, (y, z) = batch["x"], batch["rest"]
        return {
            "sum": x * scale + y,
            "all": [z, (x, pair.one)],
            "pair": Pair(pair.other - z, "text"),
            "none": None,
            "n": 3,
        }

    x, y, z = leaf(2, 3), normal(2, 3, seed=1), tg.Tensor(normal(3, seed=2))
    compiled = agree(f, {"x": x, "rest": [y, z]}, 2.0, pair=Pair(x, y), flags=(True, None))
    compiled({"x": x, "rest": [y, z]}, 2.0, pair=Pair(x, y))["sum"].sum().backward()
    assert np.array_equal(x.grad, np.full((2, 3), 2, np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_])
@pytest.mark.parametrize("tensor", [True, False])
def test_dtypes(dtype, tensor):
    a = (normal(4, 3) * 3).astype(dtype)
    b = (normal(3, seed=1) * 3).astype(dtype)
    if tensor:
        a, b = tg.Tensor(a), tg.Tensor(b)
    agree(
        lambda a, b: (a + b, a * b, a > b, a * 2, np.where(a > b, a, b), a.sum(0), np.max(a, axis=1), a[1:], a.T), a, b
    )
    agree(lambda a, b: (a * 0.5, np.sqrt(abs(a * 1.0)), a.astype(np.float32), -(a * 1)), a, b)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,), (3, 1, 2)])
def test_shapes_without_axes_and_empty_ones(shape):
    x = leaf(*shape)
    compiled = agree(lambda x: (np.tanh(x) * 2 + x, np.sum(x), x.reshape(-1)), x)
    for call in (compiled, compiled.function):
        x.grad = None
        sum(t.sum() for t in call(x)).backward()
        assert_close(x.grad, 2 * (1 - np.tanh(x.data) ** 2) + 3)


def test_layouts():
    def f(x):
        return x.reshape(-1), x.T @ x, x.sum(axis=0), x[::-1], np.concatenate([x, x]), x + x.T[: len(x), : len(x)].sum()

    base = normal(6, 8)
    compiled = tg.compile(f)
    for a in (
        base[:3, :4].copy(),
        base[::2, ::2],
        np.asfortranarray(base[:3, :4]),
        base[:3, :4][::-1, ::-1],
        base.T[:3, :4],
    ):
        assert_agree(compiled(a), f(a))
        assert_agree(compiled(tg.Tensor(a, requires_grad=True)), f(tg.Tensor(a, requires_grad=True)))


def test_results_are_what_the_function_itself_returns():
    x = normal(3)
    compiled = tg.compile(lambda x: (x + 1, np.sum(x), x.mean(), x))
    assert [type(t) for t in compiled(x)] == [np.ndarray, np.float32, np.float32, np.ndarray]
    assert [type(t) for t in compiled(tg.Tensor(x))] == [tg.Tensor] * 4
    assert type(tg.compile(nn.ReLU())(x)) is tg.Tensor  # a layer makes Tensors of arrays


def test_results_belong_to_the_caller():
    w = leaf(3)

    @tg.compile
    def f(x):
        y = np.exp(x * w)
        return y, y.detach(), x, w, np.zeros(3, np.float32), np.sum(y * y)

    x = leaf(3, seed=1)
    first = f(x)
    kept = [t.detach().data.copy() if hasattr(t, "detach") else t.copy() for t in first]
    for t in first[:-1]:
        getattr(t, "value", t)[...] = -100
    assert_close(x.data, normal(3, seed=1))
    assert_close(w.data, normal(3))
    first[-1].backward()
    assert_close(x.grad, 2 * np.exp(2 * x.data * w.data) * w.data)
    second = f(x)
    for t, before in zip(second, kept, strict=True):
        assert_close(getattr(t, "value", t), before)


def test_python_arguments_and_shapes_have_programs_of_their_own():
    def f(x, n, mode="a"):
        return x * n if mode == "a" else x - n

    compiled = tg.compile(f)
    x = normal(3)
    for args in (
        (x, 2),
        (x, 3),
        (x, 2.0),
        (x, 2, "b"),
        (x, True),
        (normal(4), 2),
        (x.astype(np.float64), 2),
        (x, 0.0),
        (x, -0.0),
    ):
        assert_agree(compiled(*args), f(*args))
        assert np.array_equal(np.signbit(compiled(*args)), np.signbit(f(*args)))
    assert len(compiled.plans) == 9
    assert_agree(compiled(x, mode="b", n=5), f(x, 5, "b"))
    for _ in range(3):
        compiled(x, float("nan"))
    assert len(compiled.plans) == 11


def test_the_number_of_programs_is_bounded(caplog):
    compiled = tg.compile(lambda x: x * 2, max_signatures=3)
    with caplog.at_level(logging.INFO, "tinygrad_mm.compile"):
        for n in [1, 2, 3, 1, 4, 5, 6, 1]:
            assert_agree(compiled(np.ones(n)), np.full(n, 2.0))
    assert len(compiled.plans) == 3
    assert [r.levelname for r in caplog.records].count("WARNING") == 1
    assert sum("traced <lambda> for x float64(" in r.message for r in caplog.records) == 7
    assert "Pass numbers that change as arrays" in caplog.text
    with pytest.raises(ValueError, match="at least one program"):
        tg.compile(lambda x: x, max_signatures=0)


def test_the_same_tensor_twice_and_a_parameter_as_an_argument():
    w = leaf(3)

    def f(a, b, c):
        return np.sum(a * b * w * c["w"])

    for call in (f, tg.compile(f)):
        w.grad = None
        call(w, w, {"w": w}).backward()
        assert_close(w.grad, 4 * w.data**3)


def test_gradients_that_nobody_asked_for_stay_none():
    used, unused, cut = leaf(3), leaf(3, seed=1), leaf(3, seed=2)

    def f(x, y):
        with tg.no_grad():
            scale = np.sum(cut * 2)
        return np.sum(x * used) * scale, np.sum(np.sin(unused * 3)), y.shape

    x, y = leaf(3, seed=3), leaf(3, seed=4)
    for call in (f, tg.compile(f)):
        for t in (used, unused, cut, x, y):
            t.grad = None
        call(x, y)[0].backward()
        assert [t.grad is None for t in (used, unused, cut, x, y)] == [False, True, True, False, True]
        second = call(x, y)
        (second[0] + second[1]).backward()
        assert_close(unused.grad, 3 * np.cos(3 * unused.data))


# ---------------------------------------------------------------------------------------------------------------------
# Layers, losses, randomness, buffers
# ---------------------------------------------------------------------------------------------------------------------

LAYERS = {
    "Dense": (lambda: nn.Dense(4, 3, "gelu", rng=0), [(2, 4)]),
    "Linear": (lambda: nn.Linear(4, 3, bias=False, rng=0), [(2, 3, 4)]),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (2, 3), 2, 1, (1, 2), 2, rng=0), [(2, 4, 6, 7)]),
    "Conv2d, same": (lambda: nn.Conv2d(2, 3, 3, padding="same", rng=0), [(2, 2, 4, 5)]),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), [(2, 3, 5, 4)]),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), [(2, 3, 5, 4)]),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), [(5, 3)]),
    "BatchNorm1d, length": (lambda: nn.BatchNorm1d(3), [(2, 3, 4)]),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), [(2, 3, 4, 2)]),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), [(2, 3, 4)]),
    "Dropout": (lambda: nn.Dropout(0.4, rng=3), [(6, 7)]),
    "Flatten": (lambda: nn.Flatten(), [(2, 3, 4)]),
    "Residual": (lambda: nn.Residual(nn.Dense(4, 4, "tanh", rng=0)), [(2, 4)]),
    "Sequential": (lambda: nn.Sequential(nn.Dense(4, 3, "silu", rng=0), np.sin, nn.Dropout(0.5, rng=1)), [(5, 4)]),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(4, 2, rng=0), [(2, 3, 4)]),
    "MultiHeadAttention, cross": (lambda: nn.MultiHeadAttention(4, 2, rng=0), [(2, 3, 4), (2, 5, 4)]),
    "GRU": (lambda: nn.GRU(3, 4, layers=2, rng=0), [(2, 5, 3), (2, 2, 4)]),
    "GRUCell": (lambda: nn.GRUCell(3, 4, rng=0), [(2, 3), (2, 4)]),
    **{
        name: (getattr(nn, name), [(2, 4)])
        for name in ("ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Softplus", "Sigmoid", "Tanh", "Softmax", "LogSoftmax")
    },
}  # fmt: skip


def passes(call, model, xs, labels=()):
    """The result, and the gradients of a weighted sum of it with respect to inputs and parameters."""
    targets = [*xs, *model.parameters()]
    for t in targets:
        t.grad = None
    result = call(*xs, *labels)
    outputs = result if isinstance(result, tuple) else (result,)
    sum((t * rng(i).uniform(0.5, 1.5, t.shape).astype(t.dtype)).sum() for i, t in enumerate(outputs)).backward()
    return outputs, [t.grad for t in targets], [b.data.copy() for _, b in model.named_buffers()]


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    """In training and evaluation, call after call: values, all gradients, running statistics, states of generators."""
    make, shapes = LAYERS[name]
    eager, other = make(), make()
    compiled = tg.compile(other)
    for step, (training, dtype) in enumerate(
        [(True, np.float32), (True, np.float32), (False, np.float32), (True, np.float64)]
    ):
        for model in (eager, other):
            model.train(training)
            if dtype == np.float64 and list(model.named_modules()):
                model.to(dtype)
        other.load_state_dict(eager.state_dict())
        arrays = [normal(*shape, seed=10 * step + i, dtype=dtype) for i, shape in enumerate(shapes)]
        xs, ys = ([tg.Tensor(a, requires_grad=True) for a in arrays] for _ in range(2))
        found = passes(compiled, other, ys)
        assert_agree(found, passes(eager, eager, xs), length=1000)
        for (_, a), (_, b) in zip(eager.named_generators(), other.named_generators(), strict=True):
            assert a.bit_generator.state == b.bit_generator.state


def test_an_embedding():
    layer = nn.Embedding(5, 3, rng=0)
    compiled = tg.compile(lambda codes: layer(codes) ** 2)
    for seed in range(3):
        codes = rng(seed).integers(0, 5, (2, 3))
        assert_agree(passes(compiled, layer, [], [codes]), passes(lambda c: layer(c) ** 2, layer, [], [codes]))


PROBABILITIES = rng(5).dirichlet(np.ones(5), 6).astype(np.float32)

CODES = rng(6).integers(0, 5, 6)

WEIGHT = rng(7).uniform(0.5, 2, 5).astype(np.float32)

LOSSES = {
    "cross_entropy": lambda z: functional.cross_entropy(z, CODES),
    "cross_entropy, sum": lambda z: functional.cross_entropy(z, CODES, reduction="sum"),
    "cross_entropy, none": lambda z: functional.cross_entropy(z, CODES, reduction="none"),
    "cross_entropy, probabilities": lambda z: functional.cross_entropy(z, PROBABILITIES),
    "cross_entropy, smoothed": lambda z: functional.cross_entropy(z, CODES, label_smoothing=0.1),
    "cross_entropy, weight": lambda z: functional.cross_entropy(z, CODES, weight=WEIGHT),
    "cross_entropy, ignored": lambda z: functional.cross_entropy(z, CODES, ignore_index=2),
    "cross_entropy, all": lambda z: functional.cross_entropy(z, CODES, weight=WEIGHT, ignore_index=1, label_smoothing=0.2),
    "nll": lambda z: functional.nll_loss(functional.log_softmax(z), CODES),
    "mse": lambda z: functional.mse_loss(z, PROBABILITIES),
    "l1": lambda z: functional.l1_loss(z, PROBABILITIES),
    "huber": lambda z: functional.huber_loss(z, PROBABILITIES, delta=0.7),
    "bce": lambda z: functional.binary_cross_entropy_with_logits(z, PROBABILITIES, positive_weight=WEIGHT),
    "kl": lambda z: functional.kl_div(functional.log_softmax(z), PROBABILITIES, reduction="batchmean"),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    f = LOSSES[name]
    compiled = tg.compile(f)
    for seed in range(2):
        x, y = leaf(6, 5, seed=seed), leaf(6, 5, seed=seed)
        a, b = compiled(x), f(y)
        assert_agree(a, b)
        a.sum().backward()
        b.sum().backward()
        assert_close(x.grad, y.grad)
    assert len(compiled.plans) == 1


def test_labels_out_of_range_raise_in_every_call():
    """The labels of a trace say nothing about those of later calls."""
    table = nn.Embedding(5, 5, rng=0)
    z, good = leaf(3, 5), np.array([0, 4, 2])
    programs = {
        "cross_entropy": lambda y: functional.cross_entropy(z, y),
        "none": lambda y: functional.cross_entropy(z, y, reduction="none"),
        "smoothed": lambda y: functional.cross_entropy(z, y, label_smoothing=0.1),
        "nll": lambda y: functional.nll_loss(z, y),
        "weight": lambda y: functional.cross_entropy(z, y, weight=np.ones(5, np.float32)),
        "ignored": lambda y: functional.cross_entropy(z, y, ignore_index=3),
        "embedding": table,
    }
    for name, f in programs.items():
        compiled = tg.compile(f)
        compiled(good)
        for bad in (np.array([0, 5, 2]), np.array([0, -1, 2]), np.array([-6, 1, 2])):
            with pytest.raises((ValueError, IndexError)):
                f(bad)
            with pytest.raises((ValueError, IndexError)):
                print(name, bad, compiled(bad))
        assert_agree(compiled(good), f(good))


def network(seed=0):
    return nn.Sequential(
        nn.Linear(6, 8, rng=seed), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3, rng=seed + 1), nn.Linear(8, 3, rng=seed + 2)
    )  # fmt: skip


def test_500_training_steps():
    """A network with dropout and batch norm: eager, `compile` and `compile_step` draw the same numbers and end alike.

    Training is chaotic: rounding errors of one step are carried into the next ones. So parameters are compared after
    500 steps in float64, where they have grown from 1e-16 to at most 1e-8: a bias in front of a batch norm has no
    gradient but rounding errors, and Adam makes steps of these.
    """
    x, y = normal(40, 6, dtype=np.float64), rng(1).integers(0, 3, 40)
    loss = nn.CrossEntropyLoss()
    models = [network().to(np.float64) for _ in range(3)]
    optimizers = [optim.Adam(m.parameters(), learning_rate=0.01) for m in models]

    def eager(x, y):
        return loss(models[0](x), y)

    compiled = tg.compile(lambda x, y: loss(models[1](x), y))
    step = tg.compile_step(models[2], loss, optimizers[2])
    for i in range(500):
        at = rng(i).permutation(40)[:16]
        losses = []
        for call, optimizer in ((eager, optimizers[0]), (compiled, optimizers[1])):
            value = call(x[at], y[at])
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(value.item())
        losses.append(step(x[at], y[at]))
        assert np.allclose(losses, losses[0], rtol=1e-7)
    states = [m.state_dict() for m in models]
    assert set(states[0]) > {"layers.1.running_mean"}
    for name, expected in states[0].items():
        for state in states[1:]:
            np.testing.assert_allclose(state[name], expected, rtol=1e-7, atol=1e-8, err_msg=name)
    assert models[0][3].rng.random() == models[1][3].rng.random() == models[2][3].rng.random()
    assert losses[0] < 0.9
    assert len(compiled.plans) == len(step.plans) == 1


def test_draws_are_those_of_eager():
    """Also draws whose numbers are not used, of several shapes and dtypes, from a shared generator."""

    def make():
        generator = rng(4)

        def f(x):
            functional.dropout(x, 0.5, generator)  # drawn, and not used
            y = functional.dropout(x, 0.2, generator) + functional.dropout(x.astype(np.float64), 0.7, generator).astype(
                x.dtype
            )
            return y * functional.uniform_like(x[0], generator)

        return f, generator

    (f, one), (g, other) = make(), make()
    compiled = tg.compile(g)
    x = tg.Tensor(np.ones((4, 5), np.float32), requires_grad=True)
    results = []
    for _ in range(4):
        results.append(f(x).data)
        assert_close(compiled(x), results[-1])
        assert one.bit_generator.state == other.bit_generator.state
    assert not np.array_equal(results[0], results[1])
