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

__all__ = ["Call", "Ref"]


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
    def unrepeatable(self) -> str:
        """Why the call cannot be made again on other arrays ("" where it can)."""
        if self.fun is stop_gradient:
            return "the gradient was stopped on purpose"
        if any(isinstance(a, np.random.Generator) for a in (*self.args, *self.kwargs.values())):
            return "a call that draws random numbers would draw others"
        return "a checkpointed call cannot be made again on plain arrays" if self.fun is checkpointed else ""

    def forward(self, arrays: Mapping[int, Any]) -> Any:
        """Make the call again in float64, on these arrays."""
        args = [arrays[a.value] if isinstance(a, Ref) else _wide(a) for a in self.args]
        kwargs = {name: _wide(a) for name, a in self.kwargs.items()}
        return RULES[self.fun].forward(*args, **kwargs)

    def pull(self, arrays: Sequence[Any], y: Any, gradient: Any) -> list[tuple[int, Any]]:
        """What the rule sends to each needed argument: (position, gradient of the argument's shape)."""
        args = [arrays[a.value] if isinstance(a, Ref) else a for a in self.args]
        return pull_through(self.fun, args, self.kwargs, y, gradient, self.needed)


def _wide(a: Any) -> Any:
    """An option of a call for float64: a floating dtype becomes that one, everything else stays."""
    if isinstance(a, np.ndarray):
        return a.astype(np.float64) if a.dtype.kind == "f" else a
    if isinstance(a, np.dtype) or (isinstance(a, type) and issubclass(a, np.generic)):
        return np.dtype(np.float64) if np.dtype(a).kind == "f" else a
    return a
