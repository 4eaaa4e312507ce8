"""Operations of the compiler's own: what several calls of the traced function become where one is quicker.

They are plain functions of arrays, so that a program reads the same with or without them; below stands how each is
written. `..._columns` are the same for matrices that are kept with features along the first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.program import Op
from tinygrad_mm.compiler.statements import Array, Lowering, Statement, Write, call, copy
from tinygrad_mm.functional.activations import one_hot, pick, sigmoid

__all__ = [
    "EXPANSIONS",
    "LOWERINGS_OF_FUSED",
    "clear_error",
    "one_hot_columns",
    "one_hot_rows",
    "pick_columns",
    "pick_rows",
    "transposed_copy",
    "where_positive",
]


def where_positive(g: Any, y: Any) -> Any:
    """0 where y <= 0, else g, for y that is not negative: the backward pass of relu.

    Shape: (...), (...) -> (...)
    """
    return np.where(y <= 0, np.zeros((), g.dtype), g)


def clear_error(error: ValueError) -> ValueError:
    """What an error that a program raised means."""
    if "invalid entry in coordinates array" in str(error):
        return ValueError("cross_entropy: a label is out of range; for n classes labels lie between 0 and n - 1")
    return error


def pick_rows(z: Any, labels: Any) -> Any:
    """The element of each row at its label. Shape: (n, classes), (n,) -> (n,)"""
    return z.reshape(-1).take(np.ravel_multi_index((np.arange(len(z)), labels), z.shape))


def pick_columns(z: Any, labels: Any) -> Any:
    """The element of each column at its label. Shape: (classes, n), (n,) -> (n,)"""
    return z.reshape(-1).take(np.ravel_multi_index((labels, np.arange(z.shape[1])), z.shape))


def transposed_copy(x: Any) -> Any:
    """The transpose in memory of its own. Shape: (n, m) -> (m, n)"""
    return np.ascontiguousarray(x.T)


def one_hot_rows(labels: Any, classes: int, dtype: Any) -> Any:
    """1 at each label's place. Shape: (n,) -> (n, classes)"""
    return np.eye(classes, dtype=dtype).take(labels, 0)


def one_hot_columns(labels: Any, classes: int, dtype: Any) -> Any:
    """1 at each label's place. Shape: (n,) -> (classes, n)"""
    return np.eye(classes, dtype=dtype).take(labels, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Functions that look at values or work in place, written so that they can be traced
# ---------------------------------------------------------------------------------------------------------------------


def _expanded_pick(call: Any, z: Any, labels: Any) -> Any:
    return call(pick_rows, z.reshape(-1, z.shape[-1]), labels.reshape(-1)).reshape(labels.shape)


def _expanded_one_hot(call: Any, labels: Any, classes: int, dtype: Any = np.float32) -> Any:
    return call(one_hot_rows, labels.reshape(-1), classes, dtype).reshape(*labels.shape, classes)


def _expanded_sigmoid(call: Any, x: Any) -> Any:
    """One formula for both signs: e / (e + 1), where e = exp(x) is kept from overflowing: from there on it is 1."""
    if x.dtype not in (np.float32, np.float64):
        raise TypeError("sigmoid is taken apart in single and double precision only")
    e = np.exp(np.minimum(x, 88.0 if x.dtype == np.float32 else 709.0))
    return e / (e + 1)


# Each takes first a function `call(fun, *args)` that records a call of one of the functions above.
EXPANSIONS: dict[Any, Any] = {
    pick: _expanded_pick,
    one_hot: _expanded_one_hot,
    sigmoid: _expanded_sigmoid,
}


# ---------------------------------------------------------------------------------------------------------------------
# How they are written
# ---------------------------------------------------------------------------------------------------------------------


def _where_positive(op: Op) -> Lowering | None:
    g, y = op.args
    if op.result.dtype not in (np.float32, np.float64) or g.shape != y.shape:
        return None
    # Twice the bits of y, as an unsigned integer, are y without its sign: 0 for both zeros, not for NaN of either sign.
    # The smaller of that and 1 is the mask. Integers multiply quickly, and a factor of 0 or 1 clears or keeps all bits.
    dtype = np.dtype(np.uint32 if op.result.dtype == np.float32 else np.uint64)
    one = np.ones(y.shape, dtype) if y.size <= 1 << 22 else np.ones((), dtype)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        (mask,) = scratch
        g, y, to = (array.view(dtype) for array in (*a, out))
        return [
            call(
                where_positive,
                a,
                out,
                lambda write: f"{write(np.add)}({write(y)}, {write(y)}, {write(mask)})",
                lambda write: f"{write(np.fmin)}({write(mask)}, {write(one, 'one')}, {write(mask)})",  # no keyword
                lambda write: f"{write(np.multiply)}({write(g)}, {write(mask)}, {write(to)})",
            )
        ]

    return Lowering(statements, (0,), [(y.shape, dtype)])


def _pick(columns: bool) -> Callable[[Op], Lowering | None]:
    def lowering(op: Op) -> Lowering | None:
        shape = op.args[0].shape
        numbers = np.arange(shape[1 if columns else 0])

        def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
            def line(write: Write) -> str:
                pair = (write(a[1]), write(numbers, "numbers"))[:: 1 if columns else -1]
                # It raises for labels out of range, and so is the check that they are not.
                places = f"{write(np.ravel_multi_index)}(({', '.join(pair)}), {shape})"
                return f"{write(a[0])}.take({places}, None, {write(out)}, 'clip')"

            return [call(op.fun, a, out, line)]

        return Lowering(statements)

    return lowering


def _one_hot(columns: bool) -> Callable[[Op], Lowering | None]:
    def lowering(op: Op) -> Lowering | None:
        _, classes, dtype = op.args
        numbers = np.arange(op.result.size // max(classes, 1))

        def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
            def taken(write: Write) -> str:
                eye = write(np.eye(classes, dtype=dtype), "eye")
                return f"{eye}.take({write(a[0])}, {int(columns)}, {write(out)}, 'clip')"

            def put(write: Write) -> str:
                pair = (write(a[0]), write(numbers, "numbers"))[:: 1 if columns else -1]
                return f"{write(out)}.put({write(np.ravel_multi_index)}(({', '.join(pair)}), {out.shape}), 1)"

            if classes > 128:  # the table of all rows would be larger than what is made of it
                return [call(op.fun, a[:1], out, lambda write: f"{write(out)}.fill(0)", put)]
            return [call(op.fun, a[:1], out, taken)]

        return Lowering(statements)

    return lowering


LOWERINGS_OF_FUSED: dict[Any, Callable[[Op], Lowering | None]] = {
    where_positive: _where_positive,
    transposed_copy: lambda op: Lowering(lambda out, a, s: [copy(a[0], out.T)]),
    pick_rows: _pick(False),
    pick_columns: _pick(True),
    one_hot_rows: _one_hot(False),
    one_hot_columns: _one_hot(True),
}
