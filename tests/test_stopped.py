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
