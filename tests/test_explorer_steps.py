"""The story of a backward pass: its numbers are the engine's and those of finite differences, and nothing is touched.

Graphs are drawn by hypothesis: each is a program of a few operations over values already there, so that values are used
once, often, or twice by the same call.
"""

from __future__ import annotations

import gc
import inspect
import re
import sys
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.explorer import Story, record
from tinygrad_mm.graph import defstopped, defvjp, primitive
from tinygrad_mm.numeric import numeric_gradient

# ---------------------------------------------------------------------------------------------------------------------
# Programs to draw
# ---------------------------------------------------------------------------------------------------------------------

SHAPES = ((), (3,), (2, 3), (2, 1))  # broadcast with each other
UNARY = (np.tanh, np.sin, np.exp, np.square, np.negative, tg.sigmoid, tg.softmax)
BINARY = (np.add, np.subtract, np.multiply, np.maximum)

Program = list[tuple[Any, tuple[int, ...]]]


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[np.ndarray], Program]:
    """Leaves, and calls that use values by their number: leaves first, then results in order."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    leaves = [rng.uniform(-1, 1, shape) for shape in shapes]
    program: Program = []
    for k in range(draw(st.integers(1, 8))):
        fun = draw(st.sampled_from(UNARY + BINARY))
        places = st.integers(0, len(leaves) + k - 1)
        if fun is tg.softmax:
            program.append((lambda x: tg.softmax(x * np.ones((2, 3))), (draw(places),)))
        else:
            program.append((fun, tuple(draw(places) for _ in range(1 if fun in UNARY else 2))))
    return leaves, program


def run(leaves: list[Any], program: Program) -> Any:
    """The loss: the sum of everything the program computed, so that no call is in vain."""
    values = list(leaves)
    for fun, places in program:
        values.append(fun(*(values[i] for i in places)))
    return sum((np.sum(np.tanh(v)) for v in values[len(leaves) :]), 0.0)


def tensors(leaves: list[np.ndarray]) -> list[tg.Tensor]:
    return [tg.Tensor(leaf, requires_grad=True) for leaf in leaves]


def two_layers() -> tuple[tg.Tensor, nn.Sequential]:
    model = nn.Sequential(nn.Dense(6, 4, "relu", rng=0), nn.Dense(4, 3, rng=1))
    images = tg.Tensor(np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32))
    images.name = "images"
    return tg.cross_entropy(model(images), np.array([0, 1, 2, 0, 1])), model


def texts(story: Story) -> list[Any]:
    """Everything in a story that is text."""
    return [(v.label, v.kind, v.expression, v.modules) for v in story.values] + [
        (s.value, [(e.consumer, e.formula, e.numbers, e.shapes, e.source) for e in s.ledger]) for s in story.backward
    ]


# ---------------------------------------------------------------------------------------------------------------------
# The numbers
# ---------------------------------------------------------------------------------------------------------------------


@given(programs())
def test_the_gradients_are_those_of_backward_bit_for_bit(drawn):
    leaves = tensors(drawn[0])
    loss = run(leaves, drawn[1])
    story = record(loss, variables={f"x{i}": leaf for i, leaf in enumerate(leaves)})
    loss.backward()
    for i, leaf in enumerate(leaves):
        if leaf.grad is None:
            assert all(value.name != f"x{i}" for value in story.values)
        else:
            np.testing.assert_array_equal(story.gradient(story.named(f"x{i}").id), leaf.grad)


@given(programs())
def test_every_gradient_is_the_sum_of_its_ledger(drawn):
    story = record(run(tensors(drawn[0]), drawn[1]))
    sent = [id(entry) for step in story.backward for entry in step.sent]
    assert sorted(sent) == sorted(id(e) for s in story.backward for e in s.ledger if e.consumer is not None)
    for step in story.backward:
        *_, last = step.running_sums()
        np.testing.assert_allclose(last, step.gradient, rtol=1e-12, atol=1e-12)
        for entry in step.ledger:
            assert entry.array.shape == story.values[step.value].shape
            if entry.summed:  # the oracle for un-broadcasting: sum, then take the argument's shape
                total = entry.before.sum(axis=entry.summed).reshape(entry.array.shape)
                np.testing.assert_allclose(entry.array, total)
            else:
                assert entry.before.shape == entry.array.shape


@given(programs())
def test_gradients_agree_with_finite_differences_of_the_program_itself(drawn):
    leaves, program = drawn
    named = tensors(leaves)
    story = record(run(named, program), variables={f"x{i}": leaf for i, leaf in enumerate(named)})
    for i in range(len(leaves)):
        expected = numeric_gradient(lambda *arrays: np.sum(run(list(arrays), program)), leaves, i)
        found = [value.id for value in story.values if value.name == f"x{i}"]
        if not found:  # the program does not use it
            assert np.all(expected == 0)
            continue
        check = story.check(found[0])
        if check.status == "agrees":  # a maximum of two equal values has no derivative
            np.testing.assert_allclose(story.gradient(found[0]), expected, rtol=1e-5, atol=1e-7)


@given(programs())
def test_checks_of_all_values_agree_or_stand_at_a_kink(drawn):
    story = record(run(tensors(drawn[0]), drawn[1]))
    found = story.checks()
    assert list(found)
    assert set(found) == {step.value for step in story.backward}
    assert {check.status for check in found.values()} <= {"agrees", "kink"}
    for check in found.values():
        assert check.error < 1e-5
        assert check is story.check(check.value)


@given(programs())
def test_steps_are_an_order_in_which_every_gradient_is_complete(drawn):
    story = record(run(tensors(drawn[0]), drawn[1]))
    assert [value.id for value in story.values] == list(range(len(story.values)))
    place = {step.value: i for i, step in enumerate(story.backward)}
    assert len(place) == len(story.backward)
    assert story.backward[0].value == story.loss
    for step in story.backward:
        for entry in step.ledger:
            assert entry.consumer is None or place[entry.consumer] < place[step.value]
    for i in story.forward:
        assert all(a.value is None or a.value < i for a in story.values[i].arguments)


# ---------------------------------------------------------------------------------------------------------------------
# Numeric checks
# ---------------------------------------------------------------------------------------------------------------------


def test_a_wrong_rule_is_found():
    @primitive
    def twice(x: Any) -> Any:
        return 2 * x

    defvjp(twice, lambda g, y, x: g * 3)
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    story = record(np.sum(twice(x) * 1.0), variables={"x": x})
    check = story.check(story.named("x").id)
    assert check.status == "differs"
    np.testing.assert_allclose(check.engine, [3, 3])
    np.testing.assert_allclose(check.numeric, [2, 2], rtol=1e-6)
    np.testing.assert_allclose(check.error, 1 / 3, rtol=1e-6)
    assert {story.check(i).status for i in story.forward} == {"agrees"}


@pytest.mark.parametrize(
    ("f", "x", "left", "right"),
    [
        (lambda x: np.sum(tg.relu(x)), [0.0, 1.0, -1.0], 0, 1),
        (lambda x: np.max(x), [1.0, 0.0, 1.0], 0, 1),
        (lambda x: np.sum(np.abs(x)), [0.0, 1.0], -1, 1),
        (lambda x: np.sum(np.maximum(x, 0.0) * 1e-6), [0.0], 0, 1e-6),
        (lambda x: np.sum(np.maximum(x, 1e4) * 1e3), [1e4], 0, 1e3),
    ],
)
def test_a_kink_is_told_with_both_slopes(f, x, left, right):
    x = tg.Tensor(np.array(x), requires_grad=True)
    check = record(f(x)).check(0)
    assert check.status == "kink"
    assert check.kinks[0]
    assert sum(check.kinks) == (2 if len(x) == 3 and right == 1 and x.data[2] == 1 else 1)
    np.testing.assert_allclose([check.left[0], check.right[0]], [left, right], rtol=1e-4, atol=1e-7 * abs(right))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("f", [np.sin, np.exp, lambda x: x**4, lambda x: np.log(x * x + 1)])
def test_a_curve_is_no_kink(f, scale):
    x = tg.Tensor(np.linspace(-2, 2, 9) * min(scale, 1.0), requires_grad=True)
    check = record(np.sum(f(x * scale if scale < 100 else x)) * scale).check(0)
    assert check.status == "agrees", check


def test_random_numbers_are_kept():
    x = tg.Tensor(np.linspace(1, 2, 12).reshape(3, 4), requires_grad=True)
    rng = np.random.default_rng(0)
    story = record(np.sum(np.tanh(tg.dropout(x, 0.5, rng))), variables={"x": x})
    before = rng.bit_generator.state
    check = story.check(story.named("x").id)
    assert check.status == "agrees"
    assert 0 in check.engine
    assert any(check.engine)
    assert rng.bit_generator.state == before


def test_draws_in_the_graph_are_kept_and_those_with_a_gradient_not_checked():
    @primitive
    def noise_like(x: Any, rng: Any) -> Any:
        return rng.normal(size=x.shape)

    @primitive
    def noisy(x: Any, rng: Any) -> Any:
        return x + rng.normal(size=x.shape)

    defstopped(noise_like)
    defvjp(noisy, lambda g, y, x, rng: g, None)
    rng = np.random.default_rng(0)
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    noise = noise_like(x, rng)
    story = record(np.sum(np.exp(x) * noise), variables={"x": x, "noise": noise})
    check = story.check(story.named("x").id)
    assert check.status == "agrees"
    np.testing.assert_allclose(check.numeric, np.exp(x.data) * noise.data, rtol=1e-6)
    check = record(np.sum(noisy(x, rng)), variables={"x": x}).check(0)
    assert (check.status, "random numbers" in check.reason) == ("not checked", True)


def test_what_does_not_repeat_itself_is_not_checked():
    draws = iter(range(1, 100))

    @primitive
    def noisy(x: Any) -> Any:
        return x + next(draws)

    defvjp(noisy, lambda g, y, x: g)
    x = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    check = record(np.sum(noisy(x))).check(0)
    assert check.status == "not checked"
    assert "does not repeat itself" in check.reason


def test_a_function_that_fails_when_repeated_is_not_checked():
    @primitive
    def single(x: Any) -> Any:
        if x.dtype != np.float32:
            raise TypeError("float32 only")
        return x * 2

    defvjp(single, lambda g, y, x: g * 2)
    check = record(np.sum(single(tg.Tensor([1.0], requires_grad=True)))).check(0)
    assert (check.status, "float32 only" in check.reason) == ("not checked", True)


def test_large_arrays_are_sampled_and_the_work_is_bounded():
    x = tg.Tensor(np.random.default_rng(0).normal(size=(40, 50)), requires_grad=True)
    story = record(np.sum(np.tanh(x)), variables={"x": x})
    check = story.check(story.named("x").id)
    assert check.status == "agrees"
    assert check.sampled
    assert 0 < len(check.places) < 20
    assert len(set(check.places)) == len(check.places)
    for place, engine in zip(check.places, check.engine, strict=True):
        np.testing.assert_allclose(engine, 1 - np.tanh(x.data[place]) ** 2)
    fresh = record(np.sum(np.tanh(x)))
    assert {c.status for c in fresh.checks(work=0).values()} == {"not checked"}
    assert "bound" in fresh.checks(work=0)[0].reason
    assert fresh.check(0).status == "agrees"  # asked for alone
    assert fresh.checks(work=0)[0].status == "agrees"  # known by now


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_dtype_is_checked_in_float64(dtype):
    x = tg.Tensor(np.array([0.5, -1.0, 2.0], dtype), requires_grad=True)
    story = record(np.sum(np.tanh(x.astype(np.float32)).astype(dtype) * x, dtype=dtype), variables={"x": x})
    check = story.check(story.named("x").id)
    assert check.status == "agrees"
    assert story.gradient(check.value).dtype == dtype
    exact = np.tanh(x.data.astype(np.float64)) + x.data * (1 - np.tanh(x.data.astype(np.float64)) ** 2)
    np.testing.assert_allclose(check.numeric, exact, rtol=1e-3 if dtype == np.float16 else 1e-6)


def test_infinite_losses_are_not_checked():
    x = tg.Tensor(np.array([0.0, 1.0]), requires_grad=True)
    with np.errstate(divide="ignore"):
        check = record(np.sum(np.log(x))).check(0)
    assert (check.status, check.reason) == ("not checked", "the loss is not finite")


# ---------------------------------------------------------------------------------------------------------------------
# The wrong order
# ---------------------------------------------------------------------------------------------------------------------


def test_the_wrong_order_by_hand():
    w = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    h = w * 3
    story = record(np.sum(h * h + h), variables={"w": w, "h": h})
    wrong = story.wrong_order()
    name = {value.id: value.label for value in story.values}
    # down the first path: sum, +, h * h, then h with the first of its three contributions, w
    assert [name[step.value] for step in wrong.steps] == ["v4", "v3", "v2", "h", "w"]
    assert len(wrong.steps[3].missing) == 2
    assert len(wrong.late) == 2
    np.testing.assert_array_equal(wrong.steps[3].gradient, [3, 6])
    np.testing.assert_array_equal(wrong.gradients[story.named("w").id], [9, 18])
    np.testing.assert_array_equal(wrong.gradients[story.named("h").id], [7, 13])  # complete, but too late
    assert wrong.wrong == [story.named("w").id]
    np.testing.assert_allclose(wrong.errors[story.named("w").id], 21 / 39)
    assert (wrong.paths, wrong.visits) == (3, 9)


@given(programs())
def test_the_wrong_order_against_a_recursive_one(drawn):
    """The oracle: depth first by recursion, with Jacobian-vector products by NumPy instead of rules where it can."""
    story = record(run(tensors(drawn[0]), drawn[1]))
    sent = {step.value: [e.target for e in step.sent] for step in story.backward}
    order: list[int] = []
    late = 0

    def visit(value: int) -> None:
        nonlocal late
        order.append(value)
        for target in sent[value]:
            if target in order:
                late += 1
            else:
                visit(target)

    def walks(value: int) -> int:
        return 1 + sum(walks(target) for target in sent[value])

    visit(story.loss)
    wrong = story.wrong_order()
    assert [step.value for step in wrong.steps] == order
    assert len(wrong.late) == late
    assert wrong.visits == walks(story.loss)
    if not late:
        assert wrong.wrong == []
    for step in wrong.steps:  # whoever is complete when handled, and fed by complete ones only, is right
        if not any(s.missing for s in wrong.steps):
            assert wrong.errors[step.value] < 1e-9
    assert (len(wrong.wrong) == 0) == all(
        np.allclose(wrong.gradients[s.value], s.gradient, rtol=1e-6, atol=0) for s in story.backward
    )


def test_a_graph_without_reuse_has_no_wrong_order():
    loss, model = two_layers()
    wrong = record(loss, model).wrong_order()
    assert wrong.wrong == []
    assert wrong.late == []
    assert set(wrong.errors.values()) == {0.0}


# ---------------------------------------------------------------------------------------------------------------------
# Nothing is touched, nothing kept
# ---------------------------------------------------------------------------------------------------------------------


def test_grads_hooks_and_graph_stay_as_they_are():
    a = tg.Tensor(np.array([1.0, 2.0]), requires_grad=True)
    b = tg.Tensor(np.array([3.0, 4.0]), requires_grad=True)
    mine = a.grad = np.array([10.0, 20.0])
    calls: list[Any] = []
    h = (a * b).retain_grad()
    h.register_hook(lambda g: calls.append(g) or g * 100)
    b.register_hook(calls.append)
    loss = np.sum(h * h)
    extra = h.extra
    story = record(loss, variables={"a": a, "b": b, "h": h})
    story.checks()
    story.wrong_order()
    assert a.grad is mine
    assert b.grad is None
    assert h.grad is None
    assert calls == []
    np.testing.assert_array_equal(mine, [10, 20])
    assert h.extra is extra
    assert "2 of the tensors have hooks" in story.notes[0]
    np.testing.assert_array_equal(story.gradient(story.named("h").id), 2 * np.array([3.0, 8.0]))
    loss.backward()
    assert len(calls) == 2
    np.testing.assert_array_equal(b.grad, 100 * 2 * np.array([3.0, 8.0]) * a.data)


def test_an_error_on_the_way_leaves_the_hooks_in_place():
    a = tg.Tensor(np.array([1.0]), requires_grad=True)
    a.register_hook(lambda g: None)
    loss = np.sum(a * a)
    a.data = np.array([2.0])
    with pytest.raises(RuntimeError, match="changed after"):
        record(loss)
    assert len(a.extra["hooks"]) == 1


def test_the_story_holds_no_tensor_and_stays_true():
    loss, model = two_layers()
    weight = model.layers[0].weight
    before = weight.data.copy()
    story = record(loss, model)
    gradient = story.gradient(story.named("layers.0.weight").id).copy()
    gone = [weakref.ref(loss), weakref.ref(loss.node.args[0]), weakref.ref(weight)]
    weight.data[...] = 0
    del loss, model, weight
    gc.collect()
    assert [ref() for ref in gone] == [None, None, None]
    np.testing.assert_array_equal(story.named("layers.0.weight").array, before)
    np.testing.assert_array_equal(story.gradient(story.named("layers.0.weight").id), gradient)
    assert {check.status for check in story.checks().values()} <= {"agrees", "kink"}


def test_a_released_graph_raises_and_names_retain_graph():
    x = tg.Tensor(np.array([1.0]), requires_grad=True)
    loss = np.sum(x * x)
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        record(loss)


def test_what_has_no_backward_pass_raises():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match="not behind a ndarray"):
        record(np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="requires_grad=True"):
        record(tg.Tensor(1.0))
    with pytest.raises(ValueError, match=r"shape \(2,\).*np.sum"):
        record(x * x)
    with pytest.raises(TypeError, match="list"):
        record(np.sum(x), model=[])


def test_a_leaf_is_a_story_of_one_step():
    x = tg.Tensor(2.0, requires_grad=True)
    story = record(x, variables={"x": x})
    assert story.forward == []
    assert [step.value for step in story.backward] == [0]
    assert story.check(0).status == "agrees"
    assert story.wrong_order().wrong == []


def test_two_thousand_operations_without_recursion():
    w = tg.Tensor(np.eye(3) * 0.5 + 0.1, requires_grad=True)
    h = tg.Tensor(np.ones((1, 3)))
    for _ in range(700):
        h = np.tanh(h @ w + h)
    loss = np.sum(h)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 80)
    try:
        story = record(loss, variables={"w": w})
        wrong = story.wrong_order()
        found = story.checks(work=1_000_000)
    finally:
        sys.setrecursionlimit(limit)
    assert len(story.forward) == 2101
    assert wrong.visits > 2**700
    assert {check.status for check in found.values()} == {"agrees", "not checked"}
    assert story.check(story.named("w").id).status == "agrees"
    loss.backward()
    np.testing.assert_array_equal(story.gradient(story.named("w").id), w.grad)


# ---------------------------------------------------------------------------------------------------------------------
# What stands in a story
# ---------------------------------------------------------------------------------------------------------------------


def test_a_network_tells_names_kinds_and_modules():
    loss, model = two_layers()
    story = record(loss, model)
    kinds = {value.label: value.kind for value in story.values if not re.fullmatch(r"v\d+", value.label)}
    expected = {
        "images": "input",
        "constant": "constant",
        "loss": "output",
        **{path: "parameter" for path, _ in model.named_parameters()},
    }
    assert kinds == expected
    assert [v.operation for v in story.values if v.kind in ("operation", "output")] == [
        *("matmul", "add", "relu", "matmul", "add", "cross_entropy")
    ]
    relu = next(v for v in story.values if v.operation == "relu")
    assert relu.modules == ("Sequential", "layers.0 (Dense)")
    matmul = story.values[story.forward[0]]
    assert matmul.expression == "images @ layers.0.weight"
    (entry,) = story.step(matmul.id).sent
    assert entry.formula == f"∂L/∂layers.0.weight = imagesᵀ · ∂L/∂{matmul.label}"
    assert entry.shapes == "(5, 6)ᵀ @ (5, 4) = (6, 5) @ (5, 4) → (6, 4)"
    assert " ".join(entry.source.split()).startswith("a.mT @ g if ")
    assert story.step(matmul.id).stopped == [(0, "requires no gradient")]
    bias = story.step(story.named("layers.0.bias").id).ledger[0]
    assert bias.summed == (0,)
    assert bias.formula.endswith(", summed over axis 0")


def test_kinds_of_values():
    x = tg.Tensor(np.array([1.0, -2.0]), requires_grad=True)
    h = x * 3.0
    cut = h.detach()
    buffer = tg.Buffer(np.array([1.0, 2.0]))
    loss = np.sum(np.where(h > 0, h * cut, buffer * h) + np.array([5.0, 6.0]))
    story = record(loss, variables={"x": x, "cut": cut, "buffer": buffer})
    assert story.named("cut").kind == "detached"
    assert story.named("cut").is_leaf
    assert story.named("buffer").kind == "buffer"
    mask = next(v for v in story.values if v.operation == "greater")
    assert mask.kind == "detached"
    assert not mask.requires_grad
    assert story.gradient(mask.id) is None
    assert [v.kind for v in story.values if np.array_equal(v.array, [5.0, 6.0])] == ["constant"]
    product = story.values[story.forward[0]]
    assert [(a.value, a.text) for a in product.arguments] == [(story.named("x").id, "x"), (None, "3.0")]
    assert {check.status for check in story.checks().values()} == {"agrees"}


def test_names_come_from_model_tensor_and_variables_in_this_order():
    model = nn.Sequential(nn.Dense(2, 2, rng=0))
    model.layers[0].weight.name = "W"
    weight, bias = model.layers[0].weight, model.layers[0].bias
    loss = np.sum(model(tg.Tensor([[1.0, 2.0]])))
    named = [v.name for v in record(loss, model).values if v.kind == "parameter"]
    assert named == ["layers.0.weight", "layers.0.bias"]
    variables = {"weight": weight, "bias": bias}
    assert [v.name for v in record(loss, variables=variables).values if v.kind == "parameter"] == ["W", "bias"]
    # without a model, those among this function's variables serve
    named = [v.name for v in record(loss).values if v.kind == "parameter"]
    assert named == ["model.layers.0.weight", "model.layers.0.bias"]
    assert [v.name for v in record(loss, variables={}).values if v.kind == "parameter"] == ["W", None]


def test_labels_are_unique_even_where_names_are_not():
    a, b = (tg.Tensor(float(k), requires_grad=True) for k in (2, 3))
    a.name = b.name = "v1"
    labels = [value.label for value in record(a * b, variables={}).values]
    assert len(set(labels)) == len(labels) == 3
    with pytest.raises(KeyError, match="no value is called 'nothing'"):
        record(a * b).named("nothing")


def test_a_call_with_several_results():
    a = tg.Tensor(np.random.default_rng(0).normal(size=(3, 3)), requires_grad=True)
    q, r = np.linalg.qr(a)
    story = record(np.sum(np.sin(q) + np.cos(r)), variables={"a": a, "q": q, "r": r})
    call = next(value for value in story.values if isinstance(value.array, tuple))
    assert call.shape is None
    assert len(call.array) == 2
    step = story.step(call.id)
    assert {entry.output for entry in step.ledger} == {0, 1}
    assert len(step.gradient) == 2
    np.testing.assert_array_equal(step.gradient[0], story.gradient(story.named("q").id))
    assert story.check(call.id).status == "not checked"
    assert story.check(story.named("a").id).status == "agrees"
    assert story.wrong_order().gradients.keys() == {s.value for s in story.backward}

    only_q = record(np.sum(np.linalg.qr(a)[0] ** 2 * np.arange(9.0).reshape(3, 3)))
    assert only_q.backward[-2].gradient[1] is None


def test_a_checkpointed_part_has_the_same_gradients_and_no_checks_before_it():
    x = tg.Tensor(np.array([0.5, 1.0]), requires_grad=True)
    loss = np.sum(np.sin(tg.checkpoint(lambda x: np.exp(x) * x)(x * 2)))
    story = record(loss, variables={"x": x})
    loss.backward()
    np.testing.assert_array_equal(story.gradient(story.named("x").id), x.grad)
    for step in story.backward:
        *_, last = step.running_sums()
        if isinstance(step.gradient, np.ndarray):
            np.testing.assert_allclose(last, step.gradient)
    check = story.check(story.named("x").id)
    assert check.status == "not checked"
    assert "checkpointed" in check.reason
    assert story.check(next(v.id for v in story.values if v.operation == "sin")).status == "agrees"


def test_source_lines_are_told_where_they_were_recorded():
    from tinygrad_mm.graph import entered

    x = tg.Tensor(2.0, requires_grad=True)
    with entered(lines=True):
        y = x * x
    value = record(y).values[-1]
    assert value.line[0] == __file__
    assert value.code == "y = x * x"
    assert record(x * x).values[-1].line is None


def test_the_same_program_tells_the_same_story():
    def one() -> list[Any]:
        loss, model = two_layers()
        story = record(loss, model)
        return [*texts(story), story.checks()]

    assert one() == one()


def test_arguments_without_names_have_none():
    a, b = (tg.Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    y = np.concatenate([a, b])
    story = record(np.sum(y * y), variables={"a": a, "b": b, "y": y})
    joined = story.named("y")
    assert [(x.name, x.text) for x in joined.arguments][:2] == [("", "a"), ("", "b")]
    assert joined.expression.startswith("concatenate(a, b")
