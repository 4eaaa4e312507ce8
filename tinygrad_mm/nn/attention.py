"""Attention as a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import Linear, positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["MultiHeadAttention"]


class MultiHeadAttention(Module):
    """Several attentions side by side, each on its part of the features (Vaswani et al. 2017).

    `layer(x)` is self-attention, `layer(query, key)` or `layer(query, key, value)` attends to something else. `mask`
    holds booleans, True where a query may look, of shape (queries, keys), (N, queries, keys), or with the heads before
    the queries; `causal=True` lets query i look at keys 0..i only.

    One weight of shape (features, 3 * features) makes queries, keys and values. Each of the three, and the output's,
    starts with the variance of Glorot and Bengio 2010; the biases start at 0.

    Shape: (N, queries, features), (N, keys, features) -> (N, queries, features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype or a mask that is not boolean.

    >>> MultiHeadAttention(8, heads=2, rng=0)(np.ones((3, 5, 8), np.float32), causal=True).shape
    (3, 5, 8)
    """

    torch_names: ClassVar[Mapping[str, str]] = {
        "in_weight": "in_proj_weight.T",
        "in_bias": "in_proj_bias",
        "output.weight.T": "out_proj.weight.T",
        "output.bias": "out_proj.bias",
    }

    def __init__(
        self, features: int, heads: int, bias: bool = True, *, rng: init.Rng = None, dtype: Any = np.float32
    ) -> None:
        positive_integers(self, features=features, heads=heads)
        if features % heads:
            raise ValueError(f"MultiHeadAttention: {features} features do not divide into heads={heads}")
        rng = init.generator(rng)
        self.features, self.heads = int(features), int(heads)
        parts = [init.glorot_uniform((features, features), rng, dtype) for _ in range(3)]
        self.in_weight = Parameter(np.concatenate(parts, axis=1))
        self.in_bias = Parameter(init.zeros((3 * features,), dtype)) if bias else None
        self.output = Linear(features, features, bias, rng=rng, dtype=dtype)

    def forward(self, query: Any, key: Any = None, value: Any = None, mask: Any = None, causal: bool = False) -> Tensor:
        """The heads' attentions, side by side, through the output layer."""
        query = as_tensor(query)
        key = None if key is None else as_tensor(key)
        value = key if value is None else as_tensor(value)
        if key is None and value is not None:
            raise ValueError("MultiHeadAttention: a value needs a key; call layer(query, key, value)")
        for name, x in (("query", query), ("key", key), ("value", value)):
            self._check(name, x)
        q, k, v = self._projected(query, key, value)
        if mask is not None:
            mask = as_tensor(mask)
            mask = mask[:, None] if mask.ndim == 3 else mask  # the same for all heads
        y = functional.scaled_dot_product_attention(q, k, v, mask, causal)
        n, heads, queries, width = y.shape
        return self.output(y.swapaxes(1, 2).reshape(n, queries, heads * width))

    def _projected(self, query: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, ...]:
        """Queries, keys and values, (N, heads, positions, features / heads) each: one product where all come from x."""
        if key is None or value is None:
            y = query @ self.in_weight
            y = y if self.in_bias is None else y + self.in_bias
            n, positions, _ = y.shape
            split = y.reshape(n, positions, 3, self.heads, self.features // self.heads).transpose(2, 0, 3, 1, 4)
            return tuple(functional.unstack(split))
        projected = []
        for i, x in enumerate((query, key, value)):
            part = slice(i * self.features, (i + 1) * self.features)
            y = x @ self.in_weight[:, part]
            y = y if self.in_bias is None else y + self.in_bias[part]
            heads = y.reshape(*x.shape[:2], self.heads, self.features // self.heads)
            projected.append(heads.swapaxes(1, 2))
        return tuple(projected)

    def _check(self, name: str, x: Tensor | None) -> None:
        if x is None:
            return
        if x.ndim != 3 or x.shape[-1] != self.features:
            raise ValueError(f"{self!r}: the {name} has shape {x.shape}; it needs (N, positions, {self.features})")
        if x.dtype != self.in_weight.dtype:
            raise TypeError(
                f"MultiHeadAttention: the {name} is {x.dtype}, the weights {self.in_weight.dtype}; "
                f"write {name}.astype(np.{self.in_weight.dtype})"
            )

    def __repr__(self) -> str:
        return f"MultiHeadAttention({self.features}, heads={self.heads})"
