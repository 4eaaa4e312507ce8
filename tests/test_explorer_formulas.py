"""The mathematics that a reader is shown, read again and computed: it gives the gradients it stands beside.

The reader of formulas here knows nothing of how they were made: it turns their signs into Python's and computes.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import pytest
import strategies as my
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles import leaves
from table import ROWS
from table.row import Row

import tinygrad_mm as tg
from tinygrad_mm.explorer import Contribution, Story, record
from tinygrad_mm.graph import RULES, defvjp, name_of, primitive

# ---------------------------------------------------------------------------------------------------------------------
# Reading a formula
# ---------------------------------------------------------------------------------------------------------------------

SIGNS = {
    "⊙": "*", " · ": " @ ", "²": "**2", "³": "**3", "^": "**", "ᵀ": ".mT", "√(": "sqrt(", "Σ": "sum", "Π": "prod",
    "π": "pi", "≠": "!=", "≤": "<=", "≥": ">=", "∧": "and", "∨": "or", "¬": "not ", "′": "_prime",
}  # fmt: skip


def product(a: Any, b: Any) -> Any:
    """The sign `·`: of matrices, or with a number."""
    return np.multiply(a, b) if not np.ndim(a) or not np.ndim(b) else np.matmul(a, b)


def array(rows: Any, dtype: Any = None) -> Any:
    """The numbers in brackets as one array; a list of arrays whose shapes differ stays a list."""
    return np.array(rows, dtype) if len({np.shape(row) for row in rows}) < 2 else rows


KNOWN: dict[str, Any] = {
    **{name_of(fun): fun for fun in RULES if isinstance(fun, np.ufunc)},  # those of SciPy too
    **{name: getattr(np.linalg, name) for name in dir(np.linalg) if not name.startswith("_")},
    **{name: getattr(np, name) for name in dir(np) if callable(getattr(np, name)) and not name.startswith("_")},
    **{name_of(fun): fun for fun in RULES if hasattr(fun, "forward")},
    "ln": np.log, "e": np.e, "pi": np.pi, "product_": product, "Ellipsis": ..., "nan": np.nan, "inf": np.inf,
    "one_hot": tg.one_hot, "array": array, "s_": np.s_, "slice": slice, "astype": lambda x, dtype: np.asarray(x, dtype),
}  # fmt: skip


class Signs(ast.NodeTransformer):
    """What Python's own signs mean in a formula."""

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        if isinstance(node.op, ast.MatMult):
            return ast.Call(ast.Name("product_", ast.Load()), [node.left, node.right], [])
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        name = "logical_and" if isinstance(node.op, ast.And) else "logical_or"
        found = node.values[0]
        for one in node.values[1:]:
            found = ast.Call(ast.Name(name, ast.Load()), [found, one], [])
        return found

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            return ast.Call(ast.Name("logical_not", ast.Load()), [node.operand], [])
        return node


def brackets(text: str, arrays: bool) -> str:
    """`[a = b]` as a number, `x[0]` as it is; else an index such as `[0, :]`, or, inside one and with `arrays`, an array."""
    found, at = "", 0
    while at < len(text):
        if text[at] != "[":
            found, at = found + text[at], at + 1
            continue
        depth, end = 1, at + 1
        while depth:
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
        inside = brackets(text[at + 1 : end - 1], True)
        after = found[-1:]
        if after and (after.isalnum() or after in "])_ᵀ²³′}"):
            found += f"[{inside}]"
        elif re.search(r" [=≠<≤>≥∧∨] |¬", text[at + 1 : end - 1]):
            found += f"multiply(1.0, {inside})"
        else:
            whole = "array([{}])" if inside.strip() else "array([], int)"
            found += whole.format(inside) if arrays else f"s_[{inside}]" if inside.strip() else "()"
        at = end
    return found


def computed(formula: str, values: dict[str, Any], arrays: bool = False) -> Any:
    """What a formula says, for these values of its names; `arrays` says that numbers in brackets are one."""
    text = re.sub(r"∂L/∂(\w+)", r"g_\1", formula)
    while "{" in text:
        text, changed = re.subn(r"\{([^{}]*) if ([^{}]*), else ([^{}]*)\}", r"where(\2, \1, \3)", text)
        assert changed, formula
    text = brackets(text, arrays)
    text = re.sub(r"√(\w+)", r"sqrt(\1)", text)
    text = text.replace(" = ", " == ")
    for sign, python in SIGNS.items():
        text = text.replace(sign, python)
    tree = ast.fix_missing_locations(Signs().visit(ast.parse(text.strip(), mode="eval")))
    with np.errstate(all="ignore"):
        return eval(compile(tree, formula, "eval"), {**KNOWN, **values})


def values_of(story: Story) -> dict[str, Any]:
    """Every name that a formula may use, and what it stands for."""
    found: dict[str, Any] = {}
    for value in story.values:
        found[value.label] = value.array
        step = story.step(value.id)
        if step is not None:
            g = step.gradient
            if isinstance(g, list):
                g = [np.zeros_like(y) if one is None else one for one, y in zip(g, value.array, strict=True)]
            found[f"g_{value.label}"] = g
    return found


def check_formulas(story: Story) -> set[tuple[Any, int]]:
    """Compute every formula of a story; the functions and arguments of those computed."""
    values = values_of(story)
    done: set[tuple[Any, int]] = set()
    for step in story.backward:
        for entry in step.sent:
            left, right = entry.formula.split(" = " if " += " not in entry.formula else " += ", 1)
            assert left.startswith("∂L/∂")
            right = re.sub(r", summed over ax[ei]s [\d, ]+|, as float\d+$", "", right)
            here = dict(values)
            for line in entry.where:
                name, meaning = line.split(" = ", 1)
                here[name.replace("′", "_prime")] = computed(meaning, here)
            if "array (" in right:  # of an index too long to be written out
                continue
            found = computed(right, here)
            check_numbers(entry, here)
            assert_close(found, entry.before, f"{story.values[step.value].expression}: {entry.formula} {entry.where}")
            done.add((story.calls[step.value].fun, entry.argument))
    return done


def check_numbers(entry: Contribution, values: dict[str, Any]) -> None:
    """Compute the lines with the numbers put in: the left is the right, and the right is the number in the array."""
    lines = list(zip(entry.places, np.ndindex(entry.before.shape), strict=True)) if entry.places else []
    lines = lines[:: max(1, len(lines) // 3)]
    if entry.numbers is not None:
        at = re.match(r"at \[([\d, ]*)\]: ", entry.numbers)
        place = None if at is None else tuple(int(i) for i in at[1].split(", ") if i)
        lines.append((entry.numbers[at.end() if at else 0 :], place))
    for line, place in lines:
        if "…" in line or "array (" in line:
            continue
        left, right = re.sub(r", (summed over|as float)[^=]*(?==|$)", " ", line).rsplit(" = ", 1)
        expected = entry.array if place is None else entry.before[place]
        assert_close(computed(right, values, True), expected, line, 1e-3)
        # An index; a condition, which rounded numbers may not fulfil.
        looks_like_an_array = re.search(r"scatter\(|index_|[\d)\]]\[| if .* = ", left)
        if not entry.summed and not looks_like_an_array:
            sizes = [float(x) for x in re.findall(r"\d+\.?\d*(?:e[-+]\d+)?", left)]
            rounding = (
                2e-3 * max([1.0, *sizes]) ** 2
            )  # of four digits, where a small number is a difference of large ones
            found = computed(left, values, True)
            np.testing.assert_allclose(found, expected, rtol=1e-2, atol=rounding, err_msg=line)


def assert_close(found: Any, expected: Any, what: str, tolerance: float = 1e-5) -> None:
    if isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, what, tolerance)
    elif expected is not None:
        scale = np.max(np.abs(expected), initial=1e-12, where=np.isfinite(expected))
        found = np.broadcast_to(found, np.shape(expected))
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale, err_msg=what)


# ---------------------------------------------------------------------------------------------------------------------
# The whole table
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=repr)
@settings(max_examples=3)
@given(data=st.data())
def test_every_formula_computes_to_the_gradient_beside_it(row: Row, data: st.DataObject) -> None:
    check_row(row, data)


def check_row(row: Row, data: st.DataObject) -> set[tuple[Any, int]]:
    case = data.draw(my.cases(row, my.shapes(row)))
    inputs = [tg.Tensor(a, requires_grad=True) for a in case.arrays]
    names = {f"x{i}": one for i, one in enumerate(inputs)}
    outputs = [y for y in leaves(row.call(*inputs, **case.options)) if isinstance(y, tg.Tensor) and y.requires_grad]
    if not outputs:
        return set()
    loss = sum((np.sum(y * tg.Tensor(w)) for y, w in zip(outputs, weights(outputs, case.seed), strict=True)), 0.0)
    return check_formulas(record(loss, variables=names))


def has_formula(vjp: Any) -> bool:
    """Not where the gradient stops, or is refused, as there is no closed form."""
    return vjp is not None and "unknown" not in vjp.__code__.co_names


@settings(max_examples=1, derandomize=True, database=None, phases=[Phase.generate])
@given(data=st.data())
def test_no_rule_is_left_out(data: st.DataObject) -> None:
    """The formula of every argument of every rule is among those that the test above computes."""
    done = set().union(*(check_row(row, data) for row in ROWS))
    expected = {(fun, i) for fun, rule in CALCULUS.items() for i, vjp in enumerate(rule.vjps) if has_formula(vjp)}
    assert expected - done == set()
    assert {fun for fun, rule in CALCULUS.items() if rule.each is not None} <= {fun for fun, _ in done}


# Before any test has rules of its own; those of a checkpoint and of a compiled function are whole backward passes.
PROGRAMS = ("tinygrad_mm.compiler", "tinygrad_mm.transforms")
CALCULUS = {
    fun: rule
    for fun, rule in RULES.items()
    if rule.differentiable
    and (getattr(fun, "__module__", None) or "numpy").startswith(("numpy", "scipy", "tinygrad_mm."))
    and not (getattr(fun, "__module__", None) or "").startswith(PROGRAMS)
}


def weights(outputs: list[Any], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.5, 1.5, y.shape).astype(y.dtype) for y in outputs]


# ---------------------------------------------------------------------------------------------------------------------
# As a reader finds them
# ---------------------------------------------------------------------------------------------------------------------


def matrix(*shape: int, seed: int = 0) -> tg.Tensor:
    return tg.Tensor(np.random.default_rng(seed).uniform(0.2, 2, shape), requires_grad=True)


def formulas(y: tg.Tensor, **names: tg.Tensor) -> list[str]:
    story = record(y if y.ndim == 0 else np.sum(np.tanh(y)), variables={**names, "y": y})
    return [entry.formula.split(" = ", 1)[1] for entry in story.step(story.named("y").id).sent]


@pytest.mark.parametrize(
    ("fun", "shapes", "expected"),
    [
        (lambda a, b: a @ b, [(2, 3), (3, 4)], ["∂L/∂y · bᵀ", "aᵀ · ∂L/∂y"]),
        (lambda a, b: a * b, [(2, 3), (2, 3)], ["∂L/∂y ⊙ b", "∂L/∂y ⊙ a"]),
        (lambda a, b: a * b, [(), ()], ["∂L/∂y · b", "∂L/∂y · a"]),
        (lambda a, b: a + b, [(3,), (3,)], ["∂L/∂y", "∂L/∂y"]),
        (lambda a: np.exp(a), [(3,)], ["∂L/∂y ⊙ y"]),
        (lambda a: np.tanh(a), [(3,)], ["∂L/∂y ⊙ (1 - y ⊙ y)"]),
        (lambda a: np.log(a), [(3,)], ["∂L/∂y / a"]),
        (lambda a: np.arcsin(a / 3), [(3,)], ["∂L/∂y / √(1 - v1 ⊙ v1)"]),
        (lambda a: tg.relu(a), [(3,)], ["{0 if a ≤ 0, else ∂L/∂y}"]),
        (lambda a: tg.softmax(a), [(2, 3)], ["y ⊙ (∂L/∂y - Σ(∂L/∂y ⊙ y, axis=-1, keepdims=True))"]),
        (lambda a: np.swapaxes(a, 0, 1), [(2, 3)], ["(∂L/∂y)ᵀ"]),
        (lambda a: a**3, [(3,)], ["∂L/∂y ⊙ (3 · a^(3 - 1))"]),
        (lambda a: a[0], [(2, 3)], ["scatter(∂L/∂y, (2, 3), [0])"]),
    ],
)  # fmt: skip
def test_rules_read_as_in_a_textbook(fun, shapes, expected):
    given = {name: matrix(*shape, seed=i) for i, (name, shape) in enumerate(zip("ab", shapes, strict=False))}
    assert formulas(fun(*given.values()), **given) == expected


def test_cross_entropy_is_softmax_minus_one_hot():
    logits, labels = matrix(4, 3), np.array([0, 2, 1, 1])
    for reduction, divisor in (("mean", 4), ("sum", 1)):
        loss = tg.cross_entropy(logits, labels, reduction=reduction)
        story = record(loss, variables={"logits": logits, "labels": labels, "loss": loss})
        entry = next(e for step in story.backward for e in step.sent if story.values[e.target].label == "logits")
        assert "softmax(logits) - one_hot(labels" in entry.formula
        assert {"softmax(logits)"} <= {operand.text for operand in entry.operands}
        p = np.exp(logits.data) / np.exp(logits.data).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(entry.array, (p - np.eye(3)[labels]) / divisor)


@pytest.mark.parametrize(
    ("fun", "operands"),
    [
        (np.exp, ["∂L/∂y", "y"]),
        (np.tanh, ["∂L/∂y", "y"]),
        (tg.sigmoid, ["∂L/∂y", "y"]),
        (np.log, ["∂L/∂y", "a"]),
        (lambda a: a + np.ones(3), ["∂L/∂y"]),
        (lambda a: a * 2.0, ["∂L/∂y"]),
    ],
)
def test_only_what_a_rule_computes_with_is_shown(fun, operands):
    a = matrix(3)
    y = fun(a)
    story = record(np.sum(np.tanh(y)), variables={"a": a, "y": y})
    (entry,) = story.step(story.named("y").id).sent
    assert [operand.text for operand in entry.operands] == operands
    for operand in entry.operands:
        expected = story.gradient(story.named("y").id) if operand.text == "∂L/∂y" else story.named(operand.text).array
        np.testing.assert_array_equal(operand.array, expected)


def test_numbers_put_in_are_the_numbers():
    a, b = tg.Tensor(0.5, requires_grad=True), tg.Tensor(-2.0, requires_grad=True)
    first, second = record(a * b, variables={"a": a, "b": b}).backward[0].sent
    assert (first.numbers, second.numbers) == ("1 · (-2) = -2", "1 · 0.5 = 0.5")
    assert first.formula == "∂L/∂a = ∂L/∂v1 · b"

    x = tg.Tensor(np.array([[1.0, 2.0]]), requires_grad=True)
    w = tg.Tensor(np.array([[3.0], [-4.0]]), requires_grad=True)
    story = record(np.sum(x @ w), variables={"x": x, "w": w})
    first, second = story.backward[1].sent
    assert first.numbers == "[[1]] · [[3], [-4]]ᵀ = [[3, -4]]"
    assert second.numbers == "[[1, 2]]ᵀ · [[1]] = [[1], [2]]"


@given(st.integers(0, 2**32 - 1))
def test_of_a_long_sum_of_products_the_largest_are_written(seed):
    rng = np.random.default_rng(seed)
    x, w = (tg.Tensor(rng.normal(size=shape).round(2), requires_grad=True) for shape in ((4, 7), (7, 5)))
    x.data[:, ::2] = 0  # most products of a column are nothing
    y = x @ w
    story = record(np.sum(np.tanh(y)), variables={"x": x, "w": w, "y": y})
    g = story.gradient(story.named("y").id)
    for entry in story.step(story.named("y").id).sent:
        i, j = map(int, re.match(r"at \[(\d+), (\d+)\]", entry.numbers).groups())
        left, right = (g[i], w.data.T[:, j]) if entry.argument == 0 else (x.data.T[i], g[:, j])
        text = entry.numbers.split(": ", 1)[1].split(" = ")[0].replace("(", "").replace(")", "")
        written = [tuple(map(float, term.split(" · "))) for term in text.split(" + ") if term != "…"]
        products = np.sort(np.abs(left * right))[::-1][: len(written)]
        np.testing.assert_allclose(
            sorted((abs(a * b) for a, b in written), reverse=True), products, rtol=1e-2, atol=1e-9
        )
        assert np.sum(products) >= 0.5 * np.sum(np.abs(left * right))


def test_a_rule_of_the_users_own_is_shown_by_its_body():
    @primitive
    def cube(x: Any) -> Any:
        return x**3

    def slope(x: Any) -> Any:
        square = x * x
        return 3 * square + 0 * square

    def rule(g: Any, y: Any, x: Any) -> Any:
        if x.ndim > 0:
            return g * 0
        return g * slope(x)

    x = tg.Tensor(2.0, requires_grad=True)
    defvjp(cube, lambda g, y, x: g * 3 * x * x)
    (entry,) = record(cube(x), variables={"x": x}).backward[0].sent
    assert (entry.formula, entry.source) == ("∂L/∂x = ∂L/∂v1 · 3 · x · x", "g * 3 * x * x")

    defvjp(cube, rule)
    (entry,) = record(cube(x), variables={"x": x}).backward[0].sent
    assert entry.formula == "∂L/∂x = ∂L/∂v1 · (3 · square + 0 · square)"
    assert entry.where == ("square = x · x",)
    assert "if x.ndim > 0:" in entry.source

    defvjp(cube, eval("lambda g, y, x: g * 3 * x**2"))  # a rule without a source file
    (entry,) = record(cube(x), variables={"x": x}).backward[0].sent
    assert entry.formula.startswith("∂L/∂x = ")
    np.testing.assert_array_equal(entry.array, 12)


def test_another_rule_for_a_known_function_has_a_formula_of_its_own():
    before = RULES[np.exp].vjps
    try:
        defvjp(np.exp, lambda g, y, x: g * y * 1.5)
        x = tg.Tensor(2.0, requires_grad=True)
        (entry,) = record(np.exp(x), variables={"x": x}).backward[0].sent
        assert entry.formula == "∂L/∂x = ∂L/∂v1 · v1 · 1.5"
    finally:
        RULES[np.exp].vjps = before
