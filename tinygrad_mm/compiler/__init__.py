"""`compile`: from a function of Tensors to the NumPy code that one would write by hand.

`capture` finds what a function reads besides its arguments, `tracing` makes a `program` of one call and of its
gradients, `passes/` rewrite it, `storage` plans its memory, `emitter` writes it out with the `kernels`; a `plan` says
what arguments it is right for, a `call` is one run of it in the graph, and `compiled` keeps the plans. A reader of the
graph: no rule, function or layer mentions it.

What a compiled function notices. Each call looks at shapes, dtypes and `requires_grad` of its arguments and at their
Python values; at the closure cells, globals and defaults of the function and of the functions of yours that it calls;
at all attributes of the modules it uses, `training` and hooks included; at lists, tuples, dicts and sets in these
places; and at the attributes that the code names of any other object (`self.scale`, `config.rate`). Parameters,
buffers, and arrays in cells and globals of the function itself are read anew. Where anything else has changed, the
function is traced again.

What raises. Python code that looks at the values of a tensor (`if t > 0`, `t.item()`, `float(t)`, `np.asarray(t)`,
`t.data`, `array[t]`); shapes that depend on values (`x[mask]`, `np.nonzero`); writing into arrays; draws that are not
recorded (`rng.normal()`, `np.random.rand()`); a function that changes what it reads (`self.count += 1`).

What cannot be noticed, so that a program may be out of date or differ from the function:

- arrays larger than 1 KB that only NumPy itself works on (`np.linalg.inv(self.matrix) @ x`, where `self.matrix` is an
  array behind an attribute, in a list, or of a function that this one calls) and that are then written in place: the
  result is part of the program. Used in an operation on Tensors directly, or replaced by other arrays, they are seen;
- attributes that are reached by other ways than their name (`getattr(self, name)`, `vars(self)`), values from files,
  environment variables, clocks, and whatever else is read by Python code of installed packages;
- elements of an object that compares equal to itself after it was changed, given as an argument;
- draws of a generator made without a seed inside the function, and `.grad`, which is an array: both are constants;
- what Python code does besides computing (printing, logging, counting): it happens while the function is traced only;
  `x += 1` on an array that is given together with Tensors makes a new one and leaves the caller's alone;
- hooks and `retain_grad` of tensors inside the function: hooks are traced, gradients are not kept;
- calls of a `@primitive` function that have effects of their own: equal calls may become one, unused ones none.

Results are new arrays each time: a function that returns its argument returns a copy. Where a monitor or source lines
are on (`detect_anomaly`), and inside another trace, the function itself is called.
"""

from __future__ import annotations

from tinygrad_mm.compiler.compiled import Compiled, compile
from tinygrad_mm.compiler.verification import CompileWarning

__all__ = ["CompileWarning", "Compiled", "compile"]
