"""ONNX: a network's forward pass as a file that other programs run (extra `onnx`).

Floor 8. The graph that the network records is written down call by call: a row of `OPERATIONS` for each function.
Layers that ONNX has as one operation (convolutions, recurrent layers, average pooling) are a row of `LAYERS`. What does
not depend on the input is a constant of the file.
"""

from tinygrad_mm.onnx.exporting import export

__all__ = ["export"]
