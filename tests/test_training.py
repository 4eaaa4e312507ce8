"""`fit`: the loop against one written by hand, what it shows, and what it refuses."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_runs import BATCHES, EPOCHS, X, Y, accuracy, adam, bits, go, network, press_at, sgd

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.data import DataLoader
from tinygrad_mm.training import EarlyStopping, History, Run, evaluate, fit
from tinygrad_mm.training.checkpoints import read_checkpoint, write_checkpoint
from tinygrad_mm.weights import WeightsError, save

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
    history = go(other, other_optimizer, metrics={"accuracy": accuracy}, compile=False)
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
    with pytest.raises(ImportError, match=r"pip install 'tinygrad_mm\[examples\]'"):
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
