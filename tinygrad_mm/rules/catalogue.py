"""The catalogue: every function that has a rule, the rule as it was written, and the shape law.

Nothing is stored for it. A rule is a Python function, which knows the file and the line that it came from; the text is
read from that file (by way of `linecache`, which knows notebook cells and doctests too).
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import functools
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tinygrad_mm.graph import RULES, Rule, name_of

__all__ = ["catalogue", "rule_source"]

WIDTHS = (23, 13, 64, 44)  # columns of the table: function, argument, rule, law
HEADS = ("function", "argument", "gradient of the argument; = stands for the expression", "shape law")


def rule_source(fun: Callable[..., Any]) -> tuple[str | None, ...]:
    """The rule of a function as written: one text per argument, None for an argument whose gradient stops.

    A function of any number of arguments has one text for all of them, a composite the expression it stands for, and
    a function whose gradient stops none. A rule without a source file is given by its name.

    Raises TypeError for a function without a rule.

    >>> import numpy as np
    >>> rule_source(np.multiply)
    ('lambda g, y, a, b: g * b', 'lambda g, y, a, b: g * a')
    """
    rule = RULES.get(fun)
    if rule is None:
        raise TypeError(f"{name_of(fun)} has no rule; give it one with tg.defvjp or tg.defcomposite")
    if rule.each is not None:
        return (_text(rule, rule.each, "defvjp_each", 1),)
    if rule.composite is not None and not rule.vjps:
        return (_text(rule, rule.composite, "defcomposite", 1),)
    return tuple(vjp and _text(rule, vjp, "defvjp", i) for i, vjp in enumerate(rule.vjps, 1))


def catalogue(names: Iterable[str] = ()) -> str:
    """All rules as a table of less than 150 columns, one section for each module that registers some.

    `names` choose functions: `exp`, `linalg.norm`, or patterns such as `arc*`. Raises KeyError where one fits nothing,
    and names the functions that are spelled nearly so.

    >>> print(catalogue(["exp"]).splitlines()[-1])
    exp                 x             g * y                      (...) -> (...)
    """
    rules = [rule for rule in RULES.values() if not names] or list(_chosen(names))
    sections: dict[str, list[str]] = {}
    for rule in rules:
        if rule.differentiable:
            sections.setdefault(_home(rule), []).extend(_rows(rule))
    head = "-" * (sum(WIDTHS) + 3) + "\n" + _line(HEADS)
    parts = ["\n".join([home, head, *rows]) for home, rows in sorted(sections.items())]
    for title, metadata in (
        ("recorded, the gradient stops", False),
        ("a look at shapes and dtypes only, not recorded", True),
    ):
        found = [label(r.fun) for r in rules if not r.differentiable and r.metadata == metadata]
        if found:
            parts.append(f"{title}\n{'-' * (sum(WIDTHS) + 3)}\n{textwrap.fill(', '.join(sorted(found)), sum(WIDTHS))}")
    return "\n\n".join(parts)


def label(fun: Callable[..., Any]) -> str:
    """The name of a function, with the `linalg.` that tells `linalg.trace` from `trace`.

    >>> import numpy as np
    >>> label(np.exp), label(np.linalg.inv)
    ('exp', 'linalg.inv')
    """
    return f"linalg.{name_of(fun)}" if getattr(fun, "__module__", None) == "numpy.linalg" else name_of(fun)


# ---------------------------------------------------------------------------------------------------------------------
# The text of a rule
# ---------------------------------------------------------------------------------------------------------------------


def _text(rule: Rule, function: Callable[..., Any], register: str, position: int) -> str:
    """What stands as argument number `position` of the call of `register` that gave `rule` this function."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None:  # a function written in C
        return label(function)
    names = function.__globals__
    source = "".join(linecache.getlines(code.co_filename, names))
    lambdas, calls = _landmarks(source)
    here = [node for node in lambdas if node.lineno == code.co_firstlineno]
    for call in reversed(calls.get(register, [])):
        if len(call.args) > position and _value(call.args[0], names) is rule.fun:
            found = call.args[position]
            if isinstance(found, ast.Lambda):
                right = found in here  # another call may have registered another lambda before
            elif isinstance(found, ast.Name):
                right = names.get(found.id) is function
            else:
                right = not isinstance(found, ast.Starred)
            if right:
                return _segment(source, found)
    # Registered by a loop, or inside a function: there is no call that names it, but a lambda knows its line.
    name = getattr(function, "__name__", type(function).__name__)
    if name == "<lambda>" and here:
        return _segment(source, here[min(position, len(here)) - 1])
    return name


@functools.lru_cache
def _landmarks(source: str) -> tuple[list[ast.Lambda], dict[str, list[ast.Call]]]:
    """All lambdas of a file, and all calls by the name of the function called, in order."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a notebook cell with magic commands
        return [], {}
    lambdas: list[ast.Lambda] = []
    calls: dict[str, list[ast.Call]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda):
            lambdas.append(node)
        elif isinstance(node, ast.Call):
            calls.setdefault(getattr(node.func, "id", getattr(node.func, "attr", "")), []).append(node)
    lambdas.sort(key=lambda node: (node.lineno, node.col_offset))
    for found in calls.values():
        found.sort(key=lambda node: (node.lineno, node.col_offset))
    return lambdas, calls


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """What a dotted name stands for in a module, or None."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    return getattr(_value(node.value, names), node.attr, None) if isinstance(node, ast.Attribute) else None


def _segment(source: str, node: ast.expr) -> str:
    """The text of a node on one line."""
    return " ".join((ast.get_source_segment(source, node) or "").split())


def _body(text: str) -> str:
    """The expression of a lambda without its head."""
    tree = ast.parse(text, mode="eval").body
    return _segment(text, tree.body) if isinstance(tree, ast.Lambda) else text


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


def _chosen(names: Iterable[str]) -> Iterator[Rule]:
    labels = {fun: label(fun) for fun in RULES}
    for name in names:
        pattern = name.removeprefix("np.").removeprefix("numpy.")
        found = [
            fun for fun in RULES if fnmatch.fnmatch(labels[fun], pattern) or fnmatch.fnmatch(name_of(fun), pattern)
        ]
        if not found:
            close = difflib.get_close_matches(pattern, labels.values())
            raise KeyError(f"no rule for {name!r}" + (f"; did you mean {' or '.join(close)}?" if close else ""))
        yield from (RULES[fun] for fun in found)


def _home(rule: Rule) -> str:
    """The module that registered a rule."""
    functions = [*rule.vjps, rule.each, rule.composite, rule.forward]
    homes = (getattr(inspect.unwrap(f), "__globals__", {}).get("__name__") for f in functions if f is not None)
    return next((home for home in homes if home), "elsewhere")


def _rows(rule: Rule) -> Iterator[str]:
    """The lines of the table for one function: one entry per argument, and one for the options of a composite."""
    texts = rule_source(rule.fun)
    if rule.each is not None:
        entries = [("each, i", texts[0])]
    elif rule.vjps:
        names = [*rule.names, *(f"argument {i}" for i in range(len(rule.names), len(texts)))]
        entries = list(zip(names, texts, strict=False))
        if rule.composite is not None:
            entries.append(("other options", _text(rule, rule.composite, "defcomposite", 1)))
    else:
        entries = [("=", texts[0])]
    for number, (argument, text) in enumerate(entries):
        first = number == 0
        yield _line(
            (
                label(rule.fun) if first else "",
                argument,
                "(the gradient stops)" if text is None else _body(text),
                rule.law if first else "",
            )
        )


def _line(cells: Iterable[str]) -> str:
    """One entry of the table: cells longer than their column go on below, cut between words."""
    columns = [
        textwrap.wrap(cell, width, subsequent_indent="  ", break_on_hyphens=False) or [""]
        for cell, width in zip(cells, WIDTHS, strict=True)
    ]
    height = max(map(len, columns))
    lines = zip(*(column + [""] * (height - len(column)) for column in columns), strict=True)
    return "\n".join(
        " ".join(part.ljust(width) for part, width in zip(line, WIDTHS, strict=True)).rstrip() for line in lines
    )
