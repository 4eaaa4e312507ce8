"""`compile_step` and what it returns: programs for batches of several kinds, the one used last first."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.arrays import as_array
from tinygrad_mm.compiler.arguments import filled
from tinygrad_mm.compiler.backends import NUMPY, backend_of
from tinygrad_mm.compiler.report import Report
from tinygrad_mm.compiler.saving import save_program
from tinygrad_mm.compiler.verification import Progress, difference_error, report, retraced
from tinygrad_mm.notebook import preformatted
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.step.parts import arranged, check_parts, computation
from tinygrad_mm.step.plan import BeforeUpdate, Plan
from tinygrad_mm.step.proof import EagerStep, Proof
from tinygrad_mm.tensor import Tensor

__all__ = ["MOST", "Step", "compile_step"]

MOST = 16  # programs that are kept


def compile_step(
    model: Any,
    loss: Callable[[Any, Any], Any],
    optimizer: Optimizer,
    backend: str = "numpy",
    verify: bool = True,
    outputs: bool = False,
) -> Step:
    """One function for a training step: `step(input, ..., target)` updates the model and returns the loss, a float.

    With `outputs`, it returns a tuple of the loss and the prediction, `model(input, ...)` with arrays in place of
    Tensors. Inputs by name are given by name; each input and the target may be a tuple or dict of arrays.

    It does what `loss(model(input), target).backward(); optimizer.step(); optimizer.zero_grad()` does, in one emitted
    function on flat buffers. Parameters, buffers and the optimizer's state stay where they are: they can be looked at,
    saved and loaded between steps, and eager steps may stand between compiled ones. Gradients are not left in `.grad`.

    `backend="numba"` (extra `numba`) fuses what lies between matrix products, and the update, into compiled loops; an
    optimizer with `fused=True` has the update alone as a loop.

    Where the loss is a mean or a sum over examples that know nothing of each other (no batch normalization, no
    dropout), and a step writes much between its products, as many threads as BLAS may use (OMP_NUM_THREADS) each take
    a share of the batch: the examples are those of the first axis. Results are the same but for rounding.

    `verify`: a new program proves itself. On its first two batches (and, while a gradient has been all zero or not
    finite, on up to eight) the model is called once more, from the same parameters, buffers and generators: the loss,
    each gradient, buffers and generators are compared with eager's, and the update with what the optimizer's formula
    makes of the program's gradients. Where they differ by more than rounding, the step made is the eager one, a
    `CompileWarning` says what differs, and batches of this kind are trained on eagerly from then on.

    Raises TypeError where the loss is not one number, and where a parameter has a gradient hook; ValueError where the
    optimizer has none of the model's parameters (it warns where it lacks some).

    >>> from tinygrad_mm import nn, optim
    >>> model = nn.Linear(1, 1, rng=0)
    >>> step = compile_step(model, nn.MSELoss(), optim.SGD(model.parameters(), learning_rate=0.5))
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> for _ in range(100):
    ...     loss = step(x, 3 * x + 1)
    >>> print(f"{model.weight.item():.2f} {model.bias.item():.2f} {loss:.4f}")
    3.00 1.00 0.0000
    >>> loss, prediction = compile_step(model, nn.MSELoss(), optim.SGD(model.parameters()), outputs=True)(x, 3 * x + 1)
    >>> prediction.shape
    (64, 1)
    """
    check_parts("compile_step", model, loss, optimizer)
    return Step(model, loss, optimizer, backend, verify, outputs)


class Step:
    """What `compile_step` returns.

    `before_update` is called between the gradients and the update of each step (see `BeforeUpdate`): a step that has
    one is written in two parts. `traces` counts the programs made, and `refused` is what the last trace raised, if it
    did.
    """

    def __init__(
        self,
        model: Any,
        loss: Callable[[Any, Any], Any],
        optimizer: Optimizer,
        backend: str = "numpy",
        verify: bool = True,
        outputs: bool = False,
        before_update: BeforeUpdate | None = None,
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.backend = backend_of(backend)
        self.verifies, self.outputs, self.before_update = verify, outputs, before_update
        self.plans: list[Plan] = []
        self.traces = 0
        self.refused: Exception | None = None
        self._unproved: dict[Plan, Progress] = {}  # programs that are new, or wrong
        self._in_a_row = 0  # programs that served one batch each, because what the model reads had changed

    def __call__(self, *batch: Any, **named: Any) -> Any:
        """Train on one batch; returns the loss before the update, or a tuple of that and the prediction."""
        plans = self.plans
        # the usual case: the same kind of batch as last time
        if plans and not named and plans[0].form is None and plans[0].check(*batch):
            return self._run(plans[0], batch) if self._unproved else plans[0].run(batch, self.before_update)
        arrays, form = self._as_arrays(batch, named)
        return self._run(self._plan(arrays, form), arrays)

    def _as_arrays(self, batch: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """The arrays of a batch, in the order of `arranged`, and the form.

        Arrays are as they are, Tensors their arrays, and anything else as a Tensor would take it.
        """
        parts, form = arranged(batch, named)
        self.refused = None
        try:
            arrays = (a if type(a) is np.ndarray else a.value if isinstance(a, Tensor) else as_array(a) for a in parts)
            return tuple(arrays), form
        except Exception as error:
            self.refused = error
            raise

    def _plan(self, batch: Sequence[Any], form: Any) -> Plan:
        """The program for a batch, which becomes the first one."""
        plans = self.plans
        self.optimizer._laid_out()  # parameters that were given other arrays are back in the flat buffers
        for i, plan in enumerate(plans):
            if plan.form == form and (plan.check(*batch) or plan.accepts(batch)):
                plans.insert(0, plans.pop(i))
                return plan
        before = plans[0] if plans else None
        changed = None
        if (
            before in self._unproved
            and self._unproved[before].runs == 1
            and before.form == form
            and before.kinds == [(a.shape, a.dtype) for a in batch]
        ):
            changed = before.captured.what_changed() or "a parameter's array or an option of the optimizer"
        self.refused = None
        try:
            plan = self._traced(batch, form)
        except Exception as error:
            self.refused = error
            raise
        self.traces += 1
        self._in_a_row = self._in_a_row + 1 if changed else 0
        retraced("compile_step", self._in_a_row, changed)
        self.plans = [plan, *plans[: MOST - 1]]
        self._unproved = {plan: Progress(self.verifies), **{p: q for p, q in self._unproved.items() if p in self.plans}}
        return plan

    def _traced(self, batch: Sequence[Any], form: Any, without: Collection[str] = (), alone: bool = False) -> Plan:
        function, apart = self._function(form), self.before_update is not None
        return Plan(function, self.optimizer, batch, self.backend, alone, without, form, self.outputs, apart)

    def _function(self, form: Any) -> Callable[..., Any]:
        return computation(self.model, self.loss, form, self.outputs)

    def _run(self, plan: Plan, batch: Sequence[Any]) -> Any:
        """A step by a program that may be a new one."""
        progress = self._unproved.get(plan)
        if progress is None:
            return plan.run(batch, self.before_update)
        if progress.eager:
            return self._eagerly(plan, batch)
        due = progress.due() and plan.captured.unchanged()  # else each call computes something else
        progress.runs += 1
        if progress.over():
            del self._unproved[plan]
        if not due:
            return plan.run(batch, self.before_update)
        proof = self._proof(plan, batch, progress)
        found = proof.run()
        if self.before_update is not None or proof.difference is not None:
            proof.undo()
        if proof.difference is None:
            return found if self.before_update is None else plan.run(batch, self.before_update)
        progress.eager = True
        self._unproved[plan] = progress
        found = self._eagerly(plan, batch)
        signature = ", ".join(f"{dtype}{shape}" for shape, dtype in plan.kinds)
        report("compile_step", proof.difference, proof.culprit(), signature)
        return found

    def _eagerly(self, plan: Plan, batch: Sequence[Any]) -> Any:
        """A step by the eager engine."""
        eager = EagerStep(self._function(plan.form), self.optimizer, batch, plan)
        outputs, gradients = eager.run()
        loss = float(outputs[0].reshape(()))
        eager.commit(gradients, loss, self.before_update)
        return (loss, filled(plan.tree[1], outputs)) if self.outputs else loss

    def _proof(self, plan: Plan, batch: Sequence[Any], progress: Progress) -> Proof:
        def without(names: Sequence[str]) -> Plan:
            return self._traced(batch, plan.form, names)

        return Proof(plan, self._function(plan.form), self.optimizer, batch, progress, without)

    def verify(self, *batch: Any, **named: Any) -> None:
        """Compare a step on a batch with the eager one, and leave everything as it was.

        Raises AssertionError where they differ by more than rounding: what differs, by how much, and which pass did it.
        Batches of this kind are trained on eagerly from then on.
        """
        arrays, form = self._as_arrays(batch, named)
        plan, progress = self._plan(arrays, form), Progress(verify=True)
        proof = self._proof(plan, arrays, progress)
        try:
            proof.run()
        finally:
            proof.undo()
        if proof.difference is not None:
            progress.eager = True
            self._unproved[plan] = progress
            raise difference_error("verify: compile_step", proof.difference, proof.culprit())

    def retrace(self) -> None:
        """Forget all programs: the next step traces the model anew, after a change that no program looks at."""
        self.plans, self._unproved = [], {}

    def __getstate__(self) -> dict[str, Any]:
        """What copies are made from: they trace the model themselves."""
        return {**vars(self), "plans": [], "_unproved": {}, "backend": self.backend.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, backend=backend_of(state["backend"]))

    @property
    def source(self) -> str:
        """The program used last, as Python. Raises RuntimeError before the first step."""
        if not self.plans:
            raise RuntimeError("compile_step: no step has been made yet, so there is no program")
        return self.plans[0].emitted.source

    def __repr__(self) -> str:
        made = f"{len(self.plans)} program{'s' * (len(self.plans) != 1)}" if self.plans else "no step made yet"
        return f"<Step of {type(self.model).__name__} with {type(self.optimizer).__name__}: {made}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the program used last."""
        return preformatted(f"{self!r}\n\n{self.source}" if self.plans else repr(self))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the program used last as a Python file that needs NumPy alone, with parameters and states as they are.

        The file's program is one for the whole batch, without threads of Python's: `functions[0](input, target)` makes
        a step and returns ((loss,), new values of buffers). Numbers that change from step to step (a schedule's
        learning rate, Adam's corrections) stay what they are now.

        Raises RuntimeError before the first step and, where threads shared it, after changes of the model since then
        (it is traced once more), TypeError for a program that needs more than NumPy: of the Numba backend, with the
        loop of a fused optimizer, or with an optimizer whose formula is given each parameter whole.
        """
        if not self.plans:
            raise RuntimeError("compile_step: no step has been made yet, so there is no program")
        plan = self.plans[0]
        if self.backend is NUMPY and any(update.formula.whole for update in plan.updates):
            name = type(self.optimizer).__name__
            raise TypeError(f"save: the update of {name} is a call of its formula, which no saved program has")
        if self.backend is NUMPY and any(update.loop for update in plan.updates):
            raise TypeError(
                "save: the update is a loop that Numba compiles (the optimizer has fused=True), and a saved program "
                "needs NumPy alone; make the step with an optimizer without fused"
            )
        if self.backend is NUMPY and plan.threads > 1:  # a file has no threads: one program for the whole batch
            batch = tuple(np.zeros(shape, dtype) for shape, dtype in plan.kinds)
            if not (plan.check(*batch) or plan.accepts(batch)):
                raise RuntimeError("save: the model or optimizer has changed since the last step; make a step first")
            with np.errstate(all="ignore"):
                plan = self._traced(batch, plan.form, alone=True)
            plan.prepare()
        usage = "`functions[0](input, target)` makes one training step: ((loss,), (new values of buffers))."
        return save_program(plan.emitted, path, plan.arrays, plan.places, "One training step.", usage)

    def report(self, *batch: Any, **named: Any) -> Report:
        """Calls, buffers, multiply-adds, and the measured time of each line, for a batch; nothing is updated.

        Where threads share a batch, it is the report of one of them.
        """
        arrays, form = self._as_arrays(batch, named)
        self_plan = next((plan for plan in self.plans if plan.form == form and plan.accepts(arrays)), None)
        if self_plan is None:
            raise RuntimeError("compile_step: report is for a batch of a kind that was trained on; make a step first")
        return self_plan.report(arrays)
