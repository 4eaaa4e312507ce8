"""Array against Tensor: every function of NumPy that has a rule, with good and bad arguments: same value, or both raise."""

from __future__ import annotations

import copy
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm.graph import RULES

MATRIX = np.array(
    [
        [1.5, -2.0, 0.25, 3.0],
        [0.5, 2.5, -1.0, 1.0],
        [-0.75, 2.0, 4.0, 0.1],
        [1.25, 0.3, 5.0, -3.0],
        [2.0, 0.7, -0.2, 0.9],
    ]
)
ARRAYS: dict[str, np.ndarray] = {
    "0-d": np.array(1.5),
    "list": MATRIX[:4, 1],
    "matrix": MATRIX,
    "square": MATRIX[:4],
    "cube": np.stack([MATRIX[:3, :2], 2 - MATRIX[:3, :2]]),
    "empty": np.zeros((0, 4)),
    "row": MATRIX[:1],
    "integers": np.array([[3, 1, 2, 0], [1, 1, 4, 2]]),
    "booleans": MATRIX[:2] > 1,
    "with NaN": np.where(MATRIX > 2, np.nan, MATRIX),
    "float32": MATRIX.astype(np.float32),
}

# Values for a parameter of this name, good and bad ones.
OPTIONS: dict[str, list[Any]] = {
    "axis": [None, 0, 1, -1, 7, -9, (0, 1), (1, -1), (0, 0), 1.5, "x", []],
    "axes": [None, 0, (1, 0), (0, 0), (0, 1, 2), 5, ((0,), (0,)), 1, -1],
    "axis1": [1, 9, 0],
    "axis2": [0, 9],
    "keepdims": [True, False],
    "ddof": [0, 1, 0.5, 9],
    "n": [0, 1, 2, -1, 1.5],
    "k": [0, 1, -2, 9, 1.5],
    "offset": [0, 1, -1, 9],
    "mode": ["raise", "wrap", "clip", "valid", "same", "full", "edge", "reflect", "constant", "foo", 7],
    "num": [0, 1, 3, 2.5, -1],
    "endpoint": [False],
    "retstep": [True],
    "order": ["C", "F", "x"],
    "ord": [None, 1, 2, -1, np.inf, "fro", "nuc", "x", 3],
    "p": [None, 1, 2, np.inf, "fro", "x"],
    "indices": [0, [0, 1], [[0, 2], [1, 1]], [True, False], 9, -1, 1.5, []],
    "indices_or_sections": [1, 2, 3, 0, [1], [1, 3], [9], -1],
    "obj": [0, [1], [0, 1], -9, 9, slice(0, 2), [], [True, False, True, False]],
    "values": [1.0, [1.0, 2.0], [[1.0], [2.0]], []],
    "repeats": [2, [1, 2, 0, 1], -1, 1.5, []],
    "reps": [2, (1, 2), (2, 1, 1), 0, -1],
    "shift": [1, -2, (1, 2), 1.5],
    "shape": [(4,), (20,), (2, 10), (-1,), (3, 3), -1, (5, 4), (2, 5, 4), ()],
    "newshape": [(20,)],
    "decimals": [0, 1, -1, 1.5],
    "q": [0.5, 0, 1, [0.1, 0.9], 1.9, -0.1, 50, "x", []],
    "method": ["linear", "lower", "hazen", "foo"],
    "a_min": [0.0, None, [0.0, 1.0, 2.0, 3.0]],
    "a_max": [1.0, None],
    "kth": [0, 1, (0, 1), 9, -1, 1.5],
    "kind": ["stable", "foo"],
    "weights": [[1.0, 2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0], 1.0],
    "returned": [True],
    "pad_width": [0, 1, (1, 2), ((1, 0), (0, 2)), -1, 1.5, ((1, 2), (3, 4), (5, 6))],
    "stat_length": [1, -1, 9],
    "constant_values": [2.0, (1.0, 2.0)],
    "axisa": [0],
    "axisb": [0],
    "axisc": [0],
    "dx": [0.5, [1.0, 2.0]],
    "x": [[0.0, 1.0, 2.0, 4.0], [0.0, 1.0]],
    "edge_order": [1, 2, 3],
    "rowvar": [False],
    "bias": [True],
    "N": [0, 2, -1],
    "increasing": [True],
    "indexing": ["ij", "xy", "zz"],
    "sparse": [True],
    "start": [0, 1, -1, 9],
    "source": [0, 1, (0, 1), 9],
    "destination": [1, 0, (1, 0), 9],
    "dtype": [np.float32, np.int64, "x"],
    "nan": [2.0],
    "posinf": [1.0],
    "to_end": [1.0, [1.0, 2.0], "x"],
    "to_begin": [1.0],
    "prepend": [1.0, [1.0], [[1.0]]],
    "append": [1.0],
    "condition": [[True, False], [True, False, True, False], True, [0, 1]],
    "window_shape": [2, (2, 2), 9, 0, -1],
    "subscripts": ["ij->ji", "ii", "ij->i", "i", "ij,jk", "xx"],
    "optimize": [True, False, "greedy"],
    "side": ["left", "right", "foo"],
    "bins": [3, [0.0, 1.0, 2.0], 0, 1.5, [1.0, 0.0]],
    "range": [(0, 1), (1, 0)],
    "density": [True],
    "minlength": [0, 5, -1],
    "new_shape": [(2, 3), 3, (-1, 2), 0],
    "discont": [1.0],
    "period": [3.0],
    "full_matrices": [False],
    "compute_uv": [False],
    "hermitian": [True],
    "UPLO": ["U", "x"],
    "rcond": [0.1],
    "upper": [True],
    "initial": [1.0],
    "where": [True, [True, False, True, False], False],
    "correction": [1],
    "include_initial": [True],
    "equal_nan": [False],
    "fill_value": [2.0],
    "copy": [False],
    "base": [2.0],
}


def names(fun: Any) -> list[tuple[str, bool]]:
    """(parameter, whether it is needed) of a function."""
    if isinstance(fun, np.ufunc):
        return [(f"x{i + 1}", True) for i in range(fun.nin)]
    known = {
        np.dot: "a b",
        np.where: "condition x y",
        np.inner: "a b",
        np.lexsort: "keys axis=",
        np.concatenate: "arrays axis=",
    }
    if fun in known:
        return [(word.rstrip("="), not word.endswith("=")) for word in known[fun].split()]
    found = inspect.signature(fun).parameters.values()
    return [(p.name, p.default is p.empty) for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def has_signature(fun: Any) -> bool:
    try:
        return bool(names(fun)) or True
    except ValueError:
        return False


LISTS = {"arrays", "tup", "arys", "choicelist", "choices"}


def calls(fun: Callable[..., Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Good and bad arguments of a function: arrays of every kind, and each option alone and some in pairs."""
    parameters = names(fun)
    needed = [name for name, is_needed in parameters if is_needed]
    optional = [name for name, is_needed in parameters if not is_needed and name in OPTIONS]
    spaces = []
    for name in needed:
        if name in LISTS:
            spaces.append([[a, a] for a in ARRAYS.values()] + [[ARRAYS["list"], ARRAYS["matrix"]], []])
        elif name in OPTIONS and name != "x" and len(spaces) > 0:
            spaces.append(OPTIONS[name])
        else:
            spaces.append(list(ARRAYS.values()))
    if not spaces:  # only *args
        spaces = [list(ARRAYS.values())]
    for given in itertools.product(*spaces[:3]):
        yield list(given), {}
    for first in spaces[0]:
        rest = [
            [space[1 % len(space)], space[0], space[2 % len(space)]]
            if not (space and isinstance(space[0], np.ndarray))
            else [first, ARRAYS["list"]]
            for space in spaces[1:]
        ]
        for others in itertools.islice(itertools.product(*rest), 3):
            for name in optional:
                for value in OPTIONS[name]:
                    yield [first, *others], {name: value}
        for one, two in itertools.combinations(optional[:4], 2):
            for a, b in itertools.islice(itertools.product(OPTIONS[one][1:3], OPTIONS[two][1:3]), 4):
                yield [first, *(other[0] for other in rest)], {one: a, two: b}


def tensors(a: Any) -> Any:
    if isinstance(a, list) and a and isinstance(a[0], np.ndarray):
        return [tensors(part) for part in a]
    return tg.Tensor(a, requires_grad=a.dtype.kind == "f") if isinstance(a, np.ndarray) else a


def outcome(fun: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return flat(fun(*args, **kwargs))
    except Exception as error:
        return error


def flat(a: Any) -> list[Any]:
    if isinstance(a, (tuple, list)):
        return [leaf for part in a for leaf in flat(part)]
    return [a.data if isinstance(a, tg.Tensor) else np.asarray(a)]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Exception) or isinstance(b, Exception):
        return isinstance(a, Exception) and isinstance(b, Exception)
    return len(a) == len(b) and all(
        x.shape == y.shape and (x.dtype.kind not in "fiub" or np.allclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True))
        for x, y in zip(a, b, strict=True)
    )


def functions() -> list[Any]:
    return [
        fun
        for fun, rule in RULES.items()
        if not rule.metadata
        and (isinstance(fun, np.ufunc) or (getattr(fun, "__module__", "") or "").startswith("numpy"))
    ]


NUMPY = np.lib.NumpyVersion(np.__version__)
# How many of the calls differ, and why. Calls that NumPy has deprecated count as refused.
EXCEPTIONS = {
    np.partition: (11, "in which order the others come is nobody's promise"),
    np.quantile: (0 if NUMPY >= "2.5.0" else 3, "of no axes and no elements, where NumPy fails to reshape"),
    np.percentile: (0 if NUMPY >= "2.5.0" else 3, "of no axes and no elements, where NumPy fails to reshape"),
    np.median: (0 if NUMPY >= "2.5.0" else 1, "of no axes and no elements, where NumPy fails to reshape"),
    np.insert: (18 if NUMPY >= "2.2.0" else 19, "a list of booleans, on which NumPy fails"),
    np.take: (9, "a place that is no integer"),
    np.nan_to_num: (11, "copy=False would write into the Tensor"),
    np.linalg.svd: (5, "columns that fill up a basis in any way have no derivative"),
    np.linalg.cond: (3 if NUMPY >= "2.5.0" else 0, "of NaN, whose singular values do not converge"),
    np.reshape: (8 if NUMPY >= "2.4.0" else 0, "copy=False is a promise about memory"),
    np.linalg.tensorsolve: (2, "an axis named twice"),
    np.linalg.tensorinv: (1, "of a number"),
    np.geomspace: (11, "from NaN, the end is still what was asked for"),
    np.cov: (2, "an integer dtype= of nothing"),
    np.corrcoef: (1, "an integer dtype= of nothing"),
    np.piecewise: (1, "conditions without elements"),
    np.average: (1, "of nothing, by weights of 0"),
    np.histogram: (1, "a place one rounding away from an edge, in single precision"),
}
WITHOUT_SIGNATURE = [fun for fun in functions() if not has_signature(fun)]


@pytest.mark.parametrize(
    "fun", [f for f in functions() if has_signature(f) and f is not np.empty_like], ids=lambda f: f.__name__
)
def test_array_against_tensor(fun: Any) -> None:
    different = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", DeprecationWarning)
        for args, kwargs in calls(fun):
            given = copy.deepcopy(args)  # some options let NumPy write into its arguments
            expected, ours = outcome(fun, given, kwargs), outcome(fun, [tensors(a) for a in args], kwargs)
            if not same(expected, ours):
                different.append((args, kwargs, expected, ours))
    expected, _ = EXCEPTIONS.get(fun, (0, ""))
    assert len(different) == expected, different[:3]


@pytest.mark.parametrize(
    "fun",
    [f for f in functions() if not isinstance(f, np.ufunc) and has_signature(f) and f is not np.empty_like],
    ids=lambda f: f.__name__,
)
def test_an_option_by_position_is_the_option_by_name(fun: Any) -> None:
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except ValueError:
        pytest.skip("it tells nothing of its parameters")
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    defaults = {p.name: p.default for p in parameters}
    single = ((args, kwargs) for args, kwargs in calls(fun) if len(kwargs) == 1 and next(iter(kwargs)) in places)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for args, kwargs in itertools.islice(single, 100):
            ((name, value),) = kwargs.items()
            between = [defaults[other] for other in places[len(args) : places.index(name)]]
            if any(default is np._NoValue for default in between):
                continue
            given = [tensors(a) for a in args]
            by_name, by_place = outcome(fun, given, kwargs), outcome(fun, [*given, *between, value], {})
            assert same(by_name, by_place), (args, kwargs, by_name, by_place)


def test_few_functions_tell_nothing_of_their_parameters() -> None:
    assert len(WITHOUT_SIGNATURE) <= (3 if NUMPY >= "2.4.0" else 5)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.take_along_axis(x, np.zeros((3, 2), int), 1),
        lambda x: np.take_along_axis(x[:1], np.zeros((5, 2), int), 1),
        lambda x: np.take_along_axis(x, np.zeros((5, 2)), 1),
        lambda x: np.take_along_axis(x, np.zeros(5, int), 1),
        lambda x: np.trapezoid(x[0], x=np.arange(8.0).reshape(2, 4)),
        lambda x: np.pad(x, 1, mode="maximum", stat_length=-1),
        lambda x: np.convolve(x[0], x[1], mode="foo"),
        lambda x: np.concatenate([x, x[0]]),
        lambda x: np.insert(x, -9, [1, 2]),
    ],
)
def test_calls_that_were_once_different(call: Any) -> None:
    expected, ours = outcome(call, [MATRIX], {}), outcome(call, [tensors(MATRIX)], {})
    assert same(expected, ours), (expected, ours)
    assert "join" not in str(ours)
