"""From an optimizer's formula, a pure function of arrays, to a program that runs in place, without temporaries.

The formula is called once on tracing Tensors. The graph it leaves behind is written out as one Python function of NumPy
calls, each with an `out=` buffer: `print(optimizer.source)` shows it. Numbers that change from step to step (the
learning rate, the step number, options that follow a schedule) stay numbers of double precision and are worked out
first, once per step.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

import numpy as np

from tinygrad_mm.graph import entered, name_of
from tinygrad_mm.optim.emitter import Emitter
from tinygrad_mm.tensor import Tensor

__all__ = ["Program", "replaced", "schedules_in", "trace_formula"]


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
    temporaries: int  # how many buffers of that length it needs
    numbers: int  # how many numbers `scalars` returns


class Number(Tensor):
    """An option that follows a schedule, while the formula is traced. It counts as true, so that a formula may ask
    `if momentum:` whether there is a momentum at all.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


def schedules_in(options: Mapping[str, Any]) -> dict[str, Callable[[int], float]]:
    """The options that are schedules, by name; those inside a tuple are numbered.

    >>> list(schedules_in({"momentum": abs, "betas": (abs, 0.9), "epsilon": 0.1}))
    ['momentum', 'betas_0']
    """
    found: dict[str, Callable[[int], float]] = {}
    for name, value in options.items():
        if callable(value):
            found[name] = value
        elif type(value) is tuple:
            found.update(schedules_in({f"{name}_{i}": v for i, v in enumerate(value)}))
    return found


def replaced(name: str, value: Any, numbers: Mapping[str, Any]) -> Any:
    """An option with numbers in place of its schedules, by the names that `schedules_in` gives them."""
    if type(value) is tuple:
        return tuple(replaced(f"{name}_{i}", v, numbers) for i, v in enumerate(value))
    return numbers[name] if callable(value) else value


def trace_formula(
    formula: Callable[..., Any],
    states: Sequence[str],
    scalars: Sequence[str],
    options: Mapping[str, Any],
) -> Program:
    """Trace `formula(parameter, gradient, *states, *scalars, **options)`, which returns (new parameter, *new states).

    Options that are schedules (callable) become further numbers, after `scalars` in the order of `schedules_in`.

    Raises ValueError for a formula that returns something else, or that does not treat each element alone.

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
    scheduled = list(schedules_in(options))
    taken = {"parameter", "gradient", *scalars, *scheduled}
    for name in states:
        if not name.isidentifier() or iskeyword(name) or name in taken:
            raise ValueError(f"a state cannot be called {name!r}; choose a word of its own, such as mean_square")
        taken.add(name)
    arrays = {name: Tensor(np.ones(1)) for name in ("parameter", "gradient", *states)}
    numbers: dict[str, Any] = {name: Tensor(np.ones(())) for name in scalars}
    numbers |= {name: Number(np.ones(())) for name in scheduled}
    with entered(tracing=True, recording=True, scope=None), np.errstate(all="ignore"):
        outputs = formula(
            *arrays.values(),
            *(numbers[name] for name in scalars),
            **{name: replaced(name, value, numbers) for name, value in options.items()},
        )
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        if len(outputs) != 1 + len(states):
            raise ValueError(
                f"{name_of(formula)} returned {len(outputs)} values; it must return the new parameter and the new "
                f"{len(states)} states ({', '.join(states) or 'none'})"
            )
        for place, output in zip(("parameter", *states), outputs, strict=True):
            if not isinstance(output, Tensor) or output.value.shape != (1,):
                what = "one number" if isinstance(output, Tensor) else f"a {type(output).__name__}"
                raise ValueError(
                    f"{name_of(formula)} returned {what} as the new {place}; compute it from the arrays it is given, "
                    f"element by element, or return {place} as it came"
                )
        emitter = Emitter(arrays, numbers, outputs)
    source = emitter.source
    filename = f"<formula {hash(source) & 0xFFFFFFFF:08x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = dict(emitter.namespace)
    exec(compile(source, filename, "exec"), namespace)
    return Program(
        source,
        namespace["update"],
        namespace["scalars"],
        tuple(emitter.constants),
        emitter.temporaries,
        len(emitter.used),
    )
