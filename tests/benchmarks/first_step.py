"""What proving a compiled step costs: its first three steps with the check and without, whole processes in turn.

    python tests/benchmarks/first_step.py
    python tests/benchmarks/first_step.py --networks lenet --backend numba

The first step traces, compiles and, with the check, runs the eager engine too; so does the second. The third does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from interleaved import environment, keep_to_cores, machine

NETWORKS = ("tiny", "small", "mnist", "deep", "gru", "lenet", "transformer")


def run(network: str, backend: str, verify: bool) -> list[float]:
    """Milliseconds of each of the first three steps, NumPy and this library being warm."""
    from problems import PROBLEMS
    from worker import load

    import tinygrad_mm as tg

    problem, module = PROBLEMS[network], load("tinygrad")
    x, y = problem.batches()[0]
    made = tg.compile_step
    tg.compile_step = lambda *args, **options: made(*args, verify=verify, **options)
    module.make(problem, "Adam", 1e-4, backend=None)(x, y).item()  # one eager step: imports, BLAS's threads
    step = module.make(problem, "Adam", 1e-4, backend=backend)
    found = []
    for _ in range(3):
        start = time.perf_counter()
        step(x, y)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--backend", default="numpy", choices=["numpy", "numba"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", choices=["checked", "unchecked"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        keep_to_cores(options.threads)
        print(json.dumps(run(options.networks[0], options.backend, options.alone == "checked")))
        return
    print(machine())
    print(f"{'ms, best of ' + str(options.rounds):16}{'':12}{'first step':>12}{'second':>10}{'third':>10}")
    for network in options.networks:
        best: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for how in ("unchecked", "checked"):
                command = [sys.executable, str(Path(__file__)), "--alone", how, "--networks", network]
                command += ["--backend", options.backend, "--threads", str(options.threads)]
                done = subprocess.run(command, env=environment(options.threads), capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                found = json.loads(done.stdout.splitlines()[-1])
                best[how] = [min(pair) for pair in zip(best.get(how, found), found, strict=True)]
        for how, (first, second, third) in best.items():
            print(f"{network:16}{how:12}{first:12.1f}{second:10.2f}{third:10.2f}", flush=True)


if __name__ == "__main__":
    main()
