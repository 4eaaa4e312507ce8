"""Arrays that other libraries made: their own dtype, by position, wherever an array may be given; or a refusal."""

from __future__ import annotations

import array
import importlib
import warnings

import numpy as np
import pytest

import tinygrad_mm as tg
from tinygrad_mm import nn
from tinygrad_mm.data import DataLoader, train_test_split


class Labelled:
    """An array to NumPy; by index, an element that a label names, as in a pandas.Series whose index runs backwards."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        return self.values[::-1][label]

    def __mul__(self, other):  # it would take a Tensor apart
        return NotImplemented if hasattr(other, "__array_priority__") else np.asarray(other) * self.values


class Capsule:
    """What can be exchanged by DLPack only."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def library(name, make):
    def made(values):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about platforms, on import
            return make(pytest.importorskip(name), values)

    return made


MAKERS = {
    "labelled": Labelled,
    "capsule": Capsule,
    "memmap": lambda values: values.view(np.memmap),
    "pandas": library("pandas", lambda pd, values: pd.Series(values, index=range(len(values))[::-1])),
    "polars": library("polars", lambda pl, values: pl.Series(values)),
    "torch": library("torch", lambda torch, values: torch.from_numpy(values)),
    "jax": library("jax", lambda jax, values: importlib.import_module("jax.numpy").asarray(values)),
}
X = np.array([1.5, -2.0, 123.0], np.float32)
LABELS = np.array([0, 2, 1], np.int32)


def weights():
    return tg.Tensor(np.array([1.0, 2.0, 3.0], np.float32), requires_grad=True)


def logits():
    return tg.Tensor(np.arange(9, dtype=np.float32).reshape(3, 3), requires_grad=True)


# Everywhere that an array may stand beside a Tensor: name -> the use of it.
USES = {
    "Tensor": lambda x, i: tg.Tensor(x),
    "list": lambda x, i: tg.Tensor([x, x]),
    "t * x": lambda x, i: weights() * x,
    "t - x": lambda x, i: weights() - x,
    "t[0] * x": lambda x, i: weights()[0] * x,
    "t @ x": lambda x, i: weights() @ x,
    "np.arctan2": lambda x, i: np.arctan2(weights(), x),
    "np.stack": lambda x, i: np.stack([weights(), x]),
    "np.where": lambda x, i: np.where(i, weights(), x),
    "np.dot": lambda x, i: np.dot(x, weights()),
    "np.average": lambda x, i: np.average(weights(), weights=x),
    "t[i]": lambda x, i: weights()[i],
    "at": lambda x, i: weights().at[i].add(x),
    "mse_loss": lambda x, i: tg.mse_loss(weights(), x),
    "huber_loss": lambda x, i: tg.huber_loss(weights(), x),
    "cross_entropy": lambda x, i: tg.cross_entropy(logits(), i),
    "weighted cross_entropy": lambda x, i: tg.cross_entropy(logits(), i, weight=x),
    "nll_loss": lambda x, i: tg.nll_loss(logits(), i),
    "Linear": lambda x, i: nn.Dense(3, 2, rng=0)(x),
    "DataLoader": lambda x, i: next(iter(DataLoader(x, 3))),
    "DataLoader of columns": lambda x, i: next(iter(DataLoader((x, i), 3)))[1],
    "train_test_split": lambda x, i: train_test_split(x, test_size=1, rng=0)[0],
    "grad": lambda x, i: tg.grad(lambda x: np.sum(x * x))(x),
    "jvp": lambda x, i: tg.jvp(lambda x: x * x, (X,), (x,))[1],
    "data": lambda x, i: set_data(x),
    "backward": lambda x, i: gradient(x),
}


def set_data(x):
    t = weights()
    t.data = x
    return t


def gradient(x):
    w = weights()
    (w * 2).backward(x)
    return w.grad


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("use", USES)
def test_an_array_of_another_library_is_the_array_it_holds(use, kind):
    expected = USES[use](X.copy(), LABELS.copy())
    got = USES[use](MAKERS[kind](X.copy()), MAKERS[kind](LABELS.copy()))
    assert type(got) is type(expected)
    assert got.dtype == expected.dtype
    assert type(getattr(got, "data", got)) is type(getattr(expected, "data", expected))
    assert np.array_equal(tg.Tensor(getattr(got, "value", got)).data, getattr(expected, "value", expected))


@pytest.mark.parametrize("kind", sorted(MAKERS.keys() - {"polars"}))  # polars raises, of itself
def test_the_tensor_decides_when_the_array_stands_first(kind):
    assert isinstance(MAKERS[kind](X.copy()) * weights(), tg.Tensor)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"])
def test_dtypes_are_kept(dtype):
    values = np.array([0, 1, 1]).astype(dtype)
    made = [Labelled(values), Capsule(values), values[1], [values, values], list(values), memoryview(values)]
    if dtype not in ("float16", "bool"):
        made.append(array.array(values.dtype.char, values.tolist()))
    assert [tg.Tensor(a).dtype.name for a in made] == [dtype] * len(made)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (0.5, "float32"),
        ([True, 0.5], "float32"),
        ([[1, 2.5]], "float32"),
        (range(3), "int64"),
        ([0.5, np.float16(1)], "float16"),
        ([0.5, np.float64(1)], "float64"),
        ([0, np.int8(1)], "int64"),  # an int of Python may not fit into int8
        ([[0.5], np.array([1.0])], "float64"),
    ],
)
def test_numbers_of_python_are_weak(data, dtype):
    assert tg.Tensor(data).dtype.name == dtype
    assert (np.float32(1) * tg.Tensor(np.float64(2))).dtype == np.float64  # scalars of NumPy are as operands


MASKED = np.ma.masked_array(X, [False, True, False])


@pytest.mark.parametrize("use", USES)
def test_a_mask_is_never_lost(use):
    with pytest.raises(TypeError, match=r"would lose its mask; say a\.filled\(value\)"):
        USES[use](MASKED, np.ma.masked_array(LABELS, [False, True, False]))


def test_a_matrix_is_an_array_or_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        square = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    t = tg.Tensor(square, requires_grad=True)
    y = np.sum(t**2)
    y.backward()
    assert y.item() == 30
    assert t.grad.tolist() == [[2, 4], [6, 8]]
    for use in (lambda: t * square, lambda: square * t, lambda: np.dot(square, t), lambda: np.stack([t, square])):
        with pytest.raises(TypeError, match=r"matrix computes by rules of its own.*np\.asarray\(a\)"):
            use()


def test_from_dlpack_shares_memory():
    values = np.array([1.0, 2.0])
    t = tg.from_dlpack(Capsule(values))
    assert np.shares_memory(t.data, values)
    assert not t.requires_grad
    if np.lib.NumpyVersion(np.__version__) >= "2.1.0":  # before, what came by DLPack is read-only, and goes no further
        assert np.shares_memory(np.from_dlpack(t), values)
    t = tg.Tensor(values)
    assert np.shares_memory(np.from_dlpack(t), t.data)
