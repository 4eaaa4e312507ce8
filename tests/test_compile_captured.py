"""What a compiled function reads from around it: followed where that is promised, fixed when traced elsewhere."""

from __future__ import annotations

import functools
import logging
import os
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import assert_agree, assert_close
from compiled_calls import leaf, normal, rng

import tinygrad_mm as tg
from tinygrad_mm import nn, optim

# ---------------------------------------------------------------------------------------------------------------------
# Never stale
# ---------------------------------------------------------------------------------------------------------------------

SCALE = 2.0

TABLE = np.array([1.0, 2.0, 3.0])


class Net(nn.Module):
    """Reads globals, attributes and lists in its forward."""

    factor = 1.5

    def __init__(self):
        self.layers = [nn.Linear(3, 3, rng=0), nn.Dropout(0.5, rng=1)]
        self.table = np.array([1.0, -1.0, 2.0], np.float32)
        self.options = {"power": 2}

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.scaled(x) * self.table ** self.options["power"]

    def scaled(self, x):
        return x * SCALE * self.factor


def test_never_stale():
    """After each change the compiled module computes what the module itself does."""
    global SCALE
    model, twin = Net(), Net()
    compiled = tg.compile(model)
    x = normal(4, 3)

    def check():
        expected = twin(x)
        found = compiled(x)
        assert_agree(found, expected)
        if expected.requires_grad:
            for m, y in ((model, found), (twin, expected)):
                for p in m.parameters():
                    p.grad = None
                np.sum(y * y).backward()
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None)
                if p.grad is not None:
                    assert_close(p.grad, q.grad, length=300)

    def changed(change):
        for m in (model, twin):
            change(m)
        check()
        check()

    check()
    changed(lambda m: setattr(m.layers[0].weight, "data", normal(3, 3, seed=5)))
    changed(lambda m: m.layers[0].weight.data.__imul__(2))
    changed(lambda m: setattr(m.layers[0].weight, "value", normal(3, 3, seed=6).T))
    changed(lambda m: setattr(m.layers[0], "weight", tg.Parameter(normal(3, 3, seed=7))))
    changed(lambda m: setattr(m.layers[0], "bias", None))
    changed(lambda m: m.eval())
    changed(lambda m: m.freeze())
    changed(lambda m: m.unfreeze())
    changed(lambda m: m.train())
    changed(lambda m: setattr(m.layers[1], "rate", 0.1))
    changed(lambda m: setattr(m.layers[1], "rng", rng(8)))
    changed(lambda m: m.layers.append(nn.Linear(3, 3, rng=2)))
    changed(lambda m: m.layers.__setitem__(2, nn.Tanh()))
    changed(lambda m: m.layers.pop())
    changed(lambda m: m.options.update(power=3))
    changed(lambda m: m.table.__setitem__(0, 10.0))
    changed(lambda m: setattr(m, "table", np.ones(3, np.float32)))
    changed(lambda m: setattr(m, "factor", -1.0))
    changed(lambda m: m.register_forward_hook(lambda module, args, y: y * 3))
    changed(lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}))
    SCALE = 7.0
    check()
    SCALE = 2.0
    check()
    x = x.astype(np.float64)
    changed(lambda m: setattr(m.to(np.float64), "table", m.table.astype(np.float64)))
    for m in (model, twin):
        optimizer = optim.SGD(m.parameters(), 0.1, momentum=0.9)
        np.sum((compiled if m is model else twin)(x) ** 2).backward()
        optimizer.step()
    check()
    Net.factor = 4.0
    changed(lambda m: vars(m).pop("factor"))
    Net.factor = 1.5
    check()


def test_never_stale_closures_and_globals():
    global SCALE, TABLE
    number, array, nested, chosen, weight = (
        2.0,
        np.array([1.0, 2.0, 3.0]),
        [1.0, {"a": 2.0}],
        {"x"},
        leaf(3, dtype=np.float64),
    )

    def helper(x):
        return x * number + array[0] + (1.0 if "x" in chosen else 0.0)

    def f(x, shift=np.array(1.0)):  # noqa: B008 (the default is what is changed)
        return helper(x) * array + nested[1]["a"] * SCALE + TABLE.sum() + shift + weight

    compiled = tg.compile(f)
    x = normal(3, dtype=np.float64)

    def check():
        assert_agree(compiled(x), f(x))

    check()
    array *= 2
    check()
    array = array + 1.0
    check()
    number = 3.0
    check()
    nested[1]["a"] = 5.0
    check()
    nested[1] = {"a": 6.0}
    check()
    chosen.clear()
    check()
    weight.data = weight.data + 1
    check()
    weight = leaf(3, seed=9, dtype=np.float64)
    check()
    SCALE = 4.0
    check()
    SCALE = 2.0
    TABLE[1] = 9.0
    check()
    TABLE = TABLE * 3
    check()
    TABLE = np.array([1.0, 2.0, 3.0])
    f.__defaults__[0][...] = 5.0
    check()

    def helper(x):  # noqa: F811
        return x - 1

    check()
    array = np.arange(6.0).reshape(2, 3)
    check()


def test_captured_arrays_with_the_same_content_stay_apart():
    class Two(nn.Module):
        def __init__(self):
            self.a, self.b = np.ones(2), np.ones(2)

        def forward(self, x):
            return x * self.a - x / self.b + tg.Tensor(self.a) * np.reshape(self.b, (2,))

    model = Two()
    compiled = tg.compile(model)
    x = tg.Tensor([3.0, 4.0], dtype=np.float64)
    for change in (lambda: None, lambda: model.a.__setitem__(0, 5.0), lambda: model.b.__setitem__(1, -2.0)):
        change()
        assert_agree(compiled(x), model(x))


def test_a_function_that_calls_itself():
    scale = np.array(2.0)

    def f(x, n):
        return x if n == 0 else f(x * scale, n - 1) + scale

    compiled = tg.compile(f)
    x = normal(3, dtype=np.float64)
    for value in (2.0, 3.0):
        scale[...] = value
        assert_agree(compiled(x, 3), f(x, 3))
    scale = np.array(5.0)
    assert_agree(compiled(x, 3), f(x, 3))


def test_one_program_serves_numbers_that_come_back():
    rate = 0.5
    compiled = tg.compile(lambda x: x * rate)
    x = normal(3)
    for rate in (0.5, 0.25, 0.5, float("0.25"), 0.5):
        assert_agree(compiled(x), x * rate)
    assert len(compiled.plans) == 2


# ---------------------------------------------------------------------------------------------------------------------
# What is promised, kind by kind
# ---------------------------------------------------------------------------------------------------------------------


class Table:
    """An object of the user's that is asked by operators."""

    shift = 1.0

    def __init__(self):
        self.numbers, self.names = [2.0, 3.0], {"a"}

    def __getitem__(self, i):
        return self.numbers[i]

    def __len__(self):
        return len(self.numbers)

    def __contains__(self, name):
        return name in self.names

    def __bool__(self):
        return len(self.numbers) > 1

    def __call__(self, x):
        return x + self.shift

    def scaled(self, x):
        return x * 2.0

    @property
    def power(self):
        return len(self.numbers)

    @staticmethod
    def negative(x):
        return -x


class Derived(Table):
    pass


def with_defaults(x, scale=2.0, *, shift=1.0):
    return x * scale + shift


def with_an_attribute(x):
    return x * with_an_attribute.scale


def other_code(x, scale=2.0, *, shift=1.0):
    return x * scale - shift


def set_attribute(owner, name, value):
    """Set an attribute; returns what sets it back."""
    before = vars(owner).get(name, ...)
    setattr(owner, name, value)
    return lambda: delattr(owner, name) if before is ... else setattr(owner, name, before)


FOLLOWED = {
    "__defaults__": lambda o: (with_defaults, lambda: setattr(with_defaults, "__defaults__", (3.0,))),
    "__defaults__ of what is called": lambda o: (
        lambda x: with_defaults(x) * 2,
        lambda: setattr(with_defaults, "__defaults__", (4.0,)),
    ),
    "__kwdefaults__": lambda o: (with_defaults, lambda: setattr(with_defaults, "__kwdefaults__", {"shift": 7.0})),
    "an item of __kwdefaults__": lambda o: (with_defaults, lambda: with_defaults.__kwdefaults__.update(shift=9.0)),
    "__code__": lambda o: (with_defaults, lambda: setattr(with_defaults, "__code__", other_code.__code__)),
    "the attribute of a function": lambda o: (with_an_attribute, lambda: setattr(with_an_attribute, "scale", 5.0)),
    "the order of a dict": lambda o: (
        lambda x: functools.reduce(lambda y, k: y * o.options[k] + 1, o.options, x),
        lambda: o.options.update(a=o.options.pop("a")),
    ),
    "a deque": lambda o: (lambda x: x * o.queue[0] + sum(o.queue), lambda: o.queue.rotate()),
    "a deque that is filled": lambda o: (lambda x: x * sum(o.queue), lambda: o.queue.append(5.0)),
    "the keywords of a partial": lambda o: (lambda x: o.partial(x), lambda: o.partial.keywords.update(scale=6.0)),
    "the keywords of a compiled partial": lambda o: (o.partial, lambda: o.partial.keywords.update(shift=6.0)),
    "__getitem__": lambda o: (lambda x: x * o.table[0], lambda: o.table.numbers.__setitem__(0, 5.0)),
    "__len__": lambda o: (lambda x: x * len(o.table), lambda: o.table.numbers.append(5.0)),
    "__contains__": lambda o: (lambda x: x * (2.0 if "b" in o.table else 1.0), lambda: o.table.names.add("b")),
    "__bool__": lambda o: (lambda x: x if o.table else -x, lambda: o.table.numbers.pop()),
    "__call__": lambda o: (lambda x: o.table(x), lambda: setattr(o.table, "shift", 3.0)),
    "the attribute of a class": lambda o: (lambda x: o.table(x), lambda: set_attribute(Table, "shift", 4.0)),
    "a method": lambda o: (lambda x: o.table.scaled(x), lambda: set_attribute(Table, "scaled", lambda s, x: x - 2.0)),
    "a method that a subclass has now": lambda o: (
        lambda x: o.derived.scaled(x),
        lambda: set_attribute(Derived, "scaled", lambda s, x: x - 3.0),
    ),
    "a method that an object has now": lambda o: (
        lambda x: o.table.scaled(x),
        lambda: setattr(o.table, "scaled", lambda x: x - 4.0),
    ),
    "a property": lambda o: (lambda x: x**o.table.power, lambda: set_attribute(Table, "power", property(lambda s: 3))),
    "a static method": lambda o: (
        lambda x: o.table.negative(x),
        lambda: set_attribute(Table, "negative", staticmethod(lambda x: x * 3)),
    ),
    "forward of a class": lambda o: (o.net, lambda: set_attribute(Net, "forward", lambda s, x: x * 3)),
    "forward of a class of ours": lambda o: (
        o.sequential,
        lambda: set_attribute(nn.Tanh, "forward", lambda s, x: x * 3),
    ),
    "forward of a module": lambda o: (o.net, lambda: setattr(o.net, "forward", lambda x: x * 4)),
}  # fmt: skip


def objects():
    with_an_attribute.scale = 2.0
    with_defaults.__defaults__, with_defaults.__kwdefaults__ = (2.0,), {"shift": 1.0}
    net = Net()
    return SimpleNamespace(
        options={"a": 2.0, "b": 3.0},
        queue=deque([1.0, 2.0]),
        partial=functools.partial(with_defaults, scale=3.0),
        table=Table(),
        derived=Derived(),
        net=net.eval(),
        sequential=nn.Sequential(nn.Tanh()),
    )


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_followed(name):
    """By the guards alone: the check is off. And what did not change costs no trace."""
    code = with_defaults.__code__
    f, change = FOLLOWED[name](objects())
    compiled = tg.compile(f, verify=False)
    x = normal(4, 3) + 3
    before = np.asarray(f(x).detach() if hasattr(f(x), "detach") else f(x))
    for _ in range(2):
        assert_agree(compiled(x), f(x))
    assert len(compiled.plans) == 1
    undo = change()
    try:
        assert not np.array_equal(np.asarray(f(x).detach() if hasattr(f(x), "detach") else f(x)), before)
        for _ in range(2):
            assert_agree(compiled(x), f(x))
        assert len(compiled.plans) == 2
    finally:
        if callable(undo):
            undo()
        with_defaults.__code__ = code


@pytest.mark.parametrize("name", ["forward of a class", "forward of a module"])
def test_what_is_followed_in_training_steps(name):
    o = objects()
    _, change = FOLLOWED[name](o)
    step = tg.compile_step(o.net, lambda y, t: np.sum(y), optim.SGD(o.net.parameters(), 0.1), verify=False)
    x = normal(4, 3)
    step(x, x)
    undo = change()
    try:
        with pytest.raises(TypeError, match="must be one number that depends on parameters"):
            step(x, x)  # what stands there now has none
    finally:
        if callable(undo):
            undo()


def test_what_is_fixed_until_it_is_traced_again(monkeypatch):
    monkeypatch.setenv("SCALE_OF_A_TEST", "2.0")
    holder = SimpleNamespace(rate=3.0)
    name = "ra" + "te"

    def f(x):
        return x * float(os.environ["SCALE_OF_A_TEST"]) * vars(holder)[name]

    model = nn.Linear(3, 3, rng=0)
    compiled = tg.compile(f, verify=False)
    step = tg.compile_step(model, lambda y, t: np.sum(f(y)), optim.SGD(model.parameters(), 0.0), verify=False)
    x = normal(4, 3)
    y, loss = compiled(x), step(x, x)
    monkeypatch.setenv("SCALE_OF_A_TEST", "4.0")
    holder.rate = 6.0
    assert_agree(compiled(x), y)
    assert step(x, x) == loss
    compiled.retrace()
    step.retrace()
    assert_agree(compiled(x), y * 4)
    assert step(x, x) == pytest.approx(4 * loss)


c = 0.0


class ReadsAnAttribute(nn.Module):
    """`c` is a global of this file, too."""

    def __init__(self):
        self.c, self.inner = 2.0, nn.Linear(3, 3, rng=0)

    def forward(self, x):
        return self.inner(x) * self.c


def test_what_is_not_read_is_not_looked_at():
    """A global variable with the name of an attribute changes at each step, as in a notebook's loop."""
    global c
    model = ReadsAnAttribute()
    compiled = tg.compile(model)
    step = tg.compile_step(model, lambda y, t: np.sum(y), optim.SGD(model.parameters(), 0.1))
    x = normal(4, 3)
    for i in range(4):
        c = float(i)
        compiled(x)
        step(x, x)
    assert len(compiled.plans) == 1
    assert len(step.plans) == 1
    model.c = 5.0
    assert_agree(compiled(x), model(x))


def test_a_program_that_is_traced_again_and_again_says_why(caplog):
    model = ReadsAnAttribute()
    compiled = tg.compile(model)
    step = tg.compile_step(model, lambda y, t: np.sum(y), optim.SGD(model.parameters(), 0.1))
    x = normal(4, 3)
    for call, what in ((lambda: compiled(x), "ReadsAnAttribute"), (lambda: step(x, x), "compile_step")):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "tinygrad_mm.compile"):
            for _ in range(2):  # each serves twice: that is no row
                for _ in range(4):
                    model.c += 1.0
                    call()
                    call()
            assert not caplog.records
            for _ in range(6):
                model.c += 1.0
                call()
        (record,) = caplog.records
        message = record.getMessage()
        assert what in message
        assert "c' had changed each time" in message
