"""The update inside a training step: an optimizer's own formula, on the blocks of a flat buffer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.emitter import Insertion
from tinygrad_mm.compiler.guards import Guards
from tinygrad_mm.memory import aligned
from tinygrad_mm.optim.flat import Flat, Run, block_size, has_loop
from tinygrad_mm.optim.optimizer import Optimizer

__all__ = ["Update"]


class Update:
    """The update of those parameters in one flat buffer that have the same number of steps behind them.

    `stores` are their gradients: one array, or one for each thread that works on a share of the batch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        group: dict[str, Any],
        flat: Flat,
        active: list[int],
        stores: Sequence[Any],
        number: int = 0,
    ) -> None:
        self.optimizer, self.group, self.flat, self.active, self.stores = optimizer, group, flat, active, stores
        self.number = number
        self.known = optimizer._looked_at(group)
        self.formula = self.known.update.formula
        self.scalars = {name: np.empty((), flat.dtype) for name in self.formula.code.numbers}
        self.states = tuple(flat.states)
        self.loop: Any = None  # of a fused optimizer, or of the Numba backend
        self.last: Any = None

    # -- whether it still is the one that the program was written for

    def fits(self) -> bool:
        """Whether the formula, its options and the numbers of steps are what the program was written for."""
        known = self.known
        if known.scheduled or known.group != self.group:
            self.known = known = self.optimizer._looked_at(self.group)
        return known.update.formula is self.formula and tuple(self.flat.states) == self.states and self.in_step()

    def in_step(self) -> bool:
        """Whether all members have the same number of steps behind them."""
        steps = self.flat.steps
        first = steps[self.active[0]]
        if len(self.active) == len(steps):
            return steps.count(first) == len(steps)
        return all(steps[i] == first for i in self.active)

    def guard(self, guards: Guards) -> None:
        """The same, as conditions that are checked with all others."""
        flat, known = self.flat, self.known
        if known.scheduled or tuple(flat.states) != self.states:
            guards.true(f"{guards.name(self)}.fits()")
            return
        guards.same(f"{guards.name(flat)}.steps", flat.steps)
        guards.true(f"{guards.name(known.group)} == {guards.name(self.group)}")
        if len(self.active) == len(flat.steps):
            steps = guards.name(flat.steps)
            guards.true(f"{steps}.count({steps}[{self.active[0]}]) == {len(flat.steps)}")
        else:
            guards.true(f"{guards.name(self)}.in_step()")

    # -- a step

    def prepare(self) -> None:
        """Work out the numbers of this step: the learning rate, corrections of moments."""
        known = self.known
        if known is self.last and not self.formula.reads_step:  # the same numbers as last time
            return
        self.last = known
        numbers = known.update.numbers(self.flat.steps[self.active[0]] + 1)
        for place, number in zip(self.scalars.values(), numbers):  # noqa: B905 (made together)
            place[...] = number

    def done(self) -> None:
        """Count the step."""
        flat = self.flat
        flat.done(self.active, flat.steps[self.active[0]] + 1)
        if len(self.active) != len(flat.steps):
            flat.forget_runs()  # of parameters that had the same number of steps behind them until now

    def gradients(self) -> dict[int, Any]:
        """The gradients of the last step, by the id of the parameter: an update has added those of all threads up."""
        return {id(self.flat.parameters[i]): self.flat.view(self.stores[0], i) for i in self.active}

    # -- as code

    def insertions(self) -> list[Insertion]:
        """The statements that update each segment; one call for all: in half precision, where that is a loop, and where
        the formula needs each parameter whole.
        """
        flat = self.flat
        in_calls = flat.precision == flat.dtype and not self.formula.whole
        if not in_calls or (flat.fused and has_loop(self.formula, flat.dtype)):
            return [self._call()]
        return [self._insertion(start, stop, number) for number, (start, stop) in enumerate(self._segments())]

    def as_loop(self) -> Any:
        """The update as the loops of a compiled program."""
        from tinygrad_mm.compiler.loops import Update as Loop

        flat, pieces = self.flat, self._segments()
        gradients = [self.stores[0][start:stop] for start, stop in pieces]
        arrays = [flat.values, *flat.states.values()]
        scalars = list(self.scalars.values())
        self.loop = Loop(self.formula, arrays, scalars, pieces, gradients, self._run_eagerly)
        return self.loop

    def as_function(self) -> Callable[[], None]:
        """The update as one compiled loop, on the sum of what all threads found."""
        loop = self.as_loop()
        run = loop.loop() if loop.elements() is not None else self._run_eagerly
        first, *others = self.stores

        def update() -> None:
            for store in others:
                np.add(first, store, first)
            run()

        return update

    def _run_eagerly(self) -> None:
        """The update as an eager step makes it."""
        gradients = [self.flat.view(self.stores[0], i) for i in range(len(self.flat.parameters))]
        with np.errstate(under="ignore"):
            Run(self.flat, self.active, self.formula.whole).execute(
                gradients, self.known.update, self.flat.steps[self.active[0]] + 1
            )

    def _segments(self) -> list[tuple[int, int]]:
        """(start, stop) of neighbours among the active parameters."""
        starts = self.flat.starts
        segments: list[tuple[int, int]] = []
        for i in self.active:
            if segments and segments[-1][1] == starts[i]:
                segments[-1] = (segments[-1][0], starts[i + 1])
            else:
                segments.append((starts[i], starts[i + 1]))
        return segments

    def _call(self) -> Insertion:
        """The formula as one compiled loop for all segments. It finds the arrays itself, and is given them to show."""
        run = self.as_function()
        tag = f"_{self.number}" if self.number else ""
        first, *others = self.stores
        arrays = {"parameters": self.flat.values, "gradients": first, **self.flat.states}
        arrays.update({f"gradients_of_thread_{k}": store for k, store in enumerate(others, 2)})
        bound = {f"{name}{tag}": array for name, array in arrays.items()}
        line = f"update_all{tag}({', '.join(bound)})"
        idle = {f"update_all{tag}": lambda *arrays: None}  # the loop has threads of its own
        return Insertion(["# update", line], {**bound, f"update_all{tag}": lambda *arrays: run()}, [idle] * len(others))

    def _insertion(self, start: int, stop: int, segment: int) -> Insertion:
        """The formula's statements, on the blocks of a piece of the flat buffer, which the threads deal out."""
        flat, code, parts = self.flat, self.formula.code, len(self.stores)
        tag = f"_{self.number}_{segment}" if self.number or segment else ""

        def renamed(name: str) -> str:
            own = name if name in (*code.arguments, *code.numbers, *others) else f"{name}_of_update"
            return f"np_{name}{tag}" if name in code.functions or name == "add" else f"{own}{tag}"

        others = [f"gradient_of_thread_{k}" for k in range(2, parts + 1)]
        longest = block_size(stop - start, parts)

        def blocks_of(thread: int) -> list[tuple[Any, ...]]:
            kinds = [bool if dtype == np.bool_ else flat.dtype for dtype in code.temporaries.values()]
            temporaries = [aligned(longest, kind, np.zeros) for kind in kinds]
            blocks = []
            for a in range(start + thread * longest, stop, parts * longest):
                b = min(a + longest, stop)
                arrays = (flat.values, self.stores[0], *flat.states.values(), *self.stores[1:])
                blocks.append((*(array[a:b] for array in arrays), *(t[: b - a] for t in temporaries)))
            return blocks

        moving = [renamed(name) for name in (*code.arguments, *others, *code.temporaries)]
        add, gradient = renamed("add"), renamed("gradient")
        lines = [*(f"{add}({gradient}, {renamed(other)}, {gradient})" for other in others), *code.lines(renamed)]
        bound: dict[str, Any] = {renamed(name): self.scalars[name] for name in code.numbers}
        bound.update({renamed(name): np.asarray(c, flat.dtype) for name, c in code.constants.items()})
        functions = code.functions | ({"add": np.add} if others else {})
        bound.update({renamed(name): f for name, f in functions.items()})
        blocks = blocks_of(0)
        if parts == len(blocks) == 1:
            bound.update(zip(moving, blocks[0], strict=True))
            return Insertion(["# update", *lines], bound)
        bound[f"blocks{tag}"] = blocks
        loop = f"for {', '.join(moving)} in blocks{tag}:"
        shares = [{f"blocks{tag}": blocks_of(thread)} for thread in range(1, parts)]
        return Insertion(["# update", loop, *(f"    {line}" for line in lines)], bound, shares)
