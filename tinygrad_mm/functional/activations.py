"""Activation functions: elementwise ones, and softmax and its relatives along an axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.error_function import erf
from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import defstopped, defvjp, primitive
from tinygrad_mm.rules.axes import kept

__all__ = [
    "elu",
    "gelu",
    "leaky_relu",
    "log_softmax",
    "logsumexp",
    "one_hot",
    "pick",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]

# ---------------------------------------------------------------------------------------------------------------------
# Elementwise
# ---------------------------------------------------------------------------------------------------------------------


@of_arrays
@primitive
def relu(x: Any) -> Any:
    """Rectified linear unit: max(x, 0), elementwise (Nair and Hinton 2010); the derivative at 0 is 0.

    Shape: (...) -> (...)

    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return np.maximum(x, 0)


defvjp(relu, lambda g, y, x: np.where(x <= 0, 0, g))


@of_arrays
@primitive
def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """Leaky ReLU: x where x > 0, negative_slope * x elsewhere (Maas et al. 2013); the derivative at 0 is the slope.

    Shape: (...) -> (...)

    >>> leaky_relu(np.array([-1.0, 2.0]))
    array([-0.01,  2.  ])
    """
    return np.where(x > 0, x, x * negative_slope)


defvjp(leaky_relu, lambda g, y, x, negative_slope=0.01: np.where(x > 0, g, g * negative_slope))


@of_arrays
@primitive
def elu(x: Any, alpha: float = 1.0) -> Any:
    """Exponential linear unit: x where x > 0, alpha * (exp(x) - 1) elsewhere (Clevert et al. 2016).

    The derivative at 0 is alpha.

    Shape: (...) -> (...)

    >>> elu(np.array([-1e4, 0.0, 2.0]))
    array([-1.,  0.,  2.])
    """
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


defvjp(elu, lambda g, y, x, alpha=1.0: np.where(x <= 0, g * (y + alpha), g))


@of_arrays
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


@of_arrays
def tanh(x: Any) -> Any:
    """Hyperbolic tangent, elementwise: `np.tanh`.

    Shape: (...) -> (...)

    >>> tanh(np.array([0.0]))
    array([0.])
    """
    return np.tanh(x)


@of_arrays
def silu(x: Any) -> Any:
    """Sigmoid-weighted x: x * sigmoid(x), elementwise; also called swish (Elfwing et al. 2018).

    Shape: (...) -> (...)

    >>> silu(np.array([0.0, 1e4]))
    array([    0., 10000.])
    """
    return x * sigmoid(x)


@of_arrays
def softplus(x: Any, beta: float = 1.0) -> Any:
    """log(1 + exp(beta x)) / beta, elementwise, without overflow: a smooth relu (Dugas et al. 2001).

    Shape: (...) -> (...)

    >>> softplus(np.array([-1e4, 1e4]))
    array([    0., 10000.])
    """
    return np.logaddexp(x, 0) if beta == 1 else np.logaddexp(x * beta, 0) / beta


@of_arrays
@primitive
def gelu(x: Any, approximate: str = "none") -> Any:
    """Gaussian error linear unit: x times the probability that a standard normal number is below x, elementwise.

    Hendrycks and Gimpel 2016; `approximate="tanh"` replaces that probability by their
    (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    Shape: (...) -> (...)

    Raises ValueError for another `approximate`.

    >>> gelu(np.array([-1.0, 1.0])).round(4)
    array([-0.1587,  0.8413])
    """
    return x * _normal_probability(x, approximate)


defvjp(gelu, lambda g, y, x, approximate="none": g * _gelu_slope(y, x, approximate))

# The constants of the tanh form: tanh(A (x + B x^3)). Value and slope are both written in x * x, which a compiled
# program then computes once.
A, B = math.sqrt(2 / math.pi), 0.044715


def _normal_probability(x: Any, approximate: str) -> Any:
    if approximate == "none":
        return 0.5 + 0.5 * erf(x * math.sqrt(0.5))
    if approximate == "tanh":
        return 0.5 + 0.5 * np.tanh(x * (A + A * B * (x * x)))
    raise ValueError(f"gelu: approximate={approximate!r}; use 'none' or 'tanh'")


def _gelu_slope(y: Any, x: Any, approximate: str) -> Any:
    """The probability p = y / x, plus x times its slope: the normal density, or 2 p (1 - p) d(A x + A B x^3)/dx."""
    p = _normal_probability(x, approximate)
    if approximate == "none":
        return p + x * np.exp(-0.5 * x * x) * math.sqrt(0.5 / math.pi)
    return p + y * (1 - p) * (2 * A + 6 * A * B * (x * x))


# ---------------------------------------------------------------------------------------------------------------------
# Along an axis
# ---------------------------------------------------------------------------------------------------------------------


def _top(x: Any, axis: Any) -> Any:
    """The largest element along an axis, which is kept with length 1; of an empty array, zeros."""
    return np.max(x, axis=axis, keepdims=True) if x.size else np.sum(x, axis=axis, keepdims=True)


@of_arrays
@primitive
def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along an axis, without overflow: positive numbers that sum to 1.

    Shape: (..., n) -> (..., n)

    >>> softmax(np.array([0.0, 0.0]))
    array([0.5, 0.5])
    """
    e = np.exp(x - _top(x, axis))
    return e / np.sum(e, axis=axis, keepdims=True)


defvjp(
    softmax,
    lambda g, y, x, axis=-1: y * (g - np.sum(g * y, axis=axis, keepdims=True)),
    signature="(..., n) -> (..., n)",
)


@of_arrays
@primitive
def logsumexp(x: Any, axis: Any = -1, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) along an axis, several or all (None), without overflow.

    Its gradient is `softmax(x)`. Where all elements are -inf, so is the value, and the gradient is NaN, since shares of
    nothing are 0 / 0. `np.logaddexp.reduce` gives each of them an equal share instead, the limit of equal elements:
    what the impossible paths of a Markov chain need.

    Shape: (..., n) -> (...)

    >>> logsumexp(np.array([1e4, 1e4])).round(4)
    np.float64(10000.6931)
    """
    top = _top(x, axis)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):  # where nothing is added, the logarithm is -inf
        y = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return y if keepdims else np.squeeze(y, axis=axis)


defvjp(
    logsumexp,
    lambda g, y, x, axis=-1, keepdims=False: kept(g, x, axis) * softmax(x, axis),
    signature="(..., n) -> (...)",
)


@of_arrays
@primitive
def log_softmax(x: Any, axis: int = -1) -> Any:
    """log(softmax(x)) along an axis, without overflow.

    Shape: (..., n) -> (..., n)

    >>> log_softmax(np.array([0.0, 1e4]))
    array([-10000.,      0.])
    """
    z = x - _top(x, axis)
    return z - np.log(np.sum(np.exp(z), axis=axis, keepdims=True)) if z.size else z


defvjp(
    log_softmax,
    lambda g, y, x, axis=-1: g - np.exp(y) * np.sum(g, axis=axis, keepdims=True),
    signature="(..., n) -> (..., n)",
)


@of_arrays
@primitive
def one_hot(labels: Any, classes: int, dtype: Any = np.float32) -> Any:
    """1 in the class of each label, 0 in the others; all 0 for a label that is none of the classes.

    `labels` are integers that count classes from 0.

    Shape: (...) -> (..., classes)

    >>> one_hot(np.array([2, 0]), 3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    return (labels[..., None] == np.arange(classes)).astype(dtype)


defstopped(one_hot)


@primitive
def pick(x: Any, labels: Any) -> Any:
    """x[..., label], for each label: one element of each row along the last axis.

    Shape: (..., classes), (...) -> (...)

    Raises ValueError for labels of another shape, or out of range.

    >>> pick(np.array([[5.0, 6.0, 7.0], [8.0, 9.0, 1.0]]), np.array([2, 0]))
    array([7., 8.])
    """
    classes = x.shape[-1]
    if labels.shape != x.shape[:-1]:
        raise ValueError(f"labels of shape {labels.shape} do not fit an array of shape {x.shape}")
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels lie in {labels.min()}..{labels.max()}, but there are {classes} classes")
    return np.take_along_axis(x, labels[..., None], axis=-1)[..., 0]


defvjp(
    pick,
    lambda g, y, x, labels: np.expand_dims(g, -1) * one_hot(labels, x.shape[-1], x.dtype),
    None,
    signature="(..., classes), (...) -> (...)",
)
