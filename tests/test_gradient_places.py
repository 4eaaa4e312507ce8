"""Gradients that are left where the optimizer wants them: nobody notices, whatever is done with them.

What is expected is worked out from copies: the gradients by `tg.gradients`, which leaves none behind, the update by
hand.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import pickle
import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim
from tinygrad_mm.graph import RULES
from tinygrad_mm.memory import Place, aligned

RATE = 0.125
FUSED = [False, True] if importlib.util.find_spec("numba") else [False]


class TestPlace:
    def place(self, shape=(2, 3)) -> tuple[Any, Any, Place]:
        value, memory = np.ones(shape), aligned(20, np.float64, np.zeros)
        return value, memory, Place(value, memory, 4)

    @pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2), (2, 1, 3)])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
    def test_it_is_a_part(self, shape, dtype):
        value, memory = np.ones(shape, dtype), np.zeros(20, dtype)
        array = Place(value, memory, 4).free(value)
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        array[...] = 1
        assert memory.tolist() == [0] * 4 + [1] * value.size + [0] * (16 - value.size)

    def test_free_while_nobody_holds_it(self):
        value, _, place = self.place()
        holders = [
            lambda a: a,
            lambda a: a[0],
            lambda a: a.T,
            lambda a: a.reshape(-1)[1:2],
            lambda a: np.asarray(a),
            lambda a: memoryview(a),
            lambda a: np.broadcast_to(a, (2, 2, 3)),
            lambda a: np.lib.stride_tricks.as_strided(a, (2,), (8,)),
            lambda a: iter(a),
            lambda a: {"gradient": [a]},
            lambda a: tg.Tensor(a),
        ]
        for hold in holders:
            held = hold(place.free(value))
            assert place.free(value) is None
            assert held is not None
            del held
            gc.collect()
            assert place.free(value) is not None

    def test_however_often_it_is_asked(self):
        value, _, place = self.place()
        for _ in range(5000):  # the interpreter specializes what runs often
            assert place.free(value) is not None
        held = place.free(value)
        for _ in range(5000):
            assert place.free(value) is None
        assert held is place.array

    def test_for_its_value_only(self):
        value, _, place = self.place()
        assert place.free(value.copy()) is None
        assert place.free(value) is not None

    def test_it_keeps_its_memory(self):
        value, memory, place = self.place()
        memory[...] = 7
        del memory
        gc.collect()
        assert (place.free(value) == 7).all()


def model_and_optimizer(kind=optim.SGD, sizes=(3, 4, 4, 4, 2), **options: Any) -> tuple[Any, Any]:
    layers = [nn.Dense(a, b, "tanh", rng=i) for i, (a, b) in enumerate(pairwise(sizes))]
    model = nn.Sequential(*layers)
    return model, kind(model.parameters(), RATE, **options)


def batch(seed: int, dtype=np.float32) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((5, 3)).astype(dtype), rng.integers(0, 2, 5)


def places_used(model: Any) -> int:
    return sum(p.place is not None and p.grad is p.place.array for p in model.parameters())


def step(model: Any, optimizer: Any, seed: int = 0) -> None:
    x, y = batch(seed)
    functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def with_free_places() -> tuple[Any, Any]:
    """A model after a step, whose gradients are left where the optimizer wants them from now on."""
    model, optimizer = model_and_optimizer()
    step(model, optimizer)
    optimizer.zero_grad()
    return model, optimizer


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


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_they_are_left_there(kind, fused):
    model, optimizer = model_and_optimizer(kind, fused=fused)
    step(model, optimizer)
    assert places_used(model) == 0  # there was no place yet
    for seed in range(3):
        optimizer.zero_grad()
        step(model, optimizer, seed)
        assert places_used(model) == 8
    kept = [p.grad for p in model.parameters()]
    optimizer.zero_grad()
    step(model, optimizer)
    assert places_used(model) == 0
    assert not any(np.may_share_memory(p.grad, g) for p in model.parameters() for g in kept)
    del kept
    optimizer.zero_grad()
    step(model, optimizer)
    assert places_used(model) == 8


def test_a_parameter_of_another_shape_meanwhile():
    model, optimizer = with_free_places()
    wide = nn.Dense(4, 7, "tanh", rng=9)
    model[3].weight.data, model[3].bias.data = wide.weight.data, wide.bias.data
    x, y = batch(0)
    functional.cross_entropy(model(x), y).backward()
    assert model[3].weight.grad.shape == (4, 7)
    optimizer.step()
    optimizer.zero_grad()
    step(model, optimizer)
    assert places_used(model) == 8


def test_of_another_dtype_meanwhile():
    model, _ = with_free_places()
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    x, y = batch(0, np.float64)
    functional.cross_entropy(model(x), y).backward()
    assert all(p.grad.dtype == np.float64 for p in model.parameters())


def test_nobody_else_gets_a_place_before_the_step_is_over():
    model, optimizer = with_free_places()
    (run,) = optimizer._flats[0][0].runs
    update, free = run.program.update, []

    def spy(*args):  # what a backward pass in another thread would find
        free.extend(p.place.free(p.value) for p in model.parameters())
        update(*args)

    run.program = replace(run.program, update=spy)
    for p in model.parameters():
        p.grad = np.ones(p.shape, np.float32)
    optimizer.step()  # copies them
    held = [p.place.array for p in model.parameters()]
    optimizer.step()  # copies them to other memory
    assert free == [None] * 16
    assert not any(p.place.array is array for p, array in zip(model.parameters(), held, strict=True))
    assert all(p.place.free(p.value) is not None for p in model.parameters())


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
    step(model, optimizer)
    assert places_used(model) == 8


def test_an_array_that_was_replaced_has_no_place():
    model, optimizer = model_and_optimizer()
    step(model, optimizer)
    for p in model.parameters():
        assert p.place is not None
        p.data = p.data.astype(np.float64)
        assert p.place is None
    model, optimizer = model_and_optimizer()
    step(model, optimizer)
    optim.SGD(model.parameters(), RATE).step()  # it has no gradients' places yet, but the arrays are its own now
    assert all(p.place is None or p.place.value is p.value for p in model.parameters())


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


def test_copies_have_places_of_their_own():
    model, optimizer = model_and_optimizer()
    for _ in range(2):
        optimizer.zero_grad()
        step(model, optimizer)
    grads = [p.grad.copy() for p in model.parameters()]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model[0].weight)):
        parameters = [twin] if isinstance(twin, tg.Tensor) else twin.parameters()
        assert all(p.place is None for p in parameters)
        if not isinstance(twin, tg.Tensor):
            for p in parameters:
                p.grad = None
            step(twin, optim.SGD(parameters, RATE), 5)
    for p, g in zip(model.parameters(), grads, strict=True):
        np.testing.assert_array_equal(p.grad, g)


@pytest.mark.parametrize("fun", [fun for fun, rule in RULES.items() if rule.over is not None], ids=lambda f: f.__name__)
@given(values=st.lists(st.floats(width=32), max_size=5), dtype=st.sampled_from([np.float32, np.float64]))
def test_written_over_its_argument(fun, values, dtype):
    rule = RULES[fun]
    x = np.array(values, dtype)
    with np.errstate(all="ignore"):
        y = rule.forward(x)
        over = rule.over(x.copy())
        g = np.arange(1, x.size + 1).astype(dtype)
        assert over.dtype == dtype
        np.testing.assert_array_equal(over, y)
        np.testing.assert_array_equal(rule.vjps[0](g, over, None), rule.vjps[0](g, y, x))  # it never looks at x
    assert len(rule.vjps) == 1


def test_what_is_between_is_made_when_somebody_looks():
    layer = nn.Dense(3, 4, "relu", rng=0)
    x = batch(0)[0]
    product, total = x @ layer.weight.data, x @ layer.weight.data + layer.bias.data
    y = layer(x)
    between = y.node.args[0]
    np.testing.assert_array_equal(between.data, total)
    np.testing.assert_array_equal(between.node.args[0].data, product)
    y = layer(x)
    layer.weight.data = np.ones((3, 5), np.float32)  # another array: the old one is still known
    np.testing.assert_array_equal(y.node.args[0].data, total)
    with pytest.raises(RuntimeError, match="was changed after matmul had read it"):
        y.sum().backward()
