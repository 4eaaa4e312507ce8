"""Sequences of different lengths in batches of few shapes: sorted into buckets by length, and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_mm.data.structures import Array, plain_array

__all__ = ["Bucketed", "Buckets", "best_limits"]

TARGET = "target"


class Bucketed(NamedTuple):
    """A batch to be: the numbers of its examples, and the length that they are padded to."""

    examples: Array
    length: int


class Buckets:
    """The examples of `data` by their lengths.

    `limits` are the lengths of the buckets, or how many there are to be. The sequences of an example are its first
    part and every other one whose length differs among the examples or is that of the first in all of them; the length
    of the example is that of the longest. `padding` is what they are filled up with: a number, or one for each part.
    """

    def __init__(self, data: Any, limits: int | Sequence[int], padding: Any = 0) -> None:
        self.data = _Examples(data) if isinstance(data, (tuple, dict)) else data
        if not (hasattr(self.data, "__len__") and hasattr(self.data, "__getitem__")):
            raise TypeError(
                f"DataLoader: {type(data).__name__} has no length or cannot be indexed; give a list of examples, or a "
                "tuple or dict of lists and arrays"
            )
        examples = len(self.data)
        first = self.data[0] if examples else ()
        self.kind: Any = type(first) if isinstance(first, (tuple, dict)) else None
        self.names: list[Any] = list(first) if isinstance(first, dict) else list(range(len(self._parts(first))))
        lengths = np.array([[len(a) if a.ndim else -1 for a in self._arrays(i)] for i in range(examples)])
        lengths = lengths.reshape(examples, len(self.names))
        leading = lengths[:, :1]
        self.padded = [
            bool(examples) and column.min() >= 0 and (i == 0 or np.ptp(column) > 0 or (column == leading[:, 0]).all())
            for i, column in enumerate(lengths.T)
        ]
        if examples and not self.padded[0]:
            raise ValueError(
                "DataLoader: with buckets, the first part of each example is a sequence, an array with one axis at "
                "least; put it first, in front of numbers"
            )
        self.lengths = lengths[:, self.padded].max(axis=1, initial=0)
        self.limits = self._limits(limits)
        self.bucket = np.searchsorted(self.limits, self.lengths)
        self.padding = self._padding(padding)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.data)

    def _limits(self, limits: Any) -> list[int]:
        if isinstance(limits, (int, np.integer)) and not isinstance(limits, bool):
            if limits < 1:
                raise ValueError(
                    f"DataLoader: buckets={limits} must be a positive number, or the lengths of the buckets"
                )
            return best_limits(self.lengths, int(limits))
        found = sorted({int(limit) for limit in limits})
        longest = int(self.lengths.max(initial=0))
        if not found or found[-1] < longest:
            raise ValueError(
                f"DataLoader: buckets={list(limits)}: the longest example has length {longest}, and no bucket is as "
                "long; add one, or cut the examples"
            )
        return found

    def _padding(self, padding: Any) -> list[Any]:
        if not isinstance(padding, (tuple, dict)):
            return [padding] * len(self.names)
        named = padding if isinstance(padding, dict) else dict(enumerate(padding))
        if set(named) != set(self.names):
            raise ValueError(
                f"DataLoader: padding={padding!r} must be a number, or one for each part of an example: "
                f"{', '.join(map(repr, self.names))}"
            )
        return [named[name] for name in self.names]

    def _parts(self, example: Any) -> Sequence[Any]:
        if isinstance(example, dict):
            return list(example.values())
        return example if isinstance(example, tuple) else (example,)

    def _arrays(self, i: int) -> list[Array]:
        """The parts of an example as arrays, in the order of those of the first example."""
        example = self.data[i]
        if isinstance(example, dict) and set(example) == set(self.names):
            example = {name: example[name] for name in self.names}
        parts = self._parts(example)
        if (type(example) if isinstance(example, (tuple, dict)) else None) is not self.kind or (
            list(example) if self.kind is dict else list(range(len(parts)))
        ) != self.names:
            raise ValueError(f"DataLoader: examples differ in structure, such as {example!r:.60}; make them alike")
        return [plain_array(part) for part in parts]

    def arranged(self, order: Array, batch_size: int, drop_last: bool) -> list[Bucketed]:
        """All examples as batches, shorter ones first, each bucket in the given order.

        What is left of a bucket goes with the next longer one, so that at most one batch is smaller, the last.
        """
        found = []
        rest = order[:0]
        for number, limit in enumerate(self.limits):
            rest = np.concatenate([rest, order[self.bucket[order] == number]])
            last = number == len(self.limits) - 1
            whole = len(rest) if last and not drop_last else len(rest) // batch_size * batch_size
            found += [Bucketed(rest[i : min(i + batch_size, whole)], limit) for i in range(0, whole, batch_size)]
            rest = rest[whole:]
        return found

    def batch(self, chosen: Bucketed) -> Any:
        """The examples as one structure of arrays, padded, with a mask for each sequence among the inputs."""
        columns = list(zip(*(self._arrays(i) for i in chosen.examples.tolist()), strict=True))
        parts: list[Array] = []
        masks: list[Array | None] = []
        for column, padded, value in zip(columns, self.padded, self.padding, strict=True):
            if not padded:
                parts.append(np.stack(column))
                masks.append(None)
                continue
            if len({sequence.shape[1:] for sequence in column}) > 1:
                raise ValueError(
                    f"DataLoader: sequences of shapes {sorted({sequence.shape for sequence in column})} differ in more "
                    "than their lengths"
                )
            dtype = np.result_type(*column)
            array = np.full((len(column), chosen.length, *column[0].shape[1:]), value, dtype)
            mask = np.zeros(array.shape[:2], bool)
            for row, inside, sequence in zip(array, mask, column, strict=True):
                row[: len(sequence)] = sequence
                inside[: len(sequence)] = True
            parts.append(array)
            masks.append(mask)
        if self.kind is dict:
            named = {f"{name}_mask": mask for name, mask in zip(self.names, masks, strict=True) if name != TARGET}
            return {**dict(zip(self.names, parts, strict=True)), **{k: m for k, m in named.items() if m is not None}}
        inputs = len(parts) - 1 if len(parts) > 1 else 1
        return (*parts[:inputs], *(mask for mask in masks[:inputs] if mask is not None), *parts[inputs:])


class _Examples:
    """Columns of equal length as a sequence of examples."""

    def __init__(self, columns: Any) -> None:
        named = columns if isinstance(columns, dict) else dict(enumerate(columns))
        self.named = isinstance(columns, dict)
        self.columns = {name: part if isinstance(part, list) else plain_array(part) for name, part in named.items()}
        parts = list(self.columns.values())
        if len({len(part) for part in parts}) != 1:
            raise ValueError(
                f"DataLoader: columns of lengths {[len(part) for part in parts]}; they must have one entry per example"
            )
        self.count = len(parts[0])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        example = {name: part[i] for name, part in self.columns.items()}
        return example if self.named else tuple(example.values())


def best_limits(lengths: Array, count: int) -> list[int]:
    """The lengths of at most `count` buckets that need the least padding, the longest being the longest of all.

    By dynamic programming: the best that `k` buckets can do for all lengths up to one is the best that `k - 1` can do
    for those up to a shorter one, and one bucket more for those between.

    >>> best_limits(np.array([1, 1, 1, 9, 10, 10]), 2)
    [1, 10]
    """
    values, counts = np.unique(lengths, return_counts=True)
    if not len(values):
        return [0]
    below = np.concatenate([[0], np.cumsum(counts)])  # examples shorter than the i-th value
    best = values * below[1:]  # elements, of one bucket up to each value
    cuts: list[Array] = []
    for _ in range(min(count, len(values)) - 1):
        # best[j] = min over i < j of best[i] + values[j] * (examples between)
        choices = [best[:j] + values[j] * (below[j + 1] - below[1 : j + 1]) for j in range(1, len(values))]
        cut = np.array([0, *(int(np.argmin(one)) for one in choices)])
        cuts.append(cut)
        best = np.array([best[0], *(int(one.min()) for one in choices)])
    at = len(values) - 1
    found = [int(values[at])]
    for cut in reversed(cuts):
        at = int(cut[at])
        found.append(int(values[at]))
    return sorted(set(found))
