"""How each kind of node looks. Kinds differ in shape and in colour.

The colours are tints of the palette of Okabe and Ito (2008), which people with any kind of colour vision can tell
apart; the borders are darker shades of the same hues.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinygrad_mm.drawing.picture import Kind

__all__ = ["CLUSTER", "EDGE", "FONT", "INK", "LOOKS", "QUIET", "STOPPED", "Look"]

FONT = "Helvetica"  # layout programs know its letters' widths, and every viewer has it or something as wide
INK = "#1f2933"  # titles
QUIET = "#52606d"  # shapes, dtypes, options
STOPPED = "#9aa5b1"  # edges and borders that no gradient passes
EDGE = "#52606d"
CLUSTER = ("#f5f7fa", "#ebeff4", "#c5ced8")  # fills of odd and even depths, border


@dataclass(frozen=True)
class Look:
    """A Graphviz shape and style, the colours inside and around it, and the number of lines around it."""

    shape: str
    fill: str
    border: str
    style: str = "filled"
    lines: int = 1


LOOKS: dict[Kind, Look] = {
    "input": Look("ellipse", "#dbeefa", "#2b7bb0"),  # sky blue
    "parameter": Look("cylinder", "#fbebc8", "#b07800"),  # orange
    "buffer": Look("box3d", "#f6e3ee", "#a8568a"),  # reddish purple
    "constant": Look("note", "#eeeeee", "#8a8a8a"),  # grey
    "operation": Look("box", "#ffffff", "#52606d", style="rounded,filled"),
    "output": Look("ellipse", "#cfece2", "#00795a", lines=2),  # bluish green
}
