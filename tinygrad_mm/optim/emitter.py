"""A traced formula written out as straight-line NumPy code, each call into a buffer that is free by then."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.graph import Node, Vertex, name_of, topological
from tinygrad_mm.tensor import Tensor, apply

__all__ = ["Emitter"]

# What a call is given: an array, a number that is known now, or the name of a number worked out at each step.
Operand: TypeAlias = "Vertex | float | str"

_NO_POSITIONAL_OUT = (np.maximum, np.minimum)  # NumPy deprecates their third positional argument
_ELEMENTWISE = (np.where, np.clip)  # besides the ufuncs
# Masks live in floating buffers like everything else, where the bitwise operators do not work.
_OF_MASKS = {
    np.bitwise_and: np.logical_and,
    np.bitwise_or: np.logical_or,
    np.bitwise_xor: np.logical_xor,
    np.invert: np.logical_not,
}
# Numbers are Python floats: its own operators are ten times as fast on them as NumPy's functions.
_OF_NUMBERS = {
    np.add: "{} + {}",
    np.subtract: "{} - {}",
    np.multiply: "{} * {}",
    np.divide: "{} / {}",
    np.power: "{} ** {}",
    np.negative: "-{}",
    np.sqrt: "math.sqrt({})",
}


@dataclass
class _Call:
    """`result = fun(*operands, **kwargs)` on arrays."""

    result: Vertex
    fun: Callable[..., Any]
    operands: list[Operand]
    kwargs: Mapping[str, Any]

    def scaling(self) -> tuple[Vertex, Operand] | None:
        """(array, number) where the call multiplies or divides an array by a number."""
        if self.fun in (np.multiply, np.divide):
            a, b = self.operands
            if isinstance(a, Vertex) and not isinstance(b, Vertex):
                return a, b
            if isinstance(b, Vertex) and not isinstance(a, Vertex) and self.fun is np.multiply:
                return b, a
        return None


class Emitter:
    """Writes the calls behind `outputs`, the new values of all `arrays` but the gradient, as a Python `source`."""

    def __init__(self, arrays: dict[str, Tensor], numbers: dict[str, Tensor], outputs: Sequence[Tensor]) -> None:
        self.inputs = arrays
        self.places = [name for name in arrays if name != "gradient"]
        self.names: dict[int, str] = {id(t): name for name, t in {**arrays, **numbers}.items()}
        self.namespace: dict[str, Any] = {"math": math, "inf": math.inf, "nan": math.nan, "copyto": np.copyto}
        self.constants: dict[float, str] = {}
        self.temporaries = 0
        self.first: list[str] = []  # lines that work out numbers
        self.lines: list[str] = []  # lines that work on arrays
        self.used: dict[str, None] = {}  # names of the numbers that arrays are combined with, in order

        # A state that becomes another one's value (b = a) is a call too: it has to happen before `a` is overwritten.
        own = dict(zip(self.places, outputs, strict=True))
        given = {id(t): name for name, t in arrays.items()}
        self.outputs = {
            place: apply(np.positive, (t,)) if given.get(id(t), place) != place else t for place, t in own.items()
        }
        made = [t for t in topological(self.outputs.values(), everything=True) if t.node is not None]
        self._place(self._folded([self._call(t) for t in made if not self._is_number(t)]))

        for name in (*arrays, *numbers):
            if name in self.namespace or re.fullmatch(r"[cst]\d+", name):
                raise ValueError(f"a state or option cannot be called {name!r}: the update itself uses that name")
        temporaries = [f"t{i}" for i in range(self.temporaries)]
        parameters = [*arrays, *self.used, *self.constants.values(), *temporaries]
        self.source = "\n".join(
            [
                f"def scalars({', '.join(numbers)}):",
                *(f"    {line}" for line in self.first),
                f"    return ({', '.join(self.used)}{',' * (len(self.used) == 1)})",
                "",
                f"def update({', '.join(parameters)}):",
                *(f"    {line}" for line in self.lines or ["pass"]),
            ]
        )

    # -- numbers

    def _is_number(self, t: Vertex) -> bool:
        """Write down a call on numbers alone; False for one on arrays."""
        node = t.node
        assert node is not None
        assert node.args is not None
        if type(t.value) is tuple or t.value.ndim:
            return False
        if any(isinstance(a, Vertex) and (type(a.value) is tuple or a.value.ndim) for a in node.args):
            raise _not_elementwise(node)
        operands = [_text(_constant(a, self.names)) for a in node.args]
        template = _OF_NUMBERS.get(node.fun) if isinstance(node.fun, np.ufunc) else None
        if template is None:
            self.namespace[name_of(node.fun)] = node.fun
            options = [f"{k}={v!r}" for k, v in node.kwargs.items()]
            template = f"{name_of(node.fun)}({', '.join(['{}'] * len(operands) + options)})"
        self.names[id(t)] = self._number(template.format(*operands))
        return True

    def _number(self, expression: str) -> str:
        name = f"s{len(self.first)}"
        self.first.append(f"{name} = {expression}")
        return name

    def _combined(self, fun: Callable[..., Any], a: Operand, b: Operand) -> Operand:
        """The product or quotient of two numbers: worked out now if both are known, else at each step."""
        if isinstance(a, float) and isinstance(b, float) and (b or fun is np.multiply):
            return a * b if fun is np.multiply else a / b
        return self._number(f"{_text(a)} {'*' if fun is np.multiply else '/'} {_text(b)}")

    # -- arrays

    def _call(self, t: Vertex) -> _Call:
        """The record of one call on arrays, in the form that is fastest to run."""
        node = t.node
        assert node is not None
        assert node.args is not None
        fun = node.fun
        elementwise = isinstance(fun, np.ufunc) and fun.signature is None and type(t.value) is not tuple
        if not (elementwise or fun in _ELEMENTWISE) or t.value.shape != (1,):
            raise _not_elementwise(node)
        operands = [_constant(a, self.names) for a in node.args]
        if fun is np.power and operands[1] == 2.0 and isinstance(operands[0], Vertex):
            fun, operands = np.multiply, [operands[0]] * 2
        elif fun is np.power and operands[1] == 0.5:
            fun, operands = np.sqrt, operands[:1]
        elif isinstance(fun, np.ufunc):
            fun = _OF_MASKS.get(fun, fun)
        return _Call(t, fun, operands, node.kwargs)

    def _folded(self, calls: list[_Call]) -> list[_Call]:
        """Two scalings in a row, n * (m * x) or n * (x / m), become one pass over the array."""
        uses = Counter(id(a) for call in calls for a in call.operands if isinstance(a, Vertex))
        uses.update(id(t) for t in self.outputs.values())
        kept: dict[int, _Call] = {}
        for call in calls:
            outer = call.scaling()
            before = kept.get(id(outer[0])) if outer and uses[id(outer[0])] == 1 else None
            inner = before.scaling() if before else None
            if outer and before and inner:
                del kept[id(before.result)]
                (_, n), (x, m) = outer, inner
                if before.fun is np.multiply:
                    call = _Call(call.result, np.multiply, [self._combined(call.fun, m, n), x], {})
                elif call.fun is np.multiply:
                    call = _Call(call.result, np.multiply, [self._combined(np.divide, n, m), x], {})
                else:
                    call = _Call(call.result, np.divide, [x, self._combined(np.multiply, m, n)], {})
            kept[id(call.result)] = call
        return list(kept.values())

    def _place(self, calls: list[_Call]) -> None:
        """Give every result a buffer: the place of the state it becomes where nothing needs the old one any more."""
        last_use: dict[int, int] = {}
        users: dict[int, list[_Call]] = {}
        for i, call in enumerate(calls):
            for a in {id(a): a for a in call.operands if isinstance(a, Vertex)}:
                last_use[a] = i
                users.setdefault(a, []).append(call)
        home = {id(t): place for place, t in self.outputs.items()}
        last_use.update({t: len(calls) for t in home})
        free: list[str] = []
        temporary: set[int] = set()
        taken: set[str] = set()  # places that hold something new

        def place_of(result: Vertex, i: int) -> str | None:
            """The place that a result may be written to: its own, or that of the one state it is a term of."""
            place = home.get(id(result))
            if place is None:
                readers = users[id(result)]
                place = home.get(id(readers[0].result)) if len(readers) == 1 else None
            if place is None or last_use.get(id(self.inputs[place]), -1) > i:
                return None
            return place if id(result) in home or place not in taken else None

        for i, call in enumerate(calls):
            text = [self._operand(a) for a in call.operands]
            text += [f"{k}={v!r}" for k, v in call.kwargs.items()]
            for a in dict.fromkeys(id(a) for a in call.operands):
                if a in temporary and last_use[a] == i:
                    free.append(self.names[a])
            out = place_of(call.result, i)
            if out is not None:
                taken.add(out)
            else:
                if not free:
                    free.append(f"t{self.temporaries}")
                    self.temporaries += 1
                out = free.pop()
                temporary.add(id(call.result))
            self.names[id(call.result)] = out
            self.namespace[name_of(call.fun)] = call.fun
            written = f"{name_of(call.fun)}({', '.join(text)}"
            if not isinstance(call.fun, np.ufunc):
                self.lines.append(f"{out}[...] = {written})")
            else:
                self.lines.append(f"{written}, {'out=' if call.fun in _NO_POSITIONAL_OUT else ''}{out})")
        for place, t in self.outputs.items():
            if self.names[id(t)] != place:
                self.lines.append(f"copyto({place}, {self.names[id(t)]})")

    def _operand(self, a: Operand) -> str:
        if isinstance(a, float):
            return self.constants.setdefault(a, f"c{len(self.constants)}")
        if isinstance(a, str):
            if a not in ("None", "True", "False"):
                self.used[a] = None
            return a
        return self.names[id(a)]


def _constant(a: Any, names: Mapping[int, str]) -> Operand:
    """An argument of a recorded call as an operand."""
    if isinstance(a, Vertex):
        if id(a) in names or a.node is not None:
            return names[id(a)] if a.value.ndim == 0 else a
        a = a.value
    if isinstance(a, np.ndarray) and a.ndim:
        raise ValueError(
            f"a formula holds an array of shape {a.shape}; it is run on blocks of all parameters, so make it a state"
        )
    return str(a) if a is None else float(a)


def _text(a: Operand) -> str:
    assert not isinstance(a, Vertex)
    return a if isinstance(a, str) else f"({a!r})" if a < 0 else repr(a)


def _not_elementwise(node: Node) -> ValueError:
    return ValueError(
        f"{name_of(node.fun)} in a formula does not treat each element alone, and a formula is run on blocks that are "
        "not parameters; work such things out before the step, as clip_grad_norm does"
    )
