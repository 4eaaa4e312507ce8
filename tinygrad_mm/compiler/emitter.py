"""A planned program written out as Python: the NumPy code that one would write by hand."""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.kernels import Kernel, Made, View, weak
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.compiler.storage import Storage
from tinygrad_mm.graph import RULES, Scope, name_of
from tinygrad_mm.memory import aligned

__all__ = ["Emitted", "Insertion", "emit"]

_WORDS = frozenset({"np", "memory", "array_in", "empty", "forward", "backward", "step", "update"})


def array_in(memory: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The beginning of a piece of memory, as an array."""
    count = int(np.prod(shape, dtype=np.int64))
    return memory[: count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


class Emitted:
    """The source of a program, and what it needs.

    `make(leaves)` allocates buffers and returns the functions `forward` and `backward` bound to them and to the arrays
    of the captured tensors.
    """

    def __init__(self, program: Program, storage: Storage, source: str, bound: dict[str, Any], filename: str) -> None:
        self.program, self.storage, self.source, self.bound = program, storage, source, bound
        self.filename = filename
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        namespace: dict[str, Any] = {"np": np, "array_in": array_in, "empty": np.empty}
        namespace.update({name: np.dtype(name).type for name in _dtypes(storage)})
        exec(compile(source, filename, "exec"), namespace)
        self.namespace = namespace
        self._make: Callable[..., Any] = namespace["make"]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers together."""
        return sum(buffer.nbytes for buffer in self.storage.buffers)

    def made_with(self, arrays: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The arrays of the captured tensors, and those that results are written to, which follow them in `arrays`."""
        n = len(self.program.leaves)
        return list(arrays[:n]), list(arrays[n:])

    def make(self, leaves: list[Any], given: Sequence[Any] = (), bound: dict[str, Any] | None = None) -> Any:
        """Functions with buffers of their own; `bound` are other objects by the names of those in `self.bound`."""
        memory = [aligned(buffer.nbytes, np.uint8) for buffer in self.storage.buffers]
        return self._make(memory, *leaves, *given, *(self.bound if bound is None else bound).values())


def _dtypes(storage: Storage) -> set[str]:
    names = {np.dtype(a.dtype).name for a in storage.like.values()}
    for op in storage.program.ops:
        if op.result.dtype is not None:
            names.add(np.dtype(op.result.dtype).name)
    return names


class _Writer:
    """Collects the lines of one program."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.bound: dict[str, Any] = {}  # what the code refers to by name: functions and constants
        self._names: dict[Any, str] = {}
        self._keep: list[Any] = []

    def __call__(self, what: Any, stem: str = "") -> str:
        """The same as `bind`: what kernels are given."""
        return self.bind(what, stem)

    def seen(self, name: str, suffix: str, stem: str = "") -> str:
        """An array looked at in another way."""
        return self.storage.seen(name, suffix, stem)

    def is_contiguous(self, name: str) -> bool:
        """Whether an array is there always, and its elements lie one after the other."""
        array = self.storage.like.get(name)
        return array is not None and bool(array.flags.c_contiguous)

    def bind(self, what: Any, stem: str = "") -> str:
        """The name by which the code calls a function or an array."""
        key: Any = id(what)
        if isinstance(what, np.ndarray) and what.size <= 1 << 22:
            key = ("array", what.shape, what.dtype.str, what.tobytes() if what.size <= 4096 else id(what))
        if key not in self._names:
            self._names[key] = name = self.storage.name(stem or name_of(what))
            self.bound[name] = what
            self._keep.append(what)
        return self._names[key]

    def operand(self, op: Op, i: int) -> str:
        """How an argument is written."""
        a = op.args[i]
        if isinstance(a, Value):
            return self.storage.home[id(a)]
        if a is None or type(a) in (bool, int, str):
            number = weak(op, i)
            return repr(a) if number is None else self.bind(number, _number_name(a))
        if type(a) is float:
            number = weak(op, i)
            return self.bind(a if number is None else number, _number_name(a))
        if type(a) is tuple and all(type(x) in (int, bool, type(None)) for x in a):
            return repr(a)
        return self.bind(a, "c")

    def lines_of(self, op: Op) -> list[str]:
        """The statements for one op."""
        storage, kernel = self.storage, self.storage.kernels[id(op)]
        out = storage.home[id(op.result)]
        if isinstance(kernel, View):
            base = storage.home[id(kernel.base)]
            return [] if base in storage.like else [f"{out} = {kernel.text(base)}"]
        operands = [self.operand(op, i) for i in range(len(op.args))]
        if isinstance(kernel, Made):
            return [f"{out} = {kernel.text(operands)}"]
        if kernel is None:
            rule = RULES.get(op.fun)
            call = rule.forward if rule is not None else getattr(op.fun, "forward", op.fun)
            named = [f"{k}={self.bind(v, 'c') if _needs_name(v) else repr(v)}" for k, v in op.kwargs.items()]
            text = f"{self.bind(call, name_of(op.fun))}({', '.join([*operands, *named])})"
            if isinstance(op.fun, np.ufunc) or op.result.shape == ():
                text = f"np.asarray({text})" if type(op.result.example) is not tuple else text
            return [f"{out} = {text}"]
        assert isinstance(kernel, Kernel)
        lines = []
        if id(op.result) in storage.fresh:
            lines.append(f"{out} = empty({op.result.shape}, {np.dtype(op.result.dtype).name})")
        return lines + kernel.lines(out, operands, storage.scratch.get(id(op), []), self)


def _needs_name(v: Any) -> bool:
    if type(v) is float and not math.isfinite(v):  # inf and nan are no words of Python
        return True
    return not (v is None or type(v) in (bool, int, float, str) or (type(v) is tuple and not any(map(_needs_name, v))))


def _number_name(number: Any) -> str:
    return {0: "zero", 1: "one", 2: "two", 0.5: "half", -1: "minus_one"}.get(number, "number")


class Insertion:
    """Statements of somebody else's, put at the end of a program: the update of parameters.

    `bound` are the objects that they use, by names that nothing else is called; `shares` are those that each thread
    after the first uses instead of them.
    """

    def __init__(self, lines: list[str], bound: dict[str, Any], shares: Sequence[dict[str, Any]] = ()) -> None:
        self.lines, self.bound, self.shares = lines, bound, shares


def emit(
    program: Program,
    title: str = "",
    path_of: Callable[[Scope | None], str] = lambda scope: "",
    insertions: Sequence[Insertion] = (),
    joint: bool = False,
    apart: bool = False,
) -> Emitted:
    """Write a program out: as the functions `forward` and `backward`, or, `joint`, as one function `step`.

    The insertions stand at the end of it, or, `apart`, in a function `update` that follows it. The arrays of
    `program.places` are bound like the leaves.
    """
    reserved = [name for insertion in insertions for name in insertion.bound]
    storage = Storage(program, [*_WORDS, *reserved])
    writer = _Writer(storage)
    halves: tuple[list[str], list[str]] = ([], [])
    where = None
    crossing = _crossing(program, storage)
    for op in program.ops:
        body = halves[op.backward]
        lines = writer.lines_of(op)
        here = path_of(op.scope) + (" (backward)" if op.backward else "")
        if lines and here != where and here.strip():
            body.append(f"# {here}")
        where = here if lines else where
        if lines and len(lines[-1]) < 90 and op.result.shape is not None:
            lines[-1] += f"  # {op.result.shape}"
        body.extend(lines)

    update = [line for insertion in insertions for line in insertion.lines]

    def function(name: str, arguments: list[str], lines: list[str]) -> list[str]:
        return ["", f"    def {name}({', '.join(arguments)}):", *(f"        {line}" for line in lines)]

    outputs = _joined(_handed(storage, program.outputs))
    effects = _joined(_handed(storage, [e.value for e in program.effects]))
    inputs = [storage.home[id(v)] for v in program.inputs]
    if joint:
        names = ["step", *(["update"] if apart else [])]
        both = [*halves[0], *halves[1], *([] if apart else update), f"return ({outputs}), ({effects})"]
        functions = [
            *function("step", inputs, both),
            *(function("update", [], [*update, "return"]) if apart else []),
        ]
    else:
        names = ["forward", "backward"]
        seeds = [storage.home[id(v)] for v in program.seeds]
        found = iter(_handed(storage, [v for v in program.gradients if v is not None]))
        gradients = _joined([("None" if v is None else next(found)) for v in program.gradients])
        handed = f"return ({outputs}), ({effects}), ({_joined(crossing)})"
        functions = [
            *function("forward", inputs, [*halves[0], handed]),
            *function("backward", [*inputs, *seeds, *crossing], [*halves[1], f"return ({gradients})"]),
        ]
    leaves = [storage.home[id(v)] for v in program.leaves]
    bound = {storage.home[id(v)]: v.example for v in _constants(program)} | writer.bound
    for insertion in insertions:
        bound.update(insertion.bound)
    source = "\n".join(
        [
            *([f"# {title}"] if title else []),
            f"def make({', '.join(['memory', *leaves, *storage.given.values(), *bound])}):",
            *(f"    {name} = {text}" for name, text in storage.arrays),
            *functions,
            "",
            f"    return {_joined(names)}",
            "",
        ]
    )
    return Emitted(program, storage, source, bound, f"<compiled {title or 'program'} {abs(hash(source)):x}>")


def _joined(names: list[str]) -> str:
    return ", ".join(names) + ("," if len(names) == 1 else "")


def _handed(storage: Storage, values: Sequence[Value]) -> list[str]:
    """Results as they are handed out: those that are new already as they are, once, all others copied."""
    names: list[str] = []
    for value in values:
        name = storage.home[id(value)]
        own = id(value) in storage.fresh or id(value) in storage.given
        names.append(name if own and name not in names else f"{name}.copy()")
    return names


def _constants(program: Program) -> list[Value]:
    found = {id(a): a for op in program.ops for a in op.operands() if a.kind == "constant"}
    found.update({id(v): v for v in program.wanted() if v.kind == "constant"})
    return list(found.values())


def _crossing(program: Program, storage: Storage) -> list[str]:
    """What the forward half makes anew at each call and the backward half reads."""
    made = {id(op.result) for op in program.ops if not op.backward}
    names: dict[str, None] = {}
    for op in program.ops:
        if op.backward:
            for a in op.operands():
                if id(a) in made and storage.home[id(a)] not in storage.like and id(a) not in storage.given:
                    names[storage.home[id(a)]] = None
    for value in program.gradients:
        if value is not None and id(value) in made and storage.home[id(value)] not in storage.like:
            names[storage.home[id(value)]] = None
    return list(names)
