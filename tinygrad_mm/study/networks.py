"""Exercises of chapters 6 to 10: softmax, an engine of one's own, digits, deep networks, optimizers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.study.exercise import Array, Gradient, exercise

_generator = np.random.default_rng(1)
_draw = _generator.normal

# ---------------------------------------------------------------------------------------------------------------------
# 6. Why softmax minus one-hot?
# ---------------------------------------------------------------------------------------------------------------------


def _softmax(z: Array, axis: int = -1) -> Any:
    e = np.exp(z - np.max(z, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def _logsumexp(z: Array) -> Any:
    top = np.max(z, axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(z - top), axis=-1)) + top[..., 0]


def _one_hot(labels: Array, z: Array) -> Any:
    return np.eye(z.shape[-1])[labels]


exercise(
    "6.1",
    "logsumexp(z): log of the sum of exp(z) along the last axis, also for z in the thousands",
    _logsumexp,
    cases=[(np.array([[1000.0, 1001.0], [-1000.0, -1002.0]]),), (_draw(size=(4, 3)),)],
    mistakes={
        "exp overflows at 710: take the largest z out first, and add it after the logarithm": (
            lambda z: np.log(np.sum(np.exp(z), axis=-1))
        ),
        "the largest z was taken out and not added again": lambda z: _logsumexp(z) - np.max(z, axis=-1),
        "the axis of length 1 is still there": lambda z: _logsumexp(z)[..., None],
    },
)
_logits = [(_draw(size=(len(labels), 3)), np.array(labels)) for labels in ([0, 2, 1, 1], [1, 0, 2, 0, 2])]
exercise(
    "6.2",
    "dz(z, labels): the gradient of the logits z in the mean cross-entropy of a batch",
    Gradient(
        lambda z, labels: np.sum(np.log(np.sum(np.exp(z), axis=-1)) - z[np.arange(len(labels)), labels]) / len(labels),
        0,
    ),
    "dz",
    cases=_logits,
    batch=lambda z, labels: len(z),
    mistakes={
        "the one-hot vectors are missing: this is the part of log-sum-exp only": lambda z, labels: _softmax(z) / len(z),
        "the softmax is over the examples; it is over the classes, the last axis": (
            lambda z, labels: (_softmax(z, 0) - _one_hot(labels, z)) / len(z)
        ),
        "this divides by all the entries; a mean over the batch divides by the examples": (
            lambda z, labels: (_softmax(z) - _one_hot(labels, z)) / z.size
        ),
    },
)
exercise(
    "6.3",
    "dz(z, dp): the gradient of z in p = softmax(z), from dp, that of p",
    Gradient(lambda z, dp: np.sum(np.exp(z) / np.sum(np.exp(z), axis=-1, keepdims=True) * dp), 0),
    "dz",
    cases=[(_draw(size=shape), _draw(size=shape)) for shape in ((4, 3), (2, 5))],
    mistakes={
        "p (1 - p) dp is the diagonal of the Jacobian only: every z changes every p, by way of the sum": (
            lambda z, dp: _softmax(z) * (1 - _softmax(z)) * dp
        ),
        "the derivative of exp is there, that of the sum is missing": lambda z, dp: _softmax(z) * dp,
        "the sum of p * dp is one for each example, not one for all: sum along the last axis": (
            lambda z, dp: _softmax(z) * (dp - np.sum(_softmax(z) * dp))
        ),
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 7. Build it yourself
# ---------------------------------------------------------------------------------------------------------------------

_GRAPHS: list[dict[str, tuple[str, ...]]] = [
    {"y": ("a", "v"), "v": ("u", "a"), "u": ("a",), "a": ()},
    {"loss": ("h", "W"), "h": ("x", "W"), "x": (), "W": ()},
    {"z": ("b", "c"), "b": ("a",), "a": (), "c": ("b", "a")},
]


def _ordered(made_from: Mapping[str, Sequence[str]], last: str) -> list[str]:
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for other in made_from[name]:
                visit(other)
            order.append(name)

    visit(last)
    return order


def _depth_first(made_from: Mapping[str, Sequence[str]], last: str) -> list[str]:
    return [last] + [name for other in made_from[last] for name in _depth_first(made_from, other)]


def _judged_order(answer: Any, made_from: Mapping[str, Sequence[str]], last: str) -> str | None:
    """What is wrong with an order of the values of a graph."""
    if not isinstance(answer, (list, tuple)) or set(answer) != set(made_from):
        return f"It asks for a list of all of {', '.join(made_from)}; it is {answer!r:.80}."
    if len(answer) > len(made_from):
        twice = next(name for name in answer if list(answer).count(name) > 1)
        return f"{twice} is visited twice; remember what has been visited."
    if list(answer) == _ordered(made_from, last)[::-1]:
        return "This is the order of the way back; it asks for that of the way forward: reversed."
    for name in answer:
        late = [other for other in made_from[name] if answer.index(other) > answer.index(name)]
        if late:
            return f"{name} stands before {late[0]}, which it is made from."
    return None


exercise(
    "7.1",
    "order(made_from, last): all names, each after those that it is made from; made_from maps a name to these",
    _ordered,
    cases=[(graph, next(iter(graph))) for graph in _GRAPHS],
    judge=_judged_order,
    mistakes={
        "a is visited twice; remember what has been visited": _depth_first,
        "this is the order of the way back; it asks for that of the way forward: reversed": (
            lambda made_from, last: _ordered(made_from, last)[::-1]
        ),
        "v stands before u, which it is made from": lambda made_from, last: [
            *[n for n in made_from if not made_from[n]],
            *[n for n in made_from if made_from[n]][1:],
            last,
        ],
    },
)


def _unbroadcast(g: Array, shape: tuple[int, ...]) -> Any:
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


exercise(
    "7.2",
    "unbroadcast(g, shape): the gradient g summed over the axes that broadcasting added or stretched",
    _unbroadcast,
    cases=[(_draw(size=(4, 3)), (4, 1)), (_draw(size=(4, 3)), (3,)), (_draw(size=(2, 4, 3)), (4, 1))],
    mistakes={
        "axes that broadcasting added in front are to be summed, too": lambda g, shape: g.sum(
            axis=tuple(i - len(shape) for i, n in enumerate(shape) if n == 1), keepdims=True
        ),
        "axes that broadcasting stretched, of size 1 in the shape, are to be summed, too": (
            lambda g, shape: g.sum(axis=tuple(range(g.ndim - len(shape))))
        ),
        "the mean stands where the sum belongs: each copy had an effect of its own": lambda g, shape: (
            _unbroadcast(g, shape) / (g.size / math.prod(shape))
        ),
        "the axes of size 1 belong to the shape: keepdims=True": lambda g, shape: np.squeeze(_unbroadcast(g, shape)),
    },
)
exercise(
    "7.3",
    "second(x): the second derivative of tanh",
    lambda x: -2 * np.tanh(x) * (1 - np.tanh(x) ** 2),
    cases=[(np.linspace(-2, 2, 5),), (np.array([0.3, -0.7]),)],
    mistakes={
        "this is the first derivative": lambda x: 1 - np.tanh(x) ** 2,
        "the inner derivative is missing: that of tanh(x)**2 is 2 tanh(x) times the derivative of tanh": (
            lambda x: -2 * np.tanh(x)
        ),
        "this is the square of the first derivative": lambda x: (1 - np.tanh(x) ** 2) ** 2,
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 8. How does it see digits?
# ---------------------------------------------------------------------------------------------------------------------

_targets = np.eye(3)[[0, 2, 1, 1]]
exercise(
    "8.1",
    "dz(z, target): the gradient of z in sum((sigmoid(z) - target)**2) / 2",
    Gradient(lambda z, target: np.sum((1 / (1 + np.exp(-z)) - target) ** 2) / 2, 0),
    "dz",
    cases=[(3 * _draw(size=(4, 3)), _targets), (_draw(size=(2, 3)), _targets[:2])],
    mistakes={
        "this is the gradient with the cross-entropy: the slope of the sigmoid, s (1 - s), is missing": (
            lambda z, target: 1 / (1 + np.exp(-z)) - target
        ),
        "this is the gradient with respect to z of the sigmoid only; the outer derivative is missing": (
            lambda z, target: np.exp(-z) / (1 + np.exp(-z)) ** 2
        ),
        "the slope of the sigmoid is s (1 - s), not z (1 - z)": (
            lambda z, target: (1 / (1 + np.exp(-z)) - target) * z * (1 - z)
        ),
    },
)
exercise(
    "8.2",
    "favourite(w): of all images x with |x| = 1 the one for which x @ w is largest",
    lambda w: w / np.linalg.norm(w),
    cases=[(_draw(size=9),), (3 * _draw(size=4),)],
    mistakes={
        "this is w itself; its length is not 1": lambda w: w,
        "the signs alone make an image in which every pixel counts the same": lambda w: np.sign(w) / math.sqrt(w.size),
        "one pixel, that of the largest weight, is not all that helps": lambda w: (w == w.max()).astype(float),
    },
)
exercise(
    "8.3",
    "fooled(x, dx, epsilon): x, each pixel moved by epsilon to where the loss grows, and kept between 0 and 1",
    lambda x, dx, epsilon: np.clip(x + epsilon * np.sign(dx), 0, 1),
    cases=[(_generator.uniform(size=n), _draw(size=n), epsilon) for n, epsilon in ((9, 0.3), (12, 0.1))],
    mistakes={
        "this goes downhill, to where the loss becomes smaller": (
            lambda x, dx, epsilon: np.clip(x - epsilon * np.sign(dx), 0, 1)
        ),
        "the step is along the gradient itself; each pixel is to move by epsilon: np.sign(dx)": (
            lambda x, dx, epsilon: np.clip(x + epsilon * dx, 0, 1)
        ),
        "pixels leave the range from 0 to 1: np.clip": lambda x, dx, epsilon: x + epsilon * np.sign(dx),
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 9. Why do deep nets stop learning?
# ---------------------------------------------------------------------------------------------------------------------

exercise(
    "9.1",
    "deviation(fan_in): the standard deviation of weights with which a layer of ReLU keeps the scale",
    lambda fan_in: math.sqrt(2 / fan_in),
    cases=[(64,), (784,)],
    mistakes={
        "this is the variance; take the root": lambda fan_in: 2 / fan_in,
        "this is right without ReLU, which sets half of the numbers to zero": lambda fan_in: math.sqrt(1 / fan_in),
        "a sum of fan_in terms grows as the root of fan_in: the deviation is to fall with it": lambda fan_in: math.sqrt(
            2
        ),
    },
)
exercise(
    "9.2",
    "factor(n, deviation): by what a layer y = sigmoid(x @ W), of n outputs and weights of that standard deviation, "
    "multiplies the root mean square of a gradient on the way back, where the inputs of the sigmoid are near 0",
    lambda n, deviation: math.sqrt(n) * deviation / 4,
    cases=[(64, 0.125), (100, 0.2)],
    mistakes={
        "the slope of the sigmoid at 0 is 1/4; it is missing": lambda n, deviation: math.sqrt(n) * deviation,
        "n independent terms add up to the root of n times one of them, not to n times": (
            lambda n, deviation: n * deviation / 4
        ),
        "that is the sigmoid's value at 0; its slope there is 1/4": lambda n, deviation: math.sqrt(n) * deviation / 2,
    },
)


def _normalized(x: Array) -> Any:
    return (x - x.mean(axis=0)) / np.sqrt(np.mean((x - x.mean(axis=0)) ** 2, axis=0))


def _deviation(x: Array) -> Any:
    return np.sqrt(np.mean((x - x.mean(axis=0)) ** 2, axis=0))


def _batch_norm_loss(x: Any, dy: Array) -> Any:
    centred = x - np.mean(x, axis=0)
    return np.sum(centred / np.sqrt(np.mean(centred**2, axis=0)) * dy)


exercise(
    "9.3",
    "dx(x, dy): the gradient of x in y = (x - mean) / deviation, mean and deviation over the batch, from dy",
    Gradient(_batch_norm_loss, 0),
    "dx",
    cases=[(_draw(size=shape), _draw(size=shape)) for shape in ((5, 3), (7, 2))],
    mistakes={
        "mean and deviation depend on x, too: this holds them still": lambda x, dy: dy / _deviation(x),
        "the path by way of the deviation is missing: - y * mean(dy * y)": (
            lambda x, dy: (dy - dy.mean(axis=0)) / _deviation(x)
        ),
        "the path by way of the mean is missing: - mean(dy)": (
            lambda x, dy: (dy - _normalized(x) * np.mean(dy * _normalized(x), axis=0)) / _deviation(x)
        ),
    },
)
_hidden = np.maximum(_draw(size=(6, 8)) - np.array([0, 9, 0, 9, 0, 0, 0, 9]), 0)
exercise(
    "9.4",
    "dead(h): the share of the units, the columns of h = relu(...), that are 0 for every example",
    lambda h: np.mean(np.all(h == 0, axis=0)),
    cases=[(_hidden,), (_hidden[:4, 1:],)],
    mistakes={
        "this is the share of those that live": lambda h: np.mean(np.any(h != 0, axis=0)),
        "this is the share of zeros; a unit is dead only if it is 0 for every example": lambda h: np.mean(h == 0),
        "this counts units that are 0 for some example: np.all, not np.any": lambda h: np.mean(np.any(h == 0, axis=0)),
        "this is their number, not their share": lambda h: np.sum(np.all(h == 0, axis=0)),
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 10. What does the optimizer do?
# ---------------------------------------------------------------------------------------------------------------------

exercise(
    "10.1",
    "largest(H): the learning rate above which gradient descent on x @ H @ x / 2 diverges, H symmetric and positive",
    lambda H: 2 / np.linalg.eigvalsh(H)[-1],
    cases=[(np.array([[3.0, 1.0], [1.0, 2.0]]),), (np.diag([4.0, 0.5, 1.0]),)],
    mistakes={
        "this is the rate that would land in the minimum at once, along the steepest direction; twice that diverges": (
            lambda H: 1 / np.linalg.eigvalsh(H)[-1]
        ),
        "the steepest direction diverges first: the largest eigenvalue, not the least": (
            lambda H: 2 / np.linalg.eigvalsh(H)[0]
        ),
        "this takes the sum of the eigenvalues for the largest one": lambda H: 2 / np.trace(H),
    },
)
_momentum = np.array([1.0, -2.0]), np.array([0.5, 0.1]), np.array([0.3, -0.4])
exercise(
    "10.2",
    "momentum(w, g, v, rate, beta): the new w and v, v = beta v + g, w = w - rate v",
    lambda w, g, v, rate, beta: (w - rate * (beta * v + g), beta * v + g),
    "w v",
    cases=[(*_momentum, 0.1, 0.9), (*_momentum, 0.5, 0.8)],
    mistakes={
        "w moves along the old v; compute the new one first": lambda w, g, v, rate, beta: (w - rate * v, beta * v + g),
        "this adds the step; gradient descent goes down": (
            lambda w, g, v, rate, beta: (w + rate * (beta * v + g), beta * v + g)
        ),
        "this is a running mean, beta v + (1 - beta) g; here g counts whole": (
            lambda w, g, v, rate, beta: (w - rate * (beta * v + (1 - beta) * g), beta * v + (1 - beta) * g)
        ),
    },
)


def _adam(
    w: Array, g: Array, m: Array, s: Array, t: int, rate: float, corrected: bool = True, inside: bool = False
) -> tuple[Array, Array, Array]:
    m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g * g
    mean, square = (m / (1 - 0.9**t), s / (1 - 0.999**t)) if corrected else (m, s)
    return w - rate * mean / (np.sqrt(square + 1e-8) if inside else np.sqrt(square) + 1e-8), m, s


exercise(
    "10.3",
    "adam(w, g, m, s, t, rate): the new w, m and s after step t, with 0.9, 0.999 and 1e-8",
    _adam,
    "w m s",
    cases=[
        (np.array([1.0, -2.0]), np.array([5e-5, 1e-4]), np.zeros(2), np.zeros(2), 1, 0.1),
        (np.array([1.0, -2.0]), np.array([0.5, 0.1]), np.array([0.1, -0.4]), np.array([0.3, 0.2]), 7, 0.1),
    ],
    mistakes={
        "the means start at 0, so the first ones are too small: divide by 1 - 0.9**t and 1 - 0.999**t": (
            lambda w, g, m, s, t, rate: _adam(w, g, m, s, t, rate, corrected=False)
        ),
        "1e-8 stands under the root; it is added to the root": (
            lambda w, g, m, s, t, rate: _adam(w, g, m, s, t, rate, inside=True)
        ),
        "the means are to be returned as they are, without the correction": lambda w, g, m, s, t, rate: (
            _adam(w, g, m, s, t, rate)[0],
            (0.9 * m + 0.1 * g) / (1 - 0.9**t),
            (0.999 * s + 0.001 * g * g) / (1 - 0.999**t),
        ),
    },
)
