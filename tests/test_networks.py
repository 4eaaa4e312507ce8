"""Layers in one table: each against PyTorch's layer of the same weights, against numeric derivatives, and compiled.

A row is the layer here, the layer there, and what both are given. PyTorch is needed for the comparison with it only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from architectures import Architecture, Optimization
from compared_steps import compare
from interpreted import interpreted
from oracles import first_derivative, leaves

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.compiler.loops import native

try:
    import torch
except ImportError:
    torch = None


no_blas = pytest.mark.skipif(not native.blas(), reason="the BLAS behind this NumPy has no symbols that can be found")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(np.float32)


def called(layer: Any, *inputs: Any) -> Any:
    return layer(*inputs)


@dataclass
class Row:
    """A layer here and there, its inputs (a shape stands for normal numbers), and how it is called with them."""

    ours: Callable[[], nn.Module]
    theirs: Callable[[], Any] | None
    inputs: list[Any]
    call: Callable[..., Any] = called
    call_theirs: Callable[..., Any] = called
    stops: bool = False  # a gradient stops somewhere, which numeric differentiation cannot know

    def layer(self) -> nn.Module:
        """The layer with the same numbers each time, none of them special."""
        layer = self.ours()
        for i, p in enumerate(layer.parameters()):
            p.data = 0.4 * normal(*p.shape, seed=50 + i)
        return layer

    def arrays(self, seed: int = 0) -> list[np.ndarray]:
        return [normal(*a, seed=seed + i) if isinstance(a, tuple) else a for i, a in enumerate(self.inputs)]


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------

LENGTHS = np.array([6, 1, 4])
STEPS = np.arange(6) < LENGTHS[:, None]


def packed(layer, x, lengths, *state):
    """PyTorch's layer over sequences of different lengths, which it wants packed."""
    from torch.nn.utils import rnn

    sequences = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    outputs, last = layer(sequences, *state)
    return rnn.pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])[0], last


def with_pair(layer, x, h, c):
    return layer(x, (h, c))


def with_lengths(layer, x, lengths, *state):
    return layer(x, *state, lengths=lengths)


RECURRENT = {
    "RNN": Row(lambda: nn.RNN(5, 4), lambda: torch.nn.RNN(5, 4, batch_first=True), [(3, 6, 5)]),
    "RNN, relu, a state": Row(
        lambda: nn.RNN(5, 4, 2, activation="relu"),
        lambda: torch.nn.RNN(5, 4, 2, "relu", batch_first=True),
        [(3, 6, 5), (2, 3, 4)],
    ),
    "RNN, both directions, lengths": Row(
        lambda: nn.RNN(5, 4, 2, bidirectional=True),
        lambda: torch.nn.RNN(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5), LENGTHS, (4, 3, 4)],
        with_lengths,
        packed,
    ),
    "RNNCell": Row(lambda: nn.RNNCell(5, 4), lambda: torch.nn.RNNCell(5, 4), [(3, 5), (3, 4)]),
    "LSTM": Row(lambda: nn.LSTM(5, 4), lambda: torch.nn.LSTM(5, 4, batch_first=True), [(3, 6, 5)]),
    "LSTM, three layers, a state, no bias": Row(
        lambda: nn.LSTM(5, 4, 3, bias=False),
        lambda: torch.nn.LSTM(5, 4, 3, bias=False, batch_first=True),
        [(3, 6, 5), (3, 3, 4), (3, 3, 4)],
        with_pair,
        with_pair,
    ),
    "LSTM, both directions": Row(
        lambda: nn.LSTM(5, 4, 2, bidirectional=True),
        lambda: torch.nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5)],
    ),
    "LSTM, both directions, lengths": Row(
        lambda: nn.LSTM(5, 4, 2, bidirectional=True),
        lambda: torch.nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5), LENGTHS],
        with_lengths,
        packed,
    ),
    "LSTMCell": Row(
        lambda: nn.LSTMCell(5, 4), lambda: torch.nn.LSTMCell(5, 4), [(3, 5), (3, 4), (3, 4)], with_pair, with_pair
    ),
    "GRU, both directions, a state": Row(
        lambda: nn.GRU(5, 4, 2, bidirectional=True),
        lambda: torch.nn.GRU(5, 4, 2, batch_first=True, bidirectional=True),
        [(3, 6, 5), (4, 3, 4)],
    ),
    "GRU, a mask": Row(
        lambda: nn.GRU(5, 4, 2),
        lambda: torch.nn.GRU(5, 4, 2, batch_first=True),
        [(3, 6, 5), STEPS],
        lambda layer, x, mask: layer(x, mask=mask),
        lambda layer, x, mask: packed(layer, x, mask.sum(1)),
    ),
}


LOOKS = rng(1).random((5, 5)) < 0.6
LOOKS[:, 0] = True
BIAS = normal(5, 5, seed=7)


def not_causal(layer, x, memory):
    return layer(x, memory, causal=False)


def causal(layer, x, *memory):
    return layer(x, *memory, causal=True)


def causal_there(layer, x, *memory):
    hidden = torch.nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return layer(x, *memory, hidden, **({"tgt_is_causal": True} if memory else {"is_causal": True}))


def with_padding(layer, x):
    return layer(x, mask=tg.functional.sequence_mask(np.array([5, 2, 3]), 5)[:, None])[:, :2]


def with_padding_there(layer, x):
    outside = ~torch.tensor(tg.functional.sequence_mask(np.array([5, 2, 3]), 5))
    return layer(x, src_key_padding_mask=outside)[:, :2]


ATTENTION = {
    "MultiHeadAttention, weights": Row(
        lambda: nn.MultiHeadAttention(8, 2),
        lambda: torch.nn.MultiheadAttention(8, 2, batch_first=True),
        [(3, 5, 8)],
        lambda layer, x: layer(x, mask=LOOKS, return_weights=True),
        lambda layer, x: layer(x, x, x, attn_mask=~torch.tensor(LOOKS), average_attn_weights=False),
    ),
    "MultiHeadAttention, a mask of numbers": Row(
        lambda: nn.MultiHeadAttention(8, 2),
        lambda: torch.nn.MultiheadAttention(8, 2, batch_first=True),
        [(3, 5, 8), BIAS],
        lambda layer, x, mask: layer(x, mask=mask),
        lambda layer, x, mask: layer(x, x, x, attn_mask=mask)[0],
    ),
    "MultiHeadAttention, grouped heads": Row(
        lambda: nn.MultiHeadAttention(8, 4, key_value_heads=2, scale=0.3), None, [(3, 5, 8), (3, 6, 8)]
    ),
    "MultiHeadAttention, rotary": Row(lambda: nn.MultiHeadAttention(8, 2, rotary=True), None, [(3, 5, 8)], causal),
    "MultiHeadAttention, dropout": Row(lambda: nn.MultiHeadAttention(8, 2, dropout=0.3, rng=0), None, [(3, 5, 8)]),
    "TransformerEncoderLayer": Row(
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0),
        lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        [(3, 5, 8)],
    ),
    "TransformerEncoderLayer, norm first, causal": Row(
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", True),
        lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", norm_first=True, batch_first=True),
        [(3, 5, 8)],
        causal,
        causal_there,
    ),
    "TransformerEncoderLayer, no bias": Row(
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, bias=False),
        lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, bias=False, batch_first=True),
        [(3, 5, 8)],
    ),
    "TransformerEncoderLayer, dropout": Row(lambda: nn.TransformerEncoderLayer(8, 2, 16, rng=0), None, [(3, 5, 8)]),
    "TransformerEncoder": Row(
        lambda: nn.TransformerEncoder(2, 8, 2, 16, 0.0, "gelu"),
        lambda: torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True), 2, enable_nested_tensor=False
        ),
        [(3, 5, 8)],
        with_padding,
        with_padding_there,
    ),
    "TransformerDecoderLayer": Row(
        lambda: nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0),
        lambda: torch.nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        [(3, 5, 8), (3, 4, 8)],
        not_causal,
    ),
    "TransformerDecoderLayer, norm first, causal": Row(
        lambda: nn.TransformerDecoderLayer(8, 2, 16, 0.0, "gelu", True),
        lambda: torch.nn.TransformerDecoderLayer(8, 2, 16, 0.0, "gelu", norm_first=True, batch_first=True),
        [(3, 5, 8), (3, 4, 8)],
        causal,
        causal_there,
    ),
    "TransformerDecoder": Row(
        lambda: nn.TransformerDecoder(2, 8, 2, 16, dropout=0.0, final_norm=True),
        lambda: torch.nn.TransformerDecoder(
            torch.nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2, torch.nn.LayerNorm(8)
        ),
        [(3, 5, 8), (3, 4, 8)],
        not_causal,
    ),
    "Transformer": Row(
        lambda: nn.Transformer(8, 2, 2, 1, 16, 0.0),
        lambda: torch.nn.Transformer(8, 2, 2, 1, 16, 0.0, batch_first=True),
        [(3, 4, 8), (3, 5, 8)],
        not_causal,
    ),
    "SinusoidalPositions": Row(lambda: nn.SinusoidalPositions(6), None, [(2, 5, 6)]),
    "LearnedPositions": Row(lambda: nn.LearnedPositions(7, 6), None, [(2, 5, 6)]),
}


IMAGES = [(2, 4, 7, 8)]
SEQUENCES = [(2, 4, 9)]


def same(name, *arguments, inputs, stops=False, **options):
    """A row for layers of one name, which take the same arguments."""
    return Row(
        lambda: getattr(nn, name)(*arguments, **options),
        lambda: getattr(torch.nn, name)(*arguments, **options),
        inputs,
        stops=stops,
    )


CONVOLUTION = {
    "Conv1d": same("Conv1d", 4, 6, 3, inputs=SEQUENCES),
    "Conv1d, all options": same("Conv1d", 4, 6, 3, 2, 1, 2, 2, inputs=SEQUENCES),
    "Conv1d, same": same("Conv1d", 4, 6, 3, padding="same", bias=False, inputs=SEQUENCES),
    "ConvTranspose1d": same("ConvTranspose1d", 4, 6, 3, 2, 1, 1, 2, inputs=SEQUENCES),
    "ConvTranspose2d": same("ConvTranspose2d", 4, 6, 3, inputs=IMAGES),
    "ConvTranspose2d, all options": same(
        "ConvTranspose2d", 4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, dilation=(2, 1), inputs=IMAGES
    ),
    "ConvTranspose2d, no bias": same("ConvTranspose2d", 4, 3, 2, 2, bias=False, inputs=IMAGES),
    "MaxPool1d": same("MaxPool1d", 3, 2, 1, inputs=SEQUENCES),
    "AvgPool1d": same("AvgPool1d", 3, 2, 1, inputs=SEQUENCES),
    "AvgPool1d, padding does not count": Row(
        lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False),
        lambda: torch.nn.AvgPool1d(3, 2, 1, count_include_pad=False),
        SEQUENCES,
    ),
    "AdaptiveAvgPool1d": same("AdaptiveAvgPool1d", 4, inputs=SEQUENCES),
    "AdaptiveAvgPool2d": same("AdaptiveAvgPool2d", (3, 5), inputs=IMAGES),
    "AdaptiveAvgPool2d, one": same("AdaptiveAvgPool2d", 1, inputs=IMAGES),
    "AdaptiveAvgPool2d, one axis, more": same("AdaptiveAvgPool2d", (None, 11), inputs=IMAGES),
    "AdaptiveMaxPool1d": same("AdaptiveMaxPool1d", 4, inputs=SEQUENCES),
    "AdaptiveMaxPool2d": same("AdaptiveMaxPool2d", (3, 5), inputs=IMAGES),
    "GlobalAvgPool": Row(
        nn.GlobalAvgPool, lambda: torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), IMAGES
    ),
    "GlobalMaxPool": Row(
        nn.GlobalMaxPool, lambda: torch.nn.Sequential(torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten()), IMAGES
    ),
    "Upsample, nearest": same("Upsample", scale_factor=2, inputs=IMAGES),
    "Upsample, nearest, any size": same("Upsample", (11, 5), inputs=IMAGES),
    "Upsample, nearest, any factor": same("Upsample", scale_factor=1.7, inputs=SEQUENCES),
    "Upsample, linear": same("Upsample", 20, mode="linear", inputs=SEQUENCES),
    "Upsample, bilinear": same("Upsample", scale_factor=2, mode="bilinear", inputs=IMAGES),
    "Upsample, bilinear, smaller": same("Upsample", scale_factor=(0.6, 1.3), mode="bilinear", inputs=IMAGES),
    "Upsample, bilinear, corners": same("Upsample", (11, 5), mode="bilinear", align_corners=True, inputs=IMAGES),
    "PixelShuffle": same("PixelShuffle", 2, inputs=IMAGES),
    **{
        f"{kind}{axes}d": same(f"{kind}{axes}d", (2, 1, 0, 3)[: 2 * axes], inputs=IMAGES if axes == 2 else SEQUENCES)
        for kind in ("ZeroPad", "ReflectionPad", "ReplicationPad")
        for axes in (1, 2)
    },
    "ConstantPad1d": same("ConstantPad1d", 2, 0.5, inputs=SEQUENCES),
    "ConstantPad2d": same("ConstantPad2d", (1, 0, 2, 1), 0.5, inputs=IMAGES),
    "Identity": same("Identity", inputs=IMAGES),
    "Unflatten": same("Unflatten", 1, (2, -1), inputs=IMAGES),
}

CODES = np.array([[1, 0, 4, 2], [2, 2, 1, 3]])

NORMALIZATION = {
    "RMSNorm": same("RMSNorm", 5, inputs=[(2, 4, 5)]),
    "RMSNorm, two axes": same("RMSNorm", (4, 5), 1e-3, inputs=[(2, 4, 5)]),
    "GroupNorm": same("GroupNorm", 2, 4, 1e-3, inputs=IMAGES),
    "GroupNorm, vectors": same("GroupNorm", 2, 6, inputs=[(3, 6)]),
    "InstanceNorm1d": same("InstanceNorm1d", 4, inputs=SEQUENCES),
    "InstanceNorm2d": same("InstanceNorm2d", 4, affine=True, inputs=IMAGES),
    "Dropout": Row(lambda: nn.Dropout(0.4, rng=0), None, IMAGES),
    "Dropout1d": Row(lambda: nn.Dropout1d(0.4, rng=0), None, SEQUENCES),
    "Dropout2d": Row(lambda: nn.Dropout2d(0.4, rng=0), None, IMAGES),
    "Dropout2d, evaluation": Row(lambda: nn.Dropout2d().eval(), lambda: torch.nn.Dropout2d().eval(), IMAGES),
    "Embedding": same("Embedding", 5, 3, padding_idx=2, inputs=[CODES], stops=True),
    "Embedding, from the end": same("Embedding", 5, 3, padding_idx=-1, inputs=[CODES], stops=True),
}

ACTIVATIONS = {
    **{
        name: same(name, inputs=[(4, 6)])
        for name in (
            "CELU", "GLU", "Hardsigmoid", "Hardswish", "Hardtanh", "LogSigmoid", "Mish", "PReLU", "ReLU6", "SELU", "Softsign",
        )
    },
    "Softmin": Row(nn.Softmin, lambda: torch.nn.Softmin(-1), [(4, 6)]),
    "Softmin, axis 0": same("Softmin", 0, inputs=[(4, 6)]),
    "GLU, axis 0": same("GLU", 0, inputs=[(4, 6)]),
    "CELU, alpha": same("CELU", 0.5, inputs=[(4, 6)]),
    "Hardtanh, ends": same("Hardtanh", -0.5, 2.0, inputs=[(4, 6)]),
    "PReLU, channels": same("PReLU", 4, inputs=IMAGES),
    "SwiGLU": Row(nn.SwiGLU, None, [(4, 6)]),
}  # fmt: skip

SIGNS = np.where(rng(3).random(4) < 0.5, -1, 1).astype(np.float32)
LABELS = np.array([2, 0, 5, 2])
PAIR = [(4, 6), (4, 6)]


def of_probabilities(squash):
    return lambda layer, x, t: layer(squash(x), squash(t))


def emitted(layer, x, *given):
    return layer(tg.log_softmax(x), *given)


def emitted_there(layer, x, labels, steps=None, lengths=None):
    steps = torch.full((x.shape[0],), x.shape[1]) if steps is None else steps
    lengths = torch.full((x.shape[0],), labels.shape[1]) if lengths is None else lengths
    return layer(torch.log_softmax(x, -1).swapaxes(0, 1), labels, steps, lengths)


CTC = [(4, 7, 5), np.array([[1, 2, 2], [3, 3, 3], [4, 1, 2], [2, 1, 4]])]
CTC_LENGTHS = [np.array([7, 6, 4, 5]), np.array([3, 2, 0, 1])]
SHORT = [np.array([7, 4, 4, 5]), np.array([3, 3, 0, 1])]  # the second is too short: 3, blank, 3, blank, 3


def losses():
    for how in ("mean", "sum", "none"):
        yield f"SmoothL1Loss, {how}", same("SmoothL1Loss", reduction=how, beta=0.5, inputs=PAIR)
        yield (
            f"BCELoss, {how}",
            Row(
                lambda how=how: nn.BCELoss(reduction=how),
                lambda how=how: torch.nn.BCELoss(reduction=how),
                PAIR,
                of_probabilities(tg.sigmoid),
                of_probabilities(lambda t: torch.sigmoid(t)),
            ),
        )
        yield (
            f"GaussianNLLLoss, {how}",
            Row(
                lambda how=how: nn.GaussianNLLLoss(how, full=True),
                lambda how=how: torch.nn.GaussianNLLLoss(reduction=how, full=True),
                [*PAIR, (4, 6)],
                lambda layer, x, t, v: layer(x, t, np.exp(v)),
                lambda layer, x, t, v: layer(x, t, torch.exp(v)),
            ),
        )
        yield f"PoissonNLLLoss, {how}", same("PoissonNLLLoss", reduction=how, inputs=PAIR)
        yield (
            f"MultiMarginLoss, {how}",
            same("MultiMarginLoss", reduction=how, margin=0.7, inputs=[(4, 6), LABELS]),
        )
        for name in ("MarginRankingLoss", "CosineEmbeddingLoss"):
            inputs = PAIR if name.startswith("Cosine") else [(4,), (4,)]
            yield (
                f"{name}, {how}",
                Row(
                    lambda name=name, how=how: getattr(nn, name)(how, margin=0.2),
                    lambda name=name, how=how: getattr(torch.nn, name)(reduction=how, margin=0.2),
                    inputs,
                    lambda layer, a, b: layer(a, b, SIGNS.astype(a.dtype)),
                    lambda layer, a, b: layer(a, b, torch.tensor(SIGNS)),
                ),
            )
        yield f"TripletMarginLoss, {how}", same("TripletMarginLoss", reduction=how, swap=True, inputs=[*PAIR, (4, 6)])
        yield (
            f"CTCLoss, {how}",
            Row(
                lambda how=how: nn.CTCLoss(reduction=how),
                lambda how=how: torch.nn.CTCLoss(reduction=how),
                [*CTC, *CTC_LENGTHS],
                emitted,
                emitted_there,
            ),
        )
    yield "TripletMarginLoss, p", same("TripletMarginLoss", margin=2.0, p=3.0, inputs=[*PAIR, (4, 6)])
    yield "SmoothL1Loss, no squares", same("SmoothL1Loss", beta=0.0, inputs=PAIR)
    yield (
        "CTCLoss, too short",
        Row(
            lambda: nn.CTCLoss(zero_infinity=True),
            lambda: torch.nn.CTCLoss(zero_infinity=True),
            [*CTC, *SHORT],
            emitted,
            emitted_there,
        ),
    )
    yield (
        "CTCLoss, all of it",
        Row(
            lambda: nn.CTCLoss(blank=4), lambda: torch.nn.CTCLoss(blank=4), [CTC[0], CTC[1] % 4], emitted, emitted_there
        ),
    )
    yield (
        "HingeLoss",
        Row(
            nn.HingeLoss,
            torch.nn.Identity if torch else None,
            [(4,)],
            lambda layer, x: layer(x, SIGNS.astype(x.dtype)),
            lambda layer, x: torch.clamp(1 - torch.tensor(SIGNS) * layer(x), min=0).mean(),
        ),
    )
    yield "InfoNCELoss", Row(lambda: nn.InfoNCELoss(temperature=0.5), None, PAIR)
    yield "InfoNCELoss, symmetric", Row(lambda: nn.InfoNCELoss("none", 0.5, True), None, PAIR)


LOSSES = dict(losses())

ROWS: dict[str, Row] = {**RECURRENT, **ATTENTION, **CONVOLUTION, **NORMALIZATION, **ACTIVATIONS, **LOSSES}

# ---------------------------------------------------------------------------------------------------------------------
# What is true of every row
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.theirs])
def test_pytorch(name):
    """Outputs, gradients and buffers are PyTorch's to 1e-5; weights go there and come back."""
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'tinygrad_mm[peers]'")
    from test_torch_parity import compare_layers

    row = ROWS[name]
    torch.manual_seed(0)
    compare_layers(
        row.ours(),
        row.theirs(),
        row.arrays(),
        lambda layer, *xs: leaves(row.call(layer, *xs)),
        lambda layer, *ts: leaves(row.call_theirs(layer, *ts)),
    )


def weighted(outputs: Any) -> Any:
    """One number of all outputs."""
    return sum(
        (t * rng(i).uniform(0.5, 1.5, t.shape).astype(t.dtype)).sum() + 0.5 * (t * t).sum()
        for i, t in enumerate(o for o in leaves(outputs) if o.dtype.kind == "f")
    )


def drawn_anew(layer: nn.Module) -> None:
    """Every generator where it began, so that two calls draw the same numbers."""
    for _, generator in layer.named_generators():
        generator.bit_generator.state = rng(5).bit_generator.state


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.stops])
def test_numeric(name):
    """Gradients of all inputs and parameters, along random directions, against central differences in float64."""
    row = ROWS[name]
    layer = row.layer().to(np.float64)
    floats = [a.dtype.kind == "f" for a in row.arrays()]
    xs = [
        tg.Tensor(a.astype(np.float64) if f else a, requires_grad=f) for a, f in zip(row.arrays(), floats, strict=True)
    ]
    targets = [x for x in xs if x.requires_grad] + layer.parameters()
    values = [t.data.copy() for t in targets]
    drawn_anew(layer)
    weighted(row.call(layer, *xs)).backward()

    def f(*changed):
        for t, a in zip(targets, changed, strict=True):
            t.data = a
        drawn_anew(layer)
        with tg.no_grad():
            return weighted(row.call(layer, *xs)).item()

    directions = [rng(99 + i).uniform(-1, 1, t.shape) for i, t in enumerate(targets)]
    for i, t in enumerate(targets):
        alone = [d * (k == i) for k, d in enumerate(directions)]
        numeric, terms = first_derivative(f, values, alone, 1e-5), t.grad * directions[i]
        assert abs(numeric - terms.sum()) <= 1e-6 * (np.abs(terms).sum() + abs(numeric)) + 1e-9, f"target {i}"


class Fed(nn.Module):
    """A layer behind a factor for each input, so that a step also needs the gradients of inputs."""

    def __init__(self, row: Row) -> None:
        self.call = row.call
        self.factors = [nn.Parameter(np.ones(1)) if a.dtype.kind == "f" else None for a in row.arrays()]
        self.layer = row.layer()
        for p in self.factors:
            if p is not None:
                p.data = p.data.astype(np.float32)

    def forward(self, *inputs: Any) -> Any:
        given = [x if p is None else x * p for x, p in zip(inputs, self.factors, strict=True)]
        return self.call(self.layer, *given)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("backend", "threads"), [("numpy", 1), ("numpy", 2), pytest.param("numba", 1, marks=no_blas)])
def test_compiled(name, backend, threads):
    """A compiled training step is the eager one: loss, gradients, update, buffers and generators, step by step.

    It also takes itself for the eager one. Loops are interpreted, not compiled.
    """
    row = ROWS[name]
    batches = [(*row.arrays(10 * step), np.ones((), np.float32)) for step in range(3)]
    optimization = Optimization(
        tg.optim.SGD, {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}, [[]]
    )
    model = Fed(row)
    optimization.groups = [list(range(len(model.parameters())))]
    made = Architecture(model, lambda outputs, target: weighted(outputs) * target, [optimization], batches, [], [], 1)
    with interpreted() if backend == "numba" else contextlib.nullcontext():
        assert not compare(made, backend, threads, verify=True)


@pytest.mark.parametrize("name", ROWS)
def test_names(name):
    """A layer shows itself by its class and sizes: in `repr`, in the summary and in pictures."""
    row = ROWS[name]
    layer = row.ours()
    xs = [tg.Tensor(a, requires_grad=a.dtype.kind == "f") for a in row.arrays()]
    assert repr(layer).startswith(f"{type(layer).__name__}(")
    innermost = [module for _, module in layer.named_modules() if not module.children()]
    assert all(type(module).__name__ in nn.summary(layer) for module in innermost)
    y = row.call(layer, *xs)
    if y is not xs[0]:  # such as dropout in evaluation
        assert type(layer).__name__ in tg.draw(weighted(y), model=layer).source


def test_every_layer_has_a_row():
    """Here, or in the table of the layers that came first."""
    from test_layers import LAYERS

    known = {type(row.ours()).__name__ for row in ROWS.values()} | {name.split(",")[0] for name in LAYERS}
    no_layers = {"Module", "ModuleDict", "ModuleList"}
    classes = {
        name for name in nn.__all__ if isinstance(value := getattr(nn, name), type) and issubclass(value, nn.Module)
    }
    of_labels = {"CrossEntropyLoss", "KLDivLoss", "NLLLoss"}  # `test_torch_parity.py` and `test_compile_losses.py`
    assert classes - known - no_layers - of_labels == set()
