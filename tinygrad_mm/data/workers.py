"""Batches prepared ahead, by threads or by any executor of `concurrent.futures`, and given in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from itertools import chain
from typing import Any

__all__ = ["ahead"]


@contextmanager
def _working(workers: int | futures.Executor) -> Iterator[futures.Executor]:
    """An executor: so many threads, which end with the block, or the given one, which goes on."""
    if isinstance(workers, futures.Executor):
        yield workers
        return
    pool = futures.ThreadPoolExecutor(workers, "DataLoader")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(
    make: Callable[[Any], Any],
    tasks: Iterator[Any],
    prefetch: int,
    workers: int | futures.Executor,
) -> Iterator[Any]:
    """`map(make, tasks)` with `prefetch` calls under way; none is left waiting when this iterator ends.

    Where no thread can be started (a browser's Python, a process at its limit), each is made when it is asked for.
    """
    under_way: deque[futures.Future[Any]] = deque()
    rest: Iterator[Any] = iter(())  # what no worker makes
    with _working(workers) as pool:
        try:
            for task in tasks:
                try:
                    under_way.append(pool.submit(make, task))
                except RuntimeError:
                    if under_way or isinstance(workers, futures.Executor):
                        raise
                    rest = chain([task], tasks)  # the thread did not start
                    break
                if len(under_way) > prefetch:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
            yield from map(make, rest)
        finally:
            for future in under_way:
                future.cancel()
