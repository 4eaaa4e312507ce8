"""`draw`, `draw_error`, and the `Drawing` that they return."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_mm.drawing.backward import backward_pass, joined, with_backward
from tinygrad_mm.drawing.call import shown_name
from tinygrad_mm.drawing.dot import DIRECTIONS, Direction, digraph
from tinygrad_mm.drawing.folding import (
    Fold,
    fitted,
    fitted_to_page,
    with_chosen_folded,
    with_references,
    without_checks,
)
from tinygrad_mm.drawing.layout import drawn
from tinygrad_mm.drawing.mermaid import mermaid
from tinygrad_mm.drawing.outline import outline
from tinygrad_mm.drawing.page import page
from tinygrad_mm.drawing.picture import Picture, as_json
from tinygrad_mm.drawing.reader import Failure, reading
from tinygrad_mm.drawing.renderer import for_notebooks, write
from tinygrad_mm.drawing.sample import Sizes, outputs_of
from tinygrad_mm.graph import Scope, Vertex, entered, topological
from tinygrad_mm.names import names_in, variables_of
from tinygrad_mm.rules.shown import BOOKKEEPING
from tinygrad_mm.tensor import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    import graphviz

__all__ = ["SHOW", "Drawing", "draw", "draw_error", "record_lines", "shown"]


@contextmanager
def record_lines() -> Iterator[None]:
    """Record the source line of each operation, for `draw(..., show="lines")`; a `with` block or a decorator.

    >>> from tinygrad_mm.tensor import Tensor
    >>> with record_lines():
    ...     y = Tensor(2.0, requires_grad=True) * 3
    >>> y.node.line is not None
    True
    """
    with entered(lines=True):
        yield


SHOW = ("values", "gradients", "numbers", "backward", "memory", "work", "lines", "joint", "everything")


def shown(show: str | Iterable[str]) -> frozenset[str]:
    """The details asked for.

    Raises ValueError, which names the known ones, for a word that is none of them.

    >>> sorted(shown("values")), sorted(shown(("values", "gradients")))
    (['values'], ['gradients', 'values'])
    """
    words = frozenset([show] if isinstance(show, str) else show)
    unknown = sorted(map(repr, words - set(SHOW)))
    if unknown:
        raise ValueError(f"draw: show={', '.join(unknown)}; known are {', '.join(SHOW)}")
    return words


FORMATS = (".svg", ".png", ".pdf", ".dot", ".html", ".txt", ".mmd", ".json")


def draw(
    outputs: Tensor | Sequence[Tensor] | Callable[..., Any],
    *,
    input_size: Sizes | None = None,
    dtype: Any = np.float32,
    model: Any = None,
    show: str | Iterable[str] = (),
    depth: int | None = None,
    fold: Fold | None = None,
    direction: Direction = "LR",
    focus: Tensor | None = None,
) -> Drawing:
    """The computation graph behind one or several tensors, or of a model and the shapes of its inputs.

    `draw(model, input_size=(64, 784))` calls the model, or any function, with zeros of that shape (of several inputs a
    sequence of shapes) and leaves it as it was. Parameters and layers are called by their attribute paths in `model`
    (`layers.0.weight`); other tensors by their `name`, or by the variable of the calling function that holds them.
    `show` is one of these words or several:

    - "values" and "gradients": small arrays as numbers, others as heat-maps with mean, std and norm; NaN and Inf in
      red. A gradient is what `.grad` holds; where that is None, "backward not run".
    - "numbers": value and gradient of every node, also of those between the leaves and the outputs.
    - "backward": the way back, each contribution as a number (or the norm of several) with the axes that broadcasting
      sums, a Σ where several meet. This and "numbers" take a backward pass of their own, which leaves every `.grad`
      alone (hooks run).
    - "memory", "work" and "lines": bytes kept for the backward pass, multiply-adds of matrix products, and the source
      line of each operation that was computed inside `record_lines()`.
    - "joint": the backward pass recorded as a graph (`create_graph=True`), drawn below the forward pass. With several
      outputs, the first is the forward pass, and whatever the others need besides is the backward pass.
    - "everything": nothing is folded.

    A picture fits a page: it is wrapped into rows, functions of several operations (losses, convolutions) are one box
    each, equal modules in a row are drawn once, as `×N`, and modules are folded, from the innermost on, as far as
    needed; it says so. Where arrays are shown it is wrapped only, up to 200 nodes. `depth` says how far modules are
    folded: 0 draws the outermost as one node each, 1 what is in them. `fold` says which modules and functions are, and
    no others: paths, classes and names of functions, with wildcards (`"layers.*"`), or a function that is called with
    each `PictureCluster`; `()` folds nothing. `focus` shows only what that tensor was computed from. `direction` is
    "LR" (left to right), "TB" (top to bottom), "RL" or "BT". No tensor is changed, and the drawing keeps none alive.

    Raises RuntimeError where `backward()` has released the graph or there is no gradient to show, TypeError for outputs
    that are no Tensors, a model to be drawn without `input_size` and a `model=` that is no Module, ValueError for an
    unknown direction, word or name in `fold`, without outputs, and for a `focus` that the outputs were not computed
    from.

    >>> a = Tensor(3.0, requires_grad=True)
    >>> draw(a * a + a)
    <Drawing of 4 nodes and 5 edges: save("graph.svg") writes it, .source is its DOT text>
    """
    if callable(outputs):
        if input_size is None:
            raise TypeError(
                f"draw: a {type(outputs).__name__} has a graph only once it is called; write draw(model, "
                "input_size=(64, 784)) with the shape of its input, or draw(model(x), model=model)"
            )
        model = outputs if model is None and hasattr(outputs, "named_parameters") else model
        outputs = outputs_of(outputs, input_size, dtype)
    elif input_size is not None:
        raise TypeError("draw: input_size= is for a model; what tensors were computed from has its sizes already")
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
            "draw: show='lines' needs recorded lines; compute the outputs inside `with tg.record_lines():`"
        )
    forward: list[Vertex] = []
    if "joint" in words:
        tensors, forward, names = joined(tensors, names)
    backward = backward_pass(tensors) if words & {"backward", "numbers"} else None
    found = reading(tensors, names, words, focus=focus, backward=backward, forward=forward)
    picture = whole = without_checks(found.picture)
    if fold is not None:
        picture = fitted(with_chosen_folded(picture, fold))
    elif depth is not None:
        picture = fitted(picture, depth)
    elif "everything" not in words:
        details = words & {"values", "gradients", "numbers", "backward", "joint"}
        picture = fitted(picture) if details else fitted_to_page(picture, direction in ("LR", "RL"))
    picture = with_references(picture)
    drawing = Drawing(with_backward(picture) if "backward" in words else picture, direction, whole)
    drawing._by_itself = fold is None and depth is None and "everything" not in words
    return drawing


class Drawing:
    """A picture of a computation graph, to save, to show in a notebook, or to go on with as a `graphviz.Digraph`.

    `picture` is the content as plain data, `whole` the same with nothing folded.

    >>> from tinygrad_mm.tensor import Tensor
    >>> a = Tensor(2.0, requires_grad=True)
    >>> drawing = draw(a * a + a)
    >>> drawing.source.startswith("digraph")
    True
    """

    def __init__(self, picture: Picture, direction: Direction = "LR", whole: Picture | None = None) -> None:
        self.picture = picture
        self.direction = direction
        self.whole = picture if whole is None else whole
        self._by_itself = False  # whether it was folded to fit a page

    @cached_property
    def at_first(self) -> Picture:
        """What is folded on a page before anything is clicked: there, it goes from the top down."""
        return fitted_to_page(self.whole, horizontal=False) if self._by_itself else self.picture

    @property
    def graph(self) -> graphviz.Digraph:
        """A `graphviz.Digraph` of its own, to change at will."""
        return digraph(self.picture, self.direction)

    @cached_property
    def source(self) -> str:
        """The DOT text. It needs no layout program; heat-maps in it are tables of coloured cells."""
        return self.graph.source

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as .svg, .png, .pdf, .dot, .html, .txt, .mmd or .json, as the name ends; returns the path.

        .html is a page of its own, one file without a network: modules fold and unfold, a node tells its shape,
        options, source line, value and gradient (as far as `show` asked for them), ancestors and descendants can be
        shown alone; there is a search, and it prints the picture. .txt a list of the operations, .mmd
        the language of Mermaid, .json the content of `picture`. The file is there whole or not at all. PDF needs a real
        `dot` or pygraphviz (the extra `pdf`); .dot, .txt, .mmd and .json need no layout program.

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
            return page(self.whole, self.at_first, self._printed()).encode()
        if form == ".txt":
            return outline(self.picture).encode()
        if form == ".json":
            return as_json(self.picture).encode()
        if form == ".mmd":
            return mermaid(self.picture, self.direction).encode()
        return self.source.encode() if form == ".dot" else drawn(self.picture, self.direction, form[1:])

    def _svg(self) -> bytes:
        return drawn(self.picture, self.direction, "svg")

    def _printed(self) -> str:
        """The picture, or nothing where there is no layout program: a page needs none until it is printed."""
        try:
            return self._svg().decode()
        except RuntimeError:
            return ""

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


PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def draw_error(
    error: BaseException | None = None, *, model: Any = None, depth: int | None = None, direction: Direction = "LR"
) -> Drawing:
    """The part of the graph that was there when an operation raised an error, and that operation in red.

    Called without an error, it takes the one that is being handled, or else the last one that the interpreter reported
    (in a notebook: the one just shown). `model`, `depth` and `direction` are those of `draw`. Tensors have the names of
    the variables that held them where the error arose. Operations are known as far as something in them required a
    gradient.

    Raises ValueError where there is no error, or where no call with a Tensor failed.

    >>> import numpy as np
    >>> from tinygrad_mm.tensor import Tensor
    >>> x, w = Tensor(np.ones((2, 3))), Tensor(np.ones((4, 5)), requires_grad=True)
    >>> try:
    ...     h = x @ np.tanh(w)
    ... except ValueError:
    ...     print(draw_error())
    computation graph: 2 operations, 3 edges
    <BLANKLINE>
    w: input (4, 5) float64
    n1 = tanh(w)  (4, 5) float64
    x: input (2, 3) float64
    n3 = matmul(x, n1)  <-- FAILED
        ValueError: matmul: (2, 3) @ (4, 5): the inner sizes 3 and 4 differ
    <BLANKLINE>
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"draw_error: direction={direction!r}; known are {', '.join(DIRECTIONS)}")
    if error is None:
        error = sys.exc_info()[1] or getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is None:
        raise ValueError("draw_error: there is no error; call it in an `except` block, or pass the error")
    found, frames = None, []
    cause: BaseException | None = error
    while cause is not None and found is None:  # it may have been raised again as another one
        frames = list(_frames(cause))
        found = next((call for frame in reversed(frames) if (call := _call(frame)) is not None), None)
        error, cause = (cause if found is not None else error), cause.__cause__ or cause.__context__
    if found is None:
        raise ValueError(
            f"draw_error: no operation on Tensors failed in this {type(error).__name__}; it can draw errors that an "
            "operation, a layer or a loss raised"
        )
    title, operands = found
    variables: dict[str, Any] = {}
    for frame in frames:
        if not _ours(frame):
            variables |= variables_of(frame)
    failure = Failure(title, operands, f"{type(error).__name__}: {error}", _scope(frames, operands))
    picture = reading((), names_in(model, variables), failure=failure).picture
    return Drawing(with_references(fitted(picture, depth)), direction)


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The calls that an error came through, the innermost last."""
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame
        step = step.tb_next


def _ours(frame: FrameType) -> bool:
    """Whether a call is one of this package."""
    return os.path.abspath(frame.f_code.co_filename).startswith(PACKAGE + os.sep)


def _call(frame: FrameType) -> tuple[str, tuple[tuple[str, Any], ...]] | None:
    """What failed, as a name and operands, if the call behind a frame is one of this package's on Tensors."""
    if not _ours(frame) or frame.f_globals.get("__name__") in BOOKKEEPING:
        return None
    local = frame.f_locals
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = [(name, local[name]) for name in names if name in local]
    if "fun" in local and callable(local["fun"]):  # the way every operation takes: apply(fun, args), or an operator
        args = local["args"] if "args" in local else [value for _, value in given]
        apart = [x for a in args for x in (a if isinstance(a, (list, tuple)) else (a,))]  # as concatenate takes them
        given = [("", a) for a in apart if a is not local["fun"]]
        title = shown_name(local["fun"])
    else:
        owner = local.get("self")
        title = code.co_name if owner is None else type(owner).__name__
    operands = tuple((name, a) for name, a in given if isinstance(a, (Vertex, np.ndarray)))
    known = any(isinstance(a, Vertex) for _, a in operands) and not title.startswith("_")
    return (title, operands) if known else None


def _scope(frames: list[FrameType], operands: tuple[tuple[str, Any], ...]) -> Scope | None:
    """The module calls around the failure: those that the graph knows already, and new ones for the others."""
    known: list[Scope] = []
    for vertex in topological([a for _, a in operands if isinstance(a, Vertex)], everything=True):
        scope = None if vertex.node is None else vertex.node.scope
        while scope is not None:
            known.append(scope)
            scope = scope.parent
    found: Scope | None = None
    for frame in frames:
        owner = frame.f_locals.get("self") if _ours(frame) and frame.f_code.co_name == "__call__" else None
        token = getattr(owner, "token", None)
        if token is not None:
            new = Scope(token, type(owner).__name__, found)
            found = next((s for s in reversed(known) if s.token is token and s.parent is found), new)
    return found
