"""Formulas in LaTeX."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from tinygrad_mm.explorer.terms import Term
from tinygrad_mm.graph import name_of

__all__ = ["latex"]

SIGNS = {
    "⊙": "\\odot", "·": "\\,", "∨": "\\lor", "∧": "\\land", "≠": "\\neq", "≤": "\\leq", "≥": "\\geq", "¬": "\\lnot ",
    "//": "\\mathbin{//}", "%": "\\bmod",
}  # fmt: skip
SPECIAL = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": "\\sim ",
    "^": "\\hat{}",
    "\\": "\\backslash ",
    "π": "\\pi ",
    "′": "'",
}
NAMED: dict[Any, str] = {np.log: "\\ln", math.log: "\\ln", np.sum: "\\sum", np.prod: "\\prod"}
STANDARD = frozenset(
    ["sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "max", "min", "det"]  # LaTeX's own
)
EXPONENTIAL: dict[Any, str] = {np.exp: "e", np.exp2: "2", math.exp: "e"}
ROOTS = (np.sqrt, math.sqrt)

# How tightly a part binds.
OR, AND, NOT, COMPARISON, SUM, PRODUCT, SIGN, POWER, ATOM = range(9)
COMPARISONS = ("=", "≠", "<", "≤", ">", "≥")
BINDING = {"∨": OR, "∧": AND, "+": SUM, "-": SUM, **dict.fromkeys(COMPARISONS, COMPARISON)}


def latex(term: Term) -> str:
    r"""A term as LaTeX mathematics.

    >>> from tinygrad_mm.explorer.terms import constant
    >>> print(latex(Term("power", 9.0, (constant(3.0), constant(2)))))
    3.0^{2}
    >>> print(latex(Term("name", 1.0, text="∂L/∂weight")))
    \frac{\partial L}{\partial \mathrm{weight}}
    """
    return _written(term)[0]


def _written(term: Term) -> tuple[str, int]:
    """The text of a term, and how tightly it binds."""
    parts = term.parts
    if term.kind == "name":
        return _name(term.text), ATOM
    if term.kind == "constant":
        return _text(term.text), SIGN if term.text.startswith("-") else ATOM
    if term.kind in ("infix", "product"):
        return _infix(term)
    if term.kind == "prefix":
        return f"{SIGNS.get(term.text, term.text)}{_at_least(_operand(parts[0]), SIGN)}", SIGN
    if term.kind == "power":
        return f"{_at_least(_operand(parts[0]), ATOM)}^{{{_operand(parts[1])[0]}}}", POWER
    if term.kind == "transpose":
        return f"{_at_least(_written(parts[0]), ATOM)}^{{\\top}}", POWER
    if term.kind == "cases":
        condition, yes, no = (_written(part)[0] for part in parts)
        rows = f"{yes} & \\text{{if }} {condition} \\\\ {no} & \\text{{else}}"
        return f"\\begin{{cases}} {rows} \\end{{cases}}", ATOM
    if term.kind == "index":
        return f"{_at_least(_written(parts[0]), ATOM)}_{{{_text(term.text)}}}", POWER
    if term.kind == "several":
        return f"\\left({', '.join(_written(part)[0] for part in parts)}\\right)", ATOM
    return _call(term)


def _infix(term: Term) -> tuple[str, int]:
    left, right = (_operand(part, term.text) for part in term.parts)
    if term.text == "/":
        return f"\\frac{{{left[0]}}}{{{right[0]}}}", ATOM
    level = BINDING.get(term.text, PRODUCT)
    sign = SIGNS.get(term.text, term.text)
    if term.text == "·" and term.kind != "product":
        sign = "\\cdot"  # with a number
    first = _at_least(left, level + (level == COMPARISON))
    return f"{first} {sign} {_at_least(right, level + 1)}", level


def _call(term: Term) -> tuple[str, int]:
    inside = [_written(part)[0] for part in term.parts]
    if len(inside) == 1 and not term.options:
        if term.fun in EXPONENTIAL:
            return f"{EXPONENTIAL[term.fun]}^{{{inside[0]}}}", POWER
        if term.fun in ROOTS:
            return f"\\sqrt{{{inside[0]}}}", ATOM
        if term.fun is np.absolute:
            return f"\\left|{inside[0]}\\right|", ATOM
    name = name_of(term.fun)
    known = NAMED.get(term.fun) or (f"\\{name}" if name in STANDARD else f"\\operatorname{{{_text(name)}}}")
    inside += [f"\\mathrm{{{_text(option)}}} = {_written(value)[0]}" for option, value in term.options]
    return f"{known}\\left({', '.join(inside)}\\right)", ATOM


def _operand(term: Term, around: str = "") -> tuple[str, int]:
    """A part that is computed with: a condition counts as 1 or 0 there."""
    text, level = _written(term)
    condition = getattr(term.value, "dtype", None) == np.bool_ and around not in ("∧", "∨", *COMPARISONS)
    return (f"\\left[{text}\\right]", ATOM) if condition and level < ATOM else (text, level)


def _at_least(written: tuple[str, int], level: int) -> str:
    text, binds = written
    return text if binds >= level else f"\\left({text}\\right)"


def _name(text: str) -> str:
    """A name: a gradient as a fraction, several letters upright, the number of a result as an index."""
    if text.startswith("∂L/∂"):
        return f"\\frac{{\\partial L}}{{\\partial {_name(text.removeprefix('∂L/∂'))}}}"
    found = re.fullmatch(r"(.*?)((?:\[\d+\])*)", text)
    assert found is not None
    name, index = _text(found[1]), found[2].replace("][", ",").strip("[]")
    upright = name if len(found[1]) == 1 else f"\\mathrm{{{name}}}"
    return f"{upright}_{{{index}}}" if index else upright


def _text(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)
