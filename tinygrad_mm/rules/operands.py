"""Operands as rules need them: arrays all, with Python numbers as weak beside them as they are in arithmetic."""

from __future__ import annotations

import numpy as np


def as_arrays(operands):
    """Tensors and arrays as they are; numbers and lists as arrays of the dtype of the Tensors and arrays among them."""
    known = [a.dtype for a in operands if _is_array(a)]
    dtype = np.result_type(*known) if known else None
    return [a if _is_array(a) else np.asarray(a, dtype) for a in operands]


def _is_array(a):
    return hasattr(a, "dtype") and not isinstance(a, np.generic)
