"""HIPS autograd. Its optimizers are loops of their own, so the updates are the textbook's."""

from __future__ import annotations

import autograd.numpy as np
from autograd import value_and_grad
from numpy_naive import Update

CONTENDERS = {"HIPS autograd": {}}


def make(problem, optimizer, rate):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    if problem.kind != "mlp":
        return "multilayer perceptrons only"
    parameters = list(problem.weights().values())
    update = Update(parameters, optimizer, rate)

    def loss_of(parameters, x, y):
        h = x
        for i in range(0, len(parameters), 2):
            h = np.dot(h, parameters[i]) + parameters[i + 1]
            if i < len(parameters) - 2:
                h = np.maximum(h, 0)
        z = h - np.max(h, axis=1, keepdims=True)
        return np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(y)), y])

    gradients_of = value_and_grad(loss_of)

    def step(x, y):
        loss, gradients = gradients_of(parameters, x, y)
        update(gradients)
        return loss

    return step
