"""What a program consists of, and what its lines cost: measured, by running it with a clock between the lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_mm.compiler.emitter import Emitted

__all__ = ["Report", "report"]


class Report:
    """A table of a program: `lines` are (statement, microseconds), `total` is their sum; `print` it.

    `buffer_bytes` is what the buffers take, `result_bytes` what they would take if each result had one of its own;
    `multiply_adds` counts those of matrix products.
    """

    def __init__(self, emitted: Emitted, lines: list[tuple[str, float]]) -> None:
        program = emitted.program
        self.lines = lines
        self.total = sum(t for _, t in lines)
        self.calls = len(program.ops)
        self.buffers = len(emitted.buffers)
        self.buffer_bytes = emitted.nbytes
        self.result_bytes = emitted.without_reuse
        self.multiply_adds = sum(op.multiply_adds for op in program.ops)

    def __str__(self) -> str:
        width = max([len(text) for text, _ in self.lines] + [20])
        table = [f"{text:<{width}}  {t:9.2f}  {100 * t / max(self.total, 1e-12):5.1f} %" for text, t in self.lines]
        return "\n".join(
            [
                f"{self.calls} calls, {self.multiply_adds:,} multiply-adds; {self.buffers} buffers of "
                f"{self.buffer_bytes:,} bytes, {self.result_bytes:,} without reuse",
                f"{'':<{width}}  {'µs':>9}",
                *table,
                f"{'total':<{width}}  {self.total:9.2f}",
            ]
        )


def report(emitted: Emitted, run: Callable[[Any], Any], arrays: Sequence[Any], repeats: int = 30) -> Report:
    """Run an instrumented copy of a program; `run` is given what its `make` returned.

    Raises TypeError for a program of another backend.

    The best time of each line counts. `arrays` are what the program is bound to; all that it writes to is put back.
    """
    if emitted.needs_numba:
        raise TypeError("report: it times the lines of the NumPy backend; compile with backend='numpy' to see them")
    clock: list[float] = []
    tick = clock.append
    source, texts = [], []
    for line in emitted.source.splitlines():
        statement = line.strip()
        indented = line.startswith("        ")
        if indented and statement and not statement.startswith("#"):
            if statement.startswith("return"):
                source.append("        _tick(_now())")
                texts.append("")
                source.append(line)
                continue
            nested = line.startswith("            ")
            if not nested:
                source.append("        _tick(_now())")
                texts.append(statement.split("  #")[0])
        source.append(line)
    again = emitted.rewritten("\n".join(source) + "\n", _tick=tick, _now=time.perf_counter)
    bound = [a for a in [*arrays, *_arrays_in(list(emitted.bound.values()))] if a.flags.writeable]
    kept = [a.copy() for a in bound]
    generators = [g for g in emitted.bound.values() if isinstance(g, np.random.Generator)]
    states = [g.bit_generator.state for g in generators]
    best: list[float] = []
    made = again.make(*emitted.made_with(arrays))
    try:
        for _ in range(repeats):
            clock.clear()
            run(made)
            spent = [b - a for a, b in pairwise(clock)]
            best = spent if not best else [min(a, b) for a, b in zip(best, spent, strict=False)]
    finally:
        for array, before in zip(bound, kept, strict=True):
            array[...] = before
        for generator, state in zip(generators, states, strict=True):
            generator.bit_generator.state = state
    lines = [(text, 1e6 * t) for text, t in zip(texts, [*best, 0.0], strict=False) if text]
    return Report(emitted, lines)


def _arrays_in(tree: Any) -> list[Any]:
    if isinstance(tree, np.ndarray):
        return [tree]
    if isinstance(tree, (list, tuple)):
        return [array for item in tree for array in _arrays_in(item)]
    return []
