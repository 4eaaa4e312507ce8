"""The text of a loop nest: the body of a function of pointers, for Numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.loops.accesses import contiguous, merged, spread
from tinygrad_mm.compiler.loops.nests import Nest, Section, Step
from tinygrad_mm.compiler.loops.scalars import cast, number, typename
from tinygrad_mm.compiler.program import Value

__all__ = ["nest_text"]

EXACT_UP_TO = 4096  # elements that are added up in single precision; more need a double to be as exact as NumPy's sum


def nest_text(nest: Nest, keep: set[int]) -> tuple[str, list[Value]]:
    """The body of a function of pointers (named p0, p1, ...), and the Values whose arrays these point to.

    `keep` are the ids of results that have to be stored.
    """
    return _Writing(nest, keep).text()


class _Writing:
    """The lines of one nest."""

    def __init__(self, nest: Nest, keep: set[int]) -> None:
        self.nest, self.keep = nest, keep
        self.accesses = nest.accesses
        self.pointers: dict[int, str] = {}
        self.roots: list[Value] = []
        self.names: dict[int, str] = {}  # of results in registers
        self.count = 0
        cut = nest.split or 0
        everything = [s for part in nest.sections for x in [*part.inner, *part.row] for s in self._touched(x)]
        outer = merged(nest.domain[:cut], [s[:cut] for s in everything])
        inner = merged(nest.domain[cut:], [s[cut:] for s in everything])
        self.loops = [axes[-1] for axes in outer] + [axes[-1] + cut for axes in inner]  # the axis whose stride counts
        self.lengths = [int(np.prod([nest.domain[a] for a in axes])) for axes in outer]
        self.lengths += [int(np.prod([nest.domain[cut + a] for a in axes])) for axes in inner]
        self.outer = len(outer)

    def _touched(self, step: Step) -> list[tuple[int, ...]]:
        """The strides of everything that an operation reads and writes."""
        if step.scalar is None:
            assert step.reduction is not None
            return [self._strides(step.reduction.operand, step), self._reduced_strides(step.op.result)]
        values = [a for a in step.scalar.operands if isinstance(a, Value)]
        return [self._strides(a, step) for a in [*values, step.op.result]]

    def _strides(self, value: Value, step: Step) -> tuple[int, ...]:
        """The strides over the whole domain of an array that an operation reads or writes, element by element."""
        access, domain = self.accesses[value], self.nest.domain
        if step.level == "inner":
            return spread(access, value.shape, domain)
        # Its result has the shape of the outer loop, perhaps with axes of length 1 behind it.
        return (spread(access, value.shape, step.op.result.shape) + (0,) * len(domain))[: len(domain)]

    def _reduced_strides(self, result: Value) -> tuple[int, ...]:
        step = next(s for part in self.nest.sections for s in part.inner if s.op.result is result)
        assert step.reduction is not None
        axes, domain = step.reduction.axes, self.nest.domain
        kept = iter(contiguous(tuple(n for i, n in enumerate(domain) if i not in axes)))
        return tuple(0 if i in axes else next(kept) for i in range(len(domain)))

    # -- names

    def _pointer(self, root: Value) -> str:
        if id(root) not in self.pointers:
            self.pointers[id(root)] = f"p{len(self.roots)}"
            self.roots.append(root)
        return self.pointers[id(root)]

    def _index(self, offset: int, strides: tuple[int, ...]) -> str:
        parts = []
        for number_, axis in enumerate(self.loops):
            s = strides[axis]
            if s:
                parts.append(f"i{number_}" if s == 1 else f"i{number_} * {s}")
        if offset or not parts:
            parts.append(str(offset))
        return " + ".join(parts)

    def _element(self, value: Value, strides: tuple[int, ...]) -> str:
        access = self.accesses[value]
        return f"{self._pointer(access.root)}[{self._index(access.offset, strides)}]"

    def _depth(self, strides: tuple[int, ...]) -> int:
        """In how many loops an access lies."""
        return max((n + 1 for n, axis in enumerate(self.loops) if strides[axis]), default=0)

    def _name(self) -> str:
        self.count += 1
        return f"v{self.count - 1}"

    # -- text

    def text(self) -> tuple[str, list[Value]]:
        nest = self.nest
        self.before: list[str] = []  # in front of all loops
        self.after: list[str] = []
        self.top: dict[int, list[str]] = {d: [] for d in range(1, self.outer + 1)}  # at the beginning of outer bodies
        self.loaded: dict[Any, str] = {}
        body: list[str] = []
        for number_, section in enumerate(nest.sections):
            body.extend(self._section(section, number_))
        lines = [*self.before]
        indent = ""
        for d in range(self.outer):
            lines.append(f"{indent}for i{d} in range({self.lengths[d]}):")
            indent += "    "
            lines.extend(indent + line for line in self.top[d + 1])
        lines.extend(indent + line for line in body)
        lines.extend(self.after)
        return "\n".join(lines), self.roots

    def _section(self, section: Section, number_: int) -> list[str]:
        """The lines of one inner loop and what follows it, inside the outer loops."""
        depth = len(self.lengths)
        at: dict[int, list[str]] = {d: [] for d in range(self.outer + 1, depth + 1)}
        body = at.get(depth) if depth > self.outer else None
        start: list[str] = []
        end: list[str] = []
        local: dict[Any, str] = {}
        stores: list[str] = []
        flat: list[str] = []  # where there is no inner loop at all
        inside = flat if body is None else body
        statements: list[str] = []
        for step in section.inner:
            if step.scalar:
                statements.append(self._compute(step, number_, at, local, stores))
            else:
                self._reduce(step, number_, at, local, start, statements, end)
        inside.extend(statements)
        inside.extend(stores)
        lines = [*start]
        if section.inner:
            if body is None:
                lines.extend(flat)
            else:
                indent = ""
                for d in range(self.outer, depth):
                    lines.append(f"{indent}for i{d} in range({self.lengths[d]}):")
                    indent += "    "
                    lines.extend(indent + line for line in at[d + 1])
        lines.extend(end)
        row_stores: list[str] = []
        for step in section.row:
            lines.append(self._compute(step, number_, at, local, row_stores))
        return [*lines, *row_stores]

    def _operand(self, value: Value, step: Step, section: int, at: dict[int, list[str]], local: dict[Any, str]) -> str:
        """An element as an expression: a register, or loaded where the loops it depends on begin."""
        access = self.accesses[value]
        made = self.nest.made.get(id(access.root))
        if made and (made[0] == "row" or made[1] == section or self.outer == len(self.loops)):
            return self.names[id(access.root)]
        strides = self._strides(value, step)
        depth = self._depth(strides)
        key = (id(access.root), access.offset, tuple(strides[axis] for axis in self.loops))
        known = self.loaded if depth <= self.outer else local
        if key not in known:
            known[key] = name = self._name()
            element = self._element(value, strides)
            line = f"{name} = {element}" + (" != 0" if value.dtype == np.bool_ else "")
            (self.before if depth == 0 else self.top[depth] if depth <= self.outer else at[depth]).append(line)
        return known[key]

    def _compute(
        self, step: Step, section: int, at: dict[int, list[str]], local: dict[Any, str], stores: list[str]
    ) -> str:
        scalar, result = step.scalar, step.op.result
        assert scalar is not None
        operands = []
        for a, dtype in zip(scalar.operands, scalar.takes, strict=True):
            if isinstance(a, Value):
                operands.append(cast(self._operand(a, step, section, at, local), a.dtype, dtype))
            else:
                operands.append(number(a, dtype))
        self.names[id(result)] = name = self._name()
        if id(result) in self.keep:
            stores.append(self._store(result, self._strides(result, step), name))
        return f"{name} = {scalar.text(operands)}"

    def _store(self, result: Value, strides: tuple[int, ...], name: str) -> str:
        value = f"uint8({name})" if result.dtype == np.bool_ else name
        return f"{self._element(result, strides)} = {value}"

    def _reduce(
        self,
        step: Step,
        section: int,
        at: dict[int, list[str]],
        local: dict[Any, str],
        start: list[str],
        statements: list[str],
        end: list[str],
    ) -> None:
        reduction, result = step.reduction, step.op.result
        assert reduction is not None
        value = self._operand(reduction.operand, step, section, at, local)
        shape = self.nest.domain
        adds = reduction.kind in ("sum", "mean")
        trailing = reduction.trailing
        count = int(np.prod([shape[a] for a in reduction.axes]))
        run = int(np.prod(shape[len(shape) - trailing :])) if trailing else 1
        kind = result.dtype
        if adds and kind == np.float32 and run > EXACT_UP_TO:
            kind = np.dtype(np.float64)
        value = cast(value, reduction.operand.dtype, kind)
        share = f" * {number(1 / count, result.dtype)}" if reduction.kind == "mean" else ""
        zero = number(0, kind)
        if adds:
            first = zero
        else:
            edge = "inf" if kind.kind == "f" else str(np.iinfo(kind).max)
            first = f"{typename(kind)}({'-' if reduction.kind == 'max' else ''}{edge})"
            if kind.kind != "f" and reduction.kind == "max":
                first = f"{typename(kind)}({np.iinfo(kind).min})"
        step_text = {"max": "maximum({}, {})", "min": "minimum({}, {})"}.get(reduction.kind, "plus({}, {})")
        strides = self._reduced_strides(result)
        if trailing:
            accumulator = self._name()
            total = accumulator
            add = step_text.format(accumulator, value)
            if not adds and kind.kind == "f":  # found among integers, which is vectorized
                minus = "-" if reduction.kind == "min" else ""
                first = f"rank({typename(kind)}(-inf))"
                add, total = f"larger({accumulator}, rank({minus}{value}))", f"({minus}unrank({accumulator}))"
            start.append(f"{accumulator} = {first}")
            statements.append(f"{accumulator} = {add}")
            if kind != result.dtype:
                total = cast(accumulator, kind, result.dtype)
            if len(reduction.axes) == trailing:
                self.names[id(result)] = name = self._name()
                end.append(f"{name} = {total}{share}")
                if id(result) in self.keep:
                    end.append(self._store(result, strides, name))
                return
            into, value = end, total
        else:
            into = statements
        # Reduced over outer axes too: collected in memory.
        pointer = self._pointer(result)
        first = number(0, result.dtype) if adds else first
        self.before += [f"for k in range({result.size}):", f"    {pointer}[k] = {first}"]
        element = self._element(result, strides)
        into.append(f"{element} = {step_text.format(element, value)}")
        if share:
            self.after += [f"for k in range({result.size}):", f"    {pointer}[k] *= {number(1 / count, result.dtype)}"]
