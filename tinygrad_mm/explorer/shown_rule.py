"""`rule(fun)`: the derivative of one function as mathematics, as its source, and with numbers."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.explorer.formula import formula_of
from tinygrad_mm.explorer.latex import latex
from tinygrad_mm.explorer.mathematics import operation_name
from tinygrad_mm.explorer.terms import Term, constant, write
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Node, Rule, Vertex, select
from tinygrad_mm.numeric import numeric_gradient
from tinygrad_mm.rules.foreign import rule_for
from tinygrad_mm.rules.shown import shown
from tinygrad_mm.tensor import Tensor

__all__ = ["ShownGradient", "ShownRule", "rule"]

# What an example may look like: the shapes of up to so many arguments, tried in this order, with numbers on either side
# of 0, or above 0 or 1 where a function wants that.
SHAPES: dict[int, tuple[tuple[tuple[int, ...], ...], ...]] = {
    1: (((3,),), ((2, 3),), ((2, 2),), ((1, 1, 4),), ((1, 1, 3, 3),)),
    2: (((3,), (3,)), ((2, 3), (3, 2)), ((2, 2), (2, 2)), ((2, 3), (2,))),
    3: (((3,), (3,), (3,)), ((2, 2), (2, 2), (2, 2))),
}
STARTS = (-0.7, 0.2, 1.2)
SYMMETRIC = (np.linalg.cholesky, np.linalg.eigh, np.linalg.eigvalsh)  # functions of symmetric matrices

MATRIX = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])
SQUARE = np.array([[2.0, 0.5], [0.5, 1.0]])
VECTOR = np.array([0.5, -1.0, 2.0])
IMAGE = np.array([[[[1.0, 2.0, 3.0], [4.0, 6.0, 5.0], [9.0, 8.0, 7.0]]]])
WINDOW = ((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1))

# Examples for functions that take more than arrays; by name, as some are the package's own.
EXAMPLES: dict[str, tuple[Any, ...]] = {
    "getitem": (MATRIX, (slice(None), 1)),
    "take": (VECTOR, np.array([2, 0, 2])),
    "take_along_axis": (MATRIX, np.array([[2, 0], [1, 1]]), 1),
    "pick": (MATRIX, np.array([2, 0])),
    "clip": (VECTOR, 0.0, 1.0),
    "reshape": (MATRIX, (3, 2)),
    "swapaxes": (MATRIX, 0, 1),
    "moveaxis": (MATRIX, 0, 1),
    "expand_dims": (VECTOR, 0),
    "broadcast_to": (VECTOR, (2, 3)),
    "roll": (VECTOR, 1),
    "repeat": (VECTOR, 2),
    "tile": (VECTOR, 2),
    "pad": (VECTOR, 1),
    "astype": (VECTOR, np.dtype(np.float64)),
    "einsum": ("ij,j->i", MATRIX, VECTOR),
    "tensordot": (MATRIX, VECTOR, 1),
    "outer": (VECTOR, VECTOR),
    "convolve": (VECTOR, np.array([1.0, 0.5])),
    "cholesky": (SQUARE,),
    "eigh": (SQUARE,),
    "eigvalsh": (SQUARE,),
    "matrix_power": (SQUARE, 3),
    "choose": (np.array([0, 1, 0]), [VECTOR, 2 * VECTOR]),
    "interp": (np.array([0.5, 1.5]), np.array([0.0, 1.0, 2.0]), VECTOR),
    "windows": (IMAGE, *WINDOW),
    "max_pool": (IMAGE, *WINDOW),
    "standardize": (MATRIX, (1,)),
    "cross_entropy": (MATRIX, np.array([2, 0])),
    "unstack": (MATRIX,),
    "split": (np.array([0.5, -1.0, 2.0, 1.5]), 2),
}


@dataclass(frozen=True)
class ShownGradient:
    """The gradient of one argument.

    `formula` is mathematics in Unicode, `latex` the same in LaTeX, `where` says what further names in it stand for;
    they are empty where there is no example to read the rule on. `source` is the rule as it is written, helpers put in.
    `value` is the gradient of the example, `difference` how far finite differences are from it.
    """

    argument: str
    source: str
    formula: str = ""
    latex: str = ""
    where: tuple[str, ...] = ()
    value: Any = None
    difference: float | None = None


@dataclass(frozen=True)
class ShownRule:
    """The rule of one function, with an example: `arguments`, the `result`, and the `gradient` that reaches it.

    It prints itself as text, and shows itself in a notebook.
    """

    name: str
    signature: str
    expression: str
    gradients: tuple[ShownGradient, ...]
    arguments: tuple[tuple[str, Any], ...] = ()
    result: Any = None
    gradient: Any = None

    @property
    def latex(self) -> str:
        """The formulas in LaTeX, one below the other."""
        lines = [one.latex.replace(" = ", " &= ", 1) for one in self.gradients if one.latex]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}" if lines else ""

    def __repr__(self) -> str:
        lines = [f"{self.name}: {self.signature}"]
        if self.expression:
            lines.append(f"  = {self.expression}".replace("\n", "\n    "))
        for one in self.gradients:
            lines += ["", f"  {one.formula or f'gradient of {one.argument}'}"]
            lines += [f"    where {text}" for text in one.where]
            lines += [f"    {line}" for line in one.source.splitlines()]
        if self.arguments:
            lines += ["", "  example"]
            lines += [f"    {name} = {_numbers(value)}" for name, value in self._values()]
        return "\n".join(lines)

    def _values(self) -> Iterator[tuple[str, Any]]:
        yield from self.arguments
        yield "y", self.result
        yield "∂L/∂y", self.gradient
        for one in self.gradients:
            if one.value is not None:
                known = "" if one.difference is None else f"   (finite differences: ± {one.difference:.0e})"
                yield f"∂L/∂{one.argument}", f"{_numbers(one.value)}{known}"

    def _repr_html_(self) -> str:
        """A section of a page; `python -m tinygrad_mm.rules --html` is made of them."""
        escaped = html.escape
        parts = [f"<h3>{escaped(self.name)} <small>{escaped(self.signature)}</small></h3>"]
        if self.expression:
            parts.append(f"<pre>= {escaped(self.expression)}</pre>")
        for one in self.gradients:
            parts.append(f'<p title="{escaped(one.latex)}">{escaped(one.formula or f"gradient of {one.argument}")}</p>')
            parts += [f"<p>where {escaped(text)}</p>" for text in one.where]
            parts.append(f"<pre>{escaped(one.source)}</pre>")
        if self.arguments:
            rows = "\n".join(f"{name} = {_numbers(value)}" for name, value in self._values())
            parts.append(f"<details><summary>example</summary><pre>{escaped(rows)}</pre></details>")
        return f"<section>{''.join(parts)}</section>"


def rule(fun: Callable[..., Any], *example: Any, **options: Any) -> ShownRule:
    """The derivative of a function: as mathematics, as its source, and with numbers.

    `example` are arguments to show it on, `options` keywords of the call; without any, small ones are tried.

    Raises TypeError for a function without a rule.

    >>> print(rule(np.multiply, [1.0, 2.0], [3.0, 4.0]).gradients[0].formula)
    ∂L/∂a = ∂L/∂y ⊙ b
    >>> print(rule(np.multiply).latex)
    \\begin{aligned}
    \\frac{\\partial L}{\\partial a} &= \\frac{\\partial L}{\\partial y} \\odot b \\\\
    \\frac{\\partial L}{\\partial b} &= \\frac{\\partial L}{\\partial y} \\odot a
    \\end{aligned}
    """
    known = rule_for(fun)
    if known is None:
        raise TypeError(
            f"rule: {operation_name(fun)} has no rule of its own; give it one with tg.defvjp, or ask for the functions "
            "that it calls"
        )
    given: list[Sequence[Any]] = [example] if example else list(_examples(known))
    for arguments in given:
        try:
            with np.errstate(all="ignore"):
                found = _with_example(known, arguments, options)
        except Exception:
            if example:
                raise
            continue
        if found is not None:
            return found
    return _without_example(known)


def _examples(known: Rule) -> Iterator[list[Any]]:
    """Small arguments: as many arrays as the rule sends gradients to, or fewer."""
    fitting = EXAMPLES.get(operation_name(known.fun))
    if fitting is not None:
        yield list(fitting)
    most = len(known.vjps) or (2 if known.each is not None else 1)
    for count in range(min(most, 3), 0, -1):
        for start in STARTS:
            for shapes in SHAPES[count]:
                numbers = itertools.cycle(start + (0.45 if start < 0 else 0.15) * np.arange(5))
                yield [np.array([next(numbers) for _ in range(math.prod(s))]).reshape(s) for s in shapes]


def _parts(known: Rule) -> list[tuple[str, Callable[..., Any]]]:
    """The functions of a rule, by what each is for."""
    if known.each is not None:
        return [("x", known.each)]
    names = [*known.names, *(f"x{i}" for i in range(len(known.names), len(known.vjps)))]
    return [(name, vjp) for name, vjp in zip(names, known.vjps, strict=False) if vjp is not None]


def _expression(known: Rule) -> str:
    return "" if known.composite is None or known.vjps else shown(known.composite).text()


def _without_example(known: Rule) -> ShownRule:
    told = tuple(ShownGradient(name, shown(function).text()) for name, function in _parts(known))
    return ShownRule(operation_name(known.fun), known.signature, _expression(known), told)


def _with_example(known: Rule, arguments: Sequence[Any], options: dict[str, Any]) -> ShownRule | None:
    """The rule on one call; None where that says nothing: it records another function, or gives no finite numbers."""
    tensors = [_tensor(a) for a in arguments]
    y = known.fun(*tensors, **options)
    vertex = _producer(y)
    node = None if vertex is None else vertex.node
    if vertex is None or node is None or node.args is None or (node.fun is not known.fun and not _expression(known)):
        return None
    results = vertex.value if isinstance(vertex.value, tuple) else (vertex.value,)
    if not all(r.dtype.kind == "f" and np.isfinite(r).all() for r in results):
        return None
    gs = [np.linspace(1.0, 2.0, r.size).reshape(r.shape) if r.size > 1 else np.full(r.shape, 1.5) for r in results]
    several = isinstance(vertex.value, tuple)
    names = list(known.names) or [f"x{i}" for i in range(len(tensors))]
    if node.fun is not known.fun:
        return _composite(known, y, tensors, gs, several)
    needed = [i for i, a in enumerate(node.args) if isinstance(a, Vertex) and a.requires_grad]
    names = [names[i] if i < len(names) and known.each is None else f"x{i}" for i in range(len(node.args))]
    given = [_named("∂L/∂y", gs if several else gs[0]), _named("y", vertex.value)]
    given += [
        _named(name, a.value if isinstance(a, Vertex) else a) if isinstance(a, (Vertex, np.ndarray)) else constant(a)
        for name, a in zip(names, node.args, strict=True)
    ]
    told = []
    for i in needed:
        function = known.each if known.each is not None else known.vjps[i] if i < len(known.vjps) else None
        if function is None:
            continue
        formula = formula_of(function, *([constant(i)] if known.each is not None else []), *given, **node.kwargs)
        left = f"∂L/∂{names[i]}"
        value, difference = _checked(known, vertex, node, i, gs, several)
        told.append(
            ShownGradient(
                names[i],
                shown(function).text(),
                f"{left} = {write(formula.term)}",
                f"{latex(_named(left, value))} = {latex(formula.term)}",
                tuple(f"{name} = {write(term)}" for name, term in formula.where),
                value,
                difference,
            )
        )
    arrays = tuple((name, a.value if isinstance(a, Vertex) else a) for name, a in zip(names, node.args, strict=True))
    shown_arrays = tuple((name, a) for name, a in arrays if isinstance(a, np.ndarray))
    return ShownRule(
        *(operation_name(known.fun), known.signature, _expression(known), tuple(told), shown_arrays),
        vertex.value,
        gs if several else gs[0],
    )


def _composite(known: Rule, y: Any, tensors: list[Any], gs: list[Any], several: bool) -> ShownRule:
    """A function that stands for an expression: the gradients are those of the expression."""
    with_gradient = [t for t in tensors if isinstance(t, Tensor) and t.requires_grad]
    names = [f"x{i}" for i in range(len(with_gradient))] if len(with_gradient) > 1 else ["x"]
    outputs = list(y) if several else y
    found = gradients(outputs, with_gradient, gs if several else gs[0], allow_unused=True)
    told = tuple(
        ShownGradient(name, "", value=None if g is None else g.value) for name, g in zip(names, found, strict=True)
    )
    arrays = tuple((name, t.value) for name, t in zip(names, with_gradient, strict=True))
    result = tuple(one.value for one in y) if several else y.value
    name, expression = operation_name(known.fun), _expression(known)
    return ShownRule(name, known.signature, expression, told, arrays, result, gs if several else gs[0])


def _checked(known: Rule, vertex: Vertex, node: Node, i: int, gs: list[Any], several: bool) -> tuple[Any, float | None]:
    """The engine's gradient of an argument, and how far finite differences are from it."""
    args = [a.value if isinstance(a, Vertex) else a for a in node.args or ()]

    def loss(x: Any) -> Any:
        x = (x + x.mT) / 2 if known.fun in SYMMETRIC else x
        y = known.forward(*args[:i], x, *args[i + 1 :], **node.kwargs)
        return sum(np.sum(g * one) for g, one in zip(gs, y if several else (y,), strict=True))

    tensor = (node.args or ())[i]
    outputs = [select(vertex, k) for k in range(len(gs))] if several else vertex
    value = gradients(outputs, tensor, gs if several else gs[0], retain_graph=True).value
    try:
        return value, float(np.abs(numeric_gradient(loss, [args[i]]) - value).max(initial=0.0))
    except (TypeError, ValueError):
        return value, None


def _tensor(a: Any) -> Any:
    """An argument of the example: arrays of floating numbers require a gradient."""
    if isinstance(a, Tensor):
        return a
    if isinstance(a, list) and a and isinstance(a[0], np.ndarray):
        return [_tensor(one) for one in a]
    if isinstance(a, (list, np.ndarray, float)):
        array = np.asarray(a)
        if array.dtype.kind == "f":
            return Tensor(array.astype(np.float64), requires_grad=True)
        return array
    return a


def _producer(y: Any) -> Vertex | None:
    """The vertex of the call behind a result, or behind several results."""
    first = y[0] if isinstance(y, (tuple, list)) and y else y
    if not isinstance(first, Vertex) or first.node is None:
        return None
    if first.node.fun is select and first.node.args is not None:
        made: Vertex = first.node.args[0]
        return made
    return first


def _named(name: str, array: Any) -> Term:
    """An array, or several, with a name."""
    if isinstance(array, (tuple, list)):
        return Term("several", array, tuple(Term("name", one, text=f"{name}[{i}]") for i, one in enumerate(array)))
    return Term("name", array, text=name)


def _numbers(value: Any) -> str:
    """An array on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_numbers, value))})"
    return np.array2string(np.asarray(value), precision=4, separator=", ", max_line_width=10_000).replace("\n", "")
