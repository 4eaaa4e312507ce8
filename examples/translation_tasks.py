"""What translate.py learns: where pairs of texts come from, and how they are learned."""

from __future__ import annotations

import datetime
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

import language_data

from tinygrad_mm import text


def numbers(rng):
    """Below a million: three quarters of those to learn from drawn evenly, the others evenly in their logarithm."""
    num2words = needed("num2words").num2words
    few = rng.permutation(1_000_000)[:36_000]
    small = (10 ** rng.uniform(0, 6, 10_000)).astype(int) - 1
    learned = {*few[:30_000].tolist(), *small.tolist()}
    held_back = [n for n in few[30_000:].tolist() if n not in learned]
    spell = lambda many: [(num2words(n), num2words(n, lang="fr")) for n in many]
    return spell(rng.permutation(sorted(learned)).tolist()), spell(held_back[:500]), spell(held_back[500:5500])


PATTERNS = [("en_US", "full"), ("en_US", "long"), ("en_US", "medium"), ("en_GB", "full"), ("en_GB", "long")]
PATTERNS += [("en_GB", "medium"), ("en_ZA", "long"), ("en_IE", "full"), ("en", "yyyy MMMM d")]


def dates(rng):
    """Days from the year 1000 to 9999, each in one of nine formats, none of which leaves month and day in doubt."""
    format_date = needed("babel.dates").format_date
    first, last = datetime.date(1000, 1, 1).toordinal(), datetime.date.max.toordinal()
    days = [datetime.date.fromordinal(first + n) for n in rng.permutation(last - first + 1)[:33_000].tolist()]
    chosen = rng.integers(len(PATTERNS), size=len(days)).tolist()
    pairs = [
        (format_date(day, PATTERNS[i][1], locale=PATTERNS[i][0]), day.isoformat())
        for day, i in zip(days, chosen, strict=True)
    ]
    return pairs[:30_000], pairs[30_000:30_500], pairs[30_500:]


def verses(rng):
    """Those of at most 40 words and marks in both languages, without such that one of the two explains at length."""
    pairs = [(a, b) for a, b in language_data.verses() if max(len(text.tokens(a)), len(text.tokens(b))) <= 40]
    pairs = [(a, b) for a, b in pairs if max(len(a), len(b)) <= 2 * min(len(a), len(b)) + 20]
    rng.shuffle(pairs)
    return pairs[600:], pairs[:300], pairs[300:600]


def needed(name):
    """A package of the extra `language`."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        raise SystemExit(f"translate.py: this task needs {name.split('.')[0]}; pip install 'tinygrad_mm[language]'")
    return importlib.import_module(name)


def own(path, rng):
    """Pairs of a file: source, tab, translation in a line, and what may follow; a tenth each validates and tests."""
    try:
        lines = [line for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise SystemExit(f"translate.py: {path} cannot be read as text: {error}") from error
    found = [[part.strip() for part in line.split("\t")[:2]] for line in lines]
    for line, pair in zip(lines, found, strict=True):
        if len(pair) != 2 or not all(pair):
            raise SystemExit(f"translate.py: {line!r} in {path} is no pair; write source, one tab, translation")
    pairs = list(dict(found).items())  # no source twice: what is tested on must not be learned
    if len(pairs) < 20:
        raise SystemExit(f"translate.py: {path} holds {len(pairs)} pairs; 20 are the least, some thousand are better")
    rng.shuffle(pairs)
    held = len(pairs) // 10
    return pairs[2 * held :], pairs[:held], pairs[held : 2 * held]


class Task(NamedTuple):
    """Where examples come from, what they consist of, and how they are learned."""

    pairs: object
    words: tuple[bool, bool]  # source and target in words, or in characters
    at_least: int  # how often a word must occur to have a number
    features: int
    dropout: float
    smoothing: float
    buckets: int  # lengths that examples are filled up to
    steps: int
    batch_size: int
    learning_rate: float
    example: str | None  # None: the first one that is tested on
    unknown: bool = False  # whether words may come that have no number


TASKS = {
    "numbers": Task(numbers, (True, True), 1, 64, 0.0, 0.0, 1, 1700, 64, 3e-3, "ninety-one thousand and twelve"),
    "dates": Task(dates, (False, False), 1, 64, 0.0, 0.0, 1, 1900, 64, 3e-3, "Wednesday, 5 March 1997"),
    "verses": Task(
        verses, (True, True), 3, 128, 0.3, 0.1, 4, 2400, 32, 2e-3, "He who has ears to hear, let him hear.", True
    ),
}


def own_task(path, words):
    """Pairs of one's own, in words and marks, or in characters."""
    pairs = functools.partial(own, path)
    return Task(pairs, (words, words), 1, 64, 0.1, 0.0, 1, 1500, 64, 3e-3, None, True)
