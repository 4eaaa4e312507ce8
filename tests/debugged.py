"""What the tests of the debug aids share."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm.debug import AnomalyError, detect_anomaly

INF = np.float32(np.inf)


def leaf(*numbers, dtype=np.float32):
    return tg.Tensor(np.array(numbers, dtype), requires_grad=True)


def caught(f, model=None):
    """What `f()` raises inside detect_anomaly."""
    with pytest.raises(AnomalyError) as info, detect_anomaly(model):
        f()
    return info.value


# ---------------------------------------------------------------------------------------------------------------------
# The first NaN or Inf of a forward pass
# ---------------------------------------------------------------------------------------------------------------------

# name, what to compute of positive numbers around 1, words of the reason
FORWARD = [
    ("log", lambda x: np.log(x - x), "logarithm of 0"),
    ("log", lambda x: np.log(-x), "logarithm of a negative"),
    ("log2", lambda x: np.log2(x * 0), "logarithm of 0"),
    ("log1p", lambda x: np.log1p(-2 - x), "-1 and below"),
    ("sqrt", lambda x: np.sqrt(-x), "square root of a negative"),
    ("divide", lambda x: x / (x - x), "division by 0"),
    ("divide", lambda x: (x - x) / (x - x), "0 / 0"),
    ("divide", lambda x: 1 / (x * 0), "division by 0"),
    ("remainder", lambda x: x % (x * 0), "division by 0"),
    ("reciprocal", lambda x: np.reciprocal(x * 0), "division by 0"),
    ("power", lambda x: (x * 0) ** -1, "negative power"),
    ("power", lambda x: (-x) ** 0.5, "root of a negative"),
    ("arcsin", lambda x: np.arcsin(x + 10), "outside [-1, 1]"),
    ("arccosh", lambda x: np.arccosh(x * 0), "below 1"),
    ("arctanh", lambda x: np.arctanh(x * 0 + 1), "outside (-1, 1)"),
    ("exp", lambda x: np.exp(x * 1000), "about 89"),
    ("cosh", lambda x: np.cosh(x * 1000), "overflow"),
    ("multiply", lambda x: (x + 1e30) * 1e30, "3.4e+38"),
    ("matmul", lambda x: (x + 1e30)[None] @ (x + 1e30)[:, None], "3.4e+38"),
    ("sum", lambda x: np.sum(x + 3e38), "3.4e+38"),
    ("square", lambda x: np.square(x + 1e30), "3.4e+38"),
    ("subtract", lambda x: (x + np.full(3, INF)) - np.full(3, INF), "inf - inf"),
    ("multiply", lambda x: (x - x) * np.full(3, INF), "0 * inf"),
    ("matmul", lambda x: (x + np.array([[-INF], [0]])) @ (x - x)[:, None], "0 * inf"),
    ("softmax", lambda x: tg.softmax((x + np.full(3, -INF))[None]), "all entries of a row are -inf"),
    ("mean", lambda x: np.mean(x[:0]), "no elements"),
]

# ---------------------------------------------------------------------------------------------------------------------
# The backward pass
# ---------------------------------------------------------------------------------------------------------------------

BACKWARD = [
    ("sqrt", lambda x: np.sqrt(x - x), "slope of sqrt at 0"),
    ("cbrt", lambda x: np.cbrt(x - x), "slope of cbrt at 0"),
    ("power", lambda x: (x - x) ** 0.5, "steep at 0"),
    ("arcsin", lambda x: np.arcsin(x - x + 1), "-1 and 1"),
    ("arccosh", lambda x: np.arccosh(x - x + 1), "at 1"),
    ("multiply", lambda x: (x * 1e-30) * 1e38 * 1e30, "3.4e+38"),
    ("sqrt", lambda x: np.where(x > 5, np.sqrt(x - x), 1), "0 * inf"),
    ("sqrt", lambda x: np.sqrt(x - x) * 0, "0 * inf"),
]
