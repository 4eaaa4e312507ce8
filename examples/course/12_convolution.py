# %% [markdown]
# # 12. Why convolution?
#
# A dense layer has a weight for every pair of input and output. For an image that is wasteful
# twice: neighbours matter more than pixels far apart, and an edge is an edge wherever it lies. A
# convolution keeps the weights of one small window and uses them at every place. It is still a
# matrix product, with a matrix in which most entries are zero and the rest repeat.

# %%
from pathlib import Path

import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, SHORT, figure, grid, matrix, rule, show
from tinygrad_mm.functional.sliding import windows


# %% tags=["picture"]
def toeplitz(k, n):
    """The matrix T with T @ x = the convolution of n numbers x with k."""
    T = np.zeros((n - len(k) + 1, n))
    for i in range(len(T)):
        T[i, i : i + len(k)] = k
    return T


x, k = np.array([0, 1, 2, 1, 0, -1, -2, -1]), np.array([1, 2, -1])
fig, axes = grid(1, 3, 8, 3.2, width_ratios=[8, 1, 1])
matrix(axes[0], toeplitz(k, 8), "T: the window (1, 2, -1), one place further in each row", 3, ".0f")
matrix(axes[1], x[:, None], "x", 4, ".0f")
matrix(axes[2], (toeplitz(k, 8) @ x)[:, None], "y = T x", 6, ".0f")
show(fig, "A sliding window, written as a matrix. Every row has the same three numbers.")

# %% [markdown]
# ## By hand
#
# In one dimension, with a window (or **kernel**) k of m weights:
#
#     y[i]  =  Σⱼ k[j] · x[i + j]
#
# That is y = T x, with T[i, i + j] = k[j]: a matrix whose diagonals are constant, a **Toeplitz
# matrix**. (Mathematicians turn k round first; networks do not, and call it convolution all the
# same.) So the way back is that of chapter 4, and T is transposed:
#
#     dx  =  Tᵀ dy         dx[n]  =  Σⱼ k[j] · dy[n - j]
#
# The minus sign says that the window now runs the other way: **the gradient of a convolution is a
# convolution with the kernel turned round**, over dy with zeros at both ends. The kernel is used
# at every place i, so its gradient adds up over all of them:
#
#     dk[j]  =  Σᵢ dy[i] · x[i + j]
#
# That is a convolution, too: of x, with dy as the window.
#
# One more thing can be read from the picture. Move x down by one, and y moves down by one,
# because every row does the same one place further (what enters and leaves at the ends aside).
# That is **equivariance**: a moved image gives moved features. With a stride of s, a move by s
# gives a move by 1.

# %% [markdown]
# ## Checked
#
# In two dimensions the matrix is a Toeplitz matrix of Toeplitz matrices. We build it by hand for
# a 6 × 6 image and a 3 × 3 kernel, and compare with `conv2d` and with its gradients.

# %%
rng = np.random.default_rng(0)
image, kernel = rng.normal(size=(6, 6)), rng.normal(size=(3, 3))
T = np.zeros((4, 4, 6, 6))
for i in range(4):
    for j in range(4):
        T[i, j, i : i + 3, j : j + 3] = kernel  # the window at place (i, j)
T = T.reshape(16, 36)


def convolution(image, kernel):
    return tg.conv2d(image[None, None], kernel[None, None])[0, 0]


y, dy = convolution(image, kernel), rng.normal(size=(4, 4))
d_image, d_kernel = tg.vjp(convolution, image, kernel)[1](dy)
print("forward: ", f"{np.abs(T @ image.ravel() - y.ravel()).max():.0e} from T @ x")
print("backward:", f"{np.abs(T.T @ dy.ravel() - d_image.ravel()).max():.0e} from Tᵀ @ dy")
window = np.array([[np.sum(dy * image[i : i + 4, j : j + 4]) for j in range(3)] for i in range(3)])
print("kernel:  ", f"{np.abs(window - d_kernel).max():.0e} from x under the window dy")
assert np.allclose(T @ image.ravel(), y.ravel())
assert np.allclose(T.T @ dy.ravel(), d_image.ravel())
assert np.allclose(window, d_kernel)
moved = convolution(np.roll(image, 1, axis=1), kernel)
assert np.allclose(moved[:, 1:], y[:, :-1])
print("moved image, moved features: True")

# %% tags=["picture"]
fig = figure(6.5, 3.3)
matrix(fig.add_subplot(), T)
show(fig, "The 16 × 36 matrix: 9 different weights, 144 entries that are not zero, 576 in all.")

# %% [markdown]
# ## Does it matter?
#
# Two networks with about the same number of weights read digits that lie in the middle of the
# image. Then they are tested on digits that have been moved.

# %%
folder = Path(__file__).parents[1] if "__file__" in globals() else Path("..")
(images, labels), (test_images, test_labels) = tg.data.read_idx_folder(folder / "data" / "mnist")
count = 1500 if SHORT else 20_000
x = (images[:count, None] / np.float32(255)).astype(np.float32)
x_test = (test_images[: 500 if SHORT else 5000, None] / np.float32(255)).astype(np.float32)
y, y_test = labels[:count], test_labels[: len(x_test)]


def convolutional(rng):
    return tg.nn.Sequential(
        tg.nn.Conv2d(1, 8, 5, rng=rng), tg.nn.ReLU(), tg.nn.MaxPool2d(2),
        tg.nn.Conv2d(8, 16, 5, rng=rng), tg.nn.ReLU(), tg.nn.MaxPool2d(4),
        tg.nn.Flatten(), tg.nn.Dense(64, 10, rng=rng),
    )  # fmt: skip


def dense(rng):
    return tg.nn.Sequential(
        tg.nn.Flatten(), tg.nn.Dense(784, 5, "relu", rng=rng), tg.nn.Dense(5, 10, rng=rng)
    )


def trained(make, epochs):
    rng = np.random.default_rng(0)
    model = make(rng)
    step = tg.compile_step(model, tg.cross_entropy, tg.optim.Adam(model.parameters(), 3e-3))
    for _ in range(epochs):
        for batch in tg.data.DataLoader((x, y), 50, shuffle=True, rng=rng):
            step(*batch)
    return model


def accuracy(model, moved_by):
    with tg.no_grad():
        return 100 * np.mean(model(np.roll(x_test, moved_by, axis=3)).data.argmax(axis=1) == y_test)


models = {"convolution": trained(convolutional, 3), "dense": trained(dense, 3)}
moves = range(6)
curves = {name: [accuracy(model, m) for m in moves] for name, model in models.items()}
for name, curve in curves.items():
    weights = sum(p.size for p in models[name].parameters())
    print(f"{name:12} {weights:5,} weights:", "  ".join(f"{a:4.1f}" for a in curve))
assert curves["convolution"][0] > curves["dense"][0]

# %% tags=["picture"]
fig = figure(7, 2.8)
ax = fig.add_subplot()
for (name, curve), color in zip(curves.items(), (BLUE, ORANGE), strict=True):
    ax.plot(moves, curve, "o-", color=color, label=name)
ax.axhline(10, color=GREY, linestyle="--", label="guessing")
ax.set(xlabel="digits moved to the right, in pixels", ylabel="% right", ylim=(0, 100))
ax.legend()
show(
    fig,
    "Moved digits: what a convolution has learned at one place, it knows at all of them. Pooling "
    "forgets small moves.",
)

# %% [markdown]
# ## In the library
#
# `conv2d` copies the windows of each image into the columns of a matrix and makes *one* matrix
# product with the kernels. Its rule is therefore that of matmul, and the rule of `windows`, which
# adds overlapping windows up again:

# %%
rule(windows)

# %% [markdown]
# ## Exercises
#
# **12.1** The matrix T of a convolution in one dimension.


# %%
def my_toeplitz(k, n):
    return ...


tg.study.check("12.1", my_toeplitz)

# %% [markdown]
# **12.2** The gradient of x. (`np.convolve(a, b)` turns b round and adds zeros at both ends.)


# %%
def dx_convolution(x, k, dy):
    return ...


tg.study.check("12.2", dx_convolution)

# %% [markdown]
# **12.3** The gradient of k. (`np.correlate(a, b, "valid")` slides b over a and does not turn
# it.)


# %%
def dk_convolution(x, k, dy):
    return ...


tg.study.check("12.3", dk_convolution)

# %% [markdown]
# **12.4** Two convolutions of stride 2 follow each other. The image moves by 8 pixels. By how
# many places does the output move?

# %%
tg.study.check("12.4", ...)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("12.1", toeplitz)  # as above, for the first picture

# %% tags=["solution"]
tg.study.check("12.2", lambda x, k, dy: np.convolve(dy, k))

# %% tags=["solution"]
tg.study.check("12.3", lambda x, k, dy: np.correlate(x, dy, "valid"))

# %% tags=["solution"]
tg.study.check("12.4", 8 / 2 / 2)
