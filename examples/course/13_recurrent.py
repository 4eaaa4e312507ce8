# %% [markdown]
# # 13. How does it remember?
#
# A recurrent network reads a sequence one step at a time and keeps a state. The same weights are
# used in every step, so training goes back through all of them: **backpropagation through time**.
# It is chapter 9 again, with one matrix instead of twenty, and this time the factors are all
# alike.

# %%
import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREEN, ORANGE, SHORT, figure, rule, show


# %% tags=["picture"]
class Recurrent(tg.Module):
    """h = tanh(x @ U + h @ W + b), from h = 0, through a sequence; then a dense layer reads h."""

    def __init__(self, inputs, states, outputs, rng):
        self.cell = tg.nn.Dense(inputs + states, states, "tanh", rng=rng)
        self.read = tg.nn.Dense(states, outputs, rng=rng)

    def forward(self, sequence):
        h = np.zeros((len(sequence), self.read.in_features), np.float32)
        for t in range(sequence.shape[1]):
            h = self.cell(np.concatenate([sequence[:, t], h], axis=1))
        return self.read(h)


model = Recurrent(3, 8, 2, np.random.default_rng(0))
sequence = tg.Tensor(np.ones((4, 60, 3), np.float32), requires_grad=True)
show(
    tg.draw(model(sequence), model=model, depth=1),
    "Sixty steps of one cell. Equal steps are drawn once: that is what 'recurrent' means.",
)

# %% [markdown]
# ## By hand
#
#     a  =  x[t] @ U + h[t-1] @ W
#     h[t]  =  tanh(a)
#
# On the way back, h[t] gets two contributions: from the loss, if the loss looks at step t, and
# **from the next step**, which was made from it. Add them, then go through tanh and the product:
#
#     dh[t]    =  (from the loss)  +  da[t+1] @ Wᵀ
#     da[t]    =  dh[t] · (1 - h[t]²)
#     dW      +=  h[t-1]ᵀ @ da[t]             W is used in every step: contributions add up
#
# Through k steps a gradient is multiplied k times by Wᵀ (and by slopes of tanh, at most 1). If
# all that W does is to stretch by a factor c, the gradient is multiplied by
#
#     cᵏ
#
# For c = 0.9 and k = 60 that is 0.002; for c = 1.1 it is 300. A network cannot learn what it is
# not told: if the gradient of a word sixty steps ago has vanished, nothing says that it mattered.
# If it explodes, one step throws the weights away.
#
# Against explosion: **clip** the gradient, make it shorter if it is longer than some norm, in the
# same direction. Against vanishing: an *additive* path. A **GRU** keeps its state and mixes in
# some of a candidate n,
#
#     h[t]  =  z · h[t-1] + (1 - z) · n
#
# and where the gate z is near 1, the slope along h is near 1, for as many steps as it likes. Each
# state has a gate of its own, and the network decides, from x and h, when to open it.

# %% [markdown]
# ## Checked
#
# W is an orthogonal matrix (which turns, and stretches nothing) times c. We measure the gradient
# of the last state with respect to each earlier one.

# %%
rng = np.random.default_rng(0)
steps, n = 60, 32
Q = np.linalg.qr(rng.normal(size=(n, n)))[0]


def sizes(c, activation):
    """The norm of the gradient of each state, first one first, for a gradient of 1 at the end."""
    h = tg.Tensor(0.01 * rng.normal(size=(1, n)), requires_grad=True)
    states = [h]
    for _ in range(steps):
        h = activation(h @ tg.Tensor(c * Q) + 0.1 * rng.normal(size=(1, n)))
        states.append(h)
    seed = rng.normal(size=(1, n))
    found = tg.gradients(np.sum(h * seed), states[:-1])
    return np.array([np.linalg.norm(g.data) for g in found]) / np.linalg.norm(seed)


curves = {}
for c in (0.9, 1.0, 1.1):
    linear, curves[c] = sizes(c, lambda a: a), sizes(c, np.tanh)
    print(f"c = {c}: through {steps} steps, predicted {c**steps:.3e}", end=", ")
    print(f"measured {linear[0]:.3e}, with tanh {curves[c][0]:.3e}")
    assert np.allclose(linear, c ** np.arange(steps, 0, -1.0), rtol=1e-9)
    assert np.all(curves[c] <= linear * (1 + 1e-9))

# %% tags=["picture"]
fig = figure(7, 3)
ax = fig.add_subplot()
for (c, curve), color in zip(curves.items(), (ORANGE, GREEN, BLUE), strict=True):
    ax.semilogy(range(steps, 0, -1), curve, color=color, label=f"c = {c}, with tanh")
    ax.semilogy(range(steps, 0, -1), c ** np.arange(steps, 0, -1.0), "--", color=color, alpha=0.5)
ax.set(xlabel="steps back", ylabel="norm of the gradient")
ax.legend(fontsize=9)
show(
    fig,
    "Gradients through time. Dashed: c to the power of the steps. Tanh can only make them smaller.",
)

# %% [markdown]
# ## Can it be learned?
#
# The plainest test of memory: the first number of a sequence is +1 or -1, then comes noise; at
# the end, say what the first one was. What counts is the factor per step *at the start*, for
# before anything is learned nothing else decides whether the first number has a gradient.
#
# - A plain network that starts with c = 1, and one with c = 0.5: 0.5⁶⁰ = 10⁻¹⁸.
# - A GRU as it comes: its gate starts at z = σ(0) = ½. The factor is ½ again!
# - A GRU whose gate has a bias of log T, for sequences of T steps: z = T / (T + 1), so that zᵀ is
#   about 1/e = 0.37, however long the sequence (Tallec and Ollivier 2018).

# %%
STATES = 32


def plain(c, rng):
    """A recurrent network whose W is c times an orthogonal matrix."""
    model = Recurrent(1, STATES, 2, rng)
    weight = model.cell.weight.data.copy()
    weight[1:] = c * np.linalg.qr(rng.normal(size=(STATES, STATES)))[0]
    model.cell.weight.value = weight
    return model


class Gated(tg.Module):
    """A GRU, and a dense layer that reads its last state; `bias` is that of the gate z."""

    def __init__(self, bias, rng):
        self.gru = tg.nn.GRU(1, STATES, rng=rng)
        self.read = tg.nn.Dense(STATES, 2, rng=rng)
        biases = self.gru.cells[0].input_bias.data.copy()
        biases[STATES : 2 * STATES] = bias
        self.gru.cells[0].input_bias.value = biases

    def forward(self, sequence):
        return self.read(self.gru(sequence)[1][0])


def batch(count, length, rng):
    """Sequences of noise that begin with +1 or -1, and which of the two it was."""
    sequences = rng.normal(scale=0.3, size=(count, length, 1)).astype(np.float32)
    first = rng.integers(0, 2, count)
    sequences[:, 0, 0] = 2 * first - 1
    return sequences, first


def recall(model, length, rng, updates=20 if SHORT else 500):
    """How often the first number is recalled after training, in percent."""
    optimizer = tg.optim.Adam(model.parameters(), 3e-3)
    for _ in range(updates):
        sequences, first = batch(32, length, rng)
        tg.cross_entropy(model(sequences), first).backward()
        tg.optim.clip_grad_norm(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    sequences, first = batch(500, length, rng)
    with tg.no_grad():
        return 100 * np.mean(model(sequences).data.argmax(axis=1) == first)


length, rng = 6 if SHORT else 60, np.random.default_rng(0)
recalled = {
    "plain, c = 0.5": recall(plain(0.5, rng), length, rng),
    "plain, c = 1": recall(plain(1.0, rng), length, rng),
    "GRU, z = 1/2": recall(Gated(0.0, rng), length, rng),
    "GRU, z = T / (T + 1)": recall(Gated(np.log(length), rng), length, rng),
}
for name, percent in recalled.items():
    print(f"{name:21} {percent:5.1f} % recalled after {length} steps")
assert SHORT or min(recalled["plain, c = 1"], recalled["GRU, z = T / (T + 1)"]) > 95
assert SHORT or max(recalled["plain, c = 0.5"], recalled["GRU, z = 1/2"]) < 60

# %% [markdown]
# Fifty per cent is guessing. The architecture alone decides nothing: what remembers is a factor
# near 1, and a GRU is a way to *keep* one near 1 and to close it where something is to be
# forgotten.
#
# ## In the library
#
# There is no rule for recurrence. The loop is Python, the record is a long graph, and that W is
# used sixty times is just sixty contributions that are added up, as in chapter 2. The GRU's step
# in `tinygrad_mm/nn/recurrent.py` ends in the additive path, written as one sum: `n + z * (h -
# n)`.

# %%
rule(np.tanh, np.add)

# %% [markdown]
# ## Exercises
#
# **13.1** h = tanh(x[t] + w · h), from h = 0, through all of x. The gradient of w in the last h.


# %%
def dw_through_time(x, w):
    return ...


tg.study.check("13.1", dw_through_time)

# %% [markdown]
# **13.2** Clip a gradient to a norm.


# %%
def clipped(g, most):
    return ...


tg.study.check("13.2", clipped)

# %% [markdown]
# **13.3** For h = w · h, what is the gradient of the first state in the last one, `steps` later?


# %%
def share(w, steps):
    return ...


tg.study.check("13.3", share)

# %% [markdown]
# ## Solutions


# %% tags=["solution"]
def dw_through_time(x, w):
    states = [0.0]
    for number in x:
        states.append(np.tanh(number + w * states[-1]))
    dw, dh = 0.0, 1.0
    for t in range(len(x), 0, -1):
        da = dh * (1 - states[t] ** 2)
        dw += da * states[t - 1]
        dh = da * w  # what the step before gets from this one
    return dw


tg.study.check("13.1", dw_through_time)

# %% tags=["solution"]
tg.study.check("13.2", lambda g, most: g * min(1, most / np.linalg.norm(g)))

# %% tags=["solution"]
tg.study.check("13.3", lambda w, steps: w**steps)
