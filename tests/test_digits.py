"""The main job, `examples/digits.py`, on a small slice of the data: its results, its words, its failures."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from tinygrad_mm.data import read_idx_folder
from tinygrad_mm.weights import load, read_metadata

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
OPTIONS = [
    "epochs",
    "batch-size",
    "model",
    "hidden",
    "activation",
    "learning-rate",
    "weight-decay",
    "seed",
    "data",
    "out",
]
PICTURES = ["attack", "confusion", "favourites", "first-layer", "learning-curve", "mistakes"]
RESULTS = sorted([*(f"{name}.png" for name in PICTURES), "graph.svg", "weights.safetensors"])


def write_set(folder, training, test):
    folder.mkdir(exist_ok=True)
    for name, array in zip(NAMES, (*training, *test), strict=True):
        head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(head + array.tobytes())
    return folder


@pytest.fixture(scope="module")
def real():
    return read_idx_folder(EXAMPLES / "data" / "mnist")


@pytest.fixture(scope="module")
def small(real, tmp_path_factory):
    """600 training and 200 test images."""
    (images, labels), (test_images, test_labels) = real
    folder = tmp_path_factory.mktemp("small")
    return write_set(folder, (images[:600], labels[:600]), (test_images[:200], test_labels[:200]))


def run(*arguments, cwd, **environment):
    """The command, as a user gives it."""
    return subprocess.run(
        [sys.executable, EXAMPLES / "digits.py", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture
def digits(monkeypatch):
    """The example as a module, for what need not be a process of its own."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("digits")
    for name in ("digits", "digits_pictures", "course.style"):
        sys.modules.pop(name, None)


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-12:] == b"\0\0\0\0IEND\xaeB`\x82"
    return struct.unpack(">II", data[16:24])


# ---------------------------------------------------------------------------------------------------------------------
# Results
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(small, tmp_path_factory):
    """One run of two epochs: the finished process and its working folder."""
    cwd = tmp_path_factory.mktemp("run")
    process = run("--data", small, "--epochs", 2, cwd=cwd)
    assert process.returncode == 0, process.stderr
    return process, cwd


def test_the_command_writes_its_results_and_lists_them(done):
    process, cwd = done
    assert process.stderr == ""
    out = cwd / "digits-out"
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    listed = re.search(r"written:\n((?:  .+\n)+)", process.stdout)[1].split()
    assert sorted(listed) == [str(Path("digits-out", name)) for name in RESULTS]
    for name in RESULTS:
        if name.endswith(".png"):
            assert min(png_size(out / name)) > 500


def test_the_graph_shows_one_step(done):
    _, cwd = done
    texts = " ".join("".join(ET.parse(cwd / "digits-out" / "graph.svg").getroot().itertext()).split())
    for word in ("images", "labels", "layers.0.weight", "layers.1.bias", "matmul", "relu", "loss", "(64, 784)"):
        assert word in texts


def test_the_last_line_is_the_accuracy_of_the_saved_weights(done, small):
    """The formula of the network in plain NumPy, on the weights from the file, gives the accuracy that was printed."""
    process, cwd = done
    said = re.fullmatch(r"test accuracy: (\d+\.\d\d) %", process.stdout.splitlines()[-1])
    weights = load(cwd / "digits-out" / "weights.safetensors")
    assert {name: array.shape for name, array in weights.items()} == {
        "layers.0.bias": (128,),
        "layers.0.weight": (784, 128),
        "layers.1.bias": (10,),
        "layers.1.weight": (128, 10),
    }
    _, (images, labels) = read_idx_folder(small)
    x = images.reshape(200, 784) / 255
    hidden = np.maximum(x @ weights["layers.0.weight"] + weights["layers.0.bias"], 0)
    guesses = (hidden @ weights["layers.1.weight"] + weights["layers.1.bias"]).argmax(axis=1)
    accuracy = 100 * np.mean(guesses == labels)
    assert float(said[1]) == pytest.approx(accuracy, abs=0.006)
    assert accuracy > 50  # of 600 images, seen twice; chance is 10
    notes = read_metadata(cwd / "digits-out" / "weights.safetensors")
    assert notes == {"activation": "relu", "test accuracy": f"{said[1]} %"}


def test_the_epochs_are_reported(done):
    process, _ = done
    assert "600 training and 200 test images of 28 x 28 pixels, 10 classes" in process.stdout
    line = r"epoch (\d)   loss: train (.+), test (.+)   accuracy: train (.+) %, test (.+) %"
    reports = re.findall(line, process.stdout)
    assert [r[0] for r in reports] == ["1", "2"]
    assert float(reports[1][1]) < float(reports[0][1]) < np.log(10)
    assert f"test accuracy: {reports[1][4]} %" in process.stdout


def test_the_prediction_is_shown_from_pixels_to_class(done, real):
    process, _ = done
    image, truth = real[1][0][0], real[1][1][0]
    lines = process.stdout.splitlines()
    top = next(i for i, line in enumerate(lines) if line.startswith("  ┌"))
    drawn = np.array([[c != " " for c in line[3:31]] for line in lines[top + 1 : top + 15]])
    assert np.array_equal(drawn, (image[0::2].astype(int) + image[1::2]) > 0)
    for step in ("a vector of 784", "784 x 128 weights", "128 numbers after relu", "128 x 10 weights", "10 logits"):
        assert step in process.stdout
    bars = re.findall(r"^  +(\d) +(\d+\.\d\d) % ?(█*)(.*)$", process.stdout, re.MULTILINE)
    assert [int(b[0]) for b in bars] == list(range(10))
    percents = [float(b[1]) for b in bars]
    assert sum(percents) == pytest.approx(100, abs=0.1)
    assert [len(b[2]) for b in bars] == pytest.approx([p * 0.3 for p in percents], abs=0.51)
    assert bars[int(np.argmax(percents))][3].strip() == f"the network says {np.argmax(percents)}, it is {truth}"


def test_a_seed_repeats_a_run_bit_for_bit(digits, small, tmp_path, capsys, monkeypatch):
    for picture in (
        f"draw_{name}" for name in ("weights", "learning_curve", "mistakes", "confusion", "attack", "favourites")
    ):
        monkeypatch.setattr(digits, picture, lambda *_: None)
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ["--data", str(small), "--out", str(tmp_path / name), "--seed", str(seed)]
        digits.main([*arguments, "--epochs", "1", "--hidden", "8"])
        weights.append(load(tmp_path / name / "weights.safetensors")["layers.0.weight"])
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        (["--hidden"], [(108, 30)]),
        (["--hidden", "300", "5", "--activation", "sigmoid"], [(108, 300), (300, 5), (5, 30)]),
        (["--activation", "tanh", "--batch-size", "1000", "--weight-decay", "0"], [(108, 128), (128, 30)]),
    ],
)
def test_other_images_and_networks(digits, tmp_path, capsys, options, shapes):
    """Images of 9 x 12 pixels, 30 classes, and networks with other layers."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (90, 9, 12), np.uint8), np.arange(90, dtype=np.uint8) % 30
    folder = write_set(tmp_path / "set", (images, labels), (images[:40], labels[:40]))
    digits.main(["--data", str(folder), "--out", str(tmp_path / "deep" / "out"), "--epochs", "1", *options])
    said = capsys.readouterr().out
    assert "90 training and 40 test images of 9 x 12 pixels, 30 classes" in said
    assert len(re.findall(r"^ +\d+ +\d+\.\d\d %", said, re.MULTILINE)) == 10  # the likeliest ten
    weights = load(tmp_path / "deep" / "out" / "weights.safetensors")
    assert [weights[f"layers.{i}.weight"].shape for i in range(len(shapes))] == shapes
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == RESULTS


def test_a_convolutional_network(digits, small, tmp_path, capsys):
    """Its shapes, that it learns, and that all pictures are drawn."""
    digits.main(["--data", str(small), "--out", str(tmp_path), "--epochs", "2", "--model", "conv"])
    said = capsys.readouterr().out
    for words in ("16 filters of 3 x 3 at every place", "32 images of 7 x 7 after MaxPool2d", "1568 x 10 weights"):
        assert words in said
    assert float(re.search(r"test accuracy: (.+) %", said)[1]) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == RESULTS


def test_an_attack_moves_each_pixel_a_little_and_raises_the_loss(digits, small):
    model = digits.build(784, [16], 10, "relu", np.random.default_rng(0))
    images, labels = read_idx_folder(small)[1]
    x, fooled = digits.as_vectors(images), digits.attacked(model, images, labels, 0.1)
    assert np.abs(fooled - x).max() <= 0.1 + 1e-6
    assert fooled.min() >= 0
    assert fooled.max() <= 1
    before, after = (digits.tg.cross_entropy(model(v), labels).item() for v in (x, fooled))
    assert after > before


def test_favourites_are_liked_more_than_any_real_image(digits, small):
    model = digits.build(784, [16], 10, "relu", np.random.default_rng(0))
    images = read_idx_folder(small)[1][0]
    hidden = model.layers[0](digits.as_vectors(images)).data
    chosen = np.argsort(-hidden.std(axis=0), kind="stable")[:4]
    for unit, (made, places) in zip(chosen, digits.favourites(model, images, units=4), strict=True):
        assert model.layers[0](made[None]).data[0, unit] > hidden[:, unit].max()
        assert places[0] == hidden[:, unit].argmax()


def test_the_confusion_matrix_counts_mistakes(digits, tmp_path):
    digits.draw_confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 3, tmp_path / "confusion.png")
    assert min(png_size(tmp_path / "confusion.png")) > 300


def test_no_mistakes_make_a_picture_too(digits, tmp_path):
    labels = np.array([0, 1, 1])
    digits.draw_mistakes(np.zeros((3, 4, 4), np.uint8), labels, np.eye(2)[labels], tmp_path / "none.png")
    assert min(png_size(tmp_path / "none.png")) > 500


@pytest.mark.parametrize("shape", [(28, 28), (7, 5), (100, 300), (1, 1)])
def test_images_of_characters_fit_the_terminal(digits, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    lines = digits.in_characters(image)
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 58
    assert set("".join(lines)) <= set(" ░▒▓█┌─┐│└┘ .+#@-|")


def test_a_terminal_that_knows_ascii_only(small, tmp_path):
    process = run("--data", small, "--epochs", 1, "--hidden", 8, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert process.returncode == 0, process.stderr
    assert re.search(r"^  \+-{28}\+$", process.stdout, re.MULTILINE)
    assert "#" in process.stdout


def test_without_a_layout_program_the_graph_is_saved_as_text(digits, small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    digits.main(["--data", str(small), "--out", str(tmp_path), "--epochs", "1", "--hidden", "8"])
    said = capsys.readouterr().out
    assert "apt install graphviz" in said
    assert "pip install" in said
    assert (tmp_path / "graph.dot").read_text("utf-8").lstrip().startswith("digraph")
    assert str(tmp_path / "graph.dot") in said
    assert not (tmp_path / "graph.svg").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Failures
# ---------------------------------------------------------------------------------------------------------------------


def refused(digits, capsys, *arguments):
    """The exit code and the words of a run that ends before the training."""
    with pytest.raises(SystemExit) as caught:
        digits.main([str(a) for a in arguments])
    code = caught.value.code
    words = capsys.readouterr()
    assert "epoch 1" not in words.out
    return (code, words.err) if isinstance(code, int) else (1, code)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "argument --epochs: invalid positive int value: '0'"),
        (["--epochs", "-3"], "argument --epochs: invalid positive int value: '-3'"),
        (["--epochs", "2.5"], "argument --epochs: invalid positive int value: '2.5'"),
        (["--batch-size", "0"], "argument --batch-size: invalid positive int value: '0'"),
        (["--hidden", "128", "0"], "argument --hidden: invalid positive int value: '0'"),
        (["--hidden", "many"], "argument --hidden: invalid positive int value: 'many'"),
        (["--learning-rate", "0"], "argument --learning-rate: invalid positive float value: '0'"),
        (["--learning-rate", "nan"], "argument --learning-rate: invalid positive float value: 'nan'"),
        (["--weight-decay", "-1"], "argument --weight-decay: invalid non-negative float value: '-1'"),
        (["--seed", "-1"], "argument --seed: invalid non-negative int value: '-1'"),
        (["--activation", "rellu"], "unknown activation 'rellu'; known names are relu, "),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
    ],
)
def test_bad_options(digits, capsys, options, message):
    code, words = refused(digits, capsys, *options)
    assert code == 2
    assert message in words


def test_help_names_every_option(digits, capsys):
    with pytest.raises(SystemExit) as caught:
        digits.main(["--help"])
    assert caught.value.code == 0
    words = capsys.readouterr().out
    for option in OPTIONS:
        assert f"--{option}" in words


def test_missing_and_damaged_data(digits, capsys, small, tmp_path):
    code, words = refused(digits, capsys, "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert code == 1
    assert "nowhere is no folder" in words
    assert "--data" in words

    for name in NAMES[:3]:
        (tmp_path / name).write_bytes((small / name).read_bytes())
    code, words = refused(digits, capsys, "--data", tmp_path, "--out", tmp_path / "out")
    assert f"lacks {NAMES[3]}" in words

    (tmp_path / NAMES[3]).write_bytes((small / NAMES[3]).read_bytes()[:-1])
    code, words = refused(digits, capsys, "--data", tmp_path, "--out", tmp_path / "out")
    assert f"{NAMES[3]}: it is truncated: 199 of 200 bytes" in words
    assert not (tmp_path / "out").exists()


def test_data_that_are_no_grey_images(digits, capsys, tmp_path):
    flat = np.zeros((4, 6), np.uint8), np.zeros(4, np.uint8)
    code, words = refused(digits, capsys, "--data", write_set(tmp_path / "flat", flat, flat))
    assert code == 1
    assert "images of shape (4, 6)" in words
    assert "(n, height, width)" in words


def test_an_output_folder_that_cannot_be_written(digits, capsys, small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        code, words = refused(digits, capsys, "--data", small, "--out", out)
        assert code == 1
        assert f"cannot write into {out}" in words
        assert "--out" in words

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    _, words = refused(digits, capsys, "--data", small, "--out", tmp_path / "out")
    assert "cannot write into" in words
    assert "Read-only file system" in words


def test_a_loss_that_is_no_number_ends_the_run(small, tmp_path):
    process = run("--data", small, "--learning-rate", "1e30", "--hidden", 8, cwd=tmp_path)
    assert process.returncode == 1
    assert re.search(r"digits.py: step \d+ \(in epoch 1\): the loss is (nan|inf)", process.stderr)
    assert "Take a smaller --learning-rate" in process.stderr
    assert not (tmp_path / "digits-out" / "weights.safetensors").exists()


@pytest.mark.skipif(os.name != "posix", reason="SIGINT")
def test_ctrl_c_ends_the_run_without_weights(small, tmp_path):
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "digits.py", "--data", small, "--epochs", "1000000", "--hidden", "8"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    for line in process.stdout:
        if line.startswith("epoch 2 "):
            break
    for patience in (10, 10, 10, 30):  # Python loses an interrupt that comes inside some object's __del__
        process.send_signal(signal.SIGINT)
        try:
            _, words = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
        break
    else:
        process.kill()
        pytest.fail(process.communicate()[1])
    assert process.returncode == 130
    assert words.endswith("\ndigits.py: stopped; the weights are written, whole, when the training is done\n")
    assert [path.name for path in (tmp_path / "digits-out").iterdir()] == ["graph.svg"]
