"""The optimizers: each is one formula, as its paper gives it.

`parameters` and `fused`, and what is raised for parameters, are described in `Optimizer`. Each option but the flags may
be a schedule; options outside the range that `check` names raise ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.optim.optimizer import Optimizer

__all__ = ["Adagrad", "Adam", "AdamW", "Lion", "RMSprop", "SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov momentum (Sutskever et al. 2013).

    `weight_decay` adds that multiple of the parameter to its gradient. As in PyTorch, the first velocity is the first
    gradient, and the learning rate multiplies the velocity.

    Raises ValueError for options out of range and for `nesterov` without momentum; else as `Optimizer`.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = SGD([w], learning_rate=0.1)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.8, 1.6], dtype=float32, requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-3,
        momentum: Any = 0.0,
        weight_decay: Any = 0.0,
        nesterov: bool = False,
        *,
        fused: bool = False,
    ) -> None:
        options = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(parameters, learning_rate, fused=fused, **options)

    def check(self, group: dict[str, Any]) -> None:
        """Options: momentum in [0, 1), weight_decay >= 0; nesterov needs momentum."""
        super().check(group)
        self.require(group, "momentum", below=1)
        self.require(group, "weight_decay")
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("SGD: nesterov=True needs a momentum, such as momentum=0.9")

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """A velocity where there is momentum."""
        return ("velocity",) if group["momentum"] else ()

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        *states_and_numbers: Any,
        momentum: Any,
        weight_decay: Any,
        nesterov: bool,
    ) -> tuple[Any, ...]:
        """Formula: v = momentum v + g;  w = w - learning_rate v, with nesterov w - learning_rate (g + momentum v)."""
        *states, learning_rate, _ = states_and_numbers
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        if not states:
            return (parameter - learning_rate * gradient,)
        velocity = momentum * states[0] + gradient
        direction = gradient + momentum * velocity if nesterov else velocity
        return parameter - learning_rate * direction, velocity


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer 2011): the gradient divided by the root of the sum of its squares so far.

    `weight_decay` adds that multiple of the parameter to its gradient.

    Raises ValueError for options out of range; else as `Optimizer`.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adagrad([w], learning_rate=0.5)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.5, 1.5], dtype=float32, requires_grad=True)
    """

    states = ("sum_of_squares",)

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-2,
        epsilon: Any = 1e-10,
        weight_decay: Any = 0.0,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__(parameters, learning_rate, fused=fused, epsilon=epsilon, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        """Options: epsilon and weight_decay >= 0."""
        super().check(group)
        self.require(group, "epsilon")
        self.require(group, "weight_decay")

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        sum_of_squares: Any,
        learning_rate: Any,
        step: Any,
        *,
        epsilon: Any,
        weight_decay: Any,
    ) -> tuple[Any, ...]:
        """Formula: G = G + g²;  w = w - learning_rate g / (√G + epsilon): the diagonal form of the paper's figure 1."""
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        sum_of_squares = sum_of_squares + gradient * gradient
        return parameter - learning_rate * (gradient / (np.sqrt(sum_of_squares) + epsilon)), sum_of_squares


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): the gradient divided by a running root mean square of it.

    `smoothing` is the decay rate of the running means. With `centered`, the square of the running mean is subtracted
    from the running mean square (Graves 2013), so that the divisor is a standard deviation. With `momentum`, a velocity
    accumulates the quotients as in `SGD`. `weight_decay` adds that multiple of the parameter to its gradient. `epsilon`
    is added to the root, as in PyTorch.

    Raises ValueError for options out of range; else as `Optimizer`.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = RMSprop([w], learning_rate=0.05, smoothing=0.75)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.9, 1.9], dtype=float32, requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-2,
        smoothing: Any = 0.99,
        epsilon: Any = 1e-8,
        weight_decay: Any = 0.0,
        momentum: Any = 0.0,
        centered: bool = False,
        *,
        fused: bool = False,
    ) -> None:
        options = {"smoothing": smoothing, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(parameters, learning_rate, fused=fused, **options, momentum=momentum, centered=centered)

    def check(self, group: dict[str, Any]) -> None:
        """Options: smoothing and momentum in [0, 1), epsilon and weight_decay >= 0."""
        super().check(group)
        self.require(group, "smoothing", below=1)
        self.require(group, "momentum", below=1)
        self.require(group, "epsilon")
        self.require(group, "weight_decay")

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """A mean if centered, a velocity where there is momentum."""
        return ("mean_square", *("mean",) * bool(group["centered"]), *("velocity",) * bool(group["momentum"]))

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        mean_square: Any,
        *states_and_numbers: Any,
        smoothing: Any,
        epsilon: Any,
        weight_decay: Any,
        momentum: Any,
        centered: bool,
    ) -> tuple[Any, ...]:
        """Formula: s = smoothing s + (1 - smoothing) g²;  w = w - learning_rate g / (√s + epsilon)."""
        *states, learning_rate, _ = states_and_numbers
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean_square = smoothing * mean_square + (1 - smoothing) * (gradient * gradient)
        new, variance = [mean_square], mean_square
        if centered:
            mean = smoothing * states[0] + (1 - smoothing) * gradient
            new.append(mean)
            variance = np.maximum(mean_square - mean * mean, 0)  # rounding may take it below zero
        direction = gradient / (np.sqrt(variance) + epsilon)
        if momentum:
            direction = momentum * states[-1] + direction
            new.append(direction)
        return parameter - learning_rate * direction, *new


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): a running mean of the gradient, divided by the root of one of its square.

    `betas` are the decay rates of the two means. `weight_decay` adds that multiple of the parameter to its gradient;
    `AdamW` has decoupled weight decay.

    Raises ValueError for options out of range; else as `Optimizer`.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adam([w], learning_rate=0.1)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.90000004, 1.9       ], dtype=float32, requires_grad=True)
    """

    states: tuple[str, ...] = ("mean", "mean_square")

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        epsilon: Any = 1e-8,
        weight_decay: Any = 0.0,
        *,
        fused: bool = False,
    ) -> None:
        options = {"betas": betas, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(parameters, learning_rate, fused=fused, **options)

    def check(self, group: dict[str, Any]) -> None:
        """Two betas in [0, 1), epsilon and weight_decay >= 0."""
        super().check(group)
        self.require(group, "betas", below=1, members=2)
        self.require(group, "epsilon")
        self.require(group, "weight_decay")

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
        """Algorithm 1 of the paper, in the order of computation that its section 2 recommends."""
        beta1, beta2 = betas
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        mean = beta1 * mean + (1 - beta1) * gradient
        mean_square = beta2 * mean_square + (1 - beta2) * (gradient * gradient)
        root = (1 - beta2**step) ** 0.5
        rate = learning_rate * root / (1 - beta1**step)
        return parameter - rate * (mean / (np.sqrt(mean_square) + epsilon * root)), mean, mean_square


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): the decay is no part of the gradient.

    Each step first multiplies the parameter by `1 - learning_rate * weight_decay`, as in PyTorch: so a schedule of the
    learning rate is the paper's schedule multiplier, and the paper's decay is `learning_rate * weight_decay`.

    Raises ValueError for options out of range; else as `Optimizer`.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = AdamW([w], learning_rate=0.1, weight_decay=0.5)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([0.85, 1.8 ], dtype=float32, requires_grad=True)
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        epsilon: Any = 1e-8,
        weight_decay: Any = 1e-2,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__(parameters, learning_rate, betas, epsilon, weight_decay, fused=fused)

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
        """Algorithm 2 of the paper: w = w - learning_rate weight_decay w, and Adam's step from there."""
        if weight_decay:
            parameter = (1 - learning_rate * weight_decay) * parameter
        arguments = parameter, gradient, mean, mean_square, learning_rate, step
        return Adam.formula(*arguments, betas=betas, epsilon=epsilon, weight_decay=0)


class Lion(Optimizer):
    """Lion (Chen et al. 2023): the sign of an interpolated momentum, with decoupled weight decay.

    Every element moves by the learning rate in each step: so the paper advises one three to ten times smaller than
    Adam's, and a weight decay as much larger.

    Raises ValueError for options out of range; else as `Optimizer`.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = Lion([w], learning_rate=0.5)
    >>> np.sum(w * w).backward(); optimizer.step(); w
    Tensor([ 0.5, -1.5], dtype=float32, requires_grad=True)
    """

    states = ("momentum",)

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-4,
        betas: tuple[Any, Any] = (0.9, 0.99),
        weight_decay: Any = 0.0,
        *,
        fused: bool = False,
    ) -> None:
        super().__init__(parameters, learning_rate, fused=fused, betas=betas, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        """Two betas in [0, 1), weight_decay >= 0."""
        super().check(group)
        self.require(group, "betas", below=1, members=2)
        self.require(group, "weight_decay")

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        momentum: Any,
        learning_rate: Any,
        step: Any,
        *,
        betas: tuple[Any, Any],
        weight_decay: Any,
    ) -> tuple[Any, ...]:
        """Algorithm 2 of the paper: w = w - learning_rate (sign(beta1 m + (1 - beta1) g) + weight_decay w)."""
        beta1, beta2 = betas
        direction = np.sign(beta1 * momentum + (1 - beta1) * gradient)
        if weight_decay:
            parameter = (1 - learning_rate * weight_decay) * parameter
        return parameter - learning_rate * direction, beta2 * momentum + (1 - beta2) * gradient
