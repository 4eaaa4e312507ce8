"""Arrays inside a label: a small table of numbers or a heat-map, statistics, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TypeAlias

from tinygrad_mm.drawing.arrays import ArrayView
from tinygrad_mm.drawing.markup import markup
from tinygrad_mm.drawing.theme import ALARM, BACKWARD, INK, QUIET
from tinygrad_mm.drawing.thumbnail import colour, heat_map, side

__all__ = ["Images", "view_rows"]

Images: TypeAlias = "dict[str, bytes] | None"  # by name of a file; None: draw heat-maps as coloured cells


def view_rows(what: str, view: ArrayView, images: Images) -> Iterator[str]:
    """The rows of a label's table that show one array."""
    color = BACKWARD if what == "gradient" else QUIET
    if view.missing:
        yield _row(_text(f"{what}: {view.missing}", color))
        return
    yield _row(_text(what, color))
    yield _row(_numbers(view) if view.numbers else _heat_map(view, images))
    if view.scale:
        yield _row(_text(f"colours: 0 ± {view.scale:.3g}", QUIET))
    if view.statistics:
        yield _row(_text(view.statistics, QUIET))
    if view.alarm:
        yield _row(f"<b>{_text(view.alarm, ALARM)}</b>")


def _row(content: str) -> str:
    return f"<tr><td>{content}</td></tr>"


def _text(text: str, color: str) -> str:
    return f'<font point-size="8" color="{color}">{markup(text, 80)}</font>'


FRAME = 'border="1" color="#c5ced8" cellborder="0" cellspacing="0"'


def _numbers(view: ArrayView) -> str:
    rows = ("".join(f'<td align="right">{_number(n)}</td>' for n in row) for row in view.numbers)
    return f'<table {FRAME} cellpadding="2">{"".join(map(_table_row, rows))}</table>'


def _table_row(cells: str) -> str:
    return f"<tr>{cells}</tr>"


def _number(number: str) -> str:
    return _text(number, INK) if number.strip("-") not in ("nan", "inf") else f"<b>{_text(number, ALARM)}</b>"


def _heat_map(view: ArrayView, images: Images) -> str:
    """Coloured cells, or an image of them, which takes less room in a file."""
    size = side(view.cells)
    width, height = size * len(view.cells[0]), size * len(view.cells)
    if images is None:
        square = f'width="{size}" height="{size}" fixedsize="true"'
        rows = ("".join(f'<td {square} bgcolor="{colour(cell)}"></td>' for cell in row) for row in view.cells)
        place = f'fixedsize="true" width="{width + 2}" height="{height + 2}"'
        return f'<table {place} {FRAME} cellpadding="0">{"".join(map(_table_row, rows))}</table>'
    png = heat_map(view.cells)
    name = f"{hashlib.sha256(png).hexdigest()[:16]}.png"
    images[name] = png
    place = f'fixedsize="true" width="{width + 2}" height="{height + 2}"'
    image = f'<td width="{width}" height="{height}" fixedsize="true"><img src="{name}" scale="both"/></td>'
    return f'<table {place} {FRAME} cellpadding="0"><tr>{image}</tr></table>'
