"""What `fit` takes as data, what `predict` gives, and what callbacks write."""

from __future__ import annotations

import csv
import math
import struct
import sys
from operator import length_hint

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.data import DataLoader
from tinygrad_mm.training import CSVLogger, EarlyStopping, TensorBoard, fit, learning_rate_range_test
from tinygrad_mm.training.batches import Stream
from tinygrad_mm.training.checkpoints import checkpoint_path, read_checkpoint

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 20)


def network():
    return nn.Sequential(nn.Dense(4, 5, "tanh", rng=0), nn.Dropout(0.2, rng=2), nn.Dense(5, 3, rng=1))


def trained(data, epochs=2, **options):
    """What a run ends with: weights as bytes, and the history."""
    model = network()
    optimizer = optim.Adam(model.parameters(), 0.05)
    history = fit(model, data, tg.cross_entropy, optimizer, epochs, progress=False, rng=0, **options)
    return {path: array.tobytes() for path, array in model.state_dict().items()}, dict(history)


def batches(size=6):
    for i in range(0, 20, size):
        yield X[i : i + size], Y[i : i + size]


class OfTorch:
    """The data as a PyTorch data set."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        torch = pytest.importorskip("torch")
        return torch.from_numpy(X[i]), torch.tensor(Y[i])


def test_everything_that_gives_the_same_batches_trains_the_same():
    expected = trained(DataLoader((X, Y), 6))
    assert trained(batches) == expected
    assert trained(lambda: [[a, b] for a, b in batches()]) == expected  # lists of arrays
    assert trained(lambda: ([a.tolist(), b.tolist()] for a, b in batches())) == expected  # lists of lists of numbers
    assert trained(lambda: ({"x": a, "target": b} for a, b in batches())) == expected
    assert trained(batches(), epochs=1) == trained(DataLoader((X, Y), 6), epochs=1)
    with pytest.raises(ValueError, match=r"the data gave no batch in this epoch.*give the function"):
        trained(batches(), epochs=2)
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(OfTorch(), 6)
    assert trained(loader) == expected
    assert trained(DataLoader(OfTorch(), 6)) == expected
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    assert trained(torch.utils.data.DataLoader(tensors, batch_size=6)) == expected
    assert trained((torch.from_numpy(X), torch.from_numpy(Y))) == trained((X, Y))
    validated = trained(loader, validation=loader)[1]
    assert validated == trained(DataLoader((X, Y), 6), validation=DataLoader((X, Y), 6))[1]


def test_the_progress_bar_knows_the_length_of_streams_that_have_one(capsys):
    assert length_hint(Stream(batches), 0) == 0
    assert length_hint(Stream([1, 2, 3]), 0) == 3
    model = network()
    fit(model, batches, tg.cross_entropy, optim.SGD(model.parameters()), progress=True)
    assert capsys.readouterr().out.startswith("epoch 1/1: loss ")


class Crash(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("at", [1, 2, 4, 5, 7])
def test_streams_and_accumulated_gradients_are_resumed(tmp_path, at, compile, accumulate):
    def attempt(crash):
        class AtStep:
            def on_step(self, run):
                if crash and run.step == at:
                    raise Crash

        return trained(
            batches, checkpoint=tmp_path, every_steps=1, resume=True, callbacks=[AtStep()], compile=compile,
            accumulate=accumulate,
        )  # fmt: skip

    expected = trained(batches, compile=compile, accumulate=accumulate)
    with pytest.raises(Crash):
        attempt(True)
    assert attempt(False) == expected


def test_a_fraction_holds_the_last_examples_back():
    expected = trained((X[:15], Y[:15]), validation=(X[15:], Y[15:]))
    assert trained((X, Y), validation=0.25) == expected
    assert trained({"x": X, "target": Y}, validation=0.25) == expected
    assert trained([*zip(X, Y, strict=True)], validation=0.25) == expected
    weights = np.arange(20.0)
    assert trained((X, Y), validation=0.25, sample_weight=weights) == trained(
        (X[:15], Y[:15]), validation=(X[15:], Y[15:]), sample_weight=weights[:15]
    )
    for share in (0.0, 0.01, 0.99, 1.0):
        with pytest.raises(ValueError, match="leaves one part empty"):
            trained((X, Y), validation=share)
    for data in (DataLoader((X, Y), 6), batches, OfTorch()):
        with pytest.raises(TypeError, match="split a"):
            trained(data, validation=0.25)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample_weight": np.ones(19)}, ValueError, r"has shape \(19,\)"),
        ({"sample_weight": -np.ones(20)}, ValueError, "not negative"),
        ({"class_weight": {3: 1.0}}, ValueError, "there are 3, from 0"),
        ({"class_weight": {-1: 1.0}}, ValueError, "class_weight has -1"),
        ({"class_weight": {0: -1.0}}, ValueError, "not negative"),
        ({"clip_norm": 0}, ValueError, "clip_norm=0 must be a positive number"),
        ({"accumulate": 0}, ValueError, "accumulate=0 must be a positive integer"),
        ({"accumulate": None}, ValueError, "accumulate=None must be a positive integer"),
        ({"save_best": True}, ValueError, "save_best keeps a second file"),
    ],
)
def test_options_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        trained((X, Y), **options)


def test_weights_go_with_arrays():
    with pytest.raises(TypeError, match="sample_weight goes with arrays"):
        trained(batches, sample_weight=np.ones(20))
    assert trained((X, Y), class_weight=[1.0, 2.0, 0.5]) == trained((X, Y), class_weight={1: 2.0, 2: 0.5})


# ---------------------------------------------------------------------------------------------------------------------
# predict
# ---------------------------------------------------------------------------------------------------------------------


class Both(nn.Module):
    def __init__(self):
        self.layer = network()

    def forward(self, x, scale=None):
        y = self.layer(x)
        return {"logits": y if scale is None else y * scale, "parts": [y, (x,)]}


def test_predictions_are_those_of_the_model_in_evaluation_mode():
    model = network().train()
    expected = network().eval()(X).data
    np.testing.assert_allclose(tg.predict(model, X, batch_size=6), expected, rtol=1e-6)
    assert all(module.training for _, module in model.named_modules())
    np.testing.assert_allclose(tg.predict(model, (X,)), expected, rtol=1e-6)
    np.testing.assert_allclose(tg.predict(model, lambda: (x for x, _ in batches())), expected, rtol=1e-6)
    scale = RNG.random((20, 1)).astype(np.float32)
    for data in ((X, scale), {"x": X, "scale": scale}):
        found = tg.predict(Both(), data, batch_size=6)
        np.testing.assert_allclose(found["logits"], expected * scale, rtol=1e-5)
        np.testing.assert_allclose(found["parts"][0], expected, rtol=1e-5)
        np.testing.assert_array_equal(found["parts"][1][0], X)
    with pytest.raises(ValueError, match="gave no batch"):
        tg.predict(model, iter([]))
    with pytest.raises(TypeError, match="predict: the model is the class Dense"):
        tg.predict(nn.Dense, X)


# ---------------------------------------------------------------------------------------------------------------------
# The best checkpoint, and files for others
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [True, "validation_accuracy", "loss"])
def test_the_best_epochs_checkpoint_is_beside_the_last(tmp_path, name):
    """Kept by the best epoch of the whole run, also where that was resumed in between."""
    states = []

    def remember(run):
        states.append({path: array.tobytes() for path, array in run.model.state_dict().items()})

    for epochs in (3, 8):
        model = network()
        history = fit(
            model, (X[:12], Y[:12]), tg.cross_entropy, optim.Adam(model.parameters(), 0.1), epochs, rng=0,
            progress=False, validation=(X[12:], Y[12:]), metrics=["accuracy"], callbacks=[remember], resume=True,
            checkpoint=tmp_path, save_best=name,
        )  # fmt: skip
    values = history["validation_loss" if name is True else name]
    best = values.index(max(values) if name == "validation_accuracy" else min(values))
    saved = read_checkpoint(tmp_path / "checkpoint-best.safetensors")
    assert saved["epoch"] == best + 1
    assert {path: array.tobytes() for path, array in saved["model"].items()} == states[best]
    assert read_checkpoint(checkpoint_path(tmp_path))["epoch"] == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-best.safetensors", "checkpoint.safetensors"]


def test_the_history_is_written_as_a_table(tmp_path):
    path = tmp_path / "logs" / "history.csv"

    def late(run):
        if run.epoch > 1:
            run.history.add(late=run.epoch)

    for epochs in (1, 3):  # stopped, and resumed
        model = network()
        history = fit(
            model, (X, Y), tg.cross_entropy, optim.Adam(model.parameters()), epochs, progress=False, rng=0,
            callbacks=[late, CSVLogger(path)], validation=0.2, checkpoint=tmp_path, resume=True,
        )  # fmt: skip
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name in ("loss", "validation_loss", "learning_rate"):
        assert [float(row[name]) for row in rows] == history[name]
    assert "late" in rows[0]


def scalars(folder):
    """(name, number, value) in the event files of a folder, read by the format's definition (TFRecord, protobuf)."""
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), []

    def fields(text):
        at = 0

        def number():
            nonlocal at
            value = shift = 0
            while True:
                byte = text[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        while at < len(text):
            key = number()
            kind = key & 7
            if kind == 0:
                yield key >> 3, number()
            else:
                size = {1: 8, 5: 4}.get(kind) or number()
                yield key >> 3, text[at : at + size]
                at += size

    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        event = dict(fields(data[at + 12 : at + 12 + size]))
        at += size + 16
        if 5 in event:
            value = dict(fields(dict(fields(event[5]))[1]))
            found.append((value[1].decode(), event.get(2, 0), struct.unpack("<f", value[2])[0]))
    return found


@pytest.mark.parametrize("package", ["tensorboardX", "tensorboard"])
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_gets_the_numbers(tmp_path, monkeypatch, package):
    pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, {"tensorboardX": "tensorboard", "tensorboard": "tensorboardX"}[package], None)
    model = network()
    history = fit(
        model, (X, Y), tg.cross_entropy, optim.Adam(model.parameters()), 2, batch_size=4, progress=False, rng=0,
        callbacks=[TensorBoard(tmp_path / "runs", every_steps=3)], validation=0.2,
    )  # fmt: skip
    found = scalars(tmp_path / "runs")
    epochs = [one for one in found if not one[0].startswith("steps/")]
    names = {"loss/training": "loss", "loss/validation": "validation_loss", "learning_rate": "learning_rate"}
    expected = {(tag, i): value for tag, name in names.items() for i, value in enumerate(history[name], 1)}
    assert {(tag, i): value for tag, i, value in epochs} == pytest.approx(expected, rel=1e-6)
    assert [(tag, i) for tag, i, _ in found if tag.startswith("steps/")] == [("steps/loss", 3), ("steps/loss", 6)]


def test_tensorboard_names_the_extra_where_no_package_is_installed(monkeypatch):
    for package in ("tensorboardX", "tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"tinygrad_mm\[tensorboard\]"):
        TensorBoard("runs")


# ---------------------------------------------------------------------------------------------------------------------
# The learning-rate range test
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, optim.cosine(0.1, steps=50)])
@pytest.mark.parametrize("data", [(X, Y), DataLoader((X, Y), 6, shuffle=True, rng=4), batches])
def test_a_range_test_leaves_everything_as_it_was(data, rate):
    model = network()
    optimizer = optim.SGD(model.parameters(), rate, momentum=0.9)
    fit(model, (X, Y), tg.cross_entropy, optimizer, 1, progress=False, rng=0)
    generator = np.random.default_rng(5)

    def everything():
        loader = data.state_dict() if isinstance(data, DataLoader) else None
        own = {path: array.tobytes() for path, array in model.state_dict().items()}
        states = {name: np.asarray(a).tobytes() for name, a in optimizer.state_dict()["state"].items()}
        modes = [module.training for _, module in model.named_modules()]
        rngs = [rng.bit_generator.state for rng in (generator, model.layers[1].rng)]
        return loader, own, states, modes, rngs, optimizer.steps, optimizer.groups[0]["learning_rate"]

    before = everything()
    found = learning_rate_range_test(
        model, data, tg.cross_entropy, optimizer, lowest=1e-4, highest=1e6, steps=60, rng=generator
    )
    assert everything() == before
    assert found.learning_rates == pytest.approx(np.geomspace(1e-4, 1e6, 60)[: len(found.losses)])
    assert len(found.losses) < 60  # it ended where training diverged
    assert min(found.losses) < found.losses[0] < found.losses[-1]


def test_the_suggestion_is_a_rate_that_trains():
    """Of a quadratic loss w^2 / 2 with one weight, gradient descent diverges above 2."""

    class Weight(nn.Module):
        def __init__(self):
            self.weight = tg.Parameter(np.ones(1))

        def forward(self, x):
            return x * self.weight

    model = Weight()
    data = (np.ones((8, 1)), np.zeros((8, 1)))
    found = learning_rate_range_test(
        model, data, lambda p, t: np.mean((p - t) ** 2) / 2, optim.SGD(model.parameters()), steps=200, lowest=1e-3,
        highest=100.0, batch_size=8, rng=0,
    )  # fmt: skip
    assert 0.02 < found.suggestion < 2
    flat = learning_rate_range_test(
        model, data, lambda p, t: np.mean(p * 0.0) + 1.0, optim.SGD(model.parameters()), steps=5, rng=0
    )
    assert math.isnan(flat.suggestion)
    for wrong in ({"lowest": 0.0}, {"lowest": 2.0, "highest": 1.0}, {"steps": 1}, {"highest": math.inf}):
        with pytest.raises(ValueError, match="the rate grows"):
            learning_rate_range_test(model, data, tg.mse_loss, optim.SGD(model.parameters()), **wrong)
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    figure = found.plot()
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == found.losses
    plt.close(figure)


def test_early_stopping_and_the_best_checkpoint_agree(tmp_path):
    model = network()
    fit(
        model, (X, Y), tg.cross_entropy, optim.Adam(model.parameters(), 0.3), 10, rng=0, progress=False,
        validation=0.3, early_stopping=EarlyStopping(10), checkpoint=tmp_path, save_best=True,
    )  # fmt: skip
    saved = read_checkpoint(tmp_path / "checkpoint-best.safetensors")["model"]
    assert all(np.array_equal(array, saved[path]) for path, array in model.state_dict().items())
