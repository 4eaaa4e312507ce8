"""What the programs of the examples have in common: their `--help`, numbers that are checked, and how they end."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Behind each option its default, where it has one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or "default" in (action.help or "")
        return action.help if silent else super()._get_help_string(action)


def parser(title: str) -> argparse.ArgumentParser:
    """A parser of options whose help names the defaults."""
    return argparse.ArgumentParser(description=title, formatter_class=_Help)


def number(kind: type, zero: bool = False) -> Callable[[str], Any]:
    """What argparse calls to read a finite number above zero, or also zero itself."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not (0 < value < math.inf or (zero and value == 0)):
            raise ValueError(text)
        return value

    parse.__name__ = f"{'non-negative' if zero else 'positive'} {kind.__name__}"  # "invalid positive int value: '0'"
    return parse


COUNT, SEED = number(int), number(int, zero=True)
RATE, AMOUNT = number(float), number(float, zero=True)


def run(main: Callable[[], None], stopped: str = "stopped") -> None:
    """Run a program; what the user can mend, and Ctrl-C, end it with one line in place of a traceback."""
    program = Path(sys.argv[0]).name
    try:
        main()
    except KeyboardInterrupt:
        print(f"\n{program}: {stopped}", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError) as error:
        went_on = {"--resume", "--text"} & {*sys.argv}  # from a checkpoint, which may be of something else
        hint = "\n(on the command line: leave --resume out, or name another folder with --out)" if went_on else ""
        sys.exit(f"{program}: {error}{hint}")
