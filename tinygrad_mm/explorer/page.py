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
from tinygrad_mm.explorer.payload import payload
from tinygrad_mm.explorer.scene import Scene, scene
from tinygrad_mm.explorer.steps import record
from tinygrad_mm.explorer.story import Story
from tinygrad_mm.tensor import Tensor

__all__ = ["Exploration", "explore", "page"]

PROGRAMS = (
    *("arrays.js", "compute.js", "graph.js", "cards.js", "disorder.js", "learning.js", "quiz.js", "edit.js"),
    "page.js",
)
FRAME_HEIGHT = 820  # pixels, in a notebook


class Exploration(os.PathLike[str]):
    """The page that `explore` made: a path to the file, and in a notebook the page itself, in a frame.

    `path` is where it was written (None: nowhere), `html` its text, `story` what it tells.

    >>> exploration = explore(Tensor(2.0, requires_grad=True) * 3, path=None)
    >>> exploration.html.startswith("<!DOCTYPE html>")
    True
    """

    def __init__(self, path: Path | None, html: str, story: Story) -> None:
        self.path, self.html, self.story = path, html, story

    def __fspath__(self) -> str:
        if self.path is None:
            raise TypeError('this page was not written to a file; use explore(..., path="backprop.html")')
        return os.fspath(self.path)

    def __str__(self) -> str:
        return "a page that was not written" if self.path is None else str(self.path)

    def __repr__(self) -> str:
        return f"<Exploration of {len(self.story.forward)} operations: {self}>"

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which needs no file and no server; its scripts reach nothing outside it."""
        return (
            f'<iframe title="Backpropagation, step by step" sandbox="allow-scripts" srcdoc="{html.escape(self.html)}" '
            f'style="width:100%;height:{FRAME_HEIGHT}px;border:1px solid #8884;border-radius:8px" loading="lazy">'
            "</iframe>"
        )


def explore(
    loss: Tensor,
    model: Any = None,
    optimizer: Any = None,
    *,
    path: str | os.PathLike[str] | None = "backprop.html",
    steps: int = 1,
    image: tuple[int, int] | None = None,
) -> Exploration:
    """Write a page on which backpropagation from `loss` can be stepped through; a notebook shows it.

    The page shows the graph and, for each operation forward and backward, the arrays, the local rule as mathematics
    and as its source, the rule with the numbers put in, each gradient as the sum of its paths, and a finite difference
    beside it; a button replays the pass in the wrong order. Any number that was given can be changed, and a quiz asks
    for gradients. With `optimizer`, its updates follow, in formulas and numbers; `steps` training steps on the same
    graph can be gone through by a slider. With `image`, (height, width), pixels are shown as images.

    It is one file without a link to anywhere else, written whole or not at all (`path=None`: not written). With
    `model`, parameters and layers are called by their paths. It runs a backward pass of its own: no `.grad` is touched,
    and the graph, the parameters and the optimizer stay as they are.

    Raises TypeError for anything but a Tensor and for an optimizer without a formula, RuntimeError where there is no
    graph or `backward()` has released it, ValueError for a loss of several numbers, for an optimizer of other
    parameters and for an `image` of which there is none, OSError where the file cannot be written.

    >>> import tempfile
    >>> x, W = Tensor([[1.0, 2.0]]), Tensor([[0.5], [-1.0]], requires_grad=True)
    >>> y = x @ W
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     explore((y * y).sum(), path=f"{folder}/backprop.html").path.name
    'backprop.html'
    """
    if isinstance(optimizer, (str, os.PathLike)):
        raise TypeError(f"explore: the third argument is the optimizer; write explore(loss, model, path={optimizer!r})")
    if steps != int(steps) or steps < 1:
        raise ValueError(f"explore: steps={steps!r}; it is the number of training steps, 1 or more")
    if steps > 1 and optimizer is None:
        raise ValueError("explore: steps= takes training steps, which need optimizer=")
    size = None if image is None else tuple(map(int, image))
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"explore: image={image!r}; it is (height, width), such as (28, 28)")
    story = record(loss, model, optimizer=optimizer, steps=int(steps))
    text = page(story, scene(story, read([loss], names_in(model))), size)
    if path is None:
        return Exploration(None, text, story)
    path = Path(path)
    write(path, text.encode())
    return Exploration(path, text, story)


def page(story: Story, picture: Scene, image: Any = None) -> str:
    """The page's text. The same story gives the same text.

    A policy in its head forbids the browser to load anything, and to run any script but the one below, by its digest.
    """
    files = resources.files(__package__ or "tinygrad_mm.explorer")
    style = files.joinpath("page.css").read_text("utf-8") + picture.style
    script = "\n".join(files.joinpath(name).read_text("utf-8") for name in PROGRAMS)
    heading = html.escape(f"Backpropagation from {story.values[story.loss].label}")
    missing = f'<p class="nopicture">{html.escape(picture.problem)}</p>'
    parts = {
        "POLICY": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": heading,
        "HEADING": heading,
        "STYLE": style,
        "PICTURE": picture.svg or missing,
        "DATA": _json(payload(story, picture.nodes, picture.layers, image)),
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
