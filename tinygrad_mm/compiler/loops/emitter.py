"""A scheduled program written out: functions for Numba, and the Python function that calls them one after the other."""

from __future__ import annotations

import linecache
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.emitter import array_in
from tinygrad_mm.compiler.loops.native import compiled, native
from tinygrad_mm.compiler.loops.updates import Update
from tinygrad_mm.compiler.loops.writer import Writer
from tinygrad_mm.compiler.program import Program
from tinygrad_mm.graph import Scope
from tinygrad_mm.memory import aligned

__all__ = ["Emitted", "emit"]


class Emitted:
    """The source of a program, and what it needs.

    `make(leaves, given)` allocates memory and returns the functions `forward` and `backward` (or `step` alone) bound to
    it and to the arrays of the captured tensors. `warm_up` is the time that compiling took, in seconds.
    """

    def __init__(self, writer: Writer, source: str, title: str) -> None:
        self.program, self.source = writer.program, source
        self.nbytes, self.bound = writer.memory.nbytes, writer.bound
        self._fixed, self._updates = writer.fixed, writer.updates
        self.filename = filename = f"<loops {title or 'program'} {abs(hash(source)):x}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        start = time.perf_counter()
        namespace: dict[str, Any] = {"np": np, "math": math, "array_in": array_in, "empty": np.empty}
        namespace.update(native(), whole=_whole, refuse=_refuse, copyto=np.copyto, asarray=np.asarray)
        exec(compile(source, filename, "exec"), namespace)
        for name, arrays in writer.pieces.items():
            namespace[name] = compiled(namespace[name], arrays)
        self.warm_up = time.perf_counter() - start
        self._make: Callable[..., Any] = namespace["make"]

    def make(self, leaves: Sequence[Any], given: Sequence[Any] = ()) -> Any:
        """Functions with memory of their own."""
        memory = aligned(self.nbytes, np.uint8)
        arrays = [*leaves, *given, *self._fixed]
        copies = []
        addressed = []
        for array in arrays:
            if not (array.flags.c_contiguous and array.flags.aligned):
                copies.append((np.empty(array.shape, array.dtype), array))
                addressed.append(copies[-1][0])
            else:
                addressed.append(array)
        for update in self._updates:
            addressed += [*update.addressed, update.rows]
        table = np.array([a.__array_interface__["data"][0] for a in addressed], np.uint64)
        functions = self._make(memory, table, copies, *arrays, *self.bound.values())
        for function in functions:
            function.keep = addressed  # the table holds addresses only
        return functions


def _whole(array: Any) -> Any:
    """An array as compiled code reads it: elements one behind the other."""
    return np.require(array, requirements=["C", "A"])


def _refuse(labels: Any, classes: int) -> None:
    """Raise the error of a cross entropy whose labels are out of range."""
    raise ValueError(
        f"cross_entropy: labels lie between {labels.min()} and {labels.max()}; for {classes} classes they must lie "
        f"between 0 and {classes - 1}"
    )


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) + ("," if len(names) == 1 else "")


def emit(
    program: Program,
    title: str = "",
    path_of: Callable[[Scope | None], str] = lambda scope: "",
    updates: Sequence[Update] = (),
    joint: bool = False,
) -> Emitted:
    """Write a program out as loops: as the functions `forward` and `backward`, or, `joint`, as one function `step`.

    The arrays of `program.places` are bound like the leaves.
    """
    writer = Writer(program, path_of, joint)
    items, middle = writer.schedule.items, writer.schedule.middle

    def function(name: str, arguments: list[str], lines: list[str]) -> list[str]:
        refresh = ["for copy, array in copies:", "    copyto(copy, array)"]
        return ["", f"    def {name}({', '.join(arguments)}):", *(f"        {line}" for line in [*refresh, *lines])]

    inputs = [writer.home[id(v)] for v in program.inputs]
    if joint:
        for update in updates:
            if update.rate is not None:
                writer.descend(update)
        body = writer.half(items, "one_step", updates)
        outputs, effects = _results(writer)
        functions = function("step", inputs, [*body, f"return ({outputs}), ({effects})"])
        names = ["step"]
    else:
        body = writer.half(items[:middle], "go_forward")
        outputs, effects = _results(writer)
        crossing = writer.crossing()
        body.append(f"return ({outputs}), ({effects}), ({_joined(crossing)})")
        functions = function("forward", inputs, body)
        seeds = [writer.home[id(v)] for v in program.seeds]
        body = writer.half(items[middle:], "go_back")
        found = iter(writer.handed([v for v in program.gradients if v is not None]))
        gradients = [("None" if v is None else next(found)) for v in program.gradients]
        body.append(f"return ({_joined(gradients)})")
        functions += function("backward", [*inputs, *seeds, *crossing], body)
        names = ["forward", "backward"]
    leaves = [writer.home[id(v)] for v in program.leaves]
    arrays = [*leaves, *writer.given.values(), *writer.fixed_names]
    source = "\n".join(
        [
            *([f"# {title}"] if title else []),
            *writer.functions(),
            f"def make({', '.join(['memory', 'table', 'copies', *arrays, *writer.bound])}):",
            *(f"    {name} = {text}" for name, text in writer.arrays),
            *functions,
            "",
            f"    return {_joined(names)}",
            "",
        ]
    )
    return Emitted(writer, source, title)


def _results(writer: Writer) -> tuple[str, str]:
    """What is returned, and what is assigned to buffers."""
    program = writer.program
    outputs = writer.handed(program.outputs)
    return _joined(outputs), _joined(writer.handed([e.value for e in program.effects]))
