# %% [markdown]
# # 15. What did `compile` write?
#
# An engine that records every operation pays for each of them: a record, a look into a table, a
# new array. For a network that takes the same step a million times, all this can be done once.
# What remains is the training step that you would write by hand. Here you can read it.

# %%
import time

import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREEN, ORANGE, SHORT, figure, show

# %%
rng = np.random.default_rng(0)
inputs, hidden, outputs, examples, rate = 16, 32, 4, 32, 0.05
x = rng.normal(size=(examples, inputs)).astype(np.float32)
t = rng.normal(size=(examples, outputs)).astype(np.float32)
start = [
    rng.normal(scale=(2 / inputs) ** 0.5, size=(inputs, hidden)).astype(np.float32),
    rng.normal(scale=(2 / hidden) ** 0.5, size=(hidden, outputs)).astype(np.float32),
]


def network():
    """Two layers without bias, which always start from the same weights."""
    model = tg.nn.Sequential(
        tg.nn.Dense(inputs, hidden, "relu", bias=False), tg.nn.Dense(hidden, outputs, bias=False)
    )
    for p, value in zip(model.parameters(), start, strict=True):
        p.value = value.copy()
    return model, tg.optim.SGD(model.parameters(), rate)


model, optimizer = network()
show(
    tg.draw(tg.mse_loss(model(x), t), show="backward"),
    "One step, as the engine records it; orange, the way back.",
)

# %% [markdown]
# ## By hand
#
# Mean squared error, two products and a ReLU. You have derived each of these lines:
#
#     z   =  x W₁                      dy   =  2 (y - t) / (entries of y)       mean of squares
#     h   =  max(z, 0)                 dW₂  =  hᵀ dy                            chapter 4
#     y   =  h W₂                      dh   =  dy W₂ᵀ                           chapter 4
#     L   =  mean((y - t)²)            dz   =  dh where z > 0                   chapter 9
#                                      dW₁  =  xᵀ dz                            chapter 4
#     W   ←  W - η dW                                                           chapter 10
#
# Nobody needs dx, so it is not computed: of six products that two layers could take, five are
# left.


# %%
def by_hand(x, t, W1, W2):
    """A training step of plain NumPy; it changes W1 and W2, and returns the loss."""
    h = np.maximum(x @ W1, 0)
    error = h @ W2 - t
    dy = error * np.float32(2 / error.size)
    dW2 = h.T @ dy
    dW1 = x.T @ ((dy @ W2.T) * (h > 0))
    W1 -= np.float32(rate) * dW1
    W2 -= np.float32(rate) * dW2
    return np.mean(error * error)


# %% [markdown]
# ## What was written
#
# `compile_step` runs the model once with tensors that only record, goes back through the record
# by the same rules, adds the optimizer's formula, and writes the whole out as source code: NumPy
# calls into arrays that are made once. Arrays whose lives do not overlap share memory.

# %%
step = tg.compile_step(model, tg.mse_loss, optimizer)
step(x, t)
print(step.source)

# %% [markdown]
# Go through it with the table above. Each of your lines is there, in an order of its own and
# often transposed (`.T`), since that way a product can write where it is needed. The comments say
# which layer a line belongs to. Two lines may puzzle you, those with `t0_view`: they are the `dz`
# of the table. They read the bits of h as whole numbers, which are 0 exactly where h is 0, and
# make of them a mask of zeros and ones. The next line multiplies by it, which is quicker than a
# choice.
#
# ## Checked
#
# Three times the same training: the engine, operation by operation; the compiled step; your step.


# %%
def eager(model, optimizer):
    def step(x, t):
        loss = tg.mse_loss(model(x), t)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def seconds(step, arguments):
    """The time of one call: the best of several rounds, as other programs disturb."""
    rounds = []
    for _ in range(3 if SHORT else 20):
        begin = time.perf_counter()
        for _ in range(50):
            step(*arguments)
        rounds.append((time.perf_counter() - begin) / 50)
    return min(rounds)


model, optimizer = network()
steps = {
    "engine": (eager(*network()), (x, t)),
    "compiled": (tg.compile_step(model, tg.mse_loss, optimizer), (x, t)),
    "by hand": (by_hand, (x, t, *(w.copy() for w in start))),
}
losses = {name: [float(f(*args)) for _ in range(200)] for name, (f, args) in steps.items()}
for name, curve in losses.items():
    print(f"{name:9} loss {curve[0]:.6f} -> {curve[-1]:.6f}")
    assert np.allclose(curve, losses["engine"], rtol=1e-4)

# %%
times = {name: seconds(*both) for name, both in steps.items()}
for name, spent in times.items():
    print(f"{name:9} {1e6 * spent:6.0f} µs a step", end="")
    print(f", {times['engine'] / spent:.1f} times as fast as the engine")

# %% tags=["picture"]
fig = figure(7, 1.8)
ax = fig.add_subplot()
ax.barh(list(times), [1e6 * s for s in times.values()], color=[ORANGE, BLUE, GREEN])
ax.invert_yaxis()
ax.set(xlabel="microseconds for one training step, on this machine")
show(fig, "The same numbers, at three prices.", cover=True)

# %% [markdown]
# For a network this small, nearly all of the engine's time is bookkeeping. For a large one it is
# products, and all three take as long as the products do. `step.report` says where the time goes:

# %%
print(steps["compiled"][0].report(x, t))

# %% [markdown]
# ## In the library
#
# Nothing in the compiler knows a derivative. It asks the rules, the same lines that you have seen
# in every chapter, with tensors that record instead of arrays. And it does not trust itself: on
# its first batches a compiled step runs beside the engine, gradient by gradient, and gives way to
# it if they differ.
#
# ## Exercises
#
# **15.1** Write the step by hand, as a pure function: return the loss and the new W1 and W2.


# %%
def training_step(x, t, W1, W2, rate):
    return ..., ..., ...


tg.study.check("15.1", training_step)

# %% [markdown]
# **15.2** How many multiplications do the matrix products of a layer take, forward and backward,
# for n examples, k inputs and m outputs? `first` says whether it is the network's first layer.


# %%
def products(n, k, m, first):
    return ...


tg.study.check("15.2", products)

# %% [markdown]
# ## Solutions


# %% tags=["solution"]
def training_step(x, t, W1, W2, rate):
    z = x @ W1
    h = np.maximum(z, 0)
    error = h @ W2 - t
    dy = 2 * error / error.size
    dz = (dy @ W2.T) * (z > 0)
    return np.mean(error**2), W1 - rate * (x.T @ dz), W2 - rate * (h.T @ dy)


tg.study.check("15.1", training_step)

# %% tags=["solution"]
# Forward n k m, dW again n k m, and dx, where it is needed, once more.
tg.study.check("15.2", lambda n, k, m, first: (2 if first else 3) * n * k * m)
