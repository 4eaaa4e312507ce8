"""Norms of vectors and matrices.

Conventions: a norm has gradient 0 at 0, and an element that is 0 gets gradient 0; where several elements, rows, columns
or singular values are the largest (or smallest), they share the gradient equally. So the second derivative of
`norm(x) ** 2` at 0 is 0, not 2 I: the chain rule multiplies by the gradient of the norm. Write `np.sum(x * x)` there.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_mm.graph import defcomposite, defvjp
from tinygrad_mm.rules.axes import all_axes, kept
from tinygrad_mm.rules.elementwise import quotient


def _shares(chosen, dtype, axis):
    """1 for a chosen element, a half for each of two, ...; 0 for the others."""
    chosen = chosen.astype(dtype)
    return chosen / np.sum(chosen, axis=axis, keepdims=True)


def _norm(g, y, x, order, axis):
    """The gradient of `np.linalg.norm`: of the Euclidean norm x / ‖x‖, and below that of the others."""
    axes = all_axes(x, axis)
    if 0 in x.shape:
        return np.zeros_like(x)
    g, y = kept(g, x, axes), kept(y, x, axes)
    if order is None or order in ("f", "fro") or (len(axes) == 1 and order == 2):
        return g * quotient(x, y)
    if len(axes) == 1:
        return g * _vector_norm(y, x, order, axes)
    if order in (2, -2, "nuc"):
        return g * _spectral_norm(x, order, axes)
    return g * _largest_sum(x, order, axes)


def _vector_norm(y, x, order, axes):
    """(Σ |x|ᵖ)¹ᐟᵖ has the gradient sign(x) (|x| / y)ᵖ⁻¹, and the largest or smallest |x| the sign of that element."""
    if order == 1:
        return np.sign(x)
    if order == 0:  # how many elements are not zero: constant almost everywhere
        return np.zeros_like(x)
    if order in (math.inf, -math.inf):
        return np.sign(x) * _shares(np.abs(x) == y, x.dtype, axes)
    zero = (x == 0) | (y == 0)
    ratio = np.where(zero, 1, np.abs(x) / np.where(zero, 1, y))
    return np.where(zero, 0, np.sign(x)) * ratio ** (float(order) - 1)


def _largest_sum(x, order, axes):
    """The orders 1 and -1 take the largest and the smallest column sum of |x|, inf and -inf those of the rows."""
    rows, columns = axes
    summed, compared = (rows, columns) if order in (1, -1) else (columns, rows)
    sums = np.sum(np.abs(x), axis=summed, keepdims=True)
    top = (np.max if order > 0 else np.min)(sums, axis=compared, keepdims=True)
    return np.sign(x) * _shares(sums == top, x.dtype, compared)


def _spectral_norm(x, order, axes):
    """The orders 2, -2 and nuc take the largest, the smallest and the sum of all singular values: Σ wᵢ uᵢ vᵢᵀ.

    The weights w are 1 for the sum and shares for one value, and 0 where the singular value is (Giles 3.2).
    """
    u, s, vh = np.linalg.svd(np.moveaxis(x, axes, (-2, -1)), full_matrices=False)
    weight = np.sign(s)
    if order != "nuc":
        top = (np.max if order > 0 else np.min)(s, axis=-1, keepdims=True)
        weight = weight * _shares(s == top, s.dtype, -1)
    return np.moveaxis((u * weight[..., None, :]) @ vh, (-2, -1), axes)


def _norm_of_vectors(x, /, *, axis=None, keepdims=False, ord=2):
    """Several axes are flattened to one, as NumPy does it, in the order given."""
    if axis is not None and not isinstance(axis, tuple):
        return np.linalg.norm(x, ord, axis, keepdims)
    axes = all_axes(x, axis)
    rest = tuple(i for i in range(x.ndim) if i not in axes)
    length = math.prod(x.shape[i] for i in axes)
    norms = np.linalg.norm(np.transpose(x, axes + rest).reshape((length, *(x.shape[i] for i in rest))), ord, 0)
    return kept(norms, x, axes) if keepdims else norms


# fmt: off
defvjp(np.linalg.norm,              lambda g, y, x, ord=None, axis=None, keepdims=False: _norm(g, y, x, ord, axis),  signature="(..., n, ...) -> (..., ...)")
defcomposite(np.linalg.vector_norm, _norm_of_vectors,                                                                signature="(..., n, ...) -> (..., ...)")
defcomposite(np.linalg.matrix_norm, lambda x, /, *, keepdims=False, ord="fro": np.linalg.norm(x, ord, (-2, -1), keepdims), signature="(..., n, m) -> (...)")
# fmt: on
