"""The operation table: at least one row for every rule, in files named like those of `tinygrad_mm/rules`."""

from __future__ import annotations

from table import (
    differences,
    elementwise,
    folds,
    functional,
    indexing,
    linalg,
    network,
    pieces,
    polynomial,
    quantiles,
    reduction,
    scipy_special,
    sets,
    shape,
    special,
    statistics,
)
from table.row import Row

ROWS: list[Row] = [
    *elementwise.ROWS,
    *reduction.ROWS,
    *shape.ROWS,
    *indexing.ROWS,
    *linalg.ROWS,
    *network.ROWS,
    *functional.ROWS,
    *folds.ROWS,
    *quantiles.ROWS,
    *statistics.ROWS,
    *sets.ROWS,
    *special.ROWS,
    *scipy_special.ROWS,
    *polynomial.ROWS,
    *pieces.ROWS,
    *differences.ROWS,
]
