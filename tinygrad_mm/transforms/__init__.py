"""Transforms: each takes a function and gives back its derivative, a function again.

Floor 5. A derivative is computed by the rules that everything else uses, so transforms compose to any order:
`grad(grad(f))`, `jacobian(grad(f))`, a `grad` of a function that calls `jvp`, a `hessian` of checkpointed functions.
Four things hold for all of them.

**Arguments** may be arrays, numbers, Tensors, and nested lists, tuples and dicts of these. A `Module` counts as a dict
of its parameters: `f` receives the module itself, and its gradient is a dict from path to gradient. Parameters are
differentiated as the objects they are (those that do not require a gradient are constants); so a module that `f` closes
over and also is given is one and the same.

**Results** are arrays where the arguments are arrays, numbers and modules. Where a Tensor is among the arguments, or
inside a function that is being transformed itself, they are Tensors; and these are recorded where they depend on
something outside that requires a gradient (unless under `no_grad`). So pass `Tensor(x)` where the derivative with
respect to x is to become part of a loss, as in a gradient penalty.

**Dtypes** stay: the gradient of a float32 array is float32. Python floats become float32, NumPy's keep their type.

**Nothing else** changes. No `.grad` is touched, neither of an argument nor of what `f` closes over. A derivative counts
what reaches the result through f's own arguments, nothing that a variable of the same value does elsewhere: nested
transforms do not confuse their variables.
"""

from tinygrad_mm.transforms.checkpointing import checkpoint
from tinygrad_mm.transforms.derivatives import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp
from tinygrad_mm.transforms.local import local_jacobian
from tinygrad_mm.transforms.vectors import flatten, unflatten

__all__ = [
    "checkpoint",
    "flatten",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "local_jacobian",
    "unflatten",
    "value_and_grad",
    "vjp",
]
