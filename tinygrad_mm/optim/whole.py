"""Optimizers whose formulas need each parameter whole: its norm, or the matrix that it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.optim.algorithms import Adam, AdamW
from tinygrad_mm.optim.optimizer import Optimizer, listed
from tinygrad_mm.tensor import Tensor

__all__ = ["LAMB", "Muon", "orthogonalized"]


class LAMB(Adam):
    """LAMB (You et al. 2020): Adam's direction, in each parameter as long as that parameter: for very large batches.

    `weight_decay` adds that multiple of the parameter to the direction.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = LAMB([w], learning_rate=0.1, weight_decay=0.0)
    >>> np.sum(w * w).backward(); optimizer.step(); w.data.round(4)
    array([2.6464, 3.6464], dtype=float32)
    """

    whole = True

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        epsilon: Any = 1e-6,
        weight_decay: Any = 1e-2,
    ) -> None:
        super().__init__(parameters, learning_rate, betas, epsilon, weight_decay)

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
        """Algorithm 2 of the paper: w = w - learning_rate ‖w‖ / ‖d‖ d, with Adam's d plus weight_decay w."""
        beta1, beta2 = betas
        mean = beta1 * mean + (1 - beta1) * gradient
        mean_square = beta2 * mean_square + (1 - beta2) * (gradient * gradient)
        direction = mean / (1 - beta1**step) / (np.sqrt(mean_square / (1 - beta2**step)) + epsilon)
        if weight_decay:
            direction = direction + weight_decay * parameter
        length, own = np.sqrt(np.sum(parameter * parameter)), np.sqrt(np.sum(direction * direction))
        trust = np.where((length > 0) & (own > 0), length / np.where(own > 0, own, 1), 1)
        return parameter - learning_rate * trust * direction, mean, mean_square


class Muon(Optimizer):
    """Muon (Jordan et al. 2024): momentum, made orthogonal, for the matrices of hidden layers; AdamW for the rest.

    In each step the singular values of a matrix's momentum all become nearly 1, by products of matrices
    (`orthogonalized`). Parameters of fewer than two axes are updated by AdamW, and so is a group that says
    `"orthogonal": False`, as the first and the last layer of a network should (embeddings, outputs). Filters of a
    convolution are matrices with a row each.

    `match_adam` scales updates to the size of AdamW's, so that learning rate and weight decay are AdamW's (Liu et al.
    2025); without it they are scaled by sqrt(max(1, outputs / inputs)), as in the first version, where a learning rate
    of 0.02 is usual. `betas` and `epsilon` are AdamW's.

    >>> from tinygrad_mm.tensor import Tensor
    >>> w = Tensor([[3.0, 0.0], [0.0, 4.0]], requires_grad=True)
    >>> optimizer = Muon([w], learning_rate=1.0, momentum=0.0, weight_decay=0.0, match_adam=False, steps=30)
    >>> np.sum(w * w).backward(); optimizer.step(); (w.data.diagonal() < [2.5, 3.5]).tolist()
    [True, True]
    """

    whole = True

    def __init__(
        self,
        parameters: Iterable[Any],
        learning_rate: Any = 1e-3,
        momentum: Any = 0.95,
        nesterov: bool = True,
        weight_decay: Any = 1e-2,
        steps: int = 5,
        match_adam: bool = True,
        betas: tuple[Any, Any] = (0.9, 0.95),
        epsilon: Any = 1e-8,
    ) -> None:
        options = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "steps": steps}
        options |= {"match_adam": match_adam, "betas": betas, "epsilon": epsilon, "orthogonal": True}
        super().__init__(parameters, learning_rate, **options)

    def add_group(self, group: Mapping[str, Any]) -> None:
        """Take on more parameters, as `Optimizer.add_group`; those of fewer than two axes become a group of their own.

        >>> matrix, bias = Tensor([[1.0]], requires_grad=True), Tensor([1.0], requires_grad=True)
        >>> optimizer = Muon([matrix])
        >>> optimizer.add_group({"parameters": [bias]})
        >>> [group["orthogonal"] for group in optimizer.groups]
        [True, False]
        """
        for part in _parts(group):
            if part.get("orthogonal") and any(p.ndim < 2 for p in part["parameters"] if isinstance(p, Tensor)):
                raise ValueError('Muon: a group with "orthogonal": True holds a parameter of fewer than two axes')
            super().add_group(part)

    def check(self, group: dict[str, Any]) -> None:
        """Options: momentum and two betas in [0, 1), weight_decay and epsilon >= 0, steps >= 1."""
        super().check(group)
        self.require(group, "momentum", below=1)
        self.require(group, "betas", below=1, members=2)
        self.require(group, "weight_decay")
        self.require(group, "epsilon")
        if isinstance(group["steps"], bool) or not isinstance(group["steps"], int) or group["steps"] < 1:
            raise ValueError(f"Muon: steps={group['steps']!r} must be a positive integer")

    def state_names(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        """A velocity of matrices, AdamW's means of the rest."""
        return ("velocity",) if group["orthogonal"] else AdamW.states

    @staticmethod
    def formula(
        parameter: Any,
        gradient: Any,
        *states_and_numbers: Any,
        momentum: Any,
        nesterov: bool,
        weight_decay: Any,
        steps: int,
        match_adam: bool,
        betas: tuple[Any, Any],
        epsilon: Any,
        orthogonal: bool,
    ) -> tuple[Any, ...]:
        """Formula: v = momentum v + g;  w = w - learning_rate (scale orthogonalized(v) + weight_decay w)."""
        if not orthogonal:
            options = {"betas": betas, "epsilon": epsilon, "weight_decay": weight_decay}
            return AdamW.formula(parameter, gradient, *states_and_numbers, **options)
        velocity, learning_rate, _ = states_and_numbers
        velocity = momentum * velocity + gradient
        direction = gradient + momentum * velocity if nesterov else velocity
        rows, columns = parameter.shape[0], math.prod(parameter.shape[1:])
        inputs, outputs = (rows, columns) if parameter.ndim == 2 else (columns, rows)  # a dense weight is (in, out)
        scale = 0.2 * math.sqrt(max(rows, columns)) if match_adam else math.sqrt(max(1, outputs / inputs))
        direction = orthogonalized(direction.reshape(rows, columns), steps).reshape(parameter.shape)
        if weight_decay:
            parameter = (1 - learning_rate * weight_decay) * parameter
        return parameter - learning_rate * scale * direction, velocity


def orthogonalized(matrix: Any, steps: int = 5) -> Any:
    """A matrix with its singular values moved to nearly 1 (0.7 to 1.2), by products of matrices alone.

    Each step maps a singular value s to 3.4445 s - 4.775 s^3 + 2.0315 s^5: a Newton-Schulz iteration whose first steps
    grow fast (Jordan et al. 2024; Bernstein and Newhouse 2024).

    Shape: (m, n) -> (m, n)

    >>> matrix = orthogonalized(np.array([[3.0, 1.0], [0.0, 2.0]]))
    >>> bool(np.all(np.abs(np.linalg.svd(matrix).S - 0.95) < 0.26))
    True
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.swapaxes(-1, -2)
    x = x / (np.sqrt(np.sum(x * x)) + 1e-7)
    for _ in range(steps):
        squares = x @ x.swapaxes(-1, -2)
        x = 3.4445 * x + (-4.775 * squares + 2.0315 * (squares @ squares)) @ x
    return x if wide else x.swapaxes(-1, -2)


def _parts(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A group as one of matrices and one of the rest, unless it says itself what it is."""
    if "orthogonal" in group or "parameters" not in group:
        return [dict(group)]
    members = listed("Muon", group["parameters"])
    kinds = {
        True: [p for p in members if not isinstance(p, Tensor) or p.ndim > 1],
        False: [p for p in members if isinstance(p, Tensor) and p.ndim < 2],
    }
    found = [{**group, "parameters": kind, "orthogonal": orthogonal} for orthogonal, kind in kinds.items() if kind]
    return found or [dict(group)]
