"""`compile_step` does what the eager loop does: `loss(model(x), y).backward(); optimizer.step(); optimizer.zero_grad()`.

Both run side by side on models made alike. The update makes the same NumPy calls on the same numbers; gradients may
differ by rounding (`agreement.py`), and so do parameters after some steps: `TOLERANCE` is that of ten steps in float64.
"""

from __future__ import annotations

import copy
import gc
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from interpreted import interpreted

import tinygrad_mm as tg
from tinygrad_mm import nn, optim

TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


def rng(seed=0):
    return np.random.default_rng(seed)


def data(n=8, features=4, seed=0, dtype=np.float64):
    generator = rng(seed)
    return generator.standard_normal((n, features)).astype(dtype), generator.integers(0, 3, n)


def make(dtype=np.float64):
    return nn.Sequential(nn.Dense(4, 6, "tanh", rng=0), nn.Dense(6, 5, "relu", rng=1), nn.Linear(5, 3, rng=2)).to(dtype)


def eager_step(model, loss, optimizer, *batch):
    value = loss(model(*batch[:-1]), batch[-1])
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return value.item()


class Twins:
    """The same model and optimizer twice: one trained by the eager loop, one by the compiled step."""

    def __init__(self, model=make, optimizer=lambda m: optim.SGD(m.parameters(), 0.1), loss=None):
        self.loss = loss or nn.CrossEntropyLoss()
        self.models = model(), model()
        self.optimizers = optimizer(self.models[0]), optimizer(self.models[1])
        self.step = tg.compile_step(self.models[1], self.loss, self.optimizers[1])

    def train(self, *batch, eagerly=False):
        expected = eager_step(self.models[0], self.loss, self.optimizers[0], *batch)
        if eagerly:
            found = eager_step(self.models[1], self.loss, self.optimizers[1], *batch)
        else:
            found = self.step(*batch)
        assert type(found) is float
        assert math.isclose(found, expected, rel_tol=1e-5 if self.low else 1e-9)
        self.compare()

    @property
    def low(self):
        return any(p.dtype == np.float32 for p in self.models[0].parameters())

    def compare(self):
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if self.low else TOLERANCE
        states = [m.state_dict() for m in self.models]
        for name, expected in states[0].items():
            assert states[1][name].dtype == expected.dtype
            np.testing.assert_allclose(states[1][name], expected, err_msg=name, **tolerance)
        one, other = (o.state_dict() for o in self.optimizers)
        assert one["options"] == other["options"]
        assert list(one["state"]) == list(other["state"])
        for name, expected in one["state"].items():
            if name.endswith(".step"):
                assert other["state"][name] == expected, name
            else:
                np.testing.assert_allclose(other["state"][name], expected, err_msg=name, **tolerance)

    def both(self, change):
        for model, optimizer in zip(self.models, self.optimizers, strict=True):
            change(model, optimizer)


OPTIMIZERS = {
    "SGD": lambda ps: optim.SGD(ps, 0.1),
    "SGD, momentum": lambda ps: optim.SGD(ps, 0.1, momentum=0.9),
    "SGD, nesterov, decay": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda ps: optim.Adam(ps, 0.01),
    "Adam, decay": lambda ps: optim.Adam(ps, 0.01, weight_decay=0.1, betas=(0.8, 0.95)),
    "AdamW": lambda ps: optim.AdamW(ps, 0.01, weight_decay=0.1),
    "RMSprop": lambda ps: optim.RMSprop(ps, 0.01),
    "RMSprop, centered, momentum": lambda ps: optim.RMSprop(ps, 0.01, centered=True, momentum=0.5),
    "Adagrad": lambda ps: optim.Adagrad(ps, 0.05),
    "Lion": lambda ps: optim.Lion(ps, 0.001, weight_decay=0.1),
    "Adam, schedule": lambda ps: optim.Adam(ps, lambda step: 0.01 * 0.9**step),
    "SGD, schedules": lambda ps: optim.SGD(ps, lambda step: 0.1 / (1 + step), momentum=lambda step: 0.5 + 0.01 * step),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name):
    """Ten steps, one of them on a smaller batch."""
    twins = Twins(optimizer=lambda m: OPTIMIZERS[name](m.parameters()))
    for i in range(10):
        twins.train(*data(5 if i % 4 == 3 else 8, seed=i))
    assert len(twins.step.plans) == 2
    assert all(p.grad is None for p in twins.models[1].parameters())


def test_float32():
    twins = Twins(model=lambda: make(np.float32), optimizer=lambda m: optim.SGD(m.parameters(), 0.1, momentum=0.9))
    for i in range(10):
        twins.train(*data(seed=i, dtype=np.float32))


def test_the_update_is_that_of_the_optimizer_bit_for_bit():
    """Given the same gradients: here the loss is linear, so that these are exact."""
    weight = rng(5).integers(-3, 4, (4, 3)).astype(np.float32)
    for make_optimizer in OPTIMIZERS.values():
        layers = [nn.Linear(4, 3, bias=False, rng=0) for _ in range(2)]
        optimizers = [make_optimizer(m.parameters()) for m in layers]

        def loss(y, target):
            return np.sum(y * target)

        step = tg.compile_step(layers[1], loss, optimizers[1])
        for _ in range(5):
            eager_step(layers[0], loss, optimizers[0], np.eye(4, dtype=np.float32), weight)
            step(np.eye(4, dtype=np.float32), weight)
            np.testing.assert_array_equal(layers[0].weight.data, layers[1].weight.data)


def test_groups():
    twins = Twins(
        optimizer=lambda m: optim.Adam(
            [
                {"parameters": [m[0].weight, m[2].bias], "learning_rate": 0.1},
                {"parameters": [m[1].weight], "weight_decay": 0.1},
                {"parameters": [m[0].bias, m[1].bias, m[2].weight]},
            ],
            0.01,
        )
    )
    for i in range(6):
        twins.train(*data(seed=i))
    assert len(twins.step.plans) == 1


def test_frozen_and_left_out_parameters():
    def optimizer(m):
        m[0].freeze()
        return optim.Adam([p for p in m.parameters() if p is not m[1].bias], 0.01, weight_decay=0.1)

    with pytest.warns(UserWarning, match=r"the optimizer lacks layers\.\d\.\w+"):
        twins = Twins(optimizer=optimizer)
    for i in range(3):
        twins.train(*data(seed=i))
    twins.both(lambda m, o: m.unfreeze())
    for i in range(3):
        twins.train(*data(seed=i))
    twins.both(lambda m, o: m[1].freeze())
    for i in range(3):
        twins.train(*data(seed=i))
    twins.both(lambda m, o: m.unfreeze())
    for i in range(3):
        twins.train(*data(seed=i), eagerly=i == 1)
    assert len(twins.step.plans) <= 12


class Uneven(nn.Module):
    """Uses its second layer only when told to; shares a parameter between two layers; holds one of another dtype."""

    def __init__(self, seed=0):
        self.first, self.second, self.third = (nn.Linear(4, 4, rng=i).to(np.float64) for i in range(3))
        self.third.weight = self.first.weight
        self.scale = tg.Parameter(np.ones(3, np.float32))
        self.head = nn.Linear(4, 3, rng=4).to(np.float64)
        self.uses_second = False

    def forward(self, x):
        y = np.tanh(self.third(np.tanh(self.first(x))))
        if self.uses_second:
            y = np.tanh(self.second(y))
        return self.head(y) * self.scale.astype(np.float64)


def test_unused_and_shared_parameters_and_several_dtypes():
    """Parameters with different numbers of steps behind them stay apart, in compiled and in eager steps."""
    twins = Twins(model=Uneven, optimizer=lambda m: optim.Adam(m.parameters(), 0.01, weight_decay=0.1))
    twins.loss = twins.step.loss = lambda y, labels: tg.functional.cross_entropy(y, labels)
    for i in range(4):
        twins.train(*data(seed=i), eagerly=i == 2)
    twins.both(lambda m, o: setattr(m, "uses_second", True))
    for i in range(4):
        twins.train(*data(seed=i), eagerly=i % 2 == 1)
    twins.both(lambda m, o: setattr(m, "uses_second", False))
    for i in range(4):
        twins.train(*data(seed=i), eagerly=i == 1)
    before = len(twins.step.plans)
    for i in range(4):
        twins.train(*data(seed=i))
    assert len(twins.step.plans) == before


def test_mixing_with_eager_steps_and_changes_between_steps():
    twins = Twins(optimizer=lambda m: optim.SGD(m.parameters(), 0.1))
    x, y = data()
    changes = [
        lambda m, o: None,
        lambda m, o: setattr(o, "learning_rate", 0.05),
        lambda m, o: o.groups[0].update(weight_decay=0.1),
        lambda m, o: o.groups[0].update(momentum=0.9),
        lambda m, o: o.groups[0].update(nesterov=True),
        lambda m, o: setattr(o, "learning_rate", lambda step: 0.1 * 0.9**step),
        lambda m, o: setattr(m[0].weight, "data", m[0].weight.data * 0.5),
        lambda m, o: m.load_state_dict({k: v * 0.9 for k, v in m.state_dict().items()}),
        lambda m, o: o.load_state_dict(copy.deepcopy(o.state_dict())),
        lambda m, o: o.load_state_dict(pickle.loads(pickle.dumps(o.state_dict()))),
        lambda m, o: m[1].weight.data.__imul__(0.5),
        lambda m, o: m.eval(),
        lambda m, o: m.train(),
        lambda m, o: setattr(m[0], "activation", np.sin),
        lambda m, o: o.groups[0].update(momentum=0.0, nesterov=False),
        lambda m, o: setattr(m[2].bias, "value", m[2].bias.value.copy()),
    ]
    for i, change in enumerate(changes):
        twins.both(change)
        twins.train(x, y)
        twins.train(x, y, eagerly=i % 3 == 0)


def test_a_group_that_is_added_later():
    def optimizer(m):
        return optim.Adam([*m[0].parameters(), *m[1].parameters()], 0.01)

    with pytest.warns(UserWarning, match=r"the optimizer lacks layers\.\d\.\w+"):
        twins = Twins(optimizer=optimizer)
    for i in range(3):
        twins.train(*data(seed=i))
    twins.both(lambda m, o: m.zero_grad())  # the eager loop has left some there
    twins.both(lambda m, o: o.add_group({"parameters": m[2].parameters(), "learning_rate": 0.1}))
    for i in range(3):
        twins.train(*data(seed=i))


def test_to_another_dtype():
    twins = Twins(model=lambda: make(np.float32), optimizer=lambda m: optim.Adam(m.parameters(), 0.01))
    for i in range(3):
        twins.train(*data(seed=i, dtype=np.float32))
    twins.both(lambda m, o: m.to(np.float64))
    twins.models[1].load_state_dict(twins.models[0].state_dict())
    twins.optimizers[1].load_state_dict(twins.optimizers[0].state_dict())
    for i in range(3):
        twins.train(*data(seed=i))


def test_gradients_that_stand_in_grad_are_left_alone():
    twins = Twins()
    twins.train(*data())
    p = twins.models[1][0].weight
    p.grad = np.ones_like(p.data)
    expected = eager_step(twins.models[0], twins.loss, twins.optimizers[0], *data())
    assert math.isclose(twins.step(*data()), expected, rel_tol=1e-9)
    assert np.array_equal(p.grad, np.ones_like(p.data))
    twins.compare()


def test_dropout_and_batch_norm():
    def model():
        return nn.Sequential(
            nn.Linear(4, 6, bias=False, rng=0), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.4, rng=1), nn.Linear(6, 3, rng=2)
        ).to(np.float64)  # fmt: skip

    twins = Twins(model=model, optimizer=lambda m: optim.AdamW(m.parameters(), 0.01))
    for i in range(8):
        twins.train(*data(seed=i), eagerly=i == 3)
    assert twins.models[0][3].rng.random() == twins.models[1][3].rng.random()


class TwoInputs(nn.Module):
    def __init__(self):
        self.a, self.b = nn.Linear(4, 3, rng=0).to(np.float64), nn.Linear(2, 3, rng=1).to(np.float64)

    def forward(self, x, z):
        return self.a(x) + self.b(z)


def test_several_inputs_lists_and_tensors():
    twins = Twins(model=TwoInputs)
    x, y = data()
    z = rng(3).standard_normal((8, 2))
    for _ in range(3):
        twins.train(x, z, y)
    for _ in range(3):
        twins.train(tg.Tensor(x), tg.Tensor(z), tg.Tensor(y))
        twins.train(x[::-1], z, y.astype(np.int32))
    assert len(twins.step.plans) == 2


def test_regression_and_other_functions_as_losses():
    for loss in (nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), lambda y, t: np.mean((y - t) ** 4), nn.BCEWithLogitsLoss()):
        twins = Twins(loss=loss)
        for i in range(3):
            x, labels = data(seed=i)
            twins.train(x, np.eye(3)[labels])


def test_what_is_refused():
    model = make()
    optimizer = optim.SGD(model.parameters(), 0.1)
    x, y = data()
    with pytest.raises(RuntimeError, match="no step has been made"):
        tg.compile_step(model, nn.CrossEntropyLoss(), optimizer).source  # noqa: B018
    for loss in (lambda y, t: y, lambda y, t: (np.sum(y), t), lambda y, t: np.sum(y.detach())):
        with pytest.raises(TypeError, match="the loss must be one number"):
            tg.compile_step(model, loss, optimizer)(x, y)
    with pytest.raises(TypeError, match="keep the computation in Tensors"):
        tg.compile_step(model, lambda y, t: np.sum(y) if y.sum() > 0 else -np.sum(y), optimizer)(x, y)


def test_labels_out_of_range():
    twins = Twins()
    x, y = data()
    twins.train(x, y)
    before = twins.models[1].state_dict()
    for bad in (3, -1, 100):
        with pytest.raises((ValueError, IndexError)):
            twins.step(x, np.where(np.arange(8) == 2, bad, y))
    for name, array in twins.models[1].state_dict().items():
        assert np.array_equal(array, before[name])
    twins.train(x, y)


def test_options_that_make_no_sense_are_refused_as_in_an_eager_step():
    twins = Twins()
    x, y = data()
    twins.train(x, y)
    twins.optimizers[1].groups[0]["learning_rate"] = -1.0
    before = twins.models[1].state_dict()
    with pytest.raises(ValueError, match=r"learning_rate=-1\.0"):
        twins.step(x, y)
    assert all(np.array_equal(a, before[name]) for name, a in twins.models[1].state_dict().items())
    twins.optimizers[1].groups[0]["learning_rate"] = 0.1
    twins.train(x, y)


def test_a_large_parameter_is_updated_in_blocks():
    def model():
        return nn.Sequential(nn.Linear(4, 9000, rng=0), nn.Tanh(), nn.Linear(9000, 3, rng=1)).to(np.float64)

    twins = Twins(model=model, optimizer=lambda m: optim.Adam(m.parameters(), 0.001))
    for i in range(3):
        twins.train(*data(seed=i))


def test_nothing_grows():
    """2,000 steps with dropout, of two batch sizes."""
    model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.Dropout(0.2, rng=1), nn.BatchNorm1d(8), nn.Linear(8, 3, rng=2))
    step = tg.compile_step(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 1e-3))
    batches = [data(n, seed=n, dtype=np.float32) for n in (8, 5)]

    def steps(n):
        for i in range(n):
            step(*batches[i % 10 == 0])
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = steps(200)
        assert steps(2000) - before < 20_000
    finally:
        tracemalloc.stop()
    assert len(step.plans) == 2


def test_gradient_hooks_are_refused():
    layer = tg.nn.Linear(2, 1, rng=0)
    layer.weight.register_hook(lambda g: g * 2)
    step = tg.compile_step(layer, tg.mse_loss, tg.optim.SGD(layer.parameters()))
    with pytest.raises(TypeError, match="gradient hook"):
        step(np.ones((3, 2), np.float32), np.ones((3, 1), np.float32))


def test_large_constants_are_computed_whatever_the_optimizer():
    class Shifted(tg.Module):
        def __init__(self) -> None:
            self.weight = tg.Parameter(np.ones((300, 1), np.float32))

        def forward(self, x: tg.Tensor) -> tg.Tensor:
            return (x + np.mean(np.exp(tg.Tensor(np.zeros((300, 300), np.float32))), axis=0)) @ self.weight

    model = Shifted()
    x, y = np.zeros((2, 300), np.float32), np.zeros((2, 1), np.float32)
    expected = tg.mse_loss(model(x), y).item()
    step = tg.compile_step(model, tg.mse_loss, tg.optim.Adam(model.parameters()))
    assert step(x, y) == pytest.approx(expected, rel=1e-5)


class Watching(nn.Module):
    """A buffer that is assigned what is a parameter, or a part of one."""

    def __init__(self):
        self.w = nn.Parameter(np.arange(6, dtype=np.float32).reshape(3, 2))
        self.whole, self.part = nn.Buffer(np.zeros((3, 2), np.float32)), nn.Buffer(np.zeros(2, np.float32))

    def forward(self, x):
        self.whole.assign(self.w.detach())
        self.part.assign(self.w.detach()[1])
        return x @ self.w


@pytest.mark.parametrize("optimizer", [tg.optim.SGD, tg.optim.Adam])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_a_buffer_gets_is_what_the_parameter_was_before_the_update(backend, optimizer):
    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    with interpreted():
        model = Watching()
        step = tg.compile_step(model, nn.MSELoss(), optimizer(model.parameters(), 0.1), backend=backend)
        for _ in range(3):
            before = model.w.data.copy()
            step(x, y)
            np.testing.assert_array_equal(model.whole.data, before)
            np.testing.assert_array_equal(model.part.data, before[1])
            assert not np.array_equal(model.w.data, before)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_loss_that_is_a_parameter_is_the_one_before_the_update(backend):
    class Model(nn.Module):
        def __init__(self):
            self.w = nn.Parameter(np.array([2.0], np.float32))

        def forward(self, x):
            return self.w

    with interpreted():
        model = Model()
        step = tg.compile_step(
            model, lambda w, y: w.reshape(()), tg.optim.SGD(model.parameters(), 0.5), backend=backend
        )
        assert [step(np.ones(1, np.float32), np.ones(1)) for _ in range(3)] == [2.0, 1.5, 1.0]


@pytest.mark.parametrize("alias", ["tensor", "array"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_memory_of_a_parameter_by_another_name(backend, alias):
    class Model(nn.Module):
        def __init__(self):
            self.u, self.w = nn.Dense(6, 8, rng=0), nn.Dense(8, 4, rng=1)

        def forward(self, x):
            return self.w(np.tanh(self.u(x) * self.gate.reshape(-1)[:8]))

    def trained(compiled):
        model = Model()
        optimizer = tg.optim.SGD(model.parameters(), 0.1)
        optimizer._laid_out()  # from here on, the parameters' arrays stay where they are
        model.__dict__["gate"] = model.w.weight.detach() if alias == "tensor" else model.w.weight.data
        step = tg.compile_step(model, tg.cross_entropy, optimizer, backend=backend) if compiled else None
        r = np.random.default_rng(0)
        for _ in range(5):
            x, y = r.standard_normal((5, 6)).astype(np.float32), r.integers(0, 4, 5)
            if step is not None:
                step(x, y)
                continue
            optimizer.zero_grad()
            tg.cross_entropy(model(x), y).backward()
            optimizer.step()
        return [np.array(p.data) for p in model.parameters()]

    with interpreted():
        for ours, theirs in zip(trained(True), trained(False), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_paths_that_differ_in_a_dot():
    class Model(nn.Module):
        def __init__(self):
            self.a, self.a_weight = nn.Dense(6, 8, rng=0), nn.Parameter(np.ones((8, 4), np.float32))

        def forward(self, x):
            return self.a(x) @ self.a_weight

    model = Model()
    step = tg.compile_step(model, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1))
    x, y = np.ones((5, 6), np.float32), np.zeros(5, int)
    assert step(x, y) > step(x, y)
