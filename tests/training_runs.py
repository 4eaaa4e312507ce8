"""Runs that the tests of training share."""

from __future__ import annotations

import signal

import numpy as np

import tinygrad_mm as tg
from tinygrad_mm import nn, optim
from tinygrad_mm.training import fit

RNG = np.random.default_rng(0)

X = RNG.standard_normal((22, 5)).astype(np.float32)

Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)

EPOCHS, BATCHES = 3, 5  # batches of 5, the last of 2


def network(rng=1):
    """Something with all kinds of state: weights, running statistics, a generator."""
    rng = np.random.default_rng(rng)
    return nn.Sequential(
        nn.Dense(5, 6, "relu", rng=rng), nn.BatchNorm1d(6), nn.Dropout(0.3, rng), nn.Dense(6, 3, rng=rng)
    )


def sgd(model):
    schedule = optim.warm_up(3, then=optim.cosine(0.2, steps=20))
    return optim.SGD(model.parameters(), schedule, momentum=0.9, weight_decay=1e-3)


def adam(model):
    return optim.Adam(model.parameters(), 1e-2)


def accuracy(prediction, target):
    return np.mean(prediction.argmax(-1) == target)


def bits(*states):
    """All of nested states, arrays as bytes: equal only where every bit is."""
    return [
        {name: bits(part)[0] for name, part in state.items()}
        if isinstance(state, dict)
        else (state.dtype.str, state.shape, state.tobytes())
        if isinstance(state, np.ndarray)
        else state
        for state in states
    ]


def go(model, optimizer, epochs=EPOCHS, **options):
    options = {"batch_size": 5, "rng": 7, "progress": False, **options}
    return fit(model, (X, Y), tg.cross_entropy, optimizer, epochs, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Ctrl-C
# ---------------------------------------------------------------------------------------------------------------------


def press_at(*steps):
    class Press:
        def on_gradients(self, run):
            if run.step + 1 in steps:
                signal.raise_signal(signal.SIGINT)

    return Press()
