"""Decompositions of matrices, and of stacks of them: Cholesky, eigenvalues of symmetric matrices, singular values, QR.

Written in the notation of the literature: A is the argument, and the gradient of something has a bar (x̄), or a g before
its name in code. The sources are

- Giles 2008, *Collected matrix derivative results for forward and reverse mode algorithmic differentiation*;
- Murray 2016, *Differentiation of the Cholesky decomposition*;
- Townsend 2016, *Differentiating the singular value decomposition*;
- Walter and Lehmann 2010, *Algorithmic differentiation of linear algebra functions with application in optimum
  experimental design*; Roberts and Roberts 2020, *QR and LQ decomposition matrix backpropagation algorithms*.

Conventions: functions of symmetric matrices (`cholesky`, `eigh`, `eigvalsh`) have symmetric gradients. Where
eigenvalues or singular values are equal, their vectors are no function of the matrix: any basis of their space will do.
The terms that turn one such vector into another are left out there. So gradients of the values are right, and of the
space as a whole, and all others are finite; but what these terms would add is missing from the gradient of a matrix
that is put together again from its eigenvectors, and from second derivatives.
"""

from __future__ import annotations

import numpy as np

from tinygrad_mm.graph import defcomposite, defvjp, primitive, state
from tinygrad_mm.rules.elementwise import quotient


def symmetric(a):
    """The symmetric part of a."""
    return (a + a.mT) / 2


def _differences(v):
    """The matrix v[j] - v[i]."""
    return v[..., None, :] - v[..., :, None]


def _sums(v):
    """The matrix v[j] + v[i]."""
    return v[..., None, :] + v[..., :, None]


def _cholesky(g, y, upper):
    """Ā = L⁻ᵀ Φ(Lᵀ L̄) L⁻¹, symmetrised; Φ takes the lower triangle and half the diagonal (Murray)."""
    y, g = (y.mT, g.mT) if upper else (y, g)
    m = y.mT @ g
    phi = (np.tril(m) + np.tril(m, -1)) / 2
    return symmetric(np.linalg.solve(y.mT, np.linalg.solve(y.mT, phi).mT))


def _eigh(g, y):
    """Ā = V (diag(w̄) + F ∘ Vᵀ V̄) Vᵀ with F[i, j] = 1 / (w[j] - w[i]), symmetrised (Giles 3.1)."""
    (gw, gv), (w, v) = g, y
    f = quotient(1, _differences(w))
    return symmetric((v * gw[..., None, :] + v @ (f * (v.mT @ gv))) @ v.mT)


def _eigenvalues(g, a, uplo):
    """Ā = V diag(w̄) Vᵀ (Giles 3.1)."""
    v = np.linalg.eigh(a, UPLO=uplo)[1]
    return (v * g[..., None, :]) @ v.mT


@primitive
def svd(a, full_matrices=True):
    """`np.linalg.svd` with both sets of vectors: A = U diag(s) Vᵀ.

    Shape: (..., n, m) -> (..., n, k), (..., k), (..., k, m), where k is the smaller of n and m
    """
    return np.linalg.svd(a, full_matrices=full_matrices)


def _svd(g, y):
    """Ā = U (diag(s̄) + (F ∘ 2 skew(Uᵀ Ū)) S + S (F ∘ 2 skew(Vᵀ V̄))) Vᵀ + (I - U Uᵀ) Ū S⁻¹ Vᵀ + U S⁻¹ V̄ᵀ (I - V Vᵀ).

    Here F[i, j] = 1 / (s[j]² - s[i]²), and 2 skew(M) = M - Mᵀ (Townsend, 31 and 32). For a square matrix the last two
    terms are zero, for others one of them is.
    """
    u, s, v = y[0], y[1], y[2].mT
    gu, gs, gv = g[0], g[1], g[2].mT
    row, column = s[..., None, :], s[..., :, None]
    f = quotient(1, _differences(s)) * quotient(1, _sums(s))
    turn_u, turn_v = u.mT @ gu, v.mT @ gv
    inside = f * (turn_u - turn_u.mT) * row + column * f * (turn_v - turn_v.mT)
    ga = (u * gs[..., None, :] + u @ inside) @ v.mT
    if u.shape[-2] > s.shape[-1]:
        return ga + ((gu - u @ turn_u) * quotient(1, row)) @ v.mT
    if v.shape[-2] > s.shape[-1]:
        return ga + u @ ((gv - v @ turn_v) * quotient(1, row)).mT
    return ga


def singular_values_back(g, a):
    """Ā = U diag(s̄) Vᵀ (Giles 3.2)."""
    u, _, vh = np.linalg.svd(a, full_matrices=False)
    return (u * g[..., None, :]) @ vh


@primitive
def qr(a, mode="reduced"):
    """`np.linalg.qr` with both factors: A = Q R.

    Shape: (..., n, m) -> (..., n, k), (..., k, m), where k is the smaller of n and m
    """
    return np.linalg.qr(a, mode=mode)


def _qr(g, y):
    """Ā = (Q̄ + Q copyltu(M)) R⁻ᵀ with M = R R̄ᵀ - Q̄ᵀ Q; copyltu copies the lower triangle to the upper (Walter and
    Lehmann).

    A wide matrix is A = Q [R₁ R₂]: its first columns are Q R₁, and for the others R₂ = Qᵀ A₂ (Roberts and Roberts).
    """
    (gq, gr), (q, r) = g, y
    k = q.shape[-1]
    if r.shape[-1] > k:
        first, gfirst, last, glast = r[..., :k], gr[..., :k], r[..., k:], gr[..., k:]
        return np.concatenate([_qr([gq + q @ last @ glast.mT, gfirst], (q, first)), q @ glast], axis=-1)
    m = r @ gr.mT - gq.mT @ q
    return np.linalg.solve(r, (gq + q @ (np.tril(m) + np.tril(m, -1).mT)).mT).mT


# ---------------------------------------------------------------------------------------------------------------------
# The forms of svd and qr that have a gradient
# ---------------------------------------------------------------------------------------------------------------------

SVDResult = type(np.linalg.svd(np.eye(1)))


def _refuse_free_columns(a, function, instead):
    """Columns that only complete an orthonormal basis are no function of the matrix, so they can have no gradient."""
    if state.recording and a.requires_grad:
        raise ValueError(
            f"{function}: for a matrix of shape {a.shape} some columns only fill up an orthonormal basis, in any way, "
            f"and have no gradient; use {instead}"
        )


def _svd_of(a, full_matrices=True, compute_uv=True, hermitian=False):
    if hermitian:
        return _svd_hermitian(a, compute_uv)
    if not compute_uv:
        return np.linalg.svdvals(a)
    if full_matrices and a.ndim > 1 and a.shape[-2] != a.shape[-1]:
        _refuse_free_columns(a, "svd", "full_matrices=False, or compute_uv=False if you need the singular values only")
    return svd(a, full_matrices=bool(full_matrices))


def _svd_hermitian(a, compute_uv):
    """Singular values of a symmetric matrix are its eigenvalues without their signs, in descending order."""
    if not compute_uv:
        return np.sort(np.abs(np.linalg.eigvalsh(a)), axis=-1)[..., ::-1]
    w, v = np.linalg.eigh(a)
    s = np.abs(w)
    order = np.argsort(s, axis=-1)[..., ::-1]
    sign = np.take_along_axis(np.copysign(1, w), order, axis=-1)
    u = np.take_along_axis(v, order[..., None, :], axis=-1)
    return SVDResult(u, np.take_along_axis(s, order, axis=-1), (u * sign[..., None, :]).mT)


def _qr_of(a, mode="reduced"):
    if mode not in ("reduced", "complete", "r"):
        raise ValueError(f"qr: mode={mode!r} is not supported on Tensors; use 'reduced', 'complete' or 'r'")
    if mode == "complete" and a.ndim > 1 and a.shape[-2] > a.shape[-1]:
        _refuse_free_columns(a, "qr", "mode='reduced', or mode='r' if you need R only")
    return qr(a).R if mode == "r" else qr(a, mode=mode)


# fmt: off
defvjp(np.linalg.cholesky, lambda g, y, a, *, upper=False: _cholesky(g, y, upper),                       signature="(..., n, n) -> (..., n, n)")
defvjp(np.linalg.eigh,     lambda g, y, a, UPLO="L": _eigh(g, y),                                        signature="(..., n, n) -> (..., n), (..., n, n)")
defvjp(np.linalg.eigvalsh, lambda g, y, a, UPLO="L": _eigenvalues(g, a, UPLO),                           signature="(..., n, n) -> (..., n)")
defvjp(svd,                lambda g, y, a, full_matrices=True: _svd(g, y),                               signature="(..., n, m) -> (..., n, k), (..., k), (..., k, m)")
defvjp(np.linalg.svdvals,  lambda g, y, x: singular_values_back(g, x),                                   signature="(..., n, m) -> (..., k)")
defvjp(qr,                 lambda g, y, a, mode="reduced": _qr(g, y),                                    signature="(..., n, m) -> (..., n, k), (..., k, m)")
defcomposite(np.linalg.svd,          _svd_of,                                                            signature="(..., n, m) -> (..., n, k), (..., k), (..., k, m)")
defcomposite(np.linalg.qr,           _qr_of,                                                             signature="(..., n, m) -> (..., n, k), (..., k, m)")
# fmt: on
