"""One call of a compiled function: an operation in the graph, with the buffers that its gradient will need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, Protocol

from tinygrad_mm.boundary import as_leaves
from tinygrad_mm.compiler.fused import clear_error
from tinygrad_mm.compiler.tracing import drawn_again, without_hooks
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Vertex, defvjp_each, entered, name_of, primitive, state, tick
from tinygrad_mm.tensor import Tensor

__all__ = ["Call", "Instance", "Planned", "as_tensor", "run_compiled"]


class Instance:
    """The two functions of a program with a set of buffers."""

    __slots__ = ("arrays", "backward", "forward")

    def __init__(self, emitted: Any, arrays: list[Any]) -> None:
        self.arrays = arrays
        self.forward, self.backward = emitted.make(arrays)


class Planned(Protocol):
    """What a call wants to know of its program.

    `needs` lists for each target the outputs that depend on it (None: all), `number` gives the number of the target by
    that of an argument of `run_compiled`, `idle` are buffers that nobody uses.
    """

    function: Callable[..., Any]
    inputs: list[Any]
    targets: list[Any]
    needs: list[tuple[int, ...] | None]
    number: dict[int, int]
    effects: list[Any]
    generators: list[Any]
    differentiable: list[bool]
    idle: list[Instance]

    def instance(self) -> Instance:
        """Functions with buffers that nobody uses at the moment."""

    def replay(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The outputs as a recorded computation."""


class Call:
    """One call of a compiled function, from its forward half to the last gradient taken from it.

    It holds a set of buffers, which goes back to the plan when the graph lets go of it. `check` is given the first
    gradients that the program finds, and the seeds, and returns what to hand out.
    """

    __slots__ = ("check", "drawn", "found", "instance", "plan", "residuals", "seeds", "spent", "values")

    def __init__(self, plan: Planned, check: Callable[[list[Any], list[Any]], list[Any]] | None = None) -> None:
        self.plan, self.check = plan, check
        self.instance: Instance | None = plan.instance()
        self.found: dict[int, Any] = {}  # gradients that were computed but not asked for yet, by number of the target
        self.seeds: Any = None
        self.spent = False
        self.residuals: Any = ()
        self.values: Any = ()
        self.drawn = [(rng, rng.bit_generator.state) for rng in plan.generators]

    def forward(self, values: Sequence[Any]) -> list[Any]:
        """The outputs; the buffers of the model are written."""
        assert self.instance is not None
        self.values = values
        if state.generators is not None:  # a checkpoint around the call will want to set them back
            for rng, there in self.drawn:
                state.generators.setdefault(id(rng), (rng, there))
        try:
            outputs, effects, self.residuals = self.instance.forward(*values)
        except ValueError as error:
            raise clear_error(error) from error
        if not state.replaying:
            for buffer, value in zip(self.plan.effects, effects, strict=True):
                buffer.value = value
                buffer.version = tick()
        return list(outputs)

    def gradient(self, i: int, g: Any, arguments: Sequence[Any]) -> Any:
        """The gradient of the i-th target, given those of the outputs; None where these do not depend on it.

        All are computed at once, when the first one is asked for.
        """
        seeds = g if isinstance(g, list) else [g]
        if self.seeds is None or i not in self.found or not all(map(is_, seeds, self.seeds)):
            recorded = any(isinstance(one, Vertex) for one in seeds)
            found = self._recorded(seeds, arguments) if recorded else self.computed(self._wanted(seeds))
            self.found, self.seeds = dict(enumerate(found)), seeds
        found_here = self.found.pop(i)  # each once: whoever asks again has begun another pass
        return found_here if self._is_needed(i, seeds) else None

    def _is_needed(self, i: int, seeds: Sequence[Any]) -> bool:
        """Whether any output that depends on the i-th target has a gradient: of those nobody used it is zero."""
        needs = self.plan.needs[i]
        return needs is None or any(
            (s.value if isinstance(s, Vertex) else s).any() for s in map(seeds.__getitem__, needs)
        )

    def _wanted(self, seeds: Sequence[Any]) -> list[Any]:
        return [s for s, wanted in zip(seeds, self.plan.differentiable, strict=True) if wanted]

    def computed(self, seeds: Sequence[Any]) -> list[Any]:
        """The gradients by the backward half of the program, given those of the outputs that have one."""
        assert self.instance is not None
        if self.spent:  # the first pass has written over what the forward half had left for it
            with drawn_again(self.drawn):
                _, _, self.residuals = self.instance.forward(*self.values)
        self.spent = True
        found = list(self.instance.backward(*self.values, *seeds, *self.residuals))
        check, self.check = self.check, None
        return found if check is None else check(found, list(seeds))

    def _recorded(self, seeds: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """As a recorded computation: the calls of the function are made once more, on Tensors, and differentiated."""
        plan = self.plan
        with drawn_again(self.drawn), entered(replaying=True, recording=True):
            outputs = plan.replay([as_tensor(a) for a in arguments[: len(plan.inputs)]])
        targets: list[Any] = [arguments[t] if isinstance(t, int) else t for t in plan.targets]
        with as_leaves([t for t in targets if t.node is not None]), without_hooks(targets):
            found = gradients(self._wanted(outputs), targets, self._wanted(seeds), create_graph=True, allow_unused=True)
        return list(found)

    def finish(self) -> None:
        """Let others use the buffers."""
        if self.instance is not None:
            if len(self.plan.idle) < 8:
                self.plan.idle.append(self.instance)
            self.instance = None

    def __repr__(self) -> str:
        return f"<call of {name_of(self.plan.function)}>"

    def __del__(self) -> None:
        self.finish()


@primitive
def run_compiled(call: Call, arguments: int, *arrays: Any) -> Any:
    """The compiled function as one operation: its arguments first, then the captured tensors that take a gradient."""
    outputs = call.forward(arrays[:arguments])
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _run_back(i: int, g: Any, call: Call, arrays: Sequence[Any]) -> Any:
    return call.gradient(call.plan.number[i - 2], g, arrays)


run_compiled.__name__ = "compiled"
defvjp_each(
    run_compiled,
    lambda i, g, y, call, arguments, *arrays: _run_back(i, g, call, arrays),
    signature="(...), ... -> (...), ...",
)


def as_tensor(a: Any) -> Tensor:
    """A Tensor as it is, an array as one."""
    return a if isinstance(a, Tensor) else Tensor(a)
