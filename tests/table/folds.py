"""The rows of rules/folds.py: methods of ufuncs."""

from __future__ import annotations

import numpy as np
import strategies as my
from numpy.exceptions import AxisError

from table.row import Row

UFUNCS = [
    np.maximum,
    np.minimum,
    np.fmax,
    np.fmin,
    np.logaddexp,
    np.logaddexp2,
    np.hypot,
    np.subtract,
    np.divide,
    np.copysign,
]
POSITIVE = (0.5, 2.5)  # a fold divides, and takes lengths

# fmt: off
ROWS = [row for fun in UFUNCS for row in (
    Row(fun, "n ...", domain=POSITIVE, call=fun.accumulate,                                     zero_d=TypeError, ulps=4, note="accumulate"),
    Row(fun, "n m",   domain=POSITIVE, call=lambda x, f=fun: f.accumulate(x, axis=-1),          zero_d=TypeError, ulps=4, note="accumulate along the last axis"),
    Row(fun, "3 ...", domain=POSITIVE, call=fun.reduce, ulps=4, note="reduce"),
    Row(fun, "n 2",   domain=POSITIVE, call=lambda x, f=fun: f.reduce(x, axis=1, keepdims=True), zero_d=AxisError, ulps=4, note="reduce, keepdims"),
    Row(fun, "n 4",   domain=POSITIVE, call=lambda x, f=fun: f.reduceat(x, [0, 2, 1, 3], axis=1), zero_d=AxisError, ulps=4, note="reduceat"),
    Row(fun, "n",     "m", domain=POSITIVE, call=fun.outer,                                     ulps=4, note="outer"),
)]
ROWS += [
    Row(np.add,       "n 4", call=lambda x: np.add.reduceat(x, [0, 2, 1, 3], axis=1), zero_d=AxisError, ulps=4, note="reduceat"),
    Row(np.multiply,  "5",   call=lambda x: np.multiply.reduceat(x, [0, 3]), zero_d=TypeError, ulps=4, note="reduceat"),
    Row(np.hypot,     "n 3", "n 3", options={"mask": my.mask}, domain=POSITIVE, call=lambda x, y, mask: np.hypot.reduce(np.where(mask, x, y), axis=1, initial=1.5, where=mask), zero_d=AxisError, ulps=4, note="where"),
]
# fmt: on
