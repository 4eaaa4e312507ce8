"""Functions without a gradient: (function, call on one array of small numbers, some of them whole or equal).

They are recorded, agree with NumPy, and stop the gradient. At the end those that only look at shapes and dtypes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.rules.elementwise import exponent, stop_gradient
from tinygrad_mm.rules.indexing import last_writes
from tinygrad_mm.rules.sets import distinct, in_both
from tinygrad_mm.rules.statistics import bin_numbers, counts


def whole(x: Any) -> Any:
    """x as integers, 0 or larger."""
    return abs(x).astype(np.int64)


def exponent_by_logarithm(x: Any) -> Any:
    """On arrays the definition: x = m * 2 ** e with 0.5 <= |m| < 1, and 0 for 0."""
    if not isinstance(x, np.ndarray):
        return exponent(x)
    return np.array([0 if v == 0 else int(np.floor(np.log2(abs(v)))) + 1 for v in x.ravel()], np.int32).reshape(x.shape)


def last_writes_by_loop(x: Any) -> Any:
    """Of two writes to one place the later one stays."""
    if not isinstance(x, np.ndarray):
        return last_writes(x, np.array([1, 0, 1]))
    return np.array([[0.0], [1.0], [1.0]], x.dtype) * np.ones_like(x[:1])


def one_hot_by_loop(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return functional.one_hot(np.argmax(x, axis=1), 3, x.dtype)
    return np.array([[float(j == np.argmax(row)) for j in range(3)] for row in x], x.dtype)


# fmt: off
STOPPED: list[tuple[Callable[..., Any], Callable[[Any], Any]]] = [
    (np.equal,             lambda x: np.equal(x, 1.0)),
    (np.equal,             lambda x: x == x.T),
    (np.not_equal,         lambda x: x != 1),
    (np.less,              lambda x: x < x.T),
    (np.less,              lambda x: np.less(1.0, x)),
    (np.less_equal,        lambda x: x <= 1.0),
    (np.greater,           lambda x: np.greater(x, x.T)),
    (np.greater_equal,     lambda x: x >= np.float64(1)),
    (np.logical_and,       lambda x: np.logical_and(x > 0, x)),
    (np.logical_or,        lambda x: np.logical_or(x, 0)),
    (np.logical_xor,       lambda x: np.logical_xor(x, x > 0)),
    (np.logical_not,       np.logical_not),
    (np.bitwise_and,       lambda x: (x > 0) & (x < 1)),
    (np.bitwise_or,        lambda x: whole(x) | 4),
    (np.bitwise_xor,       lambda x: 5 ^ whole(x)),
    (np.invert,            lambda x: ~(x > 0)),
    (np.left_shift,        lambda x: whole(x) << 2),
    (np.right_shift,       lambda x: np.right_shift(16, whole(x))),
    (np.bitwise_count,     lambda x: np.bitwise_count(whole(x))),
    (np.sign,              np.sign),
    (np.signbit,           np.signbit),
    (np.heaviside,         lambda x: np.heaviside(x, 0.5)),
    (np.floor,             np.floor),
    (np.ceil,              np.ceil),
    (np.trunc,             np.trunc),
    (np.rint,              np.rint),
    (np.round,             lambda x: np.round(x, 1)),
    (np.round,             lambda x: x.round(1)),
    (np.around,            np.around),
    (np.fix,               np.fix),
    (np.floor_divide,      lambda x: x // 0.75),
    (np.floor_divide,      lambda x: np.floor_divide(2.0, x + 5)),
    (np.spacing,           np.spacing),
    (np.gcd,               lambda x: np.gcd(whole(x), 6)),
    (np.lcm,               lambda x: np.lcm(whole(x), 6)),
    (np.imag,              np.imag),
    (np.angle,             np.angle),
    (np.isnan,             np.isnan),
    (np.isinf,             np.isinf),
    (np.isfinite,          np.isfinite),
    (np.isposinf,          np.isposinf),
    (np.isneginf,          np.isneginf),
    (np.isclose,           lambda x: np.isclose(x, x.T)),
    (np.isreal,            np.isreal),
    (np.iscomplex,         np.iscomplex),
    (np.isin,              lambda x: np.isin(x, [0.0, 1.0])),
    (np.zeros_like,        np.zeros_like),
    (np.ones_like,         np.ones_like),
    (np.empty_like,        lambda x: np.empty_like(x) * 0 == 0),
    (exponent,             exponent_by_logarithm),
    (last_writes,          last_writes_by_loop),
    (np.linalg.matrix_rank, np.linalg.matrix_rank),
    (functional.one_hot,   one_hot_by_loop),
    (uniform_like,         lambda x: uniform_like(x, np.random.default_rng(3))),
    (stop_gradient,        lambda x: x if isinstance(x, np.ndarray) else stop_gradient(x)),
    (np.argsort,           lambda x: np.argsort(x, axis=0, kind="stable")),
    (np.argpartition,      lambda x: np.argpartition(x[0], 1)[1]),
    (np.lexsort,           lambda x: np.lexsort((x[0], x[1]))),
    (np.searchsorted,      lambda x: np.searchsorted(np.array([-1.0, 0, 2], x.dtype), x, side="right")),
    (np.digitize,          lambda x: np.digitize(x, [-1.0, 0.5])),
    (np.nonzero,           np.nonzero),
    (np.flatnonzero,       np.flatnonzero),
    (np.argwhere,          np.argwhere),
    (np.unravel_index,     lambda x: np.unravel_index(np.argmax(x), (3, 3))),
    (np.ravel_multi_index, lambda x: np.ravel_multi_index((np.argmax(x, axis=0), np.argmin(x, axis=0)), (3, 3))),
    (counts,               lambda x: counts(whole(x).ravel())),
    (bin_numbers,          lambda x: bin_numbers(x.ravel(), np.array([-1.5, 0.0, 1.0], x.dtype))),
    (distinct,             lambda x: distinct(x, 0)),
    (in_both,              lambda x: in_both(x, x[:2])),
    (np.all,               lambda x: np.all(x > -9, axis=1)),
    (np.any,               lambda x: x.any(axis=0, keepdims=True)),
    (np.argmax,            lambda x: np.argmax(x, axis=-1, keepdims=True)),
    (np.argmin,            lambda x: x.argmin()),
    (np.nanargmax,         lambda x: np.nanargmax(x, axis=0)),
    (np.nanargmin,         np.nanargmin),
    (np.count_nonzero,     lambda x: np.count_nonzero(x, axis=0)),
]
# fmt: on

if importlib.util.find_spec("scipy"):
    from scipy import special

    from tinygrad_mm.rules import scipy_special  # noqa: F401 (registers)

    STOPPED += [(special.gammasgn, special.gammasgn), (special.round, special.round)]

# fmt: off
METADATA: list[tuple[Callable[..., Any], Callable[[Any], Any]]] = [
    (np.shape,             np.shape),
    (np.ndim,              np.ndim),
    (np.size,              lambda x: np.size(x, 1)),
    (np.result_type,       lambda x: np.result_type(x, np.float32)),
    (np.can_cast,          lambda x: np.can_cast(x, np.float64)),
    (np.common_type,       np.common_type),
    (np.iscomplexobj,      np.iscomplexobj),
    (np.isrealobj,         np.isrealobj),
    (np.array_equal,       lambda x: np.array_equal(x, x.T)),
    (np.array_equiv,       lambda x: np.array_equiv(x, x[0])),
    (np.allclose,          lambda x: np.allclose(x, x + 1e-12)),
    (np.may_share_memory,  lambda x: np.may_share_memory(x, x[0])),
    (np.shares_memory,     lambda x: np.shares_memory(x, x[1:])),
    (np.min_scalar_type,   np.min_scalar_type),
    (np.array2string,      np.array2string),
    (np.array_repr,        np.array_repr),
    (np.array_str,         np.array_str),
    (np.einsum_path,       lambda x: np.einsum_path("ij,jk,kl", x, x, x)),
    (np.broadcast_shapes,  lambda x: np.broadcast_shapes(x.shape, (1, 3))),
]
# fmt: on
