"""What `compile` refuses: whatever would bake a value of one call into the program. Each error names the way out."""

from __future__ import annotations

import copy
import math
import pickle
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import assert_agree

import tinygrad_mm as tg
from tinygrad_mm import functional, nn

OUTSIDE = "keep the computation in Tensors|outside the traced function"


def rng(seed=0):
    return np.random.default_rng(seed)


def branch(t):
    return t * 2 if np.sum(t) > 0 else t


def loop(t):
    while t.sum() < 100:
        t = t * 2
    return t


def written(t):
    a = np.zeros(3, np.float32)
    a[:] = t
    return a


def written_number(t):
    a = np.zeros(3, np.float32)
    a[0] = t[0]
    return t * a


def added_in_place(t):
    a = np.zeros(3, np.float32)
    a += t
    return a


LOOKS_AT_VALUES = {
    "if": branch,
    "while": loop,
    "item": lambda t: t * t[0].item(),
    "float": lambda t: t * float(t[0]),
    "int": lambda t: t * int(t[0]),
    "bool": lambda t: t * bool(t[0]),
    "math": lambda t: t * math.sin(t[0]),
    "format": lambda t: f"{t[0]:.2f}",
    "asarray": lambda t: t * np.asarray(t),
    "array": lambda t: np.array(t),
    "data": lambda t: t * t.data,
    "numpy": lambda t: t * t.numpy(),
    "tolist": lambda t: t * t.tolist()[0],
    "dlpack": lambda t: t * np.from_dlpack(t.detach()),
    "range": lambda t: sum(t[i] for i in range(t.astype(np.int64)[0])),
    "in": lambda t: t if t[0] in (1.0, 2.0) else -t,
    "max": lambda t: max(t[0], t[1]),
    "sorted": lambda t: sorted([t[0], t[1]])[0],
    "array index": lambda t: t * np.arange(12.0).reshape(4, 3)[t.astype(np.int64), 0],
    "list index": lambda t: t * [1.0, 2.0, 3.0][t.astype(np.int64)[0]],
    "written": written,
    "written number": written_number,
    "allclose": lambda t: t if np.allclose(t, 1) else -t,
    "array_equal": lambda t: t if np.array_equal(t, t) else -t,
    "deepcopy": lambda t: t * copy.deepcopy(t),
    "pickle": lambda t: t * pickle.loads(pickle.dumps(t)),
    "backward": lambda t: (np.sum(t).backward(), t)[1],
}  # fmt: skip


@pytest.mark.parametrize(
    "tensor", ["of an argument", "with a gradient", "captured parameter", "captured array", "computed"]
)
@pytest.mark.parametrize("name", LOOKS_AT_VALUES)
def test_looking_at_values(name, tensor):
    f = LOOKS_AT_VALUES[name]
    x = np.array([1.0, 2.0, 0.0], np.float32)
    parameter = tg.Parameter(x)
    call, argument = {
        "of an argument": (f, tg.Tensor(x)),
        "with a gradient": (f, tg.Tensor(x, requires_grad=True)),
        "captured parameter": (lambda t: f(parameter), x),
        "captured array": (lambda t: f(x * 1), x),
        "computed": (lambda t: f(np.exp(t)), x),
    }[tensor]
    with pytest.raises((TypeError, ValueError)) as caught:
        tg.compile(call)(argument)
    error = caught.value  # where NumPy was writing an element it reports an error of its own, caused by ours
    assert re.search(OUTSIDE, str(error)) or (
        isinstance(error.__cause__, TypeError) and re.search(OUTSIDE, str(error.__cause__))
    )


def test_writing_into_arrays():
    x = np.ones(3, np.float32)
    captured = np.zeros(3)

    def assigned(t):
        captured[0] = 1.0
        return t + captured

    def argument(t):
        t[0] = 1.0
        return t

    def grown(t):
        t += 1
        return t

    for f in (assigned, argument):
        with pytest.raises(TypeError, match=r"x.at\[index\].set\(value\)"):
            tg.compile(f)(x)
    with pytest.raises(TypeError, match="out= would write into an array"):
        tg.compile(added_in_place)(tg.Tensor(x))
    with pytest.raises(TypeError, match=r"writes into an array that it was given.*x = x \+ 1"):
        tg.compile(grown)(x)
    assert np.array_equal(x, np.ones(3))
    assert np.array_equal(captured, np.zeros(3))


def test_shapes_that_depend_on_values():
    x = tg.Tensor([1.0, -1.0, 2.0])
    mask = np.array([True, False, True])
    for f in (
        lambda t: t[t > 0],
        lambda t: t[mask],
        lambda t: np.sum(t * np.flatnonzero(t > 0).sum()),
        lambda t: np.unique(t),
        lambda t: np.extract(t > 0, t),
        lambda t: np.bincount(t.astype(np.int64) + 1),
    ):
        with pytest.raises(TypeError, match=r"the shape of .* depends on values.*np.where\(mask, x, 0\)"):
            tg.compile(f)(x)
    places = np.flatnonzero(mask)
    assert_agree(tg.compile(lambda t: t[places] + np.where(t > 0, t, 0)[:2])(x), x[places] + np.where(x > 0, x, 0)[:2])
    assert_agree(tg.compile(lambda t: t.at[t < 0].set(9.0))(x), x.at[x < 0].set(9.0))


def test_draws_that_are_not_recorded():
    generator = rng()
    x = tg.Tensor(np.ones(3, np.float32))
    hidden = SimpleNamespace()
    hidden.__dict__["of " + "another name"] = rng()
    unrecorded = "not recorded; use tg.dropout"
    for f, message in (
        (lambda t: t + generator.standard_normal(3), unrecorded),
        (lambda t: functional.dropout(t, 0.5, generator) * generator.random(), unrecorded),
        (
            lambda t: (
                functional.dropout(t, 0.5, generator) * functional.dropout(t, 0.5, generator) + generator.random(3)
            ),
            unrecorded,
        ),
        (lambda t: t + np.random.rand(3), "np.random or of random"),  # noqa: NPY002
        (lambda t: t * random.random(), "np.random or of random"),
        (lambda t: functional.dropout(t, 0.5, rng(1)), "makes itself"),
        (lambda t: functional.dropout(t, 0.5, vars(hidden)["of another name"]), "cannot see"),
    ):
        before = generator.bit_generator.state
        with pytest.raises(TypeError, match=message):
            tg.compile(f)(x)
        assert generator.bit_generator.state == before


def test_changing_what_the_function_reads():
    count, seen = 0, []
    settings = {"calls": 0}
    layer = nn.Linear(2, 2, rng=0)

    def counts(t):
        nonlocal count
        count += 1
        return t * count

    def collects(t):
        seen.append(t)
        return t * len(seen)

    def updates(t):
        settings["calls"] += 1
        return t * settings["calls"]

    def sets(t):
        layer.calls = getattr(layer, "calls", 0) + 1
        return layer(t) * layer.calls

    x = tg.Tensor([1.0, 2.0])
    for f, name in ((counts, "count"), (collects, "seen"), (updates, "settings.calls"), (sets, "layer")):
        with pytest.raises(TypeError, match=f"changes '{name}.*' while it runs.*return the new value"):
            tg.compile(f)(x)
    cache = {}

    def remembers(t):
        if "scale" not in cache:
            cache["scale"] = 3.0
        return t * cache["scale"]

    assert_agree(tg.compile(remembers)(x), x * 3.0)  # set up once, and the same from then on


def test_arguments_that_are_no_numbers():
    f = tg.compile(lambda x, flag=None: x)
    for bad in (np.array(["a"]), np.array([1j]), np.array([None]), np.ma.masked_array([1.0], [True])):
        with pytest.raises(
            TypeError, match=r"x is a \w+ of dtype .*; a compiled function takes arrays of real numbers"
        ):
            f(bad)
    with pytest.raises(TypeError, match="no derivative rule"):
        tg.compile(lambda x: np.fft.fft(x))(np.ones(3))
    with pytest.raises(TypeError, match="argument"):
        f()


def test_the_source_before_the_first_call():
    f = tg.compile(lambda x: x)
    with pytest.raises(RuntimeError, match="has not been called yet"):
        f.source  # noqa: B018
    assert repr(f) == "<compiled <lambda>, 0 programs>"


def test_printing_works(capsys):
    """A tensor can be looked at while a program is traced, by people."""

    def f(t):
        print(t, repr(t))
        return t * 2

    assert_agree(tg.compile(f)(tg.Tensor([1.0, 2.0])), tg.Tensor([2.0, 4.0]))
    assert "[1., 2.]" in capsys.readouterr().out


def test_gradients_inside_are_part_of_the_program():
    """Not numbers of the trace."""
    w = tg.Parameter([1.0, 2.0])

    def f(x, create_graph):
        y = np.sum(x * x * x * w)
        (g,) = tg.gradients(y, [x], create_graph=create_graph)
        return g * x

    for create_graph in (False, True):
        compiled = tg.compile(f)
        for seed in range(3):
            x, z = (tg.Tensor(rng(seed).standard_normal(2).astype(np.float32), requires_grad=True) for _ in range(2))
            a, b = compiled(x, create_graph), f(z, create_graph)
            assert_agree(a, b)
            np.sum(a).backward()
            np.sum(b).backward()
            assert_agree(x.grad, z.grad)
