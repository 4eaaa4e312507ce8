"""`tg.rule(fun)`: formula, LaTeX and source say the same, and the numbers are right; the page of all rules."""

from __future__ import annotations

import html.parser
import re
from typing import Any

import numpy as np
import pytest
from test_explorer_formulas import computed

import tinygrad_mm as tg
from tinygrad_mm.explorer.shown_rule import ShownGradient, ShownRule
from tinygrad_mm.graph import RULES, name_of
from tinygrad_mm.rules.__main__ import load_all_rules, main

load_all_rules()
OURS = ("numpy", "tinygrad_mm")  # other tests have rules of their own
FUNCTIONS = [
    rule.fun
    for rule in RULES.values()
    if rule.differentiable and (getattr(rule.fun, "__module__", None) or "numpy").startswith(OURS)
]
SHOWN = {fun: tg.rule(fun) for fun in FUNCTIONS}
WITH_FORMULA = [(fun, one) for fun, shown in SHOWN.items() for one in shown.gradients if one.formula]


def names(shown: ShownRule) -> dict[str, Any]:
    found = dict(shown.arguments)
    return {**found, "y": shown.result, "g_y": shown.gradient}


def unbroadcast(value: Any, shape: tuple[int, ...]) -> Any:
    value = np.asarray(value)
    lead = value.ndim - len(shape)
    axes = (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1 and value.shape[lead + i] != 1))
    return value.sum(axis=axes).reshape(shape) if axes else value


def test_most_rules_have_an_example() -> None:
    assert sum(bool(shown.arguments) for shown in SHOWN.values()) > 185
    assert all(shown.gradients or shown.expression for shown in SHOWN.values())


def test_finite_differences_agree() -> None:
    checked = [(name_of(fun), one.difference) for fun, one in WITH_FORMULA if one.difference is not None]
    assert len(checked) > 120
    assert [name for name, difference in checked if difference > 1e-5] == []


def evaluated(shown: ShownRule, one: ShownGradient, formula: str) -> Any:
    values = names(shown)
    for text in one.where:
        name, _, definition = text.partition(" = ")
        values[name] = computed(definition.strip("[]") if definition.startswith("[") else definition, values)
    return unbroadcast(computed(formula.split(" = ", 1)[1], values), np.shape(one.value))


# fmt: off
PLAIN = [
    np.add, np.subtract, np.multiply, np.divide, np.exp, np.log, np.sqrt, np.tanh, np.sin, np.cos, np.square, np.matmul,
    np.power, np.maximum, np.sum, np.mean, np.arctan, np.where, np.linalg.inv, tg.sigmoid, tg.relu, tg.softmax,
]
# fmt: on


@pytest.mark.parametrize("fun", PLAIN, ids=name_of)
def test_a_formula_evaluated_with_the_example_gives_its_gradient(fun: Any) -> None:
    shown = SHOWN[fun]
    assert shown.gradients
    for one in shown.gradients:
        np.testing.assert_allclose(evaluated(shown, one, one.formula), one.value, rtol=1e-12, err_msg=one.formula)


# -- LaTeX, read back into the signs of the text


def braces(text: str, at: int) -> tuple[str, int]:
    """What stands between the braces that open at a place, and where it goes on."""
    assert text[at] == "{", text[at:]
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] == "{" and text[end - 1] != "\\") - (text[end] == "}" and text[end - 1] != "\\")
        if not depth:
            return text[at + 1 : end], end + 1
    raise AssertionError(text)


def read(latex: str) -> str:
    """LaTeX as the text that it is the LaTeX of."""
    cases = re.search(
        r"\\begin\{cases\} ((?:(?!\\begin).)*?) & \\text\{if \} ((?:(?!\\begin).)*?) \\\\ ((?:(?!\\begin).)*?) & \\text\{else\} \\end\{cases\}",
        latex,
    )
    if cases is not None:
        yes, condition, no = map(read, cases.groups())
        return read(f"{latex[: cases.start()]}\x00{yes} if {condition}, else {no}\x01{latex[cases.end() :]}")
    latex = re.sub(r"\\mathrm\{(\w+)\} = ", r"\1=", latex)  # an option of a call
    found, at = "", 0
    while at < len(latex):
        for command in ("\\frac", "\\mathrm", "\\operatorname", "\\sqrt"):
            if latex.startswith(command, at):
                inside, at = braces(latex, at + len(command))
                inside = read(inside)
                if command == "\\frac":
                    below, at = braces(latex, at)
                    found += f"∂L/{read(below)}" if inside == "∂L" else f"(({inside}) / ({read(below)}))"
                else:
                    found += f"√({inside})" if command == "\\sqrt" else inside
                break
        else:
            if latex[at] == "\\" and latex[at + 1] in "_{}":
                found, at = found + latex[at + 1], at + 2
            elif latex[at] == "^":
                inside, at = braces(latex, at + 1)
                found += "ᵀ" if inside == "\\top" else f"^({read(inside)})"
            elif latex[at] == "_":
                inside, at = braces(latex, at + 1)
                found += f"[{inside.strip('[]')}]"
            else:
                found, at = found + latex[at], at + 1
    for sign, text in (
        *(("\\left(", "("), ("\\right)", ")"), ("\\left[", "["), ("\\right]", "]"), ("\\odot", "⊙"), ("\\cdot", "·")),
        *(("\\,", "·"), ("\\partial ", "∂"), ("\\leq", "≤"), ("\\geq", "≥"), ("\\neq", "≠"), ("\\land", "∧")),
        *(
            ("\\lor", "∨"),
            ("\\lnot ", "¬"),
            ("\\ln", "ln"),
            ("\\sum", "Σ"),
            ("\\prod", "Π"),
            ("\\_", "_"),
            ("\\pi ", "π"),
        ),
        *(("\\left|", "abs("), ("\\right|", ")")),
        *((f"\\{name}", name) for name in ("arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan")),
    ):
        found = found.replace(sign, text)
    return found.replace("∂ L", "∂L")


@pytest.mark.parametrize("fun", PLAIN, ids=name_of)
def test_latex_says_the_same_as_the_text(fun: Any) -> None:
    shown = SHOWN[fun]
    for one in shown.gradients:
        text = read(one.latex).replace("\x00", "{").replace("\x01", "}")
        assert text.startswith(f"∂L/∂{one.argument} = ")
        np.testing.assert_allclose(evaluated(shown, one, text), one.value, rtol=1e-12, err_msg=f"{one.latex}\n{text}")


def test_latex_of_every_rule_is_balanced_and_uses_known_commands() -> None:
    known = re.findall(
        r"\w+",
        "frac partial odot cdot top left right begin end text leq geq neq land lor lnot ln sum prod sqrt mathrm sin cos "
        "tan sinh cosh tanh arcsin arccos arctan max min det pi bmod mathbin sim hat backslash operatorname",
    )
    assert len(WITH_FORMULA) > 150
    for fun, one in WITH_FORMULA:
        plain = one.latex.replace("\\{", "").replace("\\}", "")
        assert plain.count("{") == plain.count("}"), one.latex
        assert one.latex.count("\\left") == one.latex.count("\\right"), one.latex
        assert {*re.findall(r"\\([a-zA-Z]+)", one.latex)} <= {*known}, (name_of(fun), one.latex)
        assert one.latex.isascii(), one.latex


def test_the_example_may_be_given() -> None:
    shown = tg.rule(np.matmul, [[1.0, 2.0]], [[3.0], [4.0]])
    assert dict(shown.arguments)["b"].tolist() == [[3.0], [4.0]]
    assert shown.gradients[0].value.tolist() == [[4.5, 6.0]]
    text = repr(tg.rule(np.sum, [[1.0, 2.0]], axis=1))
    assert "broadcast_to" in text
    assert "y = [3.]" in text
    with pytest.raises(ValueError, match="matmul"):
        tg.rule(np.matmul, [[1.0]], [1.0, 2.0])


def test_a_function_without_a_rule_is_refused_by_name() -> None:
    def mine(x: Any) -> Any:
        return x

    with pytest.raises(TypeError, match=r"rule: mine has no rule of its own.*defvjp"):
        tg.rule(mine)


def test_a_rule_of_ones_own_shows_itself() -> None:
    @tg.primitive
    def cube(x: Any) -> Any:
        return x**3

    tg.defvjp(cube, lambda g, y, x: g * 3 * x**2)
    shown = tg.rule(cube)
    assert shown.gradients[0].formula == "∂L/∂x = ∂L/∂y · 3 ⊙ x²"
    assert "g * 3 * x ** 2" in repr(shown)
    assert "<section>" in shown._repr_html_()


class Tags(html.parser.HTMLParser):
    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_of_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--html", "matmul", "exp"]) == 0
    page = capsys.readouterr().out
    reader = Tags()
    reader.feed(page)
    assert reader.open == []
    assert "∂L/∂a = ∂L/∂y · bᵀ" in reader.words
    assert any("g @ b.mT" in word for word in reader.words)
    assert not [
        value for name, value in reader.attributes if name in ("src", "href") and not (value or "").startswith("#")
    ]
    assert "default-src 'none'" in page
