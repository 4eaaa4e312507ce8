"""Dense layers in one go: `activation(x @ weight + bias)`, once or several times in a row, recorded as the calls it is.

On small arrays the way from call to call takes longer than the arithmetic. So the calls of the commonest layers are
made here one after the other, without the doors in between, with one record for all, and a plain backward pass takes
them at once. Whoever looks at the graph, or at the pass, sees three calls of each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.constants import ones
from tinygrad_mm.graph import NO_KWARGS, RULES, Joint, Node, Scope, thread, tick
from tinygrad_mm.memory import Place
from tinygrad_mm.rules import products
from tinygrad_mm.tensor import Buffer, Parameter, Tensor

__all__ = ["dense_at_once", "in_a_row"]

ndarray = np.ndarray  # found sooner than in its module
_new_node = Node.__new__
_new_tensor = Tensor.__new__

# What is known of a layer that was called: the result, and when it was made; the last function; what a Scope tells of
# the layer, where it stands in a row; weight and bias; the arrays of input, weight and bias; when product and sum were
# made; the sum, where the rule of the activation asks for it; whether the result is turned. The product and the other
# sums would take two thirds of the memory, and hardly anybody looks; whoever does gets what the arrays give then.
_Called: TypeAlias = tuple[Any, int, Any, Any, Tensor, Tensor, Any, Any, Any, int, int, Any, bool]

# Between large layers, results are turned: the examples of a feature lie side by side in memory. Products of a layer
# with its weight, above all the one on the way back, are quicker then (OpenBLAS 0.3.31).


def dense_at_once(
    x: Tensor, weight: Tensor, bias: Tensor, activation: Callable[[Any], Any] | None = None
) -> Tensor | None:
    """activation(x @ weight + bias) in the usual case: rows of a batch, trained, and nobody watches; else None.

    Shape: (n, k), (k, m), (m,) -> (n, m)

    >>> weight, bias = Tensor([[1.0], [1.0]], requires_grad=True), Tensor([0.5], requires_grad=True)
    >>> dense_at_once(Tensor([[1.0, 2.5]]), weight, bias, np.sqrt)
    Tensor([[2.]], dtype=float32, requires_grad=True, made by sqrt)
    """
    now = thread.now
    if now.watched or not now.recording or type(x) not in _PLAIN:
        return None
    layer = _called(x.value, weight, bias, activation)
    return None if layer is None else _joined(x, (layer,), now.scope)


def in_a_row(x: Any, layers: Iterable[tuple[Any, Any, Any, tuple[object, str]]]) -> tuple[Any, int]:
    """What comes out of as many of the layers as can be called at once, and how many that are.

    A layer is its weight, bias and activation, and what a Scope tells of it. Shape: (n, k) -> (n, m)

    >>> weight, bias = Tensor([[1.0], [1.0]], requires_grad=True), Tensor([0.5], requires_grad=True)
    >>> layer = weight, bias, np.sqrt, (object(), "Dense")
    >>> in_a_row(Tensor([[1.0, 2.5]]), [layer, layer])
    (Tensor([[2.]], dtype=float32, requires_grad=True, made by sqrt), 1)
    """
    now = thread.now
    if now.watched or not now.recording or type(x) not in _PLAIN:
        return x, 0
    a, found, row = x.value, [], list(layers)
    for i, (weight, bias, activation, about) in enumerate(row, 1):
        layer = _called(a, weight, bias, activation, about, i < len(row))
        if layer is None:
            break
        found.append(layer)
        a = layer[0]
    if not found:
        return x, 0
    token, label = found[-1][3]
    return _joined(x, found, Scope(token, label, now.scope)), len(found)


def _called(
    a: Any,
    weight: Any,
    bias: Any,
    activation: Any,
    about: tuple[object, str] | None = None,
    inside: bool = False,
) -> _Called | None:
    """A layer called on an array, in the usual case; else None. Inside a row, its result may be turned."""
    if type(weight) not in _PLAIN or type(bias) not in _PLAIN:
        return None
    w, b = weight.value, bias.value
    dtype = w.dtype
    if not weight.requires_grad or not bias.requires_grad or a.dtype is not dtype or b.dtype is not dtype:
        return None
    if a.ndim != 2 or w.ndim != 2 or b.shape != w.shape[1:]:
        return None
    if type(a) is not ndarray or type(w) is not ndarray or type(b) is not ndarray:
        return None
    rule: Any = _ADD if activation is None else RULES.get(activation)
    if rule is None or not rule.fresh:
        return None
    total: Any = None
    try:
        if activation is not None and rule.over is None and (rule.keeping is not None or len(rule.vjps) != 1):
            return None
        turned = inside and a.size * b.size > products.LARGE and (activation is None or rule.over is not None)
        value = w.T.dot(a.T) if turned else a.dot(w)
        value += b[:, None] if turned else b
        if activation is None:
            pass
        elif rule.over is not None:
            value = rule.over(value)
        else:
            total = value
            value = rule.forward(total)
            if type(value) is not ndarray or value.shape != total.shape or value.dtype is not dtype:
                return None
    except Exception:  # the calls themselves say what is wrong
        return None
    first, second = tick(), tick()
    return value.T if turned else value, tick(), rule.fun, about, weight, bias, a, w, b, first, second, total, turned


def _joined(x: Tensor, layers: Sequence[_Called], scope: Scope | None) -> Tensor:
    """The result of layers that were called one after the other, beginning with x, and one record for all of them."""
    last = layers[-1]
    y = _new_tensor(Tensor)
    y.value = last[0]
    y.grad = y.extra = None
    y.requires_grad = True
    y.version = last[1]
    y.node = node = _new_node(_Dense)
    node.fun = last[2]
    node.kwargs = NO_KWARGS
    node.scope = scope
    node.line = node.kept = None
    node.folded = x, layers
    return y


class _Dense(Joint):
    """The record of layers in a row: of the last one's activation, or of its addition where it has none."""

    __slots__ = ()

    def unfolded(self, x: Any, layers: Any) -> tuple[Any, ...]:
        """The arguments of the last call, with the records of the calls before it."""
        *before, (_, _, fun, _, weight, bias, a, w, b, first, second, total, turned) = layers
        if before:
            token, label = before[-1][3]
            x = _joined(x, before, Scope(token, label, None if self.scope is None else self.scope.parent))
        with np.errstate(all="ignore"):  # it was said when the layer was called
            product = w.T.dot(a.T).T if turned else a.dot(w)
            args = _recorded(np.matmul, (x, weight), product, first, self.scope), bias
            if fun is np.add:
                return args
            return (_recorded(np.add, args, product + b if total is None else total, second, self.scope),)

    def back(self, gradient: Any, result: Any) -> list[tuple[Any, Any]] | None:
        """The gradients of biases, weights and x, where nothing has been changed since, neither they nor the rules."""
        folded = self.folded
        if folded is None or not (_MATMUL.fresh and _ADD.fresh):
            return None
        x, layers = folded
        g, found, dtype, left = gradient, [], result.value.dtype, len(layers)
        row = ones(len(g), dtype)
        for value, _, fun, _, weight, bias, a, w, b, first, _, total, _ in reversed(layers):
            left -= 1
            rule = RULES[fun]
            if weight.version > first or bias.version > first or not rule.fresh:
                return None
            if not left and x.version > first:
                return None
            if rule is not _ADD:
                vjp: Any = rule.vjps[0]
                g = vjp(g, value, total)
            if g.dtype is not dtype:
                g = g.astype(dtype)
            if bias.requires_grad:
                found.append((bias, _product(row, g, bias.place, b)))
            before = None
            if left and layers[left - 1][12]:
                before = w.dot(g.T).T  # turned, as the result is
            elif left or x.requires_grad:
                before = _times_transposed(g, w)
            if not left and before is not None:
                found.append((x, before))
            if weight.requires_grad:
                found.append((weight, _product(a.T, g, weight.place, w)))
            g = before
        return found


def _product(a: Any, b: Any, place: Place | None, value: Any) -> Any:
    """The product a @ b, a gradient of a parameter with this value: where the optimizer wants it, if that is free."""
    try:
        return a.dot(b, None if place is None else place.free(value))
    except ValueError:  # somebody made the array at that place read-only, or gave it another shape
        return a.dot(b)


def _recorded(fun: Callable[..., Any], args: tuple[Any, ...], value: Any, time: int, scope: Scope | None) -> Tensor:
    """A result with its record, as `recording.recorded` made it then."""
    tensor = _new_tensor(Tensor)
    tensor.value = value
    tensor.grad = tensor.extra = None
    tensor.version = time
    tensor.requires_grad = True
    tensor.node = Node(fun, args, NO_KWARGS, scope)
    return tensor


_MATMUL: Any = RULES[np.matmul]
_ADD: Any = RULES[np.add]
_times_transposed: Any = products.times_transposed
_PLAIN = frozenset({Tensor, Parameter, Buffer})  # whose operators are those of this package
