"""Layers made of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tinygrad_mm.nn.layers import Dense
from tinygrad_mm.nn.module import Module, as_tensor

__all__ = ["Flatten", "ModuleDict", "ModuleList", "Residual", "Sequential"]


class Sequential(Module):
    """One layer after another; layers are modules or plain functions.

    Shape: that of the first layer's input -> that of the last layer's output

    Raises TypeError for what cannot be called, and for a class in place of a layer.

    >>> Sequential(Dense(4, 3, "relu", rng=0), Dense(3, 2, rng=1))
    Sequential(
      layers.0: Dense(4, 3, activation=relu)
      layers.1: Dense(3, 2)
    )
    """

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        for i, layer in enumerate(layers):
            if isinstance(layer, type) and issubclass(layer, Module):
                raise TypeError(f"Sequential: layer {i} is the class {layer.__name__}; write {layer.__name__}(...)")
            if not callable(layer):
                raise TypeError(f"Sequential: layer {i} is a {type(layer).__name__}, which cannot be called")
        self.layers: list[Any] = list(layers)  # each a module or any function

    def forward(self, x: Any) -> Any:
        """Each layer's output is the next one's input."""
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.layers)

    def __getitem__(self, i: int) -> Any:
        return self.layers[i]

    def torch_name(self, path: str) -> str:
        """PyTorch counts the layers without "layers.", and an activation is a layer of its own there."""
        name, _, rest = path.partition(".")
        if name != "layers":
            return path
        place, _, rest = rest.partition(".")
        before = sum(isinstance(e, Dense) and e.activation is not None for e in self.layers[: int(place)])
        return f"{int(place) + before}.{rest}"


class ModuleList(Module):
    """A list of modules for a `forward` of your own; plain lists work as well, this one counts paths as PyTorch does.

    >>> from tinygrad_mm.nn import Linear
    >>> blocks = ModuleList([Linear(2, 2, rng=0)])
    >>> blocks.append(Linear(2, 1, rng=1)); [path for path, _ in blocks.named_parameters()]
    ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        """Put a module at the end."""
        self.__dict__[str(len(self))] = _module("ModuleList", module)

    def __len__(self) -> int:
        return sum(name.isdecimal() for name in vars(self))

    def __iter__(self) -> Iterator[Module]:
        return (vars(self)[str(i)] for i in range(len(self)))

    def __getitem__(self, i: int) -> Module:
        return list(self)[i]

    def __setitem__(self, i: int, module: Module) -> None:
        self.__dict__[str(range(len(self))[i])] = _module("ModuleList", module)


class ModuleDict(Module):
    """Modules by name for a `forward` of your own; plain dicts work as well.

    Raises ValueError for a name that an attribute has already.

    >>> from tinygrad_mm.nn import Linear
    >>> heads = ModuleDict({"digit": Linear(2, 10, rng=0)})
    >>> heads["digit"]
    Linear(2, 10)
    """

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        self._names: list[str] = []
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if name not in self._names:
            if not isinstance(name, str) or "." in name or not name or hasattr(self, name):
                raise ValueError(f"ModuleDict: the name {name!r} is taken or no plain word; choose another one")
            self._names.append(name)
        self.__dict__[name] = _module("ModuleDict", module)

    def __getitem__(self, name: str) -> Module:
        if name not in self._names:
            raise KeyError(f"{name!r}; there are {', '.join(self._names) or 'no modules'}")
        return vars(self)[name]

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def keys(self) -> list[str]:
        """The names, in order."""
        return list(self._names)

    def values(self) -> list[Module]:
        """The modules, in order."""
        return [self[name] for name in self._names]

    def items(self) -> list[tuple[str, Module]]:
        """(name, module), in order."""
        return [(name, self[name]) for name in self._names]


class Residual(Module):
    """`x + module(x)`, or `shortcut(x) + module(x)` where the module changes the shape (He et al. 2016).

    Shape: (...) -> (...)

    Raises ValueError where the two shapes differ.

    >>> from tinygrad_mm.nn import Dense
    >>> Residual(Dense(3, 3, "relu", rng=0))([[1.0, 2.0, 3.0]]).shape
    (1, 3)
    """

    def __init__(self, module: Callable[[Any], Any], shortcut: Callable[[Any], Any] | None = None) -> None:
        self.module = module
        self.shortcut = shortcut

    def forward(self, x: Any) -> Any:
        """shortcut(x) + module(x)"""
        x = as_tensor(x)
        straight = x if self.shortcut is None else self.shortcut(x)
        y = self.module(x)
        if straight.shape != y.shape:
            raise ValueError(
                f"Residual: the module turns {x.shape} into {y.shape}, the shortcut into {straight.shape}; "
                "pass a shortcut= that makes the same shape, such as a Linear or a Conv2d of size 1"
            )
        return straight + y


class Flatten(Module):
    """All axes from `start_axis` on become one: images become vectors.

    Shape: (N, ...) -> (N, features)

    >>> import numpy as np
    >>> Flatten()(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 48)
    """

    def __init__(self, start_axis: int = 1) -> None:
        self.start_axis = start_axis

    def forward(self, x: Any) -> Any:
        """x.reshape(N, -1)"""
        x = as_tensor(x)
        kept = x.shape[: self.start_axis]
        size = 1
        for n in x.shape[self.start_axis :]:
            size *= n
        return x.reshape(*kept, size)

    def describe(self) -> str:
        """Where it starts."""
        return "" if self.start_axis == 1 else f"{self.start_axis}"


def _module(owner: str, module: Any) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"{owner}: it holds modules, not {type(module).__name__}")
    return module
