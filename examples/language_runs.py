"""Run the language examples with seeds 0, 1, 2, one after the other, and keep what they print in examples/logs.

    python examples/language_runs.py
    python examples/language_runs.py austen numbers --seeds 0
    python examples/language_runs.py shakespeare names --reference DIR

`--reference` is a folder with `shakespeare/input.txt` and `makemore-names/names.txt`, which published numbers are about
and which do not come with the project. Each log ends with the seconds and the memory of the whole command.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
MODELS = ("bigram", "matrix", "mlp", "gru", "lstm", "transformer")
SHAKESPEARE = ["language.py", "--data", "{reference}/shakespeare/input.txt"]
NAMES = ["language.py", "--data", "{reference}/makemore-names/names.txt", "--lines"]

# What is run, by the name of its log: the program and its options. Those of one folder share a table of models.
RUNS = {
    **{f"austen-{model}": ["language.py", "--model", model] for model in MODELS},
    "shakespeare": [*SHAKESPEARE, "--batch-size", "12", "--steps", "2000"],  # nanoGPT's setting for a CPU
    **{f"names-{model}": [*NAMES, "--model", model] for model in ("bigram", "mlp")},
    "languages": ["classify_text.py"],
    "numbers": ["translate.py"],
    "numbers-gru": ["translate.py", "--model", "gru"],
    "dates": ["translate.py", "--task", "dates"],
    "verses": ["translate.py", "--task", "verses", "--beams", "4"],
}
# What of it stands in the index of the examples: the picture, and its name there.
PICTURES = {
    "austen-transformer": ("transformer-last-product.png", "language.png"),
    "numbers": ("numbers-transformer/attention.png", "translate.png"),
    "languages": ("deciding.png", "classify_text.png"),
}
RESULT = re.compile(r"(test loss [\d.]+|[\d.]+ % (?:exact|of the test pieces right)|BLEU [\d.]+)")


def run(name: str, seed: int, options: argparse.Namespace) -> tuple[list[str], float]:
    """Run one command; returns the results that it printed, and its seconds."""
    program, *rest = (part.format(reference=options.reference) for part in RUNS[name])
    folder = options.out / f"{name.split('-')[0]}-{seed}"
    shown = ["python", f"examples/{program}", *rest, "--seed", str(seed)]
    start = time.perf_counter()
    found = subprocess.run(
        [sys.executable, str(HERE / program), *rest, "--seed", str(seed), "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - start
    log = options.logs / f"{name}-{seed}.txt"
    command = " ".join(shown).replace(str(options.reference), "REFERENCE")
    said = found.stdout.replace(str(options.out), "OUT").replace(str(options.reference), "REFERENCE")
    log.write_text(f"$ {command}\n{said}\n{seconds:.0f} s in all\n", "utf-8")
    if found.returncode:
        print(f"{name}, seed {seed} failed; see {log}")
    elif options.pictures and name in PICTURES and seed == options.seeds[0]:
        shutil.copy(folder / PICTURES[name][0], HERE / "pictures" / PICTURES[name][1])
    return RESULT.findall(found.stdout), seconds


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    chosen = [name for name in RUNS if not options.names or any(name.startswith(part) for part in options.names)]
    options.logs.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        if "{reference}" in " ".join(RUNS[name]) and options.reference is None:
            print(f"{name}: left out, as it needs --reference")
            continue
        for seed in options.seeds:
            results, seconds = run(name, seed, options)
            print(f"{name:20} seed {seed}  {seconds:5.0f} s  {', '.join(results)}", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the language examples and keep what they print.")
    add = parser.add_argument
    add("names", nargs="*", help=f"which ones, by the beginnings of their names: {', '.join(RUNS)} (all)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="one run for each (0 1 2)")
    add("--reference", type=Path, metavar="DIR", help="folder of the texts that published numbers are about")
    add("--pictures", action="store_true", help="put pictures of the first seed into examples/pictures")
    add("--logs", type=Path, default=HERE / "logs", metavar="DIR", help="where what is printed is kept")
    add("--out", type=Path, default=Path("language-runs-out"), metavar="DIR", help="where pictures are written")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.names if not any(name.startswith(part) for name in RUNS)]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(RUNS)}")
    return options


if __name__ == "__main__":
    main()
