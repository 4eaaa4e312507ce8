"""`checkpoint`: the same gradients at every order, with less kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any, ClassVar

import numpy as np
import pytest
from transformed import CLASSES, INPUTS

from tinygrad_mm import nn
from tinygrad_mm.functional import cross_entropy, relu
from tinygrad_mm.gradient import gradients, no_grad
from tinygrad_mm.graph import Monitor, defstopped, entered, primitive, state, topological
from tinygrad_mm.tensor import Buffer, Parameter, Tensor
from tinygrad_mm.transforms import checkpoint, grad, hessian, jvp, vjp

# ---------------------------------------------------------------------------------------------------------------------
# checkpoint
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def uniform_like(x: Any, generator: Any) -> Any:
    """A random draw that says so, as the docstring of `checkpoint` asks."""
    if state.generators is not None:
        state.generators.setdefault(id(generator), (generator, generator.bit_generator.state))
    return generator.uniform(0.5, 1.5, x.shape)


defstopped(uniform_like)


def test_checkpoint_counts_what_it_closes_over_once() -> None:
    """h is made from w outside, and both are read inside: each gets its own part of the gradient."""
    w, x = Tensor(np.array(2.0), requires_grad=True), Tensor(np.array(3.0), requires_grad=True)
    h = w * w
    checkpoint(lambda x: x * w * h)(x).backward()
    assert float(w.grad) == 3 * 3 * 2**2  # d (x w^3) / dw
    assert float(x.grad) == 8


@pytest.mark.parametrize("order", [1, 2, 3])
def test_checkpoint_at_every_order(order: int) -> None:
    """Checkpoints in a row and inside each other, with a closed-over variable: derivatives as without them."""

    def build(wrap: Any) -> Any:
        def f(x: Any, w: Any) -> Any:
            inner = wrap(lambda x: np.sin(x * w))
            outer = wrap(lambda x: inner(x) * inner(x * w) + w)
            return np.sum(wrap(lambda x: outer(outer(x)) * x)(x))

        for _ in range(order):
            first = f
            f = lambda x, w, first=first: sum(np.sum(g) for g in grad(first, (0, 1))(x, w))
        return f

    x, w = np.array([0.3, -0.7]), np.array(1.3)
    np.testing.assert_allclose(build(checkpoint)(x, w), build(lambda f: f)(x, w), rtol=1e-12)


def test_checkpoint_frees_what_is_in_between_and_calls_again() -> None:
    alive: list[Any] = []
    x = Tensor([1.0, 2.0], requires_grad=True)

    def f(x: Any) -> Any:
        middle = x * x
        alive.append(weakref.ref(middle))
        return middle * x

    gc.collect()
    gc.disable()
    try:
        y = checkpoint(f)(x)
        assert [ref() for ref in alive] == [None]
        kept = f(x)  # without it
        assert alive[1]() is not None
        del kept
        np.sum(y).backward()
        assert len(alive) == 3
        assert all(ref() is None for ref in alive)
        vertex = weakref.ref(y)
        del y
        assert vertex() is None
    finally:
        gc.enable()
    assert x.grad.tolist() == [3, 12]


def test_checkpoint_graphs_of_second_order_are_freed() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        y = checkpoint(lambda x: x**3)(x)
        first = gradients(np.sum(y), x, create_graph=True)
        second = gradients(np.sum(first), x, create_graph=True)
        assert second.detach().numpy().tolist() == [6, 12]
        refs = [weakref.ref(t) for t in topological([second, first, y], everything=True) if t is not x]
        del y, first, second
        assert [ref() for ref in refs if ref() is not None] == []
    finally:
        gc.enable()


def test_checkpoint_draws_the_same_again() -> None:
    x = Tensor(np.ones(4), requires_grad=True)
    rng, twin = np.random.default_rng(0), np.random.default_rng(0)

    def noisy(x: Any, rng: Any) -> Any:
        return x * uniform_like(x, rng) * uniform_like(x, rng)

    y = checkpoint(noisy)(x, rng)
    factor = twin.uniform(0.5, 1.5, 4) * twin.uniform(0.5, 1.5, 4)
    np.testing.assert_array_equal(y.detach().data, factor)
    later = rng.random()  # drawn between the passes
    np.sum(y).backward()
    np.testing.assert_array_equal(x.grad, factor)
    assert later == twin.random()
    assert rng.random() == twin.random()  # as if there had been no second call


def test_nested_checkpoints_draw_the_same_again() -> None:
    x = Tensor(np.ones(3), requires_grad=True)
    rng, twin = np.random.default_rng(1), np.random.default_rng(1)
    noisy = lambda x: x * x * uniform_like(x, rng)

    def outer(x: Any) -> Any:
        return checkpoint(noisy)(x) * uniform_like(x, rng) + checkpoint(noisy)(x)

    y = checkpoint(outer)(x)
    a, b, c = (twin.uniform(0.5, 1.5, 3) for _ in range(3))
    first = gradients(np.sum(y), x, create_graph=True)
    np.testing.assert_allclose(first.detach().data, 2 * (a * b + c), rtol=1e-14)
    np.sum(first).backward()
    np.testing.assert_allclose(x.grad, 2 * (a * b + c), rtol=1e-14)
    assert rng.random() == twin.random()


def test_a_repetition_inside_another_checkpoint_is_no_draw_of_its_own() -> None:
    x = Tensor(np.ones(3), requires_grad=True)
    rng, twin = np.random.default_rng(2), np.random.default_rng(2)
    _, pull = vjp(checkpoint(lambda x: x * x * uniform_like(x, rng)), x)
    y = checkpoint(lambda x: x * pull(np.ones(3))[0] * uniform_like(x, rng))(x)
    a, b = (twin.uniform(0.5, 1.5, 3) for _ in range(2))
    np.testing.assert_allclose(y.detach().data, 2 * a * b, rtol=1e-14)
    np.sum(y).backward()
    np.testing.assert_allclose(x.grad, 4 * a * b, rtol=1e-14)
    assert rng.random() == twin.random()


def test_checkpoint_assigns_buffers_once_and_reads_what_it_read() -> None:
    count = Buffer([1.0])
    x = Tensor([2.0], requires_grad=True)

    def f(x: Any) -> Any:
        y = x * x * count
        count.assign(count + 1)
        return y

    first, second = checkpoint(f)(x), checkpoint(f)(x)
    assert count.tolist() == [3]
    assert [first.item(), second.item()] == [4, 8]
    second.backward()
    assert x.grad.tolist() == [8]  # count was 2 then
    first.backward()
    assert x.grad.tolist() == [8 + 4]
    assert count.tolist() == [3]
    assert (
        hessian(checkpoint(lambda x: np.sum(f(x) * x)))(
            np.array([2.0]),
        )[0, 0]
        == 6 * 2 * 3
    )
    assert count.tolist() == [4]


def test_checkpoint_results_of_any_form() -> None:
    w = Parameter([3.0])
    x = Tensor([1.0, 2.0], requires_grad=True)

    def f(x: Any, *, factor: Any, label: str) -> Any:
        return {"y": x * factor, "index": np.argmax(x), "text": label, "w": w, "x": x, "constant": np.ones(2)}, [x * w]

    results, (product,) = checkpoint(f)(x, factor=2.0, label="kept")
    assert results["text"] == "kept"
    assert results["index"].item() == 1
    assert type(results["constant"]) is np.ndarray
    np.sum(results["y"] + results["w"] + results["x"] + product).backward()
    assert x.grad.tolist() == [2 + 1 + 3] * 2
    assert w.grad.tolist() == [2 + 1 + 2]


def test_checkpoint_where_there_is_nothing_to_record() -> None:
    calls: list[bool] = []

    def f(x: Any) -> Any:
        calls.append(state.recording)
        return np.asarray(x) * 2 if isinstance(x, np.ndarray) else x * 2

    with no_grad():
        assert not checkpoint(f)(Tensor([1.0], requires_grad=True)).requires_grad
    assert checkpoint(f)(Tensor([1.0])).is_leaf
    assert type(checkpoint(f)(np.ones(2))) is np.ndarray
    assert calls == [False, True, True]


def test_checkpoint_of_layers() -> None:
    """Parameters are reached without being arguments, and modules keep their place in the record."""

    class Net(nn.Module):
        def __init__(self, wrap: Any) -> None:
            self.first = nn.Dense(3, 4, relu, rng=0)
            self.second = nn.Dense(4, 2, rng=1)
            self.wrap = wrap

        def forward(self, x: Any) -> Any:
            return self.second(self.wrap(self.first)(x))

    plain_net, thrifty = Net(lambda f: f), Net(checkpoint)
    x = INPUTS.astype(np.float32)
    for net in (plain_net, thrifty):
        cross_entropy(net(x), CLASSES).backward()
    assert len(thrifty.parameters()) == 4
    for a, b in zip(plain_net.parameters(), thrifty.parameters(), strict=True):
        np.testing.assert_array_equal(a.grad, b.grad)

    class Scopes(Monitor):
        seen: ClassVar[list[str]] = []

        def result(self, vertex: Any, fun: Any, args: Any, kwargs: Any) -> None:
            if fun is np.matmul and vertex.node is not None:
                self.seen.append(repr(vertex.node.scope))

    y = np.sum(thrifty(x))
    with entered(monitor=Scopes()):
        y.backward()  # calls the first layer again
    assert Scopes.seen == ["Net.Dense"]
    made = {vertex.node.fun.__name__: vertex.node.scope for vertex in topological([thrifty(x)]) if vertex.node}
    assert repr(made["checkpointed"]) == "Net"
    assert repr(made["matmul"]) == "Net.Dense"
    assert "relu" not in made


def test_checkpoint_and_a_graph_used_twice() -> None:
    x = Tensor([2.0], requires_grad=True)
    y = np.sum(checkpoint(lambda x: x * x)(x))
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8]
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()


def test_checkpoint_notices_a_changed_parameter() -> None:
    w, x = Parameter([2.0]), Tensor([3.0], requires_grad=True)
    y = checkpoint(lambda x: x * w)(x)
    w.data = np.array([5.0], np.float32)
    with pytest.raises(RuntimeError, match="changed after checkpoint_inputs had read it"):
        y.backward()


def test_checkpoint_notices_another_result() -> None:
    sizes = iter([2, 3])
    x = Tensor([3.0, 1.0, 2.0], requires_grad=True)
    y = checkpoint(lambda x: x[: next(sizes)])(x)
    with pytest.raises(
        RuntimeError, match=r"returned shapes \[\(3,\)\] when it was called again.*but \[\(2,\)\] at first"
    ):
        np.sum(y).backward()


def test_transforms_inside_a_checkpoint() -> None:
    """What they give in the second call is what they gave in the first: arrays outside a transform, Tensors inside."""
    x, w = Tensor(np.array(0.5), requires_grad=True), Parameter(np.array(2.0))
    f = lambda x: x * grad(lambda y: np.sin(y * w))(x) * jvp(lambda y: y * y, x, w)[1]
    checkpoint(f)(x).backward()
    ours = x.grad, w.grad
    x.grad = w.grad = None
    f(x).backward()
    assert ours == (x.grad, w.grad)
    inside = lambda wrap: lambda x: wrap(lambda x: x * grad(lambda y: x * y)(np.array(1.0)))(x)
    assert grad(inside(checkpoint))(np.array(2.0)) == grad(inside(lambda f: f))(np.array(2.0)) == 4


def test_a_monitor_goes_on_watching_inside_a_checkpoint() -> None:
    class Names(Monitor):
        def __init__(self) -> None:
            self.results: list[str] = []
            self.visits = 0

        def result(self, vertex: Any, fun: Any, args: Any, kwargs: Any) -> None:
            self.results.append(fun.__name__)

        def visit(self, vertex: Any, gradient: Any) -> None:
            self.visits += 1

    names = Names()
    x = Tensor([1.0], requires_grad=True)
    with entered(monitor=names):
        y = checkpoint(lambda x: np.sum(np.exp(x)))(x)
        assert names.results.count("exp") == 1
        y.backward()
    assert names.results.count("exp") == 2
    assert names.visits >= 6
