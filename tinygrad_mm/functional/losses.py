"""Loss functions: one number for how far predictions are from their targets.

`reduction` is "mean", "sum" or "none" everywhere. A target has the shape and dtype of the prediction: nothing is
broadcast or promoted silently.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.functional.activations import log_softmax, one_hot, pick, softmax, softplus
from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import Vertex, defvjp, named_call, primitive
from tinygrad_mm.rules.indexing import at_places, checked

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]

# ---------------------------------------------------------------------------------------------------------------------
# Labels: one class of several for each example
# ---------------------------------------------------------------------------------------------------------------------


@primitive
def _cross_entropy(logits: Any, labels: Any, reduction: str = "mean") -> Any:
    """logsumexp(logits) - logits[label] of each example, reduced.

    Raises ValueError for labels of another shape, or out of range.
    """
    z = logits - np.max(logits, axis=-1, keepdims=True)  # both terms less the largest logit: exp cannot overflow
    losses = np.squeeze(np.log(np.sum(np.exp(z), axis=-1, keepdims=True)), -1) - pick(z, labels)
    return _reduced(losses, reduction)


def _for_each(g: Any, labels: Any, reduction: str) -> Any:
    """The gradient of each example's loss, given g, the gradient of the reduced loss."""
    return np.expand_dims(g, -1) if reduction == "none" else g / max(labels.size, 1) if reduction == "mean" else g


defvjp(
    _cross_entropy,
    lambda g, y, logits, labels, reduction="mean": (
        _for_each(g, labels, reduction) * (softmax(logits) - one_hot(labels, logits.shape[-1], logits.dtype))
    ),
    None,
    signature="(..., classes), (...) -> () or (...)",
)


@of_arrays
@named_call
def cross_entropy(
    logits: Any,
    labels: Any,
    weight: Any = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """-log(softmax(logits)[label]), averaged over the examples; stable for logits of any size.

    `labels` are integers of shape (...), or probabilities of the shape of the logits. `weight`, of shape (classes,),
    weighs the classes; the mean is then the weighted one. Examples labelled `ignore_index` do not count (a mean over
    none is 0). `label_smoothing` mixes that share of the uniform distribution into the labels (Szegedy et al. 2016).

    Shape: (..., classes), (...) -> () or, with reduction="none", (...)

    Raises ValueError for shapes that do not fit, labels out of range and unknown options, TypeError for labels that
    are neither integers nor probabilities.

    >>> cross_entropy(np.array([[0.0, 0.0]]), np.array([1])).round(4)
    np.float64(0.6931)
    """
    _check_reduction("cross_entropy", reduction)
    logits, labels = _array(logits), _array(labels)
    if weight is None and ignore_index is None and not label_smoothing and labels.dtype.kind in "iu":
        try:
            return _cross_entropy(logits, labels, reduction) if reduction != "mean" else _cross_entropy(logits, labels)
        except (ValueError, IndexError) as error:
            failure = error
        # Most likely shapes that do not fit, or labels out of range: then these checks raise, and say which.
        _check_kind("cross_entropy", logits, labels)
        _check_range("cross_entropy", logits.shape[-1], None, getattr(labels, "value", labels))
        raise failure
    label_smoothing = float(label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing} is a share; it lies between 0 and 1")
    if labels.shape == logits.shape and labels.dtype.kind == "f":
        if labels.dtype != logits.dtype:
            raise TypeError(
                f"cross_entropy: the logits are {logits.dtype}, the probabilities {labels.dtype}; "
                f"write labels.astype(np.{logits.dtype})"
            )
        if ignore_index is not None:
            raise ValueError("cross_entropy: ignore_index is for integer labels; give such examples probabilities of 0")
        losses = _expected_loss(logits, labels, _class_weight("cross_entropy", weight, logits), label_smoothing)
        return _reduced(losses, reduction)
    labels = _checked_labels("cross_entropy", logits, labels, ignore_index)
    if not label_smoothing:
        return nll_loss(log_softmax(logits), labels, weight, ignore_index, reduction)
    weight = _class_weight("cross_entropy", weight, logits)
    losses = _expected_loss(logits, one_hot(labels, logits.shape[-1], logits.dtype), weight, label_smoothing)
    return _over_examples(losses, labels, weight, ignore_index, reduction, weighed=True)


def _expected_loss(logits: Any, probabilities: Any, weight: Any, label_smoothing: float) -> Any:
    """-sum(probability * log(softmax(logits))) of each example, the classes weighted."""
    if label_smoothing:
        probabilities = probabilities * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
    if weight is not None:
        probabilities = probabilities * weight
    return -np.sum(probabilities * log_softmax(logits), axis=-1)


@of_arrays
@named_call
def nll_loss(
    log_probabilities: Any, labels: Any, weight: Any = None, ignore_index: int | None = None, reduction: str = "mean"
) -> Any:
    """-log_probabilities[label], averaged over the examples: the negative log-likelihood of the labels.

    Of log_softmax(logits), it is the `cross_entropy` of the logits.

    `weight` and `ignore_index` are those of `cross_entropy`.

    Shape: (..., classes), (...) -> () or, with reduction="none", (...)

    Raises ValueError for shapes that do not fit, labels out of range and unknown options, TypeError for labels that
    are no integers.

    >>> nll_loss(np.log(np.array([[0.25, 0.75]])), np.array([1])).round(4)
    np.float64(0.2877)
    """
    log_probabilities, labels = _array(log_probabilities), _array(labels)
    _check_reduction("nll_loss", reduction)
    labels = _checked_labels("nll_loss", log_probabilities, labels, ignore_index)
    weight = _class_weight("nll_loss", weight, log_probabilities)
    places = labels if ignore_index is None else np.where(labels == ignore_index, 0, labels)
    losses = -np.take_along_axis(log_probabilities, places[..., None], axis=-1)[..., 0]
    return _over_examples(losses, labels, weight, ignore_index, reduction)


def _class_weight(name: str, weight: Any, logits: Any) -> Any:
    """The weights of the classes, checked."""
    weight = _factor(name, "weight", weight, logits)
    if weight is not None and weight.shape != logits.shape[-1:]:
        raise ValueError(
            f"{name}: weight has shape {weight.shape}; there are {logits.shape[-1]} classes, "
            f"so it needs shape {logits.shape[-1:]}"
        )
    return weight


def _over_examples(
    losses: Any, labels: Any, weight: Any, ignore_index: int | None, reduction: str, weighed: bool = False
) -> Any:
    """The examples' losses reduced, without the ignored ones; times their class weights, unless they are `weighed`."""
    if weight is None and ignore_index is None:
        return _reduced(losses, reduction)
    if ignore_index is None:
        weights = at_places(weight, labels)
    else:
        kept = labels != ignore_index
        losses = np.where(kept, losses, 0)
        weights = kept.astype(losses.dtype)
        if weight is not None:
            weights = weights * at_places(weight, np.where(kept, labels, 0))
    if weight is not None and not weighed:
        losses = losses * weights
    if reduction != "mean":
        return _reduced(losses, reduction)
    total = np.sum(weights)
    return np.sum(losses) / np.where(total == 0, 1, total)


# ---------------------------------------------------------------------------------------------------------------------
# Targets of the shape of the predictions
# ---------------------------------------------------------------------------------------------------------------------


@of_arrays
@named_call
def mse_loss(predictions: Any, targets: Any, reduction: str = "mean") -> Any:
    """(prediction - target)^2, averaged over all elements.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast), TypeError for different dtypes.

    >>> mse_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    np.float64(2.0)
    """
    predictions, targets = _pair("mse_loss", predictions, targets, reduction)
    return _reduced(np.square(predictions - targets), reduction)


@of_arrays
@named_call
def l1_loss(predictions: Any, targets: Any, reduction: str = "mean") -> Any:
    """|prediction - target|, averaged over all elements; the derivative at 0 is 0.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast), TypeError for different dtypes.

    >>> l1_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    np.float64(1.0)
    """
    predictions, targets = _pair("l1_loss", predictions, targets, reduction)
    return _reduced(np.absolute(predictions - targets), reduction)


@of_arrays
@named_call
def huber_loss(predictions: Any, targets: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """d^2 / 2 where d = |prediction - target| is up to delta, delta * (d - delta / 2) beyond (Huber 1964), averaged.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes and for a delta that is not positive, TypeError for different dtypes.

    >>> huber_loss(np.array([0.0, 0.0]), np.array([0.5, 3.0]), reduction="none")
    array([0.125, 2.5  ])
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta={delta} must be positive")
    predictions, targets = _pair("huber_loss", predictions, targets, reduction)
    distance = np.absolute(predictions - targets)
    near = np.minimum(distance, delta)
    return _reduced(near * (distance - 0.5 * near), reduction)


@of_arrays
@named_call
def smooth_l1_loss(predictions: Any, targets: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d^2 / (2 beta) where d = |prediction - target| is up to beta, d - beta / 2 beyond (Girshick 2015), averaged.

    That is `huber_loss` of delta = beta, divided by beta, and with beta = 0 the `l1_loss`.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes and for a negative beta, TypeError for different dtypes.

    >>> smooth_l1_loss(np.array([0.0, 0.0]), np.array([0.5, 3.0]), reduction="none", beta=2.0)
    array([0.0625, 2.    ])
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta={beta} must not be negative")
    predictions, targets = _pair("smooth_l1_loss", predictions, targets, reduction)
    if beta == 0:
        return l1_loss(predictions, targets, reduction)
    return huber_loss(predictions, targets, reduction, beta) / beta


@of_arrays
@named_call
def binary_cross_entropy_with_logits(
    logits: Any, targets: Any, weight: Any = None, reduction: str = "mean", positive_weight: Any = None
) -> Any:
    """-(t log(p) + (1 - t) log(1 - p)) with p = sigmoid(logit), averaged over all elements; stable for any logits.

    The targets t are probabilities. `weight` is a factor of each element's loss, `positive_weight` one of the term
    t log(p); both are broadcast.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast), TypeError for different dtypes.

    >>> binary_cross_entropy_with_logits(np.array([0.0, 1e4]), np.array([1.0, 1.0]), reduction="none").round(4)
    array([0.6931, 0.    ])
    """
    logits, targets = _pair("binary_cross_entropy_with_logits", logits, targets, reduction)
    weight = _factor("binary_cross_entropy_with_logits", "weight", weight, logits)
    positive_weight = _factor("binary_cross_entropy_with_logits", "positive_weight", positive_weight, logits)
    positive = targets * softplus(-logits)
    if positive_weight is not None:
        positive = positive * positive_weight
    losses = positive + (1 - targets) * softplus(logits)
    return _reduced(losses if weight is None else losses * weight, reduction)


@of_arrays
@named_call
def kl_div(log_predictions: Any, targets: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """Kullback-Leibler divergence: target * (log(target) - log_prediction), averaged over all elements.

    The predictions are log-probabilities, the targets probabilities, or log-probabilities with `log_target`. The
    divergence itself is the sum over an example's classes: `reduction="batchmean"` divides the sum by the length of
    the first axis.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast), TypeError for different dtypes.

    >>> kl_div(np.log(np.array([[0.5, 0.5]])), np.array([[1.0, 0.0]]), reduction="batchmean").round(4)
    np.float64(0.6931)
    """
    batchmean = reduction == "batchmean"
    log_predictions, targets = _pair("kl_div", log_predictions, targets, "sum" if batchmean else reduction)
    if log_target:
        losses = np.exp(targets) * (targets - log_predictions)
    else:
        losses = targets * (np.log(np.where(targets > 0, targets, 1)) - log_predictions)
    return np.sum(losses) / max(losses.shape[0], 1) if batchmean else _reduced(losses, reduction)


# ---------------------------------------------------------------------------------------------------------------------
# Shared by all losses
# ---------------------------------------------------------------------------------------------------------------------


def _array(a: Any) -> Any:
    """An array or Tensor as it is, anything else as an array."""
    return a if isinstance(a, Vertex) or type(a) is np.ndarray else as_array(a)


def _reduced(losses: Any, reduction: str) -> Any:
    return losses if reduction == "none" else np.mean(losses) if reduction == "mean" else np.sum(losses)


def _check_reduction(name: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        others = ", 'batchmean'" if name == "kl_div" else ""
        raise ValueError(f"{name}: reduction={reduction!r}; use 'mean', 'sum' or 'none'{others}")


def _cast(what: str, like: Any) -> str:
    return f"write {what}.astype(np.{like.dtype})"


def _factor(name: str, what: str, factor: Any, like: Any) -> Any:
    """A weight in the dtype of what it weighs, or None."""
    if factor is None:
        return None
    factor = _array(factor)
    if factor.dtype != like.dtype:
        raise TypeError(f"{name}: {what} is {factor.dtype}, the predictions {like.dtype}; {_cast(what, like)}")
    return factor


def _pair(name: str, predictions: Any, targets: Any, reduction: str) -> tuple[Any, Any]:
    """Predictions and targets of one shape and dtype."""
    _check_reduction(name, reduction)
    predictions, targets = _array(predictions), _array(targets)
    if predictions.shape != targets.shape:
        fix = "make them equal, so that nothing is broadcast by accident"
        if targets.size == predictions.size:
            fix = f"write targets.reshape({predictions.shape})"
        raise ValueError(f"{name}: predictions have shape {predictions.shape}, targets {targets.shape}; {fix}")
    if predictions.dtype.kind != "f":
        raise TypeError(f"{name}: predictions are {predictions.dtype}; write predictions.astype(np.float32)")
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"{name}: targets of dtype {targets.dtype} are no numbers; turn them into numbers first")
    if predictions.dtype != targets.dtype:
        raise TypeError(
            f"{name}: predictions are {predictions.dtype}, targets {targets.dtype}; {_cast('targets', predictions)}"
        )
    return predictions, targets


def _checked_labels(name: str, logits: Any, labels: Any, ignore_index: int | None) -> Any:
    """The labels, checked now and in each call of a compiled function."""
    _check_kind(name, logits, labels)
    return checked(labels, functools.partial(_check_range, name, logits.shape[-1], ignore_index))


def _check_kind(name: str, logits: Any, labels: Any) -> None:
    if labels.dtype.kind not in "fiub":
        raise TypeError(
            f"{name}: labels of dtype {labels.dtype} are no numbers; number the classes with "
            "names, labels = np.unique(labels, return_inverse=True)"
        )
    if logits.ndim == 0 or labels.shape != logits.shape[:-1]:
        fix = ""
        if labels.shape == logits.shape and labels.dtype.kind != "f":
            fix = f": as probabilities write labels.astype(np.{logits.dtype}), as class numbers labels.argmax(axis=-1)"
        elif labels.shape == (*logits.shape[:-1], 1):
            fix = ": write labels[..., 0]"
        raise ValueError(
            f"{name}: logits of shape {logits.shape} need integer labels of shape {logits.shape[:-1]} or floating "
            f"probabilities of shape {logits.shape}; these labels are {labels.dtype} of shape {labels.shape}{fix}"
        )
    if labels.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: labels of dtype {labels.dtype}; use labels.astype(np.int64) for class numbers, "
            f"or probabilities of shape {logits.shape}"
        )


def _check_range(name: str, classes: int, ignore_index: int | None, values: Any) -> None:
    if ignore_index is not None:
        values = values[values != ignore_index]
    if values.size and (np.minimum.reduce(values, axis=None) < 0 or np.maximum.reduce(values, axis=None) >= classes):
        fix = "" if ignore_index is not None else "; examples to be left out can be marked, with ignore_index=that mark"
        raise ValueError(
            f"{name}: labels lie in {values.min()}..{values.max()}, but logits of {classes} classes allow "
            f"0..{classes - 1} only{fix}"
        )
