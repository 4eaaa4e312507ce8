"""The program of a training step for batches of one kind: how it is made, when it is right, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any, TypeAlias

import numpy as np

from tinygrad_mm.compiler.arguments import Leaf, filled
from tinygrad_mm.compiler.backends import NUMPY, Backend
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.fused import clear_error
from tinygrad_mm.compiler.guards import Guards
from tinygrad_mm.compiler.passes import FOR_PLACED_CALLS, optimize, run
from tinygrad_mm.compiler.passes.placing import copy_what_is_updated, place_gradient
from tinygrad_mm.compiler.program import Program, Value
from tinygrad_mm.compiler.report import Report, report
from tinygrad_mm.compiler.threads.shares import Shares, of_calls, of_loops, shared
from tinygrad_mm.compiler.tracing import Trace
from tinygrad_mm.graph import tick
from tinygrad_mm.memory import aligned
from tinygrad_mm.optim.flat import Flat
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.step.update import Update

__all__ = ["BeforeUpdate", "Plan"]

# What is called between the gradients and the update: with the loss, arrays that hold all gradients, and a function
# that puts each gradient in its parameter's `.grad`, where it may be changed. It returns whether to update.
BeforeUpdate: TypeAlias = "Callable[[float, Sequence[Any], Callable[[], None]], bool]"

_value = attrgetter("value")
_requires_grad = attrgetter("requires_grad")


class Plan:
    """The program for batches of one kind: traced, joined with the update, rewritten, placed, and written out.

    `function` computes the loss of a batch, which is arranged as `form` says; with `outputs`, a tuple of that and the
    prediction. `alone`: without threads that share the batch. `without` names passes that are left out. `apart`: the
    update is a function of its own, so that something can be done in between.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        optimizer: Optimizer,
        batch: Sequence[Any],
        backend: Backend = NUMPY,
        alone: bool = False,
        without: Collection[str] = (),
        form: Any = None,
        outputs: bool = False,
        apart: bool = False,
    ) -> None:
        self.optimizer, self.backend = optimizer, backend
        self.form, self.outputs, self.apart = form, outputs, apart
        self.kinds = [(a.shape, a.dtype) for a in batch]
        laid_out = optimizer._laid_out()
        self.groups = len(optimizer.groups)
        trace, weight = self._traced(function, batch, alone)
        program = trace.program
        self._joined(trace, weight)
        optimize(program, backend.passes, without)
        self.updates = self._placed(trace, laid_out)
        run(program, FOR_PLACED_CALLS, without)
        self._written(program, weight)
        self.effects = [effect.buffer for effect in program.effects]
        self.check = self._guards()
        for value in [*program.inputs, *program.leaves]:
            value.example = None

    def _traced(self, function: Callable[..., Any], batch: Sequence[Any], alone: bool) -> tuple[Trace, float]:
        """The trace of a batch, or of the share of it that each of `self.threads` takes, and what its loss counts."""
        if any((p.extra or {}).get("hooks") for p in self.optimizer.parameters):
            raise TypeError(
                "compile_step: a parameter has a gradient hook, which a compiled step would not call; remove it, or "
                "use tg.compile for the loss, with loss.backward() and optimizer.step()"
            )
        self.captured = Captured(function)
        names = ["x", "y"] if len(batch) == 2 else [*(f"x{i}" for i in range(len(batch) - 1)), "y"]

        def traced(arrays: Sequence[Any]) -> Trace:
            return Trace(function, self.captured, arrays, lambda tensors: (tuple(tensors), {}), names, True)

        trace, self.threads, weight = traced(batch), 1, 1.0
        found = {id(t) for t, g in zip(trace.targets, trace.program.gradients, strict=True) if g is not None}
        trained = sum(p.value.size for p in self.optimizer.parameters if id(p) in found and p.requires_grad)
        if trained and not alone and (cut := shared(trace, batch, traced, trained)) is not None:
            self.threads, trace, weight = cut
        self.buffers = trace.buffers
        trace.let_go()
        outputs, self.tree = trace.program.outputs, trace.tree
        loss = trace.tree[0] if self.outputs else trace.tree
        if not isinstance(loss, Leaf) or outputs[0].size != 1 or not trace.differentiable[0]:
            raise TypeError(
                "compile_step: the loss must be one number that depends on parameters, such as a mean: a Tensor, not "
                "what has left the graph by float(), .item(), .data or .detach()"
            )
        return trace, weight

    def _joined(self, trace: Trace, weight: float) -> None:
        """Join both halves: the backward pass begins with a known number, and gives what the optimizer asks for."""
        program = trace.program
        output = program.outputs[0]
        seed = Value(np.full(output.shape, weight, output.dtype), "constant")
        program.substitute({id(old): seed for old in program.seeds})
        program.seeds = []
        own = {id(p) for p in self.optimizer.parameters}
        pairs = zip(trace.targets, program.gradients, strict=True)
        program.gradients = [gradient if id(target) in own else None for target, gradient in pairs]

    def _placed(self, trace: Trace, laid_out: list[list[Flat]]) -> list[Update]:
        """Give each gradient its place beside the others of its flat buffer; returns the updates."""
        program = trace.program
        found = {id(t): g for t, g in zip(trace.targets, program.gradients, strict=True) if g is not None}
        program.gradients = []
        updates: list[Update] = []
        self.stores: list[list[Any]] = []  # for each flat buffer the gradients, in each thread
        for group, flats in zip(self.optimizer.groups, laid_out, strict=True):
            for flat in flats:
                active = [i for i, p in enumerate(flat.parameters) if id(p) in found and p.requires_grad]
                if not active:
                    continue
                stores = [aligned(flat.values.size, flat.dtype, np.zeros) for _ in range(self.threads)]
                self.stores.append(stores)
                for i in active:
                    p = flat.parameters[i]
                    name = f"gradient_of_{self.captured.names.get(id(p), str(i))}"
                    place_gradient(program, p, found[id(p)], name, flat.view(stores[0], i))
                for count in sorted({flat.steps[i] for i in active}):  # one step number for all members
                    members = [i for i in active if flat.steps[i] == count]
                    updates.append(Update(self.optimizer, group, flat, members, stores, len(updates)))
        copy_what_is_updated(program, [update.flat.values for update in updates])
        loss = program.outputs[0]
        if loss.kind == "result" and id(loss) not in program.places:
            program.place(loss, "loss", np.empty(loss.shape, loss.dtype))
        return updates

    def _written(self, program: Program, weight: float) -> None:
        """Write the program out, and make the function that runs it, in each thread."""
        threads, in_calls = self.threads, self.backend is NUMPY
        places = program.places
        self.leaves = [v.leaf for v in program.leaves]
        self.flags = [leaf.requires_grad for leaf in self.leaves if leaf is not None]
        self.arrays = [leaf.value for leaf in self.leaves if leaf is not None]
        self.places = [place.array for place in places.values()]
        added: list[Any] = []
        if in_calls:
            added = [insertion for update in self.updates for insertion in update.insertions()]
        elif threads == 1 and not self.apart:
            added = [update.as_loop() for update in self.updates]
        title = "one training step" + (f", for each of {threads} threads that share a batch" if threads > 1 else "")
        apart = {"apart": threads > 1 or self.apart} if in_calls else {}
        self.emitted: Any = self.backend.emit(program, title, self.captured.path_of(), added, joint=True, **apart)
        self.shares: Shares | None = None
        self.function: Any  # the whole step, or, apart, as far as the gradients
        self.update: Any = None
        if threads == 1 and not self.apart:
            (self.function,) = self.emitted.make(self.arrays, self.places)
            return
        if in_calls:
            functions = of_calls(self.emitted, self.arrays, self.places, self.stores, added)
        else:
            updates = [update.as_function() for update in self.updates]
            functions = of_loops(self.emitted, self.arrays, self.places, self.stores, updates)
        if threads > 1:
            self.function = self.shares = Shares(functions, weight)
        if self.apart:
            self.function, self.update = functions[0] if self.shares is None else (self.shares.step, self.shares.update)

    def gradients(self) -> dict[int, Any]:
        """The gradients of the last step by the id of the parameter."""
        return {key: g for update in self.updates for key, g in update.gradients().items()}

    def accepts(self, batch: Sequence[Any]) -> bool:
        """The same as `check`, where that has failed: other numbers may be the same ones, other dtypes equal ones."""
        if len(batch) != len(self.kinds):
            return False
        if not all(type(a) is np.ndarray and (a.shape, a.dtype) == kind for a, kind in zip(batch, self.kinds)):  # noqa: B905
            return False
        if not (self._still_fits() and self.captured.still_holds()):
            return False
        self.kinds = [(a.shape, a.dtype) for a in batch]
        self.check = self._guards()
        return True

    def _still_fits(self) -> bool:
        """Whether parameters and optimizer are as they were."""
        return (
            all(map(is_, map(_value, self.leaves), self.arrays))
            and all(map(is_, map(_requires_grad, self.leaves), self.flags))
            and len(self.optimizer.groups) == self.groups
            and all([update.fits() for update in self.updates])  # noqa: C419 (each brings itself up to date)
        )

    def _guards(self) -> Callable[..., bool]:
        """A function that says whether the program is right for a batch, and for all that it uses, as it is now."""
        names = [f"x{i}" for i in range(len(self.kinds))]
        guards = Guards(", ".join([*(f"{name}=None" for name in names), "*more"]))
        guards.true("not more")
        array = guards.name(np.ndarray)
        for name, (shape, dtype) in zip(names, self.kinds, strict=True):
            guards.true(f"type({name}) is {array} and {name}.shape == {shape}")
            guards.same(f"{name}.dtype", dtype)
        for leaf, value, flag in zip(self.leaves, self.arrays, self.flags, strict=True):
            guards.same(f"{guards.name(leaf)}.value", value)
            guards.same(f"{guards.name(leaf)}.requires_grad", flag)
        self.captured.guard(guards)
        for update in self.updates:
            update.guard(guards)
        guards.true(f"len({guards.name(self.optimizer.groups)}) == {self.groups}")
        return guards.function()

    def report(self, batch: tuple[Any, ...]) -> Report:
        """What the program costs, line by line."""
        batch = (*batch, *(buffer.value for buffer in self.buffers))
        if self.shares is not None:
            batch = tuple(a[: len(a) // self.shares.parts] for a in batch)

        def run(made: Any) -> None:
            for function, arguments in zip(made, (batch, ()), strict=False):
                function(*arguments)

        return report(self.emitted, run, [*self.arrays, *self.places])

    def prepare(self) -> None:
        """Work out the numbers of the next step."""
        for update in self.updates:
            update.prepare()

    def run(self, batch: Sequence[Any], before_update: BeforeUpdate | None = None) -> Any:
        """Make the step; returns the loss, or a tuple of the loss and the prediction."""
        self.prepare()
        if self.buffers:
            batch = (*batch, *(buffer.value for buffer in self.buffers))
        try:
            found, effects = self.function(*batch)
        except ValueError as error:
            raise clear_error(error) from error
        if effects:
            for buffer, value in zip(self.effects, effects, strict=True):
                buffer.value = value
                buffer.version = tick()
        loss = found[0].item()
        if before_update is None or self._looked_at(loss, before_update):
            if self.update is not None:
                self.update()
            for update in self.updates:
                update.done()
            self.optimizer.steps += 1
        return (loss, filled(self.tree[1], found)) if self.outputs else loss

    def _looked_at(self, loss: float, before_update: BeforeUpdate) -> bool:
        """Let somebody look at the gradients, and change them; returns whether the update is still to be made.

        Where more has been changed than the gradients' elements, the optimizer makes it from what it finds.
        """
        shown: dict[int, Any] = {}

        def show() -> None:
            for stores in self.stores:
                for other in stores[1:]:  # what they add up to is looked at, and updated with
                    np.add(stores[0], other, stores[0])
                    other.fill(0)
            shown.update(self.gradients())
            for p in self.optimizer.parameters:
                p.grad = shown.get(id(p))

        try:
            if not before_update(loss, list(chain.from_iterable(self.stores)), show):
                return False
            if not shown:
                return True
            if all(p.grad is shown.get(id(p)) for p in self.optimizer.parameters) and self._still_fits():
                self.prepare()  # the learning rate may be another one
                return True
            self.optimizer.step()
            return False
        finally:
            if shown:
                for p in self.optimizer.parameters:
                    p.grad = None
