"""What the user calls things: the variables of the program that asks for a story."""

from __future__ import annotations

import sys
from typing import Any

from tinygrad_mm.drawing.names import variables_of

__all__ = ["variables_of_caller"]


def variables_of_caller() -> dict[str, Any]:
    """The tensors, arrays and modules among the variables of the innermost function outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "tinygrad_mm":
        frame = frame.f_back
    return variables_of(frame)
