"""`examples/custom.py`: five lines each, and together they learn."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "custom.py"


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, EXAMPLE, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_each_is_five_lines():
    text = EXAMPLE.read_text("utf-8")
    lines = {}
    for node in ast.parse(text).body:
        names = {getattr(node, "name", "")} | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        for name in {"Projection", "squared_relu", "Signum"} & names:
            if getattr(node, "name", "") != "main":
                first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
                part = text.splitlines()[first - 1 : node.end_lineno]
                lines.setdefault(name, []).extend(line for line in part if line.strip())
    assert {name: len(part) for name, part in lines.items()} == {"Projection": 5, "squared_relu": 4, "Signum": 5}


def test_it_learns_and_says_how_well(tmp_path):
    process = run("--epochs", 2, "--images", 3000, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    said = re.fullmatch(r"test accuracy: (\d+\.\d\d) %", process.stdout.splitlines()[-1])
    assert float(said[1]) > 85  # chance is 10
    assert process.stdout.startswith("epoch 1/2: loss ")
    assert list(tmp_path.iterdir()) == []
    assert run("--epochs", 2, "--images", 3000, cwd=tmp_path).stdout == process.stdout  # the same each time


def test_help_lists_the_options(tmp_path):
    process = run("--help", cwd=tmp_path)
    assert process.returncode == 0
    for option in ("--epochs", "--images", "--seed", "--data"):
        assert option in process.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "must be at least 1"),
        (["--images", "-5"], "must be at least 1"),
        (["--data", "nowhere"], "nowhere is no folder"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_mistakes_are_named_without_a_traceback(tmp_path, arguments, message):
    process = run(*arguments, cwd=tmp_path)
    assert process.returncode == 2
    assert message in process.stderr
    assert "Traceback" not in process.stderr
