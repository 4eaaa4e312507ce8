"""The words that `show` understands."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["SHOW", "shown"]

SHOW = ("values", "gradients", "backward", "memory", "work", "lines", "joint", "everything")


def shown(show: str | Iterable[str]) -> frozenset[str]:
    """The details asked for.

    Raises ValueError, which names the known ones, for a word that is none of them.

    >>> sorted(shown("values")), sorted(shown(("values", "gradients")))
    (['values'], ['gradients', 'values'])
    """
    words = frozenset([show] if isinstance(show, str) else show)
    unknown = sorted(map(repr, words - set(SHOW)))
    if unknown:
        raise ValueError(f"draw: show={', '.join(unknown)}; known are {', '.join(SHOW)}")
    return words
