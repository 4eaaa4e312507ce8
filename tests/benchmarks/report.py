"""Tables and plots of what compare.py measured."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

EAGER, EAGER_FUSED = "tinygrad_mm eager", "tinygrad_mm eager, fused optimizer"
COMPILED, NUMBA = "tinygrad_mm compiled", "tinygrad_mm compiled, Numba"
COMPILED_FUSED = "tinygrad_mm compiled, fused optimizer"
BEST, JAX = "NumPy, best", ("jax.jit", "jax.jit, synchronous")
FUSED, TORCH_EAGER = "PyTorch eager, fused optimizer", ("PyTorch eager", "PyTorch eager, fused optimizer")
TORCH = (*TORCH_EAGER, "torch.compile")
MLP, OTHERS, UPDATE = ("tiny", "small", "mnist", "mnist2", "wide", "deep"), ("lenet", "transformer", "gru"), ("update",)


@dataclass(frozen=True)
class Ratio:
    """One contender over the fastest of others, on some networks; with what it is aimed to stay under, by network."""

    title: str
    over: str
    under: tuple[str, ...]
    networks: tuple[str, ...]
    aims: dict[str, float] = field(default_factory=dict)


def aims(tiny: float, small: float, mnist: float, mnist2: float, wide: float, deep: float) -> dict[str, float]:
    return dict(zip(MLP, (tiny, small, mnist, mnist2, wide, deep), strict=True))


RATIOS = (
    Ratio("eager / PyTorch eager", EAGER, TORCH_EAGER, MLP + OTHERS, aims(0.3, 0.3, 1.0, 1.15, 1.15, 0.45)),
    Ratio("eager, fused / PyTorch eager", EAGER_FUSED, TORCH_EAGER, MLP + OTHERS),
    Ratio("compiled / best NumPy", COMPILED, (BEST,), MLP, dict.fromkeys(MLP, 1.1)),
    Ratio("compiled / best PyTorch", COMPILED, TORCH, MLP + OTHERS, aims(0.12, 0.12, 0.85, 1.15, 1.15, 0.4)),
    Ratio("compiled / jax.jit", COMPILED, JAX, MLP + OTHERS, aims(0.8, 0.95, 1.15, 1.15, 1.15, 1.15)),
    Ratio("compiled, fused / jax.jit", COMPILED_FUSED, JAX, MLP + OTHERS),
    Ratio("Numba / jax.jit", NUMBA, JAX, MLP + OTHERS, dict.fromkeys(MLP, 1.1)),
    Ratio("compiled / PyTorch eager", COMPILED, TORCH_EAGER, OTHERS, dict.fromkeys(OTHERS, 1.0)),
    Ratio("compiled, fused / PyTorch eager", COMPILED_FUSED, TORCH_EAGER, OTHERS),
    Ratio("Numba / PyTorch eager", NUMBA, TORCH_EAGER, OTHERS),
    Ratio("eager / PyTorch fused", EAGER, (FUSED,), UPDATE),
    Ratio("best NumPy / PyTorch fused", BEST, (FUSED,), UPDATE),
    Ratio("compiled / PyTorch fused", COMPILED, (FUSED,), UPDATE),
    Ratio("Numba / PyTorch fused", EAGER_FUSED, (FUSED,), UPDATE, {"update": 1.0}),
)


def write(results: dict, out: Path) -> None:
    """OUT/RESULTS.md and OUT/results-N-threads.png."""
    parts = [
        "# Results of compare.py",
        "One training step (forward, softmax cross-entropy, backward, update) in microseconds: best (median) of the "
        f"rounds. {results['date']}; {results['machine']}.",
        f"    {results['command']}",
        "Networks, batch: tiny 2-16-16-2, 32; small 64-64-10, 32; mnist 784-128-10, 64; mnist2 784-512-512-10, 128; wide "
        "1024-2048-2048-1024, 256; deep 20 layers of 64, 32; lenet (6 and 16 filters of 5 x 5, 400-120-84-10), 64; "
        "transformer of 4 layers (128 features, 4 heads, length 64, 256 codes), 16; gru (28 steps of 28, state of 128), "
        "32; update: the optimizer alone on 524,288 parameters. Compiled, it is timed together with the dot product and "
        "the copy that make the gradient, which is not the update alone: there, the ratio of Numba is that of the eager "
        "fused optimizer, which is Numba's loop.",
        "All contenders start from the same weights and get the same new batch at each step. Their losses over the first "
        f"steps agree to {results['tolerance']['SGD']:g} (SGD) and {results['tolerance']['Adam']:g} (Adam) of the loss; "
        "one that does not agree is not timed. One process each, taking turns; while one runs, the others sleep. A "
        "process has as many cores as threads.",
    ]
    for threads, cells in results["threads"].items():
        number = "one thread" if threads == "1" else f"{threads} threads"
        parts.append(f"## {number.capitalize()}")
        if plot(cells, number, out / f"results-{threads}-threads.png"):
            parts.append(f"![microseconds a step, {number}](results-{threads}-threads.png)")
        for optimizer in ("SGD", "Adam"):
            chosen = {k.split()[0]: v for k, v in cells.items() if k.endswith(optimizer)}
            if chosen:
                parts += [f"### {optimizer}, {number}", times(chosen), ratios(chosen)]
        parts += [f"### Page faults a step and warm-up, {number}", faults(cells), reasons(cells)]
    (out / "RESULTS.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def times(cells: dict[str, dict]) -> str:
    """A row for each contender, a column for each network."""
    names = list(dict.fromkeys(name for found in cells.values() for name in found))
    rows = []
    for name in names:
        row = [measured(found.get(name, {}).get("microseconds")) for found in cells.values()]
        if any(text != "-" for text in row):
            rows.append([name, *row])
    return markdown(["µs: best (median)", *cells], rows)


def ratios(cells: dict[str, dict]) -> str:
    """A row for each ratio, a column for each network: of the bests (of the medians), with the aim if it has one."""
    rows = []
    for wanted in RATIOS:
        row = []
        for network, found in cells.items():
            best, median = (quotient(found, wanted, of) for of in (min, statistics.median))
            aim = wanted.aims.get(network)
            if best is None or network not in wanted.networks:
                row.append("-")
            elif aim is None:
                row.append(f"{best:.2f} ({median:.2f})")
            else:
                row.append(
                    f"{best:.2f} ({median:.2f}) ≤ {aim:g}"
                    if best <= aim
                    else f"**{best:.2f} ({median:.2f}) > {aim:g}**"
                )
        if any(text != "-" for text in row):
            rows.append([wanted.title, *row])
    others = dict.fromkeys(name for found in cells.values() for name in found if "@" in name)
    for name in others:
        own = name.partition("@")[0]
        wanted = Ratio(f"{own} / {name}", own, (name,), ())
        pairs = [[quotient(found, wanted, of) for of in (min, statistics.median)] for found in cells.values()]
        rows.append([wanted.title, *("-" if best is None else f"{best:.2f} ({median:.2f})" for best, median in pairs)])
    note = "Ratios of the bests (of the medians), against the fastest of several; with the aim, in bold where it is missed."
    return f"{note}\n\n{markdown(['ratio', *cells], rows)}" if rows else ""


def quotient(found: dict[str, dict], wanted: Ratio, of) -> float | None:
    """A ratio of the bests or the medians, where both were measured."""
    above = found.get(wanted.over, {}).get("microseconds")
    below = [found[name]["microseconds"] for name in wanted.under if found.get(name, {}).get("microseconds")]
    return of(above) / min(map(of, below)) if above and below else None


def faults(cells: dict[str, dict]) -> str:
    """A row for each contender, a column for each network: page faults a step, seconds until the step was ready."""
    names = list(dict.fromkeys(name for found in cells.values() for name in found))
    chosen = {k: v for k, v in cells.items() if k.endswith("Adam")} or cells
    rows = []
    for name in names:
        row = []
        for found in chosen.values():
            values = found.get(name, {})
            if values.get("faults"):
                row.append(f"{statistics.median(values['faults']):.3g}; {values['warm-up seconds']:.2g} s")
            else:
                row.append("-")
        if any(text != "-" for text in row):
            rows.append([name, *row])
    return markdown(["faults a step (median); warm-up", *chosen], rows)


def reasons(cells: dict[str, dict]) -> str:
    """Who was not timed, and why."""
    why: dict[tuple[str, str], list[str]] = {}
    for case, found in cells.items():
        for name, values in found.items():
            why_not = values.get("refused") or values.get("failed")
            if why_not:
                why.setdefault((name, why_not), []).append(case)
    lines = [f"- {name}: {reason} ({', '.join(cases)})" for (name, reason), cases in why.items()]
    return "\n".join(["Not timed:", "", *lines]) if lines else ""


def measured(microseconds: list[float] | None) -> str:
    if not microseconds:
        return "-"
    return " ".join(
        text.format(f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}")
        for text, value in (("{}", min(microseconds)), ("({})", statistics.median(microseconds)))
    )


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---------------------------------------------------------------------------------------------------------------------
# Plots
# ---------------------------------------------------------------------------------------------------------------------

# Okabe and Ito's colours, which people who are colour-blind tell apart; the rows carry the names as well.
COLOURS = {"tinygrad_mm": "#0072B2", "NumPy": "#000000", "PyTorch": "#D55E00", "torch": "#D55E00", "jax": "#009E73"}
GREY = "#7F7F7F"


def plot(cells: dict[str, dict], number: str, file: Path) -> bool:
    """A panel for each network, a row for each contender, a mark for each optimizer at its best; True if drawn."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    networks = list(dict.fromkeys(case.split()[0] for case in cells))
    names = list(dict.fromkeys(n for found in cells.values() for n, v in found.items() if v.get("microseconds")))
    if not names:
        return False
    columns = min(4, len(networks))
    lines = -(-len(networks) // columns)
    figure, grid = pyplot.subplots(
        lines,
        columns,
        figsize=(2.4 + 3.1 * columns, 0.9 + (0.5 + 0.24 * len(names)) * lines),
        sharey=True,
        squeeze=False,
    )
    for axes in grid.flat[len(networks) :]:
        axes.axis("off")
    for axes, network in zip(grid.flat, networks, strict=False):
        for optimizer, marker, face in (("SGD", "o", None), ("Adam", "D", "white")):
            found = cells.get(f"{network} {optimizer}", {})
            for row, name in enumerate(names):
                values = found.get(name, {}).get("microseconds")
                if values:
                    colour = next((c for start, c in COLOURS.items() if name.startswith(start)), GREY)
                    axes.plot(min(values), row, marker, color=colour, markerfacecolor=face or colour, markersize=6)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        wider = max(1.15, (5 / (high / low)) ** 0.5)  # at least two of the marks 1, 2, 5, 10
        low, high = low / wider, high * wider
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5) if high / low < 100 else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value < 1e4 else f"{value / 1e3:,.0f}k")
        axes.set_title(network, fontsize=10)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="both", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    grid[0, 0].invert_yaxis()
    figure.suptitle(f"Microseconds a training step, best round, {number} (● SGD, ◇ Adam; log scale)", fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return True
