"""Numbers at the ends of what a float can hold: values are those of NumPy or of a limit, gradients are never NaN there."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg

INF = math.inf


def gradients(f: Any, *values: Any, dtype: Any = np.float64) -> list[Any]:
    tensors = [tg.Tensor(np.array(v, dtype), requires_grad=True) for v in values]
    y = f(*tensors)
    return [y.data.tolist(), *(g.data.tolist() for g in tg.gradients(np.sum(y), tensors))]


# (function, arguments, value, gradients): what the mathematics says, or the limit that exists.
EXTREMES: list[tuple[str, Any, list[Any], Any, list[Any]]] = [
    ("logsumexp", tg.logsumexp, [[-INF, 1.0]], 1.0, [[0.0, 1.0]]),
    ("logsumexp of large numbers", tg.logsumexp, [[1e300] * 4], 1e300, [[0.25] * 4]),
    ("logaddexp at -inf", np.logaddexp, [-INF, -INF], -INF, [0.5, 0.5]),
    ("logaddexp at inf", np.logaddexp, [INF, 1.0], INF, [1.0, 0.0]),
    ("logaddexp of large numbers", np.logaddexp, [1e300, 1e300], 1e300, [0.5, 0.5]),
    ("logaddexp far apart", np.logaddexp, [-1e300, 1e300], 1e300, [0.0, 1.0]),
    ("logaddexp2 at -inf", np.logaddexp2, [-INF, -INF], -INF, [0.5, 0.5]),
    ("logaddexp2 of large numbers", np.logaddexp2, [1e300, 1e300], 1e300, [0.5, 0.5]),
    ("softplus", tg.softplus, [[INF, -INF, 1e300, -1e300]], [INF, 0.0, 1e300, 0.0], [[1.0, 0.0, 1.0, 0.0]]),
    ("x ** 0", lambda x: x**0, [[INF, -INF, 0.0]], [1.0, 1.0, 1.0], [[0.0, 0.0, 0.0]]),
    ("x ** 1", lambda x: x**1, [[INF, -INF, 0.0]], [INF, -INF, 0.0], [[1.0, 1.0, 1.0]]),
    ("x ** 1.0", lambda x: x ** np.array([0.0, 1.0]), [[INF, -INF]], [1.0, -INF], [[0.0, 1.0]]),
    ("0 ** y", lambda y: 0.0**y, [[-1.0, 1.0, 2.0]], [INF, 0.0, 0.0], [[0.0, 0.0, 0.0]]),
    ("0 ** y, arrays", lambda y: np.zeros(2) ** y, [[-1.0, 2.0]], [INF, 0.0], [[0.0, 0.0]]),
    ("quantile beside inf", lambda x: np.quantile(x, 0.0), [[1.0, INF]], 1.0, [[1.0, 0.0]]),
    ("cond of zeros", np.linalg.cond, [[[0.0, 0.0], [0.0, 0.0]]], INF, [[[0.0, 0.0], [0.0, 0.0]]]),
]


@pytest.mark.parametrize("row", EXTREMES, ids=lambda row: row[0])
def test_extremes(row: Any) -> None:
    _, f, arguments, value, expected = row
    with np.errstate(all="ignore"):
        assert gradients(f, *arguments) == [value, *expected]


def test_large_offsets_in_single_precision() -> None:
    """A gradient made of the result would be exp of its rounding error."""
    assert gradients(tg.logsumexp, [1e8] * 4, dtype=np.float32)[1] == [0.25] * 4
    assert gradients(np.logaddexp, [1e8], [1e8], dtype=np.float32)[1:] == [[0.5], [0.5]]
    offset = np.array([3e7, 3e7 + 4], np.float32)
    near = np.array([0.0, 4.0], np.float32)
    np.testing.assert_allclose(gradients(tg.logsumexp, offset)[1], gradients(tg.logsumexp, near)[1], rtol=1e-6)


@pytest.mark.parametrize("fun", [np.nanvar, np.nanstd, np.var, np.std], ids=lambda fun: fun.__name__)
@pytest.mark.parametrize("ddof", [0, 1, 2, 3])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_too_few_numbers_for_a_variance(fun: Any, ddof: int, axis: int | None) -> None:
    x = np.array([[1.0, 2.0, np.nan], [3.0, 5.0, 4.0]] if fun in (np.nanvar, np.nanstd) else [[1.0, 2.0], [3.0, 5.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = fun(x, axis=axis, ddof=ddof)
        t = tg.Tensor(x, requires_grad=True)
        y = fun(t, axis=axis, ddof=ddof)
        (g,) = tg.gradients(np.sum(y), [t])
    np.testing.assert_allclose(y.data, expected, equal_nan=True)
    if not np.isfinite(expected).all():
        assert not np.isfinite(g.data).all()  # no number, no slope


@pytest.mark.parametrize("q", [-0.1, 1.9, [0.5, 2.0]])
@pytest.mark.parametrize("fun", [np.quantile, np.nanquantile], ids=lambda fun: fun.__name__)
def test_quantiles_beyond_the_ends_are_refused(fun: Any, q: Any) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fun(tg.Tensor([1.0, 2.0], requires_grad=True), q)


@pytest.mark.parametrize("fun", [tg.softmax, tg.log_softmax], ids=lambda fun: fun.__name__)
def test_of_nothing_comes_nothing(fun: Any) -> None:
    assert gradients(fun, np.zeros((2, 0))) == [[[], []], [[], []]]
    assert gradients(tg.logsumexp, np.zeros((2, 0)))[0] == [-INF, -INF]


def test_nothing_at_all_has_no_probability() -> None:
    with np.errstate(all="raise"):
        assert tg.logsumexp(tg.Tensor([-INF, -INF])).item() == -INF
