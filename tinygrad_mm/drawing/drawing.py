"""`draw` and the `Drawing` that it returns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinygrad_mm.drawing.dot import DIRECTIONS, Direction, digraph
from tinygrad_mm.drawing.picture import Picture
from tinygrad_mm.drawing.reader import names_in, read
from tinygrad_mm.drawing.renderer import render, write
from tinygrad_mm.tensor import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    import graphviz

__all__ = ["Drawing", "draw"]

FORMATS = (".svg", ".png", ".pdf", ".dot")


def draw(outputs: Tensor | Sequence[Tensor], *, model: Any = None, direction: Direction = "LR") -> Drawing:
    """The computation graph behind one or several tensors.

    With `model`, parameters and layers are called by their attribute paths (`layers.0.weight`); tensors with a `name`
    show it. `direction` is "LR" (left to right), "TB" (top to bottom), "RL" or "BT". Nothing is computed or changed,
    and the drawing keeps no tensor alive.

    Raises RuntimeError where `backward()` has released the graph, TypeError for outputs that are no Tensors and a
    model that is no Module, ValueError for an unknown direction or without outputs.

    >>> a = Tensor(3.0, requires_grad=True)
    >>> a.name = "a"
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
    return Drawing(read(tensors, names_in(model)), direction)


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
        """The DOT text. It needs no layout program."""
        return self.graph.source

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as .svg, .png, .pdf or .dot, as the name ends; returns the path.

        The file is there whole or not at all. PDF needs a real `dot`; .dot needs no layout program.

        Raises ValueError for another ending, RuntimeError where there is no layout program, OSError where the file
        cannot be written.
        """
        from pathlib import Path

        path = Path(path)
        form = path.suffix.lower()
        if form not in FORMATS:
            raise ValueError(f"cannot save as {path.name!r}: the name must end in one of {', '.join(FORMATS)}")
        write(path, self.source.encode() if form == ".dot" else render(self.source, form[1:]))
        return path

    def _repr_svg_(self) -> str:
        return render(self.source, "svg").decode()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the picture or, without a layout program, how to get one."""
        try:
            return {"image/svg+xml": self._repr_svg_(), "text/plain": repr(self)}
        except RuntimeError as error:
            return {"text/plain": f"{self!r}\n{error}"}

    def __repr__(self) -> str:
        nodes, edges = len(self.picture.nodes), len(self.picture.edges)
        return f'<Drawing of {nodes} nodes and {edges} edges: save("graph.svg") writes it, .source is its DOT text>'
