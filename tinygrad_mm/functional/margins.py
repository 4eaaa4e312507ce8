"""Losses of scores and of embeddings: what belongs together should be nearer than what does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_mm.functional.activations import relu
from tinygrad_mm.functional.losses import (
    _array,
    _check_reduction,
    _checked_labels,
    _pair,
    _reduced,
    cross_entropy,
)
from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import named_call

__all__ = [
    "cosine_embedding_loss",
    "cosine_similarity",
    "hinge_loss",
    "info_nce_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "pairwise_distance",
    "triplet_margin_loss",
]


@of_arrays
@named_call
def cosine_similarity(a: Any, b: Any, axis: int = -1, epsilon: float = 1e-8) -> Any:
    """The cosine of the angle between vectors along an axis; a length below `epsilon` counts as `epsilon`.

    Shape: (..., n), (..., n) -> (...)

    Raises ValueError for shapes that do not broadcast.

    >>> cosine_similarity(np.array([3.0, 4.0]), np.array([0.0, 2.0]))
    np.float64(0.8)
    """
    lengths = [np.maximum(np.linalg.norm(v, axis=axis), epsilon) for v in (a, b)]
    return np.sum(a * b, axis=axis) / (lengths[0] * lengths[1])


@of_arrays
@named_call
def pairwise_distance(a: Any, b: Any, p: float = 2.0, epsilon: float = 1e-6) -> Any:
    """The p-norm of a - b + epsilon along the last axis; epsilon keeps it away from the kink at 0.

    Shape: (..., n), (..., n) -> (...)

    Raises ValueError for shapes that do not broadcast.

    >>> pairwise_distance(np.array([3.0, 4.0]), np.zeros(2)).round(4)
    np.float64(5.0)
    """
    return np.linalg.norm(a - b + epsilon, ord=p, axis=-1)


@of_arrays
@named_call
def hinge_loss(predictions: Any, targets: Any, reduction: str = "mean", margin: float = 1.0) -> Any:
    """max(margin - target * prediction, 0), averaged; targets are -1 or 1 (Cortes and Vapnik 1995).

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast), TypeError for different dtypes.

    >>> hinge_loss(np.array([2.0, 0.5]), np.array([1.0, -1.0]), reduction="none")
    array([0. , 1.5])
    """
    predictions, targets = _pair("hinge_loss", predictions, targets, reduction)
    return _reduced(relu(margin - targets * predictions), reduction)


@of_arrays
@named_call
def margin_ranking_loss(a: Any, b: Any, targets: Any, reduction: str = "mean", margin: float = 0.0) -> Any:
    """max(margin - target * (a - b), 0), averaged: where the target is 1, a should be larger, where it is -1, smaller.

    Shape: (...), (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast), TypeError for different dtypes.

    >>> margin_ranking_loss(np.array([2.0]), np.array([1.5]), np.array([1.0]), margin=1.0)
    np.float64(0.5)
    """
    a, b = _pair("margin_ranking_loss", a, b, reduction)
    return hinge_loss(a - b, targets, reduction, margin)


@of_arrays
@named_call
def multi_margin_loss(scores: Any, labels: Any, reduction: str = "mean", margin: float = 1.0) -> Any:
    """The sum over all other classes of max(margin - score[label] + score, 0), divided by the number of classes.

    The hinge loss for several classes (Weston and Watkins 1999), averaged over the examples.

    Shape: (..., classes), (...) -> () or, with reduction="none", (...)

    Raises ValueError for shapes that do not fit and labels out of range, TypeError for labels that are no integers.

    >>> multi_margin_loss(np.array([[1.0, 0.5, -1.0, 2.0]]), np.array([0]))
    np.float64(0.625)
    """
    scores, labels = _array(scores), _array(labels)
    _check_reduction("multi_margin_loss", reduction)
    labels = _checked_labels("multi_margin_loss", scores, labels, None)
    own = np.take_along_axis(scores, labels[..., None], axis=-1)
    others = np.arange(scores.shape[-1]) != labels[..., None]
    losses = np.sum(np.where(others, relu(margin - own + scores), 0), axis=-1) * (1 / scores.shape[-1])
    return _reduced(losses, reduction)


@of_arrays
@named_call
def cosine_embedding_loss(a: Any, b: Any, targets: Any, reduction: str = "mean", margin: float = 0.0) -> Any:
    """1 - cos(a, b) of pairs with target 1, max(cos(a, b) - margin, 0) of those with target -1, averaged.

    Shape: (N, n), (N, n), (N,) -> () or, with reduction="none", (N,)

    Raises ValueError for shapes that do not fit, TypeError for different dtypes.

    >>> a, b = np.array([[3.0, 4.0], [3.0, 4.0]]), np.array([[0.0, 2.0], [0.0, 2.0]])
    >>> cosine_embedding_loss(a, b, np.array([1, -1]), reduction="none").round(4)
    array([0.2, 0.8])
    """
    a, b = _pair("cosine_embedding_loss", a, b, reduction)
    targets = _array(targets)
    if a.ndim < 1 or targets.shape != a.shape[:-1]:
        raise ValueError(
            f"cosine_embedding_loss: targets have shape {targets.shape}; pairs of shape {a.shape} need {a.shape[:-1]}"
        )
    # PyTorch adds to the squares rather than bounding the lengths.
    squares = [np.sum(v * v, axis=-1) + 1e-12 for v in (a, b)]
    cosine = np.sum(a * b, axis=-1) / np.sqrt(squares[0] * squares[1])
    return _reduced(np.where(targets > 0, 1 - cosine, relu(cosine - margin)), reduction)


@of_arrays
@named_call
def triplet_margin_loss(
    anchors: Any,
    positives: Any,
    negatives: Any,
    reduction: str = "mean",
    margin: float = 1.0,
    p: float = 2.0,
    epsilon: float = 1e-6,
    swap: bool = False,
) -> Any:
    """max(d(anchor, positive) - d(anchor, negative) + margin, 0), averaged (Schroff et al. 2015).

    d is `pairwise_distance`. With `swap`, the nearer of anchor and positive is compared with the negative (Balntas et
    al. 2016).

    Shape: (..., n), (..., n), (..., n) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast), TypeError for different dtypes.

    >>> triplet_margin_loss(np.array([[0.0]]), np.array([[1.0]]), np.array([[1.5]])).round(3)
    np.float64(0.5)
    """
    name = "triplet_margin_loss"
    anchors, positives = _pair(name, anchors, positives, reduction)
    anchors, negatives = _pair(name, anchors, negatives, reduction)
    near, far = pairwise_distance(anchors, positives, p, epsilon), pairwise_distance(anchors, negatives, p, epsilon)
    if swap:
        far = np.minimum(far, pairwise_distance(positives, negatives, p, epsilon))
    return _reduced(relu(near - far + margin), reduction)


@of_arrays
@named_call
def info_nce_loss(
    queries: Any, keys: Any, reduction: str = "mean", temperature: float = 0.1, symmetric: bool = False
) -> Any:
    """Contrastive loss: the cross entropy of finding each query's key among all keys, by cosine / temperature.

    Key i belongs to query i, all others are negatives (van den Oord et al. 2018; Chen et al. 2020). With `symmetric`,
    each key must find its query too, and the loss is the mean of both (Radford et al. 2021).

    Shape: (N, n), (N, n) -> () or, with reduction="none", (N,)

    Raises ValueError for shapes that do not fit and a temperature that is not positive, TypeError for different dtypes.

    >>> info_nce_loss(np.eye(2), np.eye(2), temperature=0.5).round(4) == np.log(1 + np.exp(-2)).round(4)
    np.True_
    """
    queries, keys = _pair("info_nce_loss", queries, keys, reduction)
    if queries.ndim != 2:
        raise ValueError(f"info_nce_loss: queries have shape {queries.shape}; they need (N, features)")
    if not temperature > 0:
        raise ValueError(f"info_nce_loss: temperature={temperature} must be positive")
    units = [v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-8) for v in (queries, keys)]
    scores = (units[0] * (1 / temperature)) @ units[1].swapaxes(-1, -2)
    labels = np.arange(scores.shape[0])
    losses = cross_entropy(scores, labels, reduction=reduction)
    if not symmetric:
        return losses
    return 0.5 * (losses + cross_entropy(scores.swapaxes(-1, -2), labels, reduction=reduction))
