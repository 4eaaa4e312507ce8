"""The rows of `tinygrad_mm.rules.shape`. The form of a row is described in `table/row.py`."""

from __future__ import annotations

import numpy as np
import strategies as my
from hypothesis import strategies as st
from numpy.exceptions import AxisError

from table.row import Row
from tinygrad_mm.rules.shape import astype, join, on_diagonal

AXIS = {"axis": my.one_axis}
AXES = {"axis": my.any_axes}


def widths(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy:
    return st.sampled_from([1, 2, (1, 0), *([((0, 2), (1, 1)), ((1, 2),)] if shape else [])])


def pads(mode: str, **options) -> dict:
    return {"pad_width": widths, "mode": mode, **options}


def padded_by_axis(x):
    return np.pad(x, {0: 1, -1: (0, 2)})


def diagonal_by_loop(d: np.ndarray, shape: my.Shape, offset: int = 0) -> np.ndarray:
    """Zeros with d written on a diagonal of the first two axes, element by element."""
    out = np.zeros(shape, d.dtype)
    for i in range(d.shape[-1]):
        out[i + max(-offset, 0), i + max(offset, 0)] = d[..., i]
    return out


def new_axes(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy:
    one = st.integers(-len(shape) - 1, len(shape))
    return one | one.map(lambda a: (a,)) | st.just((0, -1))


def axis_or_none(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy:
    return st.none() | my.one_axis(shape) if shape else st.none()


def shifts(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy:
    return st.fixed_dictionaries({"shift": st.integers(-4, 4), "axis": axis_or_none(shape)})


# fmt: off
ROWS = [
    Row(astype,             call=lambda x: astype(x, np.float64), oracle=lambda x: np.array(x, np.float64), promotes=True),
    Row(astype,             call=lambda x: x.astype(x.dtype), note="method"),

    # one array
    Row(np.reshape,         "n m", call=lambda x: np.reshape(x, (-1,))),
    Row(np.reshape,         "n m ...", call=lambda x: x.reshape(x.shape[1], -1, x.shape[0]), note="method", zero_d=IndexError, empty=ValueError),
    Row(np.reshape,         "n m", call=lambda x: np.reshape(x, (x.shape[1], x.shape[0]), order="F"), note="Fortran order", zero_d=IndexError),
    Row(np.reshape,         call=lambda x: x.reshape((1, *x.shape, 1)), note="ones added"),
    Row(np.ravel),
    Row(np.ravel,           options={"order": st.sampled_from("CF")}),
    Row(np.ravel,           call=lambda x: x.flatten(), note="flatten"),
    Row(np.transpose),
    Row(np.transpose,       options={"axes": my.permutation}),
    Row(np.transpose,       "n m k", call=lambda x: x.transpose(-1, 0, 1), note="method", zero_d=ValueError),
    Row(np.transpose,       call=lambda x: x.T, note="attribute"),
    Row(np.swapaxes,        options={"axis1": my.one_axis, "axis2": my.one_axis}, zero_d=AxisError),
    Row(np.swapaxes,        "... n m", call=lambda x: x.mT, note="attribute", zero_d=ValueError),
    Row(np.moveaxis,        options={"source": my.one_axis, "destination": my.one_axis}, zero_d=AxisError),
    Row(np.moveaxis,        "n m k", options={"source": (0, 1), "destination": (-1, 0)}, zero_d=AxisError),
    Row(np.rollaxis,        options=AXIS, zero_d=AxisError),
    Row(np.rollaxis,        "n m k", options={"axis": st.integers(-3, 2), "start": st.integers(-3, 3)}, zero_d=AxisError),
    Row(np.expand_dims,     options={"axis": new_axes}),
    Row(np.squeeze),
    Row(np.squeeze,         "1 n 1", options={"axis": lambda shape: st.sampled_from([0, 2, -1, (0, 2), (-3,)] if shape else [2])}, zero_d=AxisError),
    Row(np.squeeze,         "n 1", call=lambda x: x.squeeze(axis=1), note="method", zero_d=AxisError),
    Row(np.broadcast_to,    options={"shape": my.broadcast_shape}),
    Row(np.flip,            options=AXES),
    Row(np.flipud, zero_d=ValueError),
    Row(np.fliplr,          "n m ...", zero_d=ValueError),
    Row(np.rot90,           "n m ...", options={"k": st.integers(-5, 5)}, zero_d=ValueError),
    Row(np.rot90,           "n m k", options={"k": st.integers(-5, 5), "axes": (2, 0)}, zero_d=ValueError),
    Row(np.roll,            options={"how": shifts}, call=lambda x, how: np.roll(x, **how)),
    Row(np.roll,            "n m", options={"shift": (1, -2), "axis": (0, -1)}, zero_d=AxisError),
    Row(np.roll,            "n m", options={"shift": 1, "axis": (0, 1)}, zero_d=AxisError),
    Row(np.tril,            "... n m", options={"k": st.integers(-2, 2)}, zero_d=TypeError),
    Row(np.triu,            "... n m", options={"k": st.integers(-2, 2)}, zero_d=TypeError),
    Row(np.diagonal,        "n m ...", options={"offset": st.integers(-2, 2)}, zero_d=ValueError),
    Row(np.diagonal,        "n m k", options={"offset": st.integers(-1, 1), "axis1": -1, "axis2": 0}, zero_d=ValueError),
    Row(np.diagonal,        "n m", call=lambda x: x.diagonal(), note="method", zero_d=ValueError),
    Row(on_diagonal,        "2", options={"shape": (3, 4), "offset": st.sampled_from([-1, 2])}, oracle=diagonal_by_loop, zero_d=IndexError),
    Row(on_diagonal,        "n 2", options={"offset": st.sampled_from([-1, 2])}, call=lambda d, offset: on_diagonal(d, (3, 4, d.shape[0]), offset), oracle=lambda d, offset: diagonal_by_loop(d, (3, 4, d.shape[0]), offset), zero_d=IndexError),
    Row(np.diag,            "n", options={"k": st.integers(-2, 2)}, zero_d=ValueError),
    Row(np.diag,            "n m", options={"k": st.integers(-2, 2)}, zero_d=ValueError),
    Row(np.diagflat,        options={"k": st.integers(-2, 2)}),
    Row(np.trace,           "n m ...", options={"offset": st.integers(-1, 1)}, zero_d=ValueError),
    Row(np.trace,           "n m k", options={"axis1": 2, "axis2": -3}, zero_d=ValueError),
    Row(np.trace,           "n m", call=lambda x: x.trace(), note="method", zero_d=ValueError),
    Row(np.repeat,          options={"repeats": st.integers(0, 3), "axis": axis_or_none}),
    Row(np.repeat,          "3 n", options={"repeats": (2, 0, 1), "axis": 0}, zero_d=ValueError),
    Row(np.repeat,          "n ...", call=lambda x: x.repeat(2, axis=0), note="method"),
    Row(np.tile,            options={"reps": st.sampled_from([0, 1, 2, (2,), (2, 1), (1, 2, 2)])}),
    Row(np.atleast_1d),
    Row(np.atleast_2d),
    Row(np.atleast_3d),
    Row(np.atleast_2d,      "n", "m k", note="two arrays"),
    Row(np.permute_dims,    options={"axes": my.permutation}),

    # several arrays
    Row(join,               "n m", "k m", oracle=lambda *arrays: np.concatenate(arrays), zero_d=ValueError),
    Row(join,               "n m", "n k", "n m", call=lambda *arrays: join(*arrays, axis=-1), oracle=lambda *arrays: np.concatenate(arrays, axis=-1), zero_d=ValueError),
    Row(np.concatenate,     "n ...", call=lambda a: np.concatenate([a, a, a * a]), zero_d=ValueError),
    Row(np.concatenate,     "n m", "k m", call=lambda a, b: np.concatenate([a, b]), zero_d=ValueError),
    Row(np.concatenate,     "n m", "n k", call=lambda a, b: np.concatenate((a, b, a), axis=-1), zero_d=ValueError),
    Row(np.concatenate,     "...", "...", call=lambda a, b: np.concatenate([a, b], axis=None), note="flattened"),
    Row(np.concatenate,     "n m", "k m", call=lambda a, b: np.concatenate([a, b], dtype=np.float64), promotes=True, note="dtype", zero_d=ValueError),
    Row(np.stack,           "s...", "s...", call=lambda a, b: np.stack([a, b])),
    Row(np.stack,           "s...", "s...", options={"axis": new_axes}, call=lambda a, b, axis: np.stack([a, b], axis=axis if isinstance(axis, int) else axis[0])),
    Row(np.vstack,          "n m", "k m", call=lambda a, b: np.vstack([a, b])),
    Row(np.vstack,          "m", "k m", call=lambda a, b: np.vstack([a, b]), note="row and rows"),
    Row(np.hstack,          "n m", "n k", call=lambda a, b: np.hstack([a, b])),
    Row(np.hstack,          "n", "m", call=lambda a, b: np.hstack([a, b, np.ones(1, a.dtype)]), note="lists"),
    Row(np.dstack,          "n m", "n m k", call=lambda a, b: np.dstack([a, b])),
    Row(np.dstack,          "n", "n", call=lambda a, b: np.dstack([a, b]), note="lists"),
    Row(np.column_stack,    "n", "n m", call=lambda a, b: np.column_stack([a, b])),
    Row(np.block,           "n m", "n k", call=lambda a, b: np.block([[a, b], [b, a]])),
    Row(np.block,           "n", "m", call=lambda a, b: np.block([a, b, np.ones(1, a.dtype)])),
    Row(np.append,          "...", "...", call=lambda a, b: np.append(a, b)),
    Row(np.append,          "n m", "k m", call=lambda a, b: np.append(a, b, axis=0), zero_d=ValueError),
    Row(np.insert,          "4", "", call=lambda a, b: np.insert(a, 2, b), note="number", zero_d=IndexError),
    Row(np.insert,          "4", "2", call=lambda a, b: np.insert(a, [1, 3], b), note="several places", zero_d=IndexError),
    Row(np.insert,          "4", "n", call=lambda a, b: np.insert(a, 1, b), note="several at one place"),
    Row(np.insert,          "3 n", "n", call=lambda a, b: np.insert(a, -1, b, axis=0), note="row", zero_d=AxisError),
    Row(np.insert,          "3 n", "2 n", call=lambda a, b: np.insert(a, [0, 3], b, axis=0), note="rows", zero_d=AxisError),
    Row(np.insert,          "n 4", "n", call=lambda a, b: np.insert(a, 2, b, axis=1), note="column", zero_d=AxisError),
    Row(np.insert,          "4", "2", call=lambda a, b: np.insert(a, slice(0, 4, 2), b), note="slice"),
    Row(np.insert,          "n m", "", call=lambda a, b: np.insert(a, 0, b), note="flattened"),
    Row(np.delete,          "4 ...", options={"obj": st.sampled_from([0, -1, [0, 2], slice(None, None, 2), np.array([True, False, False, True])]), "axis": 0}, zero_d=AxisError),
    Row(np.delete,          "3 n", call=lambda a: np.delete(a, [0, 2]), note="flattened", zero_d=IndexError, empty=IndexError),
    Row(np.split,           "4 ...", call=lambda a: np.split(a, 2), zero_d=IndexError),
    Row(np.split,           "n 4", options={"parts": st.sampled_from([2, [1, 3], [2], [3, 9], [-1], [-5, 2], [3, 1]])}, call=lambda a, parts: np.split(a, parts, axis=1), zero_d=IndexError),
    Row(np.array_split,     "4 ...", options={"parts": st.sampled_from([2, 3, [1, 3]])}, call=lambda a, parts: np.array_split(a, parts), zero_d=IndexError),
    Row(np.hsplit,          "n 4", call=lambda a: np.hsplit(a, 2), zero_d=ValueError),
    Row(np.hsplit,          "4", call=lambda a: np.hsplit(a, [1]), zero_d=ValueError),
    Row(np.vsplit,          "4 n", call=lambda a: np.vsplit(a, 2), zero_d=ValueError),
    Row(np.dsplit,          "n m 2", call=lambda a: np.dsplit(a, 2), zero_d=ValueError),
    Row(np.insert,          "4", "n", call=lambda a, b: np.insert(a, [-1] * b.shape[0], b), zero_d=IndexError, note="negative places"),
    Row(np.insert,          "3 n", "", call=lambda a, b: np.insert(a, [1, 2], b, axis=0), note="number in rows", zero_d=AxisError),
    Row(np.roll,            "n m", options={"shift": (1, 2), "axis": 0}, note="two shifts of one axis", zero_d=AxisError),
    Row(np.repeat,          "n 2", call=lambda x: np.repeat(x, np.array([2, 3]), axis=-1), note="each column", zero_d=ValueError),
    Row(np.concatenate,     "n m", call=lambda a: np.concatenate(a), note="of the rows of an array", zero_d=TypeError, empty=ValueError),
    Row(np.stack,           "n m", call=lambda a: np.stack(list(a), axis=1), note="of the rows of an array", zero_d=TypeError, empty=ValueError),
    Row(np.block,           "n m", "n k", "l m", "l k", call=lambda a, b, c, d: np.block([[a, b], [c, d]]), note="four blocks"),
    Row(np.meshgrid,        "n", "m"),
    Row(np.meshgrid,        "n", "m", "k", options={"indexing": st.sampled_from(["xy", "ij"]), "sparse": st.booleans()}),
    Row(np.broadcast_arrays, "...", "..."),
    Row(np.kron,            "n m", "k l"),
    Row(np.kron,            "...", "n m"),

    Row(np.linspace,        "...", "...", options={"num": st.integers(1, 4), "endpoint": st.booleans()}, ulps=64, domain=(1, 3)),
    Row(np.linspace,        "s...", "s...", call=lambda a, b: np.linspace(a, b, 3, axis=-1, retstep=True), ulps=64, domain=[(1, 2), (2, 3)]),

    # padding
    Row(np.pad,             "n m", options=pads("constant")),
    Row(np.pad,             "n m", options=pads("constant", constant_values=st.sampled_from([1.5, (1.0, 2.0)]))),
    Row(np.pad,             "2 3", options={"pad_width": ((0, 1), (2, 1)), "mode": "constant", "constant_values": ((1, 2), (3, 4))}, zero_d=ValueError),
    Row(np.pad,             "n m", call=lambda x: np.pad(x, 1, mode="empty")[1:-1, 1:-1], note="empty", zero_d=IndexError),
    Row(np.pad,             "n m", options=pads("edge"), empty=ValueError),
    Row(np.pad,             "n m", options=pads("linear_ramp", end_values=st.sampled_from([0, 1.5, (1.0, 2.0)])), ulps=64, domain=(3, 4), empty=ValueError),
    Row(np.pad,             "n m", options=pads("maximum", stat_length=st.sampled_from([None, 1, 2, (1, 2)])), empty=ValueError),
    Row(np.pad,             "n m", options=pads("minimum", stat_length=st.sampled_from([None, 1, 2, (1, 2)])), empty=ValueError),
    Row(np.pad,             "n m", options=pads("mean", stat_length=st.sampled_from([None, 1, 2, (1, 2)])), ulps=8, domain=(0.2, 2), empty=ValueError),
    Row(np.pad,             "3 3", options=pads("median", stat_length=st.sampled_from([None, 1, 3, (1, 3)])), ulps=8, domain=(0.2, 2)),
    Row(np.pad,             "n m", options=pads("reflect", reflect_type="even"), empty=ValueError),
    Row(np.pad,             "n m", options=pads("reflect", reflect_type="odd"), ulps=64, domain=(5, 6), empty=ValueError),
    Row(np.pad,             "n m", options=pads("symmetric"), empty=ValueError),
    Row(np.pad,             "n m", options=pads("symmetric", reflect_type="odd"), ulps=64, domain=(5, 6), empty=ValueError),
    Row(np.pad,             "n m", options=pads("wrap"), empty=ValueError),

    Row(np.lib.stride_tricks.sliding_window_view, "3 ...", call=lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, axis=0), zero_d=AxisError),
    Row(np.lib.stride_tricks.sliding_window_view, "3 4", call=lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 3)), zero_d=ValueError),
]
# fmt: on
if np.lib.NumpyVersion(np.__version__) >= "2.2.0":  # knows widths in a dictionary
    ROWS.append(Row(np.pad, "n m ...", call=padded_by_axis, zero_d=IndexError, note="widths by axis"))
if hasattr(np, "unstack"):  # NumPy 2.1
    ROWS += [
        Row(np.unstack, "n ...", zero_d=ValueError),
        Row(np.unstack, "n m", options={"axis": -1}, zero_d=ValueError),
        Row(np.astype, call=lambda x: np.astype(x, np.float64), promotes=True),
    ]
