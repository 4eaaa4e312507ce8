"""The catalogue shows rules as they stand in the source."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import tinygrad_mm
from tinygrad_mm.graph import RULES, defcomposite, defstopped, defvjp, defvjp_each, name_of, primitive
from tinygrad_mm.rules.__main__ import load_all_rules
from tinygrad_mm.rules.catalogue import catalogue, label, rule_source

PACKAGE = str(Path(tinygrad_mm.__file__).parent)

load_all_rules()


def functions_of(rule):
    return [rule.each] if rule.each else list(rule.vjps) or [rule.composite]


def from_the_package(rule):
    """Whether the package itself registered a rule, not a test or a doctest."""
    functions = [*rule.vjps, rule.each, rule.composite, rule.forward]
    codes = [f.__code__ for f in functions if hasattr(f, "__code__")]
    return not codes or codes[0].co_filename.startswith(PACKAGE)


OURS = [rule for rule in RULES.values() if rule.differentiable and from_the_package(rule)]


@pytest.mark.parametrize("rule", OURS, ids=lambda rule: label(rule.fun))
def test_every_differentiable_rule_has_a_shape_law(rule):
    assert rule.signature.strip()


def same_code(a, b):
    """Whether two functions were compiled from the same text."""

    def plain(code):
        return [c for c in code.co_consts if not hasattr(c, "co_code")]

    return (
        a.__code__.co_code == b.__code__.co_code
        and a.__code__.co_varnames == b.__code__.co_varnames
        and a.__code__.co_names == b.__code__.co_names
        and plain(a.__code__) == plain(b.__code__)
    )


@pytest.mark.parametrize("rule", OURS, ids=lambda rule: label(rule.fun))
def test_the_text_of_a_rule_compiles_to_the_rule(rule):
    functions, texts = functions_of(rule), rule_source(rule.fun)
    assert len(texts) == len(functions)
    for function, text in zip(functions, texts, strict=True):
        if function is None:
            assert text is None
            continue
        if text.startswith("def "):
            assert textwrap.dedent(inspect.getsource(function)).startswith(text)  # less a comment on its last line
            continue
        # The compiler treats names that a module imports by themselves, so the text is compiled behind its imports.
        names = dict(getattr(function, "__globals__", vars(np)))
        scipy = "from scipy import special\n" * ("special." in text)
        exec(f"import math\nimport numpy as np\n{scipy}again = {text}", names)
        again = names["again"]
        assert again is function or same_code(again, function)


def test_the_text_is_exactly_that_of_the_source():
    assert rule_source(np.exp) == ("lambda g, y, x: g * y",)
    assert rule_source(np.divide) == ("lambda g, y, a, b: g / b", "lambda g, y, a, b: -g * y / b")
    assert rule_source(np.ldexp) == ("lambda g, y, x, i: np.ldexp(g, i)", None)
    assert rule_source(np.real) == ("lambda val: val",)
    assert rule_source(np.sign) == ()


def test_two_rules_on_one_line_are_told_apart():
    @primitive
    def product(a, b):
        return a * b

    defvjp(product, lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)
    assert rule_source(product) == ("lambda g, y, a, b: g * b", "lambda g, y, a, b: g * a")


def _double_back(g, y, x):
    return 2 * g


def test_rules_of_users_have_their_text():
    @primitive
    def double(x):
        return 2 * x

    defvjp(double, _double_back)
    assert rule_source(double) == ("def _double_back(g, y, x):\n    return 2 * g",)

    @primitive
    def total(*xs):
        return sum(xs)

    defvjp_each(total, lambda i, g, y, *xs: g + 0 * i)
    assert rule_source(total) == ("lambda i, g, y, *xs: g + 0 * i",)

    def twice(x):
        return x + x

    defcomposite(twice, lambda x: 2 * x)
    assert rule_source(twice) == ("lambda x: 2 * x",)

    def step(x):
        return x > 0

    defstopped(step)
    assert rule_source(step) == ()


@primitive
def tripled(x):
    return 3 * x


defvjp(tripled, lambda g, y, x: 3 * g)
FIRST = RULES[tripled].vjps
defvjp(tripled, lambda g, y, x: g * 3)


def test_the_rule_shown_is_the_one_in_force():
    assert rule_source(tripled) == ("lambda g, y, x: g * 3",)
    second = RULES[tripled].vjps
    try:
        defvjp(tripled, *FIRST)
        assert rule_source(tripled) == ("lambda g, y, x: 3 * g",)
        third = lambda g, y, x: g + g + g
        defvjp(tripled, third)
        assert rule_source(tripled) == ("lambda g, y, x: g + g + g",)
    finally:
        defvjp(tripled, *second)


def test_a_rule_registered_in_a_loop_has_its_text():
    @primitive
    def f(x):
        return 2 * x

    @primitive
    def h(x):
        return 2 * x

    for fun in (f, h):
        defvjp(fun, lambda g, y, x: g
                                    * 2)  # fmt: skip
    assert rule_source(f) == rule_source(h) == ("lambda g, y, x: g * 2",)


def test_a_rule_without_a_file_is_given_by_its_name():
    names = {"defvjp": defvjp}
    exec("def f(x): return x\ndef back(g, y, x): return g\ndefvjp(f, back)", names)
    assert rule_source(names["f"]) == ("back",)


def test_a_function_without_a_rule_raises():
    with pytest.raises(TypeError, match="no_rule_at_all has no rule"):
        rule_source(lambda_without_rule)


def no_rule_at_all(x):
    return x


lambda_without_rule = no_rule_at_all


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


def test_the_table_names_every_function_and_fits_the_page():
    text = catalogue()
    assert max(map(len, text.splitlines())) <= 150
    words = set(text.replace(",", " ").split())
    assert [label(fun) for fun in RULES if label(fun) not in words] == []


def test_the_rules_stand_under_the_module_that_registered_them():
    sections = {part.splitlines()[0]: part for part in catalogue().split("\n\n")}
    assert any(
        "np.where(x <= 0, 0, g)" in part for home, part in sections.items() if home.startswith("tinygrad_mm.functional")
    )
    assert "g * np.cos(x)" in sections["tinygrad_mm.rules.elementwise"]
    assert " floor," in sections["recorded, the gradient stops"]
    assert " ndim," in sections["a look at shapes and dtypes only, not recorded"]


def test_names_and_patterns_choose_functions():
    rows = catalogue(["np.exp", "arc*", "linalg.inv"]).splitlines()
    shown = {row.split()[0] for row in rows if row and not row.startswith((" ", "-", "tinygrad", "function"))}
    assert shown == {"exp", "linalg.inv", *(label(f) for f in RULES if name_of(f).startswith("arc"))}


def test_a_name_that_fits_nothing_raises_and_names_the_near_ones():
    with pytest.raises(KeyError, match="no rule for 'expp'; did you mean exp"):
        catalogue(["expp"])


def test_the_expression_beside_a_rule_is_shown_too():
    text = " ".join(catalogue(["sum"]).split())
    assert "otherwise np.sum(_options(a, dtype, where), axis=axis, keepdims=keepdims) + initial" in text
    assert "def _options(x, dtype=None, where=True, fill=0):" in text


def test_words_about_axes_are_explained():
    text = catalogue(["sum"])
    assert "np.broadcast_to(kept(g, a, axis), a.shape)" in text
    assert "kept(v, a, axis): A result of reducing a, with the reduced axes back in place, of length 1." in text


def test_the_rules_of_what_a_composite_calls_are_shown_with_it():
    text = catalogue(["concatenate"])
    assert "start = sum((a.shape[axis] for a in arrays[:i]))" in text


def run(*names, **options):
    command = [sys.executable, "-m", "tinygrad_mm.rules", *names]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, check=False, **options)


def test_the_command_prints_the_table():
    done = run("exp", "log", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == catalogue(["exp", "log"]) + "\n"


def test_the_command_knows_rules_of_the_whole_package():
    done = run("relu", "select", stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert "np.where(x <= 0, 0, g)" in done.stdout


def test_the_command_says_what_it_does_not_know():
    done = run("expp", stdout=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "no rule for 'expp'; did you mean exp or exp2 or ldexp?\n"


def test_the_command_is_quiet_when_nobody_reads_on():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
