"""Writes a picture in the language of Mermaid, which GitHub and many wikis draw."""

from __future__ import annotations

from tinygrad_mm.drawing.labels import short_lines
from tinygrad_mm.drawing.picture import Kind, Picture, PictureCluster, PictureEdge, PictureNode
from tinygrad_mm.drawing.text import printable, shortened
from tinygrad_mm.drawing.theme import ALARM, BACKWARD, INK, LOOKS, REPEAT

__all__ = ["mermaid"]

SHAPES: dict[Kind, tuple[str, str]] = {
    "input": ("([", "])"),
    "parameter": ("[(", ")]"),
    "buffer": ("[[", "]]"),
    "constant": (">", "]"),
    "detached": ("{{", "}}"),
    "operation": ("(", ")"),
    "function": ("(", ")"),
    "module": ("[/", "\\]"),
    "sum": ("((", "))"),
    "output": ("(((", ")))"),
    "error": ("[\\", "/]"),
}
PLAIN = frozenset(" .,:()/+-=×·…'!?")  # besides letters and digits, what Mermaid leaves alone inside quotes
LONGEST = 60


def mermaid(picture: Picture, direction: str = "LR") -> str:
    """The picture as a Mermaid flowchart.

    >>> print(mermaid(Picture((PictureNode("n0", "input", 'x "1"'),), ())).splitlines()[1].strip())
    n0(["x #34;1#34;"]):::input
    """
    lines = [f"flowchart {direction}"]
    _subgraphs(picture, lines)
    for number, edge in enumerate(picture.edges):
        lines.append(f"  {edge.tail} {_arrow(edge)} {edge.head}")
        color = {"backward": BACKWARD, "repeat": REPEAT}.get(edge.kind)
        if color is not None:
            lines.append(f"  linkStyle {number} stroke:{color},color:{color}")
    for kind in dict.fromkeys(node.kind for node in picture.nodes):
        look = LOOKS[kind]
        lines.append(f"  classDef {kind} fill:{look.fill},stroke:{look.border},color:{INK}")
    alarming = [node.id for node in picture.nodes if node.alarm]
    lines += [f"  style {node} stroke:{ALARM},stroke-width:3px" for node in alarming]
    return "\n".join([*lines, *(f"%% {printable(note)}" for note in picture.notes), ""])


def _subgraphs(picture: Picture, lines: list[str]) -> None:
    """Nodes, each inside the subgraphs of its clusters; without recursion, as modules may be nested deeply."""
    nodes: dict[str | None, list[PictureNode]] = {}
    inner: dict[str | None, list[PictureCluster]] = {}
    for node in picture.nodes:
        nodes.setdefault(node.cluster, []).append(node)
    for cluster in picture.clusters:
        inner.setdefault(cluster.parent, []).append(cluster)
    waiting: list[PictureCluster | str] = []
    lines += [f"  {_node(node)}" for node in nodes.get(None, ())]
    waiting += reversed(inner.get(None, ()))
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            lines.append(item)
            continue
        call = f" · call {item.call} of {item.calls}" if item.calls > 1 else ""
        times = f" ×{item.repeats}" if item.repeats > 1 else ""
        title = f"{item.path} {item.label}{call}{times}".strip()
        lines.append(f'  subgraph {item.id}["{_quoted(title)}"]')
        lines += [f"  {_node(node)}" for node in nodes.get(item.id, ())]
        waiting.append("  end")
        waiting += reversed(inner.get(item.id, ()))


def _node(node: PictureNode) -> str:
    opening, closing = SHAPES[node.kind]
    text = "<br/>".join(_quoted(line) for line in short_lines(node))
    return f'{node.id}{opening}"{text}"{closing}:::{node.kind}'


def _arrow(edge: PictureEdge) -> str:
    arrow = "-->" if edge.gradient and edge.kind == "forward" else "-.->"
    label = edge.label or ("next" if edge.kind == "repeat" else "")
    return f'{arrow}|"{_quoted(label)}"|' if label else arrow


def _quoted(text: str) -> str:
    """Any text between quotes: whatever is neither letter, digit nor harmless becomes an entity by its number."""
    text = shortened(printable(text), LONGEST)
    return "".join(c if c.isalnum() or c in PLAIN else f"#{ord(c)};" for c in text) or " "
