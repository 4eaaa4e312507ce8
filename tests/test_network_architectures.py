"""Compiled steps of random networks that hold the layers of `test_networks.py`, beside all that `architectures.py` has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import architectures
import numpy as np
import pytest
from architectures import Builder, Shape, With, architecture
from choices import Seeded
from compared_steps import compare
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import interpreted

from tinygrad_mm import nn
from tinygrad_mm.compiler.loops import native

no_blas = pytest.mark.skipif(not native.blas(), reason="the BLAS behind this NumPy has no symbols that can be found")


def outputs(parts: Any, x: Any) -> Any:
    return parts[0](x)[0]


def outputs_of_some_steps(parts: Any, x: Any) -> Any:
    """Sequences whose lengths are told by the values themselves."""
    lengths = np.sum(x[..., 0].detach() > 0, axis=1)
    return parts[0](x, lengths=lengths)[0]


def causal(parts: Any, x: Any) -> Any:
    return parts[0](x, causal=True)


def biased(parts: Any, x: Any) -> Any:
    """A learned bias of the distance."""
    return parts[0](x, mask=parts[1])


def along_channels(parts: Any, x: Any) -> Any:
    return parts[0](x.swapaxes(1, 2)).swapaxes(1, 2)


class Further(Builder):
    """A builder that often takes one of the further layers."""

    def grow(self) -> None:
        i = len(self.shapes) - 1
        shape = self.shapes[i]
        if not shape or any(n < 0 for n in shape) or not self.choices.maybe():
            super().grow()
            return
        further = {1: self.further_features, 2: self.further_sequence, 3: self.further_image}[len(shape)]
        further(self.like(i) if self.choices.maybe() else i, shape)

    def further_features(self, i: int, shape: Shape) -> int:
        (n,) = shape
        kind = self.choices.below(6)
        if kind == 0 and n > 1:
            return self.add(nn.RMSNorm(n, 1e-3), [i], shape)
        if kind == 1 and n % 2 == 0 and n > 2:
            return self.add(nn.GroupNorm(2, n, 1e-2), [i], shape)
        if kind == 2:
            both = [self.dense(n, 2 * n), self.choices.among([nn.GLU(), nn.SwiGLU()])]
            return self.add(nn.Sequential(*both), [i], shape)
        if kind == 3:
            return self.add(nn.PReLU(self.choices.among([1, n])), [i], shape)
        if kind == 4:
            return self.add(With("lstm cell", lambda p, x: p[1](x, p[0](x))[0], nn.LSTMCell(n, n, rng=self.rng()),
                                 nn.LSTMCell(n, n, rng=self.rng())), [i], shape)  # fmt: skip
        return self.add(self.choices.among([nn.Mish(), nn.Softsign(), nn.LogSigmoid(), nn.SELU()]), [i], shape)

    def further_sequence(self, i: int, shape: Shape) -> int:
        t, n = shape
        choices, kind = self.choices, self.choices.below(7)
        heads = choices.among([k for k in (2, 1, 3) if n % k == 0])
        if kind <= 1:
            m, both = choices.among([n, 2]), choices.maybe()
            options: dict[str, Any] = {"layers": choices.between(1, 2), "bidirectional": both, "rng": self.rng()}
            layer = choices.among([nn.LSTM, nn.RNN, nn.GRU])(n, m, **options)
            function = choices.among([outputs, outputs_of_some_steps])
            return self.add(With(function.__name__, function, layer), [i], (t, m * (1 + both)))
        if kind == 2:
            layer = nn.TransformerEncoderLayer(
                n,
                heads,
                3,
                0.0,
                choices.among(["gelu", "tanh"]),
                norm_first=choices.maybe(),
                epsilon=1e-2,
                rng=self.rng(),
            )
            return self.add(With("encoder", choices.among([causal, lambda p, x: p[0](x)]), layer), [i], shape)
        if kind == 3:
            options = {"key_value_heads": choices.among([1, heads]), "rotary": n // heads % 2 == 0}
            attention = nn.MultiHeadAttention(n, heads, rng=self.rng(), **options)
            return self.add(With("biased attention", biased, attention, self.parameter(t, t)), [i], shape)
        if kind == 4:
            size = choices.between(1, min(3, t))
            layer = nn.Conv1d(n, 3, size, padding=choices.below(size), rng=self.rng())
            after = t + 2 * layer.padding - size + 1
            return self.add(With("along time", along_channels, layer), [i], (after, 3))
        if kind == 5:
            pooling: list[Callable[[], Any]] = [lambda: nn.AdaptiveAvgPool1d(2), lambda: nn.Upsample(2, mode="linear")]
            return self.add(With("resized", along_channels, choices.among(pooling)()), [i], (2, n))
        return self.add(
            choices.among([nn.SinusoidalPositions(n), nn.LearnedPositions(4, n, rng=self.rng())]), [i], shape
        )

    def further_image(self, i: int, shape: Shape) -> int:
        c, h, w = shape
        choices, kind = self.choices, self.choices.below(7)
        if kind <= 1 and h * w <= 16:
            size, stride = choices.between(1, 3), choices.between(1, 2)
            options = {"padding": choices.below(min(size, 2)), "output_padding": choices.below(stride)}
            layer = nn.ConvTranspose2d(c, choices.among([c, 2]), size, stride, rng=self.rng(), **options)
            try:
                after = layer(np.zeros((1, *shape), np.float32)).shape[1:]
            except ValueError:  # nothing would be left
                return i
            return self.add(layer, [i], after)
        if kind == 2 and h * w > 2:
            return self.add(choices.among([nn.GroupNorm(1, c, 1e-2), nn.InstanceNorm2d(c, 1e-2, True)]), [i], shape)
        if kind == 3:
            after = choices.between(1, h), choices.between(1, w + 1)
            return self.add(choices.among([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])(after), [i], (c, *after))
        if kind == 4 and h * w <= 16:
            mode = choices.among(["nearest", "bilinear"])
            return self.add(nn.Upsample(scale_factor=2, mode=mode), [i], (c, 2 * h, 2 * w))
        if kind == 5:
            return self.add(choices.among([nn.ZeroPad2d, nn.ReplicationPad2d])((1, 0, 0, 1)), [i], (c, h + 1, w + 1))
        if kind == 6:
            return self.add(nn.Dropout2d(0.4, rng=self.rng()), [i], shape)
        return self.add(nn.GlobalAvgPool(), [i], (c,))


def made(seed: int, **options: Any) -> Any:
    """An architecture, in which each optimizer has something to train."""
    with mock.patch.object(architectures, "Builder", Further):
        network = architecture(Seeded(seed), **options)
    for optimization in network.optimizations:
        optimizer = optimization.make(network.model)
        if not any(p.requires_grad for p in optimizer.parameters):
            network.model.unfreeze()
    return network


@settings(max_examples=80, derandomize=True)
@given(seed=st.integers(0, 10**6), threads=st.sampled_from([1, 2]))
def test_numpy(seed, threads):
    network = made(seed)
    assert not compare(network, "numpy", threads), network


@no_blas
@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 10**6), threads=st.sampled_from([1, 2]))
def test_interpreted_loops(seed, threads):
    network = made(seed, largest=3)
    with interpreted():
        assert not compare(network, "numba", threads), network
