"""`Tensor`: a NumPy duck array that remembers how it was made.

Floor 3 (it imports lower floors only). Operators, NumPy's functions (by `__array_ufunc__`, NEP 13, and
`__array_function__`, NEP 18) and our own all end in `apply`: it calls the function on arrays, and records the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinygrad_mm.array_methods import ArrayMethods
from tinygrad_mm.arrays import as_array, index_arrays, is_foreign_array
from tinygrad_mm.at import At
from tinygrad_mm.backprop import accumulate, backpropagate, seed
from tinygrad_mm.dispatch import in_normal_form, normal_form, plain, rule_of
from tinygrad_mm.errors import caller, explained, leaving, qualified, refuse_while_tracing
from tinygrad_mm.graph import NO_KWARGS, RULES, Node, Vertex, entered, name_of, select, state, tick
from tinygrad_mm.memory import keep_freed_memory
from tinygrad_mm.rules.elementwise import stop_gradient
from tinygrad_mm.rules.folds import ufunc_method
from tinygrad_mm.rules.indexing import getitem, without_tensors

__all__ = ["Buffer", "Parameter", "Tensor", "apply", "from_dlpack", "result"]

TensorLike: TypeAlias = "Tensor | np.ndarray[Any, Any] | float | int | bool | Sequence[Any]"
ITSELF = "use t itself (t.copy(), t.astype(dtype))"

# ---------------------------------------------------------------------------------------------------------------------
# A call and its record
# ---------------------------------------------------------------------------------------------------------------------


def apply(fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] = NO_KWARGS) -> Any:
    """Call `fun` on the arrays behind the arguments and record the call: the heart of the engine.

    Arguments are in normal form: Tensors, arrays, and Python values, no Tensor hidden in a container. The result is a
    Tensor, or Tensors in a container where the function returns several arrays.
    """
    rule = RULES[fun]
    values, needed = [], False
    for a in args:
        values.append(a.value if isinstance(a, Vertex) else a)
        needed = needed or (isinstance(a, Vertex) and a.requires_grad)
    try:
        value = rule.forward(*values, **kwargs)
    except Exception as error:
        raise explained(error, fun, values, kwargs) from error
    y = result(value)
    needed = needed and state.recording
    if needed or state.tracing or state.complete:
        line = caller() if state.lines else None
        y.node = Node(fun, _as_assigned(args) if state.assigned else args, kwargs, state.scope, line)
        several = isinstance(y.value, tuple)
        y.requires_grad = needed and rule.differentiable and (several or y.value.dtype.kind == "f")
    if state.monitor is not None:
        state.monitor.result(y, fun, args, kwargs)
    return _outputs(y, value) if isinstance(y.value, tuple) else y


def result(value: Any) -> Tensor:
    """An array, or a tuple of them, as a Tensor outside any graph."""
    y = Tensor.__new__(Tensor)
    if type(value) is not np.ndarray:
        value = tuple(value) if isinstance(value, (tuple, list)) else np.asarray(value)
    Vertex.__init__(y, value)
    return y


def _outputs(y: Tensor, returned: Any) -> Any:
    """Each output of a call that returned several, in a container of the kind that the call returned."""
    outputs = [apply(select, (y, i)) for i in range(len(y.value))]
    return type(returned)(*outputs) if hasattr(returned, "_fields") else type(returned)(outputs)


def _as_assigned(args: Sequence[Any]) -> tuple[Any, ...]:
    """While tracing, later calls read the value that was assigned to a buffer instead of the buffer."""
    assigned = state.assigned or {}
    return tuple(assigned[id(a)][1] if id(a) in assigned else a for a in args)


def _call(fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] = NO_KWARGS) -> Any:
    """Record a call as NumPy hands it over; or, of a function defined by an expression, the calls that this makes."""
    if not kwargs and in_normal_form(fun, args):
        return apply(fun, args)
    rule = rule_of(fun, args, kwargs)
    if rule.metadata:
        if fun in _LOOK_AT_VALUES:
            refuse_while_tracing(qualified(fun))
        return fun(*plain(args), **plain(kwargs))
    expression, args, kwargs = normal_form(rule, args, kwargs)
    return apply(fun, args, kwargs) if expression is None else expression(*args, **kwargs)


# Functions of `defmetadata` that look at values, too.
_LOOK_AT_VALUES = frozenset({np.array_equal, np.array_equiv, np.allclose, np.min_scalar_type})


def _operators(fun: np.ufunc) -> tuple[Callable[[Any, Any], Tensor], Callable[[Any, Any], Tensor]]:
    """`a fun b` and its reflected form; for an object of unknown type NotImplemented, so that Python asks that one."""

    def operator(self: Any, other: Any) -> Any:
        known = isinstance(other, _OPERANDS) or is_foreign_array(other)
        return _call(fun, (self, other)) if known else NotImplemented

    def reflected(self: Any, other: Any) -> Any:
        known = isinstance(other, _OPERANDS) or is_foreign_array(other)
        return _call(fun, (other, self)) if known else NotImplemented

    return operator, reflected


def _augmented(symbol: str) -> Callable[[Any, Any], Any]:
    """`w -= ...` binds w to a new tensor, as for any object without in-place operators; for a parameter it raises.

    There it would look like an update, and leave the parameter of the model as it is.
    """

    def operator(self: Any, other: Any) -> Any:
        updated = isinstance(self, Parameter) or self.grad is not None or not state.recording
        if self.node is None and self.requires_grad and updated:
            raise TypeError(
                f"w {symbol} ... of a parameter would bind the name w to a new tensor, and leave the parameter as it "
                f"is; write w.data {symbol} ... to update it"
            )
        return NotImplemented

    return operator


_OPERANDS = (Vertex, np.ndarray, np.generic, float, int, list, tuple)


# ---------------------------------------------------------------------------------------------------------------------
# Tensor
# ---------------------------------------------------------------------------------------------------------------------


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
            if state.tracing:  # a recorded copy, so that no value is baked in
                data = data.detach() if dtype is None else data.detach().astype(dtype)
                super().__init__(data.value, data.node, requires_grad)
                return
            leaving(data.requires_grad, "Tensor(t)", ITSELF)
            if data.node is not None:
                raise TypeError("Tensor(t) would cut t from its graph; say t.detach() if that is what you want")
            data = data.value
        value = as_array(data, dtype)
        if value.dtype.kind not in "fiub":
            raise TypeError(
                f"a Tensor holds real numbers or booleans, not {value.dtype}; complex numbers can be kept as two "
                "Tensors, text as integer codes, numbers among objects by a.astype(np.float64)"
            )
        super().__init__(value)
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
        self.extra = {**(self.extra or {}), key: value}

    def detach(self) -> Tensor:
        """The same array as a tensor outside the graph."""
        return apply(stop_gradient, (self,)) if state.tracing else result(self.value)

    # -- the graph

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf that requires a gradient.

        `gradient` is that of the loss with respect to this tensor, of the same shape; None means 1, for a loss. The
        graph is released on the way, and cannot be used again, unless `retain_graph`.

        Raises RuntimeError where there is no graph, where it was released, where a parameter has changed since the
        forward pass, or where a tensor of several numbers needs a `gradient`; ValueError for one of another shape.

        >>> w = Tensor(3.0, requires_grad=True)
        >>> (w * w).backward()
        >>> w.grad
        array(6., dtype=float32)
        """
        refuse_while_tracing("t.backward(), which writes to .grad,")
        keep_freed_memory()
        with entered(recording=False):
            found = backpropagate([self], [plain(seed(self, gradient))], release=not retain_graph)
        for leaf, g in found.items():
            accumulate(leaf, g)

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
        if any(a is not None for a in kwargs.pop("out", ())):
            raise TypeError(
                f"{name_of(ufunc)}: out= would write into an array outside the graph; use the returned Tensor instead "
                "(for a += b with an array a: a = a + b)"
            )
        if method == "__call__":
            return _call(ufunc, inputs, kwargs)
        return ufunc_method(ufunc, method, *inputs, **kwargs)

    def __array_function__(self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        return _call(func, args, kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        refuse_while_tracing("np.asarray(t)")
        if self.requires_grad:
            raise TypeError(
                "converting a Tensor that requires grad to an array would lose its gradient silently; "
                "say t.detach() to leave the graph, t.data for the array itself, or np.stack([...]) to make one Tensor "
                "of several (of SciPy, ufuncs take Tensors and other functions convert: write NumPy's, or tg.logsumexp"
                ", tg.softmax, ...; so does pandas' df @ t: write tg.Tensor(df) @ t)"
            )
        if copy is None and (dtype is None or np.dtype(dtype) == self.value.dtype):
            return self.value
        return np.array(self.value, dtype=dtype, copy=copy)

    def numpy(self) -> np.ndarray[Any, Any]:
        """The array, for a tensor that requires no gradient; otherwise raises and names `detach()`."""
        return self.__array__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        leaving(self.requires_grad, "copy.deepcopy(t)", ITSELF)
        if self.node is not None:
            raise RuntimeError("only leaves can be deep-copied; use t.detach() to cut a computed tensor loose")
        return self._leaf_like(self.value.copy(), memo)

    def __copy__(self) -> Tensor:
        if self.node is not None or state.transforming:
            return self.copy()
        kind, parts = self.__reduce__()
        return kind(*parts)

    def __reduce__(self) -> Any:
        leaving(self.requires_grad, "pickle.dumps(t)", ITSELF)
        if self.node is not None:
            raise TypeError("only leaves can be pickled: a graph belongs to the process that made it; use t.detach()")
        return _rebuild, (type(self), self.value, self.requires_grad, self.grad, self._extra_of_a_copy())

    def _leaf_like(self, value: Any, memo: dict[int, Any]) -> Tensor:
        grad = None if self.grad is None else self.grad.copy()
        memo[id(self)] = copy = _rebuild(type(self), value, self.requires_grad, grad, self._extra_of_a_copy())
        return copy

    def _extra_of_a_copy(self) -> dict[str, Any] | None:
        """What a copy has besides the array: hooks stay with the original, as those of modules do."""
        return {key: value for key, value in (self.extra or {}).items() if key != "hooks"} or None

    # -- operators

    __hash__ = object.__hash__  # tensors are compared by identity in sets and dicts, elementwise by ==

    def __getitem__(self, key: Any) -> Tensor:
        key, tensors = without_tensors(index_arrays(key))
        return apply(getitem, (self, key, *tensors))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "assigning into a Tensor would change an array that the graph may need; "
            "use the functional update x = x.at[index].set(value)"
        )

    # fmt: off
    __add__,      __radd__      = _operators(np.add)
    __sub__,      __rsub__      = _operators(np.subtract)
    __mul__,      __rmul__      = _operators(np.multiply)
    __truediv__,  __rtruediv__  = _operators(np.divide)
    __pow__,      __rpow__      = _operators(np.power)
    __matmul__,   __rmatmul__   = _operators(np.matmul)
    __mod__,      __rmod__      = _operators(np.remainder)
    __floordiv__, __rfloordiv__ = _operators(np.floor_divide)
    __and__,      __rand__      = _operators(np.bitwise_and)
    __or__,       __ror__       = _operators(np.bitwise_or)
    __xor__,      __rxor__      = _operators(np.bitwise_xor)
    __lshift__,   __rlshift__   = _operators(np.left_shift)
    __rshift__,   __rrshift__   = _operators(np.right_shift)
    __lt__,       __gt__        = _operators(np.less)[0], _operators(np.greater)[0]
    __le__,       __ge__        = _operators(np.less_equal)[0], _operators(np.greater_equal)[0]
    # fmt: on
    if TYPE_CHECKING:  # else these would be object's, which return bool

        def __eq__(self, other: object, /) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object, /) -> Tensor: ...  # type: ignore[override]
    else:
        __eq__, _ = _operators(np.equal)
        __ne__, _ = _operators(np.not_equal)

    __iadd__, __isub__, __imul__, __itruediv__ = map(_augmented, ("+=", "-=", "*=", "/="))


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that requires a gradient. Raises as `Tensor` does.

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
    Vertex.__init__(tensor, value, None, requires_grad)
    tensor.grad, tensor.extra = grad, extra
    return tensor


def from_dlpack(a: Any) -> Tensor:
    """An array of another library as a Tensor outside any graph, without a copy where it lies in ordinary memory.

    Raises BufferError for an array on a device that NumPy cannot read, TypeError for one of no real numbers.

    >>> from_dlpack(np.array([1.0, 2.0]))
    Tensor([1., 2.], dtype=float64)
    """
    return Tensor(np.from_dlpack(a))
