"""The functions of `np.linalg` for matrices and stacks of them: inverses, determinants, decompositions.

Written in the notation of the literature: A is the argument, and the gradient of something has a bar (x̄), or a g before
its name in code. The sources are

- Giles 2008, *Collected matrix derivative results for forward and reverse mode algorithmic differentiation*;
- Golub and Pereyra 1973, *The differentiation of pseudo-inverses and nonlinear least squares problems whose variables
  separate*;
- Murray 2016, *Differentiation of the Cholesky decomposition*;
- Townsend 2016, *Differentiating the singular value decomposition*;
- Walter and Lehmann 2012, *Algorithmic differentiation of linear algebra functions with application in optimum
  experimental design*.

Conventions: functions of symmetric matrices (`cholesky`, `eigh`, `eigvalsh`) have symmetric gradients. Where
eigenvalues or singular values are equal, their vectors are no function of the matrix: any basis of their space will do.
The terms that turn one such vector into another are left out there, so that gradients of what does not depend on that
basis are right, and all others finite. Left out too is what these terms add to a second derivative at such a matrix.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from tinygrad_mm.graph import defcomposite, defstopped, defvjp, defvjp_each, primitive, state
from tinygrad_mm.rules.products import swap

# ---------------------------------------------------------------------------------------------------------------------
# Parts of the formulas
# ---------------------------------------------------------------------------------------------------------------------


def _symmetric(a):
    return (a + swap(a)) / 2


def _diagonal_matrix(d):
    return d[..., None, :] * np.eye(d.shape[-1], dtype=d.dtype)


def _inner(a, b):
    """The sum of all products of elements, <A, B> = tr(AᵀB), as a matrix of one element."""
    return np.sum(a * b, axis=(-2, -1), keepdims=True)


def _reciprocal(x):
    """1 / x, and 0 where x is 0."""
    zero = x == 0
    return np.where(zero, 0, 1 / np.where(zero, 1, x))


def _differences(v):
    """The matrix v[j] - v[i]."""
    return v[..., None, :] - v[..., :, None]


def _sums(v):
    """The matrix v[j] + v[i]."""
    return v[..., None, :] + v[..., :, None]


def _without_each(s):
    """For each element along the last axis the product of all the others, exact at zeros."""
    one = np.ones_like(s[..., :1])
    before = np.cumprod(np.concatenate([one, s[..., :-1]], axis=-1), axis=-1)
    after = np.cumprod(np.concatenate([one, s[..., :0:-1]], axis=-1), axis=-1)[..., ::-1]
    return before * after


# ---------------------------------------------------------------------------------------------------------------------
# Determinants
# ---------------------------------------------------------------------------------------------------------------------


def _orientation(u, vh):
    """det(U) det(Vᵀ), which is 1 or -1, for a stack of orthogonal matrices."""
    return np.sign(np.linalg.det(u) * np.linalg.det(vh))[..., None, None]


@primitive
def cofactor(a):
    """The matrix of cofactors: the gradient of the determinant, for singular matrices too.

    For A = U S Vᵀ it is det(U) det(V) U C Vᵀ, where C is diagonal, each element the product of the other singular
    values. For an invertible matrix it is det(A) A⁻ᵀ.

    Shape: (..., n, n) -> (..., n, n)

    >>> cofactor(np.array([[2.0, 0.0], [0.0, 0.0]])).round(12)
    array([[0., 0.],
           [0., 2.]])
    """
    u, s, vh = np.linalg.svd(a)
    return _orientation(u, vh) * ((u * _without_each(s)[..., None, :]) @ vh)


@primitive
def cofactor_change(a, e):
    """How the matrix of cofactors changes as A moves in the direction E: the derivative of `cofactor`, applied to E.

    In the bases of A = U S Vᵀ, where p[i, j] is the product of all singular values but those two, the change of an
    element on the diagonal is the sum over j ≠ i of p[i, j] E[j, j], and elsewhere it is -p[i, j] E[j, i]. The
    determinant is the sum over permutations, so these are its only second derivatives at a diagonal matrix.

    Shape: (..., n, n), (..., n, n) -> (..., n, n)
    """
    u, s, vh = np.linalg.svd(a)
    e = swap(u) @ e @ swap(vh)
    same = np.eye(s.shape[-1], dtype=bool)
    p = np.where(same, 0, _without_each(np.where(same, 1, s[..., None, :])))
    on_diagonal = p @ np.diagonal(e, axis1=-2, axis2=-1)[..., None]
    return _orientation(u, vh) * (u @ np.where(same, on_diagonal, -p * swap(e)) @ vh)


def _cofactor_change(g, y, a, e):
    """The gradient of A in <G, H(A) E> where H is `cofactor_change`: a third derivative of the determinant.

    By Jacobi's formula it is (<C, E> <C, G> - <G, C Eᵀ C>) / det(A) with C the cofactors, for an invertible A. Its
    gradient with respect to C goes back through H, that with respect to det(A) through C.
    """
    c, d = cofactor(a), np.linalg.det(a)[..., None, None]
    gc = e * _inner(c, g) + g * _inner(c, e) - g @ swap(c) @ e - e @ swap(c) @ g
    return cofactor_change(a, gc / d) - (_inner(g, y) / d) * c


# ---------------------------------------------------------------------------------------------------------------------
# Inverses
# ---------------------------------------------------------------------------------------------------------------------


def _solve_right(g, a, b):
    """The gradient of b in x = A⁻¹ b is A⁻ᵀ x̄ (Giles 2.3.1). NumPy 2 takes b for a vector only if it has one axis."""
    return np.linalg.solve(swap(a), g) if b.ndim > 1 else np.linalg.solve(swap(a), g[..., None])[..., 0]


def _solve_left(g, y, a, b):
    """The gradient of A in x = A⁻¹ b is -b̄ xᵀ, with b̄ the gradient of b (Giles 2.3.1)."""
    gb = _solve_right(g, a, b)
    return -(gb @ swap(y)) if b.ndim > 1 else -gb[..., :, None] * y[..., None, :]


def _pinv(g, y, a, hermitian):
    """dA⁺ = -A⁺ dA A⁺ + A⁺ A⁺ᵀ dAᵀ (I - A A⁺) + (I - A⁺ A) dAᵀ A⁺ᵀ A⁺, for a constant rank (Golub and Pereyra 4.12)."""
    left, right = swap(g) @ y @ swap(y), swap(y) @ y @ swap(g)
    ga = left - a @ (y @ left) + right - (right @ y) @ a - swap(y) @ g @ swap(y)
    return _symmetric(ga) if hermitian else ga


def _lstsq_parts(g, y, a, b, rcond):
    """A⁺, and as matrices of columns: b, x, x̄, the residual b - A x; and the gradient of the sums of its squares."""
    if rcond is None or rcond < 0:
        rcond = float(np.finfo(a.dtype).eps) * (max(a.shape) if rcond is None else 1)
    b, x, gx = (v if b.ndim > 1 else v[:, None] for v in (b, y[0], g[0]))
    gsums = g[1] if g[1].shape == b.shape[1:] else 0.0  # NumPy leaves the sums out unless the rank is full
    return np.linalg.pinv(a, rcond=rcond), x, gx, b - a @ x, gsums


def _lstsq_right(g, y, a, b, rcond):
    """The gradient of b in x = A⁺ b is A⁺ᵀ x̄. In ‖r‖² with the residual r = b - A x it is 2 r, since Aᵀ r = 0."""
    inverse, _, gx, r, gsums = _lstsq_parts(g, y, a, b, rcond)
    return (swap(inverse) @ gx + 2 * r * gsums).reshape(b.shape)


def _lstsq_left(g, y, a, b, rcond):
    """The gradient of A in x = A⁺ b: `_pinv` for the gradient x̄ bᵀ of A⁺, without forming that product.

    With z = A⁺ᵀ x̄ and the residual r = b - A x it is -z xᵀ + r (A⁺ z)ᵀ + A⁺ᵀ x (x̄ - Aᵀ z)ᵀ. In ‖r‖² it is -2 r xᵀ.
    """
    inverse, x, gx, r, gsums = _lstsq_parts(g, y, a, b, rcond)
    z = swap(inverse) @ gx
    through_x = r @ swap(inverse @ z) - z @ swap(x) + (swap(inverse) @ x) @ swap(gx - swap(a) @ z)
    return through_x - 2 * (r * gsums) @ swap(x) + _singular_values(g[3], a)


# ---------------------------------------------------------------------------------------------------------------------
# Decompositions
# ---------------------------------------------------------------------------------------------------------------------


def _cholesky(g, y, upper):
    """Ā = L⁻ᵀ Φ(Lᵀ L̄) L⁻¹, symmetrised; Φ takes the lower triangle and half the diagonal (Murray, equation 10)."""
    y, g = (swap(y), swap(g)) if upper else (y, g)
    m = swap(y) @ g
    phi = (np.tril(m) + np.tril(m, -1)) / 2
    return _symmetric(np.linalg.solve(swap(y), swap(np.linalg.solve(swap(y), phi))))


def _eigh(g, y):
    """Ā = V (diag(w̄) + F ∘ Vᵀ V̄) Vᵀ with F[i, j] = 1 / (w[j] - w[i]), symmetrised (Giles 3.1)."""
    (gw, gv), (w, v) = g, y
    f = _reciprocal(_differences(w))
    return _symmetric(v @ (_diagonal_matrix(gw) + f * (swap(v) @ gv)) @ swap(v))


def _eigenvalues(g, a, uplo):
    """Ā = V diag(w̄) Vᵀ (Giles 3.1)."""
    v = np.linalg.eigh(a, UPLO=uplo)[1]
    return (v * g[..., None, :]) @ swap(v)


@primitive
def svd(a, full_matrices=True):
    """`np.linalg.svd` with both sets of vectors: A = U diag(s) Vᵀ.

    Shape: (..., n, m) -> (..., n, k), (..., k), (..., k, m), where k is the smaller of n and m
    """
    return np.linalg.svd(a, full_matrices=full_matrices)


def _svd(g, y):
    """Ā = U (diag(s̄) + (F ∘ 2 skew(Uᵀ Ū)) S + S (F ∘ 2 skew(Vᵀ V̄))) Vᵀ + (I - U Uᵀ) Ū S⁻¹ Vᵀ + U S⁻¹ V̄ᵀ (I - V Vᵀ).

    Here F[i, j] = 1 / (s[j]² - s[i]²), and 2 skew(M) = M - Mᵀ (Townsend, section 1.1). For a square matrix the last two
    terms are zero, for others one of them is.
    """
    u, s, v = y[0], y[1], swap(y[2])
    gu, gs, gv = g[0], g[1], swap(g[2])
    row, column = s[..., None, :], s[..., :, None]
    f = _reciprocal(_differences(s)) * _reciprocal(_sums(s))
    turn_u, turn_v = swap(u) @ gu, swap(v) @ gv
    inside = f * (turn_u - swap(turn_u)) * row + column * f * (turn_v - swap(turn_v))
    ga = u @ (_diagonal_matrix(gs) + inside) @ swap(v)
    if u.shape[-2] > s.shape[-1]:
        return ga + ((gu - u @ turn_u) * _reciprocal(row)) @ swap(v)
    if v.shape[-2] > s.shape[-1]:
        return ga + u @ swap((gv - v @ turn_v) * _reciprocal(row))
    return ga


def _singular_values(g, a):
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
    Lehmann, 2.4).

    A wide matrix is A = Q [R₁ R₂]: its first columns are Q R₁, and the others, Q R₂, are linear in Q and in R₂ = Qᵀ A₂.
    """
    (gq, gr), (q, r) = g, y
    k = q.shape[-1]
    if r.shape[-1] > k:
        first, gfirst, last, glast = r[..., :k], gr[..., :k], r[..., k:], gr[..., k:]
        return np.concatenate([_qr([gq + q @ last @ swap(glast), gfirst], (q, first)), q @ glast], axis=-1)
    m = r @ swap(gr) - swap(gq) @ q
    return swap(np.linalg.solve(r, swap(gq + q @ (np.tril(m) + swap(np.tril(m, -1))))))


@primitive
def multi_dot(*matrices):
    """`np.linalg.multi_dot` with the matrices as arguments: their product, in the order that costs least.

    Shape: (n, k), (k, l), ..., (l, m) -> (n, m)
    """
    return np.linalg.multi_dot(matrices)


def _multi_dot_each(i, g, matrices):
    """In A B C, the gradient of B is Aᵀ g Cᵀ: a product of as many matrices."""
    transposed = [swap(m) for m in matrices]
    return multi_dot(*transposed[:i][::-1], g, *transposed[:i:-1])


# fmt: off
defvjp(np.linalg.det,      lambda g, y, a: g[..., None, None] * cofactor(a),                             law="(..., n, n) -> (...)")
defvjp(np.linalg.slogdet,  lambda g, y, a: g[1][..., None, None] * swap(np.linalg.inv(a)),               law="(..., n, n) -> (...), (...)")
defvjp(cofactor,           lambda g, y, a: cofactor_change(a, g),                                        law="(..., n, n) -> (..., n, n)")
defvjp(cofactor_change,    lambda g, y, a, e: _cofactor_change(g, y, a, e),
                           lambda g, y, a, e: cofactor_change(a, g),                                     law="(..., n, n), (..., n, n) -> (..., n, n)")
defvjp(np.linalg.inv,      lambda g, y, a: -swap(y) @ g @ swap(y),                                       law="(..., n, n) -> (..., n, n)")
defvjp(np.linalg.solve,    lambda g, y, a, b: _solve_left(g, y, a, b),
                           lambda g, y, a, b: _solve_right(g, a, b),                                     law="(..., n, n), (..., n, m) or (n,) -> (..., n, m) or (..., n)")
defvjp(np.linalg.pinv,     lambda g, y, a, rcond=None, hermitian=False, rtol=None: _pinv(g, y, a, hermitian), law="(..., n, m) -> (..., m, n)")
defvjp(np.linalg.lstsq,    lambda g, y, a, b, rcond=None: _lstsq_left(g, y, a, b, rcond),
                           lambda g, y, a, b, rcond=None: _lstsq_right(g, y, a, b, rcond),               law="(n, m), (n, ...) -> (m, ...), (...), (), (k,)")
defvjp(np.linalg.cholesky, lambda g, y, a, *, upper=False: _cholesky(g, y, upper),                       law="(..., n, n) -> (..., n, n)")
defvjp(np.linalg.eigh,     lambda g, y, a, UPLO="L": _eigh(g, y),                                        law="(..., n, n) -> (..., n), (..., n, n)")
defvjp(np.linalg.eigvalsh, lambda g, y, a, UPLO="L": _eigenvalues(g, a, UPLO),                           law="(..., n, n) -> (..., n)")
defvjp(svd,                lambda g, y, a, full_matrices=True: _svd(g, y),                               law="(..., n, m) -> (..., n, k), (..., k), (..., k, m)")
defvjp(np.linalg.svdvals,  lambda g, y, x: _singular_values(g, x),                                       law="(..., n, m) -> (..., k)")
defvjp(qr,                 lambda g, y, a, mode="reduced": _qr(g, y),                                    law="(..., n, m) -> (..., n, k), (..., k, m)")
defvjp_each(multi_dot,     lambda i, g, y, *matrices: _multi_dot_each(i, g, matrices),                   law="(n, k), (k, l), ..., (l, m) -> (n, m)")
# fmt: on

defstopped(np.linalg.matrix_rank)


# ---------------------------------------------------------------------------------------------------------------------
# Derived functions, and the forms of svd and qr that have a gradient
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
    return SVDResult(u, np.take_along_axis(s, order, axis=-1), swap(u * sign[..., None, :]))


def _qr_of(a, mode="reduced"):
    if mode not in ("reduced", "complete", "r"):
        raise ValueError(f"qr: mode={mode!r} is not supported on Tensors; use 'reduced', 'complete' or 'r'")
    if mode == "complete" and a.ndim > 1 and a.shape[-2] > a.shape[-1]:
        _refuse_free_columns(a, "qr", "mode='reduced', or mode='r' if you need R only")
    return qr(a).R if mode == "r" else qr(a, mode=mode)


def _matrix_power(a, n):
    """Square and multiply, in NumPy's order."""
    try:
        n = operator.index(n)
    except TypeError as error:
        raise TypeError(f"matrix_power: the exponent {n!r} must be an integer") from error
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise np.linalg.LinAlgError(f"matrix_power: square matrices are needed, these have the shape {a.shape}")
    if n == 0:
        return np.where(False, a, np.eye(a.shape[-1], dtype=a.dtype))
    if n < 0:
        a, n = np.linalg.inv(a), -n
    if n == 3:
        return (a @ a) @ a
    power, result = a, None
    while True:
        n, odd = divmod(n, 2)
        if odd:
            result = power if result is None else result @ power
        if n == 0:
            return result
        power = power @ power


def _multi_dot(arrays, *, out=None):
    """The first array may be a row, the last one a column."""
    arrays = list(arrays)
    if len(arrays) < 2:
        raise ValueError(f"multi_dot: at least two arrays are needed; {len(arrays)} were given")
    first, last = np.ndim(arrays[0]), np.ndim(arrays[-1])
    arrays[0] = np.expand_dims(arrays[0], 0) if first == 1 else arrays[0]
    arrays[-1] = np.expand_dims(arrays[-1], -1) if last == 1 else arrays[-1]
    product = multi_dot(*arrays)
    shape = product.shape[1:] if first == 1 else product.shape
    return product.reshape(shape[:-1] if last == 1 else shape)


def _tensorinv(a, ind=2):
    if ind <= 0:
        raise ValueError(f"tensorinv: ind={ind} must be positive")
    rows = math.prod(a.shape[ind:])
    return np.linalg.inv(a.reshape(rows, -1)).reshape(a.shape[ind:] + a.shape[:ind])


def _tensorsolve(a, b, axes=None):
    if axes is not None:
        a = np.transpose(a, [i for i in range(a.ndim) if i not in axes] + list(axes))
    shape = a.shape[np.ndim(b) - a.ndim :]
    n = math.prod(shape)
    if math.prod(a.shape) != n * n:
        raise np.linalg.LinAlgError(
            f"tensorsolve: the unknowns of shape {shape} do not fit equations of shape {np.shape(b)}"
        )
    return np.linalg.solve(a.reshape(n, n), np.ravel(b)).reshape(shape)


def _cond(x, p=None):
    if 0 in x.shape[-2:]:
        raise np.linalg.LinAlgError(f"cond: a matrix of shape {x.shape[-2:]} has no condition number")
    if p is None or p in (2, -2):
        s = np.linalg.svdvals(x)
        return s[..., -1] / s[..., 0] if p == -2 else s[..., 0] / s[..., -1]
    return np.linalg.norm(x, p, axis=(-2, -1)) * np.linalg.norm(np.linalg.inv(x), p, axis=(-2, -1))


# fmt: off
defcomposite(np.linalg.svd,          _svd_of,                                                            law="(..., n, m) -> (..., n, k), (..., k), (..., k, m)")
defcomposite(np.linalg.qr,           _qr_of,                                                             law="(..., n, m) -> (..., n, k), (..., k, m)")
defcomposite(np.linalg.matrix_power, _matrix_power,                                                      law="(..., n, n) -> (..., n, n)")
defcomposite(np.linalg.multi_dot,    _multi_dot,                                                         law="[(n, k), (k, l), ..., (l, m)] -> (n, m)")
defcomposite(np.linalg.tensorinv,    _tensorinv,                                                         law="(n..., m...) -> (m..., n...)")
defcomposite(np.linalg.tensorsolve,  _tensorsolve,                                                       law="(n..., m...), (n...) -> (m...)")
defcomposite(np.linalg.cond,         _cond,                                                              law="(..., n, m) -> (...)")
defcomposite(np.linalg.trace,        lambda x, /, *, offset=0, dtype=None: np.trace(x, offset, -2, -1, dtype), law="(..., n, m) -> (...)")
defcomposite(np.linalg.diagonal,     lambda x, /, *, offset=0: np.diagonal(x, offset, -2, -1),           law="(..., n, m) -> (..., k)")
# fmt: on
