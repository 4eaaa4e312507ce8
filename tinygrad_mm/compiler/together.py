"""Calls made at the same time, by threads of Python's, while BLAS has one thread itself."""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Calls", "at_once", "in_phases", "product_in_threads", "threads"]

Calls: TypeAlias = "Sequence[Callable[[], Any]]"


@functools.cache
def _blas() -> Any:
    """The BLAS libraries of this process."""
    import threadpoolctl

    controller: Any = threadpoolctl.ThreadpoolController  # without type hints
    return controller().select(user_api="blas")


_here = threading.local()  # `parts`: how many threads this one may use now
_held: list[tuple[Any, int]] = []  # BLAS libraries that are held to one thread, and how many they had


def threads() -> int:
    """How many threads BLAS may use when it is not held: OMP_NUM_THREADS and the like say so."""
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


def in_phases(phases: Sequence[Calls], count: int) -> list[list[Any]]:
    """What the calls of each phase return; those of one phase are made at the same time, by `count` threads.

    They are made one after the other where BLAS may use fewer threads, or where somebody else is about it already.
    """
    turn = _turn(os.getpid())
    if threads() >= count and turn.acquire(blocking=False):
        try:
            _hold_blas()
            _here.parts = count
            return [at_once(calls) for calls in phases]
        finally:
            _here.parts = 1
            _let_blas_go()
            turn.release()
    return [[call() for call in calls] for calls in phases]


def product_in_threads(a: Any, b: Any, out: Any) -> None:
    """A product of matrices, written to `out`; in a phase of one call, each thread makes some rows or columns of it."""
    parts = getattr(_here, "parts", 1)
    if parts == 1:
        np.matmul(a, b, out)
        return
    by_rows = out.shape[0] >= out.shape[1]
    cuts = [max(out.shape) * k // parts for k in range(parts + 1)]
    calls = []
    for piece in map(slice, cuts, cuts[1:]):
        some = (a[piece], b, out[piece]) if by_rows else (a, b[:, piece], out[:, piece])
        calls.append(functools.partial(np.matmul, *some))
    at_once(calls)


@functools.cache
def _turn(process: int) -> threading.RLock:
    """Held while BLAS is: of two at a time, the second would put BLAS back to what the first has set.

    It is never waited for. A thread that an interrupt took away before it let go can still have it the next time.
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


def at_once(calls: Calls) -> list[Any]:
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
            except BaseException as interrupt:  # while others still write to what will be used next
                failed.append(interrupt)
                continue
            ended += 1
            found[number] = result
            failed.extend([] if error is None else [error])
    if failed:
        raise failed[0]
    return [found[number] for number in range(len(calls))]
