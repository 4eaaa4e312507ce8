"""Transforms against closed formulas, finite differences and each other: trees, every order, what they leave alone."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import namedtuple
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformed import CLASSES, INPUTS, RNG

from tinygrad_mm import nn
from tinygrad_mm.functional import cross_entropy
from tinygrad_mm.gradient import no_grad
from tinygrad_mm.graph import Monitor, entered, state, topological
from tinygrad_mm.numeric import numeric_derivative
from tinygrad_mm.pytree import flatten, flatten_like, unflatten
from tinygrad_mm.tensor import Parameter, Tensor
from tinygrad_mm.transforms import checkpoint, grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

Pair = namedtuple("Pair", "left right")

# ---------------------------------------------------------------------------------------------------------------------
# The three functions that the transforms are shown on
# ---------------------------------------------------------------------------------------------------------------------


def rosenbrock(x: Any) -> Any:
    return np.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)


FEATURES = RNG.standard_normal((12, 4))

LABELS = RNG.integers(0, 2, 12)


def logistic(w: Any) -> Any:
    """Negative log likelihood of logistic regression."""
    margin = FEATURES @ w
    return np.sum(np.logaddexp(0, margin) - LABELS * margin)


def two_layers(p: Any) -> Any:
    """The loss of a 3-4-2 network, from all 26 parameters in one vector."""
    w1, b1, w2, b2 = p[:12].reshape(3, 4), p[12:16], p[16:24].reshape(4, 2), p[24:]
    return cross_entropy(np.tanh(INPUTS @ w1 + b1) @ w2 + b2, CLASSES)


EXAMPLES = {
    "rosenbrock": (rosenbrock, np.array([0.3, -0.5, 1.1, 0.7])),
    "logistic": (logistic, RNG.standard_normal(4)),
    "two_layers": (two_layers, RNG.standard_normal(26)),
}

on_examples = pytest.mark.parametrize(("f", "x"), EXAMPLES.values(), ids=EXAMPLES)


def plain(f: Any) -> Any:
    """f on arrays alone, as an array: what finite differences are taken of."""

    def call(*args: Any) -> Any:
        y = f(*args)
        return y.data if isinstance(y, Tensor) else y

    return call


@on_examples
def test_jvp_is_a_forward_difference(f: Any, x: np.ndarray) -> None:
    v = RNG.standard_normal(x.shape)
    y, derivative = jvp(f, x, v)
    assert y == pytest.approx(plain(f)(x))
    assert derivative == pytest.approx(numeric_derivative(plain(f), [x], [v]), rel=1e-6)
    h = 1e-7
    assert derivative == pytest.approx((plain(f)(x + h * v) - plain(f)(x)) / h, rel=1e-4)


@on_examples
def test_hessian_is_symmetric_and_a_difference_of_gradients(f: Any, x: np.ndarray) -> None:
    matrix = hessian(f)(x)
    assert matrix.shape == (x.size, x.size)
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-9, atol=1e-11)
    for i in range(x.size):
        column = numeric_derivative(grad(f), [x], [np.eye(x.size)[i]])
        np.testing.assert_allclose(matrix[:, i], column, rtol=1e-6, atol=1e-7)


@on_examples
def test_hessian_times_vector_is_hvp(f: Any, x: np.ndarray) -> None:
    v = RNG.standard_normal(x.shape)
    np.testing.assert_allclose(hessian(f)(x) @ v, hvp(f, x, v), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jvp(grad(f), x, v)[1], hvp(f, x, v), rtol=1e-10, atol=1e-12)


@on_examples
def test_checkpointing_changes_no_derivative(f: Any, x: np.ndarray) -> None:
    v = RNG.standard_normal(x.shape)
    np.testing.assert_array_equal(grad(checkpoint(f))(x), grad(f)(x))
    np.testing.assert_allclose(hessian(checkpoint(f))(x), hessian(f)(x), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(hvp(checkpoint(f), x, v), hvp(f, x, v), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(jvp(checkpoint(f), x, v)[1], jvp(f, x, v)[1], rtol=1e-12)


def test_logistic_regression_has_the_hessian_of_the_textbook() -> None:
    w = EXAMPLES["logistic"][1]
    p = 1 / (1 + np.exp(-FEATURES @ w))
    np.testing.assert_allclose(grad(logistic)(w), FEATURES.T @ (p - LABELS), rtol=1e-12)
    np.testing.assert_allclose(hessian(logistic)(w), FEATURES.T @ (FEATURES * (p * (1 - p))[:, None]), rtol=1e-10)


# ---------------------------------------------------------------------------------------------------------------------
# Trees
# ---------------------------------------------------------------------------------------------------------------------

arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    elements=st.integers(-4, 4).map(lambda n: n / 2),
)

keys = st.one_of(st.text(max_size=3), st.integers(0, 5))


def trees(leaves: Any) -> Any:
    return st.recursive(
        leaves | st.none(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(keys, inner, max_size=3),
            st.builds(Pair, inner, inner),
        ),
        max_leaves=6,
    )


def mapped(fun: Any, tree: Any) -> Any:
    """An independent map over a tree."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: mapped(fun, value) for key, value in tree.items()}
    if isinstance(tree, Pair):
        return Pair(mapped(fun, tree.left), mapped(fun, tree.right))
    if isinstance(tree, (list, tuple)):
        return type(tree)([mapped(fun, value) for value in tree])
    return fun(tree)


def assert_same_tree(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same_tree(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_tree(a, b)
    elif one is not None:
        np.testing.assert_array_equal(one, other, strict=True)


def squares(tree: Any) -> Any:
    """Half the sum of all squares: its gradient is the tree itself."""
    return sum((np.sum(leaf.value * leaf.value) * 0.5 for leaf in flatten(tree)), start=0.0)


@given(tree=trees(st.integers()))
def test_trees_come_apart_and_together(tree: Any) -> None:
    leaves = flatten(tree)
    assert unflatten(tree, iter(leaf.value for leaf in leaves)) == tree
    seen: list[Any] = []
    mapped(seen.append, tree)
    assert [leaf.value for leaf in leaves] == seen
    for leaf in leaves:
        assert eval(f"tree{leaf.path}", {"tree": tree}) == leaf.value


@given(tree=trees(st.integers()))
def test_trees_are_matched_by_key_not_by_order(tree: Any) -> None:
    def reversed_keys(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: reversed_keys(tree[key]) for key in reversed(tree)}
        if isinstance(tree, (list, tuple)):
            return [reversed_keys(item) for item in tree]
        return tree

    assert flatten_like(tree, reversed_keys(tree), "it") == [leaf.value for leaf in flatten(tree)]


@pytest.mark.parametrize(
    ("tree", "other", "message"),
    [
        (
            {"a": 1},
            {"b": 1},
            r"it: expected a dict with the keys 'a', as in the arguments; got a dict with the keys 'b'",
        ),
        ({"a": [1, 2]}, {"a": [1]}, r"it\['a'\]: expected a list of length 2.*got a list of length 1"),
        ((1, 2), 3, r"it: expected a tuple of length 2.*got a int"),
        (None, 1, r"it: expected None"),
    ],
)
def test_trees_that_differ_are_refused(tree: Any, other: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flatten_like(tree, other, "it")


@given(tree=trees(arrays))
def test_the_gradient_of_a_tree_is_a_tree_like_it(tree: Any) -> None:
    assert_same_tree(grad(squares)(tree), tree)


@given(tree=trees(arrays))
def test_products_with_trees(tree: Any) -> None:
    """J = diag(x) for the elementwise square over 2: J v = x v, J^T v = x v; and the Hessian is the identity."""
    v = mapped(lambda a: np.full_like(a, 3), tree)
    product = mapped(lambda a: np.asarray(a * 3, a.dtype), tree)
    half_squares = lambda tree: mapped(lambda a: a * a * 0.5, tree)
    y, along = jvp(half_squares, (tree,), (v,))
    assert_same_tree(y, mapped(lambda a: np.asarray(a * a * 0.5, a.dtype), tree))
    assert_same_tree(along, product)
    again, pull = vjp(half_squares, tree)
    assert_same_tree(again, y)
    assert_same_tree(pull(v), (product,))
    assert_same_tree(hvp(squares, (tree,), (v,)), (v,))


@given(x=arrays, y=arrays)
def test_jacobian_shapes(x: np.ndarray, y: np.ndarray) -> None:
    """d (x_i y_j) / d (x, y), by rows or by columns, empty or 0-d."""
    outer = lambda x, y: x.reshape(x.shape + (1,) * y.ndim) * y
    dx, dy = jacobian(outer, (0, 1))(x, y)
    assert dx.shape == x.shape + y.shape + x.shape
    assert dy.shape == x.shape + y.shape + y.shape
    assert (dx.dtype, dy.dtype) == (x.dtype, y.dtype)
    identity = np.eye(x.size).reshape(x.shape + (1,) * y.ndim + x.shape)
    np.testing.assert_array_equal(dx, identity * y.reshape(y.shape + (1,) * x.ndim) * np.ones(dx.shape))
    identity = np.eye(y.size).reshape((1,) * x.ndim + y.shape + y.shape)
    np.testing.assert_array_equal(dy, identity * x.reshape(x.shape + (1,) * (2 * y.ndim)) * np.ones(dy.shape))


@given(n=st.integers(1, 6), m=st.integers(1, 6))
def test_jacobian_by_rows_and_by_columns(n: int, m: int) -> None:
    a = np.random.default_rng(n * 7 + m).standard_normal((m, n))
    x = np.linspace(-1, 1, n)
    np.testing.assert_allclose(
        jacobian(lambda x: np.tanh(a @ x))(x), a * (1 - np.tanh(a @ x) ** 2)[:, None], rtol=1e-12
    )
    twice = jacobian(lambda x: {"y": np.tanh(a @ x), "z": (a @ x, 1.0)})(x)
    np.testing.assert_allclose(twice["y"], a * (1 - np.tanh(a @ x) ** 2)[:, None], rtol=1e-12)
    np.testing.assert_allclose(twice["z"][0], a, rtol=1e-15)
    assert_same_tree(twice["z"][1], np.zeros(n))


@pytest.mark.parametrize(
    ("inputs", "outputs", "reverse_passes"), [(1, 6, 1), (2, 5, 1), (3, 6, 6), (3, 3, 3), (6, 1, 1), (6, 0, 0)]
)
def test_jacobian_costs_what_it_says(inputs: int, outputs: int, reverse_passes: int) -> None:
    """One reverse pass for each output; or a single one, recorded, where the inputs are fewer than half as many."""
    a, calls = np.ones((outputs, inputs)), []

    class Calls(Monitor):
        def contribution(self, vertex: Any, i: int, gradient: Any) -> None:
            if vertex.node.fun is np.sin:
                calls.append(gradient)

    with entered(monitor=Calls()):
        found = jacobian(lambda x: a @ np.sin(x))(np.zeros(inputs))
    np.testing.assert_array_equal(found, a)
    assert len(calls) == reverse_passes


@given(n=st.integers(1, 5), m=st.integers(1, 5))
def test_forward_and_reverse_products_agree(n: int, m: int) -> None:
    """u . (J v) = (J^T u) . v"""
    draw = np.random.default_rng(n * 7 + m)
    a, x, v, u = (draw.standard_normal(shape) for shape in ((m, n), n, n, m))
    f = lambda x: np.sin(a @ x) * np.exp(x[0])
    y, pull = vjp(f, x)
    again, along = jvp(f, x, v)
    np.testing.assert_array_equal(y, again)
    assert u @ along == pytest.approx(pull(u)[0] @ v, rel=1e-10)
    np.testing.assert_array_equal(pull(2 * u)[0], 2 * pull(u)[0])  # as often as one likes


def test_hessian_of_a_container_is_made_of_blocks() -> None:
    f = lambda p: p["a"] * p["a"] * np.sum(p["b"])
    blocks = hessian(f)({"a": np.array(3.0), "b": np.array([1.0, 2.0])})
    assert_same_tree(
        blocks,
        {
            "a": {"a": np.array(6.0), "b": np.array([6.0, 6.0])},
            "b": {"a": np.array([6.0, 6.0]), "b": np.zeros((2, 2))},
        },
    )
    (aa, ab), (ba, bb) = hessian(lambda a, b: a * a * b, (0, 1))(np.array(3.0), np.array(5.0))
    assert [float(h) for h in (aa, ab, ba, bb)] == [10.0, 6.0, 6.0, 0.0]


# ---------------------------------------------------------------------------------------------------------------------
# Composition
# ---------------------------------------------------------------------------------------------------------------------


def test_grad_of_grad_of_grad() -> None:
    f, expected = lambda x: x**5, [32.0, 80.0, 160.0, 240.0, 240.0, 120.0, 0.0]
    for value in expected:
        assert float(f(np.array(2.0))) == value
        f = grad(f)


def test_perturbations_are_not_confused() -> None:
    """The classic cases of Siskind and Pearlmutter (2005), and their relatives with vjp, jvp and Tensors."""
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(2.0) == 1
    assert grad(lambda x: x * grad(lambda y: x * y)(1.0))(2.0) == 4
    assert grad(lambda x: x * grad(lambda y: x * y)(x))(3.0) == 6
    assert grad(lambda x: x * jvp(lambda y: x + y, 1.0, 1.0)[1])(2.0) == 1
    assert grad(lambda x: x * jvp(lambda y: x * y, x, 1.0)[1])(2.0) == 4
    assert grad(lambda x: x * vjp(lambda y: x * y, x)[1](1.0)[0])(2.0) == 4
    assert jvp(lambda x: x * jvp(lambda y: x * y * y, x, 1.0)[1], 3.0, 1.0)[1] == 54  # (2 x^3)' = 6 x^2
    x = Tensor(3.0, requires_grad=True)
    assert grad(lambda y: x * y)(x).item() == 3
    assert grad(lambda y, z: x * y * z, (0, 1))(x, x)[0].item() == 9
    assert float(grad(lambda x: jacobian(lambda y: x * y)(np.ones(2)).sum())(np.array(5.0))) == 2


def test_grad_of_a_function_that_calls_jvp() -> None:
    x, v = np.array([0.5, -1.0, 2.0]), np.array([1.0, 2.0, -1.0])
    f = lambda x: np.sum(np.exp(x) * x)  # f'' = diag(exp(x) (x + 2))
    expected = np.exp(x) * (x + 2) * v
    np.testing.assert_allclose(grad(lambda x: jvp(f, x, v)[1])(x), expected, rtol=1e-12)
    np.testing.assert_allclose(grad(lambda x: np.sum(vjp(grad(f), x)[1](v)[0]))(x), np.exp(x) * (x + 3) * v, rtol=1e-12)
    np.testing.assert_allclose(grad(lambda x: np.sum(hvp(f, x, v)))(x), np.exp(x) * (x + 3) * v, rtol=1e-12)
    np.testing.assert_allclose(jvp(lambda x: hvp(f, x, v), x, v)[1], np.exp(x) * (x + 3) * v * v, rtol=1e-12)
    np.testing.assert_allclose(grad(lambda v: jvp(f, x, v)[1] ** 2)(v), 2 * (grad(f)(x) @ v) * grad(f)(x), rtol=1e-12)


def test_a_pull_is_differentiable_in_its_cotangent() -> None:
    a, x = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, -1.0])
    _, pull = vjp(lambda x: a @ x, x)
    np.testing.assert_array_equal(jacobian(lambda v: pull(v)[0])(np.zeros(2)), a.T)


def test_jacobian_of_jacobian() -> None:
    x = np.array([1.0, 2.0, 3.0])
    third = jacobian(jacobian(lambda x: x**3))(x)
    expected = np.zeros((3, 3, 3))
    expected[range(3), range(3), range(3)] = 6 * x
    np.testing.assert_array_equal(third, expected)
    tall = jacobian(jacobian(lambda t: t ** np.arange(1.0, 7.0)))(np.array(2.0))  # by columns, twice
    np.testing.assert_allclose(tall, [n * (n - 1) * 2.0 ** (n - 2) for n in range(1, 7)], rtol=1e-12)


def test_gradient_descent_can_be_differentiated() -> None:
    """After n steps on (x - c)^2 / 2, x_n - c = (1 - rate)^n (x_0 - c)."""

    def after_steps(rate: Any) -> Any:
        x = np.array(5.0)
        for _ in range(20):
            x = x - rate * grad(lambda x: (x - 2.0) ** 2 / 2)(x)
        return x

    rate = np.array(0.1)
    assert grad(after_steps)(rate) == pytest.approx(-20 * 0.9**19 * 3)
    assert grad(grad(after_steps))(rate) == pytest.approx(380 * 0.9**18 * 3)


# ---------------------------------------------------------------------------------------------------------------------
# What comes back, and what is left alone
# ---------------------------------------------------------------------------------------------------------------------

TRANSFORMED = {
    "grad": lambda f, x: grad(f)(x),
    "value_and_grad": lambda f, x: value_and_grad(f)(x),
    "vjp": lambda f, x: (vjp(f, x)[0], vjp(f, x)[1](np.ones((), np.float32))),
    "jvp": lambda f, x: jvp(f, x, np.ones(2, np.float32)),
    "jacobian": lambda f, x: jacobian(f)(x),
    "by columns": lambda f, x: jacobian(lambda x: np.stack([f(x)] * 5))(x),
    "hessian": lambda f, x: hessian(f)(x),
    "hvp": lambda f, x: hvp(f, x, np.ones(2, np.float32)),
}

every_transform = pytest.mark.parametrize("transformed", TRANSFORMED.values(), ids=TRANSFORMED)


@every_transform
def test_arrays_give_arrays(transformed: Any) -> None:
    """Arrays of the caller's own, of the argument's dtype, although the function reads a parameter."""
    w = Parameter([2.0, 3.0])
    for leaf in flatten(transformed(lambda x: np.sum(w * x * x), np.ones(2, np.float32))):
        assert type(leaf.value) is np.ndarray
        assert leaf.value.dtype == np.float32
        assert leaf.value.flags.owndata
        assert leaf.value.flags.writeable


@every_transform
def test_tensors_give_tensors(transformed: Any) -> None:
    for leaf in flatten(transformed(lambda x: np.sum(x * x * x), Tensor([1.0, 2.0]))):
        assert isinstance(leaf.value, Tensor)
        assert not leaf.value.requires_grad  # nobody else could want a gradient
        assert leaf.value.is_leaf


@every_transform
def test_tensors_lead_back_to_what_the_function_reads(transformed: Any) -> None:
    w = Parameter(np.array([2.0, 3.0]))
    x = Tensor(np.array([1.0, 2.0]))
    f = lambda x: np.sum(w * x * x * x)
    results = [leaf.value for leaf in flatten(transformed(f, x))]
    assert all(result.requires_grad for result in results)
    sum(np.sum(result * result) for result in results).backward()
    before = w.data.copy()

    def total(array: np.ndarray) -> float:
        w.data = array
        return sum(float(np.sum(leaf.value.data**2)) for leaf in flatten(transformed(f, x)))

    for i, e in enumerate(np.eye(2)):
        assert w.grad[i] == pytest.approx(numeric_derivative(total, [before], [e]), rel=1e-6)


@every_transform
def test_under_no_grad_nothing_leads_out(transformed: Any) -> None:
    w = Parameter([2.0, 3.0])
    with no_grad():
        for x in (Tensor([1.0, 2.0]), Tensor([1.0, 2.0], requires_grad=True)):
            for leaf in flatten(transformed(lambda x: np.sum(w * x * x), x)):
                assert not leaf.value.requires_grad
        assert not state.recording
        assert all(
            type(leaf.value) is np.ndarray
            for leaf in flatten(transformed(lambda x: np.sum(w * x), np.ones(2, np.float32)))
        )


@every_transform
def test_no_gradient_is_disturbed(transformed: Any) -> None:
    w, x, used = Parameter([2.0, 3.0]), Tensor([1.0, 2.0], requires_grad=True), Tensor([1.0, 1.0], requires_grad=True)
    held = np.full(2, 7, np.float32)
    x.grad = held
    h = used * w
    for argument in (x, x.data):
        transformed(lambda x: np.sum(w * x * x * h), argument)
    assert x.grad is held
    assert held.tolist() == [7, 7]
    assert w.grad is None
    assert used.grad is None
    np.sum(h).backward()  # its graph is whole
    assert used.grad.tolist() == [2, 3]


@every_transform
def test_a_transform_leaves_no_garbage(transformed: Any) -> None:
    """The graph, with all its activations, is freed by reference counting alone."""
    held: list[Any] = []

    def f(x: Any) -> Any:
        y = x * x
        held.append(weakref.ref(y))
        return np.sum(y * x)

    gc.collect()
    gc.disable()
    try:
        transformed(f, np.ones(2, np.float32))
        assert held
        assert all(ref() is None for ref in held)
    finally:
        gc.enable()


@every_transform
def test_an_error_inside_leaves_everything_as_it_was(transformed: Any) -> None:
    w = Tensor([1.0, 2.0], requires_grad=True)

    def f(x: Any) -> Any:
        raise KeyError("inside")

    with pytest.raises(KeyError):
        transformed(f, w * 2)
    assert state.recording
    assert type(grad(np.sum)(np.ones(2))) is np.ndarray


@pytest.mark.parametrize("transformed", [grad(np.sum), lambda x: jvp(np.sum, x, np.ones(2, np.float32))[1]])
def test_results_depend_on_others_one_by_one(transformed: Any) -> None:
    """A gradient that is the same whatever the parameter is leads nowhere, though the value does."""
    w, x = Parameter([2.0, 3.0]), Tensor([1.0, 2.0])
    assert not transformed(x).requires_grad
    value, gradient = value_and_grad(lambda x: np.sum(x * x) + np.sum(w))(x)
    assert value.requires_grad
    assert not gradient.requires_grad
    assert gradient.numpy().tolist() == [2, 4]


def test_gradient_penalty() -> None:
    """The use of Tensors in: the norm of an input gradient as a part of the loss."""
    w = Parameter(np.array([[1.0, 2.0], [3.0, -1.0]]))
    x = Tensor(np.array([0.5, -0.5]))
    penalty = np.sum(grad(lambda x: np.sum(np.tanh(x @ w)))(x) ** 2)
    penalty.backward()
    inner = grad(lambda w: np.sum(grad(lambda x: np.sum(np.tanh(x @ w)))(x.data) ** 2))(w.data)
    np.testing.assert_allclose(w.grad, inner, rtol=1e-12)


def test_results_share_no_memory_with_arguments() -> None:
    x, v = np.ones(3), np.ones(3)
    y, pull = vjp(lambda x: x, x)
    for result in (y, pull(v)[0], jvp(lambda x: x, x, v)[1], grad(lambda x: np.sum(x * v))(x)):
        assert not np.shares_memory(result, x)
        assert not np.shares_memory(result, v)


def test_what_does_not_depend_on_the_argument_has_gradient_zero() -> None:
    x = np.array([1.0, 2.0])
    assert_same_tree(grad(lambda x: 3.0)(x), np.zeros(2))
    assert_same_tree(grad(lambda x: 0)(x), np.zeros(2))
    assert_same_tree(grad(lambda x, y: np.sum(y), (0, 1))(x, x), (np.zeros(2), np.ones(2)))
    assert_same_tree(grad(lambda x: np.sum(x.detach()))(x), np.zeros(2))
    assert_same_tree(jacobian(lambda x: np.ones(3))(x), np.zeros((3, 2)))
    assert_same_tree(hessian(np.sum)(x), np.zeros((2, 2)))
    assert_same_tree(hvp(np.sum, x, x), np.zeros(2))
    assert_same_tree(jvp(lambda x: np.ones(3), x, x), (np.ones(3), np.zeros(3)))


def test_dtypes_of_numbers() -> None:
    assert grad(np.sin)(0.0).dtype == np.float32  # Python's float
    assert grad(np.sin)(np.float64(0.0)).dtype == np.float64
    assert grad(np.sin)(np.float16(0.0)).dtype == np.float16
    a, b = grad(lambda a, b: np.sum(a * b), (0, 1))(np.ones(2, np.float32), np.ones(2))
    assert (a.dtype, b.dtype) == (np.float32, np.float64)


def test_argnums_and_keywords() -> None:
    f = lambda a, b, c=1.0: a * b * b * c
    assert grad(f, -1)(2.0, 3.0) == 12
    assert grad(f, 1)(2.0, 3.0, c=2.0) == 24
    assert grad(f, (1, 0))(2.0, 3.0) == (12, 9)
    assert grad(f, (0,))(2.0, 3.0) == (9,)
    assert grad(lambda x, labels: np.sum(x[labels]))(np.ones(3), np.array([0, 0, 2])).tolist() == [2, 0, 1]


def test_auxiliary_results() -> None:
    x = np.array([1.0, 2.0])
    f = lambda x: (np.sum(x * x), {"twice": x * 2, "text": "kept"})
    (value, aux), gradient = value_and_grad(f, has_aux=True)(x)
    assert value == 5
    assert gradient.tolist() == [2, 4]
    for kept in (
        aux,
        grad(f, has_aux=True)(x)[1],
        vjp(f, x, has_aux=True)[2],
        jvp(f, x, x, has_aux=True)[2],
        jacobian(f, has_aux=True)(x)[1],
        hessian(f, has_aux=True)(x)[1],
        hvp(f, x, x, has_aux=True)[1],
    ):
        assert_same_tree(kept["twice"], np.array([2.0, 4.0]))
        assert kept["text"] == "kept"
    assert hessian(f, has_aux=True)(x)[0].tolist() == [[2, 0], [0, 2]]
    assert hvp(f, x, x, has_aux=True)[0].tolist() == [2, 4]
    w = Parameter([1.0, 2.0])
    _, aux = grad(lambda x: (np.sum(x), w * x), has_aux=True)(Tensor([1.0, 1.0]))
    np.sum(aux).backward()
    assert w.grad.tolist() == [1, 1]


def test_threads_do_not_meet() -> None:
    """One thread inside a transform, the other one outside: the latter gets arrays."""
    entered_one, done = threading.Event(), threading.Event()
    results: list[Any] = []

    def f(x: Any) -> Any:
        entered_one.set()
        assert done.wait(60)
        return np.sum(x)

    other = threading.Thread(target=lambda: results.append(grad(f)(np.ones(2))))
    other.start()
    assert entered_one.wait(60)
    try:
        assert type(grad(np.sum)(np.ones(2))) is np.ndarray
    finally:
        done.set()
        other.join()
    assert results[0].tolist() == [1, 1]


@every_transform
def test_traced_results_lead_back_to_the_argument(transformed: Any) -> None:
    """While tracing, nothing is baked in: each result is recorded as made from the argument, or is constant."""
    x = Tensor([1.0, 2.0])
    with entered(tracing=True):
        results = [leaf.value for leaf in flatten(transformed(lambda x: np.sum(x * x * x), x))]
    for result in results:
        assert any(vertex is x for vertex in topological([result], everything=True))


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: grad(np.exp)(np.ones(3)), TypeError, r"grad needs .* one number, but exp returned shape \(3,\).*jacobian"),
        (lambda: hessian(np.exp)(np.ones(3)), TypeError, r"one number.*jacobian"),
        (lambda: hvp(np.exp, np.ones(3), np.ones(3)), TypeError, r"hvp needs .* one number"),
        (lambda: grad(lambda x: (x, x))(1.0), TypeError, r"returned tuple.*has_aux=True"),
        (lambda: grad(lambda x: None)(1.0), TypeError, r"returned None"),
        (lambda: grad(lambda x: x, has_aux=True)(1.0), TypeError, r"must return a pair \(result, aux\), not a Tensor"),
        (lambda: grad(np.sum)(np.arange(3)), TypeError, r"argument 0 is int64; .* write 3.0 for 3, x.astype"),
        (lambda: grad(lambda p: p["n"] * 1.0)({"n": 3}), TypeError, r"argument 0\['n'\] is int64"),
        (lambda: jvp(np.sum, np.arange(3), np.ones(3)), TypeError, r"jvp: argument 0 is int64"),
        (lambda: grad(lambda x: x)("text"), TypeError, r"argument 0 is str"),
        (lambda: grad(np.argmax)(np.ones(3)), TypeError, r"argmax returned int64, which has no derivative.*has_aux"),
        (lambda: jacobian(lambda x: [x, "text"])(1.0), TypeError, r"returned a str at \[1\], which has no derivative"),
        (lambda: grad(np.sum, 1)(np.ones(3)), ValueError, r"argnums=1, but .* 1 positional arguments"),
        (lambda: grad(np.sum, (0, -1))(np.ones(3)), ValueError, r"names an argument twice"),
        (lambda: grad(np.sum, "x")(np.ones(3)), TypeError, r"argnums='x' must be an integer"),
        (lambda: jvp(np.sum, np.ones(3), np.ones(2)), ValueError, r"jvp: a tangent has shape \(2,\), where \(3,\)"),
        (lambda: jvp(np.add, (1.0, 2.0), 1.0), ValueError, r"2 primals in a tuple need a tuple of 2 directions"),
        (lambda: hvp(squares, {"a": 1.0}, {"b": 1.0}), ValueError, r"hvp: vectors\[0\]: expected a dict with the keys 'a'"),
        (lambda: vjp(np.exp, np.ones(3))[1](np.ones(2)), ValueError, r"vjp: a cotangent has shape \(2,\), where \(3,\)"),
        (lambda: vjp(lambda x: [x], 1.0)[1](1.0), ValueError, r"vjp: the cotangent: expected a list of length 1"),
    ],
)  # fmt: skip
def test_bad_input_is_named(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


# ---------------------------------------------------------------------------------------------------------------------
# Modules
# ---------------------------------------------------------------------------------------------------------------------


def network() -> Any:
    return nn.Sequential(nn.Dense(3, 4, np.tanh, rng=0, dtype=np.float64), nn.Dense(4, 2, rng=1, dtype=np.float64))


def loss(model: Any, x: Any, labels: Any) -> Any:
    return cross_entropy(model(x), labels)


def test_a_module_is_a_dict_of_its_parameters() -> None:
    model = network()
    found = grad(loss)(model, INPUTS, CLASSES)
    assert all(p.grad is None for p in model.parameters())
    loss(model, INPUTS, CLASSES).backward()
    assert list(found) == [path for path, _ in model.named_parameters()]
    for path, p in model.named_parameters():
        assert type(found[path]) is np.ndarray
        np.testing.assert_array_equal(found[path], p.grad)


def test_a_frozen_parameter_is_a_constant() -> None:
    model = network()
    model.layers[0].weight.requires_grad_(False)
    assert list(grad(loss)(model, INPUTS, CLASSES)) == ["layers.0.bias", "layers.1.weight", "layers.1.bias"]


def test_second_derivatives_of_a_module() -> None:
    """The Hessian by blocks, and its product with a vector, are those of the same network written over one vector."""
    model = network()
    params = dict(model.named_parameters())
    vector = np.concatenate([p.data.ravel() for p in params.values()])
    direction = RNG.standard_normal(26)
    pieces = np.split(direction, np.cumsum([p.size for p in params.values()])[:-1])
    tangent = {path: v.reshape(p.shape) for (path, p), v in zip(params.items(), pieces, strict=True)}
    f = lambda model: loss(model, INPUTS, CLASSES)

    blocks = hessian(f)(model)
    rows = [[blocks[a][b].reshape(params[a].size, params[b].size) for b in params] for a in params]
    np.testing.assert_allclose(np.block(rows), hessian(two_layers)(vector), rtol=1e-9, atol=1e-12)
    product = np.concatenate([v.ravel() for v in hvp(f, model, tangent).values()])
    np.testing.assert_allclose(product, hessian(two_layers)(vector) @ direction, rtol=1e-9, atol=1e-12)
    assert jvp(f, model, tangent)[1] == pytest.approx(grad(two_layers)(vector) @ direction)
    assert all(p.grad is None for p in params.values())


def test_modules_among_other_arguments() -> None:
    model, scale = network(), np.array(2.0)
    f = lambda both, x: loss(both["model"], x, CLASSES) * both["scale"][0]
    found, dx = grad(f, (0, 1))({"model": model, "scale": [scale]}, INPUTS)
    single = grad(loss)(model, INPUTS, CLASSES)
    for path in single:
        np.testing.assert_allclose(found["model"][path], 2 * single[path], rtol=1e-14)
    assert found["scale"][0] == pytest.approx(loss(model, INPUTS, CLASSES).item())
    assert dx.shape == INPUTS.shape


def test_what_was_computed_before_from_a_module_is_a_constant() -> None:
    model = nn.Linear(2, 2, rng=0, dtype=np.float64)
    x = np.array([[1.0, 2.0]])
    h = model(x)
    through_both = grad(lambda model, h: np.sum(model(h)))(model, h)
    constant = grad(lambda model: np.sum(model(h.data)))(model)
    for path in constant:
        np.testing.assert_array_equal(through_both[path].detach().data, constant[path])
