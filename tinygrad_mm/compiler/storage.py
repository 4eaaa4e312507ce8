"""Where results are kept: which of them are views, which buffer each of the others is written to, and until when.

A buffer is reused as soon as nothing reads it any more, and an elementwise call writes over its own argument where it
is the last to read it. Arrays that the program hands out are new at each call, unless a place for them was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinygrad_mm.compiler.kernel import free_name, looked_at
from tinygrad_mm.compiler.kernels import Kernel, Made, View, kernel_of
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.functional.error_function import erf
from tinygrad_mm.functional.pooling import _at_maxima, _max_pool, _to_maxima
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.functional.sliding import overlap_add

__all__ = ["Buffer", "Storage"]


@dataclass
class Buffer:
    """Memory that results take turns in."""

    number: int
    nbytes: int


@dataclass
class Storage:
    """The plan of a program's memory.

    Each Value has a `home`: the name of the array it is found in. `kernels` says how each op is written. `buffers` are
    to be allocated once; `arrays` are those made from them once, in order: (name, text). Results that are handed out
    are new at each call (`fresh`), or written to the array whose name was `given` for them.
    """

    program: Program
    reserved: Sequence[str] = ()
    home: dict[int, str] = field(default_factory=dict)
    kernels: dict[int, Any] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)
    arrays: list[tuple[str, str]] = field(default_factory=list)
    fresh: set[int] = field(default_factory=set)
    scratch: dict[int, list[str]] = field(default_factory=dict)
    without_reuse: int = 0

    def __post_init__(self) -> None:
        self.given = {key: place.name for key, place in self.program.places.items()}
        self.like: dict[str, Any] = {}  # an array of the same shape and strides, for each array that is there always
        self.root: dict[int, int] = {}  # the Value whose memory a view looks at
        self.seen_by: dict[int, set[int]] = {}  # the Values whose memory the result of a plain call may look at
        self.names: dict[Any, str] = {name: name for name in (*self.reserved, *self.given.values())}
        self.count = 0
        for value in self.program.leaves:
            self._fixed(value, value.name or "leaf")
        self._plan()

    # -- names

    def name(self, stem: str) -> str:
        """A name that is not taken."""
        name = free_name(stem, self.names)
        self.names[name] = name
        return name

    def _fixed(self, value: Value, stem: str) -> None:
        """A Value that is an array from the beginning: a captured tensor or a constant."""
        name = self.name(stem)
        self.home[id(value)] = name
        self.like[name] = value.example

    def constant(self, value: Value) -> None:
        """A place for a constant that a call reads."""
        if id(value) not in self.home:
            self._fixed(value, value.name or "c")

    def seen(self, name: str, suffix: str, stem: str = "") -> str:
        """An array, by name, looked at in another way: made once, where the array is there always."""
        text = looked_at(name, suffix)
        if name not in self.like:
            return text
        if text not in self.names:
            self.names[text] = view = self.name(stem or f"{name}_view")
            self.arrays.append((view, text))
        return self.names[text]

    # -- planning

    def _plan(self) -> None:
        program = self.program
        for op in program.ops:
            for a in op.operands():
                if a.kind == "constant":
                    self.constant(a)
        for value in program.wanted():
            if value.kind == "constant":
                self.constant(value)
        for value in (*program.inputs, *program.seeds):
            self.home[id(value)] = self.name(value.name or "x")
        layouts = self._look()
        last, later = self._last_reads()
        handed = {id(v) for v in program.wanted()}
        free: list[Buffer] = []
        held: dict[int, Buffer] = {}  # id of a root -> its buffer
        for i, op in enumerate(program.ops):
            kernel, result = self.kernels[id(op)], op.result
            if isinstance(kernel, View):
                self._view(op, kernel)
                continue
            if kernel is None or isinstance(kernel, Made):
                self.home[id(result)] = self.name("r")
            elif id(result) in self.given:
                self.home[id(result)] = self.given[id(result)]
                self.like[self.given[id(result)]] = layouts[id(result)]
            elif id(result) in handed and (op.backward or id(result) not in later):
                self.fresh.add(id(result))
                self.home[id(result)] = self.name("grad" if op.backward else "out")
            else:
                self._place(op, kernel, last, free, held, i)
            self.without_reuse += 0 if type(result.example) is tuple else result.nbytes
            if isinstance(kernel, Kernel) and kernel.scratch:
                taken = [self._take(free, int(np.prod(s)) * np.dtype(d).itemsize) for s, d in kernel.scratch]
                self.scratch[id(op)] = [
                    self._array(buffer, shape, np.dtype(dtype))
                    for buffer, (shape, dtype) in zip(taken, kernel.scratch, strict=True)
                ]
                free.extend(taken)
            for root in [r for r in held if last[r] <= i]:
                free.append(held.pop(root))

    def _look(self) -> dict[int, Any]:
        """Find the kernel of each op, and which Value's memory each view looks at.

        Returns an array of the same layout for each Value that stays where it is. Buffers are contiguous; a reshape of
        something that is not has to copy, and is no view then.
        """
        layouts: dict[int, Any] = {k: self.like[n] for k, n in self.home.items() if n in self.like}
        for op in self.program.ops:
            kernel, key = kernel_of(op), id(op.result)
            self.root[key] = key
            if isinstance(kernel, View):
                base = layouts.get(id(kernel.base))
                view = None if base is None else kernel.apply(base)
                if view is None or not view.size or np.may_share_memory(view, base):
                    self.root[key] = self.root.get(id(kernel.base), id(kernel.base))
                    layouts[key] = view
                else:
                    kernel = _copying(kernel)
            if isinstance(kernel, Kernel):
                layouts[key] = np.empty(op.result.shape, op.result.dtype)
            elif kernel is None and not _is_fresh(op):  # what a plain call returns may be a part of what it was given
                self.seen_by[key] = set().union(*(self._roots(a) for a in op.operands()))
            self.kernels[id(op)] = kernel
        return layouts

    def _roots(self, value: Value) -> set[int]:
        """The Values whose memory is read where a Value is: its own, or those that it is a view of."""
        root = self.root.get(id(value), id(value))
        return {root} | self.seen_by.get(root, set())

    def _view(self, op: Op, kernel: View) -> None:
        base = self.home[id(kernel.base)]
        if base not in self.like:  # a view of what is new at each call
            self.home[id(op.result)] = self.name(f"{base}_view")
            return
        text = kernel.text(base)
        if text not in self.names:
            self.names[text] = name = self.name(f"{base}_T" if text.endswith(".T") else f"{base}_view")
            self.arrays.append((name, text))
            self.like[name] = kernel.apply(self.like[base])
        self.home[id(op.result)] = self.names[text]

    def _last_reads(self) -> tuple[dict[int, int], set[int]]:
        """For each Value that owns memory: the number of the last op that reads it, through whatever view; and those
        that the backward half reads.
        """
        last: dict[int, int] = {}
        later: set[int] = set()
        for i, op in enumerate(self.program.ops):
            for root in set().union(*map(self._roots, op.operands())):
                last[root] = i
                if op.backward:
                    later.add(root)
            last[self.root[id(op.result)]] = i
        for value in self.program.wanted():
            last.update(dict.fromkeys(self._roots(value), len(self.program.ops)))
        for gradient in self.program.gradients:
            if gradient is not None:
                later.update(self._roots(gradient))
        return last, later

    def _place(
        self, op: Op, kernel: Kernel, last: dict[int, int], free: list[Buffer], held: dict[int, Buffer], i: int
    ) -> None:
        """Give the result of an op a buffer: that of an argument it may be written over, or a free one."""
        result = op.result
        for place in kernel.inplace:
            a = op.args[place]
            root = self.root.get(id(a), id(a))
            others = [b for b in op.operands() if b is not a and self.root.get(id(b), id(b)) == root]
            name = self.home[id(a)]
            if (
                root in held
                and last[root] == i
                and not others
                and self.like[name].flags.c_contiguous
                and self.like[name].flags.writeable  # a piece of what was broadcast is not
                and self.like[name].shape == result.shape
            ):
                held[id(result)] = held.pop(root)
                self.home[id(result)] = name
                return
        buffer = self._take(free, result.nbytes)
        held[id(result)] = buffer
        self.home[id(result)] = self._array(buffer, result.shape, result.dtype)

    def _take(self, free: list[Buffer], nbytes: int) -> Buffer:
        """A buffer that is free: the smallest that is large enough, else the largest, which then grows."""
        fitting = [b for b in free if b.nbytes >= nbytes]
        if fitting:
            buffer = min(fitting, key=lambda b: b.nbytes)
        elif free:
            buffer = max(free, key=lambda b: b.nbytes)
            buffer.nbytes = nbytes
        else:
            buffer = Buffer(len(self.buffers), nbytes)
            self.buffers.append(buffer)
            return buffer
        free.remove(buffer)
        return buffer

    def _array(self, buffer: Buffer, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
        """The name of a buffer seen as an array of a shape and dtype."""
        key = (buffer.number, shape, dtype)
        if key not in self.names:
            self.names[key] = name = self.name(f"t{self.count}")
            self.count += 1
            self.arrays.append((name, f"array_in(memory[{buffer.number}], {shape}, {dtype.name})"))
            self.like[name] = np.empty(shape, dtype)
        return self.names[key]


# Plain calls whose results are new arrays, whatever they are given.
_FRESH = frozenset({erf, overlap_add, uniform_like, _max_pool, _to_maxima, _at_maxima})


def _is_fresh(op: Op) -> bool:
    return isinstance(op.fun, np.ufunc) or op.fun in _FRESH


def _copying(view: View) -> Kernel:
    """A view that cannot be one: its elements are copied into a buffer, in the shape of what is copied."""

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        return [f"{bind(np.copyto)}({out}, {view.text(a[0])})"]

    return Kernel(lines)
