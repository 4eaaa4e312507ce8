from tinygrad_mm.tensor import *
