"""`python -m tinygrad_mm.rules [name ...]`: print the catalogue of rules, or some functions' part of it.

With `--html` it prints a page: each rule as mathematics, as its source, and with an example.
"""

from __future__ import annotations

import argparse
import html
import importlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np

from tinygrad_mm.rules.catalogue import catalogue, functions

REGISTER = ("defvjp(", "defvjp_each(", "defcomposite(")


def load_all_rules() -> None:
    """Import every module of the package that registers rules, also one that nothing has needed so far.

    Those of SciPy's functions where that is installed.
    """
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        if path.stem == "scipy_special" and importlib.util.find_spec("scipy") is None:
            continue
        if any(line.startswith(REGISTER) for line in path.read_text("utf-8").splitlines()):
            parts = path.relative_to(package.parent).with_suffix("").parts
            importlib.import_module(".".join(part for part in parts if part != "__init__"))


def main(names: list[str]) -> int:
    """Print the catalogue; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_mm.rules", description="Print the rules: what the gradient of each function is."
    )
    parser.add_argument("name", nargs="*", help="functions, such as exp, linalg.norm or 'arc*' (default: all)")
    parser.add_argument("--html", action="store_true", help="a page with formulas and examples, for a browser")
    options = parser.parse_args(names)
    load_all_rules()
    try:
        print(_page(options.name) if options.html else catalogue(options.name), flush=True)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head` has read enough; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:auto;padding:1rem}"
    "section{border-top:1px solid #8884;padding:.5rem 0}h3{margin:.3rem 0}small{font-weight:400;opacity:.7}"
    "p{font-family:Cambria,'STIX Two Math','DejaVu Serif',serif;font-size:1.1em;margin:.4rem 0;overflow-wrap:anywhere}"
    "pre{overflow-x:auto;background:#8881;padding:.4rem;margin:.3rem 0;font-size:.85em}nav{columns:8rem}a{color:inherit}"
)


def _page(names: list[str]) -> str:
    """The rules as a page of its own; the LaTeX of a formula is its tooltip."""
    from tinygrad_mm.explorer import rule

    with np.errstate(all="ignore"):
        shown = sorted((rule(fun) for fun in functions(names)), key=lambda one: one.name.lower())
    links = "".join(f'<a href="#rule{i}">{html.escape(one.name)}</a><br>' for i, one in enumerate(shown))
    sections = "\n".join(f'<div id="rule{i}">{one._repr_html_()}</div>' for i, one in enumerate(shown))
    return (
        '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>rules</title><style>{STYLE}</style><h1>Rules</h1>"
        "<p>∂L/∂y is the gradient that reaches the result y of a call; g in the source.</p>"
        f"<nav>{links}</nav>\n{sections}</html>"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
