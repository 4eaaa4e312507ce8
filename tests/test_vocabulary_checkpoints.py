"""A vocabulary in a checkpoint: a run with another one is refused by its name, not by a shape."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import text


def run(folder, known, resume=False, layers=1):
    """Learn to repeat a text, in batches that do not depend on the vocabulary's size."""
    vocabulary = text.Vocabulary(known)
    rng = np.random.default_rng(0)
    hidden = [tg.nn.Dense(8, 8, "relu", rng=rng) for _ in range(layers)]
    model = tg.nn.Sequential(
        tg.nn.Embedding(len(vocabulary), 8, rng=rng), *hidden, tg.nn.Linear(8, len(known), rng=rng)
    )
    codes = vocabulary.encode("abcabc")
    before = [p.value.copy() for p in model.parameters()]
    settings = {"callbacks": [vocabulary], "checkpoint": folder / "run", "resume": resume, "progress": False}
    try:
        tg.fit(model, (codes, codes), tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1), 1, **settings)
    except ValueError:
        assert all(np.array_equal(a, p.value) for a, p in zip(before, model.parameters(), strict=True))
        raise


@pytest.mark.parametrize("other", ["abcd", "abd c", "cab"])
def test_another_vocabulary_is_named_before_a_shape(tmp_path, other):
    run(tmp_path, "abc")
    with pytest.raises(
        ValueError, match=f"it was trained with another vocabulary, of 3 tokens; this one has {len(other)}"
    ):
        run(tmp_path, other, resume=True)


def test_what_else_differs_is_still_told(tmp_path):
    run(tmp_path, "abc")
    run(tmp_path, "abc", resume=True)
    with pytest.raises(ValueError, match="this state does not fit"):
        run(tmp_path, "abc", resume=True, layers=2)
