"""The benchmarks compute what they say: the contenders that need NumPy only, and how compare.py treats a wrong one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "contenders")]

import compare  # noqa: E402
import numpy as np  # noqa: E402
import numpy_best  # noqa: E402
import numpy_naive  # noqa: E402
import report  # noqa: E402
import tinygrad  # noqa: E402
from problems import PROBLEMS, Problem, learning_rate  # noqa: E402
from worker import number  # noqa: E402

OPTIMIZERS = ("SGD", "Adam")


def losses(make, problem, optimizer, rate=1.0, **options):
    """The losses of the first steps; `rate` multiplies the learning rate."""
    step = make(problem, optimizer, rate * learning_rate(optimizer), **options)
    return [number(step(x, y)) for x, y in problem.batches()[: problem.checked]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layout", ["fff", "bff", "fbf", "ffb", "bbf", "bfb", "fbb", "bbb"])
@pytest.mark.parametrize("classes", [3, 70])  # one-hot labels, and too many for that
def test_best_numpy_in_every_layout(classes, layout, optimizer):
    problem = Problem("drawn", "mlp", (5, 9, 7, classes), 32)
    expected = losses(numpy_naive.make, problem, optimizer, dtype=np.float64)
    assert losses(numpy_best.make, problem, optimizer, layout=layout) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", ["tiny", "small", "mnist", "deep"])
def test_numpy_contenders_and_ours_have_the_same_losses(network, optimizer):
    problem, tolerance = PROBLEMS[network], compare.TOLERANCE[optimizer]
    expected = losses(numpy_naive.make, problem, optimizer, dtype=np.float64)
    for make in (numpy_naive.make, numpy_best.make, tinygrad.make):
        assert losses(make, problem, optimizer) == pytest.approx(expected, rel=tolerance / 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_alone_are_the_formula(optimizer):
    problem = Problem("update", "update", (numpy_best.BLOCK + 5,), 1)
    rate, gradients = learning_rate(optimizer), [x.astype(np.float64) for x, _ in problem.batches()[:10]]
    p = np.zeros_like(gradients[0])
    update, expected = numpy_naive.Update([p], optimizer, rate), []
    for g in gradients:
        update([g])
        expected.append(number(p))
    for make in (numpy_best.make, tinygrad.make):
        assert losses(make, problem, optimizer) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", ["tiny", "small", "mnist", "deep"])
def test_a_contender_with_another_learning_rate_is_refused(network, optimizer):
    found = {
        name: {"losses": losses(numpy_naive.make, PROBLEMS[network], optimizer, rate)}
        for name, rate in (("a", 1.0), ("b", 1.0), ("wrong", 1.1))
    }
    compare.refuse_different(found, compare.TOLERANCE[optimizer])
    assert [name for name in found if compare.reason(found[name])] == ["wrong"]


def test_a_run_of_two_contenders(tmp_path, monkeypatch):
    only = "--networks tiny gru --optimizers SGD --contenders NumPy --threads 1"
    arguments = f"{only} --rounds 2 --seconds 0.01 --out {tmp_path}".split()
    compare.main(arguments)
    results = json.loads((tmp_path / "results.json").read_text())
    found = results["threads"]["1"]["tiny SGD"]
    assert set(found) == {"NumPy, naive", "NumPy, best"}
    assert all(len(values["microseconds"]) == 2 and values["error"] <= 2e-5 for values in found.values())
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| NumPy, best |" in text
    assert "NumPy, best: not available: multilayer perceptrons only (gru SGD)" in text
    assert (tmp_path / "results-1-threads.png").stat().st_size > 10_000

    monkeypatch.setattr(compare, "start", lambda *_: pytest.fail("what was measured is not measured again"))
    compare.main(arguments)


def test_ratios_take_the_fastest_of_several():
    times = {"tinygrad_mm eager": [3.0, 6.0], "PyTorch eager": [30.0, 40.0], report.FUSED: [10.0, 60.0]}
    found = {name: {"microseconds": values} for name, values in times.items()}
    assert "| eager / PyTorch eager | 0.30 (0.13) ≤ 0.3 |" in report.ratios({"tiny": found})
    found["tinygrad_mm eager"]["microseconds"] = [4.0]
    assert "**0.40 (0.11) > 0.3**" in report.ratios({"tiny": found})
