"""What may be done to gradients, parameters and layers between the passes of a training step.

What is expected is worked out from copies: the gradients by `tg.gradients`, which leaves none behind, the update by
hand.
"""

from __future__ import annotations

import copy
import importlib.util
import pickle
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim

RATE = 0.125
FUSED = [False, True] if importlib.util.find_spec("numba") else [False]


def model_and_optimizer(kind=optim.SGD, sizes=(3, 4, 4, 4, 2), **options: Any) -> tuple[Any, Any]:
    layers = [nn.Dense(a, b, "tanh", rng=i) for i, (a, b) in enumerate(pairwise(sizes))]
    model = nn.Sequential(*layers)
    return model, kind(model.parameters(), RATE, **options)


def batch(seed: int, dtype=np.float32) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((5, 3)).astype(dtype), rng.integers(0, 2, 5)


def step(model: Any, optimizer: Any, seed: int = 0) -> None:
    x, y = batch(seed)
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()


ACTIONS = (
    *("keep", "keep a view", "again", "exchange", "share", "turn", "scale", "scale in place", "drop", "freeze", "anew"),
    *("wider", "retain"),
)


@given(
    st.lists(st.lists(st.sampled_from(ACTIONS), max_size=3), min_size=2, max_size=6),
    st.booleans(),
    st.sampled_from(FUSED),
    st.randoms(),
)
def test_whatever_is_done_with_gradients(steps, zero_first, fused, random):
    model, optimizer = model_and_optimizer(fused=fused)
    kept: list[tuple[Any, Any]] = []

    def keep(array: Any) -> None:
        kept.append((array, array.copy()))

    for seed, actions in enumerate(steps):
        parameters = model.parameters()
        x, y = batch(seed)
        for p in parameters:
            p.requires_grad = True
        if zero_first:
            optimizer.zero_grad()
        else:
            for p in parameters:
                p.grad = None
        p, q = random.choice([(a, b) for a in parameters for b in parameters if a.shape == b.shape and a is not b])
        if "anew" in actions:
            p.data = p.data.copy()
            p.value = p.value.copy()  # an array that is not the optimizer's
        if "freeze" in actions:
            q.requires_grad = False
        trained = [a for a in parameters if a.requires_grad]
        expected = [g.data for g in tg.gradients(functional.cross_entropy(model(x), y), trained)]
        loss = functional.cross_entropy(model(x), y)
        loss.backward(retain_graph="retain" in actions)
        for a, g in zip(trained, expected, strict=True):
            np.testing.assert_array_equal(a.grad, g)
        if "keep" in actions:
            keep(p.grad)
        if "keep a view" in actions:
            keep(p.grad[..., 1:])
        if "again" in actions:
            functional.cross_entropy(model(x), y).backward()
            for a, g in zip(trained, expected, strict=True):
                np.testing.assert_array_equal(a.grad, g + g)
            kept = [(array, array.copy()) for array, _ in kept]  # what is kept is what is added to
        if "exchange" in actions:
            p.grad, q.grad = q.grad, p.grad
        if "share" in actions:
            p.grad = q.grad
        if "turn" in actions and p.grad is not None:
            p.grad = p.grad[::-1]
        if "scale" in actions and p.grad is not None:
            p.grad = p.grad * 2
        if "scale in place" in actions and p.grad is not None:
            p.grad *= 2
            kept = [(array, array.copy()) for array, _ in kept]
        if "drop" in actions:
            p.grad = None
        if "wider" in actions and p.grad is not None:
            p.grad = p.grad.astype(np.float64)
        before = [
            (a, a.data.copy(), None if a.grad is None or not a.requires_grad else a.grad.copy()) for a in parameters
        ]
        optimizer.step()
        for a, value, g in before:
            np.testing.assert_array_equal(
                a.data, value if g is None else value - np.float32(RATE) * g.astype(np.float32)
            )
            if g is not None:
                np.testing.assert_array_equal(a.grad, g)  # the step leaves it as it was
    for array, copied in kept:
        np.testing.assert_array_equal(array, copied)


def test_arrays_that_were_changed_themselves():
    model, optimizer = model_and_optimizer()
    for change in range(3):
        for seed in range(2):
            step(model, optimizer, seed)
            optimizer.zero_grad()
        step(model, optimizer)
        if change == 0:
            model[1].weight.grad.flags.writeable = model[2].bias.grad.flags.writeable = False
        elif change == 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                model[1].weight.grad.shape = (16,)
        optimizer.zero_grad()
        x, y = batch(5)
        expected = [g.data for g in tg.gradients(functional.cross_entropy(model(x), y), model.parameters())]
        functional.cross_entropy(model(x), y).backward()
        before = [p.data - np.float32(RATE) * g for p, g in zip(model.parameters(), expected, strict=True)]
        optimizer.step()
        for p, value in zip(model.parameters(), before, strict=True):
            np.testing.assert_array_equal(p.data, value)
        optimizer.zero_grad()


def test_a_weight_of_two_layers():
    model, optimizer = model_and_optimizer(sizes=(3, 3, 3, 3))
    model[2].weight = model[1].weight
    optimizer = optim.SGD(model.parameters(), RATE)
    for seed in range(3):
        x, y = batch(seed)
        optimizer.zero_grad()
        expected = [g.data for g in tg.gradients(functional.cross_entropy(model(x), y), model.parameters())]
        functional.cross_entropy(model(x), y).backward()
        for p, g in zip(model.parameters(), expected, strict=True):
            np.testing.assert_allclose(p.grad, g, rtol=1e-6)
        optimizer.step()


def test_two_optimizers_over_the_same_parameters():
    model, first = model_and_optimizer()
    second = optim.SGD(model.parameters(), RATE)
    for optimizer in [first, second, second, first, second]:
        optimizer.zero_grad()
        x, y = batch(0)
        functional.cross_entropy(model(x), y).backward()
        before = [(p, p.data - np.float32(RATE) * p.grad) for p in model.parameters()]
        optimizer.step()
        for p, expected in before:
            np.testing.assert_array_equal(p.data, expected)


def test_copies_have_gradients_of_their_own():
    model, optimizer = model_and_optimizer()
    step(model, optimizer)
    grads = [p.grad.copy() for p in model.parameters()]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for p in twin.parameters():
            p.grad = None
        step(twin, optim.SGD(twin.parameters(), RATE), 5)
    for p, g in zip(model.parameters(), grads, strict=True):
        np.testing.assert_array_equal(p.grad, g)


def leaves(dtype: Any = np.float64) -> list[Any]:
    """An input, a weight and a bias."""
    rng = np.random.default_rng(0)
    return [tg.Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True) for shape in ((1, 3), (3, 4), (4,))]


def layer(x: Any, weight: Any, bias: Any) -> Any:
    return np.tanh(x @ weight + bias)


def test_gradients_are_nobody_elses():
    """Rules hand their gradient on, views of it too; what is left in `.grad` is an array of its own."""
    a, b, c = (tg.Tensor(np.ones((1, 3)), requires_grad=True) for _ in range(3))
    given = np.ones((1, 3))
    y = a + b + c.reshape(3).reshape(1, 3)
    y.retain_grad().backward(given)
    arrays = [given, y.data, *(t.grad for t in (a, b, c, y))]
    assert not any(np.may_share_memory(one, other) for i, one in enumerate(arrays) for other in arrays[:i])


@pytest.mark.parametrize("frozen", range(3))
def test_a_leaf_that_was_frozen_after_the_forward_pass_gets_no_gradient(frozen):
    tensors = leaves()
    expected = [g.data for g in tg.gradients(np.sum(layer(*tensors)), tensors)]
    loss = np.sum(layer(*tensors))
    tensors[frozen].requires_grad = False
    loss.backward()
    for i, (t, g) in enumerate(zip(tensors, expected, strict=True)):
        assert t.grad is None if i == frozen else np.array_equal(t.grad, g)


def test_what_is_frozen_is_not_computed():
    x, weight, bias = (tg.Tensor(np.full(s, 0.5, np.float32), requires_grad=True) for s in ((2, 3), (3, 4), (4,)))
    y = x @ weight + bias
    weight.requires_grad = bias.requires_grad = False
    with np.errstate(all="raise"):  # a sum of the rows would overflow
        y.backward(np.full((2, 4), [3e38, 0, 0, 0], np.float32))
    assert weight.grad is bias.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("i", range(3))
def test_a_leaf_that_was_changed_after_the_forward_pass_is_noticed(i):
    tensors = leaves()
    loss = np.sum(layer(*tensors))
    tensors[i].data = tensors[i].data * 2
    with pytest.raises(RuntimeError, match=f"was changed after {'add' if i == 2 else 'matmul'} had read it"):
        loss.backward()
    assert all(t.grad is None for t in tensors)


def test_a_layer_used_twice_and_one_whose_input_is_its_weight():
    _, weight, bias = leaves()
    square, row = tg.Tensor(weight.data[:, :3], requires_grad=True), tg.Tensor(bias.data[:3], requires_grad=True)
    for x in (tg.Tensor(np.ones((2, 3)), requires_grad=True), square):
        tg.testing.check_grads(lambda x, w, b: layer(layer(x, w, b), w, b), [x.data, square.data, row.data], order=2)
    loss = np.sum(layer(square, square, row))
    loss.backward()
    apart = [tg.Tensor(a.data, requires_grad=True) for a in (square, square, row)]
    one, other, _ = (g.data for g in tg.gradients(np.sum(layer(*apart)), apart))
    np.testing.assert_allclose(square.grad, one + other)


def test_other_biases():
    dense = nn.Dense(3, 4, "tanh", rng=0)
    x = np.ones((2, 3), np.float32)
    dense.bias = nn.Parameter(np.zeros(1, np.float32))
    dense(x).sum().backward()
    assert dense.bias.grad.shape == (1,)
    for bias in (np.ones(4, np.float32), 0.5):
        dense.bias = bias
        assert dense(x).shape == (2, 4)


def test_a_warning_is_given_once():
    dense = nn.Dense(1, 1, lambda y: y, rng=0)
    dense.weight.data = np.full((1, 1), 3e38, np.float32)
    dense.bias.data = np.full(1, 3e38, np.float32)
    for model in (dense, nn.Sequential(dense)):
        with pytest.warns(RuntimeWarning, match="overflow encountered in add") as said:
            model(tg.Tensor(np.ones((1, 1), np.float32)))
        assert len(said) == 1


def test_errors_are_those_of_the_calls():
    dense = nn.Dense(3, 4, np.log, rng=0)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="log"):
        dense(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"inner sizes 5 and 3 differ"):
        dense(np.zeros((2, 5), np.float32))
    with pytest.raises(TypeError, match=r"write x.astype\(np.float32\)"):
        dense(np.zeros((2, 3)))
