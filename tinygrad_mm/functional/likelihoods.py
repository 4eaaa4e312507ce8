"""Losses that are likelihoods: of probabilities, of distributions of numbers, and of labels without places (CTC)."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from tinygrad_mm.functional.activations import logsumexp
from tinygrad_mm.functional.losses import _array, _check_reduction, _factor, _pair, _reduced
from tinygrad_mm.functional.sequences import sequence_mask, unstack
from tinygrad_mm.functional.typed import of_arrays
from tinygrad_mm.graph import named_call
from tinygrad_mm.rules.indexing import checked

__all__ = ["binary_cross_entropy", "ctc_loss", "gaussian_nll_loss", "poisson_nll_loss"]


@of_arrays
@named_call
def binary_cross_entropy(probabilities: Any, targets: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-(t log(p) + (1 - t) log(1 - p)), averaged over all elements; logarithms are at least -100.

    `targets` are probabilities too; `weight` weighs the elements, by broadcasting. Where p is the sigmoid of something,
    `binary_cross_entropy_with_logits` is exact for any logits.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes (nothing is broadcast) and for p outside [0, 1], TypeError for different
    dtypes.

    >>> binary_cross_entropy(np.array([0.5, 0.0]), np.array([1.0, 1.0]), reduction="none").round(4)
    array([  0.6931, 100.    ])
    """
    name = "binary_cross_entropy"
    probabilities, targets = _pair(name, probabilities, targets, reduction)
    weight = _factor(name, "weight", weight, probabilities)
    p = checked(probabilities, _check_probabilities)
    losses = -(targets * _logarithm(p) + (1 - targets) * _logarithm(1 - p))
    return _reduced(losses if weight is None else losses * weight, reduction)


def _logarithm(p: Any) -> Any:
    """log(p), and -100 for 0."""
    return np.where(p > 0, np.log(np.where(p > 0, p, 1)), -100)


def _check_probabilities(values: Any) -> None:
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"binary_cross_entropy: probabilities lie in [0, 1], these in [{values.min():g}, {values.max():g}]; for "
            "logits call binary_cross_entropy_with_logits"
        )


@of_arrays
@named_call
def gaussian_nll_loss(
    means: Any, targets: Any, variances: Any, reduction: str = "mean", full: bool = False, epsilon: float = 1e-6
) -> Any:
    """(log(variance) + (mean - target)^2 / variance) / 2, averaged: a negative log-likelihood, of normal targets.

    Variances below `epsilon` count as that (Nix and Weigend 1994). `full` adds the constant log(2 pi) / 2.

    Shape: (...), (...), (...) or what broadcasts to it -> () or, with reduction="none", (...)

    Raises ValueError for different shapes, TypeError for different dtypes.

    >>> gaussian_nll_loss(np.array([0.0]), np.array([2.0]), np.array([4.0])).round(4)
    np.float64(1.1931)
    """
    means, targets = _pair("gaussian_nll_loss", means, targets, reduction)
    variances = _factor("gaussian_nll_loss", "variances", variances, means)
    variances = np.maximum(variances, epsilon)
    distance = means - targets
    losses = 0.5 * (np.log(variances) + distance * distance / variances)
    return _reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


@of_arrays
@named_call
def poisson_nll_loss(log_rates: Any, targets: Any, reduction: str = "mean") -> Any:
    """exp(log_rate) - target * log_rate, averaged: a negative log-likelihood, of Poisson counts.

    A constant of the counts, log(target!), is left out.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises ValueError for different shapes, TypeError for different dtypes.

    >>> poisson_nll_loss(np.array([0.0]), np.array([2.0]))
    np.float64(1.0)
    """
    log_rates, targets = _pair("poisson_nll_loss", log_rates, targets, reduction)
    return _reduced(np.exp(log_rates) - targets * log_rates, reduction)


@of_arrays
@named_call
def ctc_loss(
    log_probabilities: Any,
    targets: Any,
    input_lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """-log of the probability of a sequence of labels, over all places where they may lie (Graves et al. 2006).

    At each step one class is emitted: a label, again and again, or the `blank` between labels. Sequences may be of
    different lengths; what lies beyond in `targets` does not count. The mean is over each loss divided by the number of
    its labels, as in PyTorch. A sequence that is too short for its labels has loss inf, or 0 with `zero_infinity`, and
    no gradient.

    Shape: (N, steps, classes), (N, labels), (N,), (N,) -> () or, with reduction="none", (N,)

    Raises ValueError for shapes that do not fit and for labels and lengths out of range, TypeError for those that are
    no integers.

    >>> half = np.log(np.full((1, 2, 2), 0.5))  # of the four ways, three say 1: (1, 1), (blank, 1), (1, blank)
    >>> ctc_loss(half, np.array([[1]])).round(4) == -np.log(3 / 4).round(4)
    np.True_
    """
    _check_reduction("ctc_loss", reduction)
    log_probabilities, targets = _array(log_probabilities), _array(targets)
    if log_probabilities.ndim != 3 or not log_probabilities.shape[1]:
        raise ValueError(
            f"ctc_loss: log_probabilities have shape {log_probabilities.shape}; they need (N, steps, classes)"
        )
    n, steps, classes = log_probabilities.shape
    if targets.ndim != 2 or targets.shape[0] != n:
        raise ValueError(f"ctc_loss: targets have shape {targets.shape}; they need ({n}, labels)")
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank={blank} is none of the classes 0..{classes - 1}")
    most = targets.shape[1]
    input_lengths = _lengths("input_lengths", input_lengths, n, steps)
    target_lengths = _lengths("target_lengths", target_lengths, n, most)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: targets of dtype {targets.dtype}; write targets.astype(np.int64)")
    labels = np.where(sequence_mask(target_lengths, most), targets, blank)
    labels = checked(labels, functools.partial(_check_labels, classes))

    # The labels with blanks between and around them, 2 * labels + 1 states; a path stays, goes on to the next state, or
    # over a blank to the next label, if that is another one.
    blanks = np.full((n, most + 1, 1), blank)
    between = np.concatenate([blanks[:, 1:], labels[..., None]], axis=2).reshape(n, 2 * most)
    states = np.concatenate([between, blanks[:, 0]], axis=1)
    over = np.concatenate([np.zeros((n, 2), bool), states[:, 2:] != states[:, :-2]], axis=1)[:, : 2 * most + 1]
    low = -1e30  # rather than -inf, whose differences are no numbers
    nowhere = np.full((n, 2), low, log_probabilities.dtype)
    emitted = np.take_along_axis(log_probabilities, np.broadcast_to(states[:, None], (n, steps, 2 * most + 1)), axis=2)
    first, *others = unstack(np.maximum(emitted, low), axis=1)
    beginning = np.arange(2 * most + 1) < 2
    alpha = np.where(beginning, first, low)
    for t, now in enumerate(others, 1):
        before = np.concatenate([nowhere, alpha], axis=1)
        ways = np.stack([alpha, before[:, 1:-1], np.where(over, before[:, :-2], low)])
        alpha = np.where((t < input_lengths)[:, None], logsumexp(ways, axis=0) + now, alpha)
    ends = np.concatenate([nowhere[:, :1], alpha], axis=1)  # state i at place i + 1
    last = 2 * target_lengths[:, None] + np.array([0, 1])
    total = logsumexp(np.take_along_axis(ends, last, axis=1), axis=1)
    losses = np.where(total > low / 2, -total, 0.0 if zero_infinity else math.inf)
    if reduction != "mean":
        return _reduced(losses, reduction)
    return np.mean(losses / np.maximum(target_lengths, 1).astype(losses.dtype))


def _lengths(what: str, lengths: Any, n: int, most: int) -> Any:
    """Lengths, checked; `most` for all where there are none."""
    if lengths is None:
        return np.full(n, most)
    lengths = _array(lengths)
    if lengths.shape != (n,):
        raise ValueError(f"ctc_loss: {what} have shape {lengths.shape}; they need {(n,)}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: {what} of dtype {lengths.dtype}; write {what}.astype(np.int64)")
    return checked(lengths, functools.partial(_check_range, what, most))


def _check_range(what: str, most: int, values: Any) -> None:
    if values.size and not 0 <= values.min() <= values.max() <= most:
        raise ValueError(f"ctc_loss: {what} lie in {values.min()}..{values.max()}, but there are {most}")


def _check_labels(classes: int, values: Any) -> None:
    if values.size and not 0 <= values.min() <= values.max() < classes:
        raise ValueError(
            f"ctc_loss: targets lie in {values.min()}..{values.max()}, but there are classes 0..{classes - 1} only; "
            "what is no label belongs beyond target_lengths"
        )
