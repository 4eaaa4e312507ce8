"""Compiled training steps compared with eager ones, part by part; each begins from the eager state.

Gradients are not left behind by a compiled step. They are recovered from what the optimizer wrote: momentum's velocity
is m v + g + decay p, Adam's mean is b m + (1 - b) (g + decay p). The update is checked apart from them: what the step
wrote into parameters and second moments must be the paper's formula, worked out here in float64, of the first moments
that the step wrote itself. So noise in a gradient is not blown up by Adam's division.

When is a gradient right? A compiled program adds up in another order. By how much that may move a gradient depends on
what cancels in it, which a small change of the numbers shows: eager runs with inputs, parameters and buffers moved by
one unit in the last place give the spread that rounding makes. Within `SPREADS` of these and `ROUNDINGS` roundings of
the largest element, a gradient is right; most are without any spread, so that these runs are made only when they are
needed. Beyond, more such runs and a float64 twin decide: a value may lie at a kink, and the other side is as right.
No such run shows what is lost in the middle of a float64 network, such as all digits of 1 - sigmoid(35): training that
diverges is not for this test.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import threadpoolctl
from architectures import Architecture, Optimization

import tinygrad_mm as tg
from tinygrad_mm import nn, optim

SPREADS = 32
ROUNDINGS = 32
PERTURBED = 3  # runs that tell the spread
DECIDING = 16  # more of them, in doubt


class SinglePrecision(np.random.Generator):
    """A generator for the float64 twin: it draws what a float32 network draws."""

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return super().random(size, np.float32).astype(dtype)


@dataclass
class State:
    """What a forward pass depends on besides its batch."""

    parameters: list[np.ndarray]
    buffers: list[np.ndarray]
    generators: list[dict[str, Any]]


@dataclass
class Pass:
    """What a forward and backward pass leaves behind."""

    loss: np.ndarray
    gradients: list[np.ndarray | None]
    buffers: list[np.ndarray]
    generators: list[dict[str, Any]]


def state_of(model: nn.Module) -> State:
    return State(
        [p.data.copy() for p in model.parameters()],
        [b.data.copy() for _, b in model.named_buffers()],
        [g.bit_generator.state for _, g in model.named_generators()],
    )


def put(model: nn.Module, state: State) -> None:
    """Give a model this state, in place."""
    for p, array in zip(model.parameters(), state.parameters, strict=True):
        p.data[...] = array
    for (_, b), array in zip(model.named_buffers(), state.buffers, strict=True):
        b.data[...] = array
    for (_, g), drawn in zip(model.named_generators(), state.generators, strict=True):
        g.bit_generator.state = drawn


def passed(model: nn.Module, loss: Any, batch: Sequence[np.ndarray]) -> Pass:
    """A forward and backward pass of the eager engine."""
    model.zero_grad()
    value = loss(model(*batch[:-1]), batch[-1])
    value.backward()
    after = state_of(model)
    gradients = [None if p.grad is None else p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    return Pass(np.array(value.data), gradients, after.buffers, after.generators)


def moved(a: np.ndarray, rng: np.random.Generator, units: int) -> np.ndarray:
    """Each number moved by some units in the last place, or left."""
    if a.dtype.kind != "f":
        return a
    return (a * (1 + np.finfo(a.dtype).eps * rng.integers(-units, units + 1, a.shape))).astype(a.dtype)


class Yardstick:
    """The eager engine's answer to one batch, and how exact it is."""

    def __init__(self, architecture: Architecture, model: nn.Module, batch: tuple[np.ndarray, ...]) -> None:
        self.loss, self.batch, self.model = architecture.loss, batch, deepcopy(model)
        self.state = state_of(model)
        self.exact = passed(self.model, self.loss, batch)
        self.rng = np.random.default_rng(0)
        self.around: list[Pass] = []
        self.doubts = 0

    def _perturbed(self, units: int) -> Pass:
        moved_state = State(
            [moved(a, self.rng, units) for a in self.state.parameters],
            [moved(a, self.rng, units) for a in self.state.buffers],
            self.state.generators,
        )
        put(self.model, moved_state)
        return passed(self.model, self.loss, [*(moved(a, self.rng, units) for a in self.batch[:-1]), self.batch[-1]])

    def _doubt(self) -> None:
        """What the eager engine says to other numbers next to these: first a few runs, then more, and the twin."""
        self.doubts += 1
        if self.doubts == 1:
            self.around = [self._perturbed(1) for _ in range(PERTURBED)]
            return
        self.around += [self._perturbed(units) for units in (1, 2, 4, 8) for _ in range(DECIDING // 4)]
        put(self.model, self.state)
        if self.exact.loss.dtype == np.float32:
            twin = deepcopy(self.model).to(np.float64)
            for module in [module for _, module in twin.named_modules()]:
                for name, value in vars(module).items():
                    if isinstance(value, np.random.Generator):
                        setattr(module, name, SinglePrecision(value.bit_generator))
            batch = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in self.batch]
            self.around.append(passed(twin, self.loss, batch))

    def _excess(self, found: np.ndarray, exact: np.ndarray, around: list[np.ndarray], slack: Any) -> float:
        """By how much the largest error is larger than it may be: 1 and less is right."""
        if found.shape != exact.shape or found.dtype != exact.dtype:
            return np.inf
        finite = np.isfinite(exact)
        if not np.array_equal(finite, np.isfinite(found)) or not np.array_equal(
            found[~finite], exact[~finite], equal_nan=True
        ):
            return np.inf
        if not finite.any():
            return 0.0
        largest = float(np.max(np.abs(exact[finite])))
        with np.errstate(invalid="ignore"):
            spreads = [np.abs(a - exact)[finite] for a in around]
        spread = max((float(np.max(s[np.isfinite(s)], initial=0)) for s in spreads), default=0.0)
        rounding = float(np.finfo(exact.dtype).eps)
        allowed = SPREADS * spread + ROUNDINGS * rounding * largest + 64 * float(np.finfo(exact.dtype).tiny)
        errors = np.abs(found.astype(np.float64) - exact)
        return float(np.max((errors / (allowed + slack))[finite]))

    def differs(self, found: np.ndarray, what: str, index: int = 0, slack: Any = 0.0) -> float:
        """By how much something is off: 0 where it is right. `slack` is what was lost in recovering it."""

        def of(result: Pass) -> np.ndarray:
            value = getattr(result, what)
            return np.asarray(value if what == "loss" else value[index])

        while (excess := self._excess(found, of(self.exact), [of(near) for near in self.around], slack)) > 1:
            if self.doubts == 2:
                return excess
            self._doubt()
        return 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Optimizers, seen from outside
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Update:
    """One parameter before and after a step, and its optimizer's states, in float64."""

    options: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    dtype: Any

    def gradient(self) -> tuple[np.ndarray, np.ndarray]:
        """The gradient that the step must have had, and how much was lost in finding it."""
        o, old, new, eps = self.options, self.before, self.after, float(np.finfo(self.dtype).eps)
        p, decay = old["parameter"], o["weight_decay"]
        if "betas" in o:
            beta, decay = o["betas"][0], 0 if o["kind"] is optim.AdamW else decay
            total = (new["mean"] - beta * old["mean"]) / (1 - beta)
            lost = (np.abs(new["mean"]) + np.abs(beta * old["mean"])) / (1 - beta)
        elif o["momentum"]:
            total = new["velocity"] - o["momentum"] * old["velocity"]
            lost = np.abs(new["velocity"]) + np.abs(o["momentum"] * old["velocity"])
        else:
            total = (p - new["parameter"]) / o["learning_rate"]
            lost = (np.abs(p) + np.abs(new["parameter"])) / o["learning_rate"]
        return total - decay * p, 4 * eps * (lost + np.abs(total) + np.abs(decay * p))

    def mistakes(self) -> dict[str, float]:
        """What was not updated as the paper says, with the excess of the error over some units in the last place."""
        o, old, new, eps = self.options, self.before, self.after, float(np.finfo(self.dtype).eps)
        p, rate, decay = old["parameter"], o["learning_rate"], o["weight_decay"]
        gradient, lost = self.gradient()
        found = {}
        scale: Any = 0.0
        if "betas" in o:
            (beta1, beta2), t = o["betas"], new["step"]
            g = gradient + (0 if o["kind"] is optim.AdamW else decay) * p
            square = beta2 * old["mean_square"] + (1 - beta2) * g * g
            off = np.abs(new["mean_square"] - square)
            off = np.where(square > np.finfo(self.dtype).max / 4, 0.0, off)  # squares of 1e19 are infinite in float32
            found["mean_square"] = off / (4 * eps * square + (1 - beta2) * 2 * lost * (np.abs(g) + lost) + 1e-37)
            root = np.sqrt(new["mean_square"] / (1 - beta2**t))
            direction = new["mean"] / (1 - beta1**t) / (root + o["epsilon"])
            p = p * (1 - rate * decay) if o["kind"] is optim.AdamW else p
            scale = 8 * np.abs(direction)
        elif o["momentum"]:
            direction = new["velocity"]
            if o["nesterov"]:
                g = gradient + decay * p
                direction, scale = g + o["momentum"] * new["velocity"], lost / eps
        else:
            return found  # the gradient was found by this formula
        off = np.abs(new["parameter"] - (p - rate * direction))
        found["parameter"] = off / (4 * eps * (np.abs(p) + rate * (np.abs(direction) + scale)) + 1e-37)
        return {name: float(np.max(excess, initial=0)) for name, excess in found.items() if np.any(~(excess <= 1))}


def looked_at(parameter: Any, optimizer: Any) -> dict[str, Any]:
    """A parameter and its states, copied."""
    states = {name: np.array(value) for name, value in optimizer.state_of(parameter).items()}
    return {"parameter": parameter.data.copy(), **states}


def in_float64(looked: dict[str, Any]) -> dict[str, Any]:
    return {name: value.astype(np.float64) for name, value in looked.items()}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)


# ---------------------------------------------------------------------------------------------------------------------
# Steps
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def with_threads(count: int) -> Iterator[None]:
    """BLAS with this many threads; with more than one, steps too small for threads are shared out all the same."""
    from tinygrad_mm.compiler.threads import pool, shares

    with contextlib.ExitStack() as stack:
        stack.enter_context(threadpoolctl.threadpool_limits(count, user_api="blas"))
        if count > 1:
            stack.enter_context(mock.patch.object(pool, "threads", return_value=count))
            for name in ("ELEMENTS", "IN_A_CALL", "FOR_A_PARAMETER"):
                stack.enter_context(mock.patch.object(shares, name, 0))
        yield


def compare(architecture: Architecture, backend: str = "numpy", threads: int = 1, verify: bool = False) -> list[str]:
    """What differs between a compiled and an eager training of an architecture; nothing where they are the same.

    With `verify` the programs check themselves too, and what they warn of is among the findings: since a program that
    found itself wrong is not used, that is for finding false alarms.
    """
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"), with_threads(threads):
        warnings.simplefilter("always")
        found = _compare(architecture, backend, verify)
    return found + [f"warned: {w.message}" for w in caught if issubclass(w.category, tg.CompileWarning)]


def _compare(architecture: Architecture, backend: str, verify: bool) -> list[str]:
    eager, loss = deepcopy(architecture.model), architecture.loss
    compiled = deepcopy(architecture.model)
    theirs = [o.make(eager) for o in architecture.optimizations]
    ours = [o.make(compiled) for o in architecture.optimizations]
    steps = [tg.compile_step(compiled, loss, optimizer, backend=backend, verify=verify) for optimizer in ours]
    found: list[str] = []
    for turn, batch in enumerate(architecture.batches):
        which = turn % len(steps)
        state = state_of(eager)
        put(compiled, state)
        for one, other in zip(ours, theirs, strict=True):
            one.load_state_dict(other.state_dict())
        yardstick = Yardstick(architecture, eager, batch)
        if not all(np.isfinite(g).all() for g in yardstick.exact.gradients if g is not None):
            break
        own = {id(p) for p in ours[which].parameters}
        before = [looked_at(p, ours[which]) if id(p) in own else None for p in compiled.parameters()]
        value = steps[which](*batch)
        where = f"step {turn + 1}: "
        exact = yardstick.exact
        excess = yardstick.differs(np.asarray(value, exact.loss.dtype).reshape(()), "loss")
        if excess:
            found.append(f"{where}loss {value}, eager {exact.loss} ({excess:.1e})")
        after = state_of(compiled)
        for i, (path, _) in enumerate(compiled.named_buffers()):
            if excess := yardstick.differs(after.buffers[i], "buffers", i):
                found.append(f"{where}buffer {path} ({excess:.1e})")
        if repr(after.generators) != repr(exact.generators):
            found.append(f"{where}generators")
        for i, (path, p) in enumerate(compiled.named_parameters()):
            old, gradient = before[i], exact.gradients[i]
            if old is None:
                if not np.array_equal(after.parameters[i], state.parameters[i]):
                    found.append(f"{where}{path} is not the optimizer's, and was changed")
                continue
            new = looked_at(p, ours[which])
            if gradient is None:
                if not equal(old, new):
                    found.append(f"{where}{path} has no gradient, and was changed")
                continue
            if new["step"] != old["step"] + 1:
                found.append(f"{where}{path}: {new['step']} steps counted after {old['step']}")
                continue
            options = _options(architecture.optimizations[which], ours[which], p)
            update = Update(options, in_float64(old), in_float64(new), p.dtype)
            ours_gradient, lost = update.gradient()
            sizes = [np.max(np.abs(g), initial=0, where=np.isfinite(g)) for g in exact.gradients if g is not None]
            rounding = ROUNDINGS * float(np.finfo(p.dtype).eps) * max(sizes, default=0)
            if np.max(np.abs(gradient), initial=0) <= rounding:  # a sum that cancels: it may be a rounding of its terms
                lost = lost + rounding
            excess = yardstick.differs(ours_gradient.astype(p.dtype), "gradients", i, lost)
            if excess:
                at = np.unravel_index(int(np.argmax(np.abs(ours_gradient - gradient))), gradient.shape)
                numbers = f"{ours_gradient[at]:.6g} at {tuple(map(int, at))}, eager {gradient[at]:.6g}"
                found.append(f"{where}gradient of {path}: {numbers} ({excess:.1e})")
            for name, factor in update.mistakes().items():
                found.append(f"{where}{name} of {path} is not as the formula says ({factor:.1e})")
        optimizer = theirs[which]
        put(eager, State(state.parameters, exact.buffers, exact.generators))
        for p, gradient in zip(eager.parameters(), exact.gradients, strict=True):
            p.grad = gradient
        optimizer.step()
        eager.zero_grad()
        if ours[which].state_dict()["options"] != optimizer.state_dict()["options"]:
            found.append(f"{where}options of the optimizer")
        if found:
            break
    return found


def _options(optimization: Optimization, optimizer: Any, parameter: Any) -> dict[str, Any]:
    """The options that hold for a parameter."""
    group = next(g for g in optimizer.groups if any(p is parameter for p in g["parameters"]))
    return {**group, "kind": optimization.kind}
