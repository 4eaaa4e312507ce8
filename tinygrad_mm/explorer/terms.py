"""The parts of a formula, and how they are written.

`⊙` is the product of elements, `·` that of matrices, or one with a number; `ᵀ` exchanges the last two axes;
`[condition]` is 1 where it holds and else 0; `{a if condition, else b}` chooses element by element; `Σ` sums. All bind
as in Python.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.drawing.text import value_text
from tinygrad_mm.graph import name_of
from tinygrad_mm.rules.indexing import Slot, getitem

__all__ = [
    "Names",
    "Term",
    "Words",
    "called",
    "constant",
    "has_arrays",
    "infix",
    "inlined",
    "is_array",
    "is_short",
    "names_in",
    "power",
    "several_of",
    "transpose",
    "value_of",
    "write",
]

MOST_PLACES = 50  # in an array of indices that is written out


@dataclass(frozen=True, eq=False)
class Term:
    """A part of a formula.

    `kind` is "name" (an array that has one: `text`), "constant", "infix" (`text` is the operator), "product" (of
    matrices), "prefix", "power", "transpose", "cases", "call" (of `fun`), "index" or "several" (a tuple). `options` are
    the keyword arguments of a call. `pure` says that a number is written with numbers alone.
    """

    kind: str
    value: Any
    parts: tuple[Term, ...] = ()
    text: str = ""
    fun: Any = None
    options: tuple[tuple[str, Term], ...] = ()
    pure: bool = False

    @property
    def pointwise(self) -> bool:
        """Whether an element of the value depends on nothing but the elements of the parts at the same place."""
        if self.kind == "call":
            return isinstance(self.fun, np.ufunc) and self.fun.signature is None and not self.options
        return self.kind in ("infix", "prefix", "power", "cases", "constant")


Words: TypeAlias = "Callable[[Term], str | None]"  # what to write for a part; None: as it is
Names: TypeAlias = "dict[str, Term]"


def is_array(value: Any) -> bool:
    """Whether a value is an array of numbers, or a number of NumPy's."""
    return isinstance(value, (np.ndarray, np.generic))


def constant(value: Any) -> Term:
    """A value that is written out."""
    if is_array(value):
        return Term("constant", value, text=str(value))
    if isinstance(value, slice):
        return Term("constant", value, text=f"slice({', '.join(map(str, (value.start, value.stop, value.step)))})")
    return Term("constant", value, text=repr(value) if isinstance(value, str) else value_text(value))


def is_short(term: Term) -> bool:
    """Whether a term may as well be written several times."""
    return term.kind in ("name", "constant") or (term.kind in ("transpose", "index") and term.parts[0].kind == "name")


def value_of(term: Term) -> Any:
    return term.value


def several_of(parts: Sequence[Term], as_list: bool = False) -> Term:
    values = [part.value for part in parts]
    return Term("several", values if as_list else tuple(values), tuple(parts))


def has_arrays(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and any(is_array(one) or has_arrays(one) for one in value)


def shortened(term: Term) -> Term:
    """What tells a function how is written as the value that it has: `axis=1`, not `axis=0 + 1`."""
    plain = not is_array(term.value) and not has_arrays(term.value)
    return constant(term.value) if plain and term.kind != "constant" else term


def infix(text: str, value: Any, left: Term, right: Term) -> Term:
    numbers = not np.ndim(left.value) or not np.ndim(right.value)
    pure = left.pure and right.pure
    return Term("infix", value, (left, right), "·" if text == "⊙" and numbers else text, pure=pure)


def power(value: Any, base: Term, exponent: Term) -> Term:
    return Term("power", value, (base, exponent), pure=base.pure and exponent.pure)


def transpose(value: Any, of: Term) -> Term:
    return of.parts[0] if of.kind == "transpose" else Term("transpose", value, (of,))


def _exchanges_last_axes(fun: Any, args: Sequence[Term]) -> bool:
    if fun is np.swapaxes:
        ndim = args[0].value.ndim
        return ndim > 1 and {args[1].value % ndim, args[2].value % ndim} == {ndim - 1, ndim - 2}
    if fun is np.transpose:
        axes = args[1].value if len(args) > 1 else None
        return bool(args[0].value.ndim == 2 and (axes is None or tuple(axes) in ((1, 0), (-1, -2))))
    return bool(fun is getattr(np, "matrix_transpose", None))


def _with_index(args: Sequence[Term], names: Sequence[str]) -> Sequence[Term]:
    """The arguments of a call, where one of them is an index, written as one; arrays have their places in it."""
    if "key" not in names[: len(args)]:
        return args
    place = names.index("key")
    parts = args[place].value if isinstance(args[place].value, tuple) else (args[place].value,)
    inside = [write(args[place + 1 + one.number]) if isinstance(one, Slot) else _part_text(one) for one in parts]
    return [*args[:place], Term("constant", args[place].value, text=f"[{', '.join(inside) or '()'}]")]


def _part_text(part: Any) -> str:
    """A part of an index: a small array written out."""
    small = isinstance(part, np.ndarray) and part.size <= MOST_PLACES
    return str(part.tolist()) if small else value_text(part)


def names_of(fun: Any) -> tuple[str, ...]:
    """The positional parameters of a function that is written in Python."""
    code = getattr(getattr(fun, "forward", fun), "__code__", None)
    return () if code is None else code.co_varnames[: code.co_argcount]


def names_in(term: Term) -> Iterator[str]:
    if term.kind == "name":
        yield term.text
    for part in (*term.parts, *(option for _, option in term.options)):
        yield from names_in(part)


def put_in(term: Term, known: Names) -> Term:
    """A term with others in the places of their names."""
    if term.kind == "name":
        return known.get(term.text, term)
    if not known or not (term.parts or term.options):
        return term
    parts = tuple(put_in(part, known) for part in term.parts)
    options = tuple((name, put_in(option, known)) for name, option in term.options)
    return replace(term, parts=parts, options=options)


def inlined(term: Term, where: Sequence[tuple[str, Term]]) -> tuple[Term, list[tuple[str, Term]]]:
    """The formula in which what is read once stands where it is read."""
    reads = Counter(name for one in (term, *(one for _, one in where)) for name in names_in(one))
    known: Names = {}
    left = []
    for name, one in where:
        one = put_in(one, known)
        if reads[name] > 1:
            left.append((name, one))
        else:
            known[name] = one
    return put_in(term, known), left


# ---------------------------------------------------------------------------------------------------------------------
# How a call is written
# ---------------------------------------------------------------------------------------------------------------------

INFIX: dict[Any, str] = {np.add: "+", np.subtract: "-", np.multiply: "⊙", np.divide: "/"}


def called(fun: Any, value: Any, args: Sequence[Term], options: Mapping[str, Term]) -> Term:
    """A call that gave arrays; where mathematics has signs for it, with these."""
    if fun is np.where and len(args) == 3:
        return Term("cases", value, tuple(args))
    if _exchanges_last_axes(fun, args):
        return transpose(value, args[0])
    if fun is np.transpose and len(args) == 2 and tuple(args[1].value or ()) == tuple(range(args[0].value.ndim)):
        return args[0]
    if fun is np.matmul or (fun is np.dot and all(np.ndim(a.value) == 2 for a in args)):
        return Term("product", value, tuple(args), "·")
    if fun in INFIX and len(args) == 2 and not options:
        return infix(INFIX[fun], value, *args)
    if fun is np.negative and len(args) == 1:
        return Term("prefix", value, tuple(args), "-")
    if fun is np.power and len(args) == 2:
        return power(value, *args)
    if fun is np.square and len(args) == 1:
        return power(value, args[0], constant(2))
    args = _with_index(args, names_of(fun))
    if fun is getitem:
        return Term("index", value, tuple(args[:1]), args[1].text)
    shown_args = tuple(shortened(a) for a in args) if not isinstance(fun, np.ufunc) else tuple(args)
    return Term("call", value, shown_args, fun=fun, options=tuple((n, shortened(a)) for n, a in options.items()))


# ---------------------------------------------------------------------------------------------------------------------
# From terms to text
# ---------------------------------------------------------------------------------------------------------------------

# How tightly a part of a formula binds, as in Python.
OR, AND, NOT, COMPARISON, SUM, PRODUCT, SIGN, POWER, ATOM = range(9)

SUPERSCRIPTS = {2: "²", 3: "³"}
COMPARISONS = ("=", "≠", "<", "≤", ">", "≥")
BINDING = {"∨": OR, "∧": AND, "+": SUM, "-": SUM, **dict.fromkeys(COMPARISONS, COMPARISON)}
WRITTEN: dict[Any, str] = {np.sum: "Σ", np.prod: "Π", np.log: "ln", math.log: "ln", np.absolute: "abs"}
POWERS: dict[Any, str] = {np.exp: "e", np.exp2: "2", math.exp: "e"}
ROOTS = (np.sqrt, math.sqrt)


def write(term: Term, words: Words = lambda term: None) -> str:
    """A term as text; `words` says what to write for a part of it, such as a number for a name.

    >>> write(Term("power", 9.0, (constant(3.0), constant(2))))
    '3.0²'
    """
    return _written(term, words)[0]


def _written(term: Term, words: Words) -> tuple[str, int]:
    """The text of a term, and how tightly it binds."""
    instead = words(term)
    if instead is not None:
        return instead, SIGN if instead.startswith("-") else ATOM
    parts = term.parts
    if term.kind == "name":
        return term.text, POWER if term.text.startswith("∂") else ATOM
    if term.kind == "constant":
        return term.text, SIGN if term.text.startswith("-") else ATOM
    if term.kind in ("infix", "product"):
        level = BINDING.get(term.text, PRODUCT)
        left, right = (_operand(part, words, term.text) for part in parts)
        tighter = level + 1
        if level == COMPARISON:
            return f"{_at_least(left, tighter)} {term.text} {_at_least(right, tighter)}", level
        return f"{_at_least(left, level)} {term.text} {_at_least(right, tighter)}", level
    if term.kind == "prefix":
        inner = _written(parts[0], words) if term.text == "¬" else _operand(parts[0], words, term.text)
        return f"{term.text}{_at_least(inner, SIGN)}", SIGN
    if term.kind == "power":
        base, exponent = (_operand(part, words, "^") for part in parts)
        known = SUPERSCRIPTS.get(parts[1].value) if parts[1].kind == "constant" else None
        raised = known or f"^{_at_least(exponent, ATOM)}"
        return f"{_at_least(base, ATOM)}{raised}", POWER
    if term.kind == "transpose":
        return f"{_at_least(_written(parts[0], words), ATOM)}ᵀ", ATOM
    if term.kind == "cases":
        condition, yes, no = (_written(part, words)[0] for part in parts)
        return f"{{{yes} if {condition}, else {no}}}", ATOM
    if term.kind == "index":
        return f"{_at_least(_written(parts[0], words), ATOM)}{term.text}", ATOM
    if term.kind == "several":
        inside = ", ".join(_written(part, words)[0] for part in parts)
        if isinstance(term.value, list):
            return f"[{inside}]", ATOM
        return f"({inside}{',' if len(parts) == 1 else ''})", ATOM
    return _written_call(term, words)


def _written_call(term: Term, words: Words) -> tuple[str, int]:
    """A call; of the functions that have one, in the way of mathematics."""
    if term.fun in POWERS and len(term.parts) == 1 and not term.options:
        return f"{POWERS[term.fun]}^{_at_least(_written(term.parts[0], words), ATOM)}", POWER
    if term.fun in ROOTS and len(term.parts) == 1 and not term.options:
        text, level = _written(term.parts[0], words)
        return f"√{text}" if level >= ATOM and text.isalnum() else f"√({text})", ATOM
    inside = [_written(part, words)[0] for part in term.parts]
    inside += [f"{name}={_written(option, words)[0]}" for name, option in term.options]
    name = WRITTEN.get(term.fun) or name_of(term.fun)
    return f"{name if name.isidentifier() or name in WRITTEN.values() else 'rule'}({', '.join(inside)})", ATOM


def _operand(term: Term, words: Words, around: str) -> tuple[str, int]:
    """A part that is computed with: a condition counts as 1 or 0 there."""
    text, level = _written(term, words)
    if getattr(term.value, "dtype", None) == np.bool_ and around not in ("∧", "∨", *COMPARISONS) and level < ATOM:
        return f"[{text}]", ATOM
    return text, level


def _at_least(written: tuple[str, int], level: int) -> str:
    text, binds = written
    return text if binds >= level else f"({text})"
