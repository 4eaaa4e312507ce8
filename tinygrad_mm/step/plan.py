"""The program of a training step for batches of one kind: how it is made, when it is right, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, is_
from typing import Any

import numpy as np

from tinygrad_mm.compiler.backends import NUMPY, Backend
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.fused import clear_error
from tinygrad_mm.compiler.guards import Guards
from tinygrad_mm.compiler.kernel import free_name
from tinygrad_mm.compiler.kernels import Kernel, View, kernel_of
from tinygrad_mm.compiler.passes.biases import fold_biases
from tinygrad_mm.compiler.passes.halves import share_products
from tinygrad_mm.compiler.passes.softmax import scale_losses
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.compiler.report import Report, report
from tinygrad_mm.compiler.tracing import Trace
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.graph import tick
from tinygrad_mm.memory import aligned
from tinygrad_mm.optim.flat import Flat
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.optim.prescaled import Prescaled, prescaled
from tinygrad_mm.step.halves import Halves
from tinygrad_mm.step.shares import Shares, of_calls, of_loops, shared
from tinygrad_mm.step.update import Update, divides
from tinygrad_mm.tensor import Tensor

__all__ = ["Plan"]

_DRAWS = frozenset({uniform_like})

_value = attrgetter("value")
_requires_grad = attrgetter("requires_grad")


class Plan:
    """The program for batches of one kind."""

    def __init__(
        self,
        model: Any,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        batch: tuple[Any, ...],
        backend: Backend = NUMPY,
        alone: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.kinds = [(a.shape, a.dtype) for a in batch]

        def function(*tensors: Any) -> Any:
            return loss(model(*tensors[:-1]), tensors[-1])

        if any((p.extra or {}).get("hooks") for p in optimizer.parameters):
            raise TypeError(
                "compile_step: a parameter has a gradient hook, which a compiled step would not call; remove it, or "
                "use tg.compile for the loss, with loss.backward() and optimizer.step()"
            )
        laid_out = optimizer._laid_out()
        self.groups = len(optimizer.groups)
        self.captured = Captured(function)
        names = ["x", "y"] if len(batch) == 2 else [*(f"x{i}" for i in range(len(batch) - 1)), "y"]

        def traced(arrays: Sequence[Any]) -> Trace:
            return Trace(function, self.captured, arrays, lambda tensors: (tuple(tensors), {}), names, True)

        trace = traced(batch)
        trained = sum(flat.values.size for flats in laid_out for flat in flats)
        parts, weight = 1, 1.0
        if not alone and (cut := shared(trace, batch, traced, trained)) is not None:
            parts, trace, weight = cut
        self.buffers = trace.buffers
        trace.let_go()
        program = trace.program
        if len(program.outputs) != 1 or program.outputs[0].size != 1 or not trace.differentiable[0]:
            raise TypeError(
                "compile_step: the loss must be one number that depends on parameters, such as a mean: a Tensor, not "
                "what has left the graph by float(), .item(), .data or .detach()"
            )
        in_calls = backend is NUMPY and not optimizer.fused
        short = self._prescaled(program, laid_out) if in_calls else None
        seed = Value(np.full(program.outputs[0].shape, weight, program.outputs[0].dtype), "constant")
        if short is not None and short.factor is not None:
            seed.example *= short.factor
        self.rate: Any = None
        if short is not None and short.factor is None:
            rate = optimizer._looked_at(optimizer.groups[0]).learning_rate
            self.rate = np.full_like(seed.example, rate * weight)
            seed = Value(self.rate, "leaf", "learning_rate", leaf=Tensor(self.rate))
            program.leaves.append(seed)
        program.substitute({id(old): seed for old in program.seeds})
        program.seeds = []
        own = {id(p) for p in optimizer.parameters}
        # What is not the optimizer's is not needed.
        program.gradients = [g if id(t) in own else None for t, g in zip(trace.targets, program.gradients, strict=True)]
        backend.optimize(program, frozenset(self.captured.arrays))
        gradients = {id(t): g for t, g in zip(trace.targets, program.gradients, strict=True) if g is not None}

        self.leaves = [v.leaf for v in program.leaves]
        self.flags = [leaf.requires_grad for leaf in self.leaves if leaf is not None]
        self.updates: list[Update] = []
        given: dict[int, str] = {}
        arrays: list[Any] = []
        flats_used: list[tuple[Flat, Any, set[int]]] = []
        stores: list[list[Any]] = []
        for group, flats in zip(optimizer.groups, laid_out, strict=True):
            for flat in flats:
                active = [i for i, p in enumerate(flat.parameters) if id(p) in gradients and p.requires_grad]
                if not active:
                    continue
                stores.append([aligned(flat.values.size, flat.dtype, np.zeros) for _ in range(parts)])
                store = stores[-1][0]
                flats_used.append((flat, store, set(active)))
                called: dict[int, str] = {}
                for i in active:
                    p = flat.parameters[i]
                    value = self._pinned(program, gradients[id(p)], given)
                    path = self.captured.names.get(id(p), str(len(arrays)))
                    given[id(value)] = called[i] = free_name(f"gradient_of_{path}", given.values())  # of a.b and a_b
                    arrays.append(flat.view(store, i))
                for count in sorted({flat.steps[i] for i in active}):  # one step number for all members
                    members = [i for i in active if flat.steps[i] == count]
                    number = len(self.updates)
                    update = Update(optimizer, group, flat, members, stores[-1], number, short, self.rate, weight)
                    update.elements = {called[i]: (flat.starts[i], flat.starts[i + 1]) for i in members}
                    self.updates.append(update)
        program.gradients = []
        self._keep_what_is_updated(program, [flat.values for flat, _, _ in flats_used])
        loss_value = program.outputs[0]
        if loss_value.kind == "result" and id(loss_value) not in given:
            given[id(loss_value)] = "loss"
            arrays.append(np.empty(loss_value.shape, loss_value.dtype))
        self.threads = parts
        added: list[Any] = []
        first: dict[str, Any] = {}
        title = "one training step"
        if backend is NUMPY:
            scale_losses(program, {id(seed), *(id(op.result) for op in _steady_first(program, seed))})
            first["first"] = self._placed(_steady_first(program, seed), given, arrays)
            fold_biases(program, self._pairs(flats_used), given, arrays)
            if parts == 1 and in_calls and not alone:
                self.threads = share_products(program, [update.cost() for update in self.updates])
            for update in self.updates:
                update.parts = self.threads
                added.extend(update.insertions())
            first["apart"] = self.threads > 1
        elif parts == 1:
            added.extend(update.as_loop() for update in self.updates)
        if parts > 1:
            title += f", for each of {parts} threads that share a batch"
        elif self.threads > 1:
            title += f", with products and the update by {self.threads} threads"
        self.emitted: Any = backend.emit(program, given, title, self.captured.path_of(), added, joint=True, **first)
        self.arrays = [leaf.value for leaf in self.leaves if leaf is not None]
        self.places = arrays
        self.shares: Shares | None = None
        self.refresh: Any = None
        self.function: Any
        if parts > 1:
            if backend is NUMPY:
                functions = of_calls(self.emitted, self.arrays, arrays, stores, added)
            else:
                functions = of_loops(
                    self.emitted, self.arrays, arrays, stores, [update.as_function() for update in self.updates]
                )
            self.function = self.shares = Shares(functions, weight)
            self.refresh = self.shares.refresh
        elif self.threads > 1:
            self.function = Halves(self.emitted, self.arrays, arrays, added)
            self.refresh = self.function.refresh
        elif backend is NUMPY:
            self.function, self.refresh = self.emitted.make(self.arrays, arrays)
        else:
            self.function = self.emitted.make(self.arrays, arrays)
        if self.refresh is not None:
            self.refresh()  # what depends on constants alone is there from now on
        self.effects = [e.buffer for e in program.effects]
        self.check = self._guards()
        for value in [*program.inputs, *program.leaves]:
            value.example = None

    def _prescaled(self, program: Program, laid_out: list[list[Flat]]) -> Prescaled | None:
        """The formula for gradients that are multiplied by a number already, where that is one for all of them.

        The backward pass may begin with it instead of with 1.
        """
        known = [self.optimizer._looked_at(group) for group in self.optimizer.groups]
        short = prescaled(known[0].program)
        if short is None or any(k.program is not known[0].program for k in known):
            return None
        if short.factor is None:  # the learning rate
            alone = len(laid_out) == len(laid_out[0]) == 1 and laid_out[0][0].dtype == program.outputs[0].dtype
            return short if alone and divides(known[0].learning_rate) else None
        return short

    def _placed(self, steady: list[Op], given: dict[int, str], arrays: list[Any]) -> frozenset[int]:
        """Give a place that is kept to what is computed only when the learning rate changes."""
        found: set[int] = set()
        for op in steady:
            if id(op.result) not in given:
                name = op.result.name or "scale"
                given[id(op.result)] = f"{name}_{len(found) + 1}" if name in given.values() else name
                arrays.append(np.empty(op.result.shape, op.result.dtype))
                found.add(id(op))
        return frozenset(found)

    def _pinned(self, program: Program, value: Value, given: dict[int, str]) -> Value:
        """A gradient as the result of a call of its own, which can be told where to write."""
        maker = program.makers().get(id(value))
        if maker is None or id(value) in given or not isinstance(kernel_of(maker), Kernel):
            copy = Value(np.empty(value.shape, value.dtype))
            program.ops.append(Op(np.positive, [value], {}, copy, None, True))
            return copy
        return value

    def _keep_what_is_updated(self, program: Program, updated: list[Any]) -> None:
        """Copy what is handed out as it was before the update, where it lies in the memory of a parameter."""
        makers = program.makers()

        def copied(value: Value) -> Value:
            root = value
            while (op := makers.get(id(root))) is not None and isinstance(view := kernel_of(op), View):
                root = view.base
            array = root.leaf.value if root.leaf is not None else root.example if root.kind == "constant" else None
            if array is None or not any(np.may_share_memory(array, values) for values in updated):
                return value
            copy = Value(np.empty(value.shape, value.dtype))
            program.ops.append(Op(np.positive, [value], {}, copy, None, True))  # with the last ones
            return copy

        program.outputs = [copied(v) for v in program.outputs]
        for effect in program.effects:
            effect.value = copied(effect.value)

    def _pairs(self, used: list[tuple[Flat, Any, set[int]]]) -> dict[tuple[int, int], tuple[Any, Any]]:
        """Weights (k, m) that are followed by a bias (m,) in memory: both as one array, and their gradients."""
        found = {}
        for flat, store, active in used:
            for i in active:
                if i + 1 in active and len(flat.shapes[i]) == 2 and flat.shapes[i + 1] == flat.shapes[i][1:]:
                    k, m = flat.shapes[i]
                    both = slice(flat.starts[i], flat.starts[i + 2])
                    ids = id(flat.parameters[i]), id(flat.parameters[i + 1])
                    found[ids] = flat.values[both].reshape(k + 1, m), store[both].reshape(k + 1, m)
        return found

    def accepts(self, batch: tuple[Any, ...]) -> bool:
        """The same as `check`, where that has failed: other numbers may be the same ones, other dtypes equal ones."""
        if len(batch) != len(self.kinds):
            return False
        if not all(type(a) is np.ndarray and (a.shape, a.dtype) == kind for a, kind in zip(batch, self.kinds)):  # noqa: B905
            return False
        if not (
            all(map(is_, map(_value, self.leaves), self.arrays))
            and all(map(is_, map(_requires_grad, self.leaves), self.flags))
            and self.captured.still_holds()
            and len(self.optimizer.groups) == self.groups
            and all([update.fits() for update in self.updates])  # noqa: C419 (each brings itself up to date)
        ):
            return False
        self.kinds = [(a.shape, a.dtype) for a in batch]
        self.check = self._guards()
        return True

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
            made[0](*batch)
            if self.threads > 1:
                made[1]()

        return report(self.emitted, run, [*self.arrays, *self.places])

    def prepare(self) -> None:
        """Work out the numbers of the next step."""
        for update in self.updates:
            if update.prepare() and update.is_descent:
                self.refresh()

    def run(self, batch: tuple[Any, ...]) -> float:
        """Make the step."""
        self.prepare()
        if self.buffers:
            batch = (*batch, *(buffer.value for buffer in self.buffers))
        try:
            (loss,), effects = self.function(*batch)
        except ValueError as error:
            raise clear_error(error) from error
        if effects:
            for buffer, value in zip(self.effects, effects, strict=True):
                buffer.value = value
                buffer.version = tick()
        for update in self.updates:
            update.done()
        self.optimizer.steps += 1
        return loss.item()


def _steady_first(program: Program, seed: Value) -> list[Op]:
    """Put those ops in front that depend on the seed and on constants alone, and so give the same at every step."""
    known, found = {id(seed)}, []
    for op in program.ops:
        if type(op.result.example) is tuple or op.fun in _DRAWS or not isinstance(kernel_of(op), Kernel):
            continue
        if all(id(a) in known or a.kind == "constant" for a in op.operands()):
            known.add(id(op.result))
            found.append(op)
            op.backward = False
    ours = {id(op) for op in found}
    program.ops = [*found, *(op for op in program.ops if id(op) not in ours)]
    return found
