"""Products of arrays: sums over products of their elements, from `dot` to `einsum`, and the cross product.

The gradient of a product is again a product: that of the output's gradient with the other factor. The functions differ
only in the axes that they sum over: so most rules here say which these are, and call `_sum_left` and `_sum_right`.
"""

from __future__ import annotations

import string

import numpy as np

from tinygrad_mm.graph import RULES, defcomposite, defmetadata, defvjp, defvjp_each, primitive
from tinygrad_mm.rules.axes import last_to, numbered, pairs, reordered, rest, rows
from tinygrad_mm.rules.operands import as_arrays, like

# ---------------------------------------------------------------------------------------------------------------------
# Matrices and vectors
# ---------------------------------------------------------------------------------------------------------------------


def _column(x):
    return np.expand_dims(x, -1)


def _row(x):
    return np.expand_dims(x, -2)


def _has_vector(a, b):
    """Whether one of two operands of a product is a vector, and the sizes fit."""
    n, m = getattr(a, "ndim", 0), getattr(b, "ndim", 0)
    return min(n, m) > 0 and 1 in (n, m) and a.shape[-1] == b.shape[-2 if m > 1 else 0]


def _with_vectors(a, b):
    """`np.matmul` with vectors as one of matrices: a vector on the left is a row, one on the right a column."""
    if b.ndim == 1:
        return np.squeeze(np.matmul(a, np.expand_dims(b, 1)), -1)
    return np.squeeze(np.matmul(np.expand_dims(a, 0), b), -2)


# ---------------------------------------------------------------------------------------------------------------------
# Arrays with any number of axes
# ---------------------------------------------------------------------------------------------------------------------


def _keeping_dtype(fun):
    """`fun`, in which a Python number takes the dtype of the array beside it, as in `np.multiply`."""
    return lambda a, b, **options: fun(like(a, b), like(b, a), **options)


def _sum_left(g, a, b, axes):
    """The gradient of a in a sum of products of a and b over pairs of axes, `np.tensordot(a, b, axes)`.

    The output has the axes of a that were not summed, then those of b. Summing g with b over the latter leaves the axes
    of a, in another order.
    """
    b = like(b, g)
    summed_a, summed_b = numbered(axes[0], np.ndim(a)), numbered(axes[1], b.ndim)
    free_a, free_b = rest(summed_a, np.ndim(a)), rest(summed_b, b.ndim)
    product = np.tensordot(g, b, axes=(list(range(len(free_a), g.ndim)), free_b))
    return reordered(product, free_a + [i for _, i in sorted(zip(summed_b, summed_a, strict=True))])


def _sum_right(g, a, b, axes):
    """The gradient of b in `np.tensordot(a, b, axes)`: the same with the roles exchanged."""
    a = like(a, g)
    summed_a, summed_b = numbered(axes[0], a.ndim), numbered(axes[1], np.ndim(b))
    free_a, free_b = rest(summed_a, a.ndim), rest(summed_b, np.ndim(b))
    product = np.tensordot(a, g, axes=(free_a, list(range(len(free_a)))))
    return reordered(product, [i for _, i in sorted(zip(summed_a, summed_b, strict=True))] + free_b)


def _dot_left(g, a, b):
    """`dot`: a number scales; matrices are `matmul`; others sum the last axis of a, the last but one of b."""
    if not np.ndim(a) or not np.ndim(b):
        return g * b
    if a.ndim == b.ndim == 2:
        return g @ b.mT
    return _sum_left(g, a, b, (-1, max(b.ndim - 2, 0)))


def _dot_right(g, a, b):
    if not np.ndim(a) or not np.ndim(b):
        return g * a
    if a.ndim == b.ndim == 2:
        return a.mT @ g
    return _sum_right(g, a, b, (-1, max(b.ndim - 2, 0)))


def _inner_left(g, a, b):
    """`inner`: a number scales; others sum the last axis of both."""
    return _sum_left(g, a, b, (-1, -1)) if np.ndim(a) and np.ndim(b) else g * b


def _inner_right(g, a, b):
    return _sum_right(g, a, b, (-1, -1)) if np.ndim(a) and np.ndim(b) else g * a


def _outer_left(g, a, b):
    """`outer`: all elements of a times all elements of b."""
    return np.matmul(g, np.reshape(like(b, g), -1)).reshape(np.shape(a))


def _outer_right(g, a, b):
    return np.matmul(np.reshape(like(a, g), -1), g).reshape(np.shape(b))


def _vecdot(g, x, other, axis):
    """The gradient of x in `vecdot`, the dot products of vectors that lie on one axis of both arguments."""
    return last_to(axis, x, _column(g) * np.moveaxis(other, axis, -1))


# ---------------------------------------------------------------------------------------------------------------------
# The cross product
# ---------------------------------------------------------------------------------------------------------------------


def _in_space(v):
    """Vectors of two components as vectors of three, the third being 0."""
    return v if v.shape[-1] == 3 else np.concatenate([v, np.zeros_like(v[..., :1])], axis=-1)


def _cross_left(g, a, b, axisa, axisb, axisc, axis, sign=1):
    """The gradient of a in a x b is b x g: g . (da x b) = da . (b x g), the triple product.

    The cross product of two plane vectors is a number, the third component of that product.
    """
    axisa, axisb, axisc = (axisa, axisb, axisc) if axis is None else (axis, axis, axis)
    planar = a.shape[axisa] == b.shape[axisb] == 2
    g = _column(g) * np.asarray([0, 0, 1], g.dtype) if planar else np.moveaxis(g, axisc, -1)
    turned = np.cross(_in_space(np.moveaxis(b, axisb, -1)), g)
    return last_to(axisa, a, turned[..., : a.shape[axisa]] * sign)


def _cross_right(g, a, b, axisa, axisb, axisc, axis):
    """The gradient of b in a x b = -(b x a)."""
    return _cross_left(g, b, a, axisb, axisa, axisc, axis, sign=-1)


# fmt: off
# Where a single matrix is multiplied with a stack of matrices, its gradient is a sum over the stack: the second form puts
# all rows of the stack into one matrix, and the product sums over them. (Otherwise `g @ b.mT` and `a.mT @ g`.)
defvjp(np.matmul,     lambda g, y, a, b: g @ b.mT if a.ndim > 2 or b.ndim == 2 else rows(g.mT).mT @ rows(b.mT),
                      lambda g, y, a, b: a.mT @ g if b.ndim > 2 or a.ndim == 2 else rows(a).mT @ rows(g),
                      signature="(..., n, k), (..., k, m) -> (..., n, m)")
defcomposite(np.matmul, _with_vectors, when=_has_vector)
defvjp(np.dot,        lambda g, y, a, b: _dot_left(g, a, b),
                      lambda g, y, a, b: _dot_right(g, a, b),                          signature="(..., k), (..., k, m) -> (..., ..., m)")
defvjp(np.inner,      lambda g, y, a, b: _inner_left(g, a, b),
                      lambda g, y, a, b: _inner_right(g, a, b),                        signature="(..., k), (..., k) -> (..., ...)")
defvjp(np.vdot,       lambda g, y, a, b: g * np.reshape(like(b, g), np.shape(a)),
                      lambda g, y, a, b: g * np.reshape(like(a, g), np.shape(b)),                      signature="(...), (...) -> ()")
defvjp(np.outer,      lambda g, y, a, b: _outer_left(g, a, b),
                      lambda g, y, a, b: _outer_right(g, a, b),                        signature="(n,), (m,) -> (n, m)")
defvjp(np.tensordot,  lambda g, y, a, b, axes=2: _sum_left(g, a, b, pairs(a, axes)),
                      lambda g, y, a, b, axes=2: _sum_right(g, a, b, pairs(a, axes)), signature="(..., k...), (k..., ...) -> (..., ...)")
defvjp(np.vecdot,     lambda g, y, a, b, axis=-1: _vecdot(g, a, b, axis),
                      lambda g, y, a, b, axis=-1: _vecdot(g, b, a, axis),              signature="(..., k), (..., k) -> (...)")
defvjp(np.linalg.vecdot,
                      lambda g, y, x1, x2, axis=-1: _vecdot(g, x1, x2, axis),
                      lambda g, y, x1, x2, axis=-1: _vecdot(g, x2, x1, axis),          signature="(..., k), (..., k) -> (...)")
defvjp(np.cross,      lambda g, y, a, b, axisa=-1, axisb=-1, axisc=-1, axis=None: _cross_left(g, a, b, axisa, axisb, axisc, axis),
                      lambda g, y, a, b, axisa=-1, axisb=-1, axisc=-1, axis=None: _cross_right(g, a, b, axisa, axisb, axisc, axis),
                      signature="(..., 3), (..., 3) -> (..., 3)")
if hasattr(np, "matvec"):  # NumPy 2.2
    defvjp(np.matvec, lambda g, y, a, b: _column(g) * _row(b),
                      lambda g, y, a, b: np.vecmat(g, a),                              signature="(..., n, k), (..., k) -> (..., n)")
    defvjp(np.vecmat, lambda g, y, a, b: np.matvec(b, g),
                      lambda g, y, a, b: _column(a) * _row(g),                         signature="(..., k), (..., k, m) -> (..., m)")
# fmt: on

for _product in (np.dot, np.inner, np.vdot, np.outer, np.tensordot):
    RULES[_product].forward = _keeping_dtype(_product)


# ---------------------------------------------------------------------------------------------------------------------
# einsum
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def einsum(*operands, subscripts, optimize=False):
    """`np.einsum(subscripts, *operands)` in normal form: one letter for each axis, and the output written out.

    Shape: as the subscripts say

    >>> einsum(np.eye(2), np.array([1.0, 2.0]), subscripts="ij,j->i")
    array([1., 2.])
    """
    return np.einsum(subscripts, *operands, optimize=optimize)


@primitive
def on_diagonals(d, term, shape):
    """Zeros of a shape with d where equal letters of `term` have equal indices: what `np.einsum` would read back.

    Shape: one axis for each different letter of `term` -> `shape`

    >>> on_diagonals(np.array([1.0, 2.0]), "ii", (2, 2))
    array([[1., 0.],
           [0., 2.]])
    """
    out = np.zeros(shape, d.dtype, like=d)
    np.einsum(f"{term}->{_distinct(term)}", out)[...] = d  # without a sum, einsum returns a view
    return out


def _distinct(term):
    """The letters of a term, each once, in order."""
    return "".join(dict.fromkeys(term))


def _einsum_back(i, g, operands, subscripts, optimize):
    """The gradient of the i-th operand: the same sum of products, with g in that operand's place.

    That leaves the letters that it shares with the output or another operand. A letter of its own was summed, so its
    axis gets the gradient everywhere; an axis of length 1 was broadcast, so it gets the sum; and where a letter stands
    twice, only the diagonal was read.
    """
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    term, shape = terms.pop(i), np.shape(operands[i])
    lengths = dict(zip(term, shape, strict=True))
    elsewhere = set(output).union(*terms)
    kept = [letter for letter in lengths if letter in elsewhere and lengths[letter] != 1]
    optimize = optimize if isinstance(optimize, (bool, str)) else True  # a path is for the operands it was made for
    product = f"{','.join([output, *terms])}->{''.join(kept)}"
    c = einsum(g, *operands[:i], *operands[i + 1 :], subscripts=product, optimize=optimize)
    if len(kept) < len(lengths) or c.shape != tuple(lengths.values()):
        c = c.reshape(tuple(c.shape[kept.index(letter)] if letter in kept else 1 for letter in lengths))
        c = np.broadcast_to(c, tuple(lengths.values()))
    return c if len(lengths) == len(term) else on_diagonals(c, term, shape)


def _letters(sublist):
    """The subscripts of an operand in the interleaved form: integers below 52, and Ellipsis."""
    letters = string.ascii_uppercase + string.ascii_lowercase  # in this order, as NumPy sorts an implicit output
    if not all(s is Ellipsis or s in range(52) for s in sublist):
        raise ValueError(f"einsum: the sublist {sublist} must hold integers from 0 to 51, or Ellipsis")
    return "".join("..." if s is Ellipsis else letters[s] for s in sublist)


def _subscripts_and_arrays(operands):
    """The two, from `"ij,jk->ik", a, b` or from the interleaved `a, [0, 1], b, [1, 2], [0, 2]`."""
    if isinstance(operands[0], str):
        return operands[0].replace(" ", ""), list(operands[1:])
    arrays, sublists = list(operands[: len(operands) // 2 * 2 : 2]), operands[1::2]
    output = f"->{_letters(operands[-1])}" if len(operands) % 2 else ""
    return ",".join(map(_letters, sublists)) + output, arrays


def _written_out(subscripts, arrays):
    """Subscripts with a letter for each axis that an ellipsis stands for, and with an explicit output."""
    inputs, arrow, output = subscripts.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(arrays):
        raise ValueError(f"einsum: {subscripts!r} is for {len(terms)} operands; {len(arrays)} were given")
    for part in [*terms, output]:
        letters = part.replace("...", "", 1)
        if letters and not (letters.isascii() and letters.isalpha()):
            raise ValueError(f"einsum: {part!r} in {subscripts!r} is not made of letters and one ellipsis '...'")
    spare = [letter for letter in string.ascii_letters if letter not in subscripts]
    widths = [np.ndim(a) - len(term.replace("...", "")) for term, a in zip(terms, arrays, strict=True)]
    for term, width, a in zip(terms, widths, arrays, strict=True):
        if width < 0 or (width and "..." not in term):
            raise ValueError(f"einsum: {term!r} in {subscripts!r} does not fit an operand of shape {np.shape(a)}")
    most = max(widths)
    if most > len(spare):
        raise ValueError(f"einsum: {subscripts!r} with these operands has more than 52 different axes")
    dots = spare[:most]
    terms = [term.replace("...", "".join(dots[most - n :])) for term, n in zip(terms, widths, strict=True)]
    every = "".join(terms)
    if not arrow:
        output = "..." + "".join(sorted(c for c in set(every) if every.count(c) == 1 and c not in dots))
    elif most and "..." not in output:
        raise ValueError(f"einsum: the output of {subscripts!r} needs an ellipsis '...', as the operands have one")
    output = output.replace("...", "".join(dots))
    if len(set(output)) < len(output) or not set(output) <= set(every):
        raise ValueError(f"einsum: each letter of the output of {subscripts!r} must be in an operand, and stand once")
    return f"{','.join(terms)}->{output}"


def _einsum_of(*operands, out=None, optimize=None, dtype=None, order="K", casting="safe"):
    """`np.einsum` in all its forms, as a call of `einsum`."""
    subscripts, arrays = _subscripts_and_arrays(operands)
    arrays = as_arrays(arrays)
    if dtype is not None:
        arrays = [a.astype(dtype) for a in arrays]
    optimize = len(arrays) > 2 if optimize is None else optimize  # else three operands are one loop over all axes
    return einsum(*arrays, subscripts=_written_out(subscripts, arrays), optimize=optimize)


# ---------------------------------------------------------------------------------------------------------------------
# np.linalg's products
# ---------------------------------------------------------------------------------------------------------------------


def _matrix_transpose(x):
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: an array with at least 2 axes is needed, this one has {x.ndim}")
    return x.mT


def _linalg_outer(x1, x2, /):
    if np.ndim(x1) != 1 or np.ndim(x2) != 1:
        raise ValueError(f"outer: two vectors are needed; these arrays have {np.ndim(x1)} and {np.ndim(x2)} axes")
    return np.outer(x1, x2)


def _linalg_cross(x1, x2, /, *, axis=-1):
    lengths = np.shape(x1)[axis], np.shape(x2)[axis]
    if lengths != (3, 3):
        raise ValueError(f"cross: vectors of 3 components are needed; these have {lengths[0]} and {lengths[1]}")
    return np.cross(x1, x2, axis=axis)


# fmt: off
defvjp_each(einsum,        lambda i, g, y, *operands, subscripts, optimize=False: _einsum_back(i, g, operands, subscripts, optimize),
                           signature="as the subscripts say")
defvjp(on_diagonals,       lambda g, y, d, term, shape: einsum(g, subscripts=f"{term}->{_distinct(term)}"),
                           signature="one axis for each different letter -> one for each letter")

defcomposite(np.einsum,                  _einsum_of,                                                signature="as the subscripts say")
defcomposite(np.matrix_transpose,        _matrix_transpose,                                         signature="(..., n, m) -> (..., m, n)")
defcomposite(np.linalg.matrix_transpose, _matrix_transpose,                                         signature="(..., n, m) -> (..., m, n)")
defcomposite(np.linalg.matmul,           lambda x1, x2, /: np.matmul(x1, x2),                       signature="(..., n, k), (..., k, m) -> (..., n, m)")
defcomposite(np.linalg.tensordot,        lambda x1, x2, /, *, axes=2: np.tensordot(x1, x2, axes),   signature="(..., k...), (k..., ...) -> (..., ...)")
defcomposite(np.linalg.outer,            _linalg_outer,                                             signature="(n,), (m,) -> (n, m)")
defcomposite(np.linalg.cross,            _linalg_cross,                                             signature="(..., 3), (..., 3) -> (..., 3)")
# fmt: on

defmetadata(np.einsum_path)
