"""The rows of `tinygrad_mm.rules.indexing`. The form of a row is described in `table/row.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import strategies as my
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from table.row import Row
from tinygrad_mm.rules.indexing import (
    checked,
    getitem,
    index_add,
    index_max,
    index_min,
    index_multiply,
    index_set,
    scatter,
)

BASIC = {"key": my.basic_index}
INTEGERS = {"key": my.integer_arrays}
MASK = {"key": my.mask}
REPEATED = np.array([2, 0, 2, -1])
UNIQUE = np.array([2, 0])


def taken(x, key):
    return x[key]


def written(how: Callable[[np.ndarray, object, np.ndarray], None]) -> Callable[..., np.ndarray]:
    """An oracle for x.at[key]: the same in place on a copy."""

    def oracle(x: np.ndarray, v: np.ndarray, key: object) -> np.ndarray:
        out = np.array(x)
        how(out, key, v)
        return out

    return oracle


def assign(out: np.ndarray, key: object, v: np.ndarray) -> None:
    out[key] = v


def update(method: str) -> Callable[..., object]:
    """x.at[key].set(v) on Tensors; on arrays, where there is no `at`, NumPy's own way in place."""
    in_place = {
        "set": assign,
        "add": np.add.at,
        "multiply": np.multiply.at,
        "max": np.maximum.at,
        "min": np.minimum.at,
    }[method]
    operation = {"set": index_set, "add": index_add, "multiply": index_multiply, "max": index_max, "min": index_min}[
        method
    ]

    def call(x, v, key):
        if hasattr(x, "at"):
            return getattr(x.at[key], method)(v)
        if hasattr(v, "requires_grad"):
            return operation(x, v, key)
        return written(in_place)(x, v, key)

    return call


def sum_at(g: np.ndarray, shape: my.Shape, key: object) -> np.ndarray:
    out = np.zeros(shape, g.dtype)
    for place, v in zip(np.arange(out.size).reshape(shape)[key].ravel(), g.ravel(), strict=True):
        out.flat[place] += v
    return out


def along(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy[np.ndarray]:
    """Indices for `take_along_axis` along the last axis."""
    return my.mask(shape).map(lambda m: np.where(m, shape[-1] - 1, 0)) if shape else st.just(np.zeros((), int))


# fmt: off
ROWS = [
    # x[key]
    Row(getitem,            options=BASIC, call=taken, note="slices, integers, newaxis, ellipsis"),
    Row(getitem,            options=INTEGERS, call=taken, note="integer arrays"),
    Row(getitem,            options=MASK, call=taken, note="mask"),
    Row(getitem,            "3 n", call=lambda x: x[[0, 2, 0]], note="list with repeats", zero_d=IndexError),
    Row(getitem,            "3 4", call=lambda x: x[::-2, [1, 1]], note="negative step and list", zero_d=IndexError),
    Row(getitem,            "3 n", call=lambda x: x[np.array([[0, -1], [1, 0]])], note="matrix of places", zero_d=IndexError),
    Row(getitem,            "3 n 4", call=lambda x: x[REPEATED[:, None], ..., [0, 3]], note="arrays around an ellipsis", zero_d=IndexError),
    Row(getitem,            "3 n", call=lambda x: x[np.array([True, False, True]), None, 0], note="mask, newaxis and integer", zero_d=IndexError, empty=IndexError),
    Row(getitem,            "3 n", call=lambda x: x[x[:, 0] >= x[1, 0]], note="Tensor as mask", zero_d=IndexError, empty=IndexError),
    Row(getitem,            "3 n", call=lambda x: x[np.argsort(x[:, 0])], note="Tensor as places", zero_d=IndexError, empty=IndexError),
    Row(getitem,            "3 n", call=lambda x: x[np.argsort(x[:, 0]), ::-1], note="Tensor and slice", zero_d=IndexError, empty=IndexError),
    Row(getitem,            "3 n", call=lambda x: x[np.argmax(x[:, 0]), -1], note="0-d Tensor and integer", zero_d=IndexError, empty=IndexError),
    Row(getitem,            "3 n", call=lambda x: list(x), note="iteration", zero_d=TypeError),
    Row(scatter,            "4 n", options={"key": st.sampled_from([REPEATED, [0, 1, 0, 1]])}, call=lambda g, key: scatter(g, (3, g.shape[1]), key), oracle=lambda g, key: sum_at(g, (3, g.shape[1]), key), zero_d=IndexError),
    Row(scatter,            "2 n", call=lambda g: scatter(g, (5, 1, g.shape[1]), (slice(4, 0, -2), 0)), oracle=lambda g: sum_at(g, (5, 1, g.shape[1]), (slice(4, 0, -2), 0)), note="slice", zero_d=IndexError),

    # x.at[key]
    Row(index_set,          "...", "", options=BASIC, call=update("set")),
    Row(index_set,          "3 n", "n", options={"key": st.sampled_from([0, slice(1, None), UNIQUE])}, call=update("set"), zero_d=IndexError),
    Row(index_set,          "3 n", "4 1", options={"key": REPEATED}, call=update("set"), note="repeated places", zero_d=IndexError),
    Row(index_set,          "3 n", call=lambda x: update("set")(x, -1.0, np.array([True, False, True])), note="mask and number", zero_d=IndexError),
    Row(index_add,          "...", "", options=BASIC, call=update("add")),
    Row(index_add,          "3 n", "n", options={"key": st.sampled_from([0, slice(1, None), UNIQUE])}, call=update("add"), zero_d=IndexError),
    Row(index_add,          "3 n", "4 1", options={"key": REPEATED}, call=update("add"), note="repeated places", zero_d=IndexError),
    Row(index_multiply,     "...", "", options=BASIC, call=update("multiply")),
    Row(index_multiply,     "3 n", "n", options={"key": st.sampled_from([0, slice(1, None), UNIQUE])}, call=update("multiply"), zero_d=IndexError),
    Row(index_multiply,     "3 n", "4 1", options={"key": REPEATED}, call=update("multiply"), note="repeated places", zero_d=IndexError),

    Row(index_set,          "3 n", "n", call=lambda x, v: update("set")(x, v, (np.argsort(x[:, 0])[:2], slice(None, None, -1))), note="Tensor as places", zero_d=IndexError, empty=IndexError),
    Row(index_add,          "3 n", "n", call=lambda x, v: update("add")(x, v, np.array([True, False, True])), note="mask", zero_d=IndexError),
    Row(index_add,          "3 n", call=lambda x: update("add")(x, x[0] * x[1], np.argmax(x[:, 0])), note="Tensor as place, of itself", zero_d=IndexError, empty=IndexError),
    Row(index_multiply,     "3 4", "4", call=lambda x, v: update("multiply")(x, v, (REPEATED, [0, 1, 0, 1])), note="two repeated lists", zero_d=IndexError),
    Row(index_multiply,     "3 n", "4 n", call=lambda x, v: update("multiply")(x, v, np.argsort(x[:, 0])[[0, 1, 0, 2]]), note="repeated Tensor places", zero_d=IndexError, empty=IndexError),
    Row(index_max,          "...", "", options=BASIC, call=update("max")),
    Row(index_max,          "3 n", "4 1", options={"key": REPEATED}, call=update("max"), note="repeated places", zero_d=IndexError),
    Row(index_min,          "3 n", "n", options={"key": st.sampled_from([0, slice(1, None), UNIQUE])}, call=update("min"), zero_d=IndexError),
    Row(index_min,          "3 4", "4", call=lambda x, v: update("min")(x, v, (REPEATED, [0, 1, 0, 1])), note="two repeated lists", zero_d=IndexError),
    Row(checked,            "...", call=lambda x: checked(x, lambda values: values.size)),

    # functions that pick
    Row(np.take,            "n ...", options={"indices": my.places, "axis": 0}),
    Row(np.take,            "n m", options={"indices": my.places}, note="flattened", empty=IndexError),
    Row(np.take,            "n 3", options={"indices": REPEATED, "axis": 1}, call=lambda x, **options: x.take(**options), note="method", zero_d=AxisError),
    Row(np.take,            "n 3", options={"indices": 1, "axis": -1}, note="integer", zero_d=IndexError),
    Row(np.take,            "n 3", options={"indices": REPEATED * 5, "axis": -1, "mode": st.sampled_from(["wrap", "clip"])}),
    Row(np.take_along_axis, "... n", options={"indices": along, "axis": -1}, zero_d=AxisError),
    Row(np.take_along_axis, "3 n", call=lambda x: np.take_along_axis(x, np.argsort(x, axis=0), axis=0), note="Tensor as places", zero_d=AxisError),
    Row(np.take_along_axis, "n 2", call=lambda x: np.take_along_axis(x, np.array([1, 0]), axis=None), note="flattened", zero_d=IndexError, empty=IndexError),
    Row(np.sort, zero_d=AxisError),
    Row(np.sort,            options={"axis": my.one_axis}, zero_d=AxisError),
    Row(np.sort,            "n m", options={"axis": None, "kind": "stable"}),
    Row(np.partition,       "3 n", options={"kth": (0, 1, 2), "axis": 0}, zero_d=AxisError, note="of all places: sorted"),
    Row(np.partition,       "n 3", call=lambda x: np.partition(x, 1)[:, 1], zero_d=AxisError, note="the middle of three"),
    Row(np.partition,       "n 3", call=lambda x: np.partition(x, 2, axis=None)[2], zero_d=ValueError, empty=IndexError, note="flattened"),
    Row(np.compress,        "3 n", call=lambda x: np.compress([True, False, True], x, axis=0), zero_d=IndexError),
    Row(np.compress,        "n 3", call=lambda x: x.compress([False, True], axis=1), note="method, short condition", zero_d=AxisError),
    Row(np.compress,        "n 3", call=lambda x: np.compress([True, False, True], x), note="flattened", zero_d=IndexError, empty=IndexError),
    Row(np.extract,         options={"condition": my.mask}, call=lambda x, condition: np.extract(condition, x)),
    Row(np.extract,         "n m", call=lambda x: np.extract(x > 0, x), note="Tensor as condition"),
]
# fmt: on
