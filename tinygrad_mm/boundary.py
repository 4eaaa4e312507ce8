"""Where the graph of one call of a function ends: at leaves, and at results that were there before the call.

Floor 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tinygrad_mm.graph import Vertex

__all__ = ["as_leaves", "boundary"]


def boundary(roots: Sequence[Vertex], start: int) -> list[Vertex]:
    """Where the graph behind the roots ends, as seen from the time `start`: leaves, and results that are older."""
    found: list[Vertex] = []
    seen: set[int] = set()
    stack = [root for root in roots if root.requires_grad]
    while stack:
        vertex = stack.pop()
        if id(vertex) in seen:
            continue
        seen.add(id(vertex))
        if vertex.node is None or vertex.version < start:
            found.append(vertex)
        else:
            stack.extend(a for a in vertex.node.args or () if isinstance(a, Vertex) and a.requires_grad)
    return found


@contextmanager
def as_leaves(vertices: Sequence[Vertex]) -> Iterator[None]:
    """Let vertices be leaves for the length of a `with` block.

    A pass over one call of a function is to end at what was there before the call: so it stays as short as the call,
    and a value that depends on another one counts as itself alone. (Meanwhile no other thread may differentiate through
    these very vertices; leaves, such as parameters, may be shared.)
    """
    nodes = [vertex.node for vertex in vertices]
    try:
        for vertex in vertices:
            vertex.node = None
        yield
    finally:
        for vertex, node in zip(vertices, nodes, strict=True):
            vertex.node = node
