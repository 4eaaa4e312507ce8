"""`check_grads`: is this derivative right? Compare it with finite differences.

Floor 7. Use it on operations of your own. An operation is a function of arrays, marked `@tg.primitive`, and a rule for
each argument, given to `tg.defvjp`: a function of the gradient `g` of the output, the output `y` and the arguments. A
rule returns a gradient of the argument's shape (or of the shape that broadcasting gave it) and dtype. Write it with
NumPy functions that have rules themselves, then there are derivatives of every order; with Python's numbers (`math.pi`,
not `np.pi * np.ones(1)`), then float32 stays float32; and without writing into arrays.

**A formula of its own.** `softplus` overflows if it is written down as it is defined, and the derivative of a stable
version is simpler than its operations one by one would make it:

>>> from tinygrad_mm.graph import defvjp, primitive  # as tg.defvjp, tg.primitive
>>> @primitive
... def softplus(x):
...     return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
>>> defvjp(softplus, lambda g, y, x: g * np.exp(x - y))
>>> check_grads(softplus, [np.array([-1.0, 0.5, 30.0])])

**A loop.** What NumPy has no function for may be a loop that writes into arrays; the graph sees one operation. This one
is a running average that forgets, y[t] = decay * y[t-1] + x[t]. Its gradient runs backwards in time, by the same
operation, so the rule is closed:

>>> @primitive
... def leaky_sum(x, decay):
...     y = np.array(x)
...     for t in range(1, len(y)):
...         y[t] += decay * y[t - 1]
...     return y
>>> def backwards(g, decay):
...     return np.flip(leaky_sum(np.flip(g, axis=0), decay), axis=0)
>>> defvjp(leaky_sum, lambda g, y, x, decay: backwards(g, decay),
...                   lambda g, y, x, decay: np.sum(backwards(g, decay)[1:] * y[:-1]))
>>> check_grads(leaky_sum, [np.array([1.0, -2.0, 0.5, 3.0]), np.array(0.9)])

A wrong rule is named by what it gets wrong:

>>> defvjp(softplus, lambda g, y, x: g * np.exp(x - y) * 2)
>>> check_grads(lambda x: np.sum(softplus(x)), [np.array([-30.0, 0.5])])  # doctest: +ELLIPSIS
Traceback (most recent call last):
AssertionError: check_grads: the derivative of order 1 of <lambda> is wrong.
  argument 0, index 1: numeric 0.622459, analytic 1.24492 (2 times the numeric one)
  along a random direction: numeric ..., analytic ...; they may differ by ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.gradient import no_grad
from tinygrad_mm.graph import RULES, Monitor, Vertex, entered, name_of
from tinygrad_mm.mistakes import name_mistake
from tinygrad_mm.numeric import numeric_derivative, step_for
from tinygrad_mm.pytree import flatten, unflatten
from tinygrad_mm.tensor import Tensor
from tinygrad_mm.transforms import grad

__all__ = ["check_grads"]

Array: TypeAlias = "np.ndarray[Any, Any]"

MOST_NAMED = 1024  # elements of a gradient that is taken apart, difference by difference, to name what is wrong with it


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    rtol: float | None = None,
    atol: float | None = None,
    rng: np.random.Generator | int | None = None,
    strict: bool = False,
) -> None:
    """Raise AssertionError unless the derivatives of `f` at `args`, up to `order`, are what finite differences say.

    `args` are the arguments of f: arrays, numbers, Tensors, modules, and containers of these; those without floating
    numbers are constants. The results of f are weighted at random to one number. For each array among the arguments its
    gradient along a random direction is compared with a central difference, and so is, order by order, the gradient of
    that again. Away from kinks, please: a difference across one is not a derivative.

    The differences are taken in float64, wherever f accepts it, and with a step for the precision that f computes in.
    Arguments of another dtype are checked in theirs as well. Each rule that runs is checked for the shapes and dtypes
    it returns, once more in float32. `rtol` and `atol` bound the error of a derivative along a direction, relative to
    the sum of the absolute values of its terms; by default, the step's size and the rounding error of a difference.
    `rng` is a generator or a seed; by default the same directions are drawn each time. With `strict`, a rule has to sum
    over the axes along which its argument was broadcast, which the engine does otherwise.

    The message names the argument, an index at which the derivative is wrong, its numeric and analytic values, and the
    mistake where it is a likely one: the transpose, also of a square matrix, the sign, a factor.

    >>> check_grads(lambda x, y: x * np.sin(y), [np.array([1.0, 2.0]), np.array(0.5)])
    """
    if isinstance(args, Tensor) or not isinstance(args, (list, tuple)):
        raise TypeError(f"check_grads: args is a {type(args).__name__}; give a list of all arguments: [x]")
    if order < 1:
        raise ValueError(f"check_grads: order={order}; the first derivatives are of order 1")
    draw = np.random.default_rng(0 if rng is None else rng)
    given = _Point(f, args)
    wide = given.in_dtype(np.float64)
    try:
        outputs = wide.call(f)
    except TypeError:  # it has parameters of its own, of another dtype
        wide, outputs = given, given.call(f)
    precision = min((a.dtype for a in [*outputs, *wide.arrays]), key=lambda dtype: np.finfo(dtype).precision)

    single = sum(y.size for y in outputs) == 1
    weights = [np.ones(y.shape) if single else _direction(y.shape, draw) for y in outputs]
    terms = _weighted(f, weights)
    for n in range(1, order + 1):
        directions = [_direction(a.shape, draw) * _scale(a) for a in wide.arrays]
        _Comparison(name_of(f), n, terms, wide, directions, precision, outputs, rtol, atol, strict).run(given)
        terms = _weighted(_gradient_of(terms, wide.argnums), [_direction(a.shape, draw) for a in wide.arrays])


class _Point:
    """Arguments of a function, and the arrays among them: the point where derivatives are taken."""

    def __init__(self, f: Callable[..., Any], args: Sequence[Any]) -> None:
        self.args = list(args)
        self.argnums = tuple(i for i, a in enumerate(args) if any(map(_is_floating, _values(a))))
        self.leaves = [leaf for i in self.argnums for leaf in flatten(args[i], f"argument {i}")]
        self.arrays = [_value(leaf.value) for leaf in self.leaves]
        if not self.arrays:
            raise TypeError(f"check_grads: none of the {len(args)} arguments of {name_of(f)} holds floating numbers")

    def in_dtype(self, dtype: Any) -> _Point:
        """The same point with floating arrays of another dtype."""
        point = copy.copy(self)
        point.arrays = [a.astype(dtype) if _is_floating(a) else a for a in self.arrays]
        return point

    @contextmanager
    def arguments(self, arrays: Sequence[Array]) -> Iterator[list[Any]]:
        """The arguments with other arrays: new Tensors, and parameters that hold them for the length of the block."""
        owned = [(leaf.value, array) for leaf, array in zip(self.leaves, arrays, strict=True) if leaf.parameter]
        before = [parameter.value for parameter, _ in owned]
        fresh = iter([Tensor(array) for array in arrays])
        moved = {i: unflatten(self.args[i], fresh, keep_modules=True) for i in self.argnums}
        try:
            for parameter, array in owned:
                parameter.value = array
            yield [moved.get(i, a) for i, a in enumerate(self.args)]
        finally:
            for (parameter, _), value in zip(owned, before, strict=True):
                parameter.value = value

    def call(self, f: Callable[..., Any], arrays: Sequence[Array] | None = None) -> list[Array]:
        """The floating arrays that f returns here, or with other arrays in their places."""
        with self.arguments(self.arrays if arrays is None else arrays) as args, no_grad():
            return [value for value in _values(f(*args)) if _is_floating(value)]


class _Comparison:
    """The derivatives of one order, analytic and numeric."""

    def __init__(
        self,
        name: str,
        order: int,
        terms: Callable[..., Any],
        point: _Point,
        directions: Sequence[Array],
        precision: Any,
        outputs: Sequence[Array],
        rtol: float | None,
        atol: float | None,
        strict: bool,
    ) -> None:
        self.strict = strict
        self.title = f"check_grads: the derivative of order {order} of {name} is wrong."
        self.note = (
            ""
            if order == 1 and sum(y.size for y in outputs) == 1
            else " (All numbers below are of the results, weighted at random.)"
        )
        self.terms, self.point, self.directions = terms, point, directions
        self.step = step_for(precision)
        self.rounding = 8 * float(np.finfo(precision).eps) / self.step  # of a quotient, relative to the values
        self.size = _size(outputs)  # derivatives are made of numbers of about this size, even where they cancel out
        self.rtol, self.atol = rtol, atol

    def run(self, given: _Point) -> None:
        """Raise AssertionError where they differ, or where rules do not keep shapes and dtypes."""
        analytic = self.gradients(self.point)
        for i, v in enumerate(self.directions):
            self.compare(i, v, analytic[i])
        if any(a.dtype != b.dtype for a, b in zip(given.arrays, self.point.arrays, strict=True)):
            self.compare_dtypes(given, analytic)
        elif all(a.dtype == np.float64 for a in given.arrays):
            with np.errstate(all="ignore"):
                try:
                    self.gradients(given.in_dtype(np.float32))
                except TypeError:  # not meant for it
                    pass

    def gradients(self, point: _Point) -> list[Array]:
        """The gradient of the sum of all terms with respect to each array, by the rules, which are watched."""
        with point.arguments(point.arrays) as args, no_grad(), entered(monitor=_RuleWatch(self.strict)):
            return _values(_gradient_of(self.terms, point.argnums)(*args))

    def difference(self, i: int, v: Array) -> tuple[float, float]:
        """The same along a direction of the i-th array, by a central difference, and how uncertain that is.

        The error is that of truncation, which the difference over twice the distance shows, and that of rounding.
        """
        sizes = [self.size]

        def total(*arrays: Array) -> float:
            terms = self.point.call(self.terms, arrays)
            sizes.append(_size(terms))
            return sum(float(np.sum(t, dtype=np.float64)) for t in terms)

        directions = [v if j == i else None for j in range(len(self.point.arrays))]
        far, near = (
            float(numeric_derivative(total, self.point.arrays, directions, step)) for step in (self.step, self.step / 2)
        )
        return near, abs(near - far) + self.rounding * max(sizes)

    def compare(self, i: int, v: Array, gradient: Array) -> None:
        """Analytic and numeric gradient of the i-th array along a direction."""
        parts = gradient * v
        analytic, scale = float(np.sum(parts)), float(np.sum(np.abs(parts)))
        numeric, uncertain = self.difference(i, v)
        allowed = (self.step if self.rtol is None else self.rtol) * scale
        allowed += uncertain if self.atol is None else self.atol
        if abs(numeric - analytic) <= allowed < np.inf:
            return

        def unlike(places: Array) -> float:
            chosen = np.zeros(v.size)
            chosen[places] = v.ravel()[places]
            chosen = chosen.reshape(v.shape)
            error = abs(self.difference(i, chosen)[0] - float(np.sum(gradient * chosen)))
            return error if error == error else np.inf  # NaN is as wrong as can be

        place = _found(unlike, v.size)
        alone, length = np.zeros(v.size), float(v.ravel()[place])
        alone[place] = length
        here = self.difference(i, alone.reshape(v.shape))[0] / length, float(gradient.ravel()[place])
        ratio = f" ({here[1] / here[0]:.4g} times the numeric one)" if here[0] else ""
        raise AssertionError(
            f"{self.title}{self.note}\n  {self.place(i, place)}: numeric {here[0]:.6g}, analytic {here[1]:.6g}{ratio}\n"
            f"  along a random direction: numeric {numeric:.6g}, analytic {analytic:.6g}; "
            f"they may differ by {allowed:.1e}{self.mistake(i, gradient)}"
        )

    def mistake(self, i: int, gradient: Array) -> str:
        """Which likely mistake the gradient of the i-th array is, as a line of the message."""
        if not 1 < gradient.size <= MOST_NAMED:
            return ""
        units = np.eye(gradient.size).reshape(-1, *gradient.shape)
        numeric = np.array([self.difference(i, unit)[0] for unit in units]).reshape(gradient.shape)
        what = name_mistake(gradient, numeric)
        verb = "has" if what == "the wrong sign" else "is"
        return f"\n  the gradient of {self.point.leaves[i].path} {verb} {what}" if what else ""

    def compare_dtypes(self, given: _Point, wide: Sequence[Array]) -> None:
        """The gradients in the arguments' own dtypes with those in float64."""
        coarsest = max(step_for(a.dtype) for a in given.arrays)
        rounding = 100 * coarsest**3 * max(self.size, _size(self.point.call(self.terms)))
        for i, (own, exact) in enumerate(zip(self.gradients(given), wide, strict=True)):
            allowed = rounding + max(coarsest, self.rtol or 0) * float(np.max(np.abs(exact), initial=0))
            wrong = ~(np.abs(own - exact) <= allowed)
            if wrong.any():
                place = int(np.argmax(wrong))
                raise AssertionError(
                    f"{self.title}{self.note}\n  {self.place(i, place)}: {own.ravel()[place]:.6g} in {own.dtype}, "
                    f"{exact.ravel()[place]:.6g} in float64; they may differ by {allowed:.1e}"
                )

    def place(self, i: int, place: int) -> str:
        """A place in the i-th array, in words."""
        shape = self.point.arrays[i].shape
        index = tuple(int(n) for n in np.unravel_index(place, shape))
        return f"{self.point.leaves[i].path}, index {index if len(index) != 1 else index[0]}"


class _RuleWatch(Monitor):
    """A monitor that checks what rules return, before the backward pass makes it fit."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def visit(self, vertex: Vertex, gradient: Any) -> None:
        """Run the rules of a vertex whose gradient is complete, on arrays, to look at what they give."""
        node, g, y = vertex.node, gradient, vertex.value
        if node is None or node.args is None or isinstance(g, Vertex):
            return
        if isinstance(g, list):
            if any(isinstance(one, Vertex) for one in g):
                return
            g = [np.zeros_like(v) if one is None else one for one, v in zip(g, y, strict=True)]
        rule = RULES[node.fun]
        values = [a.value if isinstance(a, Vertex) else a for a in node.args]
        for i, a in enumerate(node.args):
            vjp = rule.vjps[i] if i < len(rule.vjps) else None
            if not isinstance(a, Vertex) or not a.requires_grad or isinstance(a.value, tuple):
                continue
            if rule.each is not None:
                c = rule.each(i, g, y, *values, **node.kwargs)
            elif vjp is not None:
                c = vjp(g, y, *values, **node.kwargs)
            else:
                continue
            outputs = y if isinstance(y, tuple) else (y,)
            self.look(f"check_grads: the rule of {name_of(node.fun)} for argument {i}", c, a.value, outputs)

    def look(self, rule: str, c: Any, x: Array, outputs: Sequence[Array]) -> None:
        """Raise AssertionError for a gradient that does not fit the argument x."""
        if not isinstance(c, (np.ndarray, np.generic)):
            raise AssertionError(f"{rule} returned a {type(c).__name__}; return an array of shape {x.shape}")
        try:
            fits = np.broadcast_shapes(c.shape, x.shape) == c.shape
        except ValueError:
            fits = False
        if not fits:
            turned = "; that is the shape of the transpose" if c.shape == x.shape[::-1] else ""
            raise AssertionError(f"{rule} returned shape {c.shape} for an argument of shape {x.shape}{turned}")
        if self.strict and c.shape != x.shape:
            raise AssertionError(
                f"{rule} returned shape {c.shape} for an argument of shape {x.shape}, which was broadcast: it leaves "
                "the sum over the broadcast axes to the engine"
            )
        if c.dtype not in (x.dtype, *(y.dtype for y in outputs)):
            raise AssertionError(
                f"{rule} returned {c.dtype} for an argument of {x.dtype}; keep the dtype: "
                "Python's numbers do (math.pi), NumPy's scalars and new arrays do not (np.float64(2), np.ones(3))"
            )


# ---------------------------------------------------------------------------------------------------------------------
# From a function to one number
# ---------------------------------------------------------------------------------------------------------------------


def _weighted(f: Callable[..., Any], weights: Sequence[Array]) -> Callable[..., list[Any]]:
    """The function that returns the floating results of f times fixed weights."""

    def terms(*args: Any) -> list[Any]:
        results = [leaf.value for leaf in flatten(f(*args))]
        floating = [y if isinstance(y, Tensor) else _value(y) for y in results if _is_floating(_value(y))]
        return [y * w.astype(y.dtype) for y, w in zip(floating, weights, strict=True)]

    return terms


def _gradient_of(terms: Callable[..., list[Any]], argnums: tuple[int, ...]) -> Callable[..., Any]:
    """The gradient of the sum of all terms."""
    return grad(lambda *args: sum(np.sum(t) for t in terms(*args)), argnums)


def _direction(shape: tuple[int, ...], draw: np.random.Generator) -> Array:
    """Random numbers of either sign and about one size: none so small that an error could hide behind it."""
    return draw.uniform(0.5, 1.5, shape) * draw.choice([-1.0, 1.0], shape)


def _scale(x: Array) -> Array:
    """How far to move each element, in steps: large ones further, so that they do move."""
    return np.maximum(np.abs(x), 1)


def _found(error: Callable[[Array], float], size: int) -> int:
    """An index with a large error, by halving; `error` takes an array of indices."""
    places = np.arange(size)
    while len(places) > 1:
        places = max(np.array_split(places, 2), key=error)
    return int(places[0])


def _size(terms: Sequence[Array]) -> float:
    """The sum of all absolute values."""
    return sum(float(np.sum(np.abs(t), dtype=np.float64)) for t in terms)


def _values(tree: Any) -> list[Array]:
    return [_value(leaf.value) for leaf in flatten(tree)]


def _value(leaf: Any) -> Array:
    """A leaf as an array, a number in float64."""
    return leaf.value if isinstance(leaf, Tensor) else np.asarray(leaf)


def _is_floating(array: Array) -> bool:
    return array.dtype.kind == "f"
