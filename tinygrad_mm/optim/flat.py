"""Flat buffers, which run the formula of an optimizer: parameters lie end to end, and are updated in blocks.

Blocks are small enough to stay in the processor's cache for all calls of a formula.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.graph import tick
from tinygrad_mm.memory import aligned
from tinygrad_mm.optim.formula import Formula, new_values
from tinygrad_mm.tensor import Tensor

__all__ = ["Flat", "Run", "Update", "brought_up_to_date", "block_size", "flats_of", "has_loop", "precision_of"]

BLOCK = 128 * 1024  # elements: parameter, gradient and states of a block stay in the cache for all calls of the formula
EAGER_BLOCK = 16 * 1024  # elements: the new arrays that each call makes are of a size that the allocator keeps
FLUSH_EVERY = 128  # steps

log = logging.getLogger("tinygrad_mm.optim")


def block_size(elements: int, threads: int = 1) -> int:
    """How many elements make a block, so that each thread gets as many blocks, all of nearly the same size.

    >>> block_size(100), block_size(669706, 2)  # whole cache lines
    (112, 111632)
    """
    line = min(16, BLOCK)
    blocks = threads * max(1, -(-elements // (threads * BLOCK)))
    return max(line, -(-elements // (line * blocks)) * line)


def precision_of(dtype: Any) -> Any:
    """The dtype of the states of parameters of a dtype, and of what a formula computes with: at least single precision.

    In half precision Adam's epsilon is 0, and the square of a gradient of 0.0001 as well.

    >>> precision_of(np.dtype(np.float16)), precision_of(np.dtype(np.float64))
    (dtype('float32'), dtype('float64'))
    """
    return np.result_type(dtype, np.float32)


def flats_of(parameters: Sequence[Tensor], states: Sequence[str], fused: bool = False) -> list[Flat]:
    """One flat buffer per dtype."""
    dtypes = list(dict.fromkeys(p.value.dtype for p in parameters))
    return [Flat([p for p in parameters if p.value.dtype == d], states, fused) for d in dtypes]


def brought_up_to_date(parameters: Sequence[Tensor], flats: Sequence[Flat], states: Sequence[str]) -> list[Flat]:
    """The flat buffers after some parameter was given another array, or other states are needed.

    Where shapes, dtypes and states are the same, the arrays are copied in; otherwise new flats are made, into which
    states follow their parameters as long as the shape is still the same.
    """
    if all(tuple(flat.states) == tuple(states) and flat.copy_in() for flat in flats):
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
        self.precision = precision_of(self.dtype)
        self.starts = [0, *np.cumsum([p.value.size for p in parameters]).tolist()]
        self.values = aligned(self.starts[-1], self.dtype)
        self.states = {name: aligned(self.values.size, self.precision, np.zeros) for name in states}
        self.steps = [0] * len(self.parameters)  # of each parameter: one that is skipped has fewer
        self._make_views()

    def _make_views(self) -> None:
        self.views = [self.view(self.values, i) for i in range(len(self.parameters))]
        self.forget_runs()
        self.copy_in()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made from: it makes views and runs of its own, or they would show the original's arrays."""
        return {k: v for k, v in vars(self).items() if k not in ("views", "planned", "runs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_views()

    def view(self, flat: Any, i: int) -> Any:
        """The part of a flat array that belongs to the i-th parameter, in its shape."""
        return flat[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])

    def owns_views(self) -> bool:
        """Whether every parameter's array still is our view."""
        for p, view in zip(self.parameters, self.views, strict=True):  # noqa: SIM110 (at every step: half of all()'s time)
            if p.value is not view:
                return False
        return True

    def copy_in(self) -> bool:
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
            if g is not None and (type(g) is not np.ndarray or g.shape != shape):
                _check_gradient(p, g)
            found.append(g if p.requires_grad else None)
        return found

    def forget_runs(self) -> None:
        """Make new runs at the next step, since the numbers of steps were changed."""
        self.planned: Any = None  # what `runs` were made for: the parameters that are skipped, and the formula
        self.runs: list[Run | _FusedRun] = []

    def step(self, gradients: list[Any], update: Update) -> None:
        """Update the parameters that have a gradient, given those of all as `gradients()` lists them."""
        planned = [i for i, g in enumerate(gradients) if g is None], update.formula
        if planned != self.planned:
            self.runs, self.planned = self._plan(*planned), planned
        for run in self.runs:
            count = self.steps[run.members[0]] + 1
            run.execute(gradients, update, count)
            self.done(run.members, count)

    def done(self, members: Sequence[int], count: int) -> None:
        """Note that these parameters have had their `count`-th step."""
        now = tick()
        for i in members:
            self.steps[i] = count
            self.parameters[i].version = now
        if count % FLUSH_EVERY == 0:
            self.flush()

    def flush(self) -> None:
        """Make numbers in the states zero that are about to become denormal, with which processors are slow.

        A running mean without new gradients falls by a factor each step; in single precision it would be denormal after
        some 700 steps of Adam. What is that small moves no parameter.
        """
        for state in self.states.values():
            state[np.abs(state) < np.finfo(state.dtype).tiny * 1e8] = 0

    def _plan(self, skipped: Sequence[int], formula: Formula) -> list[Run | _FusedRun]:
        """A run for each number of steps: the parameters that are updated and have had that many."""
        members: dict[int, list[int]] = {}
        for i, steps in enumerate(self.steps):
            if i not in skipped:
                members.setdefault(steps, []).append(i)
        if self.fused and has_loop(formula, self.dtype):
            return [_FusedRun(self, formula, m) for m in members.values()]
        return [Run(self, m, formula.whole) for m in members.values()]

    def pieces(self, members: Sequence[int], small: int, most: int) -> list[tuple[int, int, list[int]]]:
        """(start, stop, parameters inside) of pieces of at most `most` elements that cover the members.

        Neighbours of at most `small` elements each share a piece; a larger parameter has pieces of its own.
        """
        found: list[tuple[int, int, list[int]]] = []
        joins = False
        for i in members:
            start, stop = self.starts[i], self.starts[i + 1]
            if start == stop:
                continue
            before, end, inside = found[-1] if found else (0, -1, [])
            is_small = stop - start <= small
            if joins and is_small and end == start and stop - before <= most:
                found[-1] = (before, stop, [*inside, i])
            else:
                found.extend((a, min(a + most, stop), [i]) for a in range(start, stop, most))
            joins = is_small
        return found


@dataclass
class Update:
    """One step's update of a group: the optimizer's function `rule` with its options, and the same traced, `formula`.

    `scheduled` are the numbers that schedules gave at this step, further inputs of the traced formula.
    """

    states: tuple[str, ...]
    rule: Callable[..., Any]
    options: Mapping[str, Any]
    formula: Formula
    learning_rate: float
    scheduled: Sequence[float]

    def numbers(self, count: int) -> Sequence[float]:
        """The numbers that the traced formula reads at a parameter's `count`-th step."""
        return self.formula.scalars(self.learning_rate, count, *self.scheduled)


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


class Run:
    """The formula on the blocks of some parameters: in half precision, on blocks in single precision.

    A formula that needs each parameter `whole` is given it in its shape, instead of blocks.
    """

    def __init__(self, flat: Flat, members: list[int], whole: bool = False) -> None:
        self.flat, self.members, self.whole = flat, members, whole
        self.blocks = flat.pieces(members, *((0, flat.values.size + 1) if whole else (EAGER_BLOCK, EAGER_BLOCK)))
        longest = max((stop - start for start, stop, inside in self.blocks if len(inside) > 1), default=0)
        self.gathered = aligned(longest, flat.precision)

    def execute(self, gradients: list[Any], update: Update, count: int) -> None:
        """One update of the members, by their gradients."""
        flat = self.flat
        for start, stop, inside in self.blocks:
            if len(inside) > 1:
                gradient = self.gathered[: stop - start]
                np.concatenate([gradients[i].ravel() for i in inside], out=gradient)
            else:
                first = flat.starts[inside[0]]
                gradient = gradients[inside[0]].ravel()[start - first : stop - first].astype(flat.precision, copy=False)
            places = [array[start:stop] for array in (flat.values, *flat.states.values())]
            if self.whole:
                shape = flat.shapes[inside[0]]
                places, gradient = [place.reshape(shape) for place in places], gradient.reshape(shape)
            given = [place.astype(flat.precision, copy=False) for place in places]
            arguments = (given[0], gradient, *given[1:], update.learning_rate, count)
            found = new_values(update.rule, update.rule(*arguments, **update.options), update.states)
            kept = [new.copy() if any(new is a for a in given) else new for new in found]  # before one is overwritten
            for place, new in zip(places, kept, strict=True):
                place[...] = new


@functools.lru_cache(64)
def has_loop(formula: Formula, dtype: Any) -> bool:
    """Whether Numba can run a formula; where not, a warning is logged once."""
    from tinygrad_mm.compiler.loops import require_numba
    from tinygrad_mm.compiler.loops.updates import elements

    require_numba("fused=True")
    known = elements(formula, dtype) is not None
    if not known:
        log.warning("fused=True: for %s, this has no loop and runs as NumPy calls:\n%s", dtype, formula.source)
    return known


class _FusedRun:
    """One update as a compiled loop, on copies of the gradients: neighbours end to end."""

    def __init__(self, flat: Flat, formula: Formula, members: list[int]) -> None:
        from tinygrad_mm.compiler.loops import Update as Loop

        self.members, size = members, flat.values.size
        self.scalars = [np.empty((), flat.dtype) for _ in formula.code.numbers]
        pieces = flat.pieces(members, size, size)
        self.inside = [inside for _, _, inside in pieces]
        self.gathered = [aligned(stop - start, flat.dtype) for start, stop, _ in pieces]
        arrays = [flat.values, *flat.states.values()]
        self.loop = Loop(formula, arrays, self.scalars, [(a, b) for a, b, _ in pieces], self.gathered).loop()

    def execute(self, gradients: list[Any], update: Update, count: int) -> None:
        """One update of the members, by their gradients."""
        for place, number in zip(self.scalars, update.numbers(count), strict=True):
            place.fill(number)
        for inside, gathered in zip(self.inside, self.gathered, strict=True):
            np.concatenate([gradients[i].ravel() for i in inside], out=gathered)
        self.loop()
