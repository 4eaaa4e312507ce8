"""Whether a training step stays as fast as it began: 3,000 steps of Adam, the last 500 against the first 500.

    python tests/benchmarks/long_run.py
    python tests/benchmarks/long_run.py --contenders compiled --networks mnist --checkout ../before

The networks learn what they are shown (MNIST; random inputs with labels that stay theirs), so that units die and
gradients vanish, as they do in real training: running means would become denormal numbers, with which processors are
slow. One process for each contender and network, one after the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from interleaved import environment, keep_to_cores, machine

HERE = Path(__file__).parent
NETWORKS = ("mnist", "small", "deep")
CONTENDERS = {
    "eager": "tinygrad_mm eager",
    "compiled": "tinygrad_mm compiled",
    "Numba": "tinygrad_mm compiled, Numba",
}
BLOCK = 500


def run(contender: str, network: str, steps: int) -> list[float]:
    """Microseconds a step, in each block of 500 steps."""
    import numpy as np
    from problems import PROBLEMS
    from worker import load

    import tinygrad_mm as tg

    problem = PROBLEMS[network]
    r = np.random.default_rng(0)
    if network == "mnist":
        (images, labels), _ = tg.data.read_idx_folder(HERE.parent.parent / "examples/data/mnist")
        inputs = images[:6400].reshape(-1, 784) / np.float32(255)
        labels = labels[:6400].astype(np.int64)
    else:
        inputs = r.standard_normal((50 * problem.batch, problem.sizes[0]), np.float32)
        labels = r.integers(0, problem.sizes[-1], len(inputs))
    cuts = range(0, len(inputs), problem.batch)
    batches = [(inputs[i : i + problem.batch], labels[i : i + problem.batch]) for i in cuts]
    module = load("tinygrad")
    step = module.make(problem, "Adam", 1e-3, **module.CONTENDERS[CONTENDERS[contender]])
    for x, y in batches[:20]:
        step(x, y)
    found = []
    for block in range(steps // BLOCK):
        start = time.perf_counter()
        for i in range(BLOCK):
            step(*batches[(block * BLOCK + i) % len(batches)])
        found.append((time.perf_counter() - start) / BLOCK * 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkout", help="folder of another checkout, which is measured instead of this one")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        keep_to_cores(options.threads)
        print(json.dumps(run(options.contenders[0], options.networks[0], options.steps)))
        return
    print(machine())
    other = {"PYTHONPATH": str(Path(options.checkout).resolve())} if options.checkout else {}
    print(f"{'µs a step':24}{'first 500':>12}{'last 500':>12}{'ratio':>8}")
    for network in options.networks:
        for contender in options.contenders:
            command = [sys.executable, __file__, "--alone", "--networks", network, "--contenders", contender]
            command += ["--steps", str(options.steps), "--threads", str(options.threads)]
            done = subprocess.run(command, env=environment(options.threads) | other, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            blocks = json.loads(done.stdout.splitlines()[-1])
            ratio = blocks[-1] / blocks[0]
            print(f"{network + ', ' + contender:24}{blocks[0]:12.1f}{blocks[-1]:12.1f}{ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()
