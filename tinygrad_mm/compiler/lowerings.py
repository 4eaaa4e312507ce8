"""How each operation is lowered: to a view, to statements that write into a given array, or to a plain call.

A lowering is found by the function of an op. Whatever has none is called as it is, and makes a new array each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import LOWERINGS_OF_FUSED
from tinygrad_mm.compiler.images import LOWERINGS_OF_IMAGES
from tinygrad_mm.compiler.program import Op, Value
from tinygrad_mm.compiler.statements import (
    Array,
    Lowering,
    Made,
    Statement,
    View,
    call,
    copy,
    fill,
    index_text,
    product,
    reduction,
    ufunc,
)
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.graph import name_of, select
from tinygrad_mm.rules.indexing import Slot, add_rows, getitem, scatter
from tinygrad_mm.rules.shape import astype, join

__all__ = ["WHOLE", "Lowering", "Made", "View", "lowering_of", "reduced"]


def lowering_of(op: Op) -> View | Lowering | Made | None:
    """How an op is lowered; None for a plain call."""
    if type(op.result.example) is tuple or any(type(a.example) is tuple for a in op.operands()):
        return None
    fun = op.fun
    if fun in LOWERINGS:
        return LOWERINGS[fun](op)
    if isinstance(fun, np.ufunc) and fun.signature is None and fun.nout == 1:
        return _ufunc(op)
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Elementwise
# ---------------------------------------------------------------------------------------------------------------------


def _ufunc(op: Op) -> Lowering | None:
    if op.kwargs:
        return None
    fun: Any = op.fun
    result = op.result
    if fun is np.positive and isinstance(op.args[0], Value) and op.args[0].dtype == result.dtype:
        return Lowering(lambda out, a, s: [copy(a[0], out)], _same_place(op))  # quicker where rows become columns
    return Lowering(lambda out, a, s: [ufunc(fun, *a, out=out)], _same_place(op))


def _same_place(op: Op) -> tuple[int, ...]:
    """The arguments as large as the result and of its dtype."""
    return tuple(
        i
        for i, a in enumerate(op.args)
        if isinstance(a, Value) and a.shape == op.result.shape and a.dtype == op.result.dtype
    )


def _where(op: Op) -> Lowering | None:
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

    lines = "{np.copyto}({out}, {c})", "{np.copyto}({out}, {b}, where={a})"
    return Lowering(lambda out, a, s: [call(np.where, a, out, *lines)])


def _masked(op: Op, place: int, other: int) -> Lowering | None:
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
    rest = np.where(keep, integer(0), np.asarray(number, result.dtype).view(integer))

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        bits, to = a[place].view(integer), out.view(integer)
        lines = ["{np.bitwise_and}({bits}, {mask}, {to})"]
        if rest.any():
            lines.append("{np.bitwise_or}({to}, {fill}, {to})")
        return [call(np.where, a, out, *lines, names={"bits": bits, "mask": mask, "fill": rest, "to": to})]

    return Lowering(statements, (place,))


def _is_known(a: Any) -> bool:
    return isinstance(a, Value) and a.kind == "constant"


def _uniform(op: Op) -> Lowering | None:
    if op.result.dtype not in (np.float32, np.float64):
        return None

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        names = {"generator": a[1], "dtype": out.dtype.type}
        return [call(uniform_like, a[1:], out, "{generator}.random(None, {dtype}, {out})", names=names)]

    return Lowering(statements)


# ---------------------------------------------------------------------------------------------------------------------
# Products
# ---------------------------------------------------------------------------------------------------------------------


def _matmul(op: Op) -> Lowering | None:
    a, b = op.args
    if op.kwargs or not (isinstance(a, Value) and isinstance(b, Value)) or a.dtype != b.dtype:
        return None
    return Lowering(lambda out, x, s: [product(x[0], x[1], out)])


# ---------------------------------------------------------------------------------------------------------------------
# Reductions
# ---------------------------------------------------------------------------------------------------------------------


def _reduction(fun: np.ufunc) -> Callable[[Op], Lowering | None]:
    def lowering(op: Op) -> Lowering | None:
        x, axis, keepdims, rest = reduced(op)
        if rest or not isinstance(x, Value):
            return None
        if fun is np.add and x.dtype.kind in "bui" and x.dtype != op.result.dtype:
            return None
        return Lowering(lambda out, a, s: [reduction(fun, a[0], _axes(axis, x.ndim), keepdims, out)])

    return lowering


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(int(a) % ndim for a in axes))


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


def _mean(op: Op) -> Lowering | None:
    x, axis, keepdims, rest = reduced(op)
    if rest or not isinstance(x, Value) or x.dtype.kind != "f" or x.dtype == np.float16 or not x.size:
        return None
    share = np.asarray(op.result.size / x.size, x.dtype)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        total = reduction(np.add, a[0], _axes(axis, x.ndim), keepdims, out)
        if x.ndim != 1 or out.ndim:
            return [total, ufunc(np.multiply, out, share, out=out)]
        shares = np.full(x.shape, share)
        total.options["share"] = float(share)
        total.text = lambda write: [f"{write(shares, 'shares')}.dot({write(a[0])}, {write(out)})"]
        return [total]

    return Lowering(statements)


# ---------------------------------------------------------------------------------------------------------------------
# Views
# ---------------------------------------------------------------------------------------------------------------------


def _reshaped(op: Op) -> View | None:
    x = op.args[0]
    if not isinstance(x, Value) or op.kwargs.get("order", "C") != "C" or len(op.args) > 2:
        return None
    shape = op.result.shape
    return View(x, lambda array: array.reshaped(shape))


def _view(op: Op) -> View | None:
    """A view that NumPy itself makes from the same arguments."""
    x, fun = op.args[0], op.fun
    if not isinstance(x, Value) or any(isinstance(a, Value) for a in op.args[1:]):
        return None
    rest, options = op.args[1:], op.kwargs
    if fun is np.transpose and x.ndim == 2 and not (rest or options):
        return View(x, lambda array: array.T)
    written = ", ".join([*(repr(a) for a in rest), *(f"{k}={v!r}" for k, v in options.items())])
    form = f"np.{name_of(fun)}({{}}{', ' * bool(written)}{written})"
    return View(x, lambda array: array.seen(lambda ghost: fun(ghost, *rest, **options), form))


def _getitem(op: Op) -> View | Lowering | Made | None:
    if op.kwargs:  # the index by name
        return None
    x, key, *arrays = op.args
    if not isinstance(x, Value):
        return None
    parts = key if isinstance(key, tuple) else (key,)
    if not arrays and all(p is None or p is Ellipsis or isinstance(p, (slice, int, np.integer)) for p in parts):
        if op.result.ndim == 0 and not any(isinstance(p, (slice, type(Ellipsis))) for p in parts):
            key = (*parts, Ellipsis)  # a 0-d view, where NumPy would give a scalar
        return View(x, lambda array: array.at(key))
    is_table = len(parts) == 1 and isinstance(parts[0], Slot) and len(arrays) == 1 and isinstance(arrays[0], Value)
    if is_table and arrays[0].dtype.kind in "iu":  # rows of a table: an embedding
        return Lowering(lambda out, a, s: [call(np.take, [a[0], a[2]], out, "{a}.take({b}, 0, {out})")])
    if op.result.ndim and _is_written(parts) and not any(isinstance(p, np.ndarray) for p in parts):
        return Made(lambda a: f"{a[0]}[{index_text(key, a[2:])}]")
    return None


def _is_written(parts: Any) -> bool:
    """Whether an index can be written down: it has no arrays that are not operands."""
    simple = (slice, int, np.integer, type(None), type(Ellipsis), Slot)
    return all(isinstance(p, simple) for p in parts)


def _scatter(op: Op) -> Lowering | None:
    """Zeros, and an array added at an index."""
    g, *rest = op.args
    arrays = rest[2:]
    key = rest[1] if len(rest) > 1 else op.kwargs["key"]
    parts = key if isinstance(key, tuple) else (key,)
    if not _is_written(parts) or not isinstance(g, Value):
        return None

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        if not arrays:
            part = out.seen(lambda ghost: ghost[key], f"{{}}[{index_text(key)}]")
            if part is not None:
                return [fill(out, 0), copy(a[0], part)]
        names = {"a": a[0], **{f"index_{i}": one for i, one in enumerate(a[3:])}}
        index = index_text(key, [f"{{index_{i}}}" for i in range(len(a) - 3)])
        line = f"{{out}}[{index}] = {{a}}"
        if len(arrays) == 1 and index.rstrip(",") == "{index_0}" and arrays[0].dtype.kind in "iu" and out.ndim > 1:
            line, names["add_rows"] = "{add_rows}({out}, {index_0}, {a})", add_rows
        elif arrays and not all(isinstance(x, Value) and x.dtype.kind == "b" for x in arrays):
            line, names["add_at"] = f"{{add_at}}({{out}}, ({index.rstrip(',')},), {{a}})", np.add.at
        return [fill(out, 0), call(scatter, [a[0], *a[3:], out], out, line, names=names)]

    if any(isinstance(p, slice) for p in parts) and arrays:
        return None  # slices inside a tuple cannot be written with colons
    return Lowering(statements)


def _join(op: Op) -> Lowering | None:
    if not all(isinstance(a, Value) and a.dtype == op.result.dtype for a in op.args):
        return None
    axis = op.kwargs.get("axis", 0)

    def statements(out: Array, a: list[Any], scratch: list[Array]) -> list[Statement]:
        names = {f"part_{i}": one for i, one in enumerate(a)}
        parts = "".join(f"{{{name}}}, " for name in names)
        line = f"{{np.concatenate}}(({parts.rstrip()}), {axis}, {{out}})"
        return [call(np.concatenate, a, out, line, names=names, axis=axis % out.ndim)]

    return Lowering(statements)


LOWERINGS: dict[Any, Callable[[Op], View | Lowering | Made | None]] = {
    astype: lambda op: Lowering(lambda out, a, s: [copy(a[0], out)]) if isinstance(op.args[0], Value) else None,
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
    **LOWERINGS_OF_FUSED,
    **LOWERINGS_OF_IMAGES,
}

# Operations that have a lowering of their own, and are not to be taken apart.
WHOLE = frozenset(LOWERINGS)
