"""`check_grads` and the finite differences it uses: what they compute, what they notice, what they say."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_mm import nn
from tinygrad_mm.functional import cross_entropy, softmax
from tinygrad_mm.numeric import numeric_derivative, numeric_gradient, step_for
from tinygrad_mm.tensor import Parameter, Tensor
from tinygrad_mm.testing import check_grads

floats = st.floats(-3, 3, allow_nan=False)
arrays = hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), elements=floats)

# ---------------------------------------------------------------------------------------------------------------------
# Finite differences
# ---------------------------------------------------------------------------------------------------------------------


@given(x=arrays)
def test_numeric_gradient_of_a_formula(x: np.ndarray) -> None:
    before = x.copy()
    found = numeric_gradient(lambda c, x: np.sum(c * np.sin(x)), [2.0, x], argnum=1)
    assert found.shape == x.shape
    np.testing.assert_allclose(found, 2 * np.cos(x), atol=1e-8)
    np.testing.assert_array_equal(x, before)


@given(x=arrays, seed=st.integers(0, 9))
def test_numeric_derivative_is_the_gradient_along_a_direction(x: np.ndarray, seed: int) -> None:
    v = np.random.default_rng(seed).standard_normal(x.shape)
    along = numeric_derivative(lambda x, c: c * np.sin(x), [x, 2.0], [v, None])
    assert along.shape == x.shape
    np.testing.assert_allclose(along, 2 * np.cos(x) * v, atol=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 0.1), (np.float32, 1e-3), (np.float64, 1e-8)])
def test_steps_fit_the_dtype(dtype: Any, tolerance: float) -> None:
    """Computed in the dtype itself: far from the step's optimum the error would be above these bounds."""
    x = np.array([0.5, -1.0, 16.0], dtype)
    seen: list[Any] = []

    def f(x: np.ndarray) -> Any:
        seen.append(x.dtype)
        return np.sum(x[:2] * x[:2]) + x[2] / 8

    np.testing.assert_allclose(numeric_gradient(f, [x]), [1, -2, 0.125], atol=tolerance)
    assert set(seen) == {np.dtype(dtype)}
    assert step_for(dtype) == pytest.approx(float(np.finfo(dtype).eps) ** (1 / 3))
    assert numeric_gradient(f, [x]).dtype == np.float64


def test_a_step_given_is_used() -> None:
    """The central difference of x^3 errs by h^2 exactly."""
    assert numeric_gradient(lambda x: x**3, [np.array(2.0)], step=0.5) == pytest.approx(12.25)
    assert numeric_derivative(lambda x: x**3, [np.array(2.0)], [np.array(1.0)], step=0.5) == pytest.approx(12.25)
    np.testing.assert_array_equal(numeric_gradient(np.prod, [np.array([2.0, 3.0, 5.0])], step=0.5), [15, 10, 6])


def test_the_step_taken_is_the_one_divided_by() -> None:
    """In float32, 100.1 cannot move by a thousandth exactly; the quotient of x by itself is 1 all the same."""
    assert numeric_gradient(lambda x: x, [np.array(100.1, np.float32)], step=1e-3) == 1


def test_numeric_derivatives_refuse() -> None:
    with pytest.raises(TypeError, match=r"argument 0 is int64; .* x.astype\(np.float64\)"):
        numeric_gradient(np.sum, [np.arange(3)])
    with pytest.raises(TypeError, match="argument 1 is int64"):
        numeric_derivative(np.add, [1.0, np.arange(3)], [None, np.ones(3)])
    with pytest.raises(ValueError, match=r"f returned shape \(3,\): sum it"):
        numeric_gradient(np.exp, [np.ones(3)])


# ---------------------------------------------------------------------------------------------------------------------
# What check_grads accepts
# ---------------------------------------------------------------------------------------------------------------------


@given(x=arrays)
def test_right_derivatives_pass(x: np.ndarray) -> None:
    check_grads(lambda x: np.sin(x) * x, [x], order=3)
    check_grads(lambda x: softmax(x), [np.atleast_1d(x)[..., :2]] if x.size else [np.ones(2)])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_floating_dtype(dtype: Any) -> None:
    x = np.array([0.5, -1.5, 2.0], dtype)
    check_grads(lambda x, y: np.tanh(x @ y) * x, [x, np.array([1.0, 0.25, -1.0], dtype)])
    check_grads(lambda x, y: x * y, [x, np.array([1.0, 2.0, 3.0])])  # float64 beside it


def test_large_and_small_values() -> None:
    for scale in (1e-6, 1.0, 1e4, 1e8):
        check_grads(lambda x: x * x * 3, [np.array([1.0, -2.0, 0.5]) * scale])
        check_grads(lambda x: x**5, [np.array([1.0, -2.0, 0.5]) * scale])
        check_grads(lambda x, scale=scale: x / scale, [np.array([1.0, -2.0, 0.5]) * scale])
        with pytest.raises(AssertionError, match="order 1"):
            check_grads(lambda x: x * x.detach(), [np.array([1.0, -2.0, 0.5]) * scale])
    check_grads(np.sin, [np.array([1000.0, -2000.0])])
    with pytest.raises(AssertionError, match="order 1"):
        check_grads(lambda x: x * (x * 1.01 - x.detach() * 0.01), [np.array([1e8, 1.0])])


def test_a_gradient_of_zero_is_rounded_too() -> None:
    check_grads(lambda x: np.sum(softmax(x)), [np.array([1.0, 2.5, -3.0], np.float32)])


def test_arguments_of_every_kind() -> None:
    table = np.array([[1.0, 2.0], [3.0, 4.0]])

    def f(tree: Any, labels: np.ndarray, power: int, t: Tensor, text: str) -> Any:
        assert text == "kept"
        return {"a": tree["w"][labels] ** power, "b": [t * tree["b"][0]], "index": np.argmax(tree["w"])}

    check_grads(f, [{"w": table, "b": (0.5, None)}, np.array([0, 1, 1]), 3, Tensor([1.0, 2.0]), "kept"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_modules(dtype: Any) -> None:
    """As an argument a module is moved, in float64; one that the function closes over is not, in its own dtype."""
    model = nn.Sequential(nn.Dense(3, 4, np.tanh, rng=0, dtype=dtype), nn.Dense(4, 2, rng=1, dtype=dtype))
    x, labels = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype), np.array([0, 1, 1, 0])
    before = [p.data.copy() for p in model.parameters()]
    check_grads(lambda model, x: cross_entropy(model(x), labels), [model, x])
    check_grads(lambda x: cross_entropy(model(x), labels), [x])
    for p, value in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, value, strict=True)
        assert p.grad is None


def test_a_closed_over_parameter_keeps_its_gradient() -> None:
    w = Parameter([1.0, 2.0])
    check_grads(lambda x: x * w, [np.ones(2)])
    assert w.grad is None


def test_bad_calls_are_named() -> None:
    with pytest.raises(TypeError, match=r"args is a ndarray; give a list of all arguments: \[x\]"):
        check_grads(np.sin, np.ones(2))
    with pytest.raises(TypeError, match="none of the 1 arguments of sin holds floating numbers"):
        check_grads(np.sin, [3])
    with pytest.raises(ValueError, match="order=0"):
        check_grads(np.sin, [1.0], order=0)


# ---------------------------------------------------------------------------------------------------------------------
# What it notices. Wrong rules are the business of test_custom_operations.py; these are right ones, used wrongly.
# ---------------------------------------------------------------------------------------------------------------------


def test_a_detached_part_is_noticed_and_placed() -> None:
    def f(x: Any, y: Any) -> Any:
        return x * np.where(np.arange(6).reshape(2, 3) == 4, y.detach(), y)

    x = np.arange(1.0, 7.0).reshape(2, 3)
    with pytest.raises(AssertionError) as caught:
        check_grads(lambda x, y: np.sum(f(x, y)), [x, x])
    message = str(caught.value)
    assert "derivative of order 1" in message
    numbers = re.search(r"argument 1, index \(1, 1\): numeric (\S+), analytic (\S+)", message)
    assert numbers
    assert float(numbers[1]) == pytest.approx(5.0)
    assert float(numbers[2]) == 0


def test_an_error_in_a_container_is_placed() -> None:
    with pytest.raises(AssertionError, match=r"argument 0\['b'\]\[0\], index 2: numeric"):
        check_grads(lambda p: p["a"] * p["b"][0] + p["b"][0][2].detach(), [{"a": np.ones(3), "b": [np.ones(3)]}])


def test_a_parameter_is_called_by_its_path() -> None:
    model = nn.Dense(2, 1, rng=0)
    with pytest.raises(AssertionError, match=r"argument 0.bias, index 0: numeric"):
        check_grads(lambda m, x: x @ m.weight + m.bias.detach(), [model, np.ones((1, 2), np.float32)])


def test_a_wrong_element_among_many() -> None:
    """The tolerance is relative to the whole gradient, and one element in thousands still counts."""
    mask = np.arange(20_000) == 12_345
    with pytest.raises(AssertionError, match=r"argument 0, index 12345:"):
        check_grads(lambda x: np.where(mask, x.detach(), x) * 2, [np.linspace(-1, 1, 20_000)], order=1)


def test_nan_is_wrong() -> None:
    with pytest.raises(AssertionError, match="analytic nan"), np.errstate(all="ignore"):
        check_grads(lambda x: np.where(x > 0, np.sqrt(x), 0.0), [np.array([1.0, -1.0])], order=1)


def test_the_edge_of_a_domain_is_not_crossed() -> None:
    check_grads(np.log, [np.array([1e-5, 1.0])])


def test_an_overflow_is_no_excuse() -> None:
    """Where no difference can be taken, or only the smaller of two, nothing is taken for granted."""
    edge = 1 + 0.75 * step_for(np.float64)
    wrong = lambda x: np.where(x.detach() > edge, np.inf, x * 2 - x.detach())
    for seed in range(20):
        with pytest.raises(AssertionError, match="order 1"), np.errstate(all="ignore"):
            check_grads(wrong, [np.array(1.0)], order=1, rng=seed)
    with pytest.raises(AssertionError, match="order 1"), np.errstate(all="ignore"):
        check_grads(np.exp, [np.array([709.782, 1.0])], order=1)


def test_tolerances_are_the_callers() -> None:
    slightly = lambda x: x * 1.001 - x.detach() * 0.001  # by a thousandth
    with pytest.raises(AssertionError, match="order 1"):
        check_grads(slightly, [np.ones(3)])
    check_grads(slightly, [np.ones(3)], rtol=1e-2)
    check_grads(slightly, [np.ones(3)], atol=1e-2)
    with pytest.raises(AssertionError, match="order 1"):
        check_grads(np.sin, [np.ones(3)], rtol=1e-16, atol=0)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_directions_are_the_callers(seed: int) -> None:
    with pytest.raises(AssertionError) as first:
        check_grads(lambda x: x * x.detach(), [np.ones(3)], rng=seed)
    with pytest.raises(AssertionError) as again:
        check_grads(lambda x: x * x.detach(), [np.ones(3)], rng=np.random.default_rng(seed))
    assert str(first.value) == str(again.value)
