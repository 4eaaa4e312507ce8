"""Operations of the compiler's own: what several calls of the traced function become where one is quicker.

They are plain functions of arrays, so that a program reads the same with or without them; below stands how each is
written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.program import Op
from tinygrad_mm.compiler.statements import Array, Lowering, Statement, call
from tinygrad_mm.functional.activations import pick, sigmoid

__all__ = [
    "EXPANSIONS",
    "LOWERINGS_OF_FUSED",
    "clear_error",
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


def _sigmoid(x: Any) -> Any:
    """One formula for both signs: e / (e + 1), where e = exp(x) is kept from overflowing: from there on it is 1."""
    if x.dtype not in (np.float32, np.float64):
        raise TypeError("sigmoid is taken apart in single and double precision only")
    e = np.exp(np.minimum(x, 88.0 if x.dtype == np.float32 else 709.0))
    return e / (e + 1)


# Functions that look at values or work in place, written so that they can be traced.
EXPANSIONS: dict[Any, Any] = {sigmoid: _sigmoid}


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

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        g, y, to, mask = (array.transpose(*out.order).view(dtype) for array in (*a, out, scratch[0]))
        one = np.ones_like(mask.ghost) if mask.size <= 1 << 22 else np.ones((), dtype)
        lines = "{np.add}({y}, {y}, {mask})", "{np.fmin}({mask}, {one}, {mask})", "{np.multiply}({g}, {mask}, {to})"
        return [call(where_positive, a, out, *lines, names={"g": g, "y": y, "to": to, "mask": mask, "one": one})]

    return Lowering(statements, (0,), [(y.shape, dtype, op.result.order)])


def _pick(op: Op) -> Lowering | None:
    n, classes = op.result.size, op.args[0].shape[-1]
    if op.kwargs or op.args[1].dtype.kind not in "iu":
        return None

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        rows, labels = a[0].reshaped((n, classes)) or a[0], a[1].reshaped((n,)) or a[1]
        order = rows.order if rows.ndim == 2 else (0, 1)

        pair = "{numbers}", "{b}" + ".reshape(-1)" * (labels.ndim != 1)
        first, second = (pair[axis] for axis in order)
        shape = tuple((n, classes)[axis] for axis in order)
        # It raises for labels out of range, and so is the check that they are not.
        line = f"{{matrix}}.take({{np.ravel_multi_index}}(({first}, {second}), {shape}), None, {{out}}, 'clip')"
        matrix = rows.transpose(*order) if rows.ndim == 2 else rows  # else it is flattened by `take`
        names = {"numbers": np.arange(n), "matrix": matrix}
        return [call(op.fun, [rows, labels], out.reshape(n), line, names=names)]

    return Lowering(statements)


LOWERINGS_OF_FUSED: dict[Any, Callable[[Op], Lowering | None]] = {
    where_positive: _where_positive,
    pick: _pick,
}
