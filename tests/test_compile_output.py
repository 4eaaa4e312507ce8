"""What a compiled function shows of itself: its source, its costs, and a file that needs NumPy alone."""

from __future__ import annotations

import linecache
import re
import subprocess
import sys
import textwrap
import traceback

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm.compiler.guards import Guards


def classifier() -> tuple[tg.Module, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    model = tg.nn.Sequential(tg.nn.Dense(6, 8, "relu", rng=rng), tg.nn.Dense(8, 3, rng=rng))
    return model, rng.standard_normal((5, 6)).astype(np.float32), rng.integers(0, 3, 5)


def test_the_source_names_modules_parameters_and_shapes():
    model, x, y = classifier()
    f = tg.compile(lambda x, y: tg.cross_entropy(model(x), y))
    with pytest.raises(RuntimeError, match="not been called"):
        _ = f.source
    f(x, y)
    assert "# layers.0 Dense" in f.source
    assert "model_layers_1_weight" in f.source
    assert "# (5, 8)" in f.source
    assert "(backward)" in f.source


def test_tracebacks_show_the_emitted_line():
    f = tg.compile(lambda x: np.linalg.inv(x) * 2)
    f(np.eye(2))
    with pytest.raises(np.linalg.LinAlgError) as error:
        f(np.zeros((2, 2)))
    frames = traceback.extract_tb(error.value.__traceback__)
    emitted = [frame for frame in frames if frame.filename.startswith("<compiled")]
    assert emitted
    assert "inv" in str(emitted[0].line)
    assert linecache.getline(emitted[0].filename, emitted[0].lineno or 0)


def test_the_report_counts_and_measures_and_changes_nothing():
    model, x, y = classifier()
    optimizer = tg.optim.Adam(model.parameters())
    step = tg.compile_step(model, tg.cross_entropy, optimizer)
    with pytest.raises(RuntimeError, match="make a step first"):
        step.report(x, y)
    step(x, y)
    before = [p.data.copy() for p in model.parameters()] + list(optimizer.state_dict()["state"].values())
    report = step.report(x, y)
    after = [p.data for p in model.parameters()] + list(optimizer.state_dict()["state"].values())
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert report.multiply_adds >= 5 * (6 * 8 + 8 * 3) * 2
    assert report.buffer_bytes < report.result_bytes
    assert len(report.lines) > 10
    assert re.search(r"dot\(.*\d+\.\d+ +\d+\.\d %", str(report))
    assert sum(t for _, t in report.lines) == pytest.approx(report.total)


def test_a_report_of_a_function():
    model, x, y = classifier()
    f = tg.compile(lambda x, y: tg.cross_entropy(model(x), y))
    f(x, y)
    assert "multiply-adds" in str(f.report(x, y))
    with pytest.raises(RuntimeError, match="call it first"):
        f.report(x[:2], y[:2])


def run_alone(code: str, folder: object) -> str:
    """What a program prints in a Python that cannot import this library."""
    block = "import sys; sys.modules['tinygrad_mm'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", block + textwrap.dedent(code)],
        cwd=str(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_saved_function_reproduces_loss_and_gradients_with_numpy_alone(tmp_path):
    model, x, y = classifier()
    f = tg.compile(lambda x, y: tg.cross_entropy(model(x), y))
    loss = f(x, y)
    loss.backward()
    f.save(tmp_path / "program.py")
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    printed = run_alone(
        """
        import numpy as np, program
        batch = np.load("batch.npz")
        forward, backward = program.functions
        (loss,), _, rest = forward(batch["x"], batch["y"])
        gradients = backward(batch["x"], batch["y"], np.ones((), np.float32), *rest)
        print(repr(float(loss)), *sorted(repr(float(abs(g).sum())) for g in gradients))
        """,
        tmp_path,
    )
    expected = [float(np.abs(p.grad).sum()) for p in model.parameters()]
    found = printed.split()
    assert float(found[0]) == loss.item()
    np.testing.assert_allclose(sorted(map(float, found[1:])), sorted(expected), rtol=1e-6)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_saved_step_goes_on_with_numpy_alone(tmp_path, kind):
    rng = np.random.default_rng(1)
    model = tg.nn.Sequential(
        tg.nn.Conv2d(1, 2, 3, rng=rng), tg.nn.MaxPool2d(2), tg.nn.Flatten(), tg.nn.Dense(8, 3, rng=rng)
    )
    x, y = rng.standard_normal((5, 1, 6, 6)).astype(np.float32), rng.integers(0, 3, 5)
    step = tg.compile_step(model, tg.cross_entropy, getattr(tg.optim, kind)(model.parameters(), learning_rate=0.01))
    step(x, y)
    step.save(tmp_path / "program.py")
    np.savez(tmp_path / "batch.npz", x=x, y=y)
    printed = run_alone(
        """
        import numpy as np, program
        batch = np.load("batch.npz")
        step = program.functions[0]
        for _ in range(3):
            print(repr(float(step(batch["x"], batch["y"])[0][0])))
        """,
        tmp_path,
    )
    first = step(x, y)
    losses = [float(line) for line in printed.split()]
    assert losses[0] == pytest.approx(first, rel=1e-6)
    assert losses[2] < losses[0]


def test_a_step_is_saved_as_the_same_text_each_time(tmp_path):
    texts, kept = set(), []
    for i in range(4):
        kept.append([np.full(n, i + 65, np.uint8) for n in range(50, 3000, 7)][::2])  # what is freed is not all zeros
        model = tg.nn.Sequential(tg.nn.Dense(20, 7, "tanh", rng=0), tg.nn.Linear(7, 3, rng=1))
        step = tg.compile_step(model, tg.cross_entropy, tg.optim.Adam(model.parameters(), 0.01))
        step(np.ones((4, 20), np.float32), np.zeros(4, int))
        texts.add(step.save(tmp_path / "program.py").read_text())
        kept.append(step)
    assert len(texts) == 1


def test_guards_fail_where_something_is_gone():
    guards = Guards()
    box: dict[str, object] = {"a": 1}
    guards.same(f"{guards.name(box)}['a']", box["a"])
    guards.true(f"len({guards.name(box)}) == 1")
    check = guards.function()
    assert check()
    box["b"] = 2
    assert not check()
    del box["b"], box["a"]
    assert not check()


def test_many_classes():
    rng = np.random.default_rng(0)
    layer = tg.nn.Dense(4, 200, rng=rng)
    x, y = rng.standard_normal((7, 4)).astype(np.float32), rng.integers(0, 200, 7)
    f = tg.compile(lambda x, y: tg.cross_entropy(layer(x), y))
    for loss in (f, f.function):
        layer.zero_grad()
        value = loss(x, y)
        value.backward()
        if loss is f:
            first, gradient = value.item(), layer.weight.grad
    assert first == pytest.approx(value.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, layer.weight.grad, atol=1e-6)
    with pytest.raises(ValueError, match="label"):
        f(x, y + 200)
