"""Transformers: layers of attention and of two dense layers, each added to what it is given; and stacks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm.nn import init
from tinygrad_mm.nn.activations import Activation
from tinygrad_mm.nn.attention import KeyValueCache, MultiHeadAttention
from tinygrad_mm.nn.layers import Dense, Linear, positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.nn.normalization import Dropout, LayerNorm
from tinygrad_mm.tensor import Tensor

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]


class _Layer(Module):
    """What both kinds of layers have: attention to itself, two dense layers, a norm for each part."""

    parts: ClassVar[int]

    def __init__(
        self,
        features: int,
        heads: int,
        hidden_features: int | None = None,
        dropout: float = 0.1,
        activation: Activation = "relu",
        norm_first: bool = False,
        bias: bool = True,
        *,
        epsilon: float = 1e-5,
        key_value_heads: int | None = None,
        rotary: bool = False,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        positive_integers(self, features=features, heads=heads)
        hidden_features = 4 * features if hidden_features is None else hidden_features
        rng = init.generator(rng)
        self.features, self.heads, self.norm_first = int(features), int(heads), norm_first
        own = {"bias": bias, "dropout": dropout, "key_value_heads": key_value_heads, "rng": rng, "dtype": dtype}
        self.self_attention = MultiHeadAttention(features, heads, rotary=rotary, **own)
        if self.parts == 3:
            self.cross_attention = MultiHeadAttention(features, heads, **own)
        self.linear1 = Dense(features, hidden_features, activation, bias=bias, rng=rng, dtype=dtype)
        self.linear2 = Linear(hidden_features, features, bias, rng=rng, dtype=dtype)
        self.norm1 = LayerNorm(features, epsilon, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(features, epsilon, bias=bias, dtype=dtype)
        if self.parts == 3:
            self.norm3 = LayerNorm(features, epsilon, bias=bias, dtype=dtype)
        self.dropout = Dropout(dropout, rng)

    def feed_forward(self, x: Any) -> Any:
        """The two dense layers, at each position alone."""
        return self.linear2(self.dropout(self.linear1(x)))

    def torch_name(self, path: str) -> str:
        """PyTorch abbreviates both attentions."""
        return path.replace("self_attention.", "self_attn.").replace("cross_attention.", "multihead_attn.")


class TransformerEncoderLayer(_Layer):
    """Self-attention, then two dense layers; each is added to what it was given, and normalised (Vaswani et al. 2017).

    `hidden_features`, 4 * features unless given, lie between the two dense layers. `norm_first` normalises what goes
    into each part instead of each sum (Xiong et al. 2020). `dropout` falls on attention weights and on what each part
    adds. `mask`, `causal` and `cache` are those of `MultiHeadAttention`, and so are `key_value_heads` and `rotary`.
    Sequences of different lengths: `mask=functional.sequence_mask(lengths, steps)[:, None]`.

    Shape: (N, positions, features) -> (N, positions, features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> TransformerEncoderLayer(8, heads=2, rng=0)(np.ones((3, 5, 8), np.float32), causal=True).shape
    (3, 5, 8)
    """

    parts = 2

    def forward(self, x: Any, mask: Any = None, causal: bool = False, cache: KeyValueCache | None = None) -> Tensor:
        """X = norm1(x + attention(x)); norm2(x + feed_forward(x))"""
        x = as_tensor(x)

        def attended(x: Tensor) -> Tensor:
            return self.dropout(self.self_attention(x, mask=mask, causal=causal, cache=cache))

        if self.norm_first:
            x = x + attended(self.norm1(x))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + attended(x))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to a memory, then two dense layers; each is added to what it was given, and normalised.

    As `TransformerEncoderLayer`, with an attention to what an encoder made (Vaswani et al. 2017). Each position attends
    to those before it and itself only, unless `causal=False`. `memory_mask` is the mask of the attention to the memory.

    Shape: (N, positions, features), (N, memory positions, features) -> (N, positions, features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> memory = np.ones((3, 7, 8), np.float32)
    >>> TransformerDecoderLayer(8, heads=2, rng=0)(np.ones((3, 5, 8), np.float32), memory).shape
    (3, 5, 8)
    """

    parts = 3

    def forward(
        self,
        x: Any,
        memory: Any,
        mask: Any = None,
        memory_mask: Any = None,
        causal: bool = True,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """X = norm1(x + attention(x)); x = norm2(x + attention(x, memory)); norm3(x + feed_forward(x))"""
        x, memory = as_tensor(x), as_tensor(memory)

        def attended(x: Tensor) -> Tensor:
            return self.dropout(self.self_attention(x, mask=mask, causal=causal, cache=cache))

        def attended_to_memory(x: Tensor) -> Tensor:
            kept = None if cache is None else cache.memory
            return self.dropout(self.cross_attention(x, memory, mask=memory_mask, cache=kept))

        if self.norm_first:
            x = x + attended(self.norm1(x))
            x = x + attended_to_memory(self.norm2(x))
            return x + self.dropout(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + attended(x))
        x = self.norm2(x + attended_to_memory(x))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class _Stack(Module):
    """Layers of one kind on top of each other."""

    layer: ClassVar[type[_Layer]]

    def __init__(
        self,
        layers: int,
        features: int,
        heads: int,
        hidden_features: int | None = None,
        dropout: float = 0.1,
        activation: Activation = "relu",
        norm_first: bool = False,
        bias: bool = True,
        *,
        final_norm: bool | None = None,
        epsilon: float = 1e-5,
        key_value_heads: int | None = None,
        rotary: bool = False,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        positive_integers(self, layers=layers)
        own = features, heads, hidden_features, dropout, activation, norm_first, bias
        options: dict[str, Any] = {"epsilon": epsilon, "key_value_heads": key_value_heads, "rotary": rotary}
        options |= {"rng": init.generator(rng), "dtype": dtype}
        self.layers = [self.layer(*own, **options) for _ in range(layers)]
        final_norm = norm_first if final_norm is None else final_norm
        self.norm = LayerNorm(features, epsilon, bias=bias, dtype=dtype) if final_norm else None

    def _through(self, x: Any, *given: Any, caches: Sequence[KeyValueCache] | None, **options: Any) -> Tensor:
        held = [None] * len(self.layers) if caches is None else list(caches)
        if len(held) != len(self.layers):
            raise ValueError(
                f"{type(self).__name__}: {len(held)} caches for {len(self.layers)} layers; "
                "write caches=[nn.KeyValueCache() for _ in model.layers]"
            )
        for layer, cache in zip(self.layers, held, strict=True):
            x = layer(x, *given, cache=cache, **options)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """Encoder layers on top of each other; the options are those of `TransformerEncoderLayer` (Vaswani et al. 2017).

    With `final_norm` (by default where `norm_first`), what comes out is normalised. With `causal=True` this is the
    decoder of a language model; `caches` then holds a `KeyValueCache` for each layer while text is generated.

    Shape: (N, positions, features) -> (N, positions, features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> TransformerEncoder(2, 8, heads=2, norm_first=True, rng=0)(np.ones((3, 5, 8), np.float32)).shape
    (3, 5, 8)
    """

    layer = TransformerEncoderLayer

    def forward(
        self, x: Any, mask: Any = None, causal: bool = False, caches: Sequence[KeyValueCache] | None = None
    ) -> Tensor:
        """Each layer's output is the next one's input."""
        return self._through(x, mask, causal, caches=caches)


class TransformerDecoder(_Stack):
    """Decoder layers on top of each other; the options are those of `TransformerDecoderLayer` (Vaswani et al. 2017).

    With `final_norm` (by default where `norm_first`), what comes out is normalised.

    Shape: (N, positions, features), (N, memory positions, features) -> (N, positions, features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> memory = np.ones((3, 7, 8), np.float32)
    >>> TransformerDecoder(2, 8, heads=2, rng=0)(np.ones((3, 5, 8), np.float32), memory).shape
    (3, 5, 8)
    """

    layer = TransformerDecoderLayer

    def forward(
        self,
        x: Any,
        memory: Any,
        mask: Any = None,
        memory_mask: Any = None,
        causal: bool = True,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Tensor:
        """Each layer's output is the next one's input."""
        return self._through(x, memory, mask, memory_mask, causal, caches=caches)


class Transformer(Module):
    """An encoder of one sequence, and a decoder of another that attends to its output (Vaswani et al. 2017).

    Both have a final norm; the options are those of `TransformerEncoderLayer`.

    Shape: (N, source positions, features), (N, target positions, features) -> (N, target positions, features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype.

    >>> model = Transformer(8, heads=2, encoder_layers=2, decoder_layers=1, rng=0)
    >>> model(np.ones((3, 7, 8), np.float32), np.ones((3, 5, 8), np.float32)).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        features: int,
        heads: int,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        hidden_features: int | None = None,
        dropout: float = 0.1,
        activation: Activation = "relu",
        norm_first: bool = False,
        bias: bool = True,
        *,
        epsilon: float = 1e-5,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        own = features, heads, hidden_features, dropout, activation, norm_first, bias
        options: dict[str, Any] = {"final_norm": True, "epsilon": epsilon, "rng": init.generator(rng), "dtype": dtype}
        self.encoder = TransformerEncoder(encoder_layers, *own, **options)
        self.decoder = TransformerDecoder(decoder_layers, *own, **options)

    def forward(
        self,
        source: Any,
        target: Any,
        source_mask: Any = None,
        target_mask: Any = None,
        memory_mask: Any = None,
        causal: bool = True,
    ) -> Tensor:
        """decoder(target, encoder(source))"""
        memory = self.encoder(source, source_mask)
        return self.decoder(target, memory, target_mask, memory_mask, causal)
