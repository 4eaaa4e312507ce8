"""The arrays of the page: each once, in base64, in a store of bounded size.

The page's numbers are the engine's, bit for bit. What is too large for a page is sampled at even distances; its least,
largest and mean elements and its norm are those of the whole array.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["MOST_BYTES", "MOST_SHOWN", "Store", "number", "strides"]

MOST_SHOWN = 4096  # elements of one array
MOST_BYTES = 4_000_000  # of all arrays together
MOST_PIXELS = 16  # times as many elements of an array of images: half of one shows nothing


class Store:
    """Arrays by number, each once. With `image`, (height, width), axes of that many elements are pixels."""

    def __init__(self, image: tuple[int, int] | None = None) -> None:
        self.image = image
        self.arrays: list[Any] = []
        self.most: list[int] = []
        self.numbers: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def add(self, array: Any, most: int = MOST_SHOWN) -> Any:
        """The array's number; for several arrays a list of numbers, None where there is none.

        Of `most` elements more are left out.
        """
        if array is None:
            return None
        if isinstance(array, (list, tuple)):
            return [self.add(one, most) for one in array]
        array = np.asarray(array)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self.numbers:
            self.numbers[key] = len(self.arrays)
            self.arrays.append(array)
            self.most.append(most)
        found = self.numbers[key]
        self.most[found] = max(self.most[found], most)
        return found

    def stored(self) -> list[dict[str, Any]]:
        """All arrays, sampled so far that they fit on one page.

        Raises ValueError where `image` fits none of them.
        """
        if self.image is not None and all(self._pixels(array) is None for array in self.arrays):
            height, width = self.image
            raise ValueError(f"image=({height}, {width}): no array has an axis of {height * width} elements")
        part = 1
        while part < MOST_SHOWN // 16 and self._size(part) > MOST_BYTES:
            part *= 2
        return [self._stored(array, most // part) for array, most in zip(self.arrays, self.most, strict=True)]

    def _size(self, part: int) -> int:
        return sum(
            min(a.size, most // part * (MOST_PIXELS if self._pixels(a) is not None else 1)) * a.itemsize
            for a, most in zip(self.arrays, self.most, strict=True)
        )

    def _pixels(self, array: Any) -> int | None:
        """The axis that holds the pixels of images: the last one or, of a matrix such as a weight, the first."""
        if self.image is None or array.dtype.kind != "f":
            return None
        axes = [axis for axis in (array.ndim - 1, 0)[: array.ndim] if array.shape[axis] == math.prod(self.image)]
        return axes[0] if axes and (axes[0] or array.ndim < 3) else None

    def _stored(self, array: Any, most: int) -> dict[str, Any]:
        axis = self._pixels(array)
        every = strides(array.shape, most if axis is None else most * MOST_PIXELS, axis)
        shown = array[tuple(slice(None, None, step) for step in every)]
        kind = {"float32": "f4", "float16": "f4", "bool": "u1"}.get(str(array.dtype), "f8")
        numbers = array.astype(np.float64).reshape(-1)
        finite = numbers[np.isfinite(numbers)]
        return {
            "shape": array.shape,
            "dtype": str(array.dtype),
            "grid": shown.shape,
            "every": every,
            "type": kind,
            "data": base64.b64encode(np.ascontiguousarray(shown, dtype=f"<{kind}").tobytes()).decode(),
            "size": array.size,
            "least": float(finite.min()) if finite.size else 0.0,
            "most": float(finite.max()) if finite.size else 0.0,
            "mean": float(finite.mean()) if finite.size else 0.0,
            "norm": number(float(np.sqrt(np.sum(finite * finite)))),
            "odd": int(numbers.size - finite.size),
            "image": None if axis is None else {"axis": axis, "size": self.image},
        }


def number(x: float) -> float | str:
    """A number for JSON, which knows neither NaN nor infinity."""
    return x if math.isfinite(x) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(x, "NaN")


def strides(shape: Sequence[int], most: int, whole: int | None = None) -> list[int]:
    """At which distances to take the elements along each axis so that there are at most so many.

    The axis `whole` is kept as it is, as long as there are other ones to take less of.

    >>> strides((784, 128), 4096), strides((3, 4), 4096), strides((784, 128), 32768, whole=0)
    ([16, 2], [1, 1], [1, 4])
    """
    every = [1] * len(shape)
    grid = list(shape)
    while math.prod(grid) > most:
        free = [n if axis != whole else 1 for axis, n in enumerate(grid)]
        axis = free.index(max(free)) if max(free) > 1 else grid.index(max(grid))
        every[axis] *= 2
        grid[axis] = -(-shape[axis] // every[axis])
    return every
