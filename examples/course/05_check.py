# %% [markdown]
# # 5. Is my gradient right?
#
# A wrong gradient rarely crashes. The loss still falls, only slower, or to a worse place, and
# weeks are spent on learning rates. The remedy is a nudge: chapter 1's finite difference needs no
# derivation, so it can judge one. This chapter finds five bugs with it.

# %%
import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, figure, grid, matrix, show
from tinygrad_mm.numeric import numeric_gradient

# %% [markdown]
# Here is a loss of one layer, its gradient by the formulas of chapter 4, and the nudge of every
# weight. Beside them, their difference, entry by entry.

# %%
rng = np.random.default_rng(0)
x, W, t = rng.normal(size=(6, 4)), rng.normal(size=(4, 3)), rng.normal(size=(6, 3))


def loss(W):
    return np.sum(np.tanh(x @ W) * t)


def gradient(W):
    y = np.tanh(x @ W)
    return x.T @ (t * (1 - y * y))


numeric = numeric_gradient(loss, [W])

# %% tags=["picture"]
fig, axes = grid(1, 3, 8, 3.2)
for ax, values, title, form in zip(
    axes,
    (gradient(W), numeric, np.abs(gradient(W) - numeric)),
    ("by formula", "by nudges", "their difference"),
    (".2f", ".2f", ".0e"),
    strict=True,
):
    matrix(ax, values, title, limit=4 if form == ".2f" else 1e-7, written=form)
show(fig, "Twelve weights: the derivation and the nudges agree to nine digits or more.")

# %% [markdown]
# ## By hand: how much may they differ?
#
# A difference of 10⁻⁴ is nothing for gradients near 1000 and everything for gradients near 10⁻⁴.
# So compare it with their size:
#
#     relative error  =  |analytic - numeric| / (|analytic| + |numeric|)
#
# with |·| the Euclidean norm over all entries. It is 0 when they agree, 1 when one of them is
# zero or they are opposite. In double precision with h near 10⁻⁵, chapter 1 leaves us about 11
# digits; what is below 10⁻⁶ may be trusted, what is above 10⁻³ is nearly always a bug. Between,
# look for a **kink**: at a corner of ReLU the two sides of a nudge see different slopes, and no
# formula can agree with both.


# %%
def relative_error(analytic, numeric):
    return np.linalg.norm(analytic - numeric) / (np.linalg.norm(analytic) + np.linalg.norm(numeric))


error = relative_error(gradient(W), numeric)
print(f"relative error: {error:.1e}")
assert error < 1e-6

# %% [markdown]
# ## Checked: how precise is a check?
#
# It is wise to check in double precision even if training runs in single. In float32 the nudge
# itself is good for four or five digits at best:

# %%
steps = 10.0 ** np.arange(-9, 0, 0.25)


def loss_in(V):
    """The same loss, computed in the precision of V."""
    return np.sum(np.tanh(x.astype(V.dtype) @ V) * t.astype(V.dtype))


errors = {}
for dtype in (np.float32, np.float64):
    usable = [h for h in steps if h > 4 * np.finfo(dtype).eps]
    found = [
        relative_error(gradient(W), numeric_gradient(loss_in, [W.astype(dtype)], step=h))
        for h in usable
    ]
    errors[dtype.__name__] = usable, found

# %% tags=["picture"]
fig = figure(7, 3.4)
ax = fig.add_subplot()
for (name, (h, error)), color in zip(errors.items(), (ORANGE, BLUE), strict=True):
    ax.loglog(h, error, "o-", markersize=3, color=color, label=name)
ax.axhline(1e-6, color=GREY, linestyle="--")
ax.set(xlabel="h", ylabel="relative error")
ax.legend()
show(fig, "The same gradient judged with nudges of many sizes. Below the line it may be trusted.")

# %% [markdown]
# ## Five bugs
#
# Each of the five rules below should return the gradient of its first argument in the sum of
# `f(...) * g`, where `f` is the function beside it. Each is wrong in one of five ways:
#
#     transpose     a matrix is turned the wrong way round
#     sum           a sum over the examples is missing
#     sign          the sign is wrong
#     factor        all entries are off by one and the same factor
#     path          one of several ways from the argument to the result is missing

# %%
A = rng.normal(size=(3, 3))
rules = {
    1: (lambda x: x**2, lambda g, x: g * x, (rng.normal(size=4),)),
    2: (lambda W, x: x @ W, lambda g, W, x: g.T @ x, (A, rng.normal(size=(3, 3)))),
    3: (lambda b, x: x + b, lambda g, b, x: g, (rng.normal(size=3), rng.normal(size=(5, 3)))),
    4: (lambda x: 1 / x, lambda g, x: g / x**2, (rng.uniform(1, 2, size=4),)),
    5: (
        lambda x: x / np.sum(x),
        lambda g, x: g / np.sum(x),
        (rng.uniform(1, 2, size=4),),
    ),
}
for number, (f, bug, args) in rules.items():
    g = rng.normal(size=np.shape(f(*args)))
    numeric = numeric_gradient(lambda *args, f=f, g=g: np.sum(f(*args) * g), args)
    analytic = bug(g, *args)
    print(f"rule {number}: shapes {analytic.shape} and {numeric.shape}", end="; ")
    if analytic.shape == numeric.shape:
        print(
            f"relative error {relative_error(analytic, numeric):.2f}; quotients analytic / numeric:"
        )
        print(np.round(analytic / numeric, 2))
    else:
        print("no comparison is possible")

# %% [markdown]
# ## In the library
#
# `tg.testing.check_grads(f, args)` does this for any function of arrays, to any order of
# derivative: one nudge along a random direction first (the whole gradient for the price of two
# calls), and only if that fails, entry by entry, until it can say where. It names the mistake
# when it knows it.

# %%
tg.testing.check_grads(lambda W: np.sum(np.tanh(x @ W) * t), [W], order=2)


@tg.primitive
def product(a, b):
    return a @ b


tg.defvjp(product, lambda g, y, a, b: g @ b.T, lambda g, y, a, b: (a.T @ g).T)  # a bug
try:
    tg.testing.check_grads(product, [A, rng.normal(size=(3, 3))])
except AssertionError as error:
    print(error)

# %% [markdown]
# Every rule in this library is checked like this, with random shapes, for first and second
# derivatives, each time the tests run.
#
# ## Exercises
#
# **5.1 to 5.5** Which bug is in which rule? Answer with one of the five words.

# %%
tg.study.check("5.1", ...)
tg.study.check("5.2", ...)
tg.study.check("5.3", ...)
tg.study.check("5.4", ...)
tg.study.check("5.5", ...)

# %% [markdown]
# **5.6** Write the relative error yourself, for arrays of any shape.


# %%
def my_relative_error(analytic, numeric):
    return ...


tg.study.check("5.6", my_relative_error)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("5.1", "factor")  # every quotient is 0.5: the 2 of 2 x is missing
tg.study.check("5.2", "transpose")  # it is x.T @ g; the shapes agree, as all matrices are square
tg.study.check("5.3", "sum")  # b is used by every example: np.sum(g, axis=0)
tg.study.check("5.4", "sign")  # every quotient is -1: the derivative of 1/x is -1/x²
tg.study.check("5.5", "path")  # x also goes into the sum: g / s - np.sum(g * x) / s**2

# %% tags=["solution"]
tg.study.check(
    "5.6",
    lambda analytic, numeric: (
        np.linalg.norm(analytic - numeric) / (np.linalg.norm(analytic) + np.linalg.norm(numeric))
    ),
)
