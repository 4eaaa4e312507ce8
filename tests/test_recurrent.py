"""Recurrent layers: they are their cells step by step, in both directions and whatever the lengths; what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_mm import nn

KINDS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=3), layers=st.integers(1, 3), both=st.booleans())
def test_layers_are_their_cells_step_by_step(kind, lengths, layers, both):
    """Each sequence by itself, cut to its length, cell after cell."""
    layer = KINDS[kind](3, 2, layers, bidirectional=both, rng=0)
    for i, p in enumerate(layer.parameters()):
        p.data = p.data + normal(*p.shape, seed=i) / 4
    x = normal(len(lengths), 5, 3)
    outputs, last = layer(x, lengths=lengths)
    last = last if kind == "LSTM" else (last,)
    for n, length in enumerate(lengths):
        below, ends = x[n : n + 1, :length], []
        for cells in zip(layer.cells, *([layer.backward_cells] if both else []), strict=True):
            sides = []
            for i, cell in enumerate(cells):
                state = (np.zeros((1, 2), np.float32),) * cell.states
                states = []
                for t in range(length)[::-1] if i else range(length):
                    new = cell(below[:, t], state if kind == "LSTM" else state[0])
                    state = tuple(s.data for s in (new if kind == "LSTM" else (new,)))
                    states.append(state[0])
                sides.append(states[::-1] if i else states)
                ends.append(state)
            below = np.concatenate([np.stack(side, 1) if side else np.zeros((1, 0, 2)) for side in sides], axis=-1)
            below = below.astype(np.float32)
        assert np.allclose(outputs.data[n, :length], below[0], atol=1e-5)
        assert not outputs.data[n, length:].any()
        for part, end in zip(last, zip(*ends, strict=True), strict=True):
            assert np.allclose(part.data[:, n], np.concatenate(end), atol=1e-5)
    mask = np.arange(5) < np.array(lengths)[:, None]
    assert np.array_equal(layer(x, mask=mask)[0].data, outputs.data)


def test_lstm_cell_is_its_equations():
    cell = nn.LSTMCell(3, 2, rng=0).to(np.float64)
    b, u = cell.input_bias.data, cell.hidden_bias.data
    assert np.array_equal(b, [0, 0, 1, 1, 0, 0, 0, 0])  # the forget gate begins open
    assert not u.any()
    cell.input_bias.data, cell.hidden_bias.data = b + normal(8, seed=1), u + normal(8, seed=2)
    x, h, c = (normal(4, n, seed=n).astype(np.float64) for n in (3, 2, 2))
    total = x @ cell.input_weight.data + cell.input_bias.data + h @ cell.hidden_weight.data + cell.hidden_bias.data
    i, f, g, o = (total[:, k : k + 2] for k in (0, 2, 4, 6))
    new_c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
    found = cell(x, (h, c))
    assert np.allclose(found[1].data, new_c)
    assert np.allclose(found[0].data, np.tanh(new_c) / (1 + np.exp(-o)))


def test_dropout_falls_between_layers():
    x = normal(4, 6, 3)
    two, one = nn.LSTM(3, 5, 2, dropout=0.5, rng=0), nn.LSTM(3, 5, dropout=0.5, rng=0)
    assert not np.array_equal(two(x)[0].data, two(x)[0].data)
    assert np.array_equal(one(x)[0].data, one(x)[0].data)
    two.eval()
    assert np.array_equal(two(x)[0].data, two(x)[0].data)


def test_text():
    lines = {
        nn.RNN(3, 4): "RNN(3, 4)",
        nn.RNN(3, 4, 2, bidirectional=True, activation="relu"): "RNN(3, 4, layers=2, bidirectional=True, activation=relu)",
        nn.LSTM(3, 4, bias=False, dropout=0.1): "LSTM(3, 4, dropout=0.1, bias=False)",
        nn.LSTMCell(3, 4): "LSTMCell(3, 4)",
        nn.RNNCell(3, 4, activation=np.sin): "RNNCell(3, 4, activation=sin)",
    }  # fmt: skip
    for layer, text in lines.items():
        assert repr(layer) == text


def test_what_is_refused():
    x = normal(2, 5, 3)
    layer = nn.LSTM(3, 4, rng=0)
    with pytest.raises(ValueError, match=r"its state is a pair \(h, c\); give two arrays of shape \(1, 2, 4\)"):
        layer(x, normal(1, 2, 4))
    with pytest.raises(ValueError, match=r"the state has shape \(2, 4\); for this input it needs \(1, 2, 4\)"):
        layer(x, (normal(1, 2, 4), normal(2, 4)))
    with pytest.raises(TypeError, match=r"the state is float64, the input float32; write state.astype\(np.float32\)"):
        nn.GRU(3, 4, rng=0)(x, np.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match=r"the lengths lie in 2..6, but the input has 5 steps"):
        layer(x, lengths=[6, 2])
    with pytest.raises(ValueError, match=r"the lengths have shape \(3,\); for this input they need \(2,\)"):
        layer(x, lengths=[1, 1, 1])
    with pytest.raises(TypeError, match=r"lengths.astype\(np.int64\)"):
        layer(x, lengths=[1.0, 2.0])
    with pytest.raises(TypeError, match="it needs booleans"):
        layer(x, mask=np.ones((2, 5), int))
    with pytest.raises(ValueError, match=r"the mask has shape \(5, 2\)"):
        layer(x, mask=np.ones((5, 2), bool))
    with pytest.raises(ValueError, match="give one of them"):
        layer(x, lengths=[1, 1], mask=np.ones((2, 5), bool))
    with pytest.raises(ValueError, match=r"\(an LSTM goes through whole ones\)"):
        nn.LSTMCell(3, 4)(x)
    with pytest.raises(TypeError, match=r"x.astype\(np.float32\)"):
        layer(x.astype(np.float64))
