"""A training step of the translation model of examples/translate.py, in this library and in PyTorch.

    python tests/benchmarks/translation.py [--rounds 5] [--threads 2]

Two layers of encoder and decoder of 64 features, batches of 64 sources of 14 words and targets of 20, Adam. Both start
from the same weights and get the same batches; losses that differ end the run. Also what each needs: the most memory
of its process.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

from interleaved import installed, keep_to_cores, machine, measure, table

SIZES, FEATURES, LAYERS, BATCH, SOURCE, TARGET = (36, 31), 64, 2, 64, 14, 20
RATE, CHECKED, TIMED = 1e-3, 10, 60


def batches():
    """Sources of different lengths, what the decoder is given, and what it is to say."""
    import numpy as np

    rng = np.random.default_rng(1)
    found = []
    for _ in range(8):
        source, target = rng.integers(1, SIZES[0], (BATCH, SOURCE)), rng.integers(1, SIZES[1], (BATCH, TARGET + 1))
        source[np.arange(SOURCE) >= rng.integers(5, SOURCE + 1, (BATCH, 1))] = 0
        target[np.arange(TARGET + 1) >= rng.integers(8, TARGET + 2, (BATCH, 1))] = 0
        found.append((source, target[:, :-1], target[:, 1:]))
    return found


def model():
    """The one of the example, without dropout."""
    import numpy as np

    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    from translate import Transformer

    return Transformer(*SIZES, FEATURES, LAYERS, 0.0, np.random.default_rng(0))


def timed(step):
    """Milliseconds of a step, and the losses of the first ones."""
    data = batches()
    losses = [float(step(*data[i % len(data)])) for i in range(CHECKED)]
    start = time.perf_counter()
    for i in range(TIMED):
        last = step(*data[i % len(data)])
    float(last)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": 1e3 * seconds / TIMED, "loss": losses[-1], "MB": memory}


def ours(backend):
    import functools

    import tinygrad_mm as tg

    own = model()
    optimizer = tg.optim.Adam(own.parameters(), RATE)
    loss = functools.partial(tg.cross_entropy, ignore_index=0)
    if backend is not None:
        return timed(tg.compile_step(own, loss, optimizer, backend=backend))

    def step(source, given, wanted):
        value = loss(own(source, given), wanted)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return timed(step)


def pytorch(fused):
    import os

    import torch

    import tinygrad_mm as tg

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    nn = torch.nn

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.source, self.target = nn.Embedding(SIZES[0], FEATURES), nn.Embedding(SIZES[1], FEATURES)
            options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
            encoder = nn.TransformerEncoderLayer(FEATURES, 4, 4 * FEATURES, **options)
            decoder = nn.TransformerDecoderLayer(FEATURES, 4, 4 * FEATURES, **options)
            self.encoder = nn.TransformerEncoder(encoder, LAYERS, nn.LayerNorm(FEATURES), enable_nested_tensor=False)
            self.decoder = nn.TransformerDecoder(decoder, LAYERS, nn.LayerNorm(FEATURES))
            self.output = nn.Linear(FEATURES, SIZES[1])
            sines = tg.nn.SinusoidalPositions(FEATURES)(torch.zeros(max(SOURCE, TARGET), FEATURES).numpy()).data
            self.sines = torch.from_numpy(sines)
            self.above = torch.ones(TARGET, TARGET, dtype=torch.bool).triu(1)

        def forward(self, source, target):
            padding = source == 0
            memory = self.encoder(self.source(source) + self.sines[:SOURCE], src_key_padding_mask=padding)
            y = self.target(target) + self.sines[:TARGET]
            return self.output(self.decoder(y, memory, tgt_mask=self.above, memory_key_padding_mask=padding))

    net = Transformer()
    state = tg.nn.to_torch_state(model())
    net.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    optimizer = torch.optim.Adam(net.parameters(), RATE, fused=fused)

    def step(*batch):
        source, given, wanted = (torch.from_numpy(part) for part in batch)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(source, given).flatten(0, 1), wanted.flatten(), ignore_index=0)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return timed(step)


CONTENDERS = {"tinygrad_mm eager": lambda: ours(None), "tinygrad_mm compiled": lambda: ours("numpy")}
if installed("numba"):
    CONTENDERS["tinygrad_mm compiled, Numba"] = lambda: ours("numba")
if installed("torch"):
    CONTENDERS["PyTorch"] = lambda: pytorch(None)
    CONTENDERS["PyTorch, fused Adam"] = lambda: pytorch(True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        keep_to_cores(options.threads)
        print(json.dumps(CONTENDERS[options.contender]()))
        return
    found = measure(sys.argv[0], list(CONTENDERS), options.rounds, options.threads, ["--threads", str(options.threads)])
    losses = {name: values["loss"][0] for name, values in found.items()}
    if max(losses.values()) - min(losses.values()) > 1e-3 * max(losses.values()):
        raise SystemExit(f"the losses after {CHECKED} steps differ, so one of them does something else: {losses}")
    print(f"best (median) of {options.rounds} rounds, threads: {options.threads}; {machine()}\n")
    print(table(found, "PyTorch, fused Adam"))


if __name__ == "__main__":
    main()
