"""A program proves itself: what a broken pass makes of it is found on the first batches, told, and not used.

The passes are broken on purpose here, by a mutant in the place of `inline`, which every backend has.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle
import re

import numpy as np
import pytest
from interpreted import interpreted

import tinygrad_mm as tg
from tinygrad_mm import functional, nn, optim
from tinygrad_mm.compiler import passes, tracing
from tinygrad_mm.compiler.program import Op, Value
from tinygrad_mm.compiler.threads import pool, shares
from tinygrad_mm.compiler.verification import MOST, Noise, Progress, first_difference
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.optim import flat

BACKENDS = ["numpy", "numba"]


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=0, dtype=np.float32):
    return rng(seed).standard_normal(shape).astype(dtype)


def running(backend):
    """Numba's loops are run by Python."""
    return interpreted() if backend == "numba" else contextlib.nullcontext()


class Net(nn.Module):
    """Two heads of equal shape, dropout and batch normalization."""

    def __init__(self):
        self.body = nn.Sequential(nn.Linear(4, 6, rng=0), nn.BatchNorm1d(6), nn.Dropout(0.3, rng=1))
        self.one, self.other = nn.Dense(6, 3, "tanh", rng=2), nn.Dense(6, 3, rng=3)

    def forward(self, x):
        y = self.body(x)
        return self.one(y) - 2 * self.other(y)


def batches(n=4):
    return [(normal(8, 4, seed=i), normal(8, 3, seed=10 + i)) for i in range(n)]


def eager_step(model, loss, optimizer, x, y):
    value = loss(model(x), y)
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return value.item()


def looked_at(model, optimizer):
    """All that training leaves behind, as bytes."""
    state = optimizer.state_dict()
    arrays = {**model.state_dict(), **state["state"]}
    return (
        {name: np.asarray(a).tobytes() for name, a in arrays.items()},
        state["options"],
        [repr(generator.bit_generator.state) for _, generator in model.named_generators()],
    )


# ---------------------------------------------------------------------------------------------------------------------
# Mutants
# ---------------------------------------------------------------------------------------------------------------------


def swap_gradients(program):
    """By shape instead of by parameter."""
    found = program.gradients
    a, b = [i for i, g in enumerate(found) if g is not None and g.shape == (6, 3)]
    found[a], found[b] = found[b], found[a]


def scaled(program, value, factor, backward=False):
    result = Value(np.empty(value.shape, value.dtype))
    constant = Value(np.asarray(factor, value.dtype), "constant")
    end = len(program.ops) if backward else sum(not op.backward for op in program.ops)
    program.ops.insert(end, Op(np.multiply, [value, constant], {}, result, None, backward))
    return result


def scale_a_gradient(program):
    i = next(i for i, g in enumerate(program.gradients) if g is not None and g.shape == (4, 6))
    program.gradients[i] = scaled(program, program.gradients[i], 1.001, backward=True)


def drop_a_term(program):
    """Of a sum, in the backward half: what comes back from one of the heads."""
    op = next(op for op in reversed(program.ops) if op.backward and op.fun is np.add and op.result.shape == (8, 6))
    program.ops.remove(op)
    program.substitute({id(op.result): op.args[0]})


def read_a_stale_array(program):
    """The batch of the trace, again and again."""
    x = program.inputs[0]
    program.substitute({id(x): Value(x.example.copy(), "constant")})


def scale_a_buffer(program):
    effect = program.effects[0]
    effect.value = scaled(program, effect.value, 1.001)


def scale_the_output(program):
    program.outputs[0] = scaled(program, program.outputs[0], 1.001)


def forget_a_gradient(program):
    program.gradients[next(i for i, g in enumerate(program.gradients) if g is not None)] = None


def draw_once_more(program):
    i, draw = next((i, op) for i, op in enumerate(program.ops) if op.fun is uniform_like)
    program.ops.insert(i + 1, Op(uniform_like, draw.args, {}, Value(np.empty(draw.result.shape, draw.result.dtype))))


HEAD = r"the gradient of model\.(one|other)\.weight is \S+ at \[\d, \d\], and \S+ in the eager engine"
MUTANTS = {
    "swapped": (swap_gradients, HEAD),
    "scaled": (scale_a_gradient, r"the gradient of model\.body\.layers\.0\.weight is"),
    "a term less": (drop_a_term, r"the gradient of model\.body\.layers\.[01]\.\w+ is"),
    "stale": (read_a_stale_array, "the loss is"),
    "buffer": (scale_a_buffer, r"the buffer model\.body\.layers\.1\.running_mean is"),
    "loss": (scale_the_output, "the loss is"),
    "forgotten": (forget_a_gradient, "the gradient of model.* is missing, and present in the eager engine"),
    "a draw more": (draw_once_more, r"the state of the generator model\.body\.layers\.2\.rng is"),
}  # fmt: skip


WHY = (r"[\s\S]*Without the pass 'inline' it is right", r"[\s\S]*Traced anew it is right")


def broken(monkeypatch, mutant):
    """Let the pass `inline` do something else besides."""
    original = passes.inline

    def inline(program, whole):
        original(program, whole)
        mutant(program)

    monkeypatch.setattr(passes, "inline", inline)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_pass_is_found_and_training_is_eagers(monkeypatch, name, backend):
    mutant, message = MUTANTS[name]
    broken(monkeypatch, mutant)
    loss = nn.MSELoss()
    model, twin = Net(), Net()
    optimizer, other = (optim.Adam(m.parameters(), 0.01) for m in (model, twin))
    first = 1 if name == "stale" else 0  # the first batch is the one that it was made from
    with running(backend):
        step = tg.compile_step(model, loss, optimizer, backend=backend)
        for i, (x, y) in enumerate(batches()):
            if i == first:
                with pytest.warns(tg.CompileWarning, match=message + WHY[name == "stale"]):
                    found = step(x, y)
            else:
                found = step(x, y)
            expected = eager_step(twin, loss, other, x, y)
            assert np.isclose(found, expected, rtol=1e-5)
            if first == 0:
                assert looked_at(model, optimizer) == looked_at(twin, other)
    for (path, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        if path != "body.layers.0.bias":  # in front of a normalization: Adam makes steps of what is noise
            np.testing.assert_allclose(a.data, b.data, rtol=0, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tensor_that_a_trace_has_overlooked(monkeypatch, backend):
    """A program that knows nothing of a parameter is found out at the call, before anything is lost."""
    original = tracing.boundary
    monkeypatch.setattr(tracing, "boundary", lambda roots, start: original(roots, start)[1:])
    model, twin = Net(), Net()
    (x, y), *_ = batches()
    with running(backend):
        f = tg.compile(lambda x, y: np.mean((model(x) - y) ** 2), backend=backend)
        with pytest.warns(
            tg.CompileWarning, match=r"the gradient of model\..* is missing, and there in the eager engine"
        ):
            f(x, y).backward()
    np.mean((twin(x) - y) ** 2).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert np.array_equal(p.grad, q.grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_pass_of_a_compiled_function(monkeypatch, name, backend):
    mutant, message = MUTANTS[name]
    broken(monkeypatch, mutant)
    message = message.replace("the loss", "the output").replace("is missing, and present", r"is 0\.0 at .*, and .*")
    model, twin = Net(), Net()
    late = "gradient" in message
    with running(backend):
        f = tg.compile(lambda x, y: np.mean((model(x) - y) ** 2), backend=backend)
        for i, (x, y) in enumerate(batches()):
            warns = pytest.warns(tg.CompileWarning, match=message + WHY[name == "stale"])
            now = i == (1 if name == "stale" else 0)
            with warns if now and not late else contextlib.nullcontext():
                found = f(x, y)
            with warns if now and late else contextlib.nullcontext():
                found.backward()
            expected = np.mean((twin(x) - y) ** 2)
            expected.backward()
            np.testing.assert_allclose(found.data, expected.data, rtol=1e-5)
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                if name != "stale" and not (late and i == 0):
                    assert np.array_equal(p.grad, q.grad)
                np.testing.assert_allclose(p.grad, q.grad, rtol=1e-4, atol=1e-5)
                p.grad = q.grad = None
            for (_, a), (_, b) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
                np.testing.assert_allclose(a.data, b.data, rtol=1e-5)


@pytest.mark.parametrize("name", ["swapped", "scaled", "a term less", "loss"])
def test_a_broken_pass_in_threads(monkeypatch, name):
    monkeypatch.setattr(pool, "threads", lambda: 2)
    for limit in ("ELEMENTS", "IN_A_CALL", "FOR_A_PARAMETER"):
        monkeypatch.setattr(shares, limit, 0)

    class Heads(Net):
        def __init__(self):
            super().__init__()
            self.body = nn.Dense(4, 6, "tanh", rng=0)

    mutant, _ = MUTANTS[name]

    def halves(program):
        if name == "a term less":
            op = next(op for op in reversed(program.ops) if op.backward and op.fun is np.add)
            program.ops.remove(op)
            program.substitute({id(op.result): op.args[0]})
        else:
            mutant(program)

    broken(monkeypatch, halves)
    model, twin = Heads(), Heads()
    optimizer, other = (optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (model, twin))
    step = tg.compile_step(model, nn.MSELoss(), optimizer)
    with pytest.warns(tg.CompileWarning, match="Without the pass 'inline' it is right"):
        step(*batches()[0])
    eager_step(twin, nn.MSELoss(), other, *batches()[0])
    assert step.plans[0].threads == 2
    assert looked_at(model, optimizer) == looked_at(twin, other)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda ps: optim.Adam(ps, 0.01), r"model\.\S+ after the update is"),
        (lambda ps: optim.SGD(ps, 0.1, momentum=0.9, weight_decay=0.1), r"model\.\S+ after the update is"),
    ],
)
def test_a_broken_update_is_found(monkeypatch, backend, optimizer, message):
    """One part in a thousand of the learning rate: gradients are right, parameters are not."""
    monkeypatch.setattr(
        flat.Update,
        "numbers",
        lambda self, count: self.formula.scalars(1.001 * self.learning_rate, count, *self.scheduled),
    )
    model, twin = Net(), Net()
    ours, theirs = (optimizer(m.parameters()) for m in (model, twin))
    with running(backend):
        step = tg.compile_step(model, nn.MSELoss(), ours, backend=backend)
        with pytest.warns(tg.CompileWarning, match=message + r"[\s\S]*No pass alone did it"):
            step(*batches()[0])
        eager_step(twin, nn.MSELoss(), theirs, *batches()[0])
        assert looked_at(model, ours) == looked_at(twin, theirs)
        step(*batches()[1])
    eager_step(twin, nn.MSELoss(), theirs, *batches()[1])
    assert looked_at(model, ours) == looked_at(twin, theirs)


def test_without_the_check_nobody_is_told(monkeypatch):
    """What the tests above would miss if the check did not do it."""
    broken(monkeypatch, swap_gradients)
    model = Net()
    step = tg.compile_step(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1), verify=False)
    step(*batches()[0])
    f = tg.compile(lambda x: np.sum(model(x)), verify=False)
    f(batches()[0][0]).backward()
    with pytest.raises(AssertionError, match=HEAD + r"[\s\S]*Without the pass 'inline' it is right"):
        step.verify(*batches()[1])


# ---------------------------------------------------------------------------------------------------------------------
# What the check leaves as it was
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_checked_training_ends_in_the_same_bits(monkeypatch, backend, threads):
    if threads > 1:
        monkeypatch.setattr(pool, "threads", lambda: 2)
        for limit in ("ELEMENTS", "IN_A_CALL", "FOR_A_PARAMETER"):
            monkeypatch.setattr(shares, limit, 0)

    def trained(verify):
        model = Net() if threads == 1 else nn.Sequential(nn.Dense(4, 6, "tanh", rng=0), nn.Linear(6, 3, rng=1))
        model.parameters()[0].grad = kept = np.ones(model.parameters()[0].shape, np.float32)
        optimizer = optim.AdamW(model.parameters(), lambda step: 0.01 / (1 + step))
        step = tg.compile_step(model, nn.MSELoss(), optimizer, backend=backend, verify=verify)
        losses = [step(*batch) for batch in batches(5)]
        assert model.parameters()[0].grad is kept
        return losses, looked_at(model, optimizer), model

    with running(backend):
        (losses, found, model), (expected_losses, expected, _) = trained(True), trained(False)
    assert losses == expected_losses
    assert found == expected
    assert all(p.grad is None for p in model.parameters()[1:])


def test_a_checked_function_ends_in_the_same_bits():
    def trained(verify):
        model = Net()
        optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
        f = tg.compile(lambda x, y: np.mean((model(x) - y) ** 2), verify=verify)
        for x, y in batches(5):
            f(x, y).backward()
            optimizer.step()
            optimizer.zero_grad()
        return looked_at(model, optimizer)

    assert trained(True) == trained(False)


def test_verify_at_any_time():
    model = Net()
    optimizer = optim.Adam(model.parameters(), 0.01)
    step = tg.compile_step(model, nn.MSELoss(), optimizer)
    f = tg.compile(lambda x: model(x))
    for x, y in batches(3):
        before = looked_at(model, optimizer)
        assert step.verify(x, y) is None
        assert f.verify(x) is None
        assert looked_at(model, optimizer) == before
        step(x, y)
    model.eval()
    assert f.verify(batches()[0][0]) is None


# ---------------------------------------------------------------------------------------------------------------------
# When it is asked for
# ---------------------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self, scale):
        self.a, self.b, self.scale, self.calls = (
            nn.Linear(4, 5, rng=0),
            nn.Linear(5, 3, rng=1),
            scale,
            itertools.count(),
        )

    def forward(self, x):
        next(self.calls)
        return self.b(self.a(x) * self.scale)

    def called(self):
        return next(self.calls)


@pytest.mark.parametrize(("scale", "checks"), [(1.0, 2), (0.0, MOST)])
def test_the_first_two_batches_and_up_to_eight_where_something_is_zero(scale, checks):
    """One call of `forward` for the trace, and one for each batch that is compared."""
    model = Counting(scale)
    step = tg.compile_step(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1))
    for i in range(MOST + 3):
        step(*batches(MOST + 3)[i])
    assert model.called() == 1 + checks
    assert not step._unproved
    model = Counting(scale)
    f = tg.compile(lambda x: np.sum(model(x)))
    for i in range(MOST + 3):
        f(normal(8, 4, seed=i)).backward()
    assert model.called() == 1 + checks
    assert not f._unproved


def test_what_is_zero_at_first_is_looked_at_later(monkeypatch):
    """A last layer that begins at zero lets no gradient through: that of the first one is wrong only later."""

    class Begins(nn.Module):
        def __init__(self):
            self.a, self.b = nn.Dense(4, 6, "tanh", rng=0), nn.Linear(6, 3, rng=1)
            self.b.weight.data = np.zeros((6, 3), np.float32)

        def forward(self, x):
            return self.b(self.a(x))

    broken(monkeypatch, scale_a_gradient)
    model = Begins()
    step = tg.compile_step(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1))
    step(*batches()[0])
    with pytest.warns(tg.CompileWarning, match=r"model\.a\.weight"):
        step(*batches()[1])


def test_progress():
    progress = Progress(verify=True)
    zero, number, wrong = np.zeros(2), np.ones(2), np.array([1.0, np.nan])
    for arrays in ({"a": zero, "b": number}, {"a": wrong, "b": zero}):
        assert progress.due()
        progress.runs += 1
        progress.saw(arrays)
    assert progress.due()
    progress.saw({"a": number})
    assert not progress.due()
    assert progress.over()
    assert not Progress(verify=False).due()


# ---------------------------------------------------------------------------------------------------------------------
# What is no difference
# ---------------------------------------------------------------------------------------------------------------------


def test_nothing_but_noise_is_no_difference():
    """A bias in front of a batch normalization; saturated functions; sums that cancel; a tie of two maxima."""

    class Odd(nn.Module):
        def __init__(self, scale):
            self.a, self.b, self.scale = nn.Linear(4, 6, rng=0), nn.Linear(6, 3, rng=1), scale
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x):
            y = self.norm(self.a(x))
            z = tg.softmax(self.scale * y) * np.tanh(self.scale * y)
            z = np.concatenate([z, z], axis=1).reshape(-1, 2, 6).max(axis=1)
            return self.b(z) + (z - z.mean(axis=1, keepdims=True)).mean(axis=1, keepdims=True)

    for scale in (1.0, 30.0, 1e4):
        for dtype in (np.float32, np.float64):
            model = Odd(scale).to(dtype)
            step = tg.compile_step(model, nn.MSELoss(), optim.Adam(model.parameters(), 0.01))
            f = tg.compile(lambda x, model=model: np.sum(model(x)))
            for i in range(3):
                step(normal(64, 4, seed=i, dtype=dtype) * 100, normal(64, 3, seed=i, dtype=dtype))
                f(normal(64, 4, seed=i, dtype=dtype)).backward()


def test_what_is_off_by_rounding_near_saturation_is_no_difference():
    """Columns that are saturated for good tell nothing of those beside them, where 1 - y is a rounded number."""
    w = tg.Parameter(np.full((1, 9), 30.0))
    w.data[0, 0] = 1e3

    def f(x):
        return np.sum(1e4 * (1 / (1 + np.exp(-x * w)) if tracing[0] else tg.sigmoid(x * w)))

    for seed in range(20):
        tracing = [False]
        x = tg.Tensor(rng(seed).uniform(0.8, 1.1, (16, 1)))
        f(x).backward()
        expected, w.grad = w.grad, None
        tracing = [True]
        f(x).backward()
        found, w.grad = w.grad, None
        tracing = [False]

        def again(x=x):
            return {"w": tg.gradients(f(x), w, create_graph=True).value}

        assert first_difference({"w": found}, {"w": expected}, Noise(again)) is None


def test_not_finite_elements_are_equal_where_they_are_the_same():
    nan, inf = np.nan, np.inf
    a = np.array([nan, inf, -inf, 1.0], np.float32)
    assert first_difference({"a": a}, {"a": a.copy()}) is None
    for i, other in ((0, 0.0), (1, -inf), (1, nan), (2, 3.0), (3, inf)):
        b = a.copy()
        b[i] = other
        assert first_difference({"a": a}, {"a": b}).place == (i,)


def test_what_counts_as_a_difference():
    a = normal(50)
    for factor, differs in ((1 + 1e-6, False), (1 + 1e-3, True)):
        assert (
            first_difference({"a": a * np.float32(factor)}, {"a": a}, Noise(lambda: {"a": a})) is None
        ) is not differs
    assert "float64(50,)" in str(first_difference({"a": a.astype(np.float64)}, {"a": a}))
    assert first_difference({"a": np.array([1, 2])}, {"a": np.array([1, 3])}).place == (1,)
    noisy = iter(range(100))
    assert (
        first_difference({"a": a * 1.1}, {"a": a}, Noise(lambda: {"a": a * np.float32(1 + 0.02 * next(noisy))})) is None
    )


def test_draws_of_the_check_are_not_those_of_the_program():
    generator, other = rng(1), rng(1)
    f = tg.compile(lambda x: functional.dropout(x, 0.5, generator))
    for i in range(4):
        x = normal(20, seed=i)
        assert np.array_equal(np.asarray(f(x)), np.asarray(functional.dropout(x, 0.5, other)))


def test_the_message():
    """Both numbers, what was done about it, and how to turn it off."""
    text = "compile_step: the loss is 1.5, and 1.0 in the eager engine. The eager result was used, and what has this "
    with pytest.MonkeyPatch.context() as monkeypatch:
        broken(monkeypatch, lambda program: program.outputs.__setitem__(0, scaled(program, program.outputs[0], 1.5)))
        w = tg.Parameter([1.0])
        step = tg.compile_step(lambda x: x * w, lambda y, t: np.sum(y), optim.SGD([w], 0.5))
        with pytest.warns(tg.CompileWarning, match=re.escape(text)) as caught:
            step(np.ones(1, np.float32), np.ones(1))
    assert caught[0].filename == __file__
    assert "verify=False turns the check off" in str(caught[0].message)
    assert issubclass(tg.CompileWarning, UserWarning)


# ---------------------------------------------------------------------------------------------------------------------
# Copies
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tree: pickle.loads(pickle.dumps(tree))])
def test_copies_of_a_used_step_share_nothing_and_stay_together(copied):
    model = Net()
    optimizer = optim.Adam(model.parameters(), 0.01)
    step = tg.compile_step(model, nn.MSELoss(), optimizer)
    for batch in batches(3):
        step(*batch)
    one, two, three = copied((model, optimizer, step))
    assert three.plans == []
    assert three.model is one
    assert three.optimizer is two
    assert looked_at(one, two) == looked_at(model, optimizer)
    before = looked_at(model, optimizer)
    losses = [three(*batch) for batch in batches(3)]
    assert looked_at(model, optimizer) == before
    assert [step(*batch) for batch in batches(3)] == losses
    assert looked_at(one, two) == looked_at(model, optimizer)


def test_lists_are_read_as_a_tensor_reads_them():
    def make():
        return nn.Linear(2, 1, rng=0)

    x, y = [[1.5, 2.0], [0.1, -1.0]], [[1.0], [0.3]]
    model, twin = make(), make()
    step = tg.compile_step(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1))
    found = step(x, y)
    assert step.plans[0].kinds[0][1] == np.float32
    assert found == eager_step(twin, nn.MSELoss(), optim.SGD(twin.parameters(), 0.1), x, tg.Tensor(y))
    np.testing.assert_array_equal(model.weight.data, twin.weight.data)
    assert step.report(x, y).calls
