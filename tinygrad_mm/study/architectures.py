"""Exercises of chapters 11 to 15: second derivatives, convolution, recurrence, attention, compiled steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_mm.study.exercise import Array, Gradient, exercise
from tinygrad_mm.transforms import grad

_generator = np.random.default_rng(2)
_draw = _generator.normal

# ---------------------------------------------------------------------------------------------------------------------
# 11. What is a second derivative good for?
# ---------------------------------------------------------------------------------------------------------------------

_H = np.array([[3.0, 1.0], [1.0, 2.0]])
_points = [(_draw(size=len(H)), _draw(size=len(H)), H) for H in (_H, np.diag([4.0, 0.5, 1.0]))]
exercise(
    "11.1",
    "newton(x, g, H): the x that Newton's method goes to from here, with gradient g and Hessian H",
    lambda x, g, H: x - np.linalg.solve(H, g),
    cases=_points,
    mistakes={
        "this is gradient descent with rate 1: the Hessian is missing": lambda x, g, H: x - g,
        "this multiplies by the Hessian; Newton's method divides by it": lambda x, g, H: x - H @ g,
        "this goes up: subtract": lambda x, g, H: x + np.linalg.solve(H, g),
    },
)


def _hessian_times(f: Any, x: Array, v: Array) -> Any:
    h = 1e-5
    return (grad(f)(x + h * v) - grad(f)(x - h * v)) / (2 * h)


def _quartic(x: Any) -> Any:
    return np.sum(x**4) + x[0] * x[1] * x[2]


_along = [(_quartic, _draw(size=3), _draw(size=3)) for _ in range(2)]
exercise(
    "11.2",
    "hvp(f, x, v): the Hessian of f at x times v, without making the Hessian",
    _hessian_times,
    cases=_along,
    mistakes={
        "this is v times the Hessian times v, a number": lambda f, x, v: v @ _hessian_times(f, x, v),
        "this is the gradient times v; take the gradient of that": lambda f, x, v: grad(f)(x) @ v,
        "this holds only the diagonal of the Hessian": lambda f, x, v: (
            np.array([_hessian_times(f, x, e)[i] for i, e in enumerate(np.eye(len(x)))]) * v
        ),
    },
)
exercise(
    "11.3",
    "curvature(H, v): the second derivative along the direction of v, whatever the length of v",
    lambda H, v: v @ H @ v / (v @ v),
    cases=[(_H, np.array([3.0, -1.0])), (np.diag([4.0, 0.5, 1.0]), np.array([1.0, 2.0, -2.0]))],
    mistakes={
        "this depends on the length of v: divide by v @ v": lambda H, v: v @ H @ v,
        "the length of v is squared in v @ H @ v: divide by v @ v, not by the norm": (
            lambda H, v: v @ H @ v / np.linalg.norm(v)
        ),
        "this is the length of H v, which is the curvature only for eigenvectors": (
            lambda H, v: np.linalg.norm(H @ v) / np.linalg.norm(v)
        ),
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 12. Why convolution?
# ---------------------------------------------------------------------------------------------------------------------


def _toeplitz(k: Array, n: int) -> Any:
    rows = n - len(k) + 1
    matrix = np.zeros((rows, n))
    for i in range(rows):
        matrix[i, i : i + len(k)] = k
    return matrix


_signals = [(_draw(size=n + 2), np.array(k), _draw(size=n)) for n, k in ((5, [1.0, -2.0, 0.5]), (4, [0.5, 3.0, -1.0]))]
exercise(
    "12.1",
    "toeplitz(k, n): the matrix T with T @ x = the convolution y[i] = sum over j of k[j] x[i + j], for n numbers x",
    _toeplitz,
    cases=[(np.array([1.0, -2.0, 0.5]), 6), (np.array([3.0, 1.0]), 4)],
    mistakes={
        "the kernel is reversed: networks do not turn it round": lambda k, n: _toeplitz(k[::-1], n),
        "this is a row for each input; T has a row for each output": lambda k, n: _toeplitz(k, n).T,
        "the kernel does not move from row to row": lambda k, n: np.tile(
            np.pad(k, (0, n - len(k))), (n - len(k) + 1, 1)
        ),
    },
)
exercise(
    "12.2",
    "dx(x, k, dy): the gradient of x in y[i] = sum over j of k[j] x[i + j], from dy",
    Gradient(lambda x, k, dy: np.sum(np.correlate(x, k, "valid") * dy), 0),
    "dx",
    cases=_signals,
    mistakes={
        "the kernel is not turned round on the way back: use np.convolve(dy, k)": (
            lambda x, k, dy: np.convolve(dy, k[::-1])
        ),
        "the ends are missing: dx is as long as x, so dy is padded with zeros": lambda x, k, dy: np.convolve(
            dy, k, "same"
        ),
        "this is the gradient of k": lambda x, k, dy: np.correlate(x, dy, "valid"),
    },
)
exercise(
    "12.3",
    "dk(x, k, dy): the gradient of k in y[i] = sum over j of k[j] x[i + j], from dy",
    Gradient(lambda x, k, dy: np.sum(np.correlate(x, k, "valid") * dy), 1),
    "dk",
    cases=_signals,
    parts=lambda x, k, dy: [dy[i] * x[i : i + len(k)] for i in range(len(dy))],
    mistakes={
        "this is reversed: k[j] meets x[i + j], so dk[j] is the sum of dy[i] x[i + j]": (
            lambda x, k, dy: np.correlate(x, dy, "valid")[::-1]
        ),
        "this is the gradient of x": lambda x, k, dy: np.convolve(dy, k),
        "this uses the first window only; the kernel is used at every place, and all of them add up": (
            lambda x, k, dy: dy[0] * x[: len(k)]
        ),
    },
)
exercise(
    "12.4",
    "by how many places the output of two convolutions of stride 2 moves when the image moves by 8",
    2.0,
    mistakes={
        "the first layer halves it, and the second halves it again": 4.0,
        "that is right for stride 1; each stride of 2 halves a move": 8.0,
        "the output moves with the image (equivariance); it is a pooling over all places that stands still": 0.0,
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 13. How does it remember?
# ---------------------------------------------------------------------------------------------------------------------


def _unrolled(x: Array, w: Any) -> Any:
    h: Any = 0.0
    for number in x:
        h = np.tanh(number + w * h)
    return h


def _through_time(x: Array, w: float, steps: int | None = None) -> float:
    """dL/dw for L = the last h, going back over the last `steps`."""
    states = [0.0]
    for number in x:
        states.append(float(np.tanh(number + w * states[-1])))
    total, dh = 0.0, 1.0
    for t in list(range(len(x), 0, -1))[:steps]:
        da = dh * (1 - states[t] ** 2)
        total += da * states[t - 1]
        dh = da * w
    return total


def _without_slope(x: Array, w: float) -> float:
    states = [0.0]
    for number in x:
        states.append(float(np.tanh(number + w * states[-1])))
    return sum(w ** (len(x) - t) * states[t - 1] for t in range(1, len(x) + 1))


exercise(
    "13.1",
    "dw(x, w): the gradient of w in the last h of h = tanh(x[t] + w * h), from h = 0",
    Gradient(_unrolled, 1),
    "dw",
    cases=[(np.array([0.5, -0.3, 0.8, 0.2]), np.array(0.7)), (np.array([-0.4, 0.6, 0.9]), np.array(-1.2))],
    mistakes={
        "this is the last step only; the state before it depends on w, too: add what the next step hands back": (
            lambda x, w: np.asarray(_through_time(x, float(w), 1))
        ),
        "the way back stops two steps before the end: every step before them used w, too": (
            lambda x, w: np.asarray(_through_time(x, float(w), 2))
        ),
        "the slope of tanh, 1 - h**2, is missing": lambda x, w: np.asarray(_without_slope(x, float(w))),
    },
)
exercise(
    "13.2",
    "clipped(g, most): g, or g made shorter so that its norm is `most` where it is longer",
    lambda g, most: g * min(1.0, most / float(np.linalg.norm(g))),
    cases=[(np.array([3.0, 4.0]), 2.0), (np.array([0.3, 0.4]), 2.0)],
    mistakes={
        "this clips each entry, which changes the direction": lambda g, most: np.clip(g, -most, most),
        "short gradients are made longer: min(1, most / norm)": lambda g, most: g * most / np.linalg.norm(g),
        "the square of the norm is not the norm: take the root": lambda g, most: g * min(1.0, most / float(g @ g)),
    },
)
exercise(
    "13.3",
    "share(w, steps): the gradient of the first state in the last one of h = w * h, after that many steps",
    lambda w, steps: w**steps,
    cases=[(0.9, 28), (1.1, 5)],
    mistakes={
        "along a path the factors are multiplied, not added": lambda w, steps: w * steps,
        "there is a factor for each step, also the last one": lambda w, steps: w ** (steps - 1),
        "w is one factor of many: one for each step": lambda w, steps: w,
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 14. How does attention look up?
# ---------------------------------------------------------------------------------------------------------------------


def _softmax(z: Array, axis: int = -1) -> Any:
    e = np.exp(z - np.max(z, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def _weights(q: Array, k: Array) -> Any:
    return _softmax(q @ k.T / math.sqrt(q.shape[-1]))


def _attention(q: Array, k: Array, v: Array) -> Any:
    return _weights(q, k) @ v


_looked_up = [(_draw(size=(n, 4)), _draw(size=(4, 4)), _draw(size=(4, 3))) for n in (4, 2)]
exercise(
    "14.1",
    "attention(q, k, v): softmax(q kᵀ / √d) v, with d numbers in each query",
    _attention,
    cases=_looked_up,
    mistakes={
        "this divides by d, not by its root": lambda q, k, v: _softmax(q @ k.T / q.shape[-1]) @ v,
        "the division by the root of d is missing": lambda q, k, v: _softmax(q @ k.T) @ v,
        "the softmax is over the queries; each query shares out its weight over the keys, the last axis": (
            lambda q, k, v: _softmax(q @ k.T / math.sqrt(q.shape[-1]), 0) @ v
        ),
        "this is q @ k, and no shape tells: every query is to meet every key, q @ k.T": (
            lambda q, k, v: _softmax(q @ k / math.sqrt(q.shape[-1])) @ v
        ),
    },
)


def _attention_loss(q: Any, k: Any, v: Any, dy: Array) -> Any:
    e = np.exp(q @ k.T / math.sqrt(q.shape[-1]))
    return np.sum(e / np.sum(e, axis=-1, keepdims=True) @ v * dy)


def _attention_back(q: Array, k: Array, v: Array, dy: Array, slip: str = "") -> tuple[Array, Array, Array]:
    weights, root = _weights(q, k), 1.0 if slip == "root" else math.sqrt(q.shape[-1])
    dweights = dy @ v.T
    dscores = dweights if slip == "softmax" else weights * (dweights - np.sum(weights * dweights, -1, keepdims=True))
    return dscores @ k / root, dscores.T @ q / root, (weights if slip == "values" else weights.T) @ dy


exercise(
    "14.2",
    "back(q, k, v, dy): the gradients of q, k and v in y = softmax(q kᵀ / √d) v, from dy",
    Gradient(_attention_loss, 0, 1, 2),
    "dq dk dv",
    cases=[(*looked_up, _draw(size=(len(looked_up[0]), 3))) for looked_up in _looked_up],
    mistakes={
        "the division by the root of d is missing on the way back": lambda q, k, v, dy: _attention_back(
            q, k, v, dy, "root"
        ),
        "the way back through the softmax is missing": lambda q, k, v, dy: _attention_back(q, k, v, dy, "softmax"),
        "in dv the weights are not transposed, and no shape tells": lambda q, k, v, dy: _attention_back(
            q, k, v, dy, "values"
        ),
    },
)
exercise(
    "14.3",
    "causal(n): the matrix of n x n that is True where query i may look at key j: at itself and at what came before",
    lambda n: np.tril(np.ones((n, n), bool)),
    cases=[(4,), (7,)],
    mistakes={
        "this is a leak: query i sees key i + 1, which it is to predict": lambda n: np.tril(np.ones((n, n), bool), 1),
        "this is the transpose: it sees what comes, and nothing that came before": (
            lambda n: np.triu(np.ones((n, n), bool))
        ),
        "query i does not see itself, so the first one sees nothing": lambda n: np.tril(np.ones((n, n), bool), -1),
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 15. What did `compile` write?
# ---------------------------------------------------------------------------------------------------------------------


def _step(x: Array, t: Array, W1: Array, W2: Array, rate: float, slip: str = "") -> tuple[Array, Array, Array]:
    z = x @ W1
    h = np.maximum(z, 0)
    y = h @ W2
    dy = 2 * (y - t) / (1 if slip == "mean" else y.size)
    dW2 = h.T @ dy
    new = W2 - rate * dW2
    dh = dy @ (new if slip == "order" else W2).T
    dz = dh if slip == "relu" else dh * (z > 0)
    return np.mean((y - t) ** 2), W1 - rate * (x.T @ dz), new


exercise(
    "15.1",
    "step(x, t, W1, W2, rate): the loss, mean((relu(x @ W1) @ W2 - t)**2), and the new W1 and W2 of gradient descent",
    _step,
    "loss W1 W2",
    cases=[
        (_draw(size=(n, 4)), _draw(size=(n, 2)), _draw(size=(4, 5)), _draw(size=(5, 2)), rate)
        for n, rate in ((6, 0.1), (3, 0.2))
    ],
    mistakes={
        "the mean divides by the number of entries, on the way back too": lambda x, t, W1, W2, rate: _step(
            x, t, W1, W2, rate, "mean"
        ),
        "the gradient of W1 goes back through the W2 of the way forward, not through the new one": (
            lambda x, t, W1, W2, rate: _step(x, t, W1, W2, rate, "order")
        ),
        "the gradient of ReLU is missing: it lets pass where its input was above 0": (
            lambda x, t, W1, W2, rate: _step(x, t, W1, W2, rate, "relu")
        ),
    },
)
exercise(
    "15.2",
    "products(n, k, m, first): the multiplications in the matrix products of a layer, forward and backward, for n "
    "examples, k inputs and m outputs; the first layer of a network needs no dx",
    lambda n, k, m, first: (2 if first else 3) * n * k * m,
    cases=[(64, 784, 128, True), (64, 128, 10, False)],
    mistakes={
        "this is the way forward only: dW, and dx, cost as much each": lambda n, k, m, first: n * k * m,
        "the first layer needs no dx: nobody asks for the gradient of the images": lambda n, k, m, first: 3 * n * k * m,
        "it is the other way round: the first layer has two products, the others three": lambda n, k, m, first: (
            (3 if first else 2) * n * k * m
        ),
        "only the first layer does without dx; the others hand it to the layer before": (
            lambda n, k, m, first: 2 * n * k * m
        ),
    },
)
