"""Where the elements of each Value lie: in the array of which other Value, from which place on, how far apart."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.compiler.kernels import View, kernel_of
from tinygrad_mm.compiler.program import Op, Program, Value

__all__ = ["Access", "Accesses", "contiguous", "merged", "spread"]


class Access(NamedTuple):
    """Elements of `root`'s contiguous array: the first is number `offset`, `strides` are in elements.

    An axis of length 1 has stride 0.
    """

    root: Value
    offset: int
    strides: tuple[int, ...]


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array whose elements lie one behind the other."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step if n != 1 else 0)
        step *= n
    return tuple(reversed(strides))


def spread(access: Access, shape: tuple[int, ...], domain: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of an array of a shape that is broadcast to `domain`."""
    return (0,) * (len(domain) - len(shape)) + access.strides


def merged(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> list[list[int]]:
    """The axes in groups: neighbours through which every access steps evenly are one loop; axes of length 1 none."""
    groups: list[list[int]] = []
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        if groups and all(s[groups[-1][-1]] == s[axis] * n for s in strides):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


class Accesses:
    """The access of each Value of a program, and `ops`: its calls without those that only look at arrays otherwise.

    A view that cannot be one (a reshape of a transposed array) becomes a copy and a view of that.
    """

    def __init__(self, program: Program) -> None:
        self.of: dict[int, Access] = {}
        self.views: dict[int, tuple[Value, View]] = {}  # how NumPy is told to make a view
        self.ops: list[Op] = []
        self._ghosts: dict[int, Any] = {}  # arrays with the layout of each Value; never read
        for op in program.ops:
            for a in op.operands():
                self._root(a)
            kernel = kernel_of(op)
            if not (isinstance(kernel, View) and self._view(op, kernel)):
                self.ops.append(op)
                self._root(op.result)
        for value in program.wanted():
            self._root(value)
        self._ghosts.clear()

    def __getitem__(self, value: Value) -> Access:
        return self.of[id(value)]

    def root(self, value: Value) -> Value:
        """The Value in whose array the elements lie."""
        return self.of[id(value)].root

    def _root(self, value: Value) -> None:
        if id(value) not in self.of and value.shape is not None:
            self.of[id(value)] = Access(value, 0, contiguous(value.shape))

    def _ghost(self, value: Value) -> Any:
        if id(value) not in self._ghosts:
            self._ghosts[id(value)] = np.empty(value.shape, value.dtype)
        return self._ghosts[id(value)]

    def _view(self, op: Op, view: View) -> bool:
        """Note a view; False where it is none that elements can be counted in."""
        base, result = view.base, op.result
        if base.shape is None or base.dtype != result.dtype or not base.size or not result.size:
            return False
        ghost = self._ghost(base)
        seen = view.apply(ghost)
        if not np.may_share_memory(seen, ghost):
            copied = Value(np.empty(base.shape, base.dtype))
            self.ops.append(Op(np.positive, [base], {}, copied, op.scope, op.backward))
            self._root(copied)
            base, ghost = copied, self._ghost(copied)
            seen = view.apply(ghost)
            if not np.may_share_memory(seen, ghost):
                self.ops.pop()
                return False
        root = self.root(base)
        start = self._ghost(root).__array_interface__["data"][0]
        size = base.dtype.itemsize
        strides = tuple(s // size if n != 1 else 0 for s, n in zip(seen.strides, seen.shape, strict=True))
        offset = (seen.__array_interface__["data"][0] - start) // size
        self.of[id(result)] = Access(root, offset, strides)
        self.views[id(result)] = (base, view)
        self._ghosts[id(result)] = seen
        return True
