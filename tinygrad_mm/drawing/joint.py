"""Records a backward pass as a graph, to be drawn together with the forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinygrad_mm.drawing.names import Names
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Vertex, topological
from tinygrad_mm.tensor import Tensor

__all__ = ["joined"]


def joined(outputs: Sequence[Any], names: Names) -> tuple[list[Any], list[Vertex], Names]:
    """Outputs of both passes, the vertices of the forward pass, and names with those of the gradients.

    Of a single output the gradients with respect to all leaves are taken; with several, they are taken for these.

    Raises RuntimeError where there is no gradient to take.
    """
    y = outputs[0]
    forward = topological([y], everything=True)
    if len(outputs) > 1:
        return list(outputs), forward, names
    leaves = [v for v in forward if v.node is None and v.requires_grad]
    called = {id(leaf): names.of(leaf) or f"leaf {i}" for i, leaf in enumerate(leaves, 1)}
    title = names.of(y) or "output"
    seed = Tensor(np.ones_like(y.value), requires_grad=True)  # so that all that is computed from it is recorded
    found = gradients(y, leaves, gradient=seed, create_graph=True)
    known = {id(seed): f"∂{title}/∂{title}"}
    for g, leaf in zip(found, leaves, strict=True):  # two leaves may have one and the same gradient
        before = f"{known[id(g)]}, " if id(g) in known else ""
        known[id(g)] = f"{before}∂{title}/∂{called[id(leaf)]}"
    distinct = list({id(g): g for g in found}.values())
    return [y, *distinct], forward, replace(names, variables={**names.variables, **known})
