"""The ways into the graph: operators, ufunc methods, keywords, containers; and what is refused, with what to do."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
from oracles import leaves

import tinygrad_mm as tg

A = np.array([[1.5, -2.0], [0.5, 3.0]], np.float32)
B = np.array([[2.0, 1.0], [-1.0, 4.0]], np.float32)


def tensor(a: Any = A, requires_grad: bool = True) -> tg.Tensor:
    return tg.Tensor(np.array(a), requires_grad=requires_grad)


# ---------------------------------------------------------------------------------------------------------------------
# Operators
# ---------------------------------------------------------------------------------------------------------------------

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.mod, operator.floordiv]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
OTHERS = {
    "array": B,
    "row": B[0],
    "float64 array": B.astype(np.float64),
    "float": 2.0,
    "int": 2,
    "bool": True,
    "0-d array": np.array(2.0, np.float32),
    "np.float32": np.float32(2),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("f", [*ARITHMETIC, *COMPARISONS, divmod], ids=lambda f: f.__name__)
def test_operators_and_their_reflections_are_numpys(f: Any, other: Any) -> None:
    for ours, expected in ((f(tensor(), other), f(A, other)), (f(other, tensor()), f(other, A))):
        pairs = zip(ours, expected, strict=True) if isinstance(expected, tuple) else [(ours, expected)]
        for one, two in pairs:
            assert isinstance(one, tg.Tensor)
            np.testing.assert_array_equal(one.detach().data, two, strict=True)


@pytest.mark.parametrize("other", [v for k, v in OTHERS.items() if k != "bool"], ids=[k for k in OTHERS if k != "bool"])
def test_powers_and_their_reflections_are_numpys(other: Any) -> None:
    positive = np.abs(A)
    np.testing.assert_array_equal((tensor(positive) ** other).detach().data, positive**other, strict=True)
    np.testing.assert_array_equal((abs(other) ** tensor()).detach().data, abs(other) ** A, strict=True)


@pytest.mark.parametrize("other", [[[2.0, 1.0], [4.0, 3.0]], [2.0, 1.0], (2.0, 1.0)], ids=["matrix", "list", "tuple"])
@pytest.mark.parametrize("f", [*ARITHMETIC, operator.matmul, operator.pow], ids=lambda f: f.__name__)
def test_sequences_are_float32_as_tensors_of_them_are(f: Any, other: Any) -> None:
    array, t = np.array(other, np.float32), tensor(np.abs(A))
    for ours, expected in ((f(t, other), f(t.data, array)), (f(other, t), f(array, t.data))):
        np.testing.assert_array_equal(ours.detach().data, expected, strict=True)
    if f is not operator.floordiv:
        np.sum(f(other, t)).backward()
        assert t.grad.dtype == np.float32


def test_matrix_products_from_both_sides() -> None:
    for ours, expected in ((tensor() @ B, A @ B), (B @ tensor(), B @ A), (tensor() @ B[0], A @ B[0])):
        np.testing.assert_array_equal(ours.detach().data, expected, strict=True)


@pytest.mark.parametrize("f", [operator.and_, operator.or_, operator.xor], ids=lambda f: f.__name__)
def test_operators_of_booleans(f: Any) -> None:
    a, b = A > 1, B > 1
    for ours in (f(tensor() > 1, b), f(a, tensor(B) > 1)):
        np.testing.assert_array_equal(ours.data, f(a, b), strict=True)


@pytest.mark.parametrize("f", [operator.lshift, operator.rshift], ids=lambda f: f.__name__)
def test_operators_of_integers(f: Any) -> None:
    t = tg.Tensor([1, 2, 3])
    np.testing.assert_array_equal(f(t, 1).data, f(t.data, 1), strict=True)
    np.testing.assert_array_equal(f(1, t).data, f(1, t.data), strict=True)


@pytest.mark.parametrize("f", [operator.neg, operator.pos, abs], ids=lambda f: f.__name__)
def test_operators_of_one_argument(f: Any) -> None:
    np.testing.assert_array_equal(f(tensor()).detach().data, f(A), strict=True)


def test_in_place_operators_bind_a_new_tensor() -> None:
    t = before = tensor()
    t *= 2
    t += 1
    assert t is not before
    np.testing.assert_array_equal(before.data, A)
    np.sum(t).backward()
    np.testing.assert_array_equal(before.grad, np.full_like(A, 2))


def test_an_operand_of_another_kind_may_answer_itself() -> None:
    class Other:
        def __radd__(self, other: Any) -> str:
            return "mine"

        __add__ = __radd__

    assert tensor() + Other() == "mine"
    assert Other() + tensor() == "mine"
    with pytest.raises(TypeError):
        tensor() + object()


# ---------------------------------------------------------------------------------------------------------------------
# Scalars are weak
# ---------------------------------------------------------------------------------------------------------------------

TWO = [np.float64(2), np.float32(2), np.int64(2), 2.0, 2]


@pytest.mark.parametrize("two", TWO, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize(
    "f",
    [
        lambda two, t: two * t,
        lambda two, t: t / two,
        lambda two, t: np.add(two, t),
        lambda two, t: np.floor_divide(two, t),
        lambda two, t: t**two,
        lambda two, t: np.where(t > 0, t, two),
        lambda two, t: np.clip(t, -two, two),
        lambda two, t: np.concatenate([t, [[two, two]]]),
        lambda two, t: np.append(t, two),
        lambda two, t: np.hstack([t[0], two]),
        lambda two, t: np.select([t > 0], [t], default=two),
        lambda two, t: np.diff(t, prepend=two),
        lambda two, t: np.full_like(t, two),
        lambda two, t: np.pad(t, 1, constant_values=two),
        lambda two, t: np.trapezoid(t, dx=two),
        lambda two, t: np.average(t, weights=[two, 1], axis=1),
        lambda two, t: np.percentile(t, [two, 50]),
        lambda two, t: np.quantile(t, two / 4),
        lambda two, t: np.sum(t, initial=two),
        lambda two, t: np.linspace(two, t, 3),
        lambda two, t: np.insert(t, 0, two, axis=0),
        lambda two, t: t.at[0].set(two),
        lambda two, t: t.at[0].multiply(two),
    ],
)
def test_scalars_never_widen_a_float32_tensor(f: Any, two: Any) -> None:
    t = tensor()
    y = f(two, t)
    assert y.dtype == np.float32
    if y.requires_grad:
        np.sum(y).backward()
        assert t.grad.dtype == np.float32


def test_arrays_and_tensors_do_widen() -> None:
    assert (tensor() * B.astype(np.float64)).dtype == np.float64
    assert (tensor() * tg.Tensor(B.astype(np.float64))).dtype == np.float64


# ---------------------------------------------------------------------------------------------------------------------
# Methods of ufuncs
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"axis": 1}, {"axis": None}, {"axis": (0, 1)}, {"axis": -1, "keepdims": True}])
@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum, np.minimum], ids=lambda f: f.__name__)
def test_reduce(ufunc: np.ufunc, options: dict[str, Any]) -> None:
    t = tensor()
    y = ufunc.reduce(t, **options)
    np.testing.assert_array_equal(y.detach().data, ufunc.reduce(A, **options), strict=True)
    np.sum(y).backward()
    assert t.grad.shape == A.shape


@pytest.mark.parametrize("ufunc", [np.logical_and, np.logical_or], ids=lambda f: f.__name__)
def test_reduce_of_booleans(ufunc: np.ufunc) -> None:
    np.testing.assert_array_equal(ufunc.reduce(tensor() > 1).data, ufunc.reduce(A > 1), strict=True)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("ufunc", [np.add, np.multiply], ids=lambda f: f.__name__)
def test_accumulate(ufunc: np.ufunc, axis: int) -> None:
    np.testing.assert_array_equal(ufunc.accumulate(tensor(), axis=axis).detach().data, ufunc.accumulate(A, axis=axis))
    np.testing.assert_array_equal(ufunc.accumulate(tensor()).detach().data, ufunc.accumulate(A))


@pytest.mark.parametrize("ufunc", [np.multiply, np.subtract, np.maximum, np.arctan2], ids=lambda f: f.__name__)
def test_outer(ufunc: np.ufunc) -> None:
    for a, b in ((tensor(), B[0]), (A, tensor(B[0])), (tensor(A[0]), tensor())):
        plain = [x.data if isinstance(x, tg.Tensor) else x for x in (a, b)]
        y = ufunc.outer(a, b)
        np.testing.assert_array_equal(y.detach().data, ufunc.outer(*plain), strict=True)
        assert y.requires_grad


# ---------------------------------------------------------------------------------------------------------------------
# What would write into an array
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda t, out: np.add(t, 1.0, out=out),
        lambda t, out: np.exp(t, out),
        lambda t, out: np.sum(t, axis=0, out=out[0]),
        lambda t, out: np.concatenate([t, t], out=np.zeros((4, 2), np.float32)),
        lambda t, out: np.matmul(t, t, out=out),
        lambda t, out: np.add(A, A, out=t),
        lambda t, out: np.add.reduce(t, out=out[0]),
        lambda t, out: np.clip(t, 0, 1, out=out),
        lambda t, out: operator.iadd(out, t),
    ],
)
def test_out_is_refused(call: Any) -> None:
    with pytest.raises(TypeError, match="out"):
        call(tensor(), np.zeros_like(A))


def test_at_names_the_functional_update() -> None:
    with pytest.raises(TypeError, match=r"x\.at\[i\]\.add\(v\)"):
        np.add.at(tensor(), [0, 0], 1.0)
    with pytest.raises(TypeError, match=r"x\.at\["):
        np.add.at(np.zeros_like(A), [0, 0], tensor())


def test_assignment_names_the_functional_update() -> None:
    t = tensor()
    with pytest.raises(TypeError, match=r"x\.at\[index\]\.set\(value\)"):
        t[0] = 1.0
    with pytest.raises(TypeError, match=r"x\.at\[index\]\.set\(value\)"):
        t[0] += 1.0


@pytest.mark.parametrize("call", [np.copyto, np.put, np.place, np.putmask, np.fill_diagonal, np.put_along_axis])
def test_functions_that_write_in_place_are_refused(call: Any) -> None:
    t = tensor()
    with pytest.raises(TypeError, match=call.__name__):
        call(
            t,
            *([0], 1.0)
            if call in (np.put,)
            else ([[0]], 1.0, 0)
            if call is np.put_along_axis
            else (A > 0, [1.0])
            if call in (np.place, np.putmask)
            else (1.0,),
        )
    np.testing.assert_array_equal(t.data, A)


# ---------------------------------------------------------------------------------------------------------------------
# Functions and options without a rule
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [np.linalg.eig, np.fft.fft], ids=lambda f: f.__name__)
def test_a_function_without_a_rule_says_how_to_register_one(f: Any) -> None:
    with pytest.raises(TypeError, match=rf"np\.\S*{f.__name__} has no derivative rule.*defvjp.*defcomposite"):
        f(tensor())


@pytest.mark.parametrize(
    "call",
    [
        lambda t: np.add(t, t, where=A > 0),
        lambda t: np.add(t, t, dtype=np.float64),
        lambda t: np.exp(t, casting="no"),
        lambda t: np.matmul(t, t, axes=[(0, 1), (0, 1), (0, 1)]),
        lambda t: np.clip(t, 0, 1, where=A > 0),
        lambda t: np.pad(t, 1, mode=lambda *a: None),
    ],
)
def test_an_option_without_a_rule_is_named(call: Any) -> None:
    with pytest.raises(TypeError, match=r"is not supported on Tensors|are supported|join the parts"):
        call(tensor())


def test_options_may_be_given_by_position() -> None:
    np.testing.assert_array_equal(np.sum(tensor(), 0).detach().data, np.sum(A, 0))
    np.testing.assert_array_equal(np.sum(tensor(), 1, None, None, True).detach().data, np.sum(A, 1, None, None, True))
    np.testing.assert_array_equal(
        np.sum(tensor(), 1, None, None, True, 5.0).detach().data, np.sum(A, 1, None, None, True, 5.0)
    )
    np.testing.assert_array_equal(np.var(tensor(), 0, None, None, 1).detach().data, np.var(A, 0, None, None, 1))
    with pytest.raises(TypeError):
        np.expand_dims(tensor(), 0, 1)


def test_arguments_may_be_given_by_name() -> None:
    a, b = tensor(), tensor(B)
    np.sum(np.clip(a=a, a_min=b, a_max=None)).backward()
    np.testing.assert_array_equal(a.grad + b.grad, np.ones_like(A))
    np.testing.assert_array_equal(np.sum(a=tensor()).detach().data, np.sum(A))
    np.testing.assert_array_equal(np.transpose(a=tensor(), axes=(1, 0)).detach().data, A.T)


def test_insertion_at_a_mask() -> None:
    mask = np.array([True, False])  # which NumPy 2.0 took for the numbers 1 and 0
    np.testing.assert_array_equal(np.insert(tensor(), mask, 9.0, axis=0).detach().data, np.insert(A, [0], 9.0, axis=0))


def test_integer_tensors_are_numpys() -> None:
    a = np.array([[3, -1, 4], [1, -5, 9]])
    for f in (
        np.mean,
        np.median,
        np.modf,
        np.ptp,
        np.cumsum,
        lambda x: np.average(x, axis=1, weights=[1, 2, 1]),
        lambda x: np.quantile(x, 0.4, axis=1),
        lambda x: np.clip(x, -1, None),
        lambda x: np.clip(x, 0.5, 3),
        lambda x: np.select([x > 1], [x], default=-1.5),
        lambda x: np.concatenate([x, [[1.5, 2.5, 3.5]]]),
        lambda x: np.concatenate([x, [[1, 2, 3]]]),
        lambda x: np.append(x, 1.5),
        lambda x: np.diff(x > 0),
        lambda x: np.pad(x, 2, mode="mean"),
        lambda x: np.pad(x, 2, mode="linear_ramp"),
        lambda x: np.pad(x, 1, mode="reflect", reflect_type="odd"),
        lambda x: np.linspace(x, 2 * x, 3),
    ):
        for ours, expected in zip(leaves(f(tg.Tensor(a))), leaves(f(a)), strict=True):
            np.testing.assert_allclose(ours.data, expected, rtol=1e-15)
            assert ours.dtype == np.asarray(expected).dtype


def test_tensors_as_keywords() -> None:
    a, lower = tensor(), tensor(np.float32(0))
    np.sum(np.clip(a, a_min=lower, a_max=None)).backward()
    assert lower.grad == np.sum(A < 0)
    weights = tensor(B)
    np.average(tensor(), weights=weights).backward()
    assert weights.grad.shape == B.shape
    with pytest.raises(TypeError, match="axis"):
        np.sum(tensor(), axis=tg.Tensor(1.5))


def test_tensors_inside_containers() -> None:
    a, b = tensor(), tensor(B)
    y = np.sum(np.block([[a, b], [np.stack([a[0], b[1]]), np.concatenate((a[:1], [[1.0, 2.0]]))]]))
    y.backward()
    np.testing.assert_array_equal(a.grad, [[3, 3], [1, 1]])
    np.testing.assert_array_equal(b.grad, [[1, 1], [2, 2]])


# ---------------------------------------------------------------------------------------------------------------------
# Doors out of the graph
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave", [np.asarray, np.array, lambda t: np.zeros(2).__setitem__(slice(None), t), lambda t: t.numpy()]
)
def test_no_door_leaves_the_graph_silently(leave: Any) -> None:
    with pytest.raises(TypeError, match=r"t\.detach\(\).*t\.data"):
        leave(tensor(A[0]))


def test_a_tensor_without_gradient_is_an_array_to_numpy() -> None:
    t = tensor(requires_grad=False)
    assert np.asarray(t) is t.data
    assert np.array(t) is not t.data
    assert np.asarray(t, np.float64).dtype == np.float64
    out = np.zeros_like(A)
    out[...] = t
    np.testing.assert_array_equal(out, A)
