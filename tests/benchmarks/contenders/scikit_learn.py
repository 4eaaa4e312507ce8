"""scikit-learn's MLPClassifier, one batch at a time (`partial_fit`)."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.neural_network import MLPClassifier

CONTENDERS = {"scikit-learn": {}}


def make(problem, optimizer, rate):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    if problem.kind != "mlp":
        return "multilayer perceptrons only"
    if problem.sizes[-1] == 2:
        return "for two classes it has one logistic output, which is another network"
    classes = np.arange(problem.sizes[-1])
    model = MLPClassifier(
        problem.sizes[1:-1],
        solver=optimizer.lower(),
        alpha=0.0,
        batch_size=problem.batch,
        learning_rate_init=rate,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
    )
    x, y = problem.batches()[0]
    model.partial_fit(x, y, classes=classes)  # makes its own weights; they and the optimizer's state are set back
    weights = list(problem.weights().values())
    for here, first in zip(model.coefs_ + model.intercepts_, weights[::2] + weights[1::2], strict=True):
        assert here.dtype == np.float32
        here[...] = first
    if optimizer == "Adam":
        model._optimizer.t = 0
        for moment in model._optimizer.ms + model._optimizer.vs:
            moment[...] = 0

    def step(x, y):
        model.partial_fit(x, y)
        return model.loss_

    warnings.simplefilter("ignore")
    return step
