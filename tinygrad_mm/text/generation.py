"""Texts out of a model of the next token, token by token: the likeliest, drawn at random, or the best of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_mm.gradient import no_grad
from tinygrad_mm.tensor import Tensor
from tinygrad_mm.text.vocabulary import as_vocabulary

__all__ = ["RecurrentCache", "generate", "next_probabilities"]

Array = np.ndarray[Any, Any]


class RecurrentCache:
    """What a recurrent network remembers of the tokens so far: its `state`, None at the start.

    Shape of the state: (layers, N, hidden_features), or a tuple of such
    """

    def __init__(self) -> None:
        self.state: Any = None

    def select(self, rows: Any) -> None:
        """Go on with these sequences, by number; one may occur several times.

        >>> cache = RecurrentCache()
        >>> cache.state = np.zeros((1, 2, 8))
        >>> cache.select([1, 1, 0])
        >>> cache.state.shape
        (1, 3, 8)
        """
        if isinstance(self.state, tuple):
            self.state = tuple(part[:, rows] for part in self.state)
        elif self.state is not None:
            self.state = self.state[:, rows]


def generate(
    model: Callable[..., Any],
    prompt: Any,
    length: int,
    *,
    vocabulary: Any = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 1,
    length_penalty: float = 1.0,
    stop: int | None = None,
    cache: Callable[[], Any] | None = None,
    context: int | None = None,
    rng: np.random.Generator | int | None = None,
) -> Any:
    """The prompt and up to `length` tokens more, each from what the model says of the next one.

    The prompt is a text, if there is a `vocabulary`, and then so is the result; or the numbers of tokens, of one
    sequence or of several equally long ones. `model(codes)` returns logits of the next token at each position.

    At temperature 0 the likeliest token is taken. Above, one is drawn from softmax(logits / temperature), by `rng`: out
    of the `top_k` likeliest only, or out of the fewest that have the share `top_p` together (Holtzman et al. 2020).
    With `beams`, that many sequences are kept at each step, and the likeliest is returned: by the logarithm of its
    probability over its number of tokens to the power of `length_penalty` (Wu et al. 2016).

    A sequence ends with the number `stop` (the vocabulary's, if it has one), which then fills it up. A model that can
    go on from what it remembers has a `cache`: a function that makes an empty one, such as
    `lambda: [nn.KeyValueCache() for _ in layers]` or `RecurrentCache`; `model(codes, cache)` is then given new tokens
    only. `context` is the greatest number of tokens that a model looks at; beyond it, the oldest half is forgotten.

    Shape: logits (N, positions, tokens); prompt (positions,) or (N, positions) -> the same with positions + length

    Raises ValueError for an empty prompt, one longer than `context`, and for options that exclude each other.

    >>> def counts_on(codes):
    ...     return np.eye(10)[(codes + 1) % 10]
    >>> generate(counts_on, [7], 4)
    array([7, 8, 9, 0, 1])
    >>> generate(counts_on, [7], 4, stop=9)
    array([7, 8, 9, 9, 9])
    """
    codec = None if vocabulary is None else as_vocabulary(vocabulary)
    if isinstance(prompt, str):
        if codec is None:
            raise TypeError("generate: a text needs vocabulary=..., which knows the numbers of its tokens")
        prompt, is_text = codec.encode(prompt), True
    else:
        prompt, is_text = np.asarray(prompt, np.int64), False
    if stop is None and codec is not None:
        stop = codec.stop
    _check(prompt, length, temperature, top_k, top_p, beams, context)
    rng = np.random.default_rng(rng)
    reader = _Reader(model, cache, context)
    codes = np.atleast_2d(prompt)
    with no_grad(), _evaluating(model):
        if beams > 1:
            codes = _searched(reader, codes, length, beams, stop, length_penalty)
        else:
            codes = _drawn(reader, codes, length, stop, lambda x: _next(x, temperature, top_k, top_p, rng))
    found = codes if prompt.ndim == 2 else codes[0]
    return codec.decode(found) if is_text and codec is not None else found


class _Reader:
    """Logits of the next token: by all tokens, or by the last one where the rest is in the cache."""

    def __init__(self, model: Callable[..., Any], cache: Callable[[], Any] | None, context: int | None) -> None:
        self.model, self.make, self.context = model, cache, context
        self.cache: Any = None
        self.seen = 0  # tokens in the cache

    def __call__(self, codes: Array) -> Array:
        """(N, positions) -> (N, tokens)"""
        if self.make is None:
            return _last(self.model(codes if self.context is None else codes[:, -self.context :]))
        new = codes[:, -1:]
        if self.cache is None or self.seen == self.context:
            begun, self.cache = self.cache is not None, self.make()
            new = codes[:, -max(1, self.seen // 2) :] if begun else codes
            self.seen = 0
        self.seen += new.shape[1]
        return _last(self.model(new, self.cache))

    def select(self, rows: Array) -> None:
        """Go on with these sequences."""
        for part in self.cache if isinstance(self.cache, (list, tuple)) else [self.cache]:
            if part is not None:
                part.select(rows)


def _last(logits: Any) -> Array:
    values = logits.data if isinstance(logits, Tensor) else np.asarray(logits)
    if values.ndim != 3:
        raise ValueError(f"generate: the model returned shape {values.shape}; it needs logits (N, positions, tokens)")
    return values[:, -1].astype(np.float64)


def _drawn(reader: _Reader, codes: Array, length: int, stop: int | None, choose: Callable[[Array], Array]) -> Array:
    """One token after the other, until all sequences have ended."""
    ended = np.zeros(len(codes), bool)
    start = codes.shape[1]
    for _ in range(length):
        new = choose(reader(codes))
        if stop is not None:
            new = np.where(ended, stop, new)
            ended |= new == stop
        codes = np.concatenate([codes, new[:, None]], axis=1)
        if ended.all():
            break
    return _filled(codes, start + length, stop)


def _filled(codes: Array, length: int, stop: int | None) -> Array:
    return np.pad(codes, ((0, 0), (0, length - codes.shape[1])), constant_values=-1 if stop is None else stop)


def _next(logits: Array, temperature: float, top_k: int | None, top_p: float | None, rng: Any) -> Array:
    if temperature == 0:
        return logits.argmax(axis=-1)
    up_to = np.cumsum(next_probabilities(logits, temperature, top_k, top_p), axis=-1)
    return np.sum(up_to <= rng.random((len(logits), 1)) * up_to[:, -1:], axis=-1)


def next_probabilities(
    logits: Any, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Array:
    """The probabilities that `generate` draws the next token with.

    Shape: (..., tokens) -> (..., tokens)

    >>> next_probabilities(np.log([0.5, 0.3, 0.2]), top_p=0.6).round(3)
    array([0.625, 0.375, 0.   ])
    """
    logits = np.asarray(logits, np.float64)
    p = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    order = np.argsort(-logits, axis=-1, kind="stable")
    sorted_p = np.take_along_axis(p, order, axis=-1)
    if top_k is not None:
        sorted_p[..., top_k:] = 0
    sorted_p /= sorted_p.sum(axis=-1, keepdims=True)
    if top_p is not None:
        sorted_p[np.cumsum(sorted_p, axis=-1) - sorted_p >= top_p] = 0
        sorted_p /= sorted_p.sum(axis=-1, keepdims=True)
    np.put_along_axis(p, order, sorted_p, axis=-1)
    return p


def _searched(reader: _Reader, codes: Array, length: int, beams: int, stop: int | None, penalty: float) -> Array:
    """Beam search: of all continuations of the sequences kept, the likeliest are kept."""
    n, start = codes.shape
    codes = np.repeat(codes, beams, axis=0)
    scores = np.where(np.arange(beams) == 0, 0.0, -np.inf) + np.zeros((n, 1))  # all begin alike: one of them counts
    ended = np.zeros(n * beams, bool)
    lengths = np.zeros(n * beams)
    for _ in range(length):
        logits = reader(codes)
        log_p = logits - logits.max(axis=-1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
        if stop is not None:
            log_p[ended] = np.where(np.arange(log_p.shape[1]) == stop, 0, -np.inf)
        every = (scores.reshape(-1, 1) + log_p).reshape(n, -1)
        best = np.argsort(-every, axis=-1, kind="stable")[:, :beams]
        scores = np.take_along_axis(every, best, axis=-1)
        rows = (best // log_p.shape[1] + beams * np.arange(n)[:, None]).ravel()
        new = (best % log_p.shape[1]).ravel()
        codes = np.concatenate([codes[rows], new[:, None]], axis=1)
        lengths = lengths[rows] + ~ended[rows]
        ended = ended[rows] | (new == stop)
        if ended.all():
            break
        reader.select(rows)
    chosen = (scores / lengths.reshape(n, beams) ** penalty).argmax(axis=-1)
    return _filled(codes.reshape(n, beams, -1)[np.arange(n), chosen], start + length, stop)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode, where the model is a module."""
    modules = [module for _, module in model.named_modules()] if hasattr(model, "named_modules") else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _check(
    prompt: Array,
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    beams: int,
    context: int | None,
) -> None:
    if prompt.ndim not in (1, 2) or not prompt.size:
        raise ValueError(
            f"generate: the prompt has shape {prompt.shape}; it needs one token at least to go on from, such as "
            "that of the start"
        )
    if context is not None and prompt.shape[-1] > context:
        raise ValueError(
            f"generate: the prompt has {prompt.shape[-1]} tokens, the model looks at context={context}; give its last "
            f"ones, prompt[-{context}:]"
        )
    if length < 0 or beams < 1 or temperature < 0:
        raise ValueError(
            f"generate: length={length}, beams={beams}, temperature={temperature}: beams are 1 or more, the others not "
            "negative"
        )
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise ValueError("generate: top_k and top_p are about drawing tokens; give a temperature, 1.0 for one")
    if temperature and beams > 1:
        raise ValueError(f"generate: beams={beams} are searched for the likeliest text; leave temperature at 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k={top_k} must be 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p={top_p} is a share; it lies above 0 and up to 1")
