"""Loop nests: elementwise operations and reductions that go over the same elements, in one pass.

A nest goes over a `domain`. Where it reduces trailing axes (`split` says from which on), it has several inner loops,
one behind the other, inside one outer loop: softmax is three of them for each row, while the row is in cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tinygrad_mm.compiler.kernels import reduced
from tinygrad_mm.compiler.loops.accesses import Accesses, contiguous, spread
from tinygrad_mm.compiler.loops.scalars import KNOWN, Scalar
from tinygrad_mm.compiler.program import Op, Value

__all__ = ["Nest", "Reduction", "Section", "Step", "reduction_of"]

LONGEST = 32  # operations in one nest
MOST_ARRAYS = 12


@dataclass
class Reduction:
    """A sum, mean, maximum or minimum over `axes` of an operand."""

    kind: str  # "sum", "mean", "max", "min"
    operand: Value
    axes: frozenset[int]

    @property
    def trailing(self) -> int:
        """How many of the last axes are reduced, without a gap."""
        n, ndim = 0, self.operand.ndim
        while n < ndim and ndim - 1 - n in self.axes:
            n += 1
        return n


_KINDS = {np.sum: "sum", np.mean: "mean", np.max: "max", np.min: "min"}


def reduction_of(op: Op) -> Reduction | None:
    """How a reduction is done; None for what is none."""
    kind = _KINDS.get(op.fun)
    if kind is None or type(op.result.example) is tuple:
        return None
    operand, axis, _, rest = reduced(op)
    if rest or not isinstance(operand, Value) or operand.dtype not in KNOWN or op.result.dtype not in KNOWN:
        return None
    if not operand.size or not operand.ndim or (kind == "mean" and operand.dtype.kind != "f"):
        return None
    if kind in ("max", "min") and operand.dtype == np.bool_:
        return None
    axes = range(operand.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return Reduction(kind, operand, frozenset(a % operand.ndim for a in axes))


@dataclass
class Step:
    """One operation in a nest, `level` is "inner" or "row" (once for each element of the outer loop)."""

    op: Op
    level: str
    scalar: Scalar | None = None
    reduction: Reduction | None = None


@dataclass
class Section:
    """One inner loop, and what is done behind it, once a row."""

    inner: list[Step] = field(default_factory=list)
    row: list[Step] = field(default_factory=list)


class Nest:
    """Operations over one domain. `add` takes one more, if it fits."""

    def __init__(self, accesses: Accesses, domain: tuple[int, ...]) -> None:
        self.accesses, self.domain = accesses, domain
        self.split: int | None = None
        self.sections = [Section()]
        self.made: dict[int, tuple[str, int]] = {}  # root -> level ("inner", "row", "column") and number of the section
        self.ops: list[Op] = []
        self.arrays: set[int] = set()

    @property
    def outer(self) -> tuple[int, ...]:
        """The shape of the outer loop."""
        return self.domain[: self.split or 0]

    # -- collecting

    def reads(self, op: Op) -> bool:
        """Whether an operation uses a result of this nest."""
        return any(id(self.accesses.root(a)) in self.made for a in op.operands())

    def add(self, op: Op, scalar: Scalar | None, reduction: Reduction | None) -> bool:
        """Take an operation in; False if it has to wait for the whole nest, or goes over other elements."""
        touched = {id(self.accesses.root(a)) for a in [*op.operands(), op.result]}
        if len(self.ops) >= LONGEST or len(self.arrays | touched) > MOST_ARRAYS:
            return False
        step = self._elementwise(op, scalar) if scalar else self._reduction(op, reduction)
        if step is None:
            return False
        section, level = step
        while len(self.sections) <= section:
            self.sections.append(Section())
        taken = Step(op, "row" if level == "row" and scalar else "inner", scalar, reduction)
        getattr(self.sections[section], taken.level).append(taken)
        self.made[id(op.result)] = (level, section)
        self.ops.append(op)
        self.arrays |= touched
        return True

    def _elementwise(self, op: Op, scalar: Scalar | None) -> tuple[int, str] | None:
        assert scalar is not None
        values = [a for a in scalar.operands if isinstance(a, Value)]
        if op.result.shape == self.domain:
            section = self._section(values, "inner")
            return None if section is None else (section, "inner")
        if self.split is None or not self.reads(op):
            return None
        outer = self.outer
        if op.result.shape not in (outer, outer + (1,) * (len(self.domain) - len(outer))):
            return None
        section = self._section(values, "row", op.result.shape)
        return None if section is None else (section, "row")

    def _reduction(self, op: Op, reduction: Reduction | None) -> tuple[int, str] | None:
        assert reduction is not None
        if reduction.operand.shape != self.domain:
            return None
        trailing = reduction.trailing
        split = len(self.domain) - trailing
        if trailing and self.split is not None and self.split != split:
            return None
        section = self._section([reduction.operand], "inner")
        if section is None:
            return None
        whole = len(reduction.axes) == trailing
        if trailing:
            self.split = split
        return section, "row" if whole else "column"

    def _section(self, values: list[Value], level: str, shape: tuple[int, ...] = ()) -> int | None:
        """The first section where all values are there, element by element; None if that is in no section."""
        section = 0 if self.split is None else len(self.sections) - 1
        if not any(id(self.accesses.root(a)) in self.made for a in values):
            return section
        section = 0
        outer = self.outer
        for a in values:
            access = self.accesses[a]
            made = self.made.get(id(access.root))
            if made is None:
                continue
            kind, number_ = made
            if kind == "column" or access.offset:
                return None
            if level == "inner":
                strides = spread(access, a.shape, self.domain)
            else:
                strides = spread(access, a.shape, shape)[: len(outer)]
            if kind == "inner":
                if level != "inner" or strides != contiguous(self.domain):
                    return None
                section = max(section, number_)
            else:
                if strides[: len(outer)] != contiguous(outer) or any(strides[len(outer) :]):
                    return None
                section = max(section, number_ + (level == "inner"))
        return section

    # -- what is kept, and where it may be written

    def stored(self, value: Value, read_outside: bool) -> bool:
        """Whether a result has to be in memory: read by others, or by another section of this nest."""
        level, section = self.made[id(value)]
        if read_outside or level == "column":
            return True
        return level == "inner" and any(
            self.accesses.root(a) is value
            for number_, part in enumerate(self.sections)
            if number_ != section
            for step in part.inner
            for a in step.op.operands()
        )

    def overwrites(self, value: Value, old: Value) -> bool:
        """Whether a result may be written over an array that nothing reads any more behind this nest."""
        if self.made.get(id(value), ("", 0))[0] != "inner" or value.dtype != old.dtype or value.shape != old.shape:
            return False
        section = self.made[id(value)][1]
        for number_, part in enumerate(self.sections):
            for step in [*part.inner, *part.row]:
                for a in step.op.operands():
                    access = self.accesses[a]
                    if access.root is not old:
                        continue
                    same = not access.offset and spread(access, a.shape, self.domain) == contiguous(self.domain)
                    if step.level == "row" or number_ > section or not same:
                        return False
        return True

    def title(self) -> str:
        """What the function is called: its operations."""
        names = list(dict.fromkeys(getattr(op.fun, "__name__", "f").strip("_") for op in self.ops))
        return "_".join(names[:4])
