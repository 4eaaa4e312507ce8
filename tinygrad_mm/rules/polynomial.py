"""Polynomials, and points in geometric order."""

from __future__ import annotations

import numpy as np

from tinygrad_mm.graph import defcomposite
from tinygrad_mm.rules.operands import as_arrays


def _vander(x, N=None, increasing=False):
    """Powers side by side, each the one before times x. Shape: (n,) -> (n, N)"""
    (x,) = as_arrays([x])
    if x.ndim != 1:
        raise ValueError(f"vander: a list is needed; this array has {x.ndim} axes")
    if N is not None and N < 0:
        raise ValueError(f"vander: N={N} must not be negative")
    x = x.astype(np.promote_types(x.dtype, int))
    columns = [np.ones_like(x)]
    for _ in range((x.shape[0] if N is None else N) - 1):
        columns.append(columns[-1] * x)
    columns = columns[: x.shape[0] if N is None else N]
    if not columns:
        return np.reshape(x[:0], (0, 0)) if not x.shape[0] else np.broadcast_to(x[:, None], (*x.shape, 1))[:, :0]
    return np.stack(columns if increasing else columns[::-1], axis=1)


def _polyval(p, x):
    """Horner's scheme, coefficients of the highest power first. Shape: (n,), (...) -> (...)"""
    p, x = as_arrays([p, x])
    if p.ndim == 0:
        raise TypeError("polyval: coefficients are a list; this array has no axes")
    y = np.zeros_like(x)
    for i in range(p.shape[0]):
        y = y * x + p[i]
    return y


def _logspace(start, stop, num=50, endpoint=True, base=10.0, dtype=None, axis=0):
    y = np.linspace(start, stop, num, endpoint=endpoint, axis=axis)
    if np.ndim(base):
        y, base = _beside(start, stop, base, num, endpoint, axis)
    y = np.power(base, y)
    return y if dtype is None else y.astype(dtype)


def _beside(start, stop, base, num, endpoint, axis):
    """Exponents, and bases of which there are several, broadcast against the ends."""
    start, stop, base = np.broadcast_arrays(*as_arrays([start, stop, base]))
    return np.linspace(start, stop, num, endpoint=endpoint, axis=axis), np.expand_dims(base, axis)


def _geomspace(start, stop, num=50, endpoint=True, dtype=None, axis=0):
    """Numbers of one ratio: powers of ten between the logarithms of the ends, and the ends themselves."""
    start, stop = np.broadcast_arrays(*as_arrays([start, stop]))
    if np.any(start == 0) or np.any(stop == 0):
        raise ValueError("geomspace: a geometric sequence has no zero, so neither end may be 0")
    kept = np.result_type(start.dtype, stop.dtype, np.float64)
    start, stop = start.astype(kept), stop.astype(kept)
    sign = np.sign(start)
    powers = np.linspace(np.log10(start / sign), np.log10(stop / sign), num, endpoint=endpoint, axis=0)
    y = sign * np.power(10.0, powers)
    ends = ([start[None]] if num > 0 else []), ([stop[None]] if num > 1 and endpoint else [])
    y = np.concatenate([*ends[0], y[len(ends[0]) : y.shape[0] - len(ends[1])], *ends[1]], axis=0)
    y = np.moveaxis(y, 0, axis)
    return y if dtype is None else y.astype(dtype)


# fmt: off
defcomposite(np.vander,    _vander,    signature="(n,) -> (n, N)")
defcomposite(np.polyval,   _polyval,   signature="(n,), (...) -> (...)")
defcomposite(np.logspace,  _logspace,  signature="(...), (...) -> (n, ...)")
defcomposite(np.geomspace, _geomspace, signature="(...), (...) -> (n, ...)")
# fmt: on
