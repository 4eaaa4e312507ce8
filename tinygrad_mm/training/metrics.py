"""Metrics by name: numbers that say how good predictions are, for people; what is trained on is the loss.

Each is a function of arrays, `metric(prediction, target)`. Predictions of classes are scores (logits or probabilities)
of shape (..., classes), the target labels of shape (...); or, where there are two classes, one score each, of the
target's shape. Scores are logits, the second class above 0, unless a function is given another `threshold`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.training.weighing import ignored_by

__all__ = [
    "Metrics",
    "accuracy",
    "f1",
    "is_better_when_higher",
    "mae",
    "measured",
    "mse",
    "named_metrics",
    "precision",
    "r2",
    "recall",
    "top_k",
]

Metric: TypeAlias = "Callable[[Any, Any], Any]"
Metrics: TypeAlias = "Mapping[str, Metric | str] | Iterable[Metric | str]"


# ---------------------------------------------------------------------------------------------------------------------
# Classes
# ---------------------------------------------------------------------------------------------------------------------


def accuracy(prediction: Any, target: Any, threshold: float = 0.0) -> float:
    """The share of examples whose class is right.

    Shape: (..., classes), (...) -> (); or (...), (...) -> ()

    >>> accuracy(np.array([[0.1, 2.0], [1.0, 0.0]]), np.array([1, 1]))
    0.5
    """
    found, wanted = _classes("accuracy", prediction, target, threshold)
    return float(np.divide(np.count_nonzero(found == wanted), wanted.size))


def top_k(prediction: Any, target: Any, k: int = 5) -> float:
    """The share of examples whose class is among the `k` with the largest scores.

    Shape: (..., classes), (...) -> ()

    >>> top_k(np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), np.array([1, 2]), k=2)
    0.5
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape[:-1] != target.shape or not 0 < k <= prediction.shape[-1]:
        raise ValueError(
            f"top_k: predictions of shape {prediction.shape}, labels {target.shape}, k={k}; it needs (..., classes), "
            "(...) and k classes at least"
        )
    own = np.take_along_axis(prediction, target[..., None].astype(np.int64), -1)
    return float(np.mean(np.sum(prediction > own, axis=-1) < k))


def precision(prediction: Any, target: Any, threshold: float = 0.0) -> float:
    """The share of those taken for a class that are of it; of several classes, the mean over those that occur.

    Shape: (..., classes), (...) -> (); or (...), (...) -> ()

    >>> precision(np.array([1.0, 2.0, -1.0]), np.array([1, 0, 1]))
    0.5
    """
    hits, taken, _ = _counts("precision", prediction, target, threshold)
    return float(np.mean(hits / np.maximum(taken, 1)))


def recall(prediction: Any, target: Any, threshold: float = 0.0) -> float:
    """The share of a class that is taken for it; of several classes, the mean over those that occur.

    Shape: (..., classes), (...) -> (); or (...), (...) -> ()

    >>> recall(np.array([1.0, 2.0, -1.0]), np.array([1, 0, 1]))
    0.5
    """
    hits, _, there = _counts("recall", prediction, target, threshold)
    return float(np.mean(hits / np.maximum(there, 1)))


def f1(prediction: Any, target: Any, threshold: float = 0.0) -> float:
    """The harmonic mean of precision and recall (van Rijsbergen 1979); of several classes, the mean over those that
    occur.

    Shape: (..., classes), (...) -> (); or (...), (...) -> ()

    >>> f1(np.array([1.0, 2.0, -1.0]), np.array([1, 0, 1]))
    0.5
    """
    hits, taken, there = _counts("f1", prediction, target, threshold)
    return float(np.mean(2 * hits / np.maximum(taken + there, 1)))


def _classes(what: str, prediction: Any, target: Any, threshold: float) -> tuple[Any, Any]:
    """The class of each example as predicted, and as it is."""
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.ndim == target.ndim + 1 and prediction.shape[:-1] == target.shape and prediction.shape[-1] > 1:
        return prediction.argmax(-1), target
    if prediction.shape == target.shape:
        return prediction > threshold, target > 0.5
    raise ValueError(
        f"{what}: predictions of shape {prediction.shape} for a target of shape {target.shape}; it needs scores "
        "(..., classes) for labels (...), or, of two classes, one score each, of the target's shape"
    )


def _counts(what: str, prediction: Any, target: Any, threshold: float) -> tuple[Any, Any, Any]:
    """How many are of a class and taken for it, taken for it, and of it: for each class, of two for the second."""
    found, wanted = _classes(what, prediction, target, threshold)
    if found.dtype == bool:
        return np.sum(found & wanted), np.sum(found), np.sum(wanted)
    classes = np.union1d(found, wanted)
    right = found[found == wanted]
    return tuple(np.array([np.sum(a == c) for c in classes]) for a in (right, found, wanted))  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


def mae(prediction: Any, target: Any) -> float:
    """The mean absolute error. Shape: (...), (...) -> ()

    >>> mae(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    1.5
    """
    return float(np.mean(np.abs(_error("mae", prediction, target))))


def mse(prediction: Any, target: Any) -> float:
    """The mean squared error. Shape: (...), (...) -> ()

    >>> mse(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    2.5
    """
    return float(np.mean(_error("mse", prediction, target) ** 2))


def r2(prediction: Any, target: Any) -> float:
    """The coefficient of determination: 1 for right predictions, 0 for the target's mean; averaged over features.

    Shape: (n,), (n,) -> (); or (n, features), (n, features) -> ()

    >>> r2(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    0.5
    """
    left = np.sum(_error("r2", prediction, target) ** 2, axis=0)
    target = np.asarray(target, np.float64)
    all_of_it = np.sum((target - target.mean(0)) ** 2, axis=0)
    constant = all_of_it == 0  # a target that does not vary is explained, or not at all
    return float(np.mean(np.where(constant, left == 0, 1 - left / np.where(constant, 1, all_of_it))))


def _error(what: str, prediction: Any, target: Any) -> Any:
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    if prediction.shape != target.shape:
        raise ValueError(
            f"{what}: predictions of shape {prediction.shape} for a target of shape {target.shape}; make them equal, "
            "with target[:, None], say"
        )
    return prediction - target


# ---------------------------------------------------------------------------------------------------------------------
# By name
# ---------------------------------------------------------------------------------------------------------------------

NAMED: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "mae": mae,
    "mse": mse,
    "r2": r2,
}
OF_CLASSES = frozenset({"accuracy", "f1", "precision", "recall"})
BETTER_WHEN_HIGHER = OF_CLASSES | {"r2"}
TOP = re.compile(r"top_(\d+)")


def named_metrics(metrics: Metrics | None, loss: Any) -> dict[str, Metric]:
    """Metrics by the names that the history has for them.

    Names are those of the functions here, and "top_3" for the three classes with the largest scores. Where the loss
    takes probabilities of two classes, the second begins above 0.5; labels that it leaves out (`ignore_index`) are not
    looked at.

    Raises ValueError for unknown names.

    >>> list(named_metrics(["accuracy", "top_3"], None)), list(named_metrics({"error": mae, "top": "top_3"}, None))
    (['accuracy', 'top_3'], ['error', 'top'])
    """
    given = [metrics] if isinstance(metrics, str) or callable(metrics) else metrics or {}
    pairs = given.items() if isinstance(given, Mapping) else [(_name(one), one) for one in given]
    found = {name: _metric(one, loss) for name, one in pairs}
    taken = {"loss", "learning_rate"} & set(found)
    if taken:
        raise ValueError(f"fit: the history has its own {', '.join(taken)}; give the metric another name")
    return found


def measured(metrics: Mapping[str, Metric], prediction: Any, target: Any) -> dict[str, float]:
    """Each metric of predictions, by name.

    >>> measured({"error": mae}, np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    {'error': 1.5}
    """
    return {name: float(metric(prediction, target)) for name, metric in metrics.items()}


def is_better_when_higher(name: str) -> bool:
    """Whether the number of this name in a history is to be high: of losses and of unknown metrics, it is not.

    >>> is_better_when_higher("validation_top_5"), is_better_when_higher("loss")
    (True, False)
    """
    name = name.removeprefix("validation_")
    return name in BETTER_WHEN_HIGHER or TOP.fullmatch(name) is not None


def _name(metric: Metric | str) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def _metric(metric: Metric | str, loss: Any) -> Metric:
    if not isinstance(metric, str):
        return metric
    top = TOP.fullmatch(metric)
    if not top and metric not in NAMED:
        raise ValueError(
            f"fit: there is no metric {metric!r}; there are {', '.join(NAMED)} and top_5 (with any number), or give a "
            "function of arrays, metric(prediction, target)"
        )
    found: Any = functools.partial(top_k, k=int(top[1])) if top else NAMED[metric]
    if metric in OF_CLASSES and _takes_probabilities(loss):
        found = functools.partial(found, threshold=0.5)
    return functools.partial(_of_arrays, metric, found, ignored_by(loss))


def _of_arrays(name: str, metric: Metric, ignored: Any, prediction: Any, target: Any) -> Any:
    """A metric of what the loss does not leave out, 0 where that is nothing."""
    for what, given in (("prediction", prediction), ("target", target)):
        if isinstance(given, (tuple, list, dict)):
            raise TypeError(
                f"fit: the metric {name!r} is of arrays, and the {what} is a {type(given).__name__}; give a function "
                "metric(prediction, target) that picks the arrays it is about"
            )
    if ignored is None or (counted := target != ignored).all():
        return metric(prediction, target)
    return metric(prediction[counted], target[counted]) if counted.any() else 0.0


def _takes_probabilities(loss: Any) -> bool:
    """Whether a loss is the binary cross entropy of probabilities."""
    return (getattr(loss, "__name__", None) or type(loss).__name__) in ("binary_cross_entropy", "BCELoss")
