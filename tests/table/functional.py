"""The rows of `tinygrad_mm.functional` beyond those in `network.py`: what images, sequences and normalisation need.

Each is compared with a formula written here in another way than there: loops over places, the standard library's erf.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from table.row import Row
from tinygrad_mm import functional
from tinygrad_mm.functional import pooling

# size, stride, padding, dilation: overlapping windows, windows that tile, and gaps between and inside them
SLIDES = [
    ((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    ((2, 3), (2, 3), ((0, 0), (1, 1)), (1, 1)),
    ((2, 2), (3, 1), ((1, 0), (1, 2)), (1, 2)),
]
GRID = (5, 4)


def patch_indices(slide):
    """For each place of the window and each offset in it, the index into an image, None in the padding."""
    size, stride, padding, dilation = slide
    places = [
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(GRID, size, stride, padding, dilation, strict=True)
    ]
    for place in itertools.product(*map(range, places)):
        column = []
        for offset in itertools.product(*map(range, size)):
            index = tuple(
                i * s + o * d - p[0] for i, o, s, d, p in zip(place, offset, stride, dilation, padding, strict=True)
            )
            column.append(index if all(0 <= i < n for i, n in zip(index, GRID, strict=True)) else None)
        yield column


def patches_one_by_one(x, slide):
    if x.ndim != 4:
        raise ValueError
    columns = [
        np.stack([np.zeros_like(x[:, :, 0, 0]) if i is None else x[:, :, i[0], i[1]] for i in column], axis=-1)
        for column in patch_indices(slide)
    ]
    return np.stack([c.reshape(len(x), x.shape[1] * c.shape[-1]) for c in columns], axis=-1)


def added_one_by_one(p, slide):
    if p.ndim != 3:
        raise IndexError
    channels = p.shape[1] // math.prod(slide[0])
    out = np.zeros((len(p), channels, *GRID), p.dtype)
    columns = list(patch_indices(slide))
    p = p.reshape(len(p), channels, math.prod(slide[0]), len(columns))
    for o in range(math.prod(slide[0])):  # the same order of additions as there
        for k, column in enumerate(columns):
            if column[o] is not None:
                out[:, :, column[o][0], column[o][1]] += p[:, :, o, k]
    return out


def largest_one_by_one(x, slide):
    if x.ndim != 4:
        raise ValueError
    tops = [np.max([x[:, :, i[0], i[1]] for i in column if i is not None], axis=0) for column in patch_indices(slide)]
    rows = (GRID[0] + sum(slide[2][0]) - slide[3][0] * (slide[0][0] - 1) - 1) // slide[1][0] + 1
    return np.stack(tops, axis=-1).reshape(*x.shape[:2], rows, len(tops) // rows)


def patches_of(x, slide):
    return functional.windows(x, *slide)


def added_up(p, slide):
    return functional.overlap_add(p, (p.shape[0], 2, *GRID), *slide)


def pooled(x, slide):
    return pooling._max_pool(x, *slide)


MAXIMA = np.random.default_rng(0).permutation(2 * 20).reshape(1, 2, *GRID).astype(np.float32)
TOPS = largest_one_by_one(MAXIMA, SLIDES[0])


def chosen(columns):
    """For each place, the index of the maximum of each channel of MAXIMA."""
    for k, column in enumerate(columns):
        for c in range(2):
            yield k, c, max(column, key=lambda i, c=c: MAXIMA[0, c, i[0], i[1]])


def sent_one_by_one(v):
    out = np.zeros((v.shape[0], 2, *GRID), v.dtype)
    flat = v.reshape(v.shape[0], 2, 12)
    for k, c, i in chosen(list(patch_indices(SLIDES[0]))):
        out[:, c, i[0], i[1]] += flat[:, c, k]
    return out


def gathered_one_by_one(v):
    out = np.zeros((v.shape[0], 2, 12), v.dtype)
    for k, c, i in chosen(list(patch_indices(SLIDES[0]))):
        out[:, c, k] = v[:, c, i[0], i[1]]
    return out.reshape(v.shape[0], 2, 4, 3)


def maxima(v):
    """The images whose maxima are meant, the same one for every image of v, and their tops."""
    return np.repeat(TOPS, v.shape[0], axis=0), np.repeat(MAXIMA, v.shape[0], axis=0)


def standardized(x, axes, epsilon):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + x.dtype.type(epsilon)), mean, variance


def unstacked(x, axis):
    return tuple(np.take(x, i, axis) for i in range(x.shape[axis]))


def erf(x):
    return np.vectorize(math.erf, otypes=[x.dtype])(x) if x.size else x


def normal_probability(x):
    return np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)), otypes=[np.float64])(x) if x.size else x


def gelu(x, approximate):
    if approximate == "none":
        return (x * normal_probability(x)).astype(x.dtype)
    v = x.astype(np.float64)
    return (v / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))).astype(x.dtype)


SLIDE = {"slide": st.sampled_from(SLIDES)}

# fmt: off
ROWS = [
    Row(functional.leaky_relu, options={"negative_slope": st.sampled_from([0.01, 0.5])}, oracle=lambda x, negative_slope: (np.maximum(x, 0) + negative_slope * np.minimum(x, 0)).astype(x.dtype)),
    Row(functional.elu,        options={"alpha": st.sampled_from([1.0, 0.5])}, oracle=lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(np.minimum(x, 0).astype(np.float64)) - 1)).astype(x.dtype), ulps=8),
    Row(functional.gelu,       options={"approximate": st.sampled_from(["none", "tanh"])}, domain=(-1, 3), oracle=gelu, ulps=64),
    Row(functional.erf,        oracle=erf, ulps=4),
    Row(functional.erf,        oracle=erf, ulps=4, domain=(3, 7), note="saturated"),
    Row(functional.windows,     "n c 5 4", call=patches_of, options=SLIDE, oracle=patches_one_by_one, zero_d=ValueError),
    Row(functional.overlap_add, "n 8 12", call=added_up, options={"slide": SLIDES[0]}, oracle=added_one_by_one, zero_d=IndexError),
    Row(functional.overlap_add, "n 12 4", call=added_up, options={"slide": SLIDES[1]}, oracle=added_one_by_one, zero_d=IndexError),
    Row(pooling._max_pool,      "n c 5 4", call=pooled, options=SLIDE, oracle=largest_one_by_one, zero_d=ValueError),
    Row(pooling._to_maxima,     "n 2 4 3", call=lambda v: pooling._to_maxima(v, *maxima(v), *SLIDES[0]), oracle=sent_one_by_one, ulps=8, domain=(0.2, 3), zero_d=IndexError),
    Row(pooling._at_maxima,     "n 2 5 4", call=lambda v: pooling._at_maxima(v, *maxima(v), *SLIDES[0]), oracle=gathered_one_by_one, zero_d=IndexError),
    Row(functional.standardize, "n 3 2", options={"axes": st.sampled_from([(0, 1, 2), (1, 2), (-1,)]), "epsilon": st.sampled_from([1e-5, 0.1])}, oracle=standardized, ulps=256, zero_d=AxisError),
    Row(functional.unstack,     "2 s...", options={"axis": 0}, oracle=unstacked, zero_d=IndexError),
    Row(functional.unstack,     "s... 2", options={"axis": -1}, oracle=unstacked, zero_d=IndexError),
]
# fmt: on
