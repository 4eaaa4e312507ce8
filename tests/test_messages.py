"""Mistakes that learners make, and what they are told: each message names the mistake and the fix, not its consequence."""

from __future__ import annotations

import copy
import pickle
import re
import warnings

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.data import DataLoader

X, Y = np.ones((8, 2), np.float32), np.zeros((8, 1), np.float32)
ONE_HOT = np.eye(3, dtype=np.int64)[[0, 1, 2, 0, 1, 2, 0, 1]]
TEXT = np.array(list("abcabcab"))


def logits():
    return tg.Tensor(np.zeros((8, 3), np.float32), requires_grad=True)


def layer():
    return nn.Dense(2, 1, rng=0)


def sgd(model):
    return optim.SGD(model.parameters(), 0.1)


def fit(model=None, loss=None, optimizer=None):
    model = layer() if model is None else model
    optimizer = sgd(model) if optimizer is None else optimizer
    return tg.fit(model, (X, Y), loss or nn.MSELoss(), optimizer, 1, progress=False)


def step(model=None, loss=None, optimizer=None):
    model = layer() if model is None else model
    optimizer = sgd(model) if optimizer is None else optimizer
    return tg.compile_step(model, loss or nn.MSELoss(), optimizer)(X, Y)


def released():
    w = tg.Tensor(2.0, requires_grad=True)
    y = w * w
    (y * 2).backward()
    return y


def unrecorded():
    w = tg.Tensor(2.0, requires_grad=True)
    return tg.gradients(w * w * w, w)


RELEASED = r"backward pass of their sum; .* h\.detach\(\); make pictures .* before backward\(\); .*retain_graph=True"
MISTAKES = {
    "integer one-hot": (
        lambda: tg.cross_entropy(logits(), ONE_HOT),
        ValueError,
        r"floating probabilities of shape \(8, 3\); these labels are int64 .*astype\(np\.float32\).*argmax\(axis=-1\)",
    ),
    "boolean one-hot": (
        lambda: tg.cross_entropy(logits(), ONE_HOT > 0, label_smoothing=0.1),
        ValueError,
        r"these labels are bool of shape \(8, 3\): as probabilities write labels\.astype\(np\.float32\)",
    ),
    "a column of labels": (
        lambda: tg.nll_loss(logits(), ONE_HOT[:, :1]),
        ValueError,
        r"these labels are int64 of shape \(8, 1\): write labels\[\.\.\., 0\]",
    ),
    "text labels": (lambda: tg.cross_entropy(logits(), TEXT), TypeError, r"labels of dtype <U1 .*np\.unique\("),
    "text targets": (lambda: tg.l1_loss(logits()[:, 0], TEXT), TypeError, "targets of dtype <U1 are no numbers"),
    "negative codes": (lambda: nn.Embedding(5, 3)(np.array([-1, 7])), IndexError, r"-1\.\.7.* none may be negative$"),
    "large codes": (lambda: nn.Embedding(5, 3)(np.array([7])), IndexError, r"did you mean Embedding\(8, 3\)\?"),
    "backward twice": (lambda: (released() * 3).backward(), RuntimeError, RELEASED),
    "a picture after backward": (lambda: tg.draw(released()), RuntimeError, RELEASED),
    "an explanation after backward": (lambda: tg.explain(released()), RuntimeError, RELEASED),
    "a second derivative": (lambda: unrecorded().backward(), RuntimeError, r"gradients\(\.\.\., create_graph=True\)"),
    "a computed Tensor pickled": (lambda: pickle.dumps(layer()(X)), TypeError, r"use t\.detach\(\)"),
    "3-D input of a GRUCell": (
        lambda: nn.GRUCell(3, 4)(np.ones((2, 5, 3), np.float32)),
        ValueError,
        r"it needs \(N, 3\), one step of each sequence \(a GRU",
    ),
    "a misfit state": (
        lambda: nn.GRUCell(3, 4)(np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)),
        ValueError,
        r"the state has shape \(3, 4\); for this input it needs \(2, 4\)",
    ),
    "evaluate: a class as loss": (
        lambda: tg.evaluate(layer(), (X, Y), nn.MSELoss),  # type: ignore[arg-type]
        TypeError,
        r"the class MSELoss; make one first: MSELoss\(\)",
    ),
}
for what, train in (("fit", fit), ("compile_step", step)):
    left = r"float\(\), \.item\(\), \.data or \.detach\(\)"
    MISTAKES |= {
        f"{what}: a class as model": (
            lambda train=train: train(nn.Dense, None, sgd(layer())),
            TypeError,
            rf"{what}: the model is the class Dense; make one first",
        ),
        f"{what}: a class as loss": (
            lambda train=train: train(loss=nn.MSELoss),
            TypeError,
            rf"{what}: the loss is the class MSELoss; make one first: MSELoss\(\)",
        ),
        f"{what}: a class as optimizer": (
            lambda train=train: train(optimizer=optim.SGD),
            TypeError,
            rf"{what}: the optimizer is the class SGD; make one first: SGD\(model\.parameters\(\)",
        ),
        f"{what}: a loss that is no function": (
            lambda train=train: train(loss="mse"),
            TypeError,
            rf"{what}: the loss is a str; give a function",
        ),
        f"{what}: a loss that returns a float": (lambda train=train: train(loss=lambda p, t: 0.5), TypeError, left),
        f"{what}: a loss that is no number": (
            lambda train=train: train(loss=lambda p, t: p - t),
            TypeError,
            "one number",
        ),
    }
MISTAKES["fit: a loss without return"] = (lambda: fit(loss=lambda p, t: None), TypeError, "without `return`")
MISTAKES["fit: a detached loss"] = (lambda: fit(loss=lambda p, t: np.mean(p.data - t)), TypeError, left)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_message_names_the_mistake_and_the_fix(mistake):
    make, kind, words = MISTAKES[mistake]
    with pytest.raises(kind, match=f"(?s){words}"):
        make()


@pytest.mark.filterwarnings("ignore:float", "ignore:Conversion of an array")  # matplotlib tries these, then gives up
@pytest.mark.parametrize("plot", ["plot", "scatter", "bar", "imshow"])
def test_a_plot_of_a_computed_tensor_asks_for_detach(plot):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    y = layer()(X)
    draw = getattr(plt, plot)
    with pytest.raises(TypeError, match=r"say t\.detach\(\)"):
        draw(*{"plot": (y,), "scatter": (Y[:, 0], y[:, 0]), "bar": (range(8), y[:, 0]), "imshow": (y,)}[plot])
    plt.close("all")
    plt.plot(y.detach())
    plt.close("all")


def test_a_shallow_copy_of_a_computed_tensor_stays_in_the_graph():
    w = tg.Tensor([1.0, 2.0], requires_grad=True)
    np.sum(copy.copy(w * w)).backward()
    assert w.grad.tolist() == [2, 4]
    assert copy.copy(w).requires_grad


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 3, 3), (0, 2, 3, 3)])
@pytest.mark.parametrize("name", [n for n in nn.init.__all__ if n not in ("generator", "constant")])
def test_a_weight_without_elements_can_start(name, shape):
    assert getattr(nn.init, name)(shape).shape == shape


@pytest.mark.parametrize("function", [abs, np.tanh, round, np.abs, lambda x: x, tg.relu], ids=lambda f: f.__name__)
def test_any_function_is_a_layer(function):
    x = np.linspace(-2, 2, 6, dtype=np.float32).reshape(3, 2)
    inner = nn.Dense(2, 2, rng=0)
    assert np.array_equal(nn.Sequential(inner, function, inner)(x).data, inner(function(inner(x))).data)
    assert np.array_equal(nn.Sequential(function)(tg.Tensor(x)).data, function(tg.Tensor(x)).data)


# ---------------------------------------------------------------------------------------------------------------------
# The optimizer's parameters, and what is frozen
# ---------------------------------------------------------------------------------------------------------------------


def network():
    return nn.Sequential(nn.Dense(2, 3, "relu", rng=0), nn.Dense(3, 1, rng=1))


@pytest.mark.parametrize("train", [fit, step])
@pytest.mark.parametrize("whose", [lambda model: network(), copy.deepcopy], ids=["another", "a copy"])
def test_an_optimizer_of_other_parameters_raises(train, whose):
    model = network()
    with pytest.raises(ValueError, match="has none of the model's parameters, so that nothing would be trained"):
        train(model, None, sgd(whose(model)))


@pytest.mark.parametrize("train", [fit, step])
def test_an_optimizer_whose_parameters_are_frozen_for_now_warns(train):
    """Those of one of two players, while it is the other one's turn."""
    model = network()
    optimizer = optim.SGD(model.layers[0].parameters(), 0.1)
    model.layers[0].freeze()
    with pytest.warns(UserWarning, match=r"the optimizer lacks layers\.1\.weight, layers\.1\.bias"):
        train(model, None, optimizer)


@pytest.mark.parametrize("train", [fit, step])
def test_an_optimizer_of_some_parameters_warns(train):
    model = network()
    optimizer = sgd(model)
    model.layers[1] = nn.Dense(3, 1, rng=2)  # a new head, after the optimizer was made
    with pytest.warns(UserWarning, match=r"the optimizer lacks layers\.1\.weight, layers\.1\.bias"):
        train(model, None, optimizer)
    model.layers[1].freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, None, optimizer)


def test_fit_leaves_frozen_statistics_alone():
    norms = nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False)
    norms[0].freeze()
    model = nn.Sequential(*norms, nn.Dense(2, 1, rng=0))
    modes = []
    x = np.random.default_rng(0).normal(3, 2, (16, 2)).astype(np.float32)
    data = DataLoader((x, x[:, :1]), 8)
    look = lambda run: modes.append([norm.training for norm in norms])
    tg.fit(model, data, nn.MSELoss(), sgd(model), 2, callbacks=[look], progress=False)
    assert modes == [[False, True, True]] * 2
    assert norms[0].running_mean.data.tolist() == [0, 0]
    assert not np.array_equal(norms[1].running_mean.data, [0, 0])


# ---------------------------------------------------------------------------------------------------------------------
# why
# ---------------------------------------------------------------------------------------------------------------------


def test_why_says_that_a_layer_was_not_called():
    model = network()
    loss = np.mean(model.layers[0](X))
    text = str(tg.why(model.layers[1].weight, loss, model=model))
    assert "no operation in the graph was made in layers.1, which was not called" in text
    assert "detach" not in text
    assert "it was not used" in str(tg.why(model.layers[1].weight, loss))


@pytest.mark.parametrize(("activation", "scale", "verdict"), [("sigmoid", 1.0, "tiny"), ("", 4.0, "huge")])
def test_why_counts_what_many_steps_of_one_kind_do_together(activation, scale, verdict):
    layers = [nn.Dense(4, 4, activation or None, rng=i) for i in range(30)]
    for each in layers:
        each.weight.data *= scale
    model = nn.Sequential(*layers)
    loss = np.mean(model(np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)))
    diagnosis = tg.why(layers[0].bias, loss, model=model)
    assert diagnosis.facts["verdict"] == verdict
    name = activation or "matmul"
    assert diagnosis.facts["operation"] == name
    found = re.search(rf"it and (\d+) more {name} .* by (\S+) together, by (\S+) each", str(diagnosis))
    assert found is not None
    count, together, each = int(found[1]) + 1, float(found[2]), float(found[3])
    assert count > 20
    assert np.isclose(each**count, together, rtol=0.3)
