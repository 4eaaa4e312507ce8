"""Compiled training steps are eager ones, whatever the architecture: `architectures.py` draws them, hundreds here.

Thousands, by seeds, are tried by `python tests/architectures_long.py`.
"""

from __future__ import annotations

import importlib.util

import pytest
import strategies as my
from architectures import Architecture
from compared_steps import compare
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from interpreted import interpreted

from tinygrad_mm.compiler.loops import native

no_blas = pytest.mark.skipif(not native.blas(), reason="the BLAS behind this NumPy has no symbols that can be found")
threads = st.sampled_from([1, 2])


@settings(max_examples=220)
@given(my.architectures(), threads)
def test_numpy(made: Architecture, count: int) -> None:
    assert not compare(made, "numpy", count)


@no_blas
@settings(max_examples=80)
@given(my.architectures(largest=3), threads)
def test_interpreted_loops(made: Architecture, count: int) -> None:
    with interpreted():
        assert not compare(made, "numba", count)


@pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="Numba is not installed: pip install 'tinygrad_mm[numba]'"
)
@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])  # each takes seconds to compile: no shrinking
@given(my.architectures(deepest=3), threads)
def test_numba(made: Architecture, count: int) -> None:
    assert not compare(made, "numba", count)
