"""A backward pass of its own that records the norm of the gradient at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.backprop import backpropagate
from tinygrad_mm.debug.messages import call_of, value_of
from tinygrad_mm.graph import RULES, Monitor, Vertex, entered

__all__ = ["Step", "Trace", "magnitude"]


class Step(NamedTuple):
    """What the rule of the call that made `vertex` sent to argument number `argument`: its Euclidean norm."""

    vertex: Vertex
    argument: int
    norm: float


class Trace(Monitor):
    """The gradients and contributions of a backward pass from a loss to one tensor.

    The graph stays as it is, and no `.grad` is written. Hooks are called, since they may change the gradient.
    """

    def __init__(self, loss: Vertex, tensor: Vertex) -> None:
        self.gradients: dict[int, Any] = {}  # by id of a vertex
        self.into: dict[int, list[Step]] = {}  # what a vertex received, by its id
        with entered(monitor=self, recording=False, lines=False):
            seed = np.ones_like(loss.value)
            backpropagate([loss], [seed], targets=[tensor], release=False)

    # -- what the backward pass reports

    def visit(self, vertex: Vertex, g: Any) -> None:
        """The gradient of a vertex is complete."""
        self.gradients[id(vertex)] = g

    def contribution(self, vertex: Vertex, i: int, c: Any) -> None:
        """A rule has sent something to argument i."""
        _, args = call_of(vertex)
        self.into.setdefault(id(args[i]), []).append(Step(vertex, i, magnitude(c)))

    # -- what can be read off

    def factor(self, step: Step) -> float:
        """By how much a step multiplied the norm of the gradient."""
        before = magnitude(self.gradients[id(step.vertex)])
        return step.norm / before if before else 0.0

    def underflows(self, step: Step) -> bool:
        """Whether a step that sent only zeros would have sent something else in float64."""
        node, args = call_of(step.vertex)
        rule, i = RULES[node.fun], step.argument
        gradient, y, values = _wide((self.gradients[id(step.vertex)], step.vertex.value, value_of(args)))
        try:
            if rule.each is not None:
                return bool(np.any(rule.each(i, gradient, y, *values, **node.kwargs)))
            vjp = rule.vjps[i]
            return vjp is not None and bool(np.any(vjp(gradient, y, *values, **node.kwargs)))
        except Exception:  # a rule that keeps to its own dtype
            return False

    def climb(self, vertex: Vertex) -> list[Step]:
        """The steps from a vertex up to the loss along the largest contributions, nearest first."""
        steps: list[Step] = []
        while self.into.get(id(vertex)):
            steps.append(max(self.into[id(vertex)], key=lambda step: step.norm))
            vertex = steps[-1].vertex
        return steps

    def turns(self, tensor: Vertex, bad: Callable[[float], bool]) -> list[tuple[Step, list[Step]]]:
        """The steps at which a gradient turned bad on its way to a tensor, the nearest first.

        Each comes with the steps between it and the tensor, nearest to the tensor first. `bad` judges by the norm.
        """
        found: list[tuple[Step, list[Step]]] = []
        seen: set[int] = set()
        waiting: list[tuple[Vertex, list[Step]]] = [(tensor, [])]
        for vertex, between in waiting:  # grows while it is read
            for step in self.into.get(id(vertex), []):
                if not bad(step.norm) or id(step.vertex) in seen:
                    continue
                if not bad(magnitude(self.gradients[id(step.vertex)])):
                    found.append((step, between))
                else:
                    seen.add(id(step.vertex))
                    waiting.append((step.vertex, [*between, step]))
        return found


def _wide(a: Any) -> Any:
    """The same arrays in float64."""
    if isinstance(a, (list, tuple)):
        return type(a)(map(_wide, a))
    return a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a


def magnitude(g: Any) -> float:
    """Euclidean norm of an array (of several together), in float64 and without overflow on the way.

    >>> magnitude(np.array([3.0, 4.0])), magnitude([np.array(3e200), None]) == 3e200
    (5.0, True)
    """
    if isinstance(g, (list, tuple)):
        return magnitude(np.array([magnitude(part) for part in g if part is not None]))
    sizes = np.abs(np.asarray(g, np.float64))
    top = float(sizes.max()) if sizes.size else 0.0
    return top * float(np.sqrt(np.sum(np.square(sizes / top)))) if top and np.isfinite(top) else top
