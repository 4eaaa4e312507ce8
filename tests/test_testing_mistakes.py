"""`check_grads` names the likely mistakes of a rule: a transpose, a shape, a sum that is left to the engine."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_mm as tg


def product(left, right):
    """A matrix product with the rules given."""

    @tg.primitive
    def matmul(a, b):
        return a @ b

    tg.defvjp(matmul, left, right)
    return matmul


def right_left(g, y, a, b):
    return g @ np.swapaxes(b, -1, -2)


def right_right(g, y, a, b):
    return np.swapaxes(a, -1, -2) @ g


def wrong(f, args, **options):
    with pytest.raises(AssertionError) as caught:
        tg.testing.check_grads(f, args, **options)
    return str(caught.value)


SQUARE = [np.arange(9.0).reshape(3, 3) / 4, np.array([[1.0, 2.0, -1.0], [0.5, 1.0, 3.0], [2.0, -1.0, 1.0]])]
OBLONG = [np.arange(6.0).reshape(2, 3) / 4, np.arange(12.0).reshape(3, 4) / 6]


@pytest.mark.parametrize("args", [SQUARE, OBLONG])
def test_the_right_rule_passes(args):
    tg.testing.check_grads(product(right_left, right_right), args, strict=True)


def test_a_transposed_gradient_of_a_square_matrix_is_named():
    f = product(right_left, lambda g, y, a, b: np.swapaxes(right_right(g, y, a, b), -1, -2))
    assert "the gradient of argument 1 is the transpose" in wrong(f, SQUARE)


def test_a_transposed_gradient_is_named_by_its_shape():
    f = product(right_left, lambda g, y, a, b: np.swapaxes(right_right(g, y, a, b), -1, -2))
    message = wrong(f, OBLONG)
    assert "for argument 1 returned shape (4, 3) for an argument of shape (3, 4)" in message
    assert "that is the shape of the transpose" in message


def test_a_wrong_shape_is_named():
    message = wrong(product(lambda g, y, a, b: g, right_right), OBLONG)
    assert "for argument 0 returned shape (2, 4) for an argument of shape (2, 3)" in message
    assert "transpose" not in message


def test_sign_and_factor_are_named():
    assert "the gradient of argument 0 has the wrong sign" in wrong(
        product(lambda *args: -right_left(*args), right_right), OBLONG
    )
    assert "the gradient of argument 0 is 3 times the right gradient" in wrong(
        product(lambda *args: 3 * right_left(*args), right_right), OBLONG
    )


def test_strict_reports_a_sum_that_is_left_to_the_engine():
    @tg.primitive
    def shifted(x, b):
        return x + b

    tg.defvjp(shifted, lambda g, y, x, b: g, lambda g, y, x, b: g)
    args = [np.ones((4, 3)), np.array([1.0, 2.0, 3.0])]
    tg.testing.check_grads(shifted, args)
    assert "it leaves the sum over the broadcast axes to the engine" in wrong(shifted, args, strict=True)
    tg.defvjp(shifted, lambda g, y, x, b: g, lambda g, y, x, b: np.sum(g, axis=0))
    tg.testing.check_grads(shifted, args, strict=True)
