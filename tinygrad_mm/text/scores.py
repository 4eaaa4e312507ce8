"""How good a text is: against a reference, or by what it costs a model to predict it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["bits_per_character", "bleu", "exact_match", "perplexity"]


def perplexity(loss: float) -> float:
    """Among how many equally probable tokens a model is in doubt, from its mean cross entropy in nats (Jelinek 1977).

    >>> round(perplexity(math.log(10)), 6)
    10.0
    """
    return math.exp(loss)


def bits_per_character(loss: float, tokens: int = 1, characters: int = 1) -> float:
    """The mean cross entropy of tokens, in nats, as bits for each of the characters that these tokens spell.

    >>> bits_per_character(math.log(16), tokens=10, characters=40)
    1.0
    """
    return loss / math.log(2) * tokens / characters


def exact_match(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The share of texts that are right to the last character.

    Raises ValueError for different numbers of texts.

    >>> exact_match(["two", "tree"], ["two", "three"])
    0.5
    """
    _check("exact_match", found, wanted)
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / len(wanted)


def bleu(found: Sequence[Any], wanted: Sequence[Any], order: int = 4) -> float:
    """How many runs of 1 to `order` tokens translations share with their references, 0 to 100 (Papineni et al. 2002).

    The geometric mean of the precisions over all texts together, times a penalty where these are shorter than the
    references; without smoothing. Each is a list of tokens, or a text, which is split at white space; `wanted` has one
    reference for each text. `sacrebleu.corpus_bleu(..., tokenize="none", smooth_method="none")` gives the same.

    Raises ValueError for different numbers of texts.

    >>> round(bleu(["the cat sat on the mat"], ["the cat is on the mat"], order=2), 2)
    70.71
    """
    _check("bleu", found, wanted)
    pairs = [(_split(a), _split(b)) for a, b in zip(found, wanted, strict=True)]
    logs = 0.0
    for n in range(1, order + 1):
        counts = [(_runs(a, n), _runs(b, n)) for a, b in pairs]
        shared = sum((a & b).total() for a, b in counts)
        if not shared:
            return 0.0
        logs += math.log(shared / sum(a.total() for a, _ in counts))
    own, reference = (sum(map(len, side)) for side in zip(*pairs, strict=True))
    return 100 * math.exp(min(0.0, 1 - reference / own) + logs / order)


def _split(text: Any) -> Sequence[Any]:
    return text.split() if isinstance(text, str) else text


def _runs(tokens: Sequence[Any], n: int) -> Counter[tuple[Any, ...]]:
    """How often each run of n tokens occurs."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def _check(name: str, found: Sequence[Any], wanted: Sequence[Any]) -> None:
    if isinstance(found, str) or isinstance(wanted, str):
        raise TypeError(f"{name}: it compares lists of texts; write [text]")
    if len(found) != len(wanted) or not wanted:
        raise ValueError(
            f"{name}: {len(found)} texts and {len(wanted)} references; it needs one for each, and one pair"
        )
