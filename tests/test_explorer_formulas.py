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
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import leaves
from table import ROWS
from table.row import Row

import tinygrad_mm as tg
from tinygrad_mm.explorer import Story, record
from tinygrad_mm.graph import RULES, name_of

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


KNOWN: dict[str, Any] = {
    **{name: getattr(np.linalg, name) for name in dir(np.linalg) if not name.startswith("_")},
    **{name: getattr(np, name) for name in dir(np) if callable(getattr(np, name)) and not name.startswith("_")},
    **{name_of(fun): fun for fun in RULES if hasattr(fun, "forward")},
    "ln": np.log, "e": np.e, "pi": np.pi, "product_": product, "Ellipsis": ..., "nan": np.nan, "inf": np.inf,
    "one_hot": tg.one_hot, "s_": np.s_, "Array": lambda *rows: np.array(rows), "slice": slice,
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


def check_formulas(story: Story) -> int:
    """Compute every formula of a story; the number of those computed."""
    values = values_of(story)
    count = 0
    for step in story.backward:
        for entry in step.sent:
            left, right = entry.formula.split(" = " if " += " not in entry.formula else " += ", 1)
            assert left.startswith("∂L/∂")
            right = re.sub(r", summed over ax[ei]s [\d, ]+|, as float\d+$", "", right)
            here = dict(values)
            for line in entry.where:
                name, meaning = line.split(" = ", 1)
                here[name.replace("′", "_prime")] = computed(meaning, here)
            found = computed(right, here)
            assert_close(found, entry.before, f"{story.values[step.value].expression}: {entry.formula} {entry.where}")
            count += 1
    return count


def assert_close(found: Any, expected: Any, what: str) -> None:
    if isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, what)
    elif expected is not None:
        scale = np.max(np.abs(expected), initial=1e-12, where=np.isfinite(expected))
        found = np.broadcast_to(found, np.shape(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * scale, err_msg=what)


# ---------------------------------------------------------------------------------------------------------------------
# The whole table
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=repr)
@settings(max_examples=5)
@given(data=st.data())
def test_every_formula_computes_to_the_gradient_beside_it(row: Row, data: st.DataObject) -> None:
    case = data.draw(my.cases(row, my.shapes(row)))
    inputs = [tg.Tensor(a, requires_grad=True) for a in case.arrays]
    names = {f"x{i}": one for i, one in enumerate(inputs)}
    outputs = [y for y in leaves(row.call(*inputs, **case.options)) if isinstance(y, tg.Tensor) and y.requires_grad]
    if outputs:
        loss = sum((np.sum(y * tg.Tensor(w)) for y, w in zip(outputs, weights(outputs, case.seed), strict=True)), 0.0)
        check_formulas(record(loss, variables=names))


def weights(outputs: list[Any], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.5, 1.5, y.shape).astype(y.dtype) for y in outputs]
