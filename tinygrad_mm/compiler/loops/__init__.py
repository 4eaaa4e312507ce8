"""The Numba backend: a placed program as compiled loops, and calls of NumPy between them for what has none.

`nests` makes one loop nest of neighbouring elementwise statements, and loops of reductions; `products` are calls of
BLAS, `updates` the optimizer's formula; `writer` puts them together, `native` holds what the emitted loops call.
"""

from __future__ import annotations

from tinygrad_mm.compiler.loops.native import require_numba
from tinygrad_mm.compiler.loops.updates import Update
from tinygrad_mm.compiler.loops.writer import emit

__all__ = ["Update", "emit", "require_numba"]
