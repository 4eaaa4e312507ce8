"""Watches a backward pass: what each operation contributes to the gradient of each of its operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.backprop import backpropagate, unbroadcast
from tinygrad_mm.drawing.arrays import norm_of
from tinygrad_mm.graph import Monitor, Vertex, entered

__all__ = ["Contribution", "Contributions", "contributions_to"]


@dataclass(frozen=True)
class Contribution:
    """The norm of a contribution to a gradient, and the axes over which it was summed because of broadcasting."""

    norm: float
    axes: tuple[int, ...] = ()


Contributions = dict[tuple[int, int], Contribution]  # by the id of the computed vertex and the number of the argument


def contributions_to(outputs: Sequence[Vertex]) -> Contributions:
    """Every contribution in a backward pass from the sum of all elements of the outputs.

    The pass is one of its own: the graph stays, and so does every `.grad`. Hooks run, as they are part of what a
    gradient is.

    Raises RuntimeError where no output requires a gradient, where the graph was released, and where a parameter has
    been changed since the forward pass.
    """
    roots = [output for output in outputs if output.requires_grad]
    if not roots:
        raise RuntimeError(
            "draw: show='backward' needs an output that requires a gradient; set requires_grad=True on the tensors "
            "that it is computed from, and compute it outside no_grad()"
        )
    watch = _Watch()
    with entered(recording=False, monitor=watch), np.errstate(all="ignore"):
        ones = [np.ones_like(root.value) for root in roots]
        backpropagate(roots, ones, release=False)
    return watch.found


class _Watch(Monitor):
    def __init__(self) -> None:
        self.found: Contributions = {}

    def contribution(self, vertex: Vertex, i: int, gradient: Any) -> None:
        node = vertex.node
        assert node is not None
        assert node.args is not None
        shape = node.args[i].value.shape if type(node.args[i].value) is not tuple else gradient.shape
        lead = gradient.ndim - len(shape)
        stretched = [lead + k for k, n in enumerate(shape) if n == 1 and gradient.shape[lead + k] != 1]
        axes = (*range(lead), *stretched)
        self.found[id(vertex), i] = Contribution(norm_of(unbroadcast(gradient, shape)), axes)
