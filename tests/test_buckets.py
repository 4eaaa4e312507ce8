"""Sequences of different lengths: every example once, unchanged, in batches of few shapes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim
from tinygrad_mm.data import DataLoader
from tinygrad_mm.data.buckets import best_limits


@st.composite
def cases(draw):
    """Examples of sequences that carry their number, and the options of a loader."""
    lengths = draw(st.lists(st.integers(0, 9), min_size=1, max_size=25))
    options = {
        "batch_size": draw(st.integers(1, 6)),
        "shuffle": draw(st.booleans()),
        "rng": 0,
        "drop_last": draw(st.booleans()),
        "prefetch": draw(st.sampled_from([0, 2])),
        "buckets": draw(st.one_of(st.integers(1, 4), st.just([3, 20]), st.just([5, 9, 12]))),
    }
    if options["drop_last"]:
        options["batch_size"] = min(options["batch_size"], len(lengths))
    examples = [(np.arange(n) + 100.0 * i, np.full((n, 2), i), i) for i, n in enumerate(lengths)]
    return lengths, examples, options


@given(case=cases())
def test_every_example_is_there_once_with_its_mask(case):
    lengths, examples, options = case
    loader = DataLoader(examples, padding=(-1.0, -7, 0), **options)
    seen, shapes = [], set()
    for sequences, pairs, first_mask, second_mask, numbers in loader:
        np.testing.assert_array_equal(first_mask, second_mask)
        assert sequences.shape == pairs.shape[:2] == first_mask.shape
        assert sequences.shape[1] in loader.buckets.limits
        shapes.add(sequences.shape)
        for sequence, pair, mask, number in zip(sequences, pairs, first_mask, numbers, strict=True):
            np.testing.assert_array_equal(sequence[mask], examples[number][0])
            np.testing.assert_array_equal(pair[mask], examples[number][1])
            assert mask.tolist() == sorted(mask, reverse=True)
            assert (sequence[~mask] == -1).all()
            assert (pair[~mask] == -7).all()
            seen.append(int(number))
    assert len(seen) == len(set(seen))
    n, size = len(examples), options["batch_size"]
    assert len(seen) == (n // size * size if options["drop_last"] else n)
    assert len(shapes) <= len(loader.buckets.limits) + 1
    assert sum(shape[0] != size for shape in shapes) <= (not options["drop_last"])
    assert len(loader) == len(list(loader))
    assert loader.buckets.limits[-1] >= max(lengths)


@given(case=cases(), given=st.integers(0, 6))
def test_a_position_is_resumed(case, given):
    _, examples, options = case
    loader, other = DataLoader(examples, **options), DataLoader(examples, **options | {"rng": 5})
    given %= len(loader)
    batches = iter(loader)
    for _ in range(given):
        next(batches)
    other.load_state_dict(loader.state_dict())
    for _ in range(2):  # the rest of this epoch, and the next
        for one, two in zip(batches, other, strict=True):
            for a, b in zip(one, two, strict=True):
                np.testing.assert_array_equal(a, b)
        batches = loader
    state = loader.state_dict()
    with pytest.raises(ValueError, match="make it with the same data and options"):
        DataLoader(examples, **options | {"buckets": [7, 30]}).load_state_dict(state)


def padded(lengths, limits):
    return sum(min(limit for limit in limits if limit >= length) for length in lengths)


@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=12), count=st.integers(1, 5))
def test_the_lengths_of_buckets_need_the_least_padding(lengths, count):
    found = best_limits(np.array(lengths), count)
    assert len(found) <= count
    assert found[-1] == max(lengths)
    shorter = sorted(set(lengths) - {max(lengths)})
    choices = itertools.chain.from_iterable(itertools.combinations(shorter, k) for k in range(count))
    assert padded(lengths, found) == min(padded(lengths, [*choice, max(lengths)]) for choice in choices)


def test_what_is_a_sequence_and_what_gets_a_mask():
    rng = np.random.default_rng(0)
    left = [rng.random((n, 2)) for n in (3, 1, 2, 4)]
    right = [rng.integers(0, 9, n) for n in (2, 2, 5, 1)]  # its own lengths: a translation
    fixed, labels = rng.random((4, 7)), np.arange(4)
    loader = DataLoader((left, right, fixed, labels), 4, buckets=1)
    a, b, c, a_mask, b_mask, y = next(iter(loader))
    assert a.shape == (4, 5, 2)
    assert b.shape == a_mask.shape == b_mask.shape == (4, 5)
    np.testing.assert_array_equal(c, fixed)
    assert (a_mask.sum(1).tolist(), b_mask.sum(1).tolist(), y.tolist()) == ([3, 1, 2, 4], [2, 2, 5, 1], [0, 1, 2, 3])

    data = {"words": right, "target": [r + 1 for r in right], "weight": labels}  # a target for each step
    batch = next(iter(DataLoader(data, 4, buckets=1, padding={"words": 0, "target": -100, "weight": 0})))
    assert list(batch) == ["words", "target", "weight", "words_mask"]
    assert (batch["target"][~batch["words_mask"]] == -100).all()
    np.testing.assert_array_equal(batch["target"][batch["words_mask"]], np.concatenate(right) + 1)

    x, mask = next(iter(DataLoader(right, 4, buckets=1)))  # inputs alone
    assert x.shape == mask.shape == (4, 5)
    same, mask, y = next(iter(DataLoader((rng.random((4, 3)), labels), 4, buckets=2)))  # all of one length
    assert same.shape == mask.shape == (4, 3)
    assert mask.all()


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([1.0, 2.0], {"buckets": 2}, ValueError, "the first part of each example is a sequence"),
        ([([1], 0), ([1, 2, 3], 1)], {"buckets": [2]}, ValueError, "the longest example has length 3"),
        ([([1], 0), ([1, 2, 3], 1)], {"buckets": 0}, ValueError, "buckets=0 must be"),
        ([([1], 0), ([1, 2, 3], 1)], {"buckets": []}, ValueError, "no bucket is as"),
        ([([1], 0), ([1, 2, 3],)], {"buckets": 1}, ValueError, "examples differ in structure"),
        ([([1], 0), {"x": [1], "y": 0}], {"buckets": 1}, ValueError, "examples differ in structure"),
        ([([1], 0), ([1, 2], 1)], {"buckets": 1, "padding": (0, 0, 0)}, ValueError, "or one for each part"),
        (([[1], [2, 3]], [1]), {"buckets": 1}, ValueError, r"columns of lengths \[2, 1\]"),
        (iter([]), {"buckets": 1}, TypeError, "has no length"),
        ([], {"buckets": 1}, ValueError, "0 examples give no batch"),
        ([np.ones((2, 3)), np.ones((3, 2))], {"buckets": 1}, ValueError, "differ in more than their lengths"),
    ],
)
def test_what_cannot_be_put_in_buckets(data, options, error, message):
    with pytest.raises(error, match=message):
        list(DataLoader(data, 2, **options))


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """The state behind the last step of each sequence decides."""

    def __init__(self):
        self.gru, self.head = nn.GRU(3, 5, rng=0), nn.Dense(5, 2, rng=1)

    def forward(self, x, mask):
        return self.head(self.gru(x, mask=mask)[1][-1])


class Attending(nn.Module):
    """One layer of a transformer, and the mean over the steps that there are."""

    def __init__(self):
        self.enter, self.norm = nn.Dense(3, 8, rng=0), nn.LayerNorm(8)
        self.attention, self.head = nn.MultiHeadAttention(8, 2, rng=1), nn.Dense(8, 2, rng=2)

    def forward(self, x, mask):
        h = self.enter(x)
        h = h + self.attention(self.norm(h), mask=mask[:, None, None, :])
        weight = mask.astype(h.dtype)[..., None]
        return self.head(np.sum(h * weight, axis=1) / np.sum(weight, axis=1))


def sequences(n=400):
    """Sequences of 40 different lengths; whether most numbers of the first feature are positive."""
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((1 + i % 40, 3)).astype(np.float32) for i in range(n)]
    return x, np.array([int(np.mean(a[:, 0]) > 0) for a in x])


@pytest.mark.parametrize("kind", [Recurrent, Attending])
def test_forty_lengths_need_six_programs(kind):
    x, y = sequences()
    model = kind()
    loader = DataLoader((x, y), 32, shuffle=True, rng=0, buckets=5)
    assert len({len(a) for a in x}) == 40
    traces = []
    history = tg.fit(
        model, loader, tg.cross_entropy, optim.Adam(model.parameters(), 0.01), 2, compile=True, progress=False,
        callbacks=[lambda run: traces.append(run.stepper.compiled.traces)],
    )  # fmt: skip
    assert traces[-1] <= 6
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("kind", [Recurrent, Attending])
def test_padding_changes_nothing(kind):
    """The gradient of a padded batch is that of its examples one by one."""
    x, y = sequences(12)
    model = kind().to(np.float64)
    x = [a.astype(np.float64) for a in x]
    (batch,) = DataLoader((x, y), 12, buckets=[20])
    tg.cross_entropy(model(*batch[:-1]), batch[-1]).backward()
    found = [p.grad for p in model.parameters()]
    model.zero_grad()
    for sequence, label in zip(x, y, strict=True):
        mask = np.ones((1, len(sequence)), bool)
        (tg.cross_entropy(model(sequence[None], mask), np.array([label])) / 12).backward()
    for p, g in zip(model.parameters(), found, strict=True):
        np.testing.assert_allclose(g, p.grad, rtol=1e-8, atol=1e-12)


def test_targets_of_every_step_are_ignored_where_there_are_none():
    rng = np.random.default_rng(0)
    words = [rng.integers(0, 5, n) for n in (3, 1, 4)]
    tags = [rng.integers(0, 3, len(w)) for w in words]
    model = nn.Embedding(5, 3, rng=0)
    ((x, _, y),) = DataLoader((words, tags), 3, buckets=1, padding=(0, -100))
    found = tg.cross_entropy(model(x), y, ignore_index=-100).item()
    flat = functional.cross_entropy(model(np.concatenate(words)), np.concatenate(tags)).item()
    assert found == pytest.approx(flat, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(buckets=st.sampled_from([1, 3]), seed=st.integers(0, 9))
def test_an_evaluation_is_the_same_however_it_is_cut(buckets, seed):
    x, y = sequences(40)
    model = Attending()
    found = tg.evaluate(model, DataLoader((x, y), 7, buckets=buckets), tg.cross_entropy, ["accuracy"])
    again = tg.evaluate(
        model, DataLoader((x, y), 9, shuffle=True, rng=seed, buckets=[50]), tg.cross_entropy, ["accuracy"]
    )
    assert found == pytest.approx(again, rel=1e-5)
