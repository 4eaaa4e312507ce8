"""`compile_step`: the whole training step, forward, backward and update, as one emitted function."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from operator import attrgetter, is_
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_mm.compiler.backends import NUMPY, Backend, backend_of
from tinygrad_mm.compiler.capture import Captured
from tinygrad_mm.compiler.emitter import Insertion
from tinygrad_mm.compiler.fused import clear_error
from tinygrad_mm.compiler.guards import Guards
from tinygrad_mm.compiler.kernels import Kernel, kernel_of
from tinygrad_mm.compiler.passes.biases import fold_biases
from tinygrad_mm.compiler.passes.softmax import scale_losses
from tinygrad_mm.compiler.program import Op, Program, Value
from tinygrad_mm.compiler.report import Report, report
from tinygrad_mm.compiler.saving import save_program
from tinygrad_mm.compiler.tracing import Trace
from tinygrad_mm.functional.random import uniform_like
from tinygrad_mm.graph import tick
from tinygrad_mm.optim.flat import BLOCK, Flat
from tinygrad_mm.optim.formula import Program as Formula
from tinygrad_mm.optim.optimizer import Optimizer
from tinygrad_mm.optim.prescaled import Prescaled, prescaled
from tinygrad_mm.tensor import Tensor

__all__ = ["Step", "compile_step"]

_DRAWS = frozenset({uniform_like})

_value = attrgetter("value")
_requires_grad = attrgetter("requires_grad")


def compile_step(model: Any, loss: Callable[[Any, Any], Any], optimizer: Optimizer, backend: str = "numpy") -> Step:
    """One function for a training step: `step(input, ..., target)` updates the model and returns the loss, a float.

    It does what `loss(model(input), target).backward(); optimizer.step(); optimizer.zero_grad()` does, in one emitted
    function on flat buffers. Parameters, buffers and the optimizer's state stay where they are: they can be looked at,
    saved and loaded between steps, and eager steps may stand between compiled ones. Gradients are not left in `.grad`.

    `backend="numba"` (extra `numba`) fuses what lies between matrix products, and the update, into compiled loops.

    Raises TypeError where the loss is not one number, and where a parameter has a gradient hook.

    >>> from tinygrad_mm import nn, optim
    >>> model = nn.Linear(1, 1, rng=0)
    >>> step = compile_step(model, nn.MSELoss(), optim.SGD(model.parameters(), learning_rate=0.5))
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> for _ in range(100):
    ...     loss = step(x, 3 * x + 1)
    >>> print(f"{model.weight.item():.2f} {model.bias.item():.2f} {loss:.4f}")
    3.00 1.00 0.0000
    """
    return Step(model, loss, optimizer, backend)


class Step:
    """What `compile_step` returns."""

    def __init__(
        self, model: Any, loss: Callable[[Any, Any], Any], optimizer: Optimizer, backend: str = "numpy"
    ) -> None:
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.backend = backend_of(backend)
        self.plans: list[_Plan] = []

    def __call__(self, *batch: Any) -> float:
        """Train on one batch; returns the loss before the update."""
        plans = self.plans
        if plans and plans[0].check(*batch):  # the usual case: the same kind of batch as last time
            return plans[0].run(batch)
        batch = tuple(
            a if type(a) is np.ndarray else a.value if isinstance(a, Tensor) else np.asarray(a) for a in batch
        )
        for i, plan in enumerate(plans):
            if plan.check(*batch) or plan.accepts(batch):
                plans.insert(0, plans.pop(i))
                return plan.run(batch)
        plan = _Plan(self.model, self.loss, self.optimizer, batch, self.backend)
        self.plans = [plan, *self.plans[:15]]
        return plan.run(batch)

    @property
    def source(self) -> str:
        """The program used last, as Python. Raises RuntimeError before the first step."""
        if not self.plans:
            raise RuntimeError("compile_step: no step has been made yet, so there is no program")
        return self.plans[0].emitted.source

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the program used last as a Python file that needs NumPy alone, with parameters and states as they are.

        In that file `functions[0](input, target)` makes a step and returns ((loss,), new values of buffers). Numbers
        that change from step to step (a schedule's learning rate, Adam's corrections) stay what they are now.
        """
        if not self.plans:
            raise RuntimeError("compile_step: no step has been made yet, so there is no program")
        plan = self.plans[0]
        usage = "`functions[0](input, target)` makes one training step: ((loss,), (new values of buffers))."
        return save_program(plan.emitted, path, plan.arrays, plan.places, "One training step.", usage)

    def report(self, *batch: Any) -> Report:
        """Calls, buffers, multiply-adds, and the measured time of each line, for a batch; nothing is updated."""
        self_plan = next((plan for plan in self.plans if plan.accepts(batch)), None)
        if self_plan is None:
            raise RuntimeError("compile_step: report is for a batch of a kind that was trained on; make a step first")
        return self_plan.report(batch)


class _Plan:
    """The program for batches of one kind."""

    def __init__(
        self,
        model: Any,
        loss: Callable[..., Any],
        optimizer: Optimizer,
        batch: tuple[Any, ...],
        backend: Backend = NUMPY,
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
        trace = Trace(function, self.captured, batch, lambda tensors: (tuple(tensors), {}), names, True)
        self.buffers = trace.buffers
        trace.let_go()
        program = trace.program
        if len(program.outputs) != 1 or program.outputs[0].size != 1 or not trace.differentiable[0]:
            raise TypeError("compile_step: the loss must be one number that depends on parameters, such as a mean")
        short = self._prescaled(program, laid_out) if backend is NUMPY else None
        seed = Value(np.ones(program.outputs[0].shape, program.outputs[0].dtype), "constant")
        if short is not None and short.factor is not None:
            seed.example *= short.factor
        self.rate: Any = None
        if short is not None and short.factor is None:
            self.rate = np.full_like(seed.example, optimizer._looked_at(optimizer.groups[0]).learning_rate)
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
        self.updates: list[_Update] = []
        given: dict[int, str] = {}
        arrays: list[Any] = []
        flats_used: list[tuple[Flat, Any, set[int]]] = []
        for group, flats in zip(optimizer.groups, laid_out, strict=True):
            for flat in flats:
                active = [i for i, p in enumerate(flat.parameters) if id(p) in gradients and p.requires_grad]
                if not active:
                    continue
                store = np.zeros_like(flat.values)
                flats_used.append((flat, store, set(active)))
                for i in active:
                    p = flat.parameters[i]
                    value = self._pinned(program, gradients[id(p)], given)
                    given[id(value)] = (
                        f"gradient_of_{self.captured.names.get(id(p), str(len(arrays))).replace('.', '_')}"
                    )
                    arrays.append(flat.view(store, i))
                for count in sorted({flat.steps[i] for i in active}):  # one step number for all members
                    members = [i for i in active if flat.steps[i] == count]
                    update = _Update(optimizer, group, flat, members, store, len(self.updates), short, self.rate)
                    self.updates.append(update)
        program.gradients = []
        loss_value = program.outputs[0]
        if loss_value.kind == "result" and id(loss_value) not in given:
            given[id(loss_value)] = "loss"
            arrays.append(np.empty(loss_value.shape, loss_value.dtype))
        added: list[Any] = []
        first: dict[str, Any] = {}
        if backend is NUMPY:
            scale_losses(program, {id(seed), *(id(op.result) for op in _steady_first(program, seed))})
            first["first"] = self._placed(_steady_first(program, seed), given, arrays)
            fold_biases(program, self._pairs(flats_used), given, arrays)
            for update in self.updates:
                added.extend(update.insertions(program))
        else:
            added.extend(update.fused() for update in self.updates)
        self.emitted: Any = backend.emit(
            program, given, "one training step", self.captured.path_of(), added, joint=True, **first
        )
        self.arrays = [leaf.value for leaf in self.leaves if leaf is not None]
        self.places = arrays
        made = self.emitted.make(self.arrays, arrays)
        self.refresh: Any = None
        self.function: Any = made
        if backend is NUMPY:
            self.function, self.refresh = made
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
            return short if alone and _divides(known[0].learning_rate) else None
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
        return report(self.emitted, lambda made: made[0](*batch), [*self.arrays, *self.places])

    def run(self, batch: tuple[Any, ...]) -> float:
        """Make the step."""
        for update in self.updates:
            if update.prepare() and update.is_descent:
                self.refresh()
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


def _divides(rate: float) -> bool:
    """Whether a learning rate is far enough from 0 for what a program divides by it."""
    return rate > 1e-20


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


class _Update:
    """The update of the parameters in one flat buffer."""

    def __init__(
        self,
        optimizer: Optimizer,
        group: dict[str, Any],
        flat: Flat,
        active: list[int],
        store: Any,
        number: int,
        short: Prescaled | None = None,
        rate: Any = None,
    ) -> None:
        self.optimizer, self.group, self.flat, self.active, self.store = optimizer, group, flat, active, store
        self.number = number
        self.members = [flat.parameters[i] for i in active]
        self.known = optimizer._looked_at(group)
        self.program: Formula = self.known.program
        self.short = short  # the formula for gradients that come multiplied by a number
        self.is_descent = rate is not None  # which is the learning rate
        self.scalars = [np.empty((), flat.dtype) for _ in range(self.program.numbers)] if rate is None else [rate]
        self.states = tuple(flat.states)
        self.last: Any = None
        head = self.program.source.partition("def update")[0]
        self.constant = len(re.findall(r"\bstep\b", head)) == 1  # the number of the step is a parameter, and not used

    def fits(self) -> bool:
        """Whether the formula, its options and the numbers of steps are what the program was written for."""
        flat, known = self.flat, self.known
        if known.scheduled or known.group != self.group:
            self.known = known = self.optimizer._looked_at(self.group)
        fits = known.program is self.program and tuple(flat.states) == self.states and self.in_step()
        return fits and (not self.is_descent or _divides(known.learning_rate))

    def in_step(self) -> bool:
        """Whether all members have the same number of steps behind them."""
        steps = self.flat.steps
        first = steps[self.active[0]]
        if len(self.active) == len(steps):
            return steps.count(first) == len(steps)
        return all(steps[i] == first for i in self.active)

    def guard(self, guards: Guards) -> None:
        """The same, as conditions that are checked with all others."""
        flat, known = self.flat, self.known
        if known.scheduled or tuple(flat.states) != self.states:
            guards.true(f"{guards.name(self)}.fits()")
            return
        guards.same(f"{guards.name(flat)}.steps", flat.steps)
        guards.true(f"{guards.name(known.group)} == {guards.name(self.group)}")
        if len(self.active) == len(flat.steps):
            steps = guards.name(flat.steps)
            guards.true(f"{steps}.count({steps}[{self.active[0]}]) == {len(flat.steps)}")
        else:
            guards.true(f"{guards.name(self)}.in_step()")

    def prepare(self) -> bool:
        """Work out the numbers of this step: the learning rate, corrections of moments. False where nothing changed."""
        known = self.known
        if known is self.last and self.constant:  # the same numbers as last time
            return False
        self.last = known
        numbers = self.program.scalars(known.learning_rate, self.flat.steps[self.active[0]] + 1, *known.numbers)
        for place, number in zip(self.scalars, numbers):  # noqa: B905 (made together)
            place[...] = number
        return True

    def done(self) -> None:
        """Count the step."""
        steps = self.flat.steps
        if len(self.active) == len(steps):
            steps[:] = [steps[0] + 1] * len(steps)
        else:
            for i in self.active:
                steps[i] += 1
            self.flat.forget_runs()  # of parameters that had the same number of steps behind them until now
        now = tick()
        for p in self.members:
            p.version = now

    def insertions(self, program: Program) -> list[Insertion]:
        """The statements that update each segment."""
        flat, after = self.flat, len(program.ops) - 1
        return [
            self._insertion(after, flat.starts[members[0]], flat.starts[members[-1] + 1], number)
            for number, members in enumerate(self._segments())
        ]

    def fused(self) -> Any:
        """The update as the loops of a compiled program."""
        from tinygrad_mm.compiler.loops import Update

        flat = self.flat
        pieces = [(flat.starts[members[0]], flat.starts[members[-1] + 1]) for members in self._segments()]
        gradients = [self.store[start:stop] for start, stop in pieces]
        return Update(self.program, [flat.values, *flat.states.values()], self.scalars, pieces, gradients)

    def _segments(self) -> list[list[int]]:
        """Neighbours among the active parameters, together."""
        segments: list[list[int]] = []
        for i in self.active:
            if segments and segments[-1][-1] == i - 1:
                segments[-1].append(i)
            else:
                segments.append([i])
        return segments

    def _insertion(self, after: int, start: int, stop: int, segment: int) -> Insertion:
        """The formula's statements, on the blocks of a piece of the flat buffer."""
        flat, program = self.flat, self.program
        text = program.source.split("def update(")[1]
        names = [n.strip() for n in text[: text.index(")")].split(",")]
        body = self.short.body if self.short else [line.strip() for line in text.splitlines()[1:]]
        constants = [np.asarray(c, flat.dtype) for c in (self.short or program).constants]
        longest = min(BLOCK, stop - start)
        temporaries = [np.empty(longest, flat.dtype) for _ in range(program.temporaries)]
        blocks = []
        for a in range(start, stop, BLOCK):
            b = min(a + BLOCK, stop)
            arrays = (flat.values[a:b], self.store[a:b], *(s[a:b] for s in flat.states.values()))
            blocks.append((*arrays, *(t[: b - a] for t in temporaries)))
        moving = [*names[: 2 + len(flat.states)], *(names[-program.temporaries :] if program.temporaries else [])]
        fixed = dict(
            zip(
                names[2 + len(flat.states) : len(names) - program.temporaries],
                [*self.scalars, *constants],
                strict=True,
            )
        )
        functions = {
            f: getattr(np, f) for line in body for f in re.findall(r"\b([a-z_0-9]+)\(", line) if hasattr(np, f)
        }
        tag = f"_{self.number}_{segment}" if self.number or segment else ""
        rename = {n: f"{n}_of_update{tag}" if n[0] in "tcs" and n[1:].isdigit() else f"{n}{tag}" for n in names}
        rename.update({f: f"np_{f}" for f in functions})
        lines = [re.sub(r"\b[A-Za-z_]\w*\b", lambda m: rename.get(m.group(), m.group()), line) for line in body]
        bound: dict[str, Any] = {rename[n]: v for n, v in fixed.items()}
        bound.update({rename[f]: v for f, v in functions.items()})
        if len(blocks) == 1:
            bound.update({rename[n]: v for n, v in zip(moving, blocks[0], strict=True)})
            return Insertion(after, ["# update", *lines], bound)
        bound[f"blocks{tag}"] = blocks
        loop = f"for {', '.join(rename[n] for n in moving)} in blocks{tag}:"
        return Insertion(after, ["# update", loop, *(f"    {line}" for line in lines)], bound)
