# %% [markdown]
# # 7. Build it yourself
#
# You know all of it now: record every operation, go back in reverse order, multiply by local
# slopes, add up. Here is an engine for arrays that does so, in sixty lines. It trains a network,
# draws its graph, and differentiates its own gradients. Then we find the same lines in the
# library.

# %%
import inspect
import itertools

import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, SHORT, figure, show
from tinygrad_mm import backprop

# %% tags=["picture"]
x = tg.Tensor(np.ones((4, 3)))
W = tg.Tensor(np.ones((3, 2)), requires_grad=True)
b = tg.Tensor(np.ones(2), requires_grad=True)
y = np.sum(np.tanh(x @ W + b) * 3)
show(tg.draw(y), "What an engine has to remember: which call made what, and from what.")

# %% [markdown]
# ## The sixty lines
#
# A `Value` holds an array, the values it was made from, and a rule: from the gradient g of the
# result, the gradients of these. The rules are written in Values themselves. That costs nothing,
# and it makes the way back a computation like any other, which can be differentiated again.


# %%
class Value:
    def __init__(self, value, made_from=(), rule=None, op="leaf"):
        self.value = np.asarray(value, np.float64)
        self.made_from, self.rule, self.op, self.grad = made_from, rule, op, None

    def __add__(self, other):
        a, b = self, wrap(other)
        return Value(a.value + b.value, (a, b), lambda g: (fit(g, a), fit(g, b)), "+")

    def __mul__(self, other):
        a, b = self, wrap(other)
        return Value(a.value * b.value, (a, b), lambda g: (fit(g * b, a), fit(g * a, b)), "*")

    def __matmul__(self, b):
        a = self
        return Value(a.value @ b.value, (a, b), lambda g: (g @ b.T, a.T @ g), "@")

    def tanh(self):
        y = Value(np.tanh(self.value), (self,), None, "tanh")
        y.rule = lambda g: (g * (y * y * -1 + 1),)
        return y

    def sum(self, axis=None, keepdims=False):
        def rule(g):
            return (g.reshape(kept) * np.ones(self.value.shape),)

        kept = np.sum(self.value, axis, keepdims=True).shape
        return Value(np.sum(self.value, axis, keepdims=keepdims), (self,), rule, "sum")

    def reshape(self, shape):
        before = self.value.shape
        return Value(self.value.reshape(shape), (self,), lambda g: (g.reshape(before),), "reshape")

    @property
    def T(self):
        return Value(self.value.T, (self,), lambda g: (g.T,), "T")

    __radd__, __rmul__ = __add__, __mul__


def wrap(x):
    return x if isinstance(x, Value) else Value(x)


def fit(g, a):
    """Sum a gradient over the axes that broadcasting added or stretched."""
    extra = tuple(range(g.value.ndim - a.value.ndim))
    ones = tuple(i + len(extra) for i, n in enumerate(a.value.shape) if n == 1)
    return g.sum(extra + ones).reshape(a.value.shape) if g.value.shape != a.value.shape else g


def topological(last):
    """All values behind `last`, each after those that it is made from."""
    order, seen = [], set()

    def visit(value):
        if id(value) not in seen:
            seen.add(id(value))
            for other in value.made_from:
                visit(other)
            order.append(value)

    visit(last)
    return order


def backward(last):
    """Set .grad of every value behind `last`."""
    order = topological(last)
    for value in order:
        value.grad = None
    last.grad = Value(np.ones(last.value.shape))
    for value in reversed(order):
        if value.rule is not None:
            for other, g in zip(value.made_from, value.rule(value.grad), strict=True):
                other.grad = g if other.grad is None else other.grad + g


# %% [markdown]
# ## Checked
#
# The same computation here and in the library, gradients side by side; then a graph.

# %%
rng = np.random.default_rng(0)
x, W, b = rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2)
mine = [Value(v) for v in (x, W, b)]
loss = ((mine[0] @ mine[1] + mine[2]).tanh() * 3).sum()
backward(loss)
theirs = tg.grad(lambda x, W, b: np.sum(np.tanh(x @ W + b) * 3), (0, 1, 2))(x, W, b)
for name, value, g in zip("xWb", mine, theirs, strict=True):
    print(f"d{name}: {np.abs(value.grad.value - g).max():.0e} apart")
    assert np.allclose(value.grad.value, g, rtol=1e-12)


# %% tags=["picture"]
def draw(ax, last):
    """The graph of a value: each operation to the right of what it is made from."""
    order, place, rows = topological(last), {}, {}
    for value in order:
        column = 1 + max((place[id(p)][0] for p in value.made_from), default=-1)
        rows[column] = rows.get(column, 0) + 1
        place[id(value)] = column, -rows[column]
    arrow = {"arrowstyle": "->", "shrinkA": 18, "shrinkB": 18, "color": GREY}
    for value in order:
        for p in value.made_from:
            ax.annotate("", place[id(value)], place[id(p)], arrowprops=arrow)
        edge = BLUE if value.made_from else ORANGE
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": edge}
        text = f"{value.op}\n{value.value.shape}"
        ax.text(*place[id(value)], text, ha="center", va="center", fontsize=8, bbox=box)
    ax.set(xlim=(-0.6, max(rows) + 0.6), ylim=(-max(rows.values()) - 0.6, -0.4))
    ax.set_axis_off()


fig = figure(9, 2.6)
draw(fig.add_subplot(), loss)
show(fig, "Your own graph: what the sixty lines have recorded. Orange boxes are leaves.")

# %% [markdown]
# **A second order for free.** The gradient is a Value with a graph behind it. Go back again:

# %%
v = Value(0.5)
y = v.tanh()
backward(y)
first = v.grad
backward(first)
by_hand = -2 * np.tanh(0.5) * (1 - np.tanh(0.5) ** 2)
print(f"tanh''(0.5) = {float(v.grad.value):.12f}; by hand: {by_hand:.12f}")
assert np.isclose(v.grad.value, by_hand, rtol=1e-12)

# %% [markdown]
# ## It trains
#
# Two half moons, which no straight line separates. A network of 2-16-16-1 units, in Values only.


# %%
def moons(n, rng):
    """n points of two interleaved half circles, and which half each is from."""
    angle = rng.uniform(0, np.pi, n)
    upper = rng.integers(0, 2, n).astype(bool)
    points = np.where(
        upper[:, None],
        np.stack([np.cos(angle), np.sin(angle)], 1),
        np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1),
    )
    return points + rng.normal(scale=0.1, size=(n, 2)), upper


points, upper = moons(200, rng)
target = np.where(upper, 1.0, -1.0)[:, None]
sizes = [2, 16, 16, 1]
weights = [Value(rng.normal(size=(a, b)) / np.sqrt(a)) for a, b in itertools.pairwise(sizes)]
biases = [Value(np.zeros(b)) for b in sizes[1:]]


def network(x):
    for W, b in zip(weights, biases, strict=True):
        x = (x @ W + b).tanh()
    return x


for step in range(60 if SHORT else 400):
    error = network(Value(points)) + target * -1
    loss = (error * error).sum() * (1 / len(points))
    backward(loss)
    for p in weights + biases:
        p.value = p.value - 0.3 * p.grad.value
    if step % 100 == 0:
        print(f"step {step:3}: loss {float(loss.value):.4f}")
fresh, truth = moons(1000, np.random.default_rng(1))
accuracy = 100 * np.mean((network(Value(fresh)).value[:, 0] > 0) == truth)
print(f"{accuracy:.1f} % of 1,000 new points are on the right side")
assert accuracy > (80 if SHORT else 98)

# %% tags=["picture"]
xs, ys = np.meshgrid(np.linspace(-1.6, 2.6, 120), np.linspace(-1.1, 1.6, 90))
surface = network(Value(np.stack([xs.ravel(), ys.ravel()], 1))).value.reshape(xs.shape)
fig = figure(6, 4)
ax = fig.add_subplot()
ax.contourf(xs, ys, surface, levels=np.linspace(-1.05, 1.05, 15), cmap="RdBu", alpha=0.5)
ax.contour(xs, ys, surface, levels=[0], colors=[GREY])
ax.scatter(*points[upper].T, color=BLUE, s=12)
ax.scatter(*points[~upper].T, color=ORANGE, s=12)
ax.set(xticks=[], yticks=[])
show(fig, "The boundary that the sixty lines have learned.", cover=True)

# %% [markdown]
# ## The same lines in the library
#
# The record of a call is a `Node`: function, arguments, options. The rules stand in a table. The
# loop is `backpropagate`; this is its middle, which you have just written:

# %%
source = inspect.getsource(backprop.backpropagate).splitlines()
first = next(i for i, line in enumerate(source) if "while order" in line)
last = next(i for i, line in enumerate(source) if "if release" in line)
print("\n".join(source[first:last]))

# %% [markdown]
# What it has besides: it visits only what leads to a leaf that wants a gradient, it frees the
# graph on the way, hooks may look at gradients, and it notices an array that was changed after it
# had been read. `unbroadcast` is your `fit`, and a pass with `create_graph=True` hands Tensors to
# the rules instead of arrays, which is your second order. Everything else in this library
# (pictures, compiled steps, layers) reads that one record.
#
# ## Exercises
#
# **7.1** A topological order. `made_from` maps each name to the names that it is made from.


# %%
def order(made_from, last):
    return ...


tg.study.check("7.1", order)

# %% [markdown]
# **7.2** Your own `fit`, for arrays: sum g over the axes that broadcasting added or stretched.


# %%
def unbroadcast(g, shape):
    return ...


tg.study.check("7.2", unbroadcast)

# %% [markdown]
# **7.3** The second derivative of tanh, as a function of x. By hand, or with the engine above.


# %%
def second(x):
    return ...


tg.study.check("7.3", second)

# %% [markdown]
# ## Solutions


# %% tags=["solution"]
def order(made_from, last):
    found = []

    def visit(name):
        if name not in found:
            for other in made_from[name]:
                visit(other)
            found.append(name)

    visit(last)
    return found


tg.study.check("7.1", order)


# %% tags=["solution"]
def unbroadcast(g, shape):
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


tg.study.check("7.2", unbroadcast)


# %% tags=["solution"]
def second(x):
    v = Value(x)
    backward(v.tanh())
    backward(v.grad)
    return v.grad.value


tg.study.check("7.3", second)
