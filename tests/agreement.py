"""When a compiled result counts as equal to the eager one.

A compiled program makes the same NumPy calls, except that sums of rows and columns are products with a vector of ones,
that factors of one number move past sums and products, and that what is computed twice is computed once. Each of these
changes the order in which numbers are rounded, not what is computed: a result moves by a few units in the last place
for each term of the sums behind it. `LENGTH` is the number of terms that the tests reach; errors are measured against
the largest element of a result, since an element near 0 may be the difference of two large ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LENGTH = 64


def assert_agree(ours: Any, expected: Any, length: int = LENGTH, coarsest: Any = np.float64) -> None:
    """The same containers, dtypes and shapes; integers and booleans equal, floats within `length` roundings."""
    if isinstance(expected, dict):
        assert type(ours) is dict
        assert list(ours) == list(expected)
        for key in expected:
            assert_agree(ours[key], expected[key], length, coarsest)
    elif isinstance(expected, (tuple, list)):
        assert type(ours) is type(expected)
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            assert_agree(one, other, length, coarsest)
    elif isinstance(expected, (np.ndarray, np.generic)) or hasattr(expected, "detach"):
        assert hasattr(ours, "detach") == hasattr(expected, "detach"), f"{type(ours)} instead of {type(expected)}"
        if hasattr(expected, "detach"):
            assert ours.requires_grad == expected.requires_grad
        assert_close(ours, expected, length, coarsest)
    else:
        assert type(ours) is type(expected)
        assert ours == expected


def assert_close(ours: Any, expected: Any, length: int = LENGTH, coarsest: Any = np.float64) -> None:
    """Two arrays, or Tensors, of the same dtype and shape, within `length` roundings of the largest element.

    `coarsest`: the dtype of the least precision that numbers went through on the way.
    """
    a, b = (np.asarray(t.detach().data if hasattr(t, "detach") else t) for t in (ours, expected))
    assert a.dtype == b.dtype, f"{a.dtype} instead of {b.dtype}"
    assert a.shape == b.shape, f"{a.shape} instead of {b.shape}"
    if b.dtype.kind != "f":
        np.testing.assert_array_equal(a, b)
        return
    finite = np.isfinite(b)
    np.testing.assert_array_equal(np.isfinite(a), finite)
    np.testing.assert_array_equal(a[~finite], b[~finite])
    largest = float(np.max(np.abs(b[finite]), initial=0))
    rounding = max(float(np.finfo(b.dtype).eps), float(np.finfo(coarsest).eps))
    np.testing.assert_allclose(a[finite], b[finite], rtol=0, atol=length * rounding * max(largest, 1e-3))
