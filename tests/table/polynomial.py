"""The rows of rules/polynomial.py."""

from __future__ import annotations

import numpy as np
from numpy.exceptions import AxisError

from table.row import Row

# fmt: off
ROWS = [
    Row(np.vander,    "n", promotes=True, zero_d=ValueError, ulps=4),
    Row(np.vander,    "n", call=lambda x: np.vander(x, 4, increasing=True), promotes=True, zero_d=ValueError, ulps=4, note="increasing"),
    Row(np.polyval,   "n", "...", zero_d=TypeError, ulps=16),
    Row(np.logspace,  "...", "...", domain=(0.1, 1.5), call=lambda a, b: np.logspace(a, b, 4), ulps=64),
    Row(np.logspace,  "n", "n", "n", domain=(0.5, 1.5), call=lambda a, b, base: np.logspace(a, b, 3, base=base, axis=-1, endpoint=False), ulps=64, note="bases"),
    Row(np.geomspace, "...", "...", domain=(0.5, 3), call=lambda a, b: np.geomspace(a, b, 4), promotes=True, ulps=64),
    Row(np.geomspace, "n", "n", domain=(0.5, 3), call=lambda a, b: np.geomspace(-a, -b, 3, endpoint=False, axis=1), promotes=True, zero_d=AxisError, ulps=64, note="negative"),
]
# fmt: on
