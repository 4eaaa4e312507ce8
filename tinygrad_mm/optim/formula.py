"""From an optimizer's formula, a pure function of arrays, to a program that runs in place, without temporaries.

The formula is called once on tracing Tensors. The graph it leaves behind is written out as one Python function of NumPy
calls, each with an `out=` buffer: `print(optimizer.source)` shows it. Hyperparameters that change from step to step
(the learning rate, the step number) stay numbers of double precision and are worked out first, once per step.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.graph import Vertex, entered, name_of, topological
from tinygrad_mm.tensor import Tensor

__all__ = ["Program", "trace_formula"]

_NO_POSITIONAL_OUT = (np.maximum, np.minimum)  # NumPy deprecates their third positional argument


@dataclass(frozen=True)
class Program:
    """A traced formula.

    `update(parameter, gradient, *states, *scalars, *constants, *temporaries)` writes the new parameter and states in
    place, on 1-d arrays of one length; `scalars(*inputs)` returns the numbers it needs.
    """

    source: str
    update: Callable[..., None]
    scalars: Callable[..., tuple[float, ...]]
    constants: tuple[float, ...]
    temporaries: int


def trace_formula(
    formula: Callable[..., tuple[Any, ...]],
    states: Sequence[str],
    scalars: Sequence[str],
    options: Mapping[str, Any],
) -> Program:
    """Trace `formula(parameter, gradient, *states, *scalars, **options)`, which returns (new parameter, *new states).

    >>> def descent(parameter, gradient, learning_rate):
    ...     return (parameter - learning_rate * gradient,)
    >>> print(trace_formula(descent, [], ["learning_rate"], {}).source)
    def scalars(learning_rate):
        return (learning_rate,)
    <BLANKLINE>
    def update(parameter, gradient, learning_rate, t0):
        multiply(learning_rate, gradient, t0)
        subtract(parameter, t0, parameter)
    """
    arrays = ["parameter", "gradient", *states]
    inputs = {name: Tensor(np.ones(1)) for name in arrays} | {name: Tensor(np.ones(())) for name in scalars}
    with entered(tracing=True, recording=True, scope=None):
        outputs = formula(*inputs.values(), **options)
    if len(outputs) != 1 + len(states):
        raise ValueError(
            f"{name_of(formula)} returned {len(outputs)} values; it must return the new parameter and the new "
            f"{len(states)} states ({', '.join(states) or 'none'})"
        )
    return _emit(inputs, outputs, arrays, list(scalars))


def _emit(inputs: dict[str, Tensor], outputs: Sequence[Tensor], arrays: list[str], scalars: list[str]) -> Program:
    names: dict[int, str] = {id(t): name for name, t in inputs.items()}
    calls = [t for t in topological(outputs, everything=True) if t.node is not None]
    numbers = [t for t in calls if t.value.ndim == 0]
    body = [t for t in calls if t.value.ndim > 0]

    constants: dict[float, str] = {}

    def operand(a: Any, hoist: bool) -> str:
        if isinstance(a, Vertex):
            return names[id(a)]
        return constants.setdefault(float(a), f"c{len(constants)}") if hoist else repr(a)

    # Numbers: plain expressions, once per step.
    first: list[str] = []
    for i, t in enumerate(numbers):
        assert t.node is not None and t.node.args is not None
        names[id(t)] = f"s{i}"
        first.append(f"s{i} = {name_of(t.node.fun)}({', '.join(operand(a, False) for a in t.node.args)})")

    # Arrays: each call writes into a buffer that is free by then; a new state takes the place of the old one where
    # nothing needs that any more.
    last_use: dict[int, int] = {}
    for i, t in enumerate(body):
        assert t.node is not None and t.node.args is not None
        for a in t.node.args:
            last_use[id(a)] = i
    results = {"parameter": outputs[0], **dict(zip(arrays[2:], outputs[1:], strict=True))}
    home = {id(t): name for name, t in results.items()}
    last_use.update({id(t): len(body) for t in outputs})
    lines: list[str] = []
    free: list[str] = []
    temporaries = 0
    for i, t in enumerate(body):
        node = t.node
        assert node is not None and node.args is not None
        operands = [operand(a, True) for a in node.args]
        for a in {id(a): a for a in node.args}.values():
            if isinstance(a, Vertex) and a.node is not None and last_use[id(a)] == i and names[id(a)].startswith("t"):
                free.append(names[id(a)])
        place = home.get(id(t))
        if place is not None and last_use.get(id(inputs[place]), -1) <= i:
            out = place
        elif free:
            out = free.pop()
        else:
            out, temporaries = f"t{temporaries}", temporaries + 1
        names[id(t)] = out
        call = f"{name_of(node.fun)}({', '.join(operands)}"
        if not isinstance(node.fun, np.ufunc):
            lines.append(f"{out}[...] = {call})")
        else:
            lines.append(f"{call}, {'out=' if node.fun in _NO_POSITIONAL_OUT else ''}{out})")
    for place, t in results.items():
        if names[id(t)] != place:
            lines.append(f"copyto({place}, {names[id(t)]})")

    used = [names[id(t)] for t in [*(inputs[s] for s in scalars), *numbers]]
    used = [s for s in used if any(s in _words(line) for line in lines)]
    parameters = [*arrays, *used, *constants.values(), *(f"t{i}" for i in range(temporaries))]
    source = "\n".join(
        [
            f"def scalars({', '.join(scalars)}):",
            *(f"    {line}" for line in first),
            f"    return ({''.join(f'{s}, ' for s in used).rstrip()})".replace(", )", ",)"),
            "",
            f"def update({', '.join(parameters)}):",
            *(f"    {line}" for line in lines),
        ]
    )
    namespace: dict[str, Any] = {name_of(t.node.fun): t.node.fun for t in calls if t.node} | {"copyto": np.copyto}
    filename = f"<formula {hash(source) & 0xFFFFFFFF:08x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(source, filename, "exec"), namespace)
    return Program(source, namespace["update"], namespace["scalars"], tuple(constants), temporaries)


def _words(line: str) -> set[str]:
    return set(line.replace("(", " ").replace(")", " ").replace(",", " ").split())
