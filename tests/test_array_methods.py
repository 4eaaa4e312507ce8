"""The methods of `ndarray` on Tensors: the same signatures, the same results, or a reason why not."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import tinygrad_mm as tg

A = np.array([[[1.5, -2.0, 0.25], [0.5, 3.0, 1.0]], [[-0.75, 2.0, 4.0], [1.25, -1.0, 5.0]]])

# fmt: off
CALLS = {
    "sum":          [(), (0,), (1, np.float64), (1, None, None, True)],
    "prod":         [(), (-1,), (0, None, None, True)],
    "mean":         [(), ((0, 2),), (0, None, None, True)],
    "var":          [(), (0,), (1, None, None, 1), (2, None, None, 1, True)],
    "std":          [(), (0,), (1, None, None, 1), (2, None, None, 1, True)],
    "max":          [(), (0,), (1, None, True)],
    "min":          [(), (0,), (1, None, True)],
    "all":          [(), (0,)],
    "any":          [(), (0,)],
    "argmax":       [(), (1,)],
    "argmin":       [(), (1,)],
    "argsort":      [(), (0,)],
    "argpartition": [(1,), ((0, 1), 0)],
    "cumsum":       [(), (0,), (1, np.float64)],
    "cumprod":      [(), (0,), (1, np.float64)],
    "trace":        [(), (1,), (0, 1, 2)],
    "reshape":      [(4, 3), ((3, 4),), (-1,), (2, -1)],
    "ravel":        [(), ("F",)],
    "flatten":      [(), ("F",)],
    "transpose":    [(), (2, 0, 1), ((1, 0, 2),), (None,)],
    "swapaxes":     [(0, 2)],
    "squeeze":      [()],
    "repeat":       [(2,), (3, 1), ([1, 2], 0)],
    "diagonal":     [(), (1,), (0, 1, 2)],
    "take":         [([0, 5, 0],), ([1, 0], 1), ([7, -9], 0, None, "wrap")],
    "compress":     [([True, False],), ([False, True], 2)],
    "nonzero":      [()],
    "clip":         [(-1, 1), (None, 2.0), (0,)],
    "round":        [(), (1,)],
    "conj":         [()],
    "conjugate":    [()],
    "copy":         [()],
    "astype":       [(np.float32,), (np.int64,)],
    "item":         [],
    "tolist":       [()],
    "dot":          [(np.arange(3.0),)],
    "T":            None,
    "mT":           None,
    "real":         None,
    "shape":        None,
    "dtype":        None,
    "ndim":         None,
    "size":         None,
    "nbytes":       None,
    "itemsize":     None,
}

NOT_SUPPORTED = {
    "base":         "whose memory it is",
    "ctypes":       "an address in memory",
    "data":         "the array itself on a Tensor, a buffer on an ndarray",
    "device":       "where the memory is",
    "dump":         "np.save writes t.data",
    "dumps":        "pickle takes Tensors",
    "flags":        "how the memory is laid out",
    "flat":         "x.ravel() or x.at[i].set(v)",
    "getfield":     "bytes of the elements",
    "imag":         "Tensors are real",
    "setflags":     "how the memory is laid out",
    "strides":      "how the memory is laid out",
    "to_device":    "where the memory is",
    "tobytes":      "t.data.tobytes()",
    "tofile":       "t.data.tofile(file)",
    "view":         "another reading of the same bytes",
}

# Methods that write in place: each raises and names what to use instead.
IN_PLACE = {
    "sort":         ((), "np.sort"),
    "partition":    ((1,), "np.partition"),
    "fill":         ((0.0,), "np.full_like"),
    "put":          (([0], 1.0), r"x\.at"),
    "resize":       (((2, 2),), "np.reshape"),
    "setfield":     ((1.0, np.float64), r"x\.at"),
    "byteswap":     ((), "byteswap"),
}

# Methods of integers and of sorted lists, which the array above is not.
OTHERS = {"choose", "searchsorted"}

# Methods that NumPy 2 has dropped or is dropping, though its first releases still name them.
GONE = {"itemset", "newbyteorder", "ptp", "tostring"}
# fmt: on


def test_every_method_of_an_array_is_accounted_for() -> None:
    public = {name for name in dir(np.ndarray) if not name.startswith("_")}
    assert public <= {*CALLS, *NOT_SUPPORTED, *IN_PLACE, *OTHERS, *GONE}
    assert not [name for name in NOT_SUPPORTED if hasattr(tg.Tensor, name) and name != "data"]


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, calls in CALLS.items() for args in calls or ()])
def test_methods_are_numpys(name: str, args: Any) -> None:
    expected = getattr(A, name)(*args)
    ours = getattr(tg.Tensor(A, requires_grad=name != "tolist"), name)(*args)
    if name == "tolist":
        assert ours == expected
        return
    for one, other in zip(ours, expected, strict=True) if isinstance(expected, tuple) else [(ours, expected)]:
        assert isinstance(one, tg.Tensor)
        np.testing.assert_array_equal(one.detach().data, np.asarray(other), strict=True)


@pytest.mark.parametrize("name", [name for name, calls in CALLS.items() if calls is None])
def test_attributes_are_numpys(name: str) -> None:
    ours, expected = getattr(tg.Tensor(A), name), getattr(A, name)
    np.testing.assert_array_equal(ours.data if isinstance(ours, tg.Tensor) else ours, expected)


def test_methods_of_integers_and_of_sorted_lists() -> None:
    index, choices = np.array([0, 1, 1]), ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    np.testing.assert_array_equal(tg.Tensor(index).choose(choices).data, index.choose(choices))
    np.testing.assert_array_equal(tg.Tensor([1.0, 2.0]).searchsorted([0.5, 1.5]).data, [0, 1])


def test_single_elements() -> None:
    t = tg.Tensor(2.5)
    assert (t.item(), float(t), int(t), bool(t), t.tolist(), f"{t:.2f}") == (2.5, 2.5, 2, True, 2.5, "2.50")
    assert operator.index(tg.Tensor(3)) == 3
    assert complex(t) == 2.5
    assert len(tg.Tensor([1.0, 2.0])) == 2
    assert 2.0 in tg.Tensor([1.0, 2.0])


@pytest.mark.parametrize(("name", "args", "instead"), [(name, *row) for name, row in IN_PLACE.items()])
def test_methods_that_write_in_place_raise(name: str, args: Any, instead: str) -> None:
    t = tg.Tensor(A)
    with pytest.raises(TypeError, match=f"ndarray.{name} .*{instead}"):
        getattr(t, name)(*args)
    np.testing.assert_array_equal(t.data, A)


@pytest.mark.parametrize(
    "name", ["sum", "prod", "mean", "var", "std", "max", "min", "cumsum", "cumprod", "clip", "round"]
)
def test_methods_refuse_out(name: str) -> None:
    with pytest.raises(TypeError, match="out="):
        getattr(tg.Tensor(A), name)(out=np.zeros_like(A))


class Value(tg.Tensor):
    """Karpathy's scalar, in two lines."""

    def __init__(self, data: Any) -> None:
        super().__init__(data, requires_grad=True, dtype=np.float64)


def test_the_scalars_of_a_first_course() -> None:
    """The expressions of micrograd's own tests, against PyTorch."""
    torch = pytest.importorskip("torch")

    def expression(a: Any, b: Any) -> Any:
        c = a + b
        d = a * b + b**3
        c = c + c + 1
        c = c + 1 + c + (-a)
        d = d + d * 2 + (b + a).relu()
        d = d + 3 * d + (b - a).relu()
        e = c - d
        g = e**2 / 2.0
        return g + 10.0 / e**2 + a.exp() * b.tanh() + (a * a).sqrt().log() + a.sigmoid() + b.abs() + a.sin() * b.cos()

    a, b = Value(-4.0), Value(2.0)
    y = expression(a, b)
    y.backward()
    x, z = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-4.0, 2.0))
    w = expression(x, z)
    w.backward()
    assert abs(y.item() - w.item()) < 1e-9
    assert abs(float(a.grad) - x.grad.item()) < 1e-9
    assert abs(float(b.grad) - z.grad.item()) < 1e-9
    for name in ("relu", "sigmoid", "abs", "exp", "tanh", "square"):
        point = np.array([-1000.0, -1.5, 0.5, 0.0]) if name != "exp" else np.array([-1.5, 0.5])
        t, p = tg.Tensor(point, requires_grad=True), torch.tensor(point, requires_grad=True)
        getattr(t, name)().sum().backward()
        getattr(p, name)().sum().backward()
        np.testing.assert_allclose(t.grad, p.grad.numpy(), atol=1e-12)
