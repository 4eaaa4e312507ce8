"""What a placed program consists of: arrays in memory, and statements that read some of them and write another one.

A lowering says which statements an operation becomes. They are what both writers read: one prints them as NumPy calls,
the other makes loops of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tinygrad_mm.compiler.program import Value
from tinygrad_mm.rules.indexing import Slot

__all__ = [
    "Array",
    "Lowering",
    "Made",
    "Memory",
    "Statement",
    "View",
    "Write",
    "call",
    "copy",
    "fill",
    "index_text",
    "product",
    "reduction",
    "ufunc",
    "weak",
]

# How a statement is told to write the text of an operand: of an array, or of anything that is bound to a name.
Write: TypeAlias = Callable[..., str]

# NumPy deprecates the third positional argument of these.
NAMED_OUT = frozenset({np.maximum, np.minimum})


class Memory:
    """A piece of memory that arrays lie in.

    `kind`: a "buffer" (number `number`) that results take turns in; "fixed", which is there from the beginning (of
    captured tensors, constants and places that were given), from the address `origin` on; or memory that is another
    one at each call: of an "input", of a "fresh" result that is handed out, or of what a call has "made", which may be
    a view of what it was given (`seen`).
    """

    __slots__ = ("kind", "number", "origin", "seen")

    def __init__(self, kind: str, number: int = -1, origin: int = 0, seen: frozenset[Memory] = frozenset()) -> None:
        self.kind, self.number, self.origin, self.seen = kind, number, origin, seen

    @property
    def stays(self) -> bool:
        """Whether it is the same at each call."""
        return self.kind in ("buffer", "fixed")

    def all_seen(self) -> set[Memory]:
        """The memory itself, and all that it may be a part of."""
        found = {self}
        for memory in self.seen:
            found |= memory.all_seen()
        return found


class Array:
    """An array that a program reads or writes.

    `ghost` is an array of its shape, strides and dtype that is never read: how a view lies follows from what NumPy
    makes of the ghost. A view has a `base`, and a `form`: its text, with {} for that of the base. An array that is no
    view may have a `name`.
    """

    def __init__(self, memory: Memory, ghost: Any, base: Array | None = None, form: str = "{}", name: str = "") -> None:
        self.memory, self.ghost, self.base, self.form, self.name = memory, ghost, base, form, name
        self.top: Array = self if base is None else base.top
        self.stem = ""
        self.axes: tuple[int, ...] = ()  # of the base, for a transpose
        self.is_leaf = False  # a captured tensor's, which may be bound to another array at another time

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of elements along each axis."""
        return tuple(self.ghost.shape)

    @property
    def dtype(self) -> Any:
        """The dtype of the elements."""
        return self.ghost.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return int(self.ghost.ndim)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self.ghost.size)

    @cached_property
    def offset(self) -> int:
        """The bytes from the beginning of its memory to the first element."""
        start = self.memory.origin if self.memory.kind == "fixed" else address(self.top.ghost)
        return address(self.ghost) - start

    @cached_property
    def extent(self) -> tuple[int, int]:
        """Between which bytes of its memory the elements lie."""
        low, high = byte_bounds(self.ghost)
        start = address(self.ghost) - self.offset
        return (low - start, high - start) if self.size else (0, 0)

    @cached_property
    def place(self) -> tuple[Any, ...]:
        """Equal for arrays of the same elements in the same order."""
        strides = tuple(s if n > 1 else 0 for s, n in zip(self.ghost.strides, self.shape, strict=True))
        return (self.memory, self.offset, self.shape, strides, self.dtype)

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie one behind the other, at each call."""
        return self.memory.stays and bool(self.ghost.flags.c_contiguous)

    def overlaps(self, other: Array) -> bool:
        """Whether an element of one may lie in the memory of the other."""
        if self.memory is not other.memory or not (self.size and other.size):
            return False
        (a, b), (c, d) = self.extent, other.extent
        if b <= c or d <= a:
            return False
        if self.place == other.place or not (self.top is other.top or self.memory.kind == "fixed"):
            return True
        try:
            return bool(np.shares_memory(self.ghost, other.ghost, max_work=10_000))  # type: ignore[arg-type]
        except np.exceptions.TooHardError:
            return True

    # -- views

    def seen(self, look: Callable[[Any], Any], form: str, stem: str = "") -> Array | None:
        """A view, as text with {} in the place of this array; None where it would be a copy."""
        ghost = look(self.ghost)
        if ghost.size and not np.may_share_memory(ghost, self.ghost):
            return None
        view = Array(self.memory, ghost, self, form)
        view.stem = stem
        return view

    def _view(self, look: Callable[[Any], Any], form: str, stem: str = "") -> Array:
        view = self.seen(look, form, stem)
        if view is None:
            raise ValueError(f"{form.format('an array')} of shape {self.shape} and strides {self.ghost.strides} copies")
        return view

    def reshaped(self, shape: tuple[int, ...]) -> Array | None:
        """The elements in another shape; None where that takes a copy."""
        if shape == self.shape:
            return self
        return self.seen(lambda x: x.reshape(shape), f"{{}}.reshape({shape})")

    def reshape(self, *shape: int) -> Array:
        """The same, where it is known that it takes none."""
        return self._view(lambda x: x.reshape(shape), f"{{}}.reshape({shape})")

    @property
    def T(self) -> Array:  # noqa: N802 (as NumPy calls it)
        """The axes in reverse order."""
        return self.transpose(*range(self.ndim)[::-1])

    def transpose(self, *axes: int) -> Array:
        """The axes in another order."""
        if axes == tuple(range(self.ndim)):
            return self
        if self.base is not None and self.axes:  # a transpose of a transpose
            return self.base.transpose(*(self.axes[axis] for axis in axes))
        view = self._view(lambda x: x.transpose(axes), "{}.T" if axes == (1, 0) else f"{{}}.transpose{axes}")
        view.axes = axes
        return view

    @property
    def order(self) -> tuple[int, ...]:
        """The axes as they lie in memory, from the outermost to the innermost."""
        return tuple(sorted(range(self.ndim), key=lambda axis: -abs(self.ghost.strides[axis])))

    def view(self, dtype: Any) -> Array:
        """The bytes as elements of another dtype of the same size."""
        return self._view(lambda x: x.view(dtype), f"{{}}.view(np.{np.dtype(dtype).name})")

    def at(self, key: Any, stem: str = "") -> Array:
        """The part at an index without arrays."""
        return self._view(lambda x: x[key], f"{{}}[{index_text(key)}]", stem)

    def __repr__(self) -> str:
        return f"<{self.memory.kind} {self.name or self.form} {self.shape} {self.dtype}>"


def index_text(key: Any, arrays: Sequence[str] = ()) -> str:
    """An index as it is written between brackets; `arrays` are the names of those that it has slots for."""
    if isinstance(key, tuple):
        return ", ".join(index_text(k, arrays) for k in key) + ("," if len(key) == 1 else "") if key else "()"
    if isinstance(key, Slot):
        return arrays[key.number]
    if isinstance(key, slice):
        ends = ["" if e is None else str(e) for e in (key.start, key.stop)]
        return ":".join(ends if key.step is None else [*ends, str(key.step)])
    return "..." if key is Ellipsis else repr(key)


def address(array: Any) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


@dataclass(eq=False)
class Statement:
    """One call that writes `out`: `fun` of the operands, which are Arrays, numbers, and what `fun` takes besides.

    `options` are those by name. `text(write)` are the lines for NumPy, where `write` gives the text of an operand.
    """

    fun: Any
    operands: list[Any]
    out: Array
    text: Callable[[Write], list[str]]
    options: dict[str, Any] = field(default_factory=dict)

    def reads(self) -> list[Array]:
        """The Arrays among the operands."""
        return [a for a in self.operands if isinstance(a, Array)]


@dataclass
class View:
    """The result is another way to look at `base`: `of(base as an Array)`, or None where it takes a copy."""

    base: Value
    of: Callable[[Array], Array | None]


@dataclass
class Lowering:
    """The result is written into an array that is there.

    `statements(out, operands, scratch)` are those that do it; `inplace` are the arguments whose own array may be the
    one written to; `scratch` are shapes, dtypes and orders of further arrays needed meanwhile.
    """

    statements: Callable[[Array, list[Any], list[Array]], list[Statement]]
    inplace: tuple[int, ...] = ()
    scratch: list[tuple[tuple[int, ...], Any, Any]] = field(default_factory=list)


@dataclass
class Made:
    """The result is a new array at each call: `text(operands)` is the expression that makes it."""

    text: Callable[[list[str]], str]


# ---------------------------------------------------------------------------------------------------------------------
# Statements
# ---------------------------------------------------------------------------------------------------------------------


class _Written(dict[str, Any]):
    """What stands for the names in a line."""

    def __init__(self, write: Write, known: dict[str, Any]) -> None:
        super().__init__(known)
        self.write = write

    def __getitem__(self, name: str) -> Any:
        return _NumPy(self.write) if name == "np" else self.write(super().__getitem__(name), name * (name not in "abc"))


class _NumPy:
    """NumPy's functions, as they are written."""

    def __init__(self, write: Write) -> None:
        self.write = write

    def __getattr__(self, name: str) -> str:
        return self.write(getattr(np, name))


def call(fun: Any, operands: list[Any], out: Array, *lines: str, names: Any = None, **options: Any) -> Statement:
    """A statement by its lines: "{np.add}({a}, {b}, {out})", where a, b and c are operands; others are in `names`."""
    known = {**dict(zip("abc", operands, strict=False)), "out": out, **(names or {})}
    return Statement(
        fun, operands, out, lambda write: [line.format_map(_Written(write, known)) for line in lines], options
    )


def ufunc(fun: np.ufunc, *operands: Any, out: Array) -> Statement:
    """An elementwise call, with axes as they lie in `out`: NumPy would go along those of most operands."""

    def text(write: Write) -> list[str]:
        numbers = [weak(fun, operands, i, out) for i in range(len(operands))]
        given = [a if number is None else number for a, number in zip(operands, numbers, strict=True)]
        ndims = [a.ndim if isinstance(a, (Array, np.ndarray)) else 0 for a in given]
        order = out.order if all(n in (0, out.ndim) for n in ndims) else range(out.ndim)
        turned = [a.transpose(*order) if n == out.ndim > 1 else a for a, n in zip(given, ndims, strict=True)]
        names = ["" if number is None else number_name(a) for a, number in zip(operands, numbers, strict=True)]
        written = ", ".join(map(write, turned, names))
        return [f"{write(fun)}({written}, {'out=' * (fun in NAMED_OUT)}{write(out.transpose(*order))})"]

    return Statement(fun, list(operands), out, text)


def number_name(number: Any) -> str:
    """What a number is called in emitted code."""
    return {0: "zero", 1: "one", 2: "two", 0.5: "half", -1: "minus_one"}.get(number, "number")


def weak(fun: Any, operands: Any, i: int, out: Array) -> Any:
    """A Python number among the operands of a ufunc, as the 0-d array that gives the same result; else None.

    NumPy takes arrays in half the time of Python numbers. For maximum and minimum it is a full array: with a 0-d one
    NumPy does without SIMD.
    """
    number = operands[i]
    if type(number) not in (int, float, bool) or fun is np.ldexp:
        return None
    dtypes = [a.dtype for a in operands if isinstance(a, (Array, np.ndarray))]
    if not dtypes:
        return None
    dtype = np.result_type(*dtypes, number)
    if any(d != dtype for d in dtypes):
        return None
    with np.errstate(all="ignore"):
        found = np.asarray(number, dtype)
    if fun in NAMED_OUT and out.size <= 1 << 22:
        return np.full_like(out.ghost, found)
    return found


def copy(a: Array, out: Array) -> Statement:
    """The elements of an array, broadcast and converted to those of another one."""
    unsafe = "" if a.dtype == out.dtype else ", 'unsafe'"
    return call(np.copyto, [a], out, f"{{np.copyto}}({{out}}, {{a}}{unsafe})")


def fill(out: Array, number: float) -> Statement:
    """One number everywhere."""
    text = repr(number) if np.isfinite(number) else f"{'-' * (number < 0)}np.{abs(number)}"
    return call(np.ndarray.fill, [number], out, f"{{out}}.fill({text})")


def product(a: Array, b: Array, out: Array) -> Statement:
    """A product of vectors, matrices or stacks of them.

    Up to two axes as a method, since that saves a fifth of a microsecond over np.dot; it wants a contiguous `out`: one
    that lies with its columns first is the transpose of the product of the transposes.
    """
    if a.ndim <= 2 and b.ndim <= 2:
        if out.ndim == 2 and not out.ghost.flags.c_contiguous:
            a, b, out = b.T, a.T, out.T
        return call(np.dot, [a, b], out, "{a}.dot({b}, {out})")
    return call(np.matmul, [a, b], out, "{np.matmul}({a}, {b}, {out})")


def reduction(fun: Any, x: Array, axes: tuple[int, ...], keepdims: bool, out: Array) -> Statement:
    """A sum, a maximum or a minimum (np.add, np.maximum, np.minimum) along axes, which are not negative."""

    def text(write: Write) -> list[str]:
        if x.ndim != 2 or len(axes) != 1:
            axis = axes[0] if len(axes) == 1 else axes
            return [f"{write(reduce, name)}({write(x)}, {axis!r}, None, {write(out)}{', True' * keepdims})"]
        row = out.reshape(out.size) if keepdims else out  # what is left is one row, kept as a matrix or not
        if x.shape[axes[0]] == 2:
            a, b = (x.at((slice(None), i) if axes[0] else i) for i in (0, 1))
            return [f"{write(fun)}({write(a)}, {write(b)}, out={write(row)})"]
        return [f"{write(reduce, name)}({write(x)}, {axes[0]}, None, {write(row)})"]

    reduce, name = fun.reduce, f"{fun.__name__}_reduce"
    return Statement(fun, [x], out, text, {"axes": axes})
