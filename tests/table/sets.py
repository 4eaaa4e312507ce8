"""The rows of rules/sets.py: values on a lattice are distinct, so that each element is the first of its kind."""

from __future__ import annotations

import numpy as np
from numpy.exceptions import AxisError

from table.row import Row

# fmt: off
ROWS = [
    Row(np.unique,      "...", call=np.unique),
    Row(np.unique,      "n 2", call=lambda x: np.unique(x, axis=0), zero_d=AxisError, note="rows"),
    Row(np.unique,      "n 2", call=lambda x: np.unique(np.concatenate([x, x]), return_counts=True), zero_d=ValueError, note="counts"),
    Row(np.union1d,     "n", "m"),
    Row(np.setdiff1d,   "n", call=lambda x: np.setdiff1d(np.concatenate([x, x[:1] + 10]), x[:1] + 10), zero_d=IndexError),
    Row(np.intersect1d, "n", call=lambda x: np.intersect1d(np.concatenate([x, x[:1] + 10]), x), zero_d=IndexError),
]
# fmt: on
