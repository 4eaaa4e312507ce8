"""What a picture shows of an array: its numbers where they are few, else a small heat-map, and statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CELLS", "ArrayView", "norm_of", "view_of"]

MOST_NUMBERS = (5, 6)  # rows and columns that are written out
CELLS = 24  # cells of a heat-map along its longer side, at most


@dataclass(frozen=True)
class ArrayView:
    """An array to look at, as plain data.

    `numbers` are the elements of a small one, row by row, written out. `cells` are the colours of a larger one: means
    over blocks, divided by `scale`, so that 1 is the largest and 0 stays 0; NaN where a block holds NaN or Inf. Of an
    array with more than two axes, as many of its matrices as there is room for stand side by side. `mean`, `std` and
    `norm` are over the finite elements. `missing` says why there is nothing to show.
    """

    shape: tuple[int, ...] = ()
    numbers: tuple[tuple[str, ...], ...] = ()
    cells: tuple[tuple[float, ...], ...] = ()
    scale: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    norm: float = 0.0
    nan: int = 0
    infinite: int = 0
    missing: str = ""

    @property
    def alarm(self) -> str:
        """What is wrong with the numbers, if anything.

        >>> view_of(np.array([1.0, np.nan, np.inf])).alarm
        '1 NaN, 1 Inf'
        """
        return ", ".join(f"{count} {what}" for count, what in ((self.nan, "NaN"), (self.infinite, "Inf")) if count)

    @property
    def statistics(self) -> str:
        """Mean, standard deviation and norm, where there are more elements than one.

        >>> view_of(np.array([3.0, 4.0])).statistics
        'mean 3.5, std 0.5, norm 5'
        """
        if self.missing or math.prod(self.shape) < 2:
            return ""
        return f"mean {self.mean:.3g}, std {self.std:.3g}, norm {self.norm:.3g}"


def view_of(array: Any) -> ArrayView:
    """What to show of an array.

    >>> view_of(np.array([[1.0, 2.0], [3.0, 0.125]])).numbers
    (('1', '2'), ('3', '0.125'))
    >>> large = view_of(np.eye(100))
    >>> len(large.cells), large.cells[0][0], large.cells[0][9]
    (20, 1.0, 0.0)
    """
    array = np.asarray(array)
    if array.size == 0:
        return ArrayView(array.shape, missing="no elements")
    values = array.astype(np.float64)
    finite = np.isfinite(values)
    known = values if finite.all() else values[finite]
    mean, std, norm = _statistics(known)
    nan = int(np.isnan(values).sum())
    facts: dict[str, Any] = {"nan": nan, "infinite": values.size - known.size - nan}
    rows = array.reshape(1, -1) if array.ndim < 2 else array
    if rows.ndim == 2 and rows.shape[0] <= MOST_NUMBERS[0] and rows.shape[1] <= MOST_NUMBERS[1]:
        facts["numbers"] = tuple(tuple(map(_number, row)) for row in rows.tolist())
    else:
        with np.errstate(over="ignore"):
            cells = _cells(values)
        scale = float(np.nanmax(np.abs(cells), initial=0.0)) if not np.isnan(cells).all() else 0.0
        shown = np.round(cells / scale, 3) + 0.0 if scale else cells
        facts |= {"cells": tuple(map(tuple, shown.tolist())), "scale": scale}
    return ArrayView(array.shape, mean=mean, std=std, norm=norm, **facts)


def _statistics(known: Any) -> tuple[float, float, float]:
    """Mean, standard deviation and norm, by way of the largest element: squares of huge numbers would overflow."""
    largest = float(np.abs(known).max(initial=0.0))
    if not largest:
        return 0.0, 0.0, 0.0
    unit = known / largest
    return float(unit.mean()) * largest, float(unit.std()) * largest, math.sqrt(float(np.vdot(unit, unit))) * largest


def norm_of(array: Any) -> float:
    """The Euclidean norm of all elements; NaN where one is NaN.

    >>> norm_of(np.array([[3e300, 4e300]]))
    5e+300
    """
    values = np.asarray(array, np.float64)
    if not np.isfinite(values).all():
        return float(np.abs(values).max())
    return _statistics(values)[2]


def _number(x: float) -> str:
    text = f"{x:.3g}"
    return "0" if text == "-0" else text


def _cells(values: Any) -> Any:
    """A matrix of at most CELLS x CELLS block means."""
    if values.ndim < 2:
        size = values.size
        rows = 1 if size <= 2 * CELLS else math.ceil(math.sqrt(size))
        width = -(-size // rows)
        padded = np.concatenate([values.reshape(-1), np.zeros(rows * width - size)])
        return _shrunk(padded.reshape(rows, width))
    matrices = values.reshape(-1, *values.shape[-2:])
    if len(matrices) == 1:
        return _shrunk(matrices[0])
    height, width = min(matrices.shape[1], CELLS), min(matrices.shape[2], CELLS)
    side = min(math.ceil(math.sqrt(len(matrices))), max(2, CELLS // (max(height, width) + 1)))
    size = max(1, CELLS // side - 1)  # of one tile, and a gap beside it
    tiles = [_shrunk(m, size) for m in matrices[: side * side]]
    tiles = [np.pad(t, ((0, 1), (0, 1))) for t in tiles]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % side)
    wall = np.concatenate([np.concatenate(tiles[i : i + side], axis=1) for i in range(0, len(tiles), side)])
    return wall[:-1, :-1]


def _shrunk(matrix: Any, most: int = CELLS) -> Any:
    """Means over equal blocks, so that at most `most` rows and columns are left; NaN for whatever is not finite."""
    matrix = np.where(np.isfinite(matrix), matrix, np.nan)
    for axis in (0, 1):
        step = -(-matrix.shape[axis] // most)
        if step > 1:
            starts = np.arange(0, matrix.shape[axis], step)
            lengths = np.diff([*starts, matrix.shape[axis]])
            sums = np.add.reduceat(matrix, starts, axis=axis)
            matrix = sums / (lengths[:, None] if axis == 0 else lengths)
    return matrix
