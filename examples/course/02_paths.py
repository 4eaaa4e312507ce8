# %% [markdown]
# # 2. How do many paths add up?
#
# A nudge of one number reaches the result on every path that leads there. Along a path slopes are
# multiplied; over the paths they are added. That is the whole chain rule, and backpropagation is
# the way to add up all paths without walking each of them.

# A `Tensor` of this library is a NumPy array that remembers how it was made.

# %%
import itertools
import math
import time

import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, figure, out, rule, show

# %% tags=["picture"]
a = tg.Tensor(3.0, requires_grad=True)
b = tg.Tensor(2.0, requires_grad=True)
u = a * b
v = a + u
y = u * v
y.backward(retain_graph=True)
show(
    tg.draw(y, show=("values", "gradients", "backward")),
    "u = a · b, v = a + u, y = u · v. Dark arrows are the way forward, orange ones the way back. "
    "Where several arrive, Σ adds them up.",
)

# %% [markdown]
# ## By hand
#
# From a to y there are three paths. Each edge has a **local slope**: how fast the end of the edge
# changes with its beginning, everything else held still.
#
#     edge      slope                  value at a = 3, b = 2
#     a → u     ∂u/∂a = b              2
#     a → v     ∂v/∂a = 1              1
#     u → v     ∂v/∂u = 1              1
#     u → y     ∂y/∂u = v              9
#     v → y     ∂y/∂v = u              6
#
# Multiply along each path, add over the paths:
#
#     a → v → y           1 · 6      =   6
#     a → u → y           2 · 9      =  18
#     a → u → v → y       2 · 1 · 6  =  12
#                                       36
#
# Backpropagation does the same with less work. It goes through the operations from the last to
# the first and keeps, for every value, the sum of all paths *from there* to y; call it the
# **gradient** of that value. The gradient of y is 1. An operation hands its gradient g on to each
# of its arguments, multiplied by the slope of that edge, and what an argument is handed is added
# up:
#
#     y = u · v    g = 1      u gets 1 · v = 9       v gets 1 · u = 6
#     v = a + u    g = 6      a gets 6 · 1 = 6       u gets 6 · 1 = 6, and has 9 + 6 = 15
#     u = a · b    g = 15     a gets 15 · b = 30, and has 6 + 30 = 36      b gets 15 · a = 45
#
# The sum must be complete before it is handed on. That is why the order matters: u may be handled
# only after v, which still has something for it.

# %% [markdown]
# ## Checked
#
# The engine tells each step, with the numbers put in. Below them, finite differences; and at the
# end, what a wrong order would have made of it.

# %%
print(tg.explain(y))
assert float(a.grad) == 36
assert float(b.grad) == 45

# %% [markdown]
# The same as a page that you can step through, forward and backward, with a button for the wrong
# order: `tg.explore`.

# %%
page = tg.explore(y, path=out("02_paths-explore.html"))
print(page)
page

# %% [markdown]
# How much work is saved? Put n stages in a row, each with two ways through it:
#
#     x₁ = tanh(x₀) + x₀/2,   x₂ = tanh(x₁) + x₁/2,   …
#
# There are 2ⁿ paths from x₀ to xₙ, but only 2n edges. We add up every path, one by one, and
# compare with what the engine does in one pass over the edges.

# %%
stages = range(2, 17, 2)
slow, fast = [], []
for n in stages:
    x = x0 = tg.Tensor(np.float64(0.3), requires_grad=True)
    slopes = []
    for _ in range(n):
        slopes.append((1 - np.tanh(x.item()) ** 2, 0.5))  # of the two edges of this stage
        x = np.tanh(x) + x / 2
    start = time.perf_counter()
    total = sum(math.prod(path) for path in itertools.product(*slopes))
    slow.append(time.perf_counter() - start)
    start = time.perf_counter()
    x.backward()
    fast.append(time.perf_counter() - start)
    assert abs(total - x0.grad) < 1e-12 * abs(total)
print(f"{2**n:,} paths: {total:.12f}")
print(f"one pass over {2 * n} edges: {float(x0.grad):.12f}")

# %% tags=["picture"]
fig = figure(7, 3.2)
ax = fig.add_subplot()
ax.semilogy(stages, slow, "o-", color=ORANGE, label="every path by itself")
ax.semilogy(stages, fast, "o-", color=BLUE, label="backpropagation")
ax.set(xlabel="stages, with two ways through each", ylabel="seconds")
ax.grid(axis="y", color=GREY, alpha=0.4)
ax.legend()
show(fig, "Paths double with each stage; edges grow by two. Both ways of adding give the same sum.")

# %% [markdown]
# ## In the library
#
# The rules of `*` and `+` are the local slopes, times the g that arrives:

# %%
rule(np.multiply, np.add)

# %% [markdown]
# The pass itself is one loop in `tinygrad_mm/backprop.py`. At its heart are two lines: a rule is
# asked for the contribution `c` of an edge, and contributions are added up.
#
#     c = vjp(g, y, *args, **node.kwargs)
#     sums[a] = _added(sums[a], c) if a in sums else c
#
# Adding is also what happens to `.grad` *between* passes: a second `backward()` adds to what the
# first one left. Training loops therefore say `optimizer.zero_grad()` after each step.

# %%
w = tg.Tensor(1.0, requires_grad=True)
for _ in range(3):
    (w * 5).backward()
    print(w.grad)

# %% [markdown]
# ## Exercises
#
# **2.1** Work out dy/da for u = a · b, v = a + u, y = u · v at a = 3, b = 2 without looking
# above. Leave a path out on purpose, and see what `check` says.

# %%
tg.study.check("2.1", ...)

# %% [markdown]
# **2.2** Add up contributions: from a list of pairs (name, contribution) make a dictionary with
# the gradient of each name.


# %%
def accumulate(contributions):
    return ...


tg.study.check("2.2", accumulate)

# %% [markdown]
# **2.3** `w` is 2, `loss = w**2`. You call `backward()` on it twice (the second time on a graph
# computed anew), and `zero_grad()` never. What is `w.grad`?

# %%
tg.study.check("2.3", ...)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("2.1", 1 * 6 + 2 * 9 + 2 * 1 * 6)


# %% tags=["solution"]
def accumulate(contributions):
    gradients = {}
    for name, contribution in contributions:
        gradients[name] = gradients.get(name, 0) + contribution
    return gradients


tg.study.check("2.2", accumulate)

# %% tags=["solution"]
tg.study.check("2.3", 4 + 4)  # each pass adds 2 w = 4
