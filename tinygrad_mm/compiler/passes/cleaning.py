"""What needs not be computed: what nobody reads, the same thing twice, what is known already, what changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.program import Op, Program, Value, now
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.rules.shape import astype

__all__ = ["remove_dead", "remove_identities", "share_common"]

_DRAWS = frozenset({uniform_like})


def remove_dead(program: Program) -> None:
    """Drop every call whose result is not needed in the end; draws stay, since the next one depends on them."""
    needed = {id(v) for v in program.wanted()}
    kept: list[Op] = []
    for op in reversed(program.ops):
        if id(op.result) in needed or op.fun in _DRAWS:
            kept.append(op)
            needed.update(id(a) for a in op.operands())
    program.ops = kept[::-1]


def share_common(program: Program) -> None:
    """Compute the same call of the same arguments once."""
    seen: dict[Any, Value] = {}
    replaced: dict[int, Value] = {}
    ops = []
    for op in program.ops:
        op.args = [replaced.get(id(a), a) if isinstance(a, Value) else a for a in op.args]
        if op.fun in _DRAWS:
            ops.append(op)
            continue
        key = (op.fun, tuple(map(_key, op.args)), tuple((k, _key(v)) for k, v in sorted(op.kwargs.items())))
        if key in seen:
            replaced[id(op.result)] = seen[key]
        else:
            seen[key] = op.result
            ops.append(op)
    program.ops = ops
    program.substitute(replaced)


def _key(a: Any) -> Any:
    """Something hashable that is equal for equal arguments."""
    if isinstance(a, Value):
        if a.kind == "constant" and a.size <= 64:
            return ("constant", a.shape, a.dtype.str, a.example.tobytes())
        return ("value", id(a))
    if isinstance(a, np.ndarray):
        return ("constant", a.shape, a.dtype.str, a.tobytes()) if a.size <= 64 else ("array", id(a))
    if isinstance(a, slice):
        return ("slice", a.start, a.stop, a.step)
    if isinstance(a, (tuple, list)):
        return (type(a), *map(_key, a))
    try:
        hash(a)
    except TypeError:
        return ("object", id(a))
    return (type(a), a, str(a))  # 0.0 and -0.0 are equal, but not the same


def remove_identities(program: Program) -> None:
    """Drop calls that return their argument as it is."""
    replaced: dict[int, Value] = {}
    ops = []
    makers = program.makers()
    for op in program.ops:
        op.args = [now(a, replaced) for a in op.args]
        _as_reshape(op)
        same = _turned(op) or _same_as(op, makers)
        if same is not None:
            replaced[id(op.result)] = same
        else:
            ops.append(op)
    program.ops = ops
    program.substitute(replaced)


def _as_reshape(op: Op) -> None:
    """Write what adds or drops axes of length 1 as `reshape(x, shape)`, so that other passes know one of them only."""
    if op.fun in (np.expand_dims, np.squeeze):
        op.fun, op.args, op.kwargs = np.reshape, [op.args[0], op.result.shape], {}


def _turned(op: Op) -> Value | None:
    """Write what exchanges the axes of a matrix as `transpose(x)`; the matrix, where they stay as they are."""
    if op.fun not in (np.transpose, np.swapaxes, np.moveaxis) or not isinstance(op.args[0], Value):
        return None
    first, *options = op.args
    if first.ndim != 2 or not (options or op.kwargs):
        return None
    if op.fun(np.empty((2, 3)), *options, **op.kwargs).shape == (2, 3):
        return first
    op.fun, op.args, op.kwargs = np.transpose, [first], {}
    return None


def _same_as(op: Op, makers: dict[int, Op]) -> Value | None:
    """The argument that a call returns unchanged, if it does."""
    result = op.result
    first = op.args[0] if op.args else None
    if type(result.example) is tuple or not isinstance(first, Value) or type(first.example) is tuple:
        return _scaled_by_one(op) if type(result.example) is not tuple else None
    alike = first.shape == result.shape and first.dtype == result.dtype
    if op.fun in (stop_gradient, np.positive, np.copy) and alike and result.order is None:
        return first
    if op.fun is np.transpose and first.ndim == 2 and result.shape == first.shape[::-1]:
        inner = makers.get(id(first))
        if inner is not None and inner.fun is np.transpose and isinstance(inner.args[0], Value):
            return inner.args[0] if inner.args[0].shape == result.shape else None
    if op.fun in (astype, np.reshape, np.ravel, np.broadcast_to) and alike:
        if op.fun in (np.reshape, np.ravel) and op.kwargs.get("order", "C") != "C":
            return None
        return first
    for i, a in enumerate(op.args):  # a + broadcast(b): the addition broadcasts by itself
        maker = makers.get(id(a)) if isinstance(a, Value) else None
        if maker is not None and maker.fun is np.broadcast_to and isinstance(op.fun, np.ufunc) and not op.kwargs:
            shapes = [x.shape for j, x in enumerate(op.args) if j != i and isinstance(x, Value)]
            small = maker.args[0]
            if op.fun.signature is None and np.broadcast_shapes(small.shape, *shapes) == result.shape:
                op.args[i] = small
    return _scaled_by_one(op)


def _scaled_by_one(op: Op) -> Value | None:
    if op.fun not in (np.multiply, np.divide) or len(op.args) != 2:
        return None
    pairs = [op.args[::-1]] if op.fun is np.divide else [op.args[::-1], op.args]
    for one, other in pairs:
        if not isinstance(other, Value) or other.shape != op.result.shape or other.dtype != op.result.dtype:
            continue
        constant = one.example if isinstance(one, Value) and one.kind == "constant" else one
        is_number = isinstance(constant, (float, int)) or (isinstance(constant, np.ndarray) and constant.ndim == 0)
        if is_number and constant == 1:
            return other
    return None
