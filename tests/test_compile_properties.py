"""Compiled equals eager, for drawn programs: every row of the operation table, and random expressions of many rows.

Eager is the oracle here, since its values and gradients are compared with NumPy and numeric differentiation by
`test_operations.py`. Values, gradients and second derivatives are compared; `agreement.py` says what counts as equal.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
import strategies as my
from agreement import assert_agree
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import floating
from table import ROWS
from table.row import Row
from table.stopped import STOPPED

import tinygrad_mm as tg
from tinygrad_mm import functional
from tinygrad_mm.graph import name_of
from tinygrad_mm.rules.sets import distinct, in_both
from tinygrad_mm.rules.statistics import counts

SHAPED_BY_VALUES = (np.nonzero, np.flatnonzero, np.argwhere, counts, distinct, in_both)
REFUSED = {
    **dict.fromkeys(SHAPED_BY_VALUES, r"the shape of \w+ depends on values"),
    **dict.fromkeys((np.lexsort, np.ravel_multi_index), "inside a container or keyword cannot be traced"),
    functional.uniform_like: "a generator that it makes itself",
}
# What these return, or how many elements, values decide: some calls of them are refused.
LOOK_AT_VALUES = {np.cov, np.histogram, np.unique, np.union1d, np.setdiff1d, np.intersect1d, np.geomspace, np.piecewise}
every_row = pytest.mark.parametrize("row", ROWS, ids=repr)


def tensors(arrays: list[np.ndarray]) -> list[tg.Tensor]:
    return [tg.Tensor(a, requires_grad=True) for a in arrays]


def derivatives(f: Any, arrays: list[np.ndarray], seed: int, order: int) -> list[Any]:
    """The results of a call of Tensors, and its derivatives up to an order along random directions."""
    xs = tensors(arrays)
    result = f(*xs)
    found = [result]
    ys = floating(result)
    for n in range(order):
        rngs = [np.random.default_rng((seed, n, i)) for i in range(len(ys))]
        weights = [np.asarray(rng.uniform(0.5, 1.5, y.shape), y.dtype) for rng, y in zip(rngs, ys, strict=True)]
        pairs = [(y, w) for y, w in zip(ys, weights, strict=True) if y.requires_grad]
        ys, zeros = [y for y, _ in pairs], [tg.Tensor(np.zeros_like(x.data)) for x in xs]
        if ys:
            grads = tg.gradients(ys, xs, [w for _, w in pairs], create_graph=n + 1 < order, allow_unused=True)
            ys = [zero if g is None else g for g, zero in zip(grads, zeros, strict=True)]
        else:
            ys = zeros  # constant: all further derivatives are zero
        found.extend(y.detach() for y in ys)
    return found


def check(f: Any, arrays: list[np.ndarray], seed: int) -> None:
    """f and its compiled form agree: when first called, and again, with other numbers and up to second derivatives."""
    compiled = tg.compile(f)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for order, given in ((1, arrays), (2, [a[::-1] if a.ndim else a.copy() for a in arrays])):
            expected = derivatives(f, given, seed, order)
            ours = derivatives(compiled, given, seed, order)
            assert len(ours) == len(expected)
            for one, other in zip(ours, expected, strict=True):
                assert_agree(one, other, 2000, arrays[0].dtype)
    assert len(compiled.plans) == 1


@every_row
@settings(max_examples=1)
@given(data=st.data())
def test_every_operation(row: Row, data: st.DataObject) -> None:
    case = data.draw(my.cases(row, my.shapes(row)))
    dtype = data.draw(st.sampled_from(my.FLOATS))
    if row.note in ("Tensor as mask", "Tensor as condition"):
        with pytest.raises(TypeError, match="depends on values"):
            tg.compile(row.call)(*tensors(case.arrays))
        return
    try:
        check(lambda *xs: row.call(*xs, **case.options), [a.astype(dtype) for a in case.arrays], case.seed)
    except TypeError as error:
        if row.fun not in LOOK_AT_VALUES or not re.search("depends on values|would bake one value", str(error)):
            raise


@pytest.mark.parametrize(("fun", "call"), STOPPED, ids=lambda part: name_of(part))
def test_every_stopped_operation(fun: Any, call: Any) -> None:
    """Values agree, or the program is refused for a reason."""
    x = np.array([[-1.5, 0.0, 1.0], [2.25, -2.0, 1.0], [0.3, 0.75, -0.5]], np.float32)
    if fun in REFUSED:
        with pytest.raises(TypeError, match=REFUSED[fun]):
            tg.compile(call)(tg.Tensor(x))
        return
    check(lambda x: (call(x), np.sum(x * x)), [x], 0)


# ---------------------------------------------------------------------------------------------------------------------
# Expressions of many operations
# ---------------------------------------------------------------------------------------------------------------------

N = 4  # all arrays have lengths of 1 or N, so that most of them fit together

# Smooth or tame enough to be nested: values stay within a few units.
UNARY = {
    "tanh": np.tanh, "sin": np.sin, "sqrt": lambda a: np.sqrt(a * a + 1), "exp": lambda a: np.exp(-(a * a)),
    "relu": functional.relu, "sigmoid": functional.sigmoid, "softplus": functional.softplus, "neg": lambda a: -a, "abs": abs,
    "square": lambda a: (a * 0.3) ** 2, "cube": lambda a: np.tanh(a) ** 3, "half": lambda a: a / 2, "weak": lambda a: 1 - a * 0.5,
    "reciprocal": lambda a: 1 / (2 + np.cos(a)), "detach": lambda a: a.detach() if isinstance(a, tg.Tensor) else a,
    "T": lambda a: a.T, "flat": lambda a: a.reshape(-1), "mean": np.mean, "sum": lambda a: np.sum(a) / 8, "max": np.max,
    "sum0": lambda a: np.sum(a, axis=0) / 4 if a.ndim else a, "mean0": lambda a: a.mean(0, keepdims=True) if a.ndim else a,
    "mean1": lambda a: np.mean(a, axis=-1, keepdims=True) if a.ndim else a, "min1": lambda a: a.min(axis=-1) if a.ndim else a,
    "softmax": lambda a: functional.softmax(a) if a.ndim else a, "logsumexp": lambda a: functional.logsumexp(a) if a.ndim else a,
    "first": lambda a: a[0] if a.ndim else a, "reversed": lambda a: a[::-1] if a.ndim else a, "new": lambda a: a[..., None] if a.ndim < 3 else a,
    "rows": lambda a: a[np.arange(len(a))[::-1]] if a.ndim else a, "sort": lambda a: np.sort(a, axis=-1) if a.ndim else a,
    "cumsum": lambda a: np.cumsum(a, axis=0) / 4 if a.ndim else a, "clip": lambda a: np.clip(a, -0.9, 0.8),
    "sign": np.sign, "float64": lambda a: a.astype(np.float64), "var": lambda a: np.var(a), "copy": lambda a: a.copy(),
    "standard": lambda a: functional.standardize(a, (a.ndim - 1,), 0.1)[0] if a.ndim else a,
    "split": lambda a: np.split(a, 2)[1] if a.ndim and len(a) % 2 == 0 else a, "set": lambda a: tg.functional.relu(a) if a.ndim == 0 else np.roll(a, 1, axis=0),
}  # fmt: skip
BINARY = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: np.tanh(a) * b, "div": lambda a, b: a / (1 + b * b),
    "max": np.maximum, "min": np.minimum, "hypot": lambda a, b: np.hypot(a, b + 3), "where": lambda a, b: np.where(a > b, a, b * 2),
    "mask": lambda a, b: (a > 0) * b, "matmul": lambda a, b: np.tanh(a @ b) if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] else a,
    "einsum": lambda a, b: np.einsum("ij,kj->ik", a, b) / N if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] else b,
    "stack": lambda a, b: np.stack([a, b]) if a.shape == b.shape and a.ndim < 3 else a, "power": lambda a, b: (a * a + 1) ** np.tanh(b),
    "concatenate": lambda a, b: np.concatenate([a, b])[::2] if a.ndim and a.shape == b.shape else b, "logaddexp": np.logaddexp,
    "mse": lambda a, b: np.mean((a - b) ** 2),
}  # fmt: skip


@st.composite
def expressions(draw: st.DrawFn) -> tuple[list[tuple[str, tuple[int, ...]]], list[int]]:
    """Steps, each an operation of earlier results (the first three are the arguments), and which results count."""
    steps: list[tuple[str, tuple[int, ...]]] = []
    for n in range(3, 3 + draw(st.integers(1, 14))):
        earlier = st.integers(max(0, n - 6), n - 1)
        if draw(st.booleans()):
            steps.append((draw(st.sampled_from(sorted(UNARY))), (draw(earlier),)))
        else:
            steps.append((draw(st.sampled_from(sorted(BINARY))), (draw(earlier), draw(earlier))))
    outputs = draw(st.lists(st.integers(0, len(steps) + 2), min_size=0, max_size=2))
    return steps, [len(steps) + 2, *outputs]


def evaluated(steps: Any, outputs: Any, *arguments: Any) -> Any:
    results = list(arguments)
    for name, places in steps:
        fun = UNARY[name] if len(places) == 1 else BINARY[name]
        try:
            results.append(fun(*(results[i] for i in places)))
        except (ValueError, IndexError):  # shapes that do not fit
            results.append(results[places[0]])
    return [results[i] for i in outputs]


@settings(max_examples=100)
@given(program=expressions(), dtype=st.sampled_from(my.FLOATS), seed=st.integers(0, 99), data=st.data())
def test_random_expressions(program: Any, dtype: Any, seed: int, data: st.DataObject) -> None:
    steps, outputs = program
    shapes = data.draw(
        st.sampled_from([[(N, N), (N, N), (N,)], [(N, 1), (N, N), ()], [(1, N), (N,), (N, 2)], [(0, N), (N,), (1,)]])
    )
    rng = np.random.default_rng(seed)
    check(lambda *xs: evaluated(steps, outputs, *xs), [rng.uniform(-1.5, 1.5, s).astype(dtype) for s in shapes], seed)
