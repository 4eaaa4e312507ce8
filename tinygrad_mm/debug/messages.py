"""The parts of messages: arrays, tensors, operations and source lines as text."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.graph import Node, Scope, Vertex, name_of
from tinygrad_mm.names import Names, given_name

__all__ = [
    "arguments_text",
    "array_text",
    "call_of",
    "count_text",
    "line_text",
    "place_text",
    "scope_text",
    "title",
    "value_of",
]


def value_of(a: Any) -> Any:
    """The array behind a Tensor; the arrays behind several, as a tuple; anything else as it is."""
    if isinstance(a, (list, tuple)):
        return tuple(value_of(part) for part in a)
    return a.value if isinstance(a, Vertex) else a


def call_of(vertex: Vertex) -> tuple[Node, tuple[Any, ...]]:
    """The record of the call that made a computed vertex, and the arguments of that call."""
    node = vertex.node
    assert node is not None
    assert node.args is not None
    return node, node.args


def array_text(value: Any) -> str:
    """Shape, dtype and range of an array, with what is not finite counted; a plain number as it is.

    >>> array_text(np.array([1.0, np.inf, np.nan, -2.5]))
    '(4,) float64 from -2.5 to 1, 1 NaN, 1 inf'
    """
    if isinstance(value, tuple):
        return f"{len(value)} arrays"
    if not isinstance(value, np.ndarray):
        return f"the number {value}"
    text = f"{value.shape} {value.dtype}"
    if value.dtype.kind not in "fiu":
        return text
    finite = value[np.isfinite(value)]
    if finite.size:
        low, high = finite.min(), finite.max()
        text += f", all {low:.4g}" if low == high else f" from {low:.4g} to {high:.4g}"
    for name, test in (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
        number = int(test(value).sum())
        text += f", {number} {name}" if number else ""
    return text


def count_text(mask: np.ndarray[Any, Any]) -> str:
    """How many elements a mask names, and the first one.

    >>> count_text(np.array([[False, True], [False, True]]))
    '2 of 4 elements, the first at [0, 1]'
    """
    if mask.ndim == 0:
        return "its only element"
    first = ", ".join(str(int(i)) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))
    return f"{int(mask.sum())} of {mask.size} elements, the first at [{first}]"


def title(a: Any, names: Names) -> str:
    """What a tensor is called: its path in the model, its own name, or how it came to be.

    >>> title(np.ones(3), Names({}, {}))
    'an array'
    """
    if not isinstance(a, Vertex):
        return "an array" if isinstance(a, np.ndarray) else "a constant"
    given = names.tensors.get(id(a)) or given_name(a)
    if given:
        return given
    if a.node is not None:
        return f"the result of {name_of(a.node.fun)}"
    if type(a).__name__ != "Tensor":
        return f"a {type(a).__name__.lower()}"
    return "a leaf that requires grad" if a.requires_grad else "a constant tensor"


def arguments_text(args: Sequence[Any], names: Names) -> list[str]:
    """One line for each argument of a call that holds numbers."""
    return [
        f"argument {i}: {title(a, names)}, {array_text(value_of(a))}"
        for i, a in enumerate(args)
        if isinstance(a, (Vertex, np.ndarray, float, int)) and not isinstance(a, bool)
    ]


def scope_text(scope: Scope | None, names: Names) -> str:
    """The modules that a call was made in: `Sequential > Dense`, outermost first; `layers.0 (Dense)` with a model."""
    scope = None if scope is None else scope.module
    if scope is not None and names.modules.get(scope.token):
        return f"{names.modules[scope.token]} ({scope.label})"
    labels = []
    while scope is not None:
        labels.append(scope.label)
        scope = scope.parent
    return " > ".join(reversed(labels))


def line_text(line: tuple[str, int] | None) -> str:
    """A source line as `file.py:12: the code`."""
    if line is None:
        return ""
    code = linecache.getline(*line).strip()
    return f"{Path(line[0]).name}:{line[1]}" + (f": {code}" if code else "")


def place_text(scope: Scope | None, line: tuple[str, int] | None, names: Names) -> str:
    """Where a call was made, as far as that is known: module and source line."""
    return ", ".join(part for part in (scope_text(scope, names), line_text(line)) if part)
