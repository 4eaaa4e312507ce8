"""The parts of a program as text: names and places of arrays, compiled functions, and the calls between them."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.kernel import free_name, looked_at
from tinygrad_mm.compiler.kernels import Kernel, View, kernel_of, weak
from tinygrad_mm.compiler.loops.entropy import Entropy
from tinygrad_mm.compiler.loops.memory import Memory
from tinygrad_mm.compiler.loops.native import native, threads
from tinygrad_mm.compiler.loops.nest_text import nest_text
from tinygrad_mm.compiler.loops.nests import Nest
from tinygrad_mm.compiler.loops.products import Product
from tinygrad_mm.compiler.loops.scalars import typename
from tinygrad_mm.compiler.loops.schedule import Call, Schedule
from tinygrad_mm.compiler.loops.updates import Update, address
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.graph import RULES, Scope, name_of

__all__ = ["Writer"]

# fmt: off
_WORDS = frozenset({
    "np", "math", "memory", "table", "copies", "copy", "array", "copyto", "array_in", "empty", "asarray", "whole",
    "refuse", "failed", "step", "make", "forward", "backward",
})
# fmt: on
_ITEMS_IN_ONE = 200  # calls in one compiled function: the compiler's time grows faster than the program


class _Binder:
    """What kernels are given: names of functions and arrays; views of arrays are made where they are used."""

    def __init__(self, bind: Callable[..., str]) -> None:
        self._bind = bind

    def __call__(self, what: Any, stem: str = "") -> str:
        return self._bind(what, stem)

    def seen(self, name: str, suffix: str, stem: str = "") -> str:
        return looked_at(name, suffix)

    def is_contiguous(self, name: str) -> bool:
        return False


class Writer:
    """Collects the functions of one program."""

    def __init__(self, program: Program, path_of: Callable[[Scope | None], str], joint: bool) -> None:
        self.program, self.path_of, self.joint = program, path_of, joint
        given = {key: place.name for key, place in program.places.items()}
        self.schedule = Schedule(program, joint, given)
        self.given = self.schedule.given
        self.accesses = self.schedule.accesses
        self.taken: set[str] = {*_WORDS, *keyword.kwlist, *dir(builtins), *given.values(), *native()}
        self.bound: dict[str, Any] = {}
        self.fixed: list[Any] = []  # constants, which have a place in the table
        self.updates: list[Update] = []
        self.descents: dict[int, tuple[Value, Value]] = {}  # id of a gradient -> parameter, learning rate
        self.pieces: dict[str, list[tuple[Any, int, bool]]] = {}
        self.arrays: list[tuple[str, str]] = []  # made once: name, how
        self._functions: dict[tuple[str, str], str] = {}
        self._names: dict[Any, str] = {}
        self._keep: list[Any] = []
        self._name_values()
        self._plan()

    # -- names and places

    def name(self, stem: str) -> str:
        """A name that is not taken."""
        name = free_name(stem, self.taken)
        self.taken.add(name)
        return name

    def bind(self, what: Any, stem: str = "") -> str:
        """The name by which Python code calls a function or an array."""
        key: Any = id(what)
        if isinstance(what, np.ndarray):
            key = ("array", what.shape, what.dtype.str, what.tobytes() if what.size <= 4096 else id(what))
        if key not in self._names:
            self._names[key] = name = self.name(stem or name_of(what))
            self.bound[name] = what
            self._keep.append(what)
        return self._names[key]

    def _name_values(self) -> None:
        """Names of the arrays that are there from the beginning, and their numbers in the table."""
        program = self.program
        self.home: dict[int, str] = {}  # names in Python code
        self.number: dict[int, int] = {}
        self.inputs = [*program.inputs, *program.seeds]
        for value in self.inputs:
            self.home[id(value)] = self.name(value.name or "x")
        for value in program.leaves:
            self.number[id(value)] = len(self.number)
            self.home[id(value)] = self.name(value.name or "leaf")
        count = len(self.number)
        for i, (key, name) in enumerate(self.given.items()):
            self.number[key] = count + i
            self.home[key] = name
        roots = {id(self.accesses.root(a)): self.accesses.root(a) for a in _read(program) if a.shape is not None}
        for key, root in roots.items():
            if root.kind == "constant" and key not in self.number:
                self.number[key] = count + len(self.given) + len(self.fixed)
                self.fixed.append(root.example)
                self.home[key] = self.name("c")
        self.fixed_names = [self.home[key] for key, root in roots.items() if root.kind == "constant"]
        self.always = set(self.number)  # what Python code finds under one name at each call

    def _plan(self) -> None:
        """Which results are in memory, which are arrays made at each call."""
        program, schedule = self.program, self.schedule
        self.fresh: dict[int, Value] = {}
        self.python: set[int] = set()  # results of calls that make an array each time
        scratch: dict[int, list[Value]] = {}
        self.scratch: dict[int, list[Value]] = {}
        later = {id(root) for reads in schedule.reads[schedule.middle :] for root in reads}
        handed = [(v, False) for v in program.outputs] + [(e.value, False) for e in program.effects]
        handed += [(v, True) for v in program.gradients if v is not None]
        until: dict[int, int] = {}
        for value, backward in handed:
            root = self.accesses.root(value) if value.shape is not None else value
            end = len(schedule.items) if backward or self.joint else schedule.middle
            until[id(root)] = max(until.get(id(root), 0), end)
            made = schedule.made.get(id(root), -1)
            own_half = self.joint or backward == (made >= schedule.middle)
            large = value.shape is not None and value.size > 32 and id(root) not in self.given
            if root is value and made >= 0 and own_half and large and (backward or id(root) not in later or self.joint):
                self.fresh[id(root)] = root
        for number, item in enumerate(schedule.items):
            if isinstance(item, Call):
                result, kernel = item.op.result, kernel_of(item.op)
                if not isinstance(kernel, Kernel) or result.shape is None:
                    if id(result) in self.given:
                        continue
                    self.python.add(id(result))
                    self.fresh.pop(id(result), None)
                elif kernel.scratch:
                    scratch[number] = [Value(np.empty(shape, dtype)) for shape, dtype in kernel.scratch]
                    self.scratch[id(item.op)] = scratch[number]
        elsewhere = {*self.fresh, *self.python, *self.given}
        self.memory = Memory(schedule, elsewhere, until, scratch)
        for key in self.fresh:
            made = schedule.made[key]
            self.home[key] = self.name("grad" if made >= schedule.middle and not self.joint else "out")

    # -- gradient descent

    def descend(self, update: Update) -> None:
        """Subtract products from parameters as they are made, where they are gradients that nothing else reads.

        By then, the parameter's memory has to be read for the last time, by whatever name. Nothing that may fail may
        come later.
        """
        items, reads = self.schedule.items, self.schedule.reads
        gradients = {name: key for key, name in self.given.items()}
        wanted = {id(self.accesses.root(v)) for v in self.program.wanted()}
        parameters = {address(v.leaf.value): v for v in self.program.leaves if v.leaf is not None}
        rate: Value | None = None
        for name, (start, stop) in update.members.items():
            key = gradients.get(name, 0)
            number = self.schedule.made.get(key)
            parameter = parameters.get(address(update.arrays[0][start:]))
            if number is None or parameter is None or parameter.size != stop - start or key in wanted:
                continue
            product, elements = items[number], update.arrays[0][start:stop]
            later = [root for roots in reads[number:] for root in roots]
            held = [v.leaf.value if v.leaf is not None else v.example for v in later if v.kind in ("leaf", "constant")]
            if not isinstance(product, Product) or product.stack or any(id(root) == key for root in later):
                continue
            if any(np.may_share_memory(array, elements) for array in held):
                continue
            if any(isinstance(item, (Call, Entropy)) for item in items[number:]):
                continue
            if rate is None:
                rate = self._fixed(update.rate, "learning_rate")
            self.descents[key] = parameter, rate
            update.leave_out(start, stop)

    def _fixed(self, array: Any, name: str) -> Value:
        """An array that is there always, as a Value."""
        value = Value(array, "constant")
        self.number[id(value)] = len(self.number)
        self.fixed.append(array)
        self.home[id(value)] = self.name(name)
        self.fixed_names.append(self.home[id(value)])
        self._keep.append(value)
        return value

    # -- Python's view of a Value

    def array(self, value: Value) -> str:
        """An expression for a Value in Python code."""
        if id(value) in self.home:
            return self.home[id(value)]
        if value.shape is None:
            self.home[id(value)] = self.name("parts")
        elif id(value) in self.accesses.views:
            base, view = self.accesses.views[id(value)]
            text = view.text(self.array(base))
            if id(self.accesses.root(base)) not in self.always:
                return text  # of what is new at each call
            self.home[id(value)] = name = self.name("view")
            self.arrays.append((name, text))
        elif id(value) in self.memory.offset:
            self.home[id(value)] = name = self.name("t")
            start, end = self.memory.offset[id(value)], self.memory.offset[id(value)] + max(value.nbytes, 1)
            kind = self.bind(np.dtype(value.dtype), value.dtype.name)
            self.arrays.append((name, f"array_in(memory[{start}:{end}], {value.shape}, {kind})"))
            self.always.add(id(value))
        else:
            self.home[id(value)] = self.name("r")
        return self.home[id(value)]

    def call(self, op: Op) -> list[str]:
        """The statements of a NumPy call."""
        kernel, result = kernel_of(op), op.result
        operands = [self._operand(op, i) for i in range(len(op.args))]
        if isinstance(kernel, Kernel) and id(result) not in self.python:
            lines = []
            if id(result) in self.fresh:
                lines.append(self._allocation(result))
            scratch = [self.array(v) for v in self.scratch.get(id(op), [])]
            return lines + kernel.lines(self.array(result), operands, scratch, _Binder(self.bind))
        if isinstance(kernel, View):
            text = kernel.text(self.array(kernel.base))
        else:
            rule = RULES.get(op.fun)
            function = rule.forward if rule is not None else getattr(op.fun, "forward", op.fun)
            named = [f"{k}={self._literal(v)}" for k, v in op.kwargs.items()]
            text = f"{self.bind(function, name_of(op.fun))}({', '.join([*operands, *named])})"
        if result.shape is None:
            return [f"{self.array(result)} = {text}"]
        if id(result) in self.given:
            return [f"copyto({self.array(result)}, {text})"]
        return [f"{self.array(result)} = asarray({text}, order='C')"]

    def _allocation(self, value: Value) -> str:
        return f"{self.home[id(value)]} = empty({value.shape}, {self.bind(np.dtype(value.dtype), value.dtype.name)})"

    def _operand(self, op: Op, i: int) -> str:
        a = op.args[i]
        if isinstance(a, Value):
            return self.array(a)
        weakly = weak(op, i)
        return self._literal(a) if weakly is None else self.bind(weakly, "number")

    def _literal(self, a: Any) -> str:
        plain = (bool, int, str, type(None))
        if type(a) in plain or (type(a) is tuple and all(type(x) in plain for x in a)):
            return repr(a)
        return self.bind(a, "c")

    # -- compiled functions

    def function(self, title: str, parameters: list[str], body: str, kind: str = "loop") -> str:
        """The name of a compiled function with this body: one function for all nests that are the same."""
        text = f"({', '.join(parameters)}):\n" + "\n".join(f"    {line}" for line in body.splitlines())
        return self.function_of(title, text, kind)

    def calling(self, title: str, parameters: Sequence[str], places: Iterable[str], body: str) -> str:
        """The call of a compiled function with pointers.

        Parameters that point to one place become one parameter: of two, the compiler would have to expect that they
        overlap in some other way, and would not vectorize the loop.
        """
        first: dict[str, str] = {}
        for parameter, place in zip(parameters, places, strict=True):
            if first.setdefault(place, parameter) != parameter:
                body = re.sub(rf"\b{parameter}\b", first[place], body)
        return f"{self.function(title, list(first.values()), body)}({', '.join(first)})"

    def function_of(self, title: str, text: str, kind: str) -> str:
        if (kind, text) not in self._functions:
            self._functions[kind, text] = self.name(title)
        return self._functions[kind, text]

    def functions(self) -> list[str]:
        """The source of all compiled functions."""
        return [
            f"@{kind}\ndef {name}{text}\n" if kind else f"def {text}\n"
            for (kind, text), name in self._functions.items()
        ]

    def piece(self, items: list[Any], updates: Sequence[Update], title: str) -> list[str]:
        """Neighbouring items as one compiled function; returns the statements that call it."""
        arguments: dict[int, Value] = {}
        pointers: dict[str, str] = {}  # one for each place: results may be written over what nothing reads any more
        defined: list[str] = []
        lines: list[str] = []
        refusals: list[str] = []
        written: set[int] = set()
        outputs: dict[int, Value] = {}

        def pointer(root: Value, offset: int = 0) -> str:
            kind, skipped = typename(root.dtype), offset * root.dtype.itemsize
            if id(root) in self.number:
                where = f"pointer_at(table[{self.number[id(root)]}] + np.uint64({skipped}), {kind})"
            elif id(root) in self.memory.offset:
                where = f"pointer_in(memory, {self.memory.offset[id(root)] + skipped}, {kind})"
            else:
                arguments[id(root)] = root
                where = f"pointer_in({self.array(root)}, {skipped}, {kind})"
            if where not in pointers:
                pointers[where] = name = self.name(f"{self.home.get(id(root), 't')}_")
                defined.append(f"{name} = {where}  # {root.shape}")
            return pointers[where]

        here = None
        for item in items:
            op = item.ops[0] if isinstance(item, (Nest, Entropy)) else item.op
            path = self.path_of(op.scope) + (" (backward)" if op.backward else "")
            if path != here and path.strip():
                lines.append(f"# {path}")
            here = path
            made: list[Value] = []
            if isinstance(item, Nest):
                keep = {id(o.result) for o in item.ops if id(o.result) in self.memory.offset}
                keep |= {id(o.result) for o in item.ops if id(o.result) in self.given or id(o.result) in self.fresh}
                body, roots = nest_text(item, keep)
                parameters = [f"p{i}" for i in range(len(roots))]
                lines.append(self.calling(item.title(), parameters, map(pointer, roots), body))
                made = [o.result for o in item.ops if id(o.result) in keep]
            elif isinstance(item, Product):
                a, b = (self.accesses[v] for v in item.op.args)
                factors = pointer(a.root, a.offset), pointer(b.root, b.offset)
                if id(item.op.result) in self.descents:
                    parameter, rate = self.descents[id(item.op.result)]
                    lines.append(item.call(*factors, pointer(parameter), pointer(rate)))
                else:
                    lines.extend(item.lines(*factors, pointer(item.op.result)))
                    made = [item.op.result]
            else:
                lines.extend(self._entropy(item, pointer, refusals))
                made = item.results
            outputs.update({id(v): v for v in made if id(v) in self.fresh})
            written.update(id(v) for v in made)
        for update in updates:
            lines.extend(self._update(update))
        if not lines:
            return []
        name = self.name(title)
        values = list(arguments.values())
        names = [self.array(v) for v in values]
        self.function_of_piece(name, ["memory", "table", *names], [*defined, *lines, "return 0"])
        kinds = [(np.uint8, 1, True), (np.uint64, 1, False)]
        kinds += [(v.dtype, v.ndim, id(v) in written) for v in values]
        self.pieces[name] = kinds
        given = [n for n, v in zip(names, values, strict=True) if v.kind == "input"]
        call = f"{name}({', '.join(['memory', 'table', *names])})"
        call = f"failed = {call}" if refusals else call
        python = [self._allocation(v) for v in outputs.values()]
        if given:
            wholes = [f"{n} = whole({n})" for n in given]
            python += ["try:", f"    {call}", "except TypeError:  # elements with gaps between them"]
            python += [f"    {line}" for line in [*wholes, call]]
        else:
            python.append(call)
        for i, refusal in enumerate(refusals):
            python += [f"if failed == {i + 1}:", f"    {refusal}"]
        return python

    def function_of_piece(self, name: str, parameters: list[str], body: list[str]) -> None:
        """Note a function that Python calls."""
        text = f"({', '.join(parameters)}):\n" + "\n".join(f"    {line}" for line in body)
        self._functions["", name + text] = name

    def _entropy(self, item: Entropy, pointer: Callable[..., str], refusals: list[str]) -> list[str]:
        names = {"z": item.logits, "labels": item.labels, "lost": item.lost, "error": item.error, "scale": item.scale}
        present = {name: value for name, value in names.items() if value is not None}
        places = [pointer(self.accesses.root(v), self.accesses[v].offset) for v in present.values()]
        refusals.append(f"refuse({self.array(item.labels)}, {item.logits.shape[-1]})")
        call = self.calling("cross_entropy", list(present), places, item.text())
        return [f"if {call}:", f"    return {len(refusals)}"]

    def _update(self, update: Update) -> list[str]:
        elements = update.elements()
        assert elements is not None
        first = len(self.number) + sum(len(u.addressed) + 1 for u in self.updates)
        self.updates.append(update)
        kind, driver = update.driver(self.function_of("update_elements", elements, "loop"), threads())
        name = self.function_of("update_parameters", driver, kind)
        rows = f"table[{first + len(update.addressed)}]"
        constants = ", ".join(f"{name} = {c!r}" for name, c in update.formula.code.constants.items())
        title = f"# update{': ' * bool(constants)}{constants}"
        return [title, f"{name}(table, {first}, {rows}, {len(update.rows)})"]

    # -- halves

    def half(self, items: list[Any], title: str, updates: Sequence[Update] = ()) -> list[str]:
        """The Python statements for items in order."""
        lines: list[str] = []
        waiting: list[Any] = []
        known = [u for u in updates if u.elements() is not None]

        def flush(last: bool = False) -> None:
            lines.extend(self.piece(waiting, known if last else (), title))
            waiting.clear()

        for item in items:
            if isinstance(item, Call):
                flush()
                path = self.path_of(item.op.scope)
                lines.extend([f"# {path}"] if path.strip() else [])
                lines.extend(self.call(item.op))
            else:
                waiting.append(item)
                if len(waiting) >= _ITEMS_IN_ONE:
                    flush()
        flush(True)
        lines.extend(f"{self.bind(u.run, 'update')}()" for u in updates if u not in known)
        return lines

    def handed(self, values: Sequence[Value]) -> list[str]:
        """Results as they are handed out: new arrays as they are, once, all others copied."""
        names: list[str] = []
        for value in values:
            name = self.array(value)
            own = id(value) in self.fresh or id(value) in self.given
            names.append(name if own and name not in names else f"{name}.copy()")
        return names

    def crossing(self) -> list[str]:
        """What the forward half makes anew at each call and the backward half reads."""
        schedule = self.schedule
        names: dict[str, None] = {}
        reads = [root for roots in schedule.reads[schedule.middle :] for root in roots]
        reads += [self.accesses.root(v) for v in self.program.gradients if v is not None]
        for root in reads:
            made = schedule.made.get(id(root), -1)
            if 0 <= made < schedule.middle and (id(root) in self.python or id(root) in self.fresh):
                names[self.array(root)] = None
        return list(names)


def _read(program: Program) -> list[Value]:
    return [*(a for op in program.ops for a in op.operands()), *program.wanted()]
