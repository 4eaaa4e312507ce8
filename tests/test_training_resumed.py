"""Runs that are stopped in every way go on bit for bit; and the file they go on from."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import BATCHES, EPOCHS, X, Y, accuracy, adam, bits, go, network, press_at, sgd

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.data import DataLoader, read_idx_folder
from tinygrad_mm.debug import AnomalyError
from tinygrad_mm.training import EarlyStopping, fit
from tinygrad_mm.training import checkpoints as checkpoints_module
from tinygrad_mm.training.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from tinygrad_mm.weights import load, load_with_metadata


def outcome(model, optimizer, history):
    return bits(model.state_dict(), optimizer.state_dict(), dict(history))


# ---------------------------------------------------------------------------------------------------------------------
# Stopped and resumed
# ---------------------------------------------------------------------------------------------------------------------


class Crash(Exception):  # noqa: N818
    pass


def crash_at(step):
    class AtStep:
        def on_step(self, run):
            if run.step == step:
                raise Crash

    return AtStep()


def nothing():
    class Nothing:
        pass

    return Nothing()


def all_the_options(model, shared):
    average = optim.ExponentialMovingAverage(model, decay=0.9)
    return {
        "validation": DataLoader((X, Y), 9, shuffle=True, rng=3),
        "metrics": {"accuracy": accuracy},
        "rng": model.layers[2].rng if shared else 7,  # the shuffling and dropout may draw from one generator
        "callbacks": [average, optim.ReduceOnPlateau(0.01, patience=0, threshold=0.5)],
        "early_stopping": EarlyStopping(1, threshold=0.05),
    }, average


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("every", [1, 2, 7, None])
def test_a_run_that_crashes_anywhere_goes_on_as_if_it_had_not(tmp_path, every, shared):
    """Crashed at each step in turn, again and again in the same run; checkpoints are some steps older."""

    def attempt(path, crash, resume):
        model = network()
        optimizer = adam(model)
        options, average = all_the_options(model, shared)
        options["callbacks"].append(crash)
        history = go(model, optimizer, 6, checkpoint=path, every_steps=every, resume=resume, **options)
        return outcome(model, optimizer, history), bits(average.state_dict()), history.stopped

    whole = attempt(tmp_path / "whole.safetensors", nothing(), False)
    if every is not None:
        path = tmp_path / "again-and-again.safetensors"
        for step in range(1, 6 * BATCHES):
            try:
                attempt(path, crash_at(step), True)
            except Crash:
                continue
            break
        assert attempt(path, nothing(), True) == whole
    for step in range(1, 2 * BATCHES + 2):
        path = tmp_path / f"{step}.safetensors"
        with pytest.raises(Crash):
            attempt(path, crash_at(step), False)
        assert attempt(path, nothing(), True) == whole


def test_a_longer_run_can_follow_a_finished_one(tmp_path):
    model = network()
    optimizer = sgd(model)
    whole = outcome(model, optimizer, go(model, optimizer, 5))
    # What is loaded does not depend on the seeds of what loads it; a run already finished does nothing.
    for epochs, seed, rng in ((2, 1, 7), (2, 8, 0), (5, 9, 0), (5, 8, 0)):
        model = network(seed)
        optimizer = sgd(model)
        history = go(model, optimizer, epochs, rng=rng, checkpoint=tmp_path, resume=True)
        assert len(history["loss"]) == epochs
    assert outcome(model, optimizer, history) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_the_weights_in_a_checkpoint_are_found_under_their_names(tmp_path):
    model = network()
    go(model, sgd(model), checkpoint=tmp_path / "run.safetensors")
    arrays = load(tmp_path / "run.safetensors")
    own = model.state_dict()
    assert bits({name: arrays[f"model/{name}"] for name in own}) == bits(own)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_every_kind_of_generator_is_resumed(tmp_path, kind):
    def attempt(path, crash):
        model = network(np.random.Generator(kind(3)))
        optimizer = adam(model)
        rng = np.random.Generator(kind(4))
        history = go(model, optimizer, rng=rng, checkpoint=path, every_steps=1, resume=True, callbacks=[crash])
        return outcome(model, optimizer, history), rng.random(3).tolist(), model.layers[2].rng.random(3).tolist()

    whole = attempt(tmp_path / "whole", nothing())
    with pytest.raises(Crash):
        attempt(tmp_path / "stopped", crash_at(7))
    assert attempt(tmp_path / "stopped", nothing()) == whole


def test_a_checkpoint_every_so_many_minutes(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(checkpoints_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoints_module, "write_checkpoint", lambda path, tree: written.append(tree["step"]))

    class Clock:
        def on_step(self, run):
            now[0] += 45

    model = network()
    go(model, sgd(model), checkpoint=tmp_path, every_minutes=3, callbacks=[Clock()])
    assert written == [4, 8, 12, 15]


# The same run in a process of its own, to be killed: it tells of each step, and sleeps, so that it is killed in the
# middle of the run however fast the machine is.
PROGRAM = """
import sys, time
import numpy as np
import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.training import fit

data, checkpoint, pause = sys.argv[1:]
digits = tg.data.read_npz(data)
rng = np.random.default_rng(0)
model = nn.Sequential(
    nn.Dense(196, 32, rng=rng), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3, rng), nn.Dense(32, 10, rng=rng)
)
schedule = optim.warm_up(100, then=optim.cosine(0.1, steps=900))
optimizer = optim.SGD(model.parameters(), schedule, momentum=0.9, weight_decay=1e-4)

class Told:
    def on_step(self, run):
        if float(pause):
            print("step", flush=True)
        time.sleep(float(pause))

fit(
    model, (digits["x"], digits["y"]), tg.cross_entropy, optimizer, 32, batch_size=20, rng=1,
    validation=(digits["x"][:100], digits["y"][:100]), callbacks=[Told()], progress=False,
    checkpoint=checkpoint, every_steps=2, resume=True,
)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_run_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    (images, labels), _ = read_idx_folder(Path(__file__).parents[1] / "examples" / "data" / "mnist")
    np.savez(tmp_path / "digits.npz", x=images[:600, ::2, ::2].reshape(600, 196) / np.float32(255), y=labels[:600])

    def start(name, pause):
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, tmp_path / "digits.npz", tmp_path / name, str(pause)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )

    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    with start(whole.name, 0) as process:
        assert process.wait() == 0

    draw = random.Random(0)
    steps = []
    for _ in range(20):
        with start(stopped.name, 0.002) as process:
            for _ in range(draw.randint(1, 40)):
                assert process.stdout.readline() == b"step\n"
            time.sleep(draw.uniform(0, 0.002))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        if stopped.exists():
            steps.append(read_checkpoint(stopped)["step"])  # raises where the file is not whole
    assert steps == sorted(steps)
    assert len(set(steps)) > 10  # the kills were all over the run
    assert steps[-1] < 32 * 30
    with start(stopped.name, 0) as process:
        assert process.wait() == 0
    arrays, metadata = load_with_metadata(stopped)
    expected, expected_metadata = load_with_metadata(whole)
    assert bits(arrays) == bits(expected)
    assert metadata == expected_metadata
    assert json.loads(metadata["tinygrad_mm.checkpoint"])["step"] == 32 * 30
    assert not list(tmp_path.glob(".*"))  # nothing half written is left


@pytest.mark.parametrize("step", [1, 3, BATCHES, EPOCHS * BATCHES])
def test_ctrl_c_finishes_the_step_saves_and_returns(tmp_path, step):
    model = network()
    optimizer = sgd(model)
    whole = outcome(model, optimizer, go(model, optimizer))
    handler = signal.getsignal(signal.SIGINT)

    model = network()
    history = go(model, sgd(model), checkpoint=tmp_path, callbacks=[press_at(step)])
    assert history.stopped == "Ctrl-C"
    assert signal.getsignal(signal.SIGINT) is handler
    saved = read_checkpoint(checkpoint_path(tmp_path))
    assert saved["step"] == step
    assert bits(saved["model"]) == bits(model.state_dict())

    model = network()
    optimizer = sgd(model)
    history = go(model, optimizer, checkpoint=tmp_path, resume=True, callbacks=[nothing()])
    assert history.stopped is None
    assert outcome(model, optimizer, history) == whole


def test_ctrl_c_in_validation_ends_with_the_epoch():
    model = network()

    def press(prediction, target):
        if len(target) == len(X):
            signal.raise_signal(signal.SIGINT)
        return 0.0

    history = go(model, sgd(model), validation=(X, Y), metrics={"press": press})
    assert history.stopped == "Ctrl-C"
    assert len(history["validation_loss"]) == 1


def test_a_second_ctrl_c_interrupts_at_once():
    class Twice:
        def on_gradients(self, run):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    model = network()
    with pytest.raises(KeyboardInterrupt):
        go(model, sgd(model), callbacks=[Twice()])
    assert signal.getsignal(signal.SIGINT) is handler


def test_other_threads_leave_signals_alone():
    handlers = []
    model = network()

    def look(run):
        handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: handlers.append(len(go(model, sgd(model), callbacks=[look])["loss"])))
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)] * EPOCHS + [EPOCHS]


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model = network()
        assert go(model, sgd(model), callbacks=[press_at(2)]).stopped is None
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers that are none
# ---------------------------------------------------------------------------------------------------------------------


class Logarithm(tg.Module):
    """log(x w): fine until an example is negative."""

    def __init__(self):
        self.weight = tg.Parameter(np.ones((1, 1), np.float32))
        self.dropout = nn.Dropout(0.1, rng=0)

    def forward(self, x):
        with np.errstate(all="ignore"):
            return np.log(self.dropout(x + 1.0) @ self.weight + 1.0)


def test_a_nan_loss_names_the_step_and_the_operation(tmp_path):
    x = np.ones((6, 1), np.float32)
    x[4] = -9.0
    model = Logarithm()
    generator = model.dropout.rng.bit_generator
    optimizer = optim.SGD(model.parameters(), 0.01)
    seen = []

    class Remember:
        def on_step(self, run):
            seen.append((model.weight.item(), generator.state))

    loader = DataLoader((x, x), 2)
    with pytest.raises(
        AnomalyError, match=r"step 3 \(in epoch 1\): the loss is nan, so the weights were not"
    ) as caught:
        fit(
            model, loader, nn.MSELoss(), optimizer, 2, callbacks=[Remember()], checkpoint=tmp_path, every_steps=1,
            progress=False,
        )  # fmt: skip
    assert caught.value.operation == "log"
    assert caught.value.phase == "forward"
    assert "log produced NaN" in str(caught.value)
    assert len(seen) == 2
    assert model.weight.item() == seen[-1][0]
    assert read_checkpoint(checkpoint_path(tmp_path))["step"] == 2


def test_the_step_is_computed_again_with_the_same_draws():
    drawn = []

    class Draw(tg.Module):
        def __init__(self):
            self.weight, self.rng = tg.Parameter([1.0]), np.random.default_rng(0)

        def forward(self, x):
            drawn.append(self.rng.random())
            with np.errstate(all="ignore"):
                return np.sqrt(x * self.weight - 2.0)

    model = Draw()
    with pytest.raises(AnomalyError, match="sqrt"):
        fit(model, (X[:, :1], X[:, :1]), nn.MSELoss(), optim.SGD(model.parameters()), 1, rng=0, progress=False)
    assert len(drawn) > 1  # once more for the trace, which is refused
    assert len(set(drawn)) == 1


def test_a_gradient_that_is_not_finite_is_noticed_before_the_update():
    class Root(tg.Module):
        def __init__(self):
            self.weight = tg.Parameter([[0.0]])

        def forward(self, x):
            with np.errstate(all="ignore"):
                return np.sqrt(x @ self.weight)

    model = Root()
    x = np.ones((4, 1), np.float32)
    with np.errstate(all="ignore"), pytest.raises(AnomalyError, match="the gradient of weight is not finite") as caught:
        fit(model, (x, x), nn.MSELoss(), optim.SGD(model.parameters()), 1, rng=0, progress=False)
    assert caught.value.operation == "sqrt"
    assert caught.value.phase == "backward"
    assert model.weight.item() == 0.0


def test_large_gradients_are_no_fault():
    model = nn.Linear(1, 1, bias=False, rng=0)
    x = np.full((2, 1), 1e15, np.float32)  # the square of the gradient is beyond float32
    with np.errstate(all="ignore"):
        fit(model, (x, x), lambda p, t: p.mean() * 1e10, optim.SGD(model.parameters(), 1e-30), 1, progress=False)


def test_inf_by_itself_is_reported_without_an_operation():
    model = nn.Linear(5, 1, rng=0)
    with pytest.raises(FloatingPointError, match=r"step 1 \(in epoch 1\): the loss is inf.*|computed again"):
        fit(model, (X, X), lambda p, t: p.sum() * 0 + math.inf, adam(model), 1, rng=0, progress=False)


# ---------------------------------------------------------------------------------------------------------------------
# The file
# ---------------------------------------------------------------------------------------------------------------------

keys = st.text("ab/'", max_size=3) | st.sampled_from(["array at", "array at'"])

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2**128),
    st.floats(allow_nan=False),
    st.text("xyz", max_size=3),
    st.integers(0, 3).map(lambda n: np.arange(n, dtype=np.uint64)),
)

trees = st.dictionaries(
    keys,
    st.recursive(
        leaves, lambda part: st.lists(part, max_size=3) | st.dictionaries(keys, part, max_size=3), max_leaves=8
    ),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("trees") / "tree.safetensors"


def listed(tree):
    if isinstance(tree, dict):
        return {name: listed(part) for name, part in tree.items()}
    if isinstance(tree, list):
        return [listed(part) for part in tree]
    return ("array", tree.dtype.str, tree.tolist()) if isinstance(tree, np.ndarray) else tree


@settings(max_examples=100)
@given(tree=trees)
def test_any_tree_comes_back_from_a_file(file, tree):
    write_checkpoint(file, tree)
    assert listed(read_checkpoint(file)) == listed(tree)


def test_paths_that_look_alike_are_kept_apart(file):
    tree = {"a/b": np.array([1]), "a": {"b": np.array([2]), "b'": np.array([3])}}
    write_checkpoint(file, tree)
    assert listed(read_checkpoint(file)) == listed(tree)
