"""Softmax, cross entropy and its gradient in one piece of memory, where the gradient is scaled by a known number.

In a training step the way back begins with a constant: 1, or the learning rate. What it does to the gradient of the
loss is done to two small tables once, and no longer to each batch: the one-hot columns are `scale`, not 1, and the sums
that exponentials are divided by come as `sum / scale`, once for each class, so that no call has to broadcast. The
logarithms of the sums lie below the logits, and a row of `-scale` below the one-hot columns: one product of vectors is
the whole loss.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.compiler.fused import mean_loss, one_hot_columns, scaled_error, scaled_hots, scaled_loss, softmax_sums
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.rules.shape import join

__all__ = ["scale_losses"]

CLASSES_UP_TO = 16  # with more, summing the exponentials once for each class costs more than it saves


class _Loss(NamedTuple):
    """The ops of a loss and its gradient."""

    logits: Value
    labels: Value
    scale: Value
    loss: Op
    hot: Op
    gradient: Op
    replaced: list[Op]


def scale_losses(program: Program, known: set[int]) -> None:
    """Rewrite each loss whose gradient is scaled by a number that is a constant or among the `known`, by id."""
    for op in [op for op in program.ops if op.fun is mean_loss]:
        found = _found(op, program)
        if found is not None and (found.scale.kind == "constant" or id(found.scale) in known):
            _rewrite(program, found)


def _found(loss: Op, program: Program) -> _Loss | None:
    """The calls behind `scale * (exp(z) / sum(exp(z)) - hot)`, with z = logits - max(logits), and behind the loss."""
    makers, uses = program.makers(), program.uses()

    def maker(value: Any, *functions: Any) -> Op | None:
        op = makers.get(id(value)) if isinstance(value, Value) else None
        return op if op is not None and op.fun in functions else None

    def users(op: Op, *functions: Any) -> list[Op] | None:
        """What reads a result, in the order of these functions; None if anything else does."""
        found = uses.get(id(op.result), [])
        by = {user.fun: user for user in found}
        alone = len(found) == len(functions) and set(by) == set(functions) and op.result not in program.wanted()
        return [by[f] for f in functions] if alone else None

    logs, z, labels, hots = loss.args
    between: list[Op] = []
    while (view := maker(logs, np.reshape, np.transpose)) and users(view, loss.fun if not between else between[-1].fun):
        between.append(view)
        logs = view.args[0]
    log, shifted, hot = maker(logs, np.log), maker(z, np.subtract), maker(hots, one_hot_columns)
    total = maker(log.args[0], np.sum) if log else None
    e = maker(total.args[0], np.exp) if total else None
    largest = maker(shifted.args[1], np.max) if shifted else None
    if not (log and shifted and hot and total and e and largest):
        return None
    share = (users(e, np.sum, np.divide) or (None, None))[1]
    error = (users(share, np.subtract) or (None,))[0] if share else None
    scaled = (users(error, np.multiply) or (None,))[0] if error else None
    if not (share and error and scaled):
        return None
    scale = next((a for a in scaled.args if a is not error.result), None)
    if not isinstance(scale, Value):
        return None
    fits = (
        scale.shape == ()
        and scale.dtype == z.dtype
        and z.dtype in (np.float32, np.float64)
        and labels.dtype.kind in "iu"
        and 0 < z.shape[0] <= CLASSES_UP_TO
        and z.shape[1] > 0
        and largest.args[0] is shifted.args[0]
        and e.args[0] is z
        and share.args == [e.result, total.result]
        and error.args == [share.result, hot.result]
        and total.result.shape == largest.result.shape == (1, z.shape[1])
        and users(shifted, np.exp, loss.fun)
        and users(largest, np.subtract)
        and users(total, np.log, np.divide)
        and users(log, between[-1].fun if between else loss.fun)
        and users(hot, loss.fun, np.subtract)
    )
    if not fits:
        return None
    replaced = [largest, shifted, e, total, log, *between, share, error, hot, loss, scaled]
    return _Loss(shifted.args[0], labels, scale, loss, hot, scaled, replaced)


def _rewrite(program: Program, found: _Loss) -> None:
    """Put the calls of `fused` in the place of those that were found."""
    (classes, n), dtype = found.logits.shape, found.logits.dtype
    made: list[Op] = []

    def call(fun: Any, args: list[Any], shape: tuple[int, ...], name: str = "") -> Value:
        result = Value(np.broadcast_to(np.zeros((), dtype), shape), name=name)
        made.append(Op(fun, args, {}, result, found.loss.scope))
        return result

    hots = np.eye(classes + 1, dtype=dtype)  # a label beyond the last class finds the last column
    hots[-1], hots[:, -1] = -1, np.nan
    table = call(np.multiply, [Value(hots, "constant", "hots"), found.scale], hots.shape, "scaled_hots")
    ones = Value(np.ones((classes, classes), dtype), "constant", "ones")
    shares = call(np.divide, [ones, found.scale], ones.shape)
    rows = call(join, [shares, Value(np.ones((1, classes), dtype), "constant", "ones")], (classes + 1, classes), "rows")
    factor = call(np.divide, [Value(np.asarray(-1 / n, dtype), "constant", "share"), found.scale], (), "factor")

    sums = call(softmax_sums, [found.logits, rows], (3 * classes + 2, n))
    hot = call(scaled_hots, [table, found.labels], (classes + 1, n))
    made.append(Op(scaled_loss, [sums, found.labels, hot, factor], {}, found.loss.result, found.loss.scope))
    error = Op(scaled_error, [sums, hot], {}, found.gradient.result, found.gradient.scope, True)

    gone = {id(op) for op in found.replaced}
    ops: list[Op] = []
    for op in program.ops:
        if op is found.loss:
            ops.extend(made)
        elif op is found.gradient:
            ops.append(error)
        elif id(op) not in gone:
            ops.append(op)
    program.ops = ops
