"""Attention: each query gathers values by how well their keys match it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.activations import softmax
from tinygrad_mm.graph import named_call

__all__ = ["scaled_dot_product_attention"]


@named_call
def scaled_dot_product_attention(query: Any, key: Any, value: Any, mask: Any = None, causal: bool = False) -> Any:
    """softmax(query @ key.T / sqrt(features)) @ value (Vaswani et al. 2017).

    `mask` holds booleans that broadcast to (..., queries, keys): True where a query may look. With `causal`, query i
    looks at keys 0..i only. A query that may look nowhere gets zeros.

    Shape: (..., queries, features), (..., keys, features), (..., keys, values) -> (..., queries, values)

    Raises ValueError for shapes that do not fit, TypeError for a mask that is not boolean.

    >>> x = np.eye(2)
    >>> scaled_dot_product_attention(x, x, x, causal=True).round(3)
    array([[1.  , 0.  ],
           [0.33, 0.67]])
    """
    _check(query, key, value, mask)
    queries, keys = query.shape[-2], key.shape[-2]
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.swapaxes(-1, -2)
    if mask is None:
        if causal:  # each query looks at one key at least
            scores = np.where(np.tri(queries, keys, dtype=bool), scores, -math.inf)
        return softmax(scores) @ value
    if causal:
        mask = mask & np.tri(queries, keys, dtype=bool)
    lowest = float(np.finfo(scores.dtype).min)  # rather than -inf, which leaves no number for an empty row
    weights = softmax(np.where(mask, scores, lowest))
    return np.where(mask, weights, 0) @ value


def _check(query: Any, key: Any, value: Any, mask: Any) -> None:
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ValueError(f"attention: {shapes}: each needs at least the axes (positions, features)")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"attention: {shapes}: query and key need the same number of features")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(f"attention: {shapes}: there must be one value for each key")
    if mask is None:
        return
    if mask.dtype != bool:
        raise TypeError(f"attention: the mask is {mask.dtype}; it needs booleans, True where a query may look")
    wanted = (*np.broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    try:
        fits = np.broadcast_shapes(mask.shape, wanted) == wanted
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"attention: the mask has shape {mask.shape}, which does not broadcast to {wanted}")
