"""Exercises of chapters 1 to 5: a nudge, paths, matrix products, their transposes, and how to check a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_mm.study.exercise import Array, Gradient, exercise

_draw = np.random.default_rng(0).normal

# ---------------------------------------------------------------------------------------------------------------------
# 1. What does a nudge do?
# ---------------------------------------------------------------------------------------------------------------------

exercise(
    "1.1",
    "two_sided(f, x, h): the slope of f at x, from the values at x - h and x + h",
    lambda f, x, h: (f(x + h) - f(x - h)) / (2 * h),
    cases=[(np.sin, 1.0, 0.1), (np.exp, 0.5, 0.01), (np.square, -3.0, 1.0)],
    mistakes={
        "this is the one-sided difference, from x to x + h": lambda f, x, h: (f(x + h) - f(x)) / h,
        "the points are 2 h apart, but it divides by h": lambda f, x, h: (f(x + h) - f(x - h)) / h,
        "the product with 2 h stands where the quotient belongs": lambda f, x, h: (f(x + h) - f(x - h)) * 2 * h,
        "(f(x + h) - f(x - h)) / 2 * h multiplies by h: write / (2 * h)": lambda f, x, h: (f(x + h) - f(x - h)) / 2 * h,
    },
)
exercise(
    "1.2",
    "best_h(epsilon, third): the h at which epsilon / h + third * h**2 / 6 is least",
    lambda epsilon, third: (3 * epsilon / third) ** (1 / 3),
    cases=[(2.0**-52, 1.0), (2.0**-23, 6.0)],
    mistakes={
        "this is the best h of the one-sided difference, a square root; here the cube of h is 3 epsilon / third": (
            lambda epsilon, third: (2 * epsilon / third) ** 0.5
        ),
        "this is h cubed; take the cube root": lambda epsilon, third: 3 * epsilon / third,
        "the derivative of h**2 / 6 is h / 3, so the cube of h is 3 epsilon / third": (
            lambda epsilon, third: (epsilon / third) ** (1 / 3)
        ),
    },
)
exercise(
    "1.3",
    "by what number the error of a two-sided difference is divided when h is halved, far from rounding",
    4.0,
    mistakes={
        "2 is the number of the one-sided difference, whose error falls as h; here it falls as h**2": 2.0,
        "the error becomes 1/4 of what it was, so it is divided by 4": 0.25,
        "8 would be an error that falls as h**3; the terms with h**2 do not cancel": 8.0,
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 2. How do many paths add up?
# ---------------------------------------------------------------------------------------------------------------------

exercise(
    "2.1",
    "dy/da of u = a * b, v = a + u, y = u * v, at a = 3 and b = 2",
    36.0,
    parts=lambda: [6.0, 18.0, 12.0],
    mistakes={
        "the path a -> v -> y is lost: a is used in v, too": 30.0,
        "the path a -> u -> y is lost: u is used in y directly, too": 18.0,
        "the path a -> u -> v -> y is lost: u is used in v, too": 24.0,
        "these are the factors along the paths added up; along a path they are multiplied": 6.0 + 9 + 2 + 6 + 1 + 2,
    },
)
exercise(
    "2.2",
    "accumulate(contributions): {name: gradient} from a list of (name, contribution), as the way back makes them",
    lambda contributions: {name: sum(c for n, c in contributions if n == name) for name in _names(contributions)},
    cases=[([("a", 2.0), ("b", 5.0), ("a", 3.0)],), ([("w", -1.0), ("w", -1.0), ("w", 4.0)],)],
    judge=lambda answer, contributions: _accumulated(answer, contributions),
    mistakes={
        "the last contribution overwrote those before it: `=` stands where `+=` belongs": dict,
        "only the first contribution is kept": lambda contributions: dict(reversed(contributions)),
        "the contributions of all names are in one sum": lambda contributions: {
            name: sum(c for _, c in contributions) for name, _ in contributions
        },
    },
)
exercise(
    "2.3",
    "w.grad of loss = w**2 at w = 2, after the pass back has been taken twice and nothing was set to zero",
    8.0,
    mistakes={
        "that is one pass: the second adds to what the first left, which is why zero_grad() exists": 4.0,
        "the second pass adds to the gradient, it does not multiply it": 16.0,
        "backward() never sets a gradient to zero": 0.0,
    },
)


def _names(contributions: Sequence[tuple[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for name, _ in contributions))


def _accumulated(answer: Any, contributions: Sequence[tuple[str, float]]) -> str | None:
    """What is wrong with a dictionary of gradients."""
    names = _names(contributions)
    if not isinstance(answer, dict) or set(answer) != set(names):
        return f"It asks for a dictionary with the keys {', '.join(names)}; it is {answer!r:.80}."
    sums = {name: [c for n, c in contributions if n == name] for name in names}
    if all(abs(answer[name] - sum(sums[name])) < 1e-9 for name in names):
        return None
    if all(answer[name] == sums[name][-1] for name in names):
        return "The last contribution overwrote those before it: `=` stands where `+=` belongs."
    if all(answer[name] == sums[name][0] for name in names):
        return "Only the first contribution is kept."
    if all(answer[name] == sum(c for _, c in contributions) for name in names):
        return "The contributions of all names are in one sum."
    wrong = next(name for name in names if abs(answer[name] - sum(sums[name])) >= 1e-9)
    return f"The gradient of {wrong} is {answer[wrong]}; its contributions are {sums[wrong]}."


# ---------------------------------------------------------------------------------------------------------------------
# 3. What does a matrix product do?
# ---------------------------------------------------------------------------------------------------------------------


exercise(
    "3.1",
    "matmul(a, b): the product of two matrices, made of dot products of a row and a column",
    lambda a, b: a @ b,
    cases=[(_draw(size=(3, 3)), _draw(size=(3, 3))), (_draw(size=(2, 4)), _draw(size=(4, 3)))],
    mistakes={
        "this multiplies entry by entry, which is a * b": lambda a, b: a * b,
        "the factors are the wrong way round: this is b @ a": lambda a, b: b @ a,
        "this takes the rows of b for its columns: it is a @ b.T": (lambda a, b: a @ b.T),
    },
)
exercise(
    "3.2",
    "the shapes, as a list of three pairs, of X @ W, X.T @ Y and u @ v for X (64, 784), W (784, 10), Y (64, 10), "
    "u (5, 1) and v (1, 3)",
    [[64, 10], [784, 10], [5, 3]],
    mistakes={
        "the inner sizes vanish, the outer ones stay: (64, 784) @ (784, 10) is (64, 10)": [
            [784, 784],
            [64, 64],
            [1, 1],
        ],
        "X.T is (784, 64), so X.T @ Y is (784, 10)": [[64, 10], [64, 10], [5, 3]],
        "a column times a row is a whole matrix: (5, 1) @ (1, 3) is (5, 3)": [[64, 10], [784, 10], [1, 1]],
    },
)
exercise(
    "3.3",
    "multiplications(n, k, m): how many numbers are multiplied in the product of an (n, k) and a (k, m) matrix",
    lambda n, k, m: n * k * m,
    cases=[(2, 3, 4), (64, 784, 128)],
    mistakes={
        "this counts the entries of the result; each of them is a dot product of k multiplications": (
            lambda n, k, m: n * m
        ),
        "this counts the entries of the two factors; each of them is used many times": lambda n, k, m: n * k + k * m,
        "each of the n m entries costs k multiplications, not k squared": lambda n, k, m: n * k * k * m,
    },
)
exercise(
    "3.4",
    "layer(X, W, b): x @ W + b for every row x of the batch X, without a loop",
    lambda X, W, b: X @ W + b,
    cases=[
        (_draw(size=(5, 3)), _draw(size=(3, 3)), _draw(size=3)),
        (_draw(size=(4, 3)), _draw(size=(3, 2)), _draw(size=2)),
    ],
    mistakes={
        "this multiplies with W.T; here W has a row for each input, a column for each output": (
            lambda X, W, b: X @ W.T + b
        ),
        "the bias is missing": lambda X, W, b: X @ W,
        "this is one number for the whole batch: each row has a result of its own": lambda X, W, b: np.sum(X @ W + b),
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 4. Where does the transpose come from?
# ---------------------------------------------------------------------------------------------------------------------

# dy comes from a loss; with the loss sum(y * dy) it is its gradient with respect to y.
_square = _draw(size=(3, 3)), _draw(size=(3, 3)), _draw(size=(3, 3))
_oblong = _draw(size=(5, 3)), _draw(size=(3, 2)), _draw(size=(5, 2))

exercise(
    "4.1",
    "dx(x, W, dy): the gradient of x in y = x @ W, from dy, that of y",
    Gradient(lambda x, W, dy: np.sum((x @ W) * dy), 0),
    "dx",
    cases=[_square, _oblong],
    mistakes={
        "this is dy @ W, and no shape tells, as W is square; the gradient goes back through W.T": (
            lambda x, W, dy: dy @ W
        ),
        "this is W @ dy.T, the transpose of dx: the rows of dx are the examples, so dy comes first": lambda x, W, dy: (
            W @ dy.T
        ),
        "this is dW; dx does not depend on x at all": lambda x, W, dy: x.T @ dy,
    },
)
exercise(
    "4.2",
    "dW(x, W, dy): the gradient of W in y = x @ W, from dy, that of y",
    Gradient(lambda x, W, dy: np.sum((x @ W) * dy), 1),
    "dW",
    cases=[_square, _oblong],
    batch=lambda x, W, dy: len(x),
    parts=lambda x, W, dy: [np.outer(a, b) for a, b in zip(x, dy, strict=True)],
    mistakes={
        "this is x @ dy, and no shape tells, as x is square; the transpose sums over the examples": (
            lambda x, W, dy: x @ dy
        ),
        "this keeps one outer product for each example; they add up, as every example uses the same W": (
            lambda x, W, dy: x[:, :, None] * dy[:, None, :]
        ),
        "this is dx; dW does not depend on W at all": lambda x, W, dy: dy @ W.T,
    },
)
exercise(
    "4.3",
    "db(x, W, dy): the gradient of b in y = x @ W + b, from dy, that of y",
    lambda x, W, dy: np.sum(dy, axis=0),
    "db",
    cases=[_square, _oblong],
    batch=lambda x, W, dy: len(x),
    parts=lambda x, W, dy: list(dy),
    mistakes={
        "this sums over the outputs; b has one entry for each output, so the sum is over the examples, axis 0": (
            lambda x, W, dy: np.sum(dy, axis=1)
        ),
        "this is one number; b has one entry for each output": lambda x, W, dy: np.sum(dy),
        "the axis of the examples is still there: write np.sum(dy, axis=0), without keepdims": (
            lambda x, W, dy: np.sum(dy, axis=0, keepdims=True)
        ),
    },
)
exercise(
    "4.4",
    "dx(x, A): the gradient of the number x @ A @ x, for a vector x and a square matrix A",
    Gradient(lambda x, A: x @ A @ x, 0),
    "dx",
    cases=[(_draw(size=n), _draw(size=(n, n))) for n in (3, 4)],
    parts=lambda x, A: [A @ x, x @ A],
    mistakes={
        "2 A x is right for a symmetric A only: x stands in two places, and each gives a contribution": (
            lambda x, A: 2 * A @ x
        ),
        "this is the number itself, not its gradient": lambda x, A: x @ A @ x,
        "this is the gradient of A, which is an outer product": lambda x, A: np.outer(x, x),
    },
)

# ---------------------------------------------------------------------------------------------------------------------
# 5. Is my gradient right?
# ---------------------------------------------------------------------------------------------------------------------

KINDS = ("transpose", "sum", "sign", "factor", "path")


for _name, _right, _said in (
    ("5.1", "factor", {"no: the derivative of x**2 has no sign to lose; compare the sizes": "sign"}),
    ("5.2", "transpose", {"no: the sum over the examples is there, but of the wrong products": "sum"}),
    ("5.3", "sum", {"no: the shapes differ, and the extra axis is that of the examples": "transpose"}),
    ("5.4", "sign", {"no: every entry is -1 times the numeric one, and that factor has a name": "factor"}),
    ("5.5", "path", {"no: the quotient of the two differs from entry to entry": "factor"}),
):
    exercise(
        _name,
        f"the bug in rule {_name[-1]}: one of {', '.join(KINDS)}",
        _right,
        mistakes=_said | {f"it is not the {kind}": kind for kind in KINDS if kind not in (_right, *_said.values())},
    )


def _relative(analytic: Array, numeric: Array) -> Any:
    return np.linalg.norm(analytic - numeric) / (np.linalg.norm(analytic) + np.linalg.norm(numeric))


exercise(
    "5.6",
    "relative_error(analytic, numeric): |analytic - numeric| / (|analytic| + |numeric|), with the Euclidean norm",
    _relative,
    cases=[(np.array([3.0, 4.0]), np.array([3.0, 4.5])), (np.array([[1e-8]]), np.array([[3e-8]]))],
    mistakes={
        "this is the absolute error; whether 0.5 is much depends on the size of the gradient": (
            lambda analytic, numeric: np.linalg.norm(analytic - numeric)
        ),
        "this divides by the norm of the sum; of two gradients of opposite sign that is 0": (
            lambda analytic, numeric: np.linalg.norm(analytic - numeric) / np.linalg.norm(analytic + numeric)
        ),
        "this takes the difference of the norms, which is 0 for any two gradients of one length": (
            lambda analytic, numeric: (
                abs(np.linalg.norm(analytic) - np.linalg.norm(numeric))
                / (np.linalg.norm(analytic) + np.linalg.norm(numeric))
            )
        ),
    },
)
