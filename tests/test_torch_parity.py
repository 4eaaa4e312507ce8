"""Every function, loss and layer against PyTorch's of the same name: values and gradients to 1e-5 in float32.

Weights go both ways between the two libraries. Skipped where PyTorch is not installed.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import functional, nn

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
F = torch.nn.functional


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=0):
    return rng(seed).standard_normal(shape).astype(np.float32)


def probabilities(*shape, seed=0):
    return rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def assert_close(ours, theirs, what=""):
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else np.asarray(theirs)
    ours = ours.data if isinstance(ours, tg.Tensor) else np.asarray(ours)
    assert ours.dtype == theirs.dtype == np.float32, what
    assert ours.shape == theirs.shape, what
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=what)


@pytest.mark.parametrize("upstream", [1.0, np.inf, np.nan])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (functional.relu, F.relu),
        (functional.leaky_relu, F.leaky_relu),
        (functional.elu, F.elu),
        (lambda x: np.clip(x, -0.5, 0.5), lambda x: torch.clamp(x, -0.5, 0.5)),
    ],
)
def test_masks_choose_rather_than_multiply(ours, theirs, upstream):
    """Where nothing passes, 0 times an infinite gradient would be NaN; and NaN is on the side that PyTorch puts it."""
    values = np.array([np.nan, -np.inf, -1, 0, 1, np.inf], np.float32)
    x, t = tg.Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    with np.errstate(invalid="ignore"):
        ours(x).backward(np.full(6, upstream, np.float32))
    theirs(t).backward(torch.full((6,), upstream))
    np.testing.assert_array_equal(x.grad, t.grad.numpy())


def flat(outputs):
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def compare(ours, theirs, arrays):
    """Outputs of two functions of the same arrays, and the gradients of a random projection of them."""
    xs = [tg.Tensor(a.copy(), requires_grad=a.dtype.kind == "f") for a in arrays]
    ts = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    ys, zs = flat(ours(*xs)), flat(theirs(*ts))
    assert len(ys) == len(zs)
    for i, (y, z) in enumerate(zip(ys, zs, strict=True)):
        assert_close(y, z, f"output {i}")
    weights = [normal(*y.shape, seed=100 + i) for i, y in enumerate(ys)]
    sum((y * w).sum() for y, w in zip(ys, weights, strict=True)).backward()
    sum((z * torch.tensor(w)).sum() for z, w in zip(zs, weights, strict=True)).backward()
    for i, (x, t) in enumerate(zip(xs, ts, strict=True)):
        if x.requires_grad:
            assert_close(x.grad, t.grad, f"gradient {i}")


# ---------------------------------------------------------------------------------------------------------------------
# Functions
# ---------------------------------------------------------------------------------------------------------------------

LABELS = np.array([2, 0, 1, 4, 2])
IGNORED = np.array([2, -100, 1, 4, -100])
WEIGHT = np.array([0.5, 2.0, 1.0, 0.0, 3.0], np.float32)

ACTIVATIONS = {
    "relu": (tg.relu, F.relu),
    "leaky_relu": (lambda x: functional.leaky_relu(x, 0.2), lambda t: F.leaky_relu(t, 0.2)),
    "elu": (lambda x: functional.elu(x, 1.5), lambda t: F.elu(t, 1.5)),
    "gelu": (functional.gelu, F.gelu),
    "gelu tanh": (lambda x: functional.gelu(x, "tanh"), lambda t: F.gelu(t, approximate="tanh")),
    "silu": (functional.silu, F.silu),
    "softplus": (functional.softplus, F.softplus),
    "softplus beta": (lambda x: functional.softplus(x, 2.0), lambda t: F.softplus(t, 2.0)),
    "sigmoid": (tg.sigmoid, torch.sigmoid),
    "tanh": (tg.tanh, torch.tanh),
    "erf": (functional.erf, torch.erf),
    "softmax": (tg.softmax, lambda t: F.softmax(t, -1)),
    "softmax axis 0": (lambda x: tg.softmax(x, 0), lambda t: F.softmax(t, 0)),
    "log_softmax": (tg.log_softmax, lambda t: F.log_softmax(t, -1)),
    "logsumexp": (tg.logsumexp, lambda t: torch.logsumexp(t, -1)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("scale", [1.0, 6.0, 1e4])
def test_activations(name, scale):
    compare(*ACTIVATIONS[name], [np.asarray(normal(7, 5) * scale, np.float32)])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["even", "weighted"])
@pytest.mark.parametrize("labels", [LABELS, IGNORED], ids=["all", "ignored"])
def test_cross_entropy(labels, weight, smoothing, reduction):
    compare(
        lambda x: tg.cross_entropy(
            x, labels, weight, -100 if labels is IGNORED else None, reduction, label_smoothing=smoothing
        ),
        lambda t: F.cross_entropy(
            t,
            torch.tensor(labels),
            None if weight is None else torch.tensor(weight),
            reduction=reduction,
            label_smoothing=smoothing,
        ),
        [normal(5, 5)],
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["even", "weighted"])
def test_cross_entropy_of_probabilities(weight, smoothing, reduction):
    compare(
        lambda x, p: tg.cross_entropy(x, p, weight, reduction=reduction, label_smoothing=smoothing),
        lambda t, q: F.cross_entropy(
            t, q, None if weight is None else torch.tensor(weight), reduction=reduction, label_smoothing=smoothing
        ),
        [normal(4, 5), probabilities(4, 5)],
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["even", "weighted"])
@pytest.mark.parametrize("labels", [LABELS, IGNORED], ids=["all", "ignored"])
def test_nll_loss(labels, weight, reduction):
    compare(
        lambda x: functional.nll_loss(x, labels, weight, -100 if labels is IGNORED else None, reduction),
        lambda t: F.nll_loss(
            t, torch.tensor(labels), None if weight is None else torch.tensor(weight), reduction=reduction
        ),
        [np.log(probabilities(5, 5))],
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_losses_of_numbers(name, reduction):
    compare(
        lambda x, y: getattr(functional, name)(x, y, reduction=reduction),
        lambda t, u: getattr(F, name)(t, u, reduction=reduction),
        [normal(4, 5) * 2, normal(4, 5, seed=1)],
    )


def test_huber_delta():
    compare(
        lambda x, y: functional.huber_loss(x, y, delta=0.3),
        lambda t, u: F.huber_loss(t, u, delta=0.3),
        [normal(4, 5), normal(4, 5, seed=1)],
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("positive", [None, WEIGHT], ids=["even", "positive"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_binary_cross_entropy(scale, positive, reduction):
    targets = rng().random((4, 5)).round(1).astype(np.float32)
    weight = rng(3).random((4, 5)).astype(np.float32)
    compare(
        lambda x: functional.binary_cross_entropy_with_logits(x, targets, weight, reduction, positive),
        lambda t: F.binary_cross_entropy_with_logits(
            t,
            torch.tensor(targets),
            torch.tensor(weight),
            reduction=reduction,
            pos_weight=None if positive is None else torch.tensor(positive),
        ),
        [np.asarray(normal(4, 5) * scale, np.float32)],
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_kl_div(log_target, reduction):
    targets = probabilities(4, 5, seed=1)
    compare(
        lambda x, y: functional.kl_div(x, y, reduction, log_target),
        lambda t, u: F.kl_div(t, u, reduction=reduction, log_target=log_target),
        [np.log(probabilities(4, 5)), np.log(targets) if log_target else targets],
    )


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        (1, 0, 1, 1),
        (2, 1, 1, 1),
        ((2, 1), (0, 2), 1, 1),
        (1, 2, 2, 1),
        (3, 1, (1, 2), 2),
        (1, "same", 1, 1),
        (1, "same", 2, 4),
        (1, "valid", 1, 4),
    ],
)
@pytest.mark.parametrize("size", [(3, 3), (2, 5), (1, 1), (4, 4)])
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_conv2d(size, stride, padding, dilation, groups):
    with np.errstate(all="raise"):
        compare(
            lambda x, w, b: functional.conv2d(x, w, b, stride, padding, dilation, groups),
            lambda t, u, v: F.conv2d(t, u, v, stride, padding, dilation, groups),
            [normal(2, 4, 11, 10), normal(8, 4 // groups, *size, seed=1) / 4, normal(8, seed=2)],
        )


@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation"),
    [(2, None, 0, 1), (3, 2, 1, 1), ((2, 3), (3, 1), (1, 0), 1), (3, 1, 1, 2), (3, None, 1, 1), ((1, 2), None, 0, 1)],
)
def test_max_pool2d(size, stride, padding, dilation):
    compare(
        lambda x: functional.max_pool2d(x, size, stride, padding, dilation),
        lambda t: F.max_pool2d(t, size, stride, padding, dilation),
        [normal(2, 3, 9, 8)],
    )


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, None, 0), (3, None, 0), (3, 2, 1), ((2, 3), (3, 1), (1, 0)), ((3, 4), None, 0)]
)
def test_avg_pool2d(size, stride, padding, include):
    compare(
        lambda x: functional.avg_pool2d(x, size, stride, padding, include),
        lambda t: F.avg_pool2d(t, size, stride, padding, count_include_pad=include),
        [normal(2, 3, 9, 8)],
    )


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, False), (False, True)])
def test_scaled_dot_product_attention(causal, masked):
    mask = rng().random((6, 6)) < 0.6
    mask[:, 0] = True
    compare(
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, mask if masked else None, causal),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.tensor(mask) if masked else None, 0.0, causal),
        [normal(2, 3, 6, 4), normal(2, 3, 6, 4, seed=1), normal(2, 3, 6, 5, seed=2)],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Layers, with their weights going both ways
# ---------------------------------------------------------------------------------------------------------------------


def compare_layers(ours, theirs, arrays, call=None, call_theirs=None):
    """Two layers of the same make: weights from there to here, outputs, all gradients, buffers; and weights back."""
    call, call_theirs = call or (lambda m, *xs: m(*xs)), call_theirs or (lambda m, *ts: m(*ts))
    torch.manual_seed(1)
    with torch.no_grad():
        for p in theirs.parameters():  # away from initial values such as 0 and 1
            p.add_(torch.randn_like(p) * 0.1)
    nn.from_torch_state(ours, theirs.state_dict())
    compare(lambda *xs: call(ours, *xs), lambda *ts: call_theirs(theirs, *ts), arrays)

    gradients = copy.deepcopy(ours)  # PyTorch's gradients, in our names and layouts
    state = {name: p.grad for name, p in theirs.named_parameters()} | dict(theirs.named_buffers())
    nn.from_torch_state(gradients, state)
    pairs = list(zip(ours.named_parameters(), gradients.named_parameters(), strict=True))
    assert len(pairs) == len(list(theirs.parameters()))
    for (path, p), (_, g) in pairs:
        assert_close(p.grad, g.data, path)
    for (path, b), (_, g) in zip(ours.named_buffers(), gradients.named_buffers(), strict=True):
        assert_close(b, g.data, path)  # running statistics after one training step

    fresh = copy.deepcopy(theirs)
    with torch.no_grad():
        for p in fresh.parameters():
            p.zero_()
    fresh.load_state_dict(nn.to_torch_state(ours, tensors=True), strict=True)
    before = theirs.state_dict()
    for name, value in fresh.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(value.numpy(), before[name].numpy(), rtol=1e-6, atol=1e-7)


LAYERS = {
    "Linear": (lambda: nn.Linear(5, 3, rng=0), lambda: torch.nn.Linear(5, 3), [(4, 5)]),
    "Linear, no bias": (lambda: nn.Linear(5, 3, bias=False), lambda: torch.nn.Linear(5, 3, bias=False), [(2, 4, 5)]),
    "Dense": (
        lambda: nn.Sequential(nn.Dense(5, 3, "gelu")),
        lambda: torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.GELU()),
        [(4, 5)],
    ),
    "Conv2d": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2),
        lambda: torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2),
        [(2, 4, 7, 8)],
    ),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1), lambda: torch.nn.MaxPool2d(3, 2, 1), [(2, 4, 7, 8)]),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), lambda: torch.nn.AvgPool2d(3, 2, 1), [(2, 4, 7, 8)]),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(5), lambda: torch.nn.BatchNorm1d(5), [(6, 5)]),
    "BatchNorm1d, length": (lambda: nn.BatchNorm1d(5), lambda: torch.nn.BatchNorm1d(5), [(6, 5, 4)]),
    "BatchNorm2d": (
        lambda: nn.BatchNorm2d(3, 1e-3, 0.3),
        lambda: torch.nn.BatchNorm2d(3, 1e-3, 0.3),
        [(4, 3, 5, 6)],
    ),
    "BatchNorm2d, evaluation": (
        lambda: nn.BatchNorm2d(3).eval(),
        lambda: torch.nn.BatchNorm2d(3).eval(),
        [(4, 3, 5, 6)],
    ),
    "BatchNorm2d, plain": (
        lambda: nn.BatchNorm2d(3, affine=False, track_running_stats=False).eval(),
        lambda: torch.nn.BatchNorm2d(3, affine=False, track_running_stats=False).eval(),
        [(4, 3, 5, 6)],
    ),
    "LayerNorm": (lambda: nn.LayerNorm(5), lambda: torch.nn.LayerNorm(5), [(2, 4, 5)]),
    "LayerNorm, two axes": (lambda: nn.LayerNorm((4, 5)), lambda: torch.nn.LayerNorm((4, 5)), [(2, 4, 5)]),
    "LayerNorm, no bias": (lambda: nn.LayerNorm(5, bias=False), lambda: torch.nn.LayerNorm(5, bias=False), [(2, 5)]),
    "Dropout, evaluation": (lambda: nn.Dropout(0.5).eval(), lambda: torch.nn.Dropout(0.5).eval(), [(3, 4)]),
    "Flatten": (lambda: nn.Flatten(), lambda: torch.nn.Flatten(), [(2, 3, 4, 5)]),
    "Sequential": (
        lambda: nn.Sequential(nn.Dense(5, 7, "relu"), nn.LayerNorm(7), nn.Dense(7, 6, "tanh"), nn.Linear(6, 2)),
        lambda: torch.nn.Sequential(
            torch.nn.Linear(5, 7),
            torch.nn.ReLU(),
            torch.nn.LayerNorm(7),
            torch.nn.Linear(7, 6),
            torch.nn.Tanh(),
            torch.nn.Linear(6, 2),
        ),
        [(4, 5)],
    ),
    "ReLU": (nn.ReLU, torch.nn.ReLU, [(4, 5)]),
    "LeakyReLU": (nn.LeakyReLU, torch.nn.LeakyReLU, [(4, 5)]),
    "ELU": (nn.ELU, torch.nn.ELU, [(4, 5)]),
    "GELU": (nn.GELU, torch.nn.GELU, [(4, 5)]),
    "GELU, tanh": (lambda: nn.GELU("tanh"), lambda: torch.nn.GELU("tanh"), [(4, 5)]),
    "SiLU": (nn.SiLU, torch.nn.SiLU, [(4, 5)]),
    "Softplus": (nn.Softplus, torch.nn.Softplus, [(4, 5)]),
    "Sigmoid": (nn.Sigmoid, torch.nn.Sigmoid, [(4, 5)]),
    "Tanh": (nn.Tanh, torch.nn.Tanh, [(4, 5)]),
    "Softmax": (nn.Softmax, lambda: torch.nn.Softmax(-1), [(4, 5)]),
    "LogSoftmax": (nn.LogSoftmax, lambda: torch.nn.LogSoftmax(-1), [(4, 5)]),
    "MSELoss": (nn.MSELoss, torch.nn.MSELoss, [(4, 5), (4, 5)]),
    "L1Loss": (nn.L1Loss, torch.nn.L1Loss, [(4, 5), (4, 5)]),
    "HuberLoss": (lambda: nn.HuberLoss(delta=0.5), lambda: torch.nn.HuberLoss(delta=0.5), [(4, 5), (4, 5)]),
    "GRU": (lambda: nn.GRU(5, 4), lambda: torch.nn.GRU(5, 4, batch_first=True), [(3, 6, 5)]),
    "GRU, two layers, a state": (
        lambda: nn.GRU(5, 4, layers=2),
        lambda: torch.nn.GRU(5, 4, 2, batch_first=True),
        [(3, 6, 5), (2, 3, 4)],
    ),
    "GRU, no bias": (
        lambda: nn.GRU(5, 4, bias=False),
        lambda: torch.nn.GRU(5, 4, bias=False, batch_first=True),
        [(3, 1, 5)],
    ),
    "GRUCell": (lambda: nn.GRUCell(5, 4), lambda: torch.nn.GRUCell(5, 4), [(3, 5), (3, 4)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    ours, theirs, shapes = LAYERS[name]
    compare_layers(ours(), theirs(), [normal(*shape, seed=i) for i, shape in enumerate(shapes)])


@pytest.mark.parametrize(
    ("ours", "theirs", "x", "targets"),
    [
        (
            lambda: nn.CrossEntropyLoss(WEIGHT, -100, label_smoothing=0.2),
            lambda: torch.nn.CrossEntropyLoss(torch.tensor(WEIGHT), label_smoothing=0.2),
            normal(5, 5),
            IGNORED,
        ),
        (
            lambda: nn.NLLLoss(WEIGHT, reduction="sum"),
            lambda: torch.nn.NLLLoss(torch.tensor(WEIGHT), reduction="sum"),
            np.log(probabilities(5, 5)),
            LABELS,
        ),
        (
            lambda: nn.BCEWithLogitsLoss(positive_weight=WEIGHT),
            lambda: torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHT)),
            normal(4, 5),
            (normal(4, 5, seed=1) > 0).astype(np.float32),
        ),
        (
            lambda: nn.KLDivLoss("batchmean"),
            lambda: torch.nn.KLDivLoss(reduction="batchmean"),
            np.log(probabilities(4, 5)),
            probabilities(4, 5, seed=1),
        ),
    ],
    ids=["CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss", "KLDivLoss"],
)
def test_losses_as_modules(ours, theirs, x, targets):
    ours, theirs = ours(), theirs()
    compare(lambda x: ours(x, targets), lambda t: theirs(t, torch.tensor(targets)), [x])


def test_embedding():
    codes = rng().integers(0, 7, (3, 4))
    compare_layers(
        nn.Embedding(7, 5),
        torch.nn.Embedding(7, 5),
        [],
        call=lambda m: m(codes),
        call_theirs=lambda m: m(torch.tensor(codes)),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["self", "causal", "masked", "cross", "cross, own values"])
def test_multi_head_attention(kind, bias):
    ours, theirs = (
        nn.MultiHeadAttention(8, 2, bias=bias),
        torch.nn.MultiheadAttention(8, 2, bias=bias, batch_first=True),
    )
    arrays = [normal(3, 5, 8)]
    if kind.startswith("cross"):
        arrays += [normal(3, 6, 8, seed=i) for i in range(1, 3 if "own" in kind else 2)]
    mask = rng().random((5, 5)) < 0.6
    mask[:, 0] = True
    hidden = {"masked": ~mask, "causal": ~np.tri(5, dtype=bool)}.get(kind)

    def call_theirs(m, q, k=None, v=None):
        k = q if k is None else k
        v = k if v is None else v
        return m(q, k, v, need_weights=False, attn_mask=None if hidden is None else torch.tensor(hidden))[0]

    def call(m, *xs):
        return m(*xs, mask=mask if kind == "masked" else None, causal=kind == "causal")

    compare_layers(ours, theirs, arrays, call, call_theirs)


# ---------------------------------------------------------------------------------------------------------------------
# Whole networks, trained there and here
# ---------------------------------------------------------------------------------------------------------------------


def mlp():
    return (
        nn.Sequential(nn.Dense(12, 16, "relu", rng=0), nn.Dense(16, 8, "relu", rng=1), nn.Linear(8, 4, rng=2)),
        torch.nn.Sequential(
            torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)
        ),
        normal(32, 12),
    )


def lenet():
    t = torch.nn
    return (
        nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2, rng=0),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5, rng=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Dense(16 * 5 * 5, 120, "relu", rng=2),
            nn.Dense(120, 84, "relu", rng=3),
            nn.Linear(84, 4, rng=4),
        ),
        t.Sequential(
            t.Conv2d(1, 6, 5, padding=2),
            t.BatchNorm2d(6),
            t.ReLU(),
            t.MaxPool2d(2),
            t.Conv2d(6, 16, 5),
            t.ReLU(),
            t.AvgPool2d(2),
            t.Flatten(),
            t.Linear(16 * 5 * 5, 120),
            t.ReLU(),
            t.Linear(120, 84),
            t.ReLU(),
            t.Linear(84, 4),
        ),
        normal(32, 1, 28, 28),
    )


@pytest.mark.parametrize("networks", [mlp, lenet])
def test_trained_there_and_loaded_here(networks):
    ours, theirs, x = networks()
    labels = rng().integers(0, 4, len(x))
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-3)
    first = None
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(theirs(torch.tensor(x)), torch.tensor(labels))
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < first  # it learned: these are not the weights it started from
    nn.from_torch_state(ours, theirs.state_dict())
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)))


@pytest.mark.parametrize("networks", [mlp, lenet])
def test_trained_here_and_loaded_there(networks):
    ours, theirs, x = networks()
    labels = rng().integers(0, 4, len(x))
    optimizer = tg.optim.Adam(ours.parameters(), 1e-3)
    first = None
    for _ in range(10):
        optimizer.zero_grad()
        loss = tg.cross_entropy(ours(x), labels)
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < first
    theirs.load_state_dict(nn.to_torch_state(ours, tensors=True))
    assert_close(ours.eval()(x), theirs.eval()(torch.tensor(x)))


def test_tied_weights_go_both_ways():
    ours = nn.ModuleDict({"embedding": nn.Embedding(5, 3, rng=0), "output": nn.Module()})
    ours["output"].weight = ours["embedding"].weight
    theirs = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(5, 3), "output": torch.nn.Linear(3, 5, bias=False)})
    theirs["output"].weight = theirs["embedding"].weight
    nn.from_torch_state(ours, theirs.state_dict())
    assert_close(ours["embedding"].weight, theirs["embedding"].weight)
    theirs.load_state_dict(nn.to_torch_state(ours, tensors=True))
    different = {name: value.clone() for name, value in theirs.state_dict().items()}
    different["output.weight"] += 1
    before = ours["embedding"].weight.data.copy()
    with pytest.raises(ValueError, match=r"output.weight and embedding.weight are one tensor here"):
        nn.from_torch_state(ours, different)
    assert np.array_equal(ours["embedding"].weight.data, before)


def test_states_that_do_not_fit_change_nothing():
    ours, theirs, _ = mlp()
    before = ours.state_dict()
    state = theirs.state_dict()
    state["9.weight"] = state.pop("0.weight")
    state["2.bias"] = state["2.bias"][:-1]
    with pytest.raises(ValueError, match=r"2.bias has shape \(7,\), not \(8,\)") as error:
        nn.from_torch_state(ours, state)
    assert "missing: 0.weight" in str(error.value)
    assert "unexpected: 9.weight" in str(error.value)
    with pytest.raises(TypeError, match=r"\.float\(\)"):
        nn.from_torch_state(ours, {name: value.bfloat16() for name, value in theirs.state_dict().items()})
    with pytest.raises(TypeError, match="state_dict"):
        nn.from_torch_state(ours, theirs)
    assert all(np.array_equal(before[name], value) for name, value in ours.state_dict().items())
