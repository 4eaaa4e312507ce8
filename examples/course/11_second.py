# %% [markdown]
# # 11. What is a second derivative good for?
#
# The gradient is the slope of the loss. The second derivative is its **curvature**: how fast the
# slope changes as you go. It says how far a step may go, and in how many directions a loss is
# really steep.

# %%
import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, SHORT, figure, grid, rule, show

# %% [markdown]
# A small network, 2-8-1, on the two moons of chapter 7, with all its 33 weights in one vector.
# Along any line through the weights the loss is a curve; slope and curvature at the starting
# point make a parabola that fits it.

# %%
rng = np.random.default_rng(0)
angle, upper = rng.uniform(0, np.pi, 100), rng.integers(0, 2, 100).astype(bool)
x = np.where(
    upper[:, None],
    np.stack([np.cos(angle), np.sin(angle)], 1),
    np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1),
)
t = np.where(upper, 1.0, -1.0)


def loss(w):
    W1, b1, W2, b2 = w[:16].reshape(2, 8), w[16:24], w[24:32], w[32]
    return np.mean((np.tanh(x @ W1 + b1) @ W2 + b2 - t) ** 2)


w = 0.5 * rng.normal(size=33)
direction = -tg.grad(loss)(w) / np.linalg.norm(tg.grad(loss)(w))  # straight down
slope = tg.grad(loss)(w) @ direction
curvature = tg.hvp(loss, w, direction) @ direction

# %% tags=["picture"]
s = np.linspace(-0.6, 1, 200)
fig = figure(7, 3)
ax = fig.add_subplot()
ax.plot(s, [loss(w + d * direction) for d in s], color=BLUE, label="loss along a line")
ax.plot(s, loss(w) + slope * s, color=GREY, label="slope only")
ax.plot(
    s, loss(w) + slope * s + curvature / 2 * s**2, "--", color=ORANGE, label="slope and curvature"
)
ax.set(xlabel="distance straight down", ylim=(0, 2 * loss(w)))
ax.legend()
show(fig, "What first and second derivatives know of the loss, from one point.")

# %% [markdown]
# ## By hand
#
# With many weights the second derivatives are a matrix, the **Hessian** H[i, j] = ∂²L/∂wᵢ∂wⱼ. It
# is symmetric. Taylor's series to the second order, for a step s:
#
#     L(w + s)  ≈  L(w) + g · s + ½ sᵀ H s
#
# Where is that least? Its gradient by s is g + H s, which is zero at
#
#     s  =  -H⁻¹ g
#
# That is **Newton's method**. On a quadratic the series is exact, so one step arrives, from
# anywhere, however narrow the valley. (Where H has negative eigenvalues, the loss bends
# downwards, and the point that Newton's method goes to is no minimum.)
#
# A network of a million weights has a Hessian of 10¹² entries, which nobody can store. But its
# **product with a vector** costs about as much as two gradients: H v is the gradient of the
# number g(w) · v, since
#
#     ∂/∂wᵢ Σⱼ g[j] v[j]  =  Σⱼ H[i, j] v[j]
#
# So: go back once to get g, as a computation; multiply by v; go back again (Pearlmutter 1994).

# %% [markdown]
# ## Checked
#
# **Newton on a quadratic**, in one step:

# %%
A = rng.normal(size=(5, 5))
A, c = A @ A.T + 0.01 * np.eye(5), rng.normal(size=5)


def bowl(x):
    return x @ A @ x / 2 - c @ x


start = 10 * rng.normal(size=5)
arrived = start - np.linalg.solve(tg.hessian(bowl)(start), tg.grad(bowl)(start))
print(f"condition number {np.linalg.cond(A):.0f}")
print(f"gradient before: {np.linalg.norm(tg.grad(bowl)(start)):.1e}", end=", ")
print(f"after one step: {np.linalg.norm(tg.grad(bowl)(arrived)):.1e}")
assert np.linalg.norm(tg.grad(bowl)(arrived)) < 1e-9 * np.linalg.norm(tg.grad(bowl)(start))

# %% [markdown]
# **The Hessian of the network**, 33 × 33, by going back through the way back; each row once more
# by nudging the gradient:

# %%
H = tg.hessian(loss)(w)
nudged = np.array(
    [(tg.grad(loss)(w + 1e-5 * e) - tg.grad(loss)(w - 1e-5 * e)) / 2e-5 for e in np.eye(33)]
)
print(f"Hessian and nudged gradients: {np.abs(H - nudged).max():.0e} apart", end="; ")
print(f"symmetric: {np.allclose(H, H.T)}")
print(f"H v without H: {np.abs(tg.hvp(loss, w, direction) - H @ direction).max():.0e} apart")
assert np.allclose(H, nudged, atol=1e-8)
assert np.allclose(tg.hvp(loss, w, direction), H @ direction, atol=1e-12)

# %% [markdown]
# **Its spectrum.** The eigenvalues of H are the curvatures in 33 directions at right angles to each
# other. Before training, a third of them bend downwards. After it, a few directions are steep, and
# the others are nearly flat: along them, weights may change and the network hardly does. (The
# steepest direction limits the learning rate: chapter 10.)

# %%
trained = w.copy()
slope_of = tg.compile(tg.grad(loss))
for _ in range(300 if SHORT else 3000):
    trained = trained - 0.1 * slope_of(trained)
spectra = {"before training": np.linalg.eigvalsh(H)}
spectra["after training"] = np.linalg.eigvalsh(tg.hessian(loss)(trained))
for name, values in spectra.items():
    flat = np.sum(np.abs(values) < 0.01 * values.max())
    print(f"{name}: largest {values.max():.2f}, least {values.min():.2f}, {flat} of 33 below 1 %")

# %% tags=["picture"]
fig, axes = grid(1, 2, 9, 2.8, sharey=True)
for ax, (name, values) in zip(axes, spectra.items(), strict=True):
    ax.bar(range(33), values[::-1], color=[BLUE if v > 0 else ORANGE for v in values[::-1]])
    ax.set(title=name, xlabel="direction, steepest first", yscale="symlog")
axes[0].set_ylabel("curvature")
show(fig, "The Hessian's spectrum. Blue bends upwards, orange downwards.")

# %% [markdown]
# **The largest curvature without the Hessian**: multiply any vector by H again and again, and it
# turns into the direction that H stretches most (power iteration). Each product is one `hvp`.

# %%
v = rng.normal(size=33)
for _ in range(100):
    v = tg.hvp(loss, w, v)
    v /= np.linalg.norm(v)
largest = v @ tg.hvp(loss, w, v)
by_size = spectra["before training"][np.argmax(np.abs(spectra["before training"]))]
print(f"power iteration: {largest:.6f}; from the whole spectrum: {by_size:.6f}")
assert np.isclose(largest, by_size, rtol=1e-4)

# %% [markdown]
# ## In the library
#
# There is no second table of rules for second derivatives. The rule of tanh is written with
# functions that have rules themselves, so the way back can be recorded and gone back again:

# %%
rule(np.tanh, np.multiply)
print()
show(
    tg.draw(np.tanh(tg.Tensor(0.5, requires_grad=True)), show="joint"),
    "tanh, and below it its backward pass as a graph of its own: what a second pass goes through.",
)

# %% [markdown]
# ## Exercises
#
# **11.1** Newton's step: from x, gradient g and Hessian H to the next x.


# %%
def newton(x, g, H):
    return ...


tg.study.check("11.1", newton)

# %% [markdown]
# **11.2** The Hessian of f at x times v, without making the Hessian. (`tg.grad` may be used
# inside of `tg.grad`; or nudge a gradient.)


# %%
def hessian_times(f, x, v):
    return ...


tg.study.check("11.2", hessian_times)

# %% [markdown]
# **11.3** The curvature in the direction of v, for a v of any length.


# %%
def curvature_along(H, v):
    return ...


tg.study.check("11.3", curvature_along)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("11.1", lambda x, g, H: x - np.linalg.solve(H, g))

# %% tags=["solution"]
tg.study.check("11.2", lambda f, x, v: tg.grad(lambda x: np.sum(tg.grad(f)(x) * v))(x))

# %% tags=["solution"]
tg.study.check("11.3", lambda H, v: v @ H @ v / (v @ v))
