"""`python -m tinygrad_mm draw` takes the options of `tg.draw`, and says in `--help` what they are."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tinygrad_mm as tg
from tinygrad_mm.__main__ import main
from tinygrad_mm.drawing.drawing import SHOW

SCRIPT = """\
import numpy as np
import tinygrad_mm as tg
from tinygrad_mm import nn

model = nn.Sequential(nn.Dense(3, 4, "relu", rng=0), nn.Dense(4, 2, rng=1))
inputs = np.ones((5, 3), np.float32)
targets = np.zeros((5, 2), np.float32)
hidden = model.layers[0](inputs)
loss = tg.mse_loss(model.layers[1](hidden), targets)
both = lambda a, b: a @ b
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, "utf-8")
    return path


def drawn(script: Path, name: str, *options: str) -> Any:
    target = script.parent / "graph.json"
    assert main(["draw", f"{script}:{name}", "-o", str(target), *options]) == 0
    return json.loads(target.read_text())


def titles(picture: Any, *kinds: str) -> list[str]:
    return [n["title"] for n in picture["nodes"] if n["kind"] in kinds]


def test_arrays_have_the_names_of_the_variables(script: Path) -> None:
    picture = drawn(script, "loss")
    assert titles(picture, "input") == ["inputs"]
    assert titles(picture, "constant") == ["targets"]
    assert titles(picture, "parameter")[0] == "layers.0.weight"


def test_options_of_the_function(script: Path) -> None:
    assert titles(drawn(script, "loss", "--depth", "0"), "module") == ["Dense", "Dense"]
    assert titles(drawn(script, "loss", "--fold", "layers.1", "--fold", "mse_loss"), "module", "function") == [
        "Dense",
        "mse_loss",
    ]
    assert "square" in titles(drawn(script, "loss", "--fold", ""), "operation")
    assert titles(drawn(script, "loss", "--focus", "hidden"), "output") == ["hidden"]
    shown = drawn(script, "loss", "--show", "numbers", "--show", "memory")
    (weight,) = (n for n in shown["nodes"] if n["title"] == "layers.1.weight")
    assert [what for what, _ in weight["views"]] == ["value", "gradient"]
    assert "kept for the backward pass" in shown["notes"][0]


def test_a_model_and_a_shape(script: Path) -> None:
    picture = drawn(script, "model", "--input-size", "7,3")
    assert [n["shape"] for n in picture["nodes"] if n["kind"] == "output"] == [[7, 2]]
    assert titles(picture, "parameter")[0] == "layers.0.weight"
    picture = drawn(script, "both", "--input-size", "(2, 3)", "--input-size", "3,4", "--dtype", "float64")
    (output,) = (n for n in picture["nodes"] if n["kind"] == "output")
    assert (output["shape"], output["dtype"]) == ([2, 4], "float64")


def test_direction(script: Path, tmp_path: Path) -> None:
    assert main(["draw", f"{script}:loss", "-o", str(tmp_path / "x.dot"), "--direction", "TB"]) == 0
    assert "rankdir=TB" in (tmp_path / "x.dot").read_text()


@pytest.mark.parametrize(
    "wrong", [("--show", "colours"), ("--direction", "up"), ("--input-size", "a,b"), ("--depth", "deep")]
)
def test_wrong_options_are_refused(script: Path, wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["draw", f"{script}:loss", *wrong])
    assert end.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_mistakes_are_answered_in_one_line(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["loss", "--fold", "nothing"], "fold='nothing' is the path or class of no module"),
        (["model"], "model is a Sequential, not a Tensor"),
        (["loss", "--input-size", "5,3"], "input_size= is for a model"),
        (["loss", "--focus", "nobody"], "no variable 'nobody'"),
    ):
        assert main(["draw", f"{script}:{arguments[0]}", *arguments[1:]]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_help_lists_every_option_of_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["draw", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in inspect.signature(tg.draw).parameters:
        if name != "outputs":
            assert f"--{name.replace('_', '-')}" in text
    assert all(word in text for word in SHOW)
    assert "tinygrad_mm" not in sys.argv
