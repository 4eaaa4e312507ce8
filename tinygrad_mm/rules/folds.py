"""The methods of ufuncs: a function of two arguments applied along an axis, again and again.

Each is a left fold in calls of the ufunc itself, so that whatever has a rule has one as `reduce`, `accumulate` and
`reduceat` too, exact in every order. Sums, products, extremes and running sums have shorter ways, in `reduction`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.rules.axes import all_axes, along, axis_or_flat, one_axis
from tinygrad_mm.rules.operands import as_arrays

NOT_GIVEN = object()

SHORTER: dict[tuple[np.ufunc, str], Any] = {
    (np.add, "reduce"): np.sum,
    (np.multiply, "reduce"): np.prod,
    (np.maximum, "reduce"): np.max,
    (np.minimum, "reduce"): np.min,
    (np.logical_and, "reduce"): np.all,
    (np.logical_or, "reduce"): np.any,
    (np.add, "accumulate"): np.cumsum,
    (np.multiply, "accumulate"): np.cumprod,
}


def ufunc_method(ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """What `ufunc.reduce`, `.accumulate`, `.reduceat` and `.outer` give.

    >>> ufunc_method(np.hypot, "accumulate", np.array([3.0, 4.0, 12.0]))
    array([ 3.,  5., 13.])
    """
    if method == "outer":
        a, b = as_arrays(inputs)
        return ufunc(a.reshape(a.shape + (1,) * b.ndim), b, **options)
    if method not in _METHODS:
        raise TypeError(f"np.{ufunc.__name__}.{method} writes into an array; use x.at[i].add(v) and its neighbours")
    _ask_numpy(ufunc, method, inputs, options)
    x, *rest = inputs
    names = ("axis", "dtype", "out", "keepdims", "initial", "where")
    if method == "reduceat":
        names = ("indices", *names)
    options = {"axis": 0, **dict(zip(names, rest, strict=False)), **options}
    options = {name: value for name, value in options.items() if value is not None or name == "axis"}
    if (ufunc, method) in SHORTER:
        return SHORTER[ufunc, method](x, **options)
    dtype = options.pop("dtype", None)
    return _METHODS[method](ufunc, x if dtype is None else x.astype(dtype), **options)


def _ask_numpy(ufunc, method, inputs, options):
    """NumPy's own errors, from a call on ones of the same shapes."""
    stand_ins = [np.ones(a.shape, a.dtype) if hasattr(a, "requires_grad") else a for a in inputs]
    plain = {k: np.ones(a.shape, a.dtype) if hasattr(a, "requires_grad") else a for k, a in options.items()}
    with np.errstate(all="ignore"):
        getattr(ufunc, method)(*stand_ins, **plain)


def _reduce(ufunc, x, axis=0, keepdims=False, initial=NOT_GIVEN, where=True):
    axes = all_axes(x, axis if x.ndim else None)
    rest = tuple(i for i in range(x.ndim) if i not in axes)
    flat = np.transpose(x, axes + rest).reshape(
        (-1, *(x.shape[i] for i in rest)) if 0 not in x.shape else _flat(x, axes, rest)
    )
    masks = None
    if where is not True:
        where = np.broadcast_to(where, x.shape)
        masks = np.transpose(where, axes + rest).reshape(flat.shape)
    start = 0
    if initial is not NOT_GIVEN:
        total = initial
    elif masks is not None or not flat.shape[0]:
        total = ufunc.identity
    else:
        total, start = flat[0], 1
    for i in range(start, flat.shape[0]):
        step = ufunc(total, flat[i])
        total = step if masks is None else np.where(masks[i], step, total)
    total = np.broadcast_to(as_arrays([total, x])[0], flat.shape[1:])
    return total.reshape(tuple(1 if i in axes else n for i, n in enumerate(x.shape))) if keepdims else total


def _flat(x, axes, rest):
    """The shape with the reduced axes as one in front, where a length of 0 leaves nothing to infer it from."""
    return (int(np.prod([x.shape[i] for i in axes])), *(x.shape[i] for i in rest))


def _accumulate(ufunc, x, axis=0):
    axis = one_axis(x, axis)
    parts = [along(x, axis, slice(i, i + 1)) for i in range(x.shape[axis])]
    for i in range(1, len(parts)):
        parts[i] = ufunc(parts[i - 1], parts[i])
    return np.concatenate(parts, axis=axis) if parts else x


def _reduceat(ufunc, x, indices, axis=0):
    """Between neighbouring indices the elements from one to the next are combined, or the one where they do not rise."""
    x, axis = axis_or_flat(x, axis)
    starts = [int(i) for i in np.asarray(indices)]
    ends = [*starts[1:], x.shape[axis]]
    parts = [
        ufunc_method(ufunc, "reduce", along(x, axis, slice(a, max(b, a + 1))), axis=axis, keepdims=True)
        for a, b in zip(starts, ends, strict=True)
    ]
    return np.concatenate(parts, axis=axis) if parts else along(x, axis, slice(0, 0))


_METHODS = {"reduce": _reduce, "accumulate": _accumulate, "reduceat": _reduceat}
