"""The textbook in NumPy: forward and backward written out, new arrays everywhere."""

from __future__ import annotations

import numpy as np

CONTENDERS = {"NumPy, naive": {}}


def make(problem, optimizer, rate, dtype=np.float32):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    if problem.kind != "mlp":
        return "multilayer perceptrons only"
    parameters = [p.astype(dtype) for p in problem.weights().values()]
    weights, biases = parameters[::2], parameters[1::2]
    update = Update(parameters, optimizer, rate)

    def step(x, y):
        n = len(x)
        hs = [x.astype(dtype, copy=False)]
        for i, (W, b) in enumerate(zip(weights, biases, strict=True)):
            z = hs[-1] @ W + b
            hs.append(np.maximum(z, 0) if i < len(weights) - 1 else z)
        z = hs[-1] - hs[-1].max(axis=1, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - z[np.arange(n), y]).mean()
        d = e / total
        d[np.arange(n), y] -= 1
        d /= n
        gradients = []
        for i in reversed(range(len(weights))):
            gradients += [d.sum(axis=0), hs[i].T @ d]
            if i:
                d = (d @ weights[i].T) * (hs[i] > 0)
        update(gradients[::-1])
        return loss

    return step


class Update:
    """The optimizers' formulas, parameter by parameter: also for the libraries that bring no optimizer."""

    def __init__(self, parameters, optimizer, rate):
        self.parameters, self.optimizer, self.rate = parameters, optimizer, rate
        self.m = [np.zeros_like(p) for p in parameters]
        self.v = [np.zeros_like(p) for p in parameters]
        self.t = 0

    def __call__(self, gradients):
        self.t += 1
        for i, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
            if self.optimizer == "SGD":
                p -= self.rate * g
                continue
            m = self.m[i] = 0.9 * self.m[i] + 0.1 * g
            v = self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            p -= self.rate * (m / (1 - 0.9**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)
