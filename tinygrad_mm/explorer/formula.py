"""A rule as mathematics, made from the rule's own syntax tree.

The tree is run on the arrays of one recorded call, and each part of it becomes a `Term`: how it is written, its value,
and its own parts. What a rule decides by shapes and options (`if axis is None`) is decided, what it computes from these
is a number, and helpers are followed into their bodies. So a formula cannot disagree with the source: it is the source.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_mm.drawing.text import index_text, value_text
from tinygrad_mm.explorer.terms import (
    Names,
    Term,
    called,
    constant,
    has_arrays,
    infix,
    inlined,
    is_array,
    is_short,
    names_in,
    power,
    several_of,
    transpose,
    value_of,
)
from tinygrad_mm.graph import RULES
from tinygrad_mm.rules.shown import Shown, shown

__all__ = ["Formula", "formula_of"]

DEEPEST = 8  # helpers inside each other
MOST_TURNS = 16  # of a loop that is written out


@dataclass
class Formula:
    """A rule as a term, and what it computes before, by the names that the term has for it."""

    term: Term
    where: list[tuple[str, Term]] = field(default_factory=list)


def formula_of(rule: Callable[..., Any], *given: Term, **options: Any) -> Formula:
    """The mathematics of `rule(*given, **options)`; a function without source is a call of itself.

    Options are values, or terms that have names of their own.

    >>> from tinygrad_mm.explorer.terms import write
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
                return Formula(*inlined(term, reader.where))
        except _UnreadableError:
            pass
        values = [value_of(a) for a in given]
        told = {name: value_of(_as_term(value)) for name, value in options.items()}
        call = Term("call", rule(*values, **told), given, fun=rule, options=_constants(options))
    return Formula(call)


def _as_term(value: Any) -> Term:
    return value if isinstance(value, Term) else constant(value)


def _constants(options: Mapping[str, Any]) -> tuple[tuple[str, Term], ...]:
    return tuple((name, _as_term(value)) for name, value in options.items())


def _bound(signature: inspect.Signature, given: Sequence[Term], options: Mapping[str, Any]) -> Names:
    """What each parameter of a function stands for."""
    bound = signature.bind(*given, **{name: _as_term(value) for name, value in options.items()})
    found: Names = {}
    for name, parameter in signature.parameters.items():
        value = bound.arguments.get(name)
        if parameter.kind is parameter.VAR_POSITIONAL:
            found[name] = several_of(value or ())
        elif parameter.kind is parameter.VAR_KEYWORD:
            found[name] = constant({key: term.value for key, term in (value or {}).items()})
        else:
            found[name] = constant(parameter.default) if value is None else value
    return found


@functools.lru_cache(256)
def _text_of(function: Callable[..., Any]) -> Shown:
    return shown(function)


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
        self.taken |= {name for term in names.values() for name in names_in(term)}
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
                self.append(statement, names)
        return None

    def append(self, statement: ast.stmt, names: Names) -> None:
        """`list.append(value)`, the one call that is a statement."""
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "append":
            of = call.func.value
            if isinstance(of, ast.Name) and of.id in names:
                names[of.id] = several_of([*self.several(names[of.id]), self.term(call.args[0], names)], True)
                return
        raise _UnreadableError

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
            parts = list(self.several(term))
            for i, one in enumerate(target.elts):
                if isinstance(one, ast.Starred):  # takes what the others leave
                    rest = len(parts) - len(target.elts) + 1
                    parts[i : i + rest] = [several_of(parts[i : i + rest], True)]
            if len(parts) != len(target.elts):
                raise _UnreadableError
            for one, part in zip(target.elts, parts, strict=True):
                self.assign(one.value if isinstance(one, ast.Starred) else one, part, names, reads)
        elif isinstance(target, ast.Name):
            names[target.id] = self.named(target.id, term) if reads[target.id] > 1 else term
        else:
            raise _UnreadableError

    def named(self, name: str, term: Term) -> Term:
        """A name for a longer term, which no array of the call has."""
        if not is_array(term.value) or is_short(term):
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
        values = {name: value_of(term) for name, term in names.items()}
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
            return transpose(value, of)
        if value is math.pi:
            return Term("constant", value, text="π", pure=True)
        return constant(value)

    def read_tuple(self, node: ast.Tuple | ast.List, names: Names) -> Term:
        parts: list[Term] = []
        for one in node.elts:
            parts += self.starred(one, names)
        return several_of(parts, type(node) is ast.List)

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
        return several_of(parts, True)

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
            return several_of([*self.several(left), *self.several(right)], isinstance(left.value, list))
        value = do(left.value, right.value)
        if type(op) is ast.Pow:
            return power(value, left, right)
        if type(op) is ast.MatMult:
            return Term("product", value, (left, right), text)
        plain = (int, float, np.ndarray, np.generic)
        if not text or not isinstance(left.value, plain) or not isinstance(right.value, plain):
            return constant(value)
        return infix(text, value, left, right)

    def read_subscript(self, node: ast.Subscript, names: Names) -> Term:
        of, key = self.term(node.value, names), self.key(node.slice, names)
        value = of.value[key]
        if of.kind == "several":
            if isinstance(key, slice):
                return several_of(of.parts[key], isinstance(of.value, list))
            return of.parts[key]
        if not is_array(value) and not has_arrays(value):
            return constant(value)
        return Term("index", value, (of,), index_text(key))

    def key(self, node: ast.expr, names: Names) -> Any:
        if isinstance(node, ast.Slice):
            bounds = (node.lower, node.upper, node.step)
            return slice(*(None if one is None else self.term(one, names).value for one in bounds))
        if isinstance(node, ast.Tuple):
            return tuple(self.key(one, names) for one in node.elts)
        return value_of(self.term(node, names))

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
                    args = [several_of(args)]
                return self.call(getattr(np, node.func.attr, method), method, [of, *args], options, 1)
        fun = self.term(node.func, names).value
        if self.is_helper(fun):
            inlined = self.follow(fun, args, options)
            if inlined is not None:
                return inlined
        return self.call(fun, fun, args, options)

    def is_helper(self, fun: Any) -> bool:
        """Whether a function is a plain one of the package that the rule is written in, and so a part of the rule."""
        known = inspect.isfunction(fun) and any(
            fun is value or (inspect.isclass(value) and fun is getattr(value, fun.__name__, None))
            for value in self.text.names.values()
        )
        return known and fun not in RULES and not hasattr(fun, "forward") and not hasattr(fun, "__wrapped__")

    def follow(self, fun: Any, args: Sequence[Term], options: Mapping[str, Term]) -> Term | None:
        """The body of a helper with terms for its parameters; None where it is no mathematics."""
        values = [value_of(a) for a in args]
        result = fun(*values, **{name: value_of(a) for name, a in options.items()})
        if not is_array(result) and not has_arrays(result):
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
                given = several_of(given or ()) if parameter.kind is parameter.VAR_POSITIONAL else None
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
        values = [value_of(a) for a in args[skipped:]]
        value = do(*values, **{name: value_of(a) for name, a in options.items()})
        if fun in (tuple, list) and args and args[0].kind == "several":
            return several_of(args[0].parts, fun is list)
        module = getattr(fun, "__module__", None)
        if not is_array(value) and not has_arrays(value):
            if module == "math" and all(a.kind == "constant" for a in args):
                return Term("call", value, tuple(args), fun=fun, pure=True)
            return constant(value)
        return called(fun, value, args, options)

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
