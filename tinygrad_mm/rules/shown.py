"""A rule as it is shown: its own source, with the bodies of the helpers that it calls put in.

The catalogue, the explorer and pictures all ask here, so that they show the same, and what is computed. A rule is a
Python function, a lambda or a `def`, which knows the file and the line that it came from; the text is read from that
file (by way of `linecache`, which knows notebook cells and doctests too).

- `source_of(rule)`: the text as it was written;
- `expression_of(rule)`: the syntax tree of one expression, or of several statements, of which the last returns;
- `shown(rule)`: the same with the values of all names in it, and the helpers that it still calls by name;
- `text_of(rule)`: the same as text;
- `decided(rule, g, y, args, kwargs)`: the same for one call, with its conditions decided;
- `words_of(rule)`: what is said of the functions that only count axes.

A helper is a plain function of the rule's own package: no function with a rule, no primitive. One that is a single
expression is put in wherever it is called; where a rule is nothing but the call of a longer one, the rule is that
helper's statements. In both the arguments take the places of the parameters. What else is longer stays a call, and is
shown below. Functions of `axes` and `operands` count axes and make arrays; they have no mathematics, and stay.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import copy
import functools
import inspect
import linecache
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tinygrad_mm.graph import RULES, name_of

__all__ = ["Shown", "decided", "expression_of", "shown", "source_of", "text_of", "words_of"]

Function: TypeAlias = "ast.Lambda | ast.FunctionDef"

BOOKKEEPING = ("tinygrad_mm.rules.axes", "tinygrad_mm.rules.operands")


@dataclass
class Shown:
    """A rule, or a helper, as it is shown.

    `parameters` is the text between the parentheses of its definition, `body` its statements, of which the last
    returns. `names` are the values of the names in it that are neither parameters nor its own variables; `helpers` the
    functions among these that are shown too.
    """

    parameters: str
    body: list[ast.stmt]
    names: dict[str, Any] = field(default_factory=dict)
    helpers: dict[str, Shown] = field(default_factory=dict)

    @property
    def expression(self) -> ast.expr | None:
        """The rule as one expression, where it is one."""
        last = self.body[-1] if len(self.body) == 1 else None
        return last.value if isinstance(last, ast.Return) else None

    def lines(self) -> list[str]:
        """The body as lines of code; of one expression only that, a condition on a line of its own."""
        if isinstance(self.expression, ast.IfExp):
            test, other = ast.unparse(self.expression.test), ast.unparse(self.expression.orelse)
            return [ast.unparse(self.expression.body), f"  if {test} else {other}"]
        if self.expression is not None:
            return [ast.unparse(self.expression)]
        return [line for statement in self.body for line in ast.unparse(statement).splitlines()]

    def text(self) -> str:
        """The lines of the body, and below them the definitions of the helpers that it calls."""
        parts = ["\n".join(self.lines())]
        for name, helper in self.helpers.items():
            body = "\n".join(ast.unparse(statement) for statement in helper.body)
            parts.append(f"def {name}({helper.parameters}):\n" + textwrap.indent(body, "    "))
        return "\n".join(parts)


def source_of(function: Callable[..., Any]) -> str:
    """A function as it was written; one without source, written in C or by `exec`, is given by its name.

    >>> import numpy as np
    >>> source_of(RULES[np.multiply].vjps[0])
    'lambda g, y, a, b: g * b'
    """
    function = inspect.unwrap(function)
    found = _tree_of(function)
    if found is None:
        return name_of(function)
    text = ast.get_source_segment(_file_of(function), found, padded=True) or ""
    return " ".join(text.split()) if isinstance(found, ast.Lambda) else textwrap.dedent(text)


def expression_of(function: Callable[..., Any]) -> ast.expr | list[ast.stmt]:
    """The expression that a rule is, or its statements where it is several; helpers are put in.

    >>> import numpy as np
    >>> ast.unparse(expression_of(RULES[np.matmul].vjps[1]))
    'a.mT @ g if b.ndim > 2 or a.ndim == 2 else rows(a).mT @ rows(g)'
    """
    rule = shown(function)
    return rule.body if rule.expression is None else rule.expression


def text_of(function: Callable[..., Any]) -> str:
    """The expression, or the statements, of a rule as text, and the helpers that it still calls below them.

    >>> import numpy as np
    >>> text_of(RULES[np.exp].vjps[0])
    'g * y'
    """
    return shown(function).text()


def shown(function: Callable[..., Any]) -> Shown:
    """A rule with the helpers put in that it calls, and the values of the names in it.

    A function without source is shown as a call of itself.
    """
    return _shown(inspect.unwrap(function), (), whole=True)


def words_of(function: Callable[..., Any]) -> Iterator[tuple[str, str]]:
    """The functions of `axes` and `operands` that a rule calls, and what each of them says of itself.

    >>> import numpy as np
    >>> dict(words_of(RULES[np.matmul].vjps[1]))
    {'rows(a)': 'All rows of a stack of matrices, one below the other in one matrix.'}
    """
    rule = shown(function)
    for names in (rule.names, *(helper.names for helper in rule.helpers.values())):
        for name, value in names.items():
            if inspect.isfunction(value) and value.__module__ in BOOKKEEPING:
                parameters = ", ".join(inspect.signature(value).parameters)
                yield f"{name}({parameters})", " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


# ---------------------------------------------------------------------------------------------------------------------
# For one call: conditions decided
# ---------------------------------------------------------------------------------------------------------------------


def decided(function: Callable[..., Any], g: Any, y: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Shown:
    """A rule as it is shown for one call: of each condition, only what holds for these arguments is left.

    >>> import numpy as np
    >>> a, b = np.ones((2, 3)), np.ones((3, 4))
    >>> decided(RULES[np.matmul].vjps[1], a @ b, a @ b, (a, b), {}).text()
    'a.mT @ g'
    """
    rule = shown(function)
    values = {**inspect.signature(function).bind(g, y, *args, **kwargs).arguments}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            values |= values.pop(name, {})
        elif name not in values:
            values[name] = () if parameter.kind is parameter.VAR_POSITIONAL else parameter.default
    deciding = _Deciding({**vars(builtins), **rule.names, **values})
    for name, helper in rule.helpers.items():
        if name not in deciding.values:
            deciding.values[name] = helper
    body = deciding.statements(copy.deepcopy(rule.body))
    return Shown(rule.parameters, body, rule.names, rule.helpers)


class _Deciding(ast.NodeTransformer):
    """Leaves of conditions what holds for given values, as far as that can be told."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Statements with their conditions decided, up to the first that returns."""
        found: list[ast.stmt] = []
        for statement in body:
            if isinstance(statement, ast.If):
                holds = self._holds(statement.test)
                if holds is None:
                    return [*found, *body[body.index(statement) :]]
                found += self.statements(statement.body if holds else statement.orelse)
            else:
                statement = self.visit(statement)
                found.append(statement)
                if not isinstance(statement, ast.Return):
                    self._run(statement)
            if found and isinstance(found[-1], ast.Return):
                break
        return found

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        holds = self._holds(node.test)
        return self.generic_visit(node) if holds is None else self.visit(node.body if holds else node.orelse)

    def _holds(self, test: ast.expr) -> bool | None:
        try:
            return bool(
                eval(compile(ast.fix_missing_locations(ast.Expression(copy.deepcopy(test))), "", "eval"), self.values)
            )
        except Exception:  # it asks for what is not known before: a variable of a comprehension, say
            return None

    def _run(self, statement: ast.stmt) -> None:
        with contextlib.suppress(Exception):  # then conditions that ask for its variables are left as they are
            exec(
                compile(ast.fix_missing_locations(ast.Module([copy.deepcopy(statement)], [])), "", "exec"), self.values
            )


# ---------------------------------------------------------------------------------------------------------------------
# From a function to its syntax tree
# ---------------------------------------------------------------------------------------------------------------------


def _file_of(function: Callable[..., Any]) -> str:
    """The text of the file that a function stands in."""
    code = getattr(function, "__code__", None)
    return "" if code is None else "".join(linecache.getlines(code.co_filename, function.__globals__))


def _tree_of(function: Callable[..., Any]) -> Function | None:
    """The definition of a function; of several lambdas on one line the one that was compiled to the same code."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    kind = ast.Lambda if code.co_name == "<lambda>" else ast.FunctionDef
    here = [
        found
        for found in _functions(_file_of(function)).get(code.co_firstlineno, [])
        if isinstance(found, kind) and getattr(found, "name", code.co_name) == code.co_name
    ]
    for exactly in (True, False):
        for found in here:
            if len(here) == 1 or _same(found, code, exactly):
                return found
    return None


@functools.lru_cache
def _functions(source: str) -> dict[int, list[Any]]:
    """All functions of a file, by the line on which they begin (that of a decorator counts)."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a notebook cell with magic commands
        return {}
    found: dict[int, list[Any]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Lambda, ast.FunctionDef)):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            found.setdefault(first, []).append(node)
    return found


def _same(tree: Function, code: Any, exactly: bool) -> bool:
    """Whether a lambda compiles to some code; `exactly` does not hold for one that reads variables around it."""
    if not isinstance(tree, ast.Lambda):
        return True
    compiled = compile(ast.Expression(tree), "", "eval").co_consts
    other = next(c for c in compiled if hasattr(c, "co_code"))
    plain, others = ([c for c in one.co_consts if not hasattr(c, "co_code")] for one in (code, other))
    names, other_names = ({*one.co_names, *one.co_freevars} for one in (code, other))
    alike = plain == others and names == other_names and code.co_varnames == other.co_varnames
    return alike and (not exactly or code.co_code == other.co_code)


def _globals_of(function: Any) -> dict[str, Any]:
    """What names stand for inside a function: of its module, and of the functions around it."""
    found = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not set yet
            continue
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Helpers put in
# ---------------------------------------------------------------------------------------------------------------------


def _shown(function: Callable[..., Any], around: tuple[Any, ...], whole: bool = False) -> Shown:
    """A function with the helpers put in; `around` are those that it is shown inside of."""
    tree = _tree_of(function)
    if tree is None:
        name = name_of(function) if name_of(function).isidentifier() else "rule"  # a lambda has no name
        call = ast.parse(f"return {name}(*args, **kwargs)").body
        return Shown("*args, **kwargs", call, {name: function})
    putting = _Putting(function, around)
    body = putting.body_of(function, tree, whole)
    return Shown(ast.unparse(tree.args), body, _names_in(body, tree, putting.names), putting.helpers)


class _Putting(ast.NodeTransformer):
    """Puts helpers in the places of their calls."""

    def __init__(self, function: Callable[..., Any], around: tuple[Any, ...]) -> None:
        self.package = (function.__module__ or "").split(".")[0]
        self.around = (*around, function)
        self.names: dict[str, Any] = {}
        self.helpers: dict[str, Shown] = {}
        self.scopes: list[dict[str, Any]] = []

    def body_of(self, function: Any, tree: Function, whole: bool) -> list[ast.stmt]:
        """The statements of a function, with helpers put in; `whole`: of a longer one, too, if it is all there is."""
        values = _globals_of(function)
        self.names = {**values, **self.names}
        self.scopes.append(values)
        body = _statements(copy.deepcopy(tree))
        only = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
        if whole and isinstance(only, ast.Call):
            only.args = [self.visit(a) for a in only.args]
            for keyword in only.keywords:
                keyword.value = self.visit(keyword.value)
            helper = self._helper(only.func)
            found = None if helper is None else _bound(helper, only)
            if found is not None:
                inner = _tree_of(helper)
                assert inner is not None
                self.around = (*self.around, helper)
                body = self.body_of(helper, _put(inner, found), whole)
                self.scopes.pop()
                return body
        body = [self.visit(statement) for statement in body]
        self.scopes.pop()
        return body

    def visit_Call(self, call: ast.Call) -> Any:
        self.generic_visit(call)
        helper = self._helper(call.func)
        if helper is None:
            return call
        found = _bound(helper, call)
        tree = _tree_of(helper)
        if found is not None and tree is not None and helper not in self.around:
            first, *more = _statements(tree)
            if isinstance(first, ast.Return) and not more and not _repeated(tree, found):
                self.around = (*self.around, helper)
                (put,) = self.body_of(helper, _put(tree, found), whole=False)
                self.around = self.around[:-1]
                return put.value  # type: ignore[attr-defined]
        name = call.func.id if isinstance(call.func, ast.Name) else name_of(helper)
        if name not in self.helpers and helper not in self.around:
            inner = _shown(helper, self.around)
            self.helpers[name] = inner
            self.helpers.update({n: h for n, h in inner.helpers.items() if n not in self.helpers})
            inner.helpers = {}
        return call

    def _helper(self, function: ast.expr) -> Any:
        """The function that is called, where it is one to be shown."""
        value = self.scopes[-1].get(function.id) if isinstance(function, ast.Name) else None
        if not inspect.isfunction(value) or value in RULES or hasattr(value, "forward") or _tree_of(value) is None:
            return None
        module = value.__module__ or ""
        return value if module.split(".")[0] == self.package and module not in BOOKKEEPING else None


def _statements(tree: Function) -> list[ast.stmt]:
    """The statements of a function without its docstring; a lambda returns its body."""
    if isinstance(tree, ast.Lambda):
        return [ast.Return(tree.body)]
    first = tree.body[0]
    described = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(tree.body) > 1
    return tree.body[described:]


def _bound(helper: Any, call: ast.Call) -> dict[str, ast.expr] | None:
    """What is given for each parameter of a helper; None where a `*` stands on either side."""
    tree = _tree_of(helper)
    starred = any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)
    if tree is None or starred or tree.args.vararg or tree.args.kwarg:
        return None
    arguments = tree.args
    positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    found: dict[str, ast.expr] = dict(zip(positional[::-1], arguments.defaults[::-1], strict=False))
    found |= {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None}
    found |= dict(zip(positional, call.args, strict=False))
    found |= {k.arg: k.value for k in call.keywords if k.arg is not None}
    return found


def _put(tree: Function, found: Mapping[str, ast.expr]) -> Function:
    """A helper with arguments in the places of its parameters, and other names for variables that mean another thing."""
    tree = copy.deepcopy(tree)
    statements = _statements(tree)
    written = {name for statement in statements for name in _variables(statement)}
    own = written | _repeated(tree, found)
    names = {name: {n.id for n in ast.walk(value) if isinstance(n, ast.Name)} for name, value in found.items()}
    kept = {name: value for name, value in found.items() if name in own}  # written first, then read
    renamed: dict[str, str] = {}
    for name in own:
        elsewhere = set().union(*(used for other, used in names.items() if other != name and other not in kept))
        value = kept.get(name)
        if isinstance(value, ast.Name) and value.id not in elsewhere | (own - {name}):
            renamed[name] = value.id  # the variable goes by the name of what it was given
        elif name in elsewhere or (value is None and name in names.get(name, ())):
            renamed[name] = next(n for k in range(1, 100) if (n := f"{name}_{k}") not in elsewhere | own)
    kept = {n: v for n, v in kept.items() if not (isinstance(v, ast.Name) and v.id == renamed.get(n, n))}
    replace = _Replace({n: v for n, v in found.items() if n not in own}, renamed)
    body = [replace.visit(statement) for statement in statements]
    before = {renamed.get(name, name): value for name, value in kept.items()}
    if before:
        names, values = (", ".join(part) for part in (before, map(ast.unparse, before.values())))
        body = [*ast.parse(f"{names} = {values}").body, *body]
    empty = ast.parse("def f(): pass").body[0]
    assert isinstance(empty, ast.FunctionDef)
    empty.body = body
    return empty


def _repeated(tree: Function, found: Mapping[str, ast.expr]) -> set[str]:
    """Parameters that a helper reads several times and is given an expression for, which is better written once."""
    reads = Counter(n.id for statement in _statements(tree) for n in ast.walk(statement) if isinstance(n, ast.Name))
    return {name for name, value in found.items() if reads[name] > 1 and not _is_short(value)}


def _is_short(value: ast.expr) -> bool:
    """Whether an expression may as well be written several times: a name, a number, an attribute, or a few of these."""
    if isinstance(value, (ast.Tuple, ast.UnaryOp, ast.Attribute)):
        return all(_is_short(part) for part in ast.iter_child_nodes(value) if isinstance(part, ast.expr))
    return isinstance(value, (ast.Name, ast.Constant))


def _variables(tree: ast.AST) -> Iterator[str]:
    """The names that a statement gives a value to, those of comprehensions and of functions inside among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef):
            yield node.name


class _Replace(ast.NodeTransformer):
    """Names replaced by expressions, or by other names."""

    def __init__(self, expressions: Mapping[str, ast.expr], names: Mapping[str, str]) -> None:
        self.expressions, self.renamed = expressions, names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.expressions:
            return copy.deepcopy(self.expressions[node.id])
        return ast.Name(self.renamed.get(node.id, node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self.renamed.get(node.arg, node.arg))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.name = self.renamed.get(node.name, node.name)
        self.generic_visit(node)
        return node


def _names_in(body: list[ast.stmt], tree: Function, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the names in some statements stand for, other than parameters, variables, and Python's own."""
    used = {n.id: None for part in [*body, tree.args] for n in ast.walk(part) if isinstance(n, ast.Name)}
    own = {name for statement in body for name in _variables(statement)} | {
        a.arg for a in ast.walk(tree.args) if isinstance(a, ast.arg)
    }
    return {n: values[n] for n in used if n not in own and n in values and not hasattr(builtins, n)}
