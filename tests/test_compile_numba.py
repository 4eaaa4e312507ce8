"""The Numba backend: fused loops compute what the eager engine computes.

Most programs are run by the interpreter in `interpreted.py`, which needs no Numba and no time to compile; the tests
marked `compiled` try what Numba makes of some of them. Rounding: the loops add the terms of a sum in another order than
NumPy and have their own exp and tanh (at most 2 units in the last place), so results agree within some units in the
last place for each term of the sums behind them; see `agreement.py`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from typing import Any
from unittest import mock

import numpy as np
import pytest
import strategies as my
from agreement import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import interpreted
from oracles import floating, leaves
from table import ROWS

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.compiler.loops import native

compiled = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="Numba is not installed: pip install 'tinygrad_mm[numba]'"
)
no_blas = pytest.mark.skipif(not native.blas(), reason="the BLAS behind this NumPy has no symbols that can be found")


def tensors(arrays: list[np.ndarray]) -> list[tg.Tensor]:
    return [tg.Tensor(a, requires_grad=True) for a in arrays]


def with_gradients(f: Any, arrays: list[np.ndarray]) -> list[Any]:
    """What f returns for Tensors, and the gradients of its sum."""
    xs = tensors(arrays)
    result = f(*xs)
    ys = [y for y in floating(result) if y.requires_grad]
    if ys:
        weights = [np.linspace(0.5, 1.5, y.size).reshape(y.shape).astype(y.dtype) for y in ys]
        found = tg.gradients(ys, xs, gradient=weights, allow_unused=True)
        return [*leaves(result), *(g for g in found if g is not None)]
    return leaves(result)


def check(f: Any, arrays: list[np.ndarray], length: int = 2000) -> Any:
    """f and its compiled form agree, also when called again with other numbers. Returns the compiled one."""
    ours = tg.compile(f, backend="numba")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for given_ in (arrays, [a[::-1].copy() if a.ndim else a * 1 for a in arrays]):
            expected, found = with_gradients(f, given_), with_gradients(ours, given_)
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                assert_close(one, other, length)
    return ours


# ---------------------------------------------------------------------------------------------------------------------
# Drawn programs, interpreted
# ---------------------------------------------------------------------------------------------------------------------

UNARY = [np.tanh, np.exp, np.negative, np.square, np.sign, np.abs, np.sin, lambda x: 1 / (1 + x * x), lambda x: x**3]
BINARY = [np.add, np.subtract, np.multiply, np.maximum, np.minimum, lambda a, b: np.where(a > b, a, 0.5 * b)]
REDUCED = [np.sum, np.mean, np.max, np.min]


@st.composite
def programs(draw: st.DrawFn) -> tuple[Any, list[np.ndarray]]:
    """A function of two or three arrays made of elementwise operations, reductions, products and views, and arrays."""
    n, m = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shapes = draw(st.lists(st.sampled_from([(n, m), (m,), (n, 1), (), (2, n, m)]), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    arrays = [rng.uniform(-1.5, 1.5, shape).astype(dtype) for shape in shapes]
    choices = st.tuples(
        st.integers(0, 6), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.booleans(), st.booleans()
    )
    steps = draw(st.lists(choices, min_size=2, max_size=9))

    def f(*given_: Any) -> Any:
        values = list(given_)
        for kind, which, i, j, keep, flag in steps:
            a, b = values[-1 - i % len(values)], values[-1 - j % len(values)]
            if kind <= 1:
                values.append(UNARY[which % len(UNARY)](np.tanh(a)))
            elif kind <= 3:
                try:
                    np.broadcast_shapes(a.shape, b.shape)
                except ValueError:
                    b = a.sum() if flag else a
                values.append(BINARY[which % len(BINARY)](a, b))
            elif kind == 4:
                axes = [None, *range(a.ndim), *([tuple(range(a.ndim))[1:]] if a.ndim > 1 else [])]
                values.append(REDUCED[which % 4](a, axis=axes[j % len(axes)], keepdims=keep))
            elif kind == 5 and a.ndim >= 2:
                other = np.swapaxes(a, -1, -2) if flag else a
                values.append(other if keep else a @ np.swapaxes(a, -1, -2) / 4)
            elif a.ndim:
                values.append(a[::-1] if flag else a.reshape(-1) if keep else a[..., :1])
        return tuple(values[len(given_) :]) or values[0] * 2

    return f, arrays


@no_blas
@settings(max_examples=80)
@given(programs())
def test_drawn_programs(program: tuple[Any, list[np.ndarray]]) -> None:
    with interpreted():
        check(*program)


def backwards(x: Any) -> Any:
    """Products of a stack that is read from its end."""
    return x[::-1] @ np.swapaxes(x[::-1], -1, -2)


@no_blas
def test_a_stack_of_products_read_backwards() -> None:
    with interpreted():
        check(backwards, [np.random.default_rng(0).standard_normal((3, 2, 2))])


OF_LOOPS = ROWS[::6]


@no_blas
@pytest.mark.parametrize("row", OF_LOOPS, ids=repr)
@settings(max_examples=1)
@given(data=st.data())
def test_operations_of_the_table(row: Any, data: st.DataObject) -> None:
    case = data.draw(my.cases(row, my.shapes(row)))
    arrays = [a.astype(np.float32) for a in case.arrays]
    f = lambda *xs: row.call(*xs, **case.options)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            tg.compile(f)(*tensors(arrays))
    except TypeError:  # the trace refuses it, for every backend
        return
    with interpreted():
        check(f, arrays)


# ---------------------------------------------------------------------------------------------------------------------
# Loops, interpreted
# ---------------------------------------------------------------------------------------------------------------------


def source_of(f: Any, *shapes: tuple[int, ...], dtype: Any = np.float32) -> str:
    rng = np.random.default_rng(0)
    with interpreted():
        return check(f, [rng.normal(size=s).astype(dtype) for s in shapes]).source


def forward_of(source: str) -> str:
    return source.split("def go_forward")[1].split("\ndef ")[0].split("@loop")[0]


def test_an_elementwise_chain_is_one_loop_without_memory() -> None:
    source = source_of(lambda x, y: np.tanh(x * y + 1) - x, (3, 4), (4,))
    assert source.split("def go_forward")[0].count("@loop") == 1
    assert forward_of(source).count("pointer_at(") == 1  # tanh for the way back, besides what is handed out


def test_a_softmax_is_two_reductions_and_two_loops() -> None:
    with tg.no_grad():
        source = source_of(
            lambda x: (
                np.exp(x - np.max(x, -1, keepdims=True))
                / np.sum(np.exp(x - np.max(x, -1, keepdims=True)), -1, keepdims=True)
            ),
            (3, 4),
        )
    functions = re.findall(r"@loop\ndef (\w+)", source)
    assert functions == ["max_of", "subtract_exp", "sum_of", "divide"]


def test_what_is_not_read_later_is_not_stored() -> None:
    def f(x: Any) -> Any:
        y = x * 2
        z = y + x  # read by others, and twice, but in this loop only
        return (z * y - z) @ x

    with tg.no_grad():
        (nest,) = re.findall(r"@loop\n.*?\n\n", source_of(f, (4, 4)), re.DOTALL)
    assert len(re.findall(r"^ *p\d\[.*\] = ", nest, re.MULTILINE)) == 1


def test_equal_nests_are_compiled_once() -> None:
    source = source_of(lambda x, w: np.tanh(np.tanh(np.tanh(x @ w) @ w) @ w), (3, 4), (4, 4))
    assert source.split("def go_forward")[0].count("def tanh(") == 1


def test_memory_is_taken_again() -> None:
    def f(x: Any) -> Any:
        for _ in range(20):
            x = np.tanh(np.sin(np.tanh(x @ x) * 2) + x)
        return x

    with interpreted(), tg.no_grad():
        ours = tg.compile(f, backend="numba")
        ours(tg.Tensor(np.eye(8, dtype=np.float32)))
        assert ours.plan.emitted.nbytes <= 3 * 8 * 8 * 4


def test_a_loop_that_overwrites_what_it_reads_has_one_pointer_for_both() -> None:
    with tg.no_grad():
        source = source_of(lambda x, w, b: np.maximum(x @ w + b, 0) @ w, (5, 4), (4, 4), (4,))
    assert "def add_maximum(p0, p1):" in source


def test_arrays_with_gaps_are_copied() -> None:
    f = lambda x: np.tanh(x).sum(axis=0)
    x = np.arange(24, dtype=np.float32).reshape(4, 6) / 24
    with interpreted():
        ours = tg.compile(f, backend="numba")
        for given_ in (x, x[:, ::-1], np.asfortranarray(x), np.broadcast_to(x[0], (4, 6))):
            assert_close(ours(given_), np.tanh(given_).sum(axis=0))


def test_parameters_with_gaps_are_read_anew() -> None:
    w = tg.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3).T)
    with interpreted():
        ours = tg.compile(lambda x: x @ w + w[0], backend="numba")
        x = np.ones((4, 3), np.float32)
        for _ in range(2):
            assert_close(ours(x), x @ w.data + w.data[0])
            w.data[...] += 1


@pytest.mark.parametrize("where", ["left", "right", "stack", "vector"])
def test_products_of_all_layouts(where: str) -> None:
    calls = {
        "left": (lambda a, b: a.T @ b, (4, 3), (4, 5)),
        "right": (lambda a, b: a @ b.T, (3, 4), (5, 4)),
        "stack": (lambda a, b: np.swapaxes(a, 0, 1) @ b, (3, 2, 4), (4, 5)),
        "vector": (lambda a, b: (a @ b[:, 0]) @ a @ b, (3, 3), (3, 5)),
    }
    f, *shapes = calls[where]
    for dtype in (np.float32, np.float64):
        assert "gemm(" in source_of(f, *shapes, dtype=dtype)


def test_without_a_known_blas_products_are_numpy_calls() -> None:
    f = lambda a, b: np.tanh(a @ b) + 1
    with mock.patch("tinygrad_mm.compiler.loops.products.blas", dict):
        source = source_of(f, (3, 4), (4, 5))
    assert "gemm(" not in source
    assert "dot(" in source


def test_draws_are_new_at_each_call() -> None:
    def f(x: Any) -> Any:
        return tg.dropout(np.tanh(x), 0.5, rng)

    x = tg.Tensor(np.ones((8, 8), np.float32), requires_grad=True)
    with interpreted():
        ours = tg.compile(f, backend="numba")
        for _ in range(3):
            rng = np.random.default_rng(7)
            expected = [f(x).data, f(x).data]
            rng = np.random.default_rng(7)
            for e in expected:
                assert_close(ours(x), e)


def test_a_label_out_of_range_is_refused_as_ever() -> None:
    z = tg.Tensor(np.zeros((3, 4), np.float32), requires_grad=True)
    with interpreted():
        ours = tg.compile(tg.cross_entropy, backend="numba")
        ours(z, np.array([0, 1, 3])).backward()
        for bad in (4, -1):
            with pytest.raises(ValueError, match="label"):
                ours(z, np.array([0, 1, bad]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction: str) -> None:
    labels = np.array([[0, 3], [2, 2], [1, 0]])
    with interpreted():
        ours = check(
            lambda z: tg.cross_entropy(z * 2, labels, reduction=reduction),
            [np.random.default_rng(1).normal(size=(3, 2, 4))],
        )
    assert "pick(" in ours.source.split("def go_forward")[1]


def test_two_forwards_before_their_backwards() -> None:
    with interpreted():
        ours = tg.compile(lambda x: np.sum(np.tanh(x) ** 2), backend="numba")
        xs = tensors([np.full((2, 3), v, np.float32) for v in (0.1, 0.9)])
        first, second = map(ours, xs)
        first.backward()
        second.backward()
    for x in xs:
        t = np.tanh(x.data)
        assert_close(x.grad, 2 * t * (1 - t * t))


# ---------------------------------------------------------------------------------------------------------------------
# Steps
# ---------------------------------------------------------------------------------------------------------------------

OPTIMIZERS = [
    (optim.SGD, {"learning_rate": 0.1}),
    (optim.SGD, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.RMSprop, {"learning_rate": 0.01}),
    (optim.Adagrad, {"learning_rate": 0.01}),
    (optim.Adam, {"learning_rate": 0.01}),
    (optim.AdamW, {"learning_rate": 0.01, "weight_decay": 0.1}),
    (optim.Lion, {"learning_rate": 0.01}),
]


def network(seed: int = 0) -> nn.Module:
    return nn.Sequential(
        nn.Dense(6, 8, "tanh", rng=seed),
        nn.BatchNorm1d(8),
        nn.Dropout(0.25, rng=seed),
        nn.Dense(8, 4, "relu", rng=seed + 1),
    )


def trained(
    optimizer: Any, options: dict[str, Any], steps: int, backend: str | None
) -> tuple[list[float], dict[str, Any]]:
    """Losses of some steps, and the model's state at the end."""
    model = network()
    opt = optimizer(model.parameters(), **options)
    rng = np.random.default_rng(3)
    step = tg.compile_step(model, tg.cross_entropy, opt, backend=backend) if backend else None
    losses = []
    for _ in range(steps):
        x, y = rng.normal(size=(5, 6)).astype(np.float32), rng.integers(0, 4, 5)
        if step is not None:
            losses.append(step(x, y))
            continue
        opt.zero_grad()
        loss = tg.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses, {name: np.array(value) for name, value in model.state_dict().items()}


def assert_same_training(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-4)
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=2e-3, atol=2e-4, err_msg=name)


@no_blas
@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_steps_with_every_optimizer(optimizer: Any, options: dict[str, Any]) -> None:
    with interpreted():
        assert_same_training(trained(optimizer, options, 4, "numba"), trained(optimizer, options, 4, None))


class Tied(nn.Module):
    """A weight that is used twice, a frozen one, and one that the last product alone reads."""

    def __init__(self) -> None:
        self.tied, self.frozen, self.last = nn.Dense(6, 6, rng=0), nn.Dense(6, 6, rng=1), nn.Dense(6, 4, rng=2)
        self.frozen.freeze()

    def forward(self, x: Any) -> Any:
        return self.last(np.tanh(self.frozen(np.tanh(self.tied(np.tanh(self.tied(x)))))))


def descended(backend: str | None, dtype: Any) -> list[np.ndarray]:
    """Parameters after some steps of plain gradient descent, one group with a schedule."""
    model = Tied().to(dtype)
    groups = [
        {"parameters": list(model.tied.parameters())},
        {
            "parameters": [*model.frozen.parameters(), *model.last.parameters()],
            "learning_rate": lambda n: 0.3 / (1 + n),
        },
    ]
    opt = optim.SGD(groups, 0.1)
    step = tg.compile_step(model, tg.cross_entropy, opt, backend=backend) if backend else None
    rng = np.random.default_rng(0)
    for i in range(6):
        if i == 3:
            opt.groups[0]["learning_rate"] = 0.05
        x, y = rng.standard_normal((5, 6)).astype(dtype), rng.integers(0, 4, 5)
        if step is not None:
            step(x, y)
            continue
        opt.zero_grad()
        tg.cross_entropy(model(x), y).backward()
        opt.step()
    return [np.array(p.data) for p in model.parameters()]


@no_blas
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_descent_with_groups_and_a_tied_weight(dtype: Any) -> None:
    expected = descended(None, dtype)
    with interpreted():
        found = descended("numba", dtype)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=200 * np.finfo(dtype).eps)


@no_blas
def test_a_label_out_of_range_leaves_the_parameters_as_they_were() -> None:
    with interpreted():
        model = nn.Dense(3, 2, rng=0)
        step = tg.compile_step(model, tg.cross_entropy, optim.SGD(model.parameters(), 0.1), backend="numba")
        step(np.ones((4, 3), np.float32), np.zeros(4, int))
        before = model.weight.data.copy()
        with pytest.raises(ValueError, match="between 0 and 1"):
            step(np.ones((4, 3), np.float32), np.array([0, 1, 2, 0]))
        np.testing.assert_array_equal(model.weight.data, before)


def test_a_formula_without_a_loop_runs_in_numpy() -> None:
    class Odd(optim.Optimizer):
        states = ()

        @staticmethod
        def formula(parameter: Any, gradient: Any, learning_rate: Any, step: Any) -> Any:
            return (parameter - learning_rate * np.arctan2(gradient, 1.0),)

    with interpreted():
        assert_same_training(
            trained(Odd, {"learning_rate": 0.1}, 3, "numba"), trained(Odd, {"learning_rate": 0.1}, 3, None)
        )


# ---------------------------------------------------------------------------------------------------------------------
# What Numba makes of it
# ---------------------------------------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("name", ["exp", "tanh"])
def test_own_functions_are_within_two_units_in_the_last_place(name: str) -> None:
    import numba

    ours = native.native()[f"{name}32"]

    @numba.njit(error_model="numpy")
    def loop(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = ours(x[i])

    bits = np.arange(0, 1 << 32, 40009, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([bits, np.linspace(-105, 90, 100_000, dtype=np.float32), np.float32([0, -0.0, np.inf, -np.inf])])
    out = np.empty_like(x)
    loop(x, out)
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(np.float64))
        expected = exact.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(out), np.isinf(expected))
    finite = np.isfinite(expected)
    units = np.abs(out[finite] - exact[finite]) / np.spacing(np.abs(expected[finite]))
    assert units.max() < 2


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numba_compiles_elementwise_programs_reductions_and_products(dtype: Any) -> None:
    def f(x: Any, w: Any, b: Any) -> Any:
        h = np.maximum(x @ w + b, 0)
        centred = h - h.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
        mask = (scaled > 0.1) & (x.sum(axis=-1, keepdims=True) < 9)
        gated = np.where(mask, np.exp(-scaled), np.tanh(scaled) / (1 + np.abs(scaled)))
        attention = np.exp(gated - gated.max(axis=-1, keepdims=True))
        return attention @ np.swapaxes(attention, -1, -2), gated.sum(axis=(0, 1)), mask, np.log(attention.sum())

    rng = np.random.default_rng(0)
    ours = check(f, [rng.normal(size=s).astype(dtype) for s in ((3, 4, 5), (5, 6), (6,))])
    assert ours.plan.emitted.warm_up > 0


@compiled
def test_numba_keeps_nan_inf_and_signed_zeros() -> None:
    def f(x: Any) -> Any:
        kept = np.exp(x), np.tanh(x), np.sign(x), x / x, 1 / x, (x + 1e8) - 1e8
        return *kept, np.maximum(x, -1), np.minimum(x, 1), np.isnan(x)

    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -3e38, 0.3], np.float32)
    ours = tg.compile(f, backend="numba")
    with np.errstate(all="ignore"):
        for found, expected in zip(ours(x), f(x), strict=True):
            np.testing.assert_allclose(np.asarray(found), expected, rtol=3e-7)
            known = ~np.isnan(expected)
            np.testing.assert_array_equal(np.signbit(np.asarray(found)[known]), np.signbit(expected[known]))


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numba_finds_the_largest_and_the_smallest(dtype: Any) -> None:
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, -5e-324, 3e38, -3e38, 1.0, -1.0], dtype)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 37)).astype(dtype)
    for row in range(100):  # one, two or three of them in a row; some rows have nothing else
        x[row, :: 1 + row % 3] = rng.choice(special[row % 2 * 2 :], x[row, :: 1 + row % 3].shape)
    ours = tg.compile(lambda x: (np.max(x, axis=-1), np.min(x, axis=-1), np.max(x, axis=0), np.max(x)), backend="numba")
    for part in (x, x[100:], x[np.isfinite(x).all(axis=-1)]):
        found, expected = ours(part), (part.max(axis=-1), part.min(axis=-1), part.max(axis=0), part.max())
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_array_equal(f, e)


@compiled
def test_numba_trains_a_network_with_dropout_and_batch_norm() -> None:
    options = {"learning_rate": 0.01}
    assert_same_training(trained(optim.Adam, options, 300, "numba"), trained(optim.Adam, options, 300, None))


@compiled
def test_numba_reads_a_stack_of_products_backwards() -> None:
    check(backwards, [np.random.default_rng(0).standard_normal((3, 2, 2))])


@compiled
def test_numba_updates_large_parameters_with_several_threads() -> None:
    def run(backend: str | None) -> np.ndarray:
        model = nn.Dense(600, 500, rng=0)
        opt = optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        x, y = np.random.default_rng(0).normal(size=(2, 600)).astype(np.float32), np.array([3, 499])
        step = tg.compile_step(model, tg.cross_entropy, opt, backend=backend) if backend else None
        for _ in range(3):
            if step is not None:
                step(x, y)
                continue
            opt.zero_grad()
            tg.cross_entropy(model(x), y).backward()
            opt.step()
        return np.array(model.weight.data)

    with mock.patch("tinygrad_mm.compiler.loops.writer.threads", return_value=2):
        ours = run("numba")
    np.testing.assert_allclose(ours, run(None), rtol=1e-4, atol=1e-5)


@compiled
@pytest.mark.parametrize("kind", ["lenet", "attention", "recurrent"])
def test_numba_trains_other_layers(kind: str) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            if kind == "lenet":
                self.parts = [nn.Conv2d(1, 3, 3, rng=0), nn.MaxPool2d(2), nn.Flatten(), nn.Dense(27, 4, rng=1)]
            elif kind == "attention":
                self.parts = [nn.LayerNorm(8), nn.MultiHeadAttention(8, 2, rng=0), nn.Dense(8, 4, rng=1)]
            else:
                self.parts = [nn.GRU(8, 5, rng=0), nn.Dense(5, 4, rng=1)]

        def forward(self, x: Any) -> Any:
            for part in self.parts:
                x = part(x)
                x = x[0] if isinstance(x, tuple) else x
            return tg.gelu(x).reshape(-1, 4)

    def run(backend: str | None) -> list[float]:
        model = Network()
        opt = optim.Adam(model.parameters(), 0.01)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, 1, 8, 8) if kind == "lenet" else (2, 3, 8)).astype(np.float32)
        y = rng.integers(0, 4, 2 if kind == "lenet" else 6)
        step = tg.compile_step(model, tg.cross_entropy, opt, backend=backend) if backend else None
        losses = []
        for _ in range(5):
            if step is not None:
                losses.append(step(x, y))
                continue
            opt.zero_grad()
            loss = tg.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            losses.append(loss.item())
        return losses

    np.testing.assert_allclose(run("numba"), run(None), rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Doors
# ---------------------------------------------------------------------------------------------------------------------


def test_without_numba_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tinygrad_mm\[numba\]'"):
        tg.compile(np.tanh, backend="numba")
    model = network()
    with pytest.raises(ImportError, match=r"tinygrad_mm\[numba\]"):
        tg.compile_step(model, tg.cross_entropy, optim.SGD(model.parameters(), 0.1), backend="numba")


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 'numpy' nor 'numba'"):
        tg.compile(np.tanh, backend="cuda")


def test_the_numpy_backend_does_not_load_numba() -> None:
    import subprocess

    code = "import sys, numpy as np, tinygrad_mm as tg; tg.compile(lambda x: x * 2)(np.ones(3)); print('numba' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]
