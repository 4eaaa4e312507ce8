"""The catalogue: every function that has a rule, the rule as it is shown, and what it does to shapes.

Nothing is stored for it: `shown` reads a rule from its source.
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tinygrad_mm.graph import RULES, Rule, module_of, name_of
from tinygrad_mm.rules.foreign import rule_for
from tinygrad_mm.rules.shown import shown, source_of, words_of

__all__ = ["catalogue", "functions", "rule_source"]

WIDTHS = (23, 13, 64, 44)  # columns of the table: function, argument, rule, shapes
HEADS = ("function", "argument", "gradient of the argument; = is what the function stands for", "shapes")


def rule_source(fun: Callable[..., Any]) -> tuple[str | None, ...]:
    """The rule of a function as written: one text per argument, None for an argument whose gradient stops.

    A function of any number of arguments has one text for all of them, a composite the expression it stands for, and
    a function whose gradient stops none. A rule without a source file is given by its name.

    Raises TypeError for a function without a rule.

    >>> import numpy as np
    >>> rule_source(np.multiply)
    ('lambda g, y, a, b: g * b', 'lambda g, y, a, b: g * a')
    """
    rule = rule_for(fun)
    if rule is None:
        raise TypeError(f"{name_of(fun)} has no rule; give it one with tg.defvjp or tg.defcomposite")
    if rule.each is not None:
        return (source_of(rule.each),)
    if rule.composite is not None and not rule.vjps:
        return (source_of(rule.composite),)
    return tuple(None if vjp is None else source_of(vjp) for vjp in rule.vjps)


def catalogue(names: Iterable[str] = ()) -> str:
    """All rules as a table of less than 150 columns, one section for each module that registers some.

    `names` choose functions: `exp`, `linalg.norm`, or patterns such as `arc*`. Raises KeyError where one fits nothing,
    and names the functions that are spelled nearly so.

    >>> print(catalogue(["exp"]).splitlines()[-1])
    exp                 x             g * y                      (...) -> (...)
    """
    rules = _rules(names)
    sections: dict[str, list[str]] = {}
    for rule in rules:
        if rule.differentiable:
            sections.setdefault(_home(rule), []).extend(_rows(rule))
    head = "-" * (sum(WIDTHS) + 3) + "\n" + _line(HEADS)
    parts = ["\n".join([home, head, *rows]) for home, rows in sorted(sections.items())]
    words = dict(word for rule in rules for word in _words(rule))
    if words:
        parts.append("\n".join(["where", "-" * (sum(WIDTHS) + 3), *(f"{w}: {words[w]}" for w in sorted(words))]))
    for title, metadata in (
        ("recorded, the gradient stops", False),
        ("a look at shapes and dtypes only, not recorded", True),
    ):
        found = [label(r.fun) for r in rules if not r.differentiable and r.metadata == metadata]
        if found:
            parts.append(f"{title}\n{'-' * (sum(WIDTHS) + 3)}\n{textwrap.fill(', '.join(sorted(found)), sum(WIDTHS))}")
    return "\n\n".join(parts)


def functions(names: Iterable[str] = ()) -> list[Callable[..., Any]]:
    """The functions with a gradient that names or patterns choose, as for `catalogue`; without names all of them.

    >>> sorted(fun.__name__ for fun in functions(["arctan*"]))
    ['arctan', 'arctan2', 'arctanh']
    """
    return [rule.fun for rule in _rules(names) if rule.differentiable]


def _rules(names: Iterable[str]) -> list[Rule]:
    return [rule for rule in RULES.values() if not names] or list({rule.fun: rule for rule in _chosen(names)}.values())


def label(fun: Callable[..., Any]) -> str:
    """The name of a function, with the `linalg.` that tells `linalg.trace` from `trace`, and SciPy's `special.`.

    >>> import numpy as np
    >>> label(np.exp), label(np.linalg.inv)
    ('exp', 'linalg.inv')
    """
    home = module_of(fun)
    if home.startswith("scipy.special"):
        return f"special.{name_of(fun)}"
    return f"linalg.{name_of(fun)}" if home == "numpy.linalg" else name_of(fun)


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


def _chosen(names: Iterable[str]) -> Iterator[Rule]:
    labels = {fun: label(fun) for fun in RULES}
    for name in names:
        pattern = name.removeprefix("np.").removeprefix("numpy.").removeprefix("scipy.")
        found = [
            fun for fun in RULES if fnmatch.fnmatch(labels[fun], pattern) or fnmatch.fnmatch(name_of(fun), pattern)
        ]
        if not found:
            close = difflib.get_close_matches(pattern, labels.values())
            raise KeyError(f"no rule for {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
        yield from (RULES[fun] for fun in found)
        for fun in found:
            yield from _behind(RULES[fun])


def _behind(rule: Rule) -> Iterator[Rule]:
    """The rules of the package's own operations that a composite without a rule calls: of `join` for `concatenate`."""
    if rule.composite is not None and not rule.vjps:
        for value in shown(rule.composite).names.values():
            if hasattr(value, "forward") and value in RULES:
                yield RULES[value]


def _home(rule: Rule) -> str:
    """The module that registered a rule."""
    functions = [*rule.vjps, rule.each, rule.composite, rule.forward]
    homes = (getattr(inspect.unwrap(f), "__globals__", {}).get("__name__") for f in functions if f is not None)
    return next((home for home in homes if home), "elsewhere")


def _functions(rule: Rule) -> list[tuple[str, Any]]:
    """The functions of a rule, each with the argument that it is for: "=" stands for the expression of a composite."""
    if rule.each is not None:
        return [("each, i", rule.each)]
    names = [*rule.names, *(f"argument {i}" for i in range(len(rule.names), len(rule.vjps)))]
    entries: list[tuple[str, Any]] = list(zip(names, rule.vjps, strict=False))
    if rule.composite is not None:
        entries.append(("otherwise" if entries else "=", rule.composite))
    return entries


def _words(rule: Rule) -> Iterator[tuple[str, str]]:
    """The functions that count axes and make arrays for a rule, and what they say of themselves."""
    for _, function in _functions(rule):
        if function is not None:
            yield from words_of(function)


def _rows(rule: Rule) -> Iterator[str]:
    """The lines of the table for one function: one entry per argument, and one for the expression of a composite."""
    for number, (argument, function) in enumerate(_functions(rule)):
        first = number == 0
        text = "(the gradient stops)" if function is None else shown(function).text()
        yield _line((label(rule.fun) if first else "", argument, text, rule.signature if first else ""))


def _line(cells: Iterable[str]) -> str:
    """One entry of the table: lines longer than their column go on below, cut between words, further in."""
    columns = [_wrapped(cell, width) for cell, width in zip(cells, WIDTHS, strict=True)]
    height = max(map(len, columns))
    lines = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return "\n".join(
        " ".join(part.ljust(width) for part, width in zip(line, WIDTHS, strict=True)).rstrip() for line in lines
    )


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, none longer than a width."""
    found: list[str] = []
    for line in text.splitlines() or [""]:
        inside = " " * (len(line) - len(line.lstrip()) + 2)
        found += textwrap.wrap(line, width, subsequent_indent=inside, break_on_hyphens=False) or [""]
    return found
