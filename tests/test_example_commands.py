"""What all programs of the examples promise at the command line: help for each option, and errors in one line."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = ("autoencoder", "classify_text", "digits", "gan", "language", "moons", "regression", "translate")


@pytest.fixture
def command_line(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module("command_line")
    sys.modules.pop("command_line", None)


def options_of(program, monkeypatch, command_line, tmp_path):
    """The parser that a program makes, before it reads anything."""
    made = []

    class ParsedError(Exception):
        pass

    def parse_args(self, arguments=None):
        made.append(self)
        raise ParsedError

    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(command_line.argparse.ArgumentParser, "parse_args", parse_args)
        module = importlib.import_module(program)
        try:
            with pytest.raises(ParsedError):
                module.main([])
        finally:
            sys.modules.pop(program)
    return made[0]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_option_has_help_and_every_number_is_checked(program, monkeypatch, command_line, tmp_path, capsys):
    parser = options_of(program, monkeypatch, command_line, tmp_path)
    numbers = 0
    for action in parser._actions:
        assert action.help
        if isinstance(action.default, (int, float)) and not isinstance(action.default, bool):
            assert f"(default: {action.default})" in " ".join(parser.format_help().split())
        if action.metavar in ("N", "RATE", "T", "K"):
            numbers += 1
            for wrong in ("-1", "nan", "inf", "x"):
                with pytest.raises(SystemExit) as raised:
                    parser.parse_args([f"{action.option_strings[0]}={wrong}"])
                assert raised.value.code == 2
            assert "invalid" in capsys.readouterr().err
    assert numbers >= 3
    assert "None" not in parser.format_help()


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("ValueError('no such thing')", 1, "program.py: no such thing\n"),
        ("OSError(2, 'No such file', 'x.txt')", 1, "program.py: [Errno 2] No such file: 'x.txt'\n"),
        ("KeyboardInterrupt()", 130, "\nprogram.py: stopped; --resume goes on\n"),
    ],
)
def test_a_program_ends_with_one_line(tmp_path, raised, code, said):
    program = tmp_path / "program.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import command_line\n"
        f"def main(): raise {raised}\n"
        "command_line.run(main, 'stopped; --resume goes on')\n",
        "utf-8",
    )
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (code, said)
