"""Any text as part of a label in Graphviz's HTML-like language."""

from __future__ import annotations

import re

from tinygrad_mm.drawing.text import printable, shortened

__all__ = ["LONGEST", "markup"]

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
