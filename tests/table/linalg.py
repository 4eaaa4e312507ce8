"""The rows of `tinygrad_mm.rules.products`, `linalg`, `decompositions` and `norms`. The form of a row is described in `table/row.py`.

Matrices that a function needs regular, positive definite, or with values far from each other are made so by the row's
call: that keeps the numeric derivatives accurate. Functions of symmetric matrices are called with (A + Aᵀ) / 2, and
vectors that are determined up to their sign are compared through their squares and through products of two of them.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import strategies as my
from hypothesis import strategies as st

from table.row import Row
from tinygrad_mm.rules import products
from tinygrad_mm.rules.decompositions import qr, svd
from tinygrad_mm.rules.linalg import cofactor, cofactor_change, multi_dot
from tinygrad_mm.rules.products import on_diagonals

SMALL = (-1.0, 1.0)
INF = np.inf
LinAlgError = np.linalg.LinAlgError


# ---------------------------------------------------------------------------------------------------------------------
# Matrices of a kind
# ---------------------------------------------------------------------------------------------------------------------


def t(a: Any) -> Any:
    return np.swapaxes(a, -1, -2)


def regular(a: Any) -> Any:
    """A square matrix far from singular, unsymmetric."""
    return a if a.ndim < 2 or a.shape[-1] != a.shape[-2] else a + 4 * np.eye(a.shape[-1], dtype=a.dtype)


def apart(a: Any) -> Any:
    """A matrix of any shape whose singular values are about 4, 8, 12."""
    if a.ndim < 2:
        return a
    return a + np.eye(*a.shape[-2:], dtype=a.dtype) * (4 + 4 * np.arange(a.shape[-1], dtype=a.dtype))


def symmetric(a: Any) -> Any:
    """A symmetric matrix with eigenvalues about 4, 8, 12."""
    return a if a.ndim < 2 or a.shape[-1] != a.shape[-2] else apart((a + t(a)) / 2)


def mixed(u: Any) -> Any:
    """Products of vectors with weights that differ: they do not depend on the vectors' signs."""
    return (u * np.arange(1, u.shape[-1] + 1, dtype=u.dtype)) @ t(u), u * u


def parts(result: Any) -> Any:
    """What does not depend on signs in U, S, Vᵀ."""
    u, s, vh = result
    return s, *mixed(u), *mixed(t(vh)), (u * np.arange(1, s.shape[-1] + 1, dtype=s.dtype)) @ vh


def eigen(a: Any, **options: Any) -> Any:
    w, v = np.linalg.eigh(symmetric(a), **options)
    return w, *mixed(v)


def factors(result: Any) -> Any:
    """What does not depend on the signs of columns in Q, R."""
    q, r = result
    return *mixed(q), *mixed(t(r))


def equations(a: Any, *shape: int) -> Any:
    """As many equations as unknowns, both of several axes, far from singular."""
    return a + 4 * np.eye(math.isqrt(math.prod(shape)), dtype=a.dtype).reshape(shape)


def least_squares(a: Any, b: Any, **options: Any) -> Any:
    return np.linalg.lstsq(apart(a), b, **options)


def planar_cross(a: Any, b: Any, **options: Any) -> Any:
    """NumPy 2.0 deprecates vectors of two components, and still multiplies them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.cross(a, b, **options)


# ---------------------------------------------------------------------------------------------------------------------
# Independent formulas
# ---------------------------------------------------------------------------------------------------------------------


def diagonals_by_loop(d: np.ndarray, term: str, shape: my.Shape) -> np.ndarray:
    out = np.zeros(shape, d.dtype)
    letters = list(dict.fromkeys(term))
    for place in np.ndindex(*d.shape):
        out[tuple(place[letters.index(letter)] for letter in term)] = d[place]
    return out


def cofactors_by_minors(a: np.ndarray) -> np.ndarray:
    if a.ndim < 2:
        raise LinAlgError
    n = a.shape[-1]
    out = np.ones(a.shape, a.dtype)
    for i in range(n):
        for j in range(n):
            minor = np.delete(np.delete(a, i, axis=-2), j, axis=-1)
            out[..., i, j] = (-1) ** (i + j) * np.linalg.det(minor)
    return out


def change_of_cofactors(a: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Cofactors are polynomials of the elements, at most of degree 2 for three rows: one central difference is exact."""
    b, d = a.astype(np.float64), e.astype(np.float64)
    return ((cofactors_by_minors(b + d) - cofactors_by_minors(b - d)) / 2).astype(a.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Options
# ---------------------------------------------------------------------------------------------------------------------


def two_axes(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy:
    """Two different axes, in either order, counted from either end."""
    n = len(shape)
    if n < 2:
        return st.just((0, 1))
    pairs = st.permutations(range(n)).map(lambda order: tuple(order[:2]))
    return pairs.flatmap(lambda p: st.sampled_from([p, (p[0] - n, p[1]), (p[0], p[1] - n)]))


def one_or_several(shape: my.Shape, *others: my.Shape) -> st.SearchStrategy:
    return st.none() | my.one_axis(shape) | my.several_axes(shape).filter(len) if shape else my.one_axis(shape)


KEEP = {"keepdims": st.booleans()}
OPTIMIZE = {"optimize": st.sampled_from([False, True, "greedy", "optimal"])}
UPLO = {"UPLO": st.sampled_from("LU")}


def einsum(*shapes: str, text: str, **row: Any) -> Row:
    return Row(
        np.einsum, *shapes, call=lambda *arrays, **options: np.einsum(text, *arrays, **options), note=text, **row
    )


# fmt: off
PRODUCTS = [
    Row(np.matmul,                  "... n k", "... k m", zero_d=ValueError),
    Row(np.matmul,                  "... n k", "... k m", call=lambda a, b: a @ b, zero_d=ValueError, note="operator"),
    Row(np.matmul,                  "... n k", "k", zero_d=ValueError),
    Row(np.matmul,                  "k", "... k m", zero_d=ValueError),
    Row(np.matmul,                  "k", "k", zero_d=ValueError),
    Row(np.matmul,                  "k n n", "n n", zero_d=ValueError, note="one matrix for a stack"),
    Row(np.matmul,                  "n n", "k n n", zero_d=ValueError, note="a stack for one matrix"),
    Row(np.matmul,                  "... n n", call=lambda a: a @ a @ a, zero_d=ValueError, note="of itself"),
    Row(np.dot,                     "k", "k"),
    Row(np.dot,                     "n k", "k m"),
    Row(np.dot,                     "n n", call=lambda a: a.dot(a) if a.ndim else np.dot(a, a), note="method"),
    Row(np.dot,                     "n k", "k"),
    Row(np.dot,                     "k", "k m"),
    Row(np.dot,                     "l n k", "k"),
    Row(np.dot,                     "k", "l k m"),
    Row(np.dot,                     "l n k", "n k m"),
    Row(np.dot,                     "", "s..."),
    Row(np.dot,                     "s...", ""),
    Row(np.inner,                   "k", "k"),
    Row(np.inner,                   "l n k", "m k"),
    Row(np.inner,                   "", "s..."),
    Row(np.inner,                   "s...", ""),
    Row(np.vdot,                    "s...", "s..."),
    Row(np.outer,                   "s...", "n m"),
    Row(np.outer,                   "n", "m"),
    Row(np.linalg.outer,            "n", "m", zero_d=ValueError),
    Row(np.tensordot,               "l n m", "n m k", zero_d=IndexError),
    Row(np.tensordot,               "n m", "k", options={"axes": 0}),
    Row(np.tensordot,               "l n", "n m k", options={"axes": 1}, zero_d=IndexError),
    Row(np.tensordot,               "n l m", "k m n", options={"axes": ([0, -1], [2, 1])}, zero_d=IndexError),
    Row(np.tensordot,               "n l m", "k m n", options={"axes": ((2, 0), (-2, -1))}, zero_d=IndexError),
    Row(np.tensordot,               "n l m", "k m n", options={"axes": (-1, 1)}, zero_d=IndexError),
    Row(np.linalg.tensordot,        "l n m", "n m k", zero_d=IndexError),
    Row(np.linalg.tensordot,        "l n", "n m k", options={"axes": 1}, zero_d=IndexError),
    Row(np.vecdot,                  "... k", "... k", zero_d=ValueError),
    Row(np.vecdot,                  "k n", "k n", options={"axis": 0}, zero_d=ValueError),
    Row(np.vecdot,                  "k n", "l k n", options={"axis": -2}, zero_d=ValueError),
    Row(np.linalg.vecdot,           "... k", "... k", zero_d=ValueError),
    Row(np.linalg.vecdot,           "l k n", "k n", options={"axis": -2}, zero_d=ValueError),
    Row(np.linalg.matmul,           "... n k", "... k m", zero_d=ValueError),
    Row(np.matrix_transpose,        "... n m", zero_d=ValueError),
    Row(np.linalg.matrix_transpose, "... n m", zero_d=ValueError),
    Row(np.linalg.trace,            "... n m", zero_d=ValueError),
    Row(np.linalg.trace,            "... n m", options={"offset": st.integers(-2, 2)}, zero_d=ValueError),
    Row(np.linalg.trace,            "n m", call=lambda x: np.linalg.trace(x, dtype=np.float64), promotes=True, zero_d=ValueError, note="dtype"),
    Row(np.linalg.diagonal,         "... n m", zero_d=ValueError),
    Row(np.linalg.diagonal,         "... n m", options={"offset": st.integers(-2, 2)}, zero_d=ValueError),
    Row(np.cross,                   "... 3", "... 3", zero_d=ValueError),
    Row(np.cross,                   "3 n", "m n 3", options={"axisa": 0, "axisb": 2, "axisc": 1}, zero_d=ValueError),
    Row(np.cross,                   "m 3 n", "3 n", options={"axis": -2}, zero_d=ValueError),
    Row(np.cross,                   "... 2", "... 2", call=planar_cross, zero_d=ValueError),
    Row(np.cross,                   "2 n", "2 n", call=planar_cross, options={"axis": 0}, zero_d=ValueError),
    Row(np.cross,                   "... 2", "... 3", call=planar_cross, zero_d=ValueError),
    Row(np.cross,                   "3 n", "m 2 n", call=planar_cross, options={"axisa": 0, "axisb": 1}, zero_d=ValueError),
    Row(np.linalg.cross,            "... 3", "... 3", zero_d=IndexError),
    Row(np.linalg.cross,            "m 3 n", "3 n", options={"axis": -2}, zero_d=IndexError),

    einsum("n m", text="ij->ji", zero_d=ValueError),
    einsum("n m", text="ba", zero_d=ValueError),
    einsum("n m", text="ij->j", zero_d=ValueError),
    einsum("n m", text="ij->", zero_d=ValueError),
    einsum("n n", text="ii", zero_d=ValueError),
    einsum("n n", text="ii->i", zero_d=ValueError),
    einsum("n n m", text="iij->j", zero_d=ValueError),
    einsum("n m n", text="iji->ij", zero_d=ValueError),
    einsum("n n n", text="iii->i", zero_d=ValueError),
    einsum("... n n", text="...ii->...i", zero_d=ValueError),
    einsum("n k", "k m", text="ij,jk", zero_d=ValueError, options=OPTIMIZE),
    einsum("n k", "k m", text=" i j, j k -> k i ", zero_d=ValueError, options=OPTIMIZE),
    einsum("n", "m", text="i,j", zero_d=ValueError),
    einsum("n m", "n m", text="ij,ij->", zero_d=ValueError),
    einsum("n m", "1 m", text="ij,ij->ij", zero_d=ValueError),
    einsum("n 1", "1 m", text="ij,ij->i", zero_d=ValueError),
    einsum("n m", "k", text="ij,k->i", zero_d=ValueError),
    einsum("n n", "n m", text="ii,ij->j", zero_d=ValueError, options=OPTIMIZE),
    einsum("n m k", "m n l", text="ijk,jil->kl", zero_d=ValueError, options=OPTIMIZE),
    einsum("n m", "m", "k", text="ij,j,k->ik", zero_d=ValueError, options=OPTIMIZE),
    einsum("n m", "m k", "k l", text="ij,jk,kl->il", zero_d=ValueError, options=OPTIMIZE),
    einsum("n m", "m k", "k l", text="ij,jk,kl->il", zero_d=ValueError, options={"optimize": ["einsum_path", (1, 2), (0, 1)]}),
    einsum("", "n m", text=",ij->ij", zero_d=ValueError),
    einsum("...", "...", text="...,...", oracle=np.multiply),
    einsum("... n k", "... k m", text="...ij,...jk->...ik", zero_d=ValueError, options=OPTIMIZE),
    einsum("... n k", "... k m", text="...ij,...jk", zero_d=ValueError),
    einsum("n ...", "... n", text="i...,...i->...", zero_d=ValueError),
    einsum("n m k", "n", text="i...,i->...", zero_d=ValueError),
    Row(np.einsum, "n k", "k m", call=lambda a, b: np.einsum(a, [0, 1], b, [1, 2], [0, 2]), zero_d=ValueError, note="interleaved"),
    Row(np.einsum, "n k", "k m", call=lambda a, b: np.einsum(a, [30, 1], b, [1, 2]), zero_d=ValueError, note="interleaved, implicit output"),
    Row(np.einsum, "... n k", "... k m", call=lambda a, b: np.einsum(a, [..., 0, 1], b, [..., 1, 2], [..., 0, 2]), zero_d=ValueError, note="interleaved, ellipsis"),
    Row(np.einsum, "n m", call=lambda a: np.einsum("ij,j,->i", a, np.array([2.0, -1.5, 0.5], a.dtype)[: a.shape[-1]], 3.0) if a.ndim else np.einsum("i", a),
        oracle=lambda a: np.einsum("ij,j,->i", a, np.array([2.0, -1.5, 0.5], a.dtype)[: a.shape[-1]], np.array(3, a.dtype)) if a.ndim else np.einsum("i", a), zero_d=ValueError, note="with a number"),
    Row(np.einsum, "n m", "m", call=lambda a, b: np.einsum("ij,j", a, b, dtype=np.float64), promotes=True, zero_d=ValueError, note="dtype"),
    Row(products.einsum, "n k", "k m", options={"subscripts": "ij,jk->ik"}, oracle=lambda a, b, subscripts: np.einsum(subscripts, a, b), zero_d=ValueError),
    Row(on_diagonals, "n m", call=lambda d: on_diagonals(d, "iji", (d.shape[0], d.shape[1], d.shape[0])),
        oracle=lambda d: diagonals_by_loop(d, "iji", (d.shape[0], d.shape[1], d.shape[0])), zero_d=IndexError),
    Row(on_diagonals, "n", call=lambda d: on_diagonals(d, "iii", (d.shape[0],) * 3), oracle=lambda d: diagonals_by_loop(d, "iii", (d.shape[0],) * 3), zero_d=IndexError),
]
if hasattr(np, "matvec"):
    PRODUCTS += [
        Row(np.matvec,              "... n k", "... k", zero_d=ValueError),
        Row(np.vecmat,              "... k", "... k m", zero_d=ValueError),
    ]

MATRICES = [
    Row(np.linalg.det,              "... n n", zero_d=LinAlgError),
    Row(np.linalg.slogdet,          "... n n", call=lambda a: np.linalg.slogdet(regular(a)), domain=SMALL, zero_d=LinAlgError),
    Row(cofactor,                   "... n n", call=lambda a: cofactor(regular(a)) + 64, oracle=lambda a: cofactors_by_minors(regular(a)) + 64, ulps=64, domain=SMALL, zero_d=LinAlgError),
    Row(cofactor_change,            "s... n n", "s... n n", call=lambda a, e: cofactor_change(regular(a), e) + 64, domain=SMALL,
                                    oracle=lambda a, e: change_of_cofactors(regular(a), e) + 64, ulps=64, zero_d=LinAlgError),
    Row(np.linalg.inv,              "... n n", call=lambda a: np.linalg.inv(regular(a)), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.solve,            "... n n", "... n m", call=lambda a, b: np.linalg.solve(regular(a), b), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.solve,            "... n n", "n", call=lambda a, b: np.linalg.solve(regular(a), b), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.pinv,             "... n m", call=lambda a, **options: np.linalg.pinv(apart(a), **options), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.pinv,             "... n m", call=lambda a: np.linalg.pinv(apart(a), rtol=1e-3), domain=SMALL, zero_d=LinAlgError, note="rtol"),
    Row(np.linalg.pinv,             "... n n", call=lambda a: np.linalg.pinv(symmetric(a), hermitian=True), domain=SMALL, zero_d=LinAlgError, note="hermitian"),
    Row(np.linalg.pinv,             "n 1", "1 m", call=lambda a, b: np.linalg.pinv(a @ b, 1e-6), domain=(0.5, 2), zero_d=ValueError, note="of rank 1"),
    Row(np.linalg.lstsq,            "n m", "n k", call=least_squares, domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.lstsq,            "n m", "n", call=least_squares, domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.lstsq,            "3 2", "3 k", call=least_squares, domain=SMALL, options={"rcond": st.sampled_from([None, -1, 1e-9])}, zero_d=LinAlgError),
    Row(np.linalg.lstsq,            "3 1", "1 2", "3 k", call=lambda a, c, b: np.linalg.lstsq(a @ c, b, 1e-6)[0], domain=(0.5, 2), zero_d=ValueError, note="of rank 1"),
    Row(np.linalg.cholesky,         "... n n", call=lambda a: np.linalg.cholesky(symmetric(a)), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.cholesky,         "... n n", call=lambda a: np.linalg.cholesky(symmetric(a), upper=True), domain=SMALL, zero_d=LinAlgError, note="upper"),
    Row(np.linalg.eigh,             "... n n", call=eigen, domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.eigh,             "... n n", call=eigen, domain=SMALL, options=UPLO, zero_d=LinAlgError),
    Row(np.linalg.eigvalsh,         "... n n", call=lambda a, **options: np.linalg.eigvalsh(symmetric(a), **options), options=UPLO, domain=SMALL, zero_d=LinAlgError),
    Row(svd,                        "... n n", call=lambda a: parts(svd(apart(a))), oracle=lambda a: parts(np.linalg.svd(apart(a))), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.svd,              "... n m", call=lambda a: parts(np.linalg.svd(apart(a), full_matrices=False)), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.svd,              "... n m", call=lambda a: np.linalg.svd(apart(a), full_matrices=False).S, domain=SMALL, zero_d=LinAlgError, note="one of three"),
    Row(np.linalg.svd,              "... n n", call=lambda a: parts(np.linalg.svd(apart(a))), domain=SMALL, zero_d=LinAlgError, note="square"),
    Row(np.linalg.svd,              "... n m", call=lambda a: np.linalg.svd(apart(a), compute_uv=False), domain=SMALL, zero_d=LinAlgError, note="values"),
    Row(np.linalg.svd,              "... n n", call=lambda a: parts(np.linalg.svd(-symmetric(a), hermitian=True)), domain=SMALL, zero_d=LinAlgError, note="hermitian"),
    Row(np.linalg.svd,              "... n n", call=lambda a: np.linalg.svd(-symmetric(a), True, False, True), domain=SMALL, zero_d=LinAlgError, note="hermitian, values"),
    Row(np.linalg.svdvals,          "... n m", call=lambda a: np.linalg.svdvals(apart(a)), domain=SMALL, zero_d=LinAlgError),
    Row(qr,                         "... n m", call=lambda a: factors(qr(apart(a))), oracle=lambda a: factors(np.linalg.qr(apart(a))), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.qr,               "... n m", call=lambda a: factors(np.linalg.qr(apart(a))), domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.qr,               "... n n", call=lambda a: factors(np.linalg.qr(apart(a), mode="complete")), domain=SMALL, zero_d=LinAlgError, note="complete"),
    Row(np.linalg.qr,               "... 2 3", call=lambda a: factors(np.linalg.qr(apart(a), "complete")), domain=SMALL, zero_d=LinAlgError, note="complete, wide"),
    Row(np.linalg.qr,               "... n m", call=lambda a: mixed(t(np.linalg.qr(apart(a), mode="r"))), domain=SMALL, zero_d=LinAlgError, note="R only"),
    Row(multi_dot,                  "n k", "k m", "m l", oracle=lambda *arrays: np.linalg.multi_dot(arrays), zero_d=LinAlgError),
    Row(np.linalg.multi_dot,        "n k", "k m", "m l", call=lambda *arrays: np.linalg.multi_dot(arrays), zero_d=LinAlgError),
    Row(np.linalg.multi_dot,        "n k", "k m", call=lambda *arrays: np.linalg.multi_dot(list(arrays))),
    Row(np.linalg.multi_dot,        "k", "k m", "m n", "n", call=lambda *arrays: np.linalg.multi_dot(arrays), zero_d=LinAlgError, note="vectors outside"),
    Row(np.linalg.multi_dot,        "k", "k m", "m n", call=lambda *arrays: np.linalg.multi_dot(arrays), zero_d=LinAlgError, note="row first"),
    Row(np.linalg.multi_dot,        "k m", "m n", "n", call=lambda *arrays: np.linalg.multi_dot(arrays), zero_d=LinAlgError, note="column last"),
    Row(np.linalg.matrix_power,     "... n n", options={"n": st.integers(0, 6)}, zero_d=LinAlgError),
    Row(np.linalg.matrix_power,     "... n n", call=lambda a, n: np.linalg.matrix_power(regular(a), n), options={"n": st.integers(-3, -1)}, domain=SMALL, zero_d=LinAlgError),
    Row(np.linalg.tensorinv,        "2 3 6", call=lambda a: np.linalg.tensorinv(equations(a, 2, 3, 6)), domain=(0.1, 1)),
    Row(np.linalg.tensorinv,        "4 2 2", call=lambda a: np.linalg.tensorinv(equations(a, 4, 2, 2), ind=1), domain=(0.1, 1)),
    Row(np.linalg.tensorinv,        "n n", call=lambda a: np.linalg.tensorinv(equations(a, a.shape[0], a.shape[1]), ind=1), domain=(0.1, 1), zero_d=IndexError, empty=ValueError),
    Row(np.linalg.tensorsolve,      "n n", "n", call=lambda a, b: np.linalg.tensorsolve(equations(a, a.shape[0], a.shape[1]), b), domain=(0.1, 1), zero_d=IndexError),
    Row(np.linalg.tensorsolve,      "2 3 6", "2 3", call=lambda a, b: np.linalg.tensorsolve(equations(a, 2, 3, 6), b), domain=(0.1, 1), zero_d=LinAlgError),
    Row(np.linalg.tensorsolve,      "2 6 3", "2 3", call=lambda a, b: np.linalg.tensorsolve(equations(a, 2, 6, 3), b, axes=(1,)), domain=(0.1, 1), zero_d=LinAlgError),
    Row(np.linalg.cond,             "... n m", call=lambda a, **options: np.linalg.cond(apart(a), **options), domain=SMALL, options={"p": st.sampled_from([None, 2, -2])}, zero_d=LinAlgError, empty=LinAlgError),
    Row(np.linalg.cond,             "... n n", call=lambda a, **options: np.linalg.cond(apart(a), **options), domain=(0.1, 0.5), options={"p": st.sampled_from([1, -1, INF, -INF, "fro", "nuc"])}, ulps=4, zero_d=LinAlgError, empty=LinAlgError),
]

NORMS = [
    Row(np.linalg.norm),
    Row(np.linalg.norm,             options={"axis": my.one_axis, **KEEP}, zero_d=np.exceptions.AxisError),
    Row(np.linalg.norm,             "... n m", options={"axis": two_axes, "ord": st.sampled_from([None, "fro"]), **KEEP}, zero_d=np.exceptions.AxisError),
    Row(np.linalg.norm,             "n m", options={"ord": st.sampled_from(["fro", "f"]), **KEEP}, zero_d=ValueError),
    Row(np.linalg.norm,             "n", options={"ord": st.sampled_from([2, 1, INF, -INF, 0, 3, 0.5, -1, -2.5])}, domain=(0.2, 3), zero_d=ValueError, empty=ValueError),
    Row(np.linalg.norm,             options={"ord": st.sampled_from([2, 1, INF, -INF, 0, 3, 0.5, -1, -2.5]), "axis": my.one_axis, **KEEP}, domain=(0.2, 3), zero_d=np.exceptions.AxisError, empty=ValueError),
    Row(np.linalg.norm,             options={"ord": st.sampled_from([2, 1, INF, -INF, 0, 3, 0.5, 1.5]), "axis": my.one_axis}, domain=(-3, -0.2), zero_d=np.exceptions.AxisError, empty=ValueError, note="negative"),
    Row(np.linalg.norm,             "... n m", call=lambda a, **options: np.linalg.norm(apart(a), axis=(-2, -1), **options), domain=SMALL, options={"ord": st.sampled_from(["nuc", 2, -2]), **KEEP}, zero_d=np.exceptions.AxisError, empty=ValueError, note="spectral"),
    Row(np.linalg.norm,             "... n n", call=lambda a, **options: np.linalg.norm(-apart(a), axis=(-1, -2), **options), domain=(0.1, 0.5), options={"ord": st.sampled_from([1, -1, INF, -INF, "nuc", 2]), **KEEP}, zero_d=np.exceptions.AxisError, empty=ValueError, note="matrices"),
    Row(np.linalg.norm,             "l n n", call=lambda a, **options: np.linalg.norm(np.moveaxis(apart(a), 0, 1), axis=(0, 2), **options), domain=(0.1, 0.5), options={"ord": st.sampled_from([1, -1, INF, -INF, "nuc", 2])}, zero_d=np.exceptions.AxisError, empty=ValueError, note="between axes"),
    Row(np.linalg.vector_norm,      options=KEEP),
    Row(np.linalg.vector_norm,      "... n", options={"axis": one_or_several, **KEEP}, zero_d=np.exceptions.AxisError),
    Row(np.linalg.vector_norm,      "... n", options={"axis": one_or_several, "ord": st.sampled_from([2, 1, INF, -INF, 0, 3, 0.5, -1]), **KEEP}, domain=(0.2, 3), zero_d=np.exceptions.AxisError, empty=ValueError),
    Row(np.linalg.matrix_norm,      "... n m", zero_d=np.exceptions.AxisError),
    Row(np.linalg.matrix_norm,      "... n n", call=lambda a, **options: np.linalg.matrix_norm(apart(a), **options), domain=(0.1, 0.5), options={"ord": st.sampled_from(["fro", "nuc", 1, -1, 2, -2, INF, -INF]), **KEEP}, zero_d=np.exceptions.AxisError, empty=ValueError),
]
# fmt: on

ROWS = PRODUCTS + MATRICES + NORMS

# The terms of a sum may cancel: then numeric derivatives are off by more than the size of the result suggests.
for row in ROWS:
    row.tolerance = max(row.tolerance, 1e-9)
