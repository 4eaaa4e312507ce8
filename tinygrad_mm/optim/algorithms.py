"""The optimizers: each one formula, as its paper gives it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_mm.optim.optimizer import Optimizer

__all__ = ["SGD", "Adam"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov momentum (Sutskever et al. 2013).

    `weight_decay` adds that multiple of the parameter to its gradient. As in PyTorch, the first velocity is the first
    gradient, and the learning rate multiplies the velocity.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = SGD([w], learning_rate=0.1)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.8, 1.6], dtype=float32, requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.states = ("velocity",) if momentum else ()
        super().__init__(parameters, learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    def check(self, group: dict[str, Any]) -> None:
        """momentum in [0, 1), weight_decay >= 0; nesterov needs momentum."""
        super().check(group)
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"SGD: momentum={group['momentum']} must lie in [0, 1)")
        if bool(group["momentum"]) != bool(self.states):
            raise ValueError("SGD: momentum is either 0 in all groups and at all times, or positive in all")
        if group["weight_decay"] < 0:
            raise ValueError(f"SGD: weight_decay={group['weight_decay']} must not be negative")
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("SGD: nesterov=True needs a momentum, such as momentum=0.9")

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        *states_and_scalars: Any,
        momentum: float,
        weight_decay: float,
        nesterov: bool,
    ) -> tuple[Any, ...]:
        """v = momentum v + g;  w = w - learning_rate v, or with nesterov w - learning_rate (g + momentum v)."""
        *states, learning_rate, _ = states_and_scalars
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        if not states:
            return (parameter - learning_rate * gradient,)
        velocity = momentum * states[0] + gradient
        direction = gradient + momentum * velocity if nesterov else velocity
        return parameter - learning_rate * direction, velocity


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps scaled by running means of the gradient and of its square.

    `weight_decay` adds that multiple of the parameter to its gradient.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adam([w], learning_rate=0.1)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.90000004, 1.9       ], dtype=float32, requires_grad=True)
    """

    states = ("mean", "mean_square")

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate, betas=tuple(betas), epsilon=epsilon, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        """betas in [0, 1), epsilon and weight_decay >= 0."""
        super().check(group)
        if not all(0 <= b < 1 for b in group["betas"]):
            raise ValueError(f"Adam: betas={group['betas']} must lie in [0, 1)")
        for name in ("epsilon", "weight_decay"):
            if group[name] < 0:
                raise ValueError(f"Adam: {name}={group[name]} must not be negative")

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        mean: Any,
        mean_square: Any,
        learning_rate: Any,
        step: Any,
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
    ) -> tuple[Any, ...]:
        """Algorithm 1 of the paper, in the order of computation that its section 2 recommends."""
        beta1, beta2 = betas
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean = beta1 * mean + (1 - beta1) * gradient
        mean_square = beta2 * mean_square + (1 - beta2) * (gradient * gradient)
        root = np.sqrt(1 - beta2**step)
        rate = learning_rate * root / (1 - beta1**step)
        return parameter - rate * (mean / (np.sqrt(mean_square) + epsilon * root)), mean, mean_square
