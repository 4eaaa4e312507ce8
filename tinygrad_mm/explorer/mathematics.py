"""What a rule says: as mathematics, with the numbers put in, and by its shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygrad_mm.explorer.calls import Call, Ref
from tinygrad_mm.explorer.formula import Formula, formula_of
from tinygrad_mm.explorer.tape import Argument, Contribution, Operand, Value
from tinygrad_mm.explorer.terms import Term, constant, write
from tinygrad_mm.graph import RULES, name_of, select
from tinygrad_mm.rules.indexing import getitem
from tinygrad_mm.rules.shape import join

__all__ = ["Told", "array_text", "at_place", "expression", "number_text", "of_elements", "operation_name", "tell"]

SMALL = 6  # elements of an array whose numbers are written out in a formula
LONGEST = 160  # characters of a formula with numbers
MOST_PLACES = 80  # elements of a contribution of which each has its numbers written out
MOST_PRODUCTS = 4  # of a sum of products
RESHAPED = (np.reshape, np.expand_dims, np.squeeze, np.broadcast_to)  # the same numbers in another shape
# fmt: off
INFIX: dict[Callable[..., Any], str] = {
    np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/", np.power: "**", np.matmul: "@",
    np.remainder: "%", np.floor_divide: "//", np.greater: ">", np.less: "<", np.greater_equal: ">=",
    np.less_equal: "<=", np.equal: "==", np.not_equal: "!=",
}
# fmt: on


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


@dataclass(frozen=True)
class Told:
    """What there is to say of a contribution: see `Contribution`."""

    formula: str
    where: tuple[str, ...] = ()
    numbers: str | None = None
    shapes: str = ""
    operands: tuple[Operand, ...] = ()
    places: tuple[str, ...] = ()


def tell(
    call: Call,
    result: Value,
    target: Value,
    entry: Contribution,
    gradient: Any,
    arrays: Sequence[Any],
    several: bool,
    every_place: bool = True,
) -> Told:
    """The rule of a call as mathematics, with numbers (or None), and what the shapes have to do with it.

    `several` says that the target's gradient has other contributions, too, `every_place` that the numbers are to be put
    in at each place of a small array.
    """
    formula = _formula(call, result, entry, gradient, arrays)
    output = "" if entry.output is None else f"[{entry.output}]"
    left = f"∂L/∂{target.label}{output} {'+=' if several else '='} "
    where = tuple(f"{name} = {_definition(term)}" for name, term in formula.where)
    return Told(
        left + write(formula.term) + _afterwards(entry),
        where,
        _numbers(formula.term, entry),
        _shapes(call, entry, gradient, arrays),
        tuple(_operands(formula.term)),
        tuple(_places(formula.term, entry)) if every_place else (),
    )


def _definition(term: Term) -> str:
    """What a name stands for; a condition in brackets."""
    text = write(term)
    return f"[{text}]" if getattr(term.value, "dtype", None) == np.bool_ and term.kind == "infix" else text


def _formula(call: Call, result: Value, entry: Contribution, gradient: Any, arrays: Sequence[Any]) -> Formula:
    """The rule, with names for the arrays of this call."""
    rule = RULES[call.fun]
    y = result.array
    if isinstance(gradient, list):
        gradient = [np.zeros_like(one) if g is None else g for g, one in zip(gradient, y, strict=True)]
    given = [_named(f"∂L/∂{result.label}", gradient), _named(result.label, y)]
    for a, array, argument in zip(call.args, arrays, result.arguments, strict=False):
        given.append(_named(argument.text, array) if isinstance(a, Ref) else constant(a))
    if rule.each is not None:
        return formula_of(rule.each, constant(entry.argument), *given, **call.kwargs)
    vjp = rule.vjps[entry.argument]
    assert vjp is not None
    return formula_of(vjp, *given, **call.kwargs)


def _named(name: str, array: Any) -> Term:
    """An array, or several, with a name."""
    if isinstance(array, (tuple, list)):
        return Term("several", array, tuple(Term("name", one, text=f"{name}[{i}]") for i, one in enumerate(array)))
    return Term("name", array, text=name)


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


def _is_result(term: Term) -> bool:
    """Whether a part of a formula is best shown by its value: a call that is more than a function of elements."""
    computed = term.kind in ("call", "index") and not term.pointwise and isinstance(term.value, np.ndarray)
    return computed and term.fun not in RESHAPED


def _operands(term: Term) -> Iterator[Operand]:
    """The arrays that a formula computes with, each once, in order: those with names, and results of functions."""
    seen: set[str] = set()
    waiting = [*term.parts, *(option for _, option in term.options)] or [term]
    waiting.reverse()
    while waiting:
        one = waiting.pop()
        if one.kind == "name" or _is_result(one):
            text = write(one)
            if text not in seen:
                seen.add(text)
                yield Operand(text, one.value)
        else:
            waiting += reversed([*one.parts, *(option for _, option in one.options)])


def _numbers(term: Term, entry: Contribution) -> str | None:
    """The formula with the numbers put in: whole small arrays, or one element of larger ones."""
    before = entry.before
    if not isinstance(before, np.ndarray) or not before.size:
        return None
    if term.kind == "name":  # handed on as it is, perhaps summed
        small = before.size <= SMALL and entry.summed
        return f"{array_text(before)}{_afterwards(entry)} = {array_text(entry.array)}" if small else None
    if all(np.size(a.array) <= SMALL for a in _operands(term)) and before.size <= SMALL:
        text = f"{write(term, lambda one: _whole(one, term))} = {array_text(before)}"
        if entry.summed:
            text += f"{_afterwards(entry)} = {array_text(entry.array)}"
        if len(text) <= LONGEST:
            return text
    if term.kind == "product":
        return _one_product(term, before)
    if _works_at_places(term, before):
        place = _largest(before)
        return f"at {list(place)}: {_at(of_elements(term), before, place)}"
    return None


def _places(term: Term, entry: Contribution) -> Iterator[str]:
    """The formula with the numbers at each place of a small contribution, where it works element by element."""
    before = entry.before
    if not isinstance(before, np.ndarray) or before.size > MOST_PLACES or not before.ndim or entry.summed:
        return
    if term.kind != "name" and _works_at_places(term, before):
        single = of_elements(term)
        yield from (_at(single, before, place) for place in np.ndindex(before.shape))


def _whole(term: Term, whole: Term) -> str | None:
    if term.kind == "name" or (_is_result(term) and term is not whole):
        return _wrapped(array_text(term.value))
    return None


def _works_at_places(term: Term, before: Any) -> bool:
    """Whether an element of the contribution can be told by the elements at its place."""
    return term.pointwise and term.kind != "constant" and np.shape(term.value) == before.shape


def _at(term: Term, before: Any, place: tuple[int, ...]) -> str:
    """The formula at one place, with what it comes to."""
    return f"{at_place(term, place, before.shape)} = {number_text(before[place])}"


def at_place(term: Term, place: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """A formula `of_elements` with the numbers at one place; constants that have names are numbers, too."""

    def words(one: Term) -> str | None:
        if one.kind == "constant" and one.text.isidentifier() and isinstance(one.value, (int, float)):
            return _wrapped(number_text(one.value))
        if one.pointwise or one.kind == "several" or not isinstance(one.value, (np.ndarray, np.generic)):
            return None
        return _wrapped(number_text(np.broadcast_to(one.value, shape)[place]))

    return write(term, words)


def of_elements(term: Term) -> Term:
    """The same formula for single elements, where every product is a plain one."""
    if not term.pointwise:
        return term
    text = "·" if term.kind == "infix" and term.text == "⊙" else term.text
    return replace(term, text=text, parts=tuple(map(of_elements, term.parts)))


def _one_product(term: Term, before: Any) -> str | None:
    """One element of a product of two matrices: a row times a column, of which the largest products are written."""
    a, b = (part.value for part in term.parts)
    if np.ndim(a) != 2 or np.ndim(b) != 2 or before.shape != np.shape(term.value) or not a.shape[1]:
        return None
    i, j = _largest(before)
    left, right = a[i], b[:, j]
    sizes = np.nan_to_num(np.abs(left.astype(np.float64) * right), nan=np.inf)
    chosen = sorted(np.argsort(-sizes, kind="stable")[:MOST_PRODUCTS])
    products = [f"{_wrapped(number_text(left[k]))} · {_wrapped(number_text(right[k]))}" for k in chosen]
    if len(left) > len(products):
        products.append("…")
    terms = f" ({len(left)} terms, the largest written)" if len(left) > MOST_PRODUCTS else ""
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


def _shapes(call: Call, entry: Contribution, gradient: Any, arrays: Sequence[Any]) -> str:
    """From the shape of the result's gradient to that of the argument's."""
    if not isinstance(entry.before, np.ndarray):
        return ""
    if call.fun is np.matmul and all(np.ndim(a) > 1 for a in arrays):
        return _product_shapes(entry, gradient, arrays)
    start = "" if isinstance(gradient, list) else f"{gradient.shape} → "
    text = f"{start}{entry.before.shape}"
    return f"{text} → {entry.array.shape}" if entry.summed else text


def _product_shapes(entry: Contribution, gradient: Any, arrays: Sequence[Any]) -> str:
    """The product that gives the gradient of a factor, by the shapes of its own factors."""
    a, b = (np.shape(x) for x in arrays)
    g = gradient.shape
    if entry.argument == 0:
        text = f"{g} @ {b}ᵀ = {g} @ {(*b[:-2], b[-1], b[-2])} → {entry.before.shape}"
    elif len(b) == 2 and len(a) > 2:
        rows = math.prod(a[:-1])
        text = f"({rows}, {a[-1]})ᵀ @ ({rows}, {b[-1]}) → {entry.before.shape}, all rows of the stack together"
    else:
        text = f"{a}ᵀ @ {g} = {(*a[:-2], a[-1], a[-2])} @ {g} → {entry.before.shape}"
    return f"{text} → {entry.array.shape}" if entry.summed else text
