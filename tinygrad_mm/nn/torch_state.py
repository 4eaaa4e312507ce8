"""Weights to and from PyTorch: names and layouts, both ways, without PyTorch.

Each class of layer says in one line, `torch_names`, what PyTorch calls its tensors; a container may rename what is
below it (`torch_name`). Both libraries' names are then found by going from a tensor up through its modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.nn.module import Module, is_parameter, parts_of
from tinygrad_mm.nn.states import as_plain_array, checked
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = ["from_torch_state", "to_torch_state"]


def from_torch_state(model: Module, state: Mapping[str, Any]) -> None:
    """Take over the weights of a PyTorch model of the same architecture, from its `state_dict()`.

    The values may be arrays or PyTorch tensors on the CPU. Nothing is changed unless everything fits. In a Sequential,
    a Dense with an activation stands for two PyTorch layers.

    Raises ValueError that lists all names that are missing or unexpected, and all shapes and dtypes that differ, in
    PyTorch's words; TypeError for what is no array.

    >>> from tinygrad_mm.nn import Linear
    >>> layer = Linear(3, 1, rng=0)
    >>> from_torch_state(layer, {"weight": np.ones((1, 3), np.float32), "bias": np.zeros(1, np.float32)})
    >>> layer([1.0, 2.0, 3.0]).data
    array([6.], dtype=float32)
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"from_torch_state: a state_dict() is needed, not {type(state).__name__}; call model.state_dict()"
        )
    places = {place.name: place for place in _places(model)}
    extras = {name for name in state if any(name == e or str(name).endswith("." + e) for e in _extras(model))}
    given = {name: as_plain_array(str(name), value) for name, value in state.items() if name not in extras}
    for place in places.values():  # a tensor shared there may come under one of its names only
        if place.name not in given:
            others = [o.name for o in places.values() if o.tensor is place.tensor and o.name in given]
            if others:
                given[place.name] = given[others[0]]
    own = {name: place.there() for name, place in places.items()}
    found = checked(f"from_torch_state({type(model).__name__})", own, given).arrays
    for name, place in places.items():
        first = next(o for o in places.values() if o.tensor is place.tensor)
        if not np.array_equal(found[name], found[first.name], equal_nan=True):
            raise ValueError(
                f"from_torch_state: {name} and {first.name} are one tensor here, but differ in this state; "
                "nothing was changed"
            )
    for name, place in places.items():
        place.tensor.data = np.array(found[name].T if place.transposed else found[name])


def to_torch_state(model: Module, tensors: bool = False) -> dict[str, Any]:
    """A model's weights as arrays under the names and in the layouts of PyTorch; with `tensors`, as its tensors.

    `theirs.load_state_dict(to_torch_state(ours, tensors=True))` takes them over; `from_torch_state` is the way back.
    Arrays need no PyTorch: they can be saved (`tg.save`), and loaded there by safetensors.

    Raises ModuleNotFoundError for `tensors` where PyTorch is not installed.

    >>> from tinygrad_mm.nn import Dense, Sequential
    >>> model = Sequential(Dense(4, 3, "relu", rng=0), Dense(3, 2, rng=1))
    >>> {name: array.shape for name, array in to_torch_state(model).items()}
    {'0.weight': (3, 4), '0.bias': (3,), '2.weight': (2, 3), '2.bias': (2,)}
    """
    arrays = {place.name: np.array(place.there(), order="C") for place in _places(model)}
    if not tensors:
        return arrays
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to_torch_state(tensors=True) makes PyTorch's tensors: pip install torch", name="torch"
        ) from error
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class _Place(NamedTuple):
    """A tensor here, its name there, and whether it is transposed there."""

    tensor: Tensor
    name: str
    transposed: bool

    def there(self) -> np.ndarray[Any, Any]:
        """The array as PyTorch keeps it."""
        return self.tensor.value.T if self.transposed else self.tensor.value


def _places(model: Module) -> list[_Place]:
    found = []
    for tensor, name in _named(model, ()):
        transposed = name.endswith(".T")
        found.append(_Place(tensor, name[:-2] if transposed else name, transposed))
    return found


def _named(value: Any, above: tuple[int, ...]) -> Iterator[tuple[Tensor, str]]:
    """(tensor, name there) for all parameters and buffers, a shared one under each of its names."""
    if isinstance(value, Tensor):
        if isinstance(value, Buffer) or is_parameter(value):
            yield value, ""
        return
    if id(value) in above:  # a module that refers to one around it
        return
    for name, part in parts_of(value):
        for tensor, rest in _named(part, (*above, id(value))):
            path = f"{name}{'' if not rest or rest == '.T' else '.'}{rest}"
            yield tensor, value.torch_name(path) if isinstance(value, Module) else path


def _extras(model: Module) -> set[str]:
    return {extra for _, module in model.named_modules() for extra in module.torch_extras}
