"""Losses as modules; the functions themselves are in `tinygrad_mm.functional`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tinygrad_mm import functional
from tinygrad_mm.nn.module import Module, as_tensor
from tinygrad_mm.tensor import Buffer, Tensor

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "NLLLoss",
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

    >>> MSELoss()([1.0, 2.0], [1.0, 4.0])
    Tensor(2., dtype=float32)
    """

    def forward(self, predictions: Any, targets: Any) -> Tensor:
        """mse_loss(predictions, targets)"""
        return functional.mse_loss(as_tensor(predictions), targets, self.reduction)


class L1Loss(_Loss):
    """`|prediction - target|`, averaged.

    Shape: (...), (...) -> () or, with reduction="none", (...)

    >>> L1Loss()([1.0, 2.0], [1.0, 4.0])
    Tensor(1., dtype=float32)
    """

    def forward(self, predictions: Any, targets: Any) -> Tensor:
        """l1_loss(predictions, targets)"""
        return functional.l1_loss(as_tensor(predictions), targets, self.reduction)


class HuberLoss(_Loss):
    """Squares of small distances, multiples of distances beyond `delta`, averaged (Huber 1964).

    Shape: (...), (...) -> () or, with reduction="none", (...)

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

    >>> KLDivLoss("batchmean")([[-0.5, -1.0]], [[1.0, 0.0]])
    Tensor(0.5, dtype=float32)
    """

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, log_predictions: Any, targets: Any) -> Tensor:
        """kl_div(log_predictions, targets)"""
        return functional.kl_div(as_tensor(log_predictions), targets, self.reduction, self.log_target)
