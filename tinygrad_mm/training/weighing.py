"""Weights of examples and of classes in a loss."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.nn import Module
from tinygrad_mm.tensor import Tensor

__all__ = ["ignored_by", "weighted"]


def weighted(loss: Callable[..., Any], classes: Mapping[int, float] | None, samples: bool) -> Callable[[Any, Any], Any]:
    """A loss that is the mean over the examples of `weight * loss of the example`.

    The weight is the product of that of the example, given beside the target where there are `samples`, and of that of
    its class (1 for those that `classes` leaves out). What the loss leaves out (`ignore_index`) is no example.

    Raises TypeError for a loss that cannot be had example by example, ValueError for classes that are no labels.

    >>> from tinygrad_mm.functional import cross_entropy
    >>> logits, labels = np.zeros((2, 2), np.float32), np.array([0, 1])
    >>> round(float(weighted(cross_entropy, {1: 3.0}, False)(logits, labels) / cross_entropy(logits, labels)), 4)
    2.0
    """
    each = _for_each_example(loss)
    table = None if classes is None else _checked(classes)
    ignored = ignored_by(loss)

    def weighted_loss(prediction: Any, target: Any) -> Any:
        target, weight = target if samples else (target, None)
        lost = each(prediction, target)
        counted = None if ignored is None else target != ignored
        if table is not None:
            labels = target if counted is None else np.where(counted, target, 0)
            lost = lost * _of_classes(table, prediction, labels, lost)
        if weight is not None:
            lost = lost * weight.astype(lost.dtype).reshape(*weight.shape, *[1] * (lost.ndim - weight.ndim))
        if counted is None:
            return np.mean(lost)
        return np.sum(lost) / np.maximum(np.sum(counted.astype(lost.dtype)), 1)

    return weighted_loss


def ignored_by(loss: Any) -> Any:
    """The label of what a loss leaves out, its `ignore_index`: padding. None where it leaves nothing out.

    >>> from tinygrad_mm.functional import cross_entropy
    >>> ignored_by(functools.partial(cross_entropy, ignore_index=-1)), ignored_by(cross_entropy)
    (-1, None)
    """
    if isinstance(loss, functools.partial):
        return loss.keywords["ignore_index"] if "ignore_index" in loss.keywords else ignored_by(loss.func)
    return getattr(loss, "ignore_index", None)


def _for_each_example(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The same loss without its last step, the mean."""
    if isinstance(loss, Module) and hasattr(loss, "reduction"):
        each = copy.copy(loss)
        each.reduction = "none"
        return each
    try:
        takes = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        takes = False
    if not takes:
        raise TypeError(
            "fit: class_weight and sample_weight need a loss that can be had for each example, by reduction='none' "
            "(as tg.cross_entropy, nn.MSELoss() and their like can); weigh inside the loss instead"
        )
    return functools.partial(loss, reduction="none")


def _checked(classes: Mapping[int, float]) -> dict[int, float]:
    if not isinstance(classes, Mapping):  # a sequence: a weight for each class
        classes = dict(enumerate(classes))
    for label, weight in classes.items():
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or label < 0 or not weight >= 0:
            raise ValueError(
                f"fit: class_weight has {label!r}: {weight!r}; it is a dict of labels, from 0, and weights, which are "
                "not negative"
            )
    return {int(label): float(weight) for label, weight in classes.items()}


def _of_classes(table: dict[int, float], prediction: Any, target: Any, lost: Any) -> Any:
    """The weight of each example's class."""
    if target.ndim == prediction.ndim - 1:
        count = prediction.shape[-1]
    elif target.shape == prediction.shape:
        count = 2
    else:
        raise ValueError(
            f"fit: class_weight is for labels (...) of scores (..., classes), or of the scores' shape; these are "
            f"{target.shape} for {prediction.shape}"
        )
    if max(table, default=0) >= count:
        raise ValueError(f"fit: class_weight has the class {max(table)}; there are {count}, from 0")
    weights = np.ones(count, lost.dtype)
    weights[list(table)] = list(table.values())
    return Tensor(weights)[target.astype(np.int64)]
