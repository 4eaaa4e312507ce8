"""Calls made at the same time, by threads of Python's, while BLAS has one thread itself."""

from __future__ import annotations

import contextvars
import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from types import FrameType
from typing import Any, TypeAlias

__all__ = ["Calls", "at_once", "in_phases", "threads"]

Calls: TypeAlias = "Sequence[Callable[[], Any]]"


@functools.cache
def _blas() -> Sequence[Any]:
    """The BLAS libraries of this process; none are known where Python has no ctypes, as in some browsers."""
    try:
        import threadpoolctl
    except ImportError:
        return ()
    controller: Any = threadpoolctl.ThreadpoolController  # without type hints
    return controller().select(user_api="blas").lib_controllers


_held: list[tuple[Any, int]] = []  # BLAS libraries that are held to one thread, and how many they had


def threads() -> int:
    """How many threads BLAS may use when it is not held: OMP_NUM_THREADS and the like say so."""
    had = {id(library): count for library, count in _held}
    counts = (had.get(id(library), library.num_threads) for library in _blas())
    return min((count or 1 for count in counts), default=1)


def _hold_blas() -> None:
    """Hold BLAS to one thread, until `_let_blas_go`."""
    _let_blas_go()  # where an interrupt came before it was
    _held.extend([(library, library.num_threads) for library in _blas()])
    for library, _ in _held:
        library.set_num_threads(1)


def _let_blas_go() -> None:
    while _held:
        library, count = _held[-1]
        library.set_num_threads(count)
        _held.pop()


def in_phases(phases: Sequence[Calls], count: int) -> list[list[Any]]:
    """What the calls of each phase return; those of one phase are made at the same time, by `count` threads.

    They are made one after the other where BLAS may use fewer threads, where somebody else is about it already (another
    thread, or the step that a signal has interrupted), and where the interpreter ends: its threads work no more.
    """
    turn = _turn(os.getpid())
    if not sys.is_finalizing() and threads() >= count and turn.acquire(blocking=False):
        try:
            if not _in_progress():
                return _by_threads(phases)
        finally:
            turn.release()
    return [[call() for call in calls] for calls in phases]


def _by_threads(phases: Sequence[Calls]) -> list[list[Any]]:
    _working[:] = [sys._getframe()]
    try:
        for batch in list(_flying(os.getpid())):
            batch.land(cancel=True)
            _flying(os.getpid()).discard(batch)
        _hold_blas()
        return [at_once(calls) for calls in phases]
    finally:
        _let_blas_go()
        _working.clear()


_working: list[FrameType] = []  # the call of `_by_threads` that holds BLAS, or one that an interrupt has ended


def _in_progress() -> bool:
    """Whether this thread is inside `_by_threads`: a signal's handler is called in the middle of what it interrupts."""
    frame: FrameType | None = sys._getframe() if _working else None
    while frame is not None and frame not in _working:
        frame = frame.f_back
    return frame is not None


@functools.cache
def _turn(process: int) -> threading.RLock:
    """Held while BLAS is: of two at a time, the second would put BLAS back to what the first has set.

    It is never waited for. A thread that an interrupt took away before it let go can still have it the next time.
    """
    return threading.RLock()


class _Batch:
    """Calls that others are to make. Each is taken by one worker; after an interrupt, or where one of them begins with
    calls at once of its own, by nobody.
    """

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.context = contextvars.copy_context()  # with the caller's np.errstate
        self.takers: dict[int, str] = {}  # who is entered first has a call; `setdefault` is one step for all threads
        self.answers: dict[int, tuple[Any, BaseException | None]] = {}
        self.bell: SimpleQueue[None] = SimpleQueue()

    def make(self, number: int) -> None:
        """What a worker does."""
        if self.takers.setdefault(number, "a worker") != "a worker":
            return
        try:
            self.answers[number] = self.context.copy().run(self.calls[number]), None
        except BaseException as error:
            self.answers[number] = None, error
        self.bell.put(None)

    def land(self, cancel: bool = False) -> list[BaseException]:
        """Wait for all calls, or, with `cancel`, for those that have been taken. Returns the interrupts meanwhile."""
        interrupts: list[BaseException] = []
        while True:
            try:
                if cancel or interrupts:
                    for number in range(len(self.calls)):
                        self.takers.setdefault(number, "nobody")
                awaited = [n for n in range(len(self.calls)) if self.takers.get(n) != "nobody"]
                if self.answers.keys() >= set(awaited):
                    return interrupts
                self.bell.get()  # a ring may get lost with an interrupt, an answer cannot
            except BaseException as interrupt:  # while others still write to what will be used next
                interrupts.append(interrupt)


@functools.cache
def _flying(process: int) -> set[_Batch]:
    """What the next calls wait for, where an interrupt came at a moment when nobody could."""
    return set()


class _Workers:
    """Threads that wait for calls to make.

    (Those of `concurrent.futures` may wait for ever after an interrupt, and take no calls once the program's main
    thread has ended.)
    """

    def __init__(self, count: int) -> None:
        self.calls: SimpleQueue[Any] = SimpleQueue()
        self.threads = [threading.Thread(target=self._work, name="training step", daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _work(self) -> None:
        while True:
            batch, number = self.calls.get()
            batch.make(number)
            del batch  # or the last one would be kept until the next comes


@functools.cache
def _workers(process: int, count: int) -> _Workers:
    """Those of this process: a forked one has none of its parent's threads, so it gets its own."""
    return _Workers(count)


def at_once(calls: Calls) -> list[Any]:
    """What calls return that are made at the same time, the first of them in this thread; all of them have ended.

    Raises what one of them raised.
    """
    if len(calls) == 1:
        return [calls[0]()]
    workers = _workers(os.getpid(), len(calls) - 1)
    batch, flying = _Batch(calls[1:]), _flying(os.getpid())
    failed: list[BaseException] = []
    try:
        flying.add(batch)
        for number in range(len(calls) - 1):
            workers.calls.put((batch, number))
        first = calls[0]()
    except BaseException as error:
        failed.append(error)
    failed += batch.land(cancel=bool(failed))
    failed += [error for _, error in batch.answers.values() if error is not None]
    flying.discard(batch)
    if failed:
        raise failed[0]
    missed = {n: (batch.calls[n](), None) for n in range(len(calls) - 1) if n not in batch.answers}
    return [first, *((batch.answers | missed)[n][0] for n in range(len(calls) - 1))]
