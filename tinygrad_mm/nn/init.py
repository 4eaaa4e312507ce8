"""Initialization of weights: each function draws an array of a given shape from an explicit generator.

`fan_in` and `fan_out` are read off the shape: (in, out) for a dense layer; for more axes, (out, in, *window).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "constant",
    "dirac",
    "generator",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "truncated_normal",
    "uniform",
    "zeros",
]

Rng: TypeAlias = "np.random.Generator | int | None"
Array: TypeAlias = "np.ndarray[Any, Any]"


def generator(rng: Rng) -> np.random.Generator:
    """A NumPy generator: the one given, a new one from a seed, or (None) one seeded by the operating system.

    >>> float(generator(0).random()) == float(generator(0).random())
    True
    """
    return np.random.default_rng(rng)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many values enter and leave one unit of a weight of this shape.

    >>> fans((784, 128)), fans((16, 3, 5, 5))
    ((784, 128), (75, 400))
    """
    if len(shape) < 2:
        raise ValueError(f"a weight needs at least two axes to have a fan-in and a fan-out; this shape is {shape}")
    if len(shape) == 2:
        return shape[0], shape[1]
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _fan_in(shape: tuple[int, ...]) -> int:
    return max(fans(shape)[0], 1)  # a weight without elements has any variance


def _uniform(shape: tuple[int, ...], limit: float, rng: Rng, dtype: Any) -> Array:
    return generator(rng).uniform(-limit, limit, shape).astype(dtype)


def _normal(shape: tuple[int, ...], deviation: float, rng: Rng, dtype: Any) -> Array:
    return (generator(rng).standard_normal(shape) * deviation).astype(dtype)


def glorot_uniform(shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, gain: float = 1.0) -> Array:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010), times gain squared.

    >>> glorot_uniform((4, 8), rng=0).shape
    (4, 8)
    """
    return _uniform(shape, gain * math.sqrt(6 / max(sum(fans(shape)), 1)), rng, dtype)


def glorot_normal(shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, gain: float = 1.0) -> Array:
    """Normal with variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010), times gain squared.

    >>> glorot_normal((4, 8), rng=0).dtype
    dtype('float32')
    """
    return _normal(shape, gain * math.sqrt(2 / max(sum(fans(shape)), 1)), rng, dtype)


def he_uniform(shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, gain: float = math.sqrt(2)) -> Array:
    """Uniform with variance gain^2 / fan_in: 2 / fan_in, for layers followed by ReLU (He et al. 2015).

    >>> he_uniform((4, 8), rng=0).shape
    (4, 8)
    """
    return _uniform(shape, gain * math.sqrt(3 / _fan_in(shape)), rng, dtype)


def he_normal(shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, gain: float = math.sqrt(2)) -> Array:
    """Normal with variance gain^2 / fan_in: 2 / fan_in, for layers followed by ReLU (He et al. 2015).

    >>> he_normal((4, 8), rng=0).shape
    (4, 8)
    """
    return _normal(shape, gain / math.sqrt(_fan_in(shape)), rng, dtype)


def lecun_uniform(shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, gain: float = 1.0) -> Array:
    """Uniform with variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp"), times gain squared.

    >>> lecun_uniform((4, 8), rng=0).shape
    (4, 8)
    """
    return _uniform(shape, gain * math.sqrt(3 / _fan_in(shape)), rng, dtype)


def lecun_normal(shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, gain: float = 1.0) -> Array:
    """Normal with variance 1 / fan_in (LeCun et al. 1998, "Efficient BackProp"), times gain squared.

    >>> lecun_normal((4, 8), rng=0).shape
    (4, 8)
    """
    return _normal(shape, gain / math.sqrt(_fan_in(shape)), rng, dtype)


def uniform(
    shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, low: float = -1.0, high: float = 1.0
) -> Array:
    """Spread evenly over [low, high).

    >>> bool(np.abs(uniform((4, 8), rng=0, low=-0.1, high=0.1)).max() <= 0.1)
    True
    """
    return generator(rng).uniform(low, high, shape).astype(dtype)


def normal(
    shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, deviation: float = 1.0, mean: float = 0.0
) -> Array:
    """Normal, of a mean and a standard deviation.

    >>> normal((4, 8), rng=0, deviation=0.02).shape
    (4, 8)
    """
    return (mean + deviation * generator(rng).standard_normal(shape)).astype(dtype)


def truncated_normal(
    shape: tuple[int, ...],
    rng: Rng = None,
    dtype: Any = np.float32,
    deviation: float = 1.0,
    mean: float = 0.0,
    limit: float = 2.0,
) -> Array:
    """Normal, with numbers further than `limit` deviations from the mean drawn again.

    `deviation` is that before cutting; at a limit of 2 the numbers that remain deviate by 0.88 of it.

    >>> bool(np.abs(truncated_normal((100, 100), rng=0, deviation=0.1)).max() <= 0.2)
    True
    """
    if limit <= 0:
        raise ValueError(f"truncated_normal: limit={limit} must be positive")
    rng = generator(rng)
    z = rng.standard_normal(shape)
    while (outside := np.abs(z) > limit).any():
        z[outside] = rng.standard_normal(int(outside.sum()))
    return (mean + deviation * z).astype(dtype)


def orthogonal(shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, gain: float = 1.0) -> Array:
    """A random matrix with orthonormal rows or columns, whichever are fewer, times gain (Saxe et al. 2014).

    Of more than two axes, all but the first count as one.

    >>> w = orthogonal((4, 8), rng=0, dtype=np.float64)
    >>> np.allclose(w @ w.T, np.eye(4))
    True
    """
    fans(shape)  # raises for fewer than two axes
    rows, columns = shape[0], math.prod(shape[1:])
    tall = generator(rng).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.where(np.diagonal(r) < 0, -1, 1)  # makes every such matrix equally likely (Mezzadri 2007)
    return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)


def sparse(
    shape: tuple[int, ...], rng: Rng = None, dtype: Any = np.float32, connections: int = 15, deviation: float = 1.0
) -> Array:
    """Zeros, but for normal numbers on as many inputs of each unit as there are `connections` (Martens 2010).

    Shape: (in, out), or (out, in, *window)

    >>> (sparse((100, 5), rng=0, connections=3) != 0).sum(axis=0)
    array([3, 3, 3, 3, 3])
    """
    if connections < 0:
        raise ValueError(f"sparse: connections={connections} must not be negative")
    fans(shape)  # raises for fewer than two axes
    rng = generator(rng)
    w = np.zeros(shape, dtype)
    for unit in w.T if len(shape) == 2 else w:
        inputs = rng.permutation(unit.size)[:connections]
        unit.flat[inputs] = deviation * rng.standard_normal(len(inputs))
    return w


def dirac(shape: tuple[int, ...], dtype: Any = np.float32, groups: int = 1) -> Array:
    """Filters that leave images as they are: 1 in the middle of the window from channel i to channel i, 0 elsewhere.

    Filters or channels beyond the smaller number of both are 0; with `groups`, so in each group. Of two axes,
    (in, out), it is the identity matrix.

    Shape: (out, in / groups, *window), or (in, out)

    >>> dirac((2, 2, 3))[0]
    array([[0., 1., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    fans(shape)  # raises for fewer than two axes
    if groups < 1 or shape[0] % groups:
        raise ValueError(f"dirac: {shape[0]} filters do not divide into groups={groups}")
    w = np.zeros(shape, dtype)
    middle = tuple(n // 2 for n in shape[2:])
    filters = shape[0] // groups
    for group in range(groups):
        for i in range(min(filters, shape[1])):
            w[(group * filters + i, i) + middle] = 1
    return w


def constant(shape: tuple[int, ...], value: float, dtype: Any = np.float32) -> Array:
    """The same number everywhere.

    >>> constant((2,), 0.5)
    array([0.5, 0.5], dtype=float32)
    """
    return np.full(shape, value, dtype)


def zeros(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Zeros, as most biases start.

    >>> zeros((2,))
    array([0., 0.], dtype=float32)
    """
    return np.zeros(shape, dtype)


def ones(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Ones, as the scales of normalisation start.

    >>> ones((2,))
    array([1., 1.], dtype=float32)
    """
    return np.ones(shape, dtype)
