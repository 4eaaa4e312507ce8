"""Where the decisions of a random architecture come from: a seed, hypothesis, or a list of decisions made before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

T = TypeVar("T")


class Choices:
    """A source of decisions: `_number` is what a source defines, `taken` what it has decided."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def _number(self, bound: int) -> int:
        raise NotImplementedError

    def below(self, bound: int) -> int:
        if bound > 1:
            self.taken.append(self._number(bound))
        return self.taken[-1] if bound > 1 else 0

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def among(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def rarely(self) -> bool:
        return self.below(8) == 7

    def maybe(self) -> bool:
        return self.below(2) == 1


class Seeded(Choices):
    """Decisions that follow from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def _number(self, bound: int) -> int:
        return int(self.rng.integers(bound))


class Replayed(Choices):
    """Decisions from a list; 0, the simplest, where it is at its end."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__()
        self.numbers = iter(numbers)

    def _number(self, bound: int) -> int:
        return min(next(self.numbers, 0), bound - 1)


class Drawn(Choices):
    """Decisions that hypothesis draws."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__()
        self.draw = draw

    def _number(self, bound: int) -> int:
        return self.draw(st.integers(0, bound - 1))


def cut_down(taken: Sequence[int], fails: Callable[[list[int]], bool], most: int = 400) -> list[int]:
    """The decisions of a failing architecture, as few and as simple as `most` tries find."""
    best = list(taken)

    def attempts() -> Iterator[list[int]]:
        for length in (32, 16, 8, 4, 2, 1):
            for i in range(len(best) - length, -1, -length):
                if i + length <= len(best):
                    yield best[:i] + best[i + length :]
        for i in range(len(best)):
            for smaller in {0, best[i] // 2, best[i] - 1} if i < len(best) else ():
                if 0 <= smaller < best[i]:
                    yield [*best[:i], smaller, *best[i + 1 :]]

    improved = True
    while improved:
        improved = False
        for attempt in attempts():
            most -= 1
            if most < 0:
                return best
            if (len(attempt), attempt) < (len(best), best) and fails(attempt):
                best, improved = attempt, True
    return best


# ---------------------------------------------------------------------------------------------------------------------
