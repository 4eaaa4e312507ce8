"""Clipping: gradients cut down between `backward()` and `step()`, in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinygrad_mm.tensor import Tensor

__all__ = ["clip_grad_norm", "clip_grad_value", "members"]

BLOCK = 32 * 1024  # elements that are squared at a time


def members(parameters: Any) -> list[Tensor]:
    """The parameters of a model or an optimizer, or those of an iterable, each once; raises TypeError for others."""
    given = getattr(parameters, "parameters", parameters)
    given = given() if callable(given) else given
    tensors = [given] if isinstance(given, Tensor) else list(given)
    for t in tensors:
        if not isinstance(t, Tensor):
            raise TypeError(f"these are not parameters but hold a {type(t).__name__}; pass model.parameters()")
    return list({id(t): t for t in tensors}.values())


def clip_grad_norm(parameters: Iterable[Any] | Any, max_norm: float, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients by one factor so that their norm, taken together, is at most `max_norm`; return the norm.

    The norm is that before clipping (Pascanu, Mikolov and Bengio 2013), worked out in float64. Gradients keep their
    dtype. One that is infinite or NaN is returned as such, with all gradients left as they are (do not take the step
    then), or raises RuntimeError with `error_if_nonfinite`. `parameters` may be a model or an optimizer too;
    `max_norm=math.inf` only measures.

    Raises ValueError for a `max_norm` that is not positive, TypeError for what are no parameters.

    >>> w = Tensor([3.0, 4.0], requires_grad=True)
    >>> np.sum(w * w / 2).backward()
    >>> clip_grad_norm([w], max_norm=1.0)
    5.0
    >>> w.grad
    array([0.6, 0.8], dtype=float32)
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm: max_norm={max_norm} must be a positive number")
    with_gradient = [p for p in members(parameters) if p.grad is not None]
    norm = math.sqrt(sum(_sum_of_squares(p.grad) for p in with_gradient))
    if not math.isfinite(norm):
        if error_if_nonfinite:
            raise RuntimeError(f"clip_grad_norm: the norm is {norm}: {_culprit(with_gradient)}")
        return norm
    if norm > max_norm:
        _change(with_gradient, lambda g, **into: np.multiply(g, max_norm / norm, **into))
    return norm


def clip_grad_value(parameters: Iterable[Any] | Any, limit: float) -> None:
    """Clip every element of every gradient to [-limit, limit]; NaN stays NaN.

    `parameters` are as for `clip_grad_norm`. Raises ValueError for a `limit` that is not positive.

    >>> w = Tensor([3.0, -4.0], requires_grad=True)
    >>> np.sum(w * w).backward()
    >>> clip_grad_value([w], 7.0); w.grad
    array([ 6., -7.], dtype=float32)
    """
    if not limit > 0:
        raise ValueError(f"clip_grad_value: limit={limit} must be a positive number")
    if limit < math.inf:
        with_gradient = [p for p in members(parameters) if p.grad is not None]
        _change(with_gradient, lambda g, **into: np.minimum(g, min(limit, _largest(g)), **into))
        _change(with_gradient, lambda g, **into: np.maximum(g, -min(limit, _largest(g)), **into))


def _sum_of_squares(gradient: Any) -> float:
    flat = np.asarray(gradient).reshape(-1)
    total = 0.0
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK].astype(np.float64)
        total += float(part.dot(part))
    return total


def _change(parameters: list[Tensor], change: Callable[..., Any]) -> None:
    """Change the gradients, in place where they can be written to; an array that several share is changed once."""
    changed: dict[int, Any] = {}
    for p in parameters:
        before = p.grad
        if id(before) not in changed:
            array = np.asarray(before)
            out = array if array.flags.writeable else np.empty(array.shape, array.dtype)
            # in float32 at least: a small factor or a large limit is no float16
            dtype = np.result_type(array, np.float32)
            changed[id(before)] = before, change(array, out=out, dtype=dtype, casting="same_kind")
        p.grad = changed[id(before)][1]


def _largest(gradient: Any) -> float:
    return float(np.finfo(gradient.dtype).max)


def _culprit(parameters: list[Tensor]) -> str:
    for i, p in enumerate(parameters):
        finite = np.isfinite(p.grad)
        if not finite.all():
            name, count = p.name or f"parameter {i}", int(np.sum(~finite))
            return (
                f"the gradient of {name} (shape {p.shape}) has {count} elements that are infinite or NaN; look for "
                "their cause, or lower the learning rate"
            )
    return "all elements are finite but their squares are not; lower the learning rate"
