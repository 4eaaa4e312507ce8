"""The rows of rules/pieces.py; functions that write in place are refused whatever they are given."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from table.row import Row

# fmt: off
ROWS = [
    Row(np.unwrap,           "n 4", options={"axis": st.sampled_from([0, 1])}, domain=(-9, 9), call=lambda x, axis: np.unwrap(x, axis=axis), zero_d=ValueError, ulps=64),
    Row(np.unwrap,           "6", domain=(-9, 9), call=lambda x: np.unwrap(x, period=2.9), zero_d=ValueError, ulps=64, note="period"),
    Row(np.piecewise,        "n m", call=lambda x: np.piecewise(x, [x < 0, x > 1], [lambda v: v * v, np.exp, 0.5])),
    Row(np.piecewise,        "", call=lambda x: np.piecewise(x, [x < 0, x >= 0], [lambda v: v * v, np.exp]), note="0-d"),
    Row(np.apply_along_axis, "2 3 n", options={"axis": st.sampled_from([0, 1, -1])}, call=lambda x, axis: np.apply_along_axis(lambda v: v * np.sum(v), axis, x), ulps=16, zero_d=AxisError, empty=ValueError),
    Row(np.apply_along_axis, "2 3", call=lambda x: np.apply_along_axis(lambda v: np.outer(v, v), 0, x), zero_d=AxisError, note="matrices"),
    Row(np.resize,           "n m", call=lambda x: np.resize(x, (2, 7))),
    Row(np.fft.fftshift,     "n m", zero_d=ValueError),
    Row(np.fft.ifftshift,    "n m", zero_d=ValueError),
    Row(np.full_like,        "", call=lambda v: np.full_like(np.broadcast_to(v, (2, 3)), v)),
    Row(np.full_like,        "n", call=lambda v: np.full_like(v[0], v, shape=(2, v.shape[0])), zero_d=IndexError, empty=IndexError, note="shape"),
    Row(np.ix_,              "n", "m", call=lambda a, b: np.ix_(a, b), zero_d=ValueError),
]
# fmt: on
