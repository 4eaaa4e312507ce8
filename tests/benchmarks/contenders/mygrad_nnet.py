"""MyGrad with its own softmax cross-entropy, and without its guard of memory, which its documentation advises for speed.
It brings no optimizers, so the updates are the textbook's.
"""

from __future__ import annotations

import mygrad as mg
from mygrad.nnet.activations import relu
from mygrad.nnet.losses import softmax_crossentropy
from numpy_naive import Update

mg.turn_memory_guarding_off()

CONTENDERS = {"MyGrad": {}}


def make(problem, optimizer, rate):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    if problem.kind != "mlp":
        return "multilayer perceptrons only"
    parameters = [mg.tensor(array) for array in problem.weights().values()]
    update = Update([p.data for p in parameters], optimizer, rate)

    def step(x, y):
        h = x
        for i in range(0, len(parameters), 2):
            h = mg.matmul(h, parameters[i]) + parameters[i + 1]
            if i < len(parameters) - 2:
                h = relu(h)
        loss = softmax_crossentropy(h, y)
        loss.backward()
        update([p.grad for p in parameters])
        return loss.data

    return step
