"""Writes a picture as text: one line for each operation, indented by the modules around it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tinygrad_mm.drawing.arrays import ArrayView
from tinygrad_mm.drawing.picture import LEAVES, Picture, PictureCluster, PictureEdge, PictureNode
from tinygrad_mm.drawing.text import printable, shape_text

__all__ = ["outline"]

STEP = "  "


def outline(picture: Picture) -> str:
    """The picture as lines of text; operations are called by their ids.

    >>> x = PictureNode("n0", "input", "x", (2,), "float32")
    >>> y = PictureNode("n1", "operation", "sin", (2,), "float32")
    >>> print(outline(Picture((x, y), (PictureEdge("n0", "n1"),))))
    computation graph: 1 operation, 1 edge
    <BLANKLINE>
    x: input (2,) float32
    n1 = sin(x)  (2,) float32
    <BLANKLINE>
    """
    clusters = {cluster.id: cluster for cluster in picture.clusters}
    names = {node.id: _reference(node) for node in picture.nodes}
    incoming: dict[str, list[PictureEdge]] = {}
    back: dict[str, list[PictureEdge]] = {}
    for edge in picture.edges:
        ends = (back, edge.tail) if edge.kind == "backward" else (incoming, edge.head)
        ends[0].setdefault(ends[1], []).append(edge)
    lines = [_headline(picture), ""]
    inside: list[str] = []  # the frames around the line before
    for node in picture.nodes:
        if node.chip or (node.kind == "constant" and node.shape is None) or node.kind == "sum":
            continue
        around = _around(node.cluster, clusters)
        common = 0
        while common < min(len(inside), len(around)) and inside[common] == around[common]:
            common += 1
        lines += [STEP * i + _frame(clusters[around[i]]) for i in range(common, len(around))]
        inside = around
        lines += [STEP * len(around) + line for line in _lines(node, incoming.get(node.id, []), names)]
        lines += [STEP * (len(around) + 2) + line for line in _sent(back.get(node.id, []), names)]
    return "\n".join([*lines, *(["", *picture.notes] if picture.notes else []), ""])


def _headline(picture: Picture) -> str:
    operations = sum(max(node.inside, 1) * node.repeats for node in picture.nodes if node.computed)
    edges = sum(edge.kind == "forward" for edge in picture.edges)
    parameters = [node for node in picture.nodes if node.kind == "parameter" and not node.chip]
    parts = [f"{operations} operation{'s' * (operations != 1)}", f"{edges} edge{'s' * (edges != 1)}"]
    if parameters:
        numbers = sum(math.prod(node.shape or ()) for node in parameters)
        parts.append(f"{len(parameters)} parameter{'s' * (len(parameters) != 1)} ({numbers:,} numbers)")
    return f"computation graph: {', '.join(parts)}"


def _around(cluster: str | None, clusters: dict[str, PictureCluster]) -> list[str]:
    """The frames around something, the outermost first."""
    found = []
    while cluster is not None:
        found.append(cluster)
        cluster = clusters[cluster].parent
    return found[::-1]


def _frame(cluster: PictureCluster) -> str:
    call = f" (call {cluster.call} of {cluster.calls})" if cluster.calls > 1 else ""
    times = f" ×{cluster.repeats}" if cluster.repeats > 1 else ""
    return f"[{printable(f'{cluster.path} {cluster.label}'.strip())}{call}{times}]"


def _reference(node: PictureNode) -> str:
    """How a line calls a node that it uses."""
    return printable(node.title) if node.kind in LEAVES or node.kind == "detached" else node.id


def _lines(node: PictureNode, incoming: list[PictureEdge], names: dict[str, str]) -> Iterator[str]:
    shape = f"{node.results} results" if node.results > 1 else shape_text(node.shape or (), node.dtype)
    shape = "" if node.shape is None and node.results == 1 else shape
    operands = [names[edge.tail] + (f".{edge.label}" if edge.label else "") for edge in incoming]
    if node.computed:
        title = node.title + (f" ×{node.repeats}" if node.repeats > 1 else "")
        given = [operand for operand, edge in zip(operands, incoming, strict=True) if edge.kind == "forward"]
        called = f"{title}({', '.join([*given, *node.options])})"
        named = f" {node.name!r}" if node.name else ""
        stopped = "" if node.gradient or node.kind == "error" else "  (no gradient)"
        failed = "  <-- FAILED" if node.kind == "error" else ""
        yield printable(f"{node.id}{named} = {called}  {shape}".rstrip()) + stopped + failed
    elif node.kind == "output":
        yield printable(f"{node.title}: output {operands[0] if operands else ''} {shape}")
    else:
        uses = f", used {node.uses} times" if node.uses > 1 else ""
        origin = f" of {operands[0]}" if operands else ""
        yield printable(f"{node.title}: {node.kind}{origin} {shape}".rstrip()) + uses
    for note in node.notes:
        yield STEP * 2 + printable(note)
    for what, view in node.views:
        yield from (STEP * 2 + line for line in _view(what, view))


def _view(what: str, view: ArrayView) -> Iterator[str]:
    if view.missing:
        yield f"{what}: {view.missing}"
        return
    alarm = f"  !! {view.alarm}" if view.alarm else ""
    yield f"{what}: {view.statistics}".rstrip(": ") + alarm if view.statistics else f"{what}:{alarm}"
    width = max((len(number) for row in view.numbers for number in row), default=0)
    for row in view.numbers:
        yield STEP + " ".join(number.rjust(width) for number in row)


def _sent(back: list[PictureEdge], names: dict[str, str]) -> Iterator[str]:
    """The contributions that go back from an operation."""
    for edge in back:
        if edge.norm is not None:
            yield f"sends back {edge.label}" + (f" to {names[edge.head]}" if edge.head in names else "")
