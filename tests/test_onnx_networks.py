"""`tg.onnx.export` of sequences, attention and all layers of the table of networks, and of networks made of them."""

from __future__ import annotations

import numpy as np
import pytest
from test_networks import ACTIVATIONS, ATTENTION, CONVOLUTION, NORMALIZATION, RECURRENT

import tinygrad_mm as tg
from tinygrad_mm import nn

onnx = pytest.importorskip("onnx")

# Rows whose inputs are no batches: states with the layers first, masks for all examples, lengths, an axis of examples.
OTHER_INPUTS = {
    *("RNN, relu, a state", "RNN, both directions, lengths", "LSTM, three layers, a state, no bias"),
    *("LSTM, both directions, lengths", "GRU, both directions, a state", "GRU, a mask", "TransformerEncoder"),
    *("MultiHeadAttention, a mask of numbers", "GLU, axis 0"),
}
ROWS = {**RECURRENT, **ATTENTION, **CONVOLUTION, **NORMALIZATION, **ACTIVATIONS}


class Called(nn.Module):
    """A layer as its row calls it."""

    def __init__(self, row):
        self.layer, self.call = row.layer(), row.call

    def forward(self, *xs):
        return self.call(self.layer, *xs)


def flat(values):
    return [leaf for v in values for leaf in flat(v)] if isinstance(values, (tuple, list)) else [values]


def check(model, xs, path, sizes=(1, 2, 5)):
    """What onnxruntime computes from the file is what the network computes, for any number of examples."""
    runtime = pytest.importorskip("onnxruntime")
    model.eval()
    session = runtime.InferenceSession(tg.onnx.export(model, path, xs), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    for n in sizes:
        batch = [np.resize(x, (n, *x.shape[1:])) for x in xs]
        expected = flat(model(*map(tg.Tensor, batch)))
        found = session.run(None, dict(zip(names, batch, strict=True)))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            np.testing.assert_allclose(one, other.detach().data, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in OTHER_INPUTS])
def test_layers_of_the_table(name, tmp_path):
    row = ROWS[name]
    check(Called(row), tuple(row.arrays()), tmp_path / "model.onnx")


def test_rows_left_out_are_rows():
    assert ROWS.keys() > OTHER_INPUTS


class Model(nn.Module):
    """Parts, and a function of them and the inputs."""

    def __init__(self, function, *parts):
        self.function, self.parts = function, list(parts)
        for i, (_, p) in enumerate(self.named_parameters()):
            p.data = 0.4 * np.random.default_rng(i).standard_normal(p.shape).astype(np.float32)

    def forward(self, *xs):
        return self.function(*self.parts, *xs)


X = np.random.default_rng(0).standard_normal((2, 6, 5)).astype(np.float32)
CODES = np.random.default_rng(0).integers(0, 7, (2, 6))


def from_states(layer, first, x):
    """A recurrent layer that begins with states that are computed from the input."""
    h = np.tanh(first(x[:, 0]))
    count = len(layer.cells) + len(layer.backward_cells)
    states = np.stack([h * (i + 1) for i in range(count)])
    return layer(x, (states, states * 0.5) if isinstance(layer, nn.LSTM) else states)


def last_step(embedding, lstm, dense, codes):
    return dense(lstm(embedding(codes))[0][:, -1])


def last_state(embedding, gru, dense, codes):
    return dense(gru(embedding(codes))[1][-1])


def language_model(embedding, positions, encoder, codes):
    return encoder(positions(embedding(codes)), causal=True) @ embedding.weight.T


def without_padding(embedding, attention, codes):
    return attention(embedding(codes), mask=(codes != 0)[:, None, None, :])


def pieces(x):
    return (
        np.concatenate([x[:, ::-1], x[:, [3, 1]], x[:, 1:4:2]], axis=1),
        np.argmax(x, axis=-1),
        np.cumsum(x, axis=1)[..., None, 0],
        np.where((x > 0) & ~(x > 1), np.floor(x), np.sign(x)),
    )


NETWORKS = {
    **{
        f"{kind.__name__}{', both directions' * both}{', no bias' * (not bias)}, states": (
            Model(from_states, kind(5, 4, 2, bias, both, rng=0), nn.Dense(5, 4, rng=1)),
            (X,),
        )
        for kind in (nn.RNN, nn.LSTM, nn.GRU)
        for both in (False, True)
        for bias in (False, True)
    },
    "last step": (Model(last_step, nn.Embedding(7, 5, 0), nn.LSTM(5, 4, 2), nn.Dense(4, 3)), (CODES,)),
    "last state": (Model(last_state, nn.Embedding(7, 5), nn.GRU(5, 4, 2), nn.Dense(4, 3)), (CODES,)),
    "a layer called twice": (Model(lambda gru, x: gru(gru(x)[0])[0], nn.GRU(5, 5)), (X,)),
    "language model": (
        Model(
            language_model,
            nn.Embedding(7, 8),
            nn.LearnedPositions(9, 8),
            nn.TransformerEncoder(2, 8, 2, 16, dropout=0.1),
        ),
        (CODES,),
    ),
    "a mask from the input": (Model(without_padding, nn.Embedding(7, 8), nn.MultiHeadAttention(8, 2)), (CODES,)),
    "translation": (
        Model(lambda e, t, a, b: t(e(a), e(b)), nn.Embedding(7, 8), nn.Transformer(8, 2, 1, 1, 16)),
        (CODES, CODES[:, :4]),
    ),
    "pieces": (Model(pieces), (X,)),
    "autoencoder": (
        Model(
            lambda down, up, x: up(tg.relu(down(x))),
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
        ),
        (np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32),),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    model, xs = NETWORKS[name]
    check(model, xs, tmp_path / "model.onnx")


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_recurrent_layer_is_one_operation_with_named_weights(kind, tmp_path):
    graph = onnx.load(tg.onnx.export(kind(5, 4, 2, rng=0), tmp_path / "model.onnx", X)).graph
    operations = [node.op_type for node in graph.node]
    assert operations.count(kind.__name__) == 2
    assert {f"cells.{i}.{w}" for i in (0, 1) for w in "WRB"} <= {constant.name for constant in graph.initializer}
    assert [value.name for value in graph.output] == ["output_0", "output_1", "output_2"][: len(graph.output)]


LENGTHS = np.array([6, 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer, x: layer(x[:2], lengths=LENGTHS)[0], "some of the examples|lengths or a mask"),
        (lambda layer, x: layer(x, mask=x[..., 0] > 0)[0], "GRU with inputs by name"),
        (lambda layer, x: layer(x, state=np.stack([x[:, 0, :4]] * 2))[0], "GRU with inputs by name"),
    ],
)
def test_what_a_layer_cannot_say_is_named(call, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        tg.onnx.export(Model(call, nn.GRU(5, 4, 2)), tmp_path / "model.onnx", X)
    assert not list(tmp_path.iterdir())


def test_an_activation_that_onnx_lacks_is_named(tmp_path):
    with pytest.raises(TypeError, match="RNN with its activation has no form"):
        tg.onnx.export(nn.RNN(5, 4, activation=np.sin), tmp_path / "model.onnx", X)
