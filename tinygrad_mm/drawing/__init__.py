"""Pictures of computation graphs.

Floor 5: a pure reader of the graph. `reader` turns a graph into a `Picture` of plain data (`call` reads one recorded
call, `arrays` one array); `folding` and `repeats` make a large one small, `backward` adds the backward pass. Renderers
write a picture down: `dot` in the language of Graphviz (with `labels` in the colours of `theme`), of which `renderer`
has a layout program make an image; `outline` as text, `mermaid` for wikis, `page` for a browser. `drawing` has what
users call: `draw`, `draw_error` and the `Drawing` that they return.
"""

from __future__ import annotations

from tinygrad_mm.drawing.drawing import Drawing, draw, draw_error, record_lines
from tinygrad_mm.drawing.picture import Picture, PictureCluster, PictureEdge, PictureNode
from tinygrad_mm.drawing.reader import Reading, reading

__all__ = [
    "Drawing",
    "Picture",
    "PictureCluster",
    "PictureEdge",
    "PictureNode",
    "Reading",
    "draw",
    "draw_error",
    "reading",
    "record_lines",
]
