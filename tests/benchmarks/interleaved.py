"""Run contenders in processes of their own, in turn, for several rounds, and print best, median and ratios.

A benchmark file calls `main(contenders, ...)`: `contenders` maps a name to a function that returns a dict of
microseconds. The file runs itself again once per contender and round.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable


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


def installed(module: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(module) is not None


def measure(
    file: str, names: list[str], rounds: int, threads: int, extra: list[str]
) -> dict[str, dict[str, list[float]]]:
    """{contender: {case: [microseconds of each round]}}"""
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for _ in range(rounds):
        for name in names:
            run = subprocess.run(
                [sys.executable, file, "--contender", name, *extra], env=environment, capture_output=True, text=True
            )
            if run.returncode:
                raise SystemExit(f"{name} failed:\n{run.stderr}")
            for case, value in json.loads(run.stdout.splitlines()[-1]).items():
                found[name].setdefault(case, []).append(value)
    return found


def table(found: dict[str, dict[str, list[float]]], reference: str | None) -> str:
    """Best (median) microseconds, and the ratio of the bests to a reference contender."""
    cases = list(dict.fromkeys(case for values in found.values() for case in values))
    lines = [f"{'':34}" + "".join(f"{case:>26}" for case in cases)]
    for name, values in found.items():
        cells = []
        for case in cases:
            if case not in values:
                cells.append(f"{'-':>26}")
                continue
            best, median = min(values[case]), statistics.median(values[case])
            ratio = ""
            if reference and reference in found and case in found[reference]:
                ratio = f" x{best / min(found[reference][case]):.2f}"
            cells.append(f"{f'{best:.4g} ({median:.4g}){ratio}':>26}")
        lines.append(f"{name:34}" + "".join(cells))
    return "\n".join(lines)


def machine() -> str:
    """A line about the machine and the versions."""
    import numpy as np

    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    for module in ("torch", "autograd"):
        if installed(module):
            from importlib.metadata import version

            versions.append(f"{module} {version(module)}")
    return f"{os.cpu_count()} cores, {platform.machine()}, {', '.join(versions)}"
