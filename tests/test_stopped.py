"""Functions whose gradient stops, and those that look at shapes and dtypes only: one row each in `table/stopped.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracles import is_of_the_library, leaves
from table.stopped import METADATA, STOPPED

import tinygrad_mm as tg
from tinygrad_mm.graph import RULES, name_of
from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.rules.indexing import last_writes
from tinygrad_mm.rules.sets import in_both
from tinygrad_mm.rules.statistics import bin_numbers

VALUES = [[-1.5, 0.0, 1.0], [2.25, -2.0, 1.0], [0.3, 0.75, -0.5]]
WITHOUT_GRADIENT = [
    fun
    for fun, rule in RULES.items()
    if not (rule.each or rule.composite or any(rule.vjps) or rule.metadata) and is_of_the_library(fun)
]


def arguments(dtype: Any) -> tuple[np.ndarray, tg.Tensor]:
    x = np.array(VALUES, dtype)
    return x, tg.Tensor(x, requires_grad=True)


@pytest.mark.parametrize("fun", WITHOUT_GRADIENT, ids=name_of)
def test_every_stopped_function_has_a_row(fun: Callable[..., Any]) -> None:
    assert fun in [row[0] for row in STOPPED], f"{name_of(fun)} is registered but not in tests/table/stopped.py"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("fun", "call"), STOPPED, ids=lambda part: name_of(part))
def test_values_are_numpys_and_the_gradient_stops(
    fun: Callable[..., Any], call: Callable[..., Any], dtype: Any
) -> None:
    x, t = arguments(dtype)
    expected, ours = leaves(call(x)), leaves(call(t))
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert isinstance(one, tg.Tensor)
        assert not one.requires_grad
        np.testing.assert_array_equal(one.data, np.asarray(other), strict=True)
        t.grad = None
        total = np.sum(one)
        (np.sum(t) * total).backward()  # the result takes part in a loss as a constant
        np.testing.assert_array_equal(t.grad, np.full_like(x, float(total)))


@pytest.mark.parametrize(("fun", "call"), METADATA, ids=lambda part: name_of(part))
def test_shapes_and_dtypes_are_plain_values(fun: Callable[..., Any], call: Callable[..., Any]) -> None:
    assert RULES[fun].metadata
    x, t = arguments(np.float64)
    expected, ours = call(x), call(t)
    assert type(ours) is type(expected)
    assert ours == expected


def test_every_metadata_function_has_a_row() -> None:
    assert {fun for fun, rule in RULES.items() if rule.metadata} == {row[0] for row in METADATA}


# Each argument of a stopped function that could be a floating number: what is called, and a point of each argument.
# `stop_gradient` alone is left out, which stops what has a derivative because somebody asks for that.
LATTICE = np.random.default_rng(7).permutation(np.linspace(-2.9, 3.1, 27)).reshape(3, 3, 3)
ARGUMENTS: list[tuple[Callable[..., Any], Callable[..., Any], int]] = [
    *((fun, call, 1) for fun, call in STOPPED if fun is not stop_gradient),
    *((fun, fun, 2) for fun in (np.equal, np.less, np.greater_equal, np.logical_and, np.floor_divide, np.heaviside)),
    (np.isclose, lambda a, b, tolerance: np.isclose(a, b, rtol=tolerance[0, 0], atol=tolerance[1, 1]), 3),
    (np.isin, np.isin, 2),
    (np.searchsorted, lambda v, a: np.searchsorted(np.sort(a[0]), v), 2),
    (np.digitize, lambda x, bins: np.digitize(x, np.sort(bins[0])), 2),
    (np.linalg.matrix_rank, lambda a, tolerance: np.linalg.matrix_rank(a, abs(tolerance[0, 0]) / 100), 2),
    (np.round, lambda x: np.round(x, 2), 1),
    (np.zeros_like, np.zeros_like, 1),
    (np.lexsort, lambda a, b: np.lexsort((a[0], b[0])), 2),
    (bin_numbers, lambda x, edges: bin_numbers(x.ravel(), np.sort(edges[0])), 2),
    (in_both, in_both, 2),
    (last_writes, lambda g: last_writes(g, np.array([1, 0, 1])), 1),
]


@pytest.mark.parametrize(("fun", "call", "arity"), ARGUMENTS, ids=lambda part: getattr(part, "__name__", part))
def test_what_is_stopped_has_no_derivative(fun: Callable[..., Any], call: Callable[..., Any], arity: int) -> None:
    """A function whose value moves with an argument has a derivative, and needs a rule: it must not be stopped."""
    points = [LATTICE[i] + 0.0123 for i in range(arity)]
    before = leaves(call(*points))
    for i, point in enumerate(points):
        for place in np.ndindex(point.shape):
            moved = [p.copy() for p in points]
            moved[i][place] += 1e-7
            after = leaves(call(*moved))
            for one, other in zip(before, after, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"{name_of(fun)} moves with argument {i}")


@pytest.mark.parametrize(
    ("call", "shapes"),
    [
        (lambda w: np.bincount([0, 2, 0, 1], weights=w), [(4,)]),
        (lambda a, w: np.histogram(a, bins=3, weights=w), [(5,), (5,)]),
        (np.unique, [(4,)]),
        (np.union1d, [(3,), (2,)]),
        (lambda a, b: np.setdiff1d(a, b), [(3,), (2,)]),
        (lambda a: np.intersect1d(a, a), [(3,)]),
        (lambda a, v: np.full_like(a, v), [(3,), ()]),
        (lambda a: np.piecewise(a, [a > 0], [np.square, 1.0]), [(4,)]),
    ],
)
def test_what_was_once_stopped_moves_and_has_a_gradient(call: Callable[..., Any], shapes: list[Any]) -> None:
    arrays = [LATTICE.ravel()[3 * i : 3 * i + int(np.prod(shape))].reshape(shape) for i, shape in enumerate(shapes)]
    outputs = [y for y in leaves(call(*(tg.Tensor(a, requires_grad=True) for a in arrays))) if y.requires_grad]
    assert outputs
