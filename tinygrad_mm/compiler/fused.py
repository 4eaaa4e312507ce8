"""Operations of the compiler's own: what several calls of the traced function become where one is quicker.

They are plain functions of arrays, so that a program reads the same with or without them; below stands how each is
written. `..._columns` are the same for matrices that are kept with features along the first axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.kernel import Kernel
from tinygrad_mm.compiler.program import Op
from tinygrad_mm.functional.activations import one_hot, pick, sigmoid, softmax

__all__ = [
    "EXPANSIONS",
    "KERNELS_OF_FUSED",
    "clear_error",
    "one_hot_columns",
    "one_hot_rows",
    "pick_columns",
    "pick_rows",
    "prediction_error",
    "transposed_copy",
    "where_positive",
]


def where_positive(g: Any, y: Any) -> Any:
    """0 where y <= 0, else g, for y that is not negative: the backward pass of relu.

    Shape: (...), (...) -> (...)
    """
    return np.where(y <= 0, 0, g)


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


def prediction_error(logits: Any, labels: Any) -> Any:
    """softmax(logits) - one_hot(labels): the gradient of the cross entropy of each example.

    Shape: (..., classes), (...) -> (..., classes)
    """
    return softmax(logits) - one_hot(labels, logits.shape[-1], logits.dtype)


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
    """One formula for both signs; beyond the largest exponent that does not overflow, the result rounds to 0 anyway."""
    largest = 88.0 if x.dtype == np.float32 else 709.0
    if x.dtype not in (np.float32, np.float64):
        raise TypeError("sigmoid is taken apart in single and double precision only")
    return 1 / (np.exp(np.minimum(-x, largest)) + 1)


# Each takes first a function `call(fun, *args)` that records a call of one of the functions above.
EXPANSIONS: dict[Any, Any] = {
    pick: _expanded_pick,
    one_hot: _expanded_one_hot,
    sigmoid: _expanded_sigmoid,
}


# ---------------------------------------------------------------------------------------------------------------------
# How they are written
# ---------------------------------------------------------------------------------------------------------------------


def _where_positive(op: Op) -> Kernel | None:
    g, y = op.args
    if op.result.dtype not in (np.float32, np.float64) or g.shape != y.shape:
        return None
    # For y >= 0 the bits of y, as an integer, are 0 or more: the smaller of them and 1 is the mask. Integers multiply
    # quickly, and a factor of 0 or 1 clears or keeps all bits.
    dtype = np.dtype(np.int32 if op.result.dtype == np.float32 else np.int64)
    one = np.ones(y.shape, dtype) if y.size <= 1 << 22 else np.ones((), dtype)

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        g, y, to = (bind.seen(name, f".view({dtype.name})") for name in (*a, out))
        return [
            f"{bind(np.fmin)}({y}, {bind(one, 'one')}, {scratch[0]})",  # as minimum, without a keyword
            f"{bind(np.multiply)}({g}, {scratch[0]}, {to})",
        ]

    return Kernel(lines, (0,), [(y.shape, dtype)])


def _pick(columns: bool) -> Callable[[Op], Kernel | None]:
    def kernel(op: Op) -> Kernel | None:
        z = op.args[0]
        numbers = np.arange(z.shape[1 if columns else 0])

        def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
            pair = (a[1], bind(numbers, "numbers"))[:: 1 if columns else -1]
            # It raises for labels out of range, and so is the check that they are not.
            places = f"{bind(np.ravel_multi_index)}(({', '.join(pair)}), {z.shape})"
            return [f"{a[0]}.take({places}, None, {out}, 'clip')"]

        return Kernel(lines)

    return kernel


def _one_hot(columns: bool) -> Callable[[Op], Kernel | None]:
    def kernel(op: Op) -> Kernel | None:
        _, classes, dtype = op.args
        if classes > 128:  # the table of all rows would be larger than what is made of it
            numbers = np.arange(op.result.size // classes)

            def put(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
                pair = (a[0], bind(numbers, "numbers"))[:: 1 if columns else -1]
                places = f"{bind(np.ravel_multi_index)}(({', '.join(pair)}), {op.result.shape})"
                return [f"{out}.fill(0)", f"{out}.put({places}, 1)"]

            return Kernel(put)

        def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
            eye = bind(np.eye(classes, dtype=dtype), "eye")
            return [f"{eye}.take({a[0]}, {int(columns)}, {out}, 'clip')"]

        return Kernel(lines)

    return kernel


KERNELS_OF_FUSED: dict[Any, Callable[[Op], Kernel | None]] = {
    where_positive: _where_positive,
    transposed_copy: lambda op: Kernel(lambda out, a, s, bind: [f"{bind(np.copyto)}({bind.seen(out, '.T')}, {a[0]})"]),
    pick_rows: _pick(False),
    pick_columns: _pick(True),
    one_hot_rows: _one_hot(False),
    one_hot_columns: _one_hot(True),
}
