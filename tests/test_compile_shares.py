"""A step by several threads does what a step by one does, and only where examples know nothing of each other.

Parameters differ by rounding: sums over the batch are sums of the sums over its parts.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import strategies as my
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from interpreted import interpreted
from oracles import floating
from table import ROWS
from table.row import Row

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.threads import pool, shares
from tinygrad_mm.compiler.threads.batch_independence import over_parts
from tinygrad_mm.compiler.tracing import Trace

TOLERANCE = {"rtol": 1e-10, "atol": 1e-9}  # the bias of attention's keys: a gradient of 0 but for rounding, for Adam
W = tg.Tensor(np.random.default_rng(1).standard_normal((3, 3)), requires_grad=True)
V = tg.Tensor(np.random.default_rng(2).standard_normal(3), requires_grad=True)
RNG = np.random.default_rng(0)
TABLE = tg.Tensor(np.random.default_rng(3).standard_normal((5, 3)), requires_grad=True)


def trace(f: Any, *arrays: Any) -> Trace:
    return Trace(f, Captured(f), arrays, lambda given: (tuple(given), {}), [f"x{i}" for i in range(len(arrays))], True)


def parts_of(arrays: Any, parts: int) -> list[Any]:
    return list(zip(*(np.split(a, parts) for a in arrays), strict=True))


def verdict(f: Any, *arrays: Any, parts: int = 2) -> str | None:
    """How the function's value follows from those of parts, which is checked with numbers if there is a way."""
    how = over_parts(trace(f, *arrays), trace(f, *parts_of(arrays, parts)[0]), parts)
    if how is not None:
        values = np.array([f(*map(tg.Tensor, part)).item() for part in parts_of(arrays, parts)])
        expected = values.mean(0) if how == "mean" else values.sum(0)
        found = np.asarray(f(*map(tg.Tensor, arrays)).item())
        finite = np.isfinite(expected) & np.isfinite(found)
        np.testing.assert_allclose(found[finite], expected[finite], rtol=1e-9, atol=1e-9)
    return how


def some(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape or (8, 3))


class TestOverParts:
    @pytest.mark.parametrize(
        ("f", "how"),
        [
            (lambda x: np.mean(x @ W), "mean"),
            (lambda x: np.sum(x @ W), "sum"),
            (lambda x: np.sum(np.mean(x @ W, axis=0)), "mean"),
            (lambda x: np.sum((x @ W).sum(0) * V), "sum"),
            (lambda x: np.mean(np.sum(functional.softmax(x @ W) ** 2, axis=1)), "mean"),
            (lambda x: 0.5 * np.mean(x @ V[:, None]) + np.mean(np.tanh(x @ W)) + 0.1 * np.sum(W * W), "mean"),
            (lambda x: np.sum(x @ W) / 4 - np.sum(x * V), "sum"),
            (lambda x: -np.sum(V @ (x @ W).T), "sum"),  # a vector times a matrix is a product of matrices
            (lambda x: np.mean((W @ x.T).T), "mean"),
            (lambda x: np.mean((x @ W).reshape(8 if len(x) == 8 else 4, 1, 3) @ W), "mean"),
            (lambda x: np.mean((x @ W).reshape(-1)[:, None] * V), "mean"),
            (lambda x: np.mean(np.where(x > 0, x @ W, 0.0)), "mean"),
            (lambda x: np.mean((x @ W)[:, 1:] * (x @ W)[..., :2]), "mean"),
            (lambda x: np.mean(np.concatenate([x @ W, x], axis=1)), "mean"),
            (lambda x: np.mean(np.swapaxes(x @ W, 0, 1)), "mean"),
            (lambda x: np.mean((x - x.mean(1, keepdims=True)) * V), "mean"),
            (lambda x: np.mean(functional.logsumexp(x @ W, axis=-1)), "mean"),
            (lambda x: np.mean(np.max(x @ W, axis=1)), "mean"),
            # Examples that know of each other
            (lambda x: np.max(x @ W), None),
            (lambda x: np.mean(np.max(x @ W, axis=0)), None),
            (lambda x: np.mean(functional.softmax(x @ W, axis=0) * x), None),
            (lambda x: np.mean((x - x.mean(0)) @ W), None),
            (lambda x: np.mean(x @ W) ** 2, None),
            (lambda x: np.exp(np.sum(x @ W) / 100), None),
            (lambda x: np.mean(x @ W) * np.mean(x * V), None),
            (lambda x: np.mean(x * V) + np.sum(x * V), None),
            (lambda x: np.sum(x * V) + np.sum(W * W), None),  # each part would have the second term
            (lambda x: np.mean(x.T @ x @ W), None),
            (lambda x: np.mean(x @ x.T), None),
            (lambda x: np.mean(np.cumsum(x, axis=0) @ W), None),
            (lambda x: np.mean((x @ W)[0]), None),
            (lambda x: np.mean((x @ W)[::2]), None),
            (lambda x: np.mean((x @ W)[::-1] * x), None),
            (lambda x: np.mean(np.flip(x @ W, 0) * x), None),
            (lambda x: np.mean((x @ W)[:, None] * x), None),
            (lambda x: np.sum(x @ W) / len(x), None),  # a mean, but in numbers that each part has for itself
            (lambda x: np.mean(x @ W * np.arange(len(x))[:, None]), None),
            (lambda x: np.mean((x @ W).T.reshape(-1) * np.arange(3 * len(x))), None),
            (lambda x: np.mean(x @ W, axis=1).reshape(2, -1).max(0).sum(), None),
            (lambda x: np.mean(np.concatenate([x, x]) @ W), None),
            (lambda x: np.sum(W * W), None),
            (lambda x: np.mean(x @ W.reshape((3, 3), order="C" if len(x) == 8 else "F")), None),
            (lambda x: np.mean(tg.dropout(x @ W, 0.5, rng=RNG)), None),
            (lambda x: np.mean(x @ tg.dropout(W, 0.5, rng=RNG)), None),  # one draw for all
        ],
    )  # fmt: skip
    def test_of_a_batch(self, f, how):
        assert verdict(f, some()) == how

    def test_with_labels(self):
        labels = np.arange(8) % 3
        assert verdict(lambda x, y: functional.cross_entropy(x @ W, y), some(), labels) == "mean"
        assert verdict(lambda x, y: functional.cross_entropy(x @ W, y, reduction="sum"), some(), labels) == "sum"
        assert (
            verdict(lambda x, y: np.mean(functional.cross_entropy(x @ W, y, reduction="none")), some(), labels)
            == "mean"
        )
        assert verdict(lambda x, y: functional.mse_loss(x @ W, y), some(), some()) == "mean"
        weight = np.array([1.0, 2.0, 3.0])  # the mean is the weighted one
        assert verdict(lambda x, y: functional.cross_entropy(x @ W, y, weight=weight), some(), labels) is None

    def test_of_sequences_and_images(self):
        codes = np.random.default_rng(0).integers(0, 5, (8, 4))
        assert verdict(lambda x: np.mean(TABLE[x] @ W), codes) == "mean"
        attention = nn.MultiHeadAttention(4, 2, rng=0).to(np.float64)
        assert verdict(lambda x: np.mean(attention(x, x, x, causal=True)), some(4, 6, 4)) == "mean"
        gru = nn.GRU(3, 4, rng=0).to(np.float64)
        assert verdict(lambda x: np.mean(gru(x)[0]), some(6, 5, 3)) == "mean"
        layers = [nn.Conv2d(1, 2, 3, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3, rng=0)]
        images = nn.Sequential(*layers).to(np.float64)
        assert (
            verdict(lambda x, y: functional.cross_entropy(images(x), y), some(6, 1, 6, 6), np.arange(6) % 3, parts=3)
            == "mean"
        )
        norm = nn.LayerNorm(3).to(np.float64)
        assert verdict(lambda x: np.mean(norm(x) ** 2 * V), some()) == "mean"
        batch_norm = nn.BatchNorm1d(3).to(np.float64)
        assert verdict(lambda x: np.mean(batch_norm(x) ** 2 * V), some()) is None

    def test_other_numbers_outside(self):
        """A captured array of the batch's length is not cut, and a number that depends on the length is seen."""
        mine = np.random.default_rng(5).standard_normal((8, 1))
        for scale in (tg.Tensor(mine), mine):
            assert verdict(lambda x, s=scale: np.mean((x @ W) * s[: len(x)]), some()) is None
        assert verdict(lambda x: np.mean((x @ W) * np.ones((len(x), 1))), some()) == "mean"
        assert verdict(lambda x: np.mean((x @ W) * (1.0 if len(x) > 4 else 2.0)), some()) is None

    def test_what_is_as_long_as_the_batch(self):
        """A second axis of the same length is another one."""
        square = tg.Tensor(some(8, 8), requires_grad=True)
        assert verdict(lambda x: np.mean(np.tanh(x @ square)), some(8, 8)) == "mean"
        assert verdict(lambda x: np.mean(functional.softmax(x @ square, axis=1)[:, 3]), some(8, 8)) == "mean"
        assert verdict(lambda x: np.mean(functional.softmax(x @ square, axis=0)[:, 3]), some(8, 8)) is None


@pytest.mark.parametrize("row", ROWS, ids=repr)
@settings(max_examples=8)
@given(data=st.data())
def test_every_operation_is_judged_rightly(row: Row, data: st.DataObject) -> None:
    """If a rule says that an operation keeps examples apart, then its value says so, too."""
    case = data.draw(my.cases(row, my.shapes(row)))
    which = data.draw(st.integers(0, len(case.arrays) - 1))
    x = case.arrays[which]
    if not x.ndim or len(x) not in (2, 4, 6):
        return
    reduce = data.draw(st.sampled_from([np.mean, np.sum]))
    parts = data.draw(st.sampled_from([len(x), len(x) // 2]))
    if parts == 1:
        return

    def f(x: Any) -> Any:
        arrays = [*case.arrays[:which], x, *case.arrays[which + 1 :]]
        results = floating(row.call(*map(tg.Tensor, arrays[:which]), x, *arrays[which + 1 :], **case.options))
        return reduce(np.multiply(results[0], results[0]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            verdict(f, x, parts=parts)
        except AssertionError:
            raise
        except Exception:  # the row does not take a part of this array, or cannot be traced
            return


APART = {
    "tanh": np.tanh, "relu": functional.relu, "softmax": functional.softmax, "softmax0": lambda a: functional.softmax(a, axis=0), "T": lambda a: a.T,
    "flat": lambda a: a.reshape(-1, 1), "mean0": lambda a: a.mean(0, keepdims=True), "mean1": lambda a: a.mean(-1, keepdims=True),
    "pairs": lambda a: a.reshape(-1, 2), "W": lambda a: a @ W if a.shape[-1] == 3 else a, "left": lambda a: W @ a if a.shape[-2] == 3 else a,
    "sum0": lambda a: np.sum(a, axis=0, keepdims=True), "cut": lambda a: a[:, :2], "rows": lambda a: a[:2], "turn": lambda a: a[::-1],
    "three": lambda a: a[None], "stack": lambda a: np.stack([a, a * 2]), "first": lambda a: a[0] if a.ndim > 2 else a,
    "swap": lambda a: np.swapaxes(a, 0, -1), "cumsum": lambda a: np.cumsum(a, axis=-1), "self": lambda a: a @ np.swapaxes(a, -1, -2),
    "join": lambda a: np.concatenate([a, a], axis=-1), "max": lambda a: np.max(a, axis=-1, keepdims=True), "wide": lambda a: a[:, None] if a.ndim < 4 else a,
    "layers": lambda a: functional.logsumexp(a, axis=-1, keepdims=True), "length": lambda a: a / len(a), "less": lambda a: a - V if a.shape[-1] == 3 else a,
}  # fmt: skip


@settings(max_examples=300)
@given(
    names=st.lists(st.sampled_from(sorted(APART)), max_size=6),
    again=st.lists(st.sampled_from(sorted(APART)), max_size=3),
    ends=st.sampled_from([np.mean, np.sum, lambda a: np.mean(a, axis=0).sum(), lambda a: np.sum(a) / 3]),
    parts=st.sampled_from([2, 4]),
)
def test_random_functions_are_judged_rightly(names: Any, again: Any, ends: Any, parts: int) -> None:
    """The value of a function is the mean, or the sum, of its values for parts, wherever the traces say so."""

    def f(x: Any) -> Any:
        a, b = x, x
        for name in names:
            a = APART[name](a)
        for name in again:
            b = APART[name](b)
        return ends(np.sin(a + b + np.sum(V)))

    try:
        f(some()), f(some()[: 8 // parts])
    except (ValueError, IndexError):
        assume(False)
    verdict(f, some(), parts=parts)


# ---------------------------------------------------------------------------------------------------------------------
# Steps
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cores(monkeypatch):
    """Make all steps pay, with a number of threads."""

    def of(count: int) -> None:
        monkeypatch.setattr(pool, "threads", lambda: count)
        for name in ("ELEMENTS", "IN_A_CALL", "FOR_A_PARAMETER"):
            monkeypatch.setattr(shares, name, 0)

    of(2)
    return of


def mlp(dtype=np.float64):
    return nn.Sequential(nn.Dense(4, 6, "tanh", rng=0), nn.Dense(6, 5, "relu", rng=1), nn.Linear(5, 3, rng=2)).to(dtype)


def small(n=12, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 4)).astype(dtype), rng.integers(0, 3, n)


def lenet(dtype=np.float64):
    layers = [nn.Conv2d(1, 3, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 3, rng=1)]
    return nn.Sequential(*layers).to(dtype)


def images(n=32):
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 1, 8, 8)), rng.integers(0, 3, n)


class Reader(nn.Module):
    """Every kind of layer that a small language model has; the table of codes is its last layer's, too."""

    def __init__(self):
        self.codes = nn.Embedding(7, 4, rng=0)
        self.attention = nn.MultiHeadAttention(4, 2, rng=1)
        self.norm = nn.LayerNorm(4)
        self.up = nn.Dense(4, 8, "gelu", rng=2)
        self.down = nn.Linear(8, 4, rng=3)
        self.to(np.float64)

    def forward(self, x):
        h = self.codes(x)
        h = h + self.attention(self.norm(h), causal=True)
        return (h + self.down(self.up(h))) @ self.codes.weight.T


def text(n=4):
    rng = np.random.default_rng(0)
    return rng.integers(0, 7, (n, 5)), rng.integers(0, 7, (n, 5))


def train(
    model, make_optimizer, batch, steps=6, loss=functional.cross_entropy, alone=False, schedule=None, backend="numpy"
):
    """Losses, parameters and states after some compiled steps; and the step."""
    with pytest.MonkeyPatch.context() as patch:
        if alone:
            patch.setattr(pool, "threads", lambda: 1)
        net = model()
        optimizer = make_optimizer(net.parameters())
        step = tg.compile_step(net, loss, optimizer, backend=backend)
        losses = []
        for i in range(steps):
            if schedule:
                optimizer.learning_rate = schedule(i)
            losses.append(step(*batch))
    assert (step.plans[0].shares is None) is alone
    return losses, [p.data.copy() for p in net.parameters()], optimizer, step


def assert_same(one, other):
    np.testing.assert_allclose(one[0], other[0], **TOLERANCE)
    for a, b in zip(one[1], other[1], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, **TOLERANCE)


OPTIMIZERS = {
    "SGD": lambda ps: optim.SGD(ps, 0.1),
    "momentum": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda ps: optim.Adam(ps, 0.01),
    "AdamW": lambda ps: optim.AdamW(ps, 0.01, weight_decay=0.1),
    "RMSprop": lambda ps: optim.RMSprop(ps, 0.01),
}
NETWORKS = {"mlp": (mlp, small()), "lenet": (lenet, images()), "reader": (Reader, text())}


class TestSteps:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_the_same_as_by_one_thread(self, cores, network, optimizer):
        model, batch = NETWORKS[network]
        ours, expected = (train(model, OPTIMIZERS[optimizer], batch, alone=alone) for alone in (False, True))
        assert_same(ours, expected)
        for name, array in expected[2].state_dict().items():
            if isinstance(array, np.ndarray):
                np.testing.assert_allclose(ours[2].state_dict()[name], array, **TOLERANCE)

    @pytest.mark.parametrize("optimizer", ["SGD", "momentum", "Adam"])
    @pytest.mark.parametrize("network", NETWORKS)
    def test_loops(self, cores, network, optimizer):
        model, batch = NETWORKS[network]
        expected = train(model, OPTIMIZERS[optimizer], batch, 3, alone=True)
        with interpreted():
            assert_same(train(model, OPTIMIZERS[optimizer], batch, 3, backend="numba"), expected)

    @pytest.mark.parametrize("network", ["mlp", "reader"])
    def test_loops_that_are_compiled(self, cores, network):
        pytest.importorskip("numba")
        model, batch = NETWORKS[network]
        for name in ("SGD", "Adam"):
            expected = train(model, OPTIMIZERS[name], batch, alone=True)
            assert_same(train(model, OPTIMIZERS[name], batch, backend="numba"), expected)

    @pytest.mark.parametrize("count", [3, 4, 6])
    def test_more_threads(self, cores, count):
        cores(count)
        ours, expected = (train(mlp, OPTIMIZERS["Adam"], small(), alone=alone) for alone in (False, True))
        assert ours[3].plans[0].shares.parts == count
        assert_same(ours, expected)

    def test_as_eager(self, cores):
        losses, found, _, _ = train(Reader, OPTIMIZERS["Adam"], text())
        model = Reader()
        optimizer = optim.Adam(model.parameters(), 0.01)
        for expected in losses:
            loss = functional.cross_entropy(model(text()[0]), text()[1])
            assert loss.item() == pytest.approx(expected, rel=1e-10)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for p, q in zip(model.parameters(), found, strict=True):
            np.testing.assert_allclose(p.data, q, **TOLERANCE)

    def test_a_sum(self, cores):
        for name in ("SGD", "Adam"):
            loss = nn.CrossEntropyLoss(reduction="sum")
            runs = (train(mlp, OPTIMIZERS[name], small(), loss=loss, alone=alone) for alone in (False, True))
            assert_same(*runs)

    @pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
    def test_a_learning_rate_that_changes(self, cores, optimizer):
        options = {"schedule": lambda i: 0.1 / (i + 1)}
        runs = (train(mlp, OPTIMIZERS[optimizer], small(), alone=alone, **options) for alone in (False, True))
        assert_same(*runs)

    def test_float32_stays_float32(self, cores):
        x, y = small(dtype=np.float32)
        _, found, _, step = train(lambda: mlp(np.float32), OPTIMIZERS["SGD"], (x, y))
        assert all(p.dtype == np.float32 for p in found)
        assert isinstance(step(x, y), float)

    def test_a_frozen_layer(self, cores):
        def frozen():
            model = mlp()
            for p in model[1].parameters():
                p.requires_grad = False
            return model

        assert_same(*(train(frozen, OPTIMIZERS["Adam"], small(), alone=alone) for alone in (False, True)))

    def test_large_parameters_are_dealt_out_in_blocks(self, cores):
        def wide():
            return nn.Sequential(nn.Dense(4, 70_000, "relu", rng=0), nn.Linear(70_000, 3, rng=1)).to(np.float64)

        for name in ("SGD", "Adam"):
            runs = (train(wide, OPTIMIZERS[name], small(4), 2, alone=alone) for alone in (False, True))
            assert_same(*runs)

    def test_eager_steps_between_and_a_batch_that_cannot_be_cut(self, cores):
        model, other = mlp(), mlp()
        optimizers = [optim.Adam(m.parameters(), 0.01) for m in (model, other)]
        step = tg.compile_step(model, functional.cross_entropy, optimizers[0])
        for n in (12, 7, 12, 3):
            x, y = small(n, seed=n)
            step(x, y)
            assert (step.plans[0].shares is None) == bool(n % 2)
            functional.cross_entropy(other(x), y).backward()
            optimizers[1].step()
            optimizers[1].zero_grad()
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            np.testing.assert_allclose(p.data, q.data, **TOLERANCE)

    @pytest.mark.parametrize(
        "layer", [lambda: nn.Dropout(0.5, rng=0), lambda: nn.BatchNorm1d(6)], ids=["dropout", "batch norm"]
    )
    def test_not_for_what_looks_at_the_whole_batch(self, cores, layer):
        model = nn.Sequential(nn.Linear(4, 6, rng=0), layer(), nn.Linear(6, 3, rng=1)).to(np.float64)
        step = tg.compile_step(model, functional.cross_entropy, optim.SGD(model.parameters(), 0.1))
        step(*small())
        assert step.plans[0].shares is None

    def test_not_for_little_work(self, monkeypatch):
        monkeypatch.setattr(pool, "threads", lambda: 2)
        model = mlp()
        step = tg.compile_step(model, functional.cross_entropy, optim.SGD(model.parameters(), 0.1))
        step(*small())
        assert step.plans[0].shares is None

    def test_fewer_threads_later(self, cores, monkeypatch):
        """The same program, one share after the other; then together again."""
        expected = train(mlp, OPTIMIZERS["Adam"], small(), 9, alone=True)
        losses, _, _, step = train(mlp, OPTIMIZERS["Adam"], small(), 3)
        cores(1)
        monkeypatch.setattr(pool, "at_once", lambda calls: pytest.fail("threads"))
        losses += [step(*small()) for _ in range(3)]
        monkeypatch.undo()
        cores(2)
        losses += [step(*small()) for _ in range(3)]
        np.testing.assert_allclose(losses, expected[0], **TOLERANCE)

    def test_threads_of_blas(self):
        import threadpoolctl

        with threadpoolctl.threadpool_limits(1):
            assert pool.threads() == 1


class TestTroubles:
    def test_a_wrong_label_in_any_share_changes_nothing(self, cores):
        model = mlp()
        optimizer = optim.Adam(model.parameters(), 0.01)
        step = tg.compile_step(model, functional.cross_entropy, optimizer)
        x, y = small()
        step(x, y)
        before = [p.data.copy() for p in model.parameters()]
        for place in (0, 11):
            wrong = y.copy()
            wrong[place] = 3
            with pytest.raises(ValueError, match="label is out of range"):
                step(x, wrong)
        assert all(np.array_equal(a, p.data) for a, p in zip(before, model.parameters(), strict=True))
        assert optimizer.steps == 1
        step(x, y)

    def test_errors_of_floating_point_are_the_callers(self, cores):
        model = mlp()
        step = tg.compile_step(model, lambda p, y: np.mean(np.exp(p * y[:, None])), optim.SGD(model.parameters(), 0.1))
        x = small()[0]
        y = np.ones(12)
        step(x, y)
        y[-3:] = 1e6
        with np.errstate(over="raise"), pytest.raises(FloatingPointError):
            step(x, y)
        with np.errstate(all="ignore"):
            step(x, y)

    def test_a_function_that_takes_no_fewer_rows(self, cores):
        model = nn.Linear(4, 3, rng=0).to(np.float64)
        targets = np.random.default_rng(0).standard_normal((12, 3))
        step = tg.compile_step(model, lambda p, y: np.mean((p - targets) ** 2), optim.SGD(model.parameters(), 0.1))
        assert step(*small()) > step(*small())
        assert step.plans[0].shares is None

    def test_a_function_that_changes_something_is_called_once_a_trace(self, cores):
        class Counting(nn.Module):
            def __init__(self):
                self.inner, self.calls = nn.Linear(4, 3, rng=0), 0

            def forward(self, x):
                self.calls += 1
                return self.inner(x.astype(np.float32)) * (1 / self.calls)

        model = Counting()
        step = tg.compile_step(model, functional.cross_entropy, optim.SGD(model.parameters(), 0.1))
        for _ in range(5):
            step(*small())
        assert model.calls == 5

    def test_a_call_of_several_results_that_begins_with_a_number(self, cores):
        @tg.primitive
        def both(k, x):
            return x * k, x + k

        tg.defvjp(both, None, lambda g, y, k, x: g[0] * k + g[1])

        class Model(nn.Module):
            def __init__(self):
                self.inner = nn.Linear(4, 3, rng=0)

            def forward(self, x):
                a, b = both(2.0, self.inner(x.astype(np.float32)))
                return a + b

        model = Model()
        step = tg.compile_step(model, functional.cross_entropy, optim.SGD(model.parameters(), 0.1))
        assert step(*small()) > step(*small())
        assert step.plans[0].shares is None  # nobody said that it treats each example by itself

    def test_interrupts(self, cores):
        """Whenever an interrupt comes, the next step is made, and BLAS has the threads that it had from then on."""
        before, errors = [library.num_threads for library in pool._blas()], np.geterr()
        model = mlp()
        step = tg.compile_step(model, functional.cross_entropy, optim.SGD(model.parameters(), 0.1))
        step(*small())
        for n in range(0, 400, 3):
            calls = itertools.count()

            def interrupt(frame, event, arg, n=n, calls=calls):
                if next(calls) == n:
                    raise KeyboardInterrupt
                return interrupt

            tracing = sys.gettrace()
            sys.settrace(interrupt)
            try:
                step(*small())
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(tracing)
                np.seterr(**errors)  # the Python code of errstate in NumPy 2.0 can be interrupted, too
            assert step(*small()) > 0
            assert [library.num_threads for library in pool._blas()] == before

    def test_in_a_thread_that_goes_on_when_the_program_ends(self):
        code = """
import threading, time
import numpy as np
import tinygrad_mm as tg
from tinygrad_mm.compiler.threads import pool
from tinygrad_mm.compiler.threads import shares
pool.threads = lambda: 2
shares.ELEMENTS = shares.IN_A_CALL = shares.FOR_A_PARAMETER = 0
def work():
    model = tg.nn.Linear(4, 3, rng=0)
    step = tg.compile_step(model, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1))
    x, y = np.ones((12, 4), np.float32), np.zeros(12, int)
    step(x, y)
    time.sleep(0.3)
    print(step(x, y) > step(x, y), step.plans[0].shares.parts)
threading.Thread(target=work).start()
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "True 2\n", done.stderr

    def test_an_interrupt_waits_for_the_others(self):
        begun, ended = threading.Event(), []

        def stop():
            begun.wait()
            raise KeyboardInterrupt

        def work():
            begun.set()
            ended.append(sum(range(100_000)))

        with pytest.raises(KeyboardInterrupt):
            pool.at_once([stop, work])
        assert ended

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
    def test_no_interrupt_makes_it_wait_for_ever(self):
        code = """
import random, signal
from tinygrad_mm.compiler.threads import pool
def interrupt(*args):
    raise KeyboardInterrupt
calls = [lambda: sum(range(50)), lambda: sum(range(60))]
pool.at_once(calls)
signal.signal(signal.SIGALRM, interrupt)
count = 0
while count < 1000:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 4e-4), 0.1)
        while True:
            pool.at_once(calls)
    except KeyboardInterrupt:
        count += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(pool.at_once(calls))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == f"{[sum(range(50)), sum(range(60))]}\n", done.stderr

    def test_steps_in_several_threads_leave_blas_as_it_was(self, cores):
        before = [library.num_threads for library in pool._blas()]
        expected = train(mlp, OPTIMIZERS["Adam"], small(), 40, alone=True)
        found: list[Any] = []
        runs = [
            threading.Thread(target=lambda: found.append(train(mlp, OPTIMIZERS["Adam"], small(), 40))) for _ in range(4)
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert len(found) == 4
        for ours in found:
            assert_same(ours, expected)
        assert [library.num_threads for library in pool._blas()] == before

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_after_a_fork(self, cores):
        model = mlp()
        step = tg.compile_step(model, functional.cross_entropy, optim.SGD(model.parameters(), 0.1))
        step(*small())
        queue = multiprocessing.get_context("fork").SimpleQueue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks
            child = multiprocessing.get_context("fork").Process(target=lambda: queue.put(step(*small())))
            child.start()
        child.join(60)
        assert child.exitcode == 0
        assert queue.get() == step(*small())


class TestOutput:
    def test_source(self, cores):
        _, _, _, step = train(mlp, OPTIMIZERS["Adam"], small())
        assert step.source.startswith("# one training step, for each of 2 threads that share a batch\n")
        assert "(6, 6)" in step.source  # half of the batch
        assert "def update():" in step.source
        assert "np_add(gradient, gradient_of_thread_2, gradient)" in step.source

    def test_report(self, cores):
        model, batch = NETWORKS["mlp"]
        _, before, _, step = train(model, OPTIMIZERS["Adam"], batch)
        report = step.report(*batch)
        assert "np_sqrt" in str(report) or "blocks" in str(report)
        assert all(time >= 0 for _, time in report.lines)
        assert all(np.array_equal(a, p.data) for a, p in zip(before, step.model.parameters(), strict=True))

    @pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
    def test_save(self, cores, tmp_path, optimizer):
        """The file is a program for the whole batch and one thread."""
        model, batch = NETWORKS["mlp"]
        _, _, _, step = train(model, OPTIMIZERS[optimizer], batch, steps=400)  # Adam's corrections are nearly 1
        namespace: dict[str, Any] = {}
        exec(step.save(tmp_path / "step.py").read_text(), namespace)
        for _ in range(3):
            ((loss,), _) = namespace["functions"][0](*batch)
            assert loss == pytest.approx(step(*batch), rel=1e-3)

    def test_save_after_a_change(self, cores, tmp_path):
        _, _, _, step = train(mlp, OPTIMIZERS["SGD"], small())
        for p in step.model[0].parameters():
            p.requires_grad = False
        with pytest.raises(RuntimeError, match="changed since the last step"):
            step.save(tmp_path / "step.py")

    def test_save_of_what_divides_by_a_norm(self, cores, tmp_path):
        class Model(nn.Module):
            def __init__(self):
                self.inner = nn.Linear(4, 3, rng=0)
                self.to(np.float64)

            def forward(self, x):
                return self.inner(x / np.sqrt(np.sum(x * x, axis=1, keepdims=True)))

        _, _, _, step = train(Model, OPTIMIZERS["SGD"], small())
        namespace: dict[str, Any] = {}
        exec(step.save(tmp_path / "step.py").read_text(), namespace)
        ((loss,), _) = namespace["functions"][0](*small())
        assert loss == pytest.approx(step(*small()), rel=1e-10)

    def test_loops_are_not_saved(self, cores, tmp_path):
        with interpreted():
            _, _, _, step = train(mlp, OPTIMIZERS["Adam"], small(), backend="numba")
            with pytest.raises(TypeError, match="Numba backend"):
                step.save(tmp_path / "step.py")
            with pytest.raises(TypeError, match="NumPy backend"):
                step.report(*small())

    def test_fused_optimizer(self, cores):
        pytest.importorskip("numba")
        runs = (
            train(mlp, lambda ps: optim.Adam(ps, 0.01, fused=True), small(), alone=alone) for alone in (False, True)
        )
        assert_same(*runs)
