"""Random architectures: networks, losses, optimizers and batches as people combine them, for any source of decisions.

A network is a list of layers, each applied to values made before, so that values branch and join; shapes repeat, since
most layers keep the shape of what they are given. Decisions come from `Choices`: of a seed (long runs that can be
repeated), of hypothesis (`architectures()`, which shrinks), or of a list (what another source has decided, to be cut
down). 0 is the simplest answer to every question, and sizes are asked for first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from choices import Choices, Drawn
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim

T = TypeVar("T")
Shape = tuple[int, ...]

# ---------------------------------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------------------------------


class Apply(nn.Module):
    """A function of values, as a layer."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function

    def forward(self, *values: Any) -> Any:
        return self.function(*values)

    def describe(self) -> str:
        return self.name


class With(nn.Module):
    """A function of parameters (or buffers, or layers) and values, as a layer: function(parts, *values)."""

    def __init__(self, name: str, function: Callable[..., Any], *parts: Any) -> None:
        self.name, self.function, self.parts = name, function, list(parts)

    def forward(self, *values: Any) -> Any:
        return self.function(self.parts, *values)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(_short, self.parts))})"


def _short(part: Any) -> str:
    return repr(part.shape) if isinstance(part, tg.Tensor) else repr(part).replace("\n", "")


class Draws(nn.Module):
    """A sample from a normal distribution whose mean and log variance are given: mean + deviation * noise."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def forward(self, mean: Any, log_variance: Any) -> Any:
        noise = functional.uniform_like(mean, self.rng) * 2 - 1
        return mean + np.exp(0.5 * np.tanh(log_variance)) * noise


def _last_mean(x: Any) -> Any:
    return np.mean(x, axis=-1, keepdims=True)


def _length(x: Any) -> Any:
    return np.sqrt(1 + np.sum(x * x, axis=-1, keepdims=True))


def _ends(a: Any, b: Any) -> Any:
    half = (a.shape[-1] + 1) // 2
    return np.concatenate([a[..., :half], b[..., half:]], axis=-1)


def _joined_and_split(a: Any, b: Any) -> Any:
    both = np.concatenate([a, b], axis=-1)
    return both[..., : a.shape[-1]] * 0.5 + both[..., a.shape[-1] :]


def _stacked(a: Any, b: Any) -> Any:
    return np.sum(np.stack([a, b, a]), axis=0)


UNARY: dict[str, Callable[[Any], Any]] = {
    "relu": tg.relu,
    "tanh": np.tanh,
    "sigmoid": tg.sigmoid,
    "leaky_relu": tg.leaky_relu,
    "elu": tg.elu,
    "gelu": tg.gelu,
    "silu": tg.silu,
    "softplus": tg.softplus,
    "-x": lambda x: -x,
    "2x": lambda x: 2 * x,
    "x + 0.5": lambda x: x + 0.5,
    "x / (1 + |x|)": lambda x: x / (1 + np.abs(x)),
    "exp(-x²)": lambda x: np.exp(-x * x),
    "sin": np.sin,
    "sqrt(1 + x²)": lambda x: np.sqrt(1 + x**2),
    "log1p(x²)": lambda x: np.log1p(np.square(x)),
    "max(x, 0.1)": lambda x: np.maximum(x, 0.1),
    "clip": lambda x: np.clip(x, -0.7, 0.9),
    "where(x > 0, x, 0.1 x)": lambda x: np.where(x > 0, x, 0.1 * x),
    "x - mean": lambda x: x - _last_mean(x),
    "x / length": lambda x: x / _length(x),
    "x * sum": lambda x: x * np.tanh(np.sum(x, axis=-1, keepdims=True)),
    "x - max": lambda x: x - np.max(x, axis=-1, keepdims=True),
    "softmax": lambda x: tg.softmax(x, axis=-1),
    "log_softmax": lambda x: tg.log_softmax(x, axis=-1),
    "reversed": lambda x: x[..., ::-1],
    "rolled": lambda x: np.concatenate([x[..., 1:], x[..., :1]], axis=-1),
    "cumsum": lambda x: np.cumsum(x, axis=-1),
    "over the batch": lambda x: x - np.mean(x, axis=0),
    "sum over the batch": lambda x: x * np.tanh(np.sum(x, axis=0, keepdims=True)),
    "there and back": lambda x: np.tanh(x.reshape(-1)).reshape(x.shape),
    "turned": lambda x: np.sin(np.swapaxes(x, 0, -1)).swapaxes(0, -1),
    "masked": lambda x: np.where(np.arange(x.shape[-1]) % 2 == 0, x, 0),
    "no gradient": lambda x: x * x.detach(),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a - 2 b": lambda a, b: a - 2 * b,
    "a sigmoid(b)": lambda a, b: a * tg.sigmoid(b),
    "silu(a) b": lambda a, b: tg.silu(a) * b,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "where(a > b)": lambda a, b: np.where(a > b, a, 0.5 * b),
    "a / (1 + b²)": lambda a, b: a / (1 + b * b),
    "logaddexp": np.logaddexp,
    "ends": _ends,
    "joined and split": _joined_and_split,
    "stacked": _stacked,
    "a <a, b>": lambda a, b: a * np.tanh(np.einsum("...i,...i->...", a, b)[..., None]),
    "a mean(b)": lambda a, b: a * np.mean(b),
    "a (1 + b) + a": lambda a, b: a * (1 + b) + a,
}
TERNARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "gate": lambda a, b, c: tg.sigmoid(c) * a + (1 - tg.sigmoid(c)) * b,
    "where(c > 0, a, b)": lambda a, b, c: np.where(c > 0, a, b),
    "a + b c": lambda a, b, c: a + b * c,
    "mean": lambda a, b, c: np.mean(np.stack([a, b, c], axis=-1), axis=-1),
}
ACTIVATIONS = (None, "relu", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "softplus")


def _swiglu(parts: Any, x: Any) -> Any:
    a, b, c = parts
    return c(tg.silu(a(x)) * b(x))


def _highway(parts: Any, x: Any) -> Any:
    a, b = parts
    t = tg.sigmoid(b(x))
    return t * a(x) + (1 - t) * x


def _film(parts: Any, x: Any, condition: Any) -> Any:
    scale, shift = parts
    return x * (1 + scale(condition)) + shift(condition)


def _experts(parts: Any, x: Any) -> Any:
    gate, *experts = parts
    weights = tg.softmax(gate(x), axis=-1)
    return sum(weights[..., k : k + 1] * expert(x) for k, expert in enumerate(experts))


def _ensemble(parts: Any, x: Any) -> Any:
    return np.mean(np.stack([layer(x) for layer in parts]), axis=0)


def _recurrent(parts: Any, x: Any) -> Any:
    into, back = parts
    given, h = into(x), np.tanh(into(x))
    for _ in range(3):
        h = np.tanh(given + back(h))
    return h


def _gru_steps(parts: Any, x: Any) -> Any:
    (cell,) = parts
    h = cell(x)
    for _ in range(2):
        h = cell(x, h)
    return h


def _elman(parts: Any, x: Any) -> Any:
    into, back = parts
    h, steps = None, []
    for t in range(x.shape[1]):
        h = np.tanh(into(x[:, t])) if h is None else np.tanh(into(x[:, t]) + back(h))
        steps.append(h)
    return np.stack(steps, axis=1)


def _mixer(parts: Any, x: Any) -> Any:
    up, down = parts
    return x + np.swapaxes(down(tg.gelu(up(np.swapaxes(x, 1, 2)))), 1, 2)


def _looks_back(parts: Any, x: Any) -> Any:
    now, before = parts
    return now(x) + before(np.concatenate([x[:, :1], x[:, :-1]], axis=1))


def _channel_gate(parts: Any, x: Any) -> Any:
    down, up = parts
    return x * tg.sigmoid(up(tg.relu(down(np.mean(x, axis=(2, 3))))))[:, :, None, None]


def _of_examples(parts: Any, x: Any) -> Any:
    (w,) = parts
    return (x @ x.swapaxes(-1, -2) @ (x @ w)) / x.shape[-2]


# ---------------------------------------------------------------------------------------------------------------------
# Networks
# ---------------------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Layers in order; each is given values made before, `places` of them. What `outputs` name is returned."""

    def __init__(self, layers: list[Any], places: list[tuple[int, ...]], outputs: tuple[int, ...]) -> None:
        self.layers, self.places, self.outputs = layers, places, outputs

    def forward(self, *inputs: Any) -> Any:
        values = [x if isinstance(x, tg.Tensor) else tg.Tensor(x) for x in inputs]
        for layer, places in zip(self.layers, self.places, strict=True):
            values.append(layer(*[values[i] for i in places]))
        found = tuple([values[i] for i in self.outputs])
        return found[0] if len(found) == 1 else found


@dataclass
class Optimization:
    """An optimizer to be made: its class, its options, and which parameters are in which group, by number."""

    kind: type[Any]
    options: dict[str, Any]
    groups: list[list[int]]

    def make(self, model: nn.Module) -> Any:
        parameters = model.parameters()
        groups = [
            {"parameters": [parameters[i] for i in group], "learning_rate": self.options["learning_rate"] / (k + 1)}
            for k, group in enumerate(self.groups)
        ]
        return self.kind(groups if len(groups) > 1 else groups[0]["parameters"], **self.options)


@dataclass
class Architecture:
    """A network, its loss, its optimizers (which take turns), and a batch for each step."""

    model: Network
    loss: Callable[[Any, Any], Any]
    optimizations: list[Optimization]
    batches: list[tuple[np.ndarray, ...]]
    terms: list[str]
    choices: list[int]
    inputs: int

    def __repr__(self) -> str:
        model = self.model
        names = {id(layer): f"f{i}" for i, layer in reversed(list(enumerate(model.layers)))}
        lines = [f"v{i}: {a.dtype}{a.shape}" for i, a in enumerate(self.batches[0][:-1])]
        for i, (layer, places) in enumerate(zip(model.layers, model.places, strict=True)):
            first = names[id(layer)] == f"f{i}"
            what = repr(layer).replace("\n", "") if first else f"{names[id(layer)]} again"
            lines.append(f"v{i + self.inputs} = {what} of {', '.join(f'v{k}' for k in places)}   (f{i})")
        frozen = [path for path, p in model.named_parameters() if not p.requires_grad]
        evaluated = [path for path, module in model.named_modules() if not module.training]
        lines += [f"returned: {', '.join(f'v{k}' for k in model.outputs)}", f"loss: {' + '.join(self.terms)}"]
        lines += [f"target: {self.batches[0][-1].dtype}{self.batches[0][-1].shape}"]
        lines += [f"batches of {', '.join(str(len(batch[0])) for batch in self.batches)}"]
        lines += [f"frozen: {', '.join(frozen)}"] * bool(frozen)
        lines += [f"in evaluation mode: {', '.join(evaluated)}"] * bool(evaluated)
        lines += [f"{o.kind.__name__}: {o.options}, parameters {o.groups}" for o in self.optimizations]
        return "\n".join(["", *lines, f"choices = {self.choices}"])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # how hypothesis shows an example
        for line in repr(self).split("\n"):
            printer.text(line)
            printer.break_()


def _kept(shape: Shape) -> str:
    return {1: "features", 2: "sequence", 3: "image"}[len(shape)]


class Builder:
    """A network in the making: the shape of each value, without the batch's axis."""

    def __init__(self, choices: Choices, shapes: list[Shape], batches: list[int]) -> None:
        self.choices, self.shapes, self.batches = choices, shapes, batches
        self.inputs = len(shapes)
        self.layers: list[Any] = []
        self.places: list[tuple[int, ...]] = []
        self.seeds = 0

    def rng(self) -> int:
        self.seeds += 1
        return self.seeds

    def add(self, layer: Any, places: Sequence[int], shape: Shape) -> int:
        self.layers.append(layer)
        self.places.append(tuple(places))
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def like(self, i: int) -> int:
        """A value of the same shape, most often a late one."""
        same = [k for k in range(len(self.shapes)) if self.shapes[k] == self.shapes[i]]
        return self.choices.among(same[::-1])

    def dense(self, n: int, m: int, activation: Any = None, bias: bool = True) -> nn.Dense:
        return nn.Dense(n, m, activation, bias=bias, rng=self.rng())

    def parameter(self, *shape: int) -> nn.Parameter:
        rng = np.random.default_rng(self.rng())
        return nn.Parameter((rng.standard_normal(shape) / np.sqrt(shape[0] if shape else 1)).astype(np.float32))

    def earlier(self, kind: type[Any], fits: Callable[[Any], bool]) -> Any:
        """A layer that is there already, to be used once more; None where there is none."""
        found = [layer for layer in self.layers if type(layer) is kind and fits(layer)]
        return self.choices.among(found[::-1]) if found else None

    def unread(self) -> list[int]:
        """Values that no layer was given, without the last one."""
        read = {i for places in self.places for i in places}
        return [i for i in range(self.inputs, len(self.shapes) - 1) if i not in read and self.shapes[i]]

    def join(self) -> None:
        """Bring values that nobody reads, and that fit, together with the last one."""
        for i in self.unread():
            if self.shapes[i] == self.shapes[-1] and self.choices.below(4):
                name = self.choices.among(list(BINARY))
                self.add(Apply(name, BINARY[name]), [len(self.shapes) - 1, i], self.shapes[-1])

    # -- one more value

    def grow(self) -> None:
        """One more layer: mostly of the value made last, sometimes of an earlier one."""
        choices = self.choices
        i = len(self.shapes) - 1
        if choices.maybe():
            i = self.like(i) if choices.maybe() else choices.below(len(self.shapes))
        shape = self.shapes[i]
        if not shape or any(n < 0 for n in shape):
            return
        options: list[Callable[[int, Shape], int | None]] = [self.elementwise, self.of_two, self.of_three]
        if len(shape) == 3:
            often = [self.convolution] * 5 + [self.of_image] * 4 + [self.shared_convolution, self.pooled] * 2
            options = often + options
        else:
            often = [self.plain_dense, self.cell, self.of_parameter, self.block] * 3 + [self.normalized, self.tied] * 2
            options = often + options * 2 + [self.of_sequence] * 8 * (len(shape) == 2)
        choices.among(options)(i, shape)

    def elementwise(self, i: int, shape: Shape) -> int:
        name = self.choices.among(list(UNARY))
        return self.add(Apply(name, UNARY[name]), [i], shape)

    def of_two(self, i: int, shape: Shape) -> int:
        name = self.choices.among(list(BINARY))
        return self.add(Apply(name, BINARY[name]), [i, self.like(i)], shape)

    def of_three(self, i: int, shape: Shape) -> int:
        name = self.choices.among(list(TERNARY))
        return self.add(Apply(name, TERNARY[name]), [i, self.like(i), self.like(i)], shape)

    def plain_dense(self, i: int, shape: Shape) -> int:
        """A dense layer; half of the time two of them that read one value."""
        n = shape[-1]
        m = self.choices.among([n, n, n, 1, 2, 5])
        activation, bias = self.choices.among(ACTIVATIONS), not self.choices.rarely()
        if self.choices.maybe():
            self.add(self.dense(n, m, activation, bias), [i], (*shape[:-1], m))
        return self.add(self.dense(n, m, activation, bias), [i], (*shape[:-1], m))

    def tied(self, i: int, shape: Shape) -> int | None:
        """A layer's weight once more: the layer itself, or its weight transposed."""
        n = shape[-1]
        if self.choices.maybe():
            layer = self.earlier(nn.Dense, lambda d: d.in_features == n)
            return None if layer is None else self.add(layer, [i], (*shape[:-1], layer.out_features))
        layer = self.earlier(nn.Dense, lambda d: d.out_features == n)
        if layer is None:
            return None
        tied = With("x Wᵀ", lambda parts, x: x @ parts[0].weight.T, layer)
        return self.add(tied, [i], (*shape[:-1], layer.in_features))

    def of_parameter(self, i: int, shape: Shape) -> int:
        """Parameters in expressions of their own."""
        n, part = shape[-1], self.parameter
        kind = self.choices.below(10)
        layers: list[Callable[[], With]] = [
            lambda: With("x * scale", lambda parts, x: x * parts[0], part(n)),
            lambda: With("x + shift", lambda parts, x: x + parts[0], part(n)),
            lambda: With("x * number", lambda parts, x: x * parts[0], part()),
            lambda: With("x scale + shift", lambda parts, x: x * parts[0] + parts[1], part(n), part(n)),
            lambda: With("x A B", lambda parts, x: x @ parts[0] @ parts[1], part(n, 2), part(2, n)),
            lambda: With("einsum", lambda parts, x: np.einsum("...i,ij->...j", x, parts[0]), part(n, n)),
            lambda: With("tanh(x W) Wᵀ", lambda parts, x: np.tanh(x @ parts[0]) @ parts[0].T, part(n, n)),
            lambda: With("x W (normalized)", lambda p, x: x @ (p[0] / _length(p[0]) * p[1]), part(n, n), part(n)),
            lambda: With("x Vᵀ + x W", lambda parts, x: x @ parts[0].T + x @ parts[1], part(n, n), part(n, n)),
            lambda: With("x (W + V)", lambda parts, x: x @ (parts[0] + parts[1]), part(n, n), part(n, n)),
        ]
        return self.add(layers[kind](), [i], shape)

    def block(self, i: int, shape: Shape) -> int:
        """Ordinary blocks in which several layers of one shape read one value."""
        n, dense, choices = shape[-1], self.dense, self.choices
        hidden = choices.among([n, 3])
        kind = choices.below(7)
        if kind == 0:
            parts = [dense(n, hidden, bias=False), dense(n, hidden, bias=choices.maybe()), dense(hidden, n)]
            return self.add(With("swiglu", _swiglu, *parts), [i], shape)
        if kind == 1:
            return self.add(With("highway", _highway, dense(n, n, "tanh"), dense(n, n)), [i], shape)
        if kind == 2:
            k = choices.among([2, 3])
            parts = [dense(n, k), *(dense(n, n, choices.among(ACTIVATIONS)) for _ in range(k))]
            return self.add(With("experts", _experts, *parts), [i], shape)
        if kind == 3:
            parts = [dense(n, n, "relu") for _ in range(choices.between(2, 3))]
            return self.add(With("ensemble", _ensemble, *parts), [i], shape)
        if kind == 4:
            condition = self.like(i)
            return self.add(With("film", _film, dense(n, n), dense(n, n)), [i, condition], shape)
        if kind == 5:
            mean, log_variance = self.add(dense(n, n), [i], shape), self.add(dense(n, n), [i], shape)
            return self.add(Draws(self.rng()), [mean, log_variance], shape)
        inner = [nn.LayerNorm(n), dense(n, hidden, choices.among(ACTIVATIONS)), dense(hidden, n)]
        return self.add(nn.Residual(nn.Sequential(*inner[choices.below(2) if n > 1 else 1 :])), [i], shape)

    def cell(self, i: int, shape: Shape) -> int | None:
        """Weights that are used several times over."""
        if len(shape) != 1:
            return None
        (n,) = shape
        m = self.choices.among([n, n, 2])
        if self.choices.maybe():
            return self.add(With("gru cell, 3 times", _gru_steps, nn.GRUCell(n, m, rng=self.rng())), [i], (m,))
        parts = self.dense(n, m), self.dense(m, m, bias=self.choices.maybe())
        return self.add(With("recurrent, 3 times", _recurrent, *parts), [i], (m,))

    def normalized(self, i: int, shape: Shape) -> int:
        """Layer and batch normalization, dropout. One element less its mean is 0, and all behind it is noise."""
        kind = self.choices.below(4)
        if kind == 0 and shape[-1] > 1:
            return self.add(nn.LayerNorm(shape[-1], bias=not self.choices.rarely()), [i], shape)
        if kind == 1 and len(shape) == 2 and shape != (1, 1):
            return self.add(nn.LayerNorm(shape), [i], shape)
        if kind == 2 and min(self.batches) > 1:
            return self.add(nn.BatchNorm1d(shape[0], affine=not self.choices.rarely()), [i], shape)
        return self.add(nn.Dropout(self.choices.among([0.5, 0.2]), rng=self.rng()), [i], shape)

    def of_sequence(self, i: int, shape: Shape) -> int:
        """What goes along a sequence."""
        t, n = shape
        choices, dense = self.choices, self.dense
        kind = choices.below(9)
        if kind <= 1:
            heads = choices.among([k for k in (1, 2, 3) if n % k == 0])
            attention = nn.MultiHeadAttention(n, heads, bias=not choices.rarely(), rng=self.rng())
            causal = choices.maybe()
            with_mask = With(f"attention{', causal' * causal}", _causal if causal else _attention, attention)
            return self.add(with_mask, [i], shape)
        if kind == 2:
            m = choices.among([n, n, 2])
            gru = nn.GRU(n, m, layers=choices.between(1, 2), bias=not choices.rarely(), rng=self.rng())
            return self.add(With("outputs of", lambda parts, x: parts[0](x)[0], gru), [i], (t, m))
        if kind == 3:
            return self.add(With("elman", _elman, dense(n, n), dense(n, n)), [i], shape)
        if kind == 4:
            m = choices.among([t, 3])
            return self.add(With("mixer", _mixer, dense(t, m), dense(m, t)), [i], shape)
        if kind == 5:
            return self.add(With("looks back", _looks_back, dense(n, n), dense(n, n)), [i], shape)
        if kind == 6:
            return self.add(With("x + position", lambda parts, x: x + parts[0], self.parameter(t, n)), [i], shape)
        if kind == 7:
            return self.add(With("x xᵀ x W", _of_examples, self.parameter(n, n)), [i], shape)
        return self.to_features(i)

    # -- images

    def convolution(self, i: int, shape: Shape) -> int:
        """A convolution, or two that read one value: 1x1 windows, ones as large as the image, and what is between."""
        c, h, w = shape
        choices = self.choices
        filters = choices.among([c, c, 1, 2, 3])
        kind = choices.below(6)
        options: dict[str, Any] = {}
        size: Any = 1
        if kind == 1:
            size, options = min(3, h, w), {"padding": "same"}
        elif kind == 2:
            size = (h, w)
        elif kind == 3:
            size = (choices.between(1, min(3, h)), choices.between(1, min(3, w)))
            options = {"stride": choices.between(1, 2), "padding": (choices.below(size[0]), choices.below(size[1]))}
        elif kind == 4:
            size, filters, options = min(2, h, w), c * choices.between(1, 2), {"groups": c}
        elif kind == 5 and min(h, w) >= 3:
            size, options = 2, {"dilation": 2}
        options["bias"] = not choices.rarely()
        places = _after(shape, size, options)
        if choices.maybe():
            self.add(nn.Conv2d(c, filters, size, rng=self.rng(), **options), [i], (filters, *places))
        return self.add(nn.Conv2d(c, filters, size, rng=self.rng(), **options), [i], (filters, *places))

    def shared_convolution(self, i: int, shape: Shape) -> int | None:
        """Filters that are used once more."""
        layer = self.earlier(nn.Conv2d, lambda conv: conv.in_channels == shape[0])
        if layer is None:
            return None
        try:
            found = layer(np.zeros((1, *shape), np.float32)).shape[1:]
        except ValueError:  # the window is larger than this image
            return None
        return self.add(layer, [i], found)

    def pooled(self, i: int, shape: Shape) -> int:
        """Windows without weights."""
        c, h, w = shape
        size = self.choices.between(1, min(3, h, w))
        stride = self.choices.between(1, 3)
        padding = self.choices.below(size // 2 + 1)
        kind = self.choices.among([nn.MaxPool2d, nn.AvgPool2d])
        layer = kind(size, stride, padding)
        return self.add(layer, [i], (c, *_after(shape, size, {"stride": stride, "padding": padding})))

    def of_image(self, i: int, shape: Shape) -> int:
        """Everything else that is done to images."""
        c, h, w = shape
        choices = self.choices
        kind = choices.below(7)
        if kind <= 1 and min(self.batches) * h * w > 1:
            return self.add(nn.BatchNorm2d(c), [i], shape)
        if kind == 2:
            return self.add(With("channel gate", _channel_gate, self.dense(c, 2), self.dense(2, c)), [i], shape)
        if kind == 3:
            scale = With("x * scale", lambda parts, x: x * parts[0], self.parameter(c, 1, 1))
            return self.add(scale, [i], shape)
        if kind == 4:
            return self.add(Apply("mirrored", lambda x: x[:, :, :, ::-1] + x), [i], shape)
        if kind == 5 and h * w <= 16:
            larger = Apply("larger", lambda x: np.repeat(np.repeat(x, 2, axis=2), 2, axis=3))
            return self.add(larger, [i], (c, 2 * h, 2 * w))
        if kind == 6:
            return self.add(nn.Dropout(0.5, rng=self.rng()), [i], shape)
        return self.to_features(i)

    # -- ends

    def to_features(self, i: int) -> int:
        """One vector for each example."""
        shape = self.shapes[i]
        if len(shape) == 1:
            return i
        if len(shape) == 2:
            ways = [
                ("last", lambda x: x[:, -1], shape[1:]),
                ("mean over time", lambda x: np.mean(x, axis=1), shape[1:]),
                ("max over time", lambda x: np.max(x, axis=1), shape[1:]),
            ]
        else:
            ways = [
                ("flat", lambda x: x.reshape(x.shape[0], -1), (int(np.prod(shape)),)),
                ("mean over places", lambda x: np.mean(x, axis=(2, 3)), shape[:1]),
            ]
        name, function, after = self.choices.among(ways)
        return self.add(Apply(name, function), [i], after)


def _attention(parts: Any, x: Any) -> Any:
    return parts[0](x)


def _causal(parts: Any, x: Any) -> Any:
    return parts[0](x, causal=True)


def _after(shape: Shape, size: Any, options: dict[str, Any]) -> Shape:
    """How many places a window has."""
    if options.get("padding") == "same":
        return shape[1:]
    size = size if isinstance(size, tuple) else (size, size)
    padding = options.get("padding", 0)
    padding = padding if isinstance(padding, tuple) else (padding, padding)
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    return tuple(
        (n + 2 * p - dilation * (k - 1) - 1) // stride + 1 for n, p, k in zip(shape[1:], padding, size, strict=True)
    )


def make_loss(terms: Sequence[tuple[Callable[..., Any], tuple[int, ...], float]], several: bool) -> Any:
    """The weighted sum of terms, each of some outputs and the target."""

    def loss(outputs: Any, target: Any) -> Any:
        total: Any = 0
        for function, places, weight in terms:
            value = function(*([outputs[i] for i in places] if several else [outputs]), target)
            total = total + (value if weight == 1 else weight * value)
        return total

    return loss


# ---------------------------------------------------------------------------------------------------------------------
# Architectures
# ---------------------------------------------------------------------------------------------------------------------

BATCHES = (2, 1, 3, 4, 8, 15, 16, 17)


def architecture(choices: Choices, largest: int = 17, deepest: int = 9, steady: bool = False) -> Architecture:
    """An architecture that follows from decisions: batches of at most `largest` examples, `deepest` times a layer.

    `steady`: all batches are of one size, so that one program does.
    """
    sizes = [n for n in BATCHES if n <= largest]
    batch = choices.among(sizes)
    batches = [batch] * 3
    if not steady and choices.maybe():  # the last batch of an epoch
        batches[choices.between(1, 2)] = choices.among(sizes)
    width = choices.among([2, 3, 1, 4, 6])
    layers = choices.between(1, deepest)
    dtype = choices.among([np.float32, np.float32, np.float64])
    data = np.random.default_rng(choices.below(1000))

    kind = choices.among(["features", "features", "image", "image", "sequence", "tokens"])
    shape: Shape = (width,)
    if kind == "image":
        shape = (choices.among([1, 2, 3]), choices.among([3, 1, 2, 5, 7]), choices.among([3, 1, 2, 5, 6]))
    elif kind != "features":
        shape = (choices.among([2, 1, 3, 4]), width)
    shapes = [shape]
    if kind == "tokens":
        shapes = [(-1,)]  # codes, which no layer but the table takes
    elif choices.rarely():
        shapes.append(shape)
    builder = Builder(choices, list(shapes), batches)
    table = None
    if kind == "tokens":
        table = nn.Embedding(5, width, rng=builder.rng())
        builder.add(table, [0], shape)
    for _ in range(layers):
        builder.grow()
    builder.join()

    # Heads, on the value made last or on some late ones.
    labelled = choices.among(["labels", "numbers", "probabilities", "shares"])
    outputs: list[int] = []
    classes = choices.among([2, 3, width])
    along = len(builder.shapes[-1]) == 2 and choices.maybe()  # a prediction for each step of a sequence
    for k in range(choices.among([1, 1, 2, 3])):
        source = len(builder.shapes) - 1
        if k:
            found = [i for i in builder.unread() if i not in outputs] if choices.maybe() else []
            source = choices.among(found[::-1] or range(len(builder.shapes))[::-1])
        if k and choices.maybe():
            source = builder.places[outputs[0] - builder.inputs][0]
        if not builder.shapes[source] or builder.shapes[source][0] < 0:
            source = outputs[0]
        at = builder.shapes[source]
        if not along or len(at) != 2 or (outputs and at[0] != builder.shapes[outputs[0]][0]):
            source = builder.to_features(source) if not along else outputs[0] if outputs else source
        at = builder.shapes[source]
        if table is not None and at[-1] == width and not choices.below(3):
            head: Any = With("x Eᵀ", lambda parts, x: x @ parts[0].weight.T, table)
            classes = 5 if k == 0 else classes
            n = 5
        else:
            n = classes
            head = builder.dense(at[-1], n, bias=not choices.rarely())
        if n == classes:
            outputs.append(builder.add(head, [source], (*at[:-1], n)))
    shape_of_target = builder.shapes[outputs[0]]
    terms: list[tuple[Callable[..., Any], tuple[int, ...], float]] = []
    written: list[str] = []
    for k in range(len(outputs)):
        name, function = choices.among(_losses(labelled, classes))
        weight = choices.among([1, 0.5, 2.0]) if k or choices.rarely() else 1
        terms.append((function, (k,), weight))
        written.append(f"{weight} {name}(output {k})")
    if len(outputs) > 1 and choices.maybe():
        name = choices.among(list(_BETWEEN))
        terms.append((_BETWEEN[name], (0, 1), 0.3))
        written.append(f"0.3 {name}")
    several = len(outputs) > 1

    model = Network(builder.layers, builder.places, tuple(outputs))
    for p in model.parameters():  # biases of 0 and scales of 1 hide what goes wrong with them
        if p.ndim <= 1:
            p.data = p.data + data.uniform(-0.4, 0.4, p.shape).astype(np.float32)
    if choices.rarely():
        for module in model.layers:
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)) and choices.maybe():
                module.eval()
    model.to(dtype)
    parameters = model.parameters()
    if choices.below(4) == 3:
        for p in parameters:
            if choices.maybe():
                p.requires_grad_(False)
    made = []
    for n in batches:
        inputs: list[np.ndarray] = [
            data.integers(0, 5, (n, shape[0])).astype(np.int32 if batches[0] % 2 else np.int64)
            if s == (-1,)
            else data.standard_normal((n, *s)).astype(dtype)
            for s in shapes
        ]
        made.append((*inputs, _target(labelled, data, n, shape_of_target, dtype, choices.maybe)))
    if len({batch[-1].dtype for batch in made}) > 1:
        made = [(*batch[:-1], batch[-1].astype(made[0][-1].dtype)) for batch in made]
    optimizations = _optimizations(choices, model)
    loss = make_loss(tuple(terms), several)
    if not _depends(model, loss, made[0]):
        for p in parameters:
            p.requires_grad_(True)
    return Architecture(model, loss, optimizations, made, written, choices.taken, len(shapes))


def _depends(model: Network, loss: Any, batch: Sequence[Any]) -> bool:
    """Whether the loss depends on a parameter that is not frozen."""
    return bool(loss(deepcopy(model)(*batch[:-1]), batch[-1]).requires_grad)


def _losses(labelled: str, classes: int) -> list[tuple[str, Callable[..., Any]]]:
    """The losses that go with a kind of target."""
    if labelled == "labels":
        weight = np.linspace(0.5, 1.5, classes)
        return [
            ("cross_entropy", tg.cross_entropy),
            ("cross_entropy, sum", lambda a, t: tg.cross_entropy(a, t, reduction="sum")),
            ("cross_entropy, smooth", lambda a, t: tg.cross_entropy(a, t, label_smoothing=0.1)),
            ("cross_entropy, weighed", lambda a, t: tg.cross_entropy(a, t, weight=weight.astype(a.dtype))),
            ("cross_entropy, ignoring", lambda a, t: tg.cross_entropy(a, t, ignore_index=1)),
            ("nll of log_softmax", lambda a, t: tg.nll_loss(tg.log_softmax(a, axis=-1), t)),
            ("mse to one_hot", lambda a, t: tg.mse_loss(tg.softmax(a, axis=-1), tg.one_hot(t, a.shape[-1], a.dtype))),
        ]
    if labelled == "probabilities":
        return [
            ("cross_entropy", tg.cross_entropy),
            ("cross_entropy, sum", lambda a, t: tg.cross_entropy(a, t, reduction="sum")),
            ("kl_div", lambda a, t: tg.kl_div(tg.log_softmax(a, axis=-1), t)),
        ]
    if labelled == "shares":
        return [
            ("binary_cross_entropy", tg.binary_cross_entropy_with_logits),
            ("binary_cross_entropy, sum", lambda a, t: tg.binary_cross_entropy_with_logits(a, t, reduction="sum")),
            ("mse of sigmoid", lambda a, t: tg.mse_loss(tg.sigmoid(a), t)),
        ]
    return [
        ("mse", tg.mse_loss),
        ("mse, sum", lambda a, t: tg.mse_loss(a, t, reduction="sum")),
        ("l1", tg.l1_loss),
        ("l1, sum", lambda a, t: tg.l1_loss(a, t, reduction="sum")),
        ("huber", tg.huber_loss),
        ("mean of squares", lambda a, t: np.mean(np.sum((a - t) ** 2, axis=-1))),
        ("half the squares", lambda a, t: 0.5 * np.sum((a - t) ** 2) / len(t)),
    ]


_BETWEEN: dict[str, Callable[..., Any]] = {
    "mse between 0 and 1": lambda a, b, t: np.mean((a - b) ** 2),
    "divergence of mean 0, variance 1": lambda a, b, t: -0.5 * np.mean(1 + b - a * a - np.exp(b)),
    "product of means": lambda a, b, t: np.mean(a) * np.mean(b),
    "policy times advantage": lambda a, b, t: -np.mean(tg.log_softmax(a, axis=-1) * np.tanh(b.detach())),
}


def _target(labelled: str, data: np.random.Generator, n: int, shape: Shape, dtype: Any, maybe: Any) -> np.ndarray:
    if labelled == "labels":
        return data.integers(0, shape[-1], (n, *shape[:-1])).astype(np.int32 if maybe() else np.int64)
    if labelled == "probabilities":
        return data.dirichlet(np.ones(shape[-1]), (n, *shape[:-1])).astype(dtype)
    if labelled == "shares":
        return data.uniform(0, 1, (n, *shape)).astype(dtype)
    return data.standard_normal((n, *shape)).astype(dtype)


def _optimizations(choices: Choices, model: nn.Module) -> list[Optimization]:
    """One optimizer or two, with parameters in some order, in one group or two, sometimes not all of them."""
    order = list(range(len(model.parameters())))
    if choices.maybe():
        order = [int(i) for i in np.random.default_rng(choices.below(100)).permutation(order)]
    if choices.rarely() and len(order) > 1:
        order = order[:-1]  # one that belongs to nobody
    several = choices.below(5) if len(order) > 1 else 0
    half = len(order) // 2
    if several == 4:
        return [_optimization(choices, [order[:half]]), _optimization(choices, [order[half:]])]
    return [_optimization(choices, [order[:half], order[half:]] if several == 3 else [order])]


def _optimization(choices: Choices, groups: list[list[int]]) -> Optimization:
    decay = choices.among([0.0, 0.0, 0.1])
    rate = choices.among([0.1, 0.01])
    kind = choices.below(6)
    if kind <= 1:
        return Optimization(optim.SGD, {"learning_rate": rate, "momentum": 0.9, "weight_decay": decay}, groups)
    if kind <= 3:
        betas = choices.among([(0.9, 0.999), (0.5, 0.9)])
        return Optimization(optim.Adam, {"learning_rate": rate, "betas": betas, "weight_decay": decay}, groups)
    if kind == 4:
        options = {"learning_rate": rate, "momentum": 0.5, "weight_decay": decay, "nesterov": True}
        return Optimization(optim.SGD, options, groups)
    if choices.maybe():
        return Optimization(optim.SGD, {"learning_rate": 0.05, "weight_decay": decay}, groups)  # does not diverge
    return Optimization(optim.AdamW, {"learning_rate": rate, "weight_decay": decay}, groups)


@st.composite
def architectures(draw: st.DrawFn, largest: int = 17, deepest: int = 9, steady: bool = False) -> Architecture:
    """Architectures that hypothesis draws, and shrinks where one fails."""
    return architecture(Drawn(draw), largest, deepest, steady)
