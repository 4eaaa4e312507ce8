"""Derivatives by differences: `np.gradient`, with any spacing."""

from __future__ import annotations

import numpy as np

from tinygrad_mm.graph import defcomposite
from tinygrad_mm.rules.axes import all_axes, along
from tinygrad_mm.rules.operands import as_arrays


def _steps(f, spacing, axes):
    """For each axis the distance between neighbours: a number, or one for each pair of coordinates."""
    if len(spacing) == 0:
        return [1.0] * len(axes)
    if len(spacing) == 1 and np.ndim(spacing[0]) == 0:
        return list(spacing) * len(axes)
    if len(spacing) != len(axes):
        raise TypeError(f"gradient: {len(spacing)} distances were given for {len(axes)} axes")
    steps = []
    for h, a in zip(spacing, axes, strict=True):
        if np.ndim(h) == 0:
            steps.append(h)
            continue
        if np.ndim(h) != 1 or np.shape(h)[0] != f.shape[a]:
            raise ValueError(
                f"gradient: distances are numbers, or coordinates, one for each of the {f.shape[a]} places of axis {a}; "
                f"these have shape {np.shape(h)}"
            )
        (h,) = as_arrays([h])
        h = np.diff(h if h.dtype.kind == "f" else h.astype(np.float64)).astype(f.dtype)
        steps.append(h.reshape((-1,) + (1,) * (f.ndim - 1 - a)))
    return steps


def _along_axis(f, a, h, edge_order):
    """Second order inside, first or second at the edges (Fornberg 1988)."""
    part = lambda start, stop=None: along(f, a, slice(start, stop))
    n = f.shape[a]
    if np.ndim(h) == 0:
        inner = (part(2) - part(0, n - 2)) / (2.0 * h)
        h1 = h2 = k1 = k2 = h
    else:
        h1, h2 = h[:-1], h[1:]
        inner = (
            -h2 / (h1 * (h1 + h2)) * part(0, n - 2)
            + (h2 - h1) / (h1 * h2) * part(1, n - 1)
            + h1 / (h2 * (h1 + h2)) * part(2)
        )
        h1, h2, k1, k2 = h[:1], h[1:2], h[-2:-1], h[-1:]
    if edge_order == 1:
        first = (part(1, 2) - part(0, 1)) / h1
        last = (part(n - 1) - part(n - 2, n - 1)) / k2
    else:
        first = (
            -(2.0 * h1 + h2) / (h1 * (h1 + h2)) * part(0, 1)
            + (h1 + h2) / (h1 * h2) * part(1, 2)
            - h1 / (h2 * (h1 + h2)) * part(2, 3)
        )
        last = (
            k2 / (k1 * (k1 + k2)) * part(n - 3, n - 2)
            - (k2 + k1) / (k1 * k2) * part(n - 2, n - 1)
            + (2.0 * k2 + k1) / (k2 * (k1 + k2)) * part(n - 1)
        )
    return np.concatenate([first, inner, last], axis=a)


def _gradient(f, *spacing, axis=None, edge_order=1):
    (f,) = as_arrays([f])
    f = f.astype(np.float64) if f.dtype.kind in "iu" else f
    axes = all_axes(f, axis)
    steps = _steps(f, spacing, axes)
    if edge_order not in (1, 2):
        raise ValueError(f"gradient: edge_order={edge_order}; use 1 or 2")
    if any(f.shape[a] < edge_order + 1 for a in axes):
        raise ValueError(f"gradient: each axis needs at least {edge_order + 1} elements, the shape is {f.shape}")
    results = tuple(_along_axis(f, a, h, edge_order).astype(f.dtype) for a, h in zip(axes, steps, strict=True))
    return results[0] if len(axes) == 1 else results


defcomposite(np.gradient, _gradient, signature="(...) -> (...) for each axis")
