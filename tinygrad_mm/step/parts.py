"""What a training step is made of, checked before the first one: a model, a loss, and an optimizer of that model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_mm.data.structures import mapped
from tinygrad_mm.errors import caller
from tinygrad_mm.optim.lbfgs import LBFGS
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.pytree import flatten, unflatten
from tinygrad_mm.tensor import Tensor

__all__ = ["arranged", "check_loss", "check_parts", "computation", "detached", "not_a_loss"]


def arranged(batch: tuple[Any, ...], named: dict[str, Any]) -> tuple[list[Any], Any]:
    """The arrays of a batch, and how it is made of them: None for a batch that is a row of arrays.

    Tuples and dicts are taken apart.

    >>> arranged(("x", "y"), {})
    (['x', 'y'], None)
    >>> arranged((("x", "z"), "y"), {"mask": "m"})
    (['x', 'z', 'y', 'm'], (((0, 1), 2), {'mask': 3}))
    """
    arrays: list[Any] = []

    def number(array: Any) -> int:
        arrays.append(array)
        return len(arrays) - 1

    form = mapped(number, (batch, named))
    return arrays, None if form == (tuple(range(len(arrays))), {}) else form


def computation(model: Any, loss: Callable[[Any, Any], Any], form: Any, outputs: bool) -> Callable[..., Any]:
    """The loss as a function of the arrays of a batch, which is arranged as `form` says; with `outputs`, the prediction
    beside it, which takes no part in the gradient.
    """

    def plain(*arrays: Any) -> Any:
        return loss(model(*arrays[:-1]), arrays[-1])

    def arranged_as(*arrays: Any) -> Any:
        (*inputs, target), named = (arrays, {}) if form is None else mapped(arrays.__getitem__, form)
        prediction = model(*inputs, **named)
        value = loss(prediction, target)
        return (value, detached(prediction)) if outputs else value

    return plain if form is None and not outputs else arranged_as


def detached(prediction: Any) -> Any:
    """What a model returned, each Tensor outside the graph."""
    parts = [leaf.value for leaf in flatten(prediction)]
    return unflatten(prediction, iter([part.detach() if isinstance(part, Tensor) else part for part in parts]))


def check_parts(what: str, model: Any, loss: Callable[[Any, Any], Any], optimizer: Any) -> None:
    """Raise where these cannot make a training step, or would train nothing; warn where they would train a part.

    Raises TypeError for a class in place of an object and for LBFGS, ValueError where the optimizer has none of the
    parameters that the model could train. Warns where it lacks some.
    """
    if isinstance(model, type):
        raise TypeError(f"{what}: the model is the class {model.__name__}; make one first: {model.__name__}(...)")
    check_loss(what, loss)
    if isinstance(optimizer, type):
        raise TypeError(
            f"{what}: the optimizer is the class {optimizer.__name__}; make one first: "
            f"{optimizer.__name__}(model.parameters(), learning_rate=...)"
        )
    if isinstance(optimizer, LBFGS):
        raise TypeError(f"{what}: LBFGS asks for the loss several times a step; call optimizer.step(closure) yourself")
    if not hasattr(model, "named_parameters") or not isinstance(optimizer, Optimizer):
        return
    held = {id(p) for p in optimizer.parameters}
    parameters = list(model.named_parameters())
    missing = [path for path, p in parameters if p.requires_grad and id(p) not in held]
    if not missing:
        return
    name = type(optimizer).__name__
    if not any(id(p) in held for _, p in parameters):  # those that it has may be frozen for now
        raise ValueError(
            f"{what}: the optimizer has none of the model's parameters, so that nothing would be trained. They are "
            f"those of another model, of a copy, or of layers that were replaced since; write "
            f"{name}(model.parameters(), ...) after the last change of the model"
        )
    some = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    warnings.warn_explicit(
        f"{what}: the optimizer lacks {some}, which will not be trained; make it with {name}(model.parameters(), ...) "
        "after the last change of the model, or freeze() what is to stay as it is",
        UserWarning,
        *caller(),
    )


def check_loss(what: str, loss: Any) -> None:
    """Raise TypeError for a class in place of a loss, and for what cannot be called."""
    if isinstance(loss, type):
        raise TypeError(f"{what}: the loss is the class {loss.__name__}; make one first: {loss.__name__}()")
    if not callable(loss):
        raise TypeError(f"{what}: the loss is a {type(loss).__name__}; give a function loss(prediction, target)")


def not_a_loss(what: str, returned: Any) -> TypeError | None:
    """What to raise where a loss did not return one number in a graph; None where it did.

    >>> print(not_a_loss("fit", 0.5))
    fit: the loss returned a float, which has left the graph, so that nothing can be differentiated; return the Tensor \
itself, without float(), .item(), .data or .detach()
    """
    if returned is None:
        return TypeError(f"{what}: the loss returned None; its function ends without `return`")
    if isinstance(returned, Tensor):
        if returned.size == 1:
            return None
        shape = f"a Tensor of shape {returned.shape}"
        return TypeError(f"{what}: the loss returned {shape}; it must be one number, such as their mean")
    if isinstance(returned, (float, int, np.ndarray, np.generic)):
        return TypeError(
            f"{what}: the loss returned a {type(returned).__name__}, which has left the graph, so that nothing can be "
            "differentiated; return the Tensor itself, without float(), .item(), .data or .detach()"
        )
    return TypeError(f"{what}: the loss returned a {type(returned).__name__}; it must be one number, a Tensor")
