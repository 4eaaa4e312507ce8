"""Softmax cross-entropy and its gradient: each row of logits is read once, while it is in cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import prediction_error
from tinygrad_mm.compiler.loops.accesses import Accesses, contiguous
from tinygrad_mm.compiler.loops.scalars import typename
from tinygrad_mm.compiler.program import Op, Value
from tinygrad_mm.functional.losses import _cross_entropy

__all__ = ["WHOLE_HERE", "Entropy", "entropy_of"]

WHOLE_HERE = frozenset({_cross_entropy})  # not to be taken apart


@dataclass
class Entropy:
    """`lost`: the cross entropy of logits and labels; `error`: softmax less one-hot, times `scale`. Either may lack."""

    logits: Value
    labels: Value
    ops: list[Op]
    lost: Value | None = None
    mean: bool = True
    each: bool = False
    error: Value | None = None
    scale: Value | None = None

    @property
    def results(self) -> list[Value]:
        """What is computed."""
        return [v for v in (self.lost, self.error) if v is not None]

    def operands(self) -> list[Value]:
        """What is read."""
        return [v for v in (self.logits, self.labels, self.scale) if v is not None]

    def text(self) -> str:
        """The body of a function of pointers z, labels, lost, error, scale; it returns 1 for a label out of range."""
        kind = typename(self.logits.dtype)
        exp = "exp32" if self.logits.dtype == np.float32 else "math.exp"
        rows, classes = self.labels.size, self.logits.shape[-1]
        lost, error = self.lost is not None, self.error is not None
        lines = [
            f"whole = {kind}(0)" if lost and not self.each else "",
            f"factor = {kind}(scale[0])" if self.scale is not None else "",
            f"for i in range({rows}):",
            f"    row = i * {classes}",
            "    label = labels[i]",
            f"    if label < 0 or label >= {classes}:",
            "        return 1",
            "    chosen = z[row + label]",
            "    highest = rank(z[row])",
            f"    for j in range(1, {classes}):",
            "        highest = larger(highest, rank(z[row + j]))",
            "    top = unrank(highest)",
            f"    total = {kind}(0)",
            f"    for j in range({classes}):",
            f"        e = {exp}(z[row + j] - top)",
            "        total = plus(total, e)",
            "        error[row + j] = e" if error else "",
        ]
        if lost:
            lines += [
                "    own = math.log(total) - (chosen - top)",
                "    lost[i] = own" if self.each else "    whole = whole + own",
            ]
        if error:
            factor = " * factor" if self.scale is not None else ""
            lines += [
                f"    for j in range({classes}):",
                f"        error[row + j] = error[row + j] / total{factor}",
                f"    error[row + label] -= {'factor' if factor else f'{kind}(1)'}",
            ]
        if lost and not self.each:
            lines.append(f"lost[0] = whole / {kind}({rows})" if self.mean else "lost[0] = whole")
        return "\n".join([*(line for line in lines if line), "return 0"])


def entropy_of(op: Op, accesses: Accesses) -> Entropy | None:
    """How a cross entropy, or its gradient, is done; None for anything else."""
    if op.fun not in (_cross_entropy, prediction_error) or len(op.args) < 2:
        return None
    logits, labels = op.args[:2]
    if not (isinstance(logits, Value) and isinstance(labels, Value)) or labels.dtype.kind not in "iu":
        return None
    if logits.dtype not in (np.float32, np.float64) or not logits.size or labels.shape != logits.shape[:-1]:
        return None
    if any(accesses[v].strides != contiguous(v.shape) for v in (logits, labels)) or op.result.dtype != logits.dtype:
        return None
    if op.fun is prediction_error:
        return Entropy(logits, labels, [op], error=op.result) if len(op.args) == 2 and not op.kwargs else None
    options: dict[str, Any] = {**dict(zip(("reduction",), op.args[2:], strict=False)), **op.kwargs}
    reduction = options.pop("reduction", "mean")
    if options or reduction not in ("mean", "sum", "none"):
        return None
    return Entropy(logits, labels, [op], lost=op.result, mean=reduction == "mean", each=reduction == "none")
