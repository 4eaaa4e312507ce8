"""Pictures of computation graphs.

Floor 5: a pure reader of the graph. `reader` turns a graph into a `Picture` of plain data, `dot` writes a picture in
the language of Graphviz, `renderer` has a layout program make an image of that; `drawing` puts them together.
"""

from __future__ import annotations

from tinygrad_mm.drawing.drawing import Drawing, draw
from tinygrad_mm.drawing.picture import Picture, PictureCluster, PictureEdge, PictureNode

__all__ = ["Drawing", "Picture", "PictureCluster", "PictureEdge", "PictureNode", "draw"]
