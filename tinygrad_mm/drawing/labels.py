"""Labels in the HTML-like language of Graphviz: text, small tables of numbers, heat maps.

Whatever comes from outside goes through `markup`, which escapes it.
"""

from __future__ import annotations

import functools
import hashlib
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from tinygrad_mm.drawing.arrays import ArrayView, colour, heat_map, side
from tinygrad_mm.drawing.picture import Kind, PictureCluster, PictureNode
from tinygrad_mm.drawing.text import printable, shape_text, shortened
from tinygrad_mm.drawing.theme import ALARM, BACKWARD, INK, LOOKS, QUIET, REPEAT, STOPPED

__all__ = [
    "LEAST_WIDTH",
    "LONGEST",
    "Images",
    "cluster_label",
    "description",
    "edge_label",
    "least_width",
    "legend",
    "markup",
    "node_label",
    "operand_label",
    "short_lines",
    "size_of",
    "tooltip",
    "view_rows",
    "width_of",
]

ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\\": "\\\\", "\N{NO-BREAK SPACE}": "&#160;"}
)
LONGEST = 40  # characters of a name


def markup(text: str, limit: int = LONGEST) -> str:
    r"""Any text as part of a label: on one line, not too long, special characters escaped.

    A label would swallow spaces at its ends and all but one of several, so these become no-break spaces; and it would
    put the name of the node in place of one backslash and N, so these are doubled.

    >>> print(markup('<b> "x"  & y'), markup(r"\N"))
    &lt;b&gt; &quot;x&quot; &#160;&amp; y \\N
    """
    text = re.sub(r"^ | $|(?<= ) ", "\N{NO-BREAK SPACE}", shortened(printable(text), limit))
    return text.translate(ESCAPES)


Images: TypeAlias = "dict[str, bytes] | None"  # by name of a file; None: draw heat-maps as coloured cells


def view_rows(what: str, view: ArrayView, images: Images) -> Iterator[str]:
    """The rows of a label's table that show one array."""
    color = BACKWARD if what == "gradient" else QUIET
    if view.missing:
        yield _cell_row(_tiny(f"{what}: {view.missing}", color))
        return
    if view.single:
        yield _cell_row(_tiny(f"{what} ", color) + _number(view.numbers[0][0]))
        return
    yield _cell_row(_tiny(what, color))
    yield _cell_row(_numbers(view) if view.numbers else _heat_map(view, images))
    if view.scale:
        yield _cell_row(_tiny(f"colours: 0 ± {view.scale:.3g}", QUIET))
    for line in textwrap.wrap(view.statistics, STATISTICS):
        yield _cell_row(_tiny(line, QUIET))
    if view.alarm:
        yield _cell_row(f"<b>{_tiny(view.alarm, ALARM)}</b>")


STATISTICS = 26  # characters of a line of statistics


def _cell_row(content: str) -> str:
    return f"<tr><td>{content}</td></tr>"


def _tiny(text: str, color: str) -> str:
    return f'<font point-size="9" color="{color}">{markup(text, 80)}</font>'


FRAME = 'border="1" color="#c5ced8" cellborder="0" cellspacing="0"'


def _numbers(view: ArrayView) -> str:
    rows = ("".join(f'<td align="right">{_number(n)}</td>' for n in row) for row in view.numbers)
    return f'<table {FRAME} cellpadding="2">{"".join(map(_table_row, rows))}</table>'


def _table_row(cells: str) -> str:
    return f"<tr>{cells}</tr>"


def _number(number: str) -> str:
    return _tiny(number, INK) if number.strip("-") not in ("nan", "inf") else f"<b>{_tiny(number, ALARM)}</b>"


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


LEAST_WIDTH = 0.3  # inches
LONGEST_OPERAND = 12  # characters of the name of an operand
WIDEST = 34  # characters of a line of options
MOST_LINES = 8  # of a note


def least_width(node: PictureNode) -> float:
    """Inches that the title of a node needs where layout programs guess too little: for letters beyond ASCII.

    >>> least_width(PictureNode("n0", "input", "x"))
    0.3
    """
    title = shortened(printable(node.name or node.title), LONGEST)
    if title.isascii():
        return LEAST_WIDTH
    ems = sum(1.2 if unicodedata.east_asian_width(letter) in "WF" else 0.7 for letter in title)
    return round(ems * 11 / 72 + 0.3, 2)


# Widths of letters in ems, about as in Helvetica; all others are as wide as digits.
NARROW, WIDE = frozenset(" ()[]{},.:;'|!ijltfr-"), frozenset("mwMWABCDEFGHKNOQRSUVXYZ×…")


@functools.lru_cache(maxsize=8192)
def width_of(text: str, size: float) -> float:
    """About how wide a text is, in the unit of the size of its letters."""
    return size * sum(0.3 if c in NARROW else 0.75 if c in WIDE else 0.56 if c.isascii() else 0.9 for c in text)


def size_of(node: PictureNode) -> tuple[float, float]:
    """About how wide and high a node will be drawn, in points.

    >>> width, height = size_of(PictureNode("n0", "operation", "matmul", (64, 128), "float32"))
    >>> 75 < width < 95, 25 < height < 35
    (True, True)
    """
    if node.chip or node.kind == "sum":
        return width_of(shortened(node.title, LONGEST), 9) + 9, 17.0
    lines = [line for note in node.notes for line in _wrapped(note)] if node.kind == "error" else _lines(node)
    width = max(1.05 * width_of(_plain_title(node), 11), *(width_of(line, 9) for line in lines), 14.0)
    height = 13.0 + 11.0 * len(lines)
    for what, view in node.views:
        cell = side(view.cells) if view.cells else 0
        texts = [f"{what}: {view.missing}" if view.missing else what]
        if view.single:
            width, height = max(width, width_of(f"{what} {view.numbers[0][0]}", 9)), height + 14.0
            continue
        colours = f"colours: 0 ± {view.scale:.3g}" if view.scale else ""
        texts += [text for text in (colours, *textwrap.wrap(view.statistics, STATISTICS), view.alarm) if text]
        if view.numbers:
            widest = max(width_of(number, 9) for row in view.numbers for number in row)
            width = max(width, len(view.numbers[0]) * (widest + 6) + 6)
            height += 16.0 * len(view.numbers) + 4
        elif cell:
            width = max(width, cell * len(view.cells[0]) + 6.0)
            height += cell * len(view.cells) + 8.0
        width = max(width, *(width_of(text, 9) for text in texts))
        height += 14.0 * len(texts)
    look = LOOKS[node.kind]
    if look.shape == "cylinder" and node.views:
        height += 45
    if look.shape == "ellipse":
        return 1.414 * (width + 8) + 8 * (look.lines - 1), 1.414 * (height + 2) + 8 * (look.lines - 1)
    border = 8.0 * (look.lines - 1)
    return width + 14 + border, height + (10 if look.shape == "cylinder" else 4) + border


def tooltip(text: str) -> str:
    r"""Any text as a DOT string of plain text on one line, shown where the pointer rests; nothing is shortened.

    Layout programs read escapes in it twice over, so that a backslash takes four.

    >>> print(tooltip(r"R&D \N"))
    R&amp;D \\\\N
    """
    return printable(text).replace("&", "&amp;").replace("\\", "\\" * 4)


def description(node: PictureNode) -> str:
    """A node in one line.

    >>> description(PictureNode("n0", "parameter", "weight", (3, 2), "float32"))
    'weight: parameter (3, 2) float32'
    """
    title = f"{node.name} = {node.title}" if node.name else node.title
    parts = [f"{title}:", node.kind, _details(node), ", ".join(node.options)]
    line = " ".join(part for part in parts if part)
    shown = [f"{what}: {view.missing or view.alarm or view.statistics}".rstrip(": ") for what, view in node.views]
    return "; ".join([line, *node.notes, *shown])


def node_label(node: PictureNode, images: Images = None) -> str:
    """What a node shows: its title in bold, below it shape, dtype and options in small letters; of a chip the title.

    Arrays to show come last; their heat-maps are put into `images`, by name of a file, where that is given.
    """
    if node.chip:
        return f'<<font point-size="9">{markup(node.title)}</font>>'
    if node.kind == "sum":
        return f"<<b>{markup(node.title)}</b>>"
    if node.kind == "error":
        lines = [f'<font color="{ALARM}">{_title(node)}</font>', *map(_alarming, _wrapped(" ".join(node.notes)))]
    else:
        lines = [_title(node), *map(_small, _lines(node))]
    if not node.views:
        return f"<{'<br/>'.join(lines)}>"
    rows = [f"<tr><td>{'<br/>'.join(lines)}</td></tr>"]
    if LOOKS[node.kind].shape == "cylinder":  # its lid would cover the title
        rows.insert(0, '<tr><td height="14"></td></tr>')
    for what, view in node.views:
        rows += view_rows(what, view, images)
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{"".join(rows)}</table>>'


def short_lines(node: PictureNode) -> list[str]:
    """What a node shows as plain lines of text, arrays by their statistics."""
    times = f" ×{node.repeats}" if node.repeats > 1 else ""
    title = f"{node.name} = {node.title}" if node.name else node.title
    shown = [
        f"{what}: {view.missing or view.alarm or view.statistics or view.numbers[0][0]}" for what, view in node.views
    ]
    return [title + times] if node.chip else [title + times, *_lines(node), *shown]


def operand_label(name: str) -> str:
    """The name of an operand, at the head of its edge."""
    return f"<{markup(name, LONGEST_OPERAND)}>"


def edge_label(text: str) -> str:
    """A result of a call with several of them."""
    return f"<{markup(text)}>"


def cluster_label(cluster: PictureCluster, twice: bool = False) -> str:
    """The module's path and class, and which call of it this is, where there are several.

    `twice`: with as much room again to its right, for a line that comes from above.
    """
    call = f" · call {cluster.call} of {cluster.calls}" if cluster.calls > 1 else ""
    times = f" <b>×{cluster.repeats}</b>, the first is drawn" if cluster.repeats > 1 else ""
    label = f"<b>{markup(cluster.path)}</b> " if cluster.path else ""
    title = f'{label}<font color="{QUIET}">{markup(cluster.label + call)}{times}</font>'
    if not twice:
        return f"<{title}>"
    said = f"{cluster.path} {cluster.label}{call}" + (" ×2, the first is drawn" if times else "")
    cells = f'<td>{title}</td><td width="{width_of(said, 10):.0f}"></td>'
    return f"<{_row(cells, 0)}>"


def legend(kinds: Iterable[Kind], stopped: bool, repeats: bool, notes: Iterable[str] = ()) -> str:
    """A row of small samples, one for each kind; `stopped` and `repeats` add what dashed lines mean. Then the notes."""
    kinds, samples = list(kinds), []
    for kind in kinds:
        look = LOOKS[kind]
        style = "rounded" if look.shape == "ellipse" or "rounded" in look.style else "solid"
        sample = _box(f'<font point-size="9" color="{INK}">{kind}</font>', style, look.border, look.fill)
        samples.append(_box(sample, style, look.border, padding=1) if look.lines > 1 else sample)
    lines = ["dashed: no gradient"] * stopped + ["dashed: to the next block"] * repeats
    colours = [STOPPED] * stopped + [REPEAT] * repeats
    samples += [_box(_small(line), "rounded,dashed", colour) for line, colour in zip(lines, colours, strict=True)]
    cells = "".join(f"<td>{sample}</td>" for sample in samples)
    rows = [f'<tr><td align="left">{_row(cells)}</td></tr>'] if samples else []
    room = max(80, sum(len(sample) + 3 for sample in (*kinds, *lines)))
    texts = (line for note in notes for line in textwrap.wrap(printable(note), room))
    rows += [f'<tr><td align="left">{_small(line, 2 * room)}</td></tr>' for line in texts]
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="0">{"".join(rows)}</table>>'


def _row(cells: str, spacing: int = 2) -> str:
    return f'<table border="0" cellborder="0" cellspacing="{spacing}" cellpadding="1"><tr>{cells}</tr></table>'


def _box(content: str, style: str, border: str, fill: str = "#ffffff", padding: int = 3) -> str:
    attributes = f'border="1" style="{style}" color="{border}" bgcolor="{fill}" cellpadding="{padding}"'
    return f'<table {attributes} cellborder="0" cellspacing="0"><tr><td>{content}</td></tr></table>'


def _plain_title(node: PictureNode) -> str:
    """What the title says, without markup."""
    times = f" ×{node.repeats}" if node.repeats > 1 else ""
    between = " " if node.kind == "module" else " = "
    parts = [node.title] if node.name is None else [node.name, node.title]
    return between.join(shortened(printable(part), LONGEST) for part in parts) + times


def _title(node: PictureNode) -> str:
    times = f" ×{node.repeats}" if node.repeats > 1 else ""
    if node.name is None:
        return f"<b>{markup(node.title)}{times}</b>"
    between = " " if node.kind == "module" else " = "
    return f"<b>{markup(node.name)}</b>{between}{markup(node.title)}{times}"


def _details(node: PictureNode) -> str:
    if node.results > 1:
        return f"{node.results} results"
    return "" if node.shape is None else shape_text(node.shape, node.dtype)


def _lines(node: PictureNode) -> list[str]:
    """The small lines below the title; a number that is written out speaks for itself."""
    number = node.shape == () and any(view.single for _, view in node.views)
    lines = [_details(node)] if _details(node) and not number else []
    if node.uses > 1 and node.kind != "operation":
        lines.append(f"used {node.uses} times")
    line = ""
    for option in node.options:
        option = shortened(printable(option), WIDEST)
        if line and len(line) + len(option) + 2 > WIDEST:
            lines.append(f"{line},")
            line = option
        else:
            line = f"{line}, {option}" if line else option
    if line:
        lines.append(line)
    for note in node.notes:
        lines += _wrapped(note)
    return lines


def _wrapped(text: str) -> list[str]:
    """A text in lines that are not too wide, and not too many of them."""
    lines = textwrap.wrap(printable(text), WIDEST) or [""]
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1]} …"]


def _small(text: str, limit: int = WIDEST + 2) -> str:
    return f'<font point-size="9" color="{QUIET}">{markup(text, limit)}</font>'


def _alarming(text: str) -> str:
    return f'<font point-size="9" color="{ALARM}">{markup(text, WIDEST + 2)}</font>'
