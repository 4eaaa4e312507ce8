"""The best NumPy that we can write by hand: no new arrays, few calls, each prepared beforehand.

- A step is a list of calls with all their arguments bound: nothing is looked up, allocated or decided while it runs.
- The formulas are written for feature-major arrays, (features, examples). There a constant last row of the activations
  lets the product with the weights add the biases, and sums over classes run along axis 0. Arrays may still lie
  batch-major in memory ("b" in LAYOUTS): of the three products of a layer one is slow wherever both factors have the
  summed axis innermost, and a change of layout from layer to layer avoids that; so does a copy of a small factor.
- Activations are kept negative: h' = min(u, 0) where u = -(W h + b). So the sign bits, `bits >> 31`, are the mask of
  the ReLU, forward and backward. In the first layer the weights are kept negative instead, since the images are what
  they are. Both optimizers are odd functions of the gradient: negative weights with negative gradients take the same
  steps.
- The factor 1 / examples, and the learning rate of SGD, are put into the softmax's normaliser.
- Parameters and gradients lie in two flat buffers. Adam keeps its moments without the factors 1 - beta, which leaves
  ten passes over a block that stays in the cache.
- Large arrays begin with a cache line; malloc begins anywhere in one, and passes over them take longer.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from math import log, prod, sqrt

import numpy as np

CONTENDERS = {"NumPy, best": {}}

THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
BLOCK = 128 * 1024  # floats
TWO_THREADS_PAY = 1_000_000  # floats
ONE_HOT_PAYS = 2048  # classes * examples

# What each layer's inputs look like in memory, "f"eature-major or "b"atch-major, as measured; the logits are "f". The
# images come as "b"; an "f" there copies them, above a row of ones.
LAYOUTS = {"tiny": "fff", "small": "bf", "mnist": "bb", "mnist2": "bff", "wide": "bff", "deep": "b" + 19 * "f"}


def make(problem, optimizer, rate, layout=None):
    """step(x, y) -> loss, which leaves updated weights behind; or a str that says why there is none."""
    if problem.kind == "update":
        return update_alone(problem, optimizer, rate)
    if problem.kind != "mlp":
        return "multilayer perceptrons only"
    return Perceptron(problem, optimizer, rate, layout or LAYOUTS[problem.name]).step


class Perceptron:
    """A multilayer perceptron with ReLUs and cross-entropy, and one training step of it."""

    def __init__(self, problem, optimizer, rate, layout):
        sizes, n, weights = problem.sizes, problem.batch, problem.weights()
        size = sum((a + 1) * b for a, b in pairwise(sizes))
        flat = aligned(2, -(-size // 16) * 16)[:, :size]  # parameters, gradients
        layers, start = [], 0
        for i, (a, b) in enumerate(pairwise(sizes)):
            stop = start + (a + 1) * b
            layers.append(Layer(a, b, n, layout[i : i + 2], flat[:, start:stop]))
            layers[i].set(weights[f"{i}.weight"].T, weights[f"{i}.bias"], first=i == 0)
            start = stop
        for layer, following in pairwise(layers):
            layer.u, layer.d = following.inputs, aligned_like(following.inputs)
        layers[-1].u = layers[-1].d = np.empty((sizes[-1], n), np.float32)

        self.forward = [call for layer in layers for call in layer.forward(active=layer is not layers[-1])]
        self.backward = []
        for i in reversed(range(len(layers))):
            self.backward += layers[i].backward(layers[i - 1] if i else None)
        # The images are a new array each time.
        first, self.copy = layers[0], None
        if layout[0] == "f":
            self.copy = partial(np.copyto, first.inputs)
        else:
            self.first, self.last = first.forward_product, first.backward_product
        self.softmax = Softmax(layers[-1].u, n / rate if optimizer == "SGD" else n)
        self.update = Update(*flat, optimizer, rate, scaled=True)

    def step(self, x, y):
        if self.copy:
            self.copy(x.T)
        else:
            self.first(x)
        for call in self.forward:
            call()
        loss = self.softmax(y)
        for call in self.backward:
            call()
        if not self.copy:
            self.last(x)
        self.update()
        return loss


class Layer:
    """The arrays of a layer, u = -(weight h + bias), and the calls that it takes."""

    def __init__(self, a, b, n, layout, flat):
        """`layout` tells how its inputs lie in memory, and how those of the next layer do; `flat` is its memory."""
        self.folded, self.outer = layout[0] == "f", layout[0] == "b"
        self.n, self.a, width = n, a, a + self.folded
        turned = layout == "fb"  # then (out, in) is the order in memory that avoids the slow products
        self.w, self.dw = ((p.reshape(b, width) if turned else p.reshape(width, b).T) for p in flat[:, : width * b])
        self.b, self.db = flat[:, width * b :]
        # The inputs, with their constant row if there is one, and without.
        self.h = aligned(a + 1, n) if self.folded else aligned(n, a).T
        self.h[a:] = -1
        self.inputs = self.h[:a]

    def set(self, weight, bias, first):
        """The weights, negative in the first layer, whose inputs are not; a bias that is added is always negative."""
        sign, self.first = (-1 if first else 1), first
        self.w[:, : self.a] = sign * weight
        if self.folded:
            self.w[:, self.a], self.h[self.a] = sign * bias, -sign
        else:
            self.b[...] = -bias

    def forward(self, active):
        given = self.first and not self.folded  # then the product is made with the images as they come
        calls = [] if given else [product(self.w, self.h, self.u)]
        if not self.folded:
            u, b = (self.u, self.b[:, None]) if self.u.flags.c_contiguous else (self.u.T, self.b)
            calls.append(partial(np.add, u, b, u))
        if active:  # h' = u where u < 0, else 0: all bits are kept or none
            self.mask = bits(aligned(self.u.size))
            calls.append(partial(np.right_shift, bits(self.u), np.array(31, np.int32), self.mask))
            calls.append(partial(np.bitwise_and, bits(self.u), self.mask, bits(self.u)))
        return calls

    def backward(self, before):
        given = self.first and not self.folded
        d, calls = self.d, []
        if self.folded and self.dw.size >= 1280 and d.size <= 8192 and self.dw.size * self.n <= 1_000_000:
            d = np.empty(
                (self.n, len(d)), np.float32
            ).T  # a copy, so that only one factor has the summed axis innermost
            calls.append(partial(np.copyto, d, self.d))
        calls += [] if given else [product(d, self.h.T, self.dw)]
        if not self.folded:
            calls.append(partial(self.d.dot, np.ones(self.n, np.float32), self.db))
        if before:
            calls.append(product(self.w[:, : self.a].T, self.d, before.d))
            calls.append(partial(np.bitwise_and, bits(before.d), before.mask, bits(before.d)))
        return calls

    def forward_product(self, x):
        if self.u.flags.c_contiguous:
            self.w.dot(x.T, self.u)
        else:
            x.dot(self.w.T, self.u.T)

    def backward_product(self, x):
        x.T.dot(self.d.T, self.dw.T)


class Softmax:
    """Cross-entropy from u = -logits, and its gradient with respect to u, divided by `scale`, which takes u's place.

    With z = min(u) - u and t = scale * sum(exp(z)) for each example, the loss is mean(log(t / scale) - z[label]), and
    the gradient one_hot(label) / scale - exp(z) / t.
    """

    def __init__(self, u, scale):
        classes, n = u.shape
        least, total, self.logs = np.empty((3, n), np.float32)
        e, flat = np.empty_like(u), u.reshape(-1)
        self.before = [
            partial(np.minimum.reduce, u, 0, None, least),
            partial(np.subtract, least, u, u),  # z
            partial(np.exp, u, e),
            partial(np.full(classes, scale, np.float32).dot, e, total),
            partial(np.log, total, self.logs),
        ]
        self.divide = partial(np.divide, e, total, e)
        self.sum = np.ones(n, np.float32).dot
        self.n, self.offset = n, log(scale)
        self.one_hot = classes * n <= ONE_HOT_PAYS
        if self.one_hot:
            hot = np.empty_like(u)
            self.take = partial(
                (np.eye(classes, dtype=np.float32) / np.float32(scale)).take, axis=1, out=hot, mode="clip"
            )
            self.picked, self.factor = partial(flat.dot, hot.reshape(-1)), scale / n
            self.after = partial(np.subtract, hot, e, u)
        else:
            self.width, self.columns, self.places = np.array(n), np.arange(n), np.empty(n, np.int64)
            self.values, self.part, self.flat = np.empty(n, np.float32), np.full(n, 1 / scale, np.float32), flat
            self.after = partial(np.negative, e, u)

    def __call__(self, y):
        for call in self.before:
            call()
        if self.one_hot:
            self.take(y)
            picked = self.picked() * self.factor
            self.divide()
            self.after()
        else:
            flat, places, values = self.flat, self.places, self.values
            np.multiply(y, self.width, places)
            np.add(places, self.columns, places)
            flat.take(places, None, values, "clip")
            picked = self.sum(values) / self.n
            self.divide()
            self.after()
            flat.take(places, None, values, "clip")
            np.add(values, self.part, values)
            flat[places] = values
        return self.sum(self.logs) / self.n - self.offset - picked


class Update:
    """SGD or Adam on a flat buffer, block by block; two threads share a large one."""

    def __init__(self, parameters, gradients, optimizer, rate, scaled):
        """`scaled`: the gradients come multiplied by SGD's learning rate."""
        self.rate, self.t, self.moments = rate, 0, None
        self.step_size, self.epsilon = np.empty((), np.float32), np.empty((), np.float32)
        if optimizer == "Adam":
            self.moments = aligned(2, -(-parameters.size // 16) * 16)[:, : parameters.size]
            self.moments[...] = 0
        two = THREADS > 1 and parameters.size >= TWO_THREADS_PAY
        self.parts = [[], []] if two else [[]]
        scratch = [aligned(BLOCK) for _ in self.parts]
        for i, start in enumerate(range(0, parameters.size, BLOCK)):
            block, which = slice(start, start + BLOCK), i % len(self.parts)
            p, g, t = parameters[block], gradients[block], scratch[which]
            if optimizer == "Adam":
                self.parts[which] += self.adam(p, g, *self.moments[:, block], t[: p.size])
            elif scaled:
                self.parts[which].append(partial(np.subtract, p, g, p))
            else:
                self.parts[which].append(partial(np.multiply, g, np.array(rate, np.float32), t[: p.size]))
                self.parts[which].append(partial(np.subtract, p, t[: p.size], p))
        self.helper = ThreadPoolExecutor(1) if two else None

    def adam(self, p, g, m, v, t):
        """m and v lack the factors 1 - beta: these, the bias corrections and the rate are in `step_size`."""
        beta1, beta2 = np.array(0.9, np.float32), np.array(0.999, np.float32)
        return [
            partial(np.multiply, m, beta1, m),
            partial(np.add, m, g, m),
            partial(np.multiply, v, beta2, v),
            partial(np.multiply, g, g, t),
            partial(np.add, v, t, v),
            partial(np.sqrt, v, t),
            partial(np.add, t, self.epsilon, t),
            partial(np.divide, m, t, t),
            partial(np.multiply, t, self.step_size, t),
            partial(np.subtract, p, t, p),
        ]

    def __call__(self):
        if self.moments is not None:
            self.t += 1
            root = sqrt((1 - 0.999) / (1 - 0.999**self.t))
            self.step_size[()] = self.rate * (1 - 0.9) / (1 - 0.9**self.t) / root
            self.epsilon[()] = 1e-8 / root
        if self.helper:
            other = self.helper.submit(run, self.parts[1])
            run(self.parts[0])
            other.result()
        else:
            for call in self.parts[0]:
                call()


def run(calls):
    for call in calls:
        call()


def product(a, b, out):
    """The call a @ b into `out`, or its transpose where that is how `out` lies in memory."""
    return partial(a.dot, b, out) if out.flags.c_contiguous else partial(b.T.dot, a.T, out.T)


def aligned(*shape):
    """An array that begins with a cache line."""
    size = prod(shape)
    memory = np.empty(size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + size].reshape(shape)


def aligned_like(array):
    """An array of this shape and layout."""
    return aligned(*array.shape) if array.flags.c_contiguous else aligned(*array.shape[::-1]).T


def bits(array):
    """A float32 array's bits, in the order of memory."""
    return (array if array.flags.c_contiguous else array.T).reshape(-1).view(np.int32)


def update_alone(problem, optimizer, rate):
    weights = problem.weights()["parameter"]
    parameters, gradients = aligned(weights.size), aligned(weights.size)
    parameters[...] = weights
    update = Update(parameters, gradients, optimizer, rate, scaled=False)

    def step(x, y):
        np.copyto(gradients, x)
        update()
        return parameters

    return step
