"""Where a Tensor becomes a plain number: never in silence inside a transform or a trace; outside, by name or with a word."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg

POINT = np.array([2.0, 3.0])


def written(write: Any) -> Any:
    """An array that something is written into."""
    out = np.zeros(2)
    write(out)
    return out


# Ways from a Tensor of one element to a number or an array of NumPy's; the last word says what happens outside of
# transforms to a Tensor that requires a gradient: it "warns", "raises", or is the way that stays "silent".
DOORS: dict[str, tuple[Any, str]] = {
    "float": (float, "warns"),
    "int": (int, "warns"),
    "math.exp": (math.exp, "warns"),
    "math.pow": (lambda t: math.pow(t, 2), "warns"),
    "array[i] = t": (lambda t: written(lambda out: out.__setitem__(0, t)), "warns"),
    "array.fill": (lambda t: written(lambda out: out.fill(t)), "warns"),
    "np.fromiter": (lambda t: np.fromiter([t], float), "warns"),
    "np.float64": (np.float64, "warns"),
    "np.interp(left=)": (lambda t: np.interp([-1.0], [0.0, 1.0], [0.0, 1.0], left=t), "warns"),
    "np.sum(initial=)": (lambda t: np.sum(np.ones(2), initial=t), "warns"),
    "np.max(initial=)": (lambda t: np.max(np.ones(2), initial=t), "warns"),
    "range": (lambda t: np.linspace(0, 1, int(t)), "warns"),
    "item": (lambda t: t.item(), "silent"),
    "tolist": (lambda t: t.tolist(), "raises"),
    "np.asarray": (np.asarray, "raises"),
    "np.array": (lambda t: np.array([t, t]), "raises"),
    "np.r_": (lambda t: np.r_[t, t], "raises"),
    "np.full": (lambda t: np.full(2, t), "raises"),
    "np.full_like": (lambda t: np.full_like(np.zeros(2), t), "raises"),
    "np.put": (lambda t: written(lambda out: np.put(out, [0], t)), "raises"),
    "np.copyto": (lambda t: written(lambda out: np.copyto(out, t)), "raises"),
    "np.pad": (lambda t: np.pad(np.ones(2), 1, constant_values=t), "raises"),
    "np.arange": (lambda t: np.arange(0, t), "raises"),
    "np.dot of a list": (lambda t: np.dot([t, t], [1.0, 2.0]), "raises"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("transform", ["grad", "jacobian", "jvp", "compile"])
def test_nothing_leaves_a_function_that_is_differentiated_or_traced(door: str, transform: str) -> None:
    leave = DOORS[door][0]
    f = lambda x: np.sum(x) * np.sum(leave(x[0]))
    call = {
        "grad": lambda: tg.grad(f)(POINT),
        "jacobian": lambda: tg.jacobian(f)(POINT),
        "jvp": lambda: tg.jvp(f, POINT, POINT),
        "compile": lambda: tg.compile(f)(tg.Tensor(POINT, requires_grad=True)),
    }[transform]
    with pytest.raises((TypeError, ValueError)):
        call()


@pytest.mark.parametrize("door", DOORS)
def test_outside_it_is_said(door: str) -> None:
    leave, what = DOORS[door]
    t = tg.Tensor(POINT, requires_grad=True)[0] * 1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if what == "raises":
            with pytest.raises(TypeError, match=r"np\.stack|t\.detach\(\)|use "):
                leave(t)
        else:
            leave(t)
    assert bool(said) is (what == "warns")
    assert all("np.stack([...])" in str(w.message) and "t.item()" in str(w.message) for w in said)


@pytest.mark.parametrize("door", DOORS)
def test_constants_leave_freely(door: str) -> None:
    """What requires no gradient is a number like any other, in a transform too: there by way of detach()."""
    leave, _ = DOORS[door]
    if door not in ("np.full", "np.full_like", "np.copyto", "np.put"):  # NumPy hands these over as writing functions
        leave(tg.Tensor(2.0, dtype=np.float64))
        tg.grad(lambda x: np.sum(x) * float(np.sum(np.asarray(leave(x[0].detach())))))(POINT)
    with tg.no_grad():
        float(tg.Tensor(2.0, requires_grad=True))


def test_what_stays_easy() -> None:
    loss = tg.Tensor(2.0, requires_grad=True) * 2
    assert f"{loss:.3f}" == "4.000"
    assert "4." in str(loss)
    history: list[Any] = []
    history.append(loss.item())
    assert history == [4.0]
    tg.grad(lambda x: (print(f"{x:.1f}"), x * x)[1])(2.0)


@pytest.mark.parametrize("update", ["w -= 0.1 * g", "w += g", "w *= 0.5", "w /= 2"])
def test_an_update_of_the_name_alone_is_refused(update: str) -> None:
    for make in (tg.Parameter, lambda data: with_gradient(data)):
        names: dict[str, Any] = {"w": make([1.0, 2.0]), "g": np.ones(2, np.float32)}
        with pytest.raises(TypeError, match=r"write w\.data .= \.\.\."):
            exec(update, names)
    names["w"] = tg.Tensor([1.0], requires_grad=True) * 2  # a computed one is bound anew, as anywhere in Python
    names["g"] = 1.0
    exec(update, names)
    assert names["w"].requires_grad


def with_gradient(data: Any) -> tg.Tensor:
    t = tg.Tensor(data, requires_grad=True)
    np.sum(t).backward()
    return t


def closed_over(transform: Any, **options: Any) -> Any:
    """w * (d/dy of w^2 y, at 2), differentiated with respect to w = 3: 3 w^2 where the graph is kept."""
    w = tg.Tensor(3.0, requires_grad=True, dtype=np.float64)
    (w * transform(lambda y: w * w * y, options)).backward()
    return w.grad


@pytest.mark.parametrize(
    "transform",
    [
        lambda f, o: tg.grad(f, **o)(np.array(2.0)),
        lambda f, o: tg.value_and_grad(f, **o)(np.array(2.0))[1],
        lambda f, o: tg.jacobian(f, **o)(np.array(2.0)),
        lambda f, o: tg.vjp(f, np.array(2.0), **o)[1](np.array(1.0))[0],
        lambda f, o: tg.jvp(f, np.array(2.0), np.array(1.0), **o)[1],
        lambda f, o: tg.hessian(lambda y: f(y) * y / 2, **o)(np.array(2.0)),
    ],
)
def test_with_create_graph_a_transform_is_open_to_what_was_closed_over(transform: Any) -> None:
    assert closed_over(transform, create_graph=True) == 27
    assert closed_over(transform) == 9  # without it the result is an array, and a constant
