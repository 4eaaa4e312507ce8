"""Random numbers that are recorded: drawn from an explicit generator, with gradients for what they are made from.

A draw is a node of the graph: backward passes and replays see the same numbers, a compiled function draws new ones at
each call. Where a distribution can be written as a function of its parameters and of noise, gradients flow to the
parameters (Kingma and Welling 2014): `normal`, `uniform` and `gumbel_softmax`.

>>> from tinygrad_mm.tensor import Tensor
>>> rng, mean = np.random.default_rng(0), Tensor([1.0, 2.0], requires_grad=True)
>>> normal(mean, 0.1, rng=rng).sum().backward()
>>> mean.grad
array([1., 1.], dtype=float32)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm import functional
from tinygrad_mm.tensor import Tensor

__all__ = ["bernoulli", "categorical", "gumbel_softmax", "normal", "uniform"]


def uniform(
    low: Any = 0.0, high: Any = 1.0, shape: Any = None, *, rng: np.random.Generator, dtype: Any = None
) -> Tensor:
    """Numbers spread evenly over [low, high): `low + (high - low) * noise`.

    `shape` is that to which both broadcast, unless given; `dtype` that of what is no plain number, or float32.

    Shape: (...), (...) -> (...)

    Raises TypeError where `rng` is no generator.

    >>> uniform(-1.0, 1.0, shape=(2, 3), rng=np.random.default_rng(0)).shape
    (2, 3)
    """
    low, high = _parameter(low), _parameter(high)
    noise = _noise("uniform", rng, shape, dtype, low, high)
    return low + (high - low) * noise


def normal(
    mean: Any = 0.0, deviation: Any = 1.0, shape: Any = None, *, rng: np.random.Generator, dtype: Any = None
) -> Tensor:
    """Normal numbers: `mean + deviation * noise`, with noise made of two uniform draws (Box and Muller 1958).

    `shape` is that to which both broadcast, unless given; `dtype` that of what is no plain number, or float32.

    Shape: (...), (...) -> (...)

    Raises TypeError where `rng` is no generator.

    >>> normal(shape=(2, 3), rng=np.random.default_rng(0)).shape
    (2, 3)
    """
    mean, deviation = _parameter(mean), _parameter(deviation)
    radius, angle = (_noise("normal", rng, shape, dtype, mean, deviation) for _ in range(2))
    noise = np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * math.pi * angle)
    return mean + deviation * noise


def bernoulli(probability: Any, shape: Any = None, *, rng: np.random.Generator, dtype: Any = None) -> Tensor:
    """1 with a probability, 0 otherwise; no gradient flows.

    `shape` is that of the probability, unless given; `dtype` too, or float32 where that is a plain number.

    Shape: (...) -> (...)

    Raises TypeError where `rng` is no generator.

    >>> bernoulli([0.0, 1.0], rng=np.random.default_rng(0))
    Tensor([0., 1.], dtype=float32)
    """
    probability = _parameter(probability)
    noise = _noise("bernoulli", rng, shape, dtype, probability)
    return (noise < probability).astype(noise.dtype)


def categorical(logits: Any, axis: int = -1, *, rng: np.random.Generator) -> Tensor:
    """A class, with the probabilities softmax(logits) along an axis; no gradient flows (see `gumbel_softmax`).

    The class where the logit with Gumbel noise added is largest (Gumbel 1954).

    Shape: (..., classes) -> (...)

    Raises TypeError where `rng` is no generator.

    >>> categorical([[0.0, 99.0], [99.0, 0.0]], rng=np.random.default_rng(0))
    Tensor([1, 0], dtype=int64)
    """
    logits = _parameter(logits)
    return np.argmax(logits + _gumbel("categorical", logits, rng), axis=axis)


def gumbel_softmax(
    logits: Any, temperature: float = 1.0, hard: bool = False, axis: int = -1, *, rng: np.random.Generator
) -> Tensor:
    """Nearly one class, with the probabilities softmax(logits), and with a gradient (Jang et al. 2017).

    softmax((logits + Gumbel noise) / temperature): the lower the temperature, the more is it one class. With `hard`, it
    is exactly one, and the gradient is that of the softmax.

    Shape: (..., classes) -> (..., classes)

    Raises ValueError for a temperature that is not positive, TypeError where `rng` is no generator.

    >>> gumbel_softmax([0.0, 99.0], hard=True, rng=np.random.default_rng(0)).data.round(4)
    array([0., 1.], dtype=float32)
    """
    if not temperature > 0:
        raise ValueError(f"gumbel_softmax: temperature={temperature} must be positive")
    logits = _parameter(logits)
    y = functional.softmax((logits + _gumbel("gumbel_softmax", logits, rng)) * (1 / temperature), axis)
    if not hard:
        return y
    largest = np.argmax(y, axis=axis, keepdims=True)
    classes = np.arange(y.shape[axis]).reshape([-1 if a == axis % y.ndim else 1 for a in range(y.ndim)])
    return (largest == classes).astype(y.dtype) - y.detach() + y


def _parameter(value: Any) -> Any:
    """Numbers as they are, which change no dtype; anything else as a Tensor."""
    return value if isinstance(value, (Tensor, int, float)) else Tensor(value)


def _gumbel(name: str, logits: Tensor, rng: np.random.Generator) -> Tensor:
    """-log(-log(uniform))"""
    noise = _noise(name, rng, None, None, logits)
    above_zero: Any = np.maximum(noise, float(np.finfo(noise.dtype).tiny))
    return -np.log(-np.log(above_zero))


def _noise(name: str, rng: Any, shape: Any, dtype: Any, *parameters: Any) -> Tensor:
    """A recorded draw from [0, 1), in the shape and dtype that fit the parameters unless they are given."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"{name}: it draws from a generator of yours; pass rng=np.random.default_rng(seed)")
    arrays = [p for p in parameters if isinstance(p, Tensor)]
    if dtype is None:
        floats = [a.dtype for a in arrays if a.dtype.kind == "f"]
        dtype = np.result_type(*floats) if floats else np.dtype(np.float32)
    if shape is None:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return functional.uniform_like(Tensor(np.broadcast_to(np.zeros((), dtype), shape)), rng)
