"""Derivatives by finite differences, on plain arrays: the oracle that rules are checked against.

Floor 1: nothing here knows Tensors or rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["numeric_derivative", "numeric_gradient", "step_for"]

Array: TypeAlias = "np.ndarray[Any, Any]"


def step_for(dtype: Any) -> float:
    """The relative step of a central difference: the cube root of the machine epsilon.

    A central difference with step h errs by about h^2 (truncation) plus epsilon / h (rounding), which is least there
    (Press et al., Numerical Recipes, section 5.7).

    >>> f"{step_for(np.float64):.0e}", f"{step_for(np.float32):.0e}"
    ('6e-06', '5e-03')
    """
    return float(np.finfo(dtype).eps) ** (1 / 3)


def numeric_gradient(
    f: Callable[..., Any], args: Sequence[Any], argnum: int = 0, step: float | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The whole gradient of `f(*args)`, one number, with respect to `args[argnum]`: one central difference per element.

    It calls f twice per element. By default the step fits the argument's dtype and, above 1, the element's size. The
    elements are moved in the argument's own dtype, the differences taken in float64.

    Shape: that of `args[argnum]`, in float64

    Raises TypeError for an argument that is not floating, ValueError where f does not return one number.

    >>> numeric_gradient(lambda x: np.sum(x * x), [np.array([1.0, 2.0])]).round(6)
    array([2., 4.])
    """
    x = np.array(args[argnum])
    _require_floating(x, argnum)
    gradient = np.empty(x.shape)
    arguments = [*args[:argnum], x, *args[argnum + 1 :]]
    for index in np.ndindex(x.shape):
        centre = x[index]
        h = step_for(x.dtype) * max(1.0, abs(float(centre))) if step is None else step
        x[index] = centre + h
        right, value_right = float(x[index]), _number(f(*arguments))
        x[index] = centre - h
        left, value_left = float(x[index]), _number(f(*arguments))
        x[index] = centre
        gradient[index] = (value_right - value_left) / (right - left)
    return gradient


def numeric_derivative(
    f: Callable[..., Any], args: Sequence[Any], directions: Sequence[Any], step: float | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The derivative of `f(*args)` along `directions`, one for each argument: one central difference.

    It calls f twice, whatever the sizes; along a random direction it is a random projection of the whole Jacobian. A
    direction of None leaves its argument where it is. By default the step fits the least precise dtype and, above 1,
    the largest element of the arguments that are moved.

    Shape: that of f's result, in float64

    Raises TypeError for a direction of an argument that is not floating.

    >>> numeric_derivative(lambda x: x * x, [np.array([1.0, 2.0])], [np.array([1.0, 0.0])]).round(6)
    array([2., 0.])
    """
    moved = [i for i, v in enumerate(directions) if v is not None]
    arrays = {i: np.asarray(args[i]) for i in moved}
    for i, x in arrays.items():
        _require_floating(x, i)
    if step is None:
        step = max((step_for(x.dtype) * np.max(np.abs(x), initial=1.0) for x in arrays.values()), default=1.0)
    h = float(step)

    def at(t: float) -> Array:
        point = list(args)
        for i, x in arrays.items():
            point[i] = np.asarray(x + t * np.asarray(directions[i]), dtype=x.dtype)
        return np.array(f(*point), dtype=np.float64)

    return (at(h) - at(-h)) / (2 * h)


def _require_floating(x: Array, argnum: int) -> None:
    if x.dtype.kind != "f":
        raise TypeError(f"argument {argnum} is {x.dtype}; a derivative needs floating numbers: x.astype(np.float64)")


def _number(y: Any) -> float:
    if np.size(y) != 1:
        raise ValueError(f"a gradient is that of one number; f returned shape {np.shape(y)}: sum it, or project it")
    return float(np.asarray(y).reshape(()))
