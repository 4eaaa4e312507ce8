"""The update inside a training step: an optimizer's own formula, on the blocks of a flat buffer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.emitter import Insertion
from tinygrad_mm.compiler.guards import Guards
from tinygrad_mm.graph import tick
from tinygrad_mm.memory import aligned
from tinygrad_mm.optim.flat import Flat, block_size, has_loop
from tinygrad_mm.optim.formula import Program as Formula
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.optim.prescaled import Prescaled, prescaled

__all__ = ["Update", "divides"]


def divides(rate: float) -> bool:
    """Whether a learning rate is far enough from 0 for what a program divides by it."""
    return rate > 1e-20


class Update:
    """The update of the parameters in one flat buffer.

    `stores` are their gradients: one array, or one for each thread that works on a share of the batch. `parts` threads
    deal out the update. `rate` is where the learning rate is kept if gradients come multiplied by it; in each share
    they shall count `weight`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        group: dict[str, Any],
        flat: Flat,
        active: list[int],
        stores: list[Any],
        number: int,
        short: Prescaled | None = None,
        rate: Any = None,
        weight: float = 1.0,
    ) -> None:
        self.optimizer, self.group, self.flat, self.active, self.stores = optimizer, group, flat, active, stores
        self.number, self.weight, self.parts = number, weight, len(stores)
        self.members = [flat.parameters[i] for i in active]
        self.known = optimizer._looked_at(group)
        self.program: Formula = self.known.program
        self.short = short  # the formula for gradients that come multiplied by a number
        self.is_descent = rate is not None  # which is the learning rate
        self.scalars = [np.empty((), flat.dtype) for _ in range(self.program.numbers)] if rate is None else [rate]
        self.states = tuple(flat.states)
        self.elements: dict[str, tuple[int, int]] = {}  # by the name of a gradient, those that it is for
        self.loop: Any = None  # of a fused optimizer
        self.last: Any = None
        head = self.program.source.partition("def update")[0]
        self.constant = len(re.findall(r"\bstep\b", head)) == 1  # the number of the step is a parameter, and not used

    def fits(self) -> bool:
        """Whether the formula, its options and the numbers of steps are what the program was written for."""
        flat, known = self.flat, self.known
        if known.scheduled or known.group != self.group:
            self.known = known = self.optimizer._looked_at(self.group)
        fits = known.program is self.program and tuple(flat.states) == self.states and self.in_step()
        return fits and (not self.is_descent or divides(known.learning_rate))

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

    def prepare(self) -> bool:
        """Work out the numbers of this step: the learning rate, corrections of moments. False where nothing changed."""
        known = self.known
        if known is self.last and self.constant:  # the same numbers as last time
            return False
        self.last = known
        numbers = self.program.scalars(known.learning_rate, self.flat.steps[self.active[0]] + 1, *known.numbers)
        for place, number in zip(self.scalars, numbers):  # noqa: B905 (made together)
            place[...] = number * self.weight if self.is_descent else number
        return True

    def done(self) -> None:
        """Count the step."""
        steps = self.flat.steps
        if len(self.active) == len(steps):
            steps[:] = [steps[0] + 1] * len(steps)
        else:
            for i in self.active:
                steps[i] += 1
            self.flat.forget_runs()  # of parameters that had the same number of steps behind them until now
        now = tick()
        for p in self.members:
            p.version = now

    def _body(self) -> list[str]:
        """The statements of the formula."""
        if self.short is not None:
            return list(self.short.body)
        return [line.strip() for line in self.program.source.split("def update(")[1].splitlines()[1:]]

    def insertions(self) -> list[Insertion]:
        """The statements that update each segment; one call for all, where the optimizer has a loop for its formula."""
        flat = self.flat
        if flat.fused and has_loop(self.program, flat.dtype):
            return [self._call()]
        return [
            self._insertion(flat.starts[members[0]], flat.starts[members[-1] + 1], number)
            for number, members in enumerate(self._segments())
        ]

    def as_loop(self) -> Any:
        """The update as the loops of a compiled program."""
        from tinygrad_mm.compiler.loops import Update as Loop

        flat = self.flat
        pieces = [(flat.starts[members[0]], flat.starts[members[-1] + 1]) for members in self._segments()]
        gradients = [self.stores[0][start:stop] for start, stop in pieces]
        short = prescaled(self.program)
        rate = self.scalars[0] if short is not None and short.factor is None else None
        arrays = [flat.values, *flat.states.values()]
        return Loop(self.program, arrays, self.scalars, pieces, gradients, rate, self.elements)

    def as_function(self) -> Callable[[], None]:
        """The update as one compiled loop, on the sum of what all threads found."""
        self.loop = self.as_loop()
        run = self.loop.loop() if self.loop.elements() is not None else self.loop.run
        first, *others = self.stores

        def update() -> None:
            for store in others:
                np.add(first, store, first)
            run()

        return update

    def _segments(self) -> list[list[int]]:
        """Neighbours among the active parameters, together."""
        segments: list[list[int]] = []
        for i in self.active:
            if segments and segments[-1][-1] == i - 1:
                segments[-1].append(i)
            else:
                segments.append([i])
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
        flat, program, parts = self.flat, self.program, self.parts
        text = program.source.split("def update(")[1]
        names = [n.strip() for n in text[: text.index(")")].split(",")]
        constants = [np.asarray(c, flat.dtype) for c in (self.short or program).constants]
        longest = block_size(stop - start, parts)

        def blocks_of(thread: int) -> list[tuple[Any, ...]]:
            temporaries = [aligned(longest, flat.dtype, np.zeros) for _ in range(program.temporaries)]
            blocks = []
            for a in range(start + thread * longest, stop, parts * longest):
                b = min(a + longest, stop)
                arrays = (flat.values[a:b], *(s[a:b] for s in (*self.stores, *flat.states.values())))
                blocks.append((*arrays, *(t[: b - a] for t in temporaries)))
            return blocks

        blocks = blocks_of(0)
        others = [f"{names[1]}_of_thread_{k}" for k in range(2, len(self.stores) + 1)]
        body = [*(f"add({names[1]}, {other}, {names[1]})" for other in others), *self._body()]
        states = names[2 : 2 + len(flat.states)]
        moving = [*names[:2], *others, *states, *(names[-program.temporaries :] if program.temporaries else [])]
        fixed = dict(
            zip(
                names[2 + len(flat.states) : len(names) - program.temporaries],
                [*self.scalars, *constants],
                strict=True,
            )
        )
        functions = {
            f: getattr(np, f) for line in body for f in re.findall(r"\b([a-z_0-9]+)\(", line) if hasattr(np, f)
        }
        tag = f"_{self.number}_{segment}" if self.number or segment else ""
        rename = {
            n: f"{n}_of_update{tag}" if n[0] in "tcs" and n[1:].isdigit() else f"{n}{tag}" for n in names + others
        }
        rename.update({f: f"np_{f}" for f in functions})
        lines = [re.sub(r"\b[A-Za-z_]\w*\b", lambda m: rename.get(m.group(), m.group()), line) for line in body]
        bound: dict[str, Any] = {rename[n]: v for n, v in fixed.items()}
        bound.update({rename[f]: v for f, v in functions.items()})
        if parts == len(blocks) == 1:
            bound.update({rename[n]: v for n, v in zip(moving, blocks[0], strict=True)})
            return Insertion(["# update", *lines], bound)
        bound[f"blocks{tag}"] = blocks
        loop = f"for {', '.join(rename[n] for n in moving)} in blocks{tag}:"
        shares = [{f"blocks{tag}": blocks_of(thread)} for thread in range(1, parts)]
        return Insertion(["# update", loop, *(f"    {line}" for line in lines)], bound, shares)
