"""`Tensor`: a NumPy duck array that remembers how it was made.

Floor 4. Operators take the fast door (`apply`, directly); NumPy's own functions come in by its dispatch protocols
(`__array_ufunc__`, NEP 13, and `__array_function__`, NEP 18) and reach the same `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.gradient import backward
from tinygrad_mm.graph import NO_KWARGS, RULES, Vertex, name_of, state, tick
from tinygrad_mm.memory import Place
from tinygrad_mm.methods import ArrayMethods
from tinygrad_mm.recording import (
    applied,
    apply,
    as_it_is,
    binary,
    call,
    index,
    refuse_while_tracing,
    result,
    results_are,
)
from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.rules.indexing import getitem
from tinygrad_mm.rules.shape import astype
from tinygrad_mm.updates import At

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Buffer", "Parameter", "Tensor", "from_dlpack"]

TensorLike: TypeAlias = "Tensor | np.ndarray[Any, Any] | float | int | bool | Sequence[Any]"


class Tensor(ArrayMethods, Vertex):
    """An array that takes part in a computation graph.

    `data` is an array, a (nested) sequence or a number; arrays are not copied. Python floats become float32, ints
    int64; `dtype` overrides. With `requires_grad`, `backward()` on anything computed from it leaves the gradient, an
    array of the same shape, in `.grad`.

    Raises TypeError for data that are no real numbers, or where integers are to require a gradient.

    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> loss = np.sum(x * x)
    >>> loss.backward()
    >>> x.grad
    array([2., 4., 6.], dtype=float32)
    """

    __slots__ = ()

    place: Place | None = None  # parameters may have one

    def __init__(self, data: TensorLike, requires_grad: bool = False, dtype: Any = None) -> None:
        if isinstance(data, Tensor):
            if state.tracing:  # a recorded copy, so that no value is baked in
                data = data.detach() if dtype is None else data.detach().astype(dtype)
                self.value, self.node, self.version = data.value, data.node, data.version
                self.grad = self.extra = None
                self.requires_grad = requires_grad
                return
            if data.node is not None:
                raise TypeError("Tensor(t) would cut t from its graph; say t.detach() if that is what you want")
            data = data.value
        value = as_array(data, dtype)
        if value.dtype.kind not in "fiub":
            raise TypeError(
                f"a Tensor holds real numbers or booleans, not {value.dtype}; complex numbers can be kept as two "
                "Tensors, text as integer codes, numbers among objects by a.astype(np.float64)"
            )
        self.value = value
        self.node = None
        self.grad = None
        self.extra = None
        self.version = tick()
        self.requires_grad = False
        if requires_grad:
            self.requires_grad_()

    # -- what it holds

    @property
    def data(self) -> np.ndarray[Any, Any]:
        """The array itself, outside the graph. Setting it counts as a change of the tensor."""
        refuse_while_tracing("t.data")
        return self.value

    @data.setter
    def data(self, new: Any) -> None:
        new = new.value if isinstance(new, Tensor) else as_array(new)
        if self.node is not None:
            raise RuntimeError("this tensor was computed; only leaves can be given new data")
        if self.requires_grad and new.dtype.kind != "f":
            raise TypeError(f"data of dtype {new.dtype} cannot require a gradient; use astype(np.float32)")
        if new.shape == self.value.shape and new.dtype == self.value.dtype and self.value.flags.writeable:
            np.copyto(self.value, new)
        else:
            self.value = new
            if isinstance(self, Parameter):
                self.place = None  # it is one beside the array of before
        self.version = tick()

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for (or stop asking for) a gradient, in place; returns the tensor itself.

        Raises TypeError for integers and booleans, RuntimeError for a tensor that was computed.
        """
        if self.node is not None and requires_grad != self.requires_grad:
            raise RuntimeError("only leaves can change requires_grad; use t.detach() to cut a computed tensor loose")
        if requires_grad and self.value.dtype.kind != "f":
            raise TypeError(
                f"a tensor of dtype {self.value.dtype} cannot require a gradient: derivatives need floating numbers; "
                "write Tensor(data, dtype=np.float32, requires_grad=True)"
            )
        self.requires_grad = requires_grad
        return self

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

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was given rather than computed."""
        return self.node is None

    @property
    def name(self) -> str | None:
        """A name for pictures and messages, or None."""
        return (self.extra or {}).get("name")

    @name.setter
    def name(self, name: str | None) -> None:
        self._set_extra("name", name)

    def _set_extra(self, key: str, value: Any) -> None:
        if self.extra is None:
            self.extra = {}
        self.extra[key] = value

    def item(self) -> float | int | bool:
        """The single element as a Python number."""
        refuse_while_tracing("t.item()")
        return self.value.item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        refuse_while_tracing("t.tolist()")
        return self.value.tolist()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The array, for a tensor that requires no gradient; otherwise raises and names `detach()`."""
        return self.__array__()

    def detach(self) -> Tensor:
        """The same array as a tensor outside the graph."""
        return apply(stop_gradient, (self,)) if state.tracing else result(self.value)

    def copy(self) -> Tensor:
        """A copy, in the graph."""
        return apply(np.copy, (self,))

    def astype(self, dtype: Any) -> Tensor:
        """The tensor in another dtype; the gradient comes back in this one's."""
        return apply(astype, (self, np.dtype(dtype)))

    # -- the graph

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf that requires a gradient.

        `gradient` is that of some loss with respect to this tensor, of the same shape; for a single number it is 1.
        The graph is taken apart on the way unless `retain_graph`.

        Raises RuntimeError where there is no graph, where it was released before, where this tensor holds more than
        one number and no `gradient` is given, or where a parameter has changed since the forward pass.

        >>> w = Tensor(3.0, requires_grad=True)
        >>> (w * w).backward()
        >>> w.grad
        array(6., dtype=float32)
        """
        backward(self, gradient, retain_graph)

    def retain_grad(self) -> Tensor:
        """Keep this computed tensor's gradient in `.grad`, too, when `backward()` passes through it.

        Returns the tensor itself. Raises RuntimeError for a tensor that does not require a gradient.
        """
        if not self.requires_grad:
            raise RuntimeError("this tensor does not require a gradient, so there will be none to retain")
        self._set_extra("retain_grad", True)
        return self

    def register_hook(self, hook: Callable[[Any], Any]) -> Callable[[], None]:
        """Call `hook(gradient)` when this tensor's gradient is complete; what it returns, if anything, replaces it.

        Returns a function that removes the hook. Hooks get an array, or a Tensor in a recorded backward pass.
        """
        if not self.requires_grad:
            raise RuntimeError("this tensor does not require a gradient, so the hook would never be called")
        hooks = (self.extra or {}).get("hooks", {})
        key = tick()
        self._set_extra("hooks", {**hooks, key: hook})
        return lambda: self.extra["hooks"].pop(key, None)  # type: ignore[index]

    @property
    def at(self) -> At:
        """Functional updates: `x.at[i].set(v)`, `.add(v)`, `.multiply(v)` return a new tensor."""
        return At(self)

    # -- NumPy's protocols

    __array_priority__ = __pandas_priority__ = 5000  # beside an array of another library, the Tensor decides

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        rule = RULES.get(ufunc) if not kwargs and method == "__call__" else None
        if rule is not None and rule.composite is None:
            for a in inputs:
                if not isinstance(a, Tensor) and not as_it_is(a):
                    break
            else:
                return applied(rule, inputs, NO_KWARGS)
        if any(a is not None for a in kwargs.pop("out", ())):
            raise TypeError(
                f"{name_of(ufunc)}: out= would write into an array outside the graph; use the returned Tensor instead "
                "(for a += b with an array a: a = a + b)"
            )
        if method == "__call__":
            return call(ufunc, inputs, kwargs)
        whole = _UFUNC_METHODS.get((ufunc, method))
        if whole is not None:
            if method == "reduce" and len(inputs) < 2:
                kwargs.setdefault("axis", 0)
            return whole(*inputs, **kwargs)
        if method == "outer":
            a, b = (x if isinstance(x, Tensor) else as_array(x) for x in inputs)
            return ufunc(a.reshape(a.shape + (1,) * b.ndim), b, **kwargs)
        raise TypeError(
            f"np.{name_of(ufunc)}.{method} has no derivative rule; "
            + ("use x.at[i].add(v)" if method == "at" else "write it with sums, products and slices")
        )

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        return call(func, args, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        refuse_while_tracing("np.asarray(t)")
        if self.requires_grad:
            raise TypeError(
                "converting a Tensor that requires grad to an array would lose its gradient silently; "
                "say t.detach() to leave the graph, or t.data for the array itself"
            )
        if copy is None and (dtype is None or np.dtype(dtype) == self.value.dtype):
            return self.value
        return np.array(self.value, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        refuse_while_tracing("np.from_dlpack(t)")
        if self.requires_grad:
            raise BufferError("a Tensor that requires grad cannot be exported; use t.detach()")
        return self.value.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.value.__dlpack_device__()

    # -- Python's protocols

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Any:
        if self.value.ndim == 0:
            raise TypeError("a tensor with no axes cannot be iterated over")
        return (self[i] for i in range(len(self.value)))

    def __bool__(self) -> bool:
        refuse_while_tracing("bool(t) (an if or while on a tensor)")
        return bool(self.value)

    def __float__(self) -> float:
        refuse_while_tracing("float(t)")
        return float(self.value)

    def __int__(self) -> int:
        refuse_while_tracing("int(t)")
        return int(self.value)

    def __index__(self) -> int:
        refuse_while_tracing("a tensor as a Python index")
        return self.value.__index__()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __repr__(self) -> str:
        if isinstance(self.value, tuple):
            return f"<{len(self.value)} outputs of {self.node!r}>"
        text = np.array2string(self.value, separator=", ", prefix=f"{type(self).__name__}(")
        parts = [text, f"dtype={self.value.dtype}"]
        if self.requires_grad:
            parts.append("requires_grad=True")
        if self.node is not None:
            parts.append(f"made by {name_of(self.node.fun)}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def __str__(self) -> str:
        """What `print` shows: value, shape, dtype, whether there is a gradient, and the operation that made it.

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        refuse_while_tracing("copy.deepcopy(t)")
        if self.node is not None:
            raise RuntimeError("only leaves can be deep-copied; use t.detach() to cut a computed tensor loose")
        return self._leaf_like(self.value.copy(), memo)

    def __copy__(self) -> Tensor:
        if self.node is not None:
            return self.copy()
        kind, parts = self.__reduce__()
        return kind(*parts)

    def __reduce__(self) -> Any:
        refuse_while_tracing("pickle.dumps(t) or copy.copy(t)")
        if self.node is not None:
            raise TypeError("only leaves can be pickled: a graph belongs to the process that made it; use t.detach()")
        return _rebuild, (type(self), self.value, self.requires_grad, self.grad, self._extra_of_a_copy())

    def _leaf_like(self, value: Any, memo: dict[int, Any]) -> Tensor:
        grad = None if self.grad is None else self.grad.copy()
        copy = _rebuild(type(self), value, self.requires_grad, grad, self._extra_of_a_copy())
        memo[id(self)] = copy
        return copy

    def _extra_of_a_copy(self) -> dict[str, Any] | None:
        """What a copy has besides the array: hooks stay with the original, as those of modules do."""
        return {key: value for key, value in (self.extra or {}).items() if key != "hooks"} or None

    # -- operators: the fast door

    __hash__ = object.__hash__  # tensors are compared by identity in sets and dicts, elementwise by ==

    def __getitem__(self, key: Any) -> Tensor:
        key, tensors = index(key)
        return apply(getitem, (self, key, *tensors))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "assigning into a Tensor would change an array that the graph may need; "
            "use the functional update x = x.at[index].set(value)"
        )

    # fmt: off
    __add__,      __radd__      = binary(np.add)
    __sub__,      __rsub__      = binary(np.subtract)
    __mul__,      __rmul__      = binary(np.multiply)
    __truediv__,  __rtruediv__  = binary(np.divide)
    __pow__,      __rpow__      = binary(np.power)
    __matmul__,   __rmatmul__   = binary(np.matmul)
    __mod__,      __rmod__      = binary(np.remainder)
    __floordiv__, __rfloordiv__ = binary(np.floor_divide)
    __and__,      __rand__      = binary(np.bitwise_and)
    __or__,       __ror__       = binary(np.bitwise_or)
    __xor__,      __rxor__      = binary(np.bitwise_xor)
    __lshift__,   __rlshift__   = binary(np.left_shift)
    __rshift__,   __rrshift__   = binary(np.right_shift)
    __eq__,       _             = binary(np.equal)
    __ne__,       _             = binary(np.not_equal)
    __lt__,       __gt__        = binary(np.less)[0], binary(np.greater)[0]
    __le__,       __ge__        = binary(np.less_equal)[0], binary(np.greater_equal)[0]
    # fmt: on

    def __neg__(self) -> Tensor:
        return apply(np.negative, (self,))

    def __pos__(self) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return apply(np.absolute, (self,))

    def __invert__(self) -> Tensor:
        return apply(np.invert, (self,))

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __round__(self, digits: int = 0) -> Tensor:
        return np.round(self, digits)  # type: ignore


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that requires a gradient.

    >>> Parameter([0.0, 0.0])
    Parameter([0., 0.], dtype=float32, requires_grad=True)
    """

    __slots__ = ("place",)

    place: Place | None  # where an optimizer likes to find the gradient

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        parameter = super().__new__(cls)
        parameter.place = None
        return parameter

    def __init__(self, data: TensorLike, requires_grad: bool = True, dtype: Any = None) -> None:
        super().__init__(data, requires_grad=requires_grad, dtype=dtype)


class Buffer(Tensor):
    """A tensor that a module keeps but does not learn, such as a running mean; written by `assign` only.

    >>> mean = Buffer([0.0])
    >>> mean.assign([1.5]); mean
    Buffer([1.5], dtype=float32)
    """

    __slots__ = ()

    def assign(self, value: Any) -> None:
        """Take a new value of the same shape: the one recorded side effect. Inside a replay nothing happens.

        Raises ValueError for another shape.
        """
        if state.replaying:
            return
        given = value if isinstance(value, Tensor) else None
        value = value.value if isinstance(value, Tensor) else as_array(value)
        if value.shape != self.value.shape:
            raise ValueError(f"assign: a buffer of shape {self.value.shape} was given a value of shape {value.shape}")
        if state.assigned is not None:
            given = (result(value) if given is None else given.detach()).astype(self.value.dtype)
            before = state.assigned.get(id(self), (None, None, self.value))[2]
            state.assigned[id(self)] = (self, given, before)
        self.value = value.astype(self.value.dtype)
        self.version = tick()


def _rebuild(kind: type[Tensor], value: Any, requires_grad: bool, grad: Any, extra: Any) -> Tensor:
    """A leaf from its parts, for copies and pickles."""
    tensor = kind.__new__(kind)
    tensor.value, tensor.node, tensor.version = value, None, tick()
    tensor.requires_grad, tensor.grad, tensor.extra = requires_grad, grad, extra
    return tensor


def from_dlpack(a: Any) -> Tensor:
    """An array of another library as a Tensor outside any graph, without a copy where it lies in ordinary memory.

    Raises BufferError for an array on a device that NumPy cannot read, TypeError for one of no real numbers.

    >>> from_dlpack(np.array([1.0, 2.0]))
    Tensor([1., 2.], dtype=float64)
    """
    return Tensor(np.from_dlpack(a))


results_are(Tensor)

_UFUNC_METHODS: dict[tuple[np.ufunc, str], Callable[..., Any]] = {
    (np.add, "reduce"): np.sum,
    (np.multiply, "reduce"): np.prod,
    (np.maximum, "reduce"): np.max,
    (np.minimum, "reduce"): np.min,
    (np.logical_and, "reduce"): np.all,
    (np.logical_or, "reduce"): np.any,
    (np.add, "accumulate"): lambda x, axis=0, **k: np.cumsum(x, axis=axis, **k),
    (np.multiply, "accumulate"): lambda x, axis=0, **k: np.cumprod(x, axis=axis, **k),
}
