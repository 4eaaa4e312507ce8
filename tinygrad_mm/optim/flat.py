"""The runner behind every optimizer: parameters laid end to end, updated in blocks that stay in cache."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_mm.graph import tick
from tinygrad_mm.memory import aligned
from tinygrad_mm.optim.formula import Program
from tinygrad_mm.tensor import Tensor

__all__ = ["Flat", "adopted_again", "block_size", "flats_of", "has_loop"]

BLOCK = 128 * 1024  # elements: parameter, gradient and states of a block stay in the cache for all calls of the formula
GATHERED = 8 * 1024  # elements: to copy a smaller gradient takes less time than to ask where it lies

log = logging.getLogger("tinygrad_mm.optim")


def block_size(elements: int, threads: int = 1) -> int:
    """How many elements make a block, so that each thread gets as many blocks, all of nearly the same size.

    >>> block_size(100), block_size(669706, 2)  # whole cache lines
    (112, 111632)
    """
    line = min(16, BLOCK)
    blocks = threads * max(1, -(-elements // (threads * BLOCK)))
    return max(line, -(-elements // (line * blocks)) * line)


def flats_of(parameters: Sequence[Tensor], states: Sequence[str], fused: bool = False) -> list[Flat]:
    """One flat buffer per dtype."""
    dtypes = list(dict.fromkeys(p.value.dtype for p in parameters))
    return [Flat([p for p in parameters if p.value.dtype == d], states, fused) for d in dtypes]


def adopted_again(parameters: Sequence[Tensor], flats: Sequence[Flat], states: Sequence[str]) -> list[Flat]:
    """The flats after some parameter was given another array than ours, or after other states are wanted.

    Where shapes, dtypes and states are the same, the arrays are copied in; otherwise new flats are made, into which
    states follow their parameters as long as the shape is still the same.
    """
    if all(tuple(flat.states) == tuple(states) and flat.adopt() for flat in flats):
        return list(flats)
    old = {id(p): (flat, i) for flat in flats for i, p in enumerate(flat.parameters)}
    new = flats_of(parameters, states, flats[0].fused)
    for flat in new:
        for i, p in enumerate(flat.parameters):
            before, j = old[id(p)]
            if before.shapes[j] == flat.shapes[i]:
                flat.steps[i] = before.steps[j]
                for name in states:
                    if name in before.states:
                        flat.view(flat.states[name], i)[...] = before.view(before.states[name], j)
    return new


class Flat:
    """Parameters of one dtype laid end to end: each parameter's array is a view into `values`.

    `fused`: they are updated by a loop that Numba compiles, instead of by NumPy calls.
    """

    def __init__(self, parameters: Sequence[Tensor], states: Sequence[str], fused: bool = False) -> None:
        self.parameters, self.fused = list(parameters), fused
        self.shapes = [p.value.shape for p in parameters]
        self.dtype = parameters[0].value.dtype
        self.starts = [0, *np.cumsum([p.value.size for p in parameters]).tolist()]
        self.values = aligned(self.starts[-1], self.dtype)
        self.states = {name: aligned(self.values.size, self.dtype, np.zeros) for name in states}
        self.steps = [0] * len(self.parameters)  # a parameter that is skipped falls behind
        self._make_views()

    def _make_views(self) -> None:
        self.views = [self.view(self.values, i) for i in range(len(self.parameters))]
        self.forget_runs()
        self.adopt()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made from: it makes views and runs of its own, or they would show the original's arrays."""
        return {k: v for k, v in vars(self).items() if k not in ("views", "skipped", "runs", "program")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_views()

    def view(self, flat: Any, i: int) -> Any:
        """The part of a flat array that belongs to the i-th parameter, in its shape."""
        return flat[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])

    def holds(self) -> bool:
        """Whether every parameter's array still is our view."""
        return all(p.value is view for p, view in zip(self.parameters, self.views, strict=True))

    def adopt(self) -> bool:
        """Copy the parameters' arrays in and make them views; False, and nothing done, where one no longer fits."""
        if any(
            p.value.shape != s or p.value.dtype != self.dtype for p, s in zip(self.parameters, self.shapes, strict=True)
        ):
            return False
        for p, view in zip(self.parameters, self.views, strict=True):
            if p.value is not view:
                view[...] = p.value
                p.value = view
        return True

    def gradients(self) -> list[Any]:
        """The gradient of each parameter, None for one that is to be skipped: it has none, or is frozen.

        Raises TypeError for a gradient that is no array, ValueError for one of another shape than the parameter.
        """
        found = []
        for p, shape in zip(self.parameters, self.shapes, strict=True):
            g = p.grad
            if g is not None and (not isinstance(g, np.ndarray) or g.shape != shape):
                _check_gradient(p, g)
            found.append(g if p.requires_grad else None)
        return found

    def forget_runs(self) -> None:
        """Plan anew at the next step: the numbers of steps were changed."""
        self.skipped: list[int] | None = None
        self.runs: list[_Run | _FusedRun] = []
        self.program: Program | None = None

    def step(self, gradients: list[Any], program: Program, learning_rate: float, scheduled: Sequence[float]) -> None:
        """Update the parameters that have a gradient, given those of all as `gradients()` lists them."""
        skipped = [i for i, g in enumerate(gradients) if g is None]
        if skipped != self.skipped or program is not self.program:
            self.runs, self.skipped, self.program = self._plan(program, skipped), skipped, program
        for run in self.runs:
            count = self.steps[run.members[0]] + 1
            run.execute(gradients, program.scalars(learning_rate, count, *scheduled))
            now = tick()
            for i in run.members:
                self.steps[i] = count
                self.parameters[i].version = now

    def _plan(self, program: Program, skipped: Sequence[int]) -> list[_Run | _FusedRun]:
        """Parameters that are updated and have the same number of steps behind them go together."""
        members: dict[int, list[int]] = {}
        for i, steps in enumerate(self.steps):
            if i not in skipped:
                members.setdefault(steps, []).append(i)
        if self.fused and has_loop(program, self.dtype):
            return [_FusedRun(self, program, m) for m in members.values()]
        return [_Run(self, program, m) for m in members.values()]


def _check_gradient(p: Tensor, g: Any) -> None:
    if not isinstance(g, (np.ndarray, np.generic)):
        raise TypeError(
            f"the gradient of a parameter of shape {p.shape} is a {type(g).__name__}; set .grad to a NumPy array"
        )
    if g.shape != p.value.shape:
        raise ValueError(
            f"the gradient of a parameter of shape {p.shape} has shape {g.shape}; set .grad to an array of the "
            "parameter's shape, or to None to skip the parameter"
        )


class _Run:
    """The blocks of one update, with all the views they need made beforehand."""

    def __init__(self, flat: Flat, program: Program, members: list[int]) -> None:
        self.flat, self.program, self.members = flat, program, members
        dtype = flat.dtype
        self.scalars = [np.empty((), dtype) for _ in range(program.numbers)]
        constants = [np.asarray(c, dtype) for c in program.constants]
        blocks = self._blocks()
        longest = max((stop - start for start, stop, _ in blocks), default=0)
        scratch = [aligned(longest, dtype) for _ in range(1 + program.temporaries)]
        self.calls = []
        for start, stop, inside in blocks:
            gradient, *temporaries = (s[: stop - start] for s in scratch)
            states = [s[start:stop] for s in flat.states.values()]
            tail = (*states, *self.scalars, *constants, *temporaries)
            self.calls.append((flat.values[start:stop], gradient, start, inside, tail))

    def _blocks(self) -> list[tuple[int, int, list[int]]]:
        """(start, stop, parameters inside): a large parameter in several blocks, small neighbours in one."""
        blocks: list[tuple[int, int, list[int]]] = []
        starts = self.flat.starts
        for i in self.members:
            start, stop = starts[i], starts[i + 1]
            before, end, inside = blocks[-1] if blocks else (0, -1, [i])
            if end == start < stop and before == starts[inside[0]] and stop - before <= BLOCK:
                blocks[-1] = (before, stop, [*inside, i])
            else:
                size = block_size(stop - start)
                blocks.extend((a, min(a + size, stop), [i]) for a in range(start, stop, size))
        return blocks

    def execute(self, gradients: list[Any], numbers: Sequence[float]) -> None:
        """One update of the members, by their gradients."""
        for place, number in zip(self.scalars, numbers, strict=True):
            place.fill(number)
        for value, gradient, start, inside, tail in self.calls:
            alone = gradients[inside[0]] if len(inside) == 1 else None
            if alone is not None and alone.dtype == self.flat.dtype and alone.flags.c_contiguous:
                first = start - self.flat.starts[inside[0]]
                gradient = alone.reshape(-1)[first : first + value.size]
            else:
                gather(self.flat, gradients, start, inside, gradient)
            self.program.update(value, gradient, *tail)


def gather(flat: Flat, gradients: list[Any], start: int, inside: Sequence[int], out: Any) -> None:
    """Copy the gradients of some parameters side by side, as these lie in the flat buffer from `start` on."""
    for i in inside:
        first = max(flat.starts[i], start)
        last = min(flat.starts[i + 1], start + out.size)
        out[first - start : last - start] = gradients[i].reshape(-1)[first - flat.starts[i] : last - flat.starts[i]]


@functools.lru_cache(64)
def has_loop(program: Program, dtype: Any) -> bool:
    """Whether Numba can run a formula; told once where not, since it was asked to."""
    from tinygrad_mm.compiler.loops import require_numba
    from tinygrad_mm.compiler.loops.updates import elements

    require_numba("fused=True")
    known = elements(program, dtype) is not None
    if not known:
        log.warning("fused=True: for %s, this has no loop and runs as NumPy calls:\n%s", dtype, program.source)
    return known


class _FusedRun:
    """One update as a compiled loop: it reads large gradients where they lie, small neighbours are gathered."""

    def __init__(self, flat: Flat, program: Program, members: list[int]) -> None:
        from tinygrad_mm.compiler.loops import Update

        self.flat, self.program, self.members, self.dtype = flat, program, members, flat.dtype
        self.scalars = [np.empty((), flat.dtype) for _ in range(program.numbers)]
        self.gathered: list[
            tuple[int, list[int], Any]
        ] = []  # small parameters: start, which, a copy of their gradients
        self.direct: list[tuple[int, int]] = []  # parameter, and the piece that it is
        pieces: list[tuple[int, int]] = []
        gradients: list[Any] = []
        for start, stop, inside in self._pieces(flat):
            gradient = None
            if stop - start > GATHERED and len(inside) == 1:
                self.direct.append((inside[0], len(pieces)))
            else:
                gradient = aligned(stop - start, flat.dtype)
                self.gathered.append((start, inside, gradient))
            pieces.append((start, stop))
            gradients.append(gradient)
        self.update = Update(program, [flat.values, *flat.states.values()], self.scalars, pieces, gradients)
        self.loop = self.update.loop()

    def _pieces(self, flat: Flat) -> list[tuple[int, int, list[int]]]:
        """(start, stop, parameters inside): a large parameter alone, small neighbours together."""
        pieces: list[tuple[int, int, list[int]]] = []
        small = False
        for i in self.members:
            start, stop = flat.starts[i], flat.starts[i + 1]
            was_small, small = small, stop - start <= GATHERED
            if pieces and was_small and small and pieces[-1][1] == start:
                before, _, inside = pieces[-1]
                pieces[-1] = (before, stop, [*inside, i])
            else:
                pieces.append((start, stop, [i]))
        return pieces

    def execute(self, gradients: list[Any], numbers: Sequence[float]) -> None:
        """One update of the members, by their gradients."""
        for place, number in zip(self.scalars, numbers, strict=True):
            place.fill(number)
        rows, kept = self.update.rows, []
        for start, inside, gradient in self.gathered:
            gather(self.flat, gradients, start, inside, gradient)
        for i, row in self.direct:
            g = gradients[i]
            flags = g.flags
            if g.dtype != self.dtype or not (flags.c_contiguous and flags.aligned):
                g = np.require(g, self.dtype, ["C", "A"])
                kept.append(g)  # the loop knows its address only
            rows[row, 0] = g.ctypes.data
        self.loop()
