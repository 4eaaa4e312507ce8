"""Relatives of Adam: each one formula, as its paper gives it. `fused` is what `Optimizer` says of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_mm.optim.algorithms import Adam
from tinygrad_mm.optim.optimizer import Optimizer

__all__ = ["AMSGrad", "Adadelta", "Adamax", "NAdam", "RAdam"]


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012): steps as large as the root mean square of those before, so that units are right.

    `smoothing` is the decay rate of the running means. `weight_decay` adds that multiple of the parameter to its
    gradient. The paper's learning rate is 1.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adadelta([w], smoothing=0.75, epsilon=1.0)
    >>> np.sum(w * w).backward(); optimizer.step(); w.data.round(4)
    array([-0.4142,  0.2111], dtype=float32)
    """

    states = ("mean_square", "mean_square_step")

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1.0,
        smoothing: Any = 0.9,
        epsilon: Any = 1e-6,
        weight_decay: Any = 0.0,
        *,
        fused: bool = False,
    ) -> None:
        options = {"smoothing": smoothing, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(parameters, learning_rate, fused=fused, **options)

    def check(self, group: dict[str, Any]) -> None:
        """Options: smoothing in [0, 1), epsilon and weight_decay >= 0."""
        super().check(group)
        self.require(group, "smoothing", below=1)
        self.require(group, "epsilon")
        self.require(group, "weight_decay")

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        mean_square: Any,
        mean_square_step: Any,
        learning_rate: Any,
        step: Any,
        *,
        smoothing: Any,
        epsilon: Any,
        weight_decay: Any,
    ) -> tuple[Any, ...]:
        """Algorithm 1 of the paper: d = g √(E[d²] + epsilon) / √(E[g²] + epsilon);  w = w - learning_rate d."""
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean_square = smoothing * mean_square + (1 - smoothing) * (gradient * gradient)
        direction = np.sqrt(mean_square_step + epsilon) / np.sqrt(mean_square + epsilon) * gradient
        mean_square_step = smoothing * mean_square_step + (1 - smoothing) * (direction * direction)
        return parameter - learning_rate * direction, mean_square, mean_square_step


class Adamax(Adam):
    """Adamax (Kingma and Ba 2015, section 7.1): Adam with the largest gradient of late in place of a mean square.

    `weight_decay` adds that multiple of the parameter to its gradient. `epsilon` is added to the size of the gradient,
    as in PyTorch.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adamax([w], learning_rate=0.5)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.5, 1.5], dtype=float32, requires_grad=True)
    """

    states = ("mean", "largest")

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 2e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        epsilon: Any = 1e-8,
        weight_decay: Any = 0.0,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__(parameters, learning_rate, betas, epsilon, weight_decay, fused=fused)

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        mean: Any,
        largest: Any,
        learning_rate: Any,
        step: Any,
        *,
        betas: tuple[Any, Any],
        epsilon: Any,
        weight_decay: Any,
    ) -> tuple[Any, ...]:
        """Algorithm 2 of the paper: u = max(beta2 u, |g|);  w = w - learning_rate / (1 - beta1^t) m / u."""
        beta1, beta2 = betas
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean = beta1 * mean + (1 - beta1) * gradient
        largest = np.maximum(beta2 * largest, np.absolute(gradient) + epsilon)
        return parameter - learning_rate / (1 - beta1**step) * (mean / largest), mean, largest


class AMSGrad(Adam):
    """AMSGrad (Reddi, Kale and Kumar 2018): Adam whose mean square never falls, so that steps do not grow again.

    With Adam's corrections of both means, as in PyTorch. `weight_decay` adds that multiple of the parameter to its
    gradient.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = AMSGrad([w], learning_rate=0.5)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.5, 1.5], dtype=float32, requires_grad=True)
    """

    states: tuple[str, ...] = ("mean", "mean_square", "largest_mean_square")

    @staticmethod
    def formula(  # type: ignore[override]
        parameter: Any,
        gradient: Any,
        mean: Any,
        mean_square: Any,
        largest_mean_square: Any,
        learning_rate: Any,
        step: Any,
        *,
        betas: tuple[Any, Any],
        epsilon: Any,
        weight_decay: Any,
    ) -> tuple[Any, ...]:
        """Algorithm 2 of the paper: v̂ = max(v̂, v), in place of Adam's v."""
        beta1, beta2 = betas
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean = beta1 * mean + (1 - beta1) * gradient
        mean_square = beta2 * mean_square + (1 - beta2) * (gradient * gradient)
        largest_mean_square = np.maximum(largest_mean_square, mean_square)
        root = (1 - beta2**step) ** 0.5
        rate = learning_rate * root / (1 - beta1**step)
        new = parameter - rate * (mean / (np.sqrt(largest_mean_square) + epsilon * root))
        return new, mean, mean_square, largest_mean_square


class RAdam(Adam):
    """RAdam (Liu et al. 2020): Adam that trusts its mean square by how many gradients that has seen.

    As long as those are too few, the first steps, it is momentum alone: where the paper's rho is 5 or less, as in its
    authors' code and in PyTorch (the paper has 4). `weight_decay` adds that multiple of the parameter to its gradient.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = RAdam([w], learning_rate=0.25)
    >>> np.sum(w * w).backward(); optimizer.step(); w.data.round(4)
    array([0.5, 1. ], dtype=float32)
    """

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        mean: Any,
        mean_square: Any,
        learning_rate: Any,
        step: Any,
        *,
        betas: tuple[Any, Any],
        epsilon: Any,
        weight_decay: Any,
    ) -> tuple[Any, ...]:
        """Algorithm 2 of the paper: Adam's step times r, or the corrected mean where r is unknown."""
        beta1, beta2 = betas
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean = beta1 * mean + (1 - beta1) * gradient
        mean_square = beta2 * mean_square + (1 - beta2) * (gradient * gradient)
        rest = 1 - beta2**step
        most = 2 / (1 - beta2) - 1
        rho = most - 2 * step * beta2**step / rest
        known = np.greater(rho, 5) * 1.0
        r = (np.maximum((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho), 0)) ** 0.5
        adaptive, plain = known * r * rest**0.5, 1 - known
        rate = learning_rate / (1 - beta1**step)
        return parameter - rate * (mean * (adaptive / (np.sqrt(mean_square) + epsilon) + plain)), mean, mean_square


class NAdam(Adam):
    """NAdam (Dozat 2016): Adam with Nesterov's momentum, which grows over the first steps.

    At step t the momentum is beta1 (1 - 0.96^(momentum_decay t) / 2); the state `forgotten` is 1 less the product of
    all of them so far, the same number everywhere. `weight_decay` adds that multiple of the parameter to its gradient.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = NAdam([w], learning_rate=0.5)
    >>> np.sum(w * w).backward(); optimizer.step(); w.data.round(4)
    array([0.4718, 1.4718], dtype=float32)
    """

    states = ("mean", "mean_square", "forgotten")

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 2e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        epsilon: Any = 1e-8,
        weight_decay: Any = 0.0,
        momentum_decay: Any = 4e-3,
        *,
        fused: bool = False,
    ) -> None:
        options = {"betas": betas, "epsilon": epsilon, "weight_decay": weight_decay, "momentum_decay": momentum_decay}
        Optimizer.__init__(self, parameters, learning_rate, fused=fused, **options)

    def check(self, group: dict[str, Any]) -> None:
        """Two betas in [0, 1), epsilon, weight_decay and momentum_decay >= 0."""
        super().check(group)
        self.require(group, "momentum_decay")

    @staticmethod
    def formula(  # type: ignore[override]
        parameter: Any,
        gradient: Any,
        mean: Any,
        mean_square: Any,
        forgotten: Any,
        learning_rate: Any,
        step: Any,
        *,
        betas: tuple[Any, Any],
        epsilon: Any,
        weight_decay: Any,
        momentum_decay: Any,
    ) -> tuple[Any, ...]:
        """Algorithm 2 of the paper: the mean of the next step already, made of this step's mean and gradient."""
        beta1, beta2 = betas
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean = beta1 * mean + (1 - beta1) * gradient
        mean_square = beta2 * mean_square + (1 - beta2) * (gradient * gradient)
        now, then = (beta1 * (1 - 0.5 * 0.96 ** (momentum_decay * t)) for t in (step, step + 1))
        forgotten = 1 - now * (1 - forgotten)
        of_gradient = (1 - now) / forgotten
        of_mean = then / (1 - then * (1 - forgotten))
        divisor = np.sqrt(mean_square / (1 - beta2**step)) + epsilon
        new = parameter - learning_rate * ((of_gradient * gradient + of_mean * mean) / divisor)
        return new, mean, mean_square, forgotten
