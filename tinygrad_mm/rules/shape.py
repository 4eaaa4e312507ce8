"""Functions that rearrange elements without computing with them: shapes, axes, joining and splitting."""

from __future__ import annotations

import itertools
import math
import operator

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tinygrad_mm.graph import RULES, defcomposite, defvjp, defvjp_each, primitive
from tinygrad_mm.rules.axes import along, at_least_one, axis_or_flat, inverse, one_axis
from tinygrad_mm.rules.operands import as_arrays


@primitive
def astype(x, dtype):
    """The array in another dtype."""
    return x.astype(dtype)


@primitive
def join(*arrays, axis=0):
    """Arrays one after the other along an axis: `np.concatenate` with the arrays as arguments."""
    return np.concatenate(arrays, axis=axis)


def _part(i, g, arrays, axis):
    """The part of a gradient that belongs to the i-th of the joined arrays."""
    axis = one_axis(g, axis)
    start = sum(a.shape[axis] for a in arrays[:i])
    return along(g, axis, slice(start, start + arrays[i].shape[axis]))


def _reorder(g, x, order):
    """A gradient in the shape of x, its elements read in C or Fortran order."""
    return g.reshape(x.shape) if order == "C" else np.reshape(g, x.shape, order=order)


# fmt: off
defvjp(astype,             lambda g, y, x, dtype: g,                                                        signature="(...) -> (...)")
defvjp(np.reshape,         lambda g, y, a, shape, order="C": _reorder(g, a, order),                         signature="(...) -> shape")
defvjp(np.ravel,           lambda g, y, a, order="C": _reorder(g, a, order),                                signature="(...) -> (n,)")
defvjp(np.transpose,       lambda g, y, a, axes=None: np.transpose(g, inverse(axes, g.ndim)),              signature="(..., i, ..., j, ...) -> axes permuted")
defvjp(np.swapaxes,        lambda g, y, a, axis1, axis2: np.swapaxes(g, axis1, axis2),                      signature="(..., i, ..., j, ...) -> (..., j, ..., i, ...)")
defvjp(np.moveaxis,        lambda g, y, a, source, destination: np.moveaxis(g, destination, source),           signature="(..., i, ..., j, ...) -> axes permuted")
defvjp(np.expand_dims,     lambda g, y, a, axis: g.reshape(a.shape),                                        signature="(...) -> (..., 1, ...)")
defvjp(np.squeeze,         lambda g, y, a, axis=None: g.reshape(a.shape),                                   signature="(..., 1, ...) -> (...)")
defvjp(np.broadcast_to,    lambda g, y, array, shape: g,                                                    signature="(...) -> shape")
defvjp(np.flip,            lambda g, y, m, axis=None: np.flip(g, axis),                                     signature="(...) -> (...)")
defvjp(np.rot90,           lambda g, y, m, k=1, axes=(0, 1): np.rot90(g, -k, axes),                         signature="(n, m, ...) -> (m, n, ...)")
defvjp(np.roll,            lambda g, y, a, shift, axis=None: np.roll(g, _negated(shift), axis),             signature="(...) -> (...)")
defvjp(np.tril,            lambda g, y, m, k=0: np.tril(g, k),                                              signature="(..., n, m) -> (..., n, m)")
defvjp(np.triu,            lambda g, y, m, k=0: np.triu(g, k),                                              signature="(..., n, m) -> (..., n, m)")
defvjp(np.diagonal,        lambda g, y, a, offset=0, axis1=0, axis2=1: on_diagonal(g, a.shape, offset, axis1, axis2), signature="(..., n, m, ...) -> (..., ..., k)")
defvjp_each(join,          lambda i, g, y, *arrays, axis=0: _part(i, g, arrays, axis),                      signature="(..., n, ...), (..., m, ...), ... -> (..., n + m + ..., ...)")
# fmt: on


def _reshape(x, shape, order="C"):  # a method call, since the argument of np.reshape is named newshape in NumPy 2.0
    return x.reshape(shape, order=_fixed(order))


def _ravel(x, order="C"):
    return x.ravel(order=_fixed(order))


def _fixed(order):
    """The order, checked: "A" and "K" depend on how an array happens to lie in memory."""
    if order not in ("C", "F"):
        raise ValueError(f"order={order!r} depends on the memory layout, which the graph does not know; use 'C' or 'F'")
    return order


RULES[np.reshape].forward = _reshape
RULES[np.ravel].forward = _ravel


def _negated(shift):
    return tuple(-s for s in shift) if isinstance(shift, (tuple, list)) else -shift


@primitive
def on_diagonal(d, shape, offset=0, axis1=0, axis2=1):
    """Zeros of a shape with d on a diagonal: what `np.diagonal` would read back."""
    out = np.zeros(shape, d.dtype)
    moved = np.moveaxis(out, (axis1, axis2), (-2, -1))
    i = np.arange(d.shape[-1])
    moved[..., i + max(-offset, 0), i + max(offset, 0)] = d
    return out


defvjp(
    on_diagonal,
    lambda g, y, d, shape, offset=0, axis1=0, axis2=1: np.diagonal(g, offset, axis1, axis2),
    signature="(..., k) -> (..., n, m, ...)",
)


# ---------------------------------------------------------------------------------------------------------------------
# Derived functions
# ---------------------------------------------------------------------------------------------------------------------


def _concatenate(arrays, axis=0, out=None, *, dtype=None, casting="same_kind"):
    arrays = as_arrays([*arrays])
    if axis is None:
        arrays, axis = [a.reshape(-1) for a in arrays], 0
    if dtype is not None:
        if not all(np.can_cast(a.dtype, dtype, casting) for a in arrays):
            raise TypeError(f"concatenate: {arrays[0].dtype} does not become {dtype} with casting={casting!r}")
        arrays = [a.astype(dtype) for a in arrays]
    shapes = [a.shape for a in arrays]
    if () in shapes:
        raise ValueError("concatenate: arrays without axes cannot be joined; np.stack makes an axis of them")
    if shapes:
        place = one_axis(arrays[0], axis)
        if len({(len(shape), *shape[:place], *shape[place + 1 :]) for shape in shapes}) > 1:
            raise ValueError(f"concatenate: arrays of shapes {shapes} may differ along axis {axis} only")
    return join(*arrays, axis=axis)


def _stack(arrays, axis=0, out=None, *, dtype=None, casting="same_kind"):
    arrays = as_arrays([*arrays])
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"stack: all arrays must have the same shape; these are {[a.shape for a in arrays]}")
    return _concatenate([np.expand_dims(a, axis) for a in arrays], axis, dtype=dtype, casting=casting)


def _joined(at_least, axis):
    """`np.vstack` and its relatives: the arrays with at least so many axes, joined along `axis`."""

    def stack(tup, *, dtype=None, casting="same_kind"):
        arrays = [at_least(a) for a in as_arrays([*tup])]
        return _concatenate(arrays, 0 if arrays and arrays[0].ndim == 1 else axis, dtype=dtype, casting=casting)

    return stack


def _column_stack(tup):
    return _concatenate([a.reshape(-1, 1) if a.ndim < 2 else a for a in as_arrays([*tup])], 1)


def _at_least(ndim, shape):
    def at_least(*arys):
        results = [a if a.ndim >= ndim else a.reshape(shape(a.shape)) for a in as_arrays(arys)]
        return results[0] if len(results) == 1 else tuple(results)

    return at_least


_at_least_1d = _at_least(1, lambda s: (1,))
_at_least_2d = _at_least(2, lambda s: (1,) * (2 - len(s)) + s)
_at_least_3d = _at_least(3, lambda s: {0: (1, 1, 1), 1: (1, *s, 1), 2: (*s, 1)}[len(s)])


def _array_split(ary, indices_or_sections, axis=0, exact=False):
    axis = one_axis(ary, axis)
    n = ary.shape[axis]
    if np.ndim(indices_or_sections):
        edges = [0, *map(int, indices_or_sections), n]
    else:
        if exact and n % indices_or_sections:
            raise ValueError(f"split: an axis of length {n} does not divide into {indices_or_sections} equal parts")
        if indices_or_sections < 1:
            raise ValueError(f"array_split: {indices_or_sections} parts; at least 1 is needed")
        size, more = divmod(n, indices_or_sections)
        edges = [i * size + min(i, more) for i in range(indices_or_sections + 1)]
    return [along(ary, axis, slice(a, b)) for a, b in itertools.pairwise(edges)]


def _split_on(axis, ndim):
    def split(ary, indices_or_sections):
        if ary.ndim < ndim:
            raise ValueError(f"split: an array with at least {ndim} axes is needed, this one has {ary.ndim}")
        return _array_split(ary, indices_or_sections, 0 if ary.ndim == 1 else axis, exact=True)

    return split


def _rollaxis(a, axis, start=0):
    axis = one_axis(a, axis)
    start = normalize_axis_index(start, a.ndim + 1) if start >= 0 else start + a.ndim
    return np.moveaxis(a, axis, start - 1 if axis < start else start)


def _repeat(a, repeats, axis=None):
    a, axis = axis_or_flat(at_least_one(a), axis)
    return along(a, axis, np.repeat(np.arange(a.shape[axis]), repeats))


def _tile(A, reps):
    reps = (reps,) if np.ndim(reps) == 0 else tuple(reps)
    ndim = max(A.ndim, len(reps))
    shape = (1,) * (ndim - A.ndim) + A.shape
    reps = (1,) * (ndim - len(reps)) + reps
    spread = np.broadcast_to(
        A.reshape(tuple(k for n in shape for k in (1, n))),
        tuple(k for n, r in zip(shape, reps, strict=True) for k in (r, n)),
    )
    return spread.reshape(tuple(n * r for n, r in zip(shape, reps, strict=True)))


def _diag(v, k=0):
    if v.ndim == 1:
        n = v.shape[0] + abs(k)
        return on_diagonal(v, (n, n), k)
    if v.ndim == 2:
        return np.diagonal(v, k)
    raise ValueError(f"diag: an array with 1 or 2 axes is needed, this one has {v.ndim}")


def _trace(a, offset=0, axis1=0, axis2=1, dtype=None, out=None):
    diagonal = np.diagonal(a, offset, axis1, axis2)
    return np.sum(diagonal if dtype is None else diagonal.astype(dtype), axis=-1)


def _meshgrid(*xi, copy=True, sparse=False, indexing="xy"):
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing={indexing!r}; use 'xy' or 'ij'")
    xi = [x.reshape(-1) for x in as_arrays(xi)]
    place = list(range(len(xi)))
    if indexing == "xy" and len(xi) > 1:
        place[:2] = [1, 0]
    grids = [x.reshape(tuple(-1 if i == p else 1 for i in range(len(xi)))) for x, p in zip(xi, place, strict=True)]
    return tuple(grids if sparse else np.broadcast_arrays(*grids))


def _broadcast_arrays(*args, subok=False):
    arrays = as_arrays(args)
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return tuple(np.broadcast_to(a, shape) for a in arrays)


def _append(arr, values, axis=None):
    arr, values = as_arrays([arr, values])
    return _concatenate(
        [arr.reshape(-1), values.reshape(-1)] if axis is None else [arr, values], 0 if axis is None else axis
    )


def _delete(arr, obj, axis=None):
    arr, axis = axis_or_flat(arr, axis)
    return along(arr, axis, np.delete(np.arange(arr.shape[axis]), obj))


def _insert(arr, obj, values, axis=None):
    """`np.insert` on the elements' numbers tells where each element goes; then one index puts them there."""
    arr, axis = axis_or_flat(arr, axis)
    values = as_arrays([values, arr])[0]
    n = arr.shape[axis]
    if (
        not isinstance(obj, slice)
        and np.size(obj) == 1
        and np.asarray(obj).dtype.kind in "iu"
        and not -n <= np.asarray(obj).item() <= n
    ):
        raise IndexError(f"insert: place {obj} is outside of an axis of length {n}")
    places = np.arange(n)[obj] if isinstance(obj, slice) else np.asarray(obj)
    places = np.flatnonzero(places) if places.dtype == bool else places.astype(np.intp) if places.size == 0 else places
    new = places.size
    if new == 1:  # all the values go to one place
        values = values.reshape((1,) * (arr.ndim - values.ndim) + values.shape)
        values = np.moveaxis(values, 0, axis) if places.ndim == 0 else values
        new = values.shape[axis]
        places = [places.item()] * new
    source = np.insert(np.arange(n), places, np.arange(n, n + new))
    values = np.broadcast_to(values, arr.shape[:axis] + (new,) + arr.shape[axis + 1 :]).astype(arr.dtype)
    return along(_concatenate([arr, values], axis), axis, source)


def _block(arrays, depth=None):
    """Innermost lists are joined along the last axis, the next ones along the axis before it, and so on."""

    def depth_of(a):
        return 1 + max(map(depth_of, a)) if isinstance(a, list) else 0

    def most_axes(a):
        return max(map(most_axes, a)) if isinstance(a, list) else np.ndim(a)

    depth = depth_of(arrays)
    ndim = max(depth, most_axes(arrays))

    def flat(a):
        return [leaf for part in a for leaf in flat(part)] if isinstance(a, list) else [a]

    members = iter(as_arrays(flat(arrays)))

    def join_up(a, level):
        if level == 0:
            a = next(members)
            return a.reshape((1,) * (ndim - a.ndim) + a.shape)
        return _concatenate([join_up(x, level - 1) for x in a], axis=-level)

    return join_up(arrays, depth)


def _unstack(x, *, axis=0):
    if x.ndim == 0:
        raise ValueError("unstack: an array with at least 1 axis is needed, this one has 0")
    axis = one_axis(x, axis)
    return tuple(along(x, axis, i) for i in range(x.shape[axis]))


def _sliding_window_view(x, window_shape, axis=None, *, subok=False, writeable=False):
    """The windows of the elements' numbers, as an index into x: so the gradient adds up where windows overlap."""
    window = (window_shape,) if np.ndim(window_shape) == 0 else tuple(window_shape)
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if np.ndim(axis) == 0 else tuple(axis)
    places = np.lib.stride_tricks.sliding_window_view(
        np.arange(math.prod(x.shape)).reshape(x.shape), window, axis if axis is None else axes
    )
    return x.reshape(-1)[places]


def _linspace(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0, *, device=None):
    num = operator.index(num)
    if num < 0:
        raise ValueError(f"linspace: num={num} must not be negative")
    start, stop = (x if x.dtype.kind == "f" else x.astype(np.float64) for x in as_arrays([start, stop]))
    steps = num - 1 if endpoint else num
    step = (stop - start) / max(steps, 1)
    places = np.arange(num).reshape((-1,) + (1,) * step.ndim).astype(step.dtype)
    y = start + places * step
    y = np.moveaxis(np.where(places == steps, stop, y) if endpoint and num > 1 else y, 0, axis)
    if dtype is not None:
        y = (np.floor(y) if np.issubdtype(dtype, np.integer) else y).astype(dtype)
    return (y, step) if retstep else y


def _kron(a, b):
    a, b = as_arrays([a, b])
    ndim = max(a.ndim, b.ndim)
    a, b = (x.reshape((1,) * (ndim - x.ndim) + x.shape) for x in (a, b))
    shape = tuple(n * m for n, m in zip(a.shape, b.shape, strict=True))
    a = a.reshape(tuple(k for n in a.shape for k in (n, 1)))
    b = b.reshape(tuple(k for n in b.shape for k in (1, n)))
    return (a * b).reshape(shape)


JOINED = "[(..., n, ...), (..., m, ...), ...] -> (..., n + m + ..., ...)"
PARTS = "(..., n, ...) -> [(..., k, ...), ...]"

# fmt: off
defcomposite(np.concatenate,       _concatenate,                                                             signature=JOINED)
defcomposite(np.stack,             _stack,                                                                   signature="[(...), (...), ...] -> (..., n, ...)")
defcomposite(np.vstack,            _joined(_at_least_2d, 0),                                                 signature=JOINED)
defcomposite(np.hstack,            _joined(_at_least_1d, 1),                                                 signature=JOINED)
defcomposite(np.dstack,            _joined(_at_least_3d, 2),                                                 signature=JOINED)
defcomposite(np.column_stack,      _column_stack,                                                            signature="[(n,), (n, m), ...] -> (n, 1 + m + ...)")
defcomposite(np.block,             _block,                                                                   signature="[[(n, m), ...], ...] -> (n + ..., m + ...)")
defcomposite(np.append,            _append,                                                                  signature=JOINED)
defcomposite(np.insert,            _insert,                                                                  signature=JOINED)
defcomposite(np.delete,            _delete,                                                                  signature="(..., n, ...) -> (..., n - k, ...)")
defcomposite(np.split,             lambda ary, indices_or_sections, axis=0: _array_split(ary, indices_or_sections, axis, exact=True), signature=PARTS)
defcomposite(np.array_split,       _array_split,                                                             signature=PARTS)
defcomposite(np.hsplit,            _split_on(1, 1),                                                          signature=PARTS)
defcomposite(np.vsplit,            _split_on(0, 2),                                                          signature=PARTS)
defcomposite(np.dsplit,            _split_on(2, 3),                                                          signature=PARTS)
defcomposite(np.rollaxis,          _rollaxis,                                                                signature="(..., i, ..., j, ...) -> axes permuted")
defcomposite(np.repeat,            _repeat,                                                                  signature="(..., n, ...) -> (..., n * r, ...)")
defcomposite(np.tile,              _tile,                                                                    signature="(..., n, ...) -> (..., n * r, ...)")
defcomposite(np.flipud,            lambda m: np.flip(m, 0),                                                  signature="(...) -> (...)")
defcomposite(np.fliplr,            lambda m: np.flip(m, 1),                                                  signature="(...) -> (...)")
defcomposite(np.diag,              _diag,                                                                    signature="(n,) -> (n, n), or (n, m) -> (k,)")
defcomposite(np.diagflat,          lambda v, k=0: _diag(np.ravel(v), k),                                     signature="(...) -> (n, n)")
defcomposite(np.trace,             _trace,                                                                   signature="(n, m, ...) -> (...)")
defcomposite(np.meshgrid,          _meshgrid,                                                                signature="(n,), (m,), ... -> (m, n, ...), (m, n, ...), ...")
defcomposite(np.broadcast_arrays,  _broadcast_arrays,                                                        signature="(...), (...), ... -> all broadcast")
defcomposite(np.atleast_1d,        _at_least_1d,                                                             signature="() -> (1,)")
defcomposite(np.atleast_2d,        _at_least_2d,                                                             signature="(n,) -> (1, n)")
defcomposite(np.atleast_3d,        _at_least_3d,                                                             signature="(n,) -> (1, n, 1)")
defcomposite(np.linspace,          _linspace,                                                                signature="(...), (...) -> (n, ...)")
defcomposite(np.kron,              _kron,                                                                    signature="(n, m), (k, l) -> (n * k, m * l)")
defcomposite(np.lib.stride_tricks.sliding_window_view, _sliding_window_view,                                 signature="(..., n, ...) -> (..., n - w + 1, ..., w)")
# fmt: on
if hasattr(np, "unstack"):  # NumPy 2.1
    defcomposite(np.unstack, _unstack, signature="(..., n, ...) -> n times (..., ...)")
    defcomposite(np.astype, lambda x, dtype, /, *, copy=True, device=None: x.astype(dtype), signature="(...) -> (...)")
if np.permute_dims is not np.transpose:
    defcomposite(np.permute_dims, lambda a, axes=None: np.transpose(a, axes), signature="axes permuted")
