"""A training step by several threads: each takes its share of a batch through the same program.

BLAS spreads a product over the cores, but what lies between products runs on one of them. Where the examples of a
batch know nothing of each other, threads can do all of it: each has a program for its share of the examples, with
buffers and gradients of its own, and the gradients are added up in the update, which is shared as well. BLAS is held
to one thread meanwhile. NumPy lets go of Python's lock during calls on large arrays, so threads hardly wait for it.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinygrad_mm.compiler.emitter import Insertion
from tinygrad_mm.compiler.examples import over_parts
from tinygrad_mm.compiler.kernels import View, kernel_of
from tinygrad_mm.compiler.tracing import Trace

__all__ = ["Functions", "Shares", "of_calls", "of_loops", "shared", "threads"]

Stores: TypeAlias = "Sequence[Sequence[Any]]"

MOST = 8  # threads: one of Python's threads at a time runs what is not a large call
ELEMENTS = 3 << 19  # written by a forward pass, products left out: for fewer, threads wait for each other too long
IN_A_CALL = 1 << 15  # elements that a call writes, on average and in each thread: smaller calls are mostly Python
FOR_A_PARAMETER = 4  # elements written for each: every thread makes a gradient of all parameters


@functools.cache
def _blas() -> Any:
    """The BLAS libraries of this process."""
    import threadpoolctl

    controller: Any = threadpoolctl.ThreadpoolController  # without type hints
    return controller().select(user_api="blas")


_held: list[tuple[Any, int]] = []  # BLAS libraries that a step holds to one thread, and how many they had


def threads() -> int:
    """How many threads BLAS may use outside our steps: OMP_NUM_THREADS and the like say so."""
    had = {id(library): count for library, count in _held}
    counts = (had.get(id(library), library.num_threads) for library in _blas().lib_controllers)
    return min((count or 1 for count in counts), default=1)


def _hold_blas() -> None:
    """Hold BLAS to one thread, until `_let_blas_go`."""
    _let_blas_go()  # where an interrupt came before it was
    _held.extend([(library, library.num_threads) for library in _blas().lib_controllers])
    for library, _ in _held:
        library.set_num_threads(1)


def _let_blas_go() -> None:
    while _held:
        library, count = _held[-1]
        library.set_num_threads(count)
        _held.pop()


def shared(trace: Trace, batch: Sequence[Any], retrace: Callable[[Sequence[Any]], Trace], parameters: int) -> Any:
    """Into how many parts to cut a batch; the trace of one, and how their losses are brought together. None for no cut.

    `parameters` is the number of elements that are trained.
    """
    parts = min(threads(), MOST)
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
    return None if how is None else (parts, part, how)


def _pays(trace: Trace, parts: int, parameters: int) -> bool:
    """Whether a step writes so much between its products that threads for it are worth their while."""
    written = []
    for op in trace.forward:
        several = type(op.result.example) is tuple
        if op.fun is not np.matmul and (several or not isinstance(kernel_of(op), View)):
            written.append(max(a.size for a in (op.result.example if several else (op.result,))))
    elements = sum(written)
    return elements >= max(ELEMENTS, FOR_A_PARAMETER * parameters, IN_A_CALL * parts * len(written))


class Functions(NamedTuple):
    """What one thread runs: a step as far as the gradients, the update, and what changes with the learning rate."""

    step: Callable[..., Any]
    update: Callable[[], Any]
    refresh: Callable[[], Any]


def of_calls(
    emitted: Any, leaves: list[Any], places: list[Any], stores: Stores, insertions: Sequence[Insertion]
) -> list[Functions]:
    """The functions of a program of NumPy calls.

    `places` are the arrays that results are written to in the first thread, `stores` the gradients of all parameters,
    for each thread (one list for each flat buffer). What is written to, each thread has for itself.
    """
    found = []
    for k, here in enumerate(_memories(places, stores)):
        own = {name: here(a) if isinstance(a, np.ndarray) else a for name, a in emitted.bound.items()}
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
        Functions(emitted.make(leaves, [here(a) for a in places]), _nothing if k else update, _nothing)
        for k, here in enumerate(_memories(places, stores))
    ]


def _nothing() -> None:
    pass


class Shares:
    """The functions of all threads as one: called with a batch, they make a training step.

    `how` says how the losses of the parts are brought together, "mean" or "sum".
    """

    def __init__(self, threads: Sequence[Functions], how: str) -> None:
        self.threads, self.parts = threads, len(threads)
        self.weight = 1 / self.parts if how == "mean" else 1.0

    def refresh(self) -> None:
        """Work out anew what depends on the learning rate alone."""
        for thread in self.threads:
            thread.refresh()

    def __call__(self, *batch: Any) -> Any:
        """Make a step; returns ((the loss,), ()), as one program for all does."""
        n = len(batch[0]) // self.parts
        steps = [
            functools.partial(thread.step, *(a[k * n : (k + 1) * n] for a in batch))
            for k, thread in enumerate(self.threads)
        ]
        updates = [thread.update for thread in self.threads if thread.update is not _nothing]
        turn = _turn(os.getpid())
        if threads() >= self.parts and turn.acquire(blocking=False):
            try:
                _hold_blas()
                found = _together(steps)
                _together(updates)
            finally:
                _let_blas_go()
                turn.release()
        else:  # somebody wants fewer threads now, or another thread makes such a step
            found = [step() for step in steps]
            for update in updates:
                update()
        losses = [loss for (loss,), _ in found]
        return (sum(losses[1:], losses[0]) * losses[0].dtype.type(self.weight),), ()


def _memories(places: Sequence[Any], stores: Stores) -> Iterator[Callable[[Any], Any]]:
    """For each thread a function: where an array is for this thread that is in a given place for the first one.

    Arrays that own the memory of a place have a twin in each other thread; all other arrays are for all threads.
    """
    yield lambda a: a
    for k in range(1, len(stores[0])):
        twins: dict[int, Any] = {id(each[0]): each[k] for each in stores}
        owners = {id(owner): owner for owner in map(_owner, places)}
        twins.update((key, owner.copy()) for key, owner in owners.items() if key not in twins)

        def here(a: Any, twins: dict[int, Any] = twins) -> Any:
            owner = _owner(a)
            if id(owner) not in twins:
                return a
            start = a.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            return np.ndarray(a.shape, a.dtype, twins[id(owner)], start, a.strides)

        yield here


def _owner(a: Any) -> Any:
    """The array that owns an array's memory."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


@functools.cache
def _turn(process: int) -> threading.RLock:
    """Held by the step that is being made: of two at a time, the second would put BLAS back to what the first set.

    It is never waited for. A thread that an interrupt took out of a step before it let go can still make the next one.
    """
    return threading.RLock()


@functools.cache
def _workers(process: int, count: int) -> SimpleQueue[Any]:
    """Where threads wait for calls to make. A forked process has none of its parent's threads, so it gets its own.

    (Those of `concurrent.futures` may wait for ever after an interrupt, and take no calls once the program's main
    thread has ended.)
    """
    calls: SimpleQueue[Any] = SimpleQueue()

    def work() -> None:
        while True:
            number, call, context, answers = calls.get()
            try:
                answers.put((number, context.run(call), None))
            except BaseException as error:
                answers.put((number, None, error))
            del call, context, answers  # or the last ones would be kept until the next come

    for _ in range(count):
        threading.Thread(target=work, name="training step", daemon=True).start()
    return calls


def _together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What calls return that are made at the same time, the first of them in this thread; all of them have ended.

    Raises what one of them raised.
    """
    if len(calls) == 1:
        return [calls[0]()]
    workers = _workers(os.getpid(), len(calls) - 1)
    answers: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
    found: dict[int, Any] = {}
    failed: list[BaseException] = []
    asked = 0
    try:
        for number, call in enumerate(calls[1:], 1):
            workers.put((number, call, contextvars.copy_context(), answers))  # with the caller's np.errstate
            asked += 1
        found[0] = calls[0]()
    finally:
        ended = 0
        while ended < asked:
            try:
                number, result, error = answers.get()
            except BaseException as interrupt:  # while others still write to what the next step will use
                failed.append(interrupt)
                continue
            ended += 1
            found[number] = result
            failed.extend([] if error is None else [error])
    if failed:
        raise failed[0]
    return [found[number] for number in range(len(calls))]
