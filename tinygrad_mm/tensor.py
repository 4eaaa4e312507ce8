"""`Tensor`: a NumPy duck array that remembers how it was made.

Floor 2. Operators take the fast door (`apply`, directly); NumPy's own functions come in by its dispatch protocols
(`__array_ufunc__`, NEP 13, and `__array_function__`, NEP 18) and reach the same `apply`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.backprop import backpropagate
from tinygrad_mm.graph import (
    NO_KWARGS,
    RULES,
    Node,
    Rule,
    Vertex,
    entered,
    name_of,
    select,
    state,
    tick,
)
from tinygrad_mm.methods import ArrayMethods
from tinygrad_mm.rules.indexing import Slot, getitem, index_add, index_multiply, index_set
from tinygrad_mm.rules.shape import astype

__all__ = ["Buffer", "Parameter", "Tensor", "apply", "as_array", "gradients", "no_grad"]

TensorLike: TypeAlias = "Tensor | np.ndarray[Any, Any] | float | int | bool | Sequence[Any]"

_AS_THEY_ARE = frozenset({float, int, bool, np.ndarray, type(None), tuple, str, type})


def as_array(data: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    """An array of `data`: arrays keep their dtype, Python floats become float32, ints int64, bools bool.

    >>> as_array([1.0, 2.0]).dtype, as_array(np.array([1.0])).dtype, as_array(3).dtype
    (dtype('float32'), dtype('float64'), dtype('int64'))
    """
    if isinstance(data, np.ndarray):
        return data if dtype is None else data.astype(dtype, copy=False)
    if isinstance(data, Vertex):
        raise TypeError("this is a Tensor already; use it as it is, or t.detach() to cut it from its graph")
    try:
        array = np.asarray(data, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"the data have no rectangular shape: {error}") from error
    if dtype is not None:
        return array
    first = data
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if isinstance(first, np.ndarray) or array.dtype.kind not in "fi":
        return array
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64, copy=False)


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

    def __init__(self, data: TensorLike, requires_grad: bool = False, dtype: Any = None) -> None:
        if isinstance(data, Tensor):
            if data.node is not None:
                raise TypeError("Tensor(t) would cut t from its graph; say t.detach() if that is what you want")
            data = data.value
        value = as_array(data, dtype)
        if value.dtype.kind not in "fiub":
            raise TypeError(
                f"a Tensor holds real numbers or booleans, not {value.dtype}; complex numbers can be kept as two "
                "Tensors, text as integer codes"
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
        _refuse_while_tracing("t.data")
        return self.value  # type: ignore[no-any-return]

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
        return self.value.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.value.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.value.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.value.size  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        """Bytes the elements take."""
        return self.value.nbytes  # type: ignore[no-any-return]

    @property
    def itemsize(self) -> int:
        """Bytes one element takes."""
        return self.value.itemsize  # type: ignore[no-any-return]

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
        _refuse_while_tracing("t.item()")
        return self.value.item()  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers."""
        _refuse_while_tracing("t.tolist()")
        return self.value.tolist()

    def numpy(self) -> np.ndarray[Any, Any]:
        """The array, for a tensor that requires no gradient; otherwise raises and names `detach()`."""
        return self.__array__()

    def detach(self) -> Tensor:
        """The same array as a tensor outside the graph."""
        return _result(self.value)

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
        with entered(recording=False):
            backpropagate([self], [_seed(self, gradient)], _accumulate, release=not retain_graph)

    def retain_grad(self) -> Tensor:
        """Keep this computed tensor's gradient in `.grad` when a backward pass goes through it."""
        if not self.requires_grad:
            raise RuntimeError("this tensor does not require a gradient, so there will be none to retain")
        if self.node is not None and not (self.extra or {}).get("retain_grad"):
            self._set_extra("retain_grad", True)
            self.register_hook(lambda g: setattr(self_reference(), "grad", g))
            import weakref  # the hook must not keep its own tensor alive

            self_reference = weakref.ref(self)
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

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if kwargs.get("out", (None,)) != (None,):
            raise TypeError(
                f"{name_of(ufunc)}: out= would write into an array outside the graph; use the returned Tensor instead "
                "(for a += b with an array a: a = a + b)"
            )
        kwargs.pop("out", None)
        if method == "__call__":
            return _call(ufunc, inputs, kwargs)
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
        return _call(func, args, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        _refuse_while_tracing("np.asarray(t)")
        if self.requires_grad:
            raise TypeError(
                "converting a Tensor that requires grad to an array would lose its gradient silently; "
                "say t.detach() to leave the graph, or t.data for the array itself"
            )
        if copy is None and (dtype is None or np.dtype(dtype) == self.value.dtype):
            return self.value  # type: ignore[no-any-return]
        return np.array(self.value, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
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
        _refuse_while_tracing("bool(t) (an if or while on a tensor)")
        return bool(self.value)

    def __float__(self) -> float:
        _refuse_while_tracing("float(t)")
        return float(self.value)

    def __int__(self) -> int:
        _refuse_while_tracing("int(t)")
        return int(self.value)

    def __index__(self) -> int:
        _refuse_while_tracing("a tensor as a Python index")
        return self.value.__index__()  # type: ignore[no-any-return]

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self.node is not None:
            raise RuntimeError("only leaves can be deep-copied; use t.detach() to cut a computed tensor loose")
        return self._leaf_like(self.value.copy(), memo)

    def __reduce__(self) -> Any:
        if self.node is not None:
            raise TypeError("only leaves can be pickled: a graph belongs to the process that made it; use t.detach()")
        return _rebuild, (type(self), self.value, self.requires_grad, self.grad, self.extra)

    def _leaf_like(self, value: Any, memo: dict[int, Any]) -> Tensor:
        grad = None if self.grad is None else self.grad.copy()
        copy = _rebuild(type(self), value, self.requires_grad, grad, dict(self.extra) if self.extra else None)
        memo[id(self)] = copy
        return copy

    # -- operators: the fast door

    __hash__ = object.__hash__  # tensors are compared by identity in sets and dicts, elementwise by ==

    def __getitem__(self, key: Any) -> Tensor:
        key, tensors = _index(key)
        return apply(getitem, (self, key, *tensors))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "assigning into a Tensor would change an array that the graph may need; "
            "use the functional update x = x.at[index].set(value)"
        )

    def __matmul__(self, other: Any) -> Tensor:
        return apply(np.matmul, (self, _operand(other)))

    def __rmatmul__(self, other: Any) -> Tensor:
        return apply(np.matmul, (_operand(other), self))

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

    def __round__(self, digits: int = 0) -> Tensor:
        return np.round(self, digits)  # type: ignore[call-overload, no-any-return]


def _operators() -> None:
    """Give Tensor its binary operators, each the NumPy function of that name."""

    def forward(fun: np.ufunc) -> Callable[[Tensor, Any], Tensor]:
        def operator(self: Tensor, other: Any) -> Tensor:
            if isinstance(other, Tensor) or type(other) in _AS_THEY_ARE:
                return apply(fun, (self, other))
            return NotImplemented if _foreign(other) else apply(fun, (self, _operand(other)))

        return operator

    def reflected(fun: np.ufunc) -> Callable[[Tensor, Any], Tensor]:
        def operator(self: Tensor, other: Any) -> Tensor:
            return NotImplemented if _foreign(other) else apply(fun, (_operand(other), self))

        return operator

    arithmetic = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "pow": np.power,
        "mod": np.remainder, "floordiv": np.floor_divide, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift,
    }  # fmt: skip
    comparisons = {
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal
    }  # fmt: skip
    for name, fun in arithmetic.items():
        setattr(Tensor, f"__{name}__", forward(fun))
        setattr(Tensor, f"__r{name}__", reflected(fun))
    for name, fun in comparisons.items():
        setattr(Tensor, f"__{name}__", forward(fun))


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that requires a gradient.

    >>> Parameter([0.0, 0.0])
    Parameter([0., 0.], dtype=float32, requires_grad=True)
    """

    __slots__ = ()

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
        value = value.value if isinstance(value, Tensor) else as_array(value)
        if value.shape != self.value.shape:
            raise ValueError(f"assign: a buffer of shape {self.value.shape} was given a value of shape {value.shape}")
        self.value = value.astype(self.value.dtype)
        self.version = tick()


class At:
    """`x.at[index]`: functional updates of the elements at an index, each returning a new tensor."""

    __slots__ = ("key", "tensor", "tensors")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __getitem__(self, key: Any) -> At:
        self.key, self.tensors = _index(key)
        return self

    def set(self, value: Any) -> Tensor:
        """`value` at the index; where an element is named twice the last one stays.

        >>> Tensor([1.0, 2.0]).at[0].set(5.0)
        Tensor([5., 2.], dtype=float32)
        """
        return apply(index_set, (self.tensor, _operand(value), self.key, *self.tensors))

    def add(self, value: Any) -> Tensor:
        """The elements plus `value`; where an element is named twice both are added.

        >>> Tensor([1.0, 2.0]).at[[0, 0]].add(5.0)
        Tensor([11.,  2.], dtype=float32)
        """
        return apply(index_add, (self.tensor, _operand(value), self.key, *self.tensors))

    def multiply(self, value: Any) -> Tensor:
        """The elements times `value`; where an element is named twice both factors count.

        >>> Tensor([1.0, 2.0]).at[1].multiply(5.0)
        Tensor([ 1., 10.], dtype=float32)
        """
        return apply(index_multiply, (self.tensor, _operand(value), self.key, *self.tensors))


# ---------------------------------------------------------------------------------------------------------------------
# Recording
# ---------------------------------------------------------------------------------------------------------------------


def apply(fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] = NO_KWARGS) -> Any:
    """Call `fun` on the arrays behind the arguments and record the call: the heart of the engine.

    Arguments are in normal form: Tensors, arrays, and Python values, no Tensor hidden in a container.
    """
    rule = RULES[fun]
    values = []
    needed = False
    for a in args:
        if isinstance(a, Vertex):
            values.append(a.value)
            if a.requires_grad:
                needed = True
        else:
            values.append(a)
    try:
        value = rule.forward(*values, **kwargs)
    except Exception as error:
        raise _explained(error, fun, values, kwargs) from error
    tensor = _result(value)
    if (needed and state.recording) or state.tracing:
        tensor.node = Node(fun, args, kwargs, state.scope, _caller() if state.lines else None)
        tensor.requires_grad = (
            needed and rule.differentiable and (type(tensor.value) is tuple or tensor.value.dtype.kind == "f")
        )
    if state.monitor is not None:
        state.monitor.result(tensor, fun, args, kwargs)
    if type(tensor.value) is tuple:
        outputs = [apply(select, (tensor, i)) for i in range(len(tensor.value))]
        return type(value)(*outputs) if hasattr(value, "_fields") else type(value)(outputs)
    return tensor


def _result(value: Any) -> Tensor:
    tensor = _new(Tensor)
    if type(value) is not np.ndarray:
        value = tuple(value) if isinstance(value, (tuple, list)) else np.asarray(value)
    tensor.value = value
    tensor.node = None
    tensor.requires_grad = False
    tensor.grad = None
    tensor.extra = None
    tensor.version = tick()
    return tensor


_new = Tensor.__new__


def _call(fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """NumPy's door: bring a call into normal form, then apply it."""
    rule = RULES.get(fun)
    if rule is None:
        raise TypeError(
            f"{_qualified(fun)} has no derivative rule. Register one with tg.defvjp or write it as an expression of "
            "functions that have rules with tg.defcomposite; or pass t.detach().data if no gradient is needed"
        )
    if kwargs.get("out") is not None:
        raise TypeError(f"{_qualified(fun)}: out= would write into an array outside the graph; use the returned Tensor")
    if rule.metadata:
        return fun(*_plain(args), **_plain(kwargs))
    if not rule.differentiable:
        if state.tracing and _hidden(args, kwargs):
            raise TypeError(f"{_qualified(fun)}: a Tensor inside a container or keyword cannot be traced")
        return apply(fun, tuple(map(_top, args)), _plain(kwargs))
    if rule.each is None and not rule.vjps:
        assert rule.composite is not None
        return rule.composite(*args, **kwargs)
    if rule.each is not None:
        return apply(fun, tuple(map(_operand, args)), kwargs)
    arity = len(rule.vjps)
    if len(args) > arity or kwargs:
        kwargs = {**dict(zip(rule.names[arity:], args[arity:], strict=False)), **kwargs}
        args = list(args[:arity])
        while len(args) < arity and len(args) < len(rule.names) and rule.names[len(args)] in kwargs:
            args.append(kwargs.pop(rule.names[len(args)]))
        unknown = [name for name in kwargs if name not in rule.names]
        if unknown or any(isinstance(v, Vertex) for v in kwargs.values()):
            if rule.composite is not None:
                return rule.composite(*args, **kwargs)
            raise TypeError(
                f"{_qualified(fun)}: the option {(unknown or list(kwargs))[0]}= is not supported on Tensors; "
                f"supported are {', '.join(rule.names)}"
            )
    return apply(fun, tuple(map(_operand, args)), kwargs)


def _top(a: Any) -> Any:
    """Arguments of a function without gradient: Tensors stay, Tensors inside containers become arrays."""
    return a if isinstance(a, Vertex) else _plain(a)


def _operand(a: Any) -> Any:
    """An operand in normal form: NumPy scalars become Python scalars (weak), sequences become arrays."""
    if isinstance(a, Vertex) or type(a) in _AS_THEY_ARE:
        return a
    if isinstance(a, np.generic):
        return a.item()
    return as_array(a) if isinstance(a, list) else a


def _plain(a: Any) -> Any:
    """The same structure with arrays in place of Tensors."""
    if isinstance(a, Vertex):
        return a.value
    if isinstance(a, (list, tuple)) and not hasattr(a, "_fields"):
        return type(a)(map(_plain, a))
    return {k: _plain(v) for k, v in a.items()} if isinstance(a, dict) else a


def _hidden(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return any(isinstance(v, Vertex) for v in kwargs.values()) or any(
        isinstance(a, (list, tuple)) and any(isinstance(x, Vertex) for x in a) for a in args
    )


def _foreign(other: Any) -> bool:
    """Whether an operand should be given the chance to handle the operation itself."""
    return not isinstance(other, (Tensor, np.ndarray, np.generic, float, int, list, tuple))


def _index(key: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """An index in normal form: Tensors taken out, a numbered Slot left in each one's place."""
    tensors: list[Tensor] = []

    def replace(part: Any) -> Any:
        if isinstance(part, Tensor):
            tensors.append(part)
            return Slot(len(tensors) - 1)
        return part

    key = tuple(map(replace, key)) if isinstance(key, tuple) else replace(key)
    return key, tuple(tensors)


def _refuse_while_tracing(what: str) -> None:
    if state.tracing:
        raise TypeError(
            f"{what} would bake one value into a function that is being traced; "
            "keep the computation in Tensors (np.where instead of if), or move it outside the traced function"
        )


def _caller() -> tuple[str, int]:
    """The innermost source line outside this package and NumPy."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(("tinygrad_mm", "numpy", "contextlib")):
            break
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _qualified(fun: Callable[..., Any]) -> str:
    module = getattr(fun, "__module__", None) or ("numpy" if isinstance(fun, np.ufunc) else "")
    return f"{module}.{name_of(fun)}".lstrip(".").replace("numpy.", "np.", 1)


def _explained(error: Exception, fun: Callable[..., Any], values: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception:
    """The same kind of error with the operation, the shapes and the dtypes in its message."""
    described = [f"{v.shape} {v.dtype}" if isinstance(v, np.ndarray) else repr(v)[:60] for v in values]
    options = "".join(f", {k}={v!r}"[:80] for k, v in kwargs.items())
    message = f"{name_of(fun)}({', '.join(described)}{options}): {error}"
    arrays = [v for v in values if isinstance(v, np.ndarray)]
    if fun is np.matmul and len(arrays) == 2 and min(a.ndim for a in arrays) >= 1:
        a, b = (v.shape for v in arrays)
        inner = a[-1], b[-2] if len(b) > 1 else b[0]
        if inner[0] != inner[1]:
            message = f"matmul: {a} @ {b}: the inner sizes {inner[0]} and {inner[1]} differ"
    elif isinstance(fun, np.ufunc) and len(arrays) == 2 and isinstance(error, ValueError):
        message = f"{name_of(fun)}: shapes {arrays[0].shape} and {arrays[1].shape} do not broadcast together"
    kind = type(error) if type(error).__module__ == "builtins" or isinstance(error, np.linalg.LinAlgError) else None
    if kind is None or issubclass(kind, (UnicodeError, OSError)):
        kind = next((k for k in (TypeError, IndexError, ValueError) if isinstance(error, k)), None)
    return kind(message) if kind else error


def _rebuild(kind: type[Tensor], value: Any, requires_grad: bool, grad: Any, extra: Any) -> Tensor:
    tensor = _result(value)
    if kind is not Tensor:
        new = _new(kind)
        for slot in ("value", "node", "version"):
            setattr(new, slot, getattr(tensor, slot))
        tensor = new
    tensor.requires_grad, tensor.grad, tensor.extra = requires_grad, grad, extra
    return tensor


_operators()

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


# ---------------------------------------------------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------------------------------------------------


def no_grad() -> AbstractContextManager[None]:
    """Compute without recording, in this thread; as a `with` block or a decorator.

    >>> w = Tensor([1.0], requires_grad=True)
    >>> with no_grad():
    ...     y = w * 2
    >>> y.requires_grad
    False
    """
    return entered(recording=False)


def gradients(
    y: Tensor | Sequence[Tensor],
    xs: Tensor | Sequence[Tensor],
    gradient: Any = None,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """The gradients of `y` with respect to each of `xs`, as Tensors; `.grad` is left alone.

    `xs` may be one tensor (one gradient is returned) or a sequence of leaves or computed tensors (a tuple). `gradient`
    weighs the elements of a `y` that is not a single number; `y` may be a sequence, and `gradient` then one too. With
    `create_graph` the backward pass is recorded, so that its result can be differentiated again. The graph is released
    unless `retain_graph` (by default as `create_graph`). An `x` that `y` does not use raises RuntimeError, or gives
    None with `allow_unused`.

    >>> x = Tensor(3.0, requires_grad=True)
    >>> first = gradients(x * x * x, x, create_graph=True)
    >>> gradients(first, x)
    Tensor(18., dtype=float32)
    """
    many = not isinstance(y, Tensor)
    ys: list[Tensor] = list(y) if many else [y]  # type: ignore[list-item, arg-type]
    weights = [None] * len(ys) if gradient is None else list(gradient) if many else [gradient]
    if len(weights) != len(ys):
        raise ValueError(f"gradients: {len(ys)} outputs were given {len(weights)} gradients; one each is needed")
    targets: list[Tensor] = [xs] if isinstance(xs, Tensor) else list(xs)
    for i, x in enumerate(targets):
        if not isinstance(x, Tensor):
            raise TypeError(f"gradients: xs[{i}] is a {type(x).__name__}; gradients are taken with respect to Tensors")
        if not x.requires_grad and not allow_unused:
            raise RuntimeError(f"gradients: xs[{i}] does not require a gradient; set requires_grad=True before using it")
    found: dict[int, Any] = {}
    retain = create_graph if retain_graph is None else retain_graph
    with entered(recording=create_graph, scope=state.scope):
        backpropagate(
            ys,
            [_seed(one, weight, allow_unused, create_graph) for one, weight in zip(ys, weights, strict=True)],
            lambda x, g, owned: found.__setitem__(id(x), g),
            targets=targets,
            recorded=create_graph,
            release=not retain,
        )
    results = []
    for i, x in enumerate(targets):
        g = found.get(id(x))
        if g is None and not allow_unused:
            raise RuntimeError(
                f"gradients: y does not depend on xs[{i}] (shape {x.shape}); "
                "pass allow_unused=True to get None for it"
            )
        results.append(g if g is None or isinstance(g, Tensor) else _result(g))
    return results[0] if isinstance(xs, Tensor) else tuple(results)


def _seed(y: Tensor, gradient: Any, unused: bool = False, recorded: bool = False) -> Any:
    """The gradient that a backward pass starts from."""
    if not y.requires_grad and not unused:
        raise RuntimeError(
            "backward: this tensor has no graph behind it. None of its inputs has requires_grad=True, or it was "
            "computed under no_grad(), or a function without gradient (a comparison, argmax, detach) cut it off"
        )
    if gradient is None:
        if y.value.size != 1:
            raise RuntimeError(
                f"backward: the output has shape {y.shape}; reduce it to one number (np.sum, np.mean), "
                "or pass gradient= of that shape"
            )
        return np.ones_like(y.value)
    given = gradient if recorded and isinstance(gradient, Tensor) else None
    if given is None:
        given = gradient.value if isinstance(gradient, Tensor) else as_array(gradient)
    if given.shape != y.shape:
        raise ValueError(f"backward: gradient has shape {given.shape}, the output {y.shape}; they must be equal")
    return given if given.dtype == y.dtype else given.astype(y.dtype)


def _accumulate(leaf: Vertex, g: Any, owned: bool) -> None:
    """Add a gradient to `leaf.grad`, copying only what someone else holds."""
    if leaf.grad is None:
        leaf.grad = g if owned and type(g) is np.ndarray else np.array(g)
    else:
        leaf.grad = leaf.grad + g if leaf.grad.ndim == 0 else np.add(leaf.grad, g, out=leaf.grad)
