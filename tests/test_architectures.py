"""Compiled training steps are eager ones, whatever the architecture: `architectures.py` draws them, hundreds here.

Thousands, by seeds, are tried by `python tests/architectures_long.py`. That the comparison finds what is wrong, and
nothing else, is tested with steps that are eager ones, each with a fault of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import strategies as my
from architectures import Architecture, architecture
from choices import Replayed, Seeded, cut_down
from compared_steps import compare
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interpreted import interpreted

import tinygrad_mm as tg
from tinygrad_mm.compiler.loops import native

no_blas = pytest.mark.skipif(not native.blas(), reason="the BLAS behind this NumPy has no symbols that can be found")
threads = st.sampled_from([1, 2])


@settings(max_examples=220, derandomize=True)  # the long run is for new ones
@given(my.architectures(), threads)
def test_numpy(made: Architecture, count: int) -> None:
    assert not compare(made, "numpy", count)


@no_blas
@settings(max_examples=80, derandomize=True)
@given(my.architectures(largest=3), threads)
def test_interpreted_loops(made: Architecture, count: int) -> None:
    with interpreted():
        assert not compare(made, "numba", count)


@pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="Numba is not installed: pip install 'tinygrad_mm[numba]'"
)
@settings(
    max_examples=20, derandomize=True, phases=[Phase.explicit, Phase.generate]
)  # each takes seconds to compile: no shrinking
@given(my.architectures(deepest=2, steady=True), threads)
def test_numba(made: Architecture, count: int) -> None:
    assert not compare(made, "numba", count)


# ---------------------------------------------------------------------------------------------------------------------
# The comparison itself
# ---------------------------------------------------------------------------------------------------------------------


def eager_step(fault: Callable[[Any, Any, float], float]) -> Any:
    """What stands in for `compile_step`: a step whose update is made by `fault(model, optimizer, loss)`."""

    def compile_step(model: Any, loss: Any, optimizer: Any, **options: Any) -> Any:
        def step(*batch: Any) -> float:
            model.zero_grad()
            value = loss(model(*batch[:-1]), batch[-1])
            value.backward()
            told = fault(model, optimizer, value.item())
            model.zero_grad()
            return told

        return step

    return compile_step


def trained(optimizer: Any) -> list[Any]:
    """The parameters that have a gradient worth the name, the largest gradient first."""
    found = [p for p in optimizer.parameters if p.grad is not None and np.max(np.abs(p.grad)) > 0.01]
    return sorted(found, key=lambda p: -float(np.max(np.abs(p.grad))))


def nothing(model: Any, optimizer: Any, loss: float) -> float:
    optimizer.step()
    return loss


def gradients_swapped(model: Any, optimizer: Any, loss: float) -> float:
    first = trained(optimizer)[0]
    second = next(p for p in optimizer.parameters if p is not first and p.grad is not None and p.shape == first.shape)
    first.grad, second.grad = second.grad, first.grad
    return nothing(model, optimizer, loss)


def gradient_off_by_a_hundredth(model: Any, optimizer: Any, loss: float) -> float:
    p = trained(optimizer)[0]
    p.grad = p.grad * p.dtype.type(1.01)
    return nothing(model, optimizer, loss)


def gradient_forgotten(model: Any, optimizer: Any, loss: float) -> float:
    trained(optimizer)[0].grad = None
    return nothing(model, optimizer, loss)


def gradient_of_zeros(model: Any, optimizer: Any, loss: float) -> float:
    p = next(p for p in optimizer.parameters if p.grad is None and p.requires_grad)
    p.grad = np.zeros_like(p.data)
    return nothing(model, optimizer, loss)


def learning_rate_off(model: Any, optimizer: Any, loss: float) -> float:
    if not optimizer.state_of(trained(optimizer)[0]).keys() & {"velocity", "mean"}:
        raise LookupError  # the gradient is found by this learning rate
    rates = [group["learning_rate"] for group in optimizer.groups]
    for group, rate in zip(optimizer.groups, rates, strict=True):
        group["learning_rate"] = rate * 1.01
    optimizer.step()
    for group, rate in zip(optimizer.groups, rates, strict=True):
        group["learning_rate"] = rate
    return loss


def one_parameter_left(model: Any, optimizer: Any, loss: float) -> float:
    p = trained(optimizer)[0]
    before = p.data.copy()
    optimizer.step()
    p.data = before
    return loss


def second_moment_off(model: Any, optimizer: Any, loss: float) -> float:
    states = optimizer.state_of(trained(optimizer)[0])
    optimizer.step()
    if "mean_square" not in states:
        raise LookupError
    states["mean_square"][...] *= 1.001
    return loss


def loss_off(model: Any, optimizer: Any, loss: float) -> float:
    return nothing(model, optimizer, loss) * 1.01


def buffer_off(model: Any, optimizer: Any, loss: float) -> float:
    next(b for _, b in model.named_buffers() if np.any(np.abs(b.data) > 0.01)).data[...] *= 1.01
    return nothing(model, optimizer, loss)


def one_draw_more(model: Any, optimizer: Any, loss: float) -> float:
    next(g for _, g in model.named_generators()).random()
    return nothing(model, optimizer, loss)


def another_parameter_moved(model: Any, optimizer: Any, loss: float) -> float:
    own = {id(p) for p in trained(optimizer)}
    p = next(p for p in model.parameters() if p.grad is None or id(p) not in own)
    if p.grad is not None:
        raise LookupError
    p.data = p.data * 2 + 1
    return nothing(model, optimizer, loss)


FAULTS = [
    gradients_swapped,
    gradient_off_by_a_hundredth,
    gradient_forgotten,
    gradient_of_zeros,
    learning_rate_off,
    one_parameter_left,
    second_moment_off,
    loss_off,
    buffer_off,
    one_draw_more,
    another_parameter_moved,
]


def findings(made: Architecture, fault: Any) -> list[str]:
    with mock.patch.object(tg, "compile_step", eager_step(fault)):
        return compare(made)


@pytest.mark.parametrize("seed", range(12))
def test_eager_steps_are_right(seed: int) -> None:
    assert not findings(architecture(Seeded(seed)), nothing)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_found(fault: Any) -> None:
    found = missed = 0
    for seed in range(200):
        try:
            wrong = findings(architecture(Seeded(seed), deepest=4), fault)
        except (LookupError, StopIteration):  # nothing there that can have this fault
            continue
        found, missed = found + bool(wrong), missed + (not wrong)
        if found + missed == 5:
            break
    assert found + missed == 5
    assert not missed


def test_choices_are_kept() -> None:
    """What another source has decided makes the same architecture again."""
    for seed in range(20):
        made = architecture(Seeded(seed))
        again = architecture(Replayed(made.choices))
        assert repr(again) == repr(made)
        assert all(np.array_equal(a, b) for a, b in zip(made.batches[0], again.batches[0], strict=True))


def test_failing_choices_are_cut_down() -> None:
    """To the fewest and smallest that fail."""
    assert cut_down([3, 9, 4, 7, 1, 8, 2], lambda numbers: sum(n > 5 for n in numbers) > 1) == [6, 6]
