"""`python -m tinygrad_mm`: scripts are run, tensors found, mistakes answered in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tinygrad_mm.__main__ import main

SCRIPT = """\
import sys
import numpy as np
import tinygrad_mm as tg
from helper import factor

class Net(tg.Module):
    def __init__(self):
        self.weight = tg.Parameter([[0.5], [-1.0]])
    def forward(self, x):
        return x @ self.weight

net = Net()
x = tg.Tensor([[1.0, 2.0]])
y = net(x)
loss = np.sum(y * y) * factor
history = [loss]
numbers = np.ones(3)
plain = tg.Tensor(1.0)
done = np.sum(net(x) * 2)
done.backward()
print("running as", __name__, sys.argv[1:])
if __name__ == "__main__":
    sys.exit(0)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("factor = 3.0\n", "utf-8")
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, "utf-8")
    return path


@pytest.fixture(autouse=True)
def forget_helper(monkeypatch: pytest.MonkeyPatch):
    yield
    sys.modules.pop("helper", None)


def test_explain_tells_the_steps_with_names_and_lines(script, capsys):
    before = sys.argv[:], sys.path[:], sys.modules["__main__"]
    assert main(["explain", f"{script}:loss"]) == 0
    assert (sys.argv, sys.path, sys.modules["__main__"]) == before
    out = capsys.readouterr().out
    assert out.startswith("running as __main__ []\nL is loss = v3 * 3.0: 4 operations, 5 steps back\n")
    assert "∂L/∂weight = xᵀ · ∂L/∂y" in out  # the only model of the script gives the names
    assert "y = x @ weight   in Net   script.py:10" in out
    assert "check  finite differences agree" in out


def test_explain_takes_options(script, capsys):
    assert main(["explain", f"{script}:loss", "--no-check", "--limit", "2", "--width", "70", "--model", "net"]) == 0
    out = capsys.readouterr().out
    assert "check" not in out
    assert "3 steps left out" in out
    assert main(["explain", f"{script}:loss", "--limit", "2", "--all"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_draw_writes_a_picture(script, tmp_path, capsys):
    target = tmp_path / "graph.svg"
    assert main(["draw", f"{script}:loss", "-o", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    words = "".join(ET.parse(target).getroot().itertext())
    assert "matmul" in words
    assert "weight" in words
    assert main(["draw", f"{script}:loss", "-o", str(tmp_path / "graph.gif")]) == 1
    assert ".svg" in capsys.readouterr().err


def test_explore_writes_a_page(script, tmp_path):
    target = tmp_path / "page.html"
    assert main(["explore", f"{script}:loss", "-o", str(target)]) == 0
    assert "weight" in target.read_text("utf-8")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("script.py:los", "has no variable 'los' after it has run; did you mean loss?"),
        ("script.py:zzzzzz", "its Tensors are x, y, loss, plain, done"),
        ("script.py:numbers", "numbers is a ndarray, not a Tensor; its Tensors are x, y, loss, plain, done"),
        ("script.py:net.bias", "a Net has no attribute 'bias'"),
        ("script.py:net.weight", "pass gradient|one number"),
        ("script.py:plain", "requires_grad=True"),
        ("script.py:done", "retain_graph=True"),
        ("missing.py:loss", "cannot read .*missing.py: No such file"),
        ("broken.py:loss", "broken.py is not a Python program: .*line 1"),
        ("failing.py:loss", "failing.py did not run to its end"),
        ("leaving.py:loss", r"leaving.py ended with sys.exit\(3\)"),
        ("empty.py:loss", "it holds no Tensor outside its functions"),
    ],
)
def test_mistakes_are_answered_in_a_line(script, capsys, target, message):
    folder = script.parent
    (folder / "broken.py").write_text("def (", "utf-8")
    (folder / "failing.py").write_text("def f():\n    raise KeyError('lost')\nf()\n", "utf-8")
    (folder / "leaving.py").write_text("import sys\nsys.exit(3)\n", "utf-8")
    (folder / "empty.py").write_text("", "utf-8")
    assert main(["explain", f"{folder}/{target}"]) == 1
    err = capsys.readouterr().err
    last = err.strip().splitlines()[-1]
    assert last.startswith("python -m tinygrad_mm explain: ") or "__main__" in last.split(":")[0]
    assert re.search(message, last), last
    if target.startswith("failing"):
        assert "KeyError: 'lost'" in err
        assert "__main__.py" not in err  # the traceback is the script's own
    else:
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["explain"], ["explain", "script.py"], ["explain", "script.py:a b"], ["nothing", "script.py:x"]]
    + [["explain", "script.py:x", "--limit", "0"], ["explain", ":x"]],
)
def test_wrong_usage_is_told(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-m", "tinygrad_mm", *arguments], capture_output=True, check=False, env=env)


def test_as_a_program_also_where_the_terminal_knows_no_unicode(script):
    done = run("explain", f"{script}:loss", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"?L/?weight = x? ? ?L/?y" in done.stdout
    done = run("explain", f"{script}:loss", PYTHONIOENCODING="utf-8")
    assert "∂L/∂weight = xᵀ · ∂L/∂y" in done.stdout.decode()
    assert done.stderr == b""


def test_as_a_program_whose_reader_leaves_early(script):
    command = f'"{sys.executable}" -m tinygrad_mm explain "{script}:loss" | head -n 1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stdout == b"running as __main__ []\n"
    assert done.stderr == b""


def test_help_names_the_commands():
    done = run("--help")
    assert done.returncode == 0
    assert all(word in done.stdout.decode() for word in ("explain", "draw", "explore"))
