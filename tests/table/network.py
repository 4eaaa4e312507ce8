"""The rows of the network functions in `tinygrad_mm.functional` and of the engine itself.

NumPy has none of these, so each is compared with a formula written here in another way than there.
"""

from __future__ import annotations

import numpy as np
import strategies as my
from hypothesis import strategies as st

from table.row import Row
from tinygrad_mm import functional
from tinygrad_mm.functional.activations import pick
from tinygrad_mm.graph import defvjp, primitive, select


def shares(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def log_of_sum(x: np.ndarray, axis: int = -1, keepdims: bool = False) -> np.ndarray:
    top = np.max(x, axis=axis, keepdims=True, initial=-1e30)
    y = np.logaddexp.reduce(x - top, axis=axis, keepdims=True) + top
    return y if keepdims else np.squeeze(y, axis=axis)


def labels(logits):
    return np.arange(logits.shape[0]) % 2


def losses(logits: np.ndarray, reduction: str) -> np.ndarray:
    if logits.ndim == 0:
        raise IndexError
    each = -np.log(shares(logits)[np.arange(len(logits)), labels(logits)])
    return {"mean": np.mean, "sum": np.sum, "none": lambda v: v}[reduction](each)


@primitive
def sum_and_product(a, b):
    """A call that returns two arrays: the engine records it once, and each output as a selection from it."""
    return a + b, a * b


defvjp(sum_and_product, lambda g, y, a, b: g[0] + g[1] * b, lambda g, y, a, b: g[0] + g[1] * a)

AXIS = {"axis": my.one_axis}

# fmt: off
ROWS = [
    Row(functional.relu,        oracle=lambda x: np.where(x > 0, x, 0).astype(x.dtype)),
    Row(functional.sigmoid,     oracle=lambda x: 1 / (1 + np.exp(-x)), ulps=4),
    Row(functional.sigmoid,     domain=(40, 80), oracle=lambda x: np.ones_like(x), ulps=1, note="saturated"),
    Row(functional.softmax,     "s... n", oracle=shares, ulps=8),
    Row(functional.softmax,     "s... n", options=AXIS, oracle=shares, ulps=8),
    Row(functional.log_softmax, "s... n", oracle=lambda x: np.log(shares(x)), ulps=8, cancels=True),
    Row(functional.log_softmax, "s... n", options=AXIS, oracle=lambda x, axis: np.log(shares(x, axis)), ulps=8, cancels=True),
    Row(functional.logsumexp,   "s... n", oracle=log_of_sum, ulps=64, domain=(1, 3)),
    Row(functional.logsumexp,   "s... n", options={**AXIS, "keepdims": st.booleans()}, oracle=log_of_sum, ulps=64, domain=(1, 3)),
    Row(functional._cross_entropy, "n 2", zero_d=IndexError, options={"reduction": st.sampled_from(["mean", "sum", "none"])}, call=lambda x, reduction: functional._cross_entropy(x, labels(x), reduction), oracle=losses, ulps=8, cancels=True),
    Row(pick, "n 2", zero_d=IndexError, call=lambda x: pick(x, labels(x)), oracle=lambda x: np.take_along_axis(x, labels(x)[:, None], 1)[:, 0]),
    Row(select,                 "...", "...", call=sum_and_product),
    Row(select,                 "...", "...", call=lambda a, b: sum_and_product(a, b)[1], note="one of two"),
]
# fmt: on
