"""An optimizer's formula as one loop over flat arrays: each element is loaded, updated and stored once."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.compiler.loops.scalars import typename

__all__ = ["Update"]

PARALLEL_FROM = 1 << 17  # elements: below, waking a second thread costs more than it saves
BLOCK = 1 << 15

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


@dataclass
class Update:
    """The update of pieces of flat arrays by a traced formula (an `optim.formula.Program`).

    `arrays` are the parameters, their gradients and the states; `numbers` are arrays of one element that are written
    before each step; `pieces` are (start, stop).
    """

    formula: Any
    arrays: Sequence[Any]
    numbers: Sequence[Any]
    pieces: Sequence[tuple[int, int]]

    def text(self, threads: int) -> tuple[str, str] | None:
        """(decorator, function of addresses, start and stop); None for a formula with operations that are not known.

        With several threads each takes one stretch.
        """
        tree = ast.parse(self.formula.source)
        function = next(f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "update")
        names = [a.arg for a in function.args.args]
        kind = typename(self.arrays[0].dtype)
        arrays = names[: len(self.arrays)]
        numbers = names[len(arrays) : len(arrays) + len(self.numbers)]
        constants = names[len(arrays) + len(numbers) :][: len(self.formula.constants)]
        known = {c: f"{kind}({v!r})" for c, v in zip(constants, self.formula.constants, strict=True)}
        lines, written = [], dict.fromkeys(arrays[:1])
        for statement in function.body:
            found = _statement(statement, kind, known)
            if found is None:
                return None
            if found:
                out, line = found
                lines.append(line)
                if out in arrays:
                    written[out] = None
        inner = [
            *(f"{name} = {name}_at[i]" for name in arrays),
            *lines,
            *(f"{name}_at[i] = {name}" for name in written),
        ]
        pointers = [f"{name}_at = pointer_at({name}_address, {kind})" for name in arrays]
        head = [f"{name} = pointer_at({name}_address, {kind})[0]" for name in numbers]
        parallel = threads > 1 and max(stop - start for start, stop in self.pieces) >= PARALLEL_FROM
        if parallel:
            body = [
                *head,
                f"for part in prange({threads}):",
                *(f"    {line}" for line in pointers),
                f"    first = start + (stop - start) * part // {threads}",
                f"    last = start + (stop - start) * (part + 1) // {threads}",
                "    for i in range(first, last):",
                *(f"        {line}" for line in inner),
            ]
        else:
            body = [*head, *pointers, "for i in range(start, stop):", *(f"    {line}" for line in inner)]
        parameters = ", ".join(f"{name}_address" for name in [*arrays, *numbers])
        signature = f"({parameters}, start, stop):"
        return "parallel" if parallel else "update", "\n".join([signature, *(f"    {line}" for line in body)])

    def run(self) -> None:
        """The same in NumPy calls, for a formula that has no loop."""
        longest = min(BLOCK, max(stop - start for start, stop in self.pieces))
        dtype = self.arrays[0].dtype
        temporaries = [np.empty(longest, dtype) for _ in range(self.formula.temporaries)]
        constants = [np.asarray(c, dtype) for c in self.formula.constants]
        for start, stop in self.pieces:
            for a in range(start, stop, BLOCK):
                b = min(a + BLOCK, stop)
                self.formula.update(
                    *(array[a:b] for array in self.arrays),
                    *self.numbers,
                    *constants,
                    *(t[: b - a] for t in temporaries),
                )


def _statement(statement: ast.stmt, kind: str, known: dict[str, str]) -> tuple[str, str] | tuple[()] | None:
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
    names = [known.get(a.id, a.id) for a in operands if isinstance(a, ast.Name)]
    if (form.count("{2}") and len(names) != 3) or "None" in names:
        return None
    return out.id, f"{out.id} = {form.format(*names, t=kind)}"
