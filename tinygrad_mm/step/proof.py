"""A training step beside the eager engine: the loss, each gradient, buffers and generators; and, apart, the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.verification import (
    Difference,
    Noise,
    Progress,
    Surroundings,
    culprit,
    difference_of_generators,
    first_difference,
    named,
)
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import entered, tick
from tinygrad_mm.optim.flat import Flat
from tinygrad_mm.optim.formula import replaced, schedules_in
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.optim.prescaled import prescaled
from tinygrad_mm.step.plan import Plan
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = ["EagerStep", "Proof"]

NUDGE = 64  # units in the last place by which an argument of the formula is moved, to see what it counts
ULPS = 16  # that an update may be off, in what one unit in the last place of each argument makes


class EagerStep:
    """A step by the eager engine, from where everything stood when this was made."""

    def __init__(self, function: Callable[..., Any], optimizer: Optimizer, batch: Sequence[Any], plan: Plan) -> None:
        self.function, self.optimizer, self.batch = function, optimizer, batch
        self.trained = [p for p in optimizer.parameters if p.requires_grad]
        self.before = Surroundings(
            named(plan.captured, [*plan.buffers, *plan.effects], Buffer),
            named(plan.captured, [], np.random.Generator),
        )

    def run(self, recorded: bool = False) -> tuple[Any, dict[int, Any]]:
        """The loss, and the gradients by the ids of parameters, of those that the loss depends on."""
        with entered(recording=True), np.errstate(all="ignore"):
            loss = self.function(*map(Tensor, self.batch))
            found = gradients(loss, self.trained, create_graph=recorded, allow_unused=True)
        own = {id(p): np.array(g.value) for p, g in zip(self.trained, found, strict=True) if g is not None}
        return np.array(loss.value), own  # copies: either may lie in the memory of a parameter

    def commit(self, gradients: Mapping[int, Any]) -> None:
        """Let the optimizer make its step; what stands in `.grad` is left alone."""
        parameters = self.optimizer.parameters
        kept = [p.grad for p in parameters]
        try:
            for p in parameters:
                p.grad = gradients.get(id(p))
            self.optimizer.step()
        finally:
            for p, grad in zip(parameters, kept, strict=True):
                p.grad = grad


class _State:
    """Parameters, the optimizer's states and numbers of steps, as they are now."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.steps = optimizer, optimizer.steps
        self.flats: list[tuple[Any, Flat, Any, dict[str, Any], list[int]]] = [
            (group, flat, flat.values.copy(), {name: s.copy() for name, s in flat.states.items()}, list(flat.steps))
            for group, flats in zip(optimizer.groups, optimizer._laid_out(), strict=True)
            for flat in flats
        ]

    def put_back(self) -> None:
        """Make all of them what they were."""
        for _, flat, values, states, steps in self.flats:
            flat.values[...] = values
            for name, array in states.items():
                flat.states[name][...] = array
            flat.steps[:] = steps
            flat.forget_runs()
            for p in flat.parameters:
                p.version = tick()
        self.optimizer.steps = self.steps

    def update(self, gradients: Mapping[int, Any], names: Mapping[int, str]) -> Difference | None:
        """The first parameter or state that is not what the formula makes of these gradients."""
        optimizer = self.optimizer
        if optimizer.steps != self.steps + 1:
            return Difference("the optimizer's number of steps", optimizer.steps, self.steps + 1)
        for group, flat, values, states, steps in self.flats:
            options = _options(optimizer, self.steps, group)
            for i, p in enumerate(flat.parameters):
                name = names.get(id(p)) or f"a parameter of shape {p.shape}"
                active = id(p) in gradients
                if flat.steps[i] != steps[i] + active:
                    return Difference(f"the number of steps of {name}", flat.steps[i], steps[i] + active)
                before = [flat.view(values, i), *(flat.view(a, i) for a in states.values())]
                after = [flat.view(flat.values, i), *(flat.view(a, i) for a in flat.states.values())]
                expected, close = before, [np.zeros(()) for _ in before]
                if active:
                    expected, close = _formula(type(optimizer), before, gradients[id(p)], steps[i] + 1, options)
                for what, a, b, c in zip(
                    [f"{name} after the update", *(f"the state {s!r} of {name}" for s in states)],
                    after,
                    expected,
                    close,
                    strict=True,
                ):
                    if (difference := _apart(what, a, b, c)) is not None:
                        return difference
        return None


def _gradients_of(plan: Plan, backend: str, state: _State) -> tuple[dict[int, Any], dict[int, float]]:
    """The gradients of the last run by the ids of parameters, and what their errors may be by how they were kept."""
    found: dict[int, Any] = {}
    floors: dict[int, float] = {}
    for update in plan.updates:
        flat, rate = update.flat, update.known.learning_rate
        values = next(values for _, one, values, _, _ in state.flats if one is flat)
        descends = (short := prescaled(update.program)) is not None and short.factor is None
        for i in update.active:
            p = flat.parameters[i]
            g = flat.view(update.stores[0], i)
            if backend == "numba" and descends and plan.threads == 1:
                before = flat.view(values, i)
                g = (before - p.value) / p.dtype.type(rate)
                floors[id(p)] = 4 * float(np.finfo(p.dtype).eps * np.max(np.abs(before), initial=0)) / rate
            elif update.is_descent:
                g = g / p.dtype.type(rate)
            found[id(p)] = g.copy()
    return found, floors


class _Scheduled(float):
    """A number that a schedule gives; a formula that asks whether there is such an option is told yes."""

    def __bool__(self) -> bool:
        return True


def _options(optimizer: Optimizer, steps: int, group: Mapping[str, Any]) -> dict[str, Any]:
    now, scheduled = optimizer.options_at(steps, group)
    options = {name: value for name, value in group.items() if name != "parameters"}
    numbers = {name: _Scheduled(value) for name, value in scheduled.items()}
    return {k: replaced(k, options[k], numbers) if schedules_in({k: options[k]}) else now[k] for k in now}


def _formula(
    kind: type[Optimizer], before: Sequence[Any], gradient: Any, step: int, options: Mapping[str, Any]
) -> tuple[list[Any], list[Any]]:
    """What the formula makes of a parameter, its states and its gradient; how far off each element may be."""
    parameter, *states = before
    dtype = parameter.dtype
    eps = float(np.finfo(dtype).eps)
    others = {name: value for name, value in options.items() if name != "learning_rate"}

    def run(arguments: Sequence[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            made = kind.formula(*arguments, options["learning_rate"], step, **others)
        return [np.asarray(a).astype(dtype) for a in (made if isinstance(made, tuple) else (made,))]

    arguments = [parameter, gradient, *states]
    expected = run(arguments)
    with np.errstate(all="ignore"):
        close = [np.abs(a.astype(np.float64)) * eps for a in expected]
        for i, a in enumerate(arguments):
            moved = run([*arguments[:i], np.asarray(a * (1 + NUDGE * eps)).astype(dtype), *arguments[i + 1 :]])
            for c, one, other in zip(close, moved, expected, strict=True):
                c += np.abs(one.astype(np.float64) - other) / NUDGE
        close[0] += np.abs(parameter.astype(np.float64)) * eps
    return expected, [ULPS * (c + float(np.finfo(dtype).tiny)) for c in close]


def _apart(name: str, a: Any, b: Any, close: Any) -> Difference | None:
    """Where two arrays are further apart than they may be; what is not finite is equal."""
    with np.errstate(all="ignore"):
        error = np.abs(a.astype(np.float64) - b)
        apart = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (error <= close))
    if not apart.any():
        return None
    index = tuple(map(int, np.unravel_index(int(np.argmax(apart)), apart.shape)))
    return Difference(name, a[index], b[index], index)


class Proof:
    """A step that the eager engine computes first, as far as the gradients.

    `without(name)` is the program for the same batch without one pass.
    """

    def __init__(
        self,
        plan: Plan,
        function: Callable[..., Any],
        optimizer: Optimizer,
        batch: Sequence[Any],
        progress: Progress,
        backend: str,
        without: Callable[[str], Plan],
    ) -> None:
        self.backend = backend
        self.plan, self.optimizer, self.batch = plan, optimizer, tuple(batch)
        self.progress, self.without = progress, without
        self.names = plan.captured.names
        self.eager = EagerStep(function, optimizer, batch, plan)
        self.before = self.eager.before
        self.state = _State(optimizer)
        self.noise = Noise(self._again)
        self.difference: Difference | None = None

    def run(self) -> float:
        """Let the program make the step, and compare.

        Where the eager engine raises, the program's error, if it raises one too, is what is raised.
        """
        try:
            self._look()
        except Exception:
            self.plan.run(self.batch)
            self.undo()
            raise
        loss = self.plan.run(self.batch)
        self.difference = self._differs(self.plan, loss)
        self.progress.saw(self.expected)
        return loss

    def _look(self) -> None:
        """Let the eager engine compute."""
        with self.before.as_before():
            self.loss, self.gradients = self.eager.run()
            self.expected = self._arrays(self.loss, self.gradients)
            self.after = self.before.again()
            self.states = self.before.now()[1]

    def _name(self, key: int) -> str:
        return f"the gradient of {self.names.get(key) or 'a parameter'}"

    def _arrays(self, loss: Any, gradients: Mapping[int, Any]) -> dict[str, Any]:
        """What is compared, by name."""
        named_gradients = {self._name(key): g for key, g in gradients.items()}
        return {"the loss": loss, **named_gradients, **self.before.now()[0]}

    def _again(self) -> dict[str, Any]:
        """The same once more, for `Noise`: its own numbers are put off, the parameters stay what they are."""
        after = _State(self.optimizer)
        self.state.put_back()
        try:
            with self.before.as_before():
                return self._arrays(*self.eager.run(recorded=True))
        finally:
            after.put_back()

    def _differs(self, plan: Plan, loss: float) -> Difference | None:
        """What is wrong with the step that a program has just made."""
        ours, floors = _gradients_of(plan, self.backend, self.state)
        loss_there = np.asarray(loss, self.loss.dtype).reshape(self.loss.shape)
        missing = [key for key in self.gradients if key not in ours]
        found = self._arrays(loss_there, {key: ours[key] for key in self.gradients if key in ours})
        floors = {self._name(key): floor for key, floor in floors.items()}
        for key in missing:
            return Difference(self._name(key), "missing", "there")
        for key in ours:
            if key not in self.gradients:
                return Difference(self._name(key), "there", "missing")
        drawn = difference_of_generators(self.before.now()[1], self.states)
        return first_difference(found, self.expected, self.noise, floors) or drawn or self.state.update(ours, self.names)

    def commit(self) -> float:
        """Undo what the program has done, and make eager's step instead; returns its loss."""
        self.undo()
        self.after.put_back()
        self.eager.commit(self.gradients)
        return float(self.loss.reshape(()))

    def undo(self) -> None:
        """Everything as it was before."""
        self.state.put_back()
        self.before.put_back()

    def culprit(self) -> str:
        """Which pass did it."""
        after = _State(self.optimizer)

        def cured(name: str) -> bool:
            with self.before.as_before():
                self.state.put_back()
                plan = self.without(name)
                return self._differs(plan, plan.run(self.batch)) is None

        try:
            return culprit(self.backend, cured)
        finally:
            after.put_back()
