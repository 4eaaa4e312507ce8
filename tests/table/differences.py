"""The rows of rules/differences.py."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from table.row import Row

EDGES = {"edge_order": st.sampled_from([1, 2])}


def places(steps):
    """Coordinates, one more than there are distances."""
    return np.concatenate([steps[:1] * 0, np.cumsum(steps)])


# fmt: off
ROWS = [
    Row(np.gradient, "4 3", options=EDGES, call=lambda x, edge_order: np.gradient(x, 0.5, edge_order=edge_order), ulps=16, note="edges"),
    Row(np.gradient, "4 3", "3", "2", domain=[(-3, 3), (0.5, 1), (0.5, 1)], options=EDGES, call=lambda x, a, b, edge_order: np.gradient(x, places(a), places(b), edge_order=edge_order), ulps=256, zero_d=IndexError, note="coordinates", tolerance=1e-4),
    Row(np.gradient, "n 4", options=EDGES, call=lambda x, edge_order: np.gradient(x, [0.0, 1.0, 2.5, 3.0], axis=1, edge_order=edge_order), ulps=4, cancels=True, zero_d=AxisError, note="along one axis"),
]
# fmt: on
