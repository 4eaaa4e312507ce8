"""Windows over images, and pooling, written into arrays whose axes lie in memory as a pass has said.

Without an order of axes they stay plain calls. With the examples of a batch along the innermost axis, a patch is copied
in long runs and a maximum is taken over whole ones, where rows of a small image are runs of ten numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.program import Op, Value
from tinygrad_mm.compiler.statements import Array, Lowering, Statement, copy, fill, ufunc
from tinygrad_mm.functional.pooling import _max_pool, _to_maxima
from tinygrad_mm.functional.sliding import Pairs, Sizes, offsets, overlap_add, padded_shape, places_of, windows

__all__ = ["LOWERINGS_OF_IMAGES", "examples_last"]


def examples_last(ndim: int) -> tuple[int, ...]:
    """The order of axes that has the first one innermost."""
    return (*range(1, ndim), 0)


def _inside(array: Array, padding: Pairs, lengths: Sizes) -> Array:
    """What lies between the padding."""
    inner = (slice(p[0], p[0] + n) for p, n in zip(padding, lengths, strict=True))
    return array.at((slice(None), slice(None), *inner))


def _padded(x: Array, pad: Array, number: float, padding: Pairs) -> list[Statement]:
    return [fill(pad, number), copy(x, _inside(pad, padding, x.shape[2:]))]


def _windows(op: Op, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, number: float = 0.0) -> Lowering:
    (x, *_), is_padded = op.args, any(map(any, padding))
    wide = padded_shape(x.shape, padding)
    places, sliding = places_of(wide[2:], size, stride, dilation), len(size)
    along, across = tuple(range(2, 2 + sliding)), tuple(range(2 + sliding, 2 + 2 * sliding))
    reach = tuple(d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True))
    steps = ", ".join([":, :", *(f"::{step}" for step in (*stride, *dilation))])
    axes = (0, 1, *across, *along)
    form = f"np.lib.stride_tricks.sliding_window_view({{}}, {reach}, {along})[{steps}].transpose{axes}"

    def look(array: Any) -> Any:
        key = (slice(None), slice(None), *(slice(None, None, step) for step in (*stride, *dilation)))
        return np.lib.stride_tricks.sliding_window_view(array, reach, along)[key].transpose(axes)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        whole: Array = scratch[0] if is_padded else a[0]
        under = whole.seen(look, form, "under_window")
        assert under is not None
        first = _padded(a[0], whole, number, padding) if is_padded else []
        return [*first, copy(under, out.reshape(*x.shape[:2], *size, *places))]

    return Lowering(statements, scratch=[(wide, x.dtype, examples_last(len(wide)))] if is_padded else [])


def _overlap_add(op: Op, shape: Sizes, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Lowering:
    wide, is_padded = padded_shape(shape, padding), any(map(any, padding))
    places = places_of(wide[2:], size, stride, dilation)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        whole = scratch[0] if is_padded else out
        patches = a[0].reshape(*shape[:2], *size, *places)
        written = [fill(whole, 0)]
        for offset, index in offsets(size, stride, dilation, places):
            under = whole.at(index, "under_window")
            patch = patches.at((slice(None), slice(None), *offset), "patch")
            written.append(ufunc(np.add, under, patch, out=under))
        return [*written, copy(_inside(whole, padding, shape[2:]), out)] if is_padded else written

    return Lowering(statements, scratch=[(wide, op.result.dtype, examples_last(len(wide)))] if is_padded else [])


def _pool(op: Op, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Lowering:
    x, is_padded = op.args[0], any(map(any, padding))
    wide, places = padded_shape(x.shape, padding), op.result.shape[2:]

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        whole = scratch[0] if is_padded else a[0]
        written = _padded(a[0], whole, -np.inf, padding) if is_padded else []
        under = [whole.at(index, "under_window") for _, index in offsets(size, stride, dilation, places)]
        if len(under) == 1:
            return [*written, copy(under[0], out)]
        for i, one in enumerate(under[1:]):
            written.append(ufunc(np.maximum, out if i else under[0], one, out=out))
        return written

    return Lowering(statements, scratch=[(wide, x.dtype, examples_last(len(wide)))] if is_padded else [])


def _maxima(op: Op, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Lowering:
    _, y, x = op.args[:3]
    wide, is_padded = padded_shape(x.shape, padding), any(map(any, padding))
    lengths, count = zip(y.shape[2:], size, wide[2:], strict=True), math.prod(size)
    apart = all(s >= d * (k - 1) + 1 for s, d, k in zip(stride, dilation, size, strict=True))
    tiled = apart and stride == size and all(p * k == w for p, k, w in lengths)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        share, *largest = scratch[: count + 1]
        whole, to = (scratch[-2], scratch[-1]) if is_padded else (a[2], out)
        written = _padded(a[2], whole, -np.inf, padding) if is_padded else []
        indices = [index for _, index in offsets(size, stride, dilation, y.shape[2:])]
        for index, here in zip(indices, largest, strict=True):
            written.append(ufunc(np.equal, whole.at(index, "under_window"), a[1], out=here))
        for i, here in enumerate(largest[1:]):  # several may be largest, and share
            written.append(ufunc(np.add, share if i else largest[0], here, out=share))
        written.append(ufunc(np.maximum, share if count > 1 else largest[0], 1, out=share))
        written.append(ufunc(np.divide, a[0], share, out=share))
        if not tiled:
            written.append(fill(to, 0))
        for index, here in zip(indices, largest, strict=True):
            place = to.at(index, "under_window")
            written.append(ufunc(np.multiply, share, here, out=place if apart else here))
            if not apart:
                written.append(ufunc(np.add, place, here, out=place))
        return [*written, copy(_inside(to, padding, x.shape[2:]), out)] if is_padded else written

    scratch = [(y.shape, y.dtype, examples_last(y.ndim))] * (count + 1)
    return Lowering(statements, scratch=scratch + [(wide, x.dtype, examples_last(len(wide)))] * (2 * is_padded))


_WINDOW = ("size", "stride", "padding", "dilation")
_NAMES: dict[Any, tuple[str, ...]] = {
    windows: ("x", *_WINDOW, "fill"),
    overlap_add: ("patches", "shape", *_WINDOW),
    _max_pool: ("x", *_WINDOW),
    _to_maxima: ("g", "y", "x", *_WINDOW),
}


def _in_order(lowering: Callable[..., Lowering]) -> Callable[[Op], Lowering | None]:
    """A lowering that is given the arguments that are no arrays, also those by name, where the result has an order."""

    def lowered(op: Op) -> Lowering | None:
        if op.result.order is None:
            return None
        named = (op.kwargs[name] for name in _NAMES[op.fun][len(op.args) :] if name in op.kwargs)
        return lowering(op, *(a for a in (*op.args, *named) if not isinstance(a, Value)))

    return lowered


LOWERINGS_OF_IMAGES: dict[Any, Callable[[Op], Lowering | None]] = {
    windows: _in_order(_windows),
    overlap_add: _in_order(_overlap_add),
    _max_pool: _in_order(_pool),
    _to_maxima: _in_order(_maxima),
}
