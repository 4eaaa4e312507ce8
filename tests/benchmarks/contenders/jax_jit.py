"""jax.jit: the whole step one compiled function, which takes the weights' memory over (`donate_argnums`).

JAX usually hands the work to a thread of its own and returns at once; steps then wait for each other there. Without that
(`jax_cpu_enable_async_dispatch`) small steps may be faster, so both are timed.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

CONTENDERS = {"jax.jit": {}, "jax.jit, synchronous": {"synchronous": True}}


def make(problem, optimizer, rate, synchronous=False):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    jax.config.update("jax_cpu_enable_async_dispatch", not synchronous)  # counts before the first computation
    weights = {name: jnp.array(array) for name, array in problem.weights().items()}
    state = (weights, *(jax.tree.map(jnp.zeros_like, weights) for _ in range(2)), jnp.zeros((), jnp.int32))
    update = {"SGD": sgd, "Adam": adam}[optimizer]

    @partial(jax.jit, donate_argnums=0)
    def whole(state, x, y):
        if problem.kind == "update":
            loss, gradients = 0.0, {"parameter": x}
        else:
            loss, gradients = jax.value_and_grad(loss_of)(state[0], x, y)
        return update(state, gradients, rate), loss

    def loss_of(w, x, y):
        logits = NETWORKS[problem.kind](w, x, problem.sizes)
        picked = jnp.take_along_axis(logits, y[..., None], axis=-1)[..., 0]
        return (jax.nn.logsumexp(logits, axis=-1) - picked).mean()

    def step(x, y):
        nonlocal state
        state, loss = whole(state, x, y)
        return state[0]["parameter"] if problem.kind == "update" else loss

    return step


def sgd(state, gradients, rate):
    w, *rest = state
    return (jax.tree.map(lambda w, g: w - rate * g, w, gradients), *rest)


def adam(state, gradients, rate):
    w, m, v, t = state
    t = t + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
    root = jnp.sqrt(1 - 0.999**t)
    size = rate * root / (1 - 0.9**t)
    w = jax.tree.map(lambda w, m, v: w - size * m / (jnp.sqrt(v) + 1e-8 * root), w, m, v)
    return w, m, v, t


# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


def dense(w, name, x):
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def mlp(w, x, sizes):
    for i in range(len(sizes) - 2):
        x = jax.nn.relu(dense(w, f"{i}", x))
    return dense(w, f"{len(sizes) - 2}", x)


def lenet(w, x, sizes):
    for name, padding in (("first", 2), ("second", 0)):
        x = convolution(w, name, x, padding)
        x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    x = x.reshape(x.shape[0], -1)
    for i in range(len(sizes) - 4):
        x = jax.nn.relu(dense(w, f"dense{i}", x))
    return dense(w, f"dense{len(sizes) - 4}", x)


def convolution(w, name, x, padding):
    y = jax.lax.conv_general_dilated(x, w[f"{name}.weight"], (1, 1), [(padding, padding)] * 2)
    return y + w[f"{name}.bias"][:, None, None]


def layer_norm(w, name, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    standard = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return standard * w[f"{name}.weight"] + w[f"{name}.bias"]


def transformer(w, x, sizes):
    layers, d, heads, length, _ = sizes
    n = len(x)
    seen = jnp.tril(jnp.ones((length, length), bool))
    x = w["codes.weight"][x] + w["positions"]
    for i in range(layers):
        y = dense(w, f"{i}.in", layer_norm(w, f"{i}.before_attention", x))
        q, k, v = y.reshape(n, length, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
        scores = jnp.where(seen, q @ k.swapaxes(-1, -2) * (d // heads) ** -0.5, -jnp.inf)
        y = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(n, length, d)
        x = x + dense(w, f"{i}.output", y)
        y = jax.nn.gelu(dense(w, f"{i}.up", layer_norm(w, f"{i}.before_mixing", x)), approximate=True)
        x = x + dense(w, f"{i}.down", y)
    return dense(w, "head", layer_norm(w, "last", x))


def gru(w, x, sizes):
    def cell(h, from_input):
        xr, xz, xn = jnp.split(from_input, 3, axis=-1)
        hr, hz, hn = jnp.split(dense(w, "hidden", h), 3, axis=-1)
        r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        candidate = jnp.tanh(xn + r * hn)
        return candidate + z * (h - candidate), None

    state, _ = jax.lax.scan(cell, jnp.zeros((len(x), sizes[2])), dense(w, "input", x).swapaxes(0, 1))
    return dense(w, "head", state)


NETWORKS = {"mlp": mlp, "lenet": lenet, "transformer": transformer, "gru": gru}
