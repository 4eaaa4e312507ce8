"""Text: vocabularies, padding, windows, generation and scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import text

SPECIALS = ("<padding>", "<start>", "<stop>", "<unknown>")


# ---------------------------------------------------------------------------------------------------------------------
# Vocabularies
# ---------------------------------------------------------------------------------------------------------------------


@given(st.text(alphabet=st.sampled_from("ab é-,.'1 \n\t_“"), max_size=30), st.booleans())
def test_nothing_is_lost_between_text_and_tokens(written, words):
    parts = text.tokens(written, words)
    assert text.joined(parts, words) == written
    assert all(parts)
    if not words:
        assert parts == list(written)


@given(st.text(), st.booleans())
def test_what_a_vocabulary_encodes_it_decodes(written, words):
    vocabulary = text.Vocabulary.of([written], words, SPECIALS)
    assert vocabulary.decode(vocabulary.encode(written)) == written
    codes = vocabulary.encode(written, start=True, stop=True)
    assert codes.dtype == np.int64
    assert (codes[0], codes[-1]) == (vocabulary.start, vocabulary.stop)
    assert vocabulary.decode([*codes, *vocabulary.encode("", stop=True), vocabulary.padding]) == written
    assert not {vocabulary.start, vocabulary.stop, vocabulary.padding, vocabulary.unknown} & {*codes[1:-1].tolist()}


def test_words_keep_their_marks():
    assert text.tokens("Twenty-one, say; or 22.") == ["Twenty", "-", "one", ", ", "say", "; ", "or", "22", "."]
    assert text.joined(["<unknown>", "rose", "<unknown>"]) == "<unknown> rose <unknown>"


def test_rare_words_become_unknown():
    vocabulary = text.Vocabulary.of(["a a a b b c"], words=True, specials=["<unknown>"], at_least=2)
    assert vocabulary.tokens == ("<unknown>", "a", "b")
    assert vocabulary.encode("a c").tolist() == [1, 0]
    assert text.Vocabulary.of(["a a a b b c"], words=True, at_most=1).tokens == ("a",)


def test_a_vocabulary_is_saved_and_loaded(tmp_path):
    for vocabulary in (text.Vocabulary.of(["é”\n"]), text.Vocabulary.of(["to be"], True, SPECIALS)):
        path = tmp_path / "vocabulary.json"
        vocabulary.save(path)
        assert text.Vocabulary.load(path) == vocabulary
        assert [*tmp_path.iterdir()] == [path]
    assert text.Vocabulary("ab") != text.Vocabulary("ba")
    path.write_text('{"tokens": 3}')
    with pytest.raises(ValueError, match="no vocabulary that"):
        text.Vocabulary.load(path)


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    def run(letters, **options):
        vocabulary = text.Vocabulary(letters)
        model = tg.nn.Embedding(3, 3, rng=0)
        optimizer = tg.optim.SGD(model.parameters(), 0.1)
        data = np.arange(3), np.arange(3)
        options |= {"callbacks": [vocabulary], "checkpoint": tmp_path, "progress": False}
        return tg.fit(model, data, tg.cross_entropy, optimizer, 1, **options)

    run("abc")
    run("abc", resume=True)
    with pytest.raises(ValueError, match=r"another vocabulary, of 3 tokens; this one has 3, and \['c', 'd'\] are in"):
        run("abd", resume=True)
    with pytest.raises(ValueError, match="in another order"):
        run("acb", resume=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: text.Vocabulary.of([]), ValueError, "there are no tokens"),
        (lambda: text.Vocabulary(["a", "a"]), ValueError, r"\['a'\] occur twice"),
        (lambda: text.Vocabulary.of(["a"], specials=["<end>"]), ValueError, r"'<end>'.* no special tokens; there are"),
        (lambda: text.Vocabulary("abc").encode("abß"), ValueError, "'ß' in 'abß' is none of its 3 tokens; leave that"),
        (lambda: text.Vocabulary("abc").encode("a", stop=True), ValueError, "no <stop>; collect it with specials="),
        (lambda: text.Vocabulary("abc").encode(["a"]), TypeError, "not a list"),
        (lambda: text.Vocabulary("abc").decode([3]), IndexError, r"number 3; they have 0\.\.2"),
        (lambda: text.as_vocabulary({}), TypeError, "a dict is no vocabulary"),
        (lambda: text.pad_sequences([]), ValueError, "no sequences"),
        (lambda: text.pad_sequences([[1], [1, 2, 3]], 2), ValueError, "sequence 1 has 3 tokens, more than length=2"),
        (lambda: text.windows(np.arange(4), 4), ValueError, "5 tokens at least"),
        (lambda: text.RandomWindows(np.arange(4), 9, 1, 1), ValueError, "10 tokens at least"),
        (lambda: text.bleu("a b", "a b"), TypeError, r"write \[text\]"),
        (lambda: text.exact_match(["a"], []), ValueError, "1 texts and 0 references"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_tokenizer_serves_as_a_vocabulary():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["a rose is a rose is a rose"] * 3, trainer)
    codec = text.as_vocabulary(tokenizer)
    codes = codec.encode("a rose is", start=True, stop=True)
    assert (codec.padding, codec.start, codec.stop) == (0, 1, 2)
    assert (codes[0], codes[-1]) == (1, 2)
    assert codec.decode([*codes, 5, 0]) == "a rose is"
    assert len(codec) == tokenizer.get_vocab_size()

    def says_rose(codes):
        wanted = codec.encode(" rose", stop=True)
        begun = len(codec.encode("a"))
        return np.eye(len(codec))[[[wanted[min(max(i - begun + 1, 0), 1)] for i in range(len(row))] for row in codes]]

    assert len(codec.encode(" rose")) == 1
    assert text.generate(says_rose, "a", 5, vocabulary=tokenizer) == "a rose"


# ---------------------------------------------------------------------------------------------------------------------
# Sequences
# ---------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(1, 99), max_size=6), min_size=1, max_size=5), st.integers(0, 3))
def test_padding_and_its_mask(rows, more):
    length = max(map(len, rows)) + more
    found = text.pad_sequences(rows, length, padding=0)
    assert found.shape == (len(rows), length)
    mask = text.padding_mask(found)
    assert mask.shape == (len(rows), 1, length)
    assert [row[inside].tolist() for row, inside in zip(found, mask[:, 0], strict=True)] == rows
    assert found[~mask[:, 0]].sum() == 0


@given(st.integers(2, 60), st.integers(1, 20))
def test_windows_are_one_token_apart(n, length):
    codes = np.random.default_rng(n).integers(0, 9, n)
    if n <= length:
        return
    x, y = text.windows(codes, length)
    assert np.array_equal(x.ravel(), codes[: x.size])
    assert np.array_equal(y.ravel(), codes[1 : x.size + 1])
    assert n - 1 - x.size < length


def test_random_windows_cover_the_text_and_go_on_where_they_stopped():
    make = lambda: text.RandomWindows(np.arange(20), 4, batch_size=3, batches=50, rng=1)
    loader = make()
    batches = [*loader]
    assert len(loader) == len(batches) == 50
    assert all(np.array_equal(x + 1, y) and x.shape == (3, 4) for x, y in batches)
    assert all((np.diff(x) == 1).all() for x, _ in batches)
    assert {*np.concatenate([x.ravel() for x, _ in batches]).tolist()} == {*range(19)}
    assert {y.max() for _, y in batches} <= {*range(4, 20)}
    assert 19 in np.concatenate([y.ravel() for _, y in batches])

    first, second = make(), make()
    for _ in itertools.islice(first, 20):
        pass
    second.load_state_dict(first.state_dict())
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(batches[20:], second, strict=True))
    assert not np.array_equal(next(iter(second))[0], batches[0][0])  # the next epoch is another
    with pytest.raises(ValueError, match="another text"):
        text.RandomWindows(np.arange(21), 4, 3, 50).load_state_dict(first.state_dict())


# ---------------------------------------------------------------------------------------------------------------------
# Generation
# ---------------------------------------------------------------------------------------------------------------------


def chain(tokens, seed):
    """A model whose next token depends on the last two, and its logits as a function of them."""
    table = np.random.default_rng(seed).normal(size=(tokens, tokens, tokens))

    def model(codes):
        before = np.concatenate([np.zeros_like(codes[:, :1]), codes[:, :-1]], axis=1)
        return table[before, codes]

    return model


def log_probability(model, codes, start, stop):
    """Of all tokens behind the first `start`, up to the first `stop`; and how many these are."""
    logits = model(codes[None])[0]
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    total = 0.0
    for i in range(start, len(codes)):
        total += log_p[i - 1, codes[i]]
        if codes[i] == stop:
            return total, i + 1 - start
    return total, len(codes) - start


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_what_looking_everywhere_finds(seed, penalty):
    model, tokens, length, stop = chain(3, seed), 3, 4, 2
    found = text.generate(model, [0, 1], length, beams=tokens**length, stop=stop, length_penalty=penalty)

    def score(tail):
        total, n = log_probability(model, np.array([0, 1, *tail]), 2, stop)
        return total / n**penalty

    best = max(map(score, itertools.product(range(tokens), repeat=length)))
    assert math.isclose(score(found[2:]), best, rel_tol=1e-12)
    first = [*found[2:], stop].index(stop)
    assert (found[2:][first:] == stop).all()


def test_one_beam_is_greedy_and_more_are_not_worse():
    better = 0
    for seed in range(30):
        model = chain(5, seed)
        greedy = text.generate(model, [[0], [1]], 5)
        assert np.array_equal(greedy, np.concatenate([text.generate(model, [[i]], 5) for i in (0, 1)]))
        for row in greedy:
            for i in range(1, 6):
                assert row[i] == model(row[None, :i])[0, -1].argmax()
        searched = text.generate(model, [[0], [1]], 5, beams=25)
        scores = [[log_probability(model, row, 1, None)[0] for row in rows] for rows in (greedy, searched)]
        assert (np.array(scores[1]) >= np.array(scores[0]) - 1e-9).all()
        better += np.sum(np.array(scores[1]) > np.array(scores[0]) + 1e-9)
    assert better > 0


@given(st.integers(0, 99), st.integers(1, 6), st.floats(0.01, 1.0), st.floats(0.2, 5.0))
def test_top_k_and_nucleus_keep_the_likeliest(seed, top_k, top_p, temperature):
    logits = np.random.default_rng(seed).normal(size=(2, 6))
    p = text.next_probabilities(logits, temperature)
    exact = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=-1, keepdims=True)
    assert np.allclose(p, exact)
    few = text.next_probabilities(logits, temperature, top_k=top_k)
    for row, some in zip(p, few, strict=True):
        kept = np.argsort(-row)[:top_k]
        assert np.allclose(some[kept], row[kept] / row[kept].sum())
        assert np.count_nonzero(some) == min(top_k, 6)
    nucleus = text.next_probabilities(logits, temperature, top_p=top_p)
    for row, some in zip(p, nucleus, strict=True):
        kept = some > 0
        assert row[kept].sum() >= top_p - 1e-12
        assert row[kept].sum() - row[kept].min() < top_p
        assert not (~kept).any() or row[kept].min() >= row[~kept].max()
        assert math.isclose(some.sum(), 1)


def test_tokens_are_drawn_with_their_probabilities():
    logits = np.log([0.1, 0.2, 0.7])
    draws = text.generate(
        lambda codes: np.broadcast_to(logits, (*codes.shape, 3)), np.zeros((20_000, 1)), 1, temperature=1.0, rng=0
    )
    assert np.allclose(np.bincount(draws[:, 1]) / 20_000, [0.1, 0.2, 0.7], atol=0.015)
    same = [text.generate(chain(5, 0), [1], 20, temperature=1.0, rng=3) for _ in range(2)]
    assert np.array_equal(*same)


class Reader(tg.Module):
    """A small transformer, or recurrent network, that can go on from what it remembers."""

    def __init__(self, kind, rng):
        self.kind = kind
        self.embedding = tg.nn.Embedding(7, 8, rng=rng)
        if kind == "transformer":
            self.body = tg.nn.TransformerEncoder(2, 8, 2, dropout=0.5, norm_first=True, rotary=True, rng=rng)
        else:
            self.body = getattr(tg.nn, kind)(8, 8, layers=2, rng=rng)
        self.output = tg.nn.Linear(8, 7, rng=rng)
        self.output.weight.value *= 5
        self.calls = []

    def cache(self):
        if self.kind == "transformer":
            return [tg.nn.KeyValueCache() for _ in self.body.layers]
        return text.RecurrentCache()

    def forward(self, codes, cache=None):
        self.calls.append(codes.shape)
        x = self.embedding(codes)
        if self.kind == "transformer":
            return self.output(self.body(x, causal=True, caches=cache))
        x, state = self.body(x, None if cache is None else cache.state)
        if cache is not None:
            cache.state = state
        return self.output(x)


@pytest.mark.parametrize("kind", ["transformer", "GRU", "LSTM"])
def test_a_cache_changes_nothing_but_the_work(kind):
    model, prompt = Reader(kind, 0), [[1, 2, 3], [4, 5, 6]]
    for options in ({}, {"beams": 3, "stop": 0}, {"temperature": 1.0, "rng": 0}, {"beams": 5, "length_penalty": 0.0}):
        plain = text.generate(model, prompt, 9, **options)
        model.calls = []
        assert np.array_equal(text.generate(model, prompt, 9, cache=model.cache, **options), plain)
        assert {shape[1] for shape in model.calls[1:]} == {1}
    assert model.training
    assert model.body.training


def test_beyond_the_context_the_oldest_half_is_forgotten():
    model = Reader("transformer", 0)
    plain = text.generate(model, [1, 2, 3], 20, context=8)
    assert max(shape[1] for shape in model.calls) == 8
    assert np.array_equal(plain[:8], text.generate(model, [1, 2, 3], 5))
    model.calls = []
    found = text.generate(model, [1, 2, 3], 20, context=8, cache=model.cache)
    assert len(found) == 23
    assert np.array_equal(found[:8], plain[:8])
    assert [shape[1] for shape in model.calls] == [3, 1, 1, 1, 1, 1, *[4, 1, 1, 1, 1] * 3][: len(model.calls)]
    assert len(model.calls) == 20
    assert found[9] == model(found[None, 5:9]).data[0, -1].argmax()  # from a new start, at the latest four


def test_texts_in_and_out():
    vocabulary = text.Vocabulary.of(["abc"], specials=["<stop>"])
    model = lambda codes: np.eye(4)[(codes + 1) % 4]
    assert text.generate(model, "a", 2, vocabulary=vocabulary) == "abc"
    assert text.generate(model, "a", 20, vocabulary=vocabulary) == "abc"


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("", {"vocabulary": text.Vocabulary("ab")}, ValueError, "it needs one token at least"),
        ("a", {}, TypeError, "a text needs vocabulary"),
        ("c", {"vocabulary": text.Vocabulary("ab")}, ValueError, "'c' in 'c' is none of its 2 tokens"),
        ([[[1]]], {}, ValueError, r"shape \(1, 1, 1\)"),
        ([1, 1, 1], {"context": 2}, ValueError, r"the prompt has 3 tokens, the model looks at context=2"),
        ([1], {"beams": 2, "temperature": 1.0}, ValueError, "leave temperature at 0"),
        ([1], {"top_k": 2}, ValueError, "give a temperature"),
        ([1], {"top_k": 0, "temperature": 1.0}, ValueError, "top_k=0"),
        ([1], {"top_p": 1.5, "temperature": 1.0}, ValueError, "top_p=1.5"),
        ([1], {"beams": 0}, ValueError, "beams=0"),
    ],
)
def test_generate_says_what_is_wrong(prompt, options, error, message):
    with pytest.raises(error, match=message):
        text.generate(lambda codes: np.eye(2)[codes], prompt, 3, **options)
    with pytest.raises(ValueError, match="it needs logits"):
        text.generate(lambda codes: codes, [1], 3)


# ---------------------------------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------------------------------

SENTENCE = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=0, max_size=9).map(" ".join)


@settings(max_examples=200)
@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=4))
def test_bleu_is_that_of_sacrebleu(pairs):
    sacrebleu = pytest.importorskip("sacrebleu")
    found, wanted = map(list, zip(*pairs, strict=True))
    theirs = sacrebleu.corpus_bleu(found, [wanted], tokenize="none", smooth_method="none", force=True)
    assert math.isclose(text.bleu(found, wanted), theirs.score, abs_tol=1e-9)


def test_scores():
    sentence = "the quick brown fox jumps"
    assert math.isclose(text.bleu([sentence], [sentence]), 100)
    assert text.bleu(["x y z u v"], [sentence]) == 0
    assert math.isclose(text.bleu([list("abcd")], [list("abcdefgh")]), 100 * math.exp(-1))  # short: 1 - 8 / 4
    assert text.exact_match(["a", "b", "c"], ["a", "b", "d"]) == 2 / 3
    assert math.isclose(text.perplexity(math.log(80)), 80)
    assert math.isclose(text.bits_per_character(math.log(2) * 3), 3)
    assert math.isclose(text.bits_per_character(math.log(2) * 6, tokens=5, characters=20), 1.5)
