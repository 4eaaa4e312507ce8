"""The rows of rules/special.py."""

from __future__ import annotations

import math

import numpy as np

from table.row import Row
from tinygrad_mm.rules.special import bessel_i, bessel_i0


def series(x, order):
    """The definition: sum over k of (x / 2) ** (2 k + order) / (k! (k + order)!)."""
    x, dtype = x.astype(np.float64), x.dtype
    terms = ((x / 2) ** (2 * k + order) / (math.factorial(k) * math.factorial(k + order)) for k in range(30))
    return sum(terms).astype(dtype)


# fmt: off
ROWS = [
    Row(np.i0,     "...", ulps=4),
    Row(bessel_i0, "...", oracle=np.i0, ulps=4),
    *(Row(bessel_i, "...", options={"order": n}, oracle=series, ulps=16, cancels=True) for n in range(4)),
]
# fmt: on
