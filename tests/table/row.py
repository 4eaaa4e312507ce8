"""The form of one row of the operation table: one way of calling one function, and what is true of that call.

A row says which function of `tinygrad_mm.graph.RULES` it stands for, which shapes and values its arguments may have,
and what NumPy itself refuses there. `tests/test_operations.py` draws arguments for every row and checks every property.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.graph import name_of

Domain = tuple[float, float]


class Row:
    """One way of calling one function.

    `fun`: the function, the very object that is a key of `RULES`.

    `shapes`: one shape law for each array argument that a gradient is wanted for. A law is a line of words:

    - a name (`n`) is a length, the same wherever the name stands, drawn from 1..3; a number is that very length;
    - `...` is any number of axes; those of several arguments broadcast against each other;
    - `s...` is any number of axes too, but the same ones in every argument.

    `call`: called as `call(*arrays, **options)`, on arrays and on Tensors alike; by default `fun` itself. It is the
    place for constants, for a choice among several results, for making a matrix symmetric or regular. Its result is an
    array, or a (nested) tuple or list of them; results without gradient (integers, masks) are compared, not projected.

    `options`: keyword arguments of the call. A value may be a hypothesis strategy, or a function of the shapes of the
    arguments that returns one (`strategies.one_axis` and its neighbours); it is drawn anew for every example.

    `domain`: the open interval that the values come from, for all arguments or as a list of one for each. Values lie
    on a lattice of that interval: no two arguments with the same domain have an element in common, so nothing is tied,
    and neither the middle nor the thirds of the interval are hit, so that (-3, 3) avoids 0, 1 and -1. Keep other kinks
    out of the domain.

    `oracle`: what the forward value is compared with, called as `oracle(*arrays, **options)` on arrays; by default
    `call`. A function that NumPy does not have needs one, written independently.

    `ulps`: 0 for "equals NumPy bit for bit"; a composite states how many units in the last place it may be off.

    `cancels`: whether numbers cancel in it, so that those units are the ones of the largest number in the first argument
    and in the result.

    `zero_d`: the exception that NumPy raises when every argument is 0-d, or None where it accepts that.
    `empty`: the exceptions that NumPy raises for arguments with a length of 0; () where it accepts all of them.

    `promotes`: whether NumPy itself turns float32 into float64 here (`float_power` does).

    `tolerance`: by how much the numeric derivatives may be off in addition, where a function is ill-conditioned.

    Two rows. Division, away from 0, of any two shapes that broadcast:

    >>> import numpy as np
    >>> Row(np.divide, "...", "...", domain=[(-3, 3), (0.5, 2)])
    <Row divide(..., ...)>

    The trace of a matrix and of a stack of them, which NumPy refuses for anything without two axes:

    >>> Row(np.trace, "n m ...", options={"offset": 1}, zero_d=ValueError)
    <Row trace(n m ...) offset=1>
    """

    def __init__(
        self,
        fun: Callable[..., Any],
        *shapes: str,
        call: Callable[..., Any] | None = None,
        options: Mapping[str, Any] | None = None,
        domain: Domain | list[Domain] = (-3.0, 3.0),
        oracle: Callable[..., Any] | None = None,
        ulps: int = 0,
        zero_d: type[Exception] | None = None,
        empty: type[Exception] | tuple[type[Exception], ...] = (),
        promotes: bool = False,
        cancels: bool = False,
        tolerance: float = 0.0,
        note: str = "",
    ) -> None:
        self.fun = fun
        self.shapes = shapes or ("...",)
        self.call = call or fun
        self.options = dict(options or {})
        self.domains = domain if isinstance(domain, list) else [domain] * len(self.shapes)
        self.oracle = oracle or self.call
        self.ulps = ulps
        self.cancels = cancels
        self.zero_d = zero_d
        self.empty = empty if isinstance(empty, tuple) else (empty,)
        self.promotes = promotes
        self.tolerance = tolerance
        self.note = note
        if len(self.domains) != len(self.shapes):
            raise ValueError(f"{self}: {len(self.domains)} domains for {len(self.shapes)} arguments")

    def size(self, arrays: Sequence[np.ndarray]) -> float:
        """The number whose unit in the last place counts, where the results are smaller."""
        return float(np.max(np.abs(arrays[0]), initial=0)) if self.cancels else 0.0

    @property
    def broadcasts(self) -> bool:
        """Whether several arguments broadcast against each other, in all their axes or in the leading ones."""
        return sum("..." in law.split() for law in self.shapes) > 1

    @property
    def elementwise(self) -> bool:
        """Whether each argument may be a number too."""
        return self.broadcasts and all(law == "..." for law in self.shapes)

    def __repr__(self) -> str:
        options = "".join(
            f" {name}={value!r}"
            for name, value in self.options.items()
            if isinstance(value, (int, float, str, tuple, type(None)))
        )
        note = f" {self.note}" if self.note else ""
        return f"<Row {name_of(self.fun)}({', '.join(self.shapes)}){options}{note}>"
