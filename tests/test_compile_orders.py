"""In which order the axes of results lie in memory is nobody's business but the writer's: numbers stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agreement import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import interpreted
from program_interpreter import interpret

import tinygrad_mm as tg
from tinygrad_mm.compiler import loops, passes
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.emitter import emit
from tinygrad_mm.compiler.lowerings import Lowering, lowering_of
from tinygrad_mm.compiler.program import Program
from tinygrad_mm.compiler.tracing import Trace

MODELS: dict[str, Any] = {
    "dense": lambda: (
        tg.nn.Sequential(tg.nn.Dense(4, 6, "relu", rng=0), tg.nn.LayerNorm(6), tg.nn.Dense(6, 3, rng=1)),
        (5, 4),
    ),
    "recurrent": lambda: (lambda gru, x: gru(x)[0], (2, 3, 3), tg.nn.GRU(3, 4, rng=0)),
    "attention": lambda: (lambda layer, x: layer(x, causal=True), (2, 3, 4), tg.nn.MultiHeadAttention(4, 2, rng=0)),
    "images": lambda: (
        tg.nn.Sequential(tg.nn.Conv2d(1, 2, 3, rng=0), tg.nn.ReLU(), tg.nn.MaxPool2d(2, 1), tg.nn.Flatten()),
        (17, 1, 5, 5),
    ),
}


def program_of(kind: str) -> tuple[Program, list[Any]]:
    """The program of a loss and its gradients, after all passes, and its inputs."""
    model, shape, *rest = MODELS[kind]()
    labels = np.random.default_rng(1).integers(0, 3, shape[0])

    def function(x: Any, y: Any) -> Any:
        out = model(*rest, x)
        return tg.cross_entropy(np.sin(out.reshape(shape[0], -1)), y) + np.sum(out) * 0.1

    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    trace = Trace(function, Captured(function), [x, labels], lambda t: (tuple(t), {}), ["x", "y"], True)
    return passes.optimize(trace.program), [x, labels]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=8)
@given(data=st.data())
def test_any_order_of_axes_gives_the_same_numbers(kind: str, backend: str, data: Any) -> None:
    program, inputs = program_of(kind)
    seeds = [np.ones(v.shape, v.dtype) for v in program.seeds]
    expected = interpret(program, inputs, seeds)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    share = data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    for op in program.ops:
        elementwise = isinstance(lowering_of(op), Lowering) and isinstance(op.fun, np.ufunc) and op.fun is not np.matmul
        if elementwise and rng.random() < share:
            op.result.order = tuple(map(int, rng.permutation(op.result.ndim)))
    if backend == "numpy":
        forward, backward = emit(program).make([v.leaf.value for v in program.leaves])
        found = results(program, forward, backward, inputs, seeds)
    else:
        with interpreted():
            forward, backward = loops.emit(program).make([v.leaf.value for v in program.leaves])
            found = results(program, forward, backward, inputs, seeds)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(np.asarray(ours), np.asarray(theirs))


def results(program: Program, forward: Any, backward: Any, inputs: Any, seeds: Any) -> list[Any]:
    outputs, _, residuals = forward(*inputs)
    gradients = backward(*inputs, *seeds, *residuals)
    return [*outputs, *(g for g in gradients if g is not None)]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_label_that_is_no_class_is_all_zeros(backend: str) -> None:
    """Also where the program was made for labels that are."""
    with interpreted():
        f = tg.compile(lambda x, y: x * tg.one_hot(y, 3), backend=backend, verify=False)
        for labels in ([0, 2, 1], [2, -1, 5], [-3, 3, 0]):
            x, y = np.full((3, 3), 2.0, np.float32), np.array(labels)
            np.testing.assert_array_equal(f(tg.Tensor(x), y).data, x * (y[:, None] == np.arange(3)))
