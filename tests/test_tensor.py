"""Tensor and the engine behind it: recording, dtypes, the backward pass, and what must be refused."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import tinygrad_mm as tg


def parameter(*shape, dtype=np.float32):
    return tg.Tensor(np.random.default_rng(0).standard_normal(shape).astype(dtype), requires_grad=True)


# -- values and dtypes


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        ([1.0, 2.0], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        (True, "bool"),
        ([], "float32"),
        (np.zeros(2), "float64"),
        ([np.zeros(2), np.zeros(2)], "float64"),
        (np.zeros(2, np.float16), "float16"),
        (np.zeros(2, np.uint8), "uint8"),
    ],
)
def test_dtype_of_data(data, dtype):
    assert tg.Tensor(data).dtype == dtype


@pytest.mark.parametrize("scalar", [2, 2.5, True, np.float64(2.5), np.float32(2.5), np.int64(2), np.float16(2)])
@pytest.mark.parametrize("operation", [np.add, np.multiply, np.divide, np.power, np.maximum, np.arctan2])
def test_scalars_never_promote_a_tensor(scalar, operation):
    x = tg.Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    for y in (operation(x, scalar), operation(scalar, x)):
        assert y.dtype == np.float32
        y.sum().backward()
        assert x.grad.dtype == np.float32
        x.grad = None


def test_a_float32_network_never_computes_in_float64(monkeypatch):
    from tinygrad_mm.graph import Monitor, entered

    seen = []

    class Seeing(Monitor):
        def result(self, tensor, fun, args, kwargs):
            seen.append((fun, np.asarray(tensor.value).dtype))

        def contribution(self, vertex, i, c):
            seen.append((vertex.node.fun, c.dtype))

    model = tg.nn.Sequential(
        tg.nn.Dense(4, 3, "sigmoid", rng=0), tg.nn.Dense(3, 3, "tanh", rng=1), tg.nn.Dense(3, 2, "relu", rng=2)
    )
    with entered(monitor=Seeing()):
        loss = tg.cross_entropy(
            model(np.ones((5, 4), np.float32)) / np.float64(2) + np.std(model.layers[0].weight), np.arange(5) % 2
        )
        loss.backward()
    assert len(seen) > 20
    assert {d for _, d in seen} <= {np.dtype("float32"), np.dtype("bool"), np.dtype("int64")}


def test_arrays_times_tensors_are_tensors():
    x = parameter(3)
    for y in (
        np.ones(3, np.float32) * x,
        x * np.ones(3, np.float32),
        np.ones((2, 3), np.float32) @ x,
        [1.0, 2.0, 3.0] * x,
    ):
        assert isinstance(y, tg.Tensor)
        assert y.requires_grad
        assert y.dtype == np.float32


def test_numpy_functions_on_tensors_are_differentiable():
    x, W, b = np.ones((5, 3), np.float32), parameter(3, 2), parameter(2)
    np.tanh(x @ W + b).sum().backward()
    assert W.grad.shape == (3, 2)
    assert b.grad.shape == (2,)
    assert type(b.grad) is np.ndarray


# -- the backward pass


def test_gradient_of_every_leaf_and_accumulation():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [4.0, 8.0]
    s = tg.Tensor(3.0, requires_grad=True)
    for _ in range(3):
        (s * s).backward()
        assert type(s.grad) is np.ndarray
        assert s.grad.shape == ()
    assert s.grad == 18


def test_leaves_do_not_share_gradient_arrays():
    a, b = parameter(3), parameter(3)
    (a + b).sum().backward()
    assert not np.shares_memory(a.grad, b.grad)
    a.grad += 1
    assert b.grad.tolist() == [1, 1, 1]
    g = np.ones(3, np.float32)
    c = parameter(3)
    (c + 0).backward(g)
    c.grad += 1
    assert g.tolist() == [1, 1, 1]


def test_gradient_of_a_view_is_writable():
    x = parameter(2, 3)
    np.broadcast_to(x.T, (4, 3, 2)).sum().backward()
    x.grad += 1
    assert x.grad.tolist() == [[5.0] * 3] * 2


def test_second_backward_needs_retain_graph():
    x = parameter(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert np.allclose(x.grad, 4 * x.data)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()


def test_shared_trunk_released_by_the_first_loss():
    x = parameter(3)
    trunk = np.tanh(x)
    first, second = trunk.sum(), (trunk * 2).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="released by an earlier backward"):
        second.backward()


def test_backward_needs_one_number_or_a_gradient():
    x = parameter(3)
    with pytest.raises(RuntimeError, match=r"shape \(3,\).*gradient="):
        (x * 2).backward()
    with pytest.raises(ValueError, match="must be equal"):
        (x * 2).backward(np.ones(2))
    (x * 2).backward(np.array([1, 2, 3]))
    assert x.grad.tolist() == [2, 4, 6]
    with pytest.raises(RuntimeError, match="no graph behind it"):
        tg.Tensor([1.0]).backward()
    with pytest.raises(RuntimeError, match="no graph behind it"):
        (x > 0).sum().backward()


def test_changed_parameter_is_noticed():
    w = tg.Parameter([1.0, 2.0])
    loss = (w * w).sum()
    w.data = np.array([3.0, 4.0], np.float32)
    with pytest.raises(RuntimeError, match="was changed after multiply had read it"):
        loss.backward()
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    optimizer = tg.optim.SGD([w], 0.1)
    optimizer.step()
    with pytest.raises(RuntimeError, match="was changed"):
        loss.backward()


def test_unused_arguments_get_no_gradient():
    x, y = parameter(2), parameter(2)
    (x * 1).sum().backward()
    assert y.grad is None
    with pytest.raises(RuntimeError, match="does not depend on xs\\[1\\]"):
        tg.gradients((x * 1).sum(), [x, y])
    gx, gy = tg.gradients((x * 1).sum(), [x, y], allow_unused=True)
    assert gx.shape == (2,)
    assert gy is None
    assert x.grad.tolist() == [1, 1]  # gradients() leaves .grad alone


def test_gradients_of_computed_tensors_and_several_outputs():
    x = parameter(3, dtype=np.float64)
    h = np.tanh(x)
    loss = (h * h).sum()
    assert np.allclose(tg.gradients(loss, h).data, 2 * h.data)
    h = np.tanh(x)
    g = tg.gradients([h.sum(), (h * h).sum()], x, gradient=[2.0, 3.0])
    assert np.allclose(g.data, (2 + 6 * h.data) * (1 - h.data**2))
    with pytest.raises(ValueError, match="one each"):
        tg.gradients([h.sum()], x, gradient=[1.0, 2.0])
    with pytest.raises(TypeError, match=r"xs\[0\] is a float"):
        tg.gradients(h.sum(), [1.0])
    with pytest.raises(RuntimeError, match="requires no gradient"):
        tg.gradients(h.sum(), [tg.Tensor([1.0])])


def test_orders_of_a_polynomial():
    x = tg.Tensor(np.array(1.5), requires_grad=True)
    g = x**5
    for order in range(1, 6):
        g = tg.gradients(g, x, create_graph=True)
        expected = np.prod(range(5, 5 - order, -1)) * 1.5 ** (5 - order)
        assert np.allclose(g.data, expected)
    with pytest.raises(RuntimeError):
        tg.gradients(g * 0 + 1.0, [tg.Tensor(1.0, requires_grad=True)])


def test_create_graph_keeps_the_graph_and_default_releases_it():
    x = parameter(2)
    y = (x**3).sum()
    tg.gradients(y, x, create_graph=True)
    tg.gradients(y, x)
    with pytest.raises(RuntimeError, match="released"):
        tg.gradients(y, x)


def test_only_paths_to_the_targets_are_walked():
    from tinygrad_mm.graph import primitive

    @primitive
    def forbidden(x):
        return x * 1

    def refuse(g, y, x):
        raise AssertionError("this rule must not run")

    tg.defvjp(forbidden, refuse)
    x, other = parameter(2), parameter(2)
    loss = (x * 2).sum() + forbidden(other).sum()
    assert tg.gradients(loss, x).tolist() == [2, 2]


def test_a_tuple_of_outputs_where_one_is_unused():
    @tg.primitive
    def halves(x):
        return x / 2, x * 2

    tg.defvjp(halves, lambda g, y, x: g[0] / 2 + g[1] * 2)
    x = parameter(3)
    half, double = halves(x)
    (half.sum() + 0 * double.sum()).backward()
    assert x.grad.tolist() == [0.5] * 3
    x.grad = None
    halves(x)[1].sum().backward()
    assert x.grad.tolist() == [2.0] * 3
    second = tg.gradients((tg.gradients((halves(x)[1] ** 2).sum(), x, create_graph=True) ** 2).sum(), x)
    assert np.allclose(second.data, 2 * 8 * 8 * x.data)


def test_wrong_rules_are_named():
    @tg.primitive
    def bad(x):
        return x * 2

    tg.defvjp(bad, lambda g, y, x: np.ones(7))
    with pytest.raises(RuntimeError, match=r"rule of bad for argument 0 returned ndarray of shape \(7,\)"):
        bad(parameter(3)).sum().backward()
    tg.defvjp(bad, lambda g, y, x: 2.0)
    with pytest.raises(RuntimeError, match="rule of bad"):
        bad(parameter(3)).sum().backward()


# -- memory


def test_100_000_operations_without_recursion_freed_by_reference_counting_alone():
    gc.collect()
    gc.disable()
    try:
        x = tg.Tensor(1.0, requires_grad=True)
        y = x * 1.0
        inside = weakref.ref(y)
        for _ in range(100_000):
            y = y + x
        y.backward(retain_graph=True)
        assert x.grad == 100_001
        assert inside() is not None
        del y
        assert inside() is None
        # ... and the same where nobody runs a backward pass
        y = x * 1.0
        inside = weakref.ref(y)
        for _ in range(100_000):
            y = y + x
        del y
        assert inside() is None
    finally:
        gc.enable()


def test_backward_frees_activations_on_the_way():
    x = parameter(10)
    h = np.tanh(x)
    inside = weakref.ref(h)
    loss = (h * h).sum()
    del h
    loss.backward()
    assert inside() is None


def test_a_result_without_gradient_keeps_no_graph():
    x = parameter(10)
    total = 0
    for _ in range(3):
        y = x * 2
        inside = weakref.ref(y)
        total = total + (y.argmax() == 3).sum()
        del y
        assert inside() is None
    assert not total.requires_grad


# -- no_grad, threads


def test_no_grad_as_block_and_decorator():
    x = parameter(2)
    with tg.no_grad():
        y = x * 2
        with tg.no_grad():
            pass
        assert (x * 2).node is None
    assert y.node is None
    assert (x * 2).requires_grad

    @tg.no_grad()
    def predict(x):
        return x * 2

    assert not predict(x).requires_grad
    assert not predict(x).requires_grad
    with pytest.raises(ZeroDivisionError), tg.no_grad():
        raise ZeroDivisionError
    assert (x * 2).requires_grad


def test_no_grad_is_per_thread():
    x = parameter(2)
    inside, done = threading.Event(), threading.Event()
    seen = []

    def other():
        inside.wait(10)
        seen.append((x * 2).requires_grad)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with tg.no_grad():
        inside.set()
        done.wait(10)
        seen.append((x * 2).requires_grad)
    thread.join()
    assert seen == [True, False]


def test_threads_record_graphs_of_their_own():
    results = {}

    def work(seed):
        x = tg.Tensor(np.full(50, float(seed)), requires_grad=True)
        for _ in range(50):
            (np.tanh(x * 0.1) ** 2).sum().backward()
        results[seed] = x.grad

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed, grad in results.items():
        y = np.tanh(seed * 0.1)
        assert np.allclose(grad, 50 * 2 * y * (1 - y * y) * 0.1)


# -- leaves, detach, copies


def test_detach_item_data():
    x = parameter(1)
    y = x * 2
    assert y.detach().node is None
    assert np.shares_memory(y.detach().data, y.data)
    assert y.item() == y.data[0]
    assert isinstance(y.item(), float)
    with pytest.raises(ValueError, match="size 1"):
        (parameter(2) * 1).item()
    assert f"{y.sum():.3f}" == f"{y.item():.3f}"


def test_data_is_copied_in_place_where_it_fits():
    p = tg.Parameter([1.0, 2.0])
    before = p.data
    p.data = np.array([3.0, 4.0], np.float32)
    assert p.data is before
    assert before.tolist() == [3.0, 4.0]
    p.data = np.zeros(3, np.float32)
    assert p.shape == (3,)
    with pytest.raises(TypeError, match="cannot require a gradient"):
        p.data = np.zeros(3, np.int64)
    with pytest.raises(RuntimeError, match="only leaves"):
        (p * 2).data = np.zeros(3)


def test_integers_cannot_require_a_gradient():
    with pytest.raises(TypeError, match=r"int64 cannot require a gradient.*dtype=np.float32"):
        tg.Tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError, match="cannot require"):
        tg.Tensor([1, 2]).requires_grad_()
    with pytest.raises(TypeError, match="real numbers"):
        tg.Tensor(np.array([1j]))
    with pytest.raises(TypeError, match="real numbers"):
        tg.Tensor("text")
    with pytest.raises(ValueError, match="no rectangular shape"):
        tg.Tensor([[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match="detach"):
        tg.Tensor(parameter(2) * 2)
    with pytest.raises(RuntimeError, match="only leaves"):
        (parameter(2) * 2).requires_grad_(False)


def test_copy_deepcopy_and_pickle():
    p = tg.Parameter([1.0, 2.0])
    p.name = "w"
    (p * p).sum().backward()
    for q in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(q) is tg.Parameter
        assert q.requires_grad
        assert q.name == "w"
        assert q.grad.tolist() == [2.0, 4.0]
        assert not np.shares_memory(q.data, p.data)
    y = p.copy() * 2
    y.sum().backward()
    with pytest.raises(RuntimeError, match="only leaves"):
        copy.deepcopy(p * 2)
    with pytest.raises(TypeError, match="only leaves"):
        pickle.dumps(p * 2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda t: pickle.loads(pickle.dumps(t))])
def test_hooks_stay_with_the_original(duplicate):
    p = tg.Parameter([1.0, 2.0])
    called = []
    remove = p.register_hook(lambda g: called.append(1))
    q = duplicate(p)
    (q * 2).sum().backward()
    assert called == []
    (p * 2).sum().backward()
    assert called == [1]
    remove()


def test_buffer_assign():
    from tinygrad_mm.graph import entered

    b = tg.Buffer([1.0, 2.0])
    b.assign(tg.Tensor([3.0, 4.0]))
    assert b.tolist() == [3.0, 4.0]
    assert b.dtype == np.float32
    with pytest.raises(ValueError, match=r"shape \(2,\).*shape \(3,\)"):
        b.assign(np.zeros(3))
    with entered(replaying=True):
        b.assign([9.0, 9.0])
    assert b.tolist() == [3.0, 4.0]


# -- refusals


def test_array_conversion_would_lose_the_gradient():
    x = parameter(2)
    with pytest.raises(TypeError, match="detach"):
        np.asarray(x)
    with pytest.raises(TypeError, match="detach"):
        x.numpy()
    with pytest.raises(BufferError, match="detach"):
        np.from_dlpack(x)
    assert np.asarray(x.detach()) is x.data
    assert np.from_dlpack(x.detach()).tolist() == x.data.tolist()
    assert np.asarray(tg.Tensor([1, 2]), np.float32).dtype == np.float32


def test_while_tracing_no_value_may_leave():
    from tinygrad_mm.graph import entered

    x, i = tg.Tensor([1.0, 2.0]), tg.Tensor(1)
    attempts = [
        lambda: x.data,
        lambda: np.asarray(x),
        lambda: x.tolist(),
        lambda: i.item(),
        lambda: float(i),
        lambda: int(i),
        lambda: bool(i),
        lambda: [1, 2][i],
        lambda: np.nonzero([x, x]),
    ]
    with entered(tracing=True):
        for attempt in attempts:
            with pytest.raises(TypeError, match="trac"):
                attempt()
        y = x * 2
    assert y.node is not None


def test_shape_errors_name_operation_and_shapes():
    with pytest.raises(ValueError, match=r"matmul: \(2, 3\) @ \(4, 5\): the inner sizes 3 and 4 differ"):
        parameter(2, 3) @ parameter(4, 5)
    with pytest.raises(ValueError, match=r"add: shapes \(2,\) and \(3,\) do not broadcast"):
        parameter(2) + parameter(3)
    with pytest.raises(ValueError, match=r"reshape\(\(2, 3\) float32, shape=4\)"):
        parameter(2, 3).reshape(4)
    with pytest.raises(IndexError, match="getitem"):
        parameter(2)[5]
    with pytest.raises(TypeError, match=r"unsupported operand type\(s\) for \+"):
        parameter(2) + "text"


def test_function_without_a_rule():
    with pytest.raises(TypeError, match=r"np\.fft\.fft has no derivative rule.*defvjp"):
        np.fft.fft(parameter(2))
    with pytest.raises(TypeError, match=r"np\.linalg\.eig has no derivative rule"):
        np.linalg.eig(parameter(2, 2))


def test_text():
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "Tensor([1., 2.], dtype=float32, requires_grad=True)"
    assert repr(x * 2) == "Tensor([2., 4.], dtype=float32, requires_grad=True, made by multiply)"
    assert repr(x.sum().node) == "<Node sum>"


def test_iteration_len_contains():
    x = parameter(3, 2)
    assert len(x) == 3
    rows = list(x)
    assert [r.shape for r in rows] == [(2,)] * 3
    (rows[0] * rows[2]).sum().backward()
    assert np.allclose(x.grad, [x.data[2], [0, 0], x.data[0]])
    with pytest.raises(TypeError, match="no axes"):
        list(tg.Tensor(1.0))
    assert len({x, x}) == 1


# -- what a review found


@pytest.mark.parametrize(
    "key",
    [((0, 0, 1),), ((0, 0, 1), slice(None)), ((0, 0), (1, 1)), [0, 0, 1], (np.array([0, 0]), 1), ([0, 0], [1, 1])],
)
def test_an_index_that_names_an_element_twice_adds_both_gradients(key):
    x = tg.Tensor(np.zeros((3, 2)), requires_grad=True)
    x[key].sum().backward()
    expected = np.zeros((3, 2))
    np.add.at(expected, key, 1.0)
    assert np.array_equal(x.grad, expected)
    value = tg.Tensor(np.arange(float(x.data[key].size)).reshape(x.data[key].shape), requires_grad=True)
    y = x.detach().at[key].set(value)
    y.sum().backward()
    stays = np.unique(np.arange(6).reshape(3, 2)[key]).size
    assert value.grad.sum() == stays


def test_orders_that_depend_on_memory_are_refused():
    x = tg.Tensor(np.asfortranarray(np.arange(4.0).reshape(2, 2)), requires_grad=True)
    for call in (lambda: np.ravel(x, "A"), lambda: np.reshape(x, 4, order="A"), lambda: x.flatten("K")):
        with pytest.raises(ValueError, match="use 'C' or 'F'"):
            call()
    (np.ravel(x, "F") * np.arange(4.0)).sum().backward()
    assert np.array_equal(x.grad, [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    "call",
    [
        lambda x, out: np.sum(x, 0, None, out),
        lambda x, out: np.mean(x, 0, None, out),
        lambda x, out: np.std(x, 0, None, out),
        lambda x, out: np.max(x, 0, out),
        lambda x, out: np.argmax(x, 0, out),
        lambda x, out: np.round(x, 2, out),
        lambda x, out: np.median(x, 0, out),
        lambda x, out: np.dot(x, x, out),
        lambda x, out: np.concatenate([x, x], 0, out),
        lambda x, out: np.clip(x, 0, 1, out),
    ],
)
def test_out_is_refused_by_position_too(call):
    out = np.zeros(4)
    with pytest.raises(TypeError, match="out= would write"):
        call(parameter(4, 4), out)
    assert not out.any()


def test_what_a_users_rule_returns_is_never_written_to():
    kept = np.ones(3, np.float32)

    @tg.primitive
    def total(x):
        return x.sum()

    tg.defvjp(total, lambda g, y, x: kept)
    x = parameter(3)
    total(x).backward()
    total(x).backward()
    assert kept.tolist() == [1, 1, 1]
    assert x.grad.tolist() == [2, 2, 2]


def test_a_transposed_gradient_is_not_reshaped():
    @tg.primitive
    def product(a, b):
        return a @ b

    tg.defvjp(product, lambda g, y, a, b: (g @ b.T).T, lambda g, y, a, b: a.T @ g)
    with pytest.raises(
        RuntimeError, match=r"shape \(3, 2\), which is not a gradient for an argument of shape \(2, 3\)"
    ):
        product(parameter(2, 3), parameter(3, 4)).sum().backward()


def test_rules_for_plain_functions_and_rules_that_know_too_little():
    with pytest.raises(TypeError, match="@primitive first"):
        tg.defvjp(lambda x: x, lambda g, y, x: g)

    @tg.primitive
    def scale(x, k):
        return x * k

    tg.defvjp(scale, lambda g, y, x: g)
    with pytest.raises(TypeError, match="given 2 arguments, but its rule knows x only"):
        scale(parameter(2), 3)


def test_float16_means_of_many_elements():
    for mean in (np.mean, np.sum):
        x = tg.Tensor(np.zeros(100_000, np.float16), requires_grad=True)
        mean(x).backward()
        assert x.grad[0] == np.float16(1e-5 if mean is np.mean else 1)


def test_gradients_are_arrays_of_their_own():
    a, b = parameter(3), parameter(3)
    ga, gb = tg.gradients((a + b).sum(), [a, b])
    assert not np.shares_memory(ga.data, gb.data)
    G = np.ones(3, np.float32)
    tg.gradients(a + 0.0, a, gradient=G).data[:] = 7
    assert G.tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="y is a float"):
        tg.gradients(1.0, a)
    with pytest.raises(TypeError, match=r"y\[0\] is a ndarray"):
        tg.gradients([G], a)


def test_numpy_scalars_as_options_are_weak():
    x = parameter(3)
    for y in (
        tg.leaky_relu(x, np.float64(0.1)),
        tg.leaky_relu(x, negative_slope=np.float64(0.1)),
        tg.elu(x, np.float64(0.5)),
        tg.cross_entropy(parameter(2, 3), [0, 1], label_smoothing=np.float64(0.1)),
    ):
        assert y.dtype == np.float32
    with pytest.raises(TypeError, match=r"labels.astype\(np.float32\)"):
        tg.cross_entropy(parameter(2, 3), np.eye(3)[[0, 1]])


def test_roll_by_lists():
    x = tg.Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    weights = np.arange(6.0).reshape(2, 3)
    (np.roll(x, [1, 2], [0, 1]) * weights).sum().backward()
    assert np.array_equal(x.grad, np.roll(weights, (-1, -2), (0, 1)))


def test_no_grad_again_and_on_generators():
    x, off = parameter(2), tg.no_grad()
    for _ in range(2):
        with off:
            assert not (x * 2).requires_grad
    with pytest.raises(TypeError, match="inside it"):

        @tg.no_grad()
        def batches():
            yield x * 2


def test_a_grad_of_the_wrong_kind_is_named():
    x = parameter(3)
    for wrong in (tg.Tensor([1.0, 1.0, 1.0]), 0, np.zeros((2, 3))):
        x.grad = wrong
        with pytest.raises(TypeError, match=r"\.grad of a tensor of shape \(3,\) was set to"):
            (x * 2).sum().backward()


def test_layers_given_as_classes():
    with pytest.raises(TypeError, match=r"write ReLU\(\), with brackets"):
        tg.nn.Dense(2, 2, tg.nn.ReLU)
    with pytest.raises(TypeError, match="layer 1 is the class ReLU"):
        tg.nn.Sequential(tg.nn.Dense(2, 2), tg.nn.ReLU)


def test_a_pass_that_fails_leaves_no_gradient_behind():
    first, second = tg.Tensor([1.0, 2.0], requires_grad=True), tg.Tensor([3.0, 4.0], requires_grad=True)
    loss = np.sum(first * first) + np.sum(second * second)  # the second product is the first to be differentiated
    first.data = np.array([5.0, 6.0], np.float32)
    with pytest.raises(RuntimeError, match="was changed after multiply"):
        loss.backward()
    assert first.grad is None
    assert second.grad is None


def test_results_are_taken_in_the_order_of_time_whatever_the_order_of_arguments():
    x = tg.Tensor([2.0], requires_grad=True)
    early = x * 3
    late = early * early
    ((late + early) * (early + late)).sum().backward()  # (9x² + 3x)², so 2 (9x² + 3x)(18x + 3)
    assert x.grad == 2 * 42 * 39


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 31, 32, 33])
@pytest.mark.parametrize("sizes", [(39, 41), (40, 40), (64, 64), (96, 96), (97, 96), (7, 300), (1, 1)])
def test_the_gradients_of_a_product_of_matrices_of_any_size(sizes, rows, dtype):
    """Small matrices are multiplied another way than large ones."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(dtype) for shape in ((rows, sizes[0]), sizes))
    g = random.standard_normal((rows, sizes[1])).astype(dtype)
    for order in ("C", "F"):
        x, w = (tg.Tensor(np.array(v, order=order), requires_grad=True) for v in (a, b))
        (x @ w).backward(g)
        assert np.allclose(x.grad, np.einsum("nm,km->nk", g, b), rtol=1e-4, atol=1e-4)
        assert np.allclose(w.grad, np.einsum("nk,nm->km", a, g), rtol=1e-4, atol=1e-4)
        assert x.grad.dtype == w.grad.dtype == dtype


def test_gradients_from_many_places_add_up_in_arrays_of_their_own():
    x, y = parameter(3), parameter(3)
    seed = np.ones(3, np.float32)
    z = x + y  # passes one array on to both
    given = [z, x * 1, x, z, x + 0, z]
    total = np.concatenate(given)  # contributions that are views of one array
    held = []
    y.register_hook(held.append)
    total.backward(np.tile(seed, 6), retain_graph=True)
    assert np.array_equal(x.grad, np.full(3, 6, np.float32))
    assert np.array_equal(y.grad, np.full(3, 3, np.float32))
    total.backward(np.tile(seed, 6))
    assert np.array_equal(x.grad, np.full(3, 12, np.float32))
    assert np.array_equal(y.grad, np.full(3, 6, np.float32))
    assert all(np.array_equal(h, np.full(3, 3, np.float32)) for h in held)  # nothing was added to what a hook holds


def test_a_new_thread_is_outside_every_module_and_records():
    seen = []

    class Spawning(tg.nn.Module):
        def forward(self, x):
            with tg.no_grad():
                other = threading.Thread(target=lambda: seen.append(x * 2))
                other.start()
                other.join()
            return x * 3

    y = Spawning()(parameter(2))
    assert y.node.scope.label == "Spawning"
    assert seen[0].node.scope is None
    assert seen[0].requires_grad
