"""The states of optimizers: saved, loaded, and going on bit for bit."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from update_rules import CASES, parameters, train

import tinygrad_mm as tg
from tinygrad_mm import optim
from tinygrad_mm.optim import clipping
from tinygrad_mm.weights import load, save

# -- state


def rotated(kind, options, ps, schedule=None):
    """An optimizer with two groups, the second with a learning rate of its own."""
    groups = [{"parameters": ps[:2]}, {"parameters": ps[2:], "learning_rate": schedule or 0.05}]
    return kind(groups, **options)


def through_a_file(state):
    """What a checkpoint does: arrays into safetensors, the rest into JSON."""
    arrays = {k: v for k, v in state["state"].items() if isinstance(v, np.ndarray)}
    rest = {k: v for k, v in state["state"].items() if k not in arrays}
    text = json.dumps([rest, state["options"]])
    with tempfile.TemporaryDirectory() as folder:
        save(f"{folder}/optimizer.safetensors", arrays)
        arrays = load(f"{folder}/optimizer.safetensors")
    rest, options = json.loads(text)
    return {"state": {**arrays, **rest}, "options": options}


@pytest.mark.parametrize(("kind", "formula", "options"), CASES)
@pytest.mark.parametrize("converted", [False, True])
def test_resuming_is_exact(kind, formula, options, converted):
    schedule = optim.cosine(0.1, steps=30)
    ps = parameters(dtype=np.float32)
    optimizer = rotated(kind, options, ps, schedule)
    train(optimizer, ps, 0, 10, skipped=(1, 2))
    if converted:  # another dtype in the middle: the arrays are not the optimizer's any more
        ps[0].data = ps[0].data.astype(np.float64)
        ps[3].data = ps[3].data.astype(np.float64)
    values, state = [p.data.copy() for p in ps], through_a_file(optimizer.state_dict())
    train(optimizer, ps, 10, 20, skipped=(1, 2))
    again = [tg.Parameter(v, dtype=v.dtype) for v in values]
    fresh = rotated(kind, options, again, schedule)
    train(fresh, again, 3, 5)  # whatever it did before is forgotten
    for p, v in zip(again, values, strict=True):
        p.data = v
    fresh.load_state_dict(state)
    train(fresh, again, 10, 20, skipped=(1, 2))
    assert fresh.steps == optimizer.steps == 20
    for p, q in zip(ps, again, strict=True):
        assert p.dtype == q.dtype
        assert p.data.tobytes() == q.data.tobytes()
        for name, value in optimizer.state_of(p).items():
            assert np.array_equal(value, fresh.state_of(q)[name])


def test_a_saved_state_is_a_copy_with_flat_names():
    ps = parameters([(2,), ()])
    optimizer = optim.Adam(ps, 0.1)
    train(optimizer, ps, 0, 2, skipped=(1,))
    state = optimizer.state_dict()
    assert list(state["state"]) == [f"{i}.{n}" for i in (0, 1) for n in ("step", "mean", "mean_square")]
    assert (state["state"]["0.step"], state["state"]["1.step"]) == (2, 1)
    assert state["options"] == {
        "optimizer": "Adam",
        "steps": 2,
        "groups": [
            {"parameters": 2, "learning_rate": 0.1, "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.0}
        ],
    }
    before = state["state"]["0.mean"].copy()
    train(optimizer, ps, 2, 4)
    assert np.array_equal(state["state"]["0.mean"], before)
    optimizer.load_state_dict(state)
    train(optimizer, ps, 2, 4)
    assert np.array_equal(state["state"]["0.mean"], before)


def test_loading_restores_options_but_not_schedules():
    ps = parameters([(2,)])
    first = optim.SGD(ps, 0.1, momentum=0.9)
    first.learning_rate = 0.025
    second = optim.SGD(ps, 0.1, momentum=0.5)
    second.load_state_dict(first.state_dict())
    assert (second.learning_rate, second.groups[0]["momentum"]) == (0.025, 0.9)
    scheduled = optim.SGD(ps, lambda step: 1.0 / (step + 1), momentum=0.9)
    for one, other in ((first, scheduled), (scheduled, first)):
        with pytest.raises(ValueError, match=r"'learning_rate'.*followed a schedule"):
            other.load_state_dict(one.state_dict())
    train(scheduled, ps, 0, 3)
    another = optim.SGD(ps, lambda step: 1.0 / (step + 1), momentum=0.9)
    another.load_state_dict(scheduled.state_dict())
    assert another.learning_rate == 0.25


def bad_states():
    def change(path, value):
        def apply(state):
            *way, last = path
            for key in way:
                state = state[key]
            if value is KeyError:
                del state[last]
            else:
                state[last] = value

        return apply

    return [
        (change(["state", "1.mean"], KeyError), "lacks '1.mean'"),
        (change(["state", "9.mean"], np.ones(2)), "has '9.mean' too"),
        (change(["state", "1.mean"], np.ones(7)), r"1.mean has shape \(7,\)"),
        (change(["state", "1.mean"], np.ones((2, 2), np.float32)), "dtype float32"),
        (change(["state", "1.mean"], [1.0]), "1.mean is a list"),
        (change(["state", "1.step"], -1), "1.step is -1"),
        (change(["state", "1.step"], 1.5), "1.step is 1.5"),
        (change(["state", "1.step"], True), "1.step is True"),
        (change(["state"], None), "state is a NoneType"),
        (change(["options"], KeyError), "lacks 'options'"),
        (change(["options", "optimizer"], "SGD"), "saved from 'SGD'"),
        (change(["options", "steps"], "3"), "steps is '3'"),
        (change(["options", "groups"], []), "are not 1"),
        (change(["options", "groups"], 5), "are not 1"),
        (change(["options", "groups", 0], []), "is a list"),
        (change(["options", "groups", 0, "parameters"], 3), "saved with 3 parameters and has 2"),
        (change(["options", "groups", 0, "epsilon"], KeyError), "lacks 'epsilon'"),
        (change(["options", "groups", 0, "epsilon"], -1.0), "epsilon=-1.0"),
        (change(["options", "groups", 0, "epsilon"], "1"), "no value like"),
        (change(["options", "groups", 0, "betas"], [0.9]), "no value like"),
        (change(["options", "groups", 0, "betas"], [0.9, 2.0]), "betas"),
        (change(["options", "groups", 0, "nesterov"], True), "has 'nesterov' too"),
    ]


@pytest.mark.parametrize(("change", "message"), bad_states())
def test_a_bad_state_changes_nothing(change, message):
    ps = parameters([(3,), (2, 2)])
    optimizer = optim.Adam(ps, 0.1)
    train(optimizer, ps, 0, 3)
    state = optimizer.state_dict()
    state["options"]["steps"], state["state"]["0.step"] = 8, 8
    state["options"]["groups"][0]["learning_rate"] = 0.5
    before = json.dumps(optimizer.state_dict(), default=lambda a: a.tolist())
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert json.dumps(optimizer.state_dict(), default=lambda a: a.tolist()) == before


# -- clipping


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    limit=st.floats(0.01, 20),
    block=st.integers(1, 7),
)
def test_clip_grad_norm(shapes, dtype, limit, block):
    ps = parameters(shapes, dtype)
    r = np.random.default_rng(0)
    for p in ps:
        p.grad = r.standard_normal(p.shape).astype(dtype)
    before = [p.grad.copy() for p in ps]
    arrays = [p.grad for p in ps]
    norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in before))
    old, clipping.BLOCK = clipping.BLOCK, block
    try:
        assert np.isclose(optim.clip_grad_norm(ps, limit), norm, rtol=1e-12)
    finally:
        clipping.BLOCK = old
    for p, g, array in zip(ps, before, arrays, strict=True):
        assert p.grad is array
        assert p.grad.dtype == dtype
        assert np.allclose(p.grad, g * min(1, limit / norm) if norm else g, rtol=2e-3 if dtype == np.float16 else 1e-6)


def test_loaded_numbers_of_steps_count_at_once():
    ps = parameters([(2,), (2,)])
    first = optim.Adam(ps, 0.1)
    train(first, ps, 0, 3, skipped=(1,))
    state = first.state_dict()
    values = [p.data.copy() for p in ps]
    train(first, ps, 3, 4)
    others = parameters([(2,), (2,)])
    second = optim.Adam(others, 0.1)
    train(second, others, 0, 2)  # both parameters have a gradient now, as after loading
    for p, v in zip(others, values, strict=True):
        p.data = v
    second.load_state_dict(state)
    train(second, others, 3, 4)
    assert all(p.data.tobytes() == q.data.tobytes() for p, q in zip(ps, others, strict=True))
