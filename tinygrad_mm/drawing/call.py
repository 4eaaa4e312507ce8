"""One recorded call: its operands, its options, and which operands its rule sends a gradient to."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from tinygrad_mm.drawing.text import index_text, shortened, value_text
from tinygrad_mm.graph import RULES, Node, Scope, Vertex, name_of
from tinygrad_mm.rules.shape import join

__all__ = [
    "given_arrays",
    "is_array",
    "is_commutative",
    "lets_through",
    "operands_and_options",
    "options_of",
    "shown_name",
    "title_of",
]


LONGEST_OPTION = 120  # characters; an index may be a list of thousands
COMMUTATIVE = frozenset(
    {
        *(np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin, np.logaddexp, np.logaddexp2, np.hypot),
        *(np.equal, np.not_equal, np.logical_and, np.logical_or, np.logical_xor),
        *(np.bitwise_and, np.bitwise_or, np.bitwise_xor),
    }
)


def is_commutative(node: Node) -> bool:
    """Whether the operands of a call can change places.

    >>> is_commutative(Node(np.add, (1, 2), {})), is_commutative(Node(np.subtract, (1, 2), {}))
    (True, False)
    """
    return node.fun in COMMUTATIVE


def is_array(a: Any) -> bool:
    """Whether an argument is an array, in or outside the graph."""
    return isinstance(a, (Vertex, np.ndarray))


def title_of(node: Node) -> str:
    """What a reader calls the function.

    >>> title_of(Node(np.add, (1, 2), {})), title_of(Node(join, (), {}))
    ('add', 'concatenate')
    """
    return shown_name(node.fun)


def shown_name(fun: Callable[..., Any]) -> str:
    """What a reader calls a function."""
    return "concatenate" if fun is join else name_of(fun)


def operands_and_options(node: Node) -> tuple[tuple[tuple[int, str], ...], tuple[str, ...]]:
    """The arguments of a call: operands, as (position, name), and options, as text.

    Tensors and arrays are operands; so are numbers where the function computes with them (`x * 2`), not where they
    say how (`axis=0`). Options that are what they are by default are left out.

    >>> operands_and_options(Node(np.multiply, (np.ones(3), 2.0), {}))
    (((0, 'a'), (1, 'b')), ())
    >>> operands_and_options(Node(np.sum, (np.ones(3),), {"axis": 0}))
    (((0, 'a'),), ('axis=0',))
    """
    args, names = node.args or (), _parameter_names(node)
    computed_with = _arity(node)
    operands: list[tuple[int, str]] = []
    options: list[str] = []
    for i, a in enumerate(args):
        name = names[i] if i < len(names) else ""
        number = isinstance(a, (bool, int, float, np.generic)) and i < computed_with and name != "key"
        if is_array(a) or number:
            operands.append((i, name))
        elif name == "key":
            options.append(index_text(a))
        elif _is_usual(node, name, a):
            continue
        else:
            options.append(f"{name}={value_text(a)}" if name else value_text(a))
    given = {name: value for name, value in node.kwargs.items() if not _is_usual(node, name, value)}
    options += [f"{name}={value_text(value)}" for name, value in given.items()]
    prefix = "#" if "key" in names else ""  # the places that an index leaves for Tensors are written #0, #1, ...
    unnamed = [i for i, name in operands if not name]
    options = [shortened(option, LONGEST_OPTION) for option in options]
    return tuple((i, name or f"{prefix}{unnamed.index(i)}") for i, name in operands), tuple(options)


def given_arrays(scope: Scope) -> Iterator[tuple[str, Any]]:
    """The Tensors and arrays that a call was given and that are still there, each with its parameter."""
    for name, noted in scope.given.items():
        a = noted() if isinstance(noted, weakref.ref) else None
        if a is not None:
            yield name, a


def options_of(scope: Scope) -> tuple[str, ...]:
    """The options that a call of a function was given, as text; those that are what they are by default are left out.

    >>> from tinygrad_mm.graph import named_call
    >>> windows = named_call(lambda x, size, stride=1, padding=0: x)
    >>> options_of(Scope(windows, "windows", None, {"x": np.ones(3), "size": 2, "stride": 1, "padding": 3}))
    ('size=2', 'padding=3')
    """
    usual = _defaults(cast("Callable[..., Any]", scope.token))
    given = {name: a for name, a in scope.given.items() if not isinstance(a, weakref.ref)}
    return tuple(f"{name}={value_text(a)}" for name, a in given.items() if not (name in usual and usual[name] == a))


def lets_through(node: Node, i: int) -> bool:
    """Whether the rule of a call sends a gradient to its argument number i.

    >>> lets_through(Node(np.where, (np.ones(3) > 0, np.ones(3), 0.0), {}), 0)
    False
    """
    rule = RULES[node.fun]
    return rule.each is not None or (i < len(rule.vjps) and rule.vjps[i] is not None)


def _is_usual(node: Node, name: str, value: Any) -> bool:
    """Whether an option is what it would be if nobody had written it.

    >>> _is_usual(Node(np.einsum, (), {}), "optimize", False), _is_usual(Node(np.sum, (), {}), "axis", 0)
    (True, False)
    """
    if name in ("padding", "dilation") and isinstance(value, tuple):  # windows take them written out for every axis
        return not np.any(np.asarray(value) - (name == "dilation"))
    if name == "stride" and isinstance(value, tuple):  # 1, or for pooling the size of the window
        given = {**dict(zip(_parameter_names(node), node.args or (), strict=False)), **node.kwargs}
        return value in ((1,) * len(value), given.get("size"))
    usual = _defaults(node.fun).get(name, inspect.Parameter.empty)
    plain = isinstance(value, (bool, int, float, str, tuple, type(None)))
    return plain and type(value) is type(usual) and bool(value == usual)


@functools.cache
def _defaults(fun: Callable[..., Any]) -> dict[str, Any]:
    """The options of a function that need not be written."""
    try:
        parameters = inspect.signature(fun).parameters
    except (TypeError, ValueError):  # some functions written in C do not say
        return {}
    return {name: p.default for name, p in parameters.items() if p.default is not p.empty}


def _arity(node: Node) -> int:
    """How many leading arguments a function computes with."""
    if isinstance(node.fun, np.ufunc):
        return node.fun.nin
    rule = RULES[node.fun]
    return len(rule.vjps) if rule.each is None else len(node.args or ())


def _parameter_names(node: Node) -> tuple[str, ...]:
    """The names of a function's positional arguments, as its rule writes them."""
    rule = RULES[node.fun]
    skip = 2 if rule.each is None else 3  # a rule starts with (g, y, ...) or (i, g, y, ...)
    for written in rule.vjps if rule.each is None else (rule.each,):
        code = getattr(written, "__code__", None)
        if code is not None:
            return tuple(code.co_varnames[skip : code.co_argcount])
    return ("a", "b")[: node.fun.nin] if isinstance(node.fun, np.ufunc) else ()
