"""Large products and the update by several threads: the same step, where the update gains more than threads cost."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim
from tinygrad_mm.compiler import together
from tinygrad_mm.compiler.passes import halves
from tinygrad_mm.step import shares

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}  # BLAS may add up the parts of a product in another order


@pytest.fixture
def cores(monkeypatch):
    """Split all products and updates, for a number of threads."""

    def of(count: int) -> None:
        monkeypatch.setattr(together, "threads", lambda: count)
        monkeypatch.setattr(halves, "LEAST", 1)
        monkeypatch.setattr(halves, "FEW", 1)
        monkeypatch.setattr(halves, "MULTIPLY_ADD", 0)
        monkeypatch.setattr(halves, "FORK", 0)
        monkeypatch.setattr(shares, "ELEMENTS", 1 << 60)

    of(2)
    return of


def mlp() -> nn.Module:
    return nn.Sequential(nn.Dense(4, 7, "tanh", rng=0), nn.Dense(7, 5, "relu", rng=1), nn.Linear(5, 3, rng=2))


def noisy() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 7, rng=0), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(0.5, rng=3), nn.Linear(7, 3, rng=1)
    )


def lenet() -> nn.Module:
    images = [nn.Conv2d(1, 3, 3, padding=1, rng=0), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*images, nn.Linear(48, 3, rng=1))


class Attention(nn.Module):
    """Products of stacks of matrices, of matrices with vectors, and of matrices."""

    def __init__(self):
        self.queries, self.keys, self.last = nn.Linear(4, 6, rng=0), nn.Linear(4, 6, rng=1), nn.Linear(5, 3, rng=2)
        self.vector = nn.Parameter(np.ones(4, np.float32))

    def forward(self, x):
        scores = self.queries(x) @ np.swapaxes(self.keys(x), -1, -2)
        return self.last(functional.softmax(scores))[:, 0] + (x[:, 0] @ self.vector)[:, None]


def batch(*shape: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape), rng.integers(0, 3, shape[0])


NETWORKS = {
    "mlp": (mlp, batch(11, 4)),
    "noisy": (noisy, batch(12, 4)),
    "lenet": (lenet, batch(20, 1, 8, 8)),
    "attention": (Attention, batch(6, 5, 4)),
}
OPTIMIZERS = {
    "SGD": lambda ps: optim.SGD(ps, 0.1),
    "momentum": lambda ps: optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda ps: optim.Adam(ps, 0.01),
    "groups": lambda ps: optim.AdamW(
        [{"parameters": list(ps)[:2]}, {"parameters": list(ps)[2:], "weight_decay": 0.0}], 0.01
    ),
}


def train(network: str, optimizer: str, steps: int = 6, alone: bool = False) -> tuple[list[float], list[Any], Any]:
    make, (x, y) = NETWORKS[network]
    with pytest.MonkeyPatch.context() as patch:
        if alone:
            patch.setattr(together, "threads", lambda: 1)
        model = make().to(np.float64)
        step = tg.compile_step(model, functional.cross_entropy, OPTIMIZERS[optimizer]([*model.parameters()]))
        losses = [step(x, y) for _ in range(steps)]
    assert (step.plans[0].threads == 1) is alone
    return losses, list(model.state_dict().values()), step


class TestSteps:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("network", NETWORKS)
    def test_the_same_as_by_one_thread(self, cores, network, optimizer):
        losses, found, step = train(network, optimizer)
        assert "product_in_threads(" in step.source
        expected = train(network, optimizer, alone=True)
        np.testing.assert_allclose(losses, expected[0], **TOLERANCE)
        for a, b in zip(found, expected[1], strict=True):
            np.testing.assert_allclose(a, b, **TOLERANCE)

    @pytest.mark.parametrize("count", [3, 8])
    def test_more_threads(self, cores, count):
        cores(count)
        losses, _, step = train("mlp", "Adam")
        assert step.plans[0].threads == count
        np.testing.assert_allclose(losses, train("mlp", "Adam", alone=True)[0], **TOLERANCE)

    def test_fewer_threads_later(self, cores, monkeypatch):
        expected = train("mlp", "Adam", 9, alone=True)[0]
        losses, _, step = train("mlp", "Adam", 3)
        cores(1)
        monkeypatch.setattr(together, "at_once", lambda calls: pytest.fail("threads"))
        losses += [step(*NETWORKS["mlp"][1]) for _ in range(3)]
        monkeypatch.undo()
        cores(2)
        losses += [step(*NETWORKS["mlp"][1]) for _ in range(3)]
        np.testing.assert_allclose(losses, expected, **TOLERANCE)

    def test_steps_in_several_threads(self, cores):
        """One of them may use other threads at a time; the others go on without."""
        before = [library.num_threads for library in together._blas().lib_controllers]
        found: list[Any] = []
        runs = [threading.Thread(target=lambda: found.append(train("mlp", "Adam", 40)[0])) for _ in range(4)]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        for losses in found:
            np.testing.assert_allclose(losses, train("mlp", "Adam", 40, alone=True)[0], **TOLERANCE)
        assert len(found) == 4
        assert [library.num_threads for library in together._blas().lib_controllers] == before

    def test_a_wrong_label_changes_nothing(self, cores):
        _, before, step = train("mlp", "Adam")
        x, y = NETWORKS["mlp"][1]
        with pytest.raises(ValueError, match="label is out of range"):
            step(x, y + 3)
        assert all(np.array_equal(a, p.data) for a, p in zip(before, step.model.parameters(), strict=True))
        assert step(x, y) > step(x, y)

    def test_report_and_save(self, cores, tmp_path):
        _, before, step = train("mlp", "SGD")
        x, y = NETWORKS["mlp"][1]
        report = step.report(x, y)
        assert report.multiply_adds == train("mlp", "SGD", alone=True)[2].report(x, y).multiply_adds > 11 * 5 * 7
        assert all(np.array_equal(a, p.data) for a, p in zip(before, step.model.parameters(), strict=True))
        namespace: dict[str, Any] = {}
        exec(step.save(tmp_path / "step.py").read_text(), namespace)
        for _ in range(3):
            ((loss,), _) = namespace["functions"][0](x, y)
            assert loss == pytest.approx(step(x, y), rel=1e-12)


class TestWhetherItPays:
    def test_a_wide_network(self, monkeypatch):
        model = nn.Sequential(nn.Dense(784, 1024, "relu", rng=0), nn.Linear(1024, 10, rng=1))
        x, y = np.zeros((128, 784), np.float32), np.zeros(128, int)
        for optimizer, cores, expected in (("Adam", 2, 2), ("SGD", 2, 1), ("Adam", 1, 1)):
            monkeypatch.setattr(together, "threads", lambda cores=cores: cores)
            step = tg.compile_step(model, functional.cross_entropy, OPTIMIZERS[optimizer]([*model.parameters()]))
            step(x, y)
            assert step.plans[0].threads == expected

    def test_not_for_little_work(self, monkeypatch):
        monkeypatch.setattr(together, "threads", lambda: 2)
        model = mlp().to(np.float64)
        step = tg.compile_step(model, functional.cross_entropy, optim.Adam(model.parameters(), 0.1))
        step(*batch(11, 4))
        assert step.plans[0].threads == 1


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    turned=st.tuples(st.booleans(), st.booleans()),
    parts=st.integers(1, 5),
)
def test_a_product_in_threads(shape: tuple[int, int, int], turned: tuple[bool, bool], parts: int) -> None:
    """Also of transposed arrays, and with more threads than rows and columns."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    a, b = (np.asfortranarray(x) if turn else x for x, turn in zip((a, b), turned, strict=True))
    out = np.full((m, n), np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "threads", lambda: parts)
        together.in_phases([[lambda: together.product_in_threads(a, b, out)]], parts)
    np.testing.assert_allclose(out, a @ b, rtol=1e-13, atol=1e-13)
