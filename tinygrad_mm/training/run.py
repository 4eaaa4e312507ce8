"""`Run`: one training run, what it consists of and where it stands; all of it goes into a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.debug import AnomalyError, detect_anomaly
from tinygrad_mm.gradient import no_grad
from tinygrad_mm.nn import Module
from tinygrad_mm.optim import ExponentialMovingAverage, Optimizer, ReduceOnPlateau
from tinygrad_mm.step.parts import check_parts, not_a_loss
from tinygrad_mm.training.batches import arrays_in, examples_in, joined, parted
from tinygrad_mm.training.history import History

__all__ = ["Metrics", "Run", "evaluated"]

Metrics = Mapping[str, Callable[[Any, Any], Any]]


class Run:
    """What callbacks are given: `model`, `optimizer`, `history`, `epochs`, and what has been done: `epoch`, `step`.

    `fit` makes it. A callback is a function of it, called after each epoch, or an object with any of the methods
    `on_gradients(run)` (before the optimizer's step: the place to clip), `on_step(run)`, `on_epoch(run)` and
    `on_end(run)`. What has `state_dict` and `load_state_dict` is part of checkpoints. Two parts of `optim` serve as
    they are: a `ReduceOnPlateau`, which is given the validation loss, and an `ExponentialMovingAverage`.

    >>> from tinygrad_mm import optim
    >>> class Clip:
    ...     def on_gradients(self, run):
    ...         optim.clip_grad_norm(run.model, 1.0)
    >>> def good_enough(run):
    ...     if run.history["loss"][-1] < 0.01:
    ...         run.stop("good enough")
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[[Any, Any], Any],
        optimizer: Optimizer,
        loader: Any,
        epochs: int,
        validation: Any = None,
        metrics: Metrics | None = None,
        callbacks: Iterable[Any] = (),
        rng: Any = None,
    ) -> None:
        check_parts("fit", model, loss, optimizer)
        self.model, self.loss, self.optimizer, self.loader, self.epochs = model, loss, optimizer, loader, epochs
        self.validation, self.metrics, self.callbacks = validation, dict(metrics or {}), list(callbacks)
        self.rng = rng if isinstance(rng, np.random.Generator) else None
        self.epoch = self.step = 0
        self.history = History()
        self.examples = 0  # seen in this epoch
        self.totals: dict[str, float] = {}  # over them, of the loss and the metrics
        self.generators = self._generators()
        self.final = False  # whether the reason for stopping still holds when the run is resumed
        taken = {"loss", "learning_rate"} & set(self.metrics)
        if taken:
            raise ValueError(f"fit: the history has its own {', '.join(taken)}; give the metric another name")

    def stop(self, reason: str) -> None:
        """Stop after this step, for good: resuming does not go on either."""
        self.history.stopped, self.final = reason, True

    def interrupt(self) -> None:
        """Stop after this step, until the run is resumed."""
        if not self.history.stopped:
            self.history.stopped = "Ctrl-C"

    def monitored(self, name: str | None = None) -> float:
        """The newest number of a name in the history: by default of "validation_loss", or "loss" without validation."""
        name = name or ("loss" if self.validation is None else "validation_loss")
        if not self.history.get(name):
            raise ValueError(f"fit: there is no {name!r} to monitor; the history has {', '.join(self.history)}")
        return self.history[name][-1]

    def averages(self) -> dict[str, float]:
        """The loss and the metrics so far in this epoch, on average over its examples."""
        return {name: total / self.examples for name, total in self.totals.items()}

    # -- training

    def train_step(self, batch: Any) -> None:
        """Forward, backward, update.

        Raises AnomalyError, before anything is updated, where the loss or a gradient is not finite.
        """
        inputs, named, target = parted(batch)
        drawn = [(rng, rng.bit_generator.state) for rng in self.generators.values()]

        prediction = self.model(*inputs, **named)
        loss = self.loss(prediction, target)
        if (fault := not_a_loss("fit", loss)) is not None:
            raise fault
        value = loss.item()
        if math.isfinite(value):
            loss.backward()
        broken = self._not_finite(value)
        if broken:
            for rng, state in drawn:  # so that dropout drops the same once more
                rng.bit_generator.state = state
            self.optimizer.zero_grad()
            where = f"step {self.step + 1} (in epoch {self.epoch + 1}): {broken}, so the weights were not updated"
            _explain_not_finite(where, self.model, lambda: self.loss(self.model(*inputs, **named), target))
        self._tell("on_gradients")
        self.optimizer.step()
        self.optimizer.zero_grad()

        self.step += 1
        self._count(examples_in(target), {"loss": value, **self._measured(arrays_in(prediction), target)})
        for callback in self.callbacks:
            if isinstance(callback, ExponentialMovingAverage):
                callback.update()
        self._tell("on_step")

    def end_epoch(self) -> None:
        """Take down the epoch's averages, validate, and call the callbacks."""
        self.history.add(**self.averages(), learning_rate=self.optimizer.learning_rate)
        if self.validation is not None:
            found = evaluated(self.model, self.validation, self.loss, self.metrics)
            self.history.add(**{f"validation_{name}": value for name, value in found.items()})
        self.epoch += 1
        self.examples, self.totals = 0, {}
        for callback in self.callbacks:
            if isinstance(callback, ReduceOnPlateau):
                self.optimizer.learning_rate = callback(self.monitored())
            elif callable(callback) and not hasattr(callback, "on_epoch"):
                callback(self)
        self._tell("on_epoch")

    def end(self) -> None:
        """Let the callbacks finish, and put the model in evaluation mode."""
        self._tell("on_end")
        self.model.eval()

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(self)

    def _measured(self, prediction: Any, target: Any) -> dict[str, float]:
        return {name: float(metric(prediction, target)) for name, metric in self.metrics.items()}

    def _count(self, examples: int, numbers: Mapping[str, float]) -> None:
        self.examples += examples
        for name, value in numbers.items():
            self.totals[name] = self.totals.get(name, 0.0) + value * examples

    def _not_finite(self, loss: float) -> str:
        """What is not finite, in words; nothing where all is well."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        with np.errstate(all="ignore"):
            for p in self.optimizer.parameters:
                # The sum of squares is quick to compute; only where it overflows, each element must be looked at.
                if p.grad is not None and not np.isfinite(np.vdot(p.grad, p.grad)) and not np.isfinite(p.grad).all():
                    names = {id(q): path for path, q in self.model.named_parameters()}
                    return f"the gradient of {names.get(id(p), 'a parameter')} is not finite"
        return ""

    def _generators(self) -> dict[str, np.random.Generator]:
        """All generators that a step may draw from, by name."""
        own = {} if self.rng is None else {"rng": self.rng}
        return {**own, **{f"model.{path}": rng for path, rng in self.model.named_generators()}}

    # -- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, besides the code and the data."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": self.loader.state_dict(),
            "validation": _state_of(self.validation),
            "generators": {name: rng.bit_generator.state for name, rng in self._generators().items()},
            "callbacks": [_state_of(callback) for callback in self.callbacks],
            "epoch": self.epoch,
            "step": self.step,
            "examples": self.examples,
            "totals": dict(self.totals),
            "history": {name: list(values) for name, values in self.history.items()},
            "stopped": self.history.stopped if self.final else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was called. Raises ValueError, and changes nothing, for what does not fit."""
        before = self.state_dict()
        try:
            self._load(state)
        except Exception as error:
            self._load(before)
            if isinstance(error, ValueError):
                raise
            raise ValueError(f"this is not the state of such a run ({error!r})") from error

    def _load(self, state: Mapping[str, Any]) -> None:
        generators = self._generators()
        for what, own, saved in (
            ("generators", list(generators), list(state["generators"])),
            ("callbacks", len(self.callbacks), len(state["callbacks"])),
        ):
            if own != saved:
                raise ValueError(f"it was saved with the {what} {saved}, this run has {own}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        for part, saved in zip(
            [self.validation, *self.callbacks], [state["validation"], *state["callbacks"]], strict=True
        ):
            if (saved is None) != (_state_of(part) is None):
                raise ValueError(f"it was saved with other callbacks or validation data than {part!r}")
            if saved is not None:
                part.load_state_dict(saved)
        for name, rng in generators.items():
            rng.bit_generator.state = state["generators"][name]
        self.epoch, self.step, self.examples = int(state["epoch"]), int(state["step"]), int(state["examples"])
        self.totals = dict(state["totals"])
        stopped = state["stopped"]
        self.history = History({name: list(values) for name, values in state["history"].items()})
        self.history.stopped, self.final = stopped, stopped is not None


def evaluated(model: Module, loader: Any, loss: Callable[[Any, Any], Any], metrics: Metrics) -> dict[str, float]:
    """The loss, on average over the examples, and each metric of all of them, with the model in evaluation mode."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    total, examples, predictions, targets = 0.0, 0, [], []
    model.eval()
    try:
        with no_grad():
            for batch in loader:
                inputs, named, target = parted(batch)
                prediction = model(*inputs, **named)
                n = examples_in(target)
                total += float(loss(prediction, target)) * n
                examples += n
                if metrics:
                    predictions.append(arrays_in(prediction))
                    targets.append(target)
    finally:
        for module, mode in modes:
            module.training = mode
    found = {"loss": total / examples}
    if metrics:
        prediction, target = joined(predictions), joined(targets)
        found.update({name: float(metric(prediction, target)) for name, metric in metrics.items()})
    return found


def _state_of(part: Any) -> Any:
    return part.state_dict() if hasattr(part, "state_dict") and hasattr(part, "load_state_dict") else None


def _explain_not_finite(where: str, model: Any, compute: Callable[[], Any]) -> None:
    """Raise an AnomalyError that names the step and the operation; `compute` computes the loss of that step again."""
    try:
        with detect_anomaly(model):
            loss = compute()
            with np.errstate(all="ignore"):
                loss.backward()
    except AnomalyError as error:
        message = f"{where}. Computed again, step by step:\n{error}"
        raise AnomalyError(message, error.operation, error.phase, error.reason) from None
    raise FloatingPointError(
        f"{where}; when computed again, no operation made it out of finite numbers: look at the data, at a loss that "
        "is Inf by itself, and at functions that draw from generators outside the model"
    )
