"""Operations of the compiler's own: what several calls of the traced function become where one is quicker.

They are plain functions of arrays, so that a program reads the same with or without them; `kernels` says how each is
written. `..._columns` are the same for matrices that are kept with features along the first axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.functional.activations import sigmoid
from tinygrad_mm.functional.losses import _cross_entropy, _prediction_error

__all__ = [
    "EXPANSIONS",
    "add_rows",
    "clear_error",
    "mean_loss",
    "one_hot_columns",
    "one_hot_rows",
    "pick_columns",
    "pick_rows",
    "picked_sum",
    "scaled_error",
    "scaled_hots",
    "scaled_loss",
    "softmax_sums",
    "transposed_copy",
    "where_positive",
]


def where_positive(g: Any, y: Any) -> Any:
    """G where y > 0, else 0, for y >= 0: the way back through relu.

    Shape: (...), (...) -> (...)
    """
    return g * np.sign(y)


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


def mean_loss(logs: Any, z: Any, labels: Any, hot: Any) -> Any:
    """The mean of `logs` less the elements of z at the labels; `hot` is 1 at these, 0 elsewhere.

    Shape: (n,), (classes, n), (n,), (classes, n) -> ()

    Raises ValueError for a label out of range.
    """
    return np.mean(logs - pick_columns(z, labels))


def picked_sum(z: Any, labels: Any) -> Any:
    """The sum of the elements of z at the labels, for z that may be infinite elsewhere."""
    return np.sum(pick_columns(z, labels))


def add_rows(table: Any, rows: Any, values: Any) -> None:
    """Add values to the rows of a table; one that is named several times gets the sum. It does what `np.add.at` does.

    Shape: (n, ...), (...), (..., ...)
    """
    rows = np.where(rows < 0, rows + len(table), rows).reshape(-1)
    if rows.size:
        order = rows.argsort(kind="stable")
        rows = rows[order]
        starts = np.flatnonzero(np.concatenate(([True], rows[1:] != rows[:-1])))
        table[rows[starts]] += np.add.reduceat(values.reshape(len(rows), *table.shape[1:])[order], starts, 0)


def one_hot_rows(labels: Any, classes: int, dtype: Any) -> Any:
    """1 at each label's place. Shape: (n,) -> (n, classes)"""
    return np.eye(classes, dtype=dtype).take(labels, 0)


def one_hot_columns(labels: Any, classes: int, dtype: Any) -> Any:
    """1 at each label's place. Shape: (n,) -> (classes, n)"""
    return np.eye(classes, dtype=dtype).take(labels, 1)


def softmax_sums(logits: Any, rows: Any) -> Any:
    """Below each other: z = logits - max, the logarithm of the sum of exp(z), exp(z), and `rows @ exp(z)`.

    The last of the `rows` is all ones. Shape: (classes, n), (classes + 1, classes) -> (3 * classes + 2, n)
    """
    z = logits - np.max(logits, axis=0)
    e = np.exp(z)
    sums = rows @ e
    return np.concatenate([z, np.log(sums[-1:]), e, sums])


def scaled_hots(table: Any, labels: Any) -> Any:
    """The column of the table at each label. Shape: (classes + 1, classes + 1), (n,) -> (classes + 1, n)"""
    return table.take(labels, 1, mode="clip")


def scaled_loss(sums: Any, labels: Any, hot: Any, factor: Any) -> Any:
    """The mean cross entropy from `softmax_sums` and `scaled_hots`. Shape: (3 * classes + 2, n), (n,) -> ()

    Raises ValueError for a label out of range.
    """
    classes = len(hot) - 1
    return mean_loss(sums[classes], sums[:classes], labels, hot)


def scaled_error(sums: Any, hot: Any) -> Any:
    """The gradient of the loss with respect to the logits. Shape: (3 * classes + 2, n) -> (classes, n)"""
    k = len(hot) - 1
    return sums[k + 1 : 2 * k + 1] / sums[2 * k + 1 : 3 * k + 1] - hot[:k]


# ---------------------------------------------------------------------------------------------------------------------
# Functions that look at values or work in place, written so that they can be traced
# ---------------------------------------------------------------------------------------------------------------------


def _exponentials(logits: Any, call: Any) -> tuple[Any, Any, Any]:
    rows = logits.reshape(-1, logits.shape[-1])
    z = rows - np.max(rows, axis=-1, keepdims=True)
    e = np.exp(z)
    return z, e, np.sum(e, axis=-1, keepdims=True)


def _expanded_cross_entropy(call: Any, logits: Any, labels: Any, reduction: str = "mean") -> Any:
    z, _, total = _exponentials(logits, call)
    lost = np.log(total).reshape(-1) - call(pick_rows, z, labels.reshape(-1))
    if reduction == "none":
        return lost.reshape(labels.shape)
    return np.mean(lost) if reduction == "mean" and lost.size else np.sum(lost)


def _expanded_error(call: Any, logits: Any, labels: Any) -> Any:
    _, e, total = _exponentials(logits, call)
    exact = call(one_hot_rows, labels.reshape(-1), logits.shape[-1], logits.dtype)
    return (e / total - exact).reshape(logits.shape)


def _expanded_sigmoid(call: Any, x: Any) -> Any:
    """One formula for both signs; beyond the largest exponent that does not overflow, the result rounds to 0 anyway."""
    largest = 88.0 if x.dtype == np.float32 else 709.0
    if x.dtype not in (np.float32, np.float64):
        raise TypeError("sigmoid is taken apart in single and double precision only")
    return 1 / (np.exp(np.minimum(-x, largest)) + 1)


# Each takes first a function `call(fun, *args)` that records a call of one of the functions above.
EXPANSIONS: dict[Any, Any] = {
    _cross_entropy: _expanded_cross_entropy,
    _prediction_error: _expanded_error,
    sigmoid: _expanded_sigmoid,
}
