"""Images in compiled programs: with the examples along the last axis they give what they give one after the other."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from interpreted import interpreted

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.compiler.images import examples_last
from tinygrad_mm.compiler.passes.images import EXAMPLES_FROM
from tinygrad_mm.functional.pooling import _max_pool, _to_maxima
from tinygrad_mm.functional.sliding import overlap_add, windows


@st.composite
def networks(draw):
    """(a function of images and parameters, the images, the parameters)."""
    n = EXAMPLES_FROM + draw(st.sampled_from([0, 0, 1, 2, -1]))
    channels, height, width = draw(st.integers(1, 3)), draw(st.integers(5, 9)), draw(st.integers(5, 9))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    whole = draw(st.booleans())  # small integers, of which many are equal

    def numbers(*shape):
        return rng.integers(-2, 3, shape).astype(float) if whole else rng.standard_normal(shape)

    x = numbers(n, channels, height, width)
    parameters, layers, shape = [], [], x.shape
    first = draw(st.sampled_from(["conv", "max", "mean"]))  # nothing is rewritten before a window slides
    others = st.sampled_from(["compare", "conv", "max", "mean", "norm", "relu", "tanh", "scale", "residual"])
    for kind in [first, *draw(st.lists(others, max_size=3))]:
        k = draw(st.integers(1, min(3, *shape[2:])))
        options = {"stride": draw(st.integers(1, 3)), "padding": draw(st.integers(0, k // 2))}
        if kind == "conv":
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if shape[1] % g == 0]))
            weight, bias = numbers(groups * 2, shape[1] // groups, k, k), numbers(groups * 2)
            at = len(parameters)
            parameters += [weight, bias]
            layers.append(lambda x, p, at=at, o=options, g=groups: tg.conv2d(x, p[at], p[at + 1], groups=g, **o))
        elif kind == "max":
            layers.append(lambda x, p, k=k, o=options: tg.max_pool2d(x, k, **o))
        elif kind == "mean":
            layers.append(lambda x, p, k=k, o=options: tg.avg_pool2d(x, k, **o))
        elif kind == "norm":
            layers.append(
                lambda x, p: (x - np.mean(x, (0, 2, 3), keepdims=True)) / (1 + np.var(x, (0, 2, 3), keepdims=True))
            )
        elif kind == "relu":
            layers.append(lambda x, p: tg.relu(x))
        elif kind == "tanh":
            layers.append(lambda x, p: np.tanh(x))
        elif kind == "scale":
            at = len(parameters)
            parameters.append(numbers(shape[1], 1, 1))
            layers.append(lambda x, p, at=at: x * p[at])
        elif kind == "compare":
            at = len(parameters)
            parameters.append(numbers(*shape))
            layers.append(lambda x, p, at=at: x * (x > p[at]) + 0.5 * p[at])
        else:
            layers.append(lambda x, p: x + np.sum(x, axis=(2, 3), keepdims=True) * 0.1)
        with tg.no_grad():
            shape = layers[-1](tg.Tensor(np.zeros(shape)), [tg.Tensor(p) for p in parameters]).shape
    flat = draw(st.booleans())

    def function(x, *p):
        for layer in layers:
            x = layer(x, p)
        x = x.reshape(x.shape[0], -1) if flat else x
        return np.sum(np.sin(x) * x), x

    return function, x, parameters


@settings(max_examples=150)
@given(networks(), st.sampled_from([np.float64, np.float32]))
def test_networks_of_images_agree_with_eager_ones(network, dtype):
    agree(network, dtype, "numpy")


@settings(max_examples=15)
@given(networks(), st.sampled_from([np.float64, np.float32]))
def test_networks_of_images_agree_with_eager_ones_in_loops(network, dtype):
    with interpreted():
        agree(network, dtype, "numba")


def agree(network, dtype, backend):
    """The same loss, result and gradients as eager, within what one rounding of the inputs changes there."""
    function, x, parameters = network
    arrays = [a.astype(dtype) for a in (x, *parameters)]
    signs = np.random.default_rng(0)
    rounded = [(a * (1 + np.finfo(dtype).eps * signs.choice([-1, 1], a.shape))).astype(dtype) for a in arrays]

    def run(f, given=arrays):
        tensors = [tg.Tensor(a.copy(), requires_grad=True) for a in given]
        loss, y = f(*tensors)
        loss.backward()
        return [loss.detach().data, y.detach().data, *(t.grad for t in tensors)]

    # Losses and gradients are sums over all places of all examples, of terms of about 1 that may cancel.
    compiled = run(tg.compile(function, backend=backend))
    for a, b, other in zip(compiled, run(function), run(function, rounded), strict=True):
        assert a.dtype == b.dtype == dtype
        noise = 4096 * np.finfo(dtype).eps * max(1, np.abs(b).max(initial=0)) + 16 * np.abs(b - other).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=noise)


class Small(nn.Module):
    def __init__(self):
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1, rng=0), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, rng=1)
        self.drop, self.dense = nn.Dropout(0.3, rng=2), nn.Dense(6 * 4, 3, rng=3)

    def forward(self, x):
        x = tg.max_pool2d(tg.relu(self.norm(self.first(x))), 2)
        x = tg.max_pool2d(tg.relu(self.second(x)), 2, stride=1)
        return self.dense(self.drop(x.reshape(x.shape[0], -1)))


@pytest.mark.parametrize("n", [EXAMPLES_FROM - 1, EXAMPLES_FROM, 40])
def test_training_steps_agree_with_eager_ones(n):
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((n, 1, 11, 11)), rng.integers(0, 3, n)) for _ in range(6)]
    models = [Small().to(np.float64) for _ in range(2)]
    optimizers = [tg.optim.Adam(model.parameters(), 0.01) for model in models]
    step = tg.compile_step(models[0], tg.cross_entropy, optimizers[0])
    for x, y in batches:
        optimizers[1].zero_grad()
        loss = tg.cross_entropy(models[1](x), y)
        loss.backward()
        optimizers[1].step()
        assert step(x, y) == pytest.approx(loss.item(), rel=1e-9)
    assert ("windows" in step.source) == (n < EXAMPLES_FROM), "from here on, patches are copied by NumPy's calls alone"
    for (name, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9, err_msg=name)


def test_the_saved_step_needs_numpy_only(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 1, 11, 11), np.float32), rng.integers(0, 3, 20)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Dense(36, 3, rng=1))
    step = tg.compile_step(model, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.1))
    step(x, y)
    path = step.save(tmp_path / "step.py")
    text = path.read_text()
    assert "tinygrad_mm" not in text.partition('"""\n\nimport')[2]
    namespace: dict = {}
    exec(compile(text, path, "exec"), namespace)
    (loss,), _ = namespace["functions"][0](x, y)
    assert float(loss) == pytest.approx(step(x, y), rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The calls by themselves
# ---------------------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 3),
    st.tuples(st.integers(5, 8), st.integers(5, 8)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 1), st.integers(0, 1)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from([0.0, 2.5, -np.inf, np.nan]),
)
def test_each_call_is_written_as_it_is_defined(channels, lengths, size, stride, before, dilation, number):
    """Into arrays with the examples innermost, in memory that was used before."""
    from tinygrad_mm.compiler.emitter import emit
    from tinygrad_mm.compiler.program import Op, Program, Value

    rng = np.random.default_rng(0)
    window = (size, stride, tuple((p, p) for p in before), dilation)
    x = rng.integers(-2, 3, (4, channels, *lengths)).astype(np.float32)
    y = _max_pool(x, *window)
    calls = [
        (windows, [x], (*window, number)),
        (overlap_add, [windows(x, *window)], (x.shape, *window)),
        (_max_pool, [x], window),
        (_to_maxima, [rng.standard_normal(y.shape).astype(np.float32), y, x], window),
    ]
    for fun, arrays, options in calls:
        for turned in (False, True):  # operands that lie as the result, or as they are
            program = Program()
            inner = [Value(a, "input", f"a{i}") for i, a in enumerate(arrays)]
            copies = [Value(a) for a in arrays]
            expected = fun(*arrays, *options)
            result, late = Value(expected), Value(expected)
            for value in (*(copies if turned else ()), result):
                value.order = examples_last(value.ndim)
            program.inputs = inner
            program.ops = [Op(np.positive, [a], {}, b) for a, b in zip(inner, copies, strict=True)]
            program.ops += [Op(fun, [*copies, *options], {}, result), Op(np.positive, [result], {}, late)]
            program.outputs = [late]
            emitted = emit(program)
            assert fun.__name__ not in emitted.source
            forward, _ = emitted.make([])
            for _ in range(2):
                (found,), *_ = forward(*arrays)
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=fun.__name__)


def test_relu_goes_back_before_pooling():
    """On a quarter of the elements; with ties, some of them at 0."""
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (EXAMPLES_FROM, 2, 6, 6)).astype(np.float32)
    weight = rng.integers(-1, 2, (3, 2, 3, 3)).astype(np.float32)

    def function(x, weight):
        return np.sum(np.sin(tg.max_pool2d(tg.relu(tg.conv2d(x, weight)), 2)))

    grads = []
    compiled = tg.compile(function)
    for f in (compiled, function):
        tensors = [tg.Tensor(a, requires_grad=True) for a in (x, weight)]
        f(*tensors).backward()
        grads.append([t.grad for t in tensors])
    for ours, expected in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    pooled = f"({EXAMPLES_FROM}, 3, 2, 2)"
    lines = [line for line in compiled.source.splitlines() if "multiply(" in line and "view" in line]
    assert any(line.endswith(f"# {pooled}") for line in lines), "relu's mask is that of the pooled images"
