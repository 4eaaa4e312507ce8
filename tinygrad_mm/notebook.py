"""What things show of themselves in a notebook: plain HTML, without scripts and without a style sheet of its own.

Floor 0: nothing here knows what is shown. Colours are those of the page around, so that it can be light or dark.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Shown", "curve", "is_notebook", "preformatted", "table"]

CELL = "padding:.15em .7em;text-align:left;font-variant-numeric:tabular-nums;white-space:nowrap"
WIDTH, HEIGHT = 420, 130


class Shown(str):
    """A text that shows itself as it is, also where Python or a notebook shows the value of an expression.

    >>> Shown("two\\nlines")
    two
    lines
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return preformatted(self)


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


def preformatted(text: str) -> str:
    """A text in letters of one width, its lines not broken.

    >>> preformatted("a < b")
    '<pre style="font-family:monospace;white-space:pre;overflow-x:auto;line-height:1.3">a &lt; b</pre>'
    """
    return (
        f'<pre style="font-family:monospace;white-space:pre;overflow-x:auto;line-height:1.3">{html.escape(text)}</pre>'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of texts.

    >>> table(["a"], [["1"]]).count("<td")
    1
    """
    head = "".join(f'<th style="{CELL}">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td style={chr(34)}{CELL}{chr(34)}>{html.escape(cell)}</td>' for cell in row)}</tr>"
        for row in rows
    )
    above = f"<div>{html.escape(caption)}</div>" if caption else ""
    start = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'{above}<div style="overflow-x:auto"><table>{start}<tbody>{body}</tbody></table></div>'


def curve(lines: Mapping[str, Sequence[float]]) -> str:
    """Numbers over their places as an SVG, the first line full, the others dashed; "" where there is nothing to draw.

    >>> curve({"loss": [1.0]}), curve({"loss": [2.0, 1.0]})[:4]
    ('', '<svg')
    """
    finite = [y for line in lines.values() for y in line if abs(y) < float("inf")]
    longest = max((len(line) for line in lines.values()), default=0)
    if longest < 2 or not finite:
        return ""
    low, high = min(finite), max(finite)
    parts = []
    for number, (name, line) in enumerate(lines.items()):
        points = " ".join(
            f"{56 + (WIDTH - 66) * i / (longest - 1):.1f},{10 + (HEIGHT - 34) * ((high - y) / (high - low or 1)):.1f}"
            for i, y in enumerate(line)
            if abs(y) < float("inf")
        )
        dashes = ' stroke-dasharray="6 4"' if number else ""
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.6"{dashes}>'
            f"<title>{html.escape(name)}</title></polyline>"
        )
    words = ", ".join(f"{name}{' (dashed)' * bool(number)}" for number, name in enumerate(lines))
    style = 'font-size="11" fill="currentColor"'
    parts += [
        f'<text x="50" y="14" text-anchor="end" {style}>{high:.4g}</text>',
        f'<text x="50" y="{HEIGHT - 22}" text-anchor="end" {style}>{low:.4g}</text>',
        f'<text x="56" y="{HEIGHT - 6}" {style}>{html.escape(words)}</text>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{html.escape(words)}">{"".join(parts)}</svg>'
    )
