"""Clipping of gradients, and averages of parameters."""

from __future__ import annotations

import numpy as np
import pytest
from update_rules import parameters, train

import tinygrad_mm as tg
from tinygrad_mm import optim


def test_clip_grad_norm_where_squares_are_too_large_for_float32():
    p = tg.Parameter(np.zeros(2, np.float32))
    p.grad = np.array([3e25, 4e25], np.float32)
    assert np.isclose(optim.clip_grad_norm([p], 1.0), 5e25)
    assert np.allclose(p.grad, [0.6, 0.8])


def test_clip_grad_norm_where_it_is_not_finite():
    p, q = tg.Parameter([1.0]), tg.Parameter([1.0, 1.0])
    p.grad, q.grad = np.ones(1, np.float32), np.array([1.0, np.nan], np.float32)
    assert np.isnan(optim.clip_grad_norm([p, q], 0.5))
    assert p.grad.item() == 1.0
    q.name = "weight"
    with pytest.raises(RuntimeError, match=r"gradient of weight \(shape \(2,\)\) has 1 elements"):
        optim.clip_grad_norm([p, q], 0.5, error_if_nonfinite=True)
    q.grad[1] = np.inf
    assert optim.clip_grad_norm([p, q], 0.5) == np.inf


def test_clip_grad_value():
    ps = parameters([(4,), ()], np.float16)
    ps[0].grad, ps[1].grad = np.array([-3, -0.5, np.nan, np.inf], np.float16), np.float16(7)
    optim.clip_grad_value(ps, 1e6)  # more than a float16 can be
    optim.clip_grad_value(ps, 2.0)
    assert np.array_equal(ps[0].grad, np.array([-2, -0.5, np.nan, 2], np.float16), equal_nan=True)
    assert ps[1].grad == 2
    assert ps[0].grad.dtype == ps[1].grad.dtype == np.float16


def test_clipping_shared_read_only_and_missing_gradients():
    p, q, r, s = (tg.Parameter([0.0, 0.0]) for _ in range(4))
    p.grad = q.grad = np.array([3.0, 4.0], np.float32)
    r.grad = np.broadcast_to(np.float32(0.0), (2,))
    assert np.isclose(optim.clip_grad_norm([p, q, r, s, p], np.sqrt(50) / 2), np.sqrt(50))
    assert np.allclose(p.grad, [1.5, 2.0])  # once, though two parameters hold it
    assert s.grad is None
    model = tg.nn.Dense(2, 2, rng=0)
    for whole in (model, optim.SGD(model.parameters(), 0.1), model.weight):
        assert optim.clip_grad_norm(whole, 1.0) == 0.0
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be a positive number"):
            optim.clip_grad_norm([p], wrong)
        with pytest.raises(ValueError, match="must be a positive number"):
            optim.clip_grad_value([p], wrong)
    with pytest.raises(TypeError, match="hold a int"):
        optim.clip_grad_norm([1], 1.0)


# -- averages of weights


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_exponential_moving_average(dtype):
    ps = parameters(dtype=dtype)
    expected = [p.data.astype(np.float64) for p in ps]
    average = optim.ExponentialMovingAverage(ps, decay=lambda n: min(0.9, (1 + n) / (10 + n)))
    for t in range(5):
        for i, p in enumerate(ps):
            p.data = np.asarray(p.data + (i + t), dtype)
            decay = min(0.9, (1 + t) / (10 + t))
            expected[i] = decay * expected[i] + (1 - decay) * p.data
        average.update()
    weights = [p.data.copy() for p in ps]
    with average.swapped():
        for p, e in zip(ps, expected, strict=True):
            assert p.dtype == dtype
            assert np.allclose(p.data, e, rtol={2: 2e-3, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize])
    assert all(np.array_equal(p.data, w) for p, w in zip(ps, weights, strict=True))


def test_swapped_gives_the_weights_back_whatever_happens():
    model = tg.nn.Dense(3, 2, rng=0)
    optimizer = optim.SGD(model.parameters(), 0.1)
    average = optim.ExponentialMovingAverage(model, decay=0.5)
    train(optimizer, model.parameters(), 0, 2)
    average.update()
    before = [p.data.copy() for p in model.parameters()]
    arrays = [p.value for p in model.parameters()]

    def spoil():
        with average.swapped():
            with pytest.raises(RuntimeError, match="leave that block first"), average.swapped():
                pass
            with pytest.raises(RuntimeError, match="call it outside"):
                average.update()
            train(optimizer, model.parameters(), 0, 1)
            model.weight.data = np.zeros(5)
            raise KeyError("oops")

    averages = average.state_dict()
    with pytest.raises(KeyError, match="oops"):
        spoil()
    for p, b in zip(model.parameters(), before, strict=True):
        assert p.data.tobytes() == b.tobytes()
        assert p.dtype == b.dtype
    assert all(np.array_equal(a, averages["state"][k]) for k, a in average.state_dict()["state"].items())
    with average.swapped():
        pass
    assert model.bias.value is arrays[1]  # still the optimizer's own
    train(optimizer, model.parameters(), 0, 1)
    assert not np.array_equal(model.weight.data, before[0])


def test_swapping_counts_as_a_change():
    p = tg.Parameter([1.0, 2.0])
    average = optim.ExponentialMovingAverage([p])
    loss = np.sum(p * p)
    with average.swapped(), pytest.raises(RuntimeError, match="was changed after"):
        loss.backward()
    with average.swapped():
        inside = np.sum(p * p)
    with pytest.raises(RuntimeError, match="was changed after"):
        inside.backward()


def test_averages_are_saved_and_follow_conversions():
    ps = parameters([(2,), (3,)], np.float32)
    average = optim.ExponentialMovingAverage(ps, decay=0.5)
    ps[0].data = ps[0].data.astype(np.float64) + 1
    average.update()
    state = average.state_dict()
    assert [a.dtype for a in state["state"].values()] == [np.float64, np.float32]
    other = optim.ExponentialMovingAverage(ps, decay=0.5)
    other.load_state_dict(state)
    for one in (average, other):
        ps[0].data = np.ones(2)
        one.update()
    assert other.updates == 2
    for key, a in average.state_dict()["state"].items():
        assert np.array_equal(other.state_dict()["state"][key], a)
    good = other.state_dict()
    for bad in (
        {},
        {**state, "state": {}},
        {**state, "options": {"updates": -1}},
        {**state, "state": {"0": np.ones(2), "1": np.ones(3)}},
    ):
        with pytest.raises(ValueError, match="ExponentialMovingAverage"):
            other.load_state_dict(bad)
    assert all(np.array_equal(good["state"][k], a) for k, a in other.state_dict()["state"].items())
    ps[1].data = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=r"now has shape \(4,\)"):
        average.update()
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            optim.ExponentialMovingAverage(ps, decay=wrong)
    with pytest.raises(ValueError, match="no parameters"):
        optim.ExponentialMovingAverage([])


def test_clipping_float16_by_a_factor_that_float16_cannot_hold():
    p = tg.Parameter(np.zeros(2, np.float16))
    p.grad = np.array([3e4, 4e4], np.float16)
    optim.clip_grad_norm([p], 1e-4)
    assert np.allclose(p.grad, [6e-5, 8e-5], rtol=1e-2)
