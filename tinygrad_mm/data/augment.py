"""Images changed at random: shifted, flipped, rotated, cropped, noisy. Each function takes a batch and a generator.

Every image of a batch is changed by numbers of its own, all of them drawn from `rng`: the same generator gives the same
images. Results are new arrays of the dtype that was given.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.data.structures import Array, Rng, plain_array

__all__ = ["crop", "flip", "noise", "rotate", "shift"]


def shift(images: Any, rng: Rng, most: int = 2, fill: float = 0) -> Array:
    """Each image moved by whole pixels, up to `most` along both axes; what comes in is `fill`.

    Shape: (n, ..., height, width) -> the same

    Raises ValueError for arrays with fewer than three axes, or `most` below 0.

    >>> image = np.arange(4).reshape(1, 2, 2)
    >>> shift(image, np.random.default_rng(5), most=1, fill=9)
    array([[[9, 9],
            [9, 0]]])
    """
    images = _images("shift", images)
    _whole("shift", "most", most, 0)
    rng = np.random.default_rng(rng)
    down, right = rng.integers(-most, most, (2, len(images)), endpoint=True)
    return _windows(images, most, most - down, most - right, images.shape[-2:], fill)


def crop(images: Any, rng: Rng, size: int | tuple[int, int], padding: int = 0, fill: float = 0) -> Array:
    """A window of each image at a random place, `padding` pixels of `fill` around the image included.

    Shape: (n, ..., height, width) -> (n, ..., *size)

    Raises ValueError for arrays with fewer than three axes, a negative `padding`, or a `size` that does not fit.

    >>> crop(np.zeros((8, 3, 32, 32)), np.random.default_rng(0), size=28).shape
    (8, 3, 28, 28)
    """
    images = _images("crop", images)
    _whole("crop", "padding", padding, 0)
    wanted = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    room = [n + 2 * padding - k for n, k in zip(images.shape[-2:], wanted, strict=True)]
    if min(room) < 0 or min(wanted) < 1:
        raise ValueError(
            f"crop: size={size} is no window of images {images.shape[-2:]} with padding={padding}; take a smaller one"
        )
    rng = np.random.default_rng(rng)
    top, left = (rng.integers(0, most, len(images), endpoint=True) for most in room)
    return _windows(images, padding, top, left, wanted, fill)


def flip(images: Any, rng: Rng, axis: int = -1, probability: float = 0.5) -> Array:
    """Each image mirrored with some probability, left to right (`axis=-1`) or upside down (`axis=-2`).

    Shape: (n, ..., height, width) -> the same

    Raises ValueError for arrays with fewer than three axes, another axis, or a probability outside 0 to 1.

    >>> flip(np.array([[[1, 2, 3]], [[4, 5, 6]]]), np.random.default_rng(1))
    array([[[1, 2, 3]],
           [[4, 5, 6]]])
    """
    images = _images("flip", images)
    if axis % images.ndim not in (images.ndim - 2, images.ndim - 1) or not -images.ndim <= axis < images.ndim:
        raise ValueError(f"flip: axis={axis} is none of the last two, -1 and -2")
    if not 0 <= probability <= 1:
        raise ValueError(f"flip: probability={probability} is not between 0 and 1")
    chosen = np.random.default_rng(rng).random(len(images)) < probability
    result = images.copy()
    result[chosen] = np.flip(images[chosen], axis)
    return result


def rotate(images: Any, rng: Rng, degrees: float = 15, fill: float = 0) -> Array:
    """Each image turned around its centre by an angle between -degrees and degrees, counterclockwise.

    Between pixels it is interpolated linearly along both axes; what comes in is `fill`. Integers are rounded.

    Shape: (n, ..., height, width) -> the same

    Raises ValueError for arrays with fewer than three axes.

    >>> rotate(np.eye(3)[None], np.random.default_rng(0), degrees=0)
    array([[[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]]])
    """
    images = _images("rotate", images)
    height, width = images.shape[-2:]
    angles = np.random.default_rng(rng).uniform(-degrees, degrees, len(images))[:, None, None] * (math.pi / 180)
    y, x = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    rows = np.cos(angles) * y + np.sin(angles) * x + (height - 1) / 2  # where each pixel comes from
    columns = np.cos(angles) * x - np.sin(angles) * y + (width - 1) / 2
    kind = np.result_type(images.dtype, np.float32)
    around = [(0, 0)] * (images.ndim - 2) + [(1, 1)] * 2
    padded = np.moveaxis(np.pad(images, around, constant_values=fill), 0, -3)  # (..., n, height + 2, width + 2)
    rows, columns = np.clip(rows, -1, height) + 1, np.clip(columns, -1, width) + 1
    top, left = (np.minimum(place.astype(np.intp), n) for place, n in ((rows, height), (columns, width)))
    below, right = (rows - top).astype(kind), (columns - left).astype(kind)
    number = np.arange(len(images))[:, None, None]
    found = np.zeros((*padded.shape[:-2], height, width), kind)
    for i, share in ((0, 1 - below), (1, below)):
        for j, part in ((0, 1 - right), (1, right)):
            found += share * part * padded[..., number, top + i, left + j]
    found = np.moveaxis(found, -3, 0)
    return (np.rint(found) if images.dtype.kind in "iu" else found).astype(images.dtype)


def noise(images: Any, rng: Rng, scale: float = 0.1) -> Array:
    """Normal noise of standard deviation `scale` added to every element.

    Shape: (n, ...) -> the same

    Raises TypeError for integers, whose noise would be rounded away.

    >>> noise(np.zeros((2, 1, 1), np.float32), np.random.default_rng(0)).dtype
    dtype('float32')
    """
    images = plain_array(images)
    if images.dtype.kind != "f":
        raise TypeError(f"noise: images of dtype {images.dtype}; divide them first, as images / np.float32(255)")
    drawn = np.random.default_rng(rng).standard_normal(
        images.shape, np.float64 if images.dtype == np.float64 else np.float32
    )
    return (images + scale * drawn).astype(images.dtype)


def _images(name: str, images: Any) -> Array:
    images = plain_array(images)
    if images.ndim < 3:
        raise ValueError(f"{name}: an array of shape {images.shape} is no batch of images, (n, ..., height, width)")
    return images


def _whole(name: str, option: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: {option}={value!r} must be an integer, {least} or more")


def _windows(images: Array, padding: int, top: Array, left: Array, size: tuple[int, ...], fill: float) -> Array:
    """Of each padded image the window of a size that begins at a row and a column of its own."""
    around = [(0, 0)] * (images.ndim - 2) + [(padding, padding)] * 2
    padded = np.moveaxis(np.pad(images, around, constant_values=fill), 0, -3)
    number = np.arange(len(images))[:, None, None]
    rows, columns = top[:, None, None] + np.arange(size[0])[:, None], left[:, None, None] + np.arange(size[1])
    return np.ascontiguousarray(np.moveaxis(padded[..., number, rows, columns], -3, 0))
