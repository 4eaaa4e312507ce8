"""`record_lines`: let operations remember where in the program they were called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tinygrad_mm.graph import entered

__all__ = ["record_lines"]


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
