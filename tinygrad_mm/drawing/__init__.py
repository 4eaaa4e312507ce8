"""Pictures of computation graphs.

Floor 5: a pure reader of the graph. `reader` turns a graph into a `Picture` of plain data; `folding` and `repeats` make
a large one small, `sums` adds the way back. Renderers write a picture down: `dot` in the language of Graphviz, of which
`renderer` has a layout program make an image; `outline` as text, `mermaid` for wikis, `page` for a browser. `drawing`
puts them together; `failure` draws what led to an error.
"""

from __future__ import annotations

from tinygrad_mm.drawing.drawing import Drawing, draw
from tinygrad_mm.drawing.failure import draw_error
from tinygrad_mm.drawing.picture import Picture, PictureCluster, PictureEdge, PictureNode
from tinygrad_mm.drawing.reader import Reading, reading
from tinygrad_mm.drawing.source_lines import record_lines

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
