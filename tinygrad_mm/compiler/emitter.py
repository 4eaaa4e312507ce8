"""A placed program written out as Python: the NumPy code that one would write by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.placement import Placement, Step
from tinygrad_mm.compiler.program import Program, Value
from tinygrad_mm.compiler.sources import execute
from tinygrad_mm.compiler.statements import Array, Made, number_name
from tinygrad_mm.compiler.validation import validate
from tinygrad_mm.graph import RULES, Scope, name_of
from tinygrad_mm.memory import aligned

__all__ = ["Emitted", "Insertion", "Writer", "array_in", "assembled", "emit"]

_WORDS = frozenset({"np", "memory", "array_in", "empty", "forward", "backward", "step", "update"})


def array_in(memory: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The beginning of a piece of memory, as an array."""
    count = int(np.prod(shape, dtype=np.int64))
    return memory[: count * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


class Emitted:
    """The source of a program, and what it needs.

    `buffers` are the sizes of the memory that it needs, `bound` the objects that the source refers to by name, besides
    those in `namespace`. `needs_numba` says whether parts are compiled by Numba, which has taken `warm_up` seconds.
    """

    def __init__(
        self, writer: Writer, source: str, title: str, bound: dict[str, Any], namespace: Mapping[str, Any]
    ) -> None:
        self.program, self.source, self.bound, self.title = writer.program, source, bound, title
        self.buffers, self.without_reuse = writer.placement.buffers, writer.placement.without_reuse
        self.needs_numba, self.warm_up = False, 0.0
        self.namespace: dict[str, Any] = {"np": np, "array_in": array_in, "empty": np.empty, **namespace}
        self._execute()

    def _execute(self) -> None:
        self.filename = execute(self.source, self.title, self.namespace, self)
        self._make: Callable[..., Any] = self.namespace["make"]

    def rewritten(self, source: str, **names: Any) -> Emitted:
        """The same program in another wording, which uses other names besides."""
        other: Emitted = object.__new__(type(self))
        other.__dict__.update(self.__dict__, source=source, title=f"{self.title}, timed")
        other.namespace = {**self.namespace, **names}
        other._execute()
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers together."""
        return sum(self.buffers)

    def made_with(self, arrays: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The arrays of the captured tensors, and those that results are written to, which follow them in `arrays`."""
        n = len(self.program.leaves)
        return list(arrays[:n]), list(arrays[n:])

    def make(self, leaves: Sequence[Any], given: Sequence[Any] = (), bound: dict[str, Any] | None = None) -> Any:
        """The functions, bound to the arrays of the captured tensors and to given places, with buffers of their own.

        `bound` are other objects by the names of those in `self.bound`.
        """
        memory = [aligned(nbytes, np.uint8) for nbytes in self.buffers]
        return self._make(memory, *leaves, *given, *(self.bound if bound is None else bound).values())


class Writer:
    """The lines of one program, as calls of NumPy."""

    words: frozenset[str] = _WORDS

    def __init__(
        self,
        program: Program,
        path_of: Callable[[Scope | None], str],
        reserved: Sequence[str] = (),
        fused: bool = False,
    ) -> None:
        self.program, self.path_of = program, path_of
        self.placement = placement = Placement(program, [*self.words, *reserved], fused)
        validate(placement)
        self.bound: dict[str, Any] = {}  # what the code refers to by name: functions and constants
        self.arrays: list[str] = []  # the lines that make arrays in buffers, and views, once
        self.dtypes: set[str] = set()
        self.lines: list[str] = []  # of the function that is being written
        self._names: dict[Any, str] = {}
        self._local: dict[str, str] = {}  # views of what is another array at each call
        self._keep: list[Any] = []
        self._count = 0
        self._homes = {id(v): placement.arrays[id(v)] for v in (*program.inputs, *program.seeds, *program.leaves)}
        self._unbound = {id(a) for a in (*self._homes.values(), *placement.given.values())}

    # -- names

    def name(self, stem: str) -> str:
        """A name that is not taken."""
        return self.placement.name(stem)

    def __call__(self, what: Any, stem: str = "") -> str:
        """The text of an operand: an array, a function, or a plain argument."""
        if isinstance(what, Array):
            return self.array(what)
        if what is None or type(what) in (bool, int, str):
            return repr(what)
        if type(what) is tuple and all(type(x) in (int, bool, type(None)) for x in what):
            return repr(what)
        return self.bind(what, stem or (number_name(what) if type(what) is float else ""))

    def bind(self, what: Any, stem: str = "") -> str:
        """The name by which the code calls a function or an array."""
        key: Any = id(what)
        if isinstance(what, np.ndarray) and what.size <= 1 << 22:
            key = ("array", what.shape, what.dtype.str, what.tobytes() if what.size <= 4096 else id(what))
        if isinstance(what, type) and issubclass(what, np.generic):
            return self.dtype(what)
        if key not in self._names:
            stem = stem or ("c" if isinstance(what, np.ndarray) or not callable(what) else name_of(what))
            self._names[key] = name = self.name(stem)
            self.bound[name] = what
            self._keep.append(what)
        return self._names[key]

    def dtype(self, dtype: Any) -> str:
        """The name of a dtype."""
        name = str(np.dtype(dtype).name)
        self.dtypes.add(name)
        return name

    def array(self, array: Array) -> str:
        """The text of an array; what is there always is made once."""
        if array.base is None:
            if array.memory.kind == "buffer" and not array.name:
                array.name = self.name(f"t{self._count}")
                self._count += 1
                made = f"array_in(memory[{array.memory.number}], {array.shape}, {self.dtype(array.dtype)})"
                self.arrays.append(f"{array.name} = {made}")
            elif array.memory.kind == "fixed" and id(array) not in self._unbound:  # a constant
                self._unbound.add(id(array))
                self.bound[array.name] = array.ghost
            return array.name
        base = self.array(array.base)
        text = array.form.replace("{}", base)
        known = self._names if array.memory.stays else self._local
        if text not in known:
            stem = array.stem or f"{base}_{'T' if array.form == '{}.T' else 'view'}"
            known[text] = self.name(stem)
            (self.arrays if array.memory.stays else self.lines).append(f"{known[text]} = {text}")
        return known[text]

    # -- statements

    def step(self, step: Step) -> None:
        """Write the lines for one op."""
        before, out = len(self.lines), step.out
        if step.is_call:
            self.lines.append(f"{out.name} = {self.made(step)}")
        elif out.memory.kind == "fresh":
            self.lines.append(f"{out.name} = empty({out.shape}, {self.dtype(out.dtype)})")
        for statement in step.statements:
            self.lines.extend(statement.text(self))
        if len(self.lines) > before and len(self.lines[-1]) < 90 and step.op.result.shape is not None:
            self.lines[-1] += f"  # {step.op.result.shape}"

    def made(self, step: Step) -> str:
        """The expression of a call that makes an array."""
        op = step.op
        if isinstance(step.lowering, Made):
            return step.lowering.text([self(a) for a in step.operands])
        rule = RULES.get(op.fun)
        call = rule.forward if rule is not None else getattr(op.fun, "forward", op.fun)
        named = [f"{k}={self.bind(v, 'c') if _needs_name(v) else repr(v)}" for k, v in op.kwargs.items()]
        operands = [
            self(a) if isinstance(a, Array) else self(a, "" if type(a) is float else "c") for a in step.operands
        ]
        text = f"{self.bind(call, name_of(op.fun))}({', '.join([*operands, *named])})"
        number = isinstance(op.fun, np.ufunc) or op.result.shape == ()
        return f"np.asarray({text})" if number and type(op.result.example) is not tuple else text

    def half(self, steps: Sequence[Step], title: str) -> list[str]:
        """The lines of a function that does these steps."""
        self.lines, self._local = [], {}
        where = None
        for step in steps:
            where = self.heading(step, where)
            self.step(step)
        return self.lines

    def heading(self, step: Step, where: str | None) -> str:
        """Say in a comment which module a step belongs to, where the last one did not."""
        here = self.path_of(step.op.scope) + (" (backward)" if step.op.backward else "")
        if here != where and here.strip():
            self.lines.append(f"# {here}")
        return here

    def handed(self, values: Sequence[Value]) -> list[str]:
        """Results as they are handed out: those that are new already as they are, once, all others copied."""
        names: list[str] = []
        for value in values:
            array = self.placement.arrays[id(value)]
            name = self.array(array)
            own = array.memory.kind == "fresh" or id(value) in self.placement.given
            names.append(name if own and name not in names else f"{name}.copy()")
        return names

    def residuals(self) -> list[str]:
        """What the forward half makes anew at each call and the backward half reads."""
        placement, program = self.placement, self.program
        made = {id(s.out) for s in placement.steps if not s.op.backward and s.out.memory.kind in ("made", "fresh")}
        read = [a for op in program.ops if op.backward for a in op.operands()]
        read += [v for v in program.gradients if v is not None]
        tops = (placement.arrays[id(a)].top for a in read)
        return list(dict.fromkeys(top.name for top in tops if id(top) in made))


def _needs_name(v: Any) -> bool:
    if type(v) is float and not math.isfinite(v):  # inf and nan are no words of Python
        return True
    return not (v is None or type(v) in (bool, int, float, str) or (type(v) is tuple and not any(map(_needs_name, v))))


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
    writer = Writer(program, path_of, [name for insertion in insertions for name in insertion.bound])
    update = [line for insertion in insertions for line in insertion.lines]
    functions = assembled(writer, joint, update, apart)
    bound = dict(writer.bound)
    for insertion in insertions:
        bound.update(insertion.bound)
    source = "\n".join([*([f"# {title}"] if title else []), with_head(writer, functions, bound)])
    namespace = {name: np.dtype(name).type for name in sorted(writer.dtypes)}
    return Emitted(writer, source, f"compiled {title or 'program'}", bound, namespace)


def assembled(writer: Writer, joint: bool, update: Sequence[str] = (), apart: bool = False) -> list[str]:
    """The functions of a program, and what `make` returns, as lines."""
    program, steps = writer.program, writer.placement.steps
    lines: list[str] = []

    def function(name: str, arguments: Sequence[str], body: Sequence[str]) -> None:
        lines.extend(["", f"def {name}({', '.join(arguments)}):", *(f"    {line}" for line in body)])

    names = {id(v): writer.placement.arrays[id(v)].name for v in (*program.inputs, *program.seeds)}
    inputs, seeds = ([names[id(v)] for v in values] for values in (program.inputs, program.seeds))
    if joint:
        body = writer.half(steps, "one_step")
        last = f"return ({_joined(writer.handed(program.outputs))}), ({_joined(_effects(writer))})"
        function("step", inputs, [*body, *([] if apart else update), last])
        if apart:
            function("update", [], [*update, "return"])
        return [*lines, "", f"return {_joined(['step', *(['update'] if apart else [])])}"]
    residuals = writer.residuals()
    body = writer.half([s for s in steps if not s.op.backward], "go_forward")
    outputs, effects = _joined(writer.handed(program.outputs)), _joined(_effects(writer))
    function("forward", inputs, [*body, f"return ({outputs}), ({effects}), ({_joined(residuals)})"])
    body = writer.half([s for s in steps if s.op.backward], "go_back")
    found = iter(writer.handed([v for v in program.gradients if v is not None]))
    gradients = [("None" if v is None else next(found)) for v in program.gradients]
    function("backward", [*inputs, *seeds, *residuals], [*body, f"return ({_joined(gradients)})"])
    return [*lines, "", "return forward, backward"]


def with_head(writer: Writer, functions: Sequence[str], bound: Mapping[str, Any]) -> str:
    """The source of the function `make`, which binds the functions to arrays."""
    leaves = [writer.array(writer.placement.arrays[id(v)]) for v in writer.program.leaves]
    places = [place.name for place in writer.program.places.values()]
    return "\n".join(
        [
            f"def make({', '.join(['memory', *leaves, *places, *bound])}):",
            *(f"    {line}" for line in writer.arrays),
            *(f"    {line}" if line else "" for line in functions),
            "",
        ]
    )


def _effects(writer: Writer) -> list[str]:
    return writer.handed([effect.value for effect in writer.program.effects])


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names) + ("," if len(names) == 1 else "")
