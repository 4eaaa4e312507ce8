"""The backward pass in a picture: each contribution to a gradient drawn back along its edge, or the pass as a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygrad_mm.backprop import backpropagate, unbroadcast
from tinygrad_mm.drawing.arrays import norm_of
from tinygrad_mm.drawing.picture import Picture, PictureEdge, PictureNode
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import Monitor, Vertex, entered, topological
from tinygrad_mm.names import Names
from tinygrad_mm.tensor import Tensor

__all__ = ["NOTE", "BackwardPass", "Contribution", "backward_pass", "joined", "width", "with_backward"]


@dataclass(frozen=True)
class Contribution:
    """A contribution to a gradient: its norm, the axes over which it was summed because of broadcasting, as a text.

    The text is the number itself where there is just one.
    """

    norm: float
    axes: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class BackwardPass:
    """What a backward pass sent where.

    `contributions` are by the id of a computed vertex and the number of the argument that it went to, `gradients` by
    the id of a vertex, those between the leaves and the outputs too.
    """

    contributions: Mapping[tuple[int, int], Contribution]
    gradients: Mapping[int, Any]


def backward_pass(outputs: Sequence[Vertex]) -> BackwardPass:
    """A backward pass from the sum of all elements of the outputs.

    The pass is one of its own: the graph stays, and so does every `.grad`. Hooks run, as they are part of what a
    gradient is.

    Raises RuntimeError where no output requires a gradient, where the graph was released, and where a parameter has
    been changed since the forward pass.
    """
    roots = [output for output in outputs if output.requires_grad]
    if not roots:
        raise RuntimeError(
            "draw: the way back needs an output that requires a gradient; set requires_grad=True on the tensors "
            "that it is computed from, and compute it outside no_grad()"
        )
    watch = _Watch()
    with entered(recording=False, monitor=watch), np.errstate(all="ignore"):
        ones = [np.ones_like(root.value) for root in roots]
        backpropagate(roots, ones, release=False)
    return BackwardPass(watch.contributions, watch.gradients)


class _Watch(Monitor):
    def __init__(self) -> None:
        self.contributions: dict[tuple[int, int], Contribution] = {}
        self.gradients: dict[int, Any] = {}

    def visit(self, vertex: Vertex, gradient: Any) -> None:
        if not isinstance(gradient, list):  # that of a call with several results, which its users show
            self.gradients[id(vertex)] = gradient

    def contribution(self, vertex: Vertex, i: int, gradient: Any) -> None:
        node = vertex.node
        assert node is not None
        assert node.args is not None
        if isinstance(gradient, list):  # to a call with several results, of which one was used
            gradient = next(one for one in gradient if one is not None)
        shape = node.args[i].value.shape if type(node.args[i].value) is not tuple else gradient.shape
        lead = gradient.ndim - len(shape)
        stretched = [lead + k for k, n in enumerate(shape) if n == 1 and gradient.shape[lead + k] != 1]
        axes = (*range(lead), *stretched)
        sent = unbroadcast(gradient, shape)
        norm = norm_of(sent)
        text = f"{sent.item():.3g}" if sent.size == 1 else f"{norm:.3g}"
        self.contributions[id(vertex), i] = Contribution(norm, axes, text)


NOTE = (
    "backward: each edge is labelled with its contribution, a number or the norm of several, and the axes that "
    "broadcasting sums; Σ adds up"
)


def with_backward(picture: Picture) -> Picture:
    """The picture with an edge back for every edge whose contribution is known.

    Where several contributions to the gradient of one array meet, they go by way of a Σ.
    """
    carrying = [e for e in picture.edges if e.kind == "forward" and e.norm is not None]
    into: dict[tuple[str, str], list[PictureEdge]] = {}  # by the node and which of its results
    for edge in carrying:
        into.setdefault((edge.tail, edge.label), []).append(edge)
    nodes = {node.id: node for node in picture.nodes}
    sums: dict[str, list[PictureNode]] = {}
    back: list[PictureEdge] = []
    for (tail, _), edges in into.items():
        target = tail
        if len(edges) > 1:
            target = f"s{sum(map(len, sums.values()))}"
            origin = nodes[tail]
            node = PictureNode(target, "sum", "Σ", cluster=origin.cluster, notes=(f"gradient of {_name(origin)}",))
            sums.setdefault(tail, []).append(node)
            back.append(PictureEdge(target, tail, kind="backward", label=""))
        for edge in edges:
            axes = f"Σ axis {','.join(map(str, edge.axes))}" if edge.axes else ""
            words = " ".join(part for part in (edge.sent, axes) if part)
            back.append(PictureEdge(edge.head, target, kind="backward", label=words, norm=edge.norm))
    ordered = [n for node in picture.nodes for n in (node, *sums.get(node.id, ()))]
    notes = (*picture.notes, NOTE) if back else picture.notes
    return replace(picture, nodes=tuple(ordered), edges=(*picture.edges, *back), notes=notes)


def width(norm: float | None, largest: float) -> float:
    """The width of an edge by the norm of what it carries, in points: half a point less for each factor of ten.

    >>> width(5.0, 5.0), round(width(0.005, 5.0), 6), width(0.0, 5.0)
    (3.0, 1.5, 0.5)
    """
    if norm is None or not math.isfinite(norm):
        return 3.0
    if norm <= 0 or largest <= 0:
        return 0.5
    return max(0.5, 3.0 + 0.5 * math.log10(norm / largest))


def _name(node: PictureNode) -> str:
    return node.name or node.title


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
