"""Metrics by name, against their definitions told example by example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.training import metrics
from tinygrad_mm.training.metrics import is_better_when_higher, named_metrics


@st.composite
def of_classes(draw):
    """(scores, labels) of up to 12 examples in up to 5 classes; scores without ties."""
    n, classes = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return rng.permuted(np.arange(n * classes)).reshape(n, classes) / 7 - 2, rng.integers(0, classes, n)


@st.composite
def of_two(draw):
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape = draw(st.sampled_from([(n,), (n, 1), (n, 3)]))
    return rng.standard_normal(shape), rng.integers(0, 2, shape).astype(draw(st.sampled_from([np.int64, np.float32])))


def counted(pairs, c):
    """(hits, taken for class c, of class c) among pairs of predicted and true classes."""
    return sum(a == b == c for a, b in pairs), sum(a == c for a, _ in pairs), sum(b == c for _, b in pairs)


def definitions(pairs, classes):
    """accuracy, precision, recall and F1, the latter three on average over classes."""
    right = sum(a == b for a, b in pairs) / len(pairs)
    rows = []
    for c in classes:
        hits, taken, there = counted(pairs, c)
        precision = hits / taken if taken else 0.0
        recall = hits / there if there else 0.0
        rows.append((precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0))
    return [right, *np.mean(rows, axis=0)]


NAMES = ["accuracy", "precision", "recall", "f1"]


@given(case=of_classes())
def test_of_several_classes(case):
    scores, labels = case
    predicted = [max(range(len(row)), key=row.__getitem__) for row in scores.tolist()]
    pairs = list(zip(predicted, labels.tolist(), strict=True))
    expected = definitions(pairs, sorted({*predicted, *labels.tolist()}))
    found = named_metrics(NAMES, None)
    assert [f(scores, labels) for f in found.values()] == pytest.approx(expected)
    for k in range(1, scores.shape[1] + 1):
        best = [sorted(range(len(row)), key=row.__getitem__)[-k:] for row in scores.tolist()]
        wanted = np.mean([label in some for some, label in zip(best, labels, strict=True)])
        (top,) = named_metrics([f"top_{k}"], None).values()
        assert top(scores, labels) == pytest.approx(wanted)
        stacked = np.stack([scores, scores]), np.stack([labels, labels])  # more axes are more examples
        assert top(*stacked) == pytest.approx(wanted)
    assert metrics.accuracy(np.stack([scores, scores]), np.stack([labels, labels])) == pytest.approx(expected[0])


@given(case=of_two())
def test_of_two_classes(case):
    scores, labels = case
    pairs = list(zip((scores > 0).reshape(-1).tolist(), (labels == 1).reshape(-1).tolist(), strict=True))
    expected = definitions(pairs, [True])
    assert [f(scores, labels) for f in named_metrics(NAMES, None).values()] == pytest.approx(expected)

    def binary_cross_entropy(probabilities, labels):
        raise NotImplementedError

    probabilities = 1 / (1 + np.exp(-scores))
    assert [f(probabilities, labels) for f in named_metrics(NAMES, binary_cross_entropy).values()] == pytest.approx(
        expected
    )


@given(n=st.integers(2, 9), features=st.sampled_from([(), (1,), (3,)]), seed=st.integers(0, 99))
def test_of_numbers(n, features, seed):
    rng = np.random.default_rng(seed)
    target = rng.standard_normal((n, *features))
    prediction = target + rng.standard_normal(target.shape)
    found = {name: f(prediction, target) for name, f in named_metrics(["mae", "mse", "r2"], None).items()}
    errors = (prediction - target).reshape(-1).tolist()
    assert found["mae"] == pytest.approx(math.fsum(map(abs, errors)) / len(errors))
    assert found["mse"] == pytest.approx(math.fsum(e * e for e in errors) / len(errors))
    columns = zip(prediction.reshape(n, -1).T, target.reshape(n, -1).T, strict=True)
    expected = [1 - np.var(p - t) / np.var(t) - np.mean(p - t) ** 2 / np.var(t) for p, t in columns]
    assert found["r2"] == pytest.approx(np.mean(expected))
    assert metrics.r2(target, target) == 1.0
    assert metrics.r2(np.ones(n) * 2, np.ones(n)) == 0.0
    assert metrics.r2(np.ones(n), np.ones(n)) == 1.0


def test_scikit_learns_numbers():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((50, 4)), rng.integers(0, 4, 50)
    guess = scores.argmax(-1)
    assert metrics.f1(scores, labels) == pytest.approx(sk.f1_score(labels, guess, average="macro", zero_division=0))
    assert metrics.precision(scores, labels) == pytest.approx(
        sk.precision_score(labels, guess, average="macro", zero_division=0)
    )
    assert metrics.recall(scores, labels) == pytest.approx(
        sk.recall_score(labels, guess, average="macro", zero_division=0)
    )
    assert metrics.r2(scores, scores[::-1]) == pytest.approx(sk.r2_score(scores[::-1], scores))


@pytest.mark.parametrize("name", ["mae", "mse", "r2", "accuracy", "f1", "precision", "recall", "top_2"])
def test_shapes_that_would_be_broadcast_are_refused(name):
    (metric,) = named_metrics([name], None).values()
    with pytest.raises(ValueError, match=r"predictions of shape \(5, 1\)"):
        metric(np.zeros((5, 1)), np.zeros(5, int))


def test_names():
    def error(prediction, target):
        return 0.0

    assert list(named_metrics([error, "f1"], None)) == ["error", "f1"]
    assert list(named_metrics("accuracy", None)) == ["accuracy"]
    named = named_metrics({"a": error, "b": "mae"}, None)
    assert named["a"] is error
    assert named["b"](np.array([1.0, 4.0]), np.array([2.0, 2.0])) == 1.5
    assert named_metrics(None, None) == {}
    with pytest.raises(ValueError, match="there is no metric 'acc'; there are accuracy"):
        named_metrics(["acc"], None)
    with pytest.raises(ValueError, match="give the metric another name"):
        named_metrics({"loss": error}, None)
    higher = {
        name
        for name in ["loss", "mae", "mse", "r2", "accuracy", "f1", "top_3", "error"]
        if is_better_when_higher(f"validation_{name}")
    }
    assert higher == {"r2", "accuracy", "f1", "top_3"}


def test_a_history_has_them_and_early_stopping_knows_which_way_is_better():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)).astype(np.float32), rng.integers(0, 3, 30)
    model = nn.Dense(4, 3, rng=0)
    history = tg.fit(
        model, (x, y), tg.cross_entropy, optim.Adam(model.parameters(), 0.1), 3, metrics=["accuracy", "top_2"],
        validation=(x, y), early_stopping=tg.EarlyStopping(5, "validation_accuracy"), progress=False, rng=0,
    )  # fmt: skip
    best = max(history["validation_accuracy"])
    assert tg.evaluate(model, (x, y), tg.cross_entropy, ["accuracy"])["accuracy"] == best
    assert len(history["top_2"]) == len(history["validation_top_2"]) == 3
