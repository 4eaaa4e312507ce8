"""A program of elementwise calls on arrays of one length, written as NumPy calls that work in place.

This is how an optimizer's formula is lowered: its outputs are the new values of some of its inputs, and each call
writes to memory that nothing reads any more, that of an input which is going to be replaced if it can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.graph import name_of

__all__ = ["InPlace"]

_NAMED_OUT = frozenset({np.maximum, np.minimum})  # NumPy deprecates their third positional argument


class InPlace:
    """The statements of `program`, whose k-th output is the new value of the input `replaced[k]`.

    `arguments` are the names of the inputs of one dimension, `numbers` those of the 0-d inputs that are read;
    `constants` the numbers in the program by name, `temporaries` the dtypes of further arrays by name, `functions` what
    the statements call.
    """

    def __init__(self, program: Program, replaced: Sequence[Value]) -> None:
        self.arguments = [v.name for v in program.inputs if v.ndim]
        self.constants: dict[str, float] = {}
        self.temporaries: dict[str, Any] = {}
        self.functions: dict[str, Any] = {}
        self._statements: list[tuple[str, list[tuple[str, str]]]] = []  # function, operands: (keyword=, name)
        self._names = {id(v): v.name for v in program.inputs}
        self._home = [v.name for v in replaced]
        self._ops, self._outputs = _copied(program, replaced)
        self._last: dict[int, int] = {}
        self._readers: dict[int, list[Op]] = {}
        for i, op in enumerate(self._ops):
            for a in {id(a): a for a in op.operands()}.values():
                self._last[id(a)] = i
                self._readers.setdefault(id(a), []).append(op)
        self._last.update({id(v): len(self._ops) for v in self._outputs})
        self._resident = {v.name: v for v in program.inputs if v.ndim}  # what each array holds
        for i, op in enumerate(self._ops):
            self._write(op, i)
        for home, output in zip(replaced, self._outputs, strict=True):
            if self._names[id(output)] != home.name:
                self._line("copyto", np.copyto, home.name, self._names[id(output)])
        read = {id(a) for op in self._ops for a in op.operands()}
        self.numbers = [v.name for v in program.inputs if not v.ndim and id(v) in read]
        self._all = set(self.parameters)

    @property
    def parameters(self) -> list[str]:
        """All names that the lines use, in the order of a function's parameters."""
        return [*self.arguments, *self.numbers, *self.constants, *self.temporaries]

    def lines(self, renamed: Callable[[str], str] = str) -> list[str]:
        """The statements, with the names of arrays, numbers and functions as `renamed` has them."""
        found = []
        for function, operands in self._statements:
            written = [f"{keyword}{renamed(text) if text in self._all else text}" for keyword, text in operands]
            found.append(f"{renamed(function)}({', '.join(written)})")
        return found

    def _line(self, name: str, function: Any, *operands: str | tuple[str, str]) -> None:
        self.functions[name] = function
        self._statements.append((name, [a if isinstance(a, tuple) else ("", a) for a in operands]))

    def _write(self, op: Op, i: int) -> None:
        operands = [self._operand(a) for a in op.args]
        out = self._memory(op, i)
        self._names[id(op.result)], self._resident[out] = out, op.result
        if op.fun is np.where:
            self._line("copyto", np.copyto, out, operands[2])
            self._line("copyto", np.copyto, out, operands[1], ("where=", operands[0]))
        elif op.fun is np.positive:
            self._line("copyto", np.copyto, out, operands[0])
        else:
            options = [(f"{k}=", repr(v)) for k, v in op.kwargs.items()]
            keyword = "out=" if op.fun in _NAMED_OUT or options else ""
            self._line(name_of(op.fun), op.fun, *operands, *options, (keyword, out))

    def _memory(self, op: Op, i: int) -> str:
        """Where a result is written: to what it replaces in the end, its own or its only reader's, if that is free."""
        readers = self._readers.get(id(op.result), [])
        between = len(readers) == 1 and not any(v is op.result for v in self._outputs)
        becomes = readers[0].result if between else op.result
        for home, output in zip(self._home, self._outputs, strict=True):
            if output is becomes and becomes.dtype == op.result.dtype and self._is_free(home, op, i):
                return home
        for name, dtype in self.temporaries.items():
            if dtype == op.result.dtype and self._is_free(name, op, i):
                return name
        name = f"t{len(self.temporaries)}"
        self.temporaries[name] = op.result.dtype
        return name

    def _is_free(self, name: str, op: Op, i: int) -> bool:
        """Whether nothing reads an array's content after the i-th call, which may be the last to do so.

        `where` is two statements, of which the first writes; it reads one operand and the mask after that.
        """
        held = self._resident[name]
        return self._last.get(id(held), -1) <= i and not (op.fun is np.where and any(held is a for a in op.args[:2]))

    def _operand(self, a: Any) -> str:
        if isinstance(a, Value):
            return self._names[id(a)]
        if a is None or isinstance(a, bool):
            return repr(a)
        known = [name for name, number in self.constants.items() if number == a and str(number) == str(float(a))]
        name = known[0] if known else f"c{len(self.constants)}"
        self.constants[name] = float(a)
        return name


def _copied(program: Program, replaced: Sequence[Value]) -> tuple[list[Op], list[Value]]:
    """Calls and outputs, with a call of its own for an input that becomes another one's value, and for an output that
    two inputs get: it has to happen before the input is overwritten.
    """
    ops, seen = list(program.ops), {id(v) for v in program.inputs}
    outputs: list[Value] = []
    for home, output in zip(replaced, program.outputs, strict=True):
        if output is not home and id(output) in seen:
            output = Value(output.example)
            ops.append(Op(np.positive, [program.outputs[len(outputs)]], {}, output))
        seen.add(id(output))
        outputs.append(output)
    return ops, outputs
