"""Sequences of 40 different lengths: how many programs compiled `fit` makes of them, and what these cost.

    python tests/benchmarks/lengths.py [--examples 3200] [--epochs 4] [--buckets 5] [--backend numpy]

A GRU (16 features, a state of 64) and a transformer (two layers of 64) read sequences of 1 to 40 steps in batches of 32
and tell whether most numbers of the first feature are positive. With buckets, sequences of about one length go together,
padded and masked: every bucket is one shape, a last smaller batch another. Without compiling, the eager engine takes the
same batches. The first epoch holds the making of the programs, each proved on its first two batches; the last one is
what is left. Everything is done in one process, with the threads that BLAS has (`OMP_NUM_THREADS=1` for one).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from interleaved import machine

import tinygrad_mm as tg
from tinygrad_mm import nn

FEATURES, SIZE, LENGTHS = 16, 64, 40


class Recurrent(nn.Module):
    """The state behind the last step of each sequence decides."""

    def __init__(self):
        self.gru, self.head = nn.GRU(FEATURES, SIZE, rng=0), nn.Dense(SIZE, 2, rng=1)

    def forward(self, x, mask):
        return self.head(self.gru(x, mask=mask)[1][-1])


class Attending(nn.Module):
    """Two layers of a transformer; the mean over the steps that there are decides."""

    def __init__(self):
        self.enter, self.positions = nn.Dense(FEATURES, SIZE, rng=0), nn.SinusoidalPositions(SIZE)
        self.layers = nn.TransformerEncoder(2, SIZE, 4, dropout=0.0, rng=1)
        self.head = nn.Dense(SIZE, 2, rng=2)

    def forward(self, x, mask):
        h = self.layers(self.positions(self.enter(x)), mask=mask[:, None, None, :])
        weight = mask.astype(h.dtype)[..., None]
        return self.head(np.sum(h * weight, axis=1) / np.sum(weight, axis=1))


def sequences(n):
    """As many sequences of each length, and what to say of them."""
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((1 + i % LENGTHS, FEATURES)).astype(np.float32) for i in range(n)]
    return x, np.array([int(np.mean(a[:, 0]) > 0) for a in x])


def trained(kind, data, options, compile):
    """(programs made, seconds of the first epoch, seconds of the last one, the last loss)."""
    model, ends, programs = kind(), [time.perf_counter()], [0]
    loader = tg.data.DataLoader(data, 32, shuffle=True, rng=0, buckets=options.buckets)

    def after(run):
        ends.append(time.perf_counter())
        programs.append(run.stepper.compiled.traces if compile else 0)

    optimizer = tg.optim.Adam(model.parameters(), 1e-3)
    history = tg.fit(
        model, loader, tg.cross_entropy, optimizer, options.epochs, compile=compile, backend=options.backend,
        progress=False, callbacks=[after],
    )  # fmt: skip
    return programs[-1], ends[1] - ends[0], ends[-1] - ends[-2], history["loss"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=3200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--buckets", type=int, default=5)
    parser.add_argument("--backend", default="numpy", choices=["numpy", "numba"])
    options = parser.parse_args()
    data = sequences(options.examples)
    print(f"{options.examples:,} sequences of {LENGTHS} lengths in {options.buckets} buckets; {machine()}\n")
    print(f"{'':24}{'programs':>10}{'first epoch, s':>16}{'last epoch, s':>16}{'loss':>10}")
    for name, kind in (("GRU", Recurrent), ("transformer", Attending)):
        for how, compile in (("eager", False), ("compiled", True)):
            programs, first, last, loss = trained(kind, data, options, compile)
            print(f"{f'{name}, {how}':24}{programs:>10}{first:>16.2f}{last:>16.2f}{loss:>10.4f}", flush=True)


if __name__ == "__main__":
    main()
