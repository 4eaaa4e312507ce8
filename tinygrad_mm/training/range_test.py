"""The learning-rate range test: which learning rates make the loss fall."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygrad_mm.nn import Module
from tinygrad_mm.optim import Optimizer
from tinygrad_mm.training.batches import as_loader
from tinygrad_mm.training.run import Run
from tinygrad_mm.training.stepping import module_of

__all__ = ["RangeTest", "learning_rate_range_test"]

SMOOTHING = 0.9  # of the losses: the weight of those before
DIVERGED = 4  # times the lowest loss


class RangeTest:
    """What `learning_rate_range_test` returns: the `learning_rates`, the smoothed `losses`, and a `suggestion`.

    >>> RangeTest([0.001, 0.01, 0.1], [1.0, 0.5, 2.0])
    RangeTest(3 steps, suggestion=0.001)
    """

    def __init__(self, learning_rates: list[float], losses: list[float]) -> None:
        self.learning_rates, self.losses = learning_rates, losses

    @property
    def suggestion(self) -> float:
        """A tenth of the learning rate at which the loss is lowest, or NaN where it never fell."""
        lowest, first = int(np.argmin(self.losses)), self.losses[0]
        fell = first - self.losses[lowest] > 1e-6 * abs(first)  # by more than rounding
        return self.learning_rates[lowest] / 10 if fell else math.nan

    def plot(self) -> Any:
        """Draw the losses over the learning rates; returns Matplotlib's Figure. Raises ImportError without it."""
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError("plot() of a range test needs Matplotlib: pip install 'tinygrad_mm[examples]'") from error
        figure, axis = plt.subplots(layout="constrained")
        axis.semilogx(self.learning_rates, self.losses)
        axis.set(xlabel="learning rate", ylabel="loss, smoothed")
        if not math.isnan(self.suggestion):
            axis.axvline(self.suggestion, linestyle=":", label=f"suggestion: {self.suggestion:.2g}")
            axis.legend()
        return figure

    def __repr__(self) -> str:
        return f"RangeTest({len(self.losses)} steps, suggestion={self.suggestion:.2g})"


def learning_rate_range_test(
    model: Module,
    data: Any,
    loss: Callable[[Any, Any], Any],
    optimizer: Optimizer,
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    rng: np.random.Generator | int | None = None,
    compile: bool | str = "auto",
) -> RangeTest:
    """Train with a learning rate that grows in each step, and see how the loss goes (Smith 2017).

    The rate goes from `lowest` to `highest` in `steps` equal factors; the test ends before, where the smoothed loss is
    four times its lowest or no number. Model, optimizer and generators are then what they were. `data`, `rng` and
    `compile` are as for `fit`; data that are too short are gone through again.

    Raises ValueError for rates that do not grow, and for fewer than two steps.

    >>> from tinygrad_mm import nn, optim
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> model = nn.Linear(1, 1, rng=0)
    >>> found = learning_rate_range_test(model, (x, 3 * x), nn.MSELoss(), optim.SGD(model.parameters()), rng=0)
    >>> 0.01 < found.suggestion < 1
    True
    """
    if not 0 < lowest < highest < math.inf or steps < 2:
        raise ValueError(
            f"learning_rate_range_test: lowest={lowest}, highest={highest}, steps={steps}; the rate grows from a "
            "positive number to a higher one, in two steps at least"
        )
    model = module_of("learning_rate_range_test", model)
    rng = np.random.default_rng(rng)
    loader = as_loader(data, batch_size, True, rng)
    run = Run(model, loss, optimizer, loader, 1, rng=rng, compile=compile)
    before = run.state_dict()
    modes = [(module, module.training) for _, module in model.named_modules()]
    rates = [group["learning_rate"] for group in optimizer.groups]
    found = RangeTest([], [])
    average = 0.0
    try:
        model.train()
        growing = np.geomspace(lowest, highest, steps)
        for number, (rate, batch) in enumerate(zip(growing, _again(loader), strict=False), 1):
            optimizer.learning_rate = float(rate)
            try:
                run.train_step(batch)
            except FloatingPointError:
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * run.newest["loss"]
            smoothed = average / (1 - SMOOTHING**number)
            found.learning_rates.append(float(rate))
            found.losses.append(smoothed)
            if smoothed > DIVERGED * min(found.losses):
                break
    finally:
        for group, rate in zip(optimizer.groups, rates, strict=True):
            group["learning_rate"] = rate
        run.load_state_dict(before)
        for module, mode in modes:
            module.training = mode
    return found


def _again(loader: Any) -> Iterator[Any]:
    """Batches without an end. Raises ValueError where there are none."""
    while True:
        batches = iter(loader)
        first = next(batches, None)
        if first is None:
            raise ValueError("learning_rate_range_test: the data gave no batch, or too few for one iterator")
        yield first
        yield from batches
