"""Layers: numeric gradients of each, its formula, its states, what it refuses; containers; initial values."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import first_derivative

import tinygrad_mm as tg
from tinygrad_mm import functional, nn


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=0):
    return rng(seed).standard_normal(shape)


class Summed(nn.Module):
    """All outputs of a layer, weighted and summed: one number."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, *xs, **options):
        y = self.layer(*xs, **options)
        outputs = y if isinstance(y, tuple) else (y,)
        return sum((t * rng(i).uniform(0.5, 1.5, t.shape)).sum() for i, t in enumerate(outputs))


LAYERS = {
    "Dense": (lambda: nn.Dense(4, 3, "gelu", rng=0), [(2, 4)]),
    "Linear": (lambda: nn.Linear(4, 3, bias=False, rng=0), [(2, 3, 4)]),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (2, 3), 2, 1, (1, 2), 2, rng=0), [(2, 4, 6, 7)]),
    "Conv2d, same": (lambda: nn.Conv2d(2, 3, 3, padding="same", rng=0), [(2, 2, 4, 5)]),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), [(2, 3, 5, 4)]),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), [(2, 3, 5, 4)]),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), [(5, 3)]),
    "BatchNorm1d, length": (lambda: nn.BatchNorm1d(3), [(2, 3, 4)]),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), [(2, 3, 4, 2)]),
    "BatchNorm2d, evaluation": (lambda: nn.BatchNorm2d(3).eval(), [(2, 3, 4, 2)]),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), [(2, 3, 4)]),
    "Flatten": (lambda: nn.Flatten(), [(2, 3, 4)]),
    "Residual": (lambda: nn.Residual(nn.Dense(4, 4, "tanh", rng=0)), [(2, 4)]),
    "Residual, shortcut": (lambda: nn.Residual(nn.Dense(4, 3, "tanh", rng=0), nn.Linear(4, 3, rng=1)), [(2, 4)]),
    "Sequential": (lambda: nn.Sequential(nn.Dense(4, 3, "silu", rng=0), np.sin, nn.LayerNorm(3)), [(5, 4)]),
    "MultiHeadAttention": (lambda: nn.MultiHeadAttention(4, 2, rng=0), [(2, 3, 4)]),
    "MultiHeadAttention, cross": (lambda: nn.MultiHeadAttention(4, 2, rng=0), [(2, 3, 4), (2, 5, 4)]),
    "GRU": (lambda: nn.GRU(3, 4, layers=2, rng=0), [(2, 5, 3), (2, 2, 4)]),
    "GRUCell": (lambda: nn.GRUCell(3, 4, rng=0), [(2, 3), (2, 4)]),
    **{
        name: (getattr(nn, name), [(2, 4)])
        for name in ("ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Softplus", "Sigmoid", "Tanh", "Softmax", "LogSoftmax")
    },
    **{name: (getattr(nn, name), [(2, 4), (2, 4)]) for name in ("MSELoss", "L1Loss", "HuberLoss", "BCEWithLogitsLoss")},
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name):
    """With respect to all inputs and all parameters, along random directions, against central differences."""
    make, shapes = LAYERS[name]
    model = Summed(make()).to(np.float64)
    for i, p in enumerate(model.parameters()):
        p.data = p.data + 0.1 * normal(*p.shape, seed=50 + i)
    arrays = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    xs = [tg.Tensor(a, requires_grad=True) for a in arrays]
    targets = [*xs, *model.parameters()]
    values = [t.data.copy() for t in targets]
    model(*xs).backward()

    def f(*changed):
        for t, a in zip(targets, changed, strict=True):
            t.data = a
        with tg.no_grad():
            return model(*xs).item()

    directions = [rng(99 + i).uniform(-1, 1, t.shape) for i, t in enumerate(targets)]
    for i, t in enumerate(targets):
        alone = [d * (k == i) for k, d in enumerate(directions)]
        numeric, terms = first_derivative(f, values, alone, 1e-4), t.grad * directions[i]
        assert abs(numeric - terms.sum()) <= 1e-6 * (np.abs(terms).sum() + abs(numeric)) + 1e-9, f"target {i}"


def test_gradients_of_an_embedding():
    layer = nn.Embedding(5, 3, rng=0)
    codes = np.array([[1, 4, 1], [0, 1, 4]])
    weight = normal(2, 3, 3).astype(np.float32)
    (layer(codes) * weight).sum().backward()
    expected = np.zeros((5, 3))
    for i in range(2):
        for j in range(3):
            expected[codes[i, j]] += weight[i, j]
    assert np.allclose(layer.weight.grad, expected, atol=1e-6)
    assert np.array_equal(layer(codes).data, layer.weight.data[codes])


# -- what layers are


@pytest.mark.parametrize("name", nn.activations.ACTIVATIONS)
def test_dense_knows_all_activations(name):
    x = normal(4, 3).astype(np.float32)
    layer = nn.Dense(3, 5, name, rng=0)
    expected = getattr(functional, name)(x @ layer.weight.data + layer.bias.data)
    assert np.allclose(layer(x).data, expected, atol=1e-6)
    rectifiers = "relu", "leaky_relu", "elu", "gelu", "silu", "celu", "mish", "relu6", "hard_swish"
    variance = 2 / 400 if name in rectifiers else 2 / 700
    assert abs(nn.Dense(400, 300, name, rng=0).weight.data.var() / variance - 1) < 0.02


def test_activation_modules_count_as_activations():
    layer = nn.Dense(3, 2, nn.GELU("tanh"), rng=0)
    assert [path for path, _ in layer.named_modules()] == ["", "activation"]
    assert np.array_equal(layer.weight.data, nn.Dense(3, 2, "gelu", rng=0).weight.data)


def test_batch_norm_keeps_running_statistics():
    layer = nn.BatchNorm2d(2, momentum=0.25)
    assert [path for path, _ in layer.named_buffers()] == ["running_mean", "running_variance"]
    mean, variance = np.zeros(2), np.ones(2)
    for seed in range(3):
        x = (3 + 2 * normal(4, 2, 3, 5, seed=seed)).astype(np.float32)
        layer(x)
        mean = 0.75 * mean + 0.25 * x.mean((0, 2, 3))
        variance = 0.75 * variance + 0.25 * x.var((0, 2, 3), ddof=1)
    assert np.allclose(layer.running_mean.data, mean, atol=1e-6)
    assert np.allclose(layer.running_variance.data, variance, atol=1e-5)
    layer.eval()
    y = layer(x)
    expected = (x - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
    assert np.allclose(y.data, expected, atol=1e-4)
    assert np.allclose(layer.running_mean.data, mean, atol=1e-6)  # evaluation leaves them alone


def test_batch_norm_in_a_checkpoint_counts_a_batch_once():
    x = normal(6, 3).astype(np.float32)
    layers = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    (layers[0](x) ** 3).sum().backward()
    (tg.checkpoint(layers[1])(tg.Tensor(x, requires_grad=True)) ** 3).sum().backward()
    assert np.array_equal(layers[0].running_mean.data, layers[1].running_mean.data)
    assert np.allclose(layers[0].weight.grad, layers[1].weight.grad)


def test_dropout_layers_share_a_generator():
    generator = rng()
    model = nn.Sequential(nn.Dropout(0.5, generator), nn.Dropout(0.5, generator), nn.Dropout(0.5, 3))
    assert [path for path, _ in model.named_generators()] == ["layers.0.rng", "layers.2.rng"]
    x = np.ones((20, 20), np.float32)
    assert np.array_equal(model.eval()(x).data, x)
    first = model.train()(x).data
    assert not np.array_equal(model(x).data, first)
    again = nn.Sequential(nn.Dropout(0.5, rng()), nn.Dropout(0.5, 3))
    again.layers.insert(1, nn.Dropout(0.5, again[0].rng))
    assert np.array_equal(again(x).data, first)


def test_one_seed_gives_one_network():
    def make():
        r = rng(5)
        return nn.Sequential(
            nn.Conv2d(1, 2, 3, rng=r), nn.Flatten(), nn.Linear(8, 4, rng=r), nn.Embedding(3, 2, rng=r),
            nn.GRU(2, 3, rng=r), nn.MultiHeadAttention(4, 2, rng=r), nn.Dropout(rng=r),
        )  # fmt: skip

    one, other = make(), make()
    for (path, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert np.array_equal(a, b), path
        assert a.dtype == np.float32, path


def test_attention_looks_where_it_may():
    layer = nn.MultiHeadAttention(4, 2, rng=0)
    x = normal(2, 5, 4).astype(np.float32)
    y = layer(x, causal=True).data
    changed = x.copy()
    changed[:, 3:] += 1
    assert np.allclose(layer(changed, causal=True).data[:, :3], y[:, :3], atol=1e-6)
    assert not np.allclose(layer(changed, causal=True).data[:, 3:], y[:, 3:], atol=1e-3)
    below = np.tri(5, dtype=bool)
    for mask in (below, np.stack([below, below]), np.broadcast_to(below, (2, 2, 5, 5))):
        assert np.allclose(layer(x, mask=mask).data, y, atol=1e-6)
    assert np.allclose(layer(x, x).data, layer(x).data, atol=1e-6)
    assert np.allclose(layer(x, x, x).data, layer(x).data, atol=1e-6)


@given(steps=st.integers(1, 5), layers=st.integers(1, 3), n=st.integers(0, 3))
def test_gru_is_its_cells_step_by_step(steps, layers, n):
    layer = nn.GRU(3, 2, layers, rng=0)
    x = normal(n, steps, 3).astype(np.float32)
    outputs, last = layer(x)
    assert outputs.shape == (n, steps, 2)
    assert last.shape == (layers, n, 2)
    hidden = [np.zeros((n, 2), np.float32)] * layers
    for t in range(steps):
        below = x[:, t]
        for i, cell in enumerate(layer.cells):
            hidden[i] = below = cell(below, hidden[i]).data
        assert np.allclose(outputs.data[:, t], below, atol=1e-6)
    assert np.allclose(last.data, np.stack(hidden), atol=1e-6)


def test_gru_cell_is_its_equations():
    cell = nn.GRUCell(3, 2, rng=0).to(np.float64)
    cell.input_bias.data, cell.hidden_bias.data = normal(6, seed=1), normal(6, seed=2)
    x, h = normal(4, 3), normal(4, 2, seed=3)
    W, U, b, c = (p.data for p in (cell.input_weight, cell.hidden_weight, cell.input_bias, cell.hidden_bias))
    gate = [(x @ W[:, i : i + 2] + b[i : i + 2], h @ U[:, i : i + 2] + c[i : i + 2]) for i in (0, 2, 4)]
    r, z = (1 / (1 + np.exp(-(u + v))) for u, v in gate[:2])
    n = np.tanh(gate[2][0] + r * gate[2][1])
    assert np.allclose(cell(x, h).data, (1 - z) * n + z * h)


def test_containers():
    blocks = nn.ModuleList([nn.Linear(2, 2, rng=0)])
    blocks.append(nn.ReLU())
    blocks[-1] = nn.Linear(2, 3, rng=1)
    assert len(blocks) == 2
    assert [m.out_features for m in blocks] == [2, 3]
    heads = nn.ModuleDict({"a": blocks[0], "b": nn.Tanh()})
    heads["b"] = blocks[1]
    assert (list(heads), len(heads), "a" in heads, heads.keys()) == (["a", "b"], 2, True, ["a", "b"])
    assert heads.items() == [("a", blocks[0]), ("b", blocks[1])]
    model = nn.Module()
    model.blocks, model.heads = blocks, heads
    assert [path for path, _ in model.named_parameters()] == [
        "blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias",
    ]  # fmt: skip
    with pytest.raises(IndexError):
        blocks[2]
    with pytest.raises(TypeError, match="it holds modules, not function"):
        blocks.append(lambda x: x)
    with pytest.raises(KeyError, match="there are a, b"):
        heads["c"]
    for name in ("items", "training", "a.b", ""):
        with pytest.raises(ValueError, match="choose another one"):
            heads[name] = nn.ReLU()


# -- what layers refuse


def test_layers_refuse():
    images = np.zeros((2, 3, 8, 8), np.float32)
    with pytest.raises(ValueError, match="in_channels=0 must be a positive integer"):
        nn.Conv2d(0, 3, 3)
    with pytest.raises(ValueError, match=r"kernel_size=2.5 must be"):
        nn.Conv2d(3, 3, 2.5)
    with pytest.raises(ValueError, match="one number or two"):
        nn.Conv2d(3, 3, (1, 2, 3))
    with pytest.raises(ValueError, match="groups=2 must divide both"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="images of 3 channels"):
        nn.Conv2d(4, 3, 3)(images)
    with pytest.raises(
        ValueError, match=r"BatchNorm2d\(4\) was given \(2, 3, 8, 8\); it needs \(N, 4, height, width\)"
    ):
        nn.BatchNorm2d(4)(images)
    with pytest.raises(ValueError, match=r"it needs \(N, 3\) or \(N, 3, length\)"):
        nn.BatchNorm1d(3)(images)
    with pytest.raises(TypeError, match=r"astype\(np.float32\)"):
        nn.BatchNorm2d(3)(images.astype(np.float64))
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        nn.BatchNorm1d(3)(np.zeros((1, 3), np.float32))
    with pytest.raises(TypeError, match=r"codes.astype\(np.int64\)"):
        nn.Embedding(3, 2)([0.5])
    with pytest.raises(IndexError, match=r"did you mean Embedding\(8, 2\)\?"):
        nn.Embedding(3, 2)([0, 7])
    with pytest.raises(IndexError, match=r"-1..2"):
        nn.Embedding(3, 2)([-1, 2])
    with pytest.raises(ValueError, match="do not divide into heads=3"):
        nn.MultiHeadAttention(4, 3)
    attention = nn.MultiHeadAttention(4, 2)
    with pytest.raises(ValueError, match=r"the key has shape \(2, 4\); it needs \(N, positions, 4\)"):
        attention(np.zeros((1, 2, 4), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="a value needs a key"):
        attention(np.zeros((1, 2, 4), np.float32), value=np.zeros((1, 2, 4), np.float32))
    with pytest.raises(TypeError, match=r"query.astype\(np.float32\)"):
        attention(np.zeros((1, 2, 4)))
    gru = nn.GRU(3, 4)
    with pytest.raises(ValueError, match=r"GRU\(3, 4\) was given \(2, 3\); it needs \(N, steps, 3\)"):
        gru(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"for this input it needs \(1, 2, 4\)"):
        gru(np.zeros((2, 5, 3), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(TypeError, match=r"x.astype\(np.float32\)"):
        gru(np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="pass a shortcut="):
        nn.Residual(nn.Linear(4, 3))(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(2)
    with pytest.raises(ValueError, match="'none' or 'tanh'"):
        nn.GELU("sigmoid")
    with pytest.raises(ValueError, match=r"normalized_shape=0"):
        nn.LayerNorm((3, 0))


def test_text():
    lines = {
        nn.Conv2d(3, 8, 5): "Conv2d(3, 8, 5)",
        nn.Conv2d(4, 8, (3, 5), 2, "valid", groups=2, bias=False): "Conv2d(4, 8, (3, 5), stride=2, padding='valid', groups=2, bias=False)",
        nn.MaxPool2d(2): "MaxPool2d(2)",
        nn.AvgPool2d(3, 2, count_include_pad=False): "AvgPool2d(3, stride=2, count_include_pad=False)",
        nn.BatchNorm2d(3): "BatchNorm2d(3)",
        nn.LayerNorm((3, 4)): "LayerNorm((3, 4))",
        nn.Dropout(0.1): "Dropout(0.1)",
        nn.Embedding(3, 2): "Embedding(3, 2)",
        nn.GRU(3, 4, 2, bias=False): "GRU(3, 4, layers=2, bias=False)",
        nn.GRUCell(3, 4): "GRUCell(3, 4)",
        nn.MultiHeadAttention(4, 2): "MultiHeadAttention(4, heads=2)",
        nn.Softmax(1): "Softmax(axis=1)",
        nn.GELU("tanh"): "GELU('tanh')",
        nn.MSELoss("sum"): "MSELoss(reduction='sum')",
        nn.Flatten(): "Flatten()",
    }  # fmt: skip
    for layer, text in lines.items():
        assert repr(layer) == text


# -- initial values


@pytest.mark.parametrize("draw", [nn.init.lecun_uniform, nn.init.lecun_normal])
def test_lecun_variance(draw):
    w = draw((400, 300), rng=0)
    assert w.dtype == np.float32
    assert abs(w.var() * 400 - 1) < 0.02


@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_orthogonal(shape, seed):
    w = nn.init.orthogonal(tuple(shape), seed, np.float64, gain=2.0).reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    assert np.allclose(gram, 4 * np.eye(len(gram)))


def test_orthogonal_matrices_are_evenly_distributed():
    """The mean of a rotation drawn from all of them alike is 0, also on the diagonal (a bare QR leans to one side)."""
    generator = rng()
    mean = np.mean([nn.init.orthogonal((3, 3), generator, np.float64) for _ in range(3000)], axis=0)
    assert np.abs(mean).max() < 5 * math.sqrt(1 / 3 / 3000)


def test_truncated_normal():
    w = nn.init.truncated_normal((300, 300), 0, np.float64, deviation=0.5, mean=1.0)
    assert np.abs(w - 1).max() <= 1
    assert abs(w.mean() - 1) < 0.01
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    expected = 1 - 4 * density / math.erf(math.sqrt(2))  # the variance of a normal number cut at two deviations
    assert abs(w.var() / 0.25 / expected - 1) < 0.02
    with pytest.raises(ValueError, match="limit=0 must be positive"):
        nn.init.truncated_normal((2,), limit=0)


def test_constants():
    assert np.array_equal(nn.init.constant((2, 3), 0.5, np.float64), np.full((2, 3), 0.5))
    assert nn.init.zeros((3,)).dtype == nn.init.ones((3,)).dtype == np.float32
    with pytest.raises(ValueError, match="two axes"):
        nn.init.orthogonal((3,))


def test_a_deep_copy_has_generators_and_buffers_of_its_own():
    model = nn.Sequential(nn.Dropout(0.5, rng()), nn.BatchNorm1d(3))
    other = copy.deepcopy(model)
    x = np.ones((4, 3), np.float32)
    assert np.array_equal(model(x).data, other(x).data)
    model(x)
    assert not np.array_equal(model[1].running_mean.data, other[1].running_mean.data)
    assert model[0].rng.random() != other[0].rng.random()
