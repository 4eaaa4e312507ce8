"""Sliding windows over images, (N, channels, height, width), and over anything else with axes to slide along.

`windows` lays the patches under a window side by side, `overlap_add` is its transpose and adds patches up where they
came from; each is the other's derivative.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import defvjp, primitive

__all__ = [
    "Pairs",
    "Sizes",
    "check_images",
    "cropped",
    "fit",
    "offsets",
    "one",
    "overlap_add",
    "padded",
    "padding_pairs",
    "places_of",
    "two",
    "windows",
]

Sizes: TypeAlias = "tuple[int, ...]"
Pairs: TypeAlias = "tuple[tuple[int, int], ...]"

_ALL = (slice(None), slice(None))  # all examples, all channels


@of_arrays
@primitive
def windows(x: Any, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes, fill: float = 0.0) -> Any:
    """The patches of x under a sliding window, one a column.

    `size`, `stride` and `dilation` have one number for each axis that the window slides along, `padding` the pair
    (before, after); `fill` is what the padding holds. A column lists channels first, then places in the window.

    Shape: (N, C, height, width) -> (N, C * size[0] * size[1], places), and so for any number of sliding axes

    >>> windows(np.arange(4.0).reshape(1, 1, 4), (2,), (1,), ((0, 0),), (1,))
    array([[[0., 1., 2.],
            [1., 2., 3.]]])
    """
    x = padded(x, padding, fill)
    places = places_of(x.shape[2:], size, stride, dilation)
    over_window = tuple(s * d for s, d in zip(x.strides[2:], dilation, strict=True))
    over_places = tuple(s * d for s, d in zip(x.strides[2:], stride, strict=True))
    view = np.lib.stride_tricks.as_strided(
        x, (*x.shape[:2], *size, *places), (*x.strides[:2], *over_window, *over_places), writeable=False
    )
    # Places come last, so that the copy below moves whole runs of a row at once.
    return view.reshape(x.shape[0], x.shape[1] * math.prod(size), math.prod(places))


@of_arrays
@primitive
def overlap_add(patches: Any, shape: Sizes, size: Sizes, stride: Sizes, padding: Pairs, dilation: Sizes) -> Any:
    """Patches added up where `windows` took them from an array of a shape: the transpose of `windows`.

    Shape: (N, C * size[0] * size[1], places) -> shape

    >>> overlap_add(np.ones((1, 2, 3)), (1, 1, 4), (2,), (1,), ((0, 0),), (1,))
    array([[[1., 2., 2., 1.]]])
    """
    out = np.zeros(padded_shape(shape, padding), patches.dtype)
    places = places_of(out.shape[2:], size, stride, dilation)
    grid = patches.reshape(*shape[:2], *size, *places)
    for offset, under in offsets(size, stride, dilation, places):
        out[under] += grid[_ALL + offset]
    return cropped(out, padding)


defvjp(
    windows,
    lambda g, y, x, size, stride, padding, dilation, fill=0.0: overlap_add(g, x.shape, size, stride, padding, dilation),
    signature="(N, C, h, w) -> (N, C * size, places)",
)
defvjp(
    overlap_add,
    lambda g, y, patches, shape, size, stride, padding, dilation: windows(g, size, stride, padding, dilation),
    signature="(N, C * size, places) -> (N, C, h, w)",
)


def padded_shape(shape: Sizes, padding: Pairs) -> Sizes:
    return (*shape[:2], *(n + sum(p) for n, p in zip(shape[2:], padding, strict=True)))


def cropped(x: Any, padding: Pairs) -> Any:
    """What lies between the padding."""
    if not any(map(any, padding)):
        return x
    inner = (slice(p[0], n - p[1]) for n, p in zip(x.shape[2:], padding, strict=True))
    return x[_ALL + tuple(inner)]


def padded(x: Any, padding: Pairs, fill: float) -> Any:
    if not any(map(any, padding)):
        return x
    out = np.full(padded_shape(x.shape, padding), fill, x.dtype)
    cropped(out, padding)[...] = x
    return out


def places_of(lengths: Sizes, size: Sizes, stride: Sizes, dilation: Sizes) -> Sizes:
    """How many places a window has along each axis."""
    return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(lengths, size, stride, dilation, strict=True))


def offsets(size: Sizes, stride: Sizes, dilation: Sizes, places: Sizes) -> Iterator[tuple[Sizes, Any]]:
    """Each offset in the window, and the index of what lies under it at all places."""
    for offset in itertools.product(*map(range, size)):
        under = (
            slice(o * d, o * d + s * (n - 1) + 1, s)
            for o, s, d, n in zip(offset, stride, dilation, places, strict=True)
        )
        yield offset, _ALL + tuple(under)


# ---------------------------------------------------------------------------------------------------------------------
# Options and shapes, checked
# ---------------------------------------------------------------------------------------------------------------------


def two(name: str, what: str, value: Any, least: int = 1) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and v >= least for v in pair):
        raise ValueError(f"{name}: {what}={value!r} must be an integer of at least {least}, or two of them")
    return int(pair[0]), int(pair[1])


def padding_pairs(name: str, padding: Any, size: Any, stride: Any, dilation: Any) -> Pairs:
    """(before, after) for each axis; "same" puts the odd one after, as PyTorch does."""
    if padding == "valid":
        return ((0, 0),) * len(size)
    if padding == "same":
        if set(stride) != {1}:
            raise ValueError(f"{name}: padding='same' goes with stride=1 only; give padding as a number")
        total = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        numbers = "a number" if len(size) == 1 else "a number, two numbers"
        raise ValueError(f"{name}: padding={padding!r}; use {numbers}, 'same' or 'valid'")
    if len(size) == 1:
        return ((one(name, "padding", padding, least=0),) * 2,)
    return tuple((p, p) for p in two(name, "padding", padding, least=0))


def one(name: str, what: str, value: Any, least: int = 1) -> int:
    """One number for the only axis."""
    single = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
    if not isinstance(single, (int, np.integer)) or single < least:
        raise ValueError(f"{name}: {what}={value!r} must be an integer of at least {least}")
    return int(single)


KINDS = {1: ("sequences", "(N, channels, length)", "sequence"), 2: ("images", "(N, channels, height, width)", "image")}


def check_images(name: str, x: Any, axes: int = 2) -> None:
    kinds, wanted, kind = KINDS[axes]
    if x.ndim != axes + 2:
        fix = ""
        if x.ndim == axes + 1:
            fix = f"; write x[None] for one {kind} with channels, x[:, None] for {kinds} of one channel"
        raise ValueError(f"{name}: {kinds} have shape {wanted}, not {x.shape}{fix}")
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: the {kinds} are {x.dtype}; write x.astype(np.float32)")


def fit(name: str, x: Any, size: Any, stride: Any, padding: Pairs, dilation: Any) -> Sizes:
    """How many places the window has along each axis; raises where it has none."""
    places = places_of(padded_shape(x.shape, padding)[2:], size, stride, dilation)
    if min(places) < 1:
        reach = " x ".join(str(d * (k - 1) + 1) for k, d in zip(size, dilation, strict=True))
        lengths = " x ".join(map(str, x.shape[2:]))
        raise ValueError(
            f"{name}: a window of {reach} does not fit into {KINDS[len(places)][0]} of {lengths} with "
            f"padding {tuple(p[0] for p in padding)}; use a smaller kernel_size or more padding"
        )
    return places
