"""The Jacobian of one operation as a picture: a heat map, white at zero."""

from __future__ import annotations

import math
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinygrad_mm.drawing.labels import markup
from tinygrad_mm.drawing.renderer import render, write
from tinygrad_mm.drawing.theme import FONT, INK, QUIET
from tinygrad_mm.explorer.mathematics import number_text, operation_name
from tinygrad_mm.graph import RULES, select
from tinygrad_mm.names import names_in, variables_of_caller
from tinygrad_mm.tensor import Tensor
from tinygrad_mm.transforms.local import local_jacobian

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["JacobianPicture", "draw_jacobian"]

Array: TypeAlias = "np.ndarray[Any, Any]"

FORMATS = (".svg", ".png", ".pdf", ".dot")
MOST_CELLS = 64  # in a row or a column; of a larger Jacobian one cell stands for several elements
MOST_WRITTEN = 10  # rows and columns up to which the numbers stand in the cells
MOST_TICKS = 12
NEGATIVE, POSITIVE = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe and Ito (2008)
NOT_FINITE = "#000000"
GRID = "#e4e7eb"


def draw_jacobian(y: Tensor, argument: int | Tensor = 0) -> JacobianPicture:
    """`local_jacobian(y, argument)` as a heat map: `.save("x.svg")` (or png, pdf, dot), shown by itself in a notebook.

    One row for each element of y, one column for each element of the argument, both in C order; blue is negative,
    orange positive, white zero. `.array` is the Jacobian itself.

    Raises as `local_jacobian` does.

    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> draw_jacobian(np.exp(x))
    <JacobianPicture of 2 x 2: save("jacobian.svg") writes it, .array is the Jacobian>
    """
    array = local_jacobian(y, argument)
    assert y.node is not None
    assert y.node.args is not None
    maker: Any = y.node.args[0].node if y.node.fun is select else y.node
    place = argument if isinstance(argument, int) else next(i for i, a in enumerate(maker.args) if a is argument)
    called = names_in(None, variables_of_caller())
    names = RULES[maker.fun].names if RULES[maker.fun].each is None else ()
    column = called.of(maker.args[place]) or (names[place] if place < len(names) else f"argument {place}")
    return JacobianPicture(array, y.ndim, called.of(y) or operation_name(maker.fun), column)


class JacobianPicture:
    """A Jacobian, and how to look at it: `array`, of the shape of the result, then that of the argument."""

    def __init__(self, array: Array, result_axes: int, row: str, column: str) -> None:
        self.array = array
        self.row, self.column = row, column
        self._shapes = array.shape[:result_axes], array.shape[result_axes:]
        self._matrix = array.reshape(math.prod(self._shapes[0]), math.prod(self._shapes[1]))

    @cached_property
    def source(self) -> str:
        """The DOT text: one table. It needs no layout program."""
        return (
            f'digraph jacobian {{\n  graph [margin="0.05", pad="0.1", bgcolor="white"]\n'
            f'  node [shape=plain, fontname="{FONT}", fontsize=10, fontcolor="{INK}"]\n'
            f"  jacobian [label=<{_Table(self._matrix, self._shapes, self.row, self.column).text()}>]\n}}\n"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as .svg, .png, .pdf or .dot, as the name ends; returns the path.

        Raises ValueError for another ending, RuntimeError where there is no layout program, OSError where the file
        cannot be written.
        """
        from pathlib import Path

        path = Path(path)
        form = path.suffix.lower()
        if form not in FORMATS:
            raise ValueError(f"cannot save as {path.name!r}: the name must end in one of {', '.join(FORMATS)}")
        write(path, self.source.encode() if form == ".dot" else render(self.source, form[1:]))
        return path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the picture or, without a layout program, how to get one."""
        try:
            return {"image/svg+xml": self._repr_svg_(), "text/plain": repr(self)}
        except RuntimeError as error:
            return {"text/plain": f"{self!r}\n{error}"}

    def _repr_svg_(self) -> str:
        return render(self.source, "svg").decode()

    def __repr__(self) -> str:
        rows, columns = self._matrix.shape
        return f'<JacobianPicture of {rows} x {columns}: save("jacobian.svg") writes it, .array is the Jacobian>'


class _Table:
    """The heat map in Graphviz's HTML-like language."""

    def __init__(self, matrix: Array, shapes: tuple[tuple[int, ...], ...], row: str, column: str) -> None:
        self.blocks = [max(1, -(-n // MOST_CELLS)) for n in matrix.shape]
        self.cells = _largest_of_blocks(matrix.astype(np.float64), *self.blocks)
        finite = np.abs(self.cells[np.isfinite(self.cells)])
        self.top = float(finite.max(initial=0.0)) or 1.0
        self.shapes, self.row, self.column = shapes, row, column
        self.written = max(matrix.shape) <= MOST_WRITTEN
        self.matrix = matrix

    def text(self) -> str:
        columns = self.cells.shape[1]
        lines = [
            f"<b>∂{markup(self.row)} / ∂{markup(self.column)}</b>",
            _small(f"rows: the elements of {self.row}, {self.shapes[0]}"),
            _small(f"columns: the elements of {self.column}, {self.shapes[1]}"),
        ]
        if max(self.blocks) > 1:
            lines.append(_small(f"a square is {self.blocks[0]} x {self.blocks[1]} elements: the largest of them"))
        rows = [f'<tr><td colspan="{columns + 1}" align="left" balign="left">{"<br/>".join(lines)}</td></tr>']
        if self.cells.size:
            rows.append(self.column_ticks())
            rows += [self.line(i) for i in range(len(self.cells))]
        rows.append(f'<tr><td colspan="{columns + 1}" align="left">{self.bar()}</td></tr>')
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="2">{"".join(rows)}</table>'

    def column_ticks(self) -> str:
        step = -(-self.cells.shape[1] // MOST_TICKS)
        ticks = []
        for j in range(0, self.cells.shape[1], step):
            span = min(step, self.cells.shape[1] - j)
            ticks.append(f'<td colspan="{span}" align="{"center" if step == 1 else "left"}">{self.tick(1, j)}</td>')
        return f"<tr><td></td>{''.join(ticks)}</tr>"

    def tick(self, axis: int, cell: int) -> str:
        """The index of an element, as it stands between brackets."""
        shape = self.shapes[axis]
        return (
            _small(", ".join(str(int(i)) for i in np.unravel_index(cell * self.blocks[axis], shape))) if shape else ""
        )

    def line(self, i: int) -> str:
        step = -(-len(self.cells) // (2 * MOST_TICKS))
        tick = self.tick(0, i) if i % step == 0 else ""
        return f'<tr><td align="right">{tick}</td>{"".join(self.cell(v) for v in self.cells[i])}</tr>'

    def cell(self, value: float) -> str:
        size = 'width="44" height="22"' if self.written else 'width="12" height="12" fixedsize="true"'
        text = ""
        if self.written:
            dark = not np.isfinite(value) or abs(value) > 0.6 * self.top
            text = f'<font point-size="9" color="{"#ffffff" if dark else INK}">{number_text(float(value))}</font>'
        return f'<td {size} border="1" color="{GRID}" bgcolor="{_colour(value / self.top)}">{text}</td>'

    def bar(self) -> str:
        """The scale of colours."""
        colours = "".join(f'<td width="14" height="10" bgcolor="{_colour(k / 5)}"></td>' for k in range(-5, 6))
        ends = f"<td>{_small(number_text(-self.top))}</td>{colours}<td>{_small(number_text(self.top))}</td>"
        if not np.isfinite(self.matrix).all():
            ends += f'<td width="14" height="10" bgcolor="{NOT_FINITE}"></td><td>{_small("not finite")}</td>'
        ends += "<td></td>"
        size = f'width="{14 * 11 + 100}" height="16" fixedsize="true"'
        return f'<table border="0" cellborder="0" cellspacing="0" cellpadding="2" {size}><tr>{ends}</tr></table>'


def _small(text: str) -> str:
    return f'<font point-size="9" color="{QUIET}">{markup(text, 80)}</font>'


def _largest_of_blocks(matrix: Array, rows: int, columns: int) -> Array:
    """One element for each block, that of the largest size, what is not finite before all."""
    if rows == columns == 1:
        return matrix
    high, wide = (-(-n // k) for n, k in zip(matrix.shape, (rows, columns), strict=True))
    padded = np.zeros((high * rows, wide * columns))
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    blocks = padded.reshape(high, rows, wide, columns).swapaxes(1, 2).reshape(high, wide, rows * columns)
    largest = np.argmax(np.where(np.isfinite(blocks), np.abs(blocks), np.inf), axis=-1)
    chosen: Array = np.take_along_axis(blocks, largest[..., None], axis=-1)[..., 0]
    return chosen


def _colour(share: float) -> str:
    """White at 0, blue at -1, orange at 1.

    >>> _colour(0.0), _colour(-1.0), _colour(0.5)
    ('#ffffff', '#0072b2', '#eaae80')
    """
    if not math.isfinite(share):
        return NOT_FINITE
    end = POSITIVE if share > 0 else NEGATIVE
    part = min(abs(share), 1.0)
    return "#" + "".join(f"{round(255 + part * (c - 255)):02x}" for c in end)
