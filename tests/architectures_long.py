"""Many random architectures, by seeds: compiled training compared with eager training, for as long as one likes.

    python tests/architectures_long.py --seeds 0:2000 --state seeds.json --backend numpy

What was done is kept in the state file after every seed, so that the same command goes on where it was stopped. Each
seed that fails is cut down to few decisions and printed; `--choices` takes such decisions. Backends: numpy; numba;
interpreted (the loops of the Numba backend, run by Python, for small batches).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from architectures import Architecture, architecture
from choices import Choices, Replayed, Seeded, cut_down
from compared_steps import compare

LARGEST = {"numpy": 17, "numba": 17, "interpreted": 3}  # examples in a batch


def problems(made: Architecture, backend: str, threads: int, verify: bool = False) -> list[str]:
    """What is wrong with an architecture, exceptions included."""
    with contextlib.ExitStack() as stack:
        if backend == "interpreted":
            from interpreted import interpreted

            stack.enter_context(interpreted())
        try:
            return compare(made, "numpy" if backend == "numpy" else "numba", threads, verify)
        except Exception as error:
            return [f"raised {type(error).__name__}: {error}"]


def kind(found: list[str]) -> str:
    """What stays the same while a failing architecture is cut down."""
    return found[0].split(":")[0] if found[0].startswith("raised") else found[0].split(": ")[1].split(" ")[0]


def smallest(choices: Choices, found: list[str], backend: str, threads: int, verify: bool, most: int) -> Architecture:
    """The smallest architecture that fails in the same way."""
    largest = LARGEST[backend]

    def fails(numbers: list[int]) -> bool:
        try:
            made = architecture(Replayed(numbers), largest)
        except Exception:
            return False
        again = problems(made, backend, threads, verify)
        return bool(again) and kind(again) == kind(found)

    return architecture(Replayed(cut_down(choices.taken, fails, most)), largest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:2000", help="FROM:TO")
    parser.add_argument("--state", type=Path, help="a file that remembers what was done")
    parser.add_argument("--backend", choices=LARGEST, default="numpy")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="by default 1 and 2 in turn, by seed")
    parser.add_argument(
        "--verify", action="store_true", help="let programs check themselves, and tell what they warn of"
    )
    parser.add_argument("--cut", type=int, default=400, help="tries to cut a failing architecture down")
    parser.add_argument("--choices", type=json.loads, help="decisions of one architecture, as printed")
    options = parser.parse_args()
    if options.choices is not None:
        made = architecture(Replayed(options.choices), LARGEST[options.backend])
        found = problems(made, options.backend, options.threads or 1, options.verify)
        print(made, *found, sep="\n")
        return bool(found)
    first, last = map(int, options.seeds.split(":"))
    done: dict[str, list[str]] = {}
    if options.state and options.state.exists():
        done = json.loads(options.state.read_text())
    for seed in range(first, last):
        threads = options.threads or 1 + seed // 2 % 2
        name = f"{options.backend} {threads} {seed}{' verified' * options.verify}"
        if name in done:
            continue
        choices = Seeded(seed)
        found = problems(architecture(choices, LARGEST[options.backend]), options.backend, threads, options.verify)
        if found:
            print(f"\n== seed {seed}, {options.backend}, {threads} threads", *found[:3], sep="\n", flush=True)
            if options.cut:
                made = smallest(choices, found, options.backend, threads, options.verify, options.cut)
                print(
                    "cut down:",
                    made,
                    *problems(made, options.backend, threads, options.verify)[:3],
                    sep="\n",
                    flush=True,
                )
        done[name] = found
        if options.state:
            written = options.state.with_name(f"{options.state.name}.new")
            written.write_text(json.dumps(done, indent=0))
            os.replace(written, options.state)
    failed = {name: found for name, found in done.items() if found}
    print(f"\n{len(done)} architectures, {len(failed)} of them wrong", *failed, sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
