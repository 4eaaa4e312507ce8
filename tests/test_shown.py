"""What is shown of a rule is what is computed: its own source, with the bodies of its helpers put in."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import strategies as my
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import floating, is_of_the_library
from table import ROWS
from table.row import Row

import tinygrad_mm as tg
from tinygrad_mm.graph import RULES, defvjp, primitive
from tinygrad_mm.rules import shown as module
from tinygrad_mm.rules.__main__ import load_all_rules
from tinygrad_mm.rules.catalogue import catalogue, label
from tinygrad_mm.rules.shown import Shown, expression_of, shown, source_of, text_of

load_all_rules()

RULED = [rule for fun, rule in RULES.items() if rule.differentiable and is_of_the_library(fun)]
FUNCTIONS = [(label(r.fun), i, f) for r in RULED for i, f in enumerate((*r.vjps, r.each, r.composite)) if f is not None]

every_function = pytest.mark.parametrize(
    "function", [f for *_, f in FUNCTIONS], ids=[f"{n}-{i}" for n, i, _ in FUNCTIONS]
)


def parts(rule: Shown) -> Iterator[Shown]:
    yield rule
    yield from rule.helpers.values()


def made_of(rule: Shown) -> Any:
    """The function that a rule as it is shown defines."""
    names: dict[str, Any] = {}
    for part in parts(rule):
        for name, value in part.names.items():
            assert names.setdefault(name, value) is value, f"{name} stands for two things"
    definitions = {**rule.helpers, "rule": rule}
    for name, part in definitions.items():
        body = textwrap.indent("\n".join(map(ast.unparse, part.body)), "    ")
        exec(f"def {name}({part.parameters}):\n{body}", names)
    return names["rule"]


@every_function
def test_a_rule_shows_more_than_the_name_of_a_helper(function: Any) -> None:
    rule = shown(function)
    called = rule.expression.func if isinstance(rule.expression, ast.Call) else None
    assert not (isinstance(called, ast.Name) and called.id in rule.helpers)


@every_function
def test_every_function_that_a_rule_calls_is_known_or_shown(function: Any) -> None:
    rule = shown(function)
    for part in parts(rule):
        for name, value in part.names.items():
            if inspect.isfunction(value) and (value.__module__ or "").startswith("tinygrad_mm"):
                known = value in RULES or hasattr(value, "forward") or value.__module__ in module.BOOKKEEPING
                itself = name in ("_qr", "_correlate")  # with other arguments: a square matrix, the longer one first
                check = name == "_not_zero"  # it raises an error, and computes nothing
                assert known or itself or check or name in rule.helpers, name


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_what_is_shown_is_what_is_computed(row: Row) -> None:
    originals = {rule.fun: (rule.vjps, rule.each, rule.composite) for rule in RULED}

    def gradients(case: my.Case) -> list[Any]:
        xs = [tg.Tensor(a, requires_grad=True) for a in case.arrays]
        outputs = [y for y in floating(row.call(*xs, **case.options)) if y.requires_grad]
        if not outputs:
            return []
        found = tg.gradients(outputs, xs, [np.ones_like(y.data) for y in outputs], allow_unused=True)
        return [None if g is None else g.data for g in found]

    @settings(max_examples=4)
    @given(data=st.data())
    def check(data: Any) -> None:
        case = data.draw(my.cases(row, my.shapes(row)))
        expected = gradients(case)
        try:
            for rule in RULED:
                rule.vjps = tuple(vjp and REMADE[vjp] for vjp in rule.vjps)
                rule.each, rule.composite = (f and REMADE[f] for f in (rule.each, rule.composite))
            again = gradients(case)
        finally:
            for fun, before in originals.items():
                RULES[fun].vjps, RULES[fun].each, RULES[fun].composite = before
        for one, other in zip(expected, again, strict=True):
            np.testing.assert_array_equal(one, other)

    check()


REMADE = {f: made_of(shown(f)) for *_, f in FUNCTIONS}


def _scaled(g: Any, factor: float) -> Any:
    """A helper that is one expression."""
    return g * factor


def _halved(g: Any, y: Any, x: Any) -> Any:
    """A rule of several statements."""
    half = _scaled(g, 0.5)
    return half + 0 * x


def test_rules_of_users_show_their_bodies() -> None:
    @primitive
    def half(x: Any) -> Any:
        return x / 2

    defvjp(half, _halved)
    assert text_of(RULES[half].vjps[0]) == "half = g * 0.5\nreturn half + 0 * x"
    assert isinstance(expression_of(_halved), list)
    defvjp(half, lambda g, y, x: _scaled(g, 1 / 2))
    assert text_of(RULES[half].vjps[0]) == "g * (1 / 2)"
    defvjp(half, lambda g, y, x: _halved(g, y, x + 1))
    assert text_of(RULES[half].vjps[0]) == "half = g * 0.5\nreturn half + 0 * (x + 1)"
    assert "g * 0.5" in catalogue(["half"]) or "half = g * 0.5" in catalogue(["half"])


def _turned(x: Any, y: Any) -> Any:
    x, y = y, x
    return x - 2 * y


def test_arguments_take_the_places_of_parameters_whatever_their_names() -> None:
    for function in (
        lambda g, x, y: _turned(y, x),
        lambda g, x, y: _turned(x + y, y),
        lambda g, x, y: _turned(y=x, x=g),
        lambda g, x, y: _turned(_turned(x, g), y),
    ):
        assert made_of(shown(function))(2.0, 3.0, 5.0) == function(2.0, 3.0, 5.0)


def test_a_function_without_source_is_shown_by_its_name() -> None:
    names: dict[str, Any] = {}
    exec("def back(g, y, x): return g", names)
    assert source_of(names["back"]) == "back"
    assert text_of(names["back"]) == "back(*args, **kwargs)"
    assert source_of(np.exp) == "exp"


def test_two_lambdas_on_one_line_are_told_apart() -> None:
    scale = 3
    first, second, third = lambda g, y, x: g * x, lambda g, y, x: g / x, lambda g, y, x: g * scale
    assert [text_of(f) for f in (first, second, third)] == ["g * x", "g / x", "g * scale"]
    assert shown(third).names == {"scale": 3}


def test_a_condition_has_a_line_of_its_own() -> None:
    (left, right) = (shown(f).lines() for f in RULES[np.matmul].vjps if f is not None)
    assert [left[0], right[0]] == ["g @ b.mT", "a.mT @ g"]
    assert right[1] == "  if b.ndim > 2 or a.ndim == 2 else rows(a).mT @ rows(g)"
