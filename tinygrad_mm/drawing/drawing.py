"""`draw` and the `Drawing` that it returns."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinygrad_mm.drawing.contributions import contributions_to
from tinygrad_mm.drawing.distant import with_references
from tinygrad_mm.drawing.dot import DIRECTIONS, Direction, digraph
from tinygrad_mm.drawing.folding import fitted
from tinygrad_mm.drawing.joint import joined
from tinygrad_mm.drawing.mermaid import mermaid
from tinygrad_mm.drawing.names import names_in, variables_of
from tinygrad_mm.drawing.outline import outline
from tinygrad_mm.drawing.page import page
from tinygrad_mm.drawing.picture import Picture
from tinygrad_mm.drawing.reader import reading
from tinygrad_mm.drawing.renderer import for_notebooks, render, write
from tinygrad_mm.drawing.show import shown
from tinygrad_mm.drawing.sums import with_backward
from tinygrad_mm.graph import Vertex, topological
from tinygrad_mm.tensor import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    import graphviz

__all__ = ["Drawing", "draw"]

FORMATS = (".svg", ".png", ".pdf", ".dot", ".html", ".txt", ".mmd")


def draw(
    outputs: Tensor | Sequence[Tensor],
    *,
    model: Any = None,
    show: str | Iterable[str] = (),
    depth: int | None = None,
    direction: Direction = "LR",
    focus: Tensor | None = None,
) -> Drawing:
    """The computation graph behind one or several tensors.

    Parameters and layers are called by their attribute paths in `model` (`layers.0.weight`); other tensors by their
    `name`, or by the variable of the calling function that holds them. `show` is one of these words or several:

    - "values" and "gradients": small arrays as numbers, others as heat-maps with mean, std and norm; NaN and Inf in
      red. A gradient is what `.grad` holds; where that is None, "backward not run".
    - "backward": the way back, each contribution with its norm and the axes that broadcasting sums, a Σ where several
      meet. It takes a backward pass of its own, which leaves every `.grad` alone (hooks run).
    - "memory", "work" and "lines": bytes kept for the backward pass, multiply-adds of matrix products, and the source
      line of each operation that was computed inside `record_lines()`.
    - "joint": the backward pass recorded as a graph (`create_graph=True`), drawn below the forward pass. With several
      outputs, the first is the forward pass, and whatever the others need besides is the backward pass.
    - "everything": nothing is folded.

    Modules are folded to `depth`: 0 draws the outermost as one node each, 1 what is in them. Past 200 nodes a picture
    is folded by itself and says so: equal blocks in a row are drawn once, as `×N`. `focus` shows only what that tensor
    was computed from. `direction` is "LR" (left to right), "TB" (top to bottom), "RL" or "BT". No tensor is changed,
    and the drawing keeps none alive.

    Raises RuntimeError where `backward()` has released the graph or there is no gradient to show, TypeError for outputs
    that are no Tensors and a model that is no Module, ValueError for an unknown direction or word, without outputs, and
    for a `focus` that the outputs were not computed from.

    >>> a = Tensor(3.0, requires_grad=True)
    >>> draw(a * a + a)
    <Drawing of 4 nodes and 5 edges: save("graph.svg") writes it, .source is its DOT text>
    """
    single = isinstance(outputs, Tensor) or not isinstance(outputs, Iterable)
    tensors: list[Any] = [outputs] if single else list(outputs)
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"draw: output {i} is a {type(tensor).__name__}; only Tensors have a graph")
    if not tensors:
        raise ValueError("draw: no outputs were given; pass a Tensor or several")
    if direction not in DIRECTIONS:
        raise ValueError(f"draw: direction={direction!r}; known are {', '.join(DIRECTIONS)}")
    if depth is not None and (not isinstance(depth, int) or depth < 0):
        raise ValueError(f"draw: depth={depth!r}; it is a number from 0 on, or None to fold nothing")
    words = shown(show)
    names = names_in(model, variables_of(sys._getframe(1)))
    everything = topological(tensors, everything=True)
    if focus is not None and not any(vertex is focus for vertex in everything):
        raise ValueError("draw: focus= is no tensor that the outputs were computed from")
    if "lines" in words and not any(v.node is not None and v.node.line is not None for v in everything):
        raise ValueError(
            "draw: show='lines' needs lines that were recorded; compute the outputs inside `with tg.record_lines():`"
        )
    forward: list[Vertex] = []
    if "joint" in words:
        tensors, forward, names = joined(tensors, names)
    contributions = contributions_to(tensors) if "backward" in words else None
    found = reading(tensors, names, words, focus=focus, contributions=contributions, forward=forward)
    picture = with_references(fitted(found.picture, depth, "everything" in words))
    return Drawing(with_backward(picture) if contributions else picture, direction)


class Drawing:
    """A picture of a computation graph, to save, to show in a notebook, or to go on with as a `graphviz.Digraph`.

    `picture` is the content as plain data.

    >>> from tinygrad_mm.tensor import Tensor
    >>> a = Tensor(2.0, requires_grad=True)
    >>> drawing = draw(a * a + a)
    >>> drawing.source.startswith("digraph")
    True
    """

    def __init__(self, picture: Picture, direction: Direction = "LR") -> None:
        self.picture = picture
        self.direction = direction

    @property
    def graph(self) -> graphviz.Digraph:
        """A `graphviz.Digraph` of its own, to change at will."""
        return digraph(self.picture, self.direction)

    @cached_property
    def source(self) -> str:
        """The DOT text. It needs no layout program; heat-maps in it are tables of coloured cells."""
        return self.graph.source

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as .svg, .png, .pdf, .dot, .html, .txt or .mmd, as the name ends; returns the path.

        .html is a page of its own in which the picture can be moved and zoomed, .txt a list of the operations, .mmd
        the language of Mermaid. The file is there whole or not at all. PDF needs a real `dot` or pygraphviz
        (the extra `pdf`); .dot, .txt and .mmd need no layout program.

        Raises ValueError for another ending, RuntimeError where there is no layout program, OSError where the file
        cannot be written.
        """
        from pathlib import Path

        path = Path(path)
        form = path.suffix.lower()
        if form not in FORMATS:
            raise ValueError(f"cannot save as {path.name!r}: the name must end in one of {', '.join(FORMATS)}")
        write(path, self._content(form))
        return path

    def _content(self, form: str) -> bytes:
        if form == ".svg":
            return self._svg()
        if form == ".html":
            return page(self._svg().decode()).encode()
        if form == ".txt":
            return outline(self.picture).encode()
        if form == ".mmd":
            return mermaid(self.picture, self.direction).encode()
        return self.source.encode() if form == ".dot" else render(self.source, form[1:])

    def _svg(self) -> bytes:
        images: dict[str, bytes] = {}
        return render(digraph(self.picture, self.direction, images).source, "svg", images)

    def _repr_svg_(self) -> str:
        return for_notebooks(self._svg()).decode()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the picture or, without a layout program, how to get one."""
        try:
            return {"image/svg+xml": self._repr_svg_(), "text/plain": repr(self)}
        except RuntimeError as error:
            return {"text/plain": f"{self!r}\n{error}"}

    def __str__(self) -> str:
        return outline(self.picture)

    def __repr__(self) -> str:
        nodes, edges = len(self.picture.nodes), len(self.picture.edges)
        return f'<Drawing of {nodes} nodes and {edges} edges: save("graph.svg") writes it, .source is its DOT text>'
