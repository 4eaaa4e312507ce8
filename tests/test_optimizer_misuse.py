"""What an optimizer is told to do by mistake: nothing to update, and something else than parameters."""

from __future__ import annotations

import copy
import inspect
import warnings

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn, optim

ALGORITHMS = [
    a
    for a in vars(optim).values()
    if isinstance(a, type) and issubclass(a, optim.Optimizer) and a is not optim.Optimizer
    if "closure" not in inspect.signature(a.step).parameters
]
EVERY = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.__name__)


def layer():
    return nn.Dense(2, 3, rng=0)


def loss_of(model):
    return np.sum(model(np.ones((4, 2), np.float32)) ** 2)


@EVERY
@pytest.mark.parametrize("case", ["no backward", "zero_grad before", "a copy", "frozen"])
def test_a_step_that_changes_nothing_warns(algorithm, case):
    model = layer()
    optimizer = algorithm(model.parameters())
    trained = copy.deepcopy(model) if case == "a copy" else model
    if case != "no backward":
        loss_of(trained).backward()
    if case == "zero_grad before":
        optimizer.zero_grad()
    if case == "frozen":
        for p in model.parameters():
            p.requires_grad = False
    before = [p.data.copy() for p in model.parameters()]
    with pytest.warns(UserWarning, match=rf"{algorithm.__name__}\.step\(\): nothing was changed, .* 2 parameters"):
        optimizer.step()
    assert all(np.array_equal(b, p.data) for b, p in zip(before, model.parameters(), strict=True))


@EVERY
def test_a_step_that_changes_some_says_nothing(algorithm):
    model, other = layer(), layer()
    optimizer = algorithm([{"parameters": other.parameters()}, {"parameters": model.parameters()}, {"parameters": []}])
    model.bias.requires_grad = False
    for _ in range(3):
        loss_of(model).backward()
        before = model.weight.data.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()
        assert not np.array_equal(before, model.weight.data)
        optimizer.zero_grad()


NO_PARAMETERS = {
    "a module": (layer, r"takes parameters; this is a Dense: pass model\.parameters\(\)"),
    "the class of a module": (lambda: nn.Dense, r"takes parameters; this is the class Dense: pass model\.parameters"),
    "a method": (lambda: layer().parameters, r"this is the method parameters, not called: pass model\.parameters\(\)"),
    "a number": (lambda: 0.1, "takes parameters; this is a float"),
    "a dict by name": (lambda: dict(layer().named_parameters()), r"a dict: pass list\(d\.values\(\)\), or \[d\]"),
    "one group": (lambda: {"parameters": layer().parameters()}, r"a dict: pass list\(d\.values\(\)\), or \[d\]"),
    "a list of modules": (lambda: [layer()], "takes leaf Tensors, such as .*; this is a Dense"),
    "pairs": (lambda: list(layer().named_parameters()), "takes leaf Tensors, such as .*; this is a tuple"),
    "nothing": (list, "there are no parameters to optimize"),
}


@EVERY
@pytest.mark.parametrize("group", [False, True], ids=["alone", "in a group"])
@pytest.mark.parametrize("case", NO_PARAMETERS)
def test_what_holds_no_parameters_is_told_how_to_give_them(algorithm, group, case):
    make, words = NO_PARAMETERS[case]
    if case == "nothing":
        group = False  # one group of several may be empty
    with pytest.raises((TypeError, ValueError), match=words):
        algorithm([{"parameters": make()}] if group else make())


def test_a_generator_and_a_single_tensor_are_lists_of_parameters():
    model = layer()
    assert len(optim.SGD(p for p in model.parameters()).parameters) == 2
    assert optim.SGD(model.weight).parameters[0] is model.weight
    assert optim.SGD({"parameters": model.weight} for _ in range(1)).parameters[0] is model.weight


def test_fit_of_a_model_that_is_used_says_nothing():
    model = layer()
    x, y = np.ones((8, 2), np.float32), np.zeros((8, 3), np.float32)
    tg.fit(model, (x, y), nn.MSELoss(), optim.SGD(model.parameters(), 0.1), 1, progress=False)
