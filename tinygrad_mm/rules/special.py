"""Bessel functions: what the derivatives of `np.i0` are made of."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_mm.graph import defcomposite, defvjp, primitive


@primitive
def bessel_i(x, order):
    """The modified Bessel function of the first kind and whole order, (1 / pi) * integral of exp(x cos t) cos(order t).

    The trapezoidal rule converges geometrically here (Trefethen and Weideman 2014). Shape: (...) -> (...)
    """
    x = np.asarray(x)
    wide = x.astype(np.float64)
    if wide.size == 0:
        return np.empty(wide.shape, x.dtype)
    finite = np.abs(wide[np.isfinite(wide)])
    points = 32 + order + int(10 * math.sqrt(finite.max(initial=0.0)) + min(finite.max(initial=0.0), 32))
    total = np.zeros(wide.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        for t in 2 * math.pi * np.arange(points) / points:
            total += np.exp(wide * math.cos(t)) * math.cos(order * t)
    return (total / points).astype(x.dtype)


defvjp(bessel_i, lambda g, y, x, order: g * (bessel_i(x, abs(order - 1)) + bessel_i(x, order + 1)) / 2)


@primitive
def bessel_i0(x):
    """`np.i0` itself."""
    return np.i0(x)


defvjp(bessel_i0, lambda g, y, x: g * bessel_i(x, 1))
defcomposite(np.i0, lambda x: bessel_i0(x), signature="(...) -> (...)")
