"""Activations that are expressions of others: their derivatives follow from those."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.functional.activations import elu, sigmoid, silu, softmax, softplus
from tinygrad_mm.functional.typed import of_arrays

__all__ = [
    "celu",
    "glu",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "log_sigmoid",
    "mish",
    "prelu",
    "relu6",
    "selu",
    "softmin",
    "softsign",
    "swiglu",
]

# The fixed point of the map from one layer's mean and variance to the next one's (Klambauer et al. 2017).
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@of_arrays
def selu(x: Any) -> Any:
    """Scaled exponential linear unit: 1.0507 * elu(x, 1.6733), which keeps mean and variance (Klambauer et al. 2017).

    Shape: (...) -> (...)

    >>> selu(np.array([-1e4, 0.0, 1.0])).round(4)
    array([-1.7581,  0.    ,  1.0507])
    """
    return SELU_SCALE * elu(x, SELU_ALPHA)


@of_arrays
def celu(x: Any, alpha: float = 1.0) -> Any:
    """Continuously differentiable ELU: x where x > 0, alpha * (exp(x / alpha) - 1) elsewhere (Barron 2017).

    Shape: (...) -> (...)

    >>> celu(np.array([-1e4, 0.0, 2.0]), 0.5)
    array([-0.5,  0. ,  2. ])
    """
    return alpha * elu(x / alpha)


@of_arrays
def prelu(x: Any, weight: Any) -> Any:
    """Parametric ReLU: x where x > 0, weight * x elsewhere (He et al. 2015).

    There is one weight, or one for each channel (axis 1).

    Shape: (N, channels, ...), (1) or (channels) -> (N, channels, ...)

    Raises ValueError for shapes that do not fit.

    >>> prelu(np.array([[-1.0, 2.0]]), np.array([0.25]))
    array([[-0.25,  2.  ]])
    """
    if weight.shape != (1,):
        if x.ndim < 2 or weight.shape != x.shape[1:2]:
            raise ValueError(f"prelu: weight has shape {weight.shape}; x of shape {x.shape} needs one for each channel")
        weight = weight.reshape(-1, *(1,) * (x.ndim - 2))
    return np.where(x > 0, x, x * weight)


@of_arrays
def relu6(x: Any) -> Any:
    """min(max(x, 0), 6), elementwise (Krizhevsky 2010).

    Shape: (...) -> (...)

    >>> relu6(np.array([-1.0, 2.0, 9.0]))
    array([0., 2., 6.])
    """
    return np.clip(x, 0, 6)


@of_arrays
def hard_tanh(x: Any, minimum: float = -1.0, maximum: float = 1.0) -> Any:
    """min(max(x, minimum), maximum), elementwise (Collobert 2004).

    Shape: (...) -> (...)

    >>> hard_tanh(np.array([-2.0, 0.5]))
    array([-1. ,  0.5])
    """
    return np.clip(x, minimum, maximum)


@of_arrays
def hard_sigmoid(x: Any) -> Any:
    """min(max(x / 6 + 1 / 2, 0), 1): straight lines in place of a sigmoid (Howard et al. 2019).

    Shape: (...) -> (...)

    >>> hard_sigmoid(np.array([-4.0, 0.0, 4.0]))
    array([0. , 0.5, 1. ])
    """
    return np.clip(x * (1 / 6) + 0.5, 0, 1)


@of_arrays
def hard_swish(x: Any) -> Any:
    """Piecewise form of swish: x * hard_sigmoid(x), elementwise (Howard et al. 2019).

    Shape: (...) -> (...)

    >>> hard_swish(np.array([-4.0, 0.0, 4.0]))
    array([-0.,  0.,  4.])
    """
    return x * hard_sigmoid(x)


@of_arrays
def mish(x: Any) -> Any:
    """Mish: x * tanh(softplus(x)), elementwise (Misra 2020).

    Shape: (...) -> (...)

    >>> mish(np.array([0.0, 1.0])).round(4)
    array([0.    , 0.8651])
    """
    return x * np.tanh(softplus(x))


@of_arrays
def softsign(x: Any) -> Any:
    """Softsign: x / (1 + |x|), elementwise (Bergstra et al. 2009).

    Shape: (...) -> (...)

    >>> softsign(np.array([-1.0, 3.0]))
    array([-0.5 ,  0.75])
    """
    return x / (1 + np.absolute(x))


@of_arrays
def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)), elementwise, without overflow.

    Shape: (...) -> (...)

    >>> log_sigmoid(np.array([-1e4, 0.0])).round(4)
    array([-1.000e+04, -6.931e-01])
    """
    return -softplus(-x)


@of_arrays
def softmin(x: Any, axis: int = -1) -> Any:
    """softmax(-x) along an axis: the smallest number gets most.

    Shape: (..., n) -> (..., n)

    >>> softmin(np.array([0.0, 1e4]))
    array([1., 0.])
    """
    return softmax(-x, axis)


@of_arrays
def glu(x: Any, axis: int = -1) -> Any:
    """Gated linear unit: the first half of an axis times the sigmoid of the second (Dauphin et al. 2017).

    Shape: (..., 2 n) -> (..., n)

    Raises ValueError for an odd length.

    >>> glu(np.array([1.0, 2.0, 0.0, 1e4]))
    array([0.5, 2. ])
    """
    values, gates = _halves("glu", x, axis)
    return values * sigmoid(gates)


@of_arrays
def swiglu(x: Any, axis: int = -1) -> Any:
    """The silu of the first half of an axis times the second half (Shazeer 2020).

    Shape: (..., 2 n) -> (..., n)

    Raises ValueError for an odd length.

    >>> swiglu(np.array([0.0, 1e4, 2.0, 0.5]))
    array([   0., 5000.])
    """
    gates, values = _halves("swiglu", x, axis)
    return silu(gates) * values


def _halves(name: str, x: Any, axis: int) -> tuple[Any, Any]:
    if not -x.ndim <= axis < x.ndim or x.shape[axis] % 2:
        raise ValueError(f"{name}: axis {axis} of x, {x.shape}, does not divide into halves")
    first, second = np.split(x, 2, axis=axis)
    return first, second
