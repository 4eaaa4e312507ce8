"""A training step by several threads: each takes its share of a batch through the same program.

BLAS spreads a product over the cores, but what lies between products runs on one of them. Where the examples of a
batch know nothing of each other, threads can do all of it: each has a program for its share of the examples, with
buffers and gradients of its own, and the gradients are added up in the update, which is shared as well. BLAS is held
to one thread meanwhile. NumPy lets go of Python's lock during calls on large arrays, so threads hardly wait for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinygrad_mm.compiler.emitter import Insertion
from tinygrad_mm.compiler.lowerings import View, lowering_of
from tinygrad_mm.compiler.threads import pool
from tinygrad_mm.compiler.threads.batch_independence import over_parts
from tinygrad_mm.compiler.tracing import Trace
from tinygrad_mm.memory import aligned

__all__ = ["Functions", "Shares", "of_calls", "of_loops", "shared"]

Stores: TypeAlias = "Sequence[Sequence[Any]]"

MOST = 8  # threads: one of Python's threads at a time runs what is not a large call
ELEMENTS = 3 << 19  # written by a forward pass, products left out: for fewer, threads wait for each other too long
IN_A_CALL = 1 << 15  # elements that a call writes, on average and in each thread: smaller calls are mostly Python
FOR_A_PARAMETER = 4  # elements written for each: every thread makes a gradient of all parameters


def shared(trace: Trace, batch: Sequence[Any], retrace: Callable[[Sequence[Any]], Trace], parameters: int) -> Any:
    """Into how many parts to cut a batch; the trace of one; what its loss counts in that of all. None for no cut.

    `parameters` is the number of elements that are trained.
    """
    parts = min(pool.threads(), MOST)
    rows = {len(a) if a.ndim else 0 for a in batch}
    if parts < 2 or len(rows) != 1 or (n := rows.pop()) % parts or n < 2 * parts or not _pays(trace, parts, parameters):
        return None
    if not trace.captured.unchanged():  # a call changes something, so there must be no second one
        return None
    try:
        with np.errstate(all="ignore"):
            part = retrace([a[: n // parts] for a in batch])
    except Exception:  # the function takes no fewer rows
        return None
    how = over_parts(trace, part, parts)
    return None if how is None else (parts, part, 1 / parts if how == "mean" else 1.0)


def _pays(trace: Trace, parts: int, parameters: int) -> bool:
    """Whether a step writes so much between its products that threads for it are worth their while."""
    written = []
    for op in trace.forward:
        several = type(op.result.example) is tuple
        if op.fun is not np.matmul and (several or not isinstance(lowering_of(op), View)):
            written.append(max(a.size for a in (op.result.example if several else (op.result,))))
    elements = sum(written)
    return elements >= max(ELEMENTS, FOR_A_PARAMETER * parameters, IN_A_CALL * parts * len(written))


class Functions(NamedTuple):
    """What one thread runs: a step as far as the gradients, and the update."""

    step: Callable[..., Any]
    update: Callable[[], Any]


def of_calls(
    emitted: Any, leaves: list[Any], places: list[Any], stores: Stores, insertions: Sequence[Insertion]
) -> list[Functions]:
    """The functions of a program of NumPy calls.

    `places` are the arrays that results are written to in the first thread, `stores` the gradients of all parameters,
    for each thread (one list for each flat buffer). What is written to, each thread has for itself.
    """
    found = []
    for k, here in enumerate(_memories(places, stores)):
        own = _bound(emitted, here)
        for insertion in insertions:
            own.update(insertion.shares[k - 1] if k else {})
        found.append(Functions(*emitted.make(leaves, [here(a) for a in places], own)))
    return found


def of_loops(
    emitted: Any, leaves: list[Any], places: list[Any], stores: Stores, updates: Sequence[Callable[[], Any]]
) -> list[Functions]:
    """The same for a program of compiled loops; the updates have threads of their own."""

    def update() -> None:
        for run in updates:
            run()

    return [
        Functions(emitted.make(leaves, [here(a) for a in places], _bound(emitted, here))[0], _nothing if k else update)
        for k, here in enumerate(_memories(places, stores))
    ]


def _bound(emitted: Any, here: Callable[[Any], Any]) -> dict[str, Any]:
    """What a thread's functions refer to by name."""
    return {name: here(a) if isinstance(a, np.ndarray) else a for name, a in emitted.bound.items()}


def _nothing() -> None:
    pass


class Shares:
    """The functions of all threads as one: called with a batch, they make a training step.

    The loss is the sum of those of the parts, times `weight`; other outputs are those of the parts in a row.
    """

    def __init__(self, threads: Sequence[Functions], weight: float) -> None:
        self.threads, self.parts, self.weight = threads, len(threads), weight
        self.updates = [thread.update for thread in threads if thread.update is not _nothing]

    def __call__(self, *batch: Any) -> Any:
        """Make a step; returns ((the loss, ...), ()), as one program for all does."""
        found, _ = pool.in_phases([self._steps(batch), self.updates], self.parts)
        return self._joined(found)

    def step(self, *batch: Any) -> Any:
        """The same without the update."""
        return self._joined(*pool.in_phases([self._steps(batch)], self.parts))

    def update(self) -> None:
        """The update, of what the gradients of all threads add up to."""
        pool.in_phases([self.updates], self.parts)

    def _steps(self, batch: Sequence[Any]) -> list[Callable[[], Any]]:
        n = len(batch[0]) // self.parts
        return [
            functools.partial(thread.step, *(a[k * n : (k + 1) * n] for a in batch))
            for k, thread in enumerate(self.threads)
        ]

    def _joined(self, found: Sequence[Any]) -> Any:
        (first, *losses), *others = zip(*(outputs for outputs, _ in found), strict=True)
        return (sum(losses, first) * first.dtype.type(self.weight), *map(np.concatenate, others)), ()


def _memories(places: Sequence[Any], stores: Stores) -> Iterator[Callable[[Any], Any]]:
    """For each thread a function: where an array is for this thread that is in a given place for the first one.

    Arrays that own the memory of a place have a twin in each other thread; all other arrays are for all threads.
    """
    yield lambda a: a
    for k in range(1, len(stores[0]) if stores else 1):
        twins = {id(_owner(each[0])): (each[0], each[k]) for each in stores}  # what lies there for the first, and here
        owners = {id(owner): owner for owner in map(_owner, places)}
        for key, owner in owners.items():
            if key not in twins:
                twins[key] = owner, aligned(owner.shape, owner.dtype)
                twins[key][1][...] = owner

        def here(a: Any, twins: dict[int, tuple[Any, Any]] = twins) -> Any:
            if id(_owner(a)) not in twins:
                return a
            first, twin = twins[id(_owner(a))]
            start = a.__array_interface__["data"][0] - first.__array_interface__["data"][0]
            return np.ndarray(a.shape, a.dtype, twin, start, a.strides)

        yield here


def _owner(a: Any) -> Any:
    """The array that owns an array's memory."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a
