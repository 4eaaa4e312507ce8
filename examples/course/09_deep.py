# %% [markdown]
# # 9. Why do deep nets stop learning?
#
# A gradient on its way back is multiplied once per layer. Twenty factors of 1/4 are 10⁻¹²; twenty
# factors of 4 are 10¹². Between them lies a narrow path, and starting weights, activations and
# normalisation are the means to stay on it.

# %%
import itertools

import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREEN, GREY, ORANGE, SHORT, figure, grid, rule, show

# %%
LAYERS, n, examples = 20, 100, 256
activations = {"sigmoid": tg.sigmoid, "tanh": np.tanh, "relu": tg.relu}


def gradients_of(activation, deviation, seed=0):
    """The inputs z of every layer's activation, and their gradients, first layer first."""
    rng = np.random.default_rng(seed)
    h, zs = tg.Tensor(rng.normal(size=(examples, n))), []
    for _ in range(LAYERS):
        W = tg.Tensor(rng.normal(scale=deviation, size=(n, n)), requires_grad=True)
        zs.append(h @ W)
        h = activations[activation](zs[-1])
    loss = np.sum(h * rng.normal(size=h.shape))
    return [z.data for z in zs], [g.data for g in tg.gradients(loss, zs)]


def rms(a):
    return np.sqrt(np.mean(np.square(a)))


kinds = {
    "sigmoid, 1/√n": ("sigmoid", n**-0.5),
    "tanh, 1/√n": ("tanh", n**-0.5),
    "relu, 1/√n": ("relu", n**-0.5),
    "relu, √(2/n)": ("relu", (2 / n) ** 0.5),
}
found = {name: gradients_of(*kind) for name, kind in kinds.items()}

# %% tags=["picture"]
fig, axes = grid(1, 4, 10, 2.9, sharey=True)
edges = np.linspace(-16, 2, 90)
for ax, (name, (_, gs)) in zip(axes, found.items(), strict=True):
    for layer in range(0, LAYERS, 3):
        sizes = np.log10(np.abs(gs[layer][gs[layer] != 0]))
        counts, _ = np.histogram(sizes, edges)
        ax.fill_between(
            edges[:-1], layer, layer + 2.8 * counts / counts.max(), color=BLUE, alpha=0.6
        )
    ax.set(title=name, xlabel="log₁₀ |gradient|", yticks=range(0, LAYERS, 3))
axes[0].set_ylabel("layer")
show(
    fig,
    "How large the gradients of a layer are, from the last layer (top) to the first (bottom), "
    "before any training.",
)

# %% [markdown]
# ## By hand
#
# On the way back through h = σ(z), z = h₋₁ @ W a gradient meets two factors:
#
#     dz    =  dh · σ'(z)          entry by entry
#     dh₋₁  =  dz @ Wᵀ             a sum of n terms
#
# If the weights are independent, with mean 0 and deviation s, the terms of that sum are of random
# signs. Their sum is not n times one of them but √n times, as with every random walk:
#
#     rms(dh₋₁)  =  √n · s · rms(dz)        rms: the root of the mean square
#
# (Not quite independent of dz, which has come through other weights and depends on the same
# inputs; the measurement will tell whether that matters.) With s = 1/√n that factor is 1. There
# remains the slope of the activation. The sigmoid's is σ (1 - σ), at most 1/4, so every layer
# shrinks the gradient to **less than a quarter**. Tanh's is at most 1, and near 0 about 1. ReLU's
# is 1 for half of the units and 0 for the others: the mean square is 1/2, so the rms shrinks by
# √½ per layer. Weights larger by √2 make up for it, s = √(2/n). That is **He's initialisation**,
# and 2 is the 2 of "half".

# %% [markdown]
# ## Checked
#
# Predicted: the factor √n · s · rms(σ'(z)), from the z that are there. Measured: the quotient of
# the gradients of one layer and the next.

# %%
zs, gs = found["sigmoid, 1/√n"]
slopes = [1 / (1 + np.exp(-z)) * (1 - 1 / (1 + np.exp(-z))) for z in zs]
predicted = [rms(slope) for slope in slopes[:-1]]  # √n · s is 1
measured = [rms(g) / rms(after) for g, after in itertools.pairwise(gs)]
print(f"sigmoid, factor per layer: predicted {np.mean(predicted):.4f}", end=", ")
print(f"measured {np.mean(measured):.4f}")
print(f"over {LAYERS - 1} layers: predicted {np.prod(predicted):.1e}", end=", ")
print(f"measured {rms(gs[0]) / rms(gs[-1]):.1e}")
assert np.allclose(predicted, measured, rtol=0.1)
assert abs(np.mean(measured) / np.mean(predicted) - 1) < 0.02
for name in ("relu, 1/√n", "relu, √(2/n)"):
    gs = found[name][1]
    per_layer = (rms(gs[0]) / rms(gs[-1])) ** (1 / (LAYERS - 1))
    print(f"{name}: {per_layer:.3f} per layer, {rms(gs[0]) / rms(gs[-1]):.2g} over {LAYERS - 1}")
assert 0.3 < rms(gs[0]) / rms(gs[-1]) < 3

# %% [markdown]
# ## Normalise instead
#
# **Batch normalisation** does not wait for luck: it subtracts from every feature its mean over
# the batch and divides by its deviation.
#
#     y  =  (x - mean) / deviation
#
# An entry of x reaches the loss on three paths: directly, by way of the mean, and by way of the
# deviation. Add them up and simplify, and one line is left (means are over the batch):
#
#     dx  =  (dy - mean(dy) - y · mean(dy · y)) / deviation
#
# Read it: dy is made free of its mean and of its share along y. No change that shifts or
# stretches a feature can change y, so the gradient has no component in these directions.

# %%
rng = np.random.default_rng(0)
x, dy = rng.normal(3, 5, size=(32, 4)), rng.normal(size=(32, 4))
deviation = x.std(axis=0)
y = (x - x.mean(axis=0)) / deviation
one_line = (dy - dy.mean(axis=0) - y * np.mean(dy * y, axis=0)) / deviation


def normalised(x):
    centred = x - np.mean(x, axis=0)
    return np.sum(centred / np.sqrt(np.mean(centred**2, axis=0)) * dy)


print("one line and the engine:", f"{np.abs(tg.grad(normalised)(x) - one_line).max():.0e} apart")
assert np.allclose(tg.grad(normalised)(x), one_line, rtol=1e-9, atol=1e-12)

# %% [markdown]
# ## Dead units, and how to be told
#
# A ReLU that is below 0 for every example has gradient 0, and stays as it is: it is **dead**. One
# step that is too large can do that to a whole layer. `tg.why` says why a gradient is what it is.

# %%
model = tg.nn.Sequential(tg.nn.Dense(10, 8, "relu", rng=0), tg.nn.Dense(8, 2, rng=1))
model.layers[0].bias.value = np.full(8, -50, np.float32)  # what a step that is too large leaves
inputs, labels = rng.normal(size=(16, 10)).astype(np.float32), rng.integers(0, 2, 16)
loss = tg.cross_entropy(model(inputs), labels)
print(tg.why(model.layers[0].weight, loss, model))

# %% [markdown]
# And `tg.detect_anomaly` stops at the operation that first makes a NaN or an infinity, instead of
# a thousand steps later:

# %%
try:
    with tg.detect_anomaly():
        p = tg.Tensor(np.array([0.5, 0.0]), requires_grad=True)
        np.sum(p * np.log(p)).backward()
except tg.AnomalyError as error:
    print(error)

# %% [markdown]
# Does it matter? The same 20 layers, trained on the same task by the same gradient descent,
# started in four ways:


# %%
def learns(activation, deviation, steps=30 if SHORT else 300):
    """The losses of a deep network that learns whether a sum is positive."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(512, n)).astype(np.float32)
    label = (x[:, :10].sum(axis=1) > 0).astype(np.int64)
    layers = [tg.nn.Dense(n, n, activation) for _ in range(LAYERS)]
    for layer in layers:
        layer.weight.value = rng.normal(scale=deviation, size=(n, n)).astype(np.float32)
    model = tg.nn.Sequential(*layers, tg.nn.Dense(n, 2, rng=rng))
    step = tg.compile_step(model, tg.cross_entropy, tg.optim.SGD(model.parameters(), 0.05))
    return [step(x, label) for _ in range(steps)]


losses = {name: learns(*kind) for name, kind in kinds.items()}
for name, curve in losses.items():
    print(f"{name:15} loss {curve[0]:.3f} -> {curve[-1]:.3f}")

# %% tags=["picture"]
fig = figure(7, 2.8)
ax = fig.add_subplot()
for (name, curve), color in zip(losses.items(), (ORANGE, GREY, GREEN, BLUE), strict=True):
    ax.plot(curve, color=color, label=name)
ax.set(xlabel="step", ylabel="loss")
ax.legend()
show(
    fig, "Twenty layers. log 2 = 0.69 is the loss of a network that says fifty-fifty to everything."
)

# %% [markdown]
# ## In the library
#
# `Dense` starts with He's deviation before a ReLU and Glorot's, √(2 / (inputs + outputs)),
# otherwise. The rules in question:

# %%
rule(tg.relu, tg.sigmoid, np.tanh)

# %% [markdown]
# ## Exercises
#
# **9.1** With what deviation of the weights does a ReLU layer of `fan_in` inputs keep the scale?


# %%
def deviation_for(fan_in):
    return ...


tg.study.check("9.1", deviation_for)

# %% [markdown]
# **9.2** By what does a sigmoid layer of n outputs multiply the rms of a gradient on the way
# back, near z = 0, with weights of that deviation?


# %%
def factor(n, deviation):
    return ...


tg.study.check("9.2", factor)

# %% [markdown]
# **9.3** The gradient of x in y = (x - mean) / deviation, in one line, from x and dy.


# %%
def dx_batch_norm(x, dy):
    return ...


tg.study.check("9.3", dx_batch_norm)

# %% [markdown]
# **9.4** The share of dead units in h = relu(…), of shape (examples, units).


# %%
def dead(h):
    return ...


tg.study.check("9.4", dead)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("9.1", lambda fan_in: np.sqrt(2 / fan_in))

# %% tags=["solution"]
tg.study.check("9.2", lambda n, deviation: np.sqrt(n) * deviation / 4)


# %% tags=["solution"]
def dx_batch_norm(x, dy):
    deviation = x.std(axis=0)
    y = (x - x.mean(axis=0)) / deviation
    return (dy - dy.mean(axis=0) - y * np.mean(dy * y, axis=0)) / deviation


tg.study.check("9.3", dx_batch_norm)

# %% tags=["solution"]
tg.study.check("9.4", lambda h: np.mean(np.all(h == 0, axis=0)))
