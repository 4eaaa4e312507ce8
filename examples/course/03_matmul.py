# %% [markdown]
# # 3. What does a matrix product do?
#
# Nearly all the work of a neural network is matrix products. One entry of a product is one row
# times one column: how well the row fits the column. So a product of a batch of inputs with a
# matrix of weights asks every input how well it fits every pattern, all at once.

# %%
import time

import numpy as np

import tinygrad_mm as tg
from style import GREEN, INK, ORANGE, grid, matrix, rule, show

# %% tags=["picture"]
rng = np.random.default_rng(0)
A, B = rng.integers(-3, 4, (3, 4)), rng.integers(-3, 4, (4, 2))
fig, axes = grid(1, 3, 8, 2.6, width_ratios=[4, 2, 2])
for ax, values, title in zip(
    axes, (A, B, A @ B), ("A: 3 × 4", "B: 4 × 2", "A @ B: 3 × 2"), strict=True
):
    matrix(ax, values, title, limit=12, written=".0f")


def frame(ax, left, top, width, height, color):
    """A frame around some squares."""
    place = (left - 0.5, top - 0.5), width, height
    ax.add_patch(type(ax.patch)(*place, fill=False, edgecolor=color, linewidth=3, clip_on=False))


frame(axes[0], 0, 1, 4, 1, ORANGE)
frame(axes[1], 1, 0, 1, 4, GREEN)
frame(axes[2], 1, 1, 1, 1, INK)
show(fig, "Row 1 of A times column 1 of B is entry (1, 1) of the product. (Counting starts at 0.)")

# %% [markdown]
# ## By hand
#
#     (A @ B)[i, j]  =  Σₖ A[i, k] · B[k, j]
#
# The index k is summed, so it has to be the same in both: the **inner sizes** must agree. The
# outer indices i and j stay:
#
#     (n, k) @ (k, m)  →  (n, m)
#
# In a **layer**, x is a row of k features and W a matrix with one column for each output. Output
# j is the dot product of x with column j, the *weights of unit j*:
#
#     y[j]  =  Σₖ x[k] · W[k, j] + b[j]
#
# A **batch** is many such rows below each other, X. No loop is needed: the same product does all
# of them, since row i of X only meets the columns of W.
#
#     Y  =  X @ W + b         (n, k) @ (k, m) + (m)  →  (n, m)
#
# The bias b is added to every row: it is **broadcast**. (Chapter 4 shows what that costs on the
# way back.) And the price: n · m entries, each made of k multiplications, n · k · m in all.

# %% [markdown]
# ## Checked
#
# Four ways to write the same sum: three loops, a dot product in two loops, `einsum`, which is
# given the names of the indices, and `@`.


# %%
def loops(A, B):
    """Every multiplication by itself."""
    C = np.zeros((len(A), B.shape[1]))
    for i in range(len(A)):
        for j in range(B.shape[1]):
            for k in range(len(B)):
                C[i, j] += A[i, k] * B[k, j]
    return C


def dots(A, B):
    """Row times column."""
    return np.array([[np.dot(row, column) for column in B.T] for row in A])


ways = {
    "three loops": loops,
    "row times column": dots,
    "einsum": lambda A, B: np.einsum("ik,kj->ij", A, B),
    "@": lambda A, B: A @ B,
}
n, k, m = 32, 48, 40
A, B = rng.normal(size=(n, k)), rng.normal(size=(k, m))
for name, way in ways.items():
    start = time.perf_counter()
    C = way(A, B)
    seconds = time.perf_counter() - start
    assert np.allclose(C, A @ B, rtol=1e-12)
    print(f"{name:17} {n * k * m / seconds / 1e6:10,.1f} million multiplications per second")

# %% [markdown]
# All agree; they differ by factors of thousands in speed. The loops spend their time in Python.
# `@` hands both matrices to a library (BLAS) that keeps blocks of them in the processor's cache
# and multiplies several numbers at once. That is why networks are written as matrix products.

# %% [markdown]
# ## In the library
#
# `Dense` is the formula of the layer:
#
#     y = x @ self.weight + self.bias

# %%
layer = tg.nn.Dense(4, 2, rng=0)
X = rng.normal(size=(5, 4)).astype(np.float32)
by_hand = np.array([[x @ column for column in layer.weight.data.T] for x in X]) + layer.bias.data
print(np.abs(layer(X).data - by_hand).max(), "apart")
assert np.allclose(layer(X).data, by_hand, atol=1e-6)

# %% [markdown]
# Where the inner sizes do not agree, there is nothing to sum. The message says so, and
# `tg.draw_error` shows what was there when it happened.

# %%
model = tg.nn.Sequential(tg.nn.Dense(4, 3, "relu", rng=0), tg.nn.Dense(4, 2, rng=1))
try:
    model(X)
except ValueError as error:
    print(error)
    show(
        tg.draw_error(error, model=model), "Three numbers arrive at a layer that was made for four."
    )

# %% [markdown]
# The rule of the product, which the next chapter derives (the part before `if` is for matrices,
# the rest for vectors):

# %%
rule(np.matmul)

# %% [markdown]
# ## Exercises
#
# **3.1** Make the product of two matrices out of dot products.


# %%
def matmul(a, b):
    return ...


tg.study.check("3.1", matmul)

# %% [markdown]
# **3.2** X is (64, 784), W is (784, 10), Y is (64, 10), u is (5, 1) and v is (1, 3). What shapes
# have X @ W, X.T @ Y and u @ v? Answer with a list of three pairs.

# %%
tg.study.check("3.2", ...)

# %% [markdown]
# **3.3** How many multiplications does a product of (n, k) and (k, m) take?


# %%
def multiplications(n, k, m):
    return ...


tg.study.check("3.3", multiplications)

# %% [markdown]
# **3.4** A layer for a whole batch of rows, without a loop.


# %%
def dense(X, W, b):
    return ...


tg.study.check("3.4", dense)

# %% [markdown]
# ## Solutions


# %% tags=["solution"]
def matmul(a, b):
    return np.array([[np.dot(row, column) for column in b.T] for row in a])


tg.study.check("3.1", matmul)

# %% tags=["solution"]
tg.study.check("3.2", [(64, 10), (784, 10), (5, 3)])

# %% tags=["solution"]
tg.study.check("3.3", lambda n, k, m: n * k * m)  # k for each of n m entries

# %% tags=["solution"]
tg.study.check("3.4", lambda X, W, b: X @ W + b)
