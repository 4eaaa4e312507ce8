"""`fused=True`: the compiled loop of an optimizer does what its NumPy calls do, and keeps the same state.

The oracle is the same optimizer without `fused`, which `test_optim.py` holds to the papers. Both round each operation, so
they have the same bits.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.optim import flat as runner

pytest.importorskip("numba")

from tinygrad_mm.compiler.loops import updates

CASES = [
    (optim.SGD, {"learning_rate": 0.1}),
    (optim.SGD, {"learning_rate": 0.1, "momentum": 0.9}),
    (optim.SGD, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adagrad, {"learning_rate": 0.1}),
    (optim.Adagrad, {"learning_rate": 0.5, "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"smoothing": 0.8, "epsilon": 1e-2, "centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    (optim.Adam, {"learning_rate": 0.02}),
    (optim.Adam, {"learning_rate": 0.02, "betas": (0.8, 0.95), "epsilon": 1e-4, "weight_decay": 0.1}),
    (optim.AdamW, {"learning_rate": 0.02, "weight_decay": 0.5}),
    (optim.Lion, {"learning_rate": 0.02, "betas": (0.5, 0.75), "weight_decay": 0.5}),
]
# Small neighbours, which are gathered, among large ones, which are read where they lie.
SHAPES = [(3, 4), (), (0, 2), (90, 131), (5,), (7, 1), (1, 9000), (10000,), (2, 3, 4)]


def parameters(shapes: Any = SHAPES, dtype: Any = np.float64) -> list[tg.Parameter]:
    r = np.random.default_rng(0)
    return [tg.Parameter(r.standard_normal(s).astype(dtype), dtype=dtype) for s in shapes]


def gradient(r: np.random.Generator, shape: tuple[int, ...], dtype: Any, kind: int) -> Any:
    """Drawn numbers of single precision, lying in memory in one of several ways; None for a kind of its own."""
    g = r.standard_normal(shape).astype(np.float32).astype(dtype)
    if kind % 5 == 1:
        return g.T.copy().T
    if kind % 5 == 2:
        return g.astype(np.float32 if dtype == np.float64 else np.float64)
    if kind % 5 == 3:
        return np.repeat(g[..., None], 2, axis=-1)[..., 0]  # with gaps
    return None if kind % 5 == 4 else g


def train(optimizer: optim.Optimizer, steps: int, seed: int = 1) -> None:
    """Steps with all kinds of gradients, some of them missing."""
    r = np.random.default_rng(seed)
    for step in range(steps):
        for i, p in enumerate(optimizer.parameters):
            p.grad = gradient(r, p.shape, p.dtype, step + i)
        optimizer.step()


def assert_same(found: optim.Optimizer, expected: optim.Optimizer) -> None:
    """Parameters, states and numbers of steps."""
    assert found.steps == expected.steps
    for p, q in zip(found.parameters, expected.parameters, strict=True):
        assert (p.dtype, p.shape) == (q.dtype, q.shape)
        own, other = found.state_of(p), expected.state_of(q)
        assert own.keys() == other.keys()
        assert own["step"] == other["step"]
        np.testing.assert_array_equal(p.data, q.data)
        for name, values in own.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


# ---------------------------------------------------------------------------------------------------------------------
# The same numbers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_optimizer(kind: Any, options: dict[str, Any], dtype: Any) -> None:
    plain, fused = kind(parameters(dtype=dtype), **options), kind(parameters(dtype=dtype), **options, fused=True)
    for optimizer in (plain, fused):
        train(optimizer, 7)
    assert_same(fused, plain)
    assert {type(run) for flats in fused._flats for flat in flats for run in flat.runs} == {runner._FusedRun}


@pytest.mark.filterwarnings("ignore:.* nothing was changed")
@settings(max_examples=50)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6),
    skipped=st.sets(st.integers(0, 5)),
    threads=st.integers(1, 3),
)
def test_any_shapes_skipped_parameters_and_threads(shapes: Any, skipped: set[int], threads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updates, "PARALLEL_FROM", 1)
        patch.setattr(updates, "threads", lambda: threads)
        both = [optim.Adam(parameters(shapes), 0.1, weight_decay=0.1, fused=fused) for fused in (False, True)]
        for optimizer in both:
            r = np.random.default_rng(1)
            for step in range(4):
                for i, p in enumerate(optimizer.parameters):
                    g = r.standard_normal(p.shape)
                    p.grad = None if i in skipped and step % 2 else g
                optimizer.step()
        assert_same(both[1], both[0])


def test_two_threads_take_all_elements_of_a_large_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "threads", lambda: 2)
    shapes = [(updates.PARALLEL_FROM + 3,), (7,), (3, 3001)]
    both = [optim.RMSprop(parameters(shapes, np.float32), 0.1, momentum=0.5, fused=fused) for fused in (False, True)]
    for optimizer in both:
        train(optimizer, 4)
    assert_same(both[1], both[0])


def test_groups_schedules_and_options_changed_by_hand() -> None:
    def trained(fused: bool) -> optim.Optimizer:
        first, second, third = parameters([(4,), (9001,), (2, 2)])
        groups = [{"parameters": [first]}, {"parameters": [second], "weight_decay": 0.0, "betas": (0.5, 0.9)}]
        rate = optim.linear({0: 0.1, 5: 0.01})
        optimizer = optim.AdamW(groups, rate, (lambda step: 0.9 - 0.1 * step, 0.99), weight_decay=0.3, fused=fused)
        train(optimizer, 3)
        optimizer.add_group({"parameters": [third], "learning_rate": 0.5})
        train(optimizer, 2)
        optimizer.groups[1]["weight_decay"] = 0.25
        optimizer.learning_rate = 0.03
        train(optimizer, 3)
        return optimizer

    assert_same(trained(True), trained(False))


def test_parameters_of_two_dtypes_and_data_set_anew() -> None:
    def trained(fused: bool) -> optim.Optimizer:
        ps = [*parameters([(3,), (9001,)], np.float32), *parameters([(4, 2)], np.float64)]
        optimizer = optim.SGD(ps, 0.1, momentum=0.9, fused=fused)
        train(optimizer, 2)
        ps[1].value = np.ones(9001, np.float32)  # another array
        train(optimizer, 2)
        ps[2].data = np.ones((4, 2), np.float32)  # another dtype
        train(optimizer, 2)
        return optimizer

    assert_same(trained(True), trained(False))


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_nan_infinity_and_zeros(kind: Any, options: dict[str, Any]) -> None:
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, -3e38, 1.0]
    values, gradients = (a.ravel().astype(np.float32) for a in np.meshgrid(special, special))
    found = []
    for fused in (False, True):
        p = tg.Parameter(values.copy())
        optimizer = kind([p], **options, fused=fused)
        with np.errstate(all="ignore"):
            for _ in range(3):
                p.grad = gradients
                optimizer.step()
        found.append([p.data, *(v for name, v in optimizer.state_of(p).items() if name != "step")])
    for plain, fused_ in zip(*found, strict=True):
        np.testing.assert_array_equal(fused_, plain)
        known = ~np.isnan(plain)
        np.testing.assert_array_equal(np.signbit(fused_[known]), np.signbit(plain[known]))


def test_gradients_are_left_alone() -> None:
    p = tg.Parameter(np.ones(20_000, np.float32))
    for kind in (optim.SGD, optim.Adagrad, optim.RMSprop, optim.Adam, optim.AdamW, optim.Lion):
        optimizer = kind([p], 0.1, fused=True)
        p.grad = g = np.full(20_000, 0.5, np.float32)
        g.flags.writeable = False
        optimizer.step()
        assert p.grad is g


def test_a_wrong_gradient_changes_nothing() -> None:
    ps = parameters([(2, 3), (4,)])
    before = [p.data.copy() for p in ps]
    optimizer = optim.Adam(ps, fused=True)
    ps[0].grad, ps[1].grad = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match=r"shape \(4,\) has shape \(3,\)"):
        optimizer.step()
    for p, b in zip(ps, before, strict=True):
        np.testing.assert_array_equal(p.data, b)


# ---------------------------------------------------------------------------------------------------------------------
# State
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", ["unfused", "fused"])
def test_a_state_goes_from_fused_to_unfused_and_back(begins: str) -> None:
    first = begins == "fused"
    expected = optim.Adam(parameters(), 0.1)
    train(expected, 3)
    train(expected, 4, seed=2)
    begun = optim.Adam(parameters(), 0.1, fused=first)
    train(begun, 3)
    resumed = optim.Adam(parameters(), 0.1, fused=not first)
    saved = begun.state_dict()
    resumed.load_state_dict(saved)
    for p, q in zip(resumed.parameters, begun.parameters, strict=True):
        p.data = q.data
    again = resumed.state_dict()
    assert again["options"] == saved["options"]
    assert again["state"].keys() == saved["state"].keys()
    for name, value in saved["state"].items():
        np.testing.assert_array_equal(again["state"][name], value)
    train(resumed, 4, seed=2)
    assert_same(resumed, expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_by_themselves(duplicate: Any) -> None:
    original = optim.Adam(parameters(), 0.1, fused=True)
    train(original, 3)
    kept = [p.data.copy() for p in original.parameters]
    copied = duplicate(original)
    assert copied.fused
    train(copied, 4, seed=2)
    for p, before in zip(original.parameters, kept, strict=True):
        np.testing.assert_array_equal(p.data, before)
    train(original, 4, seed=2)
    for p, q in zip(original.parameters, copied.parameters, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("kind", "options"), [(optim.SGD, {}), (optim.Adam, {"weight_decay": 0.1})])
def test_in_and_between_compiled_steps(backend: str, kind: type, options: dict[str, Any]) -> None:
    def trained(compiled: bool) -> list[np.ndarray]:
        model = nn.Sequential(nn.Dense(6, 8, "tanh", rng=0), nn.Dense(8, 4, rng=1))
        optimizer = kind(model.parameters(), 0.01, **options, fused=compiled)
        step = tg.compile_step(model, tg.cross_entropy, optimizer, backend=backend)
        r = np.random.default_rng(0)
        for i in range(8):
            x, y = r.standard_normal((5, 6)).astype(np.float32), r.integers(0, 4, 5)
            model[0].bias.requires_grad = i > 3  # until then, what is updated lies in pieces
            if compiled and i % 2:
                step(x, y)
                continue
            optimizer.zero_grad()
            tg.cross_entropy(model(x), y).backward()
            optimizer.step()
        return [*(np.array(p.data) for p in model.parameters()), *optimizer.state_dict()["state"].values()]

    for found, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_step_shows_the_loop_and_does_not_save_it(tmp_path: Path) -> None:
    model = nn.Dense(3, 2, rng=0)
    optimizer = optim.Adam(model.parameters(), 0.01, fused=True)
    step = tg.compile_step(model, tg.cross_entropy, optimizer)
    x, y = np.ones((4, 3), np.float32), np.zeros(4, int)
    step(x, y)
    assert "update_all(parameters, gradients, mean, mean_square)" in step.source
    before = [a.copy() for flats in optimizer._flats for f in flats for a in (f.values, *f.states.values())]
    assert "update_all(parameters" in str(step.report(x, y))  # which runs the program, and puts everything back
    after = [a for flats in optimizer._flats for f in flats for a in (f.values, *f.states.values())]
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(TypeError, match="an optimizer without fused"):
        step.save(tmp_path / "step.py")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# Formulas of one's own
# ---------------------------------------------------------------------------------------------------------------------


class Named(optim.Optimizer):
    """Its states are called as the loop calls its own things."""

    states = ("i", "count", "mean_at", "float32")

    @staticmethod
    def formula(parameter: Any, gradient: Any, *states_and_numbers: Any) -> Any:
        i, count, mean_at, float32, learning_rate, _ = states_and_numbers
        count = np.maximum(count, np.abs(gradient))
        new = i + gradient, count, np.where(gradient > 0, mean_at + 1, 0.5 * mean_at), np.sqrt(float32 + count)
        return parameter - learning_rate * (i + new[3]), *new


def test_states_may_have_the_names_of_the_loop() -> None:
    both = [Named(parameters(), 0.1, fused=fused) for fused in (False, True)]
    for optimizer in both:
        train(optimizer, 4)
    assert_same(both[1], both[0])


class Odd(optim.Optimizer):
    @staticmethod
    def formula(parameter: Any, gradient: Any, learning_rate: Any, step: Any) -> Any:
        return (parameter - learning_rate * np.arctan2(gradient, 1.0),)


def test_a_formula_without_a_loop_runs_in_numpy_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    both = [Odd(parameters(), 0.1, fused=fused) for fused in (False, True)]
    with caplog.at_level(logging.WARNING, "tinygrad_mm.optim"):
        for optimizer in both:
            train(optimizer, 6)
    assert_same(both[1], both[0])
    assert [record.getMessage().count("arctan2") for record in caplog.records] == [1]


def test_half_precision_runs_in_numpy() -> None:
    p = tg.Parameter(np.ones(3), dtype=np.float16)
    optimizer = optim.SGD([p], 0.5, fused=True)
    p.grad = np.ones(3, np.float16)
    optimizer.step()
    assert p.data.tolist() == [0.5] * 3


def test_another_number_does_not_compile_again() -> None:
    (p,) = parameters([(3,)])
    optimizer = optim.AdamW([p], 0.1, fused=True)
    p.grad = np.ones(3)
    optimizer.step()
    before = updates._compiled.cache_info().misses
    for decay in (0.2, 0.3):
        optimizer.groups[0]["weight_decay"] = decay
        optimizer.groups[0]["betas"] = (decay, 0.9)
        optimizer.step()
    assert updates._compiled.cache_info().misses == before


# ---------------------------------------------------------------------------------------------------------------------
# Doors
# ---------------------------------------------------------------------------------------------------------------------


def test_without_numba_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    p = tg.Parameter([1.0])
    unpickled = pickle.dumps(optim.Adam([p], 0.1, fused=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"fused=True needs Numba: pip install 'tinygrad_mm\[numba\]'"):
        optim.Adam([p], 0.1, fused=True)
    optim.Adam([p], 0.1)
    runner.has_loop.cache_clear()
    optimizer = pickle.loads(unpickled)
    optimizer.parameters[0].grad = np.ones(1, np.float32)
    with pytest.raises(ImportError, match=r"tinygrad_mm\[numba\]"):
        optimizer.step()


def test_fused_is_shown_and_no_option_of_the_formula() -> None:
    optimizer = optim.SGD(parameters(), 0.1, fused=True)
    assert "fused=True" in repr(optimizer)
    assert "fused" not in repr(optim.SGD(parameters(), 0.1))
    assert "fused" not in optimizer.groups[0]
    with pytest.raises(TypeError, match="has no option 'fused'"):
        optim.SGD([{"parameters": parameters(), "fused": True}], 0.1)


def test_an_optimizer_that_is_not_fused_loads_no_compiler() -> None:
    code = (
        "import sys, numpy as np, tinygrad_mm as tg; p = tg.Parameter([1.0]); p.grad = np.ones(1, np.float32);"
        "tg.optim.Adam([p], 0.1).step(); print('numba' in sys.modules, 'tinygrad_mm.compiler.loops' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
