"""Statistics of samples: covariances, correlations, and counts that weigh."""

from __future__ import annotations

import warnings

import numpy as np

from tinygrad_mm.graph import defcomposite, defstopped, primitive
from tinygrad_mm.rules.indexing import Slot, scatter
from tinygrad_mm.rules.operands import as_arrays

# In NumPy 2.2 and later, the observations of one variable in columns are turned too.
ONE_ROW_TURNS = np.cov(np.ones((1, 2)), rowvar=False, ddof=0).ndim == 2


def _rows(m, turned):
    """Variables in rows: a list is one variable."""
    if m.ndim > 2:
        raise ValueError(f"cov: an array with at most 2 axes is needed; this one has {m.ndim}")
    if m.ndim < 2:
        return m.reshape(1, -1)
    return m.T if turned and (m.shape[0] != 1 or ONE_ROW_TURNS) else m


def _weights(weights, n, name, whole=False):
    """One weight for each observation, not negative."""
    (weights,) = as_arrays([weights])
    if whole and np.any(weights != np.round(weights)):
        raise TypeError(f"cov: {name} counts observations: whole numbers")
    if weights.ndim > 1:
        raise RuntimeError(f"cov: {name} has {weights.ndim} axes; it is a list")
    if weights.shape[0] != n:
        raise RuntimeError(f"cov: {name} has {weights.shape[0]} weights for {n} observations")
    if np.any(weights < 0):
        raise ValueError(f"cov: {name} must not be negative")
    return weights


def _cov(m, y=None, rowvar=True, bias=False, ddof=None, fweights=None, aweights=None, *, dtype=None):
    """The weighted products of deviations from the mean. Shape: (k, n) -> (k, k)"""
    if ddof is not None and ddof != int(ddof):
        raise ValueError(f"cov: ddof={ddof} must be an integer")
    m, *more = as_arrays([m] if y is None else [m, y])
    if dtype is not None and np.dtype(dtype).kind not in "fc":
        raise TypeError(f"cov: dtype={dtype} holds no covariances; take a floating one")
    dtype = np.result_type(m.dtype, *(a.dtype for a in more), np.float64) if dtype is None else dtype
    x = np.concatenate([_rows(a.astype(dtype), not rowvar) for a in (m, *more)], axis=0)
    n = x.shape[1]
    if not x.shape[0]:
        return x @ x.T
    ddof = (0 if bias else 1) if ddof is None else ddof
    weights = None
    if fweights is not None:
        weights = _weights(fweights, n, "fweights", whole=True).astype(np.float64)
    if aweights is not None:
        aweights = _weights(aweights, n, "aweights").astype(np.float64)
        weights = aweights if weights is None else weights * aweights
    mean = np.average(x, axis=1, weights=weights)
    total = n if weights is None else np.sum(weights)
    freedom = total - ddof
    if weights is not None and ddof and aweights is not None:
        freedom = total - ddof * np.sum(weights * aweights) / total
    if np.any(freedom <= 0):
        warnings.warn("Degrees of freedom <= 0 for slice", RuntimeWarning, stacklevel=4)
        freedom = 0.0
    x = x - mean[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        c = (x @ (x if weights is None else x * weights).T) * np.true_divide(1, freedom)
    return np.squeeze(c)


def _corrcoef(x, y=None, rowvar=True, *, dtype=None):
    """Covariances divided by the deviations of both variables, and held within [-1, 1]."""
    c = np.cov(x, y, rowvar, dtype=dtype)
    if c.ndim == 0:
        return c / c
    deviation = np.sqrt(np.diagonal(c))
    return np.clip(c / deviation[:, None] / deviation[None, :], -1, 1)


def _correlate(a, v, mode="valid"):
    """A convolution with the second list backwards; the shorter list goes along the longer one."""
    a, v = as_arrays([a, v])
    if a.ndim != 1 or v.ndim != 1:
        raise ValueError(f"correlate: two lists are needed; these have the shapes {a.shape} and {v.shape}")
    if a.shape[0] < v.shape[0]:
        return _correlate(v, a, mode)[::-1]
    return np.convolve(a, v[::-1], mode)


@primitive
def counts(x, minlength=0):
    """How often each of the numbers 0, 1, 2, ... is in a list of integers: `np.bincount` without weights."""
    return np.bincount(x, minlength=minlength)


def _bincount(x, /, weights=None, minlength=0):
    number = counts(x, minlength)
    if weights is None:
        return number
    (x,), (weights,) = as_arrays([x]), as_arrays([weights])
    if x.shape != weights.shape:
        raise ValueError(f"bincount: {x.shape[0]} numbers have weights of shape {weights.shape}; give one for each")
    sums = scatter(weights.astype(np.float64), number.shape, (Slot(0),), x)
    return sums if x.shape[0] else sums.astype(number.dtype)  # NumPy counts where there is nothing to weigh


@primitive
def bin_numbers(a, edges):
    """In which bin each element lies, the last one with both its edges; elsewhere one more than there are bins.

    Shape: (n,), (m + 1,) -> (n,)
    """
    number = np.searchsorted(edges, a, side="right") - 1
    number = np.where(a == edges[-1], len(edges) - 2, number)
    return np.where((a >= edges[0]) & (a <= edges[-1]), number, len(edges) - 1)


def _histogram(a, bins=10, range=None, density=None, weights=None):
    """Weights summed over bins between edges: of equal width, from the smallest to the largest element, or given."""
    a, *more = as_arrays([a] if weights is None else [a, weights])
    if more and more[0].shape != a.shape:
        raise ValueError(f"histogram: elements of shape {a.shape} have weights of shape {more[0].shape}")
    a, *more = (x.reshape(-1) for x in (a, *more))
    if isinstance(bins, str):
        raise TypeError(f"histogram: bins={bins!r} chooses a width by the data; give a number of bins or their edges")
    if np.ndim(bins) == 0:
        edges = _edges(a, bins, range)
    else:
        (edges,) = as_arrays([bins])
        if edges.ndim > 1 or np.any(edges[1:] < edges[:-1]):
            raise ValueError("histogram: the edges in bins must be a list that does not fall")
    places = bin_numbers(a, edges)
    n = edges.shape[0] - 1
    weight = more[0] if more else np.ones(a.shape, np.int64)
    sums = scatter(weight, (n + 1,), (Slot(0),), places)[:-1]
    if density:
        widths = np.diff(edges).astype(np.float64)
        return sums / widths / np.sum(sums), edges
    return sums, edges


def _edges(a, bins, range):
    if bins != int(bins):
        raise TypeError(f"histogram: bins={bins} must be a positive integer")
    if bins < 1:
        raise ValueError(f"histogram: bins={bins} must be a positive integer")
    if range is not None:
        low, high = range
        if low > high:
            raise ValueError(f"histogram: range={range} must rise")
    else:
        low, high = (np.min(a), np.max(a)) if a.shape[0] else (0, 1)
    low, high, _ = as_arrays([low, high, a])
    if not np.all(np.isfinite(low) & np.isfinite(high)):
        raise ValueError("histogram: the range of the data is not finite; give range=")
    same = low == high
    dtype = np.result_type(low.dtype, high.dtype, a.dtype)
    dtype = dtype if dtype.kind == "f" else np.float64
    return np.linspace(np.where(same, low - 0.5, low), np.where(same, high + 0.5, high), int(bins) + 1, dtype=dtype)


# fmt: off
defcomposite(np.cov,       _cov,       signature="(k, n) -> (k, k)")
defcomposite(np.corrcoef,  _corrcoef,  signature="(k, n) -> (k, k)")
defcomposite(np.correlate, _correlate, signature="(n,), (m,) -> (n - m + 1,)")
defcomposite(np.bincount,  _bincount,  signature="(n,), (n,) -> (m,)")
defcomposite(np.histogram, _histogram, signature="(...), (m + 1,), (...) -> (m,), (m + 1,)")
# fmt: on
defstopped(counts, bin_numbers)
