"""A training step beside the eager engine: the loss, each gradient, buffers and generators; and, apart, the update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.arguments import numbered
from tinygrad_mm.compiler.passes import FOR_PLACED_CALLS
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
from tinygrad_mm.optim.flat import Flat, Update
from tinygrad_mm.optim.formula import new_values
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.step.plan import BeforeUpdate, Plan
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

    def run(self, recorded: bool = False) -> tuple[list[Any], dict[int, Any]]:
        """The loss and what else is put out, and the gradients by the ids of parameters that the loss depends on."""
        outputs: list[Any] = []
        with entered(recording=True), np.errstate(all="ignore"):
            numbered(self.function(*map(Tensor, self.batch)), outputs, (Tensor, np.ndarray))
            found = gradients(outputs[0], self.trained, create_graph=recorded, allow_unused=True)
        own = {id(p): np.array(g.value) for p, g in zip(self.trained, found, strict=True) if g is not None}
        # copies: either may lie in the memory of a parameter
        return [np.array(one.value if isinstance(one, Tensor) else one) for one in outputs], own

    def commit(self, gradients: Mapping[int, Any], loss: float, before_update: BeforeUpdate | None) -> None:
        """Let the optimizer make its step; what stands in `.grad` is left alone."""
        parameters = self.optimizer.parameters
        kept = [p.grad for p in parameters]
        try:
            for p in parameters:
                p.grad = gradients.get(id(p))
            if before_update is None or before_update(loss, list(gradients.values()), lambda: None):
                self.optimizer.step()
        finally:
            for p, grad in zip(parameters, kept, strict=True):
                p.grad = grad


class _State:
    """Parameters, the optimizer's states and numbers of steps, as they are now."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.steps = optimizer, optimizer.steps
        self.flats: list[tuple[Update, Flat, Any, dict[str, Any], list[int]]] = [
            (
                optimizer._looked_at(group).update,
                flat,
                flat.values.copy(),
                {name: s.copy() for name, s in flat.states.items()},
                list(flat.steps),
            )
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
        for known, flat, values, states, steps in self.flats:
            for i, p in enumerate(flat.parameters):
                name = names.get(id(p)) or f"a parameter of shape {p.shape}"
                count = steps[i] + (id(p) in gradients)
                if flat.steps[i] != count:
                    return Difference(f"the number of steps of {name}", flat.steps[i], count)
                before = [flat.view(values, i), *(flat.view(a, i) for a in states.values())]
                after = [flat.view(flat.values, i), *(flat.view(a, i) for a in flat.states.values())]
                expected, close = before, [np.zeros(()) for _ in before]
                if id(p) in gradients:
                    expected, close = _formula(known, before, gradients[id(p)], count)
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


def _formula(update: Update, before: Sequence[Any], gradient: Any, count: int) -> tuple[list[Any], list[Any]]:
    """What the formula makes of a parameter, its states and its gradient; how far off each element may be.

    The formula itself says how much a unit in the last place of each argument counts, element by element.
    """
    parameter, *states = before
    dtype = parameter.dtype
    kind = np.finfo(dtype)
    eps = float(kind.eps)

    def run(arguments: Sequence[Any]) -> list[Any]:
        with entered(recording=False), np.errstate(all="ignore"):
            parameter, gradient, *states = (Tensor(np.asarray(a)) for a in arguments)
            made = update.rule(parameter, gradient, *states, update.learning_rate, count, **update.options)
            new = new_values(update.rule, made, update.states)
        return [np.asarray(a.value if isinstance(a, Tensor) else a).astype(dtype) for a in new]

    arguments = [parameter, gradient, *states]
    expected = run(arguments)
    with np.errstate(all="ignore"):
        close = [np.abs(a.astype(np.float64)) * eps for a in expected]
        for i, a in enumerate(arguments):
            moved = run([*arguments[:i], np.asarray(a * (1 + NUDGE * eps)).astype(dtype), *arguments[i + 1 :]])
            for c, one, other in zip(close, moved, expected, strict=True):
                c += np.abs(one.astype(np.float64) - other) / NUDGE
        close[0] += np.abs(parameter.astype(np.float64)) * eps
    return expected, [ULPS * c + float(kind.tiny) * 1e8 for c in close]  # states are flushed before they are denormal


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

    `without(names)` is the program for the same batch without some passes.
    """

    def __init__(
        self,
        plan: Plan,
        function: Callable[..., Any],
        optimizer: Optimizer,
        batch: Sequence[Any],
        progress: Progress,
        without: Callable[[Sequence[str]], Plan],
    ) -> None:
        self.plan, self.optimizer, self.batch = plan, optimizer, tuple(batch)
        self.progress, self.without = progress, without
        self.names = plan.captured.names
        self.eager = EagerStep(function, optimizer, batch, plan)
        self.before = self.eager.before
        self.state = _State(optimizer)
        self.noise = Noise(self._again)
        self.difference: Difference | None = None

    def run(self) -> Any:
        """Let the program make the step, and compare.

        Where the eager engine raises, the program's error, if it raises one too, is what is raised.
        """
        try:
            self._look()
        except Exception:
            self.plan.run(self.batch)
            self.undo()
            raise
        found = self.plan.run(self.batch)
        self.difference = self._differs(self.plan, found)
        self.progress.saw(self.expected)
        return found

    def _look(self) -> None:
        """Let the eager engine compute."""
        with self.before.as_before(), entered(monitor=None, lines=False):
            outputs, self.gradients = self.eager.run()
            self.loss, self.expected = outputs[0], self._arrays(outputs, self.gradients)
            self.states = self.before.now()[1]

    def _name(self, key: int) -> str:
        return f"the gradient of {self.names.get(key) or 'a parameter'}"

    def _arrays(self, outputs: Sequence[Any], gradients: Mapping[int, Any]) -> dict[str, Any]:
        """What is compared, by name."""
        loss, *others = outputs
        parts = {f"part {i} of the prediction" if i else "the prediction": a for i, a in enumerate(others)}
        named_gradients = {self._name(key): g for key, g in gradients.items()}
        return {"the loss": loss, **parts, **named_gradients, **self.before.now()[0]}

    def _again(self) -> dict[str, Any]:
        """The same once more, for `Noise`: its own numbers are put off, the parameters stay what they are."""
        after = _State(self.optimizer)
        self.state.put_back()
        try:
            with self.before.as_before():
                return self._arrays(*self.eager.run(recorded=True))
        finally:
            after.put_back()

    def _differs(self, plan: Plan, found: Any) -> Difference | None:
        """What is wrong with the step that a program has just made."""
        ours = plan.gradients()
        for key in dict.fromkeys([*self.gradients, *ours]):
            if (key in ours) != (key in self.gradients):
                where = ("present", "missing") if key in ours else ("missing", "present")
                return Difference(self._name(key), *where)
        outputs: list[Any] = []
        if plan.outputs:
            found, prediction = found
            numbered(prediction, outputs, (Tensor, np.ndarray))
        found = self._arrays([np.asarray(found, self.loss.dtype).reshape(self.loss.shape), *outputs], ours)
        drawn = difference_of_generators(self.before.now()[1], self.states)
        return first_difference(found, self.expected, self.noise) or drawn or self.state.update(ours, self.names)

    def undo(self) -> None:
        """Everything as it was before."""
        self.state.put_back()
        self.before.put_back()

    def culprit(self) -> str:
        """Which pass did it."""
        after = _State(self.optimizer)
        names = [one.name for one in (*self.plan.backend.passes, *FOR_PLACED_CALLS)]

        def cured(without: Sequence[str]) -> bool:
            with self.before.as_before():
                self.state.put_back()
                plan = self.without(without)
                return self._differs(plan, plan.run(self.batch)) is None

        try:
            return culprit(names, cured)
        finally:
            after.put_back()
