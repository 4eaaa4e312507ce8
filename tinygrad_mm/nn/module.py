"""`Module`: an object with parameters and a `forward`.

Nothing is registered: parameters and layers are found by walking the attributes, and the lists and dicts in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Protocol, TypeVar

import numpy as np

from tinygrad_mm.graph import Scope, state, tick
from tinygrad_mm.nn import states
from tinygrad_mm.notebook import preformatted
from tinygrad_mm.tensor import Buffer, Parameter, Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Module", "as_tensor"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R", covariant=True)

# Attributes that are not parts of a module, and are not copied with it: its identity in graphs, and its hooks.
_INTERNAL = ("_token", "_before", "_after")


def as_tensor(x: Any) -> Tensor:
    """A Tensor as it is, anything else as one: what layers do with their input.

    >>> as_tensor([1.0, 2.0])
    Tensor([1., 2.], dtype=float32)
    """
    return x if isinstance(x, Tensor) else Tensor(x)


class _HasForward(Protocol[P, R]):
    """For type checkers: a module, called, takes and returns what its own `forward` does."""

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Module:
    """Base class of layers and networks: assign parameters, layers, lists or dicts of them; define `forward`.

    Calling a module calls its `forward`, and the hooks around it. `training` is True in training mode, False in
    evaluation mode (`train()`, `eval()`).

    >>> class Line(Module):
    ...     def __init__(self):
    ...         self.slope = Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.slope
    >>> Line()([3.0, 4.0])
    Tensor([6., 8.], dtype=float32, requires_grad=True, made by multiply)
    """

    training: bool = True

    # What PyTorch calls this class's own tensors, where that differs; ".T" says that it keeps the transpose.
    torch_names: ClassVar[Mapping[str, str]] = {}
    # What PyTorch keeps in such a layer and this class has no use for.
    torch_extras: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        module = super().__new__(cls)
        module.__dict__["_token"] = object()  # stands for the module in graphs, which must not keep it alive
        return module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; every module defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(); define forward(self, x) in the class")

    if TYPE_CHECKING:

        def __call__(self: _HasForward[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...

    else:

        def __call__(self, *args, **kwargs):
            """`forward(...)`, recorded as a call of this module, with the hooks before and after it."""
            outer = state.scope
            state.scope = Scope(self.token, type(self).__name__, outer, {} if outer else self._given(args, kwargs))
            try:
                args = self._run_pre_hooks(args)
                return self._run_hooks(args, self.forward(*args, **kwargs))
            finally:
                state.scope = outer

    def _given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of `forward` by their names, as far as it has names for them."""
        code = getattr(type(self).forward, "__code__", None)
        names = () if code is None else code.co_varnames[1 : code.co_argcount]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    @property
    def token(self) -> object:
        """What stands for this module in graphs (`Scope.token`)."""
        return self.__dict__["_token"]

    # -- parts

    def _members(self, kind: type[T], inside: bool) -> Iterator[tuple[str, T]]:
        """(path, object) for objects of a kind among the attributes, each once; `inside`: also inside those found."""
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
            for name, item in parts_of(value):
                yield from walk(item, f"{path}.{name}" if path else str(name))

        for name, value in parts_of(self):
            yield from walk(value, name)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(path, parameter) for each parameter, in order of assignment; a shared one appears once.

        A parameter is a `Parameter`, or any other leaf Tensor that requires a gradient (or did, before `freeze`).
        """
        for path, tensor in self._members(Tensor, inside=True):
            if is_parameter(tensor):
                yield path, tensor

    def parameters(self) -> list[Tensor]:
        """All parameters, each once."""
        return [p for _, p in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(path, buffer) for each buffer, each once."""
        return self._members(Buffer, inside=True)

    def named_generators(self) -> Iterator[tuple[str, np.random.Generator]]:
        """(path, generator) for each random generator that the module draws from, each once."""
        return self._members(np.random.Generator, inside=True)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(path, module) for this module (path "") and every module inside, each once."""
        yield "", self
        yield from self._members(Module, inside=True)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(path, module) for the outermost modules inside this one, each once."""
        return self._members(Module, inside=False)

    def children(self) -> list[Module]:
        """The outermost modules inside this one."""
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

    def freeze(self) -> Self:
        """Stop all parameters from learning: they require no gradient until `unfreeze`; returns the module.

        An optimizer skips parameters without a gradient, so it need not be told.
        """
        for p in self.parameters():
            p._set_extra("parameter", True)  # keeps a Tensor that is no `Parameter` among the parameters
            p.requires_grad_(False)
            p.grad = None
        return self

    def unfreeze(self) -> Self:
        """Let all parameters learn again; returns the module."""
        for p in self.parameters():
            p.requires_grad_(True)
        return self

    def to(self, dtype: Any) -> Self:
        """Turn all parameters, their gradients and the floating buffers into another dtype; returns the module.

        Raises TypeError for a dtype that has no gradients.

        >>> from tinygrad_mm.nn import Linear
        >>> Linear(2, 1, rng=0).to(np.float64).weight.dtype
        dtype('float64')
        """
        dtype = np.dtype(dtype)
        if dtype.kind != "f":
            raise TypeError(f"to({dtype}): parameters need floating numbers, such as np.float32 or np.float64")
        for p in self.parameters():
            grad = p.grad
            p.data = p.value.astype(dtype)
            p.grad = None if grad is None else grad.astype(dtype)
        for _, buffer in self.named_buffers():
            if buffer.dtype.kind == "f":
                buffer.data = buffer.value.astype(dtype)
        return self

    # -- state

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of all parameters and buffers as arrays, by path; a shared one once, under its first path.

        >>> from tinygrad_mm.nn import Linear
        >>> {path: array.shape for path, array in Linear(3, 2, rng=0).state_dict().items()}
        {'weight': (3, 2), 'bias': (2,)}
        """
        return {path: tensor.value.copy() for path, tensor in self._named_state()}

    def load_state_dict(self, arrays: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Take over parameters and buffers saved by `state_dict`; nothing is changed unless everything fits.

        Without `strict`, names that are missing or unexpected are passed over. Returns both lists of names.

        Raises ValueError that lists all names that are missing or unexpected, and all shapes and dtypes that differ.
        """
        own = dict(self._named_state())
        found = states.checked(type(self).__name__, own, arrays, strict)
        for path, array in found.arrays.items():
            own[path].data = array.copy()
        return found.missing, found.unexpected

    def _named_state(self) -> Iterator[tuple[str, Tensor]]:
        """(path, tensor) for each parameter and buffer, in order of assignment."""
        for path, tensor in self._members(Tensor, inside=True):
            if isinstance(tensor, Buffer) or is_parameter(tensor):
                yield path, tensor

    def torch_name(self, path: str) -> str:
        """What PyTorch calls a tensor of this module: `path` is relative to it and, below a child, renamed already."""
        return self.torch_names.get(path, path)

    # -- hooks

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Callable[[], None]:
        """Call `hook(module, args, output)` after each `forward`; what it returns, if anything, replaces the output.

        Returns a function that removes the hook.

        >>> from tinygrad_mm.nn import Linear
        >>> layer = Linear(3, 2, rng=0)
        >>> remove = layer.register_forward_hook(lambda module, args, output: print(output.shape))
        >>> _ = layer(np.ones((5, 3), np.float32))
        (5, 2)
        >>> remove()
        """
        return self._register("_after", hook)

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple[Any, ...]], Any]) -> Callable[[], None]:
        """Call `hook(module, args)` before each `forward`; a tuple that it returns replaces the positional arguments.

        Returns a function that removes the hook.
        """
        return self._register("_before", hook)

    def _register(self, where: str, hook: Callable[..., Any]) -> Callable[[], None]:
        hooks = self.__dict__.setdefault(where, {})
        key = tick()
        hooks[key] = hook

        def remove() -> None:
            hooks.pop(key, None)
            if not hooks and self.__dict__.get(where) is hooks:
                del self.__dict__[where]

        return remove

    def _run_pre_hooks(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in list(self.__dict__.get("_before", {}).values()):
            replaced = hook(self, args)
            if replaced is not None:
                args = replaced if isinstance(replaced, tuple) else (replaced,)
        return args

    def _run_hooks(self, args: tuple[Any, ...], result: Any) -> Any:
        for hook in list(self.__dict__.get("_after", {}).values()):
            replaced = hook(self, args, result)
            result = result if replaced is None else replaced
        return result

    # -- text

    def describe(self) -> str:
        """What `repr` shows between the parentheses of a layer without children."""
        return ""

    def __repr__(self) -> str:
        head = type(self).__name__
        lines = [f"  {name}: {module!r}".replace("\n", "\n  ") for name, module in self.named_children()]
        return f"{head}(\n" + "\n".join(lines) + "\n)" if lines else f"{head}({self.describe()})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the layers, and how many numbers they have learned."""
        count = sum(p.size for p in self.parameters())
        return preformatted(f"{self!r}\n{count:,} parameters; nn.summary(model, inputs) shows shapes and costs")

    # -- copies

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with parameters, buffers and generators of its own; hooks stay with the original."""
        from copy import deepcopy

        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        for name, value in vars(self).items():
            if name not in _INTERNAL:
                copy.__dict__[name] = deepcopy(value, memo)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _INTERNAL}


def parts_of(value: Any) -> list[tuple[Any, Any]]:
    """(name, part) for what a module, a list, a tuple or a dict consists of; nothing for anything else."""
    if isinstance(value, Module):
        return [(name, part) for name, part in vars(value).items() if name not in _INTERNAL]
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    return list(value.items()) if isinstance(value, dict) else []


def is_parameter(tensor: Tensor) -> bool:
    """Whether a tensor among a module's attributes is learned."""
    if isinstance(tensor, Parameter):
        return True
    return tensor.node is None and (tensor.requires_grad or bool((tensor.extra or {}).get("parameter")))
