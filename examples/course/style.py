"""One style for all pictures of the examples: colours that everybody tells apart, a font, a size.

Chapters of the course `show(picture, caption)`: in a notebook the picture appears below its cell, a
script writes it into a folder (course-out; the environment variable COURSE_OUT names another). With
`--short`, or COURSE_SHORT in the environment, a chapter takes less data and fewer steps, so that it
runs in seconds.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import os
import sys
from pathlib import Path
from typing import Any

# Okabe and Ito (2008): told apart with every kind of colour vision, and in grey.
BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
)
GREY, INK = "#b8bcc2", "#30343a"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW)
SIGNED = "RdBu_r"  # white at zero, blue below, red above
AMOUNT = "Blues"  # white at zero

SHORT = "--short" in sys.argv or bool(os.environ.get("COURSE_SHORT"))

_count = itertools.count(1)


def figure(width: float, height: float, layout: str | None = "constrained") -> Any:
    """A figure for a file: drawn by Agg, without a window."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams.update(
        {"font.size": 10, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK}
    )
    mpl.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
    )
    mpl.rcParams.update(
        {"axes.prop_cycle": cycler(color=COLOURS), "legend.frameon": False, "lines.linewidth": 1.8}
    )
    fig = Figure(figsize=(width, height), dpi=150, layout=layout)
    FigureCanvasAgg(fig)
    return fig


def grid(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, side by side and one below the other."""
    fig = figure(width, height)
    return fig, fig.subplots(rows, columns, **options)


def matrix(
    ax: Any, values: Any, title: str = "", limit: float | None = None, written: str = ""
) -> Any:
    """A matrix as coloured squares, white at zero; `written` is the format of the numbers."""
    limit = limit or float(abs(values).max()) or 1.0
    return _squares(ax, values, title, written, SIGNED, -limit, limit)


def amounts(ax: Any, values: Any, title: str = "", written: str = "") -> Any:
    """A matrix of numbers from 0 upwards as coloured squares, white at zero."""
    return _squares(ax, values, title, written, AMOUNT, 0, float(values.max()) or 1.0)


def image(ax: Any, pixels: Any, title: str = "") -> None:
    """A grey image, from white at 0 to black at 1."""
    ax.imshow(pixels, cmap="gray_r", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    ax.spines[:].set(visible=True, color=GREY)


def _squares(
    ax: Any, values: Any, title: str, written: str, colours: str, low: float, high: float
) -> Any:
    image = ax.imshow(values, cmap=colours, vmin=low, vmax=high)
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=GREY)
    if written:
        for (i, j), value in _entries(values):
            shade = "white" if abs(value) > 0.6 * high else INK
            ax.text(j, i, f"{value:{written}}", ha="center", va="center", color=shade, fontsize=9)
    return image


def _entries(values: Any) -> Any:
    return ((index, float(values[index])) for index in itertools.product(*map(range, values.shape)))


def show(picture: Any, caption: str, cover: bool = False) -> None:
    """Show a figure, or a drawing of the library, with what is to be seen in it.

    The cover of a chapter stands in the index of the examples; by default it is its first picture.
    """
    if in_notebook():
        from IPython.display import HTML, display

        words = f"<figcaption>{html.escape(caption)}</figcaption>"
        kind = ' class="cover"' if cover else ""
        display(HTML(f"<figure{kind}>{_inline(picture, caption)}{words}</figure>"))
        return
    form = "svg" if hasattr(picture, "_repr_svg_") else "png"
    path = out(f"{Path(sys.argv[0]).stem}-{next(_count)}.{form}")
    if form == "svg":
        picture.save(path)
    else:
        picture.savefig(path)
    print(f"[{path}: {caption}]")


def out(name: str) -> Path:
    """Where a file of the course is written."""
    folder = Path(os.environ.get("COURSE_OUT", "course-out"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _inline(picture: Any, caption: str) -> str:
    """A picture as part of a page."""
    if hasattr(picture, "_repr_svg_"):
        kind, data = "image/svg+xml", picture._repr_svg_().encode()
    else:
        file = io.BytesIO()
        picture.savefig(file, format="png")
        kind, data = "image/png", file.getvalue()
    width = f' style="width: {picture.get_figwidth():.1f}in"' if kind == "image/png" else ""
    text = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(caption)}" src="data:{kind};base64,{text}"{width}>'


def rule(*functions: Any) -> None:
    """Show the rules of functions as `tg.rule` has them: mathematics, source, an example."""
    import tinygrad_mm as tg

    for function in functions:
        if in_notebook():
            from IPython.display import display

            display(tg.rule(function))
        else:
            print(tg.rule(function))


def in_notebook() -> bool:
    """Whether cells show what they return."""
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
