"""`python -m tinygrad_mm.rules [name ...]`: print the catalogue of rules, or some functions' part of it."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from tinygrad_mm.rules.catalogue import catalogue

REGISTER = ("defvjp(", "defvjp_each(", "defcomposite(")


def load_all_rules() -> None:
    """Import every module of the package that registers rules, also one that nothing has needed so far."""
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        if any(line.startswith(REGISTER) for line in path.read_text("utf-8").splitlines()):
            parts = path.relative_to(package.parent).with_suffix("").parts
            importlib.import_module(".".join(part for part in parts if part != "__init__"))


def main(names: list[str]) -> int:
    """Print the catalogue; returns the exit status."""
    load_all_rules()
    try:
        print(catalogue(names), flush=True)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head` has read enough; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
