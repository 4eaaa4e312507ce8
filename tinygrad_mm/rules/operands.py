"""Operands as rules need them: arrays all, with Python numbers as weak beside them as they are in arithmetic."""

from __future__ import annotations

import numpy as np


def as_arrays(operands):
    """Tensors and arrays as they are; numbers and lists as arrays that widen none of those (an int tensor by a float)."""
    known = [a.dtype for a in operands if _is_array(a)]
    return [a if _is_array(a) else _weak(np.asarray(a), known) for a in operands]


def _is_array(a):
    return hasattr(a, "dtype") and not isinstance(a, np.generic)


def _weak(a, known):
    """NumPy promotes a Python 0.0 or 0 weakly: it counts as the kind of number only."""
    return a.astype(np.result_type(*known, a.dtype.type(0).item())) if known else a


def like(a, b):
    """A Python number as an array of b's dtype, so that it does not change that dtype; anything else as it is."""
    return np.asarray(a, b.dtype) if isinstance(a, (bool, int, float)) else a
