"""From a function to a program: one call on tracing Tensors, and the graph that it leaves behind, read off."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from tinygrad_mm.boundary import as_leaves, boundary
from tinygrad_mm.compiler.arguments import numbered
from tinygrad_mm.compiler.capture import Captured, rebuilt
from tinygrad_mm.compiler.program import Effect, Op, Program, Value
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Monitor, Vertex, entered, name_of, state, tick
from tinygrad_mm.rules.indexing import (
    getitem,
    index_add,
    index_max,
    index_min,
    index_multiply,
    index_set,
    last_writes,
    scatter,
)
from tinygrad_mm.rules.sets import distinct, in_both
from tinygrad_mm.rules.statistics import counts
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = ["Trace", "drawn_again", "ops_of", "stand_in", "without_hooks"]

# Functions whose results have as many elements as values decide.
_SHAPED_BY_VALUES = frozenset({np.nonzero, np.flatnonzero, np.argwhere, counts, distinct, in_both})
_TAKE_INDICES = frozenset({getitem, scatter, index_set, index_add, index_multiply, index_max, index_min, last_writes})


class _Draws(Monitor):
    """Notes every draw, also those whose numbers are then not used: the next draw depends on them."""

    def __init__(self) -> None:
        self.found: list[Vertex] = []

    def result(self, vertex: Vertex, fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if fun is uniform_like:
            self.found.append(vertex)


class Trace:
    """One traced call of `function`.

    `tree` is what it returned, with a number in place of each output of the program; `targets` are the Tensors whose
    gradients the program computes: arguments (as numbers of inputs) or captured Tensors; `forward` are the calls of
    the forward half as the function made them.

    Raises what the function raises; TypeError where a value would leave the graph.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        captured: Captured,
        arguments: Sequence[Any],
        rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]],
        names: Sequence[str],
        differentiate: bool,
    ) -> None:
        self.function, self.captured = function, captured
        self.program = program = Program()
        given = [*arguments, *(place.read() for place in captured.places)]
        self.tensors = [stand_in(a) for a in given]
        program.inputs = [
            Value(t.value, "input", name)
            for t, name in zip(self.tensors, [*names, *(p.name for p in captured.places)], strict=True)
        ]
        self._values: dict[int, Value] = {id(t): v for t, v in zip(self.tensors, program.inputs, strict=True)}
        self._of: dict[int, Vertex] = {}
        self.given_tensors = [isinstance(a, Tensor) for a in given]
        self._keep: list[Any] = list(self.tensors)  # so that no id is used twice
        traced = rebuilt(function, captured.places, self.tensors[len(arguments) :])

        before = [(rng, rng.bit_generator.state) for rng in captured.generators]
        others = _states_of_modules()
        self.start = tick()
        buffers: dict[int, tuple[Any, Any, Any]] = {}
        self.buffers: list[Buffer] = []  # read at each call, like arguments: what was assigned is another array
        draws = _Draws()
        drawn: dict[int, tuple[Any, Any]] = {}
        try:
            with entered(tracing=True, scope=None, assigned=buffers, generators=drawn, monitor=draws):
                args, kwargs = rebuild(self.tensors[: len(arguments)])
                returned = traced(*args, **kwargs)
                self._check_draws(before, drawn, draws.found, others)
                self._read(returned, buffers, draws.found, differentiate and state.recording)
        finally:
            for buffer, _, array in buffers.values():
                buffer.value = array
            for rng, there in [*drawn.values(), *before]:
                rng.bit_generator.state = there  # the trace itself draws nothing

    def _read(
        self,
        returned: Any,
        buffers: dict[int, tuple[Any, Any, Any]],
        draws: Sequence[Vertex],
        differentiate: bool,
    ) -> None:
        """The program behind what the function returned, assigned and drew."""
        outputs: list[Any] = []
        self.tree = numbered(returned, outputs, (Tensor, np.ndarray))
        results = [t if isinstance(t, Tensor) else stand_in(t) for t in outputs]
        assigned = [given for _, given, _ in buffers.values()]
        self.program.ops.extend(self._ops([*results, *assigned, *draws]))
        self._check_shapes(self.program.ops)
        for op in self.program.ops:
            op.differentiable = self._of[id(op.result)].requires_grad
        self.forward = [op.copy() for op in self.program.ops]  # which the passes leave alone
        ends = boundary(results, self.start)
        self.ends = [{id(v) for v in boundary([t], self.start)} for t in results] if len(results) > 1 else []
        older = [v for v in ends if v.node is not None]
        self.targets: list[Any] = []
        found: list[Any] = []
        seeds: list[Tensor] = []
        with as_leaves(older), without_hooks(ends):
            self.differentiable = [t.requires_grad and differentiate for t in results]
            ys = [t for t, wanted in zip(results, self.differentiable, strict=True) if wanted]
            if ys:
                self.targets = sorted(
                    (v for v in ends if v.value.dtype.kind == "f"), key=lambda v: (v.version, id(v) in self._values)
                )
                seeds = [Tensor(np.ones_like(t.value)) for t in ys]
                if self.targets:
                    found = list(gradients(ys, self.targets, seeds, create_graph=True, allow_unused=True))
            for t in seeds:
                self._add(t, Value(t.value, "input", f"g{len(self.program.seeds)}"))
                self.program.seeds.append(self._values[id(t)])
            backward = self._ops([g for g in found if g is not None])
            for op in backward:
                op.backward = True
            self.program.ops.extend(backward)
        self.program.outputs = [self._value(t) for t in results]
        self.program.gradients = [None if g is None else self._value(g) for g in found]
        self.program.effects = [Effect(buffer, self._value(given)) for buffer, given, _ in buffers.values()]
        self.is_tensor = [isinstance(t, Tensor) for t in outputs]

    def _ops(self, roots: Sequence[Vertex]) -> list[Op]:
        """The calls behind the roots that were not read off before."""
        return ops_of(roots, self._value, self._add, self.start, self._values, self._array)

    def _add(self, vertex: Vertex, value: Value) -> None:
        self._values[id(vertex)] = value
        self._of[id(value)] = vertex
        self._keep.append(vertex)

    def _value(self, a: Vertex) -> Value:
        """The Value that a vertex stands for; a captured Tensor is looked up at each call, another leaf is constant."""
        value = self._values.get(id(a))
        if value is None:
            if a.version > self.start and type(a) is Tensor:
                value = self._array(a.value) if self._is_captured(a.value) else Value(a.value, "constant")
            elif isinstance(a, Buffer):
                array = (state.assigned or {}).get(id(a), (None, None, a.value))[2]
                value = Value(array, "input", self.captured.names.get(id(a), "buffer"))
                self.program.inputs.append(value)
                self.buffers.append(a)
            else:
                value = Value(a.value, "leaf", self.captured.names.get(id(a), ""), leaf=a)
                self.program.leaves.append(value)
            self._add(a, value)
        return value

    def _is_captured(self, array: Any) -> bool:
        """Whether somebody outside may write into an array."""
        while isinstance(array, np.ndarray):
            if id(array) in self.captured.arrays:
                return True
            array = array.base
        return False

    def _array(self, array: Any) -> Any:
        """A captured array as a Value that is looked at in each call; any other argument as it is."""
        if not isinstance(array, np.ndarray) or not self._is_captured(array):
            return array
        if id(array) not in self._values:
            tensor = Tensor(array)
            self.program.leaves.append(Value(array, "leaf", "array", leaf=tensor))
            self._values[id(array)] = self.program.leaves[-1]
            self._keep.extend((array, tensor))
        return self._values[id(array)]

    def forget(self) -> None:
        """Let go of all the arrays of the trace; what the program needs at each call it has."""
        number = {id(t): i for i, t in enumerate(self.tensors)}
        self.targets = [number.get(id(t), t) for t in self.targets]
        self.let_go()
        program = self.program
        values = [op.result for op in [*program.ops, *self.forward]]
        for value in [*program.inputs, *program.leaves, *program.seeds, *values, *program.wanted()]:
            if value.kind != "constant" and type(value.example) is not tuple:
                value.example = None

    def let_go(self) -> None:
        """Let go of the graph that the call has left behind: the program is read off."""
        self._values, self._of, self._keep, self.tensors, self.ends = {}, {}, [], [], []

    # -- what cannot be traced

    def _check_draws(
        self,
        before: Sequence[tuple[Any, Any]],
        drawn: Mapping[int, tuple[Any, Any]],
        draws: Sequence[Vertex],
        others: Sequence[Any],
    ) -> None:
        """Refuse draws that were not recorded: a compiled function would return the same numbers at every call."""
        fix = (
            "use tg.dropout or tg.functional.uniform_like with a generator that the function closes over, or draw "
            "outside and pass the numbers as an argument"
        )
        name = name_of(self.function)
        known = {id(rng) for rng in self.captured.generators}
        if any(key not in known for key in drawn):
            raise TypeError(
                f"compile: {name} draws from a generator that it makes itself, or keeps where compile cannot see it; "
                "pass the generator as an argument, or let the function close over it"
            )
        now = {id(rng): rng.bit_generator.state for rng, _ in before}
        with drawn_again([(rng, there) for rng, there in before if id(rng) in drawn]):
            for vertex in draws:
                assert vertex.node is not None
                array, rng = vertex.node.args or ()
                uniform_like(array.value if isinstance(array, Vertex) else array, rng)
            again = {key: rng.bit_generator.state for key, (rng, _) in drawn.items()}
        for rng, there in before:
            if now[id(rng)] != again.get(id(rng), there):
                raise TypeError(f"compile: {name} draws from a generator in a way that is not recorded; {fix}")
        if _states_of_modules() != others:
            raise TypeError(f"compile: {name} draws from the generator of np.random or of random; {fix}")

    def _check_shapes(self, ops: Sequence[Op]) -> None:
        """Refuse what has as many elements as values decide: a program is written for given shapes."""
        for op in ops:
            masked = op.fun is getitem and any(isinstance(a, Value) and a.dtype == bool for a in op.args[2:])
            if (masked or op.fun in _SHAPED_BY_VALUES) and any(a.kind != "constant" for a in op.operands()):
                what = "x[mask]" if masked else name_of(op.fun)
                raise TypeError(
                    f"compile: in {name_of(self.function)}, the shape of {what} depends on values, but a program is "
                    "written for given shapes; use np.where(mask, x, 0) and the like, or select outside of the "
                    "function and pass what was selected, or its places, as an argument"
                )


def _states_of_modules() -> list[Any]:
    """The states of the generators behind the functions of `np.random` and `random`."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002 (looked at, not used)
    return [kind, bytes(memoryview(keys)), rest, random.getstate()]  # type: ignore[arg-type]


@contextmanager
def drawn_again(drawn: Sequence[tuple[np.random.Generator, Any]]) -> Iterator[None]:
    """Set generators back for the length of a `with` block, so that the same numbers are drawn once more."""
    now = [(rng, rng.bit_generator.state) for rng, _ in drawn]
    for rng, there in drawn:
        rng.bit_generator.state = there
    try:
        yield
    finally:
        for rng, there in now:
            rng.bit_generator.state = there


@contextmanager
def without_hooks(vertices: Sequence[Vertex]) -> Iterator[None]:
    """Take hooks off vertices for the length of a `with` block: they are for the pass that goes on behind the call."""
    extras = [vertex.extra for vertex in vertices]
    try:
        for vertex in vertices:
            vertex.extra = None
        yield
    finally:
        for vertex, extra in zip(vertices, extras, strict=True):
            vertex.extra = extra


def ops_of(
    roots: Sequence[Vertex],
    value: Callable[[Vertex], Value],
    add: Callable[[Vertex, Value], None],
    start: int,
    known: Mapping[int, Any] = MappingProxyType({}),
    array: Callable[[Any], Any] = lambda a: a,
) -> list[Op]:
    """The calls behind the roots since the time `start`, as ops, without those whose results are known already."""
    ops = []
    for vertex in _since(roots, start, known):
        node = vertex.node
        assert node is not None
        assert node.args is not None
        args = [value(a) if isinstance(a, Vertex) else a for a in node.args]
        if node.fun not in _TAKE_INDICES:  # in an index, an array is part of what the call does
            args = [array(a) for a in args]
        if isinstance(node.fun, np.ufunc):  # among whose arguments an array can be nothing but an operand
            args = [Value(a, "constant") if isinstance(a, np.ndarray) else a for a in args]
        result = Value(vertex.value)
        add(vertex, result)
        fun: Any = node.fun
        exponent = args[1] if fun is np.power and type(args[1]) in (int, float) and not node.kwargs else None
        if exponent in (2, 0.5) and args[0].dtype == result.dtype and result.dtype.kind == "f":
            fun, args = (np.multiply, [args[0], args[0]]) if exponent == 2 else (np.sqrt, args[:1])  # quicker
        ops.append(Op(fun, args, node.kwargs, result, node.scope))
    return ops


def _since(roots: Sequence[Vertex], start: int, known: Mapping[int, Any]) -> list[Vertex]:
    """All computed vertices behind the roots that are younger than `start`, arguments before results."""
    found: list[Vertex] = []
    seen: set[int] = set()
    stack = [*roots]
    while stack:
        vertex = stack.pop()
        if id(vertex) in seen or vertex.node is None or vertex.version < start or id(vertex) in known:
            continue
        seen.add(id(vertex))
        found.append(vertex)
        stack.extend(a for a in vertex.node.args or () if isinstance(a, Vertex))
    return sorted(found, key=lambda vertex: vertex.version)


def stand_in(given: Any) -> Tensor:
    """The tracing Tensor for an argument: the same array, outside any graph."""
    if isinstance(given, Tensor):
        tensor = Tensor(given.value)
        tensor.requires_grad = given.requires_grad
        return tensor
    return Tensor(np.asarray(given))
