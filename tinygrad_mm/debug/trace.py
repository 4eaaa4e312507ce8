"""A private backward pass that writes down what happened to the gradient at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.backprop import backpropagate
from tinygrad_mm.graph import Vertex, entered

__all__ = ["Edge", "Trace", "magnitude"]


class Edge(NamedTuple):
    """What the rule of the call that made `vertex` sent to argument number `argument`: its Euclidean norm."""

    vertex: Vertex
    argument: int
    norm: float


class Trace:
    """The gradients and contributions of a pass from a loss to one tensor.

    The graph stays as it is, and no `.grad` is written. Hooks are called, since they may change the gradient.
    """

    def __init__(self, loss: Vertex, tensor: Vertex) -> None:
        self.gradients: dict[int, Any] = {}  # by id of a vertex
        self.into: dict[int, list[Edge]] = {}  # what a vertex received, by its id
        with entered(monitor=self, recording=False, lines=False), np.errstate(all="ignore"):
            seed = np.ones_like(loss.value)
            backpropagate([loss], [seed], lambda vertex, g, owned: None, targets=[tensor], release=False)

    # -- what the backward pass reports

    def result(self, *call: Any) -> None:
        """A result on the way: a rule that runs a function again."""

    def visit(self, vertex: Vertex, g: Any) -> None:
        """The gradient of a vertex is complete."""
        self.gradients[id(vertex)] = g

    def contribution(self, vertex: Vertex, i: int, c: Any) -> None:
        """A rule has sent something to argument i."""
        assert vertex.node is not None and vertex.node.args is not None
        self.into.setdefault(id(vertex.node.args[i]), []).append(Edge(vertex, i, magnitude(c)))

    # -- what can be read off

    def norm(self, vertex: Vertex) -> float:
        """Euclidean norm of a vertex's gradient."""
        return magnitude(self.gradients[id(vertex)])

    def factor(self, edge: Edge) -> float:
        """By how much a step multiplied the norm of the gradient."""
        before = self.norm(edge.vertex)
        return edge.norm / before if before else 0.0

    def climb(self, vertex: Vertex) -> list[Edge]:
        """The steps from a vertex up to the loss along the largest contributions, nearest first."""
        steps: list[Edge] = []
        while self.into.get(id(vertex)):
            steps.append(max(self.into[id(vertex)], key=lambda edge: edge.norm))
            vertex = steps[-1].vertex
        return steps

    def turns(self, tensor: Vertex, bad: Callable[[float], bool]) -> list[tuple[Edge, list[Edge]]]:
        """The steps at which a gradient became bad on its way to a tensor, each with the steps from there to the tensor.

        `bad` judges by the norm.
        """
        found: list[tuple[Edge, list[Edge]]] = []
        seen: set[int] = set()
        waiting: list[tuple[Vertex, list[Edge]]] = [(tensor, [])]
        for vertex, below in waiting:  # grows while it is read: the nearest come first
            for edge in self.into.get(id(vertex), []):
                if not bad(edge.norm):
                    continue
                if not bad(self.norm(edge.vertex)):
                    found.append((edge, below))
                elif id(edge.vertex) not in seen:
                    seen.add(id(edge.vertex))
                    waiting.append((edge.vertex, [edge, *below]))
        return found


def magnitude(g: Any) -> float:
    """Euclidean norm of an array (of several together), in float64 and without overflow on the way.

    >>> magnitude(np.array([3e30, 4e30], np.float32)) / 1e30
    5.0
    """
    if g is None:
        return 0.0
    if isinstance(g, (list, tuple)):
        return float(np.hypot.reduce([magnitude(part) for part in g])) if g else 0.0
    wide = np.abs(np.asarray(g, np.float64))
    top = float(wide.max()) if wide.size else 0.0
    return top * float(np.sqrt(np.sum(np.square(wide / top)))) if top and np.isfinite(top) else top
