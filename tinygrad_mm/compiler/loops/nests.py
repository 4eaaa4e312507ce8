"""Loop nests: neighbouring elementwise statements over the same elements in one pass, and reductions.

A nest is a function of pointers. What one statement has written, the next ones find in a register; it is stored only
where something outside of the nest reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.compiler.fused import where_positive
from tinygrad_mm.compiler.loops.elementwise_code import KNOWN, cast, number, scalar_of
from tinygrad_mm.compiler.statements import Array, Statement

__all__ = ["Access", "Element", "Nest", "Reduction", "Single", "element_of", "in_elements", "reduction_of"]

LONGEST = 24  # statements in one nest
MOST_MEMORIES = 12  # in one nest: the compiler has to tell whether they overlap
EXACT_UP_TO = 4096  # elements that are added up in single precision; more need a double to be as exact as NumPy's sum


class Access(NamedTuple):
    """Where the elements of an array are found in loops over a domain: equal for the same elements."""

    memory: Any
    offset: int
    strides: tuple[int, ...]  # in elements, for each axis of the domain that is longer than 1
    dtype: Any

    @classmethod
    def of(cls, array: Array, domain: tuple[int, ...]) -> Access:
        """That of an array which is broadcast to a domain."""
        size = array.dtype.itemsize
        strides = np.broadcast_to(array.ghost, domain).strides
        steps = tuple(s // size for s, n in zip(strides, domain, strict=True) if n > 1)
        # Two captured tensors may have been one array once, and be bound to different ones later.
        memory = array.top if array.memory.kind == "fixed" and array.top.is_leaf else array.memory
        return cls(memory, array.offset // size, steps, array.dtype)


def in_elements(array: Array) -> bool:
    """Whether loops can find the elements: numbers that are known, whole steps apart."""
    size = array.dtype.itemsize
    start = array.offset if array.memory.kind != "fixed" else array.ghost.__array_interface__["data"][0]
    steps = (s for s, n in zip(array.ghost.strides, array.shape, strict=True) if n > 1)
    return array.dtype in KNOWN and array.size > 0 and start % size == 0 and all(s % size == 0 for s in steps)


# ---------------------------------------------------------------------------------------------------------------------
# Elementwise
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Element:
    """An elementwise statement: `text(operands)` gives its number as one of `dtype`, from operands of `takes`."""

    statement: Statement
    text: Callable[[Sequence[str]], str]
    takes: Sequence[Any]
    operands: Sequence[Any]
    dtype: Any


def element_of(statement: Statement) -> Element | None:
    """How a statement is done for one element; None where it is not elementwise, or better left to NumPy."""
    fun, out = statement.fun, statement.out
    if "axes" in statement.options:
        return None
    if fun is np.ndarray.fill:
        constant = number(statement.operands[0], out.dtype)
        return Element(statement, lambda a: constant, [], [], out.dtype)
    if fun is where_positive:
        zero, two = number(0, out.dtype), [out.dtype] * 2
        text = lambda a: f"({zero} if {a[1]} <= {zero} else {a[0]})"
        return Element(statement, text, two, statement.operands, out.dtype)
    if fun not in (np.copyto, np.where) and not (isinstance(fun, np.ufunc) and fun.signature is None):
        return None
    args = [a.item() if isinstance(a, np.ndarray) and not a.ndim else a for a in statement.operands]
    for dtype in dict.fromkeys([out.dtype, np.dtype(bool)]):  # a comparison may be written as numbers
        scalar = scalar_of(fun, args, dtype, out.size)
        if scalar is not None:
            return Element(statement, scalar.text, scalar.takes, scalar.operands, dtype)
    return None


class Nest:
    """Elementwise statements over one domain; `add` takes one more, if it fits."""

    def __init__(self, element: Element) -> None:
        self.domain = element.statement.out.shape
        self.lengths = tuple(n for n in self.domain if n > 1)
        self.elements: list[Element] = []
        self.access: dict[Array, Access] = {}
        self.add(element)

    @property
    def statements(self) -> list[Statement]:
        """Those that it does."""
        return [element.statement for element in self.elements]

    def add(self, element: Element) -> bool:
        """Take a statement in; False where it goes over others, or reads or writes the same elements in other order."""
        statement = element.statement
        shape = statement.out.shape
        if len(self.elements) >= LONGEST or tuple(n for n in shape if n > 1) != self.lengths:
            return False
        arrays = [*(a for a in element.operands if isinstance(a, Array)), statement.out]
        accesses = {a: self.access.get(a) or Access.of(a, shape) for a in arrays}
        memories = {a.memory for a in (*self.access, *arrays)}
        if len(memories) > MOST_MEMORIES and self.elements:
            return False

        def meets(a: Array, b: Array) -> bool:
            return accesses.get(a, self.access.get(a)) != self.access.get(b) and a.overlaps(b)

        for other in self.elements:
            before = [a for a in other.operands if isinstance(a, Array)]
            if any(meets(a, other.statement.out) for a in arrays) or any(meets(statement.out, a) for a in before):
                return False
        self.access.update(accesses)
        self.elements.append(element)
        return True

    def title(self) -> str:
        """What the function is called: its operations."""
        names = dict.fromkeys(getattr(s.fun, "__name__", "f").strip("_") for s in self.statements)
        return "_".join(list(names)[:4])

    def text(self, stored: Callable[[Statement], bool]) -> tuple[str, list[tuple[Array, int]]]:
        """The body of a function of pointers (p0, p1, ...), and where these point to: an array, the first element.

        `stored` says of which statements the results have to be in memory.
        """
        pointers = _Pointers(self.access.items())
        last = {self.access[s.out]: s for s in self.statements}
        order = [self.access[self.elements[-1].statement.out], *self.access.values()]
        loops = merged(self.lengths, [access.strides for access in order])
        depth = len(loops)
        at: list[list[str]] = [[] for _ in range(depth + 1)]  # what is loaded in front of which loop
        body: list[str] = []
        known: dict[Access, str] = {}

        def index(access: Access) -> tuple[str, int]:
            steps = [access.strides[axis] for axis, _ in loops]
            inside = max((d + 1 for d, s in enumerate(steps) if s), default=0)
            return pointers.element(access, [(f"i{d}", s) for d, s in enumerate(steps)]), inside

        for element in self.elements:
            operands = []
            for a, takes in zip(element.operands, element.takes, strict=True):
                if not isinstance(a, Array):
                    operands.append(number(a, takes))
                    continue
                access = self.access[a]
                if access not in known:
                    known[access] = f"v{len(known)}"
                    text, inside = index(access)
                    line = f"{known[access]} = {text}{' != 0' * (a.dtype == np.bool_)}"
                    (at[inside] if inside < depth else body).append(line)
                operands.append(cast(known[access], a.dtype, takes))
            out = element.statement.out
            name = f"r{len(body)}"
            body.append(f"{name} = {cast(element.text(operands), element.dtype, out.dtype)}")
            known[self.access[out]] = name
        for access, statement in last.items():
            if stored(statement):
                value = f"uint8({known[access]})" if access.dtype == np.bool_ else known[access]
                body.append(f"{index(access)[0]} = {value}")
        lines, indent = list(at[0]) if depth else [*at[0]], ""
        for d, (_, length) in enumerate(loops):
            lines.append(f"{indent}for i{d} in range({length}):")
            indent += "    "
            if d + 1 < depth:
                lines.extend(indent + line for line in at[d + 1])
        return "\n".join([*lines, *(indent + line for line in body)]), pointers.places


def merged(lengths: Sequence[int], strides: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Loops as (axis whose stride counts, length), outermost first: in the order of the first strides.

    Neighbours through which everything steps evenly are one loop.
    """
    loops: list[tuple[int, int]] = []
    for axis in sorted(range(len(lengths)), key=lambda axis: -abs(strides[0][axis])):
        n = lengths[axis]
        if loops and all(s[loops[-1][0]] == s[axis] * n for s in strides):
            loops[-1] = axis, loops[-1][1] * n
        else:
            loops.append((axis, n))
    return loops


class _Pointers:
    """One pointer for each piece of memory, to the first of the elements in it that are used.

    Of two to one piece, the compiler would have to expect that they overlap in some other way.
    """

    def __init__(self, accesses: Any) -> None:
        self.places: list[tuple[Array, int]] = []
        self._number: dict[Any, int] = {}
        self._start: dict[Any, int] = {}
        for array, access in accesses:
            key = (access.memory, access.dtype)
            if key not in self._number:
                self._number[key] = len(self.places)
                self.places.append((array, 0))
            first = array.extent[0] // array.dtype.itemsize
            self._start[key] = min(self._start.get(key, first), first)
        for key, number_ in self._number.items():
            self.places[number_] = self.places[number_][0], self._start[key]

    def element(self, access: Access, steps: Sequence[tuple[str, int]]) -> str:
        """An element as text, given how far each loop's number steps."""
        key = (access.memory, access.dtype)
        parts = [name if s == 1 else f"{name} * {s}" for name, s in steps if s]
        offset = access.offset - self._start[key]
        return f"p{self._number[key]}[{' + '.join([*parts, *([str(offset)] if offset or not parts else [])])}]"


# ---------------------------------------------------------------------------------------------------------------------
# Reductions
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Single:
    """A loop for one statement."""

    statement: Statement

    @property
    def statements(self) -> list[Statement]:
        """The one that it does."""
        return [self.statement]


@dataclass
class Reduction(Single):
    """A sum, maximum or minimum of `array` along `axes`."""

    array: Array
    axes: tuple[int, ...]

    def title(self) -> str:
        """What the function is called."""
        return {np.add: "sum_of", np.maximum: "max_of", np.minimum: "min_of"}[self.statement.fun]

    def text(self) -> tuple[str, list[tuple[Array, int]]]:
        """The body of a function of pointers, and where these point to."""
        x, out = self.array, self.statement.out
        here, there = Access.of(x, x.shape), Access.of(out, out.shape)
        pointers = _Pointers([(x, here), (out, there)])
        long = [axis for axis, n in enumerate(x.shape) if n > 1]
        kept = [axis for axis in long if axis not in self.axes]
        step = dict(zip(long, here.strides, strict=True))
        goes = dict(zip(kept, there.strides, strict=True))
        lengths = [x.shape[axis] for axis in kept]
        loops = merged(lengths, [tuple(step[a] for a in kept), tuple(goes[a] for a in kept)])
        outer: list[Any] = [(f"k{d}", step[kept[axis]], goes[kept[axis]], n) for d, (axis, n) in enumerate(loops)]
        along = [axis for axis in long if axis in self.axes]
        inner: list[Any] = [
            (f"j{d}", step[along[axis]], n)
            for d, (axis, n) in enumerate(merged([x.shape[a] for a in along], [tuple(step[a] for a in along)]))
        ]
        target = pointers.element(there, [(name, goes) for name, _, goes, _ in outer])
        source = pointers.element(here, [(name, goes) for name, goes, *_ in (*outer, *inner)])
        if inner and outer and min(abs(s) for _, s, _, _ in outer) < min(abs(s) for _, s, _ in inner):
            lines = self._across(outer, inner, source, target)
        else:
            lines = self._along(outer, inner, source, target)
        return "\n".join(lines), pointers.places

    def _first(self, dtype: Any) -> str:
        """What nothing is combined to."""
        if self.statement.fun is np.add:
            return number(0, dtype)
        sign, kind = (-1, "min") if self.statement.fun is np.maximum else (1, "max")
        return number(sign * math.inf if dtype.kind == "f" else getattr(np.iinfo(dtype), kind), dtype)

    def _combined(self, a: str, b: str) -> str:
        return f"{'plus' if self.statement.fun is np.add else self.statement.fun.__name__}({a}, {b})"

    def _last(self, text: str) -> str:
        share = self.statement.options.get("share")
        return text if share is None else f"{text} * {number(share, self.statement.out.dtype)}"

    def _across(self, outer: Any, inner: Any, source: str, target: str) -> list[str]:
        """Row by row into what is there already: as NumPy does it."""
        dtype = self.statement.out.dtype
        value = cast(source, self.array.dtype, dtype)
        lines = _over(outer, f"{target} = {self._first(dtype)}")
        lines += _over([*inner, *outer], f"{target} = {self._combined(target, value)}")
        return lines if self._last("") == "" else [*lines, *_over(outer, f"{target} = {self._last(target)}")]

    def _along(self, outer: Any, inner: Any, source: str, target: str) -> list[str]:
        """Element by element into a register."""
        out = self.statement.out.dtype
        dtype = out
        if self.statement.fun is np.add and out == np.float32 and math.prod(n for *_, n in inner) > EXACT_UP_TO:
            dtype = np.dtype(np.float64)
        added = self._combined("total", cast(source, self.array.dtype, dtype))
        total = [f"total = {self._first(dtype)}", *_over(inner, f"total = {added}")]
        return _over(outer, *total, f"{target} = {self._last(cast('total', dtype, out))}")


def _over(loops: Sequence[tuple[Any, ...]], *body: str) -> list[str]:
    """Lines inside loops: (name, ..., length), outermost first."""
    lines = list(body)
    for name, *_, n in reversed(loops):
        lines = [f"for {name} in range({n}):", *(f"    {line}" for line in lines)]
    return lines


def reduction_of(statement: Statement) -> Reduction | None:
    """How a reduction is done; None for what is none."""
    axes = statement.options.get("axes")
    if axes is None or statement.fun not in (np.add, np.maximum, np.minimum):
        return None
    (x,), out = statement.operands, statement.out
    if statement.fun is not np.add and np.dtype(np.bool_) in (x.dtype, out.dtype):
        return None
    return Reduction(statement, x, axes)
