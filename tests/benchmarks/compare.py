"""One whole training step (forward, loss, backward, update) of this library and of others, side by side.

    python tests/benchmarks/compare.py                              # everything that is installed
    python tests/benchmarks/compare.py --networks tiny deep --optimizers SGD --contenders eager NumPy --threads 1
    python tests/benchmarks/compare.py --python MyGrad=/other/venv/bin/python --out tests/benchmarks/results
    python tests/benchmarks/compare.py --contenders tinygrad_mm tinygrad_mm@../before  # another checkout beside this one

Each contender lives in a process of its own; they take turns, and while one runs the others sleep. Each starts from the
same weights and gets the same new batch at each step (float32 inputs, integer labels; copies that it needs it makes
within the timed step). One whose losses over the first steps differ from the others' is not timed.

The results are in OUT/results.json after each network, and in OUT/RESULTS.md with plots at the end. A run that was cut
off goes on where it stopped: a network is measured, with all contenders asked for, unless OUT has them all; --again
starts anew. `--report` only writes RESULTS.md and the plots again.
"""

from __future__ import annotations

import argparse
import ast
import json
import shlex
import signal
import statistics
import sys
import time
from datetime import date
from itertools import product
from pathlib import Path

import report
from interleaved import Worker, WorkerError, machine, versions
from problems import PROBLEMS

HERE = Path(__file__).parent
FILES = ("numpy_naive", "numpy_best", "tinygrad", "pytorch", "jax_jit", "hips_autograd", "mygrad_nnet", "scikit_learn")
OPTIMIZERS = ("SGD", "Adam")

# How far a loss may be from the median of all contenders' losses, relative to it. Contenders add up in different orders,
# and Adam's first steps are learning_rate * sign(gradient): where rounding decides the sign of a tiny gradient, two
# contenders go different ways, by an amount that changes the loss little. A rate wrong by a tenth shows with both.
TOLERANCE = {"SGD": 2e-5, "Adam": 3e-4}


def contenders() -> dict[str, str]:
    """{name: file} of all contenders. The files are read, not imported: this process loads none of the libraries."""
    found = {}
    for file in FILES:
        for line in ast.parse((HERE / "contenders" / f"{file}.py").read_text()).body:
            target = line.target if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [None])[0]
            if getattr(target, "id", "") == "CONTENDERS":
                found |= dict.fromkeys(ast.literal_eval(line.value), file)
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.exists() and (options.report or not options.again) else {}
    if not options.report:
        if results and results["versions"] != versions():
            raise SystemExit(f"{file} was measured with other versions; start anew with --again")
        results |= {
            "machine": machine(),
            "versions": versions(),
            "date": str(date.today()),
            "command": shlex.join(["python", "tests/benchmarks/compare.py", *(arguments or sys.argv[1:])]),
            "tolerance": TOLERANCE,
        }
        start = time.perf_counter()
        for threads in options.threads:
            compare(options, threads, results.setdefault("threads", {}).setdefault(str(threads), {}), results, file)
        print(f"{time.perf_counter() - start:.0f} s in all")
    if not results:
        raise SystemExit(f"there is no {file}")
    report.write(results, out)
    print(f"{out / 'RESULTS.md'}")


def compare(options: argparse.Namespace, threads: int, cells: dict, results: dict, file: Path) -> None:
    """Measure all networks and optimizers with a number of threads into `cells`, and save after each."""
    workers: dict[str, Worker] = {}
    try:
        for network, optimizer in product(options.networks, options.optimizers):
            if is_done(cells.get(f"{network} {optimizer}", {}), options):
                continue
            for name in options.contenders:
                if name not in workers or workers[name].process.poll() is not None:
                    workers[name] = start(name, threads, options)
            begin = time.perf_counter()
            found = cell(workers, network, optimizer, options.rounds, options.seconds)
            cells[f"{network} {optimizer}"] = found
            temporary = file.with_suffix(".part")
            temporary.write_text(json.dumps(results, indent=1))
            temporary.replace(file)
            print(f"{network} {optimizer}, threads: {threads} ({time.perf_counter() - begin:.0f} s)")
            for name, values in found.items():
                times = values.get("microseconds")
                if times:
                    text = f"{min(times):10.1f} µs ({statistics.median(times):.1f})"
                else:
                    text = f"         - {reason(values) or 'the same losses'}"
                print(f"  {name:34}{text}", flush=True)
    finally:
        for worker in workers.values():
            worker.stop()


def is_done(found: dict[str, dict], options: argparse.Namespace) -> bool:
    """Whether all wanted contenders were measured, or refused for good reason."""
    wanted = [found.get(name, {}) for name in options.contenders]
    return all("refused" in values or len(values.get("microseconds", ())) == options.rounds > 0 for values in wanted)


def reason(values: dict) -> str | None:
    """Why a contender was not timed: it does not apply here, or it broke down (which is tried again another time)."""
    return values.get("refused") or values.get("failed")


def start(name: str, threads: int, options: argparse.Namespace) -> Worker:
    python = next((path for part, path in options.python.items() if part.lower() in name.lower()), sys.executable)
    own, _, checkout = name.partition("@")
    command = [python, str(HERE / "worker.py"), contenders()[own], own, str(threads)]
    return Worker(command, threads, options.checkouts.get(checkout))


def cell(workers: dict[str, Worker], network: str, optimizer: str, rounds: int, seconds: float) -> dict[str, dict]:
    """{contender: what was measured, or why it was not} for one network and optimizer."""
    what = {"do": "prepare", "problem": network, "optimizer": optimizer}
    found = {name: asked(worker, **what) for name, worker in workers.items()}
    refuse_different(found, TOLERANCE[optimizer])
    for i in range(rounds):
        running = [name for name in found if not reason(found[name])]
        for name in running[i % max(1, len(running)) :] + running[: i % max(1, len(running))]:
            got = asked(workers[name], do="round", seconds=seconds)
            if reason(got):
                found[name] = got
                continue
            for key in ("microseconds", "faults"):
                found[name].setdefault(key, []).append(round(got[key], 4))
    for worker in workers.values():
        if worker.process.poll() is None:
            asked(worker, do="forget")
    return found


def refuse_different(found: dict[str, dict], tolerance: float) -> None:
    """Leave no contender to be timed whose losses are not the others'."""
    losses = {name: values["losses"] for name, values in found.items() if "losses" in values}
    expected = [statistics.median(step) for step in zip(*losses.values(), strict=True)]
    for name, own in losses.items():
        error = max(abs(a - b) / abs(b) for a, b in zip(own, expected, strict=True))
        found[name]["error"] = error
        if not error <= tolerance:
            found[name] = {"refused": f"its losses differ by {error:.1e}: {own[0]:.6g} ... {own[-1]:.6g}"}


def asked(worker: Worker, **request: object) -> dict:
    """A worker's answer once it sleeps again; a reason where it died."""
    try:
        answer = worker.ask(**request)
        worker.settle()
        return answer
    except WorkerError as error:
        worker.stop()
        return {"failed": str(error)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(contenders())
    parser.add_argument("--networks", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    parser.add_argument(
        "--contenders",
        nargs="+",
        default=[""],
        help=f"parts of these names, NAME@PATH for that of another checkout: {', '.join(names)}",
    )
    parser.add_argument("--rounds", type=int, default=9, help="at least five to compare; 0 only checks the losses")
    parser.add_argument("--seconds", type=float, default=0.2, help="for which a contender runs in a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="another Python for a name")
    parser.add_argument("--out", default="compare-out", help="folder for results.json, RESULTS.md and the plots")
    parser.add_argument("--again", action="store_true", help="forget what OUT holds")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the report again")
    options = parser.parse_args(arguments)
    options.python = dict(pair.split("=", 1) for pair in options.python)
    options.checkouts, found = {}, {}
    for wanted in options.contenders:
        part, at, path = wanted.partition("@")
        label = Path(path).resolve().name if at else ""
        if at:
            options.checkouts[label] = str(Path(path).resolve())
        found |= {f"{name}{at}{label}": None for name in names if part.lower() in name.lower()}
    options.contenders = sorted(found, key=lambda name: (names.index(name.partition("@")[0]), name))
    if not options.contenders:
        parser.error(f"no contender is called so; there are {', '.join(names)}")
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ended from outside, it ends the workers, too
    main()
