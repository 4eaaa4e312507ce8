"""`train_test_split`: examples held back for testing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.data.structures import Array, Rng, plain_array

__all__ = ["train_test_split"]


def train_test_split(*arrays: Any, test_size: float = 0.25, rng: Rng = None, stratify: Any = None) -> list[Array]:
    """Arrays of equal length, each split at random into two: [a_train, a_test, b_train, b_test, ...].

    `test_size` is a fraction of the examples (rounded up) or, as an integer, their number. With `stratify`, an array
    of one label per example, both parts hold each label in (nearly) the same proportion. `rng` is a NumPy generator or
    a seed. The parts are copies, in random order.

    Shape: each array (n, ...) -> (n - n_test, ...) and (n_test, ...)

    Raises ValueError for no arrays, unequal lengths, a size that leaves one part empty, or labels that cannot be
    spread over both parts.

    >>> x, y = np.arange(10).reshape(5, 2), np.arange(5)
    >>> x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.4, rng=0)
    >>> x_train.shape, x_test.shape, (x_test[:, 0] == 2 * y_test).all()
    ((3, 2), (2, 2), np.True_)
    """
    columns = [plain_array(array) for array in arrays]
    labels = None if stratify is None else plain_array(stratify)
    shapes = [column.shape for column in [*columns, *([] if labels is None else [labels])]]
    if not columns or () in shapes or len({shape[0] for shape in shapes}) != 1:
        raise ValueError(
            f"train_test_split: arrays of shapes {shapes}; give at least one, all of shape (n, ...) with the same n"
        )
    n = shapes[0][0]
    tests = _number_of_tests(n, test_size)
    order = np.random.default_rng(rng).permutation(n)
    if labels is not None:
        order = _stratified(order, labels, tests)
    return [part for column in columns for part in (column[order[tests:]], column[order[:tests]])]


def _number_of_tests(n: int, test_size: float) -> int:
    whole = isinstance(test_size, (int, np.integer)) and not isinstance(test_size, bool)
    tests = int(test_size) if whole else math.ceil(n * test_size) if 0 < test_size < 1 else 0
    if not 0 < tests < n:
        raise ValueError(
            f"train_test_split: test_size={test_size} of {n} examples leaves one part empty; give a fraction between "
            "0 and 1, or a number of examples below n"
        )
    return tests


def _stratified(order: Array, labels: Array, tests: int) -> Array:
    """The order with its first `tests` examples taken from each label in proportion."""
    if labels.ndim != 1:
        raise ValueError(f"train_test_split: stratify has shape {labels.shape}; it is one label per example, (n,)")
    names, label, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min() < 2 or min(tests, len(order) - tests) < len(names):
        raise ValueError(
            f"train_test_split: {len(names)} labels, the rarest ({names[counts.argmin()]!s}) on {counts.min()} of "
            f"{len(order)} examples, cannot be spread over {len(order) - tests} and {tests}; each label needs two "
            "examples, and each part one of every label"
        )
    # Whole numbers nearest to the proportions: rounded down, and what is left to the largest remainders.
    shares = counts * tests / len(order)
    taken = np.floor(shares).astype(np.int64)
    taken[np.argsort(taken - shares, kind="stable")[: tests - taken.sum()]] += 1
    chosen = np.zeros(len(order), bool)
    for i, share in enumerate(taken):
        chosen[order[label[order] == i][:share]] = True
    return np.concatenate([order[chosen[order]], order[~chosen[order]]])
