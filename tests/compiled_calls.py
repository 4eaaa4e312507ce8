"""A function compiled and not, called side by side."""

from __future__ import annotations

import numpy as np

import tinygrad_mm as tg


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=0, dtype=np.float32):
    return rng(seed).standard_normal(shape).astype(dtype)


def leaf(*shape, seed=0, dtype=np.float32):
    return tg.Tensor(normal(*shape, seed=seed, dtype=dtype), requires_grad=True)
