"""Network functions that NumPy lacks: stateless, each an operation with its rule right below it.

Floor 3. They take arrays (and give arrays) or Tensors (and are recorded). Classes and features lie on the last axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.graph import defvjp, primitive

__all__ = ["cross_entropy", "log_softmax", "logsumexp", "one_hot", "relu", "sigmoid", "softmax", "tanh"]


@primitive
def relu(x: Any) -> Any:
    """max(x, 0), elementwise; the derivative at 0 is 0.

    Shape: (...) -> (...)

    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return np.maximum(x, 0)


defvjp(relu, lambda g, y, x: g * (y > 0))


@primitive
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)), elementwise, without overflow.

    Shape: (...) -> (...)

    >>> sigmoid(np.array([0.0, 1e4]))
    array([0.5, 1. ])
    """
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


defvjp(sigmoid, lambda g, y, x: g * y * (1 - y))


def tanh(x: Any) -> Any:
    """Hyperbolic tangent, elementwise: `np.tanh`.

    Shape: (...) -> (...)

    >>> tanh(np.array([0.0]))
    array([0.])
    """
    return np.tanh(x)


@primitive
def logsumexp(x: Any, axis: Any = -1, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) along an axis, without overflow.

    Shape: (..., n) -> (...)

    >>> logsumexp(np.array([1e4, 1e4])).round(4)
    np.float64(10000.6931)
    """
    top = np.max(x, axis=axis, keepdims=True)
    y = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return y if keepdims else np.squeeze(y, axis=axis)


defvjp(
    logsumexp,
    lambda g, y, x, axis=-1, keepdims=False: _kept(g, axis, keepdims) * np.exp(x - _kept(y, axis, keepdims)),
    law="(..., n) -> (...)",
)


def _kept(v: Any, axis: Any, keepdims: bool) -> Any:
    return v if keepdims else np.expand_dims(v, axis)


@primitive
def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along an axis: positive numbers that sum to 1.

    Shape: (..., n) -> (..., n)

    >>> softmax(np.array([0.0, 0.0]))
    array([0.5, 0.5])
    """
    e = np.exp(x - np.maximum.reduce(x, axis=axis, keepdims=True))
    return e / np.add.reduce(e, axis=axis, keepdims=True)


defvjp(
    softmax,
    lambda g, y, x, axis=-1: y * (g - np.sum(g * y, axis=axis, keepdims=True)),
    law="(..., n) -> (..., n)",
)


@primitive
def log_softmax(x: Any, axis: int = -1) -> Any:
    """log(softmax(x)) along an axis, without overflow.

    Shape: (..., n) -> (..., n)

    >>> log_softmax(np.array([0.0, 1e4]))
    array([-10000.,      0.])
    """
    z = x - np.maximum.reduce(x, axis=axis, keepdims=True)
    return z - np.log(np.add.reduce(np.exp(z), axis=axis, keepdims=True))


defvjp(
    log_softmax,
    lambda g, y, x, axis=-1: g - np.exp(y) * np.sum(g, axis=axis, keepdims=True),
    law="(..., n) -> (..., n)",
)


@primitive
def one_hot(labels: Any, classes: int, dtype: Any = np.float32) -> Any:
    """1 at each label's place, 0 elsewhere.

    Shape: (...) -> (..., classes)

    >>> one_hot(np.array([2, 0]), 3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    return (labels[..., None] == np.arange(classes)).astype(dtype)


defvjp(one_hot, None, law="(...) -> (..., classes)")


@primitive
def _cross_entropy(logits: Any, labels: Any, reduction: str) -> Any:
    """logsumexp(logits) - logits[label] of each example, reduced."""
    flat = logits.reshape(-1, logits.shape[-1])
    z = flat - np.maximum.reduce(flat, axis=-1, keepdims=True)
    lost = np.log(np.add.reduce(np.exp(z), axis=-1)) - z[np.arange(len(z)), labels.reshape(-1)]
    if reduction == "none":
        return lost.reshape(labels.shape)
    return np.add.reduce(lost) / len(z) if reduction == "mean" else np.add.reduce(lost)


def _cross_entropy_back(g: Any, logits: Any, labels: Any, reduction: str) -> Any:
    """softmax(logits) - one_hot(labels), weighted with the gradient of each example's loss."""
    weight = np.expand_dims(g, -1) if reduction == "none" else g / max(labels.size, 1) if reduction == "mean" else g
    return weight * (softmax(logits) - one_hot(labels, logits.shape[-1], logits.dtype))


defvjp(
    _cross_entropy,
    lambda g, y, logits, labels, reduction: _cross_entropy_back(g, logits, labels, reduction),
    None,
    law="(..., classes), (...) -> () or (...)",
)


def cross_entropy(logits: Any, labels: Any, reduction: str = "mean") -> Any:
    """-log(softmax(logits)[label]), averaged over the examples.

    `labels` are integers of shape (...), or probabilities of the shape of the logits. `reduction` is "mean", "sum" or
    "none". Stable for logits of any size.

    Shape: (..., classes), (...) -> () or, with reduction="none", (...)

    Raises ValueError for shapes that do not fit, labels out of range and an unknown reduction, TypeError for labels
    that are neither integers nor probabilities.

    >>> cross_entropy(np.array([[0.0, 0.0]]), np.array([1])).round(4)
    np.float64(0.6931)
    """
    if not hasattr(labels, "dtype"):
        labels = np.asarray(labels)
    if not hasattr(logits, "dtype"):
        logits = np.asarray(logits, np.float32)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction={reduction!r}; use 'mean', 'sum' or 'none'")
    if labels.shape == logits.shape and labels.dtype.kind == "f":
        lost = -np.sum(labels * log_softmax(logits), axis=-1)
        return lost if reduction == "none" else np.mean(lost) if reduction == "mean" else np.sum(lost)
    _check_labels(logits, labels)
    return _cross_entropy(logits, labels, reduction)


def _check_labels(logits: Any, labels: Any) -> None:
    if logits.ndim == 0 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: logits of shape {logits.shape} need integer labels of shape {logits.shape[:-1]} or "
            f"probabilities of shape {logits.shape}; these labels have shape {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"cross_entropy: labels of dtype {labels.dtype}; use labels.astype(np.int64) for class numbers, "
            f"or probabilities of shape {logits.shape}"
        )
    values, classes = getattr(labels, "value", labels), logits.shape[-1]
    if values.size and (np.minimum.reduce(values, axis=None) < 0 or np.maximum.reduce(values, axis=None) >= classes):
        raise ValueError(
            f"cross_entropy: labels lie in {values.min()}..{values.max()}, but logits of {classes} classes allow "
            f"0..{classes - 1} only"
        )
