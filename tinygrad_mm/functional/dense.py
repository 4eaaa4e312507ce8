"""A dense layer in one go: `activation(x @ weight + bias)`, recorded as the three calls that it is.

On small arrays the way from call to call takes longer than the arithmetic. So the three calls of the commonest layer
are made here one after the other, without the doors in between, with one record for all, and a plain backward pass
takes them at once. Whoever looks at the graph, or at the pass, sees three calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.constants import ones
from tinygrad_mm.graph import NO_KWARGS, RULES, Joint, Node, Scope, thread, tick
from tinygrad_mm.tensor import Buffer, Parameter, Tensor

__all__ = ["dense_at_once"]

ndarray = np.ndarray  # found sooner than in its module
_new_node = Node.__new__
_new_tensor = Tensor.__new__


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
    if now.watched or not now.recording:
        return None
    if type(x) not in _PLAIN or type(weight) not in _PLAIN or type(bias) not in _PLAIN:
        return None
    a, w, b = x.value, weight.value, bias.value
    dtype = w.dtype
    if not weight.requires_grad or not bias.requires_grad or a.dtype is not dtype or b.dtype is not dtype:
        return None
    if a.ndim != 2 or w.ndim != 2 or b.ndim != 1:
        return None
    if type(a) is not ndarray or type(w) is not ndarray or type(b) is not ndarray:
        return None
    rule = total = None
    try:
        value = a.dot(w)
        if b.size != value.shape[1]:
            return None
        value += b
        if activation is not None:
            rule = RULES[activation]
            if rule.over is not None:
                value = rule.over(value)
            else:
                if rule.keeping is not None or len(rule.vjps) != 1:
                    return None
                total = value
                value = rule.forward(total)
                if type(value) is not ndarray or value.shape != total.shape or value.dtype is not dtype:
                    return None
    except Exception:  # the calls themselves say what is wrong
        return None
    y = _new_tensor(Tensor)
    y.value = value
    y.grad = y.extra = None
    y.requires_grad = True
    y.node = node = _new_node(_Dense)
    node.fun = np.add if rule is None else rule.fun
    node.kwargs = NO_KWARGS
    node.scope = now.scope
    node.line = node.kept = None
    node.folded = (bias, x, weight), (a, w, b, tick(), total, tick())
    y.version = tick()
    return y


class _Dense(Joint):
    """The record of a layer: of its activation, or of the addition where it has none.

    What is known of the results between: the arrays that they are made from, when the product was made, the sum where
    the activation's rule asks for it, and when that was made. The results would take two thirds of a layer's memory,
    and hardly anybody looks; whoever does gets what these arrays give then.
    """

    __slots__ = ()

    def unfolded(self, ends: tuple[Any, ...], between: Any) -> tuple[Any, ...]:
        """The arguments of the last call, with the records of the calls before it."""
        bias, x, weight = ends
        a, w, b, first, total, second = between
        with np.errstate(all="ignore"):  # it was said when the layer was called
            product = a.dot(w)
            args = _recorded(np.matmul, (x, weight), product, first, self.scope), bias
            if self.fun is np.add:
                return args
            return (_recorded(np.add, args, product + b if total is None else total, second, self.scope),)

    def back(self, gradient: Any, result: Any) -> list[tuple[Any, Any]] | None:
        """The gradients of bias, input and weight, where nothing has been changed since, neither they nor the rules."""
        folded, rule = self.folded, RULES[self.fun]
        if folded is None or not (rule.fresh and _MATMUL.fresh and _ADD.fresh):
            return None
        (bias, x, weight), (a, w, b, _, total, _) = folded
        version = result.version
        if bias.version > version or x.version > version or weight.version > version:
            return None
        vjp: Any = None if rule is _ADD else rule.vjps[0]
        g = gradient if vjp is None else vjp(gradient, result.value, total)
        dtype = w.dtype
        if g.dtype is not dtype:
            g = g.astype(dtype)
        found = []
        if bias.requires_grad:
            place = bias.place
            found.append((bias, ones(len(g), dtype).dot(g, None if place is None else place.free(b))))
        if x.requires_grad:
            found.append((x, _MATMUL.vjps[0](g, None, a, w)))
        if weight.requires_grad:
            place = weight.place
            found.append((weight, a.T.dot(g, None if place is None else place.free(w))))
        return found


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
_PLAIN = frozenset({Tensor, Parameter, Buffer})  # whose operators are those of this package
