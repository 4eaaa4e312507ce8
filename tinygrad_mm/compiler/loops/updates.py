"""An optimizer's formula as one loop over flat arrays: each element is loaded, updated and stored once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.loops.elementwise_code import cast, number, scalar_of, typename
from tinygrad_mm.compiler.loops.native import native, threads
from tinygrad_mm.compiler.program import Value
from tinygrad_mm.compiler.sources import execute

__all__ = ["Update", "elements"]

PARALLEL_FROM = 1 << 17  # elements: below, waking a second thread costs more than it saves

_WORDS = frozenset({"abs", "count", "i", "maximum", "minimum", "pointer_at", "range", "float32", "float64"})


class Update:
    """The update of pieces of flat arrays by a traced formula (an `optim.formula.Formula`).

    `arrays` are the parameters and their states; `numbers` are arrays of one element that are written before each step;
    `pieces` are (start, stop), and `gradients` lists for each a contiguous array. `run` makes the update where a
    formula has no loop.

    The loop finds everything by address: `rows` has one for each piece, with the addresses of the arrays that the loop
    reads, in the order of its parameters, and the number of elements. So the update has to be kept.
    """

    def __init__(
        self,
        formula: Any,
        arrays: Sequence[Any],
        numbers: Sequence[Any],
        pieces: Sequence[tuple[int, int]],
        gradients: Sequence[Any],
        run: Callable[[], None] | None = None,
    ) -> None:
        self.formula, self.run = formula, run
        self.dtype = np.dtype(arrays[0].dtype)
        single = [*numbers, *(np.asarray(c, self.dtype) for c in formula.code.constants.values())]
        self.flat = 1 + len(arrays)  # so many of the arrays are flat
        self.kept = [arrays, gradients, single]
        rows = []
        for (start, stop), gradient in zip(pieces, gradients, strict=True):
            parameters, *states = (array[start:stop] for array in arrays)
            rows.append([*map(address, (parameters, gradient, *states, *single)), stop - start])
        self.rows = np.array(rows, np.int64).reshape(-1, self.flat + len(single) + 1)

    def elements(self) -> str | None:
        """The function that updates neighbouring elements; None for a formula with operations that are not known."""
        return elements(self.formula, self.dtype)

    def driver(self, elements: str, threads: int) -> tuple[str, str]:
        """(decorator, function that updates all pieces) by the function called `elements`.

        With several threads each takes one stretch of every piece.
        """
        parallel = threads > 1 and int(self.rows[:, -1].sum()) >= PARALLEL_FROM
        parts, last = threads if parallel else 1, self.rows.shape[1] - 1
        places = [f"uint64(rows[i, {k}]{f' + a * {self.dtype.itemsize}' * (k < self.flat)})" for k in range(last)]
        lines = [
            "(rows):",
            f"    for part in {'prange' if parallel else 'range'}({parts}):",
            "        for i in range(len(rows)):",
            f"            a, b = rows[i, {last}] * part // {parts}, rows[i, {last}] * (part + 1) // {parts}",
            f"            {elements}({', '.join([*places, 'b - a'])})",
        ]
        return "parallel" if parallel else "loop", "\n".join(lines)

    def loop(self) -> Callable[[], None]:
        """The update as a compiled function, for a formula that has a loop: one for all such updates."""
        text = self.elements()
        assert text is not None
        function = _compiled(text, *self.driver("update_elements", threads()))
        return lambda: function(self.rows)


def address(array: Any) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


@functools.lru_cache(64)
def elements(formula: Any, dtype: Any) -> str | None:
    """A formula as a function of the addresses of arrays and numbers, and a count; None where it has no loop."""
    if dtype not in (np.float32, np.float64) or formula.whole:
        return None
    kind, code, program = typename(dtype), formula.code, formula.program
    constants = {number: name for name, number in code.constants.items()}
    numbers = [_own(name) for name in (*code.numbers, *constants.values())]
    names: dict[int, str] = {id(v): _own(v.name) for v in program.inputs}
    lines: list[str] = []
    for op in program.ops:
        names[id(op.result)] = f"v{len(lines)}"
        args = [_Typed(dtype, names[id(a)], a) if isinstance(a, Value) else a for a in op.args]
        scalar = None if op.kwargs else scalar_of(op.fun, args, _Typed(dtype, "", op.result).dtype, 1)
        if scalar is None:
            return None
        operands = []
        for a, takes in zip(scalar.operands, scalar.takes, strict=True):
            if isinstance(a, _Typed):
                operands.append(cast(a.name, a.dtype, takes))
            else:
                operands.append(constants.get(a) or number(a, takes))
        lines.append(f"v{len(lines)} = {scalar.text(operands)}")
    arrays = [_own(name) for name in code.arguments]
    pairs = zip(formula.replaced, program.outputs, strict=True)
    stores = [f"{_own(home.name)}_at[i] = {names[id(output)]}" for home, output in pairs if home is not output]
    body = [
        *(f"{name} = pointer_at({name}_address, {kind})[0]" for name in numbers),
        *(f"{name}_at = pointer_at({name}_address, {kind})" for name in arrays),
        "for i in range(count):",
        *(f"    {name} = {name}_at[i]" for name in arrays),
        *(f"    {line}" for line in [*lines, *stores]),
    ]
    parameters = ", ".join([*(f"{name}_address" for name in (*arrays, *numbers)), "count"])
    return "\n".join([f"({parameters}):", *(f"    {line}" for line in body)])


class _Typed:
    """A Value of a formula, which was traced in double precision, in another dtype."""

    def __init__(self, dtype: Any, name: str, value: Value) -> None:
        self.dtype, self.name = value.dtype if value.dtype == np.bool_ else dtype, name


def _own(name: str) -> str:
    """A formula's name as it is called in the loop, which has names of its own."""
    return f"{name}_" if name in _WORDS or name.endswith(("_at", "_address")) else name


@functools.cache
def _compiled(elements: str, kind: str, driver: str) -> Callable[..., None]:
    """The function that a driver's text is; Numba compiles it when it is first called."""
    source = f"@loop\ndef update_elements{elements}\n\n@{kind}\ndef update_parameters{driver}\n"
    namespace = {"math": math, **native()}
    execute(source, "update", namespace, native)
    function: Callable[..., None] = namespace["update_parameters"]
    return function
