"""Who rewrites a program and writes it out: as NumPy calls, or as loops compiled by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tinygrad_mm.compiler import emitter
from tinygrad_mm.compiler.passes import FOR_CALLS, Pass

__all__ = ["NUMPY", "Backend", "backend_of"]


class Backend(NamedTuple):
    """`passes` rewrite a program for `emit`, which writes it out."""

    name: str
    passes: tuple[Pass, ...]
    emit: Callable[..., Any]


NUMPY = Backend("numpy", FOR_CALLS, emitter.emit)


def backend_of(name: str) -> Backend:
    """The backend called "numpy" or "numba".

    Raises ValueError for another name, ImportError where Numba is not installed.
    """
    if name == "numpy":
        return NUMPY
    if name != "numba":
        raise ValueError(f"backend={name!r} is neither 'numpy' nor 'numba'")
    from tinygrad_mm.compiler import loops

    loops.require_numba()
    return Backend("numba", loops.PASSES, loops.emit)
