"""Sequences of numbers as arrays: padded to one length, cut out of a long one, and masks of where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["RandomWindows", "pad_sequences", "padding_mask", "windows"]


def pad_sequences(sequences: Sequence[Any], length: int | None = None, padding: int = 0) -> np.ndarray[Any, Any]:
    """Sequences of numbers below each other, filled up with `padding` to the longest one, or to `length`.

    Shape: N times (tokens,) -> (N, length)

    Raises ValueError for sequences that are longer, and where there are none.

    >>> pad_sequences([[5, 6, 7], [8]])
    array([[5, 6, 7],
           [8, 0, 0]])
    """
    if not len(sequences):
        raise ValueError("pad_sequences: there are no sequences")
    rows = [np.asarray(row) for row in sequences]
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    length = len(rows[longest]) if length is None else length
    if len(rows[longest]) > length:
        raise ValueError(
            f"pad_sequences: sequence {longest} has {len(rows[longest])} tokens, more than length={length}; cut it, or "
            "take a greater length"
        )
    found = np.full((len(rows), length), padding, np.result_type(*(row for row in rows if row.size), np.int8))
    for out, row in zip(found, rows, strict=True):
        out[: len(row)] = row
    return found


def padding_mask(codes: Any, padding: int = 0) -> Any:
    """The mask for attention to padded sequences: True where there is no padding, for all queries.

    Shape: (N, positions) -> (N, 1, positions)

    >>> padding_mask(np.array([[5, 6, 0]]))
    array([[[ True,  True, False]]])
    """
    return (codes != padding)[:, None, :]


def windows(codes: Any, length: int) -> tuple[Any, Any]:
    """A long sequence cut into pieces of a length, and the same one token later: inputs and targets.

    What is left at the end is left out.

    Shape: (tokens,) -> (N, length), (N, length)

    Raises ValueError for a sequence that has not one token more than a piece.

    >>> windows(np.arange(7), 3)
    (array([[0, 1, 2],
           [3, 4, 5]]), array([[1, 2, 3],
           [4, 5, 6]]))
    """
    codes = _long_enough("windows", codes, length)
    n = (len(codes) - 1) // length
    return codes[: n * length].reshape(n, length), codes[1 : n * length + 1].reshape(n, length)


class RandomWindows:
    """Batches of pieces from random places of a long sequence: inputs, and as targets the same one token later.

    An epoch is so many `batches`. It is a loader for `fit`: its place is kept in checkpoints.

    Shape: (tokens,) -> batches of (batch_size, length) and (batch_size, length)

    Raises ValueError for a sequence that has not one token more than a piece.

    >>> for x, y in RandomWindows(np.arange(100), length=3, batch_size=2, batches=1, rng=0):
    ...     print(x.tolist(), y.tolist())
    [[82, 83, 84], [61, 62, 63]] [[83, 84, 85], [62, 63, 64]]
    """

    def __init__(
        self, codes: Any, length: int, batch_size: int, batches: int, rng: np.random.Generator | int | None = None
    ) -> None:
        self.codes = _long_enough("RandomWindows", codes, length)
        self.length, self.batch_size, self.batches = length, batch_size, batches
        self.rng = np.random.default_rng(rng)
        self.given = 0  # batches of the epoch so far

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self.batches

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        while self.given < self.batches:
            self.given += 1  # before it is used: a position is saved after the step that uses it
            starts = self.rng.integers(len(self.codes) - self.length, size=self.batch_size)
            found = self.codes[starts[:, None] + np.arange(self.length + 1)]
            yield found[:, :-1], found[:, 1:]
        self.given = 0

    def state_dict(self) -> dict[str, Any]:
        """The generator, and how many batches of the epoch were given."""
        return {"rng": self.rng.bit_generator.state, "given": self.given, "made": self._made()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called. Raises ValueError for the state of another text or other batches."""
        made = list(state.get("made", ())) if isinstance(state, Mapping) else []
        if made != self._made():
            names = "tokens", "length", "batch_size", "batches"
            was, now = (", ".join(map("{}={}".format, names, numbers)) for numbers in (made, self._made()))
            raise ValueError(
                f"RandomWindows: this is the state of another text, or of other batches: {was}; here {now}"
            )
        self.rng.bit_generator.state, self.given = state["rng"], state["given"]

    def _made(self) -> list[int]:
        return [len(self.codes), self.length, self.batch_size, self.batches]


def _long_enough(name: str, codes: Any, length: int) -> np.ndarray[Any, Any]:
    codes = np.asarray(codes)
    if codes.ndim != 1 or not 0 < length < len(codes):
        raise ValueError(
            f"{name}: pieces of length={length} need one sequence of {max(length, 1) + 1} tokens at least; this has "
            f"shape {codes.shape}"
        )
    return codes
