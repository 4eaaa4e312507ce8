"""Run the programs of the examples as they are meant, one after the other, and keep what they print in examples/logs.

    python examples/runs.py
    python examples/runs.py austen numbers --seeds 0
    python examples/runs.py shakespeare names --reference DIR
    python examples/runs.py autoencoder digits fashion gan moons regression --fashion DIR --resume

`--reference` is a folder with `shakespeare/input.txt` and `makemore-names/names.txt`, which published numbers are about
and which do not come with the project, `--fashion` one with the four files of Fashion-MNIST. Each log begins with its
command, then the seconds of the whole command; `--resume` leaves out what has a log of a run that did not fail.
`python examples/course/build.py` does the same for the course.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import command_line
from command_line import SEED

HERE = Path(__file__).parent
MODELS = ("bigram", "matrix", "mlp", "gru", "lstm", "transformer")
SHAKESPEARE = ["language.py", "--data", "{reference}/shakespeare/input.txt"]
NAMES = ["language.py", "--data", "{reference}/makemore-names/names.txt", "--lines"]

# What is run, by the name of its log: the program and its options. Those of one folder share a table of models.
LANGUAGE = {  # with several seeds
    **{f"austen-{model}": ["language.py", "--model", model] for model in MODELS},
    "shakespeare": [*SHAKESPEARE, "--batch-size", "12", "--steps", "2000"],  # nanoGPT's setting for a CPU
    **{f"names-{model}": [*NAMES, "--model", model] for model in ("bigram", "mlp")},
    "languages": ["classify_text.py"],
    "numbers": ["translate.py"],
    "numbers-gru": ["translate.py", "--model", "gru"],
    "dates": ["translate.py", "--task", "dates"],
    "verses": ["translate.py", "--task", "verses", "--beams", "4"],
}
OTHERS = {  # with seed 0
    "autoencoder": ["autoencoder.py"],
    "digits": ["digits.py"],
    "digits-conv": ["digits.py", "--model", "conv", "--epochs", "2"],
    "fashion": ["digits.py", "--data", "{fashion}"],
    "gan": ["gan.py"],
    "moons": ["moons.py"],
    "regression": ["regression.py"],
}
RUNS = LANGUAGE | OTHERS
# What of it stands in the index of the examples: the picture, and its name there.
PICTURES = {
    "austen-transformer": ("transformer-last-product.png", "language.png"),
    "numbers": ("numbers-transformer/attention.png", "translate.png"),
    "languages": ("deciding.png", "classify_text.png"),
    "autoencoder": ("map.png", "map.png"),
    "gan": ("gan.png", "gan.png"),
    "moons": ("moons.gif", "moons.gif"),
    "regression": ("regression.png", "regression.png"),
}
RESULT = re.compile(
    r"test loss [\d.]+|[\d.]+ % (?:exact|of the test pieces right|of new points right|of test images)|BLEU [\d.]+"
    r"|test accuracy: [\d.]+ %|energy distance [\d.]+|differ by [\d.]+ among the points, [\d.]+ in the gap"
)


def log_path(name: str, seed: int, options: argparse.Namespace) -> Path:
    return options.logs / f"{name}-{seed}.txt"


def is_done(log: Path) -> bool:
    """Whether there is the log of a run that did not fail."""
    return log.exists() and "failed" not in "".join(log.read_text("utf-8").splitlines()[1:2])


def run(name: str, seed: int, options: argparse.Namespace) -> tuple[list[str], float]:
    """Run one command; returns the results that it printed, and its seconds."""
    folders = {"reference": options.reference, "fashion": options.fashion}
    program, *rest = (part.format(**folders) for part in RUNS[name])
    folder = options.out / f"{name.split('-')[0] if name in LANGUAGE else name}-{seed}"
    start = time.perf_counter()
    found = subprocess.run(
        [sys.executable, str(HERE / program), *rest, "--seed", str(seed), "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - start
    said = re.sub(r"[^\n]*\r", "", found.stdout)  # of a bar of progress, the last state
    command = " ".join(["$ python", f"examples/{program}", *rest, "--seed", str(seed)])
    log, failed = log_path(name, seed, options), ", failed" if found.returncode else ""
    text = f"{command}\n{seconds:.0f} s{failed}\n\n{said}".replace(str(options.out), "OUT")
    for option, path in folders.items():
        text = text if path is None else text.replace(str(path), option.upper())
    log.write_text(text, "utf-8")
    if failed:
        print(f"{name}, seed {seed} failed; see {log}")
    elif options.pictures and name in PICTURES and seed == seeds(name, options)[0]:
        shutil.copy(folder / PICTURES[name][0], HERE / "pictures" / PICTURES[name][1])
    return RESULT.findall(said), seconds


def seeds(name: str, options: argparse.Namespace) -> list[int]:
    return options.seeds or ([0, 1, 2] if name in LANGUAGE else [0])


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    chosen = [name for name in RUNS if not options.names or any(name.startswith(part) for part in options.names)]
    options.logs.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        lacking = [option for option in ("reference", "fashion") if f"{{{option}}}" in " ".join(RUNS[name])]
        if lacking and getattr(options, lacking[0]) is None:
            print(f"{name}: left out, as it needs --{lacking[0]}")
            continue
        for seed in seeds(name, options):
            if options.resume and is_done(log_path(name, seed, options)):
                continue
            results, seconds = run(name, seed, options)
            print(f"{name:20} seed {seed}  {seconds:5.0f} s  {', '.join(results)}", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_line.parser("Run the programs of the examples and keep what they print.")
    add = parser.add_argument
    add("names", nargs="*", help=f"which ones, by the beginnings of their names: {', '.join(RUNS)} (default: all)")
    add("--seeds", type=SEED, nargs="+", metavar="N", help="one run for each (default: 0 1 2 for language, else 0)")
    add("--reference", type=Path, metavar="DIR", help="folder of the texts that published numbers are about")
    add("--fashion", type=Path, metavar="DIR", help="folder of the four files of Fashion-MNIST")
    add("--resume", action="store_true", help="leave out what has a log already")
    add("--pictures", action="store_true", help="put pictures of the first seed into examples/pictures")
    add("--logs", type=Path, default=HERE / "logs", metavar="DIR", help="where what is printed is kept")
    add("--out", type=Path, default=Path("runs-out"), metavar="DIR", help="where pictures are written")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.names if not any(name.startswith(part) for name in RUNS)]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(RUNS)}")
    return options


if __name__ == "__main__":
    command_line.run(main, "stopped; --resume leaves out what is done")
