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

from tinygrad_mm.compiler.kernel import Kernel, dot
from tinygrad_mm.compiler.program import Op
from tinygrad_mm.functional.pooling import _max_pool, _to_maxima
from tinygrad_mm.functional.sliding import Pairs, Sizes, overlap_add, padded_shape, places_of, windows

__all__ = [
    "KERNELS_OF_IMAGES",
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


def _inside(padding: Pairs, lengths: Any) -> str:
    """The index of what lies between the padding."""
    return ", ".join([":", *(f"{p[0]}:{p[0] + n}" for p, n in zip(padding, lengths, strict=True))])


def _padded(x: str, pad: str, fill: str, padding: Pairs, lengths: Any, bind: Any) -> list[str]:
    inner = bind.seen(pad, f"[{_inside(padding, lengths)}]")
    return [f"{pad}.fill({fill})", f"{bind(np.copyto)}({inner}, {x})"]


def _under(size: Sizes, stride: Sizes, dilation: Sizes, places: Sizes) -> list[str]:
    """The index of what lies under each offset in the window, at all places."""
    found = []
    for offset in itertools.product(*map(range, size)):
        along = (
            f"{o * d}:{o * d + s * (n - 1) + 1}:{s}".removesuffix(":1")
            for o, s, d, n in zip(offset, stride, dilation, places, strict=True)
        )
        found.append(f"[:, {', '.join(along)}]")
    return found


def _wide(shape: Any, padding: Pairs) -> tuple[Sizes, bool]:
    """(the shape with its padding, whether there is any) for images with the examples last."""
    channels, *lengths, n = shape
    wide = padded_shape((n, channels, *lengths), padding)
    return (*wide[1:], n), any(map(any, padding))


def _examples_last(op: Op) -> Kernel:
    axes = (*range(1, op.result.ndim), 0)
    return Kernel(lambda out, a, s, bind: [f"{bind(np.copyto)}({out}, {bind.seen(a[0], f'.transpose{axes}')})"])


def _windows(op: Op) -> Kernel:
    x, size, stride, padding, dilation = op.args
    channels, *lengths, n = x.shape
    wide, is_padded = _wide(x.shape, padding)
    places = places_of(wide[1:-1], size, stride, dilation)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True))
    steps = f"[:, ::{stride[0]}, ::{stride[1]}, :, ::{dilation[0]}, ::{dilation[1]}]"
    view = f"np.lib.stride_tricks.sliding_window_view({{}}, {reach}, (1, 2)){steps}.transpose(0, 4, 5, 1, 2, 3)"

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        first = _padded(a[0], scratch[0], "0", padding, lengths, bind) if is_padded else []
        patches = bind.seen(out, f".reshape({(channels, *size, *places, n)})", "patches")
        under = bind.seen(scratch[0] if is_padded else a[0], view, "under_window")
        return [*first, f"{bind(np.copyto)}({patches}, {under})"]

    return Kernel(lines, scratch=[(wide, x.dtype)] if is_padded else [])


def _overlap_add(op: Op) -> Kernel:
    patches, shape, size, stride, padding, dilation = op.args
    n, channels, *lengths = shape
    wide, is_padded = _wide(op.result.shape, padding)
    places = places_of(wide[1:-1], size, stride, dilation)

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        whole = scratch[0] if is_padded else out
        written = [f"{whole}.fill(0)"]
        for i, under in enumerate(_under(size, stride, dilation, places)):
            patch = f".reshape({(channels, math.prod(size), *places, n)})[:, {i}]"
            place = bind.seen(whole, under, "under_window")
            written.append(f"{bind(np.add)}({place}, {bind.seen(a[0], patch, 'patch')}, {place})")
        if is_padded:
            written.append(f"{bind(np.copyto)}({out}, {bind.seen(whole, f'[{_inside(padding, lengths)}]')})")
        return written

    return Kernel(lines, scratch=[(wide, patches.dtype)] if is_padded else [])


def _pool(op: Op) -> Kernel:
    x, size, stride, padding, dilation = op.args
    wide, is_padded = _wide(x.shape, padding)

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        whole = scratch[0] if is_padded else a[0]
        first = _padded(a[0], whole, "-np.inf", padding, x.shape[1:-1], bind) if is_padded else []
        under = [bind.seen(whole, u, "under_window") for u in _under(size, stride, dilation, op.result.shape[1:-1])]
        if len(under) == 1:
            return [*first, f"{bind(np.copyto)}({out}, {under[0]})"]
        maximum = bind(np.maximum)
        start = f"{maximum}({under[0]}, {under[1]}, out={out})"
        return [*first, start, *(f"{maximum}({out}, {u}, out={out})" for u in under[2:])]

    return Kernel(lines, scratch=[(wide, x.dtype)] if is_padded else [])


def _maxima(op: Op) -> Kernel:
    _, y, x, size, stride, padding, dilation = op.args
    wide, is_padded = _wide(x.shape, padding)
    count = math.prod(size)
    apart = all(s >= d * (k - 1) + 1 for s, d, k in zip(stride, dilation, size, strict=True))
    tiled = (
        apart and stride == size and all(p * k == w for p, k, w in zip(y.shape[1:-1], size, wide[1:-1], strict=True))
    )
    one = np.ones(y.shape, y.dtype) if y.size <= 1 << 22 else np.ones((), y.dtype)

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        share, *largest = scratch[: count + 1]
        whole, to = (scratch[-2], scratch[-1]) if is_padded else (a[2], out)
        offsets = _under(size, stride, dilation, y.shape[1:-1])
        written = _padded(a[2], whole, "-np.inf", padding, x.shape[1:-1], bind) if is_padded else []
        for u, here in zip(offsets, largest, strict=True):
            written.append(f"{bind(np.equal)}({bind.seen(whole, u, 'under_window')}, {a[1]}, {here})")
        add, multiply = bind(np.add), bind(np.multiply)
        for i, here in enumerate(largest[1:]):  # several may be largest, and share
            written.append(f"{add}({share if i else largest[0]}, {here}, {share})")
        written.append(f"{bind(np.maximum)}({share if count > 1 else largest[0]}, {bind(one, 'one')}, out={share})")
        written.append(f"{bind(np.divide)}({a[0]}, {share}, {share})")
        if not tiled:
            written.append(f"{to}.fill(0)")
        for u, here in zip(offsets, largest, strict=True):
            place = bind.seen(to, u, "window")
            if apart:
                written.append(f"{multiply}({share}, {here}, {place})")
            else:
                written.append(f"{multiply}({share}, {here}, {here})")
                written.append(f"{add}({place}, {here}, {place})")
        if is_padded:
            written.append(f"{bind(np.copyto)}({out}, {bind.seen(to, f'[{_inside(padding, x.shape[1:-1])}]')})")
        return written

    scratch = [(y.shape, y.dtype)] * (count + 1) + [(wide, x.dtype)] * (2 if is_padded else 0)
    return Kernel(lines, scratch=scratch)


def _short_product(op: Op) -> Kernel:
    a, b = op.args
    (f, k), (_, p) = a.shape, b.shape
    n = pieces(f * k, p)

    def lines(out: str, x: list[str], scratch: list[str], bind: Any) -> list[str]:
        if n == 1:
            return [dot(x[0], x[1], out)]
        b, to = (bind.seen(m, f".reshape({r}, {n}, {p // n}).transpose(1, 0, 2)") for m, r in ((x[1], k), (out, f)))
        return [f"{bind(np.matmul)}({x[0]}, {b}, {to})"]

    return Kernel(lines)


KERNELS_OF_IMAGES: dict[Any, Callable[[Op], Kernel]] = {
    examples_last: _examples_last,
    windows_last: _windows,
    overlap_add_last: _overlap_add,
    max_pool_last: _pool,
    to_maxima_last: _maxima,
    short_product: _short_product,
}
