"""The functions of `np.linalg` for matrices and stacks of them, without the decompositions: determinants, inverses.

Written in the notation of the literature: A is the argument, and the gradient of something has a bar (x̄), or a g before
its name in code. The sources are

- Giles 2008, *Collected matrix derivative results for forward and reverse mode algorithmic differentiation*;
- Golub and Pereyra 1973, *The differentiation of pseudo-inverses and nonlinear least squares problems whose variables
  separate*.

The determinant has its first two derivatives at singular matrices too, where `slogdet` has none and raises the
LinAlgError of `np.linalg.inv`. Pseudo-inverses and least squares are differentiated among matrices of the same rank.
"""

from __future__ import annotations

import math
import operator

import numpy as np

from tinygrad_mm.graph import defcomposite, defstopped, defvjp, defvjp_each, primitive
from tinygrad_mm.rules.decompositions import singular_values_back, symmetric
from tinygrad_mm.rules.operands import as_arrays

# ---------------------------------------------------------------------------------------------------------------------
# Parts of the formulas
# ---------------------------------------------------------------------------------------------------------------------


def _inner(a, b):
    """The sum of all products of elements, <A, B> = tr(AᵀB), as a matrix of one element."""
    return np.sum(a * b, axis=(-2, -1), keepdims=True)


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
    e = u.mT @ e @ vh.mT
    same = np.eye(s.shape[-1], dtype=bool, like=s)
    p = np.where(same, 0, _without_each(np.where(same, 1, s[..., None, :])))
    on_diagonal = p @ np.diagonal(e, axis1=-2, axis2=-1)[..., None]
    return _orientation(u, vh) * (u @ np.where(same, on_diagonal, -p * e.mT) @ vh)


def _cofactor_change(g, y, a, e):
    """The gradient of A in <G, H(A) E> where H is `cofactor_change`: a third derivative of the determinant.

    By Jacobi's formula it is (<C, E> <C, G> - <G, C Eᵀ C>) / det(A) with C the cofactors, for an invertible A. Its
    gradient with respect to C goes back through H, that with respect to det(A) through C.
    """
    c, d = cofactor(a), np.linalg.det(a)[..., None, None]
    gc = e * _inner(c, g) + g * _inner(c, e) - g @ c.mT @ e - e @ c.mT @ g
    return cofactor_change(a, gc / d) - (_inner(g, y) / d) * c


# ---------------------------------------------------------------------------------------------------------------------
# Inverses
# ---------------------------------------------------------------------------------------------------------------------


def _solve_right(g, a, b):
    """The gradient of b in x = A⁻¹ b is A⁻ᵀ x̄ (Giles 2.3.1). NumPy 2 takes b for a vector only if it has one axis."""
    return np.linalg.solve(a.mT, g) if b.ndim > 1 else np.linalg.solve(a.mT, g[..., None])[..., 0]


def _solve_left(g, y, a, b):
    """The gradient of A in x = A⁻¹ b is -b̄ xᵀ, with b̄ the gradient of b (Giles 2.3.1)."""
    gb = _solve_right(g, a, b)
    return -(gb @ y.mT) if b.ndim > 1 else -gb[..., :, None] * y[..., None, :]


def _pinv(g, y, a, hermitian):
    """dA⁺ = -A⁺ dA A⁺ + A⁺ A⁺ᵀ dAᵀ (I - A A⁺) + (I - A⁺ A) dAᵀ A⁺ᵀ A⁺, for a constant rank (Golub and Pereyra)."""
    left, right = g.mT @ y @ y.mT, y.mT @ y @ g.mT
    ga = left - a @ (y @ left) + right - (right @ y) @ a - y.mT @ g @ y.mT
    return symmetric(ga) if hermitian else ga


def _lstsq_parts(g, y, a, b, rcond):
    """A⁺; x, x̄ and the residual b - A x as matrices of columns; and the gradient of the sums of squared residuals."""
    if rcond is None or rcond < 0:
        rcond = float(np.finfo(a.dtype).eps) * (max(a.shape) if rcond is None else 1)
    b, x, gx = (v if b.ndim > 1 else v[:, None] for v in (b, y[0], g[0]))
    gsums = g[1] if g[1].shape == b.shape[1:] else 0.0  # NumPy leaves the sums out unless the rank is full
    return np.linalg.pinv(a, rcond=rcond), x, gx, b - a @ x, gsums


def _lstsq_right(g, y, a, b, rcond):
    """The gradient of b in x = A⁺ b is A⁺ᵀ x̄. In ‖r‖² with the residual r = b - A x it is 2 r, since Aᵀ r = 0."""
    inverse, _, gx, r, gsums = _lstsq_parts(g, y, a, b, rcond)
    return (inverse.mT @ gx + 2 * r * gsums).reshape(b.shape)


def _lstsq_left(g, y, a, b, rcond):
    """The gradient of A in x = A⁺ b: `_pinv` for the gradient x̄ bᵀ of A⁺, without forming that product.

    With z = A⁺ᵀ x̄ and the residual r = b - A x it is -z xᵀ + r (A⁺ z)ᵀ + A⁺ᵀ x (x̄ - Aᵀ z)ᵀ. In ‖r‖² it is -2 r xᵀ.
    """
    inverse, x, gx, r, gsums = _lstsq_parts(g, y, a, b, rcond)
    z = inverse.mT @ gx
    through_x = r @ (inverse @ z).mT - z @ x.mT + (inverse.mT @ x) @ (gx - a.mT @ z).mT
    return through_x - 2 * (r * gsums) @ x.mT + singular_values_back(g[3], a)


# ---------------------------------------------------------------------------------------------------------------------
# Products of several matrices
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def multi_dot(*matrices):
    """`np.linalg.multi_dot` with the matrices as arguments: their product, in the order that costs least.

    Shape: (n, k), (k, l), ..., (l, m) -> (n, m)
    """
    return np.linalg.multi_dot(matrices)


def _multi_dot_each(i, g, matrices):
    """In A B C, the gradient of B is Aᵀ g Cᵀ: a product of as many matrices."""
    transposed = [m.mT for m in matrices]
    return multi_dot(*transposed[:i][::-1], g, *transposed[:i:-1])


# fmt: off
defvjp(np.linalg.det,      lambda g, y, a: g[..., None, None] * cofactor(a),                             signature="(..., n, n) -> (...)")
defvjp(np.linalg.slogdet,  lambda g, y, a: g[1][..., None, None] * np.linalg.inv(a).mT,               signature="(..., n, n) -> (...), (...)")
defvjp(cofactor,           lambda g, y, a: cofactor_change(a, g),                                        signature="(..., n, n) -> (..., n, n)")
defvjp(cofactor_change,    lambda g, y, a, e: _cofactor_change(g, y, a, e),
                           lambda g, y, a, e: cofactor_change(a, g),                                     signature="(..., n, n), (..., n, n) -> (..., n, n)")
defvjp(np.linalg.inv,      lambda g, y, a: -y.mT @ g @ y.mT,                                       signature="(..., n, n) -> (..., n, n)")
defvjp(np.linalg.solve,    lambda g, y, a, b: _solve_left(g, y, a, b),
                           lambda g, y, a, b: _solve_right(g, a, b),                                     signature="(..., n, n), (..., n, m) or (n,) -> (..., n, m) or (..., n)")
defvjp(np.linalg.pinv,     lambda g, y, a, rcond=None, hermitian=False, rtol=None: _pinv(g, y, a, hermitian), signature="(..., n, m) -> (..., m, n)")
defvjp(np.linalg.lstsq,    lambda g, y, a, b, rcond=None: _lstsq_left(g, y, a, b, rcond),
                           lambda g, y, a, b, rcond=None: _lstsq_right(g, y, a, b, rcond),               signature="(n, m), (n, ...) -> (m, ...), (...), (), (k,)")
defvjp_each(multi_dot,     lambda i, g, y, *matrices: _multi_dot_each(i, g, matrices),                   signature="(n, k), (k, l), ..., (l, m) -> (n, m)")
# fmt: on

defstopped(np.linalg.matrix_rank)


# ---------------------------------------------------------------------------------------------------------------------
# Derived functions
# ---------------------------------------------------------------------------------------------------------------------


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
    arrays = as_arrays(arrays)
    if len(arrays) < 2:
        raise ValueError(f"multi_dot: at least two arrays are needed; {len(arrays)} were given")
    if len(arrays) == 2:
        return np.dot(*arrays)
    first, last = arrays[0].ndim, arrays[-1].ndim
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
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise np.linalg.LinAlgError(f"cond: an array of shape {x.shape} has no condition number; it must hold matrices")
    if p is None or p in (2, -2):
        s = np.linalg.svdvals(x)
        above, below = (s[..., -1], s[..., 0]) if p == -2 else (s[..., 0], s[..., -1])
        nothing = (above == 0) & (below == 0)  # zeros are as far from regular as can be
        return np.where(nothing, math.inf, above / np.where(nothing, 1, below))
    singular = np.linalg.slogdet(x)[0] == 0  # a pivot of 0, where `inv` raises
    inverse = np.linalg.inv(np.where(singular[..., None, None], np.eye(x.shape[-1], dtype=x.dtype), x))
    found = np.linalg.norm(x, p, axis=(-2, -1)) * np.linalg.norm(inverse, p, axis=(-2, -1))
    return np.where((singular | np.isnan(found)) & ~np.any(np.isnan(x), axis=(-2, -1)), math.inf, found)


# fmt: off
defcomposite(np.linalg.matrix_power, _matrix_power,                                                      signature="(..., n, n) -> (..., n, n)")
defcomposite(np.linalg.multi_dot,    _multi_dot,                                                         signature="[(n, k), (k, l), ..., (l, m)] -> (n, m)")
defcomposite(np.linalg.tensorinv,    _tensorinv,                                                         signature="(n..., m...) -> (m..., n...)")
defcomposite(np.linalg.tensorsolve,  _tensorsolve,                                                       signature="(n..., m...), (n...) -> (m...)")
defcomposite(np.linalg.cond,         _cond,                                                              signature="(..., n, m) -> (...)")
defcomposite(np.linalg.trace,        lambda x, /, *, offset=0, dtype=None: np.trace(x, offset, -2, -1, dtype), signature="(..., n, m) -> (...)")
defcomposite(np.linalg.diagonal,     lambda x, /, *, offset=0: np.diagonal(x, offset, -2, -1),           signature="(..., n, m) -> (..., k)")
# fmt: on
