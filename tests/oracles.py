"""What results are compared with: plain NumPy and numeric differentiation, none of the code under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# Central differences of fourth order: f'(0) h = sum of weight * f(place * h).
STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))


def leaves(result: Any) -> list[Any]:
    """The arrays (or Tensors) of a result, which may be a nested tuple or list of them."""
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in leaves(part)]
    return [result]


def floating(result: Any) -> list[Any]:
    """Those of its arrays that can have a gradient."""
    return [leaf for leaf in leaves(result) if leaf.dtype.kind == "f"]


def projected(call: Callable[..., Any], weights: list[np.ndarray]) -> Callable[..., float]:
    """The number sum(weight * output) over all outputs, as a function of the arguments."""
    return lambda *arrays: float(sum(np.sum(w * y) for w, y in zip(weights, floating(call(*arrays)), strict=True)))


def first_derivative(f: Callable[..., float], x: list[np.ndarray], v: list[np.ndarray], h: float) -> float:
    """d/dt f(x + t v) at t = 0."""
    return sum(w * f(*(a + k * h * b for a, b in zip(x, v, strict=True))) for k, w in STENCIL) / h


def second_derivative(
    f: Callable[..., float], x: list[np.ndarray], v: list[np.ndarray], u: list[np.ndarray], h: float
) -> float:
    """d/ds d/dt f(x + t v + s u) at s = t = 0."""
    return (
        sum(w * first_derivative(f, [a + k * h * b for a, b in zip(x, u, strict=True)], v, h) for k, w in STENCIL) / h
    )


def units_apart(a: np.ndarray, b: np.ndarray, size: float = 0.0) -> float:
    """By how many units in the last place two arrays differ at most; NaN and infinity must stand in the same places.

    With a `size`, units are those of the largest number, or of the size if that is larger.
    """
    both = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~both], b[~both], equal_nan=True):
        return np.inf
    a, b = a[both], b[both]
    larger = np.maximum(np.abs(a), np.abs(b))
    unit = np.spacing(np.max(larger, initial=size) if size else larger)
    return float(np.max(np.abs(a - b) / unit, initial=0))


def is_of_the_library(fun: Any) -> bool:
    """Whether a function is NumPy's or ours: rules that doctests and tests register for their own do not count.

    The operations behind `checkpoint` and `compile` hold a whole function each; `test_transforms.py` and
    `test_compile.py` are their tests.
    """
    module = getattr(fun, "__module__", None) or "numpy"  # a ufunc has none
    own = ("tinygrad_mm.transforms", "tinygrad_mm.compiler")
    return module.startswith(("numpy", "tinygrad_mm")) and not module.startswith(own)
