"""Peak memory, page faults a step, and whether a long run needs more and more.

    python tests/benchmarks/memory.py [--threads 1] [--contenders NumPy tinygrad_mm]

Each number comes from a process of its own (Linux: what /proc counts). It shows

- the peak of importing a library and taking one Adam step of the mnist network, and how long that takes;
- the peak while taking steps of the wide network, after the step was made;
- page faults a step: fresh memory that the system had to hand over;
- what 10,000 steps of the small network add to the memory in use.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

from compare import contenders
from interleaved import environment, keep_to_cores, machine

HERE = Path(__file__).parent
FAULTS = ("mnist", "mnist2", "wide")
STEPS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(contenders())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contenders", nargs="+", default=[""], help="parts of the names in compare.py")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [name for name in names if any(part.lower() in name.lower() for part in options.contenders)]
    if options.case:
        case, *arguments = options.case.split()
        keep_to_cores(options.threads)
        print(json.dumps(CASES[case](chosen[0], *arguments)))
        return

    def measured(name: str, case: str) -> dict:
        command = [sys.executable, __file__, "--case", case, "--threads", str(options.threads), "--contenders", name]
        run = subprocess.run(command, env=environment(options.threads), capture_output=True, text=True)
        return json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else {"failed": run.stderr[-300:]}

    print(f"threads: {options.threads}; {machine()}\n")
    print(f"{'MB, Adam':32}{'import + one step':>19}{'seconds':>9}{'wide, peak':>12}{'10,000 steps add':>18}", end="")
    print("".join(f"{'faults ' + network:>16}" for network in FAULTS))
    for name in chosen:
        first = measured(name, "first")
        if "peak" not in first:
            print(f"{name:32}{first.get('failed', '').strip().splitlines()[-1:]}")
            continue
        wide, growth = measured(name, "wide"), measured(name, "growth")
        cells = [f"{first['peak']:>19.1f}{first['seconds']:>9.2f}", f"{wide['peak']:>12.1f}{growth['added']:>18.2f}"]
        cells += [f"{measured(name, f'faults {network}')['faults']:>16.1f}" for network in FAULTS]
        print(f"{name:32}{''.join(cells)}", flush=True)


def stepper(name: str, network: str):
    """A contender's step, and the batches to take it on. The library is imported here, not before."""
    from problems import PROBLEMS, learning_rate
    from worker import load

    step = load(contenders()[name]).make(
        PROBLEMS[network], "Adam", learning_rate("Adam"), **load(contenders()[name]).CONTENDERS[name]
    )
    if isinstance(step, str):
        raise SystemExit(step)
    return step, PROBLEMS[network].batches()


def first(name: str) -> dict:
    start = time.perf_counter()
    step, batches = stepper(name, "mnist")
    finished(step(*batches[0]))
    return {"seconds": time.perf_counter() - start, "peak": status("VmHWM")}


def wide(name: str) -> dict:
    step, batches = stepper(name, "wide")
    finished(step(*batches[0]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is in use
    for x, y in batches[:4]:
        finished(step(x, y))
    return {"peak": status("VmHWM")}


def faults(name: str, network: str) -> dict:
    import resource

    step, batches = stepper(name, network)
    for x, y in batches[:5]:
        finished(step(x, y))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for x, y in batches[:20]:
        finished(step(x, y))
    return {"faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20}


def growth(name: str) -> dict:
    step, batches = stepper(name, "small")
    for x, y in islice(cycle(batches), 1000):
        finished(step(x, y))
    before = status("VmRSS")
    for x, y in islice(cycle(batches), STEPS):
        finished(step(x, y))
    return {"added": status("VmRSS") - before}


def finished(loss: object) -> None:
    """Read a loss, so that work that was put off is done."""
    import numpy as np

    np.asarray(getattr(loss, "value", loss))


def status(key: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


CASES = {"first": first, "wide": wide, "faults": faults, "growth": growth}

if __name__ == "__main__":
    main()
