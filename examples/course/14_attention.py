# %% [markdown]
# # 14. How does attention look up?
#
# A dictionary takes a query, finds the key that equals it, and returns the value beside that key.
# Attention does the same softly: it compares the query with *all* keys, turns the similarities
# into weights that add up to 1, and returns the weighted mean of all values. Being soft, it has a
# gradient, so the keys and queries can be learned.

# %%
import numpy as np

import tinygrad_mm as tg
from style import SHORT, amounts, grid, matrix, rule, show


# %%
def softmax(z):
    e = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


keys = np.eye(5)  # five keys, one-hot
values = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [-1.0, 3.0], [5.0, -5.0]])
asked = [3, 0, 3, 4]
queries = keys[asked]

# %% tags=["picture"]
fig, axes = grid(1, 3, 9, 2.8)
for ax, scale in zip(axes, (1, 5, 25), strict=True):
    weights = softmax(scale * queries @ keys.T)
    amounts(ax, weights, f"scores times {scale}", written=".2f")
    ax.set(xlabel="key", ylabel="query", xticks=range(5), yticks=range(4), yticklabels=asked)
show(fig, "Weights of four queries over five keys. The sharper the scores, the harder the look-up.")

# %% [markdown]
# ## By hand
#
#     S  =  Q Kᵀ / √d          one score for each query and key: a dot product
#     A  =  softmax(S)         along the keys: each query shares out a weight of 1
#     Y  =  A V                each query's mean of the values
#
# Why √d? The dot product of two random vectors of d numbers is a sum of d terms, so it is about
# √d in size (the random walk of chapter 9). Softmax of large scores is nearly one-hot, and its
# gradient nearly zero. Dividing by √d keeps the scores near 1.
#
# With one-hot keys and queries, and scores multiplied by β, the weight of the right one of n keys
# is
#
#     exp(β) / (exp(β) + n - 1)  =  1 - (n - 1) exp(-β) + …
#
# so the answer is that of the table, but for an error that falls as exp(-β).
#
# The way back takes the three lines in reverse. Each is known: the matrix product from chapter 4,
# the softmax from chapter 6.
#
#     dV  =  Aᵀ dY                    dA  =  dY Vᵀ
#     dS  =  A · (dA - sum of A · dA along the keys)
#     dQ  =  dS K / √d                dK  =  dSᵀ Q / √d

# %% [markdown]
# ## Checked
#
# **A table look-up.**

# %%
for beta in (1, 5, 10, 20):
    y = softmax(beta * queries @ keys.T) @ values
    error = np.abs(y - values[asked]).max()
    print(f"scores times {beta:2}: error {error:.1e}, (n - 1) exp(-β) = {4 * np.exp(-beta):.1e}")
    assert error < 10 * 4 * np.exp(-beta)  # values lie up to 10 apart

# %% [markdown]
# **The gradients**, by the lines above and by the engine.

# %%
rng = np.random.default_rng(0)
Q, K, V, dY = (rng.normal(size=s) for s in ((4, 8), (6, 8), (6, 3), (4, 3)))
A = softmax(Q @ K.T / np.sqrt(8))
dV, dA = A.T @ dY, dY @ V.T
dS = A * (dA - np.sum(A * dA, axis=-1, keepdims=True))
dQ, dK = dS @ K / np.sqrt(8), dS.T @ Q / np.sqrt(8)
engine = tg.grad(lambda Q, K, V: np.sum(tg.scaled_dot_product_attention(Q, K, V) * dY), (0, 1, 2))(
    Q, K, V
)
for name, mine, theirs in zip("QKV", (dQ, dK, dV), engine, strict=True):
    print(f"d{name}: {np.abs(mine - theirs).max():.0e} apart")
    assert np.allclose(mine, theirs, rtol=1e-10)

# %% [markdown]
# ## It learns to look up
#
# Nobody gives keys and queries to a network; it makes them, Q = x Wq and K = x Wk. Here each
# example is a small table of 5 keys, drawn from 8 symbols, with a value beside each, and a query.
# The loss asks for the value beside the key that equals the query. Equality is nowhere in the
# formula.

# %%
symbols, entries, kinds = 8, 5, 4


def tables(count):
    """Keys and queries one-hot, values one-hot, and the kind of value that is asked for."""
    keys = np.argsort(rng.random((count, symbols)), axis=1)[:, :entries]
    values = rng.integers(0, kinds, (count, entries))
    place = rng.integers(0, entries, count)
    rows = np.arange(count)
    hot = np.eye(symbols, dtype=np.float32)
    return (
        hot[keys[rows, place]][:, None],
        hot[keys],
        np.eye(kinds, dtype=np.float32)[values],
        values[rows, place],
    )


class LookUp(tg.Module):
    def __init__(self, rng):
        self.query = tg.nn.Dense(symbols, 16, bias=False, rng=rng)
        self.key = tg.nn.Dense(symbols, 16, bias=False, rng=rng)

    def forward(self, query, keys, values):
        """The logarithm of the mean of the values that the query finds."""
        found = tg.scaled_dot_product_attention(self.query(query), self.key(keys), values)
        return np.log(found[:, 0] + np.float32(1e-6))


model = LookUp(rng)
step = tg.compile_step(model, tg.nll_loss, tg.optim.Adam(model.parameters(), 1e-2))
for _ in range(100 if SHORT else 1500):
    loss = step(*tables(64))
*inputs, truth = tables(1000)
right = 100 * np.mean(model(*inputs).data.argmax(axis=1) == truth)
print(f"loss {loss:.4f}; {right:.1f} % of 1,000 new tables are looked up rightly")
assert right > (60 if SHORT else 99.9)

# %% tags=["picture"]
scores = model.query.weight.data @ model.key.weight.data.T / 4
fig, axes = grid(1, 2, 7.5, 3.2)
start = LookUp(np.random.default_rng(0))
untrained = start.query.weight.data @ start.key.weight.data.T / 4
for ax, values_, title in zip(axes, (untrained, scores), ("before training", "after"), strict=True):
    matrix(ax, values_, title)
    ax.set(xlabel="key", ylabel="query")
show(
    fig,
    "Scores of each symbol as a query against each as a key, Wq Wkᵀ / √d. It has discovered "
    "equality.",
    cover=True,
)

# %% [markdown]
# ## A leak in the mask
#
# A model that predicts the next word must not see it. The **causal mask** lets query i look at
# keys 0 to i only. If the mask is off by one, the loss falls wonderfully and the model is
# worthless. The Jacobian shows a leak at once: how far output i changes with input j.


# %%
def influence(mask):
    """The size of the Jacobian of each output with respect to each input."""
    x = rng.normal(size=(6, 8))
    jacobian = tg.jacobian(lambda x: tg.scaled_dot_product_attention(x, x, x, mask=mask))(x)
    return np.sqrt(np.sum(np.square(jacobian), axis=(1, 3)))


masks = {"causal": np.tril(np.ones((6, 6), bool)), "off by one": np.tril(np.ones((6, 6), bool), 1)}
seen = {name: influence(mask) for name, mask in masks.items()}
for name, size in seen.items():
    print(f"{name}: the future changes outputs by up to {np.triu(size, 1).max():.2f}")
assert np.triu(seen["causal"], 1).max() == 0
assert np.triu(seen["off by one"], 1).max() > 0

# %% tags=["picture"]
fig, axes = grid(1, 2, 7.5, 3.2)
for ax, (name, size) in zip(axes, seen.items(), strict=True):
    amounts(ax, size, name)
    ax.set(xlabel="input", ylabel="output", xticks=range(6), yticks=range(6))
show(fig, "What each output depends on. Above the diagonal lies the future.")

# %% [markdown]
# ## In the library
#
# Attention is written with operations that have rules; it needs none of its own. With the
# gradients above in mind, these three are all there is:

# %%
rule(np.matmul, tg.softmax, np.where)

# %% [markdown]
# ## Exercises
#
# **14.1** Attention, for q (queries, d), k (keys, d) and v (keys, values).


# %%
def attention(q, k, v):
    return ...


tg.study.check("14.1", attention)

# %% [markdown]
# **14.2** Its gradients dq, dk and dv, from dy.


# %%
def attention_back(q, k, v, dy):
    return ..., ..., ...


tg.study.check("14.2", attention_back)

# %% [markdown]
# **14.3** The causal mask of n steps: True where a query may look.


# %%
def causal(n):
    return ...


tg.study.check("14.3", causal)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("14.1", lambda q, k, v: softmax(q @ k.T / np.sqrt(q.shape[-1])) @ v)


# %% tags=["solution"]
def attention_back(q, k, v, dy):
    root = np.sqrt(q.shape[-1])
    A = softmax(q @ k.T / root)
    dA = dy @ v.T
    dS = A * (dA - np.sum(A * dA, axis=-1, keepdims=True))
    return dS @ k / root, dS.T @ q / root, A.T @ dy


tg.study.check("14.2", attention_back)

# %% tags=["solution"]
tg.study.check("14.3", lambda n: np.tril(np.ones((n, n), bool)))
