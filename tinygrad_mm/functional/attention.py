"""Attention: each query gathers values by how well their keys match it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.activations import softmax
from tinygrad_mm.functional.random import dropout as dropped
from tinygrad_mm.graph import named_call

__all__ = ["scaled_dot_product_attention"]


@named_call
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    return_weights: bool = False,
) -> Any:
    """softmax(query @ key.T * scale) @ value, with scale = 1 / sqrt(features) (Vaswani et al. 2017).

    `mask` broadcasts to (..., queries, keys): booleans, True where a query may attend, or numbers that are added to the
    products. With `causal`, query i attends to keys 0..i only. A query that may attend to no key gets zeros. `dropout`
    drops weights, by draws from `rng`. With `return_weights`, the softmax is returned beside the result.

    The axis before the last two counts heads: keys and values may have fewer heads, each for a group of the queries'
    (Ainslie et al. 2023).

    Shape: (..., queries, features), (..., keys, features), (..., keys, values) -> (..., queries, values) and, with
    `return_weights`, (..., queries, keys)

    Raises ValueError for shapes that do not fit, TypeError for a mask of another dtype.

    >>> x = np.eye(2)
    >>> scaled_dot_product_attention(x, x, x, causal=True).round(3)
    array([[1.  , 0.  ],
           [0.33, 0.67]])
    """
    options: dict[str, Any] = {
        "causal": causal,
        "scale": scale,
        "dropout": dropout,
        "rng": rng,
        "return_weights": return_weights,
    }
    if (groups := _groups(query, key, value)) > 1:
        query = query.reshape(*query.shape[:-3], groups, -1, *query.shape[-2:])
        if mask is not None and mask.ndim > 2:
            mask = mask.reshape(*mask.shape[:-3], *((groups, -1) if mask.shape[-3] > 1 else (1, 1)), *mask.shape[-2:])
        key, value = np.expand_dims(key, -3), np.expand_dims(value, -3)
        found = scaled_dot_product_attention(query, key, value, mask, **options)
        ungrouped = [y.reshape(*y.shape[:-4], -1, *y.shape[-2:]) for y in (found if return_weights else (found,))]
        return tuple(ungrouped) if return_weights else ungrouped[0]

    _check(query, key, value, mask)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = _weights((query * scale) @ key.swapaxes(-1, -2), mask, causal)
    y = dropped(weights, dropout, rng) @ value
    return (y, weights) if return_weights else y


def _weights(scores: Any, mask: Any, causal: bool) -> Any:
    """softmax(scores) where a query may look, 0 elsewhere."""
    below = np.tri(*scores.shape[-2:], dtype=np.bool_) if causal else None
    if mask is None:  # each query looks at one key at least
        return softmax(scores if below is None else np.where(below, scores, -math.inf))
    if mask.dtype != bool:
        allowed = mask != -math.inf
        scores, mask = scores + np.where(allowed, mask, 0), allowed
    if below is not None:
        mask = mask & below
    lowest = float(np.finfo(scores.dtype).min)  # rather than -inf, which leaves no number for an empty row
    return np.where(mask, softmax(np.where(mask, scores, lowest)), 0)


def _groups(query: Any, key: Any, value: Any) -> int:
    """How many heads of keys there are, where each is for several heads of queries; otherwise 1."""
    if min(query.ndim, key.ndim, value.ndim) < 3 or key.shape[-3] != value.shape[-3]:
        return 1
    heads, groups = query.shape[-3], key.shape[-3]
    return groups if heads != groups and groups and heads % groups == 0 else 1


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
    if mask.dtype != bool and mask.dtype != query.dtype:
        raise TypeError(
            f"attention: the mask is {mask.dtype}; it needs booleans, True where a query may look, or numbers to be "
            f"added: write mask.astype(bool) or mask.astype(np.{query.dtype})"
        )
    wanted = (*np.broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    try:
        fits = np.broadcast_shapes(mask.shape, wanted) == wanted
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"attention: the mask has shape {mask.shape}, which does not broadcast to {wanted}")
