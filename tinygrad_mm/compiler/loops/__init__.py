"""The Numba backend: a placed program as compiled loops, and calls of NumPy between them for what has none.

`items` sorts statements: `nests` makes one loop nest of neighbouring elementwise ones, and loops of reductions;
`products` are calls of BLAS. `updates` is the optimizer's formula; `writer` puts all together, `native` holds what the
loops call.
"""

from __future__ import annotations

from tinygrad_mm.compiler.loops.native import require_numba
from tinygrad_mm.compiler.loops.updates import Update
from tinygrad_mm.compiler.loops.writer import emit

__all__ = ["Update", "emit", "require_numba"]
