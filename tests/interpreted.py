"""The Numba backend without Numba: its emitted loops run by Python itself, for small arrays.

Compiling takes Numba a second for each program; the interpreter is quick enough to try hundreds of them, and needs no
Numba. Pointers are arrays from where they point to. What compiling itself can get wrong, `test_compile_numba.py` tries
with Numba.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from tinygrad_mm.compiler.loops import updates, writer
from tinygrad_mm.compiler.loops.native import blas

LONGEST = 1 << 24  # bytes behind a pointer, as far as the interpreter looks


def pointer_in(array: np.ndarray, offset: int, dtype: Any) -> np.ndarray:
    if not array.flags.c_contiguous:
        raise TypeError("compiled code takes contiguous arrays only")
    return array.reshape(-1).view(np.uint8)[offset:].view(np.dtype(dtype)) if array.size else np.empty(0, dtype)


def pointer_at(address: int, dtype: Any) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * LONGEST).from_address(int(address)), dtype)


def shifted(pointer: np.ndarray, count: int) -> np.ndarray:
    """An array does not know what lies in front of it: backwards, by address."""
    return pointer[count:] if count >= 0 else pointer_at(pointer.ctypes.data + count * pointer.itemsize, pointer.dtype)


def gemm(dtype: Any) -> Any:
    function = blas()[np.dtype(dtype)]
    real = np.ctypeslib.as_ctypes_type(dtype)

    def call(*arguments: Any) -> None:
        values = [
            a.ctypes.data_as(ctypes.POINTER(real)) if isinstance(a, np.ndarray) else a if type(a) is int else float(a)
            for a in arguments
        ]
        function(*values)

    return call


def maximum(a: Any, b: Any) -> Any:
    return a if a > b or a != a else b


def minimum(a: Any, b: Any) -> Any:
    return a if a < b or a != a else b


def names() -> dict[str, Any]:
    numbers = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    return {
        **{name: np.dtype(name).type for name in numbers},
        "pointer_in": pointer_in,
        "pointer_at": pointer_at,
        "shifted": shifted,
        "plus": lambda a, b: a + b,
        "maximum": maximum,
        "minimum": minimum,
        "exp32": np.exp,
        "tanh32": np.tanh,
        "prange": range,
        "inf": np.inf,
        "nan": np.nan,
        "sgemm": gemm(np.float32) if blas() else None,
        "dgemm": gemm(np.float64) if blas() else None,
        "loop": lambda f: f,
        "parallel": lambda f: f,
    }


MATH = SimpleNamespace(
    sqrt=np.sqrt, exp=np.exp, expm1=np.expm1, log=np.log, sin=np.sin, cos=np.cos, tanh=np.tanh, sinh=np.sinh,
    cosh=np.cosh, atan=np.arctan, copysign=np.copysign,
)  # fmt: skip


@contextmanager
def interpreted(threads: int = 1) -> Iterator[None]:
    """Let Python run what `backend="numba"` emits, for the length of a `with` block."""
    with (
        mock.patch.object(writer, "native", names),
        mock.patch.object(writer, "compiled", lambda function, arrays: quiet(function)),
        mock.patch.object(writer, "threads", return_value=threads),
        mock.patch.object(updates, "threads", return_value=threads),
        mock.patch.object(updates, "_compiled", update),
        mock.patch.object(writer, "math", MATH),
        mock.patch("tinygrad_mm.compiler.loops.require_numba"),
    ):
        yield


def update(elements: str, kind: str, driver: str) -> Any:
    """The update of parameters that stands alone."""
    namespace = {"math": MATH, **names()}
    exec(f"def update_elements{elements}\n\ndef update_parameters{driver}\n", namespace)
    return quiet(namespace["update_parameters"])


def quiet(function: Any) -> Any:
    """Machine code does not warn of overflows."""

    def call(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*arguments)

    return call
