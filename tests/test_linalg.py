"""Linear algebra where the operation table does not look: singular and degenerate matrices, norms at 0, `einsum` in full.

The table (`table/linalg.py`) keeps away from kinks and degenerate points; here are the conventions at those points, and
what is refused.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import first_derivative, second_derivative

import tinygrad_mm as tg

INF = np.inf
VECTOR_ORDERS = [None, 2, 1, 3, 1.5, INF, -INF, 0]
MATRIX_ORDERS = [None, "fro", "nuc", 1, -1, 2, -2, INF, -INF]


def tensor(a: Any) -> tg.Tensor:
    return tg.Tensor(np.asarray(a, np.float64), requires_grad=True)


def gradient(f: Any, a: Any) -> np.ndarray:
    x = tensor(a)
    return tg.gradients(f(x), x).data


def curvature(f: Any, a: Any, v: np.ndarray) -> np.ndarray:
    """The Hessian of f at a, times v."""
    x = tensor(a)
    g = tg.gradients(f(x), x, create_graph=True)
    found = tg.gradients(np.sum(g * v), x, allow_unused=True) if g.requires_grad else None
    return np.zeros_like(v) if found is None else found.data


def permutations(n: int) -> Any:
    """All permutations of n with their signs."""
    for order in itertools.permutations(range(n)):
        inversions = sum(order[i] > order[j] for i in range(n) for j in range(i + 1, n))
        yield order, (-1) ** inversions


def determinant(a: np.ndarray) -> float:
    """Leibniz' sum over permutations."""
    return float(sum(sign * np.prod([a[i, j] for i, j in enumerate(order)]) for order, sign in permutations(len(a))))


def orthogonal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(n, n)))[0]


# ---------------------------------------------------------------------------------------------------------------------
# The determinant
# ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(n=st.integers(1, 4), rank=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
def test_determinant_of_a_matrix_of_any_rank(n: int, rank: int, seed: int) -> None:
    """Its first two derivatives are right where the inverse does not exist, and where singular values are equal."""
    rng = np.random.default_rng(seed)
    s = np.where(np.arange(n) < rank, rng.integers(1, 3, n), 0)  # 1 or 2: equal ones are frequent
    a = (orthogonal(rng, n) * s) @ orthogonal(rng, n)
    v, u = rng.normal(size=(2, n, n))
    assert np.sum(gradient(np.linalg.det, a) * v) == pytest.approx(
        first_derivative(determinant, [a], [v], 0.1), abs=1e-9
    )
    expected = second_derivative(determinant, [a], [v], [u], 0.1)
    assert np.sum(curvature(np.linalg.det, a, v) * u) == pytest.approx(expected, abs=1e-8)


def test_third_derivative_of_the_determinant() -> None:
    """d³ det / dA[i, j] dA[k, l] dA[m, n] of a 3 x 3 matrix is the sign of the permutation, 0 where there is none."""
    x = tensor([[2.0, 1.0, 0.0], [0.5, 3.0, 1.0], [1.0, 0.0, 2.0]])
    first = tg.gradients(np.linalg.det(x), x, create_graph=True)
    for order, sign in permutations(3):
        second = tg.gradients(first[0, order[0]], x, create_graph=True, retain_graph=True)
        third = tg.gradients(second[1, order[1]], x, retain_graph=True).data
        expected = np.zeros((3, 3))
        expected[2, order[2]] = sign
        np.testing.assert_allclose(third, expected, atol=1e-12)


def test_sign_of_the_determinant_has_gradient_zero() -> None:
    np.testing.assert_array_equal(gradient(lambda a: np.linalg.slogdet(a).sign, np.diag([1.0, -2.0])), np.zeros((2, 2)))


# ---------------------------------------------------------------------------------------------------------------------
# Norms at 0 and at ties
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", VECTOR_ORDERS)
def test_norm_of_a_zero_vector_has_gradient_zero(order: Any) -> None:
    for options in ({}, {"axis": 0}, {"axis": 0, "keepdims": True}):
        norm = lambda x, options=options: np.sum(np.linalg.norm(x, order, **options))
        np.testing.assert_array_equal(gradient(norm, np.zeros(3)), np.zeros(3))
        np.testing.assert_array_equal(curvature(norm, np.zeros(3), np.array([1.0, -2.0, 3.0])), np.zeros(3))


@pytest.mark.parametrize("order", MATRIX_ORDERS)
def test_norm_of_a_zero_matrix_has_gradient_zero(order: Any) -> None:
    norm = lambda x: np.linalg.norm(x, order)
    np.testing.assert_array_equal(gradient(norm, np.zeros((2, 3))), np.zeros((2, 3)))
    np.testing.assert_array_equal(curvature(norm, np.zeros((2, 3)), np.ones((2, 3))), np.zeros((2, 3)))


def test_one_zero_row_leaves_the_others_alone() -> None:
    x = np.array([[0.0, 0.0], [3.0, -4.0]])
    norm = lambda a: np.sum(np.linalg.norm(a, axis=1))
    np.testing.assert_allclose(gradient(norm, x), [[0, 0], [0.6, -0.8]])
    np.testing.assert_allclose(curvature(norm, x, np.ones((2, 2)))[0], [0, 0])


@pytest.mark.parametrize("order", [1, 1.5, 3, 0.5, -1])
def test_a_zero_element_has_gradient_zero(order: float) -> None:
    """In norms whose own derivative there is 0, or jumps (order 1), or is infinite (orders below 1)."""
    with np.errstate(divide="ignore"):  # NumPy computes 0 ** -1
        assert gradient(lambda x: np.linalg.norm(x, order), [0.0, 2.0])[0] == 0
        assert np.all(np.isfinite(curvature(lambda x: np.linalg.norm(x, order), [0.0, 2.0], np.ones(2))))


def test_negative_order_with_a_zero_element() -> None:
    """(1 / |a| + 1 / |b|)⁻¹ is 0 where a is 0, whatever b is."""
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(gradient(lambda x: np.linalg.norm(x, -1), [0.0, 2.0]), [0, 0])


@pytest.mark.parametrize(
    ("order", "x", "expected"),
    [
        (INF, [2.0, -2.0, 1.0], [0.5, -0.5, 0]),
        (-INF, [2.0, -1.0, 1.0], [0, -0.5, 0.5]),
        (1, [[1.0, -3.0], [2.0, 0.0]], [[0.5, -0.5], [0.5, 0]]),
        (-INF, [[1.0, -2.0], [3.0, 0.0]], [[0.5, -0.5], [0.5, 0]]),
        (2, np.diag([2.0, 2.0, 1.0]), np.diag([0.5, 0.5, 0])),
        (-2, np.diag([2.0, 1.0, 1.0]), np.diag([0, 0.5, 0.5])),
        ("nuc", np.eye(2), np.eye(2)),
    ],
)
def test_what_is_equal_shares_the_gradient(order: Any, x: Any, expected: Any) -> None:
    np.testing.assert_allclose(gradient(lambda a: np.linalg.norm(a, order), x), expected, atol=1e-15)


# ---------------------------------------------------------------------------------------------------------------------
# Equal eigenvalues and singular values
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [np.eye(3), np.diag([2.0, 2.0, 5.0]), np.zeros((3, 3)), np.ones((3, 3))])
def test_functions_of_equal_values(a: np.ndarray) -> None:
    """Sums over all values have their gradients, and nothing is NaN at the second order."""
    v = np.arange(9.0).reshape(3, 3)
    for f, expected in (
        (lambda x: np.sum(np.linalg.eigvalsh(x) ** 3), 3 * a @ a),
        (lambda x: np.sum(np.linalg.eigh(x).eigenvalues), np.eye(3)),
        (lambda x: np.sum(np.linalg.svdvals(x) ** 2), 2 * a),
        (lambda x: np.sum(np.linalg.svd(x).S ** 4), 4 * a @ a.T @ a),
    ):
        np.testing.assert_allclose(gradient(f, a), expected, atol=1e-12)
        assert np.all(np.isfinite(curvature(f, a, v)))


def test_a_space_of_equal_eigenvalues() -> None:
    """The projector onto it is a function of the matrix: dP = Σ uᵢ uᵢᵀ dA vⱼ vⱼᵀ / (λ - μⱼ) and its transpose."""
    c = np.arange(9.0).reshape(3, 3)

    def projected(x: Any) -> Any:
        v = np.linalg.eigh(x).eigenvectors[:, :2]
        return np.sum(v @ v.T * c)

    expected = np.zeros((3, 3))
    expected[2, :2] = expected[:2, 2] = (c[2, :2] + c[:2, 2]) / 2 / (2 - 5)
    np.testing.assert_allclose(gradient(projected, np.diag([2.0, 2.0, 5.0])), expected, atol=1e-12)


@pytest.mark.parametrize("f", [np.linalg.cholesky, np.linalg.eigvalsh, lambda a: np.linalg.eigh(a, UPLO="U")[1] ** 2])
def test_functions_of_symmetric_matrices_have_symmetric_gradients(f: Any) -> None:
    a = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
    weights = np.arange(9.0).reshape(3, 3)
    g = gradient(lambda x: np.sum(f(x) * weights), a)
    np.testing.assert_allclose(g, g.T, atol=1e-12)
    assert np.any(g != np.diag(np.diag(g)))


# ---------------------------------------------------------------------------------------------------------------------
# Least squares
# ---------------------------------------------------------------------------------------------------------------------


def test_least_squares_gives_the_residuals_and_values_a_gradient() -> None:
    """‖b - A x‖² = bᵀ (I - A A⁺) b has the gradient 2 r with respect to b; singular values are those of svd."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(5, 2)), rng.normal(size=5)
    r = b - a @ np.linalg.pinv(a) @ b
    np.testing.assert_allclose(gradient(lambda x: np.sum(np.linalg.lstsq(a, x)[1]), b), 2 * r)
    u, _, vh = np.linalg.svd(a, full_matrices=False)
    np.testing.assert_allclose(gradient(lambda x: np.sum(np.linalg.lstsq(x, b)[3]), a), u @ vh)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: np.linalg.svd(x), "full_matrices=False"),
        (lambda x: np.linalg.svd(x.T), r"svd: .* \(3, 2\) .* no gradient"),
        (lambda x: np.linalg.qr(x.T, "complete"), "mode='reduced'"),
        (lambda x: np.linalg.qr(x, "raw"), "mode='raw' is not supported"),
        (lambda x: np.linalg.multi_dot([x]), "at least two arrays"),
        (lambda x: np.linalg.matrix_transpose(x[0]), "at least 2 axes"),
        (lambda x: np.linalg.cross(x.T, x.T), "3 components"),
        (lambda x: np.einsum("ij,jk", x), "'ij,jk' is for 2 operands; 1 were given"),
        (lambda x: np.einsum("i", x), r"'i' in 'i' does not fit an operand of shape \(2, 3\)"),
        (lambda x: np.einsum("ijk...", x), r"does not fit an operand of shape \(2, 3\)"),
        (lambda x: np.einsum("i.j", x), "letters and one ellipsis"),
        (lambda x: np.einsum("...i->i", x), "needs an ellipsis"),
        (lambda x: np.einsum("ij->ijk", x), "must be in an operand"),
        (lambda x: np.einsum("ij->ii", x), "stand once"),
        (lambda x: np.einsum("ii", x), r"einsum.*\(2, 3\).*don't match"),
        (lambda x: np.einsum(x, [0, 52]), "from 0 to 51"),
        (lambda x: np.einsum(x, [-1, 0]), "from 0 to 51"),
    ],
)
def test_refusals_say_what_to_write_instead(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        call(tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))


def test_full_bases_without_a_gradient() -> None:
    """Where no gradient is asked for, the columns that only fill up a basis are welcome."""
    a = np.arange(6.0).reshape(2, 3)
    with tg.no_grad():
        np.testing.assert_array_equal(np.linalg.svd(tensor(a)).Vh.data, np.linalg.svd(a).Vh)
    np.testing.assert_array_equal(np.linalg.qr(tg.Tensor(a.T), "complete").Q.data, np.linalg.qr(a.T, "complete").Q)


def test_a_singular_matrix_is_named() -> None:
    with pytest.raises(np.linalg.LinAlgError, match=r"inv\(\(2, 2\) float64\): Singular matrix"):
        np.linalg.inv(tensor(np.ones((2, 2))))


@pytest.mark.parametrize("product", [np.dot, np.inner, np.outer, lambda a, b: np.tensordot(a, b, 0)])
def test_numbers_beside_a_product_are_weak(product: Any) -> None:
    """NumPy would turn float32 into float64 here; on Tensors a number never does."""
    x = tg.Tensor([1.0, 2.0], requires_grad=True)
    for number in (2.0, np.float64(2.0), 2):
        for y in (product(x, number), product(number, x)):
            assert y.dtype == np.float32
            np.testing.assert_array_equal(tg.gradients(np.sum(y), x).data, np.array([2, 2], np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# einsum in full
# ---------------------------------------------------------------------------------------------------------------------


@st.composite
def einsums(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """Subscripts and shapes: letters repeated within and between operands, lengths of 1 that broadcast, an ellipsis."""
    lengths = {letter: draw(st.integers(1, 3)) for letter in "abcd"}
    dots = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    terms, shapes = [], []
    for _ in range(draw(st.integers(1, 3))):
        term = draw(st.text("abcd", max_size=3))
        shape = [1 if term.count(c) == 1 and draw(st.integers(0, 5)) == 0 else lengths[c] for c in term]
        if draw(st.booleans()):
            place = draw(st.integers(0, len(term)))
            here = [draw(st.sampled_from([1, n])) for n in dots[draw(st.integers(0, len(dots))) :]]
            term, shape = f"{term[:place]}...{term[place:]}", shape[:place] + here + shape[place:]
        terms.append(term)
        shapes.append(tuple(shape))
    subscripts = ",".join(terms)
    if draw(st.booleans()):
        letters = draw(st.permutations(sorted(set(subscripts) & set("abcd"))))
        output = "".join(letters[: draw(st.integers(0, len(letters)))])
        place = draw(st.integers(0, len(output)))
        subscripts += f"->{output[:place]}{'...' * ('...' in subscripts)}{output[place:]}"
    return subscripts, shapes


@settings(max_examples=150)
@given(case=einsums(), seed=st.integers(0, 2**32 - 1), optimize=st.sampled_from([False, True]))
def test_einsum_in_all_its_forms(case: tuple[str, list[tuple[int, ...]]], seed: int, optimize: bool) -> None:
    """The forward value is NumPy's, and so is the derivative in one direction: einsum is linear in each operand."""
    subscripts, shapes = case
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape) for shape in shapes]
    expected = np.einsum(subscripts, *arrays, optimize=optimize)
    xs = [tensor(a) for a in arrays]
    y = np.einsum(subscripts, *xs, optimize=optimize)
    np.testing.assert_array_equal(y.detach().data, expected, strict=True)

    weights = rng.normal(size=expected.shape)
    directions = [rng.normal(size=shape) for shape in shapes]

    def change(i: int, *operands: np.ndarray) -> float:
        moved = [*operands[:i], directions[i], *operands[i + 1 :]]
        return float(np.sum(weights * np.einsum(subscripts, *moved)))

    first = tg.gradients(np.sum(y * weights), xs, create_graph=True)
    for i, (g, v) in enumerate(zip(first, directions, strict=True)):
        assert g.shape == v.shape
        assert np.sum(g.detach().data * v) == pytest.approx(change(i, *arrays), abs=1e-9)
    total = sum(np.sum(g * v) for g, v in zip(first, directions, strict=True))
    if total.requires_grad:  # the second derivative in two directions i and j, the same ones again
        for j, g in enumerate(tg.gradients(total, xs, allow_unused=True)):
            second = sum(change(i, *arrays[:j], directions[j], *arrays[j + 1 :]) for i in range(len(arrays)) if i != j)
            found = 0.0 if g is None else np.sum(g.data * directions[j])
            assert found == pytest.approx(second, abs=1e-9)


def test_the_interleaved_form_is_recorded_as_a_string() -> None:
    x, y = tensor(np.ones((2, 3))), tensor(np.ones((3, 2)))
    node = np.einsum(x, [0, 1], y, [1, ...], [..., 0]).node
    assert node is not None
    assert node.kwargs == {"subscripts": "AB,Ba->aA", "optimize": False}
    assert node.args == (x, y)
