"""What a picture shows of an array: its numbers where they are few, else a heat map, and its statistics."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CELLS", "ArrayView", "colour", "heat_map", "norm_of", "side", "view_of"]

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
    def single(self) -> bool:
        """Whether it is one number.

        >>> view_of(np.float32(2)).single, view_of(np.ones(2)).single
        (True, False)
        """
        return bool(self.numbers) and math.prod(self.shape) == 1

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


# From blue by white to orange, which people with any kind of colour vision can tell apart; red for NaN and Inf.
NEGATIVE, ZERO, POSITIVE = (0x00, 0x4C, 0x99), (0xFA, 0xFA, 0xFA), (0xA8, 0x4F, 0x00)
MIDDLE = {-1: (0x6A, 0xAE, 0xE0), 1: (0xF5, 0xB0, 0x4C)}  # at one half: the ends alone would look grey between
NOT_FINITE = (0xE0, 0x00, 0x2D)
LEVELS = 24  # shades on either side of zero

Cells = Sequence[Sequence[float]]


def colour(cell: float) -> str:
    """The colour of a number from -1 to 1.

    >>> colour(0.0), colour(1.0), colour(-1.0), colour(float("nan"))
    ('#fafafa', '#a84f00', '#004c99', '#e0002d')
    """
    return "#{:02x}{:02x}{:02x}".format(*_rgb(_level(cell)))


def side(cells: Cells) -> int:
    """How many points a cell is wide: few cells are drawn larger."""
    return max(2, min(8, 60 // max(len(cells), len(cells[0]))))


def heat_map(cells: Cells, size: int = 4) -> bytes:
    """A PNG file with a square of `size` pixels for each cell.

    >>> heat_map([[0.0, 1.0]])[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    palette = bytes(channel for level in range(-LEVELS, LEVELS + 2) for channel in _rgb(level))
    rows = []
    for row in cells:
        line = b"\0" + b"".join(bytes([_level(cell) + LEVELS]) * size for cell in row)
        rows.append(line * size)
    header = struct.pack(">IIBBBBB", size * len(cells[0]), size * len(cells), 8, 3, 0, 0, 0)  # 8 bits of palette
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _level(cell: float) -> int:
    """A shade from -LEVELS to LEVELS, and one more for what is not finite."""
    return LEVELS + 1 if not math.isfinite(cell) else round(max(-1.0, min(1.0, cell)) * LEVELS)


def _rgb(level: int) -> tuple[int, int, int]:
    if level > LEVELS:
        return NOT_FINITE
    share = abs(level) / LEVELS
    middle, end = MIDDLE[1 if level > 0 else -1], POSITIVE if level > 0 else NEGATIVE
    start, stop, along = (ZERO, middle, 2 * share) if share < 0.5 else (middle, end, 2 * share - 1)
    red, green, blue = (round(a + (b - a) * along) for a, b in zip(start, stop, strict=True))
    return red, green, blue
