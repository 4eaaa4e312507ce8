"""`fit` by compiled steps is `fit` by eager ones: the same history, weights and states, whatever is asked of it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import interpreted

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.compiler.threads import pool, shares
from tinygrad_mm.debug import AnomalyError
from tinygrad_mm.training import EarlyStopping, fit
from tinygrad_mm.training.stepping import TRACES, Stepper

RNG = np.random.default_rng(0)
X = RNG.standard_normal((23, 5))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
WEIGHTS = RNG.random(23)

OPTIMIZERS = {
    "SGD": lambda ps: optim.SGD(ps, 0.1),
    "momentum": lambda ps: optim.SGD(ps, optim.cosine(0.1, steps=20), momentum=0.9, weight_decay=0.01),
    "Adam": lambda ps: optim.Adam(ps, 0.01),
    "AdamW": lambda ps: optim.AdamW(ps, 0.01, weight_decay=0.1),
    "Lion": lambda ps: optim.Lion(ps, 0.001),
}


def network():
    return nn.Sequential(nn.Dense(5, 6, "tanh", rng=0), nn.LayerNorm(6), nn.Dense(6, 3, rng=1)).to(np.float64)


class Two(nn.Module):
    """Two inputs, by position, by name, or as one tuple; and a parameter that is in use every other time only."""

    def __init__(self):
        self.left, self.right = nn.Dense(2, 3, rng=0).to(np.float64), nn.Dense(3, 3, rng=1).to(np.float64)

    def forward(self, left, right=None):
        left, right = left if right is None else (left, right)
        return {"logits": self.left(left) + self.right(right), "squares": (left * left,)}


def two_loss(prediction, target):
    return tg.cross_entropy(prediction["logits"], target) + 0.1 * np.mean(prediction["squares"][0])


def two_accuracy(prediction, target):
    assert isinstance(prediction["squares"][0], np.ndarray)
    return np.mean(prediction["logits"].argmax(-1) == target)


FORMS = {
    "by position": (X[:, :2], X[:, 2:], Y),
    "by name": {"right": X[:, 2:], "target": Y, "left": X[:, :2]},
    "a tuple": ((X[:, :2], X[:, 2:]), Y),
}


class Watching:
    """Looks at the gradients, changes them, in place or not, or not at all; or the learning rate."""

    def __init__(self, does):
        self.does, self.norms = does, []

    def on_gradients(self, run):
        parameters = run.model.parameters()
        self.norms.append([float(np.sum(p.grad**2)) for p in parameters])
        if self.does == "in place":
            for p in parameters:
                p.grad *= 0.5
        elif self.does == "others":
            for p in parameters:
                p.grad = p.grad * 0.5
        elif self.does == "none" and run.step % 2:
            parameters[0].grad = None
        elif self.does == "rate":
            run.optimizer.learning_rate = 0.01 / (1 + run.step)

    def on_step(self, run):
        assert all(p.grad is None for p in run.model.parameters())


def outcome(compile, model, data, loss, optimizer, **options):
    """All that a run leaves behind, as arrays of float64, by name."""
    watching = options.pop("watching", None)
    callbacks = [
        *options.pop("callbacks", lambda model: [])(model),
        *([] if watching is None else [Watching(watching)]),
    ]
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    history = fit(
        model,
        data,
        loss,
        optimizer,
        batch_size=5,
        rng=3,
        progress=False,
        compile=compile,
        callbacks=callbacks,
        **options,
    )
    states = {
        "the history": dict(history),
        "the model": model.state_dict(),
        "the optimizer": optimizer.state_dict()["state"],
        "averages": [c.state_dict()["state"] for c in callbacks if isinstance(c, optim.ExponentialMovingAverage)],
        "norms": [c.norms for c in callbacks if isinstance(c, Watching)],
        "steps": optimizer.steps,
    }
    return history.stopped, [(leaf.path, np.asarray(leaf.value, np.float64)) for leaf in tg.pytree.flatten(states)]


def assert_same(one, other):
    assert one[0] == other[0]
    assert [name for name, _ in one[1]] == [name for name, _ in other[1]]
    for (name, a), (_, b) in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=name)


options = st.fixed_dictionaries(
    {},
    optional={
        "clip_norm": st.sampled_from([0.05, 0.5, 50.0]),
        "accumulate": st.integers(1, 4),
        "watching": st.sampled_from(["nothing", "in place", "others", "none", "rate"]),
        "metrics": st.sampled_from([["accuracy", "f1"], {"right": "accuracy"}]),
        "validation": st.sampled_from([0.3, (X, Y)]),
        "class_weight": st.sampled_from([{0: 2.0, 2: 0.5}]),
        "sample_weight": st.just(WEIGHTS),
        "early_stopping": st.sampled_from([EarlyStopping(0, threshold=0.2)]).map(
            lambda _: EarlyStopping(0, threshold=0.2)
        ),
        "callbacks": st.just(lambda model: [optim.ExponentialMovingAverage(model, decay=0.9)]),
    },
)


@settings(max_examples=40, deadline=None)
@given(options=options, optimizer=st.sampled_from([*OPTIMIZERS]), epochs=st.integers(1, 3))
def test_compiled_and_eager_runs_are_the_same(options, optimizer, epochs):
    def run(compile):
        own = dict(options)
        if "early_stopping" in own:
            own["early_stopping"] = EarlyStopping(0, threshold=0.2)
        return outcome(compile, network(), (X, Y), tg.cross_entropy, optimizer, epochs=epochs, **own)

    assert_same(run(True), run(False))


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_every_form(form):
    def run(compile):
        return outcome(compile, Two(), FORMS[form], two_loss, "Adam", epochs=2, metrics={"accuracy": two_accuracy})

    assert_same(run(True), run(False))


@pytest.mark.parametrize("watching", [None, "in place", "none"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_with_the_loops_of_the_numba_backend(optimizer, watching):
    def run(compile, **options):
        return outcome(compile, network(), (X, Y), tg.cross_entropy, optimizer, watching=watching, **options)

    with interpreted():
        assert_same(run(True, backend="numba", clip_norm=0.5), run(False, clip_norm=0.5))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("options", [{}, {"watching": "in place"}, {"accumulate": 3}, {"watching": "others"}])
def test_with_threads_that_share_a_batch(monkeypatch, backend, options):
    """The gradients that are looked at are those of all shares together."""
    monkeypatch.setattr(pool, "threads", lambda: 2)
    for name in ("ELEMENTS", "IN_A_CALL", "FOR_A_PARAMETER"):
        monkeypatch.setattr(shares, name, 0)
    made = []
    joined = shares.Shares._joined
    monkeypatch.setattr(shares.Shares, "_joined", lambda self, found: made.append(self.parts) or joined(self, found))

    def run(compile, **more):
        model = nn.Sequential(nn.Dense(5, 6, "tanh", rng=0), nn.Dense(6, 3, rng=1)).to(np.float64)
        data = tg.data.DataLoader((X[:20], Y[:20]), 4)
        return outcome(
            compile, model, data, tg.cross_entropy, "Adam", epochs=2, metrics=["accuracy"], **options, **more
        )

    with interpreted():
        assert_same(run(True, backend=backend), run(False))
    assert set(made) == {2}


@settings(max_examples=20, deadline=None)
@given(batch_size=st.integers(1, 6), accumulate=st.integers(2, 5), compiled=st.booleans())
def test_accumulated_batches_are_one_large_batch(batch_size, accumulate, compiled):
    """The last batch of an epoch is smaller, and so may be the last group."""
    found = []
    for size, times in ((batch_size, accumulate), (batch_size * accumulate, 1)):
        model = network()
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        fit(
            model, tg.data.DataLoader((X, Y), size), tg.cross_entropy, optimizer, 2, accumulate=times, clip_norm=0.2,
            compile=compiled, progress=False,
        )  # fmt: skip
        found.append((model.state_dict(), optimizer.steps))
    assert found[0][1] == found[1][1]
    for name, array in found[0][0].items():
        np.testing.assert_allclose(array, found[1][0][name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_norm_is_clipped_before_callbacks_look():
    watching = Watching("nothing")
    model = network()
    fit(
        model, (X, Y), tg.cross_entropy, OPTIMIZERS["SGD"](model.parameters()), clip_norm=1e-3, callbacks=[watching],
        progress=False,
    )  # fmt: skip
    assert [np.sqrt(sum(parts)) for parts in watching.norms] == pytest.approx([1e-3] * len(watching.norms))


def test_weights_of_one_change_nothing_and_weights_count_as_repetitions():
    def trained(data, **options):
        model = network()
        loader_size = len(data[0])
        optimizer = OPTIMIZERS["SGD"](model.parameters())
        fit(model, data, nn.CrossEntropyLoss(), optimizer, 2, batch_size=loader_size, rng=0, progress=False, **options)
        return model.state_dict()

    def same(one, other):
        for name, array in one.items():
            np.testing.assert_allclose(array, other[name], rtol=1e-9, atol=1e-12, err_msg=name)

    plain = trained((X, Y))
    same(plain, trained((X, Y), sample_weight=np.ones(23), class_weight={0: 1.0}))
    times = np.arange(23) % 3
    repeated = trained((np.repeat(X, times, 0), np.repeat(Y, times)))
    same(repeated, trained((X, Y), sample_weight=times * (23 / times.sum())))
    by_class = {0: 2.0, 1: 0.0}
    same(trained((X, Y), class_weight=by_class), trained((X, Y), sample_weight=np.array([2.0, 0.0, 1.0])[Y]))
    with pytest.raises(TypeError, match="reduction='none'"):
        outcome("auto", network(), (X, Y), lambda p, t: np.mean(p), "SGD", class_weight={0: 1.0})


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be compiled
# ---------------------------------------------------------------------------------------------------------------------


class Looks(nn.Module):
    """Looks at values, which a trace refuses."""

    def __init__(self):
        self.layer = nn.Dense(5, 3, rng=0).to(np.float64)

    def forward(self, x):
        y = self.layer(x)
        return y if y.sum() > 0 else y * 2


def test_a_model_that_cannot_be_traced_is_trained_eagerly_and_that_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "tinygrad_mm.fit"):
        found = outcome("auto", Looks(), (X, Y), tg.cross_entropy, "Adam", epochs=3)
    assert len(caplog.records) == 1
    assert "keep the computation in Tensors" in caplog.text
    assert_same(found, outcome(False, Looks(), (X, Y), tg.cross_entropy, "Adam", epochs=3))
    with pytest.raises(TypeError, match="keep the computation in Tensors"):
        outcome(True, Looks(), (X, Y), tg.cross_entropy, "Adam", epochs=3)
    assert len(caplog.records) == 1


def test_the_models_own_errors_are_raised_as_they_are(caplog):
    with pytest.raises(ValueError, match="784"):
        outcome("auto", nn.Dense(784, 3, rng=0), (X.astype(np.float32), Y), tg.cross_entropy, "Adam")
    assert not caplog.records
    with pytest.raises(ValueError, match="compile='maybe' must be"):
        outcome("maybe", network(), (X, Y), tg.cross_entropy, "Adam")


def test_batches_of_ever_new_shapes_are_not_compiled_for_ever(caplog):
    def batches():
        for i in range(2 * TRACES):
            yield X[:1].repeat(i + 1, 0), Y[:1].repeat(i + 1)

    def run(compile):
        return outcome(compile, network(), batches, tg.cross_entropy, "Adam")

    with caplog.at_level(logging.WARNING, "tinygrad_mm.fit"):
        found = run("auto")
    assert len(caplog.records) == 1
    assert "buckets" in caplog.text
    assert_same(found, run(False))


def test_a_wrong_program_is_found_and_the_eager_gradients_are_used(monkeypatch):
    """Callbacks see what the eager engine has found; they are called once a step."""
    wrong = tg.step.plan.place_gradient

    def misplaced(program, parameter, value, name, array):
        wrong(program, parameter, value, name, array)
        for op in program.ops:
            if op.fun is np.tanh:
                op.fun = np.sin

    expected = outcome(False, network(), (X, Y), tg.cross_entropy, "Adam", epochs=2, watching="in place")
    monkeypatch.setattr(tg.step.plan, "place_gradient", misplaced)
    with pytest.warns(tg.CompileWarning, match="the loss is"):
        found = outcome("auto", network(), (X, Y), tg.cross_entropy, "Adam", epochs=2, watching="in place")
    assert_same(found, expected)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers that are none; changes from outside
# ---------------------------------------------------------------------------------------------------------------------


class Root(nn.Module):
    """sqrt(x w): its gradient is infinite where x w is 0."""

    def __init__(self):
        self.weight = tg.Parameter(np.ones((1, 1)))

    def forward(self, x):
        return np.sqrt(x @ self.weight)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"accumulate": 2}])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_gradient_that_is_not_finite_changes_nothing(backend, options, at):
    """In steps that are verified, and in later ones."""
    x = np.ones((5, 2, 1))
    x[at] = 0
    model = Root()
    before = []

    class Remember:
        def on_step(self, run):
            before.append(model.weight.item())

    with (
        interpreted(),
        np.errstate(all="ignore"),
        pytest.raises(
            AnomalyError, match=f"step {at + 1} .in epoch 1.: the gradient of weight is not finite"
        ) as caught,
    ):
        fit(
            model, lambda: ((part, part) for part in x), nn.MSELoss(), optim.Adam(model.parameters(), 0.01),
            compile=True, backend=backend, callbacks=[Remember()], progress=False, **options,
        )  # fmt: skip
    assert caught.value.operation == "sqrt"
    assert model.weight.item() == (before[-1] if before else 1.0)
    assert model.weight.grad is None


def test_weights_that_are_put_in_from_outside_need_no_new_program():
    model = network()
    average = optim.ExponentialMovingAverage(model, decay=0.9)

    def look(run):
        with average.swapped():
            tg.evaluate(model, (X, Y), tg.cross_entropy)
        model.load_state_dict(model.state_dict())

    counts = []
    fit(
        model, tg.data.DataLoader((X, Y), 5), tg.cross_entropy, optim.Adam(model.parameters()), 4, progress=False,
        callbacks=[average, look, lambda run: counts.append(run.stepper.compiled.traces)],
    )  # fmt: skip
    assert counts == [2, 2, 2, 2]  # for batches of 5 and of 3


# ---------------------------------------------------------------------------------------------------------------------
# Models that are compiled already
# ---------------------------------------------------------------------------------------------------------------------


def test_a_step_and_a_compiled_model_are_taken_as_the_model_inside():
    def by_hand():
        model = network()
        return model, optim.Adam(model.parameters(), 0.01)

    model, optimizer = by_hand()
    expected = dict(fit(model, (X, Y), tg.cross_entropy, optimizer, 2, rng=0, progress=False))
    model, optimizer = by_hand()
    step = tg.compile_step(model, tg.cross_entropy, optimizer)
    assert dict(fit(step, (X, Y), epochs=2, rng=0, progress=False)) == expected
    assert tg.evaluate(step, (X, Y), tg.cross_entropy) == tg.evaluate(model, (X, Y), tg.cross_entropy)
    model, optimizer = by_hand()
    compiled = tg.compile(model)
    assert dict(fit(compiled, (X, Y), tg.cross_entropy, optimizer, 2, rng=0, progress=False)) == expected
    np.testing.assert_array_equal(tg.predict(compiled, X), model(X).data)
    with pytest.raises(TypeError, match="needs a loss and an optimizer"):
        fit(compiled, (X, Y))
    with pytest.raises(TypeError, match="the model is a function"):
        fit(tg.compile(lambda x: x), (X, Y), tg.cross_entropy, optimizer)


def test_the_backend_and_the_verification_are_those_of_the_step(monkeypatch):
    seen = []
    init = Stepper.__init__

    def noted(self, *args, **options):
        seen.append((options["backend"], options["verify"]))
        init(self, *args, **options)

    monkeypatch.setattr(Stepper, "__init__", noted)
    with interpreted():
        model = network()
        step = tg.compile_step(model, tg.cross_entropy, optim.SGD(model.parameters()), backend="numba", verify=False)
        fit(step, (X, Y), progress=False)
        fit(step, (X, Y), backend="numpy", verify=True, progress=False)
        fit(tg.compile(model, backend="numba"), (X, Y), tg.cross_entropy, step.optimizer, progress=False)
    assert seen == [("numba", False), ("numpy", True), ("numba", True)]


def test_half_precision_accumulates_in_single():
    """The sum of many gradients would be beyond float16; their average is not."""

    class Weight(nn.Module):
        def __init__(self):
            self.weight = tg.Parameter(np.ones(1, np.float16))

        def forward(self, x):
            return x * self.weight

    x = np.full((400, 1), 300, np.float16)
    weights = []
    for compile in (True, False):
        model = Weight()
        fit(
            model, tg.data.DataLoader((x, x), 100), lambda p, t: np.mean(p.astype(np.float32)),
            optim.SGD(model.parameters(), 1e-3), accumulate=4, compile=compile, progress=False,
        )  # fmt: skip
        weights.append(model.weight.item())
    assert weights == pytest.approx([0.7, 0.7], rel=1e-3)


def test_an_optimizer_that_lacks_parameters_is_warned_of_once():
    model = network()
    optimizer = optim.SGD(model[0].parameters(), 0.1)
    with pytest.warns(UserWarning, match="fit: the optimizer lacks") as caught:
        fit(model, (X, Y), tg.cross_entropy, optimizer, progress=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_gradient_hooks_are_called_so_the_steps_are_eager(caplog):
    model = network()
    seen = []
    model[0].weight.register_hook(lambda g: seen.append(1) or g)
    with caplog.at_level(logging.WARNING, "tinygrad_mm.fit"):
        fit(model, (X, Y), tg.cross_entropy, optim.SGD(model.parameters()), batch_size=23, progress=False)
    assert "gradient hook" in caplog.text
    assert seen == [1]
