"""The one runner behind every optimizer: a pure formula over flat buffers, in blocks that stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.graph import tick
from tinygrad_mm.optim.formula import Program, trace_formula
from tinygrad_mm.tensor import Tensor

__all__ = ["Optimizer"]

BLOCK = 32 * 1024  # elements: 128 KB of float32, so that a block's parameter, gradient and states stay in cache


class Optimizer:
    """Base class: a subclass names its states and gives its formula.

    `parameters` is a list of tensors, or a list of dicts `{"parameters": [...], "learning_rate": ...}` for groups with
    options of their own. A parameter whose `.grad` is None is skipped whole. Options may be changed between steps, by
    `optimizer.learning_rate = ...` for all groups or `optimizer.groups[i]["learning_rate"] = ...` for one.

    The formula is one pure function of NumPy calls,
    `formula(parameter, gradient, *states, learning_rate, step, **options)`, that returns the new parameter and the new
    states.

    Raises ValueError for no parameters or a parameter given twice, TypeError for anything but leaf Tensors.

    >>> class Descent(Optimizer):
    ...     @staticmethod
    ...     def formula(parameter, gradient, learning_rate, step):
    ...         return (parameter - learning_rate * gradient,)
    >>> w = Tensor([1.0], requires_grad=True)
    >>> optimizer = Descent([w], learning_rate=0.5)
    >>> (w * w).backward(); optimizer.step(); w
    Tensor([0.], dtype=float32, requires_grad=True)
    """

    states: tuple[str, ...] = ()
    formula: Callable[..., tuple[Any, ...]]

    def __init__(self, parameters: Iterable[Any], learning_rate: float, **options: Any) -> None:
        given: list[Any] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        groups: list[Any] = given if given and all(isinstance(g, dict) for g in given) else [{"parameters": given}]
        self.groups: list[dict[str, Any]] = []
        seen: set[int] = set()
        for group in groups:
            self.groups.append({"learning_rate": learning_rate, **options, **group})
            members = self.groups[-1]["parameters"] = list(group["parameters"])
            for p in members:
                _check_parameter(p, seen)
        if not seen:
            raise ValueError(f"{type(self).__name__}: there are no parameters to optimize; pass model.parameters()")
        for group in self.groups:
            self.check(group)
        self._flats: list[list[_Flat]] = [[] for _ in self.groups]
        self._programs: dict[Any, Program] = {}

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for options that make no sense; a subclass adds its own."""
        if not group["learning_rate"] >= 0:
            raise ValueError(f"{type(self).__name__}: learning_rate={group['learning_rate']} must not be negative")

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first group; setting it sets that of all groups."""
        return float(self.groups[0]["learning_rate"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.groups:
            group["learning_rate"] = value
            self.check(group)

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, in order."""
        return [p for group in self.groups for p in group["parameters"]]

    @property
    def source(self) -> str:
        """The update as it runs: the formula traced into NumPy calls on preallocated buffers."""
        return self._program(self.groups[0]).source

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters (`.grad = None`)."""
        for group in self.groups:
            for p in group["parameters"]:
                p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, in place.

        Raises ValueError where a `.grad` was set to something of another shape.
        """
        for group, flats in zip(self.groups, self._flats, strict=True):
            if not flats:
                flats.extend(_flats_of(group["parameters"], self.states))
            elif any(not flat.holds() for flat in flats):
                flats[:] = _adopted_again(group["parameters"], flats, self.states)
            program = self._program(group)
            for flat in flats:
                flat.step(program, group["learning_rate"])

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The states kept for a parameter: arrays of its shape by name, and its number of steps.

        Raises KeyError for a parameter of some other optimizer.
        """
        for group, flats in zip(self.groups, self._flats, strict=True):
            if not flats:
                flats.extend(_flats_of(group["parameters"], self.states))
            for flat in flats:
                for i, p in enumerate(flat.parameters):
                    if p is parameter:
                        return {"step": flat.steps[i], **{s: flat.view(v, i) for s, v in flat.states.items()}}
        raise KeyError("this tensor is not a parameter of this optimizer")

    def _program(self, group: dict[str, Any]) -> Program:
        options = {k: v for k, v in group.items() if k not in ("parameters", "learning_rate")}
        key = tuple(options.items())
        if key not in self._programs:
            self.check(group)
            self._programs[key] = trace_formula(type(self).formula, self.states, ("learning_rate", "step"), options)
        return self._programs[key]

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v}" for k, v in self.groups[0].items() if k != "parameters")
        return f"{type(self).__name__}({len(self.parameters)} parameters, {options})"


def _check_parameter(p: Any, seen: set[int]) -> None:
    if not isinstance(p, Tensor) or p.node is not None:
        what = "a tensor that was computed" if isinstance(p, Tensor) else f"a {type(p).__name__}"
        raise TypeError(f"an optimizer takes leaf Tensors, such as model.parameters(); this is {what}")
    if p.value.dtype.kind != "f":
        raise TypeError(f"an optimizer takes floating tensors; this one has dtype {p.value.dtype}")
    if id(p) in seen:
        raise ValueError(f"a parameter of shape {p.shape} was given to the optimizer twice")
    seen.add(id(p))


def _flats_of(parameters: Sequence[Tensor], states: Sequence[str]) -> list[_Flat]:
    """One flat buffer per dtype."""
    dtypes = list(dict.fromkeys(p.value.dtype for p in parameters))
    return [_Flat([p for p in parameters if p.value.dtype == d], states) for d in dtypes]


def _adopted_again(parameters: Sequence[Tensor], flats: Sequence[_Flat], states: Sequence[str]) -> list[_Flat]:
    """Some parameter has another array than ours. Where the shape and dtype are the same, copy it in; else start anew.

    States follow their parameters where the shape is still the same.
    """
    if all(flat.adopt() for flat in flats):
        return list(flats)
    new = _flats_of(parameters, states)
    for flat in new:
        for i, p in enumerate(flat.parameters):
            old, j = next((f, f.parameters.index(p)) for f in flats if any(q is p for q in f.parameters))
            if old.shapes[j] == flat.shapes[i]:
                flat.steps[i] = old.steps[j]
                for name in states:
                    flat.view(flat.states[name], i)[...] = old.view(old.states[name], j)
    return new


class _Flat:
    """Parameters of one dtype laid end to end: each parameter's array is a view into `values`."""

    def __init__(self, parameters: Sequence[Tensor], states: Sequence[str]) -> None:
        self.parameters = _ByIdentity(parameters)
        self.shapes = [p.value.shape for p in parameters]
        self.dtype = parameters[0].value.dtype
        self.starts = [0, *np.cumsum([p.value.size for p in parameters]).tolist()]
        self.values = np.empty(self.starts[-1], self.dtype)
        self.states = {name: np.zeros_like(self.values) for name in states}
        self.steps = [0] * len(parameters)
        self.views = [self.view(self.values, i) for i in range(len(parameters))]
        self.active: tuple[bool, ...] = ()
        self.runs: list[_Run] = []
        self.program: Program | None = None
        self.adopt()

    def view(self, flat: Any, i: int) -> Any:
        """The part of a flat array that belongs to the i-th parameter, in its shape."""
        return flat[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])

    def holds(self) -> bool:
        """Whether every parameter's array still is our view."""
        return all(p.value is v for p, v in zip(self.parameters, self.views, strict=True))

    def adopt(self) -> bool:
        """Copy the parameters' arrays in and make them views; False, and nothing done, where one no longer fits."""
        if any(
            p.value.shape != s or p.value.dtype != self.dtype for p, s in zip(self.parameters, self.shapes, strict=True)
        ):
            return False
        for p, view in zip(self.parameters, self.views, strict=True):
            if p.value is not view:
                view[...] = p.value
                p.value = view
        return True

    def step(self, program: Program, learning_rate: float) -> None:
        active = tuple(p.grad is not None for p in self.parameters)
        if active != self.active or program is not self.program:
            self.active, self.program = active, program
            self.runs = self._plan(program)
        for run in self.runs:
            for i in run.members:
                self.steps[i] += 1
            run.execute(learning_rate, self.steps[run.members[0]])

    def _plan(self, program: Program) -> list[_Run]:
        """Parameters that have a gradient and the same number of steps behind them go together."""
        members: dict[int, list[int]] = {}
        for i, is_active in enumerate(self.active):
            if is_active:
                members.setdefault(self.steps[i], []).append(i)
        return [_Run(self, program, m) for m in members.values()]


class _ByIdentity(list[Tensor]):
    """A list of tensors whose `index` compares by identity (tensors compare elementwise)."""

    def index(self, tensor: Any, *_: Any) -> int:
        return next(i for i, t in enumerate(self) if t is tensor)


class _Run:
    """The blocks of one update, with all the views they need made beforehand."""

    def __init__(self, flat: _Flat, program: Program, members: list[int]) -> None:
        self.flat, self.program, self.members = flat, program, members
        dtype = flat.dtype
        self.scalars = [np.empty((), dtype) for _ in program.scalars(1.0, 1)]
        constants = [np.asarray(c, dtype) for c in program.constants]
        blocks = self._blocks()
        longest = max((stop - start for start, stop, _ in blocks), default=0)
        scratch = [np.empty(longest, dtype) for _ in range(program.temporaries + 1)]
        self.calls = []
        for start, stop, inside in blocks:
            gradient, *temporaries = (s[: stop - start] for s in scratch)
            gather = None
            if len(inside) > 1:
                gather = [
                    (i, gradient[flat.starts[i] - start : flat.starts[i + 1] - start].reshape(flat.shapes[i]))
                    for i in inside
                ]
            single = (inside[0], start - flat.starts[inside[0]], stop - flat.starts[inside[0]])
            states = [s[start:stop] for s in flat.states.values()]
            tail = (*states, *self.scalars, *constants, *temporaries)
            self.calls.append((flat.values[start:stop], gradient, gather, single, tail))

    def _blocks(self) -> list[tuple[int, int, list[int]]]:
        """(start, stop, parameters inside): a large parameter in several blocks, small neighbours in one."""
        blocks: list[tuple[int, int, list[int]]] = []
        starts = self.flat.starts
        for i in self.members:
            start, stop = starts[i], starts[i + 1]
            before, end, inside = blocks[-1] if blocks else (0, -1, [i])
            if end == start < stop and before == starts[inside[0]] and stop - before <= BLOCK:
                blocks[-1] = (before, stop, [*inside, i])
            else:
                blocks.extend((a, min(a + BLOCK, stop), [i]) for a in range(start, stop, BLOCK))
        return blocks

    def execute(self, learning_rate: float, step: int) -> None:
        parameters = self.flat.parameters
        gradients = {}
        for i in self.members:
            p = parameters[i]
            if np.shape(p.grad) != p.value.shape:
                raise ValueError(f"the gradient of a parameter of shape {p.shape} has shape {np.shape(p.grad)}")
            gradients[i] = p.grad
        for place, number in zip(self.scalars, self.program.scalars(learning_rate, step), strict=True):
            place[...] = number
        update = self.program.update
        dtype = self.flat.dtype
        for value, gradient, gather, (i, start, stop), tail in self.calls:
            if gather is not None:
                for j, part in gather:
                    part[...] = gradients[j]
            else:
                g = gradients[i]
                if g.dtype == dtype and g.flags.c_contiguous:
                    gradient = g.reshape(-1)[start:stop]
                else:
                    gradient[...] = g.reshape(-1)[start:stop]
            update(value, gradient, *tail)
        now = tick()
        for i in self.members:
            parameters[i].version = now
