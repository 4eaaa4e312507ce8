"""An optimizer's formula, a pure function of arrays, as a program.

An eager step calls the formula itself. Compiled steps trace it: once, on arrays of one element, into a program of the
compiler's, which becomes NumPy calls that write in place (`print(optimizer.source)`) or a loop. Numbers that change
from step to step (the learning rate, the step number, options that follow a schedule) are inputs of the program, Python
floats, and what is computed of them alone is computed once a step, before the arrays.
"""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from keyword import iskeyword
from typing import Any

import numpy as np

from tinygrad_mm.compiler.inplace import InPlace
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.compiler.sources import execute
from tinygrad_mm.compiler.tracing import ops_of
from tinygrad_mm.graph import Vertex, entered, name_of
from tinygrad_mm.tensor import Tensor

__all__ = ["Formula", "Number", "WholeFormula", "replaced", "schedules_in", "trace_formula"]

# What a call on numbers alone becomes: on Python floats, Python's operators are much faster than NumPy's functions.
_OF_NUMBERS: dict[Any, str] = {
    np.add: "{} + {}",
    np.subtract: "{} - {}",
    np.multiply: "{} * {}",
    np.divide: "{} / {}",
    np.power: "{} ** {}",
    np.negative: "-{}",
    np.sqrt: "math.sqrt({})",
}


class Number(float):
    """The number that a scheduled option has at one step.

    It is true even where it is 0, so that `if momentum:` in a formula asks whether there is momentum at all, and takes
    the same branch at every step.
    """

    def __bool__(self) -> bool:
        return True

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Beside arrays it is a number of Python's, which does not change their dtype."""
        return getattr(ufunc, method)(*(float(a) if isinstance(a, Number) else a for a in inputs), **options)


class _TracedNumber(Tensor):
    """A `Number` while the formula is traced."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


class Formula:
    """A traced formula.

    `program` is a program on arrays of one element: its inputs are the parameter, the gradient, the states and the
    numbers that `scalars` computes, its outputs the new parameter and states. `code` is the same program as calls that
    write in place, for arrays of any floating dtype. `source` is the text of two functions, `scalars(*numbers)` and
    `update(*arrays, *scalars)`. `reads_step`: whether these numbers depend on the step number, as Adam's do.
    """

    whole = False  # it treats each element alone

    def __init__(
        self,
        arrays: Mapping[str, Tensor],
        numbers: Mapping[str, Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        self._values = {id(t): Value(t.value, "input", name) for name, t in {**arrays, **numbers}.items()}
        lines: list[str] = []
        self._read: set[str] = set()  # names of the numbers that other numbers are computed from
        self._names: dict[str, Any] = {"math": math, "inf": math.inf, "nan": math.nan}
        self.program = program = Program()
        for op in self._calls(outputs):
            _check_elementwise(op)
            if op.result.ndim:
                program.ops.append(op)
            else:
                op.result.kind, op.result.name = "input", f"s{len(lines)}"
                lines.append(f"{op.result.name} = {self._number(op)}")
        program.inputs = [v for v in self._values.values() if v.kind == "input"]
        program.outputs = [self._value(t) for t in outputs]
        self.code = code = InPlace(program, self.replaced)
        for name in (*arrays, *numbers):
            if name in self._names or name in code.functions or re.fullmatch(r"[cst]\d+", name):
                raise ValueError(f"a state or option cannot be called {name!r}: the update itself uses that name")
        self.source = "\n".join(
            [
                f"def scalars({', '.join(numbers)}):",
                *(f"    {line}" for line in lines),
                f"    return ({', '.join(code.numbers)}{',' * (len(code.numbers) == 1)})",
                "",
                f"def update({', '.join(code.parameters)}):",
                *(f"    {line}" for line in code.lines() or ["pass"]),
            ]
        )
        namespace = {**self._names, **code.functions}
        execute(self.source, "formula", namespace, self)
        self.scalars: Callable[..., tuple[float, ...]] = namespace["scalars"]
        self.update: Callable[..., None] = namespace["update"]
        self.reads_step = "step" in self._read.union(code.numbers)
        self._values.clear()

    @property
    def replaced(self) -> list[Value]:
        """The inputs that the outputs replace: the parameter and the states."""
        return [v for v in self.program.inputs if v.ndim and v.name != "gradient"]

    def _calls(self, outputs: Sequence[Tensor]) -> list[Op]:
        def add(vertex: Vertex, value: Value) -> None:
            self._values[id(vertex)] = value

        return ops_of(outputs, self._value, add, 0)

    def _value(self, a: Vertex) -> Any:
        """The Value of a vertex; a Tensor that wraps a plain number is that number."""
        known = self._values.get(id(a))
        return known if known is not None else a.value.item() if not a.value.ndim else Value(a.value, "constant")

    def _number(self, op: Op) -> str:
        """A call on numbers alone, as an expression."""
        if any(isinstance(a, Value) and a.ndim for a in op.args):
            raise _not_elementwise(op)
        self._read.update(a.name for a in op.operands())
        operands = [a.name if isinstance(a, Value) else f"({a!r})" if a < 0 else repr(a) for a in op.args]
        template = _OF_NUMBERS.get(op.fun)
        if template is None:
            self._names[name_of(op.fun)] = op.fun
            options = [f"{k}={v!r}" for k, v in op.kwargs.items()]
            template = f"{name_of(op.fun)}({', '.join(['{}'] * len(operands) + options)})"
        return template.format(*operands)


class WholeFormula(Formula):
    """A formula that is given each parameter whole, in its shape: it is called as it is, and has no program."""

    whole = True
    reads_step = True

    def __init__(self, rule: Callable[..., Any]) -> None:
        self.program = Program()
        self.code = InPlace(self.program, [])
        self.source = textwrap.dedent(inspect.getsource(rule))
        self.scalars = lambda *numbers: ()


def _not_elementwise(op: Op) -> ValueError:
    return ValueError(
        f"{name_of(op.fun)} in a formula does not treat each element alone, and a formula is run on blocks that are "
        "not parameters; work such things out before the step, as clip_grad_norm does, or say whole = True in the class"
    )


def _check_elementwise(op: Op) -> None:
    elementwise = isinstance(op.fun, np.ufunc) and op.fun.signature is None and type(op.result.example) is not tuple
    if not (elementwise or op.fun in (np.where, np.clip)) or op.result.shape not in ((), (1,)):
        raise _not_elementwise(op)
    for a in op.operands():
        if a.kind == "constant" and a.ndim:
            raise ValueError(
                f"a formula holds an array of shape {a.shape}; it is run on blocks of all parameters, so "
                "make it a state"
            )


def schedules_in(options: Mapping[str, Any]) -> dict[str, Callable[[int], float]]:
    """The options that are schedules, by name; those inside a tuple are numbered.

    >>> list(schedules_in({"momentum": abs, "betas": (abs, 0.9), "epsilon": 0.1}))
    ['momentum', 'betas_0']
    """
    found: dict[str, Callable[[int], float]] = {}
    for name, value in options.items():
        if callable(value):
            found[name] = value
        elif type(value) is tuple:
            found.update(schedules_in({f"{name}_{i}": v for i, v in enumerate(value)}))
    return found


def replaced(name: str, value: Any, numbers: Mapping[str, Any]) -> Any:
    """An option with numbers in place of its schedules, by the names that `schedules_in` gives them."""
    if type(value) is tuple:
        return tuple(replaced(f"{name}_{i}", v, numbers) for i, v in enumerate(value))
    return numbers[name] if callable(value) else value


def trace_formula(
    formula: Callable[..., Any], states: Sequence[str], scalars: Sequence[str], options: Mapping[str, Any]
) -> Formula:
    """Trace `formula(parameter, gradient, *states, *scalars, **options)`, which returns (new parameter, *new states).

    Options that are schedules (callable) become further numbers, after `scalars` in the order of `schedules_in`.

    Raises ValueError for a formula that returns something else, or that does not treat each element alone.

    >>> def descent(parameter, gradient, learning_rate):
    ...     return (parameter - learning_rate * gradient,)
    >>> print(trace_formula(descent, [], ["learning_rate"], {}).source)
    def scalars(learning_rate):
        return (learning_rate,)
    <BLANKLINE>
    def update(parameter, gradient, learning_rate, t0):
        multiply(learning_rate, gradient, t0)
        subtract(parameter, t0, parameter)
    """
    scheduled = list(schedules_in(options))
    taken = {"parameter", "gradient", *scalars, *scheduled}
    for name in states:
        if not name.isidentifier() or iskeyword(name) or name in taken:
            raise ValueError(f"a state cannot be called {name!r}; choose a word of its own, such as mean_square")
        taken.add(name)
    arrays = {name: Tensor(np.ones(1)) for name in ("parameter", "gradient", *states)}
    numbers: dict[str, Any] = {name: Tensor(np.ones(())) for name in scalars}
    numbers |= {name: _TracedNumber(np.ones(())) for name in scheduled}
    with entered(tracing=True, recording=True, scope=None), np.errstate(all="ignore"):
        returned = formula(
            *arrays.values(),
            *(numbers[name] for name in scalars),
            **{name: replaced(name, value, numbers) for name, value in options.items()},
        )
        outputs = new_values(formula, returned, states)
        for place, output in zip(("parameter", *states), outputs, strict=True):
            if not isinstance(output, Tensor) or output.value.shape != (1,):
                what = "one number" if isinstance(output, Tensor) else f"a {type(output).__name__}"
                raise ValueError(
                    f"{name_of(formula)} returned {what} as the new {place}; compute it from the arrays it is given, "
                    f"element by element, or return {place} as it came"
                )
        return Formula(arrays, numbers, outputs)


def new_values(formula: Callable[..., Any], returned: Any, states: Sequence[str]) -> tuple[Any, ...]:
    """What a formula returned as a tuple: the new parameter and states. Raises ValueError for too few or many."""
    outputs = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
    if len(outputs) != 1 + len(states):
        raise ValueError(
            f"{name_of(formula)} returned {len(outputs)} values; it must return the new parameter and the new "
            f"{len(states)} states ({', '.join(states) or 'none'})"
        )
    return outputs
