"""`fit`: the loop against one written by hand, and runs that are stopped in every way and go on bit for bit."""

from __future__ import annotations

import io
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

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.data import DataLoader, read_idx_folder
from tinygrad_mm.debug import AnomalyError
from tinygrad_mm.training import EarlyStopping, History, Run, evaluate, fit
from tinygrad_mm.training import checkpoints as checkpoints_module
from tinygrad_mm.training.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from tinygrad_mm.weights import WeightsError, load, load_with_metadata, save

RNG = np.random.default_rng(0)
X = RNG.standard_normal((22, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
EPOCHS, BATCHES = 3, 5  # batches of 5, the last of 2


def network(rng=1):
    """Something with all kinds of state: weights, running statistics, a generator."""
    rng = np.random.default_rng(rng)
    return nn.Sequential(
        nn.Dense(5, 6, "relu", rng=rng), nn.BatchNorm1d(6), nn.Dropout(0.3, rng), nn.Dense(6, 3, rng=rng)
    )


def sgd(model):
    schedule = optim.warm_up(3, then=optim.cosine(0.2, steps=20))
    return optim.SGD(model.parameters(), schedule, momentum=0.9, weight_decay=1e-3)


def adam(model):
    return optim.Adam(model.parameters(), 1e-2)


def accuracy(prediction, target):
    return np.mean(prediction.argmax(-1) == target)


def bits(*states):
    """All of nested states, arrays as bytes: equal only where every bit is."""
    return [
        {name: bits(part)[0] for name, part in state.items()}
        if isinstance(state, dict)
        else (state.dtype.str, state.shape, state.tobytes())
        if isinstance(state, np.ndarray)
        else state
        for state in states
    ]


def outcome(model, optimizer, history):
    return bits(model.state_dict(), optimizer.state_dict(), dict(history))


def go(model, optimizer, epochs=EPOCHS, **options):
    options = {"batch_size": 5, "rng": 7, "progress": False, **options}
    return fit(model, (X, Y), tg.cross_entropy, optimizer, epochs, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The loop
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [sgd, adam])
def test_it_is_the_loop_that_one_writes_by_hand(make):
    model = network()
    optimizer = make(model)
    batches = DataLoader((X, Y), 5, shuffle=True, rng=7)
    losses, right = [], []
    for _ in range(EPOCHS):
        sums = [0.0, 0.0]
        for x, y in batches:
            logits = model(x)
            loss = tg.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            sums[0] += loss.item() * len(y)
            sums[1] += np.count_nonzero(logits.data.argmax(-1) == y)
        losses.append(sums[0] / len(X))
        right.append(sums[1] / len(X))

    other = network()
    other_optimizer = make(other)
    history = go(other, other_optimizer, metrics={"accuracy": accuracy})
    assert bits(model.state_dict(), optimizer.state_dict()) == bits(other.state_dict(), other_optimizer.state_dict())
    assert history["loss"] == pytest.approx(losses, rel=1e-12)
    assert history["accuracy"] == pytest.approx(right, rel=1e-12)
    assert history["learning_rate"][-1] == optimizer.learning_rate
    assert type(history) is History
    assert isinstance(history, dict)
    assert history.stopped is None
    assert not any(module.training for _, module in other.named_modules())


def test_validation_is_of_all_examples_at_once_and_leaves_the_model_as_it_is():
    model = network()

    def spread(prediction, target):  # no average of batches gives this
        assert len(prediction) == len(target) == len(X)
        return np.ptp(prediction)

    before = bits(model.state_dict())
    model.layers[0].eval()
    found = evaluate(model, (X, Y), tg.cross_entropy, {"spread": spread}, batch_size=5)
    assert bits(model.state_dict()) == before
    assert [module.training for module in model.layers] == [False, True, True, True]
    model.eval()
    logits = model(X).data.astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["loss"] == pytest.approx(-np.log(probabilities[np.arange(len(Y)), Y]).mean(), rel=1e-5)
    assert found["spread"] == pytest.approx(np.ptp(logits), rel=1e-5)

    model = network()
    history = go(model, sgd(model), validation=(X, Y), metrics={"accuracy": accuracy})
    assert list(history) == ["loss", "accuracy", "learning_rate", "validation_loss", "validation_accuracy"]
    assert {len(values) for values in history.values()} == {EPOCHS}
    again = evaluate(model, (X, Y), tg.cross_entropy, {"accuracy": accuracy})
    assert history["validation_loss"][-1] == again["loss"]
    assert history["validation_accuracy"][-1] == again["accuracy"]


class Two(tg.Module):
    def __init__(self):
        self.first, self.second = nn.Dense(2, 3, rng=0), nn.Dense(3, 3, rng=1)

    def forward(self, left, right):
        return self.first(left) + self.second(right)


def test_batches_with_several_inputs_by_position_or_by_name():
    results = []
    for data in ((X[:, :2], X[:, 2:], Y), {"right": X[:, 2:], "target": Y, "left": X[:, :2]}):
        model = Two()
        fit(model, data, tg.cross_entropy, adam(model), 2, rng=0, progress=False)
        results.append(bits(model.state_dict()))
    assert results[0] == results[1]


def test_predictions_that_are_structures():
    class Both(tg.Module):
        def __init__(self):
            self.layer = nn.Dense(5, 3, rng=0)

        def forward(self, x):
            return {"logits": self.layer(x), "parts": (x, self.layer.weight.sum())}

    def measure(prediction, target):
        assert isinstance(prediction["parts"][0], np.ndarray)
        return accuracy(prediction["logits"], target)

    model = Both()

    def loss(p, y):
        return tg.cross_entropy(p["logits"], y)

    history = fit(
        model, (X, Y), loss, adam(model), 1, validation=(X, Y), metrics={"accuracy": measure}, rng=0, progress=False
    )
    assert history["validation_accuracy"] == [np.mean(model(X)["logits"].data.argmax(-1) == Y)]


def test_callbacks_are_called_when_they_say():
    called = []

    class Everything:
        def on_gradients(self, run):
            assert all(p.grad is not None for p in run.model.parameters())
            called.append("g")

        def on_step(self, run):
            assert all(p.grad is None for p in run.model.parameters())
            called.append(run.step)

        def on_epoch(self, run):
            called.append(f"epoch {run.epoch}")

        def on_end(self, run):
            called.append("end")

    def after(run):
        assert isinstance(run, Run)
        called.append(len(run.history["loss"]))
        if run.epoch == 2:
            run.stop("that is enough")

    model = network()
    history = go(model, sgd(model), batch_size=11, callbacks=[Everything(), after])
    assert called == ["g", 1, "g", 2, 1, "epoch 1", "g", 3, "g", 4, 2, "epoch 2", "end"]
    assert history.stopped == "that is enough"


def test_a_plateau_reduces_the_learning_rate_by_the_validation_loss():
    model = network()
    plateau = optim.ReduceOnPlateau(0.1, factor=0.5, patience=0, higher_is_better=True)  # so every epoch but the first
    history = go(model, adam(model), validation=(X, Y), callbacks=[plateau], epochs=4)
    better = [b > max(history["validation_loss"][:i]) * 1.0001 for i, b in enumerate(history["validation_loss"]) if i]
    rates = [0.1]
    for good in better:
        rates.append(rates[-1] * (1 if good else 0.5))
    assert plateau.learning_rate == rates[-1]
    assert rates[-1] < 0.1


def test_an_average_of_the_weights_follows_each_step():
    model = network()
    average, by_hand = (optim.ExponentialMovingAverage(model, decay=0.9) for _ in range(2))

    class Follow:
        def on_step(self, run):
            by_hand.update()

    go(model, adam(model), callbacks=[average, Follow()])
    assert average.updates == EPOCHS * BATCHES
    assert bits(average.state_dict()) == bits(by_hand.state_dict())


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


# The same run in a process of its own, to be killed. Sleeping makes it last, so that it can be killed many times.
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
        if run.step == first:
            print("training", flush=True)
        time.sleep(float(pause))

    def on_gradients(self, run):
        global first
        first = first or run.step + 1

first = 0
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
            assert process.stdout.readline() == b"training\n"
            time.sleep(draw.uniform(0, 0.08))
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


# ---------------------------------------------------------------------------------------------------------------------
# Ctrl-C
# ---------------------------------------------------------------------------------------------------------------------


def press_at(*steps):
    class Press:
        def on_gradients(self, run):
            if run.step + 1 in steps:
                signal.raise_signal(signal.SIGINT)

    return Press()


@pytest.mark.usefixtures("ctrl_c")
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


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_validation_ends_with_the_epoch():
    model = network()

    def press(prediction, target):
        if len(target) == len(X):
            signal.raise_signal(signal.SIGINT)
        return 0.0

    history = go(model, sgd(model), validation=(X, Y), metrics={"press": press})
    assert history.stopped == "Ctrl-C"
    assert len(history["validation_loss"]) == 1


@pytest.mark.usefixtures("ctrl_c")
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
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]


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
# Early stopping
# ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    values=st.lists(st.one_of(st.integers(0, 5), st.just(math.nan)), min_size=1, max_size=12),
    patience=st.integers(0, 3),
    higher=st.booleans(),
)
def test_early_stopping_follows_its_definition(values, patience, higher):
    """The run ends after the first epoch such that the last `patience + 1` were no better than the best before."""
    model = nn.Linear(1, 1, rng=0)
    weights = []

    class Prescribed:
        def on_epoch(self, run):
            run.history.add(metric=values[run.epoch - 1])
            weights.append(run.model.weight.item())

    stopping = EarlyStopping(patience, "metric", higher)
    x = np.ones((2, 1), np.float32)
    history = fit(
        model, (x, 5 * x), nn.MSELoss(), optim.SGD(model.parameters(), 0.01), len(values), rng=0,
        callbacks=[Prescribed()], early_stopping=stopping, progress=False,
    )  # fmt: skip
    best, best_at, expected = None, None, len(values)
    for i, value in enumerate(values):
        if value == value and (best is None or (value > best if higher else value < best)):
            best, best_at = value, i
        elif i - (-1 if best_at is None else best_at) > patience:
            expected = i + 1
            break
    assert len(history["loss"]) == expected
    assert (history.stopped is not None) == (
        expected < len(values) or i - (-1 if best_at is None else best_at) > patience
    )
    assert model.weight.item() == weights[expected - 1 if best_at is None else best_at]


def test_early_stopping_as_a_number_watches_the_validation_loss():
    model = network()
    history = go(model, optim.SGD(model.parameters(), 0.0), 50, validation=(X, Y), early_stopping=2)
    # the running statistics still settle, so the loss may move for some epochs
    assert history.stopped is None or "no better than" in history.stopped
    model = nn.Linear(5, 3, rng=0)
    history = go(model, optim.SGD(model.parameters(), 0.0), 50, validation=(X, Y), early_stopping=2)
    assert len(history["loss"]) == 4
    with pytest.raises(ValueError, match="no 'nonsense' to monitor; the history has loss, learning_rate"):
        go(model, adam(model), early_stopping=EarlyStopping(monitor="nonsense"))
    with pytest.raises(ValueError, match="patience=-1"):
        EarlyStopping(-1)


# ---------------------------------------------------------------------------------------------------------------------
# History and progress
# ---------------------------------------------------------------------------------------------------------------------


def test_the_history_draws_itself(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    history = History(
        loss=[3.0, 2.0],
        accuracy=[0.5, 0.6],
        learning_rate=[1.0, 0.5],
        validation_loss=[4.0, 3.0],
        validation_accuracy=[0, 1],
    )
    figure = history.plot()
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "accuracy"]
    lines = [[line.get_ydata().tolist() for line in axis.get_lines()] for axis in figure.axes]
    assert lines == [[[3.0, 2.0], [4.0, 3.0]], [[0.5, 0.6], [0, 1]]]
    plt.close(figure)
    with pytest.raises(ValueError, match="no epoch has ended"):
        History().plot()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        history.plot()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch, capsys):
    model = network()
    go(model, sgd(model), progress=True, metrics={"accuracy": accuracy}, validation=(X, Y), callbacks=[press_at(7)])
    out, err = capsys.readouterr()
    assert err == ""
    first, last = out.splitlines()
    assert first.startswith("epoch 1/3: loss ")
    for word in (", accuracy ", ", learning rate ", ", validation loss ", ", validation accuracy "):
        assert word in first
    assert last == "stopped after step 7: Ctrl-C"

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    model = network()
    go(model, sgd(model), progress=True, metrics={"accuracy": accuracy})
    drawn = terminal.getvalue()
    assert "epoch 3/3: 100%" in drawn
    assert "15/15" in drawn
    assert "steps/s" in drawn
    assert ", loss " in drawn.replace("loss", ", loss", 1)
    assert "accuracy " in drawn


def test_without_progress_nothing_is_printed_and_tqdm_is_not_loaded():
    code = (
        "import sys, numpy as np\nfrom tinygrad_mm import nn, optim\nfrom tinygrad_mm.training import fit\n"
        "model, x = nn.Linear(1, 1, rng=0), np.ones((4, 1), np.float32)\n"
        "fit(model, (x, x), nn.MSELoss(), optim.Adam(model.parameters()), 1, progress=False)\n"
        "assert not {'tqdm', 'matplotlib', 'safetensors'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be a positive integer"),
        ({"epochs": 1.5}, "epochs=1.5 must be"),
        ({"every_steps": 5}, "name the file"),
        ({"every_minutes": -1, "checkpoint": "x"}, "every_minutes=-1 must be a positive number"),
        ({"every_steps": 2.5, "checkpoint": "x"}, "every_steps=2.5"),
        ({"resume": True}, "resume=True needs checkpoint="),
        ({"metrics": {"loss": accuracy}}, "give the metric another name"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_options_that_make_no_sense(options, message):
    model = network()
    with pytest.raises(ValueError, match=message):
        go(model, sgd(model), **options)


@pytest.mark.parametrize("data", [X, [1, 2, 3], {"x": X, "y": Y}, (X,)])
def test_batches_without_a_target(data):
    model = network()
    with pytest.raises(TypeError, match=r"a batch is a tuple \(input, ..., target\) or a dict with 'target'"):
        fit(model, data, tg.cross_entropy, sgd(model), 1, progress=False)


@pytest.mark.parametrize("loss", [lambda p, t: p, lambda p, t: 1.0])
def test_losses_that_are_no_single_tensor(loss):
    model = network()
    with pytest.raises(TypeError, match="fit: the loss returned"):
        fit(model, (X, Y), loss, sgd(model), 1, progress=False)


def test_parameters_outside_the_model_cannot_be_checkpointed(tmp_path):
    model = network()
    optimizer = adam(model)
    optimizer.add_group({"parameters": [tg.Parameter([1.0])]})
    with pytest.raises(ValueError, match="put both into one Module"):
        go(model, optimizer, checkpoint=tmp_path)


def changed_model(model):
    model.layers[3] = nn.Dense(6, 3, bias=False, rng=0)


MISFITS = {
    "model": lambda s: s["model"].pop("layers.0.weight"),
    "model shape": lambda s: s["model"].update({"layers.0.bias": np.zeros(7, np.float32)}),
    "optimizer": lambda s: s["optimizer"]["options"].update(optimizer="Lion"),
    "optimizer state": lambda s: s["optimizer"]["state"].popitem(),
    "loader": lambda s: s["loader"]["made"].update(examples=23),
    "loader position": lambda s: s["loader"].update(given=99),
    "loader generator": lambda s: s["loader"].update(rng={"bit_generator": "MT19937"}),
    "generators": lambda s: s["generators"].clear(),
    "generator": lambda s: s["generators"].update(rng={"bit_generator": "PCG64", "state": "x"}),
    "callbacks": lambda s: s["callbacks"].append(None),
    "validation": lambda s: s.update(validation={"made": {}}),
    "history": lambda s: s.update(history=[1, 2]),
    "step": lambda s: s.update(step="many"),
    "missing": lambda s: s.pop("epoch"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path, what):
    path = tmp_path / "run.safetensors"
    model = network()
    go(model, sgd(model), checkpoint=path)
    tree = read_checkpoint(path)
    MISFITS[what](tree)
    write_checkpoint(path, tree)

    model = network(rng=5)
    optimizer = sgd(model)
    rng = np.random.default_rng(3)
    before = bits(
        model.state_dict(), optimizer.state_dict(), rng.bit_generator.state, model.layers[2].rng.bit_generator.state
    )
    with pytest.raises(ValueError, match="does not fit this run, which is unchanged") as caught:
        go(model, optimizer, rng=rng, checkpoint=path, resume=True)
    assert str(path) in str(caught.value)
    after = bits(
        model.state_dict(), optimizer.state_dict(), rng.bit_generator.state, model.layers[2].rng.bit_generator.state
    )
    assert after == before


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "run.safetensors"
    model = network()
    save(path, model)
    with pytest.raises(WeightsError, match="no state of a training run"):
        go(model, sgd(model), checkpoint=path, resume=True)
    for text in ("[]", "{", '{"model": {"array at": "nowhere"}}', "[" * 100_000):
        save(path, {}, {"tinygrad_mm.checkpoint": text})
        with pytest.raises(WeightsError, match="is no checkpoint of this program"):
            go(model, sgd(model), checkpoint=path, resume=True)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        go(model, sgd(model), checkpoint=path, resume=True)


def test_a_place_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    model = network()
    with pytest.raises(OSError, match="checkpoints cannot be written here"):
        go(model, sgd(model), checkpoint=tmp_path / "file" / "run.safetensors")


def test_what_killed_runs_left_is_removed(tmp_path):
    mine = tmp_path / ".run.safetensors-unfinished-0123.tmp"
    others = [tmp_path / ".other.safetensors-unfinished-0123.tmp", tmp_path / "run.safetensors-unfinished-0123.tmp"]
    for path in (mine, *others):
        path.write_text("half")
    model = network()
    go(model, sgd(model), checkpoint=tmp_path / "run.safetensors")
    assert not mine.exists()
    assert all(path.exists() for path in others)


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
