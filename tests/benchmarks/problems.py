"""What is timed: networks with their first weights, batches and learning rates, the same for every contender.

Weights have the layout of the formula on the page: `x @ weight + bias`, so a weight is (in_features, out_features).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

IMAGES, LABELS = 7, 8  # batches in the pool; 7 x 8 pairs, since the two numbers have no common divisor


@dataclass(frozen=True)
class Problem:
    """One training step to time: a kind of network, its sizes and the number of examples in a batch."""

    name: str
    kind: str  # "mlp", "lenet", "transformer", "gru" or "update"
    sizes: tuple[int, ...]
    batch: int
    checked: int = 10  # steps after which all contenders must have the same loss

    def weights(self) -> dict[str, np.ndarray]:
        """The first weights, by name; drawn anew, so a contender may write into them."""
        return WEIGHTS[self.kind](self.sizes, np.random.default_rng(0))

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of inputs and integer labels.

        Each input meets eight sets of random labels. So the loss cannot fall to 0 however long a benchmark runs, and
        gradients keep their size: numbers too small for normal floats would slow some contenders down.
        """
        inputs, labels = BATCHES[self.kind](self.sizes, self.batch, np.random.default_rng(1))
        return [(inputs[i % len(inputs)], labels[i % len(labels)]) for i in range(IMAGES * LABELS)]


def learning_rate(optimizer: str) -> float:
    """Large enough that a wrong update shows in the losses, small enough that thousands of steps stay tame."""
    return {"SGD": 0.01, "Adam": 0.0002}[optimizer]


# ---------------------------------------------------------------------------------------------------------------------
# Weights and batches of each kind
# ---------------------------------------------------------------------------------------------------------------------


def dense(r: np.random.Generator, name: str, inputs: int, outputs: int, gain: float = 2.0) -> dict[str, np.ndarray]:
    """He et al. 2015, and biases that are not 0, so that a forgotten one shows."""
    weight = r.standard_normal((inputs, outputs), np.float32) * np.float32(np.sqrt(gain / inputs))
    return {f"{name}.weight": weight, f"{name}.bias": r.standard_normal(outputs, np.float32) * np.float32(0.01)}


def mlp_weights(sizes: tuple[int, ...], r: np.random.Generator) -> dict[str, np.ndarray]:
    parts = [dense(r, f"{i}", a, b) for i, (a, b) in enumerate(pairwise(sizes))]
    return {name: array for part in parts for name, array in part.items()}


def mlp_batches(sizes: tuple[int, ...], n: int, r: np.random.Generator) -> tuple[list, list]:
    images = [r.random((n, sizes[0]), np.float32) for _ in range(IMAGES)]
    return images, [r.integers(0, sizes[-1], n) for _ in range(LABELS)]


def lenet_weights(sizes: tuple[int, ...], r: np.random.Generator) -> dict[str, np.ndarray]:
    """sizes: channels of the two convolutions (5 x 5, padding 2 and 0), then the dense layers."""
    first, second, *features = sizes
    weights = {}
    for name, a, b in (("first", 1, first), ("second", first, second)):
        weights[f"{name}.weight"] = r.standard_normal((b, a, 5, 5), np.float32) * np.float32(np.sqrt(2 / (25 * a)))
        weights[f"{name}.bias"] = r.standard_normal(b, np.float32) * np.float32(0.01)
    for i, (a, b) in enumerate(pairwise(features)):
        weights |= dense(r, f"dense{i}", a, b)
    return weights


def lenet_batches(sizes: tuple[int, ...], n: int, r: np.random.Generator) -> tuple[list, list]:
    images = [r.random((n, 1, 28, 28), np.float32) for _ in range(IMAGES)]
    return images, [r.integers(0, sizes[-1], n) for _ in range(LABELS)]


def transformer_weights(sizes: tuple[int, ...], r: np.random.Generator) -> dict[str, np.ndarray]:
    """sizes: layers, features, heads, length, number of different codes. Layers normalise before they act."""
    layers, d, _, length, codes = sizes
    weights = {
        "codes.weight": r.standard_normal((codes, d), np.float32),
        "positions": r.standard_normal((length, d), np.float32),
    }
    for i in range(layers):
        for name in ("before_attention", "before_mixing"):
            weights[f"{i}.{name}.weight"] = np.ones(d, np.float32)
            weights[f"{i}.{name}.bias"] = np.zeros(d, np.float32)
        weights |= dense(r, f"{i}.in", d, 3 * d, 1) | dense(r, f"{i}.output", d, d, 1)
        weights |= dense(r, f"{i}.up", d, 4 * d) | dense(r, f"{i}.down", 4 * d, d, 1)
    weights |= {"last.weight": np.ones(d, np.float32), "last.bias": np.zeros(d, np.float32)}
    return weights | dense(r, "head", d, codes, 1)


def transformer_batches(sizes: tuple[int, ...], n: int, r: np.random.Generator) -> tuple[list, list]:
    _, _, _, length, codes = sizes
    inputs = [r.integers(0, codes, (n, length)) for _ in range(IMAGES)]
    return inputs, [r.integers(0, codes, (n, length)) for _ in range(LABELS)]


def gru_weights(sizes: tuple[int, ...], r: np.random.Generator) -> dict[str, np.ndarray]:
    """sizes: steps, features, state, classes. The gates r, z, n lie side by side."""
    _, features, state, classes = sizes
    cell_input, cell_state = dense(r, "input", features, 3 * state, 1), dense(r, "hidden", state, 3 * state, 1)
    return cell_input | cell_state | dense(r, "head", state, classes, 1)


def gru_batches(sizes: tuple[int, ...], n: int, r: np.random.Generator) -> tuple[list, list]:
    steps, features, _, classes = sizes
    inputs = [r.random((n, steps, features), np.float32) for _ in range(IMAGES)]
    return inputs, [r.integers(0, classes, n) for _ in range(LABELS)]


def update_weights(sizes: tuple[int, ...], r: np.random.Generator) -> dict[str, np.ndarray]:
    """Zeros, so that what is compared are the updates alone."""
    return {"parameter": np.zeros(sizes[0], np.float32)}


def update_batches(sizes: tuple[int, ...], n: int, r: np.random.Generator) -> tuple[list, list]:
    """For an optimizer's update alone: the inputs are gradients."""
    return [r.standard_normal(sizes[0], np.float32) for _ in range(IMAGES)], [np.zeros(1, np.int64)]


WEIGHTS = {
    "mlp": mlp_weights,
    "lenet": lenet_weights,
    "transformer": transformer_weights,
    "gru": gru_weights,
    "update": update_weights,
}
BATCHES = {
    "mlp": mlp_batches,
    "lenet": lenet_batches,
    "transformer": transformer_batches,
    "gru": gru_batches,
    "update": update_batches,
}
PROBLEMS = {
    p.name: p
    for p in (
        Problem("tiny", "mlp", (2, 16, 16, 2), 32),
        Problem("small", "mlp", (64, 64, 10), 32),
        Problem("mnist", "mlp", (784, 128, 10), 64),
        Problem("mnist2", "mlp", (784, 512, 512, 10), 128),
        Problem("wide", "mlp", (1024, 2048, 2048, 1024), 256, checked=4),
        Problem("deep", "mlp", (64,) * 21, 32),
        Problem("lenet", "lenet", (6, 16, 400, 120, 84, 10), 64),
        Problem("transformer", "transformer", (4, 128, 4, 64, 256), 16, checked=4),
        Problem("gru", "gru", (28, 28, 128, 10), 32),
        Problem("update", "update", (524_288,), 1),
    )
}
