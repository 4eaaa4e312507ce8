"""Gradients, products with Jacobians from either side, Jacobians, Hessians.

Each of them gives arrays for arrays: what comes out is a constant, also where the function closes over Tensors that
require a gradient. With `create_graph` it gives Tensors that are open to these: a loss may be made of a gradient, as in
`w * grad(lambda y: w * w * y, create_graph=True)(y)`. Tensors among the arguments, and a transform around this one, do
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.graph import name_of
from tinygrad_mm.pytree import flatten_like, unflatten
from tinygrad_mm.tensor import Tensor
from tinygrad_mm.transforms.call import Call, fitted

__all__ = ["grad", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]

Function: TypeAlias = Callable[..., Any]
Argnums: TypeAlias = "int | tuple[int, ...]"


def value_and_grad(f: Function, argnums: Argnums = 0, has_aux: bool = False, create_graph: bool = False) -> Function:
    """The function that returns `(f(...), gradient)`; see `grad`. With `has_aux`: `((value, aux), gradient)`.

    Raises as `grad` does.

    >>> value, gradient = value_and_grad(lambda x: np.sum(x * x))(np.array([1.0, 2.0]))
    >>> float(value), gradient
    (5.0, array([2., 4.]))
    """
    return _named(_value_and_gradient("value_and_grad", f, argnums, has_aux, create_graph), "value_and_grad", f)


def _value_and_gradient(what: str, f: Function, argnums: Argnums, has_aux: bool, create_graph: bool) -> Function:
    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        call = Call(what, f, args, kwargs, _positions(what, argnums, args), has_aux, create_graph=create_graph)
        y = call.scalar()
        recorded = call.is_recorded()
        found = call.backward([y], [np.ones_like(y.value)], call.inputs, recorded, release=not recorded)
        value, *leaves = call.handed_out([y, *found], recorded)
        gradient = _chosen(argnums, call.like_inputs(leaves))
        return ((value, call.aux_out(recorded)), gradient) if has_aux else (value, gradient)

    return value_and_gradient


def grad(f: Function, argnums: Argnums = 0, has_aux: bool = False, create_graph: bool = False) -> Function:
    """The gradient of `f`, a function that returns one number, with respect to the arguments `argnums`.

    For arrays the gradient is an array: a constant for whatever is done with it. With `create_graph` it is a Tensor,
    through which Tensors that f closes over can be differentiated.

    The gradient has the shapes and containers of the argument (for a tuple of argnums: a tuple of gradients); it is
    zero where f does not depend on the argument. With `has_aux`, f returns `(number, aux)` and the result is
    `(gradient, aux)`. Cost: one forward and one reverse pass.

    Raises TypeError where f returns more than one number, for integer arguments, and for results without derivative.

    >>> grad(np.sin)(np.array(0.0))
    array(1.)
    >>> grad(grad(lambda x: x ** 3))(2.0)
    array(12., dtype=float32)
    >>> grad(lambda p, x: np.sum(p["w"] * x) + p["b"])({"w": np.ones(2), "b": 0.5}, np.array([3.0, 4.0]))
    {'w': array([3., 4.]), 'b': array(1., dtype=float32)}
    """
    both = _value_and_gradient("grad", f, argnums, has_aux, create_graph)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return _named(gradient, "grad", f)


def vjp(f: Function, *primals: Any, has_aux: bool = False, create_graph: bool = False) -> tuple[Any, ...]:
    """`(f(*primals), pull)`: `pull(v)` is the product of v with the Jacobian of `f`, a tuple of one for each primal.

    v is built like the result of f. `pull` may be called any number of times, one reverse pass each. With `has_aux`,
    f returns `(result, aux)`, and aux comes third.

    Raises TypeError for integer primals and results without derivative, ValueError for a v that does not fit.

    >>> y, pull = vjp(lambda a, b: a * b, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    >>> pull(np.array([1.0, 0.0]))
    (array([3., 0.]), array([1., 0.]))
    """
    call = Call("vjp", f, primals, {}, range(len(primals)), has_aux, create_graph=create_graph)

    def pull(cotangent: Any) -> tuple[Any, ...]:
        leaves = flatten_like(call.tree, cotangent, "vjp: the cotangent")
        seeds = [fitted(v, y, "vjp: a cotangent") for v, y in zip(leaves, call.outputs, strict=True)]
        recorded = call.is_recorded(seeds)
        found = call.backward(call.outputs, seeds, call.inputs, recorded)
        return tuple(call.like_inputs(call.handed_out(found, recorded, beside=seeds)))

    recorded = call.is_recorded()
    y = unflatten(call.tree, iter(call.handed_out(call.outputs, recorded)))
    return (y, pull, call.aux_out(recorded)) if has_aux else (y, pull)


def jvp(f: Function, primals: Any, tangents: Any, has_aux: bool = False, create_graph: bool = False) -> tuple[Any, ...]:
    """`(f(*primals), the derivative of f along the tangents)`: the product of the Jacobian with a vector.

    `primals` is a tuple of all arguments and `tangents` one of their directions, built alike; for a single argument the
    tuples may be left out. The derivative is built like the result of f. With `has_aux`, aux comes third.

    Cost: one forward and two reverse passes. It is the VJP of the VJP, which is a linear function of its seed.

    Raises TypeError for integer primals and results without derivative, ValueError for tangents that do not fit.

    >>> jvp(np.sin, np.array(0.0), np.array(2.0))
    (array(0.), array(2.))
    >>> jvp(lambda a, b: a * b, (np.array(3.0), np.array(4.0)), (np.array(1.0), np.array(0.0)))
    (array(12.), array(4.))
    """
    args, directions = _tuples("jvp", primals, tangents)
    call = Call("jvp", f, args, {}, range(len(args)), has_aux, beside=tangents, create_graph=create_graph)
    vs = call.directions(directions, "tangent")
    recorded = call.is_recorded(tangents)
    seeds, found = call.transposed()
    along = call.backward(found, vs, seeds, recorded)
    results = call.handed_out([*call.outputs, *along], recorded)
    n = len(call.outputs)
    y, derivative = (unflatten(call.tree, iter(part)) for part in (results[:n], results[n:]))
    return (y, derivative, call.aux_out(recorded)) if has_aux else (y, derivative)


def jacobian(f: Function, argnums: Argnums = 0, has_aux: bool = False, create_graph: bool = False) -> Function:
    """The Jacobian of `f` with respect to the arguments `argnums`.

    Shape: that of the result of f, then that of the argument. Where f returns a container, so does this, with the
    containers of the argument inside. With `has_aux`, f returns `(result, aux)` and the result is `(jacobian, aux)`.

    Cost: f runs once. Then one reverse pass for each number in the result; or, where the arguments hold fewer than half
    as many numbers, one recorded reverse pass and for each of these numbers one pass over the two.

    Raises TypeError for integer arguments and results without derivative.

    >>> jacobian(lambda x: x * x)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """

    def jacobian_of_f(*args: Any, **kwargs: Any) -> Any:
        places = _positions("jacobian", argnums, args)
        call = Call("jacobian", f, args, kwargs, places, has_aux, create_graph=create_graph)
        recorded = call.is_recorded()
        few_inputs = 2 * sum(x.size for x in call.inputs) < sum(y.size for y in call.outputs)
        blocks = _by_columns(call, recorded) if few_inputs else _by_rows(call, recorded)
        leaves = iter(call.handed_out([block for row in blocks for block in row], recorded))
        rows = [call.like_inputs([next(leaves) for _ in call.inputs]) for _ in call.outputs]
        result = unflatten(call.tree, iter([_chosen(argnums, row) for row in rows]))
        return (result, call.aux_out(recorded)) if has_aux else result

    return _named(jacobian_of_f, "jacobian", f)


def hessian(f: Function, argnums: Argnums = 0, has_aux: bool = False, create_graph: bool = False) -> Function:
    """The matrix of second derivatives of `f`, a function that returns one number: `jacobian(grad(f))`.

    Shape: that of the argument twice. Where the argument is a container, so is the result, with containers like it
    inside. With `has_aux`, the result is `(hessian, aux)`.

    Cost: one forward pass, one recorded reverse pass, and for each number in the arguments one reverse pass over the
    two. `hvp` multiplies the Hessian with a vector for the price of one of these.

    `norm`, `hypot`, `std` and `abs` have gradient 0 where they are 0, and so their squares have second derivatives of 0
    there by the chain rule: write `np.sum(x * x)` for `norm(x) ** 2`, and `a * a + b * b`, `np.var(x)`, `x * x`.

    Raises as `grad` does.

    >>> hessian(lambda x: x[0] ** 2 * x[1])(np.array([1.0, 2.0]))
    array([[4., 2.],
           [2., 0.]])
    """
    return _named(jacobian(grad(f, argnums, has_aux), argnums, has_aux, create_graph), "hessian", f)


def hvp(f: Function, primals: Any, vectors: Any, has_aux: bool = False) -> Any:
    """The product of the Hessian of `f`, a function that returns one number, with a vector: `hessian(f)(x) @ v`.

    Like `jvp` it takes a tuple of all arguments and one of vectors, built alike, and gives a tuple; or one argument and
    one vector, and gives one product. With `has_aux`, the result is `(product, aux)`.

    Cost: one forward pass, one recorded reverse pass, one reverse pass over the two (Pearlmutter 1994).

    Raises as `grad` and `jvp` do.

    >>> f = lambda x: x[0] ** 2 * x[1]
    >>> x, v = np.array([1.0, 2.0]), np.array([1.0, 1.0])
    >>> bool(np.all(hvp(f, x, v) == hessian(f)(x) @ v))
    True
    """
    args, directions = _tuples("hvp", primals, vectors)
    call = Call("hvp", f, args, {}, range(len(args)), has_aux, beside=vectors)
    y = call.scalar()
    vs = call.directions(directions, "vector")
    recorded = call.is_recorded(vectors)
    found = call.backward([y], [np.ones_like(y.value)], call.inputs, recorded=True)
    products = call.backward(found, vs, call.inputs, recorded, release=not recorded)
    results = call.like_inputs(call.handed_out(products, recorded))
    result = tuple(results) if isinstance(primals, tuple) else results[0]
    return (result, call.aux_out(recorded)) if has_aux else result


# ---------------------------------------------------------------------------------------------------------------------
# Parts of Jacobians
# ---------------------------------------------------------------------------------------------------------------------


def _by_rows(call: Call, recorded: bool) -> list[list[Tensor]]:
    """The blocks d output / d input: one reverse pass for each element of each output."""
    return [
        [
            _stacked(rows, axis=0, shape=y.shape + x.shape, dtype=x.dtype)
            for x, rows in _by_result(call.inputs, [call.backward([y], [e], call.inputs, recorded) for e in _basis(y)])
        ]
        for y in call.outputs
    ]


def _by_columns(call: Call, recorded: bool) -> list[list[Tensor]]:
    """The same blocks: one derivative forward, the VJP of the VJP, for each element of each input."""
    seeds, found = call.transposed()
    by_input = [
        [
            _stacked(columns, axis=-1, shape=y.shape + x.shape, dtype=x.dtype)
            for y, columns in _by_result(call.outputs, [call.backward([g], [e], seeds, recorded) for e in _basis(x)])
        ]
        for x, g in zip(call.inputs, found, strict=True)
    ]
    return [list(row) for row in zip(*by_input, strict=True)] or [[] for _ in call.outputs]


def _basis(x: Tensor) -> Iterator[Any]:
    """The unit vectors of x's shape."""
    for i in range(x.size):
        e = np.zeros(x.size, x.dtype)
        e[i] = 1
        yield e.reshape(x.shape)


def _by_result(targets: Sequence[Tensor], passes: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, list[Tensor]]]:
    """Each target with what the passes found for it, one after the other."""
    return [(target, [found[i] for found in passes]) for i, target in enumerate(targets)]


def _stacked(parts: Sequence[Tensor], axis: int, shape: tuple[int, ...], dtype: Any) -> Tensor:
    """Parts side by side along a new axis, which is then spread to the shape of a block."""
    if not parts:
        return Tensor(np.zeros(shape, dtype))
    block: Tensor = np.stack(parts, axis).reshape(shape)  # type: ignore[assignment]
    return block if block.dtype == dtype else block.astype(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


def _positions(what: str, argnums: Argnums, args: tuple[Any, ...]) -> list[int]:
    """The positions that argnums names, counted from the front."""
    given = argnums if isinstance(argnums, tuple) else (argnums,)
    for i in given:
        if not isinstance(i, int) or isinstance(i, bool):
            raise TypeError(f"{what}: argnums={argnums!r} must be an integer or a tuple of integers")
        if not -len(args) <= i < len(args):
            raise ValueError(
                f"{what}: argnums={argnums!r}, but the function was called with {len(args)} positional arguments; "
                "pass what is differentiated by position"
            )
    places = [i % len(args) for i in given]
    if len(set(places)) != len(places):
        raise ValueError(f"{what}: argnums={argnums!r} names an argument twice")
    return places


def _chosen(argnums: Argnums, results: list[Any]) -> Any:
    return tuple(results) if isinstance(argnums, tuple) else results[0]


def _tuples(what: str, primals: Any, directions: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Primals and directions as tuples of arguments."""
    if not isinstance(primals, tuple):
        return (primals,), (directions,)
    if not isinstance(directions, (tuple, list)) or len(directions) != len(primals):
        raise ValueError(f"{what}: {len(primals)} primals in a tuple need a tuple of {len(primals)} directions")
    return primals, tuple(directions)


def _named(transformed: Function, what: str, f: Function) -> Function:
    transformed.__name__ = transformed.__qualname__ = f"{what}({name_of(f)})"
    transformed.__doc__ = f.__doc__ and f"{what} of: {f.__doc__}"
    return transformed
