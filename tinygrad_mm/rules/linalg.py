"""Products of arrays, and the functions of `np.linalg`."""

from __future__ import annotations

import numpy as np

from tinygrad_mm.graph import defvjp

# fmt: off


def _swap(x):
    """The last two axes exchanged: the transpose of every matrix in a stack."""
    return np.swapaxes(x, -1, -2) if x.ndim > 1 else x


def _matmul_left(g, a, b):
    """d(a @ b)/da: the gradient times the transpose of b."""
    if b.ndim == 1:
        return np.expand_dims(g, -1) * b
    if a.ndim == 1:
        return np.matmul(b, np.expand_dims(g, -1))[..., 0]
    return np.matmul(g, _swap(b))


def _matmul_right(g, a, b):
    """d(a @ b)/db: the transpose of a times the gradient."""
    if a.ndim == 1:
        return g * a if b.ndim == 1 else np.expand_dims(a, -1) * np.expand_dims(g, -2)
    if b.ndim == 1:
        return np.matmul(_swap(a), np.expand_dims(g, -1))[..., 0]
    if b.ndim == 2 and a.ndim > 2:  # one matrix for a whole stack: the sum over the stack is inside the product
        return np.matmul(a.reshape(-1, a.shape[-1]).T, g.reshape(-1, g.shape[-1]))
    return np.matmul(_swap(a), g)


defvjp(np.matmul, lambda g, y, a, b: _matmul_left(g, a, b),
                  lambda g, y, a, b: _matmul_right(g, a, b), law="(..., n, k), (..., k, m) -> (..., n, m)")
