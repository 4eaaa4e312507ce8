"""What tensors and modules are called: a path in the model, a name that was given, a variable of the caller.

Whatever speaks of a tensor to its user (pictures, diagnoses, the stepper) takes its name from here.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from tinygrad_mm.cost import owner_of
from tinygrad_mm.graph import Vertex

__all__ = ["Names", "given_name", "names_in", "variables_of", "variables_of_caller"]


@dataclass(frozen=True)
class Names:
    """What a model calls its tensors (by id) and its modules (by token), and what variables call tensors (by id).

    `memory` says which of them own arrays that others may be views of (by id of the array).
    """

    tensors: Mapping[int, str]
    modules: Mapping[object, str]
    variables: Mapping[int, str] = field(default_factory=dict)
    memory: Mapping[int, str] = field(default_factory=dict)

    def of(self, a: Any) -> str | None:
        """The name of a tensor or array: its place in the model, else the name given to it, else a variable."""
        return self.tensors.get(id(a)) or given_name(a) or self.variables.get(id(a))


def given_name(a: Any) -> str | None:
    """The name that the user gave to a tensor, if any."""
    name = (a.extra or {}).get("name") if isinstance(a, Vertex) else None
    return None if name is None or not str(name).strip() else str(name)


def names_in(model: Any, variables: Mapping[str, Any] | None = None) -> Names:
    """The attribute paths in a model, and the names of variables.

    Without a model, those of the modules among the variables serve: `model.layers.0.weight` for a `model`.

    Raises TypeError for something that has no `named_parameters()` and `named_modules()`.

    >>> names_in(None)
    Names(tensors={}, modules={}, variables={}, memory={})
    """
    variables = variables or {}
    if model is not None and not (hasattr(model, "named_parameters") and hasattr(model, "named_modules")):
        raise TypeError(
            f"model= is a {type(model).__name__}, not a Module: it has no named_parameters() and named_modules(); "
            "pass the Module that computed the outputs, or leave model= out"
        )
    tensors: dict[int, str] = {}
    modules: dict[object, str] = {}
    found = [("", model)] if model is not None else [(n, v) for n, v in variables.items() if _is_module(v)]
    for name, module in found:
        buffers = module.named_buffers() if hasattr(module, "named_buffers") else ()
        for path, tensor in (*module.named_parameters(), *buffers):
            tensors.setdefault(id(tensor), _joined(name, path))
        for path, inner in module.named_modules():
            modules.setdefault(getattr(inner, "token", None), _joined(name, path))
    called: dict[int, str] = {}
    memory: dict[int, str] = {}
    for name, value in variables.items():
        if isinstance(value, (Vertex, np.ndarray)):
            called.setdefault(id(value), name)
            memory.setdefault(id(owner_of(value)), name)
    return Names(tensors, modules, called, memory)


def variables_of(frame: FrameType | None) -> dict[str, Any]:
    """The tensors, arrays and modules among the variables of a running function, then among those of its file.

    Names that begin with an underscore are left out.
    """
    if frame is None:
        return {}
    local = frame.f_locals
    found = dict(_worth_a_name(local))
    # Before Python 3.13, asking for the variables of a function leaves a copy of them with its frame, which would keep
    # alive what the function lets go of later. Only where someone else asked too does the copy stay.
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED and sys.getrefcount(local) <= 3:
        local.clear()
    elsewhere = {} if local is frame.f_globals else dict(_worth_a_name(frame.f_globals))
    return {**found, **{name: value for name, value in elsewhere.items() if name not in found}}


def variables_of_caller() -> dict[str, Any]:
    """The tensors, arrays and modules among the variables of the innermost function outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "tinygrad_mm":
        frame = frame.f_back
    return variables_of(frame)


def _worth_a_name(variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(variables.items()):
        if not name.startswith("_") and (isinstance(value, (Vertex, np.ndarray)) or _is_module(value)):
            yield name, value


def _is_module(value: Any) -> bool:
    """Whether something is a Module, which stands on a higher floor; nothing of a foreign object is run to find out."""
    kind = type(value)
    return all(inspect.isfunction(getattr(kind, name, None)) for name in ("named_parameters", "named_modules"))


def _joined(name: str, path: str) -> str:
    return f"{name}.{path}" if name and path else name or path
