"""Attention as a layer, and what it remembers while a sequence is generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.graph import state
from tinygrad_mm.nn import init
from tinygrad_mm.nn.layers import Linear, positive_integers
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Parameter, Tensor

__all__ = ["KeyValueCache", "MultiHeadAttention"]


class KeyValueCache:
    """Keys and values of the positions that an attention has seen, so that each new one is projected once.

    For generating, without gradients: one cache for each layer, `layer(x, causal=True, cache=cache)` with the new
    positions only. `len(cache)` is the number of positions so far. Where attention goes to something else, its keys and
    values are kept from the first call on; of a decoder layer, in `cache.memory`.

    Raises ValueError for keys of another shape, RuntimeError where gradients would be lost, TypeError in a compiled
    function.

    >>> from tinygrad_mm.gradient import no_grad
    >>> layer, cache, x = MultiHeadAttention(8, heads=2, rng=0), KeyValueCache(), np.ones((3, 5, 8), np.float32)
    >>> with no_grad():
    ...     parts = [layer(x[:, :4], causal=True, cache=cache), layer(x[:, 4:], causal=True, cache=cache)]
    >>> bool(np.allclose(np.concatenate(parts, axis=1).data, layer(x, causal=True).data, atol=1e-6)), len(cache)
    (True, 5)
    """

    def __init__(self) -> None:
        self._held: list[np.ndarray[Any, Any]] = []
        self._length = 0
        self._memory: KeyValueCache | None = None

    def __len__(self) -> int:
        return self._length

    @property
    def memory(self) -> KeyValueCache:
        """The cache of the attention to an encoder's output, in the same layer."""
        self._memory = self._memory or KeyValueCache()
        return self._memory

    def select(self, sequences: Any) -> None:
        """Go on with these sequences of the batch, by number, in this order: what a beam search keeps.

        >>> cache, x = KeyValueCache(), Tensor(np.arange(3.0).reshape(3, 1, 1, 1))
        >>> _ = cache.extended(x, x)
        >>> cache.select([2, 2, 0])
        >>> cache.held()[0].data.ravel()
        array([2., 2., 0.])
        """
        self._held = [held[np.asarray(sequences)] for held in self._held]
        if self._memory is not None:
            self._memory.select(sequences)

    def held(self) -> tuple[Tensor, Tensor]:
        """All keys and values so far."""
        keys, values = (Tensor(held[..., : self._length, :]) for held in self._held)
        return keys, values

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these ones last.

        Shape: (..., positions, features), (..., positions, values) -> (..., all positions, features or values)
        """
        if state.tracing:
            raise TypeError("KeyValueCache: a compiled function would see one position again and again; call eagerly")
        if key.requires_grad or value.requires_grad:
            raise RuntimeError("KeyValueCache: it keeps no gradients; generate within `with tg.no_grad():`")
        start, stop = self._length, self._length + key.shape[-2]
        new = [key.value, value.value]
        for i, array in enumerate(new):
            if not start:
                self._held[i:] = [array.copy()]
                continue
            held = self._held[i]
            kept, given = (*held.shape[:-2], held.shape[-1]), (*array.shape[:-2], array.shape[-1])
            if kept != given or held.dtype != array.dtype:
                raise ValueError(
                    f"KeyValueCache: it holds {held.dtype} of shape {held.shape}, which {array.dtype} of shape "
                    f"{array.shape} does not continue; begin with a new cache"
                )
            if stop > held.shape[-2]:  # twice as much, so that all copies together are as long as the sequence
                longer = np.empty((*held.shape[:-2], 2 * stop, held.shape[-1]), held.dtype)
                longer[..., :start, :] = held[..., :start, :]
                self._held[i] = held = longer
            held[..., start:stop, :] = array
        self._length = stop
        return self.held()


class MultiHeadAttention(Module):
    """Several attentions side by side, each on its part of the features (Vaswani et al. 2017).

    `layer(x)` is self-attention, `layer(query, key)` or `layer(query, key, value)` attends to something else. `mask`
    holds booleans, True where a query may attend, or numbers that are added to the scores, of shape (queries, keys),
    (N, queries, keys), or with the heads before the queries; `causal=True` lets query i attend to keys 0..i only.
    `return_weights=True` also returns where each head looks, (N, heads, queries, keys). `cache` is a `KeyValueCache`
    of the positions before these.

    With `key_value_heads`, a divisor of `heads`, that many heads of keys and values serve a group of queries each
    (Ainslie et al. 2023). `scale` multiplies the scores, 1 / sqrt(features / heads) unless given. `dropout` drops
    weights in training. `rotary=True` turns queries and keys by their positions (`functional.rotary`).

    One weight of shape (features, 3 * features) makes queries, keys and values. Each of the three, and the output's,
    starts with the variance of Glorot and Bengio 2010; the biases start at 0.

    Shape: (N, queries, features), (N, keys, features) -> (N, queries, features)

    Raises ValueError for shapes that do not fit, TypeError for another dtype or a mask of neither kind.

    >>> layer = MultiHeadAttention(8, heads=2, rng=0)
    >>> y, weights = layer(np.ones((3, 5, 8), np.float32), causal=True, return_weights=True)
    >>> y.shape, weights.shape
    ((3, 5, 8), (3, 2, 5, 5))
    """

    torch_names: ClassVar[Mapping[str, str]] = {
        "in_weight": "in_proj_weight.T",
        "in_bias": "in_proj_bias",
        "output.weight.T": "out_proj.weight.T",
        "output.bias": "out_proj.bias",
    }

    def __init__(
        self,
        features: int,
        heads: int,
        bias: bool = True,
        dropout: float = 0.0,
        *,
        key_value_heads: int | None = None,
        scale: float | None = None,
        rotary: bool = False,
        rng: init.Rng = None,
        dtype: Any = np.float32,
    ) -> None:
        key_value_heads = heads if key_value_heads is None else key_value_heads
        positive_integers(self, features=features, heads=heads, key_value_heads=key_value_heads)
        if features % heads:
            raise ValueError(f"MultiHeadAttention: {features} features do not divide into heads={heads}")
        if heads % key_value_heads:
            raise ValueError(
                f"MultiHeadAttention: heads={heads} do not divide into key_value_heads={key_value_heads} groups"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiHeadAttention: dropout={dropout} is a probability; it lies between 0 and 1")
        rng = init.generator(rng)
        self.features, self.heads, self.key_value_heads = int(features), int(heads), int(key_value_heads)
        self.dropout, self.scale, self.rotary = dropout, scale, rotary
        self.width = self.features // self.heads  # features of one head
        self.sizes = [self.features, *[self.key_value_heads * self.width] * 2]  # of queries, keys and values
        parts = [init.glorot_uniform((features, n), rng, dtype) for n in self.sizes]
        self.in_weight = Parameter(np.concatenate(parts, axis=1))
        self.in_bias = Parameter(init.zeros((sum(self.sizes),), dtype)) if bias else None
        self.output = Linear(features, features, bias, rng=rng, dtype=dtype)
        self.rng = rng if dropout else None

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        mask: Any = None,
        causal: bool = False,
        *,
        return_weights: bool = False,
        cache: KeyValueCache | None = None,
    ) -> Any:
        """The heads' attentions, side by side, through the output layer."""
        query = as_tensor(query)
        key = None if key is None else as_tensor(key)
        value = key if value is None else as_tensor(value)
        if key is None and value is not None:
            raise ValueError("MultiHeadAttention: a value needs a key; call layer(query, key, value)")
        for name, x in (("query", query), ("key", key), ("value", value)):
            self._check(name, x)
        before = len(cache) if cache is not None and key is None else 0
        if cache is not None and key is not None and len(cache):  # the same as in the first call
            q, (k, v) = self._project(query, 0), cache.held()
        else:
            q, k, v = self._projected(query, key, value)
            k = functional.rotary(k, before) if self.rotary else k
            k, v = (k, v) if cache is None else cache.extended(k, v)
        q = functional.rotary(q, before) if self.rotary else q
        if mask is not None:
            mask = as_tensor(mask)
            mask = mask[:, None] if mask.ndim == 3 else mask  # the same for all heads
        if causal and before:
            below = np.tri(q.shape[-2], k.shape[-2], before, dtype=bool)
            mask, causal = _both(mask, below), False
        found = functional.scaled_dot_product_attention(
            q, k, v, mask, causal, self.scale, self.dropout if self.training else 0.0, self.rng, return_weights
        )
        y, *weights = found if return_weights else (found,)
        n, heads, queries, width = y.shape
        y = self.output(y.swapaxes(1, 2).reshape(n, queries, heads * width))
        return (y, *weights) if return_weights else y

    def _projected(self, query: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, ...]:
        """Queries, keys and values, (N, heads, positions, features / heads) each: one product where all come from x."""
        if key is None or value is None:
            y = query @ self.in_weight
            y = y if self.in_bias is None else y + self.in_bias
            n, positions, _ = y.shape
            if self.key_value_heads == self.heads:
                split = y.reshape(n, positions, 3, self.heads, self.width).transpose(2, 0, 3, 1, 4)
                return tuple(functional.unstack(split))
            return tuple(self._in_heads(y[..., self._part(i)]) for i in range(3))
        return tuple(self._project(x, i) for i, x in enumerate((query, key, value)))

    def _project(self, x: Tensor, i: int) -> Tensor:
        """The queries (0), keys (1) or values (2) of x alone, (N, heads, positions, features / heads)."""
        part = self._part(i)
        y = x @ self.in_weight[:, part]
        return self._in_heads(y if self.in_bias is None else y + self.in_bias[part])

    def _part(self, i: int) -> slice:
        """Which columns of the weight make queries, keys or values."""
        start = sum(self.sizes[:i])
        return slice(start, start + self.sizes[i])

    def _in_heads(self, y: Tensor) -> Tensor:
        """(N, positions, heads * width) -> (N, heads, positions, width)"""
        return y.reshape(*y.shape[:2], -1, self.width).swapaxes(1, 2)

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
        usual: dict[str, Any] = {"key_value_heads": self.heads, "dropout": 0.0, "scale": None, "rotary": False}
        options = [f", {name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return f"MultiHeadAttention({self.features}, heads={self.heads}{''.join(options)})"


def _both(mask: Any, below: np.ndarray[Any, Any]) -> Any:
    """A mask that also looks at nothing but what is below."""
    if mask is None:
        return below
    return mask & below if mask.dtype == bool else np.where(below, mask, -np.inf)
