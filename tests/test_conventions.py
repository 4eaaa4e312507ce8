"""Conventions that hold of whole families of functions, and what the documentation says to write instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg

# ---------------------------------------------------------------------------------------------------------------------
# Second derivatives of squares of functions that have a kink at 0
# ---------------------------------------------------------------------------------------------------------------------

COLUMN = (-1, 1)
# (what is squared, what to write instead): equal everywhere, and smooth once it is squared.
SQUARES: dict[str, tuple[Any, Any]] = {
    "norm": (np.linalg.norm, lambda x: np.sum(x * x)),
    "norm of a matrix": (lambda x: np.linalg.norm(x.reshape(COLUMN)), lambda x: np.sum(x * x)),
    "vector_norm": (np.linalg.vector_norm, lambda x: np.sum(x * x)),
    "matrix_norm": (lambda x: np.linalg.matrix_norm(x.reshape(COLUMN)), lambda x: np.sum(x * x)),
    "largest singular value": (lambda x: np.linalg.norm(x.reshape(COLUMN), 2), lambda x: np.sum(x * x)),
    "sum of singular values": (lambda x: np.linalg.norm(x.reshape(COLUMN), "nuc"), lambda x: np.sum(x * x)),
    "hypot": (lambda x: np.hypot(x[0], x[1]), lambda x: x[0] * x[0] + x[1] * x[1]),
    "hypot.reduce": (np.hypot.reduce, lambda x: np.sum(x * x)),
    "std": (np.std, np.var),
    "nanstd": (np.nanstd, np.nanvar),
    "abs": (lambda x: abs(x[0]), lambda x: x[0] * x[0]),
    "fabs": (lambda x: np.fabs(x[1]), lambda x: x[1] * x[1]),
}


@pytest.mark.parametrize("name", SQUARES)
def test_the_square_of_what_has_a_kink_at_0_has_second_derivative_0_there(name: str) -> None:
    root, instead = SQUARES[name]
    zero = np.zeros(3)
    for square in (lambda x: root(x) ** 2, lambda x: root(x) * root(x), lambda x: np.square(root(x))):
        assert not tg.grad(square)(zero).any()
        assert not tg.hessian(square)(zero).any()
        assert not tg.hvp(square, zero, np.ones(3)).any()
    assert tg.hessian(instead)(zero).any()


@pytest.mark.parametrize("name", SQUARES)
def test_elsewhere_the_square_and_what_to_write_instead_agree(name: str) -> None:
    root, instead = SQUARES[name]
    x = np.array([0.5, -1.25, 2.0])
    np.testing.assert_allclose(root(x) ** 2, instead(x), rtol=1e-14)
    np.testing.assert_allclose(tg.hessian(lambda x: root(x) ** 2)(x), tg.hessian(instead)(x), rtol=1e-12, atol=1e-12)
    at_zero = tg.hessian(instead)(np.zeros(3))
    np.testing.assert_allclose(tg.hessian(instead)(x), at_zero, atol=1e-12)  # a quadratic: the same everywhere
    tg.testing.check_grads(instead, [np.zeros(3)], order=2)


# ---------------------------------------------------------------------------------------------------------------------
# logsumexp
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, 2, (0, 2), (1, -1), (0, 1, 2)])
def test_logsumexp_along_any_axes(axis: Any, keepdims: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    direct = lambda x: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))
    ours = lambda x: tg.logsumexp(x, axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(ours(x), direct(x), rtol=1e-12)
    np.testing.assert_allclose(tg.jacobian(ours)(x), tg.jacobian(direct)(x), rtol=1e-12)
    tg.testing.check_grads(ours, [x], order=2)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 0), ((0, 3), 1), ((2, 0), -1), ((2, 0), None), ((0, 3), (0, 1))])
def test_logsumexp_of_nothing_is_minus_infinity(shape: Any, axis: Any, keepdims: bool) -> None:
    x = tg.Tensor(np.zeros(shape), requires_grad=True)
    y = tg.logsumexp(x, axis=axis, keepdims=keepdims)
    assert y.shape == np.sum(np.zeros(shape), axis=axis, keepdims=keepdims).shape
    assert (y.data == -math.inf).all()
    assert tg.gradients(np.sum(y), x).shape == shape


def test_where_all_are_impossible_logsumexp_has_no_gradient_and_logaddexp_shares_it() -> None:
    x = np.array([[-math.inf, -math.inf], [0.0, -math.inf]])
    with np.errstate(invalid="ignore"):
        found = tg.grad(lambda x: np.sum(tg.logsumexp(x)))(x)
    np.testing.assert_array_equal(found, [[math.nan] * 2, [1, 0]])
    np.testing.assert_array_equal(tg.grad(lambda x: np.sum(np.logaddexp.reduce(x, axis=-1)))(x), [[0.5, 0.5], [1, 0]])


# ---------------------------------------------------------------------------------------------------------------------
# Condition numbers
# ---------------------------------------------------------------------------------------------------------------------

MATRICES = {
    "zeros": np.zeros((3, 3)),
    "regular": np.array([[2.0, 1.0], [0.5, -1.0]]),
    "singular": np.array([[1.0, 2.0], [2.0, 4.0]]),
    "tiny": 1e-120 * np.eye(3),  # the determinant is 0, and the inverse exists
    "huge": 1e120 * np.eye(3),
    "squares overflow": 1e200 * np.eye(3),
    "stack": np.stack([np.zeros((2, 2)), np.eye(2), [[1.0, 2.0], [2.0, 4.0]], [[1.0, 2.0], [3.0, 4.0]]]),
    "NaN": np.array([[1.0, math.nan], [2.0, 3.0]]),
    "a row of NaN and one of 0": np.array([[math.nan, math.nan], [0.0, 0.0]]),
    "no matrices": np.zeros((0, 2, 2)),
}


@pytest.mark.parametrize("p", [1, -1, 2, -2, math.inf, -math.inf, "fro"])
@pytest.mark.parametrize("name", MATRICES)
def test_condition_numbers_are_those_of_numpy(name: str, p: Any) -> None:
    a = MATRICES[name]
    if np.isnan(a).any() and p in (2, -2):
        pytest.skip("singular values of NaN do not converge")
    t = tg.Tensor(a, requires_grad=True)
    with np.errstate(all="ignore"):
        expected = np.asarray(np.linalg.cond(a, p))
        found = np.linalg.cond(t, p)
        if a.ndim == 2 and np.abs(a).max() < 1e150:
            (g,) = tg.gradients(found, [t])
            assert not np.isnan(g.data).any()
            assert np.isfinite(expected) or not g.data.any()
    regular = expected < 1e15
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.data[regular], expected[regular], rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(found.data), np.isnan(expected))
    assert (found.data[expected >= 1e15] >= 1e15).all()
