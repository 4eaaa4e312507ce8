"""Contenders in processes of their own, taking turns: what makes their timings comparable.

`Worker` is a process that lives and answers one request at a time, asleep in between; for libraries that take seconds
to load. `measure` starts a light file anew for each contender and round. Both set the number of threads for every
library alike, and `Worker` leaves each process as many cores as it has threads.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PEERS = ("numpy", "numba", "torch", "jax", "jaxlib", "keras", "autograd", "mygrad", "scikit-learn")


class WorkerError(Exception):
    """A worker ended, or did not answer in time."""


def environment(threads: int) -> dict[str, str]:
    """This process's environment with the same number of threads for every library, which sleep when idle."""
    number = str(threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
    flags = os.environ.get("XLA_FLAGS", "") + (" --xla_cpu_multi_thread_eigen=false" if threads == 1 else "")
    return {
        **os.environ,
        **dict.fromkeys(names, number),
        "XLA_FLAGS": flags.strip(),
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # in this process: helpers of its own would run beside the others
    }


class Worker:
    """A process `python FILE ARGUMENTS...` that reads a request, a line of JSON, and writes a line of JSON."""

    def __init__(self, command: list[str], threads: int, checkout: str | None = None) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            bufsize=1,
            env=environment(threads) | ({"PYTHONPATH": checkout} if checkout else {}),
        )

    def ask(self, timeout: float = 300, **request: object) -> dict:
        """The answer to a request. Raises WorkerError with the process's last words where there is none in time."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError:
            raise WorkerError(self.last_words()) from None
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            self.stop()
            raise WorkerError(f"no answer in {timeout:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self.last_words())
        return json.loads(line)

    def settle(self, seconds: float = 3) -> float:
        """Wait until no thread of the process runs any more, and return the seconds that took.

        Idle threads of OpenBLAS and OpenMP look for work for a while before they sleep; they would take a core from
        whoever is next. Linux counts the time a thread has run; elsewhere a pause has to do.
        """
        start = time.perf_counter()
        if not Path("/proc").is_dir():
            time.sleep(0.25)
            return 0.25
        ran = self.ran()
        while time.perf_counter() < start + seconds:
            time.sleep(0.01)
            before, ran = ran, self.ran()
            if ran - before < 200_000:  # 0.2 of 10 ms
                return time.perf_counter() - start
        raise WorkerError(f"its threads did not come to rest in {seconds:g} s")

    def ran(self) -> int:
        """Nanoseconds for which the process's threads have run."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):  # a thread ended meanwhile
                continue
        return total

    def last_words(self) -> str:
        """The last line of what the process wrote to stderr."""
        self.process.wait(10)
        if self.errors.closed:
            return "was stopped"
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return f"ended with {self.process.returncode}: {lines[-1] if lines else 'no message'}"

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()  # waits, and closes the pipes
        self.errors.close()


def answer(handle: Callable[[dict], dict]) -> None:
    """The worker's side: answer requests until there are no more. What libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        replies.write(json.dumps(handle(json.loads(line))) + "\n")


def keep_to_cores(threads: int) -> None:
    """Leave this process as many cores as it has threads, where the system can: no library then has more."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


# ---------------------------------------------------------------------------------------------------------------------
# Light files, started anew each time
# ---------------------------------------------------------------------------------------------------------------------


def best_of(function: Callable[[], object], seconds: float = 0.5, least: int = 20) -> float:
    """The shortest of many calls, in microseconds."""
    for _ in range(5):
        function()
    best, stop, done = float("inf"), time.perf_counter() + seconds, 0
    while done < least or time.perf_counter() < stop:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
        done += 1
    return best * 1e6


def measure(
    file: str, names: list[str], rounds: int, threads: int, extra: list[str]
) -> dict[str, dict[str, list[float]]]:
    """{contender: {case: [result of each round]}}, from `python FILE --contender NAME EXTRA...`, run in turn."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for _ in range(rounds):
        for name in names:
            run = subprocess.run(
                [sys.executable, file, "--contender", name, *extra],
                env=environment(threads),
                capture_output=True,
                text=True,
            )
            if run.returncode:
                raise SystemExit(f"{name} failed:\n{run.stderr}")
            for case, value in json.loads(run.stdout.splitlines()[-1]).items():
                found[name].setdefault(case, []).append(value)
    return found


def table(found: dict[str, dict[str, list[float]]], reference: str | None, best: Callable = min) -> str:
    """Best (median) of each case, and the ratio of the bests to a reference contender."""
    cases = list(dict.fromkeys(case for values in found.values() for case in values))
    lines = [f"{'':34}" + "".join(f"{case:>26}" for case in cases)]
    for name, values in found.items():
        cells = []
        for case in cases:
            if case not in values:
                cells.append(f"{'-':>26}")
                continue
            ratio = ""
            if reference and reference in found and case in found[reference]:
                ratio = f" x{best(values[case]) / best(found[reference][case]):.2f}"
            cells.append(f"{f'{best(values[case]):.4g} ({statistics.median(values[case]):.4g}){ratio}':>26}")
        lines.append(f"{name:34}" + "".join(cells))
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# What it runs on
# ---------------------------------------------------------------------------------------------------------------------


def installed(module: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(module) is not None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that are installed."""
    found = {"Python": platform.python_version()}
    for package in PEERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> str:
    """A line about the machine and the versions."""
    return f"{os.cpu_count()} cores of {processor()}, {platform.system()}, " + ", ".join(
        f"{name} {number}" for name, number in versions().items()
    )
