"""The calculus: every function that has a derivative here, and what that derivative is, written once.

Floor 1: these tables import NumPy, `math` and `graph` only. A rule is one expression in plain NumPy,
`vjp(g, y, *args, **kwargs)`: given the gradient `g` of the output `y`, the gradient of one argument. It may be left at
the shape that broadcasting gave it (the backward loop sums it back), it keeps the dtype, it uses only functions that
have rules themselves, so that every order of derivative exists, and it never writes in place.

`python -m tinygrad_mm.rules` prints the whole catalogue.
"""

from tinygrad_mm.rules import (
    decompositions,
    differences,
    elementwise,
    folds,
    indexing,
    linalg,
    norms,
    padding,
    pieces,
    polynomial,
    products,
    quantiles,
    reduction,
    sets,
    shape,
    special,
    statistics,
)

__all__ = [
    "decompositions",
    "differences",
    "elementwise",
    "folds",
    "indexing",
    "linalg",
    "norms",
    "padding",
    "pieces",
    "polynomial",
    "products",
    "quantiles",
    "reduction",
    "sets",
    "shape",
    "special",
    "statistics",
]
