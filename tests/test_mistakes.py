"""Mistakes: each one's answer is known by its name, the right answer and chance ones by none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_mm.mistakes import likely_mistakes, name_mistake

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@given(seeds, shapes, st.integers(1, 5), st.integers(2, 100))
def test_every_mistake_is_known_by_its_name_and_is_no_right_answer(seed, shape, count, batch):
    parts = [drawn(seed + k, shape) for k in range(count)]
    right = np.sum(parts, axis=0)
    found = likely_mistakes(right, batch=batch, parts=parts)
    assert {"the wrong sign", "the mean over the batch instead of the sum"} <= found.keys()
    assert sum("is lost" in name for name in found) == (count if count > 1 else 0)
    for name, wrong in found.items():
        assert not (wrong.shape == right.shape and np.allclose(wrong, right, rtol=1e-5))
        known = name_mistake(wrong.astype(np.float32), right, batch=batch, parts=parts)
        # another mistake may give the same numbers; then the likelier is named
        assert known == name or np.allclose(found[known], wrong, atol=1e-3 * np.abs(wrong).max())
    assert name_mistake(right.astype(np.float32), right, batch=batch, parts=parts) is None


@given(seeds, st.integers(2, 5))
def test_transpose_of_a_square_matrix_and_of_any_other(seed, n):
    for right in (drawn(seed, (n, n)), drawn(seed, (n, n + 1)), drawn(seed, (2, n, n))):
        assert name_mistake(np.swapaxes(right, -1, -2), right) == "the transpose"
        assert name_mistake(-np.swapaxes(right, -1, -2), right) == "the transpose with the wrong sign"
    symmetric = right[0] + right[0].T
    assert "the transpose" not in likely_mistakes(symmetric)


@given(seeds, st.integers(2, 6), shapes)
def test_a_missing_sum_and_a_mean_for_a_sum(seed, batch, shape):
    each = drawn(seed, (batch, *shape))
    right = each.sum(0)
    assert name_mistake(each, right) == "the sum over the batch is missing"
    assert name_mistake(each.mean(0), right, batch=batch) == "the mean over the batch instead of the sum"
    assert name_mistake(right * batch, right, batch=batch) == "the sum over the batch instead of the mean"


@given(seeds, st.lists(st.integers(0, 3), min_size=2, max_size=8))
def test_an_overwritten_entry_is_what_assignment_leaves(seed, indices):
    """The gradient of a table of rows at repeated indices, made with `table[indices] = g`."""
    g = drawn(seed, (len(indices), 3))
    right, wrong, parts = np.zeros((4, 3)), np.zeros((4, 3)), []
    np.add.at(right, indices, g)
    wrong[indices] = g
    for index, row in zip(indices, g, strict=True):
        part = np.zeros((4, 3))
        part[index] = row
        parts.append(part)
    expected = name_mistake(wrong, right, parts=parts)
    if len(set(indices)) == len(indices):
        assert expected is None
    elif len(indices) == 2:  # losing the first path is the same
        assert expected == "path 1 of 2 is lost"
    else:
        lost = [
            name
            for name, array in likely_mistakes(right, parts=parts).items()
            if array.shape == (4, 3) and np.allclose(array, wrong)
        ]
        assert expected == lost[0]
        assert lost[-1] == "the last contribution overwrites the others instead of adding"


def test_factors_and_shapes():
    right = np.array([1.0, -2.0, 3.0])
    assert name_mistake(2 * right, right) == "2 times the right gradient"
    assert name_mistake(0.25 * right, right) == "0.25 times the right gradient"
    assert name_mistake(right[None], right) == "the right numbers in the shape (1, 3) instead of (3,)"
    assert name_mistake(right, right[:, None]) == "the right numbers in the shape (3,) instead of (3, 1)"
    assert name_mistake(np.zeros(3), right) is None
    assert name_mistake(np.array([1.0, -2.0, 3.1]), right) is None
    assert name_mistake(1.5, 2.0) is None  # of a single number a factor says nothing
    assert name_mistake(4.0, 2.0) == "2 times the right gradient"


def test_what_is_not_finite_is_compared_as_it_is():
    right = np.array([np.inf, 1.0, np.nan])
    assert name_mistake(right, right) is None
    assert name_mistake(-right, right) == "the wrong sign"
    assert name_mistake(np.array([1.0, 1.0, np.nan]), right) is None


@pytest.mark.parametrize("right", [np.zeros(3), np.zeros((0, 0)), 0.0])
def test_where_all_is_zero_no_mistake_can_be_seen(right):
    assert likely_mistakes(right, batch=4) == {}
    assert name_mistake(np.zeros(np.shape(right)), right, batch=4) is None
