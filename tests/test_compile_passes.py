"""Each pass of the compiler computes the same with less, and memory is shared only where nothing reads it any more."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from agreement import assert_close
from hypothesis import given, settings
from interpreted import interpreted as interpreted_loops
from program_interpreter import interpret

import tinygrad_mm as tg
from tinygrad_mm.compiler import passes
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.emitter import emit
from tinygrad_mm.compiler.fused import where_positive
from tinygrad_mm.compiler.lowerings import WHOLE
from tinygrad_mm.compiler.passes.biases import fold_biases
from tinygrad_mm.compiler.passes.cleaning import remove_dead, remove_identities, share_common
from tinygrad_mm.compiler.passes.inlining import inline
from tinygrad_mm.compiler.passes.layout import features_first
from tinygrad_mm.compiler.passes.patterns import flatten_products, fuse
from tinygrad_mm.compiler.placement import Placement
from tinygrad_mm.compiler.program import Op, Place, Program, Value
from tinygrad_mm.compiler.tracing import Trace
from tinygrad_mm.graph import select

ALL = [
    ("remove_dead", remove_dead),
    ("inline", lambda program: inline(program, WHOLE)),
    ("remove_identities", remove_identities),
    ("share_common", share_common),
    ("fuse", fuse),
    ("features_first", features_first),
    ("flatten_products", flatten_products),
]


def traced(function: Any, *arrays: Any) -> Program:
    """The program of a function and of its gradients, before any pass."""
    names = [f"x{i}" for i in range(len(arrays))]
    trace = Trace(function, Captured(function), arrays, lambda tensors: (tuple(tensors), {}), names, True)
    return trace.program


def emitted(program: Program, inputs: list[Any], seeds: list[Any]) -> list[Any]:
    """The same by the code that is written out, in memory that is full of NaN."""
    code = emit(program)
    memory = [np.full(nbytes, 0xFF, np.uint8) for nbytes in code.buffers]
    forward, backward = code._make(memory, *(v.leaf.value for v in program.leaves), *code.bound.values())
    outputs, _, residuals = forward(*inputs)
    kept = [np.array(o) for o in outputs]
    gradients = backward(*inputs, *seeds, *residuals)
    for before, now in zip(kept, outputs, strict=True):
        np.testing.assert_array_equal(before, now)  # what was handed out is nobody's buffer
    return [*outputs, *(g for g in gradients if g is not None)]


def classifier(batch: int = 5, seed: int = 0) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(seed)
    model = tg.nn.Sequential(
        tg.nn.Dense(4, 6, "relu", rng=rng), tg.nn.Dense(6, 5, "relu", rng=rng), tg.nn.Dense(5, 3, rng=rng)
    )
    x, y = rng.standard_normal((batch, 4)).astype(np.float32), rng.integers(0, 3, batch)
    return (lambda x, y: tg.cross_entropy(model(x), y)), [x, y]


def attention() -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(1)
    layer = tg.nn.MultiHeadAttention(4, heads=2, rng=rng)
    return (lambda x: np.sum(layer(x, causal=True) ** 2)), [rng.standard_normal((2, 3, 4)).astype(np.float32)]


def convolution() -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(2)
    model = tg.nn.Sequential(tg.nn.Conv2d(1, 3, 3, rng=rng), tg.nn.ReLU(), tg.nn.MaxPool2d(2), tg.nn.Flatten())
    return (lambda x: np.mean(model(x))), [rng.standard_normal((2, 1, 6, 6)).astype(np.float32)]


def recurrence() -> tuple[Any, list[Any]]:
    layer = tg.nn.GRU(3, 4, rng=0)
    x = np.random.default_rng(3).standard_normal((2, 3, 3)).astype(np.float32)
    return (lambda x: np.sum(layer(x)[0] * 2)), [x]


NETWORKS = {"classifier": classifier, "attention": attention, "convolution": convolution, "recurrence": recurrence}


@pytest.mark.parametrize("network", NETWORKS)
def test_each_pass_computes_the_same(network):
    function, inputs = NETWORKS[network]()
    program = traced(function, *inputs)
    seeds = [np.ones(v.shape, v.dtype) for v in program.seeds]
    expected = interpret(program, inputs, seeds)
    for _, run in ALL:
        run(program)
        for ours, theirs in zip(interpret(program, inputs, seeds), expected, strict=True):
            assert_close(np.asarray(ours), np.asarray(theirs))
        for ours, theirs in zip(emitted(program, inputs, seeds), expected, strict=True):
            assert_close(np.asarray(ours), np.asarray(theirs))


CALLS = [
    lambda a, b: a + b,
    lambda a, b: a * b * 0.5,
    lambda a, b: np.tanh(a),
    lambda a, b: a @ b,
    lambda a, b: a.T,
    lambda a, b: tg.relu(a) - np.mean(b, axis=1, keepdims=True),
    lambda a, b: np.exp(-np.abs(a)).reshape(9)[::-1].reshape(3, 3),
]


@given(st.data())
def test_random_expressions_survive_all_passes_and_poisoned_memory(data):
    """Chains of calls that branch, in which results are read again late: liveness and in-place writes have to be right."""
    steps = data.draw(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=14)
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    w = tg.Tensor(rng.standard_normal((3, 3)), requires_grad=True, dtype=np.float64)

    def function(x: Any, y: Any) -> Any:
        made = [x @ w, y * 1.0, x - y, w]
        for kind, i, j in steps:
            a, b = made[i % len(made)], made[j % len(made)]
            made.append(CALLS[kind](a, b))
            made[-1] = np.tanh(made[-1])  # numbers that stay small
        return np.sum(made[-1] * made[len(made) // 2])

    inputs = [rng.standard_normal((3, 3)), rng.standard_normal((3, 3))]
    program = traced(function, *inputs)
    seeds = [np.ones(v.shape, v.dtype) for v in program.seeds]
    expected = interpret(program, inputs, seeds)
    passes.optimize(program)
    for found in (interpret(program, inputs, seeds), emitted(program, inputs, seeds)):
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(np.asarray(ours), np.asarray(theirs), length=1024)


# ---------------------------------------------------------------------------------------------------------------------
# What each pass does
# ---------------------------------------------------------------------------------------------------------------------


def functions(program: Program) -> list[Any]:
    return [op.fun for op in program.ops]


EXCHANGES = [
    lambda w: np.transpose(w, (0, 1)),
    lambda w: np.transpose(w, axes=(-2, -1)),
    lambda w: np.transpose(w, (1, 0)),
    lambda w: np.transpose(w, axes=(-1, 0)),
    lambda w: np.swapaxes(w, 0, -2),
    lambda w: np.swapaxes(w, 0, 1),
    lambda w: np.moveaxis(w, 1, 1),
    lambda w: np.moveaxis(w, 0, -1),
    lambda w: np.transpose(np.transpose(w, (1, 0)), (0, 1)),
]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_exchanged_axes_are_those_that_were_named(exchange, backend):
    rng = np.random.default_rng(0)
    w, x = tg.Tensor(rng.standard_normal((40, 40)), requires_grad=True), rng.standard_normal((40, 40))

    def function(x):
        return np.sum(np.tanh(x @ exchange(w)) ** 2 * exchange(np.tanh(w)))

    def run(f):
        w.grad = None
        loss = f(x)
        loss.backward()
        return loss.data, w.grad

    expected = run(function)
    with interpreted_loops():
        for ours, theirs in zip(run(tg.compile(function, backend=backend)), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


def test_dead_code_is_removed_but_draws_stay():
    rng = np.random.default_rng(0)

    def function(x: Any) -> Any:
        tg.dropout(x, 0.5, rng)
        np.exp(x)
        return x * 2

    program = traced(function, np.ones(3, np.float32))
    remove_dead(program)
    assert np.exp not in functions(program)
    assert [f.__name__ for f in functions(program)] == ["uniform_like", "multiply"]


def test_the_same_call_is_made_once_and_a_draw_twice():
    rng = np.random.default_rng(0)
    program = traced(lambda x: np.exp(x) + np.exp(x) * 2 + np.exp(x) * 2.0, np.ones(3, np.float32))
    share_common(program)
    assert functions(program).count(np.exp) == 1
    assert functions(program).count(np.multiply) == 2  # 2 and 2.0 are not the same number
    program = traced(lambda x: tg.dropout(x, 0.5, rng) + tg.dropout(x, 0.5, rng), np.ones(3, np.float32))
    share_common(program)
    assert [f.__name__ for f in functions(program)].count("uniform_like") == 2


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: x * 1, 0),
        (lambda x: 1 * x, 0),
        (lambda x: x / 1, 0),
        (lambda x: 1 / x, 1),
        (lambda x: x.T.T, 0),
        (lambda x: x.reshape(2, 3).reshape(2, 3), 0),
        (lambda x: x.astype(np.float32), 0),
        (lambda x: x.astype(np.float64), 1),
        (lambda x: x + 0, 1),  # -0.0 + 0 is 0.0
    ],
)
def test_calls_that_change_nothing(function, left):
    program = traced(function, np.ones((2, 3), np.float32))
    remove_identities(program)
    remove_dead(program)
    assert len(program.ops) == left


def test_a_primitive_is_taken_apart_where_its_body_can_be_traced():
    @tg.primitive
    def twice(x: Any) -> Any:
        return x + x

    @tg.primitive
    def in_place(x: Any) -> Any:
        y = np.array(x)
        y += 1
        return y

    tg.defvjp(twice, lambda g, y, x: g * 2)
    tg.defvjp(in_place, lambda g, y, x: g)
    program = traced(lambda x: in_place(twice(x)), np.ones(3))
    inline(program, WHOLE)
    assert functions(program) == [np.add, in_place]


def test_several_results_are_taken_apart_too():
    program = traced(lambda x: tg.functional.standardize(x, (0,))[0], np.arange(6.0).reshape(3, 2))
    inline(program, WHOLE)
    assert select not in functions(program)


def test_softmax_is_computed_once_for_the_loss_and_its_gradient():
    function, inputs = classifier()
    program = passes.optimize(traced(function, *inputs))
    assert functions(program).count(np.exp) == 1
    assert functions(program).count(np.equal) == 1
    assert functions(program).count(where_positive) == 2


def test_products_with_weights_are_kept_features_first():
    function, inputs = classifier()
    program = traced(function, *inputs)
    passes.optimize(program)
    products = [op.result for op in program.ops if op.fun is np.matmul and not op.backward]
    assert [(v.shape, v.order) for v in products] == [((5, 6), (1, 0)), ((5, 5), (1, 0)), ((5, 3), (1, 0))]
    placed = Placement(program).arrays
    assert all(placed[id(v)].ghost.flags.f_contiguous for v in products)


def test_a_bias_becomes_a_column_of_its_weight():
    rng = np.random.default_rng(0)
    flat, store = rng.standard_normal((4 + 1) * 6).astype(np.float32), np.zeros((4 + 1) * 6, np.float32)
    layer = tg.nn.Dense(4, 6, rng=rng)
    layer.weight.value, layer.bias.value = flat[:24].reshape(4, 6), flat[24:]
    x = rng.standard_normal((5, 4)).astype(np.float32)
    trace = Trace(lambda x: np.mean(np.tanh(layer(x))), Captured(layer), [x], lambda t: (tuple(t), {}), ["x"], True)
    program = trace.program
    loss, *gradients = interpret(program, [x], [np.ones((), np.float32)])
    expected = np.concatenate([g.reshape(-1) for g in sorted(gradients, key=np.size, reverse=True)])
    one = Value(np.ones((), np.float32), "constant")
    program.substitute({id(seed): one for seed in program.seeds})
    program.seeds = []
    passes.optimize(program)
    for target, value in zip(trace.targets, program.gradients, strict=True):
        is_weight = target is layer.weight
        place = store[:24].reshape(4, 6) if is_weight else store[24:]
        program.places[id(value)] = Place("gradient_of_weight" if is_weight else "gradient_of_bias", place)
        program.gradient_of[id(target)] = value
    program.gradients = []
    fold_biases(program)
    assert np.add not in functions(program)
    assert functions(program).count(np.dot) + functions(program).count(np.matmul) == 2
    arrays = [place.array for place in program.places.values()]
    (step,) = emit(program, joint=True).make([v.leaf.value for v in program.leaves], arrays)
    ((found,), _) = step(x)
    assert_close(np.asarray(found), np.asarray(loss))
    assert_close(store, expected)


@given(
    uses=st.integers(1, 5),
    biased=st.integers(0, 5),
    kind=st.sampled_from(["chain", "beside", "transposed too", "read elsewhere", "another dtype"]),
    batch=st.sampled_from([1, 2, 7]),
)
def test_a_weight_used_several_times_has_one_product_for_its_gradient(uses, biased, kind, batch):
    rng = np.random.default_rng(0)
    w, b = (tg.Tensor(rng.standard_normal(s), requires_grad=True) for s in [(4, 4), (4,)])

    def function(x: Any) -> Any:
        h, total = x, 0
        for i in range(uses):
            y = (x * (i + 1) if kind == "beside" else h) @ w
            h = np.tanh(y + b if i < biased else y)
            total = total + np.sum(h * (i + 1))
        if kind == "transposed too":
            total = total + np.sum(np.tanh(h @ w.T))
        if kind == "another dtype":
            total = total + np.sum(np.tanh(x.astype(np.float32) @ w.astype(np.float32))).astype(np.float64)
        if kind == "read elsewhere":
            total = total + np.sum((x.T @ h) * w)
        return total

    x = rng.standard_normal((batch, 4))
    program = traced(function, x)
    seeds = [np.ones(v.shape, v.dtype) for v in program.seeds]
    expected = interpret(program, [x], seeds)
    passes.optimize(program, (passes.INLINE, passes.CLEAN))
    before = functions(program)
    passes.optimize(program, (passes.JOIN_PRODUCTS,))
    for found in (interpret(program, [x], seeds), emitted(program, [x], seeds)):
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(np.asarray(ours), np.asarray(theirs), coarsest=np.float32 if "dtype" in kind else np.float64)
    assert (functions(program).count(np.matmul) < before.count(np.matmul)) == (uses >= 3)


@given(uses=st.integers(1, 5), width=st.sampled_from([3, 40]), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=20)
def test_a_recurrent_step_is_an_eager_step(uses, width, dtype):
    rng = np.random.default_rng(uses)
    models = [tg.nn.GRU(3, width, layers=1 + uses % 2, rng=0, dtype=dtype) for _ in range(2)]
    optimizers = [tg.optim.SGD(m.parameters(), 0.5, momentum=0.5) for m in models]

    def loss(output: Any, target: Any) -> Any:
        return np.mean((output[0] - target) ** 2) + np.mean(output[1])

    step = tg.compile_step(models[0], loss, optimizers[0])
    for _ in range(3):
        x, y = (rng.standard_normal((4, uses, n)).astype(dtype) for n in (3, width))
        step(x, y)
        loss(models[1](x), y).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
    for ours, theirs in zip(*(m.parameters() for m in models), strict=True):
        assert_close(ours.data, theirs.data, length=256)


# ---------------------------------------------------------------------------------------------------------------------
# Memory
# ---------------------------------------------------------------------------------------------------------------------


def test_a_chain_of_elementwise_calls_stays_in_one_buffer():
    program = passes.optimize(traced(lambda x: np.sum(np.exp(np.sin(np.cos(x * 2)))), np.ones((4, 4))))
    placement = Placement(program)
    assert placement.buffers == [128]
    assert placement.without_reuse > 4 * 128


def test_what_is_read_later_is_not_written_over():
    def function(x: Any) -> Any:
        a = np.exp(x)
        return np.sum(np.sin(a) * a + a.T)

    x = np.random.default_rng(0).standard_normal((3, 3))
    program = passes.optimize(traced(function, x))
    (found,) = emitted(program, [x], [])
    a = np.exp(x)
    np.testing.assert_allclose(found, np.sum(np.sin(a) * a + a.T))


def test_a_reshape_that_has_to_copy_is_no_view():
    x = np.arange(6.0).reshape(2, 3)
    program = passes.optimize(traced(lambda x: np.sin(np.exp(x).T.reshape(6)), x))
    assert [step.op.fun for step in Placement(program).steps] == [np.exp, np.reshape, np.sin]
    (found,) = emitted(program, [x], [])
    np.testing.assert_allclose(found, np.sin(np.exp(x).T.reshape(6)))
    program = passes.optimize(traced(lambda x: np.sin(np.exp(x).reshape(6)), x))
    assert [step.op.fun for step in Placement(program).steps] == [np.exp, np.sin]


def test_an_op_reads_like_a_call():
    x = Value(np.ones(2), "input", "x")
    op = Op(np.exp, [x], {}, Value(np.ones(2)))
    assert "exp(<input x (2,) float64>)" in repr(op)


@given(
    where=st.sampled_from([np.float32, np.float64]),
    fill=st.sampled_from([0.0, -0.0, 1.5, -np.inf, np.nan]),
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_known_mask_keeps_or_clears_all_bits(where, fill, turned, seed):
    """Also of what is no number: nothing is multiplied."""
    generator = np.random.default_rng(seed)
    mask = generator.random((3, 4)) < 0.5
    x = generator.choice([1.0, -2.0, 0.0, -0.0, np.inf, -np.inf, np.nan], (2, 3, 4)).astype(where)

    rows = tuple(map(tuple, mask.tolist()))

    @tg.compile
    def masked(x):
        x, mask = np.negative(x), np.array(rows)  # an array from elsewhere may be written to; this one is a constant
        return np.where(mask, fill, x) if turned else np.where(mask, x, fill)

    x = -x
    expected = np.where(mask, where(fill), x) if turned else np.where(mask, x, where(fill))
    found = masked(tg.Tensor(-x)).data
    assert found.dtype == where
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))
    assert "bitwise_and" in masked.source


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    axis=st.sampled_from([-1, 2, (2,), (0, 1), (1, 0), 0, 1, (0, 2), None]),
    keepdims=st.booleans(),
    turned=st.booleans(),
)
def test_sums_over_any_axes(shape, axis, keepdims, turned):
    x = np.random.default_rng(0).standard_normal(shape)

    @tg.compile
    def total(x):
        x = np.sin(x)
        x = np.swapaxes(x, 0, 2) if turned else x
        return np.sum(x, axis=axis, keepdims=keepdims)

    expected = np.sum(np.sin(x).swapaxes(0, 2) if turned else np.sin(x), axis=axis, keepdims=keepdims)
    np.testing.assert_allclose(total(tg.Tensor(x)).data, expected, rtol=1e-12, atol=1e-13)


@given(st.lists(st.integers(-5, 4), max_size=12), st.sampled_from([np.int64, np.int8]), st.booleans(), st.booleans())
def test_rows_named_several_times_get_the_sum(rows, dtype, square, wide):
    rows = np.array(rows, dtype)
    rows = rows[: len(rows) // 2 * 2].reshape(2, -1) if square else rows
    width = 3000 if wide else 3  # a large gradient is sorted first
    table = tg.Tensor(np.random.default_rng(0).standard_normal((5, width)), requires_grad=True)
    weights = np.random.default_rng(1).standard_normal((*rows.shape, width))

    @tg.compile
    def picked(table, rows):
        return np.sum(table[rows] * weights)

    expected = np.zeros((5, width))
    np.add.at(expected, rows, weights)
    for f in (picked, picked.function):
        table.grad = None
        f(table, rows).backward()
        np.testing.assert_allclose(table.grad, expected, rtol=1e-12, atol=1e-12)
    added = tg.Tensor(np.ones((5, width))).at[rows].add(weights)
    np.testing.assert_allclose(added.data, 1 + expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("row", [5, -6])
@pytest.mark.parametrize("width", [3, 9000])
def test_a_row_that_is_not_there_raises(row, width):
    with pytest.raises(IndexError, match="out of bounds"):
        tg.Tensor(np.ones((5, width))).at[np.array([1, row])].add(1.0)


def test_rows_of_a_large_table_named_by_small_integers():
    table = tg.Tensor(np.ones((300, 2)), requires_grad=True)
    np.sum(table[np.array([1, -1, 1], np.int8)]).backward()
    assert table.grad[1, 0] == 2
    assert table.grad[299, 0] == 1
