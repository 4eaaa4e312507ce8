"""Labels in Graphviz's HTML-like language. Whatever comes from outside goes through `markup` here, and nowhere else."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from tinygrad_mm.drawing.picture import Kind, PictureCluster, PictureNode
from tinygrad_mm.drawing.text import printable, shape_text, shortened
from tinygrad_mm.drawing.theme import INK, LOOKS, QUIET, STOPPED

__all__ = [
    "LEAST_WIDTH",
    "cluster_label",
    "description",
    "edge_label",
    "least_width",
    "legend",
    "markup",
    "node_label",
    "operand_label",
    "tooltip",
]

ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\\": "\\\\", "\N{NO-BREAK SPACE}": "&#160;"}
)
LEAST_WIDTH = 0.3  # inches
LONGEST = 40  # characters of a name
LONGEST_OPERAND = 9  # characters of the name of an operand
WIDEST = 34  # characters of a line of options


def markup(text: str, limit: int = LONGEST) -> str:
    r"""Any text as part of a label: on one line, not too long, special characters escaped.

    A label would swallow spaces at its ends and all but one of several, so these become no-break spaces; and it would
    put the name of the node in place of one backslash and N, so these are doubled.

    >>> print(markup('<b> "x"  & y'), markup(r"\N"))
    &lt;b&gt; &quot;x&quot; &#160;&amp; y \\N
    """
    text = re.sub(r"^ | $|(?<= ) ", "\N{NO-BREAK SPACE}", shortened(printable(text), limit))
    return text.translate(ESCAPES)


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
    return " ".join(part for part in parts if part)


def node_label(node: PictureNode) -> str:
    """What a node shows: its title in bold, below it shape, dtype and options in small letters; of a chip the title."""
    if node.chip:
        return f'<<font point-size="9">{markup(node.title)}</font>>'
    return f"<{'<br/>'.join([_title(node), *map(_small, _lines(node))])}>"


def operand_label(name: str) -> str:
    """The name of an operand, at the head of its edge."""
    return f"<{markup(name, LONGEST_OPERAND)}>"


def edge_label(text: str) -> str:
    """A result of a call with several of them."""
    return f"<{markup(text)}>"


def cluster_label(cluster: PictureCluster) -> str:
    """The module's path and class, and which call of it this is, where there are several."""
    call = f" · call {cluster.call} of {cluster.calls}" if cluster.calls > 1 else ""
    label = f"<b>{markup(cluster.path)}</b> " if cluster.path else ""
    return f'<{label}<font color="{QUIET}">{markup(cluster.label + call)}</font>>'


def legend(kinds: Iterable[Kind], stopped: bool) -> str:
    """One row of small samples, one for each kind; `stopped` adds what a dashed line means."""
    samples = []
    for kind in kinds:
        look = LOOKS[kind]
        style = "rounded" if look.shape == "ellipse" or "rounded" in look.style else "solid"
        sample = _box(f'<font point-size="9" color="{INK}">{kind}</font>', style, look.border, look.fill)
        samples.append(_box(sample, style, look.border, padding=1) if look.lines > 1 else sample)
    if stopped:
        samples.append(_box(_small("dashed: no gradient"), "rounded,dashed", STOPPED))
    cells = "".join(f"<td>{sample}</td>" for sample in samples)
    return f'<<table border="0" cellborder="0" cellspacing="2" cellpadding="1"><tr>{cells}</tr></table>>'


def _box(content: str, style: str, border: str, fill: str = "#ffffff", padding: int = 3) -> str:
    attributes = f'border="1" style="{style}" color="{border}" bgcolor="{fill}" cellpadding="{padding}"'
    return f'<table {attributes} cellborder="0" cellspacing="0"><tr><td>{content}</td></tr></table>'


def _title(node: PictureNode) -> str:
    if node.name is None:
        return f"<b>{markup(node.title)}</b>"
    return f"<b>{markup(node.name)}</b> = {markup(node.title)}"


def _details(node: PictureNode) -> str:
    if node.results > 1:
        return f"{node.results} results"
    return "" if node.shape is None else shape_text(node.shape, node.dtype)


def _lines(node: PictureNode) -> list[str]:
    """The small lines below the title."""
    lines = [_details(node)] if _details(node) else []
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
    return [*lines, line] if line else lines


def _small(text: str) -> str:
    return f'<font point-size="9" color="{QUIET}">{markup(text, WIDEST + 1)}</font>'
