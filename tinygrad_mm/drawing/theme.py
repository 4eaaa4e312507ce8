"""Shapes and colours: each kind of node has its own.

The colours are tints of the palette of Okabe and Ito (2008), which people with any kind of colour vision can tell
apart; the borders are darker shades of the same hues.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinygrad_mm.drawing.picture import Kind

__all__ = [
    "ALARM",
    "BACKWARD",
    "BACKWARD_FILL",
    "CLUSTER",
    "EDGE",
    "FONT",
    "INK",
    "LOOKS",
    "QUIET",
    "REPEAT",
    "STOPPED",
    "Look",
]

FONT = "Helvetica"  # layout programs know its letters' widths, and every viewer has it or something as wide
INK = "#1f2933"  # titles
QUIET = "#52606d"  # shapes, dtypes, options
STOPPED = "#9aa5b1"  # edges and borders that no gradient passes
EDGE = "#52606d"
BACKWARD = "#b8410f"  # vermilion: gradients on their way back
BACKWARD_FILL = "#fdf1ea"
REPEAT = "#4b5aa8"  # indigo: folded modules, and the way to the next of several equal blocks
ALARM = "#c8102e"  # NaN, Inf, the call that failed
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
    "detached": Look("hexagon", "#f7f4bd", "#857b00"),  # yellow
    "operation": Look("box", "#ffffff", "#52606d", style="rounded,filled"),
    "function": Look("box", "#efeaf8", "#6a4c93", style="rounded,filled", lines=2),
    "module": Look("tab", "#e5e8f7", REPEAT),  # indigo
    "sum": Look("circle", BACKWARD_FILL, BACKWARD),
    "output": Look("ellipse", "#cfece2", "#00795a", lines=2),  # bluish green
    "error": Look("octagon", "#fde3e3", ALARM, lines=2),
}
