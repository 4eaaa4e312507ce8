"""`Vocabulary`: a number for each character or word of a language."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from tinygrad_mm.files import keep_permissions

__all__ = ["PADDING", "START", "STOP", "UNKNOWN", "Codec", "Vocabulary", "as_vocabulary", "joined", "tokens"]

PADDING, START, STOP, UNKNOWN = SPECIALS = "<padding>", "<start>", "<stop>", "<unknown>"

# A word; a punctuation mark, with the space behind it; other white space. A space between two words is no token.
TOKEN = re.compile(r"\w+|[^\w\s] ?|\s")


def tokens(text: str, words: bool = True) -> list[str]:
    """The words and other marks of a text, or its characters; `joined` puts them together again.

    A mark takes the space behind it along; a single space between two words goes without saying.

    >>> tokens("Thirty-two, or more?")
    ['Thirty', '-', 'two', ', ', 'or', 'more', '?']
    """
    if not words:
        return list(text)
    found = TOKEN.findall(text)
    between = [" ", *found], found, [*found[1:], " "]
    return [
        token for before, token, after in zip(*between, strict=False) if token != " " or not (_joins(before, after))
    ]


def joined(parts: Iterable[str], words: bool = True) -> str:
    """The text that consists of these tokens.

    >>> joined(["Thirty", "-", "two", ", ", "or", "more", "?"])
    'Thirty-two, or more?'
    """
    if not words:
        return "".join(parts)
    found: list[str] = []
    for part in parts:
        if found and _joins(found[-1], part):
            found.append(" ")
        found.append(part)
    return "".join(found)


def _joins(before: str, after: str) -> bool:
    """Whether both are words, which a space keeps apart."""
    return _is_word(before) and _is_word(after)


def _is_word(token: str) -> bool:
    return token in SPECIALS or re.fullmatch(r"\w+", token) is not None


class Vocabulary:
    """The characters, or with `words` the words and marks, that a model knows, by their numbers.

    `Vocabulary.of(texts)` collects those of texts. Special tokens come first, and have names: `padding` is the number
    that fills short sequences up, `start` and `stop` stand around a text, `unknown` is for all that has no number; each
    is None where there is none. As a callback of `fit` a vocabulary is part of the checkpoint, and a run with another
    one cannot be resumed from it.

    Raises ValueError for tokens that occur twice or not at all.

    >>> vocabulary = Vocabulary.of(["a rose", "is a rose"], specials=["<stop>"])
    >>> vocabulary
    Vocabulary(8 characters, of which special: <stop>)
    >>> vocabulary.encode("rose", stop=True)
    array([6, 5, 7, 3, 0])
    >>> vocabulary.decode([6, 5, 7, 3, 0, 1, 1])
    'rose'
    """

    def __init__(self, known: Iterable[str], words: bool = False) -> None:
        self.tokens, self.words = tuple(known), bool(words)
        self.codes = {token: code for code, token in enumerate(self.tokens)}
        if not self.tokens or not all(isinstance(token, str) and token for token in self.tokens):
            raise ValueError("Vocabulary: there are no tokens; give texts that are not empty")
        if len(self.codes) < len(self.tokens):
            twice = [token for token, n in Counter(self.tokens).items() if n > 1]
            raise ValueError(f"Vocabulary: {twice} occur twice; each token has one number")
        self.padding, self.start, self.stop, self.unknown = map(self.codes.get, SPECIALS)

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        words: bool = False,
        specials: Sequence[str] = (),
        at_least: int = 1,
        at_most: int | None = None,
    ) -> Vocabulary:
        """The tokens that occur `at_least` so often in texts, of which the most frequent ones where `at_most` are kept.

        >>> Vocabulary.of(["to be or not to be"], words=True, at_least=2).tokens
        ('be', 'to')
        """
        if isinstance(texts, str):
            texts = [texts]
        if unheard := [special for special in specials if special not in SPECIALS]:
            raise ValueError(f"Vocabulary: {unheard} are no special tokens; there are {', '.join(SPECIALS)}")
        counts = Counter(token for text in texts for token in tokens(text, words))
        kept = [token for token, n in counts.most_common(at_most) if n >= at_least]
        return cls([*specials, *sorted(kept)], words)

    def __len__(self) -> int:
        """How many tokens there are, special ones too."""
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.tokens, self.words) == (other.tokens, other.words)

    __hash__ = None  # type: ignore[assignment]  # as of lists and dicts

    def encode(self, text: str, start: bool = False, stop: bool = False) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The numbers of a text's tokens, between those of `start` and `stop` if wanted.

        Shape: text -> (tokens,)

        Raises ValueError for a token that has no number, where there is none for unknown ones.
        """
        if not isinstance(text, str):
            raise TypeError(f"Vocabulary: encode takes a text, not a {type(text).__name__}; encode each text of many")
        parts = tokens(text, self.words)
        codes = [self.codes.get(part, self.unknown) for part in parts]
        if None in codes:
            part = parts[codes.index(None)]
            what = "word" if self.words else "character"
            raise ValueError(
                f"Vocabulary: {part!r} in {_short(text)} is none of its {len(self)} tokens; leave that {what} out, or "
                f"collect the vocabulary from all texts, or with specials=[{UNKNOWN!r}]"
            )
        around = [self._special(START)] if start else [], [self._special(STOP)] if stop else []
        return np.array([*around[0], *codes, *around[1]], np.int64)

    def decode(self, codes: Any) -> str:
        """The text of numbers, up to the number of `stop`, without those of `start` and `padding`.

        Shape: (tokens,) -> text

        Raises IndexError for numbers that no token has.
        """
        found: list[str] = []
        for code in np.asarray(codes).ravel().tolist():
            if code == self.stop:
                break
            if not 0 <= code < len(self):
                raise IndexError(f"Vocabulary: no token has the number {code}; they have 0..{len(self) - 1}")
            if code not in (self.start, self.padding):
                found.append(self.tokens[code])
        return joined(found, self.words)

    def _special(self, token: str) -> int:
        if token not in self.codes:
            raise ValueError(f"Vocabulary: it has no {token}; collect it with specials=[{token!r}]")
        return self.codes[token]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; the file is whole or is not changed."""
        path = Path(path)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(self.state_dict(), file, ensure_ascii=False)
        keep_permissions(file.name, path)
        os.replace(file.name, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what `save` wrote.

        Raises ValueError for any other file.

        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Vocabulary("abc").save(Path(folder, "abc.json"))
        ...     Vocabulary.load(Path(folder, "abc.json")).tokens
        ('a', 'b', 'c')
        """
        try:
            state = json.loads(Path(path).read_text("utf-8"))
            return cls(state["tokens"], state["words"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no vocabulary that Vocabulary.save wrote ({error!r})") from error

    def state_dict(self) -> dict[str, Any]:
        """The tokens, for a checkpoint."""
        return {"tokens": list(self.tokens), "words": self.words}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with the tokens of a checkpoint. Raises ValueError where they are others."""
        theirs, own = list(state["tokens"]), list(self.tokens)
        if theirs != own or state["words"] != self.words:
            missing = sorted({*theirs} ^ {*own})
            raise ValueError(
                f"it was trained with another vocabulary, of {len(theirs)} tokens; this one has {len(own)}"
                + (f", and {_short(missing)} are in one only" if missing else ", in another order")
            )

    def __repr__(self) -> str:
        special = ", ".join(token for token in self.tokens if token in SPECIALS)
        kind = "words and marks" if self.words else "characters"
        return f"Vocabulary({len(self)} {kind}{special and ', of which special: ' + special})"


class Codec(Protocol):
    """What turns texts into numbers and back: a `Vocabulary`, or what `as_vocabulary` makes."""

    padding: int | None
    start: int | None
    stop: int | None

    def __len__(self) -> int: ...

    def encode(self, text: str, start: bool = False, stop: bool = False) -> Any:
        """The numbers of a text."""

    def decode(self, codes: Any) -> str:
        """The text of numbers."""


class _Tokenizer:
    """A tokenizer of the package `tokenizers` in the place of a vocabulary."""

    NAMES: ClassVar[Mapping[str, Sequence[str]]] = {
        "padding": ("<padding>", "<pad>", "[PAD]"),
        "start": ("<start>", "<s>", "[CLS]", "<bos>", "<|startoftext|>"),
        "stop": ("<stop>", "</s>", "[SEP]", "<eos>", "<|endoftext|>"),
    }

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        known = {what: map(tokenizer.token_to_id, names) for what, names in self.NAMES.items()}
        found = {what: next((code for code in codes if code is not None), None) for what, codes in known.items()}
        self.padding, self.start, self.stop = found["padding"], found["start"], found["stop"]

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str, start: bool = False, stop: bool = False) -> np.ndarray[Any, np.dtype[np.int64]]:
        around = [self.start] if start else [], [self.stop] if stop else []
        if None in (*around[0], *around[1]):
            raise ValueError("this tokenizer has no special tokens for start and stop; train it with <s> and </s>")
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return np.array([*around[0], *ids, *around[1]], np.int64)

    def decode(self, codes: Any) -> str:
        own = np.asarray(codes).ravel().tolist()
        kept = own[: own.index(self.stop)] if self.stop in own else own
        return str(self.tokenizer.decode([code for code in kept if code not in (self.start, self.padding)]))


def as_vocabulary(given: Any) -> Codec:
    """A vocabulary as it is, a tokenizer of the package `tokenizers` with the same methods.

    Raises TypeError for anything else.
    """
    if isinstance(given, (Vocabulary, _Tokenizer)):
        return given
    if all(hasattr(given, name) for name in ("encode", "decode", "token_to_id", "get_vocab_size")):
        return _Tokenizer(given)
    raise TypeError(f"a {type(given).__name__} is no vocabulary; make one with Vocabulary.of(texts)")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
