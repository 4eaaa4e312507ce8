"""The rows of rules/statistics.py."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from table.row import Row

PLACES = np.array([0, 2, 1, 2, 0])

# fmt: off
ROWS = [
    Row(np.cov,        "n 4", call=lambda a: np.cov(a[:]), promotes=True, ulps=16, cancels=True, zero_d=IndexError, note="several variables"),
    Row(np.cov,        "4 2", "4 1", call=lambda a, b: np.cov(a[:], b, rowvar=False), promotes=True, ulps=16, cancels=True, zero_d=IndexError, note="in columns"),
    Row(np.cov,        "2 4", "4", domain=[(-3, 3), (0.5, 2)], call=lambda a, w: np.cov(a, aweights=w, fweights=[1, 2, 1, 3]), promotes=True, ulps=16, cancels=True, zero_d=RuntimeError, note="weights"),
    Row(np.cov,        "4", call=lambda a: np.cov(a, bias=True), promotes=True, ulps=16, cancels=True, note="one variable"),
    Row(np.corrcoef,   "n 4", call=lambda a: np.corrcoef(a[:]), promotes=True, zero_d=IndexError, ulps=16, cancels=True, tolerance=1e-4),
    Row(np.corrcoef,   "4", "4", call=lambda a, b: np.corrcoef(a[:], b), promotes=True, zero_d=IndexError, ulps=16, cancels=True, tolerance=1e-4, note="two lists"),
    Row(np.correlate,  "n", "m", options={"mode": st.sampled_from(["valid", "same", "full"])}, zero_d=ValueError, empty=ValueError, ulps=64),
    Row(np.correlate,  "2", "5", options={"mode": st.sampled_from(["valid", "same", "full"])}, zero_d=ValueError, ulps=64, note="the shorter first"),
    Row(np.bincount,   "n", call=lambda w: np.bincount(PLACES[: w.shape[0]], weights=w, minlength=4), promotes=True, zero_d=IndexError, ulps=4),
    Row(np.histogram,  "n 3", "n 3", call=lambda a, w: np.histogram(a, bins=4, range=(-3.2, 3.4), weights=w)[0], ulps=64),
    Row(np.histogram,  "2 3", call=lambda a: np.histogram(a, bins=3)[1], ulps=64, note="edges"),
    Row(np.histogram,  "6", "4", domain=[(-3, 3), (1, 2)], call=lambda a, e: np.histogram(a, np.cumsum(e) - 4.013, density=True)[0], promotes=True, ulps=64, note="a density between edges"),
]
# fmt: on
