"""One operation by itself: any gradient sent through its rule, and its whole Jacobian."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_mm.backprop import backpropagate
from tinygrad_mm.graph import RULES, Node, Vertex, entered, name_of, select
from tinygrad_mm.tensor import Tensor

__all__ = ["local_jacobian", "pull_through"]

LARGEST = 2**26  # elements of a Jacobian


def local_jacobian(y: Tensor, argument: int | Tensor = 0) -> np.ndarray[Any, Any]:
    """The derivative of the one operation that made `y` with respect to one of its arguments, all others held still.

    `argument` is the position in the call, or the tensor itself (all its places together, as in `x * x`). Whatever made
    that argument plays no part: this is the local factor that the chain rule multiplies. The rows come from the
    operation's own rule, one for each element of y; where its gradient stops they are 0. The graph stays as it is.

    Shape: that of y, then that of the argument

    Raises TypeError for anything but a Tensor and for arguments that hold no floating numbers, RuntimeError where y was
    not recorded or its graph released, IndexError or ValueError for an argument the operation does not have, ValueError
    for a Jacobian of more than 2**26 elements.

    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> local_jacobian(x * x, x)
    array([[2., 0.],
           [0., 4.]], dtype=float32)
    >>> local_jacobian(np.sum(np.exp(x)))
    array([1., 1.], dtype=float32)
    """
    node, args, result, output = _call_behind(y)
    places = _places(node, args, argument)
    x = args[places[0]]
    x = x.value if isinstance(x, Vertex) else x
    if x.dtype.kind != "f":
        raise TypeError(
            f"local_jacobian: argument {places[0]} of {name_of(node.fun)} holds {x.dtype}, not floating numbers"
        )
    if y.value.size * x.size > LARGEST:
        raise ValueError(
            f"local_jacobian: shapes {y.value.shape} and {x.shape} make {y.value.size * x.size:,} elements; multiply "
            "with a vector instead (tg.vjp, tg.jvp), or take a smaller example"
        )
    rows = np.zeros((y.value.size, *x.shape), x.dtype)
    if not RULES[node.fun].differentiable:
        return rows.reshape(y.value.shape + x.shape)
    values = [a.value if isinstance(a, Vertex) else a for a in args]
    for i in range(len(rows)):
        seed = np.zeros(y.value.size, y.value.dtype)
        seed[i] = 1
        gradient: Any = seed.reshape(y.value.shape)
        if output is not None:
            gradient = [gradient if k == output else None for k in range(len(result))]
        for _, part in pull_through(node.fun, values, node.kwargs, result, gradient, places):
            rows[i] += part
    return rows.reshape(y.value.shape + x.shape)


def pull_through(
    fun: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    y: Any,
    gradient: Any,
    places: Collection[int],
) -> list[tuple[int, Any]]:
    """What the rule of the call `y = fun(*args, **kwargs)` sends to its arguments at `places`, given y's gradient.

    The engine's own loop runs it, on a graph of this one call, in which no array stands twice; so what it gives has the
    shapes and dtypes of the arguments. Arguments are arrays (or tuples of them) and plain values. Where y is a tuple,
    the gradient is a list, with None for results without one.

    >>> pull_through(np.multiply, [np.array(2.0), np.array(3.0)], {}, np.array(6.0), np.array(1.0), [0, 1])
    [(0, array(3.)), (1, array(2.))]
    """
    leaves = {i: Vertex(args[i], requires_grad=True) for i in places}
    node = Node(fun, tuple(leaves.get(i, a) for i, a in enumerate(args)), kwargs)
    result = Vertex(y, node, requires_grad=True)
    with entered(monitor=None, recording=False, lines=False):
        found = backpropagate([result], [gradient])
    gradients = {i: found[leaf] for i, leaf in leaves.items() if leaf in found}
    return [(i, g if isinstance(g, list) else np.asarray(g)) for i, g in sorted(gradients.items())]


def _call_behind(y: Any) -> tuple[Node, tuple[Any, ...], Any, int | None]:
    """The call that made y, its arguments, what it returned, and which of several results y is."""
    if not isinstance(y, Tensor):
        raise TypeError(f"local_jacobian: y is a {type(y).__name__}; it takes the Tensor that an operation returned")
    node, returned, output = y.node, y.value, None
    if node is not None and node.fun is select and node.args is not None:
        producer, output = node.args
        node, returned = producer.node, producer.value
    if node is None:
        raise RuntimeError(
            "local_jacobian: no operation was recorded for this tensor; it is a leaf, or none of what it was computed "
            "from requires a gradient"
        )
    if node.args is None:
        raise RuntimeError(
            f"local_jacobian: the graph behind this {name_of(node.fun)} was released by an earlier backward pass; call "
            "that one as backward(retain_graph=True)"
        )
    return node, node.args, returned, output


def _places(node: Node, args: tuple[Any, ...], argument: int | Tensor) -> list[int]:
    """The positions that `argument` names, of which there is at least one."""
    arrays = [i for i, a in enumerate(args) if isinstance(a, (Vertex, np.ndarray)) and not _several(a)]
    if isinstance(argument, Tensor):
        found = [i for i, a in enumerate(args) if a is argument]
        if not found:
            raise ValueError(
                f"local_jacobian: that tensor is no argument of this {name_of(node.fun)}; its arrays are at {arrays}"
            )
        return found
    if argument not in arrays:
        raise IndexError(
            f"local_jacobian: argument={argument!r} of {name_of(node.fun)} is no array; its arrays are at {arrays}"
        )
    return [argument]


def _several(a: Any) -> bool:
    return isinstance(a, Vertex) and isinstance(a.value, tuple)
