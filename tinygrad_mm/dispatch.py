"""Dispatch: from a call as NumPy hands it over to the one form in which calls are recorded.

Floor 2 (it imports floors 0 and 1 only). NumPy's functions come with lists, NumPy scalars, keywords and positions in
any mixture. In normal form, the arguments that a rule differentiates are positional, all others are keywords, and no
Tensor hides in a container.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.arrays import as_array, is_foreign_array, operand_array
from tinygrad_mm.errors import qualified
from tinygrad_mm.graph import NO_KWARGS, RULES, Rule, Vertex, positional, state
from tinygrad_mm.rules.foreign import rule_for
from tinygrad_mm.rules.pieces import WRITING

__all__ = ["normal_form", "operand", "plain", "rule_of", "in_normal_form"]

# Types that an operation takes as they are. Python numbers are weak, as NumPy calls it: they never change the dtype of
# an array beside them.
_AS_THEY_ARE = frozenset({float, int, bool, np.ndarray, type(None)})


def operand(a: Any, sequences: Any = list) -> Any:
    """An operand in normal form: NumPy scalars become Python's (weak), arrays of other libraries become NumPy's.

    So do sequences of the types `sequences`.
    """
    if type(a) in _AS_THEY_ARE or isinstance(a, Vertex):
        return a
    if isinstance(a, sequences):
        return as_array(a)
    if is_foreign_array(a):
        return operand_array(a)
    if type(a) in (list, tuple) and any(map(is_foreign_array, a)):
        return type(a)(operand_array(part) if is_foreign_array(part) else part for part in a)
    return a.item() if isinstance(a, np.generic) else a


def plain(a: Any) -> Any:
    """The same structure with arrays in place of Tensors."""
    if isinstance(a, Vertex):
        return a.value
    if isinstance(a, (list, tuple)) and not hasattr(a, "_fields"):
        return type(a)(map(plain, a))
    return {k: plain(v) for k, v in a.items()} if isinstance(a, dict) else a


def rule_of(fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Rule:
    """What is known of a function; raises TypeError where that is nothing, or where the call writes into `out`."""
    rule = rule_for(fun)
    if fun in WRITING:
        raise TypeError(
            f"{qualified(fun)} writes into an array, which the graph could not differentiate; use {WRITING[fun]}"
        )
    if rule is None:
        raise TypeError(
            f"{qualified(fun)} has no derivative rule. Register one with tg.defvjp or write it as an expression of "
            "functions that have rules with tg.defcomposite; or pass t.detach().data if no gradient is needed"
        )
    if kwargs.get("out") is not None or _positional_out(fun, args):
        raise TypeError(f"{qualified(fun)}: out= would write into an array outside the graph; use the returned Tensor")
    return rule


def in_normal_form(fun: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether a call without keywords is in normal form already, as most are: Tensors, arrays and numbers only."""
    rule = RULES.get(fun)
    if rule is None or len(args) > len(rule.vjps) or (rule.when is not None and rule.when(*args)):
        return False
    for a in args:  # noqa: SIM110 (half the time of all() with a generator, in every call)
        if not isinstance(a, Vertex) and type(a) not in _AS_THEY_ARE:
            return False
    return True


def normal_form(
    rule: Rule, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any] | None, tuple[Any, ...], Mapping[str, Any]]:
    """(expression, args, kwargs) of a call: None and its normal form, or the expression to call instead."""
    name, sequences = qualified(rule.fun), (list, tuple) if isinstance(rule.fun, np.ufunc) else ()
    args, kwargs = tuple(operand(a, sequences) for a in args), {k: operand(a, ()) for k, a in kwargs.items()}
    given = args, kwargs
    if not rule.differentiable:
        if state.tracing and _hidden(args, kwargs):
            raise TypeError(f"{name}: a Tensor inside a container or keyword cannot be traced")
        return None, tuple(a if isinstance(a, Vertex) else plain(a) for a in args), plain(kwargs) or NO_KWARGS
    if rule.each is not None:
        return None, tuple(map(operand, args)), kwargs or NO_KWARGS
    if not rule.vjps or (rule.when is not None and not kwargs and rule.when(*args)):
        return _known(rule, given[1]), *given
    arity = len(rule.vjps)
    if len(args) > len(rule.names):  # more than the rule knows: its expression takes them, or its *args
        if rule.composite is None and not rule.more:
            raise TypeError(
                f"{name} was given {len(args)} arguments, but its rule knows {', '.join(rule.names)} only; "
                "give every function of the rule the parameters of the operation"
            )
        return rule.composite, tuple(map(operand, args)), kwargs or NO_KWARGS
    kwargs = {**dict(zip(rule.names[arity:], args[arity:], strict=False)), **kwargs}
    positional = [operand(a) for a in args[:arity]]
    while len(positional) < min(arity, len(rule.names)) and rule.names[len(positional)] in kwargs:
        positional.append(operand(kwargs.pop(rule.names[len(positional)])))
    for key, value in kwargs.items():
        if key in rule.names[arity:] and isinstance(value, Vertex):
            raise TypeError(f"{name}: {key}= takes a plain value, not a Tensor")
    unknown = [key for key in kwargs if key not in rule.names or isinstance(kwargs[key], Vertex)]
    if not unknown:
        return None, tuple(positional), kwargs or NO_KWARGS
    if rule.composite is not None:
        return _known(rule, given[1]), *given
    raise _unsupported(rule, unknown[0], rule.names)


def _known(rule: Rule, kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
    """The expression of a rule, if it takes these keywords."""
    if kwargs and rule.composite is not None:
        parameters = inspect.signature(rule.composite).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for key in kwargs.keys() - parameters.keys():
                raise _unsupported(rule, key, parameters)
    return rule.composite


def _unsupported(rule: Rule, option: str, supported: Iterable[str]) -> TypeError:
    return TypeError(
        f"{qualified(rule.fun)}: the option {option}= is not supported on Tensors; supported are {', '.join(supported)}"
    )


@functools.cache
def _place_of_out(fun: Callable[..., Any]) -> int | None:
    """The position of `out` among the positional parameters of a function, or None."""
    # in some versions of NumPy, functions written in C say nothing
    names = positional(fun) or {np.dot: ["a", "b", "out"], np.concatenate: ["arrays", "axis", "out"]}.get(fun, [])
    return names.index("out") if "out" in names else None


def _positional_out(fun: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether a call passes `out` by position."""
    place = _place_of_out(fun) if len(args) > 1 and not isinstance(fun, np.ufunc) else None
    return place is not None and len(args) > place and args[place] is not None


def _hidden(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a Tensor is where the record of a call would not show it."""
    return any(isinstance(v, Vertex) for v in kwargs.values()) or any(
        isinstance(a, (list, tuple)) and any(isinstance(x, Vertex) for x in a) for a in args
    )
