"""What type checkers are told of functions of arrays: a Tensor goes in and out, or an array, or a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

__all__ = ["OfArrays", "of_arrays"]

P = ParamSpec("P")
X = TypeVar("X")


class OfArrays(Protocol[P]):
    """A function whose result is of the kind of its first argument: a Tensor, an array, a number."""

    def __call__(self, x: X, /, *args: P.args, **kwargs: P.kwargs) -> X: ...


def of_arrays(function: Callable[Concatenate[Any, P], Any]) -> OfArrays[P]:
    """The function itself, typed as one of arrays.

    >>> of_arrays(abs)(-3)
    3
    """
    return cast(OfArrays[P], function)
