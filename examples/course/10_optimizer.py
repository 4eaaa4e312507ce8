# %% [markdown]
# # 10. What does the optimizer do?
#
# The gradient says which way is down, not how far to go. Gradient descent goes a fixed multiple
# of it. In a long narrow valley that is too far across and too little along, and all other
# optimizers are remedies for that.

# %%
import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREEN, GREY, ORANGE, SHORT, figure, grid, show

# %%
turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
H = turn @ np.diag([1.0, 20.0]) @ turn.T  # curvature 1 along the valley, 20 across


def valley(x):
    return x @ H @ x / 2


def path(optimizer, steps=60):
    """Where an optimizer goes from one starting point."""
    x = tg.Tensor(np.array([-3.0, 0.8]), requires_grad=True)
    rule = optimizer([x])
    places = [x.data.copy()]
    for _ in range(steps):
        valley(x).backward()
        rule.step()
        rule.zero_grad()
        places.append(x.data.copy())
    return np.array(places)


paths = {
    "gradient descent": path(lambda p: tg.optim.SGD(p, 0.09)),
    "momentum 0.8": path(lambda p: tg.optim.SGD(p, 0.03, momentum=0.8)),
    "Adam": path(lambda p: tg.optim.Adam(p, 0.3)),
}

# %% tags=["picture"]
xs, ys = np.meshgrid(np.linspace(-3.5, 2, 120), np.linspace(-2.2, 1.6, 90))
points = np.stack([xs, ys], axis=-1)
heights = np.einsum("ijk,kl,ijl->ij", points, H, points) / 2
fig, axes = grid(1, 3, 10, 2.8, sharey=True)
for ax, (name, places), color in zip(axes, paths.items(), (ORANGE, BLUE, GREEN), strict=True):
    ax.contour(xs, ys, heights, levels=np.geomspace(0.05, 60, 12), colors=[GREY], linewidths=0.7)
    ax.plot(*places.T, "o-", color=color, markersize=2.5, linewidth=1)
    ax.set(title=name, xlim=(-3.5, 2), ylim=(-2.2, 1.6), xticks=[], yticks=[])
show(
    fig,
    "Sixty steps in one valley. Gradient descent zigzags across and creeps along; momentum "
    "averages the zigzag away; Adam scales each coordinate.",
)

# %% [markdown]
# ## By hand
#
# Near a minimum every smooth loss is nearly a quadratic, L(x) = ½ xᵀ H x, with x counted from the
# minimum and a symmetric H whose eigenvalues are positive. Its gradient is H x. So a step of
# gradient descent with rate η is
#
#     x  ←  x - η H x  =  (1 - η H) x
#
# In the directions of the eigenvectors of H, with eigenvalues λ (the curvatures), each coordinate
# is multiplied by 1 - η λ, in every step. It shrinks if |1 - η λ| < 1, and that is
#
#     η  <  2 / λ
#
# for the largest λ. Above it, the steps across the steepest direction grow. The other end is
# slow: the flattest direction shrinks by 1 - η λ_min. The number of steps grows with the
# **condition number** λ_max / λ_min, here 20.
#
# **Momentum** keeps a velocity: v ← β v + g, x ← x - η v. Across the valley gradients alternate
# and cancel in v; along it they add up, to g / (1 - β). **Adam** keeps running means of g and of
# g², and goes along mean / √mean of squares: about η per step, whatever the size of the gradient.
# The means start at zero, so they are divided by 1 - βᵗ.

# %% [markdown]
# ## Checked
#
# Rates below, at and above 2/λ, a thousand steps each.

# %%
lambdas = np.linalg.eigvalsh(H)
limit = 2 / lambdas[-1]
print(f"curvatures {lambdas.round(6)}, so the limit is 2/λ = {limit:.4f}")
for share in (0.5, 0.99, 1.0, 1.01):
    places = path(lambda p, share=share: tg.optim.SGD(p, share * limit), steps=1000)
    print(f"rate {share:4} · 2/λ: |x| after 1,000 steps {np.linalg.norm(places[-1]):.2e}")
    assert (np.linalg.norm(places[-1]) < 1e-3) == (share < 1)
    assert (np.linalg.norm(places[-1]) > 1e3) == (share > 1)

# %% tags=["picture"]
shares = np.linspace(0.02, 1.1, 28 if SHORT else 109)
after = [
    max(np.linalg.norm(path(lambda p, s=s: tg.optim.SGD(p, s * limit), steps=40)[-1]), 1e-8)
    for s in shares
]
fig = figure(7, 2.8)
ax = fig.add_subplot()
ax.semilogy(shares, after, color=BLUE)
ax.axvline(1, color=GREY, linestyle="--")
ax.set(xlabel="learning rate, as a share of 2/λ", ylabel="distance after 40 steps")
show(
    fig,
    "The best rate is just below the one that diverges. So a loss that explodes is often one "
    "that learned well before.",
)

# %% [markdown]
# ## A formula of your own
#
# An optimizer is one pure formula. Here are momentum and sign descent, five lines each, and they
# do what the library's do.


# %%
class Momentum(tg.optim.Optimizer):
    states = ("velocity",)

    @staticmethod
    def formula(parameter, gradient, velocity, learning_rate, step):
        velocity = 0.8 * velocity + gradient
        return parameter - learning_rate * velocity, velocity


class SignDescent(tg.optim.Optimizer):
    @staticmethod
    def formula(parameter, gradient, learning_rate, step):
        return parameter - learning_rate * np.sign(gradient)


mine = path(lambda p: Momentum(p, learning_rate=0.03))
print("mine and the library's momentum:", f"{np.abs(mine - paths['momentum 0.8']).max():.0e} apart")
assert np.allclose(mine, paths["momentum 0.8"], rtol=1e-10)
print("sign descent ends at", path(lambda p: SignDescent(p, learning_rate=0.05))[-1].round(3))

# %% [markdown]
# ## In the library
#
# Adam as its formula stands in `tinygrad_mm/optim/algorithms.py`, traced into calls of NumPy that
# write into buffers. `scalars` is worked out once per step, `update` goes over all weights at
# once.

# %%
w = tg.Tensor(np.zeros(3), requires_grad=True)
optimizer = tg.optim.Adam([w])
np.sum(w * 2).backward()
optimizer.step()
print(optimizer.source)

# %% [markdown]
# ## Exercises
#
# **10.1** The learning rate above which gradient descent on ½ xᵀ H x diverges.


# %%
def largest(H):
    return ...


tg.study.check("10.1", largest)

# %% [markdown]
# **10.2** A step of momentum: the new w and the new v.


# %%
def momentum(w, g, v, rate, beta):
    return ...


tg.study.check("10.2", momentum)

# %% [markdown]
# **10.3** Step t (counted from 1) of Adam: the new w, m and s, with β₁ = 0.9, β₂ = 0.999 and
# 10⁻⁸.


# %%
def adam(w, g, m, s, t, rate):
    return ...


tg.study.check("10.3", adam)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("10.1", lambda H: 2 / np.linalg.eigvalsh(H).max())


# %% tags=["solution"]
def momentum(w, g, v, rate, beta):
    v = beta * v + g
    return w - rate * v, v


tg.study.check("10.2", momentum)


# %% tags=["solution"]
def adam(w, g, m, s, t, rate):
    m = 0.9 * m + 0.1 * g
    s = 0.999 * s + 0.001 * g * g
    mean, square = m / (1 - 0.9**t), s / (1 - 0.999**t)
    return w - rate * mean / (np.sqrt(square) + 1e-8), m, s


tg.study.check("10.3", adam)
