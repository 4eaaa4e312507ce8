"""Heat-maps: cells between -1 and 1 as colours, and as the bytes of a PNG file."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

__all__ = ["colour", "heat_map", "side"]

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
