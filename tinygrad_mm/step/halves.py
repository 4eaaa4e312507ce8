"""A training step whose large products and whose update are made by several threads at once (see `passes.halves`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from tinygrad_mm.compiler import together
from tinygrad_mm.compiler.emitter import Insertion

__all__ = ["Halves"]


class Halves:
    """The functions of a program: called with a batch, they make a training step.

    `updates` are the statements of the update, for each of the threads.
    """

    def __init__(self, emitted: Any, leaves: list[Any], places: list[Any], updates: Sequence[Insertion]) -> None:
        self.step, update, self.refresh = emitted.make(leaves, places)
        self.updates = [update]
        for k in range(len(updates[0].shares)):  # the same arrays, but for blocks and temporaries
            own = emitted.bound | {name: a for update in updates for name, a in update.shares[k].items()}
            self.updates.append(emitted.make(leaves, places, own)[1])

    def __call__(self, *batch: Any) -> Any:
        """Make a step; returns ((the loss,), new values of buffers)."""
        phases = [[functools.partial(self.step, *batch)], self.updates]
        return together.in_phases(phases, len(self.updates))[0][0]
