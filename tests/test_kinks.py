"""Where a derivative does not exist, or a formula for it would divide 0 by 0: the documented conventions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def gradient(f: Any, *values: Any, dtype: Any = np.float64) -> Any:
    """The gradient of sum(f) for each argument, of the argument's dtype."""
    xs = [tg.Tensor(np.array(v, dtype), requires_grad=True) for v in values]
    found = tg.gradients(np.sum(f(*xs)), xs, allow_unused=True)
    assert all(g.dtype == dtype for g in found)
    return [g.data.tolist() for g in found] if len(found) > 1 else found[0].data.tolist()


def hessian_sum(f: Any, value: Any) -> Any:
    """The gradient of sum(gradient of sum(f))."""
    x = tg.Tensor(np.array(value, np.float64), requires_grad=True)
    first = tg.gradients(np.sum(f(x)), x, create_graph=True)
    second = tg.gradients(np.sum(first), x, allow_unused=True) if first.requires_grad else None
    return np.zeros(x.shape).tolist() if second is None else second.data.tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Kinks
# ---------------------------------------------------------------------------------------------------------------------


@BOTH
def test_relu_has_derivative_0_at_0(dtype: Any) -> None:
    assert gradient(tg.relu, [-1, 0, 1], dtype=dtype) == [0, 0, 1]


@BOTH
@pytest.mark.parametrize("f", [np.absolute, np.fabs, abs])
def test_absolute_has_derivative_0_at_0(f: Any, dtype: Any) -> None:
    assert gradient(f, [-2, 0, 3], dtype=dtype) == [-1, 0, 1]


@BOTH
@pytest.mark.parametrize("f", [np.maximum, np.minimum, np.fmax, np.fmin])
def test_equal_arguments_share_the_gradient(f: Any, dtype: Any) -> None:
    assert gradient(f, [1, 2], [1, 2], dtype=dtype) == [[0.5, 0.5], [0.5, 0.5]]
    assert gradient(lambda x: f(x, 0.0), [0], dtype=dtype) == [0.5]
    assert gradient(lambda x: f(x, x), [3], dtype=dtype) == [1]


@pytest.mark.parametrize("f", [np.fmax, np.fmin])
def test_a_number_beside_nan_gets_the_gradient(f: Any) -> None:
    assert gradient(f, [1, np.nan], [np.nan, 2]) == [[1, 0], [0, 1]]


@BOTH
@pytest.mark.parametrize("f", [np.max, np.min, np.amax, np.amin, np.nanmax, np.nanmin])
def test_equal_extremes_share_the_gradient(f: Any, dtype: Any) -> None:
    assert gradient(f, [2, 2, 2, 2], dtype=dtype) == [0.25] * 4
    assert gradient(lambda x: f(x, axis=1), [[1, 1], [1, 2]], dtype=dtype)[0] == [0.5, 0.5]
    assert hessian_sum(f, [2, 2]) == [0, 0]


def test_the_range_of_equal_elements() -> None:
    assert gradient(np.ptp, [3, 3]) == [0, 0]


@BOTH
def test_clip_passes_the_gradient_at_its_bounds(dtype: Any) -> None:
    assert gradient(lambda x: np.clip(x, -1, 1), [-2, -1, 0, 1, 2], dtype=dtype) == [0, 1, 1, 1, 0]
    assert gradient(np.clip, [-1, 0, 1], [-1], [1], dtype=dtype) == [[1, 1, 1], [0], [0]]
    assert gradient(np.clip, [-2, 0, 2], [-1], [1], dtype=dtype) == [[0, 1, 0], [1], [1]]


@BOTH
@pytest.mark.parametrize("f", [np.std, np.nanstd, lambda x: np.std(x, where=np.ones(3, bool))])
def test_no_spread_has_gradient_0(f: Any, dtype: Any) -> None:
    assert gradient(f, [2, 2, 2], dtype=dtype) == [0, 0, 0]
    assert hessian_sum(f, [2, 2, 2]) == [0, 0, 0]


def test_the_length_of_nothing_has_gradient_0() -> None:
    assert gradient(np.hypot, [0], [0]) == [[0], [0]]


def test_copysign_has_gradient_0_at_0() -> None:
    assert gradient(lambda x: np.copysign(x, -1.0), [-2, 0, 2]) == [1, 0, -1]


def test_holes_have_gradient_0() -> None:
    hole = [1, np.nan, 2]
    assert gradient(np.nansum, hole) == [1, 0, 1]
    assert gradient(np.nansum, [np.nan, np.nan]) == [0, 0]
    assert gradient(np.nanmean, hole) == [0.5, 0, 0.5]
    assert gradient(np.nan_to_num, [1, np.nan, np.inf, -np.inf]) == [1, 0, 0, 0]


@pytest.mark.parametrize("f", [np.median, lambda x: np.quantile(x, 0.25), lambda x: np.percentile(x, [10, 20])])
def test_middles_beside_nan_are_nan(f: Any) -> None:
    assert np.isnan(f(tg.Tensor([1.0, np.nan, 3.0])).data).all()


def test_extremes_of_nothing_but_nan_are_nan() -> None:
    for f in (np.nanmax, np.nanmin):
        y = f(tg.Tensor([[1.0, np.nan], [np.nan, np.nan]]), axis=1)
        np.testing.assert_array_equal(y.data, np.array([1, np.nan], np.float32))


def test_equal_elements_sort_in_their_order() -> None:
    weights = np.array([1.0, 2.0, 3.0])
    assert gradient(lambda x: np.sort(x, kind="stable") * weights, [5, 4, 5]) == [2, 1, 3]


# ---------------------------------------------------------------------------------------------------------------------
# Powers
# ---------------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(("n", "first", "second"), [(0, 0, 0), (1, 1, 0), (2, 0, 2), (3, 0, 0), (4, 0, 0)])
def test_powers_of_0(n: int, first: float, second: float, array: bool, dtype: Any) -> None:
    def f(x: Any) -> Any:
        return x ** (np.array(n, x.dtype) if array else n)

    assert gradient(f, [0], dtype=dtype) == [first]
    assert hessian_sum(f, [0]) == [second]


def test_exponent_0_has_gradient_0() -> None:
    assert gradient(lambda x: x**0, [-2, 0, 3]) == [0, 0, 0]
    assert gradient(lambda x: x**0.0, [-2, 0, 3]) == [0, 0, 0]


@BOTH
def test_base_0_has_gradient_0_with_respect_to_the_exponent(dtype: Any) -> None:
    assert gradient(np.power, [0.0, 0.0], [2.0, 1.0], dtype=dtype) == [[0, 1], [0, 0]]
    assert gradient(lambda b: 0.0**b, [2.0], dtype=dtype) == [0]


@BOTH
def test_negative_bases_with_whole_exponents(dtype: Any) -> None:
    for n in (3, 3.0, np.array([3.0], dtype)):
        assert gradient(lambda x, n=n: x**n, [-2], dtype=dtype) == [12]
        assert hessian_sum(lambda x, n=n: x**n, [-2]) == [-12]
    assert gradient(lambda x: np.float_power(x, -1), [-2], dtype=dtype) == [-0.25]


# ---------------------------------------------------------------------------------------------------------------------
# Products with zeros: exact, because no quotient is formed
# ---------------------------------------------------------------------------------------------------------------------

ZEROS = [[2.0, 3.0, 5.0], [0.0, 3.0, 5.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 7.0, -1.0, 0.0]]


def last_of_cumprod(x: Any) -> Any:
    return np.cumprod(x)[-1]


def multiplied_into_one_place(x: Any) -> Any:
    return tg.Tensor(np.ones(1, x.dtype)).at[np.zeros(x.size, int)].multiply(x)


def product_without(values: list[float], *places: int) -> float:
    return float(np.prod([v for i, v in enumerate(values) if i not in places]))


@BOTH
@pytest.mark.parametrize("values", ZEROS)
@pytest.mark.parametrize("f", [np.prod, np.nanprod, last_of_cumprod, multiplied_into_one_place])
def test_gradient_of_a_product_with_zeros(f: Any, values: list[float], dtype: Any) -> None:
    assert gradient(f, values, dtype=dtype) == [product_without(values, i) for i in range(len(values))]


@pytest.mark.parametrize("values", ZEROS)
@pytest.mark.parametrize("f", [np.prod, np.nanprod, last_of_cumprod, multiplied_into_one_place])
def test_second_derivatives_of_a_product_with_zeros(f: Any, values: list[float]) -> None:
    x = tg.Tensor(np.array(values), requires_grad=True)
    first = tg.gradients(np.sum(f(x)), x, create_graph=True)
    for i, j in itertools.product(range(len(values)), repeat=2):
        row = tg.gradients(first[i], x, retain_graph=True)
        assert row.data[j] == (0 if i == j else product_without(values, i, j))


@pytest.mark.parametrize("values", ZEROS)
def test_gradient_of_running_products_with_zeros(values: list[float]) -> None:
    expected = [sum(product_without(values[: k + 1], i) for k in range(i, len(values))) for i in range(len(values))]
    assert gradient(np.cumprod, values) == expected
