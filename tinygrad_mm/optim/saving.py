"""The state of an optimizer as a plain dict, and back: looked through wholly before anything changes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from tinygrad_mm.optim.flat import Flat, precision_of

__all__ = ["check_array", "check_names", "load_optimizer", "save_optimizer", "whole_number"]


class Saved(Protocol):
    """What of an optimizer is saved and loaded: its groups, its number of steps, and where its states are kept."""

    groups: list[dict[str, Any]]
    steps: int

    def located(self) -> list[tuple[Flat, int]]:
        """The flat buffer of each parameter's state, and the parameter's number in it."""

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError for options that make no sense."""

    def options_at(self, step: int, group: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """The options of a group after a number of steps, and the numbers that schedules gave among them."""

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the states that a group needs."""


def save_optimizer(optimizer: Saved) -> dict[str, Any]:
    """What `optimizer.state_dict()` returns."""
    state: dict[str, Any] = {}
    for i, (flat, j) in enumerate(optimizer.located()):
        state[f"{i}.step"] = flat.steps[j]
        state.update({f"{i}.{name}": flat.view(values, j).copy() for name, values in flat.states.items()})
    groups = []
    for group in optimizer.groups:
        numbers = {name: _listed(v) for name, v in group.items() if name != "parameters" and not _scheduled(v)}
        groups.append({"parameters": len(group["parameters"]), **numbers})
    name = type(optimizer).__name__
    return {"state": state, "options": {"optimizer": name, "steps": optimizer.steps, "groups": groups}}


def load_optimizer(optimizer: Saved, saved: Mapping[str, Any]) -> None:
    """What `optimizer.load_state_dict(saved)` does."""
    name = type(optimizer).__name__
    check_names(f"{name}: the saved dict", saved, ["state", "options"], "pass what state_dict() returned")
    state, options = saved["state"], saved["options"]
    check_names(f"{name}: the saved options", options, ["optimizer", "steps", "groups"], "pass what state_dict() gave")
    if options["optimizer"] != name:
        raise ValueError(f"{name}: this state was saved from {options['optimizer']!r}; make an optimizer of that kind")
    steps = whole_number(f"{name}: steps", options["steps"])
    if not isinstance(options["groups"], (list, tuple)) or len(options["groups"]) != len(optimizer.groups):
        raise ValueError(f"{name}: the saved groups are not {len(optimizer.groups)}; make the same groups, then load")
    pairs = zip(optimizer.groups, options["groups"], strict=True)
    groups = [_group(f"{name}: group {i}", old, new) for i, (old, new) in enumerate(pairs)]
    for group in groups:
        optimizer.check(optimizer.options_at(steps, group)[0])
    expected: dict[str, Any] = {}  # name -> the parameter whose state it is; None for a number of steps
    members = [(p, optimizer.state_names(group)) for group in groups for p in group["parameters"]]
    for i, (p, states) in enumerate(members):
        expected[f"{i}.step"] = None
        expected.update({f"{i}.{s}": p for s in states})
    check_names(f"{name}: the saved state", state, expected, "make the optimizer for the same parameters, then load")
    for key, p in expected.items():
        if p is None:
            whole_number(f"{name}: {key}", state[key])
        else:
            check_array(f"{name}: {key}", state[key], p.value.shape, precision_of(p.value.dtype))

    for old, new in zip(optimizer.groups, groups, strict=True):
        old.update(new)
    optimizer.steps = steps
    for i, (flat, j) in enumerate(optimizer.located()):
        flat.steps[j] = operator.index(state[f"{i}.step"])
        for s, values in flat.states.items():
            flat.view(values, j)[...] = state[f"{i}.{s}"]
        flat.forget_runs()


def _group(what: str, group: Mapping[str, Any], saved: Any) -> dict[str, Any]:
    """The group with the saved options in place of its own."""
    names = ["parameters", *(name for name, v in group.items() if name != "parameters" and not _scheduled(v))]
    check_names(what, saved, names, "make the optimizer as it was: what followed a schedule must do so again")
    if saved["parameters"] != len(group["parameters"]):
        raise ValueError(
            f"{what} was saved with {saved['parameters']} parameters and has {len(group['parameters'])}; make the same "
            "groups, then load"
        )
    options = {name: _like(f"{what}: {name}", group[name], saved[name]) for name in names if name != "parameters"}
    return {**group, **options}


def _like(what: str, own: Any, saved: Any) -> Any:
    """A saved option as it is used: of the kind that this optimizer's own is."""
    if isinstance(own, tuple) and isinstance(saved, (list, tuple)) and len(own) == len(saved):
        return tuple(_like(what, a, b) for a, b in zip(own, saved, strict=True))
    number = isinstance(own, (int, float)) and isinstance(saved, (int, float))
    if (type(own) is type(saved) or number) and isinstance(own, bool) == isinstance(saved, bool):
        return saved
    raise ValueError(f"{what} was saved as {saved!r}, which is no value like {own!r}; restore the saved options")


def _scheduled(value: Any) -> bool:
    """Whether an option, or a member of it, follows a schedule."""
    return callable(value) or (isinstance(value, tuple) and any(map(_scheduled, value)))


def _listed(value: Any) -> Any:
    """An option as JSON would give it back."""
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


# ---------------------------------------------------------------------------------------------------------------------
# Looking through what is to be loaded
# ---------------------------------------------------------------------------------------------------------------------


def check_names(what: str, found: Any, expected: Iterable[str], fix: str) -> None:
    """Raise ValueError unless `found` is a dict of exactly these names."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{what} is a {type(found).__name__}, not a dict; {fix}")
    expected = list(expected)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in set(expected)]
    if missing or unknown:
        told = [f"lacks {_some(missing)}"] * bool(missing) + [f"has {_some(unknown)} too"] * bool(unknown)
        raise ValueError(f"{what} {' and '.join(told)}; {fix}")


def check_array(what: str, found: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Raise ValueError unless `found` is an array of this shape and dtype."""
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{what} is a {type(found).__name__}, not an array; pass what state_dict() returned")
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(
            f"{what} has shape {found.shape} and dtype {found.dtype}, the parameter {shape} and {dtype}; bring the "
            "model to the shapes and dtypes it was saved with, then load"
        )


def whole_number(what: str, found: Any) -> int:
    """A number of steps: ValueError unless it is whole and not negative."""
    try:
        number = -1 if isinstance(found, bool) else operator.index(found)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"{what} is {found!r}, not a number of steps; pass what state_dict() returned")
    return number


def _some(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
