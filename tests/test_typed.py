"""What type checkers say about programs of users: nothing, and the types are of use."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typed import user_program

import tinygrad_mm

TOP = Path(tinygrad_mm.__file__).parent.parent
PROGRAM = Path(user_program.__file__).read_text("utf-8")

# What each line has to be for a checker: `expression: type`.
TYPES = {
    "layer(x)": "Tensor",
    "tg.nn.ReLU()(x)": "Tensor",
    "x.grad": "np.ndarray[Any, Any]",
    "x + 1": "Tensor",
    "1 - x": "Tensor",
    "x @ x.T": "Tensor",
    "x == x": "Tensor",
    "x[0] > 0": "Tensor",
    "x.sum(axis=0)": "Tensor",
    "layer.weight * np.float32(2)": "Tensor",
    "doubled(x)": "Tensor",
    "layer.weight": "tg.Parameter",
    "x.item()": "float",
    "tg.relu(x)": "Tensor",
    "tg.softmax(x, axis=0)": "Tensor",
    "tg.cross_entropy(layer(x), np.array([0, 1]))": "Tensor",
    "tg.mse_loss(x, x, reduction='sum')": "Tensor",
    "tg.conv2d(x, x, padding=1)": "Tensor",
    "tg.relu(np.ones(2))": "np.ndarray[Any, Any]",
    "tg.topk(x, 1)": "tuple[Any, Any]",
}
SETTING = """
from typing import Any
import numpy as np
import tinygrad_mm as tg
from tinygrad_mm import Tensor
layer = tg.nn.Dense(2, 2)
x = Tensor(np.ones((2, 2), np.float32), requires_grad=True)
@tg.compile
def doubled(v: Tensor) -> Tensor:
    return v * 2
"""


# Example programs in which a checker cannot see that a value of theirs is there: set in a loop, or None for one model.
UNSEEN = {
    *("classify_text.py", "language.py", "language_pictures.py", "translate.py"),
    *("coming_from.py", "neighbours.py"),  # which use libraries that are not all installed
}


def pyright(file: Path, mode: str) -> list[tuple[int, str]]:
    """The errors of a file: (line, message)."""
    return pyright_on(file.parent, [file.name], mode)


def pyright_on(folder: Path, files: list[str], mode: str) -> list[tuple[int, str]]:
    """The errors of files in a folder: (line, message)."""
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": mode, "extraPaths": [str(TOP), str(TOP / "examples")]})
    )
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *files]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if not run.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {run.stderr[-200:]}")
    found = json.loads(run.stdout)["generalDiagnostics"]
    return [(d["range"]["start"]["line"], d["message"]) for d in found if d["severity"] == "error"]


def mypy(file: Path, mode: str) -> list[tuple[int, str]]:
    """The errors of a file: (line, message)."""
    options = ["--strict"] if mode == "strict" else ["--check-untyped-defs"]
    command = [sys.executable, "-m", "mypy", *options, "--config-file=", "--follow-imports=silent", file.name]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=file.parent, env={"MYPYPATH": str(TOP), "PATH": ""}
    )
    found = re.findall(rf"^{file.name}:(\d+): error: (.*)$", run.stdout, re.MULTILINE)
    assert found or run.returncode == 0, run.stdout + run.stderr
    return [(int(line) - 1, message) for line, message in found]


@pytest.fixture(params=[pyright, mypy], ids=["pyright", "mypy"])
def errors(request, tmp_path):
    """`errors(text, mode)`: what a checker finds in a program."""
    if importlib.util.find_spec(request.param.__name__) is None:
        pytest.skip(f"{request.param.__name__} is not installed")

    def check(text: str, mode: str = "strict") -> list[tuple[int, str]]:
        file = tmp_path / "program.py"
        file.write_text(text, "utf-8")
        return request.param(file, mode)

    return check


def test_the_program_runs(tmp_path):
    assert 0 < user_program.main(tmp_path) < 1
    assert (tmp_path / "backprop.html").exists()


def test_a_users_program_has_no_errors(errors):
    assert errors(PROGRAM) == []


def test_the_checker_finds_an_error(errors):
    wrong = PROGRAM.replace("hidden.T.shape", "hidden.no_such_attribute")
    assert any("no_such_attribute" in message for _, message in errors(wrong))


def test_expressions_have_useful_types(errors):
    good = "".join(f"a{i}: {type} = {expression}\n" for i, (expression, type) in enumerate(TYPES.items()))
    assert errors(SETTING + good) == []
    bad = "".join(f"a{i}: str = {expression}\n" for i, expression in enumerate(TYPES))  # not Any, which fits anywhere
    first = SETTING.count("\n")
    assert {line - first for line, _ in errors(SETTING + bad)} >= set(range(len(TYPES)))


def test_the_lines_of_the_readme_have_no_errors(errors):
    blocks = re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text("utf-8"), re.DOTALL)
    text = "\n".join(blocks)
    lines = text.splitlines()
    assert [(lines[line], what) for line, what in errors(text, "standard")] == []


def test_the_example_programs_have_no_errors(tmp_path):
    """Unannotated code, as examples are, in pyright's standard mode; mypy looks inside unannotated functions, too."""
    sources = sorted((TOP / "examples").glob("*.py"))
    assert {path.name for path in sources} > UNSEEN
    for path in sources:
        (tmp_path / path.name).write_text(path.read_text("utf-8"), "utf-8")
    names = [path.name for path in sources if path.name not in UNSEEN]
    if importlib.util.find_spec("pyright"):
        assert pyright_on(tmp_path, names, "standard") == []
    if importlib.util.find_spec("mypy"):
        options = ["--check-untyped-defs", "--config-file=", "--follow-imports=silent", "--ignore-missing-imports"]
        command = [sys.executable, "-m", "mypy", *options, *names]
        environment = {"MYPYPATH": str(TOP), "PATH": ""}
        run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert run.returncode == 0, run.stdout + run.stderr
