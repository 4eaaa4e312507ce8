# %% [markdown]
# # 6. Why softmax minus one-hot?
#
# A network that chooses ends in scores, one for each class. Softmax makes probabilities of them,
# cross-entropy says how surprised they are by the truth, and the gradient of all that is the
# simplest formula of the course: *what you said, minus what was true*.

# %%
from pathlib import Path

import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, SHORT, grid, rule, show

# %% tags=["picture"]
z, truth = np.array([1.0, 2.5, 0.3, -0.5]), 2
p = np.exp(z) / np.exp(z).sum()
fig, axes = grid(1, 3, 9, 2.6, sharey=True)
for ax, values, title in zip(
    axes,
    (p, np.eye(4)[truth], p - np.eye(4)[truth]),
    ("p = softmax(z)", "the truth, one-hot", "gradient of z: p - one-hot"),
    strict=True,
):
    ax.bar(range(4), values, color=[ORANGE if v < 0 else BLUE for v in values])
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(title=title, xticks=range(4), xlabel="class", ylim=(-1, 1))
show(
    fig,
    "The score of the true class is to be raised (negative gradient), the others lowered, each by "
    "how much was put on it. The bars add up to 0.",
)

# %% [markdown]
# ## By hand
#
# **Softmax** makes positive numbers of all scores and divides by their sum:
#
#     p[j]  =  exp(z[j]) / s,     s = Σₖ exp(z[k])
#
# **Cross-entropy** is minus the logarithm of the probability that was given to the true class c:
#
#     L  =  -log p[c]  =  log s - z[c]
#
# The exponential of z[c] and the logarithm have cancelled, and what is left has two terms. The
# first is called **log-sum-exp**. Its derivative by z[j] is exp(z[j]) / s, and that is p[j]. The
# derivative of the second is 1 for j = c and 0 otherwise: a one-hot vector. So
#
#     ∂L/∂z[j]  =  p[j] - [j = c]
#
# One step at a time there are eight operations (exp, sum, divide, pick, log, sum, divide, minus),
# each with a rule. Multiplied out, nearly everything cancels. That is more than elegance: where
# p[c] is so small that it rounds to zero, the rule of log divides by zero. The fused line never
# divides by p.
#
# Neither may exp overflow, which it does above 709. Subtract the largest score first: that
# changes neither p nor L, and exp(z - max) is at most 1.
#
#     log s  =  max + log Σₖ exp(z[k] - max)

# %% [markdown]
# ## Checked

# %%
rng = np.random.default_rng(0)
scores, labels = rng.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])


def eight_steps(scores):
    """Cross-entropy as it is defined: each operation is recorded, and has a rule of its own."""
    e = np.exp(scores)
    p = e / np.sum(e, axis=-1, keepdims=True)
    return -np.sum(np.log(p[np.arange(5), labels])) / 5


step_by_step = tg.grad(eight_steps)(scores)
fused = tg.grad(lambda z: tg.cross_entropy(z, labels))(scores)
by_hand = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
by_hand[np.arange(5), labels] -= 1
by_hand /= 5  # the mean over the batch
print(f"step by step: {np.abs(step_by_step - by_hand).max():.0e} from the formula")
print(f"fused:        {np.abs(fused - by_hand).max():.0e} from the formula")
assert np.allclose(step_by_step, by_hand, rtol=1e-10)
assert np.allclose(fused, by_hand, rtol=1e-10)

with np.errstate(all="ignore"):
    hard = scores + 1000
    print("\nthe same scores, each 1,000 higher, which changes no probability:")
    print("step by step:", tg.grad(eight_steps)(hard)[0])
    print("fused:       ", tg.grad(lambda z: tg.cross_entropy(z, labels))(hard)[0])

# %% [markdown]
# ## The smallest language model
#
# Now the gradient is put to work. Which letter follows which in a first name? Let N[a, b] count
# how often letter b comes after letter a. A name begins and ends with a dot.

# %%
folder = Path(__file__).parents[1] if "__file__" in globals() else Path("..")
names = [
    name.lower()
    for file in ("female", "male")
    for name in (folder / "data" / "first-names" / f"{file}.txt").read_text("utf-8").split()
]
letters = ".-abcdefghijklmnopqrstuvwxyz"
N = np.zeros((28, 28))
for name in names:
    for a, b in zip(f".{name}", f"{name}.", strict=True):
        N[letters.index(a), letters.index(b)] += 1
counted = N / N.sum(axis=1, keepdims=True)
total = N.sum()
seen = N > 0
entropy = -np.sum(N[seen] * np.log(counted[seen])) / total
print(f"{len(names):,} names, {total:,.0f} pairs; mean surprise by counting: {entropy:.5f}")

# %% [markdown]
# And a network that has never counted: one matrix W of scores, a row for each letter. The row of
# the letter at hand goes through softmax. Its gradient is, summed over all pairs, softmax minus
# one-hot: for each row, predicted minus observed frequencies. It is zero exactly where both
# agree. So training has to arrive at the counts. (A pair that never occurs has a score that falls
# for ever; its probability goes to 0. Adam is a way to take steps: chapter 10.)

# %%
W = tg.Tensor(np.zeros((28, 28)), requires_grad=True)
optimizer = tg.optim.Adam([W], learning_rate=0.1)
history = []
for step in range(200 if SHORT else 3000):
    loss = -np.sum(N * tg.log_softmax(W)) / total
    loss.backward()
    if step == 0:
        row = N.sum(axis=1, keepdims=True)
        assert np.allclose(W.grad, (row / 28 - N) / total)  # softmax of zeros is 1/28 everywhere
    optimizer.step()
    optimizer.zero_grad()
    history.append(loss.item())
print(f"by counting: {entropy:.5f}\nby training: {history[-1]:.5f}")
assert abs(history[-1] - entropy) < (1e-2 if SHORT else 5e-5)

# %% tags=["picture"]
trained = tg.softmax(W).data
row = letters.index("q")
fig, axes = grid(1, 2, 9, 2.8, width_ratios=[1, 1.6])
axes[0].semilogy(np.array(history) - entropy, color=BLUE)
axes[0].set(title="loss above that of counting", xlabel="step")
axes[1].bar(np.arange(28) - 0.2, counted[row], 0.4, color=GREY, label="counted")
axes[1].bar(np.arange(28) + 0.2, trained[row], 0.4, color=BLUE, label="trained")
axes[1].set(title="what follows a q", xticks=range(28), xticklabels=list(letters))
axes[1].legend()
show(fig, "One matrix, trained, becomes the table of counts.")

# %% [markdown]
# It can make up names, letter by letter:

# %%
for _ in range(8):
    name, letter = "", 0
    while True:
        letter = rng.choice(28, p=trained[letter] / trained[letter].sum())
        if letter == 0:
            break
        name += letters[letter]
    print(name, end="  ")
print()

# %% [markdown]
# Not good names: the model sees one letter. Chapters 13 and 14 let it see more.
#
# ## In the library
#
# The rule of cross-entropy stands in `tinygrad_mm/functional/losses.py`: `softmax(logits) -
# one_hot(labels, …)`, divided by the examples where the loss is a mean. Softmax alone, and
# log-sum-exp:

# %%
rule(tg.softmax, tg.logsumexp)

# %% [markdown]
# ## Exercises
#
# **6.1** log-sum-exp that does not overflow.


# %%
def logsumexp(z):
    return ...


tg.study.check("6.1", logsumexp)

# %% [markdown]
# **6.2** The gradient of the scores z, of shape (examples, classes), in the *mean* cross-entropy.


# %%
def dz_cross_entropy(z, labels):
    return ...


tg.study.check("6.2", dz_cross_entropy)

# %% [markdown]
# **6.3** Softmax alone, in the middle of a network: from dp, the gradient of p, that of z. (Its
# Jacobian is ∂p[i]/∂z[j] = p[i] ([i = j] - p[j]); do not make it.)


# %%
def dz_softmax(z, dp):
    return ...


tg.study.check("6.3", dz_softmax)

# %% [markdown]
# ## Solutions


# %% tags=["solution"]
def logsumexp(z):
    top = z.max(axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(z - top), axis=-1)) + top[..., 0]


tg.study.check("6.1", logsumexp)


# %% tags=["solution"]
def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


tg.study.check("6.2", lambda z, labels: (softmax(z) - np.eye(z.shape[1])[labels]) / len(z))


# %% tags=["solution"]
def dz_softmax(z, dp):
    p = softmax(z)
    return p * (dp - np.sum(p * dp, axis=-1, keepdims=True))


tg.study.check("6.3", dz_softmax)
