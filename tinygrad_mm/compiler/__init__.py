"""`compile`: from a function of Tensors to the NumPy code that one would write by hand.

`capture` finds what a function reads besides its arguments, `tracing` makes a `program` of one call and of its
gradients, `passes/` rewrite it, `placement` plans its memory, with statements from the `lowerings`, which `validation`
checks, and `emitter` or `loops/` write these out; a `plan` says what arguments a program is right for, and runs it as
an operation of the graph; `compiled` keeps the plans. A reader of the graph: no rule, function or layer mentions it.

A new program proves itself (`verification`, `proof`): at its first calls the function itself is called once more, from
the same parameters, buffers and generators. Where they differ by more than rounding, the function's own result is used,
a `CompileWarning` names what differs and the pass that did it, and calls of this kind go to the function from then on.

The contract. Inputs, read or looked at before each call, are: the arguments; the closure cells, globals and defaults
that the code of the function, and of functions of yours that it calls, names; modules, with all their attributes,
parameters, buffers and hooks; what dicts, lists, tuples, sets, deques and partials in these places hold, in order; of
other objects, functions and classes the attributes that the code names, and their methods, those of operators too.
Anything else is fixed when traced, and `retrace()` traces anew.

Fixed are, for example: attributes reached by other ways than their name (`getattr(self, name)`, `vars(self)`); files,
environment variables and clocks; code and globals of installed packages; items of subclasses of containers that they
hand out differently; arrays of more than 1 KB that NumPy alone works on and that are written in place (used with
Tensors, or replaced, they are seen); elements of an argument that equals itself after a change. What code does besides
computing (printing, counting) happens while it is traced or compared, and hooks of tensors inside are traced.

What raises: looking at the values of a tensor (`if t > 0`, `t.item()`, `np.asarray(t)`), shapes that depend on values
(`x[mask]`), writing into arrays, draws that are not recorded (`rng.normal()`), changing what is read (`self.n += 1`).

Results are new arrays each time. Where a monitor or source lines are on (`detect_anomaly`), inside another trace, and
while another thread traces, the function itself is called.
"""

from __future__ import annotations

from tinygrad_mm.compiler.compiled import Compiled, compile
from tinygrad_mm.compiler.verification import CompileWarning

__all__ = ["CompileWarning", "Compiled", "compile"]
