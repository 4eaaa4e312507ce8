"""`Module`: an object with parameters and a `forward`. No registration: its attributes are what it consists of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from tinygrad_mm.graph import Scope, state
from tinygrad_mm.tensor import Buffer, Parameter, Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Module"]

T = TypeVar("T")


class Module:
    """Base class of layers and networks: assign parameters, layers, lists or dicts of them; define `forward`.

    >>> class Line(Module):
    ...     def __init__(self):
    ...         self.slope = Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.slope
    >>> Line()([3.0, 4.0])
    Tensor([6., 8.], dtype=float32, requires_grad=True, made by multiply)
    """

    training: bool = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        module = super().__new__(cls)
        module.__dict__["_token"] = object()  # what graphs remember a module by, without holding it
        return module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every module defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(); define forward(self, x) in the class")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward(...)`, recorded as a call of this module; sequences and numbers among the inputs become Tensors."""
        outer = state.scope
        state.scope = Scope(self.token, type(self).__name__, outer)
        try:
            return self.forward(*args, **kwargs)
        finally:
            state.scope = outer

    @property
    def token(self) -> object:
        """What the graph remembers this module by (`Scope.token`)."""
        return self.__dict__["_token"]

    # -- walking

    def _members(self, kind: type[T], inside: bool) -> Iterator[tuple[str, T]]:
        """Objects of a kind among the attributes, by path, each once; `inside` goes into found modules too."""
        seen: set[int] = {id(self)}

        def walk(value: Any, path: str) -> Iterator[tuple[str, T]]:
            if id(value) in seen:
                return
            if isinstance(value, kind):
                seen.add(id(value))
                yield path, value
                if not inside:
                    return
            if isinstance(value, Module):
                seen.add(id(value))
                items: Any = vars(value).items()
            elif isinstance(value, (list, tuple)):
                items = enumerate(value)
            elif isinstance(value, dict):
                items = value.items()
            else:
                return
            for name, item in items:
                yield from walk(item, f"{path}.{name}" if path else str(name))

        for name, value in vars(self).items():
            yield from walk(value, name)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(path, parameter) for each parameter, in order of assignment; a shared one appears once.

        A parameter is a `Parameter`, or any other given Tensor that requires a gradient.
        """
        for path, tensor in self._members(Tensor, inside=True):
            if isinstance(tensor, Parameter) or (tensor.requires_grad and tensor.node is None):
                yield path, tensor

    def parameters(self) -> list[Tensor]:
        """All parameters, each once."""
        return [p for _, p in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(path, buffer) for each buffer, each once."""
        return self._members(Buffer, inside=True)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(path, module) for this module (path "") and every module inside, each once."""
        yield "", self
        yield from self._members(Module, inside=True)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(path, module) for the modules directly inside."""
        return self._members(Module, inside=False)

    def children(self) -> list[Module]:
        """The modules directly inside."""
        return [m for _, m in self.named_children()]

    # -- modes

    def train(self, mode: bool = True) -> Self:
        """Switch this module and all inside to training mode; returns the module."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch this module and all inside to evaluation mode; returns the module."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.parameters():
            p.grad = None

    # -- text

    def describe(self) -> str:
        """What `repr` shows between the parentheses of a layer without children."""
        return ""

    def __repr__(self) -> str:
        head = type(self).__name__
        lines = [f"  {name}: {module!r}".replace("\n", "\n  ") for name, module in self.named_children()]
        return f"{head}(\n" + "\n".join(lines) + "\n)" if lines else f"{head}({self.describe()})"
