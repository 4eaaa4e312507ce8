"""The operation table: at least one row for every rule, in files named like those of `tinygrad_mm/rules`."""

from __future__ import annotations

from table import elementwise, functional, indexing, linalg, network, reduction, shape
from table.row import Row

ROWS: list[Row] = [
    *elementwise.ROWS,
    *reduction.ROWS,
    *shape.ROWS,
    *indexing.ROWS,
    *linalg.ROWS,
    *network.ROWS,
    *functional.ROWS,
]
