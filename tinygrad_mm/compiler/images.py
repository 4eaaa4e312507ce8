"""Windows over images, and pooling, on arrays that keep the examples of a batch along the last axis.

What lies side by side in memory then are the same pixels of all examples. A patch is copied in long runs and a maximum
is taken over whole ones, where rows of a small image are runs of ten numbers; and the products of all patches with the
filters are one product of matrices. `passes.images` brings programs into this layout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.program import Op
from tinygrad_mm.compiler.statements import Array, Lowering, Statement, copy, fill, product, ufunc
from tinygrad_mm.functional.pooling import _max_pool, _to_maxima
from tinygrad_mm.functional.sliding import Pairs, Sizes, overlap_add, padded_shape, places_of, windows

__all__ = [
    "LOWERINGS_OF_IMAGES",
    "examples_last",
    "max_pool_last",
    "overlap_add_last",
    "pieces",
    "short_product",
    "to_maxima_last",
    "windows_last",
]

# ---------------------------------------------------------------------------------------------------------------------
# What they compute
# ---------------------------------------------------------------------------------------------------------------------


def _first(x: Any) -> Any:
    return np.moveaxis(x, -1, 0)


def examples_last(x: Any) -> Any:
    """The examples along the last axis, in memory of their own. Shape: (n, ...) -> (..., n)"""
    return np.ascontiguousarray(np.moveaxis(x, 0, -1))


def windows_last(x: Any, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """`windows`. Shape: (channels, height, width, n) -> (channels * size[0] * size[1], places, n)"""
    return examples_last(windows(_first(x), size, stride, padding, dilation))


def overlap_add_last(patches: Any, shape: Sizes, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """`overlap_add`; `shape` has the examples first. Shape: (channels * size, places, n) -> (channels, h, w, n)"""
    return examples_last(overlap_add(_first(patches), shape, size, stride, padding, dilation))


def max_pool_last(x: Any, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """The largest under each place of a window. Shape: (channels, h, w, n) -> (channels, h', w', n)"""
    return examples_last(_max_pool(_first(x), size, stride, padding, dilation))


def to_maxima_last(g: Any, y: Any, x: Any, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """Numbers sent to where the maxima were. Shape: (channels, h', w', n) -> (channels, h, w, n)"""
    return examples_last(_to_maxima(_first(g), _first(y), _first(x), size, stride, padding, dilation))


def short_product(a: Any, b: Any) -> Any:
    """A product of matrices of which the second is long. Shape: (f, k), (k, p) -> (f, p)"""
    return np.dot(a, b)


def pieces(products: int, length: int) -> int:
    """Into how many pieces of one length a long product is cut; 1 for not at all.

    OpenBLAS has a quick way for products of up to a million multiply-adds, three times as fast where few rows meet few
    columns; in larger ones those sides are too short to be worth its copies.
    """
    if products > 1024 or products * length <= 1_000_000:
        return 1
    for count in range(2, length // 256 + 1):
        if length % count == 0 and products * (length // count) <= 1_000_000:
            return count
    return 1


# ---------------------------------------------------------------------------------------------------------------------
# How they are written
# ---------------------------------------------------------------------------------------------------------------------


def _inside(array: Array, padding: Pairs, lengths: Any) -> Array:
    """What lies between the padding."""
    ends = [slice(None), *(slice(p[0], p[0] + n) for p, n in zip(padding, lengths, strict=True))]
    return array.at(", ".join([":", *(f"{e.start}:{e.stop}" for e in ends[1:])]), tuple(ends))


def _padded(x: Array, pad: Array, number: float, padding: Pairs) -> list[Statement]:
    return [fill(pad, number), copy(x, _inside(pad, padding, x.shape[1:-1]))]


def _under(array: Array, size: Sizes, stride: Sizes, dilation: Sizes, places: Sizes) -> list[Array]:
    """What lies under each offset in the window, at all places."""
    found = []
    for offset in itertools.product(*map(range, size)):
        key = [
            slice(o * d, o * d + s * (n - 1) + 1, s)
            for o, s, d, n in zip(offset, stride, dilation, places, strict=True)
        ]
        along = (f"{k.start}:{k.stop}:{k.step}".removesuffix(":1") for k in key)
        found.append(array.at(f":, {', '.join(along)}", (slice(None), *key), "under_window"))
    return found


def _wide(shape: Any, padding: Pairs) -> tuple[Sizes, bool]:
    """(the shape with its padding, whether there is any) for images with the examples last."""
    channels, *lengths, n = shape
    wide = padded_shape((n, channels, *lengths), padding)
    return (*wide[1:], n), any(map(any, padding))


def _examples_last(op: Op) -> Lowering:
    axes = (*range(1, op.result.ndim), 0)
    return Lowering(lambda out, a, s: [copy(a[0].transpose(*axes), out)])


def _windows(op: Op) -> Lowering:
    x, size, stride, padding, dilation = op.args
    channels, *_, n = x.shape
    wide, is_padded = _wide(x.shape, padding)
    places = places_of(wide[1:-1], size, stride, dilation)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True))
    steps = f"[:, ::{stride[0]}, ::{stride[1]}, :, ::{dilation[0]}, ::{dilation[1]}]"
    form = f"np.lib.stride_tricks.sliding_window_view({{}}, {reach}, (1, 2)){steps}.transpose(0, 4, 5, 1, 2, 3)"

    def look(array: Any) -> Any:
        seen = np.lib.stride_tricks.sliding_window_view(array, reach, (1, 2))
        steps = ([slice(None, None, k) for k in along] for along in (stride, dilation))
        rows, inside = map(tuple, steps)
        key = (slice(None), *rows, slice(None), *inside)
        return seen[key].transpose(0, 4, 5, 1, 2, 3)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        first = _padded(a[0], scratch[0], 0, padding) if is_padded else []
        whole: Array = scratch[0] if is_padded else a[0]
        under = whole.seen(look, form, "under_window")
        assert under is not None
        return [*first, copy(under, out.reshape(channels, *size, *places, n))]

    return Lowering(statements, scratch=[(wide, x.dtype)] if is_padded else [])


def _overlap_add(op: Op) -> Lowering:
    patches, shape, size, stride, padding, dilation = op.args
    n, channels, *lengths = shape
    wide, is_padded = _wide(op.result.shape, padding)
    places = places_of(wide[1:-1], size, stride, dilation)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        whole = scratch[0] if is_padded else out
        stack = a[0].reshape(channels, math.prod(size), *places, n)
        written = [fill(whole, 0)]
        for i, under in enumerate(_under(whole, size, stride, dilation, places)):
            patch = stack.at(f":, {i}", (slice(None), i), "patch")
            written.append(ufunc(np.add, under, patch, out=under))
        return [*written, copy(_inside(whole, padding, lengths), out)] if is_padded else written

    return Lowering(statements, scratch=[(wide, patches.dtype)] if is_padded else [], whole=(0,))


def _pool(op: Op) -> Lowering:
    x, size, stride, padding, dilation = op.args
    wide, is_padded = _wide(x.shape, padding)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        whole = scratch[0] if is_padded else a[0]
        first = _padded(a[0], whole, -np.inf, padding) if is_padded else []
        under = _under(whole, size, stride, dilation, op.result.shape[1:-1])
        if len(under) == 1:
            return [*first, copy(under[0], out)]
        start = ufunc(np.maximum, under[0], under[1], out=out)
        return [*first, start, *(ufunc(np.maximum, out, u, out=out) for u in under[2:])]

    return Lowering(statements, scratch=[(wide, x.dtype)] if is_padded else [])


def _maxima(op: Op) -> Lowering:
    _, y, x, size, stride, padding, dilation = op.args
    wide, is_padded = _wide(x.shape, padding)
    count = math.prod(size)
    apart = all(s >= d * (k - 1) + 1 for s, d, k in zip(stride, dilation, size, strict=True))
    tiled = (
        apart and stride == size and all(p * k == w for p, k, w in zip(y.shape[1:-1], size, wide[1:-1], strict=True))
    )

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        share, *largest = scratch[: count + 1]
        whole, to = (scratch[-2], scratch[-1]) if is_padded else (a[2], out)
        written = _padded(a[2], whole, -np.inf, padding) if is_padded else []
        for under, here in zip(_under(whole, size, stride, dilation, y.shape[1:-1]), largest, strict=True):
            written.append(ufunc(np.equal, under, a[1], out=here))
        for i, here in enumerate(largest[1:]):  # several may be largest, and share
            written.append(ufunc(np.add, share if i else largest[0], here, out=share))
        written.append(ufunc(np.maximum, share if count > 1 else largest[0], 1, out=share))
        written.append(ufunc(np.divide, a[0], share, out=share))
        if not tiled:
            written.append(fill(to, 0))
        for place, here in zip(_under(to, size, stride, dilation, y.shape[1:-1]), largest, strict=True):
            written.append(ufunc(np.multiply, share, here, out=place if apart else here))
            if not apart:
                written.append(ufunc(np.add, place, here, out=place))
        return [*written, copy(_inside(to, padding, x.shape[1:-1]), out)] if is_padded else written

    scratch = [(y.shape, y.dtype)] * (count + 1) + [(wide, x.dtype)] * (2 if is_padded else 0)
    return Lowering(statements, scratch=scratch)


def _short_product(op: Op) -> Lowering:
    (f, k), (_, p) = op.args[0].shape, op.args[1].shape
    n = pieces(f * k, p)

    def statements(out: Array, x: list[Any], scratch: list[Array]) -> list[Statement]:
        if n == 1:
            return [product(x[0], x[1], out)]
        b, to = (m.reshape(r, n, p // n).transpose(1, 0, 2) for m, r in ((x[1], k), (out, f)))
        return [product(x[0], b, to)]

    return Lowering(statements, whole=(1,))


LOWERINGS_OF_IMAGES: dict[Any, Callable[[Op], Lowering]] = {
    examples_last: _examples_last,
    windows_last: _windows,
    overlap_add_last: _overlap_add,
    max_pool_last: _pool,
    to_maxima_last: _maxima,
    short_product: _short_product,
}
