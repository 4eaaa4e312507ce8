"""One call of a compiled function beside the eager engine: outputs at the call, gradients at the first backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from tinygrad_mm.boundary import as_leaves, boundary
from tinygrad_mm.compiler.plan import Call, Plan
from tinygrad_mm.compiler.tracing import stand_in, without_hooks
from tinygrad_mm.compiler.verification import (
    Difference,
    Noise,
    Progress,
    Surroundings,
    culprit,
    difference_of_generators,
    first_difference,
    named,
    report,
)
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import entered, name_of, tick
from tinygrad_mm.pytree import flatten
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = ["Proof"]


class Proof:
    """A call that the eager engine has made, too, from the same parameters, buffers and generators.

    `without(names)` is the program for the same arguments without some passes; `wrong` is called for one that is.
    """

    def __init__(
        self,
        plan: Plan,
        given: Sequence[Any],
        progress: Progress,
        without: Callable[[Sequence[str]], Plan],
        wrong: Callable[[], None],
    ) -> None:
        self.plan, self.given, self.progress, self.without, self.wrong = plan, list(given), progress, without, wrong
        self.seeds: Sequence[Any] | None = None
        self.before = Surroundings(
            named(plan.captured, [*plan.buffers, *plan.effects], Buffer),
            named(plan.captured, plan.generators, np.random.Generator),
        )
        self.targets = [(self._name(t), t) for t in plan.targets] if plan.graph else []
        for name, _ in self.targets:
            progress.seen.setdefault(name, False)
        self.noise = Noise(self._again)
        try:
            with self.before.as_before():
                start = tick()
                self.expected, self.made, self.there = self._eager()
                self.reached = boundary(self.made, start)
                self.states = self.before.now()[1]
        except Exception:
            plan.run(list(given))  # where it raises too, that is what is raised
            self.before.put_back()
            raise

    def _name(self, target: Any) -> str:
        if isinstance(target, int):
            return f"the gradient of {self.plan.inputs[target].name}"
        return f"the gradient of {self.plan.captured.names.get(id(target)) or 'a captured tensor'}"

    def _eager(self) -> tuple[dict[str, Any], list[Tensor], list[Any]]:
        """The arrays to compare, the outputs that have a gradient, and the arguments."""
        values = [stand_in(g) if isinstance(g, Tensor) else g for g in self.given[: len(self.plan.arrays)]]
        args, kwargs = self.plan.rebuild(values)
        with np.errstate(all="ignore"):
            returned = _leaves(self.plan.function(*args, **kwargs))
        made = [t for t in returned.values() if isinstance(t, Tensor) and t.requires_grad]
        return self._arrays(returned), made, values

    def _arrays(self, returned: dict[str, Any]) -> dict[str, Any]:
        """What a call returned and wrote, by name."""
        outputs = {
            name: np.asarray(leaf.value if isinstance(leaf, Tensor) else leaf) for name, leaf in returned.items()
        }
        return {**outputs, **self.before.now()[0]}

    def _again(self) -> dict[str, Any]:
        """All that is compared, once more."""
        with self.before.as_before():
            found, made, there = self._eager()
            return found if self.seeds is None else found | self._gradients(made, there, self.seeds, recorded=True)

    def _gradients(
        self, made: Sequence[Tensor], there: Sequence[Any], seeds: Sequence[Any], recorded: bool = False
    ) -> dict[str, Any]:
        targets: list[Any] = [there[t] if isinstance(t, int) else t for _, t in self.targets]
        unwatched = nullcontext() if recorded else entered(monitor=None, lines=False)
        with (
            as_leaves([t for t in targets if t.node is not None]),
            without_hooks(targets),
            np.errstate(all="ignore"),
            unwatched,
        ):
            found = gradients(made, targets, seeds, create_graph=recorded, retain_graph=True, allow_unused=True)
        return {
            name: np.zeros_like(t.value) if g is None else g.value
            for (name, _), t, g in zip(self.targets, targets, found, strict=True)
        }

    # -- comparing

    def differs(self, result: Any) -> Difference | None:
        """What is wrong with what the program has just returned, written and drawn."""
        found = self._arrays(_leaves(result))
        if found.keys() != self.expected.keys():
            return Difference("the output", list(found), list(self.expected))
        self.progress.saw(self.expected)
        drawn = difference_of_generators(self.before.now()[1], self.states)
        return first_difference(found, self.expected, self.noise) or drawn or self._missing()

    def _missing(self) -> Difference | None:
        """A tensor that the eager engine finds a gradient for, and the program does not."""
        known = {id(self.there[t] if isinstance(t, int) else t) for _, t in self.targets}
        for leaf in self.reached:
            if id(leaf) not in known and leaf.value.dtype.kind == "f":
                return Difference(self._name(leaf), "missing", "there")
        return None

    def gradients_differ(self, found: Sequence[Any], seeds: Sequence[Any]) -> tuple[Difference | None, dict[str, Any]]:
        """What is wrong with the gradients that the program has found, and eager's.

        Raises RuntimeError where a captured tensor was changed since the call.
        """
        self.seeds = list(seeds)
        self.noise = Noise(self._again)
        expected = self._gradients(self.made, self.there, seeds)
        self.progress.saw(expected)
        return first_difference(self._named(found), expected, self.noise), expected

    def _named(self, found: Sequence[Any]) -> dict[str, Any]:
        """Gradients by name; one that is missing is as good as 0."""
        targets = [self.there[t] if isinstance(t, int) else t for _, t in self.targets]
        return {
            name: np.zeros_like(t.value) if g is None else g
            for (name, _), t, g in zip(self.targets, targets, found, strict=True)
        }

    def checked(self, found: list[Any], seeds: Sequence[Any]) -> list[Any]:
        """The gradients that the program has found, or, where they are wrong, eager's."""
        try:
            difference, expected = self.gradients_differ(found, seeds)
        except RuntimeError:  # eager refuses to go on, a program may have what it needs
            return found
        if difference is None:
            return found
        self.blame(difference, expected)
        return list(expected.values())

    def blame(self, difference: Difference, gradients: dict[str, Any] | None = None) -> None:
        """Warn of a difference, and compute eagerly from now on."""
        self.wrong()
        report("compile", difference, self.culprit(gradients), f"{name_of(self.plan.function)}: {self.plan.signature}")

    def culprit(self, gradients: dict[str, Any] | None = None) -> str:
        """Which pass did it: in what was returned, or, where these are given, in the gradients."""

        def cured(without: Sequence[str]) -> bool:
            with self.before.as_before(), entered(recording=self.plan.recording):
                plan = self.without(without)
                if gradients is None:
                    return self.differs(plan.run(list(self.given))) is None
                assert self.seeds is not None
                found = computed(plan, self.given, self.seeds)
            return first_difference(self._named(found), gradients, self.noise) is None

        return culprit([one.name for one in self.plan.backend.passes], cured)


def computed(plan: Plan, given: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
    """The gradients that a program finds."""
    call = Call(plan)
    call.forward([g.value if isinstance(g, Tensor) else g for g in given])
    return call.computed(seeds)


def _leaves(tree: Any) -> dict[str, Any]:
    """The arrays and numbers in what a function returned, by name."""
    numbers = (Tensor, np.ndarray, np.generic, int, float)
    return {leaf.path: leaf.value for leaf in flatten(tree, "the output") if isinstance(leaf.value, numbers)}
