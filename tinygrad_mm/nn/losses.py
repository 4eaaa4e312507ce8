"""Losses as modules; the functions themselves are in `tinygrad_mm.functional`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tinygrad_mm import functional
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeLoss",
    "HuberLoss",
    "InfoNCELoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "TripletMarginLoss",
]


class _Loss(Module):
    """A loss whose only option is how it is reduced."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def describe(self) -> str:
        """The options that differ from the usual ones."""
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """`(prediction - target) ** 2`, averaged.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.mse_loss` does.

    >>> MSELoss()([1.0, 2.0], [1.0, 4.0])
    Tensor(2., dtype=float32)
    """

    def forward(self, predictions: Any, targets: Any) -> Tensor:
        """mse_loss(predictions, targets)"""
        return functional.mse_loss(as_tensor(predictions), targets, self.reduction)


class L1Loss(_Loss):
    """`|prediction - target|`, averaged.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.l1_loss` does.

    >>> L1Loss()([1.0, 2.0], [1.0, 4.0])
    Tensor(1., dtype=float32)
    """

    def forward(self, predictions: Any, targets: Any) -> Tensor:
        """l1_loss(predictions, targets)"""
        return functional.l1_loss(as_tensor(predictions), targets, self.reduction)


class HuberLoss(_Loss):
    """Half the square of distances up to `delta`, linear beyond, averaged (Huber 1964); see `huber_loss`.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.huber_loss` does.

    >>> HuberLoss()([0.0, 0.0], [0.5, 3.0])
    Tensor(1.3125, dtype=float32)
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, predictions: Any, targets: Any) -> Tensor:
        """huber_loss(predictions, targets)"""
        return functional.huber_loss(as_tensor(predictions), targets, self.reduction, self.delta)


class CrossEntropyLoss(_Loss):
    """`-log(softmax(logits)[label])`, averaged; the options are those of `cross_entropy`.

    Shape: (..., classes), (...) -> () or, with reduction="none", (...)

    Raises as `functional.cross_entropy` does.

    >>> round(CrossEntropyLoss()([[0.0, 0.0]], [1]).item(), 4)
    0.6931
    """

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, logits: Any, labels: Any) -> Tensor:
        """cross_entropy(logits, labels)"""
        return functional.cross_entropy(
            as_tensor(logits), labels, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(_Loss):
    """`-log_probabilities[label]`, averaged; the options are those of `nll_loss`.

    Shape: (..., classes), (...) -> () or, with reduction="none", (...)

    Raises as `functional.nll_loss` does.

    >>> NLLLoss()([[-1.0, -0.5]], [1])
    Tensor(0.5, dtype=float32)
    """

    def __init__(self, weight: Any = None, ignore_index: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.ignore_index = ignore_index

    def forward(self, log_probabilities: Any, labels: Any) -> Tensor:
        """nll_loss(log_probabilities, labels)"""
        return functional.nll_loss(as_tensor(log_probabilities), labels, self.weight, self.ignore_index, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross entropy of logits, averaged; the options are those of `binary_cross_entropy_with_logits`.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.binary_cross_entropy_with_logits` does.

    >>> round(BCEWithLogitsLoss()([0.0], [1.0]).item(), 4)
    0.6931
    """

    torch_names: ClassVar[Mapping[str, str]] = {"positive_weight": "pos_weight"}

    def __init__(self, weight: Any = None, reduction: str = "mean", positive_weight: Any = None) -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)
        self.positive_weight = None if positive_weight is None else Buffer(positive_weight)

    def forward(self, logits: Any, targets: Any) -> Tensor:
        """binary_cross_entropy_with_logits(logits, targets)"""
        return functional.binary_cross_entropy_with_logits(
            as_tensor(logits), targets, self.weight, self.reduction, self.positive_weight
        )


class KLDivLoss(_Loss):
    """The Kullback-Leibler divergence of log-probabilities from targets; the options are those of `kl_div`.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.kl_div` does.

    >>> KLDivLoss("batchmean")([[-0.5, -1.0]], [[1.0, 0.0]])
    Tensor(0.5, dtype=float32)
    """

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, log_predictions: Any, targets: Any) -> Tensor:
        """kl_div(log_predictions, targets)"""
        return functional.kl_div(as_tensor(log_predictions), targets, self.reduction, self.log_target)


class SmoothL1Loss(_Loss):
    """`d^2 / (2 beta)` for distances d up to `beta`, linear beyond, averaged (Girshick 2015); see `smooth_l1_loss`.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.smooth_l1_loss` does.

    >>> SmoothL1Loss()([0.0, 0.0], [0.5, 3.0])
    Tensor(1.3125, dtype=float32)
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, predictions: Any, targets: Any) -> Tensor:
        """smooth_l1_loss(predictions, targets)"""
        return functional.smooth_l1_loss(as_tensor(predictions), targets, self.reduction, self.beta)


class BCELoss(_Loss):
    """Binary cross entropy of probabilities, averaged; the options are those of `binary_cross_entropy`.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.binary_cross_entropy` does.

    >>> round(BCELoss()([0.5], [1.0]).item(), 4)
    0.6931
    """

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)

    def forward(self, probabilities: Any, targets: Any) -> Tensor:
        """binary_cross_entropy(probabilities, targets)"""
        return functional.binary_cross_entropy(as_tensor(probabilities), targets, self.weight, self.reduction)


class GaussianNLLLoss(_Loss):
    """Negative log-likelihood of normal targets, averaged; the options are those of `gaussian_nll_loss`.

    Shape: (...), (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.gaussian_nll_loss` does.

    >>> GaussianNLLLoss()([0.0], [2.0], [1.0])
    Tensor(2., dtype=float32)
    """

    def __init__(self, reduction: str = "mean", full: bool = False, epsilon: float = 1e-6) -> None:
        super().__init__(reduction)
        self.full, self.epsilon = full, epsilon

    def forward(self, means: Any, targets: Any, variances: Any) -> Tensor:
        """gaussian_nll_loss(means, targets, variances)"""
        options = self.reduction, self.full, self.epsilon
        return functional.gaussian_nll_loss(as_tensor(means), targets, variances, *options)


class PoissonNLLLoss(_Loss):
    """Negative log-likelihood of Poisson counts, given log-rates, averaged; see `poisson_nll_loss`.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.poisson_nll_loss` does.

    >>> PoissonNLLLoss()([0.0], [2.0])
    Tensor(1., dtype=float32)
    """

    def forward(self, log_rates: Any, targets: Any) -> Tensor:
        """poisson_nll_loss(log_rates, targets)"""
        return functional.poisson_nll_loss(as_tensor(log_rates), targets, self.reduction)


class CTCLoss(_Loss):
    """Connectionist temporal classification (Graves et al. 2006): `-log` of the probability of a sequence of labels.

    The sum is over all places where the labels may lie; the options are those of `ctc_loss`.

    Shape: (N, steps, classes), (N, labels), (N,), (N,) -> () or, with reduction="none", (N,)

    Raises as `functional.ctc_loss` does.

    >>> import numpy as np
    >>> round(CTCLoss()(np.log(np.full((1, 2, 2), 0.5)), [[1]]).item(), 4)
    0.2877
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction)
        self.blank, self.zero_infinity = blank, zero_infinity

    def forward(
        self, log_probabilities: Any, targets: Any, input_lengths: Any = None, target_lengths: Any = None
    ) -> Tensor:
        """ctc_loss(log_probabilities, targets, input_lengths, target_lengths)"""
        given = as_tensor(log_probabilities), targets, input_lengths, target_lengths
        return functional.ctc_loss(*given, self.blank, self.reduction, self.zero_infinity)


class _MarginLoss(_Loss):
    """A loss with a margin."""

    def __init__(self, reduction: str = "mean", margin: float = 1.0) -> None:
        super().__init__(reduction)
        self.margin = margin

    def describe(self) -> str:
        """The margin, and how the loss is reduced."""
        return ", ".join(filter(None, [f"margin={self.margin}", super().describe()]))


class HingeLoss(_MarginLoss):
    """`max(margin - target * prediction, 0)`, averaged; targets are -1 or 1 (Cortes and Vapnik 1995).

    Shape: (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.hinge_loss` does.

    >>> HingeLoss()([2.0, 0.5], [1.0, -1.0])
    Tensor(0.75, dtype=float32)
    """

    def forward(self, predictions: Any, targets: Any) -> Tensor:
        """hinge_loss(predictions, targets)"""
        return functional.hinge_loss(as_tensor(predictions), targets, self.reduction, self.margin)


class MultiMarginLoss(_MarginLoss):
    """Hinge loss for several classes, averaged (Weston and Watkins 1999): see `multi_margin_loss`.

    Shape: (..., classes), (...) -> () or, with reduction="none", (...)

    Raises as `functional.multi_margin_loss` does.

    >>> MultiMarginLoss()([[1.0, 0.5, -1.0, 2.0]], [0])
    Tensor(0.625, dtype=float32)
    """

    def forward(self, scores: Any, labels: Any) -> Tensor:
        """multi_margin_loss(scores, labels)"""
        return functional.multi_margin_loss(as_tensor(scores), labels, self.reduction, self.margin)


class MarginRankingLoss(_MarginLoss):
    """`max(margin - target * (a - b), 0)`, averaged; targets are 1 where a should be larger, -1 where b should.

    Shape: (...), (...), (...) -> () or, with reduction="none", (...)

    Raises as `functional.margin_ranking_loss` does.

    >>> MarginRankingLoss(margin=1.0)([2.0], [1.5], [1.0])
    Tensor(0.5, dtype=float32)
    """

    def __init__(self, reduction: str = "mean", margin: float = 0.0) -> None:
        super().__init__(reduction, margin)

    def forward(self, a: Any, b: Any, targets: Any) -> Tensor:
        """margin_ranking_loss(a, b, targets)"""
        return functional.margin_ranking_loss(as_tensor(a), as_tensor(b), targets, self.reduction, self.margin)


class CosineEmbeddingLoss(_MarginLoss):
    """`1 - cos(a, b)` of pairs with target 1, `max(cos(a, b) - margin, 0)` of those with target -1, averaged.

    Shape: (N, n), (N, n), (N,) -> () or, with reduction="none", (N,)

    Raises as `functional.cosine_embedding_loss` does.

    >>> round(CosineEmbeddingLoss()([[3.0, 4.0]], [[0.0, 2.0]], [1]).item(), 4)
    0.2
    """

    def __init__(self, reduction: str = "mean", margin: float = 0.0) -> None:
        super().__init__(reduction, margin)

    def forward(self, a: Any, b: Any, targets: Any) -> Tensor:
        """cosine_embedding_loss(a, b, targets)"""
        return functional.cosine_embedding_loss(as_tensor(a), as_tensor(b), targets, self.reduction, self.margin)


class TripletMarginLoss(_MarginLoss):
    """`max(d(anchor, positive) - d(anchor, negative) + margin, 0)`, averaged (Schroff et al. 2015).

    The options are those of `triplet_margin_loss`.

    Shape: (..., n), (..., n), (..., n) -> () or, with reduction="none", (...)

    Raises as `functional.triplet_margin_loss` does.

    >>> round(TripletMarginLoss()([[0.0]], [[1.0]], [[1.5]]).item(), 4)
    0.5
    """

    def __init__(
        self, reduction: str = "mean", margin: float = 1.0, p: float = 2.0, epsilon: float = 1e-6, swap: bool = False
    ) -> None:
        super().__init__(reduction, margin)
        self.p, self.epsilon, self.swap = p, epsilon, swap

    def forward(self, anchors: Any, positives: Any, negatives: Any) -> Tensor:
        """triplet_margin_loss(anchors, positives, negatives)"""
        given = as_tensor(anchors), as_tensor(positives), as_tensor(negatives)
        return functional.triplet_margin_loss(*given, self.reduction, self.margin, self.p, self.epsilon, self.swap)


class InfoNCELoss(_Loss):
    """Contrastive loss: finding each query's key among all keys; the options are those of `info_nce_loss`.

    Shape: (N, n), (N, n) -> () or, with reduction="none", (N,)

    Raises as `functional.info_nce_loss` does.

    >>> round(InfoNCELoss(temperature=0.5)([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]).item(), 4)
    0.1269
    """

    def __init__(self, reduction: str = "mean", temperature: float = 0.1, symmetric: bool = False) -> None:
        super().__init__(reduction)
        self.temperature, self.symmetric = temperature, symmetric

    def forward(self, queries: Any, keys: Any) -> Tensor:
        """info_nce_loss(queries, keys)"""
        given = as_tensor(queries), as_tensor(keys)
        return functional.info_nce_loss(*given, self.reduction, self.temperature, self.symmetric)
