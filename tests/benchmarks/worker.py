"""One contender in a process of its own: makes a step, checks what it computes, and times it when it is asked to.

python tests/benchmarks/worker.py FILE NAME THREADS (compare.py starts it)
"""

from __future__ import annotations

import sys
from pathlib import Path

from interleaved import answer, keep_to_cores

if __name__ == "__main__":
    keep_to_cores(int(sys.argv[3]))  # before any library counts the cores

import gc
import importlib
import resource
import time
from itertools import cycle, islice

import numpy as np
from problems import PROBLEMS, learning_rate


def load(file: str):
    """A file of contenders/ as a module; this imports its library."""
    folder = str(Path(__file__).parent / "contenders")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(file)


class Contender:
    """Answers "prepare", "round" and "forget"."""

    def __init__(self, file: str, name: str) -> None:
        self.file, self.name = file, name
        self.step, self.batches, self.seconds = None, [], 0.0

    def __call__(self, request: dict) -> dict:
        try:
            return getattr(self, request.pop("do"))(**request)
        except Exception as error:
            message = str(error).strip().splitlines() or [""]
            return {"failed": f"{type(error).__name__}: {message[0]}"}

    def prepare(self, problem: str, optimizer: str) -> dict:
        """Make the step and take the first few; return their losses, and the seconds that took."""
        try:
            module = load(self.file)
        except ImportError as error:
            return {"refused": f"not installed: {error}"}
        chosen, start = PROBLEMS[problem], time.perf_counter()
        step = module.make(chosen, optimizer, learning_rate(optimizer), **module.CONTENDERS[self.name])
        if isinstance(step, str):
            return {"refused": f"not available: {step}"}
        self.step, self.batches = step, chosen.batches()
        losses = [number(step(x, y)) for x, y in self.batches[: chosen.checked]]
        warm_up = time.perf_counter() - start
        self.seconds = self.timed(1)
        return {"losses": losses, "warm-up seconds": warm_up}

    def round(self, seconds: float) -> dict:
        """Take steps for about so long; microseconds and page faults a step."""
        if self.seconds < seconds / 2:  # back into the caches
            self.seconds = self.timed(max(1, int(0.1 * seconds / self.seconds)))
        steps = max(2, int(seconds / self.seconds))
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        self.seconds = self.timed(steps)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return {"microseconds": self.seconds * 1e6, "faults": faults / steps, "steps": steps}

    def forget(self) -> dict:
        """Free all memory of the step."""
        self.step, self.batches = None, []
        gc.collect()
        return {}

    def timed(self, steps: int) -> float:
        """Seconds a step, each on the next batch. The last loss is read, so all work that was put off is done."""
        step = self.step
        batches = list(islice(cycle(self.batches), min(steps, 10 * len(self.batches))))
        start = time.perf_counter()
        for x, y in islice(cycle(batches), steps):
            loss = step(x, y)
        np.asarray(getattr(loss, "value", loss))
        return (time.perf_counter() - start) / steps


def number(loss: object) -> float:
    """A loss as a number; of an array of parameters, its length."""
    array = np.asarray(getattr(loss, "value", loss), np.float64)
    return float(array) if array.ndim == 0 else float(np.sqrt((array**2).sum()))


if __name__ == "__main__":
    answer(Contender(sys.argv[1], sys.argv[2]))
