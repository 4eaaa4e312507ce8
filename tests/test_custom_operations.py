"""Operations of one's own: right rules work everywhere, and `check_grads` catches wrong ones, whatever is wrong.

Each operation is made inside the test that uses it: the table of rules stays the library's own for all other tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_mm.graph import defcomposite, defvjp, defvjp_each, primitive
from tinygrad_mm.tensor import Parameter, Tensor
from tinygrad_mm.testing import check_grads
from tinygrad_mm.transforms import checkpoint, grad, hessian, hvp, jvp

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])
SQUARE = np.array([[0.5, -1.0], [2.0, 1.5]])


def swish(rule: Callable[..., Any]) -> Any:
    """x / (1 + exp(-x)) with a rule."""

    @primitive
    def swish(x: Any) -> Any:
        return x / (1 + np.exp(-x))

    defvjp(swish, rule)
    return swish


def right(g: Any, y: Any, x: Any) -> Any:
    """g (s + y (1 - s)), s = 1 / (1 + exp(-x))"""
    s = 1 / (1 + np.exp(-x))
    return g * (s + y * (1 - s))


def quadratic(*rules: Any) -> Any:
    """x @ a @ x, for each row of x, with rules."""

    @primitive
    def quadratic(x: Any, a: Any) -> Any:
        return np.sum((x @ a) * x, axis=-1)

    defvjp(quadratic, *rules)
    return quadratic


def for_x(g: Any, y: Any, x: Any, a: Any) -> Any:
    return np.expand_dims(g, -1) * (x @ a + x @ a.T)


def for_a(g: Any, y: Any, x: Any, a: Any) -> Any:
    return (x * np.expand_dims(g, -1)).T @ x


# ---------------------------------------------------------------------------------------------------------------------
# Right rules
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_right_rule_passes_at_every_order(dtype: Any) -> None:
    check_grads(swish(right), [X.astype(dtype)], order=4)
    check_grads(quadratic(for_x, for_a), [X[:, :2].astype(dtype), SQUARE.astype(dtype)], order=3)


def test_an_operation_takes_arrays_and_tensors() -> None:
    f = swish(right)
    assert type(f(X)) is np.ndarray
    x = Tensor(X, requires_grad=True)
    y = f(x)
    assert isinstance(y, Tensor)
    np.testing.assert_array_equal(y.detach().data, f(X))
    np.sum(y).backward()
    s = 1 / (1 + np.exp(-X))
    np.testing.assert_allclose(x.grad, s + X * s * (1 - s), rtol=1e-14)


def test_an_operation_goes_through_all_transforms() -> None:
    f = swish(right)
    written_out = lambda x: x / (1 + np.exp(-x))
    total, plain = (lambda x: np.sum(f(x) * f(x))), (lambda x: np.sum(written_out(x) ** 2))
    x, v = X[0], X[1]
    np.testing.assert_allclose(hessian(total)(x), hessian(plain)(x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(hvp(checkpoint(total), x, v), hvp(plain, x, v), rtol=1e-12)
    check_grads(lambda x: checkpoint(f)(x) * x, [X], order=3)
    np.testing.assert_allclose(jvp(f, x, v)[1], jvp(written_out, x, v)[1], rtol=1e-12)
    np.testing.assert_allclose(
        grad(grad(lambda t: total(x * t)))(1.0), grad(grad(lambda t: plain(x * t)))(1.0), rtol=1e-5
    )


@given(n=st.integers(0, 3))
def test_any_number_of_arguments(n: int) -> None:
    @primitive
    def hypotenuse(*xs: Any) -> Any:
        return np.sqrt(sum(x * x for x in xs))

    defvjp_each(hypotenuse, lambda i, g, y, *xs: g * xs[i] / y)
    check_grads(hypotenuse, [X + 3 * k for k in range(n + 1)])


def test_broadcasting_is_not_the_rules_business() -> None:
    @primitive
    def product(a: Any, b: Any) -> Any:
        return a * b

    defvjp(product, lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)
    for other in (np.array(2.0), X[0], X[:, :1], np.stack([X, -X])):
        check_grads(product, [X, other])
        check_grads(product, [other, X])


def test_several_results() -> None:
    @primitive
    def polar(x: Any, y: Any) -> Any:
        return np.hypot(x, y), np.arctan2(y, x)

    defvjp(
        polar,
        lambda g, r, x, y: (g[0] * x - g[1] * y / r[0]) / r[0],
        lambda g, r, x, y: (g[0] * y + g[1] * x / r[0]) / r[0],
    )
    check_grads(polar, [X, X + 2])
    check_grads(lambda x, y: polar(x, y)[1], [X, X + 2])
    defvjp(polar, lambda g, r, x, y: np.float64(1) * (g[0] * x - g[1] * y / r[0]) / r[0], None)
    with pytest.raises(
        AssertionError, match="the rule of polar for argument 0 returned float64 for an argument of float32"
    ):
        check_grads(lambda x: polar(x, (X + 2).astype(np.float32)), [X.astype(np.float32)])


def test_options_and_constants() -> None:
    @primitive
    def power_mean(x: Any, mask: Any, p: int = 2) -> Any:
        return np.sum(x**p * mask)

    defvjp(power_mean, lambda g, y, x, mask, p=2: g * mask * p * x ** (p - 1), None)
    check_grads(lambda x: power_mean(x, X > 0, p=3), [X])
    check_grads(lambda x: power_mean(x, X > 0), [X])


def test_options_stand_where_the_function_has_them() -> None:
    """Or a call that gives them by position would be recorded as another one."""

    @primitive
    def scaled(x: Any, copy: bool = True, scale: float = 1.0) -> Any:
        return x * scale

    with pytest.raises(TypeError, match=r"defvjp: a rule of scaled takes .* in its order: g, y, x, copy, scale; this"):
        defvjp(scaled, lambda g, y, x, scale=1.0: g * scale)
    defvjp(scaled, lambda g, y, x, copy=True, scale=1.0: g * scale)
    assert grad(lambda x: np.sum(scaled(x, True, 3.0)))(X).flat[0] == 3


def test_an_expression_needs_no_rule() -> None:
    def softsign(x: Any) -> Any:
        return x / (1 + np.abs(x))

    defcomposite(softsign, softsign)
    check_grads(softsign, [X])


# ---------------------------------------------------------------------------------------------------------------------
# Wrong rules
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def frozen(x: Any) -> Any:
    """A copy without a derivative: what a rule that took a value out of the graph would multiply with."""
    return np.array(x)


defvjp(frozen, None)


def missing_at_an_index(g: Any, y: Any, x: Any) -> Any:
    s = 1 / (1 + np.exp(-x))
    return g * (s + np.where(np.arange(x.size).reshape(x.shape) == 4, 0, y) * (1 - s))


WRONG = {
    "twice": (lambda g, y, x: 2 * right(g, y, x), 1, r"\(2 times the numeric one\)"),
    "wrong sign": (lambda g, y, x: -right(g, y, x), 1, r"\(-1 times the numeric one\)"),
    "missing at an index": (missing_at_an_index, 1, r"argument 0, index \(1, 1\): numeric"),
    "missing a term": (lambda g, y, x: g / (1 + np.exp(-x)), 1, r"argument 0, index \(\d, \d\): numeric"),
    "nothing": (None, 1, r"analytic 0 "),
    "ignores g": (lambda g, y, x: right(np.ones_like(g), y, x), 1, "argument 0"),
    "not linear in g": (lambda g, y, x: right(g * g, y, x), 1, "argument 0"),
    "a constant at second order": (lambda g, y, x: right(g, frozen(y), frozen(x)), 2, "argument 0, index"),
    "a term constant at second order": (lambda g, y, x: right(g, y, frozen(x)), 2, "argument 0, index"),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rule", "order", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule_is_caught(rule: Any, order: int, message: str, dtype: Any) -> None:
    f = swish(rule)
    with pytest.raises(AssertionError, match=f"(?s)the derivative of order {order} of swish is wrong.*{message}"):
        check_grads(f, [X.astype(dtype)])
    if order > 1:
        check_grads(f, [X.astype(dtype)], order=order - 1)


def test_the_wrong_argument_is_named() -> None:
    transposed = quadratic(for_x, lambda g, y, x, a: for_a(g, y, x, a).T)
    check_grads(transposed, [X[:, :2], SQUARE], order=1)  # right by luck: the gradient of a is symmetric
    lopsided = lambda g, y, x, a: np.expand_dims(g, -1) * (x @ a * 2)
    with pytest.raises(AssertionError, match=r"(?s)order 1 of quadratic.*argument 0, index"):
        check_grads(quadratic(lopsided, for_a), [X[:, :2], SQUARE])
    with pytest.raises(AssertionError, match=r"(?s)order 1 of quadratic.*argument 1, index"):
        check_grads(quadratic(for_x, lambda g, y, x, a: 0 * a + g.sum()), [X[:, :2], SQUARE])


def product(*rules: Any) -> Any:
    """a @ b with rules."""

    @primitive
    def product(a: Any, b: Any) -> Any:
        return a @ b

    defvjp(product, *rules)
    return product


def test_a_transposed_gradient_is_caught() -> None:
    """Of a square matrix by its numbers; of any other by its shape, although it has the right number of elements."""
    wrong = product(lambda g, y, a, b: b @ g.T, lambda g, y, a, b: a.T @ g)
    with pytest.raises(AssertionError, match=r"(?s)order 1 of product.*argument 0, index"):
        check_grads(wrong, [SQUARE, SQUARE + 1])
    with pytest.raises(
        AssertionError, match=r"rule of product for argument 0 returned shape \(3, 2\) for .* shape \(2, 3\)"
    ):
        check_grads(wrong, [X, X.T])
    right = product(lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a.T @ g)
    check_grads(right, [X, X.T])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda g, y, x: np.sum(right(g, y, x), axis=0), r"returned shape \(3,\) for an argument of shape \(2, 3\)"),
        (lambda g, y, x: right(g, y, x).ravel(), r"returned shape \(6,\) for an argument of shape \(2, 3\)"),
        (lambda g, y, x: 1.0, r"returned a float; return an array of shape \(2, 3\)"),
        (lambda g, y, x: None, r"returned a NoneType; return an array"),
    ],
)
def test_a_wrong_shape_is_caught(rule: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"the rule of swish for argument 0 {message}"):
        check_grads(swish(rule), [X])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_lost_dtype_is_caught(dtype: Any) -> None:
    """A float32 gradient that turns float64, seen before it is cast back; also where the arguments are float64."""
    widened = swish(lambda g, y, x: right(g, y, x) * np.float64(1.0))
    with pytest.raises(AssertionError, match=r"argument 0 returned float64 for an argument of float32.*keep the dtype"):
        check_grads(widened, [X.astype(dtype)])
    w = Parameter(np.ones(3, dtype))
    with pytest.raises(AssertionError, match="argument 0 returned float64"):
        check_grads(lambda x: widened(x) * w, [X.astype(dtype)])
    narrowed = swish(lambda g, y, x: right(g, y, x).astype(np.float32))
    with pytest.raises(AssertionError, match=r"argument 0 returned float32 for an argument of float64"):
        check_grads(narrowed, [X.astype(dtype)])
    check_grads(swish(lambda g, y, x: right(g, y, x) * math.exp(0)), [X.astype(dtype)])


def test_a_forward_that_loses_precision_is_caught() -> None:
    """A rule that is right in float64 and wrong in the arguments' own dtype."""
    rule = lambda g, y, x: right(g, y, x) if x.dtype == np.float64 else right(g, y, x) * 2
    with pytest.raises(AssertionError, match=r"(?s)order 1 of swish.*in float32, .* in float64"):
        check_grads(swish(rule), [X.astype(np.float32)])


def test_two_mistakes_that_cancel_in_a_sum_are_caught() -> None:
    """The gradient of np.sum(f(x)) would be right: weights at random are not."""
    swapped = swish(lambda g, y, x: right(np.flip(g, 0), y, x))
    check_grads(lambda x: np.sum(swapped(x)), [X], order=1)
    with pytest.raises(AssertionError, match="order 1"):
        check_grads(swapped, [X])
