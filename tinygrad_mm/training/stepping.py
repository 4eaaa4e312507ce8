"""How a batch is trained on: by a compiled step, or by the eager engine where there can be none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinygrad_mm.compiler import Compiled
from tinygrad_mm.nn import Module
from tinygrad_mm.optim import Optimizer
from tinygrad_mm.step import Step
from tinygrad_mm.step.parts import not_a_loss
from tinygrad_mm.step.plan import BeforeUpdate
from tinygrad_mm.training.batches import arrays_in

__all__ = ["Stepper", "module_of"]

log = logging.getLogger("tinygrad_mm.fit")

TRACES = 32  # in one of ten steps: a program is worth its making where it is used again


class Stepper:
    """One step of training: forward, backward, what is done with the gradients (`before_update`), and the update.

    `compile` is False for the eager engine, True for a compiled step, and "auto" for a compiled step as long as that
    can be made: else it says once why, and goes on eagerly. With `outputs`, predictions are wanted, too.
    """

    def __init__(
        self,
        model: Module,
        loss: Callable[[Any, Any], Any],
        optimizer: Optimizer,
        before_update: BeforeUpdate,
        compile: bool | str = "auto",
        backend: str = "numpy",
        verify: bool = True,
        outputs: bool = False,
    ) -> None:
        if compile not in (True, False, "auto"):
            raise ValueError(f"fit: compile={compile!r} must be 'auto', True or False")
        self.model, self.loss, self.optimizer, self.before_update = model, loss, optimizer, before_update
        self.needs_program = compile is True
        self.steps = 0
        self.compiled: Step | None = None
        if compile:
            self.compiled = Step(model, loss, optimizer, backend, verify, outputs, before_update)

    def __call__(self, inputs: tuple[Any, ...], named: Mapping[str, Any], target: Any) -> tuple[float, Any]:
        """The loss of a batch before the update, and what the model returned for it (None where it is not wanted)."""
        step = self.compiled
        self.steps += 1
        if step is None:
            return self._eagerly(inputs, named, target)
        refused = None
        try:
            found = self._by_program(step, *inputs, target, **named)
        except Exception as error:
            if self.needs_program or error is not step.refused:
                raise
            refused = f"{type(error).__name__}: {error}"
        if refused is not None:
            found = self._eagerly(inputs, named, target)  # which may raise the same, as it is the model's own fault
            self._give_up(refused)
            return found
        if not self.needs_program and TRACES < step.traces > self.steps / 10:
            self._give_up(
                f"it was made {step.traces} times in {self.steps} steps, for batches of so many shapes, or because "
                "what the model reads changes; batches of few lengths come from DataLoader(..., buckets=5)"
            )
        return found if step.outputs else (found, None)

    @np.errstate(all="ignore")  # a model's own `errstate` is no part of a program; what is not finite is found
    def _by_program(self, step: Step, *batch: Any, **named: Any) -> Any:
        return step(*batch, **named)

    def _give_up(self, reason: str) -> None:
        self.compiled = None
        log.warning("fit goes on with eager steps, without a compiled one (compile=False says so): %s", reason)

    def _eagerly(self, inputs: tuple[Any, ...], named: Mapping[str, Any], target: Any) -> tuple[float, Any]:
        prediction = self.model(*inputs, **named)
        loss = self.loss(prediction, target)
        if (fault := not_a_loss("fit", loss)) is not None:
            raise fault
        value = loss.item()
        try:
            if math.isfinite(value):
                loss.backward()
            found = [p.grad for p in self.optimizer.parameters if p.grad is not None]
            if self.before_update(value, found, lambda: None):
                self.optimizer.step()
        finally:
            self.optimizer.zero_grad()
        return value, arrays_in(prediction)


def module_of(what: str, model: Any) -> Module:
    """The module that is meant by one, by a compiled one, or by a compiled training step.

    Raises TypeError for anything else.
    """
    module = model.model if isinstance(model, Step) else model
    module = module.function if isinstance(module, Compiled) else module
    if isinstance(module, type):
        raise TypeError(f"{what}: the model is the class {module.__name__}; make one first: {module.__name__}(...)")
    if not isinstance(module, Module):
        raise TypeError(
            f"{what}: the model is a {type(module).__name__}; give an nn.Module, what tg.compile makes of one, or a "
            "step that compile_step has made"
        )
    return module
