"""Who rewrites a program and writes it out: as NumPy calls, or as loops compiled by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tinygrad_mm.compiler import emitter, passes

__all__ = ["NUMPY", "Backend", "backend_of"]


class Backend(NamedTuple):
    """`optimize(program)` rewrites a program for `emit`, which writes it out."""

    name: str
    optimize: Callable[..., Any]
    emit: Callable[..., Any]


NUMPY = Backend("numpy", passes.optimize, emitter.emit)


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
    return Backend("numba", loops.optimize, loops.emit)
