"""`compile`: a function with the same meaning that runs as straight-line NumPy code into buffers kept between calls."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.compiler.backends import NUMPY, Backend, backend_of
from tinygrad_mm.compiler.capture import Captured, same
from tinygrad_mm.compiler.fused import clear_error
from tinygrad_mm.compiler.program import Value
from tinygrad_mm.compiler.report import Report, report
from tinygrad_mm.compiler.saving import save_program
from tinygrad_mm.compiler.tracing import Output, Trace, drawn_again, filled, without_hooks
from tinygrad_mm.frontier import as_leaves
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Vertex, defvjp_each, entered, name_of, primitive, select, state, tick
from tinygrad_mm.recording import apply, result
from tinygrad_mm.tensor import Tensor

__all__ = ["Compiled", "compile"]

log = logging.getLogger("tinygrad_mm.compile")

_value = attrgetter("value")
_requires_grad = attrgetter("requires_grad")
_tracing = threading.RLock()  # a trace sets buffers and generators back when it is done: one at a time


def compile(function: Callable[..., Any] | None = None, *, max_signatures: int = 32, backend: str = "numpy") -> Any:
    """A function with the same meaning as `function`, traced once and then run as straight-line NumPy code.

    The first call with arguments of given shapes, dtypes and Python values traces `function`, differentiates the trace
    with the ordinary rules, optimizes both halves together and writes them out as Python: `print(compiled.source)`.
    Calls with other shapes or values are traced anew; at most `max_signatures` programs are kept. The result takes
    part in the graph as one operation, so that `loss = f(x, y); loss.backward(); optimizer.step()` stays as it was.

    Arguments, parameters, buffers, what closure cells hold and attributes of modules are never stale. What cannot be
    seen is listed in `tinygrad_mm.compiler`.

    `backend="numba"` (extra `numba`) fuses what lies between matrix products into compiled loops: faster steps, after
    a warm-up of seconds.

    Raises TypeError where `function` looks at values (`if t > 0`, `t.item()`, `np.asarray(t)`): these would be baked
    into the program.

    >>> @compile
    ... def f(x, y):
    ...     return np.sum(np.tanh(x) * y)
    >>> x = Tensor([0.0, 1.0], requires_grad=True)
    >>> f(x, np.array([2.0, 0.0], np.float32)).backward()
    >>> x.grad
    array([2., 0.], dtype=float32)
    """
    if function is None:
        return functools.partial(compile, max_signatures=max_signatures, backend=backend)
    return Compiled(function, max_signatures, backend)


class Compiled:
    """What `compile` returns."""

    def __init__(self, function: Callable[..., Any], max_signatures: int = 32, backend: str = "numpy") -> None:
        if not callable(function):
            raise TypeError(f"compile: it takes a function or a module, not a {type(function).__name__}")
        if max_signatures < 1:
            raise ValueError(f"compile: max_signatures={max_signatures}; at least one program has to be kept")
        self.function = function
        self.max_signatures = max_signatures
        self.backend = backend_of(backend)
        self.plans: list[Plan] = []  # the one used last comes first
        self._warned = False
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        if state.watched:  # inside another trace, or with someone watching each operation
            return self.function(*args, **kwargs)
        plans = self.plans
        for i, plan in enumerate(plans):
            given = plan.accepts(args, kwargs)
            if given is not None:
                if i:
                    self._first(plan)
                return plan.run(given)
        with _tracing:
            for plan in self.plans:  # another thread may have traced it meanwhile
                given = None if plan in plans else plan.accepts(args, kwargs)
                if given is not None:
                    return plan.run(given)
            plan, given = self._traced(args, kwargs)
            self._first(plan)
        return plan.run(given)

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Plan, list[Any]]:
        """A program for these arguments.

        Raises TypeError for a function that changes what it reads, so that every call would be the first.
        """
        for _ in range(2):  # the first call may have set up something
            plan = Plan(self.function, args, kwargs, self.backend)
            given = plan.accepts(args, kwargs)
            if given is not None:
                log.info("compile: traced %s for %s", name_of(self.function), plan.signature)
                return plan, given
        raise TypeError(
            f"compile: {name_of(self.function)} changes {plan.captured.changed() or 'what it reads'!r} while it runs, "
            "which a program would not do again; return the new value instead (running statistics can be written by "
            "Buffer.assign)"
        )

    def _first(self, plan: Plan) -> None:
        """Keep a program in the first place, and forget the one used longest ago if there are too many."""
        with _tracing:
            plans = [plan, *(p for p in self.plans if p is not plan)]
            if len(plans) > self.max_signatures:
                plans.pop()
                if not self._warned:
                    self._warned = True
                    log.warning(
                        "compile: %s was called with more than %d combinations of shapes, dtypes and Python values; "
                        "programs used longest ago are dropped from now on. Pass numbers that change as arrays, or "
                        "raise max_signatures",
                        name_of(self.function),
                        self.max_signatures,
                    )
            self.plans = plans

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        """As a method: bound to the object that it is called on."""
        return self if owner is None else functools.partial(self, owner)

    @property
    def plan(self) -> Plan:
        """The program used last. Raises RuntimeError before the first call."""
        if not self.plans:
            raise RuntimeError(f"compile: {name_of(self.function)} has not been called yet, so there is no program")
        return self.plans[0]

    @property
    def source(self) -> str:
        """The program used last, as Python. Raises RuntimeError before the first call."""
        return self.plan.emitted.source

    def report(self, *args: Any, **kwargs: Any) -> Report:
        """Calls, buffers, multiply-adds, and the measured time of each line, for a call that was made before.

        Raises RuntimeError for arguments of another kind.
        """
        for plan in self.plans:
            given = plan.accepts(args, kwargs)
            if given is not None:
                return plan.report(given)
        raise RuntimeError(f"compile: {name_of(self.function)} has not been called with such arguments; call it first")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the program used last as a Python file that needs NumPy alone, with the captured arrays as they are.

        In that file `functions` are the two halves: `forward(*arguments)` returns the outputs, the new values of
        buffers, and what `backward(*arguments, *gradients of outputs, *that)` wants to know; that one returns the
        gradients of `targets`.
        """
        plan = self.plan
        usage = (
            "`forward, backward = functions`: `forward(*arguments)` returns (outputs), (new values of buffers), "
            "(rest),\n`backward(*arguments, *gradients_of_outputs, *rest)` the gradients."
        )
        arrays = [leaf.value for leaf in plan.leaves if leaf is not None]
        return save_program(plan.emitted, path, arrays, [], f"{name_of(self.function)}, compiled.", usage)

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        """A copy of the function (of a module: with parameters of its own), compiled anew at its first call."""
        return Compiled(copy.deepcopy(self.function, memo), self.max_signatures, self.backend.name)

    def __reduce__(self) -> Any:
        """Pickled by name where it stands in a module under its name, as functions are; else by its function."""
        found: Any = sys.modules.get(getattr(self, "__module__", ""))
        for name in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, name, None)
        name = getattr(found, "__qualname__", "")
        return name if found is self else (Compiled, (self.function, self.max_signatures, self.backend.name))

    def __repr__(self) -> str:
        return f"<compiled {name_of(self.function)}, {len(self.plans)} programs>"


class Plan:
    """A program for arguments of one kind: what it accepts, and how it is run."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        backend: Backend = NUMPY,
    ) -> None:
        self.function = function
        leaves: list[Any] = []
        self.tree = (_marked(args, leaves), _marked(kwargs, leaves))
        names = _names(function, self.tree[0], self.tree[1])
        self.kinds = [_kind(leaf, names.get(i, "argument")) for i, leaf in enumerate(leaves)]
        self.flat = not kwargs and all(isinstance(a, (Vertex, np.ndarray)) for a in args)
        self.arrays = [i for i, kind in enumerate(self.kinds) if kind[0] is not None]
        objects = [leaf for leaf, kind in zip(leaves, self.kinds, strict=True) if kind[0] is None]
        self.captured = Captured(function, *objects)
        self.recording = state.recording
        self.place_kinds = [_kind(place.read(), place.name) for place in self.captured.places]
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
        backend.optimize(program, frozenset(self.captured.arrays))
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
        return _unmarked(self.tree[0], leaves), _unmarked(self.tree[1], leaves)

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
        _forms(trace.tree, returned, how)
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
            if not _like(self.tree[0], args, leaves) or not _like(self.tree[1], kwargs, leaves):
                return None
        for leaf, kind in zip(leaves, self.kinds):  # noqa: B905 (as many as there are)
            if not _is(leaf, kind):
                return None
        if not self.captured.unchanged():
            return None
        given = list(leaves) if len(self.arrays) == len(leaves) else [leaves[i] for i in self.arrays]
        for place, kind in zip(self.captured.places, self.place_kinds):  # noqa: B905 (made together)
            value = place.read()
            if not _is(value, kind):
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

    def run(self, given: list[Any]) -> Any:
        """Call the program."""
        call = Call(self)
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
            _, _, crossing = made[0](*values)
            made[1](*values, *seeds, *crossing)

        return report(self.emitted, run, arrays)

    def replay(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The outputs once more, by the calls that the function made when it was traced, on Tensors."""
        there: dict[int, Any] = {id(v): t for v, t in zip(self.inputs, given, strict=True)}
        there.update((id(v), v.leaf) for v in self.all_leaves)

        def now(a: Any) -> Any:
            if not isinstance(a, Value):
                return a
            return there[id(a)] if id(a) in there else as_tensor(a.example)

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

    It holds a set of buffers, which goes back to the plan when the graph lets go of it.
    """

    __slots__ = ("crossing", "drawn", "found", "instance", "plan", "seeds", "spent", "values")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.instance: Instance | None = plan.instance()
        self.found: dict[int, Any] = {}  # gradients that were computed but not asked for yet, by number of the target
        self.seeds: Any = None
        self.spent = False
        self.crossing: Any = ()
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
            outputs, effects, self.crossing = self.instance.forward(*values)
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
            found = self._recorded(seeds, arguments) if recorded else self._computed(seeds)
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
        return [s for s, wanted in zip(seeds, self.plan.trace.differentiable, strict=True) if wanted]

    def _computed(self, seeds: Sequence[Any]) -> list[Any]:
        """By the backward half of the program."""
        assert self.instance is not None
        if self.spent:  # the first pass has written over what the forward half had left for it
            with drawn_again(self.drawn):
                _, _, self.crossing = self.instance.forward(*self.values)
        self.spent = True
        return list(self.instance.backward(*self.values, *self._wanted(seeds), *self.crossing))

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
    law="(...), ... -> (...), ...",
)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


class _Leaf:
    """The place of the next leaf in a tree of arguments."""


_LEAF = _Leaf()


def _marked(tree: Any, leaves: list[Any]) -> Any:
    """The containers of a tree, its leaves collected."""
    if isinstance(tree, (tuple, list)):
        return _made(tree, [_marked(item, leaves) for item in tree])
    if isinstance(tree, dict):
        return {key: _marked(item, leaves) for key, item in tree.items()}
    leaves.append(tree)
    return _LEAF


def _made(like: Any, items: list[Any]) -> Any:
    """A list or a tuple, named or not, of items."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def _unmarked(tree: Any, leaves: list[Any]) -> Any:
    """The tree with leaves in their places again (they are taken from the front of the list)."""
    if tree is _LEAF:
        return leaves.pop(0)
    if isinstance(tree, dict):
        return {key: _unmarked(item, leaves) for key, item in tree.items()}
    return _made(tree, [_unmarked(item, leaves) for item in tree])


def _like(tree: Any, other: Any, leaves: list[Any]) -> bool:
    """Whether `other` has the containers of a tree; its leaves are collected."""
    if tree is _LEAF:
        leaves.append(other)
        return not isinstance(other, (tuple, list, dict))
    if type(tree) is not type(other) or len(tree) != len(other):
        return False
    if isinstance(tree, dict):
        return list(tree) == list(other) and all(map(_like, tree.values(), other.values(), itertools.repeat(leaves)))
    return all(map(_like, tree, other, itertools.repeat(leaves)))


def _kind(leaf: Any, name: str) -> tuple[Any, ...]:
    """What a program depends on of an argument: (type, shape, dtype, requires_grad), or (None, the value itself)."""
    if isinstance(leaf, Vertex):
        return (Vertex, leaf.value.shape, leaf.value.dtype, leaf.requires_grad)
    if isinstance(leaf, np.ndarray):
        if type(leaf) not in (np.ndarray, np.memmap) or leaf.dtype.kind not in "fiub":
            raise TypeError(
                f"compile: {name} is a {type(leaf).__name__} of dtype {leaf.dtype}; a compiled function takes arrays "
                "of real numbers or booleans"
            )
        return (np.ndarray, leaf.shape, leaf.dtype, False)
    return (None, leaf)


def _is(leaf: Any, kind: tuple[Any, ...]) -> bool:
    if kind[0] is np.ndarray:
        return isinstance(leaf, np.ndarray) and leaf.shape == kind[1] and leaf.dtype == kind[2]
    if kind[0] is Vertex:
        return (
            isinstance(leaf, Vertex)
            and leaf.value.shape == kind[1]
            and leaf.value.dtype == kind[2]
            and leaf.requires_grad is kind[3]
        )
    value = kind[1]
    if leaf is value or same(leaf, value):
        return True
    if type(leaf) is not type(value) or isinstance(leaf, (Vertex, np.ndarray)):
        return False
    try:
        return bool(leaf == value) and str(leaf) == str(value)
    except Exception:
        return False


def as_tensor(a: Any) -> Tensor:
    """A Tensor as it is, an array as one."""
    return a if isinstance(a, Tensor) else Tensor(a)


def _names(function: Any, args: Any, kwargs: Any) -> dict[int, str]:
    """What the leaves of the arguments are called in the function's signature."""
    found: dict[int, str] = {}
    number = 0
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []

    def walk(tree: Any, name: str) -> None:
        nonlocal number
        if tree is _LEAF:
            found[number] = name
            number += 1
            return
        for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            walk(item, f"{name}_{key}")

    for i, tree in enumerate(args):
        p = parameters[min(i, len(parameters) - 1)] if parameters else None
        name = f"x{i}" if p is None else p.name if p.kind is not p.VAR_POSITIONAL else f"{p.name}_{i}"
        walk(tree, name)
    for key, tree in kwargs.items():
        walk(tree, key)
    return found


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


def _forms(tree: Any, returned: Any, how: list[Callable[[Any], Any]]) -> None:
    """Note for each output in a tree how the function itself returned it."""
    if isinstance(tree, Output):
        if isinstance(returned, Tensor):
            how[tree.number] = result
        elif not isinstance(returned, np.ndarray):
            how[tree.number] = _number
    elif isinstance(tree, (list, tuple)) and isinstance(returned, (list, tuple)) and len(tree) == len(returned):
        for one, other in zip(tree, returned, strict=True):
            _forms(one, other, how)
    elif isinstance(tree, dict) and isinstance(returned, dict):
        for key in tree.keys() & returned.keys():
            _forms(tree[key], returned[key], how)


def _number(array: Any) -> Any:
    """A NumPy scalar."""
    return array[()]
