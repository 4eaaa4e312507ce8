"""`explore`: backpropagation as one page that opens from disk and needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from tinygrad_mm.drawing.reader import names_in, read
from tinygrad_mm.drawing.renderer import write
from tinygrad_mm.drawing.text import printable
from tinygrad_mm.explorer.payload import payload
from tinygrad_mm.explorer.scene import Scene, scene
from tinygrad_mm.explorer.steps import record
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.tensor import Tensor

__all__ = ["explore", "page"]

PROGRAMS = ("arrays.js", "graph.js", "cards.js", "page.js")


def explore(loss: Tensor, model: Any = None, path: str | os.PathLike[str] = "backprop.html") -> Path:
    """Write a page on which backpropagation from `loss` can be stepped through; returns its path.

    The page shows the graph and, for each operation forward and backward, the arrays, the local rule as mathematics
    and as its source, the rule with the numbers put in, each gradient as the sum of its paths, and a finite difference
    beside it; a button replays the pass in the wrong order. It is one file without a link to anywhere else, written
    whole or not at all. With `model`, parameters and layers are called by their paths. It runs a backward pass of its
    own: no `.grad` is touched, and the graph stays as it is.

    Raises TypeError for anything but a Tensor, RuntimeError where there is no graph or `backward()` has released it,
    ValueError for a loss of several numbers, OSError where the file cannot be written.

    >>> import tempfile
    >>> x, W = Tensor([[1.0, 2.0]]), Tensor([[0.5], [-1.0]], requires_grad=True)
    >>> y = x @ W
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     explore((y * y).sum(), path=f"{folder}/backprop.html").name
    'backprop.html'
    """
    path = Path(path)
    story = record(loss, model)
    write(path, page(story, scene(story, read([loss], names_in(model)))).encode())
    return path


def page(story: Story, picture: Scene) -> str:
    """The page's text. The same story gives the same text.

    A policy in its head forbids the browser to load anything, and to run any script but the one below, by its digest.
    """
    files = resources.files(__package__ or "tinygrad_mm.explorer")
    style = files.joinpath("page.css").read_text("utf-8") + picture.style
    script = "\n".join(files.joinpath(name).read_text("utf-8") for name in PROGRAMS)
    heading = html.escape(f"Backpropagation from {printable(story.values[story.loss].label)}")
    missing = f'<p class="nopicture">{html.escape(picture.problem)}</p>'
    parts = {
        "POLICY": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": heading,
        "HEADING": heading,
        "STYLE": style,
        "PICTURE": picture.svg or missing,
        "DATA": _json(payload(story, picture.nodes, picture.layers)),
        "SCRIPT": script,
    }
    text = files.joinpath("page.html").read_text("utf-8")
    first, *rest = text.split("@")  # every other piece is the name of a part
    pieces = [first]
    for i, piece in enumerate(rest):
        pieces.append(parts[piece] if i % 2 == 0 else piece)
    return "".join(pieces)


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(data: Any) -> str:
    """JSON that can stand inside a script element: no `<`, which alone could end it."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
