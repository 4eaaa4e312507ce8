"""Programs as people bring them along from Keras and PyTorch: several inputs and outputs, triplets, tagged sequences."""

from __future__ import annotations

import functools
import traceback

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.data import DataLoader

RNG = np.random.default_rng(0)


def fitted(model, data, loss, epochs=2, **options):
    """The history."""
    options = {"rng": 0, "progress": False, "batch_size": 16, **options}
    return tg.fit(model, data, loss, optim.Adam(model.parameters(), 0.01), epochs, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Several inputs by name, several outputs
# ---------------------------------------------------------------------------------------------------------------------

TITLES, BODIES = RNG.integers(0, 50, (60, 5)), RNG.standard_normal((60, 6)).astype(np.float32)
TARGETS = {"priority": (BODIES[:, :1] > 0).astype(np.float32), "department": TITLES[:, 0] % 3}
TICKETS = {"title": TITLES, "body": BODIES, "target": TARGETS}


class Tickets(nn.Module):
    """How urgent a ticket is, and whose it is, from its title and its body."""

    def __init__(self):
        self.title, self.body = nn.Embedding(50, 8, rng=0), nn.Dense(6, 8, "relu", rng=1)
        self.priority, self.department = nn.Dense(16, 1, rng=2), nn.Dense(16, 3, rng=3)

    def forward(self, title, body):
        h = np.concatenate([np.mean(self.title(title), axis=1), self.body(body)], axis=-1)
        return {"priority": self.priority(h), "department": self.department(h)}


def of_both(prediction, target):
    urgent = tg.binary_cross_entropy_with_logits(prediction["priority"], target["priority"])
    return urgent + tg.cross_entropy(prediction["department"], target["department"])


def right(prediction, target):
    return np.mean(prediction["department"].argmax(-1) == target["department"])


def test_several_inputs_and_outputs_by_name(tmp_path):
    expected, model = Tickets(), Tickets()
    options = {"validation": 0.2, "metrics": [right]}
    whole = fitted(expected, TICKETS, of_both, 4, **options)
    fitted(model, TICKETS, of_both, 2, checkpoint=tmp_path, **options)
    assert dict(fitted(model, TICKETS, of_both, 4, checkpoint=tmp_path, resume=True, **options)) == dict(whole)
    assert list(whole) == ["loss", "right", "learning_rate", "validation_loss", "validation_right"]
    found = tg.predict(model, {"title": TITLES, "body": BODIES}, batch_size=7)
    alone = model(TITLES, BODIES)
    for name in ("priority", "department"):
        np.testing.assert_allclose(found[name], alone[name].data, rtol=1e-5, atol=1e-6)
    measured = tg.evaluate(model, TICKETS, of_both, [right], batch_size=7)
    assert measured["loss"] == pytest.approx(of_both(alone, TARGETS).item(), rel=1e-5)
    assert measured["right"] == right({name: p.data for name, p in alone.items()}, TARGETS)


def test_a_metric_by_name_says_that_it_is_of_arrays():
    with pytest.raises(
        TypeError, match="the metric 'accuracy' is of arrays, and the prediction is a dict; give a func"
    ):
        fitted(Tickets(), TICKETS, of_both, metrics=["accuracy"])


@pytest.mark.parametrize("compile", ["auto", False])
def test_inputs_that_the_model_does_not_take_are_told_once(compile):
    """Named inputs beside the target, as Keras has them; and no target."""
    beside = ({"title": TITLES, "body": BODIES}, TARGETS)
    with pytest.raises(
        TypeError, match=r"fit: Tickets.forward\(title, body\) does not take 1 input, a dict of 'title'"
    ):
        fitted(Tickets(), beside, of_both, compile=compile)
    with pytest.raises(TypeError, match=r"evaluate: Tickets\.forward"):
        fitted(Tickets(), TICKETS, of_both, validation=beside, compile=compile)
    with pytest.raises(TypeError, match=r"predict: .* an ndarray: missing a required argument: 'body'"):
        tg.predict(Tickets(), TITLES)
    with pytest.raises(
        TypeError, match=r"The last part of a tuple is the target \(zeros, where the loss asks for none"
    ):
        fitted(Triplet(), (BODIES, BODIES, BODIES), lambda out, _: out, compile=compile)


def test_an_error_of_the_model_is_one_traceback():
    class Broken(nn.Module):
        def __init__(self):
            self.layer = nn.Dense(6, 3, rng=0)

        def forward(self, x):
            return self.layer(x[:, :5])

    with pytest.raises(ValueError, match="did you mean") as caught:
        fitted(Broken(), (BODIES, TARGETS["department"]), tg.cross_entropy)
    assert "During handling" not in "".join(traceback.format_exception(caught.value))


# ---------------------------------------------------------------------------------------------------------------------
# One network for several inputs
# ---------------------------------------------------------------------------------------------------------------------


class Triplet(nn.Module):
    """One encoder for an anchor, what is like it, and what is not."""

    def __init__(self):
        self.encoder = nn.Sequential(nn.Dense(6, 8, "tanh", rng=0), nn.Dense(8, 4, rng=1))

    def forward(self, anchor, positive, negative):
        return tuple(map(self.encoder, (anchor, positive, negative)))


class Triples:
    """Examples one by one; what the loss does not ask for is a number that stands there."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return BODIES[i], BODIES[i] + np.float32(0.1), BODIES[(i + 7) % 60], 0.0


def apart(out, _):
    return nn.TripletMarginLoss(swap=True)(*out)


def test_triplets_through_one_encoder_train_as_by_hand():
    model, by_hand = Triplet(), Triplet()
    found = fitted(model, Triples(), apart, 3)
    optimizer, losses = optim.Adam(by_hand.parameters(), 0.01), []
    loader = DataLoader(Triples(), 16, shuffle=True, rng=0)
    for _ in range(3):
        total = 0.0
        for *inputs, zeros in loader:
            loss = apart(by_hand(*inputs), zeros)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(zeros)
        losses.append(total / 40)
    assert found["loss"] == pytest.approx(losses, rel=1e-4)
    assert found["loss"][-1] < found["loss"][0]


# ---------------------------------------------------------------------------------------------------------------------
# Tagged sequences of different lengths
# ---------------------------------------------------------------------------------------------------------------------

WORDS = [RNG.integers(1, 30, length) for length in RNG.integers(2, 9, 48)]
TAGS = [words % 3 for words in WORDS]


class Tagger(nn.Module):
    def __init__(self):
        self.embedding, self.gru = nn.Embedding(30, 6, padding_idx=0, rng=0), nn.GRU(6, 4, bidirectional=True, rng=1)
        self.head = nn.Dense(8, 3, rng=2)

    def forward(self, words, mask):
        return self.head(self.gru(self.embedding(words), mask=mask)[0])


def loader(ignored, buckets=2, batch_size=16, shuffle=True):
    return DataLoader((WORDS, TAGS), batch_size, shuffle, 0, buckets=buckets, padding=(0, ignored))


def losses(ignored):
    return [nn.CrossEntropyLoss(ignore_index=ignored), functools.partial(tg.cross_entropy, ignore_index=ignored)]


@pytest.mark.parametrize("ignored", [-100, -1])
@pytest.mark.parametrize("kind", [0, 1])
def test_weights_of_one_change_nothing_where_padding_is_left_out(ignored, kind):
    loss, ones = losses(ignored)[kind], dict.fromkeys(range(3), 1.0)
    plain = fitted(Tagger(), loader(ignored), loss)["loss"]
    assert fitted(Tagger(), loader(ignored), loss, class_weight=ones)["loss"] == pytest.approx(plain, rel=1e-5)


def test_weights_of_classes_and_sequences_without_their_padding():
    """The loss of a padded batch is the mean over its words of weight times loss, whatever it is padded to."""
    model, classes = Tagger(), {1: 3.0}
    for length in (8, 13):
        (batch,) = loader(-100, [length], 48)
        history = fitted(Tagger(), lambda batch=batch: iter([batch]), losses(-100)[0], 1, class_weight=classes)
        expected = []
        for words, tags in zip(WORDS, TAGS, strict=True):
            logits = model(words[None], np.ones((1, len(words)), bool))
            each = tg.cross_entropy(logits, tags[None], reduction="none").data[0]
            expected += list(each * np.where(tags == 1, 3, 1))
        assert history["loss"] == pytest.approx([np.mean(expected)], rel=1e-5)


@pytest.mark.parametrize("name", ["accuracy", "f1", "precision", "recall", "top_2"])
def test_metrics_are_of_words_not_of_padding(name):
    """In validation, too, where batches have different lengths."""
    model, loss = Tagger(), losses(-100)[0]
    found = tg.evaluate(model, loader(-100, 3, 9, shuffle=False), loss, [name])
    predicted = [model(w[None], np.ones((1, len(w)), bool)).data[0] for w in WORDS]
    alone = tg.evaluate(Given(), (np.concatenate(predicted), np.concatenate(TAGS)), tg.cross_entropy, [name])
    assert found[name] == pytest.approx(alone[name], rel=1e-6)
    history = fitted(Tagger(), loader(-100), loss, metrics=[name], validation=loader(-100, 3, shuffle=False))
    assert 0 < history[f"validation_{name}"][-1] <= 1


class Given(nn.Module):
    """What it is given."""

    def forward(self, x):
        return x


def test_batches_of_different_lengths_need_something_to_fill_them_up_with():
    with pytest.raises(ValueError, match=r"evaluate: batches of shapes .* cannot be put together; pad all examples to"):
        tg.evaluate(Tagger(), loader(0), tg.cross_entropy, [lambda p, t: 0.0])
    with pytest.raises(ValueError, match="predict: batches of shapes"):
        tg.predict(Tagger(), lambda: ((words, mask) for words, mask, _ in loader(0)))


def test_a_batch_of_padding_alone_counts_as_nothing_right():
    empty = np.full((2, 3), -1)
    history = fitted(
        Given3(), lambda: iter([(np.zeros((2, 3, 4), np.float32), empty)]), losses(-1)[0], 1,
        metrics=["accuracy", "top_2"], class_weight={0: 2.0},
    )  # fmt: skip
    assert (history["loss"], history["accuracy"], history["top_2"]) == ([0.0], [0.0], [0.0])


class Given3(nn.Module):
    def __init__(self):
        self.layer = nn.Dense(4, 3, rng=0)

    def forward(self, x):
        return self.layer(x)
