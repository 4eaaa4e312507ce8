"""`Run`: one training run, what it consists of and where it stands; all of it goes into a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_mm.debug import AnomalyError, detect_anomaly
from tinygrad_mm.gradient import no_grad
from tinygrad_mm.nn import Module
from tinygrad_mm.optim import ExponentialMovingAverage, Optimizer, ReduceOnPlateau, clip_grad_norm
from tinygrad_mm.step.parts import check_parts
from tinygrad_mm.training.batches import arrays_in, check_inputs, examples_in, joined, parted
from tinygrad_mm.training.history import History
from tinygrad_mm.training.metrics import Metrics, measured, named_metrics
from tinygrad_mm.training.stepping import Stepper
from tinygrad_mm.training.weighing import ignored_by, weighted

__all__ = ["Run", "evaluated", "evaluating"]


class Run:
    """What callbacks are given: `model`, `optimizer`, `history`, `epochs`, and what has been done: `epoch`, `step`,
    `newest` (the loss and the metrics of the last batch).

    `fit` makes it. A callback is a function of it, called after each epoch, or an object with any of the methods
    `on_gradients(run)` (before the optimizer's step: the place to clip), `on_step(run)`, `on_epoch(run)` and
    `on_end(run)`. What has `state_dict` and `load_state_dict` is part of checkpoints. Two parts of `optim` serve as
    they are: a `ReduceOnPlateau`, which is given the validation loss, and an `ExponentialMovingAverage`.

    A step is a batch; where gradients are accumulated, `on_gradients` is called before each update only.

    >>> from tinygrad_mm import optim
    >>> class ClipValues:
    ...     def on_gradients(self, run):
    ...         optim.clip_grad_value(run.model, 1.0)
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
        clip_norm: float | None = None,
        accumulate: int = 1,
        class_weight: Mapping[int, float] | None = None,
        samples_weighted: bool = False,
        **stepping: Any,
    ) -> None:
        check_parts("fit", model, loss, optimizer)
        self.model, self.loss, self.optimizer, self.loader, self.epochs = model, loss, optimizer, loader, epochs
        self.validation, self.metrics, self.callbacks = validation, named_metrics(metrics, loss), list(callbacks)
        self.rng = rng if isinstance(rng, np.random.Generator) else None
        self.clip_norm, self.accumulate, self.samples_weighted = clip_norm, accumulate, samples_weighted
        self.trained_on = loss  # what the gradients are those of
        if class_weight is not None or samples_weighted:
            self.trained_on = weighted(loss, class_weight, samples_weighted)
        self.stepper = Stepper(
            model, self.trained_on, optimizer, self._before_update, outputs=bool(self.metrics), **stepping
        )
        self.gradients: dict[int, Any] = {}  # what they add up to since the last update, by the parameter's number
        self.waiting = [0, 0]  # batches and examples since then, where gradients are accumulated
        self.begun = False  # whether a batch has been seen
        self.now = 0  # examples in the last batch
        self.updated = False  # whether the last batch was followed by an update
        self.on_gradients = self._methods("on_gradients")
        self.on_step = self._methods("on_step")
        self.averaged = [one for one in self.callbacks if isinstance(one, ExponentialMovingAverage)]
        self.epoch = self.step = 0
        self.history = History()
        self.examples = 0  # seen in this epoch
        self.totals: dict[str, float] = {}  # over them, of the loss and the metrics
        self.newest: dict[str, float] = {}
        self.drawn_from = [rng for _, rng in model.named_generators()]  # in a step
        self.final = False  # whether the reason for stopping still holds when the run is resumed

    def stop(self, reason: str) -> None:
        """Stop after this step, for good: resuming does not go on either."""
        self.history.stopped, self.final = reason, True

    def interrupt(self) -> None:
        """Stop after this step, until the run is resumed."""
        if not self.history.stopped:
            self.history.stopped = "Ctrl-C"

    def monitored(self, name: str | None = None) -> float:
        """The newest number of a name in the history: by default of "validation_loss", or "loss" without validation."""
        name = self.monitored_name(name)
        if not self.history.get(name):
            raise ValueError(f"fit: there is no {name!r} to monitor; the history has {', '.join(self.history)}")
        return self.history[name][-1]

    def monitored_name(self, name: str | None = None) -> str:
        """The name of the number to go by."""
        return name or ("loss" if self.validation is None else "validation_loss")

    def averages(self) -> dict[str, float]:
        """The loss and the metrics so far in this epoch, on average over its examples."""
        return {name: total / self.examples for name, total in self.totals.items()}

    # -- training

    def train_step(self, batch: Any) -> None:
        """Forward, backward, update.

        Raises AnomalyError, before anything is updated, where the loss or a gradient is not finite.
        """
        inputs, named, target = parted(batch)
        if not self.begun:
            check_inputs("fit", self.model, inputs, named)
            self.begun = True
        drawn = [(rng, rng.bit_generator.state) for rng in self.drawn_from]
        self.now = examples = examples_in(target)
        try:
            value, prediction = self.stepper(inputs, named, target)
        except _NotFiniteError as broken:
            for rng, state in drawn:  # so that dropout drops the same once more
                rng.bit_generator.state = state
            self.optimizer.zero_grad()
            where = f"step {self.step + 1} (in epoch {self.epoch + 1}): {broken}, so the weights were not updated"
            _explain_not_finite(where, self.model, lambda: self.trained_on(self.model(*inputs, **named), target))
        self.step += 1
        self.newest = newest = {"loss": value}
        if self.metrics:
            newest.update(measured(self.metrics, prediction, target[0] if self.samples_weighted else target))
        self.examples += examples
        totals = self.totals
        for name, number in newest.items():
            totals[name] = totals.get(name, 0.0) + number * examples
        if self.averaged and self.updated:
            self._average()
        for on_step in self.on_step:
            on_step(self)

    def _before_update(self, loss: float, found: Sequence[Any], show: Callable[[], None]) -> bool:
        """What is done with the gradients of a batch; returns whether an update follows.

        `found` are arrays with all of them; `show` puts them in `.grad`.
        """
        self.updated = False
        if not math.isfinite(loss):
            raise _NotFiniteError(f"the loss is {loss}")
        for gradient in found:
            # the sum of squares is quick; only where it overflows, each element is looked at
            if not (math.isfinite(np.vdot(gradient, gradient)) or np.isfinite(gradient).all()):
                show()
                raise _NotFiniteError(f"the gradient of {self._not_finite()} is not finite")
        if self.accumulate > 1:
            show()
            self._accumulate()
            if self.waiting[0] < self.accumulate:
                return False
            self._put_averages()
        if self.clip_norm is not None or self.on_gradients:
            if self.accumulate == 1:
                show()
            self._change_gradients()
        self.updated = True
        return True

    def _accumulate(self) -> None:
        """Add the gradients of a batch to those since the last update, each example with the same weight."""
        self.waiting[0] += 1
        self.waiting[1] += self.now
        for i, p in enumerate(self.optimizer.parameters):
            if p.grad is not None:
                share = np.multiply(p.grad, self.now, dtype=np.result_type(p.grad, np.float32))
                self.gradients[i] = self.gradients[i] + share if i in self.gradients else share

    def _put_averages(self) -> None:
        """Have the averages since the last update as the gradients."""
        for i, p in enumerate(self.optimizer.parameters):
            total = self.gradients.get(i)
            if total is not None:
                average = np.divide(total, self.waiting[1], dtype=total.dtype)
                if p.grad is not None and p.grad.flags.writeable:
                    p.grad[...] = average  # where a compiled update reads it
                else:
                    p.grad = average.astype(p.dtype)
        self.gradients, self.waiting = {}, [0, 0]

    def _change_gradients(self) -> None:
        if self.clip_norm is not None:
            clip_grad_norm(self.optimizer, self.clip_norm)
        for on_gradients in self.on_gradients:
            on_gradients(self)

    def _average(self) -> None:
        for average in self.averaged:
            average.update()

    def _update_with_the_rest(self) -> None:
        """The last update of an epoch, where fewer batches than `accumulate` were left."""
        if self.waiting[0]:
            self._put_averages()
            self._change_gradients()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._average()

    def end_epoch(self) -> None:
        """Take down the epoch's averages, validate, and call the callbacks.

        Raises ValueError where there was no batch.
        """
        if not self.examples:
            raise ValueError(
                "fit: the data gave no batch in this epoch. An iterator can be gone through once: for several epochs, "
                "give the function that makes it"
            )
        self._update_with_the_rest()
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
        for on_epoch in self._methods("on_epoch"):
            on_epoch(self)

    def end(self) -> None:
        """Let the callbacks finish, and put the model in evaluation mode."""
        for on_end in self._methods("on_end"):
            on_end(self)
        self.model.eval()

    def _methods(self, name: str) -> list[Callable[[Run], Any]]:
        """The methods of this name that callbacks have."""
        return [getattr(callback, name) for callback in self.callbacks if hasattr(callback, name)]

    def _not_finite(self) -> str:
        """The name of the first parameter whose gradient is not finite."""
        names = {id(p): path for path, p in self.model.named_parameters()}
        broken = (p for p in self.optimizer.parameters if p.grad is not None and not np.isfinite(p.grad).all())
        return next((names.get(id(p), "a parameter") for p in broken), "a parameter")

    def _generators(self) -> dict[str, np.random.Generator]:
        """All generators that the rest of the run may draw from, by name."""
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
            "gradients": {str(i): total.copy() for i, total in self.gradients.items()},
            "waiting": list(self.waiting),
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
        # Callbacks first: one that knows the data, such as a vocabulary, says more than a shape that differs.
        for part, saved in zip(
            [*self.callbacks, self.validation], [*state["callbacks"], state["validation"]], strict=True
        ):
            if (saved is None) != (_state_of(part) is None):
                raise ValueError(f"it was saved with other callbacks or validation data than {part!r}")
            if saved is not None:
                part.load_state_dict(saved)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict(state["loader"])
        for name, rng in generators.items():
            rng.bit_generator.state = state["generators"][name]
        self.epoch, self.step, self.examples = int(state["epoch"]), int(state["step"]), int(state["examples"])
        self.totals = dict(state["totals"])
        self.gradients = {int(i): total.copy() for i, total in state["gradients"].items()}
        self.waiting = [int(n) for n in state["waiting"]]
        stopped = state["stopped"]
        self.history = History({name: list(values) for name, values in state["history"].items()})
        self.history.stopped, self.final = stopped, stopped is not None


def evaluated(
    model: Module, loader: Any, loss: Callable[[Any, Any], Any], metrics: Mapping[str, Callable[[Any, Any], Any]]
) -> dict[str, float]:
    """The loss, on average over the examples, and each metric of all of them, with the model in evaluation mode."""
    total, examples, predictions, targets = 0.0, 0, [], []
    with evaluating(model):
        for batch in loader:
            inputs, named, target = parted(batch)
            if not examples:
                check_inputs("evaluate", model, inputs, named)
            prediction = model(*inputs, **named)
            n = examples_in(target)
            total += float(loss(prediction, target)) * n
            examples += n
            if metrics:
                predictions.append(arrays_in(prediction))
                targets.append(target)
    if not examples:
        raise ValueError("evaluate: the data gave no batch; an iterator can be gone through once")
    found = {"loss": total / examples}
    if metrics:
        ignored = ignored_by(loss)  # what fills up targets where batches have different lengths
        prediction = joined("evaluate", predictions, None if ignored is None else 0)
        target = joined("evaluate", targets, ignored)
        found.update(measured(metrics, prediction, target))
    return found


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Evaluation mode without a graph, for the length of a `with` block."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class _NotFiniteError(Exception):
    """The loss or a gradient is not finite."""


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
