"""What a rule says: as mathematics, with the numbers put in, and by its shapes."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_mm.drawing.text import value_text
from tinygrad_mm.explorer.calls import Call
from tinygrad_mm.explorer.formulas import ELEMENTWISE, SENTENCES
from tinygrad_mm.functional import gelu
from tinygrad_mm.graph import RULES, name_of, select
from tinygrad_mm.rules.indexing import getitem
from tinygrad_mm.rules.products import einsum
from tinygrad_mm.rules.shape import join

if TYPE_CHECKING:
    from tinygrad_mm.explorer.tape import Argument, Contribution, Value

__all__ = ["Telling", "array_text", "body_of", "expression", "help_of", "number_text", "operation_name", "tell"]

SMALL = 6  # elements of an array whose numbers are written out in a formula
PLACE = re.compile(r"\{([^{}]+)\}")  # in a template
LONGEST = 160  # characters of a formula with numbers
# fmt: off
INFIX: dict[Callable[..., Any], str] = {
    np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/", np.power: "**", np.matmul: "@",
    np.remainder: "%", np.floor_divide: "//", np.greater: ">", np.less: "<", np.greater_equal: ">=",
    np.less_equal: "<=", np.equal: "==", np.not_equal: "!=",
}
# fmt: on


@dataclass(frozen=True)
class Telling:
    """All that is known about one contribution: `source` is its rule, `several` says that its target gets others."""

    call: Call
    result: Value
    target: Value
    entry: Contribution
    gradient: Any
    arrays: Sequence[Any]
    several: bool
    source: str


def operation_name(fun: Callable[..., Any]) -> str:
    """What a reader calls a function.

    >>> operation_name(np.matmul), operation_name(join)
    ('matmul', 'concatenate')
    """
    return "concatenate" if fun is join else name_of(fun)


def expression(fun: Callable[..., Any], arguments: Sequence[Argument]) -> str:
    """A call as one would write it: `x @ w`, `x[0]`, `sum(h, axis=0)`."""
    texts = [a.text for a in arguments if not a.text.startswith("<")]  # objects have no text of their own
    if fun in INFIX and len(texts) == 2:
        return f"{texts[0]} {INFIX[fun]} {texts[1]}"
    if fun is getitem:
        return f"{texts[0]}{texts[1]}"
    if fun is select:
        return f"{texts[0]}[{texts[1].rsplit('=', 1)[-1]}]"
    if fun is np.negative:
        return f"-{texts[0]}"
    return f"{operation_name(fun)}({', '.join(texts)})"


def tell(telling: Telling) -> tuple[str, str | None, str]:
    """The rule as mathematics, with numbers (or None), and what the shapes have to do with it."""
    template = _template(telling)
    result = "" if telling.entry.output is None else f"[{telling.entry.output}]"
    left = f"∂L/∂{telling.target.label}{result} {'+=' if telling.several else '='} "
    scalar = _all_numbers(telling)
    right = body_of(telling.source) if template is None else _filled(template, _labels(telling), scalar)
    formula = left + right + _afterwards(telling.entry)
    return formula, _numbers(telling, template, scalar), _shapes(telling)


@functools.lru_cache
def body_of(source: str) -> str:
    """The expression of a lambda without its head; any other text as it is."""
    try:
        tree = ast.parse(source, mode="eval").body
    except SyntaxError:  # of a lambda without a source file only `<lambda>` is known
        return source
    return ast.get_source_segment(source, tree.body) or source if isinstance(tree, ast.Lambda) else source


def help_of(rule: Callable[..., Any] | None, source: str) -> str:
    """Where a rule only calls a helper, what the helper's docstring says first; else "".

    >>> from tinygrad_mm.graph import RULES
    >>> help_of(RULES[np.outer].vjps[0], "lambda g, y, a, b: _outer_left(g, a, b)")
    '`outer`: all elements of a times all elements of b.'
    """
    called = re.match(r"\w+(?=\(|$)", body_of(source))
    helper = getattr(rule, "__globals__", {}).get(called[0]) if called else None
    paragraph = (inspect.getdoc(helper) or "").split("\n\n", 1)[0] if inspect.isfunction(helper) else ""
    return " ".join(paragraph.split())


# ---------------------------------------------------------------------------------------------------------------------
# Formulas
# ---------------------------------------------------------------------------------------------------------------------


def _template(telling: Telling) -> str | None:
    """The formula of the rule with places for what stands in it, or None."""
    fun, i = telling.call.fun, telling.entry.argument
    if not RULES[fun].fresh:  # a rule of the user's, which may say something else
        return None
    if fun is select or (fun in (np.sum, np.mean) and _counts(telling).get("count") == "1"):
        return "{g}"
    if fun is np.matmul:
        return ("{g} · {b}ᵀ", "{a}ᵀ · {g}")[i]
    if fun is np.transpose:
        return "{g}ᵀ" if np.ndim(telling.arrays[0]) == 2 else "{g} with the axes put back"
    if name_of(fun) == "cross_entropy" and fun.__module__ == "tinygrad_mm.functional.losses":
        return _cross_entropy(telling)
    if fun is gelu and telling.call.kwargs.get("approximate", "none") != "none":
        return None
    if fun is einsum:
        return _einsum(telling)
    if fun is np.power and i == 0 and isinstance(telling.call.args[1], (int, float)):
        b = telling.call.args[1]
        return {2: "{g} ⊙ 2 · {a}", 3: "{g} ⊙ 3 · {a}²", 0.5: "{g} / (2 · {y})", -1: "-{g} / {a}²"}.get(
            b, f"{{g}} ⊙ {number_text(b)} · {{a}}^{_wrapped(number_text(b - 1))}"
        )
    templates = ELEMENTWISE.get(fun) or SENTENCES.get(fun) or ()
    if RULES[fun].each is not None:
        return templates[0] if templates else None
    return templates[i] if i < len(templates) else None


def _cross_entropy(telling: Telling) -> str:
    """The mean divides by the number of examples; the losses of single examples have a gradient each."""
    text = "{g} · (softmax({logits}) - one_hot({labels}))"
    averaged = telling.call.kwargs.get("reduction", "mean") == "mean"
    return f"{text} / {np.size(telling.arrays[1])}" if averaged else text


def _einsum(telling: Telling) -> str | None:
    """For the usual case: the output's letters and this operand's exchange their places."""
    subscripts = str(telling.call.kwargs.get("subscripts", "")).replace(" ", "")
    match = re.fullmatch(r"([a-zA-Z,]+)->([a-zA-Z]*)", subscripts)
    if match is None:
        return None
    terms, output, i = match[1].split(","), match[2], telling.entry.argument
    others = [term for k, term in enumerate(terms) if k != i]
    known = set(output).union(*others)
    if any(len(set(t)) < len(t) for t in (*terms, output)) or not set(terms[i]) <= known:
        return None
    operands = ", ".join(["{g}", *(f"{{#{k}}}" for k in range(len(terms)) if k != i)])
    return f'einsum("{",".join([output, *others])}->{terms[i]}", {operands})'


def _labels(telling: Telling) -> dict[str, str]:
    """What to write in each place of a formula."""
    found = {**_options(telling), **_counts(telling)}
    names = RULES[telling.call.fun].names if RULES[telling.call.fun].each is None else ()
    for i, a in enumerate(telling.result.arguments[: len(telling.call.args)]):
        if i < len(names):
            found[names[i]] = a.text
        found[f"#{i}"] = a.text
    return {**found, "g": f"∂L/∂{telling.result.label}", "y": telling.result.label}


def _options(telling: Telling) -> dict[str, str]:
    """The options of the call as text: defaults of the rule, then what the call says."""
    rule = RULES[telling.call.fun]
    given = rule.each if rule.each is not None else rule.vjps[telling.entry.argument]
    found: dict[str, Any] = {}
    if given is not None and getattr(given, "__code__", None) is not None:
        parameters = inspect.signature(given).parameters.values()
        found = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: value_text(value) for name, value in {**found, **telling.call.kwargs}.items()}


def _counts(telling: Telling) -> dict[str, str]:
    """How many elements a reduction takes together."""
    if isinstance(telling.result.array, tuple) or not telling.arrays:
        return {}
    count = math.prod(np.shape(telling.arrays[0])) // max(telling.result.array.size, 1)
    ddof = telling.call.kwargs.get("ddof", 0)
    return {"count": str(count), "freedom": value_text(count - ddof) if isinstance(ddof, (int, float)) else ""}


def _filled(template: str, words: dict[str, str], scalar: bool = False) -> str:
    """A template with its places filled; between numbers every product is a plain one."""
    if scalar:
        template = template.replace(" ⊙ ", " · ")
    return PLACE.sub(lambda match: words.get(match[1], match[1]), template)


def _all_numbers(telling: Telling) -> bool:
    """Whether everything that the rule computes with is a single number."""
    arrays = [*telling.arrays, telling.result.array]
    return all(not isinstance(a, tuple) and np.ndim(a) == 0 for a in arrays if isinstance(a, (np.ndarray, tuple)))


def _afterwards(entry: Contribution) -> str:
    text = ""
    if entry.summed:
        text += f", summed over {'axes' if len(entry.summed) > 1 else 'axis'} {', '.join(map(str, entry.summed))}"
    if entry.cast is not None:
        text += f", as {entry.array.dtype}"
    return text


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


def _numbers(telling: Telling, template: str | None, scalar: bool) -> str | None:
    """The formula with the numbers put in: whole small arrays, or one element of larger ones."""
    entry, fun = telling.entry, telling.call.fun
    known = fun in ELEMENTWISE or fun in (np.matmul, np.dot)
    if template is None or not known or not isinstance(entry.before, np.ndarray) or not entry.before.size:
        return None
    if template == "{g}":  # handed on as it is, perhaps summed
        small = entry.before.size <= SMALL and entry.summed
        return f"{array_text(entry.before)}{_afterwards(entry)} = {array_text(entry.array)}" if small else None
    arrays = {"g": telling.gradient, "y": telling.result.array}
    for i, a in enumerate(telling.arrays):
        if i < len(RULES[fun].names):
            arrays[RULES[fun].names[i]] = a
    shown = {name: arrays[name] for name in PLACE.findall(template) if name in arrays}
    if not all(isinstance(a, (np.ndarray, int, float)) for a in shown.values()):
        return None
    options = _options(telling)
    if all(np.size(a) <= SMALL for a in (*shown.values(), entry.before)):
        words = {**options, **{name: _wrapped(array_text(a)) for name, a in shown.items()}}
        text = f"{_filled(template, words, scalar)} = {array_text(entry.before)}"
        if entry.summed:
            text += f"{_afterwards(entry)} = {array_text(entry.array)}"
        if len(text) <= LONGEST:
            return text
    if fun in ELEMENTWISE:
        return _one_element(telling, template, shown, options)
    return _one_product(telling)


def _one_element(telling: Telling, template: str, shown: dict[str, Any], options: dict[str, str]) -> str:
    """What happens at one element of arrays that work element by element: the one with the largest contribution."""
    before = telling.entry.before
    whole = np.broadcast_shapes(before.shape, *(np.shape(a) for a in shown.values()))
    place = _largest(np.broadcast_to(before, whole))
    words = {name: _wrapped(number_text(np.broadcast_to(a, whole)[place])) for name, a in shown.items()}
    value = number_text(np.broadcast_to(before, whole)[place])
    return f"at {list(place)}: {_filled(template, {**options, **words}, True)} = {value}"


def _one_product(telling: Telling) -> str | None:
    """One element of the gradient of a factor in a product of two matrices: a row times a column."""
    a, b = telling.arrays[:2]
    g, before = telling.gradient, telling.entry.before
    if np.ndim(a) != 2 or np.ndim(b) != 2 or not g.size:
        return None
    i, j = _largest(before)
    left, right = (g[i], b[j]) if telling.entry.argument == 0 else (a[:, i], g[:, j])
    products = [
        f"{_wrapped(number_text(x))} · {_wrapped(number_text(y))}" for x, y in zip(left[:2], right, strict=False)
    ]
    if len(left) > 2:
        products.append("…")
    terms = f" ({len(left)} terms)" if len(left) > 2 else ""
    return f"at {[i, j]}: {' + '.join(products)} = {number_text(before[i, j])}{terms}"


def _largest(array: Any) -> tuple[int, ...]:
    """The place of the largest element, by size."""
    sizes = np.nan_to_num(np.abs(array.astype(np.float64)), nan=-1.0)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(sizes)), array.shape))


def number_text(value: Any) -> str:
    """A number with four significant digits.

    >>> number_text(0.5), number_text(np.float32(1 / 3)), number_text(-2.0), number_text(3), number_text(True)
    ('0.5', '0.3333', '-2', '3', 'True')
    """
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    return f"{value or 0.0:.4g}" if isinstance(value, float) else str(value)  # a negative zero is written as zero


def array_text(array: Any) -> str:
    """A small array on one line.

    >>> array_text(np.array([[1.0, 2.5], [3.0, -4.0]]))
    '[[1, 2.5], [3, -4]]'
    """
    if np.ndim(array) == 0:
        return number_text(array)
    return f"[{', '.join(map(array_text, array))}]"


def _wrapped(text: str) -> str:
    """A number as it can stand in any place of a formula."""
    return f"({text})" if text.startswith("-") else text


# ---------------------------------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------------------------------


def _shapes(telling: Telling) -> str:
    """From the shape of the result's gradient to that of the argument's."""
    entry = telling.entry
    if not isinstance(entry.before, np.ndarray):
        return ""
    if telling.call.fun is np.matmul and all(np.ndim(a) > 1 for a in telling.arrays):
        return _product_shapes(telling)
    start = "" if isinstance(telling.gradient, list) else f"{telling.gradient.shape} → "
    text = f"{start}{entry.before.shape}"
    return f"{text} → {entry.array.shape}" if entry.summed else text


def _product_shapes(telling: Telling) -> str:
    """The product that gives the gradient of a factor, by the shapes of its own factors."""
    a, b = (np.shape(x) for x in telling.arrays)
    g, entry = telling.gradient.shape, telling.entry
    if entry.argument == 0:
        text = f"{g} @ {b}ᵀ = {g} @ {(*b[:-2], b[-1], b[-2])} → {entry.before.shape}"
    elif len(b) == 2 and len(a) > 2:
        rows = math.prod(a[:-1])
        text = f"({rows}, {a[-1]})ᵀ @ ({rows}, {b[-1]}) → {entry.before.shape}, all rows of the stack together"
    else:
        text = f"{a}ᵀ @ {g} = {(*a[:-2], a[-1], a[-2])} @ {g} → {entry.before.shape}"
    return f"{text} → {entry.array.shape}" if entry.summed else text
