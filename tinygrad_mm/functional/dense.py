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
    if not weight.requires_grad or not bias.requires_grad or dtype.kind != "f":
        return None
    if a.ndim != 2 or w.ndim != 2 or b.shape != w.shape[1:] or a.dtype is not dtype or b.dtype is not dtype:
        return None
    rule = None
    try:
        if activation is not None:
            rule = RULES[activation]
            if rule.keeping is not None or len(rule.vjps) != 1:
                return None
        product = a.dot(w)
        value = total = product + b
        if rule is not None:
            value = rule.forward(total)
    except Exception:  # the calls themselves say what is wrong
        return None
    if type(product) is not ndarray or type(value) is not ndarray:
        return None
    if value.shape != product.shape or value.dtype is not dtype:
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
    node.folded = (bias, x, weight), (product, tick(), total, tick())
    y.version = tick()
    return y


class _Dense(Joint):
    """The record of a layer: of its activation, or of the addition where it has none.

    What is known of the results between: the product and the sum, each followed by the time at which it was made.
    """

    __slots__ = ()

    def unfolded(self, ends: tuple[Any, ...], between: Any) -> tuple[Any, ...]:
        """The arguments of the last call, with the records of the calls before it."""
        bias, x, weight = ends
        product, first, total, second = between
        args = _recorded(np.matmul, (x, weight), product, first, self.scope), bias
        return args if self.fun is np.add else (_recorded(np.add, args, total, second, self.scope),)

    def way_back(self, version: int) -> tuple[tuple[Any, ...], Any] | None:
        """`folded`, where nothing has been changed since: neither the ends nor the rules."""
        folded = self.folded
        if folded is None or not (_MATMUL.fresh and _ADD.fresh and RULES[self.fun].fresh):
            return None
        bias, x, weight = folded[0]
        return None if bias.version > version or x.version > version or weight.version > version else folded

    def back(self, gradient: Any, result: Any, ends: tuple[Any, ...], between: Any) -> tuple[Any, ...]:
        """The gradients of bias, input and weight."""
        bias, x, weight = ends
        a, w, g = x.value, weight.value, gradient
        if self.fun is not np.add:
            vjp: Any = RULES[self.fun].vjps[0]
            g = vjp(g, result.value, between[2])
        if g.dtype is not w.dtype:
            g = g.astype(w.dtype)
        left, right = _MATMUL.vjps
        return (
            ones(len(g), g.dtype).dot(g) if bias.requires_grad else None,
            left(g, None, a, w) if x.requires_grad else None,
            right(g, None, a, w) if weight.requires_grad else None,
        )


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
_ADD = RULES[np.add]
_PLAIN = frozenset({Tensor, Parameter, Buffer})  # whose operators are those of this package
