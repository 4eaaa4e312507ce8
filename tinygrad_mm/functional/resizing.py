"""Images and sequences of another size: what lies between the places is read off the neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_mm.functional.typed import of_arrays

__all__ = ["interpolate", "pixel_shuffle"]

MODES = {"nearest": None, "linear": 3, "bilinear": 4}  # how many axes there must be


@of_arrays
def interpolate(
    x: Any,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Any:
    """Images or sequences of another size, given as `size` or as a `scale_factor` of the size that they have.

    "nearest" repeats numbers; "linear" (of sequences) and "bilinear" (of images) lie between the two neighbours on each
    axis, which is a product with a matrix. Corners are the corners of pixels, or with `align_corners` their middles.
    The places are PyTorch's.

    Shape: (N, C, *lengths) -> (N, C, *size)

    Raises ValueError for shapes and options that do not fit.

    >>> interpolate(np.array([[[0.0, 1.0]]]), scale_factor=2)
    array([[[0., 0., 1., 1.]]])
    >>> interpolate(np.array([[[0.0, 1.0]]]), size=3, mode="linear")
    array([[[0. , 0.5, 1. ]]])
    """
    if mode not in MODES:
        raise ValueError(f"interpolate: mode={mode!r}; use one of {', '.join(map(repr, MODES))}")
    if x.ndim < 3 or MODES[mode] not in (None, x.ndim):
        wanted = {"nearest": "(N, C, ...)", "linear": "(N, C, length)", "bilinear": "(N, C, height, width)"}[mode]
        raise ValueError(f"interpolate: x has shape {x.shape}; mode={mode!r} needs {wanted}")
    if align_corners and mode == "nearest":
        raise ValueError("interpolate: align_corners=True goes with mode='linear' or 'bilinear'")
    lengths = x.shape[2:]
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size= or scale_factor=")
    given: Any = size if scale_factor is None else scale_factor
    each = tuple(given) if isinstance(given, (tuple, list)) else (given,) * len(lengths)
    if len(each) != len(lengths) or not all(v > 0 for v in each):
        raise ValueError(f"interpolate: {given!r} must be a positive number, or one for each of the axes {lengths}")
    for axis, (length, v) in enumerate(zip(lengths, each, strict=True), 2):
        new = int(v) if scale_factor is None else math.floor(length * v)
        if new < 1:
            raise ValueError(f"interpolate: axis {axis} of x, {x.shape}, would have length {new}")
        if new == length:
            continue
        step = length / new if scale_factor is None else 1 / v
        if mode != "nearest":
            matrix = _between(length, new, step, align_corners).astype(x.dtype)
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix, -1, axis)
        elif new % length == 0:
            x = np.repeat(x, new // length, axis=axis)
        else:
            places = np.minimum(np.floor(np.arange(new) * step).astype(np.int64), length - 1)
            x = np.take(x, places, axis=axis)
    return x


def _between(length: int, new: int, step: float, align_corners: bool) -> np.ndarray[Any, Any]:
    """How much each old place (row) counts at each new one (column)."""
    if align_corners:
        places = np.arange(new) * ((length - 1) / (new - 1) if new > 1 else 0.0)
    else:
        places = np.clip((np.arange(new) + 0.5) * step - 0.5, 0, length - 1)
    return np.maximum(1 - np.abs(np.arange(length)[:, None] - places), 0)


@of_arrays
def pixel_shuffle(x: Any, factor: int) -> Any:
    """Channels become pixels: each `factor`^2 channels are a square of that side in one image (Shi et al. 2016).

    Shape: (N, C * factor^2, height, width) -> (N, C, height * factor, width * factor)

    Raises ValueError for shapes that do not fit.

    >>> pixel_shuffle(np.arange(4.0).reshape(1, 4, 1, 1), 2)
    array([[[[0., 1.],
             [2., 3.]]]])
    """
    if x.ndim != 4 or x.shape[1] % factor**2:
        raise ValueError(
            f"pixel_shuffle: x has shape {x.shape}; it needs (N, a multiple of {factor**2}, height, width)"
        )
    n, channels, height, width = x.shape
    squares = x.reshape(n, channels // factor**2, factor, factor, height, width)
    return squares.transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, height * factor, width * factor)
