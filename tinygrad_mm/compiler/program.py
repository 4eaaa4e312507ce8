"""A program: a traced computation as a flat list of calls on values; passes rewrite it, the emitter writes it out."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.graph import Scope, Vertex, name_of

__all__ = ["Effect", "Op", "Place", "Program", "Value", "free_name", "now", "stand_in_for"]


class Value:
    """Something a program computes with: an input, a captured tensor, a constant, or the result of a call.

    `kind` says which ("input", "leaf", "constant", "result"); `example` is the array it was during the trace (for a
    constant: always). `leaf` is the captured Tensor whose array is looked up at each call. `order` is the order in
    which the axes of a result lie in memory, from the outermost to the innermost, where that is not their own.
    """

    __slots__ = ("dtype", "example", "kind", "leaf", "name", "order", "shape")

    def __init__(self, example: Any, kind: str = "result", name: str = "", leaf: Vertex | None = None) -> None:
        self.example = example
        self.shape: Any = None if type(example) is tuple else example.shape
        self.dtype: Any = None if type(example) is tuple else example.dtype
        self.kind, self.name, self.leaf = kind, name, leaf
        self.order: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes the elements take."""
        return self.size * int(self.dtype.itemsize)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name or hex(id(self))} {self.shape} {self.dtype}>"


class Op:
    """One call: `result = fun(*args, **kwargs)`; among `args` are Values and plain Python arguments.

    `differentiable`: whether a gradient went back through it, in the trace.
    """

    __slots__ = ("args", "backward", "differentiable", "fun", "kwargs", "result", "scope")

    def __init__(
        self,
        fun: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        result: Value,
        scope: Scope | None = None,
        backward: bool = False,
    ) -> None:
        self.fun, self.args, self.kwargs, self.result = fun, list(args), dict(kwargs), result
        self.scope, self.backward, self.differentiable = scope, backward, False

    def copy(self) -> Op:
        """The same call, which may be rewritten by itself."""
        other = Op(self.fun, self.args, self.kwargs, self.result, self.scope, self.backward)
        other.differentiable = self.differentiable
        return other

    @property
    def multiply_adds(self) -> int:
        """Those of a matrix product; 0 for another call."""
        if self.fun not in (np.dot, np.matmul) or len(self.args) != 2:
            return 0
        a = self.args[0]
        inner = a.shape[-1] if isinstance(a, Value) and a.ndim else 1
        return self.result.size * int(inner)

    def operands(self) -> Iterator[Value]:
        """The Values among the arguments."""
        return (a for a in self.args if isinstance(a, Value))

    def __repr__(self) -> str:
        return f"{self.result!r} = {name_of(self.fun)}({', '.join(map(repr, self.args))})"


class Effect:
    """A write to a Tensor that the program does besides returning something: `buffer.assign(value)`."""

    __slots__ = ("buffer", "value")

    def __init__(self, buffer: Vertex, value: Value) -> None:
        self.buffer, self.value = buffer, value


class Place(NamedTuple):
    """Where a result is to be written: an array that is there always, by the name it has in emitted code."""

    name: str
    array: Any


class Program:
    """A straight line of calls.

    `inputs` are given at each call; `leaves` are Tensors that the function uses without being given them; `outputs`
    are what it returns, `seeds` the gradients that the backward half is given, `gradients` what that returns (None
    where nothing depends on it); `effects` are the writes to buffers. In a training step, `gradient_of` are the
    gradients by the id of the parameter. `places` says by the id of a Value where a result is to be written. Ops marked
    `backward` come after all others.
    """

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.inputs: list[Value] = []
        self.leaves: list[Value] = []
        self.outputs: list[Value] = []
        self.seeds: list[Value] = []
        self.gradients: list[Value | None] = []
        self.effects: list[Effect] = []
        self.places: dict[int, Place] = {}
        self.gradient_of: dict[int, Value] = {}

    def place(self, value: Value, stem: str, array: Any) -> None:
        """Have a result written to an array, under a name like `stem` that no other place has."""
        self.places[id(value)] = Place(free_name(stem, {place.name for place in self.places.values()}), array)

    def wanted(self) -> list[Value]:
        """What must be there at the end."""
        return [*self.outputs, *(g for g in self.gradients if g is not None), *(e.value for e in self.effects)]

    def makers(self) -> dict[int, Op]:
        """The op that makes each result, by the Value's id."""
        return {id(op.result): op for op in self.ops}

    def uses(self) -> dict[int, list[Op]]:
        """The ops that read each Value, by its id, once for each argument."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for a in op.operands():
                found.setdefault(id(a), []).append(op)
        return found

    def let_go(self) -> None:
        """Forget the arrays of the trace, but for those that the program is bound to: passes need their kind only."""
        for value in [*self.seeds, *(op.result for op in self.ops)]:
            value.example = stand_in_for(value.example)

    def substitute(self, replaced: Mapping[int, Value]) -> None:
        """Put other Values in the place of some, everywhere (`replaced` is by id, and may go in chains)."""
        if not replaced:
            return

        for op in self.ops:
            op.args = [now(a, replaced) for a in op.args]
        self.outputs = [now(v, replaced) for v in self.outputs]
        self.gradients = [now(v, replaced) for v in self.gradients]
        for effect in self.effects:
            effect.value = now(effect.value, replaced)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.ops))


def free_name(stem: str, taken: Container[str]) -> str:
    """A Python name that begins like `stem` and is not taken."""
    stem = "".join(c if c.isalnum() else "_" for c in stem) or "v"
    stem = f"_{stem}" if stem[0].isdigit() else stem
    name, n = stem, 2
    while name in taken:
        name, n = f"{stem}_{n}", n + 1
    return name


def now(a: Any, replaced: Mapping[int, Value]) -> Any:
    """What stands in the place of an argument after replacements, which may go in chains."""
    while isinstance(a, Value) and id(a) in replaced:
        a = replaced[id(a)]
    return a


def stand_in_for(example: Any) -> Any:
    """An array of the same shape and dtype that takes no memory."""
    if type(example) is tuple:
        return tuple(map(stand_in_for, example))
    one = np.ones((), example.dtype) if example.dtype.kind == "f" else np.zeros((), example.dtype)
    return np.broadcast_to(one, example.shape)
