"""Shapes and colours: each kind of node has its own.

The colours are tints of the palette of Okabe and Ito (2008), which people with any kind of colour vision can tell
apart; the borders are darker shades of the same hues.
"""

from __future__ import annotations

import colorsys
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
    "in_the_dark",
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


def in_the_dark(colour: str) -> str:
    """What stands for a colour on a dark page: as far from the paper as in the light, and of the same hue.

    >>> in_the_dark("#ffffff"), in_the_dark("#000000")
    ('#182029', '#ffffff')
    """
    if colour == "#ffffff":
        return "#182029"
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    fill = lightness > 0.7
    turned = colorsys.hls_to_rgb(hue, (0.94 if fill else 1.0) - 0.84 * lightness, saturation * (0.6 if fill else 0.85))
    return "#" + "".join(f"{round(255 * part):02x}" for part in turned)
