"""`draw_error`: the graph behind the operands of a call that raised, and that call in red."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np

from tinygrad_mm.drawing.call import shown_name
from tinygrad_mm.drawing.distant import with_references
from tinygrad_mm.drawing.dot import DIRECTIONS, Direction
from tinygrad_mm.drawing.drawing import Drawing
from tinygrad_mm.drawing.folding import fitted
from tinygrad_mm.drawing.names import names_in, variables_of
from tinygrad_mm.drawing.reader import Failure, reading
from tinygrad_mm.graph import Scope, Vertex, topological

__all__ = ["draw_error"]

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
    if not _ours(frame):
        return None
    local = frame.f_locals
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = [(name, local[name]) for name in names if name in local]
    if "fun" in local and callable(local["fun"]):  # the way every operation takes: apply(fun, args), or an operator
        args = local["args"] if "args" in local else [value for _, value in given]
        given = [("", a) for a in args if a is not local["fun"]]
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
