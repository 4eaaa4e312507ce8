"""Where the results of a program are kept: which are views, which buffer each of the others is written to, how long.

A buffer is reused as soon as nothing reads it any more, and an elementwise call writes over its own argument where it
is the last to read it. Arrays that the program hands out are new at each call, unless a place for them was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tinygrad_mm.compiler.lowerings import lowering_of
from tinygrad_mm.compiler.program import Op, Program, Value, free_name
from tinygrad_mm.compiler.statements import Array, Lowering, Made, Memory, Statement, View, copy
from tinygrad_mm.functional.error_function import erf
from tinygrad_mm.functional.pooling import _at_maxima, _max_pool, _to_maxima
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.functional.sliding import overlap_add

__all__ = ["Placement", "Step"]


@dataclass
class Step:
    """One op of a placed program: its statements; or, for a call that makes an array, none.

    `copies` are those that bring such an array to a place that was given for it. `scratch` is written meanwhile.
    """

    op: Op
    lowering: Lowering | Made | None
    operands: list[Any]
    out: Array
    statements: list[Statement]
    scratch: list[Array]
    number: int = 0  # of the op in its program, and of the last one that reads its result
    last: int = 0

    @property
    def result(self) -> Array:
        """Where the result is found in the end."""
        return self.statements[-1].out if self.is_call and self.statements else self.out

    @property
    def is_call(self) -> bool:
        """Whether it makes a new array at each call."""
        return self.lowering is None or isinstance(self.lowering, Made)


class Placement:
    """A placed program.

    `arrays` says by the id of a Value where it is found. `steps` are its ops, without those that only look at an array
    in another way. `buffers` are the sizes, in bytes, of what is to be allocated once. `names` are all names taken.
    Where elementwise calls that follow each other are to be `fused` into one loop, what they do not read any more is
    not taken again before the loop ends: else it could not read it element by element.
    """

    def __init__(self, program: Program, reserved: Sequence[str] = (), fused: bool = False) -> None:
        self.program, self.fused = program, fused
        self.arrays: dict[int, Array] = {}
        self.steps: list[Step] = []
        self.buffers: list[int] = []
        self.without_reuse = 0
        self.names: set[str] = {*reserved, *(place.name for place in program.places.values())}
        self._memories: list[Memory] = []  # of the buffers
        self._fixed: list[tuple[Any, list[int], Memory]] = []  # owner of the memory, its bounds
        self._shared: dict[Any, Array] = {}  # arrays in buffers, by buffer, shape and dtype
        self._root: dict[int, int] = {}  # the Value whose memory a view looks at
        self._seen: dict[int, frozenset[int]] = {}  # the Values whose memory the result of a call may be in
        for value in program.leaves:
            self.arrays[id(value)] = leaf = self.fixed(value.example, value.name or "leaf")
            leaf.is_leaf = True
        for value in (*program.inputs, *program.seeds):
            self.arrays[id(value)] = self._anew("input", value, value.name or "x")
        for value in [*(a for op in program.ops for a in op.operands()), *program.wanted()]:
            if value.kind == "constant" and id(value) not in self.arrays:
                self.arrays[id(value)] = self.fixed(value.example, value.name or "c")
        self.given = {key: self._given(place) for key, place in program.places.items()}
        self._plan()

    # -- arrays

    def name(self, stem: str) -> str:
        """A name that is not taken."""
        name = free_name(stem, self.names)
        self.names.add(name)
        return name

    def fixed(self, array: Any, stem: str) -> Array:
        """An array that is there from the beginning. Two of them lie in one Memory where they may share elements."""
        return Array(self._memory_of(array), array, name=self.name(stem))

    def _given(self, place: Any) -> Array:
        return Array(self._memory_of(place.array), place.array, name=place.name)

    def _memory_of(self, array: Any) -> Memory:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        low, high = byte_bounds(owner)
        for known, bounds, memory in self._fixed:
            if known is owner:
                return memory
            if bounds[0] < high and low < bounds[1]:
                bounds[:] = [min(low, bounds[0]), max(high, bounds[1])]
                return memory
        memory = Memory("fixed", origin=low)
        self._fixed.append((owner, [low, high], memory))
        return memory

    def _anew(self, kind: str, value: Value, stem: str, seen: frozenset[Memory] = frozenset()) -> Array:
        """An array that is another one at each call; Values that are no single array have no ghost."""
        ghost = None if value.shape is None else np.empty(value.shape, value.dtype)
        return Array(Memory(kind, seen=seen), ghost, name=self.name(stem))

    def _in_buffer(self, memory: Memory, shape: tuple[int, ...], dtype: Any, order: tuple[int, ...] | None) -> Array:
        key = (memory, shape, np.dtype(dtype), order)
        if key not in self._shared:
            if order is None:
                self._shared[key] = Array(memory, np.empty(shape, dtype))
            else:
                whole = self._in_buffer(memory, tuple(shape[axis] for axis in order), dtype, None)
                self._shared[key] = whole.transpose(*map(order.index, range(len(order))))
        return self._shared[key]

    # -- planning

    def _plan(self) -> None:
        program = self.program
        lowerings = self._look()
        self._last, later = self._last_reads()
        handed = {id(v) for v in program.wanted()}
        self._free: list[Memory] = []
        self._soon: list[Memory] = []  # free as soon as the loop ends
        self._held: dict[int, Memory] = {}  # id of a root -> its buffer
        for i, op in enumerate(program.ops):
            lowering, result, key = lowerings[i], op.result, id(op.result)
            if isinstance(lowering, View):
                seen = lowering.of(self.arrays[id(lowering.base)])
                assert seen is not None
                self.arrays[key] = seen
                continue
            if not (self.fused and isinstance(lowering, Lowering) and lowering.inplace):
                self._free += self._soon
                self._soon.clear()
            if isinstance(lowering, Lowering):
                if key in self.given:
                    out = self.given[key]
                elif key in handed and result.order is None and (op.backward or key not in later):
                    out = self._anew("fresh", result, "grad" if op.backward else "out")
                else:
                    out = self._place(op, lowering, i)
                self.steps.append(self._lowered(op, lowering, out))
            else:
                self.steps.append(self._called(op, lowering))
            step = self.steps[-1]
            step.number, step.last = i, self._last[key]
            self.arrays[key] = step.result
            self.without_reuse += 0 if result.shape is None else result.nbytes
            for root in [r for r in self._held if self._last[r] <= i]:
                self._soon.append(self._held.pop(root))

    def _called(self, op: Op, lowering: Made | None) -> Step:
        """A call that makes an array, which is copied where a place was given for it."""
        operands = [self._operand(a) for a in op.args]
        fresh = isinstance(lowering, Made) or _is_fresh(op)
        memories = [] if fresh else [a.memory for a in operands if isinstance(a, Array)]
        out, place = self._anew("made", op.result, "r", frozenset(memories)), self.given.get(id(op.result))
        return Step(op, lowering, operands, out, [] if place is None else [copy(out, place)], [])

    def _lowered(self, op: Op, lowering: Lowering, out: Array) -> Step:
        """The statements that write the result of an op to an array."""
        operands = [self._operand(a) for a in op.args]
        taken = [self._take(int(np.prod(shape)) * np.dtype(dtype).itemsize) for shape, dtype, _ in lowering.scratch]
        scratch = [self._in_buffer(memory, *kind) for memory, kind in zip(taken, lowering.scratch, strict=True)]
        self._soon += taken
        return Step(op, lowering, operands, out, lowering.statements(out, operands, scratch), scratch)

    def _operand(self, a: Any) -> Any:
        if isinstance(a, Value):
            return self.arrays[id(a)]
        return self.fixed(a, "c") if type(a) is np.ndarray and a.ndim else a

    def _look(self) -> list[Any]:
        """The lowering of each op, and which Value's memory each view looks at.

        Buffers are contiguous; a reshape of something that is not has to copy, and is no view then.
        """
        looked: dict[int, Array] = dict(self.arrays)
        found = []
        for op in self.program.ops:
            lowering, key = lowering_of(op), id(op.result)
            self._root[key] = key
            if isinstance(lowering, View):
                view = lowering.of(looked[id(lowering.base)])
                if view is not None:
                    self._root[key] = self._root.get(id(lowering.base), id(lowering.base))
                    looked[key] = view
                else:
                    lowering = _copying(lowering)
            if not isinstance(lowering, View):
                looked[key] = self.given.get(key) or Array(Memory("buffer"), _ghost(op.result))
                if lowering is None and not _is_fresh(op):
                    self._seen[key] = frozenset().union(*(self._roots(a) for a in op.operands()))
            found.append(lowering)
        return found

    def _roots(self, value: Value) -> frozenset[int]:
        """The Values whose memory is read where a Value is: its own, or those that it is a view of."""
        root = self._root.get(id(value), id(value))
        return self._seen.get(root, frozenset()) | {root}

    def _last_reads(self) -> tuple[dict[int, int], set[int]]:
        """For each Value that owns memory: the number of the last op that reads it, through whatever view; and those
        that the backward half reads.
        """
        last: dict[int, int] = {}
        later: set[int] = set()
        for i, op in enumerate(self.program.ops):
            for root in frozenset().union(*map(self._roots, op.operands())):
                last[root] = i
                if op.backward:
                    later.add(root)
            last[self._root[id(op.result)]] = i
        for value in self.program.wanted():
            last.update(dict.fromkeys(self._roots(value), len(self.program.ops)))
        for gradient in self.program.gradients:
            if gradient is not None:
                later.update(self._roots(gradient))
        return last, later

    def _place(self, op: Op, lowering: Lowering, i: int) -> Array:
        """An array for the result of an op: that of an argument it may be written over, or one in a free buffer."""
        result, held = op.result, self._held
        for place in lowering.inplace:
            a = op.args[place]
            root = self._root.get(id(a), id(a))
            others = [b for b in op.operands() if b is not a and root in self._roots(b)]
            array, wanted = self.arrays[id(a)], _ghost(result)
            alike = array.shape == wanted.shape and array.ghost.strides == wanted.strides
            alone = root in held and self._last[root] == i and not others
            if alone and alike and array.ghost.flags.writeable:  # a piece of what was broadcast is not
                held[id(result)] = held.pop(root)
                return array
        memory = self._take(result.nbytes)
        held[id(result)] = memory
        return self._in_buffer(memory, result.shape, result.dtype, result.order)

    def _take(self, nbytes: int) -> Memory:
        """A buffer that is free: the smallest that is large enough, else the largest, which then grows."""
        free, sizes = self._free, self.buffers
        if not free:
            memory = Memory("buffer", len(sizes))
            sizes.append(nbytes)
            return memory
        fitting = [m for m in free if sizes[m.number] >= nbytes]
        memory = min(fitting, key=lambda m: sizes[m.number]) if fitting else max(free, key=lambda m: sizes[m.number])
        sizes[memory.number] = max(sizes[memory.number], nbytes)
        free.remove(memory)
        return memory


# Plain calls whose results are new arrays, whatever they are given.
_FRESH = frozenset({erf, overlap_add, uniform_like, _max_pool, _to_maxima, _at_maxima})


def _ghost(value: Value) -> Any:
    """An array that lies as a result is to lie; None for several results."""
    if value.shape is None or value.order is None:
        return None if value.shape is None else np.empty(value.shape, value.dtype)
    return np.empty([value.shape[axis] for axis in value.order], value.dtype).transpose(np.argsort(value.order))


def _is_fresh(op: Op) -> bool:
    return isinstance(op.fun, np.ufunc) or op.fun in _FRESH


def _copying(view: View) -> Lowering:
    """A reshape that cannot be a view: its elements are copied into a buffer, in the shape that they have."""
    return Lowering(lambda out, a, scratch: [copy(a[0], out.reshape(*a[0].shape))])
