"""A dense layer's three calls, made at once and gone back through at once: the same graph and the same gradients.

What it is compared with are the calls themselves, made one by one, which are checked numerically elsewhere.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_mm as tg
from tinygrad_mm import functional, nn
from tinygrad_mm.functional import dense
from tinygrad_mm.functional.dense import dense_at_once
from tinygrad_mm.graph import RULES, Joint, topological
from tinygrad_mm.nn import containers
from tinygrad_mm.nn.activations import ACTIVATIONS
from tinygrad_mm.rules import products

FUNCTIONS = {**{name: f for name, f in ACTIVATIONS.items() if f in RULES}, "sin": np.sin, "none": None}


def one_by_one(x: Any, weight: Any, bias: Any, activation: Any = None) -> Any:
    y = x @ weight + bias
    return y if activation is None else activation(y)


def tensors(n: int, k: int, m: int, dtype: Any = np.float64, x_too: bool = True) -> list[tg.Tensor]:
    rng = np.random.default_rng(n + 10 * k + 100 * m)
    shapes = (n, k), (k, m), (m,)
    return [
        tg.Tensor(rng.uniform(0.1, 1.0, shape).astype(dtype), requires_grad=i > 0 or x_too)
        for i, shape in enumerate(shapes)
    ]


def picture(y: Any) -> list[Any]:
    """All that a graph tells."""
    order = topological([y], everything=True)
    place = {id(v): i for i, v in enumerate(order)}
    return [
        (
            v.node and v.node.fun,
            v.node and [place[id(a)] for a in v.node.args],
            v.node and (v.node.kwargs, v.node.line),
            v.requires_grad,
            v.value.tolist(),
        )
        for v in order
    ]


def gradients(y: Any, leaves: Any, **options: Any) -> list[Any]:
    for leaf in leaves:
        leaf.grad = None
    y.backward(**options)
    return [leaf.grad for leaf in leaves]


def assert_same(ours: Any, expected: Any) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def taken(monkeypatch):
    """How many layers backward passes have taken at once."""
    count = [0]
    back = dense._Dense.back

    def counted(node: Any, *args: Any) -> Any:
        layers = len(node.folded[1]) if node.folded else 0
        found = back(node, *args)
        count[0] += layers if found is not None else 0
        return found

    monkeypatch.setattr(dense._Dense, "back", counted)
    return count


@given(
    n=st.integers(0, 4),
    k=st.integers(0, 4),
    m=st.integers(1, 4),
    activation=st.sampled_from(sorted(FUNCTIONS)),
    dtype=st.sampled_from([np.float32, np.float64]),
    x_too=st.booleans(),
    layout=st.sampled_from("CF"),
)
def test_the_same_graph_and_gradients(n, k, m, activation, dtype, x_too, layout):
    x, weight, bias = leaves = tensors(n, k, m, dtype, x_too)
    x.value = np.asarray(x.value, order=layout)
    fun = FUNCTIONS[activation]
    ours = dense_at_once(x, weight, bias, fun)
    expected = one_by_one(x, weight, bias, fun)
    assert ours is not None
    found = gradients(ours, leaves, gradient=np.ones((n, m)))
    assert ours.node.args is ours.node.folded is None
    assert_same(found, gradients(expected, leaves, gradient=np.ones((n, m))))
    ours = dense_at_once(x, weight, bias, fun)
    assert isinstance(ours.node, Joint)
    assert picture(ours) == picture(one_by_one(x, weight, bias, fun))
    assert ours.node.folded is None  # who has looked has records of three calls
    assert_same(gradients(ours, leaves, gradient=np.ones((n, m))), found)
    assert ours.node.args is None


def test_layers_take_it(taken):
    model = nn.Sequential(nn.Dense(3, 4, "relu", rng=0), nn.Dense(4, 4, "tanh", rng=1), nn.Linear(4, 2, rng=2))
    functional.cross_entropy(model(np.ones((5, 3), np.float32)), np.zeros(5, int)).backward()
    assert taken == [3]
    assert model[0].weight.grad.dtype == np.float32


def test_a_layer_used_twice():
    _, weight, bias = tensors(1, 3, 3)
    x = tg.Tensor(np.ones((2, 3)), requires_grad=True)
    for f in (dense_at_once, one_by_one):
        found = gradients(f(f(x, weight, bias, np.tanh), weight, bias, np.tanh).sum(), [x, weight, bias])
        if f is dense_at_once:
            ours = found
    assert_same(ours, found)


def test_the_input_is_the_weight():
    _, weight, bias = tensors(1, 3, 3)
    ours = gradients(dense_at_once(weight, weight, bias, np.tanh).sum(), [weight, bias])
    assert_same(ours, gradients(one_by_one(weight, weight, bias, np.tanh).sum(), [weight, bias]))


def labels(scope: Any) -> list[str]:
    return [] if scope is None else [*labels(scope.parent), scope.label]


def scopes(y: Any) -> list[Any]:
    """Where each call of a graph was made; calls of one entry of a module have one scope."""
    found = [v.node.scope for v in topological([y], everything=True) if v.node is not None]
    order = list(dict.fromkeys(map(id, found)))
    return [(order.index(id(scope)), labels(scope), scope and scope.token) for scope in found]


@pytest.fixture
def alone(monkeypatch):
    """Let the layers of a Sequential be called one by one."""
    return lambda: monkeypatch.setattr(containers, "dense_in_a_row", lambda x, layers: (x, 0))


@pytest.fixture
def in_a_row(monkeypatch):
    """How many layers were called in a row, for each row."""
    counts, call = [], containers.dense_in_a_row

    def counted(x, layers):
        y, count = call(x, layers)
        if count:
            counts.append(count)
        return y, count

    monkeypatch.setattr(containers, "dense_in_a_row", counted)
    return counts


def row(*activations: Any, width: int = 3) -> Any:
    return nn.Sequential(*(nn.Dense(width, width, FUNCTIONS[a], rng=i) for i, a in enumerate(activations)))


class TestInARow:
    """The dense layers of a Sequential, called one after the other, with one record."""

    @given(
        activations=st.lists(st.sampled_from(sorted(FUNCTIONS)), min_size=1, max_size=5),
        n=st.integers(0, 4),
        x_too=st.booleans(),
        look=st.integers(0, 6),
        turned=st.booleans(),
    )
    def test_the_same_graph_and_gradients(self, activations, n, x_too, look, turned):
        model = row(*activations)
        for p in model.parameters():
            p.data = np.abs(p.data) + 0.1
        x = tg.Tensor(np.random.default_rng(n).uniform(0.1, 1, (n, 3)).astype(np.float32), requires_grad=x_too)
        leaves, found = [x, *model.parameters()], []
        for together in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if not together:
                    patch.setattr(containers, "dense_in_a_row", lambda x, layers: (x, 0))
                elif turned:  # results between large layers lie the other way round
                    patch.setattr(products, "LARGE", 0)
                y = model(x)
                assert isinstance(y.node, Joint)
                seen = y
                for _ in range(look):  # somebody looks at some of the calls, from the end
                    if seen.node is not None:
                        seen = seen.node.args[0]
                grads = gradients(y, leaves, gradient=np.ones((n, 3)))
                y = model(x)
                found.append((grads, picture(y), scopes(y)))
                assert_same(gradients(y, leaves, gradient=np.ones((n, 3))), grads)
        (ours, seen, where), (expected, pictured, there) = found
        assert where == there
        if not turned:
            assert_same(ours, expected)
            assert seen == pictured
            return
        for a, b in zip(ours, expected, strict=True):  # sums in another order
            if b is None:
                assert a is None
            else:
                assert a.flags.c_contiguous
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        for one, other in zip(seen, pictured, strict=True):
            assert one[:-1] == other[:-1]
            np.testing.assert_allclose(one[-1], other[-1], rtol=1e-4, atol=1e-5)

    def test_results_between_large_layers_are_turned(self):
        model = row("relu", "tanh", "gelu", "relu", width=90)
        x = tg.Tensor(np.ones((128, 90), np.float32))
        y = model(x)
        *between, last = [layer[0] for layer in y.node.folded[1]]
        assert [a.flags.f_contiguous for a in between] == [True, True, False]  # gelu's rule asks for the sum
        assert last.flags.c_contiguous
        y.sum().backward()
        assert all(p.grad.flags.c_contiguous for p in model.parameters())

    def test_they_are_called_and_taken_at_once(self, in_a_row, taken):
        model = row("relu", "tanh", "sigmoid", "none")
        model(tg.Tensor(np.ones((2, 3), np.float32))).sum().backward()
        assert (in_a_row, taken) == ([4], [4])
        model(np.ones((2, 3), np.float32)).sum().backward()
        assert (in_a_row, taken) == ([4, 4], [8])

    def test_what_somebody_looked_at_is_taken_by_itself(self, taken):
        y = row("relu", "tanh", "sigmoid", "none")(tg.Tensor(np.ones((2, 3), np.float32)))
        between = y.node.args[0].node.args[0]
        assert between.node.fun is functional.sigmoid
        between.retain_grad()
        y.sum().backward()
        assert taken == [3]
        assert between.grad.shape == (2, 3)

    @pytest.mark.parametrize(
        "what", ["forward hook", "pre hook", "own forward", "subclass", "frozen", "no bias", "float64"]
    )
    def test_a_layer_that_is_called_by_itself(self, what, in_a_row):
        class Doubled(nn.Dense):
            def forward(self, x):
                return super().forward(x) * 2

        model, calls = row("relu", "tanh", "sigmoid", "none"), []
        layer = model[1]
        if what == "forward hook":
            layer.register_forward_hook(lambda module, args, y: calls.append(y.shape))
        elif what == "pre hook":
            layer.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
        elif what == "own forward":
            layer.forward = lambda x: x * 2
        elif what == "subclass":
            model.layers[1] = Doubled(3, 3, rng=0)
        elif what == "frozen":
            layer.weight.requires_grad = False
        elif what == "no bias":
            model.layers[1] = nn.Dense(3, 3, bias=False, rng=0)
        elif what == "float64":
            layer.weight.data = layer.weight.data.astype(np.float64)
        x = tg.Tensor(np.ones((2, 3), np.float32))
        if what == "float64":
            with pytest.raises(TypeError, match=r"write x.astype\(np.float64\)"):
                model(x)
            assert in_a_row == [1]
            return
        y = model(x)
        assert in_a_row == [1, 2]
        assert calls == ([(2, 3)] if "hook" in what else [])
        y.sum().backward()

    def test_a_changed_tensor_is_noticed(self):
        for i in range(6):
            model = row("relu", "tanh", "none")
            x = tg.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
            y = model(x).sum()
            changed = model.parameters()[i]
            changed.data = changed.data * 2
            with pytest.raises(RuntimeError, match="was changed after"):
                y.backward()
            assert all(p.grad is None for p in [x, *model.parameters()])
        x.data = x.data * 2
        y = model(x).sum()
        x.data = x.data * 2
        with pytest.raises(RuntimeError, match="was changed after matmul"):
            y.backward()

    def test_one_layer_twice(self):
        layer = nn.Dense(3, 3, "tanh", rng=0)
        model, x = nn.Sequential(layer, layer, layer), tg.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
        leaves = [x, layer.weight, layer.bias]
        found = gradients(model(x).sum(), leaves)
        assert_same(found, gradients(layer(layer(layer(x))).sum(), leaves))

    def test_other_passes(self, alone, taken):
        model, x = row("tanh", "sigmoid", "none"), tg.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
        leaves, found = [x, *model.parameters()], []
        for together in (True, False):
            if not together:
                alone()
            first = tg.gradients((model(x) ** 2).sum(), leaves, create_graph=True)
            second = [g.data for g in tg.gradients(sum((g * g).sum() for g in first), leaves)]
            y = model(x).sum()
            twice = [gradients(y, leaves, retain_graph=True), gradients(y, leaves)]
            with pytest.raises(RuntimeError, match="released"):
                y.backward()
            order: list[int] = []
            removed = [leaf.register_hook(lambda g, i=i, order=order: order.append(i)) for i, leaf in enumerate(leaves)]
            model(x).sum().backward()
            for remove in removed:
                remove()
            found.append((second, *twice, order))
        for ours, expected in zip(found[0][:3], found[1][:3], strict=True):
            assert_same(ours, expected)
        assert found[0][3] == found[1][3]

    def test_nobody_keeps_what_is_between(self):
        model, x = row("relu", "tanh", "none"), tg.Tensor(np.ones((2, 3), np.float32))
        y = model(x)
        seen = weakref.ref(y.node.folded[1][0][0])  # the first layer's result
        y.sum().backward()
        assert y.node.folded is y.node.args is None
        assert seen() is None

    @pytest.mark.parametrize("name", ["forward", "__call__"])
    def test_a_class_that_was_patched(self, name, monkeypatch, in_a_row):
        calls, original = [], getattr(nn.Dense, name)

        def spy(layer, *args):
            calls.append(layer)
            return original(layer, *args)

        monkeypatch.setattr(nn.Dense, name, spy)
        model = row("relu", "tanh")
        model(tg.Tensor(np.ones((2, 3), np.float32)))
        assert calls == model.layers
        assert in_a_row == []

    def test_layers_of_any_kind(self):
        model = row("relu", "tanh")
        y = model(np.ones((2, 3), np.float32))
        model.layers = deque(model.layers)
        np.testing.assert_array_equal(model(np.ones((2, 3), np.float32)).data, y.data)

    def test_without_a_graph(self, in_a_row):
        model, x = row("relu", "tanh"), tg.Tensor(np.ones((2, 3), np.float32))
        with tg.no_grad():
            assert model(x).node is None
        with tg.detect_anomaly():
            model(x).sum().backward()
        assert in_a_row == []


class TestBetween:
    """The results between are tensors like all others for whoever gets hold of them."""

    @pytest.mark.parametrize("which", ["product", "sum"])
    @pytest.mark.parametrize("what", ["used", "retained", "hooked"])
    def test_they_may_be_asked_for(self, which, what, taken):
        found = []
        for f in (dense_at_once, one_by_one):
            leaves = tensors(2, 3, 4)
            y = f(*leaves, np.tanh)
            between = y.node.args[0]
            if which == "product":
                between = between.node.args[0]
            total = y.sum()
            if what == "used":
                total = total + (between * between).sum()
            elif what == "retained":
                between.retain_grad()
            else:
                between.register_hook(lambda g: 2 * g)
            grads = gradients(total, leaves)
            extra = [between.grad] if what == "retained" else []
            found.append([*grads, *extra])
        assert taken == [0]
        assert_same(*found)

    def test_the_gradient_of_one(self):
        leaves = tensors(2, 3, 4)
        y = dense_at_once(*leaves, np.tanh)
        between = y.node.args[0]
        np.testing.assert_array_equal(tg.gradients(y.sum(), between).data, 1 - np.tanh(between.data) ** 2)

    def test_they_are_released_too(self):
        y = dense_at_once(*tensors(2, 3, 4), np.tanh)
        between = y.node.args[0]
        later = np.exp(between).sum()
        y.sum().backward()
        with pytest.raises(RuntimeError, match="released"):
            later.backward()
        with pytest.raises(RuntimeError, match="released"):
            between.sum().backward()

    def test_one_that_was_made_constant(self):
        leaves = tensors(2, 3, 4)
        found = []
        for f in (dense_at_once, one_by_one):
            y = f(*leaves, np.tanh)
            y.node.args[0].node.args[0].requires_grad = False
            found.append(gradients(y.sum(), leaves))
        assert_same(*found)

    def test_threads_find_the_same_ones(self, monkeypatch):
        unfolded, made = dense._Dense.unfolded, []

        def slowly(*args):
            made.append(args)
            time.sleep(0.05)  # long enough for all threads to get there
            return unfolded(*args)

        monkeypatch.setattr(dense._Dense, "unfolded", slowly)
        y, start = dense_at_once(*tensors(2, 3, 4), np.tanh), threading.Barrier(4)

        def look(_):
            start.wait()
            return y.node.args[0]

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(look, range(4)))
        assert len(set(map(id, found))) == len(made) == 1

    def test_released_while_somebody_looks(self, monkeypatch):
        y = dense_at_once(*tensors(2, 3, 4), np.tanh)
        unfolded = dense._Dense.unfolded

        def released(node, *folded):
            args = unfolded(node, *folded)
            node.args = None
            return args

        monkeypatch.setattr(dense._Dense, "unfolded", released)
        assert y.node.args is None

    def test_the_order_in_which_they_were_made(self):
        x, weight, bias = tensors(2, 3, 4)
        y = dense_at_once(x, weight, bias, np.tanh)
        later = y * 2
        order = topological([later])
        assert [v.node.fun for v in order[-4:]] == [np.matmul, np.add, np.tanh, np.multiply]
        assert len({v.version for v in order}) == len(order)

    def test_one_whose_graph_was_released(self):
        y = dense_at_once(*tensors(2, 3, 4), np.tanh)
        y.node.args[0].sum().backward()
        with pytest.raises(RuntimeError, match="released"):
            y.sum().backward()


class TestOtherPasses:
    def test_hooks_of_leaves_run_in_the_same_order(self):
        found = []
        for f in (dense_at_once, one_by_one):
            leaves = tensors(2, 3, 4)
            order: list[int] = []
            for i, leaf in enumerate(leaves):
                leaf.register_hook(lambda g, i=i, order=order: order.append(i))
            f(*leaves, np.tanh).sum().backward()
            found.append(order)
        assert found[0] == found[1]

    def test_a_leaf_that_was_frozen_meanwhile(self, taken):
        for frozen in range(3):
            found = []
            for f in (dense_at_once, one_by_one):
                leaves = tensors(2, 3, 4)
                y = f(*leaves, np.tanh).sum()
                leaves[frozen].requires_grad = False
                found.append(gradients(y, leaves))
            assert found[0][frozen] is None
            assert_same(*found)
        assert taken == [3]

    def test_what_is_frozen_meanwhile_is_not_computed(self):
        x, weight, bias = leaves = tensors(2, 3, 4, np.float32)
        y = dense_at_once(*leaves)
        weight.requires_grad = bias.requires_grad = False
        with np.errstate(all="raise"):  # a sum of the rows would overflow
            y.backward(np.full((2, 4), [3e38, 0, 0, 0], np.float32))
        assert weight.grad is bias.grad is None
        assert x.grad is not None

    def test_a_rule_that_was_replaced_meanwhile(self, monkeypatch, taken):
        leaves = tensors(2, 3, 4)
        y = dense_at_once(*leaves, np.tanh).sum()
        monkeypatch.setattr(RULES[np.tanh], "fresh", False)
        y.backward()
        assert taken == [0]

    def test_recorded(self):
        leaves = tensors(2, 3, 4)
        found = []
        for f in (dense_at_once, one_by_one):
            first = tg.gradients((f(*leaves, np.tanh) ** 2).sum(), leaves, create_graph=True)
            found.append([g.data for g in tg.gradients(sum((g * g).sum() for g in first), leaves)])
        assert_same(*found)

    def test_twice(self, taken):
        leaves = tensors(2, 3, 4)
        y = dense_at_once(*leaves, np.tanh).sum()
        first = gradients(y, leaves, retain_graph=True)
        assert_same(first, gradients(y, leaves))
        assert taken == [2]
        with pytest.raises(RuntimeError, match="released"):
            y.backward()

    def test_a_changed_weight_is_noticed(self):
        leaves = tensors(2, 3, 4)
        for changed in leaves:
            y = dense_at_once(*leaves, np.tanh).sum()
            changed.data = changed.data * 2
            call = "add" if changed is leaves[2] else "matmul"
            with pytest.raises(RuntimeError, match=f"was changed after {call} had read it"):
                y.backward()

    def test_a_gradient_of_another_dtype(self):
        leaves = tensors(2, 3, 4, np.float32)
        found = gradients(dense_at_once(*leaves, functional.relu), leaves, gradient=np.ones((2, 4)))
        assert all(g.dtype == np.float32 for g in found)

    def test_gradients_are_nobody_elses(self):
        leaves = tensors(1, 3, 4)
        g = np.ones((1, 4))
        found = gradients(dense_at_once(*leaves), leaves, gradient=g)
        assert not any(np.may_share_memory(a, b) for i, a in enumerate(found) for b in [g, *found[:i]])

    def test_a_pass_that_is_watched_sees_three_calls(self, taken):
        with tg.detect_anomaly():
            leaves = tensors(2, 3, 4)
            assert dense_at_once(*leaves) is None
        layer = nn.Dense(3, 4, "relu", rng=0)
        y = layer(np.ones((2, 3), np.float32)).sum()
        with tg.detect_anomaly():
            y.backward()
        assert taken == [0]
        assert layer.weight.grad is not None


class TestNotTheUsualCase:
    def case(self, **changes: Any) -> Any:
        x, weight, bias = tensors(2, 3, 4)
        return dense_at_once(*(changes.get(name, t) for name, t in zip("xwb", (x, weight, bias), strict=True)))

    def test_the_calls_themselves(self):
        x, weight, bias = tensors(2, 3, 4)
        with tg.no_grad():
            assert self.case() is None
        assert self.case(w=weight.detach()) is None
        assert self.case(b=bias.detach()) is None
        assert self.case(x=x[0]) is None
        assert self.case(x=x.astype(np.float32)) is None
        assert self.case(x=x[:, :2]) is None
        assert dense_at_once(x, weight, bias, lambda y: y) is None
        assert dense_at_once(x, weight, bias, np.sum) is None
        assert dense_at_once(x, weight, bias, np.sign) is None
        assert dense_at_once(x, weight, bias, [].append) is None
        assert dense_at_once(x, weight, bias, nn.ReLU()) is None

    def test_other_biases(self):
        layer = nn.Dense(3, 4, "tanh", rng=0)
        x = np.ones((2, 3), np.float32)
        layer.bias = nn.Parameter(np.zeros(1, np.float32))
        layer(x).sum().backward()
        assert layer.bias.grad.shape == (1,)
        layer.bias = np.ones(4, np.float32)
        assert layer(x).shape == (2, 4)
        layer.bias = 0.5
        assert layer(x).shape == (2, 4)

    def test_operators_of_others(self):
        class Scaled(tg.Tensor):
            def __matmul__(self, other):
                return 2 * super().__matmul__(other)

        x, weight, bias = tensors(2, 3, 4)
        assert dense_at_once(Scaled(x.data), weight, bias) is None

    def test_rules_of_others(self):
        calls = []

        @tg.primitive
        def twice(x):
            calls.append(x.shape)
            return 2 * x

        tg.defvjp(twice, lambda g, y, x: 2 * g)
        assert dense_at_once(*tensors(2, 3, 4), twice) is None
        x = tg.Tensor(np.ones((2, 3), np.float32))
        nn.Dense(3, 4, twice, rng=0)(x)
        nn.Sequential(nn.Dense(3, 3, "relu", rng=0), nn.Dense(3, 4, twice, rng=0))(x)
        assert calls == [(2, 4)] * 2
        tg.defvjp(twice, None)
        assert dense_at_once(*tensors(2, 3, 4), twice) is None

    def test_a_warning_is_given_once(self):
        layer = nn.Dense(1, 1, lambda y: y, rng=0)
        layer.weight.data = np.full((1, 1), 3e38, np.float32)
        layer.bias.data = np.full(1, 3e38, np.float32)
        for model in (layer, nn.Sequential(layer)):
            with pytest.warns(RuntimeWarning, match="overflow encountered in add") as said:
                model(tg.Tensor(np.ones((1, 1), np.float32)))
            assert len(said) == 1

    def test_errors_are_those_of_the_calls(self):
        layer = nn.Dense(3, 4, np.log, rng=0)
        with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="log"):
            layer(np.zeros((2, 3), np.float32))
        with pytest.raises(ValueError, match=r"inner sizes 5 and 3 differ"):
            layer(np.zeros((2, 5), np.float32))
        with pytest.raises(TypeError, match=r"write x.astype\(np.float32\)"):
            layer(np.zeros((2, 3)))
