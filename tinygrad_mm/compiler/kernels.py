"""How each operation is written: as a view, as a NumPy call into a given buffer, or as a plain call.

A kernel is found by the function of an op. Whatever has none is called as it is, and makes a new array each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import KERNELS_OF_FUSED
from tinygrad_mm.compiler.images import KERNELS_OF_IMAGES
from tinygrad_mm.compiler.kernel import Kernel, Made, View, dot
from tinygrad_mm.compiler.program import Op, Value
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.graph import name_of, select
from tinygrad_mm.rules.indexing import Slot, add_rows, getitem, scatter
from tinygrad_mm.rules.shape import astype, join

__all__ = ["WHOLE", "Kernel", "Made", "View", "kernel_of", "reduced"]


def kernel_of(op: Op) -> View | Kernel | Made | None:
    """How an op is written; None for a plain call."""
    if type(op.result.example) is tuple or any(type(a.example) is tuple for a in op.operands()):
        return None
    fun = op.fun
    if fun in KERNELS:
        return KERNELS[fun](op)
    if isinstance(fun, np.ufunc) and fun.signature is None and fun.nout == 1:
        return _ufunc(op)
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Elementwise
# ---------------------------------------------------------------------------------------------------------------------

# NumPy deprecates the third positional argument of these.
NAMED_OUT = frozenset({np.maximum, np.minimum})


def _ufunc(op: Op) -> Kernel | None:
    if op.kwargs:
        return None
    fun, result = op.fun, op.result
    if fun is np.power and type(op.args[1]) in (int, float) and op.args[1] in (2, 0.5):
        x = op.args[0]
        if isinstance(x, Value) and x.dtype == result.dtype and result.dtype.kind == "f":
            if op.args[1] == 2:
                return Kernel(lambda out, a, s, bind: [f"{bind(np.multiply)}({a[0]}, {a[0]}, {out})"], _same_place(op))
            return Kernel(lambda out, a, s, bind: [f"{bind(np.sqrt)}({a[0]}, {out})"], _same_place(op))

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        if fun is np.positive:  # a copy: this is quicker where rows become columns
            return [f"{bind(np.copyto)}({out}, {a[0]})"]
        named = "out=" if fun in NAMED_OUT else ""
        return [f"{bind(fun)}({', '.join(a)}, {named}{out})"]

    return Kernel(lines, _same_place(op))


def _same_place(op: Op) -> tuple[int, ...]:
    """The arguments as large as the result and of its dtype."""
    return tuple(
        i
        for i, a in enumerate(op.args)
        if isinstance(a, Value) and a.shape == op.result.shape and a.dtype == op.result.dtype
    )


def weak(op: Op, i: int) -> Any:
    """A Python number among the arguments of a ufunc, as the 0-d array that gives the same result; else None.

    NumPy takes arrays in half the time of Python numbers. For maximum and minimum it is a full array: with a 0-d one
    NumPy does without SIMD.
    """
    number = op.args[i]
    if type(number) not in (int, float, bool) or not isinstance(op.fun, np.ufunc) or op.fun is np.ldexp:
        return None
    arrays = [a for a in op.args if isinstance(a, (Value, np.ndarray))]
    if not arrays or any(type(a.dtype) is None for a in arrays):
        return None
    dtype = np.result_type(*(a.dtype for a in arrays), number)
    if any(a.dtype != dtype for a in arrays):
        return None
    with np.errstate(all="ignore"):
        found = np.asarray(number, dtype)
    if op.fun in NAMED_OUT and op.result.size <= 1 << 22:
        return np.full(op.result.shape, found)
    return found


def _where(op: Op) -> Kernel | None:
    if len(op.args) != 3 or op.kwargs:
        return None
    condition = op.args[0]
    if getattr(condition, "dtype", None) != np.bool_:
        return None
    for place, number in ((1, 2), (2, 1)):
        masked = _masked(op, place, number)
        if masked is not None:
            return masked
    if not isinstance(condition, Value):
        return None

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        copyto = bind(np.copyto)
        return [f"{copyto}({out}, {a[2]})", f"{copyto}({out}, {a[1]}, where={a[0]})"]

    return Kernel(lines)


def _masked(op: Op, place: int, other: int) -> Kernel | None:
    """An array where a known condition holds, elsewhere a number: all bits of an element are kept, or none."""
    condition, x, number = (a.example if _is_known(a) else a for a in (op.args[0], op.args[place], op.args[other]))
    result = op.result
    floats = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}
    if not isinstance(condition, np.ndarray) or not isinstance(x, Value) or result.dtype not in floats:
        return None
    if x.shape != result.shape or x.dtype != result.dtype or np.ndim(number) or isinstance(number, Value):
        return None
    integer = floats[result.dtype]
    keep = condition if place == 1 else ~condition
    mask = np.where(keep, integer(-1), integer(0))
    fill = np.where(keep, integer(0), np.asarray(number, result.dtype).view(integer))

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        bits, to = (bind.seen(name, f".view(np.{integer.__name__})") for name in (a[place], out))
        written = [f"{bind(np.bitwise_and)}({bits}, {bind(mask, 'mask')}, {to})"]
        if fill.any():
            written.append(f"{bind(np.bitwise_or)}({to}, {bind(fill, 'fill')}, {to})")
        return written

    return Kernel(lines, (place,))


def _is_known(a: Any) -> bool:
    return isinstance(a, Value) and a.kind == "constant"


def _astype(op: Op) -> Kernel:
    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        return [f"{bind(np.copyto)}({out}, {a[0]}, 'unsafe')"]

    return Kernel(lines)


def _uniform(op: Op) -> Kernel | None:
    if op.result.dtype not in (np.float32, np.float64):
        return None

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        draw = bind(op.args[1], "generator")
        return [f"{draw}.random(None, {bind(op.result.dtype.type)}, {out})"]

    return Kernel(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Products
# ---------------------------------------------------------------------------------------------------------------------


def _matmul(op: Op) -> Kernel | None:
    a, b = op.args
    if op.kwargs or not (isinstance(a, Value) and isinstance(b, Value)) or a.dtype != b.dtype:
        return None
    # dot is quicker to call, and the same for matrices and vectors; it wants results that are contiguous.
    if a.ndim <= 2 and b.ndim <= 2 and a.dtype.kind == "f":
        return Kernel(lambda out, x, s, bind: [dot(x[0], x[1], out)])
    return Kernel(lambda out, x, s, bind: [f"{bind(np.matmul)}({x[0]}, {x[1]}, {out})"])


# ---------------------------------------------------------------------------------------------------------------------
# Reductions
# ---------------------------------------------------------------------------------------------------------------------


def _reduction(fun: np.ufunc) -> Callable[[Op], Kernel | None]:
    def kernel(op: Op) -> Kernel | None:
        x, axis, keepdims, rest = reduced(op)
        if rest or not isinstance(x, Value):
            return None
        if fun is np.add and x.ndim == 1 and x.dtype in (np.float32, np.float64) and not keepdims and x.size:
            ones = np.ones(x.shape, x.dtype)
            return Kernel(lambda out, a, s, bind: [dot(bind(ones, "ones"), a[0], out)])
        if fun is np.add and x.dtype.kind in "bui" and x.dtype != op.result.dtype:
            return None
        return Kernel(lambda out, a, s, bind: _sum_lines(fun, op, x, axis, keepdims, out, a[0], bind))

    return kernel


def _sum_lines(fun: Any, op: Op, x: Value, axis: Any, keepdims: bool, out: str, name: str, bind: Any) -> list[str]:
    if fun is np.add and x.ndim == 2 and x.dtype in (np.float32, np.float64) and not (keepdims and axis != 0):
        ones = bind(np.ones(x.shape[0 if axis == 0 else 1], x.dtype), "ones")
        if axis == 0 and not keepdims and 0 < x.size <= 1 << 20:
            return [dot(ones, name, out)]
        if axis in (1, -1) and 0 < x.size <= 1 << 20:
            return [dot(name, ones, out)]
    if fun is np.add and x.ndim > 2 and x.dtype in (np.float32, np.float64) and 0 < x.size <= 1 << 20:
        axes = sorted(a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))) if axis is not None else []
        columns = x.shape[-1]
        rows = x.size // columns
        if axes in ([x.ndim - 1], list(range(x.ndim - 1))) and bind.is_contiguous(name):  # as a matrix
            matrix = bind.seen(name, f".reshape({rows}, {columns})")
            if len(axes) == 1:
                return [dot(matrix, bind(np.ones(columns, x.dtype), "ones"), bind.seen(out, f".reshape({rows})"))]
            return [dot(bind(np.ones(rows, x.dtype), "ones"), matrix, bind.seen(out, f".reshape({columns})"))]
    if x.ndim == 2 and axis == 0:  # what is left is one row, whether it is kept as a matrix or not
        out = bind.seen(out, f".reshape({x.shape[1]})") if keepdims else out
        if fun is np.add and x.dtype in (np.float32, np.float64) and 0 < x.size <= 1 << 20:
            return [dot(bind(np.ones(x.shape[0], x.dtype), "ones"), name, out)]
        if x.shape[0] == 2:
            rows = bind.seen(name, "[0]"), bind.seen(name, "[1]")
            return [f"{bind(fun)}({', '.join(rows)}, out={out})"]
        keepdims = False
    reduce = bind(fun.reduce, f"{fun.__name__}_reduce")
    return [f"{reduce}({name}, {axis!r}, None, {out}{', True' if keepdims else ''})"]


def reduced(op: Op) -> tuple[Any, Any, bool, dict[str, Any]]:
    """(argument, axes, keepdims, other options) of a reduction."""
    options = dict(op.kwargs)
    names = ("axis", "dtype", "out", "keepdims") if op.fun in (np.sum, np.mean) else ("axis", "out", "keepdims")
    options.update(zip(names, op.args[1:], strict=False))
    axis, keepdims = options.pop("axis", None), bool(options.pop("keepdims", False))
    if isinstance(axis, list):
        axis = tuple(axis)
    rest = {k: v for k, v in options.items() if v is not None}
    return op.args[0], axis, keepdims, rest


def _mean(op: Op) -> Kernel | None:
    x, axis, keepdims, rest = reduced(op)
    if rest or not isinstance(x, Value) or x.dtype.kind != "f" or x.dtype == np.float16 or not x.size:
        return None
    share = np.asarray(op.result.size / x.size, x.dtype)
    if x.ndim == 1 and not op.result.ndim:
        shares = np.full(x.shape, share)
        return Kernel(lambda out, a, s, bind: [dot(bind(shares, "shares"), a[0], out)])

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        return [
            *_sum_lines(np.add, op, x, axis, keepdims, out, a[0], bind),
            f"{bind(np.multiply)}({out}, {bind(share, 'share')}, {out})",
        ]

    return Kernel(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Views
# ---------------------------------------------------------------------------------------------------------------------


def _reshaped(op: Op) -> View | Kernel | None:
    x = op.args[0]
    if not isinstance(x, Value) or op.kwargs.get("order", "C") != "C" or len(op.args) > 2:
        return None
    shape = op.result.shape
    return View(x, lambda name: f"{name}.reshape({shape})", lambda array: array.reshape(shape))


def _view(op: Op) -> View | None:
    """A view that NumPy itself makes from the same arguments."""
    x, fun = op.args[0], op.fun
    if not isinstance(x, Value) or any(isinstance(a, Value) for a in op.args[1:]):
        return None
    rest, options = op.args[1:], op.kwargs
    if fun is np.transpose and x.ndim == 2 and not (rest or options):
        return View(x, lambda name: f"{name}.T", lambda array: array.T)
    written = ", ".join([*(repr(a) for a in rest), *(f"{k}={v!r}" for k, v in options.items())])
    return View(
        x,
        lambda name: f"np.{name_of(fun)}({name}{', ' * bool(written)}{written})",
        lambda array: fun(array, *rest, **options),
    )


def _getitem(op: Op) -> View | Kernel | Made | None:
    if op.kwargs:  # the index by name
        return None
    x, key, *arrays = op.args
    if not isinstance(x, Value):
        return None
    parts = key if isinstance(key, tuple) else (key,)
    if not arrays and all(p is None or p is Ellipsis or isinstance(p, (slice, int, np.integer)) for p in parts):
        if op.result.ndim == 0 and not any(isinstance(p, (slice, type(Ellipsis))) for p in parts):
            key = (*parts, Ellipsis)  # a 0-d view, where NumPy would give a scalar
        return View(x, lambda name: f"{name}[{index_text(key)}]", lambda array: array[key])
    is_table = len(parts) == 1 and isinstance(parts[0], Slot) and len(arrays) == 1 and isinstance(arrays[0], Value)
    if is_table and arrays[0].dtype.kind in "iu":  # rows of a table: an embedding
        return Kernel(lambda out, a, scratch, bind: [f"{a[0]}.take({a[2]}, 0, {out})"])
    if op.result.ndim and _is_written(parts) and not any(isinstance(p, np.ndarray) for p in parts):
        return Made(lambda a: f"{a[0]}[{index_text(key, a[2:])}]")
    return None


def _is_written(parts: Any) -> bool:
    """Whether an index can be written down: it has no arrays that are not operands."""
    simple = (slice, int, np.integer, type(None), type(Ellipsis), Slot)
    return all(isinstance(p, simple) for p in parts)


def _scatter(op: Op) -> Kernel | None:
    """Zeros, and an array added at an index."""
    g, *rest = op.args
    arrays = rest[2:]
    key = rest[1] if len(rest) > 1 else op.kwargs["key"]
    parts = key if isinstance(key, tuple) else (key,)
    if not _is_written(parts) or not isinstance(g, Value):
        return None

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        index = index_text(key, a[3:])
        if len(arrays) == 1 and index.rstrip(",") == a[3] and arrays[0].dtype.kind in "iu" and op.result.ndim > 1:
            return [f"{out}.fill(0)", f"{bind(add_rows)}({out}, {a[3]}, {a[0]})"]
        if arrays and not all(isinstance(x, Value) and x.dtype.kind == "b" for x in arrays):
            return [f"{out}.fill(0)", f"{bind(np.add.at, 'add_at')}({out}, ({index.rstrip(',')},), {a[0]})"]
        return [f"{out}.fill(0)", f"{out}[{index}] = {a[0]}"]

    if any(isinstance(p, slice) for p in parts) and arrays:
        return None  # slices inside a tuple cannot be written with colons
    return Kernel(lines)


def index_text(key: Any, arrays: Sequence[str] = ()) -> str:
    """An index as it is written between brackets; `arrays` are the names of those that it has slots for."""
    if isinstance(key, tuple):
        return ", ".join(index_text(k, arrays) for k in key) + ("," if len(key) == 1 else "") if key else "()"
    if isinstance(key, Slot):
        return arrays[key.number]
    if isinstance(key, slice):
        ends = ["" if e is None else str(e) for e in (key.start, key.stop)]
        return ":".join(ends if key.step is None else [*ends, str(key.step)])
    return "..." if key is Ellipsis else repr(key)


def _join(op: Op) -> Kernel | None:
    if not all(isinstance(a, Value) and a.dtype == op.result.dtype for a in op.args):
        return None
    axis = op.kwargs.get("axis", 0)

    def lines(out: str, a: list[str], scratch: list[str], bind: Any) -> list[str]:
        return [f"{bind(np.concatenate)}(({', '.join(a)},), {axis}, {out})"]

    return Kernel(lines)


KERNELS: dict[Any, Callable[[Op], View | Kernel | Made | None]] = {
    astype: _astype,
    getitem: _getitem,
    join: _join,
    scatter: _scatter,
    uniform_like: _uniform,
    select: lambda op: None,
    np.where: _where,
    np.matmul: _matmul,
    np.dot: lambda op: _matmul(op) if all(isinstance(a, Value) and 1 <= a.ndim <= 2 for a in op.args) else None,
    np.sum: _reduction(np.add),
    np.max: _reduction(np.maximum),
    np.min: _reduction(np.minimum),
    np.mean: _mean,
    np.reshape: _reshaped,
    np.ravel: _reshaped,
    np.expand_dims: _reshaped,
    np.squeeze: _reshaped,
    np.transpose: _view,
    np.swapaxes: _view,
    np.moveaxis: _view,
    np.broadcast_to: _view,
    np.diagonal: _view,
    np.flip: _view,
    **KERNELS_OF_FUSED,
    **KERNELS_OF_IMAGES,
}

# Operations that have a kernel of their own, and are not to be taken apart.
WHOLE = frozenset(KERNELS)
