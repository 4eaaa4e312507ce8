"""Makes images of DOT with a layout program: `dot`, or `graphviz-pure` where `dot` is not installed.

`graphviz-pure` cannot write PDF; `pygraphviz` does.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tinygrad_mm.files import keep_permissions

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "INSTALL",
    "LayoutProgram",
    "find_program",
    "for_notebooks",
    "laid_out",
    "png",
    "render",
    "resolution",
    "svg_size",
    "with_fonts_of_one_width",
    "with_images",
    "write",
]

INSTALL = "`pip install graphviz-pure` or `apt install graphviz`"

# Bounds of a PNG: sharp where the picture is small, still possible to open where it is large.
DOTS_PER_INCH = 144.0
LONGEST_SIDE = 32_000
MOST_PIXELS = 48_000_000


class LayoutProgram(NamedTuple):
    """A program that understands DOT; `pure` is the one from PyPI, which cannot write PDF."""

    path: str
    pure: bool


def find_program() -> LayoutProgram:
    """`dot` on the PATH, else `graphviz-pure` among the scripts of this Python or on the PATH.

    Raises RuntimeError with neither; its text names both installs.
    """
    import shutil
    import sysconfig

    dot = shutil.which("dot")
    if dot is not None:
        return LayoutProgram(dot, pure=False)
    pure = shutil.which("graphviz-pure", path=sysconfig.get_path("scripts")) or shutil.which("graphviz-pure")
    if pure is not None:
        return LayoutProgram(pure, pure=True)
    raise RuntimeError(
        f"a picture needs a layout program, and there is neither `dot` nor `graphviz-pure`; install one: {INSTALL}. "
        "Saving as .dot works without"
    )


FIXED = ("-Kneato", "-n2")  # draw everything where its attributes say that it stands


def render(source: str, form: str, images: Mapping[str, bytes] | None = None, fixed: bool = False) -> bytes:
    """The graph as "svg", "png" or "pdf"; an SVG carries the `images` that its labels name.

    In a `fixed` one everything has its place already.

    Raises RuntimeError where there is no layout program, where it fails, and for PDF without `dot` and `pygraphviz`.
    """
    try:
        program = find_program()
    except RuntimeError:
        if form != "pdf":
            raise
        return _pdf(source, images or {}, fixed)
    if form == "pdf" and program.pure:
        return _pdf(source, images or {}, fixed)
    how = FIXED if fixed else ()
    if form == "png":
        return png(program, source, *how)
    picture = _run(program, source, *how, f"-T{form}", images=images)
    return with_images(with_fonts_of_one_width(picture), images or {}) if form == "svg" else picture


def laid_out(sources: Sequence[str]) -> list[dict[str, Any]]:
    """Where a layout program puts everything in each of some graphs: its JSON.

    Raises RuntimeError where there is no layout program, and where it fails.
    """
    text = _run(find_program(), "\n".join(sources), "-Tjson0").decode()
    found, decoder, end = [], json.JSONDecoder(), 0
    while (start := text.find("{", end)) >= 0:
        document, end = decoder.raw_decode(text, start)
        found.append(document)
    return found


def _pdf(source: str, images: Mapping[str, bytes], fixed: bool) -> bytes:
    """A PDF by pygraphviz, whose wheel has a Graphviz inside.

    Raises RuntimeError without it; its text names the installs.
    """
    import tempfile

    try:
        import pygraphviz
    except ImportError:
        raise RuntimeError(
            "a PDF needs a Graphviz that can write it: `pip install 'tinygrad_mm[pdf]'` or `apt install graphviz`; "
            "saving as .svg works without"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        for name, content in images.items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
        make: Any = pygraphviz.AGraph
        graph = make(string=source)
        graph.graph_attr["imagepath"] = folder
        how = {"prog": "neato", "args": "-n2"} if fixed else {"prog": "dot"}
        made: bytes = graph.draw(format="pdf", **how)
    return made


def with_fonts_of_one_width(svg: bytes) -> bytes:
    """An SVG whose text names every common font with the letter widths of Helvetica, so that it fits its boxes.

    >>> with_fonts_of_one_width(b'<text font-family="Helvetica,sans-Serif">a</text>')
    b'<text font-family="Helvetica,Arial,Liberation Sans,Nimbus Sans,Arimo,sans-serif">a</text>'
    """
    return svg.replace(
        b'font-family="Helvetica,sans-Serif"',
        b'font-family="Helvetica,Arial,Liberation Sans,Nimbus Sans,Arimo,sans-serif"',
    )


def for_notebooks(svg: bytes) -> bytes:
    """An SVG that a notebook shows whole: one wider than the page is made as wide as the page.

    >>> for_notebooks(b'<svg width="900pt" height="300pt" viewBox="0 0 900 300">')
    b'<svg style="max-width:100%;height:auto" width="900pt" height="300pt" viewBox="0 0 900 300">'
    """
    return svg.replace(b"<svg ", b'<svg style="max-width:100%;height:auto" ', 1)


def with_images(svg: bytes, images: Mapping[str, bytes]) -> bytes:
    """An SVG that holds its images instead of naming their files, each pixel a sharp square.

    >>> with_images(b'<image xlink:href="a.png"/>', {"a.png": b"PNG"})
    b'<image style="image-rendering:pixelated" xlink:href="data:image/png;base64,UE5H"/>'
    """
    for name, content in images.items():
        data = b"data:image/png;base64," + base64.b64encode(content)
        svg = svg.replace(
            b'xlink:href="%s"' % name.encode(), b'style="image-rendering:pixelated" xlink:href="%s"' % data
        )
    return svg


def png(program: LayoutProgram, source: str, *options: str) -> bytes:
    """A PNG as sharp as the bounds on its size allow."""
    size = svg_size(_run(program, source, *options, "-Tsvg"))
    return _run(program, source, *options, "-Tpng", f"-Gdpi={resolution(*size):.3f}")


def resolution(width: float, height: float) -> float:
    """Dots per inch for a picture of so many points.

    >>> resolution(500, 200), resolution(72 * 1000, 72)
    (144.0, 32.0)
    """
    inches, area = max(width, height) / 72, width * height / 72**2
    return min(DOTS_PER_INCH, LONGEST_SIDE / inches, math.sqrt(MOST_PIXELS / area))


def svg_size(svg: bytes) -> tuple[float, float]:
    """Width and height of a layout program's SVG, in points.

    >>> svg_size(b'<svg width="62pt" height="44.5pt" viewBox="0 0 62 44">')
    (62.0, 44.5)
    """
    found = re.search(rb'<svg width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    if found is None:
        raise RuntimeError("the layout program's SVG does not start with a width and a height in points")
    return float(found[1]), float(found[2])


def _run(program: LayoutProgram, source: str, *options: str, images: Mapping[str, bytes] | None = None) -> bytes:
    """What the layout program makes of a graph; in a folder of its own where there are images.

    Where it loses its way with curved edges, which happens in large graphs, it gets a second chance with straight ones.
    """
    import subprocess
    import tempfile

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if images else None
        for name, content in (images or {}).items():
            with open(os.path.join(folder or "", name), "wb") as file:
                file.write(content)
        for straight in ((), ("-Gsplines=line",)):
            command = [program.path, *options, *straight]
            done = subprocess.run(command, input=source.encode(), capture_output=True, check=False, cwd=folder)
            if done.returncode == 0 or b"spline" not in done.stderr:
                break
    if done.returncode != 0 or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = "; ".join(said[-3:]) or "it said nothing"
        raise RuntimeError(f"{program.path} {' '.join(options)} failed with status {done.returncode}: {reason}")
    return done.stdout


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises OSError (FileNotFoundError, PermissionError, ...) which says what is wrong with the folder or file.
    """
    import uuid

    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        keep_permissions(part, path)
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        raise type(error)(
            f"cannot write {path}: {reason}; save into a folder that exists and can be written"
        ) from error
