"""Each pass without one of its preconditions: what that makes of a network is found by the check of a new program.

A mutant is a pass with a piece of its source replaced. Each is tried on a network where the precondition decides. With
the check off, the step differs from eager's, so that the mutant is one, and the random architectures can find it; with
the check on, a warning says so, or the program cannot be made at all.
"""

from __future__ import annotations

import copy
import inspect
import types
import warnings
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim
from tinygrad_mm.compiler.passes import biases, cleaning, images, patterns, placing, shared_weights


def code_of(old: Any, new: Any) -> dict[Any, Any]:
    """{function: other code} for the functions of a module, or of a class, and the same ones in another text."""
    found = {}
    for name, one in vars(old).items():
        other = vars(new).get(name) if isinstance(new, type) else new.get(name)
        if isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType):
            found[one] = other.__code__
        elif isinstance(one, type) and isinstance(other, type) and one.__module__ == getattr(old, "__name__", None):
            found |= code_of(one, other)
    return found


@pytest.fixture
def mutate(monkeypatch):
    """A function that puts other text into a module, for the functions that are there already."""

    def do(module: Any, old: str, new: str) -> None:
        source = inspect.getsource(module)
        assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {module.__name__}"
        namespace = {"__name__": module.__name__}
        exec(compile(source.replace(old, new), module.__file__, "exec"), namespace)
        for function, code in code_of(module, namespace).items():
            monkeypatch.setattr(function, "__code__", code)

    return do


class Network(nn.Module):
    """A network by a function of itself and its input."""

    def __init__(self, forward: Any, **parts: Any) -> None:
        vars(self).update(parts)
        self.formula = forward

    def forward(self, x: Any) -> Any:
        return self.formula(self, x)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parameter(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(normal(*shape, seed=seed))


def used_thrice(self: Any, x: Any) -> Any:
    h = x
    for _ in range(3):
        h = np.tanh(h @ self.w)
    return h


def read_elsewhere(self: Any, x: Any) -> Any:
    terms = [x.T @ (i * x @ self.w) for i in (1, 2, 3)]
    return np.tanh(x @ (terms[0] + terms[1] + terms[2]) * 0.1 + x @ terms[0])


def assigning(self: Any, x: Any) -> Any:
    self.seen.assign(self.w)
    return x @ self.w


def summed_over_places(self: Any, x: Any) -> Any:
    patches = functional.windows(x.reshape(16, 1, 2, 2), (2, 2), (1, 1), ((1, 0), (1, 0)), (1, 1)).reshape(16, 1, 4, 4)
    return np.sum((self.w @ patches) @ np.swapaxes(patches, 2, 3), axis=2).reshape(16, 4) @ self.v


SGD = lambda m: optim.SGD(m.parameters(), 0.1)
ADAM = lambda m: optim.Adam(m.parameters(), 0.1)


# name: module, what stands there, what the mutant has instead; the network, its optimizer and the shape of its input.
MUTANTS = {
    "remove_dead drops draws": (
        cleaning,
        "if id(op.result) in needed or op.fun in _DRAWS:",
        "if id(op.result) in needed:",
        lambda: Network(
            lambda s, x: (s.drop(x), s.dense(x))[1], drop=nn.Dropout(0.5, rng=0), dense=nn.Dense(4, 4, rng=1)
        ),
        SGD,
        (4, 4),
    ),
    "share_common takes two draws for one": (
        cleaning,
        "        if op.fun in _DRAWS:\n            ops.append(op)\n            continue\n",
        "",
        lambda: Network(
            lambda s, x: s.dense(s.drop(x) + s.drop(x)), drop=nn.Dropout(0.5, rng=0), dense=nn.Dense(4, 4, rng=1)
        ),
        SGD,
        (4, 4),
    ),
    "remove_identities takes any order of axes for a transpose": (
        cleaning,
        "    if op.fun(np.empty((2, 3)), *options, **op.kwargs).shape == (2, 3):\n        return first\n",
        "",
        lambda: Network(lambda s, x: x @ np.transpose(s.w, (0, 1)), w=parameter(4, 4)),
        SGD,
        (4, 4),
    ),
    "fuse takes a relu of the same shape": (
        patterns,
        "relus.get(id(mask.args[0]))",
        "next((y for y in relus.values() if y.shape == op.result.shape), None)",
        lambda: Network(
            lambda s, x: tg.relu(s.a(x)) - tg.relu(s.b(x)), a=nn.Dense(4, 4, rng=1), b=nn.Dense(4, 4, rng=2)
        ),
        ADAM,
        (4, 4),
    ),
    "examples_last takes any sum of products for that over the examples": (
        images,
        "or axis not in (0, (0,)) or keepdims",
        "or keepdims",
        lambda: Network(summed_over_places, w=parameter(1, 1, 4, 4), v=parameter(4, 4, seed=1)),
        SGD,
        (16, 4),
    ),
    "join_products puts factors side by side in two orders": (
        shared_weights,
        "[pair[i] for pair in pairs]",
        "[pair[i] for pair in (pairs if i else pairs[::-1])]",
        lambda: Network(used_thrice, w=parameter(4, 4)),
        SGD,
        (4, 4),
    ),
    "join_products takes terms that others read": (
        shared_weights,
        "if op is None or len(self.uses[id(term)]) != 1 or id(term) in self.wanted:",
        "if op is None:",
        lambda: Network(read_elsewhere, w=parameter(4, 4)),
        SGD,
        (4, 4),
    ),
    "flatten_products flattens stacks times stacks": (
        patterns,
        "a.ndim > 2 and b.ndim == 2 and a.dtype",
        "a.ndim > 2 and a.dtype",
        lambda: Network(lambda s, x: (x.reshape(2, 2, 4) @ s.w).reshape(4, 4), w=parameter(2, 4, 4)),
        SGD,
        (4, 4),
    ),
    "fold_biases takes any gradient of a bias for the sum of this g": (
        biases,
        "if g is not dot.args[1] or axis not in (0, (0,)) or keepdims or rest:",
        "if of_b.shape != b.shape:",
        lambda: Network(
            lambda s, x: np.tanh(x @ s.w + s.b) - 2 * np.tanh(x @ s.v + s.b),
            w=parameter(4, 4),
            b=parameter(4, seed=1),
            v=parameter(4, 4, seed=2),
        ),
        ADAM,
        (4, 4),
    ),
    "copy_what_is_updated copies nothing": (
        placing,
        "return array is not None and any(",
        "return array is None and any(",
        lambda: Network(assigning, w=parameter(4, 4), seen=nn.Buffer(normal(4, 4, seed=1))),
        SGD,
        (4, 4),
    ),
    "place_gradient gives a result two places": (
        placing,
        "maker is None or id(value) in program.places or",
        "maker is None or",
        lambda: Network(lambda s, x: np.tanh(x + s.p + s.q), p=parameter(4, 4), q=parameter(4, 4, seed=1)),
        ADAM,
        (4, 4),
    ),
}


def trained(network: Any, optimizer: Any, shape: Any, **options: Any) -> tuple[list[Any], list[str]]:
    """What two steps leave behind, and the warnings; without options, of eager steps."""
    model = network()
    made = optimizer(model)
    step = tg.compile_step(model, tg.mse_loss, made, **options) if options else None
    generators = [rng for _, rng in model.named_generators()]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for i in range(2):
            x, y = normal(*shape, seed=5 + i), normal(shape[0], 4, seed=8 + i)
            if step is not None:
                step(x, y)
                continue
            tg.mse_loss(model(x), y).backward()
            made.step()
            made.zero_grad()
    arrays = [*(p.data.copy() for p in model.parameters()), *(b.data.copy() for _, b in model.named_buffers())]
    return [*arrays, *(rng.random(3) for rng in copy.deepcopy(generators))], [str(w.message) for w in found]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_pass_without_a_precondition_is_found_out(name, mutate):
    module, old, new, network, optimizer, shape = MUTANTS[name]
    expected, _ = trained(network, optimizer, shape)
    found, warned = trained(network, optimizer, shape, verify=True)
    assert not warned
    assert same(found, expected)
    mutate(module, old, new)
    try:
        wrong, _ = trained(network, optimizer, shape, verify=False)
    except Exception:  # a program that cannot be made deceives nobody
        with pytest.raises(Exception):  # noqa: B017, PT011
            trained(network, optimizer, shape, verify=True)
        return
    assert not same(wrong, expected)
    found, warned = trained(network, optimizer, shape, verify=True)
    assert any("in the eager engine" in message for message in warned)
    assert same(found, expected)
