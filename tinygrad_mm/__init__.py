from tinygrad_mm import nn, optim
from tinygrad_mm.functional import *
from tinygrad_mm.gradient import gradients
from tinygrad_mm.graph import defcomposite, defstopped, defvjp, defvjp_each, primitive
from tinygrad_mm.recording import apply, as_array
from tinygrad_mm.tensor import *
