"""Memory in compiled programs: results that take turns in it are right, and a placement that is wrong is refused.

Every program that is written out is checked (`compiler/validation.py`). So all tests of compiled programs try it on
right placements; here it meets wrong ones, each of which lacks one thing that a planner has to know.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import linecache
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interpreted import interpreted

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.compiler import passes, placement
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.placement import Placement
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.compiler.tracing import Trace
from tinygrad_mm.compiler.validation import validate
from tinygrad_mm.functional.sliding import windows


def placed(function: Callable[..., Any], *arrays: Any) -> Placement:
    """The placement of a function and its gradients."""
    names = [f"x{i}" for i in range(len(arrays))]
    trace = Trace(function, Captured(function), arrays, lambda tensors: (tuple(tensors), {}), names, True)
    return Placement(passes.optimize(trace.program))


# ---------------------------------------------------------------------------------------------------------------------
# Wrong placements
# ---------------------------------------------------------------------------------------------------------------------


def read_through_a_view(x: Any) -> Any:
    a = np.exp(x)
    turned = a.T
    return np.sin(np.cos(a + 1)) @ turned  # `a` itself is read before


def read_later(x: Any) -> Any:
    a = np.exp(x)
    return np.sin(np.cos(a) + 1) * a


@contextlib.contextmanager
def forgotten_views():
    with mock.patch.object(Placement, "_roots", lambda self, value: frozenset({id(value)})):
        yield


@contextlib.contextmanager
def forgotten_later_reads():
    real = Placement._last_reads

    def soon(self):
        last, later = real(self)
        makers = {id(op.result): i for i, op in enumerate(self.program.ops)}
        return {key: makers.get(key, -1) + 1 for key in last}, later

    with mock.patch.object(Placement, "_last_reads", soon):
        yield


@pytest.mark.parametrize(
    ("mutant", "function"), [(forgotten_views, read_through_a_view), (forgotten_later_reads, read_later)]
)
def test_a_wrong_placement_is_refused(mutant, function):
    x = np.ones((4, 4))
    validate(placed(function, x))
    with mutant(), pytest.raises(RuntimeError, match="fault of the compiler"):
        validate(placed(function, x))


def calls(*rest: Op) -> Program:
    """A program in which a plain call may return a view of what was computed before."""
    x = Value(np.ones((1, 1, 4, 4)), "input", "x")
    a = Value(np.ones((1, 1, 4, 4)))
    same = Value(np.ones((1, 1, 1, 1, 4, 4)))
    program = Program()
    program.inputs = [x]
    b, c, total = (Value(np.ones((1, 1, 4, 4))), Value(np.ones((1, 1, 4, 4))), Value(np.ones((1, 1, 1, 1, 4, 4))))
    program.ops = [
        Op(np.exp, [x], {}, a),
        Op(windows, [a, (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)], {}, same),
        Op(np.matmul, [x, x], {}, b),
        Op(np.matmul, [b, b], {}, c),
        Op(np.add, [same, same], {}, total),
    ]
    program.outputs = [total, c]
    return program


def test_what_a_plain_call_returns_may_be_what_it_was_given():
    validate(Placement(calls()))
    with mock.patch.object(placement, "_is_fresh", return_value=True):
        wrong = Placement(calls())
    for step in wrong.steps:  # the planner took the result for a new array; the check is told that it is none
        if step.op.fun is windows:
            step.out.memory.seen = frozenset({step.operands[0].memory})
    with pytest.raises(RuntimeError, match="fault of the compiler"):
        validate(wrong)


def test_scratch_memory_is_nobody_elses():
    w = tg.Tensor(np.ones((4, 4)), requires_grad=True, dtype=np.float64)
    right = placed(lambda x: np.sum(tg.relu(x @ w) @ w), np.ones((4, 4)))
    step = next(step for step in right.steps if step.scratch)
    step.scratch[0] = step.operands[1]
    with pytest.raises(RuntimeError, match="fault of the compiler"):
        validate(right)


# ---------------------------------------------------------------------------------------------------------------------
# Views that calls return
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nothing():
    yield


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("batch", [1, 2, 8, 15, 16, 17])
@pytest.mark.parametrize("second", [1, 6])
def test_windows_of_one_pixel_and_of_the_whole_image(backend, batch, second):
    """A window of one pixel, or one that covers the image, is a view of what it slides over."""
    rng = np.random.default_rng(0)
    shape = (batch, 3, 8, 8) if batch < 9 else (batch, 1, 8, 8)
    places = (7 - second) ** 2
    model = nn.Sequential(
        nn.Conv2d(shape[1], 2, 3, rng=0), nn.Conv2d(2, 5, second, rng=1), nn.Flatten(), nn.Dense(5 * places, 3, rng=2)
    ).to(np.float64)
    x, y = rng.standard_normal(shape), rng.integers(0, 3, batch)
    loss = lambda x, y: tg.cross_entropy(model(x), y)
    with interpreted() if backend == "numba" else nothing():
        found = []
        for f in (tg.compile(loss, backend=backend), loss):
            model.zero_grad()
            f(x, y).backward()
            found.append([p.grad.copy() for p in model.parameters()])
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("turned", [False, True])
def test_one_loop_writes_gradients_of_parameters_in_any_order(turned):
    """They lie in one piece of memory; a loop may meet the last of them first."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            self.first, self.second = (nn.Parameter(np.full(3, v)) for v in (1.0, 2.0))

        def forward(self, x: Any) -> Any:
            a, b = (self.second, self.first) if turned else (self.first, self.second)
            return np.sum(a * x * 2 + b * x * 3)

    x, y = np.array([1.0, -2.0, 0.5]), np.zeros(1)
    with interpreted():
        model = Scaled()
        step = tg.compile_step(model, lambda out, y: out, tg.optim.SGD(model.parameters(), 0.1), backend="numba")
        step(x, y)
    other = Scaled()
    other(x).backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data - 0.1 * q.grad, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Special values
# ---------------------------------------------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-42, -1e-42, 3e38, -3e38, np.inf, -np.inf, np.nan, -np.nan]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@given(
    st.lists(st.tuples(st.sampled_from(SPECIAL), st.sampled_from(SPECIAL)), min_size=1, max_size=40),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_way_back_through_relu_keeps_all_bits_or_none(backend, pairs, dtype):
    x, g = (np.array(column, dtype) for column in zip(*pairs, strict=True))
    expected = np.where(x <= 0, dtype(0), g)
    with interpreted() if backend == "numba" else nothing(), np.errstate(all="ignore"):
        for f in (tg.compile(lambda x: tg.relu(x), backend=backend), tg.relu):
            t = tg.Tensor(x, requires_grad=True)
            f(t).backward(g)
            integer = f"u{x.itemsize}"
            np.testing.assert_array_equal(np.asarray(t.grad).view(integer), expected.view(integer))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["silu", "sigmoid"])
def test_sigmoids_of_all_finite_numbers(backend, dtype, name):
    limits = np.finfo(dtype)
    x = np.array([0, -0.0, -1, 20, -20, 87, -87, 88, -88, 89, -89, -104, 104, -700, 710, -740, -1e36, 1e36], dtype)
    x = np.concatenate([x, [limits.max, limits.min, limits.tiny, -limits.tiny]]).astype(dtype)
    function = getattr(tg, name)
    with interpreted() if backend == "numba" else nothing():
        found, expected = (np.asarray(f(x)) for f in (tg.compile(lambda x: function(x), backend=backend), function))
    np.testing.assert_allclose(found, expected, rtol=8 * limits.eps, atol=limits.tiny)


# ---------------------------------------------------------------------------------------------------------------------
# What is left behind
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_no_lines_are_left_of_programs_that_are_gone(backend):
    def use() -> None:
        model = nn.Dense(3, 2, rng=0)
        step = tg.compile_step(model, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1), backend=backend)
        f = tg.compile(lambda x: np.tanh(x) * 2, backend=backend)
        for n in (1, 2, 4):
            f(np.ones((n, 3), np.float32))
            step(np.ones((n, 3), np.float32), np.zeros(n, int))

    def shown() -> set[str]:
        names = [name for name in linecache.cache if name.startswith(("<compiled", "<loops"))]
        return {name for name in names if linecache.getlines(name)}

    with interpreted() if backend == "numba" else nothing():
        use()
        gc.collect()
        before = shown()
        names = set(linecache.cache)
        use()
        names |= set(linecache.cache)
        gc.collect()
        assert shown() <= before
        assert names <= set(linecache.cache), "a name that vanishes breaks a traceback that is being formatted"


def test_a_program_is_saved_without_installed_metadata(tmp_path, monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    f = tg.compile(lambda x: np.tanh(x) * 2)
    f(np.ones(3))
    assert f"tinygrad_mm {tg.__version__}" in f.save(tmp_path / "program.py").read_text()
