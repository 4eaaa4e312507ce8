"""An optimizer's formula as one loop over flat arrays: each element is loaded, updated and stored once."""

from __future__ import annotations

import ast
import functools
import linecache
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.loops.native import native, threads
from tinygrad_mm.compiler.loops.scalars import typename

__all__ = ["Update", "elements"]

PARALLEL_FROM = 1 << 17  # elements: below, waking a second thread costs more than it saves
BLOCK = 1 << 15

_WORDS = frozenset({"abs", "count", "i", "maximum", "minimum", "pointer_at", "range", "float32", "float64"})
_FORMS: dict[str, str] = {
    "add": "({0} + {1})",
    "subtract": "({0} - {1})",
    "multiply": "({0} * {1})",
    "divide": "({0} / {1})",
    "negative": "(-{0})",
    "positive": "{0}",
    "copyto": "{0}",
    "square": "({0} * {0})",
    "sqrt": "math.sqrt({0})",
    "absolute": "abs({0})",
    "fabs": "abs({0})",
    "reciprocal": "({t}(1) / {0})",
    "maximum": "maximum({0}, {1})",
    "minimum": "minimum({0}, {1})",
    "sign": "({0} if {0} != {0} else {t}({0} > {t}(0)) - {t}({0} < {t}(0)))",
    "where": "({1} if {0} != {t}(0) else {2})",
    "greater": "{t}({0} > {1})",
    "greater_equal": "{t}({0} >= {1})",
    "less": "{t}({0} < {1})",
    "less_equal": "{t}({0} <= {1})",
    "equal": "{t}({0} == {1})",
    "not_equal": "{t}({0} != {1})",
    "logical_and": "{t}(({0} != {t}(0)) & ({1} != {t}(0)))",
    "logical_or": "{t}(({0} != {t}(0)) | ({1} != {t}(0)))",
    "logical_not": "{t}({0} == {t}(0))",
    "exp": "math.exp({0})",
    "log": "math.log({0})",
    "tanh": "math.tanh({0})",
}


class Update:
    """The update of pieces of flat arrays by a traced formula (an `optim.formula.Program`).

    `arrays` are the parameters and their states; `numbers` are arrays of one element that are written before each step;
    `pieces` are (start, stop), and `gradients` lists for each a contiguous array, or None where `rows` is told later.
    Of plain gradient descent, `rate` is the learning rate, and `members` says by the names of gradients which elements
    they are for: a product of matrices may then be subtracted from a parameter as it is made (`leave_out`).

    The loop finds everything by address: `addressed` in its table, the pieces in `rows`, each (address of the gradient,
    start, number of elements).
    """

    def __init__(
        self,
        formula: Any,
        arrays: Sequence[Any],
        numbers: Sequence[Any],
        pieces: Sequence[tuple[int, int]],
        gradients: Sequence[Any],
        rate: Any = None,
        members: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.formula, self.arrays, self.numbers = formula, arrays, numbers
        self.pieces, self.gradients = list(pieces), list(gradients)
        self.rate, self.members = rate, dict(members or {})
        self.dtype = np.dtype(arrays[0].dtype)
        self.constants = [np.asarray(c, self.dtype) for c in formula.constants]
        self.addressed = [*arrays, *numbers, *self.constants]
        self.rows = self._rows()

    def _rows(self) -> Any:
        rows = [
            (0 if gradient is None else address(gradient), start, stop - start)
            for (start, stop), gradient in zip(self.pieces, self.gradients, strict=True)
        ]
        return np.array(rows, np.int64).reshape(-1, 3)

    def leave_out(self, start: int, stop: int) -> None:
        """Somebody else updates these elements, which lie in one piece."""
        pieces, gradients = [], []
        for (a, b), gradient in zip(self.pieces, self.gradients, strict=True):
            parts = [(a, start), (stop, b)] if a <= start and stop <= b else [(a, b)]
            for first, last in parts:
                if first < last:
                    pieces.append((first, last))
                    gradients.append(gradient[first - a : last - a])
        self.pieces, self.gradients = pieces, gradients
        self.rows = self._rows()

    def elements(self) -> str | None:
        """The function that updates neighbouring elements; None for a formula with operations that are not known."""
        return elements(self.formula, self.dtype)

    def driver(self, elements: str, threads: int) -> tuple[str, str]:
        """(decorator, function that updates all pieces) by the function called `elements`.

        Its arguments are the table of addresses, where in it ours begin, the address of `rows` and their number. With
        several threads each takes one stretch of every piece.
        """
        parallel = threads > 1 and int(self.rows[:, 2].sum()) >= PARALLEL_FROM
        parts, size = threads if parallel else 1, self.dtype.itemsize
        arrays = [f"table[first + {i}] + begin" for i in range(len(self.arrays))]
        numbers = [f"table[first + {i}]" for i in range(len(self.arrays), len(self.addressed))]
        gradient = f"uint64(row[3 * i] + a * {size})"
        lines = [
            "(table, first, rows, count):",
            f"    for part in {'prange' if parallel else 'range'}({parts}):",
            "        row = pointer_at(rows, int64)",
            "        for i in range(count):",
            f"            a, b = row[3 * i + 2] * part // {parts}, row[3 * i + 2] * (part + 1) // {parts}",
            f"            begin = uint64((row[3 * i + 1] + a) * {size})",
            f"            {elements}({', '.join([arrays[0], gradient, *arrays[1:], *numbers, 'b - a'])})",
        ]
        return "parallel" if parallel else "loop", "\n".join(lines)

    def loop(self) -> Callable[[], None]:
        """The update as a compiled function, for a formula that has a loop; it is compiled once for all such updates.

        It knows addresses only: the update has to be kept as long as it is called.
        """
        text = self.elements()
        assert text is not None
        table = np.array([address(a) for a in self.addressed], np.uint64)
        function = _compiled(text, *self.driver("update_elements", threads()))
        return functools.partial(function, table, 0, address(self.rows), len(self.rows))

    def run(self) -> None:
        """The same in NumPy calls, for a formula that has no loop."""
        longest = min(BLOCK, max((stop - start for start, stop in self.pieces), default=0))
        temporaries = [np.empty(longest, self.dtype) for _ in range(self.formula.temporaries)]
        values, *states = self.arrays
        for (start, stop), gradient in zip(self.pieces, self.gradients, strict=True):
            for a in range(start, stop, BLOCK):
                b = min(a + BLOCK, stop)
                self.formula.update(
                    values[a:b],
                    gradient[a - start : b - start],
                    *(state[a:b] for state in states),
                    *self.numbers,
                    *self.constants,
                    *(t[: b - a] for t in temporaries),
                )


def address(array: Any) -> int:
    """Where an array's first element lies."""
    return int(array.__array_interface__["data"][0])


@functools.lru_cache(64)
def elements(formula: Any, dtype: Any) -> str | None:
    """A formula as a function of the addresses of arrays and numbers, and a count; None where it has no loop."""
    if dtype not in (np.float32, np.float64):
        return None
    tree = ast.parse(formula.source)
    function = next(f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "update")
    kind = typename(dtype)
    names = [_own(a.arg) for a in function.args.args]
    names = names[: len(names) - formula.temporaries]
    cut = len(names) - formula.numbers - len(formula.constants)
    arrays, numbers = names[:cut], names[cut:]
    lines, written = [], dict.fromkeys(arrays[:1])
    for statement in function.body:
        found = _statement(statement, kind)
        if found is None:
            return None
        if found:
            out, line = found
            lines.append(line)
            if out in arrays:
                written[out] = None
    body = [
        *(f"{name} = pointer_at({name}_address, {kind})[0]" for name in numbers),
        *(f"{name}_at = pointer_at({name}_address, {kind})" for name in arrays),
        "for i in range(count):",
        *(f"    {name} = {name}_at[i]" for name in arrays),
        *(f"    {line}" for line in lines),
        *(f"    {name}_at[i] = {name}" for name in written),
    ]
    parameters = ", ".join([*(f"{name}_address" for name in names), "count"])
    return "\n".join([f"({parameters}):", *(f"    {line}" for line in body)])


def _own(name: str) -> str:
    """A formula's name as it is called in the loop, which has names of its own."""
    return f"{name}_" if name in _WORDS or name.endswith(("_at", "_address")) else name


@functools.cache
def _compiled(elements: str, kind: str, driver: str) -> Callable[..., None]:
    """The function that a driver's text is; Numba compiles it when it is first called."""
    source = f"@loop\ndef update_elements{elements}\n\n@{kind}\ndef update_parameters{driver}\n"
    filename = f"<update {hash(source) & 0xFFFFFFFF:08x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {"math": math, **native()}
    exec(compile(source, filename, "exec"), namespace)
    function: Callable[..., None] = namespace["update_parameters"]
    return function


def _statement(statement: ast.stmt, kind: str) -> tuple[str, str] | tuple[()] | None:
    """(what is assigned, the line) of one statement of a formula; () for none, None for an unknown one."""
    if isinstance(statement, ast.Pass):
        return ()
    out: Any = None
    call: Any = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return None
    operands: list[ast.expr] = list(call.args)
    if isinstance(statement, ast.Assign):
        target = statement.targets[0]
        out = target.value if isinstance(target, ast.Subscript) else None
        if call.keywords:
            return None
    elif call.func.id == "copyto":
        out, operands = operands[0], operands[1:]
    elif call.keywords:
        if [k.arg for k in call.keywords] != ["out"]:
            return None
        out = call.keywords[0].value
    else:
        *operands, out = operands
    form = _FORMS.get(call.func.id)
    if form is None or not isinstance(out, ast.Name) or not all(isinstance(a, ast.Name) for a in operands):
        return None
    names = [_own(a.id) for a in operands if isinstance(a, ast.Name)]
    if form.count("{2}") and len(names) != 3:
        return None
    return _own(out.id), f"{_own(out.id)} = {form.format(*names, t=kind)}"
