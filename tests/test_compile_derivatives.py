"""Derivatives of every order through compiled calls, and where `compile` may stand: methods, copies, checkpoints, threads."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import assert_agree, assert_close
from compiled_calls import leaf, normal, rng

import tinygrad_mm as tg
from tinygrad_mm import functional, nn

# ---------------------------------------------------------------------------------------------------------------------
# Derivatives of every order, in any order
# ---------------------------------------------------------------------------------------------------------------------


def formula(x, y):
    return np.sum(np.tanh(x @ y) * np.exp(-x.sum()) + x[0] ** 3)


def test_higher_orders():
    x, y = normal(3, dtype=np.float64), normal(3, 3, seed=1, dtype=np.float64)
    compiled = tg.compile(formula)
    for transform in (
        tg.grad,
        functools.partial(tg.grad, argnums=(0, 1)),
        tg.hessian,
        tg.jacobian,
        lambda f: tg.grad(lambda x, y: np.sum(tg.grad(f)(x, y) ** 2)),
        lambda f: lambda x, y: tg.hvp(lambda x: f(x, y), x, np.ones(3)),
        lambda f: lambda x, y: tg.jvp(lambda x: f(x, y), (x,), (np.ones(3),)),
        lambda f: lambda x, y: tg.vjp(f, x, y)[1](np.array(2.0)),
        tg.value_and_grad,
        tg.checkpoint,
    ):
        expected = transform(formula)(x, y)
        assert_agree(transform(compiled)(x, y), expected)
        assert_agree(tg.compile(transform(formula))(x, y), expected)
        assert_agree(tg.compile(transform(compiled))(x, y), expected)


def test_create_graph_through_a_compiled_call():
    w = leaf(3, 3, seed=1, dtype=np.float64)
    results = []
    for call in (formula, tg.compile(formula)):
        x = leaf(3, dtype=np.float64)
        w.grad = None
        first = tg.gradients(call(x, w), [x, w], create_graph=True)
        second = tg.gradients(np.sum(first[0] * first[1][0]), [x, w], create_graph=True)
        np.sum(second[0] * second[1]).backward()
        results.append([*first, *second, x.grad, w.grad])
    assert_agree(results[1], results[0], length=300)


def test_create_graph_where_one_argument_is_made_from_another():
    def f(a, b):
        return np.sum(a**2 * b)

    for call in (f, tg.compile(f)):
        x = tg.Tensor([1.0, 2.0], requires_grad=True)
        y = x**3
        g = tg.gradients(call(x, y), x, create_graph=True)  # x^5 in all
        assert_close(g, 5 * x.data**4)
        assert_close(tg.gradients(np.sum(g), x), 20 * x.data**3)


def test_a_recorded_pass_replays_the_call_as_it_was():
    """With the draws, the mode and the running statistics of the forward pass, whatever has changed since."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5, rng=0))
    scale = np.array(2.0, np.float32)
    compiled = tg.compile(lambda x: np.sum(model(x) ** 2 * scale))
    x = leaf(6, 3)
    compiled(x)
    y = compiled(x)
    plain = tg.gradients(y, x, retain_graph=True)
    before = model[0].running_mean.data.copy()
    model.eval()
    scale = np.array(3.0, np.float32)
    recorded = tg.gradients(y, x, create_graph=True)
    assert recorded.requires_grad
    assert_close(recorded, plain, length=1000)
    assert np.array_equal(model[0].running_mean.data, before)


def test_backward_twice_and_two_calls_before_the_first_backward():
    w = leaf(3)
    generator = rng(0)

    def f(x):
        return np.sum(np.exp(functional.dropout(x, 0.5, generator) * w) ** 2)

    compiled = tg.compile(f)
    results = []
    for call in (f, compiled):
        generator.bit_generator.state = rng(0).bit_generator.state
        x, y = leaf(3, seed=1), leaf(3, seed=2)
        w.grad = None
        a, b = call(x), call(y)
        a.backward(retain_graph=True)
        b.backward()
        a.backward(retain_graph=True)
        first = x.grad.copy()
        a.backward()
        with pytest.raises(RuntimeError, match="released"):
            a.backward()
        results.append([first, x.grad, y.grad, w.grad, generator.random()])
    assert_agree(results[1], results[0], length=300)
    assert np.array_equal(first * 3, x.grad * 2) or np.allclose(first * 1.5, x.grad)


def test_a_compiled_call_in_the_middle_of_a_graph():
    inner = tg.compile(lambda x, w: (np.sin(x * w), np.cumsum(w)))
    for call in (inner.function, inner):
        x, w = leaf(3), leaf(3, seed=1)
        a, b = call(x * 2, w + 1)
        c, _ = call(a, b)
        d = np.sum(c * a + b)
        d.backward(retain_graph=True)
        first = x.grad.copy(), w.grad.copy()
        d.backward()
        if call is inner.function:
            expected = first
        assert_close(first[0], expected[0])
        assert_close(first[1], expected[1])
        assert_close(x.grad, 2 * expected[0])


def test_seeds_that_are_the_same_object():
    """A gradient that comes along again belongs to another pass: nothing is handed out twice."""
    w = leaf(3)
    compiled = tg.compile(lambda: np.exp(w))
    y = compiled()
    seed = np.ones(3, np.float32)
    for n in (1, 2, 3):
        y.backward(seed, retain_graph=True)
        assert_close(w.grad, n * np.exp(w.data))
    total = np.sum(compiled())
    w.grad = None
    for n in (1, 2, 3):
        total.backward(retain_graph=True)
        assert_close(w.grad, n * np.exp(w.data))


def test_no_grad_and_detach():
    w = leaf(3)
    compiled = tg.compile(lambda x: (x * w, (x * w).detach() * x))
    with tg.no_grad():
        assert [t.requires_grad for t in compiled(normal(3))] == [False, False]
    x = leaf(3, seed=1)
    sum(np.sum(t) for t in compiled(x)).backward()
    assert_close(x.grad, w.data + x.data * w.data)
    assert_close(w.grad, x.data)


def test_captured_results_of_other_calls():
    """A Tensor that was computed before the call: its own graph goes on behind the compiled one."""
    x = leaf(3)
    h = np.exp(x)
    compiled = tg.compile(lambda: np.sum(h * h))
    compiled().backward()
    assert_close(x.grad, 2 * np.exp(2 * x.data))


def test_a_change_before_the_backward_pass_raises():
    w, frozen = leaf(3), tg.Parameter(normal(3), requires_grad=False)
    compiled = tg.compile(lambda x: np.sum(x * w * frozen))
    for p in (w, frozen):
        y = compiled(leaf(3, seed=1))
        p.data = p.data * 2
        with pytest.raises(RuntimeError, match="was changed after"):
            y.backward()


def test_hooks_and_retained_gradients_of_what_a_call_returned():
    seen = []
    w = leaf(3)
    w.register_hook(lambda g: seen.append(g.copy()))
    y = tg.compile(lambda x: x * w)(normal(3, seed=1))
    y.retain_grad()
    (y * 2).sum().backward()
    assert_close(y.grad, np.full(3, 2, np.float32))
    assert_close(seen[0], w.grad)


# ---------------------------------------------------------------------------------------------------------------------
# What may be compiled, and where
# ---------------------------------------------------------------------------------------------------------------------


class Trainer:
    """No Module: the attributes that its methods name are looked after all the same."""

    def __init__(self):
        self.scale, self.layer, self.config = 2.0, nn.Linear(2, 2, rng=0), SimpleNamespace(shift=1.0)

    @tg.compile
    def method(self, x):
        return self.helper(x) * self.scale

    def helper(self, x):
        return self.layer(x) + self.config.shift


def module_level(x):
    return x * 2


@tg.compile
def decorated(x):
    return x + 1


compiled_at_module_level = tg.compile(module_level)

cube = tg.compile(lambda x: x**3)


def test_methods_partials_and_modules():
    one, other = Trainer(), Trainer()
    other.scale = -1.0
    x = normal(3, 2)
    for trainer in (one, other):
        assert_agree(trainer.method(x), Trainer.method.function(trainer, x))
    one.scale, one.config.shift = 5.0, 7.0
    assert_agree(one.method(x), Trainer.method.function(one, x))
    one.config = SimpleNamespace(shift=-3.0)
    assert_agree(one.method(x), Trainer.method.function(one, x))
    bound = tg.compile(one.helper)
    assert_agree(bound(x), one.helper(x))
    one.layer = nn.Linear(2, 2, rng=9)
    assert_agree(bound(x), one.helper(x))
    partial = tg.compile(functools.partial(lambda a, b, c=0: a * b + c, x, c=2.0))
    assert_agree(partial(x), x * x + 2)
    x[...] = 1
    assert_agree(partial(x), x * x + 2)
    layer = nn.Dense(2, 3, "relu", rng=0)
    assert_agree(tg.compile(layer)(x), layer(x))
    given = tg.compile(lambda model, x: model(x))
    for model in (layer, nn.Linear(2, 5, rng=1), layer):
        assert_agree(given(model, x), model(x))
    assert tg.compile(module_level).__name__ == "module_level"
    with pytest.raises(TypeError, match="a function or a module"):
        tg.compile(3)


def test_copies_and_pickles():
    model = nn.Linear(2, 2, rng=0)
    compiled = tg.compile(model)
    x = normal(3, 2)
    compiled(x)
    other = copy.deepcopy(compiled)
    assert other.plans == []
    assert other.function is not model
    model.weight.data = model.weight.data * 2
    assert not np.array_equal(other(x).data, compiled(x).data)
    again = pickle.loads(pickle.dumps(compiled))
    assert_agree(again(x), compiled(x))
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert copy.deepcopy(decorated) is not decorated
    assert_agree(pickle.loads(pickle.dumps(compiled_at_module_level))(x), module_level(x))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(tg.compile(lambda x: x))


def test_compiled_inside_compiled():
    factor = 3.0
    w = leaf(3)
    inner = tg.compile(lambda x: x * factor * w)
    outer = tg.compile(lambda x: np.sum(inner(inner(x)) + cube(x)))
    x = leaf(3, seed=1)
    for factor in (3.0, 4.0):
        x.grad = w.grad = None
        y = outer(x)
        y.backward()
        assert_close(y, np.sum(x.data * factor**2 * w.data**2 + x.data**3), length=200)
        assert_close(x.grad, factor**2 * w.data**2 + 3 * x.data**2, length=200)


def test_inside_a_checkpoint():
    """Which calls it twice: the draws are the same, running statistics move once."""
    models = [nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5, rng=0)) for _ in range(3)]
    compiled = tg.compile(models[2])
    calls = [models[0], tg.checkpoint(models[1]), tg.checkpoint(compiled)]
    results = []
    for model, call in zip(models, calls, strict=True):
        x = leaf(6, 3)
        for _ in range(2):
            np.sum(call(x) ** 2).backward()
        results.append([x.grad, model[0].weight.grad, model[0].running_mean.data, model[1].rng.random()])
    assert_agree(results[1], results[0], length=1000)
    assert_agree(results[2], results[0], length=1000)


def test_threads():
    """Each call has buffers of its own."""
    w = leaf(50)
    compiled = tg.compile(lambda x, n: np.sum(np.tanh(x * w)) * n)
    failures = []

    def work(seed):
        try:
            for n in range(20):
                x = leaf(50, seed=seed)
                y = compiled(x, n % 4)
                (g,) = tg.gradients(y, [x])
                assert_close(y, np.sum(np.tanh(x.data * w.data)) * (n % 4), length=400)
                assert_close(g, (1 - np.tanh(x.data * w.data) ** 2) * w.data * (n % 4), length=400)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert len(compiled.plans) == 4


def test_exceptions_leave_everything_as_it_was():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5, rng=0))
    broken = True

    @tg.compile
    def f(x):
        y = model(x)
        if broken:
            raise KeyError("mine")
        return y

    x = leaf(4, 3)
    before, mean = model[1].rng.bit_generator.state, model[0].running_mean.data.copy()
    with pytest.raises(KeyError, match="mine"):
        f(x)
    assert model[1].rng.bit_generator.state == before
    assert np.array_equal(model[0].running_mean.data, mean)
    assert np.array_equal((x * 2).data, x.data * 2)  # and nothing is traced any more
    assert not (x.detach() * 2).requires_grad
    broken = False
    twin = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5, rng=0))
    assert_agree(f(x), twin(x))
    with pytest.raises(ValueError, match="was given"):
        f(leaf(4, 2))
    assert_agree(f(x), twin(x))
