"""One recorded call by itself: run it forward on other arrays, or pull any gradient back through its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.graph import RULES
from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.transforms.checkpointing import _checkpointed as checkpointed
from tinygrad_mm.transforms.local import pull_through

__all__ = ["Call", "Ref", "widened"]


class Ref(NamedTuple):
    """In place of an array among the arguments of a call: the id of a value."""

    value: int


@dataclass(frozen=True)
class Call:
    """A call of `fun`, with references to values in place of arrays; `needed` are the arguments with a gradient."""

    fun: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    needed: frozenset[int] = frozenset()

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """The ids of the values that the call reads, one for each argument that is one."""
        return tuple(a.value for a in self.args if isinstance(a, Ref))

    @cached_property
    def draws(self) -> bool:
        """Whether the call draws random numbers, and would draw others if it were made again."""
        return any(isinstance(a, np.random.Generator) for a in (*self.args, *self.kwargs.values()))

    @cached_property
    def unplayable(self) -> str:
        """Why the call cannot be made again on plain arrays ("" where it can)."""
        return "a checkpointed call cannot be made again on plain arrays" if self.fun is checkpointed else ""

    @cached_property
    def unrepeatable(self) -> str:
        """Why a difference of the loss says nothing of the gradient through this call ("" where it does)."""
        if self.fun is stop_gradient:
            return "the gradient was stopped on purpose"
        return "a call that draws random numbers would draw others" if self.draws else self.unplayable

    def forward(self, arrays: Sequence[Any] | Mapping[int, Any], wide: bool) -> Any:
        """Make the call again on these arrays, which with `wide` are in float64."""
        told = widened if wide else _same
        args = [arrays[a.value] if isinstance(a, Ref) else told(a) for a in self.args]
        return RULES[self.fun].forward(*args, **{name: told(a) for name, a in self.kwargs.items()})

    def pull(self, arrays: Sequence[Any], y: Any, gradient: Any, wide: bool = False) -> list[tuple[int, Any]]:
        """What the rule sends to each needed argument: (position, gradient of the argument's shape)."""
        told = widened if wide else _same
        args = [arrays[a.value] if isinstance(a, Ref) else told(a) for a in self.args]
        return pull_through(self.fun, args, {k: told(a) for k, a in self.kwargs.items()}, y, gradient, self.needed)


def _same(a: Any) -> Any:
    return a


def widened(a: Any) -> Any:
    """An array or an option of a call for float64: a floating dtype becomes that one, everything else stays."""
    if isinstance(a, tuple) and any(isinstance(one, np.ndarray) for one in a):
        return tuple(map(widened, a))
    if isinstance(a, np.ndarray):
        return a.astype(np.float64) if a.dtype.kind == "f" else a
    if isinstance(a, np.dtype) or (isinstance(a, type) and issubclass(a, np.generic)):
        return np.dtype(np.float64) if np.dtype(a).kind == "f" else a
    return a
