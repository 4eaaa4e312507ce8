"""A dense layer in one go: `activation(x @ weight + bias)`, recorded as the three calls that it is.

On small arrays the way from call to call takes longer than the arithmetic. So the three calls of the commonest layer
are made here one after the other, without the doors in between, and the record of the last one keeps a shortcut, by
which a plain backward pass takes them at once. Whoever looks at the graph, or at the pass, sees three calls.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import numpy as np

from tinygrad_mm.constants import ones
from tinygrad_mm.graph import NO_KWARGS, RULES, Node, Scope, Shortcut, Vertex, thread, tick
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
    scope = now.scope
    first = _recorded(np.matmul, (x, weight), product, scope)
    y = _recorded(np.add, (first, bias), total, scope)
    if rule is not None:
        y = _recorded(rule.fun, (y,), value, scope)
    y.node.kept = _SHORTCUT
    return y


def _recorded(fun: Callable[..., Any], args: tuple[Any, ...], value: Any, scope: Scope | None) -> Any:
    """A result with its record, as `recording.recorded` makes it where nobody watches."""
    tensor = _new_tensor(Tensor)
    tensor.value = value
    tensor.grad = tensor.extra = None
    tensor.version = tick()
    tensor.requires_grad = True
    tensor.node = node = _new_node(Node)
    node.fun = fun
    node.args = args
    node.kwargs = NO_KWARGS
    node.scope = scope
    node.line = node.kept = None
    return tensor


def _ends(y: Any, pending: Container[Vertex]) -> tuple[Any, ...] | None:
    """What the three calls began with; None where they are to be taken one by one.

    That is where a result between them is used elsewhere, or was changed by hand, and where a call will have to refuse.
    """
    node = y.node
    if node.fun is not np.add:
        y = node.args[0]
        if y in pending or y.extra is not None or not y.requires_grad or not RULES[node.fun].fresh:
            return None
        node = y.node
        if node is None or node.args is None:
            return None
    first, bias = node.args
    if first in pending or first.extra is not None or not first.requires_grad:
        return None
    node = first.node
    if node is None or node.args is None or not (_MATMUL.fresh and _ADD.fresh):
        return None
    x, weight = node.args
    version = first.version
    return None if x.version > version or weight.version > version or bias.version > y.version else (bias, x, weight)


def _back(g: Any, y: Any, release: bool, bias: Any, x: Any, weight: Any) -> tuple[Any, ...]:
    """The gradients of the three. With `release`, the records between are released, as the last one is elsewhere."""
    node, a, w = y.node, x.value, weight.value
    if node.fun is not np.add:
        vjp: Any = RULES[node.fun].vjps[0]
        total = node.args[0]
        g = vjp(g, y.value, total.value)
        node = total.node
    if g.dtype is not w.dtype:
        g = g.astype(w.dtype)
    left, right = _MATMUL.vjps
    found = ones(len(g), g.dtype).dot(g), left(g, None, a, w) if x.requires_grad else None, right(g, None, a, w)
    if release:
        node.args[0].node.args = None
        if node is not y.node:
            node.args = None
    return found


_MATMUL: Any = RULES[np.matmul]
_ADD = RULES[np.add]
_PLAIN = frozenset({Tensor, Parameter, Buffer})  # whose operators are those of this package
_SHORTCUT = Shortcut(_ends, _back)
