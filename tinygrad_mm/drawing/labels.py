"""Labels in Graphviz's HTML-like language. Whatever comes from outside goes through `markup` here, and nowhere else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from tinygrad_mm.drawing.picture import Kind, PictureCluster, PictureNode
from tinygrad_mm.drawing.text import printable, shape_text, shortened
from tinygrad_mm.drawing.theme import INK, LOOKS, QUIET, STOPPED

__all__ = ["cluster_label", "edge_label", "legend", "markup", "node_label", "tooltip"]

LONGEST = 40  # characters of a name
WIDEST = 34  # characters of a line of options


def markup(text: str, limit: int = LONGEST) -> str:
    """Any text as part of a label: on one line, not too long, special characters escaped.

    A label would swallow spaces at its ends and all but one of several, so these become no-break spaces.

    >>> markup('<b> "x"  & y')
    '&lt;b&gt; &quot;x&quot; &#160;&amp; y'
    """
    text = re.sub(r"^ | $|(?<= ) ", "\N{NO-BREAK SPACE}", shortened(printable(text), limit))
    return html.escape(text).replace("\N{NO-BREAK SPACE}", "&#160;")


def tooltip(node: PictureNode) -> str:
    """The whole of a node in one line of plain text, nothing shortened, for `&` and backslash escapes of DOT strings.

    >>> tooltip(PictureNode("n0", "parameter", "weight", (3, 2), "float32"))
    'weight: parameter (3, 2) float32'
    """
    title = f"{node.name} = {node.title}" if node.name else node.title
    parts = [f"{title}:", node.kind, _details(node), ", ".join(node.options)]
    return printable(" ".join(part for part in parts if part)).replace("\\", "\\\\").replace("&", "&amp;")


def node_label(node: PictureNode, sideways: bool) -> str:
    """What a node shows: its title in bold, below it shape, dtype and options in small letters.

    An operation is a table with a cell ("port") for each of its operands, which keeps their edges in order:
    `sideways` puts them at the left or right end, otherwise at the top or bottom.
    """
    if node.chip:
        return f'<<font point-size="9">{markup(node.title)}</font>>'
    lines = [_title(node), *map(_small, _lines(node))]
    if node.kind != "operation":
        return f"<{'<br/>'.join(lines)}>"
    return f"<{_table(node, '<br/>'.join(lines), sideways)}>"


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
    samples = [_sample(kind) for kind in kinds]
    if stopped:
        samples.append(
            f'<table border="1" style="rounded,dashed" color="{STOPPED}" cellborder="0" cellspacing="0" cellpadding="3">'
            f'<tr><td><font point-size="9" color="{QUIET}">dashed: no gradient</font></td></tr></table>'
        )
    cells = "".join(f"<td>{sample}</td>" for sample in samples)
    return f'<<table border="0" cellborder="0" cellspacing="2" cellpadding="1"><tr>{cells}</tr></table>>'


def _sample(kind: Kind) -> str:
    look = LOOKS[kind]
    rounded = ' style="rounded"' if look.shape in ("ellipse", "plain") else ""
    sample = (
        f'<table border="1"{rounded} bgcolor="{look.fill}" color="{look.border}" cellborder="0" cellspacing="0" cellpadding="3">'
        f'<tr><td><font point-size="9" color="{INK}">{kind}</font></td></tr></table>'
    )
    for _ in range(look.lines - 1):
        sample = (
            f'<table border="1"{rounded} color="{look.border}" cellborder="0" cellspacing="0" cellpadding="1">'
            f"<tr><td>{sample}</td></tr></table>"
        )
    return sample


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


def _table(node: PictureNode, text: str, sideways: bool) -> str:
    look = LOOKS[node.kind]
    style, color = ("rounded", look.border) if node.gradient else ("rounded,dashed", STOPPED)
    head = (
        f'<table border="1" style="{style}" bgcolor="{look.fill}" color="{color}" '
        'cellborder="0" cellspacing="0" cellpadding="2">'
    )
    body = f'<td cellpadding="4">{text}</td>'
    if len(node.operands) < 2:
        return f"{head}<tr>{body}</tr></table>"
    side = "r" if sideways else "b"
    ports = [
        f'<td port="p{i}" border="1" sides="{side}" color="#e4e7eb">'
        f'<font point-size="8" color="{QUIET}">{markup(name, 12)}</font></td>'
        for i, name in enumerate(node.operands)
    ]
    if sideways:
        first, *rest = ports
        body = body.replace("<td ", f'<td rowspan="{len(ports)}" ', 1)
        return f"{head}<tr>{first}{body}</tr>{''.join(f'<tr>{port}</tr>' for port in rest)}</table>"
    body = body.replace("<td ", f'<td colspan="{len(ports)}" ', 1)
    return f"{head}<tr>{''.join(ports)}</tr><tr>{body}</tr></table>"
