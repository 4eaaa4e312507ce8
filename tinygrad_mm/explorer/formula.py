"""A rule as mathematics, made from the rule's own syntax tree.

The tree is run on the arrays of one recorded call, and each part of it becomes a `Term`: how it is written, its value,
and its own parts. What a rule decides by shapes and options (`if axis is None`) is decided, what it computes from these
is a number, and helpers are followed into their bodies. So a formula cannot disagree with the source: it is the source.

`⊙` is the product of elements, `·` that of matrices, or one with a number; `ᵀ` exchanges the last two axes;
`[condition]` is 1 where it holds and else 0; `{a if condition, else b}` chooses element by element; `Σ` sums. All bind
as in Python.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.drawing.text import index_text, value_text
from tinygrad_mm.graph import RULES, name_of
from tinygrad_mm.rules.indexing import Slot, getitem
from tinygrad_mm.rules.shown import Shown, shown

__all__ = ["Formula", "Term", "Words", "constant", "formula_of", "is_array", "write"]

# How tightly a part of a formula binds, as in Python.
OR, AND, NOT, COMPARISON, SUM, PRODUCT, SIGN, POWER, ATOM = range(9)

DEEPEST = 8  # helpers inside each other
MOST_PLACES = 50  # in an array of indices that is written out
MOST_TURNS = 16  # of a loop that is written out


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


@dataclass
class Formula:
    """A rule as a term, and what it computes before, by the names that the term has for it."""

    term: Term
    where: list[tuple[str, Term]] = field(default_factory=list)


Names: TypeAlias = "dict[str, Term]"
Words: TypeAlias = "Callable[[Term], str | None]"  # what to write for a part; None: as it is


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


def formula_of(rule: Callable[..., Any], *given: Term, **options: Any) -> Formula:
    """The mathematics of `rule(*given, **options)`; a function without source is a call of itself.

    >>> g, y = Term("name", np.ones(2), text="g"), Term("name", np.ones(2), text="y")
    >>> write(formula_of(lambda g, y: g * (1 - y * y), g, y).term)
    'g ⊙ (1 - y ⊙ y)'
    """
    with np.errstate(all="ignore"):
        try:
            text = _text_of(rule)
            signature = inspect.signature(rule)
            reader = _Reader(text)
            term = reader.run(text.body, _bound(signature, given, options))
            if term is not None:
                return _inlined(term, reader.where)
        except _UnreadableError:
            pass
        values = [_value(a) for a in given]
        call = Term("call", rule(*values, **options), given, fun=rule, options=_constants(options))
    return Formula(call)


def _constants(options: Mapping[str, Any]) -> tuple[tuple[str, Term], ...]:
    return tuple((name, constant(value)) for name, value in options.items())


def _bound(signature: inspect.Signature, given: Sequence[Term], options: Mapping[str, Any]) -> Names:
    """What each parameter of a function stands for."""
    bound = signature.bind(*given, **{name: constant(value) for name, value in options.items()})
    found: Names = {}
    for name, parameter in signature.parameters.items():
        value = bound.arguments.get(name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            found[name] = _several(value or ())
        elif parameter.kind is parameter.VAR_KEYWORD:
            found[name] = constant({key: term.value for key, term in (value or {}).items()})
        else:
            found[name] = constant(parameter.default) if value is None else value
    return found


@functools.lru_cache(256)
def _text_of(function: Callable[..., Any]) -> Shown:
    return shown(function)


def _inlined(term: Term, where: Sequence[tuple[str, Term]]) -> Formula:
    """The formula in which what is read once stands where it is read."""
    reads = Counter(name for one in (term, *(one for _, one in where)) for name in _names(one))
    known: Names = {}
    left = []
    for name, one in where:
        one = _put_in(one, known)
        if reads[name] > 1:
            left.append((name, one))
        else:
            known[name] = one
    return Formula(_put_in(term, known), left)


def _names(term: Term) -> Iterator[str]:
    if term.kind == "name":
        yield term.text
    for part in (*term.parts, *(option for _, option in term.options)):
        yield from _names(part)


def _put_in(term: Term, known: Names) -> Term:
    """A term with others in the places of their names."""
    if term.kind == "name":
        return known.get(term.text, term)
    if not known or not (term.parts or term.options):
        return term
    parts = tuple(_put_in(part, known) for part in term.parts)
    options = tuple((name, _put_in(option, known)) for name, option in term.options)
    return replace(term, parts=parts, options=options)


class _UnreadableError(Exception):
    """A statement that is no mathematics: then the function that it stands in is written as a call."""


# ---------------------------------------------------------------------------------------------------------------------
# From a syntax tree to terms
# ---------------------------------------------------------------------------------------------------------------------

# fmt: off
OPERATORS: dict[Any, tuple[Callable[..., Any], str]] = {
    ast.Add: (operator.add, "+"), ast.Sub: (operator.sub, "-"), ast.Mult: (operator.mul, "⊙"),
    ast.Div: (operator.truediv, "/"), ast.FloorDiv: (operator.floordiv, "//"), ast.Mod: (operator.mod, "%"),
    ast.Pow: (operator.pow, "^"), ast.MatMult: (operator.matmul, "·"), ast.BitAnd: (operator.and_, "∧"),
    ast.BitOr: (operator.or_, "∨"), ast.Eq: (operator.eq, "="), ast.NotEq: (operator.ne, "≠"),
    ast.Lt: (operator.lt, "<"), ast.LtE: (operator.le, "≤"), ast.Gt: (operator.gt, ">"), ast.GtE: (operator.ge, "≥"),
    ast.USub: (operator.neg, "-"), ast.UAdd: (operator.pos, "+"), ast.Invert: (operator.invert, "¬"),
    ast.Not: (operator.not_, "¬"), ast.Is: (operator.is_, ""), ast.IsNot: (operator.is_not, ""),
    ast.In: (lambda a, b: a in b, ""), ast.NotIn: (lambda a, b: a not in b, ""),
    ast.BitXor: (operator.xor, ""), ast.LShift: (operator.lshift, ""), ast.RShift: (operator.rshift, ""),
}
# fmt: on
INFIX: dict[Any, str] = {np.add: "+", np.subtract: "-", np.multiply: "⊙", np.divide: "/"}


class _Reader:
    """Runs a function on terms."""

    def __init__(self, text: Shown) -> None:
        self.text = text
        self.where: list[tuple[str, Term]] = []
        self.taken: set[str] = set()
        self.inside = 0

    # -- statements

    def run(self, body: Sequence[ast.stmt], names: Names) -> Term | None:
        """What a body returns; None where it ends without."""
        self.taken |= {term.text for term in names.values() if term.kind == "name"}
        reads = Counter(n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name) and type(n.ctx) is ast.Load)
        for statement in body:
            if isinstance(statement, ast.Return):
                return self.term(statement.value, names) if statement.value else constant(None)
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                self.assign(statement.targets[0], self.term(statement.value, names), names, reads)
            elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
                left = names.get(statement.target.id)
                if left is None:
                    raise _UnreadableError
                found = self.infix(statement.op, left, self.term(statement.value, names))
                self.assign(statement.target, found, names, reads)
            elif isinstance(statement, ast.If):
                branch = statement.body if self.holds(statement.test, names) else statement.orelse
                found_there = self.run(branch, names) if branch else None
                if found_there is not None:
                    return found_there
            elif isinstance(statement, ast.For) and not statement.orelse:
                found_there = self.loop(statement, names, reads)
                if found_there is not None:
                    return found_there
            elif not isinstance(statement, (ast.Pass, ast.Assert)) and not _is_text(statement):
                raise _UnreadableError
        return None

    def loop(self, statement: ast.For, names: Names, reads: Counter[str]) -> Term | None:
        turns = self.several(self.term(statement.iter, names))
        if len(turns) > MOST_TURNS:
            raise _UnreadableError
        for turn in turns:
            self.assign(statement.target, turn, names, reads)
            found = self.run(statement.body, names)
            if found is not None:
                return found
        return None

    def assign(self, target: ast.expr, term: Term, names: Names, reads: Counter[str]) -> None:
        """Give a name to a term. What is read once, or is short, stands for itself wherever it is read."""
        if isinstance(target, (ast.Tuple, ast.List)):
            parts = self.several(term)
            if len(parts) != len(target.elts) or any(isinstance(one, ast.Starred) for one in target.elts):
                raise _UnreadableError
            for one, part in zip(target.elts, parts, strict=True):
                self.assign(one, part, names, reads)
        elif isinstance(target, ast.Name):
            names[target.id] = self.named(target.id, term) if reads[target.id] > 1 else term
        else:
            raise _UnreadableError

    def named(self, name: str, term: Term) -> Term:
        """A name for a longer term, which no array of the call has."""
        if not is_array(term.value) or _is_short(term):
            return term
        while name in self.taken:
            name += "′"
        self.taken.add(name)
        self.where.append((name, term))
        return Term("name", term.value, text=name)

    def holds(self, test: ast.expr, names: Names) -> bool:
        return bool(self.term(test, names).value)

    # -- expressions

    def term(self, node: ast.expr, names: Names) -> Term:
        """What an expression is."""
        reader = getattr(self, f"read_{type(node).__name__.lower()}", None)
        if reader is None:
            return self.computed(node, names)
        found: Term = reader(node, names)
        return found

    def computed(self, node: ast.expr, names: Names) -> Term:
        """An expression of which only the value is known: texts, sets, functions; no array may come of it."""
        values = {name: _value(term) for name, term in names.items()}
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "<rule>", "eval")
        value = eval(code, {**self.text.names, **values})
        if is_array(value):
            raise _UnreadableError
        return constant(value)

    def read_constant(self, node: ast.Constant, names: Names) -> Term:
        return Term("constant", node.value, text=value_text(node.value), pure=True)

    def read_name(self, node: ast.Name, names: Names) -> Term:
        if node.id in names:
            return names[node.id]
        if node.id in self.text.names:
            return constant(self.text.names[node.id])
        if hasattr(builtins, node.id):
            return constant(getattr(builtins, node.id))
        raise _UnreadableError

    def read_attribute(self, node: ast.Attribute, names: Names) -> Term:
        of = self.term(node.value, names)
        value = getattr(of.value, node.attr)
        if is_array(of.value) and (node.attr == "mT" or (node.attr == "T" and of.value.ndim == 2)):
            return _transpose(value, of)
        if value is math.pi:
            return Term("constant", value, text="π", pure=True)
        return constant(value)

    def read_tuple(self, node: ast.Tuple | ast.List, names: Names) -> Term:
        parts: list[Term] = []
        for one in node.elts:
            parts += self.starred(one, names)
        return _several(parts, type(node) is ast.List)

    read_list = read_tuple

    def read_listcomp(self, node: ast.ListComp | ast.GeneratorExp, names: Names) -> Term:
        (generator, *more) = node.generators
        if more:
            return self.computed(node, names)
        parts = []
        inner = dict(names)
        for one in self.several(self.term(generator.iter, names)):
            self.assign(generator.target, one, inner, Counter())
            if all(self.holds(test, inner) for test in generator.ifs):
                parts.append(self.term(node.elt, inner))
        return _several(parts, True)

    read_generatorexp = read_listcomp

    def read_ifexp(self, node: ast.IfExp, names: Names) -> Term:
        return self.term(node.body if self.holds(node.test, names) else node.orelse, names)

    def read_boolop(self, node: ast.BoolOp, names: Names) -> Term:
        last = isinstance(node.op, ast.Or)
        for one in node.values:
            found = self.term(one, names)
            if bool(found.value) is last:
                break
        return found

    def read_unaryop(self, node: ast.UnaryOp, names: Names) -> Term:
        of = self.term(node.operand, names)
        do, text = OPERATORS[type(node.op)]
        if of.kind == "constant" and not is_array(of.value):
            return Term("constant", do(of.value), text=value_text(do(of.value)), pure=of.pure)
        return Term("prefix", do(of.value), (of,), text)

    def read_binop(self, node: ast.BinOp, names: Names) -> Term:
        return self.infix(node.op, self.term(node.left, names), self.term(node.right, names))

    def read_compare(self, node: ast.Compare, names: Names) -> Term:
        terms = [self.term(one, names) for one in (node.left, *node.comparators)]
        if len(terms) > 2 or not any(is_array(one.value) for one in terms):
            found = True
            for op, left, right in zip(node.ops, terms, terms[1:], strict=False):
                found = found and OPERATORS[type(op)][0](left.value, right.value)
            return constant(found)
        return self.infix(node.ops[0], *terms)

    def infix(self, op: Any, left: Term, right: Term) -> Term:
        do, text = OPERATORS[type(op)]
        if (left.kind == "several" or right.kind == "several") and type(op) is ast.Add:
            return _several([*self.several(left), *self.several(right)], isinstance(left.value, list))
        value = do(left.value, right.value)
        if type(op) is ast.Pow:
            return _power(value, left, right)
        if type(op) is ast.MatMult:
            return Term("product", value, (left, right), text)
        plain = (int, float, np.ndarray, np.generic)
        if not text or not isinstance(left.value, plain) or not isinstance(right.value, plain):
            return constant(value)
        return _infix(text, value, left, right)

    def read_subscript(self, node: ast.Subscript, names: Names) -> Term:
        of, key = self.term(node.value, names), self.key(node.slice, names)
        value = of.value[key]
        if of.kind == "several":
            if isinstance(key, slice):
                return _several(of.parts[key], isinstance(of.value, list))
            return of.parts[key]
        if not is_array(value) and not _has_arrays(value):
            return constant(value)
        return Term("index", value, (of,), index_text(key))

    def key(self, node: ast.expr, names: Names) -> Any:
        if isinstance(node, ast.Slice):
            bounds = (node.lower, node.upper, node.step)
            return slice(*(None if one is None else self.term(one, names).value for one in bounds))
        if isinstance(node, ast.Tuple):
            return tuple(self.key(one, names) for one in node.elts)
        return _value(self.term(node, names))

    def read_call(self, node: ast.Call, names: Names) -> Term:
        args: list[Term] = []
        for one in node.args:
            args += self.starred(one, names)
        options: dict[str, Term] = {}
        for keyword in node.keywords:
            found = self.term(keyword.value, names)
            if keyword.arg is None:
                options |= {name: constant(value) for name, value in found.value.items()}
            else:
                options[keyword.arg] = found
        if isinstance(node.func, ast.Attribute):
            of = self.term(node.func.value, names)
            if is_array(of.value):
                method = getattr(of.value, node.func.attr)
                if node.func.attr in ("reshape", "transpose") and len(args) > 1:
                    args = [_several(args)]
                return self.call(getattr(np, node.func.attr, method), method, [of, *args], options, 1)
        fun = self.term(node.func, names).value
        if self.is_helper(fun):
            inlined = self.follow(fun, args, options)
            if inlined is not None:
                return inlined
        return self.call(fun, fun, args, options)

    def is_helper(self, fun: Any) -> bool:
        """Whether a function is a plain one of the package that the rule is written in, and so a part of the rule."""
        known = any(fun is value for value in self.text.names.values()) and inspect.isfunction(fun)
        return known and fun not in RULES and not hasattr(fun, "forward") and not hasattr(fun, "__wrapped__")

    def follow(self, fun: Any, args: Sequence[Term], options: Mapping[str, Term]) -> Term | None:
        """The body of a helper with terms for its parameters; None where it is no mathematics."""
        values = [_value(a) for a in args]
        result = fun(*values, **{name: _value(a) for name, a in options.items()})
        if not is_array(result) and not _has_arrays(result):
            return constant(result)
        if self.inside > DEEPEST:
            return None
        helper = _text_of(fun)
        signature = inspect.signature(fun)
        bound = signature.bind(*args, **options)
        reads = Counter(n.id for s in helper.body for n in ast.walk(s) if isinstance(n, ast.Name))
        inner: Names = {}
        before, outer = len(self.where), self.text
        for name, parameter in signature.parameters.items():
            given = bound.arguments.get(name)
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                given = _several(given or ()) if parameter.kind is parameter.VAR_POSITIONAL else None
            if given is None:
                given = constant(parameter.default)
            inner[name] = self.named(name, given) if reads[name] > 1 else given
        self.inside += 1
        self.text = helper
        try:
            return self.run(helper.body, inner)
        except _UnreadableError:
            del self.where[before:]
            return None
        finally:
            self.inside -= 1
            self.text = outer

    def call(self, fun: Any, do: Any, args: Sequence[Term], options: Mapping[str, Term], skipped: int = 0) -> Term:
        """A call as it is; `do` is what computes it, without the first arguments where these are a method's array."""
        values = [_value(a) for a in args[skipped:]]
        value = do(*values, **{name: _value(a) for name, a in options.items()})
        if fun in (tuple, list) and args and args[0].kind == "several":
            return _several(args[0].parts, fun is list)
        module = getattr(fun, "__module__", None)
        if not is_array(value) and not _has_arrays(value):
            if module == "math" and all(a.kind == "constant" for a in args):
                return Term("call", value, tuple(args), fun=fun, pure=True)
            return constant(value)
        if fun is np.where and len(args) == 3:
            return Term("cases", value, tuple(args))
        if _exchanges_last_axes(fun, args):
            return _transpose(value, args[0])
        if fun is np.transpose and len(args) == 2 and tuple(args[1].value or ()) == tuple(range(args[0].value.ndim)):
            return args[0]
        if fun is np.matmul or (fun is np.dot and all(np.ndim(a.value) == 2 for a in args)):
            return Term("product", value, tuple(args), "·")
        if fun in INFIX and len(args) == 2 and not options:
            return _infix(INFIX[fun], value, *args)
        if fun is np.negative and len(args) == 1:
            return Term("prefix", value, tuple(args), "-")
        if fun is np.power and len(args) == 2:
            return _power(value, *args)
        if fun is np.square and len(args) == 1:
            return _power(value, args[0], constant(2))
        args = _with_index(args, names_of(fun))
        if fun is getitem:
            return Term("index", value, tuple(args[:1]), args[1].text)
        shown_args = tuple(_shortened(a) for a in args) if not isinstance(fun, np.ufunc) else tuple(args)
        return Term("call", value, shown_args, fun=fun, options=tuple((n, _shortened(a)) for n, a in options.items()))

    def starred(self, node: ast.expr, names: Names) -> Sequence[Term]:
        """What stands for one entry of a list: itself, or the parts of what follows a star."""
        return self.several(self.term(node.value, names)) if isinstance(node, ast.Starred) else [self.term(node, names)]

    def several(self, term: Term) -> Sequence[Term]:
        """The parts of a tuple, of which each is a term."""
        if term.kind == "several":
            return term.parts
        try:
            values = list(term.value)
        except TypeError:
            raise _UnreadableError from None
        if term.kind == "constant":
            return [constant(one) for one in values]
        return [Term("index", one, (term,), f"[{k}]") for k, one in enumerate(values)]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_short(term: Term) -> bool:
    """Whether a term may as well be written several times."""
    return term.kind in ("name", "constant") or (term.kind in ("transpose", "index") and term.parts[0].kind == "name")


def _value(term: Term) -> Any:
    return term.value


def _several(parts: Sequence[Term], as_list: bool = False) -> Term:
    values = [part.value for part in parts]
    return Term("several", values if as_list else tuple(values), tuple(parts))


def _has_arrays(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and any(is_array(one) or _has_arrays(one) for one in value)


def _shortened(term: Term) -> Term:
    """What tells a function how is written as the value that it has: `axis=1`, not `axis=0 + 1`."""
    plain = not is_array(term.value) and not _has_arrays(term.value)
    return constant(term.value) if plain and term.kind != "constant" else term


def _infix(text: str, value: Any, left: Term, right: Term) -> Term:
    numbers = not np.ndim(left.value) or not np.ndim(right.value)
    pure = left.pure and right.pure
    return Term("infix", value, (left, right), "·" if text == "⊙" and numbers else text, pure=pure)


def _power(value: Any, base: Term, exponent: Term) -> Term:
    return Term("power", value, (base, exponent), pure=base.pure and exponent.pure)


def _transpose(value: Any, of: Term) -> Term:
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


# ---------------------------------------------------------------------------------------------------------------------
# From terms to text
# ---------------------------------------------------------------------------------------------------------------------

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
