"""What goes into error messages: the name of an operation, its shapes and dtypes, the line that called it.

Floor 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.graph import module_of, name_of, state

__all__ = ["caller", "explained", "leaving", "qualified", "refuse_while_tracing"]


def caller() -> tuple[str, int]:
    """The innermost source line outside this package and NumPy."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(("tinygrad_mm", "numpy", "contextlib")):
            break
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def qualified(fun: Callable[..., Any]) -> str:
    return f"{module_of(fun)}.{name_of(fun)}".lstrip(".").replace("numpy.", "np.", 1).replace("._ufuncs.", ".")


def explained(error: Exception, fun: Callable[..., Any], values: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception:
    """The same kind of error with the operation, the shapes and the dtypes in its message."""
    described = [
        f"{v.shape} {v.dtype}" if isinstance(v, np.ndarray) else name_of(v) if callable(v) else repr(v)[:60]
        for v in values
    ]
    options = "".join(f", {k}={v!r}"[:80] for k, v in kwargs.items())
    message = f"{name_of(fun)}({', '.join(described)}{options}): {error}"
    arrays = [v for v in values if isinstance(v, np.ndarray)]
    if fun is np.matmul and len(arrays) == 2 and min(a.ndim for a in arrays) >= 1:
        a, b = (v.shape for v in arrays)
        inner = a[-1], b[-2] if len(b) > 1 else b[0]
        if inner[0] != inner[1]:
            message = f"matmul: {a} @ {b}: the inner sizes {inner[0]} and {inner[1]} differ"
    elif isinstance(fun, np.ufunc) and len(arrays) == 2 and isinstance(error, ValueError):
        message = f"{name_of(fun)}: shapes {arrays[0].shape} and {arrays[1].shape} do not broadcast together"
    known = type(error).__module__ in ("builtins", "numpy.exceptions") or isinstance(error, np.linalg.LinAlgError)
    kind = type(error) if known else None
    if kind is None or issubclass(kind, (UnicodeError, OSError)):
        kind = next((k for k in (TypeError, IndexError, ValueError) if isinstance(error, k)), None)
    return kind(message) if kind else error


def leaving(needs_gradient: bool, what: str, instead: str) -> bool:
    """Whether a number that needs a gradient is about to become a plain one, outside of traces and transforms.

    Inside of these it raises TypeError: `what` would make the gradient that they are asked for wrong, in silence.
    """
    refuse_while_tracing(what)
    if needs_gradient and state.transforming and state.recording:
        raise TypeError(
            f"{what} inside a function that is differentiated would lose the gradient of this Tensor in silence; "
            f"{instead}, or say t.detach() where it is meant as a constant"
        )
    return needs_gradient and state.recording


def refuse_while_tracing(what: str) -> None:
    """Raise TypeError while a function is being traced: `what` would leave the graph."""
    if state.tracing:
        raise TypeError(
            f"{what} would bake one value into a function that is being traced; "
            "keep the computation in Tensors (np.where instead of if), or move it outside the traced function"
        )
