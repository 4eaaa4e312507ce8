"""The program of a compiled function for arguments of one kind, and its calls, which are operations in the graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter, is_
from typing import Any

import numpy as np

from tinygrad_mm.boundary import as_leaves
from tinygrad_mm.compiler.arguments import Leaf, filled, is_like, is_of_kind, kind_of, names_of_leaves, numbered
from tinygrad_mm.compiler.backends import NUMPY, Backend
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.fused import clear_error
from tinygrad_mm.compiler.passes import optimize
from tinygrad_mm.compiler.program import Value
from tinygrad_mm.compiler.report import Report, report
from tinygrad_mm.compiler.tracing import Trace, drawn_again, without_hooks
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Vertex, defvjp_each, entered, name_of, primitive, select, state, tick
from tinygrad_mm.pytree import flatten
from tinygrad_mm.tensor import Tensor, apply, result

__all__ = ["Call", "Plan"]

_value = attrgetter("value")
_requires_grad = attrgetter("requires_grad")


class Plan:
    """A program for arguments of one kind: what it accepts, and how it is run; `without` names passes to leave out."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        backend: Backend = NUMPY,
        without: Collection[str] = (),
    ) -> None:
        self.function, self.backend = function, backend
        leaves: list[Any] = []
        self.tree = (numbered(args, leaves), numbered(kwargs, leaves))
        names = names_of_leaves(function, self.tree[0], self.tree[1])
        self.kinds = [kind_of(leaf, names.get(i, "argument")) for i, leaf in enumerate(leaves)]
        self.flat = not kwargs and all(isinstance(a, (Vertex, np.ndarray)) for a in args)
        self.arrays = [i for i, kind in enumerate(self.kinds) if kind[0] is not None]
        objects = [leaf for leaf, kind in zip(leaves, self.kinds, strict=True) if kind[0] is None]
        self.captured = Captured(function, *objects)
        self.recording = state.recording
        self.place_kinds = [kind_of(place.read(), place.name) for place in self.captured.places]
        self.leaves_given = [
            None if kind[0] is not None else leaf for leaf, kind in zip(leaves, self.kinds, strict=True)
        ]
        self.signature = ", ".join(
            f"{names.get(i, 'argument')} {kind[1]!r}"
            if kind[0] is None
            else f"{names.get(i, 'argument')} {kind[2]}{kind[1]}"
            for i, kind in enumerate(self.kinds)
        )
        self.trace = trace = Trace(
            function,
            self.captured,
            [leaves[i] for i in self.arrays],
            self.rebuild,
            [names.get(i, f"x{i}") for i in self.arrays],
            state.recording,
        )
        program = trace.program
        self.buffers = trace.buffers
        self.buffer_kinds = [(b.value.shape, b.value.dtype) for b in self.buffers]
        self.inputs, self.outputs = list(program.inputs), list(program.outputs)
        self.all_leaves = list(program.leaves)
        kept = [k for k, g in enumerate(program.gradients) if g is not None]
        trace.targets = [trace.targets[k] for k in kept]
        program.gradients = [program.gradients[k] for k in kept]
        self.needs = _dependence(trace)
        self.how = self._how([leaves[i] for i in self.arrays])
        optimize(program, backend.passes, without)
        self.leaves: list[Any] = [v.leaf for v in program.leaves]
        self.leaf_kinds = [(v.shape, v.dtype) for v in program.leaves]
        self.flags = [leaf.requires_grad for leaf in self.leaves]
        self.known: list[Any] = [leaf.value for leaf in self.leaves]
        self.emitted: Any = backend.emit(program, title=name_of(function), path_of=self.captured.path_of())
        self.idle: list[Instance] = []
        self.effects = [e.buffer for e in program.effects]
        draws = (op.args[1] for op in program.ops if op.fun is uniform_like)
        self.generators = list({id(rng): rng for rng in draws}.values())
        trace.forget()
        self.targets = trace.targets
        self.differentiable = trace.differentiable
        self.graph = any(trace.differentiable) and bool(self.targets)
        others = [t for t in self.targets if not isinstance(t, int)]
        self.number = {t: n for n, t in enumerate(self.targets) if isinstance(t, int)}
        self.number |= {
            len(self.inputs) + i: n
            for i, n in enumerate(n for n, t in enumerate(self.targets) if not isinstance(t, int))
        }
        # Those that take no gradient come along, so that a change of them before the backward pass is noticed.
        read = [v.leaf for v in self.all_leaves if v.leaf is not None and not v.leaf.requires_grad]
        self.beside = [*others, *(v for v in read if not any(v is t for t in others))]

    def rebuild(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, with Tensors in the places of the arrays."""
        leaves = list(self.leaves_given)
        for i, tensor in zip(self.arrays, tensors, strict=True):
            leaves[i] = tensor
        return filled(self.tree[0], leaves), filled(self.tree[1], leaves)

    def _how(self, arguments: Sequence[Any]) -> list[Callable[[Any], Any]]:
        """In which form the function itself hands out each output: as a Tensor, an array, or a number of NumPy's.

        What is made from Tensors is a Tensor; for what is made from arrays alone, the function is asked.
        """
        trace, program = self.trace, self.trace.program
        free = {id(v) for v, tensor in zip(program.inputs, trace.given_tensors, strict=False) if not tensor}
        free.update(id(v) for v in program.leaves if v.name == "array")
        for op in trace.forward:
            if all(id(a) in free or a.kind == "constant" for a in op.operands()):
                free.add(id(op.result))
        tensors = [
            was_tensor if v.kind == "constant" else id(v) not in free
            for v, was_tensor in zip(program.outputs, trace.is_tensor, strict=True)
        ]
        how: list[Callable[[Any], Any]] = [result if tensor else np.asarray for tensor in tensors]
        if all(tensors):
            return how
        copies = [a.detach() if isinstance(a, Tensor) else a.copy() for a in arguments]
        args, kwargs = self.rebuild(copies)
        before = [(rng, rng.bit_generator.state) for rng in self.captured.generators]
        try:
            with drawn_again(before), entered(recording=False, replaying=True):
                returned = self.function(*args, **kwargs)
        except Exception:  # it takes Tensors only
            return [result for _ in how]
        for a, b in zip(arguments, copies, strict=True):
            if isinstance(a, np.ndarray) and not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                raise TypeError(
                    f"compile: {name_of(self.function)} writes into an array that it was given, which a program does "
                    "not do; write x = x + 1 for x += 1, and return what is to be kept"
                )
        pairs = zip(flatten(trace.tree), flatten(returned), strict=False)
        for place, given in ((one.value, other.value) for one, other in pairs if one.path == other.path):
            if isinstance(place, Leaf) and not isinstance(given, np.ndarray):
                how[place.number] = result if isinstance(given, Tensor) else _number
        return how

    # -- what it accepts

    def accepts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
        """The arrays and Tensors among the arguments, if the program is right for these and for what is captured."""
        if state.recording is not self.recording:
            return None
        if self.flat and not kwargs:
            leaves: Sequence[Any] = args
            if len(args) != len(self.kinds):
                return None
        else:
            leaves = []
            if not is_like(self.tree[0], args, leaves) or not is_like(self.tree[1], kwargs, leaves):
                return None
        for leaf, kind in zip(leaves, self.kinds):  # noqa: B905 (as many as there are)
            if not is_of_kind(leaf, kind):
                return None
        if not self.captured.unchanged():
            return None
        given = list(leaves) if len(self.arrays) == len(leaves) else [leaves[i] for i in self.arrays]
        for place, kind in zip(self.captured.places, self.place_kinds):  # noqa: B905 (made together)
            value = place.read()
            if not is_of_kind(value, kind):
                return None
            given.append(value)
        for buffer, (shape, dtype) in zip(self.buffers, self.buffer_kinds):  # noqa: B905 (made together)
            value = buffer.value
            if value.shape != shape or value.dtype != dtype:
                return None
            given.append(value)
        if not all(map(is_, map(_requires_grad, self.leaves), self.flags)):
            return None
        if not all(map(is_, map(_value, self.leaves), self.known)):  # other arrays: are they of the same kind?
            values = list(map(_value, self.leaves))
            for value, known, (shape, dtype) in zip(values, self.known, self.leaf_kinds, strict=True):
                if value.shape != shape or value.dtype != dtype or value.strides != known.strides:
                    return None
            self.known = values
        return given

    # -- running

    def instance(self) -> Instance:
        """Functions with buffers that nobody uses at the moment, bound to the arrays of the captured tensors."""
        arrays = [leaf.value for leaf in self.leaves]
        while True:
            try:
                instance = self.idle.pop()
            except IndexError:
                return Instance(self.emitted, arrays)
            if all(map(is_, arrays, instance.arrays)):
                return instance

    def run(self, given: list[Any], check: Callable[[list[Any], list[Any]], list[Any]] | None = None) -> Any:
        """Call the program; `check` is given the first gradients."""
        call = Call(self, check)
        if not self.graph:
            found = call.forward([g.value if isinstance(g, Vertex) else g for g in given])
            call.finish()
            return filled(self.trace.tree, [how(v) for how, v in zip(self.how, found, strict=True)])
        for i, g in enumerate(given):
            if isinstance(g, Vertex) and g.requires_grad and i not in self.number:
                given[i] = g.value  # nothing depends on it in a differentiable way
        outputs = apply(run_compiled, (call, len(given), *given, *self.beside))
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        for i, (wanted, tensor) in enumerate(zip(self.trace.differentiable, outputs, strict=True)):
            if not wanted:
                outputs[i] = self.how[i](tensor.value)
        return filled(self.trace.tree, outputs)

    def report(self, given: list[Any]) -> Report:
        """What the program costs, line by line."""
        values = [g.value if isinstance(g, Vertex) else g for g in given]
        seeds = [np.ones(seed.shape, seed.dtype) for seed in self.trace.program.seeds]
        arrays = [leaf.value for leaf in self.leaves if leaf is not None]

        def run(made: Any) -> None:
            _, _, residuals = made[0](*values)
            made[1](*values, *seeds, *residuals)

        return report(self.emitted, run, arrays)

    def replay(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The outputs once more, by the calls that the function made when it was traced, on Tensors."""
        there: dict[int, Any] = {id(v): t for v, t in zip(self.inputs, given, strict=True)}
        there.update((id(v), v.leaf) for v in self.all_leaves)

        def now(a: Any) -> Any:
            if not isinstance(a, Value):
                return a
            return there[id(a)] if id(a) in there else _as_tensor(a.example)

        for op in self.trace.forward:
            args = [now(a) for a in op.args]
            if op.fun is select:
                there[id(op.result)] = args[0][op.kwargs["index"] if op.kwargs else args[1]]
                continue
            with entered(recording=op.differentiable, scope=op.scope):
                there[id(op.result)] = apply(op.fun, tuple(args), op.kwargs)
        return [now(v) for v in self.outputs]


class Instance:
    """The two functions of a program with a set of buffers."""

    __slots__ = ("arrays", "backward", "forward")

    def __init__(self, emitted: Any, arrays: list[Any]) -> None:
        self.arrays = arrays
        self.forward, self.backward = emitted.make(arrays)


class Call:
    """One call of a compiled function, from its forward half to the last gradient taken from it.

    It holds a set of buffers, which goes back to the plan when the graph lets go of it. `check` is given the first
    gradients that the program finds, and the seeds, and returns what to hand out.
    """

    __slots__ = ("check", "drawn", "found", "instance", "plan", "residuals", "seeds", "spent", "values")

    def __init__(self, plan: Plan, check: Callable[[list[Any], list[Any]], list[Any]] | None = None) -> None:
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
            outputs = plan.replay([_as_tensor(a) for a in arguments[: len(plan.inputs)]])
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


def _dependence(trace: Trace) -> list[tuple[int, ...] | None]:
    """For each target the outputs that depend on it; None where all of them do."""
    differentiable = [i for i, wanted in enumerate(trace.differentiable) if wanted]
    if len(differentiable) < 2:
        return [None for _ in trace.targets]
    reached = [trace.ends[i] for i in differentiable]
    found: list[tuple[int, ...] | None] = []
    for target in trace.targets:
        those = tuple(i for i, ends in zip(differentiable, reached, strict=True) if id(target) in ends)
        found.append(None if len(those) == len(differentiable) else those)
    return found


def _number(array: Any) -> Any:
    """A NumPy scalar."""
    return array[()]


def _as_tensor(a: Any) -> Tensor:
    return a if isinstance(a, Tensor) else Tensor(a)
