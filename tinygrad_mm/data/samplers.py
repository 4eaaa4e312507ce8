"""Samplers: which examples an epoch has, and in which order, drawn from the loader's generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.data.structures import Array, plain_array

__all__ = ["StratifiedSampler", "SubsetSampler", "WeightedSampler"]


class WeightedSampler:
    """Examples drawn in proportion to their weights: rare classes more often, say.

    `weights` has one number for each example; `count` examples are an epoch (None: as many as there are weights), with
    replacement or, with `replacement=False`, each at most once. The same as PyTorch's WeightedRandomSampler.

    Raises ValueError for weights that are no list of finite numbers, negative or all 0, and for a `count` that is not
    positive, or without replacement larger than the number of positive weights.

    >>> sampler = WeightedSampler([0.0, 1.0, 3.0], count=1000)
    >>> len(sampler), np.bincount(sampler(np.random.default_rng(0))).tolist()
    (1000, [0, 231, 769])
    """

    def __init__(self, weights: Any, count: int | None = None, replacement: bool = True) -> None:
        self.weights = np.asarray(plain_array(weights), np.float64)
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise ValueError(
                f"WeightedSampler: weights of shape {self.weights.shape} must be one finite number, 0 or more, for "
                "each example"
            )
        self.count = len(self.weights) if count is None else int(count)
        self.replacement = replacement
        possible = int(np.count_nonzero(self.weights))
        if not possible or self.count < 1 or (not replacement and self.count > possible):
            raise ValueError(
                f"WeightedSampler: {self.count} examples cannot be drawn from {possible} of positive weight"
                + ("" if replacement else " without replacement")
            )

    def __len__(self) -> int:
        """The number of examples in an epoch."""
        return self.count

    def __call__(self, rng: np.random.Generator) -> Array:
        """The indices of the examples of one epoch."""
        shares = self.weights / self.weights.sum()
        return rng.choice(len(shares), self.count, self.replacement, shares)


class SubsetSampler:
    """Some of the examples, in random order: one part of a split without a copy of the data.

    Raises ValueError for indices that are no list of integers, or none at all.

    >>> sampler = SubsetSampler([2, 4, 8])
    >>> sorted(sampler(np.random.default_rng(0)).tolist())
    [2, 4, 8]
    """

    def __init__(self, indices: Any) -> None:
        self.indices = plain_array(indices)
        if self.indices.ndim != 1 or self.indices.dtype.kind not in "iu" or not len(self.indices):
            raise ValueError(
                f"SubsetSampler: indices of shape {self.indices.shape} and dtype {self.indices.dtype} must be a list "
                "of integers (np.flatnonzero(mask) makes one of a mask)"
            )

    def __len__(self) -> int:
        """The number of examples in an epoch."""
        return len(self.indices)

    def __call__(self, rng: np.random.Generator) -> Array:
        """The indices of the examples of one epoch."""
        return rng.permutation(self.indices)


class StratifiedSampler:
    """Every example once, in random order, each label spread evenly: batches hold labels in nearly equal proportions.

    Of a label with n examples, one is in each n-th part of the epoch, at a random place there. Raises ValueError where
    `labels` is not one label for each example.

    >>> labels = np.array([0] * 90 + [1] * 10)
    >>> order = StratifiedSampler(labels)(np.random.default_rng(0))
    >>> labels[order].reshape(10, 10).sum(axis=1).tolist()
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """

    def __init__(self, labels: Any) -> None:
        self.labels = plain_array(labels)
        if self.labels.ndim != 1 or not len(self.labels):
            raise ValueError(f"StratifiedSampler: labels of shape {self.labels.shape}; give one for each example")

    def __len__(self) -> int:
        """The number of examples in an epoch."""
        return len(self.labels)

    def __call__(self, rng: np.random.Generator) -> Array:
        """The indices of the examples of one epoch."""
        places = np.empty(len(self.labels))
        for label in np.unique(self.labels):
            found = rng.permutation(np.flatnonzero(self.labels == label))
            places[found] = (np.arange(len(found)) + rng.random(len(found))) / len(found)
        return np.argsort(places, kind="stable")
