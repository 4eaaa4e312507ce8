"""What network functions and layers refuse, and what they say: the operation, the shapes, the fix."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import functional, nn


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


REFUSED = {
    # convolution and pooling
    "conv1d, images": (lambda: tg.conv1d(zeros(2, 3, 4, 4), zeros(1, 3, 2)), ValueError, r"conv1d: sequences have shape \(N, channels, length\), not \(2, 3, 4, 4\)"),
    "conv1d, one sequence": (lambda: tg.conv1d(zeros(3, 4), zeros(1, 3, 2)), ValueError, r"x\[None\] for one sequence"),
    "conv1d, channels": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(1, 2, 2)), ValueError, r"conv1d: sequences of 3 channels, .* has shape \(1, 3 / groups, 2\)"),
    "conv1d, window": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(1, 3, 5)), ValueError, "conv1d: a window of 5 does not fit into sequences of 4"),
    "conv1d, stride": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(1, 3, 2), stride=0), ValueError, "conv1d: stride=0 must be an integer of at least 1"),
    "conv1d, padding": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(1, 3, 2), padding="full"), ValueError, "conv1d: padding='full'; use a number, 'same' or 'valid'"),
    "conv1d, same with stride": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(1, 3, 2), None, 2, "same"), ValueError, "goes with stride=1 only"),
    "conv1d, weight": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(3, 2)), ValueError, r"it needs \(filters, channels, length\)"),
    "conv1d, bias": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(1, 3, 2), zeros(2)), ValueError, r"1 filters need \(1,\)"),
    "conv1d, dtype": (lambda: tg.conv1d(zeros(2, 3, 4), zeros(1, 3, 2, dtype=np.float64)), TypeError, r"conv1d: the sequences are float32, the weight float64; write x.astype\(np.float64\)"),
    "conv_transpose2d, channels": (lambda: tg.conv_transpose2d(zeros(2, 3, 4, 4), zeros(2, 1, 2, 2)), ValueError, r"a weight for these images has shape \(3, 1, 2, 2\)"),
    "conv_transpose2d, output padding": (lambda: tg.conv_transpose2d(zeros(2, 3, 4, 4), zeros(3, 1, 2, 2), output_padding=1), ValueError, r"output_padding=1 must be smaller than stride=\(1, 1\)"),
    "conv_transpose2d, padding": (lambda: tg.conv_transpose2d(zeros(2, 3, 1, 1), zeros(3, 1, 2, 2), padding=1), ValueError, "becomes images of 0 x 0; use less padding"),
    "conv_transpose2d, same": (lambda: tg.conv_transpose2d(zeros(2, 3, 4, 4), zeros(3, 1, 2, 2), padding="same"), ValueError, "goes with conv2d only"),
    "conv_transpose2d, groups": (lambda: tg.conv_transpose2d(zeros(2, 3, 4, 4), zeros(3, 1, 2, 2), groups=2), ValueError, "3 channels do not divide into groups=2"),
    "Conv1d": (lambda: nn.Conv1d(3, 4, (2, 2)), ValueError, r"Conv1d: kernel_size=\(2, 2\) must be one number$"),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 2, groups=2), ValueError, "ConvTranspose2d: groups=2 must divide both"),
    "max_pool1d": (lambda: tg.max_pool1d(zeros(2, 3, 4), 5), ValueError, "max_pool1d: a window of 5 does not fit into sequences of 4"),
    "avg_pool1d": (lambda: tg.avg_pool1d(zeros(2, 3, 4), 2, padding=2), ValueError, "more than half of the window 2; use at most 1"),
    "adaptive pooling": (lambda: tg.adaptive_avg_pool2d(zeros(2, 3, 4, 4), (2, 0)), ValueError, "must be a positive integer, or 2 of them or None"),
    "adaptive pooling of nothing": (lambda: tg.adaptive_max_pool1d(zeros(2, 3, 0), 1), ValueError, "has nothing to pool"),
    "GlobalAvgPool": (lambda: nn.GlobalAvgPool()(zeros(2, 3)), ValueError, r"GlobalAvgPool\(\) was given \(2, 3\); it needs \(N, channels, length, ...\)"),
    # shapes
    "interpolate, mode": (lambda: tg.interpolate(zeros(2, 3, 4), 2, mode="cubic"), ValueError, "use one of 'nearest', 'linear', 'bilinear'"),
    "interpolate, axes": (lambda: tg.interpolate(zeros(2, 3, 4), 2, mode="bilinear"), ValueError, r"mode='bilinear' needs \(N, C, height, width\)"),
    "interpolate, both": (lambda: tg.interpolate(zeros(2, 3, 4), 2, 2.0), ValueError, "either size= or scale_factor="),
    "interpolate, corners": (lambda: tg.interpolate(zeros(2, 3, 4), 2, align_corners=True), ValueError, "goes with mode='linear' or 'bilinear'"),
    "interpolate, nothing": (lambda: tg.interpolate(zeros(2, 3, 4), scale_factor=0.1), ValueError, "would have length 0"),
    "interpolate, size": (lambda: tg.interpolate(zeros(2, 3, 4), (2, 3)), ValueError, "one for each of the axes"),
    "pixel_shuffle": (lambda: tg.pixel_shuffle(zeros(2, 3, 4, 4), 2), ValueError, r"it needs \(N, a multiple of 4, height, width\)"),
    "Unflatten": (lambda: nn.Unflatten(1, (3, 5))(zeros(2, 16)), ValueError, r"Unflatten\(1, \(3, 5\)\) was given \(2, 16\); axis 1 of length 16"),
    "Unflatten, two unknown": (lambda: nn.Unflatten(1, (-1, -1))(zeros(2, 16)), ValueError, "has another size"),
    "Unflatten, axis": (lambda: nn.Unflatten(2, (3, 5))(zeros(2, 15)), ValueError, "has no axis 2"),
    "ZeroPad2d": (lambda: nn.ZeroPad2d((1, 2)), ValueError, r"ZeroPad2d: padding=\(1, 2\) must be a number, or those of left, right, top and bottom"),
    "ZeroPad2d, sequences": (lambda: nn.ZeroPad2d(1)(zeros(2, 3, 4)), ValueError, r"ZeroPad2d\(1\) was given \(2, 3, 4\); it needs \(N, channels, height, width\)"),
    "ReflectionPad1d": (lambda: nn.ReflectionPad1d(-1), ValueError, "must be a number, or those of left and right"),
    # normalisation
    "RMSNorm": (lambda: nn.RMSNorm(3)(zeros(2, 4)), ValueError, r"rms_norm: the last axes of \(2, 4\) are not normalized_shape=\(3,\)"),
    "RMSNorm, dtype": (lambda: nn.RMSNorm(4)(zeros(2, 4, dtype=np.float64)), TypeError, r"write x.astype\(np.float32\)"),
    "GroupNorm": (lambda: nn.GroupNorm(2, 3), ValueError, "GroupNorm: 3 channels do not divide into groups=2"),
    "GroupNorm, channels": (lambda: nn.GroupNorm(2, 4)(zeros(2, 6, 3)), ValueError, r"GroupNorm\(2, 4\) was given \(2, 6, 3\); it needs \(N, 4, ...\)"),
    "group_norm": (lambda: tg.group_norm(zeros(2, 6, 3), 4), ValueError, "group_norm: 6 channels do not divide into groups=4"),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3)(zeros(2, 3, 4)), ValueError, r"InstanceNorm2d\(3\) was given \(2, 3, 4\); it needs \(N, 3, height, width\)"),
    "Dropout2d": (lambda: nn.Dropout2d(0.5)(zeros(2, 3, 4)), ValueError, r"Dropout2d\(0.5\) was given \(2, 3, 4\)"),
    "Dropout2d, rate": (lambda: nn.Dropout2d(1.5), ValueError, "Dropout2d: rate=1.5 is a probability"),
    "feature_dropout": (lambda: tg.feature_dropout(zeros(2, 3, 4), 0.5), TypeError, r"feature_dropout: it draws .* pass rng="),
    "Embedding": (lambda: nn.Embedding(3, 2, padding_idx=3), ValueError, r"padding_idx=3 is none of the rows 0..2"),
    # activations
    "prelu": (lambda: nn.PReLU(3)(zeros(2, 4)), ValueError, r"prelu: weight has shape \(3,\); x of shape \(2, 4\) needs one for each channel"),
    "glu": (lambda: nn.GLU()(zeros(2, 3)), ValueError, r"glu: axis -1 of x, \(2, 3\), does not divide into halves"),
    "Hardtanh": (lambda: nn.Hardtanh(1, 1), ValueError, "minimum=1 must be less than maximum=1"),
    # losses
    "binary_cross_entropy of logits": (lambda: tg.binary_cross_entropy(np.array([2.0]), np.array([1.0])), ValueError, r"these in \[2, 2\]; for logits call binary_cross_entropy_with_logits"),
    "binary_cross_entropy of NaN": (lambda: tg.binary_cross_entropy(np.array([np.nan]), np.array([1.0])), ValueError, r"probabilities lie in \[0, 1\]"),
    "smooth_l1_loss": (lambda: tg.smooth_l1_loss(zeros(2), zeros(2), beta=-1), ValueError, "beta=-1 must not be negative"),
    "hinge_loss": (lambda: tg.hinge_loss(zeros(2), zeros(3)), ValueError, r"hinge_loss: predictions have shape \(2,\), targets \(3,\)"),
    "multi_margin_loss": (lambda: tg.multi_margin_loss(zeros(2, 3), np.array([0, 3])), ValueError, r"multi_margin_loss: labels lie in 0..3"),
    "cosine_embedding_loss": (lambda: tg.cosine_embedding_loss(zeros(2, 3), zeros(2, 3), zeros(3)), ValueError, r"targets have shape \(3,\); pairs of shape \(2, 3\) need \(2,\)"),
    "triplet_margin_loss": (lambda: tg.triplet_margin_loss(zeros(2, 3), zeros(2, 3), zeros(2, 4)), ValueError, "triplet_margin_loss: predictions have shape"),
    "info_nce_loss": (lambda: tg.info_nce_loss(zeros(2, 3), zeros(2, 3), temperature=0), ValueError, "temperature=0 must be positive"),
    "info_nce_loss, axes": (lambda: tg.info_nce_loss(zeros(2), zeros(2)), ValueError, r"they need \(N, features\)"),
    "reduction": (lambda: tg.gaussian_nll_loss(zeros(2), zeros(2), zeros(2), "all"), ValueError, "gaussian_nll_loss: reduction='all'; use"),
    "ctc_loss, axes": (lambda: tg.ctc_loss(zeros(2, 3), np.zeros((2, 1), int)), ValueError, r"they need \(N, steps, classes\)"),
    "ctc_loss, targets": (lambda: tg.ctc_loss(zeros(2, 3, 4), np.zeros(2, int)), ValueError, r"targets have shape \(2,\); they need \(2, labels\)"),
    "ctc_loss, labels": (lambda: tg.ctc_loss(zeros(2, 3, 4), np.full((2, 1), 4)), ValueError, r"targets lie in 4..4, but there are classes 0..3 only"),
    "ctc_loss, floats": (lambda: tg.ctc_loss(zeros(2, 3, 4), zeros(2, 1)), TypeError, r"write targets.astype\(np.int64\)"),
    "ctc_loss, lengths": (lambda: tg.ctc_loss(zeros(2, 3, 4), np.ones((2, 1), int), [4, 3]), ValueError, "input_lengths lie in 3..4, but there are 3"),
    "ctc_loss, lengths of labels": (lambda: tg.ctc_loss(zeros(2, 3, 4), np.ones((2, 1), int), None, [1]), ValueError, r"target_lengths have shape \(1,\); they need \(2,\)"),
    "ctc_loss, blank": (lambda: tg.ctc_loss(zeros(2, 3, 4), np.ones((2, 1), int), blank=4), ValueError, "blank=4 is none of the classes 0..3"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_messages(name):
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()


# -- what the tables of layers do not show


def test_ctc_by_all_paths():
    """The sum over every path of emissions that collapses to the labels."""
    import itertools

    r = np.random.default_rng(0)
    logits = r.standard_normal((4, 5, 3))
    targets, lengths, steps = np.array([[1, 2], [2, 2], [1, 9], [0, 0]]), np.array([2, 2, 1, 0]), np.array([5, 3, 4, 2])
    log_p = functional.log_softmax(logits)
    found = tg.ctc_loss(log_p, targets, steps, lengths, reduction="none")
    for n in range(4):
        wanted = tuple(targets[n, : lengths[n]])
        total = 0.0
        for path in itertools.product(range(3), repeat=int(steps[n])):
            labels = tuple(c for c, _ in itertools.groupby(path) if c)
            total += np.exp(sum(log_p[n, t, c] for t, c in enumerate(path))) * (labels == wanted)
        assert np.isclose(found[n], -np.log(total))


def test_ctc_of_what_is_impossible():
    x = tg.Tensor(np.zeros((2, 2, 3)), requires_grad=True)
    lost = tg.ctc_loss(tg.log_softmax(x), np.array([[1, 1], [1, 2]]), reduction="none")
    assert np.isinf(lost.data[0])
    assert np.isfinite(lost.data[1])
    np.where(np.isinf(lost.data), 0, lost).sum().backward()
    assert not x.grad[0].any()
    assert x.grad[1].any()
    assert tg.ctc_loss(tg.log_softmax(x), np.array([[1, 1], [1, 2]]), reduction="none", zero_infinity=True).data[0] == 0


def test_binary_cross_entropy_at_the_ends():
    p = tg.Tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    lost = tg.binary_cross_entropy(p, np.array([0, 0, 1, 1], np.float32), reduction="none")
    assert np.array_equal(lost.data, [0, 100, 100, 0])
    lost.sum().backward()
    assert np.isfinite(p.grad).all()


def test_padding_gets_no_gradient():
    layer = nn.Embedding(4, 3, padding_idx=1, rng=0)
    assert not layer.weight.data[1].any()
    layer(np.array([[1, 1, 0], [2, 1, 1]])).sum().backward()
    assert np.array_equal(layer.weight.grad, [[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]])


def test_dropout_of_channels_drops_them_whole():
    x = np.ones((50, 8, 3, 4), np.float32)
    layer = nn.Dropout2d(0.25, rng=0)
    y = layer(x).data
    assert np.array_equal(y, y[:, :, :1, :1] * x)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y[:, :, 0, 0] == 0).mean() - 0.25) < 0.1
    assert np.array_equal(layer.eval()(x).data, x)


def test_info_nce_is_the_cross_entropy_of_cosines():
    r = np.random.default_rng(0)
    a, b = r.standard_normal((5, 3)), r.standard_normal((5, 3))
    cosines = functional.cosine_similarity(a[:, None], b[None]) / 0.2
    one, other = (tg.cross_entropy(c, np.arange(5), reduction="none") for c in (cosines, cosines.T))
    assert np.allclose(tg.info_nce_loss(a, b, "none", 0.2), one)
    assert np.allclose(tg.info_nce_loss(a, b, temperature=0.2, symmetric=True), (one.mean() + other.mean()) / 2)


def test_transposed_convolution_is_the_transpose():
    """<conv(x), y> = <x, conv_transpose(y)>, for options that leave no remainder."""
    r = np.random.default_rng(0)
    x, w = r.standard_normal((2, 4, 9, 11)), r.standard_normal((6, 2, 3, 5))
    options = {"stride": (2, 3), "padding": (1, 2), "groups": 2}
    y = functional.conv2d(x, w, **options)
    v = r.standard_normal(y.shape)
    back = functional.conv_transpose2d(v, w, output_padding=(0, 1), **options)
    assert back.shape == x.shape
    assert np.isclose((y * v).sum(), (x * back).sum())
