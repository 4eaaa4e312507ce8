"""A Python that lacks parts of the standard library, as a browser's does: no ctypes, no processes, no new threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tinygrad_mm

# What such a Python does: these modules are missing, and no thread can be started.
MISSING = """
import _thread, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ctypes", "_ctypes", "_multiprocessing", "fcntl", "mmap", "resource", "_socket"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def cannot_start(*args, **kwargs):
    raise RuntimeError("can't start new thread")

sys.meta_path.insert(0, Missing())
_thread.start_new_thread = cannot_start
if hasattr(_thread, "start_joinable_thread"):
    _thread.start_joinable_thread = cannot_start

import warnings
import numpy as np
import tinygrad_mm as tg

warnings.simplefilter("error")
x = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
y = (x[:, 0] > 0).astype(np.int64)
model = tg.nn.Sequential(tg.nn.Dense(5, 8, activation="relu", rng=0), tg.nn.Dense(8, 2, rng=1))
optimizer = tg.optim.Adam(model.parameters())
"""

PROGRAMS = {
    "every name": "for name in tg.__all__: getattr(tg, name)",
    "backward": "tg.cross_entropy(model(x), y).backward(); optimizer.step()",
    "compile": "tg.compile(lambda v: np.sum(np.tanh(v)))(x)",
    "compile_step": "step = tg.compile_step(model, tg.cross_entropy, optimizer); step(x, y); step(x, y)",
    "fit": "tg.fit(model, (x, y), tg.cross_entropy, optimizer, epochs=2, rng=0, progress=False, compile=True)",
    "prefetch": (
        "ahead = list(tg.data.DataLoader((x, y), batch_size=7, prefetch=2, shuffle=True, rng=3))\n"
        "plain = list(tg.data.DataLoader((x, y), batch_size=7, shuffle=True, rng=3))\n"
        "assert len(ahead) == len(plain) == 10\n"
        "assert all(np.array_equal(a, b) for one, two in zip(ahead, plain) for a, b in zip(one, two))"
    ),
    "explain": "assert 'cross_entropy' in str(tg.explain(tg.cross_entropy(model(x[:2]), y[:2]), model))",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_it_works_without_ctypes_processes_and_threads(program: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(tinygrad_mm.__file__).parent.parent)}
    run = subprocess.run(
        [sys.executable, "-c", MISSING + program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert run.returncode == 0, run.stderr
