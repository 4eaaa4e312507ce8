"""Recorded draws: their distributions, their gradients, new ones in each call of a compiled function; initial values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn, random


def generator(seed=0):
    return np.random.default_rng(seed)


N = 40_000


def differs(sample, cumulative):
    """Kolmogorov and Smirnov's distance, in units of what one in a million samples exceeds."""
    sample = np.sort(np.asarray(sample, np.float64).ravel())
    probabilities = np.array([cumulative(v) for v in sample])
    ranks = np.arange(len(sample) + 1) / len(sample)
    distance = max(np.abs(ranks[1:] - probabilities).max(), np.abs(ranks[:-1] - probabilities).max())
    return distance * math.sqrt(len(sample)) / 2.7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distributions(dtype):
    z = random.normal(1.0, 2.0, shape=N, rng=generator(), dtype=dtype)
    assert z.dtype == dtype
    assert differs(z.data, lambda v: 0.5 + 0.5 * math.erf((v - 1) / 2 / math.sqrt(2))) < 1
    assert differs(z.data, lambda v: 0.5 + 0.5 * math.erf((v - 1.1) / 2 / math.sqrt(2))) > 1  # it would tell
    u = random.uniform(-1.0, 3.0, shape=(N,), rng=generator(), dtype=dtype)
    assert u.dtype == dtype
    assert differs(u.data, lambda v: (v + 1) / 4) < 1
    assert -1 <= u.data.min() <= u.data.max() <= 3


def test_classes():
    p = np.array([0.2, 0.7, 0.1])
    logits = np.log(p) + 5
    codes = random.categorical(np.broadcast_to(logits, (N, 3)), rng=generator())
    counts = np.bincount(codes.data, minlength=3) / N
    assert np.abs(counts - p).max() < 5 * math.sqrt(0.25 / N)
    one = random.gumbel_softmax(np.broadcast_to(logits, (N, 3)), hard=True, rng=generator())
    assert np.allclose(one.data.sum(1), 1)
    assert np.abs(one.data.mean(0) - p).max() < 5 * math.sqrt(0.25 / N)
    ones = random.bernoulli(np.full(N, 0.3), rng=generator())
    assert set(np.unique(ones.data)) == {0, 1}
    assert abs(ones.data.mean() - 0.3) < 5 * math.sqrt(0.25 / N)
    first = random.categorical(logits[:, None] * np.ones(4), axis=0, rng=generator())
    assert first.shape == (4,)


def test_gradients_flow_to_the_parameters():
    mean, deviation = (tg.Tensor(generator(i).uniform(1, 2, (3, 4)), requires_grad=True) for i in range(2))
    z = random.normal(mean, deviation, rng=generator())
    z.sum().backward()
    assert np.array_equal(mean.grad, np.ones((3, 4)))
    assert np.allclose(deviation.grad, (z.data - mean.data) / deviation.data)
    low, high = tg.Tensor(np.zeros((4,)), requires_grad=True), tg.Tensor(np.ones((3, 1)), requires_grad=True)
    u = random.uniform(low, high, rng=generator())
    u.sum().backward()
    assert np.allclose(high.grad, u.data.sum(1, keepdims=True))
    assert np.allclose(low.grad, (1 - u.data).sum(0))
    logits = tg.Tensor(generator(3).standard_normal((3, 4)), requires_grad=True)
    weight = generator(4).standard_normal((3, 4))
    grads = []
    for hard in (True, False):
        logits.grad = None
        (random.gumbel_softmax(logits, 0.7, hard, rng=generator()) * weight).sum().backward()
        grads.append(logits.grad)
    assert np.allclose(*grads)
    assert np.any(grads[0])


def test_a_lower_temperature_is_nearer_to_one_class():
    logits = generator(1).standard_normal((50, 4))
    tops = [random.gumbel_softmax(logits, t, rng=generator()).data.max(1).mean() for t in (5.0, 1.0, 0.1)]
    assert tops == sorted(tops)


DRAWS = {
    "normal": lambda x, rng: random.normal(x, 0.5, rng=rng),
    "normal, of a shape": lambda x, rng: x + random.normal(shape=(2, 3), rng=rng),
    "uniform": lambda x, rng: random.uniform(x, x + 2, rng=rng),
    "bernoulli": lambda x, rng: x * random.bernoulli(0.4, shape=(2, 3), rng=rng),
    "categorical": lambda x, rng: x[:, 0] * random.categorical(x, rng=rng),
    "gumbel_softmax": lambda x, rng: random.gumbel_softmax(x, 0.5, rng=rng) * np.arange(3),
    "gumbel_softmax, hard": lambda x, rng: random.gumbel_softmax(x, 0.5, True, rng=rng) * np.arange(3),
}


@pytest.mark.parametrize("name", DRAWS)
def test_compiled_functions_and_checkpoints_draw_as_eager_ones_do(name):
    draw = DRAWS[name]
    theirs, ours, again = (generator(7) for _ in range(3))
    compiled = tg.compile(lambda x: draw(x, ours))
    checkpointed = tg.checkpoint(lambda x: draw(x, again))
    found = []
    for step in range(4):
        x = generator(step).standard_normal((2, 3)).astype(np.float32)
        xs = [tg.Tensor(x, requires_grad=True) for _ in range(3)]
        ys = [draw(xs[0], theirs), compiled(xs[1]), checkpointed(xs[2])]
        for y in ys:
            (y * y).sum().backward()
        for y, t in zip(ys[1:], xs[1:], strict=True):
            np.testing.assert_allclose(y.data, ys[0].data, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(t.grad, xs[0].grad, rtol=1e-5, atol=1e-6)
        found.append(ys[0].data - x.reshape(-1)[: ys[0].size].reshape(ys[0].shape))
    assert len({a.tobytes() for a in found}) > 1


def test_shapes_and_dtypes():
    assert random.normal(rng=generator()).shape == ()
    assert random.normal([1.0, 2.0], rng=generator()).shape == (2,)
    assert random.normal(np.zeros((2, 1)), np.ones(3), rng=generator()).dtype == np.float64
    assert random.normal(np.zeros(2, np.float32), 3, rng=generator()).dtype == np.float32
    assert random.uniform(tg.Tensor([0.0]), shape=(4, 2), rng=generator()).shape == (4, 2)


def test_what_is_refused():
    for call in (random.normal, random.uniform, lambda rng: random.bernoulli(0.5, rng=rng)):
        with pytest.raises(TypeError, match=r"pass rng=np.random.default_rng\(seed\)"):
            call(rng=0)
    for call in (random.categorical, random.gumbel_softmax):
        with pytest.raises(TypeError, match="draws from a generator of yours"):
            call([0.0, 1.0], rng=None)
    with pytest.raises(ValueError, match="temperature=0 must be positive"):
        random.gumbel_softmax([0.0], 0, rng=generator())


# -- initial values


def test_normal_and_uniform():
    w = nn.init.normal((300, 300), 0, np.float64, deviation=0.5, mean=1.0)
    assert abs(w.mean() - 1) < 0.01
    assert abs(w.std() - 0.5) < 0.01
    u = nn.init.uniform((300, 300), 0, low=1.0, high=3.0)
    assert u.dtype == np.float32
    assert abs(u.mean() - 2) < 0.01
    assert 1 <= u.min() <= u.max() <= 3


def test_sparse():
    w = nn.init.sparse((40, 30), 0, connections=7, deviation=2.0)
    assert np.array_equal((w != 0).sum(0), np.full(30, 7))
    assert abs(w[w != 0].std() - 2) < 0.4
    assert np.all(nn.init.sparse((3, 2), 0) != 0)
    filters = nn.init.sparse((6, 3, 5, 5), 0, connections=4)
    assert np.array_equal((filters != 0).sum((1, 2, 3)), np.full(6, 4))
    with pytest.raises(ValueError, match="two axes"):
        nn.init.sparse((3,))
    with pytest.raises(ValueError, match="connections=-1"):
        nn.init.sparse((3, 2), connections=-1)


@given(groups=st.integers(1, 3), per_group=st.integers(1, 3), window=st.sampled_from([(3,), (3, 3), (1, 5)]))
def test_dirac_leaves_images_as_they_are(groups, per_group, window):
    channels = groups * per_group
    w = nn.init.dirac((channels, per_group, *window), groups=groups)
    x = generator().standard_normal((2, channels, *(6,) * len(window))).astype(np.float32)
    convolve = tg.conv1d if len(window) == 1 else tg.conv2d
    assert np.array_equal(convolve(x, w, padding="same", groups=groups), x)
    with pytest.raises(ValueError, match="do not divide into groups=7"):
        nn.init.dirac((channels, per_group, *window), groups=7)


def test_dirac_of_two_axes():
    assert np.array_equal(nn.init.dirac((2, 3)), np.eye(2, 3))


# -- topk


@given(k=st.integers(0, 4), axis=st.integers(-2, 1), largest=st.booleans(), seed=st.integers(0, 9))
def test_topk(k, axis, largest, seed):
    x = tg.Tensor(generator(seed).standard_normal((5, 4)), requires_grad=True)
    values, places = tg.topk(x, k, axis, largest)
    expected = np.sort(x.data, axis=axis)
    expected = np.flip(expected, axis) if largest else expected
    assert np.array_equal(values.data, np.take(expected, range(k), axis))
    assert np.array_equal(np.take_along_axis(x.data, places.data, axis), values.data)
    values.sum().backward()
    chosen = np.zeros((5, 4))
    np.put_along_axis(chosen, places.data, 1, axis)
    assert np.array_equal(x.grad, chosen)


def test_topk_refuses():
    with pytest.raises(ValueError, match="k=4 of an axis of length 3"):
        tg.topk(np.zeros((2, 3)), 4)
    with pytest.raises(ValueError, match="has no axis 2"):
        tg.topk(np.zeros((2, 3)), 1, axis=2)
