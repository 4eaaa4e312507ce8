"""`Optimizer`: one formula, and the parameter groups, options and states that it is run with."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_mm.graph import entered
from tinygrad_mm.optim.flat import Flat, Update, brought_up_to_date, flats_of
from tinygrad_mm.optim.formula import Formula, Number, WholeFormula, replaced, schedules_in, trace_formula
from tinygrad_mm.optim.saving import load_optimizer, save_optimizer
from tinygrad_mm.tensor import Tensor

__all__ = ["Optimizer", "listed"]

NOTHING_TO_DO = (
    "{}.step(): nothing was changed, since none of its {} parameters has a gradient, or all are frozen; call "
    "loss.backward() before step() and zero_grad() after it; where layers were replaced, pass model.parameters() anew"
)


@dataclass
class _Known:
    """A group as it was at the last step, and the update that its options gave: kept while the group is the same."""

    group: dict[str, Any]
    update: Update
    scheduled: bool


class Optimizer:
    """Base class: a subclass names its states and gives its formula.

    `parameters` is a list of tensors, or a list of dicts `{"parameters": [...], "learning_rate": ...}` for groups with
    options of their own. A parameter whose `.grad` is None, or that is frozen (`requires_grad` is False), is skipped
    whole: no decay, no moments, no step counted.

    An option may be a schedule: a function of the number of steps taken so far (see `tinygrad_mm.optim.schedules`).
    Options may also be changed between steps, by `optimizer.learning_rate = ...` for all groups or
    `optimizer.groups[i]["learning_rate"] = ...` for one.

    The formula is one pure function of NumPy calls,
    `formula(parameter, gradient, *states, learning_rate, step, **options)`, that treats each element alone and returns
    the new parameter and the new states. States begin at zero; `step` counts the parameter's own steps from 1. A class
    whose formula needs norms, shapes or matrices says `whole = True`: it is then given each parameter by itself.

    `fused=True` (extra `numba`) runs the formula as one compiled loop, with threads where parameters are large, instead
    of one NumPy call after another, with the same results. Numba compiles it at the first step, within a second or two.

    Raises ValueError for no parameters, a parameter given twice or options that make no sense, TypeError for anything
    but leaf Tensors and for unknown options, ImportError for `fused` where Numba is not installed.

    >>> class Descent(Optimizer):
    ...     @staticmethod
    ...     def formula(parameter, gradient, learning_rate, step):
    ...         return parameter - learning_rate * gradient
    >>> w = Tensor([1.0], requires_grad=True)
    >>> optimizer = Descent([w], learning_rate=0.5)
    >>> (w * w).backward(); optimizer.step(); w
    Tensor([0.], dtype=float32, requires_grad=True)
    """

    states: tuple[str, ...] = ()
    whole: bool = False
    formula: Callable[..., Any]

    def __init__(self, parameters: Iterable[Any], learning_rate: Any, *, fused: bool = False, **options: Any) -> None:
        if fused:
            from tinygrad_mm.compiler.loops import require_numba

            require_numba("fused=True")
        self.fused = fused
        given = listed(type(self).__name__, parameters)
        groups: list[Any] = given if given and all(isinstance(g, dict) for g in given) else [{"parameters": given}]
        self.defaults: dict[str, Any] = {"learning_rate": learning_rate, **options}
        self.groups: list[dict[str, Any]] = []
        self.steps = 0
        self._flats: list[list[Flat]] = []
        self._members: list[tuple[Tensor, ...]] = []
        self._formulas: dict[Any, Formula] = {}
        self._known: dict[int, _Known] = {}  # by id of a group
        for group in groups:
            self.add_group(group)
        if not self.parameters:
            raise ValueError(f"{type(self).__name__}: there are no parameters to optimize; pass model.parameters()")

    def add_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, `{"parameters": [...], **options}`; options left out are those of the optimizer.

        Raises as the constructor does, and then changes nothing.

        >>> from tinygrad_mm.optim import SGD
        >>> body, head = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True)
        >>> optimizer = SGD([body], learning_rate=0.1)
        >>> optimizer.add_group({"parameters": [head], "learning_rate": 1.0})
        >>> (body * head).backward(); optimizer.step(); print(body.item(), head.item())
        0.8999999761581421 0.0
        """
        name = type(self).__name__
        if "parameters" not in group:
            raise ValueError(
                f'{name}: a group is a dict {{"parameters": [...], **options}}; this one has {list(group)}'
            )
        for key in group:
            if key != "parameters" and key not in self.defaults:
                raise TypeError(f"{name} has no option {key!r}; its options are {', '.join(self.defaults)}")
        members = tuple(listed(name, group["parameters"]))
        seen = {id(p) for p in self.parameters}
        for p in members:
            _check_parameter(p, seen)
        new = {"parameters": members, **{k: _plain(group.get(k, default)) for k, default in self.defaults.items()}}
        self.check(self.options_at(self.steps, new)[0])
        self.groups.append(new)
        self._flats.append([])
        self._members.append(members)

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for options that make no sense; a subclass adds its own."""
        self.require(group, "learning_rate")

    def require(self, group: Mapping[str, Any], name: str, below: float = math.inf, members: int = 1) -> None:
        """Raise ValueError where an option does not lie in [0, below); with `members`, it is a tuple of that many."""
        value = group[name]
        values = value if members > 1 and isinstance(value, tuple) else (value,)
        if len(values) != members or not all(isinstance(v, (int, float)) and 0 <= v < below for v in values):
            what = "must be finite and must not be negative" if below == math.inf else f"must lie in [0, {below:g})"
            many = f" and must be {members} numbers" if members > 1 else ""
            raise ValueError(f"{type(self).__name__}: {name}={value} {what}{many}")

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the states that a group needs: those of the class, unless a subclass lets options decide."""
        return self.states

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first group at the next step; setting it sets that of all groups."""
        return float(self.options_at(self.steps, self.groups[0])[0]["learning_rate"])

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        value = _plain(value)
        for group in self.groups:
            self.check(self.options_at(self.steps, {**group, "learning_rate": value})[0])
        for group in self.groups:
            group["learning_rate"] = value

    @property
    def parameters(self) -> list[Tensor]:
        """All parameters, in order."""
        return [p for group in self.groups for p in group["parameters"]]

    @property
    def source(self) -> str:
        """The update: the formula traced into NumPy calls on preallocated buffers, which `fused` makes into a loop.

        Of a formula that needs each parameter whole, that is the formula itself.
        """
        return self._formula(self.groups[0]).source

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters (`.grad = None`)."""
        for group in self.groups:
            for p in group["parameters"]:
                p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient and is not frozen, in place; warn where there is none.

        Raises ValueError, and changes nothing, where a `.grad` was set to something of another shape (TypeError: to no
        array) or where an option was set, or led by its schedule, to a value that makes no sense.
        """
        plans = []
        for group, flats in zip(self.groups, self._laid_out(), strict=True):
            known = self._known.get(id(group))
            if known is None or known.group != group or known.scheduled:  # else the update is the one of the last step
                known = self._known[id(group)] = self._looked_at(group)
            for flat in flats:
                plans.append((flat, flat.gradients(), known))
        with entered(recording=False, tracing=False, lines=False, monitor=None), np.errstate(under="ignore"):
            for flat, gradients, known in plans:
                flat.step(gradients, known.update)
        self.steps += 1
        if not any(flat.runs for flat, _, _ in plans):
            warnings.warn(NOTHING_TO_DO.format(type(self).__name__, len(self.parameters)), stacklevel=2)

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The states kept for a parameter: arrays of its shape by name, and its number of steps.

        Raises KeyError for a parameter of some other optimizer.
        """
        for p, (flat, i) in zip(self.parameters, self.located(), strict=True):
            if p is parameter:
                return {"step": flat.steps[i], **{s: flat.view(v, i) for s, v in flat.states.items()}}
        raise KeyError("this tensor is not a parameter of this optimizer; optimizer.parameters lists those that are")

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides parameters, gradients and schedules; arrays are copies.

        `["state"]` holds arrays and numbers of steps under flat names, "0.mean" and "0.step" for the first parameter;
        `["options"]` is made of what JSON knows: the optimizer's name, its number of steps and the options of each
        group. A schedule is code, not state: what follows one is left out, and stays as it is when loading.

        >>> from tinygrad_mm.optim import SGD
        >>> w = Tensor([1.0], requires_grad=True)
        >>> optimizer = SGD([w], learning_rate=0.1, momentum=0.9)
        >>> w.sum().backward(); optimizer.step(); optimizer.state_dict()["state"]
        {'0.step': 1, '0.velocity': array([1.], dtype=float32)}
        """
        return save_optimizer(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called: the next steps are then the same, bit for bit.

        Raises ValueError, and changes nothing, where the state is not one of this optimizer with parameters of these
        shapes and dtypes.
        """
        load_optimizer(self, state)

    # -- inside

    def options_at(self, step: int, group: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """The options of a group after a number of steps, and the numbers that schedules gave among them."""
        options = {name: _plain(value) for name, value in group.items() if name != "parameters"}
        scheduled = {name: float(schedule(step)) for name, schedule in schedules_in(options).items()}
        return {name: replaced(name, value, scheduled) for name, value in options.items()}, scheduled

    def located(self) -> list[tuple[Flat, int]]:
        """(flat buffer, index of the parameter in it), where its state is kept, for each parameter in order."""
        places = {
            id(p): (flat, i) for flats in self._laid_out() for flat in flats for i, p in enumerate(flat.parameters)
        }
        return [places[id(p)] for p in self.parameters]

    def _laid_out(self) -> list[list[Flat]]:
        """The flat buffers of each group; parameters that were given another array since are copied in again."""
        if len(self.groups) != len(self._members):
            raise ValueError("the groups were changed; use optimizer.add_group, or a new optimizer")
        for group, members, flats in zip(self.groups, self._members, self._flats, strict=True):
            if group["parameters"] is not members:
                raise ValueError(
                    "the parameters of the groups were replaced; use optimizer.add_group, or a new optimizer"
                )
            names = self.state_names(group)
            if not flats:
                flats.extend(flats_of(members, names, self.fused))
            for flat in flats:
                if tuple(flat.states) != names or not flat.owns_views():
                    flats[:] = brought_up_to_date(members, flats, names)
                    break
        return self._flats

    def _looked_at(self, group: dict[str, Any]) -> _Known:
        """A group with its options checked and schedules replaced by their numbers at this step, and its formula."""
        now, scheduled = self.options_at(self.steps, group)
        self.check(now)
        numbers = {name: Number(value) for name, value in scheduled.items()}
        own = {name: _plain(value) for name, value in group.items() if name not in ("parameters", "learning_rate")}
        options = {name: replaced(name, value, numbers) for name, value in own.items()}
        update = Update(
            self.state_names(group),
            type(self).formula,
            options,
            self._formula(group),
            float(now["learning_rate"]),
            [value for name, value in scheduled.items() if name != "learning_rate"],
        )
        return _Known(dict(group), update, bool(scheduled))

    def _formula(self, group: Mapping[str, Any]) -> Formula:
        """The traced formula of a group: one for each set of options that do not follow a schedule."""
        options = {k: _plain(v) for k, v in group.items() if k not in ("parameters", "learning_rate")}
        key = (self.state_names(group), *((name, _fixed(value)) for name, value in options.items()))
        formula = self._formulas.get(key)
        if formula is None:
            if len(self._formulas) >= 64:  # options changed by hand at every step
                self._formulas.clear()
            rule, scalars = type(self).formula, ("learning_rate", "step")
            traced = (rule, self.state_names(group), scalars, options)
            formula = WholeFormula(rule) if self.whole else trace_formula(*traced)
            self._formulas[key] = formula
        return formula

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_formulas": {}, "_known": {}}  # copies trace the formula themselves

    def __repr__(self) -> str:
        now, scheduled = self.options_at(self.steps, self.groups[0])
        options = ", ".join(f"{k}={v}{' (scheduled)' * (k in scheduled)}" for k, v in now.items())
        return f"{type(self).__name__}({len(self.parameters)} parameters, {options}{', fused=True' * self.fused})"


def listed(name: str, given: Any) -> list[Any]:
    """What an optimizer was given as a list; TypeError for a module, a method, a dict by name and the like."""
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, Mapping):
        raise TypeError(f"{name} takes a list of parameters; this is a dict: pass list(d.values()), or [d] for a group")
    if not isinstance(given, Iterable):
        raise TypeError(f"{name} takes parameters; this is {_kind(given)}: pass model.parameters()")
    return list(given)


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"the method {value.__name__}, not called" if inspect.ismethod(value) else f"a {type(value).__name__}"


def _check_parameter(p: Any, seen: set[int]) -> None:
    if not isinstance(p, Tensor) or p.node is not None:
        what = "a tensor that was computed" if isinstance(p, Tensor) else _kind(p)
        raise TypeError(f"an optimizer takes leaf Tensors, such as model.parameters(); this is {what}")
    if p.value.dtype.kind != "f":
        raise TypeError(
            f"an optimizer takes floating tensors; this one has dtype {p.value.dtype}: leave it out, or make it one "
            "with dtype=np.float32"
        )
    if id(p) in seen:
        raise ValueError(f"a parameter of shape {p.shape} was given to the optimizer twice; name it in one group only")
    seen.add(id(p))


def _plain(value: Any) -> Any:
    """An option as Python numbers, which are weak: NumPy's would change the dtype of the arrays in the formula."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") and not callable(value) else value


def _fixed(value: Any) -> Any:
    """An option in the key of a traced formula: its value, or "scheduled", since a schedule's numbers are inputs."""
    if type(value) is tuple:
        return tuple(map(_fixed, value))
    return "scheduled" if callable(value) else value
