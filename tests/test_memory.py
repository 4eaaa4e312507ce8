"""Where arrays lie: memory that begins with a cache line, and blocks of it that do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim
from tinygrad_mm.memory import LINE, aligned
from tinygrad_mm.optim import flat


def start(array: Any) -> int:
    return array.__array_interface__["data"][0] % LINE


@given(
    shape=hnp.array_shapes(min_dims=0, min_side=0),
    dtype=st.sampled_from([np.float32, np.float64, np.uint8, np.bool_]),
    zeros=st.booleans(),
)
def test_aligned(shape, dtype, zeros):
    array = aligned(shape, dtype, np.zeros if zeros else np.empty)
    assert (array.shape, array.dtype) == (shape, dtype)
    assert array.flags.c_contiguous
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert owner.nbytes == array.nbytes
    assert array.flags.writeable
    assert array.size == 0 or start(array) == 0
    assert not zeros or not array.any()
    array[...] = 1
    assert array.all()


@given(elements=st.integers(0, 1000), threads=st.integers(1, 5), block=st.integers(1, 100))
def test_block_size(elements, threads, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "BLOCK", block)
        size = flat.block_size(elements, threads)
        line = min(16, block)
        assert 0 < size < block + line
        assert size % line == 0
        blocks = -(-elements // size)
        assert blocks <= threads * -(-elements // (threads * block))


@pytest.mark.parametrize("compiled", [False, True])
def test_parameters_and_states_begin_with_a_line(compiled):
    model = nn.Sequential(nn.Dense(5, 7, "relu", rng=0), nn.Linear(7, 3, rng=1))
    optimizer = optim.Adam(model.parameters(), 0.01)
    x, y = np.ones((4, 5), np.float32), np.zeros(4, int)
    if compiled:
        tg.compile_step(model, functional.cross_entropy, optimizer)(x, y)
    else:
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    arrays = [optimizer.state_of(model[0].weight)[name] for name in ("mean", "mean_square")]
    assert [start(a) for a in (model[0].weight.data, *arrays)] == [0, 0, 0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what keeps or returns memory is another malloc")
@pytest.mark.parametrize(
    ("rows", "layers", "left_alone"),
    [(1024, 1, False), (6144, 8, False), (1024, 1, True)],
    ids=["2 MB", "more than 64 MB at once", "2 MB, with malloc as it is"],
)
def test_training_steps_use_the_memory_of_the_step_before(rows: int, layers: int, left_alone: bool) -> None:
    code = f"""
import resource
import numpy as np
import tinygrad_mm as tg
x, w = np.ones(({rows}, 16), np.float32), tg.Tensor(np.full((16, 512), 0.01, np.float32), requires_grad=True)
def faults():
    for _ in range(10):
        y = x @ w
        for _ in range({layers}):
            y = np.tanh(y)
        np.sum(y * y).backward()
        w.grad = None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = faults()
print(faults() - first)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    if left_alone:
        environment["MALLOC_TRIM_THRESHOLD_"] = "131072"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert (int(found.stdout) < 100) != left_alone  # each array would take 512 pages or more, at each step
