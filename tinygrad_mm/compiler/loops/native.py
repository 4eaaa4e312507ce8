"""What the emitted loops call: pointers, functions of single numbers, and the matrix product of NumPy's own BLAS.

Everything here is compiled by Numba, which is imported when it is first needed.

Operations round as NumPy's do, one by one: the loops themselves are compiled without any fast-math flag, so NaN, Inf
and signed zeros mean what they mean in NumPy, and `(x + big) - big` is not simplified. Two flags are given where they
pay and change roundings only: "reassoc" to the additions of a sum (several partial sums, as NumPy and BLAS have them),
and "contract" (multiply and add rounded once) to the polynomials of exp and tanh. An optimizer's update waits for
memory, not for arithmetic: it needs neither, and gives the same bits as NumPy's calls.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["blas", "native", "require_numba", "threads"]


def require_numba(what: str = "backend='numba'") -> None:
    """Raise ImportError, naming the extra, where Numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        raise ImportError(f"{what} needs Numba: pip install 'tinygrad_mm[numba]'")


def threads() -> int:
    """How many threads large loops may use: OMP_NUM_THREADS, at most what Numba was told.

    Threads of OpenMP that wait for work in a busy loop take the cores from BLAS: a step of two 512-unit layers then
    takes three times as long. They are asked to sleep instead (OMP_WAIT_POLICY), unless the user has chosen already;
    but not at once (GOMP_SPINCOUNT, some 20 µs): to wake up takes longer than that, and one loop often follows another.
    """
    import numba

    if "OMP_WAIT_POLICY" not in os.environ:  # read when Numba starts its threads, at the end of this function
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    config: Any = numba.config
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(int(given) if given.isdigit() else config.NUMBA_NUM_THREADS, numba.get_num_threads()))


@functools.cache
def blas() -> dict[np.dtype[Any], Any]:
    """`cblas_sgemm` and `cblas_dgemm` of the BLAS that NumPy itself uses, so that there is one pool of threads.

    The library is already loaded: its symbols are looked for behind NumPy's own module. Empty where they are not found
    (then products are NumPy calls between compiled pieces).
    """
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError, TypeError):
        return {}
    found: dict[np.dtype[Any], Any] = {}
    for letter, real, dtype in (("s", ctypes.c_float, np.float32), ("d", ctypes.c_double, np.float64)):
        for before, after in (("scipy_", "64_"), ("", "64_"), ("", "_64"), ("scipy_", ""), ("", "")):
            gemm = getattr(library, f"{before}cblas_{letter}gemm{after}", None)
            if gemm is None:
                continue
            size = ctypes.c_int64 if "64" in after else ctypes.c_int
            pointer = ctypes.POINTER(real)
            choices, sizes = [ctypes.c_int] * 3, [size] * 3
            gemm.argtypes = [*choices, *sizes, real, pointer, size, pointer, size, real, pointer, size]
            gemm.restype = None
            found[np.dtype(dtype)] = gemm
            break
    return found


@functools.cache
def native() -> dict[str, Any]:
    """The names that emitted code uses."""
    import numba
    from numba.extending import intrinsic

    types: Any = numba.types  # it has no type hints

    def low(function: Any) -> Any:
        return intrinsic(function)

    def plain(function: Any) -> Any:
        return numba.njit(error_model="numpy")(function)

    def reordered(function: Any) -> Any:
        return numba.njit(error_model="numpy", fastmath={"reassoc"})(function)

    def contracted(function: Any) -> Any:
        return numba.njit(error_model="numpy", fastmath={"contract"})(function)

    @low
    def pointer_in(context: Any, array: Any, offset: Any, dtype: Any) -> Any:
        """A pointer to what lies `offset` bytes behind the beginning of an array."""
        result = types.CPointer(dtype.dtype)

        def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = target.make_array(signature.args[0])(target, builder, args[0]).data
            data = builder.bitcast(data, target.get_value_type(types.voidptr))
            return builder.bitcast(builder.gep(data, [args[1]]), target.get_value_type(result))

        return result(array, offset, dtype), generate

    @low
    def pointer_at(context: Any, address: Any, dtype: Any) -> Any:
        """A pointer to an address."""
        result = types.CPointer(dtype.dtype)

        def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], target.get_value_type(result))

        return result(address, dtype), generate

    @low
    def shifted(context: Any, pointer: Any, count: Any) -> Any:
        """A pointer some elements further."""

        def generate(target: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.gep(args[0], [args[1]])

        return pointer(pointer, count), generate

    @reordered
    def plus(a: Any, b: Any) -> Any:
        """One addition of a sum, which may be taken in any order."""
        return a + b

    @plain
    def maximum(a: Any, b: Any) -> Any:
        """The larger one; NaN where one is."""
        return a if a > b or a != a else b

    @plain
    def minimum(a: Any, b: Any) -> Any:
        """The smaller one; NaN where one is."""
        return a if a < b or a != a else b

    f32, i32 = np.float32, np.int32
    most, least, per = f32(88.8), f32(-104.0), f32(1.4426950408889634)
    high, low = f32(0.693359375), f32(-2.12194440e-4)
    magic = f32(12582912.0)  # 1.5 * 2**23: adding it rounds to a whole number
    one, two, half = f32(1), f32(2), f32(0.5)
    p0, p1, p2 = f32(1.9875691500e-4), f32(1.3981999507e-3), f32(8.3334519073e-3)
    p3, p4, p5 = f32(4.1665795894e-2), f32(1.6666665459e-1), f32(5.0000001201e-1)

    @contracted
    def exp32(x: Any) -> Any:
        """e**x in single precision, within 2 units in the last place, by Moshier's polynomial (Cephes, expf.c).

        Without branches and calls, so that a loop over it is vectorized. 2**n is multiplied in two halves, each a
        normal number, so that results too small for a normal float are rounded like others.
        """
        z = least if x < least else x
        z = most if z > most else z  # NaN stays NaN
        whole = (z * per + magic) - magic
        n = i32(whole) if x == x else i32(0)
        r = (z - whole * high) - whole * low
        y = ((((p0 * r + p1) * r + p2) * r + p3) * r + p4) * r + p5
        y = y * r * r + r + one
        first = n >> i32(1)
        a = i32((first + i32(127)) << i32(23)).view(f32)
        b = i32((n - first + i32(127)) << i32(23)).view(f32)
        return y * a * b

    t0, t1, t2 = f32(-5.70498872745e-3), f32(2.06390887954e-2), f32(-5.37397155531e-2)
    t3, t4 = f32(1.33314422036e-1), f32(-3.33332819422e-1)
    bend, flat, sign = f32(0.625), f32(9.5), i32(-(2**31))

    @contracted
    def tanh32(x: Any) -> Any:
        """The hyperbolic tangent in single precision, within 2 units in the last place (Cephes, tanhf.c)."""
        size = abs(x)
        z = x * x
        near = ((((t0 * z + t1) * z + t2) * z + t3) * z + t4) * z * x + x
        far = one - two / (exp32(two * (flat if size > flat else size)) + one)
        # One of the two is picked by its bits: a branch would keep the loop from being vectorized.
        a, b = f32(near).view(i32), f32(far).view(i32)
        return i32(b ^ ((a ^ b) & -i32(size < bend)) | (f32(x).view(i32) & sign)).view(f32)

    names: dict[str, Any] = {name: getattr(numba, name) for name in _NUMBERS}
    names.update(
        pointer_in=pointer_in, pointer_at=pointer_at, shifted=shifted, plus=plus, maximum=maximum, minimum=minimum
    )
    names.update(exp32=exp32, tanh32=tanh32, prange=numba.prange, inf=float("inf"), nan=float("nan"), half=half)
    names.update(loop=plain)
    names.update(sgemm=blas().get(np.dtype(np.float32)), dgemm=blas().get(np.dtype(np.float64)))
    names["parallel"] = numba.njit(error_model="numpy", parallel=True)
    return names


_NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def signature(arrays: list[tuple[Any, int, bool]]) -> Any:
    """Numba's types for arrays of (dtype, number of axes, whether they are written to)."""
    import numba
    from numba import types

    def kind(dtype: Any) -> Any:
        return numba.from_dtype(np.dtype(dtype))

    return tuple(types.Array(kind(d), ndim, "C", readonly=not written) for d, ndim, written in arrays)


def compiled(function: Callable[..., Any], arrays: list[tuple[Any, int, bool]]) -> Any:
    """A function compiled for these arrays and no others, which lets other threads of Python run meanwhile."""
    import numba

    dispatcher = numba.njit(error_model="numpy", nogil=True)(function)
    dispatcher.compile(signature(arrays))
    dispatcher.disable_compile()
    return dispatcher
