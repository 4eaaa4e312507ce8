# %% [markdown]
# # 8. How does it see digits?
#
# A picture of 28 × 28 pixels becomes a vector of 784 numbers. Each unit of the first layer takes
# its dot product with a vector of weights, which is a picture, too: of what the unit looks for.
# This chapter trains the network of Nielsen's book to its published result, and then looks
# inside.

# %%
from pathlib import Path

import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, SHORT, figure, grid, image, matrix, rule, show

# %%
folder = Path(__file__).parents[1] if "__file__" in globals() else Path("..")
(images, labels), (test_images, test_labels) = tg.data.read_idx_folder(folder / "data" / "mnist")
x, x_test = (i.reshape(-1, 784) / np.float32(255) for i in (images, test_images))
targets = np.eye(10, dtype=np.float32)[labels]

# %% tags=["picture"]
fig, axes = grid(1, 10, 9, 1.1)
for ax, pixels, label in zip(axes, images, labels, strict=False):
    image(ax, pixels / 255, str(label))
show(fig, "The first ten of 60,000 images, and what they are.")

# %% [markdown]
# ## By hand
#
# Nielsen's first network has 784 inputs, 100 hidden units and 10 outputs, each a sigmoid, σ(z) =
# 1 / (1 + exp(-z)), and the **quadratic loss**, half the squared distance to the one-hot target.
# The gradient that reaches the last z is
#
#     quadratic:        dz  =  (σ(z) - target) · σ(z) (1 - σ(z))
#     cross-entropy:    dz  =   σ(z) - target
#
# (For outputs that are sigmoids. With a softmax it is p - target, the same form.) The factor
# σ' = σ (1 - σ) is the slope of the sigmoid. It is at most 1/4, and next to nothing where the
# output is near 0 or 1. With the quadratic loss a unit that is *badly* wrong, near 1 where it
# should be near 0, hardly learns. The cross-entropy is minus the logarithm of the probability of
# the truth; its derivative has σ' in the denominator, and the two cancel (chapter 6).

# %%
steps = 300
z = {"quadratic": 4.0, "cross-entropy": 4.0}  # an output that starts at σ(4) = 0.98 and should be 0
paths = {name: [] for name in z}
for _ in range(steps):
    for name in z:
        s = 1 / (1 + np.exp(-z[name]))
        paths[name].append(s)
        z[name] -= 0.15 * (s * s * (1 - s) if name == "quadratic" else s)

# %% tags=["picture"]
fig = figure(7, 2.8)
ax = fig.add_subplot()
for (name, path), color in zip(paths.items(), (ORANGE, BLUE), strict=True):
    ax.plot(path, color=color, label=name)
ax.set(xlabel="steps", ylabel="output, should be 0", ylim=(0, 1))
ax.legend()
show(
    fig,
    "One unit that starts badly wrong. With the quadratic loss it learns slowest where it is "
    "most wrong.",
)

# %% [markdown]
# ## Checked: the published number
#
# As in the book (*Neural Networks and Deep Learning*, chapter 1): 50,000 images, weights and
# biases drawn with deviation 1, batches of 10 (the images of one step), learning rate 3, 30
# epochs (rounds through all images). It reports **96.59 %** of the 10,000 test images, and that
# results vary much from run to run, some of them quite a bit worse.


# %%
def accuracy(prediction, truth):
    return 100 * np.mean(prediction.argmax(axis=1) == truth.argmax(axis=1))


def quadratic(prediction, target):
    return np.sum((prediction - target) ** 2) / (2 * len(target))


def nielsen(seed):
    rng = np.random.default_rng(seed)
    model = tg.nn.Sequential(tg.nn.Dense(784, 100, "sigmoid"), tg.nn.Dense(100, 10, "sigmoid"))
    for p in model.parameters():
        p.value = rng.normal(size=p.shape).astype(np.float32)
    return model, rng


count, epochs = (2000, 2) if SHORT else (50_000, 30)
truth = np.eye(10, dtype=np.float32)[test_labels]
model, rng = nielsen(seed=1)
z = model.layers[0](x[:1000]) @ model.layers[1].weight + model.layers[1].bias
print(f"before training, z of the outputs is {np.sqrt(np.mean(z.data**2)):.1f} in root mean square")
history = tg.fit(
    model,
    (x[:count], targets[:count]),
    quadratic,
    tg.optim.SGD(model.parameters(), learning_rate=3.0),
    epochs,
    batch_size=10,
    rng=rng,
    validation=(x_test, truth),
    metrics={"accuracy": accuracy},
    progress=False,
)
reached = history["validation_accuracy"]
print(f"published 96.59 %; reached {reached[-1]:.2f} % after {epochs} epochs", end=" ")
print(f"(at best {max(reached):.2f} %)")
assert reached[-1] > (40 if SHORT else 96.0)

# %% [markdown]
# That is a lucky start: of the seeds 0 to 4 only this one gets there, the others end between 78
# and 88 %. With weights of deviation 1 every z is a sum of many terms and starts far from 0, as
# printed above; at z = 7 the slope of the sigmoid is 0.001. One or two outputs end up near 0
# whatever the image, as stuck as in the picture above, and 150,000 steps do not move them; each
# costs its digit, a tenth of the images.
#
# The remedies are those of the book's chapter 3: the cross-entropy, and weights that start with a
# deviation of 1/√n, n inputs to a unit (chapter 9 says why). With both, the network needs a third
# of the epochs to do better, and no luck:

# %%
rng = np.random.default_rng(0)
better = tg.nn.Sequential(tg.nn.Dense(784, 100, "sigmoid", rng=rng), tg.nn.Dense(100, 10, rng=rng))
history_better = tg.fit(
    better,
    (x[:count], targets[:count]),
    tg.cross_entropy,
    tg.optim.SGD(better.parameters(), learning_rate=0.5),
    max(epochs // 3, 1),
    batch_size=10,
    rng=rng,
    validation=(x_test, truth),
    metrics={"accuracy": accuracy},
    progress=False,
)
print(f"with cross-entropy: {history_better['validation_accuracy'][-1]:.2f} %")

# %% tags=["picture"]
fig = figure(7, 2.8)
ax = fig.add_subplot()
ax.plot(range(1, epochs + 1), reached, "o-", color=ORANGE, markersize=3, label="quadratic loss")
other = history_better["validation_accuracy"]
ax.plot(range(1, len(other) + 1), other, "o-", color=BLUE, markersize=3, label="cross-entropy")
ax.axhline(96.59, color=GREY, linestyle="--", label="published")
ax.set(xlabel="epoch", ylabel="% of test images right")
ax.legend()
show(fig, "Accuracy on images that were not trained on, after each epoch.")

# %% [markdown]
# ## Weights as strokes
#
# A unit's output grows with x @ w. Of all vectors x of one length, which one does it like best?
# The one in the direction of w itself (exercise 8.2). So the weights *are* the picture of what a
# unit looks for: ink on red raises it, ink on blue lowers it.

# %% tags=["picture"]
W = better.layers[0].weight.data
strongest = np.argsort(-np.abs(better.layers[1].weight.data).max(axis=1))[:20]
fig, axes = grid(2, 10, 9, 2.1)
for ax, unit in zip(axes.flat, strongest, strict=True):
    matrix(ax, W[:, unit].reshape(28, 28))
show(
    fig,
    "Weights of twenty hidden units. At the edges, where no image has ink, they stay as they "
    "were drawn.",
    cover=True,
)

# %% [markdown]
# For a unit further up there is no such formula, but there is backpropagation: it gives the
# gradient of the output *with respect to the image*. Start grey and climb.


# %%
def favourite(digit, steps=20 if SHORT else 200):
    """An image that the network takes for this digit, as surely as it can be."""
    slope = tg.grad(lambda x: better(x)[0, digit] - 0.02 * np.sum(x * x))
    x = np.full((1, 784), 0.1, np.float32)
    for _ in range(steps):
        x = np.clip(x + np.float32(0.05) * slope(x), 0, 1)
    return x


favourites = [favourite(digit) for digit in range(10)]

# %% tags=["picture"]
fig, axes = grid(1, 10, 9, 1.1)
for digit, (ax, pixels) in enumerate(zip(axes, favourites, strict=True)):
    image(ax, pixels.reshape(28, 28), str(digit))
show(
    fig,
    "What each output likes best. It is not a digit: nothing ever asked the network to know what "
    "is no digit.",
)

# %% [markdown]
# ## An image that fools it
#
# The same gradient, turned against the network. Move every pixel by a small ε to where the loss
# grows (the fast gradient sign method, Goodfellow et al. 2015). A change that the eye hardly sees
# adds up over 784 pixels.


# %%
def fooled(x, label, epsilon):
    dx = tg.grad(lambda x: tg.cross_entropy(better(x), label))(x)
    return np.clip(x + np.float32(epsilon) * np.sign(dx), 0, 1)


for epsilon in (0, 0.02, 0.05, 0.1):
    attacked = fooled(x_test[:1000], test_labels[:1000], epsilon)
    right = np.mean(better(attacked).data.argmax(axis=1) == test_labels[:1000])
    print(f"each pixel moved by {epsilon:4}: {100 * right:5.1f} % right")

# %% tags=["picture"]
fig, axes = grid(2, 8, 9, 2.8)
attacked = fooled(x_test[:8], test_labels[:8], 0.1)
for row, pictures in zip(axes, (x_test[:8], attacked), strict=True):
    for ax, picture, says in zip(row, pictures, better(pictures).data.argmax(axis=1), strict=True):
        image(ax, picture.reshape(28, 28), f"says {says}")
show(
    fig,
    "Above, test images; below, the same with each pixel moved by 0.1. You still read the same "
    "digits.",
)

# %% [markdown]
# ## In the library
#
# The two rules that this chapter is about, sigmoid and the squares:

# %%
rule(tg.sigmoid, np.square)

# %% [markdown]
# ## Exercises
#
# **8.1** The gradient of z in the quadratic loss, sum((σ(z) - target)²) / 2.


# %%
def dz_quadratic(z, target):
    return ...


tg.study.check("8.1", dz_quadratic)

# %% [markdown]
# **8.2** Of all images x of length 1, which one makes x @ w largest?


# %%
def likes(w):
    return ...


tg.study.check("8.2", likes)

# %% [markdown]
# **8.3** The image that fools: each pixel moves by epsilon to where the loss grows, and stays
# between 0 and 1. dx is the gradient of the loss.


# %%
def adversarial(x, dx, epsilon):
    return ...


tg.study.check("8.3", adversarial)

# %% [markdown]
# ## Solutions


# %% tags=["solution"]
def dz_quadratic(z, target):
    s = 1 / (1 + np.exp(-z))
    return (s - target) * s * (1 - s)


tg.study.check("8.1", dz_quadratic)

# %% tags=["solution"]
# x @ w = |x| |w| cos(angle) is largest at angle 0.
tg.study.check("8.2", lambda w: w / np.linalg.norm(w))

# %% tags=["solution"]
tg.study.check("8.3", lambda x, dx, epsilon: np.clip(x + epsilon * np.sign(dx), 0, 1))
