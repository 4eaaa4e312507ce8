"""The rule table: what is known about each function, above all how to send a gradient back through a call of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from tinygrad_mm.graph.records import Scope, Vertex, name_of, state

__all__ = [
    "RULES",
    "Rule",
    "defcomposite",
    "defmetadata",
    "defstopped",
    "defvjp",
    "defvjp_each",
    "named_call",
    "positional",
    "primitive",
    "select",
]


class Rule:
    """What is known about one function.

    `forward`: what to call on plain arrays. The derivative is given in one of three ways, and a function with none of
    them stops the gradient (`differentiable` is False):

    - `vjps`: for each array argument its vector-Jacobian product, `vjp(g, y, *args, **kwargs)`: the gradient g of the
      output y times the derivative of y with respect to the argument;
    - `each`: the same for any number of arguments, `each(i, g, y, *args, **kwargs)` for the i-th;
    - `composite`: an expression in functions that have rules. Beside `vjps`, it serves the calls for which
      `when(*args)` holds, and options that the rule does not know.

    `names`: the parameters that the rule knows, in order; `more`: it takes any number. `metadata`: the function looks
    at shapes and dtypes only. `signature`: what it does to shapes, as text.
    """

    __slots__ = (
        *("composite", "differentiable", "each", "forward", "fun", "metadata", "more", "names", "signature", "vjps"),
        "when",
    )

    def __init__(self, fun: Callable[..., Any]) -> None:
        self.fun = fun
        self.forward: Callable[..., Any] = getattr(fun, "forward", fun)
        self.vjps: tuple[Callable[..., Any] | None, ...] = ()
        self.each: Callable[..., Any] | None = None
        self.composite: Callable[..., Any] | None = None
        self.when: Callable[..., bool] | None = None
        self.differentiable = False
        self.metadata = False
        self.names: tuple[str, ...] = ()
        self.more = False
        self.signature = ""


RULES: dict[Callable[..., Any], Rule] = {}

Function = TypeVar("Function", bound=Callable[..., Any])


def _rule(fun: Callable[..., Any]) -> Rule:
    return RULES.setdefault(fun, Rule(fun))


def _describe(rule: Rule, vjps: Iterable[Callable[..., Any] | None], skip: int) -> None:
    """Read the parameters that a rule knows off its functions, after the first `skip`: (i,) g and y."""
    given = [vjp for vjp in vjps if vjp is not None]
    code = getattr(given[0], "__code__", None) if given else None
    rule.names = tuple(code.co_varnames[skip : code.co_argcount + code.co_kwonlyargcount]) if code else ()
    rule.more = code is None or bool(code.co_flags & inspect.CO_VARARGS)


def _check_operation(what: str, fun: Callable[..., Any]) -> None:
    """Refuse a rule for a plain Python function: a call of it is not recorded, only the calls that it makes."""
    if not hasattr(fun, "forward") and not (getattr(fun, "__module__", None) or "numpy").startswith("numpy"):
        raise TypeError(
            f"{what}: {name_of(fun)} is a plain function, so calls of it are not recorded and its rule would never be "
            "used; decorate it with @primitive first"
        )


def positional(fun: Callable[..., Any]) -> list[str]:
    """The names of the parameters that may be given by position; none where a function written in C says nothing."""
    try:
        parameters = inspect.signature(fun).parameters.values()
    except ValueError:
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _check_options(fun: Callable[..., Any], rule: Rule) -> None:
    """Refuse a rule that has an option in another place than its function: a call by position would mistake it."""
    options = slice(len(rule.vjps), len(rule.names))
    own = positional(fun) if rule.names[options] and not isinstance(fun, np.ufunc) else []  # whose options are keywords
    if any(name != other for name, other in zip(rule.names[options], own[options], strict=False)):
        raise TypeError(
            f"defvjp: a rule of {name_of(fun)} takes what the function takes, in its order: g, y, {', '.join(own)}; "
            f"this one takes g, y, {', '.join(rule.names)}"
        )


def defvjp(fun: Callable[..., Any], *vjps: Callable[..., Any] | None, signature: str = "") -> None:
    """Give `fun` its derivative: one function per array argument, `vjp(g, y, *args, **kwargs)`.

    Each returns the gradient of that argument, given the gradient `g` of the output `y` and the call's own arguments.
    The result may have the broadcast shape: the engine sums it back to the argument's. A rule is written in NumPy
    functions that have rules themselves, which makes derivatives of every order; None in its place stops the gradient
    of that argument. `signature` tells the catalogue the shapes, in the notation of NumPy's generalized ufuncs.

    Raises TypeError for a plain function, which needs `@primitive` first, and for a `vjp` of too few arguments or
    of options in another order.

    >>> cube = primitive(lambda x: x * x * x)
    >>> defvjp(cube, lambda g, y, x: g * 3 * x * x, signature="(...) -> (...)")
    >>> RULES[cube].vjps[0](1.0, 8.0, 2.0)
    12.0
    """
    _check_operation("defvjp", fun)
    rule = _rule(fun)
    rule.vjps = vjps
    rule.differentiable = True
    _describe(rule, vjps, skip=2)
    if not rule.more and len(rule.names) < len(vjps):
        raise TypeError(
            f"defvjp: a rule of {name_of(fun)} takes g, y and its {len(vjps)} arguments, as in lambda g, y, x: g * y "
            "(what HIPS autograd writes as lambda y, x: lambda g: g * y)"
        )
    _check_options(fun, rule)
    rule.signature = signature or ("(...) -> (...)" if len(vjps) == 1 else "(...), (...) -> (...) broadcast")


def defvjp_each(fun: Callable[..., Any], each: Callable[..., Any], signature: str = "") -> None:
    """Give `fun`, a function of any number of arrays, its derivative: `each(i, g, y, *args, **kwargs)` for the i-th.

    `signature` is as for `defvjp`. Raises TypeError for a plain function, which needs `@primitive` first.

    >>> total = primitive(lambda *xs: sum(xs))
    >>> defvjp_each(total, lambda i, g, y, *xs: g, signature="(...), ... -> (...)")
    >>> RULES[total].each(1, 5.0, 3.0, 1.0, 2.0)
    5.0
    """
    _check_operation("defvjp_each", fun)
    rule = _rule(fun)
    rule.each = each
    rule.differentiable = True
    _describe(rule, [each], skip=3)
    rule.signature = signature


def defcomposite(
    fun: Callable[..., Any],
    expression: Callable[..., Any],
    signature: str = "",
    when: Callable[..., bool] | None = None,
) -> None:
    """Define `fun` by an expression in functions that have rules: `expression` is called with the arguments of `fun`.

    Where `fun` also has a rule of its own, the expression serves the keywords which that rule does not know, and the
    calls for which `when(*args)` holds. `signature` is as for `defvjp`.

    >>> def double(x): return 2 * x
    >>> defcomposite(double, lambda x: x + x)
    >>> RULES[double].composite(3)
    6
    """
    rule = _rule(fun)
    rule.composite = expression
    rule.when = when
    rule.differentiable = True
    rule.signature = rule.signature or signature


def defstopped(*funs: Callable[..., Any]) -> None:
    """Register functions whose derivative is zero or undefined: recorded, and the gradient stops there.

    >>> import numpy as np
    >>> defstopped(np.heaviside)
    >>> RULES[np.heaviside].differentiable
    False
    """
    for fun in funs:
        _rule(fun).signature = "gradient stops"


def defmetadata(*funs: Callable[..., Any]) -> None:
    """Register functions that look at shapes and dtypes only, such as `np.ndim`: called on the arrays, not recorded."""
    for fun in funs:
        _rule(fun).metadata = True
        _rule(fun).signature = "shape or dtype only"


def primitive(fun: Function) -> Function:
    """Make a function of arrays an operation of the graph: a decorator; `defvjp` then gives it a rule.

    Called on plain arrays, it is the function as it was. Called on Tensors, it goes the way of NumPy's own functions,
    by `__array_function__` (NEP 18), and the call is recorded.

    >>> import numpy as np
    >>> @primitive
    ... def cube(x):
    ...     return x ** 3
    >>> defvjp(cube, lambda g, y, x: g * 3 * x ** 2)
    >>> cube(np.array([1.0, 2.0]))
    array([1., 8.])
    """

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        for a in (*args, *kwargs.values()):
            if isinstance(a, Vertex):
                return a.__array_function__(call, (type(a),), args, kwargs)
        return fun(*args, **kwargs)

    call.forward = fun  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def named_call(fun: Function) -> Function:
    """Mark the operations inside a function as parts of one call of it, which pictures draw as one box.

    Where an argument requires a gradient, operations on constants are recorded too, so that the box begins with what
    the function was given.

    >>> import numpy as np
    >>> @named_call
    ... def hypotenuse(a, b):
    ...     return np.sqrt(a * a + b * b)
    >>> hypotenuse(3.0, 4.0)
    np.float64(5.0)
    """
    names = tuple(inspect.signature(fun).parameters)

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        outer, complete = state.scope, state.complete
        needed = any(isinstance(a, Vertex) and a.requires_grad for a in (*args, *kwargs.values()))
        given = {**dict(zip(names, args, strict=False)), **kwargs} if needed or complete else {}
        state.scope = Scope(call, name_of(fun), outer, given)
        state.complete = complete or (needed and state.recording)
        try:
            return fun(*args, **kwargs)
        finally:
            state.scope, state.complete = outer, complete

    return call  # type: ignore[return-value]


@primitive
def select(outputs: Any, index: int) -> Any:
    """One output of a call that returned several; its rule gives a list, with None as the gradient of the others."""
    return outputs[index]


defvjp(
    select,
    lambda g, y, outputs, index: [g if i == index else None for i in range(len(outputs))],
    signature="((...), (...), ...) -> (...)",
)
