# %% [markdown]
# # 1. What does a nudge do?
#
# A network learns by asking one question of each of its numbers: *if I change you a little, does
# the result get better or worse, and how fast?* The result that is to become small is called the
# **loss**. The answer is a derivative. This chapter asks the question in the plainest way, by
# changing the number and looking, and finds out how far that can be trusted.

# %%
import numpy as np

import tinygrad_mm as tg
from style import BLUE, GREY, ORANGE, figure, rule, show

# %% [markdown]
# Here is a curve, and a point on it. A nudge moves the point along the curve from x to x + h.
# Seen from close up, the curve is a straight line, the tangent. The **derivative** is the slope
# of that line: how many times the nudge the result changes.

# %% tags=["picture"]
x, h = 1.0, 0.8
xs = np.linspace(-0.5, 3, 200)
fig = figure(7, 3.4)
ax = fig.add_subplot()
ax.plot(xs, np.sin(xs), color=BLUE, label="f(x) = sin x")
ax.plot(xs, np.sin(x) + np.cos(x) * (xs - x), color=GREY, label="tangent at x = 1")
ax.plot([x, x + h], [np.sin(x), np.sin(x + h)], "o-", color=ORANGE, label="from x to x + h")
ax.plot(
    [x - h, x + h],
    [np.sin(x - h), np.sin(x + h)],
    "o--",
    color=ORANGE,
    alpha=0.6,
    label="from x - h to x + h",
)
ax.set(ylim=(-0.7, 1.6), xlabel="x")
ax.legend(loc="upper left", fontsize=9)
show(
    fig,
    "A curve and its tangent. The line through x - h and x + h has nearly the tangent's slope; "
    "that from x to x + h less so.",
)

# %% [markdown]
# ## By hand
#
# Close to x, every smooth function is its own Taylor series:
#
#     f(x + h) = f(x) + h f'(x) + h²/2 f''(x) + h³/6 f'''(x) + …
#     f(x - h) = f(x) - h f'(x) + h²/2 f''(x) - h³/6 f'''(x) + …
#
# The **one-sided difference** takes f(x) to the other side of the first line and divides by h:
#
#     (f(x + h) - f(x)) / h  =  f'(x) + h/2 f''(x) + …
#
# It is wrong by something proportional to h. The **two-sided difference** subtracts the second
# line from the first. What has even powers of h cancels:
#
#     (f(x + h) - f(x - h)) / (2h)  =  f'(x) + h²/6 f'''(x) + …
#
# It is wrong by something proportional to h²: with an h ten times smaller, a hundred times less.
#
# So take h as small as can be? No. A computer keeps about 16 digits of f(x): each value is wrong
# by up to ε |f(x)|, with ε = 2⁻⁵² ≈ 2·10⁻¹⁶. The difference of two such values is divided by h,
# and so is the error. Rounding costs about ε/h, and that *grows* as h falls.

# %% [markdown]
# ## Checked
#
# The derivative of sin is cos. We measure both errors for many h, and fit the slopes of the two
# straight pieces on a doubly logarithmic scale: an error proportional to hᵖ is a line of slope p
# there.

# %%
steps = 10.0 ** np.arange(-13, 0.1, 0.25)
one_sided = np.array([abs((np.sin(x + h) - np.sin(x)) / h - np.cos(x)) for h in steps])
two_sided = np.array([abs((np.sin(x + h) - np.sin(x - h)) / (2 * h) - np.cos(x)) for h in steps])


def slope(error, low, high):
    """The slope of a straight line through log(error) for steps between low and high."""
    inside = (steps >= low) & (steps <= high)
    return np.polyfit(np.log(steps[inside]), np.log(error[inside]), 1)[0]


falling = slope(two_sided, 1e-3, 1e-1), slope(one_sided, 1e-6, 1e-1)
rising = slope(two_sided, 1e-13, 1e-7)
print(f"two-sided: the error goes as h to the power {falling[0]:.2f}")
print(f"one-sided: the error goes as h to the power {falling[1]:.2f}")
print(f"rounding:  the error goes as h to the power {rising:.2f}")
assert abs(falling[0] - 2) < 0.05
assert abs(falling[1] - 1) < 0.05
assert abs(rising + 1) < 0.3

# %% tags=["picture"]
fig = figure(7, 3.8)
ax = fig.add_subplot()
ax.loglog(steps, one_sided, "o-", color=BLUE, markersize=3, label="one-sided")
ax.loglog(steps, two_sided, "o-", color=ORANGE, markersize=3, label="two-sided")
ax.loglog(steps, 2.0**-52 / steps, "--", color=GREY, label="ε/h: rounding")
ax.set(xlabel="h", ylabel="error of the derivative", ylim=(1e-14, 3))
ax.legend(fontsize=9)
show(
    fig,
    "Two errors that pull in opposite directions: truncation, which falls with h, and rounding, "
    "which rises as h falls.",
)

# %% [markdown]
# Read the picture from right to left. First truncation falls, along h for one-sided and along h²
# for two-sided. Then rounding takes over, and it is rough, as rounding is. The two-sided
# difference is best near h = 10⁻⁵, where it has 11 digits right or more. That is plenty to find a
# mistake in a formula, and it is what this library checks its rules with.
#
# But it is no way to train. A network of 100,000 weights would have to be run 100,001 times for
# one step. The rest of this course is about getting all 100,000 derivatives for the price of
# about three runs.

# %% [markdown]
# ## In the library
#
# `tg.grad(f)` is the derivative of f as a function: exact up to rounding, without an h.

# %%
print("engine:     ", tg.grad(np.sin)(np.float64(1.0)))
print("cos(1):     ", np.cos(1.0))
print("two-sided:  ", (np.sin(1 + 1e-5) - np.sin(1 - 1e-5)) / 2e-5)

# %% [markdown]
# It knows the derivative of sin because that is written down, once, in one line. `g` is the
# derivative of everything that comes after, ∂L/∂y; chapter 2 says why it is multiplied. (`rule`
# shows what `tg.rule` returns. In a terminal: `python -m tinygrad_mm.rules sin`.)

# %%
rule(np.sin)

# %% [markdown]
# ## Exercises
#
# Put your answer in the place of `...` and run the cell. `check` says whether it is right, and if
# not, which mistake it is. Solutions are at the end.
#
# **1.1** Write the two-sided difference.


# %%
def two_sided_difference(f, x, h):
    return ...


tg.study.check("1.1", two_sided_difference)

# %% [markdown]
# **1.2** The error of the two-sided difference is about E(h) = ε/h + |f'''| h²/6. Which h makes
# it least? (Set the derivative of E to zero.)


# %%
def best_h(epsilon, third):
    return ...


tg.study.check("1.2", best_h)

# %% [markdown]
# **1.3** You halve h, far from where rounding matters. By what number is the error of the two-
# sided difference divided?

# %%
tg.study.check("1.3", ...)

# %% [markdown]
# ## Solutions

# %% tags=["solution"]
tg.study.check("1.1", lambda f, x, h: (f(x + h) - f(x - h)) / (2 * h))

# %% tags=["solution"]
# E'(h) = -ε/h² + |f'''| h/3 is zero where h³ = 3 ε / |f'''|.
# With f''' about 1 that is the cube root of 3 ε, about 1e-5, as the picture says.
tg.study.check("1.2", lambda epsilon, third: (3 * epsilon / third) ** (1 / 3))

# %% tags=["solution"]
tg.study.check("1.3", 4)  # the error is proportional to h²
