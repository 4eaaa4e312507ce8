"""The rows of `tinygrad_mm.rules.products`, `linalg` and `norms`. The form of a row is described in `table/row.py`.

Matrices that a function needs regular, positive definite, or with values far from each other are made so by the row's
call: that keeps the numeric derivatives accurate. Functions of symmetric matrices are called with (A + Aᵀ) / 2, and
vectors that are determined up to their sign are compared through their squares and through products of two of them.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import strategies as my
from hypothesis import strategies as st

from table.row import Row
from tinygrad_mm.rules.linalg import cofactor, cofactor_change, multi_dot, qr, svd
from tinygrad_mm.rules.products import contract, on_diagonals

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


def definite(a: Any) -> Any:
    return symmetric(a)


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
    n = a.shape[-1]
    out = np.ones(a.shape, a.dtype)
    for i in range(n):
        for j in range(n):
            minor = np.delete(np.delete(a, i, axis=-2), j, axis=-1)
            out[..., i, j] = (-1) ** (i + j) * np.linalg.det(minor)
    return out


def change_of_cofactors(a: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Cofactors are polynomials of the elements, at most of degree 2 for three rows: one central difference is exact."""
    b = a.astype(np.longdouble).astype(np.float64), e.astype(np.float64)
    return ((cofactors_by_minors(b[0] + b[1]) - cofactors_by_minors(b[0] - b[1])) / 2).astype(a.dtype)


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
    several = my.several_axes(shape).filter(len) if shape else st.nothing()
    return st.none() | my.one_axis(shape) | several


KEEP = {"keepdims": st.booleans()}
OPTIMIZE = {"optimize": st.sampled_from([False, True, "greedy", "optimal"])}
UPLO = {"UPLO": st.sampled_from("LU")}


def einsum(*shapes: str, text: str, **row: Any) -> Row:
    return Row(np.einsum, *shapes, call=lambda *arrays, **options: np.einsum(text, *arrays, **options), note=text, **row)


