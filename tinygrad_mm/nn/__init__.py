"""Networks: modules, layers, and how their weights start."""

from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import Dense, Linear, Sequential
from tinygrad_mm.nn.module import Module
from tinygrad_mm.nn.overview import summary
from tinygrad_mm.tensor import Buffer, Parameter

__all__ = ["Buffer", "Dense", "Linear", "Module", "Parameter", "Sequential", "init", "summary"]
