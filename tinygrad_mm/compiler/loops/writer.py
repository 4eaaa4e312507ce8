"""A placed program written out for Numba: compiled pieces, and between them the calls of NumPy that have no loop."""

from __future__ import annotations

import builtins
import keyword
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.emitter import Emitted, Writer, assembled, with_head
from tinygrad_mm.compiler.loops.elementwise_code import typename
from tinygrad_mm.compiler.loops.items import Call, Item, Pick, items_of
from tinygrad_mm.compiler.loops.native import compiled, native, threads
from tinygrad_mm.compiler.loops.nests import Nest, Reduction
from tinygrad_mm.compiler.loops.products import Product
from tinygrad_mm.compiler.loops.updates import Update, address
from tinygrad_mm.compiler.placement import Step
from tinygrad_mm.compiler.program import Program
from tinygrad_mm.compiler.statements import Array, Memory, Statement
from tinygrad_mm.graph import Scope

__all__ = ["emit"]

# fmt: off
_WORDS = frozenset({
    "np", "math", "memory", "table", "kept", "array_in", "empty", "asarray", "addresses", "whole", "refuse", "failed",
    "step", "make", "forward", "backward", "update",
})
# fmt: on
_ITEMS_IN_ONE = 200  # calls in one compiled function: the compiler's time grows faster than the program


class LoopWriter(Writer):
    """The lines of one program, as compiled pieces and calls of NumPy between them."""

    words = _WORDS

    def __init__(
        self, program: Program, path_of: Callable[[Scope | None], str], joint: bool, updates: Sequence[Update] = ()
    ) -> None:
        super().__init__(program, path_of, [*keyword.kwlist, *dir(builtins), *native()], fused=True)
        self.joint, self.updates = joint, [u for u in updates if u.elements() is not None]
        self.others = [u for u in updates if u.elements() is None]
        self.pieces: dict[str, list[tuple[Any, int, bool]]] = {}
        self._functions: dict[tuple[str, str], str] = {}
        self._table: dict[str, int] = {}  # the place in the table of addresses of what is there always, by its text
        steps = self.placement.steps
        halves = [steps] if joint else [[s for s in steps if s.op.backward is half] for half in (False, True)]
        self.items = [items_of(half) for half in halves]
        self._reads = self._read()

    @property
    def table(self) -> str:
        """The arrays whose addresses compiled code finds in the table, as text."""
        return ", ".join(self._table)

    def dtype(self, dtype: Any) -> str:
        """The name of a dtype: compiled code has other objects by the plain names."""
        return self.bind(np.dtype(dtype), np.dtype(dtype).name)

    # -- what is read later

    def _read(self) -> dict[Memory, list[tuple[int, int, Array | None]]]:
        """Who reads from each piece of memory: number of the item, number of the op, array or None for all of it."""
        reads: dict[Memory, list[tuple[int, int, Array | None]]] = {}

        def note(item: int, op: int, a: Any) -> None:
            if isinstance(a, Array):
                for memory in a.memory.all_seen():
                    reads.setdefault(memory, []).append((item, op, a if memory is a.memory else None))

        for number, item in enumerate(item for half in self.items for item in half):
            item.number = number
            for statement, step in zip(item.what.statements, item.steps, strict=False):
                for a in statement.operands:
                    note(number, step.number, a)
            if isinstance(item.what, Call):
                for a in item.what.step.operands:
                    note(number, item.what.step.number, a)
        end = sum(map(len, self.items)), len(self.program.ops)
        for value in self.program.wanted():
            note(*end, self.placement.arrays[id(value)])
        return reads

    def _is_read(self, statement: Statement, item: Item) -> bool:
        """Whether anything behind an item reads what a statement in it has written."""
        out, step = statement.out, item.steps[item.what.statements.index(statement)]
        if out.memory.kind != "buffer":
            return True
        last = step.last if out.top is step.out.top else step.number  # what a step needs meanwhile ends with it
        return any(
            number > item.number and op <= last and (a is None or a.overlaps(out))
            for number, op, a in self._reads.get(out.memory, ())
        )

    # -- pointers

    def _entry(self, text: str) -> int:
        return self._table.setdefault(text, len(self._table))

    # -- compiled functions

    def function(self, title: str, text: str, kind: str = "loop") -> str:
        """The name of a compiled function with this text, from its parameters on: one for all that are the same."""
        if (kind, text) not in self._functions:
            self._functions[kind, text] = self.name(title)
        return self._functions[kind, text]

    def functions(self) -> list[str]:
        """The source of all compiled functions."""
        return [
            f"@{kind}\ndef {name}{text}\n" if kind else f"def {name}{text}\n"
            for (kind, text), name in self._functions.items()
        ]

    def calling(self, title: str, parameters: Sequence[str], places: Iterable[str], body: str) -> str:
        """The call of a compiled function with pointers.

        Parameters that point to one place become one parameter: of two, the compiler would have to expect that they
        overlap in some other way, and would not vectorize the loop.
        """
        first: dict[str, str] = {}
        for parameter, place in zip(parameters, places, strict=True):
            if first.setdefault(place, parameter) != parameter:
                body = re.sub(rf"\b{parameter}\b", first[place], body)
        text = f"({', '.join(first.values())}):\n" + "\n".join(f"    {line}" for line in body.splitlines())
        return f"{self.function(title, text)}({', '.join(first)})"

    # -- pieces

    def half(self, steps: Sequence[Step], title: str) -> list[str]:
        """The lines of a function that does these steps."""
        self.lines, self._local = [], {}
        last = self.joint or title == "go_back"
        items = self.items[-1 if last else 0]
        waiting: list[Item] = []
        here = None
        for item in items:
            if isinstance(item.what, Call):
                self._piece(waiting, (), title)
                waiting = []
                here = self.heading(item.steps[0], here)
                self._call(item.what)
            else:
                waiting.append(item)
                if len(waiting) >= _ITEMS_IN_ONE:
                    self._piece(waiting, (), title)
                    waiting = []
        self._piece(waiting, self.updates if self.joint else (), title)
        self.lines.extend(f"{self.bind(update.run, 'update')}()" for update in self.others)
        return self.lines

    def _call(self, call: Call) -> None:
        step = call.step
        if call.statement is not None:
            self._allocate(call.statement.out)
            self.lines.extend(call.statement.text(self))
        elif step.op.result.shape is None:
            self.lines.append(f"{step.out.name} = {self.made(step)}")
        else:
            self.lines.append(f"{step.out.name} = asarray({self.made(step)}, order='C')")

    def _allocate(self, out: Array) -> None:
        if out.memory.kind == "fresh" and out.top.name not in self._local:
            self._local[out.top.name] = out.top.name
            self.lines.append(f"{out.top.name} = empty({out.top.shape}, {self.dtype(out.top.dtype)})")

    def _piece(self, items: Sequence[Item], updates: Sequence[Update], title: str) -> None:
        """Write neighbouring items as one compiled function, and call it."""
        arguments: dict[Array, bool] = {}  # arrays that are other ones at each call: whether they are written to
        pointers: dict[str, str] = {}
        defined: list[str] = []
        lines: list[str] = []
        refusals: list[str] = []

        def pointer(array: Array, start: int | None = None, written: bool = False) -> str:
            """A pointer to the first element, or to the one with this number in the array's memory."""
            top, kind = array.top, typename(array.dtype)
            skipped = (array.offset if start is None else start * array.dtype.itemsize) - top.offset
            if top.memory.stays:
                always = self.array(top) if top.memory.kind == "fixed" else f"memory[{top.memory.number}]"
                sign = "-" if skipped < 0 else "+"  # a place may lie in front of the one that its memory is known by
                where = f"pointer_at(table[{self._entry(always)}] {sign} np.uint64({abs(skipped)}), {kind})"
            else:
                arguments[top] = arguments.get(top, False) or written
                where = f"pointer_in({top.name}, {skipped}, {kind})"
            if where not in pointers:
                stem = top.name or f"t{top.memory.number}"
                pointers[where] = name = self.name(f"{stem}_")
                defined.append(f"{name} = {where}")
            return pointers[where]

        here = ""
        for item in items:
            what = item.what
            path = self.path_of(item.steps[0].op.scope) + (" (backward)" if item.steps[0].op.backward else "")
            if path != here and path.strip():
                lines.append(f"# {path}")
            here = path
            outs = {s.out.top for s in what.statements}
            if isinstance(what, Nest):
                body, places = what.text(lambda statement, item=item: self._is_read(statement, item))  # type: ignore[misc]
            elif isinstance(what, Reduction):
                body, places = what.text()
            elif isinstance(what, Pick):
                found = [pointer(a, None, a.top in outs) for a in (*what.statement.operands, what.statement.out)]
                call = self.calling("pick", ["z", "labels", "out"], found, what.text())
                lines.extend([f"if {call}:", f"    return {len(refusals) + 1}"])
                refusals.append(f"refuse({self.array(what.statement.operands[1])}, {what.classes})")
                continue
            elif isinstance(what, Product):
                a, b = what.statement.operands
                lines.extend(what.lines(pointer(a), pointer(b), pointer(what.statement.out, None, True)))
                continue
            assert not isinstance(what, Call)
            parameters = [f"p{i}" for i in range(len(places))]
            found = [pointer(array, start, array.top in outs) for array, start in places]
            lines.append(self.calling(what.title(), parameters, found, body))
        if not (lines or updates):
            return
        for item in items:
            for statement in item.what.statements:
                self._allocate(statement.out)
        rows = [self.bind(update.rows, "update_rows") for update in updates]
        for update, name in zip(updates, rows, strict=True):
            lines.extend(self._update(update, name))
        names = [*(array.name for array in arguments), *rows]
        text = f"({', '.join(['table', *names])}):\n" + "\n".join(f"    {x}" for x in [*defined, *lines, "return 0"])
        name = self.function(title, text, "")
        self.pieces[name] = [(np.uint64, 1, False)]
        self.pieces[name] += [(a.dtype, a.ndim, written) for a, written in arguments.items()]
        self.pieces[name] += [(np.int64, 2, False) for _ in rows]
        call = f"{name}({', '.join(['table', *names])})"
        call = f"failed = {call}" if refusals else call
        given = [array.name for array in arguments if array.memory.kind == "input"]
        if given:
            again = [*(f"{n} = whole({n})" for n in given), call]
            self.lines += ["try:", f"    {call}", "except TypeError:  # elements with gaps between them"]
            self.lines += [f"    {line}" for line in again]
        else:
            self.lines.append(call)
        for i, refusal in enumerate(refusals):
            self.lines += [f"if failed == {i + 1}:", f"    {refusal}"]

    def _update(self, update: Update, rows: str) -> list[str]:
        elements = update.elements()
        assert elements is not None
        kind, driver = update.driver(self.function("update_elements", elements), threads())
        name = self.function("update_parameters", driver, kind)
        constants = ", ".join(f"{name} = {c!r}" for name, c in update.formula.code.constants.items())
        return [f"# update{': ' * bool(constants)}{constants}", f"{name}({rows})"]


class Compiled(Emitted):
    """The source of a program whose `pieces` Numba compiles: for each function, what it takes."""

    def __init__(self, writer: LoopWriter, *rest: Any) -> None:
        self._pieces = writer.pieces
        super().__init__(writer, *rest)
        self.needs_numba = True

    def _execute(self) -> None:
        super()._execute()
        start = time.perf_counter()
        for name, arrays in self._pieces.items():
            self.namespace[name] = compiled(self.namespace[name], arrays)
        self.warm_up = time.perf_counter() - start


def emit(
    program: Program,
    title: str = "",
    path_of: Callable[[Scope | None], str] = lambda scope: "",
    updates: Sequence[Update] = (),
    joint: bool = False,
) -> Emitted:
    """Write a program out as loops: as the functions `forward` and `backward`, or, `joint`, as one function `step`.

    The updates are done at the end of it. The arrays of `program.places` are bound like the leaves.
    """
    writer = LoopWriter(program, path_of, joint, updates)
    *functions, last = assembled(writer, joint)
    kept = ["kept", *([writer.bind(writer.updates, "updates")] if writer.updates else [])]
    keeping = f"{'step' if joint else 'forward.kept = backward'}.kept = {', '.join(kept)}"  # whose addresses are known
    writer.arrays += [f"kept = [{writer.table}]", "table = addresses(kept)"]
    source = with_head(writer, [*functions, keeping, last], writer.bound)
    source = "\n".join([*([f"# {title}"] if title else []), *writer.functions(), source])
    namespace = {**native(), "math": math, "addresses": _addresses, "whole": _whole, "refuse": _refuse}
    namespace["asarray"] = np.asarray
    return Compiled(writer, source, f"loops {title or 'program'}", dict(writer.bound), namespace)


def _addresses(arrays: Sequence[Any]) -> Any:
    """The table in which compiled code finds where arrays begin."""
    return np.array([address(array) for array in arrays], np.uint64)


def _whole(array: Any) -> Any:
    """An array as compiled code reads it: elements one behind the other."""
    return np.require(array, requirements=["C", "A"])


def _refuse(labels: Any, classes: int) -> None:
    """Raise the error of a cross entropy whose labels are out of range."""
    raise ValueError(
        f"cross_entropy: labels lie between {labels.min()} and {labels.max()}; for {classes} classes they must lie "
        f"between 0 and {classes - 1}"
    )
