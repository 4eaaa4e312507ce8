"""Checking a model's state before anything is changed: names, shapes and dtypes, all faults in one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Checked", "as_plain_array", "checked"]

SHOWN = 20  # names in one message


class Checked(NamedTuple):
    """Arrays that fit, by name, and the names for which there was no array or no place."""

    arrays: dict[str, np.ndarray[Any, Any]]
    missing: list[str]
    unexpected: list[str]


def checked(model: str, own: Mapping[str, Any], given: Mapping[str, Any], strict: bool = True) -> Checked:
    """The given arrays that fit into a model's own tensors.

    Raises TypeError where `given` is no mapping, ValueError that lists everything that does not fit; without `strict`,
    names that are missing or unexpected are no fault.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"{model}: a state is a dict of arrays by name, not {type(given).__name__}")
    missing = [name for name in own if name not in given]
    unexpected = [str(name) for name in given if name not in own]
    arrays = {name: as_plain_array(name, given[name]) for name in own if name in given}
    differing = []
    for name, array in arrays.items():
        shape, dtype = own[name].shape, own[name].dtype
        if array.shape != shape:
            differing.append(f"{name} has shape {array.shape}, not {shape}")
        elif array.dtype != dtype:
            differing.append(
                f"{name} is {array.dtype}, not {dtype} (call model.to(np.{array.dtype}) first, or cast it)"
            )
    faults = [("these do not fit", differing)]
    if strict:
        faults += [("missing", missing), ("unexpected", unexpected)]
    lines = [f"  {what}: {_listed(names)}" for what, names in faults if names]
    if strict and (missing or unexpected):
        lines.append("With strict=False, names that are missing or unexpected are passed over.")
    if lines:
        raise ValueError(f"{model}: this state does not fit, so nothing was changed:\n" + "\n".join(lines))
    return Checked(arrays, missing, unexpected)


def as_plain_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """An array of a Tensor, of another library's tensor, or of anything NumPy understands.

    Raises TypeError for what is no array of numbers, bfloat16 among it.
    """
    if hasattr(value, "detach"):
        value = value.detach()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} cannot be read as an array ({error}); for a PyTorch tensor try .cpu().float()"
        ) from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} is no array of numbers: {type(value).__name__} gave dtype {array.dtype}")
    return array


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
