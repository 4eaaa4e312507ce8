# %% [markdown]
# # 4. Where does the transpose come from?
#
# For y = x @ W + b the way back is three short lines, and they are the most used formulas of deep
# learning:
#
#     dx = dy @ Wᵀ          dW = xᵀ @ dy          db = sum of dy over the batch
#
# Here `dy` stands for the gradient of y: entry by entry, how fast the loss changes with that
# entry. Why transposes, and why these?

# %%
import numpy as np

import tinygrad_mm as tg
from style import grid, matrix, rule, show

# %% tags=["picture"]
rng = np.random.default_rng(0)
x, dy = rng.integers(-2, 3, (4, 3)), rng.integers(-2, 3, (4, 2))
fig, axes = grid(1, 3, 8, 2.6, width_ratios=[4, 2, 2])
for ax, values, title in zip(
    axes, (x.T, dy, x.T @ dy), ("xᵀ: features × examples", "dy", "dW = xᵀ @ dy"), strict=True
):
    matrix(ax, values, title, limit=8, written=".0f")
axes[0].set(xlabel="4 examples", ylabel="3 features")
axes[1].set(xlabel="2 outputs", ylabel="4 examples")
axes[2].set(xlabel="2 outputs", ylabel="3 features")
show(
    fig,
    "dW has the shape of W. Each entry sums over the examples: "
    "feature k times the gradient of output j.",
)

# %% [markdown]
# ## By hand, three times
#
# **1. Entry by entry.** Weight W[k, j] is used once for each example i, where it multiplies x[i,
# k] and goes into y[i, j] and nowhere else. The slope of that edge is x[i, k]. Chapter 2:
# multiply along the path, add over the paths.
#
#     dW[k, j]  =  Σᵢ x[i, k] · dy[i, j]
#
# A sum over the *first* index of both. A matrix product sums the last index of the left factor
# with the first of the right one, so x has to be turned round: dW = xᵀ @ dy. In the same way x[i,
# k] goes into y[i, j] for every j, each time multiplied by W[k, j]:
#
#     dx[i, k]  =  Σⱼ dy[i, j] · W[k, j]        dx = dy @ Wᵀ
#
# **2. By the Jacobian.** Take one example, y = x @ W. All slopes ∂y[j]/∂x[k] in one matrix, a row
# for each output, are the **Jacobian** J = Wᵀ. A nudge goes forward through J: δy = J δx. A
# gradient goes back through the same numbers read the other way: dx = Jᵀ dy (with columns; with
# rows, dx = dy @ Wᵀ). Forward sums over what an output is made from, backward over what an input
# goes into. *That* is the transpose.
#
# **3. By a nudge of everything.** Let W change by a small matrix δW. Then y changes by x @ δW,
# and the loss by the sum of dy times that:
#
#     δL  =  Σ dy · (x @ δW)  =  Σ (xᵀ @ dy) · δW
#
# (moving x to the other side of an inner product transposes it). What stands beside δW is the
# gradient of W. No index is needed.
#
# The bias is added to every row, so it has one path for each example, all of slope 1:
#
#     db[j]  =  Σᵢ dy[i, j]
#
# What is **broadcast** forward is **summed** backward, always.

# %% [markdown]
# ## Checked
#
# The library can show the whole local Jacobian of one operation, all slopes from every input to
# every output. It has four axes here: two of y, two of W.

# %%
x = tg.Tensor(rng.normal(size=(4, 3)), requires_grad=True)
W = tg.Tensor(rng.normal(size=(3, 2)), requires_grad=True)
b = tg.Tensor(rng.normal(size=2), requires_grad=True)
product = x @ W
y = product + b
dy = rng.normal(size=(4, 2))

J = tg.local_jacobian(product, W)
print("Jacobian of x @ W with respect to W:", J.shape)
by_jacobian = np.einsum("ij,ijkl->kl", dy, J)

by_entries = np.zeros((3, 2))
for i in range(4):
    for k in range(3):
        for j in range(2):
            by_entries[k, j] += x.data[i, k] * dy[i, j]

by_nudges = np.zeros((3, 2))
for k in range(3):
    for j in range(2):
        nudge = np.zeros((3, 2))
        nudge[k, j] = 1e-6
        by_nudges[k, j] = np.sum(dy * (x.data @ nudge)) / 1e-6

np.sum(y * dy).backward(retain_graph=True)
formula = x.data.T @ dy
for name, found in {
    "entry by entry": by_entries,
    "Jacobian": by_jacobian,
    "nudges": by_nudges,
    "engine": W.grad,
}.items():
    print(f"{name:15} {np.abs(found - formula).max():.1e} from xᵀ @ dy")
    assert np.allclose(found, formula, rtol=1e-8)
assert np.allclose(x.grad, dy @ W.data.T, rtol=1e-12)
assert np.allclose(b.grad, dy.sum(axis=0), rtol=1e-12)

# %% tags=["picture"]
show(
    tg.draw_jacobian(product, W),
    "The local Jacobian: row (i, j) is an entry of y, column (k, l) one of W. y[i, j] depends on "
    "column j of W only, with the slopes x[i, :], which stand there once for each output.",
)

# %% [markdown]
# Nobody makes this Jacobian in training. It has (n · m) · (k · m) entries, nearly all of them
# zero; for a layer of 784 × 100 and a batch of 64 that would be 500 million. The two products use
# its structure instead. That is what a **vector-Jacobian product** (VJP) is: dyᵀ J, without J.
#
# ## The square-matrix trap
#
# Mostly shapes tell which way round it has to be: for x (4, 3), W (3, 2) and dy (4, 2) only one
# arrangement fits. With square matrices all of them fit, and three of four are wrong.

# %%
for name, answer in {
    "x.T @ dy": lambda x, W, dy: x.T @ dy,
    "dy.T @ x": lambda x, W, dy: dy.T @ x,
    "x @ dy": lambda x, W, dy: x @ dy,
}.items():
    print(f"{name:9}", end="")
    tg.study.check("4.2", answer)

# %% [markdown]
# ## In the library
#
# The rule of `@` for matrices is the formula. `.mT` is the transpose of the last two axes, so
# that stacks of matrices work, too.

# %%
rule(np.matmul)

# %% [markdown]
# The rule of `+` hands g on as it is. The sum over the batch is not in it: whatever operation
# broadcasts, `unbroadcast` in `tinygrad_mm/backprop.py` sums once, for all of them.
#
# ## Exercises
#
# Write the three formulas. `check` tries them on square matrices, too.
#
# **4.1** The gradient of x.


# %%
def dx_of(x, W, dy):
    return ...


tg.study.check("4.1", dx_of)

# %% [markdown]
# **4.2** The gradient of W.


# %%
def dW_of(x, W, dy):
    return ...


tg.study.check("4.2", dW_of)

# %% [markdown]
# **4.3** The gradient of b.


# %%
def db_of(x, W, dy):
    return ...


tg.study.check("4.3", db_of)

# %% [markdown]
# **4.4** The number x @ A @ x, of a vector x and a square matrix A, uses x twice. What is the
# gradient of x? A is not symmetric.


# %%
def quadratic(x, A):
    return ...


tg.study.check("4.4", quadratic)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("4.1", lambda x, W, dy: dy @ W.T)

# %% tags=["solution"]
tg.study.check("4.2", lambda x, W, dy: x.T @ dy)

# %% tags=["solution"]
tg.study.check("4.3", lambda x, W, dy: dy.sum(axis=0))

# %% tags=["solution"]
# x[i] A[i, j] x[j]: one path by the left x, with slope A x, one by the right x, with slope Aᵀ x.
tg.study.check("4.4", lambda x, A: A @ x + A.T @ x)
