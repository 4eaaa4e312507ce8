"""What every `ndarray` has: attributes, methods, and Python's own protocols (`len`, `float`, `print`, ...).

Floor 2. `Tensor` inherits them; a method is one call of the NumPy function of the same name, which NumPy's dispatch
protocol brings back to the graph. Methods that would write into the array raise, and name the function that returns a
new one; what makes a plain number of a Tensor raises while a function is being traced.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from tinygrad_mm.errors import leaving, refuse_while_tracing
from tinygrad_mm.graph import Node, name_of
from tinygrad_mm.notebook import preformatted, table
from tinygrad_mm.rules.shape import astype

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ArrayMethods"]

MOST_IN_TABLE, MOST_COLUMNS = 100, 12  # numbers that a notebook shows as a table

IN_TENSORS = "keep the computation in NumPy's functions of Tensors (np.exp for math.exp, np.stack for an array)"

Axis: TypeAlias = "int | tuple[int, ...] | None"


def _given(**options: Any) -> dict[str, Any]:
    """The options that differ from "not given", so that the recorded call holds only what was said."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def _in_place(name: str, instead: str) -> Callable[..., NoReturn]:
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"ndarray.{name} writes into the array, which the graph could not differentiate; use {instead}")

    method.__name__ = name
    method.__doc__ = f"Not supported (it writes in place): use {instead}."
    return method


class ArrayMethods:
    """`x.sum(axis=0)` is `np.sum(x, axis=0)`, and so on for every method of `ndarray`; shapes are NumPy's."""

    __slots__ = ()

    value: Any
    node: Node | None
    requires_grad: bool
    grad: np.ndarray[Any, Any] | Any  # None before a backward pass, which type checkers need not be told away each time
    extra: dict[str, Any] | None

    # -- attributes

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.value.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.value.size

    @property
    def nbytes(self) -> int:
        """Bytes the elements take."""
        return self.value.nbytes

    @property
    def itemsize(self) -> int:
        """Bytes one element takes."""
        return self.value.itemsize

    # -- reductions: shape (...) -> the axes named removed, or kept with length 1 under keepdims

    def sum(
        self, axis: Axis = None, dtype: Any = None, out: None = None, keepdims: bool = False, **options: Any
    ) -> Self:
        """Sum over `axis` (all axes by default)."""
        return np.sum(self, **_given(axis=axis, dtype=dtype, out=out, keepdims=keepdims), **options)  # type: ignore

    def prod(
        self, axis: Axis = None, dtype: Any = None, out: None = None, keepdims: bool = False, **options: Any
    ) -> Self:
        """Product over `axis`."""
        return np.prod(self, **_given(axis=axis, dtype=dtype, out=out, keepdims=keepdims), **options)  # type: ignore

    def mean(
        self, axis: Axis = None, dtype: Any = None, out: None = None, keepdims: bool = False, **options: Any
    ) -> Self:
        """Arithmetic mean over `axis`."""
        return np.mean(self, **_given(axis=axis, dtype=dtype, out=out, keepdims=keepdims), **options)  # type: ignore

    def var(
        self,
        axis: Axis = None,
        dtype: Any = None,
        out: None = None,
        ddof: float = 0,
        keepdims: bool = False,
        **options: Any,
    ) -> Self:
        """Variance over `axis`, divided by N - ddof."""
        options |= _given(axis=axis, dtype=dtype, out=out, ddof=ddof or None, keepdims=keepdims)
        return np.var(self, **options)  # type: ignore

    def std(
        self,
        axis: Axis = None,
        dtype: Any = None,
        out: None = None,
        ddof: float = 0,
        keepdims: bool = False,
        **options: Any,
    ) -> Self:
        """Standard deviation over `axis`, divided by N - ddof."""
        options |= _given(axis=axis, dtype=dtype, out=out, ddof=ddof or None, keepdims=keepdims)
        return np.std(self, **options)  # type: ignore

    def max(self, axis: Axis = None, out: None = None, keepdims: bool = False, **options: Any) -> Self:
        """Largest element over `axis`; ties share the gradient."""
        return np.max(self, **_given(axis=axis, out=out, keepdims=keepdims), **options)  # type: ignore

    def min(self, axis: Axis = None, out: None = None, keepdims: bool = False, **options: Any) -> Self:
        """Smallest element over `axis`; ties share the gradient."""
        return np.min(self, **_given(axis=axis, out=out, keepdims=keepdims), **options)  # type: ignore

    def all(self, axis: Axis = None, out: None = None, keepdims: bool = False, **options: Any) -> Self:
        """Whether all elements are true."""
        return np.all(self, **_given(axis=axis, out=out, keepdims=keepdims), **options)  # type: ignore

    def any(self, axis: Axis = None, out: None = None, keepdims: bool = False, **options: Any) -> Self:
        """Whether any element is true."""
        return np.any(self, **_given(axis=axis, out=out, keepdims=keepdims), **options)  # type: ignore

    def argmax(self, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Self:
        """Index of the largest element."""
        return np.argmax(self, **_given(axis=axis, out=out, keepdims=keepdims))  # type: ignore

    def argmin(self, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Self:
        """Index of the smallest element."""
        return np.argmin(self, **_given(axis=axis, out=out, keepdims=keepdims))  # type: ignore

    def argsort(self, axis: int = -1, **options: Any) -> Self:
        """Indices that would sort the array."""
        return np.argsort(self, axis=axis, **options)  # type: ignore

    def argpartition(self, kth: int | Sequence[int], axis: int = -1) -> Self:
        """Indices that would partition the array."""
        return np.argpartition(self, kth, axis=axis)  # type: ignore

    def cumsum(self, axis: int | None = None, dtype: Any = None, out: None = None) -> Self:
        """Running sum along `axis`."""
        return np.cumsum(self, axis=axis, **_given(dtype=dtype, out=out))  # type: ignore

    def cumprod(self, axis: int | None = None, dtype: Any = None, out: None = None) -> Self:
        """Running product along `axis`."""
        return np.cumprod(self, axis=axis, **_given(dtype=dtype, out=out))  # type: ignore

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: None = None) -> Self:
        """Sum of a diagonal."""
        return np.trace(self, offset, axis1, axis2, **_given(dtype=dtype, out=out))  # type: ignore

    # -- shape

    def reshape(self, *shape: Any, order: str = "C") -> Self:
        """The same elements in another shape: `x.reshape(2, 3)` or `x.reshape((2, 3))`."""
        target = shape[0] if len(shape) == 1 else shape
        return np.reshape(self, target) if order == "C" else np.reshape(self, target, order=order)  # type: ignore

    def ravel(self, order: str = "C") -> Self:
        """Flattened to one axis."""
        return np.ravel(self) if order == "C" else np.ravel(self, order=order)  # type: ignore

    def flatten(self, order: str = "C") -> Self:
        """Flattened to one axis."""
        return self.ravel(order)

    def transpose(self, *axes: Any) -> Self:
        """Axes permuted: `x.transpose(1, 0)`, `x.transpose((1, 0))`, or reversed with no arguments."""
        if not axes or axes == (None,):
            return np.transpose(self)  # type: ignore
        return np.transpose(self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes)  # type: ignore

    def swapaxes(self, axis1: int, axis2: int) -> Self:
        """Two axes exchanged."""
        return np.swapaxes(self, axis1, axis2)  # type: ignore

    def squeeze(self, axis: Axis = None) -> Self:
        """Axes of length 1 removed."""
        return np.squeeze(self, **_given(axis=axis))  # type: ignore

    def repeat(self, repeats: Any, axis: int | None = None) -> Self:
        """Each element repeated."""
        return np.repeat(self, repeats, axis=axis)  # type: ignore

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Self:
        """The elements of a diagonal."""
        return np.diagonal(self, offset, axis1, axis2)  # type: ignore

    @property
    def T(self) -> Self:  # noqa: N802
        """The array with its axes reversed."""
        return np.transpose(self)  # type: ignore

    @property
    def mT(self) -> Self:  # noqa: N802
        """The last two axes exchanged."""
        return np.swapaxes(self, -1, -2)  # type: ignore

    @property
    def real(self) -> Self:
        """The array itself: Tensors are real."""
        return self

    # -- elements

    def take(self, indices: Any, axis: int | None = None, out: None = None, mode: str = "raise") -> Self:
        """Elements at `indices` along `axis`."""
        return np.take(self, indices, axis=axis, out=out, mode=mode)  # type: ignore

    def compress(self, condition: Any, axis: int | None = None, out: None = None) -> Self:
        """Slices where `condition` is true."""
        return np.compress(condition, self, axis=axis, out=out)  # type: ignore

    def choose(self, choices: Any, out: None = None, mode: str = "raise") -> Self:
        """Elements picked from `choices` by the integers in the array."""
        return np.choose(self, choices, mode=mode, **_given(out=out))  # type: ignore

    def nonzero(self) -> tuple[Self, ...]:
        """Indices of the elements that are not zero."""
        return np.nonzero(self)  # type: ignore

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> Self:
        """Where `v` would be inserted to keep the order."""
        return np.searchsorted(self, v, side=side, sorter=sorter)  # type: ignore

    def clip(self, min: Any = None, max: Any = None, out: None = None, **options: Any) -> Self:
        """Elements limited to [min, max]."""
        return np.clip(self, min, max, **_given(out=out), **options)  # type: ignore

    def round(self, decimals: int = 0, out: None = None) -> Self:
        """Elements rounded; the gradient stops here."""
        return np.round(self, decimals, **_given(out=out))  # type: ignore

    def copy(self) -> Self:
        """A copy, in the graph."""
        return np.copy(self)  # type: ignore

    def astype(self, dtype: Any) -> Self:
        """The tensor in another dtype; the gradient comes back in this one's."""
        return astype(self, np.dtype(dtype))  # type: ignore

    def conj(self) -> Self:
        """The array itself: Tensors are real."""
        return self

    conjugate = conj

    def dot(self, other: Any, out: None = None) -> Self:
        """`np.dot(self, other)`."""
        return np.dot(self, other, **_given(out=out))  # type: ignore

    # -- functions of each element, as learners look for them

    def exp(self) -> Self:
        """`np.exp(self)`."""
        return np.exp(self)  # type: ignore

    def log(self) -> Self:
        """`np.log(self)`."""
        return np.log(self)  # type: ignore

    def sqrt(self) -> Self:
        """`np.sqrt(self)`."""
        return np.sqrt(self)  # type: ignore

    def square(self) -> Self:
        """`np.square(self)`."""
        return np.square(self)  # type: ignore

    def abs(self) -> Self:
        """`np.abs(self)`."""
        return np.abs(self)  # type: ignore

    def sin(self) -> Self:
        """`np.sin(self)`."""
        return np.sin(self)  # type: ignore

    def cos(self) -> Self:
        """`np.cos(self)`."""
        return np.cos(self)  # type: ignore

    def tanh(self) -> Self:
        """`np.tanh(self)`."""
        return np.tanh(self)  # type: ignore

    def relu(self) -> Self:
        """max(x, 0), with gradient 0 at 0."""
        return np.where(self <= 0, 0, self)  # type: ignore

    def sigmoid(self) -> Self:
        """1 / (1 + exp(-x)), without overflow."""
        return np.exp(-np.logaddexp(0, -self))  # type: ignore

    # -- plain numbers

    def item(self) -> float | int | bool:
        """The single element as a Python number, which is no longer part of the graph."""
        leaving(self.requires_grad, "t.item()", IN_TENSORS)
        return self.value.item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers, for a tensor that requires no gradient."""
        if leaving(self.requires_grad, "t.tolist()", IN_TENSORS):
            raise TypeError(
                "t.tolist() of a Tensor that requires grad would lose its gradient silently; say t.detach().tolist(), "
                "or t.item() for a single number"
            )
        return self.value.tolist()

    # -- Python's protocols

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        if self.value.ndim == 0:
            raise TypeError("a tensor with no axes cannot be iterated over")
        return (self[i] for i in range(len(self.value)))  # type: ignore[index]

    def __bool__(self) -> bool:
        refuse_while_tracing("bool(t) (an if or while on a tensor)")
        return bool(self.value)

    def __float__(self) -> float:
        self._plain_number("float(t), which NumPy and math call too,")
        return float(self.value)

    def _plain_number(self, what: str) -> None:
        if leaving(self.requires_grad, what, IN_TENSORS):
            warnings.warn(
                f"{what} gives a number without a gradient: math.exp(t), array[i] = t and the like lose it. Write "
                "np.exp(t), or np.stack([...]) of several; say t.item() where a plain number is meant",
                stacklevel=3,
            )

    def __int__(self) -> int:
        self._plain_number("int(t)")
        return int(self.value)

    def __index__(self) -> int:
        refuse_while_tracing("a tensor as a Python index")
        return self.value.__index__()

    def __format__(self, spec: str) -> str:
        refuse_while_tracing("a tensor in a text")
        return format(self.value.item(), spec) if spec else str(self)

    def _about(self) -> list[str]:
        """What there is to say of a tensor besides its numbers."""
        parts = [f"dtype={self.value.dtype}"]
        if self.requires_grad:
            parts.append("requires_grad=True")
        if self.node is not None:
            parts.append(f"made by {name_of(self.node.fun)}")
        return parts

    def __repr__(self) -> str:
        if isinstance(self.value, tuple):
            return f"<{len(self.value)} outputs of {self.node!r}>"
        text = np.array2string(self.value, separator=", ", prefix=f"{type(self).__name__}(")
        return f"{type(self).__name__}({', '.join([text, *self._about()])})"

    def _repr_html_(self) -> str:
        """What a notebook shows: shape, dtype and origin, and the numbers, those of a small matrix as a table."""
        if isinstance(self.value, tuple):
            return preformatted(repr(self))
        about = f"{type(self).__name__} of shape {', '.join([str(self.value.shape), *self._about()])}"
        rows = np.atleast_2d(self.value)
        if rows.ndim > 2 or not 0 < rows.size <= MOST_IN_TABLE or rows.shape[1] > MOST_COLUMNS:
            return preformatted(f"{about}\n{np.array2string(self.value, separator=', ')}")
        word = "{:.4g}" if rows.dtype.kind == "f" else "{}"
        return table((), [[word.format(x) for x in row] for row in rows.tolist()], about)

    def __str__(self) -> str:
        """What `print` shows: value, shape, dtype, whether there is a gradient, and the operation that made it.

        >>> from tinygrad_mm.tensor import Tensor
        >>> w = Tensor([1.0, 2.0], requires_grad=True)
        >>> print(w)
        Tensor([1., 2.], shape=(2,), dtype=float32, requires_grad=True, no grad yet)
        >>> np.sum(w * w).backward()
        >>> print(w, w.detach(), sep="\\n")
        Tensor([1., 2.], shape=(2,), dtype=float32, requires_grad=True, grad=[2., 4.])
        Tensor([1., 2.], shape=(2,), dtype=float32)
        """
        if isinstance(self.value, tuple):
            return repr(self)
        name = type(self).__name__
        parts = [np.array2string(self.value, separator=", ", prefix=f"{name}(")]
        parts += [f"shape={self.value.shape}", f"dtype={self.value.dtype}"]
        if self.requires_grad:
            parts.append("requires_grad=True")
        if isinstance(self.grad, np.ndarray):
            small = self.grad.size <= 8
            norm = np.linalg.norm(self.grad.astype(np.float64))
            parts.append(f"grad={np.array2string(self.grad, separator=', ')}" if small else f"grad of norm {norm:.4g}")
        elif self.requires_grad and (self.node is None or (self.extra or {}).get("retain_grad")):
            parts.append("no grad yet")
        if self.node is not None:
            parts.append(f"made by {name_of(self.node.fun)}{'' if self.node.args is not None else ' (graph released)'}")
        return f"{name}({', '.join(parts)})"

    def __divmod__(self, other: Any) -> tuple[Self, Self]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Self, Self]:
        return other // self, other % self

    def __round__(self, digits: int = 0) -> Self:
        return np.round(self, digits)  # type: ignore

    def __neg__(self) -> Self:
        return np.negative(self)  # type: ignore

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Self:
        return np.absolute(self)  # type: ignore

    def __invert__(self) -> Self:
        return np.invert(self)  # type: ignore

    def __dlpack__(self, **options: Any) -> Any:
        refuse_while_tracing("np.from_dlpack(t)")
        if self.requires_grad:
            raise BufferError("a Tensor that requires grad cannot be exported; use t.detach()")
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.value.__dlpack_device__()

    # -- methods that write in place

    sort = _in_place("sort", "np.sort(x)")
    partition = _in_place("partition", "np.partition(x, kth)")
    fill = _in_place("fill", "np.full_like(x, value)")
    put = _in_place("put", "x.at[indices].set(values)")
    itemset = _in_place("itemset", "x.at[index].set(value)")
    resize = _in_place("resize", "np.reshape or np.pad")
    setfield = _in_place("setfield", "x.at[index].set(value)")
    byteswap = _in_place("byteswap", "x.data.byteswap()")
