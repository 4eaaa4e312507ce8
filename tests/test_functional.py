"""Network functions: numeric gradients of every loss, stability, windows as a linear map and its transpose, errors.

Values of single primitives are checked row by row in `table/`, everything against PyTorch in `test_torch_parity.py`.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import first_derivative

import tinygrad_mm as tg
from tinygrad_mm import functional
from tinygrad_mm.functional import pooling
from tinygrad_mm.graph import entered, state
from tinygrad_mm.transforms import checkpoint

ACTIVATIONS = [
    functional.relu,
    functional.leaky_relu,
    functional.elu,
    functional.gelu,
    lambda x: functional.gelu(x, "tanh"),
    functional.silu,
    functional.softplus,
    lambda x: functional.softplus(x, 3.0),
    functional.sigmoid,
    functional.tanh,
    functional.erf,
    functional.softmax,
    functional.log_softmax,
    functional.logsumexp,
]


def rng(seed=0):
    return np.random.default_rng(seed)


def check_gradients(f, arrays, seed=0, h=1e-4, rtol=1e-7):
    """All gradients of a function of float64 arrays, along a random direction, against central differences."""
    xs = [tg.Tensor(a, requires_grad=True) for a in arrays]
    y = f(*xs)
    weight = rng(seed).uniform(0.5, 1.5, y.shape)
    (y * weight).sum().backward()
    directions = [rng(seed + 1 + i).uniform(-1, 1, a.shape) for i, a in enumerate(arrays)]
    value = lambda *arrays: float(np.sum(f(*arrays) * weight))
    for i in range(len(arrays)):
        alone = [d * (k == i) for k, d in enumerate(directions)]
        numeric = first_derivative(value, list(arrays), alone, h)
        terms = xs[i].grad * directions[i]
        assert abs(numeric - terms.sum()) <= rtol * (np.abs(terms).sum() + abs(numeric)) + 1e-10, f"argument {i}"


# -- activations


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("f", ACTIVATIONS)
def test_activations_are_stable(f, dtype):
    """No warning and no NaN at ±1e4, forward and backward, of first and second order."""
    x = tg.Tensor(np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 30.0]], dtype), requires_grad=True)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y = f(x)
        g = tg.gradients(y.sum(), x, create_graph=True)
        second = tg.gradients(g.sum(), x, allow_unused=True) if g.requires_grad else g
    for t in (y, g, second):
        assert t is None or (np.isfinite(t.data).all() and t.dtype == dtype)


@given(x=st.floats(-8, 8), dtype=st.sampled_from([np.float32, np.float64]))
def test_erf_is_the_standard_librarys(x, dtype):
    x = dtype(x)
    y = functional.erf(np.array([x]))[0]
    assert y.dtype == dtype
    assert abs(float(y) - math.erf(float(x))) <= 3 * np.spacing(dtype(abs(math.erf(float(x)))))


def test_erf_of_everything():
    x = np.linspace(-7, 7, 50001)
    exact = np.array([math.erf(v) for v in x])
    assert np.max(np.abs(functional.erf(x) - exact) / np.spacing(np.abs(exact))) <= 3
    x = x.astype(np.float32)
    exact = np.array([math.erf(v) for v in x.tolist()], np.float64)
    error = np.abs(functional.erf(x) - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert np.max(error) <= 3
    assert np.array_equal(functional.erf(np.array([np.inf, -np.inf, np.nan, -0.0])), [1, -1, np.nan, 0], equal_nan=True)
    assert np.signbit(functional.erf(np.array([-0.0])))[0]
    assert functional.erf(np.float16([0.5])).dtype == np.float16
    assert functional.erf(0.5) == pytest.approx(math.erf(0.5), rel=1e-15)
    assert functional.erf(np.array([0, 1])).dtype == np.float64


def test_gelu_refuses():
    with pytest.raises(ValueError, match="use 'none' or 'tanh'"):
        functional.gelu(np.zeros(2), "sigmoid")


# -- losses

LABELS = np.array([2, 0, -1, 3])
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])

LOSSES = {
    "cross_entropy": (lambda x, r: tg.cross_entropy(x, [2, 0, 1, 3], reduction=r), 1),
    "weighted": (lambda x, r: tg.cross_entropy(x, LABELS, WEIGHT, -1, r), 1),
    "smoothed": (lambda x, r: tg.cross_entropy(x, LABELS, WEIGHT, -1, r, label_smoothing=0.2), 1),
    "nll_loss": (lambda x, r: functional.nll_loss(x, LABELS, WEIGHT, -1, r), 1),
    "mse_loss": (lambda x, y, r: functional.mse_loss(x, y, r), 2),
    "l1_loss": (lambda x, y, r: functional.l1_loss(x, y, r), 2),
    "huber_loss": (lambda x, y, r: functional.huber_loss(x, y, r, delta=0.7), 2),
    "binary": (lambda x, y, r: functional.binary_cross_entropy_with_logits(x, y, WEIGHT, r, WEIGHT), 2),
    "kl_div": (lambda x, y, r: functional.kl_div(x, np.exp(y), r), 2),
    "kl_div of logs": (lambda x, y, r: functional.kl_div(x, y, r, log_target=True), 2),
    "expected": (lambda x, y, r: tg.cross_entropy(x, functional.softmax(y), WEIGHT, reduction=r, label_smoothing=0.1), 2),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses(name, reduction):
    loss, n = LOSSES[name]
    check_gradients(lambda *xs: loss(*xs, reduction), [rng(i).standard_normal((4, 4)) for i in range(n)])


@pytest.mark.parametrize("f", [functional.mse_loss, functional.l1_loss, functional.huber_loss, functional.kl_div,
                               functional.binary_cross_entropy_with_logits])  # fmt: skip
def test_losses_never_broadcast_nor_promote(f):
    x = np.zeros((4, 1), np.float32)
    with pytest.raises(ValueError, match=r"predictions have shape \(4, 1\), targets \(4,\); write targets.reshape"):
        f(x, np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="nothing is broadcast by accident"):
        f(x, np.zeros((4, 3), np.float32))
    for dtype in (np.float64, np.int64, np.uint8, bool):
        with pytest.raises(TypeError, match=r"targets.astype\(np.float32\)"):
            f(x, np.zeros((4, 1), dtype))
    with pytest.raises(TypeError, match=r"predictions.astype\(np.float32\)"):
        f(np.zeros((4, 1), int), np.zeros((4, 1), int))
    with pytest.raises(ValueError, match="use 'mean', 'sum' or 'none'"):
        f(x, x, reduction="average")


def test_losses_refuse_bad_options():
    logits = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        tg.cross_entropy(logits, [0, 1, 2, 0], label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"weight has shape \(2,\); there are 3 classes"):
        tg.cross_entropy(logits, [0, 1, 2, 0], np.ones(2, np.float32))
    with pytest.raises(TypeError, match=r"weight.astype\(np.float32\)"):
        tg.cross_entropy(logits, [0, 1, 2, 0], np.ones(3))
    with pytest.raises(ValueError, match="ignore_index is for integer labels"):
        tg.cross_entropy(logits, logits, ignore_index=0)
    with pytest.raises(ValueError, match=r"labels lie in -100..2.*ignore_index=that mark"):
        tg.cross_entropy(logits, [0, 1, 2, -100])
    with pytest.raises(ValueError, match=r"labels lie in -1..2"):
        functional.nll_loss(logits, [0, -1, 2, -100], ignore_index=-100)
    with pytest.raises(ValueError, match="must be positive"):
        functional.huber_loss(logits, logits, delta=0)
    with pytest.raises(ValueError, match="'batchmean'"):
        functional.kl_div(logits, logits, reduction="median")


@given(
    shape=st.lists(st.integers(1, 4), max_size=2),
    classes=st.integers(1, 5),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    kind=st.sampled_from([np.int64, np.int8, np.uint8]),
    seed=st.integers(0, 9),
    transposed=st.booleans(),
)
def test_the_gradient_of_cross_entropy_is_the_prediction_error(
    shape, classes, reduction, dtype, kind, seed, transposed
):
    """The formula on paper against both ways: from what the forward pass kept, and recorded from the arguments."""
    x = rng(seed).standard_normal((*shape, classes)).astype(dtype) * 3
    labels = rng(seed).integers(0, classes, shape).astype(kind)
    x = np.asfortranarray(x) if transposed else x
    w = rng(seed + 1).standard_normal(shape if reduction == "none" else ()).astype(dtype)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    share = w[..., None] if reduction == "none" else w / labels.size if reduction == "mean" else w
    expected = share * (e / e.sum(axis=-1, keepdims=True) - (np.arange(classes) == labels[..., None]))

    t = tg.Tensor(x, requires_grad=True)
    loss = tg.cross_entropy(t, labels, reduction=reduction)
    recorded = tg.gradients(loss, t, w, create_graph=True)
    loss.backward(w, retain_graph=True)
    kept = t.grad.copy()
    assert kept.dtype == dtype
    assert np.array_equal(kept, recorded.data)
    assert np.allclose(kept, expected, rtol=1e-5, atol=1e-6)
    loss.backward(w)  # what was kept is as it was
    assert np.array_equal(t.grad, kept + kept)


def test_labels_of_another_shape_are_refused_whatever_their_number():
    for labels in (np.zeros((2, 2), int), np.zeros((4, 1), int), np.zeros(3, int), 0):
        with pytest.raises(ValueError, match=r"need integer labels of shape \(4,\)"):
            tg.cross_entropy(np.zeros((4, 3), np.float32), labels)
    with pytest.raises(ValueError, match=r"logits of shape \(\) need integer labels"):
        tg.cross_entropy(np.float32(1), 0)


def test_a_mean_over_nothing_is_zero():
    x = tg.Tensor(np.ones((2, 3)), requires_grad=True)
    loss = tg.cross_entropy(x, [-100, -100], ignore_index=-100)
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_ignored_examples_may_hold_anything():
    x = tg.Tensor(np.array([[0.0, 1.0], [-np.inf, 0.0]]), requires_grad=True)
    assert tg.cross_entropy(x, [0, 0], ignore_index=1).item() == np.inf
    x = tg.Tensor(np.array([[0.0, 1.0], [-1e300, 1e300]]), requires_grad=True)
    loss = tg.cross_entropy(x, [0, 1], ignore_index=1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.e))
    assert np.array_equal(x.grad[1], [0, 0])


def test_binary_cross_entropy_where_networks_start():
    """At logits of 0 the second derivative is 1/4: a Newton step of logistic regression needs it."""
    x = tg.Tensor(np.zeros(3), requires_grad=True)
    loss = functional.binary_cross_entropy_with_logits(x, np.array([0.0, 1.0, 0.5]), reduction="sum")
    g = tg.gradients(loss, x, create_graph=True)
    assert np.allclose(g.data, [0.5, -0.5, 0])
    assert np.allclose(tg.gradients(g.sum(), x).data, 0.25)


# -- windows, convolution, pooling


@st.composite
def slides(draw):
    """(lengths, size, stride, padding, dilation) of a window that has places."""
    size = draw(st.tuples(*[st.integers(1, 3)] * 2))
    dilation = draw(st.tuples(*[st.integers(1, 2)] * 2))
    stride = draw(st.tuples(*[st.integers(1, 3)] * 2))
    padding = draw(st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * 2))
    lengths = tuple(d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(size, dilation, strict=True))
    return lengths, size, stride, padding, dilation


@given(slide=slides(), n=st.integers(0, 2), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_overlap_add_is_the_transpose_of_windows(slide, n, channels, seed):
    lengths, *options = slide
    x = rng(seed).standard_normal((n, channels, *lengths))
    columns = functional.windows(x, *options)
    p = rng(seed + 1).standard_normal(columns.shape)
    assert np.isclose(np.sum(columns * p), np.sum(x * functional.overlap_add(p, x.shape, *options)))


@given(slide=slides(), groups=st.integers(1, 2), seed=st.integers(0, 99), transposed=st.booleans())
def test_conv2d_is_its_definition(slide, groups, seed, transposed):
    lengths, size, stride, padding, dilation = slide
    padding = tuple(p[0] for p in padding)
    r = rng(seed)
    x = r.standard_normal((2, 2 * groups, *lengths))
    if transposed:
        x = np.asfortranarray(x)
    w, b = r.standard_normal((3 * groups, 2, *size)), r.standard_normal(3 * groups)
    y = functional.conv2d(x, w, b, stride, padding, dilation, groups)
    around = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    expected = np.empty_like(y)
    for f in range(3 * groups):
        part = around[:, 2 * (f // 3) : 2 * (f // 3) + 2]
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                top, left = i * stride[0], j * stride[1]
                under = part[
                    :,
                    :,
                    top : top + dilation[0] * size[0] : dilation[0],
                    left : left + dilation[1] * size[1] : dilation[1],
                ]
                expected[:, f, i, j] = np.sum(under[:, :, : size[0], : size[1]] * w[f], axis=(1, 2, 3)) + b[f]
    assert np.allclose(y, expected)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 2, 2), ((1, 2), "valid", 1, 1)]
)
def test_gradients_of_conv2d(stride, padding, dilation, groups):
    r = rng()
    arrays = [r.standard_normal((2, 4, 6, 7)), r.standard_normal((6, 4 // groups, 2, 3)), r.standard_normal(6)]
    check_gradients(lambda x, w, b: functional.conv2d(x, w, b, stride, padding, dilation, groups), arrays)


@pytest.mark.parametrize("options", [(2,), (3, 2, 1), ((2, 3), (1, 2))])
@pytest.mark.parametrize("pool", [functional.max_pool2d, functional.avg_pool2d])
def test_gradients_of_pooling(pool, options):
    x = rng().permutation(2 * 3 * 6 * 8).reshape(2, 3, 6, 8) / 10
    check_gradients(lambda x: pool(x, *options), [x])


def test_ties_share_the_gradient_of_max_pool():
    x = tg.Tensor(np.array([[[[1.0, 1.0], [0.0, 1.0]]]]), requires_grad=True)
    functional.max_pool2d(x, 2).sum().backward()
    assert np.allclose(x.grad, [[[[1 / 3, 1 / 3], [0, 1 / 3]]]])


def test_sending_to_maxima_and_reading_at_them_are_transposes():
    """With ties and overlaps: the second derivative of max_pool2d rests on it."""
    r = rng()
    x = r.integers(0, 3, (2, 3, 6, 5)).astype(float)
    slide = ((3, 2), (2, 1), ((1, 1), (0, 1)), (1, 1))
    y = pooling._max_pool(x, *slide)
    g, v = r.standard_normal(y.shape), r.standard_normal(x.shape)
    there, back = pooling._to_maxima(g, y, x, *slide), pooling._at_maxima(v, y, x, *slide)
    assert np.isclose(np.sum(there * v), np.sum(g * back))
    assert np.isclose(there.sum(), g.sum())


def test_an_empty_batch_passes():
    x = tg.Tensor(np.zeros((0, 2, 6, 6), np.float32), requires_grad=True)
    w = tg.Tensor(np.ones((3, 2, 3, 3), np.float32), requires_grad=True)
    y = functional.avg_pool2d(functional.max_pool2d(functional.conv2d(x, w), 2), 2)
    assert y.shape == (0, 3, 1, 1)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not w.grad.any()


def test_images_that_do_not_fit():
    x, w = np.zeros((2, 3, 8, 8), np.float32), np.zeros((6, 3, 5, 5), np.float32)
    conv, pool = functional.conv2d, functional.max_pool2d
    with pytest.raises(ValueError, match=r"images have shape \(N, channels, height, width\), not \(8, 8\)"):
        conv(x[0, 0], w)
    with pytest.raises(ValueError, match=r"x\[None\] for one image"):
        pool(x[0], 2)
    with pytest.raises(ValueError, match=r"images of 3 channels, but weight .* filters 6 channels"):
        conv(x, w, groups=2)
    with pytest.raises(ValueError, match="6 filters do not divide into groups=4"):
        conv(x, w, groups=4)
    with pytest.raises(ValueError, match="a window of 5 x 5 does not fit into images of 4 x 8 with padding"):
        conv(x[:, :, :4], w)
    with pytest.raises(ValueError, match="stride=0 must be an integer of at least 1"):
        conv(x, w, stride=0)
    with pytest.raises(ValueError, match="padding='same' goes with stride=1"):
        conv(x, w, stride=2, padding="same")
    with pytest.raises(ValueError, match="'same' or 'valid'"):
        conv(x, w, padding="full")
    with pytest.raises(ValueError, match=r"bias has shape \(5,\)"):
        conv(x, w, np.zeros(5, np.float32))
    with pytest.raises(ValueError, match=r"weight has shape \(6, 3\)"):
        conv(x, w[:, :, 0, 0])
    with pytest.raises(TypeError, match=r"x.astype\(np.float64\)"):
        conv(x, w.astype(np.float64))
    with pytest.raises(TypeError, match=r"x.astype\(np.float32\)"):
        pool(x.astype(np.uint8), 2)
    with pytest.raises(ValueError, match="more than half of the window"):
        pool(x, 2, padding=2)


# -- normalisation


@given(n=st.integers(2, 4), c=st.integers(1, 3), seed=st.integers(0, 99))
def test_gradients_of_normalisation(n, c, seed):
    r = rng(seed)
    x, w, b = r.standard_normal((n, c, 3)), r.standard_normal(c), r.standard_normal(c)
    check_gradients(lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True), [x, w, b], rtol=1e-5)
    w, b = r.standard_normal((c, 3)), r.standard_normal((c, 3))
    if c > 1:
        check_gradients(lambda x, w, b: functional.layer_norm(x, (c, 3), w, b), [x, w, b], rtol=1e-5)


def test_normalisation_refuses():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"the last axes of \(4, 3\) are not normalized_shape=\(4,\)"):
        functional.layer_norm(x, 4)
    with pytest.raises(ValueError, match=r"weight has shape \(4,\)"):
        functional.layer_norm(x, 3, np.ones(4, np.float32))
    with pytest.raises(TypeError, match=r"x.astype\(np.float64\)"):
        functional.layer_norm(x, 3, np.ones(3))
    with pytest.raises(ValueError, match="has 1 value for each channel"):
        functional.batch_norm(x[:1], training=True)
    with pytest.raises(ValueError, match="pass training=True"):
        functional.batch_norm(x)
    with pytest.raises(ValueError, match=r"running_mean has shape \(4,\)"):
        functional.batch_norm(x, tg.Buffer(np.zeros(4, np.float32)), training=True)


# -- random functions


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dropout(dtype):
    x = tg.Tensor(np.full((100, 100), 3, dtype), requires_grad=True)
    y = functional.dropout(x, 0.3, rng())
    assert y.dtype == dtype
    kept = y.data != 0
    assert abs(kept.mean() - 0.7) < 0.02
    assert np.allclose(y.data[kept], 3 / 0.7, rtol=1e-3)
    y.sum().backward()
    assert np.array_equal(x.grad != 0, kept)
    assert np.array_equal(functional.dropout(x, 0.3, rng()).data, y.data)
    assert functional.dropout(x, 0.3, training=False) is x
    assert functional.dropout(x, 0.0, rng()) is x
    assert not functional.dropout(x, 1.0, rng()).data.any()


def test_dropout_refuses():
    with pytest.raises(ValueError, match="between 0 and 1"):
        functional.dropout(np.ones(3), 1.5, rng())
    for generator in (None, 3, np.random.RandomState(0)):
        with pytest.raises(TypeError, match=r"np.random.default_rng\(seed\)"):
            functional.dropout(np.ones(3), 0.5, generator)


def test_draws_are_noted_and_replayed():
    generator = rng()
    before = generator.bit_generator.state
    with entered(generators={}):
        functional.uniform_like(np.ones(3), generator)
        functional.uniform_like(np.ones(3), generator)
        ((noted, then),) = state.generators.values()
    assert noted is generator
    assert then == before

    x = np.linspace(-1, 1, 50)
    gradients = []
    for call in (functional.dropout, checkpoint(functional.dropout)):
        t, generator = tg.Tensor(x, requires_grad=True), rng()
        np.sum(call(t, 0.5, generator) * t).backward()
        gradients.append((t.grad, generator.random()))
    assert np.array_equal(gradients[0][0], gradients[1][0])
    assert gradients[0][1] == gradients[1][1]


# -- attention


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_formula(causal, masked):
    q, k, v = (rng(i).standard_normal((2, n, m)) for i, (n, m) in enumerate([(3, 4), (5, 4), (5, 6)]))
    mask = rng().random((2, 3, 5)) < 0.5 if masked else None
    if masked:
        mask[0, 1] = False
    y = functional.scaled_dot_product_attention(q, k, v, mask, causal)
    for n in range(2):
        for i in range(3):
            seen = [j for j in range(5) if (not masked or mask[n, i, j]) and (not causal or j <= i)]
            scores = np.array([q[n, i] @ k[n, j] / 2 for j in seen])
            shares = np.exp(scores) / np.exp(scores).sum() if seen else scores
            assert np.allclose(y[n, i], sum((s * v[n, j] for s, j in zip(shares, seen, strict=True)), np.zeros(6)))
    check_gradients(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, mask, causal), [q, k, v])


def test_attention_refuses():
    q, k = np.zeros((2, 3, 4)), np.zeros((2, 5, 4))
    attention = functional.scaled_dot_product_attention
    with pytest.raises(ValueError, match="same number of features"):
        attention(q, k[..., :3], k)
    with pytest.raises(ValueError, match="one value for each key"):
        attention(q, k, k[:, :4])
    with pytest.raises(TypeError, match="True where a query may look"):
        attention(q, k, k, np.zeros((3, 5), int))
    for shape in ((5, 3), (4, 2, 3, 5)):
        with pytest.raises(ValueError, match=r"does not broadcast to \(2, 3, 5\)"):
            attention(q, k, k, np.ones(shape, bool))
    with pytest.raises(ValueError, match="at least the axes"):
        attention(q[0, 0], k, k)


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.array([[1e4, -1e4]], np.float32)
        functional.binary_cross_entropy_with_logits(x, np.ones((1, 2), np.float32))
        tg.cross_entropy(x, [1], label_smoothing=0.1)
        functional.kl_div(functional.log_softmax(x), np.array([[1.0, 0.0]], np.float32))
