"""Operations taken apart: a primitive written in NumPy functions becomes these functions.

Its body is called on tracing Tensors, as the traced function itself was. What the rules compute once more on the way
back (softmax, after cross entropy has computed its exponentials) becomes visible, and is then computed once. A body
that works in place, looks at values, or calls what is no operation stays one call.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.compiler.fused import EXPANSIONS
from tinygrad_mm.compiler.program import Op, Program, Value, now, stand_in_for
from tinygrad_mm.compiler.tracing import ops_of
from tinygrad_mm.graph import Vertex, entered, select, tick
from tinygrad_mm.tensor import Tensor

__all__ = ["inline"]


def inline(program: Program, whole: frozenset[Any]) -> None:
    """Replace calls of primitives by what they consist of, except those of the functions in `whole`."""
    replaced: dict[int, Value] = {}
    keep: list[Value] = []  # what was replaced, so that no new Value takes its id
    outputs: dict[int, tuple[Value, ...]] = {}  # of calls that return several, by the id of the tuple's Value
    hopeless: set[Any] = set(whole)
    ops: list[Op] = []
    todo = list(reversed(program.ops))
    while todo:
        op = todo.pop()
        op.args = [now(a, replaced) for a in op.args]
        if op.fun is select and id(op.args[0]) in outputs:
            replaced[id(op.result)] = outputs[id(op.args[0])][op.args[1] if len(op.args) > 1 else op.kwargs["index"]]
            keep.append(op.result)
            continue
        inner = None
        if hasattr(op.fun, "forward") and op.fun not in hopeless:
            inner = _body(op)
            if inner is None:
                hopeless.add(op.fun)
        if inner is None:
            ops.append(op)
            continue
        made, result = inner
        keep.append(op.result)
        if isinstance(result, tuple):
            outputs[id(op.result)] = result
        else:
            replaced[id(op.result)] = result
        if any(new.fun is op.fun for new in made):  # a body that calls itself comes to an end somewhere
            ops.extend(made)
        else:
            todo.extend(reversed(made))
    program.ops = ops
    program.substitute(replaced)


def _body(op: Op) -> tuple[list[Op], Any] | None:
    """The calls inside a primitive, and its result (a tuple where it returns several); None where it stays whole."""
    values: dict[int, Value] = {}
    keep: list[Any] = []

    def stand_in(a: Any) -> Any:
        if not isinstance(a, Value):
            return a
        if type(a.example) is tuple:
            raise TypeError("several results at once")
        tensor = Tensor(a.example)
        add(tensor, a)
        return tensor

    def add(vertex: Vertex, value: Value) -> None:
        values[id(vertex)] = value
        keep.append(vertex)

    def value_of(vertex: Vertex) -> Value:
        if id(vertex) not in values:
            add(vertex, Value(vertex.value, "constant"))
        return values[id(vertex)]

    try:
        tensors = [stand_in(a) for a in op.args]
        start = tick()
        with entered(tracing=True, recording=False, scope=op.scope, assigned=None), np.errstate(all="ignore"):
            body = EXPANSIONS.get(op.fun) or op.fun.forward  # type: ignore[attr-defined]
            returned = body(*tensors, **op.kwargs)
        several = isinstance(returned, (tuple, list))
        results = [*returned] if several else [returned]
        examples = op.result.example if several else (op.result.example,)
        if not all(
            isinstance(r, Tensor) and r.value.shape == e.shape and r.value.dtype == e.dtype
            for r, e in zip(results, examples, strict=True)
        ):
            return None
        made = ops_of(results, value_of, add, start)
        found = tuple(value_of(r) for r in results)
    except Exception:  # whatever it is that this body does with arrays and Tensors cannot do
        return None
    for new in made:
        new.result.example = stand_in_for(new.result.example)
        new.backward = op.backward
        new.scope = op.scope
    return made, found if several else found[0]
