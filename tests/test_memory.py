"""Where arrays lie: memory that begins with a cache line, and blocks of it that do."""

from __future__ import annotations

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
