"""`compile_step(..., outputs=True)` returns what the model predicted before the update; batches of every form."""

from __future__ import annotations

import numpy as np
import pytest
from interpreted import interpreted

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.compiler.threads import pool, shares

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((8, 4)), RNG.integers(0, 3, 8)


class Network(nn.Module):
    """A prediction with all that one can hold: the input itself, a view of a parameter, a parameter, a number."""

    def __init__(self):
        self.first, self.last = nn.Dense(4, 6, "tanh", rng=0).to(np.float64), nn.Dense(6, 3, rng=1).to(np.float64)

    def forward(self, x):
        hidden = self.first(x)
        logits = self.last(hidden)
        return {
            "logits": logits,
            "again": [logits, (hidden * 2, x)],
            "weights": (self.last.weight.T, self.last.bias),
            "n": 3,
        }


class Plain(nn.Module):
    """Examples that know nothing of each other."""

    def __init__(self):
        self.first, self.last = nn.Dense(4, 6, "tanh", rng=0).to(np.float64), nn.Dense(6, 3, rng=1).to(np.float64)

    def forward(self, x):
        hidden = self.first(x)
        return {"logits": self.last(hidden), "hidden": (hidden,)}


class Dropping(Plain):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5, rng=3)

    def forward(self, x):
        return super().forward(self.dropout(x))


def loss(prediction, target):
    return tg.cross_entropy(prediction["logits"], target)


def leaves(tree):
    return [
        (leaf.path, np.array(leaf.value.data if isinstance(leaf.value, tg.Tensor) else leaf.value))
        for leaf in tg.pytree.flatten(tree)
    ]


def assert_same(found, expected):
    assert [path for path, _ in found] == [path for path, _ in expected]
    for (path, a), (_, b) in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("optimizer", [lambda ps: optim.SGD(ps, 0.1), lambda ps: optim.Adam(ps, 0.01)])
@pytest.mark.parametrize("kind", [Network, Plain, Dropping])
def test_the_prediction_is_what_the_model_returns(kind, optimizer, backend, verify):
    model, twin = kind(), kind()
    optimizers = optimizer(model.parameters()), optimizer(twin.parameters())
    kept = []
    with interpreted():
        step = tg.compile_step(model, loss, optimizers[0], backend=backend, verify=verify, outputs=True)
        for i in range(4):
            x, y = X[: 8 - i % 2], Y[: 8 - i % 2]
            value, prediction = step(x, y)
            expected = twin(x)
            wanted = loss(expected, y)
            before = leaves(expected)
            wanted.backward()
            optimizers[1].step()
            optimizers[1].zero_grad()
            assert type(value) is float
            assert value == pytest.approx(wanted.item(), rel=1e-9)
            kept.append((prediction, before))
    for prediction, expected in kept:  # later steps have not changed them
        assert not any(isinstance(leaf.value, tg.Tensor) for leaf in tg.pytree.flatten(prediction))
        assert_same(leaves(prediction), expected)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("parts", [2, 4])
def test_threads_put_their_parts_of_the_prediction_in_a_row(monkeypatch, backend, parts):
    monkeypatch.setattr(pool, "threads", lambda: parts)
    for name in ("ELEMENTS", "IN_A_CALL", "FOR_A_PARAMETER"):
        monkeypatch.setattr(shares, name, 0)
    with interpreted():
        model = Plain()
        step = tg.compile_step(model, loss, optim.Adam(model.parameters(), 0.01), backend=backend, outputs=True)
        for _ in range(3):
            expected = leaves(model(X))
            assert_same(leaves(step(X, Y)[1]), expected)
        assert step.plans[0].shares.parts == parts
        model = Network()  # whose prediction is not one of examples alone
        step = tg.compile_step(model, loss, optim.Adam(model.parameters(), 0.01), backend=backend, outputs=True)
        expected = leaves(model(X))
        assert_same(leaves(step(X, Y)[1]), expected)
        assert step.plans[0].shares is None


def test_a_wrong_prediction_is_found(monkeypatch):
    """The loss and the gradients may be right, and what is put out wrong."""
    placed = tg.step.plan.copy_what_is_updated

    def swapped(program, updated):
        placed(program, updated)
        program.outputs[1:] = program.outputs[:0:-1]

    class Pair(nn.Module):
        def __init__(self):
            self.layer = nn.Dense(4, 3, rng=0).to(np.float64)

        def forward(self, x):
            return self.layer(x), self.layer(x * 2)

    monkeypatch.setattr(tg.step.plan, "copy_what_is_updated", swapped)
    model = Pair()
    step = tg.compile_step(
        model, lambda p, y: tg.cross_entropy(p[0] + p[1], y), optim.SGD(model.parameters()), outputs=True
    )
    expected = leaves(model(X))
    with pytest.warns(tg.CompileWarning, match="the prediction is"):
        _, prediction = step(X, Y)
    assert_same(leaves(prediction), expected)
    for _ in range(2):  # from now on eagerly
        expected = leaves(model(X))
        assert_same(leaves(step(X, Y)[1]), expected)


class Two(nn.Module):
    def __init__(self):
        self.a, self.b = nn.Linear(4, 3, rng=0).to(np.float64), nn.Linear(2, 3, rng=1).to(np.float64)

    def forward(self, x, z=None, scale=None):
        x, z = x if z is None else (x, z)
        y = self.a(x) + self.b(z)
        return y if scale is None else y * scale


def test_batches_of_every_form_have_their_own_programs():
    z, scale = RNG.standard_normal((8, 2)), RNG.random((8, 1))
    forms = [
        ((X, z, Y), {}),
        (((X, z), Y), {}),
        ((X, Y), {"z": z}),
        ((X, Y), {"scale": scale, "z": z}),
        ((X, z, Y), {"scale": scale}),
        ((X, z, {"labels": Y}), {}),
        ((X, z, {"labels": Y}), {}),
    ]

    def loss(prediction, target):
        return tg.cross_entropy(prediction, target["labels"] if isinstance(target, dict) else target)

    model, twin = Two(), Two()
    optimizers = [optim.Adam(m.parameters(), 0.01) for m in (model, twin)]
    step = tg.compile_step(model, loss, optimizers[0])
    for batch, named in forms * 3:
        found = step(*batch, **named)
        value = loss(twin(*batch[:-1], **named), batch[-1])
        value.backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
        assert found == pytest.approx(value.item(), rel=1e-9)
    assert step.traces == len(step.plans) == 6
    step.verify(*forms[1][0])
    assert "step" in step.source
    step.report(*forms[3][0], **forms[3][1])


def test_losses_that_are_no_single_tensor_are_refused_with_outputs_too():
    model = Plain()
    for wrong in (lambda p, t: p["logits"], lambda p, t: 1.0, lambda p, t: (np.sum(p["logits"]), t)):
        step = tg.compile_step(model, wrong, optim.SGD(model.parameters()), outputs=True)
        with pytest.raises(TypeError, match="the loss must be one number"):
            step(X, Y)
