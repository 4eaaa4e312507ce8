"""The updates of optimizers as their papers have them, computed independently in float64."""

from __future__ import annotations

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import optim


def sgd(w, g, state, t, learning_rate=1e-3, momentum=0.0, weight_decay=0.0, nesterov=False):
    g = g + weight_decay * w
    v = state["v"] = momentum * state.get("v", 0.0) + g
    return w - learning_rate * (g + momentum * v if nesterov else v)


def adam(w, g, state, t, learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0):
    """Algorithm 1 of Kingma and Ba 2015, to the letter."""
    g = g + weight_decay * w
    m = state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return w - learning_rate * m_hat / (np.sqrt(v_hat) + epsilon)


def adagrad(w, g, state, t, learning_rate=1e-2, epsilon=1e-10, weight_decay=0.0):
    """Duchi et al. 2011, diagonal form."""
    g = g + weight_decay * w
    total = state["total"] = state.get("total", 0.0) + g**2
    return w - learning_rate * g / (np.sqrt(total) + epsilon)


def rmsprop(
    w, g, state, t, learning_rate=1e-2, smoothing=0.99, epsilon=1e-8, weight_decay=0.0, momentum=0.0, centered=False
):
    """Tieleman and Hinton 2012; centered as in Graves 2013, momentum and the place of epsilon as in PyTorch."""
    g = g + weight_decay * w
    square = state["square"] = smoothing * state.get("square", 0.0) + (1 - smoothing) * g**2
    mean = state["mean"] = smoothing * state.get("mean", 0.0) + (1 - smoothing) * g
    variance = np.maximum(square - mean**2, 0) if centered else square
    v = state["v"] = momentum * state.get("v", 0.0) + g / (np.sqrt(variance) + epsilon)
    return w - learning_rate * v


def adamw(w, g, state, t, learning_rate=1e-3, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=1e-2):
    """Algorithm 2 of Loshchilov and Hutter 2019, with eta = 1 and lambda = learning_rate * weight_decay."""
    m = state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return w - (learning_rate * m_hat / (np.sqrt(v_hat) + epsilon) + learning_rate * weight_decay * w)


def lion(w, g, state, t, learning_rate=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    """Algorithm 2 of Chen et al. 2023."""
    m = state.get("m", 0.0)
    c = betas[0] * m + (1 - betas[0]) * g
    state["m"] = betas[1] * m + (1 - betas[1]) * g
    return w - learning_rate * (np.sign(c) + weight_decay * w)


CASES = [
    (optim.SGD, sgd, {"learning_rate": 0.1}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"learning_rate": 0.1, "weight_decay": 0.1}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"learning_rate": 0.02, "betas": (0.8, 0.95), "epsilon": 1e-4}),
    (optim.Adam, adam, {"weight_decay": 0.1}),
    (optim.Adagrad, adagrad, {}),
    (optim.Adagrad, adagrad, {"learning_rate": 0.5, "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.RMSprop, rmsprop, {}),
    (optim.RMSprop, rmsprop, {"smoothing": 0.8, "epsilon": 1e-3, "weight_decay": 0.1}),
    (optim.RMSprop, rmsprop, {"momentum": 0.9}),
    (optim.RMSprop, rmsprop, {"smoothing": 0.8, "epsilon": 1e-2, "centered": True}),
    (optim.RMSprop, rmsprop, {"smoothing": 0.8, "epsilon": 1e-2, "centered": True, "momentum": 0.5}),
    (optim.AdamW, adamw, {}),
    (optim.AdamW, adamw, {"learning_rate": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.5}),
    (optim.AdamW, adamw, {"weight_decay": 0.0}),
    (optim.Lion, lion, {"learning_rate": 0.02}),
    (optim.Lion, lion, {"learning_rate": 0.02, "betas": (0.5, 0.75), "weight_decay": 0.5}),
]

SHAPES = [(3, 4), (), (5,), (0, 2), (7, 1)]


def parameters(shapes=SHAPES, dtype=np.float64, seed=0):
    r = np.random.default_rng(seed)
    return [tg.Parameter(r.standard_normal(s).astype(dtype), dtype=dtype) for s in shapes]


def train(optimizer, ps, start, stop, skipped=()):
    for t in range(start, stop):
        r = np.random.default_rng(t)
        for i, p in enumerate(ps):
            p.grad = None if i in skipped and t % 3 else r.standard_normal(p.shape).astype(p.dtype)
        optimizer.step()
